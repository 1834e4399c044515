#!/bin/bash
# SPDX-License-Identifier: MIT
# Where blocks are kept: prefetch, pin, replicas, drain.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr setfattr
cluster_up 3
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done

_state() { getfattr --absolute-names --only-values -n user.kvfs.state "$1" 2>/dev/null; }
_holders() { # PATH: their names, sorted
	"$KVFS" locate --json "$1" | jq -r '.holders | sort | join(" ")'
}

locate_names_the_nodes_that_hold_a_block() {
	local verb rc
	put_published "$(kv 1)/n/where" 50000 1
	expect 'at first' "$(_holders "$(kv 3)/n/where")" node-1
	# What cleaners go by: not from 1970.
	expect 'recent' "$(find "$(kv 3)/n/where" -amin -60 -mmin -60 -printf %f)" where
	holds "$(kv 2)/n/where" 50000 1
	published "$(kv 2)/n/where"
	expect 'then' "$(_holders "$(kv 3)/n/where")" 'node-1 node-2'
	"$KVFS" locate "$(kv 1)/n/nothing" 2>"$T/err" && fail 'found nothing?'
	grep -q 'no node has it' "$T/err"
	for verb in info locate ls prefetch; do
		rc=0
		"$KVFS" $verb "$(kv 1)/none/nothing" 2>"$T/err" || rc=$?
		expect "$verb" "$rc $(cat "$T/err")" \
			"1 kvfs $verb: $(kv 1)/none/nothing: $ENOENT"
	done
}

a_namespace_is_the_same_on_all_nodes_whoever_changed_it() {
	mkdir "$(kv 1)/policy"
	wait_for '[ -d "$(kv 2)/policy" ]'
	chmod 710 "$(kv 1)/policy"
	setfattr -n user.kvfs.quota -v 30M "$(kv 1)/policy"
	# with the next heartbeat
	wait_for '[ "$(stat -c %a "$(kv 2)/policy")" = 710 ]'
	wait_for '[ "$(getfattr --absolute-names --only-values \
		-n user.kvfs.quota "$(kv 2)/policy")" = $((30 << 20)) ]'
	refused "$EACCES" as_nobody ls "$(kv 2)/policy/none"
}

_makes() { ! mkdir "$1" 2>/dev/null || say made; } # PATH
two_nodes_that_make_one_namespace_at_once_make_one() {
	local i made
	for i in {1..20}; do
		made=$({ _makes "$(kv 1)/once-$i" & _makes "$(kv 2)/once-$i"; wait; } | wc -l)
		expect "once-$i is made" "$made" 1
		rmdir "$(kv 1)/once-$i" || rmdir "$(kv 2)/once-$i"
	done
}

prefetch_brings_blocks_here() {
	local i
	mkdir "$(kv 1)/n/chain"
	for ((i = 0; i < 20; i++)); do
		put_tmp "$(kv 1)/n/chain/$i" 100000 $i
	done
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
	for ((i = 0; i < 20; i++)); do
		set -- "$@" "$(kv 2)/n/chain/$i"
	done
	"$KVFS" prefetch --quiet "$@"
	expect 'again' "$("$KVFS" prefetch "$@")" '0 here, 20 needed nothing'
	node_stop 1
	for ((i = 0; i < 20; i++)); do
		holds "$(kv 2)/n/chain/$i" 100000 $i
	done
	node_cont 1
}

a_pinned_block_stays_whatever_is_stored() {
	local i
	put_published "$(kv 1)/n/pinned" 100000 2
	expect 'said' "$("$KVFS" pin "$(kv 2)/n/pinned")" '1 pinned'
	for ((i = 0; i < 40; i++)); do
		put_tmp "$(kv 2)/n/fill-$i" 4000000 $i
	done
	expect 'state' "$(_state "$(kv 2)/n/pinned")" published
	expect 'said' "$("$KVFS" unpin "$(kv 2)/n/pinned")" '1 unpinned'
	for ((i = 0; i < 40; i++)); do
		put_tmp "$(kv 2)/n/more-$i" 4000000 $i
	done
	wait_for '[ "$(_state "$(kv 2)/n/pinned")" = remote ]'
	holds "$(kv 2)/n/pinned" 100000 2
	rm -f "$(kv 2)/n"/{fill,more}-*
}

replicate_has_other_nodes_take_a_copy() {
	put_published "$(kv 1)/n/replica" 300000 3
	"$KVFS" replicate -n 3 "$(kv 1)/n/replica" >/dev/null
	wait_for '[ "$(_holders "$(kv 1)/n/replica")" = "node-1 node-2 node-3" ]'
	expect 'again' "$("$KVFS" replicate -n 3 "$(kv 2)/n/replica")" \
		'0 replicated, 1 needed nothing'
	node_stop 1
	holds "$(kv 2)/n/replica" 300000 3
	holds "$(kv 3)/n/replica" 300000 3
	node_cont 1
	all_know 3
}

more_replicas_than_nodes_are_refused() {
	put_published "$(kv 1)/n/toomany" 1000 4
	"$KVFS" replicate -n 4 "$(kv 1)/n/toomany" >"$T/out" 2>"$T/err" &&
		fail 'four replicas on three nodes?'
	grep -q 'not enough other nodes' "$T/err" || fail "$(cat "$T/err")"
}

a_namespace_with_replicas_copies_what_is_stored() {
	mkdir "$(kv 1)/two"
	setfattr -n user.kvfs.replicas -v 2 "$(kv 1)/two"
	put_tmp "$(kv 1)/two/a" 200000 5
	wait_for '[ "$(_holders "$(kv 1)/two/a" | wc -w)" = 2 ]'
	node_kill 1
	wait_for '[ -e "$(kv 3)/two/a" ] && [ -e "$(kv 2)/two/a" ]' 20
	holds_soon "$(kv 2)/two/a" 200000 5
	holds_soon "$(kv 3)/two/a" 200000 5
	node_mount 1
	all_know 3
}

checkpoints_are_prefetched_and_replicated_whole() {
	local one two three
	one=$(mnt 1)/ckpt two=$(mnt 2)/ckpt three=$(mnt 3)/ckpt
	mkdir "$one/c"
	setfattr -n user.kvfs.shard -v 1M "$one/c"
	put "$one/c/f" 10000000 1
	expect 'at first' "$(_state "$two/c/f")" remote
	expect 'said' "$("$KVFS" prefetch -r "$two/c")" '1 here'
	expect 'then' "$(_state "$two/c/f")" published
	expect 'shards' "$("$KVFS" info --json "$two/c/f" | jq -r .shards)" '10 of 10'
	expect 'again' "$("$KVFS" pin "$two/c/f")" '0 pinned, 1 needed nothing'
	expect 'said' "$("$KVFS" replicate -n 3 "$one/c/f")" '1 replicated'
	expect 'elsewhere' "$(_state "$three/c/f")" published
	wait_for '[ "$(_holders "$three/c/f")" = "node-1 node-2 node-3" ]'
	expect 'again' "$("$KVFS" replicate -n 3 "$one/c/f")" '0 replicated, 1 needed nothing'
	"$KVFS" replicate -n 4 "$one/c/f" >/dev/null 2>"$T/err" && fail 'on four nodes?'
	grep -q '^kvfs replicate: .*not enough other nodes' "$T/err" || fail "$(cat "$T/err")"
	rm -r "$one/c"
}

nodes_and_statistics_tell_of_each_peer() {
	local name
	put_published "$(kv 1)/n/told" 100000 9
	holds_soon "$(kv 2)/n/told" 100000 9
	wait_for '[ "$(jq -r ".nodes[] | select(.name == \"node-1\") | .rtt_us" <"$(mnt 2)/.kvfs/nodes")" -gt 0 ]'
	"$KVFS" nodes "$(mnt 2)" >"$T/out"
	grep -Eq '^node-1 +10\.77\.0\.11:[0-9]+ +tcp +connected +[0-9]+ us ' "$T/out" || fail "$(cat "$T/out")"
	grep -Eq '^node-2 .* self ' "$T/out" || fail "$(cat "$T/out")"
	grep -q $'\e' "$T/out" && fail 'colours in a file'
	expect 'its own blocks, now' "$("$KVFS" nodes --json "$(mnt 2)" | jq '.nodes[] | select(.self) | .blocks')" \
		"$(node_status 2 .pool.blocks)"
	grep -q '^kvfs_peer_up{node="node-1",uuid="[-0-9a-f]*"} 1$' "$(mnt 2)/.kvfs/stats" || fail 'not up?'
	for name in rtt_seconds rate_bytes_per_second calls_in_flight \
		queued_bytes sent_bytes_total received_bytes_total sent_slices_total \
		received_slices_total retried_slices_total failovers_total \
		latency_seconds_count; do
		expect "kvfs_peer_$name" "$(grep -c "^kvfs_peer_$name{" "$(mnt 2)/.kvfs/stats")" 2
	done
	[ "$(sed -n 's/^kvfs_peer_received_bytes_total{node="node-1",.*} //p' "$(mnt 2)/.kvfs/stats")" -ge 100000 ] ||
		fail 'nothing received?'
	[ "$(sed -n 's/^kvfs_device_received_slices_total{transport="tcp",device=""} //p' "$(mnt 2)/.kvfs/stats")" -ge 1 ] ||
		fail 'by no device?'
	wait_for '[ "$(sed -n "s/^kvfs_device_latency_seconds_bucket{transport=\"tcp\",device=\"\",le=\"+Inf\"} //p" "$(mnt 1)/.kvfs/stats")" -ge 1 ]'
	"$KVFS" nodes --json "$(mnt 1)" | jq -e '.devices[] | select(.transport == "tcp") | .sent_slices >= 1 and .latency_p99_us >= 100' >/dev/null ||
		fail 'no devices in nodes'
	for name in remote_mismatches_total remote_quarantined_bytes redis_conflicts_total redis_tombstones_total; do
		grep -q "^kvfs_$name " "$(mnt 2)/.kvfs/stats" || fail "no kvfs_$name"
	done
	"$KVFS" status "$(mnt 2)" | grep -q 'cluster   3 nodes; ' || fail 'status is silent'
}

_put_synced() { # PATH SIZE SEED: fsync, then rename
	"$HELPERS/pattern" write "$3" "$2" |
		dd of="$1.tmp" bs=1M conv=fsync status=none &&
		mv -T "$1.tmp" "$1"
}

a_synced_block_is_renamed_when_its_replicas_are_there() {
	local i
	mkdir "$(kv 1)/all"
	setfattr -n user.kvfs.replicas -v 3 "$(kv 1)/all"
	for ((i = 0; i < 5; i++)); do
		_put_synced "$(kv 1)/all/$i" 300000 $i
		expect 'holders' "$(_holders "$(kv 1)/all/$i")" \
			'node-1 node-2 node-3'
	done
}

_placed() { "$HELPERS/gds_frame" "$(kv 1)/placed" "$@"; }
what_was_written_in_place_is_on_its_replicas_when_commit_returns() {
	local k
	mkdir "$(kv 1)/placed"
	setfattr -n user.kvfs.replicas -v 3 "$(kv 1)/placed"
	expect 'stored' "$(seq 0 4 | _placed store 300000 -s)" '5 0'
	for k in 0 1 2 3 4; do
		expect 'holders' "$(_holders "$(kv 1)/placed/$k")" \
			'node-1 node-2 node-3'
	done
	node_stop 1
	for k in 0 1 2 3 4; do
		holds "$(kv 3)/placed/$k" 300000 $k
	done
	node_cont 1
	all_know 3
}

what_was_reserved_and_aborted_is_nowhere() {
	printf '%s\n' x y | _placed abort 300000
	expect 'node 2' "$("$HELPERS/ioctl" "$(kv 2)/placed" exists 0 x y)" \
		'0 3 1 1 100'
	wait_for '[ "$(node_status 1 .pool.writing_bytes)" = 0 ]'
}

a_synced_block_does_not_wait_longer_than_the_deadline() {
	node_stop 2
	node_stop 3
	_put_synced "$(kv 1)/all/late" 300000 9
	holds "$(kv 1)/all/late" 300000 9
	node_cont 2
	node_cont 3
	all_know 3
}

rm_removes_on_all_nodes() {
	local i
	mkdir "$(kv 1)/n/old"
	for ((i = 0; i < 10; i++)); do
		put_tmp "$(kv 1)/n/old/$i" 10000 $i
	done
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
	holds "$(kv 2)/n/old/3" 10000 3
	expect 'said' "$("$KVFS" rm -r "$(kv 1)/n/old")" '10 removed'
	wait_for 'is_gone "$(kv 2)/n/old/3"'
	wait_for 'is_gone "$(kv 3)/n/old/7"'
}

drain_gives_away_what_only_this_node_holds() {
	local i
	mkdir "$(kv 3)/n/last"
	for ((i = 0; i < 10; i++)); do
		put_tmp "$(kv 3)/n/last/$i" 100000 $i
	done
	wait_for '[ "$(node_status 3 .redis.dirty)" = 0 ]'
	"$KVFS" drain "$(mnt 3)"
	is_mounted "$(mnt 3)" && fail 'still mounted'
	for ((i = 0; i < 10; i++)); do
		holds_soon "$(kv 1)/n/last/$i" 100000 $i
	done
	node_mount 3
	all_know 3
}

a_drain_of_a_directory_drains_nothing() {
	local d
	for d in "$(kv 3)" "$(kv 3)/n" "$(mnt 3)/ckpt"; do
		"$KVFS" drain "$d" >"$T/out" 2>"$T/err" && fail "drained by $d"
		grep -q 'no kvfs is mounted there' "$T/err" || fail "$(cat "$T/err")"
	done
	is_mounted "$(mnt 3)" || fail 'it is gone'
	expect 'draining' "$(jq '[.nodes[] | select(.draining)] | length' <"$(mnt 3)/.kvfs/nodes")" 0
}

a_drain_gives_away_checkpoints_too() {
	local ckpt
	ckpt=$(mnt 3)/ckpt
	mkdir "$ckpt/last"
	setfattr -n user.kvfs.shard -v 1M "$ckpt/last"
	put "$ckpt/last/large" 20000000 1
	put "$ckpt/last/small" 5000 2
	: >"$ckpt/last/empty"
	put "$(mnt 1)/ckpt/last/elsewhere" 30000 3
	hand_start
	hand open 1 w "$ckpt/last/small"
	"$KVFS" drain "$(mnt 3)" >"$T/out" 2>"$T/err" && fail 'drained a file that is being written'
	grep -q 'small: it is being written' "$T/err" || fail "$(cat "$T/err")"
	hand close 1
	"$KVFS" drain "$(mnt 3)"
	is_mounted "$(mnt 3)" && fail 'still mounted'
	ckpt=$(mnt 1)/ckpt
	holds "$ckpt/last/large" 20000000 1
	holds "$ckpt/last/small" 5000 2
	expect 'size' "$(stat -c %s "$ckpt/last/empty")" 0
	holds "$ckpt/last/elsewhere" 30000 3
	node_mount 3
	all_know 3
	rm -r "$ckpt/last"
}

two_nodes_that_drain_at_once_lose_nothing() {
	local i
	mkdir "$(kv 2)/n/both"
	put_published "$(kv 2)/n/both/a" 100000 1
	put "$(mnt 2)/ckpt/both" 300000 2
	holds_soon "$(kv 3)/n/both/a" 100000 1
	holds "$(mnt 3)/ckpt/both" 300000 2
	published "$(kv 3)/n/both/a"
	for i in 2 3; do
		setfattr -n user.kvfs.drain -v on "$(kv $i)"
	done
	for i in 1 2 3; do
		wait_for '[ "$(jq "[.nodes[] | select(.draining)] | length" <"$(mnt $i)/.kvfs/nodes")" = 2 ]'
	done
	"$KVFS" drain "$(mnt 2)"
	"$KVFS" drain "$(mnt 3)"
	holds_soon "$(kv 1)/n/both/a" 100000 1
	holds "$(mnt 1)/ckpt/both" 300000 2
	node_mount 2
	node_mount 3
	all_know 3
	rm "$(mnt 1)/ckpt/both"
}

nobody_left_to_take_it_keeps_a_node_mounted() {
	put_published "$(kv 1)/n/alone" 100000 1
	put "$(mnt 1)/ckpt/alone" 100000 2
	"$KVFS" drain "$(mnt 2)"
	"$KVFS" drain "$(mnt 3)"
	"$KVFS" drain --json "$(mnt 1)" >"$T/out" 2>"$T/err" && fail 'given to whom?'
	grep -q 'files could not be given away; still mounted' "$T/err" || fail "$(cat "$T/err")"
	expect 'said' "$(jq -r 'select(.result == "failed") | .why' "$T/out" | sort -u)" 'not enough other nodes could take it'
	is_mounted "$(mnt 1)" || fail 'it is gone'
	setfattr -n user.kvfs.drain -v off "$(kv 1)"
	node_mount 2
	node_mount 3
	all_know 3
	rm "$(mnt 1)/ckpt/alone"
}

run_tests

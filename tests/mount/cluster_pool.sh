#!/bin/bash
# SPDX-License-Identifier: MIT
# Several nodes are one pool: what goes first, and what goes elsewhere.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr setfattr
MiB=1048576
POOL=64M cluster_up 3

_state() { getfattr --absolute-names --only-values -n user.kvfs.state "$1" 2>/dev/null; }
_here() { [ "$(_state "$1")" = published ]; }
_holders() { # PATH: their names, sorted
	"$KVFS" locate --json "$1" 2>/dev/null | jq -r '.holders | sort | join(" ")'
}
_is_held_by() { [[ " $(_holders "$1") " == *" node-$2 "* ]]; } # PATH I
_count() { node_status "$1" ".remote.$2"; }
_namespace() { # NAME: seen by all nodes
	local i
	mkdir "$(kv 1)/$1"
	for i in 2 3; do
		wait_for '[ -d "$(kv '$i')/'"$1"'" ]'
	done
}
_fill() { # I DIR FROM TO: blocks of 1 MiB, their numbers as seeds
	local k
	for ((k = $3; k <= $4; k++)); do
		put_tmp "$(kv "$1")/$2/$k" $MiB $k
	done
	wait_for '[ "$(node_status '"$1"' .redis.dirty)" = 0 ]'
}
_loads_are_known() { # I: nothing is offered to a node that told nothing yet
	jq -e 'all(.nodes[]; has("used_bytes"))' \
		<"$(mnt "$1")/.kvfs/nodes" >/dev/null
}
_store() { # I DIR FROM COUNT: the same by one process, b000FROM and so on
	blocks -s $MiB -f "$3" -n "$4" store "$(kv "$1")/$2"
	wait_for '[ "$(node_status '"$1"' .redis.dirty)" = 0 ]'
}
_clear() { # NAME HIGHEST | NAME BLOCK...: what is left of it, on all nodes
	local dir n
	dir=$(kv 1)/$1
	shift
	# shellcheck disable=SC2046 # numbers
	[ $# -gt 1 ] || set -- $(seq "$1")
	# A writer may be faster than offers are: such blocks are gone already.
	"$KVFS" rm "${@/#/$dir/}" >/dev/null 2>&1 || :
	for n in 1 2 3; do
		wait_for '[ "$(node_status '$n' .pool.blocks)" = 0 ]'
	done
}

a_block_that_another_node_holds_is_not_offered() {
	local k
	_namespace both
	_fill 1 both 1 58
	"$KVFS" prefetch --quiet "$(kv 2)"/both/*
	wait_for '[ "$(node_status 2 .redis.dirty)" = 0 ]'
	wait_for '_loads_are_known 1'
	_fill 1 both 59 70
	wait_for '[ "$(node_status 1 .pool.blocks)" -le 64 ]'
	expect 'offers' "$(_count 1 offers)" 0
	_clear both 70
}

a_copy_goes_before_what_was_stored_here() {
	local k
	_namespace own
	_namespace other
	_fill 2 other 1 12
	_fill 1 own 1 40
	"$KVFS" prefetch --quiet "$(kv 1)"/other/*
	_fill 1 own 41 60
	wait_for '[ "$(node_status 1 .pool.blocks)" -le 64 ]'
	for ((k = 1; k <= 60; k++)); do
		_here "$(kv 1)/own/$k" || fail "own/$k went"
	done
	"$KVFS" rm "$(kv 2)"/other/{1..12} >/dev/null
	_clear own 60
}

a_copy_that_is_read_often_stays() {
	local k
	_namespace hot
	_namespace far
	setfattr -n user.kvfs.hot -v 2/600 "$(kv 1)/far"
	_fill 2 far 1 12
	_fill 1 hot 1 40
	"$KVFS" prefetch --quiet "$(kv 1)"/far/{1..12}
	for k in 1 1 1 2; do
		holds "$(kv 1)/far/$k" $MiB $k
	done
	_fill 1 hot 41 64
	wait_for '[ "$(node_status 1 .pool.blocks)" -le 64 ]'
	_here "$(kv 1)/far/1" || fail 'read three times, and gone'
	"$KVFS" rm "$(kv 2)"/far/{1..12} >/dev/null
	_clear hot 64
}

# With nobody who takes what is offered: that would go before what others have.
a_hit_from_afar_keeps_a_block_at_its_owner() {
	_namespace touch
	_fill 2 touch 1 50
	holds "$(kv 3)/touch/1" $MiB 1
	node_stop 1
	node_stop 3
	_fill 2 touch 51 70
	wait_for '[ "$(node_status 2 .pool.blocks)" -le 64 ]'
	_here "$(kv 2)/touch/1" || fail 'the block that was read went'
	! _here "$(kv 2)/touch/2" || fail 'the oldest stayed'
	node_cont 1
	node_cont 3
	all_know 3
	_clear touch 70
}

# Were it still the oldest there, it might go because a copy is here, and the
# copy because it is there.
what_is_fetched_ahead_is_young_at_its_owner() {
	_namespace ahead
	_fill 2 ahead 1 50
	holds "$(kv 3)/ahead/1" $MiB 1
	holds "$(kv 3)/ahead/2" $MiB 2
	wait_for '_here "$(kv 3)/ahead/3"' # nobody opened it
	node_stop 1
	node_stop 3
	_fill 2 ahead 51 70
	wait_for '[ "$(node_status 2 .pool.blocks)" -le 64 ]'
	_here "$(kv 2)/ahead/3" || fail 'what was fetched ahead went'
	! _here "$(kv 2)/ahead/5" || fail 'the oldest stayed'
	node_cont 1
	node_cont 3
	all_know 3
	_clear ahead 70
}

a_last_copy_that_must_go_is_found_on_another_node() {
	local k n=60 taken
	_namespace last
	_fill 1 last 1 60
	taken=$(_count 1 offers_taken)
	while [ "$(_state "$(kv 1)/last/5")" = published ]; do
		_fill 1 last $((++n)) $n
		[ $n -lt 120 ] || fail 'nothing is evicted'
	done
	[ "$(_count 1 offers_taken)" -gt "$taken" ] || fail 'nothing was taken'
	expect 'state' "$(_state "$(kv 1)/last/5")" remote
	_is_held_by "$(kv 1)/last/5" 2 || _is_held_by "$(kv 1)/last/5" 3 ||
		fail "held by $(_holders "$(kv 1)/last/5")"
	for ((k = 1; k <= 5; k++)); do
		[ ! -e "$(kv 1)/last/$k" ] || holds "$(kv 3)/last/$k" $MiB $k
	done
	_clear last $n
}

# What came by an offer is the oldest there. What is stored there is pinned, or
# it would be offered, and go as soon as it is taken.
a_last_copy_is_moved_no_second_time() {
	local n=60 first=2 other=3
	_namespace once
	_fill 1 once 1 60
	while [ "$(_state "$(kv 1)/once/1")" = published ]; do
		_fill 1 once $((++n)) $n
		[ $n -lt 120 ] || fail 'nothing is evicted'
	done
	_is_held_by "$(kv 1)/once/1" $first || { first=3 other=2; }
	_here "$(kv $first)/once/1" || fail 'it was not moved'
	_store $first once 200 40
	"$KVFS" pin "$(kv $first)"/once/b000{200..239} >/dev/null
	_fill $first once 201 230
	wait_for '[ "$(node_status '$first' .pool.blocks)" -le 64 ]'
	! _here "$(kv $first)/once/1" || fail 'it did not go'
	[ ! -e "$(kv $other)/once/1" ] || fail 'it was moved on'
	"$KVFS" unpin "$(kv $first)"/once/b000{200..239} >/dev/null
	_clear once {1..230} b000{200..239}
}

_is_known_full() { # I OF: heard with how old its blocks are
	[ "$(jq '.nodes[] | select(.name == "node-'"$2"'") | .used_bytes' \
		<"$(mnt "$1")/.kvfs/nodes")" -ge $((63 * MiB)) ]
}
a_node_whose_blocks_are_younger_is_offered_nothing() {
	local i offers
	_namespace young
	_store 1 young 100 40
	for i in 2 3; do
		_store $i young ${i}00 63
		"$KVFS" pin "$(kv $i)"/young/b000${i}?? >/dev/null # or it offers
	done
	wait_for '_is_known_full 1 2 && _is_known_full 1 3'
	offers=$(_count 1 offers)
	_store 1 young 140 35
	wait_for '[ "$(node_status 1 .pool.blocks)" -le 64 ]'
	expect 'offers' "$(_count 1 offers)" "$offers"
	for i in 2 3; do
		"$KVFS" unpin "$(kv $i)"/young/b000${i}?? >/dev/null
	done
	_clear young b000{100..362}
}

# The fault: node 1 does not go by what it heard of them. Whoever is asked does.
a_node_whose_blocks_are_younger_takes_nothing() {
	local i
	_namespace younger
	_store 1 younger 100 60
	node_kill 1
	KVFS_FAULT=remote.offer:1+ node_mount 1
	all_know 3
	for i in 2 3; do
		_store $i younger ${i}00 63
	done
	wait_for '_is_known_full 1 2 && _is_known_full 1 3'
	_store 1 younger 160 20
	wait_for '[ "$(_count 1 offers_refused)" -gt 0 ]'
	# None, where no keeper has made more room than it had to. If it did
	# not look, it would be all of them.
	[ "$(_count 1 offers_taken)" -le 4 ] || fail "$(_count 1 offers_taken) taken"
	node_kill 1
	node_mount 1
	all_know 3
	_clear younger b000{100..362}
}

_lost() { # NAME HIGHEST: how many no node has
	local dir k n=0
	dir=$(kv 3)/$1
	for ((k = 1; k <= $2; k++)); do
		[ -e "$dir/$k" ] || n=$((n + 1))
	done
	say $n
}
_answered() { say $(($(_count 1 offers_taken) + $(_count 1 offers_refused))); }

what_a_slow_link_carries_is_taken_while_nothing_else_waits_for_it() {
	local k
	_namespace slow
	_fill 1 slow 1 60
	wait_for '_loads_are_known 1'
	# More than is saved up for a burst, and no twentieth of this link.
	on 1 tc qdisc replace dev eth0 root tbf rate 100mbit burst 512k latency 50ms
	for ((k = 61; k <= 112; k++)); do
		put_tmp "$(kv 1)/slow/$k" $MiB $k
		wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
		wait_for '[ "$(_answered)" = "$(_count 1 offers)" ]'
	done
	on 1 tc qdisc del dev eth0 root
	# None, on a machine that is not busy. Without offers it would be 48.
	wait_for '[ "$(_lost slow 112)" -le 24 ]'
	_clear slow 112
}

a_replay_over_all_nodes_hits_what_any_of_them_stored() {
	local i
	# 20 chains of five, each asked for once on each node.
	for ((i = 0; i < 60; i++)); do
		printf '{"timestamp": %d, "input_length": 2560, "output_length": 5, "hash_ids": [%s]}\n' \
			$((i * 10)) "$(seq -s ', ' $((i % 20 * 10)) $((i % 20 * 10 + 4)))"
	done >"$T/trace.jsonl"
	timeout 100 "$KVFS" replay --json "$T/trace.jsonl" \
		"$(mnt 1)" "$(mnt 2)" "$(mnt 3)" >"$T/result" ||
		fail "exit code $?"
	expect 'nodes' "$(jq .nodes "$T/result")" 3
	expect 'references' "$(jq .block_refs "$T/result")" 300
	expect 'wrong bytes' "$(jq .verify_errors "$T/result")" 0
	# Of three that are no pool each would hit nothing.
	jq -e '.of_one_node > 0.5' "$T/result" >/dev/null || fail "$(cat "$T/result")"
}

_bytes() { getfattr --absolute-names --only-values -n user.kvfs.bytes "$(kv "$1")/$2"; }
_policy() { # I NAMESPACE ATTRIBUTE
	getfattr --absolute-names --only-values -n "user.kvfs.$3" "$(kv "$1")/$2"
}

a_policy_is_seen_on_all_nodes() {
	_namespace policy
	setfattr -n user.kvfs.quota -v 3M "$(kv 1)/policy"
	setfattr -n user.kvfs.replicas -v 2 "$(kv 2)/policy"
	setfattr -n user.kvfs.hot -v 2/30 "$(kv 3)/policy"
	local i
	for i in 1 2 3; do
		wait_for '[ "$(_policy '$i' policy quota)" = 3145728 ]'
		wait_for '[ "$(_policy '$i' policy replicas)" = 2 ]'
		wait_for '[ "$(_policy '$i' policy hot)" = 2/30 ]'
	done
}

_touch_2() { "$HELPERS/ioctl" "$(kv 2)/touched" touch "$@"; }
a_copy_that_is_touched_outlives_those_that_are_not() {
	local k
	_namespace touched
	_fill 1 touched 100 100 # nothing comes before it: it is not fetched ahead
	_fill 1 touched 1 20
	"$KVFS" prefetch --quiet "$(kv 2)"/touched/{1..20}
	wait_for '[ "$(node_status 2 .redis.dirty)" = 0 ]'
	expect 'elsewhere' "$(_touch_2 100)" '0 1 0 0 0'
	for ((k = 31; k < 100; k++)); do # until the first copies go
		expect 'touched' "$(_touch_2 1)" '0 1 1 1 1'
		put_tmp "$(kv 2)/touched/$k" $MiB $k
		_is_held_by "$(kv 3)/touched/2" 2 || break
	done
	[ $k -lt 100 ] || fail 'no copy went'
	expect 'here still' "$(_touch_2 1)" '0 1 1 1 1'
	_clear touched 100
}

a_quota_holds_over_all_nodes() {
	local i k
	_namespace quota
	setfattr -n user.kvfs.quota -v 16M "$(kv 1)/quota"
	for i in 2 3; do
		wait_for '[ "$(_policy '$i' quota quota)" = 16777216 ]'
	done
	for i in 1 2; do
		for ((k = 1; k <= 14; k++)); do
			put_tmp "$(kv $i)/quota/$i-$k" $MiB $k
		done
	done
	wait_for '[ $(($(_bytes 1 quota) + $(_bytes 2 quota))) -le 16777216 ]' 15
	# Each gave up its share, and kept its newest.
	for i in 1 2; do
		[ "$(_bytes $i quota)" -ge $((4 * MiB)) ] ||
			fail "node $i has only $(_bytes $i quota)"
		holds "$(kv $i)/quota/$i-14" $MiB 14
	done
	wait_for '[ "$(_policy 3 quota usage)" -gt 8388608 ]'
	expect 'size' "$(stat -f -c %b "$(kv 1)/quota")" $((16 * MiB / 4096))
	# One that comes to a full namespace gets its part, too.
	for ((k = 1; k <= 12; k++)); do
		put_tmp "$(kv 3)/quota/3-$k" $MiB $k
	done
	wait_for '[ $(_bytes 3 quota) -ge 1048576 ] && [ $(($(_bytes 1 quota) +
		$(_bytes 2 quota) + $(_bytes 3 quota))) -le 16777216 ]' 15
}

stopped_peers_do_not_stall_a_writer() {
	local k
	_namespace stall
	_fill 1 stall 1 60
	node_stop 2
	node_stop 3
	# A second each would be far too long.
	HELPERS=$HELPERS timeout 60 bash -c '
		for ((k = 61; k <= 160; k++)); do
			"$HELPERS/pattern" write $k '$MiB' >"$1/$k.tmp" &&
				mv "$1/$k.tmp" "$1/$k" || exit
		done' - "$(kv 1)/stall" || fail 'the writer did not come through'
	for ((k = 130; k <= 160; k++)); do
		holds "$(kv 1)/stall/$k" $MiB $k
	done
	node_cont 2
	node_cont 3
	all_know 3
}

run_tests

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
	put_published "$(kv 1)/n/where" 50000 1
	expect 'at first' "$(_holders "$(kv 3)/n/where")" node-1
	holds "$(kv 2)/n/where" 50000 1
	published "$(kv 2)/n/where"
	expect 'then' "$(_holders "$(kv 3)/n/where")" 'node-1 node-2'
	"$KVFS" locate "$(kv 1)/n/nothing" 2>"$T/err" && fail 'found nothing?'
	grep -q 'no node has it' "$T/err"
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
}

replicate_has_other_nodes_take_a_copy() {
	put_published "$(kv 1)/n/replica" 300000 3
	"$KVFS" replicate -n 3 "$(kv 1)/n/replica" >/dev/null
	wait_for '[ "$(_holders "$(kv 1)/n/replica")" = "node-1 node-2 node-3" ]'
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

run_tests

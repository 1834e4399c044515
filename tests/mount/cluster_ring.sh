#!/bin/bash
# SPDX-License-Identifier: MIT
# Rings whose calls wait for another node.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
POOL=256M cluster_up 2
mkdir "$(kv 1)/n"
wait_for '[ -d "$(kv 2)/n" ]'
put_tmp "$(kv 2)/n/here" 100 0

HELD_MAX=$((64 << 20)) # without that bound 96 MiB were held: RINGS_HELD_MAX of fs/ring.h

_ring() { "$HELPERS/gds_ring" "$(kv 2)/n" "$@"; }
_store() { # PREFIX of the names, on node 1
	local i
	for ((i = 0; i < 64; i++)); do
		put_published "$(kv 1)/n/$1$i" 5000 $i
		echo "$1$i"
	done >"$T/names"
}
_works() {
	node_cont 1
	all_know 2
	wait_for '[ "$(_ring fetch 64 <"$T/names")" = "64 0" ]' 20
	wait_for '[ "$(node_stat 2 rings)" = 0 ]'
	expect 'held' "$(node_stat 2 ring_held_bytes)" 0
}
# A client that is gone, whose ring waits for what node 1 does not send.
_closed_while_it_fetches() { # PREFIX
	local client
	_store "$1"
	node_stop 1
	"$HELPERS/gds_ring" "$(kv 2)/n" fetch 64 <"$T/names" >"$T/out" 2>&1 &
	client=$!
	wait_for '[ "$(node_stat 2 ring_held_bytes)" -gt 0 ] &&
		[ "$(node_status 2 .remote.n_fetching)" -gt 0 ]'
	kill -9 $client
	wait $client || :
	expect 'it waits' "$(node_stat 2 rings)" 1
}
_ended_well() { # PID of node 2
	wait_for "gone $1" 30
	! grep -qi 'sanitizer\|assert' "$KVFS_CLUSTER/node-2/state/kvfs.log" ||
		fail 'it did not end well'
	node_cont 1
	node_mount 2
	all_know 2
}

what_waits_in_all_rings_is_bounded_and_another_ring_still_works() {
	local clients=() held
	_store a
	node_stop 1
	for _ in 1 2 3; do
		_ring fetch 64 large <"$T/names" >"$T/out" 2>&1 &
		clients+=($!)
	done
	wait_for '[ "$(node_stat 2 ring_held_bytes)" -gt $((HELD_MAX - (1 << 20))) ]'
	expect 'here' "$(echo here | _ring exists 1)" '1 0'
	held=$(node_stat 2 ring_held_bytes)
	# Each ring may have a call, whatever the others hold.
	[ "$held" -le $((HELD_MAX + (2 << 20))) ] || fail "$held bytes are held"
	node_cont 1
	wait "${clients[@]}" || :
	_works
}

a_ring_that_waits_is_gone_when_its_node_leaves() {
	local pid
	_closed_while_it_fetches b
	pid=$(node_pid 2)
	kill -TERM "$pid"
	_ended_well "$pid"
	_works
}

a_ring_that_waits_is_gone_when_its_mount_is_aborted() {
	local pid
	_closed_while_it_fetches c
	pid=$(node_pid 2)
	_abort_connections "$(mnt 2)"
	_ended_well "$pid"
	_works
}

run_tests

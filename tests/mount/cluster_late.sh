#!/bin/bash
# SPDX-License-Identifier: MIT
# A holder that was given up on, other bytes than those that were published, and
# who is kept out. That no late bytes land (over TCP the receive is cancelled
# first) is for tests/unit/test_engine_loop.c and test_tcp.c.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
DEADLINE=2 cluster_up 3 --rate 200mbit
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done

# The fault: what node 1 might write never leaves the quarantine, and there it is
# more than a twentieth of the pool.
what_one_node_left_in_quarantine_keeps_no_other_from_serving() {
	put_published "$(kv 1)/n/stuck" 16000000 4
	put_published "$(kv 3)/n/free" 10000 5
	node_kill 2
	KVFS_FAULT=remote.quarantine:1 node_mount 2
	node_stops_at 1 8
	wait_for '[ -e "$(kv 2)/n/stuck" ]'
	refused "$ENOENT" cat "$(kv 2)/n/stuck"
	node_is_stopped 1
	wait_for '[ "$(node_status 2 .remote.quarantined_bytes)" -ge 16000000 ]'
	holds_soon "$(kv 2)/n/free" 10000 5
	node_cont 1
	wait_for '[ "$(node_status 1 .remote.pinned_bytes)" = 0 ]' 20
	node_kill 2
	node_mount 2
	all_know 3
}

a_copy_that_is_damaged_is_never_shown() {
	local frame
	put_published "$(kv 1)/n/damaged" 1000000 2
	# Behind the daemon's back: the frame that holds it.
	frame=$(find "$KVFS_CLUSTER/node-1/state/pool/frames" -size 1954 |
		head -1)
	[ -n "$frame" ] || fail 'no frame of that size'
	printf 'other' | dd of="$frame" bs=1 seek=500000 conv=notrunc 2>/dev/null
	refused "$ENOENT" cat "$(kv 2)/n/damaged"
	[ "$(node_status 2 .remote.mismatches)" -ge 1 ] ||
		fail 'no mismatch was counted'
	grep -q 'from node-1: the bytes do not match' \
		"$(dirname "$(mnt 2)")/state/kvfs.log"
}

_problem() { # NODE OTHER
	jq -r ".nodes[] | select(.name == \"node-$2\").problem" <"$(mnt "$1")/.kvfs/nodes"
}

a_key_that_differs_keeps_a_node_out() {
	put_published "$(kv 1)/n/kept" 10000 3
	node_kill 3
	umount -l "$(mnt 3)"
	(umask 077 && printf '1 %064d\n' 7 >"$T/other-key")
	"$CLUSTER" mount 3 "cluster-key-file=$T/other-key"
	wait_for '_knows 3 3' 15
	refused "$ENOENT" cat "$(kv 3)/n/kept"
	expect 'fetches' "$(node_status 3 .remote.fetches)" 0
	expect 'node 1 as node 3 has it' "$(_problem 3 1)" 'another key'
	"$KVFS" nodes "$(mnt 3)" >"$T/nodes"
	grep -q '^node-1 .* another key' "$T/nodes" || fail 'not in the table'
	grep -q '^node-1: another key, .*cluster-key-file' "$T/nodes" ||
		fail 'nothing says what to do'
	on 3 "$KVFS" umount "$(mnt 3)"
	node_mount 3
	all_know 3
	holds_soon "$(kv 3)/n/kept" 10000 3
	expect 'node 1 as node 3 has it' "$(_problem 3 1)" null
}

# Neither may begin a connection to the other.
a_node_that_refuses_is_called_so_until_it_does_not() {
	local i
	put_published "$(kv 1)/n/behind" 10000 6
	for i in 1 3; do
		on $i iptables -A INPUT -p tcp --syn -j REJECT --reject-with tcp-reset
	done
	node_kill 3
	node_mount 3
	wait_for '_knows 3 3' 15
	refused "$ENOENT" cat "$(kv 3)/n/behind"
	expect 'node 1 as node 3 has it' "$(_problem 3 1)" refused
	node_heal 1
	node_heal 3
	holds_soon "$(kv 3)/n/behind" 10000 6
	expect 'node 1 as node 3 has it' "$(_problem 3 1)" null
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# A large block of another node: read while it comes, part by part.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
DEADLINE=10 cluster_up 3 --rate 80mbit
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done
BYTES=20000000

# Under way, and no more of it comes: opened once its first part is there, and
# the link needs two seconds for the rest.
_opened_and_stopped() { # READER OWNER NAME
	hand_start
	wait_for "[ -e '$(kv "$1")/n/$3' ]"
	hand open 1 r "$(kv "$1")/n/$3"
	node_stop "$2"
	trap "node_cont $2 2>/dev/null; hand_stop" EXIT
	! _fetched "$1" || fail 'it was whole before the owner could be stopped'
}
_fetched() { [ "$(node_status "$1" .remote.n_fetching)" = 0 ]; }

a_large_block_is_read_before_it_is_whole() {
	put_published "$(kv 1)/n/early" $BYTES 1
	_opened_and_stopped 2 1 early
	hand check 1 0 1 4000000
	expect 'fetches under way' "$(node_status 2 .remote.n_fetching)" 1
	node_cont 1
	hand check 1 4000000 1 $((BYTES - 4000000))
	wait_for '_fetched 2' 30
	# The handle outlives the fetch; so does a mapping made through it.
	hand map 1 r $BYTES
	hand mcheck 1 15000000 1 1000000
	holds "$(kv 2)/n/early" $BYTES 1
	hand unmap 1
	hand check 1 0 1 $BYTES
	hand close 1
	published "$(kv 2)/n/early"
	expect 'mismatches' "$(node_status 2 .remote.mismatches)" 0
	holds "$(kv 2)/n/early" $BYTES 1
}

another_holder_goes_on_where_one_died() {
	put_published "$(kv 1)/n/two" $BYTES 2
	holds_soon "$(kv 3)/n/two" $BYTES 2 30
	published "$(kv 3)/n/two"
	hand_start
	wait_for '[ -e "$(kv 2)/n/two" ]'
	hand open 1 r "$(kv 2)/n/two"
	node_kill 1
	hand check 1 0 2 $BYTES
	hand close 1
	wait_for '_fetched 2' 30
	node_mount 1
	all_know 3
}

# No mebibyte of it comes within the patience that is right for a fast link.
a_link_that_is_slower_than_was_thought_gets_the_time_it_needs() {
	put_published "$(kv 1)/n/slow" $BYTES 7
	on 1 tc qdisc replace dev eth0 root tbf rate 16mbit burst 512k \
		latency 400ms
	hand_start
	wait_for '[ -e "$(kv 2)/n/slow" ]'
	hand open 1 r "$(kv 2)/n/slow"
	on 1 tc qdisc replace dev eth0 root tbf rate 80mbit burst 512k \
		latency 50ms
	hand check 1 0 7 $BYTES
	hand close 1
}

with_no_holder_left_a_read_fails_and_is_not_short() {
	put_published "$(kv 1)/n/lost" $BYTES 3
	_opened_and_stopped 2 1 lost
	node_kill 1
	hand_refused EIO check 1 $((BYTES - 1000000)) 3 1000000
	hand check 1 0 3 4000000
	hand close 1
	refused "$ENOENT" cat "$(kv 2)/n/lost"
	node_mount 1
	all_know 3
}

a_holder_that_stays_busy_is_given_up() {
	put_published "$(kv 1)/n/busy" $BYTES 6
	node_kill 1
	KVFS_FAULT=remote.busy:1+ node_mount 1
	all_know 3
	wait_for '[ -e "$(kv 2)/n/busy" ]'
	refused "$ENOENT" timeout 60 cat "$(kv 2)/n/busy"
	node_kill 1
	node_mount 1
	all_know 3
	holds_soon "$(kv 2)/n/busy" $BYTES 6 30
}

what_is_removed_while_it_comes_is_read_to_its_end() {
	put_published "$(kv 1)/n/gone" $BYTES 4
	hand_start
	wait_for '[ -e "$(kv 2)/n/gone" ]'
	hand open 1 r "$(kv 2)/n/gone"
	hand unlink "$(kv 2)/n/gone"
	wait_for '_fetched 2' 30
	hand_try check 1 0 4 $BYTES >"$T/answer"
	hand close 1
	grep -Eq '^(ok|err EIO)' "$T/answer"
	refused "$ENOENT" cat "$(kv 2)/n/gone"
}

a_damaged_part_is_never_shown() {
	put_published "$(kv 1)/n/part" $BYTES 5
	on 3 "$KVFS" umount --discard "$(mnt 3)"
	KVFS_FAULT=remote.verify:3 node_mount 3
	all_know 3
	holds_soon "$(kv 3)/n/part" $BYTES 5 30
	expect 'mismatches' "$(node_status 3 .remote.mismatches)" 1
	grep -q 'n/part: from node-1: the bytes do not match' \
		"$(dirname "$(mnt 3)")/state/kvfs.log"
}

run_tests

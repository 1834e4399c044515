#!/bin/bash
# SPDX-License-Identifier: MIT
# Many nodes read one block at once: a few get it from its holder, the others
# from those.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
POOL=256M DEADLINE=60 cluster_up 6
mkdir "$(kv 1)/n"
for i in 2 3 4 5 6; do
	wait_for '[ -d "$(kv '$i')/n" ]'
done

READERS='2 3 4 5 6'

_of_readers() { # COUNTER: of all of them
	local i n=0
	for i in $READERS; do
		n=$((n + $(node_status "$i" ".remote.$1")))
	done
	echo $n
}
# Each link by itself, or the answer to the fifth were lost in that of the
# holder.
_links_to_readers() { # COMMAND ARGUMENTS...: of tc qdisc
	local i
	for i in $READERS; do
		on 0 tc qdisc "$1" dev "port$i" root "${@:2}"
	done
}

the_fifth_reader_gets_it_from_those_that_came_before() {
	local size=16777216 i pids=()
	put_published "$(kv 1)/n/new" $size 1
	# With little in the kernel's buffers, until all have asked.
	on 1 sh -c 'echo 4096 16384 65536 >/proc/sys/net/ipv4/tcp_wmem'
	_links_to_readers replace tbf rate 4mbit burst 64k latency 400ms
	for i in $READERS; do
		holds_soon "$(kv "$i")/n/new" $size 1 60 &
		pids+=($!)
	done
	wait_for '[ "$(_of_readers busy)" -ge 1 ]'
	_links_to_readers del
	for i in "${pids[@]}"; do
		wait "$i"
	done
	[ "$(_of_readers served)" -ge 1 ] || fail 'all got it from its holder'
}

run_tests

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

_count() { node_status "$1" ".remote.$2"; }

the_fifth_reader_gets_it_from_those_that_came_before() {
	local size=16777216 i pids=() served=0
	put_published "$(kv 1)/n/new" $size 1
	# Slow, and with little in the kernel's buffers, until all have asked.
	on 1 sh -c 'echo 4096 16384 65536 >/proc/sys/net/ipv4/tcp_wmem'
	on 1 tc qdisc replace dev eth0 root tbf rate 16mbit burst 64k latency 400ms
	for i in 2 3 4 5; do
		holds_soon "$(kv $i)/n/new" $size 1 60 &
		pids+=($!)
	done
	wait_for '[ "$(_count 1 n_serving)" = 4 ]'
	holds_soon "$(kv 6)/n/new" $size 1 60 &
	pids+=($!)
	wait_for '[ "$(_count 6 busy)" -ge 1 ]'
	on 1 tc qdisc del dev eth0 root
	for i in "${pids[@]}"; do
		wait "$i"
	done
	for i in 2 3 4 5; do
		served=$((served + $(_count $i served)))
	done
	[ $served -ge 1 ] || fail 'all got it from its holder'
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Nodes that die, stop, or are cut off in the middle of reads: no wrong byte,
# nothing waits past the deadline (the limit of each read here is far above it:
# it tells a hang from a wait), and what others hold goes on.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
DEADLINE=2 cluster_up 3
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done
N=60 BYTES=500000

_store() { # NAME: N blocks on node 1
	local i
	mkdir -p "$(kv 1)/n/$1"
	for ((i = 0; i < N; i++)); do
		put_tmp "$(kv 1)/n/$1/$i" $BYTES $i
	done
	published "$(kv 1)/n/$1/$((N - 1))"
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
}
# Each block is whole or not there; a read that does not end fails.
_read() { # NODE NAME FROM TO
	local i rc me=$BASHPID
	for ((i = $3; i < $4; i++)); do
		rc=0
		timeout 30 cat "$(kv "$1")/n/$2/$i" >"$T/got.$me" \
			2>"$T/err.$me" || rc=$?
		[ $rc != 124 ] || fail "the read of $2/$i hangs"
		if [ $rc = 0 ]; then
			holds "$T/got.$me" $BYTES "$i"
			say hit
		else
			grep -q "$ENOENT" "$T/err.$me" ||
				fail "$2/$i: $(cat "$T/err.$me")"
			say miss
		fi
	done
}
_while_reading() { # NAME COMMAND...: breaks node 1 in the middle of reads
	local name=$1 readers=() r
	shift
	for r in 0 1 2 3; do
		_read 2 "$name" $((r * N / 4)) $(((r + 1) * N / 4)) >"$T/reads.$r" &
		readers+=($!)
	done
	wait_for '[ "$(cat "$T"/reads.* | wc -l)" -ge 4 ]'
	"$@"
	for r in "${readers[@]}"; do
		wait "$r" || fail 'a reader failed'
	done
	expect 'answers' "$(cat "$T"/reads.? | wc -l)" "$N"
	rm -f "$T"/reads.?
}

a_killed_node_costs_misses_only() {
	_store kill
	_while_reading kill node_kill 1
	wait_for '[ "$(jq .live <"$(mnt 2)/.kvfs/nodes")" = 2 ]' 30
	wait_for '! ls "$(kv 3)/n/kill/59" 2>/dev/null' 10
	node_mount 1
	all_know 3
	holds "$(kv 3)/n/kill/59" $BYTES 59
}

a_stopped_node_costs_misses_only() {
	_store stop
	_while_reading stop node_stop 1
	node_cont 1
	all_know 3
	holds_soon "$(kv 3)/n/stop/1" $BYTES 1
}

a_node_that_is_cut_off_costs_misses_only() {
	_store cut
	_while_reading cut node_cut 1
	node_heal 1
	all_know 3
	holds_soon "$(kv 3)/n/cut/1" $BYTES 1 30
}

another_holder_serves_when_the_first_is_stopped() {
	local i
	_store other
	for ((i = 0; i < 10; i++)); do
		# its link to node 1 was cut a moment ago
		holds_soon "$(kv 2)/n/other/$i" $BYTES "$i"
	done
	published "$(kv 2)/n/other/9"
	node_stop 1
	for ((i = 0; i < 10; i++)); do
		holds "$(kv 3)/n/other/$i" $BYTES "$i"
	done
	node_cont 1
	all_know 3
}

lost_packets_cost_time_only() {
	local p
	_store lossy
	for p in 0.01 0.05; do
		on 1 iptables -A OUTPUT -m statistic --mode random \
			--probability $p -j DROP
		_read 2 lossy 0 20 >"$T/lossy"
		node_heal 1
	done
	all_know 3
}

without_redis_local_blocks_are_read() {
	put_published "$(kv 1)/n/local" $BYTES 1
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	holds "$(kv 1)/n/local" $BYTES 1
	timeout 30 cat "$(kv 2)/n/unknown" 2>/dev/null && fail 'what is this?'
	[ $? != 124 ] || fail 'the lookup hangs'
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	wait_for '[ "$(node_status 2 .redis.up)" = true ]' 20
	holds_soon "$(kv 2)/n/local" $BYTES 1 20
}

a_wiped_redis_is_filled_again() {
	put_published "$(kv 1)/n/wiped" $BYTES 2
	redis flushall >/dev/null
	holds_soon "$(kv 3)/n/wiped" $BYTES 2 60
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Clients on every node store, remove and read the same names while nodes, the
# network and Redis fail one after the other: nobody ever reads anything but
# what was stored, in ckpt/ never anything old, and when all is well again all
# nodes have the same (tests/helpers/storm.c has the rules).
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
DEADLINE=2 # shorter than what fails is away
POOL=16M cluster_up 3
mkdir "$(kv 1)/storm" "$(mnt 1)/ckpt/storm"
ROUNDS=$(rounds 1)

_redis_pid() { cat "$KVFS_CLUSTER/redis/pid"; }
_a_while() { sleep "$((RANDOM % 4)).$((RANDOM % 10))"; }

_node_killed() {
	node_kill "$1"
	_a_while
	node_mount "$1"
}
_node_stopped() {
	node_stop "$1"
	_a_while
	node_cont "$1"
}
_node_cut_off() {
	node_cut "$1"
	sleep "$DEADLINE" # so that somebody gives it up
	_a_while
	node_heal "$1"
}
_redis_killed() {
	kill -9 "$(_redis_pid)"
	_a_while
	"$CLUSTER" "$N_NODES" >/dev/null
}
_redis_stopped() {
	kill -STOP "$(_redis_pid)"
	_a_while
	kill -CONT "$(_redis_pid)"
}

_is_well() { [ "$(node_status "$1" '.redis | "\(.up) \(.dirty)"')" = 'true 0' ]; }

# One thing fails at a time: what was removed while it did is told first to who
# missed it, which takes the deadline, a heartbeat and an audit. It stands in the
# memory of who removed it and in Redis alone.
_until_well() {
	local i
	sleep 8
	for ((i = 1; i <= N_NODES; i++)); do
		wait_for "_is_well $i" 20
	done
}

_weather() {
	local round fault node
	for ((round = 0; round < ROUNDS; round++)); do
		for fault in $(shuf -e _node_killed _node_stopped _node_cut_off \
			_redis_killed _redis_stopped); do
			node=$((RANDOM % N_NODES + 1))
			say "$fault $node"
			$fault $node >&2
			say over
			_until_well >&2
		done
	done
	all_know "$N_NODES" >&2
}

killed_stopped_or_cut_off_it_shows_what_was_stored_and_nothing_else() {
	set -o pipefail
	_weather | "$HELPERS/storm" "$(mnt 1)" "$(mnt 2)" "$(mnt 3)"
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Locks of files in ckpt/ are one on all nodes; those in kv/ are each node's.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd flock
cluster_up 2

C1=$(mnt 1)/ckpt C2=$(mnt 2)/ckpt
mkdir "$(kv 1)/n"

# Who waits for locks there.
_wait_waiting() { wait_for '[ "$(node_stat '"$1"' lock_waits)" = '"$2"' ]'; } # NODE N
_ask() { # COMMAND...: of a hand of its own; prints the last answer
	printf '%s\n' "$@" | "$HELPERS/hand" | tail -1
}
_takes() { flock -n "$@" true; }
# The end of a lock of another node's is told by the way.
_takes_soon() { wait_for "_takes $*"; }
_hand_has_it() {
	hand_start
	hand open 1 r "$C1/f"
	wait_for '[ "$(hand_try flock 1 w)" = ok ]'
}

an_exclusive_lock_is_seen_on_the_other_node() {
	put "$C1/f" 5000 1
	_hand_has_it
	! _takes "$C2/f" || fail 'two have it'
	! _takes -s "$C2/f" || fail 'a reader has it'
	! _takes "$C1/f" || fail 'two of one node have it'
	hand flock 1 r
	_takes_soon -s "$C2/f"
	! _takes "$C2/f" || fail 'a writer beside a reader'
	hand flock 1 u
	_takes_soon "$C2/f"
	holds "$C2/f" 5000 1
}

ranges_of_fcntl_are_seen_on_the_other_node() {
	put "$C1/ranges" 5000 1
	# A writer keeps its checksum from being taken: node 2 has it before.
	holds "$C2/ranges" 5000 1
	hand_start
	hand open 1 b "$C1/ranges"
	hand lock 1 w
	expect 'of node 2' "$(_ask "open 1 r $C2/ranges" 'lock 1 r')" 'err EAGAIN'
	expect 'of node 1' "$(_ask "open 1 r $C1/ranges" 'lock 1 r')" 'err EAGAIN'
	hand lock 1 r
	expect 'of node 2' "$(_ask "open 1 r $C2/ranges" 'lock 1 r')" ok
	wait_for '[ "$(hand_try lock 1 w)" = ok ]' # its end is told by the way
	hand close 1
	expect 'of node 2' "$(_ask "open 1 r $C2/ranges" 'lock 1 r')" ok
}

who_waits_gets_it_after_the_other() {
	local waiter
	_hand_has_it
	flock "$C2/f" true &
	waiter=$!
	_wait_waiting 2 1
	hand flock 1 u
	wait $waiter
	_wait_waiting 2 0
}

a_signal_ends_the_wait() {
	local signal waiter
	_hand_has_it
	for signal in TERM KILL; do
		flock "$C2/f" true &
		waiter=$!
		_wait_waiting 2 1
		kill -$signal $waiter
		wait $waiter 2>/dev/null || :
		_wait_waiting 2 0
	done
	! flock -w 0.2 "$C2/f" true || fail 'no alarm came'
	_wait_waiting 2 0
	hand flock 1 u
	_takes_soon "$C2/f"
}

a_killed_process_has_no_lock() {
	local waiter
	_hand_has_it
	hand open 2 bc "$C1/g"
	hand lock 2 w
	flock "$C2/f" true &
	waiter=$!
	_wait_waiting 2 1
	hand_stop
	wait $waiter
	wait_for '[ "$(_ask "open 1 r $C2/g" "lock 1 r")" = ok ]'
}

a_killed_node_has_no_lock() {
	local waiter
	_hand_has_it
	flock "$C2/f" true &
	waiter=$!
	_wait_waiting 2 1
	node_kill 1
	node_mount 1
	wait $waiter
	hand_stop
	all_know 2
	_takes_soon "$C1/f"
}

a_daemon_that_ends_leaves_nobody_waiting() {
	local waiter pid
	_hand_has_it
	flock "$C2/f" true 2>/dev/null &
	waiter=$!
	_wait_waiting 2 1
	pid=$(node_pid 2)
	kill -TERM "$pid"
	! wait $waiter || fail 'it has the lock'
	wait_for "gone $pid" 20
	node_mount 2
	all_know 2
}

a_crowd_that_waits_stops_nobody() {
	local i pids=()
	_hand_has_it
	for i in {1..24}; do
		flock "$C2/f" sh -c "echo $i >>'$T/crowd'" &
		pids+=($!)
	done
	_wait_waiting 2 24
	put "$C2/other" 5000 2
	holds "$C1/other" 5000 2
	put_tmp "$(kv 2)/n/block" 5000 3
	holds "$(kv 2)/n/block" 5000 3
	hand flock 1 u
	wait "${pids[@]}"
	expect 'had it' "$(sort -u "$T/crowd" | wc -l)" 24
	_wait_waiting 2 0
}

too_many_who_wait_on_one_cpu_are_refused_and_stop_nobody() {
	[ "$KVFS_RUNG" = uring ] || skip 'there a request occupies nothing'
	requires_cmd taskset
	local i pids=()
	_hand_has_it
	for i in {1..40}; do
		taskset -c 0 flock "$C2/f" true 2>>"$T/refused" &
		pids+=($!)
	done
	_wait_waiting 2 32
	wait_for '[ "$(grep -c "No locks available" "$T/refused")" = 8 ]'
	taskset -c 0 cat "$C2/other" >/dev/null
	put_tmp "$(kv 2)/n/beside" 5000 3
	taskset -c 0 cat "$(kv 2)/n/beside" >/dev/null
	hand flock 1 u
	wait "${pids[@]}" || :
	_wait_waiting 2 0
}

a_lock_is_free_when_its_file_was_closed() {
	local i
	_takes_soon "$C1/f"
	for i in {1..30}; do
		_takes "$C1/f"
	done
}

sqlite3_works_from_both_nodes() {
	requires_cmd sqlite3
	local i
	sqlite3 "$C1/db" 'create table t(a integer primary key, b text)'
	for i in {1..5}; do
		sqlite3 "$C1/db" "insert into t(b) values('one $i')"
		sqlite3 "$C2/db" "insert into t(b) values('two $i')"
	done
	expect 'rows' "$(sqlite3 "$C1/db" 'select count(*) from t')" 10
	expect 'check' "$(sqlite3 "$C2/db" 'pragma integrity_check')" ok
}

two_counters_lose_no_count() {
	local node
	echo 0 >"$C1/count"
	: >"$C1/count.lock"
	for node in 1 2 1 2; do
		(cd "$(mnt $node)/ckpt" && for _ in {1..10}; do
			flock count.lock sh -c 'n=$(cat count) &&
				echo $((n + 1)) >count.tmp &&
				mv count.tmp count' || exit 1
		done) &
	done
	wait -n && wait -n && wait -n && wait -n
	expect 'count' "$(cat "$C2/count")" 40
}

locks_in_kv_are_of_one_node() {
	local waiter
	put_published "$(kv 1)/n/locked" 5000 4
	holds_soon "$(kv 2)/n/locked" 5000 4
	hand_start
	hand open 1 r "$(kv 1)/n/locked"
	hand flock 1 w
	! _takes "$(kv 1)/n/locked" || fail 'two have it'
	_takes "$(kv 2)/n/locked"
	hand lock 1 r
	flock "$(kv 1)/n/locked" true &
	waiter=$!
	_wait_waiting 1 1
	hand close 1
	wait $waiter
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# kill -9 at random points under load: nothing half-written is ever visible,
# nothing committed is lost.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
requires_cmd getfattr
ROUNDS=$(rounds 5)
SIZE=300001
kvfs_mount
mkdir "$KV/k"

# Whatever was reported as stored is there, and all that is there is right.
_verify() { # FIRST COUNT FILE_OF_NUMBERS
	blocks -n "$2" -f "$1" -s $SIZE -p check "$KV/k" | sort -n >"$T/there"
	sort -n "$3" | comm -23 <(sort "$3") <(sort "$T/there") >"$T/lost"
	[ ! -s "$T/lost" ] || fail "lost: $(tr '\n' ' ' <"$T/lost")"
	expect 'temp files' "$(ls "$KV/k" | grep tmp || :)" ''
}

# close() returns before the commit: those that had come so far, of this round.
_note_committed() { # FIRST
	{ getfattr --absolute-names -n user.kvfs.state "$KV/k"/b* 2>/dev/null || :; } |
		awk -v first="$1" '
		/^# file:/ { n = $3; sub(/.*\/b0*/, "", n) }
		/^user/ && !/writing/ && n + 0 >= first { print n }' >"$T/surely"
}

_killed_under_load() { # PID_FUNCTION FIRST [FLAG [BEFORE]]
	local wanted=$((RANDOM % 35 + 1)) pid
	: >"$T/stored"
	"$HELPERS/blocks" -n 60 -f "$2" -s $SIZE -p ${3:+"$3"} store "$KV/k" \
		>"$T/stored" 2>/dev/null &
	pid=$!
	wait_for '[ "$(wc -l <"$T/stored")" -ge '$wanted' ]' 20
	${4:-:} "$2"
	kill -9 "$($1)"
	wait $pid || :
}

the_daemon_killed_at_random_loses_nothing_committed() {
	local round
	for ((round = 0; round < ROUNDS; round++)); do
		_killed_under_load kvfs_pid $((round * 100))
		wait_for '[ -z "$(kvfs_pid)" ]'
		kvfs_mount
		_verify $((round * 100)) 60 "$T/stored"
	done
}

the_same_for_blocks_created_under_their_name() {
	local round first
	rm -r "$KV/k" && mkdir "$KV/k"
	for ((round = 0; round < ROUNDS; round++)); do
		first=$((10000 + round * 100))
		_killed_under_load kvfs_pid $first -d _note_committed
		wait_for '[ -z "$(kvfs_pid)" ]'
		kvfs_mount
		_verify $first 60 "$T/surely"
	done
}

redis_killed_at_random_is_not_noticed_by_a_writer() {
	local round first
	rm -r "$KV/k" && mkdir "$KV/k"
	for ((round = 0; round < 3; round++)); do
		first=$((20000 + round * 100))
		wait_for '[ -n "$(redis_pid)" ]'
		_killed_under_load redis_pid $first
		expect 'stored' "$(wc -l <"$T/stored")" 60
		_verify $first 60 "$T/stored"
	done
	wait_for '[ -n "$(redis_pid)" ] && [ "$(status .redis.up)" = true ]' 20
}

both_killed_at_once_lose_nothing_committed() {
	_killed_under_load kvfs_pid 30000
	kill -9 "$(redis_pid)" 2>/dev/null || :
	wait_for '[ -z "$(kvfs_pid)" ]'
	kvfs_mount
	_verify 30000 60 "$T/stored"
	wait_for '[ "$(status .redis.dirty)" = 0 ]' 20
}

killed_under_eviction_it_shows_whole_blocks_only() {
	local round pid
	for ((round = 0; round < 3; round++)); do
		"$HELPERS/blocks" -n 2000 -f $((40000 + round * 2000)) \
			-s 1000000 -p store "$KV/k" >"$T/stored" 2>/dev/null &
		pid=$!
		wait_for '[ "$(wc -l <"$T/stored")" -ge '$((RANDOM % 150 + 100))' ]' 30
		kill -9 "$(kvfs_pid)"
		wait $pid || :
		wait_for '[ -z "$(kvfs_pid)" ]'
		kvfs_mount
		blocks -n 2000 -f $((40000 + round * 2000)) -s 1000000 check \
			"$KV/k" >/dev/null
	done
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Redis slow, stopped, killed or emptied while kvfs is in use.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
requires_cmd python3
redis_start r
SOCK=$T/r.sock
redis_opts="meta=unix://$SOCK,deadline=2"
kvfs_mount "$redis_opts"
mkdir "$KV/n"
blocks -n 50 -s 100000 store "$KV/n"
put "$CKPT/before" 100000 1

_records() { redis_records "$SOCK" n; } # names that Redis knows
_clean() { wait_for '[ "$(status .redis.dirty)" = 0 ]' "${1:-20}"; }
_stop() { kill -STOP "$(redis_pid "$SOCK")"; }
_cont() { kill -CONT "$(redis_pid "$SOCK")"; }

what_is_stored_is_published() {
	_clean
	wait_for '[ "$(_records)" -ge 50 ]'
}

a_paused_redis_stops_no_local_hit_and_no_store() {
	local i n=30 end
	_clean
	_stop
	trap '_cont; hand_stop' EXIT
	# A round in which anything waited for the deadline takes two seconds.
	end=$((SECONDS + 2 * n))
	for ((i = 0; i < n; i++)); do
		blocks -n 50 -s 100000 check "$KV/n" >/dev/null
		blocks -n 5 -f $((1000 + i * 5)) -s 100000 store "$KV/n"
		[ $SECONDS -lt $end ] || fail "$i rounds of 55 local calls"
	done
	_cont
	_clean
	wait_for '[ "$(_records)" -ge '$((50 + n * 5))' ]'
}

a_slow_redis_delays_checkpoints_and_fails_nothing() {
	_clean
	redis-cli -s "$SOCK" client pause 1000 all >/dev/null
	mkdir "$CKPT/slow"
	rmdir "$CKPT/slow"
}

a_miss_does_not_wait_for_a_paused_redis() {
	local i end=$((SECONDS + 100))
	_stop
	trap '_cont; hand_stop' EXIT
	# If each waited for the deadline, they would take 200 s.
	for i in {1..100}; do
		[ ! -e "$KV/n/miss$i" ]
		[ $SECONDS -lt $end ] || fail "$i misses took 100 s"
	done
}

ckpt_mutations_fail_in_bounded_time_while_it_is_paused() {
	_stop
	trap '_cont; hand_stop' EXIT
	hand_start
	hand_refused EIO mkdir "$CKPT/paused"
	hand_refused EIO open 1 wcx "$CKPT/paused-file"
	hand_refused EIO rename 0 "$CKPT/before" "$CKPT/after"
	hand_refused EIO unlink "$CKPT/before"
	_cont
	wait_for 'mkdir "$CKPT/healed" 2>/dev/null' 20
	holds "$CKPT/before" 100000 1
}

a_redis_that_was_killed_heals_when_it_is_back() {
	local log
	_clean
	log=$(grep -ci 'redis' "$S/kvfs.log" || :)
	kill -9 "$(redis_pid "$SOCK")"
	wait_for '[ -z "$(redis_pid "$SOCK")" ]'
	rm -f "$SOCK"
	wait_for '[ "$(status .redis.up)" = false ]' 15
	expect 'local hits' "$(blocks -n 50 -s 100000 check "$KV/n")" \
		'present 50 absent 0'
	hand_start
	hand_refused EIO mkdir "$CKPT/none1"
	hand_refused EIO mkdir "$CKPT/none2"
	hand_refused EIO unlink "$CKPT/before"
	blocks -n 50 -f 5000 -s 100000 store "$KV/n"
	wait_for '[ "$(status .redis.dirty)" -ge 50 ]' # once they have checksums
	log=$(($(grep -ci 'redis' "$S/kvfs.log") - log))
	[ "$log" -le 8 ] || fail "$log lines in the log for one outage"
	redis_start r
	wait_for '[ "$(status .redis.up)" = true ]' 20
	_clean 60
	# It came back empty: everything that the node holds is there again.
	wait_for '[ "$(_records)" -ge 100 ]' 60
	wait_for 'holds "$CKPT/before" 100000 1' 20
	wait_for 'mkdir "$CKPT/healed2" 2>/dev/null' 20
}

a_redis_that_was_emptied_is_filled_again() {
	_clean
	redis-cli -s "$SOCK" flushall >/dev/null
	wait_for '[ "$(_records)" -ge 100 ]' 60
	wait_for 'holds "$CKPT/before" 100000 1' 30
	wait_for 'rmdir "$CKPT/healed" 2>/dev/null' 30
	expect 'local' "$(blocks -n 50 -f 5000 -s 100000 check "$KV/n")" \
		'present 50 absent 0'
}

an_fsync_of_a_control_file_takes_no_other_s_away() {
	trap '_cont; hand_stop' EXIT
	hand_start
	hand open 1 r "$CTL/status"
	hand sync 1
	hand open 2 wc "$CKPT/synced"
	hand write 2 1 100
	hand sync 2
	hand write 2 1 200
	_stop
	hand_refused EIO sync 2
	_cont
	wait_for '[ "$(hand_try sync 2)" = ok ]' 20
	hand close 2
}

holes_are_told_after_a_control_file_was_asked() {
	cp --sparse=auto "$CTL/status" "$T/status"
	python3 -c 'import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try: os.lseek(fd, 0, os.SEEK_HOLE)
except OSError: pass' "$CTL/status"
	truncate -s 10M "$CKPT/holes"
	expect 'data' "$(python3 -c 'import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try: print(os.lseek(fd, 0, os.SEEK_DATA))
except OSError as e: print(e.strerror)' "$CKPT/holes")" 'No such device or address'
	rm "$CKPT/holes"
}

what_was_removed_while_it_was_away_stays_removed() {
	_clean
	_stop
	trap '_cont; hand_stop' EXIT
	rm "$KV/n/b005000" "$KV/n/b005001"
	_cont
	_clean
	refused "$ENOENT" cat "$KV/n/b005000"
	kvfs_crash
	kvfs_mount "$redis_opts"
	refused "$ENOENT" cat "$KV/n/b005000"
	refused "$ENOENT" stat "$KV/n/b005001"
	# In Redis a tombstone stands where the record was.
	wait_for '[ "$(status .redis.up)" = true ]' 20
	local key n=0
	for key in $(redis-cli -s "$SOCK" --scan --pattern 'kvfs:{n#*}:t'); do
		n=$((n + $(redis-cli -s "$SOCK" hlen "$key")))
	done
	[ "$n" -ge 2 ] || fail "$n tombstones"
}

_hold_files() { # NAME: 10, until they are to be written and closed
	local i fds=()
	for i in {0..9}; do exec {fds[i]}>"$CKPT/open/$1-$i"; done
	touch "$T/open-$1"
	wait_for '[ -e "$T/close" ]' 30
	for i in {0..9}; do echo late >&"${fds[i]}"; done 2>/dev/null
}

a_mount_ends_in_bounded_time_without_redis() {
	local i n=35
	mkdir "$CKPT/open"
	for ((i = 0; i < n; i++)); do _hold_files "$i" & done
	wait_for "[ \$(ls '$T' | grep -c open-) = $n ]" 30
	_stop
	trap '_cont; hand_stop' EXIT
	touch "$T/close"
	wait
	# Each of the files is still to be published: one deadline after the
	# other would be more than the minute that kvfs_umount has.
	kvfs_umount
	wait_for '[ -z "$(kvfs_pid)" ]' 30
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# From mount to unmount, by every way there is.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"

_all_gone() {
	wait_for '[ -z "$(kvfs_pid)$(redis_pid)" ]' 10
	is_mounted && fail "still mounted"
	return 0
}

the_tree_is_usable_when_mount_returns() {
	kvfs_mount
	is_mounted || fail "not in the mount table"
	expect 'the root' "$(ls -A "$M" | sort | tr '\n' ' ')" '.kvfs ckpt kv '
	mkdir "$KV/life"
	put_tmp "$KV/life/a" 1048576 1
	holds "$KV/life/a" 1048576 1
}

the_daemon_is_not_a_child_that_holds_the_terminal() {
	local pid
	pid=$(kvfs_pid)
	expect 'its stdin' "$(readlink "/proc/$pid/fd/0")" /dev/null
	expect 'its folder' "$(readlink "/proc/$pid/cwd")" /
}

the_state_directory_is_private() {
	expect 'mode' "$(stat -c %a "$S")" 700
	expect 'mode of the pool' "$(stat -c %a "$S/pool/")" 700
}

a_busy_mount_is_not_taken_away() {
	local rc=0
	exec 7<"$KV/life/a"
	kvfs_umount >"$T/out" 2>&1 || rc=$?
	[ $rc != 0 ] || fail "unmounted under an open file"
	grep -qi busy "$T/out" || fail "says: $(cat "$T/out")"
	"$HELPERS/pattern" check 1 1048576 <&7
	exec 7<&-
}

umount_ends_daemon_and_redis_and_keeps_the_blocks() {
	kvfs_umount
	_all_gone
	mountpoint -q "$S/pool" || fail "the pool went away"
	kvfs_mount
	holds "$KV/life/a" 1048576 1
}

plain_umount_ends_it_too() {
	umount "$M"
	_all_gone
	kvfs_mount
	holds "$KV/life/a" 1048576 1
}

sigterm_unmounts_cleanly() {
	kill -TERM "$(kvfs_pid)"
	_all_gone
	kvfs_mount
	holds "$KV/life/a" 1048576 1
}

a_stale_mount_is_replaced() {
	kvfs_crash
	is_mounted || fail "not stale: gone"
	refused 'not connected|connection abort|canceled' ls "$M"
	kvfs_mount
	expect 'mounts' "$(grep -cF " $M fuse" /proc/self/mounts)" 1
	holds "$KV/life/a" 1048576 1
}

status_says_that_a_daemon_is_gone() {
	local rc=0
	kvfs_crash
	"$KVFS" status "$M" >"$T/out" 2>&1 || rc=$?
	expect 'exit code' $rc 1
	grep -qi 'gone\|dead\|killed' "$T/out" || fail "it says $(cat "$T/out")"
	kvfs_mount
}

umount_takes_a_stale_mount_away() {
	kvfs_crash
	kvfs_umount
	wait_for '! is_mounted'
	wait_for '[ -z "$(redis_pid)" ]' 15 ||
		fail "its redis-server lives on"
}

a_new_daemon_takes_over_the_redis_of_a_killed_one() {
	kvfs_mount
	kvfs_crash
	kvfs_mount
	expect 'redis servers' "$(redis_pids "$S" | wc -l)" 1
	kvfs_umount
	_all_gone
}

umount_of_what_is_not_mounted_says_so() {
	refused "$M" kvfs_umount
	refused "/proc" timeout 20 "$KVFS" umount /proc
	[ -e /proc/self ] || fail "that took /proc away"
}

umount_discard_gives_the_memory_back_and_keeps_ckpt() {
	kvfs_mount
	holds "$KV/life/a" 1048576 1
	put "$M/ckpt/kept" 1048576 2
	kvfs_umount --discard
	_all_gone
	wait_for '! mountpoint -q "$S/pool"'
	kvfs_mount
	refused "$ENOENT" cat "$KV/life/a"
	holds "$M/ckpt/kept" 1048576 2
}

mounting_with_discard_starts_empty() {
	mkdir -p "$KV/life"
	put_tmp "$KV/life/b" 4096 2
	kvfs_umount
	kvfs_mount discard
	refused "$ENOENT" cat "$KV/life/b"
	holds "$M/ckpt/kept" 1048576 2
	kvfs_umount
	_all_gone
}

a_lazy_umount_lets_open_files_finish() {
	kvfs_mount
	mkdir -p "$KV/life"
	put_tmp "$KV/life/l" 1048576 4
	exec 7<"$KV/life/l"
	kvfs_umount --lazy
	is_mounted && fail 'still in sight'
	"$HELPERS/pattern" check 4 1048576 <&7
	exec 7<&-
	_all_gone
}

a_read_only_mount_changes_nothing() {
	kvfs_mount ro
	holds "$KV/life/l" 1048576 4
	refused "$EROFS" mkdir "$KV/x"
	refused "$EROFS" rm -f "$KV/life/l"
	refused "$EROFS" mkdir "$CKPT/x"
	refused "$EROFS" bash -c 'echo x >"$1"' - "$CKPT/x"
	kvfs_umount
}

options_of_the_kernel_are_passed_on() {
	kvfs_mount nosuid,nodev,noexec
	local o
	for o in nosuid nodev noexec; do
		grep -F " $M fuse" /proc/self/mounts | grep -qw $o ||
			fail "no $o in the mount table"
	done
	kvfs_umount
}

the_foreground_daemon_stays_and_ends_with_0() {
	local rc=0 job
	timeout 100 "$KVFS" mount "$M" -o "$(kvfs_options foreground)" \
		>"$T/fg" 2>&1 &
	job=$!
	wait_for 'is_mounted && [ -d "$KV" ]' 20
	kill -INT "$(kvfs_pid)"
	wait $job || rc=$?
	expect 'exit code' $rc 0
	_all_gone
}

a_connection_that_is_aborted_leaves_no_dead_mount() {
	kvfs_mount
	mkdir -p "$KV/aborted"
	blocks -n 4 -s 100000 store "$KV/aborted"
	_abort_connections
	_all_gone
	grep -q 'was aborted: unmounting' "$S/kvfs.log" || fail 'no line'
	kvfs_mount
	expect 'after it' "$(blocks -n 4 -s 100000 check "$KV/aborted")" \
		'present 4 absent 0'
	kvfs_umount
}

names_with_blanks_and_relative_paths_are_fine() {
	mkdir "$T/a mount point"
	(
		cd "$T" &&
			timeout 60 "$KVFS" mount 'a mount point' \
				-o "state=a state,pool=64M"
	)
	[ -d "$T/a mount point/kv" ] || fail 'not there'
	(cd "$T" && timeout 60 "$KVFS" umount 'a mount point')
	wait_for '[ -z "$(kvfs_pid "a mount point")" ]'
	wait_for 'umount "$T/a state/pool" 2>/dev/null'
}

a_smaller_pool_or_a_larger_one_takes_over_what_fits() {
	kvfs_mount
	mkdir -p "$KV/size"
	blocks -n 8 -s 1048576 store "$KV/size"
	kvfs_umount
	POOL=192M kvfs_mount
	expect 'after growing' "$(blocks -n 8 -s 1048576 check "$KV/size")" \
		'present 8 absent 0'
	kvfs_umount
	POOL=128M kvfs_mount
	expect 'after shrinking' "$(blocks -n 8 -s 1048576 check "$KV/size")" \
		'present 8 absent 0'
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# A warm restart: all that was committed, nothing that was not.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
requires_cmd setfattr getfattr
kvfs_mount
mkdir "$KV/r"

_back() { kvfs_mount && cd "$KV/r"; }

every_committed_block_is_there_after_kill_9() {
	blocks -n 50 -s 700001 store "$KV/r"
	blocks -n 50 -f 100 -s 700001 -d store "$KV/r"
	# close() returns before the commit.
	wait_for '[ "$(status .pool.blocks)" = 100 ]'
	kvfs_crash
	_back
	expect 'by rename' "$(blocks -n 50 -s 700001 check .)" \
		'present 50 absent 0'
	expect 'by close' "$(blocks -n 50 -f 100 -s 700001 check .)" \
		'present 50 absent 0'
	expect 'adopted' "$(status .pool.adopted)" 100
}

every_half_written_one_is_gone() {
	hand_start
	hand open 1 wcx "$KV/r/half.tmp"
	hand write 1 1 500000
	hand open 2 wcx "$KV/r/half"
	hand write 2 2 500000
	put "$KV/r/closed.tmp" 1000 3
	kvfs_crash
	_back
	expect 'names' "$(ls | grep -v '^b' || :)" ''
	refused "$ENOENT" cat half
	refused "$ENOENT" cat half.tmp
}

an_old_descriptor_on_the_dead_mount_harms_nobody() {
	local i
	hand_start
	for i in {1..8}; do
		hand open "$i" wcx "$KV/r/o$i.tmp"
		hand write "$i" "$i" 1000000
	done
	kvfs_crash
	_back
	blocks -n 150 -f 1000 -s 1000000 store .
	for i in {1..8}; do
		# On the lowest rung the descriptor is dead: ENOTCONN.
		hand_try pwrite "$i" 0 99 1000000 >/dev/null
	done
	blocks -n 150 -f 1000 -s 1000000 check . >/dev/null
	for i in {1..8}; do hand_try close "$i" >/dev/null; done
	blocks -n 150 -f 2000 -s 1000000 store .
	blocks -n 150 -f 2000 -s 1000000 check . >/dev/null
	rm -f b*
}

metadata_survives() {
	cd "$KV/r"
	put_tmp meta 10000 5
	chmod 640 meta
	chown 11:22 meta
	touch -d @1234567890.123456789 meta
	setfattr -n user.model -v llama meta
	mkdir -p deep/er
	put_tmp deep/er/x 10 1
	cd /
	kvfs_crash
	_back
	expect 'stat' "$(stat -c '%a %u %g %.9X %.9Y %s' meta)" \
		'640 11 22 1234567890.123456789 1234567890.123456789 10000'
	expect 'xattr' "$(getfattr --only-values -n user.model meta)" llama
	holds meta 10000 5
	holds deep/er/x 10 1
	refused "$EPERM" bash -c 'echo x >>meta'
}

a_removed_block_stays_removed() {
	cd "$KV/r"
	put_tmp b000000 1000 1
	rm meta b000000
	cd /
	kvfs_crash
	_back
	refused "$ENOENT" cat meta
	refused "$ENOENT" cat b000000
}

renamed_blocks_have_their_new_name_only() {
	cd "$KV/r"
	put_tmp before 1000 6
	mv before after
	cd /
	kvfs_crash
	_back
	holds after 1000 6
	refused "$ENOENT" cat before
}

a_clean_umount_keeps_all_too() {
	blocks -n 50 -s 700001 store "$KV/r"
	kvfs_umount
	_back
	holds after 1000 6
	expect 'blocks' "$(blocks -n 50 -s 700001 check .)" \
		'present 50 absent 0'
}

recency_survives() {
	cd "$KV/r"
	rm -f b*
	blocks -n 80 -s 1048576 store .
	blocks -n 4 -s 1048576 open .
	cd /
	kvfs_crash
	_back
	blocks -n 60 -f 100 -s 1048576 store .
	expect 'opened before the crash' "$(blocks -n 4 -s 1048576 check .)" \
		'present 4 absent 0'
	expect 'not opened' "$(blocks -n 4 -f 4 -s 1048576 check .)" \
		'present 0 absent 4'
}

blocks_written_after_a_restart_do_not_mix_with_old_ones() {
	cd "$KV/r"
	blocks -n 100 -f 3000 -s 900000 store .
	blocks -n 100 -f 3000 -s 900000 check .
	blocks -n 60 -f 100 -s 1048576 check .
}

run_tests

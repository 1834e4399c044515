#!/bin/bash
# SPDX-License-Identifier: MIT
# Frames are reused, bytes are not: nobody sees another block's, in a mapping,
# a pipe or a new file.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
POOL=64M kvfs_mount
MiB=1048576
_space() {
	rm -rf "${KV:?}"/*
	mkdir "$KV/$1"
	cd "$KV/$1"
}
# Every frame of the pool gets another owner, more than once.
_churn() { # FIRST
	blocks -n 150 -f "$1" -s $MiB store .
	blocks -n 150 -f "$1" -s $MiB check . >/dev/null
}

a_mapping_never_changes_under_its_reader() {
	_space map
	hand_start
	blocks -n 10 -s $MiB store .
	local i
	for i in {0..9}; do
		hand open "$i" r "$PWD/b00000$i"
		hand map "$i" r $MiB
		hand close "$i"
	done
	_churn 100
	for i in {0..9}; do hand mcheck "$i" 0 "$i" $MiB; done
	rm b00000*
	_churn 300
	for i in {0..9}; do
		hand mcheck "$i" 0 "$i" $MiB
		hand unmap "$i"
	done
	_churn 500
}

pages_in_a_pipe_never_change() {
	local i
	_space pipe
	hand_start
	blocks -n 8 -s $MiB store .
	for i in {0..7}; do
		hand open "$i" r "$PWD/b00000$i"
		hand splice "$i" 0 262144
		hand close "$i"
	done
	rm b00000*
	_churn 100
	_churn 300
	for i in {0..7}; do hand pcheck "$i" "$i" 0 262144; done
}

a_new_file_has_no_old_bytes_in_its_holes() {
	local i
	_space holes
	_churn 100
	rm b*
	hand_start
	for i in {1..20}; do
		hand open "$i" bcx "$PWD/$i.tmp"
		hand truncate "$i" $MiB
	done
	for i in {1..20}; do
		expect "bytes in $i" "$(tr -d '\0' <"$i.tmp" | wc -c)" 0
	done
}

a_mapping_past_what_was_written_shows_zeros() {
	_space past
	_churn 100
	rm b*
	hand_start
	hand open 1 bcx "$PWD/x.tmp"
	hand write 1 1 5000
	hand close 1
	mv x.tmp x
	expect 'size' "$(stat -c %s x)" 5000
	dd if=x bs=8192 status=none | "$HELPERS/pattern" check 1 5000
}

a_writers_descriptor_after_rename_touches_no_other_block() {
	local i
	_space orphan
	hand_start
	for i in {1..8}; do
		hand open "$i" bcx "$PWD/o$i.tmp"
		hand write "$i" "$i" $MiB
		mv "o$i.tmp" "o$i"
	done
	blocks -n 150 -f 100 -s $MiB store .
	for i in {1..8}; do hand pwrite "$i" 0 99 $MiB; done
	blocks -n 150 -f 100 -s $MiB check .
	for i in {1..8}; do
		[ ! -e "o$i" ] || holds "o$i" $MiB "$i"
		hand check "$i" 0 99 $MiB
		hand close "$i"
	done
}

a_writers_mapping_after_unlink_touches_no_other_block() {
	local i
	_space wmap
	hand_start
	for i in {1..8}; do
		hand open "$i" bcx "$PWD/o$i.tmp"
		hand write "$i" "$i" $MiB
		hand map "$i" w $MiB
		hand close "$i"
		rm "o$i.tmp"
	done
	blocks -n 100 -f 100 -s $MiB store .
	for i in {1..8}; do hand mset "$i" 0 99 $MiB; done
	blocks -n 100 -f 100 -s $MiB check . >/dev/null
	_churn 300
	for i in {1..8}; do hand mcheck "$i" 0 99 $MiB; done
}

a_shorter_block_in_a_recycled_frame_ends_where_it_ends() {
	_space shorter
	_churn 100
	blocks -n 100 -f 1000 -s 300001 store .
	blocks -n 100 -f 1000 -s 300001 check .
	blocks -n 200 -f 2000 -s 4097 store .
	blocks -n 200 -f 2000 -s 4097 check .
}

a_frame_that_is_still_mapped_is_set_aside_and_counted() {
	_space aside
	hand_start
	blocks -n 4 -s $((4 * MiB)) store .
	hand open 1 r "$PWD/b000001"
	hand map 1 r $((4 * MiB))
	hand close 1
	rm b000001
	# Where the daemon moves the bytes the mapping is of pages of FUSE,
	# and the frame is given back when the file's last user is gone.
	if [ "${KVFS_RUNG:-}" != direct ]; then
		wait_for '[ "$(status .pool.aside_bytes)" = $((4 * MiB)) ]'
	fi
	blocks -n 20 -f 100 -s $MiB store .
	hand mcheck 1 0 1 $((4 * MiB))
	hand unmap 1
	wait_for '[ "$(status .pool.aside_bytes)" = 0 ]'
	rm b*
	wait_for '[ "$(stat -f -c %f "$KV")" = $((64 * MiB / 4096)) ]'
}

a_file_sent_by_sendfile_is_whole_while_the_pool_churns() {
	local pid i
	requires_cmd python3
	_space send
	hand_start
	blocks -n 1 -s $MiB store .
	hand open 0 r "$PWD/b000000"
	blocks -n 150 -f 100 -s $MiB store . &
	pid=$!
	for i in {1..8}; do
		python3 - "$PWD/b000000" <<'PY' | "$HELPERS/pattern" check 0 $MiB
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
off, size = 0, os.fstat(fd).st_size
while off < size:
    off += os.sendfile(1, fd, off, size - off)
PY
	done
	wait $pid
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Writing blocks, in all the ways that clients do.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
POOL=512M kvfs_mount
mkdir "$KV/w"
TEST_CWD=$KV/w

SIZES='0 1 4095 4096 4097 65536 70272 1048576 4497408 5242880 16777215'

blocks_of_every_size_written_and_renamed_are_whole() {
	local n
	for n in $SIZES; do
		put_tmp "r$n" "$n" "$n"
		expect "size of $n" "$(stat -c %s "r$n")" "$n"
		holds "r$n" "$n" "$n"
	done
}

blocks_of_every_size_created_under_their_name_are_whole() {
	local n
	for n in $SIZES; do
		put "d$n" "$n" "$n"
		holds "d$n" "$n" "$n"
		expect "size of $n" "$(stat -c %s "d$n")" "$n"
	done
}

an_open_right_after_close_sees_the_block_whole() {
	blocks -n 300 -s 100000 -d store .
	expect 'after one pass' "$(blocks -n 300 -s 100000 check .)" \
		'present 300 absent 0'
	local i
	for i in {1..50}; do
		put "now$i" 200000 "$i" && holds "now$i" 200000 "$i"
	done
}

cp_creates_a_block() {
	cp "$KVFS" by-cp
	same_file "$KVFS" by-cp
	refused "$EPERM" bash -c 'echo x >>by-cp'
}

a_temp_file_may_be_written_again_and_again() {
	put again.tmp 300000 1
	dd if=/dev/zero of=again.tmp bs=1000 count=1 conv=notrunc status=none
	printf end >>again.tmp
	expect 'size' "$(stat -c %s again.tmp)" 300003
	expect 'tail' "$(tail -c 3 again.tmp)" end
	truncate -s 100 again.tmp
	truncate -s 5000 again.tmp
	expect 'zeros' "$(tr -d '\0' <again.tmp | wc -c)" 0
	expect 'size' "$(stat -c %s again.tmp)" 5000
	put again.tmp 123456 9
	mv again.tmp again
	holds again 123456 9
}

temp_files_of_every_kind_of_name_stay_temporary() {
	local name
	for name in x.tmp x.tmp.1234 .x.AbC123 hash_7.tmp; do
		put "$name" 1000 1
		printf more >>"$name" || fail "$name was committed"
		chmod 640 "$name"
		touch -d '2020-01-01 00:00:00.5 UTC' "$name"
		expect "size of $name" "$(stat -c %s "$name")" 1004
	done
}

holes_read_as_zeros() {
	hand_start
	hand open 1 bcx holes.tmp
	hand pwrite 1 8192 5 4096
	hand truncate 1 100000
	hand check 1 8192 5 4096
	hand close 1
	mv holes.tmp holes
	expect 'size' "$(stat -c %s holes)" 100000
	expect 'before' "$(head -c 8192 holes | tr -d '\0' | wc -c)" 0
	expect 'after' "$(tail -c +12289 holes | tr -d '\0' | wc -c)" 0
}

many_small_writes_make_one_block() {
	"$HELPERS/pattern" write 3 1000000 |
		dd of=small.tmp bs=777 iflag=fullblock status=none
	mv small.tmp small
	holds small 1000000 3
}

a_writer_reads_back_what_it_wrote() {
	hand_start
	hand open 1 bcx own
	hand write 1 4 2000000
	hand check 1 0 4 2000000
	hand map 1 w 2000000
	hand mcheck 1 0 4 2000000
	hand mset 1 4096 6 8192
	hand check 1 4096 6 8192
	hand unmap 1
	hand close 1
	wait_for '[ -r own ]'
	expect 'size' "$(stat -c %s own)" 2000000
}

a_block_grows_past_what_was_expected() {
	blocks -n 20 -s 65536 -f 5000 store .
	put_tmp grown 20000000 8
	holds grown 20000000 8
	rm grown
}

direct_io_writes_and_reads() {
	local size
	for size in 4096 1048576 4194304; do
		"$HELPERS/pattern" write 2 $size >"$T/data"
		dd if="$T/data" of=direct.tmp bs=$size oflag=direct status=none
		mv direct.tmp "direct$size"
		holds "direct$size" $size 2
		dd if="direct$size" of="$T/back" bs=$size iflag=direct \
			status=none
		same_file "$T/data" "$T/back"
	done
}

direct_io_reads_an_odd_tail() {
	put_tmp odd 1000001 3
	dd if=odd of="$T/back" bs=65536 iflag=direct status=none
	"$HELPERS/pattern" check 3 1000001 <"$T/back"
}

fallocate_prepares_a_temp_file() {
	hand_start
	hand open 1 bcx alloc.tmp
	hand allocate 1 1000000
	expect 'stat' "$(hand stat 1)" '1000000 1'
	hand write 1 7 1000000
	hand sync 1
	hand close 1
	mv alloc.tmp alloc
	holds alloc 1000000 7
}

exclusive_creation_is_exclusive() {
	set -C
	echo one >excl
	refused 'exist' bash -C -c 'echo two >excl'
	expect 'contents' "$(cat excl)" one
}

two_writers_at_once_do_not_mix() {
	mkdir one two
	blocks -n 60 -s 500000 store one &
	blocks -n 60 -f 1000 -s 500000 store two
	wait $!
	blocks -n 60 -s 500000 check one
	blocks -n 60 -f 1000 -s 500000 check two
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# When a file becomes a block, and what a block refuses.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
kvfs_mount
mkdir "$KV/c"
TEST_CWD=$KV/c
put_tmp "$TEST_CWD/fixed" 300000 1

a_committed_block_refuses_every_writer() {
	hand_start
	refused "$EPERM" bash -c 'echo x >>fixed'
	refused "$EPERM" bash -c 'echo x >fixed'
	refused "$EPERM" truncate -s 0 fixed
	refused "$EPERM" truncate -s 400000 fixed
	refused "$EPERM" fallocate -l 400000 fixed
	hand_refused EPERM open 1 b fixed
	hand_refused EPERM open 1 w fixed
	hand_refused EPERM open 1 wc fixed
	hand_refused EEXIST open 1 wcx fixed
	hand open 2 r fixed
	hand_refused EINVAL truncate 2 0
	holds fixed 300000 1
}

only_the_writer_opens_what_is_not_committed() {
	hand_start
	hand open 1 wcx half
	hand write 1 2 100000
	refused "$ENOENT" cat half
	hand open 2 r half
	hand check 2 0 2 100000
	hand write 1 2 50000
	hand close 2
	refused "$ENOENT" cat half
	hand close 1
	holds half 150000 2
}

a_temp_file_is_open_to_everybody_while_it_is_written() {
	hand_start
	hand open 1 wcx open.tmp
	hand write 1 3 100000
	holds open.tmp 100000 3
	hand write 1 3 100000
	holds open.tmp 200000 3
}

the_last_of_two_descriptors_commits() {
	exec 5>two
	exec 6>&5
	"$HELPERS/pattern" write 4 70000 >&5
	exec 5>&-
	refused "$ENOENT" env -i cat two 6>&-
	exec 6>&-
	wait_for 'cat two >/dev/null 2>&1' 5
	holds two 70000 4
	refused "$EPERM" bash -c 'echo x >>two'
}

a_writers_mapping_holds_the_commit_back() {
	hand_start
	hand open 1 bcx mapped
	hand write 1 5 100000
	hand map 1 w 100000
	hand close 1
	refused "$ENOENT" cat mapped
	hand mset 1 0 6 100000
	hand unmap 1
	wait_for 'cat mapped >/dev/null 2>&1' 5
	holds mapped 100000 6
}

temp_files_are_never_committed_by_looking() {
	put look.tmp 1000 1
	ls -l look.tmp >/dev/null
	cat look.tmp >/dev/null
	printf x >>look.tmp
	expect 'size' "$(stat -c %s look.tmp)" 1001
}

an_unlinked_block_stays_readable_where_it_is_open() {
	hand_start
	put_tmp gone 500000 7
	hand open 1 r gone
	hand map 1 r 500000
	rm gone
	refused "$ENOENT" stat gone
	expect 'size and links' "$(hand stat 1)" '500000 0'
	put_tmp gone 500000 8
	hand check 1 0 7 500000
	hand mcheck 1 0 7 500000
	holds gone 500000 8
}

an_unlinked_temp_file_goes_on_being_written() {
	hand_start
	hand open 1 bcx lost.tmp
	hand write 1 9 100000
	rm lost.tmp
	hand write 1 9 100000
	hand check 1 0 9 200000
	expect 'size and links' "$(hand stat 1)" '200000 0'
	put_tmp lost 100000 1
	hand check 1 0 9 200000
	holds lost 100000 1
}

links_and_special_files_are_refused() {
	refused "$EPERM" ln fixed hard
	refused "$EPERM" ln -s fixed soft
	refused "$EPERM" mkfifo fifo
	refused "$EPERM" mknod dev c 1 3
}

a_removed_name_can_be_stored_anew() {
	local i
	for i in 1 2 3 4 5; do
		put_tmp anew 50000 "$i"
		holds anew 50000 "$i"
		rm anew
		refused "$ENOENT" cat anew
	done
}

a_miss_is_forgotten_when_the_block_is_stored() {
	local i
	for i in {1..30}; do
		[ ! -e "miss$i" ]
		put_tmp "miss$i" 1000 "$i"
		holds "miss$i" 1000 "$i"
	done
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Rename: the commit of most blocks, and its corners.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
kvfs_mount
mkdir "$KV/r"
TEST_CWD=$KV/r

_counter() { stat_of "kvfs_$1_total"; }

a_rename_onto_an_equal_block_keeps_one() {
	local before bytes
	put_tmp same 400000 1
	before=$(_counter deduplicated)
	bytes=$(status .pool.committed_bytes)
	put_tmp same 400000 1
	holds same 400000 1
	refused "$ENOENT" stat same.tmp
	wait_for '[ "$(_counter deduplicated)" = '$((before + 1))' ]' 5
	wait_for '[ "$(status .pool.committed_bytes)" -le '"$bytes"' ]' 5
}

a_rename_onto_an_unequal_block_keeps_the_first() {
	local before
	put_tmp first 400000 2
	before=$(_counter conflicts)
	put_tmp first 400000 3
	holds first 400000 2
	put_tmp first 399999 2
	holds first 400000 2
	refused "$ENOENT" stat first.tmp
	wait_for '[ "$(_counter conflicts)" = '$((before + 2))' ]' 5
	expect 'names' "$(ls | grep -c first)" 1
}

the_newcomer_is_not_seen_under_the_name_in_the_moment_after() {
	local i
	hand_start
	put_tmp mine 200000 2
	for i in {1..40}; do
		put mine.tmp 100000 3
		hand rename 0 "$PWD/mine.tmp" "$PWD/mine"
		hand open 1 r mine
		hand check 1 0 2 200000
		hand close 1
	done
	expect 'size' "$(stat -c %s mine)" 200000
}

a_reader_of_the_first_goes_on_through_renames_onto_it() {
	hand_start
	put_tmp steady 300000 4
	hand open 1 r steady
	hand map 1 r 300000
	put_tmp steady 300000 4
	put_tmp steady 300000 5
	hand check 1 0 4 300000
	hand mcheck 1 0 4 300000
	hand open 2 r steady
	hand check 2 0 4 300000
}

a_reader_of_the_newcomer_keeps_its_own_bytes() {
	hand_start
	put_tmp keep 300000 6
	put keep.tmp 300000 6
	hand open 1 r keep.tmp
	mv keep.tmp keep
	hand check 1 0 6 300000
	put keep.tmp 300000 7
	hand open 2 r keep.tmp
	mv keep.tmp keep
	hand check 2 0 7 300000
	hand check 1 0 6 300000
	holds keep 300000 6
	rm keep
	hand check 1 0 6 300000
	refused "$ENOENT" cat keep
}

a_block_renamed_while_it_is_open_is_a_copy_as_of_then() {
	hand_start
	hand open 1 bcx live.tmp
	hand write 1 6 200000
	mv live.tmp live
	holds live 200000 6
	hand write 1 6 100000
	hand pwrite 1 0 7 4096
	holds live 200000 6
	expect 'size' "$(stat -c %s live)" 200000
	hand close 1
	holds live 200000 6
	refused "$EPERM" bash -c 'echo x >>live'
}

a_block_renamed_while_it_is_mapped_is_a_copy_as_of_then() {
	hand_start
	hand open 1 bcx map.tmp
	hand write 1 8 200000
	hand map 1 w 200000
	hand close 1
	mv map.tmp map
	holds map 200000 8
	hand mset 1 0 9 200000
	holds map 200000 8
	hand unmap 1
	holds map 200000 8
}

a_block_may_get_another_name() {
	put_tmp old 100000 1
	mkdir -p sub/dir
	mv old new
	mv new sub/dir/newer
	refused "$ENOENT" cat old
	refused "$ENOENT" cat new
	holds sub/dir/newer 100000 1
	refused "$EPERM" bash -c 'echo x >>sub/dir/newer'
}

an_open_block_may_get_another_name() {
	hand_start
	put_tmp opened 100000 2
	hand open 1 r opened
	mv opened opened2
	hand check 1 0 2 100000
	holds opened2 100000 2
}

a_temp_name_may_become_another_temp_name() {
	put one.tmp 1000 3
	mv one.tmp two.tmp
	printf x >>two.tmp
	expect 'size' "$(stat -c %s two.tmp)" 1001
	mv two.tmp three
	refused "$EPERM" bash -c 'echo x >>three'
}

noreplace_is_honoured_and_exchange_is_not_known() {
	hand_start
	put_tmp a 1000 1
	put_tmp b 1000 2
	put c.tmp 1000 3
	hand_refused EEXIST rename 1 "$PWD/a" "$PWD/b"
	hand_refused EEXIST rename 1 "$PWD/c.tmp" "$PWD/b"
	hand_refused EINVAL rename 2 "$PWD/a" "$PWD/b"
	hand rename 1 "$PWD/c.tmp" "$PWD/c"
	holds a 1000 1
	holds b 1000 2
	holds c 1000 3
}

a_directory_is_not_renamed() {
	hand_start
	mkdir dir
	hand_refused EXDEV rename 0 "$PWD/dir" "$PWD/dir2"
}

a_rename_of_what_is_not_there_fails() {
	hand_start
	hand_refused ENOENT rename 0 "$PWD/none.tmp" "$PWD/none"
}

a_file_moves_from_a_subdirectory_with_its_temp() {
	mkdir -p x/y
	put x/y/t.tmp 5000 1
	mv x/y/t.tmp x/done
	holds x/done 5000 1
	refused "$ENOENT" stat x/y/t.tmp
}

a_hundred_threads_of_one_name_leave_one_version() {
	local i seen=
	for i in {1..20}; do
		(put "race.$i.tmp" 100000 "$i" && mv "race.$i.tmp" race) &
	done
	wait
	for i in {1..20}; do
		"$HELPERS/pattern" check "$i" 100000 <race 2>/dev/null &&
			seen="$seen $i"
	done
	expect 'versions that are whole' "$(wc -w <<<"$seen")" 1
}

run_tests

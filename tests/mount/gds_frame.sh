#!/bin/bash
# SPDX-License-Identifier: MIT
# libkvfs: any number of blocks written in place; and what stays or goes.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
kvfs_mount
mkdir -p "$KV/n/s" "$KV/n/b"

_gds() { "$HELPERS/gds_frame" "$@"; }
_names() { seq -f "$1%.0f" 0 $(($2 - 1)); } # PREFIX N
_parent() { getfattr --absolute-names --only-values -n user.kvfs.parent "$1"; }
_nothing_left() {
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
	wait_for '[ "$(status .pool.writing_bytes)" = 0 ]'
}

blocks_are_written_in_as_many_requests_as_it_takes() {
	local how i
	for how in a -k -m '-k -m'; do
		_names "w${how//[^a-z]/}" 1200 >"$T/names"
		expect "stored $how" "$(_gds "$KV/n/s" store 3000 $how \
			<"$T/names")" '1200 0'
		# The chain goes on where one request ends and the next begins.
		for i in 1 300 500 700 1199; do
			holds "$KV/n/s/w${how//[^a-z]/}$i" 3000 $i
			expect "parent of $i" "$(_parent "$KV/n/s/w${how//[^a-z]/}$i")" \
				"s/w${how//[^a-z]/}$((i - 1))"
		done
		expect "again $how" "$(_names "w${how//[^a-z]/}" 1201 |
			_gds "$KV/n/s" store 3000 $how)" '1201 1200'
		_nothing_left
	done
}

large_blocks_of_odd_length_are_whole() {
	expect 'stored' "$(_names l 4 | _gds "$KV/n" store 3000001)" '4 0'
	expect 'kept' "$(_names lk 4 | _gds "$KV/n" store 3000001 -k)" '4 0'
	expect 'written' "$(_names lm 4 | _gds "$KV/n" store 3000001 -m)" '4 0'
	for i in 0 1 2 3; do
		for p in l lk lm; do
			holds "$KV/n/$p$i" 3000001 $i
		done
	done
	_nothing_left
}

what_was_let_go_is_not_copied() {
	local before
	before=$(stat_of kvfs_in_place_total)
	expect 'kept' "$(_names k 20 | _gds "$KV/n" store 65536 -k)" '20 0'
	expect 'copies' "$(stat_of kvfs_in_place_total)" "$before"
	# The daemon waits 20 ms for the kernel: on a busy machine not enough.
	wait_for '_gds "$KV/n" store 65536 <<<"o$((RANDOM))" >/dev/null &&
		[ "$(stat_of kvfs_in_place_total)" -gt '"$before"' ]'
}

a_chain_continues_a_block_that_is_there() {
	put_tmp "$KV/n/b/root" 100 1
	expect 'stored' "$(printf '%s\n' root c1 c2 x.tmp no/x |
		_gds "$KV/n/b" store 70000 -p -s)" '2 0
x.tmp: EINVAL
no/x: ENOENT'
	expect 'c1' "$(_parent "$KV/n/b/c1")" b/root
	expect 'c2' "$(_parent "$KV/n/b/c2")" b/c1
	expect 'published' "$(getfattr --absolute-names --only-values \
		-n user.kvfs.state "$KV/n/b/c2")" published
	_nothing_left
}

more_than_a_user_may_hold_is_refused_as_a_whole() {
	refused 'quota' bash -c 'seq 100 | "$1" "$2" abort 10000000' - \
		"$HELPERS/gds_frame" "$KV/n"
	_nothing_left
}

reservations_end_by_abort() {
	_names a 3000 >"$T/names"
	_gds "$KV/n" abort 4096 <"$T/names"
	_nothing_left
	expect 'none' "$(_gds "$KV/n" store 100 </dev/null)" '0 0'
}

blocks_are_touched_and_evicted() {
	_names e 2500 >"$T/names"
	mkdir "$KV/n/e"
	expect 'stored' "$(_gds "$KV/n/e" store 100 <"$T/names")" '2500 0'
	echo none >>"$T/names"
	expect 'touched' "$(_gds "$KV/n/e" touch <"$T/names")" 2500
	# One whose checksum is being taken is in use: it goes the next time.
	wait_for '[ "$(_gds "$KV/n/e" evict <"$T/names")" -gt 0 ]'
	wait_for '_gds "$KV/n/e" evict <"$T/names" >/dev/null &&
		[ "$(ls "$KV/n/e" | wc -l)" = 0 ]'
}

what_cannot_be_is_an_error() {
	expect 'errors' "$(_gds "$KV/n" errors)" 'empty EINVAL
huge EINVAL
too much EDQUOT
none ok
one ok
flags EINVAL
long EINVAL
mode EINVAL
kept ok
ended ok
again ok
without EINVAL
no name ok
no parent EINVAL'
	_nothing_left
	expect 'short' "$(stat -c %s "$KV/n/error")" 10
}

run_tests

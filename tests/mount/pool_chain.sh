#!/bin/bash
# SPDX-License-Identifier: MIT
# Chains of blocks are evicted from the leaf.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
requires_cmd setfattr
POOL=64M kvfs_mount
MiB=1048576
mkdir "$KV/c"
TEST_CWD=$KV/c

# By open: the kernel may show a name for a moment after its eviction.
_is_there() {
	{ : <"$(printf 'b%06d' "$1")"; } 2>/dev/null
}
_chain_is_a_prefix() { # prints how many of 20 are left
	local i left=0
	for i in {0..19}; do
		_is_there "$i" || break
		left=$((left + 1))
	done
	for ((; i < 20; i++)); do
		! _is_there "$i" ||
			fail "block $i is there without its parent:" b0000[01]*
	done
	say $left
}

a_chain_is_evicted_leaf_first() {
	local i left
	blocks -n 20 -s $MiB store .
	for i in {1..19}; do
		setfattr -n user.kvfs.parent -v "$(printf 'b%06d' $((i - 1)))" \
			"$(printf 'b%06d' "$i")"
	done
	expect 'parent' "$(getfattr --only-values -n user.kvfs.parent b000005)" \
		b000004
	blocks -n 48 -f 100 -s $MiB store .
	left=$(_chain_is_a_prefix)
	[ "$left" -lt 20 ] || fail 'nothing of it was evicted'
	[ "$left" -gt 0 ] || fail 'all of it was evicted'
}

the_chain_survives_a_restart() {
	cd /
	kvfs_crash
	POOL=64M kvfs_mount
	cd "$KV/c"
	local left before
	before=$(_chain_is_a_prefix)
	expect 'parent' "$(getfattr --only-values -n user.kvfs.parent b000001)" \
		b000000
	blocks -n 3 -f 500 -s $MiB store .
	left=$(_chain_is_a_prefix)
	[ "$left" -le "$before" ]
}

a_parent_that_is_not_there_is_no_harm() {
	put_tmp x 1000 1
	setfattr -n user.kvfs.parent -v none x ||
		refused "$ENOENT|$EINVAL" setfattr -n user.kvfs.parent -v none x
	setfattr -n user.kvfs.parent -v x x 2>/dev/null || :
	holds x 1000 1
	blocks -n 150 -f 1000 -s $MiB store .
}

a_ring_of_parents_does_not_stop_eviction() {
	rm -f b* x
	blocks -n 3 -s $MiB store .
	setfattr -n user.kvfs.parent -v b000001 b000000 2>/dev/null || :
	setfattr -n user.kvfs.parent -v b000002 b000001 2>/dev/null || :
	setfattr -n user.kvfs.parent -v b000000 b000002 2>/dev/null || :
	blocks -n 200 -f 1000 -s $MiB store .
	expect 'the last' "$(blocks -n 10 -f 1190 -s $MiB check .)" \
		'present 10 absent 0'
}

run_tests

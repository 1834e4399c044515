#!/bin/bash
# SPDX-License-Identifier: MIT
# The ends of the pool: a file larger than it, all of it pinned, its figures.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
POOL=64M kvfs_mount
MiB=1048576
_space() {
	rm -rf "${KV:?}"/*
	mkdir "$KV/$1"
	cd "$KV/$1"
}
_free() { stat -f -c %f "$KV"; }

statvfs_counts_in_units_of_4096() {
	expect 'unit' "$(stat -f -c %S "$KV")" 4096
	expect 'capacity' "$(stat -f -c %b "$KV")" $((64 * MiB / 4096))
	expect 'name length' "$(stat -f -c %l "$KV")" 255
}

statvfs_is_exact() {
	local before
	_space exact
	wait_for '[ "$(_free)" = $((64 * MiB / 4096)) ]' 10
	before=$(_free)
	blocks -n 10 -s $MiB store .
	wait_for '[ "$(_free)" = '$((before - 10 * 256))' ]' 5
	put_tmp odd 5000 1
	wait_for '[ "$(_free)" = '$((before - 10 * 256 - 2))' ]' 5
	rm b000000 odd
	wait_for '[ "$(_free)" = '$((before - 9 * 256))' ]' 5
	rm b*
	wait_for '[ "$(_free)" = '"$before"' ]' 5
}

statvfs_of_ckpt_is_that_of_the_disk_tier() {
	expect 'blocks' "$(stat -f -c '%b*%S' "$CKPT" | bc)" \
		"$(stat -f -c '%b*%S' "$S" | bc)"
}

blocks_are_counted_as_stat_has_them() {
	_space du
	put_tmp x 100000 1
	expect 'block size' "$(stat -c %B x)" 512
	# 100,000 bytes, or the 25 pages that they lie in
	wait_for '[[ "$(stat -c %b x)" =~ ^(196|200)$ ]]' 5
}

size_classes_follow_what_is_stored() {
	_space classes
	blocks -n 8 -s 5242880 store .
	wait_for '[ "$(status .pool.committed_bytes)" = $((8 * 5242880)) ]' 5
	wait_for 'jq -e ".pool.classes[] | select(.bytes == 5242880)" \
		<"$CTL/status" >/dev/null' 5
	rm b*
	# An odd size takes whole pages of 4 KiB, not the next power of two.
	blocks -n 8 -s 4497408 store .
	wait_for '[ "$(status .pool.committed_bytes)" = $((8 * 4497408)) ]' 5
}

a_file_larger_than_the_pool_is_refused_and_the_pool_unharmed() {
	local out
	_space large
	blocks -n 10 -s $MiB store .
	hand_start
	hand open 0 r "$PWD/b000009"
	hand open 1 wcx "$PWD/large.tmp"
	out=$(hand fill 1 $((200 * MiB)))
	[[ $out =~ (ENOSPC|EFBIG)$ ]] || fail "written and error: $out"
	[ "${out% *}" -lt $((150 * MiB)) ] || fail "the pool took $out"
	hand check 0 0 9 $MiB
	hand close 1
	rm large.tmp
	blocks -n 10 -s $MiB check .
	wait_for '[ "$(_free)" -ge 4096 ]' 10
	blocks -n 100 -f 100 -s $MiB store .
	blocks -n 100 -f 100 -s $MiB check .
}

a_file_declared_larger_than_the_pool_is_refused_at_once() {
	_space declared
	blocks -n 5 -s $MiB store .
	hand_start
	hand open 1 bcx "$PWD/l.tmp"
	local answer
	answer=$(hand_try allocate 1 $((200 * MiB)))
	[[ $answer =~ ENOSPC|EFBIG ]] || fail "fallocate: $answer"
	answer=$(hand_try truncate 1 $((1 << 40)))
	[[ $answer =~ ENOSPC|EFBIG ]] || fail "ftruncate: $answer"
	hand close 1
	expect 'blocks' "$(blocks -n 5 -s $MiB check .)" 'present 5 absent 0'
}

a_pool_full_of_open_blocks_says_so_and_recovers() {
	local n=0 i err=
	_space pinned
	hand_start
	# Beside the 64 MiB there is a reserve of 32, no more.
	while [ $n -le 24 ]; do
		err=$({ put "p$n.tmp" $((4 * MiB)) "$n" &&
			mv "p$n.tmp" "p$n"; } 2>&1) || break
		# With nothing else to evict the newcomer itself may be gone.
		[ "$(hand_try open "$n" r "$PWD/p$n")" = ok ] || break
		n=$((n + 1))
	done
	{ [ $n -ge 14 ] && [ $n -le 24 ]; } ||
		fail "$n blocks of 4 MiB are pinned in 64 MiB"
	[ -z "$err" ] || grep -q "$ENOSPC" <<<"$err" || fail "it says $err"
	refused "$ENOSPC" "$HELPERS/blocks" -n 3 -f 200 -s $((24 * MiB)) store .
	[ "$(_free)" -le $((8 * 256)) ] || fail "$(_free) units are free"
	for ((i = 0; i < n; i++)); do
		hand check "$i" 0 "$i" $((4 * MiB))
		hand close "$i"
	done
	rm -f ./*.tmp
	blocks -n 20 -f 300 -s $((4 * MiB)) store .
	blocks -n 20 -f 300 -s $((4 * MiB)) check .
}

run_tests

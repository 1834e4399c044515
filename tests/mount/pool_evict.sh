#!/bin/bash
# SPDX-License-Identifier: MIT
# Eviction: a store larger than the pool goes on, and only takes what it may.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
POOL=64M kvfs_mount
MiB=1048576

_present() { blocks -n "$1" -f "$2" -s $MiB -p check "$PWD" | wc -l; }
# A namespace of its own for each test, and the whole pool: a removed block stays
# for a moment where its checksum is under way or its writer's close not come.
_space() {
	rm -rf "${KV:?}"/*
	mkdir "$KV/$1"
	cd "$KV/$1"
	wait_for '[ "$(stat -f -c %f .)" = "$(stat -f -c %b .)" ]'
}
# What is held for a moment when its turn comes outlives it: `_store_all N` ends
# when each of N blocks that fit has its checksum.
_store_all() {
	local before
	before=$(stat_of kvfs_checksums_total)
	blocks -n "$1" -s $MiB store .
	wait_for '[ "$(stat_of kvfs_checksums_total)" -ge $((before + '"$1"')) ]'
}

a_burst_of_four_times_the_pool_never_runs_out_of_space() {
	_space burst
	blocks -n 256 -s $MiB store .
	[ "$(_present 256 0)" -ge 24 ] || fail "only $(_present 256 0) survive"
	expect 'the last 16' "$(blocks -n 16 -f 240 -s $MiB check .)" \
		'present 16 absent 0'
	wait_for '[ "$(stat_of kvfs_evictions_total)" -ge 192 ]'
}

what_fits_is_not_evicted() {
	local before
	_space fits
	before=$(stat_of kvfs_evictions_total)
	blocks -n 2 -s $((12 * MiB)) store .
	blocks -n 150 -f 100 -s 100000 -d store .
	blocks -n 50 -f 500 -s 100000 store .
	expect 'evicted of 44 MiB in 64' \
		"$(stat_of kvfs_evictions_total)" "$before"
	expect 'large' "$(blocks -n 2 -s $((12 * MiB)) check .)" \
		'present 2 absent 0'
	expect 'small' "$(blocks -n 150 -f 100 -s 100000 check .)" \
		'present 150 absent 0'
}

# Each was given as much as the large ones took, and its RELEASE is to come.
what_is_closed_but_not_released_gives_back_what_it_does_not_use() {
	[ "$KVFS_RUNG" = direct ] || skip 'with passthrough who writes holds it'
	local before fd fds=() i
	_space spare
	before=$(stat_of kvfs_evictions_total)
	blocks -n 2 -s $((12 * MiB)) store .
	for i in {1..20}; do
		exec {fd}>small$i
		head -c 100000 /dev/zero >&$fd # closes a duplicate
		fds+=($fd)
	done
	for fd in "${fds[@]}"; do exec {fd}>&-; done
	expect 'evicted of 26 MiB in 64' \
		"$(stat_of kvfs_evictions_total)" "$before"
	expect 'large' "$(blocks -n 2 -s $((12 * MiB)) check .)" \
		'present 2 absent 0'
}

two_bursts_of_mixed_sizes_at_once_go_on() {
	local sum=0 size n=0
	_space mixed
	mkdir a b
	for size in 5000 3000000 65536 700001 2097152; do
		n=$((n + 1000))
		blocks -n 30 -f $n -s $size store a &
		blocks -n 30 -f $n -s $size store b
		wait $! || sum=1
		blocks -n 30 -f $n -s $size check a
		blocks -n 30 -f $n -s $size check b
	done
	expect 'failures' $sum 0
}

the_least_recently_opened_goes_first() {
	_space lru
	_store_all 30
	blocks -n 5 -s $MiB open .
	blocks -n 50 -f 100 -s $MiB store .
	expect 'opened lately' "$(blocks -n 5 -s $MiB check .)" \
		'present 5 absent 0'
	[ "$(_present 30 0)" -lt 30 ] || fail 'nothing was evicted'
	expect 'the oldest five' "$(_present 5 5)" 0
}

setting_atime_to_now_counts_as_use() {
	_space touch
	_store_all 30
	touch -a b000000 b000001 b000002
	blocks -n 50 -f 100 -s $MiB store .
	expect 'touched' "$(_present 3 0)" 3
	expect 'not touched' "$(_present 5 3)" 0
}

an_open_block_is_never_evicted() {
	_space open
	hand_start
	_store_all 3
	hand open 0 r "$PWD/b000000"
	hand open 1 r "$PWD/b000001"
	hand map 1 r $MiB
	hand close 1
	blocks -n 200 -f 100 -s $MiB store .
	hand check 0 0 0 $MiB
	hand mcheck 1 0 1 $MiB
	expect 'names that are open' "$(_present 2 0)" 2
	expect 'the one that is not' "$(_present 1 2)" 0
}

a_half_written_file_is_never_evicted() {
	_space half
	hand_start
	hand open 1 wcx "$PWD/h.tmp"
	hand write 1 77 $MiB
	put closed.tmp $MiB 78
	blocks -n 200 -f 100 -s $MiB store .
	hand write 1 77 $MiB
	hand close 1
	mv h.tmp h
	holds h $((2 * MiB)) 77
	holds closed.tmp $MiB 78
	mv closed.tmp closed
	holds closed $MiB 78
}

an_evicted_block_is_absent_not_broken() {
	_space absent
	blocks -n 150 -s $MiB store .
	refused "$ENOENT" cat b000000
	refused "$ENOENT" stat b000000
	# The keeper may still be evicting.
	wait_for '[ "$(ls | wc -l)" = "$(_present 150 0)" ]'
	put_tmp b000000 $MiB 0
	holds b000000 $MiB 0
}

readers_meet_whole_blocks_or_none_while_eviction_runs() {
	local pid i
	_space race
	blocks -n 300 -s $MiB store . &
	pid=$!
	for i in {1..6}; do
		blocks -n 300 -s $MiB check . >/dev/null
	done
	wait $pid
}

the_pool_stays_within_its_limit() {
	local used
	wait_for '[ "$(status .pool.committed_bytes)" -le $((64 * MiB)) ]'
	used=$(df -B1 --output=used "$S/pool" | tail -1)
	[ "$used" -le $((64 * MiB + 64 * MiB)) ] ||
		fail "the pool's tmpfs holds $used bytes"
}

run_tests

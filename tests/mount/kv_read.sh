#!/bin/bash
# SPDX-License-Identifier: MIT
# Reading blocks, in all the ways that clients do.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
kvfs_mount
mkdir "$KV/r"
TEST_CWD=$KV/r
put_tmp "$TEST_CWD/x" 4497408 1

a_mapping_shows_the_block() {
	hand_start
	hand open 1 r x
	hand map 1 r 4497408
	hand close 1
	hand mcheck 1 0 1 4497408
	hand open 2 r x
	hand map 2 p 4497408
	hand mcheck 2 0 1 4497408
}

reads_at_any_offset_are_right() {
	local off
	hand_start
	hand open 1 r x
	for off in 0 1 4095 4096 1048575 2097152 4497000; do
		hand check 1 $off 1 $((4497408 - off > 70000 ? 70000 : 4497408 - off))
	done
	expect 'past the end' "$(tail -c +4497409 x | wc -c)" 0
}

pages_spliced_into_a_pipe_are_the_blocks() {
	hand_start
	hand open 1 r x
	hand splice 1 8192 131072
	hand pcheck 1 1 8192 131072
	cat x | "$HELPERS/pattern" check 1 4497408
}

eight_readers_at_once_read_the_same() {
	local i pids=()
	for i in {1..8}; do
		"$HELPERS/pattern" check 1 4497408 <x &
		pids+=($!)
	done
	for i in "${pids[@]}"; do wait "$i"; done
}

sha256sum_is_that_of_the_source() {
	"$HELPERS/pattern" write 1 4497408 >"$T/x"
	expect 'sum' "$(sha256sum <x)" "$(sha256sum <"$T/x")"
}

a_hit_and_a_miss_are_counted_by_namespace() {
	local hits misses
	_of() { awk -v n="kvfs_namespace_$1_total{namespace=\"r\"}" \
		'$1 == n { print $2 }' "$CTL/stats"; }
	hits=$(_of hits) misses=$(_of misses)
	cat x >/dev/null
	[ ! -e not-there ]
	[ "$(_of hits)" -gt "$hits" ] || fail "hits stay at $hits"
	[ "$(_of misses)" -gt "$misses" ] || fail "misses stay at $misses"
}

a_program_runs_from_a_block() {
	cp "$(type -P true)" prog.tmp
	chmod 755 prog.tmp
	mv prog.tmp prog
	./prog
}

a_kept_descriptor_reads_again_and_again() {
	local i
	hand_start
	hand open 1 r x
	for i in {1..20}; do hand check 1 0 1 4497408; done
}

copy_file_range_and_reflink_fall_back() {
	cp --reflink=auto x copy
	same_file x copy
	cp --sparse=always x sparse
	same_file x sparse
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# The programs of gds/examples do what they say.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
kvfs_mount
mkdir -p "$KV/n/w"
EXAMPLES=$HELPERS/../../gds/examples

_serve() { "$EXAMPLES/prefix_cache" "$KV/n" $(seq "$@"); }

blocks_are_read_in_place() {
	put_tmp "$KV/n/a" 70000 1
	put_tmp "$KV/n/b" 3000001 2
	"$EXAMPLES/read_blocks" "$KV/n" b a >"$T/out"
	cat "$KV/n/b" "$KV/n/a" | cmp - "$T/out"
	refused "none: $ENOENT" "$EXAMPLES/read_blocks" "$KV/n" a none
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
}

a_prompt_is_loaded_as_far_as_it_is_known() {
	local first
	expect 'first' "$(_serve 100)" '6 blocks: 0 loaded, 6 stored'
	expect 'again' "$(_serve 100)" '6 blocks: 6 loaded, 0 stored'
	expect 'longer' "$(_serve 200)" '12 blocks: 6 loaded, 6 stored'
	expect 'another' "$(_serve 2 100)" '6 blocks: 0 loaded, 6 stored'
	expect 'short' "$(_serve 15)" '0 blocks: 0 loaded, 0 stored'
	expect 'blocks' "$(ls "$KV/n" | grep -c '^[0-9a-f]\{32\}\.bin$')" 18
	# The seventh block of the longer prompt continues the sixth.
	first=$(getfattr -R --absolute-names --only-values \
		-n user.kvfs.parent "$KV"/n/*.bin 2>/dev/null |
		grep -o '[0-9a-f]\{32\}\.bin' | wc -l)
	expect 'have parents' "$first" 16
}

shards_come_into_registered_memory() {
	local i
	for i in 1 2 3; do
		put_tmp "$KV/n/w/shard-$i" 5000000 $i
	done
	put_tmp "$KV/n/w/shard-4" 1000 4
	"$EXAMPLES/load_shards" "$KV/n/w" 5000000 shard-{1..4} \
		>"$T/out" 2>"$T/err"
	cat "$KV"/n/w/shard-{1..4} | cmp - "$T/out"
	expect 'said' "$(cat "$T/err")" \
		'4 shards, 15001000 bytes, 0 straight from other nodes'
	refused 'shard-1: .*large' "$EXAMPLES/load_shards" "$KV/n/w" 4999999 \
		shard-1
	refused "shard-5: $ENOENT" "$EXAMPLES/load_shards" "$KV/n/w" 5000000 \
		shard-5
	wait_for '[ "$(stat_of kvfs_buffers)" = 0 ]'
}

run_tests

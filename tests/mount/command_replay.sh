#!/bin/bash
# SPDX-License-Identifier: MIT
# kvfs replay and kvfs bench, on a mount.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
POOL=256M kvfs_mount

# 200 requests, each a growing prefix of one of ten chains.
awk 'BEGIN {
	for (i = 0; i < 200; i++) {
		chain = i % 10; len = 2 + int(i / 20)
		ids = ""
		for (b = 0; b < len; b++)
			ids = ids (b ? ", " : "") chain * 1000 + b
		printf "{\"timestamp\": %d, \"input_length\": %d, \"output_length\": 5, \"hash_ids\": [%s]}\n",
			i * 10, len * 512, ids
	}
}' >"$T/trace.jsonl"

_field() { jq -r ".$1" "$T/result"; }

simulate_and_real_bytes_agree() {
	local simulated
	timeout 60 "$KVFS" replay "$T/trace.jsonl" --simulate \
		--capacity-blocks 1000 --json >"$T/result"
	expect 'requests' "$(_field requests)" 200
	simulated=$(_field block_hits)
	[ "$simulated" -gt 0 ] || fail 'no hit'
	timeout 100 "$KVFS" replay "$T/trace.jsonl" --block-bytes 65536 \
		--dir "$KV/replay" --json >"$T/result"
	expect 'hits' "$(_field block_hits)" "$simulated"
	expect 'references' "$(_field block_refs)" 1300
	expect 'bytes' "$(_field bytes_read)" $((simulated * 65536))
}

a_quota_evicts_as_the_simulation_does() {
	local simulated
	# Skewed and random: a cycle would make a cliff of the capacity.
	awk 'BEGIN {
		srand(7)
		for (i = 0; i < 1000; i++) {
			chain = int(100 * rand() ^ 2); len = 3 + int(8 * rand())
			ids = ""
			for (b = 0; b < len; b++)
				ids = ids (b ? ", " : "") chain * 100 + b
			printf "{\"timestamp\": %d, \"input_length\": %d, \"output_length\": 5, \"hash_ids\": [%s]}\n",
				i * 10, len * 512, ids
		}
	}' >"$T/random.jsonl"
	timeout 60 "$KVFS" replay "$T/random.jsonl" --simulate \
		--capacity-blocks 300 --json >"$T/result"
	simulated=$(_field hit_rate)
	timeout 100 "$KVFS" replay "$T/random.jsonl" --block-bytes 65536 \
		--capacity-blocks 300 --dir "$M" --json >"$T/result"
	awk -v a="$simulated" -v b="$(_field hit_rate)" \
		'BEGIN { d = a - b; exit !(d <= 0.02 && d >= -0.02) }' ||
		fail "hit rate $(_field hit_rate), simulated $simulated"
	[ "$(jq -r '.verify_errors' "$T/result")" = 0 ]
}

a_limit_is_kept() {
	timeout 60 "$KVFS" replay "$T/trace.jsonl" --simulate \
		--capacity-blocks 1000 --limit 50 --json >"$T/result"
	expect 'requests' "$(_field requests)" 50
}

a_progress_bar_is_drawn_on_a_terminal_only() {
	requires_cmd script
	timeout 60 "$KVFS" replay "$T/trace.jsonl" --block-bytes 1M \
		--dir "$M" --speed 1 >"$T/plain" 2>&1
	grep -q $'\r' "$T/plain" && fail 'a bar in a file'
	timeout 60 script -qec "'$KVFS' replay '$T/trace.jsonl' \
		--block-bytes 1M --dir '$M' --speed 1" /dev/null >"$T/tty"
	grep -q $'\r.*%' "$T/tty" || fail 'no bar on a terminal'
}

a_wrong_trace_is_refused_with_its_line() {
	head -3 "$T/trace.jsonl" >"$T/wrong"
	say '{"timestamp": 1, "hash_ids": "no list"}' >>"$T/wrong"
	refused 'wrong.*4' timeout 60 "$KVFS" replay "$T/wrong" --simulate \
		--capacity-blocks 10
	refused "$ENOENT" timeout 60 "$KVFS" replay "$T/none" --simulate \
		--capacity-blocks 10
}

the_public_trace_hits_as_lru_does() {
	local trace=${KVFS_TRACE:-}
	[ -r "$trace" ] || skip 'KVFS_TRACE does not name conversation_trace.jsonl'
	timeout 60 "$KVFS" replay "$trace" --simulate \
		--capacity-blocks 10000 --json >"$T/result"
	awk -v r="$(_field hit_rate)" \
		'BEGIN { exit !(r >= 0.208 && r <= 0.214) }' ||
		fail "hit rate $(_field hit_rate), not 0.211"
	expect 'references' "$(_field block_refs)" 288500
}

a_replay_larger_than_the_pool_verifies_every_hit() {
	timeout 100 "$KVFS" replay "$T/trace.jsonl" --block-bytes 4194304 \
		--limit 120 --dir "$KV/large" --json >"$T/result"
	expect 'requests' "$(_field requests)" 120
	expect 'wrong bytes' "$(jq -r '.verify_errors // 0' "$T/result")" 0
}

bench_prints_one_object_a_line() {
	timeout 140 "$KVFS" bench --help >"$T/help"
	local quick=
	grep -q -- --quick "$T/help" && quick=--quick
	timeout 140 "$KVFS" bench "$M" $quick --json >"$T/bench"
	jq -es 'length > 10 and all(.[]; has("op") and has("bytes") and
		has("threads") and has("p50_us") and has("p99_us") and
		has("mib_s") and has("x_memcpy"))' "$T/bench" >/dev/null ||
		fail "$(head -3 "$T/bench")"
	local op
	for op in memcpy open_read_close kept_fd mmap \
		create_write_close_rename exists_1000; do
		jq -es "any(.[]; .op == \"$op\")" "$T/bench" >/dev/null ||
			fail "no $op"
	done
}

run_tests

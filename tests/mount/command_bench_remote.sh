#!/bin/bash
# SPDX-License-Identifier: MIT
# kvfs bench --remote: its lines, its exit codes, what it refuses and what it
# leaves behind. Figures are not looked at.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_memory 3000
POOL=512M cluster_up 2
QUICK=(--quick --seconds 0.5 --sizes 64K)

_bench() { timeout 100 "$KVFS" bench --remote "$@"; }
# Without iperf3, which takes its time.
_bench_alone() {
	timeout 100 env PATH="$T/nowhere" "$KVFS" bench "$@" 2>"$T/err" ||
		fail "$(cat "$T/err")"
}
_fields_are_there() { # FILE
	jq -es 'length > 0 and all(.[]; (keys | sort) == ["bytes",
		"cpu_s_per_gb", "mib_s", "op", "p50_us", "p99_us", "threads",
		"x_iperf3"] and .mib_s > 0)' "$1" >/dev/null ||
		fail "$(cat "$1")"
}
_has() { # FILE OP THREADS: one line of it, with latencies
	jq -es "[.[] | select(.op == \"$2\" and .threads == $3)] | length == 1
		and .[0].bytes == 65536 and .[0].p50_us > 0 and
		.[0].p99_us >= .[0].p50_us" "$1" >/dev/null ||
		fail "no $2 with $3 at once in: $(cat "$1")"
}
_wrong() { # STATUS PATTERN ARGUMENTS...
	local want=$1 pattern=$2 rc=0
	shift 2
	timeout 60 "$KVFS" bench "$@" >"$T/out" 2>&1 || rc=$?
	expect "code of bench $*" $rc "$want"
	grep -Eq -- "$pattern" "$T/out" || fail "bench $*: $(cat "$T/out")"
}

engines_alone_need_no_mount() {
	_bench "${QUICK[@]}" --threads 1,8 --json >"$T/out"
	_fields_are_there "$T/out"
	_has "$T/out" engine_fetch 1
	_has "$T/out" engine_fetch 8
	! grep -q mount_fetch "$T/out" || fail 'there are no mounts to fetch from'
	! command -v iperf3 >/dev/null ||
		jq -es '([.[] | select(.op == "iperf3") | .threads] == [1, 2])
			and all(.[]; .x_iperf3 > 0)' "$T/out" >/dev/null ||
		fail "$(cat "$T/out")"
}

without_iperf3_it_says_so_and_goes_on() {
	_bench_alone --remote "${QUICK[@]}" --threads 1 --json >"$T/out"
	grep -q 'iperf3' "$T/err" || fail 'it says nothing of iperf3'
	_fields_are_there "$T/out"
	jq -es 'all(.[]; .x_iperf3 == null)' "$T/out" >/dev/null ||
		fail "$(cat "$T/out")"
}

two_nodes_are_measured_by_both_operations() {
	_bench_alone --remote "$(mnt 1)" "$(mnt 2)" "${QUICK[@]}" \
		--threads 1,4 --json >"$T/out"
	_fields_are_there "$T/out"
	local op n
	for op in engine_fetch mount_fetch; do
		for n in 1 4; do
			_has "$T/out" $op $n
		done
	done
}

a_batch_of_the_engine_is_measured_by_name() {
	_bench_alone --remote "${QUICK[@]}" --ops engine_batch --json >"$T/out"
	_fields_are_there "$T/out"
	_has "$T/out" engine_batch 1
	! grep -q _fetch "$T/out" || fail '--ops was not heeded'
}

a_chain_is_read_in_order_and_reversed_and_nothing_is_left() {
	local op
	_bench_alone --remote "$(mnt 1)" "$(mnt 2)" "${QUICK[@]}" \
		--ops chain --json >"$T/out"
	_fields_are_there "$T/out"
	for op in chain chain_reversed; do
		_has "$T/out" $op 1
	done
	! grep -q _fetch "$T/out" || fail '--ops was not heeded'
	[ ! -e "$(kv 1)/bench-remote" ] || fail "$(ls "$(kv 1)/bench-remote")"
}

a_buffer_gets_blocks_and_nothing_is_left() {
	_bench_alone --remote "$(mnt 1)" "$(mnt 2)" "${QUICK[@]}" \
		--threads 16 --ops get_registered --json >"$T/out"
	_fields_are_there "$T/out"
	_has "$T/out" get_registered 16
	timeout 100 env PATH="$T/nowhere" "$KVFS" bench --fast "$(mnt 1)" \
		"$(mnt 2)" --quick --seconds 0.5 --json >"$T/out" 2>/dev/null || :
	expect 'the last of --fast' "$(tail -1 "$T/out" |
		jq -r '"\(.op) \(.bytes) \(.threads)"')" \
		'get_registered 4194304 16'
	[ ! -e "$(kv 1)/bench-remote" ] || fail "$(ls "$(kv 1)/bench-remote")"
	wait_for '[ "$(node_stat 2 buffers)" = 0 ]'
	wait_for '[ "$(node_stat 2 rings)" = 0 ]'
}

the_table_ends_with_the_targets() {
	requires_cmd iperf3
	_bench "${QUICK[@]}" --threads 8 >"$T/out"
	grep -q 'blocks of 64' "$T/out" || fail "$(cat "$T/out")"
	grep -q '^target' "$T/out" || fail "$(cat "$T/out")"
	grep -Eq '64 KiB, 8 in flight.*(reached|missed)' "$T/out" ||
		fail "$(cat "$T/out")"
}

wrong_arguments_are_refused() {
	_wrong 2 'two mounts' --remote "$(mnt 1)"
	_wrong 2 'same mount' --remote "$(mnt 1)" "$(mnt 1)/kv"
	_wrong 2 'two mounts' --remote --ops mount_fetch
	_wrong 2 'two mounts' --remote --ops chain
	_wrong 2 'two mounts' --remote --ops get_registered
	_wrong 2 'kept_fd' --remote --ops kept_fd
	_wrong 2 'engine_fetch' --ops engine_fetch "$(mnt 1)"
	_wrong 2 "'0'" --remote --threads 0
	_wrong 2 "'17'" --remote --threads 17
	_wrong 2 '--remote' "$(mnt 1)" "$(mnt 2)"
	_wrong 2 'only with --remote' --transport=rdma
	_wrong 2 'transport' --remote --transport=pigeons
	[ -n "$(ls /sys/class/infiniband 2>/dev/null)" ] ||
		_wrong 3 'no RDMA port' --remote --transport=rdma
	_wrong 3 'not a kvfs' --remote "$T" "$(mnt 2)"
	_wrong 3 'none' --remote "$T/none" "$(mnt 2)"
}

compare_refuses_wrong_arguments() {
	local rc args
	for args in '--rounds 0' '--sizes many' '--threads' '--remote one' 'what'; do
		rc=0
		# shellcheck disable=SC2086 # words
		"$srcdir/tools/compare" $args >"$T/out" 2>&1 || rc=$?
		expect "code of compare $args" $rc 2
	done
	"$srcdir/tools/compare" --help | grep -q Mooncake || fail 'no help'
}

compare_makes_one_table_of_what_is_there() {
	requires_cmd python3
	timeout 100 "$srcdir/tools/compare" --remote "$(mnt 1)" "$(mnt 2)" \
		--sizes 64K --threads 1 --rounds 1 --json >"$T/out" \
		2>"$T/err" || fail "$(cat "$T/err")"
	jq -es 'any(.[]; .op == "redis_get" and .kvfs_ahead > 0 and
			.kvfs_mount_ahead > 0) and
		any(.[]; .op == "mount_fetch")' "$T/out" >/dev/null ||
		fail "$(cat "$T/out" "$T/err")"
	# What is not here is named.
	grep -q mooncake_te "$T/out" || grep -q 'pip install' "$T/err"
}

run_tests

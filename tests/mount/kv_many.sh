#!/bin/bash
# SPDX-License-Identifier: MIT
# Twenty thousand names: listing, memory, restart.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
POOL=512M kvfs_mount
N=20000

_anon_kib() {
	awk '/^RssAnon/ { print $2 }' "/proc/$(kvfs_pid)/status"
}

twenty_thousand_blocks_are_stored() {
	mkdir "$KV/many"
	blocks -n $N -s 4000 store "$KV/many"
	expect 'there' "$(blocks -n $N -s 4000 exist "$KV/many")" \
		"present $N absent 0"
}

the_daemon_takes_64_mib_and_300_bytes_a_block_at_most() {
	local limit=$((64 * 1024 + N * 300 / 1024)) used
	used=$(_anon_kib)
	say "     RssAnon: $used KiB of $limit KiB"
	[ "$used" -le $limit ] || fail "$used KiB, more than $limit"
}

a_listing_has_each_name_once() {
	find "$KV/many" -type f -printf '%f\n' | sort >"$T/names"
	expect 'lines' "$(wc -l <"$T/names")" $N
	expect 'names' "$(uniq "$T/names" | wc -l)" $N
	expect 'first' "$(head -1 "$T/names")" b000000
	expect 'last' "$(tail -1 "$T/names")" b019999
}

a_listing_with_attributes_is_right() {
	expect 'sizes' "$(find "$KV/many" -type f -size -4000c | wc -l)" 0
	expect 'sizes' "$(find "$KV/many" -type f -size 4000c | wc -l)" $N
	ls -U "$KV/many" | head -3 >/dev/null
}

a_name_that_stays_is_listed_while_others_go() {
	local pid
	blocks -n 2000 -f 100000 -s 100 store "$KV/many"
	find "$KV/many" -name 'b1[0-9]*' -size 100c -delete &
	pid=$!
	ls -f "$KV/many" | grep -c '^b0' >"$T/count" || :
	wait $pid
	expect 'those that stayed' "$(cat "$T/count")" $N
}

two_listings_at_once_are_both_whole() {
	ls -f "$KV/many" >"$T/one" &
	ls -f "$KV/many" >"$T/two"
	wait $!
	expect 'one' "$(grep -c '^b' "$T/one")" $N
	expect 'two' "$(grep -c '^b' "$T/two")" $N
}

all_are_there_after_kill_9() {
	local start took
	kvfs_crash
	start=$EPOCHREALTIME
	POOL=512M kvfs_mount
	took=$(awk "BEGIN { print int(($EPOCHREALTIME - $start) * 1000) }")
	say "     mounted again in $took ms"
	expect 'there' "$(blocks -n $N -s 4000 check "$KV/many")" \
		"present $N absent 0"
}

the_kernels_memory_per_block_is_bounded_by_forget() {
	# Dropping the caches must let the daemon forget inodes: no growth
	# from one walk to the next.
	local first i
	for i in 1 2 3; do
		find "$KV/many" -type f -size 1 >/dev/null
		[ "$i" = 1 ] && first=$(_anon_kib)
		echo 2 >/proc/sys/vm/drop_caches
	done
	[ "$(_anon_kib)" -le $((first + 8192)) ] ||
		fail "from $first KiB to $(_anon_kib) KiB"
}

rm_r_removes_them_all() {
	rm -r "$KV/many"
	expect 'kv' "$(ls -A "$KV")" ''
	wait_for '[ "$(status .pool.committed_bytes)" = 0 ]' 20
}

run_tests

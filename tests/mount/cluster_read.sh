#!/bin/bash
# SPDX-License-Identifier: MIT
# Blocks stored on one node are hits on all of them.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
cluster_up 3
mkdir "$(kv 1)/n"

_fetches() { node_status "$1" .remote.fetches; }

a_namespace_made_on_one_node_is_on_all() {
	local i
	for i in 1 2 3; do
		wait_for '[ -d "$(kv '$i')/n" ]'
	done
	expect 'its mode' "$(stat -c %a "$(kv 3)/n")" "$(stat -c %a "$(kv 1)/n")"
}

what_one_node_stored_all_read_byte_for_byte() {
	local size i
	for size in 1 4095 4096 65537 1048576 5242881 20971520; do
		put_published "$(kv 1)/n/size-$size" $size $size
		for i in 2 3; do
			holds "$(kv $i)/n/size-$size" $size $size
		done
	done
}

an_empty_block_is_read_too() {
	put_tmp "$(kv 1)/n/empty" 0 1
	published "$(kv 1)/n/empty"
	wait_for '[ -e "$(kv 2)/n/empty" ]'
	expect 'its size' "$(stat -c %s "$(kv 2)/n/empty")" 0
	expect 'its bytes' "$(wc -c <"$(kv 2)/n/empty")" 0
}

attributes_come_without_a_fetch() {
	local before
	put_published "$(kv 1)/n/attributes" 70000 2
	before=$(_fetches 2)
	expect 'size and type' "$(stat -c '%s %F' "$(kv 2)/n/attributes")" \
		'70000 regular file'
	expect 'state' "$(getfattr --absolute-names --only-values -n user.kvfs.state \
		"$(kv 2)/n/attributes")" remote
	expect 'fetches' "$(_fetches 2)" "$before"
	expect 'holders' "$(getfattr --absolute-names --only-values -n user.kvfs.holders \
		"$(kv 2)/n/attributes")" node-1
}

the_second_read_is_local() {
	local before
	put_published "$(kv 1)/n/twice" 300000 3
	holds "$(kv 2)/n/twice" 300000 3
	before=$(_fetches 2)
	holds "$(kv 2)/n/twice" 300000 3
	expect 'fetches' "$(_fetches 2)" "$before"
	published "$(kv 2)/n/twice"
}

a_copy_is_served_onward() {
	put_published "$(kv 1)/n/onward" 400000 4
	holds "$(kv 2)/n/onward" 400000 4
	published "$(kv 2)/n/onward"
	node_stop 1
	holds "$(kv 3)/n/onward" 400000 4
	node_cont 1
}

_count() { node_status "$1" ".remote.$2"; }

a_block_whose_publish_is_not_answered_is_refused_to_peers() {
	local refused
	refused=$(_count 1 serve_refused)
	# Redis hears of it; that it does is not heard here.
	on 1 iptables -A INPUT -p tcp --sport 6379 -j DROP
	trap 'node_heal 1; hand_stop' EXIT
	put_tmp "$(kv 1)/n/provisional" 50000 11
	wait_for '[ -e "$(kv 2)/n/provisional" ]'
	refused "$ENOENT" cat "$(kv 2)/n/provisional"
	[ "$(_count 1 serve_refused)" -gt "$refused" ] || fail 'not asked for it'
	holds "$(kv 1)/n/provisional" 50000 11
	node_heal 1
	published "$(kv 1)/n/provisional"
	holds_soon "$(kv 2)/n/provisional" 50000 11
	all_know 3
}

readers_at_once_share_one_fetch() {
	local before pids=() i
	put_published "$(kv 1)/n/shared" 8000000 5
	before=$(_fetches 2)
	for i in 1 2 3 4 5 6 7 8; do
		holds "$(kv 2)/n/shared" 8000000 5 &
		pids+=($!)
	done
	for i in "${pids[@]}"; do
		wait "$i"
	done
	expect 'fetches' "$(_fetches 2)" $((before + 1))
}

directories_below_are_seen() {
	mkdir -p "$(kv 1)/n/a/b"
	put_published "$(kv 1)/n/a/b/deep" 9000 6
	holds "$(kv 3)/n/a/b/deep" 9000 6
}

what_nobody_has_is_not_there() {
	refused "$ENOENT" cat "$(kv 2)/n/never"
	refused "$ENOENT" cat "$(kv 2)/n/a/never/never"
}

a_miss_is_not_remembered_for_long() {
	is_gone "$(kv 2)/n/later"
	put_published "$(kv 1)/n/later" 5000 7
	wait_for '[ -e "$(kv 2)/n/later" ]'
	holds "$(kv 2)/n/later" 5000 7
}


# Names below it, each for the first time: one question in 100 ms, which are a
# little less by the kernel's clock.
a_missing_directory_is_a_miss_of_all_below_it() {
	local dir i asked since most
	dir=$(kv 2)/n/none
	asked=$(node_stat 2 redis_lookups_total)
	since=${EPOCHREALTIME/[.,]/}
	for i in {1..2000}; do
		[ ! -e "$dir/$i" ] || fail "$i is there"
	done
	most=$(((${EPOCHREALTIME/[.,]/} - since) / 90000 + 2))
	asked=$(($(node_stat 2 redis_lookups_total) - asked))
	[ $asked -le $most ] || fail "Redis was asked $asked times, not $most"
	[ $asked -gt 0 ] || fail 'Redis was not asked'
}

a_block_of_another_node_cannot_be_written() {
	put_published "$(kv 1)/n/whole" 5000 8
	refused "$EPERM" sh -c "echo x >>'$(kv 2)/n/whole'"
	holds "$(kv 2)/n/whole" 5000 8
}

permissions_hold_on_every_node() {
	put_published "$(kv 1)/n/secret" 5000 9
	chmod 700 "$(kv 1)/n"
	wait_for '[ "$(stat -c %a "$(kv 1)/n")" = 700 ]'
	refused "$EACCES" as_nobody cat "$(kv 1)/n/secret"
	chmod 755 "$(kv 1)/n"
	# It may have heard of the mode between, and not yet of this one.
	wait_for 'as_nobody cat "$(kv 2)/n/secret" >/dev/null 2>&1'
	as_nobody cat "$(kv 2)/n/secret" >/dev/null
}

mmap_and_pread_work_on_a_fetched_block() {
	put_published "$(kv 1)/n/mapped" 2000000 10
	wait_for '[ -e "$(kv 2)/n/mapped" ] && [ -e "$(kv 3)/n/mapped" ]'
	hand_start
	hand open 0 r "$(kv 2)/n/mapped"
	hand check 0 0 10 2000000
	hand open 1 r "$(kv 3)/n/mapped"
	hand map 1 p 2000000
	hand mcheck 1 0 10 2000000
}

many_blocks_are_read_by_many_readers() {
	local i pids=()
	mkdir -p "$(kv 1)/n/many"
	for ((i = 0; i < 60; i++)); do
		put_tmp "$(kv 1)/n/many/$i" $((65536 + i * 1000)) $i
	done
	published "$(kv 1)/n/many/59"
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
	for ((i = 0; i < 60; i++)); do
		holds_soon "$(kv $((2 + i % 2)))/n/many/$i" $((65536 + i * 1000)) $i &
		pids+=($!)
	done
	for i in "${pids[@]}"; do
		wait "$i"
	done
}

a_listing_has_the_names_of_all_nodes() {
	mkdir -p "$(kv 1)/n/list" "$(kv 2)/n/list"
	put_published "$(kv 1)/n/list/one" 5000 1
	put_published "$(kv 2)/n/list/two" 5000 2
	wait_for '[ "$(ls "$(kv 3)/n/list" | xargs)" = "one two" ]' 45
	wait_for '[ "$(ls "$(kv 1)/n/list" | xargs)" = "one two" ]' 45
}

the_nodes_are_listed() {
	expect 'names' "$("$KVFS" nodes --json "$(mnt 1)" |
		jq -r '.nodes[].name' | sort | xargs)" 'node-1 node-2 node-3'
	"$KVFS" nodes "$(mnt 1)" | grep -q '^node-2 .*10\.77\.0\.12'
}

run_tests

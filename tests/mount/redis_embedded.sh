#!/bin/bash
# SPDX-License-Identifier: MIT
# The private redis-server of a mount without meta=.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
kvfs_mount
mkdir "$KV/n"

it_runs_and_is_shown() {
	[ -n "$(redis_pid)" ] || fail 'no redis-server'
	expect 'up' "$(status .redis.up)" true
	expect 'embedded' "$(status .redis.embedded)" true
	expect 'answers' "$(redis_cli ping)" PONG
}

nobody_else_reaches_it() {
	local inode
	for inode in $(find "/proc/$(redis_pid)/fd" -lname 'socket:*' -printf '%l\n' |
		tr -dc '0-9\n'); do
		awk -v i="$inode" '$10 == i && $4 == "0A" { exit 1 }' \
			/proc/net/tcp /proc/net/tcp6 ||
			fail 'it listens on TCP'
	done
	refused "$EACCES|denied" as_nobody redis-cli \
		-s "$(echo "$S"/redis/*.sock)" ping
}

keys_stand_under_one_prefix() {
	put_tmp "$KV/n/a" 1000 1
	wait_for '[ "$(status .redis.dirty)" = 0 ]'
	[ "$(redis_cli dbsize)" -gt 0 ] || fail 'no key'
	expect 'other keys' "$(redis_cli --scan | grep -v '^kvfs:' || :)" ''
}

a_temp_file_costs_redis_nothing_and_a_block_one_publish() {
	local pid
	redis_cli monitor >"$T/monitor" &
	pid=$!
	wait_for 'grep -q OK "$T/monitor"'
	blocks -n 20 -s 10000 store "$KV/n"
	put "$KV/n/forever.tmp" 10000 1
	wait_for '[ "$(status .redis.dirty)" = 0 ] && grep -q b000019 "$T/monitor"'
	kill $pid
	grep tmp "$T/monitor" && fail 'a temp name went to Redis'
	# All in a few batches, not one command a block.
	expect 'names' "$(grep -o '"b0000[0-9][0-9]"' "$T/monitor" | sort -u |
		wc -l)" 20
}

it_is_started_again_when_it_is_killed() {
	local old
	old=$(redis_pid)
	kill -9 "$old"
	wait_for '[ -n "$(redis_pid)" ] && [ "$(redis_pid)" != '"$old"' ]' 15
	wait_for '[ "$(status .redis.up)" = true ]' 15
	put "$CKPT/after" 1000 1
	holds "$CKPT/after" 1000 1
	put_tmp "$KV/n/b" 1000 2
	wait_for '[ "$(status .redis.dirty)" = 0 ]' 15
}

it_is_filled_again_from_what_the_node_holds() {
	local i
	for i in {1..20}; do put_tmp "$KV/n/f$i" 1000 "$i"; done
	wait_for '[ "$(status .redis.dirty)" = 0 ]'
	kill -9 "$(redis_pid)"
	wait_for '[ "$(redis_records "$S/redis/redis.sock" n)" -ge 20 ]' 60
}

the_ckpt_tree_survives_its_death() {
	mkdir "$CKPT/tree"
	put "$CKPT/tree/x" 100000 3
	ln -s x "$CKPT/tree/link"
	kill -9 "$(redis_pid)"
	wait_for '[ "$(status .redis.up)" = true ] && ls "$CKPT/tree" >/dev/null 2>&1' 20
	wait_for 'holds "$CKPT/tree/link" 100000 3' 20
	wait_for 'mkdir "$CKPT/tree/new" 2>/dev/null' 20
}

it_ends_with_the_mount() {
	local pid
	pid=$(redis_pid)
	kvfs_umount
	wait_for "gone $pid"
	kvfs_mount
	holds "$CKPT/tree/x" 100000 3
}

it_ends_with_sigterm_too() {
	local pid
	pid=$(redis_pid)
	kill -TERM "$(kvfs_pid)"
	wait_for "gone $pid"
	wait_for '! is_mounted'
}

without_a_redis_server_the_message_names_it() {
	local out rc=0
	: >"$T/none"
	export T M
	# shellcheck disable=SC2016
	out=$(unshare -m bash -c '
		mount --bind "$T/none" "$(readlink -f "$(command -v redis-server)")" &&
		exec timeout 60 "$KVFS" mount "$M" -o "state=$T/other,pool=64M"' \
		2>&1) || rc=$?
	[ $rc != 0 ] || fail 'it was mounted'
	expect 'lines' "$(wc -l <<<"$out")" 1
	grep -q redis-server <<<"$out" || fail "it says: $out"
}

run_tests

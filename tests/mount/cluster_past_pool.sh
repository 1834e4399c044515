#!/bin/bash
# SPDX-License-Identifier: MIT
# No frame is free, as all of them are open: a block of another node is read
# past the pool.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
POOL=256M DEADLINE=10 cluster_up 2
# A smaller one on node 2: it is filled again and again.
_mount_2() {
	node_mount 2 pool=64M
	all_know 2
}
on 2 "$KVFS" umount --discard "$(mnt 2)"
_mount_2
mkdir "$(kv 1)/n"
wait_for '[ -d "$(kv 2)/n" ]'
mkdir "$(kv 2)/n/own" "$(kv 1)/n/fill"
MiB=1048576

_remote() { node_status 2 ".remote.$1"; }
_state() { getfattr --absolute-names --only-values -n user.kvfs.state "$1" 2>/dev/null; }
_log() { cat "$KVFS_CLUSTER/node-2/state/kvfs.log"; }

# All of node 2's pool is open here, until _release or the test's end: its own
# blocks, and some of node 1 in what is kept for those, until the first that
# finds no frame.
for ((k = 1; k <= 40; k++)); do
	put_tmp "$(kv 1)/n/fill/$k" $MiB $k
done
wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
_hold_all() {
	local i fd past
	hand_start # before there is anything that it would inherit
	HELD=()
	trap _let_go EXIT
	for ((i = 1; i <= 20; i++)); do
		put "$(kv 2)/n/own/t.tmp" $((8 * MiB)) $i 2>/dev/null || break
		mv "$(kv 2)/n/own/t.tmp" "$(kv 2)/n/own/$i"
		# There is no room left where it is evicted at once.
		{ exec {fd}<"$(kv 2)/n/own/$i"; } 2>/dev/null || break
		HELD+=("$fd")
	done
	rm -f "$(kv 2)/n/own/t.tmp"
	past=$(_remote past_pool)
	for ((i = 1; i <= 40; i++)); do
		wait_for '[ -e "$(kv 2)/n/fill/$i" ]'
		exec {fd}<"$(kv 2)/n/fill/$i"
		[ "$(_remote past_pool)" = "$past" ] || break
		HELD+=("$fd")
	done
	[ $i -le 40 ] || fail 'there is always a frame'
	exec {fd}<&-
	wait_for '[ "$(_remote scratch_bytes)" = 0 ]'
}
_release() {
	local fd
	for fd in "${HELD[@]}"; do
		exec {fd}<&-
	done
	HELD=()
}
# Nothing is left for the test that follows.
_let_go() {
	_release
	hand_stop
	rm -f "$(kv 2)"/n/own/*
	wait_for '[ "$(_remote n_fetching)" = 0 ]' 30
	wait_for '[ "$(_remote scratch_bytes)" = 0 ]'
}
# Node 2 as if so, for what counts from its start.
_without_frames() { # [FURTHER FAULTS]
	on 2 "$KVFS" umount "$(mnt 2)"
	KVFS_FAULT=pool.take:1+${1:-} _mount_2
}
_with_frames() {
	on 2 "$KVFS" umount "$(mnt 2)"
	_mount_2
}
_open() { # SLOT NAME: with the hand, past the pool
	wait_for "[ -e '$(kv 2)/n/$2' ]"
	hand open "$1" r "$(kv 2)/n/$2"
}
_open_twelve() { # PREFIX: 60 MiB
	local i
	for ((i = 1; i <= 12; i++)); do
		_open $i "$1$i"
	done
	expect 'scratch' "$(_remote scratch_bytes)" $((60 * MiB))
}
_store() { # PREFIX N: blocks of 5 MiB of node 1, their numbers as seeds
	local i
	for ((i = 1; i <= $2; i++)); do
		put_tmp "$(kv 1)/n/$1$i" $((5 * MiB)) $i
	done
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
}
_remove() { # PREFIX N
	local i
	for ((i = 1; i <= $2; i++)); do
		rm "$(kv 1)/n/$1$i"
	done
}

a_block_is_read_though_all_frames_are_open() {
	local before
	put_published "$(kv 1)/n/a" 3000001 1
	_hold_all
	before=$(_remote past_pool)

	_open 1 a
	hand check 1 0 1 3000001
	hand_refused EBADMSG check 1 0 2 3000001
	expect 'scratch' "$(_remote scratch_bytes)" 3002368
	expect 'state' "$(_state "$(kv 2)/n/a")" remote
	expect 'holders' "$("$KVFS" locate --json "$(kv 1)/n/a" |
		jq -r '.holders | join(" ")')" node-1
	hand map 1 r 3000001
	hand mcheck 1 1000000 1 2000001
	hand unmap 1
	# Who comes meanwhile has the same bytes.
	holds "$(kv 2)/n/a" 3000001 1
	expect 'scratch' "$(_remote scratch_bytes)" 3002368

	hand close 1
	wait_for '[ "$(_remote scratch_bytes)" = 0 ]'
	expect 'past the pool' "$(_remote past_pool)" $((before + 1))
	expect 'state' "$(_state "$(kv 2)/n/a")" remote
	_release
	wait_for 'holds "$(kv 2)/n/a" 3000001 1; [ "$(_state "$(kv 2)/n/a")" = published ]'
}

a_large_one_is_read_while_it_comes() {
	put_published "$(kv 1)/n/large" 40000000 2
	_hold_all

	_open 1 large
	hand check 1 0 2 40000000
	wait_for '[ "$(_remote n_fetching)" = 0 ]'
	hand check 1 39000000 2 1000000
	expect 'scratch' "$(_remote scratch_bytes)" 40001536
	hand close 1
	wait_for '[ "$(_remote scratch_bytes)" = 0 ]'
}

an_empty_one_is_empty() {
	: >"$(kv 1)/n/empty.tmp"
	mv "$(kv 1)/n/empty.tmp" "$(kv 1)/n/empty"
	published "$(kv 1)/n/empty"
	_without_frames

	wait_for '[ -e "$(kv 2)/n/empty" ]'
	expect 'bytes' "$(wc -c <"$(kv 2)/n/empty")" 0
	expect 'past the pool' "$(_remote past_pool)" 1
	_with_frames
}

who_finds_no_memory_either_waits_for_his_turn() {
	local i readers=() before
	_store many 20
	_hold_all
	before=$(_remote past_pool)
	_open_twelve many

	for ((i = 13; i <= 20; i++)); do
		wait_for '[ -e "$(kv 2)/n/many$i" ]'
		(_release && holds "$(kv 2)/n/many$i" $((5 * MiB)) $i) &
		readers+=($!)
	done
	wait_for '[ "$(_remote n_fetching)" = 8 ]'
	expect 'scratch' "$(_remote scratch_bytes)" $((60 * MiB))
	for ((i = 1; i <= 12; i++)); do
		hand check $i 0 $i $((5 * MiB))
		hand close $i
	done
	for i in "${readers[@]}"; do
		wait $i || fail 'one of them failed'
	done
	expect 'past the pool' "$(_remote past_pool)" $((before + 20))
	_remove many 20
}

a_frame_that_becomes_free_will_do() {
	local reader
	_store frame 13
	_hold_all
	_open_twelve frame

	wait_for '[ -e "$(kv 2)/n/frame13" ]'
	(_release && holds "$(kv 2)/n/frame13" $((5 * MiB)) 13) &
	reader=$!
	wait_for '[ "$(_remote n_fetching)" = 1 ]'
	_release
	wait $reader || fail 'it failed'
	expect 'scratch' "$(_remote scratch_bytes)" $((60 * MiB))
	published "$(kv 2)/n/frame13"
	_remove frame 13
}

with_neither_to_the_end_it_says_so() {
	local reader rc=0
	_store none 13
	_hold_all
	_open_twelve none

	wait_for '[ -e "$(kv 2)/n/none13" ]'
	cat "$(kv 2)/n/none13" >/dev/null 2>"$T/said" &
	reader=$!
	wait_for '[ "$(_remote n_fetching)" = 1 ]'
	wait $reader || rc=$?
	expect 'code' $rc 1
	grep -q "$ENOSPC" "$T/said" || fail "$(cat "$T/said")"
	_log | grep -q 'n/none13: not read: all of the pool is in use, and all of' ||
		fail 'no word of it in the log'
	hand check 12 0 12 $((5 * MiB))
	_remove none 13
}

what_is_larger_than_that_memory_is_refused() {
	put_published "$(kv 1)/n/huge" 68000000 3
	_hold_all

	wait_for '[ -e "$(kv 2)/n/huge" ]'
	refused "$ENOSPC" cat "$(kv 2)/n/huge"
	_log | grep -q 'n/huge: not read: .* 68000000 bytes are too many'
	expect 'scratch' "$(_remote scratch_bytes)" 0
	rm "$(kv 1)/n/huge"
}

who_wants_a_frame_hears_that_there_is_none() {
	put_published "$(kv 1)/n/frame" 2000000 4
	_hold_all

	wait_for '[ -e "$(kv 2)/n/frame" ]'
	expect 'located' "$("$HELPERS/ioctl" -f 1 "$(kv 2)/n" locate frame |
		cut -d' ' -f2-)" '1 0 ENOENT'
	refused "$ENOSPC" chmod 600 "$(kv 2)/n/frame"
	expect 'got' "$("$HELPERS/buffer" "$(kv 2)/n" memfd=4194304 \
		register=0:4194304 until=1 get=1:0:2000000:0:0:frame \
		check=4:0:2000000 | tail -n +2)" '2000000/2000000!
same'
	expect 'past the pool' "$(_remote scratch_bytes)" 0
}

its_bytes_are_verified() {
	put_published "$(kv 1)/n/sum" 2000000 5
	_without_frames ,remote.verify:1

	holds_soon "$(kv 2)/n/sum" 2000000 5
	expect 'mismatches' "$(_remote mismatches)" 1
	expect 'past the pool' "$(_remote past_pool)" 1
	wait_for '[ "$(_remote scratch_bytes)" = 0 ]'
	_with_frames
}

it_is_read_to_its_end_when_its_name_goes() {
	put_published "$(kv 1)/n/gone" 3000000 6
	_hold_all

	_open 1 gone
	hand unlink "$(kv 2)/n/gone"
	hand check 1 0 6 3000000
	is_gone "$(kv 1)/n/gone" || fail 'it is still there'
	hand close 1
	wait_for '[ "$(_remote scratch_bytes)" = 0 ]'
}

a_holder_that_stops_leaves_nothing_behind() {
	put_published "$(kv 1)/n/stop" 6000000 7
	_without_frames
	node_stops_at 1 3
	wait_for '[ -e "$(kv 2)/n/stop" ]' 20
	refused "$ENOENT" cat "$(kv 2)/n/stop"
	node_is_stopped 1 || fail 'node 1 did not stop'
	node_cont 1
	all_know 2
	wait_for '[ "$(_remote scratch_bytes)" = 0 ]'
	holds_soon "$(kv 2)/n/stop" 6000000 7
	_with_frames
}

a_mount_ends_while_somebody_waits() {
	local reader pid
	_store end 13
	_hold_all
	_open_twelve end

	wait_for '[ -e "$(kv 2)/n/end13" ]'
	cat "$(kv 2)/n/end13" >/dev/null 2>&1 &
	reader=$!
	wait_for '[ "$(_remote n_fetching)" = 1 ]'
	pid=$(node_pid 2)
	kill "$pid"
	wait $reader && fail 'it was read'
	_release
	hand_stop
	wait_for "gone $pid" 20
	_mount_2
	_remove end 13
}

run_tests

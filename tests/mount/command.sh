#!/bin/bash
# SPDX-License-Identifier: MIT
# The command: help, errors, and the verbs that look at a mount.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
kvfs_mount
mkdir "$KV/n"
blocks -n 20 -s 100000 store "$KV/n"
put "$CKPT/shard" 3000000 5
VERBS='mount umount status info match ls verify bench replay help version'

every_verb_has_help() {
	local verb
	for verb in $VERBS; do
		"$KVFS" help "$verb" >"$T/help"
		grep -q "kvfs $verb" "$T/help" || fail "help $verb says nothing"
		"$KVFS" "$verb" --help >"$T/help2"
		same_file "$T/help" "$T/help2"
		"$KVFS" help | grep -qw "$verb" || fail "help lists no $verb"
	done
}

a_wrong_use_exits_with_2_and_says_what() {
	local rc=0
	"$KVFS" no-such-verb 2>"$T/err" || rc=$?
	expect 'code' $rc 2
	grep -q no-such-verb "$T/err" || fail "it says $(cat "$T/err")"
	rc=0
	"$KVFS" status --no-such-option 2>"$T/err" || rc=$?
	expect 'code' $rc 2
	grep -q no-such-option "$T/err" || fail "it says $(cat "$T/err")"
}

status_finds_the_mount() {
	"$KVFS" status "$M" >"$T/out"
	grep -q "$M" "$T/out" || fail "it shows $(cat "$T/out")"
	"$KVFS" status --json "$M" | jq -e '.pool and .redis' >/dev/null
	refused "$T" "$KVFS" status "$T"
}

info_tells_about_a_block() {
	"$KVFS" info "$KV/n/b000003" >"$T/out"
	grep -q 100000 "$T/out" || grep -q '97\.' "$T/out" ||
		fail "no size in: $(cat "$T/out")"
	"$KVFS" info --json "$KV/n/b000003" | jq -e . >/dev/null
	refused 'none' "$KVFS" info "$KV/n/none"
}

ls_lists_blocks() {
	expect 'names' "$("$KVFS" ls "$KV/n" | grep -c 'b0000')" 20
	expect 'objects' "$("$KVFS" ls --json "$KV/n" | jq -s 'if (.[0] | type) == "array"
		then .[0] | length else length end')" 20
	refused 'none' "$KVFS" ls "$KV/none"
}

version_is_one_line() {
	expect 'lines' "$("$KVFS" version | wc -l)" 1
	"$KVFS" version --json | jq -e .version >/dev/null
}

verify_is_content_with_what_is_right() {
	timeout 60 "$KVFS" verify "$KV/n" "$CKPT/shard" >"$T/out"
	timeout 60 "$KVFS" verify --json "$KV/n" | jq -e . >/dev/null
}

_frame_of() { # PATH: the frame file that holds this block's bytes
	local want f
	want=$(stat -c %s "$1")
	for f in "$S"/pool/frames/*; do
		[ "$(stat -c %s "$f")" = "$want" ] && cmp -s "$f" "$1" &&
			say "$f" && return
	done
	fail "no frame holds $1"
}

verify_finds_a_damaged_block_and_it_is_not_served_again() {
	local frame rc=0
	put_tmp "$KV/n/damaged" 777777 9
	timeout 60 "$KVFS" verify "$KV/n/damaged"
	frame=$(_frame_of "$KV/n/damaged")
	printf x | dd of="$frame" bs=1 seek=500000 conv=notrunc status=none
	timeout 60 "$KVFS" verify "$KV/n/damaged" >"$T/out" 2>&1 || rc=$?
	[ $rc != 0 ] || fail 'the damage was not found'
	grep -q damaged "$T/out" || fail "it says $(cat "$T/out")"
	refused "$ENOENT|$EIO" cat "$KV/n/damaged"
	timeout 60 "$KVFS" verify "$KV/n" >/dev/null
}

verify_finds_a_damaged_shard_in_ckpt() {
	local f rc=0
	put "$CKPT/hurt" 3333333 4
	timeout 60 "$KVFS" verify "$CKPT/hurt"
	f=$(find "$S/ckpt" -type f -size 3333333c | head -1)
	[ -n "$f" ] || fail 'no data file'
	printf x | dd of="$f" bs=1 seek=2000000 conv=notrunc status=none
	timeout 60 "$KVFS" verify "$CKPT/hurt" >"$T/out" 2>&1 || rc=$?
	[ $rc != 0 ] || fail 'the damage was not found'
	grep -q hurt "$T/out" || fail "it says $(cat "$T/out")"
}

a_path_outside_of_kvfs_is_told() {
	refused "$T" "$KVFS" info "$T"
	refused "$T" "$KVFS" verify "$T"
	refused "$T" "$KVFS" ls "$T"
}

run_tests

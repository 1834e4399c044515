#!/bin/bash
# SPDX-License-Identifier: MIT
# Times, owners, modes and extended attributes of blocks.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr setfattr
kvfs_mount
mkdir "$KV/m"
TEST_CWD=$KV/m
put_tmp "$TEST_CWD/x" 100000 1

_time() { # X|Y|Z of stat, with nanoseconds
	stat -c "%.9$1" "$2"
}
_get() { getfattr --absolute-names --only-values -n "$1" "$2"; }

times_are_kept_to_the_nanosecond() {
	local f
	put t.tmp 1000 1
	for f in x t.tmp; do
		touch -a -d @1234567890.123456789 "$f"
		touch -m -d @987654321.000000001 "$f"
		expect "atime of $f" "$(_time X "$f")" 1234567890.123456789
		expect "mtime of $f" "$(_time Y "$f")" 987654321.000000001
	done
	mv t.tmp t
	expect 'atime after commit' "$(_time X t)" 1234567890.123456789
	expect 'mtime after commit' "$(_time Y t)" 987654321.000000001
}

utime_omit_leaves_and_utime_now_sets() {
	local before
	touch -d @1000000000.5 x
	touch -a x # mtime: UTIME_OMIT
	expect 'mtime' "$(_time Y x)" 1000000000.500000000
	before=$(_time X x)
	[ "${before%.*}" -gt 1600000000 ] || fail 'atime was not set'
	touch -m x # atime: UTIME_OMIT
	expect 'atime' "$(_time X x)" "$before"
	[ "$(_time Y x | cut -d. -f1)" -gt 1600000000 ] || fail 'mtime was not set'
}

mtime_is_that_of_the_last_write() {
	local before after
	before=$(date +%s)
	put_tmp fresh 1000 1
	after=$(date +%s)
	local at
	at=$(_time Y fresh | cut -d. -f1)
	{ [ "$at" -ge $((before - 1)) ] && [ "$at" -le "$after" ]; } ||
		fail "mtime $at is not in $before..$after"
}

rsync_can_set_the_times_of_its_temp_file() {
	put .x.AbCdEf 1000 1
	touch -d @1111111111.111111111 .x.AbCdEf
	chmod 604 .x.AbCdEf
	mv .x.AbCdEf from-rsync
	expect 'mtime' "$(_time Y from-rsync)" 1111111111.111111111
	expect 'mode' "$(stat -c %a from-rsync)" 604
}

mode_and_owner_are_kept_and_change_ctime() {
	local before
	put_tmp own 1000 1
	before=$(_time Z own)
	wait_for 'chmod 600 own; [ "$(_time Z own)" != '"$before"' ]' 5
	chown 12345:54321 own
	expect 'stat' "$(stat -c '%a %u %g' own)" '600 12345 54321'
	holds own 1000 1
}

the_creator_owns_what_it_makes() {
	mkdir -m 777 "$KV/theirs"
	as_nobody bash -c "umask 027; echo x >'$KV/theirs/a.tmp' &&
		mv '$KV/theirs/a.tmp' '$KV/theirs/a'; mkdir '$KV/theirs/d'"
	expect 'file' "$(stat -c '%a %u %g' "$KV/theirs/a")" '640 65534 65534'
	expect 'folder' "$(stat -c '%a %u %g' "$KV/theirs/d")" \
		'750 65534 65534'
}

others_read_only_what_they_may() {
	put_tmp secret 1000 2
	chmod 600 secret
	cat secret >/dev/null
	refused "$EACCES" as_nobody cat "$PWD/secret"
	chmod 644 secret
	as_nobody cat "$PWD/secret" >/dev/null
	refused "$EACCES" as_nobody bash -c "echo x >'$PWD/new'"
	refused "$EACCES|$EPERM" as_nobody rm -f "$PWD/secret"
	refused "$EPERM" as_nobody chmod 666 "$PWD/secret"
}

a_closed_folder_hides_what_root_has_looked_up() {
	mkdir -m 700 "$KV/closed"
	put_tmp "$KV/closed/a" 1000 1
	cat "$KV/closed/a" >/dev/null
	refused "$EACCES" as_nobody cat "$KV/closed/a"
	refused "$EACCES" as_nobody ls "$KV/closed"
	refused "$EACCES" as_nobody stat "$KV/closed/none"
}

user_attributes_are_kept() {
	setfattr -n user.model -v llama x
	setfattr -n user.bin -v 0x00ff00 x
	expect 'value' "$(_get user.model x)" llama
	expect 'bytes' "$(_get user.bin x | od -An -tx1 | tr -d ' ')" 00ff00
	getfattr -m '^user\.(model|bin)' x | grep -c '^user' | grep -qx 2 ||
		fail "the list: $(getfattr -m - x)"
	setfattr -x user.model x
	refused 'No such attribute' getfattr -n user.model x
	refused 'No such attribute' setfattr -x user.model x
}

user_attributes_go_with_the_commit_and_the_rename() {
	put a.tmp 1000 1
	setfattr -n user.k -v v1 a.tmp
	mv a.tmp a
	expect 'after commit' "$(_get user.k a)" v1
	mv a b
	expect 'after rename' "$(_get user.k b)" v1
}

the_blocks_own_attributes_are_readable() {
	local name
	for name in checksum hits class holders generation state; do
		_get user.kvfs.$name x >"$T/value" || fail "no user.kvfs.$name"
		[ -s "$T/value" ] || fail "user.kvfs.$name is empty"
	done
	wait_for '_get user.kvfs.state x | grep -qx published' 5
	put s.tmp 10 1
	expect 'state of a temp' "$(_get user.kvfs.state s.tmp)" writing
}

hits_go_up_with_every_open() {
	local before
	before=$(_get user.kvfs.hits x)
	cat x x x >/dev/null
	expect 'hits' "$(_get user.kvfs.hits x)" $((before + 3))
}

the_blocks_own_attributes_are_not_writable() {
	refused "$EPERM|$EINVAL|not supported|$EACCES" \
		setfattr -n user.kvfs.hits -v 9 x
	refused "$EPERM|$EINVAL|not supported|$EACCES" \
		setfattr -n user.kvfs.nonsense -v 9 x
}

a_checksum_is_that_of_the_bytes() {
	put_tmp sum 1234567 5
	wait_for '[ -n "$(_get user.kvfs.checksum sum 2>/dev/null)" ]' 10
	expect 'XXH3-128' "$(_get user.kvfs.checksum sum | grep -oE '[0-9a-f]{32}')" \
		"$("$HELPERS/xxh128" <sum)"
}

run_tests

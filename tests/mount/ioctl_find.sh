#!/bin/bash
# SPDX-License-Identifier: MIT
# <kvfs/ioctl.h>: what every request is checked for, VERSION, EXISTS, MATCH.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
kvfs_mount
mkdir -p "$KV/n/sub"
for i in 0 1 2 4; do
	put_tmp "$KV/n/b$i" 5000 $i
done
put_tmp "$KV/n/sub/c" 5000 7

_ioctl() { "$HELPERS/ioctl" "$@"; }
_names() { seq 0 $(($1 - 1)) | sed "s,^,b,"; } # b0, b1, ...
ENOTTY='Inappropriate ioctl'
EPROTO='Protocol not supported'
EOPNOTSUPP='Operation not supported'
EMSGSIZE='Message too long'

the_version_is_told_on_every_directory() {
	local features=5 # passthrough, rings; no cluster, so no card
	[ "$KVFS_RUNG" != direct ] || features=4
	for dir in "$M" "$CTL" "$KV" "$KV/n/sub" "$CKPT"; do
		expect "$dir" "$(_ioctl "$dir" version)" \
			"$features 16383 2000 $("$KVFS" --version | cut -d' ' -f2)"
	done
	expect 'another abi' "$(_ioctl -a 99 "$M" version)" \
		"$(_ioctl "$M" version)"
}

names_that_are_there_have_their_bit_and_the_prefix_ends_at_a_gap() {
	expect 'all' "$(_names 6 | _ioctl "$KV/n" exists -)" '0 6 4 3 111010'
	expect 'none' "$(_ioctl "$KV/n" exists)" '0 0 0 0 '
	expect 'one' "$(_ioctl "$KV/n" exists b4)" '0 1 1 1 1'
	expect 'paths' "$(_ioctl "$KV/n" exists sub/c c sub/b0 sub)" \
		'0 4 1 1 1000'
	expect 'both' "$(_ioctl "$KV/n" exists b0 sub/c)" '0 2 2 2 11'
	expect 'of the namespace' "$(_ioctl "$KV" exists n/b0 n/sub/c n x/b0)" \
		'0 4 2 2 1100'
	expect 'match' "$(_names 6 | _ioctl "$KV/n" match - | sed -E 's/ [^ :]+:3/ :3/')" \
		'0 6 4 3 111010 :3:self'
}

a_temporary_file_is_not_there_and_a_closed_one_is() {
	put "$KV/n/t.tmp" 5000 1
	put "$KV/n/now" 5000 1
	expect 'found' "$(_ioctl "$KV/n" exists t.tmp now)" '0 2 1 0 01'
	rm "$KV/n/now"
	expect 'gone' "$(_ioctl "$KV/n" exists now)" '0 1 0 0 0'
}

digests_are_lower_case_hex_and_a_suffix() {
	local digest n
	for n in 16 20 32; do
		digest=$(head -c $n /dev/zero | tr '\0' '\253' | od -An -v -tx1 |
			tr -d ' \n')
		put_tmp "$KV/n/$digest" 5000 1
		put_tmp "$KV/n/$digest.bin" 5000 1
		expect "$n" "$(_ioctl -d $n "$KV/n" exists "$digest" \
			"${digest//a/b}")" '0 2 1 1 10'
		expect "$n.bin" "$(_ioctl -d $n -x .bin "$KV/n" exists \
			"${digest^^}")" '0 1 1 1 1'
		expect "$n.no" "$(_ioctl -d $n -x .no "$KV/n" exists \
			"$digest")" '0 1 0 0 0'
	done
	for n in 1 15 17 31 33 64 255; do
		refused "$EINVAL" _ioctl -d $n "$KV/n" exists "$digest"
	done
	refused "$EINVAL" _ioctl -d 16 -x / "$KV/n" exists "$digest"
	refused "$EINVAL" _ioctl -x .bin "$KV/n" exists a
}

names_that_differ_in_their_end_are_told_apart() {
	local digits name
	mkdir "$KV/n/like"
	for digits in 32 35; do
		seq -f "%0${digits}g" 400 >"$T/like"
		for name in $(awk 'NR % 2' "$T/like"); do
			echo >"$KV/n/like/$name"
		done
		expect "$digits" "$(_ioctl "$KV/n/like" exists - <"$T/like")" \
			"0 400 200 1 $(printf '10%.0s' {1..200})"
	done
	expect 'nearly all' "$(awk 'NR % 2 || NR > 391' "$T/like" |
		_ioctl "$KV/n/like" exists -)" \
		"0 205 200 196 $(printf '1%.0s' {1..196})010101010"
}

_a_line_less_than() { sed '$d' "$1"; }
as_many_as_fit_and_not_one_more() {
	_names 2001 >"$T/names"
	expect 'max' "$(_a_line_less_than "$T/names" | _ioctl "$KV/n" exists - |
		cut -c1-20)" '0 2000 4 3 111010000'
	refused "$EINVAL" bash -c '"$1" "$2" exists - <"$3"' - \
		"$HELPERS/ioctl" "$KV/n" "$T/names"
	seq 1 1022 | awk '{ printf "%032x\n", $1 }' >"$T/digests"
	expect 'digests' "$(_ioctl -d 16 -R 16383 "$KV/n" exists - \
		<"$T/digests" | cut -d' ' -f1-4)" '0 1022 0 0'
	refused "$EMSGSIZE" _ioctl -R 36 "$KV/n" match b0
}

what_is_no_request_is_refused() {
	refused "$EINVAL" _ioctl -r 1 "$M" version
	refused "$EINVAL" _ioctl -r 1 "$KV/n" exists a
	refused "$EINVAL" _ioctl -r 0x10000 "$KV/n" exists a
	refused "$EINVAL" _ioctl -f 2 "$KV/n" exists a
	for n in 0 7 31 33 35 100 99999; do
		refused "$EINVAL" _ioctl -s $n "$KV/n" exists a
	done
	for n in 0 2 2000 2001 0xffffffff; do
		refused "$EINVAL" _ioctl -n $n "$KV/n" exists a
	done
	for name in '' . .. ../n a//b /a a/ "$(printf '%0256d' 0)"; do
		refused "$EINVAL" _ioctl "$KV/n" exists "$name"
	done
	for abi in 0 2 4294967295; do
		refused "$EPROTO" _ioctl -a $abi "$KV/n" exists a
	done
}

every_bit_size_and_version_of_every_request_is_checked() {
	expect 'taken' "$("$HELPERS/requests" "$KV/n")" ''
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
	wait_for '[ "$(stat_of kvfs_buffers)" = 0 ]'
}

what_is_no_command_is_refused() {
	local c
	for c in 0xc01fd702 0xc020d7ff 0x4020d702 0x8020d702 0xc020d602 \
		0xd702 0xc041d701 0x5401; do
		refused "$ENOTTY" _ioctl -c $c "$KV/n" exists a
	done
	expect 'more room' "$(_ioctl -c 0xc040d702 "$KV/n" exists b0)" \
		'0 1 1 1 1'
	refused "$ENOTTY" _ioctl "$T" exists a
	refused "$ENOTTY" _ioctl -F "$KV/n/b0" exists a
	refused "$ENOTTY" _ioctl -F "$CTL/stats" version
	for dir in "$M" "$CTL" "$CKPT"; do
		refused "$EOPNOTSUPP" _ioctl "$dir" exists a
	done
}

what_he_may_not_search_is_not_there() {
	mkdir -p "$KV/n/mine/deep" "$KV/n/ours"
	put_tmp "$KV/n/mine/deep/a" 5000 1
	put_tmp "$KV/n/ours/a" 5000 1
	chmod 700 "$KV/n/mine"
	chmod 710 "$KV/n/ours"
	chgrp 4242 "$KV/n/ours"
	expect 'root' "$(_ioctl "$KV/n" exists mine/deep/a ours/a b0)" \
		'0 3 3 3 111'
	expect 'nobody' "$(as_nobody "$HELPERS/ioctl" "$KV/n" exists \
		mine/deep/a ours/a b0)" '0 3 1 0 001'
	expect 'a member' "$(setpriv --reuid=65534 --regid=65534 \
		--groups=7,4242 -- "$HELPERS/ioctl" "$KV/n" exists \
		mine/deep/a ours/a b0)" '0 3 2 0 011'
	# a descriptor that a parent left him opens no names to him
	expect 'left to him' "$(setpriv --reuid=65534 --regid=65534 \
		--clear-groups -- "$HELPERS/ioctl" -F /dev/fd/3 exists a \
		3<"$KV/n/mine/deep")" '0 1 0 0 0'
}

a_directory_that_was_removed_has_no_names() {
	mkdir "$KV/n/gone"
	exec {fd}<"$KV/n/gone"
	rmdir "$KV/n/gone"
	refused "$ENOENT" _ioctl -F "/proc/self/fd/$fd" exists a
	exec {fd}<&-
}

run_tests

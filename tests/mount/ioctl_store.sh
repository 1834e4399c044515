#!/bin/bash
# SPDX-License-Identifier: MIT
# Blocks written in place: RESERVE, COMMIT, ABORT.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
POOL=64M
kvfs_mount
mkdir "$KV/n"

_ioctl() { "$HELPERS/ioctl" -M "$CTL/frames" "$@"; }
# The kernel tells a moment later that a frame was closed: then it is copied.
_store() { _ioctl "$@" | sed 's/^1/0/; s/ 1/ 0/g'; }
_lent() { stat_of kvfs_lent_frames; }

what_was_written_in_place_is_a_block() {
	expect 'stored' "$(_store "$KV/n" store 65536 a b c)" '0 0 0 '
	for i in 0 1 2; do
		holds "$KV/n/$(cut -c$((i + 1)) <<<abc)" 65536 $i
	done
	expect 'odd' "$(_store "$KV/n" store 3000001 odd)" '0 '
	holds "$KV/n/odd" 3000001 0
	expect 'owner' "$(stat -c '%u %a' "$KV/n/odd")" '0 644'
	refused "$EPERM" bash -c ': >"$1"' - "$KV/n/odd"
	wait_for '[ "$(_lent)" = 0 ]'
}

# In the 100 ms that the kernel would remember the miss.
a_name_that_was_just_missed_is_there_once_it_is_stored() {
	local i
	[ "$(printf '%s\n6.16\n' "$(uname -r)" | sort -V | head -1)" = 6.16 ] ||
		skip 'Linux before 6.16 remembers a miss for 100 ms'
	for i in {1..10}; do
		[ ! -e "$KV/n/missed-$i" ]
		expect 'stored' "$(_store "$KV/n" store 65536 "missed-$i")" '0 '
		holds "$KV/n/missed-$i" 65536 0
	done
}

what_stays_mapped_is_copied_and_cannot_change_the_block() {
	expect 'stored' "$(_ioctl -k "$KV/n" store 65536 k0 k1)" '1 1 '
	holds "$KV/n/k0" 65536 0
	holds "$KV/n/k1" 65536 1
	expect 'large' "$(_ioctl -k "$KV/n" store 3000001 k2)" '1 '
	holds "$KV/n/k2" 3000001 0
}

the_first_block_of_a_name_stays() {
	put_tmp "$KV/n/first" 5000 9
	expect 'was there' "$(_store "$KV/n" store 65536 first second)" '3 0 '
	holds "$KV/n/first" 5000 9
	holds "$KV/n/second" 65536 1
}

each_continues_the_one_before() {
	put_tmp "$KV/n/root" 5000 1
	expect 'stored' "$(_store -p "$KV/n" store 5000 root c1 c2)" '0 0 '
	for pair in c1:root c2:c1; do
		expect "$pair" "$(getfattr --absolute-names --only-values -n user.kvfs.parent \
			"$KV/n/${pair%:*}")" "${pair#*:}"
	done
}

a_synced_block_is_known_to_redis() {
	expect 'stored' "$(_store -f 1 "$KV/n" store 5000 s0 s1)" '0 0 '
	expect 'state' "$(getfattr --absolute-names --only-values \
		-n user.kvfs.state "$KV/n/s1")" published
}

who_may_not_write_there_cannot_store() {
	mkdir "$KV/n/his" "$KV/n/closed"
	chown 65534 "$KV/n/his"
	expect 'nobody' "$(as_nobody "$HELPERS/ioctl" -M "$CTL/frames" "$KV/n" \
		store 5000 his/a no closed/a none/a his/x.tmp | sed s/^1/0/)" \
		'0 EACCES EACCES ENOENT EINVAL '
	expect 'owner' "$(stat -c '%U' "$KV/n/his/a")" "$(id -un 65534)"
	wait_for '[ "$(_lent)" = 0 ]'
}

what_is_no_request_is_refused() {
	refused "$EINVAL" _ioctl -r 1 "$KV/n" store 5000 x
	refused "$EINVAL" _ioctl "$KV/n" store 0 x
	refused "$EINVAL" _ioctl "$KV/n" store 99999999999 x
	refused "$EINVAL" _ioctl -f 8 "$KV/n" store 5000 x
	refused "$EINVAL" _ioctl -n 2 "$KV/n" store 5000 x
	refused 'quota' _ioctl "$KV/n" store 20000000 x y
	wait_for '[ "$(_lent)" = 0 ]'
	[ ! -e "$KV/n/x" ]
}

a_reservation_ends_by_abort_and_with_its_directory() {
	expect 'aborted' "$(_ioctl -A "$KV/n" store 2000000 x y)" 2
	wait_for '[ "$(_lent)" = 0 ]'
	for ((i = 0; i < 40; i++)); do # more than there is, if any were left
		_ioctl -A -s 32 "$KV/n" store 10000000 x >"$T/out" 2>&1 || :
		_ioctl "$KV/n" store 2000000 "x/none" >"$T/out"
	done
	wait_for '[ "$(_lent)" = 0 ]'
	wait_for '[ "$(status .pool.writing_bytes)" = 0 ]'
}

# Four times what the pool has.
what_is_written_past_a_frame_takes_no_block() {
	local i evictions
	rm -rf "$KV/n"/*
	for i in {0..9}; do
		put_tmp "$KV/n/old-$i" 1000000 $((i + 30))
	done
	evictions=$(stat_of kvfs_evictions_total)
	expect 'stored' "$(_store -o 256000000 "$KV/n" store 65537 wide 2>"$T/err")" '0 '
	if [ "$KVFS_RUNG" = direct ]; then
		expect 'the write' "$(cat "$T/err")" EFBIG
	fi
	holds "$KV/n/wide" 65537 0
	expect 'evictions' "$(stat_of kvfs_evictions_total)" "$evictions"
	for i in {0..9}; do
		holds "$KV/n/old-$i" 1000000 $((i + 30))
	done
	wait_for '[ "$(status .pool.writing_bytes)" = 0 ]'
}

writers_killed_at_any_moment_leave_nothing() {
	local p
	cat >"$T/client" <<-'END'
		for ((i = 0; ; i++)); do
			"$HELPERS/ioctl" -M "$CTL/frames" $1 "$KV/n" \
				store 300000 "w$$-$i" "v$$-$i"
		done
	END
	export KV CTL
	kill_clients 25 'stat_of kvfs_stores_total' "$T/client" -k ''
	wait_for '[ "$(_lent)" = 0 ]'
	expect 'bytes' "$(stat_of kvfs_lent_bytes)" 0
	wait_for '[ "$(status .pool.writing_bytes)" = 0 ]'
	wait_for '[ "$(status .pool.aside_bytes)" = 0 ]'
	for p in "$KV"/n/w*; do
		holds "$p" 300000 0
	done
}

run_tests

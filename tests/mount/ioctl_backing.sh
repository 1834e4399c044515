#!/bin/bash
# SPDX-License-Identifier: MIT
# <kvfs/ioctl.h>: BACKING, the file behind one of ckpt/, for cuFile.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
kvfs_mount
mkdir "$KV/n"
put_tmp "$KV/n/b" 70001 1
put "$CKPT/f" 70001 2

_backing() { "$HELPERS/backing" "$@"; }
_why() { "$HELPERS/backing" "$@" || :; } # not
_fds() { ls -l "/proc/$(kvfs_pid)/fd"; }
_files() { _fds | grep -c 'state/ckpt/' || :; }
_sockets() { _fds | grep -c 'socket:' || :; }
_bytes() { tail -n +2 "$T/out" >"$T/bytes"; }
_handed() { stat_of kvfs_ckpt_handed_total; }

a_file_of_ckpt_is_given_read_only_with_its_bytes() {
	local before
	before=$(_handed)
	for how in '' -b; do
		_backing $how "$CKPT/f" >"$T/out"
		grep -q '^read-only' "$T/out" || fail "$(head -1 "$T/out")"
		grep -q 'and yet' "$T/out" && fail "$(head -1 "$T/out")"
		_bytes
		holds "$T/bytes" 70001 2
	done
	expect 'handed' "$(_handed)" $((before + 2))
	put "$CKPT/empty" 0 1
	_backing "$CKPT/empty" >"$T/out"
	_bytes
	holds "$T/bytes" 0 1
}

who_may_only_read_it_cannot_write_by_it() {
	chmod 644 "$CKPT/f"
	as_nobody "$HELPERS/backing" "$CKPT/f" >"$T/out"
	[[ $(head -1 "$T/out") == read-only*', again: EACCES' ]] ||
		fail "$(head -1 "$T/out")"
	_bytes
	holds "$T/bytes" 70001 2
	chmod 600 "$CKPT/f"
	expect 'may not' "$(as_nobody "$HELPERS/backing" "$CKPT/f" ||
		:)" EACCES
	chmod 644 "$CKPT/f"
}

it_stays_when_the_name_goes_and_the_file_is_closed() {
	put "$CKPT/g" 5000001 3
	mkfifo "$T/go"
	rm -f "$T/out"
	_backing -c "$CKPT/g" <"$T/go" >"$T/out" &
	exec 7>"$T/go"
	wait_for '[ -s "$T/out" ]' # it has it
	rm "$CKPT/g"
	put "$CKPT/g" 100 4
	echo >&7
	exec 7>&-
	wait $!
	_bytes
	holds "$T/bytes" 5000001 3
	_backing "$CKPT/g" >"$T/out"
	_bytes
	holds "$T/bytes" 100 4
}

what_is_no_such_file_has_none() {
	expect 'a block' "$(_why "$KV/n/b")" EOPNOTSUPP
	expect 'a control file' "$(_why "$CTL/version")" EOPNOTSUPP
	expect 'a directory' "$(_why "$CKPT")" ENOTTY
	expect 'of blocks' "$(_why "$KV/n")" ENOTTY
	expect 'elsewhere' "$(_why "$HELPERS/backing")" ENOTTY
	expect 'not to be read' "$(_why -w "$CKPT/f")" EACCES
	expect 'another command' "$("$HELPERS/ioctl" -F "$CKPT/f" version 2>&1 ||
		:)" "ioctl: Inappropriate ioctl for device"
}

wrong_requests_and_sockets_are_refused_and_nothing_is_handed() {
	local before what
	before=$(_handed)
	expect 'flags' "$(_why -f 1 "$CKPT/f")" EINVAL
	expect 'reserved' "$(_why -r 1 "$CKPT/f")" EINVAL
	expect 'short' "$(_why -s 23 "$CKPT/f")" EINVAL
	expect 'long' "$(_why -s 25 "$CKPT/f")" EINVAL
	expect 'no descriptor' "$(_why -S none "$CKPT/f")" EBADF
	expect 'a file' "$(_why -S file "$CKPT/f")" EINVAL
	expect 'another socket' "$(_why -S udp "$CKPT/f")" EINVAL
	expect 'nobody reads' "$(_why -S full "$CKPT/f")" EBUSY
	expect 'handed' "$(_handed)" "$before"
}

# The daemon keeps none, whoever asked for it and went away.
no_descriptor_stays_with_the_daemon() {
	_backing "$CKPT/f" >/dev/null
	wait_for '[ "$(_files)" = 0 ]'
	local sockets
	sockets=$(_sockets)
	for _ in $(seq 20); do
		_backing "$CKPT/f" >/dev/null
		_why -S file "$CKPT/f" >/dev/null
		_why -S full "$CKPT/f" >/dev/null
	done
	wait_for '[ "$(_files)" = 0 ] && [ "$(_sockets)" = '"$sockets"' ]'
}

run_tests

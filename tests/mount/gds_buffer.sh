#!/bin/bash
# SPDX-License-Identifier: MIT
# libkvfs: any number of blocks to and from memory of the caller's own.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
kvfs_mount
mkdir -p "$KV/n/s" "$KV/n/b"

_gds() { "$HELPERS/gds_buffer" "$@"; }
_names() { seq -f "$1%.0f" 0 $(($2 - 1)); } # PREFIX N
_parent() { getfattr --absolute-names --only-values -n user.kvfs.parent "$1"; }
_nothing_left() { wait_for '[ "$(stat_of kvfs_buffers)" = 0 ]'; }

blocks_are_stored_and_read_in_as_many_requests_as_it_takes() {
	_names a 1500 >"$T/names"
	expect 'stored' "$(_gds "$KV/n/s" store 3000 <"$T/names")" '1500 0'
	holds "$KV/n/s/a0" 3000 0
	holds "$KV/n/s/a1499" 3000 1499
	# The chain goes on where one request ends and the next begins.
	for i in 1 300 400 450 1499; do
		expect "parent of $i" "$(_parent "$KV/n/s/a$i")" "s/a$((i - 1))"
	done
	echo none >>"$T/names"
	expect 'read' "$(_gds "$KV/n/s" read 3000 <"$T/names")" '1500 0 1500
none: ENOENT'
	expect 'again' "$(_names a 1501 | _gds "$KV/n/s" store 3000)" '1501 1500'
	expect 'none' "$(_gds "$KV/n/s" read 3000 </dev/null)" '0 0 0'
	_nothing_left
}

a_chain_continues_a_block_that_is_there() {
	put_tmp "$KV/n/b/root" 100 1
	expect 'stored' "$(printf '%s\n' root c1 c2 x.tmp no/x |
		_gds -p -s "$KV/n/b" store 70000)" '2 0
x.tmp: EINVAL
no/x: ENOENT'
	expect 'c1' "$(_parent "$KV/n/b/c1")" b/root
	expect 'c2' "$(_parent "$KV/n/b/c2")" b/c1
	expect 'published' "$(getfattr --absolute-names --only-values \
		-n user.kvfs.state "$KV/n/b/c2")" published
}

long_names_fill_more_requests() {
	local deep
	deep=$(printf '%0200d/%0200d' 1 2)
	mkdir -p "$KV/n/$deep"
	_names "$deep/" 100 >"$T/names"
	expect 'stored' "$(_gds "$KV/n" store 500 <"$T/names")" '100 0'
	expect 'read' "$(_gds "$KV/n" read 500 <"$T/names")" '100 0 100'
}

what_cannot_be_is_an_error() {
	expect 'errors' "$(_gds "$KV/n" errors)" 'unsealed EPERM
closed EBADF
empty EINVAL
flags EINVAL
new ok
no buffer EINVAL
read ok
its error ENOENT
flags EINVAL
flags EINVAL
mode EINVAL
none ok
another handle EINVAL
end ok
end of none ok'
	_nothing_left
}

run_tests

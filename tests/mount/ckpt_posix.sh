#!/bin/bash
# SPDX-License-Identifier: MIT
# ckpt/ keeps what POSIX promises: the cases of helpers/posix*.c.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
kvfs_mount allow_other
mkdir "$CKPT/posix"
TEST_CWD=$CKPT/posix

_posix() { "$HELPERS/posix" "$1" >"$T/out" || { cat "$T/out" >&2; fail "$1"; }; }

the_cases_themselves_hold_on_the_machines_own_filesystem() {
	[ "$KVFS_RUNG" = direct ] || skip 'once is enough'
	mkdir "$T/own"
	cd "$T/own"
	_posix errors
	_posix renames
	_posix links
	_posix modes
}
errors_are_the_right_ones_in_the_right_order() { _posix errors; }
renames_are_atomic_and_complete() { _posix renames; }
links_count() { _posix links; }
times_are_exact() { _posix times; }
modes_and_owners_are_kept() { _posix modes; }
bytes_are_kept() { _posix data; }
mappings_are_the_file() { _posix mappings; }
extended_attributes_are_kept() { _posix xattrs; }
special_files_are_special() { _posix special; }
directories_are_streams() { _posix dirs; }

run_tests

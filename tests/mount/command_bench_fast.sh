#!/bin/bash
# SPDX-License-Identifier: MIT
# kvfs bench --fast: its lines, and what it leaves behind. Figures are not
# looked at.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
requires_root
requires_memory 3000
POOL=768M
# Without passthrough what is mapped is held open as well as pinned.
[ "$KVFS_RUNG" != direct ] || POOL=1280M
kvfs_mount

every_operation_has_its_line() {
	timeout 100 "$KVFS" bench --fast --quick --seconds 0.5 --json "$M" \
		>"$T/lines"
	expect 'operations' "$(jq -r '"\(.op) \(.bytes)"' "$T/lines")" \
		'locate_memcpy 4194304
locate_memcpy 1048576
locate_memcpy_ring 4194304
locate_memcpy_ring 1048576
in_place_64 0
exists_1000 0
ring_exists 0
reserve_commit 65536
buffers_1000 4096
rings_64 4096'
	jq -es 'all(.[] | select(.daemon_kib == null); .p50_us > 0 and
		(.x_memcpy // .x_read // .x_tmpfs_stat // .x_ioctl //
		.x_create) > 0)' \
		"$T/lines" >/dev/null || fail "$(cat "$T/lines")"
}

what_is_asked_for_is_measured_alone() {
	timeout 100 "$KVFS" bench --fast --quick --seconds 0.2 --json \
		--ops exists_1000,reserve_commit "$M" >"$T/lines"
	expect 'operations' "$(jq -r .op "$T/lines" | tr '\n' ' ')" \
		'exists_1000 reserve_commit '
	refused mount_fetch "$KVFS" bench --fast --ops mount_fetch "$M"
}

nothing_is_left() {
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
	wait_for '[ "$(stat_of kvfs_buffers)" = 0 ]'
	wait_for '[ "$(stat_of kvfs_rings)" = 0 ]'
	[ ! -e "$KV/bench" ]
}

another_folder_is_refused() {
	refused 'no kvfs' "$KVFS" bench --fast "$T"
}

run_tests

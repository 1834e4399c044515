#!/bin/bash
# SPDX-License-Identifier: MIT
# A checkpoint file far larger than the pool lies on the disk tier.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
SIZE=$((512 << 20))
[ "$(df -B1 --output=avail "$T" | tail -1)" -gt $((SIZE * 2)) ] ||
	skip 'needs 1 GiB of disk'
POOL=64M kvfs_mount
mkdir "$KV/n"

a_file_eight_times_the_pool_is_stored_and_read_back() {
	put_tmp "$KV/n/x" 1000000 1
	put "$CKPT/large.tmp" $SIZE 2
	mv "$CKPT/large.tmp" "$CKPT/large"
	expect 'size' "$(stat -c %s "$CKPT/large")" $SIZE
	holds "$CKPT/large" $SIZE 2
	holds "$KV/n/x" 1000000 1
}

it_survives_a_restart() {
	kvfs_crash
	POOL=64M kvfs_mount
	holds "$CKPT/large" $SIZE 2
}

its_room_comes_back_when_it_is_removed() {
	local before
	before=$(df -B1 --output=avail "$S" | tail -1)
	rm "$CKPT/large"
	wait_for '[ "$(df -B1 --output=avail "$S" | tail -1)" -gt '$((before + SIZE / 2))' ]' 20
}

a_full_disk_says_so_and_recovers() {
	kvfs_umount --discard
	mkdir "$T/small"
	mount -t tmpfs -o size=48m none "$T/small"
	POOL=16M kvfs_mount "state=$T/small/state"
	put "$CKPT/kept" 1000000 3
	# shellcheck disable=SC2016
	refused "$ENOSPC" bash -c '"$HELPERS/pattern" write 1 67108864 >"$1"' \
		- "$CKPT/much"
	rm -f "$CKPT/much"
	holds "$CKPT/kept" 1000000 3
	# The bytes of a removed file go in the background.
	wait_for '[ $(($(stat -f -c "%a * %S" "$CKPT"))) -gt 16000000 ]' 20
	put "$CKPT/next" 8000000 4
	holds "$CKPT/next" 8000000 4
	kvfs_umount --discard
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Somebody who is not root mounts with fusermount3, on the lowest rung: who runs
# this, or `nobody` where that is root.
ANY_USER=yes
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
requires_cmd fusermount3

if [ "$(id -u)" = 0 ]; then
	as_nobody bash -c ': >/dev/null' 2>/dev/null ||
		skip '/dev/null is not writable for nobody on this machine'
	chmod 777 "$T"
	chown 65534:65534 "$M"
else
	[ -w /dev/fuse ] || skip '/dev/fuse is not for this user'
fi

# SCRIPT, where `nobody` runs a command as somebody who is not root. /dev/fuse
# may be root's alone here: in a mount namespace of our own it is not.
_unprivileged() {
	export T S M KV CTL HOME=$T
	if [ "$(id -u)" != 0 ]; then
		bash -euc 'nobody() { timeout 60 "$@"; }
			'"$1"
		return
	fi
	[ -e "$T/fuse" ] || mknod "$T/fuse" c 10 229
	chmod 666 "$T/fuse"
	# shellcheck disable=SC2016
	unshare -m bash -euc '
		mount --bind "$T/fuse" /dev/fuse
		nobody() {
			setpriv --reuid=65534 --regid=65534 --clear-groups -- \
				timeout 60 "$@"
		}
		'"$1"
}

an_unprivileged_user_mounts_stores_and_unmounts() {
	# shellcheck disable=SC2016
	_unprivileged '
		nobody "$KVFS" mount "$M" -o "state=$S,pool=64M"
		nobody mkdir "$KV/mine"
		nobody cp "$KVFS" "$KV/mine/copy.tmp"
		nobody mv "$KV/mine/copy.tmp" "$KV/mine/copy"
		nobody cmp "$KVFS" "$KV/mine/copy"
		nobody cp "$KVFS" "$M/ckpt/copy"
		nobody cmp "$KVFS" "$M/ckpt/copy"
		nobody cat "$CTL/status" >"$T/status"
		nobody "$KVFS" umount "$M"'
	expect 'rung' "$(jq -r .rung.name "$T/status")" direct_io
	expect 'own mount' "$(jq -r .pool.own_mount "$T/status")" false
	wait_for '[ -z "$(kvfs_pid)$(redis_pid)" ]'
}

its_blocks_survive_the_next_mount() {
	# shellcheck disable=SC2016
	_unprivileged '
		nobody "$KVFS" mount "$M" -o "state=$S,pool=64M"
		nobody cmp "$KVFS" "$KV/mine/copy"
		nobody cmp "$KVFS" "$M/ckpt/copy"
		nobody "$KVFS" umount --discard "$M"'
	wait_for '[ -z "$(kvfs_pid)$(redis_pid)" ]'
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# mount -t kvfs, as fstab and systemd call it.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
requires_cmd unshare

# A folder /sbin of our own, in a mount namespace of our own: nothing is
# installed on the machine.
_with_helper() { # SCRIPT
	local sbin
	sbin=$(readlink -f /sbin)
	mkdir -p "$T/up" "$T/work"
	ln -sf "$(readlink -f "$KVFS")" "$T/up/mount.kvfs"
	# shellcheck disable=SC2016
	unshare -m bash -eu -c '
		mount -t tmpfs none "$3" 2>/dev/null && mkdir "$3/up" "$3/work" &&
		cp -P "$2/mount.kvfs" "$3/up/" &&
		mount -t overlay -o "lowerdir=$1,upperdir=$3/up,workdir=$3/work" \
			none "$1" || exit 77
		eval "$4"' - "$sbin" "$T/up" "$T/work" "$1"
}

the_helper_mounts_under_its_own_name() {
	ln -s "$(readlink -f "$KVFS")" "$T/mount.kvfs"
	timeout 60 "$T/mount.kvfs" none "$M" -o "rw,$(kvfs_options)"
	[ -d "$KV" ] || fail 'not mounted'
	kvfs_umount
}

mount_t_kvfs_mounts() {
	export M
	OPTS=$(kvfs_options) _with_helper '
		mount -t kvfs kvfs "$M" -o "rw,nosuid,nodev,noatime,$OPTS"
		test -d "$M/kv"
		umount "$M"'
}

a_line_of_fstab_mounts() {
	say "kvfs $M kvfs noauto,nofail,_netdev,x-systemd.requires=network.target,$(kvfs_options) 0 0" \
		>"$T/fstab"
	export M T
	_with_helper '
		mount --fstab "$T/fstab" "$M"
		test -d "$M/kv"
		umount "$M"'
}

a_failure_is_reported_with_32() {
	local rc=0
	ln -sf "$(readlink -f "$KVFS")" "$T/mount.kvfs"
	timeout 60 "$T/mount.kvfs" none "$T/none" -o "$(kvfs_options)" \
		2>/dev/null || rc=$?
	expect 'exit code' $rc 32
}

run_tests

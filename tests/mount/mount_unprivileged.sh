#!/bin/bash
# SPDX-License-Identifier: MIT
# Somebody who is not root mounts with fusermount3, on the lowest rung.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
requires_cmd fusermount3

chmod 777 "$T"
chown 65534:65534 "$M"
_run() { as_nobody env HOME="$T" timeout 60 "$@"; }

an_unprivileged_user_mounts_and_stores() {
	_run "$KVFS" mount "$M" -o "state=$T/state,pool=64M"
	_run mkdir "$KV/mine"
	_run bash -c 'cp "$1" "$2.tmp" && mv "$2.tmp" "$2" && cmp "$1" "$2"' \
		- "$KVFS" "$KV/mine/copy"
	expect 'rung' "$(_run cat "$CTL/status" | jq -r .rung.name)" \
		direct_io
}

an_unprivileged_user_unmounts() {
	_run "$KVFS" umount "$M"
	wait_for '! is_mounted'
	wait_for '[ -z "$(kvfs_pid)$(redis_pid)" ]'
}

run_tests

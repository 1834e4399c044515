#!/bin/bash
# SPDX-License-Identifier: MIT
# Namespaces: their folders, their policy.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr setfattr
kvfs_mount

_get() { getfattr --absolute-names --only-values -n "user.kvfs.$1" "$2"; }
_set() { setfattr -n "user.kvfs.$1" -v "$2" "$3"; }
_used() { _get bytes "$1"; }

a_namespace_is_made_and_removed() {
	mkdir -m 2750 "$KV/one"
	chown 100:200 "$KV/one"
	expect 'stat' "$(stat -c '%a %u %g %F' "$KV/one")" \
		'2750 100 200 directory'
	refused 'exist' mkdir "$KV/one"
	rmdir "$KV/one"
	refused "$ENOENT" stat "$KV/one"
	refused "$ENOENT" rmdir "$KV/one"
	refused "$ENOENT" bash -c 'echo x >"$1"' - "$KV/one/x"
}

a_namespace_with_blocks_is_not_empty() {
	mkdir "$KV/full"
	put_tmp "$KV/full/x" 1000 1
	refused "$ENOTEMPTY" rmdir "$KV/full"
	rm "$KV/full/x"
	put "$KV/full/y.tmp" 1000 1
	refused "$ENOTEMPTY" rmdir "$KV/full"
	mkdir -p "$KV/full/a/b"
	put_tmp "$KV/full/a/b/z" 1000 1
	rm -r "$KV/full"
	expect 'kv' "$(ls "$KV" | grep full || :)" ''
}

a_namespace_made_again_is_empty() {
	mkdir "$KV/again"
	put_tmp "$KV/again/x" 1000 1
	rm -r "$KV/again"
	mkdir "$KV/again"
	expect 'names' "$(ls -A "$KV/again")" ''
	put_tmp "$KV/again/x" 1000 2
	holds "$KV/again/x" 1000 2
}

blocks_and_bytes_are_counted() {
	mkdir "$KV/count"
	expect 'blocks' "$(_get blocks "$KV/count")" 0
	blocks -n 7 -s 40960 store "$KV/count"
	expect 'blocks' "$(_get blocks "$KV/count")" 7
	expect 'bytes' "$(_get bytes "$KV/count")" $((7 * 40960))
	rm "$KV/count/b000003"
	wait_for '[ "$(_get blocks "$KV/count")" = 6 ]' 5
}

a_quota_is_kept_by_evicting_its_own_blocks() {
	mkdir "$KV/quota" "$KV/other"
	blocks -n 8 -s 1048576 store "$KV/other"
	_set quota 8M "$KV/quota"
	expect 'quota' "$(_get quota "$KV/quota")" 8388608
	blocks -n 30 -s 1048576 store "$KV/quota"
	wait_for '[ "$(_used "$KV/quota")" -le 8388608 ]' 10
	blocks -n 30 -s 1048576 check "$KV/quota"
	[ "$(_get blocks "$KV/quota")" -ge 4 ] || fail 'nearly all was evicted'
	expect 'the others' "$(blocks -n 8 -s 1048576 check "$KV/other")" \
		'present 8 absent 0'
}

a_policy_that_is_none_is_refused() {
	mkdir "$KV/policy"
	refused "$EINVAL" _set quota lots "$KV/policy"
	refused "$EINVAL" _set checksum perhaps "$KV/policy"
	refused "$EINVAL" _set replicas -1 "$KV/policy"
	refused "$EINVAL|not supported|$EPERM" _set nonsense 1 "$KV/policy"
	refused "$EPERM|$EACCES|$EINVAL|not supported" _set blocks 1 "$KV/policy"
	_set replicas 3 "$KV/policy"
	expect 'replicas' "$(_get replicas "$KV/policy")" 3
}

only_the_owner_sets_a_policy() {
	mkdir "$KV/mine"
	refused "$EACCES|$EPERM" \
		as_nobody setfattr -n user.kvfs.quota -v 1M "$KV/mine"
}

a_namespace_without_checksums_takes_none() {
	mkdir "$KV/plain"
	_set checksum off "$KV/plain"
	expect 'checksum' "$(_get checksum "$KV/plain")" off
	put_tmp "$KV/plain/x" 100000 1
	put_tmp "$KV/policy/x" 100000 1
	wait_for '_get checksum "$KV/policy/x" 2>/dev/null | grep -q "[0-9a-f]\{32\}"' 10
	_get checksum "$KV/plain/x" 2>/dev/null | grep -q '[0-9a-f]\{32\}' &&
		fail 'it took one'
	return 0
}

a_policy_survives_a_restart() {
	chmod 751 "$KV/policy"
	kvfs_umount
	kvfs_mount
	expect 'replicas' "$(_get replicas "$KV/policy")" 3
	expect 'quota' "$(_get quota "$KV/quota")" 8388608
	expect 'checksum' "$(_get checksum "$KV/plain")" off
	expect 'mode' "$(stat -c %a "$KV/policy")" 751
	kvfs_crash
	kvfs_mount
	expect 'replicas' "$(_get replicas "$KV/policy")" 3
}

run_tests

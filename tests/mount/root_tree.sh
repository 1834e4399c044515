#!/bin/bash
# SPDX-License-Identifier: MIT
# The root of the mount and what holds the views apart.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
kvfs_mount
mkdir "$KV/a" "$KV/b"

the_root_holds_three_folders() {
	expect 'the root' "$(ls -A "$M" | sort | tr '\n' ' ')" '.kvfs ckpt kv '
	expect 'type' "$(stat -c %F "$M" "$KV" "$CKPT" "$CTL" | sort -u)" \
		directory
}

nothing_is_made_or_removed_in_the_root() {
	refused "$EPERM|$EACCES|$EROFS" mkdir "$M/x"
	refused "$EPERM|$EACCES|$EROFS" touch "$M/x"
	refused "$EPERM|$EACCES|$EROFS|busy" rmdir "$CKPT"
	refused "$EPERM|$EACCES|$EROFS|busy" rmdir "$KV"
	hand_start
	hand_refused EPERM rename 0 "$KV" "$M/kv2" || :
	[ -d "$KV" ]
}

no_file_lies_directly_in_kv() {
	refused "$EPERM" bash -c 'echo x >"$1"' - "$KV/file"
	refused "$EPERM" cp "$KVFS" "$KV/file"
	expect 'kv' "$(ls "$KV" | tr '\n' ' ')" 'a b '
}

control_files_are_read_only() {
	local f
	for f in stats status nodes config events version; do
		[ -r "$CTL/$f" ] || fail "no .kvfs/$f"
		cat "$CTL/$f" >/dev/null
		refused "$EPERM|$EACCES|$EROFS" bash -c 'echo x >>"$1"' - "$CTL/$f"
		refused "$EPERM|$EACCES|$EROFS" rm -f "$CTL/$f"
		refused "$EPERM|$EACCES|$EROFS" mv "$CTL/$f" "$CTL/x"
	done
	refused "$EPERM|$EACCES|$EROFS" touch "$CTL/new"
}

renames_do_not_cross_views_or_namespaces() {
	hand_start
	put_tmp "$KV/a/x" 100000 1
	put "$CKPT/y" 100000 2
	hand_refused EXDEV rename 0 "$KV/a/x" "$CKPT/x"
	hand_refused EXDEV rename 0 "$KV/a/x" "$KV/b/x"
	hand_refused EXDEV rename 0 "$CKPT/y" "$KV/a/y"
	hand_refused EXDEV rename 0 "$KV/a" "$KV/c"
	holds "$KV/a/x" 100000 1
	holds "$CKPT/y" 100000 2
}

mv_between_them_copies() {
	put_tmp "$KV/a/m" 100000 3
	mv "$KV/a/m" "$CKPT/m"
	mv "$CKPT/m" "$KV/b/m"
	mv "$KV/b/m" "$KV/a/m2"
	holds "$KV/a/m2" 100000 3
	refused "$ENOENT" stat "$KV/b/m"
	refused "$ENOENT" stat "$CKPT/m"
}

paths_that_climb_stay_in_the_tree() {
	put_tmp "$KV/a/climb" 5000 4
	holds "$KV/a/../../kv/b/../a/climb" 5000 4
	expect 'above' "$(stat -c %i "$KV/a/../..")" "$(stat -c %i "$M")"
	refused "$ENOENT" cat "$KV/a/../../../../../../$(basename "$T")/none"
	refused "$EINVAL|$ENOENT|$EPERM|$EEXIST|exists" mkdir "$KV/.."
}

inode_numbers_differ_and_stay() {
	local one two
	put_tmp "$KV/a/i1" 10 1
	put_tmp "$KV/a/i2" 10 2
	one=$(stat -c %i "$KV/a/i1") two=$(stat -c %i "$KV/a/i2")
	[ "$one" != "$two" ] || fail 'two blocks, one number'
	expect 'again' "$(stat -c %i "$KV/a/i1")" "$one"
	ls -i "$KV/a" | grep -q "^ *$one i1" || fail 'readdir has another number'
}

run_tests

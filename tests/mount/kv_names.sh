#!/bin/bash
# SPDX-License-Identifier: MIT
# Names: long, binary, nested.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
kvfs_mount
mkdir "$KV/n"
TEST_CWD=$KV/n

_long() { # LENGTH
	printf "%0$1d" 0
}

a_name_has_at_most_255_bytes() {
	echo x >"$(_long 255)"
	expect 'kept' "$(cat "$(_long 255)")" x
	refused "$ENAMETOOLONG" bash -c 'echo x >"$1"' - "$(_long 256)"
	refused "$ENAMETOOLONG" mkdir "$KV/$(_long 256)"
	refused "$ENAMETOOLONG" stat "$(_long 256)"
	put a.tmp 10 1
	refused "$ENAMETOOLONG" mv a.tmp "$(_long 256)"
	mkdir "$KV/$(_long 255)"
	rmdir "$KV/$(_long 255)"
}

a_path_below_kv_has_at_most_895_bytes() {
	# "n/" + 3 x 201 + the rest
	local dir
	dir=$(_long 200)/$(_long 200)/$(_long 200)
	mkdir -p "$dir"
	put "$dir/.t.AbCdEf" 10 1
	mv "$dir/.t.AbCdEf" "$dir/$(_long 250)"
	mkdir -p "$dir/$(_long 200)"
	put "$dir/$(_long 200)/a.tmp" 10 1
	mv "$dir/$(_long 200)/a.tmp" "$dir/$(_long 200)/$(_long 89)"
	holds "$dir/$(_long 200)/$(_long 89)" 10 1
	put "$dir/$(_long 200)/b.tmp" 10 1
	refused "$ENAMETOOLONG" \
		mv "$dir/$(_long 200)/b.tmp" "$dir/$(_long 200)/$(_long 90)"
	refused "$ENAMETOOLONG" \
		bash -c 'echo x >"$1"' - "$dir/$(_long 200)/$(_long 90)"
}

names_may_hold_any_byte() {
	local name
	mkdir any
	cd any
	for name in $'new\nline' $'\x01\x02' $'\xff\xfe' ' blank ' '-dash' \
		'a"b\c' 'a%20b{}' '*' $'tab\t'; do
		printf %s "$name" >"./$name"
		expect 'contents' "$(cat -- "./$name")" "$name"
		setfattr -n user.k -v 1 -- "./$name"
	done
	expect 'names' "$(find . -type f -print0 |
		tr -dc '\0' | wc -c)" 9
}

names_of_any_byte_survive_a_restart() {
	cd /
	kvfs_crash
	kvfs_mount
	cd "$KV/n/any"
	expect 'contents' "$(cat $'new\nline')" $'new\nline'
	expect 'contents' "$(cat $'\xff\xfe')" $'\xff\xfe'
	rm -- $'new\nline' $'\xff\xfe'
}

folders_below_a_namespace_nest() {
	mkdir -p a/b/c/d/e/f/g
	put_tmp a/b/c/d/e/f/g/x 1000 1
	holds a/b/c/d/e/f/g/x 1000 1
	expect 'found' "$(find a -type f)" a/b/c/d/e/f/g/x
	refused "$ENOTEMPTY" rmdir a/b
	refused "$ENOTEMPTY" rmdir a/b/c/d/e/f/g
	rm a/b/c/d/e/f/g/x
	rm -r a
	refused "$ENOENT" stat a
}

the_layout_of_vllm_works() {
	local d=model_0a1b2c/config_r0/0af/12_g0 h=0af12deadbeef
	mkdir -p "$d"
	[ ! -e "$d/$h.bin" ]
	put "$d/${h}_4711.tmp" 2097152 6
	mv "$d/${h}_4711.tmp" "$d/$h.bin"
	holds "$d/$h.bin" 2097152 6
}

a_file_is_no_folder_and_a_folder_no_file() {
	put_tmp f 10 1
	mkdir -p d
	refused 'Not a directory' stat f/x
	refused 'Not a directory' bash -c 'echo x >f/x'
	refused 'Is a directory' bash -c 'echo x >d'
	refused "exist" mkdir f
	refused 'Not a directory' rmdir f
	refused 'Is a directory' unlink d
	put g.tmp 10 1
	refused 'directory' mv -T g.tmp d
}

run_tests

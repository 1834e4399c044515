#!/bin/bash
# SPDX-License-Identifier: MIT
# cp, rsync, tar, dd, sha256sum and find, on both views.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
requires_cmd rsync tar sha256sum
POOL=256M kvfs_mount
mkdir "$KV/n"

# A tree of small and large files, twice over.
mkdir -p "$T/src/sub/deep"
for i in {1..30}; do
	"$HELPERS/pattern" write "$i" $((i * 3001)) >"$T/src/sub/f$i"
done
"$HELPERS/pattern" write 100 20000000 >"$T/src/model.bin"
"$HELPERS/pattern" write 101 4497408 >"$T/src/sub/deep/shard"
: >"$T/src/empty"
touch -d @1500000000.123456789 "$T/src/sub/f1"
(cd "$T/src" && find . -type f -print0 | sort -z | xargs -0 sha256sum) \
	>"$T/sums"

_check() { (cd "$1" && sha256sum --quiet -c "$T/sums"); }
_moved() { # FROM TO: what rsync would still move
	rsync -a --checksum --itemize-changes "$1" "$2" | grep -c '^[<>c]' || :
}

cp_copies_a_tree_into_either_view() {
	local view
	for view in "$KV/n" "$CKPT"; do
		cp -r "$T/src" "$view/cp"
		_check "$view/cp"
		diff -r "$T/src" "$view/cp"
		rm -r "$view/cp"
	done
}

cp_a_keeps_times_and_modes() {
	chmod 600 "$T/src/sub/f2"
	cp -a "$T/src" "$CKPT/cpa"
	expect 'time' "$(stat -c %.9Y "$CKPT/cpa/sub/f1")" 1500000000.123456789
	expect 'mode' "$(stat -c %a "$CKPT/cpa/sub/f2")" 600
	cp -a "$T/src" "$KV/n/cpa"
	expect 'time' "$(stat -c %.9Y "$KV/n/cpa/sub/f1")" 1500000000.123456789
	expect 'mode' "$(stat -c %a "$KV/n/cpa/sub/f2")" 600
	rm -r "$CKPT/cpa" "$KV/n/cpa"
}

rsync_moves_nothing_the_second_time() {
	local view
	for view in "$KV/n" "$CKPT"; do
		rsync -a --checksum "$T/src/" "$view/rsync/"
		_check "$view/rsync"
		expect "moved again to $view" "$(_moved "$T/src/" "$view/rsync/")" 0
		expect "listed again from $view" \
			"$(_moved "$view/rsync/" "$T/src/")" 0
		find "$view/rsync" -name '.*.??????' | grep . &&
			fail 'temp files are left'
		rm -r "$view/rsync"
	done
}

rsync_replaces_a_changed_file_in_ckpt() {
	rsync -a "$T/src/" "$CKPT/chg/"
	"$HELPERS/pattern" write 55 999999 >"$T/src/sub/f7"
	rsync -a --checksum "$T/src/" "$CKPT/chg/"
	same_file "$T/src/sub/f7" "$CKPT/chg/sub/f7"
	rsync -a --inplace "$T/src/" "$CKPT/chg/"
	"$HELPERS/pattern" write 7 $((7 * 3001)) >"$T/src/sub/f7"
	rsync -a --inplace --checksum "$T/src/" "$CKPT/chg/"
	_check "$CKPT/chg"
	rm -r "$CKPT/chg"
}

tar_packs_and_unpacks() {
	local view
	for view in "$KV/n" "$CKPT"; do
		mkdir "$view/tar"
		tar -C "$T/src" -cf - . | tar -C "$view/tar" -xf -
		_check "$view/tar"
		tar -C "$view/tar" -cf - . | tar -tf - >/dev/null
		tar -C "$T/src" -cf "$view/all.tar" .
		tar -C "$T" -df "$view/all.tar" -C "$view/tar" .
		rm -r "$view/tar" "$view/all.tar"
	done
}

dd_with_direct_io_copies() {
	local view
	for view in "$KV/n" "$CKPT"; do
		dd if="$T/src/model.bin" of="$view/dd.tmp" bs=1M oflag=direct \
			conv=fsync status=none 2>"$T/err" ||
			grep -q 'Invalid' "$T/err" # an odd tail; see below
		rm -f "$view/dd.tmp"
		dd if="$T/src/sub/deep/shard" of="$view/dd.tmp" bs=70272 \
			iflag=fullblock status=none conv=fsync
		mv "$view/dd.tmp" "$view/dd"
		same_file "$T/src/sub/deep/shard" "$view/dd"
		dd if=/dev/urandom of="$T/even" bs=1M count=8 status=none
		dd if="$T/even" of="$view/even.tmp" bs=1M oflag=direct status=none
		mv "$view/even.tmp" "$view/even"
		dd if="$view/even" of="$T/back" bs=1M iflag=direct status=none
		same_file "$T/even" "$T/back"
		rm "$view/dd" "$view/even"
	done
}

sha256sum_agrees() {
	cp "$T/src/model.bin" "$KV/n/model.bin"
	cp "$T/src/model.bin" "$CKPT/model.bin"
	expect 'kv' "$(sha256sum <"$KV/n/model.bin")" \
		"$(sha256sum <"$T/src/model.bin")"
	expect 'ckpt' "$(sha256sum <"$CKPT/model.bin")" \
		"$(sha256sum <"$T/src/model.bin")"
	rm "$KV/n/model.bin" "$CKPT/model.bin"
}

run_tests

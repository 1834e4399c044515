#!/bin/bash
# SPDX-License-Identifier: MIT
# close() publishes; what could not be published is not lost; checksums.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
requires_cmd getfattr setfattr
redis_start r
OPTIONS=meta=unix://$T/r.sock,deadline=2
kvfs_mount "$OPTIONS"
TEST_CWD=$CKPT

_x() { getfattr --absolute-names --only-values -n "user.kvfs.$1" "$2"; }
_version() { _x version "$1"; }
_summed() { wait_for '_x checksum '"$1"' >/dev/null 2>&1'; }
_file_of() { # PATH: its backing file
	local ino
	ino=$(printf %x $(($(stat -c %i "$1") - (1 << 48))))
	printf '%s\n' "$S/ckpt/"*"/$ino"
}
_files() { find "$S/ckpt" -type f ! -name '.*' | wc -l; }
# Bytes of removed files stay a while for peers that looked their name up.
_all_gone() { wait_for '[ "$(_files)" = 0 ]' 30; }
_stop() { kill -STOP "$(redis_pid "$T/r.sock")"; }
_cont() { kill -CONT "$(redis_pid "$T/r.sock")"; }

close_makes_a_version() {
	local first
	put f 100000 1
	first=$(_version f)
	put f 100000 2
	[ "$(_version f)" -gt "$first" ] || fail 'the version stays'
	_summed f
	first=$(_version f)
	cat f >/dev/null
	: <>f # open for writing, and nothing written
	expect 'version' "$(_version f)" "$first"
	_x checksum f >/dev/null || fail 'the checksum is gone'
	chmod 600 f
	wait_for 'holds f 100000 2'
	truncate -s 5 f
	[ "$(_version f)" -gt "$first" ] || fail 'not by truncate'
	rm f
}

a_close_without_redis_fails_and_loses_nothing() {
	hand_start
	put g 1000 1
	hand open 1 w "$CKPT/g"
	cd / # else every command would wait for Redis
	_stop
	trap '_cont; hand_stop' EXIT
	hand write 1 2 300000
	hand_refused EIO close 1
	_cont
	cd "$CKPT"
	wait_for '[ "$(stat -c %s g 2>/dev/null)" = 300000 ]' 20
	holds g 300000 2
	_summed g
	expect 'verify' "$(_x verify g)" ok
	rm g
}

reads_and_writes_of_open_files_go_on_without_redis() {
	hand_start
	put h 50000 3
	hand open 1 b "$CKPT/h"
	hand open 2 r "$CKPT/h"
	cd /
	_stop
	trap '_cont; hand_stop' EXIT
	hand check 2 0 3 50000
	hand pwrite 1 50000 4 70000
	hand check 2 50000 4 70000
	expect 'size, links' "$(hand stat 2)" '120000 1'
	_cont
	cd "$CKPT"
	wait_for 'stat h >/dev/null 2>&1' 20
	hand close 1
	expect 'size' "$(stat -c %s h)" 120000
	rm h
}

a_write_of_a_killed_daemon_is_published_by_the_next() {
	hand_start
	put k 1000 1
	hand open 1 w "$CKPT/k"
	hand write 1 5 500000
	cd /
	kvfs_crash
	hand_stop
	kvfs_mount "$OPTIONS"
	wait_for '[ "$(stat -c %s "$CKPT/k")" = 500000 ]'
	holds "$CKPT/k" 500000 5
	rm "$CKPT/k"
}

a_file_unlinked_while_open_gives_its_room_back() {
	_all_gone
	hand_start
	put u 100000 1
	hand open 1 b "$CKPT/u"
	rm u
	expect 'files' "$(_files)" 1
	hand check 1 0 1 100000
	hand close 1
	_all_gone
	put u 100000 1
	hand open 1 b "$CKPT/u"
	rm u
	cd /
	kvfs_crash
	hand_stop
	kvfs_mount "$OPTIONS"
	_all_gone
}

the_bytes_of_removed_and_replaced_files_go() {
	local i
	_all_gone
	for i in {1..20}; do
		put "n$i" 1000 "$i"
	done
	expect 'files' "$(_files)" 20
	ln n1 m1
	rm n1
	for i in {2..10}; do mv -f "n$((i + 9))" "n$i"; done
	rm n* m1
	_all_gone
}

a_checksum_belongs_to_a_version() {
	local one
	put c 100000 7
	_summed c
	one=$(_x checksum c)
	[[ $one =~ ^[0-9a-f]{32}$ ]] || fail "checksum '$one'"
	expect 'verify' "$(_x verify c)" ok
	put c 100000 8
	_summed c
	[ "$(_x checksum c)" != "$one" ] || fail 'the same for other bytes'
	put c 100000 7
	_summed c
	expect 'the same bytes' "$(_x checksum c)" "$one"
	touch -d @1000000000 c
	chmod 640 c
	mv c c2
	_summed c2
	expect 'after touch, chmod, mv' "$(_x checksum c2)" "$one"
	rm c2
}

a_large_file_has_a_checksum_a_shard() {
	put big 150000000 1
	_summed big
	expect 'shards' "$(_x checksum big | grep -c '^[0-9a-f]\{32\}$')" 3
	expect 'verify' "$(_x verify big)" ok
	rm big
}

stores_to_a_mapping_after_close_are_published() {
	local first
	hand_start
	put m 100000 1
	hand open 1 b "$CKPT/m"
	[[ $(hand_try map 1 w 100000) == ok* ]] || skip 'no shared mappings here'
	hand mset 1 0 2 100000
	hand close 1
	_version m >"$T/first"
	hand mset 1 0 3 100000
	hand unmap 1
	wait_for '_summed m && [ "$(_x verify m)" = ok ] && holds m 100000 3'
	rm m
}

a_damaged_file_is_not_served() {
	local file
	put d 200000 1
	_summed d
	file=$(_file_of d)
	cp -p "$file" "$T/sound"
	printf X | dd of="$file" bs=1 seek=1000 conv=notrunc status=none
	touch -r "$T/sound" "$file"
	refused "$EIO" _x verify d
	refused "$EIO" cat d
	refused "$EIO" dd if=/dev/null of=d conv=notrunc
	grep -q 'does not match its checksum' "$S/kvfs.log" || fail 'no line'
	cd /
	kvfs_umount
	kvfs_mount "$OPTIONS"
	cd "$CKPT"
	refused "$EIO" cat d
	put d 1000 2
	holds d 1000 2
	_summed d
	expect 'verify' "$(_x verify d)" ok
	rm d
}

a_missing_data_file_is_an_error_with_a_line() {
	put l 1000 1
	put l2 1000 2
	rm "$(_file_of l)"
	refused "$EIO" cat l
	grep -q 'no node gives shard' "$S/kvfs.log" || fail 'no line'
	holds l2 1000 2
	rm l l2
}

what_kvfs_says_of_a_file_cannot_be_set_and_is_not_listed() {
	put x 10 1
	refused "$EPERM" setfattr -n user.kvfs.version -v 9 x
	refused "$EPERM" setfattr -n user.kvfs.other -v 9 x
	refused "$EPERM" setfattr -x user.kvfs.version x
	expect 'list' "$(getfattr -m - x)" ''
	[ -n "$(_x holders x)" ] || fail 'no holders'
	refused 'No such attribute' _x nonsense x
	refused 'not supported' getfattr -n system.posix_acl_access x
	rm x
}

all_is_there_after_a_restart() {
	mkdir -p r/s
	put r/s/f 123456 1
	ln r/s/f r/g
	ln -s s/f r/l
	touch -d @1234567890.111222333 r/s/f
	setfattr -n user.k -v v r/s/f
	find r -printf '%p %i %y %m %U %G %s %n %T@ %C@ %l\n' | sort >"$T/was"
	cd /
	kvfs_umount
	kvfs_mount "$OPTIONS"
	cd "$CKPT"
	find r -printf '%p %i %y %m %U %G %s %n %T@ %C@ %l\n' | sort |
		diff "$T/was" -
	holds r/l 123456 1
	rm -r r
}

run_tests

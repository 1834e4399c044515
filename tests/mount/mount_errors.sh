#!/bin/bash
# SPDX-License-Identifier: MIT
# A mount that cannot be says why, in one line, and leaves nothing behind.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99

_mount() { timeout 60 "$KVFS" mount "$@"; }

# The command fails with exactly one line on stderr that matches, nothing runs
# afterwards and nothing is mounted.
_one_line() { # PATTERN COMMAND...
	local pattern=$1 rc=0
	shift
	"$@" >"$T/out" 2>"$T/err" </dev/null || rc=$?
	[ $rc != 0 ] || fail "this succeeded: $*"
	[ $rc != 124 ] || fail "this hung: $*"
	[ "$(wc -l <"$T/err")" = 1 ] || fail "not one line: $(cat "$T/err")"
	grep -Eqi -- "$pattern" "$T/err" ||
		fail "'$(cat "$T/err")' does not say $pattern"
}
_nothing_is_left() {
	wait_for '[ -z "$(kvfs_pid)$(redis_pid)" ]' 5
	is_mounted && fail "still mounted"
	return 0
}

a_missing_mount_point_is_named() {
	_one_line "$T/none.*$ENOENT" _mount "$T/none" -o "$(kvfs_options)"
	_nothing_is_left
}

a_mount_point_that_is_a_file_is_refused() {
	touch "$T/file"
	_one_line "$T/file.*not a directory" \
		_mount "$T/file" -o "$(kvfs_options)"
	_nothing_is_left
}

what_does_not_fit_a_cluster_is_refused() {
	printf '1 %064d\n' 7 >"$T/key"
	chmod 644 "$T/key"
	_one_line 'only with cluster-key-file=' \
		_mount "$M" -o "$(kvfs_options listen=10.1.2.3)"
	_one_line 'name one of this machine' _mount "$M" \
		-o "$(kvfs_options "listen=0.0.0.0,cluster-key-file=$T/key")"
	_one_line 'an address such as' \
		_mount "$M" -o "$(kvfs_options listen=here)"
	_one_line 'tls=on: only with' _mount "$M" -o "$(kvfs_options tls=on)"
	_one_line 'transport=rdma: only with listen=' \
		_mount "$M" -o "$(kvfs_options transport=rdma)"
	_one_line 'others may read it' \
		_mount "$M" -o "$(kvfs_options "cluster-key-file=$T/key")"
	chmod 600 "$T/key"
	_one_line 'RDMA does not encrypt' _mount "$M" -o "$(kvfs_options \
		"transport=rdma,tls=on,listen=127.0.0.1,cluster-key-file=$T/key")"
	_one_line 'rdma-device=: not with transport=tcp' _mount "$M" -o \
		"$(kvfs_options "rdma-device=rxe0,transport=tcp")"
	for device in nosuch nosuch:1 .. ../net :1 ''; do
		_one_line "rdma-device=$device: .*no such RDMA device.*topology" \
			_mount "$M" -o "$(kvfs_options \
				"rdma-device=$device,listen=127.0.0.1")"
	done
	_one_line 'listen= only with meta=' _mount "$M" -o \
		"$(kvfs_options "listen=127.0.0.1,cluster-key-file=$T/key")"
	_nothing_is_left
}

an_unknown_option_is_named() {
	_one_line 'nosuchoption' _mount "$M" -o "$(kvfs_options nosuchoption=1)"
	_nothing_is_left
}

a_size_that_is_none_is_named() {
	_one_line 'pool.*(8Q|size)' _mount "$M" -o "state=$S,pool=8Q"
	_one_line 'pool' _mount "$M" -o "state=$S,pool=0"
	_one_line 'pool' _mount "$M" -o "state=$S,pool=-5G"
	_nothing_is_left
}

an_unknown_rung_is_named() {
	_one_line 'rung.*stairs|stairs.*rung' \
		_mount "$M" -o "$(kvfs_options rung=stairs)"
	_nothing_is_left
}

a_pool_larger_than_memory_is_refused() {
	_one_line 'memory' _mount "$M" -o "state=$S,pool=100T"
	_nothing_is_left
}

a_machine_without_dev_fuse_is_told_so() {
	# shellcheck disable=SC2016
	_one_line '/dev/fuse' unshare -m bash -c '
		mount -t tmpfs none /dev && mkdir /dev/shm &&
		mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 &&
		exec timeout 60 "$KVFS" mount "$@"' - "$M" -o "$(kvfs_options)"
	_nothing_is_left
}

a_mount_point_in_use_is_busy() {
	kvfs_mount
	_one_line "$M.*(busy|in use|mounted)" \
		_mount "$M" -o "state=$T/state2,pool=64M"
	[ -d "$KV" ] || fail "the first mount suffered"
	kvfs_umount
	_nothing_is_left
}

a_state_directory_has_one_daemon() {
	mkdir -p "$T/mnt2"
	kvfs_mount
	_one_line "$S.*(held|in use|another|busy)" \
		_mount "$T/mnt2" -o "$(kvfs_options)"
	[ -d "$KV" ] || fail "the first mount suffered"
	is_mounted "$T/mnt2" && fail "mounted twice"
	kvfs_umount
	_nothing_is_left
}

a_state_directory_of_something_else_is_not_touched() {
	mkdir -p "$T/foreign"
	echo precious >"$T/foreign/letter"
	_one_line "$T/foreign" _mount "$M" -o "state=$T/foreign,pool=64M"
	expect 'foreign folder' "$(ls -A "$T/foreign")" letter
	expect 'foreign file' "$(cat "$T/foreign/letter")" precious
	_nothing_is_left
}

a_pool_of_something_else_is_not_touched() {
	kvfs_mount
	kvfs_umount --discard
	mkdir -p "$S/pool"
	echo precious >"$S/pool/letter"
	echo precious >"$S/pool/index"
	_one_line 'pool' _mount "$M" -o "$(kvfs_options)"
	wait_for '! mountpoint -q "$S/pool"'
	expect 'foreign file' "$(cat "$S/pool/letter")" precious
	expect 'foreign file' "$(cat "$S/pool/index")" precious
	rm -r "$S/pool"
	_nothing_is_left
}

a_state_directory_that_is_a_file_is_refused() {
	touch "$T/afile"
	_one_line "$T/afile" _mount "$M" -o "state=$T/afile,pool=64M"
	_nothing_is_left
}

a_pool_with_a_corrupt_index_serves_no_wrong_byte() {
	local said
	kvfs_mount
	mkdir "$KV/c"
	blocks -n 20 -s 262144 store "$KV/c"
	kvfs_umount
	# Random bytes over the index' records, not over its first page.
	dd if=/dev/urandom of="$S/pool/index" bs=4096 seek=1 count=8 \
		conv=notrunc status=none
	if said=$(_mount "$M" -o "$(kvfs_options)" 2>&1); then
		[ ! -d "$KV/c" ] || blocks -n 20 -s 262144 check "$KV/c"
		kvfs_umount --discard
	else
		expect 'lines' "$(wc -l <<<"$said")" 1
		umount "$S/pool"
	fi
	_nothing_is_left
}

a_pool_that_was_made_for_nothing_goes_and_one_with_blocks_stays() {
	local nowhere=meta=redis://127.0.0.1:1,deadline=1
	! mountpoint -q "$S/pool" || umount "$S/pool"
	_one_line refused _mount "$M" -o "$(kvfs_options "$nowhere")"
	! mountpoint -q "$S/pool" || fail 'a tmpfs stays'
	kvfs_mount
	mkdir "$KV/stay"
	blocks -n 5 -s 65536 store "$KV/stay"
	kvfs_umount
	_one_line refused _mount "$M" -o "$(kvfs_options "$nowhere")"
	kvfs_mount
	blocks -n 5 -s 65536 check "$KV/stay"
	kvfs_umount --discard
	_nothing_is_left
}

a_redis_that_is_not_there_is_named() {
	_one_line '127.0.0.1:1([^0-9]|$).*(refused|reach)' \
		_mount "$M" -o "$(kvfs_options meta=redis://127.0.0.1:1,deadline=1)"
	_one_line "$T/no.sock" \
		_mount "$M" -o "$(kvfs_options "meta=unix://$T/no.sock,deadline=1")"
	_nothing_is_left
}

a_url_that_is_none_is_named() {
	_one_line 'not redis://' _mount "$M" -o "$(kvfs_options meta=gopher://x)"
	_one_line 'rediss:// only' _mount "$M" \
		-o "$(kvfs_options meta=redis://x,meta-ca=/etc/hostname)"
	_one_line 'meta-ca= must name' _mount "$M" \
		-o "$(kvfs_options meta=rediss://x,meta-ca=/no/such)"
	_nothing_is_left
}

the_mount_fails_within_its_deadline_when_redis_does_not_answer() {
	redis_start mute
	kill -STOP "$(redis_pid "$T/mute.sock")"
	_one_line 'mute.sock.*(answer|time)' timeout 20 "$KVFS" mount "$M" \
		-o "$(kvfs_options "meta=unix://$T/mute.sock,deadline=1")"
	kill -KILL "$(redis_pid "$T/mute.sock")"
	_nothing_is_left
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# stress-ng's filesystem stressors, and git and sqlite3, in ckpt/.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
requires_cmd stress-ng
kvfs_mount

_stress() { # SECONDS STRESSOR...
	local seconds=$1 s args=()
	shift
	for s; do args+=("--$s" 1); done
	mkdir -p "$CKPT/stress"
	chmod 777 "$CKPT/stress"
	timeout 100 stress-ng --temp-path "$CKPT/stress" --verify \
		--timeout "${seconds}s" --hdd-bytes 16M --seek-size 16M \
		--fallocate-bytes 16M --readahead-bytes 16M --aio-requests 8 \
		--metrics-brief "${args[@]}" >"$T/stress" 2>&1 ||
		fail "$(grep -iE 'fail|error' "$T/stress" | head -5)"
	rm -rf "$CKPT/stress"
	[ -d "$CKPT" ] && [ -n "$(kvfs_pid)" ] || fail 'the daemon is gone'
}

names_under_stress() {
	_stress 3 dentry dir rename link symlink dirdeep
}

metadata_under_stress() {
	_stress 3 chmod chown utime xattr touch fstat
}

data_under_stress() {
	# Not `io`: it syncs, and so holds, every mount of the machine.
	_stress 4 hdd seek fallocate sendfile copy-file
}

locks_under_stress() {
	_stress 2 flock lockf fcntl
}

git_clones_and_commits() {
	requires_cmd git
	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null \
		GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a \
		GIT_COMMITTER_EMAIL=a@b
	mkdir "$T/repo"
	cp -r "$srcdir/tests" "$T/repo/"
	git -C "$T/repo" init -q
	git -C "$T/repo" add .
	git -C "$T/repo" commit -qm one
	git clone -q "$T/repo" "$CKPT/clone"
	git -C "$CKPT/clone" fsck --strict
	expect 'status' "$(git -C "$CKPT/clone" status --porcelain)" ''
	echo more >"$CKPT/clone/new"
	git -C "$CKPT/clone" add new
	git -C "$CKPT/clone" commit -qm two
	git -C "$CKPT/clone" gc -q
	git -C "$CKPT/clone" fsck --strict
	git clone -q "$CKPT/clone" "$T/back"
	expect 'log' "$(git -C "$T/back" log --oneline | wc -l)" 2
}

sqlite3_keeps_a_database() {
	requires_cmd sqlite3
	local mode
	for mode in delete wal; do
		sqlite3 "$CKPT/db-$mode" "pragma journal_mode=$mode;
			create table t(a integer primary key, b text);" >/dev/null
		for _ in {1..20}; do
			sqlite3 "$CKPT/db-$mode" "with recursive c(x) as
				(select 1 union all select x+1 from c where x<200)
				insert into t(b) select hex(randomblob(50)) from c;"
		done
		expect 'rows' "$(sqlite3 "$CKPT/db-$mode" 'select count(*) from t')" \
			4000
		expect 'check' "$(sqlite3 "$CKPT/db-$mode" 'pragma integrity_check')" ok
	done
}

two_sqlite3_writers_take_turns() {
	requires_cmd sqlite3
	sqlite3 "$CKPT/turns" 'create table t(a)'
	for _ in 1 2; do
		(for _ in {1..40}; do
			sqlite3 -cmd '.timeout 20000' "$CKPT/turns" \
				'insert into t values(1)' || exit 1
		done) &
	done
	wait -n && wait -n
	expect 'rows' "$(sqlite3 "$CKPT/turns" 'select count(*) from t')" 80
}

what_they_left_survives_a_restart() {
	kvfs_umount
	kvfs_mount
	requires_cmd git sqlite3
	git -C "$CKPT/clone" fsck --strict
	expect 'check' "$(sqlite3 "$CKPT/db-wal" 'pragma integrity_check')" ok
}

run_tests

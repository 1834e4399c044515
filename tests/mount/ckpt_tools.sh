#!/bin/bash
# SPDX-License-Identifier: MIT
# The tools that people keep trees with, on ckpt/: cp -a, rsync -aHX, tar,
# git, sqlite3, dd.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
requires_cmd rsync tar setfattr getfattr
kvfs_mount allow_other

# A tree with everything in it that a tree may have.
_make_tree() { # DIRECTORY
	mkdir -p "$1/sub/deep" "$1/empty"
	put "$1/one" 1000000 1
	put "$1/sub/two" 12345 2
	ln "$1/one" "$1/sub/one-again"
	ln "$1/one" "$1/sub/deep/one-once-more"
	ln -s ../one "$1/sub/link"
	ln -s /nowhere "$1/broken"
	mkfifo "$1/fifo"
	mknod "$1/null" c 1 3
	: >"$1/nothing"
	truncate -s 50M "$1/hole"
	printf x | dd of="$1/hole" bs=1 seek=20M conv=notrunc status=none
	setfattr -n user.color -v red "$1/sub/two"
	setfattr -n user.dir -v d "$1/sub"
	chmod 4751 "$1/sub/two"
	chmod 1777 "$1/empty"
	chown 1234:4321 "$1/sub/deep/one-once-more"
	# rsync leaves a time alone that is right to the second.
	find "$1" -depth -exec touch -h -d @1300000000.135792468 {} +
	touch -h -d @1111111111.123456789 "$1/sub/link"
	touch -d @1500000000.987654321 "$1/sub/two"
	touch -d @1400000000.000000001 "$1/sub"
}
_attributes() { # DIRECTORY: all that stat and getfattr know
	(
		cd "$1"
		find . ! -type d -printf '%p %y %m %U %G %s %n %T@ %l\n' | sort
		find . -type d -printf '%p %m %U %G %n\n' | sort
		find . -type d ! -path . -printf '%p %T@\n' | sort
		find . \( -type f -o -type d \) -print0 | sort -z |
			xargs -0 getfattr -h -d -m '^user\.' 2>/dev/null
	)
}
_same_tree() { # A B
	diff <(_attributes "$1") <(_attributes "$2") >&2 || fail "$1 and $2"
	same_file "$1/one" "$2/one"
	same_file "$1/sub/two" "$2/sub/two"
	same_file "$1/hole" "$2/hole"
}
_make_tree "$T/src"

cp_a_copies_all_there_is() {
	cp -a "$T/src" "$CKPT/cpa"
	_same_tree "$T/src" "$CKPT/cpa"
	[ "$(du -k "$CKPT/cpa/hole" | cut -f1)" -lt 1000 ] ||
		fail 'the hole takes room'
	cp -a "$CKPT/cpa" "$T/cpa"
	_same_tree "$T/src" "$T/cpa"
	[ "$(du -k "$T/cpa/hole" | cut -f1)" -lt 1000 ] ||
		fail 'the hole was filled on the way back'
	rm -r "$CKPT/cpa" "$T/cpa"
}

rsync_aHX_moves_nothing_the_second_time() {
	rsync -aHXS --checksum "$T/src/" "$CKPT/rsync/"
	_same_tree "$T/src" "$CKPT/rsync"
	rsync -aHXS --checksum --itemize-changes "$T/src/" "$CKPT/rsync/" \
		>"$T/again"
	[ ! -s "$T/again" ] || fail "moved again: $(cat "$T/again")"
	rsync -aHXS --checksum "$CKPT/rsync/" "$T/back/"
	_same_tree "$T/src" "$T/back"
	rm -r "$CKPT/rsync" "$T/back"
}

tar_carries_all_there_is() {
	mkdir "$CKPT/tar" "$T/untar"
	tar -C "$T/src" --xattrs --sparse --numeric-owner --format=pax -cf - . |
		tar -C "$CKPT/tar" --xattrs --numeric-owner -xpf -
	_same_tree "$T/src" "$CKPT/tar"
	tar -C "$CKPT/tar" --xattrs --sparse --numeric-owner --format=pax \
		-cf "$CKPT/all.tar" .
	tar -C "$T/untar" --xattrs --numeric-owner -xpf "$CKPT/all.tar"
	_same_tree "$T/src" "$T/untar"
	rm -r "$CKPT/tar" "$CKPT/all.tar" "$T/untar"
}

git_clones_commits_and_packs() {
	local i
	requires_cmd git
	export HOME=$T GIT_CONFIG_NOSYSTEM=1
	git config --global user.email a@b && git config --global user.name a
	git config --global --add safe.directory '*'
	git init -q "$T/repo"
	cd "$T/repo"
	for i in {1..60}; do
		mkdir -p "d$((i % 7))"
		"$HELPERS/pattern" write "$i" $((i * 97)) | base64 >"d$((i % 7))/$i"
	done
	git add . && git commit -qm one
	git clone -q "$T/repo" "$CKPT/clone"
	cd "$CKPT/clone"
	echo more >>d1/1
	git commit -qam two
	git gc -q
	git fsck --strict 2>&1 | grep -E 'error|corrupt|missing' &&
		fail 'git fsck'
	expect 'status' "$(git status --porcelain)" ''
	expect 'commits' "$(git rev-list --count HEAD)" 2
	cd /
	rm -r "$CKPT/clone" "$T/repo"
}

sqlite_keeps_its_tables() {
	local mode
	requires_cmd sqlite3
	for mode in delete truncate persist wal; do
		[ "$mode" != wal ] || [ "$KVFS_RUNG" != direct ] || continue
		sqlite3 "$CKPT/db" "pragma journal_mode=$mode;
			create table t (a integer primary key, b text);
			with recursive n(i) as (select 1 union all
				select i + 1 from n where i < 5000)
			insert into t select i, hex(randomblob(50)) from n;
			delete from t where a % 3 = 0; vacuum;" >"$T/out"
		expect "mode" "$(head -1 "$T/out")" $mode
		expect "$mode" "$(sqlite3 "$CKPT/db" \
			'pragma integrity_check; select count(*) from t')" \
			"$(printf 'ok\n3334')"
		rm -f "$CKPT"/db*
	done
}

sqlite_writers_take_turns() {
	local i
	requires_cmd sqlite3
	sqlite3 "$CKPT/turns" 'create table t (a)'
	for i in {1..4}; do
		for _ in {1..10}; do
			sqlite3 -cmd '.timeout 20000' "$CKPT/turns" \
				"insert into t values ($i)"
		done &
	done
	wait
	expect 'rows' "$(sqlite3 "$CKPT/turns" 'select count(*) from t')" 40
	rm "$CKPT/turns"
}

dd_writes_directly_and_appends() {
	"$HELPERS/pattern" write 9 8388608 >"$T/even"
	dd if="$T/even" of="$CKPT/direct" bs=1M oflag=direct status=none
	dd if="$CKPT/direct" of="$T/back" bs=1M iflag=direct status=none
	same_file "$T/even" "$T/back"
	dd if="$T/even" of="$CKPT/direct" bs=1M oflag=append \
		conv=notrunc status=none
	cat "$T/even" "$T/even" | cmp - "$CKPT/direct"
	dd if="$T/even" of="$CKPT/direct" bs=64k seek=3 count=5 \
		conv=notrunc,fsync oflag=direct status=none
	expect 'size' "$(stat -c %s "$CKPT/direct")" 16777216
	rm "$CKPT/direct"
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Which rung is taken, and that it is shown.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99

_shown_everywhere() { # RUNG
	local name
	name=$(rung_shown "$1")
	expect 'status' "$(status .rung.name)" "$name"
	"$KVFS" status "$M" | grep -qF "$name" ||
		fail "kvfs status hides the rung"
	expect 'kvfs status --json' \
		"$("$KVFS" status --json "$M" | jq -r .rung.name)" "$name"
	grep rung "$CTL/stats" | grep -qF "\"$name\"" ||
		fail "stats hide the rung"
}

a_forced_rung_is_the_one_in_use() {
	local rung
	for rung in uring clone direct; do
		if [ -n "$(rung_lacks $rung)" ]; then
			say "SKIP $rung: $(rung_lacks $rung)"
			continue
		fi
		kvfs_mount "rung=$rung"
		_shown_everywhere $rung
		mkdir -p "$KV/n"
		put_tmp "$KV/n/$rung" 4321987 7
		holds "$KV/n/$rung" 4321987 7
		kvfs_umount
	done
}

by_itself_the_highest_rung_is_taken() {
	local rung best=
	for rung in direct clone uring; do
		[ -n "$(rung_lacks $rung)" ] || best=$rung
	done
	kvfs_mount
	_shown_everywhere "$best"
}

a_block_stored_on_one_rung_is_read_on_another() {
	local rung
	mkdir -p "$KV/n"
	put_tmp "$KV/n/x" 3000001 9
	kvfs_umount
	for rung in clone direct uring; do
		[ -z "$(rung_lacks $rung)" ] || continue
		kvfs_mount "rung=$rung"
		holds "$KV/n/x" 3000001 9
		kvfs_umount
	done
}

run_tests

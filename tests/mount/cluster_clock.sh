#!/bin/bash
# SPDX-License-Identifier: MIT
# A node whose wall clock jumps: it stays a member, has the bytes of the others
# and they have its own, and it waits as long as it would.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
DAY=86400
cluster_up 2
"$CLUSTER" umount 2
export KVFS_CLOCK=$T/clock
echo 0 >"$KVFS_CLOCK"
# Without passthrough, where a reader may wait for a writer.
LD_PRELOAD=$HELPERS/clock.so node_mount 2 rung=direct
mkdir "$(kv 1)/n"
wait_for '[ -d "$(kv 2)/n" ]'

_jumps() { # SECONDS: from now on
	echo "$1" >"$KVFS_CLOCK"
}

_both_have_what_either_stores() { # NAME
	put_published "$(kv 1)/n/$1-1" 300000 1
	put_published "$(kv 2)/n/$1-2" 300000 2
	holds "$(kv 2)/n/$1-1" 300000 1
	holds "$(kv 1)/n/$1-2" 300000 2
	put_tmp "$(mnt 2)/ckpt/$1" 200000 3
	holds "$(mnt 1)/ckpt/$1" 200000 3
	flock -w 5 "$(mnt 2)/ckpt/$1" true
	rm "$(kv 1)/n/$1-2"
	wait_for "is_gone '$(kv 2)/n/$1-2'"
}

it_works_at_any_time() {
	local by
	for by in $DAY -$DAY $((400 * DAY)) 0; do
		_jumps "$by"
		_both_have_what_either_stores "at$by"
		expect 'nodes alive' "$(jq .live "$(mnt 1)/.kvfs/nodes")" 2
		expect 'nodes alive' "$(jq .live "$(mnt 2)/.kvfs/nodes")" 2
	done
}

# A descriptor that was duplicated and closed once leaves a writer behind, for
# which a reader waits some milliseconds.
it_waits_for_a_writer_as_long_as_ever() {
	_jumps $DAY
	exec 8>"$(kv 2)/n/writer"
	"$HELPERS/pattern" write 4 5000 >&8
	exec 9>&8 8>&-
	timeout 20 head -c 1 "$(kv 2)/n/writer" >/dev/null 2>&1 ||
		[ $? != 124 ] || fail 'a reader waits by the wall clock'
	exec 9>&-
	_jumps 0
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# ckpt/ is one tree on all nodes: bytes are fetched from who has them.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr rsync tar
DEADLINE=3 cluster_up 3

ck() { say "$(mnt "$1")/ckpt"; }

what_one_node_wrote_all_read() {
	local i
	put "$(ck 1)/a" 300000 1
	for i in 1 2 3; do
		holds "$(ck $i)/a" 300000 1
	done
}

run_tests

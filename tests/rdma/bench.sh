#!/bin/bash
# SPDX-License-Identifier: MIT
#
# kvfs bench --remote --transport=rdma beside ib_write_bw, in a machine with
# Soft-RoCE. What it prints says what the transport adds there, not how fast it
# is; so nothing is asked of the figures but to be there.
. "$(dirname "$0")/lib.sh"
requires_machines
requires_verbs
for p in ib_write_bw jq; do
	command -v $p >/dev/null || skip "no $p"
done

{
	guest_begins 10.9.0.1
	cat <<-EOF
		'$KVFS' bench --remote --transport=rdma --quick --sizes 1M,4M \
			--threads 2,4 --seconds 12
		'$KVFS' bench --remote --transport=rdma --quick --sizes 4K \
			--ops engine_batch --seconds 12
		'$KVFS' bench --remote --transport=rdma --quick --sizes 1M \
			--threads 4 --seconds 1 --json >/tmp/json
		jq -es 'any(.[]; .op == "ib_write_bw" and .mib_s > 0) and
			any(.[]; .op == "engine_fetch" and .x_ib_write_bw > 0)' \
			/tmp/json || { cat /tmp/json; exit 1; }
	EOF
} >"$TMPDIR/guest.sh"
machine "$TMPDIR" 1 -netdev user,id=n,restrict=on -m 2048
machine_ends "$TMPDIR" $!

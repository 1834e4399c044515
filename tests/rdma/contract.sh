#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The contract test of the engine over real verbs, in a machine with Soft-RoCE:
# once with a registration for each transfer, once with memory windows.
. "$(dirname "$0")/lib.sh"
requires_machines
requires_verbs
[ -x "${HELPERS%/*}/unit/test_engine" ] || skip 'no check, so no unit tests'

{
	guest_begins 10.9.0.1
	cat <<-EOF
		export KVFS_TEST_RDMA=10.9.0.1 CK_TIMEOUT_MULTIPLIER=3
		cd '${HELPERS%/*}/unit'
		./test_engine
		KVFS_FAULT=rdma.windows:1+ ./test_engine_nodes
	EOF
} >"$TMPDIR/guest.sh"
machine "$TMPDIR" 1 -netdev user,id=n,restrict=on
machine_ends "$TMPDIR" $!

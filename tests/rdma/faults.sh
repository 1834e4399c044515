#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What goes wrong with a card: calls that fail, writes that it refuses, a port
# that goes down, also with a second card beside it, memory that may not be
# locked.
. "$(dirname "$0")/lib.sh"
requires_machines
requires_verbs
[ -x "${HELPERS%/*}/unit/test_rdma" ] || skip 'no check, so no unit tests'

{
	guest_begins 10.9.0.1
	cat <<-EOF
		ip address add 10.9.1.1/24 dev eth1
		ip link set eth1 up
		rdma link add rxe1 type rxe netdev eth1
		export KVFS_TEST_RDMA_SECOND=10.9.1.1
		export KVFS_TEST_RDMA=10.9.0.1 KVFS_TEST_RDMA_INTERFACE=eth0
		export KVFS_TEST_RDMA_RXE0=1 CK_TIMEOUT_MULTIPLIER=3
		'${HELPERS%/*}/unit/test_rdma'
	EOF
} >"$TMPDIR/guest.sh"
machine "$TMPDIR" 1 -netdev user,id=n,restrict=on \
	-netdev user,id=m,restrict=on -device virtio-net-pci,netdev=m,romfile=
machine_ends "$TMPDIR" $!

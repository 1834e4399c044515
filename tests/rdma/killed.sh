#!/bin/bash
# SPDX-License-Identifier: MIT
#
# kill -9 of a node that is sending blocks by RDMA: two machines, one Redis. The
# other node never reads a wrong byte and no read hangs; when the node is back,
# what is missing comes from it, by RDMA.
. "$(dirname "$0")/lib.sh"
requires_mounts

a=$TMPDIR/a b=$TMPDIR/b
mkdir "$a" "$b"

{
	guest_begins 10.9.0.1
	guest_mounts 1
	guest_blocks
	cat <<-'EOF'
		redis_starts
		mount_it transport=auto
		mkdir -p /tmp/m/kv/n
		$blocks -n 201 store /tmp/m/kv/n
		published b000200
		tell stored

		pid=$(jq .pid </tmp/m/.kvfs/status)
		until_it '[ "$(figure kvfs_remote_served_total)" -ge 50 ] &&
			[ "$(figure kvfs_remote_serving)" -gt 0 ]'
		kill -9 "$pid"

		told over

		mount_it transport=auto
		tell back
		told done
		alone
		"$kvfs" umount /tmp/m
	EOF
} >"$a/guest.sh"

{
	guest_begins 10.9.0.2
	guest_mounts 2
	guest_blocks
	cat <<-'EOF'
		redis_answers
		mount_it transport=auto
		told stored
		until_it '[ "$($blocks -n 1 -f 200 -p check /tmp/m/kv/n)" = 200 ]'
		until_it '[ "$(via)" = rdma ]'

		read_some 0 100 &
		one=$!
		read_some 100 100 &
		two=$!
		wait $one
		wait $two
		n=$(cat /tmp/got-* | wc -l)
		[ $n -gt 0 ] && [ $n -lt 190 ]
		echo "ok: $n of 200 blocks were read when the node was killed"
		tell over

		told back
		cat /tmp/got-* >/tmp/got
		missing=$(seq 0 199 | grep -vxFf /tmp/got | head -n 1)
		until_it '[ "$($blocks -n 1 -f $missing -p check /tmp/m/kv/n)" = $missing ]'
		until_it '[ "$(via)" = rdma ]'
		had=$(card received_bytes)
		until_it '[ "$($blocks -n 200 -t 60 -p check /tmp/m/kv/n | wc -l)" = 200 ]'
		[ $(($(card received_bytes) - had)) -ge 400000 ]
		echo 'ok: the rest came by RDMA once it was back'
		tell done
		"$kvfs" umount /tmp/m
	EOF
} >"$b/guest.sh"

two_machines "$a" "$b"

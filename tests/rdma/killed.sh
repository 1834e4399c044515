#!/bin/bash
# SPDX-License-Identifier: MIT
#
# kill -9 of a node that is sending blocks by RDMA: two machines, one Redis. The
# other node never reads a wrong byte and no read hangs; when the node is back,
# what is missing comes from it, by RDMA.
. "$(dirname "$0")/lib.sh"
requires_machines
requires_verbs
for p in redis-server redis-cli jq getfattr; do
	command -v $p >/dev/null || skip "no $p"
done

a=$TMPDIR/a b=$TMPDIR/b
mkdir "$a" "$b"

# What the machines tell each other goes through Redis, which is not killed.
tell_each_other() {
	cat <<-EOF
		blocks='$HELPERS/blocks -s 400000'
		tell() { redis-cli -h 10.9.0.1 set told:\$1 1 >/dev/null; }
		told() { until_it "[ \\"\\\$(redis-cli -h 10.9.0.1 get told:\$1)\\" = 1 ]"; }
		figure() { awk "\\\$1 == \\"\$1\\" { print \\\$2 }" /tmp/m/.kvfs/stats; }
	EOF
}

{
	guest_begins 10.9.0.1
	guest_mounts 1
	tell_each_other
	cat <<-'EOF'
		redis-server --bind 10.9.0.1 --protected-mode no --save '' \
			--daemonize yes --dir /tmp >/dev/null
		until_it 'redis-cli -h 10.9.0.1 ping >/dev/null 2>&1'
		mount_it transport=auto
		mkdir -p /tmp/m/kv/n
		$blocks -n 201 store /tmp/m/kv/n
		until_it '[ "$(getfattr --only-values --absolute-names \
			-n user.kvfs.state /tmp/m/kv/n/b000200)" = published ]'
		tell stored

		pid=$(jq .pid </tmp/m/.kvfs/status)
		until_it '[ "$(figure kvfs_remote_served_total)" -ge 50 ] &&
			[ "$(figure kvfs_remote_serving)" -gt 0 ]'
		kill -9 "$pid"

		told over

		mount_it transport=auto
		tell back
		told done
		until_it '[ "$(jq .live </tmp/m/.kvfs/nodes)" = 1 ]'
		"$kvfs" umount /tmp/m
	EOF
} >"$a/guest.sh"

{
	guest_begins 10.9.0.2
	guest_mounts 2
	tell_each_other
	cat <<-'EOF'
		until_it 'redis-cli -h 10.9.0.1 ping >/dev/null 2>&1'
		mount_it transport=auto
		told stored
		until_it '[ "$($blocks -n 1 -f 200 -p check /tmp/m/kv/n)" = 200 ]'
		until_it '[ "$(via)" = rdma ]'

		# Each to its first error, if there is one: a wrong byte is none.
		read_some() { # FIRST
			local rc=0
			$blocks -n 100 -f $1 -t 60 -p check /tmp/m/kv/n \
				>/tmp/got-$1 2>/tmp/error-$1 || rc=$?
			cat /tmp/error-$1
			[ $rc -le 1 ] || { echo "a read hangs: $rc"; return 1; }
			! grep -E 'wrong byte|bytes, not' /tmp/error-$1
		}
		read_some 0 &
		one=$!
		read_some 100 &
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
		rdma() { jq '[.devices[] | select(.device != "") | .received_bytes] | add' </tmp/m/.kvfs/nodes; }
		had=$(rdma)
		until_it '[ "$($blocks -n 200 -t 60 -p check /tmp/m/kv/n | wc -l)" = 200 ]'
		[ $(($(rdma) - had)) -ge 400000 ]
		echo 'ok: the rest came by RDMA once it was back'
		tell done
		"$kvfs" umount /tmp/m
	EOF
} >"$b/guest.sh"

two_machines "$a" "$b"

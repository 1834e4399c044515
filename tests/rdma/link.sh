#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What a card's packets go by fails in the middle of transfers, and comes back:
# two machines, one Redis. Where only RDMA's packets are lost, the rest comes by
# TCP; where the link goes down, no read hangs. No byte is wrong, every block is
# read in the end, and RDMA is used again, with nothing mounted again.
. "$(dirname "$0")/lib.sh"
requires_mounts iptables-legacy

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
		$blocks -n 200 store /tmp/m/kv/n
		published b000199
		tell stored

		told lost
		until_it '[ "$(card retried_slices)" -gt 0 ] && [ "$(card failovers)" -gt 0 ]'
		echo 'ok: slices under way were given to another path'

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
		all() { # FIRST COUNT
			read_some $1 $2 && [ "$(wc -l </tmp/got-$1)" = $2 ]
		}
		began() { until_it "[ \"\$(wc -l </tmp/got-$1)\" -ge 5 ]"; }
		by_rdma() { # FIRST: 20 blocks from there on
			until_it '[ "$(via)" = rdma ]'
			local had
			had=$(card received_bytes)
			until_it "all $1 20"
			[ $(($(card received_bytes) - had)) -ge 400000 ] ||
				{ echo 'not by RDMA'; look; }
		}
		until_it 'all 199 1'
		by_rdma 0

		read_some 20 60 &
		reader=$!
		began 20
		iptables-legacy -A INPUT -p udp --dport 4791 -j DROP
		at=$(wc -l </tmp/got-20)
		wait $reader
		[ $at -lt 60 ]
		until_it 'all 20 60'
		until_it '[ "$(via)" = tcp ]'
		echo "ok: RDMA was lost after $at of 60 blocks, the rest came by TCP"
		tell lost

		iptables-legacy -F INPUT
		by_rdma 80
		echo 'ok: RDMA came back'

		read_some 100 60 &
		reader=$!
		began 100
		ip link set eth0 down
		wait $reader
		at=$(wc -l </tmp/got-100)
		[ $at -lt 60 ]
		until_it '[ "$(card links)" = 0 ]'
		ip link set eth0 up
		until_it 'all 100 60'
		echo "ok: the link went down after $at of 60 blocks, the rest came later"

		by_rdma 160
		echo 'ok: RDMA came back with the link'

		tell done
		"$kvfs" umount /tmp/m
	EOF
} >"$b/guest.sh"

two_machines "$a" "$b"

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Whole mounts: two machines, one Redis. What one stores the other reads by
# RDMA; where RDMA's packets are lost, by TCP; and by RDMA again. In the middle of
# transfers RDMA's packets are lost, then the link goes down and comes back up; of
# two cards each, which share each block, the cable of one is pulled, then RDMA is
# lost by both; then the node that is sending is killed (kill -9). The other one
# never reads a wrong byte and no read hangs; as long as there is a way, none
# fails; and what is missing comes in the end, by RDMA, with nothing mounted again
# but who was killed.
. "$(dirname "$0")/lib.sh"
requires_mounts iptables-legacy

a=$TMPDIR/a b=$TMPDIR/b
mkdir "$a" "$b"

{
	guest_begins 10.9.0.1
	guest_mounts 1 320M
	guest_blocks
	cat <<-'EOF'
		redis_starts
		second_card
		mount_it transport=auto,listen=10.9.1.1
		mkdir -p /tmp/m/kv/n
		$small -n 600 store /tmp/m/kv/n
		for i in 1 2 3; do put first-$i $((400000 + i)); done
		for i in 1 2 3; do put second-$i $((300000 + i)); done
		for i in 1 2 3; do put third-$i $((200000 + i)); done
		tell put
		told read

		$blocks -n 351 store /tmp/m/kv/n
		$large -n 50 -f 351 store /tmp/m/kv/n
		published b000400
		tell stored

		told lost
		until_it '[ "$(card retried_slices)" -gt 0 ] && [ "$(card failovers)" -gt 0 ]'
		echo 'ok: slices under way were given to another path'

		told again
		told pulled
		told linked
		pid=$(jq .pid </tmp/m/.kvfs/status)
		until_it '[ "$(figure kvfs_remote_served_total)" -ge 50 ] &&
			[ "$(figure kvfs_remote_serving)" -gt 0 ]'
		kill -9 "$pid"

		told over

		mount_it transport=auto,listen=10.9.1.1
		tell back
		told done
		alone
		"$kvfs" umount /tmp/m
	EOF
} >"$a/guest.sh"

{
	guest_begins 10.9.0.2
	guest_mounts 2 320M
	guest_blocks
	cat <<-EOF
		rdma_told() { # bit 3 of VERSION's features
			local features
			features=\$('$HELPERS/ioctl' /tmp/m version | cut -d' ' -f1)
			[ \$((0x\$features >> 3 & 1)) = \$1 ] ||
				{ echo "features: \$features"; look; }
		}
	EOF
	cat <<-'EOF'
		# A peer that nobody wants is connected to by nobody.
		wanted=1000
		by_rdma_again() {
			until_it 'cat /tmp/m/kv/n/b00$wanted >/dev/null 2>&1 || :
				wanted=$((wanted + 1))
				[ "$(via)" = rdma ]'
		}
		redis_answers
		mount_it transport=auto,rdma-device=rxe0:1
		rdma_told 1
		told put

		same first-1 400001
		by_rdma_again
		same first-2 400002
		same first-3 400003
		until_it '"$kvfs" nodes /tmp/m | grep " rdma " >/dev/null'
		echo 'ok: read by RDMA'

		iptables-legacy -A INPUT -p udp --dport 4791 -j DROP
		same second-1 300001
		until_it '[ "$(via)" = tcp ]'
		same second-2 300002
		same second-3 300003
		echo 'ok: read by TCP where RDMA is lost'

		iptables-legacy -F INPUT
		by_rdma_again
		same third-1 200001
		same third-2 200002
		echo 'ok: RDMA came back'

		"$kvfs" umount /tmp/m
		mount_it transport=tcp
		rdma_told 0
		same third-3 200003
		[ "$(via)" = tcp ]
		echo 'ok: transport=tcp'

		rdma link add other type rxe netdev lo
		"$kvfs" umount /tmp/m
		mount_it transport=auto,rdma-device=other
		rdma_told 0
		same third-3 200003
		[ "$(via)" = tcp ]
		echo 'ok: not by a card that rdma-device= does not name'

		"$kvfs" umount /tmp/m
		rdma link delete other
		mount_it transport=auto
		tell read
		told stored
		until_it '[ "$($blocks -n 1 -f 200 -p check /tmp/m/kv/n)" = 200 ]'
		all() { # FIRST COUNT
			read_some $1 $2 && [ "$(wc -l </tmp/got-$1)" = $2 ]
		}
		by_rdma() { # FIRST: 10 blocks from there on
			by_rdma_again
			local had
			had=$(card received_bytes)
			until_it "all $1 10"
			[ $(($(card received_bytes) - had)) -ge 200000 ] ||
				{ echo 'not by RDMA'; look; }
		}
		count=60
		amid() { # FIRST WHAT: while so many blocks come; sets at
			local reader
			read_some $1 $count &
			reader=$!
			until_it "[ \"\$(wc -l </tmp/got-$1)\" -ge 3 ]"
			eval "$2"
			at=$(wc -l </tmp/got-$1)
			wait $reader
			[ $at -lt $count ]
		}
		# No read fails, but where Redis does not answer a lookup in time, or
		# is taken for away meanwhile.
		none_fails_amid() { # FIRST WHAT
			local unsure outages n
			unsure=$(figure kvfs_remote_lookups_unsure_total)
			outages=$(figure kvfs_redis_outages_total)
			amid "$@"
			n=$(wc -l </tmp/got-$1)
			unsure=$(($(figure kvfs_remote_lookups_unsure_total) - unsure))
			outages=$(($(figure kvfs_redis_outages_total) - outages))
			[ $((n + unsure)) -ge $count ] || [ $outages -gt 0 ] ||
				{ echo "$n came, $unsure unsure"; look; }
			until_it "all $1 $count"
		}
		by_rdma 201

		none_fails_amid 211 'iptables-legacy -A INPUT -p udp --dport 4791 -j DROP'
		until_it '[ "$(via)" = tcp ]'
		echo "ok: RDMA was lost after $at of 60 blocks, the rest came by TCP"
		tell lost
		iptables-legacy -F INPUT
		by_rdma 271

		amid 281 'ip link set eth0 down'
		until_it '[ "$(card links)" = 0 ]'
		ip link set eth0 up
		until_it 'all 281 60'
		echo "ok: the link went down after $at of 60 blocks, the rest came later"
		by_rdma 341
		echo 'ok: RDMA came back with the link'
		tell again

		"$kvfs" umount /tmp/m
		second_card
		mount_it transport=auto,listen=10.9.1.2
		by_both() { # what comes lets them meet
			until_it 'cat /tmp/m/kv/n/b00$wanted >/dev/null 2>&1 || :
				wanted=$((wanted + 1))
				[ "$(card links rxe0)" -gt 0 ] &&
					[ "$(card links rxe1)" -gt 0 ]'
		}
		by_both
		few=$blocks blocks=$large count=25
		# The cards' own counters: the daemon's take longer than a block.
		packets() { cat /sys/class/infiniband/$1/ports/1/hw_counters/rcvd_pkts; }
		had=("$(packets rxe0)" "$(packets rxe1)")
		came_by_both() {
			[ "$(packets rxe0)" -ge $((had[0] + 200)) ] &&
				[ "$(packets rxe1)" -ge $((had[1] + 200)) ]
		}
		none_fails_amid 351 'until_it came_by_both; cable off'
		until_it '[ "$(card links rxe1)" = 0 ] && [ "$(via)" = rdma ]'
		echo "ok: one of two cables was pulled after $at of 25 blocks, which all came"
		tell pulled
		cable on
		by_both
		none_fails_amid 376 'cable off; iptables-legacy -A INPUT -p udp --dport 4791 -j DROP'
		until_it '[ "$(via)" = tcp ]'
		echo "ok: RDMA was lost by both after $at of 25 blocks, the rest came by TCP"
		iptables-legacy -F INPUT
		cable on
		by_both
		blocks=$few
		rm /tmp/got-*
		tell linked

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
		by_rdma_again
		had=$(card received_bytes)
		until_it '[ "$($blocks -n 200 -t 60 -p check /tmp/m/kv/n | wc -l)" = 200 ]'
		[ $(($(card received_bytes) - had)) -ge 400000 ]
		echo 'ok: the rest came by RDMA once it was back'
		tell done
		"$kvfs" umount /tmp/m
	EOF
} >"$b/guest.sh"

two_machines "$a" "$b"

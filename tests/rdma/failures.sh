#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Whole mounts that lose something in the middle of transfers: one of two cards,
# which comes back, and a node by kill -9. Two machines with two networks; nodes
# 1 and 3 in the first one, the reader in the other.
. "$(dirname "$0")/lib.sh"
requires_machines
requires_verbs
for p in redis-server redis-cli jq getfattr; do
	command -v $p >/dev/null || skip "no $p"
done

a=$TMPDIR/a b=$TMPDIR/b
mkdir "$a" "$b"

second_card() { # NUMBER
	cat <<-EOF
		ip address add 10.8.0.$1/24 dev eth1
		ip link set eth1 up
		rdma link add rxe1 type rxe netdev eth1
		device() { # NAME FIGURE
			jq -r ".devices[] | select(.device == \"\$1:1\") | .\$2" </tmp/m/.kvfs/nodes
		}
		told() { # NAME: who stores it has got so far, and the other knows
			put \$1 1
			until_it "[ \"\\\$(getfattr --only-values --absolute-names \
				-n user.kvfs.state /tmp/m/kv/n/\$1)\" = published ]"
		}
	EOF
}

{
	guest_begins 10.9.0.1
	guest_mounts 1 128M
	second_card 1
	cat <<-'EOF'
		redis-server --bind 10.9.0.1 --protected-mode no --save '' \
			--daemonize yes --dir /tmp >/dev/null
		until_it 'redis-cli -h 10.9.0.1 ping >/dev/null 2>&1'
		ip address add 10.9.0.3/24 dev eth0
		ip address add 10.8.0.3/24 dev eth1
		mount_it transport=auto,deadline=20,listen=10.8.0.1
		mkdir /tmp/m3
		"$kvfs" mount /tmp/m3 -o pool=128M,state=/tmp/state3,meta=redis://10.9.0.1:6379,cluster-key-file=/tmp/key,deadline=20,listen=10.9.0.3,listen=10.8.0.3
		mkdir -p /tmp/m/kv/n
		for i in 1 2 3 4 5 6 7; do put card-$i $((1000000 + i)); done
		told cards
		until_it '[ -e /tmp/m/kv/n/cards-done ]'
		rm /tmp/m/kv/n/card-*

		for i in 1 2 3; do
			put both-$i $((1100000 + i))
			seq $((1100000 + i)) >/tmp/want
			until_it 'cmp -s /tmp/want /tmp/m3/kv/n/both-'$i
		done
		put one-1 1200001
		put one-2 1200002
		pid=$(jq .pid </tmp/m/.kvfs/status)
		told nodes
		until_it 'grep -q "^kvfs_remote_serving [1-9]" /tmp/m/.kvfs/stats'
		kill -9 "$pid"
		echo 'killed while it was serving'

		# Redis ends with this machine: not before the reader has left.
		until_it '[ -e /tmp/m3/kv/n/done ]'
		until_it '[ "$(jq .live </tmp/m3/.kvfs/nodes)" = 1 ]'
		"$kvfs" umount /tmp/m3
	EOF
} >"$a/guest.sh"

{
	guest_begins 10.9.0.2
	guest_mounts 2 128M
	second_card 2
	cat <<-'EOF'
		until_it 'redis-cli -h 10.9.0.1 ping >/dev/null 2>&1'
		mount_it transport=auto,deadline=20,listen=10.8.0.2
		until_it '[ -e /tmp/m/kv/n/cards ]'

		same card-1 1000001
		until_it '[ "$(device rxe0 links)" -gt 0 ] && [ "$(device rxe1 links)" -gt 0 ]'
		same card-2 1000002 &
		reader=$!
		until_it 'grep -q "^kvfs_remote_fetching [1-9]" /tmp/m/.kvfs/stats'
		ip link set eth1 down
		wait $reader
		until_it '[ "$(device rxe1 links)" = 0 ]'
		until_it 'via | grep -x rdma >/dev/null'
		echo 'ok: one card goes on alone'

		ip link set eth1 up
		until_it '[ "$(device rxe1 links)" -gt 0 ]'
		had=$(device rxe1 received_bytes)
		for i in 3 4 5 6 7; do
			same card-$i $((1000000 + i))
			[ "$(device rxe1 received_bytes)" = "$had" ] || break
		done
		[ "$(device rxe1 received_bytes)" -gt "$had" ] || { echo 'not used'; look; }
		echo 'ok: and the other one comes back'
		told cards-done

		until_it '[ -e /tmp/m/kv/n/nodes ]'
		# Right, or right so far and an error, within the deadline.
		read_one() { # NAME LINES
			local rc=0
			timeout 60 cat /tmp/m/kv/n/$1 >/tmp/out-$1 2>/tmp/err-$1 || rc=$?
			[ $rc != 124 ] || { echo "$1: it hangs"; return 1; }
			seq $2 >/tmp/want-$1
			[ $rc = 0 ] || truncate -s "$(stat -c %s /tmp/out-$1)" /tmp/want-$1
			cmp /tmp/out-$1 /tmp/want-$1 || return 1
			[ $rc = 0 ] || cat /tmp/err-$1
		}
		until_it '[ -e /tmp/m/kv/n/one-1 ] && [ -e /tmp/m/kv/n/one-2 ]'
		read_one one-1 1200001 &
		one=$!
		read_one both-1 1100001 &
		both=$!
		read_one one-2 1200002
		wait $one
		wait $both
		for i in 1 2 3; do same both-$i $((1100000 + i)); done
		echo 'ok: a node that was killed is gone, and what others have comes'

		told done
		"$kvfs" umount /tmp/m
	EOF
} >"$b/guest.sh"

two_machines "$a" "$b" second

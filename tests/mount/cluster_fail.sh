#!/bin/bash
# SPDX-License-Identifier: MIT
# Nodes that die, stop, or are cut off in the middle of 1,000 reads: no wrong
# byte, nothing waits past the deadline (the limit of each read here is far
# above it: it tells a hang from a wait), what others hold goes on, and who
# comes back has a new life.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
POOL=256M DEADLINE=2 cluster_up 3
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done
# Four readers fetch ahead of themselves, each at most a 32nd of the pool: more
# than twice that.
N=2000 BYTES=40000 LIMIT=30

_settled() { # I...: all that these nodes have is known to Redis
	local i
	for i; do
		wait_for '[ "$(node_status '"$i"' .redis.dirty)" = 0 ]' 30
	done
}
_store() { # NAME: N blocks on node 1
	mkdir -p "$(kv 1)/n/$1"
	blocks -n $N -s $BYTES store "$(kv 1)/n/$1"
	_settled 1
}
_present() { # NODE NAME [exist]: how many are there; no other fault than that
	blocks -n $N -s $BYTES -t $LIMIT "${3:-check}" "$(kv "$1")/n/$2" |
		cut -d' ' -f2
}
_has() { [ "$(_present "$@")" = "$N" ]; }
_lives() { [ "$(jq .live <"$(mnt "$1")/.kvfs/nodes")" = "$2" ]; }
_life() { node_status "$1" .redis.incarnation; }
_n_read() { cat "$T"/reads.? 2>/dev/null | wc -l; }

# Readers of node 2 are held in the middle, COMMAND breaks something, and they
# go on. Prints how many blocks they found.
_while_reading() { # NAME COMMAND...
	local name=$1 readers=() r
	shift
	for r in 0 1 2 3; do
		blocks -f $((r * N / 4)) -n $((N / 4)) -s $BYTES -t $LIMIT -p \
			check "$(kv 2)/n/$name" >"$T/reads.$r" &
		readers+=($!)
	done
	wait_for '[ "$(_n_read)" -ge 20 ]'
	kill -STOP "${readers[@]}"
	[ "$(_n_read)" -lt $N ] || fail 'all was read before anything broke'
	"$@"
	kill -CONT "${readers[@]}"
	for r in "${readers[@]}"; do
		wait "$r" || fail "a reader ended with $?"
	done
	_n_read
	rm "$T"/reads.?
}

# What node 2 has: what its readers got, and what was fetched ahead of them.
_held() { # NAME AT_LEAST
	local n
	n=$(_present 2 "$1")
	[ "$n" -ge "$2" ] || fail "node 2 has $n of the $2 blocks that it read"
	say "$n"
}

a_killed_node_costs_misses_and_its_names_go() {
	local left life
	_store kill
	life=$(_life 1)
	left=$(_while_reading kill node_kill 1)
	[ "$left" -lt $N ] || fail 'everything was read from a dead node'
	# What the readers fetched is left, on node 2; the third sees no more.
	wait_for '_lives 2 2 && _lives 3 2' 30
	_settled 2
	left=$(_held kill "$left")
	[ "$(_present 3 kill exist)" -le "$left" ] ||
		fail "names of the dead node are shown"
	wait_for '[ "$(_present 3 kill exist)" = '"$left"' ]'
	expect 'names in the listing' "$(ls "$(kv 3)/n/kill" | wc -l)" "$left"
	expect 'blocks on the third' "$(_present 3 kill)" "$left"
	node_mount 1
	all_know 3
	[ "$(_life 1)" -gt "$life" ] || fail 'it goes on with its old life'
	wait_for '_has 3 kill' 30
	rm -r "$(kv 3)/n/kill"
}

# Names that change hands while node 1 is not there: one that all have is
# removed, one is removed and stored again.
_before() { # NAME
	put_published "$(kv 1)/n/$1-removed" $BYTES 1
	put_published "$(kv 1)/n/$1-other" $BYTES 1
	holds_soon "$(kv 2)/n/$1-removed" $BYTES 1
	holds_soon "$(kv 2)/n/$1-other" $BYTES 1
	published "$(kv 2)/n/$1-removed"
	published "$(kv 2)/n/$1-other"
}
_meanwhile() { # NAME
	rm "$(kv 2)/n/$1-removed" "$(kv 2)/n/$1-other"
	put_published "$(kv 2)/n/$1-other" $BYTES 2
}
_afterwards() { # NAME
	local i
	holds "$(kv 3)/n/$1-other" $BYTES 2
	for i in 1 2 3; do
		wait_for 'is_gone "$(kv '"$i"')/n/'"$1"'-removed"' 30
		holds_soon "$(kv "$i")/n/$1-other" $BYTES 2 30
	done
	is_gone "$(kv 3)/n/$1-removed" || fail 'a removed name came back'
}

a_stopped_node_costs_misses_and_comes_back_with_a_new_life() {
	local left life
	trap 'node_cont 1' EXIT
	_before stop
	_store stop
	life=$(_life 1)
	left=$(_while_reading stop node_stop 1)
	[ "$left" -lt $N ] || fail 'everything was read from a stopped node'
	wait_for '_lives 2 2 && _lives 3 2' 30
	_meanwhile stop
	_settled 2
	left=$(_held stop "$left")
	wait_for '[ "$(_present 3 stop exist)" = '"$left"' ]'
	node_cont 1
	all_know 3
	wait_for '[ "$(_life 1)" -gt '"$life"' ]'
	_afterwards stop
	wait_for '_has 3 stop' 30
	rm -r "$(kv 3)/n/stop"
}

a_node_that_is_cut_off_costs_misses_and_comes_back_with_a_new_life() {
	local left life i
	trap 'node_heal 1' EXIT
	_before cut
	_store cut
	life=$(_life 1)
	left=$(_while_reading cut node_cut 1)
	[ "$left" -lt $N ] || fail 'everything was read from nowhere'
	# It lives, and knows of nobody: what it has is read and stored there.
	expect 'local blocks' "$(_present 1 cut)" $N
	put_tmp "$(kv 1)/n/cut-both" $BYTES 1
	wait_for '_lives 2 2 && _lives 3 2' 30
	_meanwhile cut
	put_published "$(kv 2)/n/cut-both" $BYTES 2
	node_heal 1
	all_know 3
	wait_for '[ "$(_life 1)" -gt '"$life"' ]'
	_afterwards cut
	# Who published first has won; the other's copy made room.
	for i in 1 2 3; do
		holds_soon "$(kv $i)/n/cut-both" $BYTES 2 30
	done
	wait_for '_has 3 cut' 30
	rm -r "$(kv 3)/n/cut"
}

a_node_that_is_cut_off_from_redis_alone_goes_on_serving() {
	put_published "$(kv 1)/n/before" 50000 1
	put_published "$(kv 1)/n/after" 50000 2
	holds_soon "$(kv 2)/n/before" 50000 1
	on 1 iptables -A INPUT -p tcp --sport 6379 -j DROP
	on 1 iptables -A OUTPUT -p tcp --dport 6379 -j DROP
	trap 'node_heal 1; hand_stop' EXIT
	wait_for '[ "$(redis zcard "kvfs:{n}:live")" = 2 ] && _lives 2 2' 30
	holds_soon "$(kv 2)/n/after" 50000 2
	node_heal 1
	all_know 3
}

another_holder_serves_when_the_first_is_stopped() {
	mkdir "$(kv 1)/n/other"
	blocks -n 10 -s $BYTES store "$(kv 1)/n/other"
	_settled 1
	# its link to node 1 was cut a moment ago
	wait_for '[ "$(blocks -n 10 -s $BYTES check "$(kv 2)/n/other")" = "present 10 absent 0" ]'
	_settled 2
	node_stop 1
	wait_for '[ "$(blocks -n 10 -s $BYTES -t $LIMIT check "$(kv 3)/n/other")" = "present 10 absent 0" ]'
	node_cont 1
	all_know 3
}

# It counts as a holder up to its TTL, and who asks it waits for it.
a_node_that_is_lost_is_asked_last() {
	local timeouts
	mkdir "$(kv 1)/n/lost"
	blocks -n 10 -s $BYTES store "$(kv 1)/n/lost"
	_settled 1
	wait_for '[ "$(blocks -n 10 -s $BYTES check "$(kv 3)/n/lost")" = "present 10 absent 0" ]'
	_settled 3
	put_published "$(kv 1)/n/linked" $BYTES 1
	holds_soon "$(kv 2)/n/linked" $BYTES 1
	timeouts=$(node_stat 2 remote_timeouts_total)
	on 1 iptables -A INPUT -p tcp --syn -j DROP
	node_kill 1
	wait_for '[ "$(blocks -n 10 -s $BYTES -t $LIMIT check "$(kv 2)/n/lost")" = "present 10 absent 0" ]'
	expect 'timeouts' "$(node_stat 2 remote_timeouts_total)" "$timeouts"
	node_heal 1
	node_mount 1
	all_know 3
}

_drop_between_1_and_2() {
	on 1 iptables -A INPUT -s 10.77.0.12 -j DROP &&
		on 1 iptables -A OUTPUT -d 10.77.0.12 -j DROP
}
# Both live, and know it by Redis: nobody else can be asked. That a read is
# tried so often is no rule, only that it goes on; a lookup may miss on a busy
# machine, so what counts is that no fetch fails.
a_read_waits_until_the_link_to_the_only_holder_has_healed() {
	local size failed slow reader
	"$CLUSTER" umount 2
	node_mount 2 deadline=30
	all_know 3
	for size in $BYTES 20000000; do
		put_published "$(kv 1)/n/healed-$size" $size 1
		failed=$(node_stat 2 remote_fetch_failed_total)
		slow=$(node_stat 2 remote_timeouts_total)
		_drop_between_1_and_2
		holds_soon "$(kv 2)/n/healed-$size" $size 1 &
		reader=$!
		wait_for '[ "$(node_stat 2 remote_timeouts_total)" -ge '$((slow + 8))' ] ||
			[ "$(node_stat 2 remote_fetch_failed_total)" != '"$failed"' ]'
		node_heal 1
		wait $reader
		expect "fetches of $size bytes that failed" \
			"$(node_stat 2 remote_fetch_failed_total)" "$failed"
	done
	"$CLUSTER" umount 2
	node_mount 2
	all_know 3
}

lost_packets_cost_time_only() {
	local p chain
	for p in 0.01 0.05; do
		mkdir "$(kv 1)/n/lossy-$p"
		blocks -n 100 -s $BYTES store "$(kv 1)/n/lossy-$p"
		_settled 1
		for chain in INPUT OUTPUT; do
			on 1 iptables -A $chain -m statistic --mode random \
				--probability $p -j DROP
		done
		wait_for '[ "$(blocks -n 100 -s $BYTES -t $LIMIT check "$(kv 2)/n/lossy-'$p'")" = "present 100 absent 0" ]' 60
		node_heal 1
	done
	all_know 3
}

without_redis_each_node_has_what_it_holds() {
	local i
	for i in 1 2 3; do
		put_published "$(kv $i)/n/away-$i" $BYTES "$i"
	done
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	for i in 1 2 3; do
		holds "$(kv $i)/n/away-$i" $BYTES "$i"
		put_tmp "$(kv $i)/n/stored-$i" $BYTES "$i"
		holds "$(kv $i)/n/stored-$i" $BYTES "$i"
		# What another node has is a miss at most, and soon.
		blocks -n 1 -t $LIMIT check "$(kv $i)/n/unknown" >"$T/out"
		grep -q 'present 0' "$T/out"
		refused "$EIO|$EROFS|timed out|unavailable|again" \
			timeout $LIMIT mkdir "$(mnt $i)/ckpt/away-$i"
	done
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	for i in 1 2 3; do
		wait_for '[ "$(node_status '$i' .redis.up)" = true ]' 20
		holds_soon "$(kv $((i % 3 + 1)))/n/stored-$i" $BYTES "$i" 30
	done
	all_know 3
}

# Answers come in gusts: asleep most of the time, never for long.
_slow_redis() {
	local pid
	pid=$(cat "$KVFS_CLUSTER/redis/pid")
	trap 'kill -CONT "$pid"; exit 0' TERM
	while :; do
		kill -STOP "$pid"
		sleep 0.2
		kill -CONT "$pid"
		sleep 0.02
	done
}
a_slow_redis_costs_time_and_misses_only() {
	local slow i
	_store slow
	_slow_redis &
	slow=$!
	_present 2 slow >/dev/null || fail 'another fault than a miss'
	expect 'local blocks' "$(_present 1 slow)" $N
	for i in 1 2 3; do
		put_tmp "$(kv $i)/n/slowly-$i" $BYTES "$i"
	done
	kill "$slow" && wait "$slow"
	all_know 3
	wait_for '_has 2 slow' 30
	for i in 1 2 3; do
		holds_soon "$(kv $((i % 3 + 1)))/n/slowly-$i" $BYTES "$i"
	done
}

a_miss_that_redis_did_not_confirm_is_not_remembered() {
	local asked i
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	wait_for '[ ! -e "$(kv 2)/n/miss-0" ] &&
		[ "$(node_status 2 .redis.up)" = false ]'
	asked=$(node_stat 2 'latency_seconds_count{op="lookup"}')
	for i in 1 2 3 4 5; do # the kernel remembers none of them
		[ ! -e "$(kv 2)/n/miss-1" ]
	done
	asked=$(($(node_stat 2 'latency_seconds_count{op="lookup"}') - asked))
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	wait_for '[ "$(node_status 2 .redis.up)" = true ]' 20
	[ $asked -ge 5 ] || fail "asked $asked times of 5"
}

# Once: node 1 stored it, Redis is slow to tell node 2, and it asks again.
_is_found_late() {
	local late path n=$((tries++))
	path=$(kv 2)/n/late-$n
	put_published "$(kv 1)/n/late-$n" 5000 1
	late=$(node_stat 2 remote_lookups_late_total)
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	[ ! -e "$path" ] || fail 'who said so?'
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	wait_for '[ -e "'"$path"'" ]'
	[ "$(node_stat 2 remote_lookups_late_total)" -gt "$late" ]
}

an_answer_that_comes_too_late_answers_who_asks_again() {
	local tries=0
	# it is kept for 100 ms, which a busy machine may sleep through
	wait_for _is_found_late 30
	[ "$(node_stat 2 remote_lookups_unsure_total)" -ge 1 ]
}

_another_redis() {
	local pid
	pid=$(cat "$KVFS_CLUSTER/redis/pid")
	kill -9 "$pid"
	wait_for "gone $pid"
	"$CLUSTER" 3 >/dev/null
}
_filled_after() { # NAME COMMAND...
	local name=$1 i
	shift
	for i in 1 2 3; do
		put_published "$(kv $i)/n/$name-$i" $BYTES "$i"
		mkdir "$(mnt $i)/ckpt/$name-$i"
		echo "of $i" >"$(mnt $i)/ckpt/$name-$i/file"
	done
	# What nobody has in writing yet is lost with the Redis that had it.
	wait_for '[ "$(node_status 1 ".redis.ckpt_seq == .redis.ckpt_logged_seq")" = true ]'
	"$@"
	for i in 1 2 3; do
		holds_soon "$(kv $((i % 3 + 1)))/n/$name-$i" $BYTES "$i" 60
		wait_for '[ "$(cat "$(mnt '$((i % 3 + 1))')/ckpt/'"$name-$i"'/file" 2>/dev/null)" = "of '$i'" ]' 60
	done
	mkdir "$(mnt 2)/ckpt/after-$name"
}
a_wiped_redis_is_filled_again_by_all() { _filled_after wiped redis flushall; }
another_redis_in_its_place_is_filled_by_all() { _filled_after other _another_redis; }

strangers_harm_nobody() {
	local before after
	put_published "$(kv 1)/n/strangers" 4000000 1
	: >"$T/strangers"
	before=$(awk '/^VmRSS/ { print $2 }' "/proc/$(node_pid 1)/status")
	on 2 python3 - "$(on 1 ss -ltnH | awk '$4 ~ /^10\.77/ { print $4; exit }')" \
		<<-'END' >"$T/strangers" &
		import os, socket, sys
		host, port = sys.argv[1].rsplit(":", 1)
		idle = []
		for i in range(1000):
		    s = socket.create_connection((host, int(port)))
		    if i % 3 == 1:
		        s.sendall(os.urandom(300))
		    elif i % 3 == 2:
		        s.sendall(b"\xff" * 64)
		    idle.append(s)
		print("all", flush=True)
		for s in idle:
		    s.settimeout(30)
		    try:
		        while s.recv(4096):
		            pass
		    except ConnectionError:
		        pass
		print("ended", flush=True)
	END
	wait_for 'grep -q all "$T/strangers"' 30
	holds_soon "$(kv 2)/n/strangers" 4000000 1
	holds_soon "$(kv 3)/n/strangers" 4000000 1
	wait $! || fail 'they were not shown out'
	grep -q ended "$T/strangers"
	after=$(awk '/^VmRSS/ { print $2 }' "/proc/$(node_pid 1)/status")
	[ $((after - before)) -lt 32768 ] ||
		fail "they cost $((after - before)) KiB"
}

run_tests

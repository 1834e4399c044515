#!/bin/bash
# SPDX-License-Identifier: MIT
# Blocks of other nodes, received straight into memory of a client.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
DEADLINE=4 cluster_up 2
mkdir "$(kv 1)/n"
wait_for '[ -d "$(kv 2)/n" ]'

# On node 2: a buffer of 64 MiB, and what is done with it.
_with() { "$HELPERS/buffer" "$(kv 2)/n" memfd=67108864 register=0:67108864 "$@" |
	tail -n +2; }
_straight() { node_stat 2 got_straight_total; }
_kept() { node_status 2 '[.kv.namespaces[].blocks] | add // 0'; }
_store() { # NAME SIZE SEED N: N published blocks NAME0, NAME1, … on node 1
	local i
	for ((i = 0; i < $4; i++)); do
		put_tmp "$(kv 1)/n/$1$i" "$2" $(($3 + i))
	done
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]' 30
}
_names() { seq -s, -f "$1%.0f" 0 $(($2 - 1)); } # NAME N
_nothing_left() {
	wait_for '[ "$(node_stat 2 buffers)" = 0 ]'
	wait_for '[ "$(grep -c memfd:buffer "/proc/$(node_pid 2)/maps")" = 0 ]'
}

whole_blocks_come_straight_and_are_not_kept() {
	local i words=() want
	_store a 1000003 10 40
	for ((i = 0; i < 40; i++)); do
		words+=("check=$((10 + i)):$((i * 1000100 + 3)):1000003")
	done
	want=$(for ((i = 0; i < 40; i++)); do echo same; done)
	_with "until=40" "get=1:0:1000003:3:1000100:$(_names a 40)" \
		"${words[@]}" >"$T/out"
	expect 'came' "$(head -1 "$T/out" | tr ' ' '\n' | sort | uniq -c |
		sed 's/^ *//')" '40 1000003/1000003!'
	expect 'bytes' "$(tail -n +2 "$T/out")" "$want"
	expect 'kept' "$(_kept)" 0
	[ "$(_straight)" -ge 40 ] || fail "only $(_straight) came straight"
	_nothing_left
}

libkvfs_reads_them_in_any_number() {
	mkdir "$(kv 1)/n/lib"
	seq -f 'l%.0f' 0 399 >"$T/names"
	expect 'stored' "$("$HELPERS/gds_buffer" -s "$(kv 1)/n/lib" store 30000 \
		<"$T/names")" '400 0'
	wait_for '[ -d "$(kv 2)/n/lib" ]'
	# Where Redis is late some are not found: the next call finds them.
	wait_for '"$HELPERS/gds_buffer" -f "$(kv 2)/n/lib" read 30000 \
		<"$T/names" | grep -q "^400 400 400$"'
	expect 'through a ring' "$("$HELPERS/gds_buffer" -r -f "$(kv 2)/n/lib" \
		read 30000 <"$T/names")" '400 400 400'
	expect 'kept' "$(_kept)" 0
}

other_blocks_come_through_the_pool() {
	_store b 3000000 60 2
	_store large 20000000 70 1
	expect 'parts' "$(_with until=1 get=1:1000000:500000:0:0:b0 \
		check=60:0:500000:1000000 \
		get=1:0:2999999:0:0:b1 check=61:0:2999999 \
		until=1 get=1:0:30000000:5:0:large0 check=70:5:20000000 \
		get=0:0:3000000:0:0:b0)" '500000/3000000
same
2999999/3000000
same
20000000/20000000
same
3000000/3000000'
	expect 'kept' "$(_kept)" 3
	_nothing_left
}

without_fetch_nothing_comes() {
	_store c 5000 80 1
	wait_for '[ -e "$(kv 2)/n/c0" ]'
	expect 'not fetched' "$(_with get=0:0:5000:0:0:c0 fill=1:0:5000 \
		get=1:0:5000:0:0:none check=1:0:5000)" 'EREMOTE
ENOENT
same'
}

who_may_not_read_it_gets_no_byte() {
	(umask 077 && put_published "$(kv 1)/n/d0" 5000 90)
	wait_for '[ -e "$(kv 2)/n/d0" ]'
	expect 'nobody' "$(as_nobody "$HELPERS/buffer" "$(kv 2)/n" memfd=8192 \
		register=0:8192 fill=5:0:8192 get=1:0:8192:0:0:d0 check=5:0:8192)" \
		'w
EACCES
same'
}

# What node 1 has is not what was published, and there is no other.
other_bytes_than_those_published_never_count() {
	local frame
	_store e 1100000 95 1
	frame=$(find "$KVFS_CLUSTER/node-1/state/pool/frames" -size 2149)
	expect 'frames' "$(wc -l <<<"$frame")" 1
	printf x | dd of="$frame" bs=1 seek=500000 conv=notrunc status=none
	wait_for '[ -e "$(kv 2)/n/e0" ]'
	expect 'damaged' "$(_with get=1:0:1100000:0:0:e0)" ENOENT
	[ "$(node_status 2 .remote.mismatches)" -gt 0 ] || fail 'nobody compared'
}

# Node 1 stops in the middle of its bytes, and goes on when the client, whose
# call has ended, uses the memory for something else.
late_bytes_never_land_in_memory_that_is_in_use_again() {
	local client
	_store f 16000000 100 2
	node_stops_at 1 8
	wait_for '[ -e "$(kv 2)/n/f0" ] && [ -e "$(kv 2)/n/f1" ]' 20
	mkfifo "$T/go"
	"$HELPERS/buffer" "$(kv 2)/n" memfd=67108864 register=0:67108864 \
		"get=1:0:16000000:0:16000000:f0,f1" fill=7:0:32000000 wait \
		check=7:0:32000000 <"$T/go" >"$T/out" &
	client=$!
	exec {GO}>"$T/go"
	wait_for '[ "$(wc -l <"$T/out")" = 2 ]' 60
	node_is_stopped 1 || fail 'node 1 did not stop'
	grep -q '^[A-Z]*[ A-Z]*$' <<<"$(sed -n 2p "$T/out")" ||
		fail "it got bytes that were not sent: $(cat "$T/out")"
	node_cont 1
	all_know 2
	wait_for '[ "$(node_status 2 .remote.quarantined_bytes)" = 0 ]' 20
	exec {GO}>&-
	wait $client
	expect 'memory' "$(tail -1 "$T/out")" same
	expect 'later' "$(_with until=2 "get=1:0:16000000:0:16000000:f0,f1" \
		check=100:0:16000000 check=101:16000000:16000000)" \
		'16000000/16000000! 16000000/16000000!
same
same'
	_nothing_left
}

memory_that_bytes_come_to_cannot_be_unregistered() {
	local client
	_store k 16000000 160 1
	node_stops_at 1 8
	wait_for '[ -e "$(kv 2)/n/k0" ]' 20
	mkfifo "$T/aside"
	"$HELPERS/buffer" "$(kv 2)/n" memfd=67108864 register=0:67108864 aside \
		get=1:0:16000000:0:0:k0 unregister <"$T/aside" >"$T/out" &
	client=$!
	exec {ASIDE}>"$T/aside"
	wait_for 'node_is_stopped 1' 30
	say >&"$ASIDE"
	wait_for '[ "$(wc -l <"$T/out")" -ge 2 ]'
	node_cont 1
	wait $client
	exec {ASIDE}>&-
	expect 'during the call, and after it' "$(sed -n '2p;$p' "$T/out")" 'EBUSY
ok'
	all_know 2
	_nothing_left
}

clients_killed_in_the_middle_leave_nothing() {
	_store g 4000000 110 12
	cat >"$T/client" <<-END
		while :; do
			"$HELPERS/buffer" "$(kv 2)/n" memfd=67108864 \
				register=0:67108864 \
				get=1:0:4000000:0:4000000:$(_names g 12)
		done
	END
	kill_clients 10 _straight "$T/client" 1
	_nothing_left
	wait_for '[ "$(node_status 1 .remote.pinned_bytes)" = 0 ]' 20
	wait_for '[ "$(node_status 2 .remote.quarantined_bytes)" = 0 ]' 20
}

# The node that fetches goes while node 1 is silent in the middle of its bytes.
a_node_that_goes_ends_what_it_fetches() {
	local client pid rc=0
	_store i 16000000 140 2
	node_stops_at 1 8
	wait_for '[ -e "$(kv 2)/n/i0" ] && [ -e "$(kv 2)/n/i1" ]' 20
	_with get=1:0:16000000:0:16000000:i0,i1 >"$T/out" 2>&1 &
	client=$!
	wait_for 'node_is_stopped 1' 30
	pid=$(node_pid 2)
	kill -TERM "$pid"
	wait_for "gone $pid" 30
	wait $client || rc=$?
	grep -q / "$T/out" && fail "it got what was not sent: $(cat "$T/out")"
	grep -qi 'sanitizer\|assert' "$KVFS_CLUSTER/node-2/state/kvfs.log" &&
		fail 'it did not end well'
	node_cont 1
	node_mount 2
	all_know 2
}

# The same, and nobody is there any more to be answered.
a_mount_that_is_aborted_ends_what_it_fetches() {
	local client reader pid
	_store j 16000000 150 2
	node_stops_at 1 8
	wait_for '[ -e "$(kv 2)/n/j0" ] && [ -e "$(kv 2)/n/j1" ]' 20
	_with get=1:0:16000000:0:0:j0 >"$T/out" 2>&1 &
	client=$!
	cat "$(kv 2)/n/j1" >"$T/bytes" 2>&1 &
	reader=$!
	wait_for 'node_is_stopped 1' 30
	wait_for '[ "$(node_status 2 .remote.n_fetching)" = 2 ]'
	pid=$(node_pid 2)
	_abort_connections "$(mnt 2)"
	wait_for "gone $pid" 30
	wait $client || :
	grep -q / "$T/out" && fail "it got what was not sent: $(cat "$T/out")"
	! wait $reader || fail 'it read what was not sent'
	grep -q 'was aborted: unmounting' "$KVFS_CLUSTER/node-2/state/kvfs.log"
	grep -qi 'sanitizer\|assert' "$KVFS_CLUSTER/node-2/state/kvfs.log" &&
		fail 'it did not end well'
	node_cont 1
	node_mount 2
	all_know 2
}

# Ends with node 1 gone.
a_holder_that_dies_ends_the_call() {
	local client
	_store h 16000000 130 1
	node_stops_at 1 8
	wait_for '[ -e "$(kv 2)/n/h0" ]' 20
	_with get=1:0:16000000:0:0:h0 get=0:0:1:0:0:none >"$T/out" &
	client=$!
	wait_for 'node_is_stopped 1' 30
	node_kill 1
	wait $client
	expect 'ended' "$(sed 's/ETIMEDOUT/ENOENT/' "$T/out")" 'ENOENT
ENOENT'
	_nothing_left
}

run_tests

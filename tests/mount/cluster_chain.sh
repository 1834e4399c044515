#!/bin/bash
# SPDX-License-Identifier: MIT
# Blocks that are read in the order in which they were stored are fetched ahead;
# in another order they are not.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd setfattr
[ -c /dev/net/tun ] || skip 'no /dev/net/tun on this machine'
DELAY_MS=2
DEADLINE=30 cluster_up 3 --delay $DELAY_MS
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done
N=40 BYTES=200000

_store() { # NAME: a chain on node 1
	local i
	mkdir -p "$(kv 1)/n/$1"
	for ((i = 0; i < N; i++)); do
		put_tmp "$(kv 1)/n/$1/$i" $BYTES $i
	done
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
}
_ahead() { node_status "$1" .remote.ahead; }

a_chain_read_in_order_is_fetched_ahead() {
	local i before
	_store order
	before=$(_ahead 2)
	for ((i = 0; i < N; i++)); do
		holds_soon "$(kv 2)/n/order/$i" $BYTES $i
	done
	[ $(($(_ahead 2) - before)) -ge $((N / 2)) ] ||
		fail "only $(($(_ahead 2) - before)) of $N were fetched ahead"
	expect 'failed fetches' "$(node_status 2 .remote.fetch_failed)" 0
}

a_chain_read_backwards_fetches_nothing_ahead() {
	local i before
	_store back
	before=$(_ahead 3)
	for ((i = N - 1; i >= 0; i--)); do
		holds_soon "$(kv 3)/n/back/$i" $BYTES $i
	done
	expect 'fetched ahead' "$(_ahead 3)" "$before"
}

a_chain_that_was_named_is_followed() {
	local i before
	mkdir "$(kv 1)/n/named"
	for i in 3 0 5 2 4 1; do
		put_published "$(kv 1)/n/named/$i" $BYTES $i
	done
	for i in 1 2 3 4 5; do
		setfattr -n user.kvfs.parent -v named/$((i - 1)) \
			"$(kv 1)/n/named/$i"
	done
	before=$(_ahead 2)
	for i in 0 1; do
		holds "$(kv 2)/n/named/$i" $BYTES $i
	done
	for i in 2 3 4 5; do
		wait_for '[ "$(_ahead 2)" -ge '$((before + i - 1))' ]'
		holds "$(kv 2)/n/named/$i" $BYTES $i
	done
}

what_was_fetched_ahead_and_removed_is_gone() {
	local i
	_store removed
	for i in 0 1; do
		holds_soon "$(kv 2)/n/removed/$i" $BYTES $i
	done
	rm "$(kv 1)/n/removed/4"
	wait_for 'is_gone "$(kv 2)/n/removed/4"'
	holds_soon "$(kv 2)/n/removed/5" $BYTES 5
}

_remote() { node_status "$1" ".remote.$2"; }
# As often as its own fetches it tries what was begun ahead. What Redis does not
# answer in time is a miss.
a_reader_waits_for_what_was_to_come_ahead() {
	local slow unsure reader
	node_stops_at 1 4
	mkdir "$(kv 1)/n/waited"
	blocks -n $N -s $BYTES store "$(kv 1)/n/waited"
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
	wait_for '[ -d "$(kv 2)/n/waited" ]'
	unsure=$(node_stat 2 remote_lookups_unsure_total)
	slow=$(_remote 2 timeouts)
	blocks -n $N -s $BYTES -t 60 -p check "$(kv 2)/n/waited" >"$T/came" &
	reader=$!
	wait_for 'node_is_stopped 1'
	wait_for '[ "$(_remote 2 timeouts)" -ge '$((slow + 12))' ] ||
		gone '$reader
	node_cont 1
	wait $reader
	unsure=$(($(node_stat 2 remote_lookups_unsure_total) - unsure))
	[ $(($(wc -l <"$T/came") + unsure)) -ge $N ] ||
		fail "$(wc -l <"$T/came") of $N came, $unsure were unsure"
	all_know 3
}

_idle() { [ "$(_remote "$1" n_fetching)" = 0 ]; }

# A thread that opens several, as an engine does: this shell.
_open() { wait_for ': <"'"$1"'" 2>/dev/null'; }

no_more_than_the_window_is_fetched_ahead() {
	local i before
	_store window
	wait_for '_idle 2' # of the chain of another test
	before=$(_ahead 2)
	for i in 0 1; do
		_open "$(kv 2)/n/window/$i"
	done
	wait_for '[ "$(_ahead 2)" -ge '$((before + 2))' ] && _idle 2'
	expect 'fetched ahead' "$(_ahead 2)" $((before + 2))
}

# Node 1 sends so slowly that the block is still on its way.
what_is_coming_is_cancelled_when_the_reader_leaves() {
	local i served cancelled dropped n=10 bytes=2000000
	for i in elsewhere before; do # not the one after the other
		put_published "$(kv 3)/n/$i" 5000 1
	done
	_open "$(kv 2)/n/before" # and no chain of another test is left
	mkdir "$(kv 1)/n/left"
	for ((i = 0; i < n; i++)); do
		put_published "$(kv 1)/n/left/$i" $bytes $i
	done
	served=$(_remote 1 served_bytes)
	cancelled=$(_remote 2 ahead_cancelled)
	dropped=$(_remote 2 ahead_dropped)
	i=$(_ahead 2)
	_open "$(kv 2)/n/left/0"
	_open "$(kv 2)/n/left/1"
	wait_for '[ "$(_ahead 2)" = '$((i + 2))' ] && _idle 2'
	on 1 tc qdisc replace dev eth0 root tbf rate 1mbit burst 16k latency 400ms
	_open "$(kv 2)/n/left/2"
	wait_for '! _idle 2'
	_open "$(kv 2)/n/elsewhere"
	wait_for _idle\ 2
	on 1 tc qdisc del dev eth0 root
	cancelled=$(($(_remote 2 ahead_cancelled) - cancelled))
	dropped=$(($(_remote 2 ahead_dropped) - dropped))
	[ "$cancelled" -ge 1 ] || fail 'nothing was cancelled'
	[ "$dropped" -ge 1 ] || fail 'nothing was dropped'
	expect 'cancelled and dropped' $((cancelled + dropped)) $((n - 4))
	wait_for '[ "$(_remote 1 n_serving)" = 0 ]'
	expect 'served' "$(_remote 1 served_bytes)" $((served + 4 * bytes))
	holds_soon "$(kv 2)/n/left/4" $bytes 4
}

processes_of_one_block_each_leave_a_chain_too() {
	local i before
	put_published "$(kv 3)/n/aside" 5000 1
	_store cat
	for i in 0 1 2; do
		holds_soon "$(kv 2)/n/cat/$i" $BYTES $i
	done
	before=$(_remote 2 ahead_dropped)
	holds_soon "$(kv 2)/n/aside" 5000 1
	[ "$(_remote 2 ahead_dropped)" -gt "$before" ] ||
		fail 'what was known is still to be fetched'
}

# Two links there and two back, for the quickest packet of all.
a_link_is_as_slow_as_it_was_asked_for() {
	local rtt
	put_published "$(kv 1)/n/slow" 5000 1
	holds_soon "$(kv 2)/n/slow" 5000 1
	rtt=$(on 2 ss -tin dst 10.77.0.11 | grep -o 'minrtt:[0-9.]*' |
		cut -d: -f2 | sort -n | head -1)
	awk -v r="$rtt" -v d=$DELAY_MS 'BEGIN { exit !(r != "" && r >= 4 * d) }' ||
		fail "a round trip in '$rtt' ms, not $((4 * DELAY_MS))"
}

run_tests

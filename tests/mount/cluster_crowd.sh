#!/bin/bash
# SPDX-License-Identifier: MIT
# Many nodes read one block at once: a few get it from its holder, the others
# from those.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
POOL=256M DEADLINE=60 cluster_up 6
mkdir "$(kv 1)/n"
for i in 2 3 4 5 6; do
	wait_for '[ -d "$(kv '$i')/n" ]'
done

READERS='2 3 4 5 6'

_of_readers() { # COUNTER: of all of them
	local i n=0
	for i in $READERS; do
		n=$((n + $(node_status "$i" ".remote.$1")))
	done
	echo $n
}
# Each link by itself, or the answer to the fifth were lost in that of the
# holder.
_links_to_readers() { # COMMAND ARGUMENTS...: of tc qdisc
	local i
	for i in $READERS; do
		on 0 tc qdisc "$1" dev "port$i" root "${@:2}"
	done
}

the_fifth_reader_gets_it_from_those_that_came_before() {
	local size=16777216 i pids=()
	put_published "$(kv 1)/n/new" $size 1
	# With little in the kernel's buffers, until all have asked.
	on 1 sh -c 'echo 4096 16384 65536 >/proc/sys/net/ipv4/tcp_wmem'
	_links_to_readers replace tbf rate 4mbit burst 64k latency 400ms
	for i in $READERS; do
		holds_soon "$(kv "$i")/n/new" $size 1 60 &
		pids+=($!)
	done
	wait_for '[ "$(_of_readers busy)" -ge 1 ]'
	_links_to_readers del
	for i in "${pids[@]}"; do
		wait "$i"
	done
	[ "$(_of_readers served)" -ge 1 ] || fail 'all got it from its holder'
}

# A quarter of it is four of these blocks.
what_readers_pin_is_a_quarter_of_the_pool_and_free_when_they_die() {
	local size=16777216 i pids=() busy
	for i in $READERS; do
		put_published "$(kv 1)/n/pin-$i" $size "$i"
		wait_for '[ -e "$(kv '"$i"')/n/pin-'"$i"'" ]'
	done
	busy=$(_of_readers busy)
	_links_to_readers replace tbf rate 4mbit burst 64k latency 400ms
	for i in $READERS; do
		cat "$(kv "$i")/n/pin-$i" >/dev/null 2>&1 &
		pids+=($!)
	done
	wait_for '[ "$(_of_readers busy)" -gt '"$busy"' ]' 20
	expect 'pinned' "$(node_status 1 .remote.pinned_bytes)" $((4 * size))
	for i in $READERS; do
		node_kill "$i"
	done
	_links_to_readers del
	wait_for '[ "$(node_status 1 .remote.pinned_bytes)" = 0 ]' 20
	wait "${pids[@]}" || :
	for i in $READERS; do
		node_mount "$i"
	done
	all_know 6
	for i in $READERS; do
		holds_soon "$(kv "$i")/n/pin-$i" $size "$i" 20
	done
}

# Nodes 2 to 5 are given it slowly; node 6, by LOCATE and by GET, was told to
# ask them.
_wait_behind_four() { # NAME DEADLINE_MS; READS, LOCATE, GET: processes
	local i before
	on 1 sh -c 'echo 4096 16384 65536 >/proc/sys/net/ipv4/tcp_wmem'
	_links_to_readers replace tbf rate 4mbit burst 64k latency 400ms
	READS=()
	for i in 2 3 4 5; do
		wait_for '[ -e "$(kv '$i')/n/'$1'" ]'
		cat "$(kv $i)/n/$1" >/dev/null 2>&1 &
		READS+=($!)
	done
	wait_for '[ "$(node_status 1 .remote.n_serving)" -ge 4 ]' 20
	wait_for '[ -e "$(kv 6)/n/'"$1"'" ]'
	before=$(node_status 6 .remote.busy)
	# GET first: it would wait for the fetch of LOCATE, and not ask.
	"$HELPERS/buffer" "$(kv 6)/n" deadline="$2" memfd=$SIZE register=0:$SIZE \
		"get=1:0:$SIZE:0:0:$1" "check=0:0:$SIZE" >"$T/got" &
	GET=$!
	wait_for '[ "$(node_status 6 .remote.busy)" -gt '"$before"' ]' 20
	"$HELPERS/ioctl" -w -f 1 -t "$2" "$(kv 6)/n" locate "$1" \
		<"$T/go" >"$T/located" &
	LOCATE=$!
	exec 7>"$T/go" # until the frame was looked at
	wait_for '[ "$(node_status 6 .remote.busy)" -ge '$((before + 2))' ]' 20
}
_all_again() { # NODE...
	local i
	for i; do
		node_mount "$i"
	done
	all_know 6
	wait "${READS[@]}" || :
}
SIZE=16777216
mkfifo "$T/go"

killed_nodes_that_were_named_are_passed_over() {
	local i
	put_published "$(kv 1)/n/named" $SIZE 0
	_wait_behind_four named 60000
	for i in 2 3 4 5; do
		node_kill $i
	done
	_links_to_readers del
	wait $GET
	wait_for '[ -s "$T/located" ]' 60
	expect 'located' "$(sed 's/ [0-9]*:/ :/' "$T/located")" "0 1 1 :$SIZE"
	holds "$(mnt 6)/.kvfs/frames/$(cut -d' ' -f4 "$T/located" |
		cut -d: -f1)" $SIZE 0
	exec 7>&-
	wait $LOCATE
	expect 'got' "$(tail -n +2 "$T/got" | tr -d '!')" "$SIZE/$SIZE
same"
	_all_again 2 3 4 5
}

with_all_who_have_it_killed_it_is_not_there() {
	local i
	put_published "$(kv 1)/n/lost" $SIZE 0
	_wait_behind_four lost 5000
	for i in 1 2 3 4 5; do
		node_kill $i
	done
	_links_to_readers del
	exec 7>&-
	wait $LOCATE $GET || :
	expect 'located' "$(sed 's/EREMOTE/ENOENT/;s/^1/0/' "$T/located")" \
		'0 1 0 ENOENT'
	expect 'got' "$(sed -n '2s/ETIMEDOUT/ENOENT/;2p' "$T/got")" ENOENT
	_all_again 1 2 3 4 5
	holds_soon "$(kv 6)/n/lost" $SIZE 0 20
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Which prefix of a chain is where: kvfs match, and .kvfs/match itself.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
DEADLINE=2
cluster_up 3
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done

_names() { printf 'b%06d\n' $(seq "$1" "$2"); } # as helpers/blocks calls them
_stored() { # NODE NAMESPACE/DIR FIRST N: published
	blocks -n "$4" -f "$3" -s 5000 store "$(kv "$1")/$2"
	wait_for '[ "$(node_status '"$1"' .redis.dirty)" = 0 ]' 20
}
# The prefix over all, and of each node: "12 node-1:12 node-3:4".
_found='"\(.prefix)" + ([.nodes[] | " \(.name):\(.prefix)"] | sort | join(""))'
_match() { # NODE NAMESPACE: the names on stdin
	"$KVFS" match --json "$(kv "$1")/$2" - | jq -r "$_found" || :
}
_ioctl() { "$HELPERS/ioctl" "$@"; }
# What .kvfs/match of node 2 answers, asked without the command.
_ask() { # QUESTION (printf's form) [COMMAND...]: run by it
	local question=$1
	shift
	"$@" bash -c 'exec 3<>"$1" && printf "$2" >&3 && cat <&3' - \
		"$(mnt 2)/.kvfs/match" "$question"
}

the_longest_prefix_of_all_nodes_and_of_each() {
	mkdir "$(kv 1)/n/p"
	_stored 1 n/p 0 10
	mkdir -p "$(kv 2)/n/p" "$(kv 3)/n/p"
	_stored 2 n/p 0 5 # equal bytes: they are two holders
	_stored 3 n/p 10 3
	_stored 3 n/p 20 1 # behind a gap
	for i in 1 2 3; do
		expect "node $i" "$(_names 0 25 | _match $i n/p)" \
			'13 node-1:10 node-2:5'
	done
	expect 'of less' "$(_names 0 2 | _match 3 n/p)" '3 node-1:3 node-2:3'
	expect 'from the third on' "$(_names 10 25 | _match 1 n/p)" \
		'3 node-3:3'
	expect 'in the namespace' "$(_names 0 25 | sed s,^,p/, | _match 3 n)" \
		'13 node-1:10 node-2:5'
}

libkvfs_follows_each_node_over_the_daemon_s_requests() {
	mkdir "$(kv 1)/n/lib"
	_stored 1 n/lib 0 2100
	mkdir -p "$(kv 2)/n/lib"
	_stored 2 n/lib 0 2050
	_stored 2 n/lib 2060 5 # behind a gap
	expect 'match' "$(_names 0 2200 | "$HELPERS/gds" "$(kv 3)/n/lib" match)" \
		'2100 2100 0 node-1:2100 node-2:2050'
	expect 'at home' "$(_names 0 2200 | "$HELPERS/gds" "$(kv 2)/n/lib" match)" \
		'2100 2100 0 node-1:2100 node-2:2050:self'
}

the_ioctls_find_what_any_node_holds() {
	mkdir "$(kv 1)/n/i"
	_stored 1 n/i 0 4
	mkdir -p "$(kv 2)/n/i"
	_stored 2 n/i 0 2
	_stored 2 n/i 5 1
	expect 'match' "$(_names 0 6 | "$HELPERS/ioctl" "$(kv 3)/n/i" match -)" \
		'0 7 5 4 1111010 node-1:4 node-2:2'
	expect 'at home' "$(_names 0 6 | "$HELPERS/ioctl" "$(kv 2)/n/i" \
		match -)" '0 7 5 4 1111010 node-1:4 node-2:2:self'
	expect 'exists' "$(_names 0 6 | "$HELPERS/ioctl" "$(kv 3)/n/i" \
		exists -)" '0 7 5 4 1111010'
	expect 'below kv' "$("$HELPERS/ioctl" "$(kv 3)" exists n/i/b000000 \
		none/b n/i/none)" '0 3 1 1 100'
	expect 'local' "$(_names 0 6 | "$HELPERS/ioctl" -f 1 "$(kv 2)/n/i" \
		exists - | cut -d' ' -f1-2)" '0 7'
}

the_version_tells_of_the_cluster() {
	local features=7 # passthrough, cluster, rings; a namespace has no card
	[ "$KVFS_RUNG" != direct ] || features=6
	expect 'node 2' "$("$HELPERS/ioctl" "$(kv 2)/n" version | cut -d' ' -f1)" \
		"$features"
}

_found_without_redis() {
	local trips
	trips=$(node_stat 1 redis_lookup_trips_total)
	expect 'all' "$(_names 0 99 | "$HELPERS/ioctl" "$(kv 1)/n/h" exists - |
		cut -d' ' -f1-4)" '0 100 100 100'
	[ "$(node_stat 1 redis_lookup_trips_total)" = "$trips" ]
}

what_is_here_is_found_without_redis() {
	mkdir "$(kv 1)/n/h"
	_stored 1 n/h 0 100
	# Whatever else the node has to do may ask for its own sake meanwhile.
	wait_for _found_without_redis
}

blocks_of_other_nodes_are_fetched_when_they_are_located() {
	mkdir "$(kv 1)/n/l"
	_stored 1 n/l 0 3
	put_published "$(kv 1)/n/l/big" 20000000 9
	expect 'not asked for' "$("$HELPERS/ioctl" "$(kv 2)/n/l" locate \
		b000000 none | cut -d' ' -f1-3)" '0 2 0'
	# the nodes may still have to connect
	wait_for '[ "$(_names 0 3 | "$HELPERS/ioctl" -f 1 "$(kv 2)/n/l" \
		locate - big | sed "s/ [0-9]*:/ :/g")" = \
		"0 5 4 :5000 :5000 :5000 ENOENT :20000000" ]'
	expect 'here' "$("$HELPERS/ioctl" "$(kv 2)/n/l" locate b000000 big |
		cut -d' ' -f1-3)" '0 2 2'
	expect 'held' "$(node_stat 2 lent_frames)" 0
}

a_copy_that_is_pinned_stays_until_it_is_unpinned() {
	local holder dir
	dir=$(kv 2)/n/pin
	mkdir "$(kv 1)/n/pin"
	put_published "$(kv 1)/n/pin/a" 100000 5
	wait_for '[ "$(_ioctl -f 1 "$(kv 2)/n/pin" locate a |
		cut -d" " -f1-3)" = "0 1 1" ]'
	mkfifo "$T/do"
	_ioctl -w "$dir" locate a <"$T/do" >"$T/held" &
	holder=$!
	exec {DO}>"$T/do"
	wait_for '[ -s "$T/held" ]'
	expect 'pinned' "$(_ioctl "$dir" evict a)" '0 1 0 0 0'
	holds "$(mnt 2)/.kvfs/frames/$(cut -d' ' -f4 "$T/held" | cut -d: -f1)" \
		100000 5
	say 'unpin 0' >&"$DO"
	wait_for '[ "$(wc -l <"$T/held")" = 2 ]'
	expect 'pins' "$(tail -1 "$T/held")" 1
	# RELEASE of the frame that was read may come a moment later.
	wait_for '[ "$(_ioctl "$(kv 2)/n/pin" evict a)" = "0 1 1 1 1" ]'
	exec {DO}>&-
	wait $holder
	# Node 1 has it still, and node 2 again where it is read.
	wait_for '[ "$(_ioctl "$(kv 3)/n/pin" match a)" = \
		"0 1 1 1 1 node-1:1" ]'
	expect 'elsewhere' "$(_ioctl "$dir" evict a)" '0 1 0 0 0'
	holds "$dir/a" 100000 5
}

and_through_a_ring() {
	local i
	mkdir "$(kv 1)/n/ring"
	for i in $(seq 0 19); do
		put_published "$(kv 1)/n/ring/r$i" $((5000 + i * 40000)) "$i"
	done
	seq -f 'r%.0f' 0 29 >"$T/ring" # 10 of them are nowhere
	wait_for '[ "$("$HELPERS/gds" -r "$(kv 2)/n/ring" match <"$T/ring")" = \
		"20 20 0 node-1:20" ]'
	wait_for '[ "$("$HELPERS/gds_ring" "$(kv 2)/n/ring" fetch 8 \
		<"$T/ring")" = "20 0" ]'
	expect 'match' "$("$HELPERS/gds" -r "$(kv 2)/n/ring" match <"$T/ring" |
		xargs -n1 | sort | xargs)" '0 20 20 node-1:20 node-2:20:self'
	expect 'here' "$("$HELPERS/gds_ring" "$(kv 2)/n/ring" get 8 \
		<"$T/ring")" '20 0'
	wait_for '[ "$(node_stat 2 rings)" = 0 ]'
	wait_for '[ "$(node_stat 2 lent_frames)" = 0 ]'
}

what_does_not_come_by_the_deadline_is_said_to_be_late() {
	mkdir "$(kv 1)/n/late"
	_stored 1 n/late 0 2
	node_stop 1
	_names 0 1 | "$HELPERS/ioctl" -f 1 -t 200 "$(kv 2)/n/late" locate - \
		>"$T/located"
	node_cont 1
	expect 'late' "$(cut -d' ' -f1-3 "$T/located")" '1 2 0'
	wait_for '[ "$(_names 0 1 | "$HELPERS/ioctl" -f 1 "$(kv 2)/n/late" \
		locate - | cut -d" " -f1-3)" = "0 2 2" ]' 20
}

the_command_shows_a_table_and_says_no_by_its_exit_code() {
	local rc=0
	mkdir "$(kv 1)/n/t"
	_stored 1 n/t 0 2
	_names 0 3 >"$T/names"
	"$KVFS" match "$(kv 2)/n/t" "$T/names" >"$T/out"
	grep -q ': 2 of 4 blocks' "$T/out"
	grep -Eq '^node-1 +2$' "$T/out"
	_names 9 9 | "$KVFS" match "$(kv 2)/n/t" - >"$T/out" || rc=$?
	expect 'code' $rc 1
	grep -q ': 0 of 1 blocks' "$T/out"
	printf 'a\n../b\n' >"$T/names"
	refused "names:2: it can be no block's name" \
		"$KVFS" match "$(kv 2)/n/t" "$T/names"
	refused 'none: No such file' "$KVFS" match "$(kv 2)/none" "$T/names"
	refused 'no namespace' "$KVFS" match "$(mnt 2)/ckpt" "$T/names"
	refused 'not in a kvfs' "$KVFS" match "$T" "$T/names"
}

a_thousand_names_that_were_never_looked_up_cost_three_round_trips() {
	local trips i
	mkdir "$(kv 1)/far"
	for ((i = 0; i < 10; i++)); do
		mkdir -p "$(kv 1)/far/r0/$i"
		blocks -n 100 -f $((i * 100)) -s 5000 store "$(kv 1)/far/r0/$i"
	done
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]' 20
	for ((i = 0; i < 1000; i++)); do
		printf 'r0/%d/b%06d\n' $((i / 100)) $i
	done >"$T/names"
	wait_for '[ -d "$(kv 2)/far" ]' # one trip, for the namespaces
	trips=$(node_stat 2 redis_lookup_trips_total)
	expect 'found' "$(_match 2 far <"$T/names")" '1000 node-1:1000'
	trips=$(($(node_stat 2 redis_lookup_trips_total) - trips))
	[ $trips -le 2 ] || fail "$trips round trips"
}

# What was heard of a directory counts for a moment.
_denied_without_redis() {
	local lookups
	_ask 'n\nmine/a\n' as_nobody >"$T/answer"
	lookups=$(node_stat 2 redis_lookups_total)
	_ask 'n\nmine/a\n' as_nobody >"$T/answer"
	expect 'again' "$(jq "$_found" -r <"$T/answer")" 0
	[ "$(node_stat 2 redis_lookups_total)" = "$lookups" ]
}

below_a_directory_that_may_not_be_searched_nothing_is_there() {
	mkdir -m 700 "$(kv 1)/n/mine"
	mkdir -m 710 "$(kv 1)/n/ours"
	chgrp 4242 "$(kv 1)/n/ours"
	put_published "$(kv 1)/n/mine/a" 5000 1
	put_published "$(kv 1)/n/ours/a" 5000 1
	# node 2 has heard of neither
	expect 'mine' "$(_ask 'n\nmine/a\n' as_nobody | jq "$_found" -r)" 0
	expect 'ours' "$(_ask 'n\nours/a\n' as_nobody | jq "$_found" -r)" 0
	wait_for _denied_without_redis 20
	expect 'a member' "$(_ask 'n\nours/a\n' setpriv --reuid=65534 \
		--regid=65534 --groups=7,4242 -- | jq "$_found" -r)" \
		'1 node-1:1'
	expect 'root' "$(_ask 'n\nmine/a\n' | jq "$_found" -r)" '1 node-1:1'
}

a_question_may_come_in_pieces_and_is_one_for_each_open() {
	mkdir "$(kv 1)/n/q"
	_stored 1 n/q 0 3
	exec {a}<>"$(mnt 2)/.kvfs/match" {b}<>"$(mnt 2)/.kvfs/match"
	printf 'n/' >&"$a"
	printf 'n\nq/none\n' >&"$b"
	printf 'q\nb000000\nb0000' >&"$a"
	printf '01' >&"$a"
	expect 'one' "$(dd bs=7 status=none <&"$a" | jq -r "$_found")" \
		'2 node-1:2'
	expect 'the other' "$(jq -r "$_found" <&"$b")" 0
	refused 'busy' bash -c 'printf "n\na\n" >&'"$a"
	exec {a}<&- {b}<&-
	expect 'held' "$(node_stat 2 match_question_bytes)" 0
}

what_is_no_question_is_refused() {
	local long
	long=$(printf '%0896d' 0)
	for q in '' '\n' 'n\n..\n' 'n\n\n' 'n\na//b\n' 'n\n/a\n' 'n\na/\n' \
		'../n\na\n' 'n\na\0b\n' "n\n${long:0:256}\n" \
		"n\n${long//00/0\/}\n"; do
		refused "$EINVAL" _ask "$q"
	done
	refused "$EFBIG" bash -c 'exec 3<>"$1" && head -c 5000000 /dev/zero >&3' \
		- "$(mnt 2)/.kvfs/match"
	refused "$EINVAL" cat "$(mnt 2)/.kvfs/match"
	expect 'none held' "$(node_stat 2 match_question_bytes)" 0
}

without_redis_it_is_what_this_node_knows_and_says_so() {
	mkdir -p "$(kv 1)/n/away" "$(kv 2)/n/away"
	_stored 2 n/away 0 3
	_stored 1 n/away 3 3
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	_names 0 5 | "$KVFS" match --json "$(kv 2)/n/away" - >"$T/answer" ||
		fail "exit code $?"
	_names 0 5 | "$KVFS" match "$(kv 2)/n/away" - >"$T/out"
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	jq -e '.prefix >= 3 and .complete == false' "$T/answer"
	grep -q 'Redis does not answer' "$T/out"
	wait_for '[ "$(node_status 2 .redis.up)" = true ]' 20
	wait_for '[ "$(_names 0 5 | _match 2 n/away)" = "6 node-2:3" ]'
}

run_tests

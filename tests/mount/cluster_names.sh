#!/bin/bash
# SPDX-License-Identifier: MIT
# One name, several nodes: who wins, who forgets.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
cluster_up 3
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done

_state() { getfattr --absolute-names --only-values -n user.kvfs.state "$1" 2>/dev/null; }

the_first_commit_wins_and_all_see_its_bytes() {
	local i sum
	# Both write before either publishes: Redis is stopped meanwhile.
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	put_tmp "$(kv 1)/n/race" 3000000 1
	put_tmp "$(kv 2)/n/race" 3000000 2
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	for i in 1 2; do
		wait_for '[ "$(node_status '$i' .redis.up)" = true ]' 20
		wait_for '[ "$(node_status '$i' .redis.dirty)" = 0 ]' 20
	done
	wait_for 'sum=$(sha256sum <"$(kv 1)/n/race") &&
		[ "$sum" = "$(sha256sum <"$(kv 2)/n/race")" ]'
	expect 'the third' "$(sha256sum <"$(kv 3)/n/race")" "$sum"
	"$HELPERS/pattern" check 1 3000000 <"$(kv 3)/n/race" ||
		holds "$(kv 3)/n/race" 3000000 2
	expect 'conflicts' $(($(node_status 1 .redis.conflicts) + $(
		node_status 2 .redis.conflicts))) 1
}

the_loser_keeps_what_it_had_open_and_gives_its_space_back() {
	local used loser=0 i
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	put_tmp "$(kv 1)/n/open" 2000000 1
	put_tmp "$(kv 2)/n/open" 2000000 2
	exec {one}<"$(kv 1)/n/open" {two}<"$(kv 2)/n/open"
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	for i in 1 2; do
		wait_for '[ "$(node_status '$i' .redis.up)" = true ]' 20
		wait_for '[ "$(node_status '$i' .redis.dirty)" = 0 ]' 20
	done
	"$HELPERS/pattern" check 1 2000000 <&"$one" || fail 'the first changed'
	"$HELPERS/pattern" check 2 2000000 <&"$two" || fail 'the second changed'
	for i in 1 2; do
		[ "$(_state "$(kv $i)/n/open")" = published ] || loser=$i
	done
	[ $loser != 0 ] || fail 'nobody lost'
	used=$(node_status $loser .pool.blocks)
	exec {one}<&- {two}<&-
	wait_for '[ "$(node_status '$loser' .pool.blocks)" -lt '"$((used + 1))"' ]'
	sha256sum <"$(kv 1)/n/open" >"$T/a"
	sha256sum <"$(kv 2)/n/open" >"$T/b"
	same_file "$T/a" "$T/b"
}

equal_blocks_become_replicas() {
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	put_tmp "$(kv 1)/n/equal" 100000 3
	put_tmp "$(kv 2)/n/equal" 100000 3
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	published "$(kv 1)/n/equal"
	published "$(kv 2)/n/equal"
	expect 'holders' "$(getfattr --absolute-names --only-values -n user.kvfs.holders \
		"$(kv 3)/n/equal" | tr ' ' '\n' | sort | xargs)" 'node-1 node-2'
}

unlink_is_seen_by_all() {
	local i
	put_published "$(kv 1)/n/gone" 100000 4
	holds "$(kv 2)/n/gone" 100000 4
	holds "$(kv 3)/n/gone" 100000 4
	published "$(kv 2)/n/gone"
	published "$(kv 3)/n/gone"
	rm "$(kv 2)/n/gone"
	for i in 1 2 3; do
		wait_for 'is_gone "$(kv '$i')/n/gone"'
	done
}

the_holders_have_dropped_it_when_unlink_returns() {
	local before
	node_kill 1
	KVFS_FAULT=remote.drop:1+ node_mount 1 # a moment late
	all_know 3
	put_published "$(kv 1)/n/sync" 100000 5
	before=$(node_status 1 .pool.blocks)
	[ -e "$(kv 2)/n/sync" ]
	rm "$(kv 2)/n/sync"
	expect 'drops' "$(node_status 2 .remote.drops_sent | sed 's/[1-9].*/some/')" some
	refused "$ENOENT" cat "$(kv 1)/n/sync"
	expect 'blocks' "$(node_status 1 .pool.blocks)" $((before - 1))
	node_kill 1
	node_mount 1
	all_know 3
}

# Of 64 groups each has some of the blocks that are refused: no batch is without.
a_full_redis_takes_removals_and_the_rest_later() {
	local i
	for ((i = 0; i < 3; i++)); do
		put_published "$(kv 1)/n/full-$i" 5000 $i
		holds "$(kv 2)/n/full-$i" 5000 $i
		published "$(kv 2)/n/full-$i"
	done
	"$CLUSTER" redis config set maxmemory 1 >/dev/null
	rm "$(kv 2)/n/full-0"
	refused "$ENOENT" cat "$(kv 1)/n/full-0"
	for ((i = 0; i < 400; i++)); do
		put_tmp "$(kv 2)/n/refused-$i" 4096 $i
	done
	wait_for 'grep -q "Redis refused it.*OOM" "$KVFS_CLUSTER/node-2/state/kvfs.log"'
	for i in 1 2; do
		rm "$(kv 2)/n/full-$i"
		refused "$ENOENT" cat "$(kv 1)/n/full-$i"
	done
	expect 'not published' "$(node_status 2 .redis.dirty)" 400
	expect 'said once' "$(grep -c 'Redis refused it' \
		"$KVFS_CLUSTER/node-2/state/kvfs.log")" 1
	"$CLUSTER" redis config set maxmemory 0 >/dev/null
	wait_for '[ "$(node_status 2 .redis.dirty)" = 0 ]'
	holds_soon "$(kv 1)/n/refused-399" 4096 399
	rm "$(kv 2)"/n/refused-*
}

a_removed_name_can_be_stored_again() {
	put_published "$(kv 1)/n/again" 100000 6
	holds "$(kv 2)/n/again" 100000 6
	rm "$(kv 2)/n/again"
	put_published "$(kv 3)/n/again" 200000 7
	wait_for '[ "$(stat -c %s "$(kv 1)/n/again" 2>/dev/null)" = 200000 ]'
	holds "$(kv 1)/n/again" 200000 7
	holds "$(kv 2)/n/again" 200000 7
}

# Redis tells who could not be told.
a_copy_that_missed_the_unlink_goes_soon() {
	put_published "$(kv 1)/n/missed" 100000 8
	holds "$(kv 2)/n/missed" 100000 8
	published "$(kv 2)/n/missed"
	on 1 iptables -A INPUT -s 10.77.0.12 -j DROP
	on 1 iptables -A OUTPUT -d 10.77.0.12 -j DROP
	rm "$(kv 1)/n/missed" # until the deadline
	holds "$(kv 2)/n/missed" 100000 8
	node_heal 1
	wait_for 'is_gone "$(kv 2)/n/missed"' 20
}

who_has_the_old_version_open_does_not_keep_it_for_others() {
	local old
	put_published "$(kv 1)/n/opened" 100000 21
	holds "$(kv 2)/n/opened" 100000 21
	published "$(kv 2)/n/opened"
	exec {old}<"$(kv 2)/n/opened"
	rm "$(kv 1)/n/opened"
	refused "$ENOENT" cat "$(kv 2)/n/opened"
	put_published "$(kv 1)/n/opened" 100000 22
	holds_soon "$(kv 2)/n/opened" 100000 22
	"$HELPERS/pattern" check 21 100000 <&"$old" || fail 'it changed'
	exec {old}<&-
}

rename_is_seen_by_all() {
	put_published "$(kv 1)/n/old" 100000 9
	holds "$(kv 2)/n/old" 100000 9
	mv "$(kv 1)/n/old" "$(kv 1)/n/new"
	published "$(kv 1)/n/new"
	wait_for 'is_gone "$(kv 3)/n/old"'
	holds "$(kv 3)/n/new" 100000 9
	holds "$(kv 2)/n/new" 100000 9
}

a_block_of_another_node_can_be_renamed() {
	put_published "$(kv 1)/n/theirs" 100000 10
	mv "$(kv 2)/n/theirs" "$(kv 2)/n/ours"
	published "$(kv 2)/n/ours"
	wait_for 'is_gone "$(kv 1)/n/theirs"'
	holds "$(kv 1)/n/ours" 100000 10
}

a_store_onto_another_nodes_name_keeps_the_first() {
	put_published "$(kv 1)/n/first" 100000 11
	put "$(kv 2)/n/first.tmp" 100000 12
	mv -T "$(kv 2)/n/first.tmp" "$(kv 2)/n/first"
	wait_for '[ "$(node_status 2 .redis.dirty)" = 0 ]'
	holds_soon "$(kv 2)/n/first" 100000 11
	holds "$(kv 3)/n/first" 100000 11
}

an_evicted_block_is_fetched_from_who_still_has_it() {
	local i
	put_published "$(kv 1)/n/evicted" 1000000 13
	holds "$(kv 2)/n/evicted" 1000000 13
	published "$(kv 2)/n/evicted"
	"$KVFS" pin "$(kv 2)/n/evicted"
	# Node 1 stores more than its pool: the oldest goes, once no peer takes
	# what node 1 alone has, which would go before it.
	for ((i = 0; i < 400; i++)); do
		put_tmp "$(kv 1)/n/fill-$i" 4000000 $i
		[ "$(_state "$(kv 1)/n/evicted")" != remote ] || break
	done
	expect 'the block on node 1' "$(_state "$(kv 1)/n/evicted")" remote
	holds "$(kv 1)/n/evicted" 1000000 13
}

# On the node that removed it, on one that held it; others may show it 30 s.
what_was_removed_is_not_listed_any_more() {
	local i
	mkdir "$(kv 1)/listed"
	for i in 2 3; do
		wait_for '[ -d "$(kv '$i')/listed" ]'
	done
	mkdir "$(kv 1)/listed/d"
	for i in a b d/a d/b; do
		put_published "$(kv 1)/listed/$i" 5000 1
	done
	holds "$(kv 3)/listed/a" 5000 1
	published "$(kv 3)/listed/a"
	for i in 2 3; do
		expect 'at first' "$(cd "$(kv $i)/listed" && find . -type f |
			sort | xargs)" './a ./b ./d/a ./d/b'
	done
	"$KVFS" rm "$(kv 2)/listed/a" "$(kv 2)/listed/d/b" >/dev/null
	expect 'there' "$(cd "$(kv 2)/listed" && find . -type f | sort |
		xargs)" './b ./d/a'
	expect 'where it was held' "$(ls "$(kv 3)/listed" | xargs)" 'b d'
	put_published "$(kv 2)/listed/a" 5000 2
	expect 'stored again' "$(ls "$(kv 2)/listed" | xargs)" 'a b d'
}

# Before the others' next heartbeats.
a_node_that_came_just_now_is_named() {
	local c1
	c1=$(mnt 1)/ckpt
	put_published "$(kv 1)/n/known" 100000 23
	put "$c1/known" 100000 24
	node_kill 2
	node_mount 2 discard # another incarnation
	holds_soon "$(kv 2)/n/known" 100000 23
	published "$(kv 2)/n/known"
	holds_soon "$(mnt 2)/ckpt/known" 100000 24
	expect 'holders' "$("$KVFS" locate --json "$(kv 1)/n/known" |
		jq -r '.holders | sort | join(" ")')" 'node-1 node-2'
	wait_for '[ "$("$KVFS" locate --json "$(mnt 3)/ckpt/known" |
		jq -r ".holders | length")" = 2 ]'
	expect 'of ckpt' "$("$KVFS" locate --json "$(mnt 3)/ckpt/known" |
		jq -r '.holders | sort | join(" ")')" 'node-1 node-2'
	all_know 3
}

# In each bucket: KEYS[1], and NAME is ARGV[1]. Prints what is not 0.
_in_bucket() { # NAME SCRIPT
	local keys
	mapfile -t keys < <(redis --scan --pattern 'kvfs:{n#*}:b*')
	redis eval "local all, out = KEYS, 0
		for _, key in ipairs(all) do
			local KEYS = { key }
			local r = (function() $2 end)()
			if r and r ~= 0 then out = r end
		end
		return out" ${#keys[@]} "${keys[@]}" "$1"
}

a_holder_that_has_it_no_more_says_so_to_redis_itself() {
	put_published "$(kv 1)/n/stale" 100000 20
	_in_bucket stale "local r = redis.call('HGET', KEYS[1], ARGV[1])
		if r then redis.call('SET', 'r', r); redis.call('SET', 'k', KEYS[1]) end" >/dev/null
	rm "$(kv 1)/n/stale"
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]'
	# As if Redis had not heard of it.
	redis eval "redis.call('HSET', redis.call('GET', 'k'), 'stale',
		redis.call('GET', 'r'))" 0 >/dev/null
	wait_for '[ -e "$(kv 2)/n/stale" ] ||
		[ "$(redis hexists "$(redis get k)" stale)" = 0 ]'
	refused "$ENOENT" cat "$(kv 2)/n/stale"
	wait_for '[ "$(redis hexists "$(redis get k)" stale)" = 0 ]'
}

# Node 1, and fifteen that have just joined, for all that anybody knows.
_fill() { # NAME: no other holder is listed
	_in_bucket "$1" "local r = redis.call('HGET', KEYS[1], ARGV[1])
		if not r then return end
		local more = r:sub(1, 45) .. string.char(16) .. r:sub(47, 50)
		for i = 1, 15 do
			more = more .. struct.pack('<I4', 4294967000 + i)
		end
		redis.call('HSET', KEYS[1], ARGV[1], more)" >/dev/null
}
_listed() { # NAME: how many holders
	local bytes
	bytes=$(_in_bucket "$1" "return redis.call('HSTRLEN', KEYS[1], ARGV[1])")
	say $(((bytes - 46) / 4))
}
_unlisted_on_2() { # NAME SEED
	put_published "$(kv 1)/n/$1" 100000 "$2"
	_fill "$1"
	holds "$(kv 2)/n/$1" 100000 "$2"
	published "$(kv 2)/n/$1"
	expect 'listed holders' "$(_listed "$1")" 16
	expect 'the copy' "$(_state "$(kv 2)/n/$1")" published
}

a_copy_that_redis_does_not_list_goes_with_the_name() {
	_unlisted_on_2 full 30
	rm "$(kv 1)/n/full"
	wait_for 'is_gone "$(kv 2)/n/full"' 2
	put_published "$(kv 1)/n/full" 200000 31
	holds "$(kv 2)/n/full" 200000 31
}

it_is_the_new_version_where_the_name_was_stored_anew() {
	_unlisted_on_2 anew 32
	exec {old}<"$(kv 2)/n/anew"
	rm "$(kv 1)/n/anew"
	put_published "$(kv 1)/n/anew" 100000 33
	wait_for '_holds_now "$(kv 2)/n/anew" 100000 33' 2
	"$HELPERS/pattern" check 32 100000 <&"$old" || fail 'it changed'
	exec {old}<&-
}

it_is_not_served_where_redis_cannot_be_asked() {
	local served=0
	_unlisted_on_2 away 34
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	wait_for '! _holds_now "$(kv 2)/n/away" 100000 34' 2 || served=1
	kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"
	[ $served = 0 ] || fail 'it was served'
	holds_soon "$(kv 2)/n/away" 100000 34
}

it_is_listed_once_others_let_go() {
	_unlisted_on_2 room 35
	_in_bucket room "local r = redis.call('HGET', KEYS[1], ARGV[1])
		if r then redis.call('HSET', KEYS[1], ARGV[1],
			r:sub(1, 45) .. string.char(1) .. r:sub(47, 50)) end" >/dev/null
	wait_for '[ "$(_listed room)" = 2 ]' 2
}

# And here it is the last one.
it_is_listed_where_nobody_else_has_it_any_more() {
	_unlisted_on_2 last 36
	_in_bucket last "redis.call('HDEL', KEYS[1], ARGV[1])" >/dev/null
	wait_for '[ "$(_listed last)" = 1 ]' 2
	holds "$(kv 3)/n/last" 100000 36
}

it_goes_when_it_is_not_used_unless_it_is_pinned() {
	_unlisted_on_2 kept 37
	"$KVFS" pin "$(kv 2)/n/kept"
	_unlisted_on_2 unused 38
	exec {open}<"$(kv 2)/n/unused"
	_unlisted_on_2 forgotten 39
	wait_for '[ "$(_state "$(kv 2)/n/forgotten")" = remote ]' 12
	expect 'one that is open' "$(_state "$(kv 2)/n/unused")" published
	exec {open}<&-
	wait_for '[ "$(_state "$(kv 2)/n/unused")" = remote ]' 12
	expect 'one that is pinned' "$(_state "$(kv 2)/n/kept")" published
	holds "$(kv 2)/n/unused" 100000 38
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# ckpt/ is one tree on all nodes: names and attributes are one, bytes are
# fetched from whoever has them.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr setfattr rsync tar
DEADLINE=3 cluster_up 3

MIB=1048576

_at() { say "$KVFS_CLUSTER/node-$1/mnt/ckpt"; }
C1=$(_at 1) C2=$(_at 2) C3=$(_at 3)
_fetched() { node_stat "$1" ckpt_shards_fetched_total; }
_served() { node_stat "$1" ckpt_served_bytes_total; }
_log() { say "$KVFS_CLUSTER/node-$1/state/kvfs.log"; }
_bytes_of() { # NODE PATH: its backing file there
	local ino
	ino=$(printf %x $(($(stat -c %i "$2") - (1 << 48))))
	say "$KVFS_CLUSTER/node-$1/state/ckpt/"*"/$ino"
}
_daemon_kib() { awk '/^RssAnon/ { print $2 }' "/proc/$(node_pid "$1")/status"; }
_disk_mib() { du -sBM "$KVFS_CLUSTER/node-$1/state/ckpt" | tr -dc '0-9\n\t' | cut -f1; }
_own() { getfattr --absolute-names --only-values -n user.kvfs."$2" "$1"; }
_small_shards() {
	mkdir "$C1/small"
	setfattr -n user.kvfs.shard -v 1M "$C1/small"
}
_has() { # NODE INO SHARD: what Redis was told; 1 or 0
	local inc hex byte
	inc=$(node_status "$1" .redis.incarnation)
	hex=$(redis hget "kvfs:{c}:h$2" "$inc" | od -An -v -tx1 | tr -d ' \n')
	byte=${hex:$((16 + $3 / 8 * 2)):2}
	say $((0x${byte:-0} >> $3 % 8 & 1))
}
_summed() { wait_for 'getfattr -n user.kvfs.checksum "'"$1"'" >/dev/null 2>&1'; }

what_one_node_wrote_all_read_byte_for_byte() {
	local size
	for size in 0 1 4096 65537 $((8 * MIB)) $((8 * MIB + 1)) $((150 * MIB)); do
		put "$C1/size-$size" $size $size
		holds "$C2/size-$size" $size $size
		holds "$C3/size-$size" $size $size
		holds "$C3/size-$size" $size $size
	done
	rm "$C2"/size-*
}

# What is not here yet cannot be handed over; once it was read it can.
a_file_is_handed_over_once_all_of_it_is_here() {
	put "$C1/hand" $((20 * MIB + 5)) 9
	expect 'not here' "$("$HELPERS/backing" "$C2/hand" || :)" EAGAIN
	holds "$C2/hand" $((20 * MIB + 5)) 9
	"$HELPERS/backing" "$C2/hand" >"$T/out"
	tail -n +2 "$T/out" >"$T/bytes"
	holds "$T/bytes" $((20 * MIB + 5)) 9
	rm "$C1/hand"
}

# In shards of 1 MiB: more of them than 10 GiB has of the usual ones.
a_large_file_is_copied_by_cp_rsync_and_tar() {
	local i size=$((200 * MIB))
	mkdir "$C1/large"
	setfattr -n user.kvfs.shard -v 1M "$C1/large"
	put "$C1/large/f" $size 7
	cp "$C2/large/f" "$T/cp"
	holds "$T/cp" $size 7
	rm "$T/cp"
	rsync -a "$C3/large/" "$T/rsync/"
	holds "$T/rsync/f" $size 7
	rm -r "$T/rsync"
	put "$C1/large/f" $size 8
	tar -C "$C3" -cf - large | tar -xOf - large/f >"$T/tar"
	holds "$T/tar" $size 8
	rm "$T/tar"
	expect 'sha256' "$(sha256sum <"$C2/large/f")" "$(sha256sum <"$C1/large/f")"
	for i in 1 2 3; do
		[ "$(_daemon_kib $i)" -le 98304 ] || fail "node $i: $(_daemon_kib $i) KiB"
		# Each has it once: versions that are past left their room.
		wait_for '[ "$(_disk_mib $i)" -le 220 ]' 20
	done
	rm -r "$C1/large"
}

a_file_that_is_here_is_not_fetched_again() {
	local before
	put "$C1/once" $((100 * MIB)) 8
	holds "$C2/once" $((100 * MIB)) 8
	before=$(_fetched 2)
	holds "$C2/once" $((100 * MIB)) 8
	expect 'fetched' "$(_fetched 2)" "$before"
	rm "$C1/once"
}

a_sparse_file_stays_sparse() {
	truncate -s 200M "$C1/sparse"
	printf middle | dd of="$C1/sparse" bs=1 seek=$((100 * MIB)) conv=notrunc status=none
	cmp "$C1/sparse" "$C2/sparse"
	[ "$(stat -c %b "$C2/sparse")" -lt 20000 ] ||
		fail "$(stat -c %b "$C2/sparse") blocks"
	cp --sparse=always "$C3/sparse" "$T/sparse"
	cmp "$T/sparse" "$C1/sparse"
	rm "$C1/sparse" "$T/sparse"
}

a_tree_of_small_files_is_read_elsewhere() {
	local i
	mkdir -p "$T/tree"/{a,b,c}/{1,2}
	for i in {1..120}; do
		head -c $((i * 37)) /dev/urandom >"$T/tree/a/1/$i"
		head -c $((i * 11)) /dev/urandom >"$T/tree/b/2/$i"
		ln -s "../$i" "$T/tree/c/1/$i"
	done
	tar -C "$T" -cf - tree | tar -C "$C1" -xf -
	diff -r --no-dereference "$T/tree" "$C2/tree"
	tar -C "$C3" -cf - tree | tar -C "$T/tree" -xf -
	diff -r --no-dereference "$C1/tree" "$T/tree/tree"
	rm -r "$C3/tree" "$T/tree"
	is_gone "$C1/tree"
}

a_fetched_file_is_served_onward() {
	local before
	put "$C1/onward" $((20 * MIB)) 9
	_summed "$C1/onward"
	holds "$C2/onward" $((20 * MIB)) 9
	wait_for '[ "$(getfattr --absolute-names --only-values -n user.kvfs.holders "$C2/onward" | wc -w)" = 2 ]'
	node_stop 1
	holds "$C3/onward" $((20 * MIB)) 9
	node_cont 1
	all_know 3
	rm "$C1/onward"
}

a_directory_says_how_large_shards_are() {
	mkdir "$C1/small"
	expect 'at first' "$(_own "$C1/small" shard)" $((64 * MIB))
	setfattr -n user.kvfs.shard -v 1M "$C1/small"
	expect 'elsewhere' "$(_own "$C2/small" shard)" $MIB
	mkdir "$C2/small/below"
	put "$C2/small/below/f" $((10 * MIB + 1)) 1
	expect 'of the file' "$(_own "$C3/small/below/f" shard)" $MIB
	_summed "$C1/small/below/f"
	expect 'checksums' "$(_own "$C1/small/below/f" checksum | wc -l)" 10
	holds "$C3/small/below/f" $((10 * MIB + 1)) 1
	"$KVFS" verify --quiet "$C1/small"
	refused "$EINVAL" setfattr -n user.kvfs.shard -v 3M "$C1/small"
	refused "$EINVAL" setfattr -n user.kvfs.shard -v 4K "$C1/small"
	refused "$EPERM" setfattr -n user.kvfs.shard -v 4M "$C1/small/below/f"
	setfattr -x user.kvfs.shard "$C1/small"
	expect 'again' "$(_own "$C3/small" shard)" $((64 * MIB))
	rm -r "$C1/small"
}

# Node 3 can have its bytes from node 2 alone, which has but a part.
a_shard_is_served_onward_before_the_rest_is_there() {
	local ino
	_small_shards
	put "$C1/small/f" $((200 * MIB)) 3
	_summed "$C1/small/f"
	hand_start
	hand open 1 r "$C2/small/f"
	hand check 1 $((2 * MIB)) 3 $MIB
	ino=$(($(stat -c %i "$C1/small/f") - (1 << 48)))
	wait_for '[ "$(_has 2 '$ino' 2)" = 1 ]'
	node_stop 1
	expect 'node 2 has the last' "$(_has 2 $ino 199)" 0
	hand open 2 r "$C3/small/f"
	hand check 2 $((2 * MIB)) 3 $MIB
	node_cont 1
	all_know 3
	hand check 2 0 3 $((200 * MIB))
	rm -r "$C1/small"
}

attributes_are_one() {
	put "$C1/attr" 5000 1
	chmod 640 "$C2/attr"
	chown 12:34 "$C2/attr"
	touch -d @1234567890.5 "$C3/attr"
	setfattr -n user.k -v v "$C3/attr"
	expect 'stat' "$(stat -c '%a %u %g %Y %s' "$C1/attr")" '640 12 34 1234567890 5000'
	expect 'xattr' "$(getfattr --absolute-names --only-values -n user.k "$C1/attr")" v
	holds "$C2/attr" 5000 1
	ln "$C2/attr" "$C2/attr2"
	expect 'links' "$(stat -c %h "$C3/attr")" 2
	mv "$C3/attr" "$C3/attr3"
	is_gone "$C1/attr"
	holds "$C1/attr3" 5000 1
	rm "$C1"/attr?
}

a_node_goes_on_where_another_ended() {
	put "$C1/log" 100000 1
	printf more >>"$C2/log"
	expect 'size' "$(stat -c %s "$C1/log")" 100004
	expect 'its end' "$(tail -c 4 "$C1/log")" more
	holds <(head -c 100000 "$C1/log") 100000 1
	truncate -s 50000 "$C3/log"
	holds <(head -c 50000 "$C1/log") 50000 1
	expect 'size' "$(stat -c %s "$C2/log")" 50000
	printf again >"$C2/log"
	expect 'bytes' "$(cat "$C1/log" "$C2/log" "$C3/log")" againagainagain
	rm "$C1/log"
}

truncation_fetches_nothing() {
	local before
	put "$C1/trunc" $((70 * MIB)) 2
	before=$(_fetched 2)
	printf new >"$C2/trunc"
	: >"$C3/trunc"
	expect 'fetched' "$(_fetched 2)" "$before"
	expect 'size' "$(stat -c %s "$C1/trunc")" 0
	rm "$C1/trunc"
}

a_reader_keeps_the_version_that_it_opened() {
	put "$C1/keep" 300000 1
	holds "$C2/keep" 300000 1
	hand_start
	hand open 1 r "$C1/keep"
	hand open 2 r "$C2/keep"
	put "$C3/keep" 200000 2
	hand check 1 0 1 300000
	hand check 2 0 1 300000
	expect 'open' "$(hand stat 1)" '300000 1'
	holds "$C1/keep" 200000 2
	holds "$C2/keep" 200000 2
	hand check 1 0 1 300000
	put "$C1/keep" 100000 3
	hand check 2 0 1 300000
	holds "$C2/keep" 100000 3
	hand close 1
	hand close 2
	holds "$C3/keep" 100000 3
	rm "$C1/keep"
}

_two_versions() { # NAME: node 2 has the first one open, and nothing of it
	put "$C1/$1" $((20 * MIB)) 1
	_summed "$C1/$1"
	hand_start
	hand open 1 r "$C2/$1"
}

a_version_is_fetched_from_who_has_it_still() {
	_two_versions past
	holds "$C3/past" $((20 * MIB)) 1
	put "$C1/past" $((10 * MIB)) 2
	expect 'size' "$(stat -c %s "$C3/past")" $((10 * MIB))
	hand check 1 0 1 $((20 * MIB))
	hand close 1
	holds "$C2/past" $((10 * MIB)) 2
	rm "$C1/past"
}

a_version_that_nobody_has_any_more_is_stale() {
	_two_versions lost
	put "$C1/lost" $((10 * MIB)) 2
	hand_refused ESTALE check 1 0 1 $((20 * MIB))
	grep -q 'lost (inode .*shard 0 .*newer version.*: open the file again' \
		"$(_log 2)" || fail 'no line'
	hand close 1
	hand open 1 r "$C2/lost"
	hand check 1 0 2 $((10 * MIB))
	hand close 1
	rm "$C1/lost"
}

an_open_that_waits_goes_on_with_the_version_that_came_meanwhile() {
	local i pid
	hand_start
	for i in {1..5}; do
		put "$C1/next-$i" $((8 * MIB)) $i
		hand open 1 w "$C1/next-$i"
		cat "$C2/next-$i" >"$T/next" &
		pid=$!
		wait_for "_has_ended $pid || _is_waiting $pid"
		hand pwrite 1 0 $((i + 1)) $((8 * MIB))
		hand close 1
		wait "$pid"
		"$HELPERS/pattern" check $i $((8 * MIB)) <"$T/next" 2>/dev/null ||
			holds "$T/next" $((8 * MIB)) $((i + 1))
	done
	rm "$C1"/next-*
}

# Node 1 maps a version, which node 2 has seen that it does, and replaces.
_mapped_and_replaced() { # NAME
	hand open 1 bc "$C1/$1"
	hand pwrite 1 0 1 5000
	[[ $(hand_try map 1 w 5000) == ok* ]] || skip 'no shared mappings here'
	hand close 1
	holds "$C2/$1" 5000 1
	put "$C2/$1" 5000 2
}
_dropped() { grep -c "newer version: $1" "$(_log 1)" || :; }

what_is_dropped_is_told_if_there_is_any() {
	local told
	hand_start
	told=$(_dropped 'what was written')
	_mapped_and_replaced unstored
	hand unmap 1
	wait_for 'holds "$C1/unstored" 5000 2'
	expect 'told' "$(_dropped 'what was written')" "$told"

	_mapped_and_replaced stored
	hand mset 1 0 3 5000
	hand unmap 1
	wait_for '[ "$(_dropped "what was written")" != '"$told"' ]'
	wait_for 'holds "$C1/stored" 5000 2'
	rm "$C1/unstored" "$C1/stored"
}

a_rename_over_a_name_is_seen_at_once() {
	local i
	for i in 1 2 3 4 5 6; do
		put "$C1/latest.tmp" $((i * 1000)) "$i"
		mv "$C1/latest.tmp" "$C1/latest"
		holds "$C2/latest" $((i * 1000)) "$i"
		put "$C2/latest.tmp" $((i * 2000)) "$i"
		mv "$C2/latest.tmp" "$C2/latest"
		holds "$C3/latest" $((i * 2000)) "$i"
		holds "$C1/latest" $((i * 2000)) "$i"
	done
	rm "$C3/latest"
	is_gone "$C1/latest"
}

a_file_that_is_removed_while_it_is_read_is_read_to_its_end() {
	put "$C1/going" $((400 * MIB)) 3
	_summed "$C1/going"
	hand_start
	hand open 1 r "$C2/going"
	hand check 1 0 3 100000
	put "$C1/going.tmp" 1000 4
	mv "$C1/going.tmp" "$C1/going"
	hand check 1 0 3 $((400 * MIB))
	expect 'size, links' "$(hand stat 1)" "$((400 * MIB)) 0"
	holds "$C2/going" 1000 4
	hand close 1
	rm "$C1/going"
}

a_mapping_of_a_file_that_is_not_here_waits_for_it() {
	put "$C1/map" $((70 * MIB)) 3
	hand_start
	hand open 1 r "$C2/map"
	hand map 1 p $((70 * MIB))
	hand mcheck 1 0 3 $((70 * MIB))
	hand unmap 1
	hand close 1
	rm "$C1/map"
}

readers_of_all_nodes_at_once_get_it() {
	local i pids=()
	put "$C1/all" $((130 * MIB)) 4
	for i in 1 2 3 1 2 3; do
		holds "$(_at $i)/all" $((130 * MIB)) 4 &
		pids+=($!)
	done
	for i in "${pids[@]}"; do
		wait "$i"
	done
	rm "$C1/all"
}

two_nodes_do_not_write_one_file() {
	put "$C1/both" 1000 1
	hand_start
	hand open 1 w "$C1/both"
	refused 'busy' sh -c "printf x >>'$C2/both'"
	hand close 1
	printf x >>"$C2/both"
	expect 'size' "$(stat -c %s "$C1/both")" 1001
	rm "$C1/both"
}

_inode() { say $(($(stat -c %i "$1") - (1 << 48))); }
_is_waiting() { [ "$(awk '/^State/ { print $2 }' "/proc/$1/status")" = D ] ||
	[ "$(cat "/proc/$1/wchan" 2>/dev/null)" != 0 ]; }

_has_ended() { [ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"; }

who_waits_to_write_goes_on_when_the_writer_closes() {
	local pid version
	put "$C1/turn" 1000 1
	# A writer keeps its checksum from being taken: node 2 has it before.
	holds "$C2/turn" 1000 1
	version=$(_own "$C1/turn" version)
	hand_start
	hand open 1 w "$C1/turn"
	expect 'its shards are withdrawn' \
		"$(redis hexists "kvfs:{c}:h$(_inode "$C1/turn")" "$(node_status 1 .redis.incarnation)")" 0
	printf x >>"$C2/turn" &
	pid=$!
	wait_for "_is_waiting $pid"
	hand pwrite 1 1000 9 500
	hand close 1
	wait "$pid"
	expect 'size' "$(stat -c %s "$C3/turn")" 1501
	expect 'versions' "$(_own "$C3/turn" version)" $((version + 2))
	expect 'its end' "$(tail -c 1 "$C1/turn")" x
	rm "$C1/turn"
}

# Whether or not its checksum could be taken before it was opened again.
a_file_that_its_holder_may_write_is_read_once_it_is_closed() {
	local i pid
	hand_start
	for i in {1..5}; do
		put "$C1/held-$i" $((8 * MIB)) $i
		hand open 1 w "$C1/held-$i"
		cat "$C2/held-$i" >"$T/held" &
		pid=$!
		wait_for "_has_ended $pid || _is_waiting $pid"
		hand close 1
		wait "$pid"
		holds "$T/held" $((8 * MIB)) $i
	done
	rm "$C1"/held-*
}

_replace() { # NODE COUNT
	local i
	for ((i = 1; i <= $2; i++)); do
		put "$(_at "$1")/swap.$1" 3000 $((i % 7 + 1))
		mv -T "$(_at "$1")/swap.$1" "$(_at "$1")/swap"
	done
}

a_reader_never_finds_a_name_between_two_renames() {
	local pids=() i
	put "$C1/swap" 3000 1
	for i in 1 2; do
		_replace $i 40 &
		pids+=($!)
	done
	while kill -0 "${pids[0]}" 2>/dev/null || kill -0 "${pids[1]}" 2>/dev/null; do
		cat "$C3/swap" >"$T/swap"
		for i in {1..7}; do
			! "$HELPERS/pattern" check $i 3000 <"$T/swap" 2>/dev/null ||
				continue 2
		done
		fail "$(stat -c %s "$T/swap") bytes of no version"
	done
	for i in "${pids[@]}"; do
		wait "$i"
	done
	rm "$C1/swap"
}

of_two_nodes_one_makes_a_name() {
	local i n pids
	for i in {1..25}; do
		pids=() n=0
		mkdir "$C1/race" 2>/dev/null & pids+=($!)
		mkdir "$C2/race" 2>/dev/null & pids+=($!)
		(set -C && : >"$C3/race.f") 2>/dev/null & pids+=($!)
		(set -C && : >"$C1/race.f") 2>/dev/null & pids+=($!)
		wait "${pids[0]}" && n=$((n + 1))
		wait "${pids[1]}" && n=$((n + 1))
		wait "${pids[2]}" && n=$((n + 10))
		wait "${pids[3]}" && n=$((n + 10))
		expect "who made it, round $i" $n 11
		rmdir "$C3/race"
		rm "$C2/race.f"
	done
}

one_of_two_holders_dies_and_reading_goes_on() {
	put "$C1/two" $((200 * MIB)) 5
	holds "$C2/two" $((200 * MIB)) 5
	_summed "$C1/two"
	hand_start
	hand open 1 r "$C3/two"
	hand check 1 0 5 100000
	node_kill 1
	hand check 1 0 5 $((200 * MIB))
	hand close 1
	node_mount 1
	all_know 3
	holds "$C1/two" $((200 * MIB)) 5
	rm "$C1/two"
}

the_only_holder_dies_and_it_is_an_error_that_says_what_to_do() {
	put "$C1/only" $((20 * MIB)) 6
	_summed "$C1/only"
	node_kill 1
	refused "$EIO" timeout 30 cat "$C2/only"
	grep -q 'only (inode .* no node gives shard 0 .*: start a node' "$(_log 2)" ||
		fail 'no line'
	node_mount 1
	all_know 3
	holds "$C2/only" $((20 * MIB)) 6
	rm "$C2/only"
}

a_stopped_holder_delays_no_read_for_ever() {
	put "$C1/stopped" $((100 * MIB)) 3
	_summed "$C1/stopped"
	hand_start
	# So slow that node 2 has its first shard and no second one.
	on 1 tc qdisc replace dev eth0 root tbf rate 160mbit burst 512k \
		latency 50ms
	hand open 1 r "$C2/stopped"
	hand check 1 0 3 100000
	node_stop 1
	on 1 tc qdisc del dev eth0 root
	refused "$EIO" timeout 30 cat "$C3/stopped"
	node_cont 1
	all_know 3
	holds "$C3/stopped" $((100 * MIB)) 3
	hand check 1 0 3 $((100 * MIB))
	expect 'quarantined' "$(node_stat 3 ckpt_quarantined_bytes)" 0
	rm "$C1/stopped"
}

a_restart_keeps_what_was_fetched() {
	local before
	put "$C1/kept" $((150 * MIB)) 7
	_summed "$C1/kept"
	hand_start
	hand open 1 r "$C2/kept"
	hand check 1 $((140 * MIB)) 7 100000
	hand close 1
	wait_for '[ "$(node_stat 2 ckpt_fetching)" = 0 ]'
	node_kill 2
	hand_stop
	node_mount 2
	all_know 3
	before=$(_served 1)
	holds "$C2/kept" $((150 * MIB)) 7
	[ $(($(_served 1) - before)) -le $((128 * MIB)) ] ||
		fail "$(($(_served 1) - before)) bytes were sent again"
	node_kill 2
	node_mount 2
	all_know 3
	before=$(_served 1)
	holds "$C2/kept" $((150 * MIB)) 7
	expect 'sent again' $(($(_served 1) - before)) 0
	rm "$C1/kept"
}

what_came_damaged_is_asked_for_again() {
	local file
	put "$C1/bad" $((10 * MIB)) 8
	_summed "$C1/bad"
	holds "$C2/bad" $((10 * MIB)) 8
	file=$(_bytes_of 1 "$C1/bad")
	cp -p "$file" "$T/sound"
	printf XX | dd of="$file" bs=1 seek=5000 conv=notrunc status=none
	touch -r "$T/sound" "$file"
	wait_for '[ "$(getfattr --absolute-names --only-values -n user.kvfs.holders "$C3/bad" | wc -w)" = 2 ]'
	holds "$C3/bad" $((10 * MIB)) 8
	rm "$C1/bad"
}

removed_files_give_their_room_back() {
	local i ino
	for i in 1 2 3; do
		put "$C1/room" $((10 * MIB)) "$i"
		holds "$C2/room" $((10 * MIB)) "$i"
		holds "$C3/room" $((10 * MIB)) "$i"
		ino=$(basename "$(_bytes_of 1 "$C1/room")")
		rm "$(_at $i)/room"
		wait_for '! ls "$KVFS_CLUSTER"/node-?/state/ckpt/*/'$ino' >/dev/null 2>&1' 30
	done
}

# What node 1 made and node 2 changed, before Redis lost it all.
_kept() { # I: its log has all that Redis has
	[ "$(node_status "$1" '.redis | .ckpt_keeper and .ckpt_logged_seq >= ([.ckpt_seq, '"$2"'] | max)')" = true ]
}
_changed_tree() {
	rm -rf "$C1/lost"
	mkdir -p "$C1/lost/a/b" "$C1/lost/c"
	put "$C1/lost/a/one" 1000 1
	put "$C1/lost/a/two" 2000 2
	ln -s one "$C1/lost/a/link"
	mv "$C2/lost/a/one" "$C2/lost/c/moved"
	rm "$C2/lost/a/two"
	rmdir "$C2/lost/a/b"
	put "$C2/lost/c/three" 3000 3
	chmod 600 "$C2/lost/c/three"
	setfattr -n user.k -v v "$C2/lost/c"
	printf more >>"$C2/lost/c/moved"
	_tree_of 2 >"$T/lost"
}
_tree_of() { (cd "$(_at "$1")/lost" && find . -printf '%P %y %m %s %T@ %l\n' | sort); }
_tree_is_back() { # I
	_tree_of "$1" | cmp - "$T/lost" || fail "node $1: $(_tree_of "$1" | diff - "$T/lost")"
	expect 'xattr' "$(getfattr --absolute-names --only-values -n user.k "$(_at "$1")/lost/c")" v
}

a_redis_that_is_wiped_gets_back_what_all_nodes_did() {
	_changed_tree
	redis FLUSHALL >/dev/null
	mkdir "$C1/new" # waits until it is filled
	rmdir "$C3/new"
	_tree_is_back 1
	_tree_is_back 2
	_tree_is_back 3
	holds "$C2/lost/c/three" 3000 3
	all_know 3
	rm -r "$C3/lost"
}

what_a_killed_node_did_outlives_redis() {
	local seq
	_changed_tree
	seq=$(node_status 2 .redis.ckpt_seq)
	wait_for "_kept 1 $seq && _kept 3 $seq"
	node_kill 2
	redis FLUSHALL >/dev/null
	wait_for '[ "$(_tree_of 1 2>/dev/null)" = "$(cat "$T/lost")" ]' 30
	_tree_is_back 1
	_tree_is_back 3
	grep -q 'the keepers node-2 did not answer' "$(_log 1)" "$(_log 3)" ||
		fail 'no line'
	node_mount 2
	all_know 3
	_tree_is_back 2
	holds "$C1/lost/c/three" 3000 3
	rm -r "$C1/lost"
}

run_tests

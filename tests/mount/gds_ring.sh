#!/bin/bash
# SPDX-License-Identifier: MIT
# Rings: ioctls through shared memory, by libkvfs and by hand.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
requires_cmd getfattr
kvfs_mount
mkdir -p "$KV/n/d" "$KV/p"

_ring() { "$HELPERS/gds_ring" "$KV/n" "$@"; }
_hand() { "$HELPERS/ring" "$KV/n" "$@"; }
_daemon() { cat "$S/pid"; }
_shared() { grep -c 'memfd:\(kvfs-\)\?ring' "/proc/$(_daemon)/maps"; }
_fds() { find "/proc/$(_daemon)/fd" -lname '*eventfd*' | wc -l; }
# shellcheck disable=SC2034
FDS=$(_fds)
_nothing_left() {
	wait_for '[ "$(stat_of kvfs_rings)" = 0 ]'
	expect 'bytes' "$(stat_of kvfs_ring_bytes)" 0
	wait_for '[ "$(_shared)" = 0 ]'
	wait_for '[ "$(_fds)" = "$FDS" ]'
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
}
_works() { # the daemon, for others
	expect 'works' "$(echo d/ok | _ring exists 2)" '1 0'
	expect 'file' "$(cat "$KV/n/d/ok")" ok
}

for i in $(seq 0 99); do
	put_tmp "$KV/n/b$i" $((i * 211 + 1)) "$i"
done
echo ok >"$KV/n/d/ok.tmp" && mv "$KV/n/d/ok.tmp" "$KV/n/d/ok"
seq -f 'b%.0f' 0 199 >"$T/names" # a half of them is there

answers_are_those_of_the_ioctl_sleeping_and_polling() {
	local entries how
	expect 'the ioctl' "$("$HELPERS/ioctl" "$KV/n" exists - <"$T/names" |
		awk '{ print $3 }')" 100
	for entries in 1 4 64 4096; do
		for how in '' poll; do
			# shellcheck disable=SC2086
			for what in exists touch get; do
				expect "$what $entries $how" \
					"$(_ring $what $entries $how <"$T/names")" '100 0'
			done
		done
	done
	[ "$(stat_of kvfs_ring_calls_total)" -ge 5600 ]
	_nothing_left
}

# One user may hold 64 MiB, 32 of these, each counted once. Whoever was refused
# is asked for once more, when his answer is looked at, and what is only kept
# mapped is let go. Without passthrough a mapping counts among what is held: it
# is what is too much, first when 35 are got one by one, of which three are
# mapped then; otherwise it is what others hold, who let go the second time.
what_was_refused_is_asked_for_again_without_what_is_only_kept() {
	local i name others=(2 30) first='2 there, 3 refused, 0 wrong'
	if [ "$KVFS_RUNG" = direct ]; then
		others=(1 27) first='5 there, 0 refused, 0 wrong'
	fi
	mkdir "$KV/n/q"
	for ((i = 0; i < 35; i++)); do
		name=$(printf '%032x.b' $i)
		put_tmp "$KV/n/q/$name" 2097152 $i
		say "$name"
	done >"$T/in"
	expect 'said' "$("$HELPERS/gds_ring" "$KV/n/q" refused "${others[@]}" \
		<"$T/in")" "35 0
mapped: some
$first
5 there, 0 refused, 0 wrong
mapped: 5
reserved 5"
	_nothing_left
	rm -r "$KV/n/q"
}

# Both by ioctl and by ring: what is said is the same.
_same() { # WHAT HELPER ARGUMENTS; names from $T/in
	local what=$1 helper=$2
	shift 2
	"$HELPERS/$helper" "$@" <"$T/in" >"$T/said" 2>&1 || :
	"$HELPERS/$helper" -r "$@" <"$T/in" >"$T/said-r" 2>&1 || :
	[ -s "$T/said" ] || fail "$what: nothing was said"
	expect "$what" "$(cat "$T/said-r")" "$(cat "$T/said")"
}
names_are_found_as_by_ioctl() {
	cp "$T/names" "$T/in"
	_same exists gds "$KV/n" exists
	_same local gds -l "$KV/n" exists
	_same match gds "$KV/n" match
	grep -q '100 100 0 .*:100:self' "$T/said" || fail "$(cat "$T/said")"
	sed -i 1d "$T/in"
	_same gap gds "$KV/n" match
	: >"$T/in"
	_same none gds "$KV/n" match
	put_tmp "$KV/n/$(printf %032d 7).bin" 10 0
	printf '%032d\n' 7 8 >"$T/in"
	_same digests gds -d .bin "$KV/n" exists
	_same digests gds -d .bin "$KV/n" match
	_nothing_left
}

blocks_are_used_as_by_ioctl() {
	local way
	cp "$T/names" "$T/in"
	_same touch gds_frame "$KV/n" touch
	expect 'touched' "$(cat "$T/said")" 100
	_same prefetch gds_frame "$KV/n" prefetch
	expect 'here' "$(cat "$T/said")" 100
	for way in '' -r; do
		put_tmp "$KV/n/g" 100 0
		# Once its writer's close has come.
		wait_for '[ "$(printf "%s\n" g none |
			"$HELPERS/gds_frame" '$way' "$KV/n" evict)" = 1 ]'
		[ ! -e "$KV/n/g" ]
	done
	_nothing_left
}

_parents() { # DIRECTORY: of its blocks, without its name
	(cd "$1" && { getfattr --absolute-names -n user.kvfs.parent ./* \
		2>/dev/null || :; }) | sed "s|=\"${1#"$KV/n/"}/|=\"|"
}
# The helper's arguments come after the directory.
_stored_alike() { # HELPER ARGUMENTS
	local helper=$1 way
	shift
	for way in '' -r; do
		mkdir "$KV/n/by$way"
		put_tmp "$KV/n/by$way/root" 100 7
		put_tmp "$KV/n/by$way/old" 100 8
		# shellcheck disable=SC2086
		"$HELPERS/$helper" $way "$KV/n/by$way" "$@" <"$T/in" \
			>"$T/said$way"
	done
	expect "$helper $*" "$(cat "$T/said-r")" "$(cat "$T/said")"
	expect "$helper $*" "$(cat "$T/said")" "$WANTED"
	diff -r "$KV/n/by" "$KV/n/by-r" || fail "$helper $*: other bytes"
	_parents "$KV/n/by" >"$T/parents"
	_parents "$KV/n/by-r" | diff - "$T/parents" ||
		fail "$helper $*: other parents"
	[ "$(grep -c parent= "$T/parents")" -gt 25 ] || fail "$(cat "$T/parents")"
	rm -r "$KV/n/by" "$KV/n/by-r"
	_nothing_left
}

blocks_are_written_in_place_as_by_ioctl() {
	local flags
	{
		seq -f 'c%.0f' 0 29
		printf '%s\n' old x.tmp no/x
	} >"$T/in"
	WANTED='31 1
x.tmp: EINVAL
no/x: ENOENT'
	for flags in '' -k -m '-k -m' -s; do
		# shellcheck disable=SC2086
		_stored_alike gds_frame store 3000 $flags
	done
	sed -i 1iroot "$T/in"
	_stored_alike gds_frame store 3000 -p
	for flags in '' -r; do
		# shellcheck disable=SC2086
		"$HELPERS/gds_frame" $flags "$KV/n" abort 70000 <"$T/in"
		_nothing_left
	done
	: >"$T/in"
	_same 'what is refused' gds_frame "$KV/n" errors
	_nothing_left
}

blocks_are_moved_as_by_ioctl() {
	{
		seq -f 'c%.0f' 0 29
		printf '%s\n' old x.tmp no/x
	} >"$T/in"
	WANTED='31 1
x.tmp: EINVAL
no/x: ENOENT'
	_stored_alike gds_buffer store 3000
	_stored_alike gds_buffer store 3000 -s
	sed -i 1iroot "$T/in"
	_stored_alike gds_buffer store 3000 -p
	cp "$T/names" "$T/in"
	_same whole gds_buffer "$KV/n" read 30000
	expect 'read' "$(head -1 "$T/said")" '100 0 100'
	_same parts gds_buffer "$KV/n" read 100
	: >"$T/in"
	_same 'what is refused' gds_buffer "$KV/n" errors
	wait_for '[ "$(stat_of kvfs_buffers)" = 0 ]'
	_nothing_left
}

what_no_entry_holds_is_refused_and_nothing_is_asked() {
	expect 'small' "$(_ring small </dev/null)" 'exists ok
long-path E2BIG
digest ok
long-suffix E2BIG
many E2BIG
match E2BIG
get E2BIG
put E2BIG
reserve E2BIG
abort E2BIG
read E2BIG
store E2BIG
commit E2BIG
exists ok'
	_nothing_left
}

two_processes_do_not_meet() {
	_ring get 64 <"$T/names" >"$T/one" &
	_ring exists 8 poll <"$T/names" >"$T/two" &
	wait
	expect 'one' "$(cat "$T/one")" '100 0'
	expect 'two' "$(cat "$T/two")" '100 0'
	_nothing_left
}

a_block_is_evicted_but_not_while_it_is_pinned() {
	put_tmp "$KV/n/e" 100 0
	expect 'evicted' "$(echo e | _ring evict 1)" '1 0'
	expect 'gone' "$(echo e | _ring exists 1)" '0 0'
	put_tmp "$KV/n/e" 100 0
	"$HELPERS/gds_ring" "$KV/n" hold <<<e >"$T/held" &
	wait_for '[ -s "$T/held" ]'
	expect 'pinned' "$(echo e | _ring evict 1)" '0 0'
	kill -9 $!
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
	expect 'evicted' "$(echo e | _ring evict 1)" '1 0'
	_nothing_left
}

a_ring_has_the_rights_of_who_made_it() {
	put_tmp "$KV/p/mine" 100 0
	chmod 600 "$KV/p/mine"
	put_tmp "$KV/p/all" 100 1
	chmod 644 "$KV/p/all"
	expect 'nobody' "$(printf 'mine\nall\n' |
		as_nobody "$HELPERS/gds_ring" "$KV/p" get 4)" '1 0'
	expect 'root' "$(printf 'mine\nall\n' |
		"$HELPERS/gds_ring" "$KV/p" get 4)" '2 0'
	_nothing_left
}

what_is_no_ring_is_refused() {
	expect 'refused' "$(_hand refused)" 'flags EINVAL
reserved EINVAL
size EINVAL
abi EPROTONOSUPPORT
no-entries EINVAL
odd-entries EINVAL
many-entries EINVAL
no-data EINVAL
much-data EINVAL
more-than-there-is EINVAL
no-such-fd EBADF
negative-fd EBADF
eventfd-as-memory EINVAL
memory-as-eventfd EINVAL
directory-as-eventfd EINVAL
null-as-eventfd EINVAL
unsealed EPERM
read-only EPERM
no-complete-fd ok
first ok
second EBUSY'
	_nothing_left
	_works
}

garbage_is_an_error_or_stops_that_ring_alone() {
	expect 'garbage' "$(_hand garbage)" 'right ok
command-0 EINVAL
command-ring EINVAL
command-register EINVAL
command-large EINVAL
flags EINVAL
at-the-end EINVAL
at-far EINVAL
at-last-byte EINVAL
no-bytes EINVAL
few-bytes EINVAL
many-bytes EINVAL
over-the-most EINVAL
the-most ok
no-room EMSGSIZE
little-room EMSGSIZE
many-frames EMSGSIZE
all-frames EMSGSIZE
head EINVAL
name EINVAL
right ok
right ok
index EPIPE
right ok
seen stopped'
	_nothing_left
	_works
}

a_client_that_writes_anywhere_meanwhile_harms_nobody() {
	local seed
	for seed in 1 2 3; do
		_hand hostile "$seed" 1000 &
	done
	_works
	expect 'meanwhile' "$(_ring get 64 <"$T/names")" '100 0'
	wait
	_nothing_left
	_works
}

an_eventfd_that_is_full_stops_nobody() {
	expect 'full' "$(_hand full | sort | uniq -c | xargs)" '10 full ok'
	_works
	_nothing_left
}

clients_killed_at_any_moment_leave_nothing() {
	cat >"$T/client" <<-'END'
		case $1 in
		hold) exec "$HELPERS/gds_ring" "$KV/n" hold <"$T/names" ;;
		hostile) exec "$HELPERS/ring" "$KV/n" hostile $RANDOM 600000 ;;
		*) while :; do "$HELPERS/gds_frame" -r "$KV/n" store 3000 <"$T/names"; done ;;
		esac
	END
	export KV T
	kill_clients 20 'stat_of kvfs_ring_calls_total' "$T/client" \
		hold hostile store
	_nothing_left
	wait_for '[ "$(status .pool.writing_bytes)" = 0 ]'
	_works
}

a_user_has_64_rings_and_all_have_128() {
	local i pids=()
	expect '64' "$(_ring many 64 </dev/null | sort -u)" '0 0'
	_nothing_left
	expect '65' "$({ _ring many 65 </dev/null || :; } | tail -1)" 'ring: EDQUOT'
	_nothing_left
	"$HELPERS/gds_ring" "$KV/n" many 64 hold </dev/null >"$T/root" &
	pids+=($!)
	setpriv --reuid=65534 --clear-groups -- \
		"$HELPERS/gds_ring" "$KV/n" many 64 hold </dev/null >"$T/nobody" &
	pids+=($!)
	for i in root nobody; do
		wait_for '[ "$(wc -l <"$T/'$i'")" = 64 ]'
	done
	expect 'the 129th' "$({ setpriv --reuid=65533 --clear-groups -- \
		"$HELPERS/gds_ring" "$KV/n" many 1 </dev/null || :; })" 'ring: EDQUOT'
	{ kill -9 "${pids[@]}" && wait "${pids[@]}"; } 2>/dev/null || :
	_nothing_left
	_works
}

run_tests

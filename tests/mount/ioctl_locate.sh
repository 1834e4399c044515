#!/bin/bash
# SPDX-License-Identifier: MIT
# Blocks in place: LOCATE, UNPIN, .kvfs/frames.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
POOL=64M
kvfs_mount
mkdir "$KV/n"
EMSGSIZE='Message too long'

_ioctl() { "$HELPERS/ioctl" "$@"; }
_lent() { stat_of kvfs_lent_frames; }
# Who locates and stays: _hold NAME...; its words are in $T/held.
_hold() { # [-OPTION...] NAME...
	rm -f "$T/do" "$T/held"
	mkfifo "$T/do"
	"${AS[@]}" "$HELPERS/ioctl" -w "$KV/n" locate "$@" <"$T/do" >"$T/held" &
	HOLDER=$!
	exec {HOLD}>"$T/do"
	wait_for '[ -s "$T/held" ]'
}
AS=(env)
_let_go() { # by SIGKILL
	{ kill -9 "$HOLDER" && wait "$HOLDER"; } 2>/dev/null || :
	exec {HOLD}>&-
	wait_for '[ "$(_lent)" = 0 ]'
}
_frame() { # I: of the located block
	head -1 "$T/held" | cut -d' ' -f$((3 + $1)) | cut -d: -f1
}
_fill() { # 96 MiB through a pool of 64
	local i
	for ((i = 0; i < 48; i++)); do
		put_tmp "$KV/n/fill$i" 2097152 $((100 + i))
	done
}

a_located_block_is_read_through_its_frame() {
	put_tmp "$KV/n/a" 5000 1
	put_tmp "$KV/n/b" 3000000 2
	_hold a none b
	expect 'located' "$(cut -d' ' -f1-3,5 "$T/held")" '0 3 2 ENOENT'
	expect 'lengths' "$(grep -o ':[0-9]*' "$T/held" | tr -d '\n')" \
		':5000:3000000'
	holds "$CTL/frames/$(_frame 1)" 5000 1
	holds "$CTL/frames/$(_frame 3)" 3000000 2
	expect 'size' "$(stat -c %s,%a "$CTL/frames/$(_frame 1)")" 5000,444
	wait_for '[ "$(_lent)" = 2 ]'
	expect 'bytes' "$(stat_of kvfs_lent_bytes)" $((2 * 4096 + 733 * 4096))
	refused "$EACCES|$EPERM" bash -c ': >"$1"' - "$CTL/frames/$(_frame 1)"
	_let_go
	refused "$ENOENT" cat "$CTL/frames/$(_frame 1)"
	for n in none 00 -1 4294967296 99999999999 999; do
		refused "$ENOENT" cat "$CTL/frames/$n"
	done
	expect 'listed' "$(ls "$CTL/frames")" ''
}

_next() { # N I... - NAME...: what is answered
	local n
	n=$(wc -l <"$T/held")
	say "next $*" >&"$HOLD"
	wait_for '[ "$(wc -l <"$T/held")" -gt '"$n"' ]'
	tail -1 "$T/held"
}

one_call_gives_blocks_back_and_locates_the_next() {
	put_tmp "$KV/n/x0" 5000 1
	put_tmp "$KV/n/x1" 6000 2
	put_tmp "$KV/n/x2" 7000 3
	_hold x0 x1
	expect 'the next one' "$(_next 1 0 - x2 | sed 's/ [0-9]*:/ :/')" \
		'0 1 1 :7000'
	refused "$ENOENT" cat "$CTL/frames/$(_frame 1)"
	holds "$CTL/frames/$(_frame 2)" 6000 2
	expect 'lent' "$(_lent)" 2
	expect 'more than there are' "$(_next 1000000 0 - x0)" EINVAL
	expect 'lent' "$(_lent)" 2
	expect 'no name' "$(_next 1 0 - x0/../x1)" EINVAL
	expect 'given back before that' "$(_lent)" 1
	_let_go
}

a_pinned_block_outlives_pressure_and_its_name() {
	put_tmp "$KV/n/p0" 2097152 3
	put_tmp "$KV/n/p1" 2097152 4
	_hold p0 p1
	_fill
	expect 'p0' "$(_ioctl "$KV/n" exists p0 p1)" '0 2 2 2 11'
	rm "$KV/n/p1"
	holds "$CTL/frames/$(_frame 1)" 2097152 3
	holds "$CTL/frames/$(_frame 2)" 2097152 4
	expect 'unpin' "$(say 'unpin 1 1 0' >&"$HOLD"
		wait_for '[ "$(wc -l <"$T/held")" = 2 ]'
		tail -1 "$T/held")" 2
	wait_for '[ "$(_lent)" = 0 ]'
	_fill
	wait_for '[ ! -e "$KV/n/p0" ]'
	_let_go
}

a_mapping_that_outlives_its_pin_never_shows_another_block() {
	[ "$KVFS_RUNG" != direct ] || skip "needs passthrough"

	put_tmp "$KV/n/m0" 2097152 5
	put_tmp "$KV/n/m1" 2097152 6
	_hold m0 m1
	hand_start
	for i in 0 1; do
		hand open $i r "$CTL/frames/$(_frame $((i + 1)))"
		hand map $i r 2097152
		hand close $i
	done
	_let_go # unpinned, closed: only the mappings are left
	rm "$KV/n/m0" "$KV/n/m1"
	wait_for '[ "$(status .pool.aside_bytes)" -ge 4194304 ]'
	for round in 1 2 3; do
		_fill
		hand mcheck 0 0 5 2097152
		hand mcheck 1 0 6 2097152
	done
	hand unmap 0
	hand unmap 1
	wait_for '[ "$(status .pool.aside_bytes)" = 0 ]' 30
}

who_may_not_read_a_block_cannot_locate_or_open_it() {
	mkdir -p "$KV/n/mine" "$KV/n/ours"
	put_tmp "$KV/n/secret" 5000 7
	put_tmp "$KV/n/mine/open" 5000 8
	put_tmp "$KV/n/group" 5000 9
	chmod 600 "$KV/n/secret"
	chmod 700 "$KV/n/mine"
	chmod 640 "$KV/n/group"
	chgrp 4242 "$KV/n/group"
	expect 'nobody' "$(as_nobody "$HELPERS/ioctl" "$KV/n" locate \
		secret mine/open group)" '0 3 0 EACCES ENOENT EACCES'
	expect 'a member' "$(setpriv --reuid=65534 --regid=65534 \
		--groups=7,4242 -- "$HELPERS/ioctl" "$KV/n" locate \
		secret mine/open group | sed 's/ [0-9]*:/ :/')" \
		'0 3 1 EACCES ENOENT :5000'
	_hold secret mine/open group
	for i in 1 2 3; do
		refused "$EACCES" as_nobody cat "$CTL/frames/$(_frame $i)"
		cat "$CTL/frames/$(_frame $i)" >"$T/out"
	done
	setpriv --reuid=65534 --regid=65534 --groups=4242 -- \
		cat "$CTL/frames/$(_frame 3)" >"$T/out"
	_let_go
}

_as_nobody_locates() { # NAME...: the words of the answer
	as_nobody "$HELPERS/ioctl" "$KV/n" locate "$@" | sed -E 's/ [0-9]+:/ :/g'
}
a_user_holds_at_most_half_of_the_pool() {
	local i names=()
	for ((i = 0; i < 20; i++)); do
		put_tmp "$KV/n/q$i" 2097152 $i
		names+=("q$i")
	done
	AS=(setpriv --reuid=65534 --regid=65534 --clear-groups --)
	_hold "${names[@]}"
	expect 'his' "$(cut -d' ' -f1-3,19-20 "$T/held" | sed 's/ [0-9]*:/ :/')" \
		'0 20 16 :2097152 EDQUOT'
	wait_for '[ "$(stat_of kvfs_lent_bytes)" = 33554432 ]'
	expect 'twice' "$(_ioctl "$KV/n" locate q0 q0 | cut -d' ' -f1-3)" '0 2 2'
	for ((i = 0; i < 16; i++)); do # what he has counts once
		as_nobody cat "$CTL/frames/$(_frame $((i + 1)))" |
			"$HELPERS/pattern" check $i 2097152
	done
	expect 'his other directory' "$(_as_nobody_locates q0 q15 q16 q1)" \
		'0 4 3 :2097152 :2097152 EDQUOT :2097152'
	_let_go
	AS=(env)
}

a_block_counts_whole_pages() {
	local i names=()
	for ((i = 0; i < 15; i++)); do
		put_tmp "$KV/n/w$i" 2097152 $i
		names+=("w$i")
	done
	put_tmp "$KV/n/w15" $((2097152 - 4096 - 4095)) 1
	for i in 1 2; do put_tmp "$KV/n/tiny$i" 1 1; done
	expect 'all but a page' "$(_as_nobody_locates "${names[@]}" w15 tiny1 \
		tiny2 | cut -d' ' -f1-3,19-)" '0 18 17 :2088961 :1 EDQUOT'
}

a_user_has_a_million_pins() {
	local i
	printf 'm%d\n' {1..292} >"$T/names"
	while read -r i; do : >"$KV/n/$i"; done <"$T/names"
	ulimit -n 4096
	expect 'pins' "$(_ioctl -D 3592 "$KV/n" locate - <"$T/names")" 1048576
	wait_for '[ "$(_lent)" = 0 ]' 60
}

what_is_no_request_is_refused() {
	put_tmp "$KV/n/z" 5000 1
	refused "$EINVAL" _ioctl -f 2 "$KV/n" locate z
	refused "$EINVAL" _ioctl -t 1 "$KV/n" locate z
	refused "$EINVAL" _ioctl -n 2 "$KV/n" locate z
	refused "$EINVAL" _ioctl -s 25 "$KV/n" locate z
	refused "$EMSGSIZE" _ioctl -R 79 "$KV/n" locate z
	expect 'just' "$(_ioctl -R 80 "$KV/n" locate z | cut -d' ' -f1-3)" \
		'0 1 1'
	expect 'none' "$(_ioctl "$KV/n" locate)" '0 0 0'
	seq 1 292 >"$T/names"
	expect 'max' "$(_ioctl "$KV/n" locate - <"$T/names" | cut -d' ' -f1-3)" \
		'0 292 0'
	refused "$EMSGSIZE" bash -c 'seq 1 293 | "$1" -R 16383 "$2" locate -' - \
		"$HELPERS/ioctl" "$KV/n"
	expect 'pins of nobody' "$(say 'unpin 5 6' | _ioctl -w "$KV/n" \
		locate z | tail -1)" 0
	wait_for '[ "$(_lent)" = 0 ]'
}

what_was_touched_stays_and_what_is_told_to_goes() {
	local i
	for i in 0 1 2 3; do
		put_tmp "$KV/n/u$i" 2097152 $i
	done
	_hold u3
	expect 'evicted' "$(_ioctl "$KV/n" evict u2 none u3)" '0 3 1 1 100'
	expect 'left' "$(_ioctl "$KV/n" exists u0 u1 u2 u3)" '0 4 3 2 1101'
	for ((i = 0; i < 44; i++)); do # more than all but what is touched
		put_tmp "$KV/n/use$i" 2097152 9
		expect 'touched' "$(_ioctl "$KV/n" touch u0 none)" '0 2 1 1 10'
	done
	expect 'after all' "$(_ioctl "$KV/n" exists u0 u1)" '0 2 1 1 10'
	_let_go
	chmod 600 "$KV/n/u0"
	for i in touch evict; do
		expect "nobody $i" "$(as_nobody "$HELPERS/ioctl" "$KV/n" $i \
			u0 u3 | cut -d' ' -f5)" "$([ $i = touch ] && say 01 || say 00)"
		refused "$EINVAL" _ioctl -f 1 "$KV/n" $i u0
	done
}

clients_killed_at_any_moment_leave_nothing() {
	local i
	for ((i = 0; i < 8; i++)); do
		put_tmp "$KV/n/k$i" 100000 $i
	done
	cat >"$T/client" <<-'END'
		while :; do
			"$HELPERS/ioctl" -w "$KV/n" locate k0 k1 k2 k3 </dev/null |
				while read -r _ _ _ a b _; do
					cat "$CTL/frames/${a%:*}" \
						"$CTL/frames/${b%:*}"
				done
		done
	END
	export KV CTL
	kill_clients 30 'stat_of kvfs_located_total' "$T/client" 1 2
	wait_for '[ "$(_lent)" = 0 ]'
	expect 'bytes' "$(stat_of kvfs_lent_bytes)" 0
	rm "$KV"/n/k*
	wait_for '[ "$(status .pool.aside_bytes)" = 0 ]'
}

run_tests

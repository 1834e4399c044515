#!/bin/bash
# SPDX-License-Identifier: MIT
# Data to and from memory of a client's own: REGISTER, UNREGISTER, GET, PUT.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
POOL=64M
kvfs_mount
mkdir "$KV/n"

_buffer() { "$HELPERS/buffer" "$KV/n" "$@"; }
_buffers() { stat_of kvfs_buffers; }
_daemon() { cat "$S/pid"; }
# Descriptors of clients, and of their processes: Redis' is always there.
_taken() { find "/proc/$(_daemon)/fd" -lname '*memfd:buffer*' -o \
	-lname '*pidfd*' -o -lname "$T/file" -o -lname "$KV*" | wc -l; }
# shellcheck disable=SC2034
NONE_TAKEN=$(_taken)
_maps() { grep -c memfd:buffer "/proc/$(_daemon)/maps"; }
_nothing_left() {
	wait_for '[ "$(_buffers)" = 0 ]'
	expect 'bytes' "$(stat_of kvfs_buffer_bytes)" 0
	wait_for '[ "$(_maps)" = 0 ]'
	wait_for '[ "$(_taken)" = "$NONE_TAKEN" ]'
}
# A buffer of 8 MiB, and what is done with it.
_with() { _buffer memfd=8388608 register=0:8388608 "$@" | tail -n +2; }

blocks_are_read_into_memory() {
	put_tmp "$KV/n/small" 5000 1
	put_tmp "$KV/n/large" 3000001 2
	expect 'all' "$(_with get=0:0:4000000:0:4000000:small,none,large \
		get=0:0:4000000:0:4000000:small,large \
		check=1:0:5000 check=2:4000000:3000001)" \
		'5000/5000 ENOENT EINVAL
5000/5000 3000001/3000001
same
same'
	expect 'parts' "$(_with get=0:4990:100:3:0:small \
		check=1:3:10:4990 get=0:5000:9:0:0:small get=0:99999:9:0:0:small \
		get=0:1000000:2000000:77:0:large check=2:77:2000000:1000000 \
		get=0:0:0:8388608:0:large)" \
		'10/5000
same
0/5000
0/5000
2000000/3000001
same
0/3000001'
	_nothing_left
}

memory_is_stored_as_blocks() {
	expect 'put' "$(_with fill=3:0:70000 fill=4:100000:70000 \
		put=0:70000:0:100000:pa,pb put=1:3000001:0:0:pl \
		put=0:70000:0:0:pb put=2:10:0:0:pb,pc)" \
		'0 0
0
2
EINVAL'
	holds "$KV/n/pa" 70000 3
	holds "$KV/n/pb" 70000 4
	expect 'size' "$(stat -c '%s %a' "$KV/n/pl")" '3000001 644'
	expect 'published' "$(getfattr --absolute-names --only-values \
		-n user.kvfs.state "$KV/n/pl")" published
	expect 'empty' "$(_with put=0:0:8388608:0:pe)" 0
	expect 'size' "$(stat -c '%s' "$KV/n/pe")" 0
	_nothing_left
}

a_buffer_that_changes_under_a_put_damages_no_block() {
	local i
	for ((i = 0; i < 20; i++)); do
		_with spoil put=0:1000000:0:1000000:s$i-0,s$i-1,s$i-2 >"$T/out"
		expect 'stored' "$(cat "$T/out")" '0 0 0'
	done
	"$KVFS" verify --quiet "$KV/n" || fail 'a block is not what was summed'
}

what_cannot_be_registered_is_refused() {
	local file=$T/file
	put_tmp "$KV/n/block" 5000 1
	truncate -s 8192 "$file"
	for what in "file=$file" "file=$KV/n/block" "file=$KV/n" file=/dev/null \
		file=/proc/self/status; do
		expect "$what" "$(_buffer "$what" register=0:1)" EINVAL
	done
	expect 'no descriptor' "$(_buffer fd=999 register=0:1 fd=-1 register=0:1)" \
		'EBADF
EBADF'
	expect 'unsealed' "$(_buffer unsealed=8192 register=0:1)" EPERM
	expect 'write only' "$(_buffer memfd=8192 wronly register=0:1)" EACCES
	expect 'ranges' "$(_buffer memfd=8192 register=0:0 register=0:8193 \
		register=8192:1 register=8191:1 register=0:8192 register=1:8191 \
		register=0xffffffffffffffff:1 register=1:0xffffffffffffffff \
		register=0x7fffffffffffffff:0x7fffffffffffffff)" \
		'EINVAL
EINVAL
EINVAL
w
w
w
EINVAL
EINVAL
EINVAL'
	_nothing_left
}

what_is_no_request_is_refused() {
	expect 'register' "$(_buffer memfd=8192 size=31 register=0:1 size=33 \
		register=0:1 size=-1 abi=2 register=0:1 abi=1 reserved=1 \
		register=0:1 unregister reserved=0 unregister)" \
		'EINVAL
EINVAL
EPROTONOSUPPORT
EINVAL
EINVAL
EBADF'
	expect 'get' "$(_with get=2:0:1:0:0:a get=0xffffffff:0:1:0:0:a \
		deadline=5 get=0:0:1:0:0:a deadline=0 reserved=1 get=0:0:1:0:0:a \
		reserved=0 size=20 get=0:0:1:0:0:a size=40 get=0:0:1:0:0:a \
		size=-1 get=0:0:1:0:0:.. get=0:0:1:0:0:a/)" \
		'EINVAL
EINVAL
EINVAL
EINVAL
EINVAL
EINVAL
EINVAL
EINVAL'
	expect 'put' "$(_with put=4:1:0:0:a reserved=1 put=0:1:0:0:a reserved=0 \
		put=0:9999999999:0:0:a put=0:1:0:0:x.tmp put=0:1:0:0:no/a)" \
		'EINVAL
EINVAL
EINVAL
EINVAL
ENOENT'
	[ ! -e "$KV/n/a" ]
	expect 'not here' "$("$HELPERS/buffer" "$M" memfd=8192 register=0:1)" \
		EOPNOTSUPP
}

a_buffer_is_its_directory_s_and_ends_with_it() {
	put_tmp "$KV/n/mine" 5000 1
	expect 'after its end' "$(_with unregister unregister \
		get=0:0:1:0:0:mine put=0:1:0:0:new use=0 epoch get=0:0:1:0:0:mine)" \
		'ok
EBADF
EBADF
EBADF
EBADF'
	# Its number is known to others, and of no use to them.
	mkfifo "$T/hold"
	_buffer memfd=8192 register=0:8192 close wait <"$T/hold" >"$T/out" &
	exec {HOLD}>"$T/hold"
	wait_for '[ "$(_buffers)" = 1 ]'
	expect 'another' "$(_buffer use=0 get=0:0:1:0:0:mine epoch \
		get=0:0:1:0:0:mine)" 'EBADF
EBADF'
	exec {HOLD}>&-
	wait
	_nothing_left
}

memory_stays_when_its_descriptor_goes() {
	put_tmp "$KV/n/kept" 70000 6
	expect 'closed' "$(_with close get=0:0:70000:9:0:kept check=6:9:70000)" \
		'70000/70000
same'
}

only_what_may_be_written_is_written() {
	put_tmp "$KV/n/ro" 5000 7
	expect 'read only' "$(_buffer memfd=8192 rdonly register=0:8192 \
		get=0:0:100:0:0:ro fill=9:0:100 put=0:100:0:0:from-ro)" 'r
EROFS
0'
	holds "$KV/n/from-ro" 100 9
	expect 'sealed' "$(_buffer memfd=8192 fill=8:0:100 seal=future \
		register=0:8192 get=0:0:100:0:0:ro put=0:100:0:0:from-sealed)" 'r
EROFS
0'
	holds "$KV/n/from-sealed" 100 8
}

who_may_not_read_a_block_does_not_get_it() {
	mkdir "$KV/n/closed" "$KV/n/his"
	chown 65534 "$KV/n/his"
	put_tmp "$KV/n/closed/a" 5000 1
	put_tmp "$KV/n/private" 5000 1
	chmod 600 "$KV/n/private"
	chmod 700 "$KV/n/closed"
	expect 'nobody' "$(as_nobody "$HELPERS/buffer" "$KV/n" memfd=8192 \
		register=0:8192 fill=5:0:8192 get=0:0:8192:0:0:closed/a,private \
		check=5:0:8192 put=0:100:0:0:his/b,closed/b,none/b)" 'w
ENOENT EACCES
same
0 EACCES ENOENT'
	expect 'owner' "$(stat -c '%U' "$KV/n/his/b")" "$(id -un 65534)"
	_nothing_left
}

one_user_registers_so_much_and_no_more() {
	local memory
	expect 'number' "$(_buffer memfd=8192 again=1025 unregister again=2)" \
		'1024 EDQUOT
ok
1 EDQUOT'
	memory=$(($(getconf _PHYS_PAGES) * $(getconf PAGESIZE)))
	expect 'bytes' "$(_buffer "memfd=$memory" "register=0:$memory")" EDQUOT
	_nothing_left
}

# 340 requests of 48 bytes fill what an ioctl takes.
as_many_as_a_request_takes() {
	local names i
	for ((i = 0; i < 340; i++)); do
		names+=,$((100000 + i))
	done
	put_tmp "$KV/n/100339" 5000 3
	expect 'all' "$(_with "get=0:0:5000:0:5000:${names:1}" check=3:1695000:5000 |
		sed 's/\(ENOENT \)*//')" '5000/5000
same'
	refused 'too long' _buffer memfd=8192 register=0:8192 "get=0:0:5000:0:5000:${names:1}$names"
}

holes_that_come_later_are_filled_again() {
	put_tmp "$KV/n/hole" 3000000 4
	expect 'read' "$(_with punch=0:4194304 get=0:0:3000000:0:0:hole \
		check=4:0:3000000 punch=0:8388608 put=0:3000000:0:0:zeros)" \
		'3000000/3000000
same
0'
	cmp -n 3000000 "$KV/n/zeros" /dev/zero
}

# Pages of their own, and when they are gone there are no others.
a_hole_that_cannot_be_filled_is_an_error_and_no_more() {
	local huge=/proc/sys/vm/nr_hugepages was out
	[ -w "$huge" ] || skip 'no huge pages on this machine'
	was=$(cat "$huge")
	echo $((was + 4)) 2>/dev/null >"$huge" || skip 'no huge pages here'
	if [ "$(cat "$huge")" -lt $((was + 4)) ] || [ "$was" != 0 ]; then
		echo "$was" >"$huge"
		skip 'no four huge pages for this test alone'
	fi
	put_tmp "$KV/n/huge" 5000000 4
	out=$(_buffer huge=8388608 register=0:8388608 \
		get=0:0:8388608:0:0:huge check=4:0:5000000 fill=5:0:8388608 \
		put=0:5000000:100:0:from-huge punch=0:8388608 \
		huge=8388608 fill=1:0:8388608 \
		get=0:0:8388608:0:0:huge put=0:5000000:0:0:no) || out+=" code $?"
	echo "$was" >"$huge"
	expect 'huge pages' "$out" 'w
5000000/5000000
same
0
EFAULT
EFAULT'
	[ ! -e "$KV/n/no" ]
	_nothing_left
}

clients_killed_at_any_moment_leave_nothing() {
	put_tmp "$KV/n/victim" 2000000 4
	_nothing_left
	cat >"$T/client" <<-'END'
		for ((i = 0; ; i++)); do
			"$HELPERS/buffer" "$KV/n" memfd=8388608 register=0:8388608 \
				get=0:0:2000000:0:2000000:victim,victim,victim \
				put=0:300000:0:300000:"k$$-$i,j$$-$i" \
				unregister again=20
		done
	END
	export KV
	kill_clients 25 'stat_of kvfs_got_total' "$T/client" 1 2
	_nothing_left
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
	wait_for '[ "$(status .pool.writing_bytes)" = 0 ]'
	"$KVFS" verify --quiet "$KV/n"
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Blocks of other nodes come in the background: ioctl PREFETCH.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
DEADLINE=4
cluster_up 2
mkdir "$(kv 1)/n"
wait_for '[ -d "$(kv 2)/n" ]'

_ioctl() { "$HELPERS/ioctl" "$@"; }
_names() { printf 'b%06d\n' $(seq "$1" "$2"); } # as helpers/blocks calls them
_stored() { # DIR N SIZE: published blocks of node 1
	mkdir "$(kv 1)/n/$1"
	blocks -n "$2" -s "$3" store "$(kv 1)/n/$1"
	wait_for '[ "$(node_status 1 .redis.dirty)" = 0 ]' 20
}
_kept() { node_status 2 '[.kv.namespaces[].blocks] | add // 0'; }

they_come_though_nobody_waits() {
	local before
	_stored many 1500 20000
	mkdir -p "$(kv 2)/n/many"
	before=$(_kept)
	# Where Redis is late some are not found: the next call finds them.
	wait_for '[ "$({ _names 0 1499; echo none; } |
		"$HELPERS/gds_frame" "$(kv 2)/n/many" prefetch)" = 1500 ]'
	wait_for '[ "$(_kept)" = '$((before + 1500))' ]' 30
	# Without node 1's help.
	node_stop 1
	blocks -n 1500 -s 20000 check "$(kv 2)/n/many"
	node_cont 1
	expect 'all here' "$(_names 0 1499 |
		"$HELPERS/gds_frame" "$(kv 2)/n/many" prefetch)" 1500
}

large_ones_come_too() {
	_stored large 3 9000001
	mkdir -p "$(kv 2)/n/large"
	expect 'asked' "$(_ioctl "$(kv 2)/n/large" prefetch $(_names 0 3))" \
		'0 4 3 3 1110'
	wait_for '[ "$(getfattr --absolute-names --only-values \
		-n user.kvfs.state "$(kv 2)/n/large/b000002")" != remote ]' 20
	blocks -n 3 -s 9000001 check "$(kv 2)/n/large"
}

a_holder_that_went_ends_it() {
	_stored gone 40 5000
	mkdir -p "$(kv 2)/n/gone"
	# Known to node 2, and then nobody has them.
	wait_for '[ "$(_names 0 39 | "$HELPERS/gds" "$(kv 2)/n/gone" exists |
		cut -d" " -f1)" = 40 ]'
	node_kill 1
	_names 0 39 | "$HELPERS/gds_frame" "$(kv 2)/n/gone" prefetch >"$T/n"
	node_mount 1
	all_know 2
	wait_for '[ "$(_names 0 39 |
		"$HELPERS/gds_frame" "$(kv 2)/n/gone" prefetch)" = 40 ]'
	wait_for 'timeout 20 "$HELPERS/blocks" -n 40 -s 5000 check \
		"$(kv 2)/n/gone"' 20
}

who_may_not_read_them_fetches_none() {
	mkdir "$(kv 1)/n/closed"
	mkdir -p "$(kv 2)/n/closed"
	(umask 077 && put_published "$(kv 1)/n/closed/a" 5000 1)
	expect 'nobody' "$(as_nobody "$HELPERS/ioctl" "$(kv 2)/n/closed" \
		prefetch a)" '0 1 0 0 0'
	expect 'root' "$(_ioctl "$(kv 2)/n/closed" prefetch a)" '0 1 1 1 1'
}

what_is_no_request_is_refused() {
	refused "$EINVAL" _ioctl -f 1 "$(kv 2)/n" prefetch a
	refused "$EINVAL" _ioctl -r 1 "$(kv 2)/n" prefetch a
	refused "$EINVAL" _ioctl -n 2 "$(kv 2)/n" prefetch a
	refused 'Message too long' _ioctl -R 32 "$(kv 2)/n" prefetch a
	expect 'none' "$(_ioctl "$(kv 2)/n" prefetch)" '0 0 0 0 '
	expect 'no block' "$(_ioctl "$(kv 2)/n" prefetch many none x/y)" \
		'0 3 0 0 000'
}

an_unmount_does_not_wait_for_them() {
	_stored rest 2000 20000
	mkdir -p "$(kv 2)/n/rest"
	_names 0 1999 | "$HELPERS/gds_frame" "$(kv 2)/n/rest" prefetch >"$T/n"
	timeout 60 "$KVFS" umount "$(mnt 2)"
	node_mount 2
	all_know 2
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# Directories below a namespace: mode and owner are one on all nodes.
# shellcheck source=tests/mount/cluster_lib.sh
. "$(dirname "$0")/cluster_lib.sh" || exit 99
on_each_rung "$@"
cluster_up 3
mkdir "$(kv 1)/n"
for i in 2 3; do
	wait_for '[ -d "$(kv $i)/n" ]'
done

_attr() { stat -c '%a %u %g' "$(kv "$1")/n/$2"; } # I DIR
_record_is_there() { # DIR: has Redis one?
	local key
	for key in $(redis --scan --pattern 'kvfs:{n#*}:b*'); do
		[ "$(redis hexists "$key" "$1/")" != 1 ] || return 0
	done
	return 1
}
_shared() { # DIR: with a block of node 1 that all nodes have looked up
	local i
	mkdir "$(kv 1)/n/$1"
	put_published "$(kv 1)/n/$1/a" 5000 1
	for i in 2 3; do
		wait_for '[ -e "$(kv $i)/n/'"$1"'/a" ]'
	done
}
_redis_stop() {
	kill -STOP "$(cat "$KVFS_CLUSTER/redis/pid")"
	trap _redis_cont EXIT
}
_redis_cont() { kill -CONT "$(cat "$KVFS_CLUSTER/redis/pid")"; }

a_mode_that_was_changed_holds_on_all_nodes() {
	_shared mode
	as_nobody cat "$(kv 2)/n/mode/a" >/dev/null

	chmod 700 "$(kv 1)/n/mode"
	expect 'here' "$(_attr 1 mode)" '700 0 0'
	wait_for '[ "$(_attr 2 mode)" = "700 0 0" ]' 3
	refused "$EACCES" as_nobody cat "$(kv 2)/n/mode/a"
	wait_for '[ "$(_attr 3 mode)" = "700 0 0" ]' 3
	refused "$EACCES" as_nobody cat "$(kv 3)/n/mode/a"
	holds "$(kv 2)/n/mode/a" 5000 1

	chmod 755 "$(kv 3)/n/mode"
	wait_for 'as_nobody cat "$(kv 2)/n/mode/a" >/dev/null 2>&1' 3
	wait_for 'as_nobody cat "$(kv 1)/n/mode/a" >/dev/null 2>&1' 3
}

changes_of_two_nodes_add_up() {
	_shared both
	chown 65534 "$(kv 1)/n/both"
	chmod 750 "$(kv 2)/n/both"
	chgrp 4242 "$(kv 3)/n/both"

	local i
	for i in 1 2 3; do
		wait_for '[ "$(_attr '$i' both)" = "750 65534 4242" ]' 3
	done
	as_nobody cat "$(kv 3)/n/both/a" >/dev/null
}

_ioctl() { as_nobody "$HELPERS/ioctl" "$(kv 2)/n" "$1" ioctl/a 2>/dev/null; }
_is_there() { [[ $(_ioctl "$1") == "0 1 1 "* ]]; } # exists or locate

so_it_does_for_those_who_ask_by_ioctl() {
	_shared ioctl
	holds "$(kv 2)/n/ioctl/a" 5000 1
	_is_there exists || fail "exists: $(_ioctl exists)"
	_is_there locate || fail "locate: $(_ioctl locate)"

	# Nobody walks through it here: only the ioctls themselves can ask.
	chmod 700 "$(kv 1)/n/ioctl"
	wait_for '! _is_there exists' 3
	! _is_there locate || fail 'it is located'
	chmod 711 "$(kv 1)/n/ioctl"
	wait_for '_is_there locate' 3
	_is_there exists || fail 'it is not there'
	chmod 700 "$(kv 3)/n/ioctl"
	wait_for '! _is_there locate' 3
}

a_directory_that_nobody_knows_yet_takes_its_mode_along() {
	mkdir "$(kv 1)/n/early"
	chmod 711 "$(kv 1)/n/early"
	put_published "$(kv 1)/n/early/a" 5000 1
	wait_for '[ -e "$(kv 2)/n/early/a" ]'
	expect 'there' "$(_attr 2 early)" '711 0 0'
}

a_directory_that_was_removed_and_made_anew_is_the_new_one() {
	_shared anew
	_record_is_there anew || fail 'no record of it'
	rm "$(kv 1)/n/anew/a"
	rmdir "$(kv 1)/n/anew"
	! _record_is_there anew || fail 'its record is still there'
	wait_for 'is_gone "$(kv 2)/n/anew"' 3

	mkdir -m 700 "$(kv 1)/n/anew"
	put_published "$(kv 1)/n/anew/b" 5000 2
	wait_for '[ -e "$(kv 2)/n/anew/b" ]'
	expect 'there' "$(_attr 2 anew)" '700 0 0'
	wait_for '[ "$(_attr 3 anew)" = "700 0 0" ]' 3
	refused "$EACCES" as_nobody cat "$(kv 3)/n/anew/b"
}

what_another_node_stored_below_it_comes_back() {
	_shared back
	put_published "$(kv 2)/n/back/b" 5000 2
	rm "$(kv 1)/n/back/a"
	rmdir "$(kv 1)/n/back"
	! _record_is_there back || fail 'its record is still there'

	wait_for '[ -e "$(kv 2)/n/back/b" ] && _record_is_there back'
	holds "$(kv 1)/n/back/b" 5000 2
	holds "$(kv 3)/n/back/b" 5000 2
}

a_mode_outlives_a_restart() {
	_shared restart
	chmod 700 "$(kv 1)/n/restart"
	wait_for '[ "$(_attr 2 restart)" = "700 0 0" ]' 3
	node_kill 1
	node_mount 1
	all_know 3
	expect 'here' "$(_attr 1 restart)" '700 0 0'
}

with_redis_away_what_is_known_counts() {
	local i
	_shared away
	put_published "$(kv 2)/n/away/own" 5000 3
	_redis_stop

	for ((i = 0; i < 20; i++)); do
		timeout 20 stat "$(kv 2)/n/away" >/dev/null
		timeout 20 cat "$(kv 2)/n/away/own" >/dev/null
		as_nobody timeout 20 "$HELPERS/ioctl" "$(kv 2)/n" exists \
			away/own >/dev/null
	done
	refused "$EIO" timeout 60 chmod 700 "$(kv 2)/n/away"
	expect 'there' "$(_attr 2 away)" '755 0 0'
	mkdir "$(kv 2)/n/away/empty"
	timeout 60 rmdir "$(kv 2)/n/away/empty"
	_redis_cont
	trap - EXIT
	wait_for 'chmod 700 "$(kv 2)/n/away" 2>/dev/null' 15
	wait_for '[ "$(_attr 1 away)" = "700 0 0" ]' 3
}

# In a namespace that this node has never listed.
with_redis_away_a_listing_has_what_is_here() {
	mkdir "$(kv 1)/local"
	wait_for '[ -d "$(kv 2)/local" ]'
	put_published "$(kv 1)/local/other" 5000 1
	put_published "$(kv 2)/local/own" 5000 2
	_redis_stop
	put_tmp "$(kv 2)/local/later" 5000 3

	expect 'names' "$(timeout 60 ls "$(kv 2)/local" | xargs)" 'later own'
	_redis_cont
	trap - EXIT
	wait_for '[ "$(ls "$(kv 2)/local" | xargs)" = "later other own" ]' 45
}

run_tests

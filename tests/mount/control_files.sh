#!/bin/bash
# SPDX-License-Identifier: MIT
# .kvfs/: statistics for Prometheus, status for programs.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
kvfs_mount
mkdir "$KV/n" "$KV/we\"ird\\name" "$KV/$(printf '\377')"
blocks -n 20 -s 100000 store "$KV/n"
blocks -n 25 -s 100000 check "$KV/n" >/dev/null
put "$CKPT/x" 1000 1

stats_are_in_the_prometheus_text_format() {
	awk '
	function bad(why) { printf "line %d: %s: %s\n", NR, why, $0; rc = 1 }
	/^# HELP / { help[$3] = 1; next }
	/^# TYPE / {
		if ($3 in type) bad("typed twice")
		if ($4 !~ /^(counter|gauge|histogram)$/) bad("unknown type")
		type[$3] = $4
		next
	}
	/^#/ || /^$/ { next }
	{
		line = $0
		if (!match(line, /^[a-zA-Z_:][a-zA-Z0-9_:]*/)) { bad("no name"); next }
		name = substr(line, 1, RLENGTH)
		rest = substr(line, RLENGTH + 1)
		labels = ""
		if (rest ~ /^\{/) {
			if (!match(rest, /^\{([a-zA-Z_][a-zA-Z0-9_]*="([^"\\]|\\.)*",?)*\}/)) {
				bad("labels"); next
			}
			labels = substr(rest, 1, RLENGTH)
			rest = substr(rest, RLENGTH + 1)
		}
		if (rest !~ /^ [-+]?([0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|Inf|NaN)$/)
			bad("value")
		if (seen[name labels]++) bad("twice")
		family = name
		if (!(family in type)) sub(/_(bucket|sum|count)$/, "", family)
		if (!(family in type)) bad("no type")
		if (!(family in help)) bad("no help")
		if (type[family] == "counter" && name !~ /_total$/)
			bad("a counter without _total")
		if (name !~ /^kvfs_/) bad("not ours")
		if (type[family] == "histogram" && name ~ /_bucket$/) {
			key = family labels
			sub(/,?le="[^"]*"/, "", key)
			if ($NF + 0 < last[key] + 0) bad("buckets fall")
			last[key] = $NF
			if (labels ~ /le="\+Inf"/) inf[key] = $NF
		}
		n++
	}
	END {
		if (n < 20) { print "only " n " values"; rc = 1 }
		exit rc
	}' "$CTL/stats"
}

stats_and_status_are_utf_8_whatever_names_are() {
	iconv -f UTF-8 -t UTF-8 <"$CTL/stats" >/dev/null
	iconv -f UTF-8 -t UTF-8 <"$CTL/status" >/dev/null
}

stats_say_what_an_operator_asks() {
	local name
	for name in hits_total misses_total evictions_total stored_bytes_total \
		pool_committed_bytes pool_frames redis_up rung; do
		grep -q "^kvfs_$name" "$CTL/stats" || fail "no kvfs_$name"
	done
	grep -q '^# TYPE kvfs_.* histogram' "$CTL/stats" || fail 'no histogram'
	grep -q 'kvfs_namespace_hits_total{namespace="n"}' "$CTL/stats" ||
		fail 'no hits by namespace'
	grep -q 'class=' "$CTL/stats" || fail 'no frames by class'
}

status_is_json() {
	jq -e . <"$CTL/status" >/dev/null
	jq -e '.rung and .pool and .redis and .version' <"$CTL/status" >/dev/null
	jq -e '.pool.committed_bytes >= 2000000' <"$CTL/status" >/dev/null
	jq -e . <"$CTL/config" >/dev/null
	jq -e . <"$CTL/nodes" >/dev/null
}

config_has_no_secrets_and_all_options() {
	expect 'state' "$(jq -r .state_dir <"$CTL/config")" "$(readlink -f "$S")"
	expect 'pool' "$(jq -r .pool_bytes <"$CTL/config")" $((128 << 20))
}

this_node_is_listed() {
	expect 'nodes' "$(jq -r 'if type == "array" then length
		else (.nodes | length) end' <"$CTL/nodes")" 1
}

version_is_that_of_the_command() {
	grep -qF "$(cat "$CTL/version" | grep -oE '[0-9]+\.[0-9.]+')" \
		<<<"$("$KVFS" version)"
}

events_tell_what_went_wrong() {
	kill -9 "$(redis_pid)"
	wait_for 'grep -qi redis "$CTL/events"' 10
	wait_for '[ "$(status .redis.up)" = true ]' 15
}

counters_go_up() {
	local hits
	hits=$(stat_of kvfs_hits_total)
	blocks -n 20 -s 100000 check "$KV/n" >/dev/null
	[ "$(stat_of kvfs_hits_total)" \
		-ge $((hits + 20)) ] || fail 'hits stand still'
}

they_are_read_in_small_pieces_too() {
	dd if="$CTL/status" bs=7 status=none | jq -e . >/dev/null
	jq -e . <"$CTL/status" >/dev/null
}

an_unprivileged_user_may_read_them() {
	as_nobody cat "$CTL/status" | jq -e . >/dev/null
	as_nobody cat "$CTL/version" >/dev/null
}

what_tenants_are_called_and_do_is_not_for_everybody() {
	jq -e '.kv.namespaces | length == 3' <"$CTL/status" >/dev/null
	as_nobody cat "$CTL/status" |
		jq -e '.kv.namespaces == [] and .kv.stores >= 20' >/dev/null
	grep -q '^kvfs_namespace_blocks{namespace="n"}' "$CTL/stats"
	as_nobody cat "$CTL/stats" >"$T/stats"
	grep -q '^kvfs_stores_total [1-9]' "$T/stats"
	! grep -q namespace= "$T/stats" || fail 'nobody sees namespaces'
	cat "$CTL/events" >/dev/null
	refused "$EACCES" as_nobody cat "$CTL/events"
}

run_tests

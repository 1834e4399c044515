#!/bin/bash
# SPDX-License-Identifier: MIT
# A Redis of the user's: addresses, passwords, what is refused.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
PORT=$((20000 + RANDOM % 12000)) # below those that the kernel gives away
redis_start plain
redis_start locked --requirepass 's3cret pass' --port "$PORT"
printf 's3cret pass\n' >"$T/password"
chmod 600 "$T/password"

_refused_mount() { # PATTERN OPTIONS
	local out rc=0
	out=$(timeout 60 "$KVFS" mount "$M" -o "$(kvfs_options "$2")" 2>&1) ||
		rc=$?
	[ $rc != 0 ] || fail "this was mounted: $2"
	expect 'lines' "$(wc -l <<<"$out")" 1
	grep -Eqi -- "$1" <<<"$out" || fail "'$out' does not say $1"
	is_mounted && fail 'still mounted'
	wait_for '[ -z "$(kvfs_pid)" ]'
}
_stored() { # NAME
	mkdir -p "$KV/n"
	put_tmp "$KV/n/$1" 5000 1
	holds "$KV/n/$1" 5000 1
	wait_for '[ "$(status .redis.dirty)" = 0 ]'
}

a_unix_socket_is_used() {
	kvfs_mount "meta=unix://$T/plain.sock"
	_stored a
	expect 'embedded' "$(status .redis.embedded)" false
	[ -n "$(redis-cli -s "$T/plain.sock" --scan --pattern 'kvfs:*')" ] ||
		fail 'it has no key of ours'
	kvfs_umount
	expect 'still there' "$(redis-cli -s "$T/plain.sock" ping)" PONG
}

another_database_is_used() {
	kvfs_mount "discard,meta=unix://$T/plain.sock?db=3"
	_stored a
	[ "$(redis-cli -s "$T/plain.sock" -n 3 dbsize)" -gt 0 ] ||
		fail 'database 3 is empty'
	kvfs_umount
}

another_prefix_is_used() {
	redis-cli -s "$T/plain.sock" -n 4 dbsize >/dev/null
	kvfs_mount "discard,prefix=mine,meta=unix://$T/plain.sock?db=4"
	_stored a
	expect 'other keys' "$(redis-cli -s "$T/plain.sock" -n 4 --scan |
		grep -v '^mine:' || :)" ''
	kvfs_umount
}

tcp_with_a_password_file_is_used() {
	kvfs_mount "discard,meta=redis://127.0.0.1:$PORT,password-file=$T/password"
	_stored a
	tr '\0' ' ' <"/proc/$(kvfs_pid)/cmdline" | grep -q s3cret &&
		fail 'the password is on the command line'
	grep -rq s3cret "$CTL/config" "$CTL/status" "$CTL/stats" "$CTL/events" &&
		fail 'the password is shown'
	kvfs_umount
}

a_password_from_the_environment_is_used() {
	KVFS_REDIS_PASSWORD='s3cret pass' \
		kvfs_mount "discard,meta=redis://127.0.0.1:$PORT/1"
	_stored a
	kvfs_umount
}

a_wrong_password_is_told() {
	say wrong >"$T/wrong"
	chmod 600 "$T/wrong"
	_refused_mount 'password' \
		"meta=redis://127.0.0.1:$PORT,password-file=$T/wrong"
	_refused_mount 'password' "meta=redis://127.0.0.1:$PORT"
}

a_password_file_that_others_read_is_refused() {
	cp "$T/password" "$T/open"
	chmod 644 "$T/open"
	_refused_mount '0?600' \
		"meta=redis://127.0.0.1:$PORT,password-file=$T/open"
}

a_place_to_listen_that_is_taken_is_told() {
	_refused_mount 'another process listens there: name another port' \
		"meta=unix://$T/plain.sock,listen=127.0.0.1:$PORT"
}

a_password_in_the_url_is_refused() {
	_refused_mount 'password' "meta=redis://:s3cret@127.0.0.1:$PORT"
}

a_redis_that_evicts_is_refused_with_the_command_that_mends_it() {
	redis_start evict --maxmemory 100mb --maxmemory-policy allkeys-lru
	_refused_mount 'config set maxmemory-policy noeviction' \
		"meta=unix://$T/evict.sock"
	redis-cli -s "$T/evict.sock" config set maxmemory-policy noeviction >/dev/null
	kvfs_mount "discard,meta=unix://$T/evict.sock"
	kvfs_umount
	redis_stop evict
}

a_redis_that_stops_writes_when_a_save_fails_is_refused() {
	redis_start saves --save '3600 1' --stop-writes-on-bgsave-error yes
	_refused_mount 'config set stop-writes-on-bgsave-error no' \
		"meta=unix://$T/saves.sock"
	redis-cli -s "$T/saves.sock" config set stop-writes-on-bgsave-error no >/dev/null
	kvfs_mount "discard,meta=unix://$T/saves.sock"
	kvfs_umount
	redis_stop saves
}

an_acl_that_confines_kvfs_to_its_prefix_is_enough() {
	redis_start acl --port $((PORT + 1))
	redis-cli -s "$T/acl.sock" acl setuser kvfs on '>pw' '~kvfs:*' +@all \
		>/dev/null
	say pw >"$T/pw"
	chmod 600 "$T/pw"
	kvfs_mount "discard,meta=redis://kvfs@127.0.0.1:$((PORT + 1)),password-file=$T/pw"
	_stored a
	put "$CKPT/x" 1000 1
	holds "$CKPT/x" 1000 1
	kvfs_umount
}

# An authority, and a server and a client that it vouches for.
_certificates() {
	requires_cmd openssl
	[ ! -e "$T/ca.pem" ] || return 0
	local who
	for who in ca other; do
		openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$who" \
			-keyout "$T/$who.key" -out "$T/$who.pem" 2>/dev/null
	done
	say 'subjectAltName=DNS:localhost,IP:127.0.0.1' >"$T/names"
	for who in server client; do
		openssl req -newkey rsa:2048 -nodes -subj "/CN=$who" \
			-keyout "$T/$who.key" -out "$T/$who.csr" 2>/dev/null
		openssl x509 -req -in "$T/$who.csr" -CA "$T/ca.pem" \
			-CAkey "$T/ca.key" -CAcreateserial -days 2 \
			-extfile "$T/names" -out "$T/$who.crt" 2>/dev/null
	done
	(umask 077; cat "$T/client.crt" "$T/client.key" >"$T/client.pem")
}
_tls_redis() { # NAME PORT [CONFIG...]
	local name=$1 port=$2
	shift 2
	_certificates
	redis_start "$name" --tls-port "$port" --bind 127.0.0.1 127.0.0.2 \
		--tls-cert-file "$T/server.crt" --tls-key-file "$T/server.key" \
		--tls-ca-cert-file "$T/ca.pem" "$@"
}

tls_to_an_authority_s_server_is_used() {
	local port=$((PORT + 2)) i
	_tls_redis tls $port --tls-auth-clients no --requirepass 's3cret pass'
	kvfs_mount "discard,meta=rediss://localhost:$port/2,meta-ca=$T/ca.pem,password-file=$T/password"
	_stored a
	expect 'address' "$(status .redis.address)" "rediss://localhost:$port/2"
	mkdir "$CKPT/long"
	for i in {1..300}; do
		: >"$CKPT/long/a-name-that-makes-for-a-long-answer-$i"
	done
	expect 'names' "$(ls "$CKPT/long" | wc -l)" 300
	REDISCLI_AUTH='s3cret pass' redis-cli -s "$T/tls.sock" \
		client kill type normal skipme yes >/dev/null
	put "$CKPT/again" 5000 2
	holds "$CKPT/again" 5000 2
	kvfs_umount
}

tls_to_anybody_else_is_refused() {
	local port=$((PORT + 2))
	_refused_mount 'not trusted.*meta-ca=FILE' "meta=rediss://127.0.0.1:$port"
	_refused_mount 'not trusted' \
		"meta=rediss://127.0.0.1:$port,meta-ca=$T/other.pem"
	_refused_mount 'for another host than 127.0.0.2' \
		"meta=rediss://127.0.0.2:$port,meta-ca=$T/ca.pem"
	_refused_mount 'meta-ca=' "meta=rediss://127.0.0.1:$port,meta-ca=$T/names"
}

tls_to_a_plain_server_is_refused_within_the_deadline() {
	_certificates
	_refused_mount 'plain' \
		"meta=rediss://127.0.0.1:$PORT,meta-ca=$T/ca.pem,deadline=4"
}

a_server_that_wants_a_certificate_gets_ours() {
	local port=$((PORT + 3))
	_tls_redis mutual $port
	_refused_mount 'wants a certificate.*meta-cert=FILE' \
		"meta=rediss://127.0.0.1:$port,meta-ca=$T/ca.pem"
	cat "$T/client.pem" >"$T/open.pem"
	chmod 644 "$T/open.pem"
	_refused_mount 'chmod 600' \
		"meta=rediss://127.0.0.1:$port,meta-ca=$T/ca.pem,meta-cert=$T/open.pem"
	kvfs_mount "discard,meta=rediss://127.0.0.1:$port,meta-ca=$T/ca.pem,meta-cert=$T/client.pem"
	_stored a
	kvfs_umount
}

bench_publish_counts_the_blocks_that_redis_took() {
	"$KVFS" bench --publish --quick --seconds 1 --json >"$T/lines" 2>/dev/null
	jq -se 'length == 2 and (map(.store) == ["memory", "aof-everysec"]) and
		all(.op == "publish" and .blocks_s > 0 and
			.redis_us_per_block > 0 and .node_us_per_block > 0)' \
		"$T/lines" >/dev/null || fail "it says $(cat "$T/lines")"
	refused 'no folder' "$KVFS" bench --publish "$M"
}

a_close_waits_for_the_replicas_that_are_asked_for() {
	local port=$((PORT + 4))
	redis_start main --port $port
	redis_start copy --replicaof 127.0.0.1 $port
	wait_for 'redis-cli -s "$T/copy.sock" info replication | grep -q link_status:up'
	copy=$(redis_pid "$T/copy.sock")
	kvfs_mount "discard,deadline=2,meta-replicas=1,meta=unix://$T/main.sock"
	expect 'config' "$(jq .meta_replicas <"$CTL/config")" 1
	put "$CKPT/a" 5000 1
	hand_start
	kill -STOP "$copy"
	trap 'kill -CONT "$copy"; hand_stop' EXIT
	hand open 1 wc "$CKPT/b"
	hand open 2 wc "$CKPT/c"
	hand write 1 1 100
	hand_refused EIO sync 1
	hand_refused EIO close 1
	expect 'seen' "$(stat -c %s "$CKPT/b")" 100
	expect 'lines' "$(grep -c 'fewer than 1 of its replicas' "$S/kvfs.log")" 1
	# A new connection has written nothing that a replica could lack.
	redis-cli -s "$T/main.sock" client kill type normal skipme yes >/dev/null
	hand_refused EIO sync 2
	kill -CONT "$copy"
	wait_for 'put "$CKPT/d" 5000 2 2>/dev/null' 20
	hand close 2
	kvfs_umount
}

meta_replicas_need_a_redis_that_can_have_them() {
	_refused_mount 'meta-replicas= goes with meta=' meta-replicas=1
}

# Names of one call share a part of the hash, and come as they became dirty.
a_wiped_redis_hears_first_of_what_was_used_last() {
	local n=300 refills monitor i
	redis_start wiped
	kvfs_mount "discard,meta=unix://$T/wiped.sock"
	mkdir "$KV/used"
	blocks -n $n -s 4096 store "$KV/used"
	wait_for '[ "$(status .redis.dirty)" = 0 ]'
	refills=$(status .redis.refills)
	for ((i = 0; i < n; i++)); do # 7 and 300 have no divisor in common
		cat "$KV/used/b$(printf %06d $((i * 7 % n)))" >/dev/null
	done
	redis-cli -s "$T/wiped.sock" monitor >"$T/calls" &
	monitor=$!
	wait_for '[ -s "$T/calls" ]'
	redis-cli -s "$T/wiped.sock" flushall >/dev/null
	wait_for '[ "$(status .redis.refills)" = '$((refills + 1))' ]' 20
	wait_for '[ "$(status .redis.dirty)" = 0 ]'
	redis-cli -s "$T/wiped.sock" echo that-was-all >/dev/null
	wait_for 'grep -q that-was-all "$T/calls"'
	kill $monitor
	awk -v n=$n '
		BEGIN { for (i = 0; i < n; i++) used[i * 7 % n] = i }
		tolower($4) !~ /fcall/ || !/kv_batch/ { next }
		{
			last = n
			for (f = 5; f <= NF; f++) {
				if ($f !~ /^"b[0-9]+"$/)
					continue
				at = used[substr($f, 3, 6) + 0]
				if (at > last) {
					print "used at", last, "before", at
					exit 1
				}
				follow += last < n
				last = at
				seen++
			}
		}
		END { print seen + 0, "seen,", follow + 0, "after another" }' \
		"$T/calls" >"$T/order" || fail "$(cat "$T/order")"
	read -r seen _ follow _ <"$T/order"
	[ "$seen" -ge $n ] && [ "$follow" -ge $((n / 2)) ] ||
		fail "$(cat "$T/order")"
	kvfs_umount
}

run_tests

# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034,SC2053,SC2119,SC2120
#
# What every mount test stands on. A test file sources this, says what it
# needs, mounts, defines functions and ends with `run_tests`:
#
#	. "$(dirname "$0")/lib.sh" || exit 99
#	on_each_rung "$@"
#	kvfs_mount
#	mkdir "$KV/n"
#	a_file_that_was_renamed_is_there() { ...; }
#	run_tests
#
# Every function of the file whose name does not begin with `_` is a test; its
# name is a sentence. It runs in a subshell with `set -e`, in the folder TEST_CWD
# where the file sets that; a command that fails fails it, and says where. Exit
# 77 is a skip.
#
# From the environment: KVFS (the binary), HELPERS (where the helper programs
# are built), srcdir. Set here: T (scratch), S (state directory), M (the mount
# point), KV, CKPT and CTL below it.

set -u

srcdir=${srcdir:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
KVFS=${KVFS:-$PWD/kvfs}
HELPERS=${HELPERS:-$PWD/tests/helpers}
export KVFS HELPERS srcdir
TEST_NAME=$(basename "$0" .sh)${KVFS_RUNG:+ [$KVFS_RUNG]}

say() { printf '%s\n' "$*"; }
skip() { say "SKIP $TEST_NAME: $*"; exit 77; }
fail() { say "  failed: $*" >&2; exit 1; }

requires_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }
requires_fuse() { [ -c /dev/fuse ] || skip "no /dev/fuse on this machine"; }
requires_cmd() {
	local c
	for c; do command -v "$c" >/dev/null || skip "needs the command $c"; done
}
requires_memory() { # MiB
	local kib
	kib=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
	[ "$kib" -ge $(($1 * 1024)) ] || skip "needs $1 MiB of free memory"
}

# The ladder: what can this machine do? Asked of the kernel, not of kvfs.
_kernel_at_least() { # MAJOR MINOR
	local major minor
	IFS=.- read -r major minor _ <<<"$(uname -r)"
	[ "$major" -gt "$1" ] || { [ "$major" = "$1" ] && [ "$minor" -ge "$2" ]; }
}
rung_lacks() { # RUNG: prints why the machine has not this rung, or nothing
	case $1 in
	uring)
		[ -e /sys/module/fuse/parameters/enable_uring ] ||
			say "this kernel has no FUSE over io_uring" ;;
	clone) _kernel_at_least 6 9 || say "this kernel has no passthrough" ;;
	direct) ;;
	esac
}

rung_best() {
	local rung
	for rung in uring clone direct; do
		[ -n "$(rung_lacks "$rung")" ] || break
	done
	say "$rung"
}

rung_shown() { # RUNG: what status and statistics call it
	case $1 in
	uring) say passthrough+uring ;;
	clone) say passthrough+clone_fd ;;
	direct) say direct_io ;;
	esac
}

# on_each_rung - run this script once for each rung, and end
on_each_rung() { on_rungs 'uring clone direct' "$@"; }

# The best one, and that on which the daemon moves the bytes: where it makes no
# difference how requests reach it.
on_two_rungs() { on_rungs 'best direct' "$@"; }

on_rungs() {
	local rungs=${KVFS_RUNGS:-$1} rung before= why rc=77 r
	shift

	[ -z "${KVFS_RUNG:-}" ] || return 0
	for rung in $rungs; do
		[ "$rung" != best ] || rung=$(rung_best)
		[ "$rung" != "$before" ] || continue
		before=$rung
		why=$(rung_lacks "$rung")
		if [ -n "$why" ]; then
			say "SKIP $(basename "$0" .sh) [$rung]: $why"
			continue
		fi
		KVFS_RUNG=$rung bash "$0" "$@" && r=0 || r=$?
		case $r in
		0) [ $rc = 77 ] && rc=0 ;;
		77) ;;
		*) rc=1 ;;
		esac
	done
	exit $rc
}

# Waiting: always for something, never longer than a bound. A machine that is
# busy with more than the test, or a sanitizer, has four times as long.
wait_for() { # CONDITION [SECONDS]: a shell expression
	local seconds=$((4 * ${2:-10}))
	local end=$((SECONDS + seconds))
	until eval "$1"; do
		if [ $SECONDS -ge $end ]; then
			say "  waited $seconds s in vain for: $1" >&2
			return 1
		fi
		sleep 0.05
	done
}

# What `setsid ... &` began, all of it; where it is not yet a session, itself.
kill_session() { # PID
	kill -9 -- "-$1" 2>/dev/null || kill -9 "$1" 2>/dev/null || :
	wait "$1" 2>/dev/null || :
}

# KVFS_TEST_ROUNDS is for who wants more of what happens at any moment.
rounds() { say "${KVFS_TEST_ROUNDS:-$1}"; } # DEFAULT

# Clients that are killed once one of them is at work, wherever that is: a bash
# of SCRIPT for each ARGUMENT, as often as `rounds` says.
kill_clients() { # DEFAULT COUNTER SCRIPT ARGUMENT...; COUNTER: a shell expression
	local n counter=$2 script=$3 i p pids before
	n=$(rounds "$1")
	shift 3
	for ((i = 0; i < n; i++)); do
		pids=()
		for p; do
			setsid bash "$script" "$p" >/dev/null 2>&1 &
			pids+=($!)
		done
		before=$(eval "$counter")
		wait_for '[ "$('"$counter"')" -gt '"$before"' ]' 30
		for p in "${pids[@]}"; do
			kill_session "$p"
		done
	done
}

# Processes are found by the scratch directory: the daemon and most others
# carry it in their command line, the private redis-server works in it.
pids_of() { # EXE_PATTERN [TEXT]: pids whose executable matches
	local p exe
	for p in $(pgrep -f -- "${2:-$T}" || :); do
		exe=$(readlink "/proc/$p/exe" 2>/dev/null) || continue
		[[ $exe != $1 ]] || say "$p"
	done
}
redis_pids() { # TEXT: of their folder or their command line
	local p
	for p in $(pgrep -x redis-server || :); do
		{ readlink "/proc/$p/cwd"; tr '\0' ' ' <"/proc/$p/cmdline"; } \
			2>/dev/null | grep -qF -- "$1" && say "$p"
	done
	return 0
}
kvfs_pid() { pids_of "$(readlink -f "$KVFS")*" "${1:-$S}" | head -1; }
redis_pid() { redis_pids "${1:-$S}" | head -1; }
# A zombie whose threads still end has its sockets and its mount, too.
gone() {
	[ -z "$1" ] || [ ! -e "/proc/$1" ] ||
		awk '/^State:/ { z = $2 == "Z" } /^Threads:/ { n = $2 }
			END { exit !(z && n <= 1) }' "/proc/$1/status" 2>/dev/null
}

# Mounting.
kvfs_options() {
	local o="state=$S,pool=${POOL:-128M}${KVFS_RUNG:+,rung=$KVFS_RUNG}"
	say "$o${1:+,$1}"
}
kvfs_mount() { # [OPTIONS]
	local options
	options=$(kvfs_options "${1:-}")
	timeout 60 "$KVFS" mount "$M" -o "$options" ||
		fail "kvfs mount -o $options: exit code $?"
}
kvfs_umount() { # [ARGUMENTS of kvfs umount]
	timeout 60 "$KVFS" umount "$@" "$M"
}
kvfs_crash() { # kill -9, and wait until it is gone
	local pid
	pid=$(kvfs_pid)
	[ -n "$pid" ] || fail "no daemon to kill"
	kill -9 "$pid"
	wait_for "gone $pid"
}
is_mounted() { grep -qF " ${1:-$M} fuse" /proc/self/mounts; }
status() { jq -r "$1" <"$CTL/status"; }
stat_of() { # NAME: the value of a counter without labels in .kvfs/stats
	awk -v n="$1" '$1 == n { print $2; found = 1 }
		END { if (!found) exit 1 }' "$CTL/stats" ||
		fail "no $1 in .kvfs/stats"
}
redis_cli() { # on the embedded server
	redis-cli -s "$(echo "$S"/redis/*.sock)" "$@"
}

# A Redis of the user's: redis_start NAME [CONFIG...]; socket $T/NAME.sock.
redis_start() {
	local name=$1
	shift
	redis-server --port 0 --unixsocket "$T/$name.sock" --save '' \
		--dir "$T" --daemonize no "$@" >"$T/$name.log" 2>&1 &
	wait_for '[ -S "$T/'"$name"'.sock" ]'
}
redis_records() { # SOCKET NAMESPACE: how many names of it Redis knows
	local key n=0
	for key in $(redis-cli -s "$1" --scan --pattern "kvfs:{$2#*}:b*" 2>/dev/null); do
		n=$((n + $(redis-cli -s "$1" hlen "$key")))
	done
	say $n
}
redis_stop() { # NAME
	local pid
	pid=$(redis_pid "$T/$1.sock")
	kill "$pid"
	wait_for "gone $pid"
}

# Cleaning up, whatever happened.
#
# A daemon that was killed may not end while one of its threads waits in the
# kernel for a client that waits for the daemon: aborting ends both.
_abort_connections() { # [PREFIX of the mount points]
	local dev dir=/sys/fs/fuse/connections
	mountpoint -q $dir || mount -t fusectl none $dir 2>/dev/null || return 0
	for dev in $(awk -v t="${1:-$T/}" 'index($5, t) == 1 && / - fuse/ {
			sub(/.*:/, "", $3); print $3 }' /proc/self/mountinfo); do
		[ ! -e "$dir/$dev/abort" ] || echo 1 >"$dir/$dev/abort"
	done
}
_kill_leftovers() {
	local p
	_abort_connections
	for p in $(pids_of '*' "$T"; redis_pids "$T"); do
		kill -9 "$p" 2>/dev/null
	done
}
_cleanup() {
	local rc=$? m
	trap - EXIT INT TERM
	[ -z "${HAND_PID:-}" ] || kill -9 "$HAND_PID" 2>/dev/null
	{ is_mounted "$M" && timeout 20 "$KVFS" umount "$M"; } >/dev/null 2>&1
	_kill_leftovers
	awk -v t="$T/" 'index($2, t) == 1 { print $2 }' /proc/self/mounts |
		sort -r | while read -r m; do umount -l "$(printf %b "$m")"; done
	if [ -e "$T/hung" ]; then
		say "  it took $HUNG_AFTER s: all daemons were killed"
	elif [ -n "${WATCHDOG:-}" ]; then
		kill -9 "$WATCHDOG" 2>/dev/null
	fi
	if [ $rc != 0 ] && [ $rc != 77 ] && [ -s "$S/kvfs.log" ]; then
		say "  end of the daemon's log:"
		tail -20 "$S/kvfs.log" | sed 's/^/  | /'
	fi
	if [ -n "${KVFS_KEEP:-}" ]; then
		say "kept: $T"
	else
		rm -rf --one-file-system "$T"
	fi
	exit $rc
}

T=$(mktemp -d "${TMPDIR:-/tmp}/kvfs-test.XXXXXX")
chmod 755 "$T"
S=$T/state M=$T/mnt
KV=$M/kv CKPT=$M/ckpt CTL=$M/.kvfs
mkdir "$M"
mkfifo "$T/never"
trap _cleanup EXIT
trap 'exit 1' INT TERM

# A hung mount must not hang the suite: with the daemon gone every waiting
# system call on the mount ends. Far beyond what a busy machine needs.
HUNG_AFTER=$((${KVFS_TEST_LIMIT:-900} * 5 / 9))
(
	trap - EXIT
	exec </dev/null >/dev/null 2>&1
	read -rt $HUNG_AFTER _ <>"$T/never"
	: >"$T/hung"
	_kill_leftovers
) &
WATCHDOG=$!
disown

# Comparing.
expect() { # WHAT GOT WANTED
	[ "$2" = "$3" ] || fail "$1: got '$2', wanted '$3'"
}
same_file() { cmp -- "$1" "$2" || fail "$1 and $2 differ"; }
# The command must fail with this error text; errno names as strerror has them.
EPERM='Operation not permitted'
ENOENT='No such file or directory'
EACCES='Permission denied'
EEXIST='File exists'
EXDEV='cross-device link'
ENOSPC='No space left on device'
EFBIG='File too large'
EIO='Input/output error'
ENAMETOOLONG='File name too long'
ENOTEMPTY='Directory not empty'
EINVAL='Invalid argument'
EROFS='Read-only file system'
refused() { # PATTERN (egrep) COMMAND...
	local pattern=$1 out rc=0
	shift
	out=$("$@" 2>&1 >/dev/null </dev/null) || rc=$?
	[ $rc != 0 ] || fail "this succeeded: $*"
	grep -Eqi -- "$pattern" <<<"$out" ||
		fail "$*: got '$out' (code $rc), wanted $pattern"
}

# Data: what lies in a file follows from its seed (helpers/pattern.h).
put() { # PATH SIZE SEED: by one writer, created under its own name
	"$HELPERS/pattern" write "$3" "$2" >"$1"
}
put_tmp() { # PATH SIZE SEED: as the engines do, temp and rename
	put "$1.tmp" "$2" "$3" && mv -T "$1.tmp" "$1"
}
holds() { # PATH SIZE SEED
	"$HELPERS/pattern" check "$3" "$2" <"$1" || fail "$1 holds other bytes"
}
blocks() { "$HELPERS/blocks" "$@"; }

# The hand: a process that holds descriptors, mappings and pipes (helpers/
# hand.c). `hand_start`, then `hand COMMAND...`, which prints the answer and
# fails with it.
hand_start() {
	coproc HAND { exec "$HELPERS/hand"; }
	HAND_PID=$!
	# Copies: bash closes a coprocess' own descriptors in subshells.
	exec {HAND_IN}>&"${HAND[1]}" {HAND_OUT}<&"${HAND[0]}"
}
hand_try() { # prints the answer, "ok ..." or "err ENAME"
	local answer
	say "$*" >&"$HAND_IN"
	read -rt 60 answer <&"$HAND_OUT" || fail "the hand is gone at: $*"
	say "$answer"
}
hand() {
	local answer
	answer=$(hand_try "$@")
	case $answer in
	ok) ;;
	ok*) say "${answer#ok }" ;;
	*) fail "hand $*: $answer" ;;
	esac
}
hand_refused() { # ENAME COMMAND...
	local want="err $1"
	shift
	expect "hand $*" "$(hand_try "$@")" "$want"
}
hand_stop() {
	[ -n "${HAND_PID:-}" ] || return 0
	{ kill -9 "$HAND_PID" && wait "$HAND_PID"; } 2>/dev/null || :
	HAND_PID=
}

as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }

# What is reported after every test, and the code of the file.
run_tests() {
	local fn n_pass=0 n_fail=0 n_skip=0 rc start
	# shellcheck disable=SC2013 # the names are words
	for fn in $(sed -nE 's/^([a-z][A-Za-z0-9_]*)\(\) .*/\1/p' "$0"); do
		[ -z "${KVFS_ONLY:-}" ] || [[ $fn == $KVFS_ONLY ]] || continue
		start=$EPOCHREALTIME
		set +e
		(
			trap hand_stop EXIT
			set -eE
			cd "${TEST_CWD:-$T}"
			trap 'say "  failed at $0:$LINENO: $BASH_COMMAND" >&2' ERR
			"$fn"
		)
		rc=$?
		local took
		took=$(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $start }")
		case $rc in
		0) say "ok   $TEST_NAME: ${fn//_/ } ($took s)"; n_pass=$((n_pass + 1)) ;;
		77) n_skip=$((n_skip + 1)) ;;
		*) say "FAIL $TEST_NAME: ${fn//_/ } ($took s)"; n_fail=$((n_fail + 1)) ;;
		esac
	done
	say "     $TEST_NAME: $n_pass passed, $n_fail failed, $n_skip skipped"
	[ $n_fail = 0 ] || exit 1
	[ $n_pass != 0 ] || exit 77
	exit 0
}

# Nothing below runs where it cannot. ANY_USER=yes: it may without being root.
[ -n "${ANY_USER:-}" ] || requires_root
requires_fuse
requires_cmd jq redis-server redis-cli setpriv
[ -x "$KVFS" ] || { say "no kvfs binary at $KVFS"; exit 99; }

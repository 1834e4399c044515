# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034
#
# For tests of several nodes: tools/cluster below the test's scratch folder.
#
#	. "$(dirname "$0")/cluster_lib.sh" || exit 99
#	on_each_rung "$@"
#	cluster_up 3 [OPTION...]	(of tools/cluster)
#	put_tmp "$(kv 1)/n/a" 5000 1	a path in node 1's kv/
#	on 2 cat ...			a command on node 2
#
# Nodes are 1 to N. A test that breaks one puts it right again.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh" || exit 99

# The tests of one node go through all rungs; these take the best there is.
KVFS_RUNGS=best

requires_cmd ip tc nsenter unshare iptables
[ -e /proc/self/ns/net ] || skip "no network namespaces on this machine"

CLUSTER=$srcdir/tools/cluster
export KVFS_CLUSTER=$T/cluster

_cluster_cleanup() {
	local rc=$? log
	if [ $rc != 0 ] && [ $rc != 77 ]; then
		for log in "$KVFS_CLUSTER"/node-*/state/kvfs.log; do
			[ -s "$log" ] || continue
			say "  end of ${log#"$T"/}:"
			tail -12 "$log" | sed 's/^/  | /'
		done
	fi
	"$CLUSTER" down >/dev/null 2>&1
	(exit $rc)
	_cleanup
}
trap _cluster_cleanup EXIT

cluster_up() { # N [OPTION...]
	local n=$1
	shift
	N_NODES=$n
	"$CLUSTER" "$n" --pool "${POOL:-128M}" \
		-o "deadline=${DEADLINE:-5}${KVFS_RUNG:+,rung=$KVFS_RUNG}${OPTIONS:+,$OPTIONS}" \
		"$@" >/dev/null || fail "tools/cluster $n $*: exit code $?"
	all_know $n
}
mnt() { say "$KVFS_CLUSTER/node-$1/mnt"; }
kv() { say "$(mnt "$1")/kv"; }
on() { "$CLUSTER" exec "$@"; }
node_pid() { cat "$KVFS_CLUSTER/node-$1/state/pid"; }
node_status() { jq -r "$2" <"$(mnt "$1")/.kvfs/status"; } # I FILTER
node_stat() { # I NAME: a counter in its .kvfs/stats
	awk -v n="kvfs_$2" '$1 == n { print $2 }' "$(mnt "$1")/.kvfs/stats"
}
node_kill() { # I: kill -9, and wait until it is gone
	local pid
	pid=$(node_pid "$1")
	kill -9 "$pid"
	wait_for "gone $pid"
}
node_mount() { "$CLUSTER" mount "$@" || fail "node $1 could not be mounted"; }
# Node I again, now such that it stops itself (SIGSTOP) when it is about to send
# its N-th MiB.
node_stops_at() { # I N
	node_kill "$1"
	KVFS_FAULT=tcp.stop:$2 node_mount "$1"
	all_know "$N_NODES"
}
node_is_stopped() { grep -q '^State:.T' "/proc/$(node_pid "$1")/status"; }
node_stop() { # each of its threads: on a busy machine some go on for a while
	local pid
	pid=$(node_pid "$1")
	kill -STOP "$pid"
	wait_for '! grep -Ls "^State:.[Tt]" /proc/'"$pid"'/task/*/status | grep -q .'
}
node_cont() { kill -CONT "$(node_pid "$1")"; }
# Nothing reaches the node and nothing leaves it, silently.
node_cut() {
	on "$1" iptables -A INPUT -j DROP
	on "$1" iptables -A OUTPUT -j DROP
}
node_heal() { on "$1" iptables -F; }
redis() { "$CLUSTER" redis "$@"; }

# Waiting for what the cluster comes to by itself.
_knows() { [ "$(jq .live <"$(mnt "$1")/.kvfs/nodes")" = "$2" ] &&
	jq -e 'all(.nodes[]; .addresses | length > 0)' \
		<"$(mnt "$1")/.kvfs/nodes" >/dev/null; }
all_know() { # N: every node sees N nodes, with their addresses
	local i
	for ((i = 1; i <= N_NODES; i++)); do
		wait_for "_knows $i $1" 15
	done
}
published() { # PATH: waits until Redis said that this block is the one
	wait_for '[ "$(getfattr --absolute-names --only-values -n user.kvfs.state "'"$1"'" 2>/dev/null)" = published ]'
}
put_published() { put_tmp "$@" && published "$1"; } # PATH SIZE SEED
is_gone() { [ ! -e "$1" ]; }
_holds_now() { { "$HELPERS/pattern" check "$3" "$2" <"$1"; } 2>/dev/null; }
# A lookup that Redis does not answer in 100 ms is a miss (the next one may not
# be). Once the name is there the first read must be right.
holds() { # PATH SIZE SEED
	wait_for "[ -e '$1' ]"
	"$HELPERS/pattern" check "$3" "$2" <"$1" || fail "$1 holds other bytes"
}
# The same while a node's state is not yet known to all.
holds_soon() { # PATH SIZE SEED [SECONDS]
	wait_for "_holds_now '$1' $2 $3" "${4:-10}"
}

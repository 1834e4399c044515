#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Memory of a GPU that a card reaches, in a machine with Soft-RoCE. There is no
# GPU, and Soft-RoCE registers no dma-buf (Linux 6.1): a real one, of no graphics
# card, shows that this is refused, and staged by libkvfs. For the rest a file
# stands in for it (tests/helpers/dmabuf.c, and tests/unit/test_dmabuf.c, in
# which each call fails once); the card's copies are real.
. "$(dirname "$0")/lib.sh"
requires_mounts
[ -x "${HELPERS%/*}/unit/test_dmabuf" ] || skip 'no check, so no unit tests'

{
	guest_begins 10.9.0.1
	guest_mounts 1
	cat <<-EOF
		mkdir /tmp/cuda
		ln -s '$HELPERS/cuda.so' /tmp/cuda/libcuda.so.1
		gpu_program='$HELPERS/gds_gpu' stand_in='$HELPERS/dmabuf.so'
		KVFS_TEST_RDMA=10.9.0.1 KVFS_TEST_RDMA_INTERFACE=eth0 CK_TIMEOUT_MULTIPLIER=3 \\
			'${HELPERS%/*}/unit/test_dmabuf'
	EOF
	cat <<-'EOF'
		export KVFS_CUDA_FILE=/root/dmabuf-stand-in-XXXXXX
		mount_one() { # [OPTIONS], in an environment
			"$kvfs" mount /tmp/m -o pool=128M,state=/tmp/state,deadline=60$1 || look
			mkdir -p /tmp/m/kv/n
		}
		figure() { awk "\$1 == \"$1\" { print \$2 }" /tmp/m/.kvfs/stats; }
		gpu() { # EXPORT ARGUMENT...
			local as=$1
			shift
			KVFS_CUDA_EXPORT=$as LD_LIBRARY_PATH=/tmp/cuda "$gpu_program" \
				/tmp/m/kv/n "$@" 2>&1 || :
		}
		expect() { # WHAT IS WANTED
			[ "$2" = "$3" ] || { printf '%s: not\n%s\nbut\n%s\n' "$1" "$3" "$2"; look; }
			echo "ok: $1"
		}
		all() { # HOW N
			printf '%s\n' "$1" "stored $2" "read $2, same $2" \
				"read $2, same $2" 'odd: ENOENT EINVAL 0' \
				"copied $2, same $2, pinned $2"
		}
		nothing_left() {
			until_it '[ "$(figure kvfs_buffers)$(figure kvfs_dmabufs)" = 00 ]'
		}

		rdma link add rxe9 type rxe netdev lo
		mount_one ,rdma-device=rxe0
		expect 'a dma-buf that the card refuses is staged' \
			"$(gpu dri 70000 20 r)" "$(all staged 20)"
		rdma link delete rxe9
		grep -q 'dma-buf: rxe0 does not reach it: Operation not supported' \
			/tmp/state/kvfs.log || look
		"$kvfs" umount /tmp/m

		LD_PRELOAD=$stand_in mount_one ,transport=tcp
		expect 'so it is where no card may be used' \
			"$(gpu dmabuf 70000 20 r)" "$(all staged 20)"
		"$kvfs" umount /tmp/m

		LD_PRELOAD=$stand_in mount_one
		expect 'small blocks' "$(gpu dmabuf 70000 20 s)" "$(all direct 20)"
		expect 'odd ones' "$(gpu dmabuf 1000003 5 o)" "$(all direct 5)"
		expect 'in several pieces' "$(gpu dmabuf 9000001 2 l)" "$(all direct 2)"
		expect 'all by the card' $(figure kvfs_dmabuf_bytes_total) \
			$((70000 * 50 + 70000 + 1000003 * 11 + 500002 * 5 +
				9000001 * 5 + 4500001 * 2))
		nothing_left

		pid=$(jq .pid </tmp/m/.kvfs/status)
		cards() { ls -l /proc/$pid/fd 2>/dev/null | grep -cE 'infiniband|stand-in' || :; }
		went_on=0
		for i in 1 2 3 4 5 6; do
			[ $went_on = 0 ] || break
			before=$(figure kvfs_dmabuf_bytes_total)
			gpu dmabuf 4000000 4 k$i >/dev/null &
			until [ $(figure kvfs_dmabuf_bytes_total) -gt $before ]; do :; done
			before=$(figure kvfs_dmabuf_bytes_total)
			[ $(cards) -ge 3 ] || look
			pkill -9 -f "$gpu_program"
			wait
			nothing_left
			[ $(figure kvfs_dmabuf_bytes_total) = $before ] || went_on=1
		done
		expect 'copies under way as their client was killed' $went_on 1
		until_it '[ $(cards) = 0 ]'
		expect 'after clients that were killed' "$(gpu dmabuf 70000 20 t)" \
			"$(all direct 20)"
		"$kvfs" umount /tmp/m

		for nth in 4 8; do # two to measure it, four to store, then to read
			KVFS_FAULT=dmabuf.late:$nth LD_PRELOAD=$stand_in mount_one
			expect 'a card that is lost: staged' "$(gpu dmabuf 70000 4 f$nth)" \
				"$(all direct 4)"
			expect 'and before by the card' $(figure kvfs_dmabuf_bytes_total) \
				$((70000 * (nth - 3)))
			nothing_left
			expect 'and opened again' "$(gpu dmabuf 70000 20 g$nth)" \
				"$(all direct 20)"
			"$kvfs" umount /tmp/m
		done

		# Seven: two to measure it, for each of three buffers, and the first.
		KVFS_FAULT=dmabuf.late:7 LD_PRELOAD=$stand_in mount_one
		expect 'lost and live ones in one call' "$(gpu dmabuf lost 70000)" \
			"$(printf '%s\n' direct 'EDQUOT: ENODEV' \
				'staged, then direct' \
				'stored 3: 0/direct 0/staged 0/direct' \
				'read 3: 0/direct 0/staged 0/direct' 'same 3')"
		nothing_left
	EOF
} >"$TMPDIR/guest.sh"
machine "$TMPDIR" 1 -netdev user,id=n,restrict=on
machine_ends "$TMPDIR" $!

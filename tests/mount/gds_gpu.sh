#!/bin/bash
# SPDX-License-Identifier: MIT
# libkvfs: blocks to and from memory of a GPU. There is no GPU: a stand-in for
# CUDA's library (tests/helpers/cuda.c) has its calls, over ordinary memory.
# tools/gpu-selftest runs the tests that have "gpu" in their names on a real
# one.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
POOL=160M
kvfs_mount
mkdir "$KV/n"

# KVFS_GPU=real: with the machine's own library and its GPU.
if [ "${KVFS_GPU:-}" != real ]; then
	[ -z "${KVFS_SANITIZER:-}" ] || skip 'not with sanitizers'
	mkdir "$T/cuda"
	ln -s "$HELPERS/cuda.so" "$T/cuda/libcuda.so.1"
fi
# What it prints says whether it went well.
_gpu() {
	LD_LIBRARY_PATH="$T/cuda" "$HELPERS/gds_gpu" "$KV/n" "$@" 2>&1 || :
}
_fail() { KVFS_CUDA_FAIL=$1 _gpu "${@:2}"; }
_nothing_left() {
	wait_for '[ "$(stat_of kvfs_buffers)" = 0 ]'
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
}
_pins() { # N, where the library tells
	[ "${KVFS_GPU:-}" = real ] && say - || say "$1"
}
_all() { # N: what all steps come to with so many blocks
	printf '%s\n' "stored $1" "read $1, same $1" "read $1, same $1" \
		'odd: ENOENT EINVAL 0' "copied $1, same $1, pinned $(_pins "$1")"
}

gpu_memory_is_read_into_and_stored_from() {
	expect 'small' "$(_gpu 70000 300 s)" "staged
$(_all 300)"
	holds "$KV/n/s0" 70000 0
	holds "$KV/n/s299" 70000 299
	expect 'odd' "$(_gpu 1000003 40 o)" "staged
$(_all 40)"
	_nothing_left
}

blocks_larger_than_the_gpu_s_ring_go_in_pieces() {
	expect 'large' "$(_gpu 20000001 2 l)" "staged
$(_all 2)"
	holds "$KV/n/l1" 20000001 1
	_nothing_left
}

memory_that_the_daemon_reaches_is_not_staged() {
	[ "${KVFS_GPU:-}" != real ] || skip 'the stand-in alone has such memory'
	expect 'direct' "$(KVFS_CUDA_EXPORT=memfd _gpu 70000 300 d)" "direct
$(_all 300)"
	holds "$KV/n/d299" 70000 299
	expect 'not taken' "$(KVFS_CUDA_EXPORT=other _gpu 70000 20 e)" "staged
$(_all 20)"
	_nothing_left
}

without_a_driver_it_is_an_error() {
	[ "${KVFS_GPU:-}" != real ] || skip 'there is one'
	expect 'no GPU' "$(KVFS_CUDA_NO_GPU=1 _gpu 70000 2)" \
		'register: no CUDA driver or no GPU here'
	for call in Init:2 PointerGetAttribute:1 PointerGetAttribute:2 \
		PointerGetAttribute:3 StreamCreate:1 StreamCreate:2 \
		CtxPushCurrent:1; do
		grep -q '^register: ' <<<"$(_fail $call 70000 2)" ||
			fail "$call: $(_fail $call 70000 2)"
	done
	_nothing_left
}

what_fails_on_the_way_falls_back_or_is_told() {
	[ "${KVFS_GPU:-}" != real ] || skip 'a real one does not fail at will'
	# The ring, or frames, are not pinned: it is only slower.
	expect 'ring' "$(_fail MemHostRegister:1 70000 20 f)" "staged
$(_all 20)"
	expect 'a frame' "$(_fail MemHostRegister:3 70000 20 f)" "staged
$(_all 20 | sed 's/pinned 20/pinned 19/')"
	expect 'export' "$(KVFS_CUDA_EXPORT=memfd \
		_fail MemGetHandleForAddressRange:1 70000 20 f)" "staged
$(_all 20)"
	# A copy to the GPU fails: that block, and no other.
	expect 'to the GPU' "$(_fail MemcpyHtoDAsync:3 70000 4 f)" 'staged
stored 4
read 3, same 3
read of f2: EIO
read 4, same 4
odd: ENOENT EINVAL 0
copied 4, same 4, pinned 4'
	# What was on the stream when it failed.
	expect 'stream' "$(_fail StreamSynchronize:2 70000 4 f | head -3)" \
		'staged
stored 4
read 0, same 0'
	# Nothing of what did not come from the GPU is stored.
	expect 'from the GPU' "$(_fail MemcpyDtoHAsync:2 70000 4 x | head -2)" \
		'staged
stored 0'
	expect 'from the GPU, late' "$(_fail StreamSynchronize:1 70000 4 y |
		head -2)" 'staged
stored 0'
	expect 'a large one' "$(_fail MemcpyDtoHAsync:1 20000001 1 z |
		head -2)" 'staged
stored 0'
	ls "$KV/n"/[xyz]? >/dev/null 2>&1 && fail 'something was stored'
	expect 'a piece' "$(_fail StreamSynchronize:2 20000001 1 v | head -4)" \
		'staged
stored 1
read 0, same 0
read of v0: EIO'
	_nothing_left
}

run_tests

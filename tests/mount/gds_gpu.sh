#!/bin/bash
# SPDX-License-Identifier: MIT
# libkvfs: blocks to and from memory of a GPU. There is no GPU: a stand-in for
# CUDA's library (tests/helpers/cuda.c) has its calls, over ordinary memory.
# tools/gpu-selftest runs the tests that have "gpu" in their names on a real
# one.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
POOL=160M
kvfs_mount
mkdir "$KV/n"

# KVFS_GPU=real: with the machine's own library and its GPU.
if [ "${KVFS_GPU:-}" != real ]; then
	mkdir "$T/cuda" "$T/gds"
	ln -s "$HELPERS/cuda.so" "$T/cuda/libcuda.so.1"
	ln -s "$HELPERS/cuda.so" "$T/gds/libcuda.so.1"
	ln -s "$HELPERS/cuda.so" "$T/gds/libcufile.so.0"
fi
# What it prints says whether it went well.
_gpu() {
	LD_LIBRARY_PATH="$T/cuda:${LD_LIBRARY_PATH:-}" \
		"$HELPERS/gds_gpu" "$KV/n" "$@" 2>&1 || :
}
_fail() { KVFS_CUDA_FAIL=$1 _gpu "${@:2}"; }
_file() { # BYTES PATH: with a stand-in for cuFile, too
	LD_LIBRARY_PATH="$T/gds" "$HELPERS/gds_gpu" "$KV/n" file "$@" 2>&1 || :
}
_all_parts() { # WAY
	printf '%s\n' staged "$1: same" "$1: same" "$1: same" "$1: same" \
		'odd: EINVAL'
}
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
	expect 'only to read' "$(KVFS_CUDA_EXPORT=readonly _gpu 70000 20 r)" \
		"staged
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

a_file_of_ckpt_is_read_into_gpu_memory() {
	local size bare
	for size in 10 4096 70001 40000003; do
		put "$CKPT/f$size" $size 5
		if [ "${KVFS_GPU:-}" = real ]; then
			_gpu file $size "$CKPT/f$size" >"$T/out"
			[ "$(grep -c ': same$' "$T/out")" = 4 ] ||
				fail "$size: $(cat "$T/out")"
			continue
		fi
		expect "$size, staged" "$(_gpu file $size "$CKPT/f$size")" \
			"$(_all_parts staged)"
		expect "$size" "$(_file $size "$CKPT/f$size")" \
			"$(_all_parts cuFile)"
	done
	bare=$(_gpu file 10 "$CKPT/none")
	expect 'none' "${bare##*$'\n'}" "file: $ENOENT"
	_nothing_left
}

cufile_gets_the_file_on_the_disk_and_only_that_of_ckpt() {
	local before
	[ "${KVFS_GPU:-}" != real ] || skip 'the stand-in alone tells its calls'
	put "$CKPT/f" 70001 5
	put_tmp "$KV/n/f" 70001 5
	put "$T/f" 70001 5
	before=$(stat_of kvfs_ckpt_handed_total)
	expect 'the order' "$(KVFS_CUFILE_LOG=1 _file 70001 "$CKPT/f")" 'staged
FileDriverOpen
FileDriverGetProperties
FileHandleRegister
FileBufRegister
FileRead
cuFile: same
FileRead
cuFile: same
FileRead
FileRead
cuFile: same
FileRead
cuFile: same
odd: EINVAL
FileHandleDeregister
FileBufDeregister
FileDriverClose'
	expect 'handed' "$(stat_of kvfs_ckpt_handed_total)" $((before + 1))
	expect 'status' "$(status .ckpt.handed)" $((before + 1))
	expect 'a block' "$(_file 70001 "$KV/n/f")" "$(_all_parts staged)"
	expect 'elsewhere' "$(_file 70001 "$T/f")" "$(_all_parts staged)"
	expect 'handed' "$(stat_of kvfs_ckpt_handed_total)" $((before + 1))
}

where_cufile_fails_it_is_staged() {
	local call
	[ "${KVFS_GPU:-}" != real ] || skip 'a real one does not fail at will'
	put "$CKPT/f" 3000001 5
	for call in FileDriverOpen FileHandleRegister; do
		expect "$call" "$(KVFS_CUDA_FAIL=$call:1 \
			_file 3000001 "$CKPT/f")" "$(_all_parts staged)"
	done
	# The memory is not pinned: it is only slower.
	expect 'memory' "$(KVFS_CUDA_FAIL=FileBufRegister:1 \
		_file 3000001 "$CKPT/f")" "$(_all_parts cuFile)"
	expect 'no driver' "$(KVFS_CUFILE_COMPAT=1 _file 3000001 "$CKPT/f")" \
		"$(_all_parts 'cuFile, compat')"
	expect 'not told' "$(KVFS_CUDA_FAIL=FileDriverGetProperties:1 \
		_file 3000001 "$CKPT/f")" "$(_all_parts 'cuFile, compat')"
	expect 'short' "$(KVFS_CUFILE_SHORT=999999 _file 3000001 "$CKPT/f")" \
		"$(_all_parts cuFile)"
	# One read, and no other; before anything came, and after.
	expect 'a read' "$(KVFS_CUDA_FAIL=FileRead:1 \
		_file 3000001 "$CKPT/f" | sed -n 2,3p)" $'staged: same\ncuFile: same'
	expect 'later' "$(KVFS_CUDA_FAIL=FileRead:3 KVFS_CUFILE_SHORT=999999 \
		_file 3000001 "$CKPT/f" | sed -n 2,3p)" $'staged: same\ncuFile: same'
	expect 'an errno' "$(KVFS_CUDA_FAIL=FileRead:2 KVFS_CUFILE_COMPAT=1 \
		_file 3000001 "$CKPT/f" | sed -n 2,3p)" \
		$'cuFile, compat: same\nstaged: same'
	# And the host's way fails, too.
	expect 'staged' "$(KVFS_CUDA_FAIL=MemcpyHtoDAsync:1 _gpu file 3000001 \
		"$CKPT/f" | sed -n 2,3p)" $'read: EIO\nstaged: same'
	expect 'stream' "$(KVFS_CUDA_FAIL=StreamSynchronize:2 _gpu file 3000001 \
		"$CKPT/f" | sed -n 2,3p)" $'read: EIO\nstaged: same'
	_nothing_left
}

# A buffer that the daemon reaches has no ring; a file needs one.
a_file_is_staged_into_memory_that_needs_no_staging() {
	[ "${KVFS_GPU:-}" != real ] || skip 'the stand-in alone has such memory'
	put "$CKPT/f" 40000003 5
	expect 'both' "$(KVFS_CUDA_EXPORT=memfd _gpu file 40000003 "$CKPT/f")" \
		"$(_all_parts staged | sed '1s/.*/direct/')"
	expect 'cuFile' "$(KVFS_CUDA_EXPORT=memfd _file 40000003 "$CKPT/f")" \
		"$(_all_parts cuFile | sed '1s/.*/direct/')"
	_nothing_left
}

# All that it does on a machine with a GPU, but for the GPU.
the_selftest_runs_to_its_end() {
	[ "${KVFS_GPU:-}" != real ] || skip 'this is it'
	[ "$KVFS_RUNG" = "$(rung_best)" ] || skip 'on the best rung alone'
	KVFS_ONLY='' LD_LIBRARY_PATH="$T/gds" BUILD=$(dirname "$KVFS") STATE=$T \
		"$srcdir/tools/gpu-selftest" >"$T/out" 2>&1 ||
		fail "$(cat "$T/out")"
	grep -q '^ok .*a file of ckpt is read into gpu memory' "$T/out" ||
		fail "$(cat "$T/out")"
	expect 'what it prints' "$(tail -n 7 "$T/out" |
		sed -E 's/[0-9.]+ GB/N GB/;s/copied.*/copied/')" 'staged
GPU: stand-in
store, staged: N GB/s
read, staged: N GB/s
copied
out of the pool: N GB/s, mapping and comparing included
file, cuFile: N GB/s'
	[ -z "$(ls -d "$T"/state.* 2>/dev/null)" ] || fail 'it left its state'
}

the_selftest_says_where_there_is_no_gpu() {
	[ "${KVFS_GPU:-}" != real ] || skip 'there is one'
	mkdir -p "$T/none"
	ln -sf /dev/null "$T/none/libcuda.so.1"
	LD_LIBRARY_PATH="$T/none" BUILD=$(dirname "$KVFS") \
		"$srcdir/tools/gpu-selftest" >"$T/out" 2>&1 && fail 'it ran'
	expect 'it says' "$(cat "$T/out")" 'gpu-selftest: no libcuda.so.1: this machine has no CUDA driver'
}

run_tests

#!/bin/bash
# SPDX-License-Identifier: MIT
# fio writes and verifies, on both views.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_each_rung "$@"
requires_cmd fio
POOL=128M kvfs_mount
mkdir "$KV/n"

_fio() {
	timeout 100 fio --minimal --eta=never --allow_file_create=1 \
		--verify=xxhash --verify_fatal=1 "$@" >"$T/fio" 2>&1 ||
		fail "fio $*: $(tail -5 "$T/fio")"
	grep -qi 'verify.*fail\|bad magic' "$T/fio" &&
		fail "$(grep -i 'verify\|magic' "$T/fio" | head -3)"
	return 0
}

random_writes_in_ckpt_verify() {
	_fio --name=a --directory="$CKPT" --rw=randwrite --bs=4k --size=16M \
		--ioengine=psync
	_fio --name=b --directory="$CKPT" --rw=randrw --bs=16k --size=16M \
		--ioengine=libaio --iodepth=8
	rm -f "$CKPT"/*
}

direct_io_in_ckpt_verifies() {
	_fio --name=c --directory="$CKPT" --rw=randwrite --bs=4k --size=8M \
		--ioengine=libaio --iodepth=4 --direct=1
	rm -f "$CKPT"/*
}

mmap_in_ckpt_verifies() {
	_fio --name=d --directory="$CKPT" --rw=randwrite --bs=4k --size=8M \
		--ioengine=mmap
	rm -f "$CKPT"/*
}

two_jobs_in_ckpt_verify() {
	_fio --name=e --directory="$CKPT" --rw=randwrite --bs=8k --size=8M \
		--numjobs=2 --ioengine=psync --fsync=64
	rm -f "$CKPT"/*
}

blocks_in_kv_verify_through_one_descriptor() {
	_fio --name=f --filename="$KV/n/f.tmp" --rw=write --bs=1M --size=32M \
		--ioengine=psync --fallocate=none
	mv "$KV/n/f.tmp" "$KV/n/f"
}

blocks_in_kv_verify_when_they_are_read_back() {
	_fio --name=f --filename="$KV/n/f" --rw=read --bs=1M --size=32M \
		--ioengine=psync --readonly
	_fio --name=f --filename="$KV/n/f" --rw=read --bs=1M --size=32M \
		--ioengine=mmap --readonly
	_fio --name=f --filename="$KV/n/f" --rw=read --bs=1M --size=32M \
		--ioengine=libaio --iodepth=8 --direct=1 --readonly
}

run_tests

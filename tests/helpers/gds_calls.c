// SPDX-License-Identifier: MIT
#include "tests/helpers/gds_calls.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

bool gds_no_maps;

/* The library calls this one. */
void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	struct statfs fs;

	if (gds_no_maps && flags & MAP_SHARED && fd >= 0 && !fstatfs(fd, &fs) &&
	    fs.f_type == FUSE_SUPER_MAGIC) {
		errno = ENODEV;
		return MAP_FAILED;
	}
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
}

const struct gds_calls gds_by_ioctl = {
	.exists = kvfs_exists,
	.match = kvfs_match,
	.touch = kvfs_touch,
	.evict = kvfs_evict,
	.prefetch = kvfs_prefetch,
	.read_into = kvfs_read_into,
	.store_from = kvfs_store_from,
	.reserve = kvfs_reserve,
	.commit = kvfs_commit,
	.abort = kvfs_abort,
};

/* -- a ring, a call at a time --------------------------------------------- */

#define ENTRY_BYTES (512u << 10)
#define USER_DATA 0x1234567890abcdefull

static struct kvfs
	*handle; /* the last one; a handle has one ring in its life */
static struct kvfs_ring *ring;
static struct kvfs_done done;

static int need_ring(struct kvfs *k)
{
	if (k == handle)
		return 0;
	kvfs_ring_close(ring);
	ring = NULL;
	handle = k;
	return kvfs_ring_open(k, 1, ENTRY_BYTES, &ring);
}

/* After preparing a call. Returns: 0: done has the answer. */
static int ask(int err)
{
	int n = err ? err : kvfs_ring_submit(ring);

	if (n >= 0 && n != 1)
		return -EPROTO;
	n = n < 0 ? n : kvfs_ring_wait(ring, -1, &done);
	return n < 0 ? n : done.user_data == USER_DATA ? 0 : -EPROTO;
}

static int seen(int rc)
{
	kvfs_ring_seen(ring, &done);
	return rc;
}

static int ring_exists(struct kvfs *k, const struct kvfs_names *names,
		       uint32_t flags, uint8_t *bitmap,
		       struct kvfs_found *found)
{
	int n, err = need_ring(k);

	if (!err)
		err = ask(kvfs_ring_exists(ring, names, flags, USER_DATA));
	if (err)
		return err;
	n = seen(kvfs_done_found(&done, bitmap, found));
	return n < 0 ? n : 0;
}

static int ring_match(struct kvfs *k, const struct kvfs_names *names,
		      uint32_t flags, struct kvfs_holder *holders,
		      uint32_t room, struct kvfs_found *found)
{
	int err = need_ring(k);

	if (!err)
		err = ask(kvfs_ring_match(ring, names, flags, USER_DATA));
	return err ? err : seen(kvfs_done_holders(&done, holders, room, found));
}

static int use(int (*prepare)(struct kvfs_ring *r,
			      const struct kvfs_names *names,
			      uint64_t user_data),
	       struct kvfs *k, const struct kvfs_names *names, uint8_t *bitmap)
{
	struct kvfs_found found;
	int err = need_ring(k);

	if (!err)
		err = ask(prepare(ring, names, USER_DATA));
	return err ? err : seen(kvfs_done_found(&done, bitmap, &found));
}

static int ring_touch(struct kvfs *k, const struct kvfs_names *names,
		      uint8_t *bitmap)
{
	return use(kvfs_ring_touch, k, names, bitmap);
}

static int ring_evict(struct kvfs *k, const struct kvfs_names *names,
		      uint8_t *bitmap)
{
	return use(kvfs_ring_evict, k, names, bitmap);
}

static int ring_prefetch(struct kvfs *k, const struct kvfs_names *names,
			 uint8_t *bitmap)
{
	return use(kvfs_ring_prefetch, k, names, bitmap);
}

static int ring_read_into(struct kvfs *k, const struct kvfs_names *names,
			  uint32_t flags, uint32_t deadline_ms,
			  struct kvfs_move *moves)
{
	int err = need_ring(k);

	if (!err)
		err = ask(kvfs_ring_read_into(ring, names, flags, deadline_ms,
					      moves, USER_DATA));
	return err ? err : seen(kvfs_done_moves(ring, &done, moves));
}

static int ring_store_from(struct kvfs *k, const struct kvfs_names *names,
			   uint32_t flags, uint32_t mode,
			   struct kvfs_move *moves)
{
	int err = need_ring(k);

	if (!err)
		err = ask(kvfs_ring_store_from(ring, names, flags, mode, moves,
					       USER_DATA));
	return err ? err : seen(kvfs_done_moves(ring, &done, moves));
}

static int ring_reserve(struct kvfs *k, uint32_t n, uint64_t bytes,
			struct kvfs_frame *frames)
{
	int err = need_ring(k);

	if (!err)
		err = ask(kvfs_ring_reserve(ring, n, bytes, USER_DATA));
	return err ? err : seen(kvfs_done_reserved(ring, &done, frames));
}

static int ring_commit(struct kvfs *k, const struct kvfs_names *names,
		       uint32_t flags, uint32_t mode, struct kvfs_frame *frames)
{
	int err = need_ring(k);

	if (!err)
		err = ask(kvfs_ring_commit(ring, names, flags, mode, frames,
					   USER_DATA));
	return err ? err : seen(kvfs_done_committed(ring, &done, frames));
}

static int ring_abort(struct kvfs *k, struct kvfs_frame *frames, uint32_t n)
{
	int err = need_ring(k);

	if (!err)
		err = ask(kvfs_ring_abort(ring, frames, n, USER_DATA));
	return err ? err : seen(done.result);
}

const struct gds_calls gds_by_ring = {
	.exists = ring_exists,
	.match = ring_match,
	.touch = ring_touch,
	.evict = ring_evict,
	.prefetch = ring_prefetch,
	.read_into = ring_read_into,
	.store_from = ring_store_from,
	.reserve = ring_reserve,
	.commit = ring_commit,
	.abort = ring_abort,
};

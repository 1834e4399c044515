// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "gds/ring.h"

/* Blocks that are written in place, or moved to and from buffers. */

/* -- RESERVE, ABORT ------------------------------------------------------- */

int kvfs_ring_reserve(struct kvfs_ring *r, uint32_t n, uint64_t bytes,
		      uint64_t user_data)
{
	struct kvfs_ioc_reserve *q = gds_ring_request(r);

	if (!q)
		return -EAGAIN;
	if (n > (r->entry_bytes - sizeof(struct kvfs_ioc_pins)) /
			sizeof(struct kvfs_ioc_pin))
		return -E2BIG;
	*q = (struct kvfs_ioc_reserve){.n = n, .length = bytes};
	gds_ring_prepare(r, KVFS_IOC_RESERVE(0), sizeof(*q),
			 (struct gds_asked){.user_data = user_data,
					    .n = n,
					    .bytes = bytes});
	return 0;
}

int kvfs_ring_abort(struct kvfs_ring *r, struct kvfs_frame *frames, uint32_t n,
		    uint64_t user_data)
{
	struct kvfs_ioc_pins *q = gds_ring_request(r);
	struct kvfs_ioc_pin *pins = (struct kvfs_ioc_pin *)(q + 1);

	if (!q)
		return -EAGAIN;
	if (n > (r->entry_bytes - sizeof(*q)) / sizeof(*pins))
		return -E2BIG;
	n = gds_frames_unmap(frames, n, pins);
	*q = (struct kvfs_ioc_pins){.n = n};
	gds_ring_prepare(r, KVFS_IOC_ABORT(0), sizeof(*q) + n * sizeof(*pins),
			 (struct gds_asked){.user_data = user_data});
	return 0;
}

int kvfs_done_reserved(struct kvfs_ring *r, const struct kvfs_done *done,
		       struct kvfs_frame *frames)
{
	const struct kvfs_ioc_pins *pins = done->answer;
	uint64_t bytes = gds_ring_asked(r, done)->bytes;
	int err;

	/* It drops what we only kept mapped, if that was too much. */
	if (done->result == -EDQUOT)
		return kvfs_reserve(r->k, done->n, bytes, frames);
	if (done->result < 0)
		return done->result;
	gds_frames_begin(frames, done->n, bytes);
	err = gds_frames_take(r->k, (const struct kvfs_ioc_pin *)(pins + 1),
			      done->n, frames);
	if (err)
		kvfs_abort(r->k, frames, done->n);
	return err;
}

/* -- COMMIT, GET, PUT ----------------------------------------------------- */

/* Of COMMIT and PUT, with n things of so many bytes each before the names. */
static int pack_stores(struct kvfs_ring *r, const struct kvfs_names *names,
		       uint32_t n, size_t each, struct kvfs_ioc_names *head,
		       size_t *bytes)
{
	return gds_ring_pack(r, names,
			     sizeof(struct kvfs_ioc_commit) + n * each,
			     sizeof(struct kvfs_ioc_committed) +
				     n * sizeof(struct kvfs_ioc_stored),
			     head, bytes);
}

int kvfs_ring_commit(struct kvfs_ring *r, const struct kvfs_names *names,
		     uint32_t flags, uint32_t mode, struct kvfs_frame *frames,
		     uint64_t user_data)
{
	struct kvfs_ioc_commit *q = gds_ring_request(r);
	uint32_t parent = flags & KVFS_PARENT ? 1 : 0, n = names->n - parent;
	struct kvfs_ioc_names head;
	size_t bytes;
	int err;

	if (!q)
		return -EAGAIN;
	if (parent > names->n || flags & ~GDS_COMMIT_FLAGS ||
	    gds_frames_check(frames, n))
		return -EINVAL;
	err = pack_stores(r, names, n, sizeof(struct kvfs_ioc_store), &head,
			  &bytes);
	if (err)
		return err;
	err = gds_frames_settle(r->k, frames, n, flags);
	if (err) {
		if (!(flags & KVFS_KEEP))
			kvfs_abort(r->k, frames, n);
		return err;
	}
	*q = (struct kvfs_ioc_commit){
		.flags = gds_commit_flags(flags) |
			 (parent ? KVFS_IOC_PARENT : 0),
		.n = n,
		.mode = mode,
		.names = head,
	};
	gds_frames_put((char *)(q + 1), frames, n);
	gds_ring_prepare(r, KVFS_IOC_COMMIT(0), bytes,
			 (struct gds_asked){.user_data = user_data,
					    .n = n,
					    .flags = flags});
	return 0;
}

static int check_moves(const struct kvfs *k, struct kvfs_move *moves,
		       uint32_t n)
{
	int err = gds_moves_begin(k, moves, n);

	for (uint32_t i = 0; !err && i < n; i++)
		if (moves[i].buffer->staged)
			err = -EOPNOTSUPP;
	return err;
}

int kvfs_ring_read_into(struct kvfs_ring *r, const struct kvfs_names *names,
			uint32_t flags, uint32_t deadline_ms,
			struct kvfs_move *moves, uint64_t user_data)
{
	struct kvfs_ioc_get *q = gds_ring_request(r);
	struct kvfs_ioc_names head;
	size_t bytes;
	int err;

	if (!q)
		return -EAGAIN;
	err = check_moves(r->k, moves, names->n);
	if (err || flags & ~KVFS_FETCH)
		return err ? err : -EINVAL;
	err = gds_ring_pack(
		r, names, sizeof(*q) + names->n * sizeof(struct kvfs_ioc_move),
		sizeof(struct kvfs_ioc_got) +
			names->n * sizeof(struct kvfs_ioc_moved),
		&head, &bytes);
	if (err)
		return err;
	*q = (struct kvfs_ioc_get){
		.flags = flags ? KVFS_IOC_FETCH : 0,
		.deadline_ms = flags ? deadline_ms : 0,
		.names = head,
	};
	gds_moves_put((char *)(q + 1), moves, names->n);
	gds_ring_prepare(
		r, KVFS_IOC_GET(0), bytes,
		(struct gds_asked){.user_data = user_data, .n = names->n});
	return 0;
}

int kvfs_ring_store_from(struct kvfs_ring *r, const struct kvfs_names *names,
			 uint32_t flags, uint32_t mode, struct kvfs_move *moves,
			 uint64_t user_data)
{
	struct kvfs_ioc_commit *q = gds_ring_request(r);
	uint32_t parent = flags & KVFS_PARENT ? 1 : 0, n = names->n - parent;
	struct kvfs_ioc_names head;
	size_t bytes;
	int err;

	if (!q)
		return -EAGAIN;
	if (parent > names->n || flags & ~(KVFS_SYNC | KVFS_PARENT))
		return -EINVAL;
	err = check_moves(r->k, moves, n);
	if (!err)
		err = pack_stores(r, names, n, sizeof(struct kvfs_ioc_move),
				  &head, &bytes);
	if (err)
		return err;
	*q = (struct kvfs_ioc_commit){
		.flags = (flags & KVFS_SYNC ? KVFS_IOC_SYNC : 0) |
			 (parent ? KVFS_IOC_PARENT : 0),
		.n = n,
		.mode = mode,
		.names = head,
	};
	gds_moves_put((char *)(q + 1), moves, n);
	gds_ring_prepare(r, KVFS_IOC_PUT(0), bytes,
			 (struct gds_asked){.user_data = user_data, .n = n});
	return 0;
}

/* -- their answers -------------------------------------------------------- */

static const struct kvfs_ioc_stored *stored_of(const struct kvfs_done *done)
{
	return (const void *)((const struct kvfs_ioc_committed *)done->answer +
			      1);
}

int kvfs_done_committed(struct kvfs_ring *r, const struct kvfs_done *done,
			struct kvfs_frame *frames)
{
	int n = done->result, err = 0;

	for (uint32_t i = 0; done->result >= 0 && i < done->n; i++) {
		gds_frame_stored(&frames[i], &stored_of(done)[i]);
		n += !frames[i].error;
	}
	if (!(gds_ring_asked(r, done)->flags & KVFS_KEEP))
		err = kvfs_abort(r->k, frames, done->n);
	return n < 0 || !err ? n : err;
}

int kvfs_done_moves(struct kvfs_ring *r, const struct kvfs_done *done,
		    struct kvfs_move *moves)
{
	bool got = gds_ring_asked(r, done)->command == _IOC_NR(KVFS_IOC_GET(0));
	int n = 0;

	if (done->result < 0)
		return done->result;
	for (uint32_t i = 0; i < done->n; i++) {
		if (got)
			gds_move_got(&moves[i],
				     &kvfs_ioc_moves(done->answer)[i]);
		else
			gds_move_stored(&moves[i], &stored_of(done)[i]);
		n += !moves[i].error;
	}
	return n;
}

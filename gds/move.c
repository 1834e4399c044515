// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "gds/internal.h"

/*
 * GET and PUT, request by request. A request is its struct, the moves, the
 * names; how many fit depends on how long the names are.
 */

union request {
	struct kvfs_ioc_get get;
	struct kvfs_ioc_got got;
	struct kvfs_ioc_commit put;
	struct kvfs_ioc_committed done;
	char bytes[KVFS_IOC_ROOM_MAX];
};

char *gds_moves_put(char *to, const struct kvfs_move *moves, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct kvfs_ioc_move m = {
			.offset = moves[i].offset,
			.length = moves[i].length,
			.at = moves[i].at,
			.buffer = moves[i].buffer->name,
		};

		to = mempcpy(to, &m, sizeof(m));
	}
	return to;
}

/* Behind the struct of so many bytes. Returns: the request's. */
static size_t append(union request *r, size_t bytes, const struct gds_packed *p,
		     const struct kvfs_move *moves)
{
	char *at = gds_moves_put(r->bytes + bytes, moves, p->n);

	at = mempcpy(at, p->names, p->bytes);
	bytes = (size_t)(at - r->bytes);
	r->get.head = (struct kvfs_ioc_head){(uint32_t)bytes, KVFS_IOC_ABI};
	return bytes;
}

static size_t room(size_t request, size_t answer)
{
	return request > answer ? request : answer;
}

int gds_moves_begin(const struct kvfs *k, struct kvfs_move *moves, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		moves[i].error = -ECANCELED;
		moves[i].flags = 0;
		moves[i].bytes = moves[i].size = 0;
	}
	for (uint32_t i = 0; i < n; i++)
		if (!moves[i].buffer || moves[i].buffer->k != k)
			return -EINVAL;
	return 0;
}

/* So many are staged, if the first is, or none of them; and of a GPU. */
static uint32_t alike(const struct kvfs_move *moves, uint32_t most,
		      bool *staged)
{
	const struct kvfs_buffer *b = moves->buffer;
	uint32_t n = 1;

	*staged = b->staged;
	while (n < most && moves[n].buffer->staged == *staged &&
	       moves[n].buffer->is_gpu == b->is_gpu)
		n++;
	return n;
}

/* -- GET ------------------------------------------------------------ */

void gds_move_got(struct kvfs_move *to, const struct kvfs_ioc_moved *from)
{
	to->error = -(int)from->error;
	to->flags = from->flags & KVFS_IOC_STRAIGHT ? KVFS_STRAIGHT : 0;
	to->bytes = from->length;
	to->size = from->size;
}

int gds_read_some(struct kvfs *k, const struct kvfs_names *names,
		  uint32_t first, uint32_t n, uint32_t flags,
		  uint32_t deadline_ms, struct kvfs_move *moves)
{
	struct gds_packed p;
	union request r;
	size_t bytes;
	int err = gds_names_fit(names, first, 0, n,
				sizeof(struct kvfs_ioc_move), &p);

	if (err)
		return err;
	r.get = (struct kvfs_ioc_get){
		.flags = flags & KVFS_FETCH ? KVFS_IOC_FETCH : 0,
		.deadline_ms = deadline_ms,
		.names = p.head,
	};
	bytes = append(&r, sizeof(r.get), &p, moves);
	err = gds_call(
		k,
		KVFS_IOC_GET(room(bytes,
				  sizeof(r.got) +
					  p.n * sizeof(struct kvfs_ioc_moved))),
		&r);
	if (err)
		return err;
	for (uint32_t i = 0; i < p.n; i++)
		gds_move_got(&moves[i], &kvfs_ioc_moves(&r.got)[i]);
	return (int)p.n;
}

int kvfs_read_into(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t flags, uint32_t deadline_ms,
		   struct kvfs_move *moves)
{
	int n_read = 0, n;
	bool staged;

	if (gds_moves_begin(k, moves, names->n) || flags & ~KVFS_FETCH)
		return -EINVAL;
	for (uint32_t i = 0; i < names->n; i += (uint32_t)n) {
		uint32_t most = alike(moves + i, names->n - i, &staged);

		n = (staged ? gds_stage_read : gds_read_some)(
			k, names, i, most, flags, deadline_ms, moves + i);
		if (n < 0)
			return n;
		if (!staged)
			n = gds_stage_lost(k, moves + i, n);
		for (int at = 0; at < n; at++)
			n_read += !moves[i + (uint32_t)at].error;
	}
	return n_read;
}

/* -- PUT ------------------------------------------------------------ */

void gds_move_stored(struct kvfs_move *to, const struct kvfs_ioc_stored *from)
{
	to->error = -(int)from->error;
	to->flags = (from->flags & KVFS_IOC_WAS_THERE ? KVFS_WAS_THERE : 0) |
		    (from->flags & KVFS_IOC_UNSYNCED ? KVFS_UNSYNCED : 0);
	if (!from->error && !(from->flags & KVFS_IOC_WAS_THERE))
		to->bytes = to->size = to->length;
}

/* Each request but the first continues the last name of the one before. */
int gds_store_some(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t first, uint32_t n_moves, uint32_t flags,
		   uint32_t mode, struct kvfs_move *moves)
{
	const struct kvfs_ioc_stored *out;
	uint32_t parent = first > 0;
	struct gds_packed p;
	union request r;
	size_t bytes;
	int err = gds_names_fit(names, first - parent, parent, n_moves,
				sizeof(struct kvfs_ioc_move), &p);

	if (err)
		return err;
	r.put = (struct kvfs_ioc_commit){
		.flags = (flags & KVFS_SYNC ? KVFS_IOC_SYNC : 0) |
			 (parent ? KVFS_IOC_PARENT : 0),
		.n = p.n,
		.mode = mode,
		.names = p.head,
	};
	bytes = append(&r, sizeof(r.put), &p, moves);
	err = gds_call(
		k,
		KVFS_IOC_PUT(room(bytes, sizeof(r.done) + p.n * sizeof(*out))),
		&r);
	if (err)
		return err;
	out = (const struct kvfs_ioc_stored *)(&r.done + 1);
	for (uint32_t i = 0; i < p.n; i++)
		gds_move_stored(&moves[i], &out[i]);
	return (int)p.n;
}

int kvfs_store_from(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t flags, uint32_t mode, struct kvfs_move *moves)
{
	uint32_t parent = flags & KVFS_PARENT ? 1 : 0, n_moves;
	int n_stored = 0, n;
	bool staged;

	if (flags & ~(KVFS_SYNC | KVFS_PARENT) || parent > names->n)
		return -EINVAL;
	n_moves = names->n - parent;
	if (gds_moves_begin(k, moves, n_moves))
		return -EINVAL;
	for (uint32_t i = 0; i < n_moves; i += (uint32_t)n) {
		uint32_t most = alike(moves + i, n_moves - i, &staged);

		n = (staged ? gds_stage_store : gds_store_some)(
			k, names, i + parent, most, flags, mode, moves + i);
		if (n < 0)
			return n;
		if (!staged)
			n = gds_stage_lost(k, moves + i, n);
		for (int at = 0; at < n; at++)
			n_stored += !moves[i + (uint32_t)at].error;
	}
	return n_stored;
}

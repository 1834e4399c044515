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

/* -- all of a call's, one way or the other -------------------------- */

/* Some of them, the first at least. Returns: how many, or -errno. */
typedef int some_fn(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t first, uint32_t n, uint32_t flags,
		    uint32_t deadline_ms_or_mode, struct kvfs_move *moves);

struct call {
	some_fn *straight, *staged;
	struct kvfs *k;
	const struct kvfs_names *names;
	uint32_t parent; /* names before that of the first move */
	uint32_t flags, deadline_ms_or_mode;
};

static int move_some(const struct call *c, bool staged, uint32_t first,
		     uint32_t n, struct kvfs_move *moves)
{
	return (staged ? c->staged : c->straight)(
		c->k, c->names, first + c->parent, n, c->flags,
		c->deadline_ms_or_mode, moves + first);
}

/* Those whose card was lost meanwhile, and no others: what is stored is not
 * stored twice. */
static int move_lost(const struct call *c, uint32_t first, uint32_t n,
		     struct kvfs_move *moves)
{
	uint32_t end = first + n, n_lost;
	int done = 0;

	for (; done >= 0 && (n_lost = gds_stage_lost(c->k, moves, end, &first));
	     first += n_lost)
		done = move_some(c, true, first, n_lost, moves);
	return done < 0 ? done : (int)n;
}

static int move_all(const struct call *c, uint32_t n, struct kvfs_move *moves)
{
	int n_moved = 0, done;
	bool staged;

	if (gds_moves_begin(c->k, moves, n))
		return -EINVAL;
	for (uint32_t i = 0; i < n; i += (uint32_t)done) {
		uint32_t most = alike(moves + i, n - i, &staged);

		done = move_some(c, staged, i, most, moves);
		if (done >= 0 && !staged)
			done = move_lost(c, i, (uint32_t)done, moves);
		if (done < 0)
			return done;
		for (int at = 0; at < done; at++)
			n_moved += !moves[i + (uint32_t)at].error;
	}
	return n_moved;
}

int kvfs_read_into(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t flags, uint32_t deadline_ms,
		   struct kvfs_move *moves)
{
	const struct call c = {.straight = gds_read_some,
			       .staged = gds_stage_read,
			       .k = k,
			       .names = names,
			       .flags = flags,
			       .deadline_ms_or_mode = deadline_ms};

	return flags & ~KVFS_FETCH ? -EINVAL : move_all(&c, names->n, moves);
}

int kvfs_store_from(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t flags, uint32_t mode, struct kvfs_move *moves)
{
	uint32_t parent = flags & KVFS_PARENT ? 1 : 0;
	const struct call c = {.straight = gds_store_some,
			       .staged = gds_stage_store,
			       .k = k,
			       .names = names,
			       .parent = parent,
			       .flags = flags,
			       .deadline_ms_or_mode = mode};

	if (flags & ~(KVFS_SYNC | KVFS_PARENT) || parent > names->n)
		return -EINVAL;
	return move_all(&c, names->n - parent, moves);
}

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gds/ring.h"

/* Requests of names alone; their answers are of a name each. */

static int find(struct kvfs_ring *r, const struct kvfs_names *names,
		uint32_t flags, uint32_t n_nodes, unsigned cmd,
		uint64_t user_data)
{
	struct kvfs_ioc_find *q = gds_ring_request(r);
	struct kvfs_ioc_names head;
	size_t bytes;
	int err;

	if (!q)
		return -EAGAIN;
	err = gds_ring_pack(r, names, sizeof(*q),
			    sizeof(struct kvfs_ioc_found) +
				    n_nodes * sizeof(struct kvfs_ioc_node) +
				    (names->n + 7) / 8,
			    &head, &bytes);
	if (err)
		return err;
	*q = (struct kvfs_ioc_find){.flags = flags, .names = head};
	gds_ring_prepare(
		r, cmd, bytes,
		(struct gds_asked){.user_data = user_data, .n = names->n});
	return 0;
}

int kvfs_ring_exists(struct kvfs_ring *r, const struct kvfs_names *names,
		     uint32_t flags, uint64_t user_data)
{
	return find(r, names, flags, 0, KVFS_IOC_EXISTS(0), user_data);
}

int kvfs_ring_match(struct kvfs_ring *r, const struct kvfs_names *names,
		    uint32_t flags, uint64_t user_data)
{
	return find(r, names, flags, GDS_NODES_MAX, KVFS_IOC_MATCH(0),
		    user_data);
}

int kvfs_ring_touch(struct kvfs_ring *r, const struct kvfs_names *names,
		    uint64_t user_data)
{
	return find(r, names, 0, 0, KVFS_IOC_TOUCH(0), user_data);
}

int kvfs_ring_evict(struct kvfs_ring *r, const struct kvfs_names *names,
		    uint64_t user_data)
{
	return find(r, names, 0, 0, KVFS_IOC_EVICT(0), user_data);
}

int kvfs_ring_prefetch(struct kvfs_ring *r, const struct kvfs_names *names,
		       uint64_t user_data)
{
	return find(r, names, 0, 0, KVFS_IOC_PREFETCH(0), user_data);
}

/* The answer is written over the names, which may be needed once more. */
static int keep_names(struct kvfs_ring *r, const struct kvfs_ioc_locate *q,
		      size_t bytes)
{
	if (!r->names)
		r->names = calloc(r->entries, r->entry_bytes);
	if (!r->names)
		return -ENOMEM;
	memcpy(r->names + (size_t)r->free * r->entry_bytes, q, bytes);
	return 0;
}

int kvfs_ring_get(struct kvfs_ring *r, const struct kvfs_names *names,
		  uint32_t flags, uint32_t deadline_ms, uint64_t user_data)
{
	struct kvfs_ioc_locate *q = gds_ring_request(r);
	struct kvfs_ioc_names head;
	size_t bytes;
	int err;

	if (!q)
		return -EAGAIN;
	if (flags & ~KVFS_FETCH)
		return -EINVAL;
	err = gds_ring_pack(r, names, sizeof(*q),
			    sizeof(struct kvfs_ioc_located) +
				    names->n * sizeof(struct kvfs_ioc_block),
			    &head, &bytes);
	if (err)
		return err;
	*q = (struct kvfs_ioc_locate){
		.flags = flags ? KVFS_IOC_FETCH : 0,
		.deadline_ms = flags ? deadline_ms : 0,
		.names = head,
	};
	err = keep_names(r, q, bytes);
	if (err)
		return err;
	gds_ring_prepare(r, KVFS_IOC_LOCATE(0), bytes,
			 (struct gds_asked){.user_data = user_data,
					    .n = names->n,
					    .flags = flags,
					    .deadline_ms = deadline_ms});
	return 0;
}

int kvfs_ring_put(struct kvfs_ring *r, struct kvfs_block *blocks, uint32_t n,
		  uint64_t user_data)
{
	struct kvfs_ioc_pins *q = gds_ring_request(r);
	struct kvfs_ioc_pin *pins = (struct kvfs_ioc_pin *)(q + 1);
	uint32_t n_pins = 0;

	if (!q)
		return -EAGAIN;
	if (n > (r->entry_bytes - sizeof(*q)) / sizeof(*pins))
		return -E2BIG;
	for (uint32_t i = 0; i < n; i++) {
		struct kvfs_block *b = &blocks[i];

		if (!b->error) {
			gds_map_put(r->k, b->frame, b->epoch);
			pins[n_pins++] =
				(struct kvfs_ioc_pin){b->frame, b->epoch};
		}
		*b = (struct kvfs_block){.error = -ECANCELED};
	}
	*q = (struct kvfs_ioc_pins){.n = n_pins};
	gds_ring_prepare(r, KVFS_IOC_UNPIN(0),
			 sizeof(*q) + n_pins * sizeof(*pins),
			 (struct gds_asked){.user_data = user_data});
	return 0;
}

/* -- answers -------------------------------------------------------------- */

static struct kvfs_found found_of(const struct kvfs_ioc_found *f)
{
	return (struct kvfs_found){
		.n_present = f->n_present,
		.n_prefix = f->n_prefix,
		.incomplete = f->flags & KVFS_IOC_INCOMPLETE,
	};
}

int kvfs_done_found(const struct kvfs_done *done, uint8_t *bitmap,
		    struct kvfs_found *found)
{
	const struct kvfs_ioc_found *f = done->answer;

	if (done->result < 0)
		return done->result;
	*found = found_of(f);
	if (bitmap)
		memcpy(bitmap, kvfs_ioc_nodes(f) + f->n_nodes,
		       (done->n + 7) / 8);
	return (int)f->n_present;
}

int kvfs_done_holders(const struct kvfs_done *done, struct kvfs_holder *holders,
		      uint32_t room, struct kvfs_found *found)
{
	const struct kvfs_ioc_found *f = done->answer;

	if (done->result < 0)
		return done->result;
	*found = found_of(f);
	return (int)gds_holders_take(f, holders, room);
}

/* A block that would have been too much is asked for once more by kvfs_get,
 * which knows what to do about it. */
static int get_refused(struct kvfs_ring *r, const struct gds_asked *asked,
		       const struct kvfs_names *name, struct kvfs_block *b)
{
	int n;

	if (b->error != -EDQUOT)
		return 0;
	n = kvfs_get(r->k, name, asked->flags, asked->deadline_ms, b);
	if (n < 0)
		b->error = n;
	return n > 0;
}

/* Those among the blocks of an answer. Returns: how many are there now. */
static int get_all_refused(struct kvfs_ring *r, const struct kvfs_done *done,
			   struct kvfs_block *blocks)
{
	const struct kvfs_ioc_locate *q =
		(const void *)(r->names + (size_t)done->entry * r->entry_bytes);
	const char *at = (const char *)(q + 1);
	uint32_t digest = q->names.digest_bytes;
	char suffix[UINT8_MAX + 1] = "";
	int n = 0;

	if (digest) {
		memcpy(suffix, at, q->names.suffix_bytes);
		at += q->names.suffix_bytes;
	}
	for (uint32_t i = 0; i < done->n; i++) {
		struct kvfs_names name = {.n = 1,
					  .paths = digest ? NULL : &at,
					  .digests = at,
					  .digest_bytes = digest,
					  .suffix = suffix};

		n += get_refused(r, gds_ring_asked(r, done), &name, &blocks[i]);
		at += digest ? digest : strlen(at) + 1;
	}
	return n;
}

int kvfs_done_blocks(struct kvfs_ring *r, const struct kvfs_done *done,
		     struct kvfs_block *blocks)
{
	const struct kvfs_ioc_located *located = done->answer;
	uint32_t flags = gds_ring_asked(r, done)->flags;
	bool refused = false;
	int n = 0;

	if (done->result < 0)
		return done->result;
	for (uint32_t i = 0; i < done->n; i++) {
		n += gds_block_take(r->k, &kvfs_ioc_blocks(located)[i], flags,
				    &blocks[i]);
		refused |= blocks[i].error == -EDQUOT;
	}
	return refused ? n + get_all_refused(r, done, blocks) : n;
}

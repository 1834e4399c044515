// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "gds/internal.h"

/* Names of one LOCATE, pins of one UNPIN: what fits into an answer, a request.
 */
#define LOCATE_MAX                                               \
	((KVFS_IOC_ROOM_MAX - sizeof(struct kvfs_ioc_located)) / \
	 sizeof(struct kvfs_ioc_block))
#define UNPIN_MAX                                             \
	((KVFS_IOC_ROOM_MAX - sizeof(struct kvfs_ioc_pins)) / \
	 sizeof(struct kvfs_ioc_pin))

union request {
	struct kvfs_ioc_locate locate;
	struct kvfs_ioc_located located;
	struct kvfs_ioc_pins pins;
	char bytes[KVFS_IOC_ROOM_MAX];
};

/* How many of the names from first on were asked for, or -errno. */
static int locate(struct kvfs *k, const struct kvfs_names *names,
		  uint32_t first, uint32_t flags, uint32_t deadline_ms,
		  union request *r)
{
	size_t bytes, room;
	int n, err;

	r->locate = (struct kvfs_ioc_locate){
		.flags = flags & KVFS_FETCH ? KVFS_IOC_FETCH : 0,
		.deadline_ms = deadline_ms,
	};
	n = gds_names_pack(names, first, LOCATE_MAX, &r->locate.names,
			   &r->locate + 1, sizeof(*r) - sizeof(r->locate),
			   &bytes);
	if (n < 0)
		return n;
	bytes += sizeof(r->locate);
	r->locate.head = (struct kvfs_ioc_head){(uint32_t)bytes, KVFS_IOC_ABI};
	room = sizeof(r->located) + (size_t)n * sizeof(struct kvfs_ioc_block);
	if (room < bytes)
		room = bytes;
	err = gds_call(k, KVFS_IOC_LOCATE(room), r);
	return err ? err : n;
}

static int unpin(struct kvfs *k, union request *r, uint32_t n)
{
	size_t bytes = sizeof(r->pins) + n * sizeof(struct kvfs_ioc_pin);

	r->pins = (struct kvfs_ioc_pins){
		.head = {(uint32_t)bytes, KVFS_IOC_ABI},
		.n = n,
	};
	return gds_call(k, KVFS_IOC_UNPIN(bytes), r);
}

static int unpin_one(struct kvfs *k, uint32_t frame, uint32_t epoch)
{
	union request r;

	memcpy(&r.pins + 1, &(struct kvfs_ioc_pin){frame, epoch},
	       sizeof(struct kvfs_ioc_pin));
	return unpin(k, &r, 1);
}

int gds_block_take(struct kvfs *k, const struct kvfs_ioc_block *from,
		   uint32_t flags, struct kvfs_block *to)
{
	*to = (struct kvfs_block){
		.bytes = from->length,
		.checksum = {from->checksum[0], from->checksum[1]},
		.generation = from->generation,
		.has_checksum = from->flags & KVFS_IOC_HAS_CHECKSUM,
		.error = -(int)from->error,
		.frame = from->frame,
		.epoch = from->epoch,
	};
	if (from->error == EREMOTE && flags & KVFS_FETCH)
		to->error = -ETIMEDOUT;
	if (from->error)
		return 0;
	to->error = gds_map_get(k, from, &to->data);
	if (to->error)
		unpin_one(k, from->frame, from->epoch);
	return !to->error;
}

/* One request's. */
static int get_some(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t first, uint32_t flags, uint32_t deadline_ms,
		    struct kvfs_block *blocks, int *asked)
{
	union request r;
	int n_there = 0;

	*asked = locate(k, names, first, flags, deadline_ms, &r);
	for (int i = 0; i < *asked; i++)
		n_there += gds_block_take(k, &kvfs_ioc_blocks(&r.located)[i],
					  flags, &blocks[first + (uint32_t)i]);
	return *asked < 0 ? *asked : n_there;
}

static int has_error(const struct kvfs_block *blocks, uint32_t n, int error)
{
	for (uint32_t i = 0; i < n; i++)
		if (blocks[i].error == error)
			return 1;
	return 0;
}

/* Frames that we only kept mapped may be what is too much. */
static int get_again(struct kvfs *k, const struct kvfs_names *names,
		     uint32_t first, uint32_t flags, uint32_t deadline_ms,
		     struct kvfs_block *blocks, int *asked)
{
	uint32_t n_names = (uint32_t)*asked;
	useconds_t pause_us = 1000;
	int n;

	do {
		kvfs_put(k, blocks + first, n_names);
		usleep(pause_us);
		pause_us *= 2;
		n = get_some(k, names, first, flags, deadline_ms, blocks,
			     asked);
	} while (n >= 0 && pause_us <= GDS_LATE_US &&
		 has_error(blocks + first, n_names, -EDQUOT));
	return n;
}

int kvfs_get(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
	     uint32_t deadline_ms, struct kvfs_block *blocks)
{
	int n_there = 0, asked, n;

	for (uint32_t i = 0; i < names->n; i++)
		blocks[i] = (struct kvfs_block){.error = -ECANCELED};
	if (flags & ~KVFS_FETCH)
		return -EINVAL;
	for (uint32_t i = 0; i < names->n; i += (uint32_t)asked) {
		n = get_some(k, names, i, flags, deadline_ms, blocks, &asked);
		if (n >= 0 && has_error(blocks + i, (uint32_t)asked, -EDQUOT) &&
		    gds_maps_drop_idle(k))
			n = get_again(k, names, i, flags, deadline_ms, blocks,
				      &asked);
		if (n < 0)
			return n;
		n_there += n;
	}
	return n_there;
}

int kvfs_put(struct kvfs *k, struct kvfs_block *blocks, uint32_t n)
{
	union request r;
	struct kvfs_ioc_pin *pins = (struct kvfs_ioc_pin *)(&r.pins + 1);
	uint32_t n_pins = 0;
	int err = 0, e;

	for (uint32_t i = 0; i < n; i++) {
		struct kvfs_block *b = &blocks[i];

		if (!b->error) {
			gds_map_put(k, b->frame, b->epoch);
			pins[n_pins++] =
				(struct kvfs_ioc_pin){b->frame, b->epoch};
		}
		*b = (struct kvfs_block){.error = -ECANCELED};
		if (n_pins && (n_pins == UNPIN_MAX || i == n - 1)) {
			e = unpin(k, &r, n_pins);
			err = err ? err : e;
			n_pins = 0;
		}
	}
	return err;
}

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

/* Pins that a LOCATE gives back, with room enough for the longest name. */
#define EXCHANGE_MAX 1000

union request {
	struct kvfs_ioc_locate locate;
	struct kvfs_ioc_located located;
	struct kvfs_ioc_pins pins;
	char bytes[KVFS_IOC_ROOM_MAX];
};

static int unpin(struct kvfs *k, union request *r, uint32_t n)
{
	size_t bytes = sizeof(r->pins) + n * sizeof(struct kvfs_ioc_pin);

	r->pins = (struct kvfs_ioc_pins){
		.head = {(uint32_t)bytes, KVFS_IOC_ABI},
		.n = n,
	};
	return gds_call(k, KVFS_IOC_UNPIN(bytes), r);
}

/* Returns: how many pins there were in them. */
static uint32_t let_go(struct kvfs *k, struct kvfs_block *blocks, uint32_t n,
		       struct kvfs_ioc_pin *pins)
{
	uint32_t n_pins = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct kvfs_block *b = &blocks[i];

		if (!b->error) {
			gds_map_put(k, b->frame, b->epoch);
			pins[n_pins++] =
				(struct kvfs_ioc_pin){b->frame, b->epoch};
		}
		*b = (struct kvfs_block){.error = -ECANCELED};
	}
	return n_pins;
}

static int unpin_one(struct kvfs *k, uint32_t frame, uint32_t epoch)
{
	union request r;

	memcpy(&r.pins + 1, &(struct kvfs_ioc_pin){frame, epoch},
	       sizeof(struct kvfs_ioc_pin));
	return unpin(k, &r, 1);
}

static struct kvfs_ioc_pin *pins_before(union request *r)
{
	return (struct kvfs_ioc_pin *)(&r->locate + 1);
}

/* How many of the names from first on were asked for, or -errno. The n_unpin
 * pins before them are given back, whatever comes of it. */
static int locate(struct kvfs *k, const struct kvfs_names *names,
		  uint32_t first, uint32_t flags, uint32_t deadline_ms,
		  union request *r, uint32_t n_unpin)
{
	size_t pins = n_unpin * sizeof(struct kvfs_ioc_pin);
	size_t bytes = sizeof(r->locate) + pins, packed, room;
	int n, err;

	r->locate = (struct kvfs_ioc_locate){
		.flags = flags & KVFS_FETCH ? KVFS_IOC_FETCH : 0,
		.deadline_ms = deadline_ms,
		.n_unpin = n_unpin,
	};
	n = gds_names_pack(names, first, LOCATE_MAX, &r->locate.names,
			   r->bytes + bytes, sizeof(r->bytes) - bytes, &packed);
	if (n < 0) {
		memmove(&r->pins + 1, pins_before(r), pins);
		if (n_unpin)
			unpin(k, r, n_unpin);
		return n;
	}
	bytes += packed;
	r->locate.head = (struct kvfs_ioc_head){(uint32_t)bytes, KVFS_IOC_ABI};
	room = sizeof(r->located) + (size_t)n * sizeof(struct kvfs_ioc_block);
	if (room < bytes)
		room = bytes;
	err = gds_call(k, KVFS_IOC_LOCATE(room), r);
	return err ? err : n;
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

/* One request's, which gives n_unpin pins back. */
static int get_some(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t first, uint32_t flags, uint32_t deadline_ms,
		    struct kvfs_block *blocks, union request *r,
		    uint32_t n_unpin, int *asked)
{
	int n_there = 0;

	*asked = locate(k, names, first, flags, deadline_ms, r, n_unpin);
	for (int i = 0; i < *asked; i++)
		n_there += gds_block_take(k, &kvfs_ioc_blocks(&r->located)[i],
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
		     struct kvfs_block *blocks, union request *r, int *asked)
{
	uint32_t n_names = (uint32_t)*asked;
	useconds_t pause_us = 1000;
	int n;

	do {
		kvfs_put(k, blocks + first, n_names);
		usleep(pause_us);
		pause_us *= 2;
		n = get_some(k, names, first, flags, deadline_ms, blocks, r, 0,
			     asked);
	} while (n >= 0 && pause_us <= GDS_LATE_US &&
		 has_error(blocks + first, n_names, -EDQUOT));
	return n;
}

static int get_all(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t flags, uint32_t deadline_ms,
		   struct kvfs_block *blocks, union request *r,
		   uint32_t n_unpin)
{
	int n_there = 0, asked, n;

	for (uint32_t i = 0; i < names->n; i += (uint32_t)asked) {
		n = get_some(k, names, i, flags, deadline_ms, blocks, r,
			     i ? 0 : n_unpin, &asked);
		if (n >= 0 && has_error(blocks + i, (uint32_t)asked, -EDQUOT) &&
		    gds_maps_drop_idle(k))
			n = get_again(k, names, i, flags, deadline_ms, blocks,
				      r, &asked);
		if (n < 0)
			return n;
		n_there += n;
	}
	return n_there;
}

int kvfs_put(struct kvfs *k, struct kvfs_block *blocks, uint32_t n)
{
	union request r;
	int err = 0;

	for (uint32_t i = 0, some; i < n; i += some) {
		uint32_t n_pins;
		int e;

		some = n - i < UNPIN_MAX ? n - i : UNPIN_MAX;
		n_pins = let_go(k, blocks + i, some, (void *)(&r.pins + 1));
		e = n_pins ? unpin(k, &r, n_pins) : 0;
		err = err ? err : e;
	}
	return err;
}

int kvfs_exchange(struct kvfs *k, struct kvfs_block *old, uint32_t n_old,
		  const struct kvfs_names *names, uint32_t flags,
		  uint32_t deadline_ms, struct kvfs_block *blocks)
{
	bool good = !(flags & ~KVFS_FETCH);
	uint32_t n_unpin = 0;
	union request r;
	int err = 0;

	if (!good || !names->n || n_old > EXCHANGE_MAX)
		err = kvfs_put(k, old, n_old);
	else
		n_unpin = let_go(k, old, n_old, pins_before(&r));
	for (uint32_t i = 0; i < names->n; i++)
		blocks[i] = (struct kvfs_block){.error = -ECANCELED};
	if (!good || err)
		return good ? err : -EINVAL;
	return get_all(k, names, flags, deadline_ms, blocks, &r, n_unpin);
}

int kvfs_get(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
	     uint32_t deadline_ms, struct kvfs_block *blocks)
{
	return kvfs_exchange(k, NULL, 0, names, flags, deadline_ms, blocks);
}

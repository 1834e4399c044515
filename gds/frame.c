// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gds/internal.h"

/*
 * RESERVE, COMMIT, ABORT, request by request. A frame that nobody maps any
 * more becomes the block as it is; of one that stays mapped (KVFS_KEEP) the
 * block is a copy.
 */

union request {
	struct kvfs_ioc_reserve reserve;
	struct kvfs_ioc_pins pins;
	struct kvfs_ioc_commit commit;
	struct kvfs_ioc_committed committed;
	char bytes[KVFS_IOC_ROOM_MAX];
};

#define PINS_MAX                                              \
	((KVFS_IOC_ROOM_MAX - sizeof(struct kvfs_ioc_pins)) / \
	 sizeof(struct kvfs_ioc_pin))

/* -- ABORT ---------------------------------------------------------------- */

static void unmap(struct kvfs_frame *f)
{
	if (f->data)
		munmap(f->data, f->bytes);
	f->data = NULL;
}

uint32_t gds_frames_unmap(struct kvfs_frame *frames, uint32_t n,
			  struct kvfs_ioc_pin *pins)
{
	uint32_t n_pins = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct kvfs_frame *f = &frames[i];

		unmap(f);
		if (f->epoch)
			pins[n_pins++] =
				(struct kvfs_ioc_pin){f->frame, f->epoch};
		f->epoch = 0;
	}
	return n_pins;
}

/* n are at most PINS_MAX. */
static int abort_some(struct kvfs *k, struct kvfs_frame *frames, uint32_t n)
{
	union request r;
	size_t bytes;

	n = gds_frames_unmap(frames, n, (struct kvfs_ioc_pin *)(&r.pins + 1));
	bytes = sizeof(r.pins) + n * sizeof(struct kvfs_ioc_pin);
	r.pins = (struct kvfs_ioc_pins){
		.head = {(uint32_t)bytes, KVFS_IOC_ABI},
		.n = n,
	};
	return n ? gds_call(k, KVFS_IOC_ABORT(bytes), &r) : 0;
}

int kvfs_abort(struct kvfs *k, struct kvfs_frame *frames, uint32_t n)
{
	int err = 0, e;

	for (uint32_t i = 0, some; i < n; i += some) {
		some = n - i < PINS_MAX ? n - i : (uint32_t)PINS_MAX;
		e = abort_some(k, frames + i, some);
		err = err ? err : e;
	}
	return err;
}

/* -- RESERVE -------------------------------------------------------------- */

static int reserve(struct kvfs *k, uint32_t n, uint64_t bytes, union request *r)
{
	size_t room = sizeof(r->pins) + n * sizeof(struct kvfs_ioc_pin);

	r->reserve = (struct kvfs_ioc_reserve){
		.head = {sizeof(r->reserve), KVFS_IOC_ABI},
		.n = n,
		.length = bytes,
	};
	if (room < sizeof(r->reserve))
		room = sizeof(r->reserve);
	return gds_call(k, KVFS_IOC_RESERVE(room), r);
}

void gds_frames_begin(struct kvfs_frame *frames, uint32_t n, uint64_t bytes)
{
	for (uint32_t i = 0; i < n; i++)
		frames[i] =
			(struct kvfs_frame){.bytes = bytes, .length = bytes};
}

int gds_frames_take(struct kvfs *k, const struct kvfs_ioc_pin *pins, uint32_t n,
		    struct kvfs_frame *frames)
{
	int err = 0;

	for (uint32_t i = 0; i < n; i++) {
		frames[i].frame = pins[i].frame;
		frames[i].epoch = pins[i].epoch;
	}
	for (uint32_t i = 0; i < n && !err; i++)
		err = gds_map_new(k, frames[i].frame, frames[i].bytes,
				  &frames[i].data, &frames[i].is_copy);
	return err;
}

/* n are at most PINS_MAX. */
static int reserve_some(struct kvfs *k, uint32_t n, uint64_t bytes,
			struct kvfs_frame *frames)
{
	union request r;
	int err = reserve(k, n, bytes, &r);

	/* Frames that we only kept mapped may be what is too much. */
	if (err == -EDQUOT && gds_maps_drop_idle(k))
		for (useconds_t us = 1000; err == -EDQUOT && us <= GDS_LATE_US;
		     us *= 2) {
			usleep(us);
			err = reserve(k, n, bytes, &r);
		}
	if (err)
		return err;
	return gds_frames_take(k, (const struct kvfs_ioc_pin *)(&r.pins + 1), n,
			       frames);
}

int kvfs_reserve(struct kvfs *k, uint32_t n, uint64_t bytes,
		 struct kvfs_frame *frames)
{
	int err = 0;

	gds_frames_begin(frames, n, bytes);
	for (uint32_t i = 0, some; i < n && !err; i += some) {
		some = n - i < PINS_MAX ? n - i : (uint32_t)PINS_MAX;
		err = reserve_some(k, some, bytes, frames + i);
	}
	if (err)
		kvfs_abort(k, frames, n);
	return err;
}

/* -- COMMIT --------------------------------------------------------------- */

static int settle(struct kvfs *k, struct kvfs_frame *f, uint32_t flags)
{
	int err = 0;

	if (f->is_copy)
		err = gds_map_write(k, f->frame, f->data, f->length);
	else if (flags & KVFS_KEEP)
		err = msync(f->data, f->length, MS_SYNC) ? -errno : 0;
	if (!(flags & KVFS_KEEP))
		unmap(f);
	return err;
}

int gds_frames_settle(struct kvfs *k, struct kvfs_frame *frames, uint32_t n,
		      uint32_t flags)
{
	int err = 0;

	for (uint32_t i = 0; !err && i < n; i++)
		err = settle(k, &frames[i], flags);
	return err;
}

char *gds_frames_put(char *to, const struct kvfs_frame *frames, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct kvfs_ioc_store store = {
			.pin = {frames[i].frame, frames[i].epoch},
			.length = frames[i].length,
		};

		to = mempcpy(to, &store, sizeof(store));
	}
	return to;
}

static size_t append(union request *r, const struct gds_packed *p,
		     const struct kvfs_frame *frames)
{
	char *at = gds_frames_put(r->bytes + sizeof(r->commit), frames, p->n);
	size_t bytes;

	at = mempcpy(at, p->names, p->bytes);
	bytes = (size_t)(at - r->bytes);
	r->commit.head = (struct kvfs_ioc_head){(uint32_t)bytes, KVFS_IOC_ABI};
	return bytes;
}

void gds_frame_stored(struct kvfs_frame *f, const struct kvfs_ioc_stored *out)
{
	f->error = -(int)out->error;
	f->flags = (out->flags & KVFS_IOC_WAS_THERE ? KVFS_WAS_THERE : 0) |
		   (out->flags & KVFS_IOC_UNSYNCED ? KVFS_UNSYNCED : 0);
	if (!out->error && !(out->flags & KVFS_IOC_KEPT))
		f->epoch = 0; /* it is the block now */
}

uint32_t gds_commit_flags(uint32_t flags)
{
	return (flags & KVFS_SYNC ? KVFS_IOC_SYNC : 0) |
	       (flags & KVFS_KEEP ? 0 : KVFS_IOC_LET_GO);
}

/* From name `first` on, which belongs to the first of the frames. Each request
 * but the first continues the last name of the one before. Returns: how many,
 * or -errno. */
static int commit_some(struct kvfs *k, const struct kvfs_names *names,
		       uint32_t first, uint32_t flags, uint32_t mode,
		       struct kvfs_frame *frames)
{
	uint32_t parent = first > 0;
	const struct kvfs_ioc_stored *out;
	struct gds_packed p;
	union request r;
	size_t bytes, room;
	int err = gds_names_fit(names, first - parent, parent, names->n - first,
				sizeof(struct kvfs_ioc_store), &p);

	if (!err)
		err = gds_frames_settle(k, frames, p.n, flags);
	if (err)
		return err;
	r.commit = (struct kvfs_ioc_commit){
		.flags = gds_commit_flags(flags) |
			 (parent ? KVFS_IOC_PARENT : 0),
		.n = p.n,
		.mode = mode,
		.names = p.head,
	};
	bytes = append(&r, &p, frames);
	room = sizeof(r.committed) + p.n * sizeof(*out);
	err = gds_call(k, KVFS_IOC_COMMIT(bytes > room ? bytes : room), &r);
	if (err)
		return err;
	out = (const struct kvfs_ioc_stored *)(&r.committed + 1);
	for (uint32_t i = 0; i < p.n; i++)
		gds_frame_stored(&frames[i], &out[i]);
	return (int)p.n;
}

int gds_frames_check(struct kvfs_frame *frames, uint32_t n)
{
	int err = 0;

	for (uint32_t i = 0; i < n; i++) {
		frames[i].error = -ECANCELED;
		frames[i].flags = 0;
		if (!frames[i].data || frames[i].length > frames[i].bytes)
			err = -EINVAL;
	}
	return err;
}

/* Returns: how many are there now, or -errno. */
static int commit_all(struct kvfs *k, const struct kvfs_names *names,
		      uint32_t parent, uint32_t flags, uint32_t mode,
		      struct kvfs_frame *frames)
{
	int n_there = 0, n;

	for (uint32_t i = parent; i < names->n; i += (uint32_t)n) {
		struct kvfs_frame *f = frames + (i - parent);

		n = commit_some(k, names, i, flags, mode, f);
		if (n < 0)
			return n;
		for (int at = 0; at < n; at++)
			n_there += !f[at].error;
	}
	return n_there;
}

int kvfs_commit(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
		uint32_t mode, struct kvfs_frame *frames)
{
	uint32_t parent = flags & KVFS_PARENT ? 1 : 0;
	int err, n;

	if (parent > names->n || flags & ~GDS_COMMIT_FLAGS)
		return -EINVAL;
	err = gds_frames_check(frames, names->n - parent);
	n = err ? err : commit_all(k, names, parent, flags, mode, frames);
	if (!(flags & KVFS_KEEP))
		err = kvfs_abort(k, frames, names->n - parent);
	return n < 0 || !err ? n : err;
}

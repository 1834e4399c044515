// SPDX-License-Identifier: MIT
/*
 * The index: one mapped file beside the frames.
 *
 *   | header, 4 KiB | record 0, 1 KiB | record 1 | …
 *
 * Its length says how many records it may have; memory is given to them in
 * steps before they are first touched, so that a full tmpfs never turns a
 * store into SIGBUS. Whatever is read back at start may be damaged: a record
 * counts only if its seal does, which is made with the pool's own uuid and
 * the frame's number, so no record of another pool or place passes.
 */
#include "engine/pool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"

#define INDEX_MAGIC 0x6c6f6f7073667666ull /* "fvfspool" */
#define INDEX_VERSION 1
#define INDEX_STEP 2048u /* records that get memory together: 2 MiB */

static uint64_t header_seal(const struct pool_header *h)
{
	return XXH3_64bits(h, offsetof(struct pool_header, seal));
}

static size_t index_bytes(uint32_t records)
{
	return INDEX_HEADER_BYTES + (size_t)records * INDEX_RECORD_BYTES;
}

uint64_t index_seal(const struct pool *p, uint32_t f,
		    const struct pool_record *r, const char *path,
		    uint16_t path_len)
{
	struct {
		uint64_t size_bytes;
		uint32_t frame, epoch, path_len, zero;
	} fixed = {r->size_bytes, f, r->epoch, path_len, 0};
	uint64_t seed =
		XXH3_64bits_withSeed(&fixed, sizeof(fixed), p->seal_seed);

	return XXH3_64bits_withSeed(path, path_len, seed);
}

static bool header_good(const struct pool_header *h)
{
	return h->magic == INDEX_MAGIC && h->version == INDEX_VERSION &&
	       h->record_bytes == INDEX_RECORD_BYTES &&
	       h->seal == header_seal(h);
}

static int header_make(struct pool *p)
{
	struct pool_header *h = p->header;

	memset(h, 0, sizeof(*h));
	h->version = INDEX_VERSION;
	h->record_bytes = INDEX_RECORD_BYTES;
	if (getrandom(h->uuid, sizeof(h->uuid), 0) != sizeof(h->uuid))
		return -EIO;
	h->magic = INDEX_MAGIC;
	__atomic_store_n(&h->seal, header_seal(h), __ATOMIC_RELEASE);
	return 0;
}

static int index_map(struct pool *p)
{
	char *base = mmap(NULL, index_bytes(p->max_frames),
			  PROT_READ | PROT_WRITE, MAP_SHARED, p->index_fd, 0);

	if (base == MAP_FAILED)
		return -errno;
	p->header = (struct pool_header *)base;
	p->slots = (union pool_slot *)(base + INDEX_HEADER_BYTES);
	return 0;
}

static int index_grow(struct pool *p, off_t from_bytes, off_t to_bytes)
{
	struct stat st;

	if (fallocate(p->index_fd, 0, from_bytes, to_bytes - from_bytes) ||
	    fstat(p->index_fd, &st))
		return -errno;
	p->index_pages = st.st_blocks / 8;
	return 0;
}

int index_reach(struct pool *p, uint32_t f)
{
	uint32_t to = p->n_indexed + INDEX_STEP;
	int err;

	if (f < p->n_indexed)
		return 0;
	if (to > p->max_frames)
		to = p->max_frames;
	err = index_grow(p, index_bytes(p->n_indexed), index_bytes(to));
	if (!err)
		p->n_indexed = to;
	return err;
}

static int index_lock(struct pool *p)
{
	p->index_fd = openat(p->dir_fd, "index",
			     O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (p->index_fd < 0) {
		int err = -errno;

		log_error("pool: %s/index: %s", p->dir, strerror(-err));
		return err;
	}
	if (flock(p->index_fd, LOCK_EX | LOCK_NB)) {
		log_error("pool: %s: another daemon uses it", p->dir);
		return -EBUSY;
	}
	return 0;
}

/* Length and memory: as long as any pool that ever lay here. */
static int index_size(struct pool *p, uint64_t old_bytes)
{
	uint64_t old =
		old_bytes > INDEX_HEADER_BYTES
			? (old_bytes - INDEX_HEADER_BYTES) / INDEX_RECORD_BYTES
			: 0;

	if (old > p->max_frames && old <= 1u << 24)
		p->max_frames = old;
	if (ftruncate(p->index_fd, index_bytes(p->max_frames)))
		return -errno;
	return index_grow(p, 0, INDEX_HEADER_BYTES);
}

int index_open(struct pool *p)
{
	struct stat st;
	int err = index_lock(p);

	if (err)
		return err;
	if (fstat(p->index_fd, &st))
		return -errno;
	err = index_size(p, st.st_size);
	if (!err)
		err = index_map(p);
	if (err) {
		log_error("pool: %s/index: %s", p->dir, strerror(-err));
		return err;
	}
	if (!header_good(p->header)) {
		if (st.st_size)
			log_warn("pool: %s: its index is damaged or of another "
				 "version: starting empty",
				 p->dir);
		err = mount_empty(p);
		if (!err && st.st_size && ftruncate(p->index_fd, 0))
			err = -errno;
		if (!err)
			err = index_size(p, 0);
		if (!err)
			err = header_make(p);
	}
	p->seal_seed = p->header->uuid[0] ^ p->header->uuid[1];
	return err;
}

void index_close(struct pool *p)
{
	if (p->header)
		munmap(p->header, index_bytes(p->max_frames));
	if (p->index_fd >= 0)
		close(p->index_fd);
	p->header = NULL;
	p->index_fd = -1;
}

/* A name that a directory tree can hold: no empty, "." or ".." part. */
static bool path_good(const char *path, uint32_t len)
{
	uint32_t part = 0;

	if (!len || len > POOL_PATH_MAX || memchr(path, 0, len))
		return false;
	for (uint32_t i = 0; i <= len; i++) {
		uint32_t n = i - part;

		if (i < len && path[i] != '/')
			continue;
		if (!n || (path[part] == '.' &&
			   (n == 1 || (n == 2 && path[part + 1] == '.'))))
			return false;
		part = i + 1;
	}
	return true;
}

static bool record_good(const struct pool *p, uint32_t f, const struct stat *st)
{
	const struct pool_record *r = &p->slots[f].record;

	return r->state == RECORD_COMMITTED && S_ISREG(st->st_mode) &&
	       path_good(r->path, r->path_len) &&
	       r->seal == index_seal(p, f, r, r->path, r->path_len) &&
	       r->size_bytes == (uint64_t)st->st_size;
}

static void adopt_frame(struct pool *p, uint32_t f)
{
	struct pool_record *r = &p->slots[f].record;
	uint64_t pages;
	char name[FRAME_NAME_BYTES];
	struct stat st;

	frame_name(f, name);
	if (fstatat(p->frames_fd, name, &st, AT_SYMLINK_NOFOLLOW)) {
		p->adopt_dropped += r->state == RECORD_COMMITTED;
		record_set_state(r, RECORD_FREE);
		books_move(p, f, FRAME_FREE, 0);
		frame_list_push(p, &p->free, f);
		return;
	}
	pages = (uint64_t)st.st_blocks / 8;
	p->frames[f].cls = pool_class_of(pages);
	if (record_good(p, f, &st)) {
		r->alloc_bytes = pages * POOL_PAGE;
		r->path[r->path_len] = 0; /* the seal does not cover it */
		books_move(p, f, FRAME_COMMITTED, pages);
		p->adopted++;
		return;
	}
	/* Somebody may still hold it through a dead mount: DIRTY frames are
	 * probed before anything else is done with them. */
	if (r->state != RECORD_FREE && r->state != RECORD_WRITING)
		p->adopt_dropped++;
	record_set_state(r, RECORD_FREE);
	books_move(p, f, FRAME_DIRTY, pages);
	frame_list_push(p, &p->dirty, f);
}

static void rename_redo(struct pool *p)
{
	struct pool_header *h = p->header;
	uint32_t f = h->rename_frame;
	struct pool_record *r;

	if (!h->rename_pending || f >= p->n_slots)
		return;
	r = &p->slots[f].record;
	if (r->state == RECORD_COMMITTED && r->epoch == h->rename_epoch &&
	    path_good(h->rename_path, h->rename_len) &&
	    h->rename_seal ==
		    index_seal(p, f, r, h->rename_path, h->rename_len)) {
		memcpy(r->path, h->rename_path, h->rename_len);
		r->path[h->rename_len] = 0;
		r->path_len = h->rename_len;
		r->seal = h->rename_seal;
	}
	h->rename_pending = 0;
}

/* How many records have memory: no other was ever written. */
static uint64_t index_had(const struct pool *p)
{
	return (p->index_pages * POOL_PAGE - INDEX_HEADER_BYTES) /
	       INDEX_RECORD_BYTES;
}

void index_adopt(struct pool *p)
{
	uint64_t had = index_had(p);
	uint32_t n = p->header->n_slots; /* no seal covers it */

	if (n > had)
		n = had;
	if (n > p->max_frames)
		n = p->max_frames;
	while (p->n_indexed < n && !index_reach(p, p->n_indexed))
		;
	p->n_slots = n < p->n_indexed ? n : p->n_indexed;
	p->header->n_slots = p->n_slots;
	p->n[FRAME_NONE] = p->n_slots;
	rename_redo(p);
	for (uint32_t f = 0; f < p->n_slots; f++)
		adopt_frame(p, f);
}

void index_rename(struct pool *p, uint32_t f, const char *path,
		  uint16_t path_len)
{
	struct pool_record *r = &p->slots[f].record;
	struct pool_header *h = p->header;

	h->rename_frame = f;
	h->rename_epoch = r->epoch;
	h->rename_len = path_len;
	memcpy(h->rename_path, path, path_len);
	h->rename_seal = index_seal(p, f, r, path, path_len);
	__atomic_store_n(&h->rename_pending, 1, __ATOMIC_RELEASE);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);

	memcpy(r->path, path, path_len);
	r->path[path_len] = 0;
	r->path_len = path_len;
	r->seal = h->rename_seal;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&h->rename_pending, 0, __ATOMIC_RELEASE);
}

// SPDX-License-Identifier: MIT
/* What the pool offers to those who own frames. */
#include "engine/pool.h"
#include "engine/pool_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

static unsigned take_class(const struct pool *p, uint64_t expect_bytes)
{
	uint64_t pages = pool_pages(expect_bytes);
	unsigned cls;

	if (!pages)
		return p->guess_cls;
	pages += p->step_pages - 1;
	cls = pool_class_of(pages - pages % p->step_pages);
	/* What fits must not fail for having been rounded up. */
	while (cls && pool_class_pages(cls) > p->cap_pages)
		cls--;
	return cls;
}

/* The new owner's record: nothing of the last one but the count of owners. */
static void take_hand_out(struct pool *p, uint32_t f)
{
	struct pool_record *r = &p->slots[f].record;
	uint32_t epoch = r->epoch + 1;

	memset(r, 0, offsetof(struct pool_record, path) + 1);
	r->epoch = epoch;
	r->parent_frame = POOL_NO_FRAME;
	record_set_state(r, RECORD_WRITING);
	books_move(p, f, FRAME_WRITING, p->frames[f].pages);
}

/* Past the capacity, and the keeper found nothing to evict. */
static bool take_is_over(const struct pool *p, unsigned cls)
{
	return p->stuck && books_used(p) + pool_class_pages(cls) > p->cap_pages;
}

static int take_prepare(struct pool *p, unsigned cls, uint32_t *frame)
{
	uint32_t f;
	int err;

	if (books_room(p) < pool_class_pages(cls))
		return -ENOSPC;
	f = slot_get(p, cls);
	if (f == POOL_NO_FRAME)
		return -ENOSPC;
	err = frame_prepare(p, f, cls, false);
	if (!err)
		*frame = f;
	else if (err == -ENOSPC)
		books_measure(p); /* it is fuller than the books say */
	return err;
}

/* Somebody else is at work on frames: his result may be what we need. */
static bool take_wait(struct pool *p)
{
	if (!p->busy)
		return false;
	p->waiters++;
	pthread_cond_wait(&p->changed, &p->lock);
	p->waiters--;
	return true;
}

static bool take_give_up_any(struct pool *p, unsigned but)
{
	for (unsigned c = POOL_CLASSES; c-- > 0;)
		if (c != but && p->n_ready[c])
			return frame_give_up(p, c);
	return false;
}

/* Nothing READY fits: find room, the cheapest way first. */
static int take_cold(struct pool *p, unsigned cls, uint32_t *frame)
{
	uint32_t pages = pool_class_pages(cls);
	bool probed = false;
	int err = -ENOSPC;

	p->n_cold++;
	for (;;) {
		if (!take_is_over(p, cls)) {
			*frame = ready_pop(p, cls);
			if (*frame != POOL_NO_FRAME)
				return 0;
			err = take_prepare(p, cls, frame);
			if (err != -ENOSPC)
				return err;
			if (take_give_up_any(p, cls) || frame_recycle_next(p))
				continue;
		}
		if (keeper_reclaim(p, pages) || take_wait(p))
			continue;
		if (probed)
			return -ENOSPC;
		probed = true;
		frame_aside_pass(p);
		p->stuck = false;
	}
}

static int take_locked(struct pool *p, uint64_t expect_bytes, uint32_t *frame)
{
	unsigned cls = take_class(p, expect_bytes);
	uint32_t f = POOL_NO_FRAME;
	int err = 0;

	if (pool_pages(expect_bytes) > p->cap_pages)
		return -ENOSPC;
	demand_note(p, cls);
	if (!take_is_over(p, cls))
		f = ready_pop(p, cls);
	if (f == POOL_NO_FRAME)
		err = take_cold(p, cls, &f);
	if (err)
		return err;
	take_hand_out(p, f);
	if (p->n_ready[cls] * 2 <= demand_want(p, cls) || keeper_is_late(p))
		keeper_wake(p);
	*frame = f;
	return 0;
}

int pool_take(struct pool *p, uint64_t expect_bytes, uint32_t *frame,
	      int *backing_id)
{
	uint32_t f;
	int err, id;

	if (fault_hit("pool.take"))
		return -ENOSPC;
	pthread_mutex_lock(&p->lock);
	err = take_locked(p, expect_bytes, &f);
	pthread_mutex_unlock(&p->lock);
	if (err)
		return err;
	id = frame_bind(p, f);
	if (id < 0) {
		pool_put(p, f);
		return id;
	}
	*frame = f;
	*backing_id = id;
	return 0;
}

int pool_backing(struct pool *p, uint32_t frame)
{
	return frame_bind(p, frame);
}

int pool_fd(struct pool *p, uint32_t frame, int oflags)
{
	return frame_open(p, frame, oflags);
}

struct pool_record *pool_record(struct pool *p, uint32_t frame)
{
	return &p->slots[frame].record;
}

int pool_probe(struct pool *p, uint32_t frame)
{
	cleanup_close int fd = frame_open(p, frame, O_RDWR);

	return fd < 0 ? fd : frame_probe_fd(fd);
}

static int commit_stat(struct pool *p, uint32_t frame, struct stat *st)
{
	char name[FRAME_NAME_BYTES];

	frame_name(frame, name);
	return fstatat(p->frames_fd, name, st, AT_SYMLINK_NOFOLLOW) ? -errno
								    : 0;
}

/* What is expected of takes that say nothing: what two blocks in a row had. */
static void commit_learn(struct pool *p, uint64_t size_bytes)
{
	unsigned cls = take_class(p, size_bytes ? size_bytes : 1);

	if (cls == p->last_cls)
		p->guess_cls = cls;
	p->last_cls = cls;
}

static void commit_fill(struct pool *p, uint32_t frame, const struct stat *st,
			const char *path, uint16_t path_len)
{
	struct pool_record *r = &p->slots[frame].record;

	r->size_bytes = st->st_size;
	r->alloc_bytes = st->st_blocks * 512ull;
	r->mtime_ns = clock_from_timespec(st->st_mtim);
	r->generation = 0;
	r->checksum[0] = r->checksum[1] = 0;
	r->flags &= POOL_HAS_XATTR;
	r->hits = 0;
	r->parent_frame = POOL_NO_FRAME;
	r->parent_epoch = 0;
	memcpy(r->path, path, path_len);
	r->path[path_len] = 0;
	r->path_len = path_len;
	r->seal = index_seal(p, frame, r, path, path_len);
	record_set_state(r, RECORD_COMMITTED);
}

int pool_commit(struct pool *p, uint32_t frame, const char *path,
		uint16_t path_len)
{
	struct frame *fr = &p->frames[frame];
	struct stat st;
	uint64_t pages;
	int err;

	assert(fr->state == FRAME_WRITING);
	if (path_len > POOL_PATH_MAX)
		return -ENAMETOOLONG;
	if (fault_hit("pool.commit"))
		return -EIO;
	err = commit_stat(p, frame, &st);
	if (err)
		return err;
	commit_fill(p, frame, &st, path, path_len);
	pages = (uint64_t)st.st_blocks / 8;
	pthread_mutex_lock(&p->lock);
	/* What the file grew by leaves the unseen part as it is booked. */
	if (pages > fr->pages) {
		uint64_t grown = pages - fr->pages;

		p->unseen_pages -=
			grown < p->unseen_pages ? grown : p->unseen_pages;
	}
	fr->cls = pool_class_of(pages);
	books_move(p, frame, FRAME_COMMITTED, pages);
	commit_learn(p, st.st_size);
	keeper_unstick(p);
	if (keeper_is_late(p))
		keeper_wake(p);
	pthread_mutex_unlock(&p->lock);
	return 0;
}

int pool_rename(struct pool *p, uint32_t frame, const char *path,
		uint16_t path_len)
{
	if (path_len > POOL_PATH_MAX)
		return -ENAMETOOLONG;
	scoped_lock(&p->lock);
	index_rename(p, frame, path, path_len);
	return 0;
}

/* Returns: pages that the frame is charged less. */
static uint64_t trim_book(struct pool *p, uint32_t frame, uint64_t pages)
{
	struct frame *fr = &p->frames[frame];
	uint64_t had = fr->pages;

	if (pages >= had)
		return 0;
	if (fr->state == FRAME_COMMITTED) {
		p->slots[frame].record.alloc_bytes = pages * POOL_PAGE;
		p->n_blocks[fr->cls]--;
		fr->cls = pool_class_of(pages);
		p->n_blocks[fr->cls]++;
	}
	books_move(p, frame, fr->state, pages);
	return had - pages;
}

uint64_t pool_trim(struct pool *p, uint32_t frame)
{
	const struct pool_record *r = &p->slots[frame].record;
	cleanup_close int fd = -1;
	uint64_t keep, alloc;
	struct stat st;

	if (r->state == RECORD_COMMITTED &&
	    r->alloc_bytes <= pool_pages(r->size_bytes) * POOL_PAGE)
		return 0;
	fd = frame_open(p, frame, O_RDWR);
	if (fd < 0 || fstat(fd, &st))
		return 0;
	keep = pool_pages((uint64_t)st.st_size) * POOL_PAGE;
	alloc = st.st_blocks * 512ull;
	/* A hole past the end: unlike truncation it cannot shorten a file. */
	if (alloc <= keep ||
	    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, keep,
		      alloc - keep) ||
	    fstat(fd, &st))
		return 0;
	scoped_lock(&p->lock);
	return trim_book(p, frame, st.st_blocks / 8) * POOL_PAGE;
}

uint64_t pool_cut(struct pool *p, uint32_t frame, uint64_t bytes)
{
	cleanup_close int fd = frame_open(p, frame, O_RDWR);
	struct stat st;
	uint64_t had;

	if (fd < 0 || fstat(fd, &st) || (uint64_t)st.st_size <= bytes)
		return 0;
	had = st.st_blocks * 512ull;
	/* It may be longer again by now. */
	if (ftruncate(fd, (off_t)bytes) || fstat(fd, &st) ||
	    st.st_blocks * 512ull > had)
		return 0;
	scoped_lock(&p->lock);
	trim_book(p, frame, st.st_blocks / 8);
	return had - st.st_blocks * 512ull;
}

void pool_put(struct pool *p, uint32_t frame)
{
	record_set_state(&p->slots[frame].record, RECORD_FREE);
	scoped_lock(&p->lock);
	assert(p->frames[frame].state == FRAME_WRITING ||
	       p->frames[frame].state == FRAME_COMMITTED);
	books_move(p, frame, FRAME_DIRTY, p->frames[frame].pages);
	frame_list_push(p, &p->dirty, frame);
	keeper_unstick(p);
	keeper_wake(p);
}

void pool_writers(struct pool *p, int delta)
{
	scoped_lock(&p->lock);
	p->writers += delta;
	if (!p->writers)
		p->ahead_pages = 0;
	/* It sleeps longer than the room may last. */
	if (delta > 0 && p->idle) {
		int64_t due = p->watch_ns;

		if (p->wake_ns > due)
			keeper_wake(p);
	}
}

int pool_make_room(struct pool *p, uint64_t bytes)
{
	uint64_t pages = pool_pages(bytes), all;

	scoped_lock(&p->lock);
	all = p->cap_pages + p->reserve_pages;
	if (pages > p->cap_pages)
		return -ENOSPC;
	for (;;) {
		uint64_t used;

		books_measure(p);
		used = books_used(p);
		if (used + pages > p->cap_pages) {
			if (!keeper_reclaim(p, used + pages - p->cap_pages))
				return -ENOSPC;
		} else if (books_held(p) + pages <= all) {
			return 0;
		}
		if (!frame_recycle_next(p) &&
		    !take_give_up_any(p, POOL_CLASSES))
			take_wait(p);
	}
}

uint64_t pool_used(struct pool *p)
{
	scoped_lock(&p->lock);
	books_measure(p);
	return books_used(p) * POOL_PAGE;
}

static void stats_fill(const struct pool *p, struct pool_stats *s)
{
	uint64_t held = books_held(p), all = p->cap_pages + p->reserve_pages;

	s->capacity_bytes = p->cap_pages * POOL_PAGE;
	s->committed_bytes = p->pages[FRAME_COMMITTED] * POOL_PAGE;
	s->writing_bytes =
		(p->pages[FRAME_WRITING] + p->unseen_pages) * POOL_PAGE;
	s->ready_bytes = p->pages[FRAME_READY] * POOL_PAGE;
	s->aside_bytes = (p->pages[FRAME_ASIDE] + p->retired_pages) * POOL_PAGE;
	s->free_bytes = held < all ? (all - held) * POOL_PAGE : 0;
	s->n_committed = p->n[FRAME_COMMITTED];
	s->n_writing = p->n[FRAME_WRITING];
	s->n_ready = p->n[FRAME_READY];
	s->n_aside = p->n[FRAME_ASIDE];
	s->n_free = p->n[FRAME_FREE];
	s->recycled = p->n_recycled;
	s->retired = p->n_retired_ever;
	s->probes_refused = p->n_refused;
	s->taken_cold = p->n_cold;
	s->huge = p->huge;
	s->own_mount = p->own_mount;
	s->adopted = p->adopted;
	s->adopt_dropped = p->adopt_dropped;
}

void pool_stats(struct pool *p, struct pool_stats *stats)
{
	scoped_lock(&p->lock);
	books_measure(p);
	stats_fill(p, stats);
}

void pool_classes(struct pool *p,
		  void (*fn)(void *ctx, uint64_t class_bytes, uint32_t n_ready,
			     uint32_t n_committed),
		  void *ctx)
{
	for (unsigned c = 0; c < POOL_CLASSES; c++) {
		uint32_t ready, blocks;

		pthread_mutex_lock(&p->lock);
		ready = p->n_ready[c];
		blocks = p->n_blocks[c];
		pthread_mutex_unlock(&p->lock);
		if (ready || blocks)
			fn(ctx, (uint64_t)pool_class_pages(c) * POOL_PAGE,
			   ready, blocks);
	}
}

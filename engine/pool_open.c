// SPDX-License-Identifier: MIT
/* From a configuration to a usable pool, and back. */
#include "engine/pool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/size.h"

#define RESERVE_LEAST (32u << 20)
#define FRAMES_MOST (4u << 20)
#define BYTES_PER_FRAME_LEAST 4096u

static void pool_init_locks(struct pool *p)
{
	pthread_mutex_init(&p->lock, NULL);
	cond_init(&p->wake);
	cond_init(&p->changed);
	cond_init(&p->stopped);
}

static void pool_init(struct pool *p, const struct pool_config *c)
{
	uint64_t reserve = c->bytes / 20, frames;

	if (reserve < RESERVE_LEAST)
		reserve = RESERVE_LEAST;
	frames = c->bytes / BYTES_PER_FRAME_LEAST;
	p->max_frames = frames > FRAMES_MOST ? FRAMES_MOST : frames;
	p->cap_pages = c->bytes / POOL_PAGE;
	p->reserve_pages = pool_pages(reserve);
	p->ops = c->ops;
	p->ctx = c->ctx;
	p->step_pages = 1;
	p->dir_fd = p->frames_fd = p->index_fd = -1;
	p->opened_ns = clock_now_ns();
	pool_init_locks(p);
	frame_list_init(&p->free);
	frame_list_init(&p->dirty);
	frame_list_init(&p->aside);
	for (unsigned i = 0; i < POOL_CLASSES; i++)
		frame_list_init(&p->ready[i]);
}

static size_t frames_bytes(const struct pool *p)
{
	return (size_t)p->max_frames * sizeof(struct frame);
}

static int pool_map_frames(struct pool *p)
{
	void *m = mmap(NULL, frames_bytes(p), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED)
		return -errno;
	p->frames = m;
	return 0;
}

static int pool_open_frames_dir(struct pool *p)
{
	if (mkdirat(p->dir_fd, "frames", 0700) && errno != EEXIST)
		return -errno;
	p->frames_fd = openat(p->dir_fd, "frames",
			      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return p->frames_fd < 0 ? -errno : 0;
}

static unsigned pool_class_for(const struct pool *p, uint64_t bytes)
{
	uint64_t pages = pool_pages(bytes);

	pages += p->step_pages - 1;
	return pool_class_of(pages - pages % p->step_pages);
}

static int pool_check_fits(const struct pool *p)
{
	const struct pool_header *h = p->header;
	char a[SIZE_FORMAT_BYTES], b[SIZE_FORMAT_BYTES];

	/* Under one and the same capacity blocks may be past it for a moment:
	 * they are evicted. */
	if (p->pages[FRAME_COMMITTED] <= p->cap_pages ||
	    h->capacity_bytes == p->cap_pages * POOL_PAGE ||
	    h->capacity_bytes != ~h->capacity_check)
		return 0;
	log_error("pool: %s: holds %s of blocks, more than the %s asked for: "
		  "use the old size or --discard",
		  p->dir,
		  size_format(p->pages[FRAME_COMMITTED] * POOL_PAGE, a,
			      sizeof(a)),
		  size_format(p->cap_pages * POOL_PAGE, b, sizeof(b)));
	return -EBUSY;
}

static int pool_open_parts(struct pool *p, const struct pool_config *c)
{
	int err = mount_open(p, c->discard);

	if (!err)
		err = index_open(p);
	if (!err)
		err = pool_open_frames_dir(p);
	if (!err)
		err = pool_map_frames(p);
	if (err)
		return err;
	index_adopt(p);
	err = pool_check_fits(p);
	if (!err)
		err = mount_fit(p);
	if (!err)
		err = mount_probe(p);
	if (err)
		return err;
	p->header->capacity_bytes = p->cap_pages * POOL_PAGE;
	p->header->capacity_check = ~p->header->capacity_bytes;
	return 0;
}

static void pool_free(struct pool *p, bool discard)
{
	for (unsigned i = 0; i < p->n_retired; i++)
		close(p->retired[i].fd);
	if (p->frames)
		munmap(p->frames, frames_bytes(p));
	index_close(p);
	if (p->frames_fd >= 0)
		close(p->frames_fd);
	mount_close(p, discard);
	pthread_cond_destroy(&p->stopped);
	pthread_cond_destroy(&p->changed);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	free(p->dir);
	free(p);
}

static int pool_check_config(const struct pool_config *c)
{
	if (c->bytes >= (4u << 20) && c->bytes >> 43 == 0 &&
	    c->frame_bytes <= c->bytes)
		return 0;
	log_error("pool: a pool has at least 4 MiB, at most 8 TiB, and room "
		  "for a frame");
	return -EINVAL;
}

/* "dir/" would be followed where it is a link. */
static void pool_strip_slashes(char *dir)
{
	size_t n = strlen(dir);

	while (n > 1 && dir[n - 1] == '/')
		dir[--n] = 0;
}

int pool_open(struct pool **pool, const struct pool_config *c)
{
	struct pool *p;
	uint64_t frame_bytes = c->frame_bytes ? c->frame_bytes : 4u << 20;
	int err = pool_check_config(c);

	if (err)
		return err;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	pool_init(p, c);
	p->dir = strdup(c->dir);
	if (p->dir)
		pool_strip_slashes(p->dir);
	err = p->dir ? pool_open_parts(p, c) : -ENOMEM;
	if (err) {
		/* A mount that this call made holds nothing. */
		pool_free(p, p->mounted_now);
		return err;
	}
	demand_init(p, pool_class_for(p, frame_bytes));
	p->fill_cls = pool_class_for(p, frame_bytes < FILL_LEAST ? FILL_LEAST
								 : frame_bytes);
	*pool = p;
	return 0;
}

void pool_each_committed(struct pool *p,
			 bool (*fn)(void *ctx, uint32_t frame,
				    struct pool_record *r),
			 void *ctx)
{
	for (uint32_t f = 0; f < p->n_slots; f++) {
		if (p->frames[f].state != FRAME_COMMITTED)
			continue;
		if (!fn(ctx, f, &p->slots[f].record)) {
			p->adopted--;
			p->adopt_dropped++;
			pool_put(p, f);
		}
	}
}

static int pool_start_thread(pthread_t *t, void *(*run)(void *), struct pool *p)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(t, NULL, run, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

int pool_start(struct pool *p)
{
	int err;

	pthread_mutex_lock(&p->lock);
	p->started = true;
	pthread_mutex_unlock(&p->lock);
	err = pool_start_thread(&p->keeper, keeper_run, p);
	if (!err) {
		p->keeper_runs = true;
		err = pool_start_thread(&p->filler, fill_run, p);
		p->filler_runs = !err;
	}
	if (err)
		log_error("pool: cannot start its threads: %s", strerror(-err));
	return err;
}

static void pool_stop(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->wake);
	pthread_cond_broadcast(&p->stopped);
	pthread_mutex_unlock(&p->lock);
	if (p->filler_runs)
		pthread_join(p->filler, NULL);
	if (p->keeper_runs)
		pthread_join(p->keeper, NULL);
}

/* What nobody owns goes back to the system: only blocks stay. */
static void pool_release(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	for (unsigned c = 0; c < POOL_CLASSES; c++)
		while (frame_give_up(p, c))
			;
	while (frame_recycle_next(p))
		;
	pthread_mutex_unlock(&p->lock);
}

void pool_close(struct pool *p, bool discard)
{
	if (!p)
		return;
	discard = discard || (p->mounted_now && !p->started);
	pool_stop(p);
	if (!discard)
		pool_release(p);
	for (uint32_t f = 0; f < p->n_slots; f++)
		frame_unbind(p, f);
	pool_free(p, discard);
}

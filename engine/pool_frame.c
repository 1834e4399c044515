// SPDX-License-Identifier: MIT
/*
 * The file of a frame: prepare, probe, recycle, set aside, retire.
 *
 * No frame keeps a descriptor: 20,000 may be all a process gets, and opening
 * by name takes 1.5 µs. A frame is recycled only when the kernel grants a
 * write lease on its file (nobody has it open or mapped) and only by
 * truncation: a page on its way through a pipe or a socket outlives the
 * lease, and shows the bytes that it had only if nobody writes into it again.
 */
#include "engine/pool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#define HUGE_BYTES (2u << 20)
/* A frame aside for longer gives up its slot. */
#define RETIRE_AFTER_MS 60000u

void frame_name(uint32_t f, char name[FRAME_NAME_BYTES])
{
	for (int i = 7; i >= 0; i--) {
		name[i] = '0' + f % 10;
		f /= 10;
	}
	name[8] = 0;
}

int frame_open(struct pool *p, uint32_t f, int oflags)
{
	char name[FRAME_NAME_BYTES];
	int fd;

	frame_name(f, name);
	fd = openat(p->frames_fd, name, oflags | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd >= 0 ? fd : -errno;
}

int frame_probe_fd(int fd)
{
	if (fault_hit("pool.probe"))
		return -EAGAIN;
	return fcntl(fd, F_SETLEASE, F_WRLCK) ? -errno : 0;
}

int frame_bind(struct pool *p, uint32_t f)
{
	struct frame *fr = &p->frames[f];
	cleanup_close int fd = -1;
	int id, known;

	if (!p->started || !p->ops->bind ||
	    __atomic_load_n(&p->no_passthrough, __ATOMIC_RELAXED))
		return 0;
	known = __atomic_load_n(&fr->backing, __ATOMIC_RELAXED);
	if (known)
		return known;
	fd = frame_open(p, f, O_PATH);
	if (fd < 0)
		return fd;
	id = p->ops->bind(p->ctx, fd);
	if (id <= 0) {
		if (!id)
			__atomic_store_n(&p->no_passthrough, true,
					 __ATOMIC_RELAXED);
		return id;
	}
	known = 0;
	if (__atomic_compare_exchange_n(&fr->backing, &known, id, false,
					__ATOMIC_RELAXED, __ATOMIC_RELAXED))
		return id;
	p->ops->unbind(p->ctx, id); /* another thread was faster */
	return known;
}

void frame_unbind(struct pool *p, uint32_t f)
{
	int id =
		__atomic_exchange_n(&p->frames[f].backing, 0, __ATOMIC_RELAXED);

	if (id)
		p->ops->unbind(p->ctx, id);
}

/*
 * Have the machine back the pages now, not at the owner's first write: a
 * virtual machine's first touch of a page may take 30 times the write. The
 * pages go back with the truncation and are the first to be given out again.
 */
static void file_warm(int fd, uint64_t bytes)
{
	char *m;

	if (ftruncate(fd, bytes) || fallocate(fd, 0, 0, bytes))
		return;
	m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		return;
	for (uint64_t at = 0; at < bytes; at += POOL_PAGE)
		*(volatile char *)(m + at) = 0;
	munmap(m, bytes);
}

/* A file in the way of a slot that was never used is nobody's. */
static int file_create(struct pool *p, uint32_t f, bool fresh)
{
	char name[FRAME_NAME_BYTES];
	int fd = frame_open(p, f, O_RDWR | O_CREAT | (fresh ? O_EXCL : 0));

	if (fd != -EEXIST)
		return fd;
	frame_name(f, name);
	unlinkat(p->frames_fd, name, 0);
	return frame_open(p, f, O_RDWR | O_CREAT | O_EXCL);
}

static int file_allocate(int fd, uint64_t bytes)
{
	if (fault_hit("pool.fallocate"))
		return -ENOSPC;
	while (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, bytes))
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int file_prepare(struct pool *p, uint32_t f, bool fresh, uint64_t bytes,
			bool warm)
{
	cleanup_close int fd = file_create(p, f, fresh);
	int err;

	if (fd < 0)
		return fd;
	if (warm)
		file_warm(fd, bytes);
	/* Also what a preparation that failed half way left behind. */
	if (ftruncate(fd, 0))
		return -errno;
	err = file_allocate(fd, bytes);
	if (err && ftruncate(fd, 0))
		log_error("pool: frame %u: truncate: %m", f);
	return err;
}

uint32_t slot_get(struct pool *p, unsigned cls)
{
	uint32_t f = frame_list_pop(p, &p->free);

	if (f == POOL_NO_FRAME) {
		f = p->n_slots;
		if (f >= p->max_frames || index_reach(p, f))
			return POOL_NO_FRAME;
		p->n[FRAME_NONE]++;
		p->n_slots++;
	}
	p->frames[f].cls = cls;
	return f;
}

int frame_prepare(struct pool *p, uint32_t f, unsigned cls, bool warm)
{
	uint32_t pages = pool_class_pages(cls);
	bool fresh = p->frames[f].state == FRAME_NONE;
	int err;

	books_move(p, f, FRAME_PREPARING, pages);
	if (books_held(p) > p->peak_pages)
		p->peak_pages = books_held(p);
	else
		warm = false; /* this memory was used before */
	if (fresh)
		p->header->n_slots = p->n_slots;
	pool_unlock_busy(p);
	err = file_prepare(p, f, fresh, (uint64_t)pages * POOL_PAGE, warm);
	if (!err)
		frame_bind(p, f); /* tried again by pool_take */
	pool_lock_busy(p);
	if (err) {
		books_move(p, f, FRAME_FREE, 0);
		frame_list_push(p, &p->free, f);
	}
	return err;
}

/* Nothing of an owner stays on the file, attributes neither. */
static void file_strip(int fd)
{
	cleanup_free char *names = NULL;
	ssize_t n = flistxattr(fd, NULL, 0);

	if (n <= 0)
		return;
	names = malloc(n);
	n = names ? flistxattr(fd, names, n) : 0;
	for (char *at = names; n > 0 && at < names + n; at += strlen(at) + 1)
		if (!strncmp(at, "user.", 5) || !strncmp(at, "trusted.", 8))
			fremovexattr(fd, at);
}

/* The lease is kept over the truncation: it ends with the descriptor. */
static int file_recycle(struct pool *p, uint32_t f)
{
	cleanup_close int fd = frame_open(p, f, O_RDWR);
	int err;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	err = frame_probe_fd(fd);
	if (err)
		return err;
	file_strip(fd);
	return ftruncate(fd, 0) ? -errno : 0;
}

static uint32_t clock_pool_ms(const struct pool *p)
{
	return (clock_now_ns() - p->opened_ns) / NS_PER_MS;
}

static void frame_set_free(struct pool *p, uint32_t f)
{
	books_move(p, f, FRAME_FREE, 0);
	frame_list_push(p, &p->free, f);
	p->n_recycled++;
}

/* Whatever the reason, it is not ours yet: counted as used, tried again. */
static void frame_set_aside(struct pool *p, uint32_t f)
{
	p->n_refused++;
	if (p->frames[f].state != FRAME_ASIDE) {
		p->frames[f].aside_ms = clock_pool_ms(p);
		p->aside_every_ns = 2 * NS_PER_MS;
		p->aside_ns = clock_now_ns() + p->aside_every_ns;
		books_move(p, f, FRAME_ASIDE, p->frames[f].pages);
	}
	frame_list_push(p, &p->aside, f);
}

static int frame_recycle(struct pool *p, uint32_t f)
{
	int err;

	pool_unlock_busy(p);
	err = file_recycle(p, f);
	pool_lock_busy(p);
	if (err)
		frame_set_aside(p, f);
	else
		frame_set_free(p, f);
	return err;
}

bool frame_recycle_next(struct pool *p)
{
	uint32_t f = frame_list_pop(p, &p->dirty);

	if (f == POOL_NO_FRAME)
		return false;
	frame_recycle(p, f);
	return true;
}

bool frame_give_up(struct pool *p, unsigned cls)
{
	uint32_t f = frame_list_pop(p, &p->ready[cls]);
	int err;

	if (f == POOL_NO_FRAME)
		return false;
	p->n_ready[cls]--;
	books_move(p, f, FRAME_DIRTY, p->frames[f].pages);
	err = frame_recycle(p, f);
	p->n_recycled -= !err; /* nobody owned it */
	return true;
}

/*
 * Retire: the file leaves the slot, its bytes stay charged. The descriptor
 * that is kept holds nothing open in the sense of a lease.
 */
static bool frame_retire(struct pool *p, uint32_t f)
{
	char name[FRAME_NAME_BYTES];
	int fd;

	if (p->n_retired == RETIRED_MAX)
		return false;
	fd = frame_open(p, f, O_PATH);
	if (fd < 0)
		return false;
	frame_name(f, name);
	if (unlinkat(p->frames_fd, name, 0)) {
		close(fd);
		return false;
	}
	p->retired[p->n_retired++] = (struct retired){fd, p->frames[f].pages};
	p->retired_pages += p->frames[f].pages;
	p->n_retired_ever++;
	p->slots[f].record.epoch++;
	books_move(p, f, FRAME_FREE, 0);
	pool_unlock_busy(p);
	frame_unbind(p, f);
	pool_lock_busy(p);
	frame_list_push(p, &p->free, f);
	return true;
}

static int retired_probe(int path_fd)
{
	char name[32];
	cleanup_close int fd = -1;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", path_fd);
	fd = open(name, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : frame_probe_fd(fd);
}

static void retired_pass(struct pool *p)
{
	for (unsigned i = 0; i < p->n_retired;) {
		if (retired_probe(p->retired[i].fd)) {
			p->n_refused++;
			i++;
			continue;
		}
		close(p->retired[i].fd);
		p->retired_pages -= p->retired[i].pages;
		p->retired[i] = p->retired[--p->n_retired];
	}
}

static bool aside_must_go(const struct pool *p, uint32_t f)
{
	return p->pages[FRAME_ASIDE] > p->cap_pages / 4 ||
	       clock_pool_ms(p) - p->frames[f].aside_ms > RETIRE_AFTER_MS;
}

void frame_aside_pass(struct pool *p)
{
	uint32_t n = p->n[FRAME_ASIDE];

	retired_pass(p);
	while (n--) {
		uint32_t f = frame_list_pop(p, &p->aside);

		if (f == POOL_NO_FRAME)
			return;
		if (aside_must_go(p, f) && frame_retire(p, f))
			continue;
		frame_recycle(p, f);
	}
}

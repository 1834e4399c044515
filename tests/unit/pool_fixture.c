// SPDX-License-Identifier: MIT
#include "tests/unit/pool_fixture.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

#define PIECE (64u << 10)

static int owner_bind(void *ctx, int fd)
{
	struct owner *o = ctx;

	ck_assert_int_ge(fcntl(fd, F_GETFL), O_PATH);
	return __atomic_add_fetch(&o->n_bound, 1, __ATOMIC_RELAXED);
}

static void owner_unbind(void *ctx, int backing_id)
{
	struct owner *o = ctx;

	ck_assert_int_gt(backing_id, 0);
	__atomic_add_fetch(&o->n_unbound, 1, __ATOMIC_RELAXED);
}

bool owner_pop(struct owner *o, uint32_t *frame)
{
	bool any;

	pthread_mutex_lock(&o->lock);
	any = !o->pinned && o->head != o->tail;
	if (any) {
		*frame = o->owned[o->head++ % OWNED_MAX];
		o->evicted++;
	}
	pthread_mutex_unlock(&o->lock);
	return any;
}

static uint64_t owner_reclaim(void *ctx, uint64_t down_to_bytes)
{
	struct owner *o = ctx;
	uint64_t freed = 0;
	uint32_t f;

	while (pool_used(o->pool) > down_to_bytes && owner_pop(o, &f)) {
		freed += pool_record(o->pool, f)->alloc_bytes;
		pool_put(o->pool, f);
	}
	return freed;
}

static void owner_push(struct owner *o, uint32_t frame)
{
	pthread_mutex_lock(&o->lock);
	ck_assert_uint_lt(o->tail - o->head, OWNED_MAX);
	o->owned[o->tail++ % OWNED_MAX] = frame;
	pthread_mutex_unlock(&o->lock);
}

struct owner *owner_new(uint64_t bytes, uint64_t frame_bytes)
{
	struct owner *o = calloc(1, sizeof(*o));
	const char *tmp = getenv("TMPDIR");

	ck_assert_ptr_nonnull(o);
	snprintf(o->dir, sizeof(o->dir), "%s/pool-XXXXXX", tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(o->dir));
	pthread_mutex_init(&o->lock, NULL);
	o->ops = (struct pool_ops){owner_bind, owner_unbind, owner_reclaim};
	o->config = (struct pool_config){
		.dir = o->dir,
		.bytes = bytes,
		.frame_bytes = frame_bytes,
		.ops = &o->ops,
		.ctx = o,
	};
	return o;
}

static bool owner_adopt(void *ctx, uint32_t frame, struct pool_record *r)
{
	(void)r;
	owner_push(ctx, frame);
	return true;
}

void owner_open(struct owner *o)
{
	ck_assert_int_eq(pool_open(&o->pool, &o->config), 0);
	o->head = o->tail = 0;
	pool_each_committed(o->pool, owner_adopt, o);
	ck_assert_int_eq(pool_start(o->pool), 0);
}

void owner_reopen(struct owner *o)
{
	pool_close(o->pool, false);
	owner_open(o);
}

void owner_free(struct owner *o)
{
	pool_close(o->pool, true);
	ck_assert_int_eq(rmdir(o->dir), 0);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

int owner_take(struct owner *o, uint64_t expect_bytes, uint32_t *frame)
{
	int id = 0, fd;

	ck_assert_int_eq(pool_take(o->pool, expect_bytes, frame, &id), 0);
	ck_assert_int_ge(id, 0);
	fd = pool_fd(o->pool, *frame, O_RDWR);
	ck_assert_int_ge(fd, 0);
	return fd;
}

/* Cheap, and different in every word of every block. */
static uint64_t word_of(uint64_t n, uint64_t at)
{
	return (n + 1) * 0x9e3779b97f4a7c15ull + at;
}

static void piece_fill(uint64_t *piece, uint64_t n, uint64_t from, size_t bytes)
{
	for (size_t i = 0; i * 8 < bytes; i++)
		piece[i] = word_of(n, from / 8 + i);
}

void owner_write(int fd, uint64_t n, uint64_t from, uint64_t bytes)
{
	uint64_t *piece = malloc(PIECE);

	for (uint64_t at = 0; at < bytes; at += PIECE) {
		size_t len = bytes - at < PIECE ? bytes - at : PIECE;

		piece_fill(piece, n, from + at, len);
		ck_assert_int_eq(pwrite(fd, piece, len, from + at),
				 (ssize_t)len);
	}
	free(piece);
}

bool owner_check_mem(const void *mem, uint64_t n, uint64_t bytes)
{
	uint64_t *piece = malloc(PIECE);
	const char *have = mem;
	bool same = true;

	for (uint64_t at = 0; same && at < bytes; at += PIECE) {
		size_t len = bytes - at < PIECE ? bytes - at : PIECE;

		piece_fill(piece, n, at, len);
		same = !memcmp(have + at, piece, len);
	}
	free(piece);
	return same;
}

bool owner_check(int fd, uint64_t n, uint64_t bytes)
{
	char *have = malloc(bytes + 1);
	bool same = pread(fd, have, bytes + 1, 0) == (ssize_t)bytes &&
		    owner_check_mem(have, n, bytes);

	free(have);
	return same;
}

uint32_t owner_keep(struct owner *o, uint64_t n, uint64_t bytes)
{
	uint32_t f;
	int fd = owner_take(o, bytes, &f), len;
	char path[32];

	pool_writers(o->pool, 1);
	owner_write(fd, n, 0, bytes);
	close(fd);
	pool_writers(o->pool, -1);
	ck_assert_int_eq(pool_probe(o->pool, f), 0);
	len = snprintf(path, sizeof(path), "ns/%llu", (unsigned long long)n);
	ck_assert_int_eq(pool_commit(o->pool, f, path, len), 0);
	return f;
}

uint32_t owner_store(struct owner *o, uint64_t n, uint64_t bytes)
{
	uint32_t f = owner_keep(o, n, bytes);

	owner_push(o, f);
	return f;
}

void owner_churn(struct owner *o, uint64_t total, uint64_t block_bytes)
{
	for (uint64_t n = 0; n < total / block_bytes; n++)
		owner_store(o, 1000000 + n, block_bytes);
}

void owner_put_all(struct owner *o)
{
	uint32_t f;

	while (owner_pop(o, &f))
		pool_put(o->pool, f);
}

struct pool_stats owner_stats(struct owner *o)
{
	struct pool_stats s;

	pool_stats(o->pool, &s);
	return s;
}

bool owner_wait(struct owner *o,
		bool (*is)(const struct pool_stats *s, uint64_t arg),
		uint64_t arg)
{
	int64_t until = clock_now_ns() + 60 * NS_PER_S;
	struct timespec tick = {.tv_nsec = NS_PER_MS};

	while (clock_now_ns() < until) {
		struct pool_stats s = owner_stats(o);

		if (is(&s, arg))
			return true;
		nanosleep(&tick, NULL);
	}
	return false;
}

bool mounts_are_allowed(void)
{
	char dir[] = "/tmp/kvfs-may-mount-XXXXXX";
	bool may;

	if (!mkdtemp(dir))
		return false;
	may = !mount("none", dir, "tmpfs", 0, "size=4096");
	if (may)
		umount2(dir, MNT_DETACH);
	else
		printf("SKIP: may not mount a tmpfs: %s\n", strerror(errno));
	rmdir(dir);
	return may;
}

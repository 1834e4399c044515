// SPDX-License-Identifier: MIT
/* The pool while it runs: reuse, accounting, eviction. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/checksum.h"
#include "engine/pool_class.h"
#include "engine/pool_internal.h"
#include "tests/unit/pool_fixture.h"

static bool aside_is(const struct pool_stats *s, uint64_t n)
{
	return s->n_aside == n;
}

static bool aside_bytes_are(const struct pool_stats *s, uint64_t bytes)
{
	return s->aside_bytes == bytes;
}

/* (Less while a frame is being prepared: its charge runs ahead of it.) */
static bool writing_bytes_are(const struct pool_stats *s, uint64_t bytes)
{
	return s->writing_bytes == bytes;
}

static bool committed_is(const struct pool_stats *s, uint64_t n)
{
	return s->n_committed == n;
}

static bool blocks_fit(const struct pool_stats *s, uint64_t none)
{
	(void)none;
	return s->committed_bytes + s->writing_bytes + s->aside_bytes <=
	       s->capacity_bytes;
}

static bool ready_at_least(const struct pool_stats *s, uint64_t n)
{
	return s->n_ready >= n;
}

START_TEST(a_class_holds_what_asked_for_it_and_at_most_a_sixteenth_more)
{
	ck_assert_uint_eq(pool_class_pages(pool_class_of(1280)), 1280);
	ck_assert_uint_eq(pool_class_pages(pool_class_of(1099)), 1152);
	ck_assert_uint_eq(pool_class_of(0), 0);
	ck_assert_uint_eq(pool_class_of(1ull << 40), POOL_CLASSES - 1);
	for (unsigned c = 0; c < POOL_CLASSES; c++)
		ck_assert_uint_eq(pool_class_of(pool_class_pages(c)), c);
	for (uint64_t pages = 1; pages < 1u << 20; pages += 7) {
		uint64_t has = pool_class_pages(pool_class_of(pages));

		ck_assert_uint_ge(has, pages);
		ck_assert_uint_le(has, pages + pages / 16 + 1);
	}
}
END_TEST

START_TEST(a_frame_used_again_holds_no_byte_of_its_last_owner)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	uint32_t first, f;
	char byte, old[4096];
	int fd;

	owner_open(o);
	first = owner_keep(o, 1, MIB);
	pool_put(o->pool, first);
	do {
		fd = owner_take(o, MIB, &f);
		ck_assert_int_eq(pread(fd, &byte, 1, 0), 0);
		ck_assert_int_eq(pwrite(fd, "x", 1, 4095), 1);
		ck_assert_int_eq(pread(fd, old, 4096, 0), 4096);
		for (int i = 0; i < 4095; i++)
			ck_assert_int_eq(old[i], 0);
		ck_assert_int_eq(ftruncate(fd, MIB), 0);
		ck_assert_int_eq(pread(fd, &byte, 1, MIB / 2), 1);
		ck_assert_int_eq(byte, 0);
		close(fd);
	} while (f != first);

	owner_free(o);
}
END_TEST

START_TEST(the_record_of_a_taken_frame_is_clean_and_its_epoch_counts_on)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	uint32_t first, f, epoch;
	struct pool_record *r;

	owner_open(o);
	first = owner_keep(o, 7, MIB);
	r = pool_record(o->pool, first);
	epoch = r->epoch;
	r->uid = r->hits = 42;
	pool_put(o->pool, first);
	do {
		close(owner_take(o, MIB, &f));
	} while (f != first);

	ck_assert_uint_gt(r->epoch, epoch);
	ck_assert_uint_eq(r->uid, 0);
	ck_assert_uint_eq(r->hits, 0);
	ck_assert_uint_eq(r->path_len, 0);
	ck_assert_uint_eq(r->parent_frame, POOL_NO_FRAME);
	owner_free(o);
}
END_TEST

START_TEST(attributes_of_a_frame_go_with_its_owner)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	uint32_t first, f;
	int fd;

	owner_open(o);
	fd = owner_take(o, MIB, &first);
	if (fsetxattr(fd, "user.a", "secret", 6, 0)) {
		printf("SKIP: no user attributes on this tmpfs\n");
		close(fd);
		owner_free(o);
		return;
	}
	close(fd);
	pool_put(o->pool, first);
	do {
		fd = owner_take(o, MIB, &f);
		ck_assert_int_le(flistxattr(fd, NULL, 0), 0);
		close(fd);
	} while (f != first);
	owner_free(o);
}
END_TEST

START_TEST(a_mapped_block_keeps_its_bytes_while_the_pool_is_used_again)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	uint32_t f;
	void *m;
	int fd;

	owner_open(o);
	f = owner_keep(o, 1, 2 * MIB);
	fd = pool_fd(o->pool, f, O_RDONLY);
	m = mmap(NULL, 2 * MIB, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(m, MAP_FAILED);
	close(fd);
	pool_put(o->pool, f);
	owner_churn(o, 128 * MIB, MIB);

	ck_assert(owner_wait(o, aside_is, 1));
	ck_assert(owner_check_mem(m, 1, 2 * MIB));
	munmap(m, 2 * MIB);
	ck_assert(owner_wait(o, aside_is, 0));
	owner_free(o);
}
END_TEST

START_TEST(an_old_writer_cannot_reach_the_next_owner)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	uint32_t f;
	int fd;

	owner_open(o);
	fd = owner_take(o, MIB, &f);
	pool_put(o->pool, f);
	for (uint64_t n = 0; n < 200; n++) {
		uint32_t other = owner_store(o, n, MIB);

		ck_assert_uint_ne(other, f);
		ck_assert_int_eq(pwrite(fd, "stray", 5, 0), 5);
	}

	ck_assert(owner_wait(o, aside_is, 1));
	close(fd);
	ck_assert(owner_wait(o, aside_is, 0));
	owner_free(o);
}
END_TEST

/* The block goes away with its pages on their way through a pipe. */
static void read_after_reuse(struct owner *o, int from, uint64_t n)
{
	char have[65536];
	size_t got = 0;

	owner_churn(o, 128 * MIB, MIB);
	while (got < sizeof(have)) {
		ssize_t r = read(from, have + got, sizeof(have) - got);

		ck_assert_int_gt(r, 0);
		got += r;
	}
	ck_assert(owner_check_mem(have, n, sizeof(have)));
}

START_TEST(a_page_in_a_pipe_keeps_its_bytes)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	int fd, pipes[2];
	loff_t at = 0;
	uint32_t f;

	owner_open(o);
	f = owner_keep(o, 3, MIB);
	fd = pool_fd(o->pool, f, O_RDONLY);
	ck_assert_int_eq(pipe(pipes), 0);
	ck_assert_int_eq(splice(fd, &at, pipes[1], NULL, 65536, 0), 65536);
	close(fd);
	ck_assert_int_eq(pool_probe(o->pool, f), 0);
	pool_put(o->pool, f);

	read_after_reuse(o, pipes[0], 3);
	close(pipes[0]);
	close(pipes[1]);
	owner_free(o);
}
END_TEST

START_TEST(a_page_in_a_socket_keeps_its_bytes)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	int fd, ends[2];
	off_t at = 0;
	uint32_t f;

	owner_open(o);
	f = owner_keep(o, 4, MIB);
	fd = pool_fd(o->pool, f, O_RDONLY);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	ck_assert_int_eq(sendfile(ends[1], fd, &at, 65536), 65536);
	close(fd);
	pool_put(o->pool, f);

	read_after_reuse(o, ends[0], 4);
	close(ends[0]);
	close(ends[1]);
	owner_free(o);
}
END_TEST

static void probe_with(struct owner *o, uint32_t f, int oflags)
{
	int fd = pool_fd(o->pool, f, oflags);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pool_probe(o->pool, f), -EAGAIN);
	close(fd);
	ck_assert_int_eq(pool_probe(o->pool, f), 0);
}

START_TEST(the_probe_sees_readers_writers_and_mappings)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	uint32_t f;
	void *m;
	int fd;

	owner_open(o);
	f = owner_keep(o, 1, MIB);
	ck_assert_int_eq(pool_probe(o->pool, f), 0);
	probe_with(o, f, O_RDONLY);
	probe_with(o, f, O_WRONLY);
	probe_with(o, f, O_RDWR);
	fd = pool_fd(o->pool, f, O_PATH);
	ck_assert_int_eq(pool_probe(o->pool, f), 0);
	close(fd);
	fd = pool_fd(o->pool, f, O_RDONLY);
	m = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	ck_assert_int_eq(pool_probe(o->pool, f), -EAGAIN);
	munmap(m, 4096);

	ck_assert_int_eq(pool_probe(o->pool, f), 0);
	owner_free(o);
}
END_TEST

START_TEST(a_block_costs_what_it_holds)
{
	struct owner *o = owner_new(64 * MIB, 4 * MIB);
	uint64_t odd = 70272 * 64; /* 4.29 MiB */
	struct pool_record *r;
	uint32_t f;
	int fd;

	owner_open(o);
	ck_assert(owner_stats(o).huge);
	r = pool_record(o->pool, owner_keep(o, 1, 64 * KIB));
	ck_assert_uint_eq(r->alloc_bytes, 64 * KIB);
	r = pool_record(o->pool, owner_keep(o, 2, 5 * MIB));
	ck_assert_uint_eq(r->alloc_bytes, 5 * MIB);
	f = owner_keep(o, 3, odd);
	r = pool_record(o->pool, f);
	ck_assert_uint_eq(r->alloc_bytes, 4608 * KIB);
	pool_trim(o->pool, f);
	ck_assert_uint_eq(r->alloc_bytes, (odd + 4095) / 4096 * 4096);
	fd = pool_fd(o->pool, f, O_RDONLY);
	ck_assert(owner_check(fd, 3, odd));
	close(fd);

	ck_assert_uint_eq(owner_stats(o).committed_bytes,
			  64 * KIB + 5 * MIB + r->alloc_bytes);
	owner_free(o);
}
END_TEST

struct class_count {
	uint64_t bytes;
	uint32_t ready, committed;
};

static void class_count(void *ctx, uint64_t bytes, uint32_t n_ready,
			uint32_t n_committed)
{
	struct class_count *c = ctx;

	if (bytes != c->bytes)
		return;
	c->ready = n_ready;
	c->committed = n_committed;
}

static bool class_is_hot(const struct pool_stats *s, uint64_t cold_before)
{
	return s->taken_cold == cold_before;
}

START_TEST(preallocation_follows_what_is_stored)
{
	struct owner *o = owner_new(64 * MIB, 4 * MIB);
	struct class_count c = {.bytes = 5 * MIB};
	struct pool_stats before;
	uint32_t f;

	owner_open(o);
	ck_assert(owner_wait(o, ready_at_least, 16));
	for (int i = 0; i < 64; i++)
		pool_put(o->pool, owner_keep(o, i, 5 * MIB));
	for (int i = 0; i < 20000 && c.ready < 2; i++) {
		pool_classes(o->pool, class_count, &c);
		usleep(1000);
	}
	ck_assert_uint_ge(c.ready, 2);
	before = owner_stats(o);
	f = owner_keep(o, 99, 5 * MIB);

	ck_assert(owner_wait(o, class_is_hot, before.taken_cold));
	pool_classes(o->pool, class_count, &c);
	ck_assert_uint_eq(c.committed, 1);
	pool_put(o->pool, f);
	owner_free(o);
}
END_TEST

START_TEST(takes_that_expect_nothing_get_what_blocks_had)
{
	struct owner *o = owner_new(64 * MIB, 4 * MIB);
	struct stat st;
	uint32_t f;
	int fd;

	owner_open(o);
	for (int i = 0; i < 3; i++)
		pool_put(o->pool, owner_keep(o, i, 256 * KIB));
	fd = owner_take(o, 0, &f);
	ck_assert_int_eq(fstat(fd, &st), 0);

	ck_assert_int_eq(st.st_size, 0);
	ck_assert_int_ge(st.st_blocks * 512, 256 * KIB);
	ck_assert_int_le(st.st_blocks * 512, 288 * KIB);
	close(fd);
	owner_free(o);
}
END_TEST

START_TEST(a_pool_for_n_blocks_holds_n)
{
	struct owner *o = owner_new(128 * MIB, MIB);

	owner_open(o);
	for (uint64_t n = 0; n < 400; n++) {
		struct pool_stats s;

		owner_store(o, n, MIB);
		s = owner_stats(o);
		ck_assert_uint_le(s.committed_bytes + s.writing_bytes,
				  s.capacity_bytes + 16 * MIB);
	}

	ck_assert(owner_wait(o, committed_is, 128));
	ck_assert_uint_eq(o->evicted, 400 - 128);
	owner_free(o);
}
END_TEST

START_TEST(many_blocks_stay_within_half_a_percent)
{
	struct owner *o = owner_new(64 * MIB, 16 * KIB);

	owner_open(o);
	owner_churn(o, 96 * MIB, 16 * KIB);

	ck_assert(owner_wait(o, blocks_fit, 0));
	ck_assert_uint_ge(owner_stats(o).n_committed, 4096 - 21);
	owner_free(o);
}
END_TEST

struct burst {
	struct owner *o;
	uint64_t first, blocks, bytes;
};

static void *burst_run(void *arg)
{
	struct burst *b = arg;

	for (uint64_t n = 0; n < b->blocks; n++)
		owner_store(b->o, b->first + n, b->bytes);
	return NULL;
}

START_TEST(a_burst_larger_than_the_pool_finds_room)
{
	struct owner *o = owner_new(64 * MIB, MIB);
	struct burst a = {o, 0, 300, MIB}, b = {o, 1000, 100, 3 * MIB};
	pthread_t t;

	owner_open(o);
	ck_assert_int_eq(pthread_create(&t, NULL, burst_run, &a), 0);
	burst_run(&b);
	pthread_join(t, NULL);

	ck_assert(owner_wait(o, blocks_fit, 0));
	ck_assert_uint_ge(owner_stats(o).committed_bytes, 56 * MIB);
	owner_free(o);
}
END_TEST

START_TEST(blocks_evicted_in_a_burst_were_whole)
{
	struct owner *o = owner_new(32 * MIB, MIB);

	owner_open(o);
	for (uint64_t n = 0; n < 200; n++) {
		uint32_t f = owner_keep(o, n, MIB);
		int fd = pool_fd(o->pool, f, O_RDONLY);

		ck_assert(owner_check(fd, n, MIB));
		close(fd);
		pool_put(o->pool, f);
	}
	owner_free(o);
}
END_TEST

START_TEST(a_write_past_its_preallocation_becomes_a_block_of_its_size)
{
	struct owner *o = owner_new(64 * MIB, MIB);
	struct pool_record *r;
	uint32_t f;
	int fd;

	owner_open(o);
	fd = owner_take(o, 64 * KIB, &f);
	owner_write(fd, 9, 0, 5 * MIB);
	ck_assert(owner_wait(o, writing_bytes_are, 5 * MIB));
	close(fd);
	ck_assert_int_eq(pool_commit(o->pool, f, "ns/9", 4), 0);
	r = pool_record(o->pool, f);

	ck_assert_uint_eq(r->size_bytes, 5 * MIB);
	ck_assert_uint_eq(r->alloc_bytes, 5 * MIB);
	ck_assert_uint_eq(owner_stats(o).committed_bytes, 5 * MIB);
	ck_assert_uint_eq(owner_stats(o).writing_bytes, 0);
	owner_free(o);
}
END_TEST

START_TEST(an_outgrowing_write_into_a_full_pool_makes_the_pool_evict)
{
	struct owner *o = owner_new(128 * MIB, MIB);
	uint32_t f;
	int fd;

	owner_open(o);
	owner_churn(o, 128 * MIB, MIB);
	pool_writers(o->pool, 1);
	fd = owner_take(o, MIB, &f);
	owner_write(fd, 5, 0, 96 * MIB);
	ck_assert(owner_check(fd, 5, 96 * MIB));
	close(fd);
	pool_writers(o->pool, -1);
	ck_assert_int_eq(pool_commit(o->pool, f, "ns/5", 4), 0);

	ck_assert(owner_wait(o, blocks_fit, 0));
	ck_assert_uint_ge(o->evicted, 90);
	owner_free(o);
}
END_TEST

START_TEST(what_fits_beside_an_outgrowing_write_stays)
{
	struct owner *o = owner_new(64 * MIB, MIB);
	uint32_t f;
	int fd;

	owner_open(o);
	owner_churn(o, 40 * MIB, MIB);
	pool_writers(o->pool, 1);
	fd = owner_take(o, MIB, &f);
	owner_write(fd, 5, 0, 12 * MIB);
	ck_assert(owner_wait(o, writing_bytes_are, 12 * MIB));
	ck_assert_uint_eq(owner_stats(o).committed_bytes, 40 * MIB);
	ck_assert_uint_eq(o->evicted, 0);
	close(fd);
	pool_writers(o->pool, -1);
	owner_free(o);
}
END_TEST

START_TEST(nothing_is_kept_free_for_writers_that_have_left)
{
	struct owner *o = owner_new(64 * MIB, MIB);
	struct pool *p;

	owner_open(o);
	p = o->pool;
	pool_writers(p, 1);
	pthread_mutex_lock(&p->lock);
	p->ahead_pages = p->reserve_pages / 2;
	pthread_mutex_unlock(&p->lock);
	pool_writers(p, -1);
	pthread_mutex_lock(&p->lock);
	ck_assert_uint_eq(p->ahead_pages, 0);
	pthread_mutex_unlock(&p->lock);
	owner_free(o);
}
END_TEST

/* A frame made ready meanwhile is room as well. */
static bool room_is(const struct pool_stats *s, uint64_t mib)
{
	return s->free_bytes + s->ready_bytes >= mib * MIB;
}

START_TEST(room_is_made_or_refused_before_anything_is_evicted_in_vain)
{
	struct owner *o = owner_new(64 * MIB, MIB);

	owner_open(o);
	owner_churn(o, 64 * MIB, MIB);
	ck_assert(owner_wait(o, committed_is, 64));
	ck_assert_int_eq(pool_make_room(o->pool, 65 * MIB), -ENOSPC);
	ck_assert_uint_eq(o->evicted, 0);
	ck_assert_int_eq(pool_make_room(o->pool, 10 * MIB), 0);
	ck_assert_uint_eq(o->evicted, 10);
	o->pinned = true;
	ck_assert_int_eq(pool_make_room(o->pool, 20 * MIB), -ENOSPC);

	o->pinned = false;
	ck_assert_int_eq(pool_make_room(o->pool, 64 * MIB), 0);
	ck_assert(owner_wait(o, room_is, 64));
	owner_free(o);
}
END_TEST

START_TEST(a_pool_full_of_pinned_blocks_refuses_and_then_recovers)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	uint32_t f, n = 0;
	int id, err;

	owner_open(o);
	o->pinned = true;
	while (!(err = pool_take(o->pool, MIB, &f, &id))) {
		ck_assert_int_eq(pool_commit(o->pool, f, "ns/x", 4), 0);
		pthread_mutex_lock(&o->lock);
		o->owned[o->tail++] = f;
		pthread_mutex_unlock(&o->lock);
		ck_assert_uint_le(++n, 32 + 16);
	}
	ck_assert_int_eq(err, -ENOSPC);
	ck_assert_uint_ge(n, 32);
	o->pinned = false;

	owner_store(o, 1, MIB);
	ck_assert(owner_wait(o, blocks_fit, 0));
	owner_free(o);
}
END_TEST

START_TEST(what_is_too_large_for_the_pool_is_refused)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	char path[POOL_PATH_MAX + 2];
	uint32_t f;
	int id;

	owner_open(o);
	owner_churn(o, 32 * MIB, MIB);
	ck_assert_int_eq(pool_take(o->pool, 33 * MIB, &f, &id), -ENOSPC);
	ck_assert_uint_eq(o->evicted, 0);
	ck_assert_int_eq(pool_take(o->pool, 32 * MIB, &f, &id), 0);
	memset(path, 'x', sizeof(path));
	ck_assert_int_eq(pool_commit(o->pool, f, path, POOL_PATH_MAX + 1),
			 -ENAMETOOLONG);
	ck_assert_int_eq(pool_commit(o->pool, f, path, POOL_PATH_MAX), 0);
	ck_assert_int_eq(pool_rename(o->pool, f, path, POOL_PATH_MAX + 1),
			 -ENAMETOOLONG);

	owner_free(o);
}
END_TEST

START_TEST(too_much_aside_is_retired_and_charged_until_it_is_let_go)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	uint32_t f[12], epoch;
	int fd[12];

	owner_open(o);
	for (int i = 0; i < 12; i++) {
		f[i] = owner_keep(o, i, MIB);
		fd[i] = pool_fd(o->pool, f[i], O_RDONLY);
	}
	epoch = pool_record(o->pool, f[0])->epoch;
	for (int i = 0; i < 12; i++)
		pool_put(o->pool, f[i]);
	ck_assert(owner_wait(o, aside_bytes_are, 12 * MIB));
	ck_assert(owner_wait(o, aside_is, 8));
	owner_churn(o, 64 * MIB, MIB);
	ck_assert(owner_wait(o, committed_is, 20));
	ck_assert_uint_eq(owner_stats(o).retired, 4);
	ck_assert_int_gt(o->n_unbound, 0);
	ck_assert_uint_gt(pool_record(o->pool, f[0])->epoch, epoch);
	for (int i = 0; i < 12; i++) {
		ck_assert(owner_check(fd[i], i, MIB));
		close(fd[i]);
	}

	ck_assert(owner_wait(o, aside_bytes_are, 0));
	owner_free(o);
}
END_TEST

START_TEST(a_frame_is_made_known_to_the_kernel_once)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	int bound;

	owner_open(o);
	owner_churn(o, 64 * MIB, MIB);
	ck_assert(owner_wait(o, committed_is, 16));
	bound = o->n_bound;
	ck_assert_int_gt(pool_backing(o->pool, o->owned[o->head]), 0);
	ck_assert_int_eq(o->n_bound, bound);
	owner_churn(o, 256 * MIB, MIB);

	ck_assert_int_le(bound, 16 + 33);
	ck_assert_int_le(o->n_bound, bound + 33);
	owner_free(o);
}
END_TEST

static long keeper_switches(void)
{
	char path[64], line[128];
	long n = -1;

	for (pid_t tid = getpid(); tid < getpid() + 4096; tid++) {
		bool keeper = false;
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f)) {
			keeper |= !strcmp(line, "Name:\tkvfs-keeper\n");
			if (keeper)
				sscanf(line, "voluntary_ctxt_switches: %ld",
				       &n);
		}
		if (f)
			fclose(f);
	}
	return n;
}

START_TEST(the_checksum_of_a_frame_is_that_of_its_bytes)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	uint64_t bytes = 3 * MIB + 13, of_fd[2] = {}, of_mem[2] = {};
	char *mem = malloc(bytes);
	uint32_t f;
	int fd;

	owner_open(o);
	f = owner_keep(o, 8, bytes);
	fd = pool_fd(o->pool, f, O_RDONLY);
	ck_assert_int_eq(pread(fd, mem, bytes, 0), (ssize_t)bytes);
	ck_assert_int_eq(checksum_fd(fd, bytes, of_fd), 0);
	checksum_mem(mem, bytes, of_mem);
	ck_assert_uint_eq(of_fd[0], of_mem[0]);
	ck_assert_uint_eq(of_fd[1], of_mem[1]);
	mem[MIB] ^= 1;
	checksum_mem(mem, bytes, of_mem);
	ck_assert_uint_ne(of_fd[0], of_mem[0]);

	ck_assert_int_eq(checksum_fd(fd, bytes + 1, of_fd), -EIO);
	close(fd);
	free(mem);
	owner_free(o);
}
END_TEST

START_TEST(an_idle_pool_sleeps)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	long before = -2, after;

	owner_open(o);
	owner_churn(o, 32 * MIB, MIB);
	/* Once its work is done it never wakes again. */
	for (int i = 0; i < 100; i++) {
		after = keeper_switches();
		if (after == before)
			break;
		before = after;
		usleep(200000);
	}

	ck_assert_int_ge(after, 0);
	ck_assert_int_eq(after, before);
	owner_free(o);
}
END_TEST

/* Frames of this size were asked for so often, and not had. */
static void lack(struct pool *p, uint64_t bytes, int times)
{
	pthread_mutex_lock(&p->lock);
	for (int i = 0; i < times; i++)
		demand_note(p, pool_class_of(pool_pages(bytes)));
	keeper_wake(p);
	p->idle = false; /* until it has found nothing to do once more */
	pthread_mutex_unlock(&p->lock);
}

static bool sleeps_in_a_warm_pool(struct pool *p)
{
	for (int i = 0; i < 200; i++) {
		bool so;

		pthread_mutex_lock(&p->lock);
		so = p->filled && p->idle;
		pthread_mutex_unlock(&p->lock);
		if (so)
			return true;
		usleep(100000);
	}
	return false;
}

static bool lacks(struct pool *p, uint64_t bytes)
{
	unsigned cls;
	bool so;

	pthread_mutex_lock(&p->lock);
	so = demand_short(p, &cls) && cls == pool_class_of(pool_pages(bytes));
	pthread_mutex_unlock(&p->lock);
	return so;
}

/*
 * Blocks fill the capacity, READY frames of their size what may be preallocated
 * beside it, 16 MiB. Of these 14 are wanted, and 2 are too few for one of 8.
 */
START_TEST(a_keeper_that_lacks_room_for_what_is_asked_for_sleeps)
{
	struct owner *o = owner_new(64 * MIB, MIB);

	owner_open(o);
	for (uint64_t n = 0; n < 64; n++)
		owner_keep(o, n, MIB);
	ck_assert(sleeps_in_a_warm_pool(o->pool));
	lack(o->pool, 8 * MIB, 8);

	ck_assert(sleeps_in_a_warm_pool(o->pool));
	ck_assert(lacks(o->pool, 8 * MIB));
	owner_free(o);
}
END_TEST

static int open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

START_TEST(frames_keep_no_descriptor_open)
{
	struct owner *o = owner_new(64 * MIB, 16 * KIB);
	int before = open_fds();

	owner_open(o);
	owner_churn(o, 64 * MIB, 16 * KIB);
	ck_assert_uint_ge(owner_stats(o).n_committed, 4000);

	ck_assert_int_le(open_fds(), before + 8);
	owner_free(o);
}
END_TEST

static Suite *pool_suite(void)
{
	Suite *s = suite_create("pool");
	TCase *reuse = tcase_create("reuse");
	TCase *room = tcase_create("room");

	tcase_set_timeout(reuse, 60);
	tcase_add_test(
		reuse,
		a_class_holds_what_asked_for_it_and_at_most_a_sixteenth_more);
	tcase_add_test(reuse,
		       a_frame_used_again_holds_no_byte_of_its_last_owner);
	tcase_add_test(
		reuse,
		the_record_of_a_taken_frame_is_clean_and_its_epoch_counts_on);
	tcase_add_test(reuse, attributes_of_a_frame_go_with_its_owner);
	tcase_add_test(
		reuse,
		a_mapped_block_keeps_its_bytes_while_the_pool_is_used_again);
	tcase_add_test(reuse, an_old_writer_cannot_reach_the_next_owner);
	tcase_add_test(reuse, a_page_in_a_pipe_keeps_its_bytes);
	tcase_add_test(reuse, a_page_in_a_socket_keeps_its_bytes);
	tcase_add_test(reuse, the_probe_sees_readers_writers_and_mappings);
	tcase_add_test(
		reuse,
		too_much_aside_is_retired_and_charged_until_it_is_let_go);
	tcase_add_test(reuse, a_frame_is_made_known_to_the_kernel_once);
	suite_add_tcase(s, reuse);

	tcase_set_timeout(room, 120);
	tcase_add_test(room, a_block_costs_what_it_holds);
	tcase_add_test(room, preallocation_follows_what_is_stored);
	tcase_add_test(room, takes_that_expect_nothing_get_what_blocks_had);
	tcase_add_test(room, a_pool_for_n_blocks_holds_n);
	tcase_add_test(room, many_blocks_stay_within_half_a_percent);
	tcase_add_test(room, a_burst_larger_than_the_pool_finds_room);
	tcase_add_test(room, blocks_evicted_in_a_burst_were_whole);
	tcase_add_test(
		room,
		a_write_past_its_preallocation_becomes_a_block_of_its_size);
	tcase_add_test(
		room,
		an_outgrowing_write_into_a_full_pool_makes_the_pool_evict);
	tcase_add_test(room, what_fits_beside_an_outgrowing_write_stays);
	tcase_add_test(room, nothing_is_kept_free_for_writers_that_have_left);
	tcase_add_test(
		room,
		room_is_made_or_refused_before_anything_is_evicted_in_vain);
	tcase_add_test(room,
		       a_pool_full_of_pinned_blocks_refuses_and_then_recovers);
	tcase_add_test(room, what_is_too_large_for_the_pool_is_refused);
	tcase_add_test(room, the_checksum_of_a_frame_is_that_of_its_bytes);
	tcase_add_test(room, an_idle_pool_sleeps);
	tcase_add_test(room,
		       a_keeper_that_lacks_room_for_what_is_asked_for_sleeps);
	tcase_add_test(room, frames_keep_no_descriptor_open);
	suite_add_tcase(s, room);
	return s;
}

int main(void)
{
	SRunner *runner;
	int failed;

	if (!mounts_are_allowed())
		return 77;
	signal(SIGIO, SIG_IGN);
	runner = srunner_create(pool_suite());
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}

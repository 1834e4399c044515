// SPDX-License-Identifier: MIT
/* The pool across restarts, kills, damage and machines that refuse things. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "engine/pool_internal.h"
#include "tests/unit/pool_fixture.h"

static bool aside_is(const struct pool_stats *s, uint64_t n)
{
	return s->n_aside == n;
}

static bool refused_at_least(const struct pool_stats *s, uint64_t n)
{
	return s->probes_refused >= n;
}

static bool ready_at_least(const struct pool_stats *s, uint64_t n)
{
	return s->n_ready >= n;
}

/* Adopted blocks, each checked against the bytes that its name promises. */
struct census {
	struct pool *pool;
	uint64_t block_bytes;
	uint32_t n;
};

static bool census_take(void *ctx, uint32_t frame, struct pool_record *r)
{
	struct census *c = ctx;
	uint64_t n = strtoull(strchr(r->path, '/') + 1, NULL, 10);
	int fd = pool_fd(c->pool, frame, O_RDONLY);

	ck_assert_uint_eq(r->size_bytes, c->block_bytes);
	ck_assert_int_ge(fd, 0);
	ck_assert(owner_check(fd, n, r->size_bytes));
	close(fd);
	c->n++;
	return true;
}

static uint32_t census_of(struct owner *o, uint64_t block_bytes)
{
	struct census c = {o->pool, block_bytes, 0};

	pool_each_committed(o->pool, census_take, &c);
	return c.n;
}

START_TEST(blocks_live_through_a_restart_and_nothing_else_does)
{
	struct owner *o = owner_new(64 * MIB, MIB);
	struct pool_record *r;
	uint32_t f, half;

	owner_open(o);
	for (uint64_t n = 0; n < 20; n++)
		f = owner_store(o, n, 512 * KIB);
	r = pool_record(o->pool, f);
	r->uid = 1234;
	r->generation = 77;
	r->mtime_ns = 99;
	close(owner_take(o, 512 * KIB, &half));
	pool_close(o->pool, false);
	ck_assert_int_eq(pool_open(&o->pool, &o->config), 0);

	ck_assert_uint_eq(owner_stats(o).adopted, 20);
	ck_assert_uint_eq(owner_stats(o).adopt_dropped, 0);
	ck_assert_uint_eq(owner_stats(o).committed_bytes, 10 * MIB);
	ck_assert_uint_eq(census_of(o, 512 * KIB), 20);
	r = pool_record(o->pool, f);
	ck_assert_uint_eq(r->uid, 1234);
	ck_assert_uint_eq(r->generation, 77);
	ck_assert_int_eq(r->mtime_ns, 99);
	owner_free(o);
}
END_TEST

static bool drop_all(void *ctx, uint32_t frame, struct pool_record *r)
{
	(void)frame;
	(void)r;
	++*(int *)ctx;
	return false;
}

START_TEST(blocks_that_the_owner_does_not_want_are_recycled)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	int n = 0;

	owner_open(o);
	owner_churn(o, 10 * MIB, MIB);
	pool_close(o->pool, false);
	ck_assert_int_eq(pool_open(&o->pool, &o->config), 0);
	pool_each_committed(o->pool, drop_all, &n);
	ck_assert_int_eq(n, 10);
	ck_assert_int_eq(pool_start(o->pool), 0);

	ck_assert(owner_wait(o, ready_at_least, 32));
	ck_assert_uint_eq(owner_stats(o).n_committed, 0);
	ck_assert_uint_eq(owner_stats(o).adopt_dropped, 10);
	owner_free(o);
}
END_TEST

START_TEST(a_half_written_frame_that_is_still_open_is_not_handed_out)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	uint32_t half, f;
	int fd;

	owner_open(o);
	fd = owner_take(o, MIB, &half);
	owner_write(fd, 1, 0, MIB / 2);
	owner_reopen(o);
	ck_assert(owner_wait(o, aside_is, 1));
	for (uint64_t n = 0; n < 100; n++) {
		f = owner_store(o, n, MIB);
		ck_assert_uint_ne(f, half);
	}
	ck_assert_uint_eq(owner_stats(o).aside_bytes, MIB);
	close(fd);

	ck_assert(owner_wait(o, aside_is, 0));
	owner_free(o);
}
END_TEST

START_TEST(discard_leaves_nothing)
{
	struct owner *o = owner_new(32 * MIB, MIB);

	owner_open(o);
	owner_churn(o, 10 * MIB, MIB);
	pool_close(o->pool, false);
	o->config.discard = true;
	owner_open(o);

	ck_assert_uint_eq(owner_stats(o).adopted, 0);
	ck_assert_uint_eq(o->tail, 0);
	owner_free(o);
}
END_TEST

START_TEST(the_capacity_may_change_as_long_as_the_blocks_fit)
{
	struct owner *o = owner_new(32 * MIB, MIB);

	owner_open(o);
	owner_churn(o, 20 * MIB, MIB);
	pool_close(o->pool, false);

	o->config.bytes = 128 * MIB;
	owner_open(o);
	ck_assert_uint_eq(owner_stats(o).adopted, 20);
	owner_churn(o, 60 * MIB, MIB);
	ck_assert_uint_eq(owner_stats(o).n_committed, 80);
	ck_assert_uint_eq(o->evicted, 0);
	pool_close(o->pool, false);

	o->config.bytes = 64 * MIB;
	ck_assert_int_eq(pool_open(&o->pool, &o->config), -EBUSY);
	o->config.bytes = 96 * MIB;
	owner_open(o);
	ck_assert_uint_eq(owner_stats(o).adopted, 80);
	owner_churn(o, 64 * MIB, MIB);
	owner_free(o);
}
END_TEST

START_TEST(a_second_daemon_is_refused_even_when_it_would_discard)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	struct pool *other;

	owner_open(o);
	owner_store(o, 1, MIB);
	ck_assert_int_eq(pool_open(&other, &o->config), -EBUSY);
	o->config.discard = true;
	ck_assert_int_eq(pool_open(&other, &o->config), -EBUSY);
	o->config.discard = false;
	owner_reopen(o);

	ck_assert_uint_eq(owner_stats(o).adopted, 1);
	owner_free(o);
}
END_TEST

START_TEST(a_folder_that_holds_other_things_is_left_alone)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	char path[300];
	struct stat st;

	snprintf(path, sizeof(path), "%s/letter", o->dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	ck_assert_int_eq(pool_open(&o->pool, &o->config), -EINVAL);
	o->config.discard = true;
	ck_assert_int_eq(pool_open(&o->pool, &o->config), -EINVAL);
	o->config.discard = false;
	ck_assert_int_eq(stat(path, &st), 0);
	unlink(path);
	ck_assert_int_eq(mount("other", o->dir, "tmpfs", 0, "size=4096"), 0);
	ck_assert_int_eq(pool_open(&o->pool, &o->config), -EINVAL);
	ck_assert_int_eq(umount(o->dir), 0);

	owner_open(o);
	owner_free(o);
}
END_TEST

START_TEST(a_pool_larger_than_memory_is_refused)
{
	struct owner *o = owner_new(1ull << 42, MIB);

	ck_assert_int_eq(pool_open(&o->pool, &o->config), -ENOMEM);
	o->config.bytes = 1ull << 50;
	ck_assert_int_eq(pool_open(&o->pool, &o->config), -EINVAL);
	o->config.bytes = MIB;
	ck_assert_int_eq(pool_open(&o->pool, &o->config), -EINVAL);

	ck_assert_int_eq(rmdir(o->dir), 0);
	free(o);
}
END_TEST

/* ── kill -9 ── */

#define KILL_BYTES (192 * KIB)

static void kill_child(struct owner *o, int tell)
{
	uint64_t n = getpid() * 1000000ull;
	char path[32];
	uint32_t f;

	owner_open(o);
	for (;; n++) {
		f = owner_store(o, n, KILL_BYTES);
		if (write(tell, "", 1) != 1)
			_exit(1);
		if (n % 3)
			continue;
		pool_rename(o->pool, f, path,
			    snprintf(path, sizeof(path), "other/%llu",
				     (unsigned long long)n));
		if (n % 9 == 0 && owner_pop(o, &f))
			pool_put(o->pool, f);
	}
}

START_TEST(a_kill_at_any_moment_leaves_whole_blocks_with_whole_names)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	uint32_t survived = 0;

	srand(clock_now_ns());
	for (int round = 0; round < 25; round++) {
		int status, tell[2], stores = 1 + rand() % 40;
		pid_t pid;
		char one;

		ck_assert_int_eq(pipe(tell), 0);
		pid = fork();
		if (!pid)
			kill_child(o, tell[1]);
		while (stores--)
			ck_assert_int_eq(read(tell[0], &one, 1), 1);
		usleep(rand() % 2000);
		ck_assert_int_eq(kill(pid, SIGKILL), 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert(WIFSIGNALED(status));
		close(tell[0]);
		close(tell[1]);
		ck_assert_int_eq(pool_open(&o->pool, &o->config), 0);
		ck_assert_uint_eq(owner_stats(o).adopt_dropped, 0);
		survived += census_of(o, KILL_BYTES);
		pool_close(o->pool, false);
	}

	ck_assert_uint_gt(survived, 100);
	owner_open(o);
	owner_free(o);
}
END_TEST

/*
 * The same, without luck: a child is led through one call instruction by
 * instruction, and killed after k of them.
 */
static void stepped_commit(struct owner *o, uint64_t n)
{
	char path[32];
	uint32_t f;
	int fd = owner_take(o, KILL_BYTES, &f);
	int len =
		snprintf(path, sizeof(path), "ns/%llu", (unsigned long long)n);

	owner_write(fd, n, 0, KILL_BYTES);
	close(fd);
	raise(SIGSTOP);
	pool_commit(o->pool, f, path, len);
	raise(SIGSTOP);
}

static uint32_t first_block;

static bool note_first(void *ctx, uint32_t frame, struct pool_record *r)
{
	(void)ctx;
	(void)r;
	first_block = frame;
	return true;
}

/* Moves the block to and fro between two names of different length. */
static void stepped_rename(struct owner *o, uint64_t n)
{
	struct pool_record *r;
	char path[64];
	int len;

	pool_each_committed(o->pool, note_first, NULL);
	r = pool_record(o->pool, first_block);
	n = strtoull(strchr(r->path, '/') + 1, NULL, 10);
	len = snprintf(path, sizeof(path), "%s/%llu",
		       r->path[0] == 'n' ? "another-space" : "ns",
		       (unsigned long long)n);
	raise(SIGSTOP);
	pool_rename(o->pool, first_block, path, len);
	raise(SIGSTOP);
}

static void stepped_put(struct owner *o, uint64_t n)
{
	(void)n;
	pool_each_committed(o->pool, note_first, NULL);
	raise(SIGSTOP);
	pool_put(o->pool, first_block);
	raise(SIGSTOP);
}

/* Returns how many instructions ran: k, or fewer if the call ended. */
static long step_and_kill(struct owner *o,
			  void (*call)(struct owner *, uint64_t), uint64_t n,
			  long k)
{
	pid_t pid = fork();
	long done = 0;
	int status;

	if (!pid) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) ||
		    pool_open(&o->pool, &o->config))
			_exit(1);
		call(o, n);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	while (done < k) {
		ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert(WIFSTOPPED(status));
		if (WSTOPSIG(status) == SIGSTOP)
			break;
		done++;
	}
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return done;
}

static void step_through(struct owner *o,
			 void (*call)(struct owner *, uint64_t), long rounds,
			 uint32_t least)
{
	long all = step_and_kill(o, call, 1, LONG_MAX);

	ck_assert_int_gt(all, 100);
	for (long i = 0; i < rounds; i++) {
		long k = all * i / rounds + rand() % (all / rounds + 1);

		step_and_kill(o, call, 2 + i, k);
		ck_assert_int_eq(pool_open(&o->pool, &o->config), 0);
		ck_assert_uint_eq(owner_stats(o).adopt_dropped, 0);
		ck_assert_uint_ge(census_of(o, KILL_BYTES), least);
		pool_close(o->pool, false);
	}
}

static bool stepping_works(void)
{
	pid_t pid;
	int status;

	/* Instructions of a sanitizer's or of valgrind's are not ours. */
	if (getenv("KVFS_SANITIZER") && *getenv("KVFS_SANITIZER"))
		return false;
	pid = fork();
	if (!pid)
		_exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) ? 1 : 0);
	waitpid(pid, &status, 0);
	return !status;
}

START_TEST(a_kill_within_a_call_leaves_its_block_as_before_or_as_after)
{
	struct owner *o = owner_new(256 * MIB, MIB);

	if (!stepping_works()) {
		printf("SKIP: cannot step through a process here\n");
		rmdir(o->dir);
		free(o);
		return;
	}
	srand(clock_now_ns());
	step_through(o, stepped_commit, 80, 1);
	step_through(o, stepped_rename, 120, 1);
	step_through(o, stepped_put, 25, 1);
	owner_open(o);
	owner_free(o);
}
END_TEST

/* A kill between the two halves of pool_rename, played by hand. */
START_TEST(a_rename_that_was_cut_short_is_finished_at_adoption)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	struct pool_header *h;
	struct pool_record *r;
	uint32_t f;

	owner_open(o);
	f = owner_store(o, 5, MIB);
	r = pool_record(o->pool, f);
	h = o->pool->header;
	h->rename_frame = f;
	h->rename_epoch = r->epoch;
	h->rename_len = 7;
	memcpy(h->rename_path, "other/5", 7);
	h->rename_seal = index_seal(o->pool, f, r, "other/5", 7);
	h->rename_pending = 1;
	memcpy(r->path, "oth", 3);
	owner_reopen(o);

	ck_assert_uint_eq(owner_stats(o).adopted, 1);
	r = pool_record(o->pool, f);
	ck_assert_str_eq(r->path, "other/5");
	ck_assert_uint_eq(r->path_len, 7);
	owner_free(o);
}
END_TEST

/* ── damage ── */

static char *index_edit(struct owner *o, size_t *bytes)
{
	char path[300], *m;
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/index", o->dir);
	fd = open(path, O_RDWR);
	ck_assert_int_ge(fd, 0);
	fstat(fd, &st);
	m = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(m, MAP_FAILED);
	close(fd);
	*bytes = st.st_size;
	return m;
}

START_TEST(a_record_that_lies_is_dropped_and_counted)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	union pool_slot *slot;
	uint32_t f[8];
	char *index;
	size_t bytes;

	owner_open(o);
	for (int i = 0; i < 8; i++)
		f[i] = owner_store(o, i, MIB);
	pool_close(o->pool, false);
	index = index_edit(o, &bytes);
	slot = (union pool_slot *)(index + INDEX_HEADER_BYTES);
	slot[f[0]].record.size_bytes++;
	slot[f[1]].record.path[0] ^= 1;
	slot[f[2]].record.path_len = 60000;
	slot[f[3]].record.state = 0x12345678;
	memcpy(&slot[f[4]], &slot[f[5]], sizeof(*slot));
	slot[f[6]].record.epoch++;
	munmap(index, bytes);
	owner_open(o);

	ck_assert_uint_eq(owner_stats(o).adopted, 2);
	ck_assert_uint_eq(owner_stats(o).adopt_dropped, 6);
	owner_free(o);
}
END_TEST

/* Rightly sealed, so only the check of names can refuse them. */
START_TEST(names_that_no_tree_can_hold_are_dropped)
{
	static const char bad[][12] = {"..",   "a/../b", "a//b",  "/a",
				       "a/",   ".",	 "a/.",	  "",
				       "a\0b", "a/..",	 "./a/b", "//"};
	struct owner *o = owner_new(32 * MIB, MIB);
	uint32_t f;
	int id;

	owner_open(o);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ck_assert_int_eq(pool_take(o->pool, MIB, &f, &id), 0);
		pool_commit(o->pool, f, bad[i],
			    bad[i][0] == 'a' && !bad[i][1] ? 3
							   : strlen(bad[i]));
	}
	ck_assert_int_eq(pool_take(o->pool, MIB, &f, &id), 0);
	pool_commit(o->pool, f, "a/..b\n.", 7);
	owner_reopen(o);

	ck_assert_uint_eq(owner_stats(o).adopted, 1);
	ck_assert_uint_eq(owner_stats(o).adopt_dropped, 12);
	owner_free(o);
}
END_TEST

START_TEST(no_damage_to_the_index_crashes_or_invents_a_block)
{
	struct owner *o = owner_new(32 * MIB, MIB);

	srand(clock_now_ns());
	owner_open(o);
	for (int round = 0; round < 60; round++) {
		size_t bytes, used, flips = 1 + rand() % 2000;
		char *index;

		owner_churn(o, 4 * MIB, 256 * KIB);
		pool_close(o->pool, false);
		index = index_edit(o, &bytes);
		used = INDEX_HEADER_BYTES + 64 * INDEX_RECORD_BYTES;
		/* Half the rounds spare what voids the whole index. */
		for (size_t i = 0; i < flips; i++) {
			size_t from = round % 2 ? 0 : 48;
			size_t at = from + rand() % (used - from);

			index[at] = rand();
		}
		munmap(index, bytes);
		ck_assert_int_eq(pool_open(&o->pool, &o->config), 0);
		census_of(o, 256 * KIB);
		pool_close(o->pool, false);
		owner_open(o);
	}
	owner_free(o);
}
END_TEST

START_TEST(frame_files_that_are_gone_or_strange_do_no_harm)
{
	struct owner *o = owner_new(32 * MIB, MIB);
	char path[300];
	uint32_t f[3];

	owner_open(o);
	for (int i = 0; i < 3; i++)
		f[i] = owner_store(o, i, MIB);
	pool_close(o->pool, false);
	snprintf(path, sizeof(path), "%s/frames/%08u", o->dir, f[0]);
	ck_assert_int_eq(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/frames/%08u", o->dir, f[1]);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(symlink("/etc/passwd", path), 0);
	owner_open(o);

	ck_assert_uint_eq(owner_stats(o).adopted, 1);
	ck_assert_uint_eq(owner_stats(o).adopt_dropped, 2);
	owner_churn(o, 128 * MIB, MIB);
	owner_free(o);
}
END_TEST

/* ── refusals, each in a process of its own: faults are armed for good ── */

static void with_faults(const char *faults, void (*run)(void))
{
	pid_t pid;
	int status;

	fflush(NULL);
	pid = fork();
	if (!pid) {
		setenv("KVFS_FAULT", faults, 1);
		fault_init();
		run();
		exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

static void run_without_huge_pages(void)
{
	struct owner *o = owner_new(32 * MIB, MIB);

	owner_open(o);
	if (owner_stats(o).huge || !owner_stats(o).own_mount)
		exit(1);
	owner_churn(o, 64 * MIB, MIB);
	owner_reopen(o);
	if (owner_stats(o).adopted < 30)
		exit(2);
	owner_free(o);
}

START_TEST(refused_huge_pages_leave_a_plain_pool)
{
	with_faults("pool.mount_huge:1+", run_without_huge_pages);
}
END_TEST

static void run_without_mount(void)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	struct stat st;
	uint32_t f;
	int fd;

	owner_open(o);
	if (owner_stats(o).own_mount || lstat(o->dir, &st) ||
	    !S_ISLNK(st.st_mode))
		exit(1);
	owner_churn(o, 64 * MIB, MIB);
	fd = owner_take(o, 64 * KIB, &f);
	owner_write(fd, 1, 0, 3 * MIB);
	close(fd);
	if (owner_stats(o).writing_bytes != 3 * MIB)
		exit(2);
	owner_reopen(o);
	if (owner_stats(o).adopted < 13 || owner_stats(o).own_mount)
		exit(3);
	o->config.discard = true;
	owner_reopen(o);
	if (owner_stats(o).adopted)
		exit(4);
	owner_free(o);
}

START_TEST(where_no_mount_is_allowed_a_folder_of_dev_shm_serves)
{
	struct pool_stats s;
	struct owner *o = owner_new(16 * MIB, MIB);

	/* The folder stays what it is when mounts are allowed later. */
	with_faults("pool.mount:1+", run_without_mount);
	owner_open(o);
	s = owner_stats(o);
	ck_assert(s.own_mount);
	owner_free(o);
}
END_TEST

static void run_with_failing_calls(void)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	uint32_t f;
	int id;

	owner_open(o);
	if (pool_take(o->pool, MIB, &f, &id) != -ENOSPC)
		exit(1);
	for (uint64_t n = 0; n < 64; n++)
		owner_store(o, n, MIB + n * 64 * KIB);
	if (pool_take(o->pool, MIB, &f, &id))
		exit(2);
	owner_free(o);
}

START_TEST(calls_that_fail_now_and_then_lose_nothing)
{
	with_faults("pool.take:1,pool.fallocate:3,pool.fallocate:9,"
		    "pool.fallocate:20,pool.fallocate:40",
		    run_with_failing_calls);
}
END_TEST

static void run_with_refused_probe(void)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	uint32_t f;

	owner_open(o);
	f = owner_keep(o, 1, MIB); /* the first probe */
	pool_put(o->pool, f);	   /* the second */
	if (!owner_wait(o, refused_at_least, 1) || !owner_wait(o, aside_is, 0))
		exit(1);
	owner_free(o);
}

START_TEST(a_refused_probe_is_tried_again)
{
	with_faults("pool.probe:2", run_with_refused_probe);
}
END_TEST

static void run_with_failing_commit(void)
{
	struct owner *o = owner_new(16 * MIB, MIB);
	uint32_t f;
	int id;

	owner_open(o);
	if (pool_take(o->pool, MIB, &f, &id) ||
	    pool_commit(o->pool, f, "a/b", 3) != -EIO)
		exit(1);
	pool_put(o->pool, f);
	owner_reopen(o);
	if (owner_stats(o).adopted)
		exit(2);
	owner_free(o);
}

START_TEST(a_failed_commit_leaves_no_block)
{
	with_faults("pool.commit:1", run_with_failing_commit);
}
END_TEST

/* ── how long it takes ── */

START_TEST(four_thousand_blocks_are_adopted_at_once)
{
	struct owner *o = owner_new(256 * MIB, 64 * KIB);
	int64_t began;

	owner_open(o);
	for (uint64_t n = 0; n < 4096; n++)
		owner_store(o, n, 4 * KIB);
	pool_close(o->pool, false);
	began = clock_now_ns();
	ck_assert_int_eq(pool_open(&o->pool, &o->config), 0);
	printf("4096 blocks adopted in %.1f ms\n",
	       (clock_now_ns() - began) / 1e6);

	ck_assert_uint_eq(owner_stats(o).adopted, 4096);
	owner_free(o);
}
END_TEST

static Suite *restart_suite(void)
{
	Suite *s = suite_create("pool restart");
	TCase *t = tcase_create("restart");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, blocks_live_through_a_restart_and_nothing_else_does);
	tcase_add_test(t, blocks_that_the_owner_does_not_want_are_recycled);
	tcase_add_test(
		t, a_half_written_frame_that_is_still_open_is_not_handed_out);
	tcase_add_test(t, discard_leaves_nothing);
	tcase_add_test(t, the_capacity_may_change_as_long_as_the_blocks_fit);
	tcase_add_test(t,
		       a_second_daemon_is_refused_even_when_it_would_discard);
	tcase_add_test(t, a_folder_that_holds_other_things_is_left_alone);
	tcase_add_test(t, a_pool_larger_than_memory_is_refused);
	tcase_add_test(
		t, a_kill_at_any_moment_leaves_whole_blocks_with_whole_names);
	tcase_add_test(
		t, a_kill_within_a_call_leaves_its_block_as_before_or_as_after);
	tcase_add_test(t, a_rename_that_was_cut_short_is_finished_at_adoption);
	tcase_add_test(t, a_record_that_lies_is_dropped_and_counted);
	tcase_add_test(t, names_that_no_tree_can_hold_are_dropped);
	tcase_add_test(t, no_damage_to_the_index_crashes_or_invents_a_block);
	tcase_add_test(t, frame_files_that_are_gone_or_strange_do_no_harm);
	tcase_add_test(t, refused_huge_pages_leave_a_plain_pool);
	tcase_add_test(t, where_no_mount_is_allowed_a_folder_of_dev_shm_serves);
	tcase_add_test(t, calls_that_fail_now_and_then_lose_nothing);
	tcase_add_test(t, a_refused_probe_is_tried_again);
	tcase_add_test(t, a_failed_commit_leaves_no_block);
	tcase_add_test(t, four_thousand_blocks_are_adopted_at_once);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	SRunner *runner;
	int failed;

	if (!mounts_are_allowed())
		return 77;
	signal(SIGIO, SIG_IGN);
	runner = srunner_create(restart_suite());
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}

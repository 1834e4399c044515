// SPDX-License-Identifier: MIT
/* What survives: Redis killed, emptied, rolled back, cut off, lying; the log
 * torn and damaged. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "ckpt_fixture.h"
#include "meta/ckpt_call.h"

#define ROOT CKPT_ROOT_INO
#define F (S_IFREG | 0644)
#define D (S_IFDIR | 0755)

static void up(void)
{
	fixture_up();
	node_up();
}

static bool yes(void *ctx, uint64_t ino)
{
	(void)ctx;
	(void)ino;
	return true;
}

/* A bit of everything. */
static void grow(const char *name)
{
	uint64_t d = make(ROOT, name, D).ino, f, g;
	char big[70000];
	struct ckpt_attr a;

	for (int i = 0; i < 60; i++) {
		char sub[32];

		snprintf(sub, sizeof(sub), "f%d", i);
		make(d, sub, i % 3 ? F : i % 2 ? D : S_IFLNK | 0777);
	}
	f = look(d, "f1").ino;
	g = look(d, "f2").ino;
	memset(big, 'x', sizeof(big));
	ck_assert_int_eq(
		ckpt_xattr_set(meta, 0, f, "user.b", big, 65536, 0, NOW), 0);
	ck_assert_int_eq(
		ckpt_xattr_set(meta, 0, f, "user.c", "\0\r\n", 3, 0, NOW - 1),
		0);
	ck_assert_int_eq(ckpt_link(meta, 0, g, d, "hard\n\xff", NOW + 1, &a),
			 0);
	ck_assert_int_eq(ckpt_rename(meta, 0, d, "f3", d, "f9", 0, NULL, NULL,
				     NOW + 2, NULL),
			 0);
	ck_assert_int_eq(ckpt_unlink(meta, 0, d, "f4", NULL, NULL, NOW, NULL),
			 0);
	ck_assert_int_eq(ckpt_unlink(meta, 0, d, "f5", yes, NULL, NOW, NULL),
			 0);
	ck_assert_int_eq(ckpt_open_write(meta, 0, g, &a), 0);
	a.size_bytes = INT64_MAX;
	a.mtime_ns = -NOW;
	ck_assert_int_eq(ckpt_publish(meta, 0, g,
				      CKPT_SET_SIZE | CKPT_SET_MTIME, &a, true,
				      &a),
			 0);
	ck_assert_int_eq(ckpt_set_checksums(meta, 0, g, a.version, big, 100),
			 0);
}

static void same_as(char *before)
{
	cleanup_free char *after = tree_dump();
	size_t i = 0;

	while (before[i] && before[i] == after[i])
		i++;
	while (i && before[i - 1] != '\n')
		i--;
	ck_assert_msg(!strcmp(before, after), "before: %.200s\nafter: %.200s",
		      before + i, after + i);
	free(before);
}

/* --- Redis ------------------------------------------------------------- */

START_TEST(a_killed_redis_that_comes_back_empty_gets_the_tree_again)
{
	char *before;
	uint64_t seq;

	grow("d");
	before = tree_dump();
	seq = logged_seq();
	server_stop();
	server_start(NULL);

	make(ROOT, "after", F); /* waits for the reload */
	ck_assert_uint_eq(logged_seq(), seq + 1);
	ck_assert_int_eq(
		ckpt_unlink(meta, 0, ROOT, "after", NULL, NULL, NOW, NULL), 0);
	{
		cleanup_free char *after = tree_dump();

		/* The root's times moved on; all below it is the same. */
		ck_assert(!strcmp(strchr(before, '\n'), strchr(after, '\n')));
	}
	free(before);
}
END_TEST

START_TEST(a_flushed_redis_is_filled_again_and_readers_see_no_hole)
{
	char *before;

	grow("d");
	before = tree_dump();
	server_text("FLUSHALL");
	same_as(before);

	before = tree_dump();
	node_down();
	server_text("FLUSHALL");
	node_up();
	ck_assert_int_eq(look_err(ROOT, "d"), 0);
	same_as(before);
}
END_TEST

START_TEST(a_redis_that_was_rolled_back_is_brought_forward)
{
	char *before;

	grow("old");
	server_text("SAVE");
	grow("new");
	make(ROOT, "last", D);
	before = tree_dump();
	server_stop();
	server_start(NULL); /* reads dump.rdb: a tree, an older one */

	same_as(before);
	ck_assert_int_eq(look_err(ROOT, "new"), 0);
	make(ROOT, "later", D);
}
END_TEST

START_TEST(a_restarted_daemon_and_an_intact_redis_go_on_without_a_reload)
{
	char *before;
	uint64_t seq;

	grow("d");
	node_down();
	node_up();
	before = tree_dump();
	seq = logged_seq();
	node_down();
	server_text("SET kvfs:{c}:canary 1"); /* a reload would wipe it */
	node_up();
	ck_assert_uint_eq(server_int("EXISTS kvfs:{c}:canary"), 1);
	ck_assert_uint_eq(logged_seq(), seq);
	same_as(before);
}
END_TEST

START_TEST(a_silent_redis_is_an_error_in_time_and_heals)
{
	int64_t start = clock_now_ns();

	server_text("CLIENT PAUSE 1500 ALL");
	{
		struct ckpt_attr a;
		struct ckpt_attr set = {.mode = F};
		int64_t deadline = start + 300 * NS_PER_MS;

		ck_assert_int_eq(ckpt_lookup(meta, deadline, ROOT, "x", &a),
				 -EIO);
		ck_assert_int_eq(
			ckpt_create(meta, deadline, ROOT, "x", &set, NULL, &a),
			-EIO);
	}
	ck_assert_int_lt(clock_now_ns() - start, 900 * NS_PER_MS);
	make(ROOT, "y", F);
	ck_assert_int_eq(look_err(ROOT, "y"), 0);
}
END_TEST

START_TEST(what_ran_after_its_caller_gave_up_is_in_the_log_all_the_same)
{
	struct ckpt_attr a, set = {.mode = F};
	char *before;

	server_text("CLIENT PAUSE 700 ALL");
	ck_assert_int_eq(ckpt_create(meta, clock_now_ns() + 100 * NS_PER_MS,
				     ROOT, "late", &set, NULL, &a),
			 -EIO);
	make(ROOT, "next", F);
	ck_assert_int_eq(look_err(ROOT, "late"), 0);

	before = tree_dump();
	server_text("FLUSHALL");
	same_as(before);
}
END_TEST

START_TEST(two_clusters_are_not_mixed)
{
	struct meta *other = NULL;
	char *before;

	grow("ours");
	before = tree_dump();
	node_down();
	server_text("FLUSHALL");
	ck_assert_int_eq(node_try("other", NULL, &meta), 0);
	make(ROOT, "theirs", F);
	ck_assert_int_eq(node_try("state", NULL, &other), -EINVAL);
	ck_assert_int_eq(look_err(ROOT, "theirs"), 0);
	ck_assert_int_eq(look_err(ROOT, "ours"), -ENOENT);

	/* Under another prefix both live in one Redis. */
	ck_assert_int_eq(node_try("state", "kvfs2", &other), 0);
	node_down();
	meta = other;
	same_as(before);
}
END_TEST

START_TEST(a_node_without_a_log_takes_the_tree_that_is_there)
{
	char *before;

	for (int i = 0; i < 20; i++) {
		char name[32];

		snprintf(name, sizeof(name), "d%d", i);
		grow(name);
	}
	node_down();
	node_up();
	before = tree_dump();
	node_down();
	ck_assert_int_eq(node_try("other", NULL, &meta), 0);
	make(ROOT, "x", D);
	ck_assert_int_eq(ckpt_rmdir(meta, 0, ROOT, "x", NOW, NULL), 0);
	server_text("FLUSHALL");
	same_as(before);
}
END_TEST

/* --- one call, once ---------------------------------------------------- */

START_TEST(a_call_whose_answer_was_lost_happens_once)
{
	uint64_t seq = logged_seq();
	struct ckpt_attr a;

	proxy_set(PROXY_CUT_AFTER, "kvfs1_ckpt_create", NULL, 0);
	a = make(ROOT, "f", F);
	ck_assert(proxy_done());
	ck_assert_uint_eq(logged_seq(), seq + 1);
	ck_assert_uint_eq(look(ROOT, "f").ino, a.ino);

	proxy_set(PROXY_CUT_AFTER, "kvfs1_ckpt_unlink", NULL, 0);
	ck_assert_int_eq(ckpt_unlink(meta, 0, ROOT, "f", NULL, NULL, NOW, NULL),
			 0);
	ck_assert(proxy_done());
	ck_assert_uint_eq(logged_seq(), seq + 2);

	proxy_set(PROXY_CUT_BEFORE, "kvfs1_ckpt_create", NULL, 0);
	make(ROOT, "f", F);
	ck_assert(proxy_done());
	ck_assert_int_eq(make_err(ROOT, "f", F), -EEXIST);
}
END_TEST

struct lie {
	const char *name;
	const char *bytes;
	size_t n_bytes;
};
#define LIE(name, bytes)                       \
	{                                      \
		name, bytes, sizeof(bytes) - 1 \
	}

#define Z4 "\0\0\0\0"
#define Z8 Z4 Z4
#define Z16 Z8 Z8
#define Z80 Z16 Z16 Z16 Z16 Z16

static const struct lie lies[] = {
	LIE("nothing", "$-1\r\n"),
	LIE("an empty string", "$0\r\n\r\n"),
	LIE("a short head", "$15\r\n" Z8 Z4 "\0\0\0"
			    "\r\n"),
	LIE("no result", "$16\r\n" Z16 "\r\n"),
	LIE("an integer", ":7\r\n"),
	LIE("a status", "+OK\r\n"),
	LIE("an empty array", "*0\r\n"),
	LIE("an array", "*2\r\n:1\r\n$3\r\nabc\r\n"),
	LIE("a record past the end", "$16\r\n" Z8 Z4 "\xff\xff\xff\xff\r\n"),
	LIE("a record past the end by one", "$17\r\n" Z8 Z4 "\x02\0\0\0x\r\n"),
	LIE("an unknown status", "$16\r\n\xff\xff\xff\xff" Z8 Z4 "\r\n"),
	LIE("a seq without a record", "$16\r\n" Z4 "\x01" Z8 "\0\0\0\r\n"),
	LIE("a short inode", "$24\r\n" Z16 "\x02"
			     "\0\0\0" Z4 "\r\n"),
	LIE("a zero inode", "$104\r\n" Z16 Z8 Z80 "\r\n"),
	LIE("a long inode", "$105\r\n" Z16 Z8 Z80 "\0\r\n"),
	LIE("an error", "-ERR something else\r\n"),
	LIE("an errno nobody asked for", "$16\r\n\x09\0\0\0" Z8 Z4 "\r\n"),
};

static void count_name(void *arg, const char *name, const struct ckpt_attr *a)
{
	(void)name;
	(void)a;
	++*(int *)arg;
}

static void ino_ignore(void *arg, uint64_t ino)
{
	(void)arg;
	(void)ino;
}

START_TEST(an_answer_that_is_none_is_an_error_and_no_more)
{
	const struct lie *l = &lies[_i];
	uint64_t f = make(ROOT, "f", F).ino, cursor = 0;
	char buf[64];
	struct ckpt_attr a;
	int n = 0, err;

	proxy_set(PROXY_LIE, "kvfs1_ckpt_lookup", l->bytes, l->n_bytes);
	err = look_err(ROOT, "f");
	ck_assert_msg(err == -EIO || err == -EBADF, "%s: %d", l->name, err);
	ck_assert(proxy_done());
	ck_assert_int_eq(look_err(ROOT, "f"), 0);

	proxy_set(PROXY_LIE, "kvfs1_ckpt_readdir", l->bytes, l->n_bytes);
	ck_assert_int_lt(ckpt_readdir(meta, 0, ROOT, &cursor, count_name, &n),
			 0);
	ck_assert_int_eq(n, 0);
	proxy_set(PROXY_LIE, "kvfs1_ckpt_readlink", l->bytes, l->n_bytes);
	err = ckpt_readlink(meta, 0, f, buf, sizeof(buf));
	ck_assert(err < 0 || (err == 0 && strlen(buf) < sizeof(buf)));
	proxy_set(PROXY_LIE, "kvfs1_ckpt_inos", l->bytes, l->n_bytes);
	ck_assert_int_lt(ckpt_each_ino(meta, ino_ignore, NULL), 0);
	proxy_set(PROXY_LIE, "kvfs1_ckpt_unlink", l->bytes, l->n_bytes);
	ck_assert_int_lt(ckpt_unlink(meta, 0, ROOT, "f", NULL, NULL, NOW, NULL),
			 0);
	ck_assert_int_eq(ckpt_getattr(meta, 0, f, &a), 0);
}
END_TEST

#define ATTR_F                                 \
	"\x02\0\0\0\0\0\0\0\xa4\x81\0\0" Z4 Z4 \
	"\x01\0\0\0" Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8
static const struct lie pages[] = {
	LIE("a name of nothing", "$109\r\n" Z16 "\x01\0"
				 "0"
				 "\0\0" ATTR_F "\r\n"),
	LIE("a name with a slash", "$112\r\n" Z16 "\x01\0"
				   "0"
				   "\x03\0"
				   "a/b" ATTR_F "\r\n"),
	LIE("a name with a zero", "$112\r\n" Z16 "\x01\0"
				  "0"
				  "\x03\0"
				  "a\0b" ATTR_F "\r\n"),
	LIE("dot dot", "$111\r\n" Z16 "\x01\0"
		       "0"
		       "\x02\0"
		       ".." ATTR_F "\r\n"),
	LIE("a cursor of letters", "$20\r\n" Z16 "\x02\0"
				   "0x"
				   "\r\n"),
	LIE("no cursor", "$18\r\n" Z16 "\0\0"
			 "\r\n"),
	LIE("half an entry", "$29\r\n" Z16 "\x01\0"
			     "0"
			     "\x03\0"
			     "abc"
			     "\x02\0"
			     "\0\0\0"
			     "\r\n"),
	LIE("a good one and then rubbish", "$113\r\n" Z16 "\x01\0"
					   "0"
					   "\x03\0"
					   "abc" ATTR_F "\x02"
					   "\r\n"),
};

START_TEST(a_listing_that_is_malformed_tells_no_name)
{
	uint64_t cursor = 0;
	int n = 0;

	proxy_set(PROXY_LIE, "kvfs1_ckpt_readdir", pages[_i].bytes,
		  pages[_i].n_bytes);
	ck_assert_msg(ckpt_readdir(meta, 0, ROOT, &cursor, count_name, &n) ==
			      -EIO,
		      "%s", pages[_i].name);
	ck_assert(proxy_done());
	ck_assert_int_eq(n, 0);
}
END_TEST

/* --- the log ----------------------------------------------------------- */

static int state_open(const char *name, int flags)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", fixture_state("state"), name);
	return open(path, flags, 0600);
}

static off_t log_bytes(void)
{
	cleanup_close int fd = state_open("ckpt.log", O_RDONLY);

	ck_assert_int_ge(fd, 0);
	return lseek(fd, 0, SEEK_END);
}

static void log_flip(off_t at)
{
	cleanup_close int fd = state_open("ckpt.log", O_RDWR);
	char c;

	ck_assert_int_eq(pread(fd, &c, 1, at), 1);
	c ^= 0x10;
	ck_assert_int_eq(pwrite(fd, &c, 1, at), 1);
}

START_TEST(a_torn_tail_is_cut_off_and_what_came_before_is_kept)
{
	char *before;
	off_t whole;
	int fd;

	grow("d");
	node_down();
	node_up();
	before = tree_dump();
	whole = log_bytes();
	make(ROOT, "torn", F);
	node_down();
	server_text("FLUSHALL");
	fd = state_open("ckpt.log", O_RDWR);
	ck_assert_int_eq(ftruncate(fd, whole + 1 + _i * 17), 0);
	close(fd);

	node_up();
	same_as(before);
	ck_assert_int_eq(log_bytes(), whole);
	make(ROOT, "torn", F);
}
END_TEST

/* How many files of the state directory have this in their name. */
static int files_like(const char *pattern)
{
	char cmd[256];
	FILE *p;
	int n = -1;

	snprintf(cmd, sizeof(cmd), "ls '%s' | grep -c -- '%s'",
		 fixture_state("state"), pattern);
	p = popen(cmd, "r");
	ck_assert_int_eq(fscanf(p, "%d", &n), 1);
	pclose(p);
	return n;
}

START_TEST(damage_in_the_middle_is_mended_from_redis)
{
	char *before;

	grow("d");
	node_down();
	node_up();
	before = tree_dump();
	node_down();
	log_flip(log_bytes() / 2);
	node_up();

	ck_assert_int_eq(files_like(".bad-"), 0);
	ck_assert_int_eq(files_like("ckpt.snap"), 1);
	server_text("FLUSHALL");
	same_as(before);
}
END_TEST

START_TEST(damage_that_nobody_can_mend_is_refused_until_a_person_decides)
{
	struct meta *m = NULL;
	char cmd[256];
	char *before;
	off_t half;

	make(ROOT, "early", D);
	node_down();
	node_up();
	before = tree_dump();
	half = log_bytes();
	grow("late");
	node_down();
	log_flip(half + 30);
	server_text("FLUSHALL");

	ck_assert_int_eq(node_try("state", NULL, &m), -EUCLEAN);
	ck_assert_int_eq(node_try("state", NULL, &m), -EUCLEAN);
	ck_assert_int_eq(files_like(".bad-"), 1);
	snprintf(cmd, sizeof(cmd), "rm '%s'/ckpt.*.bad-*",
		 fixture_state("state"));
	ck_assert_int_eq(system(cmd), 0);
	node_up();
	same_as(before);
}
END_TEST

/* It knows that the other one left, and waits for nothing that it has. */
static void wait_alone(void)
{
	struct timespec ms = {0, 1000000};
	struct meta_stats s;

	do {
		nanosleep(&ms, NULL);
		meta_stats(meta, &s);
	} while (s.ckpt_keepers > 1);
}

/* As after a crash between Redis' answer and the log. */
START_TEST(records_that_the_daemon_missed_are_fetched_from_redis)
{
	struct meta *other;
	char *before;

	make(ROOT, "in", F);
	if (_i != 1)
		node_down();
	ck_assert_int_eq(node_try("other", NULL, &other), 0);
	for (int i = 0; i < 700; i++) {
		struct ckpt_attr a, set = {.mode = F};
		char name[32];

		snprintf(name, sizeof(name), "missed%d", i);
		ck_assert_int_eq(
			ckpt_create(other, 0, ROOT, name, &set, NULL, &a), 0);
	}
	meta_close(other);
	if (_i == 2)
		server_text("DEL kvfs:{c}:log");
	if (_i != 1)
		node_up();
	else
		make(ROOT, "gap", F);
	ck_assert_uint_ge(logged_seq(), 702);
	wait_alone();

	before = tree_dump();
	server_text("FLUSHALL");
	same_as(before);
	ck_assert_int_eq(look_err(ROOT, "missed699"), 0);
}
END_TEST

/* --- many at once ------------------------------------------------------ */

static void *worker(void *arg)
{
	char dir[32], name[32];
	uint64_t d;

	snprintf(dir, sizeof(dir), "w%ld", (long)(intptr_t)arg);
	d = make(ROOT, dir, D).ino;
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		make(d, name, F);
		if (i % 3 == 0)
			ck_assert_int_eq(ckpt_rename(meta, 0, d, name, d,
						     "same", 0, NULL, NULL,
						     NOW + i, NULL),
					 0);
		if (i % 7 == 0)
			ck_assert_int_eq(ckpt_unlink(meta, 0, d, "same", NULL,
						     NULL, NOW, NULL),
					 0);
		if (i % 7 == 0)
			make(d, "same", F);
	}
	return NULL;
}

static void work(long first)
{
	pthread_t t[8];

	for (long i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, worker,
			       (void *)(intptr_t)(first + i));
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
}

START_TEST(the_log_of_many_threads_is_the_tree)
{
	char *before;

	work(0);
	node_down();
	node_up();
	before = tree_dump();
	server_text("FLUSHALL");
	same_as(before);
	before = tree_dump();
	node_down();
	server_stop();
	server_start(NULL);
	node_up();
	same_as(before);
}
END_TEST

static void *compactor(void *arg)
{
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(ckpt_compact(arg), 0);
	return NULL;
}

START_TEST(a_snapshot_taken_under_load_loses_nothing)
{
	pthread_t t;
	char *before;

	grow("d");
	work(0);
	pthread_create(&t, NULL, compactor, meta->ckpt);
	work(100);
	pthread_join(t, NULL);
	node_down();
	node_up();
	ck_assert_int_eq(files_like("ckpt.log"), 1);
	before = tree_dump();
	server_text("FLUSHALL");
	same_as(before);
	before = tree_dump();
	node_down();
	server_stop();
	server_start(NULL);
	node_up();
	same_as(before);
}
END_TEST

START_TEST(a_long_log_is_compacted_by_itself)
{
	struct ckpt_log_info info;

	meta->ckpt->compact_bytes = 100000;
	work(0);
	for (int i = 0; i < 1000; i++) {
		struct timespec ms = {0, 10000000};

		ckpt_log_info(meta->ckpt->log, &info);
		if (info.snap_seq)
			break;
		nanosleep(&ms, NULL);
	}
	ck_assert_uint_gt(info.snap_seq, 0);
}
END_TEST

START_TEST(an_unfinished_snapshot_does_no_harm)
{
	struct ckpt_snap *snap;
	char *before;

	grow("d");
	ck_assert_int_eq(ckpt_snap_begin(&snap, meta->ckpt->log, 0, 0), 0);
	ck_assert_int_eq(ckpt_snap_add(snap, "half", 4), 0);
	grow("e");
	/* The daemon ends here. */
	node_down();
	ck_assert_int_eq(files_like("ckpt.log"), 2);
	ck_assert_int_eq(files_like("ckpt.snap.tmp"), 1);
	server_text("FLUSHALL");
	node_up();
	before = tree_dump();
	ck_assert_int_eq(look_err(ROOT, "e"), 0);
	ck_assert_int_eq(ckpt_compact(meta->ckpt), 0);
	ck_assert_int_eq(files_like("ckpt.log"), 1);
	server_text("FLUSHALL");
	same_as(before);
	free(snap);
}
END_TEST

START_TEST(files_kept_open_by_a_daemon_that_is_gone_are_freed_at_mount)
{
	uint64_t f = make(ROOT, "f", F).ino;
	struct ckpt_attr a;

	ck_assert_int_eq(ckpt_unlink(meta, 0, ROOT, "f", yes, NULL, NOW, NULL),
			 0);
	ck_assert_int_eq(ckpt_getattr(meta, 0, f, &a), 0);
	node_down();
	if (_i)
		server_text("FLUSHALL");
	node_up();
	ck_assert_int_eq(ckpt_getattr(meta, 0, f, &a), -ESTALE);
	ck_assert_uint_eq(count_inos(), 1);
}
END_TEST

START_TEST(a_full_disk_is_an_error_and_the_log_stays_whole)
{
	struct ckpt_attr a, set = {.mode = F};
	char *before;
	int err;

	node_down();
	setenv("KVFS_FAULT", "ckpt.write:1", 1);
	fault_init();
	node_up();
	err = ckpt_create(meta, 0, ROOT, "x", &set, NULL, &a);
	ck_assert(err == -EIO || !err); /* 0: the tail met it first */
	make(ROOT, "y", F);
	ck_assert_int_eq(ckpt_log_sync(meta), 0);
	before = tree_dump();
	node_down();
	server_text("FLUSHALL");
	node_up();
	ck_assert_int_eq(look_err(ROOT, "x"), 0);
	same_as(before);
}
END_TEST

/* --- numbers of calls -------------------------------------------------- */

START_TEST(no_younger_call_takes_the_place_of_one_that_is_late)
{
	char key[64];
	uint64_t late;

	make(ROOT, "first", F);
	late = ckpt_number_take(meta->ckpt, 0);
	for (unsigned i = 0; i < 3 * CKPT_RING; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%u", i);
		make(ROOT, name, F);
	}

	snprintf(key, sizeof(key), "HLEN kvfs:{c}:r%u", meta_node_self(meta));
	ck_assert_uint_eq(server_int(key), CKPT_RING - 1);
	snprintf(key, sizeof(key), "HEXISTS kvfs:{c}:r%u %lu",
		 meta_node_self(meta), (unsigned long)(late % CKPT_RING));
	ck_assert_uint_eq(server_int(key), 0);
	ckpt_number_give(meta->ckpt, late);
}
END_TEST

START_TEST(more_calls_than_redis_remembers_wait_for_one_another)
{
	uint64_t last = 0;

	for (unsigned i = 0; i < CKPT_RING; i++) {
		uint64_t n = ckpt_number_take(meta->ckpt, 0);

		ck_assert_uint_gt(n, last);
		last = n;
	}
	ck_assert_uint_eq(ckpt_number_take(meta->ckpt, clock_now_ns()), 0);
	ckpt_number_give(meta->ckpt, last - 5);
	ck_assert_uint_eq(ckpt_number_take(meta->ckpt, 0),
			  last - 5 + CKPT_RING);
}
END_TEST

static Suite *suite(void)
{
	const int n_lies = sizeof(lies) / sizeof(lies[0]);
	const int n_pages = sizeof(pages) / sizeof(pages[0]);
	Suite *s = suite_create("ckpt_log");
	TCase *t = tcase_create("survive");

	tcase_set_timeout(t, 120);
	tcase_add_checked_fixture(t, up, fixture_down);
	tcase_add_test(
		t, a_killed_redis_that_comes_back_empty_gets_the_tree_again);
	tcase_add_test(t,
		       a_flushed_redis_is_filled_again_and_readers_see_no_hole);
	tcase_add_test(t, a_redis_that_was_rolled_back_is_brought_forward);
	tcase_add_test(
		t,
		a_restarted_daemon_and_an_intact_redis_go_on_without_a_reload);
	tcase_add_test(t, a_silent_redis_is_an_error_in_time_and_heals);
	tcase_add_test(
		t,
		what_ran_after_its_caller_gave_up_is_in_the_log_all_the_same);
	tcase_add_test(t, two_clusters_are_not_mixed);
	tcase_add_test(t, a_node_without_a_log_takes_the_tree_that_is_there);
	tcase_add_test(t, a_call_whose_answer_was_lost_happens_once);
	tcase_add_test(t, no_younger_call_takes_the_place_of_one_that_is_late);
	tcase_add_test(t, more_calls_than_redis_remembers_wait_for_one_another);
	tcase_add_loop_test(t, an_answer_that_is_none_is_an_error_and_no_more,
			    0, n_lies);
	tcase_add_loop_test(t, a_listing_that_is_malformed_tells_no_name, 0,
			    n_pages);
	tcase_add_loop_test(
		t, a_torn_tail_is_cut_off_and_what_came_before_is_kept, 0, 8);
	tcase_add_test(t, damage_in_the_middle_is_mended_from_redis);
	tcase_add_test(
		t,
		damage_that_nobody_can_mend_is_refused_until_a_person_decides);
	tcase_add_loop_test(
		t, records_that_the_daemon_missed_are_fetched_from_redis, 0, 3);
	tcase_add_test(t, the_log_of_many_threads_is_the_tree);
	tcase_add_test(t, a_snapshot_taken_under_load_loses_nothing);
	tcase_add_test(t, a_long_log_is_compacted_by_itself);
	tcase_add_test(t, an_unfinished_snapshot_does_no_harm);
	tcase_add_loop_test(
		t, files_kept_open_by_a_daemon_that_is_gone_are_freed_at_mount,
		0, 2);
	tcase_add_test(t, a_full_disk_is_an_error_and_the_log_stays_whole);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	SRunner *r = srunner_create(suite());
	int failed;

	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

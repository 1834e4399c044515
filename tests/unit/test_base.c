// SPDX-License-Identifier: MIT
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/hist.h"
#include "base/list.h"
#include "base/log.h"
#include "base/sigbus.h"
#include "base/size.h"
#include "base/workers.h"

struct item {
	int n;
	struct list link;
};

static int pop(struct list *head)
{
	struct list *l = list_pop_front(head);

	return l ? container_of(l, struct item, link)->n : -1;
}

START_TEST(a_list_gives_back_in_order_what_was_pushed_at_its_ends)
{
	struct item a = {1, {}}, b = {2, {}}, c = {3, {}};
	struct list head;

	list_init(&head);
	ck_assert(list_empty(&head));
	list_push_back(&head, &b.link);
	list_push_back(&head, &c.link);
	list_push_front(&head, &a.link);

	ck_assert_int_eq(pop(&head), 1);
	ck_assert_int_eq(pop(&head), 2);
	ck_assert_int_eq(pop(&head), 3);
	ck_assert_int_eq(pop(&head), -1);
}
END_TEST

START_TEST(a_removed_link_is_on_no_list_and_may_be_removed_again)
{
	struct item a = {1, {}}, b = {2, {}};
	struct list head;

	list_init(&head);
	list_push_back(&head, &a.link);
	list_push_back(&head, &b.link);
	list_remove(&a.link);
	list_remove(&a.link);

	ck_assert(list_empty(&a.link));
	ck_assert_int_eq(pop(&head), 2);
	ck_assert(list_empty(&head));
}
END_TEST

START_TEST(a_list_may_lose_the_link_that_a_safe_walk_stands_on)
{
	struct item items[5];
	struct list head;
	int seen = 0;

	list_init(&head);
	for (int i = 0; i < 5; i++)
		list_push_back(&head, &items[i].link);
	list_for_each_safe (l, &head) {
		list_remove(l);
		seen++;
	}

	ck_assert_int_eq(seen, 5);
	ck_assert(list_empty(&head));
}
END_TEST

static const struct {
	const char *text;
	int err;
	uint64_t bytes;
} sizes[] = {
	{"0", 0, 0},	       {"4096", 0, 4096},	  {"1B", 0, 1},
	{"64K", 0, 64 << 10},  {"64k", 0, 64 << 10},	  {"64KB", 0, 64 << 10},
	{"4MiB", 0, 4 << 20},  {"1.5GiB", 0, 3ULL << 29}, {"2T", 0, 2ULL << 40},
	{"1P", 0, 1ULL << 50}, {"", -EINVAL, 0},	  {"K", -EINVAL, 0},
	{"-1", -EINVAL, 0},    {"+1", -EINVAL, 0},	  {" 1", -EINVAL, 0},
	{"1 K", -EINVAL, 0},   {"1Q", -EINVAL, 0},	  {"1KK", -EINVAL, 0},
	{"1iB", -EINVAL, 0},   {"0x10", -EINVAL, 0},	  {"inf", -EINVAL, 0},
	{"nan", -EINVAL, 0},   {"9000P", -ERANGE, 0},	  {"1e40", -ERANGE, 0},
};

START_TEST(a_size_is_read_as_people_write_it_and_anything_else_is_refused)
{
	uint64_t bytes = 77;

	int err = size_parse(sizes[_i].text, &bytes);

	ck_assert_msg(err == sizes[_i].err, "%s: %d", sizes[_i].text, err);
	ck_assert_msg(bytes == (err ? 77 : sizes[_i].bytes), "%s: %ju",
		      sizes[_i].text, (uintmax_t)bytes);
}
END_TEST

static const struct {
	uint64_t bytes;
	const char *text;
} formats[] = {
	{0, "0 B"},
	{1023, "1023 B"},
	{1024, "1.00 KiB"},
	{10 << 10, "10.0 KiB"},
	{4508877, "4.30 MiB"},
	{8ULL << 30, "8.00 GiB"},
	{UINT64_MAX, "16384.0 PiB"},
};

START_TEST(a_size_is_shown_in_the_unit_that_keeps_it_short)
{
	char buf[SIZE_FORMAT_BYTES];

	const char *text = size_format(formats[_i].bytes, buf, sizeof(buf));

	ck_assert_str_eq(text, formats[_i].text);
}
END_TEST

START_TEST(a_histogram_counts_a_value_in_the_bucket_of_its_power_of_two)
{
	static const struct {
		int64_t ns;
		int bucket;
	} cases[] = {
		{-5, 0},	   {999, 0},
		{1000, 1},	   {1999, 1},
		{2000, 2},	   {1000 * 1023, 10},
		{1000 * 1024, 11}, {INT64_MAX, HIST_BUCKETS - 1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct hist h = {};

		hist_add(&h, cases[i].ns);

		ck_assert_int_eq(h.count[cases[i].bucket], 1);
		ck_assert_uint_eq(h.sum_ns, cases[i].ns > 0 ? cases[i].ns : 0);
	}
}
END_TEST

START_TEST(a_time_before_1970_keeps_its_nanoseconds_positive)
{
	struct timespec t = clock_timespec(-1);

	ck_assert_int_eq(t.tv_sec, -1);
	ck_assert_int_eq(t.tv_nsec, NS_PER_S - 1);
	ck_assert_int_eq(clock_from_timespec(t), -1);
}
END_TEST

START_TEST(a_fault_fires_at_the_call_it_was_set_for_and_at_no_other)
{
	setenv("KVFS_FAULT", "once:2,onward:3+", 1);
	fault_init();

	for (int call = 1; call <= 6; call++) {
		ck_assert_int_eq(fault_hit("once"), call == 2);
		ck_assert_int_eq(fault_hit("onward"), call >= 3);
		ck_assert(!fault_hit("unset"));
	}
}
END_TEST

START_TEST(without_the_variable_no_fault_is_armed)
{
	unsetenv("KVFS_FAULT");
	fault_armed = false;
	fault_init();

	ck_assert(!fault_hit("once"));
}
END_TEST

#define JOBS 1000

struct counted {
	struct job job;
	atomic_int *done;
	int *order;
	int n;
};

static void count(struct job *job)
{
	struct counted *c = container_of(job, struct counted, job);
	int at = atomic_fetch_add(c->done, 1);

	if (c->order)
		c->order[at] = c->n;
}

static void post_all(struct workers *w, struct counted *jobs, atomic_int *done,
		     int *order)
{
	for (int i = 0; i < JOBS; i++) {
		jobs[i] = (struct counted){
			.job.run = count, .done = done, .order = order, .n = i};
		workers_post(w, &jobs[i].job);
	}
}

START_TEST(drained_workers_have_run_every_job_once)
{
	static struct counted jobs[JOBS];
	atomic_int done = 0;
	struct workers *w;

	ck_assert_int_eq(workers_open(&w, "test", 4, 0), 0);
	post_all(w, jobs, &done, NULL);
	workers_drain(w);

	ck_assert_int_eq(done, JOBS);
	workers_close(w);
}
END_TEST

START_TEST(one_worker_runs_jobs_in_the_order_they_were_posted)
{
	static struct counted jobs[JOBS];
	static int order[JOBS];
	atomic_int done = 0;
	struct workers *w;

	ck_assert_int_eq(workers_open(&w, "test", 1, 5), 0);
	post_all(w, jobs, &done, order);
	workers_drain(w);
	workers_close(w);

	for (int i = 0; i < JOBS; i++)
		ck_assert_int_eq(order[i], i);
}
END_TEST

START_TEST(closing_workers_runs_what_is_still_queued)
{
	static struct counted jobs[JOBS];
	atomic_int done = 0;
	struct workers *w;

	ck_assert_int_eq(workers_open(&w, "test", 2, 0), 0);
	post_all(w, jobs, &done, NULL);
	workers_close(w);

	ck_assert_int_eq(done, JOBS);
	workers_close(NULL);
}
END_TEST

static off_t file_bytes(const char *path)
{
	struct stat st;

	return stat(path, &st) ? -1 : st.st_size;
}

/* A folder of the test's own with room for a log path in it. */
static void log_folder(char *dir, char *path, char *old, size_t size)
{
	snprintf(dir, size, "/tmp/kvfs-test-base.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_lt(snprintf(path, size, "%s/log", dir), (int)size);
	ck_assert_int_lt(snprintf(old, size, "%s/log.old", dir), (int)size);
}

START_TEST(a_log_file_holds_one_stamped_line_per_message_above_its_level)
{
	char dir[64], path[64], old[64], text[256] = "";
	cleanup_file FILE *f = NULL;
	struct stat st;

	log_folder(dir, path, old, sizeof(dir));
	ck_assert_int_eq(log_to_file(path), 0);
	log_set_level(LOG_WARN);
	log_info("pool: too quiet to be seen");
	log_warn("pool: %s: %d left", "frames", 3);
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_nonnull(fgets(text, sizeof(text), f));

	ck_assert_msg(strstr(text, "Z warn: pool: frames: 3 left\n"), "%s",
		      text);
	ck_assert_ptr_null(fgets(text, sizeof(text), f));
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	unlink(path);
	rmdir(dir);
}
END_TEST

START_TEST(a_log_file_is_started_anew_past_4_mib_and_one_older_one_is_kept)
{
	const off_t limit = 4 << 20;
	char dir[64], path[64], old[64], pad[1001];

	log_folder(dir, path, old, sizeof(dir));
	memset(pad, 'x', sizeof(pad) - 1);
	pad[sizeof(pad) - 1] = 0;
	ck_assert_int_eq(log_to_file(path), 0);
	for (int i = 0; i < 10000; i++)
		log_error("%s", pad);

	ck_assert_int_gt(file_bytes(path), 0);
	ck_assert_int_le(file_bytes(path), limit + 2048);
	ck_assert_int_ge(file_bytes(old), limit);
	ck_assert_int_le(file_bytes(old), limit + 2048);
	unlink(path);
	unlink(old);
	rmdir(dir);
}
END_TEST

START_TEST(a_message_longer_than_a_line_is_cut_and_still_ends_its_line)
{
	char dir[64], path[64], old[64], pad[5000];
	cleanup_file FILE *f = NULL;
	int c, last = 0, lines = 0;

	log_folder(dir, path, old, sizeof(dir));
	memset(pad, 'x', sizeof(pad) - 1);
	pad[sizeof(pad) - 1] = 0;
	ck_assert_int_eq(log_to_file(path), 0);
	log_error("%s", pad);
	log_error("next");
	f = fopen(path, "r");
	while ((c = fgetc(f)) != EOF) {
		lines += c == '\n';
		last = c;
	}

	ck_assert_int_eq(lines, 2);
	ck_assert_int_eq(last, '\n');
	unlink(path);
	rmdir(dir);
}
END_TEST

START_TEST(a_log_file_that_cannot_be_made_is_an_error)
{
	ck_assert_int_eq(log_to_file("/nonexistent/folder/log"), -ENOENT);
}
END_TEST

static TCase *values(void)
{
	TCase *t = tcase_create("values");

	tcase_add_test(t,
		       a_list_gives_back_in_order_what_was_pushed_at_its_ends);
	tcase_add_test(t,
		       a_removed_link_is_on_no_list_and_may_be_removed_again);
	tcase_add_test(t, a_list_may_lose_the_link_that_a_safe_walk_stands_on);
	tcase_add_loop_test(
		t,
		a_size_is_read_as_people_write_it_and_anything_else_is_refused,
		0, sizeof(sizes) / sizeof(sizes[0]));
	tcase_add_loop_test(t, a_size_is_shown_in_the_unit_that_keeps_it_short,
			    0, sizeof(formats) / sizeof(formats[0]));
	tcase_add_test(
		t,
		a_histogram_counts_a_value_in_the_bucket_of_its_power_of_two);
	tcase_add_test(t, a_time_before_1970_keeps_its_nanoseconds_positive);
	return t;
}

static void sum_pages(void *arg)
{
	volatile unsigned char *p = arg;

	p[8192] = (unsigned char)(p[0] + p[4096]);
}

START_TEST(memory_that_was_taken_away_is_an_error_each_time)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	char *map =
		mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	sigbus_init();
	ck_assert_ptr_ne(map, MAP_FAILED);
	ck_assert_int_eq(ftruncate(fd, 12288), 0);
	map[0] = 3;
	map[4096] = 4;

	ck_assert_int_eq(sigbus_try(sum_pages, map), 0);
	ck_assert_int_eq(map[8192], 7);
	ck_assert_int_eq(ftruncate(fd, 4096), 0);
	ck_assert_int_eq(sigbus_try(sum_pages, map), -EFAULT);
	ck_assert_int_eq(sigbus_try(sum_pages, map), -EFAULT);
	ck_assert_int_eq(ftruncate(fd, 12288), 0);
	ck_assert_int_eq(sigbus_try(sum_pages, map), 0);
	ck_assert_int_eq(map[8192], 3);
	munmap(map, 12288);
	close(fd);
}
END_TEST

START_TEST(a_fault_that_nobody_waits_for_still_kills)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	volatile char *map =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int status;
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_DUMPABLE, 0);
		sigbus_init();
		map[0] = 1;
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	munmap((void *)map, 4096);
	close(fd);
}
END_TEST

static TCase *services(void)
{
	TCase *t = tcase_create("services");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, without_the_variable_no_fault_is_armed);
	tcase_add_test(
		t, a_fault_fires_at_the_call_it_was_set_for_and_at_no_other);
	tcase_add_test(t, drained_workers_have_run_every_job_once);
	tcase_add_test(t, one_worker_runs_jobs_in_the_order_they_were_posted);
	tcase_add_test(t, closing_workers_runs_what_is_still_queued);
	tcase_add_test(t, memory_that_was_taken_away_is_an_error_each_time);
	tcase_add_test(t, a_fault_that_nobody_waits_for_still_kills);
	tcase_add_test(t, a_log_file_that_cannot_be_made_is_an_error);
	tcase_add_test(
		t,
		a_log_file_holds_one_stamped_line_per_message_above_its_level);
	tcase_add_test(
		t,
		a_log_file_is_started_anew_past_4_mib_and_one_older_one_is_kept);
	tcase_add_test(
		t, a_message_longer_than_a_line_is_cut_and_still_ends_its_line);
	return t;
}

int main(void)
{
	Suite *s = suite_create("base");
	SRunner *r;
	int failed;

	suite_add_tcase(s, values());
	suite_add_tcase(s, services());
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

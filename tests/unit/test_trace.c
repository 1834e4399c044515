// SPDX-License-Identifier: MIT
#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "tools/deal.h"
#include "tools/simulate.h"
#include "tools/trace.h"

#define GOOD                                                               \
	"{\"timestamp\": 7, \"input_length\": 900, \"output_length\": 3, " \
	"\"hash_ids\": [5, 0, 12]}\n"

static char folder[] = "/tmp/test_trace.XXXXXX";
static char trace_path[64], log_path[64];

static void make_folder(void)
{
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(trace_path, sizeof(trace_path), "%s/trace", folder);
	snprintf(log_path, sizeof(log_path), "%s/log", folder);
	ck_assert_int_eq(log_to_file(log_path), 0);
}

static void remove_folder(void)
{
	unlink(trace_path);
	unlink(log_path);
	rmdir(folder);
}

static int load_bytes(struct trace *t, const char *text, size_t len,
		      size_t limit)
{
	FILE *f = fopen(trace_path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(text, 1, len, f), len);
	fclose(f);
	return trace_load(t, trace_path, limit);
}

static int load(struct trace *t, const char *text, size_t limit)
{
	return load_bytes(t, text, strlen(text), limit);
}

/* Does the log's last line hold this? */
static bool logged(const char *what)
{
	char line[1024] = "", last[1024] = "";
	cleanup_file FILE *f = fopen(log_path, "r");

	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		strcpy(last, line);
	return strstr(last, what) != NULL;
}

START_TEST(a_good_trace_is_read_line_by_line)
{
	struct trace t;

	ck_assert_int_eq(load(&t,
			      GOOD "\n"
				   "{\"hash_ids\":[],\"timestamp\":9,"
				   "\"input_length\":0,\"output_length\":1,"
				   "\"more\":true}",
			      0),
			 0);

	ck_assert_uint_eq(t.n_requests, 2);
	ck_assert_uint_eq(t.n_ids, 3);
	ck_assert_uint_eq(t.requests[0].timestamp_ms, 7);
	ck_assert_uint_eq(t.requests[0].input_tokens, 900);
	ck_assert_uint_eq(t.requests[0].output_tokens, 3);
	ck_assert_uint_eq(t.requests[0].n_ids, 3);
	ck_assert_uint_eq(trace_ids(&t, &t.requests[0])[2], 12);
	ck_assert_uint_eq(t.requests[1].timestamp_ms, 9);
	ck_assert_uint_eq(t.requests[1].n_ids, 0);
	trace_free(&t);
}
END_TEST

START_TEST(a_limit_ends_the_reading_before_later_lines_are_looked_at)
{
	struct trace t;

	ck_assert_int_eq(load(&t, GOOD GOOD "not a request\n", 2), 0);

	ck_assert_uint_eq(t.n_requests, 2);
	trace_free(&t);
}
END_TEST

static const struct {
	const char *line, *why;
} bad[] = {
	{"{\"timestamp\": 7", "not JSON"},
	{"{\"timestamp\": 7} {}", "not JSON"},
	{"[1, 2]", "not a JSON object"},
	{"7", "not JSON"},
	{"{\"timestamp\":1,\"timestamp\":2,\"input_length\":1,"
	 "\"output_length\":1,\"hash_ids\":[]}",
	 "not JSON"},
	{"{\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}",
	 "\"timestamp\" is missing"},
	{"{\"timestamp\":\"1\",\"input_length\":1,\"output_length\":1,"
	 "\"hash_ids\":[]}",
	 "\"timestamp\" is not a whole number"},
	{"{\"timestamp\":1,\"input_length\":1.5,\"output_length\":1,"
	 "\"hash_ids\":[]}",
	 "\"input_length\" is not a whole number"},
	{"{\"timestamp\":1,\"input_length\":1,\"output_length\":-1,"
	 "\"hash_ids\":[]}",
	 "\"output_length\" is not a whole number"},
	{"{\"timestamp\":1,\"input_length\":1,\"output_length\":1}",
	 "\"hash_ids\" is missing"},
	{"{\"timestamp\":1,\"input_length\":1,\"output_length\":1,"
	 "\"hash_ids\":{\"0\":1}}",
	 "\"hash_ids\" is not an array"},
	{"{\"timestamp\":1,\"input_length\":1,\"output_length\":1,"
	 "\"hash_ids\":[1,-2]}",
	 "\"hash_ids\" holds something"},
	{"{\"timestamp\":1,\"input_length\":1,\"output_length\":1,"
	 "\"hash_ids\":[1,null]}",
	 "\"hash_ids\" holds something"},
	{"{\"timestamp\":1,\"input_length\":1,\"output_length\":1,"
	 "\"hash_ids\":[99999999999999999999]}",
	 "not JSON"},
};

START_TEST(a_bad_line_is_refused_with_its_number_and_the_reason)
{
	struct trace t = {.n_requests = 77};
	char text[1024];

	snprintf(text, sizeof(text), GOOD "\n%s\n" GOOD, bad[_i].line);
	ck_assert_int_eq(load(&t, text, 0), -EINVAL);

	ck_assert_msg(logged("/trace:3: "), "%s", bad[_i].line);
	ck_assert_msg(logged(bad[_i].why), "%s", bad[_i].line);
	ck_assert_uint_eq(t.n_requests, 77);
}
END_TEST

START_TEST(a_line_longer_than_the_bound_is_refused)
{
	size_t head = strlen(GOOD), len = head + TRACE_LINE_MAX + 1;
	cleanup_free char *text = malloc(len + 1);
	struct trace t;

	ck_assert_ptr_nonnull(text);
	memset(text, ' ', len);
	memcpy(text, GOOD, head);
	ck_assert_int_eq(load_bytes(&t, text, len, 0), -EINVAL);

	ck_assert(logged("/trace:2: the line is longer"));
}
END_TEST

START_TEST(a_nul_byte_does_not_hide_the_rest_of_a_line)
{
	static const char text[] = GOOD "  \0 rubbish\n";
	struct trace t;

	ck_assert_int_eq(load_bytes(&t, text, sizeof(text) - 1, 0), -EINVAL);

	ck_assert(logged("/trace:2: not JSON"));
}
END_TEST

START_TEST(an_empty_file_a_folder_and_no_file_are_refused)
{
	struct trace t;

	ck_assert_int_eq(load(&t, "\n \n", 0), -EINVAL);
	ck_assert(logged("holds no request"));
	ck_assert_int_eq(trace_load(&t, folder, 0), -EISDIR);
	ck_assert_int_eq(trace_load(&t, "/nonexistent/trace", 0), -ENOENT);
}
END_TEST

/* -- the simulation ----------------------------------------------------- */

#define MAX_CAPACITY 64

/* The slowest LRU that can be written: ids in an array, oldest first. */
struct naive {
	uint64_t ids[MAX_CAPACITY];
	size_t n, capacity;
};

static bool naive_remove(struct naive *c, uint64_t id)
{
	for (size_t i = 0; i < c->n; i++) {
		if (c->ids[i] != id)
			continue;
		memmove(&c->ids[i], &c->ids[i + 1], (--c->n - i) * sizeof(id));
		return true;
	}
	return false;
}

static bool naive_has(const struct naive *c, uint64_t id)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->ids[i] == id)
			return true;
	return false;
}

static void naive_add(struct naive *c, uint64_t id)
{
	if (c->n == c->capacity)
		naive_remove(c, c->ids[0]);
	c->ids[c->n++] = id;
}

static uint64_t naive_request(struct naive *c, const uint64_t *ids, size_t n)
{
	size_t i = 0, hits;

	while (i < n && naive_remove(c, ids[i]))
		naive_add(c, ids[i++]);
	for (hits = i; i < n; i++)
		if (!naive_has(c, ids[i]))
			naive_add(c, ids[i]);
	return hits;
}

#define N_REQUESTS 400
#define IDS_EACH 9

/* Chains that share prefixes: id = position and a small choice. */
static void make_trace(struct trace *t, unsigned seed)
{
	static struct trace_request requests[N_REQUESTS];
	static uint64_t ids[N_REQUESTS * IDS_EACH];

	srandom(seed);
	*t = (struct trace){requests, N_REQUESTS, ids, 0};
	for (size_t i = 0; i < N_REQUESTS; i++) {
		size_t n = (size_t)random() % (IDS_EACH + 1);

		requests[i] =
			(struct trace_request){.first = t->n_ids, .n_ids = n};
		for (size_t k = 0; k < n; k++)
			ids[t->n_ids++] =
				k * 1000 + (uint64_t)random() % (k + 2);
	}
}

START_TEST(the_simulation_hits_what_the_naive_list_hits)
{
	struct naive naive = {.capacity = (size_t)_i};
	struct simulate_result r;
	uint64_t hits = 0;
	struct trace t;

	make_trace(&t, (unsigned)_i);
	ck_assert_int_eq(
		simulate(&t, &(struct simulate_config){.capacity = (size_t)_i},
			 &r),
		0);

	for (size_t i = 0; i < t.n_requests; i++)
		hits += naive_request(&naive, trace_ids(&t, &t.requests[i]),
				      t.requests[i].n_ids);
	ck_assert_uint_eq(r.block_hits, hits);
	ck_assert_uint_eq(r.block_refs, t.n_ids);
	ck_assert_uint_eq(r.stores - r.evictions, naive.n);
}
END_TEST

START_TEST(several_nodes_without_a_capacity_hit_what_one_does)
{
	struct simulate_config one = {0}, four = {.n_nodes = 4, .skew = 0.7};
	struct simulate_result a, b;
	struct trace t;

	make_trace(&t, 1);
	ck_assert_int_eq(simulate(&t, &one, &a), 0);
	ck_assert_int_eq(simulate(&t, &four, &b), 0);

	ck_assert_uint_eq(a.block_hits, b.block_hits);
	ck_assert_uint_eq(a.stores, b.stores);
	ck_assert_uint_gt(b.remote_hits, 0);
}
END_TEST

START_TEST(a_block_that_had_to_go_is_hit_where_there_was_room)
{
	/* node 0 holds two blocks and stores three; node 1 is idle */
	uint64_t ids[] = {1, 2, 3, 1};
	struct trace_request q[] = {
		{.timestamp_ms = 10000, .first = 0, .n_ids = 2},
		{.timestamp_ms = 20000, .first = 2, .n_ids = 1},
		{.timestamp_ms = 30000, .first = 3, .n_ids = 1},
	};
	struct trace t = {q, 3, ids, 4};
	struct simulate_config c = {.n_nodes = 2, .capacity = 2, .skew = 1};
	struct simulate_result r;

	ck_assert_int_eq(simulate(&t, &c, &r), 0);

	ck_assert_uint_ge(r.offers, 1);
	ck_assert_uint_eq(r.refused, 0);
	ck_assert_uint_eq(r.block_hits, 1);
	ck_assert_uint_eq(r.remote_hits, 1);
}
END_TEST

START_TEST(requests_are_dealt_as_the_skew_says_and_each_time_alike)
{
	struct deal a = {.n_nodes = 4, .skew = 0.7}, b = a;
	struct deal robin = {.n_nodes = 4};
	unsigned n[4] = {0};

	for (unsigned i = 0; i < 10000; i++) {
		unsigned k = deal_next(&a);

		ck_assert_uint_eq(k, deal_next(&b));
		ck_assert_uint_eq(deal_next(&robin), i % 4);
		ck_assert_uint_lt(k, 4);
		n[k]++;
	}

	ck_assert_uint_ge(n[0], 6800);
	ck_assert_uint_le(n[0], 7200);
	for (int k = 1; k < 4; k++)
		ck_assert_uint_ge(n[k], 800);
}
END_TEST

START_TEST(without_a_capacity_only_the_first_sight_of_a_block_misses)
{
	uint64_t ids[] = {1, 2, 3, 1, 2, 4, 1, 9, 3};
	struct trace_request q[] = {
		{.first = 0, .n_ids = 3},
		{.first = 3, .n_ids = 3},
		{.first = 6, .n_ids = 3},
	};
	struct trace t = {q, 3, ids, 9};
	struct simulate_result r;

	ck_assert_int_eq(simulate(&t, &(struct simulate_config){0}, &r), 0);

	/* 1 2 of the second and 1 of the third; 3 lies beyond its prefix. */
	ck_assert_uint_eq(r.block_hits, 3);
	ck_assert_uint_eq(r.stores, 5);
	ck_assert_uint_eq(r.evictions, 0);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("trace");
	TCase *c = tcase_create("all");

	tcase_add_checked_fixture(c, make_folder, remove_folder);
	tcase_add_test(c, a_good_trace_is_read_line_by_line);
	tcase_add_test(
		c, a_limit_ends_the_reading_before_later_lines_are_looked_at);
	tcase_add_loop_test(
		c, a_bad_line_is_refused_with_its_number_and_the_reason, 0,
		(int)(sizeof(bad) / sizeof(bad[0])));
	tcase_add_test(c, a_line_longer_than_the_bound_is_refused);
	tcase_add_test(c, a_nul_byte_does_not_hide_the_rest_of_a_line);
	tcase_add_test(c, an_empty_file_a_folder_and_no_file_are_refused);
	tcase_add_loop_test(c, the_simulation_hits_what_the_naive_list_hits, 1,
			    MAX_CAPACITY);
	tcase_add_test(
		c, without_a_capacity_only_the_first_sight_of_a_block_misses);
	tcase_add_test(c, several_nodes_without_a_capacity_hit_what_one_does);
	tcase_add_test(c, a_block_that_had_to_go_is_hit_where_there_was_room);
	tcase_add_test(c,
		       requests_are_dealt_as_the_skew_says_and_each_time_alike);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	SRunner *runner = srunner_create(make_suite());
	int failed;

	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

// SPDX-License-Identifier: MIT
#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/simulate.h"
#include "tools/trace.h"

/*
 * The hit rates of the published conversation trace, which is data and no
 * part of the project: it is looked for beside the tree.
 */
#define TRACE_BESIDE "/../shared/traces/conversation_trace.jsonl"

static char path[PATH_MAX];

static const struct {
	size_t capacity;
	double rate;
} figures[] = {
	{1000, 0.045},	{3000, 0.065},	{10000, 0.211},
	{30000, 0.326}, {50000, 0.355}, {0, 0.366},
};

START_TEST(the_trace_is_read_whole)
{
	struct trace t;

	ck_assert_int_eq(trace_load(&t, path, 0), 0);

	ck_assert_uint_eq(t.n_requests, 12031);
	ck_assert_uint_eq(t.n_ids, 288500);
	trace_free(&t);
}
END_TEST

START_TEST(the_simulated_hit_rate_is_the_published_one)
{
	struct simulate_result r;
	struct trace t;

	ck_assert_int_eq(trace_load(&t, path, 0), 0);
	ck_assert_int_eq(simulate(&t,
				  &(struct simulate_config){
					  .capacity = figures[_i].capacity},
				  &r),
			 0);

	ck_assert_double_eq_tol((double)r.block_hits / (double)r.block_refs,
				figures[_i].rate, 0.0006);
	trace_free(&t);
}
END_TEST

static const struct {
	double skew, of_one_node;
} shares[] = {{0, 0.975}, {0.7, 0.98}};

START_TEST(four_nodes_hit_what_one_as_large_as_all_of_them_does)
{
	struct simulate_config one = {.capacity = 10000};
	struct simulate_config four = {
		.n_nodes = 4, .capacity = 2500, .skew = shares[_i].skew};
	struct simulate_result a, b;
	struct trace t;

	ck_assert_int_eq(trace_load(&t, path, 0), 0);
	ck_assert_int_eq(simulate(&t, &one, &a), 0);
	ck_assert_int_eq(simulate(&t, &four, &b), 0);

	ck_assert_double_ge((double)b.block_hits / (double)a.block_hits,
			    shares[_i].of_one_node);
	trace_free(&t);
}
END_TEST

int main(void)
{
	const char *top = getenv("srcdir"), *named = getenv("KVFS_TRACE");
	SRunner *runner;
	Suite *suite;
	TCase *c;
	int failed;

	if (named)
		snprintf(path, sizeof(path), "%s", named);
	else
		snprintf(path, sizeof(path), "%s" TRACE_BESIDE,
			 top ? top : ".");
	if (access(path, R_OK)) {
		printf("skipped: there is no trace at %s\n", path);
		return 77;
	}
	suite = suite_create("trace figures");
	c = tcase_create("all");
	tcase_add_test(c, the_trace_is_read_whole);
	tcase_add_loop_test(c, the_simulated_hit_rate_is_the_published_one, 0,
			    (int)(sizeof(figures) / sizeof(figures[0])));
	tcase_add_loop_test(
		c, four_nodes_hit_what_one_as_large_as_all_of_them_does, 0,
		(int)(sizeof(shares) / sizeof(shares[0])));
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

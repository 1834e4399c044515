// SPDX-License-Identifier: MIT
/* Redis is lost, and somebody who keeps the ckpt tree is late just then. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "keepers_fixture.h"
#include "meta/nodes.h"

/* Of the threads that come to `point` those from n_free on are held, up to the
 * n_end-th; until point is NULL, or n_free more. */
static const char *_Atomic point;
static _Atomic unsigned n_came, n_free, n_end;
static _Atomic bool hold_tails;
static _Atomic unsigned n_keeps;

static void hold(const char *here)
{
	unsigned nth;

	if (!strcmp(here, "ckpt.keep"))
		n_keeps++;
	while (hold_tails && !strcmp(here, "ckpt.tail"))
		wait_ms(1);
	if (!point || strcmp(here, point))
		return;
	nth = n_came++;
	while (point && nth >= n_free && nth < n_end)
		wait_ms(1);
}

static void up(void)
{
	keepers_up();
	point = NULL;
	n_came = n_free = n_keeps = 0;
	n_end = 1000000;
	hold_tails = false;
	fault_hook = hold;
}

static void all_down(void)
{
	point = NULL;
	hold_tails = false;
	keepers_down();
	fault_hook = NULL;
}

/* As if it were stopped, and only it: the node goes on to write. */
static void heartbeat_stop(unsigned i)
{
	struct meta *m = node[i]->meta;

	m->embedded = (void *)1;
	meta_node_stop(m);
	m->embedded = NULL;
}

static void *make_x(void *arg)
{
	make((unsigned)(uintptr_t)arg, "x");
	return NULL;
}

START_TEST(an_answer_that_comes_after_the_election_is_none)
{
	pthread_t t;

	nodes_up(2);
	make(0, "before");
	for (unsigned i = 0; i < 2; i++)
		KEEPS_ALL(i);
	hold_tails = true;
	point = "ckpt.answered";
	n_end = 1;
	pthread_create(&t, NULL, make_x, (void *)1);
	WAIT_FOR(n_came);
	ck_assert_str_eq(tree(0), "before x ");
	server_text("FLUSHALL");
	for (unsigned i = 0; i < 2; i++) /* no log had more */
		ck_assert_str_eq(tree(i), "before ");
	make(0, "after"); /* with the number that x had */

	point = NULL;
	pthread_join(t, NULL);
	hold_tails = false;
	for (unsigned i = 0; i < 2; i++)
		ck_assert_str_eq(tree(i), "after before x ");
	for (unsigned i = 0; i < 2; i++)
		KEEPS_ALL(i);
}
END_TEST

START_TEST(an_answer_that_the_store_still_has_is_given_once)
{
	pthread_t t;

	nodes_up(1);
	hold_tails = true;
	point = "ckpt.answered";
	pthread_create(&t, NULL, make_x, NULL);
	WAIT_FOR(n_came);
	server_text("SAVE");
	server_stop();
	server_start(NULL);
	ck_assert_str_eq(tree(0), "x "); /* it is agreed on */

	point = NULL;
	pthread_join(t, NULL); /* 0, not EEXIST */
	hold_tails = false;
	KEEPS_ALL(0);
}
END_TEST

START_TEST(a_keeper_that_is_slow_to_join_a_new_redis_stays_one)
{
	int64_t set;
	uint32_t b;

	nodes_up(2);
	heartbeat_stop(1);
	b = meta_node_self(node[1]->meta);
	server_text("FLUSHALL");
	make(0, "of-a");
	WAIT_FOR(!meta_node_is_live(node[0]->meta, b));
	KEEPS_ALL(0);
	KEEPS_ALL(1);
	set = server_int("HGET kvfs:{c}:m set");

	for (unsigned i = 0; i < 12; i++) {
		unsigned n = n_keeps;

		WAIT_FOR(n_keeps > n);
	}
	ck_assert_int_eq(server_int("HGET kvfs:{c}:m set"), set);
	ck_assert_int_eq(server_int("HLEN kvfs:{c}:keepers"), 2);
}
END_TEST

START_TEST(a_keeper_that_is_none_any_more_hears_so_before_it_is_answered)
{
	char words[128];

	nodes_up(2);
	point = "ckpt.keep"; /* it does not find out of itself */
	WAIT_FOR(n_came == 2);
	snprintf(words, sizeof(words), "HDEL kvfs:{c}:keepers %s",
		 meta_node_uuid(node[1]->meta));
	server_text(words);
	server_text("HINCRBY kvfs:{c}:m set 1");
	ck_assert_int_eq(make_err(1, "x", clock_now_ns() + 100 * NS_PER_MS),
			 -EIO);

	point = NULL;
	make(1, "y");
	ck_assert_int_eq(server_int("HLEN kvfs:{c}:keepers"), 2);
	ck_assert_str_eq(tree(0), "y ");
}
END_TEST

static size_t tell_shards(void *ctx, uint64_t ino, uint64_t *version,
			  uint8_t *bits)
{
	(void)ctx, (void)ino, (void)bits;
	*version = 0;
	return 0;
}

static void tell_each(void *ctx, void (*fn)(void *arg, uint64_t ino), void *arg)
{
	(void)ctx;
	fn(arg, ROOT);
}

static const struct meta_ckpt_ops shard_ops = {.shards = tell_shards,
					       .shards_each = tell_each};
static const struct ckpt_lock a_lock = {
	.type = F_WRLCK, .owner = 1, .end = 9, .pid = 7, .handle = 5};
static uint64_t locked; /* the inode */

/* A node whose thread is about to tell Redis what is left to tell; and all
 * that this node writes is refused until it attached anew. */
static void attaching_held(void)
{
	struct ckpt_attr attr;

	node[0] = named(0);
	node[0]->config.ckpt_ops = &shard_ops;
	ck_assert_int_eq(node_open(node[0]), 0);
	make(0, "f");
	ck_assert_int_eq(ckpt_lookup(node[0]->meta, 0, ROOT, "f", &attr), 0);
	locked = attr.ino;
	ck_assert_int_eq(ckpt_lock_set(node[0]->meta, 0, locked, &a_lock), 0);
	point = "ckpt.slow";
	WAIT_FOR(n_came);
	server_text("HINCRBY kvfs:{c}:m set 1");
}

static void *close_locked(void *arg)
{
	int64_t *deadline = arg;

	ck_assert(ckpt_lock_close(node[0]->meta, *deadline, locked,
				  a_lock.handle));
	return NULL;
}

static bool is_doubted(void)
{
	return node_stats(node[0]).ckpt_read_only;
}

static bool is_locked(void)
{
	char words[64];

	snprintf(words, sizeof(words), "EXISTS kvfs:{c}:l%" PRIu64, locked);
	return server_int(words);
}

START_TEST(what_a_node_has_to_tell_does_not_keep_it_from_attaching)
{
	int64_t soon;

	attaching_held();
	ckpt_shards_dirty(node[0]->meta, locked);
	soon = clock_now_ns() + NS_PER_S;
	close_locked(&soon); /* and Redis does not hear of it */
	ck_assert(is_doubted());
	ck_assert(is_locked());

	point = NULL;
	ck_assert_int_eq(make_err(0, "x", clock_now_ns() + 2 * NS_PER_S), 0);
	WAIT_FOR(!is_locked());
}
END_TEST

START_TEST(a_close_that_waits_for_the_store_does_not_keep_a_node_from_attaching)
{
	int64_t late = 0;
	pthread_t t;

	attaching_held();
	pthread_create(&t, NULL, close_locked, &late);
	WAIT_FOR(is_doubted());

	point = NULL;
	ck_assert_int_eq(make_err(0, "x", clock_now_ns() + 2 * NS_PER_S), 0);
	pthread_join(t, NULL);
	ck_assert(!is_locked());
}
END_TEST

START_TEST(a_snapshot_is_broken_off_where_the_node_has_to_attach)
{
	struct ckpt_log_info info;
	struct meta_ckpt *c;
	char name[16];

	nodes_up(1);
	c = node[0]->meta->ckpt;
	for (int i = 0; i < 500; i++) { /* more than a page */
		snprintf(name, sizeof(name), "f%d", i);
		make(0, name);
	}
	point = "ckpt.scan";
	c->compact_bytes = 1;
	WAIT_FOR(n_came == 1);
	server_text("HINCRBY kvfs:{c}:m set 1");
	ck_assert_int_eq(make_err(0, "x", clock_now_ns() + NS_PER_S), -EIO);
	ck_assert(is_doubted());

	n_free = 1; /* another page would be held */
	ck_assert_int_eq(make_err(0, "y", clock_now_ns() + 2 * NS_PER_S), 0);
	point = NULL;
	ckpt_log_info(c->log, &info);
	ck_assert_uint_eq(info.snap_seq, 0);
	ck_assert_int_eq(ckpt_compact(c), 0); /* it can be had later */
	KEEPS_ALL(0);
}
END_TEST

START_TEST(a_load_that_redis_lost_a_part_of_begins_anew)
{
	struct redis *link;

	nodes_up(1);
	make(0, "before");
	link = node[0]->meta->links[META_CKPT];
	point = "ckpt.load";
	server_text("FLUSHALL");
	WAIT_FOR(n_came == 1);
	server_text("SAVE"); /* has begun, and nothing came yet */
	n_free = 1;
	WAIT_FOR(n_came == 2); /* all came, but the end */
	server_stop();
	WAIT_FOR(!redis_up(link));
	server_start(NULL);
	WAIT_FOR(redis_up(link));

	point = NULL;
	ck_assert_str_eq(tree(0), "before ");
}
END_TEST

START_TEST(what_a_keeper_said_to_another_run_of_redis_counts_no_more)
{
	nodes_up(3);
	make(0, "early");
	for (unsigned i = 0; i < 3; i++) {
		KEEPS_ALL(i);
		node[i]->meta->ckpt->elect_ms = 3600000;
	}
	die(2);
	server_text("FLUSHALL");
	WAIT_FOR(server_int("HLEN kvfs:{c}:elect") == 2);
	server_text("SAVE"); /* with what a and b said */
	down(2);
	node[2] = named(2);
	ck_assert_int_eq(node_open(node[2]), 0);
	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
	node[2]->meta->ckpt->elect_ms = 3600000;
	hold_tails = true;
	make(1, "late"); /* in the log of b alone */
	die(1);
	server_stop();
	server_start(NULL);
	WAIT_FOR(logged("waiting for what the keepers b have") ||
		 server_int("HGET kvfs:{c}:m ready"));

	down(1);
	node[1] = named(1);
	ck_assert_int_eq(node_open(node[1]), 0);
	hold_tails = false;
	ck_assert_str_eq(tree(0), "early late ");
}
END_TEST

START_TEST(two_trees_in_one_redis_leave_each_other_alone)
{
	static const char *const prefixes[] = {"one", "two"};

	for (unsigned i = 0; i < 2; i++) {
		node[i] = named(i);
		node[i]->config.prefix = prefixes[i];
		ck_assert_int_eq(node_open(node[i]), 0);
		make(i, names[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		const char *state;
		char words[64];

		snprintf(words, sizeof(words),
			 "FCALL kvfs1_ckpt_state 1 %s:{c}:", prefixes[i]);
		state = server_text(words);
		ck_assert_str_eq(state + strlen(state) - 2, " 1");
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		an_answer_that_comes_after_the_election_is_none,
		an_answer_that_the_store_still_has_is_given_once,
		a_keeper_that_is_slow_to_join_a_new_redis_stays_one,
		a_keeper_that_is_none_any_more_hears_so_before_it_is_answered,
		what_a_node_has_to_tell_does_not_keep_it_from_attaching,
		a_close_that_waits_for_the_store_does_not_keep_a_node_from_attaching,
		a_snapshot_is_broken_off_where_the_node_has_to_attach,
		a_load_that_redis_lost_a_part_of_begins_anew,
		what_a_keeper_said_to_another_run_of_redis_counts_no_more,
		two_trees_in_one_redis_leave_each_other_alone,
	};
	Suite *s = suite_create("ckpt late");
	TCase *t = tcase_create("late");

	tcase_add_checked_fixture(t, up, all_down);
	tcase_set_timeout(t, 120);
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++)
		tcase_add_test(t, tests[i]);
	suite_add_tcase(s, t);
	return fixture_run(s);
}

// SPDX-License-Identifier: MIT
/* The ckpt tree on several nodes when Redis loses it, or a part of it. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "keepers_fixture.h"

#define NAMES "redis had not the newest tree" /* filled by one of us */

/* What each of three nodes did, on names of its own and of the others. */
static void change_all(void)
{
	make(0, "of-a");
	make(1, "of-b");
	make(2, "of-c");
	make(0, "gone");
	drop(1, "gone");
	make(1, "old");
	move(2, "old", "new");
	make(2, "over");
	move(0, "of-a", "over");
	make(1, "last");
}
#define CHANGED "last new of-b of-c over "

/* --- Redis lost it ----------------------------------------------------- */

START_TEST(every_keeper_has_what_another_node_did)
{
	nodes_up(3);
	change_all();

	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
	make(0, "more");
	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
}
END_TEST

START_TEST(a_flushed_redis_has_what_all_did_and_nothing_that_is_gone)
{
	unsigned filled;

	nodes_up(3);
	change_all();
	filled = logged_count(NAMES);
	server_text("FLUSHALL");

	make((unsigned)_i, "after"); /* waits for whoever fills it */
	for (unsigned i = 0; i < 3; i++)
		ck_assert_str_eq(tree(i), "after " CHANGED);
	ck_assert_uint_eq(logged_count(NAMES), filled + 1);
	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
}
END_TEST

START_TEST(a_store_restored_from_an_older_copy_is_brought_forward)
{
	nodes_up(3);
	make(2, "before");
	make(2, "doomed");
	server_text("SAVE");
	drop(0, "doomed");
	change_all();
	server_stop();
	server_start(NULL); /* reads dump.rdb */

	ck_assert_int_eq(look(0, "doomed"), -ENOENT);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_str_eq(tree(i), "before " CHANGED);
	make(0, "after");
	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
}
END_TEST

START_TEST(a_redis_that_lost_nothing_goes_on_without_a_reload)
{
	unsigned filled;

	nodes_up(3);
	change_all();
	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
	filled = logged_count(NAMES);
	server_text("SAVE");
	server_stop();
	server_start(NULL);

	make(1, "after");
	ck_assert_str_eq(tree(2), "after " CHANGED);
	ck_assert_uint_eq(logged_count(NAMES), filled);
}
END_TEST

START_TEST(a_restarted_redis_is_asked_nothing_before_the_keepers_agreed)
{
	struct ckpt_attr attr;
	int64_t deadline;

	nodes_up(2);
	make(0, "f");
	node[0]->meta->ckpt->elect_ms = 3600000;
	die(1);
	server_text("SAVE");
	server_stop();
	server_start(NULL);

	/* b may have more, and is not here to say. */
	WAIT_FOR(logged("waiting for what the keepers b have"));
	deadline = clock_now_ns() + 100 * NS_PER_MS;
	ck_assert_int_eq(ckpt_lookup(node[0]->meta, deadline, ROOT, "f", &attr),
			 -EIO);
	deadline = clock_now_ns() + 100 * NS_PER_MS;
	ck_assert_int_eq(make_err(0, "g", deadline), -EROFS);
	ck_assert(logged("a keeper waited for"));
}
END_TEST

/* --- who fills it ------------------------------------------------------ */

static void *open_one(void *arg)
{
	return (void *)(intptr_t)node_open(node[(uintptr_t)arg]);
}

/* All at once; 0 where each of them came up. */
static void open_at_once(unsigned n)
{
	pthread_t t[NODES_MAX];
	void *err;

	for (uintptr_t i = 0; i < n; i++) {
		node[i] = named((unsigned)i);
		pthread_create(&t[i], NULL, open_one, (void *)i);
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(t[i], &err);
		ck_assert_int_eq((intptr_t)err, 0);
	}
}

/* Redis and all nodes fail together, and a's disk is of some time ago. */
static void a_falls_behind(unsigned n)
{
	deadline_ms = 3000; /* they go without a Redis to tell */
	nodes_up(n);
	make(0, "early");
	for (unsigned i = 0; i < n; i++)
		KEEPS_ALL(i);
	ck_assert_int_eq(run("cp -r %s %s", path_of("a"), path_of("a.old")), 0);
	make(1, "late");
	drop(1, "early");
	server_stop();
	for (unsigned i = 0; i < n; i++)
		down(i);
	deadline_ms = 10000;
	ck_assert_int_eq(run("rm -r %s && mv %s %s", path_of("a"),
			     path_of("a.old"), path_of("a")),
			 0);
	server_start(NULL);
}

START_TEST(of_keepers_that_start_at_once_the_newest_log_fills_the_store)
{
	a_falls_behind(2);
	open_at_once(2);

	ck_assert_str_eq(tree(0), "late ");
	ck_assert_str_eq(tree(1), "late ");
	make(0, "x");
	make(1, "y");
	for (unsigned i = 0; i < 2; i++)
		KEEPS_ALL(i);
}
END_TEST

START_TEST(nodes_that_start_at_once_with_nothing_make_one_tree)
{
	open_at_once(3);

	change_all();
	for (unsigned i = 0; i < 3; i++)
		ck_assert_str_eq(tree(i), CHANGED);
	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
}
END_TEST

START_TEST(a_start_that_knows_of_a_newer_log_waits_for_it_and_says_so)
{
	a_falls_behind(2);
	node[0] = named(0);
	node[0]->config.deadline_ms = 300;

	ck_assert_int_eq(node_open(node[0]), -ETIMEDOUT);
	ck_assert(logged("the keepers b are not here to say: start them"));

	/* What it said counts all the same: b need not wait for it. */
	node[1] = named(1);
	ck_assert_int_eq(node_open(node[1]), 0);
	ck_assert_str_eq(tree(1), "late ");
	node[0]->config.deadline_ms = 0;
	ck_assert_int_eq(node_open(node[0]), 0);
	ck_assert_str_eq(tree(0), "late ");
	KEEPS_ALL(0);
}
END_TEST

START_TEST(a_person_may_go_on_without_the_newest_log)
{
	a_falls_behind(2);
	ck_assert_int_eq(run("rm %s/ckpt.keepers", path_of("a")), 0);
	node[0] = named(0);
	ck_assert_int_eq(node_open(node[0]), 0);
	ck_assert_str_eq(tree(0), "early ");
	make(0, "other");

	/* b's log is of a life that is over: nothing of it comes back. */
	node[1] = named(1);
	ck_assert_int_eq(node_open(node[1]), 0);
	ck_assert_str_eq(tree(1), "early other ");
	ck_assert(logged("redis lost records"));
	make(1, "more");
	for (unsigned i = 0; i < 2; i++)
		KEEPS_ALL(i);
	server_text("FLUSHALL");
	make(0, "after");
	ck_assert_str_eq(tree(1), "after early more other ");
}
END_TEST

START_TEST(the_best_live_keeper_fills_it_if_the_newest_stays_away)
{
	struct ckpt_attr attr;
	int64_t deadline;

	nodes_up(2);
	node[0]->meta->ckpt->elect_ms = 1000;
	make(1, "of-b");
	make(0, "of-a");
	make(1, "last");
	KEEPS_ALL(0);
	die(1);
	server_text("FLUSHALL");

	deadline = clock_now_ns() + 200 * NS_PER_MS;
	ck_assert_int_eq(make_err(0, "x", deadline), -EROFS);
	ck_assert_int_eq(ckpt_lookup(node[0]->meta, 0, ROOT, "last", &attr), 0);
	ck_assert_str_eq(tree(0), "last of-a of-b ");
	ck_assert(logged("the keepers b did not answer"));
	make(0, "x");

	/* What was in its log alone does not come back with it. */
	down(1);
	node[1] = named(1);
	ck_assert_int_eq(node_open(node[1]), 0);
	ck_assert_str_eq(tree(1), "last of-a of-b x ");
	KEEPS_ALL(1);
}
END_TEST

/* Half a second for the way back to Redis and for filling it. */
START_TEST(a_call_that_waits_for_an_election_sees_its_end_within_the_deadline)
{
	int64_t left;

	deadline_ms = 0; /* the default */
	nodes_up(1);
	left = meta_deadline(node[0]->meta, 0) - clock_now_ns();

	ck_assert_int_le(node[0]->meta->ckpt->elect_ms, left / NS_PER_MS - 500);
	deadline_ms = 10000;
}
END_TEST

/* --- who keeps it ------------------------------------------------------ */

START_TEST(three_keep_it_and_a_fourth_takes_the_place_of_one_that_left)
{
	nodes_up(4);
	change_all();
	ck_assert(!is_keeper(3));
	make(3, "of-d");
	ck_assert(!is_keeper(3));
	ck_assert_uint_eq(logged_seq(3), 0);

	down(1);
	KEEPS_ALL(3);
	ck_assert_int_eq(server_int("HLEN kvfs:{c}:keepers"), 3);
	server_text("FLUSHALL");
	make(3, "after");
	ck_assert_str_eq(tree(0), "after last new of-b of-c of-d over ");
}
END_TEST

START_TEST(a_fourth_takes_the_place_of_one_that_died)
{
	struct meta_self none = {.n_addrs = 0};
	char words[64];

	nodes_up(4);
	change_all();
	die(1);
	snprintf(words, sizeof(words), "ZADD kvfs:{n}:live 1 %u",
		 meta_node_self(node[1]->meta));
	server_text(words);
	meta_node_announce(node[3]->meta, &none);

	KEEPS_ALL(3);
	WAIT_FOR(server_int("HLEN kvfs:{c}:keepers") == 3);
	server_text("FLUSHALL");
	make(3, "after");
	ck_assert_str_eq(tree(0), "after " CHANGED);
}
END_TEST

START_TEST(who_is_no_keeper_fills_nothing)
{
	int64_t deadline;

	nodes_up(4);
	change_all();
	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
	node[3]->meta->ckpt->elect_ms = 300;
	for (unsigned i = 0; i < 3; i++)
		die(i);
	server_text("FLUSHALL");

	deadline = clock_now_ns() + NS_PER_S;
	ck_assert_int_eq(make_err(3, "x", deadline), -EROFS);
	WAIT_FOR(logged("none of its keepers"));
	ck_assert_int_eq(server_int("EXISTS kvfs:{c}:i1"), 0);

	for (unsigned i = 0; i < 3; i++)
		down(i);
	open_at_once(3);
	make(3, "x");
	ck_assert_str_eq(tree(3), "last new of-b of-c over x ");
}
END_TEST

START_TEST(the_last_to_leave_in_good_order_need_not_come_first)
{
	nodes_up(2);
	make(0, "of-a");
	make(1, "of-b");
	down(0);
	down(1);

	node[0] = named(0);
	node[0]->config.deadline_ms = 2000;
	ck_assert_int_eq(node_open(node[0]), 0);
	ck_assert_str_eq(tree(0), "of-a of-b ");
	KEEPS_ALL(0);
}
END_TEST

/* A copy of a moment in which all had left in good order looks like one that
 * has everything. */
START_TEST(a_copy_from_between_two_runs_is_not_taken_for_the_newest)
{
	nodes_up(2);
	make(0, "of-a");
	KEEPS_ALL(1);
	down(0);
	down(1);
	server_text("SAVE");
	node[1] = named(1);
	ck_assert_int_eq(node_open(node[1]), 0);
	make(1, "late");
	drop(1, "of-a");
	down(1);
	server_stop();
	server_start(NULL);

	node[0] = named(0);
	node[0]->config.deadline_ms = 300;
	ck_assert_int_eq(node_open(node[0]), -ETIMEDOUT);
	ck_assert(logged("the keepers b are not here to say: start them"));

	node[1] = named(1);
	ck_assert_int_eq(node_open(node[1]), 0);
	node[0]->config.deadline_ms = 0;
	ck_assert_int_eq(node_open(node[0]), 0);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_str_eq(tree(i), "late ");
		KEEPS_ALL(i);
	}
}
END_TEST

/* --- all of it at once ------------------------------------------------- */

#define ROUNDS 60
static char answered[3][ROUNDS];

static void *worker(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg;
	char name[32];

	for (int k = 0; k < ROUNDS; k++) {
		snprintf(name, sizeof(name), "%s%d", names[i], k);
		answered[i][k] = !make_err(i, name, 0);
		wait_ms(10);
	}
	return NULL;
}

/* The store may be read anew just then, which is no loss. */
static int look_in_the_end(unsigned i, const char *name)
{
	int err;

	WAIT_FOR((err = look(i, name)) == 0 || err == -ENOENT);
	return err;
}

START_TEST(what_was_answered_is_there_however_often_redis_is_lost)
{
	pthread_t t[3];
	char name[32];

	nodes_up(3);
	for (uintptr_t i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, worker, (void *)i);
	for (int lost = 0; lost < 3; lost++) {
		uint64_t seq = store_seq();

		WAIT_FOR(store_seq() > seq + 10 || store_seq() > 150);
		if (lost == 1) {
			server_text("FLUSHALL");
		} else {
			server_stop();
			server_start(NULL);
		}
		WAIT_FOR(!strcmp(server_text("HGET kvfs:{c}:m ready"), "1"));
	}
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);

	for (unsigned i = 0; i < 3; i++)
		for (int k = 0; k < ROUNDS; k++) {
			snprintf(name, sizeof(name), "%s%d", names[i], k);
			if (answered[i][k])
				ck_assert_msg(
					!look_in_the_end((i + 1) % 3, name),
					"%s", name);
		}
	for (unsigned i = 0; i < 3; i++)
		KEEPS_ALL(i);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		every_keeper_has_what_another_node_did,
		a_store_restored_from_an_older_copy_is_brought_forward,
		a_redis_that_lost_nothing_goes_on_without_a_reload,
		a_restarted_redis_is_asked_nothing_before_the_keepers_agreed,
		of_keepers_that_start_at_once_the_newest_log_fills_the_store,
		nodes_that_start_at_once_with_nothing_make_one_tree,
		a_start_that_knows_of_a_newer_log_waits_for_it_and_says_so,
		a_person_may_go_on_without_the_newest_log,
		the_best_live_keeper_fills_it_if_the_newest_stays_away,
		a_call_that_waits_for_an_election_sees_its_end_within_the_deadline,
		three_keep_it_and_a_fourth_takes_the_place_of_one_that_left,
		a_fourth_takes_the_place_of_one_that_died,
		who_is_no_keeper_fills_nothing,
		the_last_to_leave_in_good_order_need_not_come_first,
		a_copy_from_between_two_runs_is_not_taken_for_the_newest,
		what_was_answered_is_there_however_often_redis_is_lost,
	};
	Suite *s = suite_create("ckpt keepers");
	TCase *t = tcase_create("keepers");

	tcase_add_checked_fixture(t, keepers_up, keepers_down);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(
		t, a_flushed_redis_has_what_all_did_and_nothing_that_is_gone, 0,
		3);
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++)
		tcase_add_test(t, tests[i]);
	suite_add_tcase(s, t);
	return fixture_run(s);
}

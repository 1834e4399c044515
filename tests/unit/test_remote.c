// SPDX-License-Identifier: MIT
/* What a fetch decides about the node that it asks. */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/loop.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "fs/remote_offer.h"
#include "fs/remote_try.h"
#include "tests/unit/engine_fixture.h"

#define SIZE (1u << 20)

static struct fx fx;
static struct fx_mem from, to;

static struct engine_peer *connected(uint32_t i, uint32_t j)
{
	struct engine_peer *p = fx_peer(&fx, i, j);
	struct fx_call c;

	ck_assert_int_eq(fx_call(p, &c, FX_ECHO, "x", 1, 0), 0);
	ck_assert_int_eq(fx_call_wait(&c), 0);
	return p;
}

START_TEST(an_answer_older_than_a_change_of_ours_says_nothing)
{
	const struct meta_kv_found old = {.is_dir = true, .mode = 0755};
	const struct meta_kv_found new = {.is_dir = true, .mode = 0711};
	int64_t asked = clock_now_ns();
	struct kv_dir dir = {.node.type = KV_DIR, .mode = 0755};
	struct kv kv = {.dirs_fd = -1};

	remote_dir_changed(&dir, 0700, 7, 8, asked - 1);

	remote_dir_hear(&kv, &dir, &old, asked);
	ck_assert_uint_eq(dir.mode, 0700);
	ck_assert_uint_eq(dir.uid, 7);
	remote_dir_hear(&kv, &dir, &new, clock_now_ns() + 1);
	ck_assert_uint_eq(dir.mode, 0711);
	ck_assert_uint_eq(dir.uid, 0);
	remote_dir_hear(&kv, &dir, &old, asked + 1);
	ck_assert_uint_eq(dir.mode, 0711);
}
END_TEST

START_TEST(only_who_may_still_write_is_refused_for_what_is_in_quarantine)
{
	const struct fx_piece all = {0, 0, SIZE};
	struct engine_peer *writer, *reader, *other;
	struct fx_batch b = {.status = 1};
	struct engine_xfer x;
	struct fx_grant g;

	fx_open(&fx, &fx_ways[0], 3);
	fx_mem_new(&from, fx_writer(&fx), ENGINE_MEM_HOST, SIZE);
	fx_mem_new(&to, fx_reader(&fx), ENGINE_MEM_HOST, SIZE);
	writer = connected(1, 0);
	other = connected(1, 2);
	reader = fx_peer(&fx, 0, 1);
	fx_grant_open(&g, writer, &to, 0, SIZE);
	loop_plan(LOOP_SLICE, 1, 1, LOOP_HOLD_HARD);
	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b, &x, &all, 1,
				   from.region, g.segment, 0),
			 0);
	ck_assert(loop_wait_held(1));

	ck_assert(!remote_holds_too_much(writer, 10, 9));
	engine_grant_close(g.grant);
	ck_assert(remote_holds_too_much(writer, 10, 9));
	ck_assert(!remote_holds_too_much(writer, 9, 9));
	ck_assert(!remote_holds_too_much(other, 10, 9));
	loop_release();
	fx_grant_wait(&g);
	ck_assert(!remote_holds_too_much(writer, 10, 9));

	fx_batch_wait(&b);
	engine_peer_put(reader);
	engine_peer_put(writer);
	engine_peer_put(other);
	fx_mem_free(&from);
	fx_mem_free(&to);
	fx_close(&fx);
}
END_TEST

/* CLUSTER.md 13: min(deadline / 3, 250 ms + size / a quarter of the rate). */
START_TEST(a_try_waits_for_its_bytes_at_a_quarter_of_the_measured_rate)
{
	const int64_t hour = 3600 * NS_PER_S;

	ck_assert_int_eq(remote_patience(0, 1000, false, hour),
			 250 * NS_PER_MS);
	ck_assert_int_eq(remote_patience(1000, 1000, false, hour),
			 4250 * NS_PER_MS);
	ck_assert_int_eq(remote_patience(64 << 20, 0, false, hour),
			 4250 * NS_PER_MS); /* not measured yet */
}
END_TEST

START_TEST(a_try_leaves_two_thirds_of_what_is_left_for_other_holders)
{
	const int64_t left = 3 * NS_PER_S;

	ck_assert_int_eq(remote_patience(1000, 1000, false, left), NS_PER_S);
	ck_assert_int_eq(remote_patience(0, 1000, false, 300 * NS_PER_MS),
			 100 * NS_PER_MS);
	ck_assert_int_eq(remote_patience(100, 1000, false, left),
			 650 * NS_PER_MS);
	ck_assert_int_eq(remote_patience(100, 1000, true, left), NS_PER_S);
}
END_TEST

START_TEST(
	a_peer_that_owes_an_answer_and_is_silent_for_half_a_second_is_suspect)
{
	const int64_t now = 3600 * NS_PER_S;
	struct engine_peer_info p = {.n_calls = 1,
				     .heard_ns = now - 500 * NS_PER_MS};

	ck_assert(!remote_is_silent(&p, now));
	ck_assert(remote_is_silent(&p, now + 1));
	p.n_calls = 0; /* it has nothing to say */
	ck_assert(!remote_is_silent(&p, now + NS_PER_S));
}
END_TEST

START_TEST(who_is_near_and_idle_is_asked_first_and_who_is_suspect_last)
{
	const int64_t now = 3600 * NS_PER_S;
	const struct engine_peer_info
		near = {.rtt_us = 50, .n_calls = 1, .heard_ns = now},
		far = {.rtt_us = 5000, .n_calls = 1, .heard_ns = now},
		worst = {.rtt_us = 10000000,
			 .n_calls = ENGINE_CALLS_MAX,
			 .heard_ns = now - 499 * NS_PER_MS},
		silent = {.n_calls = 1, .heard_ns = now - 501 * NS_PER_MS};
	int64_t busy = remote_score_of(&worst, false, 10000, now);

	ck_assert_int_lt(remote_score_of(&near, false, 0, now),
			 remote_score_of(&far, false, 0, now));
	ck_assert_int_lt(remote_score_of(&far, false, 0, now),
			 remote_score_of(&near, false, 60, now));
	ck_assert_int_lt(remote_score_of(&near, false, 60, now), busy);
	ck_assert_int_lt(busy, remote_score_of(&silent, false, 0, now));
	/* it was silent for so long that its session ended: no call is out */
	ck_assert_int_lt(busy, remote_score_of(&(struct engine_peer_info){0},
					       true, 0, now));
}
END_TEST

/* -- offers of last copies: CLUSTER.md 16 -------------------------------- */

START_TEST(only_blocks_that_are_half_as_old_again_make_room_for_a_last_copy)
{
	ck_assert(!remote_offer_is_older(1000, 1000));
	ck_assert(!remote_offer_is_older(1499, 1000));
	ck_assert(remote_offer_is_older(1500, 1000));
	ck_assert(remote_offer_is_older(KV_ROOM, INT64_MAX / 2));
}
END_TEST

static const struct remote_offer_peer young = {1, 1499}, old = {2, 9000},
				      older = {3, 9001}, empty = {4, KV_ROOM};

static uint32_t chosen(const struct remote_offer_peer *one,
		       const struct remote_offer_peer *other)
{
	struct remote_offer_choice c = {.n_alike = 0};

	remote_offer_add(&c, young, 0);
	remote_offer_add(&c, *one, 0);
	remote_offer_add(&c, *other, 0);
	remote_offer_add(&c, young, 0);
	return remote_offer_chosen(&c, 1000);
}

START_TEST(a_last_copy_is_offered_to_who_has_room_or_the_oldest)
{
	const struct remote_offer_choice nobody = {.n_alike = 0};

	ck_assert_uint_eq(chosen(&old, &older), older.node);
	ck_assert_uint_eq(chosen(&older, &old), older.node);
	ck_assert_uint_eq(chosen(&empty, &older), empty.node);
	ck_assert_uint_eq(chosen(&older, &empty), empty.node);
	ck_assert_uint_eq(chosen(&young, &old), old.node);
	ck_assert_uint_eq(chosen(&young, &young), 0);
	ck_assert_uint_eq(remote_offer_chosen(&nobody, 1000), 0);
}
END_TEST

START_TEST(of_peers_that_are_as_good_each_is_as_likely)
{
	unsigned n[4] = {0};

	for (unsigned random = 0; random < 6; random++) {
		struct remote_offer_choice c = {.n_alike = 0};

		for (uint32_t i = 1; i <= 3; i++)
			remote_offer_add(&c,
					 (struct remote_offer_peer){i, KV_ROOM},
					 i == 2 ? random % 2 : random / 2);
		n[remote_offer_chosen(&c, 1000)]++;
	}
	ck_assert_uint_eq(n[1], 2);
	ck_assert_uint_eq(n[2], 2);
	ck_assert_uint_eq(n[3], 2);
}
END_TEST

START_TEST(no_more_than_32_offers_and_a_16th_of_the_pool_are_under_way)
{
	const uint64_t pool = 160 << 20, most = pool / 16;

	ck_assert(remote_offer_fits(31, 31, 1, pool));
	ck_assert(!remote_offer_fits(32, 32, 1, pool));
	ck_assert(remote_offer_fits(1, most - 100, 100, pool));
	ck_assert(!remote_offer_fits(1, most - 100, 101, pool));
	ck_assert(remote_offer_fits(0, 0, 2 * most, pool)); /* alone */
}
END_TEST

START_TEST(a_link_is_idle_when_nothing_but_offers_waits_for_it)
{
	const struct engine_peer_info offers = {.n_calls = 2,
						.queued_bytes = 100},
				      nothing = {.n_calls = 0};

	ck_assert(remote_offer_is_idle(&offers, 2, 100));
	ck_assert(!remote_offer_is_idle(&offers, 1, 100));
	ck_assert(!remote_offer_is_idle(&offers, 2, 99));
	ck_assert(remote_offer_is_idle(&nothing, 0, 0));
}
END_TEST

/* What is paid for in a second in which more is asked for. */
static uint64_t paid_in_a_second(struct remote_offer_budget *b, uint64_t rate,
				 int64_t *now)
{
	const uint64_t bytes = 1000;
	uint64_t paid = 0;

	for (unsigned i = 0; i < 100; i++, *now += NS_PER_S / 100)
		while (remote_offer_pay(b, rate, bytes, *now))
			paid += bytes;
	return paid;
}

START_TEST(offers_have_a_twentieth_of_a_link_that_others_use)
{
	const uint64_t rate = 100 * 1000 * 1000, burst = 32 << 20;
	struct remote_offer_budget b;
	int64_t now = 7 * NS_PER_S;
	uint64_t paid;

	remote_offer_budget_init(&b, now);
	paid = paid_in_a_second(&b, rate, &now); /* and what was saved up */
	ck_assert_uint_ge(paid, burst);
	ck_assert_uint_le(paid, burst + rate / 20 + 1000);
	paid = paid_in_a_second(&b, rate, &now);
	ck_assert_uint_ge(paid, rate / 20 - 1000);
	ck_assert_uint_le(paid, rate / 20 + 1000);
	paid = paid_in_a_second(&b, 0, &now); /* 10 Gbit/s, until measured */
	ck_assert_uint_ge(paid, 62500000 - 1000);
	ck_assert_uint_le(paid, 62500000 + 1000);

	now += 3600 * NS_PER_S; /* an hour without saves up no more */
	paid = paid_in_a_second(&b, rate, &now);
	ck_assert_uint_le(paid, burst + rate / 20 + 1000);
}
END_TEST

START_TEST(a_block_may_be_larger_than_what_is_left_and_is_paid_off)
{
	const uint64_t rate = 100 * 1000 * 1000, large = 37 << 20;
	struct remote_offer_budget b;

	remote_offer_budget_init(&b, 0);
	ck_assert(remote_offer_pay(&b, rate, large, 0)); /* 5 MiB too many */
	ck_assert(!remote_offer_pay(&b, rate, 1, NS_PER_S));
	ck_assert(remote_offer_pay(&b, rate, 1, 2 * NS_PER_S));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("remote");
	TCase *c = tcase_create("remote");
	SRunner *runner;
	int failed;

	tcase_set_timeout(c, 60);
	tcase_add_test(c, an_answer_older_than_a_change_of_ours_says_nothing);
	tcase_add_test(
		c,
		only_who_may_still_write_is_refused_for_what_is_in_quarantine);
	tcase_add_test(
		c, a_try_waits_for_its_bytes_at_a_quarter_of_the_measured_rate);
	tcase_add_test(
		c, a_try_leaves_two_thirds_of_what_is_left_for_other_holders);
	tcase_add_test(
		c,
		a_peer_that_owes_an_answer_and_is_silent_for_half_a_second_is_suspect);
	tcase_add_test(
		c, who_is_near_and_idle_is_asked_first_and_who_is_suspect_last);
	tcase_add_test(
		c,
		only_blocks_that_are_half_as_old_again_make_room_for_a_last_copy);
	tcase_add_test(c, a_last_copy_is_offered_to_who_has_room_or_the_oldest);
	tcase_add_test(c, of_peers_that_are_as_good_each_is_as_likely);
	tcase_add_test(
		c, no_more_than_32_offers_and_a_16th_of_the_pool_are_under_way);
	tcase_add_test(c, a_link_is_idle_when_nothing_but_offers_waits_for_it);
	tcase_add_test(c, offers_have_a_twentieth_of_a_link_that_others_use);
	tcase_add_test(c,
		       a_block_may_be_larger_than_what_is_left_and_is_paid_off);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

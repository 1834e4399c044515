// SPDX-License-Identifier: MIT
/* Who gives up queue pairs for whom. No card is in it. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "config.h"

#define SKIPPED 77

#ifdef HAVE_VERBS
#include "engine/rdma.h"

#define N_LINKS 6

static struct transport t;
static struct rdma_link links[N_LINKS];

static void begin(unsigned queues_max)
{
	pthread_mutex_init(&t.mailbox.lock, NULL);
	list_init(&t.endings);
	list_init(&t.sieve);
	t.queues_max = queues_max;
	for (int i = 0; i < N_LINKS; i++) {
		struct rdma_link *l = &links[i];

		l->t = &t;
		mailbox_link_init(&l->post, &t.mailbox);
		l->state = RDMA_UP;
		l->theirs = true;
		l->control.fd = -1;
		list_init(&l->sieve);
		list_init(&l->end);
		list_init(&l->flight);
	}
	for (unsigned i = 0; i < queues_max; i++)
		ck_assert_int_eq(rdma_sieve_add(&links[i]), 0);
}

/* Returns: which one gave way to it; -1: none. */
static int goes_for(int newcomer)
{
	ck_assert_int_eq(rdma_sieve_add(&links[newcomer]), 0);
	ck_assert_uint_eq(t.n_queues, t.queues_max);
	for (int i = 0; i < N_LINKS; i++)
		if (list_empty(&links[i].sieve) &&
		    links[i].state == RDMA_ENDING) {
			ck_assert_int_eq(links[i].why, -EUSERS);
			links[i].state = RDMA_UP; /* seen */
			list_remove(&links[i].end);
			return i;
		}
	return -1;
}

START_TEST(those_that_were_used_stay_once)
{
	begin(3);
	links[0].used = links[1].used = true;

	ck_assert_int_eq(goes_for(3), 2);
	ck_assert_int_eq(goes_for(4), 0);
	links[1].used = true;
	ck_assert_int_eq(goes_for(5), 3);
	ck_assert_int_eq(goes_for(0), 4);
}
END_TEST

START_TEST(where_all_were_used_the_oldest_goes)
{
	begin(3);
	links[0].used = links[1].used = links[2].used = true;

	ck_assert_int_eq(goes_for(3), 0);
}
END_TEST

START_TEST(those_at_work_are_passed_over)
{
	struct list message;

	begin(5);
	links[0].n_outs = 1;
	links[1].ins[RDMA_WINDOW_SLICES - 1].state = RDMA_IN_CLOSING;
	list_push_back(&links[2].flight, &message);
	links[3].state = RDMA_MEETING;

	ck_assert_int_eq(goes_for(5), 4);
}
END_TEST

START_TEST(where_all_are_at_work_there_is_none_for_a_new_one)
{
	begin(2);
	links[0].n_outs = links[1].n_outs = 1;

	ck_assert_int_eq(rdma_sieve_add(&links[2]), -EUSERS);

	ck_assert_uint_eq(t.n_queues, 2);
	ck_assert(list_empty(&links[2].sieve));
	ck_assert(list_empty(&t.endings));
	links[0].n_outs = 0;
	ck_assert_int_eq(goes_for(2), 0);
}
END_TEST

START_TEST(the_hand_leaves_a_link_that_ends)
{
	begin(3);
	links[0].used = true;
	ck_assert_int_eq(goes_for(3), 1);

	rdma_sieve_remove(&links[2]); /* where the hand is */
	rdma_sieve_remove(&links[2]);
	ck_assert_uint_eq(t.n_queues, 2);
	ck_assert_int_eq(goes_for(4), -1);
	ck_assert_int_eq(goes_for(5), 3);

	rdma_sieve_remove(&links[0]);
	rdma_sieve_remove(&links[4]);
	rdma_sieve_remove(&links[5]);
	ck_assert_uint_eq(t.n_queues, 0);
	ck_assert_int_eq(rdma_sieve_add(&links[0]), 0);
	ck_assert_ptr_eq(t.sieve_hand, &links[0].sieve);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rdma_sieve");
	TCase *all = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_test(all, those_that_were_used_stay_once);
	tcase_add_test(all, where_all_were_used_the_oldest_goes);
	tcase_add_test(all, those_at_work_are_passed_over);
	tcase_add_test(all, where_all_are_at_work_there_is_none_for_a_new_one);
	tcase_add_test(all, the_hand_leaves_a_link_that_ends);
	suite_add_tcase(suite, all);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
#else
int main(void)
{
	printf("SKIP: no libibverbs\n");
	return SKIPPED;
}
#endif

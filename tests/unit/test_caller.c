// SPDX-License-Identifier: MIT
/* Whether who waits for us has a signal, as /proc tells it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/caller.h"

struct thread {
	int process, thread, n_threads;
	unsigned long own, shared, blocked;
};

static bool signalled(struct thread t)
{
	char text[1024];

	snprintf(text, sizeof(text),
		 "Name:\tSigPnd: ffff\nState:\tD (disk sleep)\nTgid:\t%d\n"
		 "Ngid:\t0\nPid:\t%d\nPPid:\t1\nThreads:\t%d\nSigQ:\t0/99\n"
		 "SigPnd:\t%016lx\nShdPnd:\t%016lx\nSigBlk:\t%016lx\n"
		 "SigIgn:\t%016lx\nSigCgt:\t%016lx\n",
		 t.process, t.thread, t.n_threads, t.own, t.shared, t.blocked,
		 0ul, 0ul);
	return caller_parse(text);
}

#define TERM (1ul << 14)
#define KILL (1ul << 8)

START_TEST(a_signal_to_the_thread_counts)
{
	ck_assert(!signalled((struct thread){7, 7, 1, 0, 0, 0}));
	ck_assert(signalled((struct thread){7, 7, 1, TERM, 0, 0}));
	ck_assert(signalled((struct thread){7, 9, 3, KILL, 0, TERM}));
}
END_TEST

START_TEST(a_blocked_signal_does_not)
{
	ck_assert(!signalled((struct thread){7, 7, 1, TERM, 0, TERM}));
	ck_assert(!signalled((struct thread){7, 7, 1, 0, TERM, TERM}));
	ck_assert(signalled((struct thread){7, 7, 1, TERM | KILL, 0, TERM}));
}
END_TEST

START_TEST(a_signal_to_the_process_is_the_main_thread_s)
{
	ck_assert(signalled((struct thread){7, 7, 1, 0, TERM, 0}));
	ck_assert(signalled((struct thread){7, 7, 3, 0, TERM, 0}));
	ck_assert(!signalled((struct thread){7, 9, 3, 0, TERM, 0}));
}
END_TEST

START_TEST(what_is_no_status_says_nothing)
{
	ck_assert(!caller_parse(""));
	ck_assert(!caller_parse("Pid:\t1\n"));
	ck_assert(!caller_signalled(0));
	ck_assert(!caller_signalled(1));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("caller");
	TCase *t = tcase_create("status");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_test(t, a_signal_to_the_thread_counts);
	tcase_add_test(t, a_blocked_signal_does_not);
	tcase_add_test(t, a_signal_to_the_process_is_the_main_thread_s);
	tcase_add_test(t, what_is_no_status_says_nothing);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

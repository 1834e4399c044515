// SPDX-License-Identifier: MIT
#include "base/sigbus.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

static _Thread_local sigjmp_buf *volatile way_out;

/* The fault is of this very thread: nobody sends it from outside, and where
 * somebody does, no harm is done while nothing is being tried. */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (way_out && info->si_code > 0)
		siglongjmp(*way_out, 1);
	signal(sig, SIG_DFL); /* our own fault: it comes again, and kills */
	if (info->si_code <= 0)
		raise(sig);
}

void sigbus_init(void)
{
	struct sigaction sa = {.sa_sigaction = on_sigbus,
			       .sa_flags = SA_SIGINFO};

	sigemptyset(&sa.sa_mask);
	sigaction(SIGBUS, &sa, NULL);
}

/* The handler did not return. */
static void unblock(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int sigbus_try(void (*fn)(void *arg), void *arg)
{
	sigjmp_buf here;

	/* Without the mask, which would be a system call each time. */
	if (sigsetjmp(here, 0)) {
		way_out = NULL;
		unblock();
		return -EFAULT;
	}
	way_out = &here;
	fn(arg);
	way_out = NULL;
	return 0;
}

// SPDX-License-Identifier: MIT
#include "fs/gate.h"

#include <dlfcn.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>

/*
 * Answering an io_uring request from another thread.
 *
 * libfuse (3.18) keeps one ring per CPU. An answer is a submission entry: the
 * answering thread takes the queue's lock, gets an entry, fills it in and
 * submits. But the queue's own thread calls io_uring_submit_and_wait()
 * *without* that lock, and what it does first is to publish every entry that
 * was handed out so far. If the answering thread is preempted between "get an
 * entry" and "fill it in", the kernel is shown what the slot held before: the
 * answer of some older request. The new one is never answered, and its caller
 * hangs for good.
 *
 * So the two are kept apart here. The dynamic linker resolves libfuse's
 * io_uring_submit_and_wait to this one, which publishes under the gate and
 * then waits without touching the submission queue; answers from other
 * threads are given inside the gate. The queue's thread does not hold the
 * gate while it runs handlers (it holds libfuse's lock then, and so answers
 * from its own thread need no gate), so the order is always gate, then
 * libfuse's lock.
 *
 * Nor may anybody answer once libfuse has freed its rings, which it does at
 * the end of its loop, before anybody else hears of it: its call of
 * io_uring_queue_exit comes here, too, and waits until all have their answers.
 */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool engaged;

int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_nr)
{
	struct io_uring_cqe *cqe;
	int submitted, err;

	atomic_store_explicit(&engaged, true, memory_order_relaxed);
	gate_enter();
	submitted = io_uring_submit(ring);
	gate_leave();
	if (submitted < 0)
		return submitted;
	err = io_uring_wait_cqe_nr(ring, &cqe, wait_nr);
	return err < 0 ? err : submitted;
}

static _Thread_local void (*at_end)(void *arg);
static _Thread_local void *at_end_arg;

void gate_at_end(void (*fn)(void *arg), void *arg)
{
	at_end = fn;
	at_end_arg = arg;
}

void io_uring_queue_exit(struct io_uring *ring)
{
	void (*fn)(void *arg) = at_end;
	void (*next)(struct io_uring *);

	at_end = NULL;
	if (fn)
		fn(at_end_arg);
	*(void **)&next = dlsym(RTLD_NEXT, "io_uring_queue_exit");
	next(ring);
}

void gate_enter(void)
{
	pthread_mutex_lock(&gate);
}

void gate_leave(void)
{
	pthread_mutex_unlock(&gate);
}

bool gate_engaged(void)
{
	return atomic_load_explicit(&engaged, memory_order_relaxed);
}

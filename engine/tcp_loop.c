// SPDX-License-Identifier: MIT
/*
 * The thread of the tcp transport. One turn: what other threads left (the
 * mailbox), what links want to send, one io_uring_enter that submits all of it
 * and waits, then the completions. Acks and answers that a turn gives rise to
 * so leave together, at its end.
 */
#include "engine/tcp.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RING_ENTRIES 256
#define TICK_NS (50 * NS_PER_MS)

#ifdef __SANITIZE_THREAD__
_Atomic unsigned tcp_wire_order;
#endif

struct io_uring_sqe *tcp_sqe(struct transport *t, struct tcp_op *op)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&t->ring)))
		io_uring_submit(&t->ring);
	/* io_uring_prep_* leave this field alone. */
	sqe->user_data = (uint64_t)(uintptr_t)op;
	return sqe;
}

static void on_event(struct tcp_op *op, int res, uint32_t flags)
{
	struct transport *t = container_of(op, struct transport, event_op);

	(void)res;
	(void)flags;
	t->event_armed = false;
}

static void arm_event(struct transport *t)
{
	struct io_uring_sqe *sqe;

	if (t->event_armed)
		return;
	sqe = tcp_sqe(t, &t->event_op);
	io_uring_prep_read(sqe, t->mailbox.fd, &t->event, sizeof(t->event), 0);
	t->event_armed = true;
}

static void take_listeners(struct transport *t)
{
	struct list *n;

	while ((n = list_pop_front(&t->new_listeners))) {
		struct tcp_listener *s =
			container_of(n, struct tcp_listener, link);

		list_push_back(&t->listeners, &s->link);
		tcp_listener_arm(s);
	}
}

static void take_mail(struct transport *t)
{
	struct mailbox_link *l;

	if (!mailbox_rung(&t->mailbox))
		return;
	pthread_mutex_lock(&t->mailbox.lock);
	take_listeners(t);
	pthread_mutex_unlock(&t->mailbox.lock);
	while ((l = mailbox_next(&t->mailbox)))
		tcp_link_mail(container_of(l, struct tcp_link, post));
}

static void pump(struct transport *t)
{
	struct list *n;

	while ((n = list_pop_front(&t->pumps)))
		tcp_send_pump(container_of(n, struct tcp_link, pump));
}

static void complete(struct transport *t)
{
	struct io_uring_cqe *cqe;

	/* One at a time: a completion may submit, and so see new ones. */
	while (!io_uring_peek_cqe(&t->ring, &cqe)) {
		struct tcp_op *op = (struct tcp_op *)(uintptr_t)cqe->user_data;
		int res = cqe->res;
		uint32_t flags = cqe->flags;

		io_uring_cqe_seen(&t->ring, cqe);
		if (op)
			op->done(op, res, flags);
	}
}

static void tick(struct transport *t)
{
	int64_t now = clock_now_ns();

	if (now < t->tick_ns)
		return;
	t->tick_ns = now + TICK_NS;
	tcp_listeners_tick(t);
	list_for_each_safe (n, &t->links)
		tcp_link_tick(container_of(n, struct tcp_link, of_transport),
			      now);
}

static void wait_for_more(struct transport *t)
{
	struct __kernel_timespec ts = {.tv_nsec = TICK_NS};
	struct io_uring_cqe *cqe;

	if (atomic_load(&t->mailbox.rung)) /* by ourselves, just now */
		io_uring_submit_and_get_events(&t->ring);
	else if (t->n_timed || t->accept_paused)
		io_uring_submit_and_wait_timeout(&t->ring, &cqe, 1, &ts, NULL);
	else
		io_uring_submit_and_wait(&t->ring, 1);
}

/* Returns: true once nothing is left to do. */
static bool wind_up(struct transport *t)
{
	scoped_lock(&t->mailbox.lock);

	if (!t->mailbox.quiet)
		return false;
	list_for_each_safe (n, &t->listeners) {
		struct tcp_listener *s =
			container_of(n, struct tcp_listener, link);

		if (!s->accepting)
			tcp_listener_free(s);
	}
	if (list_empty(&t->listeners) && !t->mailbox.is_quiet) {
		t->mailbox.is_quiet = true;
		pthread_cond_broadcast(&t->mailbox.changed);
	}
	return t->mailbox.ended && list_empty(&t->links) &&
	       list_empty(&t->listeners);
}

static void drop_strangers(struct transport *t)
{
	list_for_each_safe (n, &t->links) {
		struct tcp_link *l =
			container_of(n, struct tcp_link, of_transport);

		if (l->theirs && !l->admitted)
			tcp_link_fail(l, -ESHUTDOWN, "closing");
	}
}

static void stop_accepting(struct transport *t)
{
	struct list *n;

	pthread_mutex_lock(&t->mailbox.lock);
	while ((n = list_pop_front(&t->new_listeners)))
		list_push_back(&t->listeners, n);
	pthread_mutex_unlock(&t->mailbox.lock);
	list_for_each (n, &t->listeners)
		shutdown(container_of(n, struct tcp_listener, link)->fd,
			 SHUT_RDWR);
}

static bool quiet_wanted(struct transport *t)
{
	scoped_lock(&t->mailbox.lock);

	return t->mailbox.quiet;
}

/* Does it tell whether it copied? An older kernel knows no such flag, which it
 * sees before it looks for the socket. */
static bool reports_copies(struct transport *t)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring);
	struct io_uring_cqe *cqe;
	bool known;

	io_uring_prep_send_zc(sqe, -1, NULL, 0, 0, TCP_ZERO_COPY_REPORT);
	sqe->user_data = 0;
	if (io_uring_submit_and_wait(&t->ring, 1) < 0 ||
	    io_uring_peek_cqe(&t->ring, &cqe))
		return false;
	known = cqe->res == -EBADF;
	io_uring_cqe_seen(&t->ring, cqe);
	return known;
}

static void probe_zero_copy(struct transport *t)
{
	struct io_uring_probe *p = io_uring_get_probe();

	t->zero_copy = p && io_uring_opcode_supported(p, IORING_OP_SEND_ZC) &&
		       !io_uring_register_buffers_sparse(&t->ring, TCP_SLOTS);
	io_uring_free_probe(p);
	if (t->zero_copy && reports_copies(t))
		t->zero_copy_flags = TCP_ZERO_COPY_REPORT;
}

static int ring_open(struct transport *t)
{
	static const unsigned ways[] = {IORING_SETUP_SINGLE_ISSUER |
						IORING_SETUP_DEFER_TASKRUN,
					IORING_SETUP_COOP_TASKRUN, 0};
	int rc = -EINVAL;

	for (unsigned i = 0; i < 3 && rc; i++) {
		struct io_uring_params p = {.flags = ways[i] |
						     IORING_SETUP_CQSIZE,
					    .cq_entries = 16 * RING_ENTRIES};

		rc = io_uring_queue_init_params(RING_ENTRIES, &t->ring, &p);
	}
	if (!rc)
		probe_zero_copy(t);
	return rc;
}

/* The ring belongs to the thread that makes it. */
static bool begin(struct transport *t)
{
	int rc = ring_open(t);

	mailbox_enter(&t->mailbox);
	scoped_lock(&t->mailbox.lock);
	t->start_status = rc;
	t->started = true;
	pthread_cond_broadcast(&t->mailbox.changed);
	return !rc;
}

static void *run(void *arg)
{
	struct transport *t = arg;
	bool stopped = false;

	if (!begin(t))
		return NULL;
	for (;;) {
		arm_event(t);
		take_mail(t);
		if (!stopped && quiet_wanted(t)) {
			stop_accepting(t);
			stopped = true;
		}
		if (stopped)
			drop_strangers(t);
		pump(t);
		if (wind_up(t))
			break;
		wait_for_more(t);
		complete(t);
		tick(t);
	}
	return NULL;
}

int tcp_loop_start(struct transport *t)
{
	int rc;

	t->event_op.done = on_event;
	rc = -pthread_create(&t->thread, NULL, run, t);
	if (rc)
		return rc;
	pthread_setname_np(t->thread, "kvfs-tcp");
	pthread_mutex_lock(&t->mailbox.lock);
	while (!t->started)
		pthread_cond_wait(&t->mailbox.changed, &t->mailbox.lock);
	rc = t->start_status;
	pthread_mutex_unlock(&t->mailbox.lock);
	if (rc)
		pthread_join(t->thread, NULL);
	return rc;
}

void tcp_loop_join(struct transport *t)
{
	pthread_join(t->thread, NULL);
	io_uring_queue_exit(&t->ring);
}

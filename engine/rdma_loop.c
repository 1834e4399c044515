// SPDX-License-Identifier: MIT
/*
 * The thread of the rdma transport. One turn: what other threads left (the
 * mailbox), ends that are due, what links want to send, then whatever is ready.
 * One event a wait: what it is about may be gone after the one before it.
 */
#include "engine/rdma.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TICK_NS (50 * NS_PER_MS)
#define TICK_MS 50

int rdma_watch(struct transport *t, struct rdma_fd *f, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = f};

	return epoll_ctl(t->epoll, EPOLL_CTL_ADD, f->fd, &e) ? -errno : 0;
}

void rdma_rewatch(struct transport *t, struct rdma_fd *f, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = f};

	epoll_ctl(t->epoll, EPOLL_CTL_MOD, f->fd, &e);
}

void rdma_unwatch(struct transport *t, struct rdma_fd *f)
{
	if (f->fd < 0)
		return;
	epoll_ctl(t->epoll, EPOLL_CTL_DEL, f->fd, NULL);
	close(f->fd);
	f->fd = -1;
}

static void on_ring(struct rdma_fd *f, uint32_t events)
{
	uint64_t n;

	(void)events;
	if (read(f->fd, &n, sizeof(n)) < 0)
		log_error("engine: rdma: eventfd: %s", strerror(errno));
}

static void take_listeners(struct transport *t)
{
	struct list *n;

	while ((n = list_pop_front(&t->new_listeners))) {
		list_push_back(&t->listeners, n);
		rdma_listener_begin(
			container_of(n, struct rdma_listener, link));
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
		rdma_link_mail(container_of(l, struct rdma_link, post));
}

static void end_links(struct transport *t)
{
	struct list *n;

	while ((n = list_pop_front(&t->endings)))
		rdma_link_end(container_of(n, struct rdma_link, end));
}

static void pump(struct transport *t)
{
	struct list *n;

	while ((n = list_pop_front(&t->pumps)))
		rdma_send_pump(container_of(n, struct rdma_link, pump));
}

static void tick(struct transport *t)
{
	int64_t now = clock_now_ns();

	if (now < t->tick_ns)
		return;
	t->tick_ns = now + TICK_NS;
	rdma_listeners_tick(t);
	list_for_each (n, &t->links)
		rdma_link_tick(container_of(n, struct rdma_link, of_transport),
			       now);
}

static void wait_for_more(struct transport *t)
{
	bool busy = atomic_load(&t->mailbox.rung) || !list_empty(&t->endings) ||
		    !list_empty(&t->pumps);
	bool timed = t->n_timed || t->accept_paused;
	struct epoll_event e;

	if (epoll_wait(t->epoll, &e, 1, busy ? 0 : timed ? TICK_MS : -1) == 1) {
		struct rdma_fd *f = e.data.ptr;

		f->ready(f, e.events);
	}
	if (timed)
		tick(t);
}

static void stop_accepting(struct transport *t)
{
	struct list *n;

	pthread_mutex_lock(&t->mailbox.lock);
	take_listeners(t);
	pthread_mutex_unlock(&t->mailbox.lock);
	while ((n = list_pop_front(&t->listeners)))
		rdma_listener_free(container_of(n, struct rdma_listener, link));
	list_for_each (k, &t->links) {
		struct rdma_link *l =
			container_of(k, struct rdma_link, of_transport);

		if (l->theirs && !l->admitted)
			rdma_link_fail(l, -ESHUTDOWN, "closing");
	}
	scoped_lock(&t->mailbox.lock);
	t->mailbox.is_quiet = true;
	pthread_cond_broadcast(&t->mailbox.changed);
}

/* Returns: true once nothing is left to do. */
static bool wind_up(struct transport *t)
{
	bool quiet, is_quiet, ended;

	pthread_mutex_lock(&t->mailbox.lock);
	quiet = t->mailbox.quiet;
	is_quiet = t->mailbox.is_quiet;
	ended = t->mailbox.ended;
	pthread_mutex_unlock(&t->mailbox.lock);
	if (quiet && !is_quiet)
		stop_accepting(t);
	return ended && is_quiet && list_empty(&t->links);
}

static void *run(void *arg)
{
	struct transport *t = arg;

	mailbox_enter(&t->mailbox);
	for (;;) {
		take_mail(t);
		pump(t);
		end_links(t);
		if (wind_up(t))
			break;
		wait_for_more(t);
	}
	rdma_devices_close(t);
	return NULL;
}

static int start(struct transport *t)
{
	int rc;

	t->rung = (struct rdma_fd){.fd = t->mailbox.fd, .ready = on_ring};
	t->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (t->epoll < 0)
		return -errno;
	rc = rdma_watch(t, &t->rung, EPOLLIN);
	if (!rc)
		rc = -pthread_create(&t->thread, NULL, run, t);
	return rc;
}

int rdma_loop_start(struct transport *t)
{
	int rc = start(t);

	if (!rc) {
		pthread_setname_np(t->thread, "kvfs-rdma");
		return 0;
	}
	if (t->epoll >= 0)
		close(t->epoll);
	return rc;
}

void rdma_loop_join(struct transport *t)
{
	pthread_join(t->thread, NULL);
	close(t->epoll);
}

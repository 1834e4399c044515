// SPDX-License-Identifier: MIT
/*
 * Strangers: connections that have proven nothing yet. There are at most
 * TCP_STRANGERS_MAX, each for TCP_STRANGER_NS and TCP_STRANGER_BYTES. When one
 * more comes, the oldest goes: a thousand idle ones so cannot keep out a node,
 * whose handshake takes a millisecond.
 */
#include "engine/tcp.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128

static void drop_oldest_stranger(struct transport *t)
{
	list_for_each (n, &t->links) {
		struct tcp_link *l =
			container_of(n, struct tcp_link, of_transport);

		if (l->stranger && l->state == TCP_GREETING) {
			tcp_link_fail(l, -EUSERS, "too many connections");
			return;
		}
	}
}

static void stranger(struct tcp_listener *s, int fd)
{
	struct transport *t = s->t;
	struct tcp_link *l;

	if (t->n_strangers >= TCP_STRANGERS_MAX)
		drop_oldest_stranger(t);
	/* Whoever was dropped may still be going. */
	l = t->n_strangers < 2 * TCP_STRANGERS_MAX ? tcp_link_new(t, NULL)
						   : NULL;
	if (!l) {
		close(fd);
		return;
	}
	l->fd = fd;
	l->stranger = true;
	t->n_strangers++;
	list_push_back(&t->links, &l->of_transport);
	tcp_link_deadline(l, clock_now_ns() + TCP_STRANGER_NS);
	tcp_link_greet(l);
}

static void on_accept(struct tcp_op *op, int res, uint32_t flags)
{
	struct tcp_listener *s = container_of(op, struct tcp_listener, accept);
	struct transport *t = s->t;
	bool quiet;

	(void)flags;
	s->accepting = false;
	pthread_mutex_lock(&t->mailbox.lock);
	quiet = t->mailbox.quiet;
	pthread_mutex_unlock(&t->mailbox.lock);
	if (res >= 0 && quiet)
		close(res);
	else if (res >= 0)
		stranger(s, res);
	if (quiet)
		return;
	/* Out of descriptors: the next tick tries again. */
	if (res == -EMFILE || res == -ENFILE || res == -ENOMEM ||
	    res == -ENOBUFS)
		t->accept_paused = true;
	else
		tcp_listener_arm(s);
}

void tcp_listener_arm(struct tcp_listener *s)
{
	struct io_uring_sqe *sqe = tcp_sqe(s->t, &s->accept);

	io_uring_prep_accept(sqe, s->fd, NULL, NULL, SOCK_CLOEXEC);
	s->accepting = true;
}

void tcp_listeners_tick(struct transport *t)
{
	if (!t->accept_paused)
		return;
	t->accept_paused = false;
	list_for_each (n, &t->listeners) {
		struct tcp_listener *s =
			container_of(n, struct tcp_listener, link);

		if (!s->accepting)
			tcp_listener_arm(s);
	}
}

void tcp_listener_free(struct tcp_listener *s)
{
	list_remove(&s->link);
	close(s->fd);
	if (*s->unix_path)
		unlink(s->unix_path);
	free(s);
}

/* A socket file that nobody answers on is one of a past life. */
static void remove_stale(const struct tcp_address *a)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)&a->sa, a->len) &&
	    errno == ECONNREFUSED)
		unlink(un->sun_path);
	close(fd);
}

static int listen_on(struct tcp_listener *s, struct tcp_address *a)
{
	const int one = 1;
	int rc;

	s->fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return -errno;
	if (a->sa.ss_family == AF_UNIX)
		remove_stale(a);
	else
		setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(s->fd, (struct sockaddr *)&a->sa, a->len) ||
	    listen(s->fd, BACKLOG) ||
	    getsockname(s->fd, (struct sockaddr *)&a->sa, &a->len)) {
		rc = -errno;
		close(s->fd);
		return rc;
	}
	if (a->sa.ss_family == AF_UNIX)
		strcpy(s->unix_path, ((struct sockaddr_un *)&a->sa)->sun_path);
	return 0;
}

/* Returns: 0 or -errno; *why in words. */
static int address_check(struct transport *t, const char *address,
			 struct tcp_address *a, const char **why)
{
	if (tcp_address_parse(address, a)) {
		*why = "not an address: tcp:IP:PORT or unix:/PATH";
		return -EINVAL;
	}
	if (!t->have_keys && !tcp_address_is_local(a)) {
		*why = "without a cluster key only loopback and unix sockets "
		       "may be listened on";
		return -EACCES;
	}
	return 0;
}

int tcp_listener_open(struct transport *t, const char *address, char *bound)
{
	struct tcp_listener *s = calloc(1, sizeof(*s));
	struct tcp_address a;
	const char *why = NULL;
	int rc = s ? address_check(t, address, &a, &why) : -ENOMEM;

	if (!rc)
		rc = listen_on(s, &a);
	if (rc == -EADDRINUSE)
		why = "another process listens there: name another port, "
		      "listen=ADDRESS:PORT";
	if (rc) {
		log_error("engine: listen %s: %s", address,
			  why ? why : strerror(-rc));
		free(s);
		return rc;
	}
	tcp_address_format(&a, bound);
	s->t = t;
	s->accept.done = on_accept;
	pthread_mutex_lock(&t->mailbox.lock);
	list_push_back(&t->new_listeners, &s->link);
	pthread_mutex_unlock(&t->mailbox.lock);
	mailbox_ring(&t->mailbox);
	return 0;
}

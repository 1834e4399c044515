// SPDX-License-Identifier: MIT
/*
 * A link's TCP connection. Strangers are few, briefly, in RDMA_CONTROL_BYTES,
 * as in tcp_listen.c; nobody has a queue pair before the handshake is done.
 */
#include "engine/rdma.h"

#include "base/log.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BACKLOG 128
#define SCHEME "rdma:"
#define USER_TIMEOUT_MS 5000

int rdma_address_parse(const char *address, struct tcp_address *a)
{
	char text[ENGINE_ADDRESS_BYTES];

	if (strncmp(address, SCHEME, strlen(SCHEME)) ||
	    snprintf(text, sizeof(text), "tcp:%s", address + strlen(SCHEME)) >=
		    (int)sizeof(text))
		return -EINVAL;
	return tcp_address_parse(text, a);
}

static void address_format(const struct tcp_address *a,
			   char text[ENGINE_ADDRESS_BYTES])
{
	char tcp[ENGINE_ADDRESS_BYTES];

	tcp_address_format(a, tcp);
	snprintf(text, ENGINE_ADDRESS_BYTES, SCHEME "%.*s",
		 ENGINE_ADDRESS_BYTES - 6, tcp + 4);
}

/* --- bytes in ---------------------------------------------------------- */

static int finish_handshake(struct rdma_link *l, uint8_t *out, size_t n_out)
{
	const char *why;
	int rc = rdma_link_admit(l, &why);

	if (rc)
		n_out = auth_close_put(out, WIRE_VERSION_HANDSHAKE, NULL, rc,
				       why);
	if (n_out && (!rc || l->theirs) &&
	    send(l->control.fd, out, n_out, MSG_DONTWAIT | MSG_NOSIGNAL) !=
		    (ssize_t)n_out &&
	    !rc) {
		rc = -EPIPE;
		why = "handshake: send";
	}
	if (rc) {
		rdma_link_fail(l, rc, why);
		return rc;
	}
	l->version = l->auth.version;
	l->auth.send.counter = l->auth.receive.counter = 0;
	rdma_link_meet(l);
	return 0;
}

static int on_handshake(struct rdma_link *l, const struct wire_header *h,
			const uint8_t *payload)
{
	uint8_t out[AUTH_OUT_MAX];
	const char *why;
	size_t n_out;
	int rc;

	if (h->type == WIRE_CLOSE) {
		char words[WIRE_REASON_MAX + 1];

		wire_reason_get(payload, h->length, words);
		rdma_link_fail(l, h->status ? -(int)h->status : -ECONNREFUSED,
			       words);
		return -ENOTCONN;
	}
	rc = auth_step(&l->auth, h, payload, out, &n_out, &why);
	if (rc == 1)
		return finish_handshake(l, out, n_out);
	if (n_out &&
	    send(l->control.fd, out, n_out, MSG_DONTWAIT | MSG_NOSIGNAL) !=
		    (ssize_t)n_out &&
	    !rc) {
		rc = -EPIPE;
		why = "handshake: send";
	}
	if (rc)
		rdma_link_fail(l, rc, why);
	return rc;
}

static int on_frame(struct rdma_link *l, const struct wire_header *h,
		    const uint8_t *frame)
{
	const uint8_t *payload = frame + WIRE_HEADER_BYTES;
	int rc;

	if (l->state == RDMA_GREETING)
		return on_handshake(l, h, payload);
	rc = auth_check_frame(&l->auth.receive, frame,
			      h->length ? payload : NULL, h->length);
	if (rc)
		rdma_link_fail(l, rc, "wrong frame MAC");
	return rc ? rc : rdma_link_frame(l, h, payload);
}

/* Returns: 1 taken, 0 more is needed, or -errno: the link has failed. */
static int take_frame(struct rdma_link *l)
{
	uint8_t version =
		l->state == RDMA_GREETING ? WIRE_VERSION_HANDSHAKE : l->version;
	struct wire_header h;
	const char *why;
	size_t n;
	int rc;

	if (l->state >= RDMA_ENDING)
		return -ENOTCONN;
	if (l->have < WIRE_HEADER_BYTES)
		return 0;
	rc = wire_header_get(l->in, version, &h, &why);
	n = WIRE_HEADER_BYTES + (rc ? 0 : h.length);
	if (!rc && n > sizeof(l->in)) {
		why = "not a frame of this connection";
		rc = -EPROTO;
	}
	if (rc)
		rdma_link_fail(l, rc, why);
	else if (l->have < n)
		return 0;
	else
		rc = on_frame(l, &h, l->in);
	if (rc)
		return rc;
	l->have -= n;
	memmove(l->in, l->in + n, l->have);
	return 1;
}

static void on_readable(struct rdma_link *l)
{
	ssize_t n = recv(l->control.fd, l->in + l->have,
			 sizeof(l->in) - l->have, MSG_DONTWAIT);

	if (n > 0) {
		l->have += (size_t)n;
		while (take_frame(l) == 1)
			;
	} else if (!n || (errno != EAGAIN && errno != EINTR)) {
		rdma_link_fail(l, n ? -errno : -ECONNRESET, "connection ended");
	}
}

/* --- dial -------------------------------------------------------------- */

static void set_options(int fd)
{
	const int one = 1, timeout = USER_TIMEOUT_MS, idle_s = 2, times = 3;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout,
		   sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
}

static void greet(struct rdma_link *l)
{
	static const uint8_t anybody[16];
	uint8_t out[AUTH_OUT_MAX];
	bool client = !l->theirs;
	const uint8_t *expect = client && memcmp(l->peer.uuid, anybody, 16)
					? l->peer.uuid
					: NULL;
	int n = auth_init(&l->auth, &l->t->self, client, expect, NULL,
			  l->session, out);

	l->state = RDMA_GREETING;
	if (n < 0)
		rdma_link_fail(l, n, "no random numbers");
	else if (n && send(l->control.fd, out, (size_t)n,
			   MSG_DONTWAIT | MSG_NOSIGNAL) != n)
		rdma_link_fail(l, -EPIPE, "handshake: send");
}

static void on_dialed(struct rdma_link *l)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(l->control.fd, SOL_SOCKET, SO_ERROR, &error, &len))
		error = errno;
	if (error) {
		rdma_link_fail(l, -error, "connect");
		return;
	}
	rdma_rewatch(l->t, &l->control, EPOLLIN);
	greet(l);
}

static void on_control(struct rdma_fd *f, uint32_t events)
{
	struct rdma_link *l = container_of(f, struct rdma_link, control);

	(void)events;
	if (l->state == RDMA_DIALING)
		on_dialed(l);
	else if (l->state < RDMA_ENDING)
		on_readable(l);
}

static int dial(struct rdma_link *l)
{
	int fd = socket(l->to.sa.ss_family,
			SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	l->control.fd = fd;
	if (fd < 0)
		return -errno;
	if (l->from.len &&
	    bind(fd, (struct sockaddr *)&l->from.sa, l->from.len))
		return -errno;
	set_options(fd);
	if (connect(fd, (struct sockaddr *)&l->to.sa, l->to.len) &&
	    errno != EINPROGRESS)
		return -errno;
	return rdma_watch(l->t, &l->control, EPOLLOUT);
}

void rdma_control_dial(struct rdma_link *l)
{
	int rc;

	l->control.ready = on_control;
	rc = dial(l);
	if (rc)
		rdma_link_fail(l, rc, "connect");
}

/* --- bytes out --------------------------------------------------------- */

int rdma_control_send(struct rdma_link *l, uint8_t type, const void *payload,
		      uint32_t n)
{
	uint8_t frame[WIRE_HEADER_BYTES + WIRE_HANDSHAKE_MAX];
	const struct wire_header h = {
		.version = l->version, .type = type, .length = n};

	wire_header_put(frame, &h);
	if (n)
		memcpy(frame + WIRE_HEADER_BYTES, payload, n);
	auth_seal_frame(&l->auth.send, frame,
			n ? frame + WIRE_HEADER_BYTES : NULL, n);
	n += WIRE_HEADER_BYTES;
	if (send(l->control.fd, frame, n, MSG_DONTWAIT | MSG_NOSIGNAL) ==
	    (ssize_t)n)
		return 0;
	rdma_link_fail(l, -EPIPE, "control: send");
	return -ENOTCONN;
}

void rdma_control_bye(struct rdma_link *l, const char *words)
{
	uint8_t out[AUTH_OUT_MAX];
	size_t n;

	if (l->state == RDMA_MEETING || l->state == RDMA_UP)
		n = auth_close_put(out, l->version, &l->auth.send, l->why,
				   words);
	else if (l->state == RDMA_GREETING && l->theirs && l->auth.expecting)
		n = auth_close_put(out, WIRE_VERSION_HANDSHAKE, NULL, l->why,
				   words);
	else
		return;
	if (send(l->control.fd, out, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* it learns from the connection's end */
}

/* --- strangers --------------------------------------------------------- */

static void drop_oldest_stranger(struct transport *t)
{
	list_for_each (n, &t->links) {
		struct rdma_link *l =
			container_of(n, struct rdma_link, of_transport);

		if (l->stranger && l->state == RDMA_GREETING) {
			rdma_link_fail(l, -EUSERS, "too many connections");
			return;
		}
	}
}

static void stranger(struct transport *t, int fd)
{
	struct rdma_link *l;

	if (t->n_strangers >= RDMA_STRANGERS_MAX)
		drop_oldest_stranger(t);
	l = t->n_strangers < 2 * RDMA_STRANGERS_MAX ? rdma_link_new(t, NULL)
						    : NULL;
	if (!l) {
		close(fd);
		return;
	}
	l->control.fd = fd;
	l->control.ready = on_control;
	l->stranger = true;
	t->n_strangers++;
	list_push_back(&t->links, &l->of_transport);
	rdma_link_deadline(l, clock_now_ns() + RDMA_STRANGER_NS);
	set_options(fd);
	if (rdma_watch(t, &l->control, EPOLLIN))
		rdma_link_fail(l, -ENOMEM, "epoll");
	else
		greet(l);
}

static void on_acceptable(struct rdma_fd *f, uint32_t events)
{
	struct rdma_listener *s = container_of(f, struct rdma_listener, socket);
	int fd = accept4(f->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0) {
		stranger(s->t, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
		   errno == ENOBUFS) { /* the next tick tries again */
		s->paused = s->t->accept_paused = true;
		rdma_rewatch(s->t, f, 0);
	}
}

void rdma_listeners_tick(struct transport *t)
{
	if (!t->accept_paused)
		return;
	t->accept_paused = false;
	list_for_each (n, &t->listeners) {
		struct rdma_listener *s =
			container_of(n, struct rdma_listener, link);

		if (s->paused)
			rdma_rewatch(t, &s->socket, EPOLLIN);
		s->paused = false;
	}
}

void rdma_listener_begin(struct rdma_listener *s)
{
	int rc = rdma_watch(s->t, &s->socket, EPOLLIN);

	if (rc)
		log_error("engine: rdma: epoll: %s", strerror(-rc));
}

void rdma_listener_free(struct rdma_listener *s)
{
	rdma_unwatch(s->t, &s->socket);
	free(s);
}

static int listen_on(struct tcp_address *a)
{
	const int one = 1;
	int fd = socket(a->sa.ss_family,
			SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!bind(fd, (struct sockaddr *)&a->sa, a->len) &&
	    !listen(fd, BACKLOG) &&
	    !getsockname(fd, (struct sockaddr *)&a->sa, &a->len))
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* Returns: 0 or -errno; *why in words. */
static int address_check(struct transport *t, const char *address,
			 struct tcp_address *a, const char **why)
{
	struct topology_port port;
	int rc;

	*why = "not an address: rdma:IP:PORT";
	if (rdma_address_parse(address, a))
		return -EINVAL;
	*why = "rdma does not encrypt: not with tls=on";
	if (t->tls)
		return -EINVAL;
	*why = "without a cluster key only loopback and unix sockets may be "
	       "listened on";
	if (!t->have_keys && !tcp_address_is_local(a))
		return -EACCES;
	*why = t->allowed ? "no RDMA port of those in rdma-device= has this "
			    "address; 'kvfs topology' shows them"
			  : "no RDMA port has this address; 'kvfs topology' "
			    "shows them";
	rc = rdma_port_of(a, t->allowed, &port);
	if (!rc)
		*why = NULL;
	return rc;
}

int rdma_listener_open(struct transport *t, const char *address, char *bound)
{
	struct rdma_listener *s = calloc(1, sizeof(*s));
	struct tcp_address a;
	const char *why = NULL;
	int rc = s ? address_check(t, address, &a, &why) : -ENOMEM;
	int fd = rc ? rc : listen_on(&a);

	if (fd < 0) {
		log_error("engine: listen %s: %s", address,
			  why ? why : strerror(-fd));
		free(s);
		return fd;
	}
	address_format(&a, bound);
	s->t = t;
	s->socket = (struct rdma_fd){fd, on_acceptable};
	pthread_mutex_lock(&t->mailbox.lock);
	list_push_back(&t->new_listeners, &s->link);
	pthread_mutex_unlock(&t->mailbox.lock);
	mailbox_ring(&t->mailbox);
	return 0;
}

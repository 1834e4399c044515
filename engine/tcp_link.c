// SPDX-License-Identifier: MIT
/* A link's life. All of it on the loop, but for tcp_link_new. */
#include "engine/tcp.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <string.h>
#include <unistd.h>

/* The kernel may still send from shared pages after the socket is closed: on
 * loopback, until the other process has read or closed its end. What it reads
 * then reaches no link that lives. */
#define LET_GO_NS (200 * NS_PER_MS)
#define USER_TIMEOUT_MS 5000

void tcp_link_deadline(struct tcp_link *l, int64_t ns)
{
	l->t->n_timed += (unsigned)(ns != 0) - (unsigned)l->timed;
	l->timed = ns != 0;
	l->deadline_ns = ns;
}

/* --- dial -------------------------------------------------------------- */

static void set_options(struct tcp_link *l)
{
	socklen_t len = sizeof(l->family);
	const int fd = l->fd;
	const int one = 1, timeout = USER_TIMEOUT_MS, idle_s = 2, times = 3;

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &l->family, &len);
	/* On unix sockets most of these fail, and are not missed. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout,
		   sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
}

static void on_dialed(struct tcp_op *op, int res, uint32_t flags)
{
	struct tcp_link *l = container_of(op, struct tcp_link, dial);

	(void)flags;
	l->n_ops--;
	if (res < 0)
		tcp_link_fail(l, res, "connect");
	else if (l->state == TCP_DIALING)
		tcp_link_greet(l);
	tcp_link_settle(l);
}

void tcp_link_dial(struct tcp_link *l)
{
	struct io_uring_sqe *sqe;
	int rc = 0;

	l->fd = socket(l->to.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l->fd < 0 || fault_hit("tcp.dial"))
		rc = l->fd < 0 ? -errno : -ECONNREFUSED;
	else if (l->from.len &&
		 bind(l->fd, (struct sockaddr *)&l->from.sa, l->from.len))
		rc = -errno;
	if (rc) {
		tcp_link_fail(l, rc, "socket");
		tcp_link_settle(l);
		return;
	}
	set_options(l);
	sqe = tcp_sqe(l->t, &l->dial);
	io_uring_prep_connect(sqe, l->fd, (struct sockaddr *)&l->to.sa,
			      l->to.len);
	l->n_ops++;
}

/* --- handshake --------------------------------------------------------- */

int tcp_link_introduce(struct tcp_link *l)
{
	static const uint8_t anybody[16];
	uint8_t out[AUTH_OUT_MAX];
	uint8_t binding[32] = {};
	bool client = !l->theirs;
	const uint8_t *expect = client && memcmp(l->peer.uuid, anybody, 16)
					? l->peer.uuid
					: NULL;
	int n;

	n = l->tls ? tls_binding(l->tls, binding) : 0;
	if (!n)
		n = auth_init(&l->auth, &l->t->self, client, expect, binding,
			      l->session, out);
	if (n < 0) {
		tcp_link_fail(l, n, "no random numbers");
		return n;
	}
	return n ? tcp_send_raw(l, out, (size_t)n) : 0;
}

static int begin_tls(struct tcp_link *l)
{
	l->tls = tls_new(l->t->tls, !l->theirs);
	l->cipher = malloc(TCP_CIPHER_BYTES);
	if (!l->tls || !l->cipher) {
		tcp_link_fail(l, -ENOMEM, "no memory");
		return -ENOMEM;
	}
	if (l->theirs)
		return 0;
	tls_shake(l->tls); /* says hello; what is wrong shows later */
	return tcp_send_tls(l);
}

void tcp_link_greet(struct tcp_link *l)
{
	l->state = TCP_GREETING;
	if (l->theirs)
		set_options(l);
	if (!(l->t->tls ? begin_tls(l) : tcp_link_introduce(l)))
		tcp_receive_arm(l);
}

static void no_stranger(struct tcp_link *l)
{
	if (l->stranger)
		l->t->n_strangers--;
	l->stranger = false;
}

static void set_card(struct tcp_link *l)
{
	const struct topology_port p = {
		.numa_node = numa_of_socket("/sys", l->fd),
	};

	engine_link_card(&l->post.base, &p);
}

static void go_up(struct tcp_link *l)
{
	l->state = TCP_UP;
	tcp_link_deadline(l, 0);
	l->version = l->auth.version;
	no_stranger(l);
	if (l->t->many_nodes)
		set_card(l);
	engine_link_up(&l->post.base);
	tcp_send_want(l);
}

/* The other side is proven: does our core want it? */
static int admit(struct tcp_link *l, const char **why)
{
	uint64_t session = l->theirs ? l->auth.peer.session : l->session;
	uint32_t expected = l->peer.incarnation;
	int rc;

	memcpy(l->peer.uuid, l->auth.peer.uuid, sizeof(l->peer.uuid));
	l->peer.incarnation = (uint32_t)l->auth.peer.incarnation;
	*why = "another life of the node than expected";
	if (!l->theirs && expected && expected != l->peer.incarnation)
		return -ESTALE;
	l->buffer = malloc(TCP_BUFFER_BYTES);
	*why = "no memory";
	if (!l->buffer) {
		l->buffer = l->early;
		return -ENOMEM;
	}
	l->buffer_bytes = TCP_BUFFER_BYTES;
	memcpy(l->buffer, l->early, l->have);
	rc = engine_link_admit(l->t->engine, &l->post.base, &l->peer, session);
	*why = "not admitted";
	l->admitted = !rc;
	return rc;
}

static int finish_handshake(struct tcp_link *l, uint8_t *out, size_t n_out)
{
	const char *why;
	int rc = admit(l, &why);

	if (rc) {
		n_out = auth_close_put(out, WIRE_VERSION_HANDSHAKE, NULL, rc,
				       why);
		if (l->theirs)
			tcp_send_raw(l, out, n_out);
		tcp_link_fail(l, rc, why);
		return rc;
	}
	if (n_out && tcp_send_raw(l, out, n_out))
		return -ENOTCONN;
	l->auth.send.counter = l->auth.receive.counter = 0;
	go_up(l);
	return 0;
}

int tcp_link_handshake(struct tcp_link *l, const struct wire_header *h,
		       const uint8_t *payload)
{
	uint8_t out[AUTH_OUT_MAX];
	const char *why;
	size_t n_out;
	int rc;

	if (h->type == WIRE_CLOSE) {
		char words[WIRE_REASON_MAX + 1];

		wire_reason_get(payload, h->length, words);
		rc = h->status ? -(int)h->status : -ECONNREFUSED;
		tcp_link_fail(l, rc, words);
		return rc;
	}
	rc = auth_step(&l->auth, h, payload, out, &n_out, &why);
	if (rc == 1)
		return finish_handshake(l, out, n_out);
	if (n_out && tcp_send_raw(l, out, n_out))
		return -ENOTCONN;
	if (rc)
		tcp_link_fail(l, rc, why);
	return rc;
}

/* --- the end ----------------------------------------------------------- */

/* A word to the other side, if it fits at once. */
static void say_why(struct tcp_link *l, const char *words)
{
	uint8_t out[AUTH_OUT_MAX];
	size_t n;

	if (l->sending || l->torn || l->tls)
		return;
	if (l->state == TCP_UP)
		n = auth_close_put(out, l->version, &l->auth.send, l->why,
				   words);
	else if (l->state == TCP_GREETING && l->theirs && l->auth.expecting)
		n = auth_close_put(out, WIRE_VERSION_HANDSHAKE, NULL, l->why,
				   words);
	else
		return; /* the handshake said it; or they may be past it */
	if (send(l->fd, out, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* it learns from the connection's end */
}

static void log_end(struct tcp_link *l, const char *words)
{
	char where[ENGINE_ADDRESS_BYTES] = "";

	/* Strangers do not write our log; the core tells of peers. */
	if (l->theirs && !l->admitted) {
		log_debug("engine: tcp: stranger: %s: %s", words,
			  strerror(-l->why));
		return;
	}
	if (!l->theirs)
		tcp_address_format(&l->to, where);
	if (l->why == -EACCES || l->why == -EPROTO || l->why == -EBADMSG)
		log_warn("engine: tcp: %s: %s", *where ? where : "peer", words);
	else
		log_debug("engine: tcp: %s: %s: %s", *where ? where : "peer",
			  words, strerror(-l->why));
}

void tcp_link_fail(struct tcp_link *l, int why, const char *words)
{
	struct io_uring_sqe *sqe;

	if (l->state >= TCP_ENDING)
		return;
	l->why = why;
	log_end(l, words);
	say_why(l, words);
	no_stranger(l);
	l->state = TCP_ENDING;
	tcp_link_deadline(l, clock_now_ns() + LET_GO_NS);
	pthread_mutex_lock(&l->t->mailbox.lock);
	l->post.shut = true;
	pthread_mutex_unlock(&l->t->mailbox.lock);
	if (l->fd >= 0 && l->n_ops) {
		shutdown(l->fd, SHUT_RDWR);
		sqe = tcp_sqe(l->t, &l->stop);
		io_uring_prep_cancel_fd(sqe, l->fd, IORING_ASYNC_CANCEL_ALL);
		l->n_ops++;
	}
}

static void on_stopped(struct tcp_op *op, int res, uint32_t flags)
{
	struct tcp_link *l = container_of(op, struct tcp_link, stop);

	(void)res;
	(void)flags;
	l->n_ops--;
	tcp_link_settle(l);
}

static void go_down(struct tcp_link *l)
{
	bool tell = !l->theirs || l->admitted;

	l->state = TCP_DOWN;
	tcp_link_deadline(l, 0);
	tcp_receive_end(l, l->why);
	tcp_send_give_up(l, l->why);
	list_remove(&l->of_transport);
	list_remove(&l->pump);
	pthread_mutex_lock(&l->t->mailbox.lock);
	list_remove(&l->post.at);
	pthread_mutex_unlock(&l->t->mailbox.lock);
	if (tell)
		engine_link_down(&l->post.base,
				 l->why); /* and link_free, by it */
	else
		tcp_link_destroy(l);
}

/* Slices that were not sent by now must not be: their memory goes back. With
 * none the last words may still leave. */
static void close_socket(struct tcp_link *l)
{
	const struct linger at_once = {1, 0};

	if (l->fd < 0)
		return;
	if (!list_empty(&l->flight) || !list_empty(&l->lingering))
		setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &at_once,
			   sizeof(at_once));
	close(l->fd);
	l->fd = -1;
}

/* The link may be gone when this returns. */
void tcp_link_settle(struct tcp_link *l)
{
	if (l->state != TCP_ENDING || l->n_ops)
		return;
	close_socket(l);
	if (!tcp_send_busy(l) || clock_now_ns() >= l->deadline_ns)
		go_down(l);
}

void tcp_link_tick(struct tcp_link *l, int64_t now_ns)
{
	if (l->state == TCP_ENDING)
		tcp_link_settle(l);
	else if (l->deadline_ns && now_ns >= l->deadline_ns) {
		tcp_link_fail(l, -ETIMEDOUT, "handshake took too long");
		tcp_link_settle(l);
	}
}

void tcp_link_mail(struct tcp_link *l)
{
	const struct mailbox_news news = mailbox_news(&l->post);

	if (list_empty(&l->of_transport) && l->state == TCP_DIALING) {
		list_push_back(&l->t->links, &l->of_transport);
		tcp_link_deadline(l, l->deadline_ns);
		if (!news.close) {
			tcp_link_dial(l);
			return;
		}
	}
	if (news.cancel)
		tcp_send_cancel(l);
	if (news.divert)
		tcp_receive_divert(l);
	if (news.close) {
		tcp_link_fail(l, news.close_why, "closed");
		tcp_link_settle(l);
	} else {
		tcp_send_want(l);
	}
}

/* --- memory ------------------------------------------------------------ */

struct tcp_link *tcp_link_new(struct transport *t,
			      const struct link_target *target)
{
	struct tcp_link *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->t = t;
	l->fd = -1;
	l->theirs = !target;
	list_init(&l->of_transport);
	mailbox_link_init(&l->post, &t->mailbox);
	list_init(&l->flight);
	list_init(&l->lingering);
	list_init(&l->pump);
	l->dial.done = on_dialed;
	l->stop.done = on_stopped;
	tcp_send_init(l);
	tcp_receive_init(l);
	engine_link_init(&l->post.base, t->engine, &transport_tcp, t, target);
	return l;
}

void tcp_link_destroy(struct tcp_link *l)
{
	if (l->fd >= 0)
		close(l->fd);
	if (l->buffer != l->early)
		free(l->buffer);
	tls_free(l->tls);
	free(l->cipher);
	auth_wipe(&l->auth);
	free(l);
}

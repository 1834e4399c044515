// SPDX-License-Identifier: MIT
#include "tests/unit/tcp_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

pthread_mutex_t fixture_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t fixture_changed = PTHREAD_COND_INITIALIZER;
const struct engine_keys fixture_keys = {1, {{1, {42}}}};

void wait_for(const uint32_t *n, uint32_t least)
{
	struct timespec by =
		clock_timespec(clock_read_ns(CLOCK_REALTIME) + 60 * NS_PER_S);
	int err = 0;

	pthread_mutex_lock(&fixture_lock);
	while (*n < least && !err)
		err = pthread_cond_timedwait(&fixture_changed, &fixture_lock,
					     &by);
	pthread_mutex_unlock(&fixture_lock);
	ck_assert_msg(!err, "waited in vain");
}

/* ---- outcomes ------------------------------------------------------------ */

static void outcome(struct outcome *o, int status)
{
	scoped_lock(&fixture_lock);
	o->status = status;
	o->n++;
	pthread_cond_broadcast(&fixture_changed);
}

static void grant_done(void *ctx, int status)
{
	outcome(ctx, status);
}

const struct engine_grant_ops outcome_grant = {.done = grant_done};

void outcome_batch(struct engine_batch *b, int status)
{
	outcome(b->ctx, status);
}

void outcome_call(struct engine_call *c, int status, const void *reply,
		  uint32_t n)
{
	(void)reply;
	(void)n;
	outcome(c->ctx, status);
}

int outcome_wait(struct outcome *o)
{
	wait_for(&o->n, 1);
	return o->status;
}

/* ---- nodes --------------------------------------------------------------- */

static void on_message(void *ctx, struct engine_peer *peer,
		       const struct engine_message *m)
{
	struct node *n = ctx;

	if (m->request_id && m->type == NODE_ECHO)
		engine_reply(peer, m->request_id, 0, m->payload,
			     m->payload_bytes);
	scoped_lock(&fixture_lock);
	n->parked = m->request_id;
	n->n_messages++;
	pthread_cond_broadcast(&fixture_changed);
}

static void on_peer_up(void *ctx, struct engine_peer *peer)
{
	struct node *n = ctx;

	scoped_lock(&fixture_lock);
	n->peer = peer;
	n->n_up++;
	pthread_cond_broadcast(&fixture_changed);
}

static void on_peer_down(void *ctx, struct engine_peer *peer, int why)
{
	struct node *n = ctx;

	(void)peer;
	scoped_lock(&fixture_lock);
	n->why = why;
	n->n_down++;
	pthread_cond_broadcast(&fixture_changed);
}

static const struct engine_callbacks callbacks = {on_message, on_peer_up,
						  on_peer_down};

#define PERIOD (1u << 20)

/* The first period alone byte by byte: under TSan each of these takes long. */
static void node_fill(char *bytes, uint8_t uuid)
{
	for (size_t i = 0; i < PERIOD; i++)
		bytes[i] = (char)(i * 31 + (i >> 12) + uuid);
	for (size_t at = PERIOD; at < NODE_BYTES; at += PERIOD)
		memcpy(bytes + at, bytes, PERIOD);
}

void node_open(struct node *n, uint8_t uuid, const struct engine_keys *keys,
	       bool tls, const char *listen)
{
	node_open_at(n, uuid, keys, tls, &listen, 1, 30000);
}

void node_open_at(struct node *n, uint8_t uuid, const struct engine_keys *keys,
		  bool tls, const char *const *listen, uint32_t n_listen,
		  uint32_t silence_ms)
{
	struct engine_config c = {.self = {{uuid}, 1},
				  .keys = keys,
				  .tls = tls,
				  .listen = listen,
				  .n_listen = n_listen,
				  .silence_ms = silence_ms,
				  .callbacks = &callbacks,
				  .ctx = n};
	struct engine_mem mem = {.kind = ENGINE_MEM_HOST,
				 .length_bytes = NODE_BYTES};

	*n = (struct node){.uuid = uuid, .size = NODE_BYTES};
	ck_assert_int_eq(engine_open(&n->engine, &c), 0);
	n->bytes = mmap(NULL, n->size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(n->bytes, MAP_FAILED);
	node_fill(n->bytes, uuid);
	mem.addr = n->bytes;
	ck_assert_int_eq(engine_region_add(n->engine, &mem, &n->region), 0);
}

void node_close(struct node *n)
{
	engine_close(n->engine);
	munmap(n->bytes, n->size);
}

struct engine_peer *node_peer(struct node *from, const struct node *to)
{
	const char *const addresses[] = {engine_address(to->engine, 0)};
	const struct engine_node id = {{to->uuid}, 0};
	struct engine_peer *p;

	ck_assert_int_eq(engine_peer_get(from->engine, &id, addresses, 1, &p),
			 0);
	return p;
}

/* The writer's end, then the reader's: both, or neither. */
static int both_ends(struct outcome *written, struct outcome *granted,
		     struct engine_grant *g)
{
	int rc = outcome_wait(written);

	pthread_mutex_lock(&fixture_lock);
	if (rc && !granted->n)
		engine_grant_close(g);
	pthread_mutex_unlock(&fixture_lock);
	outcome_wait(granted);
	return rc ? rc : granted->status;
}

int node_tries(struct node *from, struct node *to)
{
	struct engine_peer *reader = node_peer(from, to);
	struct engine_peer *writer = node_peer(to, from);
	struct outcome granted = {}, written = {};
	struct engine_xfer x = {.op = ENGINE_WRITE,
				.region = from->region,
				.length_bytes = 3 << 20};
	struct engine_batch b = {.xfers = &x,
				 .n_xfers = 1,
				 .done = outcome_batch,
				 .ctx = &written};
	struct engine_grant *g;
	int rc;

	memset(to->bytes, 0, 3 << 20);
	ck_assert_int_eq(engine_grant_open(writer, to->region, 0, 3 << 20, 0,
					   &outcome_grant, &granted, &g,
					   &x.segment),
			 0);
	rc = engine_submit(from->engine, reader, &b);
	if (rc)
		outcome(&written, rc);
	rc = both_ends(&written, &granted, g);
	if (!rc)
		ck_assert_mem_eq(to->bytes, from->bytes, 3 << 20);
	engine_peer_put(reader);
	engine_peer_put(writer);
	return rc;
}

void node_moves(struct node *from, struct node *to)
{
	ck_assert_int_eq(node_tries(from, to), 0);
}

#ifdef __SANITIZE_THREAD__
extern _Atomic unsigned tcp_wire_order; /* engine/tcp.h says why */
#define tcp_order() ((void)tcp_wire_order++)
#else
#define tcp_order() ((void)0)
#endif

/* ---- raw ----------------------------------------------------------------- */

int raw_connect(const struct node *to)
{
	const char *address = engine_address(to->engine, 0);
	struct sockaddr_in a = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct timeval limit = {10, 0};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

bool raw_ended(int fd)
{
	uint8_t drop[4096];
	ssize_t n;

	while ((n = recv(fd, drop, sizeof(drop), 0)) > 0)
		;
	return n == 0 || errno == ECONNRESET || errno == EPIPE;
}

void raw_put(int fd, const void *bytes, size_t n)
{
	tcp_order();
	ck_assert_int_eq(send(fd, bytes, n, MSG_NOSIGNAL), (ssize_t)n);
}

static int take(int fd, void *to, size_t n)
{
	return n == 0 || recv(fd, to, n, MSG_WAITALL) == (ssize_t)n ? 0 : -1;
}

int raw_get_any(int fd, struct wire_header *h, uint8_t *payload, size_t max)
{
	uint8_t frame[WIRE_HEADER_BYTES];
	const char *why;

	if (take(fd, frame, sizeof(frame)))
		return -1;
	ck_assert_int_eq(wire_header_get(frame, 1, h, &why), 0);
	ck_assert_uint_le(h->length, max);
	return take(fd, payload, h->length);
}

void raw_greet(struct raw *r, const struct node *to, uint8_t uuid)
{
	uint8_t payload[WIRE_HANDSHAKE_MAX];
	struct wire_header h;
	const char *why;
	size_t n;

	*r = (struct raw){.fd = raw_connect(to),
			  .self = {.uuid = {uuid},
				   .incarnation = 1,
				   .keys = &fixture_keys,
				   .version_min = 1,
				   .version_max = 1}};
	r->n_hello = auth_init(&r->auth, &r->self, true, NULL, NULL,
			       0x77000000u + uuid, r->hello);
	raw_put(r->fd, r->hello, (size_t)r->n_hello);
	ck_assert_int_eq(raw_get_any(r->fd, &h, payload, sizeof(payload)), 0);
	ck_assert_int_eq(auth_step(&r->auth, &h, payload, r->proof, &n, &why),
			 0);
	r->n_proof = (int)n;
}

void raw_join(struct raw *r, const struct node *to, uint8_t uuid)
{
	uint8_t payload[WIRE_HANDSHAKE_MAX], out[AUTH_OUT_MAX];
	struct wire_header h;
	const char *why;
	size_t n;

	raw_greet(r, to, uuid);
	raw_put(r->fd, r->proof, (size_t)r->n_proof);
	ck_assert_int_eq(raw_get_any(r->fd, &h, payload, sizeof(payload)), 0);
	ck_assert_int_eq(auth_step(&r->auth, &h, payload, out, &n, &why), 1);
}

static void seal(struct raw *r, struct wire_header *h, const void *payload,
		 uint8_t frame[WIRE_HEADER_BYTES])
{
	bool control = h->type != WIRE_DATA && h->length;

	h->version = 1;
	h->ack = h->ack ? h->ack : r->items_in;
	if (h->type == WIRE_MESSAGE || h->type == WIRE_DATA)
		r->items_out++;
	wire_header_put(frame, h);
	auth_seal_frame(&r->auth.send, frame, control ? payload : NULL,
			control ? h->length : 0);
}

void raw_header(struct raw *r, struct wire_header *h, const void *payload)
{
	uint8_t frame[WIRE_HEADER_BYTES];

	seal(r, h, payload, frame);
	raw_put(r->fd, frame, sizeof(frame));
}

bool raw_tries(struct raw *r, struct wire_header *h, const void *payload)
{
	uint8_t frame[WIRE_HEADER_BYTES];
	const size_t n = h->length;

	seal(r, h, payload, frame);
	tcp_order();
	return send(r->fd, frame, sizeof(frame), MSG_NOSIGNAL) ==
		       (ssize_t)sizeof(frame) &&
	       send(r->fd, payload, n, MSG_NOSIGNAL) == (ssize_t)n;
}

void raw_frame(struct raw *r, struct wire_header *h, const void *payload)
{
	raw_header(r, h, payload);
	if (h->length)
		raw_put(r->fd, payload, h->length);
}

int raw_next(struct raw *r, struct wire_header *h, uint8_t *payload, size_t max)
{
	uint8_t frame[WIRE_HEADER_BYTES];
	const char *why;
	bool control;

	if (take(r->fd, frame, sizeof(frame)))
		return -1;
	ck_assert_int_eq(wire_header_get(frame, 1, h, &why), 0);
	ck_assert_uint_le(h->length, max);
	if (take(r->fd, payload, h->length))
		return -1;
	control = h->type != WIRE_DATA && h->length;
	ck_assert_int_eq(auth_check_frame(&r->auth.receive, frame,
					  control ? payload : NULL,
					  control ? h->length : 0),
			 0);
	if (h->type == WIRE_MESSAGE || h->type == WIRE_DATA)
		r->items_in++;
	return 0;
}

int raw_get(struct raw *r, uint8_t type, struct wire_header *h,
	    uint8_t *payload, size_t max)
{
	do {
		if (raw_next(r, h, payload, max))
			return -1;
	} while (h->type != type);
	return 0;
}

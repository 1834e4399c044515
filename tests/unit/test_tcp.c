// SPDX-License-Identifier: MIT
/* The tcp transport among people: keys, strangers, peers that mean harm. What
 * all transports do is in test_engine.c. */
#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "tests/unit/tcp_fixture.h"

#define LOOPBACK "tcp:127.0.0.1:0"
#define MIB (1u << 20)

static struct node a, b;
static uint8_t payload[WIRE_DATA_MAX];

static void open_both(void)
{
	node_open(&a, 1, &fixture_keys, false, LOOPBACK);
	node_open(&b, 2, &fixture_keys, false, LOOPBACK);
}

/* Whatever was done to them, they still work for each other. */
static void close_both(void)
{
	node_moves(&a, &b);
	node_close(&a);
	node_close(&b);
}

/* Ask the node for something, over the engine. */
static int ask(struct node *from, const struct node *to)
{
	struct engine_peer *p = node_peer(from, to);
	struct outcome o = {};
	struct engine_call c = {.type = ENGINE_TYPE_MIN,
				.payload = "x",
				.payload_bytes = 1,
				.done = outcome_call,
				.ctx = &o};
	int rc = engine_call_start(p, &c);

	engine_peer_put(p);
	return rc ? rc : outcome_wait(&o);
}

/* ---- who may listen, who is let in --------------------------------------- */

START_TEST(without_a_key_only_loopback_and_unix_sockets_are_listened_on)
{
	static const struct {
		const char *address;
		int rc;
	} way[] = {
		{"tcp:127.0.0.1:0", 0},	      {"tcp:127.9.8.7:0", 0},
		{"tcp:0.0.0.0:0", -EACCES},   {"tcp:[::]:0", -EACCES},
		{"tcp:10.0.0.1:0", -EACCES},  {"tcp:127.0.0.1", -EINVAL},
		{"tcp:localhost:1", -EINVAL}, {"tcp:127.0.0.1:65536", -EINVAL},
		{"tcp:127.0.0.1:x", -EINVAL}, {"unix:relative", -EINVAL}};
	const struct engine_callbacks none = {};

	for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		struct engine_config c = {.self = {{1}, 1},
					  .listen = &way[i].address,
					  .n_listen = 1,
					  .callbacks = &none};
		struct engine *e;
		int rc = engine_open(&e, &c);

		ck_assert_msg(rc == way[i].rc, "%s: %d", way[i].address, rc);
		if (!rc)
			engine_close(e);
	}
}
END_TEST

START_TEST(nodes_with_one_key_serve_each_other_in_plain_and_in_tls)
{
	node_open(&a, 1, &fixture_keys, _i, LOOPBACK);
	node_open(&b, 2, &fixture_keys, _i, LOOPBACK);
	ck_assert_int_eq(ask(&a, &b), 0);
	node_moves(&a, &b);
	node_moves(&b, &a);
	node_close(&a);
	node_close(&b);
}
END_TEST

START_TEST(nodes_of_one_machine_meet_on_a_unix_socket)
{
	char address[ENGINE_ADDRESS_BYTES];

	snprintf(address, sizeof(address), "unix:%s/s",
		 getenv("TMPDIR") ?: "/tmp");
	node_open(&a, 1, NULL, false, LOOPBACK);
	node_open(&b, 2, NULL, false, address);
	ck_assert_int_eq(ask(&a, &b), 0);
	node_moves(&a, &b);
	node_moves(&b, &a);
	node_close(&a);
	node_close(&b);
	ck_assert_int_ne(access(address + 5, F_OK), 0);
}
END_TEST

START_TEST(another_key_none_or_plain_instead_of_tls_is_not_served)
{
	const struct engine_keys other = {1, {{1, {43}}}};
	const struct {
		const struct engine_keys *keys;
		bool tls, theirs_tls;
	} way[] = {{&other, false, false},	 {NULL, false, false},
		   {&other, true, true},	 {NULL, true, true},
		   {&fixture_keys, false, true}, {&fixture_keys, true, false}};

	for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		node_open(&a, 1, way[i].keys, way[i].tls, LOOPBACK);
		node_open(&b, 2, &fixture_keys, way[i].theirs_tls, LOOPBACK);

		ck_assert_int_lt(ask(&a, &b), 0);

		ck_assert_uint_eq(b.n_up + b.n_messages, 0);
		node_close(&a);
		node_close(&b);
	}
}
END_TEST

static int failure_of(struct node *from, const struct node *to)
{
	struct engine_peer *p = node_peer(from, to);
	int64_t when_ns = 0;
	int why = engine_peer_failure(p, &when_ns);

	engine_peer_put(p);
	ck_assert_int_eq(when_ns > 0 && when_ns <= clock_now_ns(), why != 0);
	return why;
}

START_TEST(why_a_node_was_not_reached_is_known_until_it_is)
{
	const struct engine_keys other = {1, {{1, {43}}}};

	node_open(&a, 1, &fixture_keys, false, LOOPBACK);
	node_open(&b, 2, &other, false, LOOPBACK);
	ck_assert_int_eq(failure_of(&a, &b), 0);

	ck_assert_int_lt(ask(&a, &b), 0);
	ck_assert_int_eq(failure_of(&a, &b), -EACCES);
	node_close(&b);
	node_open(&b, 2, &fixture_keys, false, LOOPBACK);
	ck_assert_int_eq(failure_of(&a, &b), -EACCES);
	node_moves(&a, &b);
	ck_assert_int_eq(failure_of(&a, &b), 0);

	node_close(&a);
	node_close(&b);
}
END_TEST

/* With its last link a session ends, and what hung on it is told so. */
static void moves_in_the_end(struct node *from, struct node *to)
{
	int64_t until = clock_now_ns() + 60 * NS_PER_S;

	while (node_tries(from, to) && clock_now_ns() < until)
		usleep(1000); /* the backoff of connecting runs */
	ck_assert_int_lt(clock_now_ns(), until);
}

START_TEST(a_link_that_breaks_anywhere_loses_nothing_silently)
{
	static const char *const point[] = {"tcp.send", "tcp.receive",
					    "tcp.dial"};
	char text[32];

	for (int n = 1; n < 40; n += 1 + n / 4) {
		snprintf(text, sizeof(text), "%s:%d", point[_i], n);
		setenv("KVFS_FAULT", text, 1);
		fault_init();
		open_both();
		moves_in_the_end(&a, &b);
		moves_in_the_end(&b, &a);
		close_both();
	}
}
END_TEST

/* ---- strangers ------------------------------------------------------------
 */

static void stranger_says(const void *bytes, size_t n)
{
	int fd = raw_connect(&b);

	send(fd, bytes, n, MSG_NOSIGNAL);
	ck_assert(raw_ended(fd));
	close(fd);
}

START_TEST(garbage_and_huge_lengths_end_the_connection_and_nothing_else)
{
	struct wire_header h = {.version = 1, .type = WIRE_HELLO};
	uint8_t bytes[8192];

	open_both();
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 2654435761u >> 13);
	stranger_says(bytes, sizeof(bytes));
	memset(bytes, 'a', sizeof(bytes));
	memcpy(bytes, "GET /index.html HTTP/1.1\r\nHost: ", 33);
	stranger_says(bytes, 300);
	memset(bytes, 0, sizeof(bytes));
	stranger_says(bytes, sizeof(bytes));
	for (uint8_t type = 0; type < 12; type++) {
		h.type = type;
		h.length = UINT32_MAX - type;
		wire_header_put(bytes, &h);
		stranger_says(bytes, sizeof(bytes));
	}
	/* A message, a slice: all in order, but nobody was introduced. */
	for (h.type = WIRE_MESSAGE; h.type < WIRE_TYPE_END; h.type++) {
		h.length = h.type == WIRE_DATA;
		wire_header_put(bytes, &h);
		stranger_says(bytes, WIRE_HEADER_BYTES + 1);
	}
	ck_assert_uint_eq(b.n_up + b.n_messages, 0);
	close_both();
}
END_TEST

START_TEST(half_a_handshake_is_waited_for_two_seconds)
{
	struct raw half, whole;
	int silent;

	open_both();
	silent = raw_connect(&b);
	raw_greet(&half, &b, 9);
	raw_greet(&whole, &b, 8);
	raw_put(half.fd, half.proof, 50);
	ck_assert(raw_ended(half.fd));
	ck_assert(raw_ended(silent));
	ck_assert(raw_ended(whole.fd));
	ck_assert_uint_eq(b.n_up, 0);
	close(half.fd);
	close(whole.fd);
	close(silent);
	close_both();
}
END_TEST

START_TEST(a_replayed_handshake_is_refused_at_its_proof)
{
	struct wire_header h;
	struct raw once;
	int again;

	open_both();
	raw_join(&once, &b, 9);
	wait_for(&b.n_up, 1);
	shutdown(once.fd, SHUT_RDWR);
	close(once.fd);
	wait_for(&b.n_down, 1);

	again = raw_connect(&b);
	raw_put(again, once.hello, (size_t)once.n_hello);
	ck_assert_int_eq(raw_get_any(again, &h, payload, sizeof(payload)), 0);
	raw_put(again, once.proof, (size_t)once.n_proof);
	ck_assert_int_eq(raw_get_any(again, &h, payload, sizeof(payload)), 0);

	ck_assert_uint_eq(h.type, WIRE_CLOSE);
	ck_assert_uint_eq(h.status, EACCES);
	ck_assert(raw_ended(again));
	close(again);
	ck_assert_uint_eq(b.n_up, 1);
	close_both();
}
END_TEST

START_TEST(a_nonce_sent_back_is_not_answered_with_a_proof)
{
	char text[ENGINE_ADDRESS_BYTES];
	struct engine_peer *p;
	struct outcome o = {};
	struct engine_call c = {
		.type = ENGINE_TYPE_MIN, .done = outcome_call, .ctx = &o};
	const struct engine_node id = {{9}, 0};
	const char *const list[] = {text};
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct wire_header h;
	int s, fd, stranger;

	/* A listener of ours, on a port that the kernel picks. */
	open_both();
	stranger = raw_connect(&b);
	s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	getsockname(stranger, (struct sockaddr *)&sa, &len);
	memset((char *)&sa + 2, 0, 2); /* any port */
	ck_assert_int_eq(bind(s, (struct sockaddr *)&sa, len), 0);
	ck_assert_int_eq(listen(s, 4), 0);
	getsockname(s, (struct sockaddr *)&sa, &len);
	snprintf(text, sizeof(text), "tcp:127.0.0.1:%u",
		 ((uint8_t *)&sa)[2] << 8 | ((uint8_t *)&sa)[3]);

	ck_assert_int_eq(engine_peer_get(a.engine, &id, list, 1, &p), 0);
	ck_assert_int_eq(engine_call_start(p, &c), 0);
	fd = accept(s, NULL, NULL);
	ck_assert_int_eq(raw_get_any(fd, &h, payload, sizeof(payload)), 0);
	ck_assert_uint_eq(h.type, WIRE_HELLO);
	h.type = WIRE_CHALLENGE;
	{
		uint8_t frame[WIRE_HEADER_BYTES];

		wire_header_put(frame, &h);
		raw_put(fd, frame, sizeof(frame));
		raw_put(fd, payload, h.length);
	}
	ck_assert_int_eq(raw_get_any(fd, &h, payload, sizeof(payload)), 0);
	ck_assert_uint_eq(h.type, WIRE_CLOSE);
	ck_assert(raw_ended(fd));
	close(fd);
	close(s);
	ck_assert_int_lt(outcome_wait(&o), 0);
	engine_peer_put(p);
	close(stranger);
	close_both();
}
END_TEST

static unsigned open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	ck_assert_ptr_ne(d, NULL);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static size_t memory(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* A frame of another version, or a type that nobody knows, on a link that is
 * up: it ends, and says why. */
START_TEST(an_unknown_type_or_version_closes_with_a_reason)
{
	static const struct {
		uint8_t version, type;
		const char *why;
	} way[] = {
		{WIRE_VERSION_MAX + 1, WIRE_ACK, "wire version not negotiated"},
		{WIRE_VERSION_MAX, WIRE_TYPE_END, "unknown frame type"}};
	uint8_t frame[WIRE_HEADER_BYTES];
	char words[WIRE_REASON_MAX + 1];
	struct wire_header h = {.version = way[_i].version,
				.type = way[_i].type};
	struct raw r;

	open_both();
	raw_join(&r, &b, 9);
	wait_for(&b.n_up, 1);
	wire_header_put(frame, &h);
	auth_seal_frame(&r.auth.send, frame, NULL, 0);
	raw_put(r.fd, frame, sizeof(frame));
	ck_assert_int_eq(raw_get(&r, WIRE_CLOSE, &h, payload, sizeof(payload)),
			 0);
	wire_reason_get(payload, h.length, words);
	ck_assert_str_eq(words, way[_i].why);
	wait_for(&b.n_down, 1);
	close(r.fd);
	close_both();
}
END_TEST

START_TEST(a_thousand_idle_connections_keep_nobody_out)
{
	enum { MANY = 1000, KEPT = 64, SLACK = 8 };
	static int fd[MANY];
	struct rlimit limit;
	size_t before;
	unsigned files;
	int ended = 0;

	open_both();
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	files = open_files();
	before = memory();
	for (unsigned i = 0; i < MANY; i++) {
		fd[i] = raw_connect(&b);
		/* Those, and as many that are going. */
		if (i % 50 == 0)
			ck_assert_uint_le(open_files(),
					  files + i + 2 * KEPT + SLACK);
	}

	while (open_files() > files + MANY + KEPT)
		usleep(1000);
	ck_assert_uint_lt(memory(), before + MIB);
	ck_assert_int_eq(ask(&a, &b), 0);
	node_moves(&a, &b);

	/* All but the newest 64 were dropped, the rest goes after 2 s. */
	for (int i = 0; i < MANY; i++) {
		ended += raw_ended(fd[i]);
		close(fd[i]);
	}
	ck_assert_int_eq(ended, MANY);
	ck_assert_uint_eq(b.n_up, 1);
	close_both();
}
END_TEST

/* ---- other versions -------------------------------------------------------
 */

/* HELLO of a peer that speaks these; returns the type of the answer. */
static uint8_t offer(struct raw *r, uint8_t version_min, uint8_t version_max,
		     struct wire_header *h)
{
	*r = (struct raw){.fd = raw_connect(&b),
			  .self = {.uuid = {9},
				   .incarnation = 1,
				   .keys = &fixture_keys,
				   .version_min = version_min,
				   .version_max = version_max}};
	r->n_hello =
		auth_init(&r->auth, &r->self, true, NULL, NULL, 77, r->hello);
	raw_put(r->fd, r->hello, (size_t)r->n_hello);
	ck_assert_int_eq(raw_get_any(r->fd, h, payload, sizeof(payload)), 0);
	return h->type;
}

START_TEST(a_peer_of_a_later_version_is_spoken_to_in_ours)
{
	struct wire_header h, ping = {.type = WIRE_MESSAGE,
				      .flags = WIRE_REQUEST,
				      .kind = ENGINE_TYPE_MIN,
				      .request = 1,
				      .offset = 1};
	const char *why;
	struct raw r;
	size_t n;

	open_both();
	ck_assert_uint_eq(offer(&r, WIRE_VERSION_MIN, WIRE_VERSION_MAX + 7, &h),
			  WIRE_CHALLENGE);
	ck_assert_int_eq(auth_step(&r.auth, &h, payload, r.proof, &n, &why), 0);
	ck_assert_uint_eq(r.auth.version, WIRE_VERSION_MAX);
	raw_put(r.fd, r.proof, n);
	ck_assert_int_eq(raw_get_any(r.fd, &h, payload, sizeof(payload)), 0);
	ck_assert_int_eq(auth_step(&r.auth, &h, payload, r.proof, &n, &why), 1);
	wait_for(&b.n_up, 1);

	raw_frame(&r, &ping, NULL);

	wait_for(&b.n_messages, 1);
	close(r.fd);
	wait_for(&b.n_down, 1);
	close_both();
}
END_TEST

START_TEST(a_peer_of_later_versions_only_is_refused_with_the_reason)
{
	char text[WIRE_REASON_MAX + 1];
	struct wire_header h;
	struct raw r;

	open_both();
	ck_assert_uint_eq(
		offer(&r, WIRE_VERSION_MAX + 1, WIRE_VERSION_MAX + 2, &h),
		WIRE_CLOSE);
	ck_assert_uint_eq(h.status, EPROTO);
	wire_reason_get(payload, h.length, text);
	ck_assert_str_eq(text, "no common wire version");
	ck_assert(raw_ended(r.fd));
	ck_assert_uint_eq(b.n_up, 0);
	close(r.fd);
	close_both();
}
END_TEST

/* ---- peers that mean harm --------------------------------------------------
 */

/* The node ends the session with this peer; returns what it says. */
static void join(struct raw *r)
{
	open_both();
	raw_join(r, &b, 9);
	wait_for(&b.n_up, 1);
}

static void ends(struct raw *r)
{
	wait_for(&b.n_down, 1);
	ck_assert(raw_ended(r->fd));
	close(r->fd);
	close_both();
}

START_TEST(a_frame_sent_twice_ends_the_link)
{
	struct wire_header h = {.type = WIRE_ACK};
	struct auth_seal was;
	struct raw r;

	join(&r);
	was = r.auth.send;
	raw_frame(&r, &h, NULL);
	r.auth.send = was;
	raw_frame(&r, &h, NULL);
	ends(&r);
}
END_TEST

START_TEST(frames_that_break_the_rules_end_the_link)
{
	const struct wire_header bad[] = {
		{.type = WIRE_ACK, .ack = 1000},
		{.type = WIRE_REFUSE, .request = 500, .status = 1},
		{.type = WIRE_HELLO},
		{.type = WIRE_PROOF},
		{.type = WIRE_CLOSE, .status = 4095},
		{.type = WIRE_MESSAGE, .kind = 3, .offset = 77777},
	};
	struct wire_header h = bad[_i];
	struct raw r;

	join(&r);
	raw_frame(&r, &h, NULL);
	ends(&r);
}
END_TEST

START_TEST(a_length_past_its_cap_ends_the_link_before_memory_is_taken)
{
	struct wire_header h = {.type = WIRE_DATA, .length = WIRE_DATA_MAX + 1};
	struct raw r;

	join(&r);
	raw_header(&r, &h, NULL);
	ends(&r);
}
END_TEST

START_TEST(a_slice_for_a_segment_that_was_not_granted_is_refused)
{
	struct wire_header h = {.type = WIRE_DATA,
				.length = MIB,
				.segment = 12345,
				.generation = 1};
	struct raw r;

	join(&r);
	raw_frame(&r, &h, payload);
	ck_assert_int_eq(raw_get(&r, WIRE_REFUSE, &h, payload, sizeof(payload)),
			 0);
	ck_assert_uint_eq(h.request, r.items_out);
	ck_assert_uint_eq(h.status, ESTALE);
	close(r.fd);
	wait_for(&b.n_down, 1);
	close_both();
}
END_TEST

/* What a peer was granted, as it would learn it from a message. */
static struct engine_grant *grant(struct outcome *o, struct engine_segment *s)
{
	struct engine_grant *g;

	ck_assert_int_eq(engine_grant_open(b.peer, b.region, 0, 4 * MIB, 0,
					   &outcome_grant, o, &g, s),
			 0);
	return g;
}

static bool unchanged(char value)
{
	for (size_t i = 0; i < 4 * MIB; i++)
		if (b.bytes[i] != value)
			return false;
	return true;
}

START_TEST(late_bytes_do_not_land_after_the_grant_was_closed)
{
	struct wire_header h = {.type = WIRE_DATA, .length = MIB};
	struct engine_segment s;
	struct engine_grant *g;
	struct outcome o = {};
	struct raw r;

	join(&r);
	g = grant(&o, &s);
	h.segment = s.id;
	h.generation = s.generation;
	memset(b.bytes, 'o', 4 * MIB);
	memset(payload, 'L', MIB);
	raw_header(&r, &h, NULL);
	raw_put(r.fd, payload, MIB / 2);
	/* The reader has begun to take it, and the owner stops. */
	while (*(volatile char *)b.bytes != 'L')
		usleep(100);

	engine_grant_close(g);
	ck_assert_int_eq(outcome_wait(&o), -ECANCELED);
	memset(b.bytes, 'n', 4 * MIB); /* the frame has a new owner */
	raw_put(r.fd, payload, MIB / 2);
	ck_assert_int_eq(raw_get(&r, WIRE_REFUSE, &h, payload, sizeof(payload)),
			 0);

	ck_assert_uint_eq(h.status, ESTALE);
	ck_assert(unchanged('n'));
	close(r.fd);
	wait_for(&b.n_down, 1);
	close_both();
}
END_TEST

START_TEST(a_slice_outside_of_its_segment_is_refused_and_changes_nothing)
{
	struct wire_header h = {.type = WIRE_DATA, .length = MIB};
	struct engine_segment s;
	struct outcome o = {};
	struct raw r;

	join(&r);
	grant(&o, &s);
	h.segment = s.id;
	h.generation = s.generation;
	h.offset = 4 * MIB - 1;
	memset(b.bytes, 'o', b.size);
	raw_frame(&r, &h, payload);
	ck_assert_int_eq(raw_get(&r, WIRE_REFUSE, &h, payload, sizeof(payload)),
			 0);
	ck_assert_uint_eq(h.status, ERANGE);
	ck_assert(unchanged('o'));
	ck_assert_int_eq(b.bytes[4 * MIB], 'o');
	close(r.fd);
	ck_assert_int_eq(outcome_wait(&o), -ENOTCONN);
	close_both();
}
END_TEST

START_TEST(a_peer_that_reads_nothing_costs_a_deadline_and_no_memory)
{
	struct engine_xfer x = {.op = ENGINE_WRITE,
				.length_bytes = NODE_BYTES,
				.segment = {1, 1}};
	struct outcome o = {};
	struct engine_batch batch = {
		.xfers = &x, .n_xfers = 1, .done = outcome_batch, .ctx = &o};
	size_t before;
	struct raw r;

	join(&r);
	x.region = b.region;
	before = memory();
	batch.deadline_ns = clock_now_ns() + 500 * NS_PER_MS;
	ck_assert_int_eq(engine_submit(b.engine, b.peer, &batch), 0);
	ck_assert_int_eq(outcome_wait(&o), -ETIMEDOUT);
	ck_assert_uint_lt(memory(), before + MIB);
	close(r.fd);
	wait_for(&b.n_down, 1);
	close_both();
}
END_TEST

/* Sends until the node has enough of it; as the kernel's buffers are full, too,
 * what it can take is bounded. */
START_TEST(a_peer_that_asks_and_takes_no_answers_is_left)
{
	enum { MANY = 1000 };
	struct wire_header h = {.type = WIRE_MESSAGE,
				.kind = NODE_ECHO,
				.flags = WIRE_REQUEST,
				.length = ENGINE_MSG_MAX};
	struct mallinfo2 now, before;
	size_t most = 0;
	struct raw r;
	bool open = true;

	join(&r);
	before = mallinfo2();
	for (uint64_t i = 1; i <= MANY && open; i++) {
		h.request = h.offset = i;
		open = raw_tries(&r, &h, payload);
		now = mallinfo2();
		if (now.uordblks + now.hblkhd > most)
			most = now.uordblks + now.hblkhd;
	}

	ck_assert(!open);
	ck_assert_uint_lt(most, before.uordblks + before.hblkhd + 16 * MIB);
	ends(&r);
}
END_TEST

START_TEST(bytes_and_the_answer_that_they_are_travel_together)
{
	struct wire_header h = {.type = WIRE_MESSAGE,
				.kind = NODE_PARK,
				.flags = WIRE_REQUEST,
				.request = 7,
				.offset = 1};
	struct engine_xfer x = {.op = ENGINE_WRITE,
				.length_bytes = 64 << 10,
				.segment = {1, 1}};
	struct outcome o = {};
	struct engine_batch batch = {
		.xfers = &x, .n_xfers = 1, .done = outcome_batch, .ctx = &o};
	bool data = false, answer = false;
	struct raw r;

	join(&r);
	x.region = b.region;
	raw_frame(&r, &h, NULL);
	wait_for(&b.n_messages, 1);
	batch.answers = b.parked;
	ck_assert_int_eq(engine_submit(b.engine, b.peer, &batch), 0);

	/* Nothing of it is acknowledged before both are there. */
	while (!data || !answer) {
		ck_assert_int_eq(raw_next(&r, &h, payload, sizeof(payload)), 0);
		data |= h.type == WIRE_DATA;
		answer |= h.type == WIRE_MESSAGE && h.flags == WIRE_REPLY &&
			  h.request == 7 && !h.status;
	}
	close(r.fd);
	ck_assert_int_eq(outcome_wait(&o), -ENOTCONN);
	wait_for(&b.n_down, 1);
	close_both();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tcp");
	TCase *t = tcase_create("among people");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(
		t,
		without_a_key_only_loopback_and_unix_sockets_are_listened_on);
	tcase_add_loop_test(
		t, nodes_with_one_key_serve_each_other_in_plain_and_in_tls, 0,
		2);
	tcase_add_test(t, nodes_of_one_machine_meet_on_a_unix_socket);
	tcase_add_test(t,
		       another_key_none_or_plain_instead_of_tls_is_not_served);
	tcase_add_test(t, why_a_node_was_not_reached_is_known_until_it_is);
	tcase_add_loop_test(
		t, a_link_that_breaks_anywhere_loses_nothing_silently, 0, 3);
	tcase_add_test(
		t,
		garbage_and_huge_lengths_end_the_connection_and_nothing_else);
	tcase_add_test(t, half_a_handshake_is_waited_for_two_seconds);
	tcase_add_test(t, a_replayed_handshake_is_refused_at_its_proof);
	tcase_add_test(t, a_nonce_sent_back_is_not_answered_with_a_proof);
	tcase_add_test(t, a_thousand_idle_connections_keep_nobody_out);
	tcase_add_test(t, a_peer_of_a_later_version_is_spoken_to_in_ours);
	tcase_add_test(
		t, a_peer_of_later_versions_only_is_refused_with_the_reason);
	tcase_add_test(t, a_frame_sent_twice_ends_the_link);
	tcase_add_loop_test(t, frames_that_break_the_rules_end_the_link, 0, 6);
	tcase_add_test(
		t, a_length_past_its_cap_ends_the_link_before_memory_is_taken);
	tcase_add_test(t,
		       a_slice_for_a_segment_that_was_not_granted_is_refused);
	tcase_add_test(t, late_bytes_do_not_land_after_the_grant_was_closed);
	tcase_add_test(
		t,
		a_slice_outside_of_its_segment_is_refused_and_changes_nothing);
	tcase_add_test(
		t, a_peer_that_reads_nothing_costs_a_deadline_and_no_memory);
	tcase_add_test(t, bytes_and_the_answer_that_they_are_travel_together);
	tcase_add_test(t, a_peer_that_asks_and_takes_no_answers_is_left);
	tcase_add_loop_test(t, an_unknown_type_or_version_closes_with_a_reason,
			    0, 2);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

// SPDX-License-Identifier: MIT
/* What goes wrong on the way, at a place that the test chooses. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/engine_internal.h"
#include "engine/loop.h"
#include "tests/unit/engine_fixture.h"

#define MIB (1u << 20)
#define SIZE (2 * MIB) /* 32 slices, over two links */

static struct fx fx;
static struct fx_mem from, to;
static struct engine_peer *reader, *writer; /* as the other sees it */

static void setup_way(const struct fx_way *way)
{
	fx_open(&fx, way, 2);
	fx_mem_new(&from, fx_writer(&fx), ENGINE_MEM_HOST, SIZE);
	fx_mem_new(&to, fx_reader(&fx), ENGINE_MEM_HOST, SIZE);
	fx_fill(from.bytes, SIZE, 1);
	fx_fill(to.bytes, SIZE, 2);
	reader = fx_peer(&fx, 0, 1);
	writer = fx_peer(&fx, 1, 0);
}

static void setup(void)
{
	setup_way(&fx_ways[0]);
}

static void setup_one_path(void)
{
	static struct fx_way one;

	one = fx_ways[0];
	one.links = 1;
	setup_way(&one);
}

static void teardown(void)
{
	loop_release();
	engine_peer_put(reader);
	engine_peer_put(writer);
	fx_mem_free(&from);
	fx_mem_free(&to);
	fx_close(&fx);
}

static void connect_both(void)
{
	struct fx_call c;

	ck_assert_int_eq(fx_call(writer, &c, FX_ECHO, "x", 1, 0), 0);
	ck_assert_int_eq(fx_call_wait(&c), 0);
}

/* Both links, as the writer sees them. */
static void connect_all_links(void)
{
	struct engine_peer_info info;
	int64_t by = clock_now_ns() + 60 * NS_PER_S;

	connect_both();
	for (;;) {
		engine_peer_info(reader, &info);
		if (info.n_links == 2)
			return;
		ck_assert_int_lt(clock_now_ns(), by);
		usleep(1000);
	}
}

static int submit_all(struct fx_batch *b, struct engine_xfer *x,
		      struct engine_segment segment)
{
	const struct fx_piece all = {0, 0, SIZE};

	return fx_submit(fx_writer(&fx), reader, b, x, &all, 1, from.region,
			 segment, 0);
}

/* As often as the backoff asks for. */
static void connect_again(void)
{
	struct fx_call c;

	for (int tries = 0; tries < 6000; tries++) {
		if (!fx_call(writer, &c, FX_ECHO, "x", 1, 0) &&
		    !fx_call_wait(&c))
			return;
		usleep(10000);
	}
	ck_abort_msg("no way back");
}

/* Whatever the reader's engine had to call back before has been. */
static void pass_notices(void)
{
	const struct fx_piece p = {0, 1, 1};
	struct engine_segment none = {0, 0};
	struct fx_batch b = {.status = 1};
	struct engine_xfer x;
	struct fx_mem own; /* slices may still be landing in the others */

	fx_mem_new(&own, fx_reader(&fx), ENGINE_MEM_HOST, 4096);
	ck_assert_int_eq(fx_submit(fx_reader(&fx), NULL, &b, &x, &p, 1,
				   own.region, none, own.region),
			 0);
	ck_assert_int_eq(fx_batch_wait(&b), 0);
	fx_mem_free(&own);
}

/* ---- one path fails, the other carries on -----------------------------------
 */

static const enum loop_action broken[] = {LOOP_FAIL, LOOP_TRUNCATE,
					  LOOP_LOSE_ACK};

START_TEST(a_path_that_fails_at_any_slice_loses_nothing)
{
	struct engine_peer_info info;
	struct engine_stats stats;
	struct engine_device d;
	struct engine_xfer x;
	struct fx_batch b = {.status = 1};
	struct fx_grant g;
	uint64_t n = 0;

	connect_all_links();
	loop_plan(LOOP_SLICE, 1 + (uint32_t)_i / 3, 1, broken[_i % 3]);
	fx_grant_open(&g, writer, &to, 0, SIZE);

	ck_assert_int_eq(submit_all(&b, &x, g.segment), 0);

	ck_assert_int_eq(fx_grant_wait(&g), 0);
	/* (-ESTALE: what was sent twice came after the segment was full.) */
	fx_batch_wait(&b);
	ck_assert(b.status == 0 || b.status == -ESTALE);
	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	engine_stats(fx_writer(&fx), &stats);
	ck_assert_uint_ge(stats.slices_retried, 1);
	engine_peer_info(reader, &info);
	ck_assert_uint_ge(info.traffic.failovers, 1);
	ck_assert_uint_eq(info.traffic.retried_slices, stats.slices_retried);
	for (int i = 0; i < ENGINE_LATENCIES; i++)
		n += info.traffic.latencies[i];
	ck_assert_uint_eq(n, info.traffic.sent_slices);
	ck_assert(engine_device(fx_writer(&fx), 0, &d));
	ck_assert_str_eq(d.transport, "loop");
	ck_assert_uint_eq(d.traffic.sent_bytes, info.traffic.sent_bytes);
	ck_assert_uint_eq(d.traffic.failovers, info.traffic.failovers);
	ck_assert(!engine_device(fx_writer(&fx), 1, &d));
	ck_assert_uint_eq(fx_read(&fx.node[0].n_down), 0);
}
END_TEST

START_TEST(a_path_that_falls_silent_is_left_for_another)
{
	struct engine_xfer x;
	struct fx_batch b = {.status = 1};
	struct fx_grant g;

	connect_all_links();
	fx_grant_open(&g, writer, &to, 0, SIZE);
	loop_plan(LOOP_SLICE, 1 + (uint32_t)_i, 1, LOOP_SILENT);
	ck_assert_int_eq(submit_all(&b, &x, g.segment), 0);

	ck_assert_int_eq(fx_grant_wait(&g), 0);
	fx_batch_wait(&b);
	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
}
END_TEST

START_TEST(messages_come_once_and_in_order_over_paths_that_fail)
{
	connect_all_links();
	loop_plan(LOOP_MSG, 100, 1, broken[_i % 3]);

	for (uint32_t i = 0; i < 1000; i++) {
		int err;

		while ((err = engine_send(reader, FX_LOG, &i, 4)) == -EAGAIN)
			fx_wait(&fx.node[1].n_log, i - 1);
		ck_assert_int_eq(err, 0);
	}

	fx_wait(&fx.node[1].n_log, 1000);
	for (uint32_t i = 0; i < 1000; i++)
		ck_assert_uint_eq(fx.node[1].log[i], i);
	ck_assert_uint_eq(fx_read(&fx.node[1].n_down), 0);
}
END_TEST

/* ---- the last path fails
 * ----------------------------------------------------- */

/* Fails n items in a row: more than there are paths. */
START_TEST(a_peer_that_dies_at_any_stage_leaves_nothing_waiting)
{
	static const enum loop_point points[] = {LOOP_CONNECT, LOOP_MSG,
						 LOOP_SLICE};
	struct engine_xfer x;
	struct fx_batch b = {.status = 1};
	struct fx_grant g;
	struct fx_call c = {.status = 1};

	loop_plan(points[_i % 3], 1 + (uint32_t)_i / 3, 100, LOOP_FAIL);
	fx_grant_open(&g, writer, &to, 0, SIZE);
	ck_assert_int_eq(fx_call(writer, &c, FX_PARK, NULL, 0, 500), 0);
	ck_assert_int_eq(submit_all(&b, &x, g.segment), 0);

	fx_batch_wait(&b);
	fx_call_wait(&c);
	fx_grant_end(&g);

	ck_assert_int_ne(c.status, 0); /* nobody answered */
	if (b.status == 0)
		ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	/* And afterwards it is a peer like any other. */
	loop_release();
	connect_again();
}
END_TEST

START_TEST(a_session_that_ends_fails_all_that_hangs_on_it)
{
	struct fx_call c;
	struct fx_grant g;

	connect_both();
	fx_grant_open(&g, writer, &to, 0, SIZE);
	ck_assert_int_eq(fx_call(writer, &c, FX_PARK, NULL, 0, 0), 0);
	fx_wait(&fx.node[0].n_parked, 1);

	engine_peer_drop(reader, -ECONNABORTED);

	ck_assert_int_eq(fx_call_wait(&c), -ENOTCONN);
	ck_assert_int_eq(fx_grant_wait(&g), -ENOTCONN);
	fx_wait(&fx.node[0].n_down, 1);
	fx_wait(&fx.node[1].n_down, 1);
	ck_assert_int_eq(engine_reply(fx.node[0].parked_by[0],
				      fx.node[0].parked[0], 0, NULL, 0),
			 -ENOENT);
	connect_again();
	fx_wait(&fx.node[1].n_up, 2);
}
END_TEST

START_TEST(two_that_connect_at_once_have_one_session)
{
	struct fx_call c[2];

	loop_plan(LOOP_CONNECT, 1, 2, LOOP_HOLD);
	ck_assert_int_eq(fx_call(writer, &c[0], FX_ECHO, "a", 1, 0), 0);
	ck_assert_int_eq(fx_call(reader, &c[1], FX_ECHO, "b", 1, 0), 0);
	ck_assert(loop_wait_held(2));
	loop_release();

	ck_assert_int_eq(fx_call_wait(&c[0]), 0);
	ck_assert_int_eq(fx_call_wait(&c[1]), 0);
	ck_assert_uint_eq(fx_read(&fx.node[0].n_down), 0);
	ck_assert_uint_eq(fx_read(&fx.node[1].n_down), 0);
}
END_TEST

static void nothing(struct engine_link *l)
{
	(void)l;
}

/* At the first node, a link that the second made for this session. */
static int admit(struct engine_link *l, uint64_t session)
{
	static const struct transport_ops ops = {.name = "none",
						 .link_free = nothing};

	engine_link_init(l, fx.node[0].engine, &ops, NULL, NULL);
	return engine_link_admit(fx.node[0].engine, l, &fx.node[1].id, session);
}

/* They may not know yet that the first has ended: they refuse the next, and
 * connect for the first again. Their messages would go on in the middle, and
 * ours begin anew, which they take for said before. */
START_TEST(a_session_that_ended_is_not_begun_again_after_one_that_was_refused)
{
	struct engine_link first, refused, again;

	ck_assert_int_eq(admit(&first, 1), 0);
	engine_link_up(&first);
	engine_link_down(&first, -ENETDOWN);
	ck_assert_int_eq(admit(&refused, 2), 0);
	engine_link_down(&refused, -EALREADY);

	ck_assert_int_eq(admit(&again, 1), -EALREADY);

	ck_assert_int_eq(admit(&again, 2), 0);
	engine_link_up(&again);
	engine_link_down(&again, -ENETDOWN);
}
END_TEST

/* ---- late bytes
 * --------------------------------------------------------------- */

START_TEST(late_bytes_never_land_in_memory_that_was_given_back)
{
	struct engine_xfer x;
	struct fx_batch b = {.status = 1};
	struct fx_grant g;
	char *refill = malloc(SIZE);

	connect_both();
	fx_grant_open(&g, writer, &to, 0, SIZE);
	loop_plan(LOOP_SLICE, 1 + (uint32_t)_i, 1, LOOP_HOLD);
	ck_assert_int_eq(submit_all(&b, &x, g.segment), 0);
	ck_assert(loop_wait_held(1)); /* in the middle of a slice */

	ck_assert_int_eq(fx_grant_end(&g), -ECANCELED);
	fx_fill(to.bytes, SIZE, 3); /* the next owner's */
	memcpy(refill, to.bytes, SIZE);
	loop_release();

	fx_batch_wait(&b);
	ck_assert_int_eq(b.status, -ESTALE);
	ck_assert_mem_eq(to.bytes, refill, SIZE);
	free(refill);
}
END_TEST

START_TEST(a_receive_that_cannot_be_stopped_is_waited_for)
{
	struct engine_xfer x;
	struct fx_batch b = {.status = 1};
	struct engine_peer_info info;
	struct fx_grant g;

	connect_both();
	fx_grant_open(&g, writer, &to, 0, SIZE);
	loop_plan(LOOP_SLICE, 1, 1, LOOP_HOLD_HARD);
	ck_assert_int_eq(submit_all(&b, &x, g.segment), 0);
	ck_assert(loop_wait_held(1));

	engine_grant_close(g.grant);
	pass_notices();
	ck_assert_uint_eq(fx_read(&g.n_done), 0);
	engine_peer_info(writer, &info);
	ck_assert_uint_eq(info.n_draining, 1); /* whose fault it is */
	loop_release();

	ck_assert_int_eq(fx_grant_wait(&g), -ECANCELED);
	engine_peer_info(writer, &info);
	ck_assert_uint_eq(info.n_draining, 0);
	fx_batch_wait(&b);
}
END_TEST

START_TEST(a_peer_that_stops_in_the_middle_does_not_hold_us_up)
{
	struct engine_xfer x;
	struct fx_batch b = {.status = 1};
	struct fx_grant g;

	connect_both();
	fx_grant_open(&g, writer, &to, 0, SIZE);
	loop_plan(LOOP_SLICE, 2, 100, LOOP_HOLD);
	b.b.deadline_ns = clock_now_ns() + 100 * NS_PER_MS;
	ck_assert_int_eq(submit_all(&b, &x, g.segment), 0);

	/* The held slices come back by their link being closed. */
	ck_assert_int_eq(fx_batch_wait(&b), -ETIMEDOUT);
	ck_assert_int_ne(fx_grant_end(&g), 0);
}
END_TEST

/* ---- what is bounded
 * ------------------------------------------------------------ */

START_TEST(a_peer_answers_sixty_four_calls_at_a_time)
{
	static struct fx_call c[ENGINE_CALLS_MAX + 1];
	struct fx_node *node = &fx.node[0];

	for (int i = 0; i < ENGINE_CALLS_MAX; i++)
		ck_assert_int_eq(fx_call(writer, &c[i], FX_PARK, "p", 1, 0), 0);
	ck_assert_int_eq(
		fx_call(writer, &c[ENGINE_CALLS_MAX], FX_PARK, "p", 1, 0),
		-EAGAIN);
	fx_wait(&node->n_parked, ENGINE_CALLS_MAX);

	/* What we gave up keeps its place until it is answered. */
	engine_call_cancel(fx_reader(&fx), &c[0].c);
	ck_assert_int_eq(fx_call_wait(&c[0]), -ECANCELED);
	ck_assert_int_eq(
		fx_call(writer, &c[ENGINE_CALLS_MAX], FX_PARK, "p", 1, 0),
		-EAGAIN);
	for (int i = 0; i < ENGINE_CALLS_MAX; i++)
		ck_assert_int_eq(engine_reply(node->parked_by[i],
					      node->parked[i], -ENOENT, NULL,
					      0),
				 0);
	ck_assert_int_eq(
		engine_reply(node->parked_by[0], node->parked[0], 0, NULL, 0),
		-ENOENT);
	for (int i = 1; i < ENGINE_CALLS_MAX; i++)
		ck_assert_int_eq(fx_call_wait(&c[i]), -ENOENT);
	ck_assert_int_eq(fx_call(writer, &c[0], FX_ECHO, "e", 1, 0), 0);
	ck_assert_int_eq(fx_call_wait(&c[0]), 0);
	ck_assert_mem_eq(c[0].reply, "e", 1);
}
END_TEST

START_TEST(a_peer_that_does_not_read_fills_a_queue_and_no_more)
{
	static char payload[ENGINE_MSG_MAX + 1];
	uint32_t n = 0;
	int err;

	connect_both();
	loop_plan(LOOP_MSG, 1, 1, LOOP_HOLD);
	while (!(err = engine_send(reader, FX_LOG, payload, 32 << 10)))
		ck_assert_uint_le(++n, ENGINE_QUEUE_MAX / (32 << 10));
	ck_assert_int_eq(err, -EAGAIN);
	ck_assert_int_eq(
		engine_send(reader, FX_LOG, payload, ENGINE_MSG_MAX + 1),
		-EMSGSIZE);
	loop_release();

	fx_wait(&fx.node[1].n_log, n);
	ck_assert_int_eq(engine_send(reader, FX_LOG, payload, 4), 0);
	fx_wait(&fx.node[1].n_log, n + 1);
}
END_TEST

/* ---- order
 * ------------------------------------------------------------------------ */

START_TEST(what_is_urgent_overtakes_what_is_not)
{
	const struct fx_piece first = {0, 0, 64 << 10};
	static struct engine_xfer x[3];
	struct fx_batch migrate = {.b.priority = ENGINE_MIGRATE};
	struct fx_batch urgent = {.b.priority = ENGINE_FOREGROUND};
	struct fx_grant g, big;
	struct fx_mem source;
	bool overtaken;

	connect_both();
	fx_mem_new(&source, fx_writer(&fx), ENGINE_MEM_HOST, 64 * MIB);
	fx_mem_free(&to);
	fx_mem_new(&to, fx_reader(&fx), ENGINE_MEM_HOST, 64 * MIB);
	fx_grant_open(&big, writer, &to, 0, 64 * MIB);
	fx_grant_open(&g, writer, &to, 0, SIZE);
	loop_plan(LOOP_SLICE, 1, 1, LOOP_HOLD);
	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &migrate, &x[0],
				   &(struct fx_piece){0, 0, 64 * MIB}, 1,
				   source.region, big.segment, 0),
			 0);
	ck_assert(loop_wait_held(1));
	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &urgent, &x[1],
				   &first, 1, from.region, g.segment, 0),
			 0);
	loop_release();

	ck_assert_int_eq(fx_batch_wait(&urgent), 0);
	overtaken = fx_read(&migrate.n_done) == 0;
	ck_assert_int_eq(fx_batch_wait(&migrate), 0);
	ck_assert(overtaken);
	fx_grant_end(&g);
	fx_grant_wait(&big);
	fx_mem_free(&source);
}
END_TEST

/* In the order in which the classes of batches ended; under fx_lock. */
static enum engine_priority ended[2 * ENGINE_PRIORITIES];
static uint32_t n_ended;

static void note_end(struct engine_batch *b, int status)
{
	ck_assert_int_eq(status, 0);
	pthread_mutex_lock(&fx_lock);
	ended[n_ended++] = b->priority;
	pthread_cond_broadcast(&fx_changed);
	pthread_mutex_unlock(&fx_lock);
}

/* What waits behind a full window leaves by its class, whenever it came. */
START_TEST(a_foreground_read_goes_before_prefetch_replication_and_migration)
{
	enum { N = 2 * ENGINE_PRIORITIES };
	static struct engine_xfer x[N + 1];
	static struct engine_batch b[N];
	struct fx_batch full = {.b.priority = ENGINE_FOREGROUND};
	struct fx_grant g, all;

	connect_both();
	n_ended = 0;
	fx_grant_open(&g, writer, &to, 0, SIZE);
	fx_grant_open(&all, writer, &to, 0, SIZE);
	loop_plan(LOOP_SLICE, 1, 1, LOOP_HOLD);
	ck_assert_int_eq(submit_all(&full, &x[N], all.segment), 0);
	ck_assert(loop_wait_held(1));
	for (int i = 0; i < N; i++) {
		x[i] = (struct engine_xfer){.op = ENGINE_WRITE,
					    .region = from.region,
					    .segment = g.segment,
					    .length_bytes = 64 << 10};
		b[i] = (struct engine_batch){.xfers = &x[i],
					     .n_xfers = 1,
					     .priority = ENGINE_PRIORITIES - 1 -
							 i / 2,
					     .done = note_end};
		ck_assert_int_eq(engine_submit(fx_writer(&fx), reader, &b[i]),
				 0);
	}
	loop_release();
	fx_wait(&n_ended, N);

	for (int i = 0; i < N; i++)
		ck_assert_int_eq(ended[i], i / 2);
	ck_assert_int_eq(fx_batch_wait(&full), 0);
	ck_assert_int_eq(fx_grant_wait(&all), 0);
	fx_grant_end(&g);
}
END_TEST

START_TEST(a_batch_that_fails_before_its_last_bytes_says_so)
{
	struct fx_batch b = {.status = 1};
	struct engine_xfer x;
	struct fx_mem source;
	struct fx_grant g;
	struct fx_call c;

	connect_both();
	fx_mem_new(&source, fx_writer(&fx), ENGINE_MEM_HOST, 64 * MIB);
	fx_grant_open(&g, writer, &to, 0, SIZE);
	ck_assert_int_eq(fx_call(writer, &c, FX_PARK, NULL, 0, 0), 0);
	fx_wait(&fx.node[0].n_parked, 1);
	b.b.answers = fx.node[0].parked[0];
	loop_plan(LOOP_SLICE, 1, 1, LOOP_HOLD);
	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b, &x,
				   &(struct fx_piece){0, 0, 64 * MIB}, 1,
				   source.region, g.segment, 0),
			 0);
	ck_assert(loop_wait_held(1));

	engine_cancel(fx_writer(&fx), &b.b);
	loop_release();

	ck_assert_int_eq(fx_call_wait(&c), -ECANCELED);
	ck_assert_int_eq(fx_batch_wait(&b), -ECANCELED);
	fx_grant_end(&g);
	fx_mem_free(&source);
}
END_TEST

START_TEST(readers_see_how_far_a_segment_has_come)
{
	struct engine_xfer x;
	struct fx_batch b = {.status = 1};
	struct fx_grant g;

	connect_both();
	fx_grant_open(&g, writer, &to, 0, SIZE);
	loop_plan(LOOP_SLICE, 9, 100, LOOP_HOLD);
	ck_assert_int_eq(submit_all(&b, &x, g.segment), 0);
	ck_assert(loop_wait_held(1));

	fx_wait(&g.n_progress, 1);
	ck_assert_uint_ge(engine_grant_progress(g.grant), 64 << 10);
	ck_assert_uint_lt(engine_grant_progress(g.grant), SIZE);
	ck_assert_mem_eq(to.bytes, from.bytes, 64 << 10);
	loop_release();

	ck_assert_int_eq(fx_grant_wait(&g), 0);
	fx_batch_wait(&b);
}
END_TEST

/* The clock has no part in it: this backoff does not end by itself. */
static void back_off(int64_t failed_ns)
{
	scoped_lock(&reader->engine->lock);
	struct peer_address *a = &reader->addresses[0];

	a->failed_ns = failed_ns;
	a->after_ns = INT64_MAX;
}

START_TEST(a_backoff_can_be_ended_but_not_of_what_has_just_failed)
{
	struct fx_call c;

	engine_peer_put(writer);
	fx_mem_free(&to);
	fx_node_close(&fx, 1);
	ck_assert_int_eq(fx_call(reader, &c, FX_ECHO, "x", 1, 0), 0);
	ck_assert_int_eq(fx_call_wait(&c), -ENOTCONN);
	fx_node_open(&fx, 1, 1);
	fx_mem_new(&to, fx_reader(&fx), ENGINE_MEM_HOST, SIZE);
	writer = fx_peer(&fx, 1, 0);

	back_off(INT64_MAX);
	engine_peer_end_backoff(reader);
	ck_assert_int_eq(fx_call(reader, &c, FX_ECHO, "x", 1, 0), -EHOSTDOWN);
	back_off(0);
	ck_assert_int_eq(fx_call(reader, &c, FX_ECHO, "x", 1, 0), -EHOSTDOWN);
	engine_peer_end_backoff(reader);

	ck_assert_int_eq(fx_call(reader, &c, FX_ECHO, "x", 1, 0), 0);
	ck_assert_int_eq(fx_call_wait(&c), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine, loop");
	TCase *c = tcase_create("faults"), *one = tcase_create("one path");
	SRunner *runner;
	int failed;

	tcase_set_timeout(c, 60);
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_loop_test(c, a_path_that_fails_at_any_slice_loses_nothing, 0,
			    3 * 32);
	tcase_add_loop_test(c, a_path_that_falls_silent_is_left_for_another, 0,
			    4);
	tcase_add_loop_test(
		c, messages_come_once_and_in_order_over_paths_that_fail, 0, 3);
	tcase_add_loop_test(
		c, a_peer_that_dies_at_any_stage_leaves_nothing_waiting, 0, 24);
	tcase_add_test(c, a_session_that_ends_fails_all_that_hangs_on_it);
	tcase_add_test(c, two_that_connect_at_once_have_one_session);
	tcase_add_test(
		c,
		a_session_that_ended_is_not_begun_again_after_one_that_was_refused);
	tcase_add_loop_test(
		c, late_bytes_never_land_in_memory_that_was_given_back, 0, 4);
	tcase_add_test(c, a_receive_that_cannot_be_stopped_is_waited_for);
	tcase_add_test(c, a_peer_that_stops_in_the_middle_does_not_hold_us_up);
	tcase_add_test(c, a_peer_answers_sixty_four_calls_at_a_time);
	tcase_add_test(c, a_peer_that_does_not_read_fills_a_queue_and_no_more);
	tcase_add_test(c, what_is_urgent_overtakes_what_is_not);
	tcase_add_test(c,
		       a_backoff_can_be_ended_but_not_of_what_has_just_failed);
	tcase_add_test(
		one,
		a_foreground_read_goes_before_prefetch_replication_and_migration);
	tcase_add_test(c, readers_see_how_far_a_segment_has_come);
	suite_add_tcase(suite, c);
	tcase_add_checked_fixture(one, setup_one_path, teardown);
	tcase_add_test(one, a_batch_that_fails_before_its_last_bytes_says_so);
	suite_add_tcase(suite, one);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

// SPDX-License-Identifier: MIT
/* The engine's contract between nodes, the same for every transport. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine_extent.h"
#include "tests/unit/engine_fixture.h"

#define MIB (1u << 20)
#define SIZE (4 * MIB)

static struct fx fx;
static struct fx_mem from, to;
static struct engine_peer *reader, *writer; /* as the other sees it */

static void begin(int way)
{
	fx_open(&fx, &fx_ways[way], 2);
	fx_mem_new(&from, fx_writer(&fx), fx_ways[way].from, SIZE);
	fx_mem_new(&to, fx_reader(&fx), fx_ways[way].to, SIZE);
	fx_fill(from.bytes, SIZE, 1);
	fx_fill(to.bytes, SIZE, 2);
	reader = fx_peer(&fx, 0, 1);
	writer = fx_peer(&fx, 1, 0);
}

static void end(void)
{
	engine_peer_put(reader);
	engine_peer_put(writer);
	fx_mem_free(&from);
	fx_mem_free(&to);
	fx_close(&fx);
}

#define N_SHORT 100u

static int write_to(struct engine_segment segment, uint32_t n, uint64_t bytes)
{
	struct engine_xfer x[N_SHORT];
	struct fx_piece p[N_SHORT];
	struct fx_batch b = {.status = 1};
	int err;

	for (uint32_t i = 0; i < n; i++)
		p[i] = (struct fx_piece){i * bytes, i * bytes, bytes};
	err = fx_submit(fx_writer(&fx), reader, &b, x, p, n, from.region,
			segment, 0);
	return err ? err : fx_batch_wait(&b);
}

/* Short slices may go another way than long ones, and many come at once. */
static void is_refused(struct engine_segment segment)
{
	ck_assert_int_eq(write_to(segment, 1, SIZE), -ESTALE);
	ck_assert_int_eq(write_to(segment, N_SHORT, 100), -ESTALE);
}

START_TEST(a_segment_that_was_not_granted_is_refused_and_nothing_moves)
{
	char *before = malloc(SIZE);
	struct engine_peer *other;
	struct engine_segment s;
	struct fx_grant g, others;

	begin(_i);
	memcpy(before, to.bytes, SIZE);
	fx_node_open(&fx, 2, 1);
	other = fx_peer(&fx, 1, 2);
	fx_grant_open(&g, writer, &to, 0, SIZE);
	fx_grant_open(&others, other, &to, 0, SIZE);

	is_refused(others.segment);
	s = g.segment;
	s.id++;
	is_refused(s);
	s = g.segment;
	s.generation++;
	is_refused(s);
	ck_assert_int_eq(fx_grant_end(&g), -ECANCELED);
	is_refused(g.segment);

	ck_assert_mem_eq(to.bytes, before, SIZE);
	fx_grant_end(&others);
	engine_peer_put(other);
	free(before);
	end();
}
END_TEST

START_TEST(no_two_segments_are_alike)
{
	static struct fx_grant g[1000];
	uint32_t n_alike = 0;

	begin(_i);

	for (int i = 0; i < 1000; i++) {
		fx_grant_open(&g[i], writer, &to, 0, 1);
		ck_assert_int_eq(fx_grant_end(&g[i]), -ECANCELED);
		for (int k = 0; k < i; k++)
			n_alike += g[k].segment.id == g[i].segment.id ||
				   g[k].segment.generation ==
					   g[i].segment.generation;
	}
	ck_assert_uint_eq(n_alike, 0);

	end();
}
END_TEST

START_TEST(a_grant_is_done_when_the_bytes_that_it_expects_are_there)
{
	struct fx_grant g, none;

	begin(_i);
	fx_grant_open(&g, writer, &to, 0, SIZE);
	fx_grant_open(&none, writer, &to, 0, SIZE);

	ck_assert_int_eq(engine_grant_expect(none.grant, SIZE + 1), -ERANGE);
	ck_assert_int_eq(engine_grant_expect(none.grant, 0), 0);
	ck_assert_int_eq(fx_grant_wait(&none), 0);
	ck_assert_int_eq(write_to(g.segment, 1, 100000), 0);
	ck_assert_uint_eq(engine_grant_progress(g.grant), 100000);
	ck_assert_uint_eq(fx_read(&g.n_done), 0);
	ck_assert_int_eq(engine_grant_expect(g.grant, 100000), 0);
	ck_assert_int_eq(fx_grant_wait(&g), 0);

	ck_assert_mem_eq(to.bytes, from.bytes, 100000);
	end();
}
END_TEST

START_TEST(how_fast_a_peer_sends_is_measured)
{
	const struct fx_piece p = {0, 0, SIZE};
	struct engine_peer_info info;
	struct fx_grant g;
	uint64_t rate;

	begin(_i);
	ck_assert_int_eq(fx_move(&fx, &from, &to, &p, 1), 0);
	engine_peer_info(writer, &info);
	rate = info.came_bytes_s;
	ck_assert_uint_gt(rate, 0);
	ck_assert_uint_eq(info.rate_bytes_s, 0); /* nothing went there */

	/* Of what never comes it learns nothing. */
	fx_grant_open(&g, writer, &to, 0, SIZE);
	ck_assert_int_eq(fx_grant_end(&g), -ECANCELED);
	engine_peer_info(writer, &info);
	ck_assert_uint_eq(info.came_bytes_s, rate);
	end();
}
END_TEST

START_TEST(both_directions_at_once)
{
	enum { N = 16 };
	struct fx_mem back, forth;
	const struct fx_piece p = {0, 0, SIZE};
	struct engine_xfer x[2][N];
	struct fx_batch b[2][N];
	struct fx_grant g[2][N];

	begin(_i);
	fx_mem_new(&back, fx_reader(&fx), fx.way->from, SIZE);
	fx_mem_new(&forth, fx_writer(&fx), fx.way->to, SIZE);
	fx_fill(back.bytes, SIZE, 7);
	memset(b, 0, sizeof(b));

	for (int i = 0; i < N; i++) {
		fx_grant_open(&g[0][i], writer, &to, 0, SIZE);
		fx_grant_open(&g[1][i], reader, &forth, 0, SIZE);
		ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b[0][i],
					   &x[0][i], &p, 1, from.region,
					   g[0][i].segment, 0),
				 0);
		ck_assert_int_eq(fx_submit(fx_reader(&fx), writer, &b[1][i],
					   &x[1][i], &p, 1, back.region,
					   g[1][i].segment, 0),
				 0);
	}
	for (int i = 0; i < 2 * N; i++) {
		ck_assert_int_eq(fx_batch_wait(&b[i % 2][i / 2]), 0);
		ck_assert_int_eq(fx_grant_wait(&g[i % 2][i / 2]), 0);
	}

	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	ck_assert_mem_eq(forth.bytes, back.bytes, SIZE);
	fx_mem_free(&back);
	fx_mem_free(&forth);
	end();
}
END_TEST

START_TEST(messages_come_once_and_in_order)
{
	begin(_i);

	for (uint32_t i = 0; i < FX_LOG_MAX; i++) {
		int err;

		while ((err = engine_send(reader, FX_LOG, &i, 4)) == -EAGAIN)
			fx_wait(&fx.node[1].n_log, i > 100 ? i - 100 : 0);
		ck_assert_int_eq(err, 0);
	}
	fx_wait(&fx.node[1].n_log, FX_LOG_MAX);

	for (uint32_t i = 0; i < FX_LOG_MAX; i++)
		ck_assert_uint_eq(fx.node[1].log[i], i);
	end();
}
END_TEST

START_TEST(a_call_is_answered_or_times_out)
{
	static char large[ENGINE_MSG_MAX];
	struct fx_call echo, parked;

	begin(_i);
	fx_fill(large, sizeof(large), 5);

	ck_assert_int_eq(fx_call(reader, &parked, FX_PARK, NULL, 0, 50), 0);
	ck_assert_int_eq(
		fx_call(reader, &echo, FX_ECHO, large, sizeof(large), 0), 0);
	ck_assert_int_eq(fx_call_wait(&echo), 0);
	ck_assert_uint_eq(echo.reply_bytes, sizeof(large));
	ck_assert_mem_eq(echo.reply, large, sizeof(echo.reply));
	ck_assert_int_eq(fx_call_wait(&parked), -ETIMEDOUT);
	/* Its answer comes too late and is for nobody. */
	fx_wait(&fx.node[1].n_parked, 1);
	ck_assert_int_eq(engine_reply(fx.node[1].parked_by[0],
				      fx.node[1].parked[0], 0, "late", 4),
			 0);
	ck_assert_int_eq(fx_call(reader, &echo, FX_ECHO, "x", 1, 0), 0);
	ck_assert_int_eq(fx_call_wait(&echo), 0);
	end();
}
END_TEST

/* The request of a call that node 0 has kept. */
static uint64_t park(struct fx_call *c, uint32_t nth)
{
	ck_assert_int_eq(fx_call(writer, c, FX_PARK, NULL, 0, 0), 0);
	fx_wait(&fx.node[0].n_parked, nth);
	return fx.node[0].parked[nth - 1];
}

START_TEST(a_batch_answers_the_call_that_it_is_for)
{
	const struct fx_piece p = {0, 0, SIZE};
	struct fx_batch b = {.status = 1};
	struct fx_call c, none;
	struct engine_xfer x;
	struct fx_grant g;

	begin(_i);
	fx_grant_open(&g, writer, &to, 0, SIZE);
	b.b.answers = park(&c, 1);
	b.b.answer = "more";
	b.b.answer_bytes = 4;
	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b, &x, &p, 1,
				   from.region, g.segment, 0),
			 0);
	ck_assert_int_eq(fx_call_wait(&c), 0);
	ck_assert_uint_eq(c.reply_bytes, 4);
	ck_assert_mem_eq(c.reply, "more", 4);
	ck_assert_int_eq(fx_grant_wait(&g), 0);
	ck_assert_int_eq(fx_batch_wait(&b), 0);
	ck_assert_int_eq(engine_reply(reader, b.b.answers, 0, NULL, 0),
			 -ENOENT);

	/* One that is not taken answers nothing. */
	b = (struct fx_batch){.b.answers = park(&none, 2)};
	ck_assert_int_eq(fx_submit(fx_writer(&fx), NULL, &b, &x, &p, 1,
				   from.region, g.segment, from.region),
			 -EINVAL);
	ck_assert_int_eq(engine_reply(reader, b.b.answers, -EBUSY, NULL, 0), 0);
	ck_assert_int_eq(fx_call_wait(&none), -EBUSY);
	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	end();
}
END_TEST

START_TEST(a_node_that_goes_away_leaves_nothing_waiting)
{
	enum { N = 64 };
	const struct fx_piece p = {0, 0, SIZE};
	static struct engine_xfer x[N];
	static struct fx_batch b[N];
	struct fx_call c;
	struct fx_grant g;

	begin(_i % fx_n_remote);
	fx_grant_open(&g, reader, &from, 0, SIZE); /* nobody will write it */
	ck_assert_int_eq(fx_call(reader, &c, FX_PARK, NULL, 0, 0), 0);
	fx_wait(&fx.node[1].n_parked, 1);
	memset(b, 0, sizeof(b));
	for (int i = 0; i < N; i++) {
		struct fx_grant target;

		fx_grant_open(&target, writer, &to, 0, SIZE);
		ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b[i], &x[i],
					   &p, 1, from.region, target.segment,
					   0),
				 0);
		/* From "none sent" to "many". */
		if (i == 8 * (_i / fx_n_remote))
			fx_batch_wait(&b[0]);
		if (i + 1 < N)
			fx_grant_end(&target);
		else
			fx_node_close(&fx, 1); /* ends the last one as well */
	}

	ck_assert_int_eq(fx_call_wait(&c), -ENOTCONN);
	ck_assert_int_eq(fx_grant_wait(&g), -ENOTCONN);
	for (int i = 0; i < N; i++)
		fx_batch_wait(&b[i]);
	fx_wait(&fx.node[0].n_down, 1);
	engine_peer_put(reader);
	fx_mem_free(&from);
	fx_close(&fx);
}
END_TEST

START_TEST(the_next_life_of_a_node_is_another_peer)
{
	struct engine_peer *next;
	struct fx_call c;
	int err;

	begin(_i);
	ck_assert_int_eq(fx_call(reader, &c, FX_ECHO, "x", 1, 0), 0);
	ck_assert_int_eq(fx_call_wait(&c), 0);
	engine_peer_put(writer);
	fx_mem_free(&to);
	fx_node_close(&fx, 1);
	fx_wait(&fx.node[0].n_down, 1);
	fx_node_open(&fx, 1, 2);
	next = fx_peer(&fx, 0, 1);

	ck_assert_ptr_ne(next, reader);
	err = fx_call(next, &c, FX_ECHO, "x", 1, 0);
	ck_assert_int_eq(err ? err : fx_call_wait(&c), 0);
	/* Whoever still means the first one gets nobody. */
	err = fx_call(reader, &c, FX_ECHO, "x", 1, 0);
	ck_assert_int_ne(err ? err : fx_call_wait(&c), 0);

	engine_peer_put(next);
	engine_peer_put(reader);
	fx_mem_free(&from);
	fx_close(&fx);
}
END_TEST

START_TEST(where_nobody_listens_calls_and_batches_fail)
{
	struct engine_segment s = {1, 1};
	struct fx_call c;
	int err;

	begin(_i);
	engine_peer_put(writer);
	fx_mem_free(&to);
	fx_node_close(&fx, 1);

	err = fx_call(reader, &c, FX_ECHO, "x", 1, 0);
	ck_assert_int_eq(err ? err : fx_call_wait(&c), -ENOTCONN);
	err = write_to(s, 1, SIZE);
	ck_assert(err == -EHOSTDOWN || err == -ENOTCONN);

	engine_peer_put(reader);
	fx_mem_free(&from);
	fx_close(&fx);
}
END_TEST

/* ---- which bytes have arrived
 * ------------------------------------------------ */

START_TEST(extents_in_any_order_make_a_whole)
{
	struct extents x;

	extents_init(&x);
	for (uint64_t i = 0; i < EXTENTS_MAX; i++) {
		uint64_t at = i * 2654435761u % EXTENTS_MAX;

		ck_assert_int_eq(extents_add(&x, at * 10, at * 10 + 10), 0);
	}
	ck_assert_uint_eq(x.n, 1);
	ck_assert_uint_eq(extents_contiguous(&x), EXTENTS_MAX * 10);
	ck_assert_int_eq(extents_add(&x, 5, 15), 0); /* what is there already */
	ck_assert_uint_eq(x.n, 1);
	extents_fini(&x);
}
END_TEST

START_TEST(extents_of_too_many_pieces_are_refused)
{
	struct extents x;

	extents_init(&x);
	for (uint64_t i = 0; i < EXTENTS_MAX; i++)
		ck_assert_int_eq(extents_add(&x, i * 10, i * 10 + 5), 0);
	ck_assert(extents_full(&x));
	ck_assert_int_eq(extents_add(&x, 1000000, 1000001), -ENOBUFS);
	ck_assert_int_eq(extents_add(&x, 5, 10), 0); /* closes a gap */
	ck_assert_uint_eq(extents_contiguous(&x), 15);
	extents_fini(&x);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine, nodes");
	TCase *all = tcase_create("every transport");
	SRunner *runner;
	int failed;

	fx_choose_ways();
	tcase_set_timeout(all, 60);
#define EVERY(test) tcase_add_loop_test(all, test, 0, fx_n_remote)
	EVERY(a_segment_that_was_not_granted_is_refused_and_nothing_moves);
	EVERY(no_two_segments_are_alike);
	EVERY(a_grant_is_done_when_the_bytes_that_it_expects_are_there);
	EVERY(how_fast_a_peer_sends_is_measured);
	EVERY(both_directions_at_once);
	EVERY(messages_come_once_and_in_order);
	EVERY(a_call_is_answered_or_times_out);
	EVERY(a_batch_answers_the_call_that_it_is_for);
	tcase_add_loop_test(all, a_node_that_goes_away_leaves_nothing_waiting,
			    0, 4 * fx_n_remote);
	EVERY(the_next_life_of_a_node_is_another_peer);
	EVERY(where_nobody_listens_calls_and_batches_fail);
	tcase_add_test(all, extents_in_any_order_make_a_whole);
	tcase_add_test(all, extents_of_too_many_pieces_are_refused);
	suite_add_tcase(suite, all);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

// SPDX-License-Identifier: MIT
/* The engine's contract, the same for every way that bytes can go. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sigbus.h"
#include "engine/checksum.h"
#include "tests/unit/engine_fixture.h"

#define MIB (1u << 20)

static struct fx fx;
static struct fx_mem from, to;

static void open_way(int way, size_t size)
{
	fx_open(&fx, &fx_ways[way], 2);
	fx_mem_new(&from, fx_writer(&fx), fx_ways[way].from, size);
	fx_mem_new(&to, fx_reader(&fx), fx_ways[way].to, size);
	fx_fill(from.bytes, size, 1);
	fx_fill(to.bytes, size, 2);
}

static void close_way(void)
{
	fx_mem_free(&from);
	fx_mem_free(&to);
	fx_close(&fx);
}

/* What the target must be after the pieces. */
static char *model(const struct fx_piece *pieces, uint32_t n)
{
	char *m = malloc(to.size);

	ck_assert_ptr_nonnull(m);
	memcpy(m, to.bytes, to.size);
	for (uint32_t i = 0; i < n; i++)
		memcpy(m + pieces[i].to, from.bytes + pieces[i].from,
		       pieces[i].bytes);
	return m;
}

START_TEST(every_length_and_edge_arrives_and_nothing_beside_it_changes)
{
	const uint64_t lengths[] = {1,	   2,	    511,     4095,
				    4096,  4097,    65535,   65536,
				    65537, MIB - 1, MIB + 3, 5 * MIB + 17};
	const uint64_t edges[] = {0, 1, 511, 4096, 4099};

	char *want;

	open_way(_i, 6 * MIB);
	want = model(NULL, 0);
	for (size_t k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++) {
		struct fx_piece p = {edges[k % 5], edges[(k * 3 + 1) % 5],
				     lengths[k]};

		memcpy(want + p.to, from.bytes + p.from, p.bytes);
		ck_assert_int_eq(fx_move(&fx, &from, &to, &p, 1), 0);

		ck_assert_mem_eq(to.bytes, want, p.to + p.bytes + 4096);
	}
	ck_assert_mem_eq(to.bytes, want, to.size);
	free(want);
	close_way();
}
END_TEST

static void batch_of(uint32_t n)
{
	struct fx_piece *p = calloc(n, sizeof(*p));
	uint32_t place = (uint32_t)(to.size / n);
	char *want;

	for (uint32_t i = 0; i < n; i++) {
		/* Odd factor, power of two: every place once, out of order. */
		uint32_t at = (uint32_t)((uint64_t)i * 2654435761u % n);

		p[i] = (struct fx_piece){(uint64_t)i * place,
					 (uint64_t)at * place + i % 7,
					 1 + (i * 37) % (place - 8)};
	}
	want = model(p, n);

	ck_assert_int_eq(fx_move(&fx, &from, &to, p, n), 0);

	ck_assert_mem_eq(to.bytes, want, to.size);
	free(want);
	free(p);
}

START_TEST(batches_of_1_to_4096_transfers_arrive_whole)
{
	open_way(_i, 4 * MIB);

	batch_of(1);
	batch_of(2);
	batch_of(64);
	batch_of(1024);
	batch_of(4096);

	close_way();
}
END_TEST

START_TEST(what_makes_no_sense_is_refused_and_nothing_moves)
{
	const struct fx_piece past[] = {{0, 0, 2 * MIB},
					{MIB - 1, 0, 2},
					{MIB + 1, 0, 1},
					{UINT64_MAX, 0, 2}};
	const struct fx_piece none = {0, 0, 0};
	struct fx_piece many[ENGINE_BATCH_MAX + 1];
	char *before;

	open_way(_i, MIB);
	before = model(NULL, 0);
	for (uint32_t i = 0; i <= ENGINE_BATCH_MAX; i++)
		many[i] = (struct fx_piece){0, 0, 1};

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(fx_move(&fx, &from, &to, &past[i], 1),
				 -ERANGE);
	ck_assert_int_eq(fx_move(&fx, &from, &to, &none, 1), -EINVAL);
	ck_assert_int_eq(fx_move(&fx, &from, &to, many, 0), -EINVAL);
	ck_assert_int_eq(fx_move(&fx, &from, &to, many, ENGINE_BATCH_MAX + 1),
			 -EINVAL);

	ck_assert_mem_eq(to.bytes, before, to.size);
	free(before);
	close_way();
}
END_TEST

START_TEST(a_range_outside_of_its_target_is_refused_and_nothing_moves)
{
	const struct fx_piece past[] = {
		{0, MIB - 1, 2}, {0, MIB + 1, 1}, {0, UINT64_MAX - 4, 2}};
	char *before;

	open_way(_i, MIB);
	before = model(NULL, 0);

	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(fx_move(&fx, &from, &to, &past[i], 1),
				 -ERANGE);

	ck_assert_mem_eq(to.bytes, before, to.size);
	free(before);
	close_way();
}
END_TEST

START_TEST(an_id_of_a_removed_region_is_refused)
{
	const struct fx_piece p = {0, 0, 1};
	struct fx_mem old;

	open_way(_i, MIB);
	fx_mem_new(&old, fx_writer(&fx), fx_ways[_i].from, MIB);
	fx_mem_free(&old);

	ck_assert_int_eq(fx_move(&fx, &old, &to, &p, 1), -EINVAL);
	ck_assert_int_eq(
		engine_region_remove(old.engine, old.region, NULL, NULL),
		-EINVAL);
	/* Its slot is somebody else's now; the old id stays void. */
	fx_mem_new(&old, fx_writer(&fx), fx_ways[_i].from, MIB);
	ck_assert_int_eq(fx_move(&fx, &old, &to, &p, 1), 0);
	fx_mem_free(&old);
	close_way();
}
END_TEST

START_TEST(a_sum_is_of_the_piece_that_was_named)
{
	const struct fx_piece p = {0, 4095, MIB - 4095};
	uint64_t want[2], sum[2] = {};
	struct engine *e;

	open_way(_i, MIB);
	e = to.engine;
	ck_assert_int_eq(fx_move(&fx, &from, &to, &p, 1), 0);
	if (fx_ways[_i].to == ENGINE_MEM_DISK) {
		ck_assert_int_eq(engine_region_sum(e, to.region, 0, 1, sum),
				 -EINVAL);
		close_way();
		return;
	}
	for (uint64_t at = 0; at < 3; at++) {
		checksum_mem(to.bytes + 4094 + at, 99999, want);
		ck_assert_int_eq(
			engine_region_sum(e, to.region, 4094 + at, 99999, sum),
			0);
		ck_assert_mem_eq(sum, want, sizeof(sum));
	}
	ck_assert_int_eq(engine_region_sum(e, to.region, 1, MIB, sum), -ERANGE);
	ck_assert_int_eq(engine_region_sum(e, to.region, 0, 0, sum), -EINVAL);
	ck_assert_int_eq(engine_region_sum(e, ~to.region, 0, 1, sum), -EINVAL);
	if (to.fd >= 0) {
		sigbus_init();
		ck_assert_int_eq(ftruncate(to.fd, MIB / 2), 0);
		ck_assert_int_eq(engine_region_sum(e, to.region, 0, MIB, sum),
				 -EFAULT);
		ck_assert_int_eq(
			engine_region_sum(e, to.region, 0, MIB / 2, sum), 0);
	}
	close_way();
}
END_TEST

/* ---- many and much ----------------------------------------------------------
 */

#define MANY 10000

struct many {
	struct fx_batch batch[MANY];
	struct engine_xfer xfer[MANY];
};

/* All of them queued before the first can be waited for. */
static void many_at_once(struct engine_peer *peer, struct engine_segment seg)
{
	struct many *m = calloc(1, sizeof(*m));
	struct mallinfo2 before = mallinfo2(), after;

	for (uint32_t i = 0; i < MANY; i++) {
		struct fx_piece p = {(uint64_t)i * 100, (uint64_t)i * 100, 100};

		ck_assert_int_eq(fx_submit(fx_writer(&fx), peer, &m->batch[i],
					   &m->xfer[i], &p, 1, from.region, seg,
					   to.region),
				 0);
	}
	after = mallinfo2();
	for (uint32_t i = 0; i < MANY; i++)
		ck_assert_int_eq(fx_batch_wait(&m->batch[i]), 0);

	/* What waits takes nothing; what is on its way, a window. */
	ck_assert_uint_lt(after.uordblks,
			  before.uordblks + MIB + fx.way->buffers_bytes);
	free(m);
}

START_TEST(ten_thousand_transfers_in_flight_take_a_window_of_memory)
{
	const struct fx_piece all = {0, 0, MANY * 100};
	struct engine_peer *reader = NULL, *writer = NULL;
	struct engine_segment none = {0, 0};
	struct fx_grant g;
	char *want;

	open_way(_i, MANY * 100);
	want = model(&all, 1);
	if (!fx.way->listen) {
		many_at_once(NULL, none);
	} else {
		reader = fx_peer(&fx, 0, 1);
		writer = fx_peer(&fx, 1, 0);
		fx_grant_open(&g, writer, &to, 0, to.size);
		many_at_once(reader, g.segment);
		ck_assert_int_eq(fx_grant_wait(&g), 0);
		engine_peer_put(reader);
		engine_peer_put(writer);
	}

	ck_assert_mem_eq(to.bytes, want, to.size);
	free(want);
	close_way();
}
END_TEST

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MUCH (64ull << 20)
#else
#define MUCH (1ull << 30)
#endif
#define MUCH_SLOW (64ull << 20)
#define WINDOW (4ull << 20)

/* A gibibyte of addresses that are the same 4 MiB again and again. */
static void mem_repeated(struct fx_mem *m, struct engine *e, uint64_t bytes,
			 uint32_t seed)
{
	struct engine_mem mem = {.kind = ENGINE_MEM_HOST,
				 .length_bytes = bytes};
	int fd = memfd_create("much", MFD_CLOEXEC);

	*m = (struct fx_mem){.engine = e, .size = bytes, .fd = fd};
	ck_assert_int_eq(ftruncate(fd, WINDOW), 0);
	m->bytes = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	ck_assert_ptr_ne(m->bytes, MAP_FAILED);
	for (uint64_t at = 0; at < bytes; at += WINDOW)
		ck_assert_ptr_ne(mmap(m->bytes + at, WINDOW,
				      PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_FIXED, fd, 0),
				 MAP_FAILED);
	fx_fill(m->bytes, WINDOW, seed);
	mem.addr = m->bytes;
	ck_assert_int_eq(engine_region_add(e, &mem, &m->region), 0);
}

START_TEST(a_gibibyte_in_one_transfer_arrives)
{
	uint64_t much = fx_ways[_i].slow ? MUCH_SLOW : MUCH;
	const struct fx_piece all = {0, 0, much};

	if (fx_ways[_i].from != ENGINE_MEM_HOST ||
	    fx_ways[_i].to != ENGINE_MEM_HOST)
		return;
	fx_open(&fx, &fx_ways[_i], 2);
	mem_repeated(&from, fx_writer(&fx), much, 1);
	mem_repeated(&to, fx_reader(&fx), much, 2);

	ck_assert_int_eq(fx_move(&fx, &from, &to, &all, 1), 0);

	ck_assert_mem_eq(to.bytes, from.bytes, WINDOW);
	close_way();
}
END_TEST

/* Pages that the cache has; 0 also where the kernel does not say. */
static uint64_t cached_pages(int fd)
{
	uint64_t range[2] = {0, 0}, stat[5];

	return syscall(451, fd, range, stat, 0) ? 0 : stat[0];
}

START_TEST(a_cold_file_is_read_past_the_page_cache)
{
	const struct fx_piece all = {0, 0, 4 * MIB};
	int direct;

	if (!fx_ways[_i].cold)
		return;
	open_way(_i, 4 * MIB);
	direct = fcntl(from.fd, F_SETFL, O_RDWR | O_DIRECT);
	ck_assert_int_eq(fcntl(from.fd, F_SETFL, O_RDWR), 0);

	ck_assert_int_eq(fx_move(&fx, &from, &to, &all, 1), 0);

	if (!direct) /* or its file system knows no O_DIRECT */
		ck_assert_uint_eq(cached_pages(from.fd), 0);
	ck_assert_mem_eq(to.bytes, from.bytes, 4 * MIB);
	close_way();
}
END_TEST

/* ---- its end ---------------------------------------------------------------
 */

START_TEST(a_batch_past_its_deadline_or_cancelled_ends_once)
{
	/* Side by side: two that write one place at once are a fault of whoever
	 * asks for it. */
	const struct fx_piece p[2] = {{0, 0, 8 * MIB},
				      {8 * MIB, 8 * MIB, 8 * MIB}};
	struct engine_peer *reader = NULL, *writer = NULL;
	struct fx_batch late = {.b.deadline_ns = 1}, cancelled = {.status = 1};
	struct engine_xfer x[2];
	struct fx_grant g = {.segment = {0, 0}};
	int status;

	open_way(_i, 16 * MIB);
	if (fx.way->listen) {
		reader = fx_peer(&fx, 0, 1);
		writer = fx_peer(&fx, 1, 0);
		fx_grant_open(&g, writer, &to, 0, to.size);
	}

	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &late, &x[0], &p[0],
				   1, from.region, g.segment, to.region),
			 0);
	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &cancelled, &x[1],
				   &p[1], 1, from.region, g.segment, to.region),
			 0);
	engine_cancel(fx_writer(&fx), &cancelled.b);
	status = fx_batch_wait(&cancelled);
	ck_assert(status == -ECANCELED || status == 0);
	status = fx_batch_wait(&late);
	ck_assert(status == -ETIMEDOUT || status == 0);
	engine_cancel(fx_writer(&fx), &late.b); /* over: does nothing */

	if (fx.way->listen) {
		fx_grant_end(&g);
		engine_peer_put(reader);
		engine_peer_put(writer);
	}
	close_way();
}
END_TEST

START_TEST(closing_the_engine_completes_what_is_in_flight)
{
	struct engine_peer *reader = NULL, *writer = NULL;
	struct fx_batch b[8] = {{.status = 1}};
	struct engine_xfer x[8];
	struct fx_piece p[8];
	struct fx_grant g = {.segment = {0, 0}};

	open_way(_i, 16 * MIB);
	if (fx.way->listen) {
		reader = fx_peer(&fx, 0, 1);
		writer = fx_peer(&fx, 1, 0);
		fx_grant_open(&g, writer, &to, 0, to.size);
	}
	for (uint32_t i = 0; i < 8; i++) {
		p[i] = (struct fx_piece){i * 2 * MIB, i * 2 * MIB, 2 * MIB};
		ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b[i], &x[i],
					   &p[i], 1, from.region, g.segment,
					   to.region),
				 0);
	}

	fx_node_close(&fx, 0);

	for (int i = 0; i < 8; i++) {
		ck_assert_uint_eq(b[i].n_done, 1);
		/* (-ESTALE: another one had filled the segment.) */
		ck_assert(b[i].status == 0 || b[i].status == -ESHUTDOWN ||
			  b[i].status == -ESTALE);
	}
	/* (It may have been closed before there was a session to lose.) */
	if (fx.way->listen)
		fx_grant_end(&g);
	fx_close(&fx);
	munmap(from.bytes, from.size);
	munmap(to.bytes, to.size);
	close(from.fd);
	close(to.fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine");
	TCase *all = tcase_create("every way");
	SRunner *runner;
	int failed;

	fx_choose_ways();
	tcase_set_timeout(all, 60);
#define EVERY_WAY(test) tcase_add_loop_test(all, test, 0, fx_n_ways)
	EVERY_WAY(every_length_and_edge_arrives_and_nothing_beside_it_changes);
	EVERY_WAY(batches_of_1_to_4096_transfers_arrive_whole);
	EVERY_WAY(what_makes_no_sense_is_refused_and_nothing_moves);
	EVERY_WAY(a_range_outside_of_its_target_is_refused_and_nothing_moves);
	EVERY_WAY(an_id_of_a_removed_region_is_refused);
	EVERY_WAY(a_sum_is_of_the_piece_that_was_named);
	EVERY_WAY(ten_thousand_transfers_in_flight_take_a_window_of_memory);
	EVERY_WAY(a_cold_file_is_read_past_the_page_cache);
	EVERY_WAY(a_gibibyte_in_one_transfer_arrives);
	EVERY_WAY(a_batch_past_its_deadline_or_cancelled_ends_once);
	EVERY_WAY(closing_the_engine_completes_what_is_in_flight);
	suite_add_tcase(suite, all);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

// SPDX-License-Identifier: MIT
/* The rdma transport on a card: what goes wrong there. KVFS_TEST_RDMA is the
 * address of the card's interface, KVFS_TEST_RDMA_INTERFACE its name: it is
 * taken down and up again. KVFS_TEST_RDMA_SECOND, an address of another card,
 * has both used. tests/rdma/faults.sh runs this in a machine of its own. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "engine/rdma.h"
#include "tests/unit/engine_fixture.h"

#define MIB (1u << 20)
#define SIZE (4 * MIB)
#define LARGE (64 * MIB)
#define SMALL 4096u
#define N_SHORT 24u
#define SKIPPED 77

static struct fx fx;
static struct fx_way way;
static struct fx_mem from, to;
static struct engine_peer *reader, *writer;

static void begin_with(const char *fault, uint32_t links, const char *also,
		       size_t size)
{
	if (fault)
		setenv("KVFS_FAULT", fault, 1);
	fault_init();
	way = fx_ways[0];
	way.links = links;
	way.also = also;
	fx_open(&fx, &way, 2);
	fx_mem_new(&from, fx_writer(&fx), ENGINE_MEM_HOST, size);
	fx_mem_new(&to, fx_reader(&fx), ENGINE_MEM_FILE, size);
	fx_fill(from.bytes, size, 1);
	fx_fill(to.bytes, size, 2);
	reader = fx_peer(&fx, 0, 1);
	writer = fx_peer(&fx, 1, 0);
}

static void begin(const char *fault, uint32_t links)
{
	begin_with(fault, links, NULL, SIZE);
}

static void end(void)
{
	engine_peer_put(reader);
	engine_peer_put(writer);
	fx_mem_free(&from);
	fx_mem_free(&to);
	fx_close(&fx);
}

/* All of it: what is offered, and so many that are carried. */
static int move_once(void)
{
	struct fx_piece p[1 + N_SHORT];

	p[0] = (struct fx_piece){0, 0, to.size - N_SHORT * SMALL};
	for (uint64_t i = 0; i < N_SHORT; i++) {
		uint64_t at = p[0].bytes + i * SMALL;

		p[1 + i] = (struct fx_piece){at, at, SMALL};
	}
	return fx_move(&fx, &from, &to, p, 1 + N_SHORT);
}

/* A session may end with its last path; the next one is tried for. */
static int until_moved(int (*once)(void))
{
	int64_t by = clock_now_ns() + 20 * NS_PER_S;
	int status = once();

	while (status && clock_now_ns() < by) {
		engine_peer_end_backoff(reader);
		usleep(10000);
		status = once();
	}
	return status;
}

static int move(void)
{
	return until_moved(move_once);
}

static uint64_t links_lost(int node)
{
	struct engine_stats s;

	engine_stats(fx.node[node].engine, &s);
	return s.links_lost;
}

static void wait_for_a_lost_link(int node)
{
	int64_t by = clock_now_ns() + 30 * NS_PER_S;

	while (!links_lost(node) && clock_now_ns() < by)
		usleep(10000);
	ck_assert_uint_gt(links_lost(node), 0);
}

/* ---- calls that fail ------------------------------------------------------
 */

static const char *const faults[] = {
	"verbs.open:3",
	"verbs.open:3",
	"verbs.query_device:1",
	"verbs.query_port:3",
	"verbs.query_port:6",
	"verbs.query_gids:3",
	"verbs.alloc_pd:1",
	"verbs.channel:1",
	"verbs.create_cq:1",
	"verbs.create_cq:2",
	"verbs.create_qp:1",
	"verbs.create_qp:2",
	"verbs.modify_qp:1",
	"verbs.modify_qp:2",
	"verbs.modify_qp:3",
	"verbs.modify_qp:4",
	"verbs.modify_qp:5",
	"verbs.modify_qp:6",
	"verbs.reg_mr:1",
	"verbs.reg_mr:2",
	"verbs.reg_mr:5",
	"verbs.reg_mr:6",
	"verbs.alloc_mw:1",
	"verbs.alloc_mw:3",
	"verbs.post_send:1",
	"verbs.post_send:2",
	"verbs.post_send:3",
	"verbs.post_send:4",
	"verbs.post_send:5",
	"verbs.post_send:6",
	"verbs.post_send:9",
	"verbs.post_send:12",
	"verbs.notify:1",
	"verbs.notify:5",
	"verbs.notify:8",
	"verbs.poll:1",
	"verbs.poll:2",
	"verbs.poll:3",
	"verbs.poll:5",
	"verbs.poll:8",
	"verbs.create_srq:1",
	"verbs.create_srq:1+",
	"verbs.post_srq_recv:1",
	"verbs.post_srq_recv:40",
	"verbs.post_srq_recv:65",
	"verbs.post_srq_recv:70",
	"verbs.create_srq:1+,verbs.post_recv:1",
	"verbs.create_srq:1+,verbs.post_recv:4",
	"verbs.create_srq:1+,verbs.post_recv:13",
	"verbs.create_srq:1+,verbs.post_recv:16",
	"verbs.create_srq:1+,verbs.notify:8",
	"rdma.windows:1+",
	"rdma.pieces:1+",
	"rdma.no_long:1+",
	"rdma.no_long:3",
};
#define N_FAULTS ((int)(sizeof(faults) / sizeof(faults[0])))

/* The last call that a plan names, how often it was made, and which of them is
 * to fail. */
static char watched[32];
static long nth;
static _Atomic long calls;

static void count_calls(const char *point)
{
	calls += !strcmp(point, watched);
}

static void watch(const char *plan)
{
	const char *last = strrchr(plan, ',');

	ck_assert_int_eq(
		sscanf(last ? last + 1 : plan, "%31[^:]:%ld", watched, &nth),
		2);
	calls = 0;
	fault_hook = count_calls;
}

START_TEST(a_verbs_call_that_fails_loses_nothing)
{
	char both[128];

	watch(faults[_i]);
	snprintf(both, sizeof(both), "rdma.windows:%s,%s", _i % 8 ? "1+" : "99",
		 faults[_i]);
	begin(both, 2);

	ck_assert_int_eq(move(), 0);

	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	end();
	fault_hook = NULL;
	if (!strncmp(watched, "verbs.", 6))
		ck_assert_msg(calls >= nth, "%s: only %ld calls", faults[_i],
			      (long)calls);
}
END_TEST

/* ---- how often it is called ----------------------------------------------
 */

#define N_SMALL 1000u

static _Atomic uint32_t sends, receives;

static void count_posts(const char *point)
{
	if (!strcmp(point, "verbs.post_send"))
		sends++;
	else if (!strcmp(point, "verbs.post_srq_recv"))
		receives++;
}

static const struct posts_case {
	const char *fault;
	uint32_t bytes;
} posts_cases[] = {
	{NULL, SMALL},
	{"rdma.no_long:1+", SMALL},
	{"rdma.no_long:1+,rdma.windows:1+", SMALL},
	{NULL, 100},
};

START_TEST(slices_of_a_batch_are_posted_together)
{
	const struct posts_case *k = &posts_cases[_i];
	struct fx_piece pieces[N_SMALL];

	for (uint32_t i = 0; i < N_SMALL; i++)
		pieces[i] = (struct fx_piece){i * SMALL, i * SMALL, k->bytes};
	begin(k->fault, 4);
	ck_assert_int_eq(move(), 0);
	fx_fill(to.bytes, SIZE, 2);
	sends = receives = 0;
	fault_hook = count_posts;

	ck_assert_int_eq(fx_move(&fx, &from, &to, pieces, N_SMALL), 0);

	fault_hook = NULL;
	for (uint32_t i = 0; i < N_SMALL; i++)
		ck_assert_mem_eq(to.bytes + i * SMALL, from.bytes + i * SMALL,
				 k->bytes);
	printf("%u slices of %u, %s: %u posts to send, %u to receive\n",
	       N_SMALL, k->bytes, k->fault ? k->fault : "carried", sends,
	       receives);
	/* One by one, the WRITEs alone would be as many. */
	ck_assert_uint_lt(sends, N_SMALL);
	ck_assert_uint_lt(receives, N_SMALL);
	end();
}
END_TEST

/* ---- what the card refuses ------------------------------------------------
 */

static void write_is_refused(const char *fault)
{
	const struct fx_piece p = {0, MIB, 65536};
	struct fx_batch b = {.status = 1};
	struct engine_xfer x;
	struct fx_grant g;
	char *want = malloc(SIZE);

	begin(fault, 1);
	memcpy(want, to.bytes, SIZE);
	fx_grant_open(&g, writer, &to, 0, SIZE);

	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b, &x, &p, 1,
				   from.region, g.segment, 0),
			 0);

	wait_for_a_lost_link(0);
	fx_grant_end(&g);
	fx_batch_wait(&b);
	ck_assert_mem_eq(to.bytes, want, SIZE);
	free(want);
	fx_wait(&fx.node[0].n_down, 1);
	ck_assert_int_eq(fx.node[0].why, -EREMOTEIO);
	end();
}

/* (Not with windows: Soft-RoCE does not see their bounds.) */
START_TEST(a_write_outside_of_its_landing_is_refused)
{
	write_is_refused("rdma.beyond:1+");
}
END_TEST

START_TEST(a_write_with_another_key_is_refused)
{
	write_is_refused(_i ? "rdma.key:1+,rdma.windows:1+" : "rdma.key:1+");
}
END_TEST

START_TEST(a_landing_may_not_be_read)
{
	write_is_refused(_i ? "rdma.read:1+,rdma.windows:1+" : "rdma.read:1+");
}
END_TEST

/* The grant is over, though its writer never wrote; then he does. */
static void late_write_is_refused(const char *fault)
{
	const struct fx_piece p = {0, MIB, 65536};
	struct fx_batch b = {.status = 1};
	struct engine_xfer x;
	struct fx_grant g;
	char *want = malloc(SIZE);
	struct fx_call c;

	begin(fault, 1);
	memcpy(want, to.bytes, SIZE);
	fx_grant_open(&g, writer, &to, 0, SIZE);
	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b, &x, &p, 1,
				   from.region, g.segment, 0),
			 0);
	/* What is said after an offer is heard after it. */
	ck_assert_int_eq(fx_call(reader, &c, FX_ECHO, "x", 1, 0), 0);
	ck_assert_int_eq(fx_call_wait(&c), 0);

	ck_assert_int_eq(fx_grant_end(&g), -ECANCELED);
	wait_for_a_lost_link(0);
	fx_batch_wait(&b);

	ck_assert_mem_eq(to.bytes, want, SIZE);
	free(want);
	end();
}

START_TEST(a_write_that_comes_too_late_is_refused)
{
	late_write_is_refused("rdma.late:1+");
}
END_TEST

START_TEST(too_late_with_windows_too)
{
	late_write_is_refused("rdma.late:1+,rdma.windows:1+");
}
END_TEST

/* A key goes while the word of its WRITE waits to be looked at: that breaks no
 * rules, and the link stays. */
START_TEST(a_write_that_came_before_its_key_went_ends_no_link)
{
	const struct fx_piece p = {0, MIB, 65536};
	struct fx_batch b = {.status = 1};
	struct engine_xfer x;
	struct fx_grant g;

	begin(_i ? "rdma.hasty:1,rdma.windows:1+" : "rdma.hasty:1", 1);
	fx_grant_open(&g, writer, &to, 0, SIZE);

	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b, &x, &p, 1,
				   from.region, g.segment, 0),
			 0);
	/* By a window the word of it comes first. */
	ck_assert_int_eq(fx_batch_wait(&b), _i ? 0 : -ESTALE);
	fx_grant_end(&g);

	ck_assert_int_eq(move_once(), 0);
	ck_assert_uint_eq(links_lost(0) + links_lost(1), 0);
	end();
}
END_TEST

/* ---- the machine ----------------------------------------------------------
 */

static void interface(const char *what)
{
	char command[100];

	snprintf(command, sizeof(command), "ip link set dev %s %s",
		 getenv("KVFS_TEST_RDMA_INTERFACE"), what);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(a_port_that_goes_down_ends_its_links_and_comes_back)
{
	begin(NULL, 2);
	ck_assert_int_eq(move(), 0);

	interface("down");
	fx_wait(&fx.node[0].n_down, 1);
	ck_assert_int_eq(fx.node[0].why, -ENETDOWN);
	ck_assert_int_ne(move_once(), 0);
	interface("up");

	fx_fill(to.bytes, SIZE, 2);
	ck_assert_int_eq(move(), 0);
	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	end();
}
END_TEST

/* All links of both sides, as both see them. */
static void wait_for_all_links(void)
{
	struct engine_peer *const peers[] = {reader, writer};
	int64_t by = clock_now_ns() + 30 * NS_PER_S;
	struct engine_peer_info info;

	for (int i = 0; i < 2; i++)
		do {
			usleep(1000);
			engine_peer_info(peers[i], &info);
			ck_assert_int_lt(clock_now_ns(), by);
		} while (info.n_links < 2 * info.n_links_wanted);
}

/* What each of two cards sent. */
static void sent(uint64_t bytes[2])
{
	struct engine_device d;

	for (unsigned i = 0; i < 2; i++)
		bytes[i] = engine_device(fx_writer(&fx), i, &d)
				   ? d.traffic.sent_bytes
				   : 0;
}

static bool both_sent(const uint64_t before[2], uint64_t least)
{
	uint64_t now[2];

	sent(now);
	return now[0] - before[0] >= least && now[1] - before[1] >= least;
}

/* One transfer; until it is one that both carried. */
static void move_by_both(void)
{
	int64_t by = clock_now_ns() + 30 * NS_PER_S;
	uint64_t before[2];

	do {
		fx_fill(to.bytes, to.size, 2);
		sent(before);
		engine_peer_end_backoff(reader);
		ck_assert_int_eq(move(), 0);
		ck_assert_mem_eq(to.bytes, from.bytes, to.size);
	} while (!both_sent(before, MIB) && clock_now_ns() < by);
	ck_assert(both_sent(before, MIB));
}

static uint64_t retried(void)
{
	struct engine_stats s;

	engine_stats(fx.node[0].engine, &s);
	return s.slices_retried;
}

/* While both cards carry a transfer the second one's link goes down. */
static void lose_one_amid(void)
{
	const struct fx_piece p = {0, 0, LARGE};
	struct fx_batch b = {.status = 1};
	struct engine_xfer xfer;
	struct fx_grant g;
	uint64_t before[2];

	fx_fill(to.bytes, LARGE, 2);
	sent(before);
	fx_grant_open(&g, writer, &to, 0, LARGE);
	ck_assert_int_eq(fx_submit(fx_writer(&fx), reader, &b, &xfer, &p, 1,
				   from.region, g.segment, 0),
			 0);
	while (!both_sent(before, MIB))
		usleep(1000);
	interface("down");

	ck_assert_int_eq(fx_batch_wait(&b), 0);
	fx_grant_end(&g);
	ck_assert_mem_eq(to.bytes, from.bytes, LARGE);
}

/* Both cards, if there are two: whether there are. */
static bool begin_by_both(size_t size, uint32_t links)
{
	const char *second = getenv("KVFS_TEST_RDMA_SECOND");
	char also[ENGINE_ADDRESS_BYTES];

	if (!second) {
		printf("SKIP: no KVFS_TEST_RDMA_SECOND\n");
		return false;
	}
	snprintf(also, sizeof(also), "rdma:%s:0", second);
	begin_with(NULL, links, also, size);
	move_by_both();
	return true;
}

/* The session lives on by the other one. On a busy machine that card may have
 * been done when its link went: then once more. */
START_TEST(what_a_lost_port_had_under_way_goes_by_the_other_card)
{
	int64_t by = clock_now_ns() + 60 * NS_PER_S;
	uint64_t before[2];

	if (!begin_by_both(LARGE, 2))
		return;
	lose_one_amid();
	while (!retried() && clock_now_ns() < by) {
		interface("up");
		move_by_both();
		lose_one_amid();
	}
	ck_assert_uint_gt(links_lost(0), 0);
	ck_assert_uint_gt(retried(), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(fx_read(&fx.node[i].n_down), 0);
	sent(before);
	ck_assert_int_eq(move(), 0);
	ck_assert(!both_sent(before, 1));
	interface("up");
	move_by_both();
	end();
}
END_TEST

/* Too little to tell how fast a path is. */
static int move_little(void)
{
	const struct fx_piece little = {0, 0, SMALL};

	return fx_move(&fx, &from, &to, &little, 1);
}

/* Of no path is known how fast it is. */
static void meet_anew(void)
{
	engine_peer_drop(reader, -ECONNRESET);
	ck_assert_int_eq(until_moved(move_little), 0);
	wait_for_all_links();
}

/* Although each has links enough to carry all four slices. (On a busy machine a
 * card may be done before the next slice is handed out: then once more.) */
START_TEST(a_block_goes_by_both_cards)
{
	int64_t by = clock_now_ns() + 60 * NS_PER_S;
	uint64_t before[2];

	if (!begin_by_both(SIZE, 4))
		return;
	do {
		meet_anew();
		sent(before);
		fx_fill(to.bytes, SIZE, 2);
		ck_assert_int_eq(move_once(), 0);
		ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	} while (!both_sent(before, MIB) && clock_now_ns() < by);
	ck_assert(both_sent(before, MIB));
	end();
}
END_TEST

/* (Soft-RoCE does not go while it is open: that its port is down is taken for
 * that, by both engines.) */
START_TEST(a_device_that_is_lost_is_opened_again)
{
	char line[512];

	begin("rdma.fatal:1,rdma.fatal:1", 2);
	ck_assert_int_eq(move(), 0);
	watch("verbs.alloc_pd:2"); /* once for each opening */

	interface("down");
	for (int i = 0; i < 2; i++) {
		fx_wait(&fx.node[i].n_down, 1);
		ck_assert_int_eq(fx.node[i].why, -ENODEV);
	}
	log_last_error(line, sizeof(line));
	ck_assert_ptr_nonnull(strstr(line, "the device is lost"));
	interface("up");

	fx_fill(to.bytes, SIZE, 2);
	ck_assert_int_eq(move(), 0);
	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	fault_hook = NULL;
	ck_assert_int_eq(calls, nth);
	end();
}
END_TEST

static void meet_again(void)
{
	engine_peer_drop(reader, -ECONNRESET);
	fx_fill(to.bytes, SIZE, 2);
	ck_assert_int_eq(move(), 0);
	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	wait_for_all_links();
}

static void address(const char *what)
{
	char command[100];

	snprintf(command, sizeof(command), "ip address %s 192.0.2.77/32 dev %s",
		 what, getenv("KVFS_TEST_RDMA_INTERFACE"));
	ck_assert_int_eq(system(command), 0);
}

START_TEST(a_card_is_looked_for_once_and_when_its_addresses_change)
{
	int64_t by = clock_now_ns() + 60 * NS_PER_S;
	long before;

	begin(NULL, 4);
	watch("verbs.query_gids:1");
	ck_assert_int_eq(move(), 0);
	wait_for_all_links();
	before = calls;
	ck_assert_int_gt(before, 0);

	meet_again();
	ck_assert_int_eq(calls, before);

	address("add");
	do
		meet_again();
	while (calls == before && clock_now_ns() < by);
	address("del");
	ck_assert_int_gt(calls, before);
	fault_hook = NULL;
	end();
}
END_TEST

/* One queue pair more than there are before; what was found may be why. */
START_TEST(a_card_is_looked_for_after_it_failed)
{
	long before;

	begin("verbs.create_qp:17", 4);
	watch("verbs.query_gids:1");
	ck_assert_int_eq(move(), 0);
	wait_for_all_links();
	before = calls;

	meet_again();

	ck_assert_int_gt(calls, before);
	fault_hook = NULL;
	end();
}
END_TEST

/* Is a node with this address reached by the GID that the address is? */
static bool gid_is_address(const char *ip, struct topology_port *port)
{
	char text[ENGINE_ADDRESS_BYTES], gid[INET6_ADDRSTRLEN];
	struct tcp_address a;

	snprintf(text, sizeof(text), "tcp:%s:0", ip);
	ck_assert_int_eq(tcp_address_parse(text, &a), 0);
	if (rdma_port_of(&a, NULL, port))
		return false;
	ck_assert_int_eq(port->gid_type, GID_ROCE_V2);
	ck_assert_ptr_nonnull(inet_ntop(AF_INET6, port->gid, gid, sizeof(gid)));
	return !strcmp(gid + strspn(gid, ":f"), ip);
}

/* (The kernel makes it known to the card in a thread of its own.) */
START_TEST(the_address_chooses_the_gid)
{
	const char *first = getenv("KVFS_TEST_RDMA");
	int64_t by = clock_now_ns() + 20 * NS_PER_S;
	struct topology_port one, other;

	address("add");
	while (!gid_is_address("192.0.2.77", &other))
		ck_assert_int_lt(clock_now_ns(), by);
	ck_assert(gid_is_address(first, &one));
	ck_assert_uint_ne(one.gid_index, other.gid_index);
	address("del");
	ck_assert(!gid_is_address("192.0.2.77", &other));
}
END_TEST

START_TEST(a_device_that_is_not_named_is_not_used)
{
	static const struct {
		const char *devices;
		bool can;
	} lists[] = {
		{NULL, true},	       {"rxe0", true},
		{"rxe0:1", true},      {"mlx5_0,rxe0", true},
		{"rxe0,mlx5_0", true}, {"rxe0:2", false},
		{"rxe0:11", false},    {"rxe", false},
		{"rxe00", false},      {"mlx5_0,mlx5_1:1", false},
	};
	char address[64];

	if (!getenv("KVFS_TEST_RDMA_RXE0")) {
		printf("SKIP: a device that is not named: only of rxe0\n");
		return;
	}
	snprintf(address, sizeof(address), "rdma:%s:0",
		 getenv("KVFS_TEST_RDMA"));

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		ck_assert_int_eq(engine_can_listen(address, lists[i].devices),
				 lists[i].can);
}
END_TEST

START_TEST(a_frame_that_may_only_be_read_is_sent)
{
	const struct fx_piece p = {0, 0, SIZE};
	struct fx_mem frame, only;
	struct engine_mem mem = {.kind = ENGINE_MEM_FILE, .length_bytes = SIZE};
	char path[40];

	begin("rdma.few:1+", 1); /* of copies, too, where they are needed */
	fx_mem_new(&frame, fx_writer(&fx), ENGINE_MEM_FILE, SIZE);
	fx_fill(frame.bytes, SIZE, 3);
	only = frame;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", frame.fd);
	mem.fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(mem.fd, 0);
	ck_assert_int_eq(engine_region_add(fx_writer(&fx), &mem, &only.region),
			 0);

	ck_assert_int_eq(fx_move(&fx, &only, &to, &p, 1), 0);

	ck_assert_mem_eq(to.bytes, frame.bytes, SIZE);
	ck_assert_int_eq(
		engine_region_remove(fx_writer(&fx), only.region, NULL, NULL),
		0);
	fx_mem_free(&frame);
	end();
	close(mem.fd);
}
END_TEST

/* Of a carried slice: the links stay. */
START_TEST(a_short_slice_of_memory_that_is_gone_is_refused)
{
	const struct fx_piece p = {0, MIB, SMALL}, q = {MIB, 0, SMALL};
	struct fx_mem frame;

	begin(NULL, 1);
	fx_mem_new(&frame, fx_writer(&fx), ENGINE_MEM_FILE, SIZE);
	ck_assert_int_eq(fx_move(&fx, &frame, &to, &q, 1), 0);
	ck_assert_int_eq(ftruncate(frame.fd, MIB), 0);
	ck_assert_int_eq(ftruncate(to.fd, MIB), 0);

	ck_assert_int_eq(fx_move(&fx, &frame, &to, &q, 1), -EFAULT);
	ck_assert_int_eq(fx_move(&fx, &frame, &to, &p, 1), -EFAULT);

	ck_assert_int_eq(ftruncate(frame.fd, SIZE), 0);
	ck_assert_int_eq(ftruncate(to.fd, SIZE), 0);
	ck_assert_int_eq(move_once(), 0);
	ck_assert_mem_eq(to.bytes, from.bytes, SIZE);
	ck_assert_uint_eq(links_lost(0), 0);
	fx_mem_free(&frame);
	end();
}
END_TEST

/* As many queue pairs as one peer has links, and two peers. */
START_TEST(queue_pairs_go_to_the_peer_that_is_used)
{
	const struct fx_piece p = {0, 0, SIZE};
	struct engine_device d;
	struct fx_mem there;
	struct engine_peer *other;
	struct fx second;
	int64_t by;

	begin("rdma.few:1+", 4);
	fx_node_open(&fx, 2, 1);
	second = fx;
	second.node[1] = fx.node[2];
	other = fx_peer(&fx, 0, 2);
	fx_mem_new(&there, fx.node[2].engine, ENGINE_MEM_FILE, SIZE);

	for (uint32_t i = 0; i < 6; i++) {
		struct fx_mem *at = i % 2 ? &there : &to;
		int status;

		fx_fill(at->bytes, SIZE, 5);
		by = clock_now_ns() + 60 * NS_PER_S;
		do {
			engine_peer_end_backoff(i % 2 ? other : reader);
			usleep(10000);
			status = fx_move(i % 2 ? &second : &fx, &from, at, &p,
					 1);
		} while (status && clock_now_ns() < by);
		ck_assert_int_eq(status, 0);
		ck_assert_mem_eq(at->bytes, from.bytes, SIZE);
		ck_assert(engine_device(fx_writer(&fx), 0, &d));
		ck_assert_uint_le(d.n_links, 4);
	}

	ck_assert_uint_gt(links_lost(0), 0);
	engine_peer_put(other);
	fx_mem_free(&there);
	fx_node_close(&fx, 2);
	end();
}
END_TEST

static void may_lock(uint64_t bytes)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	struct rlimit limit = {bytes, bytes};

	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	ck_assert_int_eq(syscall(SYS_capget, &h, d), 0);
	d[0].effective &= ~(1u << CAP_IPC_LOCK);
	d[0].permitted &= ~(1u << CAP_IPC_LOCK);
	ck_assert_int_eq(syscall(SYS_capset, &h, d), 0);
}

START_TEST(memory_that_may_not_be_locked_is_said_with_what_to_do)
{
	char line[512];

	may_lock(MIB);
	begin(NULL, 1);

	ck_assert_int_ne(move_once(), 0);

	log_last_error(line, sizeof(line));
	ck_assert_ptr_nonnull(strstr(line, "at most 1048576 may be locked"));
	ck_assert_ptr_nonnull(strstr(line, "ulimit -l unlimited"));
	end();
}
END_TEST

START_TEST(memory_that_a_device_refuses_is_said_with_what_to_do)
{
	const struct rlimit no_limit = {RLIM_INFINITY, RLIM_INFINITY};
	char line[512];

	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &no_limit), 0);
	begin("verbs.reg_mr:1+", 1);

	ck_assert_int_ne(move_once(), 0);

	log_last_error(line, sizeof(line));
	ck_assert_ptr_nonnull(strstr(line, "run 'ibv_devinfo -v -d "));
	ck_assert_ptr_nonnull(strstr(line, "transport=tcp"));
	end();
}
END_TEST

int main(void)
{
	SRunner *runner;
	Suite *suite;
	TCase *all, *two, *found, *posts;
	int failed;

	if (!getenv("KVFS_TEST_RDMA")) {
		printf("SKIP: no KVFS_TEST_RDMA\n");
		return SKIPPED;
	}
	fx_choose_ways();
	suite = suite_create("rdma");
	all = tcase_create("a card");
	tcase_set_timeout(all, 90);
	tcase_add_loop_test(all, a_verbs_call_that_fails_loses_nothing, 0,
			    N_FAULTS);
	tcase_add_test(all, a_write_outside_of_its_landing_is_refused);
	tcase_add_loop_test(all, a_write_with_another_key_is_refused, 0, 2);
	tcase_add_loop_test(all, a_landing_may_not_be_read, 0, 2);
	tcase_add_test(all, a_write_that_comes_too_late_is_refused);
	tcase_add_test(all, too_late_with_windows_too);
	tcase_add_loop_test(
		all, a_write_that_came_before_its_key_went_ends_no_link, 0, 2);
	tcase_add_test(all,
		       a_port_that_goes_down_ends_its_links_and_comes_back);
	tcase_add_test(all, a_device_that_is_lost_is_opened_again);
	tcase_add_test(all, the_address_chooses_the_gid);
	tcase_add_test(all, a_device_that_is_not_named_is_not_used);
	tcase_add_test(all, queue_pairs_go_to_the_peer_that_is_used);
	tcase_add_test(all, a_frame_that_may_only_be_read_is_sent);
	tcase_add_test(all, a_short_slice_of_memory_that_is_gone_is_refused);
	tcase_add_test(all,
		       memory_that_may_not_be_locked_is_said_with_what_to_do);
	tcase_add_test(all,
		       memory_that_a_device_refuses_is_said_with_what_to_do);
	suite_add_tcase(suite, all);
	two = tcase_create("two cards");
	tcase_set_timeout(two, 90);
	tcase_add_test(two, a_block_goes_by_both_cards);
	tcase_add_test(two,
		       what_a_lost_port_had_under_way_goes_by_the_other_card);
	suite_add_tcase(suite, two);
	found = tcase_create("found");
	tcase_set_timeout(found, 90);
	tcase_add_test(found,
		       a_card_is_looked_for_once_and_when_its_addresses_change);
	tcase_add_test(found, a_card_is_looked_for_after_it_failed);
	suite_add_tcase(suite, found);
	posts = tcase_create("posts");
	tcase_set_timeout(posts, 90);
	tcase_add_loop_test(posts, slices_of_a_batch_are_posted_together, 0,
			    sizeof(posts_cases) / sizeof(posts_cases[0]));
	suite_add_tcase(suite, posts);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

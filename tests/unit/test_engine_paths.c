// SPDX-License-Identifier: MIT
/* Several addresses a node: which path a slice takes, and what becomes of one
 * that fails. Between the nodes stand relays, one an address, which count what
 * they pass on, fall silent, or hang up. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/engine_internal.h"
#include "engine/numa.h"
#include "engine/path.h"
#include "tests/unit/tcp_fixture.h"

#define MIB (1u << 20)
#define PAIRS_MAX 32
#define SILENCE_MS 1000 /* a busy machine is silent for less */

/* ---- relays -------------------------------------------------------------- */

enum state { RELAY, SILENT, HUNG_UP, STOP };

struct relay {
	pthread_t thread;
	int fd;
	char address[ENGINE_ADDRESS_BYTES];
	uint16_t to;
	_Atomic int state;
	_Atomic uint64_t bytes;
	/* the thread's */
	int pair[PAIRS_MAX]; /* i and i ^ 1 are one */
	unsigned n;
};

static struct sockaddr_in loopback(unsigned last, uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
				    .sin_port = htons(port),
				    .sin_addr.s_addr =
					    htonl(0x7f000000u | last)};
}

static void add_pair(struct relay *r)
{
	struct sockaddr_in to = loopback(1, r->to);
	int in = accept(r->fd, NULL, NULL), out;

	if (in < 0 || r->n + 2 > PAIRS_MAX) {
		close(in);
		return;
	}
	out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(out, (struct sockaddr *)&to, sizeof(to))) {
		close(in);
		close(out);
		return;
	}
	r->pair[r->n++] = in;
	r->pair[r->n++] = out;
}

static void hang_up(struct relay *r)
{
	while (r->n)
		close(r->pair[--r->n]);
}

static void drop_pair(struct relay *r, unsigned i)
{
	i &= ~1u;
	close(r->pair[i]);
	close(r->pair[i + 1]);
	r->n -= 2;
	r->pair[i] = r->pair[r->n];
	r->pair[i + 1] = r->pair[r->n + 1];
}

/* False: the pair is gone. */
static bool pass_on(struct relay *r, unsigned i)
{
	static __thread char buf[256 << 10];
	ssize_t n = recv(r->pair[i], buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return true;
	if (n > 0 && send(r->pair[i ^ 1], buf, (size_t)n, MSG_NOSIGNAL) == n) {
		atomic_fetch_add(&r->bytes, (uint64_t)n);
		return true;
	}
	drop_pair(r, i);
	return false;
}

static void turn(struct relay *r)
{
	struct pollfd fds[1 + PAIRS_MAX] = {{r->fd, POLLIN, 0}};
	bool silent = atomic_load(&r->state) == SILENT;
	unsigned n = r->n;

	for (unsigned i = 0; i < n; i++)
		fds[i + 1] = (struct pollfd){r->pair[i], POLLIN, 0};
	poll(fds, silent ? 0 : n + 1, 5);
	if (silent)
		return;
	for (unsigned i = n; i-- > 0;)
		if (fds[i + 1].revents && !pass_on(r, i))
			return; /* the others next time */
	if (fds[0].revents)
		add_pair(r);
}

static void *relay_run(void *arg)
{
	struct relay *r = arg;
	int state;

	while ((state = atomic_load(&r->state)) != STOP) {
		if (state == HUNG_UP)
			hang_up(r);
		turn(r);
	}
	hang_up(r);
	return NULL;
}

static uint16_t port_of(const char *address)
{
	return (uint16_t)atoi(strrchr(address, ':') + 1);
}

/* At 127.0.0.LAST, to the node's address. */
static void relay_open(struct relay *r, unsigned last, const char *to)
{
	struct sockaddr_in a = loopback(last, 0);
	socklen_t len = sizeof(a);

	*r = (struct relay){.to = port_of(to)};
	r->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(r->fd, (struct sockaddr *)&a, len), 0);
	ck_assert_int_eq(listen(r->fd, 16), 0);
	getsockname(r->fd, (struct sockaddr *)&a, &len);
	snprintf(r->address, sizeof(r->address), "tcp:127.0.0.%u:%u", last,
		 ntohs(a.sin_port));
	ck_assert_int_eq(pthread_create(&r->thread, NULL, relay_run, r), 0);
}

static void relay_close(struct relay *r)
{
	atomic_store(&r->state, STOP);
	pthread_join(r->thread, NULL);
	close(r->fd);
}

/* ---- two nodes, two relays ------------------------------------------------
 */

static struct node a, b;
static struct relay relay[2];
static struct engine_peer *to_b, *to_a;

static void setup(void)
{
	const char *const listen_a[] = {"tcp:127.0.0.4:0", "tcp:127.0.0.5:0"};
	const char *const listen_b[] = {"tcp:127.0.0.1:0"};
	const struct engine_node id_a = {{1}, 0}, id_b = {{2}, 0};
	const char *addresses[2];

	node_open_at(&a, 1, &fixture_keys, false, listen_a, 2, SILENCE_MS);
	node_open_at(&b, 2, &fixture_keys, false, listen_b, 1, SILENCE_MS);
	for (unsigned i = 0; i < 2; i++) {
		relay_open(&relay[i], 2 + i, engine_address(b.engine, 0));
		addresses[i] = relay[i].address;
	}
	ck_assert_int_eq(engine_peer_get(a.engine, &id_b, addresses, 2, &to_b),
			 0);
	ck_assert_int_eq(engine_peer_get(b.engine, &id_a, NULL, 0, &to_a), 0);
}

static void teardown(void)
{
	engine_peer_put(to_a);
	engine_peer_put(to_b);
	node_close(&a);
	node_close(&b);
	relay_close(&relay[0]);
	relay_close(&relay[1]);
}

/* Bytes from a to b; 0, or why not. */
static int move(void)
{
	struct outcome granted = {}, written = {};
	struct engine_xfer x = {.op = ENGINE_WRITE,
				.region = a.region,
				.length_bytes = NODE_BYTES};
	struct engine_batch batch = {.xfers = &x,
				     .n_xfers = 1,
				     .done = outcome_batch,
				     .ctx = &written};
	struct engine_grant *g;
	int rc;

	memset(b.bytes, 0, NODE_BYTES);
	ck_assert_int_eq(engine_grant_open(to_a, b.region, 0, NODE_BYTES, 0,
					   &outcome_grant, &granted, &g,
					   &x.segment),
			 0);
	batch.deadline_ns = clock_now_ns() + 60 * NS_PER_S;
	rc = engine_submit(a.engine, to_b, &batch);
	if (!rc)
		rc = outcome_wait(&written);
	/* (-ESTALE: a slice that went twice came after the last.) */
	if (!rc || rc == -ESTALE) {
		rc = outcome_wait(&granted);
		ck_assert_mem_eq(b.bytes, a.bytes, NODE_BYTES);
		return rc;
	}
	pthread_mutex_lock(&fixture_lock);
	if (!granted.n)
		engine_grant_close(g);
	pthread_mutex_unlock(&fixture_lock);
	outcome_wait(&granted);
	return rc;
}

static uint32_t links(void)
{
	struct engine_peer_info info;

	engine_peer_info(to_b, &info);
	return info.n_links;
}

static void wait_links(bool all)
{
	int64_t by = clock_now_ns() + 60 * NS_PER_S;

	while ((links() == 4) != all) {
		ck_assert_int_lt(clock_now_ns(), by);
		usleep(1000);
	}
}

static void connect_all(void)
{
	ck_assert_int_eq(move(), 0);
	wait_links(true);
	for (int i = 0; i < 2; i++)
		atomic_store(&relay[i].bytes, 0);
}

static uint64_t passed(int i)
{
	return atomic_load(&relay[i].bytes);
}

START_TEST(slices_are_spread_over_all_addresses)
{
	connect_all();
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(move(), 0);

	ck_assert_uint_gt(passed(0), 4 * MIB);
	ck_assert_uint_gt(passed(1), 4 * MIB);
}
END_TEST

static const enum state failures[] = {SILENT, HUNG_UP};

START_TEST(an_address_that_fails_is_avoided_probed_and_taken_back)
{
	uint64_t before;

	connect_all();
	atomic_store(&relay[_i % 2].state, (int)failures[_i / 2]);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(move(), 0); /* nothing is lost, none fails */
	wait_links(false);
	before = passed(_i % 2);
	ck_assert_int_eq(move(), 0);
	ck_assert_uint_lt(passed(_i % 2), before + MIB);
	ck_assert_uint_eq(a.n_down, 0);

	atomic_store(&relay[_i % 2].state, RELAY);
	wait_links(true);
	before = passed(_i % 2);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(move(), 0);
	ck_assert_uint_gt(passed(_i % 2), before + 4 * MIB);
	ck_assert_uint_eq(a.n_down, 0);
}
END_TEST

START_TEST(messages_go_on_over_the_address_that_is_left)
{
	struct outcome o = {};
	struct engine_call c = {
		.type = NODE_ECHO, .done = outcome_call, .ctx = &o};

	connect_all();
	atomic_store(&relay[_i].state, SILENT);
	c.deadline_ns = clock_now_ns() + 60 * NS_PER_S;
	ck_assert_int_eq(engine_call_start(to_b, &c), 0);
	ck_assert_int_eq(outcome_wait(&o), 0);
	ck_assert_uint_eq(a.n_down, 0);
}
END_TEST

/* ---- more addresses here than there -------------------------------------- */

/* Both sides connect: neither's links take the place of the other's. */
START_TEST(all_links_come_up_between_nodes_of_as_many_addresses_as_can_be)
{
	static struct node *const nodes[] = {&a, &b};
	char text[2][ENGINE_ADDRESSES_MAX][32];
	const char *list[2][ENGINE_ADDRESSES_MAX];
	int64_t by = clock_now_ns() + 60 * NS_PER_S;
	struct engine_peer_info info[2] = {};
	struct engine_peer *peer[2];

	for (unsigned i = 0; i < 2; i++) {
		for (unsigned k = 0; k < ENGINE_ADDRESSES_MAX; k++) {
			snprintf(text[i][k], sizeof(text[i][k]),
				 "tcp:127.0.%u.%u:0", i + 1, k + 1);
			list[i][k] = text[i][k];
		}
		node_open_at(nodes[i], (uint8_t)(i + 1), &fixture_keys, false,
			     list[i], ENGINE_ADDRESSES_MAX, SILENCE_MS);
		for (unsigned k = 0; k < ENGINE_ADDRESSES_MAX; k++)
			list[i][k] = engine_address(nodes[i]->engine, k);
	}
	for (unsigned i = 0; i < 2; i++) {
		const struct engine_node id = {{(uint8_t)(2 - i)}, 0};

		ck_assert_int_eq(
			engine_peer_get(nodes[i]->engine, &id, list[1 - i],
					ENGINE_ADDRESSES_MAX, &peer[i]),
			0);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct outcome o = {};
		struct engine_call c = {
			.type = NODE_ECHO, .done = outcome_call, .ctx = &o};

		ck_assert_int_eq(engine_call_start(peer[i], &c), 0);
		ck_assert_int_eq(outcome_wait(&o), 0);
	}

	for (unsigned i = 0; i < 2; i++)
		do {
			usleep(1000);
			engine_peer_info(peer[i], &info[i]);
		} while (info[i].n_links < 2 * info[i].n_links_wanted &&
			 clock_now_ns() < by);

	for (unsigned i = 0; i < 2; i++) {
		ck_assert_uint_ge(info[i].n_links_wanted,
				  2 * ENGINE_ADDRESSES_MAX);
		ck_assert_uint_eq(info[i].n_links, 2 * info[i].n_links_wanted);
		engine_peer_put(peer[i]);
	}
	node_close(&a);
	node_close(&b);
}
END_TEST

/* Their one address is reached from each of ours. */
START_TEST(each_address_of_ours_has_a_link_where_they_have_one)
{
	const char *const ours[] = {"tcp:127.0.0.4:0", "tcp:127.0.0.5:0"};
	const char *const theirs[] = {"tcp:127.0.0.1:0"};
	struct sockaddr_in from = {};
	socklen_t len = sizeof(from);
	const struct engine_node id = {{9}, 0};
	char text[ENGINE_ADDRESS_BYTES];
	const char *list[] = {text};
	struct engine_peer *p;
	struct outcome o = {};
	struct engine_call c = {
		.type = NODE_ECHO, .done = outcome_call, .ctx = &o};
	unsigned seen = 0;
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd[2];

	node_open_at(&a, 1, &fixture_keys, false, ours, 2, SILENCE_MS);
	node_open_at(&b, 2, &fixture_keys, false, theirs, 1, SILENCE_MS);
	from = loopback(1, 0);
	ck_assert_int_eq(bind(s, (struct sockaddr *)&from, len), 0);
	ck_assert_int_eq(listen(s, 4), 0);
	getsockname(s, (struct sockaddr *)&from, &len);
	snprintf(text, sizeof(text), "tcp:127.0.0.1:%u", ntohs(from.sin_port));
	ck_assert_int_eq(engine_peer_get(a.engine, &id, list, 1, &p), 0);
	ck_assert_int_eq(engine_call_start(p, &c), 0);

	for (int i = 0; i < 2; i++) {
		len = sizeof(from);
		fd[i] = accept(s, (struct sockaddr *)&from, &len);
		seen |= 1u << (ntohl(from.sin_addr.s_addr) & 7);
	}

	ck_assert_uint_eq(seen, 1u << 4 | 1u << 5);
	close(fd[0]);
	close(fd[1]);
	close(s);
	ck_assert_int_lt(outcome_wait(&o), 0);
	engine_peer_put(p);
	node_close(&a);
	node_close(&b);
}
END_TEST

/* ---- which path ------------------------------------------------------------
 */

START_TEST(a_path_half_as_fast_gets_half_as_much)
{
	const uint64_t slice = MIB;
	uint64_t out[2] = {0, 0};

	for (int i = 0; i < 30; i++) {
		uint64_t fast = path_cost(out[0] + slice, 2000, 2000);
		uint64_t slow = path_cost(out[1] + slice, 1000, 2000);

		out[slow < fast] += slice;
	}

	ck_assert_uint_eq(out[0], 20 * slice);
	/* A little slower is noise; not known, as good as the best. */
	ck_assert_uint_eq(path_cost(slice, 1900, 2000), slice);
	ck_assert_uint_eq(path_cost(slice, 0, 2000), slice);
}
END_TEST

/* Four paths of one card come first, then four of another. */
START_TEST(cards_that_are_as_good_share_what_is_little)
{
	uint64_t card[2] = {0, 0}, path[8] = {0};

	for (int n = 0; n < 8; n++) {
		struct path_choice this, least;
		int best = 0;

		for (int i = 0; i < 8; i++) {
			this = (struct path_choice){
				.cost = path_cost(path[i] + MIB, 0, 0),
				.card_bytes = card[i / 4],
			};
			if (i && !path_better(&this, &least))
				continue;
			least = this;
			best = i;
		}
		ck_assert_int_eq(best, n % 2 * 4 + n / 2);
		path[best] += MIB;
		card[best / 4] += MIB;
	}
}
END_TEST

/* A card's packets are lost without a word: what is sent meanwhile does not
 * wait for the end of its links. */
START_TEST(cards_that_owe_an_answer_for_long_are_left_to_others)
{
	const struct transport_ops card = {.preferred = true}, net = {};
	const int64_t now = 10 * NS_PER_S, late = now - NS_PER_S;
	struct engine e = {.silence_ns = 2 * NS_PER_S};
	struct engine_link l[] = {
		{.ops = &card, .engine = &e, .state = LINK_UP},
		{.ops = &card, .engine = &e, .state = LINK_UP},
		{.ops = &net, .engine = &e, .state = LINK_UP},
	};
	struct engine_peer p = {.engine = &e};

	list_init(&p.links);
	for (unsigned i = 0; i < 3; i++)
		list_push_back(&p.links, &l[i].of_peer);
	ck_assert(links_preferred(&p, now));

	l[0].owed_ns = late;
	ck_assert(links_preferred(&p, now)); /* there is another */
	l[1].owed_ns = late;
	ck_assert(!links_preferred(&p, now));
	l[1].heard_ns = now;
	ck_assert(links_preferred(&p, now));
	l[1].broken = true;
	ck_assert(!links_preferred(&p, now));
	l[2].owed_ns = late;
	ck_assert(links_preferred(&p, now)); /* nobody is better */
	l[0].broken = true;
	ck_assert(!links_preferred(&p, now));
}
END_TEST

/* 8 MiB in 51 ms, of which 50 are the way there and back. */
START_TEST(a_burst_of_answers_after_a_delay_is_no_speed)
{
	struct path p = {0};

	for (int64_t now = NS_PER_S; now < 2 * NS_PER_S; now += NS_PER_S / 5) {
		path_sent(&p, now);
		for (int i = 0; i < 8; i++)
			path_delivered(&p, MIB, i == 7,
				       now + 50 * NS_PER_MS +
					       i * NS_PER_MS / 7);
		ck_assert_uint_gt(path_speed(&p, now), 0);
		ck_assert_uint_le(path_speed(&p, now), 8 * MIB * 1000ull / 51);
	}
}
END_TEST

START_TEST(a_path_is_measured_by_much_and_forgotten)
{
	struct path p = {};
	int64_t now = NS_PER_S;

	path_sent(&p, now);
	path_delivered(&p, 64 << 10, true, now + 1000);
	ck_assert_uint_eq(path_speed(&p, now), 0); /* a delay, not a speed */

	path_sent(&p, now);
	path_delivered(&p, 8 * MIB, false, now + 8 * NS_PER_MS);
	ck_assert_uint_eq(path_speed(&p, now), 0); /* not over yet */
	path_delivered(&p, 2 * MIB, true, now + 10 * NS_PER_MS);
	ck_assert_uint_eq(path_speed(&p, now + 10 * NS_PER_MS), 1000ull * MIB);

	p = (struct path){};
	path_sent(&p, now);
	for (int i = 1; i <= 8; i++) /* 10 MiB/s */
		path_delivered(&p, 256 << 10, false, now + i * NS_PER_S / 40);
	ck_assert_uint_eq(path_speed(&p, now + NS_PER_S / 5), 10ull * MIB);
	ck_assert_uint_eq(path_speed(&p, now + 3 * NS_PER_S), 0);
}
END_TEST

/* ---- NUMA ------------------------------------------------------------------
 */

static char sys_dir[128];

static void put(const char *name, const char *text)
{
	char path[512], *at;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", sys_dir, name);
	for (at = path + 1; (at = strchr(at, '/')); at++) {
		*at = '\0';
		mkdir(path, 0700);
		*at = '/';
	}
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

static void sys_new(void)
{
	snprintf(sys_dir, sizeof(sys_dir), "%s/kvfs-sys-XXXXXX",
		 getenv("TMPDIR") ?: "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(sys_dir));
}

static void sys_free(void)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -r '%s'", sys_dir);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(the_node_of_an_interface_is_that_of_its_card)
{
	sys_new();
	put("class/net/ib1/device/numa_node", "1\n");
	put("class/net/virt/device/numa_node", "-1\n");

	ck_assert_int_eq(numa_of_interface(sys_dir, "ib1"), 1);
	ck_assert_int_eq(numa_of_interface(sys_dir, "virt"), NUMA_UNKNOWN);
	ck_assert_int_eq(numa_of_interface(sys_dir, "lo"), NUMA_UNKNOWN);
	sys_free();
}
END_TEST

START_TEST(a_machine_that_cannot_be_understood_has_nothing_to_choose)
{
	struct numa numa;

	sys_new();
	numa_load(sys_dir, &numa);
	ck_assert_uint_eq(numa.n, 0);
	put("devices/system/node/node0/distance", "10 21\n"); /* node2 */
	numa_load(sys_dir, &numa);
	ck_assert_uint_eq(numa.n, 0);
	put("devices/system/node/node0/distance", "x\n");
	numa_load(sys_dir, &numa);
	ck_assert_uint_eq(numa.n, 0);
	put("devices/system/node/node0/distance", "10\n");
	numa_load(sys_dir, &numa);
	ck_assert_uint_eq(numa.n, 1);
	ck_assert_uint_eq(numa_distance(&numa, 0, 7), NUMA_NEAR);
	ck_assert_uint_eq(numa_distance(&numa, NUMA_UNKNOWN, 0), NUMA_NEAR);
	sys_free();
}
END_TEST

START_TEST(the_node_of_this_machine_s_memory_is_known)
{
	struct numa numa;
	int here = 0, node = numa_of_memory(&here);

	numa_load("/sys", &numa);
	/* A sandbox may not let us ask. */
	ck_assert(node == NUMA_UNKNOWN || !numa.n || node < (int)numa.n);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine, paths");
	TCase *c = tcase_create("two addresses"), *n = tcase_create("choice");
	SRunner *r;
	int failed;

	tcase_set_timeout(c, 120);
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, slices_are_spread_over_all_addresses);
	tcase_add_loop_test(
		c, an_address_that_fails_is_avoided_probed_and_taken_back, 0,
		4);
	tcase_add_loop_test(c, messages_go_on_over_the_address_that_is_left, 0,
			    2);
	suite_add_tcase(s, c);
	tcase_set_timeout(n, 90);
	tcase_add_test(
		n,
		all_links_come_up_between_nodes_of_as_many_addresses_as_can_be);
	tcase_add_test(n, each_address_of_ours_has_a_link_where_they_have_one);
	tcase_add_test(n, a_path_half_as_fast_gets_half_as_much);
	tcase_add_test(n, cards_that_are_as_good_share_what_is_little);
	tcase_add_test(n, cards_that_owe_an_answer_for_long_are_left_to_others);
	tcase_add_test(n, a_burst_of_answers_after_a_delay_is_no_speed);
	tcase_add_test(n, a_path_is_measured_by_much_and_forgotten);
	tcase_add_test(n, the_node_of_an_interface_is_that_of_its_card);
	tcase_add_test(
		n, a_machine_that_cannot_be_understood_has_nothing_to_choose);
	tcase_add_test(n, the_node_of_this_machine_s_memory_is_known);
	suite_add_tcase(s, n);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

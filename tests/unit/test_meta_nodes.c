// SPDX-License-Identifier: MIT
/* Several nodes: who knows what of whom, and lookups of many names. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "meta/internal.h"
#include "meta/kv_list_impl.h"
#include "meta/members.h"
#include "meta/node.h"
#include "meta/node_impl.h"
#include "meta/nodes.h"
#include "meta_fixture.h"

/* What a node's owner was told, and what it answers. */
struct owner {
	_Atomic unsigned n_up, n_down;
	_Atomic uint64_t bytes;
	_Atomic uint64_t pool_bytes;
	char last_addr[64];
};

static struct node_under_test *a, *b, *c;
static struct owner of_a, of_b, of_c;

static void owner_load(void *ctx, struct meta_load *load)
{
	struct owner *o = ctx;

	load->pool_bytes = o->pool_bytes;
	load->victim_age_ms = 1234;
}

static void owner_usage(void *ctx,
			void (*add)(void *arg, const char *ns, uint64_t bytes),
			void *arg)
{
	struct owner *o = ctx;

	add(arg, "models", o->bytes);
}

static void owner_change(void *ctx, const struct meta_node *node, bool up)
{
	struct owner *o = ctx;

	if (node->self.n_addrs)
		snprintf(o->last_addr, sizeof(o->last_addr), "%s",
			 node->self.addrs[0]);
	o->n_up += up;
	o->n_down += !up;
}

static const struct meta_node_ops ops = {
	.load = owner_load, .usage = owner_usage, .change = owner_change};

static struct node_under_test *owned(const char *name, struct owner *o)
{
	struct node_under_test *n = node_new(name, server_url());

	memset(o, 0, sizeof(*o));
	n->config.node_name = n->config.host = name;
	n->config.node_ops = &ops;
	n->config.node_ctx = o;
	return n;
}

static struct node_under_test *owned_up(const char *name, struct owner *o)
{
	struct node_under_test *n = owned(name, o);

	ck_assert_int_eq(node_open(n), 0);
	return n;
}

static void nodes_up(void)
{
	server_start(NULL);
	a = owned_up("a", &of_a);
	b = owned_up("b", &of_b);
}

static void nodes_down(void)
{
	node_free(a);
	node_free(b);
}

static uint32_t self(struct node_under_test *n)
{
	return meta_node_self(n->meta);
}

/* The heart stops, the node does not say good-bye: as after kill -9. */
static void node_dies(struct node_under_test *n)
{
	n->meta->embedded = (void *)1;
	meta_node_stop(n->meta);
	n->meta->embedded = NULL;
}

static void deadline_passes(struct node_under_test *n)
{
	char words[96];

	snprintf(words, sizeof(words), "ZADD kvfs:{n}:live 1 %u", self(n));
	server_text(words);
}

/* Beat now, not in three seconds. */
static void beat(struct node_under_test *n)
{
	meta_nodes_refresh(n->meta, clock_now_ns() + NS_PER_S);
}

/* With a heartbeat of n before each look. */
#define WAIT_WITH(n, condition) WAIT_FOR((beat(n), condition))

/* A node that has the uuid of another one. */
static struct node_under_test *copy_of(struct node_under_test *n,
				       const char *name, struct owner *o)
{
	struct node_under_test *copy = owned(name, o);
	char path[sizeof(copy->state_dir) + 8];
	FILE *f;

	ck_assert_int_eq(mkdir(copy->state_dir, 0700), 0);
	snprintf(path, sizeof(path), "%s/uuid", copy->state_dir);
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fprintf(f, "%s\n", meta_node_uuid(n->meta));
	fclose(f);
	return copy;
}

static bool count_one(void *arg, const struct meta_node *node)
{
	unsigned *n = arg;

	(void)node;
	(*n)++;
	return true;
}

static unsigned count_nodes(struct node_under_test *n)
{
	unsigned count = 0;

	ck_assert_uint_eq(meta_nodes(n->meta, count_one, &count), count);
	return count;
}

START_TEST(a_copied_state_directory_is_refused)
{
	struct node_under_test *copy;

	nodes_up();
	copy = copy_of(a, "copy", &of_c);
	ck_assert_int_eq(node_open(copy), -EEXIST);
	ck_assert(logged("/uuid is the one of a node that is up on a: "));
	ck_assert_uint_eq(logged_count("/uuid is the one of"), 1);
	beat(b);
	ck_assert_uint_eq(count_nodes(b), 2);

	node_down(a); /* it leaves */
	ck_assert_int_eq(node_open(copy), 0);
	node_free(copy);
	nodes_down();
}
END_TEST

/* It counted as dead for a while, and meanwhile its copy joined. */
START_TEST(a_node_whose_copy_has_joined_says_so)
{
	struct node_under_test *copy;

	nodes_up();
	copy = copy_of(a, "copy", &of_c);
	node_dies(a);
	deadline_passes(a);
	beat(b);
	ck_assert_int_eq(node_open(copy), 0);

	a->meta->node->stop = false;
	ck_assert_int_eq(meta_node_start(a->meta), 0);
	WAIT_FOR(logged("/uuid is the one of a node that is up on copy: "));
	ck_assert_uint_ne(self(copy), self(a));
	node_free(copy);
	nodes_down();
}
END_TEST

/* Killed, its disk is in another machine before it counts as dead. */
START_TEST(a_state_directory_that_moved_joins)
{
	struct node_under_test *moved;
	char words[96];
	struct timespec now;

	nodes_up();
	moved = copy_of(a, "moved", &of_c);
	node_dies(a);
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(words, sizeof(words), "ZADD kvfs:{n}:live %lld %u",
		 (now.tv_sec + 1) * 1000LL, self(a));
	server_text(words);
	ck_assert_int_eq(node_open(moved), 0);
	ck_assert_uint_ne(self(moved), self(a));
	node_free(moved);
	nodes_down();
}
END_TEST

/* --- membership -------------------------------------------------------- */

START_TEST(nodes_know_each_other_s_record_and_load)
{
	struct meta_self how = {.n_addrs = 2,
				.addrs = {"10.0.0.2:7411", "[fd00::1]:7411"},
				.wire_version = 3,
				.transports = 5};
	struct meta_node n;

	nodes_up();
	of_b.pool_bytes = 1ULL << 40;
	ck_assert_int_eq(meta_node_announce(b->meta, &how), 0);
	WAIT_WITH(a,
		  meta_node_get(a->meta, self(b), &n) && n.self.n_addrs == 2);
	ck_assert_str_eq(n.name, "b");
	ck_assert_str_eq(n.host, "b");
	ck_assert_uint_eq(strlen(n.uuid), META_UUID_LEN);
	ck_assert_str_eq(n.self.addrs[1], "[fd00::1]:7411");
	ck_assert_uint_eq(n.self.wire_version, 3);
	ck_assert_uint_eq(n.self.transports, 5);
	ck_assert(!n.self.draining && !n.is_self);
	beat(b);
	WAIT_WITH(a, meta_node_get(a->meta, self(b), &n) && n.has_load &&
			     n.load.pool_bytes == 1ULL << 40);
	ck_assert_int_eq(n.load.victim_age_ms, 1234);
	ck_assert_int_ge(n.load_age_ms, 0);

	how.draining = true;
	ck_assert_int_eq(meta_node_announce(b->meta, &how), 0);
	WAIT_WITH(a, meta_node_get(a->meta, self(b), &n) && n.self.draining);
	snprintf(how.addrs[0], sizeof(how.addrs[0]), "a blank");
	ck_assert_int_eq(meta_node_announce(b->meta, &how), -EINVAL);
	ck_assert(meta_node_get(b->meta, self(b), &n) && n.is_self);
	ck_assert_uint_eq(count_nodes(b), 2);
	nodes_down();
}
END_TEST

START_TEST(who_asks_for_the_nodes_has_those_that_there_are_now)
{
	int64_t asked;

	nodes_up();
	meta_nodes_refresh(a->meta, clock_now_ns() + 30 * NS_PER_S);
	ck_assert_uint_eq(count_nodes(a), 2);
	node_free(b);
	meta_nodes_refresh(a->meta, clock_now_ns() + 30 * NS_PER_S);
	ck_assert_uint_eq(count_nodes(a), 1);

	server_signal(SIGSTOP);
	asked = clock_now_ns();
	meta_nodes_refresh(a->meta, asked + 50 * NS_PER_MS);
	ck_assert_int_ge(clock_now_ns(), asked + 50 * NS_PER_MS);
	ck_assert_uint_eq(count_nodes(a), 1);
	server_signal(SIGCONT);
	node_free(a);
}
END_TEST

START_TEST(a_node_s_coming_changing_and_going_is_told_once)
{
	struct meta_self how = {.n_addrs = 1, .addrs = {"10.0.0.2:7411"}};

	nodes_up();
	WAIT_WITH(a, of_a.n_up == 1);
	ck_assert_int_eq(meta_node_announce(b->meta, &how), 0);
	WAIT_WITH(a, of_a.n_up == 2);
	ck_assert_str_eq(of_a.last_addr, "10.0.0.2:7411");
	node_down(b);
	WAIT_WITH(a, of_a.n_down == 1);
	ck_assert_uint_eq(of_a.n_up, 2);
	ck_assert_uint_eq(count_nodes(a), 1);
	nodes_down();
}
END_TEST

static bool knows_version(struct node_under_test *n)
{
	return meta_members_version(n->meta) ==
	       (uint64_t)server_int("GET kvfs:{n}:version");
}

START_TEST(the_table_is_fetched_only_when_its_version_moved)
{
	unsigned long long calls;

	nodes_up();
	WAIT_WITH(a, of_a.n_up == 1);
	WAIT_WITH(b, of_b.n_up == 1);
	WAIT_WITH(a, knows_version(a));
	WAIT_WITH(b, knows_version(b));
	server_text("CONFIG RESETSTAT");
	for (int i = 0; i < 20; i++)
		beat(a);
	calls = strtoull(strstr(server_text("INFO commandstats"),
				"cmdstat_fcall:calls=") +
				 20,
			 NULL, 10);
	ck_assert_uint_ge(calls, 20);
	/* a fetch is the one who asks for all that live */
	ck_assert_ptr_null(
		strstr(server_text("INFO commandstats"), "cmdstat_zrange:"));
	server_text("INCR kvfs:{n}:version");
	beat(a);
	WAIT_FOR(knows_version(a));
	ck_assert_ptr_nonnull(
		strstr(server_text("INFO commandstats"), "cmdstat_zrange:"));
	nodes_down();
}
END_TEST

START_TEST(a_refused_heartbeat_declares_nobody_dead)
{
	struct meta_node n;

	nodes_up();
	WAIT_WITH(a, of_a.n_up == 1);
	server_text("SET kvfs:{n}:last none"); /* its script fails */
	for (int i = 0; i < 5; i++)
		beat(a);
	ck_assert_uint_eq(of_a.n_down, 0);
	ck_assert(meta_node_get(a->meta, self(b), &n));
	ck_assert(meta_node_is_live(a->meta, self(b)));
	nodes_down();
}
END_TEST

static long long deadline_of(struct node_under_test *n)
{
	char words[64];

	snprintf(words, sizeof(words), "ZSCORE kvfs:{n}:live %u", self(n));
	return server_int(words);
}

START_TEST(a_heartbeat_is_taken_by_a_redis_whose_memory_is_full)
{
	long long deadline;

	nodes_up();
	server_text("CONFIG SET maxmemory 1");
	ck_assert_ptr_nonnull(strstr(server_text("SET kvfs:x 1"), "OOM"));
	deadline = deadline_of(a);
	WAIT_WITH(a, deadline_of(a) > deadline);
	nodes_down();
}
END_TEST

START_TEST(a_dead_node_is_nobody_s_holder_at_once_and_its_bytes_do_not_count)
{
	struct meta_kv_found f;
	uint64_t bytes = 0;

	nodes_up();
	of_a.bytes = 100;
	of_b.bytes = 7;
	beat(a);
	beat(b);
	WAIT_WITH(a, !meta_ns_usage(a->meta, "models", &bytes) && bytes == 107);
	node_store(b, "models/x", 1);
	node_sync(b, "models/x");
	ck_assert_int_eq(node_lookup(a, "models/x", &f), 0);

	node_dies(b);
	deadline_passes(b);
	beat(a);
	WAIT_WITH(a, of_a.n_down == 1);
	ck_assert_int_eq(node_lookup(a, "models/x", &f), -ENOENT);
	WAIT_WITH(a, !meta_ns_usage(a->meta, "models", &bytes) && bytes == 100);
	of_a.bytes = 0;
	WAIT_WITH(a, meta_ns_usage(a->meta, "models", &bytes) == -ENOENT);
	ck_assert_int_eq(server_int("EXISTS kvfs:{n}:use"), 0);
	nodes_down();
}
END_TEST

START_TEST(usage_is_what_nodes_hold_now_however_often_they_say_it)
{
	uint64_t bytes = 0;

	nodes_up();
	of_b.bytes = 1000;
	for (int i = 0; i < 10; i++) {
		of_a.bytes = 10 + (uint64_t)i;
		beat(a);
		beat(b);
		wait_ms(3);
	}
	WAIT_WITH(b,
		  !meta_ns_usage(b->meta, "models", &bytes) && bytes == 1019);
	node_down(a);
	WAIT_WITH(b,
		  !meta_ns_usage(b->meta, "models", &bytes) && bytes == 1000);
	nodes_down();
}
END_TEST

START_TEST(replicas_are_counted_by_hosts)
{
	uint32_t all[4];

	nodes_up();
	c = owned("c", &of_c);
	c->config.host = "b";
	ck_assert_int_eq(node_open(c), 0);
	WAIT_WITH(a, of_a.n_up == 2);
	all[0] = self(a);
	all[1] = self(b);
	all[2] = self(c);
	all[3] = 1; /* long dead */
	ck_assert_uint_eq(meta_nodes_hosts(a->meta, all, 4), 2);
	ck_assert_uint_eq(meta_nodes_hosts(a->meta, all + 1, 3), 1);
	ck_assert_uint_eq(meta_nodes_hosts(a->meta, all + 3, 1), 0);
	node_free(c);
	nodes_down();
}
END_TEST

START_TEST(a_node_is_alone_until_another_joins_and_never_longer_than_a_moment)
{
	int64_t start;

	server_start(NULL);
	a = owned_up("a", &of_a);
	WAIT_FOR(meta_nodes_alone(a->meta));
	b = owned_up("b", &of_b);
	start = clock_now_ns();
	while (clock_now_ns() - start < 150 * NS_PER_MS)
		wait_ms(10);
	ck_assert(!meta_nodes_alone(a->meta));
	WAIT_WITH(a, of_a.n_up == 1);
	ck_assert(!meta_nodes_alone(a->meta));
	ck_assert(!meta_nodes_alone(b->meta));
	nodes_down();

	a = node_up("private", NULL);
	ck_assert(meta_nodes_alone(a->meta));
	node_free(a);
}
END_TEST

/* --- lookups ----------------------------------------------------------- */

static struct meta_kv_ask *asks_new(unsigned n, unsigned n_stored)
{
	struct meta_kv_ask *asks = calloc(n, sizeof(*asks));

	for (unsigned i = 0; i < n; i++) {
		char *path = malloc(32);

		snprintf(path, 32, "ns/dir/%u", i);
		if (i < n_stored)
			node_store(a, path, i + 1);
		asks[i].path = path;
		asks[i].path_len = (uint16_t)strlen(path);
	}
	for (unsigned i = 0; i < n_stored; i++)
		node_sync(a, asks[i].path);
	return asks;
}

static void asks_free(struct meta_kv_ask *asks, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		free((char *)asks[i].path);
	free(asks);
}

START_TEST(a_thousand_names_are_asked_for_in_one_round_trip)
{
	const unsigned n = 1000, half = 500;
	struct meta_kv_ask *asks;
	uint64_t trips;

	nodes_up();
	asks = asks_new(n, half);
	asks[n - 1].path_len = 6; /* ns/dir */
	node_lookup(b, "ns/first", &asks[0].found);
	trips = node_stats(b).n_lookup_trips;
	ck_assert_int_eq(meta_kv_lookup_many(b->meta, 0, asks, n), 0);
	ck_assert_uint_eq(node_stats(b).n_lookup_trips, trips + 1);
	for (unsigned i = 0; i < n - 1; i++) {
		ck_assert_int_eq(asks[i].err, i < half ? 0 : -ENOENT);
		if (i >= half)
			continue;
		ck_assert(!asks[i].found.is_dir);
		ck_assert_uint_eq(asks[i].found.checksum[0], i + 1);
		ck_assert_uint_eq(asks[i].found.holders[0], self(a));
	}
	ck_assert_int_eq(asks[n - 1].err, 0);
	ck_assert(asks[n - 1].found.is_dir);
	ck_assert_uint_eq(asks[n - 1].found.mode, 040750);
	asks_free(asks, n);
	nodes_down();
}
END_TEST

static _Atomic unsigned n_done, n_failed;

static void lookup_done(void *ctx, int err)
{
	(void)ctx;
	n_failed += err != 0;
	n_done++;
}

START_TEST(lookups_of_one_name_that_come_together_leave_together)
{
	const unsigned n = 300;
	struct meta_kv_ask *asks;
	uint64_t trips;

	nodes_up();
	asks = asks_new(n, n);
	node_lookup(b, "ns/first", &asks[0].found);
	trips = node_stats(b).n_lookup_trips;
	n_done = n_failed = 0;
	server_signal(SIGSTOP);
	for (unsigned i = 0; i < n; i++)
		ck_assert_int_eq(meta_kv_lookup_send(b->meta, 0, &asks[i], 1,
						     false, lookup_done, NULL),
				 0);
	server_signal(SIGCONT);
	WAIT_FOR(n_done == n);
	ck_assert_uint_eq(n_failed, 0);
	ck_assert_uint_le(node_stats(b).n_lookup_trips - trips, 6);
	for (unsigned i = 0; i < n; i++) {
		ck_assert_int_eq(asks[i].err, 0);
		ck_assert_uint_eq(asks[i].found.checksum[0], i + 1);
	}
	asks_free(asks, n);
	nodes_down();
}
END_TEST

START_TEST(a_late_answer_is_no_answer_and_the_next_does_not_wait)
{
	struct meta_kv_ask *asks;
	struct meta_kv_found f;
	int64_t start;

	nodes_up();
	asks = asks_new(50, 50);
	ck_assert_int_eq(node_lookup(b, asks[0].path, &f), 0);
	n_done = n_failed = 0;
	server_signal(SIGSTOP);
	start = clock_now_ns();
	for (unsigned i = 0; i < 50; i++)
		meta_kv_lookup_send(b->meta, start + META_KV_LOOKUP_NS,
				    &asks[i], 1, false, lookup_done, NULL);
	WAIT_FOR(n_done == 50);
	ck_assert_uint_eq(n_failed, 50);
	ck_assert_int_ge(clock_now_ns() - start, META_KV_LOOKUP_NS);
	ck_assert_int_eq(asks[49].err, -EIO);
	/* their memory is ours again: the late reply must not find it */
	asks_free(asks, 50);
	ck_assert_int_eq(meta_kv_lookup(b->meta, 0, "ns/dir/1", 8, &f), -EIO);
	server_signal(SIGCONT);
	WAIT_FOR(redis_up(b->meta->links[META_LOOKUP]));
	ck_assert_int_eq(node_lookup(b, "ns/dir/1", &f), 0);
	nodes_down();
}
END_TEST

static _Atomic int late_err[2];
static _Atomic unsigned n_late;

static void late_done(void *ctx, int err)
{
	(void)ctx;
	late_err[n_late % 2] = err;
	n_late++;
}

START_TEST(who_is_patient_has_the_late_answer_too)
{
	struct meta_kv_ask *asks;
	struct meta_kv_found f;
	uint64_t late;

	nodes_up();
	asks = asks_new(2, 1); /* ns/dir/1 is not there */
	ck_assert_int_eq(node_lookup(b, asks[0].path, &f), 0);
	late = node_stats(b).n_lookups_late;
	n_late = 0;
	server_signal(SIGSTOP);
	ck_assert_int_eq(meta_kv_lookup_send(b->meta,
					     clock_now_ns() + META_KV_LOOKUP_NS,
					     asks, 2, true, late_done, NULL),
			 0);
	WAIT_FOR(n_late == 1);
	ck_assert_int_eq(late_err[0], -EINPROGRESS);
	ck_assert(!redis_up(b->meta->links[META_LOOKUP]));
	server_signal(SIGCONT);
	WAIT_FOR(n_late == 2);
	ck_assert_int_eq(late_err[1], 0);
	ck_assert_int_eq(asks[0].err, 0);
	ck_assert_uint_eq(asks[0].found.checksum[0], 1);
	ck_assert_int_eq(asks[1].err, -ENOENT);
	/* the answer itself closed the breaker */
	ck_assert(redis_up(b->meta->links[META_LOOKUP]));
	ck_assert_uint_eq(node_stats(b).n_lookups_late, late + 1);
	asks_free(asks, 2);
	nodes_down();
}
END_TEST

START_TEST(who_is_patient_hears_that_no_answer_will_come)
{
	struct meta_kv_ask *asks;
	struct meta_kv_found f;

	nodes_up();
	asks = asks_new(1, 1);
	ck_assert_int_eq(node_lookup(b, asks[0].path, &f), 0);
	n_late = 0;
	server_signal(SIGSTOP);
	meta_kv_lookup_send(b->meta, clock_now_ns() + META_KV_LOOKUP_NS, asks,
			    1, true, late_done, NULL);
	WAIT_FOR(n_late == 1);
	ck_assert_int_eq(late_err[0], -EINPROGRESS);
	server_stop(); /* SIGKILL */
	WAIT_FOR(n_late == 2);
	ck_assert_int_eq(late_err[1], -EIO);
	ck_assert_int_eq(asks[0].err, -EIO);
	asks_free(asks, 1);
	nodes_down();
}
END_TEST

START_TEST(what_was_sent_a_moment_ago_is_not_suspected)
{
	struct redis *link;
	struct meta_kv_ask *asks;
	struct meta_kv_found f;
	int64_t start;

	nodes_up();
	link = b->meta->links[META_LOOKUP];
	asks = asks_new(1, 1);
	/* What the node itself has on its way since then is not older. */
	start = clock_now_ns();
	ck_assert_int_eq(node_lookup(b, asks[0].path, &f), 0);
	n_done = n_failed = 0;
	server_signal(SIGSTOP);
	ck_assert_int_eq(meta_kv_lookup_send(b->meta, 0, asks, 1, false,
					     lookup_done, NULL),
			 0);
	redis_suspect(link, start - 1);
	ck_assert(redis_up(link));
	redis_suspect(link, clock_now_ns());
	ck_assert(!redis_up(link));
	server_signal(SIGCONT);
	WAIT_FOR(n_done == 1);
	ck_assert(redis_up(link));
	asks_free(asks, 1);
	nodes_down();
}
END_TEST

START_TEST(a_lost_connection_answers_every_lookup)
{
	struct meta_kv_ask *asks;
	struct meta_kv_found f;
	char words[64];

	nodes_up();
	asks = asks_new(100, 100);
	ck_assert_int_eq(node_lookup(b, asks[0].path, &f), 0);
	n_done = n_failed = 0;
	snprintf(words, sizeof(words), "CLIENT KILL ID %lld",
		 (long long)redis_client_id(b->meta->links[META_LOOKUP]));
	server_signal(SIGSTOP);
	for (unsigned i = 0; i < 100; i++)
		ck_assert_int_eq(meta_kv_lookup_send(b->meta, 0, &asks[i], 1,
						     false, lookup_done, NULL),
				 0);
	server_stop(); /* SIGKILL */
	WAIT_FOR(n_done == 100);
	ck_assert_uint_eq(n_failed, 100);
	asks_free(asks, 100);
	nodes_down();
}
END_TEST

static _Atomic uint64_t quota_heard;

static void quota_note(void *ctx, const char *name,
		       const struct meta_namespace *ns)
{
	(void)ctx;
	if (!strcmp(name, "shared"))
		quota_heard = ns->quota_bytes;
}

START_TEST(what_another_node_did_to_a_namespace_is_told_with_a_heartbeat)
{
	struct meta_namespace ns = {.mode = 040755, .quota_bytes = 5};

	server_start(NULL);
	a = node_up("a", server_url());
	b = node_new("b", server_url());
	b->ops.namespace = quota_note;
	quota_heard = 0;
	ck_assert_int_eq(node_open(b), 0);
	ck_assert_int_eq(meta_namespace_put(a->meta, 0, "shared", &ns, true),
			 0);
	WAIT_WITH(b, quota_heard == 5);
	ns.quota_bytes = 6;
	ck_assert_int_eq(meta_namespace_put(a->meta, 0, "shared", &ns, false),
			 0);
	WAIT_WITH(b, quota_heard == 6);
	nodes_down();
}
END_TEST

START_TEST(a_namespace_made_elsewhere_is_found_by_a_lookup)
{
	struct meta_namespace ns = {.mode = 040755, .checksum = true};
	struct meta_kv_ask none = {.path = "nowhere", .path_len = 7};
	struct meta_kv_found f;

	nodes_up();
	ck_assert_int_eq(node_lookup(b, "later/x", &f), -ENOENT);
	ck_assert_int_eq(meta_namespace_put(a->meta, 0, "later", &ns, true), 0);
	node_store(a, "later/x", 1);
	node_sync(a, "later/x");
	WAIT_FOR(!node_lookup(b, "later/x", &f));
	ck_assert_int_eq(meta_kv_lookup_many(b->meta, 0, &none, 1), 0);
	ck_assert_int_eq(none.err, -ENOENT);
	nodes_down();
}
END_TEST

/* --- listing ----------------------------------------------------------- */

static void list_add(void *arg, const char *name, uint16_t name_len,
		     const struct meta_kv_found *f)
{
	FILE *out = arg;

	fprintf(out, "%.*s%s ", name_len, name, f->is_dir ? "/" : "");
}

static char *list(struct node_under_test *n, const char *path)
{
	static char *text;
	size_t size;
	FILE *f;

	free(text);
	f = open_memstream(&text, &size);
	ck_assert_int_eq(meta_kv_list(n->meta, 0, path, (uint16_t)strlen(path),
				      list_add, f),
			 0);
	fclose(f);
	return text;
}

START_TEST(a_listing_shows_what_all_live_nodes_hold)
{
	static const char *const paths[] = {
		"ns/b",	    "ns/a",   "ns/dir/x",     "ns/dir-2",
		"ns/dir/y", "ns/d/1", "ns/dir/z/deep"};

	nodes_up();
	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
		node_store(i % 2 ? a : b, paths[i], i + 1);
	node_store(b, "other/q", 1);
	WAIT_FOR(!node_stats(a).n_dirty && !node_stats(b).n_dirty);
	ck_assert_str_eq(list(a, "ns"), "a b d/ dir/ dir-2 ");
	ck_assert_str_eq(list(a, "ns/dir"), "x y z/ ");
	ck_assert_str_eq(list(a, "ns/dir/z"), "deep ");
	ck_assert_str_eq(list(a, "ns/none"), "");
	ck_assert_uint_eq(node_stats(a).n_listings, 1);
	ck_assert_str_eq(list(b, "ns/d"), "1 ");
	ck_assert_int_eq(meta_kv_list(a->meta, 0, "nowhere", 7, list_add, NULL),
			 -ENOENT);
	nodes_down();
}
END_TEST

START_TEST(a_listing_without_redis_says_so_and_a_snapshot_outlives_it)
{
	int64_t soon = 300 * NS_PER_MS;

	nodes_up();
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	ck_assert_str_eq(list(b, "ns"), "x ");
	server_signal(SIGSTOP);
	ck_assert_str_eq(list(b, "ns"), "x ");
	ck_assert_int_eq(meta_kv_list(b->meta, clock_now_ns() + soon, "other",
				      5, list_add, NULL),
			 -EAGAIN);
	server_signal(SIGCONT);
	nodes_down();
}
END_TEST

static _Atomic bool pages_held;
static _Atomic unsigned n_listers;

static void page_hold(const char *point)
{
	while (pages_held && !strcmp(point, "kv.scan.page"))
		wait_ms(1);
}

static void name_count(void *arg, const char *name, uint16_t name_len,
		       const struct meta_kv_found *f)
{
	(void)name;
	(void)name_len;
	(void)f;
	++*(unsigned *)arg;
}

static void *list_in_thread(void *arg)
{
	unsigned *n = arg;

	n_listers++;
	ck_assert_int_eq(meta_kv_list(b->meta, 0, "ns", 2, name_count, n), 0);
	return NULL;
}

static bool has_mapped(const char *folder)
{
	cleanup_file FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	bool found = false;

	while (f && fgets(line, sizeof(line), f))
		found |= strstr(line, folder) && strstr(line, "(deleted)");
	return found;
}

START_TEST(listings_that_come_together_share_one_snapshot_in_the_state_folder)
{
	unsigned n[4] = {0};
	pthread_t t[4];

	nodes_up();
	node_store(a, "ns/x", 1);
	node_store(a, "ns/y", 2);
	node_sync(a, "ns/x");
	node_sync(a, "ns/y");
	n_listers = 0;
	pages_held = true;
	fault_hook = page_hold;
	for (unsigned i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, list_in_thread, &n[i]);
	WAIT_FOR(n_listers == 4);
	pages_held = false;
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		ck_assert_uint_eq(n[i], 2);
	}

	fault_hook = NULL;
	ck_assert_uint_eq(node_stats(b).n_listings, 1);
	ck_assert(has_mapped(b->state_dir));
	nodes_down();
}
END_TEST

static void snapshots_age(struct node_under_test *n, int64_t ns)
{
	struct kv_list *l = n->meta->list;

	scoped_lock(&l->lock);
	list_for_each (p, &l->all)
		container_of(p, struct listed, link)->snapshot->taken_ns -= ns;
}

static bool is_taking(struct node_under_test *n)
{
	struct kv_list *l = n->meta->list;
	scoped_lock(&l->lock);

	return l->taking;
}

/* Redis has them still: what hides them is that this node has heard of it. */
START_TEST(what_was_removed_is_in_no_listing_also_of_a_scan_under_way)
{
	unsigned n = 0;
	pthread_t t;

	nodes_up();
	node_store(a, "ns/x", 1);
	node_store(a, "ns/y", 2);
	node_store(a, "ns/d/z", 3);
	WAIT_FOR(!node_stats(a).n_dirty);
	pages_held = true;
	fault_hook = page_hold;
	pthread_create(&t, NULL, list_in_thread, &n);
	WAIT_FOR(is_taking(b));
	meta_kv_removed(b->meta, "ns/x", 4);
	meta_kv_removed(b->meta, "ns/none", 7);
	pages_held = false;
	pthread_join(t, NULL);
	fault_hook = NULL;

	ck_assert_uint_eq(n, 2);
	ck_assert_str_eq(list(b, "ns"), "d/ y ");
	meta_kv_removed(b->meta, "ns/y", 4);
	ck_assert_str_eq(list(b, "ns"), "d/ ");
	meta_kv_removed(b->meta, "ns/d/z", 6);
	ck_assert_str_eq(list(b, "ns/d"), "");
	ck_assert_uint_eq(node_stats(b).n_listings, 1);
	snapshots_age(b, 30 * NS_PER_S);
	ck_assert_str_eq(list(b, "ns"), "d/ x y ");
	nodes_down();
}
END_TEST

START_TEST(a_listing_is_at_most_thirty_seconds_old)
{
	nodes_up();
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	ck_assert_str_eq(list(b, "ns"), "x ");
	node_store(a, "ns/y", 2);
	node_sync(a, "ns/y");
	ck_assert_str_eq(list(b, "ns"), "x ");
	ck_assert_uint_eq(node_stats(b).n_listings, 1);

	snapshots_age(b, 30 * NS_PER_S);
	ck_assert_str_eq(list(b, "ns"), "x y ");
	ck_assert_uint_eq(node_stats(b).n_listings, 2);
	nodes_down();
}
END_TEST

START_TEST(a_listing_takes_a_fifth_of_the_time)
{
	nodes_up();
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	scan_measure();
	ck_assert_str_eq(list(b, "ns"), "x ");

	ck_assert_double_ge(scan_pauses(), 4);
	nodes_down();
}
END_TEST

/* ----------------------------------------------------------------------- */

/* Ended by NULL. */
static void add(Suite *s, const char *name, const TTest *const *tests)
{
	TCase *t = tcase_create(name);

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	while (*tests)
		tcase_add_test(t, *tests++);
	suite_add_tcase(s, t);
}

int main(void)
{
	Suite *s = suite_create("meta nodes");

	add(s, "membership",
	    (const TTest *const[]){
		    nodes_know_each_other_s_record_and_load,
		    who_asks_for_the_nodes_has_those_that_there_are_now,
		    a_node_s_coming_changing_and_going_is_told_once,
		    the_table_is_fetched_only_when_its_version_moved,
		    a_refused_heartbeat_declares_nobody_dead,
		    a_heartbeat_is_taken_by_a_redis_whose_memory_is_full,
		    a_dead_node_is_nobody_s_holder_at_once_and_its_bytes_do_not_count,
		    usage_is_what_nodes_hold_now_however_often_they_say_it,
		    replicas_are_counted_by_hosts,
		    a_copied_state_directory_is_refused,
		    a_node_whose_copy_has_joined_says_so,
		    a_state_directory_that_moved_joins,
		    a_node_is_alone_until_another_joins_and_never_longer_than_a_moment,
		    NULL,
	    });
	add(s, "lookups",
	    (const TTest *const[]){
		    a_thousand_names_are_asked_for_in_one_round_trip,
		    lookups_of_one_name_that_come_together_leave_together,
		    a_late_answer_is_no_answer_and_the_next_does_not_wait,
		    who_is_patient_has_the_late_answer_too,
		    who_is_patient_hears_that_no_answer_will_come,
		    what_was_sent_a_moment_ago_is_not_suspected,
		    a_lost_connection_answers_every_lookup,
		    what_another_node_did_to_a_namespace_is_told_with_a_heartbeat,
		    a_namespace_made_elsewhere_is_found_by_a_lookup,
		    NULL,
	    });
	add(s, "listing",
	    (const TTest *const[]){
		    a_listing_shows_what_all_live_nodes_hold,
		    a_listing_without_redis_says_so_and_a_snapshot_outlives_it,
		    listings_that_come_together_share_one_snapshot_in_the_state_folder,
		    a_listing_is_at_most_thirty_seconds_old,
		    what_was_removed_is_in_no_listing_also_of_a_scan_under_way,
		    a_listing_takes_a_fifth_of_the_time,
		    NULL,
	    });
	return fixture_run(s);
}

// SPDX-License-Identifier: MIT
/* Publishing by several nodes: what is lost, removed and left behind. */
#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "meta/kv_impl.h"
#include "meta/kv_refill.h"
#include "meta/namespace.h"
#include "meta/node.h"
#include "meta/nodes.h"
#include "meta_fixture.h"

static struct node_under_test *a, *b;

static void two_nodes(void)
{
	server_start(NULL);
	a = node_up("a", server_url());
	b = node_up("b", server_url());
}

static void two_nodes_end(void)
{
	node_free(a);
	node_free(b);
}

static uint32_t self(struct node_under_test *n)
{
	return meta_node_self(n->meta);
}

static void store(struct node_under_test *n, const char *path, uint64_t sum)
{
	node_store(n, path, sum);
	node_sync(n, path);
}

/* Its heart stops, and Redis finds out. */
static void node_dies(struct node_under_test *n, struct node_under_test *who)
{
	struct meta_self none = {.n_addrs = 0};
	char words[96];

	n->meta->embedded = (void *)1;
	meta_node_stop(n->meta);
	n->meta->embedded = NULL;
	snprintf(words, sizeof(words), "ZADD kvfs:{n}:live 1 %u", self(n));
	server_text(words);
	meta_node_announce(who->meta, &none); /* beat now */
	WAIT_FOR(!meta_node_is_live(who->meta, self(n)));
}

/* --- answers ----------------------------------------------------------- */

START_TEST(a_lost_race_is_told_with_the_winner)
{
	struct meta_kv_answer answer;

	two_nodes();
	store(a, "ns/x", 17);
	store(b, "ns/x", 18);

	answer = node_block(b, "ns/x").answer;
	ck_assert_int_eq(answer.verdict, META_KV_CONFLICT);
	ck_assert_uint_eq(answer.generation,
			  node_block(a, "ns/x").state.generation);
	ck_assert_uint_eq(answer.size_bytes, 4096);
	ck_assert_uint_eq(answer.checksum[0], 17);
	ck_assert_uint_eq(answer.checksum[1], 17);
	ck_assert_uint_eq(answer.n_holders, 1);
	ck_assert_uint_eq(answer.holders[0], self(a));
	two_nodes_end();
}
END_TEST

START_TEST(a_replica_s_publish_tells_of_the_other_holders)
{
	struct meta_kv_answer answer;

	two_nodes();
	store(a, "ns/x", 17);
	ck_assert_uint_eq(node_block(a, "ns/x").answer.n_holders, 0);
	store(b, "ns/x", 17);
	answer = node_block(b, "ns/x").answer;
	ck_assert_int_eq(answer.verdict, META_KV_PUBLISHED);
	ck_assert_uint_eq(answer.n_holders, 1);
	ck_assert_uint_eq(answer.holders[0], self(a));
	two_nodes_end();
}
END_TEST

START_TEST(unlink_tells_who_is_to_drop_its_copy)
{
	struct meta_kv_answer answer;
	uint64_t generation;

	two_nodes();
	store(a, "ns/x", 17);
	store(b, "ns/x", 17);
	generation = node_block(a, "ns/x").state.generation;
	node_unlink(b, "ns/x");
	node_sync(b, "ns/x");

	answer = node_block(b, "ns/x").answer;
	ck_assert_int_eq(answer.verdict, META_KV_GONE);
	ck_assert_uint_eq(answer.generation, generation);
	ck_assert_uint_eq(answer.n_holders, 1);
	ck_assert_uint_eq(answer.holders[0], self(a));
	two_nodes_end();
}
END_TEST

static unsigned n_in_flight(struct node_under_test *n)
{
	struct kv_pub *k = n->meta->kv;

	scoped_lock(&k->lock);
	return k->n_in_flight;
}

static void in_flight(struct node_under_test *n, unsigned count)
{
	WAIT_FOR(n_in_flight(n) == count);
}

/* Until then no round begins. */
static void sender_pause(struct node_under_test *n, int64_t until_ns)
{
	scoped_lock(&n->meta->kv->lock);
	n->meta->kv->pause_until_ns = until_ns;
}

/* The caller holds n->lock: the sender has the name, and cannot send it. */
static void sync_what_is_in_flight(struct node_under_test *n, const char *path)
{
	in_flight(n, 1);
	ck_assert_int_eq(meta_kv_sync(n->meta, path, (uint16_t)strlen(path)),
			 -ETIMEDOUT);
}

START_TEST(an_unlink_while_all_is_to_be_published_tells_of_the_holders)
{
	two_nodes();
	store(a, "ns/x", 17);
	WAIT_FOR(node_stats(b).n_refills && !node_stats(b).n_dirty);
	sender_pause(b, INT64_MAX);
	node_unlink(b, "ns/x");
	pthread_mutex_lock(&b->lock); /* state() waits, and each() */
	meta_kv_store_changed(b->meta);
	sender_pause(b, 0);
	meta_kv_wake(b->meta);
	sync_what_is_in_flight(b, "ns/x");
	pthread_mutex_unlock(&b->lock);

	node_sync(b, "ns/x");
	ck_assert_uint_eq(node_block(b, "ns/x").answer.n_holders, 1);
	ck_assert_uint_eq(node_block(b, "ns/x").answer.holders[0], self(a));
	two_nodes_end();
}
END_TEST

START_TEST(a_name_that_is_not_here_can_be_unlinked_and_its_holder_hears_of_it)
{
	struct meta_kv_answer answer;
	struct meta_kv_found f;

	two_nodes();
	store(a, "ns/x", 17);
	node_unlink(b, "ns/x");
	node_sync(b, "ns/x");
	answer = node_block(b, "ns/x").answer;
	ck_assert_uint_eq(answer.n_holders, 1);
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), -ENOENT);

	/* a was not reached: its audit finds the tombstone */
	meta_kv_audit(a->meta, "the test says so");
	WAIT_FOR(node_block(a, "ns/x").verdict == META_KV_DROPPED);
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), -ENOENT);
	ck_assert_uint_eq(node_stats(a).n_dropped, 1);
	two_nodes_end();
}
END_TEST

START_TEST(a_removal_whose_answer_was_not_heard_names_the_holders_again)
{
	struct meta_kv_state removed = {.unlinked = true};

	two_nodes();
	store(a, "ns/x", 17);
	store(b, "ns/x", 17);
	removed.generation = node_block(a, "ns/x").state.generation;
	for (int i = 0; i < 3; i++) {
		node_change(b, "ns/x", &removed);
		node_sync(b, "ns/x");
		ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_GONE);
		ck_assert_uint_eq(node_block(b, "ns/x").answer.n_holders, 1);
		ck_assert_uint_eq(node_block(b, "ns/x").answer.holders[0],
				  self(a));
	}
	two_nodes_end();
}
END_TEST

START_TEST(a_node_that_could_not_be_told_of_a_removal_looks_at_all_it_holds)
{
	two_nodes();
	store(a, "ns/x", 17);
	store(a, "ns/y", 17);
	node_unlink(b, "ns/x");
	node_sync(b, "ns/x");
	meta_nodes_missed(b->meta, self(a));
	meta_nodes_missed(b->meta, 1); /* it is long dead */
	WAIT_FOR(node_block(a, "ns/x").verdict == META_KV_DROPPED);
	WAIT_FOR(node_stats(a).n_audits == 1 && !node_stats(a).n_dirty);
	ck_assert_int_eq(node_block(a, "ns/y").verdict, META_KV_PUBLISHED);
	ck_assert_int_eq(server_int("HLEN kvfs:{n}:missed"), 1);
	meta_nodes_refresh(a->meta, clock_now_ns() + NS_PER_S * 10);
	ck_assert_uint_eq(node_stats(a).n_audits, 1);
	two_nodes_end();
}
END_TEST

START_TEST(unlink_names_no_dead_holders)
{
	two_nodes();
	store(a, "ns/x", 17);
	store(b, "ns/x", 17);
	node_dies(b, a);
	node_unlink(a, "ns/x");
	node_sync(a, "ns/x");
	ck_assert_int_eq(node_block(a, "ns/x").answer.verdict, META_KV_GONE);
	ck_assert_uint_eq(node_block(a, "ns/x").answer.n_holders, 0);
	two_nodes_end();
}
END_TEST

/* --- a publish that nobody knows the outcome of ------------------------- */

static int raw_connect(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", path_of("redis.sock"));
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	ck_assert_int_gt(dprintf(fd, "PING\r\n"), 0);
	ck_assert_int_eq(read(fd, (char[7]){0}, 7), 7);
	return fd;
}

static bool reconnects(struct node_under_test *n, uint64_t before)
{
	for (int i = 0; i < 2000; i++, wait_ms(1))
		if (node_stats(n).n_reconnects > before &&
		    redis_up(n->meta->links[META_PUBLISH]))
			return true;
	return false;
}

/*
 * b's publish lands and its connection ends before the answer: Redis finds
 * both when it goes on. Until n->lock is free b can neither hear an answer nor
 * send again. Returns: false if the end came first, or too late.
 */
static bool answer_is_lost(const char *path, int raw)
{
	uint64_t before = node_stats(b).n_reconnects;
	struct meta_kv_found f;

	server_signal(SIGSTOP);
	node_store(b, path, 5);
	in_flight(b, 1);
	dprintf(raw, "CLIENT KILL ID %" PRId64 "\r\n",
		redis_client_id(b->meta->links[META_PUBLISH]));
	pthread_mutex_lock(&b->lock);
	server_signal(SIGCONT);
	if (reconnects(b, before) && !node_lookup(a, path, &f))
		return true;
	pthread_mutex_unlock(&b->lock);
	WAIT_FOR(node_stats(b).n_reconnects > before &&
		 kv_can_send(b->meta->kv) && !node_stats(b).n_dirty);
	return false;
}

START_TEST(a_publish_whose_answer_was_lost_does_not_undo_an_unlink)
{
	cleanup_close int raw = -1;
	struct meta_kv_found f;
	unsigned tries = 0;
	char path[32];

	two_nodes();
	store(b, "ns/warm", 1);
	WAIT_FOR(node_stats(b).n_refills && !node_stats(b).n_dirty);
	raw = raw_connect();
	do {
		snprintf(path, sizeof(path), "ns/x%u", tries);
		ck_assert_uint_lt(tries++, 50);
	} while (!answer_is_lost(path, raw));
	node_unlink(a, path);
	node_sync(a, path);
	ck_assert_uint_ne(node_block(a, path).answer.generation, 0);
	pthread_mutex_unlock(&b->lock);

	node_sync(b, path);
	ck_assert_int_eq(node_block(b, path).verdict, META_KV_DROPPED);
	ck_assert_int_eq(node_lookup(a, path, &f), -ENOENT);
	two_nodes_end();
}
END_TEST

START_TEST(a_new_block_under_a_removed_name_is_published)
{
	struct meta_kv_found f;

	two_nodes();
	store(a, "ns/x", 5);
	node_unlink(b, "ns/x");
	node_sync(b, "ns/x");
	store(b, "ns/x", 6);
	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	ck_assert_uint_eq(f.checksum[0], 6);
	two_nodes_end();
}
END_TEST

START_TEST(names_that_could_not_be_sent_are_not_taken_for_sent)
{
	struct meta_kv_found f;

	two_nodes();
	store(a, "ns/x", 5);
	node_unlink(a, "ns/x");
	node_sync(a, "ns/x");
	/* a's connection is gone, and what it stores waits for another */
	server_signal(SIGSTOP);
	WAIT_FOR((redis_suspect(a->meta->links[META_PUBLISH], clock_now_ns()),
		  node_store(a, "ns/other", 1), meta_kv_wake(a->meta),
		  !redis_up(a->meta->links[META_PUBLISH])));
	node_store(a, "ns/x", 6);
	server_signal(SIGCONT);
	node_sync(a, "ns/x");
	ck_assert_int_eq(node_block(a, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), 0);
	two_nodes_end();
}
END_TEST

START_TEST(a_removal_is_not_forgotten_over_a_new_block)
{
	struct meta_kv_state state = {.held = true,
				      .unlinked = true,
				      .size_bytes = 4096,
				      .checksum = {6, 6}};
	struct meta_kv_found f;

	two_nodes();
	store(a, "ns/x", 5);
	state.generation = node_block(a, "ns/x").state.generation;
	/* b's user removed it and wrote it anew before anything was sent */
	node_change(b, "ns/x", &state);
	WAIT_FOR(node_block(b, "ns/x").n_verdicts >= 2 &&
		 !node_stats(b).n_dirty);
	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	ck_assert_uint_eq(f.checksum[0], 6);
	ck_assert_uint_eq(f.holders[0], self(b));
	two_nodes_end();
}
END_TEST

START_TEST(a_removal_spares_what_came_after_the_version_that_was_seen)
{
	struct meta_kv_state removal = {.unlinked = true};
	struct meta_kv_found f;

	two_nodes();
	store(a, "ns/x", 5);
	removal.generation = node_block(a, "ns/x").state.generation;
	store(a, "ns/x", 6);
	node_change(b, "ns/x", &removal);
	node_sync(b, "ns/x");
	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_GONE);
	ck_assert_uint_eq(node_block(b, "ns/x").answer.n_holders, 0);
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), 0);
	ck_assert_uint_eq(f.checksum[0], 6);
	two_nodes_end();
}
END_TEST

START_TEST(a_dropped_block_leaves_no_older_record_behind)
{
	struct meta_kv_state stale = {
		.held = true, .size_bytes = 4096, .checksum = {5, 5}};
	struct meta_kv_found f;

	two_nodes();
	store(a, "ns/x", 5);
	stale.generation = node_block(a, "ns/x").state.generation;
	node_unlink(a, "ns/x");
	node_sync(a, "ns/x");
	store(b, "ns/x", 7);
	node_change(b, "ns/x", &stale); /* a copy fetched before the removal */
	node_sync(b, "ns/x");
	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_DROPPED);
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), -ENOENT);
	two_nodes_end();
}
END_TEST

/* --- directories ------------------------------------------------------- */

static bool dir_command(const char *command, const char *dir)
{
	struct key_place at = key_place(dir, strlen(dir), NAMESPACE_SUBS);
	char words[96];

	snprintf(words, sizeof(words), "%s kvfs:{ns#%u}:b%u %s/", command,
		 at.group, at.sub, dir);
	return server_int(words) == 1;
}

START_TEST(a_directory_is_written_with_the_first_publish_below_it_only)
{
	two_nodes();
	ck_assert(!dir_command("HEXISTS", "d/e"));
	store(a, "ns/d/e/1", 1);
	ck_assert(dir_command("HEXISTS", "d"));
	ck_assert(dir_command("HEXISTS", "d/e"));

	ck_assert(dir_command("HDEL", "d/e"));
	store(a, "ns/d/e/2", 2);
	store(a, "ns/d/e/f/3", 3);
	ck_assert(!dir_command("HEXISTS", "d/e"));
	ck_assert(dir_command("HEXISTS", "d/e/f"));
	store(b, "ns/d/e/4", 4); /* who has not written it does */
	ck_assert(dir_command("HDEL", "d/e"));

	meta_kv_dirs_again(a->meta);
	store(a, "ns/d/e/5", 5);
	ck_assert(dir_command("HEXISTS", "d/e"));
	two_nodes_end();
}
END_TEST

/* --- batches ----------------------------------------------------------- */

/* How often a batch asked whether there are tombstones: each does once. */
static long long batches(void)
{
	const char *line = "cmdstat_exists:calls=";
	const char *at = strstr(server_text("INFO commandstats"), line);

	return at ? atoll(at + strlen(line)) : 0;
}

START_TEST(two_hundred_names_of_one_tag_are_one_call)
{
	unsigned n = 0;
	char path[32];

	two_nodes();
	store(a, "ns/warm", 1);
	WAIT_FOR(node_stats(a).n_refills && node_stats(b).n_refills &&
		 !node_stats(a).n_dirty);
	server_text("CONFIG RESETSTAT");
	sender_pause(a, INT64_MAX);
	for (unsigned i = 0; n < 2 * 200 + 1; i++) {
		snprintf(path, sizeof(path), "ns/%u", i);
		if (key_place(path + 3, strlen(path + 3), 16).group)
			continue;
		node_store(a, path, 1);
		n++;
	}
	ck_assert_uint_eq(node_stats(a).n_dirty, n);
	sender_pause(a, 0);
	meta_kv_wake(a->meta);
	WAIT_FOR(!node_stats(a).n_dirty);
	ck_assert_int_eq(batches(), 3);
	two_nodes_end();
}
END_TEST

/* --- another store ----------------------------------------------------- */

#define NO_END UINT_MAX

/* What a refill did: a letter for each call; how long it slept. */
struct seen {
	char calls[16];
	unsigned n, n_chunks, ends_at;
	int64_t took_ns[3]; /* Redis, for the last batch of each chunk */
	int64_t nap_ns;	    /* the last */
};

static bool see(struct seen *s, char what)
{
	ck_assert_uint_lt(s->n, sizeof(s->calls) - 1);
	s->calls[s->n++] = what;
	return s->n != s->ends_at;
}

static bool see_chunk(void *ctx, unsigned n)
{
	struct seen *s = ctx;

	ck_assert_uint_gt(n, 0);
	see(s, 'c');
	return ++s->n_chunks <= 3;
}

static bool see_drain(void *ctx, unsigned n, int64_t *took_ns)
{
	struct seen *s = ctx;

	ck_assert_uint_gt(n, 0);
	*took_ns = s->took_ns[s->n_chunks - 1];
	return see(s, 'd');
}

static bool see_nap(void *ctx, int64_t ns)
{
	struct seen *s = ctx;

	s->nap_ns = ns;
	return see(s, 'n');
}

static struct kv_refill refill_seen(struct seen *s, unsigned ends_at)
{
	*s = (struct seen){.ends_at = ends_at};
	return (struct kv_refill){see_chunk, see_drain, see_nap, s};
}

START_TEST(nodes_begin_to_refill_a_store_at_random_times_over_half_a_minute)
{
	struct seen s;
	struct kv_refill r = refill_seen(&s, 6);
	int64_t last = -1;

	for (uint32_t at = 0; at < 5; at++) {
		ck_assert(kv_refill_wait(&r, 1000, 249 * at));
		ck_assert_int_gt(s.nap_ns, last);
		last = s.nap_ns;
	}
	ck_assert_int_gt(last, 29 * NS_PER_S);
	ck_assert_int_le(last, 30 * NS_PER_S);
	ck_assert(!kv_refill_wait(&r, 1000, UINT32_MAX)); /* the daemon ends */
	ck_assert_int_le(s.nap_ns, 30 * NS_PER_S);
}
END_TEST

START_TEST(a_few_nodes_spread_their_refills_over_a_second_each)
{
	struct seen s;
	struct kv_refill r = refill_seen(&s, NO_END);

	ck_assert(kv_refill_wait(&r, 4, 999));
	ck_assert_int_gt(s.nap_ns, 3 * NS_PER_S);
	ck_assert_int_le(s.nap_ns, 4 * NS_PER_S);
	ck_assert(kv_refill_wait(&r, 1, 999));
	ck_assert_str_eq(s.calls, "n"); /* who is alone does not wait */
}
END_TEST

START_TEST(a_refill_leaves_a_slow_redis_as_long_as_it_took)
{
	struct seen s;
	struct kv_refill r = refill_seen(&s, NO_END);

	kv_refill_run(&r);
	ck_assert_str_eq(s.calls, "cdcdcdc");

	r = refill_seen(&s, NO_END);
	s.took_ns[1] = 700 * NS_PER_MS;
	kv_refill_run(&r);
	ck_assert_str_eq(s.calls, "cdcdncdc");
	ck_assert_int_eq(s.nap_ns, 700 * NS_PER_MS);
}
END_TEST

START_TEST(a_refill_ends_with_the_daemon)
{
	struct seen s;
	struct kv_refill r = refill_seen(&s, 2);

	kv_refill_run(&r);
	ck_assert_str_eq(s.calls, "cd");

	r = refill_seen(&s, 3);
	s.took_ns[0] = 700 * NS_PER_MS;
	kv_refill_run(&r);
	ck_assert_str_eq(s.calls, "cdn");
}
END_TEST

static _Atomic unsigned n_naps;

static void nap_count(const char *point)
{
	n_naps += !strcmp(point, "kv.refill");
}

/* Without a sender, whose batches would say how long Redis takes. */
static unsigned naps_of_refill(struct node_under_test *n, int64_t redis_took)
{
	uint64_t before = node_stats(n).n_refills;

	WAIT_FOR(!node_stats(n).n_dirty);
	sender_pause(n, INT64_MAX);
	n->meta->kv->last_batch_ns = redis_took;
	n_naps = 0;
	fault_hook = nap_count;
	meta_kv_store_changed(n->meta);
	WAIT_FOR(node_stats(n).n_refills == before + 1);
	fault_hook = NULL;
	sender_pause(n, 0);
	meta_kv_wake(n->meta);
	return n_naps;
}

START_TEST(a_node_refills_after_a_while_and_no_faster_than_redis_takes_it)
{
	char path[32];

	server_start(NULL);
	a = node_up("a", server_url());
	for (unsigned i = 0; i < 3000; i++) { /* two chunks */
		snprintf(path, sizeof(path), "ns/%u", i);
		node_store(a, path, 1);
	}
	WAIT_FOR(node_stats(a).n_refills == 1);
	ck_assert_uint_eq(naps_of_refill(a, 0), 0);
	ck_assert_uint_eq(naps_of_refill(a, 60 * NS_PER_MS), 1);

	b = node_up("b", server_url());
	WAIT_FOR(node_stats(b).n_refills && node_stats(b).n_nodes == 2);
	ck_assert_uint_eq(naps_of_refill(b, 0), 1);
	two_nodes_end();
}
END_TEST

static bool answers(void *ctx, const struct meta_node *node)
{
	(void)ctx;
	(void)node;
	return true;
}

static struct node_under_test *connected_up(const char *name)
{
	static const struct meta_node_ops ops = {.reached = answers};
	struct node_under_test *n = node_new(name, server_url());

	n->config.node_ops = &ops;
	ck_assert_int_eq(node_open(n), 0);
	return n;
}

START_TEST(the_first_node_that_joins_a_new_store_does_not_take_itself_for_alone)
{
	server_start(NULL);
	a = connected_up("a");
	b = connected_up("b");
	WAIT_FOR(node_stats(a).n_nodes == 2 && node_stats(a).n_refills == 1);
	WAIT_FOR(node_stats(b).n_nodes == 2 && node_stats(b).n_refills == 1);
	n_naps = 0;
	fault_hook = nap_count;
	server_text("FLUSHALL");
	WAIT_FOR(node_stats(a).n_refills == 2 && node_stats(b).n_refills == 2);
	fault_hook = NULL;
	ck_assert_uint_eq(n_naps, 2);
	two_nodes_end();
}
END_TEST

/* --- tombstones and leftovers ------------------------------------------ */

START_TEST(a_group_of_names_keeps_no_more_tombstones_than_its_share)
{
	const unsigned most = 15625, n = most + 100;
	unsigned at = 0;
	char path[32];

	two_nodes();
	for (unsigned i = 0; at < n; i++) {
		snprintf(path, sizeof(path), "ns/%u", i);
		if (key_place(path + 3, strlen(path + 3), 16).group)
			continue;
		at++;
		node_store(a, path, 1);
	}
	WAIT_FOR(node_stats(a).n_dirty == 0);
	for (uint64_t i = 0; i < a->n_order; i++)
		node_unlink(a, a->order[i]->path);
	WAIT_FOR(node_stats(a).n_dirty == 0);
	ck_assert_int_eq(server_int("HLEN kvfs:{ns#0}:t"), most);
	ck_assert_int_eq(server_int("ZCARD kvfs:{ns#0}:x"), most);
	two_nodes_end();
}
END_TEST

START_TEST(a_tombstone_is_kept_for_two_hours_and_no_longer)
{
	const int64_t most_ms = 2 * 3600 * 1000, slack_ms = 600 * 1000;
	struct meta_kv_state stale = {
		.held = true, .size_bytes = 4096, .checksum = {5, 5}};
	unsigned group = key_place("x", 1, 16).group;
	struct meta_kv_found f;
	int64_t left_ms;
	char words[64];

	two_nodes();
	store(a, "ns/x", 5);
	stale.generation = node_block(a, "ns/x").state.generation;
	node_unlink(a, "ns/x");
	node_sync(a, "ns/x");
	snprintf(words, sizeof(words), "ZSCORE kvfs:{ns#%u}:x x", group);
	left_ms = server_int(words) - server_int("TIME") * 1000;
	ck_assert_int_le(left_ms, most_ms + 1000); /* TIME in seconds */
	ck_assert_int_gt(left_ms, most_ms - slack_ms);

	snprintf(words, sizeof(words), "ZADD kvfs:{ns#%u}:x 1 x", group);
	server_text(words); /* they are over */
	node_change(b, "ns/x", &stale);
	node_sync(b, "ns/x");
	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	two_nodes_end();
}
END_TEST

static unsigned records(void)
{
	unsigned n = 0;
	char words[64];

	for (unsigned g = 0; g < 64; g++)
		for (unsigned s = 0; s < 16; s++) {
			snprintf(words, sizeof(words), "HLEN kvfs:{ns#%u}:b%u",
				 g, s);
			n += (unsigned)server_int(words);
		}
	return n;
}

START_TEST(dead_nodes_are_swept_out_of_the_records_by_one_node)
{
	const unsigned n = 300;
	struct meta_kv_found f;
	char path[32];

	two_nodes();
	for (unsigned i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "ns/%u", i);
		node_store(a, path, i + 1);
		if (i % 3 == 0)
			node_store(b, path, i + 1);
	}
	WAIT_FOR(!node_stats(a).n_dirty && !node_stats(b).n_dirty &&
		 node_stats(b).n_published >= n / 3);
	node_dies(a, b);

	/* b's own publishes may have cleaned the records of its copies */
	WAIT_FOR(node_stats(b).n_swept >= n - n / 3);
	ck_assert_uint_le(node_stats(b).n_swept, n);
	WAIT_FOR(records() == n / 3);
	for (unsigned i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "ns/%u", i);
		ck_assert_int_eq(node_lookup(b, path, &f), i % 3 ? -ENOENT : 0);
		ck_assert(i % 3 ||
			  (f.n_holders == 1 && f.holders[0] == self(b)));
	}
	two_nodes_end();
}
END_TEST

/* ----------------------------------------------------------------------- */

int main(void)
{
	const TTest *const tests[] = {
		a_lost_race_is_told_with_the_winner,
		a_replica_s_publish_tells_of_the_other_holders,
		unlink_tells_who_is_to_drop_its_copy,
		an_unlink_while_all_is_to_be_published_tells_of_the_holders,
		a_name_that_is_not_here_can_be_unlinked_and_its_holder_hears_of_it,
		a_removal_whose_answer_was_not_heard_names_the_holders_again,
		a_node_that_could_not_be_told_of_a_removal_looks_at_all_it_holds,
		unlink_names_no_dead_holders,
		a_publish_whose_answer_was_lost_does_not_undo_an_unlink,
		a_new_block_under_a_removed_name_is_published,
		names_that_could_not_be_sent_are_not_taken_for_sent,
		a_removal_is_not_forgotten_over_a_new_block,
		a_removal_spares_what_came_after_the_version_that_was_seen,
		a_dropped_block_leaves_no_older_record_behind,
		a_directory_is_written_with_the_first_publish_below_it_only,
		two_hundred_names_of_one_tag_are_one_call,
		nodes_begin_to_refill_a_store_at_random_times_over_half_a_minute,
		a_few_nodes_spread_their_refills_over_a_second_each,
		a_refill_leaves_a_slow_redis_as_long_as_it_took,
		a_refill_ends_with_the_daemon,
		a_node_refills_after_a_while_and_no_faster_than_redis_takes_it,
		the_first_node_that_joins_a_new_store_does_not_take_itself_for_alone,
		a_tombstone_is_kept_for_two_hours_and_no_longer,
		a_group_of_names_keeps_no_more_tombstones_than_its_share,
		dead_nodes_are_swept_out_of_the_records_by_one_node,
	};
	Suite *s = suite_create("meta publish");
	TCase *t = tcase_create("publish");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++)
		tcase_add_test(t, tests[i]);
	suite_add_tcase(s, t);
	return fixture_run(s);
}

// SPDX-License-Identifier: MIT
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "meta/embedded.h"
#include "meta/internal.h"
#include "meta/kv_impl.h"
#include "meta/node.h"
#include "meta/record.h"
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

static void one_node(void)
{
	server_start(NULL);
	a = node_up("a", server_url());
}

static uint32_t self(struct node_under_test *n)
{
	return meta_node_self(n->meta);
}

/* --- publishing -------------------------------------------------------- */

START_TEST(a_published_block_and_its_directories_are_seen_by_another_node)
{
	struct meta_kv_found f;

	two_nodes();
	node_store(a, "ns/dir/sub/block", 11);
	node_sync(a, "ns/dir/sub/block");

	ck_assert_int_eq(node_lookup(b, "ns/dir/sub/block", &f), 0);
	ck_assert(!f.is_dir);
	ck_assert_uint_eq(f.n_holders, 1);
	ck_assert_uint_eq(f.holders[0], self(a));
	ck_assert_uint_eq(f.size_bytes, 4096);
	ck_assert_uint_eq(f.checksum[1], 11);
	ck_assert_uint_eq(f.mode, 0100644);
	ck_assert_uint_ne(f.generation, 0);
	ck_assert_uint_eq(f.generation,
			  node_block(a, "ns/dir/sub/block").state.generation);

	ck_assert_int_eq(node_lookup(b, "ns/dir", &f), 0);
	ck_assert(f.is_dir);
	ck_assert_uint_eq(f.mode, 040750);
	ck_assert_int_eq(node_lookup(b, "ns/dir/sub", &f), 0);
	ck_assert_int_eq(node_lookup(b, "ns/dir/other", &f), -ENOENT);
	two_nodes_end();
}
END_TEST

START_TEST(names_with_any_byte_in_them_are_published)
{
	const char *path = "n{s}#%1/\x01{x}\n\xff/\xc3\x28";
	struct meta_kv_found f;

	two_nodes();
	node_store(a, path, 5);
	node_sync(a, path);

	ck_assert_int_eq(node_lookup(b, path, &f), 0);
	ck_assert_int_eq(server_int("EXISTS kvfs:{n%7Bs%7D%23%251#0}:none"), 0);
	ck_assert_ptr_nonnull(
		strstr(server_text("KEYS *b*"), "kvfs:{n%7Bs%7D%23%251#"));
	two_nodes_end();
}
END_TEST

START_TEST(the_first_of_two_versions_wins_and_the_other_is_a_conflict)
{
	struct meta_kv_found f;

	two_nodes();
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	node_store(b, "ns/x", 2);
	node_sync(b, "ns/x");

	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_CONFLICT);
	ck_assert_int_eq(node_block(a, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), 0);
	ck_assert_uint_eq(f.checksum[0], 1);
	ck_assert_uint_eq(f.n_holders, 1);
	ck_assert_uint_ge(node_stats(b).n_conflicts, 1);
	two_nodes_end();
}
END_TEST

START_TEST(equal_copies_become_replicas_of_one_generation)
{
	struct meta_kv_found f;

	two_nodes();
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	node_store(b, "ns/x", 1);
	node_sync(b, "ns/x");

	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_uint_eq(node_block(b, "ns/x").state.generation,
			  node_block(a, "ns/x").state.generation);
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), 0);
	ck_assert_uint_eq(f.n_holders, 2);
	two_nodes_end();
}
END_TEST

START_TEST(without_checksums_only_the_generation_makes_copies_equal)
{
	two_nodes();
	node_store(a, "ns/x", 0);
	node_sync(a, "ns/x");
	node_store(b, "ns/x", 0);
	node_sync(b, "ns/x");

	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_CONFLICT);
	two_nodes_end();
}
END_TEST

START_TEST(new_bytes_under_a_name_that_only_we_held_replace_the_old_record)
{
	struct meta_kv_found old, new;

	two_nodes();
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	ck_assert_int_eq(node_lookup(b, "ns/x", &old), 0);
	node_store(a, "ns/x", 2);
	node_sync(a, "ns/x");

	ck_assert_int_eq(node_block(a, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_int_eq(node_lookup(b, "ns/x", &new), 0);
	ck_assert_uint_eq(new.checksum[0], 2);
	ck_assert_uint_gt(new.generation, old.generation);
	two_nodes_end();
}
END_TEST

START_TEST(an_evicted_block_is_retracted_without_a_tombstone)
{
	struct meta_kv_found f;

	two_nodes();
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	node_evict(a, "ns/x");
	node_sync(a, "ns/x");

	ck_assert_int_eq(node_block(a, "ns/x").verdict, META_KV_GONE);
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), -ENOENT);
	ck_assert_str_eq(server_text("KEYS *}:t"), "");
	ck_assert_uint_eq(node_stats(a).n_retracted, 1);
	two_nodes_end();
}
END_TEST

START_TEST(an_evicted_replica_leaves_the_other_holder_listed)
{
	struct meta_kv_found f;

	two_nodes();
	node_store(a, "ns/x", 1);
	node_store(b, "ns/x", 1);
	node_sync(a, "ns/x");
	node_sync(b, "ns/x");
	node_evict(a, "ns/x");
	node_sync(a, "ns/x");

	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	ck_assert_uint_eq(f.n_holders, 1);
	ck_assert_uint_eq(f.holders[0], self(b));
	two_nodes_end();
}
END_TEST

START_TEST(an_unlinked_name_stays_gone_for_copies_of_before_only)
{
	struct meta_kv_state stale;
	struct meta_kv_found f;

	two_nodes();
	node_store(a, "ns/x", 1);
	node_store(b, "ns/x", 1);
	node_sync(a, "ns/x");
	node_sync(b, "ns/x");
	stale = node_block(b, "ns/x").state;
	node_unlink(a, "ns/x");
	node_sync(a, "ns/x");
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), -ENOENT);

	/* the copy of b says that it is published still */
	meta_kv_dirty(b->meta, "ns/x", 4);
	node_sync(b, "ns/x");
	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_DROPPED);
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), -ENOENT);
	ck_assert_uint_eq(node_stats(a).n_tombstoned, 1);

	/* somebody writes that name anew */
	node_store(a, "ns/x", 9);
	node_sync(a, "ns/x");
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), 0);
	ck_assert_uint_eq(f.checksum[0], 9);
	ck_assert_uint_gt(f.generation, stale.generation);
	two_nodes_end();
}
END_TEST

/* Namespace ns as one that was made with 16 buckets a group. */
static void namespace_of_16_buckets(void)
{
	struct meta_namespace ns = {.mode = 040755, .checksum = true};
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	char record[RECORD_NS_MAX];

	record_ns_encode(&ns, 16, record);
	redis_cmd_str(&c, "HSET");
	meta_cmd_key(&c, a->meta, "n", "ns");
	redis_cmd_str(&c, "ns");
	redis_cmd_str(&c, record);
	ck_assert_int_eq(meta_call(a->meta, META_LOOKUP, "n", 0, &c, &reply),
			 0);
}

START_TEST(a_full_list_of_holders_takes_no_more_but_the_copy_is_good)
{
	uint8_t head[RECORD_HEAD_BYTES];
	struct meta_kv_state state = {.held = true,
				      .generation = 3,
				      .size_bytes = 4096,
				      .checksum = {1, 1}};
	struct key_place at = key_place("x", 1, 16);
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	struct meta_kv_found f;
	char tag[KEY_TAG_MAX];
	uint8_t value[RECORD_HEAD_BYTES + 1 + 64];

	one_node();
	namespace_of_16_buckets();
	record_encode(&state, head);
	memcpy(value, head, sizeof(head));
	value[RECORD_HEAD_BYTES] = 16;
	memset(value + RECORD_HEAD_BYTES + 1, 0xee, 64);
	key_tag_kv(tag, "ns", 2, at.group);
	redis_cmd_str(&c, "HSET");
	meta_cmd_key(&c, a->meta, tag, "b%u", at.sub);
	redis_cmd_str(&c, "x");
	redis_cmd_bin(&c, value, sizeof(value));
	ck_assert_int_eq(meta_call(a->meta, META_LOOKUP, tag, 0, &c, &reply),
			 0);
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");

	ck_assert_int_eq(node_block(a, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_uint_eq(node_block(a, "ns/x").state.generation, 3);
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	ck_assert_uint_eq(f.n_holders, 16);
	ck_assert_uint_eq(f.holders[15], 0xeeeeeeee);
	node_free(a);
}
END_TEST

/* --- life and death ---------------------------------------------------- */

static void declare_dead(struct node_under_test *n)
{
	char words[96];

	snprintf(words, sizeof(words), "ZREM kvfs:{n}:live %u", self(n));
	ck_assert_int_eq(server_int(words), 1);
	server_int("INCR kvfs:{n}:version");
}

START_TEST(a_dead_node_s_copies_are_skipped_and_replaced)
{
	struct meta_kv_found f;
	uint32_t dead;

	two_nodes();
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	dead = self(a);
	a->meta->closing = true; /* as if killed: it does not come back */
	meta_node_stop(a->meta);
	WAIT_FOR(!meta_node_is_live(b->meta, dead));
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), -ENOENT);

	node_store(b, "ns/x", 2);
	node_sync(b, "ns/x");
	ck_assert_int_eq(node_block(b, "ns/x").verdict, META_KV_PUBLISHED);
	ck_assert_int_eq(node_lookup(b, "ns/x", &f), 0);
	ck_assert_uint_eq(f.n_holders, 1);
	ck_assert_uint_eq(f.holders[0], self(b));
	ck_assert_uint_eq(f.checksum[0], 2);
	two_nodes_end();
}
END_TEST

START_TEST(a_node_taken_for_dead_joins_anew_and_publishes_everything_again)
{
	struct meta_kv_found f;
	uint32_t before;

	two_nodes();
	before = self(a);
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	declare_dead(a);

	WAIT_FOR(self(a) != before);
	WAIT_FOR(!node_lookup(b, "ns/x", &f) && f.holders[0] == self(a));
	ck_assert_uint_eq(f.n_holders, 1);
	two_nodes_end();
}
END_TEST

/* As after kill -9: it does not leave, but its heart stops. */
static void node_killed(struct node_under_test *n)
{
	n->meta->embedded = (void *)1;
	meta_node_stop(n->meta);
	n->meta->embedded = NULL;
	node_down(n);
}

START_TEST(a_restart_within_the_ttl_keeps_the_incarnation_and_audits)
{
	uint32_t before, other;

	one_node();
	before = self(a);
	node_killed(a);
	ck_assert_int_eq(node_open(a), 0);

	ck_assert_uint_eq(self(a), before);
	WAIT_FOR(node_stats(a).n_audits == 1);
	node_down(a);
	a->config.discard = true;
	ck_assert_int_eq(node_open(a), 0);
	other = self(a);
	ck_assert_uint_ne(other, before);
	ck_assert_uint_eq(node_stats(a).n_nodes, 1);
	node_free(a);
}
END_TEST

START_TEST(a_restart_after_the_ttl_is_another_life_that_publishes_everything)
{
	struct meta_kv_found f;
	char words[96];
	uint32_t before;

	one_node();
	before = self(a);
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	snprintf(words, sizeof(words), "ZADD kvfs:{n}:live 1 %u", before);
	node_killed(a);
	server_text(words);
	ck_assert_int_eq(node_open(a), 0);

	ck_assert_uint_gt(self(a), before);
	WAIT_FOR(node_stats(a).n_refills == 1 && !node_stats(a).n_dirty);
	ck_assert_uint_eq(node_stats(a).n_audits, 0);
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	ck_assert_uint_eq(f.n_holders, 1);
	ck_assert_uint_eq(f.holders[0], self(a));
	node_free(a);
}
END_TEST

/* A store that lost its records meanwhile, whatever the clock says. */
START_TEST(incarnations_of_a_lost_store_are_not_given_out_again)
{
	uint32_t of_a, of_b, last;

	server_start(NULL);
	a = node_up("a", server_url());
	/* a mass start: many a second, some of which nobody heard of */
	server_text("INCRBY kvfs:{n}:inc 200000");
	b = node_up("b", server_url());
	of_a = self(a);
	of_b = self(b);
	WAIT_FOR(node_stats(a).n_nodes == 2);
	server_text("INCRBY kvfs:{n}:inc 5000");
	last = (uint32_t)server_int("GET kvfs:{n}:inc");
	server_text("FLUSHALL");

	WAIT_FOR(self(a) != of_a && self(b) != of_b);
	ck_assert_uint_gt(self(a), last);
	ck_assert_uint_gt(self(b), last);
	ck_assert_uint_ne(self(a), self(b));
	two_nodes_end();
}
END_TEST

static void deadlines_pass(struct node_under_test *n, int64_t last_ms_ago)
{
	int64_t now_ms = clock_read_ns(CLOCK_REALTIME) / NS_PER_MS;
	char words[128];

	snprintf(words, sizeof(words), "ZADD kvfs:{n}:live %" PRId64 " %u",
		 now_ms - 5000, self(n));
	server_text(words);
	snprintf(words, sizeof(words), "SET kvfs:{n}:last %" PRId64,
		 now_ms - last_ms_ago);
	server_text(words);
}

START_TEST(a_pause_of_redis_kills_nobody_but_a_node_s_own_silence_does)
{
	char beat[256];

	two_nodes();
	meta_node_stop(a->meta); /* leaves; b's heart goes on */
	meta_node_stop(b->meta);
	server_text("ZADD kvfs:{n}:live 1 77"); /* a third, long silent */
	snprintf(beat, sizeof(beat),
		 "FCALL kvfs1_node_beat 1 kvfs:{n}: %u 10000 1 record load -",
		 self(a));
	server_text("DEL kvfs:{n}:live");
	deadlines_pass(b, 6000); /* more than half of the TTL */
	server_text(beat);
	ck_assert_int_eq(server_int("ZCARD kvfs:{n}:live"), 1);

	deadlines_pass(b, 100);
	server_text(beat);
	ck_assert_int_eq(server_int("ZCARD kvfs:{n}:live"), 0);
	two_nodes_end();
}
END_TEST

/* --- Redis away, slow, empty ------------------------------------------- */

START_TEST(names_changed_often_while_redis_sleeps_are_sent_once)
{
	struct meta_kv_found f;
	char path[32];

	one_node();
	node_store(a, "ns/warm", 1);
	node_sync(a, "ns/warm");
	server_signal(SIGSTOP);
	node_store(a, "ns/warm", 2); /* one batch gets stuck in the socket */
	for (int round = 0; round < 200; round++)
		for (int i = 0; i < 100; i++) {
			snprintf(path, sizeof(path), "ns/%d", i);
			node_store(a, path, 1000u * (unsigned)round + 1);
		}
	ck_assert_int_eq(meta_kv_sync(a->meta, "ns/5", 4), -ETIMEDOUT);
	ck_assert(!meta_up(a->meta));
	ck_assert_uint_le(node_stats(a).n_dirty, 101);
	ck_assert_uint_ge(node_stats(a).n_dirty, 100);
	server_signal(SIGCONT);

	WAIT_FOR(node_stats(a).n_dirty == 0);
	ck_assert_uint_le(node_stats(a).n_published, 400);
	for (int i = 0; i < 100; i++) {
		snprintf(path, sizeof(path), "ns/%d", i);
		ck_assert_int_eq(node_lookup(a, path, &f), 0);
		ck_assert_uint_eq(f.checksum[0], 199001);
	}
	node_free(a);
}
END_TEST

START_TEST(waits_end_at_the_deadline_and_a_lookup_then_does_not_wait)
{
	struct meta_namespace ns = {.mode = 040755};
	struct meta_kv_found f;
	uint64_t n_timeouts;
	int64_t start;

	server_start(NULL);
	a = node_new("a", server_url());
	a->config.deadline_ms = 1000;
	ck_assert_int_eq(node_open(a), 0);
	server_signal(SIGSTOP);
	start = clock_now_ns();
	ck_assert_int_eq(meta_namespace_put(a->meta, 0, "n", &ns, true), -EIO);
	ck_assert_int_ge(clock_now_ns() - start, 900 * NS_PER_MS);
	n_timeouts = node_stats(a).n_timeouts;
	ck_assert_uint_ge(n_timeouts, 1);
	ck_assert_uint_ge(node_stats(a).n_outages, 1);

	ck_assert_int_eq(node_lookup(a, "n/x", &f), -EIO);
	ck_assert_uint_eq(node_stats(a).n_timeouts, n_timeouts);
	WAIT_FOR(logged("does not answer"));
	server_signal(SIGCONT);
	WAIT_FOR(meta_up(a->meta));
	ck_assert_uint_eq(logged_count("does not answer"), 1);
	node_free(a);
}
END_TEST

static void name_count(void *arg, const char *name,
		       const struct meta_namespace *ns)
{
	int *n = arg;

	*n += !strcmp(name, "models") && ns->quota_bytes == 77 &&
	      ns->mode == 040700 && ns->uid == 5 && !ns->checksum;
}

static pthread_t waiting;
static unsigned n_waits;

/* Redis goes on once this thread waits for it. */
static void cont_for_waiter(const char *point)
{
	if (strcmp(point, "redis.wait") ||
	    !pthread_equal(pthread_self(), waiting))
		return;
	n_waits++;
	server_signal(SIGCONT);
}

/* The breaker of lookups is open, and Redis stopped. */
static void be_late(struct node_under_test *n)
{
	struct meta_kv_found f;

	server_signal(SIGSTOP);
	WAIT_FOR(node_lookup(n, "ns/none", &f) && !meta_up_lookup(n->meta));
	n_waits = 0;
}

START_TEST(a_namespace_is_changed_once_a_late_redis_answers)
{
	struct meta_namespace ns = {
		.mode = 040700, .uid = 5, .quota_bytes = 77};
	int n = 0;

	one_node();
	waiting = pthread_self();
	fault_hook = cont_for_waiter;
	be_late(a);
	ck_assert_int_eq(meta_namespace_put(a->meta, 0, "models", &ns, true),
			 0);
	ck_assert_uint_gt(n_waits, 0);

	be_late(a);
	ck_assert_int_eq(meta_namespace_each(a->meta, 0, name_count, &n), 0);
	ck_assert_int_eq(n, 1);
	ck_assert_uint_gt(n_waits, 0);

	be_late(a);
	ck_assert_int_eq(meta_namespace_remove(a->meta, 0, "models"), 0);
	ck_assert_uint_gt(n_waits, 0);
	fault_hook = NULL;
	node_free(a);
}
END_TEST

/* How often Redis ran this command, in scripts too. */
static long long calls_of(const char *command)
{
	char line[64];
	const char *at;

	snprintf(line, sizeof(line), "cmdstat_%s:calls=", command);
	at = strstr(server_text("INFO commandstats"), line);
	return at ? atoll(at + strlen(line)) : 0;
}

static void store_many(struct node_under_test *n, unsigned count)
{
	char path[64];

	for (unsigned i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "ns/d%u/block-%u", i % 7, i);
		node_store(n, path, i + 1);
	}
}

static unsigned count_found(struct node_under_test *n, unsigned count)
{
	struct meta_kv_found f;
	unsigned found = 0;
	char path[64];

	for (unsigned i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "ns/d%u/block-%u", i % 7, i);
		found += !node_lookup(n, path, &f) && f.n_holders == 1 &&
			 f.holders[0] == self(n) && f.checksum[0] == i + 1;
	}
	return found;
}

/* Without a word to meta. */
static void index_loses(struct node_under_test *n, const char *path)
{
	pthread_mutex_lock(&n->lock);
	for (uint64_t i = 0; i < n->n_order; i++)
		if (!strcmp(n->order[i]->path, path))
			n->order[i]->state.held = false;
	pthread_mutex_unlock(&n->lock);
}

START_TEST(a_flushed_store_is_filled_again)
{
	uint64_t store;
	struct meta_kv_found f;

	one_node();
	store_many(a, 3000);
	WAIT_FOR(node_stats(a).n_refills == 1 && node_stats(a).n_dirty == 0);
	store = node_stats(a).store_id;
	server_text("FLUSHALL");

	WAIT_FOR(node_stats(a).store_id != store);
	WAIT_FOR(node_stats(a).n_refills == 2 && node_stats(a).n_dirty == 0);
	ck_assert_uint_eq(count_found(a, 3000), 3000);
	ck_assert_int_eq(node_lookup(a, "ns/d3", &f), 0);
	node_free(a);
}
END_TEST

/* Redis, of a namespace of 16 buckets. */
static bool record_lose(const char *name)
{
	struct key_place at = key_place(name, strlen(name), 16);
	char words[64];

	snprintf(words, sizeof(words), "HDEL kvfs:{ns#%u}:b%u %s", at.group,
		 at.sub, name);
	return server_int(words) == 1;
}

/* What it had is what it was told up to some moment before. */
START_TEST(a_store_that_was_started_again_is_compared_with_the_index)
{
	struct meta_kv_found f;
	uint64_t store;

	server_start("--appendonly", "yes", NULL);
	a = node_up("a", server_url());
	namespace_of_16_buckets();
	node_store(a, "ns/ghost", 1);
	node_store(a, "ns/lost", 2);
	WAIT_FOR(node_stats(a).n_refills == 1 && !node_stats(a).n_dirty);
	store = node_stats(a).store_id;
	ck_assert(record_lose("lost"));
	index_loses(a, "ns/ghost");
	server_stop(); /* SIGKILL */
	server_start("--appendonly", "yes", NULL);

	WAIT_FOR(node_stats(a).n_audits == 1 && !node_stats(a).n_dirty);
	ck_assert_uint_eq(node_stats(a).store_id, store);
	ck_assert_int_eq(node_lookup(a, "ns/lost", &f), 0);
	ck_assert_int_eq(node_lookup(a, "ns/ghost", &f), -ENOENT);
	node_free(a);
}
END_TEST

START_TEST(a_killed_private_server_is_started_again_and_filled)
{
	pid_t pid;

	a = node_up("a", NULL);
	store_many(a, 3000);
	WAIT_FOR(node_stats(a).n_refills == 1 && node_stats(a).n_dirty == 0);
	pid = embedded_pid(a->meta->embedded);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);

	WAIT_FOR(node_stats(a).n_redis_restarts == 1);
	WAIT_FOR(node_stats(a).n_refills == 2 && node_stats(a).n_dirty == 0);
	ck_assert(meta_up(a->meta));
	ck_assert_uint_eq(count_found(a, 3000), 3000);
	ck_assert_uint_eq(logged_count("killed by signal 9"), 1);
	pid = embedded_pid(a->meta->embedded);
	node_free(a);
	ck_assert_int_eq(kill(pid, 0), -1);
}
END_TEST

START_TEST(a_private_server_killed_again_and_again_loses_nothing)
{
	a = node_up("a", NULL);
	for (unsigned round = 1; round <= 4; round++) {
		pid_t pid;

		store_many(a, 1000 * round);
		pid = embedded_pid(a->meta->embedded);
		if (pid)
			kill(pid, SIGKILL);
	}
	WAIT_FOR(node_stats(a).n_redis_restarts >= 1);
	/* Counting asks Redis 4000 times: not while it is being filled. */
	WAIT_FOR(meta_up(a->meta) && node_stats(a).n_dirty == 0 &&
		 count_found(a, 4000) == 4000);
	node_free(a);
}
END_TEST

START_TEST(a_private_server_in_a_deep_folder_works)
{
	char deep[300];

	a = node_new("a", NULL);
	memset(deep, 'd', sizeof(deep));
	snprintf(deep, sizeof(deep), "%s", path_of("x"));
	memset(deep + strlen(deep), 'd', 100);
	deep[150] = '\0';
	a->config.state_dir = deep;
	ck_assert_int_eq(node_open(a), 0);
	ck_assert(meta_up(a->meta));
	node_free(a);
}
END_TEST

START_TEST(a_private_server_of_another_daemon_is_left_alone)
{
	a = node_up("a", NULL);
	b = node_new("a", NULL);
	ck_assert_int_eq(node_open(b), -EBUSY);

	ck_assert(meta_up(a->meta));
	ck_assert(logged("another daemon's server"));
	node_free(b);
	node_free(a);
}
END_TEST

START_TEST(a_private_server_ends_with_a_killed_daemon)
{
	int pipe_fd[2];
	pid_t daemon, server = 0;

	ck_assert_int_eq(pipe(pipe_fd), 0);
	daemon = fork();
	if (!daemon) {
		a = node_up("a", NULL);
		server = embedded_pid(a->meta->embedded);
		if (write(pipe_fd[1], &server, sizeof(server)) > 0)
			pause();
		_exit(1);
	}
	ck_assert_int_eq(read(pipe_fd[0], &server, sizeof(server)),
			 sizeof(server));
	kill(daemon, SIGKILL);
	WAIT_FOR(kill(server, 0) != 0);
	a = node_up("a", NULL); /* and its folder can be used again */
	node_free(a);
}
END_TEST

START_TEST(functions_that_redis_lost_are_loaded_again)
{
	struct meta_kv_found f;

	one_node();
	server_text("FUNCTION FLUSH");
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");

	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	node_free(a);
}
END_TEST

/* Another name of the same group, so of the same script call. */
static void neighbour_find(struct key_place of, char path[static 32])
{
	for (unsigned i = 0;; i++) {
		struct key_place p;

		snprintf(path, 32, "ns/n%u", i);
		p = key_place(path + 3, strlen(path + 3), 16);
		if (p.group == of.group && p.sub != of.sub)
			return;
	}
}

START_TEST(a_key_of_another_type_stops_nothing_but_its_own_names)
{
	struct key_place at = key_place("x", 1, 16);
	struct meta_kv_found f;
	char words[128], near[32];

	one_node();
	namespace_of_16_buckets();
	snprintf(words, sizeof(words), "SET kvfs:{ns#%u}:b%u 1", at.group,
		 at.sub);
	server_text(words);
	neighbour_find(at, near);
	node_store(a, "ns/x", 1);
	node_store(a, near, 1);
	node_sync(a, near);
	WAIT_FOR(logged("of another type"));
	snprintf(words, sizeof(words), "DEL kvfs:{ns#%u}:b%u", at.group,
		 at.sub);
	server_text(words);

	node_sync(a, "ns/x");
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	ck_assert_uint_le(logged_count("of another type"), 10);
	node_free(a);
}
END_TEST

START_TEST(an_audit_retracts_what_redis_says_we_hold_and_we_do_not)
{
	struct meta_kv_found f;

	one_node();
	store_many(a, 2000);
	node_store(a, "ns/ghost", 1);
	node_sync(a, "ns/ghost");
	WAIT_FOR(node_stats(a).n_dirty == 0);
	index_loses(a, "ns/ghost");
	meta_kv_audit(a->meta, "the test says so");

	WAIT_FOR(node_stats(a).n_audits == 1);
	WAIT_FOR(node_stats(a).n_dirty == 0);
	ck_assert_int_eq(node_lookup(a, "ns/ghost", &f), -ENOENT);
	ck_assert_uint_eq(count_found(a, 2000), 2000);
	node_free(a);
}
END_TEST

static int64_t next_audit(struct node_under_test *n)
{
	scoped_lock(&n->meta->kv->lock);
	return n->meta->kv->audit_ns;
}

static void audit_at(struct node_under_test *n, int64_t ns)
{
	pthread_mutex_lock(&n->meta->kv->lock);
	n->meta->kv->audit_ns = ns;
	pthread_mutex_unlock(&n->meta->kv->lock);
	meta_kv_wake(n->meta);
}

START_TEST(every_hour_the_index_is_compared_in_a_tenth_of_the_time)
{
	const int64_t hour = 3600 * NS_PER_S;
	struct meta_kv_found f;
	int64_t before = clock_now_ns(), now;

	one_node();
	namespace_of_16_buckets();
	node_store(a, "ns/ghost", 1);
	node_store(a, "ns/lost", 2);
	WAIT_FOR(node_stats(a).n_refills == 1 && !node_stats(a).n_dirty);
	now = clock_now_ns();
	ck_assert_int_ge(next_audit(a), before + hour);
	ck_assert_int_le(next_audit(a), now + hour);
	index_loses(a, "ns/ghost");
	ck_assert(record_lose("lost"));
	scan_measure();
	audit_at(a, now);

	ck_assert_double_ge(scan_pauses(), 9);
	WAIT_FOR(node_stats(a).n_audits == 1 && !node_stats(a).n_dirty);
	ck_assert_int_eq(node_lookup(a, "ns/lost", &f), 0);
	ck_assert_int_eq(node_lookup(a, "ns/ghost", &f), -ENOENT);
	WAIT_FOR(next_audit(a) >= now + hour);
	ck_assert_uint_eq(node_stats(a).n_audits, 1);
	node_free(a);
}
END_TEST

static void stop_at_page(const char *point)
{
	if (strcmp(point, "kv.scan.page") != 0)
		return;
	fault_hook = NULL;
	server_signal(SIGSTOP);
}

START_TEST(an_hourly_audit_that_failed_is_made_up_for_at_once)
{
	uint64_t before;

	server_start(NULL);
	a = node_new("a", server_url());
	a->config.deadline_ms = 300;
	ck_assert_int_eq(node_open(a), 0);
	node_store(a, "ns/x", 1);
	WAIT_FOR(node_stats(a).n_refills == 1 && !node_stats(a).n_dirty);
	before = node_stats(a).n_timeouts;
	fault_hook = stop_at_page;
	audit_at(a, clock_now_ns());
	WAIT_FOR(node_stats(a).n_timeouts > before && !fault_hook);
	server_signal(SIGCONT);

	WAIT_FOR(node_stats(a).n_audits == 1);
	node_free(a);
}
END_TEST

/* Half of the time: names may be wrong until it is through. */
START_TEST(an_audit_that_something_asks_for_takes_half_of_the_time)
{
	one_node();
	node_store(a, "ns/x", 1);
	WAIT_FOR(node_stats(a).n_refills == 1 && !node_stats(a).n_dirty);
	scan_measure();
	meta_kv_audit(a->meta, "the test says so");
	ck_assert_double_ge(scan_pauses(), 1);
	node_free(a);
}
END_TEST

START_TEST(more_dirty_names_than_memory_may_hold_become_an_audit)
{
	const unsigned n_names = 60000;
	char path[900], found[900];
	struct meta_kv_found f;

	server_start(NULL);
	a = node_up("a", server_url());
	store_many(a, 100);
	WAIT_FOR(node_stats(a).n_dirty == 0);
	server_signal(SIGSTOP);
	memset(path, 'p', sizeof(path));
	memcpy(path, "ns/", 3);
	for (unsigned i = 0; i < n_names; i++) {
		snprintf(path + 800, 100, "%u", i);
		meta_kv_dirty(a->meta, path, (uint16_t)strlen(path));
		if (i == n_names / 2) /* more than can be in flight */
			node_store(a, "ns/waits", 1);
	}
	ck_assert_uint_lt(node_stats(a).n_dirty, n_names);
	node_store(a, "ns/late", 1);
	server_signal(SIGCONT);

	WAIT_FOR(node_stats(a).n_audits >= 1);
	WAIT_FOR(node_stats(a).n_dirty == 0);
	ck_assert_int_eq(node_lookup(a, "ns/late", &f), 0);
	ck_assert_int_eq(node_lookup(a, "ns/waits", &f), 0);
	ck_assert_uint_eq(count_found(a, 100), 100);
	ck_assert(logged("dropped for an audit"));
	snprintf(found, sizeof(found), "%s", path);
	ck_assert_int_eq(node_lookup(a, found, &f), -ENOENT);
	node_free(a);
}
END_TEST

START_TEST(a_hundred_thousand_names_are_published_in_bulk)
{
	const unsigned count = 100000;
	int64_t start;
	double s;

	one_node();
	start = clock_now_ns();
	store_many(a, count);
	WAIT_FOR(node_stats(a).n_published >= count);
	s = (double)(clock_now_ns() - start) / NS_PER_S;
	printf("published %u names in %.2f s: %.0f a second, %lld B each\n",
	       count, s, count / s,
	       (long long)atoll(
		       strstr(server_text("INFO memory"), "used_memory:") +
		       12) /
		       count);
	WAIT_FOR(node_stats(a).n_dirty == 0);
	ck_assert_uint_eq(node_stats(a).n_conflicts, 0);
	/* in batches, even where the names come more slowly than they go */
	ck_assert_int_lt(calls_of("fcall"), count / 2);
	ck_assert_int_lt(calls_of("hset"), count / 2);
	node_free(a);
}
END_TEST

/* --- namespaces -------------------------------------------------------- */

START_TEST(namespaces_are_shared_changed_and_removed)
{
	struct meta_namespace ns = {.mode = 040700, .uid = 5};
	struct meta_kv_found f;
	int n = 0;

	two_nodes();
	ck_assert_int_eq(meta_namespace_put(a->meta, 0, "models", &ns, true),
			 0);
	ck_assert_int_eq(meta_namespace_put(b->meta, 0, "models", &ns, true),
			 -EEXIST);
	ns.quota_bytes = 77;
	ck_assert_int_eq(meta_namespace_put(b->meta, 0, "models", &ns, false),
			 0);
	ck_assert_int_eq(meta_namespace_each(a->meta, 0, name_count, &n), 0);
	ck_assert_int_eq(n, 1);

	node_store(a, "models/x", 1);
	node_sync(a, "models/x");
	ck_assert_int_eq(meta_namespace_remove(b->meta, 0, "models"), 0);
	ck_assert_int_eq(meta_namespace_remove(b->meta, 0, "models"), -ENOENT);
	ck_assert_int_eq(node_lookup(b, "models/x", &f), -ENOENT);
	/* DEL of a million names would stall Redis */
	ck_assert_int_gt(calls_of("unlink"), 0);
	ck_assert_int_eq(calls_of("del"), 0);
	two_nodes_end();
}
END_TEST

START_TEST(namespaces_outlive_a_store_that_is_lost)
{
	struct meta_namespace ns = {
		.mode = 040700, .uid = 5, .quota_bytes = 77};
	uint64_t store;
	int n = 0;

	one_node();
	ck_assert_int_eq(meta_namespace_put(a->meta, 0, "models", &ns, true),
			 0);
	store = node_stats(a).store_id;
	server_text("FLUSHALL");
	WAIT_FOR(node_stats(a).store_id != store);
	WAIT_FOR(!meta_namespace_each(a->meta, 0, name_count, &n) && n);

	node_down(a);
	server_text("FLUSHALL");
	ck_assert_int_eq(node_open(a), 0);
	n = 0;
	ck_assert_int_eq(meta_namespace_each(a->meta, 0, name_count, &n), 0);
	ck_assert_int_eq(n, 1);
	node_free(a);
}
END_TEST

/* --- refusals ---------------------------------------------------------- */

static void refused(int err, const char *text)
{
	a = node_new("a", server_url());
	ck_assert_int_eq(node_open(a), err);
	ck_assert_msg(logged(text), "not logged: %s", text);
	node_free(a);
}

START_TEST(a_redis_that_may_evict_is_refused_with_the_command_that_mends_it)
{
	server_start("--maxmemory", "100mb", "--maxmemory-policy",
		     "allkeys-lru", NULL);
	refused(-EINVAL, "redis-cli CONFIG SET maxmemory-policy noeviction");
	server_text("CONFIG SET maxmemory-policy noeviction");
	a = node_up("a", server_url());
	node_free(a);
}
END_TEST

START_TEST(a_redis_that_stops_writes_when_a_save_fails_is_refused)
{
	server_start("--save", "60 1000", NULL);
	refused(-EINVAL, "redis-cli CONFIG SET stop-writes-on-bgsave-error no");
}
END_TEST

static void password_write(const char *text, mode_t mode)
{
	char *path = path_of("password");
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);

	ck_assert_int_eq(fchmod(fd, mode), 0);
	ck_assert_int_gt(dprintf(fd, "%s\n", text), 0);
}

static int open_with_password_file(void)
{
	int err;

	a = node_new("a", server_url());
	a->config.password_file = path_of("password");
	err = node_open(a);
	node_free(a);
	return err;
}

START_TEST(a_password_is_taken_from_a_private_file_or_the_environment)
{
	server_start("--requirepass", "sesame-17", NULL);
	refused(-EACCES, "it wants a password");
	password_write("wrong-19", 0600);
	ck_assert_int_eq(open_with_password_file(), -EACCES);
	ck_assert(logged("the password is not accepted"));
	password_write("sesame-17", 0640);
	ck_assert_int_eq(open_with_password_file(), -EACCES);
	ck_assert(logged("chmod 600"));
	password_write("sesame-17", 0600);
	ck_assert_int_eq(open_with_password_file(), 0);

	setenv("KVFS_REDIS_PASSWORD", "sesame-17", 1);
	a = node_up("b", server_url());
	node_free(a);
	ck_assert(!logged("sesame-17"));
	ck_assert(!logged("wrong-19"));
}
END_TEST

START_TEST(a_user_confined_by_an_acl_to_the_prefix_works)
{
	struct meta_kv_found f;

	server_start("--user", "default", "on", "nopass", "~kvfs:*", "+@all",
		     "-config", "-acl", "-keys", NULL);
	a = node_up("a", server_url());
	node_store(a, "ns/x", 1);
	node_sync(a, "ns/x");
	ck_assert_int_eq(node_lookup(a, "ns/x", &f), 0);
	node_free(a);

	a = node_new("b", server_url());
	a->config.prefix = "other";
	ck_assert_int_eq(node_open(a), -EACCES);
	node_free(a);
}
END_TEST

START_TEST(addresses_that_cannot_work_are_refused_with_a_reason)
{
	static const struct {
		const char *url, *text;
		int err;
	} cases[] = {
		{"rediss://127.0.0.1:1", "Connection refused", -ECONNREFUSED},
		{"redis://u:secret-3@host", "no password in the address",
		 -EINVAL},
		{"http://host", "not redis://", -EINVAL},
		{"redis://127.0.0.1:1", "Connection refused", -ECONNREFUSED},
		{"unix:///nowhere/at/all", "No such file", -ENOENT},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		a = node_new("a", cases[i].url);
		a->config.deadline_ms = 300;
		ck_assert_int_eq(node_open(a), cases[i].err);
		ck_assert_msg(logged(cases[i].text), "%s", cases[i].url);
		node_free(a);
	}
	ck_assert(!logged("secret-3"));
}
END_TEST

/* ----------------------------------------------------------------------- */

static TCase *publishing(void)
{
	TCase *t = tcase_create("publishing");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	tcase_add_test(
		t,
		a_published_block_and_its_directories_are_seen_by_another_node);
	tcase_add_test(t, names_with_any_byte_in_them_are_published);
	tcase_add_test(
		t, the_first_of_two_versions_wins_and_the_other_is_a_conflict);
	tcase_add_test(t, equal_copies_become_replicas_of_one_generation);
	tcase_add_test(
		t, without_checksums_only_the_generation_makes_copies_equal);
	tcase_add_test(
		t,
		new_bytes_under_a_name_that_only_we_held_replace_the_old_record);
	tcase_add_test(t, an_evicted_block_is_retracted_without_a_tombstone);
	tcase_add_test(t, an_evicted_replica_leaves_the_other_holder_listed);
	tcase_add_test(t,
		       an_unlinked_name_stays_gone_for_copies_of_before_only);
	tcase_add_test(
		t, a_full_list_of_holders_takes_no_more_but_the_copy_is_good);
	tcase_add_test(t, a_hundred_thousand_names_are_published_in_bulk);
	return t;
}

static TCase *life(void)
{
	TCase *t = tcase_create("life");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, a_dead_node_s_copies_are_skipped_and_replaced);
	tcase_add_test(
		t,
		a_node_taken_for_dead_joins_anew_and_publishes_everything_again);
	tcase_add_test(
		t, a_restart_within_the_ttl_keeps_the_incarnation_and_audits);
	tcase_add_test(
		t,
		a_restart_after_the_ttl_is_another_life_that_publishes_everything);
	tcase_add_test(t, incarnations_of_a_lost_store_are_not_given_out_again);
	tcase_add_test(
		t, a_pause_of_redis_kills_nobody_but_a_node_s_own_silence_does);
	return t;
}

static TCase *outages(void)
{
	TCase *t = tcase_create("outages");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, names_changed_often_while_redis_sleeps_are_sent_once);
	tcase_add_test(
		t, waits_end_at_the_deadline_and_a_lookup_then_does_not_wait);
	tcase_add_test(t, a_namespace_is_changed_once_a_late_redis_answers);
	tcase_add_test(t, a_flushed_store_is_filled_again);
	tcase_add_test(
		t, a_store_that_was_started_again_is_compared_with_the_index);
	tcase_add_test(t, functions_that_redis_lost_are_loaded_again);
	tcase_add_test(t,
		       a_key_of_another_type_stops_nothing_but_its_own_names);
	return t;
}

static TCase *audits(void)
{
	TCase *t = tcase_create("audits");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	tcase_add_test(t,
		       an_audit_retracts_what_redis_says_we_hold_and_we_do_not);
	tcase_add_test(t,
		       every_hour_the_index_is_compared_in_a_tenth_of_the_time);
	tcase_add_test(t, an_hourly_audit_that_failed_is_made_up_for_at_once);
	tcase_add_test(t,
		       an_audit_that_something_asks_for_takes_half_of_the_time);
	tcase_add_test(t,
		       more_dirty_names_than_memory_may_hold_become_an_audit);
	return t;
}

static TCase *private_server(void)
{
	TCase *t = tcase_create("private server");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, a_killed_private_server_is_started_again_and_filled);
	tcase_add_test(t,
		       a_private_server_killed_again_and_again_loses_nothing);
	tcase_add_test(t, a_private_server_in_a_deep_folder_works);
	tcase_add_test(t, a_private_server_of_another_daemon_is_left_alone);
	tcase_add_test(t, a_private_server_ends_with_a_killed_daemon);
	return t;
}

static TCase *mounting(void)
{
	TCase *t = tcase_create("mounting");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, namespaces_are_shared_changed_and_removed);
	tcase_add_test(t, namespaces_outlive_a_store_that_is_lost);
	tcase_add_test(
		t,
		a_redis_that_may_evict_is_refused_with_the_command_that_mends_it);
	tcase_add_test(t,
		       a_redis_that_stops_writes_when_a_save_fails_is_refused);
	tcase_add_test(
		t, a_password_is_taken_from_a_private_file_or_the_environment);
	tcase_add_test(t, a_user_confined_by_an_acl_to_the_prefix_works);
	tcase_add_test(t, addresses_that_cannot_work_are_refused_with_a_reason);
	return t;
}

int main(void)
{
	Suite *s = suite_create("meta");

	suite_add_tcase(s, publishing());
	suite_add_tcase(s, life());
	suite_add_tcase(s, outages());
	suite_add_tcase(s, audits());
	suite_add_tcase(s, private_server());
	suite_add_tcase(s, mounting());
	return fixture_run(s);
}

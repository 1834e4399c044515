// SPDX-License-Identifier: MIT
/* The ckpt tree on several nodes: who has which shards, who writes. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "meta/ckpt.h"
#include "meta/ckpt_call.h"
#include "meta/internal.h"
#include "meta/node.h"
#include "meta/node_impl.h"
#include "meta_fixture.h"

static pthread_mutex_t tier_lock = PTHREAD_MUTEX_INITIALIZER;

/* What a node has of the one file that a test is about; under tier_lock. */
struct tier {
	uint64_t ino, version;
	size_t n;
	uint8_t bits[4];
	_Atomic unsigned n_asked;
};

static struct node_under_test *a, *b;
static struct tier of_a, of_b;

static size_t tier_shards(void *ctx, uint64_t ino, uint64_t *version,
			  uint8_t *bits)
{
	struct tier *t = ctx;
	scoped_lock(&tier_lock);

	t->n_asked++;
	if (ino != t->ino)
		return 0;
	*version = t->version;
	memcpy(bits, t->bits, t->n);
	return t->n;
}

static void tier_each(void *ctx, void (*fn)(void *arg, uint64_t ino), void *arg)
{
	struct tier *t = ctx;
	uint64_t ino;

	pthread_mutex_lock(&tier_lock);
	ino = t->ino;
	pthread_mutex_unlock(&tier_lock);
	if (ino)
		fn(arg, ino);
}

static const struct meta_ckpt_ops ops = {.shards = tier_shards,
					 .shards_each = tier_each};

static struct node_under_test *tier_up(const char *name, struct tier *t)
{
	struct node_under_test *n = node_new(name, server_url());

	memset(t, 0, sizeof(*t));
	n->config.ckpt_ops = &ops;
	n->config.ckpt_ctx = t;
	ck_assert_int_eq(node_open(n), 0);
	return n;
}

static void nodes_up(void)
{
	server_start(NULL);
	a = tier_up("a", &of_a);
	b = tier_up("b", &of_b);
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

static struct ckpt_attr make(struct node_under_test *n, const char *name)
{
	struct ckpt_attr set = {.mode = S_IFREG | 0644}, attr;

	ck_assert_int_eq(
		ckpt_create(n->meta, 0, CKPT_ROOT_INO, name, &set, NULL, &attr),
		0);
	return attr;
}

static struct ckpt_attr write_all(struct node_under_test *n, uint64_t ino,
				  uint64_t size)
{
	struct ckpt_attr attr, set = {.size_bytes = size};

	ck_assert_int_eq(ckpt_open_write(n->meta, 0, ino, &attr), 0);
	ck_assert_uint_eq(attr.writer, self(n));
	ck_assert_int_eq(
		ckpt_publish(n->meta, 0, ino, CKPT_SET_SIZE, &set, true, &attr),
		0);
	ck_assert_uint_eq(attr.writer, 0);
	return attr;
}

/* What somebody is told of one node. */
struct seen {
	uint32_t incarnation;
	unsigned n, n_of_it;
	bool whole;
	uint8_t first;
};

static void see(void *arg, const struct ckpt_holder *h)
{
	struct seen *s = arg;

	s->n++;
	if (h->incarnation != s->incarnation)
		return;
	s->n_of_it++;
	s->whole = h->whole;
	s->first = h->whole ? 0 : h->bits[0];
}

static struct seen holders(struct node_under_test *n, uint64_t ino,
			   uint64_t version, struct node_under_test *of)
{
	struct seen s = {.incarnation = self(of)};

	ck_assert_int_eq(ckpt_holders(n->meta, 0, ino, version, see, &s), 0);
	return s;
}

static void have(struct node_under_test *n, struct tier *t, uint64_t ino,
		 uint64_t version, uint8_t bits)
{
	pthread_mutex_lock(&tier_lock);
	t->ino = ino;
	t->version = version;
	t->bits[0] = bits;
	t->n = bits ? 1 : 0;
	pthread_mutex_unlock(&tier_lock);
	ckpt_shards_dirty(n->meta, ino);
}

START_TEST(who_published_a_version_has_all_of_it_at_once)
{
	struct ckpt_attr f;
	struct seen s;

	nodes_up();
	f = make(a, "f");
	f = write_all(a, f.ino, 1 << 20);
	s = holders(b, f.ino, f.version, a);
	ck_assert_uint_eq(s.n, 1);
	ck_assert(s.n_of_it == 1 && s.whole);
	ck_assert_int_eq(
		ckpt_holders(b->meta, 0, f.ino, f.version + 1, see, &s),
		-ESTALE);
	ck_assert_int_eq(ckpt_holders(b->meta, 0, 99, 1, see, &s), -ESTALE);
	nodes_down();
}
END_TEST

START_TEST(shards_that_a_node_has_are_told_and_taken_back)
{
	struct ckpt_attr f;

	nodes_up();
	f = write_all(a, make(a, "f").ino, 1 << 20);
	have(b, &of_b, f.ino, f.version, 5);
	WAIT_FOR(holders(a, f.ino, f.version, b).first == 5);
	ck_assert_uint_eq(holders(a, f.ino, f.version, b).n, 2);
	have(b, &of_b, f.ino, f.version, 0);
	WAIT_FOR(holders(a, f.ino, f.version, b).n_of_it == 0);
	ck_assert_uint_eq(holders(a, f.ino, f.version, b).n, 1);
	nodes_down();
}
END_TEST

START_TEST(many_changes_are_told_as_one)
{
	struct ckpt_attr f;

	nodes_up();
	f = write_all(a, make(a, "f").ino, 1 << 20);
	for (unsigned i = 1; i <= 200; i++)
		have(b, &of_b, f.ino, f.version, (uint8_t)i);
	WAIT_FOR(holders(a, f.ino, f.version, b).first == 200);
	ck_assert_uint_le(of_b.n_asked, 5);
	nodes_down();
}
END_TEST

START_TEST(shards_of_an_older_version_are_nobody_s)
{
	struct ckpt_attr f;

	nodes_up();
	f = write_all(a, make(a, "f").ino, 1 << 20);
	have(b, &of_b, f.ino, f.version, 5);
	WAIT_FOR(holders(a, f.ino, f.version, b).first == 5);
	f = write_all(a, f.ino, 1 << 21);
	ck_assert_uint_eq(holders(b, f.ino, f.version, b).n_of_it, 0);
	ck_assert_uint_eq(holders(b, f.ino, f.version, a).n_of_it, 1);
	ckpt_shards_dirty(b->meta, f.ino); /* it says the same, late */
	WAIT_FOR(of_b.n_asked >= 2);
	ck_assert_uint_eq(holders(b, f.ino, f.version, b).n_of_it, 0);
	nodes_down();
}
END_TEST

START_TEST(a_writer_s_shards_are_withdrawn_before_its_open_returns)
{
	struct ckpt_attr f, attr;

	nodes_up();
	f = write_all(a, make(a, "f").ino, 1 << 20);
	have(b, &of_b, f.ino, f.version, 7);
	WAIT_FOR(holders(a, f.ino, f.version, b).first == 7);
	ck_assert_int_eq(ckpt_open_write(b->meta, 0, f.ino, &attr), 0);
	ck_assert_uint_eq(holders(a, f.ino, f.version, b).n_of_it, 0);
	ck_assert_uint_eq(holders(a, f.ino, f.version, a).n_of_it, 1);

	/* nothing was written: what it has is true again */
	ck_assert_int_eq(ckpt_publish(b->meta, 0, f.ino, 0, &attr, true, &attr),
			 0);
	ck_assert_uint_eq(attr.version, f.version);
	WAIT_FOR(holders(a, f.ino, f.version, b).first == 7);
	nodes_down();
}
END_TEST

START_TEST(a_dead_node_has_no_shards)
{
	struct meta_self none = {.n_addrs = 0};
	struct ckpt_attr f;
	char words[64];
	uint32_t dead;

	nodes_up();
	f = write_all(a, make(a, "f").ino, 1 << 20);
	dead = self(a);
	a->meta->embedded = (void *)1;
	meta_node_stop(a->meta);
	a->meta->embedded = NULL;
	snprintf(words, sizeof(words), "ZADD kvfs:{n}:live 1 %u", dead);
	server_text(words);
	meta_node_announce(b->meta, &none);
	WAIT_FOR(!meta_node_is_live(b->meta, dead));
	ck_assert_uint_eq(holders(b, f.ino, f.version, a).n, 0);
	nodes_down();
}
END_TEST

START_TEST(a_store_that_lost_the_shards_is_told_again)
{
	struct ckpt_attr f;
	uint64_t store;

	nodes_up();
	f = write_all(a, make(a, "f").ino, 1 << 20);
	have(a, &of_a, f.ino, f.version, 3);
	WAIT_FOR(holders(b, f.ino, f.version, a).first == 3);
	make(b, "g"); /* either may load the tree again: both know all of it */
	store = node_stats(a).store_id;
	server_text("FLUSHALL");
	WAIT_FOR(node_stats(a).store_id != store &&
		 !node_stats(a).ckpt_read_only &&
		 node_stats(b).store_id != store &&
		 !node_stats(b).ckpt_read_only);
	WAIT_FOR(holders(b, f.ino, f.version, a).first == 3);
	nodes_down();
}
END_TEST

START_TEST(a_removed_file_leaves_no_shards_behind)
{
	struct ckpt_attr f;
	struct ckpt_gone gone;

	nodes_up();
	f = write_all(a, make(a, "f").ino, 1 << 20);
	ck_assert_int_eq(ckpt_unlink(b->meta, 0, CKPT_ROOT_INO, "f", NULL, NULL,
				     1, &gone),
			 0);
	WAIT_FOR(!server_int("EXISTS kvfs:{c}:i2"));
	ck_assert_int_eq(server_int("EXISTS kvfs:{c}:h2"), 0);
	ck_assert_uint_eq(f.ino, 2);
	nodes_down();
}
END_TEST

/* --- locks ------------------------------------------------------------- */

static int lock(struct node_under_test *n, uint64_t ino, int type,
		uint64_t owner, uint64_t start, uint64_t end)
{
	struct ckpt_lock l = {.type = type,
			      .owner = owner,
			      .start = start,
			      .end = end,
			      .pid = 77};

	return ckpt_lock_set(n->meta, 0, ino, &l);
}

START_TEST(ranges_that_one_node_locks_are_locked_on_the_other)
{
	struct ckpt_lock l = {.type = F_RDLCK, .owner = 1, .end = 500};
	uint64_t f;

	nodes_up();
	f = make(a, "f").ino;
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 100, 199), 0);
	ck_assert_int_eq(lock(b, f, F_RDLCK, 1, 199, 300), -EAGAIN);
	ck_assert_int_eq(lock(b, f, F_RDLCK, 1, 200, CKPT_LOCK_END), 0);
	ck_assert_int_eq(lock(a, f, F_RDLCK, 2, 200, 300), 0);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 2, 200, 300), -EAGAIN);
	ck_assert_int_eq(lock(a, 99, F_WRLCK, 2, 200, 300), -ESTALE);

	ck_assert_int_eq(ckpt_lock_get(b->meta, 0, f, &l), 0);
	ck_assert_int_eq(l.type, F_WRLCK);
	ck_assert_uint_eq(l.start, 100);
	ck_assert_uint_eq(l.end, 199);
	ck_assert_uint_eq(l.pid, 77);
	ck_assert_uint_eq(l.incarnation, self(a));

	/* a hole in the middle */
	ck_assert_int_eq(lock(a, f, F_UNLCK, 1, 120, 149), 0);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 120, 149), 0);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 119, 119), -EAGAIN);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 150, 150), -EAGAIN);
	nodes_down();
}
END_TEST

START_TEST(both_kinds_of_locks_are_apart_and_close_drops_both)
{
	struct ckpt_lock whole = {.kind = CKPT_LOCK_FLOCK,
				  .type = F_WRLCK,
				  .owner = 1,
				  .end = CKPT_LOCK_END};
	uint64_t f;

	nodes_up();
	f = make(a, "f").ino;
	ck_assert_int_eq(ckpt_lock_set(a->meta, 0, f, &whole), 0);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), 0);
	ck_assert_int_eq(ckpt_lock_set(b->meta, 0, f, &whole), -EAGAIN);
	ck_assert(ckpt_lock_drop(a->meta, 0, f, 1));
	ck_assert(!ckpt_lock_drop(a->meta, 0, f, 1));
	ck_assert_int_eq(ckpt_lock_set(b->meta, 0, f, &whole), 0);
	ck_assert(ckpt_lock_drop(b->meta, 0, f, 1));
	ck_assert_int_eq(server_int("EXISTS kvfs:{c}:l2"), 0);
	nodes_down();
}
END_TEST

START_TEST(what_came_through_a_handle_ends_with_it)
{
	struct ckpt_lock l = {.type = F_RDLCK,
			      .owner = 1,
			      .handle = 7,
			      .end = 9,
			      .leaves_late = true};
	uint64_t f;

	nodes_up();
	f = make(a, "f").ino;
	ck_assert_int_eq(ckpt_lock_set(a->meta, 0, f, &l), 0);
	ck_assert(!ckpt_lock_leaving(a->meta, f, 1));
	ck_assert(ckpt_lock_leaving(a->meta, f, 2));
	ck_assert(!ckpt_lock_has(a->meta, f, 8));
	ck_assert(!ckpt_lock_close(a->meta, 0, f, 8));
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), -EAGAIN);
	ck_assert(ckpt_lock_has(a->meta, f, 7));
	ck_assert(ckpt_lock_close(a->meta, 0, f, 7));
	ck_assert(!ckpt_lock_has(a->meta, f, 7));
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), 0);
	nodes_down();
}
END_TEST

START_TEST(a_refused_lock_leaves_nothing_to_end)
{
	uint64_t f;

	nodes_up();
	f = make(a, "f").ino;
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), 0);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), -EAGAIN);
	ck_assert(!ckpt_lock_drop(b->meta, 0, f, 1));
	nodes_down();
}
END_TEST

START_TEST(a_dead_node_s_lock_is_taken_and_it_is_told_so)
{
	struct meta_self none = {.n_addrs = 0};
	uint32_t before;
	char words[64];
	uint64_t f;

	nodes_up();
	f = make(a, "f").ino;
	before = self(a);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), 0);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), -EAGAIN);
	snprintf(words, sizeof(words), "ZREM kvfs:{n}:live %u", before);
	server_text(words);
	meta_node_announce(a->meta, &none);
	WAIT_FOR(self(a) != before);

	WAIT_FOR(lock(b, f, F_WRLCK, 1, 0, 9) == 0);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), -EIO);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 20, 29), -EIO);
	ck_assert_int_eq(lock(a, f, F_UNLCK, 1, 0, CKPT_LOCK_END), 0);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 20, 29), 0);
	snprintf(words, sizeof(words), "EXISTS kvfs:{c}:k%u", before);
	ck_assert_int_eq(ckpt_lock_reset(b->meta), 0);
	ck_assert_int_eq(server_int(words), 0);
	nodes_down();
}
END_TEST

/* The first heartbeat that comes by is a's; it may be held. */
static _Atomic bool heart_held, answer_lies;
static _Atomic pthread_t heart;
static _Atomic unsigned n_held;
static pthread_t locking;

static void goes_unheard(struct node_under_test *n)
{
	n->meta->node->beat_ns -=
		9 * NS_PER_S; /* the TTL, and one for clocks */
}

static void taken_for_dead(struct node_under_test *n)
{
	char words[64];

	snprintf(words, sizeof(words), "ZREM kvfs:{n}:live %u", self(n));
	ck_assert_int_eq(server_int(words), 1);
	goes_unheard(n);
}

static void unheard_look(const char *point)
{
	if (!strcmp(point, "ckpt.answered") && answer_lies &&
	    pthread_equal(locking, pthread_self())) {
		answer_lies = false;
		taken_for_dead(a);
	}
	if (strcmp(point, "node.beat") != 0)
		return;
	if (!heart)
		heart = pthread_self();
	if (!heart_held || !pthread_equal(heart, pthread_self()))
		return;
	n_held++;
	while (heart_held)
		wait_ms(1);
}

static void one_node_up(void)
{
	heart = 0;
	n_held = 0;
	locking = pthread_self();
	heart_held = answer_lies = false;
	fault_hook = unheard_look;
	server_start(NULL);
	a = tier_up("a", &of_a);
}

static void heart_hold(void)
{
	struct meta_self none = {.n_addrs = 0};

	heart_held = true;
	meta_node_announce(a->meta, &none);
	WAIT_FOR(n_held);
}

static int lock_soon(struct node_under_test *n, uint64_t ino, uint64_t owner,
		     uint64_t at)
{
	struct ckpt_lock l = {
		.type = F_WRLCK, .owner = owner, .start = at, .end = at};

	return ckpt_lock_set(n->meta, clock_now_ns() + 200 * NS_PER_MS, ino,
			     &l);
}

START_TEST(a_node_that_may_be_dead_takes_no_lock_until_it_knows)
{
	uint32_t before;
	uint64_t f;

	one_node_up();
	f = make(a, "f").ino;
	before = self(a);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), 0);
	heart_hold();
	taken_for_dead(a);
	b = tier_up("b", &of_b);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), 0);

	ck_assert_int_eq(lock_soon(a, f, 1, 20), -EIO);
	ck_assert_int_eq(lock_soon(a, f, 2, 20), -EIO);
	ck_assert_uint_eq(self(a), before);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 20, 20), 0);
	heart_held = false;
	ck_assert_int_eq(lock(a, f, F_WRLCK, 3, 40, 40), 0);
	ck_assert_uint_ne(self(a), before);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 40, 40), -EAGAIN);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 30, 30), -EIO);
	nodes_down();
}
END_TEST

START_TEST(a_lock_that_was_given_to_a_dead_node_is_lost)
{
	uint64_t f;

	one_node_up();
	f = make(a, "f").ino;
	answer_lies = true;
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), -EIO);
	ck_assert(logged("lost its lock"));
	ck_assert_int_eq(lock(a, f, F_UNLCK, 1, 0, CKPT_LOCK_END), 0);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), 0);
	node_free(a);
}
END_TEST

START_TEST(a_node_that_is_late_and_alive_keeps_its_locks)
{
	uint32_t before;
	uint64_t f;

	one_node_up();
	f = make(a, "f").ino;
	before = self(a);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), 0);
	goes_unheard(a);
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 20, 29), 0);
	ck_assert_uint_eq(self(a), before);
	b = tier_up("b", &of_b);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), -EAGAIN);
	nodes_down();
}
END_TEST

START_TEST(a_daemon_that_begins_has_no_locks)
{
	uint64_t f, g;

	nodes_up();
	f = make(a, "f").ino;
	g = make(a, "g").ino;
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), 0);
	ck_assert_int_eq(lock(a, g, F_RDLCK, 2, 0, 9), 0);
	ck_assert_int_eq(lock(b, g, F_RDLCK, 3, 0, 9), 0);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), -EAGAIN);

	/* killed, and back under the same incarnation */
	ck_assert_int_eq(ckpt_lock_reset(a->meta), 0);

	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), 0);
	ck_assert_int_eq(lock(b, g, F_WRLCK, 3, 0, 9), 0);
	ck_assert_int_eq(lock(a, g, F_RDLCK, 4, 0, 9), -EAGAIN);
	nodes_down();
}
END_TEST

START_TEST(an_end_that_redis_was_not_told_is_told_before_the_next_lock)
{
	uint64_t f;

	nodes_up();
	f = make(a, "f").ino;
	ck_assert_int_eq(lock(a, f, F_WRLCK, 1, 0, 9), 0);
	server_text("CLIENT PAUSE 400 ALL");
	ck_assert(ckpt_lock_drop(a->meta, clock_now_ns() + 1, f, 1));
	WAIT_FOR(lock(a, f, F_RDLCK, 1, 0, 9) == 0);
	ck_assert_int_eq(lock(b, f, F_RDLCK, 1, 0, 9), 0);
	ck_assert_int_eq(lock(b, f, F_WRLCK, 1, 0, 9), -EAGAIN);
	nodes_down();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		who_published_a_version_has_all_of_it_at_once,
		shards_that_a_node_has_are_told_and_taken_back,
		many_changes_are_told_as_one,
		shards_of_an_older_version_are_nobody_s,
		a_writer_s_shards_are_withdrawn_before_its_open_returns,
		a_dead_node_has_no_shards,
		a_store_that_lost_the_shards_is_told_again,
		a_removed_file_leaves_no_shards_behind,
		ranges_that_one_node_locks_are_locked_on_the_other,
		both_kinds_of_locks_are_apart_and_close_drops_both,
		what_came_through_a_handle_ends_with_it,
		a_refused_lock_leaves_nothing_to_end,
		a_dead_node_s_lock_is_taken_and_it_is_told_so,
		a_node_that_may_be_dead_takes_no_lock_until_it_knows,
		a_lock_that_was_given_to_a_dead_node_is_lost,
		a_node_that_is_late_and_alive_keeps_its_locks,
		a_daemon_that_begins_has_no_locks,
		an_end_that_redis_was_not_told_is_told_before_the_next_lock,
	};
	Suite *s = suite_create("ckpt nodes");
	TCase *t = tcase_create("nodes");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 120);
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++)
		tcase_add_test(t, tests[i]);
	suite_add_tcase(s, t);
	return fixture_run(s);
}

// SPDX-License-Identifier: MIT
#include "meta/members.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "meta/internal.h"
#include "meta/member.h"
#include "meta/node.h"
#include "meta/nodes.h"
#include "meta/record.h"

/* A cluster of that many nodes is none of ours. */
#define NODES_MAX 100000u

struct entry {
	struct meta_node node;
	int64_t load_ns; /* when its load figures were true */
	bool cut;	 /* Redis does not hear of it; we do */
};

/* Ascending by incarnation. */
struct table {
	struct entry *entries;
	size_t n;
};

struct usage {
	uint64_t bytes;
	char ns[RECORD_NAME_MAX + 1];
};

struct members {
	pthread_mutex_t lock; /* a leaf; guards the next six */
	struct table now;
	uint64_t version; /* of the membership, as in `now` */
	uint64_t known;	  /* newest incarnation when it was fetched */
	uint64_t n_deaths;
	struct usage *usage;
	size_t n_usage;

	struct table told; /* the heartbeat's: what the owner knows */
};

/* --- tables ------------------------------------------------------------ */

static int by_incarnation(const void *a, const void *b)
{
	uint32_t x = ((const struct entry *)a)->node.incarnation;
	uint32_t y = ((const struct entry *)b)->node.incarnation;

	return x < y ? -1 : x > y;
}

static struct entry *find(const struct table *t, uint32_t incarnation)
{
	size_t low = 0, high = t->n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (t->entries[mid].node.incarnation < incarnation)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == t->n || t->entries[low].node.incarnation != incarnation)
		return NULL;
	return &t->entries[low];
}

/* … of those that Redis hears of. */
static struct entry *find_live(const struct table *t, uint32_t incarnation)
{
	struct entry *e = find(t, incarnation);

	return e && !e->cut ? e : NULL;
}

static size_t count_live(const struct table *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->n; i++)
		n += !t->entries[i].cut;
	return n;
}

static int table_copy(struct table *to, const struct table *from)
{
	struct entry *e = calloc(from->n + 1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	if (from->n)
		memcpy(e, from->entries, from->n * sizeof(*e));
	free(to->entries);
	*to = (struct table){e, from->n};
	return 0;
}

static bool record_equal(const struct meta_node *a, const struct meta_node *b)
{
	return !strcmp(a->uuid, b->uuid) && !strcmp(a->name, b->name) &&
	       !strcmp(a->host, b->host) &&
	       !memcmp(&a->self, &b->self, sizeof(a->self));
}

/* --- what Redis says --------------------------------------------------- */

/* A record that is none leaves a node that is alive and not reachable. */
static bool entry_read(struct entry *e, const struct redis_reply *inc,
		       const struct redis_reply *record, uint32_t me)
{
	const char *text = "";
	size_t n = 0;
	uint64_t v;

	if (redis_reply_uint(inc, &v) || !v || v > UINT32_MAX)
		return false;
	redis_reply_str(record, &text, &n);
	if (member_decode(text, n, &e->node))
		log_warn("nodes: the record of node %llu is damaged",
			 (unsigned long long)v);
	e->node.incarnation = (uint32_t)v;
	e->node.is_self = v == me;
	return true;
}

static int table_read(struct meta *m, struct table *t,
		      const struct redis_reply *live,
		      const struct redis_reply *records)
{
	size_t count = redis_reply_count(live);

	if (count > NODES_MAX)
		return -EPROTO;
	t->entries = calloc(count + 1, sizeof(*t->entries));
	if (!t->entries)
		return -ENOMEM;
	t->n = 0;
	for (size_t i = 0; i < count; i++)
		t->n += entry_read(&t->entries[t->n], redis_reply_at(live, i),
				   redis_reply_at(records, i),
				   meta_node_self(m));
	qsort(t->entries, t->n, sizeof(*t->entries), by_incarnation);
	return 0;
}

/* --- who is only cut off ----------------------------------------------- */

static bool is_reached(struct meta *m, const struct meta_node *node)
{
	return !node->is_self && m->node_ops && m->node_ops->reached &&
	       m->node_ops->reached(m->node_ctx, node);
}

static bool has_joined_anew(const struct table *t, const char *uuid)
{
	for (size_t i = 0; i < t->n; i++)
		if (!strcmp(t->entries[i].node.uuid, uuid))
			return true;
	return false;
}

static void keep(struct table *t, const struct entry *e)
{
	struct entry *more =
		realloc(t->entries, (t->n + 1) * sizeof(*t->entries));

	if (!more)
		return;
	t->entries = more;
	t->entries[t->n] = *e;
	t->entries[t->n++].cut = true;
}

/* Those that are missing in t, and answer. */
static int keep_reached(struct meta *m, struct table *t)
{
	struct members *s = m->members;
	struct table was = {0};
	size_t n_live = t->n;
	int err;

	pthread_mutex_lock(&s->lock);
	err = table_copy(&was, &s->now);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; !err && i < was.n; i++) {
		const struct entry *e = &was.entries[i];

		if (has_joined_anew(t, e->node.uuid) ||
		    !is_reached(m, &e->node))
			continue;
		if (!e->cut)
			log_info("nodes: redis no longer hears of %s, which "
				 "answers: what it holds is still fetched",
				 e->node.name);
		keep(t, e);
	}
	free(was.entries);
	if (t->n > n_live)
		qsort(t->entries, t->n, sizeof(*t->entries), by_incarnation);
	return err;
}

/* Take the new table over; what was heard of a node's load stays. */
static void table_replace(struct members *s, struct table *t, uint64_t version,
			  uint64_t known)
{
	struct table old;

	pthread_mutex_lock(&s->lock);
	old = s->now;
	for (size_t i = 0; i < t->n; i++) {
		struct entry *e = &t->entries[i];
		struct entry *was = find(&old, e->node.incarnation);

		if (!was)
			continue;
		e->node.has_load = was->node.has_load;
		e->node.load = was->node.load;
		e->load_ns = was->load_ns;
	}
	for (size_t i = 0; i < old.n; i++)
		s->n_deaths += !old.entries[i].cut &&
			       !find_live(t, old.entries[i].node.incarnation);
	s->now = *t;
	s->version = version;
	s->known = known;
	pthread_mutex_unlock(&s->lock);
	free(old.entries);
}

int meta_members_fetch(struct meta *m, int64_t deadline)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	uint64_t version, known;
	struct table t = {0};
	int err;

	meta_fcall(&c, "node_members", 1);
	meta_cmd_key(&c, m, "n", "%s", "");
	err = meta_call_wait(m, META_LOOKUP, "n", deadline, &c, &reply);
	if (err)
		return err;
	if (redis_reply_uint(redis_reply_at(reply, 0), &version) ||
	    redis_reply_uint(redis_reply_at(reply, 1), &known))
		return -EPROTO;
	err = table_read(m, &t, redis_reply_at(reply, 2),
			 redis_reply_at(reply, 3));
	if (!err)
		err = keep_reached(m, &t);
	if (!err)
		table_replace(m->members, &t, version, known);
	else
		free(t.entries);
	return err;
}

static void load_heard(struct table *t, uint64_t redis_ms, uint64_t inc,
		       const char *text, size_t n)
{
	const char *blank = memchr(text, ' ', n);
	struct entry *e = inc <= UINT32_MAX ? find(t, (uint32_t)inc) : NULL;
	struct meta_load load;
	uint64_t stamp = 0;

	if (!e || !blank ||
	    member_load_decode(blank + 1, n - (size_t)(blank + 1 - text),
			       &load))
		return;
	for (const char *p = text; p < blank; p++)
		stamp = stamp * 10 + (uint64_t)(*p - '0');
	e->node.load = load;
	e->node.has_load = true;
	e->load_ns = clock_now_ns();
	if (stamp < redis_ms && redis_ms - stamp < NODE_TTL_MS * 2)
		e->load_ns -= (int64_t)(redis_ms - stamp) * NS_PER_MS;
}

static struct usage *usage_read(const struct redis_reply *list, size_t *count)
{
	size_t n = redis_reply_count(list) / 2;
	struct usage *u = calloc(n + 1, sizeof(*u));

	*count = 0;
	for (size_t i = 0; u && i < n; i++) {
		const char *ns;
		size_t len;

		if (redis_reply_str(redis_reply_at(list, 2 * i), &ns, &len) ||
		    !record_ns_name_good(ns, len) ||
		    redis_reply_uint(redis_reply_at(list, 2 * i + 1),
				     &u[*count].bytes))
			continue;
		memcpy(u[*count].ns, ns, len);
		u[(*count)++].ns[len] = '\0';
	}
	return u;
}

void meta_members_heard(struct meta *m, uint64_t redis_ms,
			const struct redis_reply *load,
			const struct redis_reply *usage)
{
	struct members *s = m->members;
	size_t n_usage;
	struct usage *u = usage_read(usage, &n_usage);

	scoped_lock(&s->lock);
	for (size_t i = 0; i + 1 < redis_reply_count(load); i += 2) {
		const char *text;
		uint64_t inc;
		size_t n;

		if (!redis_reply_uint(redis_reply_at(load, i), &inc) &&
		    !redis_reply_str(redis_reply_at(load, i + 1), &text, &n))
			load_heard(&s->now, redis_ms, inc, text, n);
	}
	if (!u)
		return;
	free(s->usage);
	s->usage = u;
	s->n_usage = n_usage;
}

/* --- telling ----------------------------------------------------------- */

static void tell(struct meta *m, const struct meta_node *node, bool up)
{
	if (!node->is_self && m->node_ops && m->node_ops->change)
		m->node_ops->change(m->node_ctx, node, up);
}

/* Those that were kept and have fallen silent go. */
static void drop_silent(struct meta *m)
{
	struct members *s = m->members;
	struct table *now = &s->now; /* written by this thread only */
	size_t n = 0;

	if (count_live(now) == now->n)
		return;
	for (size_t i = 0; i < now->n; i++) {
		struct entry *e = &now->entries[i];
		bool stays = !e->cut || is_reached(m, &e->node);

		scoped_lock(&s->lock);
		if (stays)
			now->entries[n++] = *e;
	}
	scoped_lock(&s->lock);
	now->n = n;
}

void meta_members_tell(struct meta *m)
{
	struct members *s = m->members;
	struct table new = {0}, *old = &s->told;
	int err;

	drop_silent(m);
	pthread_mutex_lock(&s->lock);
	err = table_copy(&new, &s->now);
	pthread_mutex_unlock(&s->lock);
	if (err)
		return; /* with the next beat */
	for (size_t i = 0; i < old->n; i++)
		if (!find(&new, old->entries[i].node.incarnation))
			tell(m, &old->entries[i].node, false);
	for (size_t i = 0; i < new.n; i++) {
		const struct meta_node *node = &new.entries[i].node;
		struct entry *was = find(old, node->incarnation);

		if (!was || !record_equal(&was->node, node))
			tell(m, node, true);
	}
	free(old->entries);
	*old = new;
}

/* --- asking ------------------------------------------------------------ */

static void node_fill(const struct entry *e, struct meta_node *node)
{
	*node = e->node;
	if (e->node.has_load)
		node->load_age_ms = (clock_now_ns() - e->load_ns) / NS_PER_MS;
}

unsigned meta_nodes(struct meta *m,
		    bool (*fn)(void *arg, const struct meta_node *node),
		    void *arg)
{
	struct members *s = m->members;
	struct table t = {0};
	struct meta_node node;
	unsigned n = 0;
	int err;

	pthread_mutex_lock(&s->lock);
	err = table_copy(&t, &s->now);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; !err && i < t.n; i++) {
		if (t.entries[i].cut)
			continue;
		node_fill(&t.entries[i], &node);
		n++;
		if (!fn(arg, &node))
			break;
	}
	free(t.entries);
	return n;
}

bool meta_node_get(struct meta *m, uint32_t incarnation, struct meta_node *node)
{
	struct members *s = m->members;
	struct entry *e;

	scoped_lock(&s->lock);
	e = find(&s->now, incarnation);
	if (e)
		node_fill(e, node);
	return e;
}

bool meta_node_is_live(struct meta *m, uint32_t incarnation)
{
	struct members *s = m->members;

	scoped_lock(&s->lock);
	return incarnation > s->known || find_live(&s->now, incarnation);
}

bool meta_node_is_reached(struct meta *m, uint32_t incarnation)
{
	struct members *s = m->members;

	scoped_lock(&s->lock);
	return incarnation > s->known || find(&s->now, incarnation);
}

uint32_t meta_nodes_hosts(struct meta *m, const uint32_t *incarnations,
			  uint32_t n)
{
	struct members *s = m->members;
	uint32_t count = 0;

	scoped_lock(&s->lock);
	for (uint32_t i = 0; i < n; i++) {
		struct entry *e = find_live(&s->now, incarnations[i]);
		bool fresh = e;

		for (uint32_t j = 0; fresh && j < i; j++) {
			struct entry *o = find_live(&s->now, incarnations[j]);

			fresh = !o || strcmp(o->node.host, e->node.host) != 0;
		}
		count += fresh;
	}
	return count;
}

int meta_ns_usage(struct meta *m, const char *ns, uint64_t *bytes)
{
	struct members *s = m->members;

	scoped_lock(&s->lock);
	for (size_t i = 0; i < s->n_usage; i++)
		if (!strcmp(s->usage[i].ns, ns)) {
			*bytes = s->usage[i].bytes;
			return 0;
		}
	return -ENOENT;
}

uint64_t meta_members_version(struct meta *m)
{
	scoped_lock(&m->members->lock);
	return m->members->version;
}

uint64_t meta_members_newest(struct meta *m)
{
	scoped_lock(&m->members->lock);
	return m->members->known;
}

uint64_t meta_members_deaths(struct meta *m)
{
	scoped_lock(&m->members->lock);
	return m->members->n_deaths;
}

uint32_t meta_members_count(struct meta *m, bool reached)
{
	scoped_lock(&m->members->lock);
	return (uint32_t)(reached ? m->members->now.n
				  : count_live(&m->members->now));
}

bool meta_members_first(struct meta *m)
{
	struct members *s = m->members;

	scoped_lock(&s->lock);
	for (size_t i = 0; i < s->now.n; i++)
		if (!s->now.entries[i].cut)
			return s->now.entries[i].node.is_self;
	return false;
}

void *meta_members_bytes(struct meta *m, bool reached, size_t *n_bytes,
			 uint64_t *known)
{
	struct members *s = m->members;
	uint8_t *bytes;
	size_t n = 0;

	scoped_lock(&s->lock);
	bytes = malloc(s->now.n * 4 + 1);
	if (!bytes)
		return NULL;
	for (size_t i = 0; i < s->now.n; i++) {
		uint32_t inc = s->now.entries[i].node.incarnation;

		if (s->now.entries[i].cut && !reached)
			continue;
		for (int b = 0; b < 4; b++)
			bytes[n++] = (uint8_t)(inc >> (8 * b));
	}
	*n_bytes = n;
	*known = s->known;
	return bytes;
}

/* --- open and close ---------------------------------------------------- */

int meta_members_open(struct meta *m)
{
	struct members *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	m->members = s;
	return 0;
}

void meta_members_close(struct meta *m)
{
	struct members *s = m->members;

	if (!s)
		return;
	free(s->now.entries);
	free(s->told.entries);
	free(s->usage);
	pthread_mutex_destroy(&s->lock);
	free(s);
	m->members = NULL;
}

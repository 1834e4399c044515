// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "meta/kv_impl.h"
#include "meta/members.h"
#include "meta/namespace.h"
#include "meta/node.h"
#include "meta/record.h"

/*
 * The sender: takes names off the dirty set, asks what is true of each now,
 * sorts them by tag into batches of one script call, and hands the answers
 * back. Directories go ahead of the blocks below them.
 */

#define REFUSED_PAUSE_NS NS_PER_S
#define N_SLOTS 512u /* of open batches; a power of two */

/* One line of a batch. */
struct item {
	struct kv_name *name; /* NULL: a directory */
	const char *path;     /* below its namespace, in some name's path; of
				 a directory a '/' follows it there */
	uint16_t path_len;
	uint16_t sub;
	char op;
	bool then_held; /* a removal, and there is a block again */
	uint8_t blob_len;
	uint8_t blob[RECORD_HEAD_BYTES];
};

struct batch {
	struct batch *next; /* of the round's open ones in a slot */
	struct kv_pub *k;
	int64_t sent_ns; /* 0: not sent */
	const char *ns;	 /* in some name's path */
	uint16_t ns_len;
	uint32_t group;
	unsigned n;
	struct item items[KV_BATCH];
};

/* One pass over what was taken. */
struct round {
	struct kv_pub *k;
	struct batch *blocks[N_SLOTS], *dirs[N_SLOTS], *gone[N_SLOTS];
	const void *live; /* as the script takes it */
	size_t live_bytes;
	uint64_t known;
	bool failed;  /* the connection is gone: the rest stays dirty */
	char ns[256]; /* the last namespace, and what is known of it */
	uint16_t ns_len;
	int n_sub;
	struct kv_name *names[KV_TAKE];
};

/* --- the answers: on the connection's thread --------------------------- */

static uint64_t number(const unsigned char *p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

/* A letter, a generation, of a winner size and checksum, other holders. */
static bool answer_parse(const struct redis_reply *reply, char *letter,
			 struct meta_kv_answer *a)
{
	const unsigned char *p;
	const char *bytes;
	size_t n;

	memset(a, 0, sizeof(*a));
	if (redis_reply_str(reply, &bytes, &n) || n < 9)
		return false;
	p = (const unsigned char *)bytes + 1;
	n -= 9;
	*letter = bytes[0];
	a->unlisted = *letter == 'F';
	a->generation = number(p, 8);
	p += 8;
	if (*letter == 'C' && n >= 24) {
		a->size_bytes = number(p, 8);
		a->checksum[0] = number(p + 8, 8);
		a->checksum[1] = number(p + 16, 8);
		p += 24;
		n -= 24;
	}
	for (; n >= 4 && a->n_holders < META_KV_HOLDERS_MAX; n -= 4, p += 4)
		a->holders[a->n_holders++] = (uint32_t)number(p, 4);
	return *letter && strchr("PFCDG", *letter);
}

static enum meta_kv_verdict count(struct kv_pub *k, const struct item *item,
				  char letter)
{
	switch (letter) {
	case 'F':
		k->n_unlisted++;
		/* fall through */
	case 'P':
		k->n_published++;
		return META_KV_PUBLISHED;
	case 'C':
		k->n_conflicts++;
		return META_KV_CONFLICT;
	case 'D':
		k->n_dropped++;
		return META_KV_DROPPED;
	default:
		if (item->op == 'U')
			k->n_tombstoned++;
		else
			k->n_retracted++;
		return META_KV_GONE;
	}
}

static bool is_stale(struct kv_pub *k, const struct kv_name *name)
{
	scoped_lock(&k->lock);
	return name->again;
}

static void verdict_give(struct kv_pub *k, const struct item *item, char letter,
			 struct meta_kv_answer *a)
{
	a->verdict = count(k, item, letter);
	if (!is_stale(k, item->name))
		k->ops->verdict(k->ctx, item->name->path, item->name->len, a);
	if (item->then_held)
		meta_kv_dirty(k->m, item->name->path, item->name->len);
}

/* Names stay dirty; say why, once a minute, and do not try again at once. */
static void refused(struct kv_pub *k, const char *why, int64_t pause_ns)
{
	int64_t now = clock_now_ns();
	bool say;

	k->dirs_epoch++;
	pthread_mutex_lock(&k->lock);
	say = why && now >= k->say_ns;
	if (say)
		k->say_ns = now + 60 * NS_PER_S;
	if (k->pause_until_ns < now + pause_ns)
		k->pause_until_ns = now + pause_ns;
	pthread_mutex_unlock(&k->lock);
	if (say)
		log_error("kv: publish: Redis refused it, trying again each "
			  "second: %.120s",
			  why);
}

static void batch_end(struct batch *b, int err, const struct redis_reply *reply)
{
	struct kv_name *clean[KV_BATCH], *dirty[KV_BATCH];
	unsigned n_clean = 0, n_dirty = 0;
	struct kv_pub *k = b->k;

	for (unsigned i = 0; i < b->n; i++) {
		struct item *item = &b->items[i];
		struct meta_kv_answer answer;
		char letter = 0;

		if (!item->name)
			continue;
		if (!err &&
		    answer_parse(redis_reply_at(reply, i), &letter, &answer)) {
			verdict_give(k, item, letter, &answer);
			clean[n_clean++] = item->name;
		} else {
			dirty[n_dirty++] = item->name;
		}
	}
	if (!err && n_dirty)
		refused(k, "a key under the prefix is of another type",
			REFUSED_PAUSE_NS);
	kv_settle(k, clean, n_clean, KV_ANSWERED);
	kv_settle(k, dirty, n_dirty, b->sent_ns ? KV_UNKNOWN : KV_NOT_SENT);
	free(b);
}

/* A Redis that is full takes those: they give it room. */
static bool are_removals(const struct batch *b)
{
	for (unsigned i = 0; i < b->n; i++)
		if (b->items[i].op != 'U' && b->items[i].op != 'R')
			return false;
	return true;
}

static void batch_done(void *ctx, int err, struct redis_reply *reply)
{
	struct batch *b = ctx;

	const char *why = redis_reply_text(reply);

	if (err) {
		b->k->dirs_epoch++; /* nobody knows whether they arrived */
	} else if (redis_reply_type(reply) == REPLY_ERROR) {
		if (!strncmp(why, "ERR Function not", 16))
			refused(b->k, NULL, REFUSED_PAUSE_NS / 20);
		else
			refused(b->k, why, REFUSED_PAUSE_NS);
		if (!strncmp(why, "OOM ", 4))
			b->k->full = true;
		err = -EIO;
	} else {
		b->k->last_batch_ns = clock_now_ns() - b->sent_ns;
		if (!are_removals(b))
			b->k->full = false;
	}
	batch_end(b, err, reply);
}

/* --- batches ----------------------------------------------------------- */

/* The keys, each bucket once; in every second byte of `what` which of them is
 * the item's. */
static void keys_add(struct redis_cmd *c, struct batch *b, const char *tag,
		     char *what)
{
	struct meta *m = b->k->m;
	uint16_t subs[KV_BATCH];
	unsigned n = 0;

	for (unsigned i = 0; i < b->n; i++) {
		unsigned at = 0;

		while (at < n && subs[at] != b->items[i].sub)
			at++;
		if (at == n)
			subs[n++] = b->items[i].sub;
		what[2 * i + 1] = (char)(at + 1);
	}
	meta_fcall(c, are_removals(b) ? "kv_batch_gone" : "kv_batch", n + 3);
	meta_cmd_key(c, m, tag, "t");
	meta_cmd_key(c, m, tag, "x");
	meta_cmd_key(c, m, tag, "g");
	for (unsigned i = 0; i < n; i++)
		meta_cmd_key(c, m, tag, "b%u", subs[i]);
}

static void batch_format(struct redis_cmd *c, struct batch *b,
			 const struct round *r)
{
	uint32_t me = meta_node_self(b->k->m);
	uint8_t me_bytes[4] = {(uint8_t)me, (uint8_t)(me >> 8),
			       (uint8_t)(me >> 16), (uint8_t)(me >> 24)};
	char tag[KEY_TAG_MAX], what[2 * KV_BATCH];

	key_tag_kv(tag, b->ns, b->ns_len, b->group);
	keys_add(c, b, tag, what);
	redis_cmd_bin(c, me_bytes, sizeof(me_bytes));
	redis_cmd_bin(c, r->live, r->live_bytes);
	redis_cmd_uint(c, r->known);
	for (unsigned i = 0; i < b->n; i++) {
		const struct item *item = &b->items[i];

		what[2 * i] = item->op;
		redis_cmd_bin(c, item->path,
			      item->path_len + (size_t)(item->op == 'D'));
		redis_cmd_bin(c, item->blob, item->blob_len);
	}
	redis_cmd_bin(c, what, 2 * (size_t)b->n);
}

static void batch_send(struct batch *b, struct round *r)
{
	redis_cmd_auto struct redis_cmd c = {0};
	char tag[KEY_TAG_MAX];
	int err = -ENOTCONN;

	if (!r->failed) {
		key_tag_kv(tag, b->ns, b->ns_len, b->group);
		batch_format(&c, b, r);
		b->sent_ns = clock_now_ns();
		err = meta_send(b->k->m, META_PUBLISH, tag, &c, batch_done, b);
	}
	if (!err)
		return;
	r->failed = true;
	b->k->dirs_epoch++;
	b->sent_ns = 0;
	batch_end(b, err, NULL);
}

static void slots_send(struct batch **slots, struct round *r)
{
	for (unsigned i = 0; i < N_SLOTS; i++) {
		while (slots[i]) {
			struct batch *b = slots[i];

			slots[i] = b->next;
			batch_send(b, r);
		}
	}
}

/* Room for one more item of this tag; a full batch leaves first. */
static struct item *item_new(struct round *r, struct batch **slots,
			     const struct kv_name *n, uint32_t group)
{
	uint32_t hash = (uint32_t)XXH3_64bits(n->path, n->ns_len) + group;
	struct batch **p = &slots[hash & (N_SLOTS - 1)], *b;

	while (*p && ((*p)->group != group || (*p)->ns_len != n->ns_len ||
		      memcmp((*p)->ns, n->path, n->ns_len) != 0))
		p = &(*p)->next;
	b = *p;
	if (b && b->n == KV_BATCH) {
		*p = b->next;
		if (slots == r->blocks)
			slots_send(r->dirs, r); /* what lies below waits */
		batch_send(b, r);
		return item_new(r, slots, n, group);
	}
	if (!b) {
		b = malloc(sizeof(*b));
		if (!b)
			return NULL;
		b->next = *p;
		b->k = r->k;
		b->sent_ns = 0;
		b->ns = n->path;
		b->ns_len = n->ns_len;
		b->group = group;
		b->n = 0;
		*p = b;
	}
	return &b->items[b->n++];
}

/* --- directories ------------------------------------------------------- */

/* Remember it as written; false: it is remembered already. */
static bool dir_note(struct kv_pub *k, const char *path, uint16_t len)
{
	uint64_t h = XXH3_64bits(path, len) | 1; /* 0 is a free place */
	uint64_t at = h / 2;

	if (k->dirs_epoch_seen != k->dirs_epoch ||
	    k->n_dirs > KV_WRITTEN_DIRS / 4 * 3) {
		k->dirs_epoch_seen = k->dirs_epoch;
		memset(k->dirs, 0, KV_WRITTEN_DIRS * sizeof(*k->dirs));
		k->n_dirs = 0;
	}
	for (;; at++) {
		uint64_t *place = &k->dirs[at & (KV_WRITTEN_DIRS - 1)];

		if (*place == h)
			return false;
		if (!*place) {
			*place = h;
			k->n_dirs++;
			return true;
		}
	}
}

static void dir_add(struct round *r, const struct kv_name *n, uint16_t len,
		    uint32_t n_sub)
{
	const char *rest = n->path + n->ns_len + 1;
	uint16_t rest_len = (uint16_t)(len - n->ns_len - 1);
	struct key_place place = key_place(rest, rest_len, n_sub);
	uint32_t mode = 040755, uid = 0, gid = 0;
	struct kv_pub *k = r->k;
	struct item *item;

	if (!dir_note(k, n->path, len))
		return;
	if (k->ops->directory &&
	    !k->ops->directory(k->ctx, n->path, len, &mode, &uid, &gid)) {
		mode = 040755;
		uid = gid = 0;
	}
	item = item_new(r, r->dirs, n, place.group);
	if (!item) {
		k->dirs_epoch++;
		return;
	}
	*item = (struct item){.path = rest,
			      .path_len = rest_len,
			      .sub = (uint16_t)place.sub,
			      .op = 'D',
			      .blob_len = RECORD_DIR_BYTES};
	record_dir_encode(mode, uid, gid, item->blob);
}

static void dirs_add(struct round *r, const struct kv_name *n, uint32_t n_sub)
{
	for (uint16_t at = n->ns_len + 1; at < n->len; at++)
		if (n->path[at] == '/')
			dir_add(r, n, at, n_sub);
}

/* --- a round ----------------------------------------------------------- */

static void generation_encode(uint64_t generation, struct item *item)
{
	item->blob_len = 8;
	for (int i = 0; i < 8; i++)
		item->blob[i] = (uint8_t)(generation >> (8 * i));
}

static uint64_t print_of(const struct meta_kv_state *s)
{
	uint64_t bytes[3] = {s->size_bytes, s->checksum[0], s->checksum[1]};

	return XXH3_64bits(bytes, sizeof(bytes)) >> 1 | 1; /* not 0, not ANY */
}

/* What was removed goes first, whatever came after it: that goes next. */
static void state_encode(const struct meta_kv_state *s, struct kv_name *n,
			 struct item *item)
{
	uint64_t print = s->generation ? 0 : print_of(s);

	n->sent = 0;
	if (s->unlinked) {
		item->op = 'U';
		item->then_held = s->held;
		generation_encode(s->generation, item);
	} else if (s->held) {
		/* Set meanwhile it counts next time: the name is in flight. */
		uint64_t was = __atomic_load_n(&n->doubt, __ATOMIC_RELAXED);
		bool doubt = was == KV_DOUBT_ANY || was == print;

		item->op = doubt && print ? 'p' : 'P';
		item->blob_len = RECORD_HEAD_BYTES;
		record_encode(s, item->blob);
		n->sent = print;
	} else {
		item->op = 'R';
		item->blob_len = 0;
	}
}

/* A namespace that is gone took its records along. */
static void gone_with_namespace(struct round *r, struct kv_name *n,
				const struct meta_kv_state *s)
{
	struct item item = {.name = n, .op = s->unlinked ? 'U' : 'R'};
	struct meta_kv_answer answer = {.generation = 0};

	verdict_give(r->k, &item, 'G', &answer);
	kv_settle(r->k, &n, 1, KV_ANSWERED);
}

/* Names come in runs of one namespace: ask once for each run. */
static int subs_of(struct round *r, const struct kv_name *n, bool held)
{
	if (r->ns_len == n->ns_len && !memcmp(r->ns, n->path, n->ns_len) &&
	    (r->n_sub > 0 || !held))
		return r->n_sub;
	r->n_sub = meta_namespace_subs(r->k->m, n->path, n->ns_len, held);
	r->ns_len = n->ns_len < sizeof(r->ns) ? n->ns_len : 0;
	memcpy(r->ns, n->path, r->ns_len);
	return r->n_sub;
}

/* While Redis is full, what it refuses takes no removal along. */
static struct batch **slots_of(struct round *r, const struct meta_kv_state *s)
{
	return r->k->full && (s->unlinked || !s->held) ? r->gone : r->blocks;
}

static void name_add(struct round *r, struct kv_name *n)
{
	const char *rest = n->path + n->ns_len + 1;
	uint16_t rest_len = (uint16_t)(n->len - n->ns_len - 1);
	struct meta_kv_state state;
	struct key_place place;
	struct item *item = NULL;
	int n_sub = -ENOTCONN;

	if (!r->failed) {
		kv_state_get(r->k, n->path, n->len, &state);
		n_sub = subs_of(r, n, state.held);
		if (n_sub == -ENOENT) {
			gone_with_namespace(r, n, &state);
			return;
		}
	}
	if (n_sub > 0) {
		place = key_place(rest, rest_len, (uint32_t)n_sub);
		if (state.held)
			dirs_add(r, n, (uint32_t)n_sub);
		item = item_new(r, slots_of(r, &state), n, place.group);
	}
	if (!item) {
		r->failed = true;
		kv_settle(r->k, &n, 1, KV_NOT_SENT);
		return;
	}
	item->name = n;
	item->path = rest;
	item->path_len = rest_len;
	item->sub = (uint16_t)place.sub;
	item->then_held = false;
	state_encode(&state, n, item);
}

static void round_run(struct round *r, unsigned n)
{
	cleanup_free void *live = NULL;

	live = meta_members_bytes(r->k->m, true, &r->live_bytes, &r->known);
	r->live = live;
	r->failed = !live;
	r->ns_len = 0;
	memset(r->blocks, 0, sizeof(r->blocks));
	memset(r->dirs, 0, sizeof(r->dirs));
	memset(r->gone, 0, sizeof(r->gone));
	for (unsigned i = 0; i < n; i++)
		name_add(r, r->names[i]);
	slots_send(r->dirs, r);
	slots_send(r->blocks, r);
	slots_send(r->gone, r);
}

/* --- the thread -------------------------------------------------------- */

/* When the next round may begin: 0 now, or a time; -1: when woken. */
static int64_t due(struct kv_pub *k, int64_t now)
{
	if (!k->n_queued || k->n_in_flight >= KV_INFLIGHT_MAX ||
	    !kv_can_send(k))
		return -1;
	if (now < k->pause_until_ns)
		return k->pause_until_ns;
	if (k->n_queued < KV_BATCH && now < k->oldest_ns + KV_FLUSH_NS)
		return k->oldest_ns + KV_FLUSH_NS;
	return 0;
}

/* Returns: names taken, 0: the end. */
static unsigned round_begin(struct round *r)
{
	struct kv_pub *k = r->k;
	struct timespec t;
	int64_t at;

	scoped_lock(&k->lock);
	while (!k->stop) {
		at = due(k, clock_now_ns());
		if (!at)
			return kv_take(k, r->names, KV_TAKE);
		if (at < 0) {
			pthread_cond_wait(&k->work, &k->lock);
			continue;
		}
		t = clock_timespec(at);
		pthread_cond_timedwait(&k->work, &k->lock, &t);
	}
	return 0;
}

/* A round that could not be sent: not again at once. */
static void round_failed(struct kv_pub *k)
{
	scoped_lock(&k->lock);
	k->pause_until_ns = clock_now_ns() + NS_PER_S / 20;
}

void *kv_sender_thread(void *arg)
{
	struct round *r = calloc(1, sizeof(*r));
	unsigned n;

	if (!r) {
		log_error("kv: no memory to publish with");
		return NULL;
	}
	r->k = arg;
	while ((n = round_begin(r))) {
		round_run(r, n);
		if (r->failed)
			round_failed(r->k);
	}
	free(r);
	return NULL;
}

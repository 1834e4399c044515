// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * Fetching ahead along a chain.
 *
 * The owner of a block knows what was stored after it: by the same thread, or,
 * where every block has a process of its own (cp), by anybody in the
 * namespace; a parent that was set counts before that. It says so in its
 * answer to a reader's FETCH. The reader believes it only when it came true
 * once: the block it was told of is opened, too. From then on the next
 * AHEAD_MAX are fetched before they are asked for; opening the one in the
 * middle (the lead) has the list renewed (AHEAD). Reads in another order fetch
 * nothing ahead.
 *
 *      open a ─ FETCH(a): b, c, d …             expected: b
 *      open b ─ expected, FETCH(b): c … j       fetched: c, d, [e], … j
 *      open e (local, lead) ─ AHEAD(e): f … m   fetched: k, l, m
 */

#define AHEAD_MAX 8
#define LEAD 3
#define BUSY_FETCHES 16 /* of all kinds: no more is fetched ahead */
#define ENTRY_BYTES 2u	/* before each message in an answer: its length */

/* -- the owner: what was stored after what ------------------------------ */

static struct kv_file *at_frame(struct kv *kv, uint32_t frame, uint32_t epoch)
{
	struct kv_file *f = frame < kv->n_by_frame ? kv->by_frame[frame] : NULL;

	return f && kv_record(kv, f)->epoch == epoch ? f : NULL;
}

static void follow(struct kv *kv, struct kv_file *f, struct kv_file *next)
{
	f->next_frame = next->frame;
	f->next_epoch = kv_record(kv, next)->epoch;
}

void remote_chain_parent(struct kv *kv, struct kv_file *f,
			 struct kv_file *parent)
{
	if (kv->fs->remote && parent)
		follow(kv, parent, f);
}

void remote_chain_stored(struct kv *kv, struct kv_file *f)
{
	struct kv_stored *s = f->ns->stored, *mine = NULL;
	struct kv_file *before;

	if (!kv->fs->remote)
		return;
	for (unsigned i = 0; i < KV_STORED_MAX; i++)
		if (s[i].writer == f->writer)
			mine = &s[i];
	before = mine ? at_frame(kv, mine->frame, mine->epoch)
		      : at_frame(kv, s[f->ns->stored_at].frame,
				 s[f->ns->stored_at].epoch);
	if (before && before != f)
		follow(kv, before, f);
	if (!mine)
		mine = &s[++f->ns->stored_at % KV_STORED_MAX];
	f->ns->stored_at = (unsigned)(mine - s);
	*mine = (struct kv_stored){.writer = f->writer,
				   .frame = f->frame,
				   .epoch = kv_record(kv, f)->epoch};
}

static size_t put_entry(struct remote *r, struct kv_file *f, uint8_t *out)
{
	const struct pool_record *rec = kv_record(r->fs->kv, f);
	struct remote_msg m = {
		.generation = rec->generation,
		.size_bytes = rec->size_bytes,
		.mode = rec->mode,
		.uid = rec->uid,
		.gid = rec->gid,
		.holder = meta_node_self(r->fs->meta),
		.priority = ENGINE_PREFETCH,
		.flags = REMOTE_COPY,
		.path = rec->path,
		.path_len = rec->path_len,
	};
	size_t n;

	if (rec->flags & POOL_HAS_CHECKSUM)
		memcpy(m.checksum, rec->checksum, sizeof(m.checksum));
	n = remote_encode(&m, out + ENTRY_BYTES);
	out[0] = (uint8_t)n;
	out[1] = (uint8_t)(n >> 8);
	return n + ENTRY_BYTES;
}

size_t remote_chain_answer(struct remote *r, struct kv_file *f,
			   uint8_t out[REMOTE_AHEAD_BYTES])
{
	struct kv *kv = r->fs->kv;
	size_t used = 0;

	for (int i = 0; i < AHEAD_MAX; i++) {
		f = f->next_epoch ? at_frame(kv, f->next_frame, f->next_epoch)
				  : NULL;
		if (!f || !f->node.published)
			break;
		used += put_entry(r, f, out + used);
	}
	return used;
}

/* -- the reader --------------------------------------------------------- */

static _Atomic uint64_t *expected_slot(struct remote *r, uint64_t hash)
{
	return &r->expected[hash % REMOTE_EXPECTED];
}

static uint64_t hash_of(const char *path, size_t n)
{
	return XXH3_64bits(path, n) | 1;
}

/* One block that is fetched before anybody asks for it. */
struct ahead {
	struct job job;
	struct remote *r;
	struct remote_msg msg;
	char path[POOL_PATH_MAX];
};

static void fetch_ahead(struct job *job)
{
	struct ahead *a = container_of(job, struct ahead, job);

	if (!remote_fetch_msg(a->r, &a->msg, a->msg.holder))
		atomic_fetch_add(&a->r->counters.ahead, 1);
	free(a);
}

static void start(struct remote *r, const struct remote_msg *m, bool lead)
{
	struct ahead *a;

	if (atomic_load(&r->counters.n_fetching) >= BUSY_FETCHES)
		return;
	a = malloc(sizeof(*a));
	if (!a)
		return;
	a->r = r;
	a->msg = *m;
	a->msg.priority = ENGINE_PREFETCH;
	a->msg.flags = REMOTE_COPY | (lead ? REMOTE_LEAD : 0);
	a->msg.path = memcpy(a->path, m->path, m->path_len);
	a->job.run = fetch_ahead;
	if (!remote_post(r, r->fetchers, &a->job))
		free(a);
}

bool remote_chain_expected(struct remote *r, const char *path, size_t len)
{
	uint64_t hash = hash_of(path, len);

	return atomic_load(expected_slot(r, hash)) == hash;
}

void remote_chain_learn(struct remote *r, bool sure, const void *bytes,
			size_t n)
{
	const uint8_t *p = bytes;
	struct remote_msg m;

	for (int i = 0; i < AHEAD_MAX && n > ENTRY_BYTES; i++) {
		size_t len = (size_t)p[0] | (size_t)p[1] << 8;

		if (len > n - ENTRY_BYTES ||
		    remote_decode(p + ENTRY_BYTES, len, &m))
			return;
		if (i == 0) {
			uint64_t hash = hash_of(m.path, m.path_len);

			atomic_store(expected_slot(r, hash), hash);
		}
		if (!sure)
			return;
		start(r, &m, i == LEAD);
		p += ENTRY_BYTES + len;
		n -= ENTRY_BYTES + len;
	}
}

/* A question that is out. */
struct question {
	struct engine_call call;
	struct remote *r;
};

static void told(struct engine_call *call, int status, const void *reply,
		 uint32_t reply_bytes)
{
	struct question *q = container_of(call, struct question, call);

	if (!status)
		remote_chain_learn(q->r, true, reply, reply_bytes);
	free(q);
}

static void ask(struct remote *r, const struct remote_msg *m, uint32_t holder)
{
	struct question *q = calloc(1, sizeof(*q));
	uint8_t bytes[REMOTE_MSG_MAX];
	struct engine_peer *peer;

	if (!q || remote_peer(r, holder, &peer)) {
		free(q);
		return;
	}
	q->r = r;
	q->call = (struct engine_call){
		.type = REMOTE_AHEAD,
		.payload = bytes,
		.payload_bytes = (uint32_t)remote_encode(m, bytes),
		.deadline_ns = clock_now_ns() + NS_PER_S,
		.done = told,
	};
	if (engine_call_start(peer, &q->call))
		free(q);
	engine_peer_put(peer);
}

struct lead {
	struct job job;
	struct remote *r;
	uint32_t holder;
	struct remote_msg msg;
	char path[POOL_PATH_MAX + 1];
};

static void go_on(struct job *job)
{
	struct lead *l = container_of(job, struct lead, job);

	ask(l->r, &l->msg, l->holder);
	free(l);
}

static void tell_used(struct job *job)
{
	struct lead *l = container_of(job, struct lead, job);
	uint8_t bytes[REMOTE_MSG_MAX];
	struct engine_peer *peer;

	if (!remote_peer(l->r, l->holder, &peer)) {
		engine_send(peer, REMOTE_USED, bytes,
			    (uint32_t)remote_encode(&l->msg, bytes));
		engine_peer_put(peer);
	}
	free(l);
}

/* Something to tell a node of f. Lock held. */
static void post_about(struct kv *kv, struct kv_file *f, uint32_t holder,
		       struct workers *w, void (*run)(struct job *job))
{
	const struct pool_record *rec = kv_record(kv, f);
	struct lead *l = calloc(1, sizeof(*l));

	if (!l)
		return;
	l->r = kv->fs->remote;
	l->holder = holder;
	l->msg = (struct remote_msg){
		.generation = rec->generation,
		.size_bytes = rec->size_bytes,
		.path = memcpy(l->path, rec->path, rec->path_len),
		.path_len = rec->path_len,
	};
	if (rec->flags & POOL_HAS_CHECKSUM)
		memcpy(l->msg.checksum, rec->checksum, sizeof(l->msg.checksum));
	l->job.run = run;
	if (!remote_post(l->r, w, &l->job))
		free(l);
}

void remote_chain_opened(struct kv *kv, struct kv_file *f)
{
	post_about(kv, f, f->lead, kv->fs->remote->servers, go_on);
	f->lead = 0;
}

void remote_chain_used(struct kv *kv, struct kv_file *f)
{
	post_about(kv, f, f->unread, kv->fs->remote->chores, tell_used);
	f->unread = 0;
}

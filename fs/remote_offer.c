// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "fs/remote_offer.h"

/*
 * Last copies that will have to go, to nodes whose blocks are older.
 *
 * Eviction never waits for this. It is done ahead: whenever something comes
 * and the pool is nearly full, one thread looks at what will go next
 * (kv_next_victims), asks Redis in one trip who else holds it, and
 *
 *      others hold it, too          nothing: it may go
 *      a copy, and nobody else      it is no copy any more (KV_MOVED)
 *      a block, and nobody else     is offered to a peer with room, or to that
 *                                   whose next victim was last used the longest
 *                                   ago, where that is half as long again
 *
 * The peer fetches it like anything else and publishes itself. Here it goes
 * when its turn comes, not before what is as old and was not taken. What came
 * by an offer is not offered on before somebody has used it (KV_MOVED; one
 * hop).
 *
 * So many may be under way; an answer makes room for the next look. While
 * others use the link to that peer, offers take a small share of it; a link
 * that is idle otherwise is theirs, as the engine moves their bytes last.
 *
 * How old a peer's blocks are is told by its heartbeats, and, newer, by each
 * answer to an offer: without these a busy node would go on for three seconds
 * giving to the peer that was the oldest.
 */

#define BATCH 32
#define ANSWER_NS NS_PER_S /* then the peer is too slow */
#define LOOKUP_NS (100 * NS_PER_MS)
#define HEARD_MAX 64

/* What a peer answered last. */
struct heard {
	uint32_t node;
	int64_t age_ms, at_ns;
};

struct remote_offers {
	struct remote *r;
	struct job job;
	bool queued; /* kv->lock */
	_Atomic uint32_t n_out;
	_Atomic uint64_t out_bytes;

	/* Its thread's own: */
	struct remote_offer_budget budget;

	pthread_mutex_t lock; /* a leaf; guards what follows */
	struct heard heard[HEARD_MAX];
	struct list out; /* offer.link */
};

/* A block as it was when it was looked at. */
struct last_copy {
	struct kv_file *f; /* valid while by_frame says so */
	uint32_t frame, epoch;
	uint64_t last_use;
	enum kv_kind kind;
	uint16_t path_len;
	char path[POOL_PATH_MAX + 1];
};

struct offer {
	struct list link; /* of those that are out */
	struct engine_call call;
	struct job job;
	struct remote_offers *o;
	uint32_t to;
	uint64_t bytes;
};

/* -- how old is what they have ------------------------------------------ */

static void hear(struct remote_offers *o, uint32_t node, int64_t age_ms)
{
	scoped_lock(&o->lock);

	o->heard[node % HEARD_MAX] =
		(struct heard){node, age_ms, clock_now_ns()};
}

static int64_t age_of(struct remote_offers *o, const struct meta_node *n)
{
	const struct heard *h = &o->heard[n->incarnation % HEARD_MAX];
	scoped_lock(&o->lock);

	if (h->node == n->incarnation &&
	    clock_now_ns() - h->at_ns < n->load_age_ms * NS_PER_MS)
		return h->age_ms;
	return n->load.victim_age_ms;
}

struct choosing {
	struct remote_offers *o;
	struct remote_offer_choice choice;
};

static bool add(void *arg, const struct meta_node *node)
{
	struct choosing *c = arg;

	if (node->is_self || node->self.draining || !node->self.n_addrs ||
	    !node->has_load)
		return true;
	remote_offer_add(&c->choice,
			 (struct remote_offer_peer){node->incarnation,
						    age_of(c->o, node)},
			 (unsigned)random());
	return true;
}

/* 0: nobody that has room or blocks as much older. */
static uint32_t peer_for(struct remote_offers *o, int64_t age_ms)
{
	struct choosing c = {.o = o};

	if (!meta_nodes(o->r->fs->meta, add, &c))
		return 0;
	return remote_offer_chosen(&c.choice,
				   fault_hit("remote.offer") ? 0 : age_ms);
}

/* -- how much ----------------------------------------------------------- */

/* Nothing but offers waits for the link to this node. */
static bool is_idle(struct remote_offers *o, uint32_t to,
		    const struct engine_peer_info *link)
{
	uint32_t n_out = 0;
	uint64_t out_bytes = 0;
	scoped_lock(&o->lock);

	list_for_each (l, &o->out) {
		struct offer *x = container_of(l, struct offer, link);

		n_out += x->to == to;
		out_bytes += x->to == to ? x->bytes : 0;
	}
	return remote_offer_is_idle(link, n_out, out_bytes);
}

static bool afford(struct remote_offers *o, uint32_t to,
		   const struct engine_peer_info *link, uint64_t bytes)
{
	return is_idle(o, to, link) ||
	       remote_offer_pay(&o->budget, link->rate_bytes_s, bytes,
				clock_now_ns());
}

static bool may_go_out(struct remote_offers *o, uint64_t bytes)
{
	return remote_offer_fits(atomic_load(&o->n_out),
				 atomic_load(&o->out_bytes), bytes,
				 o->r->pool_bytes);
}

/* -- one offer ---------------------------------------------------------- */

static void offer_free(struct offer *x)
{
	pthread_mutex_lock(&x->o->lock);
	list_remove(&x->link);
	pthread_mutex_unlock(&x->o->lock);
	atomic_fetch_sub(&x->o->n_out, 1);
	atomic_fetch_sub(&x->o->out_bytes, x->bytes);
	free(x);
}

/* It is still that block, not used since. Lock held. */
static bool is_unused(struct kv *kv, const struct last_copy *l)
{
	return l->frame < kv->n_by_frame && kv->by_frame[l->frame] == l->f &&
	       kv_record(kv, l->f)->epoch == l->epoch &&
	       kv_record(kv, l->f)->last_use == l->last_use;
}

/* There is room for one offer more. */
static void settle(struct job *job)
{
	struct offer *x = container_of(job, struct offer, job);
	struct kv *kv = x->o->r->fs->kv;

	pthread_mutex_lock(&kv->lock);
	offer_free(x);
	remote_offer_soon(kv);
	pthread_mutex_unlock(&kv->lock);
}

/* On a thread of the engine. */
static void answered(struct engine_call *call, int status, const void *reply,
		     uint32_t reply_bytes)
{
	struct offer *x = container_of(call, struct offer, call);
	struct remote *r = x->o->r;
	int64_t age_ms;

	if (!remote_age_decode(reply, reply ? reply_bytes : 0, &age_ms))
		hear(x->o, x->to, age_ms);
	if (!status) {
		atomic_fetch_add(&r->counters.offers_taken, 1);
		atomic_fetch_add(&r->counters.offered_bytes, x->bytes);
	} else {
		atomic_fetch_add(&r->counters.offers_refused, 1);
	}
	x->job.run = settle;
	if (!remote_post(r, r->chores, &x->job))
		offer_free(x);
}

static int send_offer(struct offer *x, struct engine_peer *peer,
		      const struct last_copy *l,
		      const struct meta_kv_found *found, uint32_t age_ms)
{
	struct remote_msg m = {
		.generation = found->generation,
		.size_bytes = found->size_bytes,
		.checksum = {found->checksum[0], found->checksum[1]},
		.mode = found->mode,
		.uid = found->uid,
		.gid = found->gid,
		.holder = meta_node_self(x->o->r->fs->meta),
		.age_ms = age_ms,
		.priority = ENGINE_MIGRATE,
		.flags = REMOTE_OFFER,
		.path = l->path,
		.path_len = l->path_len,
	};
	uint8_t bytes[REMOTE_MSG_MAX];

	x->call = (struct engine_call){
		.type = REMOTE_TAKE,
		.payload = bytes,
		.payload_bytes = (uint32_t)remote_encode(&m, bytes),
		.deadline_ns = clock_now_ns() + ANSWER_NS,
		.done = answered,
	};
	return engine_call_start(peer, &x->call);
}

static struct offer *offer_new(struct remote_offers *o, uint32_t to,
			       uint64_t bytes)
{
	struct offer *x = malloc(sizeof(*x));

	if (!x)
		return NULL;
	x->o = o;
	x->to = to;
	x->bytes = bytes;
	atomic_fetch_add(&o->n_out, 1);
	atomic_fetch_add(&o->out_bytes, bytes);
	pthread_mutex_lock(&o->lock);
	list_push_back(&o->out, &x->link);
	pthread_mutex_unlock(&o->lock);
	return x;
}

static void offer(struct remote_offers *o, const struct last_copy *l,
		  const struct meta_kv_found *found)
{
	int64_t age_ms = (clock_now_ns() - (int64_t)l->last_use) / NS_PER_MS;
	uint32_t to = peer_for(o, age_ms);
	struct engine_peer_info link;
	struct engine_peer *peer;
	struct offer *x = NULL;

	if (!to || age_ms > UINT32_MAX || remote_peer(o->r, to, &peer))
		return;
	engine_peer_info(peer, &link);
	if (!remote_is_silent(&link, clock_now_ns()) &&
	    afford(o, to, &link, found->size_bytes))
		x = offer_new(o, to, found->size_bytes);
	if (x) {
		atomic_fetch_add(&o->r->counters.offers, 1);
		if (send_offer(x, peer, l, found, (uint32_t)age_ms)) {
			atomic_fetch_add(&o->r->counters.offers_refused, 1);
			offer_free(x);
		}
	}
	engine_peer_put(peer);
}

/* -- what will go ------------------------------------------------------- */

static bool only_here(struct remote *r, const struct meta_kv_found *found)
{
	return found->n_holders == 1 &&
	       found->holders[0] == meta_node_self(r->fs->meta);
}

/* Returns: false, too many are under way: later. */
static bool decide(struct remote_offers *o, const struct last_copy *l,
		   const struct meta_kv_ask *ask)
{
	struct kv *kv = o->r->fs->kv;

	if (ask->err || ask->found.is_dir || !only_here(o->r, &ask->found))
		return true;
	if (l->kind == KV_STORED) {
		if (!may_go_out(o, ask->found.size_bytes))
			return false;
		offer(o, l, &ask->found);
		return true;
	}
	pthread_mutex_lock(&kv->lock);
	if (is_unused(kv, l))
		kv_set_kind(kv, l->f, KV_MOVED);
	pthread_mutex_unlock(&kv->lock);
	return true;
}

/* Lock held. */
static bool look_at(struct kv *kv, struct kv_file *f, struct last_copy *l)
{
	const struct pool_record *r = kv_record(kv, f);
	int n = kv_path(kv_dir(f->node.parent), f->node.name, l->path);

	l->f = f;
	l->frame = f->frame;
	l->epoch = r->epoch;
	l->last_use = r->last_use;
	l->kind = kv_kind(kv, f);
	l->path_len = n > 0 ? (uint16_t)n : 0;
	return n > 0;
}

/* Lock held. */
static unsigned look(struct kv *kv, struct last_copy last[BATCH])
{
	struct kv_file *f[BATCH];
	unsigned n = kv_next_victims(kv, f, BATCH), kept = 0;

	for (unsigned i = 0; i < n; i++)
		kept += look_at(kv, f[i], &last[kept]);
	return kept;
}

/* What comes next, or an answer, is the reason to. */
static void look_again(struct kv *kv, const struct last_copy *last, unsigned n)
{
	scoped_lock(&kv->lock);

	for (unsigned i = 0; i < n; i++)
		if (is_unused(kv, &last[i]))
			last[i].f->offered = false;
}

static void think(struct job *job)
{
	struct remote_offers *o = container_of(job, struct remote_offers, job);
	struct kv *kv = o->r->fs->kv;
	cleanup_free struct last_copy *last = calloc(BATCH, sizeof(*last));
	struct meta_kv_ask asks[BATCH];
	unsigned n = BATCH, done = BATCH;

	while (done == BATCH && !atomic_load(&kv->fs->stopping)) {
		pthread_mutex_lock(&kv->lock);
		n = last ? look(kv, last) : 0;
		o->queued = n == BATCH;
		pthread_mutex_unlock(&kv->lock);
		for (unsigned i = 0; i < n; i++)
			asks[i] = (struct meta_kv_ask){
				.path = last[i].path,
				.path_len = last[i].path_len};
		done = 0;
		if (n &&
		    !meta_kv_lookup_many(kv->fs->meta,
					 clock_now_ns() + LOOKUP_NS, asks, n))
			while (done < n && decide(o, &last[done], &asks[done]))
				done++;
		look_again(kv, last + done, n - done);
	}
	pthread_mutex_lock(&kv->lock);
	if (n == BATCH)
		o->queued = false;
	pthread_mutex_unlock(&kv->lock);
}

void remote_offer_soon(struct kv *kv)
{
	struct remote *r = kv->fs->remote;
	struct remote_offers *o = r ? r->offers : NULL;

	if (!o || o->queued || kv_victim_age_ms(kv) == KV_ROOM ||
	    meta_nodes_alone(kv->fs->meta))
		return;
	o->job.run = think;
	o->queued = remote_post(r, r->chores, &o->job);
}

/* ----------------------------------------------------------------------- */

int remote_offers_open(struct remote *r)
{
	struct remote_offers *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->r = r;
	remote_offer_budget_init(&o->budget, clock_now_ns());
	pthread_mutex_init(&o->lock, NULL);
	list_init(&o->out);
	r->offers = o;
	return 0;
}

void remote_offers_close(struct remote *r)
{
	if (!r->offers)
		return;
	pthread_mutex_destroy(&r->offers->lock);
	free(r->offers);
	r->offers = NULL;
}

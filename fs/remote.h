/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_H
#define KVFS_FS_REMOTE_H

/*
 * Blocks of other nodes: what makes several pools one. NULL where this mount
 * has a Redis of its own; then every function here is answered at once.
 *
 *      remote.c        the engine, peers, what arrives; figures
 *      remote_name.c   LOOKUP and unlink of names that other nodes hold
 *      remote_dir.c    the attributes of directories, as all nodes have them
 *      remote_node.c   a name in the tree whose bytes are elsewhere
 *      remote_begin.c  a fetch begins: who waits for it
 *      remote_fetch.c  the reader: from a holder into a frame of ours
 *      remote_holders.c  whom it asks, and how often
 *      remote_target.c  where the bytes go, and are they the right ones
 *      remote_try.c    one holder asked once; the watcher of those
 *      remote_parts.c  a large block, read while it comes
 *      remote_scratch.c  a block that is read though no frame is free
 *      remote_serve.c  the owner: what peers ask for
 *      remote_list.c   names of other nodes in a listing
 *      remote_order.c  fetch, pin, replicate, drain: what users ask for
 *      remote_chain.c  what was stored after what
 *      remote_prefetch.c  blocks fetched because a client will want them
 *      remote_ahead.c  fetching ahead of a reader, along that
 *      remote_offer.c  last copies that have to go: to nodes with older ones;
 *                  remote_offer_rule.c to whom, and how much of it
 *      remote_unlisted.c  what Redis does not list this node for
 *      remote_wire.c   the messages
 *
 * The way of a remote hit. LOOKUP: no such node here, so Redis is asked
 * (without waiting: the answer comes on a thread of meta's); the record makes
 * a node in the state KV_REMOTE, with attributes and no frame. OPEN: the call
 * waits on the node's fetch; the first one starts it: takes a frame, grants it
 * to a holder, asks. Where the bytes ended, on a thread of the engine, a small
 * block is verified and committed under the name; a large one, and what went
 * wrong, goes to a fetcher. The node is KV_COMMITTED from then on, and the
 * waiting calls are run again as if the block had always been here.
 *
 * Locks: kv->lock guards nodes and their fetch; struct remote's are leaves
 * below it. A callback of the engine takes kv->lock only where it ends a small
 * fetch; what peers ask for waits for no lock there (it is tried, then posted).
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/hist.h"
#include "base/list.h"
#include "base/workers.h"
#include "engine/engine.h"
#include "engine/pool.h"
#include "fs/call.h"
#include "fs/kv.h"
#include "fs/remote_wire.h"
#include "meta/kv.h"
#include "meta/nodes.h"

struct ckpt;
struct fs;
struct remote_ahead; /* a block that is fetched before it is asked for */
struct remote_fetch;

#define REMOTE_SEEN_NS 100000000LL /* what Redis said is believed so long */
#define REMOTE_FETCHERS 32
#define REMOTE_PATIENT (REMOTE_FETCHERS / 4) /* may wait for a link */
#define REMOTE_SERVERS 2
#define REMOTE_UPLOADS_MAX 4 /* of one block; more: whom else to ask */
#define REMOTE_LATE 256	     /* answers that came too late; a power of 2 */

/* Shown in .kvfs/stats and status. */
struct remote_counters {
	_Atomic uint64_t lookups, lookup_hits, hits;
	_Atomic uint64_t lookups_unsure, lookups_late; /* see remote_name.c */
	_Atomic uint64_t fetches, fetch_failed, fetch_bytes;
	_Atomic uint64_t not_here, mismatches, timeouts, busy;
	_Atomic uint64_t served, serve_refused, served_bytes;
	_Atomic uint64_t drops_sent, drops_received, taken;
	_Atomic uint64_t ahead, ahead_dropped, ahead_cancelled;
	_Atomic uint64_t offers, offers_taken, offers_refused, offered_bytes;
	_Atomic uint64_t moved_here; /* taken from others' offers */
	_Atomic uint64_t n_fetching, n_serving;
	_Atomic uint64_t pinned_bytes, quarantined_bytes;
	_Atomic uint64_t past_pool, scratch_bytes; /* remote_scratch.h */
	struct hist fetch;
};

struct remote {
	struct fs *fs;
	struct engine *engine;
	bool has_card;		  /* listens by RDMA; set before the engine */
	struct workers *fetchers; /* each waits for one fetch at a time */
	struct workers *servers;  /* what peers ask: needs kv->lock */
	struct workers *chores;	  /* one: offers, heartbeats' news */
	pthread_mutex_t lock;	  /* guards what follows */
	pthread_cond_t changed;	  /* a drop was answered, a call has ended, the
				     namespaces are here */
	bool stopped;		  /* nothing new is begun */
	struct list drops;	  /* remote_name.c */
	struct job beat_job;	  /* a heartbeat was answered */
	atomic_bool beat_queued;
	struct job ns_job; /* the namespaces are asked for */
	bool ns_asking;
	int64_t ns_asked_ns; /* when Redis listed them last; 0: it did not */
	struct remote_lookup *late[REMOTE_LATE]; /* by the name's hash */
	uint64_t pool_bytes;
	struct remote_offers *offers;
	atomic_uint n_patient;		     /* fetches that wait for a link */
	struct remote_runs *runs;	     /* remote_ahead.c */
	struct unlisted_trip *unlisted_trip; /* remote_unlisted.c */
	pthread_t asker;
	bool unlisted_stop;	   /* kv->lock */
	struct list dirs;	   /* remote_dir.c: kv_dir.ask; kv->lock */
	pthread_mutex_t dirs_lock; /* one asks for them at a time; above
				      kv->lock */
	struct job dirs_job;
	bool dirs_posted;   /* kv->lock */
	struct list wishes; /* remote_prefetch.c, kv->lock */
	unsigned n_wishes, n_prefetching;
	pthread_mutex_t try_lock; /* guards tries, parts */
	pthread_cond_t try_begun;
	struct list tries, parts;  /* remote_parts.c: blocks in parts */
	struct list serving;	   /* remote_serve.c; kv->lock */
	pthread_mutex_t room_lock; /* remote_scratch.c: guards roomless */
	pthread_cond_t room_some;  /* scratch was given back */
	struct list roomless;	   /* remote_fetch.job.link */
	struct job room_job;
	bool room_serving;
	pthread_t watcher;
	bool watch_idle, watch_stop;
	pthread_rwlock_t ckpt_lock; /* guards ckpt: ckpt_fetch_serve.c */
	struct ckpt *ckpt;	    /* while it can be asked */
	struct remote_counters counters;
};

/* What is known of a block that is elsewhere; on a KV_REMOTE node. */
struct kv_remote {
	struct meta_kv_found found;
	int64_t seen_ns;	    /* when Redis said so */
	int64_t learned_ns;	    /* wall clock, at first: its times */
	struct remote_fetch *fetch; /* under way */
	struct remote_parts *parts; /* of a large block, or of one that is read
				       past the pool: what is here */
	bool wished;		    /* remote_prefetch.c has it */
};

/* remote.c */
/** remote_open - start the engine, tell the others where this node is reached.
 *  Leaves fs->remote NULL on a mount with a private Redis. 0 or -errno. */
int remote_open(struct fs *fs);
/** remote_quiesce - end fetches and wait until those who wait for them have
 *  their answers: while the session is still served, fs->stopping. */
void remote_quiesce(struct fs *fs);
/** remote_stop - end fetches, peers' requests and the engine; meta and kv may
 *  still call in. */
void remote_stop(struct fs *fs);
void remote_close(struct fs *fs);
/** remote_announce - tell the others where this node is reached; draining:
 *  and that it takes nothing new. */
void remote_announce(struct remote *r, bool draining);
/** remote_active - may another node hold what this one does not? */
bool remote_active(const struct fs *fs);
/** remote_post - run a job on fetchers or servers; false: stopping. */
bool remote_post(struct remote *r, struct workers *w, struct job *job);
/** remote_peer - a reference to the node of an incarnation, or -errno. */
int remote_peer(struct remote *r, uint32_t incarnation,
		struct engine_peer **peer);
/** remote_holds_too_much - more than so much is in quarantine, and it is this
 *  node that may still write there: it is asked for nothing more, others are
 *  (CLUSTER.md 14). */
bool remote_holds_too_much(struct engine_peer *peer, uint64_t quarantined_bytes,
			   uint64_t most_bytes);
/** remote_dial - somebody waits for this node: any backoff ends. */
void remote_dial(struct remote *r, uint32_t incarnation);
/** remote_is_silent - it owes an answer, and no sign of life came for so long
 *  that it is suspect (CLUSTER.md 13). */
bool remote_is_silent(const struct engine_peer_info *peer, int64_t now);
/** remote_score - whom to ask first, the lower the better: near and idle
 *  nodes; one that is suspect, or was lost and not reached since, comes last.
 *  remote_score_of - the same by what is known of it, without a draw. */
int64_t remote_score(struct remote *r, uint32_t incarnation);
int64_t remote_score_of(const struct engine_peer_info *peer, bool lost,
			uint32_t n_serving, int64_t now);
/** remote_node_name - for people: its name, or its number. */
const char *remote_node_name(struct fs *fs, uint32_t incarnation,
			     char name[META_NODE_NAME_MAX + 1]);
/** remote_node_ask - the same of one that may have joined just now: then it
 *  waits for Redis, until the deadline. */
const char *remote_node_ask(struct fs *fs, uint32_t incarnation,
			    int64_t deadline,
			    char name[META_NODE_NAME_MAX + 1]);
extern const struct meta_node_ops remote_node_ops; /* ctx: struct fs */

/* remote_name.c */
/** remote_should_ask - does this LOOKUP go to Redis? kv->lock held. */
bool remote_should_ask(struct call *c, struct kv_dir *dir,
		       struct kv_node *node);
/** remote_lookup - ask, then run kv_do_lookup again with c->flags set; it
 *  answers. No lock held. */
void remote_lookup(struct call *c);
#define REMOTE_ASKED 1u	 /* c->flags of such a LOOKUP */
#define REMOTE_UNSURE 2u /* and Redis did not answer */
/** remote_is_unsure - is what is not here only not known? Such a miss is not
 *  remembered. */
bool remote_is_unsure(struct call *c);
/** remote_learn_namespaces - those made elsewhere; waits for Redis until the
 *  deadline, asks at most every 100 ms. No lock held; not on a fetcher.
 *  Returns: false, it did not answer. */
bool remote_learn_namespaces(struct fs *fs, int64_t deadline);
void remote_late_free(struct remote *r);
/** remote_unlink - a name goes on all nodes; runs on a worker and answers. */
void remote_unlink(struct call *c);
/** remote_tell_removed - these hold what its user removed: DROP. Never waits;
 *  kv->lock may be held. */
void remote_tell_removed(struct fs *fs, const char *path, uint16_t path_len,
			 const struct meta_kv_answer *answer);

/** remote_getattr - the same for kv_do_getattr of a directory. */
void remote_getattr(struct call *c);

/* remote_dir.c — with kv->lock held, but remote_dirs_ask */
/** remote_dir_is_stale - may another node have changed it, longer ago than a
 *  second, and can Redis be asked? Before it comes to that, a directory in use
 *  is asked for in the background. */
bool remote_dir_is_stale(struct kv *kv, struct kv_dir *dir);
/** remote_dir_timeout - how long the kernel may keep it, in seconds. */
double remote_dir_timeout(struct kv *kv, struct kv_dir *dir);
/** remote_dir_changed - what its record has, by a change made here. */
void remote_dir_changed(struct kv_dir *dir, uint32_t mode, uint32_t uid,
			uint32_t gid, int64_t sent_ns);
/** remote_dir_hear - what its record has, by an answer to what was asked then;
 *  one that is older than what is known counts for nothing. */
void remote_dir_hear(struct kv *kv, struct kv_dir *dir,
		     const struct meta_kv_found *found, int64_t asked_ns);
/** remote_dir_missing - this name below dir has no record (any more): what was
 *  only heard of goes, of what has blocks here the record is written anew. */
void remote_dir_missing(struct kv *kv, struct kv_dir *dir, const char *name,
			int64_t asked_ns);
/** remote_dir_want - the next remote_dirs_ask asks for it, too. */
void remote_dir_want(struct kv *kv, struct kv_dir *dir);
/** remote_dirs_ask - for all that are wanted; waits, as long as a LOOKUP. */
void remote_dirs_ask(struct fs *fs);

/* remote_node.c — with kv->lock held */
/** remote_node_learn - a name as Redis has it now, in the tree.
 *  @asked_ns: when it was asked, of a directory; 0: this is no answer of Redis
 */
void remote_node_learn(struct kv *kv, struct kv_dir *dir, const char *name,
		       const struct meta_kv_found *found, int64_t asked_ns);
/** remote_node_free - what hangs on a node that goes, or has become a block. */
void remote_node_free(struct kv_file *f);
/** remote_node_closed - nobody may have it open any more: what was only for
 *  those is then the caller's to give back, or NULL (remote_parts_put). */
struct remote_parts *remote_node_closed(struct kv_file *f);
/** remote_node_forget - Redis knows no such name (any more). */
void remote_node_forget(struct kv *kv, struct kv_node *node);
void remote_node_stat(const struct kv_file *f, struct stat *st);
/** remote_node_commit - the frame has the bytes: from KV_REMOTE to a block
 *  that was last used so long ago; it is then to be published
 *  (remote_node_publish).
 *  Returns: 0, or -errno; the frame is then still the caller's. */
int remote_node_commit(struct kv *kv, struct kv_file *f, uint32_t frame,
		       enum kv_kind kind, uint32_t age_ms);
/** remote_node_publish - this node holds it, too; once who waited is served. */
void remote_node_publish(struct kv *kv, struct kv_file *f);
/** remote_node_attr - user.kvfs.* of such a node: length or -errno. */
int remote_node_attr(const struct kv_file *f, const char *name, char *value,
		     size_t bytes);

/* remote_fetch.c */
/** remote_fetch_then - fetch this KV_REMOTE node, then run `then` on the call
 *  as if it had always been here; ENOENT where nobody has it, ENOSPC where
 *  there is no room for it. kv_do_open may find it past the pool, KV_REMOTE
 *  still. No lock held. */
void remote_fetch_then(struct call *c, struct kv_file *f, call_fn then);
/* Who waits for a fetch without a call of its own. */
struct remote_watcher {
	struct list link;
	/** done - it ended, 0 or -errno; no lock held, must not wait */
	void (*done)(struct remote_watcher *w, int err);
};
/** remote_fetch_watch - fetch this KV_REMOTE node, which the caller pins, and
 *  tell. Returns: 0 (w->done has run, or will), 1 it is here already, or
 *  -errno; no lock held. */
int remote_fetch_watch(struct kv *kv, struct kv_file *f, int64_t deadline,
		       struct remote_watcher *w);
/* Memory that a block goes into without becoming one of this node. */
struct remote_into {
	uint64_t region, offset; /* of the engine */
	uint64_t room_bytes;
	uint64_t size_bytes; /* of the block; set by remote_fetch_into */
	/** done - it ended, 0 or -errno, and nothing writes there any more; no
	 *  lock held, must not wait */
	void (*done)(struct remote_into *into, int err);
};
/** remote_fetch_into - prepare to fetch this KV_REMOTE node whole into memory;
 *  lock held, remote_fetch_go then does it. Returns: 0, -EAGAIN it is better
 *  fetched as a block: too large, or on its way; or -ENOMEM. */
int remote_fetch_into(struct kv *kv, struct kv_file *f, int64_t deadline,
		      struct remote_into *into, struct remote_fetch **x);
/** remote_fetch_name - fetch a block that may not be looked up yet and wait.
 *  @from: an incarnation that surely has it, or 0. Fetchers only.
 *  Returns: 0 it is here, -EALREADY on its way already, or -errno. */
int remote_fetch_msg(struct remote *r, const struct remote_msg *m,
		     uint32_t from);
/** remote_fetch_ahead - begin to fetch a's block from m->holder; kv->lock held;
 *  remote_fetch_go - and do it, without the lock. remote_ahead_ended is told.
 *  Returns: 0, or -EEXIST it is here, -EALREADY on its way (its open is heard
 *  of all the same), or -errno. */
int remote_fetch_ahead(struct kv *kv, const struct remote_msg *m,
		       struct remote_ahead *a, struct remote_fetch **x);
void remote_fetch_go(struct remote_fetch *x);
/** remote_fetch_cancel - nobody will ask for it; where somebody has, it goes
 *  on. kv->lock held, x not yet told to remote_ahead_ended. */
void remote_fetch_cancel(struct remote_fetch *x);

/** remote_fetch_await - a peer waits for what is under way. Returns: false, it
 *  is not, or waits itself for another's, or too many do. kv->lock held. */
bool remote_fetch_await(struct kv_file *f, struct remote_watcher *w);
#define REMOTE_AWAIT_MAX 4u

/* remote_prefetch.c */
/** remote_prefetch - this KV_REMOTE node shall be fetched in the background;
 *  remote_prefetch_go then begins it. kv->lock held. Returns: false, too many
 *  are waiting, or there is no memory. */
bool remote_prefetch(struct remote *r, struct kv_file *f);
void remote_prefetch_go(struct remote *r); /* no lock held */
/** remote_prefetch_close - nobody fetches any more. */
void remote_prefetch_close(struct remote *r);

/* remote_order.c: what users ask for by user.kvfs.* */
/** remote_ask - a call to one node, its status waited for. */
int remote_ask(struct remote *r, uint32_t node, uint16_t type,
	       const void *payload, uint32_t payload_bytes, int64_t deadline);
/** remote_order_get - fetch, holders of a file: takes the call; false: the
 *  name is none of these. No lock held. */
bool remote_order_get(struct call *c, const char *name);
/** remote_order_set - pin, copies of a file; drain of kv/: as above. */
bool remote_order_set(struct call *c, const char *name);
/** remote_replicate - see that so many nodes on different hosts hold a block,
 *  this one included, those that drain not. Waits. Returns: 0, -ENOENT, -EBUSY
 * too few could. */
int remote_replicate(struct remote *r, const char *path, uint16_t path_len,
		     uint32_t copies, int64_t deadline);
/** remote_replicate_later - what the namespace's policy asks for; never
 *  waits, kv->lock may be held. */
void remote_replicate_later(struct remote *r, const char *path,
			    uint16_t path_len, uint32_t copies);

/* remote_chain.c */
#define REMOTE_NEXT 8	    /* blocks that the answer to a FETCH names */
#define REMOTE_AHEAD_MAX 32 /* and that to an AHEAD */
#define REMOTE_ENTRY_MAX (REMOTE_MSG_MAX + 2)
/** remote_chain_stored - f was committed; remote_chain_parent - f continues
 *  parent. kv->lock held. */
void remote_chain_stored(struct kv *kv, struct kv_file *f);
void remote_chain_parent(struct kv *kv, struct kv_file *f,
			 struct kv_file *parent);
/** remote_chain_answer - what follows f, up to n_max blocks.
 *  @out: n_max * REMOTE_ENTRY_MAX. Returns the bytes. kv->lock held. */
size_t remote_chain_answer(struct remote *r, struct kv_file *f, unsigned n_max,
			   uint8_t *out);
/** remote_chain_next - the first block of an answer, a peer's bytes.
 *  Returns: the bytes it takes; 0: there is none (any more). */
size_t remote_chain_next(const uint8_t *answer, size_t bytes,
			 struct remote_msg *m);

/* remote_ahead.c */
int remote_ahead_open(struct remote *r); /* 0 or -errno */
void remote_ahead_close(struct remote *r);
/** remote_ahead_asked - a block of another node is opened by this thread;
 *  remote_ahead_opened - and one with f->ahead. kv->lock held, never wait. */
void remote_ahead_asked(struct kv *kv, const struct kv_ns *ns, const char *path,
			size_t len, pid_t reader);
void remote_ahead_opened(struct kv *kv, struct kv_file *f, pid_t reader);
/** remote_ahead_learn - what a holder says follows the block of m, which was
 *  fetched; a peer's bytes. Never waits. */
void remote_ahead_learn(struct remote *r, uint64_t hash, const void *bytes,
			size_t n);
/** remote_ahead_hash - as remote_ahead_learn wants it. */
uint64_t remote_ahead_hash(const char *path, size_t len);
/** remote_ahead_ended - the fetch of this one is over; kv->lock held. */
void remote_ahead_ended(struct kv *kv, struct remote_ahead *a, bool here);

/* remote_unlisted.c */
/** remote_unlisted - Redis has this block of ours, and lists us for it or not;
 *  kv->lock held. */
void remote_unlisted(struct kv *kv, struct kv_file *f, bool unlisted);
int remote_unlisted_open(struct remote *r); /* 0 or -errno */
void remote_unlisted_close(struct remote *r);

/* remote_offer.c */
int remote_offers_open(struct remote *r); /* 0 or -errno */
void remote_offers_close(struct remote *r);
/** remote_offer_soon - something came; is the pool full so far that its last
 *  copies must be thought of? kv->lock held, never waits. */
void remote_offer_soon(struct kv *kv);
/* remote_try.c */
/** remote_watch_open - start the thread that ends tries without progress;
 *  remote_watch_close: no try is under way. */
int remote_watch_open(struct remote *r);
void remote_watch_close(struct remote *r);
/** remote_try_cancel - tries of messages with this path (the pointer, not its
 *  bytes; NULL: all) end with -ECANCELED, soon; nobody waits. */
void remote_try_cancel(struct remote *r, const char *path);

/* remote_serve.c */
void remote_serve(struct remote *r, struct engine_peer *peer,
		  const struct engine_message *m);

#endif

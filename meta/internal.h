/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_INTERNAL_H
#define KVFS_META_INTERNAL_H

/*
 * What the parts of meta/ know of each other; nobody outside includes it.
 *
 * Lock order: node's, kv's and ckpt's own locks are leaves towards each
 * other; none is held across meta_call. Callbacks of meta_send take only
 * leaves.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "meta/key.h"
#include "meta/library.h"
#include "meta/meta.h"
#include "meta/nodes.h"
#include "meta/redis.h"
#include "meta/url.h"

/* Three connections, so that none waits behind another's batch. */
enum meta_link {
	META_LOOKUP,  /* reads, heartbeat, namespaces; breaker: try */
	META_PUBLISH, /* the kv publisher; breaker: try */
	META_CKPT,    /* the ckpt tree; waits for Redis up to the deadline */
	META_LINKS,
};

struct meta {
	char *state_dir;
	char *ca_file, *cert_file; /* of rediss:// */
	char *node_name, *host;
	char *password; /* NULL: none */
	char prefix[KEY_PREFIX_MAX + 1];
	char address[URL_TEXT_MAX];
	struct url url;
	int64_t deadline_ns; /* length of every wait */
	uint64_t replicas;   /* of Redis; ckpt_replicas.c */
	bool discard;
	_Atomic bool closing;

	const char *library, *library_build;
	struct redis *links[META_LINKS]; /* fixed once open */
	struct link_ctx {
		struct meta *m;
		enum meta_link link;
	} link_ctx[META_LINKS];

	pthread_mutex_t
		lock; /* guards links and the four below; before redis' own */
	bool link_down[META_LINKS];
	unsigned links_down;
	int64_t down_since;
	_Atomic int64_t ckpt_silent_since; /* when a ckpt call began that was
					      not answered in time; 0: none */
	bool opened;			   /* from here on outages are logged */

	struct embedded *embedded;     /* NULL: a server of the user's */
	struct node *node;	       /* node.h */
	struct members *members;       /* members.h */
	struct namespaces *namespaces; /* namespace.h */
	struct kv_pub *kv;	       /* kv.c */
	struct kv_find *find;	       /* kv_find.c */
	struct kv_list *list;	       /* kv_list.c */
	struct meta_ckpt *ckpt;	       /* ckpt.c: its own state */

	const struct meta_kv_ops *kv_ops;
	void *kv_ctx;
	const struct meta_node_ops *node_ops;
	void *node_ctx;
	const struct meta_ckpt_ops *ckpt_ops;
	void *ckpt_ctx;
};

/**
 * meta_call - send a command that touches keys of one tag; wait for the reply
 * @tag: "c", "n" or a namespace's: what would choose a server in a cluster
 * @deadline: monotonic ns; 0: the configured one from now
 * @reply: set only on success, and then never of type REPLY_ERROR
 *
 * An FCALL of a library that Redis lost is loaded and called again. LOADING,
 * BUSY and MASTERDOWN are tried again until the deadline on META_CKPT.
 *
 * Returns: 0, or
 *          -ENOTCONN    not sent: nothing happened on the server
 *          -ETIMEDOUT   sent, outcome unknown (it may still run, later)
 *          -ECONNRESET  sent, connection lost, outcome unknown
 *          -EIO         Redis answered an error nobody expects (logged)
 *          -ENOSPC      Redis is out of memory ("-OOM …")
 *          -EACCES      an ACL forbids it (logged)
 *          -ENOMEM      here
 *          and what a script raised by redis.error_reply("E<NAME> …") where
 *          meta_call_errno() knows the name (ENOENT, EEXIST, ESTALE, …).
 * Threads: any that may wait; never a callback.
 */
int meta_call(struct meta *m, enum meta_link link, const char *tag,
	      int64_t deadline, const struct redis_cmd *cmd,
	      struct redis_reply **reply);

/** meta_ckpt_unanswered - a ckpt call that began then waited in vain. */
void meta_ckpt_unanswered(struct meta *m, int64_t since);
/** meta_ckpt_hopeless - is Redis away for longer than a deadline already?
 *  One system call may be several of ours (the kernel looks up again what
 *  failed), so only the first of an outage waits. */
bool meta_ckpt_hopeless(struct meta *m);
/* How long a call waits all the same: Redis may be back this moment. */
#define META_HOPELESS_NS (100 * NS_PER_MS)

/** meta_call_wait - the same, waiting for a Redis that is away on any link. */
int meta_call_wait(struct meta *m, enum meta_link link, const char *tag,
		   int64_t deadline, const struct redis_cmd *cmd,
		   struct redis_reply **reply);

/**
 * meta_send - the same without waiting; see redis_send
 *
 * The reply that done gets may be of type REPLY_ERROR: meta_reply_errno.
 */
int meta_send(struct meta *m, enum meta_link link, const char *tag,
	      const struct redis_cmd *cmd,
	      void (*done)(void *ctx, int err, struct redis_reply *reply),
	      void *ctx);

/** meta_reply_errno - 0, or what meta_call returns for an error reply. */
int meta_reply_errno(const struct redis_reply *reply);

/**
 * meta_fcall - begin a command: FCALL kvfs1_<fn> with these keys
 * @fn: without the library's prefix, e.g. "ckpt_create"
 *
 * Follow with the keys (redis_cmd_*), then the arguments.
 */
void meta_fcall(struct redis_cmd *c, const char *fn, unsigned n_keys);

/** meta_cmd_key - append the key "P:{tag}:rest". */
void meta_cmd_key(struct redis_cmd *c, struct meta *m, const char *tag,
		  const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/** meta_deadline - a caller's deadline, or the configured one from now. */
int64_t meta_deadline(struct meta *m, int64_t deadline);

/* --- kv.c -------------------------------------------------------------- */

int meta_kv_open(struct meta *m);
int meta_kv_start(struct meta *m);
/** meta_kv_store_changed - the store is another one: all is dirty. */
void meta_kv_store_changed(struct meta *m);
/** meta_kv_audit - compare the whole index with Redis soon. */
void meta_kv_audit(struct meta *m, const char *why);
/** meta_kv_wake - sending may be possible again. Must not wait. */
void meta_kv_wake(struct meta *m);
void meta_kv_stop(struct meta *m); /* flush until the deadline */
void meta_kv_close(struct meta *m);
void meta_kv_stats(struct meta *m, struct meta_stats *stats);

/* --- ckpt.c ------------------------------------------------------------ */

/**
 * meta_ckpt_open - the last step of meta_open; sets m->ckpt
 *
 * The node is a member, the library is loaded. Reloads a store that is behind
 * ckpt.log; may wait up to the deadline.
 */
int meta_ckpt_open(struct meta *m);

/**
 * meta_ckpt_store_changed - another store id, run_id or incarnation: compare
 *                           the sequence numbers, reload if the store is behind
 *
 * On the heartbeat's thread: must not wait; hand it to a thread of your own.
 * Never called before meta_ckpt_open returned 0 nor after meta_ckpt_close.
 */
void meta_ckpt_store_changed(struct meta *m);

/** meta_ckpt_ready - the ckpt ops may be called from now on. */
void meta_ckpt_ready(struct meta *m);

/** meta_ckpt_stop - before the node leaves; connections are still there. */
void meta_ckpt_stop(struct meta *m);
/** meta_ckpt_close - after the last heartbeat; NULL is fine. */
void meta_ckpt_close(struct meta *m);

/** meta_ckpt_stats - fill ckpt_seq, ckpt_logged_seq, ckpt_read_only. */
void meta_ckpt_stats(struct meta *m, struct meta_stats *stats);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KV_IMPL_H
#define KVFS_META_KV_IMPL_H

/*
 * The kv side of meta: the dirty set (kv.c), its sender (kv_send.c), and the
 * comparison of the whole index with Redis (kv_audit.c).
 *
 * A name's life in the set:
 *
 *      dirty() ──▶ QUEUED ──take──▶ IN FLIGHT ──answer──▶ gone, clean
 *                    ▲                  │  dirty() meanwhile, no answer
 *                    └──────────────────┘
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "meta/internal.h"
#include "meta/kv.h"

#define KV_DIRTY_MAX 1000000u
#define KV_DIRTY_BYTES_MAX (32u << 20)
#define KV_BATCH 200u	      /* names of one script call */
#define KV_FLUSH_NS NS_PER_MS /* how long a few wait for more */
#define KV_TAKE 8192u	      /* names of one round of the sender */
#define KV_INFLIGHT_MAX 16384u
#define KV_WRITTEN_DIRS 131072u /* remembered; a power of two */

#define KV_DOUBT_ANY UINT64_MAX

struct kv_name {
	struct list link; /* of the queue, while queued */
	struct kv_name *next;
	uint32_t hash;
	uint16_t len, ns_len;
	bool in_flight;
	bool again; /* became dirty while in flight */
	/* What may have been published without our hearing of it: a print of
	 * its bytes; 0: nothing; KV_DOUBT_ANY: whatever is there. */
	uint64_t doubt;
	uint64_t
		sent; /* the print of what is in flight, not published before */
	char path[];
};

struct kv_pub {
	struct meta *m;
	const struct meta_kv_ops *ops;
	void *ctx;

	/* A leaf; guards what follows. The ops are called without it. */
	pthread_mutex_t lock;
	pthread_cond_t work;	/* the sender may go on */
	pthread_cond_t cleaned; /* names became clean, or the audit's turn */
	struct kv_name **table;
	uint32_t n_table; /* a power of two */
	uint32_t n_names, n_queued, n_in_flight;
	size_t n_bytes;
	struct list queue;
	int64_t oldest_ns;	/* when the queue stopped being empty */
	int64_t pause_until_ns; /* Redis refused: not before then */
	int64_t say_ns;		/* ... nor said again */
	bool stop;

	/* Counted up by who wants one, compared by the audit's thread. */
	uint64_t audits_wanted, audits_done;
	uint64_t refills_wanted, refills_done;
	uint64_t deaths_swept; /* of members.h */
	const char *audit_why;
	int64_t audit_ns; /* when one is due, wanted or not */

	/* The sender's: hashes of directories that Redis has; 0: free. */
	uint64_t *dirs;
	uint32_t n_dirs;
	_Atomic uint32_t dirs_epoch; /* + 1: forget them */
	uint32_t dirs_epoch_seen;

	_Atomic bool full; /* so Redis said; no batch of others came since */

	pthread_t sender, auditor;
	bool has_sender, has_auditor;

	_Atomic uint64_t n_published, n_conflicts, n_retracted, n_tombstoned;
	_Atomic uint64_t n_unlisted, n_dropped, n_audits, n_refills, n_swept;
	_Atomic int64_t last_batch_ns; /* how long Redis took */
};

/* kv.c */
/** kv_take - up to max names off the queue, now in flight; the lock is held */
unsigned kv_take(struct kv_pub *k, struct kv_name **names, unsigned max);

enum kv_outcome {
	KV_ANSWERED,
	KV_NOT_SENT, /* Redis has not seen it */
	KV_UNKNOWN,  /* it may have */
};

/** kv_settle - names of a batch are answered, or stay dirty. */
void kv_settle(struct kv_pub *k, struct kv_name *const *names, unsigned n,
	       enum kv_outcome outcome);

/** kv_can_send - Redis is there and known to be the store we think it is. */
bool kv_can_send(struct kv_pub *k);

/** kv_state_get - what the local index says, now. */
void kv_state_get(struct kv_pub *k, const char *path, uint16_t len,
		  struct meta_kv_state *state);

/** kv_dirty_unsure - meta_kv_dirty of a block whose last publish may have
 *  landed: a tombstone that it meets then was meant for it, too. */
void kv_dirty_unsure(struct kv_pub *k, const char *path, uint16_t len);

/* kv_sweep.c: the records of one bucket that name dead holders. */
struct kv_sweep {
	struct kv_pub *k;
	struct redis_cmd cmd;
	unsigned n;
};

struct record;

int kv_sweep_begin(struct kv_pub *k, struct kv_sweep *s, const char *tag,
		   uint32_t sub);
void kv_sweep_see(struct kv_sweep *s, const void *path, size_t len,
		  const struct record *r);
/** kv_sweep_end - have them cleaned; waits. Always after kv_sweep_begin. */
int kv_sweep_end(struct kv_sweep *s, const char *tag);

/* kv_send.c, kv_audit.c: threads */
void *kv_sender_thread(void *arg);
void *kv_auditor_thread(void *arg);

#endif

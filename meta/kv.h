/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KV_H
#define KVFS_META_KV_H

/*
 * Publishing kv blocks is *state*, not a queue of operations. Whoever changes
 * a name marks it dirty; the sender takes a name from the dirty set, asks the
 * local index what is true *now* (ops->state), tells Redis, and hands the
 * answer back (ops->verdict). One message is in flight per name; a change
 * meanwhile makes it dirty again. Names are "NAMESPACE/path", binary, 1 to
 * POOL_PATH_MAX bytes.
 */

#include <stdbool.h>
#include <stdint.h>

#include "meta/meta.h"

struct meta_kv_state {
	bool held; /* this node holds a committed block of this name */
	bool unlinked; /* its user removed it: leave a tombstone, not a gap */
	uint64_t generation; /* as last published; 0: never */
	uint64_t size_bytes;
	uint64_t checksum[2]; /* both 0: the namespace takes none */
	uint32_t mode, uid, gid;
};

enum meta_kv_verdict {
	META_KV_PUBLISHED, /* ours is the published version, or equal to it */
	META_KV_CONFLICT,  /* another version came first: drop the local one */
	META_KV_DROPPED,   /* a tombstone stands at or past our generation */
	META_KV_GONE,	   /* retracted, or the tombstone is written */
};

struct meta_kv_ops {
	/** state - what does the local index say of this name now? Must not
	 *  block on Redis. Called on the sender's thread. */
	void (*state)(void *ctx, const char *path, uint16_t path_len,
		      struct meta_kv_state *state);
	/** verdict - Redis answered. generation is the record's. */
	void (*verdict)(void *ctx, const char *path, uint16_t path_len,
			enum meta_kv_verdict v, uint64_t generation);
	/**
	 * each - walk the whole local index, for refill and audit
	 *
	 * Calls fn for every committed block, most recently used first, from
	 * *cursor on (0 starts), about n of them; advances the cursor.
	 * Returns: false once the walk is over.
	 */
	bool (*each)(void *ctx, uint64_t *cursor, unsigned n,
		     void (*fn)(void *arg, const char *path,
				uint16_t path_len),
		     void *arg);
};

/**
 * meta_kv_dirty - this name changed here (committed, evicted, unlinked)
 *
 * Hot path: a hash insert, no wait, no Redis. Past 1,000,000 dirty names the
 * set is dropped for an audit of the whole index instead; nothing is lost.
 * Threads: any.
 */
void meta_kv_dirty(struct meta *m, const char *path, uint16_t path_len);

/** meta_kv_sync - wait until this name is clean: fsync and COMMIT with SYNC.
 *  Returns: 0 or -ETIMEDOUT after the deadline. */
int meta_kv_sync(struct meta *m, const char *path, uint16_t path_len);

/* A namespace's record: its directory's attributes and its policy. */
struct meta_namespace {
	uint32_t mode, uid, gid;
	uint64_t quota_bytes; /* 0: none */
	uint32_t replicas;    /* 0 as 1 */
	bool checksum;
};

/**
 * meta_namespace_put - create or change a namespace's record
 *
 * One round trip. Namespace names are a directory entry: 1 to 255 bytes.
 * Returns: 0, -EEXIST (with create), -EIO no answer within the deadline.
 */
int meta_namespace_put(struct meta *m, const char *name,
		       const struct meta_namespace *ns, bool create);

/** meta_namespace_remove - forget a namespace; 0, -ENOENT or -EIO. */
int meta_namespace_remove(struct meta *m, const char *name);

/** meta_namespace_each - all of them, at mount; 0 or -errno. */
int meta_namespace_each(struct meta *m,
			void (*fn)(void *arg, const char *name,
				   const struct meta_namespace *ns),
			void *arg);

#endif

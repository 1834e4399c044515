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
	/* Its user removed the name and no GONE was heard yet: leave a
	 * tombstone, not a gap. With `held`: it was written anew since; the
	 * removal goes first, then the state is asked again. */
	bool unlinked;
	/* As last published, 0: never. With `unlinked`: of what the user
	 * removed, 0: not known; a version that came later stays. */
	uint64_t generation;
	uint64_t size_bytes;
	uint64_t checksum[2]; /* both 0: the namespace takes none */
	uint32_t mode, uid, gid;
};

#define META_KV_HOLDERS_MAX 16

enum meta_kv_verdict {
	META_KV_PUBLISHED, /* ours is the published version, or equal to it */
	META_KV_CONFLICT,  /* another version came first: drop the local one */
	META_KV_DROPPED,   /* a tombstone stands at or past our generation */
	META_KV_GONE,	   /* retracted, or the tombstone is written */
};

/*
 * What Redis answered of a name. A block is provisional until the first
 * PUBLISHED: served here, never to peers.
 */
struct meta_kv_answer {
	enum meta_kv_verdict verdict;
	uint64_t generation; /* PUBLISHED, CONFLICT: the record's; DROPPED: the
				tombstone's; GONE: what was removed */
	/* PUBLISHED: others have it who fill the list of holders, so this node
	 * is not in it and hears of no removal */
	bool unlisted;
	/* CONFLICT: the winner's */
	uint64_t size_bytes;
	uint64_t checksum[2];
	/* Live ones but us: PUBLISHED, CONFLICT: who holds it, too; GONE after
	 * `unlinked`: who is to be sent a DROP of this generation */
	uint32_t n_holders;
	uint32_t holders[META_KV_HOLDERS_MAX];
};

struct meta_namespace;

struct meta_kv_ops {
	/** state - what does the local index say of this name now? A removed
	 *  name stays `unlinked` until its verdict. Must not block on Redis.
	 *  Called on threads of meta's own. */
	void (*state)(void *ctx, const char *path, uint16_t path_len,
		      struct meta_kv_state *state);
	/** verdict - Redis answered. Not called for a name that became dirty
	 *  again meanwhile: a later one comes. Must not wait; may call
	 *  meta_kv_dirty. */
	void (*verdict)(void *ctx, const char *path, uint16_t path_len,
			const struct meta_kv_answer *answer);
	/**
	 * each - walk the whole local index, for refill and audit
	 *
	 * Calls fn for every committed block, most recently used first, from
	 * *cursor on (0 starts), about n of them; advances the cursor.
	 * Returns: false once the walk is over.
	 */
	bool (*each)(void *ctx, uint64_t *cursor, unsigned n,
		     void (*fn)(void *arg, const char *path, uint16_t path_len),
		     void *arg);
	/**
	 * directory - mode, uid and gid of a local directory below a namespace
	 *
	 * Written with the first block published below it. NULL, or false:
	 * 0755, root's. Called on meta's sender thread.
	 */
	bool (*directory)(void *ctx, const char *path, uint16_t path_len,
			  uint32_t *mode, uint32_t *uid, uint32_t *gid);
	/**
	 * namespace - a namespace's record, after any of them changed anywhere
	 *
	 * For each of them, at the latest with the next heartbeat. NULL: not
	 * wanted. On meta's heartbeat thread: must not wait for Redis.
	 */
	void (*namespace)(void *ctx, const char *name,
			  const struct meta_namespace *ns);
};

/**
 * meta_kv_dirty - this name changed here (committed, evicted, unlinked)
 *
 * Hot path: a hash insert, no wait, no Redis. Past 1,000,000 dirty names, or
 * 32 MiB of them, the set is dropped for an audit of the whole index instead;
 * nothing is lost.
 * Threads: any.
 */
void meta_kv_dirty(struct meta *m, const char *path, uint16_t path_len);

/** meta_kv_sync - wait until this name is clean: fsync and COMMIT with SYNC.
 *  Returns: 0 or -ETIMEDOUT after the deadline. */
int meta_kv_sync(struct meta *m, const char *path, uint16_t path_len);

/* Which attributes of a directory. */
#define META_DIR_MODE 1u
#define META_DIR_UID 2u
#define META_DIR_GID 4u

/**
 * meta_kv_dir_set - change a directory's record for all nodes; waits
 * @path: "NAMESPACE/dir"
 * @set: META_DIR_*: those of mode, uid and gid that are to be set; where there
 *       is no record yet, all are. All become what the record has then.
 *
 * Returns: 0, -ENOENT no such namespace, -EIO no answer within the deadline.
 */
int meta_kv_dir_set(struct meta *m, const char *path, uint16_t path_len,
		    unsigned set, uint32_t *mode, uint32_t *uid, uint32_t *gid);

/** meta_kv_dir_drop - forget a directory's record; waits. The next block
 *  published below it makes it anew. 0, -ENOENT or -EIO. */
int meta_kv_dir_drop(struct meta *m, const char *path, uint16_t path_len);

/** meta_kv_dirs_again - directories that were written may be gone: write them
 *  again with the next blocks below them. Never waits. */
void meta_kv_dirs_again(struct meta *m);

/* What Redis says of a name. */
struct meta_kv_found {
	bool is_dir;
	uint64_t generation, size_bytes;
	uint64_t checksum[2];
	uint32_t mode, uid, gid;
	uint32_t n_holders; /* live ones; 0: a directory */
	uint32_t holders[META_KV_HOLDERS_MAX];
};

/* A LOOKUP of the kernel waits no longer for Redis than this. On a busy machine
 * answers take tens of ms, and one that is not waited for costs all the rest of
 * a chain, which is computed again. */
#define META_KV_LOOKUP_NS 100000000LL

/**
 * meta_kv_lookup - ask Redis for a block or a directory: one round trip
 * @deadline: monotonic ns; 0: the configured one from now
 *
 * A few trips are under way at a time; lookups that come meanwhile wait for
 * one of them to end, then leave together.
 *
 * Returns: 0, -ENOENT (no live node holds it), or -EIO (no answer; at once
 *          while the breaker is open, which a missed deadline opens until
 *          Redis answers again).
 */
int meta_kv_lookup(struct meta *m, int64_t deadline, const char *path,
		   uint16_t path_len, struct meta_kv_found *found);

/* One name of many. */
struct meta_kv_ask {
	const char *path; /* the caller keeps it until the answer */
	uint16_t path_len;
	int err; /* as meta_kv_lookup returns it */
	struct meta_kv_found found;
};

/**
 * meta_kv_lookup_many - n names in one round trip (each 2,000 of them)
 *
 * Returns: 0 with each ask's err set, or -EIO: no answer for at least one,
 *          whose err is -EIO.
 */
int meta_kv_lookup_many(struct meta *m, int64_t deadline,
			struct meta_kv_ask *asks, unsigned n);

/**
 * meta_kv_lookup_send - the same, without waiting
 * @patient: with an answer that comes too late do something all the same
 * @done: on a thread of meta's or, before this returns, on the caller's; err
 *        as meta_kv_lookup_many returns it; must not wait; may send another.
 *        Exactly once; but where it is patient and the deadline has passed
 *        first with -EINPROGRESS, and once more when the answer has come: the
 *        asks are not the caller's in between
 *
 * Returns: 0, or (done is then never called) -EIO while the breaker is open,
 *          -E2BIG more than 2,000 names, -ENOMEM.
 */
int meta_kv_lookup_send(struct meta *m, int64_t deadline,
			struct meta_kv_ask *asks, unsigned n, bool patient,
			void (*done)(void *ctx, int err), void *ctx);

/**
 * meta_kv_list - the names right below a directory, of all live nodes
 * @path: "NAMESPACE" or "NAMESPACE/dir"
 * @fn: once for each name
 *
 * From a snapshot of the namespace that this node shares among all its
 * listings: at most 30 s old, taken anew by a scan that takes at most a fifth
 * of the time and lies in the state directory. Waits for the first one until
 * the deadline.
 *
 * Returns: 0, -EAGAIN (none is there yet, or Redis is away: list what is
 *          here), or another -errno.
 */
int meta_kv_list(struct meta *m, int64_t deadline, const char *path,
		 uint16_t path_len,
		 void (*fn)(void *arg, const char *name, uint16_t name_len,
			    const struct meta_kv_found *found),
		 void *arg);

/**
 * meta_kv_removed - this name was removed from all nodes: what was listed
 * before does not show it any more. Never waits; any thread.
 */
void meta_kv_removed(struct meta *m, const char *path, uint16_t path_len);

/* A namespace's record: its directory's attributes and its policy. */
struct meta_namespace {
	uint32_t mode, uid, gid;
	uint64_t quota_bytes; /* 0: none */
	uint32_t replicas;    /* 0 as 1 */
	bool checksum;
	/* A node that reads another's block more often than hot_reads times
	 * in hot_seconds keeps its copy; 0 seconds: it never does. */
	uint32_t hot_reads, hot_seconds;
};

/*
 * The next three wait for Redis, also for one that is away at the moment, up to
 * @deadline: monotonic ns; 0: the configured one from now.
 */

/**
 * meta_namespace_put - create or change a namespace's record
 *
 * One round trip. Namespace names are a directory entry: 1 to 255 bytes.
 * Returns: 0, -EEXIST (with create), -EIO no answer within the deadline.
 */
int meta_namespace_put(struct meta *m, int64_t deadline, const char *name,
		       const struct meta_namespace *ns, bool create);

/** meta_namespace_remove - forget a namespace; 0, -ENOENT or -EIO. */
int meta_namespace_remove(struct meta *m, int64_t deadline, const char *name);

/** meta_namespace_each - all of them, as Redis has them: one round trip.
 *  0 or -errno. */
int meta_namespace_each(struct meta *m, int64_t deadline,
			void (*fn)(void *arg, const char *name,
				   const struct meta_namespace *ns),
			void *arg);

#endif

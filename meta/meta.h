/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_META_H
#define KVFS_META_META_H

/*
 * Names: who holds what, kept in Redis. One struct meta per daemon; its parts:
 *
 *      redis.c     one connection: pipelined commands, deadlines, reconnect;
 *                  redis_queue.c what is owed, redis_thread.c its thread
 *      stream.c    its bytes: a socket, or TLS
 *      resp.c      the wire format; the only file that knows hiredis
 *      call.c      meta_call and meta_send(tag, …), the one place that would
 *                  learn of slots, Sentinel, Cluster
 *      embedded.c  the private redis-server of a mount without -o meta=
 *      node.c      incarnation, heartbeat, store id; members.c: the table
 *                  of nodes (nodes.h), member.c a node's record as text
 *      namespace.c the namespaces' records
 *      kv.c        the dirty set (kv.h); kv_send.c publishes it, kv_audit.c
 *                  compares it with Redis and sweeps dead holders,
 *                  kv_refill.c paces what goes to another store
 *      kv_dir.c    a directory's mode and owner, as its user changes them
 *      kv_find.c   lookups, kv_trip.c many of them in a round trip;
 *                  kv_list.c the listing
 *      ckpt.c      the ckpt tree, one script call per operation (ckpt.h);
 *                  ckpt_shards.c who has which shards, ckpt_lock.c locks,
 *                  ckpt_replicas.c waits for Redis' replicas
 *      ckpt_log.c  ckpt's truth: log, snapshot; ckpt_attach.c who fills the
 *                  store, ckpt_keep.c who keeps the log
 *      kvfs.lua    the function library that runs inside Redis
 */

#include <stdbool.h>
#include <stdint.h>

struct meta;
struct meta_ckpt_ops;
struct meta_kv_ops;
struct meta_node_ops;

struct meta_config {
	const char *url; /* redis://[user@]host[:port]/db, unix:///path[?db=n],
			    rediss://…; NULL: an embedded redis-server */
	const char *password_file;	 /* 0600; NULL: the environment's
					    KVFS_REDIS_PASSWORD, or none */
	const char *ca_file, *cert_file; /* of rediss://: stream.h; NULL: the
					    system's authorities; none */
	const char *prefix;		 /* of every key; NULL: "kvfs" */
	const char *state_dir;		 /* redis/, uuid, ckpt.log, ckpt.snap */
	const char *node_name; /* shown to people; NULL: the host name */
	const char *host;      /* nodes of one host count as one replica;
				  NULL: the host name */
	unsigned deadline_ms;  /* bound of every wait; 0: 5000 */
	uint64_t replicas;     /* of Redis, that ckpt_replicated waits for */
	bool discard;	       /* take a new incarnation */
	const struct meta_kv_ops *kv_ops; /* see kv.h */
	void *kv_ctx;
	const struct meta_node_ops *node_ops; /* see nodes.h; NULL: none */
	void *node_ctx;
	const struct meta_ckpt_ops *ckpt_ops; /* see ckpt.h; NULL: none */
	void *ckpt_ctx;
};

struct meta_stats {
	bool up; /* the last command was answered in time */
	bool embedded;
	const char *address; /* without password */
	uint32_t incarnation;
	uint32_t n_nodes; /* live members, this one included */
	uint64_t store_id;
	uint64_t n_dirty;     /* names whose publish is not answered yet */
	uint64_t n_published; /* answers "yours" */
	uint64_t n_conflicts; /* answers "another's came first" */
	uint64_t n_dropped;   /* answers "its name was removed" */
	uint64_t n_retracted, n_tombstoned, n_audits, n_refills;
	uint64_t n_lookups;	 /* names asked for */
	uint64_t n_lookup_trips; /* round trips that took */
	uint64_t n_lookups_late; /* not answered by their deadline */
	uint64_t n_swept;	 /* records cleaned of dead holders */
	uint64_t n_listings;	 /* snapshots of a namespace taken */
	uint64_t n_commands, n_timeouts, n_reconnects, n_redis_restarts;
	uint64_t n_outages; /* times that a connection was given up or silent */
	uint64_t ckpt_seq;  /* newest sequence number seen */
	uint64_t ckpt_logged_seq; /* newest in ckpt.log */
	bool ckpt_read_only;	  /* the store is being reloaded */
	bool ckpt_keeper;	  /* ckpt.log has every node's changes */
	uint32_t ckpt_keepers;	  /* how many nodes keep such a log */
	int64_t last_rtt_ns;
};

/**
 * meta_open - reach Redis, load the function library, become a member
 * @m: set only on success
 *
 * Starts the embedded server where url is NULL; reloads the ckpt tree into a
 * store that is behind the keepers' logs. Waits at most the deadline.
 *
 * Returns: 0, or one logged line and -ECONNREFUSED, -ETIMEDOUT, -EACCES
 *          (password, certificate), -EINVAL (URL; a Redis that may evict keys
 * or refuses writes when a save fails: the line has the command that mends it),
 * -ENOENT (no redis-server to start), or another -errno.
 */
int meta_open(struct meta **m, const struct meta_config *c);

/**
 * meta_start - begin publishing
 *
 * Apart from meta_open because the kv ops must be ready. Call once.
 */
int meta_start(struct meta *m);

/**
 * meta_close - flush what can be flushed within the deadline, leave, free
 *
 * Ends an embedded server. NULL is fine.
 */
void meta_close(struct meta *m);

/** meta_stats - a snapshot. Threads: any; never waits for Redis. */
void meta_stats(struct meta *m, struct meta_stats *stats);

/** meta_up - would a command be tried now? (the breaker's state) */
bool meta_up(struct meta *m);

/** meta_up_lookup - would a lookup? Publishing has a connection of its own. */
bool meta_up_lookup(struct meta *m);

#endif

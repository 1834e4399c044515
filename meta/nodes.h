/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_NODES_H
#define KVFS_META_NODES_H

/*
 * The cluster's nodes as this one knows them: who is alive, where it is
 * reached, how loaded it is.
 *
 * A node's record changes seldom; the table is fetched when the membership's
 * version moved, which each heartbeat tells. Load figures travel with the
 * heartbeats: of up to 32 nodes picked at random with each, so in a large
 * cluster those of one node may be some heartbeats old (load_age_ms).
 *
 * A node that Redis refuses or cannot be asked declares nobody dead: the
 * table stays as it is.
 *
 * A node that Redis no longer hears of, but that answers on its connection to
 * this one (ops->reached), is cut off, not dead: no live node any more, its
 * locks and claims in ckpt/ are void, but what it holds is still there and can
 * be fetched (meta_node_is_reached). So it stays until it joins anew or the
 * connection falls silent.
 */

#include <stdbool.h>
#include <stdint.h>

struct meta;

#define META_UUID_LEN 36
#define META_NODE_NAME_MAX 64
#define META_ADDRS_MAX 8
#define META_ADDR_MAX 63

/* What a node tells of itself once, and when it changes. */
struct meta_self {
	uint32_t n_addrs;
	char addrs[META_ADDRS_MAX][META_ADDR_MAX + 1]; /* "10.0.0.1:7411",
			"[fd00::1]:7411", "unix:/path": visible ASCII */
	uint32_t wire_version;
	uint32_t transports; /* bits that the engine gives a meaning to */
	bool draining;	     /* serves, but takes nothing new */
};

/* What it tells with each heartbeat. */
struct meta_load {
	uint64_t pool_bytes, used_bytes;
	uint64_t n_blocks;
	int64_t victim_age_ms; /* how long ago the block that would be evicted
				  next was used; -1: none need be */
	uint32_t n_serving;    /* transfers to peers in flight */
	uint32_t n_fetching;   /* from peers */
};

struct meta_node {
	uint32_t incarnation;
	bool is_self;
	char uuid[META_UUID_LEN + 1];
	char name[META_NODE_NAME_MAX + 1]; /* for people */
	char host[META_NODE_NAME_MAX + 1]; /* nodes of one host fail together */
	struct meta_self self;
	bool has_load;
	int64_t load_age_ms; /* since these were heard */
	struct meta_load load;
};

/* What meta asks and tells; each may be NULL. On meta's heartbeat thread:
 * must not wait for Redis nor for a peer. */
struct meta_node_ops {
	/** load - this node's figures now */
	void (*load)(void *ctx, struct meta_load *load);
	/** usage - call add once for each namespace that holds bytes here */
	void (*usage)(void *ctx,
		      void (*add)(void *arg, const char *ns, uint64_t bytes),
		      void *arg);
	/** change - a node came, changed its record, or went (up false). Not
	 *  told of this node itself. */
	void (*change)(void *ctx, const struct meta_node *node, bool up);
	/** reached - does this node answer on a connection with us now? */
	bool (*reached)(void *ctx, const struct meta_node *node);
	/** beat - a heartbeat was answered: load and meta_ns_usage are as it
	 *  found them */
	void (*beat)(void *ctx);
};

/**
 * meta_node_announce - how this node is reached, from now on
 *
 * Redis is told with a heartbeat that begins at once; again whenever the node
 * joins anew. Before the first call the others see a node without addresses.
 * Returns: 0 or -EINVAL (an address is not visible ASCII, or too many).
 * Threads: any; does not wait.
 */
int meta_node_announce(struct meta *m, const struct meta_self *self);

/**
 * meta_nodes - visit the live nodes, this one included
 * @fn: returns false to stop
 *
 * A snapshot of what is known here: no Redis, no lock held during fn.
 * Returns: how many fn was called for.
 */
unsigned meta_nodes(struct meta *m,
		    bool (*fn)(void *arg, const struct meta_node *node),
		    void *arg);

/**
 * meta_nodes_refresh - hear of the others now, not with the next heartbeat
 * @deadline: on the monotonic clock; what is known by then has to do
 *
 * Threads: any that may wait for Redis.
 */
void meta_nodes_refresh(struct meta *m, int64_t deadline);

/** meta_node_get - the reached node of an incarnation; false: it is none. */
bool meta_node_get(struct meta *m, uint32_t incarnation,
		   struct meta_node *node);

/** meta_node_is_live - does Redis hear of it? A number that was given out after
 *  our table was fetched counts as live. */
bool meta_node_is_live(struct meta *m, uint32_t incarnation);

/** meta_node_is_reached - is it live, or cut off from Redis alone: can what it
 *  holds be fetched? */
bool meta_node_is_reached(struct meta *m, uint32_t incarnation);

/** meta_node_self - this node's incarnation; changes when it joins anew. */
uint32_t meta_node_self(struct meta *m);

/** meta_nodes_alone - no other node is a member: nobody else holds anything.
 *  False while the membership is not known for sure. */
bool meta_nodes_alone(struct meta *m);

/** meta_nodes_missed - this node could not be told of a removal: Redis has it
 *  compare all that it holds. Never waits; any thread. */
void meta_nodes_missed(struct meta *m, uint32_t incarnation);

/**
 * meta_nodes_hosts - on how many different hosts do these live?
 *
 * Dead ones do not count: what `replicas` asks of a block's holders.
 */
uint32_t meta_nodes_hosts(struct meta *m, const uint32_t *incarnations,
			  uint32_t n);

/**
 * meta_ns_usage - bytes of a namespace on all live nodes together
 *
 * As of the last heartbeat, with this node's own share as usage() said then.
 * Returns: 0 or -ENOENT (nobody told of any).
 */
int meta_ns_usage(struct meta *m, const char *ns, uint64_t *bytes);

#endif

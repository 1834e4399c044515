/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_ENGINE_FIXTURE_H
#define KVFS_TESTS_ENGINE_FIXTURE_H

/*
 * The same tests for every way that bytes can go. A way is one line of
 * fx_ways[]; a new transport adds its own there. Ways between nodes have a
 * listen address, local ones have none.
 */
#include <check.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

#define FX_NODES 3
#define FX_LOG_MAX 8192

struct fx_way {
	const char *name;
	const char *listen;	       /* "%u": the node's number, "%d": the
					* process; NULL: local */
	enum engine_mem_kind from, to; /* HOST unless it says */
	const char *also;	       /* one address more, any port of it */
	bool tls;		       /* with the cluster's key */
	uint32_t links; /* to one address; 0: as the transport likes */
	bool cold;	/* the source is not in the page cache */
	bool keys;	/* with the cluster's key, in plain */
	bool slow;	/* an emulated card: less of it, and more patience */
	uint32_t buffers_bytes; /* of the links, once there are any */
};

extern const struct fx_way *fx_ways;
extern int fx_n_ways, fx_n_remote; /* remote ones come first */

/** fx_choose_ways - those of a real card instead, where KVFS_TEST_RDMA says
 *  its address; before tests are made of them. */
void fx_choose_ways(void);

/* What a node does with messages. */
enum fx_type {
	FX_ECHO = ENGINE_TYPE_MIN, /* replies with the payload */
	FX_LOG,			   /* notes the payload's first four bytes */
	FX_PARK,		   /* keeps the request's id; fx_answer */
};

struct fx_node {
	struct engine *engine;
	struct engine_node id;
	const char *address;
	/* fx_lock guards these */
	uint32_t n_up, n_down;
	int why;
	uint32_t log[FX_LOG_MAX], n_log;
	struct engine_peer *parked_by[FX_LOG_MAX];
	uint64_t parked[FX_LOG_MAX];
	uint32_t n_parked;
};

struct fx {
	const struct fx_way *way;
	struct fx_node node[FX_NODES];
};

struct fx_mem {
	struct engine *engine;
	enum engine_mem_kind kind;
	char *bytes; /* the test's own view of it */
	size_t size;
	int fd;
	uint64_t region;
	bool gone; /* its region's done has run */
};

struct fx_batch {
	struct engine_batch b;
	int status;
	uint32_t n_done;
};

struct fx_grant {
	struct engine_grant *grant;
	struct engine_segment segment;
	int status;
	uint32_t n_done, n_progress;
	uint64_t progress;
};

struct fx_call {
	struct engine_call c;
	int status;
	uint32_t n_done;
	char reply[64];
	uint32_t reply_bytes;
};

struct fx_piece {
	uint64_t from, to, bytes;
};

extern pthread_mutex_t fx_lock;
extern pthread_cond_t fx_changed;

/** fx_open - n nodes (one for a local way), each listening. */
void fx_open(struct fx *fx, const struct fx_way *way, uint32_t n);
void fx_node_open(struct fx *fx, uint32_t i, uint32_t incarnation);
void fx_node_close(struct fx *fx, uint32_t i);
void fx_close(struct fx *fx);

/** fx_peer - a reference on node `to` as node `from` sees it. */
struct engine_peer *fx_peer(struct fx *fx, uint32_t from, uint32_t to);

/** fx_wait - until *n >= least, 30 s at most. */
void fx_wait(const uint32_t *n, uint32_t least);
/** fx_read - a counter of a callback, under its lock. */
uint32_t fx_read(const uint32_t *n);

void fx_mem_new(struct fx_mem *m, struct engine *e, enum engine_mem_kind kind,
		size_t size);
void fx_mem_free(struct fx_mem *m);
/** fx_mem_cool - drop a file's pages from the cache. */
void fx_mem_cool(const struct fx_mem *m);
/** fx_fill - bytes that differ everywhere and by seed. */
void fx_fill(char *bytes, size_t size, uint32_t seed);

/** fx_submit - queue pieces as a batch; xfers is the test's. */
int fx_submit(struct engine *e, struct engine_peer *peer, struct fx_batch *b,
	      struct engine_xfer *xfers, const struct fx_piece *pieces,
	      uint32_t n, uint64_t region, struct engine_segment segment,
	      uint64_t to_region);
int fx_batch_wait(struct fx_batch *b);
void fx_batch_done(struct engine_batch *b, int status);

void fx_grant_open(struct fx_grant *g, struct engine_peer *peer,
		   const struct fx_mem *m, uint64_t offset, uint64_t bytes);
/** fx_grant_end - close it unless it is over, wait; its status. */
int fx_grant_end(struct fx_grant *g);
int fx_grant_wait(struct fx_grant *g);

int fx_call(struct engine_peer *peer, struct fx_call *c, uint16_t type,
	    const void *payload, uint32_t bytes, int64_t timeout_ms);
int fx_call_wait(struct fx_call *c);

/** fx_move - pieces from one memory to another, the way of fx; the batch's
 *  status. Node 0 writes, node 1 grants. */
int fx_move(struct fx *fx, const struct fx_mem *from, const struct fx_mem *to,
	    const struct fx_piece *pieces, uint32_t n);

/** fx_writer, fx_reader - whose memory from and to are. */
struct engine *fx_writer(struct fx *fx);
struct engine *fx_reader(struct fx *fx);

#endif

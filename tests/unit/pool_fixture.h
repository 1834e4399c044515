/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_POOL_FIXTURE_H
#define KVFS_TESTS_POOL_FIXTURE_H

/*
 * A pool with an owner: blocks in the order in which they were stored, evicted
 * oldest first. Block number n holds bytes that tell n and their own place.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/pool.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define OWNED_MAX (1u << 19)

struct owner {
	struct pool *pool;
	struct pool_ops ops;
	struct pool_config config;
	char dir[256];

	pthread_mutex_t lock; /* guards the queue and the counters */
	uint32_t owned[OWNED_MAX];
	uint32_t head, tail; /* head … tail - 1 are owned */
	_Atomic bool pinned; /* nothing may be evicted */
	_Atomic uint64_t evicted;
	int n_bound, n_unbound;
};

/** owner_new - a configuration on a fresh folder; nothing opened yet. */
struct owner *owner_new(uint64_t bytes, uint64_t frame_bytes);
/** owner_open - pool_open, take over what is adopted; pool_start. */
void owner_open(struct owner *o);
/** owner_reopen - close, keeping the blocks, and open again. */
void owner_reopen(struct owner *o);
/** owner_free - close, discard, remove the folder. */
void owner_free(struct owner *o);

/** owner_take - take a frame and open it for writing. */
int owner_take(struct owner *o, uint64_t expect_bytes, uint32_t *frame);
/** owner_write - the bytes of block n at a place of a file. */
void owner_write(int fd, uint64_t n, uint64_t from, uint64_t bytes);
/** owner_check - does a file hold the bytes of block n? */
bool owner_check(int fd, uint64_t n, uint64_t bytes);
bool owner_check_mem(const void *mem, uint64_t n, uint64_t bytes);
/** owner_store - take, write, commit as "ns/N"; it may be evicted. */
uint32_t owner_store(struct owner *o, uint64_t n, uint64_t bytes);
/** owner_keep - the same, never to be evicted. */
uint32_t owner_keep(struct owner *o, uint64_t n, uint64_t bytes);
/** owner_churn - store this much in blocks of a size. */
void owner_churn(struct owner *o, uint64_t total, uint64_t block_bytes);
/** owner_pop - take the oldest that may be evicted out of the queue, if any. */
bool owner_pop(struct owner *o, uint32_t *frame);
/** owner_put_all - give back every block that may be evicted. */
void owner_put_all(struct owner *o);

struct pool_stats owner_stats(struct owner *o);

/** owner_wait - poll until a condition on the statistics holds; 20 s at most.
 */
bool owner_wait(struct owner *o,
		bool (*is)(const struct pool_stats *s, uint64_t arg),
		uint64_t arg);

/** mounts_are_allowed - false: say so and skip. */
bool mounts_are_allowed(void);

#endif

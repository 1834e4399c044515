/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_MEMBERS_H
#define KVFS_META_MEMBERS_H

/*
 * The table of live nodes (nodes.h is its public face). The heartbeat fills
 * it; everybody reads it. What changed is told to the owner of the node ops
 * apart from that, on the heartbeat's thread, once meta_start has run.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct meta;
struct meta_node;
struct redis_cmd;
struct redis_reply;

int meta_members_open(struct meta *m); /* sets m->members */
void meta_members_close(struct meta *m);

uint64_t meta_members_version(struct meta *m);

/** meta_members_newest - the newest incarnation that was heard of, 0: none */
uint64_t meta_members_newest(struct meta *m);

/** meta_members_fetch - the whole table, from Redis. Waits. */
int meta_members_fetch(struct meta *m, int64_t deadline);

/** meta_members_heard - what a heartbeat's reply says of load and usage */
void meta_members_heard(struct meta *m, uint64_t redis_ms,
			const struct redis_reply *load,
			const struct redis_reply *usage);

/** meta_members_tell - call ops->change for what changed since the last time;
 *  on the heartbeat's thread. */
void meta_members_tell(struct meta *m);

/**
 * meta_members_bytes - the live incarnations, 4 bytes each, little-endian
 * @reached: and those that are only cut off from Redis
 * @known: the newest incarnation given out when they were listed; one that
 *         is newer is alive as far as we know
 *
 * Returns: their bytes (from malloc) or NULL.
 */
void *meta_members_bytes(struct meta *m, bool reached, size_t *n_bytes,
			 uint64_t *known);

/** meta_members_count - the live ones; reached: and those that are cut off */
uint32_t meta_members_count(struct meta *m, bool reached);

/** meta_members_first - is this node the live one with the lowest number?
 *  Who does what one node must do. */
bool meta_members_first(struct meta *m);

/** meta_members_deaths - how many were seen to go, since the start */
uint64_t meta_members_deaths(struct meta *m);

#endif

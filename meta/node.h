/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_NODE_H
#define KVFS_META_NODE_H

/*
 * This node as a member of the cluster: its uuid, its incarnation (what
 * records name as a holder), its heartbeat, and who else is alive.
 *
 * The heartbeat tells the store id, too. Another one means another store: the
 * node joins it anew, then kv and ckpt are told to fill it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct meta;

#define NODE_TTL_MS 10000
#define NODE_BEAT_MS 3000

/** meta_node_open - read or make STATE/uuid, join; sets m->node. */
int meta_node_open(struct meta *m);

/** meta_node_start - begin the heartbeat; kv and ckpt are open. */
int meta_node_start(struct meta *m);

/** meta_node_stop - end the heartbeat and leave the cluster. */
void meta_node_stop(struct meta *m);
void meta_node_close(struct meta *m);

/**
 * meta_node_check - a connection is a new one: beat now
 *
 * Until that beat is answered nothing is known of the store behind it, and
 * meta_node_confirmed is false. Must not wait; any thread.
 */
void meta_node_check(struct meta *m);
bool meta_node_confirmed(struct meta *m);

/**
 * meta_node_list - the live incarnations, 4 bytes each, little-endian
 * @known: the newest incarnation given out when they were listed; one that
 *         is newer is alive as far as we know
 *
 * Returns: their bytes (from malloc) or NULL.
 */
void *meta_node_list(struct meta *m, size_t *n_bytes, uint64_t *known);

uint64_t meta_node_store_id(struct meta *m);
/** meta_node_told_store - the store that namespaces were last put into. */
uint64_t meta_node_told_store(struct meta *m);
uint32_t meta_node_count(struct meta *m);
/** meta_node_kept - this start went on with the incarnation before it. */
bool meta_node_kept(struct meta *m);

#endif

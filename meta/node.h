/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_NODE_H
#define KVFS_META_NODE_H

/*
 * This node as a member of the cluster: its uuid, its incarnation (what
 * records name as a holder), and its heartbeat; who else is alive is in
 * members.h.
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

/** meta_node_ready - the node ops may be called from now on. */
void meta_node_ready(struct meta *m);

/** meta_node_uuid - for ever the same. */
const char *meta_node_uuid(struct meta *m);

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

/** meta_node_is_sure - Redis heard of this node so lately that nobody can have
 *  taken it for dead. */
bool meta_node_is_sure(struct meta *m);

uint64_t meta_node_store_id(struct meta *m);
/** meta_node_told_store - the store that namespaces were last put into. */
uint64_t meta_node_told_store(struct meta *m);
/** meta_node_kept - this start went on with the incarnation before it. */
bool meta_node_kept(struct meta *m);

#endif

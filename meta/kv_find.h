/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KV_FIND_H
#define KVFS_META_KV_FIND_H

/* Lookups in Redis (kv.h): what meta.c and kv.c do with them. */

struct meta;
struct meta_stats;

int meta_kv_find_open(struct meta *m);
/** meta_kv_find_stop - answer who waits; nothing is sent from here on. */
void meta_kv_find_stop(struct meta *m);
void meta_kv_find_close(struct meta *m); /* the connections are closed */
void meta_kv_find_stats(struct meta *m, struct meta_stats *s);

#endif

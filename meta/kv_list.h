/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KV_LIST_H
#define KVFS_META_KV_LIST_H

/* The listing of a namespace (kv.h): what meta.c does with it. */

struct meta;
struct meta_stats;

int meta_kv_list_open(struct meta *m);
void meta_kv_list_stop(struct meta *m); /* the connections are still there */
void meta_kv_list_close(struct meta *m);
void meta_kv_list_stats(struct meta *m, struct meta_stats *s);

#endif

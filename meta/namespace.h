/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_NAMESPACE_H
#define KVFS_META_NAMESPACE_H

/*
 * The namespaces' records. Redis is their directory, STATE/namespaces this
 * node's memory of them: a store that comes back empty gets them from there.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct meta;

/* Buckets of a group, fixed at creation. One: with more of them the hashes of
 * a namespace stay short and Redis keeps them as lists, which it searches from
 * the front (16 buckets and 500,000 names: twice its time for each), and a
 * lookup of many names needs more commands. */
#define NAMESPACE_SUBS 1u

int meta_namespace_open(struct meta *m); /* sets m->namespaces */
void meta_namespace_close(struct meta *m);

/** meta_namespace_store_changed - write what we know where it is missing.
 *  Waits for Redis. */
int meta_namespace_store_changed(struct meta *m);

/**
 * meta_namespace_subs - buckets of a group of this namespace
 *
 * @create: make a record with common values where there is none: a block is
 *          to be stored there
 *
 * From memory, or one round trip the first time.
 * Returns: 1 or more, -ENOENT, or another -errno.
 */
int meta_namespace_subs(struct meta *m, const char *name, size_t len,
			bool create);

/** meta_namespace_subs_known - the same from memory alone; 0: not known. */
uint32_t meta_namespace_subs_known(struct meta *m, const char *name,
				   size_t len);

/** meta_namespace_learn - what Redis lists: one round trip; 0 or -errno. */
int meta_namespace_learn(struct meta *m, int64_t deadline);

/** meta_namespace_heard - a heartbeat told their version: fetch them if it is
 *  another; 0 or -errno. */
int meta_namespace_heard(struct meta *m, uint64_t version, int64_t deadline);

/** meta_namespace_tell - what changed since the last time to the kv op; the
 *  heartbeat's thread only. */
void meta_namespace_tell(struct meta *m);

/** meta_namespace_names - visit the names known here, without Redis. */
void meta_namespace_names(struct meta *m,
			  void (*fn)(void *arg, const char *name,
				     uint32_t n_sub),
			  void *arg);

#endif

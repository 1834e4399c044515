/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_KV_ACCESS_H
#define KVFS_FS_KV_ACCESS_H

/*
 * Who may do what, where the kernel has not looked: names that reach the
 * daemon by .kvfs/match and the ioctls. The rules are those of a path walk.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct call;
struct kv;
struct kv_dir;
struct kv_node;

/*
 * Supplementary groups are read from /proc, which costs more than a thousand
 * look-ups and decides nothing nearly always: whoever is in a hurry asks
 * without them first.
 */
struct kv_caller {
	uid_t uid;
	gid_t gid;
	bool no_groups; /* they were not asked for, nor was Redis for what
			   directories are on other nodes now */
	unsigned n_groups;
	gid_t *groups; /* supplementary, behind it */
};

/** kv_caller_new - who makes this call, with all groups; freed by free().
 *  NULL: no memory. */
struct kv_caller *kv_caller_new(const struct call *c);
/** kv_caller_of - the same at once, without the groups. */
struct kv_caller kv_caller_of(const struct call *c);

#define KV_MAY_READ 4u
#define KV_MAY_WRITE 2u
#define KV_MAY_SEARCH 1u

/**
 * kv_may - do these permission bits let him?
 *
 * Returns: 0, -EACCES, or -EAGAIN his groups decide and were not asked for.
 */
int kv_may(const struct kv_caller *who, uint32_t mode, uid_t uid, gid_t gid,
	   unsigned want);

/* With kv->lock held; returns as kv_may. For a caller at once also -EAGAIN
 * where Redis is to be asked what a directory is now: remote_dirs_ask does. */

/** kv_may_search - this directory alone */
int kv_may_search(const struct kv_caller *who, struct kv_dir *dir);
/** kv_may_pass - this directory and all above it */
int kv_may_pass(const struct kv_caller *who, struct kv_dir *dir);
/** kv_may_reach - the same; -ENOENT: it was removed. */
int kv_may_reach(const struct kv_caller *who, struct kv_dir *dir);
/** kv_walk - a path below a directory that he may search
 *  @node: what it leads to; NULL: nothing that is known here */
int kv_walk(struct kv *kv, const struct kv_caller *who, struct kv_dir *dir,
	    const char *path, size_t len, struct kv_node **node);

#endif

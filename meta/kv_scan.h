/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KV_SCAN_H
#define KVFS_META_KV_SCAN_H

/*
 * A walk over all records of a namespace, in pages, that takes no more than a
 * share of the time: of Redis' and of this node's.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct meta;
struct redis_reply;

struct kv_scan {
	struct meta *m;
	const char *ns;
	uint32_t n_sub;
	unsigned pause; /* times as long as a page took */
	/** nap - sleep for so long; false: the end of the daemon */
	bool (*nap)(void *ctx, int64_t ns);
	/** page - records of one bucket: path, value, path, value, …; 0 to go
	 *  on. May wait. A path with '/' at its end is a directory's. */
	int (*page)(void *ctx, const char *tag, uint32_t sub,
		    const struct redis_reply *list);
	void *ctx;
};

/** kv_scan - every record that is there throughout comes at least once.
 *  Returns: 0, what page returned, -ESHUTDOWN, or another -errno. */
int kv_scan(struct kv_scan *s);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CKPT_KEEPERS_H
#define KVFS_META_CKPT_KEEPERS_H

/*
 * Who keeps the log of the ckpt tree, as Redis says and as a node remembers
 * it across restarts in STATE/ckpt.keepers: text, so that people can read it.
 *
 *      1 TREE LIFE TOKEN VERSION
 *      UUID NAME
 *      …
 *
 * TREE and TOKEN in hexadecimal; in NAME what is no visible ASCII is %XX.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meta/nodes.h"

struct redis_reply;

#define CKPT_KEEPERS_MAX 3u /* KEEPERS in ckpt_keep.lua */
#define CKPT_KEEPERS_TEXT_MAX \
	(80 + CKPT_KEEPERS_MAX * (META_UUID_LEN + 3 * META_NODE_NAME_MAX + 3))

struct ckpt_keeper {
	char uuid[META_UUID_LEN + 1];
	char name[META_NODE_NAME_MAX + 1];
	uint32_t incarnation; /* the three not in the file */
	uint64_t seq;
	bool whole; /* it counts; else it joins: ckpt_keep.lua */
};

struct ckpt_keepers {
	uint64_t tree;	/* 0: none yet */
	uint64_t life;	/* of the tree, that this node followed last */
	uint64_t token; /* … its name; 0: none */
	uint64_t version;
	unsigned n;
	struct ckpt_keeper list[CKPT_KEEPERS_MAX];
};

void ckpt_keepers_encode(const struct ckpt_keepers *k,
			 char out[static CKPT_KEEPERS_TEXT_MAX]);
/** ckpt_keepers_decode - 0, or -EPROTO and k is as it was. */
int ckpt_keepers_decode(const char *text, size_t n, struct ckpt_keepers *k);

/** ckpt_keepers_read - the set, as ckpt_keep.lua's keep answers it: version
 *  and list, nothing else. Returns: 0, or -EPROTO and k is as it was. */
int ckpt_keepers_read(const struct redis_reply *r, struct ckpt_keepers *k);

/** ckpt_keepers_load - from the state directory; all 0 where there is no such
 *  file, or (one logged line) none that is whole. Returns: 0 or -errno. */
int ckpt_keepers_load(struct ckpt_keepers *k, const char *dir);
/** ckpt_keepers_save - replaced whole, and on the disk. 0 or -errno (logged) */
int ckpt_keepers_save(const struct ckpt_keepers *k, const char *dir);

/** ckpt_keepers_find - NULL: it is none of them. */
const struct ckpt_keeper *ckpt_keepers_find(const struct ckpt_keepers *k,
					    const char *uuid);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CKPT_FETCH_MAP_H
#define KVFS_FS_CKPT_FETCH_MAP_H

/*
 * What a backing file holds: which version, and which of its shards. Beside
 * STATE/ckpt/XX/INO lies XX/INO.map, written anew as a whole and renamed into
 * place; little-endian:
 *
 *      magic 8, inode 8, version 8, size 8, shard bytes 8, mtime 8, boot 8,
 *      flags 4, number of shards 4, bits (none where it is whole),
 *      XXH3-64 of all that 8
 *
 * It is checked before it is believed. Only a node of a cluster has maps.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CMAP_WHOLE = 1,	  /* every shard: no bits follow */
	CMAP_PENDING = 2, /* written here, and about to be published as this
			     version: it may not have come to that */
	CMAP_OURS = 4,	  /* written here, not fetched */
};
#define CMAP_FLAGS 7u

struct cmap {
	uint64_t ino, version;
	uint64_t size_bytes, shard_bytes;
	int64_t mtime_ns; /* of the backing file then */
	uint64_t boot;	  /* of the machine, while the bytes may not be on its
			     disk yet; 0: they are */
	uint32_t flags;
	uint32_t n_shards;
	uint8_t *bits; /* NULL where it is whole */
};

/** cmap_shards - how many shards a file of this size has. */
static inline uint64_t cmap_shards(uint64_t size_bytes, uint64_t shard_bytes)
{
	return size_bytes / shard_bytes + (size_bytes % shard_bytes != 0);
}

static inline bool cmap_has(const struct cmap *m, uint64_t shard)
{
	return m->flags & CMAP_WHOLE ||
	       m->bits[shard / 8] & (uint8_t)(1u << shard % 8);
}

/** cmap_init - of a version of which nothing is here. 0, -EFBIG, -ENOMEM. */
int cmap_init(struct cmap *m, uint64_t ino, uint64_t version,
	      uint64_t size_bytes, uint64_t shard_bytes);
void cmap_fini(struct cmap *m);

/** cmap_add - this shard is here now. Returns: is all of it? */
bool cmap_add(struct cmap *m, uint64_t shard);

/** cmap_range - are all shards of these bytes here? */
bool cmap_range(const struct cmap *m, uint64_t from, uint64_t to,
		uint64_t *missing);

/** cmap_encode - bytes to be freed, or NULL without memory. */
uint8_t *cmap_encode(const struct cmap *m, size_t *n);

/** cmap_decode - read a file's bytes; m is set only on success (cmap_fini).
 *  Returns: 0, -EBADMSG, -ENOMEM. */
int cmap_decode(const void *bytes, size_t n, struct cmap *m);

/** cmap_load, cmap_save - from and to dirfd/name. 0, -ENOENT, -EBADMSG, or
 *  another -errno. */
int cmap_load(int dirfd, const char *name, struct cmap *m);
int cmap_save(int dirfd, const char *name, const struct cmap *m);

/** cmap_boot - a number that changes when the machine starts; never 0. */
uint64_t cmap_boot(void);

#endif

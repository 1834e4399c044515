/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_BLOCK_H
#define KVFS_TOOLS_BLOCK_H

/*
 * The block files of a replay: what an inference engine does to a directory,
 * with contents that can be checked.
 *
 * A block is DIR/HHHHHHHHHHHHHHHH.data, named by a hash of its id: one flat
 * directory, as LMCache's and SGLang's file tiers keep it. A hit is open, one
 * read, close; a store is O_CREAT|O_EXCL of HHHHHHHHHHHHHHHH_PID.tmp, one
 * write, close, rename.
 *
 * Every 8-byte word of a block depends on the block's id and on the word's
 * place, so another block's bytes, moved bytes, zeros and a torn block are all
 * found, wherever they are and however few.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block_dir {
	const char *path;
	int fd;
	bool made; /* by block_dir_open */
	size_t block_bytes;
	uint64_t *pattern; /* word i of every block, before its id's key */
	uint64_t *buf;	   /* one block and a spare word */
};

/**
 * block_dir_open - open the directory, making it where it is missing
 * Returns: 0 or -errno, one line logged.
 */
int block_dir_open(struct block_dir *d, const char *path, size_t block_bytes);
void block_dir_close(struct block_dir *d);

/**
 * block_dir_sweep - remove every block and temporary of a replay
 *
 * Returns: how many files that are not a replay's were met (and left), or
 *          -errno.
 */
int block_dir_sweep(struct block_dir *d);

/**
 * block_load - open, read whole, close; then compare every byte
 * @ns: time of open to close, set when the block was there
 *
 * Returns: 1 a hit, 0 no such block, -EILSEQ the contents are wrong (one line
 *          logged), or -errno (one line logged).
 */
int block_load(struct block_dir *d, uint64_t id, int64_t *ns);

/** block_exists - as engines ask before they store. */
bool block_exists(struct block_dir *d, uint64_t id);

/**
 * block_store - create, write once, close, rename
 * @ns: time of all that, without making the contents
 *
 * Returns: 0, or -errno (one line logged).
 */
int block_store(struct block_dir *d, uint64_t id, int64_t *ns);

/* For tests: the contents, and their check. */
void block_fill(const struct block_dir *d, uint64_t id, uint64_t *buf);
bool block_check(const struct block_dir *d, uint64_t id, const uint64_t *buf);

#endif

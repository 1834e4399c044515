/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_VERIFY_H
#define KVFS_TOOLS_VERIFY_H

/*
 *      verify.c       the verb: which files, what is said of them
 *      verify_file.c  one file: read, hash, compare
 */

#include <stddef.h>
#include <stdint.h>

#include "tools/progress.h"

/** How many bytes of a file in ckpt/ one checksum covers. */
#define VERIFY_SHARD_BYTES (64ull << 20)

enum verify_result {
	VERIFY_OK,
	VERIFY_DAMAGED,	  /* its bytes are not those that were stored */
	VERIFY_UNCHECKED, /* nobody took a checksum, or a writer is at it */
	VERIFY_ERROR,	  /* could not be read */
	VERIFY_GONE,	  /* evicted or removed before it was read */
	VERIFY_RESULTS
};

/* What verify_file works with; the buffers are kept from file to file. */
struct verify {
	struct progress progress;
	uint64_t bytes; /* read so far, of all files */
	char *buf;
	char *expected, *computed; /* checksums as text */
	uint8_t *sums;		   /* n_sums of 16 bytes */
	size_t n_sums, room;
	char why[256]; /* of the last result but OK */
};

/** verify_open, verify_close - the buffers; 0 or -ENOMEM. */
int verify_open(struct verify *v);
void verify_close(struct verify *v);

/** verify_file - check one regular file of a kvfs. */
enum verify_result verify_file(struct verify *v, const char *path);

#endif

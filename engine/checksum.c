// SPDX-License-Identifier: MIT
#include "engine/checksum.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/xxh3.h"

/* Read rather than mapped: a mapping of a block would make the lease probe
 * of its frame fail for as long as it lives, and a truncation SIGBUS. A piece
 * is still in the second-level cache when it is hashed. */
#define PIECE_BYTES (256u << 10)

static void state_free(XXH3_state_t **s)
{
	XXH3_freeState(*s);
}

static int checksum_read(int fd, uint64_t bytes, XXH3_state_t *s, char *piece)
{
	uint64_t at = 0;

	while (at < bytes) {
		size_t want =
			bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
		ssize_t n = pread(fd, piece, want, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		XXH3_128bits_update(s, piece, n);
		at += n;
	}
	return 0;
}

int checksum_fd(int fd, uint64_t bytes, uint64_t sum[2])
{
	__attribute__((cleanup(state_free))) XXH3_state_t *s =
		XXH3_createState();
	cleanup_free char *piece = malloc(PIECE_BYTES);
	XXH128_hash_t h;
	int err;

	if (!s || !piece)
		return -ENOMEM;
	XXH3_128bits_reset(s);
	err = checksum_read(fd, bytes, s, piece);
	if (err)
		return err;
	h = XXH3_128bits_digest(s);
	sum[0] = h.low64;
	sum[1] = h.high64;
	return 0;
}

void checksum_mem(const void *data, uint64_t bytes, uint64_t sum[2])
{
	XXH128_hash_t h = XXH3_128bits(data, bytes);

	sum[0] = h.low64;
	sum[1] = h.high64;
}

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_H
#define KVFS_H

/*
 * libkvfs: what a client of a kvfs mount wants beyond read(2) and write(2).
 *
 * Names of blocks come first: the digest of a block names its tokens and all
 * tokens before it, so two prompts with a common prefix have the same names as
 * far as they agree.
 *
 *      tokens   │ 0 … 15 │ 16 … 31 │ 32 … 47 │ 48 49   (block_tokens 16)
 *      digests  │   a ───┼──▶ b ───┼──▶ c    │          3 whole blocks
 *
 * The library keeps no state of its own and prints nothing. Functions return a
 * count or 0, or a negative errno.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/** kvfs_version - of the library, such as "0.1.0". Threads: any. */
const char *kvfs_version(void);

/* ---- names of blocks: prefix chains ------------------------------------ */

enum kvfs_hash {
	KVFS_XXH3_128 = 1, /* 16 bytes; fast, but others can make collisions */
	KVFS_SHA256 = 2,   /* 32 bytes; where tenants distrust each other */
};

#define KVFS_DIGEST_MAX 32 /* bytes, of any hash */

/** kvfs_digest_bytes - 16 or 32; -EINVAL no such hash. Threads: any. */
int kvfs_digest_bytes(enum kvfs_hash hash);

/**
 * kvfs_block_digest - the digest of one block of a prefix chain
 * @hash:     which hash
 * @parent:   the digest of the block before it; NULL: it is the first
 * @tokens:   its token ids
 * @n_tokens: how many
 * @keys:     what else its bytes depend on: an adapter, an image's digest, a
 *            tenant's salt; their order counts
 * @n_keys:   how many; 0: none, and @keys may be NULL
 * @digest:   kvfs_digest_bytes(hash) bytes, set only on success; may be
 *            @parent
 *
 * Shape:   the hash of: @parent (as many zero bytes as a digest has for the
 *          first block), @n_tokens, the tokens, then of each key its length
 *          and its bytes; numbers are little-endian and have 32 bits. An
 *          XXH3-128 digest has its high half first, most significant byte
 *          first.
 * Returns: 0, -EINVAL no such hash, -E2BIG a key or the tokens are more than
 *          UINT32_MAX, -ENOMEM.
 * Threads: any.
 * Source:  kvfs_block_digest(3) has test vectors.
 */
int kvfs_block_digest(enum kvfs_hash hash, const void *parent,
		      const uint32_t *tokens, size_t n_tokens,
		      const struct iovec *keys, size_t n_keys, void *digest);

/**
 * kvfs_chain_digests - the digests of all whole blocks of a prompt
 * @hash:         which hash
 * @parent:       the digest of the block before the first; NULL: there is none
 * @tokens:       token ids
 * @n_tokens:     how many; what does not fill a block is left out
 * @block_tokens: tokens a block, at least 1
 * @keys, n_keys: as for kvfs_block_digest, the same for each block
 * @digests:      room for n_tokens / block_tokens digests, one behind the other
 *
 * Returns: how many blocks, or -errno as kvfs_block_digest; -EINVAL also where
 *          @block_tokens is 0, -E2BIG also for more than INT_MAX blocks.
 * Threads: any.
 */
int kvfs_chain_digests(enum kvfs_hash hash, const void *parent,
		       const uint32_t *tokens, size_t n_tokens,
		       size_t block_tokens, const struct iovec *keys,
		       size_t n_keys, void *digests);

#ifdef __cplusplus
}
#endif

#endif

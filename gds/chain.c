// SPDX-License-Identifier: MIT
/* The names of blocks: each digest is over the one before it. */
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "gds/kvfs.h"

#define TOKENS_AT_ONCE 64

/* One of the two hashes, while it is fed. */
struct hasher {
	enum kvfs_hash hash;
	XXH3_state_t xxh3;
	EVP_MD_CTX *sha256; /* kept from block to block */
};

static int hasher_init(struct hasher *h, enum kvfs_hash hash)
{
	h->hash = hash;
	h->sha256 = NULL;
	if (hash == KVFS_XXH3_128)
		return 0;
	if (hash != KVFS_SHA256)
		return -EINVAL;
	h->sha256 = EVP_MD_CTX_new();
	return h->sha256 ? 0 : -ENOMEM;
}

static void hasher_fini(struct hasher *h)
{
	EVP_MD_CTX_free(h->sha256);
}

static int begin(struct hasher *h)
{
	if (h->sha256)
		return EVP_DigestInit_ex(h->sha256, EVP_sha256(), NULL)
			       ? 0
			       : -ENOMEM;
	XXH3_128bits_reset(&h->xxh3);
	return 0;
}

static int feed(struct hasher *h, const void *bytes, size_t n)
{
	if (h->sha256)
		return EVP_DigestUpdate(h->sha256, bytes, n) ? 0 : -ENOMEM;
	XXH3_128bits_update(&h->xxh3, bytes, n);
	return 0;
}

static int end(struct hasher *h, void *digest)
{
	XXH128_canonical_t canonical;

	if (h->sha256)
		return EVP_DigestFinal_ex(h->sha256, digest, NULL) ? 0
								   : -ENOMEM;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&h->xxh3));
	memcpy(digest, canonical.digest, sizeof(canonical.digest));
	return 0;
}

static int feed_u32(struct hasher *h, size_t n)
{
	uint32_t le = htole32((uint32_t)n);

	return n > UINT32_MAX ? -E2BIG : feed(h, &le, sizeof(le));
}

static int feed_tokens(struct hasher *h, const uint32_t *tokens, size_t n)
{
	uint32_t le[TOKENS_AT_ONCE];
	int err = feed_u32(h, n);

	for (size_t at = 0, now; at < n && !err; at += now) {
		now = n - at < TOKENS_AT_ONCE ? n - at : TOKENS_AT_ONCE;
		for (size_t i = 0; i < now; i++)
			le[i] = htole32(tokens[at + i]);
		err = feed(h, le, now * sizeof(*le));
	}
	return err;
}

static int feed_keys(struct hasher *h, const struct iovec *keys, size_t n)
{
	int err = 0;

	for (size_t i = 0; i < n && !err; i++) {
		err = feed_u32(h, keys[i].iov_len);
		if (!err)
			err = feed(h, keys[i].iov_base, keys[i].iov_len);
	}
	return err;
}

static int block_digest(struct hasher *h, const void *parent,
			const uint32_t *tokens, size_t n_tokens,
			const struct iovec *keys, size_t n_keys, void *digest)
{
	static const uint8_t none[KVFS_DIGEST_MAX];
	int err = begin(h);

	if (!err)
		err = feed(h, parent ? parent : none,
			   (size_t)kvfs_digest_bytes(h->hash));
	if (!err)
		err = feed_tokens(h, tokens, n_tokens);
	if (!err)
		err = feed_keys(h, keys, n_keys);
	return err ? err : end(h, digest);
}

int kvfs_digest_bytes(enum kvfs_hash hash)
{
	return hash == KVFS_XXH3_128 ? 16 : hash == KVFS_SHA256 ? 32 : -EINVAL;
}

int kvfs_block_digest(enum kvfs_hash hash, const void *parent,
		      const uint32_t *tokens, size_t n_tokens,
		      const struct iovec *keys, size_t n_keys, void *digest)
{
	struct hasher h;
	int err = hasher_init(&h, hash);

	if (!err)
		err = block_digest(&h, parent, tokens, n_tokens, keys, n_keys,
				   digest);
	hasher_fini(&h);
	return err;
}

int kvfs_chain_digests(enum kvfs_hash hash, const void *parent,
		       const uint32_t *tokens, size_t n_tokens,
		       size_t block_tokens, const struct iovec *keys,
		       size_t n_keys, void *digests)
{
	size_t n = block_tokens ? n_tokens / block_tokens : 0;
	struct hasher h;
	uint8_t *digest = digests;
	int err;

	if (!block_tokens)
		return -EINVAL;
	if (n > INT_MAX)
		return -E2BIG;
	err = hasher_init(&h, hash);
	for (size_t i = 0; i < n && !err; i++) {
		err = block_digest(&h, parent, tokens + i * block_tokens,
				   block_tokens, keys, n_keys, digest);
		parent = digest;
		digest += kvfs_digest_bytes(hash);
	}
	hasher_fini(&h);
	return err ? err : (int)n;
}

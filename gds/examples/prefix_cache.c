// SPDX-License-Identifier: MIT
/*
 * What an inference engine does with a prompt: the blocks of its longest known
 * prefix are loaded in place, the others are computed, written in place and
 * stored for whoever comes next, on any node.
 *
 *      cc prefix_cache.c $(pkg-config --cflags --libs kvfs) -o prefix_cache
 *      ./prefix_cache /mnt/kvfs/kv/llama 1 2 3 … (token ids)
 *
 * Computing is played: a block is its own digest, over and over.
 */
#include <kvfs/kvfs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HASH KVFS_XXH3_128
#define DIGEST_BYTES 16
#define BLOCK_TOKENS 16
#define BLOCK_BYTES 65536
#define SUFFIX ".bin"

struct prompt {
	uint32_t n_blocks;
	uint8_t *digests; /* of the blocks, DIGEST_BYTES each */
};

/* The names of a prompt's blocks from the i-th on. */
static struct kvfs_names names_from(const struct prompt *p, uint32_t i)
{
	return (struct kvfs_names){
		.n = p->n_blocks - i,
		.digests = p->digests + (size_t)i * DIGEST_BYTES,
		.digest_bytes = DIGEST_BYTES,
		.suffix = SUFFIX,
	};
}

static int prompt_make(struct prompt *p, char **words, size_t n_words)
{
	uint32_t *tokens = calloc(n_words + 1, sizeof(*tokens));
	int n = -1;

	p->digests = calloc(n_words / BLOCK_TOKENS + 1, DIGEST_BYTES);
	if (tokens && p->digests) {
		for (size_t i = 0; i < n_words; i++)
			tokens[i] = (uint32_t)strtoul(words[i], NULL, 10);
		n = kvfs_chain_digests(HASH, NULL, tokens, n_words,
				       BLOCK_TOKENS, NULL, 0, p->digests);
	}
	free(tokens);
	p->n_blocks = n > 0 ? (uint32_t)n : 0;
	return n < 0 ? n : 0;
}

/* What prefill would do. */
static void compute(const struct prompt *p, uint32_t block, void *to)
{
	for (size_t at = 0; at < BLOCK_BYTES; at += DIGEST_BYTES)
		memcpy((char *)to + at,
		       p->digests + (size_t)block * DIGEST_BYTES, DIGEST_BYTES);
}

/* What attention would do. */
static bool use(const struct prompt *p, uint32_t block,
		const struct kvfs_block *b)
{
	return b->bytes == BLOCK_BYTES &&
	       !memcmp((const char *)b->data + BLOCK_BYTES - DIGEST_BYTES,
		       p->digests + (size_t)block * DIGEST_BYTES, DIGEST_BYTES);
}

/* Returns: how many blocks of the prefix were loaded, or -errno. */
static int load(struct kvfs *k, const struct prompt *p)
{
	struct kvfs_names names = names_from(p, 0);
	struct kvfs_block *blocks;
	struct kvfs_found found;
	uint32_t n = 0;
	int err;

	/* One question for the whole prompt; then only what is there. */
	err = kvfs_exists(k, &names, 0, NULL, &found);
	if (err || !found.n_prefix)
		return err;
	names.n = found.n_prefix;
	blocks = calloc(names.n, sizeof(*blocks));
	if (!blocks)
		return -1;
	err = kvfs_get(k, &names, KVFS_FETCH, 0, blocks);
	while (err >= 0 && n < names.n && !blocks[n].error &&
	       use(p, n, &blocks[n]))
		n++;
	kvfs_put(k, blocks, names.n);
	free(blocks);
	return err < 0 ? err : (int)n;
}

/* All from the first-th on. Each continues the one before. */
static int store(struct kvfs *k, const struct prompt *p, uint32_t first)
{
	uint32_t n = p->n_blocks - first, parent = first ? 1 : 0;
	struct kvfs_names names = names_from(p, first - parent);
	struct kvfs_frame *frames = calloc(n, sizeof(*frames));
	int stored = -1, err;

	err = frames ? kvfs_reserve(k, n, BLOCK_BYTES, frames) : -1;
	if (!err) {
		for (uint32_t i = 0; i < n; i++)
			compute(p, first + i, frames[i].data);
		stored = kvfs_commit(k, &names, parent ? KVFS_PARENT : 0, 0644,
				     frames);
	}
	free(frames);
	return err ? err : stored;
}

static int serve(struct kvfs *k, const struct prompt *p)
{
	int loaded = p->n_blocks ? load(k, p) : 0, stored = 0;

	if (loaded >= 0 && (uint32_t)loaded < p->n_blocks)
		stored = store(k, p, (uint32_t)loaded);
	if (loaded < 0 || stored < 0) {
		fprintf(stderr, "prefix_cache: %s\n",
			kvfs_strerror(loaded < 0 ? loaded : stored));
		return 1;
	}
	printf("%u blocks: %d loaded, %d stored\n", p->n_blocks, loaded,
	       stored);
	return 0;
}

int main(int argc, char **argv)
{
	struct prompt p;
	struct kvfs *k;
	int err;

	if (argc < 2) {
		fprintf(stderr, "usage: prefix_cache DIRECTORY TOKEN...\n");
		return 2;
	}
	err = kvfs_open(argv[1], &k);
	if (err) {
		fprintf(stderr, "%s: %s\n", argv[1], kvfs_strerror(err));
		return 1;
	}
	err = prompt_make(&p, argv + 2, (size_t)argc - 2);
	if (err)
		fprintf(stderr, "prefix_cache: %s\n", kvfs_strerror(err));
	else
		err = serve(k, &p);
	free(p.digests);
	kvfs_close(k);
	return err ? 1 : 0;
}

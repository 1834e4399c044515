// SPDX-License-Identifier: MIT
/*
 * Blocks in place: the bytes are not copied before write(2) takes them out of
 * the pool's own memory. What other nodes hold is fetched first.
 *
 *      cc read_blocks.c $(pkg-config --cflags --libs kvfs) -o read_blocks
 *      ./read_blocks /mnt/kvfs/kv/llama 8f3a.bin 90c1.bin >bytes
 */
#include <kvfs/kvfs.h>
#include <stdio.h>
#include <stdlib.h>

/* Returns: how many of them are not here. */
static uint32_t print_blocks(const char *const *names,
			     const struct kvfs_block *blocks, uint32_t n)
{
	uint32_t missing = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (blocks[i].error) {
			fprintf(stderr, "%s: %s\n", names[i],
				kvfs_strerror(blocks[i].error));
			missing++;
			continue;
		}
		fwrite(blocks[i].data, 1, blocks[i].bytes, stdout);
	}
	return missing;
}

static int read_blocks(struct kvfs *k, const char *const *paths, uint32_t n)
{
	struct kvfs_names names = {.n = n, .paths = paths};
	struct kvfs_block *blocks = calloc(n, sizeof(*blocks));
	uint32_t missing = n;
	int got;

	if (!blocks)
		return 1;
	got = kvfs_get(k, &names, KVFS_FETCH, 0, blocks);
	if (got < 0)
		fprintf(stderr, "read_blocks: %s\n", kvfs_strerror(got));
	else
		missing = print_blocks(paths, blocks, n);
	kvfs_put(k, blocks, n); /* whatever the result was */
	free(blocks);
	return missing || fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct kvfs *k;
	int err;

	if (argc < 3) {
		fprintf(stderr, "usage: read_blocks DIRECTORY NAME...\n");
		return 2;
	}
	err = kvfs_open(argv[1], &k);
	if (err) {
		fprintf(stderr, "%s: %s\n", argv[1], kvfs_strerror(err));
		return 1;
	}
	err = read_blocks(k, (const char *const *)argv + 2, (uint32_t)argc - 2);
	kvfs_close(k);
	return err;
}

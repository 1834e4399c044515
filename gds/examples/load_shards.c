// SPDX-License-Identifier: MIT
/*
 * A checkpoint whose shards are blocks of a namespace comes into one piece of
 * registered memory: what other nodes hold comes from the network straight
 * into it, many shards at a time. With kvfs_register_gpu instead of
 * kvfs_buffer_new it would be memory of a GPU.
 *
 *      cc load_shards.c $(pkg-config --cflags --libs kvfs) -o load_shards
 *      ./load_shards /mnt/kvfs/kv/weights SHARD_BYTES shard-* >weights
 */
#include <errno.h>
#include <kvfs/kvfs.h>
#include <stdio.h>
#include <stdlib.h>

/* Returns: how many shards failed. */
static uint32_t report(const char *const *shards, const struct kvfs_move *moves,
		       uint32_t n)
{
	uint32_t failed = 0, straight = 0;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < n; i++) {
		int err = moves[i].error;

		if (!err && moves[i].bytes != moves[i].size)
			err = -EFBIG;
		if (err)
			fprintf(stderr, "%s: %s\n", shards[i],
				kvfs_strerror(err));
		failed += !!err;
		straight += !!(moves[i].flags & KVFS_STRAIGHT);
		bytes += moves[i].bytes;
	}
	fprintf(stderr, "%u shards, %llu bytes, %u straight from other nodes\n",
		n - failed, (unsigned long long)bytes, straight);
	return failed;
}

static void print_all(const struct kvfs_buffer *b,
		      const struct kvfs_move *moves, uint32_t n)
{
	const char *data = kvfs_buffer_data(b);

	for (uint32_t i = 0; i < n; i++)
		fwrite(data + moves[i].at, 1, moves[i].bytes, stdout);
}

static int load(struct kvfs *k, struct kvfs_buffer *b,
		const char *const *shards, uint32_t n, uint64_t bytes)
{
	struct kvfs_names names = {.n = n, .paths = shards};
	struct kvfs_move *moves = calloc(n, sizeof(*moves));
	uint32_t failed = n;
	int got;

	if (!moves)
		return 1;
	for (uint32_t i = 0; i < n; i++)
		moves[i] = (struct kvfs_move){
			.buffer = b, .at = i * bytes, .length = bytes};
	got = kvfs_read_into(k, &names, KVFS_FETCH, 0, moves);
	if (got < 0)
		fprintf(stderr, "load_shards: %s\n", kvfs_strerror(got));
	else
		failed = report(shards, moves, n);
	if (!failed)
		print_all(b, moves, n);
	free(moves);
	return failed || fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
	uint64_t bytes = argc > 3 ? strtoull(argv[2], NULL, 10) : 0;
	uint32_t n = argc > 3 ? (uint32_t)argc - 3 : 0;
	struct kvfs_buffer *b;
	struct kvfs *k;
	int err;

	if (!bytes) {
		fprintf(stderr,
			"usage: load_shards DIRECTORY SHARD_BYTES NAME...\n");
		return 2;
	}
	err = kvfs_open(argv[1], &k);
	if (err) {
		fprintf(stderr, "%s: %s\n", argv[1], kvfs_strerror(err));
		return 1;
	}
	err = kvfs_buffer_new(k, n * bytes, 0, &b);
	if (err) {
		fprintf(stderr, "load_shards: memory for %u shards: %s\n", n,
			kvfs_strerror(err));
	} else {
		err = load(k, b, (const char *const *)argv + 3, n, bytes);
		kvfs_unregister(b);
	}
	kvfs_close(k);
	return err ? 1 : 0;
}

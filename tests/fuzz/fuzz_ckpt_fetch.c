// SPDX-License-Identifier: MIT
/* Maps of shards as a start reads them, and what another node asks for: the
 * first byte says which. */
#include "tests/fuzz/fuzz.h"

#include <xxhash.h>

#include "fs/ckpt_fetch_map.h"
#include "fs/ckpt_fetch_wire.h"
#include "meta/ckpt.h"

const unsigned fuzz_runs = 200000;

/* Past the checksum. */
static void seal(uint8_t *bytes, size_t n)
{
	uint64_t sum;

	if (n < 8)
		return;
	sum = XXH3_64bits(bytes, n - 8);
	memcpy(bytes + n - 8, &sum, 8);
}

static void check_map(struct cmap *m)
{
	uint64_t missing = 0;
	bool whole = cmap_range(m, 0, m->size_bytes, &missing);

	fuzz_must(m->n_shards <= CKPT_SHARDS_MAX);
	fuzz_must(whole || missing < m->n_shards);
	fuzz_must(m->flags & CMAP_WHOLE || m->bits);
	fuzz_must(cmap_range(m, m->size_bytes, UINT64_MAX, &missing));
	if (whole)
		return;
	fuzz_must(!cmap_has(m, missing));
	cmap_add(m, missing);
	fuzz_must(cmap_has(m, missing));
}

static void read_map(const uint8_t *data, size_t n)
{
	uint8_t *bytes = malloc(n + 1), *again;
	size_t n_again;
	struct cmap m;

	memcpy(bytes, data, n);
	seal(bytes, n);
	if (!cmap_decode(bytes, n, &m)) {
		again = cmap_encode(&m, &n_again);
		fuzz_must(n_again == n && !memcmp(again, bytes, n));
		free(again);
		check_map(&m);
		cmap_fini(&m);
	}
	free(bytes);
}

static void read_ask(const uint8_t *data, size_t n)
{
	uint8_t again[CWIRE_BYTES];
	struct cwire_ask a;

	if (cwire_decode(data, n, &a))
		return;
	fuzz_must(a.length_bytes && a.length_bytes <= CWIRE_SUM_MAX);
	fuzz_must(a.offset + a.length_bytes <= INT64_MAX);
	fuzz_must(a.priority < ENGINE_PRIORITIES && a.ino);
	cwire_encode(&a, again);
	fuzz_must(n == sizeof(again) && !memcmp(again, data, n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (!n)
		return 0;
	if (data[0] & 1)
		read_map(data + 1, n - 1);
	else
		read_ask(data + 1, n - 1);
	return 0;
}

static void seed_map(uint64_t size_bytes, uint64_t have)
{
	uint8_t *bytes, *seed;
	struct cmap m;
	size_t n;

	if (cmap_init(&m, 7, 3, size_bytes, 64 << 20))
		abort();
	for (uint64_t i = 0; i < have; i++)
		cmap_add(&m, i);
	bytes = cmap_encode(&m, &n);
	seed = malloc(n + 1);
	seed[0] = 1;
	memcpy(seed + 1, bytes, n);
	fuzz_seed(seed, n + 1);
	free(seed);
	free(bytes);
	cmap_fini(&m);
}

void fuzz_seeds(void)
{
	uint8_t ask[1 + CWIRE_BYTES] = {0};
	struct cwire_ask a = {.ino = 9,
			      .version = 2,
			      .offset = 64 << 20,
			      .length_bytes = CWIRE_PART_MAX,
			      .priority = ENGINE_PREFETCH,
			      .segment = {3, 4}};

	cwire_encode(&a, ask + 1);
	fuzz_seed(ask, sizeof(ask));
	seed_map(0, 0);
	seed_map(1, 0);
	seed_map(1000000000, 3);
	seed_map(1000000000, 15);
	seed_map(1ull << 37, 100);
}

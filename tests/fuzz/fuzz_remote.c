// SPDX-License-Identifier: MIT
/* What another node says about a block: fs/remote_wire.h. */
#include "tests/fuzz/fuzz.h"

#include "fs/remote_wire.h"

const unsigned fuzz_runs = 400000;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	uint8_t again[REMOTE_MSG_MAX];
	struct remote_msg m;
	struct remote_fetching who;
	int64_t age;

	if (!remote_fetching_decode(data, n, &who)) {
		fuzz_must(remote_fetching_encode(&who, again) == n);
		fuzz_must(!memcmp(again, data, n));
	}
	if (!remote_age_decode(data, n, &age)) {
		fuzz_must(age >= -1 && age < UINT32_MAX);
		remote_age_encode(age, again);
		fuzz_must(!memcmp(again, data, n));
	}
	if (remote_decode(data, n, &m))
		return 0;
	/* what was taken is a path, and is written as it was read */
	fuzz_must(m.path_len >= 3 && m.path_len <= POOL_PATH_MAX);
	fuzz_must(memchr(m.path, '/', m.path_len));
	fuzz_must(!memchr(m.path, 0, m.path_len));
	fuzz_must(m.path[0] != '/' && m.path[m.path_len - 1] != '/');
	fuzz_must(m.priority < ENGINE_PRIORITIES);
	fuzz_must(remote_encode(&m, again) == n);
	fuzz_must(!memcmp(again, data, n));
	return 0;
}

static void seed(const char *path)
{
	uint8_t bytes[REMOTE_MSG_MAX];
	struct remote_msg m = {.generation = 7,
			       .size_bytes = 4 << 20,
			       .checksum = {1, 2},
			       .mode = 0644,
			       .segment = {3, 4},
			       .path = path,
			       .path_len = (uint16_t)strlen(path)};

	fuzz_seed(bytes, remote_encode(&m, bytes));
}

void fuzz_seeds(void)
{
	char longest[POOL_PATH_MAX + 1];

	const struct remote_fetching fetching = {.n = 2, .nodes = {7, 9}};
	uint8_t who[REMOTE_FETCHING_BYTES];
	uint8_t age[REMOTE_AGE_BYTES];

	fuzz_seed(who, remote_fetching_encode(&fetching, who));
	remote_age_encode(-1, age);
	fuzz_seed(age, sizeof(age));
	seed("n/a");
	seed("llama/0a/1b/0a1b2c.bin");
	memset(longest, 'x', sizeof(longest));
	for (size_t i = 200; i < POOL_PATH_MAX; i += 200)
		longest[i] = '/';
	longest[POOL_PATH_MAX] = 0;
	seed(longest);
}

// SPDX-License-Identifier: MIT
/* What anybody may write to .kvfs/match: fs/kv_match_text.c. */
#include "tests/fuzz/fuzz.h"

#include <errno.h>

#include "engine/pool.h"
#include "fs/kv_match.h"

const unsigned fuzz_runs = 200000;

static void check_path(const struct kv_name *path)
{
	const char *at = path->text, *end = path->text + path->len, *slash;

	fuzz_must(path->len >= 1 && path->len <= POOL_PATH_MAX);
	fuzz_must(!memchr(at, 0, path->len));
	fuzz_must(!memchr(at, '\n', path->len));
	for (; at <= end; at = slash + 1) {
		slash = memchr(at, '/', (size_t)(end - at));
		slash = slash ? slash : end;
		fuzz_must(slash > at && slash - at <= 255);
		fuzz_must(slash - at != 1 || *at != '.');
		fuzz_must(slash - at != 2 || memcmp(at, "..", 2));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = malloc(n ? n : 1); /* exact: ASan sees a byte too many */
	struct kv_match_question q;
	unsigned bad_line = 0;
	int err;

	if (!text)
		return 0;
	memcpy(text, data, n);
	err = kv_match_parse(text, n, &q, &bad_line);
	if (err) {
		fuzz_must(!q.names && (err != -EINVAL || bad_line));
		free(text);
		return 0;
	}
	check_path(&q.dir);
	fuzz_must(q.n <= KV_MATCH_NAMES_MAX);
	for (unsigned i = 0; i < q.n; i++) {
		fuzz_must(q.names[i].text > q.dir.text);
		fuzz_must(q.names[i].text + q.names[i].len <= text + n);
		fuzz_must(q.dir.len + 1u + q.names[i].len <= POOL_PATH_MAX);
		check_path(&q.names[i]);
	}
	kv_match_fini(&q);
	free(text);
	return 0;
}

static void seed(const char *text)
{
	fuzz_seed(text, strlen(text));
}

void fuzz_seeds(void)
{
	char longest[POOL_PATH_MAX + 8] = "n\n", *end;

	seed("llama\n0a1b.bin\n2c3d.bin\n");
	seed("llama/8b/r0\n0a/1b_g0/2c.bin\n0a/1b_g0/3d.bin");
	seed("n\n..\n");
	seed("n\na//b\n");
	seed("n\n./a\n");
	seed("/n\na\n");
	seed("n\n\n");
	seed("n\n");
	end = memset(longest + 2, 'x', POOL_PATH_MAX - 2);
	for (size_t i = 255; i < POOL_PATH_MAX - 2; i += 256)
		end[i] = '/';
	seed(longest);
}

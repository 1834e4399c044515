// SPDX-License-Identifier: MIT
/* STATE/kv.dirs, as a start reads it: lines until one is damaged. */
#include "tests/fuzz/fuzz.h"

#include <sys/stat.h>
#include <xxhash.h>

#include "fs/kv_dirs_line.h"

const unsigned fuzz_runs = 60000;

/* Every line gets the checksum of what it says: past the first check. */
static void seal(char *text, size_t n)
{
	char *end = text + n;

	while (end - text > 17) {
		char sum[18], *body = text + 17;
		char *newline = memchr(body, '\n', (size_t)(end - body));

		if (!newline)
			return;
		snprintf(sum, sizeof(sum), "%016llx ",
			 (unsigned long long)XXH3_64bits(
				 body, (size_t)(newline - body)));
		memcpy(text, sum, 17);
		text = newline + 1;
	}
}

/* What apply() takes for granted. */
static void check(const struct kv_dirs_line *l, const char *text,
		  const char *end)
{
	char again[KV_DIRS_LINE_MAX];
	struct kv_dirs_line same;
	size_t n;

	fuzz_must(l->path >= text && l->path + l->len < end);
	fuzz_must(l->len <= POOL_PATH_MAX);
	fuzz_must(!l->len || memchr(l->path, '/', l->len));
	fuzz_must(!memchr(l->path, 0, l->len));
	n = kv_dirs_format(again, l);
	fuzz_must(kv_dirs_parse(again, again + n, &same) == again + n);
	fuzz_must(same.mode == l->mode && same.uid == l->uid &&
		  same.gid == l->gid && same.len == l->len &&
		  !memcmp(same.path, l->path, l->len));
	fuzz_must(!kv_dirs_parse(again, again + n - 1, &same));
}

static void load(const char *text, size_t n)
{
	const char *at = text, *end = text + n, *next;
	struct kv_dirs_line line;

	while (at < end && (next = kv_dirs_parse(at, end, &line))) {
		check(&line, at, end);
		fuzz_must(next > at && next <= end);
		at = next;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = malloc(n ? n : 1);

	if (!text)
		return 0;
	memcpy(text, data, n);
	load(text, n);
	seal(text, n);
	load(text, n);
	free(text);
	return 0;
}

static size_t line(char *text, uint32_t mode, const char *path)
{
	struct kv_dirs_line l = {mode, 1000, 100, (uint32_t)strlen(path), path};

	return kv_dirs_format(text, &l);
}

/* Found here: a line shorter than its checksum made the length of what is
 * summed wrap around. */
static void seed_short(void)
{
	static const char text[] = "0 1 2 3 0 \n0 0 0 0 0 0 0 0 0 0 0\n";

	fuzz_seed(text, sizeof(text) - 1);
}

void fuzz_seeds(void)
{
	char text[8 * KV_DIRS_LINE_MAX], deep[POOL_PATH_MAX + 1] = "ns";
	size_t n = 0;

	n += line(text + n, S_IFDIR | 0755, "");
	n += line(text + n, S_IFDIR | 0700, "ns/private");
	n += line(text + n, S_IFDIR | 02775, "ns/private/shared dir");
	n += line(text + n, 0, "ns/private/shared dir");
	n += line(text + n, S_IFDIR | 0711, "ns/.hidden/\x01\xff\n new line");
	fuzz_seed(text, n);
	while (strlen(deep) < POOL_PATH_MAX - 10)
		strcat(deep, "/12345678");
	fuzz_seed(text, line(text, S_IFDIR | 0700, deep));
	fuzz_seed(text, line(text, S_IFDIR | 0700, "ns/..") +
				line(text + 100, S_IFDIR, "ns/a"));
	seed_short();
}

// SPDX-License-Identifier: MIT
/* Small files of the state directory: namespaces, one-line files; and the
 * name that such a directory gets from its mount point. */
#include "tests/fuzz/fuzz.h"

#include <limits.h>

#include "meta/record.h"
#include "tools/state.h"

const unsigned fuzz_runs = 15000;

static void namespace_check(const char *line, size_t n)
{
	char name[RECORD_NAME_MAX + 1], name_again[RECORD_NAME_MAX + 1];
	char again[RECORD_NS_LINE_MAX];
	struct meta_namespace ns, ns_again;
	uint32_t n_sub, n_sub_again;

	if (record_ns_line_decode(line, n, name, &ns, &n_sub))
		return;
	fuzz_must(record_ns_name_good(name, strlen(name)));
	fuzz_must(strcmp(name, ".") && strcmp(name, ".."));
	fuzz_must(!strchr(name, '/') && n_sub);
	record_ns_line_encode(name, &ns, n_sub, again);
	fuzz_must(!record_ns_line_decode(again, strlen(again), name_again,
					 &ns_again, &n_sub_again));
	fuzz_must(!strcmp(name, name_again) && n_sub == n_sub_again);
	fuzz_must(ns.mode == ns_again.mode && ns.uid == ns_again.uid &&
		  ns.gid == ns_again.gid && ns.replicas == ns_again.replicas &&
		  ns.quota_bytes == ns_again.quota_bytes &&
		  ns.checksum == ns_again.checksum);
}

static void namespaces(const char *text, size_t n)
{
	const char *end = text + n, *newline;

	for (; text < end; text = newline + 1) {
		newline = memchr(text, '\n', (size_t)(end - text));
		if (!newline)
			newline = end;
		namespace_check(text, (size_t)(newline - text));
	}
}

static void one_line(const void *bytes, size_t n)
{
	char small[8], large[PATH_MAX];

	fuzz_file("pid", bytes, n);
	fuzz_must(!state_get(fuzz_dir(), "pid", small, sizeof(small)));
	fuzz_must(!state_get(fuzz_dir(), "pid", large, sizeof(large)));
	fuzz_must(strlen(small) < sizeof(small) && !strchr(large, '\n'));
	fuzz_must(!strncmp(small, large, strlen(small)));
	state_pid(fuzz_dir());
}

/* One part of a path, whatever the mount point is called. */
static void escape(const char *bytes, size_t n)
{
	char *path = strndup(bytes, n), name[NAME_MAX + 1];

	if (path && !state_escape(path, name, sizeof(name))) {
		fuzz_must(*name && *name != '.' && !strchr(name, '/'));
		fuzz_must(strlen(name) < sizeof(name));
	}
	free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const char *bytes = (const char *)data;

	namespaces(bytes, n);
	one_line(bytes, n);
	escape(bytes, n);
	return 0;
}

static void seed_text(const char *text)
{
	fuzz_seed(text, strlen(text));
}

static void seed_namespace(const char *name)
{
	const struct meta_namespace ns = {.mode = 040750,
					  .uid = 1000,
					  .gid = 100,
					  .quota_bytes = UINT64_MAX,
					  .replicas = 2,
					  .checksum = true};
	char line[RECORD_NS_LINE_MAX];

	record_ns_line_encode(name, &ns, 16, line);
	seed_text(line);
}

void fuzz_seeds(void)
{
	char longest[RECORD_NAME_MAX + 1] = {0};

	memset(longest, 0xff, RECORD_NAME_MAX);
	seed_namespace("models");
	seed_namespace(" %\n\x7f new");
	seed_namespace(longest);
	/* Found here: each was a namespace that no directory can be. */
	seed_text("a%2Fb 16877 0 0 0 1 1 16");
	seed_text(".. 16877 0 0 0 1 1 16");
	seed_text("a%-1 16877 0 0 0 1 1 16\na%4Gb 16877 0 0 0 1 1 16\n");
	seed_text("4711\n");
	seed_text("/mnt/kv cache/\xc3\xa4/.hidden//");
}

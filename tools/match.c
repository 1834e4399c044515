// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fs/kv_match.h"
#include "tools/json.h"
#include "tools/mountinfo.h"
#include "tools/term.h"
#include "tools/verb.h"

/* One question to .kvfs/match: kvfs(7) has the form. */

#define ANSWER_MAX (64u << 10)

struct match_args {
	bool json;
};

struct question {
	char mountpoint[PATH_MAX];
	char dir[PATH_MAX]; /* below kv/ */
	char *text;
	size_t n;
};

static int find_namespace(const char *path, struct question *q)
{
	char resolved[PATH_MAX];
	struct mount_entry m;
	const char *rest;
	struct stat st;
	int err = mountinfo_resolve(path, resolved), status;

	if (!err && stat(resolved, &st))
		err = -errno;
	if (!err && !S_ISDIR(st.st_mode))
		err = -ENOTDIR;
	if (err)
		return verb_fail(EXIT_TROUBLE, "%s: %s", path, strerror(-err));
	status = verb_mount_of(resolved, &m);
	if (status)
		return status;
	rest = resolved + strlen(m.mountpoint);
	if (strncmp(rest, "/kv/", 4) || !rest[4])
		return verb_fail(EXIT_TROUBLE,
				 "%s: no namespace; those are directories in "
				 "%s/kv",
				 path, m.mountpoint);
	strcpy(q->mountpoint, m.mountpoint);
	strcpy(q->dir, rest + 4);
	return EXIT_FINE;
}

/* The directory's line, then the file as it is. */
static int read_names(const char *path, struct question *q)
{
	cleanup_close int opened = -1;
	int fd = STDIN_FILENO;
	ssize_t got;

	if (strcmp(path, "-"))
		fd = opened = open(path, O_RDONLY | O_CLOEXEC);
	q->text = malloc(KV_MATCH_BYTES_MAX + 1);
	if (fd < 0 || !q->text)
		return verb_fail(EXIT_TROUBLE, "%s: %s", path, strerror(errno));
	q->n = (size_t)sprintf(q->text, "%s\n", q->dir);
	do {
		got = read(fd, q->text + q->n, KV_MATCH_BYTES_MAX + 1 - q->n);
		if (got < 0)
			return verb_fail(EXIT_TROUBLE, "%s: %s", path,
					 strerror(errno));
		q->n += (size_t)got;
	} while (got);
	if (q->n > KV_MATCH_BYTES_MAX)
		return verb_fail(EXIT_TROUBLE, "%s: more than %u MiB of names",
				 path, KV_MATCH_BYTES_MAX >> 20);
	return EXIT_FINE;
}

/* The daemon only says that a question is none; here it can be said why. */
static int check_names(const char *path, const struct question *q)
{
	struct kv_match_question parsed;
	unsigned bad_line = 0;
	int err = kv_match_parse(q->text, q->n, &parsed, &bad_line);

	if (!err) {
		kv_match_fini(&parsed);
		return EXIT_FINE;
	}
	if (err == -E2BIG)
		return verb_fail(EXIT_TROUBLE, "%s: more than %u names", path,
				 KV_MATCH_NAMES_MAX);
	if (err == -EINVAL && bad_line > 1)
		return verb_fail(EXIT_TROUBLE,
				 "%s:%u: it can be no block's name", path,
				 bad_line - 1);
	return verb_fail(EXIT_TROUBLE, "%s: %s", path, strerror(-err));
}

static int transact(const struct question *q, char *answer)
{
	char path[PATH_MAX + 16];
	cleanup_close int fd = -1;
	size_t n = 0;
	ssize_t r;

	snprintf(path, sizeof(path), "%s/.kvfs/match", q->mountpoint);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (size_t at = 0; at < q->n; at += (size_t)r) {
		r = write(fd, q->text + at, q->n - at);
		if (r < 0)
			return -errno;
	}
	while ((r = read(fd, answer + n, ANSWER_MAX - 1 - n)) > 0)
		n += (size_t)r;
	answer[n] = 0;
	return r < 0 ? -errno : 0;
}

static void print(const char *path, json_t *answer)
{
	static const struct table_column columns[] = {{"node", false},
						      {"prefix", true}};
	uint64_t prefix = json_u64(answer, "prefix", 0);
	struct table *t = table_new(columns, 2);
	char shown[PATH_MAX], name[256];
	json_t *node;
	size_t i;

	printf("%s: %llu of %llu blocks from the first on\n",
	       term_printable(path, shown, sizeof(shown)),
	       (unsigned long long)prefix,
	       (unsigned long long)json_u64(answer, "names", 0));
	if (!json_bool(answer, "complete", true))
		printf("Redis does not answer: other nodes may have more\n");
	json_array_foreach (json_at(answer, "nodes"), i, node) {
		table_add(t, "%s%s",
			  term_printable(json_text(node, "name", "?"), name,
					 sizeof(name)),
			  json_bool(node, "self", false) ? " (this one)" : "");
		table_add(t, "%llu",
			  (unsigned long long)json_u64(node, "prefix", 0));
	}
	if (i)
		table_print(t, stdout);
	table_free(t);
}

static int ask(const struct match_args *a, const char *path,
	       const struct question *q)
{
	cleanup_free char *text = malloc(ANSWER_MAX);
	cleanup_json json_t *answer = NULL;
	int err = text ? transact(q, text) : -ENOMEM, status;

	if (!err && !(answer = json_loads(text, 0, NULL)))
		err = -EBADMSG;
	if (err)
		return verb_fail(EXIT_TROUBLE, "%s/.kvfs/match: %s",
				 q->mountpoint, strerror(-err));
	status = json_u64(answer, "prefix", 0) ? EXIT_FINE : EXIT_NEGATIVE;
	if (a->json)
		json_put_line(json_incref(answer));
	else
		print(path, answer);
	return status;
}

static int run(void *args, char **operands)
{
	struct question q = {.n = 0};
	int status = find_namespace(operands[0], &q);

	if (!status)
		status = read_names(operands[1], &q);
	if (!status)
		status = check_names(operands[1], &q);
	if (!status)
		status = ask(args, operands[0], &q);
	free(q.text);
	return status;
}

static const struct option_spec options[] = {
	{"json", 0, OPTION_FLAG, offsetof(struct match_args, json), NULL,
	 "the answer of .kvfs/match in one line"},
	{}};

const struct verb verb_match = {
	.name = "match",
	.operands = "NAMESPACE NAMES",
	.summary = "how much of a chain of blocks is there, and on which nodes",
	.about = "NAMES is a file with the names of a request's blocks in "
		 "their order, one a line, relative to NAMESPACE (a directory "
		 "in kv/ or below one); '-' is the standard input. Shown is "
		 "how many of them, from the first on, are in the cluster, "
		 "and on each node that has the first: what a router that "
		 "knows of caches wants. Redis is asked at most three times "
		 "for 2,000 names. While it is away the answer is what this "
		 "node knows, and says so.\n\n"
		 "A router asks .kvfs/match itself, see kvfs(7).\n\n"
		 "Exit status: 0 the first block is there; 1 it is not; 2, 3 "
		 "as always.",
	.options = options,
	.min_operands = 2,
	.max_operands = 2,
	.args_bytes = sizeof(struct match_args),
	.examples = "kvfs match /mnt/kvfs/kv/llama names.txt\n"
		    "kvfs match --json /mnt/kvfs/kv/llama - <names.txt | "
		    "jq -r '.nodes[0].name'",
	.run = run,
};

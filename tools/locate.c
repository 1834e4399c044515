// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/json.h"
#include "tools/mountinfo.h"
#include "tools/property.h"
#include "tools/term.h"
#include "tools/verb.h"

#define HOLDERS_BYTES 65536

struct locate_args {
	bool json;
};

static void put_json(const char *path, char *holders)
{
	json_t *list = json_array(), *o;
	char *rest = holders, *one;

	while ((one = strsep(&rest, " ")))
		if (*one)
			json_array_append_new(list, json_name(one));
	o = json_pack("{s:o, s:o}", "path", json_name(path), "holders", list);
	if (o)
		json_put_line(o);
}

static void put_text(const char *path, const char *holders)
{
	char shown[4096];

	printf("%s: %s\n", term_printable(path, shown, sizeof(shown)),
	       *holders ? holders : "empty: there is nothing to hold");
}

static int locate(const struct locate_args *a, const char *path)
{
	char holders[HOLDERS_BYTES];
	struct mount_entry m;
	struct stat st;
	ssize_t n;
	int status = verb_mount_of(path, &m);

	if (status)
		return status;
	n = property_get(path, "holders", holders, sizeof(holders));
	if (n == -ENOENT || n == -ESTALE ||
	    (!n && !lstat(path, &st) && st.st_size))
		return verb_fail(EXIT_NEGATIVE, "%s: no node has it", path);
	if (n == -ENODATA)
		return verb_fail(EXIT_NEGATIVE, "%s: it is no file", path);
	if (n < 0)
		return verb_fail(EXIT_TROUBLE, "%s: %s", path,
				 strerror((int)-n));
	if (a->json)
		put_json(path, holders);
	else
		put_text(path, holders);
	return EXIT_FINE;
}

static int run(void *args, char **operands)
{
	int worst = EXIT_FINE, status;

	for (; *operands; operands++) {
		status = locate(args, *operands);
		if (status > worst)
			worst = status;
	}
	return worst;
}

static const struct option_spec options[] = {
	{"json", 0, OPTION_FLAG, offsetof(struct locate_args, json), NULL,
	 "one JSON object a line for each path"},
	{}};

const struct verb verb_locate = {
	.name = "locate",
	.operands = "PATH...",
	.summary = "which nodes hold a file",
	.about = "As Redis has it now; of a block, while Redis is away, this "
		 "node's own knowledge. A file of ckpt/ is held by those that "
		 "have any of its shards.\n\n"
		 "Exit status: 0 all found; 1 a file is nowhere; 2, 3 as "
		 "always.",
	.options = options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct locate_args),
	.examples =
		"kvfs locate /mnt/kvfs/kv/llama/8f3a.bin\n"
		"kvfs locate --json /mnt/kvfs/ckpt/step-1000/* | jq .holders",
	.run = run,
};

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "tools/order.h"
#include "tools/verb.h"

struct rm_args {
	bool json, quiet, recursive;
};

static int act(const struct order *o, const char *path)
{
	if (!unlink(path))
		return 0;
	/* listed, and gone by now: evicted, or removed by another */
	return errno == ENOENT && o->recursive ? -EALREADY : -errno;
}

static int run(void *args, char **operands)
{
	const struct rm_args *a = args;
	struct order o = {.verb = "removed",
			  .label = "removing",
			  .json = a->json,
			  .quiet = a->quiet,
			  .recursive = a->recursive,
			  .act = act};

	return order_run(&o, operands);
}

#define AT(member) offsetof(struct rm_args, member)

static const struct option_spec options[] = {
	{"recursive", 'r', OPTION_FLAG, AT(recursive), NULL,
	 "all that lies below a directory"},
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "one JSON object a line for each file"},
	{"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "no summary"},
	{}};

const struct verb verb_rm = {
	.name = "rm",
	.operands = "PATH...",
	.summary = "remove files on all nodes, many at a time",
	.about =
		"As rm(1), but sixteen at a time: each removal waits until the "
		"nodes that hold the block have dropped it. Directories "
		"stay."
		"\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct rm_args),
	.examples = "kvfs rm /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs rm -r /mnt/kvfs/kv/llama/old",
	.run = run,
};

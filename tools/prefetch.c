// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "tools/order.h"
#include "tools/property.h"
#include "tools/verb.h"

struct prefetch_args {
	bool json, quiet, recursive;
};

static int act(const struct order *o, const char *path)
{
	char value[32];
	ssize_t n = property_get(path, "state", value, sizeof(value));

	(void)o;
	if (n < 0)
		return (int)n;
	if (strcmp(value, "remote"))
		return -EALREADY;
	n = property_get(path, "fetch", value, sizeof(value));
	return n < 0 ? (int)n : 0;
}

static int run(void *args, char **operands)
{
	const struct prefetch_args *a = args;
	struct order o = {.verb = "here",
			  .label = "fetching",
			  .json = a->json,
			  .quiet = a->quiet,
			  .recursive = a->recursive,
			  .act = act};

	return order_run(&o, operands);
}

#define AT(member) offsetof(struct prefetch_args, member)

static const struct option_spec options[] = {
	{"recursive", 'r', OPTION_FLAG, AT(recursive), NULL,
	 "all that lies below a directory"},
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "one JSON object a line for each file"},
	{"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "no summary"},
	{}};

const struct verb verb_prefetch = {
	.name = "prefetch",
	.operands = "PATH...",
	.summary = "fetch blocks of other nodes into this one",
	.about = "Returns when they are here, so that their reader finds them "
		 "as "
		 "fast as if they had been stored on this node. A fetched "
		 "block is the first to go when room is needed; kvfs pin "
		 "keeps it."
		 "\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct prefetch_args),
	.examples = "kvfs prefetch /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs prefetch -r /mnt/kvfs/kv/llama/system-prompt",
	.run = run,
};

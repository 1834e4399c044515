// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "tools/order.h"
#include "tools/property.h"
#include "tools/verb.h"

struct unpin_args {
	bool json, quiet, recursive;
};

static int act(const struct order *o, const char *path)
{
	char value[8];

	(void)o;
	if (property_get(path, "pin", value, sizeof(value)) > 0 &&
	    !strcmp(value, "off"))
		return -EALREADY;
	return order_set(path, "pin", "off");
}

static int run(void *args, char **operands)
{
	const struct unpin_args *a = args;
	struct order o = {.verb = "unpinned",
			  .label = "unpinning",
			  .json = a->json,
			  .quiet = a->quiet,
			  .recursive = a->recursive,
			  .act = act};

	return order_run(&o, operands);
}

#define AT(member) offsetof(struct unpin_args, member)

static const struct option_spec options[] = {
	{"recursive", 'r', OPTION_FLAG, AT(recursive), NULL,
	 "all that lies below a directory"},
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "one JSON object a line for each file"},
	{"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "no summary"},
	{}};

const struct verb verb_unpin = {
	.name = "unpin",
	.operands = "PATH...",
	.summary = "let blocks be evicted again",
	.about = "Takes back what kvfs pin did. The blocks stay until their "
		 "room "
		 "is needed."
		 "\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct unpin_args),
	.examples = "kvfs unpin /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs unpin -r /mnt/kvfs/kv/llama/system-prompt",
	.run = run,
};

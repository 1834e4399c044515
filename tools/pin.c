// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "tools/order.h"
#include "tools/property.h"
#include "tools/verb.h"

struct pin_args {
	bool json, quiet, recursive;
};

static int act(const struct order *o, const char *path)
{
	char value[8];

	(void)o;
	if (property_get(path, "pin", value, sizeof(value)) > 0 &&
	    !strcmp(value, "on"))
		return -EALREADY;
	return order_set(path, "pin", "on");
}

static int run(void *args, char **operands)
{
	const struct pin_args *a = args;
	struct order o = {.verb = "pinned",
			  .label = "pinning",
			  .json = a->json,
			  .quiet = a->quiet,
			  .recursive = a->recursive,
			  .act = act};

	return order_run(&o, operands);
}

#define AT(member) offsetof(struct pin_args, member)

static const struct option_spec options[] = {
	{"recursive", 'r', OPTION_FLAG, AT(recursive), NULL,
	 "all that lies below a directory"},
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "one JSON object a line for each file"},
	{"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "no summary"},
	{}};

const struct verb verb_pin = {
	.name = "pin",
	.operands = "PATH...",
	.summary = "keep blocks on this node, whatever else needs room",
	.about = "A block of another node is fetched first. A pinned block is "
		 "never evicted from this node, also after a restart of the "
		 "daemon; it can still be removed. What is pinned does not "
		 "count as room that others could have."
		 "\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct pin_args),
	.examples = "kvfs pin /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs pin -r /mnt/kvfs/kv/llama/system-prompt",
	.run = run,
};

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "tools/order.h"
#include "tools/property.h"
#include "tools/verb.h"

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
	return order_simple(args, operands, "here", "fetching", act);
}

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
	.options = order_options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct order_args),
	.examples = "kvfs prefetch /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs prefetch -r /mnt/kvfs/kv/llama/system-prompt",
	.run = run,
};

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "tools/order.h"
#include "tools/property.h"
#include "tools/verb.h"

static int act(const struct order *o, const char *path)
{
	char value[8];

	(void)o;
	if (order_is_checkpoint(path))
		return order_fetch(path);
	if (property_get(path, "pin", value, sizeof(value)) > 0 &&
	    !strcmp(value, "on"))
		return -EALREADY;
	return order_set(path, "pin", "on");
}

static int run(void *args, char **operands)
{
	return order_simple(args, operands, "pinned", "pinning", act);
}

const struct verb verb_pin = {
	.name = "pin",
	.operands = "PATH...",
	.summary = "keep blocks on this node, whatever else needs room",
	.about = "A block of another node is fetched first. A pinned block is "
		 "never evicted from this node, also after a restart of the "
		 "daemon; it can still be removed. What is pinned does not "
		 "count as room that others could have."
		 "\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = order_options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct order_args),
	.examples = "kvfs pin /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs pin -r /mnt/kvfs/kv/llama/system-prompt",
	.run = run,
};

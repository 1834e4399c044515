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
		return -EALREADY;
	if (property_get(path, "pin", value, sizeof(value)) > 0 &&
	    !strcmp(value, "off"))
		return -EALREADY;
	return order_set(path, "pin", "off");
}

static int run(void *args, char **operands)
{
	return order_simple(args, operands, "unpinned", "unpinning", act);
}

const struct verb verb_unpin = {
	.name = "unpin",
	.operands = "PATH...",
	.summary = "let blocks be evicted again",
	.about = "Takes back what kvfs pin did. The blocks stay until their "
		 "room "
		 "is needed."
		 "\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = order_options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct order_args),
	.examples = "kvfs unpin /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs unpin -r /mnt/kvfs/kv/llama/system-prompt",
	.run = run,
};

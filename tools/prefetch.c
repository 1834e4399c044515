// SPDX-License-Identifier: MIT
#include "tools/order.h"
#include "tools/verb.h"

static int act(const struct order *o, const char *path)
{
	(void)o;
	return order_fetch(path);
}

static int run(void *args, char **operands)
{
	return order_simple(args, operands, "here", "fetching", act);
}

const struct verb verb_prefetch = {
	.name = "prefetch",
	.operands = "PATH...",
	.summary = "fetch files of other nodes into this one",
	.about = "Returns when they are here, so that their reader finds them "
		 "as fast as if they had been stored on this node. A fetched "
		 "block is the first to go when room is needed; kvfs pin "
		 "keeps it. A file in ckpt/ stays until it is removed."
		 "\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = order_options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct order_args),
	.examples = "kvfs prefetch -r /mnt/kvfs/kv/llama/system-prompt\n"
		    "kvfs prefetch -r /mnt/kvfs/ckpt/step-1000",
	.run = run,
};

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <unistd.h>

#include "tools/order.h"
#include "tools/verb.h"

static int act(const struct order *o, const char *path)
{
	if (!unlink(path))
		return 0;
	/* listed, and gone by now: evicted, or removed by another */
	return errno == ENOENT && o->recursive ? -EALREADY : -errno;
}

static int run(void *args, char **operands)
{
	return order_simple(args, operands, "removed", "removing", act);
}

const struct verb verb_rm = {
	.name = "rm",
	.operands = "PATH...",
	.summary = "remove files on all nodes, many at a time",
	.about =
		"As rm(1), but sixteen at a time: each removal waits until the "
		"nodes that hold the block have dropped it. Directories "
		"stay."
		"\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = order_options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct order_args),
	.examples = "kvfs rm /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs rm -r /mnt/kvfs/kv/llama/old",
	.run = run,
};

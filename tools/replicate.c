// SPDX-License-Identifier: MIT
#include <stddef.h>

#include "tools/order.h"
#include "tools/verb.h"

struct replicate_args {
	bool json, quiet, recursive;
	uint64_t copies;
};

static int act(const struct order *o, const char *path)
{
	return order_copies(path, o->n);
}

static int run(void *args, char **operands)
{
	const struct replicate_args *a = args;
	struct order o = {.verb = "replicated",
			  .label = "replicating",
			  .json = a->json,
			  .quiet = a->quiet,
			  .recursive = a->recursive,
			  .n = a->copies,
			  .act = act};

	if (a->copies < 1 || a->copies > 16)
		return verb_fail(EXIT_USAGE, "--copies: between 1 and 16");
	return order_run(&o, operands);
}

#define AT(member) offsetof(struct replicate_args, member)

static const struct option_spec options[] = {
	{"copies", 'n', OPTION_NUMBER, AT(copies), "N",
	 "on so many hosts, this one included (default: 2)"},
	{"recursive", 'r', OPTION_FLAG, AT(recursive), NULL,
	 "all that lies below a directory"},
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "one JSON object a line for each file"},
	{"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "no summary"},
	{}};

static const struct replicate_args defaults = {.copies = 2};

const struct verb verb_replicate = {
	.name = "replicate",
	.operands = "PATH...",
	.summary = "have files held by several nodes",
	.about = "Nodes that have room and do not hold a file yet are asked to "
		 "fetch it; those that drain do not count. In kv/ replicas are "
		 "as durable as the pools that hold "
		 "them: an eviction or the loss of a node may take one. For "
		 "all blocks of a namespace, as they are stored: setfattr -n "
		 "user.kvfs.replicas."
		 "\n\nExit status: 0 all done; 1 some failed; 2, 3 as always.",
	.options = options,
	.min_operands = 1,
	.max_operands = -1,
	.defaults = &defaults,
	.args_bytes = sizeof(struct replicate_args),
	.examples = "kvfs replicate -n 3 /mnt/kvfs/kv/llama/8f3a.bin\n"
		    "kvfs replicate -r /mnt/kvfs/ckpt/step-1000",
	.run = run,
};

// SPDX-License-Identifier: MIT
#include <stdio.h>

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 318
#endif
#include <fuse3/fuse_lowlevel.h>

#include "tools/json.h"
#include "tools/verb.h"

struct version_args {
	bool json;
};

static int run(void *args, char **operands)
{
	const struct version_args *a = args;

	(void)operands;
	if (a->json)
		json_put(json_pack("{s:s, s:s}", "version", KVFS_VERSION,
				   "libfuse", fuse_pkgversion()));
	else
		printf("kvfs %s (libfuse %s)\n", KVFS_VERSION,
		       fuse_pkgversion());
	return EXIT_FINE;
}

static const struct option_spec options[] = {
	{"json", 0, OPTION_FLAG, offsetof(struct version_args, json), NULL,
	 "as one JSON object"},
	{}};

const struct verb verb_version = {
	.name = "version",
	.operands = "",
	.summary = "print the version",
	.options = options,
	.args_bytes = sizeof(struct version_args),
	.examples = "  kvfs version --json",
	.run = run,
};

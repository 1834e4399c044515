// SPDX-License-Identifier: MIT
#include <stdio.h>

#include "tools/verb.h"

static void print_verbs(void)
{
	const struct verb *v;

	puts("kvfs - a KV-cache pool and a checkpoint store as one filesystem\n"
	     "\nusage: kvfs VERB [OPTION]... [OPERAND]...\n");
	for (unsigned i = 0; (v = verb_each(i)); i++)
		if (!v->hidden)
			printf("  %-9s %s\n", v->name, v->summary);
	puts("\n'kvfs help VERB' and 'kvfs VERB --help' say more.\n"
	     "\nExit status: 0 fine; 1 the answer is no (a damaged file, "
	     "nothing"
	     " mounted);\n2 the command line is wrong; 3 it could not be "
	     "done.\n"
	     "\nExamples:\n"
	     "  kvfs mount /mnt/kvfs -o pool=8G\n"
	     "  kvfs status /mnt/kvfs\n"
	     "  kvfs umount /mnt/kvfs");
}

static int run(void *args, char **operands)
{
	const struct verb *v;

	(void)args;
	if (!operands[0]) {
		print_verbs();
		return EXIT_FINE;
	}
	v = verb_find(operands[0]);
	if (!v)
		return verb_fail(EXIT_USAGE, "%s: no such verb", operands[0]);
	verb_help_print(v);
	return EXIT_FINE;
}

static const struct option_spec options[] = {{}};

const struct verb verb_help = {
	.name = "help",
	.operands = "[VERB]",
	.summary = "list the verbs, or explain one",
	.options = options,
	.max_operands = 1,
	.examples = "  kvfs help mount",
	.run = run,
};

// SPDX-License-Identifier: MIT
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "tools/verb.h"

static const struct verb *const verbs[] = {
	&verb_mount,	    &verb_umount,   &verb_drain,     &verb_status,
	&verb_nodes,	    &verb_topology, &verb_info,	     &verb_locate,
	&verb_match,	    &verb_ls,	    &verb_verify,    &verb_prefetch,
	&verb_pin,	    &verb_unpin,    &verb_replicate, &verb_rm,
	&verb_bench,	    &verb_replay,   &verb_help,	     &verb_version,
	&verb_mount_helper, NULL,
};

const struct verb *verb_each(unsigned i)
{
	return verbs[i];
}

const struct verb *verb_find(const char *name)
{
	for (unsigned i = 0; verbs[i]; i++)
		if (!strcmp(verbs[i]->name, name))
			return verbs[i];
	return NULL;
}

/* mount(8) calls us as mount.kvfs: then the name of the program is the verb;
 * `kvfs --help` and `kvfs --version` mean the verbs. */
static const struct verb *which(int *argc, char ***argv)
{
	const char *name = strrchr((*argv)[0], '/');

	name = name ? name + 1 : (*argv)[0];
	if (!strcmp(name, verb_mount_helper.name))
		return &verb_mount_helper;
	if (*argc < 2)
		return &verb_help;
	++*argv;
	--*argc;
	name = (*argv)[0];
	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		return &verb_help;
	if (!strcmp(name, "--version") || !strcmp(name, "-V"))
		return &verb_version;
	return verb_find(name);
}

int main(int argc, char **argv)
{
	const struct verb *v;

	setlocale(LC_CTYPE, "");
	if (argc < 1)
		return EXIT_USAGE;
	v = which(&argc, &argv);
	if (!v)
		return verb_fail(EXIT_USAGE, "%s: no such verb", argv[0]);
	return verb_call(v, argc, argv);
}

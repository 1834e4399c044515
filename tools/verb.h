/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_VERB_H
#define KVFS_TOOLS_VERB_H

/*
 * A verb of the command: `kvfs VERB [OPTION]… OPERAND…`. Each lives in a file
 * of its own and is one struct verb: what --help says, what is parsed and what
 * runs come from the same table. kvfs.c lists them.
 */

#include "tools/options.h"

struct mount_entry;

/* What the command's exit status means; `kvfs help` prints it. */
enum {
	EXIT_FINE = 0,
	EXIT_NEGATIVE = 1, /* it worked, and the answer is no */
	EXIT_USAGE = 2,	   /* the command line is wrong */
	EXIT_TROUBLE = 3,  /* it could not be done */
};

struct verb {
	const char *name;
	const char *operands; /* "MOUNTPOINT", "PATH...", or "" */
	const char *summary;  /* one line, lower case, no full stop */
	const char *about;    /* paragraphs, an empty line between; or NULL */
	const char *examples; /* lines, or NULL */
	const struct option_spec *options; /* ends with an empty one */
	const char *list_title;		/* what the values of -o are, or NULL */
	const struct option_spec *list; /* and their table */
	int min_operands, max_operands; /* max < 0: any number */
	const void *defaults;		/* args_bytes of them, or NULL: zeros */
	size_t args_bytes;
	bool hidden; /* not in `kvfs help` */
	/**
	 * run - do it
	 * @args: args_bytes, defaults overlaid with what was given
	 * @operands: NULL-terminated, between min and max of them
	 *
	 * Returns: the exit status.
	 */
	int (*run)(void *args, char **operands);
};

extern const struct verb verb_mount, verb_umount, verb_status, verb_info,
	verb_ls, verb_verify, verb_bench, verb_replay, verb_help, verb_version,
	verb_mount_helper, verb_nodes, verb_locate, verb_prefetch, verb_pin,
	verb_unpin, verb_replicate, verb_rm, verb_drain, verb_match,
	verb_topology;

/** verb_find - by name, or NULL. */
const struct verb *verb_find(const char *name);

/** verb_each - in the order of `kvfs help`; NULL after the last. */
const struct verb *verb_each(unsigned i);

/**
 * verb_call - parse the command line of a verb and run it
 * @argv: argv[0] is the verb's name
 *
 * Returns: the exit status. --help is answered here.
 */
int verb_call(const struct verb *v, int argc, char **argv);

/** verb_help_print - all of `kvfs help VERB`. */
void verb_help_print(const struct verb *v);

/**
 * verb_fail - say "kvfs VERB: object: what; what to do" on stderr
 * @status: EXIT_NEGATIVE, EXIT_USAGE (a hint at the help follows), EXIT_TROUBLE
 *
 * Returns: status, so that a verb can end with `return verb_fail(…)`.
 */
int verb_fail(int status, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/** verb_mount_of - the kvfs that a path lies in (mountinfo_of), or it is said
 *  why there is none. Returns: EXIT_FINE, EXIT_NEGATIVE its folder does not
 *  exist, or EXIT_TROUBLE. */
int verb_mount_of(const char *path, struct mount_entry *m);

#endif

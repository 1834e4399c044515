/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_OPTIONS_H
#define KVFS_TOOLS_OPTIONS_H

/*
 * Options as tables. A table says how an option is called, what kind of value
 * it takes and which member of the verb's args it sets; parsing (over
 * getopt_long, or for the comma list of `-o`) and help come from it.
 *
 *      struct ls_args { bool json; uint64_t limit; };
 *      static const struct option_spec options[] = {
 *              { "json", 0, OPTION_FLAG, offsetof(struct ls_args, json),
 *                NULL, "one JSON object a line" },
 *              { "limit", 'n', OPTION_NUMBER,
 *                offsetof(struct ls_args, limit), "N", "stop after N" },
 *              {} };
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum option_kind {
	OPTION_FLAG,	/* bool: set to true; takes no value */
	OPTION_TEXT,	/* const char *: points into argv or the list */
	OPTION_SIZE,	/* uint64_t bytes: "64K", "8G" */
	OPTION_NUMBER,	/* uint64_t */
	OPTION_REAL,	/* double, not negative */
	OPTION_MS,	/* unsigned milliseconds: "5" or "5s" seconds, "50ms" */
	OPTION_CHOICE,	/* int: which of arg's "this|that|other" */
	OPTION_JOIN,	/* char *, malloced: repeats are joined by commas */
	OPTION_IGNORED, /* accepted, with or without a value, to no effect;
			   not in the help */
};

struct option_spec {
	const char *name; /* long name; NULL with letter 0 ends the table */
	char letter;	  /* short name, or 0 */
	enum option_kind kind;
	size_t offset;	  /* of the member it sets */
	const char *arg;  /* what the help calls the value; the choices */
	const char *help; /* may have newlines */
};

#define OPTION_ERROR_BYTES 256

/**
 * options_parse - read argv by a table (getopt_long: operands may be mixed in)
 * @argv: argv[0] is skipped; reordered so that operands come last
 * @args: the struct whose members are set
 * @error: what is wrong, OPTION_ERROR_BYTES, set with -EINVAL
 *
 * Returns: the index of the first operand, OPTIONS_HELP when --help or an
 *          undefined -h was met, or -EINVAL.
 */
int options_parse(const struct option_spec *table, int argc, char **argv,
		  void *args, char *error);
#define OPTIONS_HELP 0

/**
 * options_parse_list - read "name=value,name,…" by a table
 * @text: is cut up in place; TEXT members point into it
 *
 * Names match whole; "\," stands for a comma in a value.
 * Returns: 0 or -EINVAL with error set (an unknown name comes with the
 *          nearest known one).
 */
int options_parse_list(const struct option_spec *table, char *text, void *args,
		       char *error);

/** options_print - the table as help text; as_list: "name=ARG" lines. */
void options_print(const struct option_spec *table, bool as_list, FILE *out);

/** options_nearest - the known name that a typing error may have meant, or
 *  NULL when none is near. */
const char *options_nearest(const struct option_spec *table, const char *name);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_ORDER_H
#define KVFS_TOOLS_ORDER_H

/*
 * One thing done to many files: what prefetch, pin, unpin, replicate, rm and
 * drain have in common. Paths are walked by one thread and worked on by
 * several, because each waits for a daemon that waits for other nodes.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/options.h"

#define ORDER_THREADS 16

struct order {
	const char *verb;  /* "pinned": what was done, in the summary */
	const char *label; /* of the progress bar */
	bool json, quiet, recursive;
	/** act - on one file. Returns: 0, or -errno; -ENOENT is no failure
	 *  where it was found by walking, -EALREADY is "nothing to do". */
	int (*act)(const struct order *o, const char *path);
	uint64_t n; /* the verb's own */

	/* results */
	uint64_t n_done, n_nothing, n_failed;
};

/**
 * order_run - do it to all of them
 * @paths: ends with NULL; each must lie in a kvfs
 *
 * One line for each that failed on stderr; with json one object for each on
 * stdout; then the summary.
 * Returns: the exit status: 0 all done; 1 some were not there or failed.
 */
int order_run(struct order *o, char **paths);

/* The verbs that take files and nothing else: pin, unpin, prefetch, rm. */
struct order_args {
	bool json, quiet, recursive;
};
extern const struct option_spec order_options[];

/** order_simple - order_run with what order_options gave. */
int order_simple(const struct order_args *a, char **paths, const char *verb,
		 const char *label,
		 int (*act)(const struct order *o, const char *path));

/** order_set - set user.kvfs.NAME; 0 or -errno. */
int order_set(const char *path, const char *name, const char *value);

/** order_fetch - have all of a file on this node; -EALREADY it was. */
int order_fetch(const char *path);

/** order_copies - have N hosts hold a file; waits, however large it is.
 *  Returns: 0, -EALREADY they did, -EBUSY too few could, or -errno. */
int order_copies(const char *path, uint64_t n);

/** order_is_checkpoint - is it a file in ckpt/? */
bool order_is_checkpoint(const char *path);

#endif

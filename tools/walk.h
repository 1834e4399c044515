/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_WALK_H
#define KVFS_TOOLS_WALK_H

/*
 * A file, or a directory and what lies below it, in the order in which the
 * directory gives its names: nothing is collected, so millions of names
 * stream. Other mounts below are not entered.
 */

#include <stdbool.h>

struct walk_entry {
	const char *path; /* to open it by */
	const char
		*shown; /* below the operand; the operand itself for a file */
	unsigned char type; /* DT_REG, DT_DIR, …; DT_UNKNOWN is resolved */
	int err;	    /* not 0: this -errno stopped the walk here */
};

/**
 * walk - visit what a path names
 * @deep: also what lies in the directories below
 * @fn: false ends the walk. Names that vanish meanwhile (evicted blocks) are
 *      passed over.
 */
void walk(const char *path, bool deep,
	  bool (*fn)(void *arg, const struct walk_entry *e), void *arg);

#endif

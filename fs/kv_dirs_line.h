/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_KV_DIRS_LINE_H
#define KVFS_FS_KV_DIRS_LINE_H

/*
 * A line of STATE/kv.dirs. Pure functions; kv_dirs.c says what the file is.
 *
 *      CHECKSUM MODE UID GID LENGTH PATH\n     (mode 0: removed)
 *
 * Numbers in decimal but the mode in octal and the checksum, XXH3-64 of all
 * between it and the newline, in hex: one way to write each, so that a line
 * that is read is the line that was written.
 */

#include <stddef.h>
#include <stdint.h>

#include "engine/pool.h"

#define KV_DIRS_LINE_MAX (POOL_PATH_MAX + 80)

struct kv_dirs_line {
	uint32_t mode, uid, gid;
	uint32_t len;
	const char *path; /* not terminated; len 0: the root */
};

/** kv_dirs_format - write a line; returns its length. */
size_t kv_dirs_format(char text[KV_DIRS_LINE_MAX],
		      const struct kv_dirs_line *line);

/**
 * kv_dirs_parse - read the line at `at`, which ends before `end`
 * @line: set only on success; path points into the text
 *
 * A path is that of the root, or of a directory that can be: no empty, "." or
 * ".." part, no NUL, below a namespace.
 * Returns: where the next line begins, or NULL: torn or damaged.
 */
const char *kv_dirs_parse(const char *at, const char *end,
			  struct kv_dirs_line *line);

#endif

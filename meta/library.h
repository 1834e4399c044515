/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_LIBRARY_H
#define KVFS_META_LIBRARY_H

/* The name; the functions are called kvfs1_…. A change of what a function
 * takes or answers is a new name, so that two versions can serve one Redis. */
#define META_LIBRARY "kvfs1"

#define LIBRARY_BUILD_FN META_LIBRARY "_build"

/**
 * library_text - the source of the function library that Redis runs
 * @build: set to what kvfs1_build answers if Redis has this very text
 *
 * kvfs.lua, and ckpt.lua with ckpt_keep.lua, each in a scope of its own, put
 * together once.
 * Returns: the text; NULL: it outgrew its buffer. Threads: any.
 */
const char *library_text(const char **build);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_HOLDERS_H
#define KVFS_TOOLS_HOLDERS_H

#include <stddef.h>

/**
 * holders_describe - which processes keep a mount busy
 * @mountpoint: absolute, resolved
 * @text: "bash (pid 7: working directory), cat (pid 9: kv/a)", at most 5
 *
 * Looks through /proc at working directories, roots, programs, open files and
 * mappings by their names, so it asks the daemon nothing; sees what the caller
 * may see.
 * Returns: how many processes.
 */
unsigned holders_describe(const char *mountpoint, char *text, size_t bytes);

#endif

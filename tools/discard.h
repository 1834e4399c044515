/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_DISCARD_H
#define KVFS_TOOLS_DISCARD_H

/**
 * discard_pool - give the memory of a pool back; its blocks are gone
 * @state_dir: whose lock the caller holds
 * @why: STATE_WHY_BYTES; set on failure
 *
 * Leaves the file `discarded`, by which the next mount starts as a node that
 * holds nothing. A pool that is not there is no failure.
 * Returns: 0 or -errno.
 */
int discard_pool(const char *state_dir, char *why);

#endif

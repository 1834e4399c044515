/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_BENCH_PUBLISH_H
#define KVFS_TOOLS_BENCH_PUBLISH_H

struct bench_plan;

/**
 * bench_publish - kvfs bench --publish: how many new blocks a second one node
 *                 makes known through one Redis
 *
 * Redis servers of its own, one that keeps nothing on disk and one that
 * appends to a file each second, take turns; the sender is the daemon's.
 * Returns: the exit status.
 */
int bench_publish(const struct bench_plan *plan);

#endif

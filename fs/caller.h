/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CALLER_H
#define KVFS_FS_CALLER_H

#include <stdbool.h>
#include <sys/types.h>

/**
 * caller_signalled - has this thread, which waits for our answer, a signal?
 * @tid: as in fuse_ctx.pid; 0 (we do not see it): never
 *
 * Asks /proc. True only where the thread itself will take a signal when it is
 * woken: the kernel then restarts or ends its call after our EINTR.
 */
bool caller_signalled(pid_t tid);

/** caller_parse - the same of the text of /proc/TID/status. */
bool caller_parse(const char *status);

#endif

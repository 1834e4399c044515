/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_BELL_H
#define KVFS_FS_BELL_H

/*
 * Signalling an eventfd that is somebody else's too.
 *
 * write(2) waits while the counter is full, and whether it may wait is a flag
 * of the open file, which the client can change at any time: one client could
 * stop the thread that serves all. The kernel's own way of signalling never
 * waits, and an asynchronous read of /dev/null makes it do so.
 */

struct bell;

/** bell_open - Returns: 0, or -errno: the kernel has no asynchronous I/O. */
int bell_open(struct bell **b);
void bell_close(struct bell *b);

/** bell_ring - Returns: 0, or -EINVAL it is no eventfd. Threads: any. */
int bell_ring(struct bell *b, int eventfd);

#endif

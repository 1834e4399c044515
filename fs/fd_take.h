/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_FD_TAKE_H
#define KVFS_FS_FD_TAKE_H

#include <sys/types.h>

/**
 * fd_take - a descriptor of another process
 * @tid: a thread of it that waits for us, as in fuse_ctx.pid
 * @uid: who it is
 * @number: of the descriptor there
 *
 * What it is of is anybody's guess: let go of it by fd_drop until that is
 * known.
 * Returns: a descriptor, -EBADF it has none of this number, -EPERM the kernel
 *          does not let us, or it is not seen from here; -EMFILE.
 * Threads: any.
 */
int fd_take(pid_t tid, uid_t uid, int number);

/**
 * fd_drop - close one that may be of any file system
 *
 * close(2) waits for a file system such as FUSE or NFS as long as that likes,
 * so it is done aside.
 */
void fd_drop(int fd);

/** fd_drops_many - so many are being closed that none should be taken. */
int fd_drops_many(void);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_DISPATCH_H
#define KVFS_FS_DISPATCH_H

#include <stddef.h>

struct fuse_conn_info;
struct fuse_lowlevel_ops;

/** dispatch_ops - the callbacks for fuse_session_new; init is session.c's. */
const struct fuse_lowlevel_ops *
dispatch_ops(void (*init)(void *userdata, struct fuse_conn_info *conn));
size_t dispatch_ops_size(void);

#endif

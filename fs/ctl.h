/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CTL_H
#define KVFS_FS_CTL_H

#include <stddef.h>

struct fs;

/*
 * The texts behind .kvfs/: made when a file is opened, served from memory.
 * Each returns a 0-terminated text that the caller frees, or NULL.
 */
char *ctl_status(struct fs *fs); /* JSON, ctl_status.c */
char *ctl_nodes(struct fs *fs);	 /* JSON */
char *ctl_config(struct fs *fs); /* JSON */
char *ctl_stats(struct fs *fs);	 /* Prometheus text format, ctl_stats.c */

#endif

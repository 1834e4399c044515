/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_LIST_H
#define KVFS_FS_REMOTE_LIST_H

/* Names that other nodes hold, in the listing of a directory: taken once when
 * the directory is opened, given after the local ones. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct fs;
struct remote_list;

/** remote_list_take - the names right below "NAMESPACE/dir"; NULL: none are
 *  known (Redis is away, or there are none). Waits until the deadline. */
struct remote_list *remote_list_take(struct fs *fs, const char *path,
				     uint16_t path_len, int64_t deadline);

/** remote_list_at - the i-th: its name, or NULL past the last. */
const char *remote_list_at(const struct remote_list *l, size_t i, mode_t *type,
			   uint64_t *ino);
/** remote_list_hide - the i-th is "" from now on. */
void remote_list_hide(struct remote_list *l, size_t i);
void remote_list_free(struct remote_list *l);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_USERS_H
#define KVFS_FS_USERS_H

#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"

/*
 * What each user holds of something of which a user may not hold all. The list
 * is locked by its owner.
 */
struct fs_user {
	struct list link;
	uid_t uid;
	uint32_t n;
	uint64_t bytes;
};

/** users_get - who holds nothing yet, too: user_charge or user_settle then.
 *  NULL: no memory. */
struct fs_user *users_get(struct list *users, uid_t uid);

/** user_charge - n and bytes more, or less; gone with the last. */
void user_charge(struct fs_user *user, int n, int64_t bytes);

/** user_settle - gone if it holds nothing. */
void user_settle(struct fs_user *user);

void users_free(struct list *users);

#endif

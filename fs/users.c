// SPDX-License-Identifier: MIT
#include "fs/users.h"

#include <stdlib.h>

struct fs_user *users_get(struct list *users, uid_t uid)
{
	struct fs_user *user;

	list_for_each (l, users) {
		user = container_of(l, struct fs_user, link);
		if (user->uid == uid)
			return user;
	}
	user = calloc(1, sizeof(*user));
	if (!user)
		return NULL;
	user->uid = uid;
	list_push_back(users, &user->link);
	return user;
}

void user_settle(struct fs_user *user)
{
	if (user->n)
		return;
	list_remove(&user->link);
	free(user);
}

void user_charge(struct fs_user *user, int n, int64_t bytes)
{
	user->n += (uint32_t)n;
	user->bytes += (uint64_t)bytes;
	user_settle(user);
}

void users_free(struct list *users)
{
	struct list *l;

	while ((l = list_pop_front(users)))
		free(container_of(l, struct fs_user, link));
}

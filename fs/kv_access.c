// SPDX-License-Identifier: MIT
#include "fs/kv_access.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/kv.h"
#include "fs/remote.h"

struct kv_caller kv_caller_of(const struct call *c)
{
	return (struct kv_caller){
		.uid = c->uid, .gid = c->gid, .no_groups = true};
}

static struct kv_caller *with_room(unsigned n_groups)
{
	struct kv_caller *who =
		calloc(1, sizeof(*who) + n_groups * sizeof(*who->groups));

	if (who)
		who->groups = (gid_t *)(who + 1);
	return who;
}

static struct kv_caller *copy(const struct kv_caller *from)
{
	struct kv_caller *who = with_room(from->n_groups);

	if (!who)
		return NULL;
	who->uid = from->uid;
	who->gid = from->gid;
	who->no_groups = from->no_groups;
	who->n_groups = from->n_groups;
	memcpy(who->groups, from->groups, from->n_groups * sizeof(gid_t));
	return who;
}

static struct kv_caller *ask(const struct call *c)
{
	int n = fuse_req_getgroups(c->req, 0, NULL), again;
	struct kv_caller *who;

	n = n > 0 ? n : 0; /* he is not to be seen from here: none */
	who = with_room((unsigned)n);
	if (!who)
		return NULL;
	again = n ? fuse_req_getgroups(c->req, n, who->groups) : 0;
	n = again < 0 ? 0 : again < n ? again : n;
	who->uid = c->uid;
	who->gid = c->gid;
	who->n_groups = (unsigned)n;
	return who;
}

struct kv_caller *kv_caller_new(const struct call *c)
{
	return c->who ? copy(c->who) : ask(c);
}

static bool in_group(const struct kv_caller *who, gid_t gid)
{
	if (who->gid == gid)
		return true;
	for (unsigned i = 0; i < who->n_groups; i++)
		if (who->groups[i] == gid)
			return true;
	return false;
}

int kv_may(const struct kv_caller *who, uint32_t mode, uid_t uid, gid_t gid,
	   unsigned want)
{
	uint32_t group = mode >> 3, others = mode;

	if (!who->uid)
		return 0;
	if (who->uid == uid)
		mode >>= 6;
	else if (in_group(who, gid))
		mode = group;
	else if (who->no_groups && (group ^ others) & want)
		return -EAGAIN;
	return (mode & want) == want ? 0 : -EACCES;
}

int kv_may_search(const struct kv_caller *who, struct kv_dir *dir)
{
	if (who->no_groups && who->uid && dir->node.type == KV_DIR &&
	    remote_dir_is_stale(dir->ns->kv, dir)) {
		remote_dir_want(dir->ns->kv, dir);
		return -EAGAIN;
	}
	return kv_may(who, dir->mode, dir->uid, dir->gid, KV_MAY_SEARCH);
}

/* One that may not be searched decides, whatever is not known of others. */
static int both(int a, int b)
{
	return a == -EACCES || b == -EACCES ? -EACCES : a ? a : b;
}

int kv_may_pass(const struct kv_caller *who, struct kv_dir *dir)
{
	int err = kv_may_search(who, dir);

	while (err != -EACCES && dir->node.type != KV_ROOT) {
		dir = kv_dir(dir->node.parent);
		err = both(err, kv_may_search(who, dir));
	}
	return err;
}

int kv_may_reach(const struct kv_caller *who, struct kv_dir *dir)
{
	return dir->node.unlinked ? -ENOENT : kv_may_pass(who, dir);
}

int kv_walk(struct kv *kv, const struct kv_caller *who, struct kv_dir *dir,
	    const char *path, size_t len, struct kv_node **node)
{
	const char *end = path + len, *slash;
	int err = 0;

	*node = NULL;
	while ((slash = memchr(path, '/', (size_t)(end - path)))) {
		struct kv_node *next =
			kv_find_part(kv, dir, path, (size_t)(slash - path));

		if (!next || !kv_is_dir(next))
			return err;
		dir = kv_dir(next);
		err = both(err, kv_may_search(who, dir));
		if (err == -EACCES)
			return err;
		path = slash + 1;
	}
	if (err)
		return err;
	*node = kv_find_part(kv, dir, path, (size_t)(end - path));
	return 0;
}

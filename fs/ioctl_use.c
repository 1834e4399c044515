// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/fs.h"
#include "fs/ioctl.h"
#include "fs/kv.h"

/*
 * TOUCH and EVICT: what this node holds shall stay longer, or go now. The bit
 * of a name says that it was done. Names of others are none of their business.
 */

#define LOCK_STEP 16 /* names under one hold of kv->lock: evicting costs */

/* One block, which he may reach. 0, -ENOENT not done, or -EAGAIN his groups
 * decide. Lock held. */
typedef int (*use_fn)(struct kv *kv, const struct kv_caller *who,
		      struct kv_file *f);

static int touch(struct kv *kv, const struct kv_caller *who, struct kv_file *f)
{
	struct pool_record *r = kv_record(kv, f);
	int err = kv_may(who, r->mode, r->uid, r->gid, KV_MAY_READ);

	if (err)
		return err;
	kv_touch(kv, f);
	r->atime_ns = clock_stamp_ns();
	return 0;
}

/* As to unlink it, but only here, and not while it is in use. */
static int evict(struct kv *kv, const struct kv_caller *who, struct kv_file *f)
{
	const struct kv_dir *dir = kv_dir(f->node.parent);
	int err = kv_may(who, dir->mode, dir->uid, dir->gid,
			 KV_MAY_WRITE | KV_MAY_SEARCH);

	if (err)
		return err;
	return kv_evict_now(kv, f) ? 0 : -EBUSY;
}

/* Lock held. */
static int use_name(struct kv *kv, const struct kv_caller *who,
		    struct kv_dir *dir, const struct kv_name *name, use_fn use)
{
	struct kv_node *node;
	int err = kv_walk(kv, who, dir, name->text, name->len, &node);

	if (err)
		return err;
	if (!node || kv_is_dir(node) || kv_try_commit(kv, kv_file(node)))
		return -ENOENT;
	return use(kv, who, kv_file(node));
}

/* Returns: 0, -ENOENT the directory went, or -EAGAIN: anew, with groups. */
static int use_all(struct call *c, const struct kv_caller *who,
		   struct ioctl_names names, uint8_t *bits, use_fn use)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	struct kv_name name;
	uint32_t i = 0;

	for (;;) {
		scoped_lock(&kv->lock);
		int err = kv_may_reach(who, dir);

		if (err)
			return err == -EACCES ? 0 : err;
		for (uint32_t end = i + LOCK_STEP; i < end; i++) {
			if (!ioctl_names_next(&names, &name))
				return 0;
			err = use_name(kv, who, dir, &name, use);
			if (err == -EAGAIN)
				return err;
			if (!err)
				bits[i / 8] |= (uint8_t)(1u << i % 8);
		}
	}
}

static use_fn use_of(const struct call *c)
{
	return _IOC_NR(c->flags) == _IOC_NR(KVFS_IOC_EVICT(0)) ? evict : touch;
}

/* Returns: 0 it is answered, or -EAGAIN. */
static int run(struct call *c, const struct kv_caller *who)
{
	struct kvfs_ioc_found found = {.flags = 0};
	uint8_t bits[IOCTL_BITS_BYTES] = {0};
	struct kvfs_ioc_find in;
	struct ioctl_names names;
	int err;

	memcpy(&in, c->value, sizeof(in));
	err = in.flags || in.reserved
		      ? -EINVAL
		      : ioctl_names_init(&names, &in.names,
					 (const char *)c->value + sizeof(in),
					 c->size - sizeof(in));
	if (!err && sizeof(found) + (in.names.n + 7) / 8 > c->room)
		err = -EMSGSIZE;
	if (!err && !who->no_groups)
		ioctl_dirs_ask(c, &names);
	if (!err)
		err = use_all(c, who, names, bits, use_of(c));
	found.n = in.names.n;
	if (err == -EAGAIN)
		return err;
	if (err)
		call_reply_err(c, err);
	else
		ioctl_reply_found(c, &found, NULL, bits);
	return 0;
}

static void run_on_worker(struct call *c)
{
	cleanup_free struct kv_caller *who = kv_caller_new(c);

	if (!who)
		call_reply_err(c, ENOMEM);
	else
		run(c, who);
}

void ioctl_do_use(struct call *c)
{
	const struct kv_caller who = kv_caller_of(c);

	if (run(c, &who))
		call_defer(c, run_on_worker);
}

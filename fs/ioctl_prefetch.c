// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "fs/fs.h"
#include "fs/ioctl.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * PREFETCH: names that are not known here are asked for once, then what lies
 * elsewhere is put on the list of remote_prefetch.c. The bit of a name says
 * that its block is here or on that list.
 */

#define LOCK_STEP 32 /* names under one hold of kv->lock */

struct prefetch {
	struct call *c;
	const struct kv_caller *who;
	struct ioctl_names names;
	bool missing; /* some may be on other nodes */
	uint8_t bits[IOCTL_BITS_BYTES];
};

/* Lock held. Is it here, or on its way? */
static bool wish(struct prefetch *p, struct kv_file *f)
{
	struct kv *kv = p->c->fs->kv;
	const struct meta_kv_found *found;
	const struct pool_record *r;

	if (f->node.state == KV_REMOTE) {
		found = &f->remote->found;
		return !kv_may(p->who, found->mode, found->uid, found->gid,
			       KV_MAY_READ) &&
		       remote_prefetch(p->c->fs->remote, f);
	}
	if (kv_try_commit(kv, f))
		return false;
	r = kv_record(kv, f);
	return !kv_may(p->who, r->mode, r->uid, r->gid, KV_MAY_READ);
}

/* Lock held. */
static bool wish_name(struct prefetch *p, struct kv_dir *dir,
		      const struct kv_name *name)
{
	struct kv_node *node;
	int err = kv_walk(p->c->fs->kv, p->who, dir, name->text, name->len,
			  &node);

	p->missing |= err == -ENOENT || (!err && !node);
	return !err && node && !kv_is_dir(node) && wish(p, kv_file(node));
}

/* Returns: 0, or -ENOENT the directory went. */
static int wish_all(struct prefetch *p)
{
	struct kv *kv = p->c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(p->c->inode));
	struct ioctl_names names = p->names;
	struct kv_name name;
	uint32_t i = 0;

	for (;;) {
		scoped_lock(&kv->lock);
		int err = kv_may_reach(p->who, dir);

		if (err)
			return err == -EACCES ? 0 : err;
		for (uint32_t end = i + LOCK_STEP; i < end; i++) {
			if (!ioctl_names_next(&names, &name))
				return 0;
			if (wish_name(p, dir, &name))
				p->bits[i / 8] |= (uint8_t)(1u << i % 8);
		}
	}
}

static int prefetch_init(struct prefetch *p, struct call *c)
{
	struct kvfs_ioc_find in;

	memcpy(&in, c->value, sizeof(in));
	memset(p, 0, sizeof(*p));
	p->c = c;
	if (in.flags || in.reserved)
		return -EINVAL;
	if (sizeof(struct kvfs_ioc_found) + (in.names.n + 7) / 8 > c->room)
		return -EMSGSIZE;
	return ioctl_names_init(&p->names, &in.names,
				(const char *)c->value + sizeof(in),
				c->size - sizeof(in));
}

static int run(struct prefetch *p)
{
	struct fs *fs = p->c->fs;
	int err = wish_all(p);

	if (!err && p->missing && remote_active(fs)) {
		err = ioctl_learn_names(p->c, p->who, p->c->deadline,
					&p->names);
		if (!err)
			err = wish_all(p);
	}
	if (fs->remote)
		remote_prefetch_go(fs->remote);
	return err;
}

static void prefetch_on_worker(struct call *c)
{
	cleanup_free struct kv_caller *who = kv_caller_new(c);
	struct kvfs_ioc_found found = {.flags = 0};
	struct prefetch p;
	int err = prefetch_init(&p, c);

	p.who = who;
	if (!err)
		ioctl_dirs_ask(c, &p.names);
	if (!err)
		err = who ? run(&p) : -ENOMEM;
	found.n = p.names.left;
	if (err)
		call_reply_err(c, err);
	else
		ioctl_reply_found(c, &found, NULL, p.bits);
}

void ioctl_do_prefetch(struct call *c)
{
	call_defer(c, prefetch_on_worker);
}

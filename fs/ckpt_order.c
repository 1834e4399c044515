// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/size.h"
#include "fs/ckpt_fetch.h"
#include "meta/kv.h"

/*
 * What people ask for by extended attributes:
 *
 *      get fetch       all of it is here when this returns "ok" (ckpt_xattr.c)
 *      set copies N    N hosts have all of it, those that drain not counted;
 *                      EINPROGRESS: they are at it
 *      set shard SIZE  (of a directory) what is made in it from now on is
 *                      divided into shards of this size
 */

#define VALUE_BYTES 32

/* As text; -EINVAL: no text that any of them takes. */
static int value_of(const struct call *c, char value[VALUE_BYTES])
{
	if (!c->value || !c->size || c->size >= VALUE_BYTES)
		return -EINVAL;
	memcpy(value, c->value, c->size);
	value[c->size] = 0;
	return 0;
}

/* -- the size of shards ------------------------------------------------- */

static int parse_shard(const char *value, uint32_t *log2)
{
	uint64_t bytes;

	if (size_parse(value, &bytes) || !bytes || bytes & (bytes - 1))
		return -EINVAL;
	*log2 = (uint32_t)__builtin_ctzll(bytes);
	return ckpt_shard_log2_known(*log2) ? 0 : -EINVAL;
}

/* A file's was laid down when it was made. 0: the default. */
static int set_shard(struct call *c, uint32_t log2)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_inode *inode = cinode_of(c->inode);
	struct ckpt_attr a,
		set = {.shard_log2 = log2, .ctime_ns = clock_stamp_ns()};
	int err;

	if (!S_ISDIR(cinode_attr(ckpt, inode).mode))
		return -EPERM;
	err = ckpt_setattr(c->fs->meta, c->deadline, inode->ino,
			   CKPT_SET_SHARD | CKPT_SET_CTIME, &set, &a);
	cseen_changed(ckpt, inode);
	if (err)
		return err;
	scoped_lock(&ckpt->lock);
	cinode_merge(ckpt, inode, &a);
	return 0;
}

/* -- copies ------------------------------------------------------------- */

static int set_copies(struct call *c, const char *value)
{
	char *end;
	unsigned long n = strtoul(value, &end, 10);

	if (*end || n < 1 || n > META_KV_HOLDERS_MAX)
		return -EINVAL;
	return ccopy_spread(c->fs->ckpt, cinode_of(c->inode), (unsigned)n,
			    c->deadline);
}

/* -- by name ------------------------------------------------------------ */

int corder_set(struct call *c, const char *name)
{
	char value[VALUE_BYTES];
	uint32_t log2;
	int err = value_of(c, value);

	if (!strcmp(name, "shard")) {
		if (!err)
			err = parse_shard(value, &log2);
		return err ? err : set_shard(c, log2);
	}
	if (!strcmp(name, "copies"))
		return err ? err : set_copies(c, value);
	return -EPERM;
}

int corder_remove(struct call *c, const char *name)
{
	return strcmp(name, "shard") ? -EPERM : set_shard(c, 0);
}

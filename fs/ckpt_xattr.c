// SPDX-License-Identifier: MIT
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/ckpt_fetch.h"
#include "fs/remote.h"

/*
 * Extended attributes are fields of the record. Some are not: user.kvfs.* are
 * answered from what kvfs knows of a file (not listed, or every copy would
 * carry them along); ACLs and file capabilities are not supported.
 */

#define OURS "user.kvfs."
#define VALUE_BYTES CKPT_XATTR_VALUE_MAX

static bool is_ours(const char *name)
{
	return !strncmp(name, OURS, strlen(OURS));
}

static bool is_supported(const char *name)
{
	return !strncmp(name, "user.", 5) || !strncmp(name, "trusted.", 8) ||
	       (!strncmp(name, "security.", 9) &&
		strcmp(name, "security.capability"));
}

static int verify(struct call *c, char *value)
{
	int err = csum_verify(c->fs->ckpt, cinode_of(c->inode));

	if (err)
		return err;
	memcpy(value, "ok", 2);
	return 2;
}

struct holders {
	struct call *c;
	char *value;
	size_t len;
};

static void add_holder(void *arg, const struct ckpt_holder *h)
{
	char name[META_NODE_NAME_MAX + 1];
	struct holders *x = arg;
	int n;

	remote_node_ask(x->c->fs, h->incarnation, x->c->deadline, name);
	n = snprintf(x->value + x->len, VALUE_BYTES - x->len, "%s%s",
		     x->len ? " " : "", name);
	if (n > 0 && x->len + (size_t)n < VALUE_BYTES)
		x->len += (size_t)n;
}

/* The nodes that have any of it. */
static int holders(struct call *c, const struct ckpt_attr *a, char *value)
{
	struct holders x = {c, value, 0};
	int err = ckpt_holders(c->fs->meta, c->deadline, a->ino, a->version,
			       add_holder, &x);

	return err ? err : (int)x.len;
}

/* As of a block; and how many of its shards are here. */
static int state(struct call *c, const struct ckpt_attr *a, bool counted,
		 char *value)
{
	struct ckpt *ckpt = c->fs->ckpt;
	uint32_t all = ckpt_shards(a);
	uint32_t n = cfetch_on(ckpt) ? cfetch_count(ckpt, a) : all;

	if (counted)
		return sprintf(value, "%" PRIu32 " of %" PRIu32, n, all);
	return sprintf(value, "%s",
		       cinode_is_written(ckpt, cinode_of(c->inode)) ? "writing"
		       : n == all ? "published"
		       : n	  ? "partial"
				  : "remote");
}

static int virtual_value(struct call *c, const char *name, char *value)
{
	struct ckpt_attr a = cinode_attr(c->fs->ckpt, cinode_of(c->inode));
	struct meta_stats stats;

	if (!strcmp(name, "shard") && (S_ISREG(a.mode) || S_ISDIR(a.mode)))
		return sprintf(value, "%" PRIu64, ckpt_shard_bytes(&a));
	if (!S_ISREG(a.mode))
		return -ENODATA;
	if (!strcmp(name, "version"))
		return sprintf(value, "%" PRIu64, a.version);
	if (!strcmp(name, "checksum"))
		return csum_text(c->fs->ckpt, c->deadline, &a, value,
				 VALUE_BYTES);
	if (!strcmp(name, "verify"))
		return verify(c, value);
	if (!strcmp(name, "state"))
		return state(c, &a, false, value);
	if (!strcmp(name, "shards"))
		return state(c, &a, true, value);
	if (!strcmp(name, "fetch"))
		return sprintf(value, "ok");
	if (strcmp(name, "holders"))
		return -ENODATA;
	if (cfetch_on(c->fs->ckpt))
		return holders(c, &a, value);
	meta_stats(c->fs->meta, &stats);
	return sprintf(value, "%" PRIu32, stats.incarnation);
}

static int value_of(struct call *c, char *value)
{
	if (is_ours(c->name))
		return virtual_value(c, c->name + strlen(OURS), value);
	return ckpt_xattr_get(c->fs->meta, c->deadline,
			      cinode_of(c->inode)->ino, c->name, value,
			      VALUE_BYTES);
}

static void getxattr_waiting(struct call *c)
{
	cleanup_free char *value = NULL;
	int len;

	if (!strcmp(c->name, OURS "fetch") &&
	    !cfetch_ready(c, true, getxattr_waiting))
		return;
	value = malloc(VALUE_BYTES);
	len = value ? value_of(c, value) : -ENOMEM;
	if (len < 0)
		ckpt_finish(c, len);
	else
		call_reply_xattr(c, value, (size_t)len);
}

/* ls asks for ACLs, every writer for capabilities. */
void ckpt_do_getxattr(struct call *c)
{
	if (is_supported(c->name))
		call_defer(c, getxattr_waiting);
	else
		call_reply_err(c, strncmp(c->name, "security.", 9) ? EOPNOTSUPP
								   : ENODATA);
}

void ckpt_do_listxattr(struct call *c)
{
	cleanup_free char *names = malloc(VALUE_BYTES);
	int len = names ? ckpt_xattr_list(c->fs->meta, c->deadline,
					  cinode_of(c->inode)->ino, names,
					  VALUE_BYTES)
			: -ENOMEM;

	if (len < 0)
		ckpt_finish(c, len == -ERANGE ? E2BIG : len);
	else
		call_reply_xattr(c, names, (size_t)len);
}

void ckpt_do_setxattr(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	int err = is_supported(c->name) ? 0 : -EOPNOTSUPP;

	if (is_ours(c->name)) {
		err = corder_set(c, c->name + strlen(OURS));
	} else if (!err) {
		err = ckpt_xattr_set(c->fs->meta, c->deadline,
				     cinode_of(c->inode)->ino, c->name,
				     c->value, c->size, (int)c->flags,
				     clock_stamp_ns());
		cseen_changed(ckpt, cinode_of(c->inode));
	}
	ckpt_finish(c, err);
}

void ckpt_do_removexattr(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	int err = is_supported(c->name) ? 0 : -EOPNOTSUPP;

	if (is_ours(c->name)) {
		err = corder_remove(c, c->name + strlen(OURS));
	} else if (!err) {
		err = ckpt_xattr_remove(c->fs->meta, c->deadline,
					cinode_of(c->inode)->ino, c->name,
					clock_stamp_ns());
		cseen_changed(ckpt, cinode_of(c->inode));
	}
	ckpt_finish(c, err);
}

// SPDX-License-Identifier: MIT
#include "fs/ckpt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/ckpt_fetch.h"

/*
 * What asks Redis goes on on a worker. Some (lookup, getattr, open, getxattr)
 * look first whether they must: often the answer is at hand.
 */
#define WAITS(op)                                  \
	static void op##_on_worker(struct call *c) \
	{                                          \
		call_defer(c, ckpt_do_##op);       \
	}
WAITS(setattr)
WAITS(readlink)
WAITS(mknod)
WAITS(mkdir)
WAITS(symlink)
WAITS(unlink)
WAITS(rmdir)
WAITS(rename)
WAITS(link)
WAITS(create)
WAITS(flush)
WAITS(fsync)
WAITS(fallocate)
WAITS(lseek)
WAITS(getlk)
WAITS(setlk)
WAITS(setxattr)
WAITS(listxattr)
WAITS(removexattr)

const struct view ckpt_view = {
	.name = "ckpt",
	.forget = cinode_forget,
	.lookup = ckpt_do_lookup,
	.setattr = setattr_on_worker,
	.readlink = readlink_on_worker,
	.mknod = mknod_on_worker,
	.mkdir = mkdir_on_worker,
	.symlink = symlink_on_worker,
	.unlink = unlink_on_worker,
	.rmdir = rmdir_on_worker,
	.rename = rename_on_worker,
	.link = link_on_worker,
	.create = create_on_worker,
	.flush = flush_on_worker,
	.fsync = fsync_on_worker,
	.fallocate = fallocate_on_worker,
	.lseek = lseek_on_worker,
	.getlk = getlk_on_worker,
	.setlk = setlk_on_worker,
	.setxattr = setxattr_on_worker,
	.listxattr = listxattr_on_worker,
	.removexattr = removexattr_on_worker,
	.getattr = ckpt_do_getattr,
	.open = ckpt_do_open,
	.read = ckpt_do_read,
	.write = ckpt_do_write,
	.release = ckpt_do_release,
	.opendir = ckpt_do_opendir,
	.readdir = ckpt_do_readdir,
	.releasedir = ckpt_do_releasedir,
	.statfs = ckpt_do_statfs,
	.getxattr = ckpt_do_getxattr,
};

int ckpt_open(struct ckpt **out, struct fs *fs)
{
	struct ckpt *ckpt = calloc(1, sizeof(*ckpt));
	int err;

	if (!ckpt)
		return -ENOMEM;
	ckpt->fs = fs;
	ckpt->store = -1;
	ckpt->started_ns = clock_stamp_ns();
	err = cinode_init(ckpt);
	if (!err)
		err = cstore_open(ckpt);
	*out = ckpt;
	if (!err)
		err = cfetch_start(ckpt);
	if (!err)
		err = ckeep_start(ckpt);
	if (err) {
		ckpt_close(ckpt);
		*out = NULL;
	}
	return err;
}

void ckpt_quiesce(struct ckpt *ckpt)
{
	cfetch_quiesce(ckpt);
}

void ckpt_close(struct ckpt *ckpt)
{
	ckeep_stop(ckpt);
	cfetch_stop(ckpt);
	cinode_fini(ckpt);
	if (ckpt->store >= 0)
		close(ckpt->store);
	free(ckpt);
}

struct inode *ckpt_root(struct ckpt *ckpt)
{
	return &ckpt->root->head;
}

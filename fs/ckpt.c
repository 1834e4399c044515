// SPDX-License-Identifier: MIT
#include "fs/ckpt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

const struct view ckpt_view = {
	.name = "ckpt",
	.waits = true,
	.lookup = ckpt_do_lookup,
	.forget = cinode_forget,
	.getattr = ckpt_do_getattr,
	.setattr = ckpt_do_setattr,
	.readlink = ckpt_do_readlink,
	.mknod = ckpt_do_mknod,
	.mkdir = ckpt_do_mkdir,
	.symlink = ckpt_do_symlink,
	.unlink = ckpt_do_unlink,
	.rmdir = ckpt_do_rmdir,
	.rename = ckpt_do_rename,
	.link = ckpt_do_link,
	.open = ckpt_do_open,
	.create = ckpt_do_create,
	.read = ckpt_do_read,
	.write = ckpt_do_write,
	.flush = ckpt_do_flush,
	.release = ckpt_do_release,
	.fsync = ckpt_do_fsync,
	.opendir = ckpt_do_opendir,
	.readdir = ckpt_do_readdir,
	.releasedir = ckpt_do_releasedir,
	.statfs = ckpt_do_statfs,
	.fallocate = ckpt_do_fallocate,
	.lseek = ckpt_do_lseek,
	.setxattr = ckpt_do_setxattr,
	.getxattr = ckpt_do_getxattr,
	.listxattr = ckpt_do_listxattr,
	.removexattr = ckpt_do_removexattr,
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
		err = ckeep_start(ckpt);
	if (err) {
		ckpt_close(ckpt);
		*out = NULL;
	}
	return err;
}

void ckpt_close(struct ckpt *ckpt)
{
	ckeep_stop(ckpt);
	cinode_fini(ckpt);
	if (ckpt->store >= 0)
		close(ckpt->store);
	free(ckpt);
}

struct inode *ckpt_root(struct ckpt *ckpt)
{
	return &ckpt->root->head;
}

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "gds/kvfs.h"

const char *kvfs_version(void)
{
	return KVFS_VERSION;
}

const char *kvfs_strerror(int err)
{
	const char *text;

	switch (-err) {
	case ENOTTY:
		return "not on a kvfs mount, or its daemon is too old";
	case EPROTONOSUPPORT:
		return "the mount's daemon is newer than this libkvfs";
	case EOPNOTSUPP:
		return "not a directory of blocks: open one in kv/";
	case ENODEV:
		return "no CUDA driver or no GPU here";
	case EFAULT:
		return "the buffer's memory is not there";
	case ENOTCONN:
		return "the mount's daemon is gone";
	}
	text = strerrordesc_np(err < 0 ? -err : err);
	return text ? text : "unknown error";
}

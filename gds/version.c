// SPDX-License-Identifier: MIT
#include "gds/kvfs.h"

const char *kvfs_version(void)
{
	return KVFS_VERSION;
}

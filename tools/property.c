// SPDX-License-Identifier: MIT
#include "tools/property.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>

#define FULL_NAME_BYTES 64

static void full_name(const char *name, char *full)
{
	snprintf(full, FULL_NAME_BYTES, "user.kvfs.%s", name);
}

static ssize_t ended(ssize_t n, char *value)
{
	if (n < 0)
		return -errno;
	value[n] = 0;
	return n;
}

ssize_t property_get(const char *path, const char *name, char *value,
		     size_t bytes)
{
	char full[FULL_NAME_BYTES];

	full_name(name, full);
	return ended(lgetxattr(path, full, value, bytes - 1), value);
}

ssize_t property_fget(int fd, const char *name, char *value, size_t bytes)
{
	char full[FULL_NAME_BYTES];

	full_name(name, full);
	return ended(fgetxattr(fd, full, value, bytes - 1), value);
}

uint64_t property_number(const char *path, const char *name, uint64_t fallback)
{
	char value[32], *end;
	uint64_t n;

	if (property_get(path, name, value, sizeof(value)) <= 0)
		return fallback;
	n = strtoull(value, &end, 10);
	return *end ? fallback : n;
}

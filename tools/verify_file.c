// SPDX-License-Identifier: MIT
#include "tools/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "base/cleanup.h"
#include "tools/property.h"

/*
 * A checksum is XXH3-128, as 32 hex digits, high half first. A block has one;
 * a file in ckpt/ has one per shard of 64 MiB, separated by commas. Both are
 * asked of the open file, so they are of the version that is read.
 */
#define HEX_DIGITS 32
#define BUF_BYTES (1u << 20)
#define LIST_BYTES (1u << 16) /* an xattr's most */

int verify_open(struct verify *v)
{
	memset(v, 0, sizeof(*v));
	v->buf = malloc(BUF_BYTES);
	v->expected = malloc(LIST_BYTES);
	v->computed = malloc(LIST_BYTES);
	if (v->buf && v->expected && v->computed)
		return 0;
	verify_close(v);
	return -ENOMEM;
}

void verify_close(struct verify *v)
{
	free(v->buf);
	free(v->expected);
	free(v->computed);
}

static enum verify_result say(struct verify *v, enum verify_result r,
			      const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static enum verify_result say(struct verify *v, enum verify_result r,
			      const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->why, sizeof(v->why), fmt, ap);
	va_end(ap);
	return r;
}

static int add_checksum(char *list, size_t *len, XXH128_hash_t h)
{
	if (*len + HEX_DIGITS + 2 > LIST_BYTES)
		return -E2BIG;
	*len += (size_t)sprintf(list + *len, "%s%016llx%016llx",
				*len ? "," : "", (unsigned long long)h.high64,
				(unsigned long long)h.low64);
	return 0;
}

/* Read the file and write the list of its checksums. `shard` is their size;
 * UINT64_MAX: one over all. An empty file has one, over nothing. */
static int compute(struct verify *v, int fd, uint64_t shard)
{
	XXH3_state_t state;
	uint64_t room = shard;
	size_t len = 0;
	ssize_t n;
	int rc = 0;

	XXH3_128bits_reset(&state);
	while (!rc && (n = read(fd, v->buf,
				room < BUF_BYTES ? room : BUF_BYTES)) > 0) {
		XXH3_128bits_update(&state, v->buf, (size_t)n);
		v->bytes += (uint64_t)n;
		progress_update(&v->progress, v->bytes);
		room -= (uint64_t)n;
		if (room)
			continue;
		rc = add_checksum(v->computed, &len,
				  XXH3_128bits_digest(&state));
		XXH3_128bits_reset(&state);
		room = shard;
	}
	if (!rc && n < 0)
		return -errno;
	if (!rc && (room != shard || !len))
		rc = add_checksum(v->computed, &len,
				  XXH3_128bits_digest(&state));
	return rc;
}

/* One is taken in the background after a commit: where it is not there yet,
 * user.kvfs.verify takes it now. */
static ssize_t get_expected(struct verify *v, int fd)
{
	ssize_t n = property_fget(fd, "checksum", v->expected, LIST_BYTES);

	if (n != -ENODATA)
		return n;
	if (property_fget(fd, "verify", v->expected, LIST_BYTES) < 0)
		return -ENODATA;
	return property_fget(fd, "checksum", v->expected, LIST_BYTES);
}

static uint64_t shard_of(const char *expected)
{
	return strchr(expected, ',') ? VERIFY_SHARD_BYTES : UINT64_MAX;
}

/* Tell the daemon, who looks for itself and serves it no more. */
static enum verify_result report_damage(struct verify *v, const char *path)
{
	char answer[64];

	if (property_get(path, "verify", answer, sizeof(answer)) < 0)
		snprintf(answer, sizeof(answer), "%s", strerror(errno));
	return say(v, VERIFY_DAMAGED,
		   "stored as %.32s, read as %.32s; the daemon says: %s",
		   v->expected, v->computed, answer);
}

static bool changed(int fd, const struct stat *before)
{
	struct stat st;

	return fstat(fd, &st) || st.st_size != before->st_size ||
	       st.st_mtim.tv_sec != before->st_mtim.tv_sec ||
	       st.st_mtim.tv_nsec != before->st_mtim.tv_nsec;
}

static enum verify_result check(struct verify *v, const char *path, int fd,
				const struct stat *st, bool again)
{
	ssize_t n = get_expected(v, fd);
	int rc;

	if (!n && !st->st_size)
		return VERIFY_OK;
	if (n == -ENODATA || !n)
		return say(v, VERIFY_UNCHECKED, "it has no checksum");
	if (n < 0)
		return say(v, VERIFY_ERROR, "its checksum: %s",
			   strerror((int)-n));
	rc = compute(v, fd, shard_of(v->expected));
	if (rc)
		return say(v, VERIFY_ERROR, "%s", strerror(-rc));
	if (!strcmp(v->expected, v->computed))
		return VERIFY_OK;
	if (changed(fd, st))
		return say(v, VERIFY_UNCHECKED,
			   "it is being written; try again");
	if (again)
		return report_damage(v, path);
	/* What was compared may have been replaced between the two steps. */
	if (lseek(fd, 0, SEEK_SET))
		return say(v, VERIFY_ERROR, "%s", strerror(errno));
	return check(v, path, fd, st, true);
}

enum verify_result verify_file(struct verify *v, const char *path)
{
	cleanup_close int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	v->why[0] = 0;
	if (fd < 0 && errno == ENOENT)
		return VERIFY_GONE;
	if (fd < 0 || fstat(fd, &st))
		return say(v, VERIFY_ERROR, "%s", strerror(errno));
	return check(v, path, fd, &st, false);
}

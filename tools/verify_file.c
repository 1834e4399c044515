// SPDX-License-Identifier: MIT
#include "tools/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "tools/property.h"

/*
 * A checksum is XXH3-128, as 32 hex digits, high half first. A block has one;
 * a file in ckpt/ has one per shard, a line each, or, of more shards
 * than an xattr has room for, "N shards HEX": the checksum of all of them. It
 * is asked of the open file, so it is of the version that is read.
 */
#define SUM_BYTES 16
#define HEX_DIGITS 32
#define BUF_BYTES (1u << 20)
#define LIST_BYTES (1u << 16) /* an xattr's most */

/* How long to wait for one that is taken in the background. */
#define WAIT_TAKEN_NS (30 * NS_PER_S)
#define WAIT_WRITER_NS (NS_PER_S / 2)
#define WAIT_STEP_MS 20

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
	free(v->sums);
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

/* -- reading ------------------------------------------------------------ */

static int add_sum(struct verify *v, XXH128_hash_t h)
{
	size_t room = v->room ? 2 * v->room : 64;
	uint8_t *sum, *more;

	if (v->n_sums == v->room) {
		more = realloc(v->sums, room * SUM_BYTES);
		if (!more)
			return -ENOMEM;
		v->sums = more;
		v->room = room;
	}
	sum = v->sums + v->n_sums++ * SUM_BYTES;
	for (int i = 0; i < 8; i++) { /* low byte first, as they are stored */
		sum[i] = (uint8_t)(h.low64 >> (8 * i));
		sum[8 + i] = (uint8_t)(h.high64 >> (8 * i));
	}
	return 0;
}

/* Read the file and take its checksums, one per `shard` bytes. An empty file
 * has one, over nothing. */
static int compute(struct verify *v, int fd, uint64_t shard)
{
	XXH3_state_t state;
	uint64_t room = shard;
	ssize_t n;
	int rc = 0;

	v->n_sums = 0;
	XXH3_128bits_reset(&state);
	while (!rc && (n = read(fd, v->buf,
				room < BUF_BYTES ? room : BUF_BYTES)) > 0) {
		XXH3_128bits_update(&state, v->buf, (size_t)n);
		v->bytes += (uint64_t)n;
		progress_update(&v->progress, v->bytes);
		room -= (uint64_t)n;
		if (room)
			continue;
		rc = add_sum(v, XXH3_128bits_digest(&state));
		XXH3_128bits_reset(&state);
		room = shard;
	}
	if (!rc && n < 0)
		return -errno;
	if (!rc && (room != shard || !v->n_sums))
		rc = add_sum(v, XXH3_128bits_digest(&state));
	return rc;
}

static bool is_digest(const char *expected)
{
	return strstr(expected, " shards ");
}

/* What we computed, in the form of what is expected. */
static void format(struct verify *v, const char *expected)
{
	XXH128_hash_t all;
	char *to = v->computed;
	size_t most = (LIST_BYTES - 1) / (HEX_DIGITS + 1);

	if (is_digest(expected)) {
		all = XXH3_128bits(v->sums, v->n_sums * SUM_BYTES);
		sprintf(to, "%zu shards %016" PRIx64 "%016" PRIx64, v->n_sums,
			(uint64_t)all.high64, (uint64_t)all.low64);
		return;
	}
	*to = 0;
	for (size_t i = 0; i < v->n_sums && i < most; i++) {
		if (i)
			*to++ = '\n';
		for (int b = SUM_BYTES - 1; b >= 0; b--)
			to += sprintf(to, "%02x", v->sums[i * SUM_BYTES + b]);
	}
}

/* Of a block, or a file of one shard, one checksum is of all. */
static uint64_t shard_of(int fd, const char *expected)
{
	char value[32] = "";

	if (!strchr(expected, '\n') && !is_digest(expected))
		return UINT64_MAX;
	property_fget(fd, "shard", value, sizeof(value));
	return *value ? strtoull(value, NULL, 10) : VERIFY_SHARD_BYTES;
}

/* -- what is expected --------------------------------------------------- */

static bool has_writer(int fd, ssize_t why)
{
	char state[16];

	return why == -EBUSY ||
	       (property_fget(fd, "state", state, sizeof(state)) > 0 &&
		!strcmp(state, "writing"));
}

/* How long one that is not there may still come. Of a block one is taken by
 * asking, so only a file in ckpt/, which has a version, is worth waiting. */
static int64_t patience_ns(int fd, ssize_t why)
{
	char version[32];

	if (has_writer(fd, why))
		return WAIT_WRITER_NS;
	return property_fget(fd, "version", version, sizeof(version)) < 0
		       ? 0
		       : WAIT_TAKEN_NS;
}

/* One is taken in the background, after a commit or the last close. Asking
 * for user.kvfs.verify takes a block's at once. */
static ssize_t get_expected(struct verify *v, int fd)
{
	int64_t start = clock_now_ns();
	ssize_t n, rc;

	while ((n = property_fget(fd, "checksum", v->expected, LIST_BYTES)) ==
	       -ENODATA) {
		rc = property_fget(fd, "verify", v->expected, LIST_BYTES);
		if (rc >= 0)
			continue;
		if (rc != -ENODATA && rc != -EBUSY)
			return rc;
		if (clock_now_ns() - start >= patience_ns(fd, rc))
			return rc;
		poll(NULL, 0, WAIT_STEP_MS);
	}
	return n;
}

/* -- comparing ---------------------------------------------------------- */

/* Tell the daemon, who looks for itself and serves it no more. */
static enum verify_result report_damage(struct verify *v, const char *path,
					int fd)
{
	char answer[64];
	ssize_t n = property_fget(fd, "verify", answer, sizeof(answer));

	if (n == -EIO)
		return say(v, VERIFY_DAMAGED,
			   "its bytes are not those that were stored; it is "
			   "not served any more");
	return say(v, VERIFY_DAMAGED,
		   "its bytes are not those that were stored; the daemon says "
		   "of %s: %s",
		   path, n < 0 ? strerror((int)-n) : answer);
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
	if (n == -EBUSY || (n == -ENODATA && has_writer(fd, n)))
		return say(v, VERIFY_UNCHECKED, "it is being written");
	if (n == -ENODATA || !n)
		return say(v, VERIFY_UNCHECKED, "it has no checksum");
	if (n < 0)
		return say(v, VERIFY_ERROR, "its checksum: %s",
			   strerror((int)-n));
	rc = compute(v, fd, shard_of(fd, v->expected));
	if (rc)
		return say(v, VERIFY_ERROR, "%s", strerror(-rc));
	format(v, v->expected);
	if (!strcmp(v->expected, v->computed))
		return VERIFY_OK;
	if (changed(fd, st))
		return say(v, VERIFY_UNCHECKED, "it is being written");
	if (again)
		return report_damage(v, path, fd);
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
	if (fd < 0 && errno == EIO)
		return say(v, VERIFY_DAMAGED,
			   "not served; known to be damaged, or Redis is away");
	if (fd < 0 || fstat(fd, &st))
		return say(v, VERIFY_ERROR, "%s", strerror(errno));
	return check(v, path, fd, &st, false);
}

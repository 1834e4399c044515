// SPDX-License-Identifier: MIT
/* What belongs to one file beside its names: writer, versions, checksums,
 * extended attributes. */
#include "meta/ckpt_call.h"

#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/clock.h"
#include "base/log.h"
#include "meta/ckpt_record.h"

#define SUM_BYTES 16u
#define BUSY_PAUSE_MIN_NS (5 * NS_PER_MS)
#define BUSY_PAUSE_MAX_NS (100 * NS_PER_MS)
#define XATTR_NAME_LEN_MAX 255u

/* Who the writer is, where a script answered that it is not this node. */
static int answer_writer(const char *fn, const struct ckpt_answer *a,
			 uint32_t *writer)
{
	struct ckpt_cursor c = {a->result, a->result + a->result_bytes, false};
	uint32_t w = ckpt_cursor_u32(&c);

	if (!ckpt_cursor_done(&c))
		return ckpt_malformed(fn);
	*writer = w;
	return 0;
}

static int open_once(struct meta *m, int64_t deadline, uint64_t ino,
		     uint32_t *other, struct ckpt_attr *a)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err;

	redis_cmd_uint(&args, ino);
	redis_cmd_uint(&args, *other);
	err = ckpt_write(m, deadline, "open_write", &args, &answer);
	if (!err)
		return ckpt_answer_attr("open_write", &answer, a);
	if (err == -EBUSY && answer_writer("open_write", &answer, other))
		return -EIO;
	return err;
}

static void pause_ns(int64_t ns)
{
	struct timespec t = clock_timespec(ns);

	nanosleep(&t, NULL);
}

/*
 * A writer that is no member any more is named as dead and taken over. Nobody
 * tells when a living one closes, so it is asked again; if Redis has no time
 * for the last of these questions, what it said before stands.
 */
int ckpt_open_write(struct meta *m, int64_t deadline, uint64_t ino,
		    struct ckpt_attr *a)
{
	int64_t pause = BUSY_PAUSE_MIN_NS;
	uint32_t other = 0;
	bool busy = false;

	deadline = meta_deadline(m, deadline);
	for (;;) {
		uint32_t was = other;
		int err = open_once(m, deadline, ino, &other, a);

		if (err == -EIO && busy && clock_now_ns() >= deadline)
			return -EBUSY;
		if (err != -EBUSY)
			return err;
		if (other != was && !meta_node_is_live(m, other))
			continue;
		busy = meta_node_is_live(m, other);
		if (busy)
			other = 0;
		if (clock_now_ns() + pause >= deadline)
			return -EBUSY;
		pause_ns(pause);
		pause = pause * 2 < BUSY_PAUSE_MAX_NS ? pause * 2
						      : BUSY_PAUSE_MAX_NS;
	}
}

static int publish_once(struct meta *m, int64_t deadline, uint64_t ino,
			unsigned mask, const struct ckpt_attr *set, bool last,
			uint32_t *other, struct ckpt_attr *a)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	char inode[CKPT_INODE_BYTES];
	int err;

	ckpt_inode_pack(inode, set);
	redis_cmd_uint(&args, ino);
	redis_cmd_uint(&args, mask);
	redis_cmd_bin(&args, inode, sizeof(inode));
	redis_cmd_uint(&args, last);
	redis_cmd_uint(&args, *other);
	err = ckpt_write(m, deadline, "publish", &args, &answer);
	if (!err)
		return ckpt_answer_attr("publish", &answer, a);
	if (err == -ESTALE && answer_writer("publish", &answer, other))
		return -EIO;
	return err;
}

/* The writer may be this node as it was called before Redis took it for dead:
 * an incarnation that lives no more does not stand in the way. */
int ckpt_publish(struct meta *m, int64_t deadline, uint64_t ino, unsigned mask,
		 const struct ckpt_attr *set, bool last, struct ckpt_attr *a)
{
	uint32_t other = 0;
	int err = publish_once(m, deadline, ino, mask, set, last, &other, a);

	if (err == -ESTALE && other && !meta_node_is_live(m, other))
		err = publish_once(m, deadline, ino, mask, set, last, &other,
				   a);
	if (!err && !mask) /* its shards are what they were before */
		ckpt_shards_dirty(m, ino);
	return err;
}

/* --- checksums --------------------------------------------------------- */

int ckpt_set_checksums(struct meta *m, int64_t deadline, uint64_t ino,
		       uint64_t version, const void *sums, uint32_t n_shards)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};

	redis_cmd_uint(&args, ino);
	redis_cmd_bin(&args, &version, sizeof(version));
	redis_cmd_bin(&args, sums, (size_t)n_shards * SUM_BYTES);
	return ckpt_write(m, deadline, "set_checksums", &args, &answer);
}

int ckpt_get_checksums(struct meta *m, int64_t deadline, uint64_t ino,
		       uint64_t version, void *sums, uint32_t max_shards)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer a = {0};
	size_t n;
	int err;

	redis_cmd_uint(&args, ino);
	redis_cmd_bin(&args, &version, sizeof(version));
	err = ckpt_read(m, deadline, "checksums", &args, &a);
	if (err)
		return err;
	n = a.result_bytes / SUM_BYTES;
	if (a.result_bytes % SUM_BYTES || n > INT32_MAX)
		return ckpt_malformed("checksums");
	if (sums)
		memcpy(sums, a.result,
		       (n < max_shards ? n : max_shards) * SUM_BYTES);
	return (int)n;
}

/* --- extended attributes ----------------------------------------------- */

static int xattr_name_check(const char *name)
{
	size_t n = strlen(name);

	return n && n <= XATTR_NAME_LEN_MAX ? 0 : -ERANGE;
}

int ckpt_xattr_set(struct meta *m, int64_t deadline, uint64_t ino,
		   const char *name, const void *value, size_t value_bytes,
		   int flags, int64_t now_ns)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = xattr_name_check(name);

	if (err)
		return err;
	if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	if (value_bytes > CKPT_XATTR_VALUE_MAX)
		return -E2BIG;
	redis_cmd_uint(&args, ino);
	redis_cmd_str(&args, name);
	redis_cmd_bin(&args, value ? value : "", value_bytes);
	redis_cmd_uint(&args, (unsigned)flags);
	redis_cmd_bin(&args, &now_ns, sizeof(now_ns));
	return ckpt_write(m, deadline, "xattr_set", &args, &answer);
}

/* As getxattr(2): size 0 asks for the length. */
static int xattr_answer(const char *fn, const struct ckpt_answer *a, void *out,
			size_t out_bytes)
{
	if (a->result_bytes > INT32_MAX)
		return ckpt_malformed(fn);
	if (!out_bytes)
		return (int)a->result_bytes;
	if (a->result_bytes > out_bytes)
		return -ERANGE;
	memcpy(out, a->result, a->result_bytes);
	return (int)a->result_bytes;
}

int ckpt_xattr_get(struct meta *m, int64_t deadline, uint64_t ino,
		   const char *name, void *value, size_t value_bytes)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer a = {0};
	int err = xattr_name_check(name);

	if (err)
		return err;
	redis_cmd_uint(&args, ino);
	redis_cmd_str(&args, name);
	err = ckpt_read(m, deadline, "xattr_get", &args, &a);
	return err ? err : xattr_answer("xattr_get", &a, value, value_bytes);
}

int ckpt_xattr_list(struct meta *m, int64_t deadline, uint64_t ino, char *names,
		    size_t names_bytes)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer a = {0};
	int err;

	redis_cmd_uint(&args, ino);
	err = ckpt_read(m, deadline, "xattr_list", &args, &a);
	if (err)
		return err;
	if (a.result_bytes && a.result[a.result_bytes - 1])
		return ckpt_malformed("xattr_list");
	return xattr_answer("xattr_list", &a, names, names_bytes);
}

int ckpt_xattr_remove(struct meta *m, int64_t deadline, uint64_t ino,
		      const char *name, int64_t now_ns)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = xattr_name_check(name);

	if (err)
		return err;
	redis_cmd_uint(&args, ino);
	redis_cmd_str(&args, name);
	redis_cmd_bin(&args, &now_ns, sizeof(now_ns));
	return ckpt_write(m, deadline, "xattr_remove", &args, &answer);
}

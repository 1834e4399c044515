// SPDX-License-Identifier: MIT
/* The operations on names; ckpt.lua does the work. */
#include "meta/ckpt_call.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "meta/ckpt_record.h"

#define READDIR_COUNT 500u
#define SYMLINK_MAX 4095u

/* Names come from the kernel, but also from whoever links with this. */
static int name_check(const char *name)
{
	size_t n = strlen(name);

	if (n > CKPT_NAME_MAX)
		return -ENAMETOOLONG;
	if (!n || !strcmp(name, ".") || !strcmp(name, "..") ||
	    memchr(name, '/', n))
		return -EINVAL;
	return 0;
}

static void args_name(struct redis_cmd *args, uint64_t parent, const char *name)
{
	redis_cmd_uint(args, parent);
	redis_cmd_str(args, name);
}

static void args_time(struct redis_cmd *args, int64_t ns)
{
	redis_cmd_bin(args, &ns, sizeof(ns));
}

static int read_attr(struct meta *m, int64_t deadline, const char *fn,
		     const struct redis_cmd *args, struct ckpt_attr *a)
{
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = ckpt_read(m, deadline, fn, args, &answer);

	return err ? err : ckpt_answer_attr(fn, &answer, a);
}

static int write_attr(struct meta *m, int64_t deadline, const char *fn,
		      const struct redis_cmd *args, struct ckpt_attr *a)
{
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = ckpt_write(m, deadline, fn, args, &answer);

	return err ? err : ckpt_answer_attr(fn, &answer, a);
}

int ckpt_lookup(struct meta *m, int64_t deadline, uint64_t parent,
		const char *name, struct ckpt_attr *a)
{
	redis_cmd_auto struct redis_cmd args = {0};
	int err = name_check(name);

	if (err)
		return err;
	args_name(&args, parent, name);
	return read_attr(m, deadline, "lookup", &args, a);
}

int ckpt_getattr(struct meta *m, int64_t deadline, uint64_t ino,
		 struct ckpt_attr *a)
{
	redis_cmd_auto struct redis_cmd args = {0};

	if (ckpt_letgo_has(m->ckpt, ino))
		return -ESTALE; /* as good as gone */
	redis_cmd_uint(&args, ino);
	return read_attr(m, deadline, "getattr", &args, a);
}

static void args_set(struct redis_cmd *args, const struct ckpt_attr *set)
{
	char inode[CKPT_INODE_BYTES];

	ckpt_inode_pack(inode, set);
	redis_cmd_bin(args, inode, sizeof(inode));
}

int ckpt_setattr(struct meta *m, int64_t deadline, uint64_t ino, unsigned mask,
		 const struct ckpt_attr *set, struct ckpt_attr *a)
{
	redis_cmd_auto struct redis_cmd args = {0};

	redis_cmd_uint(&args, ino);
	redis_cmd_uint(&args, mask);
	args_set(&args, set);
	return write_attr(m, deadline, "setattr", &args, a);
}

int ckpt_create(struct meta *m, int64_t deadline, uint64_t parent,
		const char *name, const struct ckpt_attr *set,
		const char *target, struct ckpt_attr *a)
{
	redis_cmd_auto struct redis_cmd args = {0};
	struct ckpt_attr mine = *set;
	int err = name_check(name);

	if (err)
		return err;
	if (target && strlen(target) > SYMLINK_MAX)
		return -ENAMETOOLONG;
	mine.size_bytes = target ? strlen(target) : 0;
	args_name(&args, parent, name);
	args_set(&args, &mine);
	redis_cmd_str(&args, target ? target : "");
	return write_attr(m, deadline, "create", &args, a);
}

int ckpt_link(struct meta *m, int64_t deadline, uint64_t ino, uint64_t parent,
	      const char *name, int64_t now_ns, struct ckpt_attr *a)
{
	redis_cmd_auto struct redis_cmd args = {0};
	int err = name_check(name);

	if (err)
		return err;
	redis_cmd_uint(&args, ino);
	args_name(&args, parent, name);
	args_time(&args, now_ns);
	return write_attr(m, deadline, "link", &args, a);
}

/*
 * The script keeps a file without a name for this node, because it cannot
 * know who has it open; the node does, and says so with its next mutation.
 */
static int gone_fill(struct meta *m, const char *fn,
		     const struct ckpt_answer *answer,
		     bool (*keep_open)(void *ctx, uint64_t ino), void *ctx,
		     struct ckpt_gone *gone)
{
	struct ckpt_cursor c = {answer->result,
				answer->result + answer->result_bytes, false};
	struct ckpt_gone g = {.ino = ckpt_cursor_u64(&c)};

	g.nlink = ckpt_cursor_u32(&c);
	g.mode = ckpt_cursor_u32(&c);
	if (!ckpt_cursor_done(&c))
		return ckpt_malformed(fn);
	if (g.ino && !g.nlink)
		g.freed =
			S_ISDIR(g.mode) || !keep_open || !keep_open(ctx, g.ino);
	if (g.freed && !S_ISDIR(g.mode))
		ckpt_letgo(m->ckpt, g.ino);
	if (gone)
		*gone = g;
	return 0;
}

int ckpt_unlink(struct meta *m, int64_t deadline, uint64_t parent,
		const char *name, bool (*keep_open)(void *ctx, uint64_t ino),
		void *ctx, int64_t now_ns, struct ckpt_gone *gone)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = name_check(name);

	if (err)
		return err;
	args_name(&args, parent, name);
	args_time(&args, now_ns);
	err = ckpt_write(m, deadline, "unlink", &args, &answer);
	return err ? err
		   : gone_fill(m, "unlink", &answer, keep_open, ctx, gone);
}

int ckpt_rmdir(struct meta *m, int64_t deadline, uint64_t parent,
	       const char *name, int64_t now_ns, struct ckpt_gone *gone)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = name_check(name);

	if (err)
		return err;
	args_name(&args, parent, name);
	args_time(&args, now_ns);
	err = ckpt_write(m, deadline, "rmdir", &args, &answer);
	return err ? err : gone_fill(m, "rmdir", &answer, NULL, NULL, gone);
}

static int rename_check(const char *name, const char *new_name, unsigned flags)
{
	int err = name_check(name);

	if (err)
		return err;
	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) ||
	    flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	return name_check(new_name);
}

int ckpt_rename(struct meta *m, int64_t deadline, uint64_t parent,
		const char *name, uint64_t new_parent, const char *new_name,
		unsigned flags, bool (*keep_open)(void *ctx, uint64_t ino),
		void *ctx, int64_t now_ns, struct ckpt_gone *gone)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = rename_check(name, new_name, flags);

	if (err)
		return err;
	args_name(&args, parent, name);
	args_name(&args, new_parent, new_name);
	redis_cmd_uint(&args, flags);
	args_time(&args, now_ns);
	err = ckpt_write(m, deadline, "rename", &args, &answer);
	return err ? err
		   : gone_fill(m, "rename", &answer, keep_open, ctx, gone);
}

int ckpt_release(struct meta *m, int64_t deadline, uint64_t ino)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};

	redis_cmd_uint(&args, ino);
	return ckpt_write(m, deadline, "release", &args, &answer);
}

int ckpt_readlink(struct meta *m, int64_t deadline, uint64_t ino, char *target,
		  size_t target_bytes)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer a = {0};
	int err;

	redis_cmd_uint(&args, ino);
	err = ckpt_read(m, deadline, "readlink", &args, &a);
	if (err)
		return err;
	if (a.result_bytes > SYMLINK_MAX || memchr(a.result, 0, a.result_bytes))
		return ckpt_malformed("readlink");
	if (a.result_bytes >= target_bytes)
		return -ERANGE;
	memcpy(target, a.result, a.result_bytes);
	target[a.result_bytes] = '\0';
	return 0;
}

/* --- readdir ----------------------------------------------------------- */

struct entry {
	char name[CKPT_NAME_MAX + 1];
	struct ckpt_attr attr;
};

static bool entry_read(struct ckpt_cursor *c, struct entry *e)
{
	size_t n = ckpt_cursor_u16(c);
	const char *name = ckpt_cursor_bytes(c, n);

	if (!name || n > CKPT_NAME_MAX || memchr(name, 0, n))
		return false;
	memcpy(e->name, name, n);
	e->name[n] = '\0';
	ckpt_cursor_attr(c, &e->attr);
	return !c->bad && !name_check(e->name);
}

static int cursor_read(struct ckpt_cursor *c, uint64_t *cursor)
{
	size_t n = ckpt_cursor_u16(c);
	const char *p = ckpt_cursor_bytes(c, n);

	*cursor = 0;
	if (!p || !n || n > 20)
		return -EIO;
	for (size_t i = 0; i < n; i++) {
		if (p[i] < '0' || p[i] > '9')
			return -EIO;
		*cursor = *cursor * 10 + (uint64_t)(p[i] - '0');
	}
	return 0;
}

/* Everything is checked before the first entry is told. */
static int page_check(struct ckpt_cursor c)
{
	struct entry e;

	while (c.p < c.end)
		if (!entry_read(&c, &e))
			return ckpt_malformed("readdir");
	return 0;
}

int ckpt_readdir(struct meta *m, int64_t deadline, uint64_t ino,
		 uint64_t *cursor,
		 void (*fn)(void *arg, const char *name,
			    const struct ckpt_attr *a),
		 void *arg)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer a = {0};
	struct ckpt_cursor c;
	struct entry e;
	uint64_t next;
	int err;

	redis_cmd_uint(&args, ino);
	redis_cmd_uint(&args, *cursor);
	redis_cmd_uint(&args, READDIR_COUNT);
	err = ckpt_read(m, deadline, "readdir", &args, &a);
	if (err)
		return err;
	c = (struct ckpt_cursor){a.result, a.result + a.result_bytes, false};
	if (cursor_read(&c, &next))
		return ckpt_malformed("readdir");
	err = page_check(c);
	if (err)
		return err;
	while (c.p < c.end && entry_read(&c, &e))
		fn(arg, e.name, &e.attr);
	*cursor = next;
	return next ? 1 : 0;
}

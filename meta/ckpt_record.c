// SPDX-License-Identifier: MIT
#include "meta/ckpt_record.h"

#include <string.h>
#include <sys/stat.h>

#define INO_MAX (UINT64_C(1) << 53) /* Lua counts in doubles */

enum { OP_SET = 1, OP_HSET = 3 };

static char *put(char *p, const void *v, size_t n)
{
	memcpy(p, v, n);
	return p + n;
}

void ckpt_inode_pack(char out[CKPT_INODE_BYTES], const struct ckpt_attr *a)
{
	const uint32_t writer = 0;
	char *p = out;

	p = put(p, &a->mode, 4);
	p = put(p, &a->uid, 4);
	p = put(p, &a->gid, 4);
	p = put(p, &a->nlink, 4);
	p = put(p, &a->size_bytes, 8);
	p = put(p, &a->rdev, 8);
	p = put(p, &a->version, 8);
	p = put(p, &a->atime_ns, 8);
	p = put(p, &a->mtime_ns, 8);
	p = put(p, &a->ctime_ns, 8);
	p = put(p, &a->parent_ino, 8);
	p = put(p, &writer, 4);
	put(p, &a->shard_log2, 4);
}

const char *ckpt_cursor_bytes(struct ckpt_cursor *c, size_t n)
{
	const char *p = c->p;

	if ((size_t)(c->end - c->p) < n) {
		c->bad = true;
		c->p = c->end;
		return NULL;
	}
	c->p += n;
	return p;
}

static void take(struct ckpt_cursor *c, void *v, size_t n)
{
	const char *p = ckpt_cursor_bytes(c, n);

	if (p)
		memcpy(v, p, n);
	else
		memset(v, 0, n);
}

uint64_t ckpt_cursor_u64(struct ckpt_cursor *c)
{
	uint64_t v;

	take(c, &v, sizeof(v));
	return v;
}

uint32_t ckpt_cursor_u32(struct ckpt_cursor *c)
{
	uint32_t v;

	take(c, &v, sizeof(v));
	return v;
}

uint16_t ckpt_cursor_u16(struct ckpt_cursor *c)
{
	uint16_t v;

	take(c, &v, sizeof(v));
	return v;
}

static bool type_known(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return mode <= 0177777;
	default:
		return false;
	}
}

void ckpt_cursor_attr(struct ckpt_cursor *c, struct ckpt_attr *a)
{
	memset(a, 0, sizeof(*a));
	a->ino = ckpt_cursor_u64(c);
	a->mode = ckpt_cursor_u32(c);
	a->uid = ckpt_cursor_u32(c);
	a->gid = ckpt_cursor_u32(c);
	a->nlink = ckpt_cursor_u32(c);
	a->size_bytes = ckpt_cursor_u64(c);
	a->rdev = ckpt_cursor_u64(c);
	a->version = ckpt_cursor_u64(c);
	take(c, &a->atime_ns, 8);
	take(c, &a->mtime_ns, 8);
	take(c, &a->ctime_ns, 8);
	a->parent_ino = ckpt_cursor_u64(c);
	a->writer = ckpt_cursor_u32(c);
	a->shard_log2 = ckpt_cursor_u32(c);
	if (!a->ino || a->ino >= INO_MAX || !type_known(a->mode) ||
	    a->size_bytes > INT64_MAX || !ckpt_shard_log2_known(a->shard_log2))
		c->bad = true;
}

bool ckpt_cursor_done(const struct ckpt_cursor *c)
{
	return !c->bad && c->p == c->end;
}

/* kind, length + key, length + field, length + value, as ckpt.lua's op() */
static char *put_op(char *p, uint8_t kind, const char *key, const char *field,
		    const void *value, uint32_t n_value)
{
	uint16_t n_key = (uint16_t)strlen(key);
	uint16_t n_field = (uint16_t)strlen(field);

	p = put(p, &kind, 1);
	p = put(p, &n_key, 2);
	p = put(p, key, n_key);
	p = put(p, &n_field, 2);
	p = put(p, field, n_field);
	p = put(p, &n_value, 4);
	return put(p, value, n_value);
}

size_t ckpt_record_root(char out[CKPT_ROOT_RECORD_BYTES],
			const struct ckpt_attr *root)
{
	char inode[CKPT_INODE_BYTES];
	char *p = out;

	ckpt_inode_pack(inode, root);
	p = put_op(p, OP_HSET, "m", "next", "2", 1);
	p = put_op(p, OP_SET, "i1", "", inode, sizeof(inode));
	return (size_t)(p - out);
}

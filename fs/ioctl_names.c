// SPDX-License-Identifier: MIT
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "engine/pool.h"
#include "fs/ioctl.h"
#include "fs/kv.h"
#include "fs/kv_access.h"
#include "fs/remote.h"

/* Names come from whoever can open a directory. */

static int check_digests(struct ioctl_names *names, size_t n)
{
	size_t bytes = names->digest_bytes;

	if (bytes != 16 && bytes != 20 && bytes != 32)
		return -EINVAL;
	if (n != names->suffix_bytes + names->left * bytes ||
	    2 * bytes + names->suffix_bytes > 255 ||
	    memchr(names->suffix, '/', names->suffix_bytes) ||
	    memchr(names->suffix, 0, names->suffix_bytes))
		return -EINVAL;
	memcpy(names->name + 2 * bytes, names->suffix, names->suffix_bytes);
	return 0;
}

static int check_texts(const struct ioctl_names *names)
{
	const char *at = names->at, *nul;

	for (uint32_t i = 0; i < names->left; i++, at = nul + 1) {
		nul = memchr(at, 0, (size_t)(names->end - at));
		if (!nul || !kv_match_is_path(at, (size_t)(nul - at)))
			return -EINVAL;
	}
	return at == names->end ? 0 : -EINVAL;
}

int ioctl_names_init(struct ioctl_names *names, const struct kvfs_ioc_names *in,
		     const void *packed, size_t n)
{
	if (in->n > KVFS_IOC_NAMES_MAX || in->reserved || in->suffix_bytes > n)
		return -EINVAL;
	names->left = in->n;
	names->digest_bytes = in->digest_bytes;
	names->suffix_bytes = in->suffix_bytes;
	names->suffix = packed;
	names->at = names->suffix + in->suffix_bytes;
	names->end = names->suffix + n;
	if (in->digest_bytes)
		return check_digests(names, n);
	return in->suffix_bytes ? -EINVAL : check_texts(names);
}

int ioctl_moves_init(struct ioctl_names *names, const struct kvfs_ioc_names *in,
		     uint32_t n, const void *at, size_t left,
		     const struct kvfs_ioc_move **moves)
{
	size_t bytes = (size_t)n * sizeof(**moves);
	int err;

	if (bytes > left)
		return -EINVAL;
	err = ioctl_names_init(names, in, (const char *)at + bytes,
			       left - bytes);
	if (!err)
		*moves = at;
	return err;
}

/* Four bytes as eight digits, all at once: of a warm EXISTS this is a part
 * that shows. One digit lies in each byte of n. */
static void put_hex4(char *to, const char *bytes)
{
	uint64_t n, letters;
	uint32_t word;

	memcpy(&word, bytes, sizeof(word));
	n = le32toh(word);
	n = (n | n << 16) & 0x0000ffff0000ffffULL;
	n = (n | n << 8) & 0x00ff00ff00ff00ffULL;
	n = (n >> 4 & 0x000f000f000f000fULL) | (n & 0x000f000f000f000fULL) << 8;
	letters = (n + 0x0606060606060606ULL) >> 4 & 0x0101010101010101ULL;
	n += 0x3030303030303030ULL + letters * ('a' - '0' - 10);
	n = htole64(n);
	memcpy(to, &n, sizeof(n));
}

bool ioctl_names_next(struct ioctl_names *names, struct kv_name *name)
{
	size_t bytes = names->digest_bytes;

	if (!names->left)
		return false;
	names->left--;
	if (bytes) {
		for (size_t i = 0; i < bytes; i += 4)
			put_hex4(names->name + 2 * i, names->at + i);
		*name = (struct kv_name){
			names->name,
			(uint16_t)(2 * bytes + names->suffix_bytes)};
		names->at += bytes;
	} else {
		*name = (struct kv_name){names->at,
					 (uint16_t)strlen(names->at)};
		names->at += name->len + 1;
	}
	return true;
}

int ioctl_text_init(struct ioctl_text *t, struct ioctl_names *names, uint32_t n)
{
	size_t digest = names->digest_bytes;
	size_t bytes = digest ? 2 * digest + names->suffix_bytes : 0;
	struct kv_name name;
	char *at;

	t->n = n;
	t->names = calloc(n + 1, sizeof(*t->names));
	t->text = at = malloc(n * bytes + 1);
	if (!t->names || !t->text)
		return -ENOMEM;
	for (uint32_t i = 0; ioctl_names_next(names, &name); i++) {
		t->names[i] = name;
		if (!bytes)
			continue; /* it lies in the request */
		t->names[i].text = memcpy(at, name.text, name.len);
		at += name.len;
	}
	return 0;
}

void ioctl_text_fini(struct ioctl_text *t)
{
	free(t->names);
	free(t->text);
}

int ioctl_dir_path(struct call *c, const struct ioctl_text *t,
		   char path[POOL_PATH_MAX + 1])
{
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	int len = 0;
	scoped_lock(&c->fs->kv->lock);

	if (dir->node.unlinked)
		return -ENOENT;
	if (dir->node.type != KV_ROOT)
		len = kv_path(kv_dir(dir->node.parent), dir->node.name, path);
	for (uint32_t i = 0; len >= 0 && i < t->n; i++)
		if (len + 1u + t->names[i].len > POOL_PATH_MAX)
			return -EINVAL;
	return len;
}

#define LOCK_STEP 64 /* names under one hold of kv->lock */

void ioctl_dirs_ask(struct call *c, const struct ioctl_names *from)
{
	const struct kv_caller who = kv_caller_of(c);
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	struct ioctl_names names = *from;
	struct kv *kv = c->fs->kv;
	struct kv_node *node;
	struct kv_name name;
	bool more = c->fs->remote && who.uid;

	while (more) {
		scoped_lock(&kv->lock);
		kv_may_pass(&who, dir);
		for (int i = 0; more && i < LOCK_STEP; i++) {
			more = ioctl_names_next(&names, &name);
			if (more)
				kv_walk(kv, &who, dir, name.text, name.len,
					&node);
		}
	}
	remote_dirs_ask(c->fs);
}

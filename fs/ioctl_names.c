// SPDX-License-Identifier: MIT
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

const struct kvfs_ioc_pin *ioctl_pins_take(const char **at, size_t *left,
					   uint32_t n)
{
	const struct kvfs_ioc_pin *pins = (const void *)*at;

	if (n > *left / sizeof(*pins))
		return NULL;
	*at += n * sizeof(*pins);
	*left -= n * sizeof(*pins);
	return pins;
}

typedef uint8_t bytes8 __attribute__((vector_size(8)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint16_t words8 __attribute__((vector_size(16)));

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HALVES(word) ((word) >> 4 | (word) << 8)
#else
#define HALVES(word) ((word) << 4 | (word))
#endif

/* Eight bytes as sixteen digits, all at once: of a warm EXISTS this is a part
 * that shows. */
static void put_hex8(char *to, const char *from)
{
	bytes8 bytes;
	bytes16 n;

	memcpy(&bytes, from, sizeof(bytes));
	n = (bytes16)(HALVES(__builtin_convertvector(bytes, words8)) & 0x0f0f);
	n += '0' + ((bytes16)(n > 9) & ('a' - '0' - 10));
	memcpy(to, &n, sizeof(n));
}

static struct kv_name digest_name(const struct ioctl_names *names, char *to)
{
	size_t bytes = names->digest_bytes, last = bytes - 8;

	for (size_t i = 0; i < last; i += 8)
		put_hex8(to + 2 * i, names->at + i);
	put_hex8(to + 2 * last, names->at + last);
	if (names->suffix_bytes)
		memcpy(to + 2 * bytes, names->suffix, names->suffix_bytes);
	return (struct kv_name){to,
				(uint16_t)(2 * bytes + names->suffix_bytes)};
}

/* A digest's is written there. */
static inline bool next_name(struct ioctl_names *names, char *to,
			     struct kv_name *name)
{
	if (!names->left)
		return false;
	names->left--;
	if (names->digest_bytes) {
		*name = digest_name(names, to);
		names->at += names->digest_bytes;
	} else {
		*name = (struct kv_name){names->at,
					 (uint16_t)strlen(names->at)};
		names->at += name->len + 1;
	}
	return true;
}

bool ioctl_names_next(struct ioctl_names *names, struct kv_name *name)
{
	return next_name(names, names->name, name);
}

unsigned ioctl_names_some(struct ioctl_names *names, struct ioctl_some *some)
{
	unsigned n = 0;

	while (n < KV_FIND_MAX &&
	       next_name(names, some->text[n], &some->names[n]))
		n++;
	return n;
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

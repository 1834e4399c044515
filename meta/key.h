/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KEY_H
#define KVFS_META_KEY_H

/*
 * Names of keys. All stand under one prefix P, so that an ACL (~P:*) can
 * confine kvfs, and carry a hash tag, so that what a script touches lies in
 * one slot of a Redis Cluster:
 *
 *      P:{n}:…            nodes, store id, namespaces      tag "n"
 *      P:{c}:…            the ckpt tree                    tag "c"
 *      P:{NS#g}:b<s>      kv records                       tag "NS#g"
 *
 * A namespace's name may hold any byte but '/' and NUL; in a key everything
 * but letters, digits, '-', '_' and '.' is written as %XX, so the tag's
 * braces are the only ones.
 */

#include <stddef.h>
#include <stdint.h>

#define KEY_PREFIX_MAX 32
#define KEY_GROUPS 64u
#define KEY_SUB_MAX 65536u
#define KEY_TAG_MAX (3 * 255 + 8)
#define KEY_MAX (KEY_PREFIX_MAX + KEY_TAG_MAX + 64)

struct key {
	size_t len;
	char text[KEY_MAX]; /* 0-terminated */
};

/** key_prefix_check - 1 … 32 of letters, digits, '-', '_', '.', ':'.
 *  Returns: 0 or -EINVAL. */
int key_prefix_check(const char *prefix);

/** key_make - "PREFIX:{TAG}:rest"; what does not fit is cut (never ours). */
void key_make(struct key *k, const char *prefix, const char *tag,
	      const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Where a block's record lives. */
struct key_place {
	uint32_t group; /* 0 … KEY_GROUPS - 1 */
	uint32_t sub;	/* 0 … n_sub - 1 */
};

/** key_place - of a path below its namespace. */
struct key_place key_place(const void *path, size_t path_len, uint32_t n_sub);

/** key_tag_kv - write "NS#g" (escaped); tag holds KEY_TAG_MAX bytes. */
void key_tag_kv(char *tag, const void *ns, size_t ns_len, uint32_t group);

#endif

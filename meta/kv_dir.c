// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "meta/internal.h"
#include "meta/key.h"
#include "meta/kv.h"
#include "meta/kv_find_impl.h"
#include "meta/kv_impl.h"
#include "meta/namespace.h"
#include "meta/record.h"

/*
 * Directories below a namespace, by hand: the publisher writes their records
 * with the first block below them (kv_send.c); here is what a user changes.
 */

#define DROP_NS (NS_PER_S / 4) /* a tree is removed with Redis away, too */

struct place {
	char tag[KEY_TAG_MAX];
	uint32_t sub;
	char field[KV_REST_MAX + 1]; /* with the slash of a directory */
	size_t field_len;
};

static int find_place(struct meta *m, const char *path, uint16_t len,
		      struct place *p)
{
	const char *slash = memchr(path, '/', len);
	size_t ns_len = slash ? (size_t)(slash - path) : len;
	size_t rest_len = slash ? len - ns_len - 1 : 0;
	struct key_place place;
	int n_sub;

	if (!rest_len || rest_len >= sizeof(p->field))
		return -ENOENT;
	n_sub = meta_namespace_subs(m, path, ns_len, false);
	if (n_sub < 0)
		return n_sub == -ENOENT ? -ENOENT : -EIO;
	place = key_place(slash + 1, rest_len, (uint32_t)n_sub);
	key_tag_kv(p->tag, path, ns_len, place.group);
	p->sub = place.sub;
	memcpy(p->field, slash + 1, rest_len);
	p->field[rest_len] = '/';
	p->field_len = rest_len + 1;
	return 0;
}

/* Where Redis is only late, as on a busy machine, it is waited for. */
static int call(struct meta *m, const struct place *p, int64_t deadline,
		struct redis_cmd *c, struct redis_reply **reply)
{
	int err = meta_call_wait(m, META_LOOKUP, p->tag, deadline, c, reply);

	return err ? -EIO : 0;
}

static void add_set(struct redis_cmd *c, unsigned set)
{
	redis_cmd_printf(c, "%s%s%s", set & META_DIR_MODE ? "m" : "",
			 set & META_DIR_UID ? "u" : "",
			 set & META_DIR_GID ? "g" : "");
}

int meta_kv_dir_set(struct meta *m, const char *path, uint16_t path_len,
		    unsigned set, uint32_t *mode, uint32_t *uid, uint32_t *gid)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	uint8_t blob[RECORD_DIR_BYTES];
	const char *now = "";
	size_t n = 0;
	struct place p;
	int err = find_place(m, path, path_len, &p);

	if (err)
		return err;
	record_dir_encode(*mode, *uid, *gid, blob);
	meta_fcall(&c, "dir_set", 1);
	meta_cmd_key(&c, m, p.tag, "b%u", p.sub);
	redis_cmd_bin(&c, p.field, p.field_len);
	redis_cmd_bin(&c, blob, sizeof(blob));
	add_set(&c, set);
	err = call(m, &p, 0, &c, &reply);
	if (err)
		return err;
	if (redis_reply_str(reply, &now, &n) ||
	    record_dir_decode(now, n, mode, uid, gid))
		return -EIO;
	return 0;
}

int meta_kv_dir_drop(struct meta *m, const char *path, uint16_t path_len)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	struct place p;
	int err = find_place(m, path, path_len, &p);

	if (err)
		return err;
	redis_cmd_str(&c, "HDEL");
	meta_cmd_key(&c, m, p.tag, "b%u", p.sub);
	redis_cmd_bin(&c, p.field, p.field_len);
	err = call(m, &p, clock_now_ns() + DROP_NS, &c, &reply);
	meta_kv_dirs_again(m);
	return err;
}

void meta_kv_dirs_again(struct meta *m)
{
	m->kv->dirs_epoch++;
}

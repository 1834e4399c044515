// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "meta/kv_impl.h"
#include "meta/members.h"
#include "meta/record.h"

/*
 * Readers skip dead holders at once; here they leave the records, so that
 * names which only dead nodes held do not fill Redis. One node does it, the
 * live one with the lowest incarnation.
 */

static void add_self(struct redis_cmd *c, struct meta *m)
{
	uint32_t me = meta_node_self(m);
	uint8_t bytes[4] = {(uint8_t)me, (uint8_t)(me >> 8),
			    (uint8_t)(me >> 16), (uint8_t)(me >> 24)};

	redis_cmd_bin(c, bytes, sizeof(bytes));
}

int kv_sweep_begin(struct kv_pub *k, struct kv_sweep *s, const char *tag,
		   uint32_t sub)
{
	cleanup_free void *live = NULL;
	struct meta *m = k->m;
	uint64_t known;
	size_t n_bytes;

	*s = (struct kv_sweep){.k = k};
	live = meta_members_bytes(m, true, &n_bytes, &known);
	if (!live)
		return -ENOMEM;
	meta_fcall(&s->cmd, "kv_batch_gone", 4);
	meta_cmd_key(&s->cmd, m, tag, "t");
	meta_cmd_key(&s->cmd, m, tag, "x");
	meta_cmd_key(&s->cmd, m, tag, "g");
	meta_cmd_key(&s->cmd, m, tag, "b%u", sub);
	add_self(&s->cmd, m);
	redis_cmd_bin(&s->cmd, live, n_bytes);
	redis_cmd_uint(&s->cmd, known);
	return 0;
}

void kv_sweep_see(struct kv_sweep *s, const void *path, size_t len,
		  const struct record *r)
{
	bool dead = false;

	for (uint32_t i = 0; i < r->n_holders; i++)
		dead |= !meta_node_is_reached(s->k->m, r->holders[i]);
	if (!dead)
		return;
	redis_cmd_bin(&s->cmd, path, len);
	redis_cmd_str(&s->cmd, "");
	s->n++;
}

int kv_sweep_end(struct kv_sweep *s, const char *tag)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	cleanup_free char *what = calloc(2, (size_t)s->n + 1);
	int err = what ? 0 : -ENOMEM;

	for (unsigned i = 0; what && i < s->n; i++)
		memcpy(what + 2 * i, "S\1", 2);
	redis_cmd_bin(&s->cmd, what, what ? 2 * (size_t)s->n : 0);
	if (s->n && !err)
		err = meta_call(s->k->m, META_PUBLISH, tag, 0, &s->cmd, &reply);
	if (!err)
		s->k->n_swept += s->n;
	redis_cmd_fini(&s->cmd);
	return err;
}

// SPDX-License-Identifier: MIT
/* The store against the logs of all nodes: ckpt_call.h has the story. */
#include "meta/ckpt_call.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "meta/node.h"

#define NAMES_MAX 512

/* --- what the store says ----------------------------------------------- */

/* Hexadecimal, or nothing: 0. */
static bool id_read(const struct redis_reply *r, uint64_t *id)
{
	const char *text = redis_reply_text(r);
	char *end;

	*id = strtoull(text, &end, 16);
	return !*end && (!*text || *id);
}

int ckpt_store_state(struct meta_ckpt *c, struct ckpt_store *s)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	redis_reply_auto struct redis_reply *r = NULL;
	int err;

	ckpt_cmd_begin(c->m, &cmd, "state");
	err = meta_call(c->m, META_CKPT, "c", 0, &cmd, &r);
	if (err)
		return err;
	memset(s, 0, sizeof(*s));
	if (redis_reply_count(r) < 8 ||
	    !id_read(redis_reply_at(r, 0), &s->tree) ||
	    redis_reply_uint(redis_reply_at(r, 1), &s->seq) ||
	    !id_read(redis_reply_at(r, 3), &s->token) ||
	    redis_reply_uint(redis_reply_at(r, 4), &s->life) ||
	    redis_reply_uint(redis_reply_at(r, 5), &s->base) ||
	    !id_read(redis_reply_at(r, 6), &s->prev))
		return ckpt_malformed("state");
	s->whole = !strcmp(redis_reply_text(redis_reply_at(r, 2)), "1");
	s->live = !strcmp(redis_reply_text(redis_reply_at(r, 7)), "1");
	redis_run_id(c->m->links[META_CKPT], s->run_id);
	return 0;
}

void ckpt_state_set(struct meta_ckpt *c, enum ckpt_state state)
{
	scoped_lock(&c->lock);
	c->state = state;
	pthread_cond_broadcast(&c->cond);
	pthread_cond_signal(&c->tail_cond);
}

/* --- the election ------------------------------------------------------ */

enum what { LIVE, WAIT, LOAD, NONE, EMPTY, WHATS }; /* as in ckpt_keep.lua */

/* What is to be done, and the keepers that are away. */
struct verdict {
	enum what what;
	char away[NAMES_MAX];
};

static void name_add(char names[NAMES_MAX], const char *name)
{
	size_t n = strlen(names);

	snprintf(names + n, NAMES_MAX - n, "%s%s", n ? ", " : "", name);
}

static void verdict_read(struct meta_ckpt *c, const struct redis_reply *r,
			 struct verdict *v)
{
	v->away[0] = '\0';
	for (size_t i = 2; i < redis_reply_count(r); i++) {
		const char *uuid = redis_reply_text(redis_reply_at(r, i));
		const struct ckpt_keeper *k =
			ckpt_keepers_find(&c->keepers, uuid);

		name_add(v->away, k ? k->name : uuid);
	}
}

static void add_id(struct redis_cmd *cmd, uint64_t id)
{
	if (id)
		redis_cmd_printf(cmd, "%016" PRIx64, id);
	else
		redis_cmd_str(cmd, "");
}

/* A log that nobody says anything of is this node's own. */
static bool is_member(struct meta_ckpt *c, const struct ckpt_log_info *info)
{
	if (!c->keepers.tree)
		return info->tree;
	return ckpt_keepers_find(&c->keepers, meta_node_uuid(c->m));
}

static void add_offer(struct meta_ckpt *c, struct redis_cmd *cmd)
{
	const struct ckpt_keepers *k = &c->keepers;
	struct ckpt_log_info info;
	char members[CKPT_KEEPERS_MAX * (META_UUID_LEN + 1) + 1] = "";
	bool member;

	ckpt_log_seal(c->log); /* others go by what it has now */
	ckpt_log_info(c->log, &info);
	member = is_member(c, &info);
	for (unsigned i = 0; i < k->n; i++)
		sprintf(members + strlen(members), "%s%s", i ? "," : "",
			k->list[i].uuid);
	if (!k->tree && member)
		sprintf(members, "%s", meta_node_uuid(c->m));
	add_id(cmd, k->tree ? k->tree : info.tree);
	add_id(cmd, k->token);
	redis_cmd_uint(cmd, k->life);
	redis_cmd_uint(cmd, member ? info.seq : 0);
	redis_cmd_uint(cmd, k->version);
	redis_cmd_str(cmd, members);
}

static int elect(struct meta_ckpt *c, struct verdict *v)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	redis_reply_auto struct redis_reply *r = NULL;
	uint64_t what;
	int err;

	ckpt_cmd_begin(c->m, &cmd, "elect");
	ckpt_cmd_self(c, &cmd);
	add_offer(c, &cmd);
	redis_cmd_uint(&cmd, c->was_live);
	redis_cmd_uint(&cmd, c->elect_ms);
	redis_cmd_printf(&cmd, "%016" PRIx64, ckpt_random());
	err = ckpt_page(c->m, &cmd, 2, &r);
	if (err)
		return err;
	if (redis_reply_uint(redis_reply_at(r, 1), &what) || what >= WHATS)
		return ckpt_malformed("elect");
	v->what = (enum what)what;
	verdict_read(c, r, v);
	return 0;
}

/* --- what follows from it ---------------------------------------------- */

/* Once an election: who is waited for, and what a person can do. */
static int wait_for(struct meta_ckpt *c, const struct verdict *v)
{
	if (c->said_wait || !v->away[0])
		return -EAGAIN;
	c->said_wait = true;
	if (c->was_live)
		log_error("ckpt: redis may have lost the newest names: waiting "
			  "for what the keepers %s have, up to %u s; ckpt/ is "
			  "read-only meanwhile",
			  v->away, (c->elect_ms + 999) / 1000);
	else
		log_error("ckpt: redis may have lost the newest names, and the "
			  "keepers %s are not here to say: start them, or, to "
			  "go on without what only they know, remove "
			  "%s/ckpt.keepers",
			  v->away, c->m->state_dir);
	return -EAGAIN;
}

static int nobody_has_it(struct meta_ckpt *c)
{
	char names[NAMES_MAX] = "";

	for (unsigned i = 0; i < c->keepers.n; i++)
		name_add(names, c->keepers.list[i].name);
	if (!c->said_none)
		log_error("ckpt: redis lost the tree, and none of its keepers "
			  "(%s) is here: start one of them; ckpt/ is read-only "
			  "until then",
			  names);
	c->said_none = true;
	return -EAGAIN;
}

/* Without what was lost, files would be forgotten and their data dropped. */
static int refuse_damaged(struct meta_ckpt *c, const struct ckpt_log_info *info)
{
	log_error("ckpt: ckpt.log is damaged and redis does not have the tree: "
		  "remove ckpt.*.bad-* from %s to go on with the tree as of "
		  "record %" PRIu64 ", losing what came later",
		  c->m->state_dir, info->seq);
	return -EUCLEAN;
}

static void say_forced(const struct verdict *v,
		       const struct ckpt_log_info *info)
{
	if (v->away[0])
		log_error("ckpt: the keepers %s did not answer: redis goes on "
			  "without what only they had; the newest log that is "
			  "here ends at record %" PRIu64,
			  v->away, info->seq);
}

static int create(struct meta_ckpt *c)
{
	struct verdict v;
	int err = ckpt_tree_new(c);

	if (!err)
		err = elect(c, &v);
	if (err)
		return err;
	return v.what == LOAD ? ckpt_load(c, 0) : v.what == LIVE ? 0 : -EAGAIN;
}

/* Until it is agreed that the store has all that any keeper has. */
static int settle(struct meta_ckpt *c, const struct ckpt_store *s)
{
	struct ckpt_log_info info;
	struct verdict v;
	int err = elect(c, &v);

	if (err)
		return err;
	ckpt_log_info(c->log, &info);
	if (v.what != LIVE && v.what != WAIT && info.damaged)
		return refuse_damaged(c, &info);
	switch (v.what) {
	case LIVE:
		say_forced(&v, &info);
		return 0;
	case LOAD:
		say_forced(&v, &info);
		return ckpt_load(c, s->tree);
	case EMPTY:
		return info.tree || c->keepers.tree ? -EAGAIN : create(c);
	case NONE:
		return nobody_has_it(c);
	default:
		return wait_for(c, &v);
	}
}

/* --- attach ------------------------------------------------------------ */

static int check_tree(const struct ckpt_store *s,
		      const struct ckpt_log_info *info)
{
	if (!s->tree || !info->tree || s->tree == info->tree ||
	    info->seq <= 1 || s->seq <= 1)
		return 0;
	log_error("ckpt: redis holds the tree of another cluster (%016" PRIx64
		  ", ours is %016" PRIx64 "): nothing is touched; use another "
		  "prefix or database, or move ckpt.log, ckpt.snap and "
		  "ckpt.keepers away",
		  s->tree, info->tree);
	return -EINVAL;
}

/* A store that has less than the log of a keeper was rolled back. */
static bool contests(struct meta_ckpt *c, const struct ckpt_store *s,
		     const struct ckpt_log_info *info)
{
	if (!is_member(c, info))
		return false;
	if (s->tree != info->tree)
		return s->seq <= 1 && info->seq > 1;
	return s->token == c->keepers.token && info->seq > s->seq;
}

bool ckpt_is_prefix(struct meta_ckpt *c, const struct ckpt_store *s,
		    const struct ckpt_log_info *info)
{
	if (info->damaged || !info->tree || info->tree != s->tree)
		return false;
	if (c->keepers.token == s->token)
		return true;
	return c->keepers.token == s->prev && info->seq <= s->base;
}

/* What this node knew, and the store does not. */
static void say_given_up(struct meta_ckpt *c, const struct ckpt_store *s,
			 const struct ckpt_log_info *info)
{
	bool kept = is_member(c, info) && info->tree == s->tree &&
		    c->keepers.token != s->token;
	uint64_t newest = kept ? info->seq : 0;

	if (c->token && c->token == s->prev && c->seen_seq > newest)
		newest = c->seen_seq;
	if (newest > s->base)
		log_error("ckpt: redis lost records %" PRIu64 " to %" PRIu64
			  ", and goes on without them",
			  s->base + 1, newest);
	c->seen_seq = s->seq;
}

/* The store is live: go with it. */
static int follow(struct meta_ckpt *c, const struct ckpt_store *s)
{
	struct ckpt_log_info info;
	bool prefix;

	if (s->token != c->token)
		ckpt_log_seal(c->log);
	ckpt_log_info(c->log, &info);
	prefix = ckpt_is_prefix(c, s, &info);
	if (s->token != c->token) {
		say_given_up(c, s, &info);
		c->keeper = false;
	}
	c->token = s->token;
	return ckpt_keep_place(c, s, prefix);
}

static int attach(struct meta_ckpt *c)
{
	struct ckpt_log_info info;
	struct ckpt_store s;
	int err = ckpt_store_state(c, &s);

	if (err)
		return err;
	ckpt_log_info(c->log, &info);
	err = check_tree(&s, &info);
	if (!err && (!s.live || contests(c, &s, &info))) {
		err = settle(c, &s);
		if (!err)
			err = ckpt_store_state(c, &s);
		if (!err && !s.live)
			err = -EAGAIN;
		ckpt_log_info(c->log, &info);
		if (!err)
			err = check_tree(&s, &info);
	}
	return err ? err : follow(c, &s);
}

int ckpt_attach(struct meta_ckpt *c)
{
	int err = attach(c);

	if (!err) {
		c->was_live = true;
		c->said_wait = c->said_none = false;
		ckpt_state_set(c, CKPT_READY);
	} else if (err == -EINVAL || err == -EUCLEAN) {
		ckpt_state_set(c, CKPT_REFUSED);
	} else {
		ckpt_state_set(c, err == -EAGAIN ? CKPT_LOADING : CKPT_CHECK);
	}
	return err;
}

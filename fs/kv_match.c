// SPDX-License-Identifier: MIT
#include "fs/kv_match.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"

#define LOCK_STEP 64 /* names looked at under one hold of kv->lock */

enum reach {
	REACH_NOT,     /* no such directory, or it may not be searched */
	REACH_UNKNOWN, /* a directory of other nodes, perhaps; or one that they
			  may have changed */
	REACH_THERE,
};

/* A name of the batch, or a directory on its way. */
struct path {
	const char *text; /* from the namespace on */
	uint16_t len;
	uint16_t known; /* bytes of it that are directories here */
	uint8_t reach;	/* of a name's directory */
};

struct batch {
	struct kv_exists *e;
	struct kv *kv;
	bool others;  /* another node may hold what is not here */
	bool missing; /* Redis did not answer for a directory */
	bool asked;   /* it was, for all that are not known for sure */
	char *text;   /* of the paths */
	struct path *paths;
	struct path *dirs; /* to be asked for; KV_EXISTS_MAX at most */
	unsigned n_dirs;
	struct meta_kv_ask *asks; /* KV_EXISTS_MAX */
};

/* -- what is known here: kv->lock held ---------------------------------- */

/* To the directory of a path, as far as it is known. */
static struct kv_dir *walk(struct batch *b, struct path *p)
{
	struct kv_dir *dir = &b->kv->root;
	const char *at = p->text, *slash;

	p->reach = REACH_NOT;
	while (!kv_may_search(b->e->who, dir)) {
		size_t left = p->len - (size_t)(at - p->text);
		struct kv_node *node;

		slash = memchr(at, '/', left);
		p->known = (uint16_t)(at - p->text);
		if (!slash) {
			p->reach = REACH_THERE;
			return dir;
		}
		node = kv_find_part(b->kv, dir, at, (size_t)(slash - at));
		if (!node)
			p->reach = REACH_UNKNOWN;
		if (!node || !kv_is_dir(node))
			return NULL;
		dir = kv_dir(node);
		if (b->others && !b->asked && b->e->who->uid &&
		    remote_dir_is_stale(b->kv, dir)) {
			p->reach = REACH_UNKNOWN;
			return NULL;
		}
		at = slash + 1;
	}
	return NULL;
}

static void add_holder(struct kv_exist *x, uint32_t incarnation)
{
	x->holders[x->n_holders++] = incarnation;
}

/* A holder without an address cannot be asked for its block. */
static void add_others(struct fs *fs, struct kv_exist *x,
		       const struct meta_kv_found *found)
{
	uint32_t self = meta_node_self(fs->meta);
	struct meta_node node;

	for (uint32_t i = 0; i < found->n_holders; i++)
		if (found->holders[i] != self &&
		    meta_node_get(fs->meta, found->holders[i], &node) &&
		    node.self.n_addrs)
			add_holder(x, found->holders[i]);
}

/* This node, and whom it heard of. */
static void look_here(struct batch *b, struct path *p, struct kv_exist *x)
{
	struct kv_dir *dir = walk(b, p);
	const char *name = p->text + p->known;
	struct kv_node *node;

	*x = (struct kv_exist){.n_holders = 0};
	if (!dir)
		return;
	node = kv_find_part(b->kv, dir, name, p->len - p->known);
	if (!node || kv_is_dir(node) || node->damaged)
		return;
	if (node->state == KV_COMMITTED || !kv_try_commit(b->kv, kv_file(node)))
		add_holder(x, meta_node_self(b->e->fs->meta));
	else if (node->state == KV_REMOTE)
		add_others(b->e->fs, x, &kv_file(node)->remote->found);
}

/* -- directories that only other nodes know ----------------------------- */

/* How much of two paths are the same directories. */
static size_t same_dirs(const struct path *a, const struct path *b)
{
	size_t same = 0;

	for (size_t i = 0; i < a->len && i < b->len; i++) {
		if (a->text[i] != b->text[i])
			break;
		if (a->text[i] == '/')
			same = i + 1;
	}
	return same;
}

/* Those on the way of a name, but what it shares with the name before it.
 * Returns: false, no room. */
static bool add_dirs(struct batch *b, unsigned i)
{
	const struct path *p = &b->paths[i];
	size_t from = p->known, shared = i ? same_dirs(p, p - 1) : 0;
	unsigned n = b->n_dirs;

	if (i && b->paths[i - 1].reach == REACH_UNKNOWN && shared > from)
		from = shared;
	for (size_t at = from; at < p->len; at++) {
		if (p->text[at] != '/')
			continue;
		if (n == KV_EXISTS_MAX)
			return false;
		b->dirs[n++] = (struct path){p->text, (uint16_t)at, 0, 0};
	}
	b->n_dirs = n;
	return true;
}

/* In this order a directory comes before those below it. */
static int by_text(const void *a, const void *b)
{
	const struct path *x = a, *y = b;
	int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);

	return order ? order : (int)x->len - (int)y->len;
}

static void sort_dirs(struct batch *b)
{
	unsigned n = 0;

	qsort(b->dirs, b->n_dirs, sizeof(*b->dirs), by_text);
	for (unsigned i = 0; i < b->n_dirs; i++)
		if (!n || by_text(&b->dirs[n - 1], &b->dirs[i]))
			b->dirs[n++] = b->dirs[i];
	b->n_dirs = n;
}

/* Lock held. */
static void learn(struct batch *b, const struct meta_kv_ask *a, int64_t asked)
{
	const char *slash = memrchr(a->path, '/', a->path_len);
	struct kv_node *parent;
	char name[256];
	size_t n;

	parent = kv_find_path(b->kv, a->path, (size_t)(slash - a->path));
	n = a->path_len - (size_t)(slash + 1 - a->path);
	if (!parent || !kv_is_dir(parent) || n > 255)
		return;
	memcpy(name, slash + 1, n);
	name[n] = 0;
	if (a->err)
		remote_dir_missing(b->kv, kv_dir(parent), name, asked);
	else
		remote_node_learn(b->kv, kv_dir(parent), name, &a->found,
				  asked);
}

/* One round trip; those that are there are in the tree afterwards. Those that
 * are missing are asked for by the next question again, unlike the kernel's: it
 * may be that of somebody who was told that a block is there now. */
static void ask_for_dirs(struct batch *b)
{
	int64_t asked = clock_now_ns();
	unsigned n = 0;

	sort_dirs(b);
	for (; n < b->n_dirs; n++)
		b->asks[n] = (struct meta_kv_ask){.path = b->dirs[n].text,
						  .path_len = b->dirs[n].len};
	b->missing |= meta_kv_lookup_many(b->e->fs->meta, b->e->deadline,
					  b->asks, n) != 0;
	for (unsigned i = 0; i < n;) {
		scoped_lock(&b->kv->lock);
		for (unsigned end = i + LOCK_STEP; i < n && i < end; i++)
			if (b->asks[i].err == -ENOENT ||
			    (!b->asks[i].err && b->asks[i].found.is_dir))
				learn(b, &b->asks[i], asked);
	}
	b->asked = true;
}

/* -- the names ---------------------------------------------------------- */

/* All that is not there for sure; `again`: those whose directories were asked
 * for meanwhile. */
static void look_at_all(struct batch *b, bool again)
{
	struct kv_exists *e = b->e;

	for (unsigned i = 0; i < e->n_done;) {
		scoped_lock(&b->kv->lock);
		for (unsigned end = i + LOCK_STEP; i < e->n_done && i < end;
		     i++)
			if (!again || b->paths[i].reach == REACH_UNKNOWN)
				look_here(b, &b->paths[i], &e->out[i]);
	}
}

static void find_dirs(struct batch *b)
{
	for (unsigned i = 0; i < b->e->n_done; i++)
		if (b->paths[i].reach == REACH_UNKNOWN && b->paths[i].known &&
		    !add_dirs(b, i)) {
			b->e->n_done = i;
			return;
		}
}

static bool is_here(const struct batch *b, const struct kv_exist *x)
{
	return x->n_holders && x->holders[0] == meta_node_self(b->e->fs->meta);
}

/* A temporary file is nobody's block. */
static bool is_asked_for(const struct batch *b, unsigned i)
{
	const struct path *p = &b->paths[i];
	char name[256];
	size_t n = p->len - (size_t)p->known;

	if (p->reach != REACH_THERE)
		return false;
	if (b->e->any && is_here(b, &b->e->out[i]))
		return false;
	memcpy(name, p->text + p->known, n);
	name[n] = 0;
	return !kv_name_is_temp(name);
}

static void take_answer(struct batch *b, struct kv_exist *x,
			const struct meta_kv_ask *a)
{
	bool here = is_here(b, x);

	x->unsure = a->err && a->err != -ENOENT;
	if (x->unsure)
		return;
	x->n_holders = here; /* of its own blocks a node knows better */
	if (!a->err && !a->found.is_dir)
		add_others(b->e->fs, x, &a->found);
}

static void learn_names(struct batch *b, unsigned n)
{
	for (unsigned i = 0; i < n;) {
		scoped_lock(&b->kv->lock);
		for (unsigned end = i + LOCK_STEP; i < n && i < end; i++)
			if (!b->asks[i].err && !b->asks[i].found.is_dir)
				learn(b, &b->asks[i], 0);
	}
}

static void ask_for_names(struct batch *b)
{
	struct kv_exists *e = b->e;
	unsigned n = 0;

	for (unsigned i = 0; i < e->n_done; i++)
		if (is_asked_for(b, i))
			b->asks[n++] = (struct meta_kv_ask){
				.path = b->paths[i].text,
				.path_len = b->paths[i].len};
	meta_kv_lookup_many(e->fs->meta, e->deadline, b->asks, n);
	if (e->learn)
		learn_names(b, n);
	n = 0;
	for (unsigned i = 0; i < e->n_done; i++) {
		if (is_asked_for(b, i))
			take_answer(b, &e->out[i], &b->asks[n++]);
		else if (b->paths[i].reach == REACH_UNKNOWN)
			e->out[i].unsure = b->missing;
	}
}

/* -- the batch ---------------------------------------------------------- */

static bool join_paths(struct batch *b)
{
	const struct kv_exists *e = b->e;
	size_t bytes = 1;
	char *at;

	for (unsigned i = 0; i < e->n; i++)
		bytes += e->dir.len + 1u + e->names[i].len;
	b->text = at = malloc(bytes);
	if (!at)
		return false;
	for (unsigned i = 0; i < e->n; i++) {
		const struct kv_name *name = &e->names[i];

		b->paths[i].text = at;
		at = mempcpy(at, e->dir.text, e->dir.len);
		if (e->dir.len)
			*at++ = '/';
		at = mempcpy(at, name->text, name->len);
		b->paths[i].len = (uint16_t)(at - b->paths[i].text);
	}
	return true;
}

/* Lock held. */
static bool namespace_is_known(struct batch *b, const struct path *p)
{
	const char *slash = memchr(p->text, '/', p->len);

	return !slash || kv_find_part(b->kv, &b->kv->root, p->text,
				      (size_t)(slash - p->text));
}

/* Below kv/ itself each name has one of its own. */
static bool namespaces_are_known(struct batch *b)
{
	unsigned n = b->e->dir.len && b->e->n ? 1 : b->e->n;
	bool known = true;

	for (unsigned i = 0; known && i < n;) {
		scoped_lock(&b->kv->lock);
		for (unsigned end = i + LOCK_STEP; i < n && i < end; i++)
			known = known && namespace_is_known(b, &b->paths[i]);
	}
	return known;
}

static void run(struct batch *b)
{
	if (b->others && !namespaces_are_known(b))
		b->missing = !remote_learn_namespaces(b->e->fs, b->e->deadline);
	look_at_all(b, false);
	if (!b->others)
		return;
	find_dirs(b);
	if (b->n_dirs) {
		ask_for_dirs(b);
		look_at_all(b, true);
	}
	ask_for_names(b);
}

int kv_exists(struct kv_exists *e)
{
	struct batch b = {.e = e,
			  .kv = e->fs->kv,
			  .others = !e->local && remote_active(e->fs)};
	int err = -ENOMEM;

	if (e->n > KV_EXISTS_MAX)
		return -E2BIG;
	e->n_done = e->n;
	b.paths = calloc(e->n + 1, sizeof(*b.paths));
	b.dirs = calloc(KV_EXISTS_MAX, sizeof(*b.dirs));
	b.asks = calloc(KV_EXISTS_MAX, sizeof(*b.asks));
	if (b.paths && b.dirs && b.asks && join_paths(&b)) {
		run(&b);
		err = 0;
	}
	free(b.text);
	free(b.paths);
	free(b.dirs);
	free(b.asks);
	return err;
}

/* -- the prefix --------------------------------------------------------- */

/* The at-th name is there: whose prefix does it lengthen? */
static void lengthen(struct kv_match_answer *a, unsigned at,
		     const struct kv_exist *x)
{
	for (unsigned i = 0; !at && i < x->n_holders; i++)
		a->nodes[a->n_nodes++] =
			(struct kv_match_node){.incarnation = x->holders[i]};
	for (unsigned i = 0; i < a->n_nodes; i++) {
		struct kv_match_node *node = &a->nodes[i];

		for (unsigned k = 0; k < x->n_holders; k++)
			if (node->n_prefix == at &&
			    node->incarnation == x->holders[k])
				node->n_prefix++;
	}
	a->n_prefix = at + 1;
}

/* false: the first name that is not there. */
static bool take(const struct kv_match_question *q, struct kv_match_answer *a,
		 unsigned at, const struct kv_exist *x)
{
	a->complete &= !x->unsure;
	if (!x->n_holders)
		return false;
	if (q->bits)
		q->bits[at / 8] |= (uint8_t)(1u << at % 8);
	if (a->n_prefix == at)
		lengthen(a, at, x);
	return true;
}

int kv_match(struct fs *fs, const struct kv_caller *who, int64_t deadline,
	     const struct kv_match_question *q, struct kv_match_answer *a)
{
	cleanup_free struct kv_exist *out = calloc(KV_EXISTS_MAX, sizeof(*out));
	struct kv_exists e = {.fs = fs,
			      .who = who,
			      .deadline = deadline,
			      .dir = q->dir,
			      .local = q->local,
			      .any = q->any,
			      .learn = q->learn,
			      .out = out};
	int err;

	*a = (struct kv_match_answer){.complete = true};
	if (!out)
		return -ENOMEM;
	for (unsigned at = 0; at < q->n; at += e.n_done) {
		e.names = q->names + at;
		e.n = q->n - at < KV_EXISTS_MAX ? q->n - at : KV_EXISTS_MAX;
		err = kv_exists(&e);
		if (err)
			return err;
		for (unsigned i = 0; i < e.n_done; i++)
			if (!take(q, a, at + i, &out[i]) && !q->bits)
				return 0;
	}
	return 0;
}

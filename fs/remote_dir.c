// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "meta/kv.h"

/*
 * Mode and owner of a directory below a namespace: one on all nodes, within a
 * second.
 *
 * They stand in its record in Redis, where a change is made before it is made
 * here. What a node knows of a directory it believes for a second after it
 * asked, and the kernel no longer than half of what is left of that: who walks
 * through a directory all the time asks for it when half of the second has
 * passed, in the background, and waits for nothing. Who comes after a pause
 * waits for the answer, at most as long as any LOOKUP; with Redis away what is
 * known goes on to count. A minute instead of the second would save nobody's
 * time, and leave what was closed by chmod on one node open on others.
 *
 * An answer that was asked for before the last change here says nothing about
 * that change, whenever it comes.
 */

#define FRESH_NS NS_PER_S
#define ASK_MAX 64u /* in one trip */
#define LOOK_MAX 64 /* nodes looked at for a block */

static int64_t age_of(const struct kv_dir *dir)
{
	return clock_now_ns() - dir->heard_ns;
}

static void ask_in_background(struct job *job)
{
	struct remote *r = container_of(job, struct remote, dirs_job);
	struct kv *kv = r->fs->kv;

	pthread_mutex_lock(&kv->lock);
	r->dirs_posted = false;
	pthread_mutex_unlock(&kv->lock);
	remote_dirs_ask(r->fs);
}

static void post(struct remote *r)
{
	if (r->dirs_posted)
		return;
	r->dirs_job.run = ask_in_background;
	r->dirs_posted = remote_post(r, r->fetchers, &r->dirs_job);
}

bool remote_dir_is_stale(struct kv *kv, struct kv_dir *dir)
{
	struct remote *r = kv->fs->remote;
	int64_t age;

	if (!r || dir->node.type != KV_DIR || dir->node.unlinked ||
	    !remote_active(kv->fs) || !meta_up_lookup(kv->fs->meta))
		return false;
	age = age_of(dir);
	if (age >= FRESH_NS)
		return true;
	if (age >= FRESH_NS / 2) {
		remote_dir_want(kv, dir);
		post(r);
	}
	return false;
}

double remote_dir_timeout(struct kv *kv, struct kv_dir *dir)
{
	int64_t left;

	if (!kv->fs->remote || dir->node.type != KV_DIR)
		return KV_ENTRY_TIMEOUT;
	/* Alone: but another node may come any moment. */
	left = remote_active(kv->fs) ? FRESH_NS - age_of(dir) : FRESH_NS;
	if (left <= 0)
		return KV_MISS_TIMEOUT;
	return (double)left / 2 / NS_PER_S;
}

static void set_attributes(struct kv_dir *dir, uint32_t mode, uint32_t uid,
			   uint32_t gid)
{
	dir->mode = mode & 07777;
	dir->uid = uid;
	dir->gid = gid;
}

void remote_dir_changed(struct kv_dir *dir, uint32_t mode, uint32_t uid,
			uint32_t gid, int64_t sent_ns)
{
	set_attributes(dir, mode, uid, gid);
	dir->changed_ns = clock_now_ns();
	if (sent_ns > dir->heard_ns)
		dir->heard_ns = sent_ns;
}

/* Does this answer say more than what is known? */
static bool is_news(struct kv_dir *dir, int64_t asked_ns)
{
	if (asked_ns <= dir->changed_ns || asked_ns <= dir->heard_ns)
		return false;
	dir->heard_ns = asked_ns;
	return true;
}

void remote_dir_hear(struct kv *kv, struct kv_dir *dir,
		     const struct meta_kv_found *found, int64_t asked_ns)
{
	if (dir->node.type != KV_DIR || !is_news(dir, asked_ns))
		return;
	if (dir->mode == (found->mode & 07777) && dir->uid == found->uid &&
	    dir->gid == found->gid)
		return;
	set_attributes(dir, found->mode, found->uid, found->gid);
	dir->ctime_ns = clock_stamp_ns();
	kv_dirs_note(kv, dir, false);
}

/* A block below it that this node holds; NULL: none that is found soon. */
static struct kv_file *some_block(struct kv_dir *dir, int *look)
{
	list_for_each (l, &dir->children) {
		struct kv_link *link = container_of(l, struct kv_link, list);
		struct kv_node *node =
			container_of(link, struct kv_node, sibling);
		struct kv_file *f = NULL;

		if (!(*look)--)
			return NULL;
		if (!link->cookie)
			continue; /* a reader's mark */
		if (kv_is_dir(node))
			f = some_block(kv_dir(node), look);
		else if (node->state == KV_COMMITTED)
			f = kv_file(node);
		if (f || *look <= 0)
			return f;
	}
	return NULL;
}

/* Names of other nodes, which nobody has open, go with it. Returns: false, it
 * has others. */
static bool clear(struct kv *kv, struct kv_dir *dir)
{
	list_for_each_safe (l, &dir->children) {
		struct kv_link *link = container_of(l, struct kv_link, list);
		struct kv_node *node =
			container_of(link, struct kv_node, sibling);

		if (!link->cookie)
			continue;
		if (kv_is_dir(node) || node->state != KV_REMOTE ||
		    kv_file(node)->remote->fetch || kv_file(node)->opens)
			return false;
		remote_node_forget(kv, node);
	}
	return true;
}

static void forget(struct kv *kv, struct kv_dir *dir)
{
	struct kv_dir *parent = kv_dir(dir->node.parent);
	int64_t mtime = parent->mtime_ns, ctime = parent->ctime_ns;

	kv_dirs_note(kv, dir, true);
	kv_unlink_node(kv, &dir->node);
	parent->mtime_ns = mtime;
	parent->ctime_ns = ctime;
	kv_node_settle(&dir->node);
}

void remote_dir_missing(struct kv *kv, struct kv_dir *parent, const char *name,
			int64_t asked_ns)
{
	struct kv_node *node = kv_find(kv, parent, name);
	struct kv_file *f;
	int look = LOOK_MAX;

	if (!node || node->type != KV_DIR || !is_news(kv_dir(node), asked_ns))
		return;
	f = some_block(kv_dir(node), &look);
	if (f) { /* rmdir elsewhere, where this block was not known */
		meta_kv_dirs_again(kv->fs->meta);
		kv_publish(kv, f);
	} else if (kv_dir(node)->learnt && clear(kv, kv_dir(node))) {
		forget(kv, kv_dir(node));
	}
}

/* -- asking ------------------------------------------------------------- */

void remote_dir_want(struct kv *kv, struct kv_dir *dir)
{
	if (!list_empty(&dir->ask))
		return;
	dir->node.pins++;
	list_push_back(&kv->fs->remote->dirs, &dir->ask);
}

struct trip {
	unsigned n;
	struct kv_dir *dirs[ASK_MAX];
	struct meta_kv_ask asks[ASK_MAX];
	char paths[ASK_MAX][POOL_PATH_MAX + 1];
};

static void unpin(struct kv_dir *dir)
{
	dir->node.pins--;
	kv_node_settle(&dir->node);
}

static void take(struct kv *kv, struct trip *t)
{
	struct list *l;
	scoped_lock(&kv->lock);

	t->n = 0;
	while (t->n < ASK_MAX && (l = list_pop_front(&kv->fs->remote->dirs))) {
		struct kv_dir *dir = container_of(l, struct kv_dir, ask);
		char *path = t->paths[t->n];
		int len =
			kv_path(kv_dir(dir->node.parent), dir->node.name, path);

		if (dir->node.unlinked || len <= 0) {
			unpin(dir);
			continue;
		}
		t->dirs[t->n] = dir;
		t->asks[t->n++] = (struct meta_kv_ask){
			.path = path, .path_len = (uint16_t)len};
	}
}

static void hear(struct kv *kv, struct trip *t, int64_t asked_ns)
{
	scoped_lock(&kv->lock);

	for (unsigned i = 0; i < t->n; i++) {
		const struct meta_kv_ask *a = &t->asks[i];
		struct kv_dir *dir = t->dirs[i];

		if (!dir->node.unlinked && !a->err && a->found.is_dir)
			remote_dir_hear(kv, dir, &a->found, asked_ns);
		else if (!dir->node.unlinked && a->err == -ENOENT)
			remote_dir_missing(kv, kv_dir(dir->node.parent),
					   dir->node.name, asked_ns);
		unpin(dir);
	}
}

static bool is_wanted(struct fs *fs)
{
	scoped_lock(&fs->kv->lock);

	return !list_empty(&fs->remote->dirs);
}

void remote_dirs_ask(struct fs *fs)
{
	cleanup_free struct trip *t = NULL;
	int64_t asked;

	if (!fs->remote)
		return;
	/* Somebody may be asking for what this one waits for. */
	scoped_lock(&fs->remote->dirs_lock);
	if (!is_wanted(fs))
		return;
	t = malloc(sizeof(*t));
	while (t && (take(fs->kv, t), t->n)) {
		asked = clock_now_ns();
		meta_kv_lookup_many(fs->meta, asked + META_KV_LOOKUP_NS,
				    t->asks, t->n);
		hear(fs->kv, t, asked);
	}
}

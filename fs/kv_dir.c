// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "fs/buffers.h"
#include "fs/kv.h"
#include "fs/kv_lend.h"
#include "fs/remote.h"
#include "fs/remote_list.h"
#include "fs/ring.h"

/*
 * Listing a directory. Entries are chained in the order of their cookies, and
 * an open directory keeps a mark of its own in that chain: the next call goes
 * on there in constant time, whatever came and went in between. Only a seek
 * has to look for its place.
 */

struct kv_handle {
	struct kv_link mark;	 /* cookie 0; what follows it comes next */
	off_t next;		 /* the offset that belongs to the mark */
	struct remote_list *far; /* what other nodes hold; or NULL */
	struct kv_pins *pins;	 /* blocks located through it */
	struct list buffers;	 /* registered through it: buffers.h */
	struct ring *ring;	 /* rings.lock */
};

/* Offsets: 0 ".", 1 "..", then cookie + 1 of the entry given last. */
#define DOTS 2
#define HIDE_STEP 1024	/* names looked for under one lock */
#define FAR (1LL << 62) /* and from here on h->far */

bool kv_dir_is_empty(const struct kv_dir *dir)
{
	list_for_each (l, &dir->children) {
		if (container_of(l, struct kv_link, list)->cookie)
			return false;
	}
	return true;
}

static struct kv_handle *handle_of(const struct call *c)
{
	return (struct kv_handle *)(uintptr_t)c->fi.fh;
}

struct kv_pins **kv_pins_of(const struct call *c)
{
	return &handle_of(c)->pins;
}

struct list *kv_buffers_of(const struct call *c)
{
	return &handle_of(c)->buffers;
}

struct ring **kv_ring_of(const struct call *c)
{
	return &handle_of(c)->ring;
}

static bool is_here(struct kv *kv, struct kv_dir *dir, const char *name)
{
	struct kv_node *node = kv_find(kv, dir, name);

	return node && (kv_is_dir(node) || node->state != KV_REMOTE);
}

/* What is here now is listed from here: it must not come twice, even if it is
 * removed as soon as it was listed. */
static void hide_local(struct kv *kv, struct kv_dir *dir, struct remote_list *l)
{
	const char *name;
	uint64_t ino;
	mode_t type;
	size_t i = 0;

	while ((name = remote_list_at(l, i, &type, &ino))) {
		pthread_mutex_lock(&kv->lock);
		for (size_t end = i + HIDE_STEP;
		     i < end && (name = remote_list_at(l, i, &type, &ino)); i++)
			if (is_here(kv, dir, name))
				remote_list_hide(l, i);
		pthread_mutex_unlock(&kv->lock);
	}
}

/* Redis is asked for the names of others, so on a worker; and now, not at the
 * first READDIR: over that the kernel holds the directory's lock, and whoever
 * creates a file there would wait for Redis. */
static void open_far(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	char path[POOL_PATH_MAX + 1];
	int n = -1;

	pthread_mutex_lock(&kv->lock);
	if (dir->node.type != KV_ROOT)
		n = kv_path(kv_dir(dir->node.parent), dir->node.name, path);
	pthread_mutex_unlock(&kv->lock);
	if (dir->node.type == KV_ROOT)
		remote_learn_namespaces(c->fs, c->deadline);
	else if (n > 0)
		handle_of(c)->far =
			remote_list_take(c->fs, path, (uint16_t)n, c->deadline);
	hide_local(kv, dir, handle_of(c)->far);
	call_reply_open(c, &c->fi);
}

void kv_do_opendir(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	struct kv_handle *h = calloc(1, sizeof(*h));

	if (!h) {
		call_reply_err(c, ENOMEM);
		return;
	}
	pthread_mutex_lock(&kv->lock);
	list_push_front(&dir->children, &h->mark.list);
	pthread_mutex_unlock(&kv->lock);
	list_init(&h->buffers);
	c->fi.fh = (uint64_t)(uintptr_t)h;
	if (remote_active(c->fs))
		call_defer(c, open_far);
	else
		call_reply_open(c, &c->fi);
}

static void release(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_handle *h = handle_of(c);

	pthread_mutex_lock(&kv->lock);
	list_remove(&h->mark.list);
	kv_pins_free(kv, h->pins);
	pthread_mutex_unlock(&kv->lock);
	buffers_release(c->fs->buffers, &h->buffers);
	remote_list_free(h->far);
	free(h);
	call_reply_err(c, 0);
}

/* Calls of its ring use it until they end. */
void kv_do_releasedir(struct call *c)
{
	struct ring *ring = handle_of(c)->ring;

	if (!ring || !ring_release(ring, c, release))
		release(c);
}

/* Puts the mark before the first entry whose offset lies past `off`. */
static void seek(struct kv_dir *dir, struct kv_handle *h, off_t off)
{
	struct list *at = dir->children.next;

	if (h->next == off && off >= DOTS)
		return;
	while (at != &dir->children) {
		struct kv_link *l = container_of(at, struct kv_link, list);

		if (l->cookie && (off_t)l->cookie + DOTS > off)
			break;
		at = at->next;
	}
	if (at == &h->mark.list)
		at = at->next;
	list_remove(&h->mark.list);
	list_push_back(at, &h->mark.list);
	h->next = off;
}

struct fill {
	struct call *c;
	char *buf;
	size_t used;
};

static bool add(struct fill *f, const char *name, struct kv_node *node,
		off_t next)
{
	struct call *c = f->c;
	struct kv *kv = c->fs->kv;
	size_t room = c->size - f->used, n;
	struct fuse_entry_param e = {.ino = 0};

	if (c->plus && node) {
		kv_entry(kv, node, &e);
		n = fuse_add_direntry_plus(c->req, f->buf + f->used, room, name,
					   &e, next);
		if (n > room)
			node->nlookup--; /* it will be asked for again */
	} else {
		kv_fill_attr(kv, node ? node : kv_node(c->inode), &e.attr);
		n = c->plus ? fuse_add_direntry_plus(c->req, f->buf + f->used,
						     room, name, &e, next)
			    : fuse_add_direntry(c->req, f->buf + f->used, room,
						name, &e.attr, next);
	}
	if (n > room)
		return false;
	f->used += n;
	return true;
}

/* A final name whose writer is still there is not listed, as it is not found;
 * nor what other nodes hold: that comes after. */
static bool is_listed(struct kv *kv, struct kv_node *node)
{
	return kv_is_dir(node) || node->temp ||
	       kv_try_commit(kv, kv_file(node)) == 0;
}

/* false: the buffer is full. */
static bool list_entries(struct fill *f, struct kv_dir *dir,
			 struct kv_handle *h)
{
	while (h->mark.list.next != &dir->children) {
		struct list *next = h->mark.list.next;
		struct kv_link *l = container_of(next, struct kv_link, list);
		off_t after = (off_t)l->cookie + DOTS;
		struct kv_node *node;

		if (l->cookie) {
			node = container_of(l, struct kv_node, sibling);
			if (is_listed(f->c->fs->kv, node) &&
			    !add(f, node->name, node, after))
				return false;
			h->next = after;
		}
		list_remove(&h->mark.list);
		list_push_front(next, &h->mark.list);
	}
	return true;
}

/* Given without attributes: a LOOKUP will ask for them. */
static bool add_far(struct fill *f, const char *name, mode_t type, uint64_t ino,
		    off_t next)
{
	struct fuse_entry_param e = {.attr = {.st_mode = type, .st_ino = ino}};
	size_t room = f->c->size - f->used, n;
	char *at = f->buf + f->used;

	n = f->c->plus ? fuse_add_direntry_plus(f->c->req, at, room, name, &e,
						next)
		       : fuse_add_direntry(f->c->req, at, room, name, &e.attr,
					   next);
	if (n > room)
		return false;
	f->used += n;
	return true;
}

static void list_far(struct fill *f, struct kv_dir *dir, struct kv_handle *h)
{
	size_t i = f->c->off >= FAR ? (size_t)(f->c->off - FAR) : 0;
	const char *name;
	uint64_t ino;
	mode_t type;

	for (; (name = remote_list_at(h->far, i, &type, &ino)); i++)
		if (*name && !is_here(f->c->fs->kv, dir, name) &&
		    !add_far(f, name, type, ino, FAR + (off_t)i + 1))
			return;
}

void kv_do_readdir(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	struct kv_handle *h = handle_of(c);
	struct fill f = {.c = c, .buf = malloc(c->size)};
	bool all = true;

	if (!f.buf) {
		call_reply_err(c, ENOMEM);
		return;
	}
	pthread_mutex_lock(&kv->lock);
	if (c->off < FAR) {
		seek(dir, h, c->off);
		all = (c->off > 0 || add(&f, ".", NULL, 1)) &&
		      (c->off > 1 || add(&f, "..", NULL, DOTS)) &&
		      list_entries(&f, dir, h);
	}
	if (all)
		list_far(&f, dir, h);
	pthread_mutex_unlock(&kv->lock);
	call_reply_buf(c, f.buf, f.used);
	free(f.buf);
}

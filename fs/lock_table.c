// SPDX-License-Identifier: MIT
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "fs/fs.h"
#include "fs/locks.h"

/*
 * Locks of this node alone, of files that no other node changes: what the
 * kernel would keep, had it not left all locks to us. No FLUSH is sent for
 * these files, so a process' fcntl(2) locks, too, end with the open file.
 */

#define CHAINS 64
#define FILE_MAX 4096u /* locks of one file */

struct held {
	struct list link;
	const struct inode *inode;
	bool flock;
	short type;
	uint64_t owner, handle;
	uint64_t start, end;
	pid_t pid;
};

struct lock_table {
	pthread_mutex_t lock; /* a leaf; guards the chains */
	struct list chains[CHAINS];
	atomic_uint n; /* of all files */
};

static struct held *held_of(struct list *link)
{
	return container_of(link, struct held, link);
}

static struct list *chain_of(struct lock_table *t, const struct inode *inode)
{
	return &t->chains[(uintptr_t)inode / 64 % CHAINS];
}

static bool is_his(const struct held *h, const struct call *c)
{
	return h->inode == c->inode && h->flock == c->lock.flock &&
	       h->owner == c->fi.lock_owner;
}

static bool meets(const struct held *h, const struct call *c)
{
	return h->start <= c->lock.end && c->lock.start <= h->end;
}

/* Locked. The first in his way, or NULL; n: how many the file has. */
static struct held *in_the_way(struct list *chain, const struct call *c,
			       unsigned *n)
{
	struct held *found = NULL;

	*n = 0;
	list_for_each (i, chain) {
		struct held *h = held_of(i);

		if (h->inode != c->inode)
			continue;
		(*n)++;
		if (!found && h->flock == c->lock.flock && !is_his(h, c) &&
		    meets(h, c) &&
		    (h->type == F_WRLCK || c->lock.type == F_WRLCK))
			found = h;
	}
	return found;
}

static void drop(struct lock_table *t, struct held *h)
{
	list_remove(&h->link);
	free(h);
	atomic_fetch_sub(&t->n, 1);
}

/* Locked. His locks without the range; a part that is cut off goes to *spare.
 */
static void cut(struct lock_table *t, struct list *chain, const struct call *c,
		struct held **spare)
{
	list_for_each_safe (i, chain) {
		struct held *h = held_of(i);
		bool before, behind;

		if (!is_his(h, c) || !meets(h, c))
			continue;
		before = h->start < c->lock.start;
		behind = h->end > c->lock.end;
		if (before && behind) {
			**spare = *h;
			(*spare)->start = c->lock.end + 1;
			list_push_back(chain, &(*spare)->link);
			*spare = NULL;
			atomic_fetch_add(&t->n, 1);
		}
		if (before)
			h->end = c->lock.start - 1;
		else if (behind)
			h->start = c->lock.end + 1;
		else
			drop(t, h);
	}
}

static int set(struct lock_table *t, struct call *c)
{
	cleanup_free struct held *spare = malloc(sizeof(*spare));
	cleanup_free struct held *fresh = malloc(sizeof(*fresh));
	struct list *chain = chain_of(t, c->inode);
	bool taken;
	unsigned n;

	if (!spare || !fresh)
		return -ENOMEM;
	scoped_lock(&t->lock);
	taken = in_the_way(chain, c, &n) && c->lock.type != F_UNLCK;
	if (taken && !c->lock.flock)
		return -EAGAIN;
	if (c->lock.type != F_UNLCK && n >= FILE_MAX)
		return -ENOLCK;
	cut(t, chain, c, &spare); /* flock(2): even if he gets no other */
	if (taken)
		return -EAGAIN;
	if (c->lock.type == F_UNLCK)
		return 0;
	*fresh = (struct held){.inode = c->inode,
			       .flock = c->lock.flock,
			       .type = c->lock.type,
			       .owner = c->fi.lock_owner,
			       .handle = c->fi.fh,
			       .start = c->lock.start,
			       .end = c->lock.end,
			       .pid = c->lock.pid};
	list_push_back(chain, &fresh->link);
	atomic_fetch_add(&t->n, 1);
	fresh = NULL;
	return 0;
}

void locks_do_setlk(struct call *c)
{
	int err = set(locks_table(c->fs), c);

	locks_tried(c, (uintptr_t)c->inode, err, true, locks_do_setlk);
}

static void tell(const struct held *h, struct flock *found)
{
	found->l_type = h->type;
	found->l_start = (off_t)h->start;
	found->l_len = h->end == INT64_MAX ? 0 : (off_t)(h->end - h->start + 1);
	found->l_pid = h->pid;
}

void locks_do_getlk(struct call *c)
{
	struct lock_table *t = locks_table(c->fs);
	struct flock found = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
	const struct held *h;
	unsigned n;

	pthread_mutex_lock(&t->lock);
	h = in_the_way(chain_of(t, c->inode), c, &n);
	if (h)
		tell(h, &found);
	pthread_mutex_unlock(&t->lock);
	call_reply_lock(c, &found);
}

static bool drop_handle(struct lock_table *t, const struct call *c)
{
	bool any = false;
	scoped_lock(&t->lock);

	list_for_each_safe (i, chain_of(t, c->inode)) {
		struct held *h = held_of(i);

		if (h->inode != c->inode || h->handle != c->fi.fh)
			continue;
		drop(t, h);
		any = true;
	}
	return any;
}

void locks_release(struct call *c)
{
	struct lock_table *t = locks_table(c->fs);

	if (atomic_load_explicit(&t->n, memory_order_relaxed) &&
	    drop_handle(t, c))
		locks_ended(c->fs, c->inode->view, (uintptr_t)c->inode);
}

struct lock_table *lock_table_new(void)
{
	struct lock_table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	pthread_mutex_init(&t->lock, NULL);
	for (size_t i = 0; i < CHAINS; i++)
		list_init(&t->chains[i]);
	return t;
}

void lock_table_free(struct lock_table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < CHAINS; i++)
		while (!list_empty(&t->chains[i]))
			drop(t, held_of(t->chains[i].next));
	pthread_mutex_destroy(&t->lock);
	free(t);
}

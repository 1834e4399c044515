// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/ckpt_fetch.h"

/*
 * The inodes that the kernel holds, in a hash by number that grows with them.
 * One is small (its struct ckpt_data exists only while the file is open), for
 * the kernel may hold as many as its memory takes.
 */

#define BUCKETS_MIN 1024

static size_t bucket_of(const struct ckpt *ckpt, uint64_t ino)
{
	return (ino * 0x9e3779b97f4a7c15ull >> 20) & (ckpt->n_buckets - 1);
}

static void insert(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	size_t b = bucket_of(ckpt, inode->ino);

	inode->next = ckpt->buckets[b];
	ckpt->buckets[b] = inode;
}

/* Twice the buckets; without memory the chains only get longer. */
static void grow(struct ckpt *ckpt)
{
	struct ckpt_inode **old = ckpt->buckets;
	size_t n_old = ckpt->n_buckets;
	struct ckpt_inode **buckets = calloc(n_old * 2, sizeof(*buckets));

	if (!buckets)
		return;
	ckpt->buckets = buckets;
	ckpt->n_buckets = n_old * 2;
	for (size_t i = 0; i < n_old; i++) {
		while (old[i]) {
			struct ckpt_inode *inode = old[i];

			old[i] = inode->next;
			insert(ckpt, inode);
		}
	}
	free(old);
}

struct ckpt_inode *cinode_find(struct ckpt *ckpt, uint64_t ino)
{
	struct ckpt_inode *i = ckpt->buckets[bucket_of(ckpt, ino)];

	while (i && (i->ino != ino || i->superseded))
		i = i->next;
	return i;
}

static struct ckpt_inode *add(struct ckpt *ckpt, const struct ckpt_attr *a)
{
	struct ckpt_inode *inode = calloc(1, sizeof(*inode));

	if (!inode)
		return NULL;
	inode->head.magic = INODE_MAGIC;
	inode->head.view = &ckpt_view;
	inode->ino = a->ino;
	inode->version = a->version;
	inode->attr = *a;
	if (ckpt->n_inodes >= ckpt->n_buckets)
		grow(ckpt);
	insert(ckpt, inode);
	ckpt->n_inodes++;
	return inode;
}

/* Locked. Does this node have what no record says yet? */
static bool is_ahead(const struct ckpt_inode *inode)
{
	const struct ckpt_data *d = inode->data;

	return d && (d->n_writers || d->unpublished);
}

/* Locked. What is open keeps its version: only its bytes are of old. */
static void keep_version(struct ckpt_inode *inode, const struct ckpt_attr *a)
{
	struct ckpt_attr old = inode->attr;

	inode->attr = *a;
	inode->attr.version = old.version;
	inode->attr.size_bytes = old.size_bytes;
	inode->attr.mtime_ns = old.mtime_ns;
	inode->attr.atime_ns = old.atime_ns;
}

void cinode_merge(struct ckpt *ckpt, struct ckpt_inode *inode,
		  const struct ckpt_attr *a)
{
	bool moved = cfetch_on(ckpt) && S_ISREG(a->mode) &&
		     a->version != inode->version && !is_ahead(inode);

	if (moved && inode->data && a->version > inode->version)
		inode->superseded = true;
	if (inode->superseded) {
		keep_version(inode, a);
		return;
	}
	inode->attr = *a;
	if (moved && !inode->data)
		inode->version = a->version;
}

/* Locked. An answer of old, which a later one overtook, changes nothing. */
static struct ckpt_inode *find_version(struct ckpt *ckpt,
				       const struct ckpt_attr *a)
{
	struct ckpt_inode *inode = cinode_find(ckpt, a->ino);

	if (inode && a->version > inode->version)
		cinode_merge(ckpt, inode, a);
	return inode && inode->superseded ? NULL : inode;
}

struct ckpt_inode *cinode_get(struct ckpt *ckpt, const struct ckpt_attr *a,
			      uint64_t nlookup)
{
	scoped_lock(&ckpt->lock);
	struct ckpt_inode *inode = find_version(ckpt, a);

	if (!inode)
		inode = add(ckpt, a);
	if (inode)
		inode->nlookup += nlookup;
	return inode;
}

void cinode_drop(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	struct ckpt_inode **at = &ckpt->buckets[bucket_of(ckpt, inode->ino)];

	if (inode->nlookup || inode->data || inode == ckpt->root)
		return;
	while (*at != inode)
		at = &(*at)->next;
	*at = inode->next;
	ckpt->n_inodes--;
	inode->head.magic = 0;
	free(inode);
}

void cinode_forget(struct fs *fs, struct inode *head, uint64_t nlookup)
{
	struct ckpt_inode *inode = cinode_of(head);
	struct ckpt *ckpt = fs->ckpt;
	scoped_lock(&ckpt->lock);

	inode->nlookup -= nlookup < inode->nlookup ? nlookup : inode->nlookup;
	cinode_drop(ckpt, inode);
}

struct ckpt_attr cinode_attr(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	scoped_lock(&ckpt->lock);

	return inode->attr;
}

bool cinode_is_written(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	scoped_lock(&ckpt->lock);

	return inode->attr.writer || is_ahead(inode);
}

/* Does the backing file speak for size and times? */
static bool backing_speaks(struct ckpt *ckpt, struct ckpt_inode *inode,
			   struct ckpt_mark *mark)
{
	scoped_lock(&ckpt->lock);
	struct ckpt_data *d = inode->data;

	if (!d)
		return false;
	*mark = d->mark;
	return d->n_writers || d->unpublished;
}

static bool is_superseded(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	scoped_lock(&ckpt->lock);

	return inode->superseded;
}

/* Reads go past us to the backing file, so its atime runs ahead. */
static void stat_from_backing(struct ckpt *ckpt, struct ckpt_inode *inode,
			      uint64_t ino, struct stat *st)
{
	struct ckpt_mark mark = {0};
	struct stat b;
	int64_t ctime;

	/* Without blocks it would look like a hole to cp and tar. */
	st->st_blocks = (st->st_size + 511) / 512;
	if (is_superseded(ckpt, inode) || cstore_stat(ckpt, ino, &b))
		return;
	if (!cstore_partial(&b) &&
	    (!cfetch_on(ckpt) || b.st_size == st->st_size))
		st->st_blocks = b.st_blocks;
	if (clock_from_timespec(b.st_atim) > clock_from_timespec(st->st_atim))
		st->st_atim = b.st_atim;
	if (!backing_speaks(ckpt, inode, &mark))
		return;
	st->st_size = b.st_size;
	st->st_blocks = b.st_blocks;
	st->st_mtim = b.st_mtim;
	st->st_atim = b.st_atim;
	ctime = clock_from_timespec(b.st_ctim);
	if ((!mark.valid || ctime != mark.ctime_ns) &&
	    ctime > clock_from_timespec(st->st_ctim))
		st->st_ctim = b.st_ctim;
}

void cinode_stat(struct ckpt *ckpt, struct ckpt_inode *inode,
		 const struct ckpt_attr *a, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = CKPT_ST_INO + a->ino;
	st->st_mode = a->mode;
	st->st_nlink = a->nlink;
	st->st_uid = a->uid;
	st->st_gid = a->gid;
	st->st_rdev = a->rdev;
	st->st_size = (off_t)a->size_bytes;
	st->st_blksize = 4096;
	st->st_atim = clock_timespec(a->atime_ns);
	st->st_mtim = clock_timespec(a->mtime_ns);
	st->st_ctim = clock_timespec(a->ctime_ns);
	if (S_ISREG(a->mode))
		stat_from_backing(ckpt, inode, a->ino, st);
	else if (S_ISDIR(a->mode))
		st->st_size = 4096;
}

void cinode_entry(struct ckpt *ckpt, struct ckpt_inode *inode,
		  const struct ckpt_attr *a, struct fuse_entry_param *e)
{
	memset(e, 0, sizeof(*e));
	e->ino = inode_fuse(ckpt->fs, &inode->head);
	e->generation = 1;
	cinode_stat(ckpt, inode, a, &e->attr);
}

void cinode_reply_entry(struct call *c, struct ckpt_inode *inode,
			const struct ckpt_attr *a)
{
	struct fuse_entry_param e;

	cinode_entry(c->fs->ckpt, inode, a, &e);
	hist_add(&c->fs->counters.ckpt_call, clock_now_ns() - c->start_ns);
	call_reply_entry(c, &e);
}

int cinode_init(struct ckpt *ckpt)
{
	struct ckpt_attr root = {
		.ino = CKPT_ROOT_INO,
		.mode = S_IFDIR | 0755,
		.nlink = 2,
		.parent_ino = CKPT_ROOT_INO,
	};

	pthread_mutex_init(&ckpt->lock, NULL);
	ckpt->n_buckets = BUCKETS_MIN;
	ckpt->buckets = calloc(ckpt->n_buckets, sizeof(*ckpt->buckets));
	if (!ckpt->buckets)
		return -ENOMEM;
	ckpt->root = add(ckpt, &root);
	return ckpt->root ? 0 : -ENOMEM;
}

void cinode_fini(struct ckpt *ckpt)
{
	for (size_t i = 0; ckpt->buckets && i < ckpt->n_buckets; i++) {
		while (ckpt->buckets[i]) {
			struct ckpt_inode *inode = ckpt->buckets[i];

			ckpt->buckets[i] = inode->next;
			free(inode->data);
			free(inode);
		}
	}
	free(ckpt->buckets);
	pthread_mutex_destroy(&ckpt->lock);
}

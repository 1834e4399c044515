// SPDX-License-Identifier: MIT
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/ckpt.h"

/*
 * An open directory. Its entries come from Redis page by page; an entry's
 * offset is its place in the order in which they came, so telldir and seekdir
 * agree as long as the directory is open. Only a window of the latest entries
 * is kept: who seeks back further starts the scan anew. A page may repeat a
 * name while the server's hash is resized, hence `given`.
 *
 * Attributes are not handed out with the names: with timeouts of 0 the kernel
 * would ask again anyway.
 */

#define WINDOW_MAX 65536u

struct entry {
	uint64_t ino;
	uint32_t mode;
	uint32_t name; /* in names */
};

struct dir {
	struct ckpt *ckpt;
	uint64_t ino, parent_ino;
	pthread_mutex_t lock; /* all below; held across Redis */
	uint64_t cursor;
	bool begun, ended;
	int err;	/* of the page that is being taken in */
	uint64_t first; /* place of entries[0] */
	struct entry *entries;
	size_t n, max;
	char *names;
	size_t names_len, names_max;
	uint64_t *given; /* hashes of names, open addressing, 0: empty */
	size_t n_given, given_max;
};

static struct dir *dir_of(const struct call *c)
{
	return (struct dir *)(uintptr_t)c->fi.fh;
}

static bool reserve(void **array, size_t *max, size_t want, size_t size)
{
	size_t n = *max ? *max : 256;
	void *p;

	if (want <= *max)
		return true;
	while (n < want)
		n *= 2;
	p = realloc(*array, n * size);
	if (!p)
		return false;
	*array = p;
	*max = n;
	return true;
}

static void put_hash(uint64_t *set, size_t max, uint64_t h)
{
	size_t i = h & (max - 1);

	while (set[i] && set[i] != h)
		i = (i + 1) & (max - 1);
	set[i] = h;
}

static bool grow_given(struct dir *d)
{
	size_t max = d->given_max ? d->given_max * 2 : 512;
	uint64_t *set = calloc(max, sizeof(*set));

	if (!set)
		return false;
	for (size_t i = 0; i < d->given_max; i++) {
		if (d->given[i])
			put_hash(set, max, d->given[i]);
	}
	free(d->given);
	d->given = set;
	d->given_max = max;
	return true;
}

/* 1 new, 0 given already, -ENOMEM */
static int give(struct dir *d, const char *name)
{
	uint64_t h = XXH3_64bits(name, strlen(name)) | 1;
	size_t i;

	if (d->n_given * 2 >= d->given_max && !grow_given(d))
		return -ENOMEM;
	i = h & (d->given_max - 1);
	while (d->given[i] && d->given[i] != h)
		i = (i + 1) & (d->given_max - 1);
	if (d->given[i])
		return 0;
	d->given[i] = h;
	d->n_given++;
	return 1;
}

static void add(void *arg, const char *name, const struct ckpt_attr *a)
{
	struct dir *d = arg;
	size_t len = strlen(name) + 1;
	int fresh = give(d, name);

	if (fresh <= 0) {
		d->err = fresh ? fresh : d->err;
		return;
	}
	if (!reserve((void **)&d->entries, &d->max, d->n + 1,
		     sizeof(*d->entries)) ||
	    !reserve((void **)&d->names, &d->names_max, d->names_len + len,
		     1)) {
		d->err = -ENOMEM;
		return;
	}
	d->entries[d->n++] = (struct entry){
		.ino = a->ino, .mode = a->mode, .name = (uint32_t)d->names_len};
	memcpy(d->names + d->names_len, name, len);
	d->names_len += len;
}

static void rewind_scan(struct dir *d)
{
	d->cursor = 0;
	d->begun = d->ended = false;
	d->first = d->n = d->names_len = d->n_given = 0;
	if (d->given)
		memset(d->given, 0, d->given_max * sizeof(*d->given));
}

static void add_dots(struct dir *d)
{
	struct ckpt_attr self = {.ino = d->ino, .mode = S_IFDIR};
	struct ckpt_attr parent = {.ino = d->parent_ino, .mode = S_IFDIR};

	add(d, ".", &self);
	add(d, "..", &parent);
	d->begun = true;
}

/* One page more. What lies before the window's end has been read. */
static int fetch(struct dir *d, int64_t deadline)
{
	int more;

	if (!d->begun)
		add_dots(d);
	if (d->n > WINDOW_MAX) {
		d->first += d->n;
		d->n = d->names_len = 0;
	}
	more = ckpt_readdir(d->ckpt->fs->meta, deadline, d->ino, &d->cursor,
			    add, d);
	if (more == -ESTALE)
		more = 0; /* removed while open: empty */
	if (more < 0)
		return more;
	d->ended = more == 0;
	return d->err;
}

/* Is the entry at this place at hand, or known not to exist? */
static bool at_hand(const struct dir *d, uint64_t place)
{
	return place >= d->first &&
	       (place < d->first + d->n || (d->begun && d->ended));
}

static size_t add_entry(struct call *c, char *buf, size_t room,
			const struct dir *d, uint64_t place)
{
	const struct entry *e = &d->entries[place - d->first];
	struct fuse_entry_param plus = {0};

	plus.attr.st_ino = CKPT_ST_INO + e->ino;
	plus.attr.st_mode = e->mode;
	if (c->plus) /* node id 0: a name without attributes */
		return fuse_add_direntry_plus(c->req, buf, room,
					      d->names + e->name, &plus,
					      (off_t)place + 1);
	return fuse_add_direntry(c->req, buf, room, d->names + e->name,
				 &plus.attr, (off_t)place + 1);
}

static size_t fill(struct call *c, const struct dir *d, char *buf)
{
	uint64_t place = (uint64_t)c->off;
	size_t used = 0;

	for (; place < d->first + d->n; place++) {
		size_t need =
			add_entry(c, buf + used, c->size - used, d, place);

		if (need > c->size - used)
			break;
		used += need;
	}
	return used;
}

static void answer(struct call *c, struct dir *d)
{
	cleanup_free char *buf = malloc(c->size);
	size_t used = buf ? fill(c, d, buf) : 0;

	pthread_mutex_unlock(&d->lock);
	if (buf)
		call_reply_buf(c, buf, used);
	else
		call_reply_err(c, ENOMEM);
}

static int advance(struct call *c, struct dir *d)
{
	uint64_t place = (uint64_t)c->off;
	int err = 0;

	d->err = 0;
	if (place < d->first || (place == 0 && d->begun))
		rewind_scan(d);
	while (!err && !at_hand(d, place))
		err = fetch(d, c->deadline);
	return err;
}

static void readdir_waiting(struct call *c)
{
	struct dir *d = dir_of(c);
	int err;

	pthread_mutex_lock(&d->lock);
	err = advance(c, d);
	if (!err) {
		answer(c, d);
		return;
	}
	pthread_mutex_unlock(&d->lock);
	ckpt_finish(c, err);
}

void ckpt_do_readdir(struct call *c)
{
	struct dir *d = dir_of(c);

	if (c->off && pthread_mutex_trylock(&d->lock) == 0) {
		if (at_hand(d, (uint64_t)c->off)) {
			answer(c, d);
			return;
		}
		pthread_mutex_unlock(&d->lock);
	}
	call_defer(c, readdir_waiting);
}

void ckpt_do_opendir(struct call *c)
{
	struct ckpt_attr a = cinode_attr(c->fs->ckpt, cinode_of(c->inode));
	struct dir *d = calloc(1, sizeof(*d));

	if (!d) {
		call_reply_err(c, ENOMEM);
		return;
	}
	d->ckpt = c->fs->ckpt;
	d->ino = a.ino;
	d->parent_ino = a.parent_ino ? a.parent_ino : a.ino;
	pthread_mutex_init(&d->lock, NULL);
	c->fi.fh = (uint64_t)(uintptr_t)d;
	call_reply_open(c, &c->fi);
}

void ckpt_do_releasedir(struct call *c)
{
	struct dir *d = dir_of(c);

	pthread_mutex_destroy(&d->lock);
	free(d->entries);
	free(d->names);
	free(d->given);
	free(d);
	call_reply_err(c, 0);
}

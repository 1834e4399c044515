// SPDX-License-Identifier: MIT
#include "fs/ckpt_fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

/* -- maps --------------------------------------------------------------- */

#define MAP_NAME_BYTES 32

static void map_name(uint64_t ino, char name[MAP_NAME_BYTES])
{
	snprintf(name, MAP_NAME_BYTES, "%02x/.%" PRIx64 ".map",
		 (unsigned)(ino & 0xff), ino);
}

int cfetch_map(struct ckpt *ckpt, uint64_t ino, struct cmap *m)
{
	char name[MAP_NAME_BYTES];
	int err;

	map_name(ino, name);
	err = cmap_load(ckpt->store, name, m);
	if (err == -EBADMSG)
		log_warn("ckpt: %s: damaged: what it says is not believed",
			 name);
	if (err)
		return -ENOENT;
	if (m->ino == ino)
		return 0;
	cmap_fini(m);
	return -ENOENT;
}

uint32_t cfetch_count(struct ckpt *ckpt, const struct ckpt_attr *a)
{
	uint32_t n = 0, all = ckpt_shards(a);
	struct cmap m;

	if (cfetch_map(ckpt, a->ino, &m))
		return 0;
	if (m.version == a->version && (!m.boot || m.boot == cmap_boot()))
		for (uint32_t i = 0; i < all; i++)
			n += m.flags & CMAP_WHOLE ||
			     (i < m.n_shards && cmap_has(&m, i));
	cmap_fini(&m);
	return n;
}

int cfetch_save(struct ckpt *ckpt, const struct cmap *m)
{
	char name[MAP_NAME_BYTES];
	int err;

	map_name(m->ino, name);
	err = cmap_save(ckpt->store, name, m);
	if (err)
		log_error("ckpt: %s: cannot be written: %s", name,
			  strerror(-err));
	return err;
}

static bool looks_alike(const struct ckpt_attr *a, const struct stat *st)
{
	return (uint64_t)st->st_size == a->size_bytes &&
	       clock_from_timespec(st->st_mtim) == a->mtime_ns;
}

enum belief { IS_NOT, IS_PART, IS_WHOLE };

/* A map that was written before a publish of which we do not know whether it
 * came to pass. */
static enum belief believe_pending(const struct cmap *m,
				   const struct ckpt_attr *a,
				   const struct stat *st)
{
	if (m->version == a->version + 1)
		return IS_WHOLE; /* not yet */
	/* Or twice: the answer to the first publish was lost. */
	if (m->version <= a->version && m->size_bytes == a->size_bytes &&
	    (m->mtime_ns == a->mtime_ns ||
	     (m->version == a->version &&
	      clock_from_timespec(st->st_mtim) == a->mtime_ns)))
		return IS_WHOLE;
	if (m->version == a->version) /* else it may have come before that */
		log_warn("ckpt: inode %" PRIu64 ": another node published a "
			 "newer version than what lies here: that is dropped",
			 a->ino);
	return IS_NOT;
}

/* What of the record's version is the backing file? A map is left to the
 * caller unless it is not. */
static enum belief believe(struct ckpt *ckpt, const struct ckpt_attr *a,
			   const struct stat *st, struct cmap *m)
{
	enum belief is = IS_NOT;

	if (cfetch_map(ckpt, a->ino, m)) {
		/* Made here and never closed, or from before there were maps */
		*m = (struct cmap){.flags = CMAP_WHOLE};
		return !cstore_partial(st) &&
				       (!a->version || looks_alike(a, st))
			       ? IS_WHOLE
			       : IS_NOT;
	}
	if (m->boot && m->boot != cmap_boot())
		is = IS_NOT; /* may never have reached the disk */
	else if (m->flags & CMAP_PENDING)
		is = believe_pending(m, a, st);
	else if (m->version == a->version)
		is = m->flags & CMAP_WHOLE ? IS_WHOLE : IS_PART;
	if (is == IS_PART && (m->size_bytes != a->size_bytes ||
			      m->shard_bytes != ckpt_shard_bytes(a)))
		is = IS_NOT;
	if (is == IS_NOT)
		cmap_fini(m);
	return is;
}

bool cfetch_unpublished(struct ckpt *ckpt, const struct ckpt_attr *a,
			const struct stat *st)
{
	struct cmap m;
	bool changed;

	if (looks_alike(a, st) || cstore_partial(st))
		return false;
	if (cfetch_map(ckpt, a->ino, &m))
		return !a->version;
	changed = m.mtime_ns != clock_from_timespec(st->st_mtim) ||
		  m.size_bytes != (uint64_t)st->st_size;
	cmap_fini(&m);
	if (!(m.flags & CMAP_WHOLE))
		return false;
	if (m.flags & CMAP_PENDING && m.version == a->version + 1)
		return true;
	return changed && m.version == a->version;
}

void cfetch_remove(struct ckpt *ckpt, uint64_t ino)
{
	char name[MAP_NAME_BYTES];

	map_name(ino, name);
	unlinkat(ckpt->store, name, 0);
}

int cfetch_publishing(struct ckpt_data *d, uint64_t version,
		      const struct stat *st)
{
	struct ckpt *ckpt = d->ckpt;
	struct ckpt_attr a = {
		.size_bytes = (uint64_t)st->st_size,
		.shard_log2 = cinode_attr(ckpt, d->inode).shard_log2,
	};
	struct cmap m = {
		.ino = d->ino,
		.version = version,
		.size_bytes = a.size_bytes,
		.shard_bytes = ckpt_shard_bytes(&a),
		.mtime_ns = clock_from_timespec(st->st_mtim),
		.flags = CMAP_WHOLE | CMAP_PENDING | CMAP_OURS,
	};
	scoped_lock(&ckpt->maps);

	return cfetch_save(ckpt, &m);
}

void cfetch_published(struct ckpt *ckpt, uint64_t ino, uint64_t version)
{
	struct cmap m;
	scoped_lock(&ckpt->maps);

	if (cfetch_map(ckpt, ino, &m))
		return;
	if (m.version == version && m.flags & CMAP_PENDING) {
		m.flags &= ~(uint32_t)CMAP_PENDING;
		cfetch_save(ckpt, &m);
	}
	cmap_fini(&m);
}

void cfetch_adopt(struct ckpt *ckpt, const struct ckpt_attr *a,
		  const struct stat *st)
{
	struct cmap m;
	scoped_lock(&ckpt->maps);

	if (!cfetch_map(ckpt, a->ino, &m)) {
		cmap_fini(&m);
		return;
	}
	if (!looks_alike(a, st) || cstore_partial(st) || cstore_damaged(st))
		return;
	m = (struct cmap){
		.ino = a->ino,
		.version = a->version,
		.size_bytes = a->size_bytes,
		.shard_bytes = ckpt_shard_bytes(a),
		.mtime_ns = a->mtime_ns,
		.flags = CMAP_WHOLE | CMAP_OURS,
	};
	cfetch_save(ckpt, &m);
}

/* -- the backing file of a version -------------------------------------- */

/* Takes the map. */
static int make_fetch(struct ckpt_data *d, struct cmap *m)
{
	struct cfetch *f = calloc(1, sizeof(*f));

	if (!f) {
		cmap_fini(m);
		return -ENOMEM;
	}
	f->d = d;
	f->map = *m;
	f->next = UINT64_MAX;
	f->job.run = cfetch_run;
	list_init(&f->waits);
	pthread_mutex_init(&f->lock, NULL);
	pthread_mutex_init(&f->io, NULL);
	f->fd = cstore_fd(d->ckpt, d->ino, O_RDWR);
	pthread_mutex_lock(&d->ckpt->lock);
	d->fetch = f;
	pthread_mutex_unlock(&d->ckpt->lock);
	return f->fd < 0 ? f->fd : 0;
}

void cfetch_free(struct ckpt_data *d)
{
	struct cfetch *f = d->fetch;

	if (!f)
		return;
	if (f->fd >= 0)
		close(f->fd);
	cmap_fini(&f->map);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->io);
	free(f->sums);
	free(f);
	d->fetch = NULL;
}

/* A sparse file as long as the version. Where there was one before, whoever
 * has it open keeps it. maps is held. */
static int make_sparse(struct ckpt_data *d, const struct ckpt_attr *a,
		       struct stat *st, struct cmap *m)
{
	cleanup_close int fd = -1;
	int err = cmap_init(m, a->ino, a->version, a->size_bytes,
			    ckpt_shard_bytes(a));

	if (err)
		return err;
	cstore_remove(d->ckpt, a->ino);
	err = cstore_create(d->ckpt, a, st);
	if (!err) {
		fd = cstore_fd(d->ckpt, a->ino, O_RDWR);
		err = fd < 0 ? fd : 0;
	}
	if (!err && (ftruncate(fd, (off_t)a->size_bytes) ||
		     fchmod(fd, CSTORE_PARTIAL) || fstat(fd, st)))
		err = -errno;
	if (!err)
		err = cfetch_save(d->ckpt, m);
	if (err)
		cmap_fini(m);
	return err;
}

/* Another node set the times meanwhile: not a change of the bytes. */
static void follow_times(struct ckpt *ckpt, const struct ckpt_attr *a,
			 const struct cmap *m, struct stat *st)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT},
				clock_timespec(a->mtime_ns)};
	int64_t mtime = clock_from_timespec(st->st_mtim);

	if (m->ino && !(m->flags & CMAP_PENDING) && mtime == m->mtime_ns &&
	    mtime != a->mtime_ns && !cstore_utimens(ckpt, a->ino, t))
		cstore_stat(ckpt, a->ino, st);
}

static int start_empty(struct ckpt_data *d, const struct ckpt_attr *a,
		       struct stat *st)
{
	cstore_remove(d->ckpt, a->ino);
	return cstore_create(d->ckpt, a, st);
}

/* What is here, once for all openers. maps and binding are held. */
static int examine(struct ckpt_data *d, const struct ckpt_attr *a, bool empty,
		   struct stat *st)
{
	struct ckpt *ckpt = d->ckpt;
	int err = cstore_stat(ckpt, a->ino, st);
	enum belief is = IS_NOT;
	struct cmap m;

	if (!err && cstore_damaged(st) && !empty) {
		atomic_fetch_add(&ckpt->fs->counters.damaged, 1);
		log_error("ckpt: inode %" PRIu64 ": known to be damaged",
			  a->ino);
		return -EIO;
	}
	if (!err && cstore_damaged(st))
		cstore_set_damaged(ckpt, a->ino, false);
	if (!err)
		is = believe(ckpt, a, st, &m);
	if (is == IS_WHOLE) {
		follow_times(ckpt, a, &m, st);
		cmap_fini(&m);
		return 0;
	}
	if (empty || !a->size_bytes) {
		if (is == IS_PART)
			cmap_fini(&m);
		return start_empty(d, a, st);
	}
	if (is == IS_NOT)
		err = make_sparse(d, a, st, &m);
	return err ? err : make_fetch(d, &m);
}

/* Its bytes are about to go: nothing is fetched any more. */
static int give_up(struct cfetch *f)
{
	struct list waits, *l;
	int err;

	list_init(&waits);
	pthread_mutex_lock(&f->io);
	pthread_mutex_lock(&f->lock);
	if (f->whole) {
		pthread_mutex_unlock(&f->lock);
		pthread_mutex_unlock(&f->io);
		return 0;
	}
	f->whole = true;
	while ((l = list_pop_front(&f->waits)))
		list_push_back(&waits, l);
	pthread_mutex_unlock(&f->lock);
	err = fchmod(f->fd, 0600) ? -errno : 0;
	close(f->fd);
	f->fd = -1;
	pthread_mutex_unlock(&f->io);
	cfetch_answer(f->d, &waits, 0);
	return err;
}

int cfetch_backing(struct ckpt_data *d, bool empty, struct stat *st)
{
	struct ckpt *ckpt = d->ckpt;
	struct ckpt_attr a;
	bool superseded;
	int path, err = 0;
	scoped_lock(&d->binding);

	pthread_mutex_lock(&ckpt->lock);
	a = d->inode->attr;
	superseded = d->inode->superseded;
	path = d->path;
	pthread_mutex_unlock(&ckpt->lock);
	if (superseded)
		return path < 0 ? -ESTALE : fstat(path, st) ? -errno : 0;
	if (!d->examined) {
		scoped_lock(&ckpt->maps);

		err = examine(d, &a, empty, st);
		d->examined = !err;
		return err;
	}
	if (empty && !cfetch_is_whole(d))
		err = give_up(d->fetch);
	return err ? err : cstore_stat(ckpt, a.ino, st);
}

/* -- what is here ------------------------------------------------------- */

static struct cfetch *fetch_of(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	return d->fetch;
}

bool cfetch_is_whole(struct ckpt_data *d)
{
	struct cfetch *f = fetch_of(d);

	if (!f)
		return true;
	scoped_lock(&f->lock);
	return f->whole;
}

/* Locked. The job, unless it runs; it holds a reference. */
static bool start_job(struct cfetch *f)
{
	struct ckpt *ckpt = f->d->ckpt;

	if (f->running)
		return true;
	scoped_lock(&ckpt->lock);
	if (atomic_load(&ckpt->fetch_stopping))
		return false;
	f->running = true;
	f->d->refs++;
	workers_post(ckpt->fetchers, &f->job);
	return true;
}

bool cfetch_ahead(const struct cfetch *f, uint64_t *shard)
{
	uint64_t from = f->next * f->map.shard_bytes;

	if (f->hurry || f->keep)
		return !cmap_range(&f->map, 0, UINT64_MAX, shard);
	if (f->next >= f->map.n_shards)
		return false;
	return !cmap_range(&f->map, from, from + CFETCH_AHEAD_BYTES, shard);
}

void cfetch_hurry(struct ckpt_data *d)
{
	struct cfetch *f = fetch_of(d);

	if (!f)
		return;
	scoped_lock(&f->lock);
	f->hurry = true;
	if (!f->whole)
		start_job(f);
}

int cfetch_keep(struct ckpt_data *d)
{
	struct cfetch *f = fetch_of(d);

	if (!f)
		return 0;
	scoped_lock(&f->lock);
	if (f->whole)
		return 0;
	f->keep = true;
	return start_job(f) ? -EINPROGRESS : -ENOTCONN;
}

bool cfetch_has(struct ckpt_data *d, uint64_t from, uint64_t to)
{
	struct cfetch *f = fetch_of(d);
	uint64_t missing;

	if (!f)
		return true;
	scoped_lock(&f->lock);
	if (f->whole)
		return true;
	f->next = to / f->map.shard_bytes;
	if (!cmap_range(&f->map, from, to, &missing))
		return false;
	if (cfetch_ahead(f, &missing))
		start_job(f);
	return true;
}

/* -- waiting ------------------------------------------------------------ */

void cfetch_answer(struct ckpt_data *d, struct list *waits, int err)
{
	struct list *l;

	while ((l = list_pop_front(waits))) {
		struct cfetch_wait *w =
			container_of(l, struct cfetch_wait, link);

		if (err)
			ckpt_finish(w->call, err);
		else
			call_defer(w->call, w->then);
		free(w);
		cdata_put(d);
	}
}

static int enqueue(struct cfetch *f, struct cfetch_wait *w)
{
	scoped_lock(&f->lock);

	if (!start_job(f))
		return -ENOTCONN;
	cdata_ref(f->d);
	list_push_back(&f->waits, &w->link);
	return 0;
}

void cfetch_then(struct call *c, struct ckpt_data *d, uint64_t from,
		 uint64_t to, call_fn then)
{
	struct cfetch_wait *w = calloc(1, sizeof(*w));
	struct call *kept = w ? call_keep(c) : NULL;
	int err;

	if (!kept) {
		free(w);
		call_reply_err(c, ENOMEM);
		return;
	}
	*w = (struct cfetch_wait){
		.call = kept, .then = then, .from = from, .to = to};
	err = enqueue(d->fetch, w);
	if (!err)
		return;
	/* Not the copy: this may be the thread that c came on (fs/gate.c). */
	free(w);
	if (kept != c)
		free(kept);
	ckpt_finish(c, err);
}

bool cfetch_ready(struct call *c, bool write, call_fn then)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_inode *inode = cinode_of(c->inode);
	struct ckpt_attr a = cinode_attr(ckpt, inode);
	struct ckpt_data *d;
	struct stat st;
	bool ready;
	int err;

	if (!cfetch_on(ckpt) || !S_ISREG(a.mode))
		return true;
	d = cdata_get(ckpt, inode);
	err = d ? cfetch_backing(d, false, &st) : -ENOMEM;
	ready = !err && (cfetch_is_whole(d) ||
			 (!write && a.size_bytes > CFETCH_SMALL_BYTES));
	if (err)
		ckpt_finish(c, err);
	else if (!ready)
		cfetch_then(c, d, 0, UINT64_MAX, then);
	if (d)
		cdata_put(d);
	return ready;
}

/* -- names, for people -------------------------------------------------- */

void cfetch_seen(struct ckpt *ckpt, uint64_t ino, const char *name)
{
	struct cfetch_name *n = &ckpt->names[ino % CFETCH_NAMES];
	scoped_lock(&ckpt->lock);

	n->ino = ino;
	snprintf(n->name, sizeof(n->name), "%s", name);
}

void cfetch_name(struct ckpt *ckpt, uint64_t ino, char *name, size_t bytes)
{
	const struct cfetch_name *n = &ckpt->names[ino % CFETCH_NAMES];
	scoped_lock(&ckpt->lock);

	if (n->ino == ino)
		snprintf(name, bytes, "%s (inode %" PRIu64 ")", n->name, ino);
	else
		snprintf(name, bytes, "inode %" PRIu64, ino);
}

/* -- up and down -------------------------------------------------------- */

int cfetch_start(struct ckpt *ckpt)
{
	int err;

	pthread_mutex_init(&ckpt->maps, NULL);
	if (!cfetch_on(ckpt))
		return 0;
	err = workers_open(&ckpt->fetchers, "kvfs-shard", CFETCH_RUNNERS, 0);
	if (!err)
		err = workers_open(&ckpt->uploaders, "kvfs-upload",
				   CFETCH_SERVERS, 0);
	if (!err)
		cfetch_serve_start(ckpt);
	return err;
}

void cfetch_quiesce(struct ckpt *ckpt)
{
	pthread_mutex_lock(&ckpt->lock);
	atomic_store(&ckpt->fetch_stopping, true);
	pthread_mutex_unlock(&ckpt->lock);
	workers_close(ckpt->fetchers);
	ckpt->fetchers = NULL;
}

void cfetch_stop(struct ckpt *ckpt)
{
	cfetch_quiesce(ckpt);
	cfetch_serve_stop(ckpt);
	workers_close(ckpt->uploaders);
	pthread_mutex_destroy(&ckpt->maps);
}

// SPDX-License-Identifier: MIT
#include "meta/kv_list.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "meta/internal.h"
#include "meta/kv.h"
#include "meta/kv_list_impl.h"
#include "meta/kv_scan.h"
#include "meta/namespace.h"

/*
 * A namespace is listed by a scan of all its buckets, which is dear: 1.6 us of
 * Redis a name. So one snapshot serves all listings of this node; the thread
 * takes it, at most a fifth of the time, into a file without a name in the
 * state directory: entry after entry, then sorted offsets in memory. The
 * children of a directory are a run of them. It is used for 30 s after it was
 * complete: from its beginning one of tens of millions of names would never be
 * fresh.
 *
 *      entry   length of the path (2 bytes), struct meta_kv_found, path
 *
 * What this node hears to be removed is hidden in the snapshot there is, and in
 * the one that is being taken, as that may have seen it before.
 */

#define FRESH_NS (30 * NS_PER_S)
#define IDLE_NS (300 * NS_PER_S) /* nobody lists it: let it go */
#define SHARE 4			 /* pauses as many times as it works */

/* --- entries ----------------------------------------------------------- */

#define HIDDEN (1ULL << 63) /* in snapshot.entries */

static uint64_t entry_at(const struct snapshot *s, size_t i)
{
	return __atomic_load_n(&s->entries[i], __ATOMIC_RELAXED) & ~HIDDEN;
}

static bool is_hidden(const struct snapshot *s, size_t i)
{
	return __atomic_load_n(&s->entries[i], __ATOMIC_RELAXED) & HIDDEN;
}

static const char *entry_path(const struct snapshot *s, uint64_t at,
			      uint16_t *len)
{
	memcpy(len, s->bytes + at, sizeof(*len));
	return (const char *)s->bytes + at + sizeof(*len) +
	       sizeof(struct meta_kv_found);
}

static int by_path(const void *a, const void *b, void *arg)
{
	uint16_t n, k;
	const char *p = entry_path(arg, *(const uint64_t *)a, &n);
	const char *q = entry_path(arg, *(const uint64_t *)b, &k);
	int order = memcmp(p, q, n < k ? n : k);

	return order ? order : n < k ? -1 : n > k;
}

/* The first entry whose path is not below `key`. */
static size_t lower(const struct snapshot *s, const char *key, size_t key_len)
{
	size_t low = 0, high = s->n;

	while (low < high) {
		size_t mid = (low + high) / 2;
		uint16_t n;
		const char *p = entry_path(s, entry_at(s, mid), &n);
		int order = memcmp(p, key, n < key_len ? n : key_len);

		if (order < 0 || (!order && n < key_len))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* The place of this path; s->n: it has none. */
static size_t find(const struct snapshot *s, const char *path, size_t len)
{
	size_t i = lower(s, path, len);
	uint16_t n;
	const char *p;

	if (i == s->n)
		return i;
	p = entry_path(s, entry_at(s, i), &n);
	return n == len && !memcmp(p, path, len) ? i : s->n;
}

static void hide(struct snapshot *s, const char *path, size_t len)
{
	size_t i = find(s, path, len);

	if (i < s->n)
		__atomic_fetch_or(&s->entries[i], HIDDEN, __ATOMIC_RELAXED);
}

static void snapshot_unref(struct snapshot *s)
{
	if (!s || --s->refs)
		return;
	if (s->bytes)
		munmap(s->bytes, s->n_bytes);
	free(s->entries);
	free(s);
}

/* --- taking one -------------------------------------------------------- */

struct taking {
	struct kv_list *l;
	FILE *f;
	uint64_t at;
	uint64_t *entries;
	size_t n, cap;
};

static int entry_write(struct taking *t, const char *path, size_t n,
		       const struct meta_kv_found *found)
{
	uint16_t len = (uint16_t)n;

	if (n > UINT16_MAX)
		return 0;
	if (t->n == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 1024;
		uint64_t *e = realloc(t->entries, cap * sizeof(*e));

		if (!e)
			return -ENOMEM;
		t->entries = e;
		t->cap = cap;
	}
	t->entries[t->n++] = t->at;
	t->at += sizeof(len) + sizeof(*found) + n;
	fwrite(&len, sizeof(len), 1, t->f);
	fwrite(found, sizeof(*found), 1, t->f);
	fwrite(path, 1, n, t->f);
	return ferror(t->f) ? -EIO : 0;
}

/* What a reader would be shown: a directory, or a block with live holders. */
static bool record_read(struct meta *m, const char *value, size_t n,
			bool is_dir, struct meta_kv_found *f)
{
	struct record r;

	memset(f, 0, sizeof(*f));
	f->is_dir = is_dir;
	if (is_dir)
		return !record_dir_decode(value, n, &f->mode, &f->uid, &f->gid);
	if (record_decode(value, n, &r))
		return false;
	f->generation = r.generation;
	f->size_bytes = r.size_bytes;
	memcpy(f->checksum, r.checksum, sizeof(f->checksum));
	f->mode = r.mode;
	f->uid = r.uid;
	f->gid = r.gid;
	for (uint32_t i = 0; i < r.n_holders; i++)
		if (meta_node_is_reached(m, r.holders[i]))
			f->holders[f->n_holders++] = r.holders[i];
	return f->n_holders;
}

static int page(void *ctx, const char *tag, uint32_t sub,
		const struct redis_reply *list)
{
	struct taking *t = ctx;
	int err = 0;

	(void)tag;
	(void)sub;
	for (size_t i = 0; i + 1 < redis_reply_count(list) && !err; i += 2) {
		const char *path, *value;
		struct meta_kv_found f;
		size_t n, n_value;
		bool is_dir;

		if (redis_reply_str(redis_reply_at(list, i), &path, &n) ||
		    redis_reply_str(redis_reply_at(list, i + 1), &value,
				    &n_value) ||
		    !n)
			continue;
		is_dir = path[n - 1] == '/';
		if (record_read(t->l->m, value, n_value, is_dir, &f))
			err = entry_write(t, path, n - is_dir, &f);
	}
	return err;
}

static bool nap(void *ctx, int64_t ns)
{
	struct taking *t = ctx;
	struct timespec until = clock_timespec(clock_now_ns() + ns);

	scoped_lock(&t->l->lock);
	while (!t->l->stop)
		if (pthread_cond_timedwait(&t->l->changed, &t->l->lock, &until))
			break;
	return !t->l->stop;
}

static int spool_open(struct meta *m, FILE **f)
{
	int fd = open(m->state_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	*f = fd >= 0 ? fdopen(fd, "w+") : NULL;
	if (*f)
		return 0;
	if (fd >= 0)
		close(fd);
	return -errno;
}

/* Sorted, and each name once: a scan may show one twice. */
static int snapshot_make(struct taking *t, struct snapshot **out)
{
	struct snapshot *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->refs = 1;
	s->n_bytes = t->at;
	if (fflush(t->f))
		goto failed;
	if (t->at) {
		s->bytes = mmap(NULL, t->at, PROT_READ, MAP_SHARED,
				fileno(t->f), 0);
		if (s->bytes == MAP_FAILED)
			goto failed;
	}
	s->entries = t->entries;
	t->entries = NULL;
	qsort_r(s->entries, t->n, sizeof(*s->entries), by_path, s);
	for (size_t i = 0; i < t->n; i++)
		if (!i || by_path(&s->entries[s->n - 1], &s->entries[i], s))
			s->entries[s->n++] = s->entries[i];
	s->taken_ns = clock_now_ns();
	*out = s;
	return 0;
failed:
	free(s);
	return -errno;
}

static int take(struct kv_list *l, const char *ns, struct snapshot **out)
{
	struct taking t = {.l = l};
	struct kv_scan scan = {.m = l->m,
			       .ns = ns,
			       .pause = SHARE,
			       .nap = nap,
			       .page = page,
			       .ctx = &t};
	int n_sub = meta_namespace_subs(l->m, ns, strlen(ns), false);
	int err;

	if (n_sub < 0)
		return n_sub;
	scan.n_sub = (uint32_t)n_sub;
	err = spool_open(l->m, &t.f);
	if (err) {
		log_error("kv: list: %s: %s", l->m->state_dir, strerror(-err));
		return err;
	}
	err = kv_scan(&scan);
	err = err ? err : snapshot_make(&t, out);
	fclose(t.f);
	free(t.entries);
	return err;
}

/* --- the thread -------------------------------------------------------- */

/* Lock held. */
static void removed_hide(struct kv_list *l, struct snapshot *s)
{
	struct removed *r;

	while ((r = l->removed)) {
		if (s)
			hide(s, r->path, r->len);
		l->removed = r->next;
		free(r);
	}
	l->taking = NULL;
}

static struct listed *next_wanted(struct kv_list *l)
{
	int64_t now = clock_now_ns();

	list_for_each_safe (p, &l->all) {
		struct listed *d = container_of(p, struct listed, link);

		if (d->wanted)
			return d;
		if (now - d->used_ns < IDLE_NS)
			continue;
		list_remove(&d->link);
		snapshot_unref(d->snapshot);
		free(d);
	}
	return NULL;
}

static void *list_thread(void *arg)
{
	struct kv_list *l = arg;

	pthread_mutex_lock(&l->lock);
	while (!l->stop) {
		struct listed *d = next_wanted(l);
		struct timespec t = clock_timespec(clock_now_ns() + FRESH_NS);
		struct snapshot *s = NULL;
		int err;

		if (!d) {
			pthread_cond_timedwait(&l->changed, &l->lock, &t);
			continue;
		}
		l->taking = d;
		pthread_mutex_unlock(&l->lock);
		err = take(l, d->ns, &s); /* only this thread frees it */
		pthread_mutex_lock(&l->lock);
		removed_hide(l, s);
		d->wanted = false;
		d->err = err;
		d->tries++;
		if (!err) {
			snapshot_unref(d->snapshot);
			d->snapshot = s;
			l->n_taken++;
		}
		pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* --- listing ----------------------------------------------------------- */

static struct listed *listed_find(struct kv_list *l, const char *ns, size_t len)
{
	list_for_each (p, &l->all) {
		struct listed *d = container_of(p, struct listed, link);

		if (strlen(d->ns) == len && !memcmp(d->ns, ns, len))
			return d;
	}
	return NULL;
}

static struct listed *listed_get(struct kv_list *l, const char *ns, size_t len)
{
	struct listed *d = listed_find(l, ns, len);

	if (d)
		return d;
	d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	memcpy(d->ns, ns, len);
	list_push_back(&l->all, &d->link);
	return d;
}

/* A reference to a snapshot that is fresh enough; waits for one. A stale one
 * is better than none at the deadline. */
static int snapshot_get(struct kv_list *l, int64_t deadline, const char *ns,
			size_t len, struct snapshot **out)
{
	struct timespec until = clock_timespec(deadline);
	struct listed *d;
	uint64_t tries;

	scoped_lock(&l->lock);
	d = listed_get(l, ns, len);
	if (!d)
		return -ENOMEM;
	d->used_ns = clock_now_ns();
	tries = d->tries;
	while (!d->snapshot ||
	       clock_now_ns() - d->snapshot->taken_ns > FRESH_NS) {
		if (l->stop || (d->tries > tries && d->err))
			break;
		d->wanted = true;
		pthread_cond_broadcast(&l->changed);
		if (pthread_cond_timedwait(&l->changed, &l->lock, &until))
			break;
	}
	if (!d->snapshot)
		return d->tries > tries && d->err == -ENOENT ? -ENOENT
							     : -EAGAIN;
	d->snapshot->refs++;
	*out = d->snapshot;
	return 0;
}

/* The name right below the prefix, and whether more lies below that. */
static void child_tell(const struct snapshot *s, uint64_t at, size_t prefix,
		       size_t len, bool deeper,
		       void (*fn)(void *arg, const char *name,
				  uint16_t name_len,
				  const struct meta_kv_found *found),
		       void *arg)
{
	struct meta_kv_found f = {.is_dir = true, .mode = 040755};
	uint16_t n;
	const char *p = entry_path(s, at, &n);

	if (!deeper)
		memcpy(&f, s->bytes + at + sizeof(n), sizeof(f));
	fn(arg, p + prefix, (uint16_t)len, &f);
}

/* All entries that begin with `key` ("" or "dir/"), by their next component;
 * what lies below one of them is skipped by search. */
static void children(const struct snapshot *s, const char *key, size_t key_len,
		     void (*fn)(void *arg, const char *name, uint16_t name_len,
				const struct meta_kv_found *found),
		     void *arg)
{
	size_t i = lower(s, key, key_len);

	while (i < s->n) {
		uint16_t n;
		const char *p = entry_path(s, entry_at(s, i), &n);
		const char *slash;
		char past[UINT16_MAX + 1];
		size_t len;

		if (n < key_len || memcmp(p, key, key_len) != 0)
			return;
		slash = memchr(p + key_len, '/', n - key_len);
		len = slash ? (size_t)(slash - p) - key_len : n - key_len;
		/* a directory's own entry has come before what is below it */
		if (len && (slash ? find(s, p, key_len + len) == s->n
				  : !is_hidden(s, i)))
			child_tell(s, entry_at(s, i), key_len, len, slash, fn,
				   arg);
		if (!slash) {
			i++;
			continue;
		}
		memcpy(past, p, key_len + len);
		past[key_len + len] = '/' + 1;
		i = lower(s, past, key_len + len + 1);
	}
}

int meta_kv_list(struct meta *m, int64_t deadline, const char *path,
		 uint16_t path_len,
		 void (*fn)(void *arg, const char *name, uint16_t name_len,
			    const struct meta_kv_found *found),
		 void *arg)
{
	const char *slash = memchr(path, '/', path_len);
	size_t ns_len = slash ? (size_t)(slash - path) : path_len;
	size_t key_len = slash ? path_len - ns_len - 1 : 0;
	struct kv_list *l = m->list;
	cleanup_free char *key = NULL;
	struct snapshot *s;
	int err;

	if (!record_ns_name_good(path, ns_len))
		return -EINVAL;
	key = malloc(key_len + 1);
	if (!key)
		return -ENOMEM;
	if (key_len) {
		memcpy(key, slash + 1, key_len);
		key[key_len++] = '/';
	}
	err = snapshot_get(l, meta_deadline(m, deadline), path, ns_len, &s);
	if (err)
		return err;
	children(s, key, key_len, fn, arg);
	pthread_mutex_lock(&l->lock);
	snapshot_unref(s);
	pthread_mutex_unlock(&l->lock);
	return 0;
}

void meta_kv_removed(struct meta *m, const char *path, uint16_t path_len)
{
	const char *slash = memchr(path, '/', path_len);
	struct kv_list *l = m->list;
	struct listed *d;
	struct removed *r;
	uint16_t len;

	if (!slash)
		return;
	len = (uint16_t)(path_len - (slash + 1 - path));
	scoped_lock(&l->lock);
	d = listed_find(l, path, (size_t)(slash - path));
	if (!d)
		return;
	if (d->snapshot)
		hide(d->snapshot, slash + 1, len);
	if (d != l->taking || !(r = malloc(sizeof(*r) + len)))
		return;
	r->next = l->removed;
	r->len = len;
	memcpy(r->path, slash + 1, len);
	l->removed = r;
}

/* --- open and close ---------------------------------------------------- */

int meta_kv_list_open(struct meta *m)
{
	struct kv_list *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	l->m = m;
	list_init(&l->all);
	pthread_mutex_init(&l->lock, NULL);
	cond_init(&l->changed);
	m->list = l;
	err = pthread_create(&l->thread, NULL, list_thread, l);
	if (err)
		return -err;
	l->has_thread = true;
	pthread_setname_np(l->thread, "kv-list");
	return 0;
}

void meta_kv_list_stop(struct meta *m)
{
	struct kv_list *l = m->list;

	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	if (l->has_thread)
		pthread_join(l->thread, NULL);
	l->has_thread = false;
}

void meta_kv_list_close(struct meta *m)
{
	struct kv_list *l = m->list;
	struct list *p;

	if (!l)
		return;
	while ((p = list_pop_front(&l->all))) {
		struct listed *d = container_of(p, struct listed, link);

		snapshot_unref(d->snapshot);
		free(d);
	}
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l);
	m->list = NULL;
}

void meta_kv_list_stats(struct meta *m, struct meta_stats *s)
{
	s->n_listings = m->list->n_taken;
}

// SPDX-License-Identifier: MIT
#include "meta/namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/list.h"
#include "base/log.h"
#include "meta/internal.h"
#include "meta/node.h"
#include "meta/record.h"

struct entry {
	struct list link;
	struct meta_namespace ns;
	uint32_t n_sub;
	char name[RECORD_NAME_MAX + 1];
};

struct namespaces {
	pthread_mutex_t file_lock; /* guards the file; before the next */
	char *path, *file;	   /* its text; NULL: not known */
	pthread_mutex_t lock;	   /* a leaf; guards the rest */
	struct list entries;
	uint64_t version; /* of the list in Redis that these are */

	uint64_t told; /* the heartbeat's: the version that the op heard of */
};

/* --- what is known here; the caller holds the lock --------------------- */

static struct entry *find(struct namespaces *s, const char *name, size_t len)
{
	list_for_each (l, &s->entries) {
		struct entry *e = container_of(l, struct entry, link);

		if (strlen(e->name) == len && !memcmp(e->name, name, len))
			return e;
	}
	return NULL;
}

static int set(struct namespaces *s, const char *name, size_t len,
	       const struct meta_namespace *ns, uint32_t n_sub)
{
	struct entry *e = find(s, name, len);

	if (!e) {
		e = calloc(1, sizeof(*e));
		if (!e)
			return -ENOMEM;
		memcpy(e->name, name, len);
		list_push_back(&s->entries, &e->link);
	}
	e->ns = *ns;
	e->n_sub = n_sub;
	return 0;
}

static void forget(struct namespaces *s, const char *name)
{
	struct entry *e = find(s, name, strlen(name));

	if (!e)
		return;
	list_remove(&e->link);
	free(e);
}

static void forget_all(struct namespaces *s)
{
	struct list *l;

	while ((l = list_pop_front(&s->entries)))
		free(container_of(l, struct entry, link));
}

/* --- the file: "store ID", then a line (record.h) each ---------------- */

/* From malloc; the caller holds the lock. */
static char *file_text(struct meta *m)
{
	char line[RECORD_NS_LINE_MAX], *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return NULL;
	fprintf(f, "store %" PRIu64 "\n", meta_node_store_id(m));
	list_for_each (l, &m->namespaces->entries) {
		struct entry *e = container_of(l, struct entry, link);

		record_ns_line_encode(e->name, &e->ns, e->n_sub, line);
		fprintf(f, "%s\n", line);
	}
	if (!fclose(f))
		return text;
	free(text);
	return NULL;
}

static int file_write(struct namespaces *s, const char *text)
{
	cleanup_free char *tmp = NULL;
	cleanup_file FILE *f = NULL;

	if (asprintf(&tmp, "%s.tmp", s->path) < 0)
		return -ENOMEM;
	f = fopen(tmp, "we");
	if (!f || fputs(text, f) < 0 || fflush(f) || fsync(fileno(f)) ||
	    rename(tmp, s->path))
		return -errno;
	return 0;
}

/* Best effort: Redis has been told already. Without the list's lock, which
 * lookups take: the disk may be slow. */
static void file_store(struct meta *m)
{
	struct namespaces *s = m->namespaces;
	cleanup_free char *text = NULL;
	int err;

	scoped_lock(&s->file_lock);
	pthread_mutex_lock(&s->lock);
	text = file_text(m);
	pthread_mutex_unlock(&s->lock);
	if (!text || (s->file && !strcmp(text, s->file)))
		return;
	err = file_write(s, text);
	if (err) {
		log_warn("namespaces: %s: %s", s->path, strerror(-err));
		return;
	}
	free(s->file);
	s->file = text;
	text = NULL;
}

static void line_read(struct namespaces *s, const char *line, size_t n,
		      unsigned number)
{
	char name[RECORD_NAME_MAX + 1];
	struct meta_namespace ns;
	uint32_t n_sub;

	if (line[n - 1] == '\n')
		n--;
	if (record_ns_line_decode(line, n, name, &ns, &n_sub))
		log_warn("namespaces: %s: line %u is damaged, left out",
			 s->path, number);
	else
		set(s, name, strlen(name), &ns, n_sub);
}

/* Returns: the store that the file is of, 0 where there is none. */
static uint64_t file_load(struct namespaces *s)
{
	cleanup_file FILE *f = fopen(s->path, "re");
	cleanup_free char *line = NULL;
	uint64_t store = 0;
	size_t room = 0;
	unsigned number = 1;
	ssize_t n;

	if (!f || getline(&line, &room, f) < 0)
		return 0;
	if (sscanf(line, "store %" SCNu64, &store) != 1)
		store = 0;
	while ((n = getline(&line, &room, f)) > 0)
		line_read(s, line, (size_t)n, ++number);
	return store;
}

/* --- Redis ------------------------------------------------------------- */

/* Users' changes wait for a Redis that is only late, as on a busy machine. */
static int call(struct meta *m, enum redis_wait wait, const char *tag,
		int64_t deadline, const struct redis_cmd *c,
		struct redis_reply **reply)
{
	return wait == REDIS_WAIT
		       ? meta_call_wait(m, META_LOOKUP, tag, deadline, c, reply)
		       : meta_call(m, META_LOOKUP, tag, deadline, c, reply);
}

static void add_name(struct redis_cmd *c, struct meta *m, const char *function,
		     const char *name)
{
	meta_fcall(c, function, 2);
	meta_cmd_key(c, m, "n", "ns");
	meta_cmd_key(c, m, "n", "nsv");
	redis_cmd_str(c, name);
}

/* Returns: 1 written, 0 there was one (with create), or -errno. */
static int record_put(struct meta *m, enum redis_wait wait, int64_t deadline,
		      const char *name, const struct meta_namespace *ns,
		      uint32_t n_sub, bool create)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	char record[RECORD_NS_MAX];
	int64_t fresh = 0;
	int err;

	record_ns_encode(ns, n_sub, record);
	add_name(&c, m, "ns_put", name);
	redis_cmd_str(&c, record);
	redis_cmd_int(&c, create);
	err = call(m, wait, "n", deadline, &c, &reply);
	err = err ? err : redis_reply_int(reply, &fresh);
	if (err)
		return err;
	return fresh || !create;
}

/* The caller holds the lock. */
static void list_take(struct namespaces *s, const struct redis_reply *list)
{
	for (size_t i = 0; i + 1 < redis_reply_count(list); i += 2) {
		const char *name = "", *record = "";
		size_t name_len = 0, len = 0;
		struct meta_namespace ns;
		uint32_t n_sub;

		redis_reply_str(redis_reply_at(list, i), &name, &name_len);
		redis_reply_str(redis_reply_at(list, i + 1), &record, &len);
		if (!record_ns_name_good(name, name_len) ||
		    record_ns_decode(record, len, &ns, &n_sub))
			log_warn("namespaces: %.40s: its record in Redis is "
				 "damaged, left out",
				 name);
		else
			set(s, name, name_len, &ns, n_sub);
	}
}

/*
 * Takes over what Redis lists. @told: only if it is the store that was last
 * told of ours: a new one is empty until the heartbeat has noticed.
 */
static int fetch_all(struct meta *m, enum redis_wait wait, int64_t deadline,
		     bool told)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	struct namespaces *s = m->namespaces;
	const struct redis_reply *list;
	uint64_t store, version;
	int err;

	meta_fcall(&c, "ns_list", 3);
	meta_cmd_key(&c, m, "n", "store");
	meta_cmd_key(&c, m, "n", "ns");
	meta_cmd_key(&c, m, "n", "nsv");
	err = call(m, wait, "n", deadline, &c, &reply);
	if (err)
		return err;
	list = redis_reply_at(reply, 1);
	if (redis_reply_uint(redis_reply_at(reply, 0), &store) || !list ||
	    redis_reply_uint(redis_reply_at(reply, 2), &version))
		return -EPROTO;
	if (told && store != meta_node_told_store(m))
		return 0;
	pthread_mutex_lock(&s->lock);
	forget_all(s);
	list_take(s, list);
	s->version = version;
	pthread_mutex_unlock(&s->lock);
	file_store(m);
	return 0;
}

/* A copy of the list, to walk without the lock. */
static struct entry *copy_all(struct namespaces *s, size_t *count)
{
	struct entry *all;
	size_t n = 0;

	scoped_lock(&s->lock);
	list_for_each (l, &s->entries)
		n++;
	all = calloc(n + 1, sizeof(*all));
	*count = 0;
	if (!all)
		return NULL;
	list_for_each (l, &s->entries)
		all[(*count)++] = *container_of(l, struct entry, link);
	return all;
}

int meta_namespace_store_changed(struct meta *m)
{
	cleanup_free struct entry *all = NULL;
	size_t count;

	m->namespaces->told = UINT64_MAX; /* its versions are others */
	all = copy_all(m->namespaces, &count);
	if (!all)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		int r = record_put(m, REDIS_TRY, 0, all[i].name, &all[i].ns,
				   all[i].n_sub, true);

		if (r < 0)
			return r;
	}
	return fetch_all(m, REDIS_TRY, 0, false);
}

/* --- for the other parts ----------------------------------------------- */

static uint64_t known_version(struct namespaces *s)
{
	scoped_lock(&s->lock);
	return s->version;
}

int meta_namespace_heard(struct meta *m, uint64_t version, int64_t deadline)
{
	struct namespaces *s = m->namespaces;

	if (version == known_version(s))
		return 0;
	return fetch_all(m, REDIS_TRY, deadline, true);
}

void meta_namespace_tell(struct meta *m)
{
	cleanup_free struct entry *all = NULL;
	struct namespaces *s = m->namespaces;
	uint64_t version = known_version(s);
	size_t count;

	if (version == s->told || !m->kv_ops || !m->kv_ops->namespace)
		return;
	all = copy_all(s, &count);
	if (!all)
		return;
	for (size_t i = 0; i < count; i++)
		m->kv_ops->namespace(m->kv_ctx, all[i].name, &all[i].ns);
	s->told = version;
}

int meta_namespace_open(struct meta *m)
{
	struct namespaces *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->file_lock, NULL);
	list_init(&s->entries);
	m->namespaces = s;
	if (asprintf(&s->path, "%s/namespaces", m->state_dir) < 0) {
		s->path = NULL;
		return -ENOMEM;
	}
	if (file_load(s) != meta_node_store_id(m))
		return meta_namespace_store_changed(m);
	return fetch_all(m, REDIS_TRY, 0, false);
}

void meta_namespace_close(struct meta *m)
{
	struct namespaces *s = m->namespaces;

	if (!s)
		return;
	forget_all(s);
	free(s->path);
	free(s->file);
	pthread_mutex_destroy(&s->file_lock);
	pthread_mutex_destroy(&s->lock);
	free(s);
	m->namespaces = NULL;
}

static uint32_t subs_known(struct namespaces *s, const char *name, size_t len)
{
	struct entry *e;

	scoped_lock(&s->lock);
	e = find(s, name, len);
	return e ? e->n_sub : 0;
}

uint32_t meta_namespace_subs_known(struct meta *m, const char *name, size_t len)
{
	return subs_known(m->namespaces, name, len);
}

int meta_namespace_learn(struct meta *m, int64_t deadline)
{
	return fetch_all(m, REDIS_TRY, deadline, true);
}

int meta_namespace_subs(struct meta *m, const char *name, size_t len,
			bool create)
{
	struct meta_namespace ns = {.mode = 040755, .checksum = true};
	uint32_t n_sub = subs_known(m->namespaces, name, len);
	char text[RECORD_NAME_MAX + 1];
	int r;

	if (n_sub)
		return (int)n_sub;
	if (!record_ns_name_good(name, len))
		return -EINVAL;
	memcpy(text, name, len);
	text[len] = '\0';
	r = create ? record_put(m, REDIS_TRY, 0, text, &ns, NAMESPACE_SUBS,
				true)
		   : 0;
	r = r < 0 ? r : fetch_all(m, REDIS_TRY, 0, true);
	if (r < 0)
		return r;
	n_sub = subs_known(m->namespaces, name, len);
	return n_sub ? (int)n_sub : -ENOENT;
}

void meta_namespace_names(struct meta *m,
			  void (*fn)(void *arg, const char *name,
				     uint32_t n_sub),
			  void *arg)
{
	cleanup_free struct entry *all = NULL;
	size_t count;

	all = copy_all(m->namespaces, &count);
	for (size_t i = 0; i < count; i++)
		fn(arg, all[i].name, all[i].n_sub);
}

/* kv.h's errors: whatever kept Redis from answering is EIO. */
static int public_err(int err)
{
	return err == -ENOMEM || err == -EINVAL || err == -ENOSPC ? err : -EIO;
}

int meta_namespace_put(struct meta *m, int64_t deadline, const char *name,
		       const struct meta_namespace *ns, bool create)
{
	struct namespaces *s = m->namespaces;
	size_t len = strlen(name);
	uint32_t n_sub;
	int r;

	if (!record_ns_name_good(name, len))
		return -EINVAL;
	n_sub = subs_known(s, name, len);
	if (!n_sub)
		n_sub = NAMESPACE_SUBS;
	deadline = meta_deadline(m, deadline);
	r = record_put(m, REDIS_WAIT, deadline, name, ns, n_sub, create);
	if (r < 0)
		return public_err(r);
	if (!r) {
		/* another node's: learn of it */
		fetch_all(m, REDIS_WAIT, deadline, true);
		return -EEXIST;
	}
	pthread_mutex_lock(&s->lock);
	r = set(s, name, len, ns, n_sub);
	pthread_mutex_unlock(&s->lock);
	file_store(m);
	return r;
}

/* UNLINK, not DEL: freeing a million fields would stall Redis for 0.9 s. */
static int keys_remove(struct meta *m, int64_t deadline, const char *name,
		       uint32_t n_sub)
{
	char tag[KEY_TAG_MAX];

	for (uint32_t g = 0; g < KEY_GROUPS; g++) {
		redis_reply_auto struct redis_reply *reply = NULL;
		redis_cmd_auto struct redis_cmd c = {0};
		int err;

		key_tag_kv(tag, name, strlen(name), g);
		redis_cmd_str(&c, "UNLINK");
		for (uint32_t s = 0; s < n_sub; s++)
			meta_cmd_key(&c, m, tag, "b%u", s);
		meta_cmd_key(&c, m, tag, "t");
		meta_cmd_key(&c, m, tag, "x");
		err = call(m, REDIS_WAIT, tag, deadline, &c, &reply);
		if (err)
			return err;
	}
	return 0;
}

int meta_namespace_remove(struct meta *m, int64_t deadline, const char *name)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	struct namespaces *s = m->namespaces;
	uint32_t n_sub = subs_known(s, name, strlen(name));
	int64_t removed = 0;
	int err;

	deadline = meta_deadline(m, deadline);
	err = keys_remove(m, deadline, name, n_sub ? n_sub : NAMESPACE_SUBS);
	add_name(&c, m, "ns_remove", name);
	err = err ? err : call(m, REDIS_WAIT, "n", deadline, &c, &reply);
	err = err ? err : redis_reply_int(reply, &removed);
	if (err)
		return public_err(err);
	pthread_mutex_lock(&s->lock);
	forget(s, name);
	pthread_mutex_unlock(&s->lock);
	file_store(m);
	return removed ? 0 : -ENOENT;
}

int meta_namespace_each(struct meta *m, int64_t deadline,
			void (*fn)(void *arg, const char *name,
				   const struct meta_namespace *ns),
			void *arg)
{
	cleanup_free struct entry *all = NULL;
	size_t count;
	int err = fetch_all(m, REDIS_WAIT, deadline, true);

	if (err)
		return public_err(err);
	all = copy_all(m->namespaces, &count);
	if (!all)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		fn(arg, all[i].name, &all[i].ns);
	return 0;
}

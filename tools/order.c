// SPDX-License-Identifier: MIT
#include "tools/order.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/cleanup.h"
#include "base/list.h"
#include "tools/json.h"
#include "tools/mountinfo.h"
#include "tools/progress.h"
#include "tools/property.h"
#include "tools/term.h"
#include "tools/verb.h"
#include "tools/walk.h"

#define QUEUE_MAX 1024
#define HOLDERS_BYTES 65536
#define COPIES_STEP_MS 100 /* to ask again whether they are there */

struct item {
	struct list list;
	char path[];
};

struct pool {
	struct order *o;
	pthread_mutex_t lock; /* guards all below and the order's results */
	pthread_cond_t some, room;
	struct list queue;
	unsigned n_queued;
	bool walked;
	struct progress progress;
};

int order_set(const char *path, const char *name, const char *value)
{
	char full[64];

	snprintf(full, sizeof(full), "user.kvfs.%s", name);
	return lsetxattr(path, full, value, strlen(value), 0) ? -errno : 0;
}

bool order_is_checkpoint(const char *path)
{
	char value[32];

	return property_get(path, "version", value, sizeof(value)) > 0;
}

int order_fetch(const char *path)
{
	char value[32];
	ssize_t n = property_get(path, "state", value, sizeof(value));

	if (n < 0)
		return (int)n;
	if (strcmp(value, "remote") && strcmp(value, "partial"))
		return -EALREADY;
	n = property_get(path, "fetch", value, sizeof(value));
	return n < 0 ? (int)n : 0;
}

static unsigned n_holders(const char *path)
{
	char value[HOLDERS_BYTES];
	unsigned n = 0;

	if (property_get(path, "holders", value, sizeof(value)) <= 0)
		return 0;
	for (const char *p = value; p; p = strchr(p + 1, ' '))
		n++;
	return n;
}

int order_copies(const char *path, uint64_t copies)
{
	unsigned before = n_holders(path);
	bool waited = false;
	char value[24];
	int rc;

	snprintf(value, sizeof(value), "%" PRIu64, copies);
	while ((rc = order_set(path, "copies", value)) == -EINPROGRESS) {
		waited = true;
		poll(NULL, 0, COPIES_STEP_MS);
	}
	return !rc && !waited && n_holders(path) == before ? -EALREADY : rc;
}

/* -- what is said of one ------------------------------------------------ */

static const char *result_of(int rc)
{
	return !rc ? "done" : rc == -EALREADY ? "nothing" : "failed";
}

static const char *why(int rc)
{
	if (rc == -EBUSY)
		return "not enough other nodes could take it";
	if (rc == -ENOENT || rc == -ESTALE || rc == -ENODATA)
		return "no node has it";
	if (rc == -ETXTBSY)
		return "it is being written";
	return strerror(-rc);
}

static void put_json(const char *path, int rc)
{
	json_t *json = json_pack("{s:o, s:s}", "path", json_name(path),
				 "result", result_of(rc));

	if (rc && rc != -EALREADY)
		json_object_set_new(json, "why", json_string(why(rc)));
	json_put_line(json);
}

/* Lock held. */
static void note(struct pool *p, const char *path, int rc)
{
	struct order *o = p->o;
	char shown[PATH_MAX];

	o->n_done += rc == 0;
	o->n_nothing += rc == -EALREADY;
	o->n_failed += rc && rc != -EALREADY;
	if (o->json)
		put_json(path, rc);
	if (rc && rc != -EALREADY && !o->json) {
		progress_clear(&p->progress);
		verb_fail(EXIT_NEGATIVE, "%s: %s",
			  term_printable(path, shown, sizeof(shown)), why(rc));
	}
	progress_update(&p->progress, o->n_done + o->n_nothing + o->n_failed);
}

/* -- the threads -------------------------------------------------------- */

static struct item *next(struct pool *p)
{
	struct list *l;
	scoped_lock(&p->lock);

	while (!(l = list_pop_front(&p->queue))) {
		if (p->walked)
			return NULL;
		pthread_cond_wait(&p->some, &p->lock);
	}
	p->n_queued--;
	pthread_cond_signal(&p->room);
	return container_of(l, struct item, list);
}

static void *work(void *arg)
{
	struct pool *p = arg;
	struct item *i;

	while ((i = next(p))) {
		int rc = p->o->act(p->o, i->path);

		pthread_mutex_lock(&p->lock);
		note(p, i->path, rc);
		pthread_mutex_unlock(&p->lock);
		free(i);
	}
	return NULL;
}

static void enqueue(struct pool *p, const char *path)
{
	size_t n = strlen(path) + 1;
	struct item *i = malloc(sizeof(*i) + n);
	scoped_lock(&p->lock);

	if (!i) {
		note(p, path, -ENOMEM);
		return;
	}
	memcpy(i->path, path, n);
	while (p->n_queued == QUEUE_MAX)
		pthread_cond_wait(&p->room, &p->lock);
	list_push_back(&p->queue, &i->list);
	p->n_queued++;
	pthread_cond_signal(&p->some);
}

static bool found(void *arg, const struct walk_entry *e)
{
	struct pool *p = arg;

	if (e->err) {
		pthread_mutex_lock(&p->lock);
		note(p, e->path, e->err);
		pthread_mutex_unlock(&p->lock);
	} else if (e->type == DT_REG) {
		enqueue(p, e->path);
	}
	return true;
}

static void run(struct pool *p, char **paths)
{
	pthread_t threads[ORDER_THREADS];
	unsigned n = 0;

	while (n < ORDER_THREADS && !pthread_create(&threads[n], NULL, work, p))
		n++;
	for (; *paths; paths++)
		walk(*paths, p->o->recursive, found, p);
	pthread_mutex_lock(&p->lock);
	p->walked = true;
	pthread_cond_broadcast(&p->some);
	pthread_mutex_unlock(&p->lock);
	while (n)
		pthread_join(threads[--n], NULL);
}

static bool count_one(void *arg, const struct walk_entry *e)
{
	uint64_t *n = arg;

	*n += e->err || e->type == DT_REG;
	return true;
}

/* Listing is cheap beside what is done to each. */
static uint64_t count(const struct order *o, char **paths)
{
	uint64_t n = 0;

	for (; *paths; paths++)
		walk(*paths, o->recursive, count_one, &n);
	return n;
}

static int check(char **paths)
{
	struct mount_entry m;
	int status = EXIT_FINE;

	for (; *paths && !status; paths++)
		status = verb_mount_of(*paths, &m);
	return status;
}

int order_run(struct order *o, char **paths)
{
	struct pool p = {.o = o,
			 .lock = PTHREAD_MUTEX_INITIALIZER,
			 .some = PTHREAD_COND_INITIALIZER,
			 .room = PTHREAD_COND_INITIALIZER};
	int status = check(paths);

	if (status)
		return status;
	list_init(&p.queue);
	progress_start(&p.progress, o->label, 0, PROGRESS_COUNT);
	if (p.progress.enabled)
		p.progress.total = count(o, paths);
	run(&p, paths);
	progress_finish(&p.progress);
	if (!o->json && !o->quiet) {
		printf("%" PRIu64 " %s", o->n_done, o->verb);
		if (o->n_nothing)
			printf(", %" PRIu64 " needed nothing", o->n_nothing);
		if (o->n_failed)
			printf(", %" PRIu64 " failed", o->n_failed);
		putchar('\n');
	}
	return o->n_failed ? EXIT_NEGATIVE : EXIT_FINE;
}

#define AT(member) offsetof(struct order_args, member)

const struct option_spec order_options[] = {
	{"recursive", 'r', OPTION_FLAG, AT(recursive), NULL,
	 "all that lies below a directory"},
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "one JSON object a line for each file"},
	{"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "no summary"},
	{}};

int order_simple(const struct order_args *a, char **paths, const char *verb,
		 const char *label,
		 int (*act)(const struct order *o, const char *path))
{
	struct order o = {.verb = verb,
			  .label = label,
			  .json = a->json,
			  .quiet = a->quiet,
			  .recursive = a->recursive,
			  .act = act};

	return order_run(&o, paths);
}

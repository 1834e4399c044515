// SPDX-License-Identifier: MIT
#include "engine/local.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"

#define N_THREADS 2

struct transport {
	struct engine *engine;
	pthread_mutex_t lock; /* guards all below but threads */
	pthread_cond_t some;
	struct list slices;
	bool stop;
	uint32_t n_threads;
	pthread_t threads[N_THREADS];
};

/* By system calls where a file is involved: a mapping of one that was cut
 * short then answers EFAULT instead of killing us. */
static ssize_t copy_some(const struct engine_slice *s, uint32_t at)
{
	const struct engine_place *from = &s->from, *to = &s->to;
	uint32_t left = s->length_bytes - at;

	if (to->fd >= 0)
		return pwrite(to->fd, (const char *)from->addr + at, left,
			      (off_t)(to->offset + at));
	if (from->fd >= 0)
		return pread(from->fd, (char *)to->addr + at, left,
			     (off_t)(from->offset + at));
	memmove((char *)to->addr + at, (const char *)from->addr + at, left);
	return left;
}

static int copy(const struct engine_slice *s)
{
	ssize_t n;

	if (fault_hit("local.copy"))
		return -EIO;
	for (uint32_t at = 0; at < s->length_bytes; at += (uint32_t)n) {
		n = copy_some(s, at);
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n < 0)
			return -errno;
		else if (n == 0)
			return -EIO; /* the file is shorter than its region */
	}
	return 0;
}

static struct engine_slice *next(struct transport *t)
{
	scoped_lock(&t->lock);
	struct list *l;

	while (!(l = list_pop_front(&t->slices))) {
		if (t->stop)
			return NULL;
		pthread_cond_wait(&t->some, &t->lock);
	}
	return container_of(l, struct engine_slice, link);
}

static void *worker(void *arg)
{
	struct transport *t = arg;
	struct engine_slice *s;

	pthread_setname_np(pthread_self(), "kvfs-copy");
	while ((s = next(t))) {
		int err = s->transport_data ? -ECANCELED : copy(s);

		engine_slice_done(t->engine, NULL, s, err, true);
	}
	return NULL;
}

static void local_close(struct transport *t)
{
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_broadcast(&t->some);
	pthread_mutex_unlock(&t->lock);
	for (uint32_t i = 0; i < t->n_threads; i++)
		pthread_join(t->threads[i], NULL);
	pthread_cond_destroy(&t->some);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static int local_open(struct transport **out, const struct transport_config *c)
{
	struct transport *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->engine = c->engine;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->some, NULL);
	list_init(&t->slices);
	for (; t->n_threads < N_THREADS; t->n_threads++) {
		int err = pthread_create(&t->threads[t->n_threads], NULL,
					 worker, t);

		if (err) {
			local_close(t);
			return -err;
		}
	}
	*out = t;
	return 0;
}

static int local_submit(struct transport *t, struct engine_link *link,
			struct engine_slice *s)
{
	scoped_lock(&t->lock);

	(void)link;
	list_push_back(&t->slices, &s->link);
	pthread_cond_signal(&t->some);
	return 0;
}

static void local_cancel(struct transport *t, struct engine_link *link,
			 struct engine_slice *s)
{
	scoped_lock(&t->lock);

	(void)link;
	list_for_each (l, &t->slices)
		if (container_of(l, struct engine_slice, link) == s)
			s->transport_data = t;
}

const struct transport_ops transport_local = {
	.name = "local",
	.slice_bytes = 1u << 20,
	.window_bytes = 16u << 20,
	.window_slices = 16,
	.links = 1,
	.open = local_open,
	.close = local_close,
	.submit = local_submit,
	.cancel = local_cancel,
};

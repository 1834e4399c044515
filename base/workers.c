// SPDX-License-Identifier: MIT
#include "base/workers.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#define LINGER_US 2000

struct workers {
	pthread_mutex_t lock; /* guards all below but threads */
	pthread_cond_t some;  /* a job was queued, or stop was set */
	pthread_cond_t idle;  /* pending came down to 0 */
	struct list jobs;
	unsigned pending; /* queued and running */
	bool stop;
	char name[16];
	int nice;
	unsigned n_threads;
	pthread_t threads[];
};

/*
 * A thread that gives way was woken on the CPU of who posted, often, and would
 * run there before him. A moment later it finds a CPU of its own.
 */
static void linger(struct workers *w)
{
	pthread_mutex_unlock(&w->lock);
	usleep(LINGER_US);
	pthread_mutex_lock(&w->lock);
}

static struct job *next_job(struct workers *w)
{
	scoped_lock(&w->lock);
	struct list *l;

	while (!(l = list_pop_front(&w->jobs))) {
		if (w->stop)
			return NULL;
		pthread_cond_wait(&w->some, &w->lock);
		if (w->nice && !w->stop)
			linger(w);
	}
	return container_of(l, struct job, link);
}

static void job_done(struct workers *w)
{
	scoped_lock(&w->lock);

	if (--w->pending == 0)
		pthread_cond_broadcast(&w->idle);
}

static void *worker(void *arg)
{
	struct workers *w = arg;
	struct job *job;

	pthread_setname_np(pthread_self(), w->name);
	if (w->nice)
		setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), w->nice);
	while ((job = next_job(w))) {
		job->run(job);
		job_done(w);
	}
	return NULL;
}

int workers_open(struct workers **out, const char *name, unsigned n, int nice)
{
	struct workers *w = calloc(1, sizeof(*w) + n * sizeof(w->threads[0]));
	int err;

	if (!w)
		return -ENOMEM;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->some, NULL);
	pthread_cond_init(&w->idle, NULL);
	list_init(&w->jobs);
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->nice = nice;
	for (; w->n_threads < n; w->n_threads++) {
		err = pthread_create(&w->threads[w->n_threads], NULL, worker,
				     w);
		if (err) {
			workers_close(w);
			return -err;
		}
	}
	*out = w;
	return 0;
}

void workers_post(struct workers *w, struct job *job)
{
	scoped_lock(&w->lock);

	list_push_back(&w->jobs, &job->link);
	w->pending++;
	pthread_cond_signal(&w->some);
}

void workers_drain(struct workers *w)
{
	scoped_lock(&w->lock);

	while (w->pending)
		pthread_cond_wait(&w->idle, &w->lock);
}

void workers_close(struct workers *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->some);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
	pthread_cond_destroy(&w->some);
	pthread_cond_destroy(&w->idle);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

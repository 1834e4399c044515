// SPDX-License-Identifier: MIT
#include "meta/redis.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/fault.h"
#include "base/log.h"
#include "meta/redis_impl.h"

#define CLOSE_NS (2 * NS_PER_S)

/* --- callers ----------------------------------------------------------- */

static int wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t when)
{
	struct timespec t = clock_timespec(when);

	return pthread_cond_timedwait(cond, lock, &t);
}

static int wait_up(struct redis *r, enum redis_wait wait, int64_t deadline)
{
	while (!r->up) {
		if (r->stop)
			return -ESHUTDOWN;
		if (wait == REDIS_TRY)
			return -ENOTCONN;
		fault_pass("redis.wait");
		if (wait_until(&r->changed, &r->lock, deadline) == ETIMEDOUT)
			return r->up ? 0 : -ENOTCONN;
	}
	return r->stop ? -ESHUTDOWN : 0;
}

static int wait_reply(struct redis *r, struct call *call, struct waiter *w,
		      int64_t deadline)
{
	while (!w->done) {
		if (wait_until(&w->cond, &r->lock, deadline) != ETIMEDOUT)
			continue;
		if (w->done)
			break;
		call->waiter = NULL; /* its late reply is dropped in turn */
		atomic_fetch_add(&r->n_timeouts, 1);
		redis_breaker_open(r);
		return -ETIMEDOUT;
	}
	return w->err;
}

int redis_call(struct redis *r, enum redis_wait wait, int64_t deadline,
	       const struct redis_cmd *cmd, struct redis_reply **reply)
{
	cleanup_free char *bytes = NULL;
	struct waiter w = {.done = false};
	struct call *call;
	size_t n;
	int err = resp_format(cmd, &bytes, &n);

	if (err)
		return err;
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	cond_init(&w.cond);
	call->waiter = &w;
	pthread_mutex_lock(&r->lock);
	err = wait_up(r, wait, deadline);
	if (!err && clock_now_ns() >= deadline)
		err = -ETIMEDOUT; /* which says nothing about Redis */
	err = err ? err : redis_push(r, call, bytes, n);
	if (err)
		free(call);
	else
		err = wait_reply(r, call, &w, deadline);
	pthread_mutex_unlock(&r->lock);
	pthread_cond_destroy(&w.cond);
	if (!err)
		*reply = w.reply;
	return err;
}

int redis_send(struct redis *r, const struct redis_cmd *cmd,
	       void (*done)(void *ctx, int err, struct redis_reply *reply),
	       void *ctx)
{
	scoped_lock(&r->lock);
	if (r->stop)
		return -ESHUTDOWN;
	return r->up ? redis_push_new(r, cmd, done, ctx) : -ENOTCONN;
}

void redis_hold(struct redis *r)
{
	scoped_lock(&r->lock);
	r->held++;
}

void redis_release(struct redis *r)
{
	scoped_lock(&r->lock);
	if (--r->held || r->out_at == r->out_len)
		return;
	redis_flush(r);
	if (r->out_at < r->out_len)
		redis_wake(r);
}

void redis_suspect(struct redis *r, int64_t since)
{
	struct list *oldest;
	scoped_lock(&r->lock);

	atomic_fetch_add(&r->n_timeouts, 1);
	oldest = r->calls.next;
	if (oldest != &r->calls &&
	    container_of(oldest, struct call, link)->sent_ns <= since)
		redis_breaker_open(r);
}

bool redis_readable(struct redis *r)
{
	int n = 0;
	scoped_lock(&r->lock);

	return r->stream && !ioctl(stream_fd(r->stream), FIONREAD, &n) && n > 0;
}

bool redis_up(struct redis *r)
{
	return r->up;
}

void redis_kick(struct redis *r)
{
	scoped_lock(&r->lock);
	if (!r->stream)
		redis_wake(r);
}

void redis_run_id(struct redis *r, char buf[static 41])
{
	scoped_lock(&r->lock);
	memcpy(buf, r->dial.run_id, sizeof(r->dial.run_id));
}

int64_t redis_client_id(struct redis *r)
{
	scoped_lock(&r->lock);
	return r->stream ? r->dial.client_id : 0;
}

void redis_counts(struct redis *r, struct redis_counts *c)
{
	c->n_commands = r->n_commands;
	c->n_timeouts = r->n_timeouts;
	c->n_outages = r->n_outages;
	c->n_reconnects = r->n_reconnects;
	c->last_rtt_ns = r->last_rtt_ns;
}

/* --- open and close ---------------------------------------------------- */

void redis_unref(struct redis *r)
{
	if (atomic_fetch_sub(&r->refs, 1) != 1)
		return;
	close(r->wake_fd);
	if (r->dial.password)
		explicit_bzero(r->dial.password, strlen(r->dial.password));
	free(r->dial.password);
	free(r->dial.name);
	free(r->dial.ca_file);
	free(r->dial.cert_file);
	free(r->out);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

/* Of a text that may be NULL. */
static bool text_copy(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return *to || !from;
}

static struct redis *redis_new(const struct redis_config *c)
{
	struct redis *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->refs = 1;
	r->dial.url = *c->url;
	r->dial.library = c->library;
	r->dial.library_build = c->library_build;
	r->dial.library_fn = c->library_fn;
	r->change = c->change;
	r->ctx = c->ctx;
	list_init(&r->calls);
	pthread_mutex_init(&r->lock, NULL);
	cond_init(&r->changed);
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->dial.name = strdup(c->name);
	if (r->wake_fd >= 0 && r->dial.name &&
	    text_copy(&r->dial.password, c->password) &&
	    text_copy(&r->dial.ca_file, c->ca_file) &&
	    text_copy(&r->dial.cert_file, c->cert_file))
		return r;
	redis_unref(r);
	return NULL;
}

static int thread_start(struct redis *r)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	r->refs = 2;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &attr, redis_thread, r);
	pthread_attr_destroy(&attr);
	if (err)
		r->refs = 1;
	else
		pthread_setname_np(thread, "redis");
	return -err;
}

/* What trying again would not mend. */
static bool is_final(int err)
{
	return err == -EACCES || err == -EPROTONOSUPPORT || err == -EINVAL;
}

static int wait_first(struct redis *r, int64_t deadline)
{
	scoped_lock(&r->lock);
	while (!r->up && !is_final(r->dial_err)) {
		if (wait_until(&r->changed, &r->lock, deadline) != ETIMEDOUT)
			continue;
		if (r->up)
			break;
		if (!r->dial_err)
			snprintf(r->why, sizeof(r->why), "no answer in time");
		return r->dial_err ? r->dial_err : -ETIMEDOUT;
	}
	return r->up ? 0 : r->dial_err;
}

int redis_open(struct redis **out, const struct redis_config *c,
	       int64_t deadline)
{
	struct redis *r = redis_new(c);
	char address[URL_TEXT_MAX], why[REDIS_WHY_MAX];
	int err;

	if (!r)
		return -ENOMEM;
	err = thread_start(r);
	if (err) {
		redis_unref(r);
		return err;
	}
	err = wait_first(r, deadline);
	if (!err) {
		*out = r;
		return 0;
	}
	url_format(c->url, address);
	pthread_mutex_lock(&r->lock);
	memcpy(why, r->why, sizeof(why));
	pthread_mutex_unlock(&r->lock);
	log_error("redis: %s: %s", address, why);
	redis_close(r);
	return err == -EAGAIN ? -ETIMEDOUT : err;
}

void redis_close(struct redis *r)
{
	int64_t until = clock_now_ns() + CLOSE_NS;

	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	redis_wake(r);
	pthread_cond_broadcast(&r->changed);
	/* A thread that is stuck in the resolver frees r when it is through. */
	while (!r->exited)
		if (wait_until(&r->changed, &r->lock, until) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&r->lock);
	redis_unref(r);
}

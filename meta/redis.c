// SPDX-License-Identifier: MIT
#include "meta/redis.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
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
#include "base/list.h"
#include "base/log.h"
#include "meta/redis_dial.h"
#include "meta/resp.h"
#include "meta/stream.h"

/* What may wait for Redis here; beyond it calls are refused (-EAGAIN). */
#define OUT_BYTES_MAX (16u << 20)
#define CALLS_MAX 50000u

#define SILENCE_BREAKER_NS                                                 \
	(2 * NS_PER_S)			/* asynchronous calls: no deadline \
					 */
#define SILENCE_LOST_NS (30 * NS_PER_S) /* give the connection up */
#define TOLD_AFTER_NS (500 * NS_PER_MS) /* a short pause is no outage */
#define DIAL_NS (5 * NS_PER_S)
#define PAUSE_MIN_MS 5
#define PAUSE_MAX_MS 1000
#define CLOSE_NS (2 * NS_PER_S)

/* One reply that is owed. In the queue's order, which is the wire's. */
struct call {
	struct list link;
	int64_t sent_ns;
	struct waiter *waiter; /* NULL: asynchronous, or it gave up */
	void (*done)(void *ctx, int err, struct redis_reply *reply);
	void *ctx;
};

struct waiter {
	pthread_cond_t cond;
	bool done;
	int err;
	struct redis_reply *reply;
};

struct redis {
	pthread_mutex_t lock;	/* a leaf; guards all below but the atomics */
	pthread_cond_t changed; /* up, exited */
	_Atomic unsigned refs;	/* the opener's and the thread's */
	int wake_fd;

	struct redis_dial dial; /* the thread's; client_id, run_id: lock */
	void (*change)(void *ctx, bool up, bool fresh, const char *why);
	void *ctx;

	struct stream *stream;	    /* NULL: not connected */
	struct resp_reader *reader; /* the thread's */
	char *out;
	size_t out_at, out_len, out_cap;
	struct list calls;
	unsigned n_calls;
	unsigned held; /* nothing is written meanwhile */
	bool exited;
	bool reloading; /* the library's load is in the queue */
	bool told_up;	/* what change() heard last */
	int dial_err;	/* of the last try; 0 once connected */
	char why[REDIS_WHY_MAX];
	int64_t down_ns;  /* since when the breaker is open */
	int64_t reply_ns; /* when anything came last */

	_Atomic bool up; /* the breaker is closed; written under the lock */
	_Atomic bool stop;
	_Atomic uint64_t n_commands, n_timeouts, n_reconnects;
	_Atomic int64_t last_rtt_ns;
};

/* --- the queue and the buffer; the caller holds the lock --------------- */

static void wake(struct redis *r)
{
	uint64_t one = 1;
	ssize_t n = write(r->wake_fd, &one, sizeof(one));

	(void)n; /* full: it is awake */
}

static void breaker_open(struct redis *r)
{
	if (!r->up)
		return;
	r->up = false;
	r->down_ns = clock_now_ns();
	wake(r);
}

/* As much as the socket takes now; an error is the thread's to find. */
static void flush(struct redis *r)
{
	if (r->held)
		return;
	while (r->stream && r->out_at < r->out_len) {
		long n = stream_send(r->stream, r->out + r->out_at,
				     r->out_len - r->out_at);

		if (n < 0) {
			if (n != -EAGAIN)
				stream_shutdown(r->stream);
			return;
		}
		r->out_at += (size_t)n;
	}
	r->out_at = r->out_len = 0;
}

static int out_append(struct redis *r, const char *bytes, size_t n)
{
	if (r->out_at && r->out_len + n > r->out_cap) {
		memmove(r->out, r->out + r->out_at, r->out_len - r->out_at);
		r->out_len -= r->out_at;
		r->out_at = 0;
	}
	if (r->out_len + n > r->out_cap) {
		size_t cap = r->out_len + n + (r->out_len + n) / 2;
		char *out = realloc(r->out, cap);

		if (!out)
			return -ENOMEM;
		r->out = out;
		r->out_cap = cap;
	}
	memcpy(r->out + r->out_len, bytes, n);
	r->out_len += n;
	return 0;
}

static int push(struct redis *r, struct call *call, const char *bytes, size_t n)
{
	bool was_empty = r->out_at == r->out_len;
	int err;

	if (r->n_calls >= CALLS_MAX || r->out_len - r->out_at > OUT_BYTES_MAX)
		return -EAGAIN;
	err = out_append(r, bytes, n);
	if (err)
		return err;
	call->sent_ns = clock_now_ns();
	list_push_back(&r->calls, &call->link);
	r->n_calls++;
	atomic_fetch_add_explicit(&r->n_commands, 1, memory_order_relaxed);
	if (was_empty) {
		flush(r);
		if (r->out_at < r->out_len && !r->held)
			wake(r); /* the thread goes on when there is room */
	}
	return 0;
}

static int push_new(struct redis *r, const struct redis_cmd *cmd,
		    void (*done)(void *, int, struct redis_reply *), void *ctx)
{
	cleanup_free char *bytes = NULL;
	struct call *call;
	size_t n;
	int err = resp_format(cmd, &bytes, &n);

	if (err)
		return err;
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	call->done = done;
	call->ctx = ctx;
	err = push(r, call, bytes, n);
	if (err)
		free(call);
	return err;
}

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
		if (wait == REDIS_TRY ||
		    wait_until(&r->changed, &r->lock, deadline) == ETIMEDOUT)
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
		breaker_open(r);
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
	err = err ? err : push(r, call, bytes, n);
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
	return r->up ? push_new(r, cmd, done, ctx) : -ENOTCONN;
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
	flush(r);
	if (r->out_at < r->out_len)
		wake(r);
}

void redis_suspect(struct redis *r, int64_t since)
{
	struct list *oldest;
	scoped_lock(&r->lock);

	atomic_fetch_add(&r->n_timeouts, 1);
	oldest = r->calls.next;
	if (oldest != &r->calls &&
	    container_of(oldest, struct call, link)->sent_ns <= since)
		breaker_open(r);
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
		wake(r);
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
	c->n_reconnects = r->n_reconnects;
	c->last_rtt_ns = r->last_rtt_ns;
}

/* --- the thread -------------------------------------------------------- */

static void tell(struct redis *r, bool up, bool fresh, const char *why)
{
	if (r->change && !r->stop)
		r->change(r->ctx, up, fresh, why);
}

/* Hand one reply, or the lack of it, to whom it is owed. Unlocked. */
static void complete(struct redis *r, struct call *call, int err,
		     struct redis_reply *reply)
{
	pthread_mutex_lock(&r->lock);
	if (call->waiter) {
		call->waiter->err = err;
		call->waiter->reply = reply;
		call->waiter->done = true;
		pthread_cond_signal(&call->waiter->cond);
		reply = NULL;
	}
	pthread_mutex_unlock(&r->lock);
	if (call->done)
		call->done(call->ctx, err, reply);
	redis_reply_free(reply);
	free(call);
}

static void reload_done(void *ctx, int err, struct redis_reply *reply)
{
	struct redis *r = ctx;

	pthread_mutex_lock(&r->lock);
	r->reloading = false;
	pthread_mutex_unlock(&r->lock);
	if (!err && redis_reply_type(reply) == REPLY_ERROR)
		log_error("redis: load the function library: %s",
			  redis_reply_text(reply));
}

/* FUNCTION FLUSH by somebody: load again, ahead of every later command. */
static void reload_library(struct redis *r)
{
	redis_cmd_auto struct redis_cmd c = {0};

	if (r->reloading || !r->dial.library)
		return;
	redis_dial_library(&r->dial, &c);
	r->reloading = !push_new(r, &c, reload_done, r);
}

static int reply_take(struct redis *r, struct redis_reply *reply)
{
	struct list *l;
	struct call *call;
	bool back = false;

	pthread_mutex_lock(&r->lock);
	l = list_pop_front(&r->calls);
	if (!l) {
		pthread_mutex_unlock(&r->lock);
		redis_reply_free(reply);
		return -EPROTO; /* nobody asked */
	}
	call = container_of(l, struct call, link);
	r->n_calls--;
	r->reply_ns = clock_now_ns();
	r->last_rtt_ns = r->reply_ns - call->sent_ns;
	if (!r->up) {
		r->up = true;
		pthread_cond_broadcast(&r->changed);
		back = true;
		r->told_up = true;
	}
	if (redis_reply_type(reply) == REPLY_ERROR &&
	    !strncmp(redis_reply_text(reply), "ERR Function not found", 22))
		reload_library(r);
	pthread_mutex_unlock(&r->lock);
	complete(r, call, 0, reply);
	if (back)
		tell(r, true, false, "");
	return 0;
}

static int replies_take(struct redis *r)
{
	struct redis_reply *reply;
	int err;

	for (;;) {
		err = resp_next(r->reader, &reply);
		if (err || !reply)
			return err;
		err = reply_take(r, reply);
		if (err)
			return err;
	}
}

/* Returns: 0, or why the connection is of no use any more. */
static int stream_read(struct redis *r)
{
	char buf[65536];
	int err;

	do {
		long n = stream_recv(r->stream, buf, sizeof(buf));

		if (fault_hit("meta.recv"))
			return -ECONNRESET;
		if (n == -EAGAIN)
			return 0;
		if (n <= 0)
			return n ? (int)n : -ECONNRESET;
		err = resp_feed(r->reader, buf, (size_t)n);
		err = err ? err : replies_take(r);
	} while (!err && stream_has_more(r->stream));
	return err;
}

static void wake_drain(struct redis *r)
{
	uint64_t n;
	ssize_t got = read(r->wake_fd, &n, sizeof(n));

	(void)got;
}

/* Notice silence; returns -ETIMEDOUT when the connection is to be given up. */
static int silence_check(struct redis *r)
{
	redis_cmd_auto struct redis_cmd ping = {0};
	int64_t now = clock_now_ns(), silent = 0;
	bool outage = false;

	pthread_mutex_lock(&r->lock);
	if (!list_empty(&r->calls)) {
		struct call *oldest =
			container_of(r->calls.next, struct call, link);
		int64_t since = oldest->sent_ns > r->reply_ns ? oldest->sent_ns
							      : r->reply_ns;

		silent = now - since;
		if (silent > SILENCE_BREAKER_NS)
			breaker_open(r);
	} else if (!r->up) {
		redis_cmd_str(&ping, "PING");
		push_new(r, &ping, NULL, NULL);
	}
	if (!r->up && r->told_up && now - r->down_ns > TOLD_AFTER_NS) {
		r->told_up = false;
		outage = true;
	}
	pthread_mutex_unlock(&r->lock);
	if (outage)
		tell(r, false, false, "it does not answer");
	return silent > SILENCE_LOST_NS ? -ETIMEDOUT : 0;
}

static int stream_poll(struct redis *r)
{
	struct pollfd p[2] = {{.fd = stream_fd(r->stream), .events = POLLIN},
			      {.fd = r->wake_fd, .events = POLLIN}};
	bool waiting;
	int err = 0;

	pthread_mutex_lock(&r->lock);
	if (r->out_at < r->out_len && !r->held)
		p[0].events |= POLLOUT;
	waiting = r->n_calls || !r->up;
	pthread_mutex_unlock(&r->lock);

	poll(p, 2, waiting ? 100 : 1000);
	if (p[1].revents)
		wake_drain(r);
	if (p[0].revents & POLLOUT) {
		pthread_mutex_lock(&r->lock);
		flush(r);
		pthread_mutex_unlock(&r->lock);
	}
	if (p[0].revents & ~POLLOUT)
		err = stream_read(r);
	return err ? err : silence_check(r);
}

/* End the connection; everything that was owed a reply hears of it. */
static void hang_up(struct redis *r, int err)
{
	const char *why = err == -EPROTO ? "it answered what nobody asked"
					 : strerror(-err);
	struct list owed;
	struct list *l;
	bool told;

	list_init(&owed);
	pthread_mutex_lock(&r->lock);
	stream_close(r->stream);
	r->stream = NULL;
	breaker_open(r);
	told = r->told_up;
	r->told_up = false;
	r->out_at = r->out_len = 0;
	while ((l = list_pop_front(&r->calls)))
		list_push_back(&owed, l);
	r->n_calls = 0;
	pthread_mutex_unlock(&r->lock);
	resp_reader_free(r->reader);
	r->reader = NULL;
	while ((l = list_pop_front(&owed)))
		complete(r, container_of(l, struct call, link), -ECONNRESET,
			 NULL);
	if (told)
		tell(r, false, false, why);
}

static void serve(struct redis *r)
{
	int err = 0;

	while (!r->stop && !err)
		err = stream_poll(r);
	hang_up(r, err ? err : -ESHUTDOWN);
}

/* Wait before the next try to connect; a kick ends the wait. */
static void pause_dialing(struct redis *r, int *pause_ms)
{
	struct pollfd p = {.fd = r->wake_fd, .events = POLLIN};

	poll(&p, 1, *pause_ms);
	if (p.revents) {
		wake_drain(r);
		*pause_ms = PAUSE_MIN_MS;
	} else if (*pause_ms < PAUSE_MAX_MS) {
		*pause_ms *= 2;
	}
}

static bool connect_once(struct redis *r)
{
	struct redis_dial d = r->dial;
	char why[REDIS_WHY_MAX];
	struct stream *stream = NULL;
	int err = redis_dial(&d, r->wake_fd, clock_now_ns() + DIAL_NS, &stream,
			     &r->reader, why);

	pthread_mutex_lock(&r->lock);
	if (err != -ESHUTDOWN)
		r->dial_err = err;
	if (err) {
		memcpy(r->why, why, sizeof(why));
	} else {
		if (r->dial.client_id)
			r->n_reconnects++;
		r->dial = d;
		r->stream = stream;
		r->reloading = false;
		r->up = true;
		r->told_up = true;
		r->reply_ns = clock_now_ns();
	}
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	if (!err)
		tell(r, true, true, "");
	return !err;
}

static void unref(struct redis *r)
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

static void *redis_thread(void *arg)
{
	struct redis *r = arg;
	int pause_ms = PAUSE_MIN_MS;

	while (wake_drain(r), !r->stop) {
		if (connect_once(r)) {
			pause_ms = PAUSE_MIN_MS;
			serve(r);
		} else {
			pause_dialing(r, &pause_ms);
		}
	}
	pthread_mutex_lock(&r->lock);
	r->exited = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	unref(r);
	return NULL;
}

/* --- open and close ---------------------------------------------------- */

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
	unref(r);
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
		unref(r);
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
	wake(r);
	pthread_cond_broadcast(&r->changed);
	/* A thread that is stuck in the resolver frees r when it is through. */
	while (!r->exited)
		if (wait_until(&r->changed, &r->lock, until) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&r->lock);
	unref(r);
}

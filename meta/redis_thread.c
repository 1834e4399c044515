// SPDX-License-Identifier: MIT
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "meta/redis_impl.h"

/* A connection's thread: connects, hands each reply to whom it is owed, and
 * notices when none comes. */

/* Of asynchronous calls, which have no deadline. */
#define SILENCE_BREAKER_NS (2 * NS_PER_S)
#define SILENCE_LOST_NS (30 * NS_PER_S) /* give the connection up */
#define TOLD_AFTER_NS (500 * NS_PER_MS) /* a short pause is no outage */
#define DIAL_NS (5 * NS_PER_S)
#define PAUSE_MIN_MS 5
#define PAUSE_MAX_MS 1000

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
	r->reloading = !redis_push_new(r, &c, reload_done, r);
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
			redis_breaker_open(r);
	} else if (!r->up) {
		redis_cmd_str(&ping, "PING");
		redis_push_new(r, &ping, NULL, NULL);
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
		redis_flush(r);
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
	redis_breaker_open(r);
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

void *redis_thread(void *arg)
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
	redis_unref(r);
	return NULL;
}

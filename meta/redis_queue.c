// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "meta/redis_impl.h"

/* Commands on their way out, and the calls that are owed their replies. */

/* What may wait for Redis here; beyond it calls are refused (-EAGAIN). */
#define OUT_BYTES_MAX (16u << 20)
#define CALLS_MAX 50000u

void redis_wake(struct redis *r)
{
	uint64_t one = 1;
	ssize_t n = write(r->wake_fd, &one, sizeof(one));

	(void)n; /* full: it is awake */
}

void redis_breaker_open(struct redis *r)
{
	if (!r->up)
		return;
	r->up = false;
	r->n_outages++;
	r->down_ns = clock_now_ns();
	redis_wake(r);
}

/* As much as the socket takes now; an error is the thread's to find. */
void redis_flush(struct redis *r)
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

int redis_push(struct redis *r, struct call *call, const char *bytes, size_t n)
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
		redis_flush(r);
		if (r->out_at < r->out_len && !r->held)
			redis_wake(
				r); /* the thread goes on when there is room */
	}
	return 0;
}

int redis_push_new(struct redis *r, const struct redis_cmd *cmd,
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
	err = redis_push(r, call, bytes, n);
	if (err)
		free(call);
	return err;
}

// SPDX-License-Identifier: MIT
#include "fs/ckpt_fetch_part.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "fs/ckpt_buf.h"
#include "fs/fs.h"
#include "fs/remote.h"

/*
 * A part lives until three have let go of it: who waits, the call, and the
 * grant. The last one removes the region, and only then the buffer is freed.
 * Nothing in here leads to the checkpoint's structures: a part that a stopped
 * holder keeps alive outlives them, up to the end of the engine.
 */

#define PENDING 1
#define QUARANTINE_MAX (256ull << 20)

struct cpart {
	struct remote *r;
	pthread_mutex_t lock; /* guards all to the empty line */
	pthread_cond_t some;
	unsigned refs;
	int call_status, grant_status; /* PENDING, 0 or -errno */
	bool quarantined;
	struct engine_grant *grant; /* NULL once it is over */
	uint8_t sum[16];

	struct engine_call call;
	uint64_t length_bytes; /* 0: the sum is asked for */
	uint64_t region;
	bool has_region;
	int64_t deadline;
	void *buf;
};

static void part_free(void *ctx)
{
	struct cpart *p = ctx;

	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->some);
	cbuf_put(p->buf);
	free(p);
}

static void part_drop(struct cpart *p)
{
	bool last;

	pthread_mutex_lock(&p->lock);
	last = --p->refs == 0;
	pthread_mutex_unlock(&p->lock);
	if (!last)
		return;
	if (p->has_region)
		engine_region_remove(p->r->engine, p->region, part_free, p);
	else
		part_free(p);
}

static void answered(struct engine_call *call, int status, const void *reply,
		     uint32_t reply_bytes)
{
	struct cpart *p = container_of(call, struct cpart, call);

	pthread_mutex_lock(&p->lock);
	if (!status && !p->length_bytes) {
		if (reply_bytes == sizeof(p->sum))
			memcpy(p->sum, reply, sizeof(p->sum));
		else
			status = -EPROTO;
	}
	p->call_status = status > 0 ? -EPROTO : status;
	pthread_cond_signal(&p->some);
	pthread_mutex_unlock(&p->lock);
	part_drop(p);
}

static void arrived(void *ctx, int status)
{
	struct cpart *p = ctx;

	pthread_mutex_lock(&p->lock);
	p->grant = NULL;
	p->grant_status = status;
	if (p->quarantined)
		atomic_fetch_sub(&p->r->fs->counters.shard_quarantined_bytes,
				 p->length_bytes);
	pthread_cond_signal(&p->some);
	pthread_mutex_unlock(&p->lock);
	part_drop(p);
}

static const struct engine_grant_ops grant_ops = {.done = arrived};

static struct cpart *part_new(struct remote *r, uint64_t length_bytes,
			      int64_t deadline)
{
	struct cpart *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->buf = length_bytes ? cbuf_get() : NULL;
	if (length_bytes && !p->buf) {
		free(p);
		return NULL;
	}
	p->r = r;
	p->refs = 1;
	p->length_bytes = length_bytes;
	p->deadline = deadline;
	pthread_mutex_init(&p->lock, NULL);
	cond_init(&p->some);
	return p;
}

static int open_grant(struct cpart *p, struct engine_peer *peer,
		      struct engine_segment *segment)
{
	struct engine_mem mem = {.kind = ENGINE_MEM_HOST,
				 .addr = p->buf,
				 .length_bytes = p->length_bytes};
	int err = engine_region_add(p->r->engine, &mem, &p->region);

	if (err)
		return err;
	p->has_region = true;
	/* It may be over before this returns: its end must find the handle
	 * written, or it would be written after it is void. */
	scoped_lock(&p->lock);
	p->refs++;
	p->grant_status = PENDING;
	err = engine_grant_open(peer, p->region, 0, p->length_bytes,
				p->deadline, &grant_ops, p, &p->grant, segment);
	if (err) {
		p->refs--;
		p->grant_status = err;
	}
	return err;
}

static int start_call(struct cpart *p, struct engine_peer *peer, uint16_t type,
		      const struct cwire_ask *ask)
{
	uint8_t bytes[CWIRE_BYTES];
	int err;

	cwire_encode(ask, bytes);
	p->call = (struct engine_call){
		.type = type,
		.payload = bytes,
		.payload_bytes = sizeof(bytes),
		.deadline_ns = p->deadline,
		.done = answered,
	};
	pthread_mutex_lock(&p->lock);
	p->refs++;
	p->call_status = PENDING;
	pthread_mutex_unlock(&p->lock);
	err = engine_call_start(peer, &p->call);
	if (!err)
		return 0;
	pthread_mutex_lock(&p->lock);
	p->refs--;
	p->call_status = err;
	pthread_mutex_unlock(&p->lock);
	return err;
}

int cpart_start(struct remote *r, struct engine_peer *peer,
		const struct cwire_ask *ask, int64_t deadline,
		struct cpart **part)
{
	struct cwire_ask a = *ask;
	struct cpart *p;
	int err;

	/* One that is stopped in the middle keeps buffers. */
	if (remote_holds_too_much(
		    peer, atomic_load(&r->fs->counters.shard_quarantined_bytes),
		    QUARANTINE_MAX))
		return -EBUSY;
	p = part_new(r, ask->length_bytes, deadline);
	if (!p)
		return -ENOMEM;
	err = open_grant(p, peer, &a.segment);
	if (!err)
		err = start_call(p, peer, REMOTE_SHARD, &a);
	if (err)
		cpart_put(p);
	else
		*part = p;
	return err;
}

int cpart_sum_start(struct remote *r, struct engine_peer *peer,
		    const struct cwire_ask *ask, int64_t deadline,
		    struct cpart **part)
{
	struct cpart *p = part_new(r, 0, deadline);
	int err = p ? start_call(p, peer, REMOTE_SHARD_SUM, ask) : -ENOMEM;

	if (err && p)
		cpart_put(p);
	else if (!err)
		*part = p;
	return err;
}

/* What it came to, or PENDING; lock held. The grant counts its bytes, so once
 * it is complete the answer need not be waited for. */
static int outcome(const struct cpart *p)
{
	if (p->length_bytes && p->grant_status != PENDING)
		return p->grant_status;
	if (p->call_status < 0)
		return p->call_status;
	return p->length_bytes ? PENDING : p->call_status;
}

int cpart_wait(struct cpart *p, int64_t patience_ns)
{
	int64_t until = clock_now_ns() + patience_ns;
	uint64_t seen = 0, at_bytes;
	struct timespec at;
	int status;
	scoped_lock(&p->lock);

	while ((status = outcome(p)) == PENDING) {
		at = clock_timespec(until < p->deadline ? until : p->deadline);
		if (!pthread_cond_timedwait(&p->some, &p->lock, &at))
			continue;
		at_bytes = p->grant ? engine_grant_progress(p->grant) : 0;
		status = outcome(p);
		if (status == PENDING && at_bytes > seen &&
		    clock_now_ns() < p->deadline) {
			seen = at_bytes;
			until = clock_now_ns() + patience_ns;
			continue;
		}
		return status == PENDING ? -ETIMEDOUT : status;
	}
	return status;
}

const void *cpart_bytes(const struct cpart *p)
{
	return p->length_bytes ? p->buf : p->sum;
}

uint64_t cpart_length(const struct cpart *p)
{
	return p->length_bytes;
}

void cpart_put(struct cpart *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	if (p->grant) {
		p->quarantined = true;
		atomic_fetch_add(&p->r->fs->counters.shard_quarantined_bytes,
				 p->length_bytes);
		engine_grant_close(p->grant);
	}
	if (p->call_status == PENDING)
		engine_call_cancel(p->r->engine, &p->call);
	pthread_mutex_unlock(&p->lock);
	part_drop(p);
}

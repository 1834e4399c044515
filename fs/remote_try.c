// SPDX-License-Identifier: MIT
#include "fs/remote_try.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "engine/checksum.h"
#include "fs/kv.h"

/*
 * The try lives until three have let go of it: the fetcher, the call, and the
 * grant. The last one removes the region, and only then the descriptor is
 * closed and the frame goes back, unless it became a block. So a holder that
 * was given up on may wake up and write as late as it likes.
 */

#define PENDING 1
#define QUARANTINE_SHARE 20	   /* a twentieth of the pool */
#define SLOWEST_BYTES_S (64 << 20) /* where no rate was measured yet */
#define MAP_BYTES (512u << 10)	   /* below it a copy is cheaper */
#define PATIENCE_NS (250 * NS_PER_MS)

struct
try {
	struct remote *r;
	pthread_mutex_t lock; /* guards the rest but fd and what is written
				 before the grant is open */
	pthread_cond_t some;
	unsigned refs;
	int call_status, grant_status; /* PENDING, 0 or -errno */
	bool quarantined;
	struct engine_call call;
	struct engine_grant *grant; /* NULL once it is over */
	uint64_t size_bytes, region;
	bool has_region;
	int fd;
	uint32_t frame;
};

static void try_free(void *ctx)
{
	struct try *t = ctx;

	if (t->fd >= 0)
		close(t->fd);
	if (t->frame != POOL_NO_FRAME)
		pool_put(t->r->fs->pool, t->frame);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->some);
	free(t);
}

static void try_put(struct try *t)
{
	bool last;

	pthread_mutex_lock(&t->lock);
	last = --t->refs == 0;
	pthread_mutex_unlock(&t->lock);
	if (!last)
		return;
	if (t->has_region)
		engine_region_remove(t->r->engine, t->region, try_free, t);
	else
		try_free(t);
}

static void answered(struct engine_call *call, int status, const void *reply,
		     uint32_t reply_bytes)
{
	struct try *t = container_of(call, struct try, call);

	(void)reply;
	(void)reply_bytes;
	pthread_mutex_lock(&t->lock);
	t->call_status = status > 0 ? -EPROTO : status;
	pthread_cond_signal(&t->some);
	pthread_mutex_unlock(&t->lock);
	try_put(t);
}

static void arrived(void *ctx, int status)
{
	struct try *t = ctx;

	pthread_mutex_lock(&t->lock);
	t->grant = NULL;
	t->grant_status = status;
	if (t->quarantined)
		atomic_fetch_sub(&t->r->counters.quarantined_bytes,
				 t->size_bytes);
	pthread_cond_signal(&t->some);
	pthread_mutex_unlock(&t->lock);
	try_put(t);
}

static const struct engine_grant_ops grant_ops = {.done = arrived};

static void init_cond(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

/* A frame with room for the block. */
static int take_frame(struct try *t)
{
	struct pool *pool = t->r->fs->pool;
	int backing, err;

	err = pool_take(pool, t->size_bytes, &t->frame, &backing);
	if (err)
		return err;
	t->fd = pool_fd(pool, t->frame, O_RDWR);
	if (t->fd < 0)
		return t->fd;
	return ftruncate(t->fd, (off_t)t->size_bytes) ? -errno : 0;
}

static int try_new(struct remote *r, uint64_t size_bytes, struct try **out)
{
	struct try *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->r = r;
	t->refs = 1;
	t->fd = -1;
	t->frame = POOL_NO_FRAME;
	t->size_bytes = size_bytes;
	pthread_mutex_init(&t->lock, NULL);
	init_cond(&t->some);
	err = take_frame(t);
	if (err) {
		try_free(t);
		return err;
	}
	*out = t;
	return 0;
}

static int open_grant(struct try *t, struct engine_peer *peer, int64_t deadline,
		      struct engine_segment *segment)
{
	struct engine_mem mem = {.kind = ENGINE_MEM_FILE,
				 .fd = t->fd,
				 .length_bytes = t->size_bytes};
	int err = engine_region_add(t->r->engine, &mem, &t->region);

	if (err)
		return err;
	t->has_region = true;
	t->refs++;
	t->grant_status = PENDING;
	/* It may be over before this returns: its end must find the handle
	 * written, or it would be written after it is void. */
	pthread_mutex_lock(&t->lock);
	err = engine_grant_open(peer, t->region, 0, t->size_bytes, deadline,
				&grant_ops, t, &t->grant, segment);
	pthread_mutex_unlock(&t->lock);
	if (err) {
		t->refs--;
		t->grant_status = err;
	}
	return err;
}

static int start_call(struct try *t, struct engine_peer *peer,
		      const struct remote_msg *m, int64_t deadline)
{
	uint8_t bytes[REMOTE_MSG_MAX];
	int err;

	t->call = (struct engine_call){
		.type = REMOTE_FETCH,
		.payload = bytes,
		.payload_bytes = (uint32_t)remote_encode(m, bytes),
		.deadline_ns = deadline,
		.done = answered,
	};
	pthread_mutex_lock(&t->lock);
	t->refs++;
	t->call_status = PENDING;
	pthread_mutex_unlock(&t->lock);
	err = engine_call_start(peer, &t->call);
	if (!err)
		return 0;
	pthread_mutex_lock(&t->lock);
	t->refs--;
	t->call_status = err;
	pthread_mutex_unlock(&t->lock);
	return err;
}

/* What the try came to, or PENDING; lock held. The grant counts its bytes, so
 * once it is complete the answer need not be waited for. */
static int outcome(const struct try *t)
{
	if (t->size_bytes && t->grant_status != PENDING)
		return t->grant_status;
	if (t->call_status < 0)
		return t->call_status;
	return t->size_bytes ? PENDING : t->call_status;
}

/* Gives up what is still under way; lock held. */
static void abandon(struct try *t)
{
	if (t->grant && t->grant_status == PENDING) {
		t->quarantined = true;
		atomic_fetch_add(&t->r->counters.quarantined_bytes,
				 t->size_bytes);
		engine_grant_close(t->grant);
	}
	if (t->call_status == PENDING)
		engine_call_cancel(t->r->engine, &t->call);
}

/* Waits as long as bytes come, never past the deadline. */
static int wait(struct try *t, int64_t patience, int64_t deadline)
{
	int64_t until = clock_now_ns() + patience;
	uint64_t seen = 0, now_at;
	struct timespec at;
	int status;
	scoped_lock(&t->lock);

	while ((status = outcome(t)) == PENDING) {
		if (until > deadline)
			until = deadline;
		at = clock_timespec(until);
		if (!pthread_cond_timedwait(&t->some, &t->lock, &at))
			continue;
		now_at = t->grant ? engine_grant_progress(t->grant) : 0;
		if (now_at <= seen || clock_now_ns() >= deadline) {
			status = outcome(t);
			break;
		}
		seen = now_at;
		until = clock_now_ns() + patience;
	}
	abandon(t);
	return status == PENDING ? -ETIMEDOUT : status;
}

static int64_t patience_of(struct engine_peer *peer, uint64_t size_bytes,
			   int64_t deadline)
{
	int64_t third = (deadline - clock_now_ns()) / 3, ns;
	struct engine_peer_info info;
	uint64_t rate;

	engine_peer_info(peer, &info);
	rate = info.rate_bytes_s ? info.rate_bytes_s : SLOWEST_BYTES_S;
	ns = PATIENCE_NS + (int64_t)((double)size_bytes * 4 / (double)rate *
				     (double)NS_PER_S);
	return ns < third ? ns : third;
}

/* A large block is hashed where it lies. */
static int sum_of(struct try *t, uint64_t sum[2])
{
	void *p = MAP_FAILED;

	if (t->size_bytes >= MAP_BYTES)
		p = mmap(NULL, t->size_bytes, PROT_READ,
			 MAP_SHARED | MAP_POPULATE, t->fd, 0);
	if (p == MAP_FAILED)
		return checksum_fd(t->fd, t->size_bytes, sum);
	checksum_mem(p, t->size_bytes, sum);
	munmap(p, t->size_bytes);
	return 0;
}

/* Are they the bytes that were published? */
static int verify(struct try *t, const struct remote_msg *m, uint32_t holder)
{
	char name[META_NODE_NAME_MAX + 1];
	uint64_t sum[2];
	int err;

	if (!m->checksum[0] && !m->checksum[1])
		return 0; /* the namespace takes none */
	err = sum_of(t, sum);
	if (!err && !fault_hit("remote.verify") &&
	    !memcmp(sum, m->checksum, sizeof(sum)))
		return 0;
	if (err)
		return err;
	atomic_fetch_add(&t->r->counters.mismatches, 1);
	log_warn("kv: %.*s: from %s: the bytes do not match the checksum; "
		 "asking another holder",
		 (int)m->path_len, m->path,
		 remote_node_name(t->r->fs, holder, name));
	return -EBADMSG;
}

static int fetch_from(struct try *t, struct engine_peer *peer,
		      struct remote_msg *m, uint32_t holder, int64_t deadline)
{
	int64_t patience = patience_of(peer, t->size_bytes, deadline);
	int err = 0;

	if (t->size_bytes)
		err = open_grant(t, peer, deadline, &m->segment);
	if (err)
		return err;
	err = start_call(t, peer, m, deadline);
	if (err) {
		pthread_mutex_lock(&t->lock);
		abandon(t);
		pthread_mutex_unlock(&t->lock);
		return err;
	}
	err = wait(t, patience, deadline);
	return err ? err : verify(t, m, holder);
}

int remote_try(struct remote *r, const struct remote_msg *wanted,
	       uint32_t holder, int64_t deadline, uint32_t *frame)
{
	struct remote_msg m = *wanted;
	struct engine_peer *peer;
	struct try *t;
	int err;

	if (atomic_load(&r->counters.quarantined_bytes) >
	    r->pool_bytes / QUARANTINE_SHARE)
		return -EBUSY;
	err = remote_peer(r, holder, &peer);
	if (err)
		return err;
	err = try_new(r, m.size_bytes, &t);
	if (!err) {
		err = fetch_from(t, peer, &m, holder, deadline);
		if (!err) {
			*frame = t->frame;
			t->frame = POOL_NO_FRAME;
		}
		try_put(t);
	}
	engine_peer_put(peer);
	return err;
}

// SPDX-License-Identifier: MIT
/*
 * The keeper: one thread that does what nobody should wait for. In this
 * order, one piece at a time: evict past the high watermark, recycle what
 * was given back, prepare frames of the classes in demand (giving up READY
 * frames that nobody asks for), keep the rest of the capacity READY, probe
 * what is aside. With nothing to do it
 * sleeps until it is woken; a clock runs only while files are open for
 * writing, while something is aside or while evicting finds nothing.
 */
#include "engine/pool_internal.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define ASIDE_EVERY_MAX_NS (2 * NS_PER_S)
#define STUCK_EVERY_MAX_NS (100 * NS_PER_MS)
/* No writer fills a tmpfs faster: 16 MiB in a millisecond. */
#define FILL_PAGES_PER_MS 4096u
#define KEEPER_NICE -15

void keeper_wake(struct pool *p)
{
	if (p->idle)
		pthread_cond_signal(&p->wake);
}

void keeper_unstick(struct pool *p)
{
	if (!p->stuck)
		return;
	p->stuck = false;
	keeper_wake(p);
}

/*
 * Evicting stops half a percent below the capacity, unless that is less than
 * the blocks in use are large: a pool for N blocks holds N.
 */
static uint64_t keeper_low_pages(const struct pool *p)
{
	uint64_t slack = p->cap_pages / 256;

	if (slack < pool_class_pages(p->guess_cls))
		slack = 0;
	if (slack < p->ahead_pages)
		slack = p->ahead_pages;
	return p->cap_pages - slack;
}

/* Waking it for every frame would cost the taker more than the frame. */
bool keeper_is_late(const struct pool *p)
{
	return books_used(p) > p->cap_pages + p->cap_pages / 256;
}

bool keeper_reclaim(struct pool *p, uint64_t pages)
{
	uint64_t used = books_used(p),
		 down_to = used > pages ? used - pages : 0;
	uint64_t bytes;

	if (!p->ops->reclaim)
		return false;
	pool_unlock_busy(p);
	bytes = p->ops->reclaim(p->ctx, down_to * POOL_PAGE);
	pool_lock_busy(p);
	if (!bytes && books_used(p) > down_to)
		return false;
	p->stuck = false;
	return true;
}

static bool keeper_evict(struct pool *p)
{
	uint64_t used = books_used(p), low = keeper_low_pages(p);

	if (used + p->ahead_pages > p->cap_pages)
		p->evicting = true;
	if (used <= low)
		p->evicting = false;
	if (!p->evicting || (p->stuck && clock_now_ns() < p->stuck_ns))
		return false;
	if (keeper_reclaim(p, used - low)) {
		p->stuck_every_ns = 0;
		return true;
	}
	/* Below the capacity there is no need to insist. */
	p->evicting = books_used(p) > p->cap_pages;
	p->stuck = p->evicting;
	p->stuck_every_ns = p->stuck_every_ns * 2 + NS_PER_MS;
	if (p->stuck_every_ns > STUCK_EVERY_MAX_NS)
		p->stuck_every_ns = STUCK_EVERY_MAX_NS;
	p->stuck_ns = clock_now_ns() + p->stuck_every_ns;
	return false;
}

/* Blocks and their writers took what READY frames had borrowed. */
static bool keeper_shrink(struct pool *p)
{
	unsigned cls;

	if (books_held(p) <= books_limit(p))
		return false;
	return demand_surplus(p, &cls) && frame_give_up(p, cls);
}

static bool keeper_prepare(struct pool *p)
{
	unsigned cls, other;
	uint32_t f;

	if (!demand_short(p, &cls))
		return false;
	if (books_room(p) < pool_class_pages(cls))
		return demand_surplus(p, &other) && frame_give_up(p, other);
	f = slot_get(p, cls);
	if (f == POOL_NO_FRAME)
		return demand_surplus(p, &other) && frame_give_up(p, other);
	if (frame_prepare(p, f, cls, true)) {
		books_measure(p); /* fuller than we thought */
		return false;
	}
	ready_push(p, f);
	return true;
}

/* Memory that the pool once had it keeps: given back to the system it may come
 * back cold. But not while a class lacks frames for which there is too little
 * room: the next step would give it up for those, and so on for ever. */
static bool keeper_refill(struct pool *p)
{
	unsigned cls = demand_fill(p), lacks;
	uint32_t f;

	if (!p->filled || books_room(p) < pool_class_pages(cls) ||
	    demand_short(p, &lacks))
		return false;
	f = slot_get(p, cls);
	if (f == POOL_NO_FRAME || frame_prepare(p, f, cls, true))
		return false;
	ready_push(p, f);
	return true;
}

static void keeper_probe_aside(struct pool *p)
{
	if (!p->n[FRAME_ASIDE] && !p->n_retired)
		return;
	if (clock_now_ns() < p->aside_ns)
		return;
	frame_aside_pass(p);
	p->aside_every_ns *= 2;
	if (p->aside_every_ns > ASIDE_EVERY_MAX_NS)
		p->aside_every_ns = ASIDE_EVERY_MAX_NS;
	p->aside_ns = clock_now_ns() + p->aside_every_ns;
}

/* How long the room that is left lasts at the least. */
static int64_t keeper_watch_every(const struct pool *p)
{
	uint64_t held = books_held(p), all = p->cap_pages + p->reserve_pages;
	uint64_t left = held < all ? all - held : 0;
	uint64_t ms = left / FILL_PAGES_PER_MS / 2;

	return (ms < 1 ? 1 : ms > 100 ? 100 : (int64_t)ms) * NS_PER_MS;
}

static bool keeper_must_watch(const struct pool *p)
{
	return p->writers || p->unseen_pages || p->ahead_pages;
}

/* Stay ahead of writers by four times what they took since the last look; half
 * the reserve is there for them anyway. */
static void keeper_look_ahead(struct pool *p, uint64_t unseen_before)
{
	uint64_t ahead = 0, theirs = p->reserve_pages / 2;

	if (p->unseen_pages > unseen_before)
		ahead = 4 * (p->unseen_pages - unseen_before);
	ahead = ahead > theirs ? ahead - theirs : 0;
	if (ahead < p->ahead_pages / 2)
		ahead = p->ahead_pages / 2;
	if (ahead > theirs)
		ahead = theirs;
	p->ahead_pages = ahead;
}

static void keeper_watch(struct pool *p)
{
	uint64_t before = p->unseen_pages;
	int64_t now = clock_now_ns();

	if (!keeper_must_watch(p) || now < p->watch_ns)
		return;
	books_measure(p);
	keeper_look_ahead(p, before);
	p->watch_every_ns = keeper_watch_every(p);
	p->watch_ns = now + p->watch_every_ns;
}

static int64_t earlier(int64_t a, int64_t b)
{
	return b < a ? b : a;
}

static void keeper_sleep(struct pool *p)
{
	struct timespec until;

	p->wake_ns = INT64_MAX;
	if (keeper_must_watch(p))
		p->wake_ns = earlier(p->wake_ns, p->watch_ns);
	if (p->stuck)
		p->wake_ns = earlier(p->wake_ns, p->stuck_ns);
	if (p->n[FRAME_ASIDE] || p->n_retired)
		p->wake_ns = earlier(p->wake_ns, p->aside_ns);
	p->idle = true;
	if (p->wake_ns == INT64_MAX) {
		pthread_cond_wait(&p->wake, &p->lock);
	} else {
		until = clock_timespec(p->wake_ns);
		pthread_cond_timedwait(&p->wake, &p->lock, &until);
	}
	p->idle = false;
}

void *keeper_run(void *pool)
{
	struct pool *p = pool;

	prctl(PR_SET_NAME, "kvfs-keeper");
	/* Its work is short, and a writer in a full pool outruns it when it
	 * has to queue for a processor. Refused to who is not root: no harm. */
	setpriority(PRIO_PROCESS, syscall(SYS_gettid), KEEPER_NICE);
	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		keeper_watch(p);
		keeper_probe_aside(p);
		if (!keeper_evict(p) && !frame_recycle_next(p) &&
		    !keeper_shrink(p) && !keeper_prepare(p) &&
		    !keeper_refill(p))
			keeper_sleep(p);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

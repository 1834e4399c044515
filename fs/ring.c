// SPDX-License-Identifier: MIT
#include "fs/ring.h"

#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/bell.h"
#include "fs/fs.h"
#include "fs/ioctl.h"

#define SPIN_NS 50000 /* a pipelined client is back sooner */
#define TURN 32	      /* calls of a ring before the next one's */

/* -- a call and its answer ------------------------------------------------ */

static struct ring_slot *slot_take(struct ring *ring,
				   const struct kvfs_ring_submission *s)
{
	struct ring_slot *slot;
	scoped_lock(&ring->lock);

	slot = ring->free;
	ring->free = slot->next;
	ring->n_calls++;
	*slot = (struct ring_slot){
		.ring = ring,
		.user_data = s->user_data,
		.at = s->at,
		.room = s->room,
		.held_bytes = (uint64_t)s->bytes + s->room,
	};
	atomic_fetch_add(&ring->all->held_bytes, slot->held_bytes);
	return slot;
}

static void slot_put(struct ring_slot *slot)
{
	struct ring *ring = slot->ring;
	struct rings *all = ring->all;
	bool last;

	atomic_fetch_sub(&all->held_bytes, slot->held_bytes);
	pthread_mutex_lock(&ring->lock);
	slot->next = ring->free;
	ring->free = slot;
	last = !--ring->n_calls && ring->detached;
	pthread_mutex_unlock(&ring->lock);
	if (last)
		ring_ended(ring);
	if (atomic_load(&all->stalled))
		rings_wake(all);
}

static void complete(struct ring *ring, uint64_t user_data, int result)
{
	int rc;

	pthread_mutex_lock(&ring->lock);
	rc = ring_queue_complete(&ring->queue, user_data, result);
	pthread_mutex_unlock(&ring->lock);
	if (rc < 0)
		atomic_store(&ring->stopped, true);
	else if (rc && ring->complete_fd >= 0)
		bell_ring(ring->all->bell, ring->complete_fd);
}

/* call_answer_fn. The slot keeps the ring here until the end. */
static void answered(struct call *c, int err, const void *answer, size_t size)
{
	struct ring_slot *slot = c->owner;
	struct ring *ring = slot->ring;

	if (!atomic_load(&ring->closing) && !atomic_load(&ring->stopped)) {
		if (!err && size > slot->room)
			err = -EMSGSIZE;
		if (!err)
			err = ring_queue_answer(&ring->queue, slot->at, answer,
						size);
		complete(ring, slot->user_data, err ? err : (int)size);
	}
	atomic_fetch_add(&ring->all->fs->counters.ring_calls, 1);
	slot_put(slot);
}

/* -- the next call of a ring ---------------------------------------------- */

static bool has_room(struct ring *ring, const struct kvfs_ring_submission *s)
{
	uint64_t bytes = (uint64_t)s->bytes + s->room;
	scoped_lock(&ring->lock);

	return !ring->n_calls ||
	       (ring->n_calls < RING_CALLS_MAX &&
		bytes + atomic_load(&ring->all->held_bytes) <= RINGS_HELD_MAX);
}

/* Who ends a call looks at `stalled` after it has made room. */
static bool may_begin(struct ring *ring, const struct kvfs_ring_submission *s)
{
	if (has_room(ring, s))
		return true;
	atomic_store(&ring->all->stalled, true);
	return has_room(ring, s);
}

static void run(struct ring *ring, const struct kvfs_ring_submission *s,
		int err)
{
	const struct ioctl_command *ic = ioctl_find_ring(s->command);
	struct fs *fs = ring->all->fs;
	struct call c = ring->like;

	c.answer = answered;
	c.owner = slot_take(ring, s);
	c.start_ns = clock_now_ns();
	c.deadline = c.start_ns + fs->config.deadline_ms * NS_PER_MS;
	c.value = ring->all->request;
	c.room = s->room;
	if (!err && !ic)
		err = -EINVAL;
	if (!err)
		err = ioctl_check(ic, c.value, s->bytes, &c.size);
	if (!err && atomic_load(&fs->stopping))
		err = -ENOTCONN;
	if (err) {
		call_reply_err(&c, err);
		return;
	}
	c.flags = ic->cmd;
	ic->run(&c);
}

static void stop(struct ring *ring)
{
	atomic_store(&ring->stopped, true);
	ring_queue_flag(&ring->queue, KVFS_RING_STOPPED, true);
	if (ring->complete_fd >= 0)
		bell_ring(ring->all->bell, ring->complete_fd);
}

/* Returns: 1 one was begun, 0 there is none, or none may begin. */
static int serve_one(struct ring *ring)
{
	struct kvfs_ring_submission s;
	int rc = ring_queue_peek(&ring->queue, &s);

	if (rc == 1 && !may_begin(ring, &s))
		return 0;
	if (rc == 1) {
		int err = ring_queue_take(&ring->queue, &s, ring->all->request);

		if (err != -EFAULT)
			run(ring, &s, err);
		rc = err == -EFAULT ? err : 1;
	}
	if (rc < 0)
		stop(ring);
	return rc == 1;
}

static int serve(struct ring *ring)
{
	int n = 0;

	while (n < TURN && !atomic_load(&ring->stopped) && serve_one(ring))
		n++;
	return n;
}

/* -- the thread ----------------------------------------------------------- */

void rings_wake(struct rings *all)
{
	eventfd_write(all->wake_fd, 1); /* ours: never full */
}

/* Returns: false: the thread shall end. */
static bool take_arrived(struct rings *all)
{
	struct list *l;
	scoped_lock(&all->lock);

	while ((l = list_pop_front(&all->arrived)))
		list_push_back(&all->served, l);
	return !all->stop;
}

static void detach(struct ring *ring)
{
	bool last;

	list_remove(&ring->link);
	epoll_ctl(ring->all->epoll_fd, EPOLL_CTL_DEL, ring->submit_fd, NULL);
	pthread_mutex_lock(&ring->lock);
	ring->detached = true;
	last = !ring->n_calls;
	pthread_mutex_unlock(&ring->lock);
	if (last)
		ring_ended(ring);
}

static int serve_all(struct rings *all)
{
	struct ring *ring;
	int n = 0;

	atomic_store(&all->stalled, false);
	list_for_each_safe (l, &all->served) {
		ring = container_of(l, struct ring, link);
		if (atomic_load(&ring->closing))
			detach(ring);
		else
			n += serve(ring);
	}
	return n;
}

static void show_sleep(struct rings *all, bool on)
{
	list_for_each (l, &all->served) {
		struct ring *ring = container_of(l, struct ring, link);

		if (!atomic_load(&ring->stopped))
			ring_queue_flag(&ring->queue, KVFS_RING_NEED_WAKEUP,
					on);
	}
}

/* The flag is shown, then the queue looked at once more: who submitted before
 * he could see it is found here, who comes later writes the eventfd. */
static void sleep_until_asked(struct rings *all)
{
	struct epoll_event events[16];

	show_sleep(all, true);
	if (!serve_all(all))
		epoll_wait(all->epoll_fd, events, 16, -1);
	show_sleep(all, false);
}

void *rings_run(void *arg)
{
	struct rings *all = arg;
	int64_t busy_ns = 0;

	while (take_arrived(all)) {
		if (serve_all(all))
			busy_ns = clock_now_ns();
		else if (clock_now_ns() - busy_ns < SPIN_NS)
			sched_yield();
		else
			sleep_until_asked(all);
	}
	return NULL;
}

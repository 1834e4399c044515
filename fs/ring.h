/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_RING_H
#define KVFS_FS_RING_H

/*
 * Rings: ioctls that come through shared memory (<kvfs/ioctl.h>).
 *
 *      ring_queue.h  the shared memory: what is believed of it
 *      ring.c        the thread that serves all rings, and what becomes of a
 *                    call
 *      ring_life.c   how many there are, whose; their beginning and end
 *      bell.h        waking a client
 *
 * One thread looks at all rings. It runs each call as a thread of FUSE would:
 * what can be answered at once is, what waits goes to the workers, whose
 * answer completes it. Finding nothing for SPIN_NS it shows
 * KVFS_RING_NEED_WAKEUP in every ring and sleeps until an eventfd is written.
 *
 * The list of rings is the thread's. Who makes or ends one leaves it at the
 * door (struct rings' lock) and wakes the thread, so that no thread of FUSE
 * waits for a call of a ring. Locks: rings.lock, ring.lock are leaves.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "fs/call.h"
#include "fs/ring_queue.h"

struct bell;
struct kv_caller;

#define RINGS_MAX 128u
#define RINGS_USER_MAX 64u
#define RING_CALLS_MAX 64u /* of a ring, begun and not answered */
#define RINGS_HELD_MAX                                         \
	(64ull << 20) /* requests and answers of all of those; \
			 a ring may always have one */

/* A call that was begun. */
struct ring_slot {
	struct ring *ring;
	struct ring_slot *next; /* free */
	uint64_t user_data, at;
	uint32_t room;
	uint64_t held_bytes;
};

struct ring {
	struct rings *all;
	struct list link; /* the thread's, or rings.arrived */
	struct ring_queue queue;
	struct call like; /* what every call of it has */
	struct kv_caller *who;
	int submit_fd, complete_fd; /* complete_fd -1: the client polls */
	atomic_bool stopped;	    /* the client broke a rule */
	atomic_bool closing;	    /* its directory was closed */
	bool entered;		    /* it is counted */
	struct call *release;	    /* goes on when it is gone */
	call_fn released;

	pthread_mutex_t lock; /* guards all below, and completions */
	struct ring_slot slots[RING_CALLS_MAX], *free;
	uint32_t n_calls;
	bool detached; /* from the thread: goes with its last call */
};

struct rings {
	struct fs *fs;
	struct bell *bell; /* NULL: no rings here */
	pthread_t thread;
	atomic_bool running;
	int epoll_fd, wake_fd;
	char *request; /* the thread's: KVFS_RING_BYTES_MAX */
	struct list served;
	_Atomic uint64_t held_bytes;
	atomic_bool stalled; /* some ring waits for others' calls to end */

	pthread_mutex_t lock; /* guards all below */
	struct list arrived;
	bool stop;
	bool ended; /* no call of any ring is under way any more */
	uid_t uids[RINGS_MAX];
	uint32_t n;
};

/** rings_open - Returns: 0 or -errno; where the kernel lacks something, there
 *  are none. */
int rings_open(struct rings **all, struct fs *fs);
/** rings_stop - nothing is taken any more; waits for what was begun, and
 *  answers the RELEASEs that waited for that: while the session is served. */
void rings_stop(struct rings *all);
/** rings_close - stopped, and no request of the kernel comes any more. */
void rings_close(struct rings *all);
/** rings_held_bytes - requests and answers of what is under way. */
uint64_t rings_held_bytes(const struct rings *all);
/** rings_offered - are there rings here? */
bool rings_offered(const struct rings *all);

/* What makes a ring. */
struct ring_parts {
	struct kv_caller *who;
	int memory_fd, submit_fd, complete_fd; /* complete_fd may be -1 */
	uint32_t entries;
	uint64_t data_bytes;
};

/**
 * ring_open - a ring of the directory that a call was given on
 * @parts: taken, all of it, whatever is returned
 *
 * Returns: 0, -EBUSY the directory has one, -EDQUOT too many, -EINVAL no such
 *          memory or no eventfd, -EPERM its seals, -EACCES it is not open for
 *          writing, -ENOMEM.
 */
int ring_open(struct rings *all, const struct call *c,
	      const struct ring_parts *parts);
/**
 * ring_release - its directory was closed
 * @c: of RELEASE; taken
 * @released: goes on with c, on a worker, when no call uses the directory
 *
 * Returns: false: nothing is under way, c is still the caller's.
 */
bool ring_release(struct ring *ring, const struct call *c, call_fn released);
/** kv_ring_of - that of the directory that a call was given on, or NULL. */
struct ring **kv_ring_of(const struct call *c);

/* Between ring.c and ring_life.c: */
/** rings_run - the thread. */
void *rings_run(void *arg);
void rings_wake(struct rings *all);
/** ring_ended - no call is under way, and the thread has let go of it. */
void ring_ended(struct ring *ring);

#endif

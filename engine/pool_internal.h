/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_POOL_INTERNAL_H
#define KVFS_ENGINE_POOL_INTERNAL_H

/*
 * Inside the pool. One mutex guards all that changes; whoever makes a system
 * call that may take long, or calls pool_ops, drops it first. A frame that is
 * being worked on is on no list, so nobody else finds it meanwhile.
 *
 *      pool.c         what pool.h offers
 *      pool_open.c    from configuration to a usable pool and back
 *      pool_mount.c   the tmpfs below it
 *      pool_huge.c    whether it gives huge pages, and what files cost
 *      pool_index.c   the mapped index: records, seals, adoption
 *      pool_books.c   who is charged what; lists of frames
 *      pool_frame.c   the frame's file: prepare, probe, recycle, retire
 *      pool_keeper.c  the thread that evicts, recycles and prepares
 *      pool_fill.c    the thread that warms the memory once, at start
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/pool.h"
#include "engine/pool_class.h"

enum frame_state {
	FRAME_NONE, /* its file was never made */
	FRAME_FREE, /* empty, no pages */
	FRAME_PREPARING,
	FRAME_READY, /* empty, pages preallocated */
	FRAME_WRITING,
	FRAME_COMMITTED,
	FRAME_DIRTY, /* given back, not yet recycled */
	FRAME_ASIDE, /* given back, but somebody still has it open */
	FRAME_STATES
};

struct frame {
	uint32_t next;	   /* on its list, or POOL_NO_FRAME */
	uint32_t pages;	   /* charged to its state */
	int32_t backing;   /* 0: not bound */
	uint32_t aside_ms; /* when it was set aside, since the pool's start */
	uint16_t cls;	   /* of the pages it was given */
	uint8_t state;
};

/* First in, first out; linked by frame number. */
struct frame_list {
	uint32_t head, tail;
};

/* An unlinked file that somebody still uses: charged until he lets go. */
struct retired {
	int fd; /* O_PATH */
	uint32_t pages;
};

#define RETIRED_MAX 128
/* Smaller frames are not made in stock: memory is warm whatever its class. */
#define FILL_LEAST (1u << 20)
#define DEMAND_WINDOW 64 /* takes that the keeper remembers */
#define INDEX_HEADER_BYTES 4096u
#define INDEX_RECORD_BYTES 1024u

/* States of a record. Numbers that stray bytes are unlikely to be. */
enum {
	RECORD_FREE = 0,
	RECORD_WRITING = 0x54495257,
	RECORD_COMMITTED = 0x54494d43
};

union pool_slot {
	struct pool_record record;
	char bytes[INDEX_RECORD_BYTES];
};

/* The first page of the index. Up to seal it never changes. */
struct pool_header {
	uint64_t magic;
	uint32_t version;
	uint32_t record_bytes;
	uint64_t uuid[2];
	uint64_t seal;
	/* Of the daemon that used it last; counts if it agrees with its
	 * complement. */
	uint64_t capacity_bytes, capacity_check;
	uint32_t n_slots; /* frames whose file was ever made: 0 … n_slots - 1 */
	/* A rename under way: done again at adoption, so that a block is
	 * never without one whole name. */
	uint32_t rename_pending;
	uint32_t rename_frame;
	uint32_t rename_epoch;
	uint64_t rename_seal;
	uint16_t rename_len;
	char rename_path[POOL_PATH_MAX + 1];
};

_Static_assert(sizeof(union pool_slot) == INDEX_RECORD_BYTES, "record size");
_Static_assert(sizeof(struct pool_header) <= INDEX_HEADER_BYTES, "header");

struct pool {
	/* Fixed once open. */
	const struct pool_ops *ops;
	void *ctx;
	char *dir;
	uint64_t cap_pages, reserve_pages;
	uint32_t step_pages; /* files come in multiples of this: 1 or 512 */
	uint32_t max_frames;
	unsigned fill_cls;
	int dir_fd, frames_fd, index_fd;
	bool own_mount, huge, mounted_now;
	struct pool_header *header;
	union pool_slot *slots;
	uint64_t seal_seed;
	uint64_t adopted, adopt_dropped;
	int64_t opened_ns;
	struct frame *frames;

	pthread_mutex_t lock;	/* guards everything below */
	pthread_cond_t wake;	/* there is work for the keeper */
	pthread_cond_t changed; /* a call without the lock has ended */
	pthread_cond_t stopped; /* the pool is being closed */
	pthread_t keeper, filler;
	bool keeper_runs, filler_runs, started, stop;

	/* Books: pages and frames by state, pages nobody's books show. */
	uint64_t pages[FRAME_STATES];
	uint32_t n[FRAME_STATES];
	uint64_t retired_pages, unseen_pages, index_pages, peak_pages;
	uint64_t ahead_pages; /* kept free for writers that grow unseen */
	uint32_t n_slots, n_indexed;
	unsigned busy, waiters; /* calls without the lock; who waits for them */

	struct frame_list free, dirty, aside;
	struct frame_list ready[POOL_CLASSES];
	uint32_t n_ready[POOL_CLASSES], n_blocks[POOL_CLASSES];

	/* Demand: the classes of the last takes, and how many of each. */
	uint16_t window[DEMAND_WINDOW];
	uint8_t demand[POOL_CLASSES];
	unsigned window_at;
	unsigned guess_cls, last_cls; /* for takes that expect nothing */

	struct retired retired[RETIRED_MAX];
	unsigned n_retired;

	/* The keeper's clock. */
	bool idle; /* it sleeps until wake_ns */
	bool no_passthrough;
	bool filled;	      /* the filler has ended */
	bool evicting, stuck; /* past the watermark; nothing to evict */
	int64_t wake_ns, watch_ns, watch_every_ns;
	int64_t stuck_ns, stuck_every_ns, aside_ns, aside_every_ns;
	int writers;

	uint64_t n_recycled, n_retired_ever, n_refused, n_cold;
};

/* ── pool_books.c: all with the lock held ── */

/** books_used - pages that blocks and their writers keep from others. */
uint64_t books_used(const struct pool *p);
/** books_held - pages of the tmpfs in use, whatever for. */
uint64_t books_held(const struct pool *p);
/** books_room - pages that may still be preallocated. */
uint64_t books_room(const struct pool *p);
/** books_limit - what all but the outgrowing writes may hold together. */
uint64_t books_limit(const struct pool *p);
/** books_move - give a frame another state and charge. */
void books_move(struct pool *p, uint32_t f, enum frame_state to,
		uint32_t pages);
/** books_measure - ask the tmpfs what grew without our doing. */
void books_measure(struct pool *p);

void frame_list_init(struct frame_list *l);
void frame_list_push(struct pool *p, struct frame_list *l, uint32_t f);
uint32_t frame_list_pop(struct pool *p, struct frame_list *l);

void ready_push(struct pool *p, uint32_t f);
/** ready_pop - a READY frame of just this class. */
uint32_t ready_pop(struct pool *p, unsigned cls);

void demand_init(struct pool *p, unsigned cls);
void demand_note(struct pool *p, unsigned cls);
/** demand_want - how many frames of a class should be READY. */
uint32_t demand_want(const struct pool *p, unsigned cls);
/** demand_short - the demanded class that lacks most; false if none does. */
bool demand_short(const struct pool *p, unsigned *cls);
/** demand_fill - the class to keep the rest of the capacity in. */
unsigned demand_fill(const struct pool *p);
/** demand_surplus - a class with more READY frames than it should have. */
bool demand_surplus(const struct pool *p, unsigned *cls);

/* ── pool_index.c ── */

/** index_open - map the index, made anew where there is none to trust. */
int index_open(struct pool *p);
void index_close(struct pool *p);
/** index_adopt - check every record; fill frames, lists and books. */
void index_adopt(struct pool *p);
/** index_reach - be sure that a frame's record has memory; or -errno. */
int index_reach(struct pool *p, uint32_t f);
uint64_t index_seal(const struct pool *p, uint32_t f,
		    const struct pool_record *r, const char *path,
		    uint16_t path_len);
void index_rename(struct pool *p, uint32_t f, const char *path,
		  uint16_t path_len);

static inline void record_set_state(struct pool_record *r, uint32_t state)
{
	/* A killed process leaves its stores in program order: what matters
	 * is that the compiler moves none across this one. */
	__atomic_store_n(&r->state, state, __ATOMIC_RELEASE);
}

/* ── pool_mount.c ── */

/** mount_open - have a tmpfs or a folder at p->dir; sets dir_fd. */
int mount_open(struct pool *p, bool discard);
/** mount_fit - give the tmpfs the size that the configuration asks for. */
int mount_fit(struct pool *p);
/** mount_with - mount(2) it, or change (MS_REMOUNT) size and huge=. */
int mount_with(const struct pool *p, const char *huge, unsigned long how);
/** mount_probe - what do files cost here, and are their pages huge? */
int mount_probe(struct pool *p);
void mount_close(struct pool *p, bool discard);
/** mount_empty - remove every file of the pool. */
int mount_empty(struct pool *p);

/* ── pool_frame.c ── */

#define FRAME_NAME_BYTES 12
void frame_name(uint32_t f, char name[FRAME_NAME_BYTES]);
int frame_open(struct pool *p, uint32_t f, int oflags);
/** frame_probe_fd - 0 nobody else has it open, -EAGAIN; keeps the lease. */
int frame_probe_fd(int fd);
/** frame_bind - the backing id, bound if need be. Without the lock. */
int frame_bind(struct pool *p, uint32_t f);
void frame_unbind(struct pool *p, uint32_t f);

/* With the lock held, and dropped meanwhile: */

/** frame_prepare - preallocate a frame that slot_get gave. It is PREPARING
 *  at return; on error it went back to the free list. */
int frame_prepare(struct pool *p, uint32_t f, unsigned cls, bool warm);
/** frame_recycle_next - recycle the oldest DIRTY frame; false: none. */
bool frame_recycle_next(struct pool *p);
/** frame_give_up - make a READY frame of this class FREE; false: none. */
bool frame_give_up(struct pool *p, unsigned cls);
/** frame_aside_pass - probe every ASIDE frame once. */
void frame_aside_pass(struct pool *p);
/** slot_get - a frame to prepare, charged as PREPARING; POOL_NO_FRAME. */
uint32_t slot_get(struct pool *p, unsigned cls);

/* ── pool_keeper.c, pool_fill.c ── */

void *keeper_run(void *pool);
void *fill_run(void *pool);
/** keeper_wake - have the keeper look again. Lock held. */
void keeper_wake(struct pool *p);
/** keeper_is_late - is the pool further past its capacity than may wait for
 *  the keeper's clock? Lock held. */
bool keeper_is_late(const struct pool *p);
/** keeper_reclaim - have the owner evict so many pages. Lock held, dropped
 *  meanwhile. False: nothing can be had now. */
bool keeper_reclaim(struct pool *p, uint64_t pages);
/** keeper_unstick - something changed: evicting may succeed again. */
void keeper_unstick(struct pool *p);

static inline void pool_unlock_busy(struct pool *p)
{
	p->busy++;
	pthread_mutex_unlock(&p->lock);
}

static inline void pool_lock_busy(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->busy--;
	if (p->waiters)
		pthread_cond_broadcast(&p->changed);
}

#endif

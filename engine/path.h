/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_PATH_H
#define KVFS_ENGINE_PATH_H

/*
 * How fast a path is, and which of several takes the next slice: of those whose
 * card suits the memory best (topology_rank), the one where it is expected to
 * arrive first, by what is on its way there already and by the speed that was
 * measured lately. So the best card is used, those as good as it share, and the
 * others have what it has no room for: large transfers go by all.
 *
 * Speeds count in powers of two of the fastest one's, so that equal paths stay
 * equal whatever the noise. Of those the card that has the least under way, to
 * all peers, takes it: two cards share a block of two slices. The first path,
 * which messages take, too, is chosen while nothing is under way.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define PATH_WINDOW_NS (10 * NS_PER_MS)
#define PATH_LEAST_BYTES (1u << 20)   /* less measures a delay */
#define PATH_FORGET_NS (2 * NS_PER_S) /* older is as if never measured */

struct path {
	uint64_t bytes_s;    /* 0: not yet measured */
	int64_t measured_ns; /* when */
	uint64_t delivered;  /* since since_ns */
	int64_t since_ns;    /* 0: nothing is under way */
	uint64_t before;     /* delivered in the window before that, */
	int64_t before_ns;   /* which began then; 0: there was none */
};

static inline void path_sent(struct path *p, int64_t now)
{
	if (!p->since_ns)
		p->since_ns = now;
}

/** path_delivered - so many bytes are there; idle: nothing is under way now */
static inline void path_delivered(struct path *p, uint64_t bytes, bool idle,
				  int64_t now)
{
	int64_t took = now - p->since_ns;
	uint64_t counted, rate;

	p->delivered += bytes;
	/* A slow path takes longer to show how fast it is. */
	if ((took < PATH_WINDOW_NS || p->delivered < PATH_LEAST_BYTES) && !idle)
		return;
	counted = p->delivered;
	/* The rest of a burst of answers comes at the speed of the burst: what
	 * was waited for is in the window before. */
	if (took < PATH_WINDOW_NS && p->before_ns) {
		counted += p->before;
		took = now - p->before_ns;
	}
	rate = (uint64_t)((double)counted * NS_PER_S /
			  (double)(took > 1000 ? took : 1000));
	if (counted >= PATH_LEAST_BYTES) {
		p->bytes_s = p->bytes_s ? (3 * p->bytes_s + rate) / 4 : rate;
		p->measured_ns = now;
	}
	p->before = p->delivered;
	p->before_ns = idle ? 0 : p->since_ns;
	p->delivered = 0;
	p->since_ns = idle ? 0 : now;
}

/** path_speed - 0: nobody knows any more, so it is tried as the fastest is. */
static inline uint64_t path_speed(const struct path *p, int64_t now)
{
	return now - p->measured_ns < PATH_FORGET_NS ? p->bytes_s : 0;
}

/**
 * path_cost - the least is the best
 * @bytes: on their way there, with those to come
 * @speed, @fastest: path_speed, of this path and of the fastest
 */
static inline uint64_t path_cost(uint64_t bytes, uint64_t speed,
				 uint64_t fastest)
{
	while (speed && speed <= fastest / 2) {
		speed *= 2;
		bytes *= 2;
	}
	return bytes;
}

/* What is weighed of one that has room. */
struct path_choice {
	bool late;     /* it owes an answer for long */
	uint64_t rank; /* topology_rank of its card */
	uint64_t cost;
	uint64_t card_bytes; /* under way by its card */
};

static inline bool path_better(const struct path_choice *a,
			       const struct path_choice *b)
{
	if (a->late != b->late)
		return b->late;
	if (a->rank != b->rank)
		return a->rank < b->rank;
	if (a->cost != b->cost)
		return a->cost < b->cost;
	return a->card_bytes < b->card_bytes;
}

#endif

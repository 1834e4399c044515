/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_OFFER_H
#define KVFS_FS_REMOTE_OFFER_H

/*
 * What is decided of an offer of a last copy, by numbers alone: to whom, and
 * whether it may go now. remote_offer.c, and remote_serve.c at its other end,
 * know the numbers. Lengths in bytes, times in monotonic ns.
 */

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

/** remote_offer_is_older - is the block that goes next on a node, last used so
 *  long ago or KV_ROOM, to go before one of ours? It must be half as old again:
 *  with less, more is moved than that gains. */
bool remote_offer_is_older(int64_t theirs_ms, int64_t ours_ms);

/* -- to whom: the one whose blocks are the oldest ------------------------- */

struct remote_offer_peer {
	uint32_t node;
	int64_t age_ms; /* of what goes next there, or KV_ROOM */
};

struct remote_offer_choice {
	struct remote_offer_peer best;
	unsigned n_alike; /* so many are as good: each as likely */
};

/** remote_offer_add - one more to choose from; the first one into zeroes. */
void remote_offer_add(struct remote_offer_choice *c, struct remote_offer_peer p,
		      unsigned random);
/** remote_offer_chosen - the best one, or 0: not even that has older blocks. */
uint32_t remote_offer_chosen(const struct remote_offer_choice *c,
			     int64_t ours_ms);

/* -- how much ------------------------------------------------------------ */

/** remote_offer_fits - may one more be under way, beside those so many? */
bool remote_offer_fits(uint32_t n_out, uint64_t out_bytes, uint64_t bytes,
		       uint64_t pool_bytes);

/** remote_offer_is_idle - does nothing wait for this link but so many offers of
 *  ours to that node? Then it is theirs, whatever the budget says: the engine
 *  moves their bytes last. */
bool remote_offer_is_idle(const struct engine_peer_info *link, uint32_t n_out,
			  uint64_t out_bytes);

/* A twentieth of what a link carries, and of what was saved up a burst. */
struct remote_offer_budget {
	int64_t bytes, since_ns;
};

void remote_offer_budget_init(struct remote_offer_budget *b, int64_t now);
/** remote_offer_pay - take so much out of it.
 *  @rate_bytes_s: of the link, 0: not known
 *  Returns: false, it is empty. */
bool remote_offer_pay(struct remote_offer_budget *b, uint64_t rate_bytes_s,
		      uint64_t bytes, int64_t now);

#endif

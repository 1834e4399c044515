// SPDX-License-Identifier: MIT
#include "fs/remote_offer.h"

#include "base/clock.h"
#include "fs/kv.h"

#define OUT_MAX 32	/* offers without an answer */
#define OUT_SHARE 16	/* and bytes of them: of the pool, or one block */
#define BUDGET_SHARE 20 /* of what the link carries */
#define LINK_BYTES_S (1250ULL * 1000 * 1000) /* where it is not known */
#define BURST_BYTES (32LL << 20)

/* -- to whom ------------------------------------------------------------- */

bool remote_offer_is_older(int64_t theirs_ms, int64_t ours_ms)
{
	return theirs_ms == KV_ROOM || theirs_ms >= ours_ms + ours_ms / 2;
}

static bool is_better(const struct remote_offer_peer *a,
		      const struct remote_offer_peer *b)
{
	if (a->age_ms == KV_ROOM || b->age_ms == KV_ROOM)
		return a->age_ms == KV_ROOM && b->age_ms != KV_ROOM;
	return a->age_ms > b->age_ms;
}

void remote_offer_add(struct remote_offer_choice *c, struct remote_offer_peer p,
		      unsigned random)
{
	if (!c->n_alike || is_better(&p, &c->best)) {
		c->best = p;
		c->n_alike = 1;
	} else if (!is_better(&c->best, &p) && random % ++c->n_alike == 0) {
		c->best = p;
	}
}

uint32_t remote_offer_chosen(const struct remote_offer_choice *c,
			     int64_t ours_ms)
{
	return c->n_alike && remote_offer_is_older(c->best.age_ms, ours_ms)
		       ? c->best.node
		       : 0;
}

/* -- how much ------------------------------------------------------------ */

bool remote_offer_fits(uint32_t n_out, uint64_t out_bytes, uint64_t bytes,
		       uint64_t pool_bytes)
{
	return n_out < OUT_MAX &&
	       (!out_bytes || out_bytes + bytes <= pool_bytes / OUT_SHARE);
}

bool remote_offer_is_idle(const struct engine_peer_info *link, uint32_t n_out,
			  uint64_t out_bytes)
{
	return link->n_calls <= n_out && link->queued_bytes <= out_bytes;
}

void remote_offer_budget_init(struct remote_offer_budget *b, int64_t now)
{
	b->bytes = BURST_BYTES;
	b->since_ns = now;
}

bool remote_offer_pay(struct remote_offer_budget *b, uint64_t rate_bytes_s,
		      uint64_t bytes, int64_t now)
{
	uint64_t rate = rate_bytes_s ? rate_bytes_s : LINK_BYTES_S;
	int64_t most = (int64_t)(rate / BUDGET_SHARE);
	double earned =
		(double)(now - b->since_ns) / (double)NS_PER_S * (double)most;

	if (most < BURST_BYTES)
		most = BURST_BYTES;
	b->bytes = earned < (double)(most - b->bytes)
			   ? b->bytes + (int64_t)earned
			   : most;
	b->since_ns = now;
	if (b->bytes <= 0)
		return false;
	b->bytes -= (int64_t)bytes;
	return true;
}

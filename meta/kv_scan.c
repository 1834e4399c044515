// SPDX-License-Identifier: MIT
#include "meta/kv_scan.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "meta/internal.h"

/* What one call reads, so that nobody else waits long for Redis meanwhile. */
#define BUCKETS 16u
#define COUNT 64

/* Buckets of one group whose scan is not through. */
struct run {
	char tag[KEY_TAG_MAX];
	unsigned n;
	uint32_t subs[BUCKETS];
	uint64_t cursors[BUCKETS];
};

static int call(struct kv_scan *s, struct run *r, struct redis_reply **reply)
{
	redis_cmd_auto struct redis_cmd c = {0};

	meta_fcall(&c, "kv_scan", r->n);
	for (unsigned i = 0; i < r->n; i++)
		meta_cmd_key(&c, s->m, r->tag, "b%u", r->subs[i]);
	redis_cmd_int(&c, COUNT);
	for (unsigned i = 0; i < r->n; i++)
		redis_cmd_uint(&c, r->cursors[i]);
	return meta_call(s->m, META_PUBLISH, r->tag, 0, &c, reply);
}

/* A test looks at how long it is. */
static bool pause_for(struct kv_scan *s, int64_t ns)
{
	bool on;

	fault_pass("kv.scan.pause");
	on = s->nap(s->ctx, ns);
	fault_pass("kv.scan.paused");
	return on;
}

/* One page of each; those that are through leave the run. */
static int step(struct kv_scan *s, struct run *r)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	unsigned n = r->n;
	int err = call(s, r, &reply);

	r->n = 0;
	for (unsigned i = 0; i < n && !err; i++) {
		const struct redis_reply *one = redis_reply_at(reply, i);
		uint64_t cursor;

		if (redis_reply_uint(redis_reply_at(one, 0), &cursor))
			return -EPROTO;
		err = s->page(s->ctx, r->tag, r->subs[i],
			      redis_reply_at(one, 1));
		if (!cursor)
			continue;
		r->subs[r->n] = r->subs[i];
		r->cursors[r->n++] = cursor;
	}
	return err;
}

static int run_through(struct kv_scan *s, struct run *r)
{
	int err = 0;

	while (!err && r->n) {
		int64_t start = clock_now_ns();

		fault_pass("kv.scan.page");
		err = step(s, r);
		if (!err && !pause_for(s, (clock_now_ns() - start) * s->pause))
			err = -ESHUTDOWN;
	}
	return err;
}

int kv_scan(struct kv_scan *s)
{
	int err = 0;

	for (uint32_t group = 0; group < KEY_GROUPS; group++) {
		for (uint32_t sub = 0; sub < s->n_sub && !err;) {
			struct run r = {.n = 0};

			key_tag_kv(r.tag, s->ns, strlen(s->ns), group);
			while (sub < s->n_sub && r.n < BUCKETS)
				r.subs[r.n++] = sub++;
			err = run_through(s, &r);
		}
	}
	return err;
}

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/fs.h"
#include "fs/ioctl.h"
#include "fs/kv.h"
#include "fs/kv_lend.h"
#include "fs/remote.h"

/*
 * LOCATE and UNPIN. What is here is pinned where the call arrives. With FETCH,
 * what is not goes a longer way:
 *
 *      worker    ask Redis for the names, once ── begin a fetch for each
 *      engine    the last fetch has ended ── post
 *      worker    pin all, answer
 *
 * No thread waits in between. A block that is being fetched is pinned from
 * the start, so that it is still there when the last one has come.
 */

/* A request that was checked. */
struct locate {
	struct call *c;
	const struct kv_caller *who;
	uint32_t flags, n;
	int64_t deadline;
	struct ioctl_names names;
	struct kvfs_ioc_located *answer;
	size_t answer_bytes;
	struct kv_file *prev; /* the name before, if it was located */
	bool far;	      /* some may be on other nodes */
};

static struct kvfs_ioc_block *blocks_of(struct kvfs_ioc_located *answer)
{
	return (struct kvfs_ioc_block *)(answer + 1);
}

/* Returns: 0 (locate_fini then), or -errno. */
static int locate_init(struct locate *q, struct call *c,
		       const struct kv_caller *who)
{
	struct kvfs_ioc_locate in;
	const char *at = (const char *)c->value + sizeof(in);
	size_t left = c->size - sizeof(in);
	int err;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags & ~KVFS_IOC_FETCH || in.reserved ||
	    !ioctl_pins_take(&at, &left, in.n_unpin) ||
	    (in.deadline_ms && !(in.flags & KVFS_IOC_FETCH)))
		return -EINVAL;
	*q = (struct locate){.c = c,
			     .who = who,
			     .flags = in.flags,
			     .n = in.names.n,
			     .deadline = c->deadline};
	if (in.deadline_ms &&
	    c->start_ns + in.deadline_ms * NS_PER_MS < q->deadline)
		q->deadline = c->start_ns + in.deadline_ms * NS_PER_MS;
	err = ioctl_names_init(&q->names, &in.names, at, left);
	q->answer_bytes =
		sizeof(*q->answer) + q->n * sizeof(struct kvfs_ioc_block);
	if (!err && q->answer_bytes > c->room)
		err = -EMSGSIZE;
	if (!err && !(q->answer = calloc(1, q->answer_bytes)))
		err = -ENOMEM;
	return err;
}

static void locate_fini(struct locate *q)
{
	free(q->answer);
}

/* -- pinning: kv->lock held --------------------------------------------- */

/* Its order in a batch says what a block continues; not to the contrary of
 * what is known. */
static void learn_parent(struct kv *kv, struct kv_file *f, struct kv_file *prev)
{
	if (prev && prev != f && f->node.state == KV_COMMITTED &&
	    !f->node.unlinked && !prev->node.unlinked && !kv_parent(kv, f) &&
	    kv_parent(kv, prev) != f && f->ns == prev->ns)
		kv_set_parent(kv, f, prev);
}

static void fill_block(struct kv *kv, struct kv_file *f,
		       struct kvfs_ioc_block *b)
{
	const struct pool_record *r = kv_record(kv, f);

	b->frame = f->frame;
	b->epoch = r->epoch;
	b->length = r->size_bytes;
	b->generation = r->generation;
	if (!(__atomic_load_n(&r->flags, __ATOMIC_ACQUIRE) & POOL_HAS_CHECKSUM))
		return;
	b->flags |= KVFS_IOC_HAS_CHECKSUM;
	b->checksum[0] = r->checksum[0];
	b->checksum[1] = r->checksum[1];
}

/* Returns: 0 or -errno: why it is not pinned; -EREMOTE: another node has it. */
static int pin_node(struct locate *q, struct kv_node *node,
		    struct kvfs_ioc_block *b)
{
	struct kv *kv = q->c->fs->kv;
	struct kv_file *f = kv_file(node);
	const struct pool_record *r;
	int err;

	if (node->state == KV_REMOTE)
		return -EREMOTE;
	if (kv_try_commit(kv, f))
		return -ENOENT;
	if (node->damaged)
		return -EIO;
	r = kv_record(kv, f);
	err = kv_may(q->who, r->mode, r->uid, r->gid, KV_MAY_READ);
	if (!err)
		err = kv_pins_add(kv, kv_pins_of(q->c), q->c->uid, f);
	if (err)
		return err;
	fill_block(kv, f, b);
	kv_count_hit(kv, f);
	learn_parent(kv, f, q->prev);
	q->prev = f;
	return 0;
}

/* Returns: 0 its place in the answer is filled, or -EAGAIN his groups decide.
 */
static int pin_name(struct locate *q, struct kv_dir *dir,
		    const struct kv_name *name, struct kvfs_ioc_block *b)
{
	struct kv *kv = q->c->fs->kv;
	struct kv_node *node;
	int err = kv_walk(kv, q->who, dir, name->text, name->len, &node);

	if (err == -EACCES || (!err && (!node || kv_is_dir(node))))
		err = -ENOENT;
	else if (!err)
		err = pin_node(q, node, b);
	if (err == -EAGAIN)
		return err;
	if (err)
		q->prev = NULL;
	q->far |= err == -EREMOTE || err == -ENOENT;
	b->error = (uint32_t)-err;
	q->answer->n_located += !err;
	return 0;
}

#define LOCK_STEP 32 /* names under one hold of kv->lock */

/* Returns: 0, -EAGAIN, or -ENOENT the directory went. */
static int pin_all(struct locate *q)
{
	struct kv *kv = q->c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(q->c->inode));
	struct ioctl_names names = q->names;
	struct kv_name name;
	uint32_t i = 0;
	int err;

	do {
		scoped_lock(&kv->lock);
		err = kv_may_reach(q->who, dir);
		for (uint32_t end = i + LOCK_STEP; !err && i < end; i++) {
			if (!ioctl_names_next(&names, &name))
				return 0;
			err = pin_name(q, dir, &name, &blocks_of(q->answer)[i]);
		}
		/* q->prev is pinned, so it stays while the lock is dropped */
	} while (!err);
	return err == -EACCES ? -ENOENT : err;
}

static void unpin_all(struct locate *q)
{
	struct kvfs_ioc_block *b = blocks_of(q->answer);
	struct kv *kv = q->c->fs->kv;
	scoped_lock(&kv->lock);

	for (uint32_t i = 0; i < q->n; i++)
		if (b[i].epoch)
			kv_pins_drop(kv, *kv_pins_of(q->c), b[i].frame,
				     b[i].epoch);
	memset(q->answer, 0, q->answer_bytes);
	q->prev = NULL;
	q->far = false;
}

static void fail(struct locate *q, int err)
{
	if (q->answer)
		unpin_all(q);
	call_reply_err(q->c, err);
}

static void reply(struct locate *q)
{
	struct call *c = q->c;

	q->answer->head = ioctl_head(q->answer_bytes);
	q->answer->n = q->n;
	atomic_fetch_add(&c->fs->counters.located, q->answer->n_located);
	call_reply_ioctl(c, q->answer, q->answer_bytes);
}

/* -- fetching ----------------------------------------------------------- */

struct batch;
struct far_block {
	struct remote_watcher watcher;
	struct batch *batch;
	struct kv_file *f; /* pinned */
	int err;
};

/* Fetches under way for one call. */
struct batch {
	struct call *c;
	struct kv_caller *who;
	atomic_uint left; /* fetches, and who begins them */
	uint32_t n;
	struct far_block far[];
};

static void locate_fetched(struct call *c);

static void batch_ended(struct batch *b)
{
	if (atomic_fetch_sub(&b->left, 1) != 1)
		return;
	b->c->arg = b;
	call_defer(b->c, locate_fetched);
}

/* On a thread of the engine, perhaps. */
static void block_ended(struct remote_watcher *w, int err)
{
	struct far_block *far = container_of(w, struct far_block, watcher);

	far->err = err;
	batch_ended(far->batch);
}

int ioctl_learn_names(struct call *c, const struct kv_caller *who,
		      int64_t deadline, const struct ioctl_names *from)
{
	struct ioctl_names names = *from;
	char path[POOL_PATH_MAX + 1];
	struct ioctl_text t;
	struct kv_match_answer a;
	int err = ioctl_text_init(&t, &names, from->left);
	int len = err ? err : ioctl_dir_path(c, &t, path);
	struct kv_match_question question = {
		.dir = {path, (uint16_t)len},
		.names = t.names,
		.n = from->left,
		.any = true,
		.learn = true,
	};

	err = len < 0 ? len : kv_match(c->fs, who, deadline, &question, &a);
	ioctl_text_fini(&t);
	return err;
}

/* Lock held. */
static void add_far(struct locate *q, struct batch *b, struct kv_dir *dir,
		    const struct kv_name *name)
{
	struct kv_node *node;
	const struct meta_kv_found *found;

	if (kv_walk(q->c->fs->kv, q->who, dir, name->text, name->len, &node) ||
	    !node || kv_is_dir(node) || node->state != KV_REMOTE)
		return;
	found = &kv_file(node)->remote->found;
	if (kv_may(q->who, found->mode, found->uid, found->gid, KV_MAY_READ))
		return;
	node->pins++;
	b->far[b->n++] = (struct far_block){.watcher.done = block_ended,
					    .batch = b,
					    .f = kv_file(node),
					    .err = -ENOENT};
}

static void find_far(struct locate *q, struct batch *b)
{
	struct kv *kv = q->c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(q->c->inode));
	struct ioctl_names names = q->names;
	struct kv_name name;
	scoped_lock(&kv->lock);

	if (kv_may_reach(q->who, dir))
		return;
	while (ioctl_names_next(&names, &name))
		add_far(q, b, dir, &name);
}

/* Takes the call: it goes on where the last of them has ended. */
static int fetch(struct locate *q, struct kv_caller *who)
{
	struct batch *b;
	int err = ioctl_learn_names(q->c, q->who, q->deadline, &q->names);

	if (err)
		return err;
	b = calloc(1, sizeof(*b) + q->n * sizeof(*b->far));
	if (!b)
		return -ENOMEM;
	b->c = q->c;
	b->who = who;
	find_far(q, b);
	atomic_init(&b->left, b->n + 1);
	for (uint32_t i = 0; i < b->n; i++) {
		err = remote_fetch_watch(q->c->fs->kv, b->far[i].f, q->deadline,
					 &b->far[i].watcher);
		if (err)
			block_ended(&b->far[i].watcher, err < 0 ? err : 0);
	}
	batch_ended(b);
	return 0;
}

/* -- on workers --------------------------------------------------------- */

static void batch_free(struct kv *kv, struct batch *b)
{
	pthread_mutex_lock(&kv->lock);
	for (uint32_t i = 0; i < b->n; i++)
		kv_unpin(kv, b->far[i].f);
	pthread_mutex_unlock(&kv->lock);
	free(b->who);
	free(b);
}

/* Some did not come in time. */
static bool some_late(const struct batch *b)
{
	for (uint32_t i = 0; i < b->n; i++)
		if (b->far[i].err == -ETIMEDOUT)
			return true;
	return false;
}

static void locate_fetched(struct call *c)
{
	struct batch *b = c->arg;
	struct locate q = {.c = c};
	int err = locate_init(&q, c, b->who);

	if (!err)
		err = pin_all(&q);
	if (!err && some_late(b))
		q.answer->flags |= KVFS_IOC_INCOMPLETE;
	batch_free(c->fs->kv, b);
	if (err)
		fail(&q, err);
	else
		reply(&q);
	locate_fini(&q);
}

static void locate_on_worker(struct call *c)
{
	struct kv_caller *who = kv_caller_new(c);
	struct locate q;
	int err = who ? locate_init(&q, c, who) : -ENOMEM;

	if (err) {
		free(who);
		call_reply_err(c, err);
		return;
	}
	ioctl_dirs_ask(c, &q.names);
	err = pin_all(&q);
	if (!err && q.far && q.flags & KVFS_IOC_FETCH && remote_active(c->fs)) {
		unpin_all(&q);
		err = fetch(&q, who);
		if (!err) {
			locate_fini(&q);
			return;
		}
	}
	free(who);
	if (err)
		fail(&q, err);
	else
		reply(&q);
	locate_fini(&q);
}

/* -- handlers ----------------------------------------------------------- */

/* Returns: how many there were. */
static uint32_t drop_pins(struct call *c, const struct kvfs_ioc_pin *pin,
			  uint32_t n)
{
	struct kv *kv = c->fs->kv;
	uint32_t dropped = 0;
	scoped_lock(&kv->lock);

	for (uint32_t i = 0; i < n; i++)
		dropped += kv_pins_drop(kv, *kv_pins_of(c), pin[i].frame,
					pin[i].epoch);
	return dropped;
}

/* Also where the rest is not as it should be. */
static void drop_pins_before(struct call *c)
{
	struct kvfs_ioc_locate in;
	const char *at = (const char *)c->value + sizeof(in);
	size_t left = c->size - sizeof(in);
	const struct kvfs_ioc_pin *pins;

	memcpy(&in, c->value, sizeof(in));
	pins = ioctl_pins_take(&at, &left, in.n_unpin);
	if (pins && in.n_unpin)
		drop_pins(c, pins, in.n_unpin);
}

void ioctl_do_locate(struct call *c)
{
	const struct kv_caller who = kv_caller_of(c);
	struct locate q;
	bool fetch;
	int err;

	drop_pins_before(c);
	err = locate_init(&q, c, &who);
	if (err) {
		call_reply_err(c, err);
		return;
	}
	err = pin_all(&q);
	fetch = !err && q.far && q.flags & KVFS_IOC_FETCH &&
		remote_active(c->fs);
	if (err || fetch)
		unpin_all(&q);
	if (err == -EAGAIN || fetch)
		call_defer(c, locate_on_worker);
	else if (err)
		call_reply_err(c, err);
	else
		reply(&q);
	locate_fini(&q);
}

void ioctl_do_unpin(struct call *c)
{
	const struct kvfs_ioc_pin *pin;
	struct kvfs_ioc_pins in;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags || c->size - sizeof(in) != in.n * sizeof(*pin)) {
		call_reply_err(c, EINVAL);
		return;
	}
	pin = (const void *)((const char *)c->value + sizeof(in));
	in.n = drop_pins(c, pin, in.n);
	in.head = ioctl_head(sizeof(in));
	call_reply_ioctl(c, &in, sizeof(in));
}

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * Blocks that Redis does not list this node for, as META_KV_HOLDERS_MAX others
 * have them already.
 *
 * A holder is told of a removal, this node would hear of it from the next
 * audit. So a thread asks for all such blocks, a trip for many of them, twice a
 * second: what still is the version that Redis has stays, what is not does not.
 * It costs Redis a lookup, and the caller nothing: what is here is up to date,
 * by whatever way it is read, and the kernel may go on to remember it. What
 * Redis has not confirmed for a second, as it does not answer, goes, too.
 *
 * A copy that nobody reads is not worth that: it goes after KEEP_NS, and is
 * fetched once more when somebody does.
 */

#define EVERY_NS (NS_PER_S / 2)
#define UNSURE_NS NS_PER_S
#define KEEP_NS (10 * NS_PER_S)
#define AT_ONCE 256u /* in one trip */

struct unlisted_trip {
	int64_t asked_ns;
	unsigned n;
	struct kv_file *files[AT_ONCE]; /* pinned */
	struct meta_kv_ask asks[AT_ONCE];
	char paths[AT_ONCE][POOL_PATH_MAX + 1];
};

void remote_unlisted(struct kv *kv, struct kv_file *f, bool unlisted)
{
	if (!unlisted) {
		list_remove(&f->unlisted);
	} else if (list_empty(&f->unlisted)) {
		f->confirmed_ns = clock_now_ns();
		list_push_back(&kv->unlisted, &f->unlisted);
		pthread_cond_signal(&kv->unlisted_some);
	}
}

static bool is_forgotten(struct kv *kv, struct kv_file *f, int64_t now)
{
	return kv_kind(kv, f) == KV_COPY &&
	       now - (int64_t)kv_record(kv, f)->last_use > KEEP_NS;
}

/* The next of the list, at most *left of them; they go to its end. Lock held.
 */
static void take(struct kv *kv, struct unlisted_trip *t, unsigned *left)
{
	t->asked_ns = clock_now_ns();
	for (t->n = 0; *left && t->n < AT_ONCE; --*left) {
		struct kv_file *f = container_of(kv->unlisted.next,
						 struct kv_file, unlisted);
		struct meta_kv_ask *ask = &t->asks[t->n];
		int len;

		if (list_empty(&kv->unlisted))
			return;
		if (is_forgotten(kv, f, t->asked_ns) && kv_evict_now(kv, f))
			continue;
		list_remove(&f->unlisted);
		list_push_back(&kv->unlisted, &f->unlisted);
		len = kv_path(kv_dir(f->node.parent), f->node.name,
			      t->paths[t->n]);
		if (len < 0)
			continue;
		*ask = (struct meta_kv_ask){.path = t->paths[t->n],
					    .path_len = (uint16_t)len,
					    .err = -EIO};
		f->node.pins++;
		t->files[t->n++] = f;
	}
}

/* Who has it open keeps it. */
static void let_go(struct kv *kv, struct kv_file *f)
{
	kv_invalidate(kv, f);
	kv_drop(kv, f, false);
}

/*
 * A name that is gone was removed, or nobody else has it any more, and then
 * this one must not go: the answer to a publish tells. Peers are not given it
 * until then.
 */
static void hear(struct kv *kv, struct kv_file *f,
		 const struct meta_kv_ask *ask, int64_t asked_ns)
{
	bool same = !ask->err &&
		    ask->found.generation == kv_record(kv, f)->generation;

	if (same)
		f->confirmed_ns = asked_ns;
	if (same && ask->found.n_holders == META_KV_HOLDERS_MAX)
		return;
	if (same || (ask->err == -ENOENT && f->node.published)) {
		f->node.published = same;
		kv_publish(kv, f);
	} else if (ask->err != -EIO ||
		   clock_now_ns() - f->confirmed_ns > UNSURE_NS) {
		let_go(kv, f);
	}
}

static void settle(struct kv *kv, struct unlisted_trip *t)
{
	for (unsigned i = 0; i < t->n; i++) {
		struct kv_file *f = t->files[i];

		if (!list_empty(&f->unlisted)) /* it is a block, by this name */
			hear(kv, f, &t->asks[i], t->asked_ns);
		kv_unpin(kv, f);
	}
}

static unsigned count(const struct list *list)
{
	unsigned n = 0;

	list_for_each (l, list)
		n++;
	return n;
}

/* All of them; lock held, dropped meanwhile. */
static void ask_all(struct remote *r, struct unlisted_trip *t)
{
	struct kv *kv = r->fs->kv;
	unsigned left = count(&kv->unlisted);

	while (left && !r->unlisted_stop) {
		take(kv, t, &left);
		pthread_mutex_unlock(&kv->lock);
		if (t->n)
			meta_kv_lookup_many(r->fs->meta, t->asked_ns + EVERY_NS,
					    t->asks, t->n);
		pthread_mutex_lock(&kv->lock);
		settle(kv, t);
	}
}

static void *asker(void *arg)
{
	struct remote *r = arg;
	struct kv *kv = r->fs->kv;
	int64_t began;

	pthread_mutex_lock(&kv->lock);
	while (!r->unlisted_stop) {
		struct timespec until;

		if (list_empty(&kv->unlisted)) {
			pthread_cond_wait(&kv->unlisted_some, &kv->lock);
			continue;
		}
		began = clock_now_ns();
		ask_all(r, r->unlisted_trip);
		until = clock_timespec(began + EVERY_NS);
		while (!r->unlisted_stop && clock_now_ns() < began + EVERY_NS)
			pthread_cond_timedwait(&kv->unlisted_some, &kv->lock,
					       &until);
	}
	pthread_mutex_unlock(&kv->lock);
	return NULL;
}

int remote_unlisted_open(struct remote *r)
{
	int err;

	r->unlisted_trip = malloc(sizeof(*r->unlisted_trip));
	if (!r->unlisted_trip)
		return -ENOMEM;
	err = pthread_create(&r->asker, NULL, asker, r);
	if (err)
		free(r->unlisted_trip);
	else
		pthread_setname_np(r->asker, "kvfs-unlisted");
	return -err;
}

void remote_unlisted_close(struct remote *r)
{
	struct kv *kv = r->fs->kv;

	pthread_mutex_lock(&kv->lock);
	r->unlisted_stop = true;
	pthread_cond_signal(&kv->unlisted_some);
	pthread_mutex_unlock(&kv->lock);
	pthread_join(r->asker, NULL);
	free(r->unlisted_trip);
}

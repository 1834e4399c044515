// SPDX-License-Identifier: MIT
#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "fs/kv.h"

/*
 * The kernel keeps names and attributes for long, so it is told what went.
 *
 * Told by inode, not by name: a notice that a name is void (INVAL_ENTRY) waits
 * for the lock of its directory, and the caller who holds that may be waiting
 * for us. Nobody can end such a wait, not even by killing us: a daemon that
 * dies meanwhile keeps the connection, and all who wait for it, for good.
 * Attributes are declared void (INVAL_INODE), so that whoever still walks to
 * the file asks us and hears ESTALE; and names that nobody uses just now are
 * pruned (PRUNE, Linux 6.18). Neither takes the lock of a directory.
 *
 * The price: nothing orders a notice after an answer that is on its way to
 * the kernel, and a name in use is not pruned. So a file stays on the list
 * until the kernel forgets it, and is told again a few times.
 *
 * Older kernels refuse PRUNE. There it is INVAL_ENTRY, by the same thread;
 * `kvfs mount` ends a daemon that was killed in that moment.
 */

#define TELL_MOST 64 /* files in one go */
#define TELL_AGAIN_NS (100 * NS_PER_MS)
#define TELL_TIMES 20
/* KV_MISS_TIMEOUT begins only when the answer has reached the kernel. */
#define MISSED_TURN_NS (NS_PER_S / 2)

struct notice {
	fuse_ino_t file, dir;
	char name[256];
};

/* The kernel's ABI (include/uapi/linux/fuse.h, Linux 6.18), declared here
 * because the headers of older distributions lack it. */
#define NOTIFY_PRUNE 9
struct prune_out {
	uint32_t count;
	uint32_t padding;
	uint64_t spare;
};

void kv_invalidate(struct kv *kv, struct kv_file *f)
{
	if (!f->node.nlookup)
		return; /* the kernel does not know it */
	f->told = 0;
	list_remove(&f->stale);
	list_push_back(&kv->stale, &f->stale);
	pthread_cond_signal(&kv->stale_some);
}

bool kv_is_invalid(const struct kv_file *f)
{
	return f->told || !list_empty(&f->stale);
}

static void notice_fill(struct kv *kv, struct notice *n, struct kv_file *f)
{
	n->file = inode_fuse(kv->fs, &f->node.head);
	n->dir = inode_fuse(kv->fs, &f->node.parent->head);
	snprintf(n->name, sizeof(n->name), "%s", f->node.name);
}

/* Off one list, and onto that of files told where more is to come. */
static unsigned take_notices(struct kv *kv, struct list *from,
			     struct notice *batch)
{
	unsigned n = 0;

	while (n < TELL_MOST && !list_empty(from)) {
		struct kv_file *f =
			container_of(from->next, struct kv_file, stale);

		notice_fill(kv, &batch[n++], f);
		list_remove(&f->stale);
		if (++f->told < TELL_TIMES && !kv->no_prune)
			list_push_back(&kv->told, &f->stale);
	}
	return n;
}

static int prune(struct kv *kv, uint64_t *ids, uint32_t n)
{
	struct prune_out out = {.count = n};
	struct fuse_out_header head = {.error = NOTIFY_PRUNE};
	struct iovec iov[] = {
		{&head, sizeof(head)},
		{&out, sizeof(out)},
		{ids, n * sizeof(*ids)},
	};

	head.len = (uint32_t)(sizeof(head) + sizeof(out) + n * sizeof(*ids));
	if (fault_hit("kv.prune"))
		return -EINVAL;
	return writev(fuse_session_fd(kv->fs->session), iov, 3) < 0 ? -errno
								    : 0;
}

static void tell_by_name(struct kv *kv, const struct notice *batch, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		fuse_lowlevel_notify_inval_entry(kv->fs->session, batch[i].dir,
						 batch[i].name,
						 strlen(batch[i].name));
}

static uint64_t *missed_word(uint64_t *bits, const char *name, uint64_t *bit)
{
	uint64_t at = XXH3_64bits(name, strlen(name)) % KV_MISSED_BITS;

	*bit = 1ull << at % 64;
	return &bits[at / 64];
}

static void missed_turn(struct kv_missed *m)
{
	int64_t now = clock_now_ns(), age = now - m->turned_ns;

	if (age < MISSED_TURN_NS)
		return;
	if (age < 2 * MISSED_TURN_NS)
		memcpy(m->bits[1], m->bits[0], sizeof(m->bits[1]));
	else
		memset(m->bits[1], 0, sizeof(m->bits[1]));
	memset(m->bits[0], 0, sizeof(m->bits[0]));
	m->turned_ns = now;
}

void kv_missed(struct kv *kv, const char *name)
{
	uint64_t bit, *word = missed_word(kv->missed.bits[0], name, &bit);

	missed_turn(&kv->missed);
	*word |= bit;
}

void kv_came(struct kv *kv, const struct kv_node *node)
{
	struct kv_missed *m = &kv->missed;
	uint64_t bit, *word = missed_word(m->bits[0], node->name, &bit);

	missed_turn(m);
	if ((word[0] | word[KV_MISSED_BITS / 64]) & bit)
		atomic_fetch_add(&m->came, 1);
}

/* One number of the connection goes on, which takes no lock of a directory. The
 * price is a LOOKUP for each name that the kernel has. */
void kv_tell_came(struct kv *kv)
{
	uint64_t came = atomic_load(&kv->missed.came);

	if (atomic_load(&kv->missed.told) == came)
		return;
	fuse_lowlevel_notify_increment_epoch(kv->fs->session);
	atomic_store(&kv->missed.told, came);
}

/* ENOENT everywhere: the kernel had forgotten it by itself. */
static void tell(struct kv *kv, const struct notice *batch, unsigned n)
{
	struct fuse_session *session = kv->fs->session;
	uint64_t ids[TELL_MOST];
	fuse_ino_t dir = 0;

	for (unsigned i = 0; i < n; i++) {
		ids[i] = batch[i].file;
		fuse_lowlevel_notify_inval_inode(session, batch[i].file, -1, 0);
		if (batch[i].dir != dir)
			fuse_lowlevel_notify_inval_inode(session, batch[i].dir,
							 -1, 0);
		dir = batch[i].dir;
	}
	if (!kv->no_prune && prune(kv, ids, n) == -EINVAL) {
		log_info("kv: the kernel cannot prune names (Linux 6.18)");
		kv->no_prune = true;
	}
	if (kv->no_prune)
		tell_by_name(kv, batch, n);
}

/* Waits until there is something to tell. Returns: false, no more. */
static bool wait_stale(struct kv *kv, bool *again)
{
	struct timespec until;

	*again = false;
	while (!kv->tell_stop && list_empty(&kv->stale) && !*again) {
		if (list_empty(&kv->told)) {
			pthread_cond_wait(&kv->stale_some, &kv->lock);
			continue;
		}
		until = clock_timespec(clock_now_ns() + TELL_AGAIN_NS);
		*again = pthread_cond_timedwait(&kv->stale_some, &kv->lock,
						&until) == ETIMEDOUT;
	}
	return !kv->tell_stop;
}

static void *tell_kernel(void *arg)
{
	struct notice batch[TELL_MOST];
	struct kv *kv = arg;
	bool again;
	unsigned n;

	pthread_setname_np(pthread_self(), "kvfs-inval");
	pthread_mutex_lock(&kv->lock);
	while (wait_stale(kv, &again)) {
		n = take_notices(kv, again ? &kv->told : &kv->stale, batch);
		pthread_mutex_unlock(&kv->lock);
		tell(kv, batch, n);
		pthread_mutex_lock(&kv->lock);
	}
	pthread_mutex_unlock(&kv->lock);
	return NULL;
}

int kv_tell_start(struct kv *kv)
{
	int err;

	kv->tell_stop = false;
	err = -pthread_create(&kv->tell_thread, NULL, tell_kernel, kv);
	if (err)
		kv->tell_stop = true;
	return err;
}

void kv_quiesce(struct kv *kv)
{
	bool stopped;

	pthread_mutex_lock(&kv->lock);
	stopped = kv->tell_stop;
	kv->tell_stop = true;
	pthread_cond_signal(&kv->stale_some);
	pthread_mutex_unlock(&kv->lock);
	if (!stopped)
		pthread_join(kv->tell_thread, NULL);
}

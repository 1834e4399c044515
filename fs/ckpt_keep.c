// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "fs/ckpt_fetch.h"
#include "meta/nodes.h"

/*
 * What goes on after a file was closed. ckpt_data.needs says what is still to
 * be done; one job at a time does it:
 *
 *      settle   on ckpt.jobs: removes the data of a nameless file, publishes
 *               what the last flush did not, sees whether anybody still maps
 *               the file for writing (release does not wait for that)
 *      sum      on ckpt.sums: takes the checksums of what was published
 *
 * What fails because Redis is away is kept in ckpt.retries, and the keeper
 * tries again. Nothing is forgotten: a daemon that ends meanwhile leaves it to
 * the scan after the next start. So ending takes no longer than one deadline,
 * however many files are left: jobs that wait in the queue then do nothing,
 * and ckeep_stop publishes as much as that time allows.
 */

#define RETRY_MIN_NS (5 * NS_PER_MS)
#define RETRY_MAX_NS (2 * NS_PER_S)
#define MAPPING_NS NS_PER_S /* without a lease so long: somebody maps it */
#define DOUBT_NS (500 * NS_PER_MS)
#define SCAN_NS (600 * NS_PER_S)

/* The record is released; do peers still fetch the bytes? */
static bool lingers(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	d->inode->kept = false;
	return cfetch_was_served(d->ckpt, d->ino);
}

/* No name and no opener: neither the record nor the bytes are needed. */
static int remove_data(struct ckpt_data *d, int64_t deadline, bool kept)
{
	struct ckpt *ckpt = d->ckpt;
	int err = kept ? ckpt_release(ckpt->fs->meta, deadline, d->ino) : 0;

	if (err && err != -ESTALE && err != -ENOENT)
		return err;
	if (kept && cfetch_on(ckpt))
		cfetch_tell_gone(ckpt, d->ino);
	if (lingers(d))
		return -EAGAIN; /* who reads it elsewhere gets the rest */
	err = cstore_remove(ckpt, d->ino);
	if (err && err != -ENOENT)
		log_error("ckpt: inode %" PRIu64 ": cannot remove its file: %s",
			  d->ino, strerror(-err));
	pthread_mutex_lock(&ckpt->lock);
	d->inode->kept = false;
	pthread_mutex_unlock(&ckpt->lock);
	return 0;
}

/* A mapping outlives close(), and RELEASE comes before its last store. Only a
 * file that nobody can write any more gives a read lease. */
static int probe(struct ckpt_data *d)
{
	cleanup_close int fd = cstore_fd(d->ckpt, d->ino, O_RDONLY);
	int err = 0;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0)
		fcntl(fd, F_SETLEASE, F_UNLCK);
	else if (errno == EAGAIN)
		err = -EAGAIN;
	return err;
}

struct view_of {
	unsigned needs;
	bool writers, open, gone, kept, passthrough;
};

static struct view_of look(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);
	struct view_of v = {
		.needs = d->needs,
		.writers = d->n_writers,
		.open = d->n_open,
		.gone = d->inode->gone,
		.kept = d->inode->kept,
		.passthrough = d->ckpt->fs->passthrough,
	};

	return v;
}

static void satisfied(struct ckpt_data *d, unsigned needs)
{
	scoped_lock(&d->ckpt->lock);

	d->needs &= ~needs;
}

/* The record went although nobody here removed its name. */
static void vanished(struct ckpt_data *d)
{
	log_warn("ckpt: inode %" PRIu64 ": its record is gone", d->ino);
	scoped_lock(&d->ckpt->lock);

	d->inode->gone = true;
	d->inode->kept = false;
	if (!d->n_open)
		d->needs |= CKPT_NEED_REMOVE;
}

/* close() lets go of the file a moment after RELEASE: no mapping yet. */
static bool is_mapping(struct ckpt_data *d, bool leased)
{
	int64_t now = clock_now_ns();

	if (leased)
		d->leaseless_ns = 0;
	else if (!d->leaseless_ns)
		d->leaseless_ns = now;
	return !leased && now - d->leaseless_ns >= MAPPING_NS;
}

/*
 * -EAGAIN while somebody may map the file for writing. A store to a page that
 * is dirty already leaves no stamp; so nobody is told a checksum before the
 * lease is there (is_here), unless that takes long: then it is a mapping, and
 * its end is published whatever the stamps say.
 */
static int publish_closed(struct ckpt_data *d, int64_t deadline,
			  bool passthrough)
{
	int leased = passthrough ? probe(d) : 0;
	bool mapped = is_mapping(d, leased != -EAGAIN);
	int err;

	pthread_mutex_lock(&d->ckpt->lock);
	if (d->mapped && !mapped)
		d->mark.valid = false;
	d->mapped = mapped;
	pthread_mutex_unlock(&d->ckpt->lock);
	err = cdata_publish(d, deadline, true);
	return err ? err : leased;
}

/* Serial held. 0 done, 1 the sum is to be taken, or -errno: later. */
static int settle_now(struct ckpt_data *d, int64_t deadline)
{
	struct view_of v = look(d);
	int err = 0;

	if (v.gone) {
		if (!v.open)
			err = remove_data(d, deadline, v.kept);
		if (!err)
			satisfied(d, ~0u);
		return err;
	}
	if (v.writers)
		return 0; /* its release comes back here */
	if (v.needs & CKPT_NEED_PUBLISH) {
		err = publish_closed(d, deadline, v.passthrough);
		if (err == -ESTALE) {
			vanished(d);
			return settle_now(d, deadline);
		}
		if (err)
			return err;
		satisfied(d, CKPT_NEED_PUBLISH);
		if (cfetch_on(d->ckpt)) /* an open for writing withdrew them */
			ckpt_shards_dirty(d->ckpt->fs->meta, d->ino);
	}
	return look(d).needs & CKPT_NEED_SUM ? 1 : 0;
}

static void settle(struct job *job)
{
	struct ckpt_data *d = container_of(job, struct ckpt_data, job);
	int err;

	if (atomic_load(&d->ckpt->stopping)) {
		ckeep_done(d, 0);
		return;
	}
	err = cdata_lock(d, INT64_MAX);
	if (!err) {
		err = settle_now(d, 0);
		cdata_unlock(d);
	}
	if (err == 1)
		csum_post(d);
	else
		ckeep_done(d, err);
}

static void post(struct ckpt_data *d)
{
	d->busy = true;
	d->again = false;
	d->job.run = settle;
	workers_post(d->ckpt->jobs, &d->job);
}

void ckeep_settle(struct ckpt_data *d, unsigned needs)
{
	d->needs |= needs;
	if (d->busy) {
		d->again = true;
		return;
	}
	if (atomic_load(&d->ckpt->stopping))
		return; /* ckeep_stop goes over all that is left */
	if (list_empty(&d->retry))
		d->refs++;
	list_remove(&d->retry);
	post(d);
}

/* Locked. The reference of the job becomes that of the list. */
static void retry_later(struct ckpt_data *d)
{
	struct ckpt *ckpt = d->ckpt;

	d->retry_ns = d->retry_ns ? d->retry_ns * 2 : RETRY_MIN_NS;
	if (d->retry_ns > RETRY_MAX_NS)
		d->retry_ns = RETRY_MAX_NS;
	d->retry_at_ns = clock_now_ns() + d->retry_ns;
	list_push_back(&ckpt->retries, &d->retry);
	pthread_cond_signal(&ckpt->wake);
}

void ckeep_done(struct ckpt_data *d, int err)
{
	struct ckpt *ckpt = d->ckpt;
	bool stopping = atomic_load(&ckpt->stopping);

	pthread_mutex_lock(&ckpt->lock);
	d->busy = false;
	if (!err)
		d->retry_ns = 0;
	if (!stopping && err) {
		retry_later(d);
		d = NULL;
	} else if (!stopping && d->again) {
		post(d);
		d = NULL;
	} else if (stopping) {
		d = NULL; /* ckeep_stop looks at it again */
	}
	pthread_mutex_unlock(&ckpt->lock);
	if (d)
		cdata_put(d);
}

/* Locked. Peers fetch it: a job tries until they do no more. */
static bool linger(struct ckpt *ckpt, const struct ckpt_gone *gone)
{
	struct ckpt_inode *inode = cinode_find(ckpt, gone->ino);
	struct ckpt_data *d;

	if (!cfetch_was_served(ckpt, gone->ino) || !inode)
		return false;
	d = cdata_make(ckpt, inode);
	if (d)
		ckeep_settle(d, CKPT_NEED_REMOVE);
	return d;
}

static void hurry(struct ckpt *ckpt, uint64_t ino)
{
	struct ckpt_inode *inode;
	struct ckpt_data *d = NULL;

	pthread_mutex_lock(&ckpt->lock);
	inode = cinode_find(ckpt, ino);
	if (inode && inode->data && inode->data->n_open) {
		d = inode->data;
		d->refs++;
	}
	pthread_mutex_unlock(&ckpt->lock);
	if (!d)
		return;
	cfetch_hurry(d);
	cdata_put(d);
}

void ckeep_gone(struct ckpt *ckpt, const struct ckpt_gone *gone, bool here)
{
	struct ckpt_inode *inode;
	bool remove = !gone->nlink && gone->freed && S_ISREG(gone->mode);

	if (!gone->ino)
		return;
	if (here && remove && cfetch_on(ckpt))
		cfetch_tell_gone(ckpt, gone->ino);
	pthread_mutex_lock(&ckpt->lock);
	inode = cinode_find(ckpt, gone->ino);
	if (inode)
		inode->seen_ns = 0;
	if (inode && !gone->nlink) {
		if (S_ISREG(gone->mode) && !meta_nodes_alone(ckpt->fs->meta))
			cfetch_will_serve(ckpt, gone->ino);
		inode->gone = true;
		inode->kept = !gone->freed;
		inode->attr.nlink = 0;
		if (inode->data) {
			remove = false;
			if (!inode->data->n_open)
				ckeep_settle(inode->data, CKPT_NEED_REMOVE);
		}
	}
	remove = remove && !linger(ckpt, gone);
	pthread_mutex_unlock(&ckpt->lock);
	if (remove)
		cstore_remove(ckpt, gone->ino);
	if (!here)
		hurry(ckpt, gone->ino);
}

/* Locked. Posts what is due; returns when the next one is. */
static int64_t post_due(struct ckpt *ckpt)
{
	int64_t now = clock_now_ns(), next = INT64_MAX;

	list_for_each_safe (l, &ckpt->retries) {
		struct ckpt_data *d = container_of(l, struct ckpt_data, retry);

		if (d->retry_at_ns <= now) {
			list_remove(l);
			post(d);
		} else if (d->retry_at_ns < next) {
			next = d->retry_at_ns;
		}
	}
	return next;
}

/* Locked, but not while it scans. Other nodes remove files, too, and tell: but
 * not whoever could not be reached. */
static int64_t scan_due(struct ckpt *ckpt, int64_t at)
{
	if (clock_now_ns() < at)
		return at;
	pthread_mutex_unlock(&ckpt->lock);
	cstore_scan(ckpt);
	pthread_mutex_lock(&ckpt->lock);
	return cfetch_on(ckpt) ? clock_now_ns() + SCAN_NS : INT64_MAX;
}

/* Locked, but not while it asks. */
static int64_t doubts_due(struct ckpt *ckpt, int64_t at)
{
	if (!ckpt->n_doubts)
		return INT64_MAX;
	if (at == INT64_MAX)
		return clock_now_ns() + DOUBT_NS;
	if (clock_now_ns() < at)
		return at;
	pthread_mutex_unlock(&ckpt->lock);
	cfetch_check_doubts(ckpt);
	pthread_mutex_lock(&ckpt->lock);
	return ckpt->n_doubts ? clock_now_ns() + DOUBT_NS : INT64_MAX;
}

static void *keep(void *arg)
{
	struct ckpt *ckpt = arg;
	int64_t scan_at = 0, doubt_at = INT64_MAX;

	pthread_setname_np(pthread_self(), "kvfs-ckeep");
	pthread_mutex_lock(&ckpt->lock);
	while (!atomic_load(&ckpt->stopping)) {
		struct timespec t;
		int64_t next;

		scan_at = scan_due(ckpt, scan_at);
		doubt_at = doubts_due(ckpt, doubt_at);
		/* After those two, which let go of the lock. */
		if (atomic_load(&ckpt->stopping))
			break;
		next = post_due(ckpt);
		if (scan_at < next)
			next = scan_at;
		if (doubt_at < next)
			next = doubt_at;
		t = clock_timespec(next);

		if (next == INT64_MAX)
			pthread_cond_wait(&ckpt->wake, &ckpt->lock);
		else
			pthread_cond_timedwait(&ckpt->wake, &ckpt->lock, &t);
	}
	pthread_mutex_unlock(&ckpt->lock);
	return NULL;
}

int ckeep_start(struct ckpt *ckpt)
{
	int err;

	list_init(&ckpt->retries);
	cond_init(&ckpt->wake);
	cond_init(&ckpt->serial_free);
	err = workers_open(&ckpt->jobs, "kvfs-settle", 2, 0);
	if (!err)
		err = workers_open(&ckpt->sums, "kvfs-sum", 1, 10);
	if (!err)
		err = -pthread_create(&ckpt->keeper, NULL, keep, ckpt);
	ckpt->keeping = !err;
	return err;
}

static int publish_left_of(struct ckpt_data *d, int64_t deadline)
{
	struct view_of v = look(d);
	int err;

	if (!v.writers && !(v.needs & (CKPT_NEED_PUBLISH | CKPT_NEED_REMOVE)))
		return 0;
	if (clock_now_ns() > deadline)
		return -ETIMEDOUT;
	err = settle_now(d, deadline);
	if (err >= 0 && d->n_writers)
		err = cdata_publish(d, deadline, true);
	return err == -EAGAIN || err > 0 ? 0 : err; /* mapped, but published */
}

/* One last time for what is not published, open or not, while Redis answers. */
static void publish_left(struct ckpt *ckpt)
{
	int64_t deadline =
		clock_now_ns() + ckpt->fs->config.deadline_ms * NS_PER_MS;
	unsigned long n_left = 0;

	for (size_t i = 0; i < ckpt->n_buckets; i++) {
		struct ckpt_inode *inode = ckpt->buckets[i];

		for (; inode; inode = inode->next) {
			if (inode->data)
				n_left += publish_left_of(inode->data,
							  deadline) != 0;
		}
	}
	if (n_left)
		log_warn("ckpt: %lu files could not be published: the next "
			 "mount will",
			 n_left);
}

void ckeep_stop(struct ckpt *ckpt)
{
	if (ckpt->keeping) {
		atomic_store(&ckpt->stopping, true);
		pthread_mutex_lock(&ckpt->lock);
		pthread_cond_broadcast(&ckpt->wake);
		pthread_mutex_unlock(&ckpt->lock);
		pthread_join(ckpt->keeper, NULL);
	}
	workers_close(ckpt->jobs);
	workers_close(ckpt->sums);
	if (ckpt->keeping)
		publish_left(ckpt);
	pthread_cond_destroy(&ckpt->wake);
	pthread_cond_destroy(&ckpt->serial_free);
}

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "fs/ckpt_fetch.h"
#include "fs/ckpt_fetch_part.h"
#include "fs/remote.h"

/*
 * A shard at a time, in parts, a few of them under way: while one is hashed
 * and written the next ones come. A holder that fails is followed by another,
 * which goes on where it ended. Every part that comes puts the deadline off;
 * when it passes, nobody could give the shard.
 */

#define SUM_BYTES 16u
#define WINDOW 3
#define HOLDERS_MAX 64
#define BAD_MAX 3 /* times that a shard may come with a wrong checksum */
#define PAUSE_MIN_US 2000
#define PAUSE_MAX_US 100000
#define GONE_NS NS_PER_S /* nobody has it, and said so that long */
#define ZEROS (64u << 10)

struct holder {
	uint32_t incarnation;
	int64_t score; /* the lower the better */
};

struct shard {
	struct cfetch *f;
	struct ckpt *ckpt;
	struct remote *r;
	uint64_t index, offset, length_bytes;
	uint64_t at; /* so many bytes are written and hashed */
	bool foreground;
	bool past;    /* Redis has another version, or none any more */
	bool punched; /* what is not written reads as zeros */
	unsigned n_bad;
	int64_t until; /* puts off with every part */
	XXH3_state_t *state;
	struct holder holders[HOLDERS_MAX];
	unsigned n_holders;
	char tried[160]; /* names of those that could not */
};

static int64_t deadline_ns(const struct ckpt *ckpt)
{
	return ckpt->fs->config.deadline_ms * NS_PER_MS;
}

/* -- who has it --------------------------------------------------------- */

static void add_holder(struct shard *s, uint32_t incarnation)
{
	if (s->n_holders == HOLDERS_MAX ||
	    incarnation == meta_node_self(s->r->fs->meta))
		return;
	s->holders[s->n_holders++] = (struct holder){
		.incarnation = incarnation,
		.score = remote_score(s->r, incarnation) + (random() & 1023),
	};
}

static void note_holder(void *arg, const struct ckpt_holder *h)
{
	struct shard *s = arg;

	if (h->whole || (s->index / 8 < h->n_bytes &&
			 h->bits[s->index / 8] >> s->index % 8 & 1))
		add_holder(s, h->incarnation);
}

static bool note_node(void *arg, const struct meta_node *node)
{
	add_holder(arg, node->incarnation);
	return true;
}

static int by_score(const void *a, const void *b)
{
	int64_t x = ((const struct holder *)a)->score;
	int64_t y = ((const struct holder *)b)->score;

	return x < y ? -1 : x > y;
}

/* Whom Redis names. Of a version that is past, and for a moment after a file
 * was open for writing, it names nobody: then any node may have it. */
static void find_holders(struct shard *s)
{
	const struct cmap *m = &s->f->map;
	struct meta *meta = s->r->fs->meta;
	int err;

	s->n_holders = 0;
	err = ckpt_holders(meta, s->until, m->ino, m->version, note_holder, s);
	s->past = err == -ESTALE;
	if (s->past || (!err && !s->n_holders))
		meta_nodes(meta, note_node, s);
	qsort(s->holders, s->n_holders, sizeof(*s->holders), by_score);
}

/* -- the bytes ---------------------------------------------------------- */

static bool is_zero(const uint8_t *p, size_t n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

static int write_all(int fd, const uint8_t *p, size_t n, off_t at)
{
	while (n) {
		ssize_t put = pwrite(fd, p, n, at);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put ? -errno : -EIO;
		p += put;
		at += put;
		n -= (size_t)put;
	}
	return 0;
}

/* Somebody truncates it. io is held. */
static bool given_up(struct cfetch *f)
{
	scoped_lock(&f->lock);

	return f->whole;
}

/* Sparse files stay sparse. */
static int write_part(struct shard *s, const uint8_t *p, size_t n)
{
	off_t at = (off_t)(s->offset + s->at);
	scoped_lock(&s->f->io);
	int err = fault_hit("ckpt.fetch.write") ? -ENOSPC : 0;

	if (given_up(s->f))
		return -ECANCELED;
	while (n && !err) {
		size_t piece = n < ZEROS ? n : ZEROS;

		if (!s->punched || !is_zero(p, piece))
			err = write_all(s->f->fd, p, piece, at);
		p += piece;
		at += (off_t)piece;
		n -= piece;
	}
	return err;
}

/* Whatever lies there was never verified. */
static void begin(struct shard *s)
{
	scoped_lock(&s->f->io);

	s->at = 0;
	s->punched =
		!given_up(s->f) &&
		!fallocate(s->f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   (off_t)s->offset, (off_t)s->length_bytes);
	XXH3_128bits_reset(s->state);
}

static int take_part(struct shard *s, struct cpart *part)
{
	uint64_t n = cpart_length(part);
	int err = write_part(s, cpart_bytes(part), n);

	if (err)
		return err;
	XXH3_128bits_update(s->state, cpart_bytes(part), n);
	s->at += n;
	s->until = clock_now_ns() + deadline_ns(s->ckpt);
	atomic_fetch_add(&s->ckpt->fs->counters.shard_fetched_bytes, n);
	return 0;
}

static int ask_part(struct shard *s, struct engine_peer *peer, uint64_t at,
		    struct cpart **part)
{
	struct cwire_ask ask = {
		.ino = s->f->map.ino,
		.version = s->f->map.version,
		.offset = s->offset + at,
		.length_bytes = s->length_bytes - at < CWIRE_PART_MAX
					? s->length_bytes - at
					: CWIRE_PART_MAX,
		.priority = s->foreground ? ENGINE_FOREGROUND : ENGINE_PREFETCH,
	};

	return cpart_start(s->r, peer, &ask,
			   clock_now_ns() + deadline_ns(s->ckpt), part);
}

/* The rest of the shard. Parts that were asked for are let go of at the end,
 * whatever became of them. */
static int receive(struct shard *s, struct engine_peer *peer)
{
	struct cpart *parts[WINDOW] = {0}, *oldest;
	uint64_t asked = s->at;
	unsigned first = 0, n = 0;
	int err = 0;

	while (!err && s->at < s->length_bytes) {
		while (n < WINDOW && asked < s->length_bytes && !err) {
			err = ask_part(s, peer, asked,
				       &parts[(first + n) % WINDOW]);
			asked += err ? 0 : CWIRE_PART_MAX;
			n += !err;
		}
		if (!n)
			break;
		oldest = parts[first];
		err = cpart_wait(oldest, deadline_ns(s->ckpt) / 3);
		if (!err)
			err = take_part(s, oldest);
		if (!err && atomic_load(&s->ckpt->fetch_stopping))
			err = -ECANCELED;
		cpart_put(oldest);
		first = (first + 1) % WINDOW;
		n--;
	}
	for (; n; n--, first = (first + 1) % WINDOW)
		cpart_put(parts[first]);
	return err;
}

/* -- the checksum ------------------------------------------------------- */

static void load_sums(struct shard *s)
{
	const struct cmap *m = &s->f->map;
	uint8_t *sums = calloc(m->n_shards, SUM_BYTES);

	if (sums &&
	    ckpt_get_checksums(s->r->fs->meta, s->until, m->ino, m->version,
			       sums, m->n_shards) == (int)m->n_shards)
		s->f->sums = sums;
	else
		free(sums);
}

/* Redis has none yet: they are taken a while after close(). */
static int ask_sum(struct shard *s, struct engine_peer *peer,
		   uint8_t sum[SUM_BYTES])
{
	struct cwire_ask ask = {.ino = s->f->map.ino,
				.version = s->f->map.version,
				.offset = s->offset,
				.length_bytes = s->length_bytes};
	struct cpart *part;
	int err = cpart_sum_start(s->r, peer, &ask,
				  clock_now_ns() + deadline_ns(s->ckpt), &part);

	if (err)
		return err;
	err = cpart_wait(part, deadline_ns(s->ckpt));
	if (!err)
		memcpy(sum, cpart_bytes(part), SUM_BYTES);
	cpart_put(part);
	return err;
}

static void digest(struct shard *s, uint8_t sum[SUM_BYTES])
{
	XXH128_hash_t h = XXH3_128bits_digest(s->state);

	for (int i = 0; i < 8; i++) {
		sum[i] = (uint8_t)(h.low64 >> (8 * i));
		sum[8 + i] = (uint8_t)(h.high64 >> (8 * i));
	}
}

static int verify(struct shard *s, struct engine_peer *peer, uint32_t holder)
{
	uint8_t have[SUM_BYTES], want[SUM_BYTES];
	char name[META_NODE_NAME_MAX + 1], file[128];
	int err = 0;

	digest(s, have);
	if (!s->f->sums)
		load_sums(s);
	if (s->f->sums)
		memcpy(want, s->f->sums + s->index * SUM_BYTES, SUM_BYTES);
	else
		err = ask_sum(s, peer, want);
	if (err)
		return err;
	if (!fault_hit("ckpt.fetch.verify") && !memcmp(have, want, SUM_BYTES))
		return 0;
	atomic_fetch_add(&s->ckpt->fs->counters.shard_mismatches, 1);
	cfetch_name(s->ckpt, s->f->map.ino, file, sizeof(file));
	log_warn("ckpt: %s: shard %" PRIu64 " from %s does not match its "
		 "checksum: asking again",
		 file, s->index, remote_node_name(s->r->fs, holder, name));
	return -EBADMSG;
}

/* -- one holder, all holders -------------------------------------------- */

static bool is_final(int err)
{
	return !err || err == -ECANCELED || err == -ENOSPC || err == -EDQUOT ||
	       err == -ENOMEM;
}

static int from_holder(struct shard *s, uint32_t incarnation)
{
	struct engine_peer *peer;
	int err = remote_peer(s->r, incarnation, &peer);

	if (err)
		return err;
	if (s->foreground && *s->tried) /* and now all are needed */
		engine_peer_end_backoff(peer);
	err = receive(s, peer);
	if (!err)
		err = verify(s, peer, incarnation);
	engine_peer_put(peer);
	if (err == -EBADMSG) {
		s->n_bad++;
		begin(s);
	}
	return err;
}

static void note_failure(struct shard *s, uint32_t incarnation, int err)
{
	char name[META_NODE_NAME_MAX + 1];
	size_t n = strlen(s->tried);

	remote_node_name(s->r->fs, incarnation, name);
	if (!strstr(s->tried, name))
		snprintf(s->tried + n, sizeof(s->tried) - n, "%s%s: %s",
			 n ? ", " : "", name, strerror(-err));
}

/* Each once. -ENOENT: they all say so. -EAGAIN: one of them has it, and has it
 * open for writing. */
static int from_any(struct shard *s)
{
	int all = -ENOENT, err;

	for (unsigned i = 0; i < s->n_holders; i++) {
		uint32_t who = s->holders[i].incarnation;

		err = from_holder(s, who);
		if (is_final(err) || s->n_bad > BAD_MAX)
			return err;
		if (err != -ENOENT && all != -EAGAIN)
			all = err;
		note_failure(s, who, err);
		if (atomic_load(&s->ckpt->fetch_stopping))
			return -ECANCELED;
		if (clock_now_ns() >= s->until)
			return all == -EAGAIN ? all : -ETIMEDOUT;
	}
	return all;
}

static int fetch_shard(struct shard *s)
{
	int64_t had_ns = clock_now_ns(); /* somebody might have it */
	unsigned pause = PAUSE_MIN_US;
	int err;

	begin(s);
	do {
		find_holders(s);
		err = from_any(s);
		if (is_final(err) || s->n_bad > BAD_MAX)
			return err;
		if (err == -ENOENT && s->past)
			return err; /* and nobody will have it */
		if (err != -ENOENT)
			had_ns = clock_now_ns();
		usleep(pause);
		if (pause < PAUSE_MAX_US)
			pause *= 2;
	} while (clock_now_ns() < s->until &&
		 clock_now_ns() - had_ns < GONE_NS &&
		 !atomic_load(&s->ckpt->fetch_stopping));
	return err;
}

static int complain(struct shard *s, int err)
{
	const struct cmap *m = &s->f->map;
	char file[128];

	atomic_fetch_add(&s->ckpt->fs->counters.shard_failed, 1);
	cfetch_name(s->ckpt, m->ino, file, sizeof(file));
	if (err == -EAGAIN) {
		log_warn("ckpt: %s: shard %" PRIu64 " cannot be had while the "
			 "file is open for writing where it is (%s)",
			 file, s->index, s->tried);
		return -EBUSY;
	}
	if (is_final(err)) {
		log_error("ckpt: %s: cannot keep shard %" PRIu64
			  " in the state directory: %s",
			  file, s->index, strerror(-err));
		return err;
	}
	if (s->past) {
		log_warn("ckpt: %s: shard %" PRIu64 " of version %" PRIu64
			 " was not here yet when another node published a "
			 "newer version, or removed the file, and nobody has "
			 "it any more%s%s%s: open the file again",
			 file, s->index, m->version, *s->tried ? " (" : "",
			 s->tried, *s->tried ? ")" : "");
		return -ESTALE;
	}
	log_error("ckpt: %s: no node gives shard %" PRIu64 " of %u, version "
		  "%" PRIu64 "%s%s%s: start a node that holds it, or write "
		  "the file anew",
		  file, s->index, m->n_shards, m->version,
		  *s->tried ? " (" : "", s->tried, *s->tried ? ")" : "");
	return -EIO;
}

static int fetch(struct cfetch *f, uint64_t index, bool foreground)
{
	struct ckpt *ckpt = f->d->ckpt;
	struct shard s = {
		.f = f,
		.ckpt = ckpt,
		.r = ckpt->fs->remote,
		.index = index,
		.offset = index * f->map.shard_bytes,
		.foreground = foreground,
		.until = clock_now_ns() + deadline_ns(ckpt),
		.state = XXH3_createState(),
	};
	uint64_t left = f->map.size_bytes - s.offset;
	int err;

	s.length_bytes = left < f->map.shard_bytes ? left : f->map.shard_bytes;
	if (!s.state)
		return -ENOMEM;
	atomic_fetch_add(&ckpt->fs->counters.shard_fetching, 1);
	err = fetch_shard(&s);
	atomic_fetch_sub(&ckpt->fs->counters.shard_fetching, 1);
	XXH3_freeState(s.state);
	if (!err)
		atomic_fetch_add(&ckpt->fs->counters.shards_fetched, 1);
	return !err || err == -ECANCELED ? err : complain(&s, err);
}

/* -- the job ------------------------------------------------------------ */

static bool is_superseded(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	return d->inode->superseded;
}

/* Unless the name beside which it would lie is another version's by now. */
static void save_map(struct cfetch *f)
{
	scoped_lock(&f->d->ckpt->maps);

	if (!is_superseded(f->d))
		cfetch_save(f->d->ckpt, &f->map);
}

/* All is here: it is a file like one that was written here. */
static int complete(struct cfetch *f)
{
	struct ckpt_attr a = cinode_attr(f->d->ckpt, f->d->inode);
	struct timespec t[2] = {clock_timespec(a.atime_ns),
				clock_timespec(a.mtime_ns)};
	scoped_lock(&f->io);

	if (given_up(f))
		return -ECANCELED;
	if (futimens(f->fd, t) || fchmod(f->fd, 0600))
		return -errno;
	f->map.mtime_ns = a.mtime_ns;
	save_map(f);
	/* Open for writing here, it would look like somebody's mapping. */
	close(f->fd);
	f->fd = -1;
	pthread_mutex_lock(&f->lock);
	f->whole = true;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static void take_waits(struct cfetch *f, struct list *out, bool all,
		       uint64_t failed)
{
	uint64_t missing, from = failed * f->map.shard_bytes;
	scoped_lock(&f->lock);

	list_for_each_safe (l, &f->waits) {
		struct cfetch_wait *w =
			container_of(l, struct cfetch_wait, link);
		bool over =
			failed == UINT64_MAX
				? cmap_range(&f->map, w->from, w->to,
					     &missing) &&
					  (w->to != UINT64_MAX || f->whole)
				: w->to > from &&
					  w->from < from + f->map.shard_bytes;

		if (all || over) {
			list_remove(l);
			list_push_back(out, l);
		}
	}
}

static void answer(struct cfetch *f, int err, bool all, uint64_t failed)
{
	struct list waits;

	list_init(&waits);
	take_waits(f, &waits, all, failed);
	cfetch_answer(f->d, &waits, err);
}

static void arrived(struct cfetch *f, uint64_t index)
{
	bool all;
	int err = 0;

	pthread_mutex_lock(&f->lock);
	all = cmap_add(&f->map, index);
	pthread_mutex_unlock(&f->lock);
	if (all)
		err = complete(f);
	else
		save_map(f);
	if (err && err != -ECANCELED)
		answer(f, err, true, 0);
	else
		answer(f, 0, err == -ECANCELED, UINT64_MAX);
	ckpt_shards_dirty(f->d->ckpt->fs->meta, f->map.ino);
}

static void failed(struct cfetch *f, uint64_t index, int err)
{
	bool kept;

	pthread_mutex_lock(&f->lock);
	f->next = UINT64_MAX; /* until it is read again */
	f->hurry = false;
	kept = f->keep;
	f->keep = false;
	pthread_mutex_unlock(&f->lock);
	if (kept)
		ccopy_failed(f->d->ckpt, f->map.ino, f->map.version, err);
	if (err != -ECANCELED)
		answer(f, err, false, index);
}

static bool is_read(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	return d->n_open;
}

/* What is fetched next; false: nothing, and the job is over. */
static bool pick(struct cfetch *f, uint64_t *index, bool *foreground)
{
	bool stop = atomic_load(&f->d->ckpt->fetch_stopping);
	bool read = is_read(f->d), past = is_superseded(f->d);
	scoped_lock(&f->lock);

	*foreground = !list_empty(&f->waits);
	if (!stop && !f->whole && *foreground) {
		const struct cfetch_wait *w =
			container_of(f->waits.next, struct cfetch_wait, link);

		if (!cmap_range(&f->map, w->from, w->to, index))
			return true;
	}
	if (!stop && !f->whole && (read || (f->keep && !past)) &&
	    cfetch_ahead(f, index))
		return true;
	f->running = false;
	return false;
}

void cfetch_run(struct job *job)
{
	struct cfetch *f = container_of(job, struct cfetch, job);
	struct ckpt_data *d = f->d;
	uint64_t index;
	bool foreground;
	int err;

	while (pick(f, &index, &foreground)) {
		err = fetch(f, index, foreground);
		if (err)
			failed(f, index, err);
		else
			arrived(f, index);
	}
	if (atomic_load(&d->ckpt->fetch_stopping))
		answer(f, -ENOTCONN, true, 0);
	cdata_put(d);
}

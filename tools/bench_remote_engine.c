// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/auth.h"
#include "engine/engine.h"
#include "tools/bench_remote.h"

/*
 * Two engines in two processes: the owner, a child where A is, and the reader,
 * us. Memory is as the pool's: a file of huge pages on a tmpfs. A fetch is what
 * kvfs does for one, without names: open a grant, call, WRITE, answer; of a
 * batch, of many WRITEs at once. Blocks are taken round the memory, so that
 * they come from there and not from a cache. The next fetch of a slot begins
 * where the one before it ended.
 */
#define MEMORY_LEAST_BYTES (256ul << 20)
#define FETCH ENGINE_TYPE_MIN
#define DEADLINE_NS (90 * NS_PER_S) /* for 1 GiB by an emulated card */
#define PATIENCE_MS 10000	    /* an emulated card on a busy machine */

struct fetch {
	struct engine_segment segment;
	uint64_t offset, bytes; /* of all pieces */
	uint32_t n_pieces;
};

/* -- memory ------------------------------------------------------------- */

static int huge_file(void)
{
	cleanup_close int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	cleanup_close int mnt = -1;

	if (fs < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "huge", "within_size", 0) ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return -1;
	mnt = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	return mnt < 0 ? -1
		       : openat(mnt, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

/* Its words: the place of each. Maps it at *words; the file, or -errno. */
static int memory_open(uint64_t **words, size_t bytes)
{
	int fd = huge_file();

	if (fd < 0) {
		fd = memfd_create("kvfs-bench", MFD_CLOEXEC);
		log_warn("bench: engine_fetch without huge pages: run it as "
			 "root");
	}
	if (fd < 0 || ftruncate(fd, (off_t)bytes) ||
	    fallocate(fd, 0, 0, (off_t)bytes))
		goto failed;
	*words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*words != MAP_FAILED)
		return fd;
failed:
	if (fd >= 0)
		close(fd);
	return errno ? -errno : -ENOMEM;
}

static int memory_add(struct engine *e, int fd, size_t bytes, uint64_t *region)
{
	struct engine_mem mem = {
		.kind = ENGINE_MEM_FILE, .fd = fd, .length_bytes = bytes};

	return engine_region_add(e, &mem, region);
}

static int node_open(struct engine **e, const char *scheme, const char *address,
		     const struct engine_keys *keys, uint8_t uuid,
		     const struct engine_callbacks *callbacks, void *ctx)
{
	char text[REMOTE_ADDRESS_BYTES + 16];
	const char *const listen[] = {text};
	struct engine_config c = {
		.self = {.uuid = {uuid}, .incarnation = 1},
		.keys = keys,
		.listen = listen,
		.n_listen = 1,
		.connect_timeout_ms = PATIENCE_MS,
		.silence_ms = PATIENCE_MS,
		.callbacks = callbacks,
		.ctx = ctx,
	};

	snprintf(text, sizeof(text),
		 strchr(address, ':') ? "%s:[%s]:0" : "%s:%s:0", scheme,
		 address);
	return engine_open(e, &c);
}

static void no_peer_up(void *ctx, struct engine_peer *peer)
{
	(void)ctx;
	(void)peer;
}

static void no_peer_down(void *ctx, struct engine_peer *peer, int why)
{
	(void)ctx;
	(void)peer;
	(void)why;
}

/* -- the owner ---------------------------------------------------------- */

struct owner {
	struct engine *engine;
	uint64_t region;
};

struct serve {
	struct engine_batch batch;
	struct engine_xfer xfers[];
};

static void served(struct engine_batch *b, int status)
{
	(void)status; /* the batch has answered */
	free(b->ctx);
}

static struct serve *serve_new(const struct owner *o,
			       const struct engine_message *m)
{
	struct fetch want = {.n_pieces = 0};
	struct serve *s;
	uint64_t each;

	if (m->type == FETCH && m->payload_bytes == sizeof(want))
		memcpy(&want, m->payload, sizeof(want));
	if (!want.n_pieces || want.n_pieces > ENGINE_BATCH_MAX)
		return NULL;
	s = calloc(1, sizeof(*s) + want.n_pieces * sizeof(s->xfers[0]));
	each = want.bytes / want.n_pieces;
	for (uint32_t i = 0; s && i < want.n_pieces; i++)
		s->xfers[i] =
			(struct engine_xfer){.op = ENGINE_WRITE,
					     .region = o->region,
					     .offset = want.offset + i * each,
					     .segment = want.segment,
					     .to_offset = i * each,
					     .length_bytes = each};
	if (s)
		s->batch.n_xfers = want.n_pieces;
	return s;
}

static void on_fetch(void *ctx, struct engine_peer *peer,
		     const struct engine_message *m)
{
	struct owner *o = ctx;
	struct serve *s = serve_new(o, m);
	int err;

	if (!s) {
		engine_reply(peer, m->request_id, -EINVAL, NULL, 0);
		return;
	}
	s->batch = (struct engine_batch){.xfers = s->xfers,
					 .n_xfers = s->batch.n_xfers,
					 .answers = m->request_id,
					 .deadline_ns =
						 clock_now_ns() + DEADLINE_NS,
					 .done = served,
					 .ctx = s};
	err = engine_submit(o->engine, peer, &s->batch);
	if (err) {
		free(s);
		engine_reply(peer, m->request_id, err, NULL, 0);
	}
}

static int owner_run(const struct remote_end *where, const char *scheme,
		     const struct engine_keys *keys, size_t bytes, int out,
		     int in)
{
	static const struct engine_callbacks callbacks = {on_fetch, no_peer_up,
							  no_peer_down};
	struct owner o = {.engine = NULL};
	char text[ENGINE_ADDRESS_BYTES] = "";
	uint64_t *words;
	int fd, err = remote_end_enter(where);

	if (err)
		return err;
	fd = memory_open(&words, bytes);
	if (fd < 0)
		return fd;
	for (uint64_t i = 0; i < bytes / sizeof(*words); i++)
		words[i] = i + 1;
	err = node_open(&o.engine, scheme, where->address, keys, 1, &callbacks,
			&o);
	if (!err)
		err = memory_add(o.engine, fd, bytes, &o.region);
	if (err)
		return err;
	snprintf(text, sizeof(text), "%s", engine_address(o.engine, 0));
	if (write(out, text, sizeof(text)) != sizeof(text))
		return -EIO;
	while (read(in, text, 1) < 0 && errno == EINTR)
		;
	engine_close(o.engine);
	return 0;
}

/* -- the reader --------------------------------------------------------- */

struct slot {
	struct remote_engines *pair;
	struct engine_call call;
	struct engine_grant *grant;
	struct fetch want;
	atomic_int left; /* of grant and call */
	atomic_int status;
	int64_t start_ns;
	struct samples samples; /* whoever ends the fetch adds; one at a time */
	uint64_t n;
};

struct remote_engines {
	struct engine *engine;
	struct engine_peer *peer;
	uint64_t region, *words;
	size_t memory_bytes;
	int fd;
	pid_t owner;
	const char *scheme;
	int to_owner; /* it ends when this is closed */
	struct slot slots[REMOTE_IN_FLIGHT_MAX];
	atomic_uint_fast64_t next; /* block */
	/* the slice */
	size_t bytes; /* of each fetch */
	uint32_t n_pieces;
	int64_t end_ns;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned n_busy; /* under lock; so is err */
	int err;
};

static void fetch_start(struct slot *s);

static void slot_rest(struct slot *s, int status)
{
	struct remote_engines *p = s->pair;
	scoped_lock(&p->lock);

	if (status && !p->err)
		p->err = status;
	if (!--p->n_busy)
		pthread_cond_signal(&p->idle);
}

static void part_done(struct slot *s, int status)
{
	int64_t now;
	int none = 0;

	if (status)
		atomic_compare_exchange_strong(&s->status, &none, status);
	if (atomic_fetch_sub(&s->left, 1) > 1)
		return;
	status = atomic_load(&s->status);
	now = clock_now_ns();
	if (!status) {
		samples_add(&s->samples, now - s->start_ns);
		s->n++;
	}
	if (status || now >= s->pair->end_ns || bench_stopped)
		slot_rest(s, status);
	else
		fetch_start(s);
}

static void grant_done(void *ctx, int status)
{
	part_done(ctx, status);
}

static void call_done(struct engine_call *call, int status, const void *reply,
		      uint32_t reply_bytes)
{
	(void)reply;
	(void)reply_bytes;
	part_done(call->ctx, status);
}

/* A grant whose call failed ends at its deadline. */
static void fetch_start(struct slot *s)
{
	static const struct engine_grant_ops ops = {.done = grant_done};
	struct remote_engines *p = s->pair;
	uint64_t block = atomic_fetch_add(&p->next, 1);
	int err;

	s->start_ns = clock_now_ns();
	s->want.bytes = p->bytes;
	s->want.n_pieces = p->n_pieces;
	s->want.offset = block % (p->memory_bytes / p->bytes) * p->bytes;
	atomic_store(&s->status, 0);
	atomic_store(&s->left, 2);
	err = engine_grant_open(p->peer, p->region, s->want.offset, p->bytes,
				s->start_ns + DEADLINE_NS, &ops, s, &s->grant,
				&s->want.segment);
	if (err) {
		slot_rest(s, err);
		return;
	}
	s->call = (struct engine_call){.type = FETCH,
				       .payload = &s->want,
				       .payload_bytes = sizeof(s->want),
				       .deadline_ns = s->start_ns + DEADLINE_NS,
				       .done = call_done,
				       .ctx = s};
	err = engine_call_start(p->peer, &s->call);
	if (err)
		part_done(s, err);
}

/* Fetches until end_ns, n at a time, and waits for the last. */
static int fetch_for(struct remote_engines *p, size_t piece_bytes,
		     uint32_t n_pieces, unsigned n, int64_t ns)
{
	p->bytes = piece_bytes * n_pieces;
	p->n_pieces = n_pieces;
	p->err = 0;
	p->end_ns = clock_now_ns() + ns;
	p->n_busy = n;
	for (unsigned i = 0; i < n; i++)
		fetch_start(&p->slots[i]);
	scoped_lock(&p->lock);
	while (p->n_busy)
		pthread_cond_wait(&p->idle, &p->lock);
	return p->err;
}

/* Are those that came the owner's? The first and the last word of each. */
static int blocks_check(const struct remote_engines *p, uint64_t from,
			uint64_t to)
{
	uint64_t per = p->bytes / sizeof(*p->words),
		 n = p->memory_bytes / p->bytes;

	for (uint64_t i = from; i < to && i < from + n; i++) {
		uint64_t first = i % n * per, last = first + per - 1;

		if (p->words[first] != first + 1 ||
		    p->words[last] != last + 1) {
			log_error("bench: engine_fetch: block %llu: wrong "
				  "bytes",
				  (unsigned long long)(i % n));
			return -EBADMSG;
		}
	}
	return 0;
}

static uint32_t pieces_of(const struct remote_engines *p,
			  const struct remote_case *k)
{
	uint64_t most = p->memory_bytes / k->bytes;

	if (strcmp(k->op, "engine_batch"))
		return 1;
	return most < ENGINE_BATCH_MAX ? (uint32_t)most : ENGINE_BATCH_MAX;
}

int remote_engines_slice(struct remote_engines *p, struct remote_case *k,
			 int64_t slice_ns, struct remote_slice *s)
{
	uint64_t cpu = remote_cpu_ns(p->owner) + remote_cpu_ns(getpid());
	uint64_t from = atomic_load(&p->next), n = 0;
	int64_t start = clock_now_ns();
	int err = fetch_for(p, k->bytes, pieces_of(p, k), k->n, slice_ns);

	s->ns = clock_now_ns() - start;
	cpu = remote_cpu_ns(p->owner) + remote_cpu_ns(getpid()) - cpu;
	for (unsigned i = 0; i < k->n; i++) {
		n += p->slots[i].n;
		p->slots[i].n = 0;
		samples_append(&k->samples, &p->slots[i].samples);
	}
	s->bytes = n * p->bytes;
	s->cpu_s = (double)cpu / 1e9;
	return err ? err : blocks_check(p, from, atomic_load(&p->next));
}

/* -- both --------------------------------------------------------------- */

static int owner_start(struct remote_engines *p, const struct remote_ends *e,
		       const struct engine_keys *keys, char *address)
{
	int from[2], to[2];
	ssize_t n;

	if (pipe2(from, O_CLOEXEC) || pipe2(to, O_CLOEXEC))
		return -errno;
	p->owner = fork();
	if (!p->owner) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0); /* Ctrl-C is for the bench */
		close(to[1]);
		close(from[0]);
		_exit(owner_run(&e->a, p->scheme, keys, p->memory_bytes,
				from[1], to[0])
			      ? 1
			      : 0);
	}
	close(from[1]);
	close(to[0]);
	p->to_owner = to[1];
	n = p->owner < 0 ? -1 : read(from[0], address, ENGINE_ADDRESS_BYTES);
	close(from[0]);
	return n == ENGINE_ADDRESS_BYTES ? 0 : -ECHILD;
}

static int reader_start(struct remote_engines *p, const struct remote_ends *e,
			const struct engine_keys *keys, const char *address)
{
	static const struct engine_callbacks callbacks = {on_fetch, no_peer_up,
							  no_peer_down};
	static const struct engine_node owner = {.uuid = {1}, .incarnation = 1};
	static struct owner nothing; /* a region that is none: -EINVAL */
	int err;

	p->fd = memory_open(&p->words, p->memory_bytes);
	if (p->fd < 0)
		return p->fd;
	memset(p->words, 0, p->memory_bytes); /* the first touch clears pages */
	err = node_open(&p->engine, p->scheme, e->b.address, keys, 2,
			&callbacks, &nothing);
	if (!err)
		err = memory_add(p->engine, p->fd, p->memory_bytes, &p->region);
	if (!err)
		err = engine_peer_get(p->engine, &owner, &address, 1, &p->peer);
	return err;
}

int remote_engines_open(struct remote_engines **out,
			const struct remote_ends *e, bool rdma,
			size_t bytes_max)
{
	struct remote_engines *p = calloc(1, sizeof(*p));
	struct engine_keys keys = {.n = 1, .key[0].id = 1};
	char address[ENGINE_ADDRESS_BYTES];
	int err;

	if (!p)
		return -ENOMEM;
	p->scheme = rdma ? "rdma" : "tcp";
	p->memory_bytes =
		bytes_max > MEMORY_LEAST_BYTES ? bytes_max : MEMORY_LEAST_BYTES;
	p->fd = p->to_owner = -1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->idle, NULL);
	for (unsigned i = 0; i < REMOTE_IN_FLIGHT_MAX; i++)
		p->slots[i].pair = p;
	err = getrandom(keys.key[0].bytes, ENGINE_KEY_BYTES, 0) < 0 ? -errno
								    : 0;
	if (!err)
		err = owner_start(p, e, &keys, address);
	if (!err)
		err = reader_start(p, e, &keys, address);
	if (!err) /* connected, and warm */
		err = fetch_for(p, 4 << 20, 1, 4, NS_PER_S / 4);
	if (err) {
		log_error("bench: engine_fetch: no pair of engines: %s",
			  strerror(-err));
		remote_engines_close(p);
		return err;
	}
	*out = p;
	return 0;
}

void remote_engines_close(struct remote_engines *p)
{
	if (!p)
		return;
	if (p->peer)
		engine_peer_put(p->peer);
	if (p->engine)
		engine_close(p->engine);
	if (p->to_owner >= 0)
		close(p->to_owner);
	if (p->owner > 0)
		waitpid(p->owner, NULL, 0);
	if (p->fd >= 0) {
		munmap(p->words, p->memory_bytes);
		close(p->fd);
	}
	pthread_cond_destroy(&p->idle);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

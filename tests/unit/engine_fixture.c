// SPDX-License-Identifier: MIT
#include "tests/unit/engine_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "engine/auth.h"

#define FRAME ENGINE_MEM_FILE
#define DISK ENGINE_MEM_DISK

static const struct fx_way usual_ways[] = {
	{.name = "loop", .listen = "loop:%u"},
	{.name = "loop, frames",
	 .listen = "loop:%u",
	 .from = FRAME,
	 .to = FRAME},
	{.name = "tcp", .listen = "tcp:127.0.0.1:0"},
	{.name = "tcp, frames",
	 .listen = "tcp:127.0.0.1:0",
	 .from = FRAME,
	 .to = FRAME},
	{.name = "tcp, tls", .listen = "tcp:127.0.0.1:0", .tls = true},
	{.name = "tcp, tls, frames",
	 .listen = "tcp:127.0.0.1:0",
	 .from = FRAME,
	 .to = FRAME,
	 .tls = true},
	{.name = "unix", .listen = "unix:/tmp/kvfs-engine-%u-%d"},
	{.name = "unix, frames",
	 .listen = "unix:/tmp/kvfs-engine-%u-%d",
	 .from = FRAME,
	 .to = FRAME},
	/* between nodes above, local below */
	{.name = "local"},
	{.name = "local, frames", .from = FRAME, .to = FRAME},
	{.name = "local, to a frame", .to = FRAME},
	{.name = "local, from a frame", .from = FRAME},
	{.name = "file, to memory", .from = DISK},
	{.name = "file, to a frame", .from = DISK, .to = FRAME},
	{.name = "file, from a frame", .from = FRAME, .to = DISK},
	{.name = "file, disk to disk", .from = DISK, .to = DISK},
	{.name = "file, cold, to memory", .from = DISK, .cold = true},
	{.name = "file, cold, to a frame",
	 .from = DISK,
	 .to = FRAME,
	 .cold = true},
	{.name = "file, cold, disk to disk",
	 .from = DISK,
	 .to = DISK,
	 .cold = true},
};
const struct fx_way *fx_ways = usual_ways;
int fx_n_ways = sizeof(usual_ways) / sizeof(usual_ways[0]);
int fx_n_remote = 8;

static char rdma_listen[ENGINE_ADDRESS_BYTES];
static const struct fx_way rdma_ways[] = {
	{.name = "rdma", .listen = rdma_listen, .keys = true, .slow = true},
	{.name = "rdma, frames",
	 .listen = rdma_listen,
	 .from = FRAME,
	 .to = FRAME,
	 .keys = true,
	 .slow = true,
	 .buffers_bytes = 2u << 20},
};

void fx_choose_ways(void)
{
	const char *address = getenv("KVFS_TEST_RDMA");

	fault_init();
	if (!address)
		return;
	snprintf(rdma_listen, sizeof(rdma_listen), "rdma:%s:0", address);
	fx_ways = rdma_ways;
	fx_n_ways = fx_n_remote = sizeof(rdma_ways) / sizeof(rdma_ways[0]);
}

static const struct engine_keys fx_keys = {1, {{1, {42}}}};

pthread_mutex_t fx_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t fx_changed = PTHREAD_COND_INITIALIZER;

/* ---- waiting --------------------------------------------------------------
 */

#define PATIENCE_S 60 /* under a sanitizer a gibibyte takes a while */

void fx_wait(const uint32_t *n, uint32_t least)
{
	struct timespec by = clock_timespec(clock_read_ns(CLOCK_REALTIME) +
					    PATIENCE_S * NS_PER_S);
	int err = 0;

	pthread_mutex_lock(&fx_lock);
	while (*n < least && !err)
		err = pthread_cond_timedwait(&fx_changed, &fx_lock, &by);
	pthread_mutex_unlock(&fx_lock);
	ck_assert_msg(!err, "waited in vain");
}

uint32_t fx_read(const uint32_t *n)
{
	scoped_lock(&fx_lock);

	return *n;
}

/* ---- nodes ----------------------------------------------------------------
 */

static void on_message(void *ctx, struct engine_peer *peer,
		       const struct engine_message *m)
{
	struct fx_node *node = ctx;

	if (m->type == FX_ECHO) {
		ck_assert_int_eq(engine_reply(peer, m->request_id, 0,
					      m->payload, m->payload_bytes),
				 0);
		return;
	}
	scoped_lock(&fx_lock);
	if (m->type == FX_LOG) {
		ck_assert_uint_lt(node->n_log, FX_LOG_MAX);
		memcpy(&node->log[node->n_log++], m->payload, 4);
	} else {
		node->parked_by[node->n_parked] = peer;
		node->parked[node->n_parked++] = m->request_id;
	}
	pthread_cond_broadcast(&fx_changed);
}

static void on_peer_up(void *ctx, struct engine_peer *peer)
{
	struct fx_node *node = ctx;

	(void)peer;
	scoped_lock(&fx_lock);
	ck_assert_uint_le(node->n_down, node->n_up);
	node->n_up++;
	pthread_cond_broadcast(&fx_changed);
}

static void on_peer_down(void *ctx, struct engine_peer *peer, int why)
{
	struct fx_node *node = ctx;

	(void)peer;
	scoped_lock(&fx_lock);
	node->n_down++;
	ck_assert_uint_le(node->n_down, node->n_up);
	node->why = why;
	pthread_cond_broadcast(&fx_changed);
}

static const struct engine_callbacks callbacks = {on_message, on_peer_up,
						  on_peer_down};

void fx_node_open(struct fx *fx, uint32_t i, uint32_t incarnation)
{
	struct fx_node *node = &fx->node[i];
	char text[ENGINE_ADDRESS_BYTES];
	const char *listen[] = {text, fx->way->also};
	struct engine_config c = {
		.listen = listen,
		.n_listen = !!fx->way->listen + !!fx->way->also,
		.keys = fx->way->tls || fx->way->keys ? &fx_keys : NULL,
		.tls = fx->way->tls,
		.links_per_address = fx->way->links,
		.connect_timeout_ms = fx->way->slow ? 5000 : 0,
		.silence_ms = fx->way->slow ? 10000 : 0,
		.callbacks = &callbacks,
		.ctx = node,
	};

	memset(node, 0, sizeof(*node));
	node->id.uuid[0] = (uint8_t)(i + 1);
	node->id.incarnation = incarnation;
	c.self = node->id;
	if (fx->way->listen)
		snprintf(text, sizeof(text), fx->way->listen, i, getpid());
	ck_assert_int_eq(engine_open(&node->engine, &c), 0);
	node->address = engine_address(node->engine, 0);
}

void fx_node_close(struct fx *fx, uint32_t i)
{
	engine_close(fx->node[i].engine);
	fx->node[i].engine = NULL;
}

void fx_open(struct fx *fx, const struct fx_way *way, uint32_t n)
{
	memset(fx, 0, sizeof(*fx));
	fx->way = way;
	for (uint32_t i = 0; i < n && (i == 0 || way->listen); i++)
		fx_node_open(fx, i, 1);
}

void fx_close(struct fx *fx)
{
	for (uint32_t i = 0; i < FX_NODES; i++)
		fx_node_close(fx, i);
}

struct engine_peer *fx_peer(struct fx *fx, uint32_t from, uint32_t to)
{
	const char *const addresses[] = {
		fx->node[to].address, engine_address(fx->node[to].engine, 1)};
	struct engine_peer *p;

	ck_assert_int_eq(engine_peer_get(fx->node[from].engine,
					 &fx->node[to].id, addresses,
					 1 + !!fx->way->also, &p),
			 0);
	return p;
}

struct engine *fx_writer(struct fx *fx)
{
	return fx->node[0].engine;
}

struct engine *fx_reader(struct fx *fx)
{
	return fx->node[fx->way->listen ? 1 : 0].engine;
}

/* ---- memory ---------------------------------------------------------------
 */

static int disk_file(void)
{
	const char *tmp = getenv("TMPDIR");
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/engine-XXXXXX", tmp ? tmp : "/tmp");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	unlink(path);
	return fd;
}

void fx_mem_new(struct fx_mem *m, struct engine *e, enum engine_mem_kind kind,
		size_t size)
{
	struct engine_mem mem = {.kind = kind, .fd = -1, .length_bytes = size};
	int flags = MAP_SHARED;

	*m = (struct fx_mem){.engine = e, .kind = kind, .size = size, .fd = -1};
	if (kind == ENGINE_MEM_FILE)
		m->fd = memfd_create("frame", MFD_CLOEXEC);
	else if (kind == ENGINE_MEM_DISK)
		m->fd = disk_file();
	else
		flags = MAP_PRIVATE | MAP_ANONYMOUS;
	if (m->fd >= 0)
		ck_assert_int_eq(ftruncate(m->fd, (off_t)size), 0);
	m->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, m->fd, 0);
	ck_assert_ptr_ne(m->bytes, MAP_FAILED);
	mem.fd = m->fd;
	if (kind == ENGINE_MEM_HOST)
		mem.addr = m->bytes;
	ck_assert_int_eq(engine_region_add(e, &mem, &m->region), 0);
}

static void mem_gone(void *ctx)
{
	struct fx_mem *m = ctx;

	scoped_lock(&fx_lock);
	m->gone = true;
	pthread_cond_broadcast(&fx_changed);
}

void fx_mem_free(struct fx_mem *m)
{
	ck_assert_int_eq(
		engine_region_remove(m->engine, m->region, mem_gone, m), 0);
	pthread_mutex_lock(&fx_lock);
	while (!m->gone)
		pthread_cond_wait(&fx_changed, &fx_lock);
	pthread_mutex_unlock(&fx_lock);
	munmap(m->bytes, m->size);
	if (m->fd >= 0)
		close(m->fd);
}

void fx_mem_cool(const struct fx_mem *m)
{
	ck_assert_int_eq(msync(m->bytes, m->size, MS_SYNC), 0);
	ck_assert_int_eq(madvise(m->bytes, m->size, MADV_DONTNEED), 0);
	ck_assert_int_eq(posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

void fx_fill(char *bytes, size_t size, uint32_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1, word;

	for (size_t i = 0; i < size; i += sizeof(word)) {
		size_t n = size - i < sizeof(word) ? size - i : sizeof(word);

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		word = x;
		memcpy(bytes + i, &word, n);
	}
}

/* ---- batches, grants, calls ------------------------------------------------
 */

void fx_batch_done(struct engine_batch *b, int status)
{
	struct fx_batch *fb = b->ctx;

	scoped_lock(&fx_lock);
	fb->status = status;
	fb->n_done++;
	ck_assert_uint_eq(fb->n_done, 1);
	pthread_cond_broadcast(&fx_changed);
}

int fx_batch_wait(struct fx_batch *b)
{
	fx_wait(&b->n_done, 1);
	return b->status;
}

int fx_submit(struct engine *e, struct engine_peer *peer, struct fx_batch *b,
	      struct engine_xfer *xfers, const struct fx_piece *pieces,
	      uint32_t n, uint64_t region, struct engine_segment segment,
	      uint64_t to_region)
{
	for (uint32_t i = 0; i < n; i++) {
		xfers[i] = (struct engine_xfer){
			.op = peer ? ENGINE_WRITE : ENGINE_COPY,
			.region = region,
			.offset = pieces[i].from,
			.to_offset = pieces[i].to,
			.length_bytes = pieces[i].bytes,
		};
		if (peer)
			xfers[i].segment = segment;
		else
			xfers[i].to_region = to_region;
	}
	b->n_done = 0;
	b->b.xfers = xfers;
	b->b.n_xfers = n;
	b->b.done = fx_batch_done;
	b->b.ctx = b;
	if (!b->b.deadline_ns) /* as long as fx_wait has patience */
		b->b.deadline_ns = clock_now_ns() + PATIENCE_S * NS_PER_S;
	return engine_submit(e, peer, &b->b);
}

static void grant_done(void *ctx, int status)
{
	struct fx_grant *g = ctx;

	scoped_lock(&fx_lock);
	g->status = status;
	g->n_done++;
	ck_assert_uint_eq(g->n_done, 1);
	pthread_cond_broadcast(&fx_changed);
}

static void grant_progress(void *ctx, uint64_t bytes)
{
	struct fx_grant *g = ctx;

	scoped_lock(&fx_lock);
	ck_assert_uint_eq(g->n_done, 0);
	ck_assert_uint_gt(bytes, g->progress);
	g->progress = bytes;
	g->n_progress++;
	pthread_cond_broadcast(&fx_changed);
}

static const struct engine_grant_ops grant_ops = {grant_done, grant_progress};

void fx_grant_open(struct fx_grant *g, struct engine_peer *peer,
		   const struct fx_mem *m, uint64_t offset, uint64_t bytes)
{
	memset(g, 0, sizeof(*g));
	ck_assert_int_eq(engine_grant_open(peer, m->region, offset, bytes, 0,
					   &grant_ops, g, &g->grant,
					   &g->segment),
			 0);
}

int fx_grant_wait(struct fx_grant *g)
{
	fx_wait(&g->n_done, 1);
	return g->status;
}

int fx_grant_end(struct fx_grant *g)
{
	pthread_mutex_lock(&fx_lock);
	if (!g->n_done)
		engine_grant_close(g->grant);
	pthread_mutex_unlock(&fx_lock);
	return fx_grant_wait(g);
}

static void call_done(struct engine_call *c, int status, const void *reply,
		      uint32_t reply_bytes)
{
	struct fx_call *fc = c->ctx;

	scoped_lock(&fx_lock);
	fc->status = status;
	fc->reply_bytes = reply_bytes;
	if (reply_bytes)
		memcpy(fc->reply, reply,
		       reply_bytes < sizeof(fc->reply) ? reply_bytes
						       : sizeof(fc->reply));
	fc->n_done++;
	ck_assert_uint_eq(fc->n_done, 1);
	pthread_cond_broadcast(&fx_changed);
}

int fx_call(struct engine_peer *peer, struct fx_call *c, uint16_t type,
	    const void *payload, uint32_t bytes, int64_t timeout_ms)
{
	memset(c, 0, sizeof(*c));
	c->c.type = type;
	c->c.payload = payload;
	c->c.payload_bytes = bytes;
	c->c.done = call_done;
	c->c.ctx = c;
	if (timeout_ms)
		c->c.deadline_ns = clock_now_ns() + timeout_ms * NS_PER_MS;
	return engine_call_start(peer, &c->c);
}

int fx_call_wait(struct fx_call *c)
{
	fx_wait(&c->n_done, 1);
	return c->status;
}

static int move_remote(struct fx *fx, const struct fx_mem *from,
		       const struct fx_mem *to, const struct fx_piece *pieces,
		       uint32_t n, struct engine_xfer *xfers)
{
	struct engine_peer *reader = fx_peer(fx, 0, 1);
	struct engine_peer *writer = fx_peer(fx, 1, 0);
	struct fx_batch b = {.status = 1};
	struct fx_grant g;
	int status;

	fx_grant_open(&g, writer, to, 0, to->size);
	status = fx_submit(from->engine, reader, &b, xfers, pieces, n,
			   from->region, g.segment, 0);
	if (!status)
		status = fx_batch_wait(&b);
	fx_grant_end(&g);
	engine_peer_put(reader);
	engine_peer_put(writer);
	return status;
}

int fx_move(struct fx *fx, const struct fx_mem *from, const struct fx_mem *to,
	    const struct fx_piece *pieces, uint32_t n)
{
	struct engine_xfer *xfers = calloc(n, sizeof(*xfers));
	struct engine_segment none = {0, 0};
	struct fx_batch b = {.status = 1};
	int status;

	ck_assert_ptr_nonnull(xfers);
	if (fx->way->cold && !from->gone)
		fx_mem_cool(from);
	if (fx->way->listen) {
		status = move_remote(fx, from, to, pieces, n, xfers);
	} else {
		status = fx_submit(from->engine, NULL, &b, xfers, pieces, n,
				   from->region, none, to->region);
		if (!status)
			status = fx_batch_wait(&b);
	}
	free(xfers);
	return status;
}

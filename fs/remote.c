// SPDX-License-Identifier: MIT
#include "fs/remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "engine/auth.h"
#include "fs/ckpt_fetch.h"
#include "fs/kv.h"
#include "fs/remote_parts.h"
#include "fs/remote_scratch.h"

/*
 * Up and down, and who is who. A peer is known by its node's uuid: the
 * incarnation in a record leads to the node's entry in the membership table,
 * and that to uuid and addresses. Which life of the node answers does not
 * matter: it answers from its own index.
 */

#define REACHED_NS (3 * NS_PER_S) /* pings come each second */
#define SUSPECT_NS (500 * NS_PER_MS)
#define LISTEN_MAX ENGINE_ADDRESSES_MAX
#define PORT "7077"
#define RDMA_PORT_ABOVE 1000

/* -- addresses ---------------------------------------------------------- */

/* "10.0.0.1" and "10.0.0.1:7077" to "tcp:10.0.0.1:7077". The port is the same
 * after a restart, so that what the others know still holds. */
static void engine_form(const char *text, char out[ENGINE_ADDRESS_BYTES])
{
	const char *bracket = strchr(text, ']');
	const char *colon = strchr(bracket ? bracket : text, ':');

	if (!bracket && colon && strchr(colon + 1, ':'))
		snprintf(out, ENGINE_ADDRESS_BYTES, "tcp:[%s]:" PORT, text);
	else
		snprintf(out, ENGINE_ADDRESS_BYTES, "tcp:%s%s", text,
			 colon ? "" : ":" PORT);
}

/* The engine says "tcp:…"; the membership table has it without. */
static const char *table_form(const char *address)
{
	return strncmp(address, "tcp:", 4) ? address : address + 4;
}

/* "tcp:10.0.0.1:7077" to "rdma:10.0.0.1:8077": both listen on TCP. Port 0
 * stays what it is, any. */
static void rdma_form(const char *tcp, char out[ENGINE_ADDRESS_BYTES])
{
	const char *port = strrchr(tcp, ':') + 1;
	unsigned long n = strtoul(port, NULL, 10);

	if (n)
		n += n + RDMA_PORT_ABOVE <= UINT16_MAX ? RDMA_PORT_ABOVE
						       : -RDMA_PORT_ABOVE;
	snprintf(out, ENGINE_ADDRESS_BYTES, "rdma:%.*s%lu",
		 (int)(port - tcp - 4), tcp + 4, n);
}

static unsigned split_listen(const char *list,
			     char (*out)[ENGINE_ADDRESS_BYTES])
{
	cleanup_free char *copy = list ? strdup(list) : NULL;
	char *rest = copy, *one;
	unsigned n = 0;

	while (rest && n < LISTEN_MAX && (one = strsep(&rest, ",")))
		engine_form(one, out[n++]);
	return n;
}

/* Each address once more where a card has it, or, with transport=rdma, for
 * that alone: not having one is an error then, which engine_open says. */
static unsigned listen_of(const struct fs_config *config,
			  char (*out)[ENGINE_ADDRESS_BYTES])
{
	char tcp[LISTEN_MAX][ENGINE_ADDRESS_BYTES];
	unsigned n_tcp = split_listen(config->listen, tcp), n = 0;

	if (config->transport != TRANSPORT_RDMA)
		while (n < n_tcp) {
			memcpy(out[n], tcp[n], sizeof(out[n]));
			n++;
		}
	if (config->transport == TRANSPORT_TCP || config->tls)
		return n;
	for (unsigned i = 0; i < n_tcp; i++) {
		rdma_form(tcp[i], out[n]);
		n += config->transport == TRANSPORT_RDMA ||
		     engine_can_listen(out[n], config->rdma_devices);
	}
	return n;
}

void remote_announce(struct remote *r, bool draining)
{
	struct meta_self self = {
		.wire_version = 1, .transports = 1, .draining = draining};
	const char *address;

	while (self.n_addrs < META_ADDRS_MAX &&
	       (address = engine_address(r->engine, self.n_addrs))) {
		snprintf(self.addrs[self.n_addrs], META_ADDR_MAX + 1, "%s",
			 table_form(address));
		self.n_addrs++;
	}
	if (meta_node_announce(r->fs->meta, &self))
		log_error("cluster: an address of this node cannot be told to "
			  "the others");
}

static int nibble(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
				      : -1;
}

/* 36 characters with hyphens; 0 or -EINVAL. */
static int parse_uuid(const char *text, uint8_t out[16])
{
	unsigned n = 0;

	for (; *text && n < 32; text++) {
		int v = nibble(*text);

		if (*text == '-')
			continue;
		if (v < 0)
			return -EINVAL;
		out[n / 2] = (uint8_t)(n % 2 ? out[n / 2] | v : v << 4);
		n++;
	}
	return n == 32 && !*text ? 0 : -EINVAL;
}

static bool is_rdma(const char *address)
{
	return !strncmp(address, "rdma:", 5);
}

static bool has_scheme(const char *address)
{
	return !strncmp(address, "unix:", 5) || is_rdma(address);
}

/* By RDMA only where both sides have a card; by TCP unless it is ruled out. */
static bool may_use(struct remote *r, const char *address)
{
	return is_rdma(address) ? r->has_card
				: r->fs->config.transport != TRANSPORT_RDMA;
}

static int peer_of(struct remote *r, const struct meta_node *node,
		   struct engine_peer **peer)
{
	char text[META_ADDRS_MAX][ENGINE_ADDRESS_BYTES];
	const char *addresses[META_ADDRS_MAX];
	struct engine_node who = {.incarnation = 0};
	uint32_t n = 0;

	if (!node->self.n_addrs || parse_uuid(node->uuid, who.uuid))
		return -EADDRNOTAVAIL;
	for (uint32_t i = 0; i < node->self.n_addrs; i++) {
		const char *a = node->self.addrs[i];

		if (!may_use(r, a))
			continue;
		snprintf(text[n], sizeof(text[n]), "%s%s",
			 has_scheme(a) ? "" : "tcp:", a);
		addresses[n] = text[n];
		n++;
	}
	return engine_peer_get(r->engine, &who, addresses, n, peer);
}

int remote_peer(struct remote *r, uint32_t incarnation,
		struct engine_peer **peer)
{
	struct meta_node node;

	if (!meta_node_get(r->fs->meta, incarnation, &node))
		return -ENOTCONN;
	return peer_of(r, &node, peer);
}

bool remote_holds_too_much(struct engine_peer *peer, uint64_t quarantined_bytes,
			   uint64_t most_bytes)
{
	struct engine_peer_info info;

	if (quarantined_bytes <= most_bytes)
		return false;
	engine_peer_info(peer, &info);
	return info.n_draining > 0;
}

void remote_dial(struct remote *r, uint32_t incarnation)
{
	struct engine_peer *peer;

	if (remote_peer(r, incarnation, &peer))
		return;
	engine_peer_end_backoff(peer);
	engine_peer_put(peer);
}

bool remote_is_silent(const struct engine_peer_info *peer, int64_t now)
{
	return peer->n_calls && now - peer->heard_ns > SUSPECT_NS;
}

int64_t remote_score_of(const struct engine_peer_info *peer, bool lost,
			uint32_t n_serving, int64_t now)
{
	int64_t score = peer->rtt_us + 100 * (int64_t)peer->n_calls +
			100 * (int64_t)n_serving;

	return lost || remote_is_silent(peer, now) ? score + INT32_MAX : score;
}

int64_t remote_score(struct remote *r, uint32_t holder)
{
	struct engine_peer_info info;
	struct engine_peer *peer;
	struct meta_node node;
	uint32_t n_serving = 0;
	int64_t lost_ns;
	bool lost;

	if (remote_peer(r, holder, &peer))
		return INT64_MAX / 2; /* a caller may add to it */
	engine_peer_info(peer, &info);
	lost = engine_peer_failure(peer, &lost_ns);
	engine_peer_put(peer);
	if (meta_node_get(r->fs->meta, holder, &node) && node.has_load)
		n_serving = node.load.n_serving;
	return remote_score_of(&info, lost, n_serving, clock_now_ns()) +
	       (random() & 63);
}

const char *remote_node_name(struct fs *fs, uint32_t incarnation,
			     char name[META_NODE_NAME_MAX + 1])
{
	struct meta_node node;

	if (meta_node_get(fs->meta, incarnation, &node) && *node.name)
		snprintf(name, META_NODE_NAME_MAX + 1, "%s", node.name);
	else
		snprintf(name, META_NODE_NAME_MAX + 1, "%u", incarnation);
	return name;
}

const char *remote_node_ask(struct fs *fs, uint32_t incarnation,
			    int64_t deadline, char name[META_NODE_NAME_MAX + 1])
{
	struct meta_node node;

	if (!meta_node_get(fs->meta, incarnation, &node))
		meta_nodes_refresh(fs->meta, deadline);
	return remote_node_name(fs, incarnation, name);
}

/* -- what arrives ------------------------------------------------------- */

static void on_message(void *ctx, struct engine_peer *peer,
		       const struct engine_message *m)
{
	if ((m->type >= REMOTE_SHARD && m->type <= REMOTE_SHARD_GONE) ||
	    m->type == REMOTE_SHARD_TAKE)
		cfetch_message(ctx, peer, m);
	else
		remote_serve(ctx, peer, m);
}

static const struct engine_callbacks callbacks = {.on_message = on_message};

bool remote_post(struct remote *r, struct workers *w, struct job *job)
{
	scoped_lock(&r->lock);

	if (r->stopped)
		return false;
	workers_post(w, job);
	return true;
}

bool remote_active(const struct fs *fs)
{
	return fs->remote && !meta_nodes_alone(fs->meta);
}

/* -- what the heartbeat tells ------------------------------------------- */

static void load(void *ctx, struct meta_load *l)
{
	struct fs *fs = ctx;
	struct pool_stats s;

	pool_stats(fs->pool, &s);
	*l = (struct meta_load){
		.pool_bytes = s.capacity_bytes,
		.used_bytes = s.committed_bytes + s.writing_bytes,
		.n_blocks = s.n_committed,
		.victim_age_ms = KV_ROOM,
	};
	if (fs->kv) {
		pthread_mutex_lock(&fs->kv->lock);
		l->victim_age_ms = kv_victim_age_ms(fs->kv);
		pthread_mutex_unlock(&fs->kv->lock);
	}
	if (!fs->remote)
		return;
	l->n_serving = (uint32_t)atomic_load(&fs->remote->counters.n_serving);
	l->n_fetching = (uint32_t)atomic_load(&fs->remote->counters.n_fetching);
}

static void usage(void *ctx,
		  void (*add)(void *arg, const char *ns, uint64_t bytes),
		  void *arg)
{
	struct fs *fs = ctx;

	if (fs->kv)
		kv_tell_usage(fs->kv, add, arg);
}

/* The lock keeps the engine there. */
static bool reached(void *ctx, const struct meta_node *node)
{
	struct fs *fs = ctx;
	struct remote *r = fs->remote;
	struct engine_peer_info info;
	struct engine_peer *peer;

	if (!r)
		return false;
	scoped_lock(&r->lock);
	if (r->stopped || peer_of(r, node, &peer))
		return false;
	engine_peer_info(peer, &info);
	engine_peer_put(peer);
	return info.up && clock_now_ns() - info.heard_ns < REACHED_NS;
}

static void after_beat(struct job *job)
{
	struct remote *r = container_of(job, struct remote, beat_job);

	atomic_store(&r->beat_queued, false);
	kv_beat(r->fs->kv);
}

static void beat(void *ctx)
{
	struct fs *fs = ctx;
	struct remote *r = fs->remote;

	if (!r || !fs->kv || atomic_exchange(&r->beat_queued, true))
		return;
	r->beat_job.run = after_beat;
	remote_post(r, r->chores, &r->beat_job);
}

const struct meta_node_ops remote_node_ops = {
	.load = load,
	.usage = usage,
	.reached = reached,
	.beat = beat,
};

/* -- up and down -------------------------------------------------------- */

static int open_engine(struct remote *r)
{
	char text[2 * LISTEN_MAX][ENGINE_ADDRESS_BYTES];
	const char *listen[2 * LISTEN_MAX];
	struct engine_keys keys = {0};
	struct engine_config c = {
		.tls = r->fs->config.tls,
		.rdma_devices = r->fs->config.rdma_devices,
		.listen = listen,
		.n_listen = listen_of(&r->fs->config, text),
		.callbacks = &callbacks,
		.ctx = r,
	};
	struct meta_node self;
	int err = 0;

	for (unsigned i = 0; i < c.n_listen; i++) {
		listen[i] = text[i];
		r->has_card = r->has_card || is_rdma(text[i]);
	}
	c.self.incarnation = meta_node_self(r->fs->meta);
	if (!meta_node_get(r->fs->meta, c.self.incarnation, &self) ||
	    parse_uuid(self.uuid, c.self.uuid)) {
		log_error("cluster: this node is no member of its own table");
		return -EPROTO;
	}
	if (r->fs->config.key_file)
		err = engine_keys_load(r->fs->config.key_file, &keys);
	if (!err && keys.n)
		c.keys = &keys;
	if (!err)
		err = engine_open(&r->engine, &c);
	engine_keys_wipe(&keys);
	return err;
}

static void init(struct remote *r)
{
	cond_init(&r->changed);
	pthread_mutex_init(&r->lock, NULL);
	pthread_rwlock_init(&r->ckpt_lock, NULL);
	list_init(&r->drops);
	list_init(&r->wishes);
	list_init(&r->dirs);
	pthread_mutex_init(&r->dirs_lock, NULL);
	remote_scratch_open(r);
	r->pool_bytes = r->fs->config.pool_bytes;
}

static void close_workers(struct remote *r)
{
	workers_close(r->fetchers);
	workers_close(r->servers);
	workers_close(r->chores);
}

static int open_threads(struct remote *r)
{
	int err = workers_open(&r->fetchers, "kvfs-fetch", REMOTE_FETCHERS, 0);

	if (!err)
		err = workers_open(&r->servers, "kvfs-serve", REMOTE_SERVERS,
				   0);
	if (!err)
		err = workers_open(&r->chores, "kvfs-chore", 1, 0);
	if (!err)
		err = remote_offers_open(r);
	if (!err)
		err = remote_ahead_open(r);
	if (!err)
		err = remote_watch_open(r);
	if (!err) {
		err = remote_unlisted_open(r);
		if (err)
			remote_watch_close(r);
	}
	if (err) {
		close_workers(r);
		remote_ahead_close(r);
		remote_offers_close(r);
	}
	return err;
}

int remote_open(struct fs *fs)
{
	struct remote *r;
	int err;

	if (!fs->config.meta_url)
		return 0; /* nobody else knows this node's Redis */
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->fs = fs;
	init(r);
	err = open_threads(r);
	if (err) {
		free(r);
		return err;
	}
	err = open_engine(r);
	if (err) {
		close_workers(r);
		remote_unlisted_close(r);
		remote_watch_close(r);
		remote_ahead_close(r);
		remote_offers_close(r);
		free(r);
		return err;
	}
	fs->remote = r;
	remote_announce(r, false);
	return 0;
}

#define QUIESCE_US 2000

void remote_quiesce(struct fs *fs)
{
	struct remote *r = fs->remote;

	if (!r)
		return;
	do { /* a worker may just have begun one */
		workers_drain(fs->workers);
		remote_try_cancel(r, NULL);
		usleep(QUIESCE_US);
	} while (atomic_load(&r->counters.n_fetching));
	workers_drain(fs->workers);
}

void remote_stop(struct fs *fs)
{
	struct remote *r = fs->remote;

	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stopped = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	close_workers(r);
	remote_unlisted_close(r);
	remote_parts_stop(r);
	engine_close(r->engine);
	remote_watch_close(r);
}

void remote_close(struct fs *fs)
{
	struct remote *r = fs->remote;

	if (!r)
		return;
	remote_prefetch_close(r);
	remote_ahead_close(r);
	remote_offers_close(r);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	pthread_rwlock_destroy(&r->ckpt_lock);
	remote_scratch_close(r);
	pthread_mutex_destroy(&r->dirs_lock);
	remote_late_free(r);
	free(r);
	fs->remote = NULL;
}

// SPDX-License-Identifier: MIT
#include "meta/node.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "meta/internal.h"
#include "meta/namespace.h"

#define UUID_LEN 36
/* A late beat is better than none: it waits, if not for long. */
#define NODE_CALL_MS 1000

struct node {
	char uuid[UUID_LEN + 1];
	_Atomic uint32_t incarnation;
	_Atomic uint64_t store_id;
	_Atomic bool confirmed;
	bool kept;

	/* The heartbeat's own: what kv and ckpt were told of. */
	_Atomic uint64_t told_store;
	uint32_t told_incarnation;
	char told_run_id[41];

	pthread_mutex_t lock; /* a leaf; guards the rest */
	pthread_cond_t changed;
	uint64_t version; /* of the table below */
	uint64_t known;	  /* newest incarnation when it was fetched */
	uint32_t *live;	  /* ascending */
	size_t n_live;
	bool check, stop;
	uint64_t checks; /* how often a connection was new */
	pthread_t thread;
	bool has_thread;
};

/* --- the uuid ---------------------------------------------------------- */

static bool uuid_valid(const char *u)
{
	for (int i = 0; i < UUID_LEN; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? u[i] != '-'
			 : !((u[i] >= '0' && u[i] <= '9') ||
			     (u[i] >= 'a' && u[i] <= 'f')))
			return false;
	}
	return true;
}

static int uuid_make(char uuid[static UUID_LEN + 1])
{
	uint8_t b[16];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
		return -EIO;
	b[6] = (b[6] & 0x0f) | 0x40; /* RFC 9562, version 4 */
	b[8] = (b[8] & 0x3f) | 0x80;
	snprintf(uuid, UUID_LEN + 1,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
		 "%02x%02x%02x%02x%02x%02x",
		 b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9],
		 b[10], b[11], b[12], b[13], b[14], b[15]);
	return 0;
}

static int uuid_store(const char *path, const char *uuid)
{
	cleanup_free char *tmp = NULL;
	cleanup_close int fd = -1;

	if (asprintf(&tmp, "%s.tmp", path) < 0)
		return -ENOMEM;
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf(fd, "%s\n", uuid) < 0 || fsync(fd) ||
	    rename(tmp, path))
		return -errno;
	return 0;
}

/* The node's name for ever; a damaged file makes it another node. */
static int uuid_load(struct node *n, const char *state_dir)
{
	cleanup_free char *path = NULL;
	cleanup_close int fd = -1;
	int err;

	if (asprintf(&path, "%s/uuid", state_dir) < 0)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, n->uuid, UUID_LEN) == UUID_LEN &&
	    uuid_valid(n->uuid))
		return 0;
	if (fd >= 0)
		log_warn("node: %s: not a uuid: this is a new node now", path);
	err = uuid_make(n->uuid);
	err = err ? err : uuid_store(path, n->uuid);
	if (err)
		log_error("node: %s: %s", path, strerror(-err));
	return err;
}

/* --- calls ------------------------------------------------------------- */

static void add_store_id(struct redis_cmd *c)
{
	uint64_t id = 0;

	while (!id)
		if (getrandom(&id, sizeof(id), 0) != sizeof(id))
			id = (uint64_t)clock_now_ns();
	redis_cmd_uint(c, id);
}

static int members_fetch(struct meta *m, int64_t deadline)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	const struct redis_reply *list;
	uint64_t version, known, v;
	struct node *n = m->node;
	uint32_t *live;
	size_t count;
	int err;

	meta_fcall(&c, "node_members", 3);
	meta_cmd_key(&c, m, "n", "live");
	meta_cmd_key(&c, m, "n", "version");
	meta_cmd_key(&c, m, "n", "inc");
	err = meta_call_wait(m, META_LOOKUP, "n", deadline, &c, &reply);
	if (err)
		return err;
	list = redis_reply_at(reply, 2);
	if (redis_reply_uint(redis_reply_at(reply, 0), &version) ||
	    redis_reply_uint(redis_reply_at(reply, 1), &known))
		return -EPROTO;
	live = calloc(redis_reply_count(list) + 1, sizeof(*live));
	if (!live)
		return -ENOMEM;
	count = 0;
	for (size_t i = 0; i < redis_reply_count(list); i++)
		if (!redis_reply_uint(redis_reply_at(list, i), &v) &&
		    v <= UINT32_MAX)
			live[count++] = (uint32_t)v;
	scoped_lock(&n->lock);
	free(n->live);
	n->live = live;
	n->n_live = count;
	n->version = version;
	n->known = known;
	return 0;
}

static int join(struct meta *m, int64_t deadline, bool discard)
{
	static const char *const keys[] = {"live",    "node",  "uuid", "inc",
					   "version", "store", "last"};
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	struct node *n = m->node;
	uint64_t store, incarnation, kept;
	int err;

	meta_fcall(&c, "node_join", 7);
	for (int i = 0; i < 7; i++)
		meta_cmd_key(&c, m, "n", "%s", keys[i]);
	redis_cmd_str(&c, n->uuid);
	redis_cmd_str(&c, m->node_name);
	redis_cmd_int(&c, NODE_TTL_MS);
	redis_cmd_int(&c, discard);
	add_store_id(&c);
	err = meta_call_wait(m, META_LOOKUP, "n", deadline, &c, &reply);
	if (err)
		return err;
	if (redis_reply_uint(redis_reply_at(reply, 0), &store) ||
	    redis_reply_uint(redis_reply_at(reply, 2), &incarnation) ||
	    redis_reply_uint(redis_reply_at(reply, 3), &kept) || !store ||
	    !incarnation || incarnation > UINT32_MAX)
		return -EPROTO;
	n->store_id = store;
	n->incarnation = (uint32_t)incarnation;
	n->kept = kept;
	return members_fetch(m, deadline);
}

struct beat {
	uint64_t store, version, member;
};

static int beat(struct meta *m, int64_t deadline, struct beat *b)
{
	static const char *const keys[] = {"live", "node", "version", "store",
					   "last"};
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	int err;

	meta_fcall(&c, "node_beat", 5);
	for (int i = 0; i < 5; i++)
		meta_cmd_key(&c, m, "n", "%s", keys[i]);
	redis_cmd_uint(&c, m->node->incarnation);
	redis_cmd_int(&c, NODE_TTL_MS);
	add_store_id(&c);
	err = meta_call_wait(m, META_LOOKUP, "n", deadline, &c, &reply);
	if (err)
		return err;
	if (redis_reply_uint(redis_reply_at(reply, 0), &b->store) ||
	    redis_reply_uint(redis_reply_at(reply, 1), &b->version) ||
	    redis_reply_uint(redis_reply_at(reply, 2), &b->member))
		return -EPROTO;
	return 0;
}

/* --- the heartbeat ----------------------------------------------------- */

static bool run_id_changed(struct meta *m)
{
	struct node *n = m->node;
	char run_id[41];

	redis_run_id(m->links[META_LOOKUP], run_id);
	if (!strcmp(run_id, n->told_run_id))
		return false;
	memcpy(n->told_run_id, run_id, sizeof(run_id));
	return true;
}

static void told(struct node *n)
{
	n->told_store = n->store_id;
	n->told_incarnation = n->incarnation;
}

/* Tell the other parts of what became of the store since the last time. */
static int announce(struct meta *m)
{
	struct node *n = m->node;
	bool other_store = n->told_store != n->store_id;
	bool other_self = n->told_incarnation != n->incarnation;
	bool other_run = run_id_changed(m);
	int err;

	if (other_store || other_self)
		log_warn("node: %s: joined as %u, publishing everything again",
			 other_store ? "the store is another one"
				     : "the cluster took this node for dead",
			 n->incarnation);
	if (other_store) {
		err = meta_namespace_store_changed(m);
		if (err)
			return err;
	}
	told(n);
	if (other_store || other_self)
		meta_kv_store_changed(m);
	else if (other_run)
		meta_kv_audit(m, "Redis was started again");
	if (other_store || other_self || other_run)
		meta_ckpt_store_changed(m);
	return 0;
}

/* Returns: 0 once the store behind the connections is known. */
static int beat_once(struct meta *m)
{
	struct node *n = m->node;
	int64_t deadline = clock_now_ns() + NODE_CALL_MS * NS_PER_MS;
	struct beat b = {0};
	int err = beat(m, deadline, &b);

	if (err)
		return err;
	if (b.store != n->store_id || !b.member)
		err = join(m, deadline, false);
	else if (b.version != n->version)
		err = members_fetch(m, deadline);
	return err ? err : announce(m);
}

/* Wait for the next beat's time or for a reason to beat now. */
static bool beat_wait(struct node *n)
{
	uint16_t jitter = 0;
	struct timespec t;

	if (getrandom(&jitter, sizeof(jitter), 0) < 0)
		jitter = 0;
	t = clock_timespec(clock_now_ns() + NODE_BEAT_MS * NS_PER_MS -
			   jitter % 300 * NS_PER_MS);
	scoped_lock(&n->lock);
	while (!n->stop && !n->check)
		if (pthread_cond_timedwait(&n->changed, &n->lock, &t))
			break;
	n->check = false;
	return !n->stop;
}

static void confirm(struct node *n, uint64_t checks)
{
	scoped_lock(&n->lock);
	if (checks == n->checks) /* else: yet another connection meanwhile */
		n->confirmed = true;
}

static void *node_thread(void *arg)
{
	struct meta *m = arg;
	struct node *n = m->node;

	do {
		uint64_t checks;

		pthread_mutex_lock(&n->lock);
		checks = n->checks;
		pthread_mutex_unlock(&n->lock);
		if (!beat_once(m)) {
			confirm(n, checks);
			meta_kv_wake(m);
		}
	} while (beat_wait(n));
	return NULL;
}

/* --- for the other parts ----------------------------------------------- */

void meta_node_check(struct meta *m)
{
	struct node *n = m->node;

	if (!n)
		return;
	scoped_lock(&n->lock);
	n->confirmed = false;
	n->check = true;
	n->checks++;
	pthread_cond_signal(&n->changed);
}

bool meta_node_confirmed(struct meta *m)
{
	return m->node->confirmed;
}

uint32_t meta_incarnation(struct meta *m)
{
	return m->node->incarnation;
}

uint64_t meta_node_told_store(struct meta *m)
{
	return m->node->told_store;
}

uint64_t meta_node_store_id(struct meta *m)
{
	return m->node->store_id;
}

bool meta_node_kept(struct meta *m)
{
	return m->node->kept;
}

uint32_t meta_node_count(struct meta *m)
{
	scoped_lock(&m->node->lock);
	return (uint32_t)m->node->n_live;
}

bool meta_node_live(struct meta *m, uint32_t incarnation)
{
	struct node *n = m->node;

	scoped_lock(&n->lock);
	if (incarnation > n->known)
		return true;
	for (size_t i = 0; i < n->n_live; i++)
		if (n->live[i] == incarnation)
			return true;
	return false;
}

void *meta_node_list(struct meta *m, size_t *n_bytes, uint64_t *known)
{
	struct node *n = m->node;
	uint8_t *bytes;

	scoped_lock(&n->lock);
	bytes = malloc(n->n_live * 4 + 1);
	if (!bytes)
		return NULL;
	for (size_t i = 0; i < n->n_live; i++)
		for (int b = 0; b < 4; b++)
			bytes[i * 4 + b] = (uint8_t)(n->live[i] >> (8 * b));
	*n_bytes = n->n_live * 4;
	*known = n->known;
	return bytes;
}

/* --- open and close ---------------------------------------------------- */

int meta_node_open(struct meta *m)
{
	struct node *n = calloc(1, sizeof(*n));
	pthread_condattr_t attr;
	int err;

	if (!n)
		return -ENOMEM;
	pthread_mutex_init(&n->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&n->changed, &attr);
	pthread_condattr_destroy(&attr);
	m->node = n;
	err = uuid_load(n, m->state_dir);
	if (err)
		return err;
	err = join(m, 0, m->discard);
	if (err)
		log_error("node: cannot join: %s", strerror(-err));
	run_id_changed(m);
	told(n);
	return err;
}

int meta_node_start(struct meta *m)
{
	int err = -pthread_create(&m->node->thread, NULL, node_thread, m);

	if (err)
		return err;
	m->node->has_thread = true;
	pthread_setname_np(m->node->thread, "heartbeat");
	return 0;
}

static void leave(struct meta *m)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};

	meta_fcall(&c, "node_leave", 3);
	meta_cmd_key(&c, m, "n", "live");
	meta_cmd_key(&c, m, "n", "node");
	meta_cmd_key(&c, m, "n", "version");
	redis_cmd_uint(&c, m->node->incarnation);
	meta_call(m, META_LOOKUP, "n", clock_now_ns() + NS_PER_S, &c, &reply);
}

void meta_node_stop(struct meta *m)
{
	struct node *n = m->node;

	if (!n || !n->has_thread)
		return;
	pthread_mutex_lock(&n->lock);
	n->stop = true;
	pthread_cond_signal(&n->changed);
	pthread_mutex_unlock(&n->lock);
	pthread_join(n->thread, NULL);
	n->has_thread = false;
	if (!m->embedded) /* that one ends with us */
		leave(m);
}

void meta_node_close(struct meta *m)
{
	struct node *n = m->node;

	if (!n)
		return;
	pthread_cond_destroy(&n->changed);
	pthread_mutex_destroy(&n->lock);
	free(n->live);
	free(n);
	m->node = NULL;
}

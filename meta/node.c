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
#include "base/cond.h"
#include "base/fault.h"
#include "base/log.h"
#include "meta/internal.h"
#include "meta/member.h"
#include "meta/members.h"
#include "meta/namespace.h"
#include "meta/node_impl.h"

#define UUID_LEN META_UUID_LEN
/* A late beat is better than none: it waits, if not for long. */
#define NODE_CALL_MS 1000
/* For so long a lone node need not ask whether it still is one. */
#define ALONE_NS (100 * NS_PER_MS)
#define USAGE_MAX 1000u /* namespaces told with a heartbeat */

/* --- the uuid ---------------------------------------------------------- */

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
	    member_uuid_valid(n->uuid, UUID_LEN))
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

static void add_record(struct redis_cmd *c, struct meta *m)
{
	struct meta_node node = {.incarnation = 0};
	char text[MEMBER_TEXT_MAX];
	struct node *n = m->node;

	memcpy(node.uuid, n->uuid, sizeof(node.uuid));
	snprintf(node.name, sizeof(node.name), "%s", m->node_name);
	snprintf(node.host, sizeof(node.host), "%s", m->host);
	pthread_mutex_lock(&n->lock);
	node.self = n->self;
	pthread_mutex_unlock(&n->lock);
	member_encode(&node, text);
	redis_cmd_str(c, text);
}

/* A state directory that was copied, or this one's last life on a machine of
 * another name. */
static int refused_join(struct meta *m, const struct redis_reply *reply)
{
	struct node *n = m->node;
	bool said = n->twin_till_ms;

	if (redis_reply_uint(redis_reply_at(reply, 2), &n->twin_till_ms))
		return -EPROTO;
	if (!said)
		log_error("node: %s/uuid is the one of a node that is up on "
			  "%.64s: if it was copied from there, remove it and "
			  "mount again",
			  m->state_dir,
			  redis_reply_text(redis_reply_at(reply, 1)));
	return -EEXIST;
}

static int join(struct meta *m, int64_t deadline, bool discard)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	struct node *n = m->node;
	uint64_t store, incarnation, kept;
	int64_t sent_ns = clock_now_ns();
	int err;

	meta_fcall(&c, "node_join", 1);
	meta_cmd_key(&c, m, "n", "%s", "");
	redis_cmd_str(&c, n->uuid);
	add_record(&c, m);
	redis_cmd_int(&c, NODE_TTL_MS);
	redis_cmd_int(&c, discard);
	add_store_id(&c);
	redis_cmd_uint(&c, meta_members_newest(m));
	err = meta_call_wait(m, META_LOOKUP, "n", deadline, &c, &reply);
	if (err)
		return err;
	if (redis_reply_uint(redis_reply_at(reply, 0), &store))
		return -EPROTO;
	if (!store)
		return refused_join(m, reply);
	if (redis_reply_uint(redis_reply_at(reply, 2), &incarnation) ||
	    redis_reply_uint(redis_reply_at(reply, 3), &kept) || !incarnation ||
	    incarnation > UINT32_MAX)
		return -EPROTO;
	n->twin_till_ms = 0;
	n->store_id = store;
	n->incarnation = (uint32_t)incarnation;
	n->kept = kept;
	n->beat_ns = sent_ns;
	return meta_members_fetch(m, deadline);
}

struct beat {
	uint64_t store, version, member, namespaces, missed;
};

static bool is_started(struct node *n)
{
	scoped_lock(&n->lock);
	return n->started;
}

static void add_load(struct redis_cmd *c, struct meta *m)
{
	struct meta_load load = {.victim_age_ms = -1};
	char text[MEMBER_LOAD_MAX];

	if (is_started(m->node) && m->node_ops && m->node_ops->load)
		m->node_ops->load(m->node_ctx, &load);
	member_load_encode(&load, text);
	redis_cmd_str(c, text);
}

struct usage_list {
	struct redis_cmd *c;
	unsigned n;
};

static void usage_add(void *arg, const char *ns, uint64_t bytes)
{
	struct usage_list *l = arg;

	if (!bytes || l->n++ >= USAGE_MAX)
		return;
	redis_cmd_str(l->c, ns);
	redis_cmd_uint(l->c, bytes);
}

static void add_usage(struct redis_cmd *c, struct meta *m)
{
	struct usage_list l = {.c = c};

	if (is_started(m->node) && m->node_ops && m->node_ops->usage)
		m->node_ops->usage(m->node_ctx, usage_add, &l);
}

/* --- removals that others were not told of ------------------------------ */

static bool is_missed(struct node *n, uint32_t incarnation)
{
	for (unsigned i = 0; i < n->n_missed; i++)
		if (n->missed[i] == incarnation)
			return true;
	return false;
}

static void missed_add(struct node *n, uint32_t incarnation)
{
	unsigned room = n->missed_room ? 2 * n->missed_room : 16;
	scoped_lock(&n->lock);

	if (is_missed(n, incarnation))
		return;
	if (n->n_missed == n->missed_room) {
		uint32_t *more = reallocarray(n->missed, room, sizeof(*more));

		if (!more)
			return;
		n->missed = more;
		n->missed_room = room;
	}
	n->missed[n->n_missed++] = incarnation;
}

/* Returns: how many of them the command has. */
static unsigned add_missed(struct redis_cmd *c, struct node *n)
{
	cleanup_free char *text = NULL;
	size_t used = 0;
	scoped_lock(&n->lock);

	text = malloc(n->n_missed * 11 + 1);
	if (!text) {
		redis_cmd_str(c, "");
		return 0;
	}
	for (unsigned i = 0; i < n->n_missed; i++)
		used += (size_t)sprintf(text + used, "%" PRIu32 " ",
					n->missed[i]);
	text[used] = 0;
	redis_cmd_str(c, text);
	return n->n_missed;
}

/* Redis has the first of them now. */
static void missed_told(struct node *n, unsigned told)
{
	scoped_lock(&n->lock);

	n->n_missed -= told;
	for (unsigned i = 0; i < n->n_missed; i++)
		n->missed[i] = n->missed[told + i];
}

static int beat(struct meta *m, int64_t deadline, struct beat *b)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	int64_t sent_ns = clock_now_ns();
	uint64_t redis_ms;
	unsigned told;
	int err;

	meta_fcall(&c, "node_beat", 1);
	meta_cmd_key(&c, m, "n", "%s", "");
	redis_cmd_uint(&c, m->node->incarnation);
	redis_cmd_int(&c, NODE_TTL_MS);
	add_store_id(&c);
	add_record(&c, m);
	add_load(&c, m);
	told = add_missed(&c, m->node);
	add_usage(&c, m);
	err = meta_call_wait(m, META_LOOKUP, "n", deadline, &c, &reply);
	if (err)
		return err;
	if (redis_reply_uint(redis_reply_at(reply, 0), &b->store) ||
	    redis_reply_uint(redis_reply_at(reply, 1), &b->version) ||
	    redis_reply_uint(redis_reply_at(reply, 2), &b->member) ||
	    redis_reply_uint(redis_reply_at(reply, 3), &redis_ms) ||
	    redis_reply_uint(redis_reply_at(reply, 6), &b->namespaces) ||
	    redis_reply_uint(redis_reply_at(reply, 7), &b->missed))
		return -EPROTO;
	missed_told(m->node, told);
	meta_members_heard(m, redis_ms, redis_reply_at(reply, 4),
			   redis_reply_at(reply, 5));
	if (b->member)
		m->node->beat_ns = sent_ns;
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
	if (n->told_incarnation != n->incarnation)
		n->told_missed = 0;
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

/* What was removed while nobody could tell us is still here. */
static void missed(struct meta *m, uint64_t count)
{
	struct node *n = m->node;

	if (count > n->told_missed)
		meta_kv_audit(m, "a removal did not reach this node");
	n->told_missed = count;
}

/* What others did to the namespaces. That may fail: the next beat sees it. */
static void namespaces(struct meta *m, uint64_t version)
{
	int64_t deadline = clock_now_ns() + NODE_CALL_MS * NS_PER_MS;

	if (!is_started(m->node) || !m->namespaces)
		return;
	if (!meta_namespace_heard(m, version, deadline))
		meta_namespace_tell(m);
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
	else if (b.version != meta_members_version(m))
		err = meta_members_fetch(m, deadline);
	if (!err && is_started(n))
		meta_members_tell(m);
	err = err ? err : announce(m);
	if (!err && b.member)
		missed(m, b.missed);
	if (!err)
		namespaces(m, b.namespaces);
	if (!err && is_started(n) && m->node_ops && m->node_ops->beat)
		m->node_ops->beat(m->node_ctx);
	return err;
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

/* Returns: how many connections there were before it. */
static uint64_t beat_begins(struct node *n)
{
	scoped_lock(&n->lock);

	n->beats++;
	return n->checks;
}

static void beat_ends(struct node *n, bool answered, uint64_t checks)
{
	scoped_lock(&n->lock);

	n->beats_done = n->beats;
	pthread_cond_broadcast(&n->beaten);
	if (answered && checks == n->checks) /* else: yet another connection */
		n->confirmed = true;
}

static void *node_thread(void *arg)
{
	struct meta *m = arg;
	struct node *n = m->node;

	do {
		uint64_t checks = beat_begins(n);
		bool answered;

		fault_pass("node.beat");
		answered = !beat_once(m);
		beat_ends(n, answered, checks);
		if (answered)
			meta_kv_wake(m);
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

uint32_t meta_node_self(struct meta *m)
{
	return m->node->incarnation;
}

const char *meta_node_uuid(struct meta *m)
{
	return m->node->uuid;
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

/* One second for clocks that run apart. */
bool meta_node_is_sure(struct meta *m)
{
	return clock_now_ns() - m->node->beat_ns <
	       (NODE_TTL_MS - 1000) * NS_PER_MS;
}

/* Beat as soon as may be. */
static void hurry(struct node *n)
{
	scoped_lock(&n->lock);
	n->check = true;
	pthread_cond_signal(&n->changed);
}

bool meta_nodes_alone(struct meta *m)
{
	struct node *n = m->node;
	int64_t age;

	if (m->embedded)
		return true;
	if (!n->confirmed || meta_members_count(m, true) != 1)
		return false;
	age = clock_now_ns() - n->beat_ns;
	if (age > ALONE_NS)
		hurry(n);
	return age <= ALONE_NS;
}

void meta_nodes_refresh(struct meta *m, int64_t deadline)
{
	struct timespec t = clock_timespec(deadline);
	struct node *n = m->node;
	uint64_t wanted;
	scoped_lock(&n->lock);

	wanted = n->beats + 1; /* one that is under way may have asked before */
	n->check = true;
	pthread_cond_signal(&n->changed);
	while (!n->stop && n->beats_done < wanted)
		if (pthread_cond_timedwait(&n->beaten, &n->lock, &t))
			return;
}

void meta_nodes_missed(struct meta *m, uint32_t incarnation)
{
	missed_add(m->node, incarnation);
	hurry(m->node);
}

static bool self_valid(const struct meta_self *self)
{
	if (self->n_addrs > META_ADDRS_MAX)
		return false;
	for (uint32_t i = 0; i < self->n_addrs; i++)
		if (!member_addr_valid(self->addrs[i]))
			return false;
	return true;
}

int meta_node_announce(struct meta *m, const struct meta_self *self)
{
	struct node *n = m->node;

	if (!self_valid(self))
		return -EINVAL;
	pthread_mutex_lock(&n->lock);
	n->self = *self;
	pthread_mutex_unlock(&n->lock);
	hurry(n);
	return 0;
}

void meta_node_ready(struct meta *m)
{
	pthread_mutex_lock(&m->node->lock);
	m->node->started = true;
	pthread_mutex_unlock(&m->node->lock);
	hurry(m->node);
}

/* --- open and close ---------------------------------------------------- */

#define TWIN_LOOK_US 200000

/* Who has our uuid on another host is this node before it was killed, unless it
 * still beats. */
static int join_first(struct meta *m)
{
	int64_t until = clock_now_ns() + 2 * NODE_TTL_MS * NS_PER_MS;
	int err = join(m, 0, m->discard);
	uint64_t till_ms = m->node->twin_till_ms;

	while (err == -EEXIST && till_ms == m->node->twin_till_ms &&
	       clock_now_ns() < until) {
		usleep(TWIN_LOOK_US);
		err = join(m, 0, m->discard);
	}
	return err;
}

int meta_node_open(struct meta *m)
{
	struct node *n = calloc(1, sizeof(*n));
	int err;

	if (!n)
		return -ENOMEM;
	pthread_mutex_init(&n->lock, NULL);
	cond_init(&n->changed);
	cond_init(&n->beaten);
	m->node = n;
	err = uuid_load(n, m->state_dir);
	err = err ? err : meta_members_open(m);
	if (err)
		return err;
	err = join_first(m);
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

	meta_fcall(&c, "node_leave", 1);
	meta_cmd_key(&c, m, "n", "%s", "");
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
	pthread_cond_broadcast(&n->beaten);
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
	pthread_cond_destroy(&n->beaten);
	pthread_cond_destroy(&n->changed);
	pthread_mutex_destroy(&n->lock);
	free(n->missed);
	free(n);
	m->node = NULL;
	meta_members_close(m);
}

// SPDX-License-Identifier: MIT
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fs/fs.h"
#include "fs/ioctl.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "meta/nodes.h"

/*
 * EXISTS and MATCH. A batch of names that are all here, which is what a warm
 * cache is asked for, is answered where it arrives: a thousand in some ten
 * microseconds, without an allocation. What that cannot decide goes to a
 * worker, to the core that .kvfs/match has (kv_match.h).
 */

/* A request that was checked. */
struct find {
	uint32_t flags, n;
	struct ioctl_names names;
};

static int find_init(struct find *q, const struct call *c)
{
	struct kvfs_ioc_find in;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags & ~KVFS_IOC_LOCAL || in.reserved)
		return -EINVAL;
	q->flags = in.flags;
	q->n = in.names.n;
	return ioctl_names_init(&q->names, &in.names,
				(const char *)c->value + sizeof(in),
				c->size - sizeof(in));
}

/* -- the answer --------------------------------------------------------- */

static void set_bit(uint8_t *bits, unsigned i)
{
	bits[i / 8] |= (uint8_t)(1u << i % 8);
}

static bool has_bit(const uint8_t *bits, unsigned i)
{
	return bits[i / 8] >> i % 8 & 1;
}

static void count(struct kvfs_ioc_found *found, const uint8_t *bits)
{
	uint32_t i = 0;

	while (i + 8 <= found->n && bits[i / 8] == UINT8_MAX)
		i += 8; /* as many as can be at once */
	found->n_present = found->n_prefix = i;
	for (; i < found->n; i++) {
		bool there = has_bit(bits, i);

		found->n_prefix += there && found->n_prefix == i;
		found->n_present += there;
	}
}

void ioctl_reply_found(struct call *c, struct kvfs_ioc_found *found,
		       const struct kvfs_ioc_node *nodes, const uint8_t *bits)
{
	size_t n_bits = (found->n + 7) / 8;
	size_t n_nodes = found->n_nodes * sizeof(*nodes);
	size_t size = sizeof(*found) + n_nodes + n_bits;
	char answer[sizeof(*found) +
		    (1 + META_KV_HOLDERS_MAX) * sizeof(*nodes) +
		    IOCTL_BITS_BYTES];
	char *at;

	if (size > c->room) {
		call_reply_err(c, EMSGSIZE);
		return;
	}
	count(found, bits);
	found->head = ioctl_head(size);
	at = mempcpy(answer, found, sizeof(*found));
	at = n_nodes ? mempcpy(at, nodes, n_nodes) : at;
	memcpy(at, bits, n_bits);
	call_reply_ioctl(c, answer, size);
}

/* -- at once ------------------------------------------------------------ */

static bool is_here(const struct kv_node *node)
{
	return node && !kv_is_dir(node) && !node->damaged &&
	       node->state == KV_COMMITTED;
}

/* It may be committed by this, and others evicted for it. */
static bool is_block(struct kv *kv, struct kv_node *node)
{
	return node && !kv_is_dir(node) && !node->damaged &&
	       !kv_try_commit(kv, kv_file(node));
}

/* Lock held. A bit each; nearly always that is all of them. */
static uint64_t find_here(struct kv *kv, struct kv_dir *dir,
			  const struct ioctl_some *some, unsigned n)
{
	struct kv_node *nodes[KV_FIND_MAX];
	uint64_t here = 0;

	kv_find_some(kv, dir, some->names, n, nodes);
	for (unsigned i = 0; i < n; i++)
		here |= (uint64_t)is_here(nodes[i]) << i;
	return here;
}

/* Lock held. 0: its bit is as it should be; -EAGAIN: that is not known here. */
static int look(struct kv *kv, const struct kv_caller *who, struct kv_dir *dir,
		const struct kv_name *name, uint8_t *bits, unsigned at)
{
	struct kv_node *node;
	int err = kv_walk(kv, who, dir, name->text, name->len, &node);

	if (err)
		return err == -EACCES ? 0 : err;
	if (!is_block(kv, node))
		return remote_active(kv->fs) ? -EAGAIN : 0;
	set_bit(bits, at);
	return 0;
}

/* Lock held. As exists_here, of n names whose first is the at-th. */
static int some_here(struct kv *kv, const struct kv_caller *who,
		     struct kv_dir *dir, const struct ioctl_some *some,
		     unsigned n, uint8_t *bits, unsigned at)
{
	int err = kv_may_reach(who, dir);
	uint64_t here = err ? 0 : htole64(find_here(kv, dir, some, n));

	memcpy(bits + at / 8, &here, (n + 7) / 8);
	if (here == UINT64_MAX)
		return 0;
	for (unsigned i = 0; i < n && !err; i++)
		if (!has_bit(bits, at + i))
			err = look(kv, who, dir, &some->names[i], bits, at + i);
	return err;
}

/* Returns: 0, -ENOENT the directory went, or -EAGAIN. */
static int exists_here(struct call *c, struct find *q, uint8_t *bits)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	const struct kv_caller who = kv_caller_of(c);
	struct ioctl_some some;
	unsigned n, at = 0;
	int err;

	do {
		n = ioctl_names_some(&q->names, &some);
		pthread_mutex_lock(&kv->lock);
		err = some_here(kv, &who, dir, &some, n, bits, at);
		pthread_mutex_unlock(&kv->lock);
		at += n;
	} while (!err && n == KV_FIND_MAX);
	return err == -EACCES ? 0 : err;
}

/* -- on a worker -------------------------------------------------------- */

/* The longest prefix first. */
static int by_prefix(const void *a, const void *b)
{
	const struct kvfs_ioc_node *x = a, *y = b;

	if (x->n_prefix != y->n_prefix)
		return x->n_prefix > y->n_prefix ? -1 : 1;
	return strcmp(x->uuid, y->uuid);
}

static uint32_t fill_nodes(struct fs *fs, const struct kv_match_answer *a,
			   struct kvfs_ioc_node *nodes)
{
	struct meta_node node;
	uint32_t n = 0;

	for (unsigned i = 0; i < a->n_nodes; i++) {
		struct kvfs_ioc_node *to = &nodes[n];

		if (!meta_node_get(fs->meta, a->nodes[i].incarnation, &node))
			continue; /* went meanwhile */
		memset(to, 0, sizeof(*to));
		to->n_prefix = a->nodes[i].n_prefix;
		to->flags = node.is_self ? KVFS_IOC_SELF : 0;
		snprintf(to->uuid, sizeof(to->uuid), "%s", node.uuid);
		snprintf(to->name, sizeof(to->name), "%s", node.name);
		n++;
	}
	qsort(nodes, n, sizeof(*nodes), by_prefix);
	return n;
}

static int ask(struct call *c, struct find *q, bool any, uint8_t *bits,
	       struct kv_match_answer *a)
{
	cleanup_free struct kv_caller *who = kv_caller_new(c);
	char path[POOL_PATH_MAX + 1];
	struct ioctl_text t = {NULL, NULL, 0};
	int err = who ? ioctl_text_init(&t, &q->names, q->n) : -ENOMEM;
	int len = err ? err : ioctl_dir_path(c, &t, path);
	struct kv_match_question question = {
		.dir = {path, (uint16_t)len},
		.names = t.names,
		.n = q->n,
		.local = q->flags & KVFS_IOC_LOCAL,
		.any = any,
		.bits = bits,
	};

	err = len < 0 ? len : kv_match(c->fs, who, c->deadline, &question, a);
	ioctl_text_fini(&t);
	atomic_fetch_add(&c->fs->counters.matches, 1);
	return err;
}

static void find_on_worker(struct call *c, bool nodes_too)
{
	struct kvfs_ioc_node nodes[1 + META_KV_HOLDERS_MAX];
	struct kvfs_ioc_found found = {.flags = 0};
	uint8_t bits[IOCTL_BITS_BYTES] = {0};
	struct kv_match_answer a;
	struct find q;
	int err = find_init(&q, c);

	if (!err)
		ioctl_dirs_ask(c, &q.names);
	if (!err)
		err = ask(c, &q, !nodes_too, bits, &a);
	if (err) {
		call_reply_err(c, err);
		return;
	}
	found.n = q.n;
	found.flags = a.complete ? 0 : KVFS_IOC_INCOMPLETE;
	found.n_nodes = nodes_too ? fill_nodes(c->fs, &a, nodes) : 0;
	ioctl_reply_found(c, &found, nodes, bits);
}

static void exists_on_worker(struct call *c)
{
	find_on_worker(c, false);
}

static void match_on_worker(struct call *c)
{
	find_on_worker(c, true);
}

/* -- handlers ----------------------------------------------------------- */

void ioctl_do_exists(struct call *c)
{
	struct kvfs_ioc_found found = {.flags = 0};
	uint8_t bits[IOCTL_BITS_BYTES] = {0};
	struct find q;
	int err = find_init(&q, c);

	if (!err)
		err = exists_here(c, &q, bits);
	if (err == -EAGAIN) {
		call_defer(c, exists_on_worker);
		return;
	}
	if (err) {
		call_reply_err(c, err);
		return;
	}
	found.n = q.n;
	ioctl_reply_found(c, &found, NULL, bits);
}

void ioctl_do_match(struct call *c)
{
	call_defer(c, match_on_worker);
}

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/ckpt_fetch.h"
#include "fs/remote.h"

/*
 * Copies of whole files on other nodes. A node is asked to fetch one
 * (SHARD_TAKE) and answers at once: it is here, or it is coming. It goes on
 * until it has all of it, whether or not it is asked again; whoever wants to
 * know asks again, and hears what came of it. So no call waits for gigabytes,
 * and there is one way of moving bytes, with the reader in charge.
 */

#define HOSTS_MAX 64
#define TROUBLE_NS (10 * NS_PER_S) /* that long an asker is told of it */

/* -- the node that is asked --------------------------------------------- */

static struct cfetch_trouble *trouble_of(struct ckpt *ckpt, uint64_t ino)
{
	return &ckpt->troubles[ino % CFETCH_TROUBLES];
}

void ccopy_failed(struct ckpt *ckpt, uint64_t ino, uint64_t version, int err)
{
	scoped_lock(&ckpt->lock);

	*trouble_of(ckpt, ino) = (struct cfetch_trouble){
		.ino = ino,
		.version = version,
		.err = err,
		.at_ns = clock_now_ns(),
	};
}

static int recent_trouble(struct ckpt *ckpt, const struct cwire_ask *ask)
{
	const struct cfetch_trouble *t = trouble_of(ckpt, ask->ino);
	scoped_lock(&ckpt->lock);

	return t->ino == ask->ino && t->version == ask->version &&
			       clock_now_ns() - t->at_ns < TROUBLE_NS
		       ? t->err
		       : 0;
}

static bool drains(struct meta *meta)
{
	struct meta_node self;

	return meta_node_get(meta, meta_node_self(meta), &self) &&
	       self.self.draining;
}

static int keep(struct ckpt *ckpt, const struct ckpt_attr *a)
{
	struct ckpt_inode *inode = cinode_get(ckpt, a, 1);
	struct ckpt_data *d = inode ? cdata_get(ckpt, inode) : NULL;
	struct stat st;
	int err = d ? cfetch_backing(d, false, &st) : -ENOMEM;

	if (!err)
		err = cfetch_keep(d);
	if (d)
		cdata_put(d);
	if (inode)
		cinode_forget(ckpt->fs, &inode->head, 1);
	return err;
}

int ccopy_take(struct ckpt *ckpt, const struct cwire_ask *ask)
{
	struct ckpt_attr a;
	int err = recent_trouble(ckpt, ask);

	if (err)
		return err;
	if (drains(ckpt->fs->meta))
		return -EAGAIN;
	err = ckpt_getattr(ckpt->fs->meta, 0, ask->ino, &a);
	if (err)
		return err;
	if (!S_ISREG(a.mode) || a.version != ask->version)
		return -ESTALE;
	return keep(ckpt, &a);
}

/* -- who has it --------------------------------------------------------- */

/* Nodes of one host fail together: they count as one. */
struct host {
	char name[META_NODE_NAME_MAX + 1];
	uint8_t *bits; /* the shards that its nodes have, or will */
};

struct spread {
	struct ckpt *ckpt;
	const struct ckpt_attr *a;
	uint32_t n_shards;
	size_t n_bytes;
	uint8_t *held; /* the shards that any node has */
	struct host hosts[HOSTS_MAX];
	unsigned n_hosts;
	uint32_t refused[HOSTS_MAX]; /* nodes that cannot */
	unsigned n_refused;
	int err;

	/* the best to ask next */
	uint32_t best;
	unsigned best_has;
	uint64_t best_hash;
	char best_host[META_NODE_NAME_MAX + 1];
};

static bool has_bit(const uint8_t *bits, uint32_t i)
{
	return bits[i / 8] >> i % 8 & 1;
}

/* NULL: no memory, or more hosts than anybody asks copies for. */
static struct host *host_of(struct spread *s, const char *name, bool make)
{
	struct host *h = s->hosts;

	for (; h < s->hosts + s->n_hosts; h++)
		if (!strcmp(h->name, name))
			return h;
	if (!make || s->n_hosts == HOSTS_MAX)
		return NULL;
	h->bits = calloc(1, s->n_bytes);
	if (!h->bits)
		return NULL;
	strcpy(h->name, name);
	s->n_hosts++;
	return h;
}

static void add_bits(const struct spread *s, uint8_t *to,
		     const struct ckpt_holder *h)
{
	for (size_t i = 0; i < s->n_bytes; i++)
		to[i] |= h->whole ? 0xff : i < h->n_bytes ? h->bits[i] : 0;
}

/* What a node has that is about to go does not count. */
static void note_holder(void *arg, const struct ckpt_holder *h)
{
	struct spread *s = arg;
	struct meta_node node;
	struct host *host;

	add_bits(s, s->held, h);
	if (!meta_node_get(s->ckpt->fs->meta, h->incarnation, &node) ||
	    node.self.draining)
		return;
	host = host_of(s, node.host, true);
	if (host)
		add_bits(s, host->bits, h);
}

/* Redis hears of a change up to a second later. */
static void note_self(struct spread *s)
{
	struct fs *fs = s->ckpt->fs;
	uint8_t bits[CKPT_SHARDS_BYTES_MAX];
	struct ckpt_holder h = {.incarnation = meta_node_self(fs->meta),
				.bits = bits};
	uint64_t version = 0;

	h.n_bytes = cfetch_meta_ops.shards(fs, s->a->ino, &version, bits);
	if (h.n_bytes && version == s->a->version)
		note_holder(s, &h);
}

/* Of the shard that the fewest hosts have, among those that there are. */
static unsigned copies_of(const struct spread *s)
{
	unsigned least = UINT32_MAX;

	for (uint32_t i = 0; i < s->n_shards; i++) {
		unsigned n = 0;

		for (unsigned h = 0; h < s->n_hosts; h++)
			n += has_bit(s->hosts[h].bits, i);
		if (has_bit(s->held, i) && n < least)
			least = n;
	}
	return least;
}

static int spread_open(struct spread *s, int64_t deadline)
{
	int err;

	s->n_shards = ckpt_shards(s->a);
	s->n_bytes = (s->n_shards + 7) / 8;
	s->held = calloc(1, s->n_bytes);
	if (!s->held)
		return -ENOMEM;
	err = ckpt_holders(s->ckpt->fs->meta, deadline, s->a->ino,
			   s->a->version, note_holder, s);
	if (err)
		return err;
	note_self(s);
	return copies_of(s) == UINT32_MAX ? -ENODATA : 0;
}

static void spread_close(struct spread *s)
{
	for (unsigned i = 0; i < s->n_hosts; i++)
		free(s->hosts[i].bits);
	free(s->held);
}

/* -- who could take it -------------------------------------------------- */

static uint64_t mix(uint64_t n)
{
	n *= 0x9e3779b97f4a7c15ull;
	return n ^ n >> 32;
}

static bool has_refused(const struct spread *s, uint32_t node)
{
	for (unsigned i = 0; i < s->n_refused; i++)
		if (s->refused[i] == node)
			return true;
	return false;
}

/* The host that has the most already; of those with equally many one that
 * depends on the file: asked again, it is the same, and files spread. */
static bool compare(void *arg, const struct meta_node *node)
{
	struct spread *s = arg;
	struct host *host = host_of(s, node->host, false);
	uint64_t hash = mix(s->a->ino ^ mix(node->incarnation));
	unsigned has = 0;

	if (node->is_self || node->self.draining || !node->self.n_addrs ||
	    has_refused(s, node->incarnation))
		return true;
	for (uint32_t i = 0; host && i < s->n_shards; i++)
		has += has_bit(host->bits, i);
	if (has == s->n_shards ||
	    (s->best && (has < s->best_has ||
			 (has == s->best_has && hash <= s->best_hash))))
		return true;
	s->best = node->incarnation;
	s->best_has = has;
	s->best_hash = hash;
	strcpy(s->best_host, node->host);
	return true;
}

/* 0 it has it, -EINPROGRESS it will, -EBUSY nobody is left, -ENOMEM. */
static int ask_next(struct spread *s, int64_t deadline)
{
	const struct ckpt_holder all = {.whole = true};
	struct cwire_ask ask = {.ino = s->a->ino,
				.version = s->a->version,
				.length_bytes = 1,
				.priority = ENGINE_REPLICATE};
	struct remote *r = s->ckpt->fs->remote;
	uint8_t bytes[CWIRE_BYTES];
	struct host *host;
	int err;

	cwire_encode(&ask, bytes);
	for (;;) {
		s->best = 0;
		meta_nodes(s->ckpt->fs->meta, compare, s);
		if (!s->best || s->n_refused == HOSTS_MAX)
			return -EBUSY;
		err = remote_ask(r, s->best, REMOTE_SHARD_TAKE, bytes,
				 sizeof(bytes), deadline);
		if (!err || err == -EINPROGRESS)
			break;
		s->refused[s->n_refused++] = s->best;
	}
	host = host_of(s, s->best_host, true);
	if (!host)
		return -ENOMEM;
	add_bits(s, host->bits, &all);
	return err;
}

int ccopy_spread(struct ckpt *ckpt, struct ckpt_inode *inode, unsigned copies,
		 int64_t deadline)
{
	struct ckpt_attr a = cinode_attr(ckpt, inode);
	struct spread s = {.ckpt = ckpt, .a = &a};
	bool coming = false;
	int err;

	if (!S_ISREG(a.mode))
		return -EPERM;
	if (cinode_is_written(ckpt, inode))
		return -ETXTBSY;
	if (!a.size_bytes)
		return 0;
	if (!cfetch_on(ckpt))
		return copies > 1 ? -EBUSY : 0;
	err = spread_open(&s, deadline);
	while (!err && copies_of(&s) < copies) {
		err = ask_next(&s, deadline);
		if (err != -EINPROGRESS)
			continue;
		coming = true;
		err = 0;
	}
	spread_close(&s);
	return coming && (!err || err == -EBUSY) ? -EINPROGRESS : err;
}

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "gds/internal.h"

/*
 * Any number of names, a request of the daemon after the other. In MATCH a node
 * whose prefix reaches the end of one request may go on in the next, which
 * tells what it holds from its own first name on.
 */

union request {
	struct kvfs_ioc_find find;
	struct kvfs_ioc_found found;
	char bytes[KVFS_IOC_ROOM_MAX];
};

static size_t answer_bytes(uint32_t n)
{
	return sizeof(struct kvfs_ioc_found) +
	       GDS_NODES_MAX * sizeof(struct kvfs_ioc_node) + (n + 7) / 8;
}

/* The names from first on, as many as fit; how many those are, or -errno. */
static int ask(const struct kvfs *k, const struct kvfs_names *names,
	       uint32_t first, uint32_t flags, unsigned cmd, union request *r)
{
	size_t bytes, room;
	int n, err;

	r->find = (struct kvfs_ioc_find){.flags = flags};
	n = gds_names_pack(names, first, KVFS_IOC_NAMES_MAX, &r->find.names,
			   &r->find + 1, sizeof(r->bytes) - sizeof(r->find),
			   &bytes);
	if (n < 0)
		return n;
	bytes += sizeof(r->find);
	r->find.head = (struct kvfs_ioc_head){(uint32_t)bytes, KVFS_IOC_ABI};
	room = answer_bytes((uint32_t)n);
	if (room < bytes)
		room = bytes;
	err = gds_call(k, KVFS_IOC_CALL(_IOC_NR(cmd), room), r);
	return err ? err : n;
}

static void add(struct kvfs_found *sum, uint32_t first,
		const struct kvfs_ioc_found *f)
{
	if (sum->n_prefix == first)
		sum->n_prefix += f->n_prefix;
	sum->n_present += f->n_present;
	sum->incomplete |= f->flags & KVFS_IOC_INCOMPLETE;
}

/* Bits of a request begin anywhere in a byte of the whole. */
static void put_bits(uint8_t *bitmap, uint32_t first,
		     const struct kvfs_ioc_found *f)
{
	for (uint32_t i = 0; i < f->n; i++)
		if (kvfs_ioc_is_there(f, i))
			bitmap[(first + i) / 8] |=
				(uint8_t)(1u << (first + i) % 8);
}

/* Of any command that has no nodes in its answer. */
static int ask_all(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t flags, unsigned cmd, uint8_t *bitmap,
		   struct kvfs_found *found)
{
	struct kvfs_found sum = {0};
	union request r;
	int n;

	if (bitmap)
		memset(bitmap, 0, (names->n + 7) / 8);
	for (uint32_t i = 0; i < names->n; i += (uint32_t)n) {
		n = ask(k, names, i, flags, cmd, &r);
		if (n < 0)
			return n;
		add(&sum, i, &r.found);
		if (bitmap)
			put_bits(bitmap, i, &r.found);
	}
	*found = sum;
	return 0;
}

int kvfs_exists(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
		uint8_t *bitmap, struct kvfs_found *found)
{
	return ask_all(k, names, flags, KVFS_IOC_EXISTS(0), bitmap, found);
}

static int use(struct kvfs *k, const struct kvfs_names *names, unsigned cmd,
	       uint8_t *bitmap)
{
	struct kvfs_found found;
	int err = ask_all(k, names, 0, cmd, bitmap, &found);

	return err ? err : (int)found.n_present;
}

int kvfs_touch(struct kvfs *k, const struct kvfs_names *names, uint8_t *bitmap)
{
	return use(k, names, KVFS_IOC_TOUCH(0), bitmap);
}

int kvfs_evict(struct kvfs *k, const struct kvfs_names *names, uint8_t *bitmap)
{
	return use(k, names, KVFS_IOC_EVICT(0), bitmap);
}

int kvfs_prefetch(struct kvfs *k, const struct kvfs_names *names,
		  uint8_t *bitmap)
{
	return use(k, names, KVFS_IOC_PREFETCH(0), bitmap);
}

/* -- match -------------------------------------------------------------- */

static const struct kvfs_ioc_node *node_of(const struct kvfs_ioc_found *f,
					   const char *uuid)
{
	const struct kvfs_ioc_node *nodes = kvfs_ioc_nodes(f);

	for (uint32_t i = 0; i < f->n_nodes; i++)
		if (!strcmp(nodes[i].uuid, uuid))
			return &nodes[i];
	return NULL;
}

uint32_t gds_holders_take(const struct kvfs_ioc_found *f,
			  struct kvfs_holder *holders, uint32_t room)
{
	const struct kvfs_ioc_node *nodes = kvfs_ioc_nodes(f);
	uint32_t n = f->n_nodes < room ? f->n_nodes : room;

	for (uint32_t i = 0; i < n; i++) {
		struct kvfs_holder *h = &holders[i];

		h->n_prefix = nodes[i].n_prefix;
		h->is_self = nodes[i].flags & KVFS_IOC_SELF;
		memcpy(h->uuid, nodes[i].uuid, sizeof(h->uuid));
		memcpy(h->name, nodes[i].name, sizeof(h->name));
	}
	return n;
}

/* Returns: does any node's prefix go on? */
static int go_on(struct kvfs_holder *holders, uint32_t n, uint32_t first,
		 const struct kvfs_ioc_found *f)
{
	int more = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct kvfs_ioc_node *node = node_of(f, holders[i].uuid);

		if (holders[i].n_prefix == first && node)
			holders[i].n_prefix += node->n_prefix;
		more |= holders[i].n_prefix == first + f->n;
	}
	return more;
}

/* The longest prefix first; who is equally long keeps his place. */
static void sort(struct kvfs_holder *holders, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		struct kvfs_holder h = holders[i];
		uint32_t to = i;

		for (; to && holders[to - 1].n_prefix < h.n_prefix; to--)
			holders[to] = holders[to - 1];
		holders[to] = h;
	}
}

int kvfs_match(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
	       struct kvfs_holder *holders, uint32_t room,
	       struct kvfs_found *found)
{
	struct kvfs_holder all[GDS_NODES_MAX];
	struct kvfs_found sum = {0};
	uint32_t n_all = 0;
	union request r;
	int n, more = 1;

	for (uint32_t i = 0; i < names->n && more; i += (uint32_t)n) {
		n = ask(k, names, i, flags, KVFS_IOC_MATCH(0), &r);
		if (n < 0)
			return n;
		add(&sum, i, &r.found);
		if (!i)
			n_all = gds_holders_take(&r.found, all, GDS_NODES_MAX);
		more = i ? go_on(all, n_all, i, &r.found)
			 : n_all && all[0].n_prefix == (uint32_t)n;
		more |= sum.n_prefix == i + (uint32_t)n;
	}
	sort(all, n_all);
	if (room > n_all)
		room = n_all;
	memcpy(holders, all, room * sizeof(*all));
	*found = sum;
	return (int)room;
}

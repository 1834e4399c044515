// SPDX-License-Identifier: MIT
/*
 * Memory that a card may touch. A region is registered when the first slice
 * comes from it or goes to it by that card, for the one or the other: what is
 * only read may be mapped read-only. No remote access: that is a window's.
 *
 * A frame of the pool is a region while a transfer uses it, and there is no
 * registration over the pool's whole range. A registration pins the pages that
 * are there and has the card go to those for ever: a frame that is empty cannot
 * be registered (EFAULT), and one that is truncated for its next block, as each
 * is that a client had open, has other pages then; the card would read and
 * write those of nobody. It would also pin the whole pool on each card.
 *
 * A long region has several pieces, each registered when it is first used, and
 * each reaching a slice into the next: so every slice lies in one. They are as
 * long as the card takes, and no longer than RDMA_PIECE_BYTES, as the loop and
 * all links wait while it pins one.
 */
#include "engine/rdma.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#define WARN_AGAIN_NS (60 * NS_PER_S)

struct piece {
	struct list link; /* of its region */
	struct rdma_device *device;
	bool landing;
	uint64_t from, to; /* in the region */
	struct ibv_mr *mr;
};

static struct list *bucket_of(struct transport *t, uint64_t id)
{
	return &t->regions[id % RDMA_REGION_BUCKETS];
}

/* With regions_lock. */
static struct rdma_region *find(struct transport *t, uint64_t id)
{
	list_for_each (n, bucket_of(t, id)) {
		struct rdma_region *r =
			container_of(n, struct rdma_region, link);

		if (r->id == id)
			return r;
	}
	return NULL;
}

int rdma_region_add(struct transport *t, uint64_t id,
		    const struct engine_mem *mem)
{
	struct rdma_region *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->id = id;
	r->addr = mem->addr; /* DISK: none, and never asked for */
	r->length_bytes = mem->length_bytes;
	list_init(&r->pieces);
	scoped_lock(&t->regions_lock);
	list_push_back(bucket_of(t, id), &r->link);
	return 0;
}

static void piece_free(struct piece *p)
{
	int rc = ibv_dereg_mr(p->mr);

	if (rc)
		log_error("engine: rdma: %s: memory not given back: %s",
			  p->device->name, strerror(rc));
	list_remove(&p->link);
	free(p);
}

static void region_free(struct rdma_region *r)
{
	struct list *n;

	while ((n = r->pieces.next) != &r->pieces)
		piece_free(container_of(n, struct piece, link));
	list_remove(&r->link);
	free(r);
}

void rdma_region_remove(struct transport *t, uint64_t id)
{
	scoped_lock(&t->regions_lock);

	region_free(find(t, id));
}

void rdma_regions_free(struct transport *t)
{
	for (unsigned i = 0; i < RDMA_REGION_BUCKETS; i++)
		list_for_each_safe (n, &t->regions[i])
			region_free(container_of(n, struct rdma_region, link));
}

static void forget(struct rdma_region *r, const struct rdma_device *d)
{
	list_for_each_safe (n, &r->pieces) {
		struct piece *p = container_of(n, struct piece, link);

		if (p->device == d)
			piece_free(p);
	}
}

void rdma_regions_forget(struct rdma_device *d)
{
	struct transport *t = d->t;

	scoped_lock(&t->regions_lock);
	for (unsigned i = 0; i < RDMA_REGION_BUCKETS; i++)
		list_for_each (n, &t->regions[i])
			forget(container_of(n, struct rdma_region, link), d);
}

/* The field's most frequent complaint, so with what to do. */
void rdma_complain(const char *device, uint64_t n, int error,
		   int64_t *warned_ns)
{
	struct rlimit limit = {0};
	int64_t now = clock_now_ns();

	if (*warned_ns && now - *warned_ns < WARN_AGAIN_NS)
		return;
	*warned_ns = now;
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (error == ENOMEM && limit.rlim_cur != RLIM_INFINITY)
		log_error("engine: rdma: %s: cannot register %llu bytes of "
			  "memory, at most %llu may be locked: run "
			  "'ulimit -l unlimited' before kvfs, or set "
			  "LimitMEMLOCK=infinity in its unit",
			  device, (unsigned long long)n,
			  (unsigned long long)limit.rlim_cur);
	else
		log_error("engine: rdma: %s: cannot register %llu bytes of "
			  "memory: %s: run 'ibv_devinfo -v -d %s' for what "
			  "the device takes and 'rdma resource' for what it "
			  "has; transport=tcp does without it",
			  device, (unsigned long long)n, strerror(error),
			  device);
}

struct ibv_mr *rdma_register(struct rdma_device *d, void *addr, uint64_t n,
			     int access)
{
	struct ibv_mr *mr = verbs_reg_mr(d->pd, addr, n, access);
	int error = errno;

	if (!mr && error != EFAULT)
		rdma_complain(d->name, n, error, &d->t->memory_warned_ns);
	errno = error;
	return mr;
}

static struct piece *piece_new(struct rdma_device *d, struct rdma_region *r,
			       uint64_t offset, bool landing)
{
	uint64_t step = d->piece_bytes - RDMA_SLICE_BYTES;
	uint64_t from = offset / step * step, left = r->length_bytes - from;
	uint64_t n = left < d->piece_bytes ? left : d->piece_bytes;
	struct piece *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->device = d;
	p->landing = landing;
	p->from = from;
	p->to = from + n;
	p->mr = rdma_register(
		d, r->addr + from, n,
		landing ? IBV_ACCESS_LOCAL_WRITE |
				  (d->windows ? IBV_ACCESS_MW_BIND : 0)
			: 0);
	if (p->mr)
		return p;
	free(p);
	return NULL;
}

static struct piece *piece_of(struct rdma_device *d, struct rdma_region *r,
			      uint64_t from, uint64_t to, bool landing)
{
	list_for_each (n, &r->pieces) {
		struct piece *p = container_of(n, struct piece, link);

		if (p->device == d && p->landing == landing &&
		    p->from <= from && p->to >= to)
			return p;
	}
	return NULL;
}

int rdma_region_find(struct rdma_device *d, const struct engine_place *place,
		     bool landing, struct ibv_mr **mr)
{
	uint64_t from = place->region_offset, to = from + place->length_bytes;
	struct transport *t = d->t;
	struct rdma_region *r;
	struct piece *p;

	pthread_mutex_lock(&t->regions_lock);
	r = find(t, place->region);
	p = piece_of(d, r, from, to, landing);
	pthread_mutex_unlock(&t->regions_lock);
	if (!p) { /* nobody else registers, and a region in use stays */
		p = piece_new(d, r, from, landing);
		if (!p)
			return -errno;
		pthread_mutex_lock(&t->regions_lock);
		list_push_back(&r->pieces, &p->link);
		pthread_mutex_unlock(&t->regions_lock);
	}
	*mr = p->mr;
	return 0;
}

// SPDX-License-Identifier: MIT
/*
 * Regions. A slot table; an id is epoch and slot, so an id that was kept past
 * its removal finds another epoch and is refused.
 */
#include "engine/engine_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/sigbus.h"
#include "engine/checksum.h"

#define SLOTS_MAX (1u << 24)

static struct region *find(struct engine *e, uint64_t id)
{
	uint32_t slot = (uint32_t)id;
	struct region *r = slot < e->n_slots ? e->regions[slot] : NULL;

	return r && r->id == id ? r : NULL;
}

struct region *region_of(struct engine *e, uint64_t id)
{
	struct region *r = find(e, id);

	assert(r && r->n_uses);
	return r;
}

struct region *region_get(struct engine *e, uint64_t id)
{
	struct region *r = find(e, id);

	if (!r || r->removed)
		return NULL;
	r->n_uses++;
	return r;
}

static void region_free(struct engine *e, struct region *r)
{
	for (uint32_t i = 0; i < e->n_transports; i++)
		if (r->known[i])
			e->ops[i]->region_remove(e->transports[i], r->id);
	if (r->map)
		munmap(r->map, r->map_bytes);
	if (r->direct_fd >= 0)
		close(r->direct_fd);
	free(r);
}

static void run_removed(struct engine *e, struct notice *n)
{
	struct region *r = container_of(n, struct region, notice);
	void (*done)(void *ctx) = r->done;
	void *ctx = r->ctx;

	region_free(e, r);
	if (done)
		done(ctx);
}

static void region_gone(struct engine *e, struct region *r)
{
	uint32_t slot = (uint32_t)r->id;

	e->regions[slot] = NULL;
	e->n_regions--;
	if (slot < e->free_hint)
		e->free_hint = slot;
	notice_post(e, &r->notice);
}

void region_put(struct engine *e, struct region *r)
{
	assert(r->n_uses);
	if (--r->n_uses == 0 && r->removed)
		region_gone(e, r);
}

static int slot_take(struct engine *e, uint32_t *slot)
{
	uint32_t n = e->n_slots ? e->n_slots * 2 : 64;
	struct region **table;

	while (e->free_hint < e->n_slots && e->regions[e->free_hint])
		e->free_hint++;
	if (e->free_hint == e->n_slots) {
		table = n > SLOTS_MAX ? NULL
				      : realloc(e->regions, n * sizeof(*table));
		if (!table)
			return -ENOMEM;
		for (uint32_t i = e->n_slots; i < n; i++)
			table[i] = NULL;
		e->regions = table;
		e->n_slots = n;
	}
	*slot = e->free_hint++;
	return 0;
}

/* A description of our own without the page cache, where the file has that. */
static int open_direct(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	char path[40];

	if (flags < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path,
		    (flags & (O_ACCMODE | O_NOATIME)) | O_DIRECT | O_CLOEXEC);
}

static bool mem_valid(const struct engine_mem *m)
{
	if (!m->length_bytes || m->length_bytes > INT64_MAX)
		return false;
	switch (m->kind) {
	case ENGINE_MEM_HOST:
		return m->addr != NULL;
	case ENGINE_MEM_FILE:
	case ENGINE_MEM_DISK:
		return m->fd >= 0 && m->offset <= INT64_MAX - m->length_bytes;
	}
	return false;
}

int engine_region_add(struct engine *e, const struct engine_mem *mem,
		      uint64_t *region)
{
	struct region *r;
	uint32_t slot;
	int err;

	if (!mem_valid(mem))
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->mem = *mem;
	r->direct_fd = mem->kind == ENGINE_MEM_DISK ? open_direct(mem->fd) : -1;
	r->numa_node = NUMA_UNKNOWN;
	notice_init(&r->notice, run_removed);
	pthread_mutex_lock(&e->lock);
	err = slot_take(e, &slot);
	if (!err) {
		r->id = (uint64_t)++e->region_epoch << 32 | slot;
		e->regions[slot] = r;
		e->n_regions++;
		*region = r->id;
	}
	pthread_mutex_unlock(&e->lock);
	if (err)
		region_free(e, r);
	return err;
}

int engine_region_remove(struct engine *e, uint64_t region,
			 void (*done)(void *ctx), void *ctx)
{
	struct region *r;

	pthread_mutex_lock(&e->lock);
	r = find(e, region);
	if (r && !r->removed) {
		r->removed = true;
		r->done = done;
		r->ctx = ctx;
		if (!r->n_uses)
			region_gone(e, r);
		pthread_mutex_unlock(&e->lock);
		return 0;
	}
	pthread_mutex_unlock(&e->lock);
	return -EINVAL;
}

static int map_file(struct region *r)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t before = r->mem.offset % page;
	int flags = fcntl(r->mem.fd, F_GETFL);
	int prot = PROT_READ;
	void *p;

	if (flags < 0)
		return -errno;
	if ((flags & O_ACCMODE) == O_RDWR)
		prot |= PROT_WRITE;
	r->map_bytes = r->mem.length_bytes + before;
	p = mmap(NULL, r->map_bytes, prot, MAP_SHARED, r->mem.fd,
		 (off_t)(r->mem.offset - before));
	if (p == MAP_FAILED)
		return -errno;
	r->map = p;
	r->mem.addr = r->map + before;
	return 0;
}

static int tell_transports(struct engine *e, struct region *r)
{
	int err = 0;

	for (uint32_t i = 0; i < e->n_transports && !err; i++) {
		if (!e->ops[i]->region_add || r->known[i])
			continue;
		err = e->ops[i]->region_add(e->transports[i], r->id, &r->mem);
		r->known[i] = !err;
	}
	return err;
}

int region_map(struct engine *e, struct region *r)
{
	int err = 0;

	pthread_mutex_lock(&e->lock);
	while (r->mapping)
		pthread_cond_wait(&e->turns, &e->lock);
	if (!r->ready) {
		r->mapping = true;
		pthread_mutex_unlock(&e->lock);
		if (r->mem.kind == ENGINE_MEM_FILE && !r->map)
			err = map_file(r);
		if (!err)
			err = tell_transports(e, r);
		if (!err && e->numa.n > 1 && r->mem.addr)
			r->numa_node = numa_of_memory(r->mem.addr);
		pthread_mutex_lock(&e->lock);
		r->ready = !err;
		r->mapping = false;
		pthread_cond_broadcast(&e->turns);
	}
	pthread_mutex_unlock(&e->lock);
	return err;
}

int region_take(struct engine *e, uint64_t region, uint64_t offset,
		uint64_t bytes, struct region **out)
{
	struct region *r;
	int err = 0;

	pthread_mutex_lock(&e->lock);
	r = e->closing ? NULL : region_get(e, region);
	pthread_mutex_unlock(&e->lock);
	if (!r)
		return e->closing ? -ESHUTDOWN : -EINVAL;
	if (r->mem.kind == ENGINE_MEM_DISK || !bytes)
		err = -EINVAL;
	else if (offset > r->mem.length_bytes ||
		 bytes > r->mem.length_bytes - offset)
		err = -ERANGE;
	else
		err = region_map(e, r);
	if (!err) {
		*out = r;
		return 0;
	}
	pthread_mutex_lock(&e->lock);
	region_put(e, r);
	pthread_mutex_unlock(&e->lock);
	return err;
}

struct summing {
	const void *addr;
	uint64_t length_bytes;
	uint64_t *sum;
};

static void sum_piece(void *arg)
{
	struct summing *s = arg;

	checksum_mem(s->addr, s->length_bytes, s->sum);
}

int engine_region_sum(struct engine *e, uint64_t region, uint64_t offset,
		      uint64_t length_bytes, uint64_t sum[2])
{
	struct region *r;
	int err = region_take(e, region, offset, length_bytes, &r);
	struct summing s = {.length_bytes = length_bytes, .sum = sum};

	if (err)
		return err;
	s.addr = (const char *)r->mem.addr + offset;
	err = sigbus_try(sum_piece, &s);
	pthread_mutex_lock(&e->lock);
	region_put(e, r);
	pthread_mutex_unlock(&e->lock);
	return err;
}

void region_place(const struct region *r, uint64_t offset, uint64_t bytes,
		  struct engine_place *place)
{
	*place = (struct engine_place){
		.addr = r->mem.addr ? (char *)r->mem.addr + offset : NULL,
		.fd = r->mem.kind == ENGINE_MEM_HOST ? -1 : r->mem.fd,
		.direct_fd = r->direct_fd,
		.offset = r->mem.offset + offset,
		.length_bytes = bytes,
		.kind = r->mem.kind,
		.region = r->id,
		.region_offset = offset,
	};
}

void regions_free(struct engine *e)
{
	for (uint32_t i = 0; i < e->n_slots; i++)
		if (e->regions[i])
			region_free(e, e->regions[i]);
	free(e->regions);
}

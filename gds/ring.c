// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "gds/ring.h"

static uint32_t load(const struct kvfs_ring_word *word)
{
	return __atomic_load_n(&word->value, __ATOMIC_SEQ_CST);
}

static void store(struct kvfs_ring_word *word, uint32_t value)
{
	__atomic_store_n(&word->value, value, __ATOMIC_RELEASE);
}

/* Before a look at what the other side stores before it looks at this: all
 * four in one order, so one of us sees what the other stored. */
static void store_and_look(struct kvfs_ring_word *word, uint32_t value)
{
	__atomic_store_n(&word->value, value, __ATOMIC_SEQ_CST);
}

/* -- beginning and end ---------------------------------------------------- */

static int make_parts(struct kvfs_ring *r)
{
	r->submit_fd = eventfd(0, EFD_CLOEXEC);
	r->complete_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->memory_fd =
		memfd_create("kvfs-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (r->submit_fd < 0 || r->complete_fd < 0 || r->memory_fd < 0 ||
	    ftruncate(r->memory_fd, (off_t)r->map_bytes) ||
	    fcntl(r->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK))
		return -errno;
	r->shared = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			 r->memory_fd, 0);
	if (r->shared != MAP_FAILED)
		return 0;
	r->shared = NULL;
	return -errno;
}

static void find_parts(struct kvfs_ring *r)
{
	char *at = (char *)r->shared;

	r->sq = (void *)(at + KVFS_RING_SQ_AT);
	r->cq = (void *)(at + kvfs_ring_cq_at(r->entries));
	r->data = at + kvfs_ring_data_at(r->entries);
	for (uint32_t i = 0; i < r->entries; i++)
		r->asked[i].next_free = i + 1;
}

static int give(struct kvfs_ring *r)
{
	struct kvfs_ioc_ring ring = {
		.head = {sizeof(ring), KVFS_IOC_ABI},
		.memory_fd = r->memory_fd,
		.submit_fd = r->submit_fd,
		.complete_fd = r->complete_fd,
		.entries = r->entries,
		.data_bytes = (uint64_t)r->entries * r->entry_bytes,
	};

	return gds_call(r->k, KVFS_IOC_RING, &ring);
}

int kvfs_ring_open(struct kvfs *k, uint32_t entries, uint32_t entry_bytes,
		   struct kvfs_ring **out)
{
	struct kvfs_ring *r;
	int err;

	if (!entries || entries > KVFS_RING_ENTRIES_MAX ||
	    entries & (entries - 1) || entry_bytes < KVFS_RING_ENTRY_MIN ||
	    entry_bytes % 8 || entry_bytes > KVFS_RING_BYTES_MAX ||
	    (uint64_t)entries * entry_bytes > KVFS_RING_DATA_MAX)
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->k = k;
	r->entries = entries;
	r->entry_bytes = entry_bytes;
	r->map_bytes =
		kvfs_ring_data_at(entries) + (size_t)entries * entry_bytes;
	r->memory_fd = r->submit_fd = r->complete_fd = -1;
	r->asked = calloc(entries, sizeof(*r->asked));
	err = r->asked ? make_parts(r) : -ENOMEM;
	if (!err) {
		find_parts(r);
		err = give(r);
	}
	if (err)
		kvfs_ring_close(r);
	else
		*out = r;
	return err;
}

static void shut(int fd)
{
	if (fd >= 0)
		close(fd);
}

void kvfs_ring_close(struct kvfs_ring *r)
{
	if (!r)
		return;
	if (r->shared)
		munmap(r->shared, r->map_bytes);
	shut(r->memory_fd);
	shut(r->submit_fd);
	shut(r->complete_fd);
	free(r->names);
	free(r->asked);
	free(r);
}

int kvfs_ring_fd(const struct kvfs_ring *r)
{
	return r->complete_fd;
}

/* -- asking --------------------------------------------------------------- */

void *gds_ring_request(const struct kvfs_ring *r)
{
	if (r->free == r->entries)
		return NULL;
	return r->data + (size_t)r->free * r->entry_bytes;
}

int gds_ring_pack(const struct kvfs_ring *r, const struct kvfs_names *names,
		  size_t size, size_t answer, struct kvfs_ioc_names *head,
		  size_t *bytes)
{
	int err;

	if (size > r->entry_bytes || answer > r->entry_bytes)
		return -E2BIG;
	err = gds_names_pack_all(names, head,
				 (char *)gds_ring_request(r) + size,
				 r->entry_bytes - size, bytes);
	*bytes += size;
	return err;
}

void gds_ring_prepare(struct kvfs_ring *r, unsigned cmd, size_t bytes,
		      struct gds_asked asked)
{
	struct kvfs_ioc_head *head = gds_ring_request(r);
	uint32_t i = r->free;

	asked.command = _IOC_NR(cmd);
	r->free = r->asked[i].next_free;
	r->asked[i] = asked;
	*head = (struct kvfs_ioc_head){(uint32_t)bytes, KVFS_IOC_ABI};
	r->sq[r->sq_tail++ & (r->entries - 1)] = (struct kvfs_ring_submission){
		.command = asked.command,
		.user_data = i,
		.at = (uint64_t)i * r->entry_bytes,
		.bytes = (uint32_t)bytes,
		.room = r->entry_bytes,
	};
}

/* The daemon shows its flag, then looks at sq_tail once more. */
int kvfs_ring_submit(struct kvfs_ring *r)
{
	uint32_t n = r->sq_tail - r->shared->sq_tail.value;

	if (!n)
		return 0;
	store_and_look(&r->shared->sq_tail, r->sq_tail);
	if (load(&r->shared->daemon) & KVFS_RING_NEED_WAKEUP)
		eventfd_write(r->submit_fd, 1);
	return (int)n;
}

/* -- answers -------------------------------------------------------------- */

int kvfs_ring_peek(struct kvfs_ring *r, struct kvfs_done *done)
{
	const struct kvfs_ring_completion *c =
		&r->cq[r->cq_head & (r->entries - 1)];
	uint32_t i;

	if (load(&r->shared->cq_tail) == r->cq_head)
		return load(&r->shared->daemon) & KVFS_RING_STOPPED ? -EPIPE
								    : 0;
	i = (uint32_t)c->user_data & (r->entries - 1);
	*done = (struct kvfs_done){
		.user_data = r->asked[i].user_data,
		.result = c->result < 0 ? c->result : 0,
		.n = r->asked[i].n,
		.answer = r->data + (size_t)i * r->entry_bytes,
		.entry = i,
	};
	return 1;
}

void kvfs_ring_seen(struct kvfs_ring *r, const struct kvfs_done *done)
{
	r->asked[done->entry].next_free = r->free;
	r->free = done->entry;
	store(&r->shared->cq_head, ++r->cq_head);
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int kvfs_ring_want_event(struct kvfs_ring *r, struct kvfs_done *done)
{
	eventfd_t counter;

	(void)eventfd_read(r->complete_fd, &counter); /* of before */
	store_and_look(&r->shared->client, KVFS_RING_WANT_EVENT);
	return kvfs_ring_peek(r, done);
}

#define LOOK_MS 500 /* while it sleeps: a daemon that died says nothing */

/* A dead daemon's ioctls fail; one that lives answers at once. */
static int is_served(const struct kvfs_ring *r)
{
	struct kvfs_ioc_version v = {
		.head = {.size = sizeof(v), .abi = KVFS_IOC_ABI},
	};

	return gds_call(r->k, KVFS_IOC_VERSION, &v);
}

int kvfs_ring_wait(struct kvfs_ring *r, int timeout_ms, struct kvfs_done *done)
{
	int64_t end = now_ms() + timeout_ms, left = timeout_ms;
	int rc = kvfs_ring_peek(r, done);

	while (!rc && left) {
		struct pollfd p = {.fd = r->complete_fd, .events = POLLIN};

		rc = kvfs_ring_want_event(r, done);
		if (rc)
			break;
		if (timeout_ms < 0 || left > LOOK_MS)
			left = LOOK_MS;
		if (poll(&p, 1, (int)left) < 0 && errno != EINTR)
			return -errno;
		rc = kvfs_ring_peek(r, done);
		if (!rc && !p.revents)
			rc = is_served(r);
		left = timeout_ms < 0 ? 1 : end - now_ms();
		left = left < 0 ? 0 : left;
	}
	store(&r->shared->client, 0);
	return rc;
}

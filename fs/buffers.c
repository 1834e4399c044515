// SPDX-License-Identifier: MIT
#include "fs/buffers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "engine/engine.h"
#include "fs/fs.h"
#include "fs/remote.h"
#include "fs/users.h"

#define FILL_STEP (64ull << 20) /* holes filled between looks at the clock */

struct buffers {
	struct fs *fs;
	struct dmabufs *dmabufs;
	pthread_mutex_t lock; /* guards all below, owners' lists, refs */
	uint64_t user_bytes_max, bytes_max;
	uint64_t bytes;
	uint32_t n, epoch;
	struct list users;
	struct buffer *by_id[BUFFERS_MAX];
};

int buffers_open(struct buffers **out, struct fs *fs)
{
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) *
			  (uint64_t)sysconf(_SC_PAGESIZE);
	struct buffers *all = calloc(1, sizeof(*all));

	if (!all)
		return -ENOMEM;
	if (dmabufs_open(&all->dmabufs, fs->config.rdma_devices)) {
		free(all);
		return -ENOMEM;
	}
	pthread_mutex_init(&all->lock, NULL);
	list_init(&all->users);
	all->fs = fs;
	all->user_bytes_max = memory / 2;
	all->bytes_max = memory / 4 * 3;
	*out = all;
	return 0;
}

/* -- what is charged: lock held ------------------------------------------ */

static void charge(struct buffers *all, struct fs_user *user, int n,
		   uint64_t bytes)
{
	struct fs_counters *c = &all->fs->counters;

	all->n += (uint32_t)n;
	all->bytes += bytes;
	user_charge(user, n, (int64_t)bytes);
	atomic_fetch_add(&c->buffers, (uint64_t)n);
	atomic_fetch_add(&c->buffer_bytes, bytes);
}

static bool fits(const struct buffers *all, const struct fs_user *user,
		 uint64_t bytes)
{
	return all->n < BUFFERS_MAX && user->n < BUFFERS_USER_MAX &&
	       bytes <= all->bytes_max - all->bytes &&
	       bytes <= all->user_bytes_max - user->bytes;
}

static int reserve(struct buffer *b, uid_t uid)
{
	struct buffers *all = b->all;
	struct fs_user *user;
	scoped_lock(&all->lock);

	user = users_get(&all->users, uid);
	if (!user)
		return -ENOMEM;
	if (!fits(all, user, b->map_bytes)) {
		user_settle(user);
		return -EDQUOT;
	}
	charge(all, user, 1, b->map_bytes);
	b->user = user;
	return 0;
}

static void unreserve(struct buffer *b)
{
	scoped_lock(&b->all->lock);

	charge(b->all, b->user, -1, -b->map_bytes);
}

/* -- the memory ----------------------------------------------------------- */

/* The length of a dma-buf; or -EINVAL it is none. Whatever else it is, its file
 * system is not asked: that may never answer. */
static int64_t dmabuf_length(int fd)
{
	char path[40], line[128];
	cleanup_file FILE *info = NULL;
	long long length = -1;
	bool is_one = false;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = fopen(path, "re");
	if (!info)
		return -errno;
	while (!is_one && fgets(line, sizeof(line), info)) {
		sscanf(line, "size:%lld", &length);
		is_one = !strncmp(line, "exp_name:", 9);
	}
	return is_one && length > 0 ? length : -EINVAL;
}

/* Its seals say that it is a memfd: nothing else has any that can be set. */
static int check_memfd(int fd, int seals, struct buffer *b)
{
	int flags = fcntl(fd, F_GETFL);

	if (!(seals & F_SEAL_SHRINK))
		return -EPERM;
	if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY)
		return -EACCES;
	b->writable = (flags & O_ACCMODE) == O_RDWR &&
		      !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE));
	return 0;
}

static uint64_t page_of(int fd)
{
	struct statfs fs;

	if (!fstatfs(fd, &fs) && fs.f_type == HUGETLBFS_MAGIC)
		return (uint64_t)fs.f_bsize;
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The part, in whole pages. */
static int measure(int fd, uint64_t offset, uint64_t length, struct buffer *b,
		   uint64_t *from)
{
	struct stat st;
	uint64_t page = page_of(fd);

	if (fstat(fd, &st))
		return -errno;
	if (!length || offset > (uint64_t)st.st_size ||
	    length > (uint64_t)st.st_size - offset)
		return -EINVAL;
	*from = offset - offset % page;
	b->length_bytes = length;
	b->map_bytes = (offset + length - *from + page - 1) / page * page;
	return 0;
}

/* So that no later use needs memory that is not there. */
static int fill(struct buffer *b, int64_t deadline)
{
	int advice = b->writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;

	for (uint64_t at = 0; at < b->map_bytes; at += FILL_STEP) {
		uint64_t left = b->map_bytes - at;

		if (clock_now_ns() >= deadline || fault_hit("buffer.late"))
			return -ETIMEDOUT;
		if (!madvise((char *)b->map + at,
			     left < FILL_STEP ? left : FILL_STEP, advice))
			continue;
		if (errno == EINVAL)
			return 0; /* before Linux 5.14: at the first use */
		return -ENOMEM;
	}
	return 0;
}

static int add_region(struct buffer *b)
{
	struct remote *r = b->all->fs->remote;
	struct engine_mem mem = {.kind = ENGINE_MEM_HOST,
				 .addr = b->addr,
				 .length_bytes = b->length_bytes};

	if (!r || !b->writable)
		return 0;
	return engine_region_add(r->engine, &mem, &b->region);
}

/* Charged already. */
static int map(struct buffer *b, int fd, uint64_t from, uint64_t offset,
	       int64_t deadline)
{
	int prot = PROT_READ | (b->writable ? PROT_WRITE : 0), err;

	b->map = mmap(NULL, b->map_bytes, prot, MAP_SHARED, fd, (off_t)from);
	if (b->map == MAP_FAILED)
		return -errno;
	b->addr = (char *)b->map + (offset - from);
	err = fill(b, deadline);
	if (!err)
		err = add_region(b);
	if (err)
		munmap(b->map, b->map_bytes);
	return err;
}

/* It is not this machine's memory that is used up. */
static int make_dmabuf(struct buffer *b, uid_t uid, int fd,
		       const struct kvfs_ioc_register *in)
{
	struct buffers *all = b->all;
	int64_t size = dmabuf_length(fd);
	int flags = fcntl(fd, F_GETFL), err;

	if (size < 0)
		return (int)size;
	if (!in->length || in->offset > (uint64_t)size ||
	    in->length > (uint64_t)size - in->offset)
		return -EINVAL;
	if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY)
		return -EACCES;
	if (all->fs->config.transport == TRANSPORT_TCP)
		return -EOPNOTSUPP;
	b->writable = (flags & O_ACCMODE) == O_RDWR;
	b->length_bytes = in->length;
	err = reserve(b, uid);
	if (err)
		return err;
	err = dmabuf_open(all->dmabufs, fd, in->offset, in->length, &b->dmabuf);
	if (err)
		unreserve(b);
	else
		atomic_fetch_add(&all->fs->counters.dmabufs, 1);
	return err;
}

/* -- a buffer's life ------------------------------------------------------ */

static void gone(void *ctx)
{
	struct buffer *b = ctx;

	if (b->dmabuf) {
		dmabuf_close(b->dmabuf);
		atomic_fetch_sub(&b->all->fs->counters.dmabufs, 1);
	} else {
		munmap(b->map, b->map_bytes);
	}
	unreserve(b);
	free(b);
}

/* Nobody knows it any more. */
static void end(struct buffer *b)
{
	struct remote *r = b->all->fs->remote;

	if (!b->region || engine_region_remove(r->engine, b->region, gone, b))
		gone(b);
}

/* Lock held: where there are fewer than BUFFERS_MAX. */
static void give_name(struct buffer *b, struct list *owner)
{
	struct buffers *all = b->all;
	uint32_t id = 0;

	while (all->by_id[id])
		id++;
	if (!++all->epoch)
		all->epoch++;
	all->by_id[id] = b;
	b->name = (struct kvfs_ioc_buffer){id, all->epoch};
	b->refs = 1;
	b->owner = owner;
	list_push_back(owner, &b->of_owner);
}

/* Lock held. */
static void take_name(struct buffer *b)
{
	b->all->by_id[b->name.id] = NULL;
	b->owner = NULL;
	list_remove(&b->of_owner);
}

static int make(struct buffer *b, uid_t uid, int fd,
		const struct kvfs_ioc_register *in, int64_t deadline)
{
	uint64_t from = 0;
	int seals = fcntl(fd, F_GET_SEALS), err;

	if (seals < 0)
		return make_dmabuf(b, uid, fd, in);
	err = check_memfd(fd, seals, b);
	if (!err)
		err = measure(fd, in->offset, in->length, b, &from);
	if (!err)
		err = reserve(b, uid);
	if (err)
		return err;
	err = map(b, fd, from, in->offset, deadline);
	if (err)
		unreserve(b);
	return err;
}

int buffer_add(struct buffers *all, struct list *owner, uid_t uid, int fd,
	       const struct kvfs_ioc_register *in, int64_t deadline,
	       struct kvfs_ioc_registered *out)
{
	struct buffer *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	b->all = all;
	err = make(b, uid, fd, in, deadline);
	if (err) {
		free(b);
		return err;
	}
	pthread_mutex_lock(&all->lock);
	give_name(b, owner);
	out->buffer = b->name;
	out->flags = b->writable ? KVFS_IOC_WRITABLE : 0;
	pthread_mutex_unlock(&all->lock);
	return 0;
}

/* Lock held: each directory has its own, so that nobody uses another's. */
static struct buffer *find(struct buffers *all, struct list *owner,
			   struct kvfs_ioc_buffer name)
{
	struct buffer *b = name.id < BUFFERS_MAX ? all->by_id[name.id] : NULL;

	return b && b->owner == owner && b->name.epoch == name.epoch ? b : NULL;
}

int buffer_remove(struct buffers *all, struct list *owner,
		  struct kvfs_ioc_buffer name)
{
	struct buffer *b;
	int err;

	pthread_mutex_lock(&all->lock);
	b = find(all, owner, name);
	err = !b ? -EBADF : b->refs > 1 ? -EBUSY : 0;
	if (!err)
		take_name(b);
	pthread_mutex_unlock(&all->lock);
	if (!err)
		end(b);
	return err;
}

struct buffer *buffer_get(struct buffers *all, struct list *owner,
			  struct kvfs_ioc_buffer name)
{
	struct buffer *b;
	scoped_lock(&all->lock);

	b = find(all, owner, name);
	if (b)
		b->refs++;
	return b;
}

static void gone_on_worker(struct job *job)
{
	gone(container_of(job, struct buffer, job));
}

void buffer_put(struct buffer *b)
{
	bool last;

	pthread_mutex_lock(&b->all->lock);
	last = !--b->refs;
	pthread_mutex_unlock(&b->all->lock);
	if (!last)
		return;
	b->job.run = gone_on_worker;
	if (b->dmabuf) /* a card takes its time, and this may be the ring's */
		workers_post(b->all->fs->workers, &b->job);
	else
		end(b);
}

int buffer_copy(struct buffer *b, uint64_t at, enum dmabuf_way way, int fd,
		uint64_t offset, uint64_t length_bytes)
{
	int err = dmabuf_copy(b->dmabuf, at, way, fd, offset, length_bytes);

	if (!err)
		atomic_fetch_add(&b->all->fs->counters.dmabuf_bytes,
				 length_bytes);
	return err;
}

void buffers_release(struct buffers *all, struct list *owner)
{
	struct buffer *b;

	for (;;) {
		pthread_mutex_lock(&all->lock);
		b = list_empty(owner) ? NULL
				      : container_of(owner->next, struct buffer,
						     of_owner);
		if (b)
			take_name(b);
		pthread_mutex_unlock(&all->lock);
		if (!b)
			return;
		buffer_put(b);
	}
}

void buffers_close(struct buffers *all)
{
	if (!all)
		return;
	for (uint32_t id = 0; id < BUFFERS_MAX; id++)
		if (all->by_id[id])
			gone(all->by_id[id]);
	dmabufs_close(all->dmabufs);
	pthread_mutex_destroy(&all->lock);
	free(all);
}

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fs/bell.h"
#include "fs/fs.h"
#include "fs/kv_access.h"
#include "fs/ring.h"

/* -- all of them ---------------------------------------------------------- */

static int watch(struct rings *all, int op, int fd)
{
	/* By edge, and never read: a client's counter is its own. */
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};

	return epoll_ctl(all->epoll_fd, op, fd, &event) ? -errno : 0;
}

static int start(struct rings *all)
{
	int err;

	all->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	all->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	all->request = malloc(KVFS_RING_BYTES_MAX);
	if (all->epoll_fd < 0 || all->wake_fd < 0 || !all->request)
		return -ENOMEM;
	err = watch(all, EPOLL_CTL_ADD, all->wake_fd);
	if (!err)
		err = -pthread_create(&all->thread, NULL, rings_run, all);
	atomic_store(&all->running, !err);
	if (!err)
		pthread_setname_np(all->thread, "kvfs-ring");
	return err;
}

int rings_open(struct rings **out, struct fs *fs)
{
	struct rings *all = calloc(1, sizeof(*all));
	int err;

	if (!all)
		return -ENOMEM;
	*out = all;
	all->fs = fs;
	all->epoll_fd = all->wake_fd = -1;
	pthread_mutex_init(&all->lock, NULL);
	list_init(&all->arrived);
	list_init(&all->served);
	err = bell_open(&all->bell);
	if (!err)
		return start(all);
	log_warn("rings: none here: asynchronous I/O of the kernel (io_setup, "
		 "/proc/sys/fs/aio-max-nr): %s",
		 strerror(-err));
	return 0;
}

uint64_t rings_held_bytes(const struct rings *all)
{
	return atomic_load(&all->held_bytes);
}

bool rings_offered(const struct rings *all)
{
	return atomic_load(&all->running);
}

static bool has_calls(struct ring *ring)
{
	scoped_lock(&ring->lock);

	return ring->n_calls;
}

/* Calls end by themselves: each has a deadline. */
static void wait_calls(struct rings *all)
{
	list_for_each (l, &all->served)
		while (has_calls(container_of(l, struct ring, link)))
			usleep(1000);
}

/* Their directories were closed, and the thread did not come to it any more. */
static void end_closed(struct rings *all)
{
	struct list closed, *l;

	list_init(&closed);
	pthread_mutex_lock(&all->lock);
	all->ended = true;
	list_for_each_safe (k, &all->served) {
		if (!atomic_load(&container_of(k, struct ring, link)->closing))
			continue;
		list_remove(k);
		list_push_back(&closed, k);
	}
	pthread_mutex_unlock(&all->lock);
	while ((l = list_pop_front(&closed)))
		ring_ended(container_of(l, struct ring, link));
}

void rings_stop(struct rings *all)
{
	if (!all || !atomic_load(&all->running))
		return;
	pthread_mutex_lock(&all->lock);
	all->stop = true;
	pthread_mutex_unlock(&all->lock);
	rings_wake(all);
	pthread_join(all->thread, NULL);
	atomic_store(&all->running, false);
	wait_calls(all);
	end_closed(all);
	workers_drain(all->fs->workers);
}

/* -- one ------------------------------------------------------------------ */

/* Lock held. */
static uint32_t count_of(const struct rings *all, uid_t uid)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < all->n; i++)
		n += all->uids[i] == uid;
	return n;
}

/* Its place among all, and in its directory. */
static int enter(struct ring *ring, struct ring **place)
{
	struct rings *all = ring->all;
	struct fs_counters *counters = &all->fs->counters;
	uid_t uid = ring->like.uid;
	scoped_lock(&all->lock);

	if (all->stop)
		return -ENOTCONN;
	if (*place)
		return -EBUSY;
	if (all->n == RINGS_MAX || count_of(all, uid) >= RINGS_USER_MAX)
		return -EDQUOT;
	all->uids[all->n++] = uid;
	atomic_fetch_add(&counters->rings, 1);
	atomic_fetch_add(&counters->ring_bytes, ring->queue.map_bytes);
	ring->entered = true;
	*place = ring;
	list_push_back(&all->arrived, &ring->link);
	return 0;
}

static void leave(struct ring *ring)
{
	struct rings *all = ring->all;
	struct fs_counters *counters = &all->fs->counters;
	uint32_t i = 0;
	scoped_lock(&all->lock);

	while (all->uids[i] != ring->like.uid)
		i++;
	all->uids[i] = all->uids[--all->n];
	atomic_fetch_sub(&counters->rings, 1);
	atomic_fetch_sub(&counters->ring_bytes, ring->queue.map_bytes);
}

static void ring_free(struct ring *ring)
{
	if (ring->entered)
		leave(ring);
	if (ring->queue.shared)
		munmap(ring->queue.shared, ring->queue.map_bytes);
	close(ring->submit_fd);
	if (ring->complete_fd >= 0)
		close(ring->complete_fd);
	free(ring->who);
	free(ring->release);
	pthread_mutex_destroy(&ring->lock);
	free(ring);
}

static int check_memory(int fd, uint64_t bytes)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct statfs fs;
	struct stat st;

	if (seals < 0 || fstatfs(fd, &fs) || fs.f_type == HUGETLBFS_MAGIC)
		return -EINVAL;
	if (!(seals & F_SEAL_SHRINK))
		return -EPERM;
	if (fstat(fd, &st) || (uint64_t)st.st_size < bytes)
		return -EINVAL;
	return 0;
}

static int map(struct ring *ring, const struct ring_parts *parts)
{
	uint64_t bytes = ring_queue_bytes(parts->entries, parts->data_bytes);
	int err = bytes ? check_memory(parts->memory_fd, bytes) : -EINVAL;
	void *at;

	if (err)
		return err;
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		  parts->memory_fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	ring_queue_init(&ring->queue, at, parts->entries, parts->data_bytes);
	return 0;
}

/* What every call of it looks like. */
static void fill(struct ring *ring, const struct call *c)
{
	ring->like = (struct call){
		.fs = c->fs,
		.inode = c->inode,
		.has_fi = c->has_fi,
		.fi = c->fi,
		.uid = c->uid,
		.gid = c->gid,
		.pid = c->pid,
		.who = ring->who,
	};
	for (unsigned i = 0; i < RING_CALLS_MAX; i++) {
		ring->slots[i].next = ring->free;
		ring->free = &ring->slots[i];
	}
}

static struct ring *ring_new(struct rings *all, const struct call *c,
			     const struct ring_parts *parts)
{
	struct ring *ring = calloc(1, sizeof(*ring));

	if (!ring)
		return NULL;
	pthread_mutex_init(&ring->lock, NULL);
	list_init(&ring->link);
	ring->all = all;
	ring->who = parts->who;
	ring->submit_fd = parts->submit_fd;
	ring->complete_fd = parts->complete_fd;
	/* So that closing needs no memory. */
	ring->release = malloc(sizeof(*ring->release));
	fill(ring, c);
	return ring;
}

int ring_open(struct rings *all, const struct call *c,
	      const struct ring_parts *parts)
{
	struct ring *ring = ring_new(all, c, parts);
	int err = ring && ring->release ? map(ring, parts) : -ENOMEM;

	/* Before it can be closed; what comes early finds no ring. */
	if (!err)
		err = watch(all, EPOLL_CTL_ADD, ring->submit_fd);
	if (!err)
		err = enter(ring, kv_ring_of(c));
	close(parts->memory_fd);
	if (!ring) {
		close(parts->submit_fd);
		close(parts->complete_fd);
		free(parts->who);
	} else if (err) {
		epoll_ctl(all->epoll_fd, EPOLL_CTL_DEL, ring->submit_fd, NULL);
		ring_free(ring);
	} else {
		rings_wake(all);
	}
	return err;
}

bool ring_release(struct ring *ring, const struct call *c, call_fn released)
{
	struct rings *all = ring->all;

	pthread_mutex_lock(&all->lock);
	if (all->ended) {
		pthread_mutex_unlock(&all->lock);
		return false;
	}
	*ring->release = *c;
	ring->release->heap = true;
	ring->released = released;
	atomic_store(&ring->closing, true);
	pthread_mutex_unlock(&all->lock);
	rings_wake(all);
	return true;
}

void ring_ended(struct ring *ring)
{
	struct call *release = ring->release;
	call_fn released = ring->released;

	ring->release = NULL;
	ring_free(ring);
	call_defer(release, released);
}

void rings_close(struct rings *all)
{
	struct list *l;

	if (!all)
		return;
	while ((l = list_pop_front(&all->served)))
		ring_free(container_of(l, struct ring, link));
	if (all->epoll_fd >= 0)
		close(all->epoll_fd);
	if (all->wake_fd >= 0)
		close(all->wake_fd);
	bell_close(all->bell);
	pthread_mutex_destroy(&all->lock);
	free(all->request);
	free(all);
}

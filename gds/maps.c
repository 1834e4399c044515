// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gds/internal.h"

/*
 * A frame is mapped once, when a block in it is first asked for, and stays
 * mapped for a while after the last one was given back: the next LOCATE of the
 * block then costs nothing here. The pool does not reuse a frame that is mapped
 * somewhere, so what is kept idle is bounded.
 */
#define IDLE_BYTES (256ul << 20)
#define PARENTS_MAX 64 /* on the way up to the mount's root */

void gds_maps_init(struct gds_maps *m)
{
	*m = (struct gds_maps){.frames_fd = -1};
	pthread_mutex_init(&m->lock, NULL);
}

/* The directory of the mount that the handle's lies in. */
static int open_frames(int dir_fd)
{
	int dir = openat(dir_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int frames = -1;

	for (int i = 0; i < PARENTS_MAX && dir >= 0 && frames < 0; i++) {
		int up;

		frames = openat(dir, ".kvfs/frames",
				O_PATH | O_DIRECTORY | O_CLOEXEC);
		up = openat(dir, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		close(dir);
		dir = up;
	}
	if (dir >= 0)
		close(dir);
	return frames < 0 ? -ENOTTY : frames;
}

/* Where a mapping cannot be had, a copy has the same bytes. */
static void *copy_of(int fd, size_t bytes)
{
	char *to = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ssize_t n;

	for (size_t at = 0; to != MAP_FAILED && at < bytes; at += (size_t)n) {
		n = pread(fd, to + at, bytes - at, (off_t)at);
		if (n > 0)
			continue;
		errno = n ? errno : EIO;
		munmap(to, bytes);
		return MAP_FAILED;
	}
	return to;
}

static int open_frame(const struct gds_maps *m, uint32_t frame, int flags)
{
	char name[16];
	int fd;

	snprintf(name, sizeof(name), "%u", frame);
	fd = openat(m->frames_fd, name, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int map_frame(const struct gds_maps *m, struct gds_map *map)
{
	int err, fd = open_frame(m, map->frame, O_RDONLY);

	if (fd < 0)
		return fd;
	map->addr = mmap(NULL, map->bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (map->addr == MAP_FAILED)
		map->addr = copy_of(fd, map->bytes);
	err = map->addr == MAP_FAILED ? -errno : 0;
	close(fd);
	return err;
}

static struct gds_map **bucket_of(struct gds_maps *m, uint32_t frame)
{
	return &m->buckets[frame % GDS_BUCKETS];
}

static struct gds_map *find(struct gds_maps *m, uint32_t frame, uint32_t epoch)
{
	struct gds_map *map = *bucket_of(m, frame);

	while (map && (map->frame != frame || map->epoch != epoch))
		map = map->next;
	return map;
}

static void unmap(struct gds_maps *m, struct gds_map **at)
{
	struct gds_map *map = *at;

	*at = map->next;
	m->idle_bytes -= map->bytes;
	if (map->pinned)
		gds_cuda_unpin(m->pin, map->addr);
	if (map->bytes)
		munmap(map->addr, map->bytes);
	free(map);
}

/* The frame has another owner by now: nobody will ask for the old one's bytes.
 */
static void unmap_stale(struct gds_maps *m, uint32_t frame)
{
	struct gds_map **at = bucket_of(m, frame);

	while (*at)
		if ((*at)->frame == frame && !(*at)->users)
			unmap(m, at);
		else
			at = &(*at)->next;
}

/* A GPU that does not take it copies as from any memory. */
static void pin(struct gds_maps *m, struct gds_map *map)
{
	if (m->pin && map->bytes && !map->pinned)
		map->pinned = !gds_cuda_pin(m->pin, map->addr, map->bytes, 1);
}

static int map_new(struct gds_maps *m, const struct kvfs_ioc_block *block,
		   struct gds_map **new)
{
	struct gds_map **bucket = bucket_of(m, block->frame);
	struct gds_map *map = calloc(1, sizeof(*map));
	int err = 0;

	if (!map)
		return -ENOMEM;
	unmap_stale(m, block->frame);
	map->frame = block->frame;
	map->epoch = block->epoch;
	map->bytes = block->offset + block->length;
	if (map->bytes)
		err = map_frame(m, map);
	if (err) {
		free(map);
		return err;
	}
	pin(m, map);
	map->next = *bucket;
	*bucket = *new = map;
	m->idle_bytes += map->bytes; /* until somebody uses it */
	return 0;
}

/* Lock held. Returns: 0 or -errno. */
static int need_frames(struct kvfs *k)
{
	if (k->maps.frames_fd < 0)
		k->maps.frames_fd = open_frames(k->dir_fd);
	return k->maps.frames_fd < 0 ? k->maps.frames_fd : 0;
}

int gds_map_get(struct kvfs *k, const struct kvfs_ioc_block *block,
		const void **data)
{
	struct gds_maps *m = &k->maps;
	struct gds_map *map;
	int err = 0;

	pthread_mutex_lock(&m->lock);
	map = find(m, block->frame, block->epoch);
	if (!map)
		err = need_frames(k);
	if (!map && !err)
		err = map_new(m, block, &map);
	if (!err && !map->users++)
		m->idle_bytes -= map->bytes;
	if (!err)
		*data = (const char *)map->addr + block->offset;
	pthread_mutex_unlock(&m->lock);
	return err;
}

int kvfs_pool_pin_gpu(struct kvfs *k)
{
	struct gds_maps *m = &k->maps;
	int err;

	pthread_mutex_lock(&k->gpu.lock);
	err = gds_cuda_open(&k->gpu.cuda);
	pthread_mutex_unlock(&k->gpu.lock);
	if (err)
		return err;
	pthread_mutex_lock(&m->lock);
	m->pin = &k->gpu.cuda;
	for (unsigned i = 0; i < GDS_BUCKETS; i++)
		for (struct gds_map *map = m->buckets[i]; map; map = map->next)
			pin(m, map);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

/* -- frames to be written ------------------------------------------------ */

int gds_map_new(struct kvfs *k, uint32_t frame, size_t bytes, void **data,
		uint32_t *copy)
{
	int fd, err;
	void *addr;

	pthread_mutex_lock(&k->maps.lock);
	err = need_frames(k);
	pthread_mutex_unlock(&k->maps.lock);
	fd = err ? err : open_frame(&k->maps, frame, O_RDWR);
	if (fd < 0)
		return fd;
	addr = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	*copy = addr == MAP_FAILED;
	if (addr == MAP_FAILED)
		addr = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	err = addr == MAP_FAILED ? -errno : 0;
	close(fd);
	if (!err)
		*data = addr;
	return err;
}

int gds_map_write(struct kvfs *k, uint32_t frame, const void *data,
		  size_t bytes)
{
	int err = 0, fd = open_frame(&k->maps, frame, O_WRONLY);
	ssize_t n;

	if (fd < 0)
		return fd;
	for (size_t at = 0; at < bytes && !err; at += (size_t)n) {
		n = pwrite(fd, (const char *)data + at, bytes - at, (off_t)at);
		if (n <= 0)
			err = n ? -errno : -EIO;
	}
	close(fd);
	return err;
}

/* -- trimming ------------------------------------------------------------ */

/* Locked. The one that has been idle longest. */
static struct gds_map **oldest(struct gds_maps *m)
{
	struct gds_map **found = NULL;

	for (unsigned i = 0; i < GDS_BUCKETS; i++)
		for (struct gds_map **at = &m->buckets[i]; *at;
		     at = &(*at)->next)
			if (!(*at)->users &&
			    (!found || (*at)->used < (*found)->used))
				found = at;
	return found;
}

static void trim(struct gds_maps *m, size_t bytes)
{
	struct gds_map **at;

	while (m->idle_bytes > bytes && (at = oldest(m)))
		unmap(m, at);
}

bool gds_maps_drop_idle(struct kvfs *k)
{
	bool any;

	pthread_mutex_lock(&k->maps.lock);
	any = k->maps.idle_bytes;
	trim(&k->maps, 0);
	pthread_mutex_unlock(&k->maps.lock);
	return any;
}

void gds_map_put(struct kvfs *k, uint32_t frame, uint32_t epoch)
{
	struct gds_maps *m = &k->maps;
	struct gds_map *map;

	pthread_mutex_lock(&m->lock);
	map = find(m, frame, epoch);
	if (map && map->users && !--map->users) {
		map->used = ++m->clock;
		m->idle_bytes += map->bytes;
		trim(m, IDLE_BYTES);
	}
	pthread_mutex_unlock(&m->lock);
}

void gds_maps_fini(struct kvfs *k)
{
	struct gds_maps *m = &k->maps;

	for (unsigned i = 0; i < GDS_BUCKETS; i++)
		while (m->buckets[i])
			unmap(m, &m->buckets[i]);
	if (m->frames_fd >= 0)
		close(m->frames_fd);
	pthread_mutex_destroy(&m->lock);
}

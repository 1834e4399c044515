// SPDX-License-Identifier: MIT
/*
 * What the frames lie on: a tmpfs of our own on the pool's folder, mounted
 * in the namespace that we were started in, so that it outlives us. Where we
 * may not mount, a folder of /dev/shm to which the pool's folder is a link.
 */
#include "engine/pool_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/size.h"

#define MOUNT_SOURCE "kvfs-pool"
#define MOUNT_FLAGS (MS_NOSUID | MS_NODEV)
#define SHM_PREFIX "/dev/shm/kvfs-pool-"
#define INODES_SPARE 4096u

/* What lies at the pool's folder when we come. */
enum mount_found { FOUND_NOTHING, FOUND_OURS, FOUND_FOLDER, FOUND_FOREIGN };

static uint64_t mount_bytes(const struct pool *p)
{
	return (p->cap_pages + p->reserve_pages) * POOL_PAGE +
	       INDEX_HEADER_BYTES +
	       (uint64_t)p->max_frames * INDEX_RECORD_BYTES;
}

/* /proc/self/mountinfo: "ID … - TYPE SOURCE OPTIONS". */
static bool mount_is_ours(uint64_t id)
{
	cleanup_file FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[2 * PATH_MAX];

	while (f && fgets(line, sizeof(line), f)) {
		char *tail = strstr(line, " - ");

		if (strtoull(line, NULL, 10) == id)
			return tail &&
			       !strncmp(tail + 3, "tmpfs " MOUNT_SOURCE " ",
					sizeof("tmpfs " MOUNT_SOURCE));
	}
	return false;
}

static bool dir_is_empty(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	int n = 0;

	while (d && n <= 2 && (e = readdir(d)))
		n++;
	if (d)
		closedir(d);
	return d && n <= 2;
}

static enum mount_found mount_find(const struct pool *p)
{
	char target[PATH_MAX];
	struct statx sx;
	ssize_t n = readlink(p->dir, target, sizeof(target) - 1);

	if (n > 0) {
		target[n] = 0;
		return strncmp(target, SHM_PREFIX, strlen(SHM_PREFIX))
			       ? FOUND_FOREIGN
			       : FOUND_FOLDER;
	}
	if (statx(AT_FDCWD, p->dir, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &sx) ||
	    !S_ISDIR(sx.stx_mode))
		return FOUND_FOREIGN;
	if (sx.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		return mount_is_ours(sx.stx_mnt_id) ? FOUND_OURS
						    : FOUND_FOREIGN;
	return dir_is_empty(p->dir) ? FOUND_NOTHING : FOUND_FOREIGN;
}

static uint64_t meminfo_bytes(const char *key)
{
	cleanup_file FILE *f = fopen("/proc/meminfo", "re");
	char line[128];

	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, key, strlen(key)))
			return strtoull(line + strlen(key), NULL, 10) * 1024;
	}
	return 0;
}

/* held_bytes: what an earlier daemon's pool takes already. */
static int mount_check_memory(const struct pool *p, uint64_t held_bytes)
{
	uint64_t need = (p->cap_pages + p->reserve_pages) * POOL_PAGE;
	uint64_t total = meminfo_bytes("MemTotal:");
	uint64_t avail = meminfo_bytes("MemAvailable:") + held_bytes;
	char a[SIZE_FORMAT_BYTES], b[SIZE_FORMAT_BYTES], c[SIZE_FORMAT_BYTES];

	if (!total || (need <= avail && need <= total))
		return 0;
	log_error("pool: %s and its reserve take %s of memory, but %s are "
		  "available: make the pool smaller",
		  size_format(p->cap_pages * POOL_PAGE, a, sizeof(a)),
		  size_format(need, b, sizeof(b)),
		  size_format(avail < total ? avail : total, c, sizeof(c)));
	return -ENOMEM;
}

static uint64_t mount_held_bytes(const char *dir)
{
	struct statfs fs;

	if (statfs(dir, &fs))
		return 0;
	return (fs.f_blocks - fs.f_bfree) * (uint64_t)fs.f_bsize;
}

int mount_with(const struct pool *p, const char *huge, unsigned long how)
{
	unsigned long long bytes = mount_bytes(p);
	char opts[128];

	if (*huge && fault_hit("pool.mount_huge"))
		return -EINVAL;
	snprintf(opts, sizeof(opts), "mode=0700,size=%llu,nr_inodes=%u%s%s",
		 bytes, p->max_frames + INODES_SPARE, *huge ? ",huge=" : "",
		 huge);
	if (mount(MOUNT_SOURCE, p->dir, "tmpfs", MOUNT_FLAGS | how, opts))
		return -errno;
	return 0;
}

static int mount_tmpfs(struct pool *p)
{
	int err;

	if (fault_hit("pool.mount"))
		return -EPERM;
	err = mount_with(p, "within_size", 0);
	if (err == -EINVAL)
		err = mount_with(p, "", 0);
	if (!err)
		p->mounted_now = true;
	return err;
}

static int mount_opendir(struct pool *p)
{
	p->dir_fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (p->dir_fd >= 0)
		return 0;
	log_error("pool: %s: %m", p->dir);
	return -errno;
}

/* Names in /dev/shm are for anyone to take: ours must be ours alone. */
static int folder_open(struct pool *p)
{
	struct stat st;
	int err = mount_opendir(p);

	if (err)
		return err;
	if (fstat(p->dir_fd, &st))
		return -errno;
	if (st.st_uid != geteuid() || (st.st_mode & 077)) {
		log_error("pool: %s: the folder it leads to belongs to "
			  "another user",
			  p->dir);
		return -EACCES;
	}
	return 0;
}

static int folder_make(struct pool *p)
{
	cleanup_free char *real = realpath(p->dir, NULL);
	char target[64];
	struct statfs fs;

	if (!real || statfs("/dev/shm", &fs))
		return -errno;
	if ((uint64_t)fs.f_bavail * fs.f_bsize < mount_bytes(p)) {
		log_error("pool: may not mount a tmpfs, and /dev/shm is too "
			  "small for the pool");
		return -ENOMEM;
	}
	snprintf(target, sizeof(target), SHM_PREFIX "%u-%016llx",
		 (unsigned)geteuid(),
		 (unsigned long long)XXH3_64bits(real, strlen(real)));
	if ((mkdir(target, 0700) && errno != EEXIST) || rmdir(real) ||
	    symlink(target, real)) {
		int err = -errno;

		log_error("pool: %s: cannot make the pool's folder: %s", target,
			  strerror(-err));
		return err;
	}
	log_info("pool: may not mount a tmpfs: using %s", target);
	return folder_open(p);
}

static int mount_new(struct pool *p)
{
	int err = mount_check_memory(p, 0);

	if (err)
		return err;
	err = mount_tmpfs(p);
	if (err == -EPERM)
		return folder_make(p);
	if (err) {
		log_error("pool: %s: mount: %s", p->dir, strerror(-err));
		return err;
	}
	p->own_mount = true;
	return mount_opendir(p);
}

/* Nothing may be thrown away below a living daemon. */
static int mount_check_idle(const struct pool *p)
{
	char path[PATH_MAX];
	cleanup_close int fd = -1;

	snprintf(path, sizeof(path), "%s/index", p->dir);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || !flock(fd, LOCK_EX | LOCK_NB))
		return 0;
	log_error("pool: %s: another daemon uses it", p->dir);
	return -EBUSY;
}

static int mount_found_ours(struct pool *p, bool discard)
{
	int err;

	if (discard) {
		err = mount_check_idle(p);
		if (err)
			return err;
		if (umount2(p->dir, MNT_DETACH)) {
			err = -errno;
			log_error("pool: %s: unmount: %m", p->dir);
			return err;
		}
		return mount_new(p);
	}
	p->own_mount = true;
	err = mount_check_memory(p, mount_held_bytes(p->dir));
	return err ? err : mount_opendir(p);
}

static int mount_found_folder(struct pool *p, bool discard)
{
	int err = folder_open(p);

	if (!err && discard)
		err = mount_check_idle(p);
	if (err || !discard)
		return err;
	unlinkat(p->dir_fd, "index", 0);
	return mount_empty(p);
}

int mount_open(struct pool *p, bool discard)
{
	int err;

	if (mkdir(p->dir, 0700) && errno != EEXIST) {
		err = -errno;
		log_error("pool: %s: %s", p->dir, strerror(-err));
		return err;
	}
	switch (mount_find(p)) {
	case FOUND_NOTHING:
		return mount_new(p);
	case FOUND_OURS:
		return mount_found_ours(p, discard);
	case FOUND_FOLDER:
		return mount_found_folder(p, discard);
	case FOUND_FOREIGN:
		break;
	}
	log_error("pool: %s: holds something that is not a kvfs pool", p->dir);
	return -EINVAL;
}

int mount_fit(struct pool *p)
{
	struct statfs fs;

	if (!p->own_mount || fstatfs(p->dir_fd, &fs))
		return 0;
	if (fs.f_blocks * (uint64_t)fs.f_bsize / POOL_PAGE ==
	    pool_pages(mount_bytes(p)))
		return 0;
	/* What was half written may stand in the way. */
	pthread_mutex_lock(&p->lock);
	while (frame_recycle_next(p))
		;
	pthread_mutex_unlock(&p->lock);
	if (!mount_with(p, "", MS_REMOUNT))
		return 0;
	log_error("pool: %s: cannot be given the new size: %m", p->dir);
	return -EBUSY;
}

static int dir_unlink_all(int at_fd, const char *name)
{
	int fd = openat(at_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return errno == ENOENT ? 0 : -errno;
	}
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			unlinkat(fd, e->d_name, 0);
	closedir(d);
	return 0;
}

int mount_empty(struct pool *p)
{
	return dir_unlink_all(p->dir_fd, "frames");
}

/* The link goes with the folder: what is left is an empty pool folder. */
static void folder_remove(struct pool *p)
{
	char target[PATH_MAX];
	ssize_t n = readlink(p->dir, target, sizeof(target) - 1);

	mount_empty(p);
	unlinkat(p->dir_fd, "frames", AT_REMOVEDIR);
	unlinkat(p->dir_fd, "index", 0);
	if (n <= 0)
		return;
	target[n] = 0;
	if (!rmdir(target) && !unlink(p->dir))
		mkdir(p->dir, 0700);
}

void mount_close(struct pool *p, bool discard)
{
	if (p->dir_fd < 0)
		return;
	if (discard && !p->own_mount)
		folder_remove(p);
	close(p->dir_fd);
	p->dir_fd = -1;
	if (discard && p->own_mount && umount2(p->dir, MNT_DETACH))
		log_error("pool: %s: unmount: %m", p->dir);
}

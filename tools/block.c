// SPDX-License-Identifier: MIT
#include "tools/block.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#define NAME_BYTES 48
#define HUGE_PAGE (2UL << 20)

/* splitmix64's finalizer: a bijection, so two ids never share a key or name. */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

static const char *final_name(uint64_t id, char *buf)
{
	snprintf(buf, NAME_BYTES, "%016llx.data",
		 (unsigned long long)mix(id ^ 0x6b766673));
	return buf;
}

static const char *temp_name(uint64_t id, char *buf)
{
	snprintf(buf, NAME_BYTES, "%016llx_%d.tmp",
		 (unsigned long long)mix(id ^ 0x6b766673), (int)getpid());
	return buf;
}

static int complain(const struct block_dir *d, const char *name,
		    const char *what)
{
	int err = errno;

	log_error("replay: %s/%s: cannot %s: %s", d->path, name, what,
		  strerror(err));
	return -err;
}

/* -- contents ----------------------------------------------------------- */

void block_fill(const struct block_dir *d, uint64_t id, uint64_t *buf)
{
	uint64_t key = mix(id);
	size_t n = (d->block_bytes + 7) / 8;

	for (size_t i = 0; i < n; i++)
		buf[i] = d->pattern[i] ^ key;
}

bool block_check(const struct block_dir *d, uint64_t id, const uint64_t *buf)
{
	uint64_t key = mix(id), wrong[4] = {0}, last = 0;
	size_t n = d->block_bytes / 8, tail = d->block_bytes % 8, i = 0;

	for (; i + 4 <= n; i += 4)
		for (int k = 0; k < 4; k++)
			wrong[k] |= d->pattern[i + k] ^ key ^ buf[i + k];
	for (; i < n; i++)
		wrong[0] |= d->pattern[i] ^ key ^ buf[i];
	if (tail) {
		last = d->pattern[n] ^ key;
		wrong[0] |= (uint64_t)memcmp(&last, &buf[n], tail);
	}
	return !(wrong[0] | wrong[1] | wrong[2] | wrong[3]);
}

/* -- the directory ------------------------------------------------------ */

static int buffers_make(struct block_dir *d)
{
	size_t words = (d->block_bytes + 7) / 8 + 1;
	void *p;

	d->pattern = calloc(words, 8);
	if (!d->pattern || posix_memalign(&p, HUGE_PAGE, words * 8)) {
		log_error("replay: no memory for blocks of %zu bytes",
			  d->block_bytes);
		return -ENOMEM;
	}
	d->buf = p;
	memset(d->buf, 0, words * 8);
	for (size_t i = 0; i < words; i++)
		d->pattern[i] = mix(~(uint64_t)i);
	return 0;
}

int block_dir_open(struct block_dir *d, const char *path, size_t block_bytes)
{
	int err;

	*d = (struct block_dir){
		.path = path, .fd = -1, .block_bytes = block_bytes};
	d->made = !mkdir(path, 0755);
	if (!d->made && errno != EEXIST) {
		err = -errno;
		log_error("replay: %s: cannot make the directory: %m", path);
		return err;
	}
	d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->fd < 0) {
		err = -errno;
		log_error("replay: %s: cannot open the directory: %m", path);
		return err;
	}
	err = buffers_make(d);
	if (err)
		block_dir_close(d);
	return err;
}

void block_dir_close(struct block_dir *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	free(d->pattern);
	free(d->buf);
	d->pattern = d->buf = NULL;
}

static bool name_is_ours(const char *name)
{
	const char *rest = name + strspn(name, "0123456789abcdef");

	if (rest - name != 16)
		return false;
	if (*rest == '_')
		return !strcmp(rest + 1 + strspn(rest + 1, "0123456789"),
			       ".tmp");
	return !strcmp(rest, ".data");
}

int block_dir_sweep(struct block_dir *d)
{
	int fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	int others = 0, err = 0;

	if (!dir)
		return complain(d, ".", "list");
	while (!err && (e = readdir(dir))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (!name_is_ours(e->d_name))
			others++;
		else if (unlinkat(d->fd, e->d_name, 0) < 0 && errno != ENOENT)
			err = complain(d, e->d_name, "remove");
	}
	closedir(dir);
	return err ? err : others;
}

/* -- what an engine does ------------------------------------------------ */

int block_load(struct block_dir *d, uint64_t id, int64_t *ns)
{
	char name[NAME_BYTES];
	int64_t start = clock_now_ns();
	int fd = openat(d->fd, final_name(id, name), O_RDONLY | O_CLOEXEC);
	ssize_t n;
	int err;

	if (fd < 0)
		return errno == ENOENT ? 0 : complain(d, name, "open");
	/* One byte more than a block has: a longer file shows. */
	n = read(fd, d->buf, d->block_bytes + 1);
	err = n < 0 ? complain(d, name, "read") : 0;
	close(fd);
	*ns = clock_now_ns() - start;
	if (err)
		return err;
	if ((size_t)n == d->block_bytes && block_check(d, id, d->buf))
		return 1;
	log_error("replay: %s/%s: wrong contents: %zd bytes read, not what "
		  "block %llu was stored with",
		  d->path, name, n, (unsigned long long)id);
	return -EILSEQ;
}

bool block_exists(struct block_dir *d, uint64_t id)
{
	char name[NAME_BYTES];

	return !faccessat(d->fd, final_name(id, name), F_OK, 0);
}

static int temp_write(struct block_dir *d, const char *temp)
{
	cleanup_close int fd = openat(
		d->fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	ssize_t n;

	if (fd < 0)
		return complain(d, temp, "create");
	n = write(fd, d->buf, d->block_bytes);
	if (n == (ssize_t)d->block_bytes)
		return 0;
	if (n >= 0)
		errno = ENOSPC;
	return complain(d, temp, "write the whole block");
}

int block_store(struct block_dir *d, uint64_t id, int64_t *ns)
{
	char temp[NAME_BYTES], name[NAME_BYTES];
	int64_t start;
	int err;

	temp_name(id, temp);
	final_name(id, name);
	block_fill(d, id, d->buf);
	start = clock_now_ns();
	err = temp_write(d, temp);
	if (!err && renameat(d->fd, temp, d->fd, name) < 0)
		err = complain(d, name, "rename the temporary file to it");
	*ns = clock_now_ns() - start;
	if (err)
		unlinkat(d->fd, temp, 0);
	return err;
}

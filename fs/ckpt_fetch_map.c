// SPDX-License-Identifier: MIT
#include "fs/ckpt_fetch_map.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/le64.h"
#include "meta/ckpt.h"

#define MAGIC 0x3170616d7366766bull /* "kvfsmap1" */
#define HEAD_BYTES 64u
#define FILE_MAX (HEAD_BYTES + CKPT_SHARDS_BYTES_MAX + 8u)

static size_t bits_bytes(const struct cmap *m)
{
	return m->flags & CMAP_WHOLE ? 0 : (m->n_shards + 7u) / 8;
}

int cmap_init(struct cmap *m, uint64_t ino, uint64_t version,
	      uint64_t size_bytes, uint64_t shard_bytes)
{
	uint64_t n = cmap_shards(size_bytes, shard_bytes);

	if (n > CKPT_SHARDS_MAX)
		return -EFBIG;
	*m = (struct cmap){
		.ino = ino,
		.version = version,
		.size_bytes = size_bytes,
		.shard_bytes = shard_bytes,
		.boot = cmap_boot(),
		.flags = n ? 0 : CMAP_WHOLE,
		.n_shards = (uint32_t)n,
	};
	if (!n)
		return 0;
	m->bits = calloc(bits_bytes(m), 1);
	return m->bits ? 0 : -ENOMEM;
}

void cmap_fini(struct cmap *m)
{
	free(m->bits);
	m->bits = NULL;
}

bool cmap_add(struct cmap *m, uint64_t shard)
{
	uint64_t missing;

	if (m->flags & CMAP_WHOLE)
		return true;
	m->bits[shard / 8] |= (uint8_t)(1u << shard % 8);
	if (!cmap_range(m, 0, m->size_bytes, &missing))
		return false;
	m->flags |= CMAP_WHOLE;
	return true;
}

bool cmap_range(const struct cmap *m, uint64_t from, uint64_t to,
		uint64_t *missing)
{
	if (to > m->size_bytes)
		to = m->size_bytes;
	if (m->flags & CMAP_WHOLE || from >= to)
		return true;
	for (uint64_t i = from / m->shard_bytes; i <= (to - 1) / m->shard_bytes;
	     i++) {
		if (!cmap_has(m, i)) {
			*missing = i;
			return false;
		}
	}
	return true;
}

/* -- bytes -------------------------------------------------------------- */

uint8_t *cmap_encode(const struct cmap *m, size_t *n)
{
	size_t n_bits = bits_bytes(m);
	uint8_t *bytes = malloc(HEAD_BYTES + n_bits + 8), *p = bytes;

	if (!bytes)
		return NULL;
	p = le64_put(p, MAGIC);
	p = le64_put(p, m->ino);
	p = le64_put(p, m->version);
	p = le64_put(p, m->size_bytes);
	p = le64_put(p, m->shard_bytes);
	p = le64_put(p, (uint64_t)m->mtime_ns);
	p = le64_put(p, m->boot);
	p = le64_put(p, m->flags | (uint64_t)m->n_shards << 32);
	if (n_bits)
		memcpy(p, m->bits, n_bits);
	p = le64_put(p + n_bits, XXH3_64bits(bytes, HEAD_BYTES + n_bits));
	*n = (size_t)(p - bytes);
	return bytes;
}

static bool is_sound(const struct cmap *m)
{
	return m->ino && m->size_bytes <= INT64_MAX && m->shard_bytes >= 4096 &&
	       m->shard_bytes <= INT64_MAX && !(m->flags & ~CMAP_FLAGS) &&
	       m->n_shards <= CKPT_SHARDS_MAX &&
	       (m->flags & CMAP_WHOLE ||
		(m->n_shards &&
		 m->n_shards == cmap_shards(m->size_bytes, m->shard_bytes)));
}

/* The bits behind the last shard are none. */
static bool ends_clean(const struct cmap *m, const uint8_t *bits)
{
	unsigned used = m->n_shards % 8;

	return !used || !(bits[m->n_shards / 8] >> used);
}

int cmap_decode(const void *bytes, size_t n, struct cmap *m)
{
	const uint8_t *p = bytes, *sum;
	struct cmap r = {0};
	uint64_t magic, last;
	size_t n_bits;

	if (n < HEAD_BYTES + 8 || n > FILE_MAX)
		return -EBADMSG;
	magic = le64_get(&p);
	r.ino = le64_get(&p);
	r.version = le64_get(&p);
	r.size_bytes = le64_get(&p);
	r.shard_bytes = le64_get(&p);
	r.mtime_ns = (int64_t)le64_get(&p);
	r.boot = le64_get(&p);
	last = le64_get(&p);
	r.flags = (uint32_t)last;
	r.n_shards = (uint32_t)(last >> 32);
	n_bits = bits_bytes(&r);
	sum = p + n_bits;
	if (magic != MAGIC || !is_sound(&r) || n != HEAD_BYTES + n_bits + 8 ||
	    le64_get(&sum) != XXH3_64bits(bytes, HEAD_BYTES + n_bits) ||
	    (n_bits && !ends_clean(&r, p)))
		return -EBADMSG;
	if (n_bits) {
		r.bits = malloc(n_bits);
		if (!r.bits)
			return -ENOMEM;
		memcpy(r.bits, p, n_bits);
	}
	*m = r;
	return 0;
}

/* -- files -------------------------------------------------------------- */

int cmap_load(int dirfd, const char *name, struct cmap *m)
{
	cleanup_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	cleanup_free uint8_t *bytes = NULL;
	struct stat st;
	ssize_t got;

	if (fd < 0 || fstat(fd, &st))
		return -errno;
	if (st.st_size > (off_t)FILE_MAX)
		return -EBADMSG;
	bytes = malloc((size_t)st.st_size + 1);
	if (!bytes)
		return -ENOMEM;
	got = read(fd, bytes, (size_t)st.st_size);
	if (got < 0)
		return -errno;
	return cmap_decode(bytes, (size_t)got, m);
}

static int write_new(int dirfd, const char *name, const void *bytes, size_t n)
{
	cleanup_close int fd = openat(
		dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t put = fd < 0 ? -1 : write(fd, bytes, n);

	if (put < 0)
		return -errno;
	return (size_t)put == n ? 0 : -ENOSPC;
}

int cmap_save(int dirfd, const char *name, const struct cmap *m)
{
	char temp[NAME_MAX + 1];
	cleanup_free uint8_t *bytes = NULL;
	size_t n;
	int err;

	bytes = cmap_encode(m, &n);
	if (!bytes)
		return -ENOMEM;
	if (snprintf(temp, sizeof(temp), "%s.new", name) >= (int)sizeof(temp))
		return -ENAMETOOLONG;
	err = write_new(dirfd, temp, bytes, n);
	if (!err && renameat(dirfd, temp, dirfd, name))
		err = -errno;
	if (err)
		unlinkat(dirfd, temp, 0);
	return err;
}

static uint64_t boot;

static void read_boot(void)
{
	char text[64] = "";
	cleanup_close int fd =
		open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text));

	boot = XXH3_64bits(text, n > 0 ? (size_t)n : 0) | 1;
}

uint64_t cmap_boot(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, read_boot);
	return boot;
}

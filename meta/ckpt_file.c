// SPDX-License-Identifier: MIT
#include "meta/ckpt_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/fault.h"

#define FILE_MAGIC 0x74706b6373667668ull /* "hvfsckpt" */
#define FILE_VERSION 1u
#define RECORD_MAGIC 0x63657263u /* "crec" */
#define END_MAGIC 0x646e6563u	 /* "cend" */

struct record_head {
	uint32_t magic;
	uint32_t length;
	uint64_t seq;
	uint64_t sum; /* of seq and payload */
};
_Static_assert(sizeof(struct record_head) == CKPT_RECORD_HEAD_BYTES, "layout");
_Static_assert(sizeof(struct ckpt_file_head) == 40, "layout");

uint64_t ckpt_file_sum(uint64_t seq, const void *payload, size_t n_bytes)
{
	return XXH3_64bits_withSeed(payload, n_bytes, seq);
}

static uint64_t head_sum(const struct ckpt_file_head *h)
{
	return XXH3_64bits(h, offsetof(struct ckpt_file_head, sum));
}

static bool head_good(const struct ckpt_file_head *h, enum ckpt_file_kind kind)
{
	return h->magic == FILE_MAGIC && h->version == FILE_VERSION &&
	       h->kind == (uint32_t)kind && h->tree && h->sum == head_sum(h);
}

int ckpt_view_open(struct ckpt_view *v, int dirfd, const char *name,
		   enum ckpt_file_kind kind)
{
	cleanup_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st))
		return -errno;
	if ((size_t)st.st_size < sizeof(v->head))
		return -EBADMSG;
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	madvise(p, (size_t)st.st_size, MADV_SEQUENTIAL);
	v->p = p;
	v->n_bytes = (size_t)st.st_size;
	v->at = sizeof(v->head);
	memcpy(&v->head, p, sizeof(v->head));
	if (head_good(&v->head, kind))
		return 0;
	ckpt_view_close(v);
	return -EBADMSG;
}

void ckpt_view_close(struct ckpt_view *v)
{
	if (v->p)
		munmap((void *)(uintptr_t)v->p, v->n_bytes);
	v->p = NULL;
}

/* The record at `at`, if a whole and undamaged one stands there. */
static bool record_at(const struct ckpt_view *v, size_t at,
		      struct record_head *h)
{
	size_t left = v->n_bytes - at;

	if (left < sizeof(*h))
		return false;
	memcpy(h, v->p + at, sizeof(*h));
	if (h->magic != RECORD_MAGIC && h->magic != END_MAGIC)
		return false;
	if (h->length > CKPT_RECORD_MAX || h->length > left - sizeof(*h))
		return false;
	return h->sum ==
	       ckpt_file_sum(h->seq, v->p + at + sizeof(*h), h->length);
}

static bool any_behind(const struct ckpt_view *v, size_t at)
{
	const uint32_t magic = RECORD_MAGIC;
	struct record_head h;

	while (at < v->n_bytes) {
		const uint8_t *p = memmem(v->p + at, v->n_bytes - at, &magic,
					  sizeof(magic));

		if (!p)
			return false;
		at = (size_t)(p - v->p);
		if (record_at(v, at, &h))
			return true;
		at++;
	}
	return false;
}

enum ckpt_next ckpt_view_next(struct ckpt_view *v, struct ckpt_record *r)
{
	struct record_head h;

	if (v->at == v->n_bytes)
		return CKPT_NEXT_EOF;
	if (!record_at(v, v->at, &h))
		return any_behind(v, v->at + 1) ? CKPT_NEXT_DAMAGE
						: CKPT_NEXT_TORN;
	r->seq = h.seq;
	r->sum = h.sum;
	r->length = h.length;
	r->payload = v->p + v->at + sizeof(h);
	v->at += sizeof(h) + h.length;
	return h.magic == END_MAGIC ? CKPT_NEXT_END : CKPT_NEXT_RECORD;
}

/* All of it, or the file as it was. */
static int write_all(int fd, struct iovec *iov, int n_iov)
{
	off_t start = lseek(fd, 0, SEEK_END);
	size_t want = 0;
	ssize_t n;
	int err;

	for (int i = 0; i < n_iov; i++)
		want += iov[i].iov_len;
	do
		n = writev(fd, iov, n_iov);
	while (n < 0 && errno == EINTR);
	if (fault_hit("ckpt.write") && n > 0)
		n /= 2;
	if (n == (ssize_t)want)
		return 0;
	/* A short write to a file means that its disk is full. */
	err = n < 0 ? -errno : -ENOSPC;
	if (ftruncate(fd, start))
		return -EIO;
	return err;
}

int ckpt_file_write_head(int fd, enum ckpt_file_kind kind, uint64_t tree,
			 uint64_t base)
{
	struct ckpt_file_head h = {FILE_MAGIC, FILE_VERSION, kind,
				   tree,       base,	     0};
	struct iovec iov = {&h, sizeof(h)};

	h.sum = head_sum(&h);
	return write_all(fd, &iov, 1);
}

static int write_record(int fd, uint32_t magic, uint64_t seq,
			const void *payload, size_t n_bytes)
{
	struct record_head h = {magic, (uint32_t)n_bytes, seq,
				ckpt_file_sum(seq, payload, n_bytes)};
	struct iovec iov[2] = {{&h, sizeof(h)},
			       {(void *)(uintptr_t)payload, n_bytes}};

	if (n_bytes > CKPT_RECORD_MAX)
		return -E2BIG;
	return write_all(fd, iov, 2);
}

int ckpt_file_write(int fd, uint64_t seq, const void *payload, size_t n_bytes)
{
	return write_record(fd, RECORD_MAGIC, seq, payload, n_bytes);
}

int ckpt_file_write_end(int fd, uint64_t seq)
{
	return write_record(fd, END_MAGIC, seq, "", 0);
}

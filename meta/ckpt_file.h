/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CKPT_FILE_H
#define KVFS_META_CKPT_FILE_H

/*
 * The format that ckpt.snap and ckpt.log share: a head, then records. All
 * fields are in the machine's order; a file of another order has a foreign
 * magic and is refused.
 */

#include <stddef.h>
#include <stdint.h>

enum ckpt_file_kind { CKPT_FILE_LOG = 1, CKPT_FILE_SNAP = 2 };

struct ckpt_file_head {
	uint64_t magic;
	uint32_t version;
	uint32_t kind;
	uint64_t tree; /* never 0 */
	uint64_t base; /* log: seq before its first record; snapshot: its seq */
	uint64_t sum;  /* of the fields above */
};

struct ckpt_record {
	uint64_t seq;
	uint64_t sum;
	const void *payload;
	uint32_t length;
};

/* A whole file, mapped. */
struct ckpt_view {
	const uint8_t *p;
	size_t n_bytes;
	size_t at; /* the next record */
	struct ckpt_file_head head;
};

/** ckpt_view_open - map dirfd/name and check its head.
 *  Returns: 0, -ENOENT, -EBADMSG (not such a file, or torn), or -errno. */
int ckpt_view_open(struct ckpt_view *v, int dirfd, const char *name,
		   enum ckpt_file_kind kind);
void ckpt_view_close(struct ckpt_view *v);

enum ckpt_next {
	CKPT_NEXT_RECORD,
	CKPT_NEXT_END,	  /* the snapshot's end mark */
	CKPT_NEXT_EOF,	  /* exactly at the file's end */
	CKPT_NEXT_TORN,	  /* no good record here nor anywhere behind */
	CKPT_NEXT_DAMAGE, /* no good record here, but there is one behind */
};

/** ckpt_view_next - read the record at v->at and go past it. */
enum ckpt_next ckpt_view_next(struct ckpt_view *v, struct ckpt_record *r);

uint64_t ckpt_file_sum(uint64_t seq, const void *payload, size_t n_bytes);

/* Written with one writev each. 0 or -errno; nothing is left of a failure. */
int ckpt_file_write_head(int fd, enum ckpt_file_kind kind, uint64_t tree,
			 uint64_t base);
int ckpt_file_write(int fd, uint64_t seq, const void *payload, size_t n_bytes);
int ckpt_file_write_end(int fd, uint64_t seq);

#define CKPT_RECORD_MAX (64u << 20)
#define CKPT_RECORD_HEAD_BYTES 24u

#endif

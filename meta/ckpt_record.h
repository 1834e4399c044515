/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CKPT_RECORD_H
#define KVFS_META_CKPT_RECORD_H

/*
 * Bytes to structs and back: the inode of ckpt.lua's FMT, and the cursor that
 * reads answers, which come from outside and are checked.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meta/ckpt.h"

#define CKPT_INODE_BYTES 80u
#define CKPT_ATTR_BYTES (8u + CKPT_INODE_BYTES) /* its number first */
#define CKPT_ROOT_RECORD_BYTES 128u

/** ckpt_inode_pack - as Redis keeps it; writer 0. */
void ckpt_inode_pack(char out[CKPT_INODE_BYTES], const struct ckpt_attr *a);

/* Reads p … end; the first misfit sets bad and empties it. */
struct ckpt_cursor {
	const char *p, *end;
	bool bad;
};

const char *ckpt_cursor_bytes(struct ckpt_cursor *c, size_t n);
uint64_t ckpt_cursor_u64(struct ckpt_cursor *c);
uint32_t ckpt_cursor_u32(struct ckpt_cursor *c);
uint16_t ckpt_cursor_u16(struct ckpt_cursor *c);
/** ckpt_cursor_attr - number and inode; impossible values are a misfit. */
void ckpt_cursor_attr(struct ckpt_cursor *c, struct ckpt_attr *a);
/** ckpt_cursor_done - all of it was read, and all of it fitted. */
bool ckpt_cursor_done(const struct ckpt_cursor *c);

/** ckpt_record_root - the first record of a tree; returns its length. */
size_t ckpt_record_root(char out[CKPT_ROOT_RECORD_BYTES],
			const struct ckpt_attr *root);

#endif

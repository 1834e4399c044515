/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CKPT_FETCH_WIRE_H
#define KVFS_FS_CKPT_FETCH_WIRE_H

/*
 * What the daemons of a cluster ask each other about the bytes of checkpoint
 * files: payloads of engine messages, little-endian. Pure functions.
 *
 *      SHARD      call: "write these bytes into that segment"
 *      SHARD_SUM  call: "what is their XXH3-128?"; the answer has 16 bytes,
 *                 low half first
 *
 *      SHARD_TAKE call: "have all of this version"; answer: a status,
 * EINPROGRESS while it is being fetched SHARD_GONE message: "the file was
 * removed"; whoever has it asks Redis
 *
 * All say the same 56 bytes:
 *
 *      version 1, zero 3, priority 4
 *      inode 8, its version 8, offset 8, length 8
 *      segment id 8, segment generation 8 (SHARD only)
 */

#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

#define CWIRE_BYTES 56u
#define CWIRE_PART_MAX (4u << 20)     /* bytes of one SHARD */
#define CWIRE_SUM_MAX (1024ull << 20) /* of one SHARD_SUM */

struct cwire_ask {
	uint64_t ino, version;
	uint64_t offset, length_bytes;
	uint32_t priority; /* enum engine_priority */
	struct engine_segment segment;
};

void cwire_encode(const struct cwire_ask *a, uint8_t out[CWIRE_BYTES]);

/** cwire_decode - read what a peer sent; a is set only on success.
 *  Returns: 0 or -EPROTO. */
int cwire_decode(const void *bytes, size_t n, struct cwire_ask *a);

#endif

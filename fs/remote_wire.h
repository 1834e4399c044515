/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_WIRE_H
#define KVFS_FS_REMOTE_WIRE_H

/*
 * What the daemons of a cluster tell each other about blocks: payloads of
 * engine messages, little-endian. Pure functions.
 *
 *      FETCH  call: "write this block into that segment"; answer: a status,
 *             and with REMOTE_CHAIN what AHEAD answers; or "this part of it",
 *             length not 0: and the part's XXH3, low half first. It comes
 *             with the bytes, not after them. With status EAGAIN up to 4
 *             incarnations (4 each) that are fetching it from there just now;
 *             they can be asked with REMOTE_WAIT: they answer once they have
 *             it.
 *      DROP   call: "its name was removed"; answer: a status
 *      TAKE   call: "fetch this block from me and keep it"; answer: a status
 *             and, of an OFFER, 4 bytes: ms since the last use of what would
 *             go next there, plus 1; 0: there is room
 *      AHEAD  call: "what was stored after this?"; answer: up to 32 blocks (8
 *             where it comes with a FETCH), each as below, its length (2)
 *             before it
 *
 * All begin alike:
 *
 *      version 2, flags 1, path length 2, priority 4
 *      generation 8, size 8, checksum 16, mode 4, uid 4, gid 4
 *      holder 4 (TAKE: an incarnation that has it; FETCH: who asks; else 0)
 *      age 4 (TAKE with flag OFFER: ms since its last use; else 0)
 *      segment id 8, segment generation 8 (FETCH; else 0)
 *      offset 8, length 8 of a part, inside the size (FETCH; else 0)
 *      path
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/pool.h"

enum remote_type {
	REMOTE_FETCH = ENGINE_TYPE_MIN,
	REMOTE_DROP,
	REMOTE_TAKE,
	REMOTE_SHARD, /* bytes of checkpoints: fs/ckpt_fetch_wire.h */
	REMOTE_SHARD_SUM,
	REMOTE_SHARD_GONE, /* the file was removed; no answer */
	REMOTE_AHEAD,
	REMOTE_SHARD_TAKE, /* have all of a checkpoint file */
};

#define REMOTE_HEAD_BYTES 92u
#define REMOTE_MSG_MAX (REMOTE_HEAD_BYTES + POOL_PATH_MAX)

/* One version of a block, and what is to be done with it. */
struct remote_msg {
	uint64_t generation, size_bytes;
	uint64_t checksum[2];
	uint32_t mode, uid, gid;
	uint32_t holder, age_ms;
	uint32_t priority; /* enum engine_priority */
	uint8_t flags;
	struct engine_segment segment;
	uint64_t offset, length_bytes; /* of a part; 0: the whole */
	uint16_t path_len;
	const char *path; /* not terminated */
};

#define REMOTE_COPY 1u	/* TAKE: a copy that may go first, no replica */
#define REMOTE_OFFER 4u /* TAKE: only if yours are older; ours will go */
#define REMOTE_CHAIN 8u /* FETCH: and say what was stored after it */
#define REMOTE_WAIT 16u /* FETCH: it is on its way to you: once it is there */

/** remote_age_encode, remote_age_decode - the answer to an OFFER; KV_ROOM (-1)
 *  is room, and an answer that is none says nothing new: -EPROTO. */
#define REMOTE_AGE_BYTES 4u
void remote_age_encode(int64_t age_ms, uint8_t out[REMOTE_AGE_BYTES]);
int remote_age_decode(const void *bytes, size_t n, int64_t *age_ms);

/* Who fetches a block from the node that was asked. */
#define REMOTE_FETCHING_MAX 4u
struct remote_fetching {
	uint32_t n, nodes[REMOTE_FETCHING_MAX];
};
#define REMOTE_FETCHING_BYTES (4u * REMOTE_FETCHING_MAX)
size_t remote_fetching_encode(const struct remote_fetching *f,
			      uint8_t out[REMOTE_FETCHING_BYTES]);
/** remote_fetching_decode - 0, or -EPROTO it is no such list. */
int remote_fetching_decode(const void *bytes, size_t n,
			   struct remote_fetching *f);

#define REMOTE_SUM_BYTES 16u
void remote_sum_encode(const uint64_t sum[2], uint8_t out[REMOTE_SUM_BYTES]);
/** remote_sum_decode - 0, or -EPROTO it is not so long. */
int remote_sum_decode(const void *bytes, size_t n, uint64_t sum[2]);

/** remote_encode - returns the length. */
size_t remote_encode(const struct remote_msg *m, uint8_t out[REMOTE_MSG_MAX]);

/**
 * remote_decode - read what a peer sent
 * @m: set only on success; path points into the bytes
 *
 * The path is one that a block can have: "NAMESPACE/a/b", no empty, "." or
 * ".." part, no NUL, no part longer than a name.
 * Returns: 0 or -EPROTO.
 */
int remote_decode(const void *bytes, size_t n, struct remote_msg *m);

#endif

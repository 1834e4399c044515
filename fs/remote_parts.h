/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_PARTS_H
#define KVFS_FS_REMOTE_PARTS_H

/*
 * A large block, fetched in parts: it can be read from the first part on.
 *
 * Each part is asked for by itself, of any holder, three at a time; the one
 * that somebody waits for goes first. The holder's answer, authenticated,
 * carries the part's XXH3, which it took of bytes that matched the block's own
 * checksum, and no byte is shown before its part has been compared. When the
 * last one is here the whole is compared with the checksum that was published,
 * and becomes a block.
 *
 * Whoever opens it meanwhile gets a handle that is served through the daemon;
 * while such a handle is open, so are all others of this file, as the kernel
 * keeps passthrough and mappings of the other kind apart (kv_file.direct). A
 * read waits for its parts, up to its deadline: then, or when no holder has
 * them, EIO. The name goes in that case, and the next open starts anew.
 */

#include "fs/remote.h"

#define REMOTE_PARTS_OVER (16ull << 20) /* smaller blocks come in one piece */
#define REMOTE_PART_BYTES (4ull << 20)
#define REMOTE_PARTS_AHEAD 3u

struct remote_parts;
struct remote_target;

/** remote_parts_new - no part is here; a reference. 0 or -ENOMEM.
 *  @target: of the whole; theirs, unless this fails
 *  @m: copied; its path stays valid until remote_parts_run has returned */
int remote_parts_new(struct remote *r, const struct remote_msg *m,
		     struct remote_target *target, struct remote_parts **parts);
/** remote_parts_fill - all of it is in the target, verified. */
void remote_parts_fill(struct remote_parts *p);
void remote_parts_put(struct remote_parts *p); /* NULL is fine */
/** remote_parts_stop - before the engine goes: those that open handles keep
 *  have no bytes any more. Nobody reads or fetches. */
void remote_parts_stop(struct remote *r);
struct remote_parts *remote_parts_ref(struct remote_parts *p);
struct remote_target *remote_parts_target(struct remote_parts *p);
/** remote_parts_sums - of each part, verified; the caller's, or NULL. */
uint64_t (*remote_parts_sums(struct remote_parts *p))[2];

struct remote_parts_ops {
	/** holder - the best that is not among these, or 0. */
	uint32_t (*holder)(void *ctx, const uint32_t *bad, unsigned n_bad);
	/** failed - this one did, and is not asked until again. Leaf. */
	void (*failed)(void *ctx, uint32_t holder, int err);
	/** again - all have failed: 0 they are asked again, or -errno. May wait
	 *  a moment first. */
	int (*again)(void *ctx);
	/** over - nothing came for too long: it is given up. Leaf. */
	bool (*over)(void *ctx);
	/** came - a part is here; after part 0 opens need wait no longer. */
	void (*came)(void *ctx, unsigned part);
};

/** remote_parts_run - fetch them all and verify the whole; 0 or -errno.
 *  Reads that still wait then are run again. Threads: fetchers; waits. */
int remote_parts_run(struct remote_parts *p, const struct remote_parts_ops *ops,
		     void *ctx);

/** remote_parts_open - can this KV_REMOTE file be opened now? kv->lock held. */
bool remote_parts_open(const struct kv_file *f);
/** remote_parts_read - answers a read of such a file, now or later; false: it
 *  is a block by now. No lock held. */
bool remote_parts_read(struct call *c, struct kv_file *f);

/** remote_parts_n - how many of a block so large. */
unsigned remote_parts_n(uint64_t size_bytes);

#endif

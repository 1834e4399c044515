/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_KV_LEND_H
#define KVFS_FS_KV_LEND_H

/*
 * Frames lent to clients. LOCATE lends the frames of blocks: a client opens
 * and maps .kvfs/frames/N and reads the block in place.
 *
 *      open directory ──▶ kv_pins ──▶ kv_hold ─┐
 *                                              ├──▶ kv_lent ──▶ the block
 *      open .kvfs/frames/N ─────────▶ kv_hold ─┘
 *
 * RESERVE lends frames that are nobody's yet: to write in place, and to COMMIT.
 * Such a frame is the user's who reserved it, no block (lent->f is NULL), and
 * goes back to the pool when nobody holds it.
 *
 * As long as anybody holds a lent frame its block is pinned: not evicted, and
 * if it is unlinked its frame is not given back. After that nothing stands in
 * the way of the pool's own rule: a frame goes on to its next owner only when
 * the kernel says that nobody has it open or mapped. So a client that keeps a
 * mapping too long sees the old block, never another one.
 *
 * What one user holds is bounded, as it cannot be evicted: the memory of each
 * frame once, however often he has pinned and opened it; and how often.
 *
 * All with kv->lock held.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"

struct call;
struct kv;
struct kv_file;

#define KV_LEND_SHARE 2		    /* of the pool, for one user */
#define KV_HOLDS_MAX (1024u * 1024) /* of one user; each takes memory here */

/* A frame that is lent, and to how many: opens, and directories. */
struct kv_lent {
	struct kv_lent *next;
	struct list reserved; /* in kv->reserved */
	struct kv_file *f;    /* NULL: reserved */
	struct kv_hold *held; /* by whom */
	uint32_t frame, epoch;
	uint32_t holds; /* of all users, and while it is copied */
	uint64_t bytes;
	uid_t uid; /* whose reservation it is */
};

struct fs_user;
/* One user's holds of it. */
struct kv_hold {
	struct kv_hold *next;
	struct kv_lent *lent;
	struct fs_user *user; /* who is charged */
	uint32_t n;
};

/** kv_hold_take - one more; 0, -ENOMEM, or -EDQUOT he holds too much. */
int kv_hold_take(struct kv *kv, uid_t uid, struct kv_file *f,
		 struct kv_hold **hold);
/** kv_hold_lent - the same of a frame that is lent already. */
int kv_hold_lent(struct kv *kv, uid_t uid, struct kv_lent *lent,
		 struct kv_hold **hold);
/** kv_lent_put - one of lent->holds less, that its counter took for a while. */
void kv_lent_put(struct kv *kv, struct kv_lent *lent);
/** kv_hold_drop - one less; with the last the hold is gone. */
void kv_hold_drop(struct kv *kv, struct kv_hold *hold);
/** kv_lent_find - a frame by its number; NULL: it is not lent. */
struct kv_lent *kv_lent_find(struct kv *kv, uint32_t frame);

/* What is pinned through one open directory. */
struct kv_pins;
/** kv_pins_of - those of the directory that a call was given on. */
struct kv_pins **kv_pins_of(const struct call *c);
/** kv_pins_add - one pin more of this block; as kv_hold_take. */
int kv_pins_add(struct kv *kv, struct kv_pins **pins, uid_t uid,
		struct kv_file *f);
/** kv_pins_drop - one less; false: there is none. */
bool kv_pins_drop(struct kv *kv, struct kv_pins *pins, uint32_t frame,
		  uint32_t epoch);
/** kv_pins_reserve - lend a frame that was taken from the pool, bytes long;
 *  0, or as kv_hold_take: it is still the caller's. */
int kv_pins_reserve(struct kv *kv, struct kv_pins **pins, uid_t uid,
		    uint32_t frame, uint64_t bytes);
/** kv_pins_reserved - one that was reserved through it, or NULL. */
struct kv_lent *kv_pins_reserved(struct kv_pins *pins, uint32_t frame,
				 uint32_t epoch);
/** kv_pins_abort - end a reservation. taken: its frame is a block now, and
 *  only the directory held it. */
void kv_pins_abort(struct kv *kv, struct kv_pins *pins, struct kv_lent *lent,
		   bool taken);
void kv_pins_free(struct kv *kv, struct kv_pins *pins);

/** kv_lend_fini - the mount is gone, and nobody is left who could hold. */
void kv_lend_fini(struct kv *kv);

#endif

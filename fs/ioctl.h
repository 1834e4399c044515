/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_IOCTL_H
#define KVFS_FS_IOCTL_H

/*
 * The ioctls of <kvfs/ioctl.h>, as the daemon answers them.
 *
 *      ioctl.c        the table; what every request is checked for; VERSION
 *      ioctl_names.c  the names of a request, one after the other
 *      ioctl_find.c   EXISTS, MATCH     ioctl_locate.c  LOCATE, UNPIN
 *      ioctl_store.c  RESERVE, COMMIT, ABORT
 *      ioctl_use.c    TOUCH, EVICT      ioctl_prefetch.c  PREFETCH
 *      ioctl_buffer.c REGISTER, UNREGISTER; PUT    ioctl_get.h  GET
 *      ioctl_backing.c  BACKING, of a file of ckpt/
 *      ioctl_ring.c   RING, through which most of them can be given, too
 *
 * A handler gets a call whose value is the request: size bytes, of which the
 * head was checked, and at least as many as the table says; room is what the
 * answer may take. The bytes are a copy that nobody else writes to.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/pool.h"
#include "fs/call.h"
#include "fs/kv.h"
#include "fs/kv_match.h"
#include "fs/kvfs_ioctl.h"

struct kv_caller;

struct ioctl_command {
	unsigned cmd;  /* with the least room that it may name */
	uint32_t in;   /* the least bytes of a request */
	bool any_room; /* else exactly that of cmd */
	bool any_dir;  /* also outside kv/ */
	bool file;     /* on a file of ckpt/, and on nothing else */
	bool ring;     /* also through a ring */
	call_fn run;
};

/** ioctl_find - a command by its number, matched whole; NULL: it is none. */
const struct ioctl_command *ioctl_find(unsigned cmd);

/** ioctl_find_ring - one that may come through a ring; NULL: it is none. */
const struct ioctl_command *ioctl_find_ring(uint32_t number);

/**
 * ioctl_check - the head of a request
 * @in: n bytes: what the command's number says
 * @size: of the request, set on success
 *
 * Returns: 0, -EINVAL or -EPROTONOSUPPORT.
 */
int ioctl_check(const struct ioctl_command *ic, const void *in, size_t n,
		size_t *size);

/** ioctl_run - answer an ioctl on a directory; its number is c->flags.
 *  ioctl_run_file - on a file. */
void ioctl_run(struct call *c);
void ioctl_run_file(struct call *c);

/** ioctl_head - the head of an answer of so many bytes. */
static inline struct kvfs_ioc_head ioctl_head(size_t size)
{
	return (struct kvfs_ioc_head){(uint32_t)size, KVFS_IOC_ABI};
}

/* The names of a request: a cursor. */
struct ioctl_names {
	uint32_t left; /* names to come */
	uint8_t digest_bytes, suffix_bytes;
	const char *suffix, *at, *end;
	char name[256]; /* of a digest, until the next */
};

/**
 * ioctl_names_init - check the names of a request
 * @packed: what follows the command's struct; kept
 *
 * Returns: 0, or -EINVAL: they are not exactly n names that fit below a
 * directory of kv/.
 */
int ioctl_names_init(struct ioctl_names *names, const struct kvfs_ioc_names *in,
		     const void *packed, size_t n);
/**
 * ioctl_moves_init - check the moves and the names of a GET or PUT
 * @n: moves
 * @at: left bytes, what follows the command's struct; kept
 * @moves: set on success
 *
 * Returns: 0 or -EINVAL.
 */
int ioctl_moves_init(struct ioctl_names *names, const struct kvfs_ioc_names *in,
		     uint32_t n, const void *at, size_t left,
		     const struct kvfs_ioc_move **moves);
/** ioctl_move_fits - does it lie in a buffer of so many bytes? */
static inline bool ioctl_move_fits(const struct kvfs_ioc_move *move,
				   uint64_t length_bytes)
{
	return move->at <= length_bytes &&
	       move->length <= length_bytes - move->at;
}
/** ioctl_pins_take - n pins out of the left bytes at *at, which then begin
 *  behind them. Returns: them, or NULL: so many are not there. */
const struct kvfs_ioc_pin *ioctl_pins_take(const char **at, size_t *left,
					   uint32_t n);
/** ioctl_names_next - true while there is one; a digest's lies in `names`. */
bool ioctl_names_next(struct ioctl_names *names, struct kv_name *name);

/* Some of them at once. */
struct ioctl_some {
	struct kv_name names[KV_FIND_MAX];
	char text[KV_FIND_MAX][256]; /* of digests */
};

/** ioctl_names_some - the next names, for kv_find_some. Returns: how many; 0:
 *  there are no more. */
unsigned ioctl_names_some(struct ioctl_names *names, struct ioctl_some *some);

/* The names as kv_match wants them, with the text of digests. */
struct ioctl_text {
	struct kv_name *names;
	char *text;
	uint32_t n;
};

/** ioctl_text_init - all n of them. Returns: 0 or -ENOMEM; ioctl_text_fini
 *  also then. */
int ioctl_text_init(struct ioctl_text *t, struct ioctl_names *names,
		    uint32_t n);
void ioctl_text_fini(struct ioctl_text *t);
/** ioctl_dir_path - the directory of a call, "" of kv/ itself. Returns: its
 *  length, -ENOENT it went, -EINVAL with it a name is too long. */
int ioctl_dir_path(struct call *c, const struct ioctl_text *t,
		   char path[POOL_PATH_MAX + 1]);

/** ioctl_dirs_ask - see that this caller is judged by the directories of these
 *  names as other nodes have them now; waits a moment for Redis if need be. */
void ioctl_dirs_ask(struct call *c, const struct ioctl_names *names);

/* ioctl_locate.c */
/** ioctl_learn_names - ask Redis for all these names, so that what others hold
 *  is in the tree. Waits. Returns: 0 or -errno. */
int ioctl_learn_names(struct call *c, const struct kv_caller *who,
		      int64_t deadline, const struct ioctl_names *names);
void ioctl_do_locate(struct call *c);
void ioctl_do_unpin(struct call *c);

/* ioctl_store.c */
void ioctl_do_reserve(struct call *c);
void ioctl_do_commit(struct call *c);
void ioctl_do_abort(struct call *c);

/* The answer of a command that was given without waiting for it; err: there
 * is none. Owns the call. */
typedef void (*ioctl_done_fn)(struct call *c, int err, const void *answer,
			      size_t bytes);
/** ioctl_done - answers the kernel. */
void ioctl_done(struct call *c, int err, const void *answer, size_t bytes);

/** ioctl_get_start - a GET: c is kept (call_keep), who its caller with all
 *  groups, both taken. Waits for Redis; done runs here, or later on a worker.
 */
void ioctl_get_start(struct call *c, struct kv_caller *who, ioctl_done_fn done);
void ioctl_do_get(struct call *c);

/* ioctl_buffer.c */
void ioctl_do_register(struct call *c);
void ioctl_do_unregister(struct call *c);

/* ioctl_backing.c */
void ioctl_do_backing(struct call *c);

/* ioctl_ring.c */
void ioctl_do_ring(struct call *c);

/* ioctl_use.c: TOUCH, EVICT */
void ioctl_do_use(struct call *c);

/* ioctl_prefetch.c */
void ioctl_do_prefetch(struct call *c);

/* ioctl_find.c */
#define IOCTL_BITS_BYTES ((KVFS_IOC_NAMES_MAX + 7) / 8)
/** ioctl_reply_found - fill in what follows from found->n and the bits. */
void ioctl_reply_found(struct call *c, struct kvfs_ioc_found *found,
		       const struct kvfs_ioc_node *nodes, const uint8_t *bits);
void ioctl_do_exists(struct call *c);
void ioctl_do_match(struct call *c);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CKPT_LOG_H
#define KVFS_META_CKPT_LOG_H

/*
 * The ckpt tree on disk: a snapshot and the records that came after it.
 *
 *      ckpt.snap        the tree as of some seq S, or a little later
 *      ckpt.log.<B>     records B + 1 … of an older log, until the snapshot
 *                       that makes it superfluous is finished
 *      ckpt.log         records since
 *
 * Every file is a head {magic, tree id, base seq} and records {magic, length,
 * seq, XXH3 of it all} + payload. A payload is a list of changed keys with
 * their full new values; replaying one over a state that holds it already (a
 * snapshot is taken while the tree changes) changes nothing.
 *
 * A record that was torn by a crash at the very end is cut off. Damage with
 * good records behind it is no crash: the file is set aside as NAME.bad-<time>,
 * what stands before the damage is kept, and ckpt_log_damaged says so.
 *
 * Threads: any; the log's own lock is a leaf.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ckpt_log;

/* What a log tells of itself. */
struct ckpt_log_info {
	uint64_t tree;	    /* 0: there is none yet */
	uint64_t seq;	    /* newest record */
	uint64_t snap_seq;  /* the snapshot's; 0: none */
	uint64_t log_bytes; /* since the snapshot */
	uint64_t snap_bytes;
	bool damaged; /* records are missing that once were here */
};

/**
 * ckpt_log_open - read and verify what is there
 * @dir: the state directory; copied
 *
 * Returns: 0 (an empty or damaged log too), or -errno of a failed read.
 */
int ckpt_log_open(struct ckpt_log **log, const char *dir);
void ckpt_log_close(struct ckpt_log *log);

void ckpt_log_info(struct ckpt_log *log, struct ckpt_log_info *info);

/** ckpt_log_start - begin the log of a new tree; base: its seq until now. */
int ckpt_log_start(struct ckpt_log *log, uint64_t tree, uint64_t base);

/** ckpt_log_keep_old - other names for the files as they are, NAME.old-<time>:
 *  they are about to be replaced, and have what nobody else does. */
void ckpt_log_keep_old(struct ckpt_log *log);

/**
 * ckpt_log_seal, ckpt_log_unseal - the log is as it is, and is what others hear
 *
 * A record belongs to the epoch in which Redis was asked for it. A seal ends
 * the epoch: who is on the way with a record of it comes too late, also when
 * the log takes records again.
 */
void ckpt_log_seal(struct ckpt_log *log);
void ckpt_log_unseal(struct ckpt_log *log);
uint64_t ckpt_log_epoch(struct ckpt_log *log);

/** ckpt_log_append - write the next record with write(2).
 *  @epoch: as it was before Redis was asked
 *  Returns: 0 (a seq that is there already too), -ESTALE that epoch is over,
 *  -ESRCH records before it are missing, -EEXIST that seq holds another
 *  record, -EIO, -ENOSPC. */
int ckpt_log_append(struct ckpt_log *log, uint64_t epoch, uint64_t seq,
		    const void *payload, size_t payload_bytes);

/** ckpt_log_sum - what a record is compared by; 0: not among the newest. */
uint64_t ckpt_log_sum(struct ckpt_log *log, uint64_t seq);

/** ckpt_log_fdatasync - what was appended before this call is on the disk. */
int ckpt_log_fdatasync(struct ckpt_log *log);

/** ckpt_log_replay - every payload, oldest first; stops at fn's first error. */
int ckpt_log_replay(struct ckpt_log *log,
		    int (*fn)(void *arg, uint64_t seq, const void *payload,
			      size_t payload_bytes),
		    void *arg);

/*
 * A new snapshot: begin (a new ckpt.log starts), read the tree out of the
 * store page by page into add, commit. Only one at a time.
 */
struct ckpt_snap;

/** ckpt_snap_begin - of the tree as it is in the store
 *  @tree, @base: 0, 0: the log's own; else the log starts anew with them once
 *  the snapshot is committed, and what it had before is set aside. */
int ckpt_snap_begin(struct ckpt_snap **s, struct ckpt_log *log, uint64_t tree,
		    uint64_t base);
int ckpt_snap_add(struct ckpt_snap *s, const void *payload, size_t n);
int ckpt_snap_commit(struct ckpt_snap *s); /* frees s in any case */
void ckpt_snap_abort(struct ckpt_snap *s); /* NULL is fine */

#endif

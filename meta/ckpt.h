/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CKPT_H
#define KVFS_META_CKPT_H

/*
 * The ckpt tree. Every call is one script on the server, atomic there, and
 * one round trip. A mutation returns the records it left behind with their
 * sequence number; on a keeper (up to three nodes; this one where it is alone)
 * they are in ckpt.log before the call returns, so a Redis that is killed the
 * next moment loses nothing that was answered.
 *
 * Threads: any; each call may wait, at most until the deadline it is given
 * (monotonic ns, as of clock_now_ns; 0: the configured one from now).
 * Errors of every call: -EIO no answer in time or no Redis (one logged line
 * per outage), -EROFS the store is being reloaded (mutations only), and
 * those named with it. The caller (the kernel, by default_permissions) has
 * checked permissions.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meta/meta.h"

#define CKPT_ROOT_INO 1u
#define CKPT_NAME_MAX 255
#define CKPT_LINK_MAX 65000u
#define CKPT_XATTR_VALUE_MAX 65536u
#define CKPT_SHARDS_MAX 65536u /* of a file */

/* How many bytes a shard has: a power of 2, between these. */
#define CKPT_SHARD_LOG2 26u /* where nobody said otherwise: 64 MiB */
#define CKPT_SHARD_LOG2_MIN 20u
#define CKPT_SHARD_LOG2_MAX 28u

struct ckpt_attr {
	uint64_t ino;
	uint64_t version;    /* of the data; + 1 with every publish */
	uint64_t size_bytes; /* symlink: length of the target */
	uint64_t rdev;
	uint32_t mode; /* with the file type */
	uint32_t uid, gid;
	uint32_t nlink; /* a directory: 2 + subdirectories */
	int64_t atime_ns, mtime_ns, ctime_ns;
	uint64_t parent_ino; /* of a directory; 0 otherwise */
	uint32_t writer;     /* the incarnation that writes it; 0: nobody */
	uint32_t shard_log2; /* of the bytes of its shards, 0: the default; a
				new name takes its directory's, for good */
};

static inline bool ckpt_shard_log2_known(uint32_t log2)
{
	return !log2 ||
	       (log2 >= CKPT_SHARD_LOG2_MIN && log2 <= CKPT_SHARD_LOG2_MAX);
}

/** ckpt_shard_bytes - of a version; of one that would have too many, more. */
static inline uint64_t ckpt_shard_bytes(const struct ckpt_attr *a)
{
	uint64_t bytes = UINT64_C(1)
			 << (a->shard_log2 ? a->shard_log2 : CKPT_SHARD_LOG2);

	while (a->size_bytes / bytes >= CKPT_SHARDS_MAX)
		bytes *= 2;
	return bytes;
}

/** ckpt_shards - how many shards a version has. */
static inline uint32_t ckpt_shards(const struct ckpt_attr *a)
{
	uint64_t bytes = ckpt_shard_bytes(a);

	return (uint32_t)((a->size_bytes + bytes - 1) / bytes);
}

int ckpt_lookup(struct meta *m, int64_t deadline, uint64_t parent,
		const char *name, struct ckpt_attr *a); /* -ENOENT -ENOTDIR */
int ckpt_getattr(struct meta *m, int64_t deadline, uint64_t ino,
		 struct ckpt_attr *a); /* -ESTALE: gone */

#define CKPT_SET_MODE 1u
#define CKPT_SET_UID 2u
#define CKPT_SET_GID 4u
#define CKPT_SET_SIZE 8u
#define CKPT_SET_ATIME 16u
#define CKPT_SET_MTIME 32u
#define CKPT_SET_CTIME 64u
#define CKPT_SET_SHARD 128u

/** ckpt_setattr - store the fields that mask names; a is filled anew. */
int ckpt_setattr(struct meta *m, int64_t deadline, uint64_t ino, unsigned mask,
		 const struct ckpt_attr *set, struct ckpt_attr *a);

/**
 * ckpt_create - a new file, directory, symlink, fifo, socket or device
 * @set: mode (with type), uid, gid, rdev, the three times
 * @target: of a symlink, else NULL
 *
 * A set-gid parent gives its group, and a directory below it set-gid.
 * Returns: 0, -EEXIST, -ENOENT (the parent is gone), -ENOTDIR, -EMLINK.
 */
int ckpt_create(struct meta *m, int64_t deadline, uint64_t parent,
		const char *name, const struct ckpt_attr *set,
		const char *target, struct ckpt_attr *a);

/** ckpt_link - another name for a file; -EEXIST -EMLINK -EPERM (directory). */
int ckpt_link(struct meta *m, int64_t deadline, uint64_t ino, uint64_t parent,
	      const char *name, int64_t now_ns, struct ckpt_attr *a);

/* What a removal or a rename left of the inode whose name went away. */
struct ckpt_gone {
	uint64_t ino; /* 0: no name went away */
	uint32_t nlink;
	uint32_t mode;
	bool freed; /* no name and no opener is left: the record is gone,
		       its data may go */
};

/**
 * ckpt_unlink - remove a file's name
 * @keep_open: this node has it open: keep the record (o<ino>) until
 *             ckpt_release
 *
 * Returns: 0, -ENOENT, -EISDIR.
 */
int ckpt_unlink(struct meta *m, int64_t deadline, uint64_t parent,
		const char *name, bool (*keep_open)(void *ctx, uint64_t ino),
		void *ctx, int64_t now_ns, struct ckpt_gone *gone);

/** ckpt_rmdir - -ENOENT -ENOTDIR -ENOTEMPTY */
int ckpt_rmdir(struct meta *m, int64_t deadline, uint64_t parent,
	       const char *name, int64_t now_ns, struct ckpt_gone *gone);

/**
 * ckpt_rename - rename(2), with RENAME_NOREPLACE or RENAME_EXCHANGE
 *
 * Returns: 0, -ENOENT -EEXIST -ENOTDIR -EISDIR -ENOTEMPTY -EMLINK,
 *          -EINVAL a directory under itself. Two names of one inode: 0 and
 *          nothing changes. gone tells of what the new name was before.
 */
int ckpt_rename(struct meta *m, int64_t deadline, uint64_t parent,
		const char *name, uint64_t new_parent, const char *new_name,
		unsigned flags, bool (*keep_open)(void *ctx, uint64_t ino),
		void *ctx, int64_t now_ns, struct ckpt_gone *gone);

/** ckpt_release - the last opener of an unlinked file is gone. */
int ckpt_release(struct meta *m, int64_t deadline, uint64_t ino);

/** ckpt_readlink - target is 0-terminated; -EINVAL not a symlink. */
int ckpt_readlink(struct meta *m, int64_t deadline, uint64_t ino, char *target,
		  size_t target_bytes);

/**
 * ckpt_readdir - names of a directory, with their attributes
 * @cursor: 0 starts; afterwards as left by the last call
 * @fn: once per entry, any order; a large directory comes in several calls.
 *      An entry that exists throughout is given at least once.
 *
 * Returns: 1 there is more, 0 that was the last, -ENOTDIR, -ESTALE.
 */
int ckpt_readdir(struct meta *m, int64_t deadline, uint64_t ino,
		 uint64_t *cursor,
		 void (*fn)(void *arg, const char *name,
			    const struct ckpt_attr *a),
		 void *arg);

/**
 * ckpt_open_write - become the file's writer node
 *
 * Returns: 0 with attributes, -EBUSY another node writes it (after the
 *          deadline), -ESTALE.
 */
int ckpt_open_write(struct meta *m, int64_t deadline, uint64_t ino,
		    struct ckpt_attr *a);

/**
 * ckpt_publish - close-to-open: what the writer has written is now the file
 * @set: size, mtime, ctime, with mask as in ckpt_setattr
 * @last: also stop being its writer node
 *
 * version goes up by 1, unless mask is 0 with last: nothing was written, only
 * the claim is given up. Returns: 0 with attributes, -ESTALE.
 */
int ckpt_publish(struct meta *m, int64_t deadline, uint64_t ino, unsigned mask,
		 const struct ckpt_attr *set, bool last, struct ckpt_attr *a);

/* --- who has which shards ---------------------------------------------- */

#define CKPT_SHARDS_BYTES_MAX (CKPT_SHARDS_MAX / 8)

struct meta_ckpt_ops {
	/**
	 * shards - which shards of this file are here and verified?
	 * @version: set to the version that they are of
	 * @bits: room for CKPT_SHARDS_BYTES_MAX; shard i is bit i % 8 of byte
	 *        i / 8
	 *
	 * Returns: bytes written, 0: none are here (any more). On a thread of
	 * meta's; must not wait for Redis.
	 */
	size_t (*shards)(void *ctx, uint64_t ino, uint64_t *version,
			 uint8_t *bits);
	/** shards_each - call fn for every file of which any shard is here */
	void (*shards_each)(void *ctx, void (*fn)(void *arg, uint64_t ino),
			    void *arg);
};

/**
 * ckpt_shards_dirty - the shards of this file that are here changed
 *
 * State, not a queue, as with kv.h: at most once a second ops->shards is
 * asked and Redis told. No wait. Threads: any.
 */
void ckpt_shards_dirty(struct meta *m, uint64_t ino);

struct ckpt_holder {
	uint32_t incarnation;
	bool whole;	     /* all of the file: the writer that published it */
	const uint8_t *bits; /* as above; NULL if whole */
	size_t n_bytes;
};

/**
 * ckpt_holders - the live nodes that have shards of (ino, version)
 * @fn: this node is told of, too; bits are good during the call
 *
 * ckpt_publish makes its caller the holder of the whole new version,
 * ckpt_open_write takes this node's entry away before it returns.
 * Returns: 0, -ESTALE (no such inode, or another version).
 */
int ckpt_holders(struct meta *m, int64_t deadline, uint64_t ino,
		 uint64_t version,
		 void (*fn)(void *arg, const struct ckpt_holder *h), void *arg);

/* --- locks ------------------------------------------------------------- */

enum ckpt_lock_kind {
	CKPT_LOCK_POSIX, /* fcntl(2): byte ranges */
	CKPT_LOCK_FLOCK, /* flock(2): whole, apart from the former */
};

struct ckpt_lock {
	enum ckpt_lock_kind kind;
	int type;	     /* F_RDLCK, F_WRLCK, F_UNLCK */
	uint64_t owner;	     /* as FUSE tells it apart on this node */
	uint64_t start, end; /* the last byte, included; a FLOCK: 0 and
				CKPT_LOCK_END */
	uint32_t pid;
	uint32_t incarnation; /* whose node, when one is reported */
	uint64_t handle;      /* the open file that it is taken through */
	bool leaves_late;     /* only ckpt_lock_close tells of its end, a moment
				 after the caller's close(2) */
};
#define CKPT_LOCK_END INT64_MAX
#define CKPT_LOCKS_MAX 4096u /* ranges of a file; past it -ENOLCK */

/**
 * ckpt_lock_set - take, change or release a lock, without waiting for others
 *
 * The locks of a dead node are gone. A node that was taken for dead and goes
 * on under another incarnation, or with another store, has lost those it had:
 * whoever held one is told by -EIO, until he releases it or closes.
 *
 * Returns: 0, -EAGAIN another one is in the way, -ENOLCK, -ESTALE, -EIO.
 */
int ckpt_lock_set(struct meta *m, int64_t deadline, uint64_t ino,
		  const struct ckpt_lock *lock);

/** ckpt_lock_get - the first lock in the way; lock->type F_UNLCK: none. */
int ckpt_lock_get(struct meta *m, int64_t deadline, uint64_t ino,
		  struct ckpt_lock *lock);

/** ckpt_lock_leaving - may what is in this owner's way on this file be a lock
 *  of ours whose file was closed a moment ago? No round trip. */
bool ckpt_lock_leaving(struct meta *m, uint64_t ino, uint64_t owner);

/**
 * ckpt_lock_drop, ckpt_lock_close - the end of all that an owner has on this
 *                                   file; of all that came through a handle
 *
 * No round trip where there never was any. What Redis cannot be told now it is
 * told later, before that owner has a lock again.
 * Returns: whether there was any.
 */
bool ckpt_lock_drop(struct meta *m, int64_t deadline, uint64_t ino,
		    uint64_t owner);
bool ckpt_lock_close(struct meta *m, int64_t deadline, uint64_t ino,
		     uint64_t handle);

/** ckpt_lock_has - did a lock of this file come through this handle? No round
 *  trip. */
bool ckpt_lock_has(struct meta *m, uint64_t ino, uint64_t handle);

/* --- checksums --------------------------------------------------------- */

/** ckpt_set_checksums - XXH3-128 of each shard of (ino, version): 16 bytes
 *  each, low half first, little-endian. Dropped if the version moved on, or
 *  has any. */
int ckpt_set_checksums(struct meta *m, int64_t deadline, uint64_t ino,
		       uint64_t version, const void *sums, uint32_t n_shards);

/** ckpt_get_checksums - returns the number of shards, 0 not taken yet. */
int ckpt_get_checksums(struct meta *m, int64_t deadline, uint64_t ino,
		       uint64_t version, void *sums, uint32_t max_shards);

/** ckpt_xattr_set - flags as setxattr(2); -EEXIST -ENODATA -E2BIG -ENOSPC. */
int ckpt_xattr_set(struct meta *m, int64_t deadline, uint64_t ino,
		   const char *name, const void *value, size_t value_bytes,
		   int flags, int64_t now_ns);

/** ckpt_xattr_get - returns the length; -ENODATA, -ERANGE (size > 0, short) */
int ckpt_xattr_get(struct meta *m, int64_t deadline, uint64_t ino,
		   const char *name, void *value, size_t value_bytes);

/** ckpt_xattr_list - names, each 0-terminated; returns the length, -ERANGE. */
int ckpt_xattr_list(struct meta *m, int64_t deadline, uint64_t ino, char *names,
		    size_t names_bytes);

/** ckpt_xattr_remove - -ENODATA */
int ckpt_xattr_remove(struct meta *m, int64_t deadline, uint64_t ino,
		      const char *name, int64_t now_ns);

/**
 * ckpt_replicated - wait until meta-replicas replicas of Redis have it all
 *
 * All: what this node was answered before the call.
 * Returns: 0 (at once without meta-replicas), or -EIO at the deadline.
 */
int ckpt_replicated(struct meta *m, int64_t deadline);

/** ckpt_log_sync - fdatasync of ckpt.log: for fsync(2) on the mount. */
int ckpt_log_sync(struct meta *m);

/** ckpt_each_ino - every inode that exists, at mount: which data to keep. */
int ckpt_each_ino(struct meta *m, void (*fn)(void *arg, uint64_t ino),
		  void *arg);

#endif

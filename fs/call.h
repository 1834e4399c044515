/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CALL_H
#define KVFS_FS_CALL_H

/*
 * One request of the kernel, and the views that answer them.
 *
 * dispatch.c turns every libfuse callback into a struct call and hands it to
 * the view that its inode belongs to: the root and .kvfs (ctl), kv or ckpt. A
 * view whose operation may wait (Redis) is marked so; its calls are copied
 * and run on a worker thread, so that the thread that reads from the kernel
 * never waits. A handler answers each call exactly once, by one call_reply_*.
 *
 * Never answer while holding a lock that a handler takes: with FUSE over
 * io_uring the answer takes the queue's lock, which the queue's thread holds
 * while it runs handlers.
 */

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 318
#endif
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/workers.h"

struct fs;
struct call;
struct view;
struct kv_caller;

/*
 * The head of every view's inode; its address is the FUSE node id. The kernel
 * holds nlookup references, given by call_reply_entry/create and direntplus,
 * taken back by view->forget.
 */
struct inode {
	uint32_t magic; /* INODE_MAGIC while alive */
	const struct view *view;
};
#define INODE_MAGIC 0x6b76696eu /* "kvin" */

typedef void (*call_fn)(struct call *c);
/* Gets the answer of a call that is not the kernel's; err: there is none. */
typedef void (*call_answer_fn)(struct call *c, int err, const void *answer,
			       size_t size);

/* What getlk and setlk ask for; whose it is, is fi.lock_owner. */
struct call_lock {
	bool flock;	     /* flock(2); else fcntl(2) */
	bool wait;	     /* for whoever is in the way */
	short type;	     /* F_RDLCK, F_WRLCK, F_UNLCK */
	uint64_t start, end; /* the last byte, included */
	pid_t pid;
	int cpu;		 /* on which it arrived */
	struct lock_wait *waits; /* locks.c: it is parked */
};

struct call {
	struct fs *fs;
	fuse_req_t req;		 /* NULL: it came through a ring */
	struct inode *inode;	 /* what is operated on; a parent directory */
	struct inode *new_inode; /* rename, link: the new parent */
	const char *name, *new_name; /* entry, xattr, symlink target */
	const void *value;	     /* setxattr's; write's payload */
	size_t room;		     /* ioctl: bytes that the answer may have */
	size_t size;  /* of value; wanted by read, readdir, get/listxattr */
	off_t off;    /* read, write, readdir, fallocate */
	off_t length; /* fallocate */
	mode_t mode;  /* create, mkdir, mknod (umask applied); fallocate */
	dev_t rdev;
	unsigned flags;	  /* rename, setxattr; fsync: datasync; lseek: whence;
			     ioctl: its number */
	bool plus;	  /* readdir: with attributes */
	bool has_fi;	  /* fi is the kernel's */
	struct stat attr; /* setattr */
	int to_set;
	struct call_lock lock;
	struct fuse_file_info fi;
	uid_t uid; /* the caller */
	gid_t gid;
	pid_t pid;
	int64_t start_ns; /* arrival, monotonic */
	int64_t deadline; /* arrival + the mount's deadline */

	/* Of an ioctl that came through a ring (ring.h), not by the kernel: */
	call_answer_fn answer; /* NULL: the kernel gets it */
	void *owner;	       /* of answer */
	const struct kv_caller *who;

	void *arg;	/* of a handler that keeps the call */
	struct job job; /* dispatch.c: while on a worker */
	call_fn fn;
	bool heap; /* call_reply_* frees it */
};

/*
 * What a view does. NULL: answered ENOSYS (flush, fsync: 0; lookups and
 * creations in what is no directory never come here). `waits` names the
 * operations that run on a worker.
 */
struct view {
	const char *name;
	call_fn lookup, getattr, setattr, readlink, mknod, mkdir, symlink;
	call_fn unlink, rmdir, rename, link;
	call_fn open, create, read, write, flush, release, fsync;
	call_fn opendir, readdir, releasedir, statfs, fallocate;
	call_fn setxattr, getxattr, listxattr, removexattr, lseek;
	call_fn getlk, setlk;
	void (*forget)(struct fs *fs, struct inode *inode, uint64_t nlookup);
	bool waits; /* all but read, write, release, readdir of open handles,
		       statfs: those run where they arrive */
};

/* Answers. Each ends the call: `c` and its strings are gone afterwards. */
void call_reply_err(struct call *c, int err); /* err >= 0, or -errno */
void call_reply_entry(struct call *c, const struct fuse_entry_param *e);
void call_reply_create(struct call *c, const struct fuse_entry_param *e,
		       const struct fuse_file_info *fi);
void call_reply_attr(struct call *c, const struct stat *st, double timeout);
void call_reply_open(struct call *c, const struct fuse_file_info *fi);
void call_reply_buf(struct call *c, const void *buf, size_t size);
void call_reply_lock(struct call *c, const struct flock *lock);
void call_reply_lseek(struct call *c, off_t off);
void call_reply_ioctl(struct call *c, const void *buf, size_t size);
void call_reply_written(struct call *c, size_t size);
void call_reply_readlink(struct call *c, const char *target);
void call_reply_statfs(struct call *c, const struct statvfs *st);
/** xattr values and lists: honours c->size (0: how long; too small: ERANGE) */
void call_reply_xattr(struct call *c, const void *value, size_t size);

/** call_keep - the call with all that it points to, on the heap; NULL: no
 *  memory, and c is still to be answered. Such a call is answered through the
 *  gate: never from inside the handler that kept it, whose thread may hold
 *  libfuse's lock. call_defer takes it elsewhere. */
struct call *call_keep(struct call *c);

/**
 * call_defer - go on with this call on a worker thread
 * @fn: runs there with a copy of *c; the caller returns at once
 */
void call_defer(struct call *c, call_fn fn);

/** inode_fuse - the node id of an inode; inode_of the way back. */
fuse_ino_t inode_fuse(const struct fs *fs, const struct inode *inode);
struct inode *inode_of(const struct fs *fs, fuse_ino_t id);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_BUFFERS_H
#define KVFS_FS_BUFFERS_H

/*
 * Buffers of clients that GET and PUT move data to and from.
 *
 *      open directory ──▶ buffer ◀── a GET or PUT under way
 *                           │
 *                           └─▶ the mapping, and the engine's region over it
 *
 * A buffer is a part of a memfd that the client passed by number; it is mapped
 * here, and its descriptor closed at once. It lives until the directory is
 * closed or UNREGISTER, and longer only where the engine may still write to
 * it.
 *
 * Or it is a part of a dma-buf, memory of a GPU, registered with a card of this
 * machine (engine/dmabuf.h), which alone reaches it: there is no address, and
 * no region, so that nothing comes there but out of a block of this node.
 *
 * The memfd cannot shrink (F_SEAL_SHRINK), but its owner can punch holes, and
 * there may be no memory to fill them again. So the mapping is touched by
 * system calls, for which that is an EFAULT, and by sigbus_try.
 *
 * One lock, struct buffers', a leaf.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "base/workers.h"
#include "engine/dmabuf.h"
#include "fs/kvfs_ioctl.h"

struct buffers;
struct call;
struct fs;

#define BUFFERS_MAX 4096u /* of all users */
#define BUFFERS_USER_MAX 1024u

struct buffer {
	struct buffers *all;
	struct list *owner; /* NULL: it has gone */
	struct list of_owner;
	struct fs_user *user;
	struct kvfs_ioc_buffer name;
	uint32_t refs; /* the owner's, and what moves */
	bool writable;
	char *addr; /* of what was registered; or: */
	struct dmabuf *dmabuf;
	uint64_t length_bytes;
	void *map;
	uint64_t map_bytes; /* what is charged: whole pages */
	uint64_t region;    /* of the engine; 0: there is none */
	struct job job;	    /* the end of a dmabuf */
};

int buffers_open(struct buffers **all, struct fs *fs); /* 0 or -errno */
/** buffers_close - nothing moves any more, and the engine is gone. */
void buffers_close(struct buffers *all);

/**
 * buffer_add - register a part of a memfd or dma-buf
 * @owner: buffers of one open directory
 * @fd: any descriptor; stays the caller's
 * @deadline: for filling its holes
 * @name: set on success
 *
 * Returns: 0, or -errno as KVFS_IOC_REGISTER has them; -EINVAL, -EOPNOTSUPP
 *          and -EACCES before anything was asked of the file but its seals.
 * Threads: any; waits for memory.
 */
int buffer_add(struct buffers *all, struct list *owner, uid_t uid, int fd,
	       const struct kvfs_ioc_register *in, int64_t deadline,
	       struct kvfs_ioc_registered *out);
/** buffer_remove - 0, -EBADF not the owner's, -EBUSY it is in use. */
int buffer_remove(struct buffers *all, struct list *owner,
		  struct kvfs_ioc_buffer name);
/** buffer_get - in use from now on; NULL: not the owner's. buffer_put. */
struct buffer *buffer_get(struct buffers *all, struct list *owner,
			  struct kvfs_ioc_buffer name);
void buffer_put(struct buffer *b);
/** buffer_copy - dmabuf_copy of one that has a dmabuf, counted. */
int buffer_copy(struct buffer *b, uint64_t at, enum dmabuf_way way, int fd,
		uint64_t offset, uint64_t length_bytes);
/** kv_buffers_of - those of the directory that a call was given on. */
struct list *kv_buffers_of(const struct call *c);
/** buffers_release - the owner goes. */
void buffers_release(struct buffers *all, struct list *owner);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_GDS_INTERNAL_H
#define KVFS_GDS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fs/kvfs_ioctl.h"
#include "gds/cuda.h"
#include "gds/cufile.h"
#include "gds/kvfs.h"

/*
 * libkvfs over the ioctls:
 *
 *      open.c     a directory, and what its daemon can do
 *      names.c    the names that fit into one request
 *      find.c     EXISTS, MATCH, TOUCH, EVICT, PREFETCH
 *      get.c      LOCATE and UNPIN: blocks in place
 *      maps.c     the frames that are mapped
 *      frame.c    RESERVE, COMMIT and ABORT: blocks written in place
 *      buffer.c   REGISTER: memory of the caller's own
 *      move.c     GET and PUT: to it and from it
 *      ring.c     the same without system calls (ring.h, ring_*.c)
 *      stage.c    memory of a GPU: as such, or by way of the host's
 *      file.c     files of ckpt/ into a buffer: by cuFile, or likewise
 *      cuda.h     what is used of CUDA     cufile.h  and of cuFile
 *      chain.c    names of blocks; needs no mount
 *      error.c    what went wrong, in words
 */

/* A frame of the pool, as it is since a block became its owner. */
struct gds_map {
	struct gds_map *next; /* of its bucket */
	uint32_t frame, epoch;
	bool pinned;	/* for a GPU */
	uint32_t users; /* blocks that the caller has of it */
	uint64_t used;	/* when the last one was given back: maps.clock */
	void *addr;
	size_t bytes;
};

#define GDS_BUCKETS 256 /* by frame */

struct gds_maps {
	pthread_mutex_t lock; /* guards all below */
	int frames_fd; /* .kvfs/frames of the mount; -1: not yet opened */
	struct gds_map *buckets[GDS_BUCKETS];
	uint64_t clock;
	size_t idle_bytes;	    /* of those without users */
	const struct gds_cuda *pin; /* new ones are pinned for a GPU; or NULL */
};

struct gds_gpu {
	pthread_mutex_t lock; /* guards all below; held over staged calls */
	struct gds_cuda cuda;
	struct gds_cufile cufile;
	struct kvfs_buffer *ring; /* of staged buffers */
	uint32_t n_staged;	  /* who use it: those, and files */
	bool pinned;		  /* the ring */
};

struct kvfs {
	int dir_fd;
	struct gds_maps maps;
	struct gds_gpu gpu;
};

struct kvfs_buffer {
	struct kvfs *k;
	struct kvfs_ioc_buffer name;
	uint64_t bytes;
	void *map; /* made by us; or NULL */
	size_t map_bytes;
	bool writable;	 /* by the daemon */
	bool registered; /* the daemon knows it */
	bool is_gpu;
	atomic_bool staged;	      /* never undone */
	bool asked_cufile, of_cufile; /* whether it pins it; it does */
	struct gds_gpu_memory gpu;
};

/** gds_register - a part of this descriptor is the buffer; 0 or -errno. */
int gds_register(struct kvfs_buffer *b, int fd, uint64_t offset,
		 uint64_t length);
int gds_unregister(struct kvfs_buffer *b);

/** gds_read_some - one GET of at most n names from the first on, none of a
 *  staged buffer. Returns: how many were asked for, or -errno. */
int gds_read_some(struct kvfs *k, const struct kvfs_names *names,
		  uint32_t first, uint32_t n, uint32_t flags,
		  uint32_t deadline_ms, struct kvfs_move *moves);
/** gds_store_some - one PUT, likewise; the first name's is moves[0]. */
int gds_store_some(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t first, uint32_t n, uint32_t flags, uint32_t mode,
		   struct kvfs_move *moves);

/** gds_moves_begin - nothing has come of them yet. Returns: 0, or -EINVAL a
 *  buffer of another handle, or none. */
int gds_moves_begin(const struct kvfs *k, struct kvfs_move *moves, uint32_t n);
/** gds_moves_put - as a request has them. Returns: the end. */
char *gds_moves_put(char *to, const struct kvfs_move *moves, uint32_t n);
/** gds_move_got, gds_move_stored - what the daemon said of one. */
void gds_move_got(struct kvfs_move *to, const struct kvfs_ioc_moved *from);
void gds_move_stored(struct kvfs_move *to, const struct kvfs_ioc_stored *from);

/** gds_holders_take - from the answer of MATCH; room of them at most. Returns:
 *  how many. */
uint32_t gds_holders_take(const struct kvfs_ioc_found *from,
			  struct kvfs_holder *holders, uint32_t room);
/* A node a holder of the first name, and ourselves. */
#define GDS_NODES_MAX 17

/** gds_frames_begin - they are not reserved yet. */
void gds_frames_begin(struct kvfs_frame *frames, uint32_t n, uint64_t bytes);
/** gds_frames_take - these were reserved, and are mapped. Returns: 0 or -errno
 *  of open(2), mmap(2): some are. */
int gds_frames_take(struct kvfs *k, const struct kvfs_ioc_pin *pins, uint32_t n,
		    struct kvfs_frame *frames);
#define GDS_COMMIT_FLAGS (KVFS_SYNC | KVFS_PARENT | KVFS_KEEP)
/** gds_frames_check - nothing has come of them yet. Returns: 0, or -EINVAL one
 *  has ended, or is shorter than its block. */
int gds_frames_check(struct kvfs_frame *frames, uint32_t n);
/** gds_frames_settle - all bytes are where the daemon finds them; without
 *  KVFS_KEEP they are unmapped. Returns: 0 or -errno. */
int gds_frames_settle(struct kvfs *k, struct kvfs_frame *frames, uint32_t n,
		      uint32_t flags);
/** gds_frames_put - as a COMMIT has them. Returns: the end. */
char *gds_frames_put(char *to, const struct kvfs_frame *frames, uint32_t n);
/** gds_frame_stored - what the daemon said of one. */
void gds_frame_stored(struct kvfs_frame *to,
		      const struct kvfs_ioc_stored *from);
/** gds_frames_unmap - and as an ABORT has them: those that have not ended.
 *  Returns: how many pins. */
uint32_t gds_frames_unmap(struct kvfs_frame *frames, uint32_t n,
			  struct kvfs_ioc_pin *pins);
/** gds_commit_flags - of the ioctl, for those of kvfs_commit but the parent. */
uint32_t gds_commit_flags(uint32_t flags);

/** gds_stage_read, gds_stage_store - all n of them, of staged buffers; n, or
 *  -errno of the call that failed. */
int gds_stage_read(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t first, uint32_t n, uint32_t flags,
		   uint32_t deadline_ms, struct kvfs_move *moves);
int gds_stage_store(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t first, uint32_t n, uint32_t flags, uint32_t mode,
		    struct kvfs_move *moves);
/** gds_stage_lost - where the card of a buffer was lost, it is staged from now
 *  on. *first: the first of the n moves to look at; then of those that failed
 *  so. Returns: how many follow each other, to be done again; 0: no more. */
uint32_t gds_stage_lost(struct kvfs *k, struct kvfs_move *moves, uint32_t n,
			uint32_t *first);
/** gds_ring_get - the ring is there until gds_ring_put; gpu.lock held. 0 or
 *  -errno. */
int gds_ring_get(struct kvfs *k);
void gds_ring_put(struct kvfs *k);
#define GDS_RING_HALF ((uint64_t)16 << 20) /* what comes straight fits */
char *gds_ring_half(const struct kvfs *k, unsigned half);
void gds_gpu_close(struct kvfs_buffer *b);
void gds_gpu_init(struct gds_gpu *g);
void gds_gpu_fini(struct gds_gpu *g);

/** gds_ioctl - one ioctl; 0 or -errno. A signal does not end it. */
int gds_ioctl(int fd, unsigned long cmd, void *buffer);
/** gds_call - the same on the handle's directory. */
int gds_call(const struct kvfs *k, unsigned long cmd, void *buffer);

/**
 * gds_names_pack - as many of the names from @first on as fit
 * @names:  of the caller
 * @first:  below names->n
 * @most:   no more than so many
 * @head:   the request's, filled in
 * @packed: what follows the command's struct
 * @room:   bytes there
 * @bytes:  so many were used
 *
 * Returns: how many names, at least 1; -EINVAL one that no request takes.
 */
int gds_names_pack(const struct kvfs_names *names, uint32_t first,
		   uint32_t most, struct kvfs_ioc_names *head, void *packed,
		   size_t room, size_t *bytes);

/** gds_names_pack_all - all of them, or none. Returns: 0, -E2BIG there is not
 *  so much room, or more than a request takes; -EINVAL. */
int gds_names_pack_all(const struct kvfs_names *names,
		       struct kvfs_ioc_names *head, void *packed, size_t room,
		       size_t *bytes);

/* Names, and an entry for each but the first few of them. */
struct gds_packed {
	struct kvfs_ioc_names head;
	uint32_t n; /* entries */
	size_t bytes;
	char names[KVFS_IOC_ROOM_MAX - sizeof(struct kvfs_ioc_commit)];
};

/**
 * gds_names_fit - as many of them as fit, together with what belongs to each
 * @first: below names->n
 * @extra: so many of them have no entry
 * @most:  no more than so many entries
 * @each:  bytes of an entry
 *
 * Returns: 0, or -EINVAL one that no request takes.
 */
int gds_names_fit(const struct kvfs_names *names, uint32_t first,
		  uint32_t extra, uint32_t most, size_t each,
		  struct gds_packed *p);

/**
 * gds_map_get - the bytes of a pinned frame, mapped at the first time
 * @k:     the handle
 * @block: what LOCATE said of it
 * @data:  its bytes, set only on success; gds_map_put gives them back
 *
 * Returns: 0, or -errno of open(2), mmap(2), read(2).
 */
int gds_map_get(struct kvfs *k, const struct kvfs_ioc_block *block,
		const void **data);
void gds_map_put(struct kvfs *k, uint32_t frame, uint32_t epoch);

/** gds_block_take - what LOCATE with these flags said of a block, mapped.
 *  Returns: is it there? If not it is not pinned, either. */
int gds_block_take(struct kvfs *k, const struct kvfs_ioc_block *from,
		   uint32_t flags, struct kvfs_block *to);

/**
 * gds_map_new - a frame that was reserved, to be written
 * @data: bytes long; unmapped by the caller
 * @copy: set to 1 where the kernel does not map it: the bytes are nobody
 *        else's, gds_map_write brings them there
 *
 * Returns: 0, or -errno of open(2), mmap(2).
 */
int gds_map_new(struct kvfs *k, uint32_t frame, size_t bytes, void **data,
		uint32_t *copy);
int gds_map_write(struct kvfs *k, uint32_t frame, const void *data,
		  size_t bytes);

/** gds_maps_drop_idle - unmap those without users. Returns: were there any?
 *  The daemon may hear of it up to GDS_LATE_US later. */
bool gds_maps_drop_idle(struct kvfs *k);
#define GDS_LATE_US 16000

void gds_maps_init(struct gds_maps *m);
void gds_maps_fini(struct kvfs *k);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_POOL_H
#define KVFS_ENGINE_POOL_H

/*
 * The pool: memory as frames, and the index that lets a restarted daemon
 * adopt them.
 *
 * A frame is one file of a private tmpfs (`frames/NNNNNNNN` under the pool's
 * directory). Its *file* is recycled, with the FUSE backing id that the kernel
 * has for it; its *pages* are given back and preallocated anew between two
 * owners, so any frame can serve any size and no old byte survives. The life
 * of a frame:
 *
 *      FREE ──prepare──▶ READY ──take──▶ WRITING ──commit──▶ COMMITTED
 *        ▲                                  │                    │
 *        └────────── recycle ◀──────────── put ◀─────────────────┘
 *                       │  ▲ probe granted
 *                       ▼  │
 *                     ASIDE   (somebody still maps or writes it: counted as
 *                              used, probed again, never handed out)
 *
 * READY frames are empty files (i_size 0) with pages preallocated beyond the
 * end (FALLOC_FL_KEEP_SIZE): a write into one allocates nothing.
 *
 * The index is one mapped file of fixed records beside the frames. A record's
 * `state` is stored last on commit and first on release, so a daemon killed
 * between two instructions leaves a frame that is committed whole or not at
 * all. Everything read back from it at start is checked.
 *
 * Capacity: `bytes` of the configuration is what blocks may take; the tmpfs
 * is larger by a reserve (5 %, at least 32 MiB, and the index) that holds
 * READY frames and writes which outgrow their preallocation.
 */

#include <stdbool.h>
#include <stdint.h>

#define POOL_PATH_MAX 895 /* bytes of a block's name "NAMESPACE/path" */
#define POOL_NO_FRAME UINT32_MAX

struct pool;

/* One block as the index keeps it. Mapped and shared: survives the daemon. */
struct pool_record {
	uint32_t state;
	uint32_t epoch; /* counts the owners of this frame's slot */
	uint64_t size_bytes;
	uint64_t alloc_bytes; /* st_blocks * 512 at commit */
	uint64_t generation;  /* of the name, as published; 0: not yet */
	uint64_t checksum[2]; /* XXH3-128: low, high; see POOL_HAS_CHECKSUM */
	uint32_t flags;
	uint32_t mode;
	uint32_t uid, gid;
	int64_t atime_ns, mtime_ns, ctime_ns;
	uint64_t last_use; /* the caller's: when, kept for restarts */
	uint32_t hits;
	uint32_t parent_frame; /* chain: POOL_NO_FRAME or the parent's frame */
	uint32_t parent_epoch;
	uint16_t path_len;
	uint16_t reserved;
	uint64_t seal; /* XXH3-64 over what never changes after commit */
	char path[POOL_PATH_MAX + 1];
};

#define POOL_HAS_CHECKSUM 1u
/* The frame's file has extended attributes: kept by pool_commit, removed when
 * the frame is recycled. */
#define POOL_HAS_XATTR 2u
/* Fetched from another node: goes before what was stored here. */
#define POOL_IS_COPY 4u
/* A user wants it to stay: never evicted. */
#define POOL_IS_PINNED 8u
/* The last copy that another node had: kept by the age that it had there. */
#define POOL_IS_MOVED 16u

struct pool_ops {
	/**
	 * bind - make a frame's file known to the kernel (BACKING_OPEN)
	 * @fd: O_PATH descriptor of the frame's file, closed afterwards
	 *
	 * Returns: the backing id (> 0), 0 where there is no passthrough,
	 *          or -errno. Called by the pool's thread or by pool_take.
	 */
	int (*bind)(void *ctx, int fd);
	/** unbind - forget a backing id (BACKING_CLOSE). */
	void (*unbind)(void *ctx, int backing_id);
	/**
	 * reclaim - the pool is past its capacity: evict
	 * @down_to_bytes: what pool_used should come down to; others may have
	 *                 brought it there when this is called
	 *
	 * Evicts by pool_put. Called with no pool lock held, by the pool's
	 * thread or from inside pool_take.
	 * Returns: bytes put, 0 if nothing can be evicted now.
	 */
	uint64_t (*reclaim)(void *ctx, uint64_t down_to_bytes);
};

struct pool_config {
	const char *dir;      /* the tmpfs is mounted here; made if missing */
	uint64_t bytes;	      /* capacity for blocks */
	uint64_t frame_bytes; /* preallocation where nothing is known yet */
	bool discard;	      /* start empty whatever lies there */
	const struct pool_ops *ops;
	void *ctx;
};

struct pool_stats {
	uint64_t capacity_bytes;
	uint64_t committed_bytes, writing_bytes, ready_bytes, aside_bytes;
	uint64_t free_bytes; /* what the tmpfs could still take */
	uint32_t n_committed, n_writing, n_ready, n_aside, n_free;
	uint64_t recycled, retired, probes_refused, taken_cold;
	bool huge;	/* the tmpfs gives huge pages */
	bool own_mount; /* a tmpfs of our own, or a folder of another one */
	uint64_t adopted, adopt_dropped; /* at start */
};

/**
 * pool_open - mount or adopt the pool, start its thread
 * @pool: set only on success
 *
 * Mounts a tmpfs (huge=within_size; huge=always where that gives none; plain
 * where huge pages are refused) on c->dir unless one of ours is mounted there
 * already; where the process may not mount, uses a folder of /dev/shm that
 * c->dir becomes a symbolic link to. An index found there is checked and its
 * committed frames adopted; frames that were half written go through the
 * lease probe before they are reused.
 *
 * Returns: 0, or -ENOMEM the machine has not that much memory, -EINVAL the
 *          folder holds something that is not a kvfs pool, -EBUSY a pool of
 *          another capacity lies there with blocks that do not fit, or
 *          another -errno. One line is logged.
 */
int pool_open(struct pool **pool, const struct pool_config *c);

/**
 * pool_start - begin preparing frames and evicting
 *
 * Apart from pool_open because bind needs the FUSE session. Call once.
 */
int pool_start(struct pool *pool);

/**
 * pool_close - stop the thread and let go
 * @discard: also unmount the tmpfs and lose the blocks; so is one that
 *           pool_open mounted and that was never started: it holds none
 */
void pool_close(struct pool *pool, bool discard);

/**
 * pool_each_committed - visit what was adopted at pool_open
 *
 * In frame order, before pool_start. fn returning false drops the block.
 */
void pool_each_committed(struct pool *pool,
			 bool (*fn)(void *ctx, uint32_t frame,
				    struct pool_record *r),
			 void *ctx);

/**
 * pool_take - an empty frame to write into
 * @expect_bytes: how much will probably be written; 0 where nothing is known
 * @frame: set only on success
 * @backing_id: its FUSE backing (0 where there is no passthrough)
 *
 * Hot path: with a READY frame of the right class at hand, one lock and no
 * system call. Otherwise prepares one in place, evicting if it must.
 * Returns: 0, -ENOSPC (nothing can be evicted), -ENOMEM, -EMFILE.
 * Threads: any.
 */
int pool_take(struct pool *pool, uint64_t expect_bytes, uint32_t *frame,
	      int *backing_id);

/** pool_backing - the backing id of a frame, bound on first use; or -errno. */
int pool_backing(struct pool *pool, uint32_t frame);

/** pool_fd - open the frame's file (O_RDWR, O_RDONLY, O_PATH); or -errno. */
int pool_fd(struct pool *pool, uint32_t frame, int oflags);

/** pool_record - the frame's record; its owner may change the fields that
 *  seal does not cover (mode … parent_epoch, generation, checksum, flags). */
struct pool_record *pool_record(struct pool *pool, uint32_t frame);

/**
 * pool_probe - does nobody but the pool have this frame open or mapped?
 *
 * Takes and returns a write lease. The caller has stopped new opens of the
 * frame (its own lock).
 * Returns: 0 nobody, -EAGAIN somebody, or -errno.
 */
int pool_probe(struct pool *pool, uint32_t frame);

/**
 * pool_commit - turn a WRITING frame into a block
 * @path: its name, "NAMESPACE/path", at most POOL_PATH_MAX bytes, binary
 *
 * The caller has probed. Fills size_bytes, alloc_bytes and mtime_ns from fstat,
 * clears flags, generation, hits and the chain; takes mode, uid, gid and times
 * as they stand in the record. State becomes COMMITTED with the last store.
 * Returns: 0, -ENAMETOOLONG, or -errno.
 */
int pool_commit(struct pool *pool, uint32_t frame, const char *path,
		uint16_t path_len);

/** pool_rename - give a committed block another name; 0 or -ENAMETOOLONG. */
int pool_rename(struct pool *pool, uint32_t frame, const char *path,
		uint16_t path_len);

/**
 * pool_trim - give back what was preallocated past the end of a file
 *
 * Not on the hot path; takes a few µs. A block may be open; of a file that is
 * not one yet the caller knows that its writer is gone, and lets none in.
 * Returns: by how many bytes its charge has become less.
 */
uint64_t pool_trim(struct pool *pool, uint32_t frame);

/** pool_cut - shorten the file of a frame that is written, if it is longer; by
 *  how many bytes of memory it has become less. */
uint64_t pool_cut(struct pool *pool, uint32_t frame, uint64_t bytes);

/**
 * pool_put - a frame's owner is done with it: recycle it
 *
 * From WRITING or COMMITTED. The record is void at return; the frame is
 * recycled at once or by the pool's thread: probed, truncated, FREE; or set
 * ASIDE where somebody still maps it.
 * Threads: any; never blocks.
 */
void pool_put(struct pool *pool, uint32_t frame);

/**
 * pool_writers - how many files are open for writing
 *
 * While there are any, the pool's thread watches the tmpfs fill (writes pass
 * it by) and evicts so that they find room.
 */
void pool_writers(struct pool *pool, int delta);

/**
 * pool_make_room - be sure that a frame may grow by this much
 *
 * Returns: 0 or -ENOSPC.
 */
int pool_make_room(struct pool *pool, uint64_t bytes);

/** pool_used - bytes that blocks and their writers keep from others, now. */
uint64_t pool_used(struct pool *pool);

void pool_stats(struct pool *pool, struct pool_stats *stats);

/** pool_classes - frames by preallocation class, for the statistics. */
void pool_classes(struct pool *pool,
		  void (*fn)(void *ctx, uint64_t class_bytes, uint32_t n_ready,
			     uint32_t n_committed),
		  void *ctx);

#endif

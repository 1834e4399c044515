/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_FS_H
#define KVFS_FS_FS_H

/*
 * The daemon of one mount: it introduces engine (bytes) and meta (names) to
 * each other and shows both to the kernel.
 *
 *      fs.c        brings the parts up and down
 *      session.c   the FUSE session: INIT, the ladder, threads, signals
 *      dispatch.c  libfuse callbacks to struct call to views, and answers
 *      gate.c      why answering from another thread is safe with io_uring
 *      passthrough.c  backing ids
 *      ctl.c       the root directory and .kvfs/; ctl_match.c its questions
 *      ioctl.h     the ioctls of <kvfs/ioctl.h>
 *      frames.c    .kvfs/frames: what clients map
 *      ring.h      ioctls through shared memory
 *      buffers.h   what clients register; fd_take.h  how it comes here
 *      locks.h     locks: waiting for them, those of this node alone
 *      remote_*.c  blocks of other nodes
 *      kv_*.c      the view kv/         ckpt_*.c    the view ckpt/
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/hist.h"

struct pool;
struct meta;
struct kv;
struct ckpt;
struct ctl;
struct remote;
struct workers;
struct rings;
struct buffers;
struct locks;
struct fuse_session;
struct inode;
struct pool_ops;
struct meta_ckpt_ops;
struct meta_kv_ops;

/* The fallback ladder, best first. */
enum fs_rung {
	RUNG_AUTO = -1,
	RUNG_URING,  /* passthrough + FUSE over io_uring */
	RUNG_CLONE,  /* passthrough + /dev/fuse, a descriptor per thread */
	RUNG_DIRECT, /* direct_io: the daemon moves the bytes */
};

const char *fs_rung_name(enum fs_rung rung);

/* What moves bytes between nodes. */
enum fs_transport { TRANSPORT_AUTO, TRANSPORT_TCP, TRANSPORT_RDMA };

struct fs_config {
	const char *mountpoint;
	const char *state_dir;
	uint64_t pool_bytes;
	uint64_t frame_bytes;
	const char *meta_url;
	const char *password_file;
	const char *meta_ca, *meta_cert; /* of rediss:// */
	uint64_t meta_replicas;		 /* of Redis; close() waits for them */
	const char *prefix;
	const char *listen;   /* "ADDRESS[:PORT],…"; NULL: nowhere */
	const char *key_file; /* the cluster's key; NULL: none */
	bool tls;
	enum fs_transport transport;
	const char *rdma_devices; /* of them only; NULL: all */
	enum fs_rung rung;	  /* forced, or RUNG_AUTO */
	unsigned deadline_ms;
	bool discard;
	bool allow_other;
	bool foreground;
	bool read_only;
};

/* Counted by the views; shown in .kvfs/stats. */
struct fs_counters {
	_Atomic uint64_t hits, misses; /* kv opens and lookups of finals */
	_Atomic uint64_t stores, evictions, conflicts, deduplicated;
	_Atomic uint64_t copied_commits; /* a writer was still there */
	_Atomic uint64_t bytes_stored, bytes_evicted;
	_Atomic uint64_t bytes_read, bytes_written; /* through the daemon */
	_Atomic uint64_t checksums, damaged;
	_Atomic uint64_t matches, match_bytes; /* ctl_match.c */
	_Atomic uint64_t lent, lent_bytes;     /* kv_lend.c: held now */
	_Atomic uint64_t located, in_place;
	_Atomic uint64_t buffers, buffer_bytes; /* buffers.h: now */
	_Atomic uint64_t dmabufs;		/* of them */
	_Atomic uint64_t dmabuf_bytes;		/* that cards copied */
	_Atomic uint64_t rings, ring_bytes;	/* ring.h: now */
	_Atomic uint64_t ring_calls;
	_Atomic uint64_t got, got_bytes, got_straight; /* by GET */
	_Atomic uint64_t put, put_bytes;
	_Atomic uint64_t ckpt_published, ckpt_failed;
	_Atomic uint64_t shards_fetched, shard_fetched_bytes, shard_failed;
	_Atomic uint64_t shard_mismatches, shard_served_bytes, shard_refused;
	_Atomic uint64_t ckpt_handed; /* files to clients, by BACKING */
	_Atomic uint64_t shard_fetching, shard_uploads; /* now */
	_Atomic uint64_t shard_quarantined_bytes;
	struct hist lookup, open, create, rename, ckpt_call;
};

struct fs {
	struct fs_config config;
	struct fuse_session *session;
	uint64_t mount_id; /* of the kernel's mount */
	struct pool *pool;
	struct meta *meta;
	struct kv *kv;
	struct ckpt *ckpt;
	struct ctl *ctl;
	struct locks *locks;
	struct buffers *buffers; /* of clients */
	struct rings *rings;
	struct remote *remote;	    /* NULL: nobody else uses our Redis */
	struct workers *workers;    /* calls that wait */
	struct workers *background; /* checksums, trims; nice */
	enum fs_rung rung;	    /* in use, known after INIT */
	atomic_bool passthrough;    /* known after INIT */
	bool killpriv_v2;
	bool mmap_direct;	 /* the kernel maps direct_io files */
	const char *rung_reason; /* why not a higher one; NULL on the highest */
	int init_error;		 /* chosen in INIT: the mount fails with it */
	int ready_fd;		 /* told once when the mount is usable */
	atomic_bool stopping;	 /* calls are answered ENOTCONN */
	int64_t started_ns;	 /* wall clock */
	struct fs_counters counters;
};

#define FS_WORKERS 16
#define URING_DEPTH 64 /* requests under way on one CPU */

/* kv_*.c */
int kv_open(struct kv **kv, struct fs *fs);
int kv_adopt(struct kv *kv); /* the pool's committed blocks */
/** kv_quiesce - tell the kernel nothing more: before the session ends, and
 *  while it is still served (a notice may wait for a caller that waits). */
void kv_quiesce(struct kv *kv);
void kv_close(struct kv *kv);
struct inode *kv_root(struct kv *kv);

struct kv_usage { /* of a namespace, or of all of them */
	const char *name;
	uint64_t blocks, bytes, quota_bytes;
	uint64_t usage_bytes; /* on all live nodes, as far as known */
	uint64_t hits, misses, stores, evictions;
};
/** kv_each_namespace - for the statistics; fn must not call into kv. */
void kv_each_namespace(struct kv *kv,
		       void (*fn)(void *arg, const struct kv_usage *u),
		       void *arg);
/** kv_tell_usage - what each namespace holds here, for a heartbeat. */
void kv_tell_usage(struct kv *kv,
		   void (*add)(void *arg, const char *ns, uint64_t bytes),
		   void *arg);
/** kv_beat - a heartbeat was answered: quotas as it found the usage; evicts, no
 *  lock held. */
void kv_beat(struct kv *kv);
extern const struct pool_ops kv_pool_ops; /* reclaim, bind, unbind */
extern const struct meta_kv_ops kv_meta_ops;

/* ckpt_*.c: data files lie in STATE/ckpt/ */
int ckpt_open(struct ckpt **ckpt, struct fs *fs);
/** ckpt_quiesce - answer what waits for bytes of other nodes: before the
 *  session ends. */
void ckpt_quiesce(struct ckpt *ckpt);
void ckpt_close(struct ckpt *ckpt);
extern const struct meta_ckpt_ops cfetch_meta_ops; /* ctx: struct fs */
struct inode *ckpt_root(struct ckpt *ckpt);

/* ctl.c: the root directory and .kvfs/ */
int ctl_open(struct ctl **ctl, struct fs *fs);
void ctl_close(struct ctl *ctl);
struct inode *ctl_root(struct ctl *ctl);

/* session.c */
/**
 * session_open - a FUSE session, not mounted yet
 *
 * Picks the transport that the rung wants and the kernel offers.
 * Returns: 0 or -errno.
 */
int session_open(struct fs *fs);
/** session_mount - attach to the mount point; 0 or -errno with a line. */
int session_mount(struct fs *fs);
/** session_serve - answer requests until unmounted or told to stop. */
int session_serve(struct fs *fs);
/** session_close - detach if still attached, free. */
void session_close(struct fs *fs);
/** session_ready - tell who waits for the mount: NULL it is usable. */
void session_ready(struct fs *fs, const char *why_not);

/* passthrough.c */
/** passthrough_bind - give the kernel a backing file for later opens
 *  @fd: may be O_PATH; may be closed afterwards
 *  Returns: a backing id > 0, 0 the rung has no passthrough, or -errno. */
int passthrough_bind(struct fs *fs, int fd);
void passthrough_unbind(struct fs *fs, int backing_id);
/** passthrough_attach - the mounted session's device; -1: it is closing. */
void passthrough_attach(int fd);

/* fs.c */
/**
 * fs_run - mount, serve until unmounted, take down
 * @ready_fd: one line is written here once the mount is usable: empty, or why
 *            it is not; -1: none
 *
 * Returns: 0 or -errno.
 */
int fs_run(const struct fs_config *config, int ready_fd);

#endif

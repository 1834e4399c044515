/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_KV_H
#define KVFS_FS_KV_H

/*
 * The view kv/: namespaces of blocks. Private to fs/kv_*.c.
 *
 *      kv_tree.c    nodes, the name table, directories, namespaces
 *      kv_name.c    lookup, mkdir, unlink, rmdir, rename
 *      kv_file.c    create, open, read, write, release
 *      kv_commit.c  from a written file to a block; a rename onto a block
 *      kv_evict.c   recency, reclaim
 *      kv_hot.c     copies that are read so often that they stay
 *      kv_quota.c   a namespace's policy, its quota over all nodes
 *      kv_tell.c    telling the kernel what went
 *      kv_spare.c   what can be had without evicting
 *      kv_attr.c    getattr, setattr, statfs      kv_xattr.c  user.kvfs.*
 *      kv_dir.c     opendir, readdir        kv_match.c   many names at once
 *      kv_lend.c    frames that clients map
 *      kv_access.c  who may, where the kernel did not look
 *      kv_sum.c     checksums, verify
 *      kv_meta.c    what the publisher asks and answers
 *      kv_dirs.c    directories across restarts; kv_dirs_line.c  their lines
 *
 * One lock, kv->lock, guards the tree, the recency lists and all fields of
 * nodes. It is held for microseconds, never over Redis, a copy or an answer
 * to the kernel. Lock order: kv->lock, then the pool's.
 *
 * A file's life: WRITING from create until it commits, then COMMITTED, never
 * changed again. `unlinked` files have left the tree and live on for those
 * who have them open.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "engine/pool.h"
#include "fs/call.h"
#include "fs/fs.h"

struct kv_lent;
struct kv_name;
struct meta_namespace;

#define KV_ENTRY_TIMEOUT 3600.0 /* of what cannot change unseen */
#define KV_MISS_TIMEOUT 0.1	/* a miss is remembered no longer */
#define KV_WRITTEN_TIMEOUT 0.02 /* attributes of a file being written */
#define KV_LENT_LISTS 1024u	/* a power of 2 */
#define KV_ORPHAN_NS (600LL * 1000000000) /* a closed temp may go then */

enum kv_type { KV_ROOT, KV_NAMESPACE, KV_DIR, KV_FILE };
/* KV_REMOTE: another node holds it; no frame here (remote.h). */
enum kv_state { KV_WRITING, KV_COMMITTED, KV_REMOTE };

/* A place in a directory. cookie 0: no entry but an open directory's mark. */
struct kv_link {
	struct list list;
	uint64_t cookie;
};

struct kv_node {
	struct inode head;
	struct kv_node *parent; /* also after unlink: counted by child_refs */
	struct kv_node *hash_next;
	struct kv_link sibling; /* in the parent's children */
	uint64_t nlookup;	/* the kernel's references */
	uint32_t pins;		/* daemon's own: a checksum, a copy */
	uint8_t type, state;
	bool unlinked : 1;  /* left the tree */
	bool temp : 1;	    /* WRITING: its name is a temp name */
	bool sync : 1;	    /* fsync came before the commit */
	bool published : 1; /* Redis said so */
	bool damaged : 1;
	uint8_t name_len;
	char *name; /* points into the allocation; a rename replaces it */
};

/* Directories, namespaces and the root. */
struct kv_dir {
	struct kv_node node;
	struct list children; /* kv_link.list, by cookie */
	uint64_t last_cookie;
	uint64_t child_refs; /* nodes whose parent this is, linked or not */
	uint64_t n_dirs;     /* linked subdirectories: nlink - 2 */
	struct kv_ns *ns;    /* NULL: the root */
	uint64_t ino;
	uint32_t mode, uid, gid;
	int64_t mtime_ns, atime_ns, ctime_ns;
	/* Of a KV_DIR, remote_dir.c: when its record was last asked for, and
	 * when it was last changed here; monotonic */
	int64_t heard_ns, changed_ns;
	bool learnt;	 /* from that record, not made here */
	struct list ask; /* remote->dirs: to be asked for; pinned then */
};

/* The newest block of one writer. */
struct kv_stored {
	pid_t writer;
	uint32_t frame, epoch;
};
#define KV_STORED_MAX 8

/* Why a block is here; by the flags of its record. */
enum kv_kind {
	KV_STORED,
	KV_MOVED, /* another node's last copy, with the age it had there */
	KV_COPY,  /* fetched from a node that has it still: it goes first */
	KV_KINDS
};

struct kv_ns {
	struct kv_dir dir;
	struct kv *kv;
	struct list all; /* kv->namespaces */
	/* committed files, least recently used first (KV_MOVED: nearly) */
	struct list uses[KV_KINDS];
	uint64_t quota_bytes; /* on all nodes together */
	uint64_t told_bytes;  /* n_bytes as the last heartbeat told it */
	uint64_t other_bytes; /* on the others, as it heard then */
	uint64_t limit_bytes; /* for this node till the next; kv_quota.c */
	uint32_t replicas;
	uint32_t hot_reads, hot_seconds; /* kv_hot.c; 0 seconds: never */
	bool checksum;
	uint64_t expect_bytes; /* what the next file will probably take */
	uint64_t recent[8];    /* sizes of the last commits */
	unsigned n_recent;
	struct kv_stored stored[KV_STORED_MAX];
	unsigned stored_at; /* the newest of all */
	uint64_t n_blocks, n_bytes;
	uint64_t tried[KV_KINDS]; /* kv->evict_round in which none may go */
	struct list *next; /* kv_next_victims' place in uses[KV_STORED] */
	_Atomic uint64_t hits, misses, stores, evictions;
};

struct kv_file {
	struct kv_node node;
	struct list by_use; /* committed and linked: in ns->uses */
	struct list excess; /* committed, not trimmed: in kv->excess */
	struct list stale;  /* the kernel shall forget it: in kv->stale, told */
	struct list unlisted; /* in kv->unlisted: remote_unlisted.c */
	int64_t confirmed_ns; /* then: when Redis had it last */
	struct kv_ns *ns;
	uint32_t frame;
	uint32_t opens;	    /* handles the kernel holds */
	uint32_t writers;   /* of them for writing */
	uint32_t rewriters; /* of the writers those that came by open, not by
			       create: their backing may open at any time */
	bool closed;   /* direct rung: a writer closed; its RELEASE may come */
	uint8_t told;  /* how often the kernel was told to forget it */
	bool trimmed;  /* WRITING: nothing preallocated is left */
	bool offered;  /* since its last use: remote_offer.c has seen it */
	uint32_t kids; /* chain: blocks that name this one as parent */
	pid_t writer;  /* thread that created it, while WRITING */
	uint32_t next_frame, next_epoch; /* what was stored after it; epoch 0:
					    nothing (remote_chain.c) */
	bool ahead;	  /* of a reader: remote_ahead.c hears of its open */
	uint32_t uploads; /* to peers, under way */
	uint32_t direct; /* handles served through the daemon: remote_parts.h */
	uint64_t (*part_sums)[2]; /* XXH3 by part, once one was asked for */
	struct kv_remote *remote; /* while KV_REMOTE */
	uint64_t ino;
};

/* Names that the kernel may remember as missing: a bit each, of the last half
 * second and of the one before it. */
#define KV_MISSED_BITS (1u << 16)
struct kv_missed {
	uint64_t bits[2][KV_MISSED_BITS / 64];
	int64_t turned_ns;
	_Atomic uint64_t came, told; /* how many of them; no lock */
};

struct kv {
	struct fs *fs;
	_Atomic uint64_t opens; /* so far */
	pthread_mutex_t lock;
	struct kv_dir root;
	struct list namespaces;
	struct kv_node **table; /* by (parent, name) */
	size_t table_mask;
	size_t n_nodes;
	uint64_t last_ino;
	uint64_t use_clock; /* ns: the monotonic clock, no value twice */
	uint64_t evict_round;
	uint64_t n_bytes, copy_bytes; /* of blocks; of those KV_COPY */
	struct kv_file **by_frame;    /* committed files; POOL frames at most */
	size_t n_by_frame;
	uint32_t *walk; /* frames, last used first: a refill under way */
	size_t n_walk;
	struct kv_gone **gone; /* unlinked names whose tombstone is not out */
	size_t n_gone, gone_mask;
	struct kv_heat *heat; /* kv_hot.c; NULL: nothing was ever hot */
	struct list orphans;  /* kv_file.by_use: temps, closed, not renamed */
	struct list late;     /* kv_file.by_use: finals, closed, still held */
	struct list writing;  /* kv_file.by_use: open for writing */
	struct list excess;   /* kv_file.excess */
	struct list unlisted; /* kv_file.unlisted */
	pthread_cond_t unlisted_some;
	struct job late_job;
	bool late_queued;
	pthread_cond_t writer_left; /* some file has one writer less */
	int dirs_fd;		    /* kv_dirs.c */

	pthread_cond_t stale_some; /* for kv_tell.c's thread */
	pthread_t tell_thread;
	struct list stale, told; /* kv_file.stale: to tell, told already */
	struct list lend_users;	 /* kv_lend.c */
	struct kv_lent *lent[KV_LENT_LISTS];
	struct list reserved; /* kv_lent.reserved */
	bool tell_stop, no_prune;
	struct kv_missed missed; /* kv_tell.c */
};

/* fi->fh of a kv handle: what release must give back. */
#define KV_FH_WRITE 1u
#define KV_FH_REWRITE 2u
#define KV_FH_DIRECT 4u /* served through the daemon, though others are not */
#define KV_FH_SERIAL 8u /* times a number: no two opens look alike */

extern const struct view kv_view;

static inline struct kv_node *kv_node(struct inode *inode)
{
	return container_of(inode, struct kv_node, head);
}

static inline struct kv_dir *kv_dir(struct kv_node *node)
{
	return container_of(node, struct kv_dir, node);
}

static inline struct kv_ns *kv_ns(struct kv_dir *dir)
{
	return container_of(dir, struct kv_ns, dir);
}

static inline struct kv_file *kv_file(struct kv_node *node)
{
	return container_of(node, struct kv_file, node);
}

static inline bool kv_is_dir(const struct kv_node *node)
{
	return node->type != KV_FILE;
}

static inline struct pool_record *kv_record(struct kv *kv, struct kv_file *f)
{
	return pool_record(kv->fs->pool, f->frame);
}

/* kv_tree.c — all with kv->lock held, but kv_name_is_temp */
bool kv_name_is_temp(const char *name);
struct kv_node *kv_find(struct kv *kv, struct kv_dir *dir, const char *name);
/** kv_find_some - many names of up to 255 bytes at once, so that the processor
 *  waits for memory once and not for each. n: up to KV_FIND_MAX. */
#define KV_FIND_MAX 64
void kv_find_some(struct kv *kv, struct kv_dir *dir,
		  const struct kv_name *names, unsigned n,
		  struct kv_node **nodes);
/** kv_find_part - the same for a part of a path. */
struct kv_node *kv_find_part(struct kv *kv, struct kv_dir *dir,
			     const char *name, size_t n);
/** kv_find_path - "NAMESPACE/a/b": the node, or NULL. */
struct kv_node *kv_find_path(struct kv *kv, const char *path, size_t len);
/** kv_path - write "NAMESPACE/path" of a node, or of name below dir.
 *  Returns its length, or -ENAMETOOLONG past POOL_PATH_MAX. */
int kv_path(struct kv_dir *dir, const char *name, char path[POOL_PATH_MAX + 1]);
struct kv_dir *kv_dir_new(struct kv *kv, struct kv_dir *parent,
			  const char *name, uint32_t mode, uint32_t uid,
			  uint32_t gid);
/** kv_make_dirs - the directories of "NAMESPACE/a/b" down to the last slash;
 *  NULL: a part is no directory. @name: what follows it. */
struct kv_dir *kv_make_dirs(struct kv *kv, const char *path, size_t len,
			    const char **name);
struct meta_namespace;
/** kv_learn_namespace - a namespace as Redis has it, into the tree; the kernel
 *  forgets attributes that changed.
 *  @arg: the struct kv; no lock held */
void kv_learn_namespace(void *arg, const char *name,
			const struct meta_namespace *m);
struct kv_file *kv_file_new(struct kv *kv, struct kv_dir *parent,
			    const char *name, uint32_t frame);
/** kv_link - put a node into its parent; kv_unlink_node - take it out. */
void kv_link_node(struct kv *kv, struct kv_node *node);
void kv_unlink_node(struct kv *kv, struct kv_node *node);
/** kv_move - another directory and name; 0 or -ENOMEM, nothing done. */
int kv_move(struct kv *kv, struct kv_node *node, struct kv_dir *to,
	    const char *name);
/** kv_node_settle - free an unlinked node that nobody holds any more. */
void kv_node_settle(struct kv_node *node);
void kv_entry(struct kv *kv, struct kv_node *node, struct fuse_entry_param *e);

/* kv_name.c */
void kv_refuse(struct call *c);
bool kv_is_writer(const struct call *c, const struct kv_file *f);
struct kv_node *kv_visible(struct call *c, struct kv_dir *dir,
			   const char *name);	/* lock held */
bool kv_dir_is_empty(const struct kv_dir *dir); /* kv_dir.c */

/* kv_attr.c — with kv->lock held */
void kv_fill_attr(struct kv *kv, struct kv_node *node, struct stat *st);
double kv_attr_timeout(struct kv *kv, struct kv_node *node);
double kv_entry_timeout(struct kv *kv, struct kv_node *node);

/* kv_commit.c */
/** kv_commit_frame - the frame becomes the block of a name, if it may: the
 *  caller has looked; lock held.
 *  Returns: 0, -EEXIST there is a block of this name, or -errno; the frame is
 *  then still the caller's. */
int kv_commit_frame(struct call *c, struct kv_dir *dir, const char *name,
		    uint32_t frame, uint32_t mode, struct kv_file **f);
/** kv_sync_all - published, and held by as many nodes as its namespace asks
 *  for. The caller keeps f; waits, no lock held. 0 or -errno. */
int kv_sync_all(struct call *c, struct kv_file *f);
/** kv_try_commit - commit a WRITING final name if no writer is left.
 *  With kv->lock held. Returns: 0, -EBUSY a writer is there, or -errno. */
int kv_try_commit(struct kv *kv, struct kv_file *f);
/** kv_commit_late - try all that was closed and still held; lock held. */
void kv_commit_late(struct kv *kv);
/** kv_commit_soon - f was closed, but the kernel has not let go; lock held. */
void kv_commit_soon(struct kv *kv, struct kv_file *f);
/** kv_wait_writers - without passthrough: give the RELEASE of a writer that
 *  has closed a moment to come; lock held, dropped meanwhile. Worker only. */
void kv_wait_writers(struct kv *kv, struct kv_file *f);
void kv_wait_name(struct call *c); /* for that of c->name; no lock held */
/** kv_may_leave - would waiting for this file's writers help? lock held */
bool kv_may_leave(const struct kv *kv, const struct kv_file *f);
/** kv_writers_gone - may this file's bytes be taken as final? */
bool kv_writers_gone(struct kv *kv, struct kv_file *f);
/** kv_rename_file - move f to c->new_inode/new_name, over target if any.
 *  Lock held. Returns: 0, an errno, or -EINPROGRESS: copying or comparing
 *  goes on on a worker, which answers c. */
int kv_rename_file(struct call *c, struct kv_file *f, struct kv_file *target);
/** kv_drop - a file leaves the tree; its frame goes when nobody has it.
 *  @by_user: unlinked, not evicted. Lock held. */
void kv_drop(struct kv *kv, struct kv_file *f, bool by_user);
/** kv_let_go - a handle or pin is gone: maybe the frame and the node too. */
void kv_let_go(struct kv *kv, struct kv_file *f);
/** kv_count_in - f is a block of its namespace now; kv_count_out: no more. */
int kv_count_in(struct kv *kv, struct kv_file *f); /* 0 or -ENOMEM */
void kv_count_out(struct kv *kv, struct kv_file *f);

/* kv_spare.c */
/** kv_spare_take - give back what closed files have to spare; lock held.
 *  Returns: bytes that the pool has more. */
uint64_t kv_spare_take(struct kv *kv);
/** kv_spare_soon - what it may give back in a moment: the kernel is about to
 *  let go of files that were closed; lock held. */
uint64_t kv_spare_soon(struct kv *kv);

/* kv_evict.c */
/** kv_use_now - the time of a use that happens now: no other has it. */
uint64_t kv_use_now(struct kv *kv);
enum kv_kind kv_kind(struct kv *kv, struct kv_file *f);
/** kv_use_list - the recency list of its namespace that f belongs to. */
struct list *kv_use_list(struct kv *kv, struct kv_file *f);
void kv_touch(struct kv *kv, struct kv_file *f); /* lock held */
/** kv_set_kind - f is here for another reason now: KV_COPY goes next, KV_MOVED
 *  keeps its age. Lock held. */
void kv_set_kind(struct kv *kv, struct kv_file *f, enum kv_kind kind);
#define KV_ROOM (-1)
/** kv_victim_age_ms - how long ago what would have to go was used (copies
 *  aside), or KV_ROOM: nothing need go soon. Lock held. */
int64_t kv_victim_age_ms(struct kv *kv);
/** kv_next_victims - blocks that will go soon and that remote_offer.c has not
 *  seen since their last use: at most n; lock held. */
unsigned kv_next_victims(struct kv *kv, struct kv_file **out, unsigned n);
/** kv_shrink - evict from this namespace down to so many bytes; lock held. */
void kv_shrink(struct kv *kv, struct kv_ns *ns, uint64_t bytes);
/** kv_evict_now - a block goes from this node if it is not in use; lock held.
 */
bool kv_evict_now(struct kv *kv, struct kv_file *f);
uint64_t kv_reclaim(void *ctx, uint64_t down_to_bytes);
/** kv_set_parent - the chain: f continues parent (or nothing); lock held. */
void kv_set_parent(struct kv *kv, struct kv_file *f, struct kv_file *parent);
struct kv_file *kv_parent(struct kv *kv, struct kv_file *f);

/* kv_hot.c */
/** kv_hot_read - a copy is opened: is it one to keep? lock held. */
void kv_hot_read(struct kv *kv, struct kv_file *f);

/* kv_quota.c */
/** kv_enforce_quota - evict from this namespace until it fits; lock held. */
void kv_enforce_quota(struct kv *kv, struct kv_ns *ns);
/** kv_set_policy - as its record has it from now on; lock held. */
void kv_set_policy(struct kv *kv, struct kv_ns *ns,
		   const struct meta_namespace *m);
/** kv_learn_policies - all of them as Redis has them now; waits, no lock held.
 *  0 or -errno. */
int kv_learn_policies(struct kv *kv, int64_t deadline);
/** kv_ns_usage - its bytes on all live nodes, as far as known; lock held. */
uint64_t kv_ns_usage(const struct kv_ns *ns);

/* kv_tell.c */
/** kv_invalidate - f goes, and the kernel shall forget it; lock held. */
void kv_invalidate(struct kv *kv, struct kv_file *f);
/** kv_is_invalid - has the kernel been told to forget it, or will it be? Its
 *  name then leads there for as long as somebody has it open; lock held. */
bool kv_is_invalid(const struct kv_file *f);
/** kv_missed - the kernel is given a miss of this name to remember; lock held.
 */
void kv_missed(struct kv *kv, const char *name);
/** kv_came - the block has come by another way than by its name in the kernel;
 *  lock held. Before anybody is told: kv_tell_came. */
void kv_came(struct kv *kv, const struct kv_node *node);
/** kv_tell_came - what has come so, and was missed, is found by its name now.
 *  Before Linux 6.16 a miss lasts KV_MISS_TIMEOUT. No lock held. */
void kv_tell_came(struct kv *kv);
int kv_tell_start(struct kv *kv); /* 0 or -errno; kv_quiesce ends it */

/* kv_xattr.c */
void kv_ns_record(const struct kv_ns *ns, struct meta_namespace *m);

/* kv_sum.c */
/** kv_sum_later - take the checksum if it is missing and wanted, then
 *  publish; lock held. */
void kv_sum_later(struct kv *kv, struct kv_file *f);
/** kv_sum_now - take (or check) a block's checksum; no lock held, may read
 *  the whole block. Returns 0, -EIO it is damaged and has been dropped. */
int kv_sum_now(struct kv *kv, struct kv_file *f);

/** kv_sync - wait until a block of this node is published, its checksum taken
 *  first. The caller keeps f; no lock held. 0, -ESTALE it is no block (any
 *  more), -ETIMEDOUT after the deadline, -EIO. */
int kv_sync(struct kv *kv, struct kv_file *f);
/** kv_read_sum - XXH3-128 of a frame that the caller pins; no lock held. */
int kv_read_sum(struct kv *kv, uint32_t frame, uint64_t sum[2]);
void kv_unpin(struct kv *kv, struct kv_file *f); /* lock held */

/* kv_meta.c */
void kv_publish(struct kv *kv, struct kv_file *f); /* lock held */
/** kv_retract - a name is no longer held: evicted or unlinked; lock held. */
void kv_retract(struct kv *kv, struct kv_file *f, bool unlinked);
/** kv_retract_remote - the user removed a name that only others hold. */
void kv_retract_remote(struct kv *kv, struct kv_file *f);
void kv_meta_free(struct kv *kv);

/* kv_dirs.c */
int kv_dirs_load(struct kv *kv);
void kv_dirs_note(struct kv *kv, struct kv_dir *dir, bool removed);

/* kv_file.c */
/** kv_count_hit - a block is read: recency, figures; lock held. */
void kv_count_hit(struct kv *kv, struct kv_file *f);

/** kv_read_frame - answer a read from a frame that the caller holds. */
void kv_read_frame(struct call *c, uint32_t frame);

/* handlers */
void kv_do_lookup(struct call *c);
void kv_do_getattr(struct call *c);
void kv_do_setattr(struct call *c);
void kv_do_mkdir(struct call *c);
void kv_do_unlink(struct call *c);
void kv_do_rmdir(struct call *c);
void kv_do_rename(struct call *c);
void kv_do_open(struct call *c);
void kv_do_create(struct call *c);
void kv_do_read(struct call *c);
void kv_do_write(struct call *c);
void kv_do_flush(struct call *c);
void kv_do_release(struct call *c);
void kv_do_fsync(struct call *c);
void kv_do_fallocate(struct call *c);
void kv_do_lseek(struct call *c);
void kv_do_opendir(struct call *c);
void kv_do_readdir(struct call *c);
void kv_do_releasedir(struct call *c);
void kv_do_statfs(struct call *c);
void kv_do_setxattr(struct call *c);
void kv_do_getxattr(struct call *c);
void kv_do_listxattr(struct call *c);
void kv_do_removexattr(struct call *c);
void kv_do_forget(struct fs *fs, struct inode *inode, uint64_t nlookup);

#endif

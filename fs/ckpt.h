/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CKPT_H
#define KVFS_FS_CKPT_H

/*
 * The view ckpt/: names and attributes are records in Redis (meta/ckpt.h), the
 * bytes of a regular file are a backing file STATE/ckpt/XX/INO.
 *
 *      ckpt.c        up and down, the table of operations
 *      ckpt_inode.c  the inodes that the kernel knows
 *      ckpt_seen.c   what was seen a moment ago and need not be asked again
 *      ckpt_data.c   what is open or not published yet; publishing
 *      ckpt_keep.c   what goes on after close(): settle, retry, start-up scan
 *      ckpt_store.c  backing files
 *      ckpt_sum.c    shard checksums
 *      ckpt_name.c   lookup, create, link, unlink, rename
 *      ckpt_attr.c   getattr, setattr       ckpt_xattr.c  extended attributes
 *      ckpt_file.c   open to release        ckpt_dir.c    readdir
 *      ckpt_order.c  what is asked for by user.kvfs.*
 *      ckpt_lock.c   locks
 *      ckpt_fetch.h  the bytes of other nodes
 *
 * Which side speaks for an attribute: mode, owner, links and their ctime are
 * the record's. Size, mtime and atime of a file that is open for writing, or
 * whose last state could not be published yet, are the backing file's;
 * otherwise the record's, with the atime of whichever is later: reads go to
 * the backing file by passthrough and nobody hears of them. A publish copies
 * the backing file's into the record.
 *
 * Locks: ckpt_data.serial (held across Redis; taken with a deadline), then
 * ckpt_data.binding, then ckpt.lock (leaf; never across a system call that
 * may wait). No answer is given under any of them.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/list.h"
#include "base/workers.h"
#include "fs/call.h"
#include "fs/fs.h"
#include "meta/ckpt.h"

/* st_ino = this + the record's: never equal to an inode of the other views,
 * or find and rm would see a loop. */
#define CKPT_ST_INO (1ull << 48)
#define CKPT_REUSE_NS (10 * 1000 * 1000) /* CLUSTER 20 */

struct ckpt_inode {
	struct inode head;
	uint64_t ino;
	/* All below under ckpt.lock. */
	uint64_t version; /* that this inode stands for; a publish of ours
			     moves it on */
	bool superseded;  /* another node published a later one: an inode of
			     its own stands for that */
	struct ckpt_inode *next; /* in its hash chain */
	struct ckpt_data *data;	 /* NULL: closed and published */
	uint64_t nlookup;
	struct ckpt_attr attr; /* the record as last seen */
	int64_t seen_ns;       /* when; 0: not to be reused */
	uint64_t seen_moves;   /* ckpt.moves then */
	bool gone;	       /* its last name was removed here */
	bool kept;	       /* gone, and the record waits for ckpt_release */
};

/* The backing file as it was when record and file agreed. */
struct ckpt_mark {
	bool valid;
	bool racy;     /* so young that a write may have left no trace in it */
	uint64_t file; /* the file's own number */
	int64_t size;
	int64_t mtime_ns, ctime_ns;
};

enum {
	CKPT_NEED_PUBLISH = 1, /* the last writer went */
	CKPT_NEED_SUM = 2,     /* a version without checksums */
	CKPT_NEED_REMOVE = 4,  /* no name, no opener */
	CKPT_NEED_LOOK = 8,    /* with SUM: it may have been taken before */
};

struct ckpt_data {
	struct ckpt *ckpt;
	struct ckpt_inode *inode;
	uint64_t ino;

	bool serial;  /* guarded by ckpt.lock: somebody changes record and
			 backing file together (cdata_lock) */
	bool claimed; /* under serial: we are the writer node */
	int64_t leaseless_ns; /* under serial: since when nobody writes and yet
				 there is no lease; 0: there is, or was not
				 asked for */

	pthread_mutex_t binding; /* one opener decides how all are served */
	bool examined;		 /* under binding: fetch is as it should be */

	/* All below under ckpt.lock. */
	uint32_t refs; /* opens, calls, a queued job */
	uint32_t n_open, n_writers;
	bool unpublished; /* no writer any more, yet the record is behind */
	bool mapped;	  /* closed, but stores to a mapping go on */
	bool written;	  /* superseded, it had what no record says, */
	bool unseen;	  /* or may have had: a mapping of it has ended */
	struct ckpt_mark mark;
	bool bound;
	int backing_id; /* > 0: passthrough */
	int fd;		/* else: open for reading and writing */
	int path;	/* O_PATH, of the file while it is bound, on a cluster's
			   node: outlives its name */
	struct cfetch *fetch; /* NULL: whole when it was examined */

	unsigned needs;	  /* CKPT_NEED_… */
	bool busy, again; /* job is queued or runs; asked for meanwhile */
	int64_t retry_ns; /* back-off */
	int64_t retry_at_ns;
	struct list retry;
	struct job job;
};

/* A directory that a path walk went through a moment ago. */
struct ckpt_step {
	uint64_t parent, ino;
	int64_t at_ns;
	uint64_t moves;
	char name[40];
};
#define CKPT_STEPS 256

/* What files were looked up as, for log lines. */
#define CFETCH_DOUBTS 256
#define CFETCH_NAMES 256
struct cfetch_name {
	uint64_t ino;
	char name[72];
};

/* When peers were last given bytes of a file. */
#define CFETCH_SERVED 256
struct cfetch_served {
	uint64_t ino;
	int64_t at_ns;
};

/* Files that a peer wanted copied to this node, and why that failed. */
#define CFETCH_TROUBLES 64
struct cfetch_trouble {
	uint64_t ino, version;
	int err;
	int64_t at_ns;
};

struct ckpt {
	struct fs *fs;
	int store;	  /* STATE/ckpt */
	bool fine_stamps; /* of its files: no two changes look alike */
	struct workers *jobs, *sums; /* settle; checksums, nice */
	struct ckpt_inode *root;
	int64_t started_ns;

	pthread_mutex_t lock;
	struct ckpt_inode **buckets;
	size_t n_buckets, n_inodes;
	uint64_t changes; /* mutations that ended here */
	uint64_t moves;	  /* those after which nothing seen is reused */
	struct ckpt_step steps[CKPT_STEPS];
	struct cfetch_name names[CFETCH_NAMES];
	struct list retries;
	pthread_cond_t wake;	    /* stopping, or something to retry */
	pthread_cond_t serial_free; /* some data's serial was given back */

	pthread_mutex_t maps; /* changes of maps on the disk */
	struct workers *fetchers, *uploaders;
	atomic_bool fetch_stopping;
	/* Removed elsewhere, it is said: 0 is free. Under lock. */
	struct cfetch_served served[CFETCH_SERVED];
	uint64_t doubts[CFETCH_DOUBTS];
	unsigned n_doubts;
	struct cfetch_trouble troubles[CFETCH_TROUBLES]; /* under lock */

	pthread_t keeper;
	bool keeping;
	atomic_bool stopping;
};

static inline struct ckpt_inode *cinode_of(struct inode *head)
{
	return container_of(head, struct ckpt_inode, head);
}

/* One open; fi->fh is its address. */
struct ckpt_handle {
	struct ckpt_data *data;
	bool writer, reader; /* may write, read */
};

static inline struct ckpt_handle *chandle_of(const struct call *c)
{
	return (struct ckpt_handle *)(uintptr_t)c->fi.fh;
}

static inline struct ckpt_data *cdata_of(const struct call *c)
{
	return chandle_of(c)->data;
}

static inline bool cdata_writes(const struct call *c)
{
	return chandle_of(c)->writer;
}

extern const struct view ckpt_view;

/* --- ckpt_inode.c --- */
int cinode_init(struct ckpt *ckpt);
void cinode_fini(struct ckpt *ckpt);
/** cinode_get - the inode of a record, made if new; NULL: no memory.
 *  @nlookup: references of the kernel's to add */
struct ckpt_inode *cinode_get(struct ckpt *ckpt, const struct ckpt_attr *a,
			      uint64_t nlookup);
struct ckpt_inode *cinode_find(struct ckpt *ckpt, uint64_t ino); /* locked */
/** cinode_merge - this is the record now. Where another node published a later
 *  version of what is open here, the inode is superseded. Locked. */
void cinode_merge(struct ckpt *ckpt, struct ckpt_inode *inode,
		  const struct ckpt_attr *a);
void cinode_forget(struct fs *fs, struct inode *head, uint64_t nlookup);
/** cinode_drop - free it if neither the kernel nor data needs it. Locked. */
void cinode_drop(struct ckpt *ckpt, struct ckpt_inode *inode);
/** cinode_attr - the record as last seen. */
struct ckpt_attr cinode_attr(struct ckpt *ckpt, struct ckpt_inode *inode);
/** cinode_is_written - by a node that the record names, or here, and not yet
 *  published. */
bool cinode_is_written(struct ckpt *ckpt, struct ckpt_inode *inode);
/** cinode_stat - what stat(2) shows of a record, by the rules above. */
void cinode_stat(struct ckpt *ckpt, struct ckpt_inode *inode,
		 const struct ckpt_attr *a, struct stat *st);
void cinode_reply_entry(struct call *c, struct ckpt_inode *inode,
			const struct ckpt_attr *a);
void cinode_entry(struct ckpt *ckpt, struct ckpt_inode *inode,
		  const struct ckpt_attr *a, struct fuse_entry_param *e);

/* --- ckpt_seen.c --- */
/** cseen_begin - before a query: what cseen_note wants to know. */
uint64_t cseen_begin(struct ckpt *ckpt);
/** cseen_note - this is the record, asked for since cseen_begin. */
void cseen_note(struct ckpt *ckpt, struct ckpt_inode *inode,
		const struct ckpt_attr *a, uint64_t begun);
/** cseen_changed - a mutation of this inode ended, with or without success;
 *  NULL: of it is not known which. */
void cseen_changed(struct ckpt *ckpt, struct ckpt_inode *inode);
/** cseen_entered - names of this directory changed at that time.
 *  @links: how many more directories it has */
void cseen_entered(struct ckpt *ckpt, struct ckpt_inode *dir, int64_t now_ns,
		   int links);
/** cseen_fresh - is the record as last seen, in a, still good? */
bool cseen_fresh(struct ckpt *ckpt, struct ckpt_inode *inode,
		 struct ckpt_attr *a);
/** cseen_step - a directory's inode, with a reference of the kernel's, if a
 *  lookup of it was answered a moment ago; or NULL. */
struct ckpt_inode *cseen_step(struct ckpt *ckpt, uint64_t parent,
			      const char *name);
void cseen_add_step(struct ckpt *ckpt, uint64_t parent, const char *name,
		    uint64_t ino, uint64_t begun);

/* --- ckpt_data.c --- */
/** cdata_get - the data of an inode, made if there is none, with a reference.
 *  Returns: NULL no memory. */
struct ckpt_data *cdata_get(struct ckpt *ckpt, struct ckpt_inode *inode);
/** cdata_make - the same for an inode that has none, without a reference. */
struct ckpt_data *cdata_make(struct ckpt *ckpt, struct ckpt_inode *inode);
void cdata_ref(struct ckpt_data *d);
void cdata_put(struct ckpt_data *d);
/** cdata_enter - count an open; cdata_leave gives up both count and
 *  reference, and has the rest settled. Never waits. */
void cdata_enter(struct ckpt_data *d, bool writer);
void cdata_leave(struct ckpt_data *d, bool writer);
/** cdata_lock - take serial; 0 or -EIO when the deadline passed. */
int cdata_lock(struct ckpt_data *d, int64_t deadline);
void cdata_unlock(struct ckpt_data *d);
/** cdata_unpublished - the backing file is about to change with no writer. */
void cdata_unpublished(struct ckpt_data *d);
/** cdata_claim - become the writer node. Serial held.
 *  Returns: 0, -ESTALE another version came meanwhile, -EBUSY, ... */
int cdata_claim(struct ckpt_data *d, int64_t deadline);
/** cdata_mark - note how the backing file stands if the record agrees. */
void cdata_mark(struct ckpt_data *d, const struct stat *st);
/** cdata_is_unchanged - is the backing file as it was at the mark? */
bool cdata_is_unchanged(struct ckpt_data *d);
/** cdata_publish - tell Redis what was written. Serial held.
 *  @last: nobody will write after this: stop being the writer node */
int cdata_publish(struct ckpt_data *d, int64_t deadline, bool last);
/** cdata_open - the backing file anew, with or without a name; -errno. */
int cdata_open(struct ckpt_data *d, int oflags);
/** cdata_fd - the descriptor of a file that is not served by passthrough. */
int cdata_fd(struct ckpt_data *d);
/** cdata_bind - how the kernel gets at the bytes; fills fi, whose fh is a new
 *  struct ckpt_handle. 0 or -errno. */
int cdata_bind(struct ckpt_data *d, struct fuse_file_info *fi);

/* --- ckpt_keep.c --- */
int ckeep_start(struct ckpt *ckpt);
void ckeep_stop(struct ckpt *ckpt);
/** ckeep_settle - have the needs of d looked after. ckpt.lock held. */
void ckeep_settle(struct ckpt_data *d, unsigned needs);
/** ckeep_done - a queued job is over. @err: 0, or try again later. */
void ckeep_done(struct ckpt_data *d, int err);
/** ckeep_gone - a name went away: what is to be done about its inode.
 *  @here: by this node, which tells the others */
void ckeep_gone(struct ckpt *ckpt, const struct ckpt_gone *gone, bool here);

/* --- ckpt_store.c --- */
int cstore_open(struct ckpt *ckpt);
/** cstore_fd - open a backing file (O_RDONLY, O_PATH, …|O_CREAT); -errno. */
int cstore_fd(struct ckpt *ckpt, uint64_t ino, int oflags);
int cstore_stat(struct ckpt *ckpt, uint64_t ino, struct stat *st);
/** cstore_create - an empty backing file with these times; st as it is. */
int cstore_create(struct ckpt *ckpt, const struct ckpt_attr *a,
		  struct stat *st);
int cstore_utimens(struct ckpt *ckpt, uint64_t ino, const struct timespec t[2]);
int cstore_remove(struct ckpt *ckpt, uint64_t ino);
/** cstore_set_damaged - known bad bytes: opens fail until it is truncated. */
void cstore_set_damaged(struct ckpt *ckpt, uint64_t ino, bool damaged);
bool cstore_damaged(const struct stat *st);
/** cstore_partial - shards are missing (ckpt_fetch.h). */
bool cstore_partial(const struct stat *st);
#define CSTORE_PARTIAL 0700
/** cstore_each - every backing file. fn may remove it. */
int cstore_each(struct ckpt *ckpt,
		void (*fn)(void *arg, uint64_t ino, const struct stat *st),
		void *arg);
/** cstore_scan - drop orphans, publish what a killed daemon left unsaid. */
void cstore_scan(struct ckpt *ckpt);

/* --- ckpt_sum.c --- */
/** csum_post - take the checksums of the published version. d is busy; the
 *  job ends in ckeep_done. */
void csum_post(struct ckpt_data *d);
/** csum_text - user.kvfs.checksum: length, or -ENODATA, -errno. */
int csum_text(struct ckpt *ckpt, int64_t deadline, const struct ckpt_attr *a,
	      char *text, size_t text_bytes);
/** csum_verify - read all and compare: 0, -EIO damaged, -ENODATA none taken,
 *  -EBUSY it is being written. */
int csum_verify(struct ckpt *ckpt, struct ckpt_inode *inode);

/* --- the operations --- */
void ckpt_do_lookup(struct call *c);
void ckpt_do_getattr(struct call *c);
void ckpt_do_setattr(struct call *c);
void ckpt_do_readlink(struct call *c);
void ckpt_do_mknod(struct call *c);
void ckpt_do_mkdir(struct call *c);
void ckpt_do_symlink(struct call *c);
void ckpt_do_unlink(struct call *c);
void ckpt_do_rmdir(struct call *c);
void ckpt_do_rename(struct call *c);
void ckpt_do_link(struct call *c);
void ckpt_do_open(struct call *c);
void ckpt_do_create(struct call *c);
void ckpt_do_read(struct call *c);
void ckpt_do_write(struct call *c);
void ckpt_do_flush(struct call *c);
void ckpt_do_release(struct call *c);
void ckpt_do_fsync(struct call *c);
void ckpt_do_fallocate(struct call *c);
void ckpt_do_lseek(struct call *c);
void ckpt_do_getlk(struct call *c);
void ckpt_do_setlk(struct call *c);
void ckpt_do_opendir(struct call *c);
void ckpt_do_readdir(struct call *c);
void ckpt_do_releasedir(struct call *c);
void ckpt_do_statfs(struct call *c);
void ckpt_do_setxattr(struct call *c);
void ckpt_do_getxattr(struct call *c);
void ckpt_do_listxattr(struct call *c);
void ckpt_do_removexattr(struct call *c);

/* --- ckpt_order.c --- */
/** corder_set, corder_remove - user.kvfs.NAME; 0 or -errno. May wait. */
int corder_set(struct call *c, const char *name);
int corder_remove(struct call *c, const char *name);

/** cattr_kill_suidgid - clear setuid, and setgid where a group executes. */
int cattr_kill_suidgid(struct ckpt *ckpt, int64_t deadline,
		       struct ckpt_inode *inode);
/** cfile_backing - see that the backing file exists and is sound.
 *  @repair: damaged is fine: all of it is about to be replaced
 *  Returns: 0 with its stat, -ESTALE, -EIO (logged), or -errno. */
int cfile_backing(struct ckpt_data *d, bool repair, struct stat *st);

/** clocks_flushed - a process closed the file: its fcntl(2) locks end. */
void clocks_flushed(struct call *c);
/** clocks_release - has this open file locks? They end on a worker, which then
 *  calls ckpt_do_release anew: true, c is taken. */
bool clocks_release(struct call *c);

/** ckpt_finish - answer with an error or 0, and count the time. */
void ckpt_finish(struct call *c, int err);

#endif

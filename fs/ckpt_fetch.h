/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CKPT_FETCH_H
#define KVFS_FS_CKPT_FETCH_H

/*
 * The bytes of checkpoint files across nodes. Names and attributes come from
 * Redis; of the bytes a node has what it wrote and what it fetched.
 *
 *      ckpt_fetch.c        what is here of a file; who waits for the rest
 *      ckpt_fetch_run.c    from holders into the backing file
 *      ckpt_fetch_part.c   a few MiB from one holder
 *      ckpt_fetch_serve.c  what peers ask for; what Redis is told
 *      ckpt_copy.c         whole copies on other nodes
 *      ckpt_fetch_map.c    the map beside a backing file
 *      ckpt_fetch_wire.c   the messages
 *      ckpt_buf.c          buffers for bytes on their way
 *      ckpt_disk.c         a backing file, read for a peer
 *
 * The way of a read. OPEN compares the map with the version that the inode
 * stands for: whole, and the kernel gets the file (passthrough); else a sparse
 * backing file is made, the open is served through the daemon, and a READ of
 * a shard that is not here waits for it: holes must not be read as zeros. A
 * small file is fetched whole before OPEN is answered, and so is any file
 * before it is opened for writing (not to be truncated: that needs none).
 * One job a file fetches: what is waited for, else what comes next; it ends
 * with the last close. A shard is believed, and served onward, once it has
 * its checksum.
 *
 * Versions. struct ckpt_inode stands for one version. Where another node has
 * published a later one, a lookup finds a new inode; the old one, while it is
 * open, is superseded: it goes on with its own backing file, which has lost
 * its name, by ckpt_data.path.
 *
 * Only a mount with a Redis that others may use does any of this
 * (cfetch_on); elsewhere a backing file is the file.
 *
 * Locks: ckpt_data.binding, ckpt.maps (whoever changes a map on the disk),
 * cfetch.io, cfetch.lock, ckpt.lock.
 */

#include "base/clock.h"
#include "fs/ckpt.h"
#include "fs/ckpt_fetch_map.h"
#include "fs/ckpt_fetch_wire.h"

#define CFETCH_SMALL_BYTES                                                     \
	(8ull << 20)			  /* fetched whole before open answers \
					   */
#define CFETCH_AHEAD_BYTES (192ull << 20) /* of a file that is read */
#define CFETCH_LINGER_NS                                     \
	(5 * NS_PER_S) /* of a removed file that peers fetch \
			*/
#define CFETCH_RUNNERS 8
#define CFETCH_SERVERS 4

struct remote;
struct engine_peer;
struct engine_message;

/* A call that waits for bytes. */
struct cfetch_wait {
	struct list link;
	struct call *call;
	call_fn then;
	uint64_t from, to;
};

/* What is here of a file that is, or was at its open, not whole. */
struct cfetch {
	struct ckpt_data *d;
	int fd; /* for writing and reading; stays with this version */
	pthread_mutex_t io;   /* held to write to fd; above lock */
	pthread_mutex_t lock; /* guards the rest */
	struct cmap map;
	bool whole; /* nothing more is fetched: the kernel may have it */
	struct list waits;
	uint64_t next; /* the shard that is read next, supposedly */
	bool hurry;    /* it was removed: all of it, while somebody has it */
	bool keep;     /* a peer wants all of it to be here */
	bool running;
	struct job job;

	uint8_t *sums; /* the job's: of all shards; NULL: not known yet */
};

static inline bool cfetch_on(const struct ckpt *ckpt)
{
	return ckpt->fs->remote != NULL;
}

/* --- ckpt_fetch.c --- */
int cfetch_start(struct ckpt *ckpt);
/** cfetch_quiesce - answer who waits, fetch nothing more: before the session
 *  ends. */
void cfetch_quiesce(struct ckpt *ckpt);
void cfetch_stop(struct ckpt *ckpt);

/**
 * cfetch_backing - see that there is a backing file of the inode's version
 * @empty: it is about to be truncated: its bytes do not matter
 *
 * Sets d->fetch where it is not whole. Returns: as cfile_backing.
 */
int cfetch_backing(struct ckpt_data *d, bool empty, struct stat *st);
/** cfetch_free - with the last reference of d. ckpt.lock held. */
void cfetch_free(struct ckpt_data *d);
/** cfetch_is_whole - may the kernel be given the file? */
bool cfetch_is_whole(struct ckpt_data *d);
/** cfetch_hurry - the file was removed elsewhere and is open here. */
void cfetch_hurry(struct ckpt_data *d);
/** cfetch_keep - fetch all of it, though nobody has it open.
 *  Returns: 0 it is here, -EINPROGRESS, -ENOTCONN stopping. */
int cfetch_keep(struct ckpt_data *d);
/** cfetch_has - are these bytes here? Notes that they are read. */
bool cfetch_has(struct ckpt_data *d, uint64_t from, uint64_t to);
/** cfetch_then - fetch these bytes, then run `then` on the call, on a worker;
 *  or it is answered: EIO. Takes the call. */
void cfetch_then(struct call *c, struct ckpt_data *d, uint64_t from,
		 uint64_t to, call_fn then);
/** cfetch_ready - is the inode's file as this call needs it? Else it is
 *  fetched and the call run again by `then`. False: the call is taken.
 *  @write: all of it must be here */
bool cfetch_ready(struct call *c, bool write, call_fn then);
/** cfetch_answer - these waits are over: why, or 0. No lock held. */
void cfetch_answer(struct ckpt_data *d, struct list *waits, int err);
/** cfetch_ahead - is there a shard to be fetched ahead? Locked. */
bool cfetch_ahead(const struct cfetch *f, uint64_t *shard);
/** cfetch_publishing - before a publish: what version the file will be. */
int cfetch_publishing(struct ckpt_data *d, uint64_t version,
		      const struct stat *st);
/** cfetch_published - Redis has it, and its checksums. */
void cfetch_published(struct ckpt *ckpt, uint64_t ino, uint64_t version);
/** cfetch_unpublished - was the file changed here after it was published?
 *  After a start. False: yes or no, there is nothing to publish. */
bool cfetch_unpublished(struct ckpt *ckpt, const struct ckpt_attr *a,
			const struct stat *st);
/** cfetch_map - what is here of an inode. 0 (cmap_fini), or -ENOENT. */
int cfetch_map(struct ckpt *ckpt, uint64_t ino, struct cmap *m);
/** cfetch_count - how many shards of a version are here. */
uint32_t cfetch_count(struct ckpt *ckpt, const struct ckpt_attr *a);
/** cfetch_save - the map beside the backing file; cfetch_remove with it. */
int cfetch_save(struct ckpt *ckpt, const struct cmap *m);
void cfetch_remove(struct ckpt *ckpt, uint64_t ino);
/** cfetch_adopt - a map for a file from before there were any. */
void cfetch_adopt(struct ckpt *ckpt, const struct ckpt_attr *a,
		  const struct stat *st);
/** cfetch_name - for people: what it was last looked up as. */
void cfetch_seen(struct ckpt *ckpt, uint64_t ino, const char *name);
void cfetch_name(struct ckpt *ckpt, uint64_t ino, char *name, size_t bytes);

/* --- ckpt_fetch_run.c --- */
void cfetch_run(struct job *job);

/* --- ckpt_copy.c --- */
/** ccopy_take - a peer wants this node to have all of a version.
 *  Returns: 0 it has, -EINPROGRESS it will, -EAGAIN it takes nothing, -ESTALE
 *           another version, or why it failed a moment ago. Waits. */
int ccopy_take(struct ckpt *ckpt, const struct cwire_ask *ask);
/** ccopy_failed - what ccopy_take began came to nothing. */
void ccopy_failed(struct ckpt *ckpt, uint64_t ino, uint64_t version, int err);
/**
 * ccopy_spread - see that so many hosts have a file
 *
 * Nodes that are about to leave (drain) do not count. Asks as many others as
 * are missing to take it, and does not wait until they have it: ask again.
 * Returns: 0 they have, -EINPROGRESS they are at it, -EBUSY too few could,
 *          -ENODATA no node has any of it, -ETXTBSY it is being written.
 */
int ccopy_spread(struct ckpt *ckpt, struct ckpt_inode *inode, unsigned copies,
		 int64_t deadline);

/* --- ckpt_fetch_serve.c --- */
void cfetch_serve_start(struct ckpt *ckpt);
/** cfetch_message - a peer asks for a shard, or its sum. On a thread of the
 *  engine. */
void cfetch_message(struct remote *r, struct engine_peer *peer,
		    const struct engine_message *m);
/** cfetch_was_served - do peers fetch this file? Then its bytes stay a while
 *  after its last name went. ckpt.lock held. */
bool cfetch_was_served(struct ckpt *ckpt, uint64_t ino);
/** cfetch_will_serve - a peer may be about to ask: it looked the name up
 *  before that went. As if it had asked. ckpt.lock held. */
void cfetch_will_serve(struct ckpt *ckpt, uint64_t ino);
/** cfetch_check_doubts - which of the files that were said to be gone are? */
void cfetch_check_doubts(struct ckpt *ckpt);
/** cfetch_tell_gone - the other nodes may drop what they have of it. */
void cfetch_tell_gone(struct ckpt *ckpt, uint64_t ino);
/** cfetch_serve_stop - nothing comes from peers or meta any more. */
void cfetch_serve_stop(struct ckpt *ckpt);

#endif

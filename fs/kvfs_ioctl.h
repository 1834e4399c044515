/* SPDX-License-Identifier: MIT */
#ifndef KVFS_IOCTL_H
#define KVFS_IOCTL_H

/*
 * The ioctls of a kvfs mount, for clients that want more than read(2). Most
 * use libkvfs; kvfs-ioctl(4) has the long story.
 *
 * A command is given on the descriptor of a directory of the mount. Names are
 * relative to that directory; whether the caller may search the directories
 * on the way, and read what he asks for, is checked name by name with the
 * rights that he has at the call.
 *
 * Data goes both ways in one buffer:
 *
 *      ioctl(dir_fd, KVFS_IOC_EXISTS(room), buffer)
 *
 *      request   ┌──────┬─────────────────────┬───────────┐
 *                │ head │ the command's struct│ names     │     free
 *                └──────┴─────────────────────┴───────────┘
 *                 ◀────────── head.size ─────────────────▶
 *                 ◀────────── room, of which the command's number tells ──▶
 *      answer    ┌──────┬─────────────────────┬─────┐
 *                │ head │ the answer's struct │ …   │
 *                └──────┴─────────────────────┴─────┘
 *                 ◀────────── head.size ───────────▶
 *
 * The answer lies over the request. All fields are little-endian and of fixed
 * width; reserved fields and unknown flags must be 0.
 *
 * Errors, of every command:
 *      ENOTTY           no directory of a kvfs mount, or a command (also: a
 *                       size of it) that this daemon does not have
 *      EPROTONOSUPPORT  head.abi is not the daemon's: ask KVFS_IOC_VERSION
 *      EINVAL           head.size is not what the request takes, a reserved
 *                       field or an unknown flag is set, a name is none
 *      EOPNOTSUPP       not on this directory: names are those of blocks, so
 *                       the directory is kv/ or lies below it
 *      EMSGSIZE         the answer needs more room
 *      ENOENT           the directory was removed
 *      ENOMEM, ENOTCONN the daemon has no memory; is about to leave
 */

#include <stdint.h>
#include <sys/ioctl.h>

#define KVFS_IOC_ABI 1u
#define KVFS_IOC_TYPE 0xd7
#define KVFS_IOC_ROOM_MAX 16383u /* bytes each way: the kernel's limit */
#define KVFS_IOC_CALL(nr, room) \
	_IOC(_IOC_READ | _IOC_WRITE, KVFS_IOC_TYPE, nr, room)

/* First in every request and every answer. */
struct kvfs_ioc_head {
	uint32_t size; /* bytes in use, this one included */
	uint32_t abi;  /* KVFS_IOC_ABI */
};

/* ---- what is this mount? On any directory of it ------------------------ */

#define KVFS_IOC_VERSION KVFS_IOC_CALL(1, sizeof(struct kvfs_ioc_version))

/* The kernel reads and maps blocks itself (FUSE passthrough). */
#define KVFS_IOC_HAS_PASSTHROUGH (1ull << 0)
/* Other nodes' blocks are found and can be fetched. */
#define KVFS_IOC_HAS_CLUSTER (1ull << 1)
/* KVFS_IOC_RING is there. */
#define KVFS_IOC_HAS_RING (1ull << 2)
/* A card is here that may be used: what comes from nodes that have one, too,
 * comes by RDMA as long as that works. */
#define KVFS_IOC_HAS_RDMA (1ull << 3)
/* No bit tells of a GPU: whether a card of the daemon reaches its memory is
 * known when a dma-buf of it is registered. libkvfs copies by way of a buffer
 * where none does (kvfs_register_gpu). */

/* In the request all but the head is 0, and head.abi may be any. */
struct kvfs_ioc_version {
	struct kvfs_ioc_head head;
	uint64_t features;  /* KVFS_IOC_HAS_* */
	uint32_t room_max;  /* KVFS_IOC_ROOM_MAX */
	uint32_t names_max; /* of one request; its size may allow fewer */
	char version[40];   /* of the daemon, 0-terminated */
};

/* ---- names ------------------------------------------------------------- */

#define KVFS_IOC_NAMES_MAX 2000u

/*
 * Names of a request. What follows the command's struct, up to head.size:
 *
 *      digest_bytes 0            n names, each 0-terminated; they are paths:
 *                                "a", "0a/1b/c.bin"
 *      digest_bytes 16, 20, 32   suffix_bytes bytes, then n digests of so
 *                                many bytes; a name is the digest in
 *                                lower-case hex and then the suffix
 *
 * The order of the names is that of a prefix chain.
 */
struct kvfs_ioc_names {
	uint32_t n;
	uint8_t digest_bytes;
	uint8_t suffix_bytes; /* 0 without digests */
	uint16_t reserved;
};

/* ---- which of these names are there, and where? ------------------------ */

#define KVFS_IOC_EXISTS(room) KVFS_IOC_CALL(2, room)
#define KVFS_IOC_MATCH(room) KVFS_IOC_CALL(3, room)

/* Do not ask Redis: what this node holds or has heard of. */
#define KVFS_IOC_LOCAL (1u << 0)

/* EXISTS and MATCH. A temporary file (*.tmp and the like) is not there. */
struct kvfs_ioc_find {
	struct kvfs_ioc_head head;
	uint32_t flags; /* KVFS_IOC_LOCAL */
	uint32_t reserved;
	struct kvfs_ioc_names names;
	/* … */
};

/* Redis did not answer in time: there may be more. */
#define KVFS_IOC_INCOMPLETE (1u << 0)

/*
 * The answer. Behind it come n_nodes of struct kvfs_ioc_node (MATCH only, the
 * longest prefix first), then (n + 7) / 8 bytes of a bitmap: the i-th name is
 * on some node if bit i % 8 of byte i / 8 is set.
 */
struct kvfs_ioc_found {
	struct kvfs_ioc_head head;
	uint32_t flags;	    /* KVFS_IOC_INCOMPLETE */
	uint32_t n;	    /* names */
	uint32_t n_present; /* of them */
	uint32_t n_prefix;  /* the first so many are all there */
	uint32_t n_nodes;
	uint32_t reserved;
};

/* This is the node that was asked. */
#define KVFS_IOC_SELF (1u << 0)

/* A node that holds the first name. */
struct kvfs_ioc_node {
	uint32_t n_prefix; /* it holds the first so many names */
	uint32_t flags;	   /* KVFS_IOC_SELF */
	char uuid[40];	   /* both 0-terminated */
	char name[72];
};

static inline const struct kvfs_ioc_node *
kvfs_ioc_nodes(const struct kvfs_ioc_found *found)
{
	return (const struct kvfs_ioc_node *)(found + 1);
}

static inline int kvfs_ioc_is_there(const struct kvfs_ioc_found *found,
				    uint32_t i)
{
	const uint8_t *bits =
		(const uint8_t *)(kvfs_ioc_nodes(found) + found->n_nodes);

	return bits[i / 8] >> (i % 8) & 1;
}

/* ---- blocks in place ---------------------------------------------------- */

#define KVFS_IOC_LOCATE(room) KVFS_IOC_CALL(4, room)
#define KVFS_IOC_UNPIN(room) KVFS_IOC_CALL(5, room)

/* What other nodes hold is fetched first. */
#define KVFS_IOC_FETCH (1u << 0)

/*
 * LOCATE pins blocks, that is, they are neither evicted nor changed, and says
 * where they are: bytes offset to offset + length of the file .kvfs/frames/N,
 * which whoever may read the block may open (read-only) and map.
 *
 * A pin belongs to the open directory that the call was given on. It ends with
 * an UNPIN, one for each LOCATE of the block, or when the directory is closed
 * for the last time, if only because its process died. From then on the block
 * may go. A mapping that is still there shows its bytes for as long as it
 * lives, and keeps their memory from others: unmap it.
 *
 * The n_unpin pins before the names are given back first, as by an UNPIN,
 * whatever comes of the rest: who goes through blocks makes one call a block.
 *
 * What one user has pinned, opened and reserved is at most half of the pool:
 * of each block the length in whole pages of 4 KiB, once for him. A million
 * pins and opens are his at most, one for each block of each directory.
 */
struct kvfs_ioc_locate {
	struct kvfs_ioc_head head;
	uint32_t flags;	      /* KVFS_IOC_FETCH */
	uint32_t deadline_ms; /* of FETCH; 0: that of the mount, never more */
	uint32_t n_unpin;     /* of struct kvfs_ioc_pin, before the names */
	uint32_t reserved;
	struct kvfs_ioc_names names;
	/* … */
};

/* Its checksum is known: XXH3-128, low half first. */
#define KVFS_IOC_HAS_CHECKSUM (1u << 0)

struct kvfs_ioc_block {
	uint32_t error; /* 0: pinned; else why not, an errno of Linux */
	uint32_t flags; /* KVFS_IOC_HAS_CHECKSUM */
	uint32_t frame;
	uint32_t epoch; /* counts the owners of the frame; never 0 */
	uint64_t offset;
	uint64_t length;
	uint64_t generation; /* of the name; 0: not published yet */
	uint64_t checksum[2];
};

/*
 * The answer; n blocks stand behind it. KVFS_IOC_INCOMPLETE: some were not
 * here by the deadline.
 *
 * error: ENOENT no such block, EREMOTE another node has it and FETCH was not
 * asked for, EACCES it may not be read, EDQUOT the user holds too much, EIO
 * its bytes are damaged, ENOMEM.
 */
struct kvfs_ioc_located {
	struct kvfs_ioc_head head;
	uint32_t flags;
	uint32_t n, n_located;
	uint32_t reserved;
};

struct kvfs_ioc_pin {
	uint32_t frame, epoch;
};

/* n of struct kvfs_ioc_pin stand behind it. In the answer of UNPIN n says how
 * many of them there were, and none stand behind it. */
struct kvfs_ioc_pins {
	struct kvfs_ioc_head head;
	uint32_t flags; /* 0 */
	uint32_t n;
};

static inline const struct kvfs_ioc_block *
kvfs_ioc_blocks(const struct kvfs_ioc_located *located)
{
	return (const struct kvfs_ioc_block *)(located + 1);
}

/* ---- writing in place ---------------------------------------------------- */

#define KVFS_IOC_RESERVE(room) KVFS_IOC_CALL(6, room)
#define KVFS_IOC_COMMIT(room) KVFS_IOC_CALL(7, room)
#define KVFS_IOC_ABORT(room) KVFS_IOC_CALL(8, room)

/*
 * RESERVE lends n empty frames of so many bytes, to be opened for writing as
 * .kvfs/frames/N and mapped by the user who reserved them. They belong to the
 * open directory like pins, and count as what its user holds. The answer is a
 * struct kvfs_ioc_pins.
 */
struct kvfs_ioc_reserve {
	struct kvfs_ioc_head head;
	uint32_t flags; /* 0 */
	uint32_t n;
	uint64_t length; /* of each, 1 or more */
};

/* ABORT: these reservations end. A struct kvfs_ioc_pins goes in; in the answer
 * n says how many of them there were, and none stand behind it. */

/* Wait until Redis knows them, and as many nodes hold them as their namespace
 * asks for. */
#define KVFS_IOC_SYNC (1u << 0)
/* The first name is a block that the first of the new ones continues. */
#define KVFS_IOC_PARENT (1u << 1)
/* Not of PUT: the caller has let go of the frames, which the kernel may tell
 * only a moment later: the daemon waits for that, up to 20 ms. */
#define KVFS_IOC_LET_GO (1u << 2)

/*
 * COMMIT makes blocks of what was written. n of struct kvfs_ioc_store stand
 * behind it, then the names: n, or n + 1 with PARENT. Each continues the one
 * before. Their directories must be there, and the caller may write there.
 *
 * If nobody has the frame open or mapped any more, it becomes the block as it
 * is, and the reservation has ended. Otherwise the block is a copy, and the
 * frame stays reserved (KVFS_IOC_KEPT): to be written again.
 */
struct kvfs_ioc_commit {
	struct kvfs_ioc_head head;
	uint32_t flags; /* KVFS_IOC_SYNC, KVFS_IOC_PARENT, KVFS_IOC_LET_GO */
	uint32_t n;
	uint32_t mode; /* permission bits of the blocks; no umask */
	uint32_t reserved;
	struct kvfs_ioc_names names;
};

struct kvfs_ioc_store {
	struct kvfs_ioc_pin pin;
	uint64_t length; /* from the start of the frame */
};

#define KVFS_IOC_KEPT (1u << 0)
/* There was a block of this name: it stays, and nothing was stored. The frame
 * stays reserved. */
#define KVFS_IOC_WAS_THERE (1u << 1)
/* It is stored, but SYNC did not come to its end: Redis or other nodes. */
#define KVFS_IOC_UNSYNCED (1u << 2)

/*
 * error: 0, or why it was not stored: ENOENT no such reservation of this
 * directory, or the name's directory is not there; EACCES it may not be written
 * there; EINVAL a name of a temporary file, or the frame is shorter than
 * length; EISDIR; ENOSPC; ENOMEM; EIO.
 */
struct kvfs_ioc_stored {
	uint32_t error;
	uint32_t flags; /* KVFS_IOC_KEPT, … */
};

/* The answer; n of struct kvfs_ioc_stored stand behind it. */
struct kvfs_ioc_committed {
	struct kvfs_ioc_head head;
	uint32_t flags; /* 0 */
	uint32_t n, n_stored;
	uint32_t reserved;
};

/* ---- what stays and what goes -------------------------------------------- */

#define KVFS_IOC_TOUCH(room) KVFS_IOC_CALL(9, room)
#define KVFS_IOC_EVICT(room) KVFS_IOC_CALL(10, room)
#define KVFS_IOC_PREFETCH(room) KVFS_IOC_CALL(11, room)

/*
 * A struct kvfs_ioc_find without flags, and names, go in; a struct
 * kvfs_ioc_found comes out, whose bits say for which of them it was done.
 *
 * TOUCH: they are used now, as if opened: the caller may read them.
 * EVICT: they go from this node; other nodes' copies stay. The caller may
 * remove them; what is open, mapped or pinned by anybody stays.
 * PREFETCH: those of other nodes come here in the background, in the order of
 * the names; those that are here already count, too. The caller may read them.
 * Nobody is told when one came, or did not. 4,096 of all callers can wait to
 * be fetched: there is no bit for what is more.
 */

/* ---- data to and from memory of the client's own ------------------------- */

#define KVFS_IOC_REGISTER KVFS_IOC_CALL(12, sizeof(struct kvfs_ioc_register))
#define KVFS_IOC_UNREGISTER \
	KVFS_IOC_CALL(13, sizeof(struct kvfs_ioc_unregister))
#define KVFS_IOC_GET(room) KVFS_IOC_CALL(14, room)
#define KVFS_IOC_PUT(room) KVFS_IOC_CALL(15, room)

/*
 * REGISTER gives the daemon a part of a memfd to move data to and from. The
 * memfd has F_SEAL_SHRINK, and what is a hole in the part is filled. The
 * buffer belongs to the open directory, like pins; the descriptor may be
 * closed at once. The answer is a struct kvfs_ioc_registered.
 *
 * Or it is a dma-buf, memory of a GPU, which a card of this machine copies to
 * and from. It has no seals.
 *
 *      EBADF       the process has no such descriptor
 *      EINVAL      it is neither, or has not so many bytes
 *      EPERM       the memfd has no F_SEAL_SHRINK; or the kernel does not let
 *                  the daemon take it (ptrace(2) says when)
 *      EACCES      it is not open for reading
 *      EOPNOTSUPP  it is a dma-buf, and no RDMA card here reaches it
 *      EDQUOT      more than one user, or all, may register
 *      ETIMEDOUT   filling the holes took too long: touch the memory before
 */
struct kvfs_ioc_register {
	struct kvfs_ioc_head head;
	uint32_t flags; /* 0 */
	int32_t fd;	/* of the calling process */
	uint64_t offset, length;
};

struct kvfs_ioc_buffer {
	uint32_t id;
	uint32_t epoch; /* never 0: no two buffers of a mount look alike */
};

/* GET may write there: the descriptor is open for writing and not sealed
 * against it. */
#define KVFS_IOC_WRITABLE (1u << 0)

struct kvfs_ioc_registered {
	struct kvfs_ioc_head head;
	struct kvfs_ioc_buffer buffer;
	uint32_t flags; /* KVFS_IOC_WRITABLE */
	uint32_t reserved;
};

/* EBADF no such buffer of this directory, EBUSY data of a GET or PUT is on its
 * way. The answer is the request. */
struct kvfs_ioc_unregister {
	struct kvfs_ioc_head head;
	struct kvfs_ioc_buffer buffer;
	uint32_t flags, reserved; /* 0 */
};

/* From or to `at` of the buffer. */
struct kvfs_ioc_move {
	uint64_t offset; /* in the block; of PUT 0 */
	uint64_t length;
	uint64_t at;
	struct kvfs_ioc_buffer buffer;
};

/*
 * GET reads blocks into buffers, as pread(2) does: up to their end. n of
 * struct kvfs_ioc_move stand behind it, n as in names, then the names.
 *
 * With FETCH a block of another node that is asked for as a whole, and for
 * which there is room, comes straight into the buffer and is not kept here;
 * any other, and all for a dma-buf, is fetched into the pool first. Its
 * checksum is compared in the buffer. Until the call has ended, and where there
 * was an error, what lies in the part of the buffer is undefined.
 */
struct kvfs_ioc_get {
	struct kvfs_ioc_head head;
	uint32_t flags;	      /* KVFS_IOC_FETCH */
	uint32_t deadline_ms; /* of FETCH; 0: that of the mount, never more */
	struct kvfs_ioc_names names;
};

/* It came straight from another node. */
#define KVFS_IOC_STRAIGHT (1u << 0)

/*
 * error: as of struct kvfs_ioc_block, and EBADF no such buffer of this
 * directory, EINVAL outside of it, EROFS it cannot be written, EFAULT its
 * memory is not there, ETIMEDOUT it did not come by the deadline. Of a dma-buf
 * EIO also where the card failed, ENODEV where it is lost: register it anew.
 */
struct kvfs_ioc_moved {
	uint32_t error;
	uint32_t flags;	 /* KVFS_IOC_STRAIGHT */
	uint64_t length; /* of what was read */
	uint64_t size;	 /* of the block */
};

/* The answer; n of struct kvfs_ioc_moved stand behind it. */
struct kvfs_ioc_got {
	struct kvfs_ioc_head head;
	uint32_t flags; /* 0 */
	uint32_t n, n_got;
	uint32_t reserved;
};

/*
 * PUT stores blocks. It is COMMIT but for n of struct kvfs_ioc_move in the
 * place of struct kvfs_ioc_store: the block is a copy of the part of the
 * buffer as it was at some time during the call. KVFS_IOC_KEPT is never set.
 *
 * error: as of COMMIT; EBADF, EINVAL, EFAULT, EIO and ENODEV as of GET; ENOSPC
 * also where it is larger than the pool.
 */

static inline const struct kvfs_ioc_moved *
kvfs_ioc_moves(const struct kvfs_ioc_got *got)
{
	return (const struct kvfs_ioc_moved *)(got + 1);
}

/* ---- a file of ckpt/ as the disk has it ---------------------------------- */

#define KVFS_IOC_BACKING KVFS_IOC_CALL(17, sizeof(struct kvfs_ioc_backing))

/*
 * BACKING is given on a file of ckpt/ that is open for reading. The daemon
 * sends a descriptor of the file behind it, read-only, and with O_DIRECT where
 * the disk's filesystem has that, by SCM_RIGHTS through a connected socket of
 * AF_UNIX, with one byte. It is for libraries such as cuFile that know that
 * filesystem and not FUSE. What is read by it is what read(2) of the file
 * reads; it stays so when the name is removed or gets another version. The
 * answer is the request.
 *
 *      EAGAIN      parts of the file are not here yet: read(2) fetches them
 *      EACCES      it is not open for reading
 *      EOPNOTSUPP  it is no file of ckpt/
 *      EBADF       the process has no such descriptor
 *      EINVAL      it is no socket of AF_UNIX
 *      EPERM       the kernel does not let the daemon take it
 *      EBUSY       the socket is full; or what sendmsg(2) says
 */
struct kvfs_ioc_backing {
	struct kvfs_ioc_head head;
	uint32_t flags;	   /* 0 */
	int32_t socket_fd; /* of the calling process */
	uint64_t reserved; /* 0 */
};

/* ---- a ring in shared memory --------------------------------------------- */

/*
 * Commands without system calls. RING gives the daemon a memfd with
 * F_SEAL_SHRINK:
 *
 *      ┌──────────────────┬─────────────┬──────────────┬───┬────────────────┐
 *      │ kvfs_ring_shared │ submissions │  completions │   │ data           │
 *      └──────────────────┴─────────────┴──────────────┴───┴────────────────┘
 *       ◀─── 4096 ───────▶ ◀ entries of each ─────────▶     ◀─ data_bytes ─▶
 *                                                          at a multiple of
 * 4096
 *
 * All is 0 at first. A submission names a request, which has the format of
 * the ioctl's, in the data; the answer is written over it. Until the
 * completion is there both belong to the daemon, and the request is looked at
 * once, at any time.
 *
 *      client  write the request, sq[sq_tail % entries], then sq_tail + 1;
 *              if the daemon's KVFS_RING_NEED_WAKEUP is set: write submit_fd
 *      daemon  answer, cq[cq_tail % entries], then cq_tail + 1;
 *              if the client's KVFS_RING_WANT_EVENT is set: clear it, and
 *              signal complete_fd
 *      client  read it, then cq_head + 1
 *
 * An index is stored with release, and loaded with acquire, order. Between
 * storing what the other side acts upon and loading its flag stands a full
 * fence; and so between setting a flag and the last look before sleeping.
 * Completions come in any order. Never more than `entries` may be submitted
 * whose completion was not taken (sq_tail - cq_head): so there is always room
 * for a completion.
 *
 * A ring belongs to the open directory, and acts for the user who made it,
 * with the groups that he had then. The daemon ends it when the directory is
 * closed for the last time. One directory has one ring.
 */
#define KVFS_IOC_RING KVFS_IOC_CALL(16, sizeof(struct kvfs_ioc_ring))

#define KVFS_RING_ENTRIES_MAX 4096u	  /* a power of 2 */
#define KVFS_RING_DATA_MAX (256ull << 20) /* bytes */
#define KVFS_RING_BYTES_MAX (512u << 10)  /* of a request; of an answer */

/* In the answer nothing but the head matters. */
struct kvfs_ioc_ring {
	struct kvfs_ioc_head head;
	uint32_t flags;	     /* 0 */
	int32_t memory_fd;   /* numbers of the calling process */
	int32_t submit_fd;   /* an eventfd */
	int32_t complete_fd; /* an eventfd, or -1: the client only polls */
	uint32_t entries;
	uint32_t reserved;
	uint64_t data_bytes;
};

struct kvfs_ring_word {
	uint32_t value;
	uint32_t reserved[15]; /* a cache line of its own */
};

/* The daemon sleeps: write submit_fd after submitting. */
#define KVFS_RING_NEED_WAKEUP (1u << 0)
/* The client broke a rule: nothing is taken any more, nor completed. */
#define KVFS_RING_STOPPED (1u << 1)
/* The client sleeps, or is about to. */
#define KVFS_RING_WANT_EVENT (1u << 0)

struct kvfs_ring_shared {
	/* The daemon's; nobody else's word counts. */
	struct kvfs_ring_word sq_head; /* submissions that were taken */
	struct kvfs_ring_word cq_tail;
	struct kvfs_ring_word daemon; /* KVFS_RING_NEED_WAKEUP, STOPPED */
	/* The client's: */
	struct kvfs_ring_word sq_tail;
	struct kvfs_ring_word cq_head;
	struct kvfs_ring_word client; /* KVFS_RING_WANT_EVENT */
};

/*
 * command: the number of EXISTS, MATCH, LOCATE, UNPIN, RESERVE, COMMIT, ABORT,
 * TOUCH, EVICT, PREFETCH, GET or PUT as KVFS_IOC_CALL has it.
 */
struct kvfs_ring_submission {
	uint32_t command;
	uint32_t flags; /* 0 */
	uint64_t user_data;
	uint64_t at;	/* in the data */
	uint32_t bytes; /* of the request */
	uint32_t room;	/* for the answer */
};

struct kvfs_ring_completion {
	uint64_t user_data;
	int32_t result; /* bytes of the answer, or a negative errno */
	uint32_t reserved;
};

#define KVFS_RING_SQ_AT 4096u

static inline uint64_t kvfs_ring_cq_at(uint32_t entries)
{
	return KVFS_RING_SQ_AT +
	       (uint64_t)entries * sizeof(struct kvfs_ring_submission);
}

static inline uint64_t kvfs_ring_data_at(uint32_t entries)
{
	return (kvfs_ring_cq_at(entries) +
		(uint64_t)entries * sizeof(struct kvfs_ring_completion) +
		4095) /
	       4096 * 4096;
}

#endif

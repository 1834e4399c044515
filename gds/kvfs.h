/* SPDX-License-Identifier: MIT */
#ifndef KVFS_H
#define KVFS_H

/*
 * libkvfs: what a client of a kvfs mount wants beyond read(2) and write(2).
 *
 * Names of blocks come first: the digest of a block names its tokens and all
 * tokens before it, so two prompts with a common prefix have the same names as
 * far as they agree.
 *
 *      tokens   │ 0 … 15 │ 16 … 31 │ 32 … 47 │ 48 49   (block_tokens 16)
 *      digests  │   a ───┼──▶ b ───┼──▶ c    │          3 whole blocks
 *
 * Then the blocks: a directory of a mount is opened once, and asked for many
 * names in one call.
 *
 *      kvfs_open ──▶ kvfs_exists, kvfs_match
 *                ──▶ kvfs_get ──▶ kvfs_put ──▶ kvfs_close
 *
 * And memory of the caller's own, to read into and store from.
 *
 * The library keeps no state of its own and prints nothing. Functions return a
 * count or 0, or a negative errno, which kvfs_strerror explains.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/** kvfs_version - of the library, such as "0.1.0". Threads: any. */
const char *kvfs_version(void);

/**
 * kvfs_strerror - what a negative errno of this library means
 * @err: negative; or any number
 *
 * Returns: a text that is never freed and never changes.
 * Threads: any.
 */
const char *kvfs_strerror(int err);

/* ---- names of blocks: prefix chains ------------------------------------ */

enum kvfs_hash {
	KVFS_XXH3_128 = 1, /* 16 bytes; fast, but others can make collisions */
	KVFS_SHA256 = 2,   /* 32 bytes; where tenants distrust each other */
};

#define KVFS_DIGEST_MAX 32 /* bytes, of any hash */

/** kvfs_digest_bytes - 16 or 32; -EINVAL no such hash. Threads: any. */
int kvfs_digest_bytes(enum kvfs_hash hash);

/**
 * kvfs_block_digest - the digest of one block of a prefix chain
 * @hash:     which hash
 * @parent:   the digest of the block before it; NULL: it is the first
 * @tokens:   its token ids
 * @n_tokens: how many
 * @keys:     what else its bytes depend on: an adapter, an image's digest, a
 *            tenant's salt; their order counts
 * @n_keys:   how many; 0: none, and @keys may be NULL
 * @digest:   kvfs_digest_bytes(hash) bytes, set only on success; may be
 *            @parent
 *
 * Shape:   the hash of: @parent (as many zero bytes as a digest has for the
 *          first block), @n_tokens, the tokens, then of each key its length
 *          and its bytes; numbers are little-endian and have 32 bits. An
 *          XXH3-128 digest has its high half first, most significant byte
 *          first.
 * Returns: 0, -EINVAL no such hash, -E2BIG a key or the tokens are more than
 *          UINT32_MAX, -ENOMEM.
 * Threads: any.
 * Source:  kvfs_block_digest(3) has test vectors.
 */
int kvfs_block_digest(enum kvfs_hash hash, const void *parent,
		      const uint32_t *tokens, size_t n_tokens,
		      const struct iovec *keys, size_t n_keys, void *digest);

/**
 * kvfs_chain_digests - the digests of all whole blocks of a prompt
 * @hash:         which hash
 * @parent:       the digest of the block before the first; NULL: there is none
 * @tokens:       token ids
 * @n_tokens:     how many; what does not fill a block is left out
 * @block_tokens: tokens a block, at least 1
 * @keys, n_keys: as for kvfs_block_digest, the same for each block
 * @digests:      room for n_tokens / block_tokens digests, one behind the other
 *
 * Returns: how many blocks, or -errno as kvfs_block_digest; -EINVAL also where
 *          @block_tokens is 0, -E2BIG also for more than INT_MAX blocks.
 * Threads: any.
 */
int kvfs_chain_digests(enum kvfs_hash hash, const void *parent,
		       const uint32_t *tokens, size_t n_tokens,
		       size_t block_tokens, const struct iovec *keys,
		       size_t n_keys, void *digests);

/* ---- a directory of a mount -------------------------------------------- */

struct kvfs; /* one open directory */

/**
 * kvfs_open - a directory of a mount, below which names are looked up
 * @path: a directory at or below kv/ of a mount, such as a namespace
 * @k:    the handle, set only on success; kvfs_close ends it
 *
 * Returns: 0, -ENOTTY it is on no kvfs mount or the daemon is too old,
 *          -EPROTONOSUPPORT the daemon's interface is a later one than this
 *          library knows, -ENOMEM, or what open(2) says.
 * Threads: any; a handle may be used by many threads at once.
 */
int kvfs_open(const char *path, struct kvfs **k);

/** kvfs_close - end it; NULL is none. No call may be under way. */
void kvfs_close(struct kvfs *k);

/** kvfs_fd - its directory's descriptor, which stays its own. Threads: any. */
int kvfs_fd(const struct kvfs *k);

/* ---- which blocks are there, and where? -------------------------------- */

/*
 * Names, below the directory of a handle; their order is that of a prefix
 * chain. Either paths ("a", "0a/1b.bin"), or digests, of which a name is the
 * lower-case hex and then the suffix.
 */
struct kvfs_names {
	uint32_t n;
	const char *const *paths; /* n of them; NULL: digests */
	const void *digests;	  /* n, one behind the other */
	uint32_t digest_bytes;	  /* 16, 20 or 32 */
	const char *suffix;	  /* NULL: none */
};

/* What this node holds, or has heard of; Redis is not asked. */
#define KVFS_LOCAL 1u

struct kvfs_found {
	uint32_t n_present;  /* so many are on some node */
	uint32_t n_prefix;   /* the first so many are all there */
	uint32_t incomplete; /* 1: Redis did not answer in time, there may be
				more */
};

/* A node that holds the first names of a prefix. */
struct kvfs_holder {
	uint32_t n_prefix; /* it holds the first so many */
	uint32_t is_self;  /* 1: the node of the mount that was asked */
	char uuid[40];	   /* both 0-terminated */
	char name[72];
};

/**
 * kvfs_exists - which of these names are blocks of any node?
 * @k:      an open directory
 * @names:  any number of names
 * @flags:  KVFS_LOCAL or 0
 * @bitmap: (n + 7) / 8 bytes: bit i % 8 of byte i / 8 is that of name i; or
 *          NULL
 * @found:  the counts; set only on success
 *
 * Shape:   one call of the daemon for up to 2,000 names, 1,022 digests of 16
 *          bytes; it asks Redis at most once for each such call. A file that
 *          is still being written, or that the caller may not read, is not
 *          there.
 * Returns: 0, -EINVAL a name that no block can have or an unknown flag,
 *          -EOPNOTSUPP the directory is not kv/ nor below it, -ENOENT it was
 *          removed, -ENOMEM, -ENOTCONN the daemon is gone.
 * Threads: any.
 */
int kvfs_exists(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
		uint8_t *bitmap, struct kvfs_found *found);

/**
 * kvfs_match - which nodes hold how much of a prefix?
 * @k, names, flags: as for kvfs_exists
 * @holders: the nodes that hold the first name, the longest prefix first
 * @room:    so many of them, at most
 * @found:   as for kvfs_exists, but names behind the end of every prefix are
 *           not asked for and not counted in n_present
 *
 * Returns: how many holders were set, or -errno as kvfs_exists. A block's
 *          record names 16 of its holders: of one that more nodes hold, some
 *          are not shown.
 * Threads: any.
 */
int kvfs_match(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
	       struct kvfs_holder *holders, uint32_t room,
	       struct kvfs_found *found);

/* ---- blocks in place --------------------------------------------------- */

/* What other nodes hold is fetched first. */
#define KVFS_FETCH 2u

/* One block, as kvfs_get left it; kvfs_put ends it. */
struct kvfs_block {
	const void *data; /* read-only; NULL: there is an error */
	uint64_t bytes;
	uint64_t checksum[2];  /* XXH3-128, low half first */
	uint64_t generation;   /* of the name; 0: it is not published yet */
	uint32_t has_checksum; /* 0: it is not known yet */
	int error;	       /* 0, or a negative errno: why it is not here */
	uint32_t frame, epoch; /* the library's */
};

/**
 * kvfs_get - blocks in place: pointers into the pool's own memory
 * @k:           an open directory
 * @names:       any number of names, in the order of their chain
 * @flags:       KVFS_FETCH or 0
 * @deadline_ms: of fetches; 0: that of the mount, which is also the longest
 * @blocks:      names->n of them; kvfs_put must be called with all of them,
 *               whatever the result was
 *
 * Shape:   a block is pinned: it is neither evicted nor changed until
 *          kvfs_put. One call of the daemon for up to 292 names; a frame is
 *          mapped at its first use and stays mapped for a while after its
 *          last, so that the next kvfs_get of the block maps nothing. Where
 *          the kernel does not map a file of the mount, data is a copy.
 * Returns: how many of the blocks are there (error 0), or -errno of the first
 *          call that failed, as kvfs_exists.
 *          error of a block: -ENOENT there is none, -EREMOTE another node has
 *          it and KVFS_FETCH was not asked for, -ETIMEDOUT it did not come in
 *          time, -EACCES it may not be read, -EDQUOT this user has pinned half
 *          of the pool, -EIO it is damaged, -ECANCELED the
 *          call failed before it came to it, -ENOMEM.
 * Threads: any.
 * Source:  the model of io_uring's provided buffers: the memory is not the
 *          caller's, and is given back.
 */
int kvfs_get(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
	     uint32_t deadline_ms, struct kvfs_block *blocks);

/**
 * kvfs_put - give blocks of kvfs_get back; their data may be gone then
 * @k:      the handle they came from
 * @blocks: @n of them; those with an error are passed over
 * @n:      any number
 *
 * Returns: 0, or -errno of the call of the daemon that failed; there is
 *          nothing left to be done then but kvfs_close.
 * Threads: any.
 */
int kvfs_put(struct kvfs *k, struct kvfs_block *blocks, uint32_t n);

/**
 * kvfs_exchange - kvfs_put of blocks and kvfs_get of the next ones, in one call
 * @old:   @n_old of them, as of kvfs_put
 * @blocks: may be @old; the rest as of kvfs_get
 *
 * Shape:   one call of the daemon instead of two, for up to 1,000 old ones:
 *          who goes through blocks one by one saves half of what is not the
 *          blocks' own bytes. The old ones are given back in any case, and
 *          before the others are got.
 * Returns: as kvfs_get.
 * Threads: any.
 */
int kvfs_exchange(struct kvfs *k, struct kvfs_block *old, uint32_t n_old,
		  const struct kvfs_names *names, uint32_t flags,
		  uint32_t deadline_ms, struct kvfs_block *blocks);

/* ---- what stays and what goes ------------------------------------------ */

/**
 * kvfs_touch - these blocks were used: they go later, when room is needed
 * @k:      an open directory
 * @names:  any number of names
 * @bitmap: as of kvfs_exists: for which it was done; or NULL
 *
 * Shape:   only blocks of this node, which the caller may read.
 * Returns: for how many it was done, or -errno as kvfs_exists.
 * Threads: any.
 */
int kvfs_touch(struct kvfs *k, const struct kvfs_names *names, uint8_t *bitmap);

/**
 * kvfs_evict - these blocks go from this node now; other nodes' copies stay
 *
 * Shape:   the caller may remove them; what anybody has open, mapped or got
 *          stays. Arguments and result are those of kvfs_touch.
 */
int kvfs_evict(struct kvfs *k, const struct kvfs_names *names, uint8_t *bitmap);

/**
 * kvfs_prefetch - blocks of other nodes come to this node in the background
 *
 * Shape:   in the order of the names, 32 at a time; what is on its way, or is
 *          here already, is in @bitmap and in the result. Nobody is told when
 *          one came, or could not: to use them is kvfs_get with KVFS_FETCH.
 *          The daemon remembers up to 4,096 names of all its callers, and no
 *          more. The caller may read them. Arguments and result are otherwise
 *          those of kvfs_touch.
 */
int kvfs_prefetch(struct kvfs *k, const struct kvfs_names *names,
		  uint8_t *bitmap);

/* ---- memory of the caller's own ----------------------------------------- */

/*
 * Blocks are read into registered memory and stored out of it, without a copy
 * by the caller; those of other nodes come from the network straight into it.
 *
 *      kvfs_buffer_new ──▶ kvfs_read_into, kvfs_store_from ──▶ kvfs_unregister
 */
struct kvfs_buffer;

/**
 * kvfs_register - a part of a memfd, to read into and store from
 * @k:      the handle that it is used with
 * @fd:     a memfd with F_SEAL_SHRINK, or a dma-buf; open for reading, and
 *          for writing, if it is to be read into; may be closed afterwards
 * @offset: where the part begins; any byte
 * @length: its bytes
 * @b:      set only on success; kvfs_unregister ends it, before kvfs_close
 *
 * Shape:   costs a few system calls, and the time to fill the memory's holes:
 *          register once, use often. One user may have 1,024 buffers, and
 *          half of the machine's memory in them.
 * Returns: 0, -EINVAL it is no memfd or not so long, -EPERM it has no
 *          F_SEAL_SHRINK or the kernel does not let the daemon take it,
 *          -EACCES it is not open for reading, -EOPNOTSUPP it is a dma-buf that
 *          no card of the machine reaches (or the directory not one of blocks),
 *          -EDQUOT too many or too much,
 *          -ETIMEDOUT filling it took too long, -EBADF, -ENOMEM.
 * Threads: any.
 */
int kvfs_register(struct kvfs *k, int fd, uint64_t offset, uint64_t length,
		  struct kvfs_buffer **b);

/* In pages of 2 MiB: they must be there (vm.nr_hugepages). */
#define KVFS_HUGE 1u

/**
 * kvfs_buffer_new - the same with memory that is made for it
 * @bytes: 1 or more
 * @flags: KVFS_HUGE or 0
 *
 * Returns: as kvfs_register, or what memfd_create(2) and mmap(2) say.
 */
int kvfs_buffer_new(struct kvfs *k, size_t bytes, uint32_t flags,
		    struct kvfs_buffer **b);

/** kvfs_buffer_data - that memory, until kvfs_unregister; NULL: it is not
 *  kvfs_buffer_new's. Threads: any. */
void *kvfs_buffer_data(const struct kvfs_buffer *b);

/** kvfs_unregister - end it; NULL is none. Returns: 0, or -EBUSY a call of
 *  another thread uses it: it is still there. */
int kvfs_unregister(struct kvfs_buffer *b);

/**
 * kvfs_register_gpu - memory of a GPU, to read into and store from
 * @pointer: of the memory, as cudaMalloc or cuMemAlloc returned it, or inside
 * @bytes:   inside the same allocation
 * @b:       set only on success; kvfs_unregister ends it, before the memory is
 *           freed
 *
 * Shape:   the memory is exported as a dma-buf and given to the daemon, which
 *          has an RDMA card of the machine copy to and from it. Where that
 *          cannot be, or no card reaches it, it is staged: data goes by way of
 *          32 MiB of pinned host memory, one ring a handle, the GPU copying one
 *          half while the daemon works on the other. The calls are the same,
 *          and kvfs_buffer_is_staged tells. Where the card is lost later, it is
 *          staged from then on; registered anew, another card may reach it.
 *          Work that the caller has queued on his own streams is not waited
 *          for: synchronize first. When a call returns all of its copies have
 *          ended, for what is given to the GPU from then on to see.
 * Returns: 0, -ENODEV this machine has no CUDA driver or no GPU, -EINVAL it is
 *          no memory of a GPU or not so long, -EIO CUDA failed, -ENOMEM, or as
 *          kvfs_buffer_new.
 * Threads: any; staged calls of one handle wait for each other.
 * Source:  CUDA's driver library, found by dlopen(3).
 */
int kvfs_register_gpu(struct kvfs *k, const void *pointer, size_t bytes,
		      struct kvfs_buffer **b);

/** kvfs_buffer_is_staged - 1: by way of host memory, 0: as it is. */
int kvfs_buffer_is_staged(const struct kvfs_buffer *b);

/**
 * kvfs_pool_pin_gpu - let GPUs copy straight out of blocks of kvfs_get
 *
 * From now on, and of what is mapped already, the frames that kvfs_get maps
 * are registered with CUDA as read-only host memory: a copy to a GPU out of
 * kvfs_block.data needs no other in between. Those that CUDA does not take
 * stay as they are.
 *
 * Returns: 0, or -ENODEV. Threads: any.
 */
int kvfs_pool_pin_gpu(struct kvfs *k);

/* From a block to a buffer, or back. */
struct kvfs_move {
	struct kvfs_buffer *buffer;
	uint64_t at;	 /* in the buffer */
	uint64_t offset; /* in the block; of kvfs_store_from 0 */
	uint64_t length; /* at most; of kvfs_store_from the block's */
	/* Set by the call: */
	int error;	/* 0, or a negative errno */
	uint32_t flags; /* KVFS_STRAIGHT, … */
	uint64_t bytes; /* that were moved */
	uint64_t size;	/* of the block */
};

/* It came from another node straight into the buffer. */
#define KVFS_STRAIGHT 1u
/* There was a block of this name: it stays, and nothing was stored. */
#define KVFS_WAS_THERE 2u
/* It is stored on this node, but KVFS_SYNC did not come to its end. */
#define KVFS_UNSYNCED 4u
/* It went by way of host memory: kvfs_register_gpu. */
#define KVFS_STAGED 8u

/**
 * kvfs_read_into - blocks into buffers
 * @k:           an open directory
 * @names:       any number of names
 * @flags:       KVFS_FETCH or 0
 * @deadline_ms: of fetches; 0: that of the mount, which is also the longest
 * @moves:       names->n of them
 *
 * Shape:   one call of the daemon for up to 340 names; what lies on other
 *          nodes comes at once, up to 32 blocks of a call at a time. A whole
 *          block of up to 16 MiB, with room for it, comes straight into the
 *          buffer and is not kept on this node.
 * Returns: how many were read (error 0), or -errno of the first call that
 *          failed, as kvfs_exists; -EINVAL also for a buffer of another handle.
 *          error of a move: as of kvfs_block, and -EINVAL outside of the
 *          buffer, -EROFS it cannot be written, -EFAULT its memory is gone,
 *          -ENOSPC the pool is full of what is in use; of memory of a GPU that
 *          is not staged -EIO also where the card failed, -ENODEV where it is
 *          lost and there is no memory to stage it. Where there is an error the
 *          part of the buffer has undefined bytes.
 * Threads: any.
 */
int kvfs_read_into(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t flags, uint32_t deadline_ms,
		   struct kvfs_move *moves);

/* Wait until Redis knows the blocks, and as many nodes hold them as their
 * namespace asks for. */
#define KVFS_SYNC 4u
/* The first name is a block that the first of the new ones continues. */
#define KVFS_PARENT 8u

/**
 * kvfs_store_from - blocks out of buffers
 * @k:     an open directory
 * @names: in the order of their chain: each continues the one before
 * @flags: KVFS_SYNC, KVFS_PARENT
 * @mode:  permission bits of the blocks; no umask
 * @moves: names->n of them, with KVFS_PARENT one less
 *
 * Shape:   one call of the daemon for up to 340 names; a block is a copy of
 *          what its part of the buffer has during the call. The directories of
 *          the names must be there.
 * Returns: how many of them are there now (error 0), or -errno as
 *          kvfs_read_into, and -EROFS the mount is read-only.
 *          error of a move: -ENOENT a directory is not there, -EACCES it may
 *          not be written there, -EINVAL outside of the buffer, an offset, or
 *          the name of a temporary file, -EISDIR, -ENOSPC, -EFAULT, -ENOMEM.
 * Threads: any.
 */
int kvfs_store_from(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t flags, uint32_t mode, struct kvfs_move *moves);

/* ---- files of ckpt/ into a buffer ---------------------------------------- */

/* One that is open, at the version that it had then. */
struct kvfs_file;

/* It was read by cuFile, out of the file on this node's disk. */
#define KVFS_CUFILE 16u
/* cuFile found no driver of GPUDirect Storage here, and went by way of host
 * memory itself. Without this flag it may have, too: its own tools tell which
 * disks and filesystems it takes. */
#define KVFS_COMPAT 32u

/**
 * kvfs_file_open - a file, to be read into buffers of a handle
 * @k:    the handle of the buffers
 * @path: as of open(2); meant for files below ckpt/ of the handle's mount
 * @f:    set only on success; kvfs_file_close ends it, before kvfs_close
 *
 * Returns: 0, -ENOMEM, or what open(2) says.
 * Threads: any.
 */
int kvfs_file_open(struct kvfs *k, const char *path, struct kvfs_file **f);

/**
 * kvfs_file_read - a part of a file into a buffer
 * @f:      the file
 * @offset: in the file
 * @length: at most
 * @b:      of kvfs_register_gpu or kvfs_buffer_new, of the same handle
 * @at:     in the buffer
 * @flags:  KVFS_CUFILE, KVFS_COMPAT, KVFS_STAGED; or 0: the buffer is no GPU's
 *
 * Shape:   like pread(2), but less than @length only at the file's end. Into
 *          memory of a GPU by cuFile where that library is there, the file is
 *          one of ckpt/ that is whole on this node, and cuFile takes it; else,
 *          and where cuFile fails, staged. Parts of other nodes are fetched.
 * Returns: how many bytes; -EINVAL outside of the buffer, or a buffer of
 *          another handle; -EOPNOTSUPP one of kvfs_register; -EIO CUDA failed;
 *          or what read(2) says. Where there is an error the part of the
 *          buffer has undefined bytes.
 * Threads: any; those that are staged wait for each other.
 */
int64_t kvfs_file_read(struct kvfs_file *f, uint64_t offset, uint64_t length,
		       struct kvfs_buffer *b, uint64_t at, uint32_t *flags);

/** kvfs_file_close - end it; NULL is none. No read may be under way. */
void kvfs_file_close(struct kvfs_file *f);

/* ---- blocks written in place -------------------------------------------- */

/*
 *      kvfs_reserve ──▶ write to data ──▶ kvfs_commit
 *                              ▲               │ KVFS_KEEP
 *                              └───────────────┘
 */

/* Room in the pool that is no block yet. */
struct kvfs_frame {
	void *data;	 /* to be written; NULL: it has ended */
	uint64_t bytes;	 /* of it */
	uint64_t length; /* of the block; kvfs_reserve sets it to bytes */
	/* Set by kvfs_commit: */
	int error;	/* 0, or a negative errno: why it is not stored */
	uint32_t flags; /* KVFS_WAS_THERE, KVFS_UNSYNCED */
	/* The library's: */
	uint32_t frame, epoch, is_copy;
};

/**
 * kvfs_reserve - memory of the pool, to write blocks into
 * @k:      an open directory of a mount, in which they will be
 * @n:      how many, any number
 * @bytes:  of each, 1 or more
 * @frames: @n of them, set on success; each ends with kvfs_abort, or with a
 *          kvfs_commit without KVFS_KEEP
 *
 * Shape:   all of them or none. They hold zeroes. They count, as what
 *          kvfs_get pins, among the half of the pool that one user may hold,
 *          and end with kvfs_close. Where the kernel does not map a file of
 *          the mount, data is other memory and kvfs_commit writes it.
 * Returns: 0, -EINVAL no bytes or more than the pool has, -EDQUOT this user
 *          holds too much, -ENOSPC the pool is full of what is in use, -EROFS
 *          the mount is read-only, -ENOMEM, or as kvfs_exists.
 * Threads: any; a frame belongs to one thread at a time.
 */
int kvfs_reserve(struct kvfs *k, uint32_t n, uint64_t bytes,
		 struct kvfs_frame *frames);

/* The frames stay reserved and mapped, to be written again. */
#define KVFS_KEEP 16u

/**
 * kvfs_commit - make blocks of what was written
 * @k:      the handle they were reserved with
 * @names:  in the order of their chain: each continues the one before
 * @flags:  KVFS_SYNC, KVFS_PARENT, KVFS_KEEP
 * @mode:   permission bits of the blocks; no umask
 * @frames: names->n of them, with KVFS_PARENT one less
 *
 * Shape:   a frame is unmapped and becomes the block: nothing is copied. With
 *          KVFS_KEEP the block is a copy, which for blocks of up to some
 *          hundred KiB costs less than to reserve and map another frame.
 *          Without KVFS_KEEP every frame has ended afterwards, also where
 *          there was an error. The directories of the names must be there.
 * Returns: how many of them are there now (error 0), or -errno of the first
 *          call that failed, as kvfs_exists; -EINVAL also for a length that is
 *          more than the frame has. error of a frame: -ENOENT its directory is
 *          not there, -EACCES it may not be written there, -EINVAL the name of
 *          a temporary file, -EISDIR, -ENOSPC, -EIO, -ENOMEM, -ECANCELED the
 *          call failed before it came to it.
 * Threads: any.
 */
int kvfs_commit(struct kvfs *k, const struct kvfs_names *names, uint32_t flags,
		uint32_t mode, struct kvfs_frame *frames);

/**
 * kvfs_abort - nothing becomes of them
 * @k:      the handle they were reserved with
 * @frames: @n of them; those that have ended are passed over
 * @n:      any number
 *
 * Returns: 0, or -errno of the call of the daemon that failed; there is
 *          nothing left to be done then but kvfs_close.
 * Threads: any.
 */
int kvfs_abort(struct kvfs *k, struct kvfs_frame *frames, uint32_t n);

/* ---- the same without system calls: a ring ------------------------------- */

/*
 * Calls and answers through memory that is shared with the daemon, for who has
 * many small ones or wants to wait for them along with other things.
 *
 *      kvfs_ring_exists, _get, …  ──▶ kvfs_ring_submit
 *                                            │
 *      kvfs_ring_seen ◀── kvfs_done_found, ◀─┴─ kvfs_ring_peek, _wait
 *                         kvfs_done_blocks, …
 *
 * Answers come in any order. One thread uses a ring at a time; others may use
 * its handle.
 */
struct kvfs_ring;

#define KVFS_RING_ENTRY_MIN 64u

/**
 * kvfs_ring_open - a ring of a handle, which has one in its life
 * @k:           an open directory
 * @entries:     so many calls may be under way: a power of 2, at most 4,096
 * @entry_bytes: for the request and the answer of each: a multiple of 8 from
 *               KVFS_RING_ENTRY_MIN to 512 KiB, all together 256 MiB at most
 * @r:           set only on success; kvfs_ring_close ends it, before
 *               kvfs_close
 *
 * Shape:   of kvfs_ring_exists, 1,000 digests of 16 bytes need 16,024 bytes;
 *          of kvfs_ring_get, n blocks need 56 n + 24; of kvfs_ring_match the
 *          answer needs 2,072 and a bit a name; of the others an entry holds
 *          the names, and of each 32 bytes for a move, 16 for a frame.
 * Returns: 0, -EINVAL, -EBUSY the handle had one, -EDQUOT this user has 64
 *          (all users 128), -EOPNOTSUPP the daemon has no rings, -EPERM the
 *          kernel does not let the daemon take descriptors, -ENOMEM, or as
 *          kvfs_open.
 * Threads: any. One at a time uses the ring; others may use its handle.
 */
int kvfs_ring_open(struct kvfs *k, uint32_t entries, uint32_t entry_bytes,
		   struct kvfs_ring **r);

/** kvfs_ring_close - end it; NULL is none. Answers that were not taken are
 *  lost; what they pinned stays so until kvfs_close. */
void kvfs_ring_close(struct kvfs_ring *r);

/**
 * kvfs_ring_exists - prepare a kvfs_exists
 * @user_data: comes back with the answer
 *
 * Returns: 0; -EAGAIN all entries are in use: take answers first; -E2BIG more
 *          than 2,000 names, or than an entry has bytes for; -EINVAL.
 *          The daemon's errors are those of the answer.
 */
int kvfs_ring_exists(struct kvfs_ring *r, const struct kvfs_names *names,
		     uint32_t flags, uint64_t user_data);
/** kvfs_ring_get - a kvfs_get, in the same way. Of its answer kvfs_done_blocks
 *  must be called, and the blocks given back. */
int kvfs_ring_get(struct kvfs_ring *r, const struct kvfs_names *names,
		  uint32_t flags, uint32_t deadline_ms, uint64_t user_data);
/** kvfs_ring_put - a kvfs_put. The data may be gone from now on. */
int kvfs_ring_put(struct kvfs_ring *r, struct kvfs_block *blocks, uint32_t n,
		  uint64_t user_data);
/** kvfs_ring_touch, kvfs_ring_evict - as kvfs_touch and kvfs_evict. */
int kvfs_ring_touch(struct kvfs_ring *r, const struct kvfs_names *names,
		    uint64_t user_data);
int kvfs_ring_evict(struct kvfs_ring *r, const struct kvfs_names *names,
		    uint64_t user_data);
/** kvfs_ring_prefetch - a kvfs_prefetch. */
int kvfs_ring_prefetch(struct kvfs_ring *r, const struct kvfs_names *names,
		       uint64_t user_data);
/** kvfs_ring_match - a kvfs_match; kvfs_done_holders has its answer. */
int kvfs_ring_match(struct kvfs_ring *r, const struct kvfs_names *names,
		    uint32_t flags, uint64_t user_data);

/**
 * kvfs_ring_read_into - prepare a kvfs_read_into
 * @moves: names->n of them; kvfs_done_moves gets the same ones
 *
 * Returns: as kvfs_ring_exists; -EINVAL also for a buffer of another handle,
 *          -EOPNOTSUPP for one that is staged: kvfs_read_into moves that, and
 *          those whose error is -ENODEV: the card of theirs is lost.
 */
int kvfs_ring_read_into(struct kvfs_ring *r, const struct kvfs_names *names,
			uint32_t flags, uint32_t deadline_ms,
			struct kvfs_move *moves, uint64_t user_data);
/** kvfs_ring_store_from - a kvfs_store_from, in the same way. */
int kvfs_ring_store_from(struct kvfs_ring *r, const struct kvfs_names *names,
			 uint32_t flags, uint32_t mode, struct kvfs_move *moves,
			 uint64_t user_data);

/** kvfs_ring_reserve - a kvfs_reserve of up to 2,045 frames. Of its answer
 *  kvfs_done_reserved must be called, or they stay reserved until kvfs_close.
 *  Returns: as kvfs_ring_exists. */
int kvfs_ring_reserve(struct kvfs_ring *r, uint32_t n, uint64_t bytes,
		      uint64_t user_data);

/**
 * kvfs_ring_commit - prepare a kvfs_commit
 * @frames: as of kvfs_commit; kvfs_done_committed gets the same ones
 *
 * Shape:   without KVFS_KEEP the frames are unmapped by this call.
 * Returns: as kvfs_ring_exists, and the frames are as they were; or what
 *          writing their bytes failed with where the kernel does not map them,
 *          and without KVFS_KEEP they have ended.
 */
int kvfs_ring_commit(struct kvfs_ring *r, const struct kvfs_names *names,
		     uint32_t flags, uint32_t mode, struct kvfs_frame *frames,
		     uint64_t user_data);
/** kvfs_ring_abort - a kvfs_abort. The frames have ended from now on. */
int kvfs_ring_abort(struct kvfs_ring *r, struct kvfs_frame *frames, uint32_t n,
		    uint64_t user_data);

/** kvfs_ring_submit - all that was prepared. Returns: how many. A system call
 *  only where the daemon sleeps. */
int kvfs_ring_submit(struct kvfs_ring *r);

/* An answer, until kvfs_ring_seen. */
struct kvfs_done {
	uint64_t user_data;
	int result;	    /* 0, or a negative errno */
	uint32_t n;	    /* names, frames, moves */
	const void *answer; /* the library's, as is: */
	uint32_t entry;
};

/**
 * kvfs_ring_peek - the next answer, if there is one
 * @done: set with 1
 *
 * Returns: 1, 0, or -EPIPE the daemon has stopped the ring: what is shared
 *          was overwritten.
 */
int kvfs_ring_peek(struct kvfs_ring *r, struct kvfs_done *done);

/**
 * kvfs_ring_wait - the next answer; sleeps until there is one
 * @timeout_ms: 0 and more, or -1: none
 *
 * Returns: as kvfs_ring_peek, 0 at the timeout; -ENOTCONN the daemon is gone.
 */
int kvfs_ring_wait(struct kvfs_ring *r, int timeout_ms, struct kvfs_done *done);

/** kvfs_ring_seen - the answer of the last peek or wait was read; its entry is
 *  free. */
void kvfs_ring_seen(struct kvfs_ring *r, const struct kvfs_done *done);

/**
 * kvfs_ring_fd - an eventfd for poll(2), epoll(7)
 *
 * It is readable after the answer that comes next after
 * kvfs_ring_want_event, which resets it.
 */
int kvfs_ring_fd(const struct kvfs_ring *r);

/** kvfs_ring_want_event - the last look before sleeping on kvfs_ring_fd.
 *  Returns: as kvfs_ring_peek; sleep only with 0. */
int kvfs_ring_want_event(struct kvfs_ring *r, struct kvfs_done *done);

/** kvfs_done_found - of kvfs_ring_exists, _touch, _evict, _prefetch; of _match
 *  the bits. bitmap: or NULL. Returns: how many are there, or for how many it
 *  was done; or -errno. */
int kvfs_done_found(const struct kvfs_done *done, uint8_t *bitmap,
		    struct kvfs_found *found);

/** kvfs_done_holders - of kvfs_ring_match: as kvfs_match sets them. Returns:
 *  how many, or -errno. */
int kvfs_done_holders(const struct kvfs_done *done, struct kvfs_holder *holders,
		      uint32_t room, struct kvfs_found *found);

/** kvfs_done_blocks - of kvfs_ring_get: as many blocks as it had names. What
 *  would have been too much for this user is asked for once more by a system
 *  call, without the frames that are only kept mapped.
 *  Returns: how many are there, or -errno: none of them was set. */
int kvfs_done_blocks(struct kvfs_ring *r, const struct kvfs_done *done,
		     struct kvfs_block *blocks);

/** kvfs_done_moves - of kvfs_ring_read_into, _store_from: what came of each.
 *  Returns: how many have no error, or -errno. */
int kvfs_done_moves(struct kvfs_ring *r, const struct kvfs_done *done,
		    struct kvfs_move *moves);

/** kvfs_done_reserved - of kvfs_ring_reserve: as many frames as were asked for,
 *  mapped. -EDQUOT as kvfs_done_blocks. Returns: 0, or -errno: there are none.
 */
int kvfs_done_reserved(struct kvfs_ring *r, const struct kvfs_done *done,
		       struct kvfs_frame *frames);

/** kvfs_done_committed - of kvfs_ring_commit: what came of each. Those that
 *  did not become a block end here, by a system call, without KVFS_KEEP.
 *  Returns: how many are there now, or -errno. */
int kvfs_done_committed(struct kvfs_ring *r, const struct kvfs_done *done,
			struct kvfs_frame *frames);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_ENGINE_H
#define KVFS_ENGINE_ENGINE_H

/*
 * The transfer engine: bytes between the nodes of a cluster and between the
 * memories of one machine. It knows nothing of files, names or Redis.
 *
 * A fetch is a rendezvous. The reader opens a grant (a segment of its own
 * memory that one peer may write), and calls the owner with names and the
 * segment's id; the owner looks into its own index, pins, submits WRITEs into
 * the segment, and replies:
 *
 *      reader                                   owner
 *      engine_grant_open ──▶ segment id
 *      engine_call ───────── names, segment ──▶ on_message: own index, pin
 *                     ◀──── slices, status ──── engine_submit(WRITE, answers)
 *                     ◀──── or: status ──────── engine_reply
 *      engine_grant_expect(bytes the reply named, where it is not all)
 *      grant->done(0): all bytes are there and nothing can write there now
 *
 * Order. Messages to one peer arrive in the order sent, each exactly once
 * while the session lasts. Slices run over several paths: nothing is ordered
 * against them. A grant therefore counts its bytes itself, and a reply may
 * overtake the data that it speaks of.
 *
 * Session. The time in which a peer can be reached over at least one path. A
 * path that fails hands what it carried to the others. With the last path the
 * session ends: every call, batch and grant of that peer fails (-ENOTCONN),
 * and on_peer_down runs. The next use connects anew, after a backoff.
 *
 * Late bytes. A grant's and a region's done callback run only when nothing can
 * write (read) that memory any more, whatever the peer does.
 *
 * Threads. Everything here may be called from any thread, callbacks included,
 * unless it says otherwise. Callbacks run on threads of the engine, maybe two
 * at a time (for one call, batch or grant never), with no lock of the engine
 * held, and must not block. Nothing is called back from inside the function
 * that queued it.
 *
 * Memory. An engine: about 20 KiB, 128 B for each region, one thread, and what
 * its transports add: local two threads, tcp and rdma one each, file one and 8
 * MiB of buffers. A peer:
 * about 2 KiB, its control queue (at most ENGINE_QUEUE_MAX, and replies that it
 * has not taken: at most those to 2 * ENGINE_CALLS_MAX calls), and for each
 * path what its window holds: 256 B a slice. A grant: 256 B, and up to 64 KiB
 * where bytes arrive in the worst order. Queued transfers take no memory but
 * the caller's batch.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENGINE_BATCH_MAX 4096	      /* transfers in one batch */
#define ENGINE_MSG_MAX (60u << 10)    /* bytes of payload in one message */
#define ENGINE_CALLS_MAX 64	      /* unanswered calls to (from) one peer */
#define ENGINE_QUEUE_MAX (256u << 10) /* control bytes queued to one peer */
#define ENGINE_ADDRESSES_MAX 8	      /* addresses of one node */
#define ENGINE_ADDRESS_BYTES 108      /* with its NUL */
#define ENGINE_ADDRESS_LINKS_MAX 4    /* paths to one address */
/* Paths to one peer: ours to its addresses, and its own to ours. */
#define ENGINE_LINKS_MAX (2 * ENGINE_ADDRESSES_MAX * ENGINE_ADDRESS_LINKS_MAX)

struct engine;
struct engine_peer;
struct engine_grant;
struct engine_keys; /* the cluster's keys: engine/auth.h */

/* Who a node is, in this life of it. */
struct engine_node {
	uint8_t uuid[16];
	uint32_t incarnation; /* 0 where any is meant */
};

/* What goes first; messages go before all. Within one class: first in, first
 * out. */
enum engine_priority {
	ENGINE_FOREGROUND, /* somebody waits in a system call */
	ENGINE_PREFETCH,
	ENGINE_REPLICATE,
	ENGINE_MIGRATE,
	ENGINE_PRIORITIES
};

/* ---- an engine ---------------------------------------------------------- */

/* A message as it arrived. */
struct engine_message {
	uint16_t type;	     /* the caller's own, ENGINE_TYPE_MIN and up */
	uint64_t request_id; /* to answer with engine_reply; 0: no answer */
	const void *payload; /* valid until on_message returns */
	uint32_t payload_bytes;
};

#define ENGINE_TYPE_MIN 16

struct engine_callbacks {
	/** on_message - a message or call came. Peer's bytes: check them. */
	void (*on_message)(void *ctx, struct engine_peer *peer,
			   const struct engine_message *m);
	/** on_peer_up - a session began. */
	void (*on_peer_up)(void *ctx, struct engine_peer *peer);
	/** on_peer_down - the session ended; all that hung on it has failed. */
	void (*on_peer_down)(void *ctx, struct engine_peer *peer, int why);
};

struct engine_config {
	struct engine_node self;
	const struct engine_keys *keys; /* NULL: loopback and unix only */
	bool tls;			/* encrypt what leaves the machine */
	const char *rdma_devices; /* "mlx5_0,mlx5_1:2"; NULL: all of them */
	/* "tcp:10.0.0.1:7077" (port 0: any), "tcp:[::1]:7077",
	 * "rdma:10.0.0.1:7077", "unix:/path", "loop:name". */
	const char *const *listen;
	uint32_t n_listen;
	uint32_t links_per_address;  /* ENGINE_ADDRESS_LINKS_MAX at most; 0: as
				      * the transport likes */
	uint32_t connect_timeout_ms; /* 0: 1000 */
	uint32_t silence_ms; /* a path silent this long, with something owed,
			      * is broken; 0: 2000 */
	const char *sys;     /* where the machine is read of; NULL: /sys */
	const struct engine_callbacks *callbacks;
	void *ctx;
};

/**
 * engine_open - start an engine: its transports, threads and listeners
 * @e: set only on success
 * @c: copied; keys and what the strings say are used only inside this call,
 *     callbacks and ctx until engine_close returns
 *
 * Returns: 0, or -EINVAL an address makes no sense, -EACCES one may not be
 *          listened on without keys, -EADDRINUSE, or another -errno. One line
 *          is logged. Callbacks may run before it returns.
 */
int engine_open(struct engine **e, const struct engine_config *c);

/**
 * engine_close - end every session, wait for every callback, free
 *
 * What is queued or in flight completes first, with -ESHUTDOWN. The caller
 * has let go of its peers (engine_peer_put) or does so before they are used
 * again: handles are void when it returns.
 * Threads: not from a callback; nobody else may be inside a call.
 */
void engine_close(struct engine *e);

/**
 * engine_can_listen - is there what listening on this address takes?
 * @rdma_devices: as engine_config's
 *
 * Of "rdma:": a card whose port is up and has the address. What can go wrong
 * for other reasons engine_open says.
 */
bool engine_can_listen(const char *address, const char *rdma_devices);

/** engine_address - the i-th address listened on, its port filled in; NULL
 *  past the last. For the membership table. Valid until engine_close. */
const char *engine_address(struct engine *e, uint32_t i);

/* ---- regions: memory that transfers may touch ---------------------------- */

/*
 * A frame of the pool is a FILE: the engine maps it at the first use and unmaps
 * it when the region goes. Measured with 4 MiB frames of huge pages: receiving
 * into a mapping made for one transfer costs the receiver's CPU what a mapping
 * kept for ever does (0.25 s/GiB); through a buffer and pwrite costs twice
 * that (0.54), splice 0.31.
 *
 * DISK is read and written by COPY only, without the page cache where the file
 * system allows and the cache does not have it; what goes to or comes from a
 * peer is staged in a FILE or HOST region, so that a cold page never stops a
 * path.
 */
enum engine_mem_kind {
	ENGINE_MEM_HOST, /* mapped memory: addr */
	ENGINE_MEM_FILE, /* a file that lives in memory: fd */
	ENGINE_MEM_DISK, /* a file of the disk tier: fd */
			 /* a dma-buf, GPU memory, is none: dmabuf.h */
};

struct engine_mem {
	enum engine_mem_kind kind;
	void *addr;	 /* HOST */
	int fd;		 /* FILE, DISK: readable, and writable as needed */
	uint64_t offset; /* FILE, DISK: where the region begins */
	uint64_t length_bytes; /* never 0 */
};

/**
 * engine_region_add - let transfers use a piece of memory
 * @mem: copied. The memory, or the descriptor, stays the caller's and stays
 *       valid until the region is removed.
 * @region: its id: slot and epoch, so an id kept past its removal is refused
 *
 * Cheap (one lock; at first use a mapping): one region a fetch is fine. A FILE
 * is as long as its region reaches, and stays so (bytes past its end: -EFAULT);
 * writing past the end of a DISK extends it.
 * Returns: 0, -EINVAL, -ENOMEM.
 */
int engine_region_add(struct engine *e, const struct engine_mem *mem,
		      uint64_t *region);

/**
 * engine_region_sum - XXH3-128 of what transfers left in a piece of it
 * @offset, @length_bytes: of the piece; not 0 bytes, not of a DISK
 * @sum: low and high half; set only on success
 *
 * By the mapping that the transfers used. Computed by the caller's thread.
 * Returns: 0, -EINVAL no such region, -ERANGE, -EFAULT pages of it are gone,
 *          or why it cannot be mapped.
 */
int engine_region_sum(struct engine *e, uint64_t region, uint64_t offset,
		      uint64_t length_bytes, uint64_t sum[2]);

/**
 * engine_region_remove - take it back
 * @done: runs once no transfer or grant uses the region; may be NULL
 *
 * At once no new use is accepted; uses that exist go on (cancel them, close
 * the grants, to hurry it).
 * Returns: 0, -EINVAL no such region.
 */
int engine_region_remove(struct engine *e, uint64_t region,
			 void (*done)(void *ctx), void *ctx);

/* ---- peers -------------------------------------------------------------- */

/**
 * engine_peer_get - a handle on a node
 * @node: who must answer there; incarnation 0 takes any
 * @addresses: where, in order of preference; kept as the peer's new list
 * @n: 0 for a node that connects to us
 * @peer: a reference
 *
 * Connects nothing: the first call, message or batch does.
 * Returns: 0, -EINVAL, -ESTALE a later incarnation of it is known, -ENOMEM.
 */
int engine_peer_get(struct engine *e, const struct engine_node *node,
		    const char *const *addresses, uint32_t n,
		    struct engine_peer **peer);

/** engine_peer_ref - one more reference, e.g. of a callback's peer. */
void engine_peer_ref(struct engine_peer *peer);

/**
 * engine_peer_put - give a reference back
 *
 * Batches, calls and grants hold their own. The session outlives the last
 * reference: it ends by engine_peer_drop, an idle minute, or the other side.
 */
void engine_peer_put(struct engine_peer *peer);

/**
 * engine_peer_end_backoff - let the next use connect, if connecting failed
 *
 * For who cannot do without this peer and waits: the link may have healed long
 * before a backoff of seconds is over. An address that failed within the last
 * 100 ms stays in it, so this may be called as often as one likes.
 */
void engine_peer_end_backoff(struct engine_peer *peer);

/** engine_peer_drop - end the session now; all on it fails with why (< 0). */
void engine_peer_drop(struct engine_peer *peer, int why);

/*
 * What went over paths: of a peer, all together; of a device, by it alone. A
 * slice is a part of a transfer; its latency is from when a path got it until
 * the other side had it.
 */
#define ENGINE_LATENCIES 8 /* up to 100 us << 2i each; the last: all above */
#define ENGINE_LATENCY_NS(i) (100000ll << 2 * (i))

struct engine_traffic {
	uint64_t sent_bytes, received_bytes;
	uint64_t sent_slices, received_slices;
	uint64_t retried_slices; /* given to another path */
	uint64_t failovers;	 /* paths that failed with slices under way */
	uint64_t latency_ns;	 /* of all sent slices */
	uint64_t latencies[ENGINE_LATENCIES];
};

struct engine_peer_info {
	struct engine_node node;
	bool up;
	const char *via; /* "tcp", "rdma": what carries most; NULL: not up */
	uint32_t n_links, n_links_wanted;
	uint32_t n_calls;      /* unanswered, ours */
	uint32_t n_draining;   /* grants closed, but it may still write there */
	uint64_t queued_bytes; /* of batches not yet written */
	uint64_t rate_bytes_s; /* measured towards it; 0: not yet */
	uint64_t came_bytes_s; /* from it, while something was expected */
	uint32_t rtt_us;       /* of the last answered ping or call; 0: none */
	int64_t heard_ns;      /* clock_now_ns of the last sign of life */
	struct engine_traffic traffic;
	uint64_t came_bytes; /* received, with what belongs to nothing whole */
	void *user;	     /* engine_peer_set_user's */
};

void engine_peer_info(struct engine_peer *peer, struct engine_peer_info *info);

/**
 * engine_peer_failure - why was this peer not reached, or lost, last?
 * @when_ns: clock_now_ns of then; set only where there is an error
 *
 * Remembered of the last 256 nodes, also while nothing refers to a peer; until
 * it is reached.
 * Returns: 0 nothing is known against it, -EACCES another key, -EPROTO another
 *          wire version, or tls on one side only, -ESTALE another node answers
 *          at its address, or the -errno of connecting or of the session's end.
 */
int engine_peer_failure(struct engine_peer *peer, int64_t *when_ns);

/** engine_peer_set_user - the caller's own pointer for this peer. */
void engine_peer_set_user(struct engine_peer *peer, void *user);

/* ---- messages ----------------------------------------------------------- */

/**
 * engine_send - a message that wants no answer
 * @type: ENGINE_TYPE_MIN..UINT16_MAX
 * @payload: at most ENGINE_MSG_MAX bytes, copied; may be NULL with 0
 *
 * Connects if it must. Delivered once and in order, or the session ends.
 * Returns: 0 once queued, -EMSGSIZE, -EAGAIN the queue is full, -ENOTCONN no
 *          session and no address, -EHOSTDOWN connecting failed lately (the
 *          backoff runs), -ENOMEM, -ESHUTDOWN.
 */
int engine_send(struct engine_peer *peer, uint16_t type, const void *payload,
		uint32_t payload_bytes);

struct engine_call {
	uint16_t type;
	const void *payload; /* copied inside engine_call_start */
	uint32_t payload_bytes;
	int64_t deadline_ns; /* clock_now_ns to give up at; 0: 5 s from now */
	/**
	 * done - answered, or failed; runs exactly once
	 * @status: what engine_reply said (0 or its -errno), or -ETIMEDOUT,
	 *          -ENOTCONN the session ended, -ECANCELED, -ESHUTDOWN
	 * @reply: valid until it returns. A peer's bytes: check them.
	 */
	void (*done)(struct engine_call *call, int status, const void *reply,
		     uint32_t reply_bytes);
	void *ctx;

	/* the engine's */
	struct engine_peer *peer;
	uint64_t request_id;
	struct engine_call *prev, *next;
	int64_t until_ns;
	int state, result;
};

/**
 * engine_call_start - send a request and wait for its answer in the background
 * @call: the caller's, zeroed but for its fields; alive until done has run
 *
 * Returns: 0 once queued (done will run), or as engine_send; -EAGAIN also
 *          where ENGINE_CALLS_MAX calls of this peer are unanswered.
 */
int engine_call_start(struct engine_peer *peer, struct engine_call *call);

/** engine_call_cancel - stop waiting: done runs with -ECANCELED, unless it has
 *  run or is running. The peer may still do what it was asked. */
void engine_call_cancel(struct engine *e, struct engine_call *call);

/**
 * engine_reply - answer a call
 * @request_id: of the message; each is answered once
 * @status: 0 or an -errno, the caller's to interpret
 *
 * Returns: 0 once queued, -EMSGSIZE, -ENOENT that call is answered already or
 *          its session is over, -ENOMEM. Never -EAGAIN: replies have room, as
 *          calls are bounded.
 */
int engine_reply(struct engine_peer *peer, uint64_t request_id, int status,
		 const void *payload, uint32_t payload_bytes);

/* ---- transfers ---------------------------------------------------------- */

enum engine_op {
	ENGINE_WRITE, /* local region -> segment that the peer granted */
	ENGINE_COPY,  /* local region -> local region of this engine */
};

/* A granted segment, as it travels in the caller's messages: 16 bytes. */
struct engine_segment {
	uint64_t id;	     /* random */
	uint64_t generation; /* counts up: the pair never comes back */
};

struct engine_xfer {
	enum engine_op op;
	int result;	 /* set before done: 0 or -errno */
	uint64_t region; /* source */
	uint64_t offset; /* in it */
	union {
		struct engine_segment segment; /* WRITE */
		uint64_t to_region;	       /* COPY */
	};
	uint64_t to_offset; /* in the segment or region */
	uint64_t length_bytes;
};

struct engine_batch {
	struct engine_xfer *xfers;
	uint32_t n_xfers;
	enum engine_priority priority;
	/* WRITE: the call that these bytes are the answer to, or 0. It is
	 * answered with 0 as the last of them are handed to a path, so both
	 * travel together; or with what the batch failed with before that. The
	 * caller's own engine_reply to it is then -ENOENT. */
	uint64_t answers;
	const void *answer; /* goes with a 0; copied then; NULL with 0 bytes */
	uint32_t answer_bytes; /* at most ENGINE_MSG_MAX */
	int64_t deadline_ns;   /* clock_now_ns to give up at; 0: 5 s from now */
	/**
	 * done - all transfers ended; runs exactly once
	 * @status: 0, or the first failure: -ESTALE the segment is closed,
	 *          -ERANGE outside of it, -ENOTCONN, -ETIMEDOUT, -ECANCELED,
	 *          -EIO, -ENOSPC, ...
	 *
	 * With 0 every byte is in the target. In any case nothing reads or
	 * writes this batch's memory any more.
	 */
	void (*done)(struct engine_batch *b, int status);
	void *ctx;

	/* the engine's */
	struct engine_peer *peer;
	struct engine_batch *prev, *next;
	uint32_t at_xfer;     /* the next to cut */
	uint32_t n_in_flight; /* slices given to a path */
	uint32_t n_retry;     /* slices that wait for another path */
	int state, status;
	bool answered;
	uint64_t at_bytes; /* of at_xfer, already cut */
	uint64_t total_bytes;
	int64_t until_ns, grace_ns;
};

/**
 * engine_submit - queue one batch of transfers and return at once
 * @peer: who granted the segments; NULL for a batch of COPYs
 * @b: the caller's, zeroed but for its fields; alive with its xfers until
 *     b->done has run
 *
 * Shape:   1..ENGINE_BATCH_MAX transfers of one op; of COPYs all or none touch
 *          a DISK. Overlapping targets end in any order.
 * Units:   offsets and lengths are bytes, of any alignment; a length is
 *          never 0.
 * Returns: 0 once queued, or -EINVAL shape or region, -ERANGE a range lies
 *          outside its region, -ENOTCONN the session is over, -ESHUTDOWN.
 *          Later errors reach b->done as the same -errno.
 * Threads: any; b->done runs on a thread of the engine, must not block.
 * Source:  the model of ibv_post_send(3) and io_uring_enter(2).
 */
int engine_submit(struct engine *e, struct engine_peer *peer,
		  struct engine_batch *b);

/** engine_cancel - end a batch early: done runs with -ECANCELED (0 where all
 *  was written by then) as soon as its memory is free of use. Does nothing
 *  once done has run or is running: the caller sees to b's life. */
void engine_cancel(struct engine *e, struct engine_batch *b);

/* ---- grants: segments that a peer may write ------------------------------ */

struct engine_grant_ops {
	/**
	 * done - the grant is over; runs exactly once, then it is freed
	 * @status: 0 all expected bytes are there; -ENOTCONN, -ETIMEDOUT,
	 *          -ECANCELED engine_grant_close, -ESHUTDOWN
	 *
	 * Nothing writes the memory any more, not even a peer that means harm:
	 * verify the checksum now, not before.
	 */
	void (*done)(void *ctx, int status);
	/**
	 * progress - more bytes stand without a gap from the start
	 * @bytes: so many. May be NULL. Not after done.
	 */
	void (*progress)(void *ctx, uint64_t bytes);
};

/**
 * engine_grant_open - let one peer write one range
 * @length_bytes: how much it may write, and how much done waits for until
 *                engine_grant_expect says otherwise
 * @deadline_ns: clock_now_ns to give up at; 0: none but the session's end
 * @grant: a handle, valid until done has run
 * @segment: what the peer needs to know
 *
 * The region is in use until done has run. A grant opened while there is no
 * session belongs to the next one.
 * Returns: 0, -EINVAL, -ERANGE outside the region, -ENOMEM, -ESHUTDOWN.
 */
int engine_grant_open(struct engine_peer *peer, uint64_t region,
		      uint64_t offset, uint64_t length_bytes,
		      int64_t deadline_ns, const struct engine_grant_ops *ops,
		      void *ctx, struct engine_grant **grant,
		      struct engine_segment *segment);

/**
 * engine_grant_expect - done with the first so many bytes
 *
 * For a reply that names fewer than were granted; 0 is fine.
 * Returns: 0, or -ERANGE more than was granted.
 */
int engine_grant_expect(struct engine_grant *grant, uint64_t bytes);

/** engine_grant_progress - bytes without a gap from the start, which readers
 *  may see before the rest is there (unverified). */
uint64_t engine_grant_progress(struct engine_grant *grant);

/**
 * engine_grant_close - give up
 *
 * From now on arriving bytes go nowhere; done runs with -ECANCELED (0 where
 * all had arrived) when the last receive into the memory has ended.
 * Threads: any, but not after done has begun (the handle is void then): who
 *          may race with it holds a lock of his own around both.
 */
void engine_grant_close(struct engine_grant *grant);

/* ---- figures ------------------------------------------------------------ */

struct engine_stats {
	uint64_t peers_up, links_up;
	uint64_t sessions_begun, sessions_lost, links_lost, connects_failed;
	uint64_t messages_sent, messages_received, duplicates_dropped;
	uint64_t sent_bytes, received_bytes, copied_bytes;
	uint64_t slices_retried, slices_refused; /* ours; a peer's */
	uint64_t batches_timed_out, calls_timed_out;
	uint64_t grants_open, grants_draining; /* closed, not yet done */
	uint64_t regions;
};

void engine_stats(struct engine *e, struct engine_stats *stats);

#define ENGINE_DEVICES_MAX 16
#define ENGINE_DEVICE_BYTES 72

/* A device that links went by; of a transport without devices, all of it. */
struct engine_device {
	const char *transport;		/* "rdma", "tcp" */
	char name[ENGINE_DEVICE_BYTES]; /* "mlx5_0:1"; or "" */
	uint32_t n_links;		/* up */
	uint64_t out_bytes;		/* on their way, to all peers */
	struct engine_traffic traffic;
};

/** engine_device - the i-th, in the order of their first link; false past the
 *  last. Those that are too many are counted by the last one. */
bool engine_device(struct engine *e, unsigned i, struct engine_device *d);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_TRANSPORT_H
#define KVFS_ENGINE_TRANSPORT_H

/*
 * Between the engine's core and a transport.
 *
 * The core has peers, sessions, regions, grants, batches, calls, deadlines,
 * priorities, retries, the cutting into slices and the choice of a path. A
 * transport has *links*: authenticated paths to one node, each of which takes
 * messages and slices one by one and brings the peer's. It knows no session
 * but as a number of its handshake.
 *
 *      core ── transport_ops ──▶ transport: open listen connect send submit ...
 *      core ◀── engine_link_*  ── transport: admit, up, down
 *           ◀── engine_msg_*   ──            a message arrived, was delivered
 *           ◀── engine_slice_* ──            a slice was delivered
 *           ◀── engine_landing_* ─           where do these bytes go; they came
 *
 * Threads. Ops are called from any thread, several at once, never with a lock
 * of the core held; they do not block and do not call up (they queue, and may
 * try an immediate non-blocking send). Calls up come from the transport's own
 * threads with none of its locks held; they may call ops from inside. So no
 * order of locks exists between the two. Calls up about one link come one at a
 * time; links may have different threads.
 *
 * Life of a link
 *
 *   ours:    ops->connect ─▶ (dial, authenticate) ─▶ engine_link_admit = 0
 *            ─▶ engine_link_up ─▶ ... ─▶ engine_link_down ─▶ ops->link_free
 *   theirs:  (accept, authenticate) ─▶ engine_link_admit = 0 ─▶ (answer the
 *            hello) ─▶ engine_link_up ─▶ ... ─▶ engine_link_down ─▶ link_free
 *
 * The connector's hello carries: who it is, whom it expects, and the session;
 * the acceptor asks engine_link_admit before it answers and sends a refusal's
 * errno back. The connector asks engine_link_admit once it was accepted and
 * knows who is there. Each link of ours ends with exactly one engine_link_down,
 * also where connecting failed or admit refused; one of theirs only if it was
 * admitted. Before engine_link_down the transport has given back every message
 * and slice (with an error) and ended every landing, and the kernel no longer
 * uses their memory. link_free comes when the core holds it no more; ops may
 * come until then and are answered -ENOTCONN.
 *
 * Delivered means: the other side's core has it. A transport without hardware
 * for that acknowledges: one cumulative count a link, on the frames that go
 * back anyhow, or alone when nothing does. A slice that the other side refused
 * comes back with the errno of its engine_landing_begin.
 *
 * One wrapper (engine_check.c) checks each call in both directions: what
 * breaks these rules is our bug and asserted; what a peer sends never is.
 */

#include "engine/engine.h"

#include <stdatomic.h>

#include "base/list.h"
#include "engine/path.h"
#include "engine/topology.h"

struct transport; /* one per engine and kind; the transport's own */
struct transport_ops;

/* Where bytes are. Of a WRITE and of a landing addr is always set: touch it by
 * system calls (send, recv) and take EFAULT for an answer, as a file may have
 * been cut short. Of a COPY it is set for HOST; FILE and DISK have fd, offset.
 */
struct engine_place {
	void *addr;
	int fd;		 /* FILE, DISK; else -1 */
	int direct_fd;	 /* DISK: without the page cache; -1: not possible */
	uint64_t offset; /* in the file */
	uint64_t length_bytes;
	enum engine_mem_kind kind;
	uint64_t region;	/* whose part this is, and where in it: for */
	uint64_t region_offset; /* transports that register memory */
};

/* A path to a peer. The transport allocates it, inside a struct of its own. */
struct engine_link {
	const struct transport_ops *ops;
	struct transport *transport;
	struct engine *engine;
	_Atomic int64_t heard_ns; /* the transport: any byte came, or an ack */
	char device[ENGINE_DEVICE_BYTES]; /* the transport, before it is up:
					     the card's name, or "" */
	/* the core's */
	uint64_t rank[NUMA_NODES_MAX]; /* of the card for each node's memory */
	struct engine_peer *peer;
	struct list of_peer;
	uint32_t refs;
	int state;
	bool ours;	  /* we connected */
	uint32_t address; /* index into the peer's list */
	int local;	  /* into our own, which it is bound to; -1: none */
	uint64_t session;
	uint32_t n_slices, n_msgs;
	uint32_t n_ops; /* sends and submits at work, maybe refused */
	uint64_t out_bytes;
	struct path path;
	int64_t since_ns;	  /* up, or connecting */
	int64_t owed_ns;	  /* since when an answer is owed; 0: none */
	bool broken;		  /* refused something: its end is near */
	bool failed_over;	  /* a slice of it went to another path */
	struct engine_device *by; /* of the engine; once up */
};

/* One message on its way out. The core keeps it until engine_msg_done. */
struct engine_msg {
	struct list link; /* the transport's while it has the message */
	uint64_t seq;	  /* of the session, from 1; 0: of this link alone */
	uint64_t request_id;
	uint16_t type; /* below ENGINE_TYPE_MIN: the core's own */
	uint16_t flags;
	int32_t status; /* of a reply */
	uint32_t payload_bytes;
	const void *payload;
	/* the core's */
	struct list of_peer;
	struct engine_link *on;
	int64_t sent_ns;
};

#define ENGINE_MSG_REPLY 1u
#define ENGINE_MSG_REQUEST 2u

/* The same as it came in; every field is the peer's claim. */
struct engine_msg_in {
	uint64_t seq;
	uint64_t request_id;
	uint16_t type;
	uint16_t flags;
	int32_t status;
	uint32_t payload_bytes; /* the transport capped it at ENGINE_MSG_MAX */
	const void *payload;
};

/* One piece of a transfer on its way. The core keeps it until
 * engine_slice_done. */
struct engine_slice {
	struct list link; /* the transport's while it has the slice */
	enum engine_op op;
	enum engine_priority priority;
	struct engine_place from;
	struct engine_segment segment; /* WRITE: the target */
	uint64_t to_offset;	       /* WRITE: in the segment */
	struct engine_place to;	       /* COPY: the target */
	uint32_t length_bytes;
	void *transport_data; /* the transport's */
	/* the core's */
	struct list of_peer;
	struct engine_link *on;
	struct engine_batch *batch;
	uint32_t xfer, tries;
	int64_t sent_ns;
	bool cancelled;
};

/* A receive into granted memory: the transport's, one for each slice that is
 * coming in at the moment. */
struct engine_landing {
	struct engine_place place; /* set by engine_landing_begin */
	/* the core's */
	struct list of_grant;
	struct engine_grant *grant;
	struct engine_link *on;
	uint64_t offset; /* in the segment */
	bool diverted;
};

/* Whom to connect to, and as what. Valid inside ops->connect only. */
struct link_target {
	const char *address;	  /* as in engine_peer_get, scheme and all */
	const char *local;	  /* bind to this one of ours first; or NULL */
	struct engine_node node;  /* expected; incarnation 0: any */
	uint64_t session;	  /* random; 0 never */
	int64_t deadline_ns;	  /* to be up by */
	struct engine_peer *peer; /* for engine_link_init */
	uint32_t index;
	int local_index;
};

struct transport_config {
	struct engine *engine;
	struct engine_node self;
	const struct engine_keys *keys; /* NULL: no authentication */
	bool tls;
	const char *rdma_devices; /* kept by the transport; or NULL */
};

struct transport_ops {
	const char *name;      /* in messages and statistics */
	const char *schemes;   /* "tcp,unix": whose addresses; NULL: local */
	uint32_t slice_bytes;  /* the largest slice */
	uint32_t window_bytes; /* given to one link at a time, at most */
	uint32_t window_slices;
	uint32_t links; /* to one address of a peer */
	bool preferred; /* while its links answer, others only stand by */

	/** open - 0 and *t, or -errno, logged. */
	int (*open)(struct transport **t, const struct transport_config *c);
	/** close - all links are freed; join the threads, free. May block. */
	void (*close)(struct transport *t);
	/** listen - accept links there; may block. @bound: the address with
	 *  its real port, ENGINE_ADDRESS_BYTES. 0 or -errno, logged. */
	int (*listen)(struct transport *t, const char *address, char *bound);
	/** can_listen - is there what listening on this address takes? NULL:
	 *  always. May block. Threads: any. */
	bool (*can_listen)(const char *address, const char *rdma_devices);
	/** quiet - accept nothing more: the engine closes. May block. */
	void (*quiet)(struct transport *t);

	/** connect - begin a link: 0 and *link (calls up about it may come
	 *  before this returns), or -EINVAL, -ENOMEM (then none comes). */
	int (*connect)(struct transport *t, const struct link_target *target,
		       struct engine_link **link);
	/** link_close - end it, whatever it is doing; engine_link_down follows
	 *  soon, with why (< 0). Repeated calls are fine. */
	void (*link_close)(struct engine_link *link, int why);
	void (*link_free)(struct engine_link *link);

	/** send - queue a message: in order, and before all slices that have
	 *  not begun. 0, or -ENOTCONN (not taken). */
	int (*send)(struct engine_link *link, struct engine_msg *m);
	/** submit - queue a slice. 0, or -ENOTCONN (not taken). The link is
	 *  NULL for a local transport. */
	int (*submit)(struct transport *t, struct engine_link *link,
		      struct engine_slice *s);
	/**
	 * cancel - give a slice back soon, with -ECANCELED
	 *
	 * A hint that cannot be refused, but may be met by delivery: one not
	 * begun is dropped, one sent and not acknowledged is given back, one
	 * half sent is finished. The core closes the link where that takes too
	 * long. May come for a slice that is already done: compare, do not
	 * follow the pointer.
	 */
	void (*cancel)(struct transport *t, struct engine_link *link,
		       struct engine_slice *s);
	/** divert - a segment was closed: end landings of it soon, with
	 *  -ECANCELED; what still comes goes to scratch, or the link ends. */
	void (*divert)(struct engine_link *link, struct engine_segment segment);

	/* Optional: memory that must be made known first (verbs, io_uring). */
	int (*region_add)(struct transport *t, uint64_t region,
			  const struct engine_mem *mem);
	void (*region_remove)(struct transport *t, uint64_t region);
};

/* All of them, NULL at the end: transports.c. */
extern const struct transport_ops *const engine_transports[];

/** engine_transport_of - whose address this is; NULL: nobody's. */
const struct transport_ops *engine_transport_of(const char *address);

/* ---- calls up ------------------------------------------------------------ */

/**
 * engine_link_init - fill a link's base; before anything else about it
 * @target: of ops->connect, or NULL for a link of theirs
 *
 * Takes no lock and may be called from inside ops->connect.
 */
void engine_link_init(struct engine_link *link, struct engine *e,
		      const struct transport_ops *ops, struct transport *t,
		      const struct link_target *target);

/**
 * engine_link_admit - may this link be one of ours?
 * @node: who the other side proved to be
 * @session: of the connector's hello; for a link of ours, the target's
 *
 * Returns: 0; -ESTALE that incarnation is of the past, -EALREADY both sides
 *          connect and this attempt is the one to drop, -EUSERS enough links,
 *          -ESHUTDOWN, -ENOMEM, -EPERM it is ourselves. The transport sends
 *          the code to the other side and closes.
 */
int engine_link_admit(struct engine *e, struct engine_link *link,
		      const struct engine_node *node, uint64_t session);

/**
 * engine_link_card - what card it goes by; before engine_link_up
 * @p: what is known of it by topology_place
 *
 * One of which nothing is said is as good as any for all memory.
 */
void engine_link_card(struct engine_link *link, const struct topology_port *p);

/** engine_link_up - the link carries messages and slices from now on. Ops on
 *  it may come before this returns. */
void engine_link_up(struct engine_link *link);

/** engine_link_down - it ended; the last call up about this link. */
void engine_link_down(struct engine_link *link, int why);

/**
 * engine_msg_arrived - a message came, in the link's order
 *
 * The payload may be reused at return.
 * Returns: 0, or -EPROTO it breaks the rules: the transport closes the link.
 */
int engine_msg_arrived(struct engine_link *link, const struct engine_msg_in *m);

/** engine_msg_done - give a message back: 0 delivered, or the -errno with
 *  which the link ends. */
void engine_msg_done(struct engine_link *link, struct engine_msg *m,
		     int status);

/**
 * engine_slice_done - give a slice back; nothing reads its memory any more
 * @link: NULL for a local transport
 * @status: 0 delivered, -ECANCELED, the errno the other side refused it with,
 *          or the one with which the link ends (then it is tried elsewhere)
 * @refused: the other side's core said so, or the source cannot be read:
 *           another path would not help
 */
void engine_slice_done(struct engine *e, struct engine_link *link,
		       struct engine_slice *s, int status, bool refused);

/**
 * engine_landing_begin - a slice is coming: where do its bytes go?
 * @landing: the transport's own; set up here
 *
 * Returns: 0 and landing->place is the only memory that may be written; or
 *          -ESTALE no such segment (closed, or another peer's), -ERANGE out of
 *          it, -ENOBUFS arrives in too many pieces: the transport reads the
 *          bytes into scratch and refuses the slice with that code.
 */
int engine_landing_begin(struct engine_link *link,
			 struct engine_segment segment, uint64_t offset,
			 uint32_t length_bytes, struct engine_landing *landing);

/** engine_data_came - so many bytes of slices, of one that is refused too, as
 *  they come: who waits for a slow link can tell it from a dead one. Any
 *  thread. */
void engine_data_came(struct engine_link *link, size_t n);

/** engine_landing_end - nothing writes landing->place any more. 0: every byte
 *  of it came. */
void engine_landing_end(struct engine_landing *landing, int status);

#endif

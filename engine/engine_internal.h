/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_ENGINE_INTERNAL_H
#define KVFS_ENGINE_ENGINE_INTERNAL_H

/*
 * The engine's core. Map:
 *
 *   engine_open.c    an engine's life, its own thread, figures
 *   engine_notice.c  callbacks: who runs them, in which order
 *   engine_time.c    deadlines, silence, reconnects
 *   region.c         memory;  numa.h  which is near which card
 *   engine_peer.c    peers: handles, sessions
 *   engine_failure.c why a node was not reached, after its peer is gone
 *   engine_link.c    links: admitted, up, down; connecting
 *   engine_msg.c     messages: queue, order, duplicates
 *   engine_call.c    calls and replies on top of them
 *   engine_submit.c  transfers: checked and queued;  engine_batch.c  cut, done
 *   engine_pump.c    which link takes what, and when;  path.h  by what
 *   engine_grant.c   segments, landings;  engine_extent.h  what has arrived
 *   engine_traffic.c what went by which device and to which peer
 *   engine_check.c   the one wrapper around every transport
 *   transports.c     the list of transports: local, file, loop, ...
 *
 * One lock an engine guards all of this. It is held for a few loads and stores
 * at a time: never over a call of a transport, a callback, a mapping. What is
 * to be called back is put on the engine's notices and run, in order, by
 * whichever thread of the engine is at hand (engine_notice.c); what is to be
 * given to a transport is handed out by engine_pump.c, for one peer by one
 * thread at a time, so that its order holds without a lock.
 */

#include <pthread.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/list.h"
#include "engine/engine.h"
#include "engine/engine_extent.h"
#include "engine/transport.h"

#define ENGINE_TRANSPORTS_MAX 8
#define ENGINE_LISTEN_MAX 16
#define GRANT_BUCKETS 1024
#define DEADLINE_DEFAULT_NS (5 * NS_PER_S)
#define GRACE_NS (250 * NS_PER_MS) /* for a cancelled slice to come back */
#define IDLE_NS (60 * NS_PER_S)	   /* an unused session without references */
#define TRIES_MAX 8
#define ENGINE_FAILURES 256u /* nodes whose last failure is remembered */

enum link_state { LINK_NEW, LINK_DIALING, LINK_ADMITTED, LINK_UP, LINK_DOWN };
enum batch_state { BATCH_IDLE, BATCH_QUEUED, BATCH_CUT, BATCH_DONE };
enum call_state { CALL_IDLE, CALL_WAITING, CALL_DONE };

struct engine_failure {
	uint8_t uuid[16];
	uint32_t incarnation;
	int error; /* -errno; 0: a free place */
	int64_t when_ns;
};

/* Something to call back, once. */
struct notice {
	struct list link; /* of e->notices; on itself: not queued */
	void (*run)(struct engine *e, struct notice *n); /* no lock held */
};

struct region {
	uint64_t id;
	struct engine_mem mem;
	int direct_fd; /* DISK: of our own, O_DIRECT; or -1 */
	char *map;     /* FILE: once used */
	size_t map_bytes;
	int numa_node;			   /* of its first page */
	uint32_t n_uses;		   /* transfers and grants */
	bool known[ENGINE_TRANSPORTS_MAX]; /* told to that transport */
	bool mapping;			   /* somebody makes it ready */
	bool ready;			   /* mapped, and transports know it */
	bool removed;
	void (*done)(void *ctx);
	void *ctx;
	struct notice notice;
};

/* One address of a peer: how connecting to it goes. */
struct peer_address {
	char text[ENGINE_ADDRESS_BYTES];
	const struct transport_ops *ops;
	struct transport *transport;
	uint32_t n_links, n_wanted;
	int64_t backoff_ns, after_ns; /* not before */
	int64_t failed_ns;	      /* the last time */
	uint32_t bad_locals; /* bits: no link of it came up from there */
	bool lazy; /* it had no room for us: not before we want something */
};

struct engine_peer {
	struct engine *engine;
	struct list of_engine;
	struct engine_node node;
	uint32_t refs; /* handles, links, calls, batches, grants, turns */
	void *user;
	bool local; /* one of e->here: no sessions, links for ever */
	struct peer_address addresses[ENGINE_ADDRESSES_MAX];
	uint32_t n_addresses;

	/* links and the session they make */
	struct list links;
	uint32_t n_links, n_live, n_up; /* all; admitted or up; up */
	uint64_t session;		/* 0: none */
	uint64_t proposed;		/* while connecting without one */
	uint64_t ended;			/* the last one: does not come back */
	uint64_t n_sessions;
	bool announced;	   /* a link of this session was up */
	uint64_t reported; /* n_sessions that on_peer_up ran for; 0: down ran */
	int down_why;
	int64_t used_ns, connect_by_ns;
	int last_error;

	/* callbacks: one thread at a time has the turn */
	bool turn;
	struct notice state_notice;

	/* messages */
	struct list msgs;   /* queued, in order */
	struct list resend; /* lost with a link, by seq */
	struct list unacked;
	struct engine_link *control; /* the link that messages take */
	uint32_t n_msgs_out;
	uint64_t next_seq, seen_seq;
	uint64_t msg_bytes;   /* queued or unacknowledged, replies apart */
	uint64_t reply_bytes; /* the same of replies */
	struct engine_call *calls;
	uint32_t n_calls;		  /* not answered, given up or not */
	uint64_t asked[ENGINE_CALLS_MAX]; /* theirs, unanswered */
	uint32_t n_asked;

	/* transfers */
	struct engine_batch *batches[ENGINE_PRIORITIES]; /* to cut */
	struct engine_batch *batches_last[ENGINE_PRIORITIES];
	struct engine_batch *cut; /* cut to the end, or failed; slices out */
	struct list retry[ENGINE_PRIORITIES];
	struct list out; /* slices that links have */
	bool recall;	 /* some of them are of failed batches */
	uint64_t queued_bytes;
	bool pumping, pump_again;

	struct list grants;
	uint32_t n_expected; /* of them, not closed */
	bool divert;	     /* some closed ones have landings not told yet */

	/* figures */
	struct engine_traffic traffic;
	_Atomic uint64_t came_bytes; /* with those of slices not whole */
	struct path path;	     /* all links together */
	struct path coming;	     /* the same of what comes, by its grants */
	uint32_t rtt_us;
};

struct engine_grant {
	struct list of_peer, of_bucket;
	struct engine_peer *peer;
	struct engine_segment segment;
	struct region *region;
	uint64_t offset, length_bytes, expected;
	struct extents arrived;
	uint64_t contiguous, reported;
	struct list landings;
	bool closed;
	int status;
	int64_t deadline_ns;
	const struct engine_grant_ops *ops;
	void *ctx;
	struct notice notice;
};

struct engine {
	pthread_mutex_t lock; /* guards all below that changes */
	pthread_cond_t wake;  /* the engine's thread: notices, deadlines */
	pthread_cond_t turns; /* a peer's turn is free; nothing is left */
	struct engine_node self;
	struct engine_callbacks callbacks;
	void *ctx;
	uint32_t links_per_address;
	int64_t connect_timeout_ns, silence_ns;

	struct numa numa;
	const struct transport_ops *ops[ENGINE_TRANSPORTS_MAX];
	struct transport *transports[ENGINE_TRANSPORTS_MAX];
	uint32_t n_transports;
	char listen[ENGINE_LISTEN_MAX][ENGINE_ADDRESS_BYTES];
	const struct transport_ops *listen_ops[ENGINE_LISTEN_MAX];
	uint32_t n_listen;

	struct region **regions; /* by slot */
	uint32_t n_slots, n_regions, free_hint;
	uint32_t region_epoch;

	struct list peers;
	struct engine_peer *here[2]; /* local, file */
	struct engine_failure failures[ENGINE_FAILURES];
	struct list buckets[GRANT_BUCKETS];
	uint64_t grant_serial, request_serial;
	uint32_t n_links; /* not yet freed */
	struct list spare_slices;
	uint32_t n_spare;

	struct list notices;
	struct engine_batch *done_batches, *done_batches_last;
	struct engine_call *done_calls, *done_calls_last;
	struct notice batches_notice, calls_notice;
	bool running;		   /* somebody runs them */
	_Atomic uint32_t n_inside; /* calls up at work */

	pthread_t thread;
	int64_t next_ns; /* when it wants to look again */
	bool closing, stop;
	struct engine_stats stats;
	struct engine_device devices[ENGINE_DEVICES_MAX];
	unsigned n_devices;
};

/* ---- engine_notice.c */

/** notice_init, notice_post - queue a callback once; lock held. */
void notice_init(struct notice *n,
		 void (*run)(struct engine *e, struct notice *n));
void notice_post(struct engine *e, struct notice *n);
/** notices_run - run what is queued unless somebody is at it; no lock held. */
void notices_run(struct engine *e);
/** up_begin, up_end - around every call up: this is a thread of the engine. */
void up_begin(struct engine *e);
void up_end(struct engine *e);
bool up_inside(void);

/* ---- engine_time.c */

/** time_by - be awake by then; lock held. */
void time_by(struct engine *e, int64_t when_ns);
/** time_pass - do what is due; no lock held. */
void time_pass(struct engine *e, int64_t now);
/** time_thread - the engine's own thread. */
void *time_thread(void *arg);

/* ---- region.c; lock held unless it says otherwise */

struct region *region_get(struct engine *e, uint64_t id); /* counts a use */
struct region *region_of(struct engine *e, uint64_t id);  /* in use already */
void region_put(struct engine *e, struct region *r);
/** region_map - give a FILE its mapping, tell transports; the caller has a
 *  use; no lock held. 0 or -errno. */
int region_map(struct engine *e, struct region *r);
/** region_take - by its id: in use, mapped, and long enough; or -errno. */
int region_take(struct engine *e, uint64_t region, uint64_t offset,
		uint64_t bytes, struct region **out);
void region_place(const struct region *r, uint64_t offset, uint64_t bytes,
		  struct engine_place *place);
void regions_free(struct engine *e);

/* ---- engine_peer.c; lock held */

struct engine_peer *peer_find(struct engine *e, const struct engine_node *n);
struct engine_peer *peer_new(struct engine *e, const struct engine_node *n);
void peer_hold(struct engine_peer *p);
void peer_release(struct engine_peer *p);
/** peer_usable - 0, or why nothing can be queued for it. */
int peer_usable(struct engine_peer *p);
void peer_session_begin(struct engine_peer *p, uint64_t session);
/** peer_session_end - fail all that hangs on it. */
void peer_session_end(struct engine_peer *p, int why);
void peer_turn_take(struct engine_peer *p);
void peer_turn_give(struct engine_peer *p);
/** peer_report - run on_peer_up/down as needed; the turn is taken; drops the
 *  lock around the callback. */
void peer_report(struct engine_peer *p);
bool peer_wants(const struct engine_peer *p); /* something is queued */

/** engine_scheme - whose address this is; NULL: nobody's. No lock needed. */
const struct transport_ops *engine_scheme(struct engine *e, const char *address,
					  struct transport **t);

/* ---- engine_failure.c; lock held */

/** failure_note - why this node could not be reached, or was lost. */
void failure_note(struct engine *e, const struct engine_node *n, int error);
/** failure_clear - it was reached. */
void failure_clear(struct engine *e, const struct engine_node *n);

/* ---- engine_link.c */

void link_hold(struct engine_link *l); /* lock held */
/** link_release - lock held; returns true where the caller must link_free. */
bool link_release(struct engine_link *l);
void link_put(struct engine_link *l); /* no lock held */
/** link_is_late - it owes an answer for long. Lock held. */
bool link_is_late(const struct engine_link *l, int64_t now);
/** links_preferred - do those of a preferred transport carry what is to be
 *  sent? One that is not late does, and late ones where all others are, too.
 *  Lock held. */
bool links_preferred(const struct engine_peer *p, int64_t now);
/** links_close - close all of a peer's; no lock held. */
void links_close(struct engine_peer *p, int why);
/** peer_connect - begin links that are due; no lock held. */
void peer_connect(struct engine_peer *p, int64_t now);

/* ---- engine_msg.c */

int msg_queue(struct engine_peer *p, uint16_t type, uint16_t flags,
	      uint64_t request_id, int status, const void *payload,
	      uint32_t payload_bytes); /* lock held */
void msgs_drop(struct engine_peer *p); /* lock held */
/** msg_send_next - give one to the control link; drops the lock around it.
 *  False: nothing to send, or nowhere. */
bool msg_send_next(struct engine_peer *p);
void msg_ping(struct engine_link *l); /* no lock held */

/* ---- engine_call.c */

void call_answered(struct engine_peer *p, const struct engine_msg_in *m);
void run_calls(struct engine *e, struct notice *n);
/** call_answer - queue the answer to one of theirs; lock held. As engine_reply.
 */
int call_answer(struct engine_peer *p, uint64_t request_id, int status,
		const void *payload, uint32_t payload_bytes);
void calls_fail(struct engine_peer *p, int why);	  /* lock held */
int64_t calls_expire(struct engine_peer *p, int64_t now); /* lock held */

/* ---- engine_batch.c; lock held */

struct engine_slice *batch_cut(struct engine_peer *p,
			       enum engine_priority priority, uint32_t most);
void batch_push(struct engine_peer *p, struct engine_batch *b);
void batch_fail(struct engine_batch *b, int status);
void batch_settle(struct engine_batch *b);
void batches_fail(struct engine_peer *p, int why);
int64_t batches_expire(struct engine_peer *p, int64_t now);
void slice_return(struct engine_peer *p, struct engine_slice *s);
bool peer_has_slices(const struct engine_peer *p);
/** batch_next_node - where the memory is that the next slice comes from. */
int batch_next_node(const struct engine_peer *p);
void run_batches(struct engine *e, struct notice *n);

/* ---- engine_pump.c; no lock held */

/** pump - hand what waits to the links that have room. */
void pump(struct engine_peer *p);
/** slices_recall - ask for slices of failed batches; close what is stuck. */
void slices_recall(struct engine_peer *p, int64_t now);

/* ---- engine_grant.c; lock held */

void grants_fail(struct engine_peer *p, int why);
int64_t grants_expire(struct engine_peer *p, int64_t now);
/** grants_divert - stop what still lands in closed grants; no lock held. */
void grants_divert(struct engine_peer *p);

/* ---- engine_traffic.c; lock held */

/** traffic_link_up, traffic_link_down - a link is one of its device's. */
void traffic_link_up(struct engine_link *l);
void traffic_link_down(struct engine_link *l);
/** traffic_... - a slice was delivered, goes to another path, came. */
void traffic_sent(const struct engine_slice *s, int64_t now);
void traffic_retried(const struct engine_slice *s);
void traffic_received(struct engine_link *l, uint64_t bytes);

/* ---- engine_check.c: transports, checked; no lock held */

int check_connect(struct transport *t, const struct transport_ops *ops,
		  const struct link_target *target, struct engine_link **link);
int check_send(struct engine_link *l, struct engine_msg *m);
int check_submit(struct engine_link *l, struct engine_slice *s);
void check_cancel(struct engine_link *l, struct engine_slice *s);
void check_divert(struct engine_link *l, struct engine_segment segment);
void check_close(struct engine_link *l, int why);
void check_free(struct engine_link *l);
/** check_up - a call up about a link in one of these states (bits). */
void check_up(const struct engine_link *l, unsigned states);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_RDMA_H
#define KVFS_ENGINE_RDMA_H

/*
 * The rdma transport, inside. One thread owns every socket and queue; ops of
 * the core only leave it in the mailbox (mailbox.h).
 *
 *      rdma.c          the ops: what other threads may call
 *      rdma_loop.c     the thread: readiness, the mailbox, time
 *      rdma_control.c  a link's TCP connection: dial, listen, handshake
 *      rdma_link.c     a link's life: met, up, down
 *      rdma_device.c   cards: which one has an address; port and device events
 *      rdma_region.c   memory registered with a card
 *      rdma_queue.c    the queue pair: made, connected, completed
 *      rdma_post.c     what is posted to it, many in one call
 *      rdma_send.c     packets, messages and slices out
 *      rdma_receive.c  the same in; landings and the keys to them
 *      rdma_record.c   what stands in a packet;  rdma_verbs.h  the library
 *
 * A link is a TCP connection and a reliable queue pair. The handshake of
 * auth.h runs over the first, then both sides say under its MAC where their
 * queue pair is (ENDPOINT), so a queue pair belongs to who proved to know the
 * cluster's key; rdma_cm would need a handshake of its own. The connection
 * stays: its keepalive and its end tell of a dead peer before the card does.
 *
 * An address is that of the connection, "rdma:10.0.0.1:7077". The card is the
 * one whose interface has the connection's own address, on either side.
 *
 * Nothing of ours is open to anybody but the bytes of one landing, to one
 * queue pair, from READY until the window's LOCAL_INV completed, before which
 * the landing does not end. A card without windows registers those bytes for
 * the transfer instead. The protection domain, one a device, is that of the
 * cluster's nodes, the only ones with a queue pair in it; copies for a GPU
 * (dmabuf.h) have one of their own.
 *
 * A slice of RDMA_DATA_BYTES or less is copied into a long packet and out of
 * it: that costs less than a window, and one round trip less. It waits for one
 * of its link's to come back, where none is free. Where its link has none, or
 * the other side takes none, it is offered like any other.
 *
 * Memory. A device: RDMA_SHARED_RECEIVES long packets, which all its links
 * receive into, and RDMA_LONGS to send. A link: RDMA_PACKETS packets to send,
 * 12 KiB here, 60 KiB while a message longer than a packet comes in, and the
 * card's queues: 120 to send, 168 to complete. Where a card has no shared
 * queues a link has RDMA_RECEIVES packets more. There are RDMA_QUEUES_MAX links
 * at most, whatever the number of peers: one more takes the place of an idle
 * one that was not used lately (SIEVE), which comes back when its peer wants
 * something. What was used of a region stays pinned until it is removed, a
 * frame's with its transfer; copies of what cannot be registered are
 * RDMA_COPIES_BYTES at most.
 */

#include "engine/auth.h"
#include "engine/mailbox.h"
#include "engine/rdma_record.h"
#include "engine/rdma_verbs.h"
#include "engine/tcp_address.h"
#include "engine/sysfs.h"
#include "engine/transport.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <pthread.h>

#define RDMA_SLICE_BYTES (1u << 20)
#define RDMA_WINDOW_BYTES (4u << 20)
#define RDMA_LINKS 4
#define RDMA_STRANGERS_MAX 64
#define RDMA_STRANGER_NS (2 * NS_PER_S) /* to be no stranger any more */
#define RDMA_CONTROL_BYTES 512		/* the longest frame is 224 */
#define RDMA_REGION_BUCKETS 1024
#define RDMA_PIECE_BYTES (128u << 20) /* of a region, registered at once */

/* Of every queue pair. */
#define RDMA_PSN_MASK 0xffffffu
#define RDMA_HOP_LIMIT 64
#define RDMA_TIMEOUT_CODE 16 /* 4.096 us << 16: 0.27 s, then again */
#define RDMA_RETRIES 7

/* Packets under way in one direction. The receiver has a buffer for each, and
 * one for each WRITE WITH_IMM that it allowed, which takes one as well. */
#define RDMA_PACKETS 16
#define RDMA_RECEIVES (RDMA_PACKETS + RDMA_WINDOW_SLICES)
/* Of a device. A burst of many peers may find none left: their cards wait and
 * send again (RNR). */
#define RDMA_SHARED_RECEIVES 512
#define RDMA_LONGS 64 /* a bit each */
#define RDMA_QUEUES_MAX 1024
#define RDMA_COPIES_BYTES (64u << 20)
/* One in so many is signalled, which frees those before it. */
#define RDMA_SIGNAL_EVERY 4
/* What a link can have posted at once: packets, and of each slot a WRITE, a
 * BIND and a LOCAL_INV. */
#define RDMA_SENDS (RDMA_PACKETS + 3 * RDMA_WINDOW_SLICES + 8)

/* A divert lets what is on its way finish: for so long without any byte, and
 * in all. Then the key is withdrawn, at which a writer's queue pair fails. */
#define RDMA_DIVERT_QUIET_NS (NS_PER_S)
#define RDMA_DIVERT_NS (5 * NS_PER_S)

extern const struct transport_ops transport_rdma;

/* What the thread waits for. */
struct rdma_fd {
	int fd;
	void (*ready)(struct rdma_fd *f, uint32_t events);
};

/* Packets to receive into. */
struct rdma_receives {
	struct ibv_srq *srq; /* NULL: they are of one queue pair */
	uint32_t each_bytes;
	uint8_t *bytes;
	struct ibv_mr *mr;
};

struct rdma_device {
	struct list link; /* t->devices */
	struct transport *t;
	char name[SYSFS_NAME_BYTES];
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct rdma_fd completions, events;
	bool windows;		     /* of type 2B */
	bool lost;		     /* it will never work again */
	bool no_sharing;	     /* of receives */
	struct rdma_receives shared; /* while there are links; behind them the
					long packets to send */
	uint64_t longs_free;
	uint64_t piece_bytes; /* the longest registration */
	unsigned n_links;
};

enum rdma_state {
	RDMA_DIALING,
	RDMA_GREETING, /* the handshake */
	RDMA_MEETING,  /* queue pairs are told and connected */
	RDMA_UP,
	RDMA_ENDING, /* t->endings: the loop ends it in its next turn */
};

/* A slice of ours. */
struct rdma_out {
	enum { RDMA_OUT_FREE, RDMA_OUT_OFFERED, RDMA_OUT_WRITING } state;
	struct engine_slice *slice; /* t->lock; NULL: given back */
	bool cancelled;		    /* t->lock: the core wants it back */
	bool written;		    /* the card reads it no more */
	bool late;		    /* a fault: not before it is over */
	bool done;		    /* DONE came */
	int status;		    /* of DONE */
	void *copy;		    /* of a source that cannot be registered */
	uint32_t copy_bytes;
	struct ibv_mr *copy_mr;
	const void *source; /* the slice's, or that copy */
	uint32_t key;	    /* of it */
	uint64_t to;	    /* READY's */
	uint32_t to_key;
	struct list answer; /* l->abandons */
};

/* A slice of theirs. */
struct rdma_in {
	enum {
		RDMA_IN_FREE,
		RDMA_IN_OPEN,	 /* they may write */
		RDMA_IN_CLOSING, /* not after this completes */
		RDMA_IN_OVER,	 /* an answer is owed */
	} state;
	struct engine_landing landing;
	struct engine_segment segment; /* t->lock */
	bool diverted;		       /* t->lock */
	bool written;
	bool withdrawn; /* its key went with nothing heard of the WRITE */
	int64_t divert_ns;
	struct ibv_mw *window;
	struct ibv_mr *mr; /* instead of a window */
	uint32_t key;
	uint8_t answer;	  /* the record that is owed */
	int status;	  /* with it */
	struct list owed; /* l->answers */
};

struct rdma_link {
	struct mailbox_link post;
	struct transport *t;
	struct list of_transport;
	struct list pump;  /* t->pumps */
	struct list end;   /* t->endings */
	struct list sieve; /* t->sieve, while it has queues */
	bool used;	   /* since the sieve saw it */
	enum rdma_state state;
	bool theirs, stranger, admitted;
	bool timed; /* counted in t->n_timed */
	int64_t deadline_ns;
	int why;

	/* control */
	struct rdma_fd control;
	struct tcp_address to, from;
	struct engine_node peer;
	uint64_t session;
	struct auth auth;
	uint8_t version;
	bool met; /* their ENDPOINT came */
	uint8_t in[RDMA_CONTROL_BYTES];
	size_t have;

	/* queue */
	struct rdma_device *device;
	struct topology_port port;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_mr *packets_mr;
	uint8_t *packets;		     /* to send */
	uint8_t longs[RDMA_PACKETS];	     /* instead: its number + 1 */
	unsigned n_longs;		     /* of them */
	bool takes_longs;		     /* the other side */
	struct rdma_receives own, *receives; /* own or the device's */
	uint32_t inline_bytes, first_psn;
	uint8_t mtu;
	uint16_t lid;

	/* out */
	uint32_t packets_out, packets_freed; /* posted, reusable */
	uint32_t packets_taken;		     /* that they told of */
	struct list flight; /* messages sent whole, oldest first */
	uint32_t messages_acked;
	struct engine_msg *msg; /* sent in part */
	uint32_t msg_at;
	struct rdma_out outs[RDMA_WINDOW_SLICES];
	struct list abandons;
	unsigned n_outs;

	/* in */
	uint32_t packets_in, packets_told;
	uint32_t messages_in, messages_told;
	struct engine_msg_in part; /* a message of which not all came */
	uint8_t *part_bytes;	   /* ENGINE_MSG_MAX of them, or NULL */
	uint32_t part_have;
	bool part_open;
	struct rdma_in ins[RDMA_WINDOW_SLICES];
	struct list answers;
	int64_t landed_ns; /* the last landing that was written */
	unsigned n_diverted;
};

/* What the completion of a work request says that it was. */
enum rdma_posted {
	RDMA_POSTED_PACKET,
	RDMA_POSTED_WRITE,
	RDMA_POSTED_INVALIDATE,
	RDMA_POSTED_RECEIVE,
};

/* Work requests that are posted together, all of one link. */
struct rdma_posts {
	struct rdma_link *of;
	uint32_t n;
	struct ibv_send_wr wr[RDMA_SENDS];
	struct ibv_sge sge[RDMA_SENDS];
};

struct rdma_listener {
	struct list link;
	struct transport *t;
	struct rdma_fd socket;
	bool paused;
};

struct rdma_region {
	struct list link; /* of its bucket */
	uint64_t id;
	uint8_t *addr;
	uint64_t length_bytes;
	struct list pieces;
};

struct transport {
	struct engine *engine;
	struct engine_keys keys;
	struct auth_self self;
	bool have_keys, tls;
	char *allowed; /* device names, NULL: all */
	pthread_t thread;
	int epoll;

	struct mailbox mailbox;
	struct rdma_fd rung;	   /* the mailbox was */
	struct list new_listeners; /* mailbox.lock */

	pthread_mutex_t regions_lock;
	struct list regions[RDMA_REGION_BUCKETS]; /* regions_lock */

	/* the loop's */
	struct list links, pumps, endings, listeners, devices;
	struct list found; /* ports, by addresses of ours */
	struct rdma_posts posts;
	struct list sieve;	 /* links with queues, the oldest first */
	struct list *sieve_hand; /* where to look next; in sieve */
	unsigned n_queues, queues_max;
	uint64_t copies_bytes, copies_max;
	unsigned n_strangers, n_timed;
	bool accept_paused;
	int64_t tick_ns;
	int64_t memory_warned_ns;
};

/* rdma_loop.c */
int rdma_loop_start(struct transport *t);
void rdma_loop_join(struct transport *t);
/** rdma_watch - call f->ready for these events. 0 or -errno. */
int rdma_watch(struct transport *t, struct rdma_fd *f, uint32_t events);
void rdma_rewatch(struct transport *t, struct rdma_fd *f, uint32_t events);
/** rdma_unwatch - close it. */
void rdma_unwatch(struct transport *t, struct rdma_fd *f);

/* rdma_control.c */
/** rdma_address_parse - "rdma:IP:PORT". 0 or -EINVAL. */
int rdma_address_parse(const char *address, struct tcp_address *a);
int rdma_listener_open(struct transport *t, const char *address, char *bound);
/** rdma_listener_begin - from now on the loop accepts. */
void rdma_listener_begin(struct rdma_listener *s);
void rdma_listener_free(struct rdma_listener *s);
/** rdma_listeners_tick - accept again. */
void rdma_listeners_tick(struct transport *t);
void rdma_control_dial(struct rdma_link *l);
/** rdma_control_send - one sealed frame. 0, or the link has failed. */
int rdma_control_send(struct rdma_link *l, uint8_t type, const void *payload,
		      uint32_t n);
/** rdma_control_bye - why it ends, if that can be said. */
void rdma_control_bye(struct rdma_link *l, const char *words);

/* rdma_link.c */
struct rdma_link *rdma_link_new(struct transport *t,
				const struct link_target *target);
/** rdma_link_admit - the other side is proven: does our core want it? 0, or
 *  -errno and why in words. */
int rdma_link_admit(struct rdma_link *l, const char **why);
/** rdma_link_meet - it is: tell of our queue pair. */
void rdma_link_meet(struct rdma_link *l);
/** rdma_link_frame - a frame of the control connection, authentic. 0 or
 *  -errno. */
int rdma_link_frame(struct rdma_link *l, const struct wire_header *h,
		    const uint8_t *payload);
void rdma_link_up(struct rdma_link *l);
/** rdma_link_fail - end it, in the loop's next turn. */
void rdma_link_fail(struct rdma_link *l, int why, const char *words);
/** rdma_link_end - the loop's: the end itself. */
void rdma_link_end(struct rdma_link *l);
void rdma_link_deadline(struct rdma_link *l, int64_t ns);
/** rdma_link_time - is it to be looked at every tick? */
void rdma_link_time(struct rdma_link *l);
void rdma_link_tick(struct rdma_link *l, int64_t now_ns);
/** rdma_link_mail - what other threads left. */
void rdma_link_mail(struct rdma_link *l);
void rdma_link_destroy(struct rdma_link *l);
void rdma_link_pump(struct rdma_link *l);

/* rdma_device.c */
/** rdma_port_of - the usable port whose interface has this address.
 *  @allowed: "mlx5_0,mlx5_1:2", devices and ports; NULL: all. 0, or -ENODEV.
 *  Threads: any. */
int rdma_port_of(const struct tcp_address *a, const char *allowed,
		 struct topology_port *port);
/** rdma_port_allowed - does that list name this port? */
bool rdma_port_allowed(const char *allowed, const char *device, unsigned port);
/** rdma_port_of_link - the same for its connection's own address; kept until
 *  rdma_ports_forget. */
int rdma_port_of_link(struct rdma_link *l);
/** rdma_ports_forget - a card's addresses or ports may have changed. */
void rdma_ports_forget(struct transport *t);
/** rdma_context_open - a device by its name; or NULL and errno. Any thread. */
struct ibv_context *rdma_context_open(const char *name);
/** rdma_device_get - opened, and one more link on it; or NULL and errno,
 *  logged. */
struct rdma_device *rdma_device_get(struct transport *t, const char *name);
void rdma_device_put(struct rdma_device *d);
void rdma_devices_close(struct transport *t);

/* rdma_region.c */
int rdma_region_add(struct transport *t, uint64_t region,
		    const struct engine_mem *mem);
void rdma_region_remove(struct transport *t, uint64_t region);
void rdma_regions_free(struct transport *t);
/** rdma_regions_forget - a device is going: its registrations too. */
void rdma_regions_forget(struct rdma_device *d);
/**
 * rdma_region_find - the registration that covers a place; made at its first
 * use
 * @landing: to be written by others, through a window
 *
 * Returns: 0; -EFAULT its memory is not all there; or -errno, logged.
 */
int rdma_region_find(struct rdma_device *d, const struct engine_place *place,
		     bool landing, struct ibv_mr **mr);
/** rdma_complain - so many bytes cannot be registered: what to do about it.
 *  Logged once a minute; @warned_ns: when it was. */
void rdma_complain(const char *device, uint64_t n, int error,
		   int64_t *warned_ns);
/** rdma_register - one registration. NULL and errno, logged. */
struct ibv_mr *rdma_register(struct rdma_device *d, void *addr, uint64_t n,
			     int access);

/* rdma_sieve.c */
/** rdma_sieve_add - a link is to have queues. 0, or -EUSERS: all there may be
 *  are busy. */
int rdma_sieve_add(struct rdma_link *l);
void rdma_sieve_remove(struct rdma_link *l);

/* rdma_queue.c */
void rdma_receives_free(struct rdma_receives *r);
/** rdma_queue_open - queues, not yet connected. 0 or -errno, logged. */
int rdma_queue_open(struct rdma_link *l);
void rdma_queue_endpoint(const struct rdma_link *l, struct rdma_endpoint *p);
/** rdma_queue_connect - to theirs. 0 or -errno. */
int rdma_queue_connect(struct rdma_link *l, const struct rdma_endpoint *p);
/** rdma_queue_close - nothing comes and nothing is read any more. */
void rdma_queue_close(struct rdma_link *l);
/** rdma_queue_poll - what has completed. */
void rdma_queue_poll(struct rdma_link *l);

/* rdma_post.c */
/** rdma_post_... - in order, by rdma_post_flush: at the end of this turn of the
 *  loop at the latest. */
void rdma_post_packet(struct rdma_link *l, uint32_t n_bytes);
void rdma_post_write(struct rdma_link *l, uint32_t slot);
void rdma_post_bind(struct rdma_link *l, uint32_t slot, struct ibv_mr *mr);
void rdma_post_invalidate(struct rdma_link *l, uint32_t slot);
/** rdma_post_flush - now. What cannot be posted ends its link. */
void rdma_post_flush(struct transport *t);
/** rdma_post_drop - the link ends: not any more. */
void rdma_post_drop(struct rdma_link *l);
/** rdma_post_receives - now. @numbers: NULL: from 0 to n - 1. 0 or -errno. */
int rdma_post_receives(struct rdma_link *l, const uint32_t *numbers,
		       uint32_t n);
uint8_t *rdma_receive_buffer(const struct rdma_link *l, uint32_t i);
/**
 * rdma_packet_next - where the next packet is written; NULL: not now
 * @plain: it carries more than counts
 * @most: how many bytes it wants; set to what it may have
 */
uint8_t *rdma_packet_next(struct rdma_link *l, bool plain, uint32_t *most);
/** rdma_packet_drop - it is not sent. */
void rdma_packet_drop(struct rdma_link *l);
/** rdma_packets_freed - the card reads those before it no more. */
void rdma_packets_freed(struct rdma_link *l, uint32_t before);

/* rdma_send.c */
void rdma_send_pump(struct rdma_link *l);
/** rdma_send_greeting - the first packet, with nothing in it. */
void rdma_send_greeting(struct rdma_link *l);
/** rdma_send_... - records that answer ours. 0 or -EPROTO. */
int rdma_send_ready(struct rdma_link *l, const struct rdma_record *r);
int rdma_send_refused(struct rdma_link *l, const struct rdma_record *r);
int rdma_send_done(struct rdma_link *l, const struct rdma_record *r);
int rdma_send_acked(struct rdma_link *l, const struct rdma_head *h);
/** rdma_send_written - the WRITE of a slot completed. */
void rdma_send_written(struct rdma_link *l, uint32_t slot);
/** rdma_send_cancel - give back what is marked and free to go. */
void rdma_send_cancel(struct rdma_link *l);
/** rdma_send_copies_free - once the queue pair is gone. */
void rdma_send_copies_free(struct rdma_link *l);
void rdma_send_give_up(struct rdma_link *l, int why);

/* rdma_receive.c */
/** rdma_receive_packet - 0 or -EPROTO. */
int rdma_receive_packet(struct rdma_link *l, const uint8_t *bytes, size_t n);
/** rdma_receive_written - a WRITE WITH_IMM came. 0 or -EPROTO. */
int rdma_receive_written(struct rdma_link *l, uint32_t slot, uint32_t n);
/** rdma_receive_invalidated - the key of a slot is void. */
void rdma_receive_invalidated(struct rdma_link *l, uint32_t slot);
/** rdma_receive_divert - segments were closed. */
void rdma_receive_divert(struct rdma_link *l);
void rdma_receive_tick(struct rdma_link *l, int64_t now_ns);
/** rdma_receive_keys_free - once the queue pair is gone. */
void rdma_receive_keys_free(struct rdma_link *l);
void rdma_receive_give_up(struct rdma_link *l, int why);

#endif

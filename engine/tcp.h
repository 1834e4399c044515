/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_TCP_H
#define KVFS_ENGINE_TCP_H

/*
 * The tcp transport, inside. One thread and one io_uring own every socket;
 * ops of the core only leave it in the mailbox (mailbox.h).
 *
 *      tcp.c          the ops: what other threads may call
 *      tcp_loop.c     the thread: completions, the mailbox, time
 *      tcp_address.c  "tcp:10.0.0.1:7077", "unix:/path"
 *      tcp_listen.c   strangers: few, briefly, in 512 bytes
 *      tcp_link.c     a link's life: dial, handshake, up, down
 *      tcp_send.c     frames out: batches, zero copy, what is not yet acked
 *      tcp_receive.c  frames in: headers, then straight into the target
 *      tcp_slot.c     memory registered for zero copy
 *      tls.c          the same bytes, encrypted
 *
 * Memory. A link: 5 KiB and 64 KiB of receive buffer once authenticated; 150
 * bytes for each message or slice that is not yet acknowledged, of which the
 * core gives at most its window. Nothing is buffered that the other side has
 * no room for: what is sent is read from where it lies.
 */

#include "engine/auth.h"
#include "engine/mailbox.h"
#include "engine/tcp_address.h"
#include "engine/tls.h"
#include "engine/transport.h"

#include "base/cleanup.h"

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define TCP_STRANGERS_MAX 64
#define TCP_STRANGER_NS 2000000000LL /* to be no stranger any more */
#define TCP_STRANGER_BYTES 512	     /* before that */

#define TCP_STRANGER_TLS_BYTES 2048 /* the same, encrypted */

#define TCP_BUFFER_BYTES (64u << 10) /* holds the longest message */
#define TCP_AHEAD_BYTES 4096	     /* read beyond what is known to come */
#define TCP_SCRATCH_BYTES (256u << 10)
#define TCP_CIPHER_BYTES (32u << 10)
#define TCP_FRAMES_MAX 48 /* in one send */
/* Linux 6.2: IORING_SEND_ZC_REPORT_USAGE and what it reports. */
#define TCP_ZERO_COPY_REPORT (1u << 3)
#define TCP_ZERO_COPY_COPIED (1u << 31)
#define TCP_SLOTS 64 /* registered buffers: zero-copy sends under way */
#define TCP_SLICE_BYTES (1u << 20)
#define TCP_WINDOW_SLICES 32
#define TCP_WINDOW_BYTES (8u << 20)

extern const struct transport_ops transport_tcp;

struct tcp_link;

/* What the kernel is doing for us. user_data of its request points here. */
struct tcp_op {
	void (*done)(struct tcp_op *op, int res, uint32_t flags);
};

/* A message or slice, from its header's making until it is given back. */
struct tcp_item {
	struct list link; /* of tcp_link.flight, lingering */
	struct tcp_link *of;
	struct engine_msg *msg;
	struct engine_slice *slice; /* NULL both: given back before its ack */
	uint64_t number;
	int status;	/* of a slice refused, or which could not be read */
	bool refused;	/* the core there said so */
	bool cancelled; /* the core here wants it back */
	bool acked;
	bool sending; /* the kernel copies from it */
	bool shared;  /* the kernel sends from its pages */
	int slot;     /* TCP_SLOTS's, or -1 */
	struct tcp_op zero_copy;
};

enum tcp_state {
	TCP_DIALING,
	TCP_GREETING, /* TLS and the handshake */
	TCP_UP,
	TCP_ENDING, /* waits for the kernel to let go */
	TCP_DOWN,
};

struct tcp_link {
	struct mailbox_link post;
	struct transport *t;
	struct list of_transport; /* t->links, the loop's */
	bool theirs;
	bool stranger; /* counted in t->n_strangers */
	bool admitted; /* engine_link_down is owed */

	/* t->mailbox.lock guards: */
	struct engine_segment divert; /* whose landing is to end */
	struct list flight;	      /* items not acked, oldest first */

	/* the loop's: */
	enum tcp_state state;
	int fd, why;
	int family; /* AF_UNIX knows no zero copy */
	int n_ops;  /* requests the kernel has; sends of shared pages aside */
	int64_t deadline_ns; /* 0: none; tcp_link_deadline */
	bool timed;	     /* counted in t->n_timed */
	struct tcp_address to, from;
	struct engine_node peer;
	uint64_t session;
	struct auth auth;
	struct tls *tls; /* or NULL */
	uint8_t *cipher; /* TCP_CIPHER_BYTES, where TLS receives */
	bool tls_shaken;
	size_t tls_bytes; /* that a stranger has sent */
	uint8_t version;
	struct tcp_op dial;

	/* out */
	struct tcp_op send;
	bool torn;	  /* the stream ended inside a frame */
	bool copied;	  /* the kernel copies zero-copy sends all the same */
	unsigned sending; /* requests of the batch: the next waits for both */
	struct list pump; /* t->pumps */
	struct list lingering; /* items acked, but in the kernel's hands */
	uint64_t items_out, items_in, items_in_told;
	uint8_t frames[TCP_FRAMES_MAX][WIRE_HEADER_BYTES];
	struct iovec out_iov[2 * TCP_FRAMES_MAX];
	struct msghdr out_msg;
	size_t out_bytes;
	struct tcp_item *out_items[TCP_FRAMES_MAX];
	unsigned n_out_frames, n_out_iov, n_out_items;
	struct {
		uint64_t number;
		int status;
	} refusals[2 * TCP_WINDOW_SLICES];
	unsigned n_refusals;

	/* in */
	struct tcp_op receive, stop;
	bool receiving, stopping;
	struct engine_segment stop_segment;
	uint8_t early[TCP_STRANGER_BYTES];
	uint8_t *buffer; /* early, or TCP_BUFFER_BYTES */
	size_t buffer_bytes, have, at;
	size_t early_bytes; /* that a stranger has sent */
	struct iovec in_iov[2];
	struct msghdr in_msg;
	/* A slice that is coming in: */
	uint64_t data_left;
	uint8_t *data_to; /* NULL: scratch */
	int data_status;
	bool landing_open;
	struct engine_landing landing;
	struct engine_segment landing_segment; /* t->mailbox.lock */
};

struct tcp_listener {
	struct list link;
	struct transport *t;
	struct tcp_op accept;
	int fd;
	bool accepting;
	struct sockaddr_storage peer;
	char unix_path[ENGINE_ADDRESS_BYTES];
};

struct transport {
	struct engine *engine;
	struct engine_keys keys;
	struct auth_self self;
	bool have_keys;
	struct tls_context *tls; /* or NULL */
	struct io_uring ring;
	pthread_t thread;
	bool zero_copy; /* the kernel has what it takes */
	unsigned zero_copy_flags;
	bool many_nodes; /* it matters which card a link has */
	uint8_t *scratch;

	struct mailbox mailbox;
	struct list listeners;
	struct list new_listeners; /* mailbox.lock */
	bool started;		   /* mailbox.lock */
	int start_status;	   /* mailbox.lock */
	uint64_t event;
	struct tcp_op event_op;
	bool event_armed;

	/* the loop's */
	struct list links, pumps;
	struct list orphans; /* items whose pages outlived their link */
	unsigned n_strangers, n_timed;
	bool accept_paused;
	int64_t tick_ns;
	uint64_t slots_used; /* bit i: slot i */
	int64_t pin_ns_per_mib;
	unsigned pin_skipped;
};

/* What is received was sent before: ThreadSanitizer does not see that where
 * both ends are in one process, as in tests. */
#ifdef __SANITIZE_THREAD__
extern _Atomic unsigned tcp_wire_order;
#define tcp_order() ((void)atomic_fetch_add(&tcp_wire_order, 1))
#else
#define tcp_order() ((void)0)
#endif

/* tcp_loop.c */
int tcp_loop_start(struct transport *t);
void tcp_loop_join(struct transport *t);
/** tcp_sqe - room for a request; submits what is queued if there is none. */
struct io_uring_sqe *tcp_sqe(struct transport *t, struct tcp_op *op);

/* tcp_listen.c */
int tcp_listener_open(struct transport *t, const char *address, char *bound);
void tcp_listener_arm(struct tcp_listener *s);
void tcp_listener_free(struct tcp_listener *s);
void tcp_listeners_tick(struct transport *t);

/* tcp_link.c */
struct tcp_link *tcp_link_new(struct transport *t,
			      const struct link_target *target);
void tcp_link_dial(struct tcp_link *l);
/** tcp_link_greet - the socket is connected: begin TLS or the handshake. */
void tcp_link_greet(struct tcp_link *l);
/** tcp_link_introduce - TLS is there, or not wanted: the handshake begins. */
int tcp_link_introduce(struct tcp_link *l);
/** tcp_link_fail - end it. Goes on until the kernel has let go. */
void tcp_link_fail(struct tcp_link *l, int why, const char *words);
/** tcp_link_settle - after a completion: may the end be completed? */
void tcp_link_settle(struct tcp_link *l);
/** tcp_link_deadline - set it, or none (0). */
void tcp_link_deadline(struct tcp_link *l, int64_t ns);
/** tcp_link_tick - deadlines. */
void tcp_link_tick(struct tcp_link *l, int64_t now_ns);
/** tcp_link_handshake - one of its frames. 0, or the link has failed. */
int tcp_link_handshake(struct tcp_link *l, const struct wire_header *h,
		       const uint8_t *payload);
/** tcp_link_mail - what other threads left. */
void tcp_link_mail(struct tcp_link *l);
/** tcp_link_destroy - memory and descriptor. */
void tcp_link_destroy(struct tcp_link *l);

/* tcp_send.c */
void tcp_send_init(struct tcp_link *l);
/** tcp_send_raw - a handshake's frame, copied. */
int tcp_send_raw(struct tcp_link *l, const uint8_t *bytes, size_t n);
/** tcp_send_tls - what TLS itself has to say; 0, or the link has failed. */
int tcp_send_tls(struct tcp_link *l);
/** tcp_send_want - pump before the loop sleeps. */
void tcp_send_want(struct tcp_link *l);
void tcp_send_pump(struct tcp_link *l);
/** tcp_send_acked - the other side has so many items. 0 or -EPROTO. */
int tcp_send_acked(struct tcp_link *l, uint64_t count);
/** tcp_send_refused - item was refused. 0 or -EPROTO. */
int tcp_send_refused(struct tcp_link *l, uint64_t number, int status);
/** tcp_send_cancel - give back what is marked and free to go. */
void tcp_send_cancel(struct tcp_link *l);
/** tcp_send_busy - does the kernel still send from our pages? */
bool tcp_send_busy(struct tcp_link *l);
/** tcp_send_forget - the ring is gone, and with it late notices. */
void tcp_send_forget(struct transport *t);
/** tcp_send_give_up - give back everything. */
void tcp_send_give_up(struct tcp_link *l, int why);

/* tcp_slot.c */
/** tcp_slot_get - a registered buffer over this memory, for one zero-copy
 *  send; or -errno: copy it. */
int tcp_slot_get(struct transport *t, void *addr, size_t n);
void tcp_slot_put(struct transport *t, int slot);

/* tcp_receive.c */
void tcp_receive_init(struct tcp_link *l);
/** tcp_receive_arm - wait for bytes. */
void tcp_receive_arm(struct tcp_link *l);
/** tcp_receive_divert - l->divert, the segment of the landing, is closed. */
void tcp_receive_divert(struct tcp_link *l);
/** tcp_receive_end - end an open landing. */
void tcp_receive_end(struct tcp_link *l, int why);

#endif

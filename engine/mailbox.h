/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_MAILBOX_H
#define KVFS_ENGINE_MAILBOX_H

/*
 * Between the core and a transport with a thread of its own (the loop), which
 * owns every socket and queue. Other threads only leave things with a link,
 * and ring; the loop takes them when it comes round.
 *
 *      mailbox_send, _submit, _link_close ──▶ [link] ──▶ mailbox_next,
 *      mailbox_unlock                          rings      mailbox_news
 *      (any thread)                                       (the loop)
 */

#include "engine/transport.h"

#include "base/list.h"

#include <pthread.h>
#include <stdatomic.h>

/* Of a transport. */
struct mailbox {
	const char *of; /* in messages */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list links; /* with something new; lock */
	bool quiet, ended; /* wanted by the core; lock */
	bool is_quiet;	   /* the loop accepts nothing more; lock */
	_Atomic bool rung;
	int fd; /* an eventfd: readable once it was rung */
};

/* Of a link of it. */
struct mailbox_link {
	struct engine_link base;
	struct mailbox *mailbox;

	/* mailbox->lock guards: */
	struct list at; /* mailbox->links */
	struct list msgs, slices;
	struct list back;   /* slices cancelled before they began */
	bool shut;	    /* nothing is taken any more */
	bool close_wanted;  /* by the core */
	bool cancel_wanted; /* something begun was marked */
	bool divert_wanted; /* the segment of a landing was closed */
	int close_why;
};

/* ---- any thread ---------------------------------------------------------- */

/** mailbox_open - 0, or -errno. */
int mailbox_open(struct mailbox *b, const char *of);
/** mailbox_close - the loop has ended. */
void mailbox_close(struct mailbox *b);
void mailbox_ring(struct mailbox *b);
/** mailbox_quiet - have the loop accept nothing more, and wait until it does.
 */
void mailbox_quiet(struct mailbox *b);
/** mailbox_end - have the loop end once its links are gone. */
void mailbox_end(struct mailbox *b);

void mailbox_link_init(struct mailbox_link *l, struct mailbox *b);
/** mailbox_of - the link that the core knows by this. */
static inline struct mailbox_link *mailbox_of(struct engine_link *link)
{
	return container_of(link, struct mailbox_link, base);
}
/** mailbox_unlock - give its lock back; with news the loop looks at the link.
 */
void mailbox_unlock(struct mailbox_link *l, bool news);

/* As in struct transport_ops. */
void mailbox_link_close(struct engine_link *link, int why);
int mailbox_send(struct engine_link *link, struct engine_msg *m);
int mailbox_submit(struct transport *t, struct engine_link *link,
		   struct engine_slice *s);
/** mailbox_take_back - a slice that was not begun goes to l->back; false: it is
 *  not there. With the lock. */
bool mailbox_take_back(struct mailbox_link *l, struct engine_slice *s);

/* ---- the loop ------------------------------------------------------------ */

/** mailbox_enter - the calling thread is the loop: it need not be woken. */
void mailbox_enter(struct mailbox *b);
/** mailbox_rung - was it rung? It has not been from now on. */
bool mailbox_rung(struct mailbox *b);
/** mailbox_next - a link with something new, each once; or NULL. */
struct mailbox_link *mailbox_next(struct mailbox *b);

struct mailbox_news {
	bool close, cancel, divert;
	int close_why;
};
/** mailbox_news - what is wanted of it, besides msgs and slices; a cancel and a
 *  divert are told of once. */
struct mailbox_news mailbox_news(struct mailbox_link *l);

#endif

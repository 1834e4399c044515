// SPDX-License-Identifier: MIT
/*
 * Frames out. One send at a time is with the kernel; meanwhile messages and
 * slices queue up, and the next send takes as many as fit: batching costs no
 * wait. Payloads leave from where they lie.
 */
#include "engine/tcp.h"

#include "base/fault.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define ZERO_COPY_LEAST (48u << 10)
#define ZERO_COPY_LEAST_COPIED (512u << 10) /* tcp_slot.c says why */

static void on_sent(struct tcp_op *op, int res, uint32_t flags);
static void on_zero_copy(struct tcp_op *op, int res, uint32_t flags);

void tcp_send_init(struct tcp_link *l)
{
	l->send.done = on_sent;
}

int tcp_send_tls(struct tcp_link *l)
{
	const uint8_t *bytes;
	size_t n;

	/* A batch under way is sent from there; the next takes this along. */
	if (l->sending)
		return 0;
	if (!tls_take(l->tls, &bytes, &n) &&
	    (!n ||
	     send(l->fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)n))
		return 0;
	tcp_link_fail(l, -EPIPE, "tls: send");
	return -ENOTCONN;
}

int tcp_send_raw(struct tcp_link *l, const uint8_t *bytes, size_t n)
{
	ssize_t sent;

	if (l->tls) {
		if (!tls_write(l->tls, bytes, n))
			return tcp_send_tls(l);
		tcp_link_fail(l, -ENOMEM, "tls");
		return -ENOMEM;
	}
	sent = send(l->fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent == (ssize_t)n)
		return 0;
	tcp_link_fail(l, sent < 0 ? -errno : -EAGAIN, "handshake: send");
	return -ENOTCONN;
}

void tcp_send_want(struct tcp_link *l)
{
	if (list_empty(&l->pump))
		list_push_back(&l->t->pumps, &l->pump);
}

/* --- items ------------------------------------------------------------- */

/* What the engine gave an item to send. */
struct tcp_owed {
	struct engine_msg *msg;
	struct engine_slice *slice;
};

/* The transport's lock is held while others may find the item: tcp_cancel looks
 * for its slice. */
static struct tcp_owed item_take(struct tcp_item *i)
{
	struct tcp_owed owed = {i->msg, i->slice};

	i->msg = NULL;
	i->slice = NULL;
	return owed;
}

static void give_back(const struct tcp_item *i, struct tcp_owed owed,
		      int status)
{
	struct tcp_link *l = i->of;

	if (owed.msg)
		engine_msg_done(&l->post.base, owed.msg, status);
	else if (owed.slice)
		engine_slice_done(l->t->engine, &l->post.base, owed.slice,
				  status, i->refused);
}

/* Give back what may be, and forget an item that nobody waits for. */
static void item_settle(struct tcp_item *i)
{
	struct transport *t = i->of->t;
	struct tcp_owed owed = {0};

	if (i->sending || i->shared)
		return;
	pthread_mutex_lock(&t->mailbox.lock);
	if (i->acked || i->cancelled)
		owed = item_take(i);
	if (i->acked)
		list_remove(&i->link);
	pthread_mutex_unlock(&t->mailbox.lock);
	give_back(i, owed, i->acked ? i->status : -ECANCELED);
	if (i->acked)
		free(i);
}

static struct tcp_item *item_new(struct tcp_link *l, struct list *what,
				 bool is_msg)
{
	struct tcp_item *i = calloc(1, sizeof(*i));

	if (!i)
		return NULL;
	i->of = l;
	i->slot = -1;
	i->zero_copy.done = on_zero_copy;
	if (is_msg)
		i->msg = container_of(what, struct engine_msg, link);
	else
		i->slice = container_of(what, struct engine_slice, link);
	list_init(&i->link);
	return i;
}

/* --- making a batch ---------------------------------------------------- */

static void item_unpin(struct tcp_item *i)
{
	if (i->slot >= 0)
		tcp_slot_put(i->of->t, i->slot);
	i->slot = -1;
}

static bool room(const struct tcp_link *l)
{
	return l->n_out_frames < TCP_FRAMES_MAX &&
	       l->out_bytes < TCP_SLICE_BYTES;
}

static void add_iov(struct tcp_link *l, const void *p, size_t n)
{
	l->out_iov[l->n_out_iov++] = (struct iovec){(void *)p, n};
	l->out_bytes += n;
}

/* An item whose refusal is still to be said would count as delivered. */
static uint64_t may_ack(const struct tcp_link *l)
{
	return l->n_refusals ? l->refusals[0].number - 1 : l->items_in;
}

static void add_frame(struct tcp_link *l, struct wire_header *h,
		      const void *control)
{
	uint8_t *frame = l->frames[l->n_out_frames++];

	h->version = l->version;
	h->ack = l->items_in_told = may_ack(l);
	wire_header_put(frame, h);
	auth_seal_frame(&l->auth.send, frame, control, control ? h->length : 0);
	add_iov(l, frame, WIRE_HEADER_BYTES);
}

static void add_refusals(struct tcp_link *l)
{
	while (l->n_refusals && room(l)) {
		struct wire_header h = {
			.type = WIRE_REFUSE,
			.request = l->refusals[0].number,
			.status = (uint32_t)-l->refusals[0].status};

		l->n_refusals--;
		memmove(l->refusals, l->refusals + 1,
			l->n_refusals * sizeof(l->refusals[0]));
		add_frame(l, &h, NULL);
	}
}

/* Returns: the next message or slice as an item that is in flight. */
static struct tcp_item *next_item(struct tcp_link *l, struct list *from,
				  bool is_msg)
{
	struct tcp_item *i;

	scoped_lock(&l->t->mailbox.lock);
	if (list_empty(from))
		return NULL;
	i = item_new(l, from->next, is_msg);
	if (!i)
		return NULL; /* the next pump tries again */
	list_remove(from->next);
	list_push_back(&l->flight, &i->link);
	i->number = ++l->items_out;
	i->sending = true;
	l->out_items[l->n_out_items++] = i;
	return i;
}

static void add_messages(struct tcp_link *l)
{
	struct tcp_item *i;

	while (room(l) && (i = next_item(l, &l->post.msgs, true))) {
		const struct engine_msg *m = i->msg;
		struct wire_header h = {
			.type = WIRE_MESSAGE,
			.flags =
				(m->flags & ENGINE_MSG_REPLY ? WIRE_REPLY : 0) |
				(m->flags & ENGINE_MSG_REQUEST ? WIRE_REQUEST
							       : 0),
			.length = m->payload_bytes,
			.kind = m->type,
			.status = (uint32_t)-m->status,
			.request = m->request_id,
			.offset = m->seq,
		};

		add_frame(l, &h, m->payload_bytes ? m->payload : NULL);
		if (m->payload_bytes)
			add_iov(l, m->payload, m->payload_bytes);
	}
}

static void add_slice(struct tcp_link *l, struct tcp_item *i)
{
	const struct engine_slice *s = i->slice;

	if (fault_hit("tcp.stop"))
		raise(SIGSTOP);
	add_frame(l,
		  &(struct wire_header){.type = WIRE_DATA,
					.length = s->length_bytes,
					.segment = s->segment.id,
					.generation = s->segment.generation,
					.offset = s->to_offset},
		  NULL);
}

static bool wants_zero_copy(const struct tcp_link *l,
			    const struct engine_slice *s)
{
	uint32_t least = l->copied ? ZERO_COPY_LEAST_COPIED : ZERO_COPY_LEAST;

	return l->t->zero_copy && !l->tls && s->length_bytes >= least &&
	       l->family != AF_UNIX;
}

/* Returns: an item that follows the batch from its own pages, or NULL. */
static struct tcp_item *add_slices(struct tcp_link *l)
{
	struct tcp_item *i;

	while (room(l) && (i = next_item(l, &l->post.slices, false))) {
		const struct engine_slice *s = i->slice;

		add_slice(l, i);
		if (wants_zero_copy(l, s))
			i->slot = tcp_slot_get(l->t, s->from.addr,
					       s->length_bytes);
		if (i->slot >= 0)
			return i;
		i->slot = -1;
		add_iov(l, s->from.addr, s->length_bytes);
	}
	return NULL;
}

static void submit_zero_copy(struct tcp_link *l, struct tcp_item *i)
{
	const struct engine_slice *s = i->slice;
	struct io_uring_sqe *sqe = tcp_sqe(l->t, &i->zero_copy);

	io_uring_prep_send_zc_fixed(sqe, l->fd, s->from.addr, s->length_bytes,
				    MSG_WAITALL | MSG_NOSIGNAL,
				    l->t->zero_copy_flags, (unsigned)i->slot);
	l->sending++;
	l->n_ops++;
}

/* Through scratch: the source may be a file that was cut short. */
static int encrypt_part(struct tcp_link *l, const struct iovec *part)
{
	uint8_t *from = part->iov_base;
	size_t left = part->iov_len;

	while (left) {
		struct iovec source = {from, left < TCP_SCRATCH_BYTES
						     ? left
						     : TCP_SCRATCH_BYTES};
		struct iovec to = {l->t->scratch, source.iov_len};

		if (process_vm_readv(getpid(), &to, 1, &source, 1, 0) !=
		    (ssize_t)to.iov_len)
			return -EFAULT;
		if (tls_write(l->tls, to.iov_base, to.iov_len))
			return -ENOMEM;
		from += to.iov_len;
		left -= to.iov_len;
	}
	return 0;
}

/* The batch as one piece of ciphertext. */
static int encrypt_batch(struct tcp_link *l)
{
	const uint8_t *bytes;
	int rc = 0;

	for (unsigned i = 0; i < l->n_out_iov && !rc; i++)
		rc = encrypt_part(l, &l->out_iov[i]);
	if (!rc)
		rc = tls_take(l->tls, &bytes, &l->out_bytes);
	if (!rc) {
		l->out_iov[0] = (struct iovec){(void *)bytes, l->out_bytes};
		l->n_out_iov = 1;
	}
	return rc;
}

static void submit_batch(struct tcp_link *l, struct tcp_item *zero_copy)
{
	int flags = MSG_WAITALL | MSG_NOSIGNAL | (zero_copy ? MSG_MORE : 0);
	struct io_uring_sqe *sqe;

	/* The two must be submitted together to be linked. */
	if (io_uring_sq_space_left(&l->t->ring) < 2)
		io_uring_submit(&l->t->ring);
	tcp_order();
	l->out_msg = (struct msghdr){.msg_iov = l->out_iov,
				     .msg_iovlen = l->n_out_iov};
	sqe = tcp_sqe(l->t, &l->send);
	io_uring_prep_sendmsg(sqe, l->fd, &l->out_msg, (unsigned)flags);
	l->sending++;
	l->n_ops++;
	if (zero_copy) {
		sqe->flags |= IOSQE_IO_LINK;
		submit_zero_copy(l, zero_copy);
	}
}

/* Can the kernel read all of it? Only asked once something failed. */
static bool readable(const struct engine_slice *s)
{
	uint8_t *page = malloc(4096);
	uint64_t n = s->length_bytes;
	bool ok = page;

	for (uint64_t at = 0; ok && at < n; at += 4096) {
		struct iovec to = {page, n - at < 4096 ? n - at : 4096};
		struct iovec from = {(uint8_t *)s->from.addr + at, to.iov_len};

		ok = process_vm_readv(getpid(), &to, 1, &from, 1, 0) ==
		     (ssize_t)to.iov_len;
	}
	free(page);
	return ok;
}

/* The stream ended inside a frame. A slice whose memory cannot be read is
 * not tried again: it would end every link. */
static void find_unreadable(struct tcp_link *l)
{
	for (unsigned n = 0; n < l->n_out_items; n++) {
		struct tcp_item *i = l->out_items[n];

		if (!i->slice || readable(i->slice))
			continue;
		i->status = -EFAULT;
		i->refused = true;
	}
}

static void settle_batch(struct tcp_link *l)
{
	unsigned n_items = l->n_out_items;

	l->n_out_items = 0;
	for (unsigned n = 0; n < n_items; n++) {
		struct tcp_item *i = l->out_items[n];

		if (i->slot >= 0)
			continue; /* its own completion comes */
		i->sending = false;
		item_settle(i);
	}
}

static void give_back_cancelled(struct tcp_link *l)
{
	for (;;) {
		struct list *n;

		pthread_mutex_lock(&l->t->mailbox.lock);
		n = list_pop_front(&l->post.back);
		pthread_mutex_unlock(&l->t->mailbox.lock);
		if (!n)
			return;
		engine_slice_done(l->t->engine, &l->post.base,
				  container_of(n, struct engine_slice, link),
				  -ECANCELED, false);
	}
}

void tcp_send_pump(struct tcp_link *l)
{
	struct tcp_item *zero_copy;
	int rc = 0;

	if (l->state != TCP_UP || l->sending)
		return;
	l->n_out_frames = l->n_out_iov = l->n_out_items = 0;
	l->out_bytes = 0;
	add_refusals(l);
	add_messages(l);
	zero_copy = add_slices(l);
	if (!l->n_out_frames && l->items_in != l->items_in_told)
		add_frame(l, &(struct wire_header){.type = WIRE_ACK}, NULL);
	if (!l->n_out_frames)
		return;
	if (fault_hit("tcp.send")) {
		l->torn = true;
		settle_batch(l);
		tcp_link_fail(l, -EIO, "fault");
		return;
	}
	if (l->tls)
		rc = encrypt_batch(l);
	if (!rc) {
		submit_batch(l, zero_copy);
		return;
	}
	if (rc == -EFAULT)
		find_unreadable(l);
	settle_batch(l);
	tcp_link_fail(l, rc, "tls: send");
}

/* --- completions ------------------------------------------------------- */

static void on_sent(struct tcp_op *op, int res, uint32_t flags)
{
	struct tcp_link *l = container_of(op, struct tcp_link, send);
	size_t want = l->out_bytes;

	(void)flags;
	l->n_ops--;
	l->sending--;
	if (res < 0 || (size_t)res < want) {
		if (res >= 0 || res == -EFAULT)
			find_unreadable(l);
		l->torn = true;
		tcp_link_fail(l, res < 0 ? res : -EPIPE, "send");
	}
	settle_batch(l);
	tcp_send_want(l);
	tcp_link_settle(l);
}

/* Two completions: sent (more comes), and its pages are free again. */
static void on_zero_copy(struct tcp_op *op, int res, uint32_t flags)
{
	struct tcp_item *i = container_of(op, struct tcp_item, zero_copy);
	struct tcp_link *l = i->of;

	if (flags & IORING_CQE_F_NOTIF && !l) {
		list_remove(&i->link);
		free(i);
		return;
	}
	if (flags & IORING_CQE_F_NOTIF) {
		i->shared = false;
		l->copied |= (unsigned)res & TCP_ZERO_COPY_COPIED;
	} else {
		l->n_ops--;
		l->sending--;
		i->sending = false;
		i->shared = flags & IORING_CQE_F_MORE;
		item_unpin(i);
		if (res < 0 || (uint32_t)res < i->slice->length_bytes) {
			l->torn = true;
			tcp_link_fail(l, res < 0 ? res : -EPIPE, "send");
		}
	}
	item_settle(i);
	tcp_send_want(l);
	tcp_link_settle(l);
}

/* --- acks and cancels --------------------------------------------------- */

static struct tcp_item *pop_acked(struct tcp_link *l, uint64_t count)
{
	struct tcp_item *i;

	scoped_lock(&l->t->mailbox.lock);
	if (list_empty(&l->flight))
		return NULL;
	i = container_of(l->flight.next, struct tcp_item, link);
	if (i->number > count)
		return NULL;
	list_remove(&i->link);
	list_push_back(&l->lingering, &i->link);
	return i;
}

int tcp_send_acked(struct tcp_link *l, uint64_t count)
{
	struct tcp_item *i;

	if (count > l->items_out)
		return -EPROTO;
	while ((i = pop_acked(l, count))) {
		i->acked = true;
		item_settle(i);
	}
	return 0;
}

int tcp_send_refused(struct tcp_link *l, uint64_t number, int status)
{
	struct tcp_item *found = NULL;

	pthread_mutex_lock(&l->t->mailbox.lock);
	list_for_each (n, &l->flight) {
		struct tcp_item *i = container_of(n, struct tcp_item, link);

		if (i->number == number)
			found = i;
	}
	pthread_mutex_unlock(&l->t->mailbox.lock);
	if (!found || found->msg || !status)
		return -EPROTO;
	found->status = status;
	found->refused = true;
	return 0;
}

void tcp_send_cancel(struct tcp_link *l)
{
	give_back_cancelled(l);
	/* Only this thread takes items off the list. */
	list_for_each_safe (n, &l->flight)
		item_settle(container_of(n, struct tcp_item, link));
}

bool tcp_send_busy(struct tcp_link *l)
{
	list_for_each (n, &l->flight)
		if (container_of(n, struct tcp_item, link)->shared)
			return true;
	list_for_each (n, &l->lingering)
		if (container_of(n, struct tcp_item, link)->shared)
			return true;
	return false;
}

static void give_up_items(struct tcp_link *l, struct list *items, int why)
{
	struct list *n;

	while ((n = items->next) != items) {
		struct tcp_item *i = container_of(n, struct tcp_item, link);

		pthread_mutex_lock(&l->t->mailbox.lock);
		list_remove(n);
		pthread_mutex_unlock(&l->t->mailbox.lock);
		give_back(i, item_take(i),
			  i->acked || i->status ? i->status : why);
		/* A late notice of the kernel still points into it. */
		i->of = NULL;
		if (i->shared)
			list_push_back(&l->t->orphans, &i->link);
		else
			free(i);
	}
}

void tcp_send_forget(struct transport *t)
{
	struct list *n;

	while ((n = list_pop_front(&t->orphans)))
		free(container_of(n, struct tcp_item, link));
}

void tcp_send_give_up(struct tcp_link *l, int why)
{
	struct list *n;

	give_back_cancelled(l);
	give_up_items(l, &l->lingering, why);
	give_up_items(l, &l->flight, why);
	while ((n = list_pop_front(&l->post.msgs)))
		engine_msg_done(&l->post.base,
				container_of(n, struct engine_msg, link), why);
	while ((n = list_pop_front(&l->post.slices)))
		engine_slice_done(l->t->engine, &l->post.base,
				  container_of(n, struct engine_slice, link),
				  why, false);
}

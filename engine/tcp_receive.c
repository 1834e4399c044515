// SPDX-License-Identifier: MIT
/*
 * Frames in. Headers and messages come into the link's buffer; once a DATA
 * header is there, the rest of its payload is received where it belongs, and
 * in the same request the next TCP_AHEAD_BYTES into the buffer. What was read
 * ahead of a header that turns out to be DATA is the only part that is moved
 * twice: 4 KiB at most of a slice.
 *
 * The core's memory is touched by system calls only: it may be a file that
 * was cut short, and a fault must be an error, not a signal.
 */
#include "engine/tcp.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/move.h"

#include <errno.h>
#include <string.h>

static void on_received(struct tcp_op *op, int res, uint32_t flags);

void tcp_receive_init(struct tcp_link *l)
{
	l->receive.done = on_received;
	l->buffer = l->early;
	l->buffer_bytes = sizeof(l->early);
}

/* --- arming ------------------------------------------------------------ */

static size_t buffered(const struct tcp_link *l)
{
	return l->have - l->at;
}

/* How much the buffer should hold before parsing goes on. */
static size_t needed(const struct tcp_link *l)
{
	if (buffered(l) < WIRE_HEADER_BYTES)
		return WIRE_HEADER_BYTES;
	/* A header that is whole, and whose payload is not: checked. */
	return WIRE_HEADER_BYTES + wire_get32(l->buffer + l->at + 8);
}

static struct iovec ahead(struct tcp_link *l)
{
	size_t want = l->data_left ? 0 : needed(l) - buffered(l);
	size_t free_bytes;

	if (l->at) {
		memmove(l->buffer, l->buffer + l->at, buffered(l));
		l->have -= l->at;
		l->at = 0;
	}
	free_bytes = l->buffer_bytes - l->have;
	if (want < TCP_AHEAD_BYTES)
		want = TCP_AHEAD_BYTES;
	/* A stranger with none left has ended its connection. */
	if (l->buffer == l->early &&
	    free_bytes > TCP_STRANGER_BYTES - l->early_bytes)
		free_bytes = TCP_STRANGER_BYTES - l->early_bytes;
	return (struct iovec){l->buffer + l->have,
			      want < free_bytes ? want : free_bytes};
}

/* Where the next bytes go. Returns: how many pieces. */
static unsigned targets(struct tcp_link *l)
{
	unsigned n = 0;

	if (l->tls) {
		l->in_iov[0] = (struct iovec){l->cipher, TCP_CIPHER_BYTES};
		return 1;
	}
	if (l->data_left) {
		size_t most = l->data_to ? l->data_left : TCP_SCRATCH_BYTES;

		l->in_iov[n++] = (struct iovec){
			l->data_to ? l->data_to : l->t->scratch,
			l->data_left < most ? l->data_left : most};
	}
	/* Not beyond a part of it. */
	if (!n || l->in_iov[0].iov_len == l->data_left)
		l->in_iov[n++] = ahead(l);
	return n;
}

void tcp_receive_arm(struct tcp_link *l)
{
	struct io_uring_sqe *sqe;
	unsigned n;

	if (l->receiving || l->state >= TCP_ENDING)
		return;
	n = targets(l);
	l->in_msg = (struct msghdr){.msg_iov = l->in_iov, .msg_iovlen = n};
	sqe = tcp_sqe(l->t, &l->receive);
	io_uring_prep_recvmsg(sqe, l->fd, &l->in_msg, 0);
	l->receiving = true;
	l->n_ops++;
}

/* --- slices ------------------------------------------------------------ */

static void landing_segment(struct tcp_link *l, struct engine_segment s)
{
	scoped_lock(&l->t->mailbox.lock);

	l->landing_segment = s;
}

/* The rest of the slice goes to scratch. */
static void landing_abort(struct tcp_link *l, int status)
{
	if (!l->landing_open)
		return;
	l->landing_open = false;
	landing_segment(l, (struct engine_segment){});
	l->data_to = NULL;
	l->data_status = status == -ECANCELED ? -ESTALE : status;
	engine_landing_end(&l->landing, status);
}

static int data_finished(struct tcp_link *l)
{
	l->items_in++;
	tcp_send_want(l);
	if (l->landing_open) {
		l->landing_open = false;
		landing_segment(l, (struct engine_segment){});
		engine_landing_end(&l->landing, 0);
		return 0;
	}
	if (l->n_refusals == 2 * TCP_WINDOW_SLICES)
		return -EPROTO; /* more than any window that we told of */
	l->refusals[l->n_refusals].number = l->items_in;
	l->refusals[l->n_refusals++].status = l->data_status;
	return 0;
}

/* So much of the payload is in place (or dropped). */
static int data_advance(struct tcp_link *l, size_t n)
{
	engine_data_came(&l->post.base, n);
	l->data_left -= n;
	if (l->data_to)
		l->data_to += n;
	return l->data_left ? 0 : data_finished(l);
}

/* What was read ahead. */
static int data_from_buffer(struct tcp_link *l)
{
	size_t n = buffered(l);

	if (n > l->data_left)
		n = l->data_left;
	if (!n)
		return 0;
	if (l->data_to && move_bytes(l->data_to, l->buffer + l->at, n))
		landing_abort(l, -EFAULT);
	l->at += n;
	return data_advance(l, n);
}

static int on_data(struct tcp_link *l, const struct wire_header *h)
{
	const struct engine_segment segment = {h->segment, h->generation};

	l->data_left = h->length;
	l->data_to = NULL;
	landing_segment(l, segment);
	l->data_status = engine_landing_begin(&l->post.base, segment, h->offset,
					      h->length, &l->landing);
	l->landing_open = !l->data_status;
	if (l->landing_open)
		l->data_to = l->landing.place.addr;
	else
		landing_segment(l, (struct engine_segment){});
	return data_from_buffer(l);
}

/* --- control ----------------------------------------------------------- */

static int on_message(struct tcp_link *l, const struct wire_header *h,
		      const uint8_t *payload)
{
	const struct engine_msg_in m = {
		.seq = h->offset,
		.request_id = h->request,
		.type = h->kind,
		.flags = (h->flags & WIRE_REPLY ? ENGINE_MSG_REPLY : 0) |
			 (h->flags & WIRE_REQUEST ? ENGINE_MSG_REQUEST : 0),
		.status = -(int32_t)h->status,
		.payload_bytes = h->length,
		.payload = payload,
	};

	l->items_in++;
	tcp_send_want(l);
	return engine_msg_arrived(&l->post.base, &m);
}

static int on_close(struct tcp_link *l, const struct wire_header *h,
		    const uint8_t *payload)
{
	char words[WIRE_REASON_MAX + 1];

	wire_reason_get(payload, h->length, words);
	tcp_link_fail(l, h->status ? -(int)h->status : -ECONNRESET, words);
	return -ENOTCONN;
}

static int on_frame(struct tcp_link *l, const struct wire_header *h,
		    const uint8_t *payload)
{
	int rc = tcp_send_acked(l, h->ack);

	if (rc)
		return rc;
	switch (h->type) {
	case WIRE_MESSAGE:
		return on_message(l, h, payload);
	case WIRE_DATA:
		return on_data(l, h);
	case WIRE_CLOSE:
		return on_close(l, h, payload);
	case WIRE_ACK:
		return 0;
	default:
		return -EPROTO; /* REFUSE: before its ack; handshake: over */
	}
}

/* A refusal is said before the ack that covers its item, or with it. */
static int on_refuse(struct tcp_link *l, const struct wire_header *h)
{
	int rc = tcp_send_refused(l, h->request, -(int)h->status);

	return rc ? rc : tcp_send_acked(l, h->ack);
}

/* Returns: 1 taken, 0 more is needed, or -errno: the link has failed. */
static int take_frame(struct tcp_link *l)
{
	bool up = l->state == TCP_UP;
	uint8_t version = up ? l->version : WIRE_VERSION_HANDSHAKE;
	const uint8_t *frame = l->buffer + l->at;
	struct wire_header h;
	const char *why;
	bool inside;
	int rc;

	if (buffered(l) < WIRE_HEADER_BYTES)
		return 0;
	rc = wire_header_get(frame, version, &h, &why);
	inside = !rc && h.type != WIRE_DATA;
	if (!rc && !up && !wire_is_handshake(h.type) && h.type != WIRE_CLOSE) {
		why = "the handshake comes first";
		rc = -EPROTO;
	}
	if (!rc && inside && buffered(l) < WIRE_HEADER_BYTES + h.length)
		return 0;
	if (!rc && up) {
		why = "wrong frame MAC";
		rc = auth_check_frame(
			&l->auth.receive, frame,
			inside && h.length ? frame + WIRE_HEADER_BYTES : NULL,
			inside ? h.length : 0);
	}
	if (!rc) {
		l->at += WIRE_HEADER_BYTES + (inside ? h.length : 0);
		if (!up)
			return tcp_link_handshake(l, &h,
						  frame + WIRE_HEADER_BYTES)
				       ?: 1;
		why = "broken rules of the protocol";
		rc = h.type == WIRE_REFUSE
			     ? on_refuse(l, &h)
			     : on_frame(l, &h, frame + WIRE_HEADER_BYTES);
	}
	if (rc)
		tcp_link_fail(l, rc, why);
	return rc ? rc : 1;
}

static void take_frames(struct tcp_link *l)
{
	while (!l->data_left && l->state < TCP_ENDING)
		if (take_frame(l) != 1)
			return;
}

/* --- completions ------------------------------------------------------- */

/* Distribute what came over the target and the buffer. */
static void received(struct tcp_link *l, size_t n)
{
	atomic_store_explicit(&l->post.base.heard_ns, clock_now_ns(),
			      memory_order_relaxed);
	if (l->data_left) {
		size_t data = l->in_iov[0].iov_len;

		if (data > n)
			data = n;
		n -= data;
		if (data_advance(l, data)) {
			tcp_link_fail(l, -EPROTO, "too many bad slices");
			return;
		}
	}
	l->have += n;
	if (l->buffer == l->early)
		l->early_bytes += n;
	take_frames(l);
}

/* Returns: whether there was more. */
static bool decrypt_some(struct tcp_link *l)
{
	uint8_t *scratch = l->t->scratch;
	struct iovec to = {scratch, TCP_SCRATCH_BYTES};
	int n;

	if (!l->data_left)
		to = ahead(l);
	else if (to.iov_len > l->data_left)
		to.iov_len = l->data_left;
	n = tls_read(l->tls, to.iov_base, to.iov_len);
	if (n < 0)
		tcp_link_fail(l, n, "tls: bad record");
	if (n <= 0)
		return false;
	if (l->data_to && l->data_left &&
	    move_bytes(l->data_to, scratch, (size_t)n))
		landing_abort(l, -EFAULT);
	l->in_iov[0].iov_len = l->data_left;
	received(l, (size_t)n);
	return l->state < TCP_ENDING;
}

static void received_tls(struct tcp_link *l, size_t n)
{
	int rc;

	if (l->state != TCP_UP)
		l->tls_bytes += n;
	rc = l->tls_bytes > TCP_STRANGER_TLS_BYTES
		     ? -EPROTO
		     : tls_feed(l->tls, l->cipher, n);
	if (!rc && !l->tls_shaken) {
		rc = tls_shake(l->tls);
		l->tls_shaken = rc == 1;
		if (tcp_send_tls(l))
			return;
		if (rc == 1)
			rc = tcp_link_introduce(l);
	}
	if (rc)
		tcp_link_fail(l, rc,
			      "tls: handshake (have both tls=on and the same "
			      "cluster key?)");
	while (l->tls_shaken && l->state < TCP_ENDING && decrypt_some(l))
		;
	if (l->state < TCP_ENDING)
		tcp_send_tls(l);
}

/* Is this what is coming in? */
static bool same_segment(const struct tcp_link *l, struct engine_segment s)
{
	return l->landing_open && l->landing_segment.id == s.id &&
	       l->landing_segment.generation == s.generation;
}

static void on_received(struct tcp_op *op, int res, uint32_t flags)
{
	struct tcp_link *l = container_of(op, struct tcp_link, receive);

	(void)flags;
	tcp_order();
	l->n_ops--;
	l->receiving = false;
	if (res > 0 && fault_hit("tcp.receive"))
		res = -ECONNRESET;
	if (res > 0 && l->tls)
		received_tls(l, (size_t)res);
	else if (res > 0)
		received(l, (size_t)res);
	else if (res == -EFAULT && l->landing_open)
		landing_abort(l, -EFAULT);
	else if (res != -EINTR && res != -EAGAIN &&
		 !(res == -ECANCELED && l->stopping))
		tcp_link_fail(l, res ? res : -ECONNRESET, "connection ended");
	if (l->stopping && same_segment(l, l->stop_segment))
		landing_abort(l, -ECANCELED);
	l->stopping = false;
	tcp_receive_arm(l);
	tcp_link_settle(l);
}

/* --- ends -------------------------------------------------------------- */

/*
 * The landing may end only when the kernel's receive has: cancel it, and let
 * its completion go on. */
void tcp_receive_divert(struct tcp_link *l)
{
	struct engine_segment segment;
	struct io_uring_sqe *sqe;

	pthread_mutex_lock(&l->t->mailbox.lock);
	segment = l->divert;
	pthread_mutex_unlock(&l->t->mailbox.lock);
	if (!same_segment(l, segment) || l->state != TCP_UP)
		return;
	if (!l->receiving || l->tls) { /* TLS receives into scratch */
		landing_abort(l, -ECANCELED);
		return;
	}
	if (l->stopping)
		return;
	l->stopping = true;
	l->stop_segment = segment;
	sqe = tcp_sqe(l->t, NULL);
	io_uring_prep_cancel(sqe, &l->receive, 0);
}

void tcp_receive_end(struct tcp_link *l, int why)
{
	landing_abort(l, why);
}

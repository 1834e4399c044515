/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_RDMA_RECORD_H
#define KVFS_ENGINE_RDMA_RECORD_H

/*
 * What two rdma links say to each other in SENDs, byte for byte. A SEND is a
 * packet: a head, then records until its end, each with `length` bytes of a
 * message or of a slice behind it.
 *
 *      sender                                receiver
 *      OFFER {slot, segment, offset, length} ──▶   landing, window bound
 *                     ◀── READY {slot, address, key}   or REFUSED {status}
 *      RDMA WRITE WITH_IMM {slot} ══════════▶      window invalidated
 *                     ◀── DONE {slot, status}
 *
 *      DATA {slot, segment, offset, length} bytes ──▶      copied
 *                     ◀── DONE {slot, status}
 *
 * A slot is the sender's: one slice at a time, of RDMA_WINDOW_SLICES. ABANDON
 * instead of the WRITE gives it up. A packet is no longer than
 * RDMA_PACKET_BYTES, or RDMA_LONG_BYTES to who takes those (ENDPOINT); DATA
 * stands in long ones. Functions on buffers only; fuzzed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDMA_PACKET_BYTES 1024
#define RDMA_HEAD_BYTES 16
#define RDMA_RECORD_BYTES 48
#define RDMA_WINDOW_SLICES 32
#define RDMA_DATA_BYTES 4096 /* of a slice, at most */
#define RDMA_LONG_BYTES \
	(RDMA_HEAD_BYTES + 2 * (RDMA_RECORD_BYTES + RDMA_DATA_BYTES))

/* Cumulative counts of the other direction, modulo 2^32. */
struct rdma_head {
	uint32_t packets;  /* taken: their buffers are free again */
	uint32_t messages; /* that the core has */
};

enum rdma_record_type {
	RDMA_OFFER = 1,
	RDMA_READY,
	RDMA_REFUSED,
	RDMA_ABANDON,
	RDMA_DONE,
	RDMA_MESSAGE, /* begins one */
	RDMA_MORE,    /* goes on with it */
	RDMA_DATA,
	RDMA_RECORD_END
};

struct rdma_record {
	uint8_t type;
	uint16_t length; /* bytes behind it: MESSAGE, MORE, DATA */
	uint32_t slot;
	uint32_t status;      /* REFUSED, DONE, MESSAGE: 0 or an errno */
	uint32_t bytes;	      /* OFFER: of the slice; MESSAGE: of the whole */
	uint16_t kind, flags; /* MESSAGE */
	/* OFFER, DATA: segment, its generation, offset in it. READY: address,
	 * key. MESSAGE: its call, its sequence. */
	uint64_t a, b, c;
};

void rdma_head_put(uint8_t to[RDMA_HEAD_BYTES], const struct rdma_head *h);
void rdma_head_get(const uint8_t from[RDMA_HEAD_BYTES], struct rdma_head *h);

/** rdma_record_put - write a record without what is behind it. */
void rdma_record_put(uint8_t to[RDMA_RECORD_BYTES],
		     const struct rdma_record *r);

/**
 * rdma_record_get - read and check one record
 * @n: bytes from there to the packet's end
 * @r: set only on success
 *
 * Checks the type, the slot, the status, that `length` ends inside the packet,
 * and that a slice or message is no longer than one may be.
 * Returns: the bytes it takes, with what is behind it; 0 at the packet's end;
 *          or -EPROTO.
 */
int rdma_record_get(const uint8_t *from, size_t n, struct rdma_record *r);

/* What each side says of its queue pair, in the ENDPOINT frame of the control
 * connection (wire.h). */
#define RDMA_ENDPOINT_BYTES 32

struct rdma_endpoint {
	uint32_t queue_pair, first_psn; /* 24 bits each */
	uint16_t lid;			/* InfiniBand */
	uint16_t packet_bytes;		/* of the longest that it takes */
	uint8_t mtu;			/* as verbs number them: 1..5 */
	uint8_t gid[16];
};

void rdma_endpoint_put(uint8_t to[RDMA_ENDPOINT_BYTES],
		       const struct rdma_endpoint *p);

/** rdma_endpoint_get - 0 or -EPROTO. */
int rdma_endpoint_get(const uint8_t *from, size_t n, struct rdma_endpoint *p);

#endif

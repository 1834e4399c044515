/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_WIRE_H
#define KVFS_ENGINE_WIRE_H

/*
 * What stands between two nodes, byte for byte: kvfs-wire(7). A connection
 * carries frames; a frame is a header of WIRE_HEADER_BYTES, little-endian,
 * and `length` bytes behind it. There is no pointer in it, and no length that
 * was not compared with a cap of its type before anybody takes memory for it.
 *
 * Functions on buffers only: nothing here reads, writes, allocates or logs.
 * MAC and handshake: auth.h.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_MAGIC 0x7366766bu /* "kvfs" */
#define WIRE_HEADER_BYTES 96
#define WIRE_SEALED_BYTES 80 /* of it, what the MAC covers */
#define WIRE_MAC_BYTES 16

/* What this build speaks; the handshake finds the highest that both do. */
#define WIRE_VERSION_MIN 1
#define WIRE_VERSION_MAX 1
/* Of the handshake's own frames, for ever. */
#define WIRE_VERSION_HANDSHAKE 1

/* Caps: bytes behind a header. */
#define WIRE_HANDSHAKE_MAX 128
#define WIRE_REASON_MAX 128
#define WIRE_MESSAGE_MAX (60u << 10)
#define WIRE_DATA_MAX (16u << 20)
#define WIRE_STATUS_MAX 4095

enum wire_type {
	WIRE_HELLO = 1, /* handshake: these four, in this order */
	WIRE_CHALLENGE = 2,
	WIRE_PROOF = 3,
	WIRE_ACCEPT = 4,
	WIRE_CLOSE = 5,	  /* the last frame: a status, and why in words */
	WIRE_MESSAGE = 6, /* from one engine to the other, or above it */
	WIRE_DATA = 7,	  /* a slice for a segment that the receiver granted */
	WIRE_REFUSE = 8,  /* a slice was not taken: its number, its status */
	WIRE_ACK = 9,	  /* nothing but the count that every header has */
	WIRE_ENDPOINT = 10, /* rdma: where the sender's queue pair is */
	WIRE_TYPE_END
};

/* Flags. */
/* 1 will mean that `checksum` is set (man/kvfs-wire.7 says why not yet). */
#define WIRE_REPLY 2u	/* MESSAGE: answers `request` */
#define WIRE_REQUEST 4u /* MESSAGE: wants an answer to `request` */
#define WIRE_FLAGS_KNOWN 6u

/* Messages and data are the items of a connection, counted from 1 in each
 * direction: `ack` and REFUSE speak in these numbers. A field without a
 * meaning for its type is zero. */
struct wire_header {
	uint8_t version;
	uint8_t type;
	uint16_t flags;
	uint32_t length;      /* bytes behind the header */
	uint32_t status;      /* 0, or an errno as Linux on x86 numbers them */
	uint16_t kind;	      /* MESSAGE: what it is */
	uint64_t request;     /* MESSAGE: its call; REFUSE: the item */
	uint64_t segment;     /* DATA */
	uint64_t offset;      /* DATA: in the segment; MESSAGE: its sequence */
	uint64_t generation;  /* DATA: of the segment */
	uint64_t checksum[2]; /* XXH3-128 of the payload; 0: not taken */
	uint64_t ack; /* items of the other direction that were delivered */
};

/**
 * wire_header_put - write a header; its last WIRE_MAC_BYTES become zero
 */
void wire_header_put(uint8_t to[WIRE_HEADER_BYTES],
		     const struct wire_header *h);

/**
 * wire_header_get - read and check a header
 * @version: what was negotiated; WIRE_VERSION_HANDSHAKE before that
 * @h: set only on success
 * @why: on failure, in words for WIRE_CLOSE and the log
 *
 * Checks the magic number, version, type, flags, that length is within the
 * cap of the type, that offset + length does not overflow, and that fields
 * without a meaning are zero.
 * Returns: 0 or -EPROTO.
 */
int wire_header_get(const uint8_t from[WIRE_HEADER_BYTES], uint8_t version,
		    struct wire_header *h, const char **why);

/** wire_length_max - the cap of a type; 0 also for what is no type. */
uint32_t wire_length_max(uint8_t type);

/** wire_is_handshake - does a frame of this type come before keys exist? */
static inline bool wire_is_handshake(uint8_t type)
{
	return type >= WIRE_HELLO && type <= WIRE_ACCEPT;
}

/** wire_type_name - for logs. */
const char *wire_type_name(uint8_t type);

/* HELLO and CHALLENGE have the same payload. */
#define WIRE_NONCE_BYTES 32
#define WIRE_UUID_BYTES 16
#define WIRE_PROOF_BYTES 32
#define WIRE_HELLO_BYTES 88

enum wire_transport { WIRE_PLAIN = 0, WIRE_TLS = 1, WIRE_RDMA = 2 };

struct wire_hello {
	uint8_t version_min, version_max; /* CHALLENGE: the choice, twice */
	uint8_t transport;		  /* enum wire_transport */
	uint32_t key_id; /* what the sender proves itself with */
	uint64_t incarnation;
	uint64_t session; /* the connecting side's; several lanes share one */
	uint8_t nonce[WIRE_NONCE_BYTES];
	uint8_t uuid[WIRE_UUID_BYTES];	 /* the sender */
	uint8_t expect[WIRE_UUID_BYTES]; /* whom it wants; zeros: anybody */
};

void wire_hello_put(uint8_t to[WIRE_HELLO_BYTES], const struct wire_hello *h);

/** wire_hello_get - 0, or -EPROTO with why. */
int wire_hello_get(const uint8_t *from, size_t n, struct wire_hello *h,
		   const char **why);

/**
 * wire_reason_get - the words of a CLOSE as printable text
 * @text: terminated; what is not printable ASCII becomes '?'
 */
void wire_reason_get(const uint8_t *from, size_t n,
		     char text[WIRE_REASON_MAX + 1]);

/* Little-endian fields; compilers make one move of each. */
static inline void wire_put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline void wire_put64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint32_t wire_get32(const uint8_t *p)
{
	uint32_t v = 0;

	for (int i = 0; i < 4; i++)
		v |= (uint32_t)p[i] << (8 * i);
	return v;
}

static inline uint64_t wire_get64(const uint8_t *p)
{
	return wire_get32(p) | (uint64_t)wire_get32(p + 4) << 32;
}

#endif

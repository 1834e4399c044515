// SPDX-License-Identifier: MIT
/* Frames to structs and back; nothing is believed. */
#include "engine/wire.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	uint32_t max;
} types[WIRE_TYPE_END] = {
	[WIRE_HELLO] = {"hello", WIRE_HANDSHAKE_MAX},
	[WIRE_CHALLENGE] = {"challenge", WIRE_HANDSHAKE_MAX},
	[WIRE_PROOF] = {"proof", WIRE_HANDSHAKE_MAX},
	[WIRE_ACCEPT] = {"accept", WIRE_HANDSHAKE_MAX},
	[WIRE_CLOSE] = {"close", WIRE_REASON_MAX},
	[WIRE_MESSAGE] = {"message", WIRE_MESSAGE_MAX},
	[WIRE_DATA] = {"data", WIRE_DATA_MAX},
	[WIRE_REFUSE] = {"refuse", 0},
	[WIRE_ACK] = {"ack", 0},
	[WIRE_ENDPOINT] = {"endpoint", WIRE_HANDSHAKE_MAX},
};

uint32_t wire_length_max(uint8_t type)
{
	return type < WIRE_TYPE_END ? types[type].max : 0;
}

const char *wire_type_name(uint8_t type)
{
	return type && type < WIRE_TYPE_END ? types[type].name : "unknown";
}

void wire_header_put(uint8_t to[WIRE_HEADER_BYTES], const struct wire_header *h)
{
	wire_put32(to, WIRE_MAGIC);
	to[4] = h->version;
	to[5] = h->type;
	to[6] = (uint8_t)h->flags;
	to[7] = (uint8_t)(h->flags >> 8);
	wire_put32(to + 8, h->length);
	wire_put32(to + 12, h->status);
	wire_put64(to + 16, h->request);
	wire_put64(to + 24, h->segment);
	wire_put64(to + 32, h->offset);
	wire_put64(to + 40, h->generation);
	wire_put64(to + 48, h->checksum[0]);
	wire_put64(to + 56, h->checksum[1]);
	wire_put64(to + 64, h->ack);
	wire_put64(to + 72, h->kind);
	memset(to + WIRE_SEALED_BYTES, 0, WIRE_MAC_BYTES);
}

/* Returns: NULL, or what is wrong. */
static const char *header_wrong(const uint8_t *from, uint8_t version,
				const struct wire_header *h)
{
	if (wire_get32(from) != WIRE_MAGIC)
		return "not the kvfs protocol (is tls= the same on both?)";
	if (h->version != version)
		return "wire version not negotiated";
	if (!h->type || h->type >= WIRE_TYPE_END)
		return "unknown frame type";
	if (h->flags & ~WIRE_FLAGS_KNOWN || wire_get64(from + 72) > UINT16_MAX)
		return "unknown flags";
	if (h->length > wire_length_max(h->type))
		return "frame too long";
	if (h->status > WIRE_STATUS_MAX)
		return "unknown status";
	if (h->offset > UINT64_MAX - h->length)
		return "offset out of range";
	if (h->type == WIRE_DATA && !h->length)
		return "empty data frame";
	return NULL;
}

int wire_header_get(const uint8_t from[WIRE_HEADER_BYTES], uint8_t version,
		    struct wire_header *h, const char **why)
{
	struct wire_header got = {
		.version = from[4],
		.type = from[5],
		.flags = (uint16_t)(from[6] | from[7] << 8),
		.length = wire_get32(from + 8),
		.status = wire_get32(from + 12),
		.request = wire_get64(from + 16),
		.segment = wire_get64(from + 24),
		.offset = wire_get64(from + 32),
		.generation = wire_get64(from + 40),
		.checksum = {wire_get64(from + 48), wire_get64(from + 56)},
		.ack = wire_get64(from + 64),
		.kind = (uint16_t)wire_get32(from + 72),
	};

	*why = header_wrong(from, version, &got);
	if (*why)
		return -EPROTO;
	*h = got;
	return 0;
}

void wire_hello_put(uint8_t to[WIRE_HELLO_BYTES], const struct wire_hello *h)
{
	to[0] = h->version_min;
	to[1] = h->version_max;
	to[2] = h->transport;
	to[3] = 0;
	wire_put32(to + 4, h->key_id);
	wire_put64(to + 8, h->incarnation);
	memcpy(to + 16, h->nonce, WIRE_NONCE_BYTES);
	memcpy(to + 48, h->uuid, WIRE_UUID_BYTES);
	memcpy(to + 64, h->expect, WIRE_UUID_BYTES);
	wire_put64(to + 80, h->session);
}

int wire_hello_get(const uint8_t *from, size_t n, struct wire_hello *h,
		   const char **why)
{
	*why = NULL;
	/* A later version may say more behind it. */
	if (n < WIRE_HELLO_BYTES)
		*why = "hello too short";
	else if (!from[0] || from[0] > from[1])
		*why = "no wire version offered";
	else if (from[2] > WIRE_RDMA)
		*why = "unknown transport";
	if (*why)
		return -EPROTO;
	h->version_min = from[0];
	h->version_max = from[1];
	h->transport = from[2];
	h->key_id = wire_get32(from + 4);
	h->incarnation = wire_get64(from + 8);
	memcpy(h->nonce, from + 16, WIRE_NONCE_BYTES);
	memcpy(h->uuid, from + 48, WIRE_UUID_BYTES);
	memcpy(h->expect, from + 64, WIRE_UUID_BYTES);
	h->session = wire_get64(from + 80);
	return 0;
}

void wire_reason_get(const uint8_t *from, size_t n,
		     char text[WIRE_REASON_MAX + 1])
{
	if (n > WIRE_REASON_MAX)
		n = WIRE_REASON_MAX;
	for (size_t i = 0; i < n; i++)
		text[i] =
			from[i] >= ' ' && from[i] <= '~' ? (char)from[i] : '?';
	text[n] = '\0';
}

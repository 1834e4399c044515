// SPDX-License-Identifier: MIT
/* Packets to structs and back; nothing is believed. */
#include "engine/rdma_record.h"

#include "engine/transport.h"
#include "engine/wire.h"

#include <errno.h>
#include <string.h>

#define SLICE_BYTES_MAX WIRE_DATA_MAX

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

void rdma_head_put(uint8_t to[RDMA_HEAD_BYTES], const struct rdma_head *h)
{
	wire_put32(to, h->packets);
	wire_put32(to + 4, h->messages);
	wire_put64(to + 8, 0);
}

void rdma_head_get(const uint8_t from[RDMA_HEAD_BYTES], struct rdma_head *h)
{
	h->packets = wire_get32(from);
	h->messages = wire_get32(from + 4);
}

void rdma_record_put(uint8_t to[RDMA_RECORD_BYTES], const struct rdma_record *r)
{
	memset(to, 0, RDMA_RECORD_BYTES);
	to[0] = r->type;
	put16(to + 2, r->length);
	wire_put32(to + 4, r->slot);
	wire_put32(to + 8, r->status);
	wire_put32(to + 12, r->bytes);
	put16(to + 16, r->kind);
	put16(to + 18, r->flags);
	wire_put64(to + 24, r->a);
	wire_put64(to + 32, r->b);
	wire_put64(to + 40, r->c);
}

static bool valid(const struct rdma_record *r)
{
	bool behind = r->type == RDMA_MESSAGE || r->type == RDMA_MORE ||
		      r->type == RDMA_DATA;

	if (!r->type || r->type >= RDMA_RECORD_END ||
	    r->slot >= RDMA_WINDOW_SLICES || r->status > WIRE_STATUS_MAX)
		return false;
	if (r->length && !behind)
		return false;
	switch (r->type) {
	case RDMA_OFFER:
		return r->bytes && r->bytes <= SLICE_BYTES_MAX &&
		       r->c <= UINT64_MAX - r->bytes;
	case RDMA_READY:
		return r->b <= UINT32_MAX;
	case RDMA_REFUSED:
		return r->status;
	case RDMA_MESSAGE:
		return r->bytes <= ENGINE_MSG_MAX && r->length <= r->bytes &&
		       !(r->flags & ~(ENGINE_MSG_REPLY | ENGINE_MSG_REQUEST));
	case RDMA_MORE:
		return r->length;
	case RDMA_DATA:
		return r->length && r->length <= RDMA_DATA_BYTES &&
		       r->c <= UINT64_MAX - r->length;
	default:
		return true;
	}
}

int rdma_record_get(const uint8_t *from, size_t n, struct rdma_record *r)
{
	struct rdma_record got;

	if (!n)
		return 0;
	if (n < RDMA_RECORD_BYTES)
		return -EPROTO;
	got = (struct rdma_record){
		.type = from[0],
		.length = get16(from + 2),
		.slot = wire_get32(from + 4),
		.status = wire_get32(from + 8),
		.bytes = wire_get32(from + 12),
		.kind = get16(from + 16),
		.flags = get16(from + 18),
		.a = wire_get64(from + 24),
		.b = wire_get64(from + 32),
		.c = wire_get64(from + 40),
	};
	if (!valid(&got) || got.length > n - RDMA_RECORD_BYTES)
		return -EPROTO;
	*r = got;
	return RDMA_RECORD_BYTES + got.length;
}

void rdma_endpoint_put(uint8_t to[RDMA_ENDPOINT_BYTES],
		       const struct rdma_endpoint *p)
{
	memset(to, 0, RDMA_ENDPOINT_BYTES);
	wire_put32(to, p->queue_pair);
	wire_put32(to + 4, p->first_psn);
	put16(to + 8, p->lid);
	to[10] = p->mtu;
	put16(to + 12, p->packet_bytes);
	memcpy(to + 16, p->gid, sizeof(p->gid));
}

int rdma_endpoint_get(const uint8_t *from, size_t n, struct rdma_endpoint *p)
{
	struct rdma_endpoint got;

	if (n < RDMA_ENDPOINT_BYTES) /* a later version may say more */
		return -EPROTO;
	got = (struct rdma_endpoint){
		.queue_pair = wire_get32(from),
		.first_psn = wire_get32(from + 4),
		.lid = get16(from + 8),
		.mtu = from[10],
		.packet_bytes = get16(from + 12),
	};
	memcpy(got.gid, from + 16, sizeof(got.gid));
	if (got.queue_pair >> 24 || got.first_psn >> 24 || !got.mtu ||
	    got.mtu > 5)
		return -EPROTO;
	*p = got;
	return 0;
}

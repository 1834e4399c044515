// SPDX-License-Identifier: MIT
/* A packet of an rdma link, and what is said of a queue pair. */
#include "tests/fuzz/fuzz.h"

#include "engine/rdma_record.h"
#include "engine/transport.h"
#include "engine/wire.h"

const unsigned fuzz_runs = 400000;

static void endpoint(const uint8_t *data, size_t n)
{
	uint8_t again[RDMA_ENDPOINT_BYTES];
	struct rdma_endpoint p, q;

	if (rdma_endpoint_get(data, n, &p))
		return;
	fuzz_must(p.queue_pair < 1u << 24 && p.first_psn < 1u << 24);
	fuzz_must(p.mtu >= 1 && p.mtu <= 5);
	rdma_endpoint_put(again, &p);
	fuzz_must(!rdma_endpoint_get(again, sizeof(again), &q));
	fuzz_must(p.queue_pair == q.queue_pair && p.lid == q.lid &&
		  p.packet_bytes == q.packet_bytes &&
		  !memcmp(p.gid, q.gid, sizeof(p.gid)));
}

static void record_again(const struct rdma_record *r)
{
	uint8_t again[RDMA_LONG_BYTES] = {0};
	struct rdma_record s;
	int n;

	rdma_record_put(again, r);
	n = rdma_record_get(again, sizeof(again), &s);
	fuzz_must(n == RDMA_RECORD_BYTES + r->length);
	fuzz_must(r->type == s.type && r->slot == s.slot &&
		  r->status == s.status && r->bytes == s.bytes &&
		  r->kind == s.kind && r->flags == s.flags && r->a == s.a &&
		  r->b == s.b && r->c == s.c);
	fuzz_must(r->slot < RDMA_WINDOW_SLICES);
	fuzz_must(r->status <= WIRE_STATUS_MAX);
	if (r->type == RDMA_MESSAGE)
		fuzz_must(r->bytes <= ENGINE_MSG_MAX && r->length <= r->bytes);
	if (r->type == RDMA_DATA)
		fuzz_must(r->length && r->length <= RDMA_DATA_BYTES &&
			  r->c + r->length > r->c);
	if (r->type == RDMA_OFFER)
		fuzz_must(r->bytes && r->c + r->bytes >= r->c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct rdma_record r;
	struct rdma_head h;
	int taken;

	endpoint(data, n);
	if (n < RDMA_HEAD_BYTES || n > RDMA_LONG_BYTES)
		return 0;
	rdma_head_get(data, &h);
	for (size_t at = RDMA_HEAD_BYTES; at < n; at += (size_t)taken) {
		taken = rdma_record_get(data + at, n - at, &r);
		if (taken < 0)
			return 0;
		fuzz_must(taken >= RDMA_RECORD_BYTES &&
			  (size_t)taken <= n - at);
		record_again(&r);
	}
	return 0;
}

static size_t put(uint8_t *to, const struct rdma_record *r)
{
	rdma_record_put(to, r);
	memset(to + RDMA_RECORD_BYTES, 0x5a, r->length);
	return RDMA_RECORD_BYTES + r->length;
}

void fuzz_seeds(void)
{
	uint8_t bytes[RDMA_LONG_BYTES];
	size_t n = RDMA_HEAD_BYTES;

	rdma_head_put(bytes, &(struct rdma_head){7, 3});
	n += put(bytes + n, &(struct rdma_record){.type = RDMA_OFFER,
						  .slot = 3,
						  .bytes = 4096,
						  .a = 77,
						  .b = 4,
						  .c = 8192});
	n += put(bytes + n,
		 &(struct rdma_record){
			 .type = RDMA_READY, .slot = 31, .a = 4096, .b = 99});
	n += put(bytes + n, &(struct rdma_record){.type = RDMA_REFUSED,
						  .slot = 1,
						  .status = 116});
	fuzz_seed(bytes, n);
	n = RDMA_HEAD_BYTES;
	n += put(bytes + n, &(struct rdma_record){.type = RDMA_MESSAGE,
						  .length = 5,
						  .bytes = 8,
						  .kind = 16,
						  .flags = ENGINE_MSG_REQUEST,
						  .a = 9,
						  .b = 1});
	n += put(bytes + n,
		 &(struct rdma_record){.type = RDMA_MORE, .length = 3});
	n += put(bytes + n,
		 &(struct rdma_record){.type = RDMA_DONE, .slot = 2});
	n += put(bytes + n,
		 &(struct rdma_record){.type = RDMA_ABANDON, .slot = 2});
	fuzz_seed(bytes, n);
	n = RDMA_HEAD_BYTES;
	n += put(bytes + n, &(struct rdma_record){.type = RDMA_DATA,
						  .length = 100,
						  .slot = 5,
						  .a = 77,
						  .b = 4,
						  .c = 8192});
	n += put(bytes + n,
		 &(struct rdma_record){.type = RDMA_DONE, .slot = 6});
	fuzz_seed(bytes, n);
	rdma_endpoint_put(bytes, &(struct rdma_endpoint){.queue_pair = 17,
							 .first_psn = 1,
							 .packet_bytes = 1024,
							 .mtu = 3,
							 .gid = {0xfe, 0x80}});
	fuzz_seed(bytes, RDMA_ENDPOINT_BYTES);
}

// SPDX-License-Identifier: MIT
/* A connection's bytes as frames, the way the tcp transport takes them. */
#include "tests/fuzz/fuzz.h"

#include "engine/wire.h"

const unsigned fuzz_runs = 400000;

static void header_again(const uint8_t *from, const struct wire_header *h)
{
	uint8_t again[WIRE_HEADER_BYTES];

	wire_header_put(again, h);
	fuzz_must(!memcmp(from, again, WIRE_SEALED_BYTES));
	fuzz_must(h->type && h->type < WIRE_TYPE_END);
	fuzz_must(h->length <= wire_length_max(h->type));
	fuzz_must(h->offset + h->length >= h->offset);
	fuzz_must(h->status <= WIRE_STATUS_MAX);
	fuzz_must(strcmp(wire_type_name(h->type), "unknown"));
}

static void payload(const struct wire_header *h, const uint8_t *p, size_t n)
{
	char text[WIRE_REASON_MAX + 1];
	struct wire_hello hello;
	uint8_t again[WIRE_HELLO_BYTES];
	const char *why;

	wire_reason_get(p, n, text);
	fuzz_must(strlen(text) <= WIRE_REASON_MAX);
	if (wire_hello_get(p, n, &hello, &why)) {
		fuzz_must(why);
		return;
	}
	wire_hello_put(again, &hello);
	fuzz_must(!memcmp(p + 4, again + 4, WIRE_HELLO_BYTES - 4));
	fuzz_must(hello.version_min <= hello.version_max);
	(void)h;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const uint8_t *p = data, *end = data + n;

	while (end - p >= WIRE_HEADER_BYTES) {
		struct wire_header h;
		const char *why;
		size_t left = (size_t)(end - p) - WIRE_HEADER_BYTES;

		if (wire_header_get(p, 1, &h, &why)) {
			fuzz_must(why && *why);
			return 0;
		}
		header_again(p, &h);
		p += WIRE_HEADER_BYTES;
		if (h.length < left)
			left = h.length;
		payload(&h, p, left);
		p += left;
	}
	return 0;
}

static size_t frame(uint8_t *to, const struct wire_header *h, const void *p)
{
	wire_header_put(to, h);
	if (p)
		memcpy(to + WIRE_HEADER_BYTES, p, h->length);
	return WIRE_HEADER_BYTES + h->length;
}

void fuzz_seeds(void)
{
	uint8_t bytes[1024], hello[WIRE_HELLO_BYTES];
	const struct wire_hello h = {.version_min = 1,
				     .version_max = 2,
				     .key_id = 3,
				     .nonce = {1},
				     .uuid = {2}};
	size_t n;

	wire_hello_put(hello, &h);
	n = frame(bytes,
		  &(struct wire_header){.version = 1,
					.type = WIRE_HELLO,
					.length = sizeof(hello)},
		  hello);
	fuzz_seed(bytes, n);
	n = frame(bytes,
		  &(struct wire_header){.version = 1,
					.type = WIRE_MESSAGE,
					.flags = WIRE_REQUEST,
					.length = 5,
					.kind = 16,
					.request = 9,
					.offset = 1},
		  "names");
	n += frame(bytes + n,
		   &(struct wire_header){.version = 1,
					 .type = WIRE_DATA,
					 .length = 8,
					 .segment = 77,
					 .generation = 4,
					 .ack = 1},
		   "8 bytes.");
	n += frame(bytes + n,
		   &(struct wire_header){.version = 1,
					 .type = WIRE_REFUSE,
					 .request = 2,
					 .status = 116},
		   NULL);
	fuzz_seed(bytes, n);
	n = frame(bytes,
		  &(struct wire_header){.version = 1,
					.type = WIRE_CLOSE,
					.status = 71,
					.length = 7},
		  "because");
	n += frame(bytes + n,
		   &(struct wire_header){.version = 1, .type = WIRE_ACK}, NULL);
	fuzz_seed(bytes, n);
}

// SPDX-License-Identifier: MIT
/* Strangers: whatever frames they send, in whatever order, they are not let
 * in; whoever stands between two nodes and changes what they say, or says it
 * twice, keeps them apart at most; and the text of a key file. */
#include "tests/fuzz/fuzz.h"

#include <errno.h>

#include "engine/auth.h"

const unsigned fuzz_runs = 40000;

static const struct engine_keys keys = {2, {{1, {11}}, {2, {22}}}};

static struct auth_self self(uint8_t uuid)
{
	return (struct auth_self){.uuid = {uuid},
				  .keys = &keys,
				  .version_min = 1,
				  .version_max = 1};
}

static void side(const uint8_t *p, const uint8_t *end, bool client)
{
	const struct auth_self me = self(1);
	uint8_t out[AUTH_OUT_MAX];
	struct auth a;

	if (auth_init(&a, &me, client, NULL, NULL, 1, out) < 0)
		return;
	while (end - p >= WIRE_HEADER_BYTES) {
		struct wire_header h;
		const char *why;
		size_t n_out;
		int rc;

		if (wire_header_get(p, WIRE_VERSION_HANDSHAKE, &h, &why))
			break;
		p += WIRE_HEADER_BYTES;
		if (h.length > (size_t)(end - p) ||
		    h.length > WIRE_HANDSHAKE_MAX)
			break;
		rc = auth_step(&a, &h, p, out, &n_out, &why);
		fuzz_must(rc != 1); /* nobody guesses a key */
		fuzz_must(n_out <= AUTH_OUT_MAX);
		fuzz_must(rc == 0 || (rc < 0 && why && !a.expecting));
		p += h.length;
	}
	auth_wipe(&a);
}

/* What the two nodes of between() say to each other. */
struct spoken {
	uint8_t bytes[4][AUTH_OUT_MAX]; /* HELLO, CHALLENGE, PROOF, ACCEPT */
	size_t n[4];
};

/* One edit of frame @i, as the input has it. Returns: whether its payload is
 * another one now. */
static bool edit(struct spoken *s, unsigned i, struct fuzz_input *in)
{
	uint8_t way = fuzz_take_u8(in), at = fuzz_take_u8(in);
	uint8_t with = fuzz_take_u8(in), *b = s->bytes[i];

	if (way % 4 == 1 && with) {
		b[WIRE_HEADER_BYTES + at % (s->n[i] - WIRE_HEADER_BYTES)] ^=
			with;
		return true;
	}
	if (way % 4 == 2) { /* an earlier one once more */
		unsigned old = at % (i + 1);
		bool other = old != i;

		memmove(b, s->bytes[old], s->n[old]);
		s->n[i] = s->n[old];
		return other;
	}
	if (way % 4 == 3)
		b[at % WIRE_SEALED_BYTES] ^= with;
	return false;
}

/* Frame @i of @s arrives; the answer is frame i + 1. Returns: auth_step's. */
static int arrives(struct auth *a, struct spoken *s, unsigned i)
{
	uint8_t *answer = s->bytes[i + 1 < 4 ? i + 1 : 0],
		closing[AUTH_OUT_MAX];
	struct wire_header h;
	const char *why;
	size_t none;

	if (wire_header_get(s->bytes[i], WIRE_VERSION_HANDSHAKE, &h, &why) ||
	    h.length > s->n[i] - WIRE_HEADER_BYTES)
		return -EPROTO;
	return auth_step(a, &h, s->bytes[i] + WIRE_HEADER_BYTES,
			 i + 1 < 4 ? answer : closing,
			 i + 1 < 4 ? &s->n[i + 1] : &none, &why);
}

static void between(const uint8_t *data, size_t n)
{
	struct auth_self here = self(1), there = self(2);
	struct fuzz_input in = {data, data + n};
	bool changed = false;
	struct auth end[2]; /* listening, connecting */
	struct spoken s;
	int rc;

	here.version_max = 2;
	there.version_max = 3;
	rc = auth_init(&end[0], &here, false, NULL, NULL, 1, s.bytes[0]);
	fuzz_must(!rc);
	rc = auth_init(&end[1], &there, true, NULL, NULL, 1, s.bytes[0]);
	fuzz_must(rc > WIRE_HEADER_BYTES);
	s.n[0] = (size_t)rc;
	rc = 0;
	for (unsigned i = 0; i < 4 && rc >= 0; i++) {
		changed |= edit(&s, i, &in);
		rc = arrives(&end[i & 1], &s, i);
		fuzz_must(rc != 1 || (i >= 2 && !changed));
	}
	fuzz_must(rc < 0 || (end[0].version == 2 && end[1].version == 2));
	auth_wipe(&end[0]);
	auth_wipe(&end[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct engine_keys got;
	const char *why;

	side(data, data + n, false);
	side(data, data + n, true);
	between(data, n);
	if (!engine_keys_parse((const char *)data, n, &got, &why))
		fuzz_must(got.n >= 1 && got.n <= ENGINE_KEYS_MAX);
	else
		fuzz_must(why);
	return 0;
}

static size_t hello(uint8_t *to, uint8_t type, uint8_t uuid)
{
	const struct wire_hello h = {.version_min = 1,
				     .version_max = 1,
				     .key_id = 2,
				     .session = 3,
				     .nonce = {uuid},
				     .uuid = {uuid}};
	const struct wire_header f = {
		.version = 1, .type = type, .length = WIRE_HELLO_BYTES};

	wire_header_put(to, &f);
	wire_hello_put(to + WIRE_HEADER_BYTES, &h);
	return WIRE_HEADER_BYTES + WIRE_HELLO_BYTES;
}

static size_t proof(uint8_t *to, uint8_t type)
{
	const struct wire_header f = {
		.version = 1, .type = type, .length = WIRE_PROOF_BYTES};

	wire_header_put(to, &f);
	memset(to + WIRE_HEADER_BYTES, 0x5a, WIRE_PROOF_BYTES);
	return WIRE_HEADER_BYTES + WIRE_PROOF_BYTES;
}

void fuzz_seeds(void)
{
	static const char text[] =
		"# the cluster\n1 00112233445566778899aabbccddeeff"
		"00112233445566778899aabbccddeeff\n";
	uint8_t bytes[1024];
	size_t n;

	n = hello(bytes, WIRE_HELLO, 7);
	n += proof(bytes + n, WIRE_PROOF);
	fuzz_seed(bytes, n);
	n = hello(bytes, WIRE_CHALLENGE, 7);
	n += proof(bytes + n, WIRE_ACCEPT);
	fuzz_seed(bytes, n);
	fuzz_seed(text, sizeof(text) - 1);
	memset(bytes, 0, 12);
	fuzz_seed(bytes, 12); /* between: nothing is changed */
	for (uint8_t way = 1; way < 4; way++) {
		bytes[3 * way] = way;
		bytes[3 * way + 2] = 0x80;
		fuzz_seed(bytes, 12);
	}
}

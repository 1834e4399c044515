// SPDX-License-Identifier: MIT
/* Strangers: whatever frames they send, in whatever order, they are not let
 * in; and the text of a key file. */
#include "tests/fuzz/fuzz.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct engine_keys got;
	const char *why;

	side(data, data + n, false);
	side(data, data + n, true);
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
}

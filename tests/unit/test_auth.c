// SPDX-License-Identifier: MIT
/* The handshake, from both sides and from none. */
#include <check.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/auth.h"

static struct engine_keys key_1 = {1, {{1, {11}}}};
static struct engine_keys key_2 = {1, {{2, {22}}}};
static struct engine_keys keys_1_2 = {2, {{1, {11}}, {2, {22}}}};
static struct engine_keys keys_2_1 = {2, {{2, {22}}, {1, {11}}}};

/* One side of a handshake that a test holds in its hands. */
struct side {
	struct auth_self self;
	struct auth a;
	uint8_t out[AUTH_OUT_MAX];
	size_t n;
	int rc;
	const char *why;
};

static struct side client, server;

static void side_set(struct side *s, uint8_t uuid,
		     const struct engine_keys *keys)
{
	memset(s, 0, sizeof(*s));
	s->self = (struct auth_self){.uuid = {uuid},
				     .incarnation = uuid,
				     .keys = keys,
				     .version_min = 1,
				     .version_max = 1};
}

static void setup(void)
{
	side_set(&client, 1, &key_1);
	side_set(&server, 2, &key_1);
}

static void begin(const uint8_t *expect)
{
	client.n = (size_t)auth_init(&client.a, &client.self, true, expect,
				     NULL, 5, client.out);
	server.n = (size_t)auth_init(&server.a, &server.self, false, NULL, NULL,
				     0, server.out);
	ck_assert_uint_eq(server.n, 0);
}

/* The other side's frame, as a transport would hand it on. */
static int feed(struct side *to, const struct side *from)
{
	struct wire_header h;
	const char *why;

	ck_assert_uint_ge(from->n, WIRE_HEADER_BYTES);
	ck_assert_int_eq(
		wire_header_get(from->out, WIRE_VERSION_HANDSHAKE, &h, &why),
		0);
	ck_assert_uint_eq(from->n, WIRE_HEADER_BYTES + h.length);
	if (h.type == WIRE_CLOSE) {
		to->n = 0;
		return to->rc = -(int)h.status;
	}
	to->rc = auth_step(&to->a, &h, from->out + WIRE_HEADER_BYTES, to->out,
			   &to->n, &to->why);
	return to->rc;
}

/* All of it. Returns: 1 both are done, or the first error. */
static int run(const uint8_t *expect)
{
	begin(expect);
	if (feed(&server, &client) < 0 || feed(&client, &server) < 0 ||
	    feed(&server, &client) < 0)
		return server.rc < 0 ? server.rc : client.rc;
	ck_assert_int_eq(server.rc, 1);
	return feed(&client, &server);
}

START_TEST(two_with_one_key_agree_on_everything)
{
	setup();

	ck_assert_int_eq(run(server.self.uuid), 1);

	ck_assert_uint_eq(client.a.peer.uuid[0], 2);
	ck_assert_uint_eq(server.a.peer.uuid[0], 1);
	ck_assert_uint_eq(server.a.peer.incarnation, 1);
	ck_assert_uint_eq(server.a.peer.session, 5);
	ck_assert_mem_eq(client.a.send.key, server.a.receive.key, 16);
	ck_assert_mem_eq(client.a.receive.key, server.a.send.key, 16);
	ck_assert_mem_ne(client.a.receive.key, client.a.send.key, 16);
}
END_TEST

START_TEST(keys_of_two_connections_differ)
{
	uint64_t first[2];

	setup();
	ck_assert_int_eq(run(NULL), 1);
	memcpy(first, client.a.send.key, 16);
	ck_assert_int_eq(run(NULL), 1);
	ck_assert_mem_ne(first, client.a.send.key, 16);
}
END_TEST

START_TEST(another_key_or_none_is_refused)
{
	struct engine_keys same_id = key_1;

	setup();
	client.self.keys = &key_2;
	ck_assert_int_eq(run(NULL), -EACCES);

	same_id.key[0].bytes[31] = 1;
	client.self.keys = &same_id;
	ck_assert_int_eq(run(NULL), -EACCES);

	client.self.keys = NULL;
	ck_assert_int_eq(run(NULL), -EACCES);
	client.self.keys = &key_1;
	server.self.keys = NULL;
	ck_assert_int_eq(run(NULL), -EACCES);
}
END_TEST

START_TEST(a_client_does_not_believe_a_server_without_the_key)
{
	setup();
	begin(NULL);
	ck_assert_int_eq(feed(&server, &client), 0);
	ck_assert_int_eq(feed(&client, &server), 0);
	ck_assert_int_eq(feed(&server, &client), 1);
	server.out[WIRE_HEADER_BYTES] ^= 1;
	ck_assert_int_eq(feed(&client, &server), -EACCES);
}
END_TEST

START_TEST(keys_change_while_every_pair_of_nodes_agrees)
{
	const struct engine_keys *steps[] = {&key_1, &keys_1_2, &keys_2_1,
					     &key_2};

	setup();
	for (int i = 0; i < 3; i++)
		for (int k = 0; k < 4; k++) {
			client.self.keys = steps[i + k % 2];
			server.self.keys = steps[i + k / 2];
			ck_assert_int_eq(run(NULL), 1);
			ck_assert_mem_eq(client.a.send.key,
					 server.a.receive.key, 16);
		}
}
END_TEST

START_TEST(no_keys_at_both_ends_is_a_handshake_too)
{
	setup();
	client.self.keys = server.self.keys = NULL;
	ck_assert_int_eq(run(NULL), 1);
}
END_TEST

START_TEST(a_nonce_sent_back_ends_it)
{
	struct wire_hello h;
	const char *why;

	setup();
	begin(NULL);
	ck_assert_int_eq(feed(&server, &client), 0);
	wire_hello_get(server.out + WIRE_HEADER_BYTES, WIRE_HELLO_BYTES, &h,
		       &why);
	memcpy(h.nonce, client.a.mine.nonce, WIRE_NONCE_BYTES);
	wire_hello_put(server.out + WIRE_HEADER_BYTES, &h);
	ck_assert_int_eq(feed(&client, &server), -ENOTUNIQ);
}
END_TEST

START_TEST(a_proof_sent_back_proves_nothing)
{
	setup();
	begin(NULL);
	ck_assert_int_eq(feed(&server, &client), 0);
	ck_assert_int_eq(feed(&client, &server), 0);
	/* The stranger has no key: it answers PROOF with the same proof. */
	client.out[5] = WIRE_ACCEPT;
	ck_assert_int_eq(feed(&client, &client), -EACCES);
}
END_TEST

START_TEST(a_handshake_recorded_earlier_ends_at_its_proof)
{
	struct side hello, proof;

	setup();
	begin(NULL);
	hello = client;
	ck_assert_int_eq(feed(&server, &client), 0);
	ck_assert_int_eq(feed(&client, &server), 0);
	proof = client;
	ck_assert_int_eq(feed(&server, &client), 1);

	begin(NULL);
	ck_assert_int_eq(feed(&server, &hello), 0);
	ck_assert_int_eq(feed(&server, &proof), -EACCES);
}
END_TEST

START_TEST(every_changed_bit_of_the_hellos_ends_it)
{
	setup();
	for (size_t i = 0; i < 2 * WIRE_HELLO_BYTES; i++) {
		bool first = i < WIRE_HELLO_BYTES;
		size_t at = WIRE_HEADER_BYTES + i % WIRE_HELLO_BYTES;
		int rc;

		if (at == WIRE_HEADER_BYTES + 3)
			continue; /* means nothing yet; see the next test */
		begin(NULL);
		if (first)
			client.out[at] ^= 4;
		rc = feed(&server, &client);
		if (!first && rc == 0)
			server.out[at] ^= 4;
		if (rc == 0)
			rc = feed(&client, &server);
		if (rc == 0)
			rc = feed(&server, &client);
		ck_assert_int_lt(rc, 0);
	}
}
END_TEST

START_TEST(bytes_without_a_meaning_are_in_the_transcript_too)
{
	setup();
	begin(NULL);
	client.out[WIRE_HEADER_BYTES + 3] ^= 1;
	ck_assert_int_eq(feed(&server, &client), 0);
	ck_assert_int_eq(feed(&client, &server), 0);
	ck_assert_int_eq(feed(&server, &client), -EACCES);
}
END_TEST

START_TEST(the_highest_version_of_both_is_chosen)
{
	setup();
	client.self.version_max = 4;
	server.self.version_max = 3;
	ck_assert_int_eq(run(NULL), 1);
	ck_assert_uint_eq(client.a.version, 3);
	ck_assert_uint_eq(server.a.version, 3);

	client.self.version_min = 4;
	ck_assert_int_eq(run(NULL), -EPROTO);
	ck_assert_str_eq(server.why, "no common wire version");
	setup();
	client.self.version_max = 1;
	server.self.version_min = 2;
	server.self.version_max = 2;
	ck_assert_int_eq(run(NULL), -EPROTO);
}
END_TEST

START_TEST(another_node_or_transport_than_expected_is_refused)
{
	const uint8_t other[16] = {9};

	setup();
	ck_assert_int_eq(run(other), -ESTALE);
	client.self.uuid[0] = 2;
	ck_assert_int_eq(run(NULL), -ENOTUNIQ);
	setup();
	client.self.transport = WIRE_TLS;
	ck_assert_int_eq(run(NULL), -EPROTO);
}
END_TEST

START_TEST(the_value_of_another_tls_connection_ends_it)
{
	const uint8_t here[32] = {1}, there[32] = {2};

	setup();
	client.n = (size_t)auth_init(&client.a, &client.self, true, NULL, here,
				     5, client.out);
	auth_init(&server.a, &server.self, false, NULL, there, 0, server.out);
	ck_assert_int_eq(feed(&server, &client), 0);
	ck_assert_int_eq(feed(&client, &server), 0);
	ck_assert_int_eq(feed(&server, &client), -EACCES);
}
END_TEST

START_TEST(frames_out_of_turn_end_it_and_nothing_goes_on_after)
{
	setup();
	begin(NULL);
	ck_assert_int_eq(feed(&server, &client), 0);
	ck_assert_int_eq(feed(&server, &client), -EPROTO); /* hello again */
	begin(NULL);
	ck_assert_int_eq(feed(&server, &client), 0);
	ck_assert_int_eq(feed(&client, &server), 0);
	begin(NULL);
	client.out[5] = WIRE_PROOF;
	ck_assert_int_eq(feed(&server, &client), -EPROTO);
	client.out[5] = WIRE_HELLO;
	ck_assert_int_eq(feed(&server, &client), -EPROTO);
}
END_TEST

START_TEST(a_frame_changed_repeated_or_left_out_is_seen)
{
	struct auth_seal out = {{1, 2}, 0}, in = {{1, 2}, 0}, was;
	uint8_t f[WIRE_HEADER_BYTES] = {1, 2, 3}, payload[10] = {7};

	auth_seal_frame(&out, f, payload, sizeof(payload));
	for (size_t i = 0; i < sizeof(f); i++) {
		was = in;
		f[i] ^= 0x20;
		ck_assert_int_eq(auth_check_frame(&was, f, payload, 10),
				 -EBADMSG);
		f[i] ^= 0x20;
	}
	was = in;
	payload[9] = 1;
	ck_assert_int_eq(auth_check_frame(&was, f, payload, 10), -EBADMSG);
	payload[9] = 0;
	ck_assert_int_eq(auth_check_frame(&in, f, payload, 10), 0);
	was = in;
	ck_assert_int_eq(auth_check_frame(&was, f, payload, 10), -EBADMSG);

	auth_seal_frame(&out, f, NULL, 0);
	auth_seal_frame(&out, f, NULL, 0); /* the one before never came */
	ck_assert_int_eq(auth_check_frame(&in, f, NULL, 0), -EBADMSG);
}
END_TEST

START_TEST(the_mac_is_siphash_as_openssl_has_it)
{
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
	unsigned size = 16;
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_SIZE, &size),
		OSSL_PARAM_construct_end()};
	uint8_t key[16], text[200], want[16], got[16];
	const uint64_t k[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};

	ck_assert_ptr_nonnull(mac);
	for (int i = 0; i < 200; i++)
		text[i] = (uint8_t)i;
	memcpy(key, text, 16);
	for (size_t n = 0; n <= 200; n++) {
		EVP_MAC_CTX *c = EVP_MAC_CTX_new(mac);
		size_t cut = n / 3, len;
		const struct auth_part parts[] = {{text, cut},
						  {text + cut, n - cut}};

		ck_assert_int_eq(EVP_MAC_init(c, key, 16, params), 1);
		ck_assert_int_eq(EVP_MAC_update(c, text, n), 1);
		ck_assert_int_eq(EVP_MAC_final(c, want, &len, 16), 1);
		EVP_MAC_CTX_free(c);
		auth_mac(k, parts, 2, got);
		ck_assert_mem_eq(got, want, 16);
	}
	EVP_MAC_free(mac);
}
END_TEST

/* --- key files ---------------------------------------------------------- */

#define HEX "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100"

static int parse(const char *text, struct engine_keys *keys)
{
	const char *why;

	return engine_keys_parse(text, strlen(text), keys, &why);
}

START_TEST(a_key_file_has_one_key_a_line)
{
	struct engine_keys k;

	ck_assert_int_eq(parse("# ours\n\n 7 \t" HEX "  \n12 " HEX, &k), 0);
	ck_assert_uint_eq(k.n, 2);
	ck_assert_uint_eq(k.key[0].id, 7);
	ck_assert_uint_eq(k.key[0].bytes[1], 0x11);
	ck_assert_uint_eq(k.key[0].bytes[16], 0xff);
	ck_assert_uint_eq(k.key[1].id, 12);
}
END_TEST

START_TEST(a_key_file_with_anything_else_is_refused_whole)
{
	static const char *const bad[] = {"",
					  "# nothing\n",
					  HEX "\n",
					  "0 " HEX "\n",
					  "4294967296 " HEX "\n",
					  "1 " HEX "0\n",
					  "1 0011\n",
					  "1 x" HEX "\n",
					  "1" HEX "\n",
					  "1 " HEX "\n1 " HEX "\n",
					  "1 " HEX "\nrest\n",
					  "1 " HEX "\n2 " HEX "\n3 " HEX
					  "\n4 " HEX "\n5 " HEX "\n"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct engine_keys k = {.n = 77};

		ck_assert_int_eq(parse(bad[i], &k), -EINVAL);
		ck_assert_uint_eq(k.n, 77);
	}
}
END_TEST

START_TEST(a_key_file_that_others_can_read_is_refused)
{
	char path[512];
	struct engine_keys k;
	FILE *f;

	snprintf(path, sizeof(path), "%s/key", getenv("TMPDIR") ?: "/tmp");
	f = fopen(path, "we");
	ck_assert_ptr_nonnull(f);
	fputs("1 " HEX "\n", f);
	fclose(f);
	chmod(path, 0600);
	ck_assert_int_eq(engine_keys_load(path, &k), 0);
	chmod(path, 0400);
	ck_assert_int_eq(engine_keys_load(path, &k), 0);
	engine_keys_wipe(&k);
	ck_assert_uint_eq(k.n, 0);
	chmod(path, 0640);
	ck_assert_int_eq(engine_keys_load(path, &k), -EACCES);
	chmod(path, 0604);
	ck_assert_int_eq(engine_keys_load(path, &k), -EACCES);
	chmod(path, 0600);
	if (!geteuid()) {
		ck_assert_int_eq(chown(path, 65534, 65534), 0);
		ck_assert_int_eq(engine_keys_load(path, &k), -EACCES);
	}
	unlink(path);
	ck_assert_int_eq(engine_keys_load(path, &k), -ENOENT);
	ck_assert_int_eq(engine_keys_load("/dev", &k), -EACCES);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("auth");
	TCase *t = tcase_create("handshake");
	SRunner *r;
	int failed;

	tcase_add_test(t, two_with_one_key_agree_on_everything);
	tcase_add_test(t, keys_of_two_connections_differ);
	tcase_add_test(t, another_key_or_none_is_refused);
	tcase_add_test(t, a_client_does_not_believe_a_server_without_the_key);
	tcase_add_test(t, keys_change_while_every_pair_of_nodes_agrees);
	tcase_add_test(t, no_keys_at_both_ends_is_a_handshake_too);
	tcase_add_test(t, a_nonce_sent_back_ends_it);
	tcase_add_test(t, a_proof_sent_back_proves_nothing);
	tcase_add_test(t, a_handshake_recorded_earlier_ends_at_its_proof);
	tcase_add_test(t, every_changed_bit_of_the_hellos_ends_it);
	tcase_add_test(t, bytes_without_a_meaning_are_in_the_transcript_too);
	tcase_add_test(t, the_highest_version_of_both_is_chosen);
	tcase_add_test(t, another_node_or_transport_than_expected_is_refused);
	tcase_add_test(t, the_value_of_another_tls_connection_ends_it);
	tcase_add_test(t, frames_out_of_turn_end_it_and_nothing_goes_on_after);
	tcase_add_test(t, a_frame_changed_repeated_or_left_out_is_seen);
	tcase_add_test(t, the_mac_is_siphash_as_openssl_has_it);
	tcase_add_test(t, a_key_file_has_one_key_a_line);
	tcase_add_test(t, a_key_file_with_anything_else_is_refused_whole);
	tcase_add_test(t, a_key_file_that_others_can_read_is_refused);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

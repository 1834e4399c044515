// SPDX-License-Identifier: MIT
/* Frames, byte for byte. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/wire.h"

static const struct wire_header sample = {
	.version = 1,
	.type = WIRE_DATA,
	.length = 0x00102030,
	.segment = 0x1122334455667788,
	.offset = 0x0102030405060708,
	.generation = 9,
	.ack = 0xa1a2a3a4,
};

static int get(const uint8_t *bytes, struct wire_header *h)
{
	const char *why = NULL;
	int rc = wire_header_get(bytes, 1, h, &why);

	ck_assert_int_eq(rc == 0, why == NULL);
	return rc;
}

START_TEST(a_header_is_little_endian_at_fixed_places)
{
	uint8_t b[WIRE_HEADER_BYTES];
	const uint8_t start[] = {'k', 'v', 'f',	 's',  1,    7,
				 0,   0,   0x30, 0x20, 0x10, 0};

	wire_header_put(b, &sample);

	ck_assert_mem_eq(b, start, sizeof(start));
	ck_assert_uint_eq(b[24], 0x88);
	ck_assert_uint_eq(b[31], 0x11);
	ck_assert_uint_eq(b[32], 0x08);
	ck_assert_uint_eq(b[40], 9);
	ck_assert_uint_eq(b[64], 0xa4);
}
END_TEST

START_TEST(what_was_put_is_got_again)
{
	struct wire_header h, m = {.version = 1,
				   .type = WIRE_MESSAGE,
				   .flags = WIRE_REPLY,
				   .length = WIRE_MESSAGE_MAX,
				   .status = 110,
				   .kind = 65535,
				   .request = UINT64_MAX,
				   .offset = 7,
				   .checksum = {3, 4}};
	uint8_t b[WIRE_HEADER_BYTES], again[WIRE_HEADER_BYTES];

	wire_header_put(b, &sample);
	ck_assert_int_eq(get(b, &h), 0);
	wire_header_put(again, &h);
	ck_assert_mem_eq(again, b, sizeof(b));

	wire_header_put(b, &m);
	ck_assert_int_eq(get(b, &h), 0);
	ck_assert_uint_eq(h.kind, 65535);
	ck_assert_uint_eq(h.status, 110);
	ck_assert_uint_eq(h.request, UINT64_MAX);
	ck_assert_uint_eq(h.flags, WIRE_REPLY);
	ck_assert_uint_eq(h.checksum[1], 4);
}
END_TEST

START_TEST(a_length_past_the_cap_of_its_type_is_refused)
{
	uint8_t b[WIRE_HEADER_BYTES];
	struct wire_header h, was;

	for (uint8_t type = 1; type < WIRE_TYPE_END; type++) {
		h = (struct wire_header){.version = 1, .type = type};
		h.length = wire_length_max(type);
		wire_header_put(b, &h);
		ck_assert_int_eq(get(b, &was), 0);

		h.length++;
		wire_header_put(b, &h);
		ck_assert_int_eq(get(b, &was), -EPROTO);
		wire_put32(b + 8, UINT32_MAX);
		ck_assert_int_eq(get(b, &was), -EPROTO);
	}
}
END_TEST

START_TEST(what_is_unknown_is_refused_and_nothing_is_set)
{
	static const struct {
		int at;
		uint8_t value;
	} bad[] = {{0, 'K'}, {4, 2}, {4, 0}, {5, 0}, {5, WIRE_TYPE_END},
		   {5, 255}, {6, 1}, {6, 8}, {7, 1}, {13, 255},
		   {74, 1},  {79, 1}};
	uint8_t b[WIRE_HEADER_BYTES];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct wire_header h = {.type = 77};

		wire_header_put(b, &sample);
		b[bad[i].at] = bad[i].value;
		ck_assert_int_eq(get(b, &h), -EPROTO);
		ck_assert_uint_eq(h.type, 77);
	}
}
END_TEST

START_TEST(a_range_that_wraps_and_empty_data_are_refused)
{
	struct wire_header h = sample, was;
	uint8_t b[WIRE_HEADER_BYTES];

	h.offset = UINT64_MAX - h.length;
	wire_header_put(b, &h);
	ck_assert_int_eq(get(b, &was), 0);
	h.offset++;
	wire_header_put(b, &h);
	ck_assert_int_eq(get(b, &was), -EPROTO);
	h = sample;
	h.length = 0;
	wire_header_put(b, &h);
	ck_assert_int_eq(get(b, &was), -EPROTO);
}
END_TEST

START_TEST(a_hello_is_got_again_and_a_short_or_odd_one_refused)
{
	struct wire_hello got, h = {.version_min = 1,
				    .version_max = 3,
				    .transport = WIRE_TLS,
				    .key_id = 7,
				    .incarnation = 8,
				    .session = UINT64_MAX,
				    .nonce = {1},
				    .uuid = {2},
				    .expect = {3}};
	uint8_t b[WIRE_HELLO_BYTES], again[WIRE_HELLO_BYTES];
	const char *why;

	wire_hello_put(b, &h);
	ck_assert_int_eq(wire_hello_get(b, sizeof(b), &got, &why), 0);
	wire_hello_put(again, &got);
	ck_assert_mem_eq(again, b, sizeof(b));

	for (size_t n = 0; n < sizeof(b); n++)
		ck_assert_int_eq(wire_hello_get(b, n, &got, &why), -EPROTO);
	b[0] = 4; /* above the maximum */
	ck_assert_int_eq(wire_hello_get(b, sizeof(b), &got, &why), -EPROTO);
	b[0] = 0;
	ck_assert_int_eq(wire_hello_get(b, sizeof(b), &got, &why), -EPROTO);
	b[0] = 1;
	b[2] = WIRE_RDMA + 1;
	ck_assert_int_eq(wire_hello_get(b, sizeof(b), &got, &why), -EPROTO);
}
END_TEST

START_TEST(the_words_of_a_stranger_cannot_write_lines_of_their_own)
{
	uint8_t words[WIRE_REASON_MAX + 50];
	char text[WIRE_REASON_MAX + 1];

	wire_reason_get((const uint8_t *)"a\nb\033[31m\0c", 9, text);
	ck_assert_str_eq(text, "a?b?[31m?");
	memset(words, 'x', sizeof(words));
	wire_reason_get(words, sizeof(words), text);
	ck_assert_uint_eq(strlen(text), WIRE_REASON_MAX);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("wire");
	TCase *t = tcase_create("frames");
	SRunner *r;
	int failed;

	tcase_add_test(t, a_header_is_little_endian_at_fixed_places);
	tcase_add_test(t, what_was_put_is_got_again);
	tcase_add_test(t, a_length_past_the_cap_of_its_type_is_refused);
	tcase_add_test(t, what_is_unknown_is_refused_and_nothing_is_set);
	tcase_add_test(t, a_range_that_wraps_and_empty_data_are_refused);
	tcase_add_test(t, a_hello_is_got_again_and_a_short_or_odd_one_refused);
	tcase_add_test(t,
		       the_words_of_a_stranger_cannot_write_lines_of_their_own);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

// SPDX-License-Identifier: MIT
/* Names of blocks. The vectors are those of kvfs_block_digest(3), made with
 * hashlib and xxhsum. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gds/kvfs.h"

static uint32_t counting[1000]; /* 0, 1, 2, … */

static const struct iovec keys[] = {{"lora:7", 6}, {"", 0}};

struct vectors {
	enum kvfs_hash hash;
	const char *first;  /* tokens 1 to 16 */
	const char *second; /* 17 to 32, after it */
	const char *keyed;  /* 0, 128000, 4294967295 and two keys */
	const char *empty;  /* no tokens */
	const char *large;  /* 0 to 999 */
};

static const struct vectors vectors[] = {
	{KVFS_XXH3_128, "2ae638a659093e1f8b312c75321f88c9",
	 "0f88dcd28ee5fa8f5124c00726449c55", "fd24c179eaea7ec76014600dbdb276be",
	 "9098098c9951f3d716773ceb7fe497b1",
	 "005b4d9dfc0b42d2660e3fe9c1f6cdab"},
	{KVFS_SHA256,
	 "90deaa644e135d3d73b1c53f42751a2c23ddf382f18cd1cdf79ad4ead4d54d4b",
	 "ad04f8a744be40af75104c4faeb520cfeddd43601e017c06a87c97ed75be7e5c",
	 "dcc68200d59649ed5392ce01addd87f8d85685c286715b745c988d5a77184531",
	 "6db65fd59fd356f6729140571b5bcd6bb3b83492a16e1bf0a3884442fc3c8a0e",
	 "0809a6015f92eb83db08977f0ec9ad7b3a4ae8d27ceed3d38b01fe64fe83b545"},
};

#define N_VECTORS ((int)(sizeof(vectors) / sizeof(*vectors)))

static void setup(void)
{
	for (uint32_t i = 0; i < 1000; i++)
		counting[i] = i;
}

static void expect_hex(const void *digest, int bytes, const char *want)
{
	char hex[2 * KVFS_DIGEST_MAX + 1] = "";

	for (int i = 0; i < bytes; i++)
		sprintf(hex + 2 * i, "%02x", ((const uint8_t *)digest)[i]);
	ck_assert_str_eq(hex, want);
}

static void expect_block(const struct vectors *v, const void *parent,
			 const uint32_t *tokens, size_t n, size_t n_keys,
			 const char *want)
{
	uint8_t digest[KVFS_DIGEST_MAX];

	ck_assert_int_eq(kvfs_block_digest(v->hash, parent, tokens, n, keys,
					   n_keys, digest),
			 0);
	expect_hex(digest, kvfs_digest_bytes(v->hash), want);
}

START_TEST(a_digest_is_that_of_the_published_vectors)
{
	static const uint32_t odd[] = {0, 128000, UINT32_MAX};
	const struct vectors *v = &vectors[_i];
	uint8_t parent[KVFS_DIGEST_MAX];

	expect_block(v, NULL, counting + 1, 16, 0, v->first);
	ck_assert_int_eq(kvfs_block_digest(v->hash, NULL, counting + 1, 16,
					   NULL, 0, parent),
			 0);
	expect_block(v, parent, counting + 17, 16, 0, v->second);
	expect_block(v, NULL, odd, 3, 2, v->keyed);
	expect_block(v, NULL, NULL, 0, 0, v->empty);
	expect_block(v, NULL, counting, 1000, 0, v->large);
}
END_TEST

START_TEST(a_prompt_has_a_digest_for_each_whole_block)
{
	const struct vectors *v = &vectors[_i];
	size_t bytes = (size_t)kvfs_digest_bytes(v->hash);
	uint8_t digests[3 * KVFS_DIGEST_MAX];

	memset(digests, 0xee, sizeof(digests));
	ck_assert_int_eq(kvfs_chain_digests(v->hash, NULL, counting + 1, 47, 16,
					    NULL, 0, digests),
			 2);

	expect_hex(digests, (int)bytes, v->first);
	expect_hex(digests + bytes, (int)bytes, v->second);
	ck_assert_uint_eq(digests[2 * bytes], 0xee);
}
END_TEST

START_TEST(a_chain_goes_on_where_another_ended)
{
	const struct vectors *v = &vectors[_i];
	uint8_t digest[KVFS_DIGEST_MAX];

	ck_assert_int_eq(kvfs_chain_digests(v->hash, NULL, counting + 1, 16, 16,
					    NULL, 0, digest),
			 1);
	/* in place */
	ck_assert_int_eq(kvfs_chain_digests(v->hash, digest, counting + 17, 16,
					    16, NULL, 0, digest),
			 1);

	expect_hex(digest, kvfs_digest_bytes(v->hash), v->second);
}
END_TEST

START_TEST(what_belongs_to_a_key_and_what_to_the_next_counts)
{
	const struct iovec ab_c[] = {{"ab", 2}, {"c", 1}};
	const struct iovec a_bc[] = {{"a", 1}, {"bc", 2}};
	uint8_t one[KVFS_DIGEST_MAX] = {0}, other[KVFS_DIGEST_MAX] = {0};
	enum kvfs_hash hash = vectors[_i].hash;

	ck_assert_int_eq(
		kvfs_block_digest(hash, NULL, counting, 4, ab_c, 2, one), 0);
	ck_assert_int_eq(
		kvfs_block_digest(hash, NULL, counting, 4, a_bc, 2, other), 0);

	ck_assert_mem_ne(one, other, KVFS_DIGEST_MAX);
}
END_TEST

START_TEST(what_cannot_be_hashed_is_refused)
{
	struct iovec huge = {counting, (size_t)UINT32_MAX + 1};
	uint8_t digest[KVFS_DIGEST_MAX];

	ck_assert_int_eq(kvfs_digest_bytes(0), -EINVAL);
	ck_assert_int_eq(kvfs_digest_bytes(3), -EINVAL);
	ck_assert_int_eq(
		kvfs_block_digest(7, NULL, counting, 1, NULL, 0, digest),
		-EINVAL);
	ck_assert_int_eq(kvfs_chain_digests(KVFS_SHA256, NULL, counting, 10, 0,
					    NULL, 0, digest),
			 -EINVAL);
	ck_assert_int_eq(kvfs_block_digest(KVFS_XXH3_128, NULL, counting, 1,
					   &huge, 1, digest),
			 -E2BIG);
	ck_assert_int_eq(kvfs_chain_digests(KVFS_XXH3_128, NULL, counting,
					    SIZE_MAX / 8, 1, NULL, 0, digest),
			 -E2BIG);
	ck_assert_int_eq(kvfs_chain_digests(KVFS_XXH3_128, NULL, counting, 3, 4,
					    NULL, 0, digest),
			 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("libkvfs, names of blocks");
	TCase *t = tcase_create("digests");
	SRunner *runner;
	int failed;

	tcase_add_unchecked_fixture(t, setup, NULL);
	tcase_add_loop_test(t, a_digest_is_that_of_the_published_vectors, 0,
			    N_VECTORS);
	tcase_add_loop_test(t, a_prompt_has_a_digest_for_each_whole_block, 0,
			    N_VECTORS);
	tcase_add_loop_test(t, a_chain_goes_on_where_another_ended, 0,
			    N_VECTORS);
	tcase_add_loop_test(t,
			    what_belongs_to_a_key_and_what_to_the_next_counts,
			    0, N_VECTORS);
	tcase_add_test(t, what_cannot_be_hashed_is_refused);
	suite_add_tcase(suite, t);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

// SPDX-License-Identifier: MIT
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fs/ckpt_fetch_map.h"
#include "fs/ckpt_fetch_wire.h"
#include "meta/ckpt.h"

#define MIB (1ull << 20)

static char folder[] = "/tmp/test_ckpt_fetch.XXXXXX";
static int dir = -1;

static void make_folder(void)
{
	ck_assert_ptr_nonnull(mkdtemp(folder));
	dir = open(folder, O_RDONLY | O_DIRECTORY);
	ck_assert_int_ge(dir, 0);
}

static void remove_folder(void)
{
	unlinkat(dir, "m", 0);
	close(dir);
	rmdir(folder);
}

START_TEST(a_range_is_here_once_all_its_shards_are)
{
	struct cmap m;
	uint64_t missing = 99;

	ck_assert_int_eq(cmap_init(&m, 5, 1, 200 * MIB + 1, 64 * MIB), 0);
	ck_assert_uint_eq(m.n_shards, 4);
	ck_assert(!cmap_range(&m, 0, 1, &missing));
	ck_assert_uint_eq(missing, 0);
	ck_assert(!cmap_add(&m, 1));
	ck_assert(cmap_range(&m, 64 * MIB, 128 * MIB, &missing));
	ck_assert(!cmap_range(&m, 64 * MIB, 128 * MIB + 1, &missing));
	ck_assert_uint_eq(missing, 2);
	ck_assert(cmap_range(&m, 500 * MIB, 600 * MIB, &missing));
	ck_assert(!cmap_add(&m, 0));
	ck_assert(!cmap_add(&m, 3));
	ck_assert(cmap_add(&m, 2));

	ck_assert(m.flags & CMAP_WHOLE);
	ck_assert(cmap_range(&m, 0, UINT64_MAX, &missing));
	cmap_fini(&m);
}
END_TEST

START_TEST(an_empty_file_is_whole_and_one_too_large_is_refused)
{
	struct cmap m;

	ck_assert_int_eq(cmap_init(&m, 5, 1, 0, 64 * MIB), 0);
	ck_assert(m.flags & CMAP_WHOLE);
	cmap_fini(&m);

	ck_assert_int_eq(
		cmap_init(&m, 5, 1, (CKPT_SHARDS_MAX + 1) * 64 * MIB, 64 * MIB),
		-EFBIG);
}
END_TEST

START_TEST(a_map_is_read_as_it_was_written)
{
	struct cmap m, r;

	ck_assert_int_eq(cmap_init(&m, 5, 9, 1000 * MIB, 64 * MIB), 0);
	m.mtime_ns = -5;
	cmap_add(&m, 0);
	cmap_add(&m, 15);
	ck_assert_int_eq(cmap_load(dir, "m", &r), -ENOENT);
	ck_assert_int_eq(cmap_save(dir, "m", &m), 0);
	ck_assert_int_eq(cmap_load(dir, "m", &r), 0);

	ck_assert_uint_eq(r.ino, 5);
	ck_assert_uint_eq(r.version, 9);
	ck_assert_uint_eq(r.size_bytes, 1000 * MIB);
	ck_assert_int_eq(r.mtime_ns, -5);
	ck_assert_uint_eq(r.n_shards, 16);
	ck_assert_mem_eq(r.bits, m.bits, 2);
	cmap_fini(&r);
	cmap_fini(&m);
}
END_TEST

START_TEST(a_map_that_is_damaged_anywhere_is_not_believed)
{
	cleanup_free uint8_t *bytes = NULL;
	struct cmap m, r;
	size_t n;

	ck_assert_int_eq(cmap_init(&m, 5, 9, 1000 * MIB, 64 * MIB), 0);
	bytes = cmap_encode(&m, &n);
	ck_assert_ptr_nonnull(bytes);
	ck_assert_int_eq(cmap_decode(bytes, n, &r), 0);
	cmap_fini(&r);
	for (size_t i = 0; i < n; i++) {
		bytes[i] ^= 1;
		ck_assert_int_eq(cmap_decode(bytes, n, &r), -EBADMSG);
		ck_assert_int_eq(cmap_decode(bytes, i, &r), -EBADMSG);
		bytes[i] ^= 1;
	}
	cmap_fini(&m);
}
END_TEST

START_TEST(a_request_is_read_as_it_was_written)
{
	struct cwire_ask a = {.ino = 1,
			      .version = 2,
			      .offset = 3,
			      .length_bytes = 4,
			      .priority = ENGINE_REPLICATE,
			      .segment = {5, 6}};
	uint8_t bytes[CWIRE_BYTES];
	struct cwire_ask r;

	cwire_encode(&a, bytes);
	ck_assert_int_eq(cwire_decode(bytes, sizeof(bytes), &r), 0);

	ck_assert_uint_eq(r.ino, 1);
	ck_assert_uint_eq(r.version, 2);
	ck_assert_uint_eq(r.offset, 3);
	ck_assert_uint_eq(r.length_bytes, 4);
	ck_assert_uint_eq(r.priority, ENGINE_REPLICATE);
	ck_assert_uint_eq(r.segment.id, 5);
	ck_assert_uint_eq(r.segment.generation, 6);
}
END_TEST

START_TEST(a_request_for_nothing_or_too_much_is_refused)
{
	struct cwire_ask a = {.ino = 1, .length_bytes = CWIRE_SUM_MAX + 1};
	uint8_t bytes[CWIRE_BYTES];
	struct cwire_ask r;

	cwire_encode(&a, bytes);
	ck_assert_int_eq(cwire_decode(bytes, sizeof(bytes), &r), -EPROTO);
	a.length_bytes = 0;
	cwire_encode(&a, bytes);
	ck_assert_int_eq(cwire_decode(bytes, sizeof(bytes), &r), -EPROTO);
	a.length_bytes = 1;
	a.offset = INT64_MAX;
	cwire_encode(&a, bytes);
	ck_assert_int_eq(cwire_decode(bytes, sizeof(bytes), &r), -EPROTO);
	a.offset = 0;
	cwire_encode(&a, bytes);

	ck_assert_int_eq(cwire_decode(bytes, sizeof(bytes), &r), 0);
	ck_assert_int_eq(cwire_decode(bytes, sizeof(bytes) - 1, &r), -EPROTO);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("ckpt_fetch");
	TCase *t = tcase_create("maps and requests");
	SRunner *r;
	int failed;

	tcase_add_unchecked_fixture(t, make_folder, remove_folder);
	tcase_add_test(t, a_range_is_here_once_all_its_shards_are);
	tcase_add_test(t, an_empty_file_is_whole_and_one_too_large_is_refused);
	tcase_add_test(t, a_map_is_read_as_it_was_written);
	tcase_add_test(t, a_map_that_is_damaged_anywhere_is_not_believed);
	tcase_add_test(t, a_request_is_read_as_it_was_written);
	tcase_add_test(t, a_request_for_nothing_or_too_much_is_refused);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}

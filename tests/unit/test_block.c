// SPDX-License-Identifier: MIT
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/block.h"
#include "tools/samples.h"

static char folder[] = "/tmp/test_block.XXXXXX";

static void make_folder(void)
{
	ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
	rmdir(folder);
}

START_TEST(a_block_is_known_from_every_other_and_from_damage_anywhere)
{
	size_t bytes = (size_t)_i, words = (bytes + 7) / 8 + 1;
	cleanup_free uint64_t *buf = calloc(words, 8);
	struct block_dir d;

	ck_assert_int_eq(block_dir_open(&d, folder, bytes), 0);
	block_fill(&d, 41, buf);
	ck_assert(block_check(&d, 41, buf));
	ck_assert(!block_check(&d, 42, buf));
	for (size_t i = 0; i < bytes; i++) {
		((unsigned char *)buf)[i] ^= 1;
		ck_assert_msg(!block_check(&d, 41, buf), "byte %zu", i);
		((unsigned char *)buf)[i] ^= 1;
	}
	memmove(buf, buf + 8, bytes - 64);

	ck_assert(!block_check(&d, 41, buf));
	block_dir_close(&d);
}
END_TEST

START_TEST(a_stored_block_is_there_whole_and_its_temporary_is_not)
{
	struct block_dir d;
	int64_t ns = -1;

	ck_assert_int_eq(block_dir_open(&d, folder, 5000), 0);
	ck_assert_int_eq(block_load(&d, 3, &ns), 0);
	ck_assert(!block_exists(&d, 3));
	ck_assert_int_eq(block_store(&d, 3, &ns), 0);
	ck_assert_int_ge(ns, 0);

	ck_assert(block_exists(&d, 3));
	ck_assert_int_eq(block_load(&d, 3, &ns), 1);
	ck_assert_int_eq(block_dir_sweep(&d), 0);
	ck_assert_int_eq(block_load(&d, 3, &ns), 0);
	block_dir_close(&d);
}
END_TEST

START_TEST(a_block_of_another_length_is_wrong)
{
	struct block_dir longer, shorter;
	int64_t ns;

	ck_assert_int_eq(block_dir_open(&longer, folder, 4104), 0);
	ck_assert_int_eq(block_dir_open(&shorter, folder, 4096), 0);
	ck_assert_int_eq(block_store(&longer, 1, &ns), 0);
	ck_assert_int_eq(block_store(&shorter, 2, &ns), 0);

	ck_assert_int_eq(block_load(&shorter, 1, &ns), -EILSEQ);
	ck_assert_int_eq(block_load(&longer, 2, &ns), -EILSEQ);
	block_dir_sweep(&longer);
	block_dir_close(&longer);
	block_dir_close(&shorter);
}
END_TEST

START_TEST(percentiles_are_those_of_the_sorted_samples)
{
	struct samples s = {0};

	ck_assert_double_eq(samples_us(&s, 50), 0);
	for (int i = 100; i >= 0; i--)
		samples_add(&s, i * 1000);

	ck_assert_double_eq(samples_us(&s, 50), 50);
	ck_assert_double_eq(samples_us(&s, 99), 99);
	ck_assert_double_eq(samples_us(&s, 100), 100);
	samples_free(&s);
}
END_TEST

START_TEST(a_sweep_leaves_what_is_no_replay_s_and_counts_it)
{
	static const char *const others[] = {
		"0123456789abcdef",
		"0123456789abcdef.data2",
		"0123456789ABCDEF.data",
		"0123456789abcdef_x.tmp",
	};
	struct block_dir d;
	int fd;

	ck_assert_int_eq(block_dir_open(&d, folder, 4096), 0);
	for (int i = 0; i < 4; i++) {
		fd = openat(d.fd, others[i], O_CREAT | O_WRONLY, 0600);
		ck_assert_int_ge(fd, 0);
		close(fd);
	}
	fd = openat(d.fd, "0123456789abcdef_77.tmp", O_CREAT | O_WRONLY, 0600);
	close(fd);

	ck_assert_int_eq(block_dir_sweep(&d), 4);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(unlinkat(d.fd, others[i], 0), 0);
	ck_assert_int_eq(faccessat(d.fd, "0123456789abcdef_77.tmp", F_OK, 0),
			 -1);
	block_dir_close(&d);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("block");
	TCase *c = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(c, make_folder, remove_folder);
	tcase_add_loop_test(
		c, a_block_is_known_from_every_other_and_from_damage_anywhere,
		4096, 4106);
	tcase_add_test(c,
		       a_stored_block_is_there_whole_and_its_temporary_is_not);
	tcase_add_test(c, a_block_of_another_length_is_wrong);
	tcase_add_test(c, a_sweep_leaves_what_is_no_replay_s_and_counts_it);
	tcase_add_test(c, percentiles_are_those_of_the_sorted_samples);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

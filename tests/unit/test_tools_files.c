// SPDX-License-Identifier: MIT
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "tools/discard.h"
#include "tools/holders.h"
#include "tools/state.h"
#include "tools/verify.h"
#include "tools/walk.h"

/* Every test has a folder of its own on a tmpfs, which has user xattrs. */
static char dir[] = "/dev/shm/kvfs-test-XXXXXX";
static char why[STATE_WHY_BYTES];

static void make_dir(void)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static int remove_one(const char *path, const struct stat *st, int type,
		      struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void remove_dir(void)
{
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
}

static const char *at(const char *name)
{
	static char paths[4][PATH_MAX];
	static int next;
	char *path = paths[next++ % 4];

	snprintf(path, PATH_MAX, "%s/%s", dir, name);
	return path;
}

static void put(const char *name, const void *data, size_t n)
{
	FILE *f = fopen(at(name), "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(data, 1, n, f), n);
	fclose(f);
}

/* -- the state directory ------------------------------------------------ */

START_TEST(a_state_directory_is_made_private_and_recognized_again)
{
	char state[PATH_MAX];
	struct stat st;

	strcpy(state, at("a/b/state"));
	ck_assert_int_eq(state_prepare(state, why), 0);
	ck_assert_int_eq(stat(state, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0700);
	put("a/b/state/ckpt.log", "x", 1);

	ck_assert_int_eq(state_prepare(state, why), 0);
}
END_TEST

START_TEST(a_foreign_directory_is_refused_and_stays_as_it_is)
{
	char state[PATH_MAX];

	mkdir(at("foreign"), 0700);
	put("foreign/letter", "x", 1);
	strcpy(state, at("foreign"));

	ck_assert_int_eq(state_prepare(state, why), -EINVAL);

	ck_assert_ptr_nonnull(strstr(why, "foreign"));
	ck_assert(!state_has(state, "kvfs.state"));
	ck_assert(state_has(state, "letter"));
}
END_TEST

START_TEST(a_fresh_filesystem_counts_as_empty)
{
	char state[PATH_MAX];

	mkdir(at("disk"), 0700);
	mkdir(at("disk/lost+found"), 0700);
	strcpy(state, at("disk"));

	ck_assert_int_eq(state_prepare(state, why), 0);
}
END_TEST

START_TEST(another_format_and_a_file_are_refused)
{
	char state[PATH_MAX];

	mkdir(at("new"), 0700);
	put("new/kvfs.state", "kvfs state 99\n", 14);
	strcpy(state, at("new"));
	ck_assert_int_eq(state_prepare(state, why), -EINVAL);
	put("file", "x", 1);
	strcpy(state, at("file"));
	ck_assert_int_eq(state_prepare(state, why), -ENOTDIR);
}
END_TEST

START_TEST(only_one_holds_the_lock_and_it_ends_with_its_holder)
{
	int fd = state_lock(dir, 0), status;
	pid_t pid;

	ck_assert_int_ge(fd, 0);
	pid = fork();
	if (!pid)
		_exit(state_lock(dir, 0) == -EBUSY ? 0 : 1);
	waitpid(pid, &status, 0);
	ck_assert_int_eq(status, 0);
	close(fd);
	fd = state_lock(dir, 0);
	ck_assert_int_ge(fd, 0);
	close(fd);
}
END_TEST

START_TEST(a_wait_for_the_lock_ends_when_it_is_free)
{
	int fd = state_lock(dir, 0), status;
	pid_t pid = fork();

	if (!pid) { /* shares the lock: gone once both let go */
		poll(NULL, 0, 50);
		_exit(0);
	}
	close(fd);
	fd = state_lock(dir, 10000);
	ck_assert_int_ge(fd, 0);
	close(fd);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
}
END_TEST

START_TEST(discard_removes_a_pool_in_shared_memory_and_leaves_a_mark)
{
	char state[PATH_MAX], pool[PATH_MAX];

	strcpy(state, at("state"));
	strcpy(pool, at("pool-1"));
	ck_assert_int_eq(state_prepare(state, why), 0);
	mkdir(pool, 0700);
	mkdir(at("pool-1/frames"), 0700);
	put("pool-1/frames/00000000", "x", 1);
	ck_assert_int_eq(symlink(pool, at("state/pool")), 0);

	ck_assert_int_eq(discard_pool(state, why), 0);

	ck_assert_int_ne(access(pool, F_OK), 0);
	ck_assert(!state_has(state, "pool"));
	ck_assert(state_has(state, "discarded"));
	ck_assert_int_eq(discard_pool(state, why), 0);
}
END_TEST

START_TEST(discard_follows_no_link_to_elsewhere)
{
	char state[PATH_MAX], target[PATH_MAX + 16];

	strcpy(state, at("state"));
	ck_assert_int_eq(state_prepare(state, why), 0);
	mkdir(at("precious"), 0700);
	snprintf(target, sizeof(target), "/dev/shm/../shm/%s/precious",
		 dir + strlen("/dev/shm/"));
	ck_assert_int_eq(symlink(target, at("state/pool")), 0);

	ck_assert_int_ne(discard_pool(state, why), 0);

	ck_assert_int_eq(access(at("precious"), F_OK), 0);
}
END_TEST

START_TEST(who_holds_a_folder_is_named_with_what_he_holds)
{
	char text[512];
	int fd;

	ck_assert_uint_eq(holders_describe(dir, text, sizeof(text)), 0);
	put("held", "x", 1);
	fd = open(at("held"), O_RDONLY);
	ck_assert_uint_eq(holders_describe(dir, text, sizeof(text)), 1);
	ck_assert_ptr_nonnull(strstr(text, ": held)"));
	close(fd);
	ck_assert_int_eq(chdir(dir), 0);
	ck_assert_uint_eq(holders_describe(dir, text, sizeof(text)), 1);
	ck_assert_ptr_nonnull(strstr(text, "working directory"));
	ck_assert_int_eq(chdir("/"), 0);
}
END_TEST

/* -- walking ------------------------------------------------------------ */

struct seen {
	unsigned files, dirs, errors, stop_after;
	char last[256];
};

static bool see(void *arg, const struct walk_entry *e)
{
	struct seen *s = arg;

	if (e->err)
		s->errors++;
	else if (e->type == DT_DIR)
		s->dirs++;
	else
		s->files++;
	snprintf(s->last, sizeof(s->last), "%s", e->shown);
	return !s->stop_after || s->files < s->stop_after;
}

static void make_tree(void)
{
	mkdir(at("t"), 0700);
	mkdir(at("t/d"), 0700);
	mkdir(at("t/d/e"), 0700);
	put("t/1", "", 0);
	put("t/d/2", "", 0);
	put("t/d/e/3", "", 0);
	ck_assert_int_eq(symlink("..", at("t/d/up")), 0);
}

START_TEST(a_walk_sees_all_that_lies_below_and_follows_no_link)
{
	struct seen flat = {}, deep = {}, one = {}, none = {};

	make_tree();
	walk(at("t"), false, see, &flat);
	walk(at("t/"), true, see, &deep);
	walk(at("t/d/e/3"), true, see, &one);
	walk(at("none"), true, see, &none);

	ck_assert_uint_eq(flat.files, 1);
	ck_assert_uint_eq(flat.dirs, 1);
	ck_assert_uint_eq(deep.files, 4);
	ck_assert_uint_eq(deep.dirs, 2);
	ck_assert_uint_eq(one.files, 1);
	ck_assert_str_eq(one.last, at("t/d/e/3"));
	ck_assert_uint_eq(none.errors, 1);
}
END_TEST

START_TEST(a_walk_shows_names_below_its_start_and_ends_when_told)
{
	struct seen s = {.stop_after = 1}, all = {};

	make_tree();
	walk(at("t/d/e"), true, see, &all);
	walk(at("t"), true, see, &s);

	ck_assert_str_eq(all.last, "3");
	ck_assert_uint_eq(s.files, 1);
}
END_TEST

/* -- verifying ---------------------------------------------------------- */

static struct verify v;

static void set(const char *name, const char *xattr, const char *value)
{
	ck_assert_int_eq(setxattr(at(name), xattr, value, strlen(value), 0), 0);
}

/* As `xxhsum -H2` prints it, by another way than the code under test. */
static void hex(const void *data, size_t n, char text[33])
{
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, XXH3_128bits(data, n));
	for (int i = 0; i < 16; i++)
		sprintf(text + 2 * i, "%02x", c.digest[i]);
}

START_TEST(a_file_with_its_checksum_is_fine_and_one_changed_byte_is_not)
{
	char data[3000], sum[33];

	memset(data, 'x', sizeof(data));
	hex(data, sizeof(data), sum);
	put("f", data, sizeof(data));
	set("f", "user.kvfs.checksum", sum);
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_OK);
	ck_assert_uint_eq(v.bytes, sizeof(data));

	data[1234] ^= 1;
	put("f", data, sizeof(data));
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_DAMAGED);
}
END_TEST

START_TEST(an_empty_file_has_the_checksum_of_nothing_or_none)
{
	put("f", "", 0);
	set("f", "user.kvfs.checksum", "99aa06d3014798d86001c324468d497f");
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_OK);
	set("f", "user.kvfs.checksum", "");
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_OK);
}
END_TEST

START_TEST(shards_have_a_checksum_each_or_one_over_all_of_them)
{
	size_t n = VERIFY_SHARD_BYTES + 5, digest_bytes = 32;
	char *data = calloc(1, n), text[80], sum[33];
	uint8_t sums[32];
	XXH128_hash_t h;

	hex(data, VERIFY_SHARD_BYTES, text);
	text[32] = '\n';
	hex(data, 5, text + 33);
	put("f", data, n);
	set("f", "user.kvfs.checksum", text);
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_OK);

	for (int i = 0; i < 2; i++) {
		h = XXH3_128bits(data, i ? 5 : VERIFY_SHARD_BYTES);
		memcpy(sums + 16 * i, &h.low64, 8);
		memcpy(sums + 16 * i + 8, &h.high64, 8);
	}
	hex(sums, digest_bytes, sum);
	snprintf(text, sizeof(text), "2 shards %s", sum);
	set("f", "user.kvfs.checksum", text);
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_OK);
	text[40] ^= 1;
	set("f", "user.kvfs.checksum", text);
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_DAMAGED);
	free(data);
}
END_TEST

START_TEST(a_large_block_has_one_checksum_over_all)
{
	size_t n = VERIFY_SHARD_BYTES + 5;
	char *data = calloc(1, n), sum[33];

	hex(data, n, sum);
	put("f", data, n);
	set("f", "user.kvfs.checksum", sum);
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_OK);
	free(data);
}
END_TEST

START_TEST(what_is_being_written_or_gone_is_neither_fine_nor_damaged)
{
	put("f", "abc", 3);
	set("f", "user.kvfs.state", "writing");
	ck_assert_int_eq(verify_file(&v, at("f")), VERIFY_UNCHECKED);
	ck_assert_int_eq(verify_file(&v, at("gone")), VERIFY_GONE);
}
END_TEST

static void open_verify(void)
{
	make_dir();
	ck_assert_int_eq(verify_open(&v), 0);
	progress_start(&v.progress, "x", 0, PROGRESS_BYTES);
}

static void close_verify(void)
{
	verify_close(&v);
	remove_dir();
}

static TCase *state_tests(void)
{
	TCase *t = tcase_create("state");

	tcase_add_checked_fixture(t, make_dir, remove_dir);
	tcase_add_test(t,
		       a_state_directory_is_made_private_and_recognized_again);
	tcase_add_test(t, a_foreign_directory_is_refused_and_stays_as_it_is);
	tcase_add_test(t, a_fresh_filesystem_counts_as_empty);
	tcase_add_test(t, another_format_and_a_file_are_refused);
	tcase_add_test(t, only_one_holds_the_lock_and_it_ends_with_its_holder);
	tcase_add_test(t, a_wait_for_the_lock_ends_when_it_is_free);
	tcase_add_test(
		t, discard_removes_a_pool_in_shared_memory_and_leaves_a_mark);
	tcase_add_test(t, discard_follows_no_link_to_elsewhere);
	tcase_add_test(t, who_holds_a_folder_is_named_with_what_he_holds);
	tcase_add_test(t, a_walk_sees_all_that_lies_below_and_follows_no_link);
	tcase_add_test(t,
		       a_walk_shows_names_below_its_start_and_ends_when_told);
	return t;
}

static TCase *verify_tests(void)
{
	TCase *t = tcase_create("verify");

	tcase_add_checked_fixture(t, open_verify, close_verify);
	tcase_set_timeout(t, 60);
	tcase_add_test(
		t,
		a_file_with_its_checksum_is_fine_and_one_changed_byte_is_not);
	tcase_add_test(t, an_empty_file_has_the_checksum_of_nothing_or_none);
	tcase_add_test(t, shards_have_a_checksum_each_or_one_over_all_of_them);
	tcase_add_test(t, a_large_block_has_one_checksum_over_all);
	tcase_add_test(
		t, what_is_being_written_or_gone_is_neither_fine_nor_damaged);
	return t;
}

/* Before Linux 6.6 a tmpfs has no user xattrs. */
static bool has_xattrs(void)
{
	bool has = mkdtemp(dir);

	has = has && !setxattr(dir, "user.kvfs.checksum", "x", 1, 0);
	remove_dir();
	return has;
}

int main(void)
{
	Suite *s = suite_create("tools_files");
	SRunner *r;
	int failed;

	suite_add_tcase(s, state_tests());
	if (has_xattrs())
		suite_add_tcase(s, verify_tests());
	else
		puts("SKIP verify: /dev/shm has no user xattrs");
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

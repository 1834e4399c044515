// SPDX-License-Identifier: MIT
/* The ckpt tree as its callers see it, on a real Redis. */
#include <check.h>
#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/clock.h"
#include "ckpt_fixture.h"

#define ROOT CKPT_ROOT_INO
#define F (S_IFREG | 0644)
#define D (S_IFDIR | 0755)

static void up(void)
{
	fixture_up();
	node_up();
}

static bool yes(void *ctx, uint64_t ino)
{
	if (ctx)
		*(uint64_t *)ctx = ino;
	return true;
}

static int rm(uint64_t parent, const char *name, struct ckpt_gone *gone)
{
	return ckpt_unlink(meta, 0, parent, name, NULL, NULL, NOW + 5, gone);
}

static int rmd(uint64_t parent, const char *name)
{
	return ckpt_rmdir(meta, 0, parent, name, NOW + 5, NULL);
}

static int mv(uint64_t from, const char *name, uint64_t to, const char *new,
	      unsigned flags)
{
	struct ckpt_gone gone;

	return ckpt_rename(meta, 0, from, name, to, new, flags, NULL, NULL,
			   NOW + 7, &gone);
}

/* --- creation ---------------------------------------------------------- */

START_TEST(a_new_file_is_found_with_all_that_it_was_made_with)
{
	struct ckpt_attr made = make(ROOT, "f", F), seen = look(ROOT, "f");
	struct ckpt_attr root = stat_of(ROOT);

	ck_assert_mem_eq(&made, &seen, sizeof(made));
	ck_assert_uint_gt(made.ino, ROOT);
	ck_assert_uint_eq(made.mode, F);
	ck_assert_uint_eq(made.uid, 11);
	ck_assert_uint_eq(made.gid, 12);
	ck_assert_uint_eq(made.nlink, 1);
	ck_assert_uint_eq(made.version, 0);
	ck_assert_uint_eq(made.parent_ino, 0);
	ck_assert_int_eq(root.mtime_ns, NOW);
	ck_assert_int_eq(root.ctime_ns, NOW);
	ck_assert_uint_eq(root.nlink, 2);
}
END_TEST

START_TEST(a_new_directory_counts_in_its_parent)
{
	struct ckpt_attr d = make(ROOT, "d", D);

	ck_assert_uint_eq(d.nlink, 2);
	ck_assert_uint_eq(d.parent_ino, ROOT);
	ck_assert_uint_eq(stat_of(ROOT).nlink, 3);
	ck_assert_int_eq(rmd(ROOT, "d"), 0);
	ck_assert_uint_eq(stat_of(ROOT).nlink, 2);
	ck_assert_int_eq(stat_of(ROOT).mtime_ns, NOW + 5);
}
END_TEST

START_TEST(creation_says_why_it_cannot_be)
{
	uint64_t d = make(ROOT, "d", D).ino, f = make(ROOT, "f", F).ino;
	const uint32_t many = CKPT_LINK_MAX;
	char key[32], name[300];

	ck_assert_int_eq(make_err(ROOT, "f", F), -EEXIST);
	ck_assert_int_eq(make_err(ROOT, "d", D), -EEXIST);
	ck_assert_int_eq(make_err(f, "x", F), -ENOTDIR);
	ck_assert_int_eq(look_err(f, "x"), -ENOTDIR);
	ck_assert_int_eq(look_err(ROOT, "x"), -ENOENT);
	ck_assert_int_eq(look_err(999, "x"), -ENOENT);
	snprintf(key, sizeof(key), "i%lu", (unsigned long)d);
	server_setrange(key, 12, &many, 4);
	ck_assert_int_eq(make_err(d, "sub", D), -EMLINK);
	ck_assert_int_eq(make_err(d, "file", F), 0);
	ck_assert_int_eq(rm(d, "file", NULL), 0);
	ck_assert_int_eq(rmd(ROOT, "d"), 0);
	ck_assert_int_eq(make_err(d, "x", F), -ENOENT);

	memset(name, 'n', 256);
	name[256] = 0;
	ck_assert_int_eq(make_err(ROOT, name, F), -ENAMETOOLONG);
	ck_assert_int_eq(look_err(ROOT, name), -ENAMETOOLONG);
	name[255] = 0;
	ck_assert_int_eq(make_err(ROOT, name, F), 0);
	ck_assert_int_eq(make_err(ROOT, "", F), -EINVAL);
	ck_assert_int_eq(make_err(ROOT, ".", F), -EINVAL);
	ck_assert_int_eq(make_err(ROOT, "..", D), -EINVAL);
	ck_assert_int_eq(make_err(ROOT, "a/b", F), -EINVAL);
	ck_assert_int_eq(make_err(ROOT, "new\nline \xff\x01", F), 0);
	ck_assert_int_eq(look_err(ROOT, "new\nline \xff\x01"), 0);
}
END_TEST

START_TEST(a_set_gid_directory_gives_its_group)
{
	struct ckpt_attr set = {.mode = 02775, .gid = 77}, a;
	uint64_t d = make(ROOT, "d", D).ino;

	ck_assert_int_eq(ckpt_setattr(meta, 0, d, CKPT_SET_MODE | CKPT_SET_GID,
				      &set, &a),
			 0);
	ck_assert_uint_eq(a.mode, S_IFDIR | 02775);

	a = make(d, "f", F);
	ck_assert_uint_eq(a.gid, 77);
	ck_assert_uint_eq(a.mode, F);
	a = make(d, "sub", D);
	ck_assert_uint_eq(a.gid, 77);
	ck_assert_uint_eq(a.mode, S_IFDIR | 02755);
	ck_assert_uint_eq(a.uid, 11);
}
END_TEST

START_TEST(symlinks_and_devices_keep_what_they_are)
{
	struct ckpt_attr set = {.mode = S_IFCHR | 0600, .rdev = 0xfff00012345};
	struct ckpt_attr l = make(ROOT, "l", S_IFLNK | 0777), c;
	char target[16];

	ck_assert_uint_eq(l.size_bytes, strlen("some/target"));
	ck_assert_int_eq(ckpt_readlink(meta, 0, l.ino, target, sizeof(target)),
			 0);
	ck_assert_str_eq(target, "some/target");
	ck_assert_int_eq(ckpt_readlink(meta, 0, l.ino, target, 5), -ERANGE);
	ck_assert_int_eq(ckpt_readlink(meta, 0, ROOT, target, 5), -EINVAL);
	ck_assert_int_eq(ckpt_readlink(meta, 0, 77, target, 5), -ESTALE);
	ck_assert_int_eq(ckpt_create(meta, 0, ROOT, "c", &set, NULL, &c), 0);
	ck_assert_uint_eq(look(ROOT, "c").rdev, 0xfff00012345);
	ck_assert_int_eq(make_err(ROOT, "p", S_IFIFO | 0600), 0);
	ck_assert_int_eq(make_err(ROOT, "s", S_IFSOCK | 0600), 0);
}
END_TEST

/* --- attributes -------------------------------------------------------- */

START_TEST(times_and_sizes_are_exact_to_the_last_bit)
{
	static const int64_t times[] = {0,
					1,
					-1,
					999999999,
					-1000000001,
					NOW,
					(INT64_C(1) << 53) + 1,
					-(INT64_C(1) << 53) - 1,
					INT64_MAX,
					INT64_MIN,
					INT64_MAX - 1};
	const unsigned mask = CKPT_SET_ATIME | CKPT_SET_MTIME | CKPT_SET_CTIME |
			      CKPT_SET_SIZE;
	uint64_t f = make(ROOT, "f", F).ino;

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		struct ckpt_attr a, set = {.atime_ns = times[i],
					   .mtime_ns = times[i] ^ 5,
					   .ctime_ns = ~times[i]};

		set.size_bytes = (uint64_t)times[i] & INT64_MAX;
		ck_assert_int_eq(ckpt_setattr(meta, 0, f, mask, &set, &a), 0);
		a = look(ROOT, "f");
		ck_assert_int_eq(a.atime_ns, set.atime_ns);
		ck_assert_int_eq(a.mtime_ns, set.mtime_ns);
		ck_assert_int_eq(a.ctime_ns, set.ctime_ns);
		ck_assert_uint_eq(a.size_bytes, set.size_bytes);
	}
}
END_TEST

START_TEST(setattr_changes_what_its_mask_names_and_nothing_else)
{
	struct ckpt_attr before = make(ROOT, "f", F), after;
	const struct ckpt_attr set = {.mode = 0104711,
				      .uid = 0xffffffff,
				      .gid = 0x80000000,
				      .size_bytes = 7,
				      .atime_ns = 1,
				      .mtime_ns = 2,
				      .ctime_ns = 3,
				      .shard_log2 = 21};

	for (unsigned bit = 1; bit <= CKPT_SET_SHARD; bit <<= 1) {
		struct ckpt_attr want = before;

		want.mode = bit == CKPT_SET_MODE ? S_IFREG | 04711 : want.mode;
		want.uid = bit == CKPT_SET_UID ? set.uid : want.uid;
		want.gid = bit == CKPT_SET_GID ? set.gid : want.gid;
		want.size_bytes = bit == CKPT_SET_SIZE ? 7 : want.size_bytes;
		want.atime_ns = bit == CKPT_SET_ATIME ? 1 : want.atime_ns;
		want.mtime_ns = bit == CKPT_SET_MTIME ? 2 : want.mtime_ns;
		want.ctime_ns = bit == CKPT_SET_CTIME ? 3 : want.ctime_ns;
		want.shard_log2 = bit == CKPT_SET_SHARD ? 21 : want.shard_log2;
		ck_assert_int_eq(
			ckpt_setattr(meta, 0, before.ino, bit, &set, &after),
			0);
		ck_assert_mem_eq(&after, &want, sizeof(want));
		before = after;
	}
	ck_assert_int_eq(ckpt_setattr(meta, 0, 999, 1, &set, &after), -ESTALE);
	ck_assert_int_eq(ckpt_getattr(meta, 0, 999, &after), -ESTALE);
}
END_TEST

START_TEST(what_is_made_takes_its_shards_from_its_directory_for_good)
{
	struct ckpt_attr d = make(ROOT, "d", D), old = make(d.ino, "old", F), a;
	struct ckpt_attr set = {.shard_log2 = 20};

	ck_assert_uint_eq(old.shard_log2, 0);
	ck_assert_int_eq(ckpt_setattr(meta, 0, d.ino, CKPT_SET_SHARD, &set, &d),
			 0);
	ck_assert_uint_eq(make(d.ino, "f", F).shard_log2, 20);
	ck_assert_uint_eq(make(make(d.ino, "e", D).ino, "f", F).shard_log2, 20);
	set.shard_log2 = 0;
	ck_assert_int_eq(ckpt_setattr(meta, 0, d.ino, CKPT_SET_SHARD, &set, &d),
			 0);

	ck_assert_int_eq(ckpt_lookup(meta, 0, d.ino, "f", &a), 0);
	ck_assert_uint_eq(a.shard_log2, 20);
	ck_assert_int_eq(ckpt_getattr(meta, 0, old.ino, &a), 0);
	ck_assert_uint_eq(a.shard_log2, 0);
}
END_TEST

START_TEST(no_file_has_more_shards_than_a_map_has_bits)
{
	struct ckpt_attr a = {.size_bytes = 0};

	for (a.shard_log2 = CKPT_SHARD_LOG2_MIN;
	     a.shard_log2 <= CKPT_SHARD_LOG2_MAX; a.shard_log2++) {
		uint64_t bytes = UINT64_C(1) << a.shard_log2;

		a.size_bytes = 3 * bytes + 1;
		ck_assert_uint_eq(ckpt_shard_bytes(&a), bytes);
		ck_assert_uint_eq(ckpt_shards(&a), 4);
		a.size_bytes = CKPT_SHARDS_MAX * bytes - 1;
		ck_assert_uint_eq(ckpt_shard_bytes(&a), bytes);
		ck_assert_uint_eq(ckpt_shards(&a), CKPT_SHARDS_MAX);
		a.size_bytes = INT64_MAX;
		ck_assert_uint_le(ckpt_shards(&a), CKPT_SHARDS_MAX);
		ck_assert_uint_ge(ckpt_shards(&a) * ckpt_shard_bytes(&a),
				  a.size_bytes);
	}
	a = (struct ckpt_attr){.size_bytes = (64 << 20) + 1};
	ck_assert_uint_eq(ckpt_shards(&a), 2);
}
END_TEST

/* --- links ------------------------------------------------------------- */

START_TEST(hard_links_count_and_share)
{
	uint64_t d = make(ROOT, "d", D).ino, f = make(ROOT, "f", F).ino;
	const uint32_t many = CKPT_LINK_MAX;
	struct ckpt_gone gone;
	struct ckpt_attr a;
	char key[32];

	ck_assert_int_eq(ckpt_link(meta, 0, f, d, "g", NOW + 3, &a), 0);
	ck_assert_uint_eq(a.nlink, 2);
	ck_assert_int_eq(a.ctime_ns, NOW + 3);
	ck_assert_int_eq(a.mtime_ns, NOW);
	ck_assert_int_eq(stat_of(d).mtime_ns, NOW + 3);
	ck_assert_uint_eq(look(d, "g").ino, f);

	ck_assert_int_eq(ckpt_link(meta, 0, f, d, "g", NOW, &a), -EEXIST);
	ck_assert_int_eq(ckpt_link(meta, 0, d, ROOT, "g", NOW, &a), -EPERM);
	ck_assert_int_eq(ckpt_link(meta, 0, 99, ROOT, "g", NOW, &a), -ENOENT);
	ck_assert_int_eq(ckpt_link(meta, 0, f, 99, "g", NOW, &a), -ENOENT);
	ck_assert_int_eq(ckpt_link(meta, 0, f, f, "g", NOW, &a), -ENOTDIR);

	ck_assert_int_eq(rm(ROOT, "f", &gone), 0);
	ck_assert_uint_eq(gone.ino, f);
	ck_assert_uint_eq(gone.nlink, 1);
	ck_assert(!gone.freed);
	a = look(d, "g");
	ck_assert_uint_eq(a.nlink, 1);
	ck_assert_int_eq(a.ctime_ns, NOW + 5);
	snprintf(key, sizeof(key), "i%lu", (unsigned long)f);
	server_setrange(key, 12, &many, 4);
	ck_assert_int_eq(ckpt_link(meta, 0, f, ROOT, "h", NOW, &a), -EMLINK);
}
END_TEST

START_TEST(an_unlinked_file_that_is_open_stays_until_its_release)
{
	uint64_t f = make(ROOT, "f", F).ino, asked = 0;
	struct ckpt_gone gone;
	struct ckpt_attr a;

	ck_assert_int_eq(
		ckpt_unlink(meta, 0, ROOT, "f", yes, &asked, NOW + 5, &gone),
		0);
	ck_assert_uint_eq(asked, f);
	ck_assert_uint_eq(gone.ino, f);
	ck_assert_uint_eq(gone.nlink, 0);
	ck_assert_uint_eq(gone.mode, F);
	ck_assert(!gone.freed);
	ck_assert_int_eq(look_err(ROOT, "f"), -ENOENT);
	a = stat_of(f);
	ck_assert_uint_eq(a.nlink, 0);
	ck_assert_int_eq(a.ctime_ns, NOW + 5);
	ck_assert_int_eq(ckpt_link(meta, 0, f, ROOT, "g", NOW, &a), -ENOENT);
	ck_assert_int_eq(ckpt_publish(meta, 0, f, 0, &a, false, &a), 0);
	ck_assert_uint_eq(count_inos(), 2);

	ck_assert_int_eq(ckpt_release(meta, 0, f), 0);
	ck_assert_int_eq(ckpt_getattr(meta, 0, f, &a), -ESTALE);
	ck_assert_int_eq(ckpt_release(meta, 0, f), 0);
	ck_assert_uint_eq(count_inos(), 1);
	ck_assert_uint_eq(server_int("EXISTS kvfs:{c}:p kvfs:{c}:o2"), 0);
}
END_TEST

START_TEST(an_unlinked_file_that_is_closed_is_gone_at_once)
{
	uint64_t f = make(ROOT, "f", F).ino;
	struct ckpt_gone gone;
	struct ckpt_attr a;

	ck_assert_int_eq(ckpt_xattr_set(meta, 0, f, "user.x", "1", 1, 0, NOW),
			 0);
	ck_assert_int_eq(rm(ROOT, "f", &gone), 0);
	ck_assert(gone.freed);
	ck_assert_int_eq(ckpt_getattr(meta, 0, f, &a), -ESTALE);
	make(ROOT, "g", F); /* takes the news along */
	ck_assert_uint_eq(server_int("EXISTS kvfs:{c}:i2 kvfs:{c}:x2 "
				     "kvfs:{c}:o2 kvfs:{c}:p"),
			  0);
	ck_assert_int_eq(rm(ROOT, "f", &gone), -ENOENT);
	ck_assert_int_eq(make_err(ROOT, "d", D), 0);
	ck_assert_int_eq(rm(ROOT, "d", &gone), -EISDIR);
	ck_assert_int_eq(rm(look(ROOT, "g").ino, "x", &gone), -ENOTDIR);
}
END_TEST

START_TEST(only_an_empty_directory_is_removed)
{
	uint64_t d = make(ROOT, "d", D).ino;
	struct ckpt_gone gone;

	make(d, "f", F);
	make(ROOT, "f", F);
	ck_assert_int_eq(rmd(ROOT, "d"), -ENOTEMPTY);
	ck_assert_int_eq(rmd(ROOT, "f"), -ENOTDIR);
	ck_assert_int_eq(rmd(ROOT, "x"), -ENOENT);
	ck_assert_int_eq(rmd(999, "x"), -ENOENT);
	ck_assert_int_eq(rm(d, "f", NULL), 0);

	ck_assert_int_eq(ckpt_rmdir(meta, 0, ROOT, "d", NOW, &gone), 0);
	ck_assert_uint_eq(gone.ino, d);
	ck_assert(gone.freed && S_ISDIR(gone.mode));
}
END_TEST

/* --- rename ------------------------------------------------------------ */

/* Everything on everything: f, g files; e, e2 empty directories; n not. */
static const struct {
	const char *from, *to;
	unsigned flags;
	int err;
} renames[] = {
	{"f", "new", 0, 0},
	{"f", "g", 0, 0},
	{"f", "f", 0, 0},
	{"f", "hard", 0, 0},
	{"f", "e", 0, -EISDIR},
	{"f", "n", 0, -EISDIR},
	{"e", "f", 0, -ENOTDIR},
	{"e", "e2", 0, 0},
	{"e", "n", 0, -ENOTEMPTY},
	{"n", "e", 0, 0},
	{"n", "new", 0, 0},
	{"missing", "new", 0, -ENOENT},
	{"missing", "f", 0, -ENOENT},
	{"f", "new", RENAME_NOREPLACE, 0},
	{"f", "g", RENAME_NOREPLACE, -EEXIST},
	{"f", "f", RENAME_NOREPLACE, -EEXIST},
	{"f", "e", RENAME_NOREPLACE, -EEXIST},
	{"missing", "g", RENAME_NOREPLACE, -ENOENT},
	{"f", "g", RENAME_EXCHANGE, 0},
	{"f", "n", RENAME_EXCHANGE, 0},
	{"n", "e", RENAME_EXCHANGE, 0},
	{"f", "hard", RENAME_EXCHANGE, 0},
	{"f", "missing", RENAME_EXCHANGE, -ENOENT},
	{"f", "g", RENAME_EXCHANGE | RENAME_NOREPLACE, -EINVAL},
	{"f", "g", RENAME_WHITEOUT, -EINVAL},
};

static void rename_world(uint64_t d[2])
{
	struct ckpt_attr a;

	for (int i = 0; i < 2; i++) {
		d[i] = make(ROOT, i ? "to" : "from", D).ino;
		make(d[i], "g", F);
		make(d[i], "e", D);
		make(d[i], "e2", D);
		make(make(d[i], "n", D).ino, "inside", F);
	}
	a = make(d[0], "f", F);
	ck_assert_int_eq(ckpt_link(meta, 0, a.ino, d[0], "hard", NOW, &a), 0);
	ck_assert_int_eq(ckpt_link(meta, 0, a.ino, d[1], "hard", NOW, &a), 0);
	make(d[1], "f", F);
}

struct tally {
	unsigned dirs, entries;
};

static void tally_add(void *arg, const char *name, const struct ckpt_attr *a)
{
	struct tally *t = arg;

	(void)name;
	t->entries++;
	t->dirs += S_ISDIR(a->mode);
}

/* A directory's nlink is what is in it. */
static unsigned links_fit(uint64_t ino)
{
	struct tally t = {0, 0};
	uint64_t cursor = 0;

	while (ckpt_readdir(meta, 0, ino, &cursor, tally_add, &t) == 1)
		;
	ck_assert_uint_eq(stat_of(ino).nlink, 2 + t.dirs);
	return t.entries;
}

static void rename_check(uint64_t from, uint64_t to, int i)
{
	const char *a = renames[i].from, *b = renames[i].to;
	bool there = look_err(from, a) == 0;
	struct ckpt_attr old = {0}, new = {0};
	int err;

	if (there)
		old = look(from, a);
	if (!look_err(to, b))
		new = look(to, b);
	err = renames[i].err;
	/* Across directories f and f are two files. */
	if (from != to && !strcmp(a, b) && !renames[i].flags)
		err = 0;
	ck_assert_msg(mv(from, a, to, b, renames[i].flags) == err,
		      "%s to %s, flags %u", a, b, renames[i].flags);
	if (err || old.ino == new.ino) {
		ck_assert(there == (look_err(from, a) == 0));
		return;
	}
	ck_assert_uint_eq(look(to, b).ino, old.ino);
	ck_assert_int_eq(look(to, b).ctime_ns, NOW + 7);
	ck_assert_int_eq(look(to, b).mtime_ns, old.mtime_ns);
	ck_assert_uint_eq(look(to, b).parent_ino, S_ISDIR(old.mode) ? to : 0);
	ck_assert_int_eq(stat_of(from).mtime_ns, NOW + 7);
	ck_assert_int_eq(stat_of(to).ctime_ns, NOW + 7);
	if (renames[i].flags & RENAME_EXCHANGE) {
		ck_assert_uint_eq(look(from, a).ino, new.ino);
		ck_assert_uint_eq(look(from, a).parent_ino,
				  S_ISDIR(new.mode) ? from : 0);
	} else {
		ck_assert_int_eq(look_err(from, a), -ENOENT);
	}
}

START_TEST(rename_does_as_linux_does_within_a_directory)
{
	uint64_t d[2];

	rename_world(d);
	rename_check(d[0], d[0], _i);
	links_fit(d[0]);
}
END_TEST

START_TEST(rename_does_as_linux_does_across_directories)
{
	uint64_t d[2];

	rename_world(d);
	rename_check(d[0], d[1], _i);
	links_fit(d[0]);
	links_fit(d[1]);
}
END_TEST

START_TEST(a_directory_does_not_move_below_itself)
{
	uint64_t a = make(ROOT, "a", D).ino, b = make(a, "b", D).ino;
	uint64_t c = make(b, "c", D).ino, f = make(ROOT, "f", F).ino;

	ck_assert_int_eq(mv(ROOT, "a", a, "x", 0), -EINVAL);
	ck_assert_int_eq(mv(ROOT, "a", c, "x", 0), -EINVAL);
	ck_assert_int_eq(mv(ROOT, "a", c, "x", RENAME_NOREPLACE), -EINVAL);
	ck_assert_int_eq(mv(a, "b", ROOT, "a", 0), -ENOTEMPTY);
	ck_assert_int_eq(mv(b, "c", ROOT, "a", 0), -ENOTEMPTY);
	ck_assert_int_eq(mv(b, "c", ROOT, "a", RENAME_EXCHANGE), -EINVAL);
	ck_assert_int_eq(mv(ROOT, "a", b, "c", RENAME_EXCHANGE), -EINVAL);
	ck_assert_int_eq(mv(ROOT, "a", f, "x", 0), -ENOTDIR);
	ck_assert_int_eq(mv(f, "a", ROOT, "x", 0), -ENOTDIR);
	ck_assert_int_eq(mv(ROOT, "a", 999, "x", 0), -ENOENT);
	ck_assert_int_eq(mv(999, "a", ROOT, "x", 0), -ENOENT);
	ck_assert_int_eq(mv(b, "c", ROOT, "c", 0), 0);
	ck_assert_int_eq(mv(ROOT, "a", c, "x", 0), 0);
	ck_assert_uint_eq(look(c, "x").ino, a);
	ck_assert_uint_eq(links_fit(ROOT), 2);
	links_fit(c);
	links_fit(b);
}
END_TEST

START_TEST(rename_tells_what_the_new_name_was)
{
	uint64_t f = make(ROOT, "f", F).ino, g = make(ROOT, "g", F).ino;
	uint64_t asked = 0;
	struct ckpt_gone gone;
	struct ckpt_attr a;

	ck_assert_int_eq(ckpt_rename(meta, 0, ROOT, "f", ROOT, "h", 0, yes,
				     &asked, NOW, &gone),
			 0);
	ck_assert_uint_eq(gone.ino, 0);
	ck_assert_uint_eq(asked, 0);
	ck_assert_int_eq(ckpt_rename(meta, 0, ROOT, "h", ROOT, "g", 0, yes,
				     &asked, NOW, &gone),
			 0);
	ck_assert_uint_eq(asked, g);
	ck_assert_uint_eq(gone.ino, g);
	ck_assert(!gone.freed && !gone.nlink);
	ck_assert_uint_eq(stat_of(g).nlink, 0);
	ck_assert_uint_eq(look(ROOT, "g").ino, f);
	ck_assert_int_eq(ckpt_release(meta, 0, g), 0);
	ck_assert_int_eq(ckpt_getattr(meta, 0, g, &a), -ESTALE);
}
END_TEST

START_TEST(a_full_directory_takes_no_further_one_by_rename)
{
	uint64_t d = make(ROOT, "d", D).ino;
	const uint32_t many = CKPT_LINK_MAX;
	char key[32];

	make(ROOT, "e", D);
	make(ROOT, "f", F);
	make(d, "sub", D);
	make(d, "g", F);
	snprintf(key, sizeof(key), "i%lu", (unsigned long)d);
	server_setrange(key, 12, &many, 4);
	ck_assert_int_eq(mv(ROOT, "e", d, "e", 0), -EMLINK);
	ck_assert_int_eq(mv(ROOT, "e", d, "g", RENAME_EXCHANGE), -EMLINK);
	ck_assert_int_eq(mv(ROOT, "e", d, "sub", 0), 0);
	ck_assert_int_eq(mv(ROOT, "f", d, "f", 0), 0);
}
END_TEST

/* --- readdir ----------------------------------------------------------- */

#define MANY 50000

struct seen {
	unsigned count[MANY];
	unsigned calls;
};

static void seen_add(void *arg, const char *name, const struct ckpt_attr *a)
{
	struct seen *s = arg;
	unsigned i;

	if (sscanf(name, "keep%u", &i) == 1 && i < MANY) {
		ck_assert_uint_eq(a->mode, F);
		s->count[i]++;
	}
}

static _Atomic bool churn_stop;
static _Atomic unsigned churned;

/* Names come and go while they are listed. */
static void *churn(void *arg)
{
	uint64_t dir = *(uint64_t *)arg;

	for (unsigned i = 0; !churn_stop; i++) {
		char name[32];

		snprintf(name, sizeof(name), "flux%u", i);
		make(dir, name, F);
		if (i >= 500) {
			snprintf(name, sizeof(name), "flux%u", i - 500);
			ck_assert_int_eq(rm(dir, name, NULL), 0);
		}
		churned++;
	}
	return NULL;
}

struct filler {
	uint64_t dir;
	unsigned from;
	pthread_t thread;
};

static void *fill(void *arg)
{
	struct filler *f = arg;

	for (unsigned i = f->from; i < MANY; i += 8) {
		char name[32];

		snprintf(name, sizeof(name), "keep%u", i);
		make(f->dir, name, F);
	}
	return NULL;
}

START_TEST(a_listing_has_every_entry_that_was_there_all_the_time)
{
	struct seen *s = calloc(1, sizeof(*s));
	uint64_t dir = make(ROOT, "d", D).ino, cursor = 0;
	struct filler fillers[8];
	pthread_t thread;
	int more;

	for (unsigned i = 0; i < 8; i++) {
		fillers[i].dir = dir;
		fillers[i].from = i;
		pthread_create(&fillers[i].thread, NULL, fill, &fillers[i]);
	}
	for (unsigned i = 0; i < 8; i++)
		pthread_join(fillers[i].thread, NULL);
	pthread_create(&thread, NULL, churn, &dir);
	do {
		more = ckpt_readdir(meta, 0, dir, &cursor, seen_add, s);
		s->calls++;
	} while (more == 1);
	churn_stop = true;
	pthread_join(thread, NULL);

	ck_assert_int_eq(more, 0);
	ck_assert_uint_gt(churned, 10);
	ck_assert_uint_gt(s->calls, MANY / 2000);
	for (unsigned i = 0; i < MANY; i++)
		ck_assert_msg(s->count[i] >= 1, "keep%u is missing", i);
	free(s);
}
END_TEST

START_TEST(readdir_refuses_what_is_no_directory)
{
	uint64_t f = make(ROOT, "f", F).ino, cursor = 0;
	struct tally t = {0, 0};

	ck_assert_int_eq(ckpt_readdir(meta, 0, f, &cursor, tally_add, &t),
			 -ENOTDIR);
	ck_assert_int_eq(ckpt_readdir(meta, 0, 99, &cursor, tally_add, &t),
			 -ESTALE);
	ck_assert_int_eq(ckpt_readdir(meta, 0, ROOT, &cursor, tally_add, &t),
			 0);
	ck_assert_uint_eq(t.entries, 1);
}
END_TEST

/* --- xattr ------------------------------------------------------------- */

START_TEST(xattrs_hold_any_bytes_and_know_their_flags)
{
	const char value[] = "\0\xff\r\n\x80 bytes";
	uint64_t f = make(ROOT, "f", F).ino;
	char buf[64];
	int n;

	ck_assert_int_eq(ckpt_xattr_set(meta, 0, f, "user.a", value,
					sizeof(value), XATTR_REPLACE, NOW),
			 -ENODATA);
	ck_assert_int_eq(ckpt_xattr_set(meta, 0, f, "user.a", value,
					sizeof(value), XATTR_CREATE, NOW + 1),
			 0);
	ck_assert_int_eq(stat_of(f).ctime_ns, NOW + 1);
	ck_assert_int_eq(
		ckpt_xattr_set(meta, 0, f, "user.a", "x", 1, XATTR_CREATE, NOW),
		-EEXIST);
	ck_assert_int_eq(ckpt_xattr_get(meta, 0, f, "user.a", NULL, 0),
			 sizeof(value));
	ck_assert_int_eq(ckpt_xattr_get(meta, 0, f, "user.a", buf, 3), -ERANGE);
	ck_assert_int_eq(ckpt_xattr_get(meta, 0, f, "user.a", buf, sizeof(buf)),
			 sizeof(value));
	ck_assert_mem_eq(buf, value, sizeof(value));
	ck_assert_int_eq(
		ckpt_xattr_set(meta, 0, f, "user.empty", NULL, 0, 0, NOW), 0);
	ck_assert_int_eq(ckpt_xattr_get(meta, 0, f, "user.empty", buf, 9), 0);
	n = ckpt_xattr_list(meta, 0, f, buf, sizeof(buf));
	ck_assert_int_eq(n, sizeof("user.a") + sizeof("user.empty"));
	ck_assert_int_eq(ckpt_xattr_list(meta, 0, f, NULL, 0), n);
	ck_assert_int_eq(ckpt_xattr_list(meta, 0, f, buf, 3), -ERANGE);

	ck_assert_int_eq(ckpt_xattr_remove(meta, 0, f, "user.a", NOW + 2), 0);
	ck_assert_int_eq(stat_of(f).ctime_ns, NOW + 2);
	ck_assert_int_eq(ckpt_xattr_remove(meta, 0, f, "user.a", NOW),
			 -ENODATA);
	ck_assert_int_eq(ckpt_xattr_get(meta, 0, f, "user.a", buf, 3),
			 -ENODATA);
	ck_assert_int_eq(ckpt_xattr_remove(meta, 0, f, "user.empty", NOW), 0);
	ck_assert_uint_eq(server_int("EXISTS kvfs:{c}:x2"), 0);
	ck_assert_int_eq(ckpt_xattr_get(meta, 0, 99, "user.a", buf, 3),
			 -ESTALE);
	ck_assert_int_eq(ckpt_xattr_list(meta, 0, 99, buf, 3), -ESTALE);
}
END_TEST

START_TEST(xattrs_of_one_inode_are_bounded)
{
	uint64_t f = make(ROOT, "f", F).ino;
	char *big = calloc(1, CKPT_XATTR_VALUE_MAX + 1);
	int err = 0, n = 0;

	ck_assert_int_eq(ckpt_xattr_set(meta, 0, f, "user.a", big,
					CKPT_XATTR_VALUE_MAX + 1, 0, NOW),
			 -E2BIG);
	ck_assert_int_eq(ckpt_xattr_set(meta, 0, f, "", big, 1, 0, NOW),
			 -ERANGE);
	while (!err && n < 100) {
		char name[32];

		snprintf(name, sizeof(name), "user.%d", n);
		err = ckpt_xattr_set(meta, 0, f, name, big,
				     CKPT_XATTR_VALUE_MAX, 0, NOW);
		n += !err;
	}
	ck_assert_int_eq(err, -ENOSPC);
	ck_assert_int_eq(n, 15);
	ck_assert_int_eq(ckpt_xattr_set(meta, 0, f, "user.3", "", 0, 0, NOW),
			 0);
	ck_assert_int_eq(ckpt_xattr_set(meta, 0, f, "user.new", big,
					CKPT_XATTR_VALUE_MAX, 0, NOW),
			 0);
	free(big);
}
END_TEST

/* --- writers ----------------------------------------------------------- */

START_TEST(a_publish_is_a_new_version_and_ends_old_checksums)
{
	const char sums[32] = "sixteen bytes..and sixteen more";
	const char other[32] = "what a damaged copy would say..";
	struct ckpt_attr set = {.size_bytes = 5000000000,
				.mtime_ns = NOW + 1,
				.ctime_ns = NOW + 2};
	uint64_t f = make(ROOT, "f", F).ino;
	struct ckpt_attr a;
	char buf[64];

	ck_assert_int_eq(ckpt_open_write(meta, 0, f, &a), 0);
	ck_assert_int_eq(ckpt_open_write(meta, 0, f, &a), 0);
	ck_assert_int_eq(
		ckpt_publish(meta, 0, f,
			     CKPT_SET_SIZE | CKPT_SET_MTIME | CKPT_SET_CTIME,
			     &set, true, &a),
		0);
	ck_assert_uint_eq(a.version, 1);
	ck_assert_uint_eq(a.size_bytes, 5000000000);
	ck_assert_int_eq(a.mtime_ns, NOW + 1);
	ck_assert_int_eq(a.atime_ns, NOW);

	ck_assert_int_eq(ckpt_get_checksums(meta, 0, f, 1, buf, 4), 0);
	ck_assert_int_eq(ckpt_set_checksums(meta, 0, f, 0, sums, 2), 0);
	ck_assert_int_eq(ckpt_get_checksums(meta, 0, f, 0, buf, 4), 0);
	ck_assert_int_eq(ckpt_set_checksums(meta, 0, f, 1, sums, 2), 0);
	ck_assert_int_eq(ckpt_get_checksums(meta, 0, f, 1, buf, 4), 2);
	ck_assert_mem_eq(buf, sums, 32);
	ck_assert_int_eq(ckpt_set_checksums(meta, 0, f, 1, other, 2), 0);
	ck_assert_int_eq(ckpt_get_checksums(meta, 0, f, 1, buf, 4), 2);
	ck_assert_mem_eq(buf, sums, 32);
	ck_assert_int_eq(ckpt_publish(meta, 0, f, 0, &set, false, &a), 0);
	ck_assert_uint_eq(a.version, 2);
	ck_assert_int_eq(ckpt_get_checksums(meta, 0, f, 1, buf, 4), 0);
	ck_assert_uint_eq(server_int("EXISTS kvfs:{c}:s2"), 0);
	ck_assert_int_eq(ckpt_publish(meta, 0, 99, 0, &set, false, &a),
			 -ESTALE);
	ck_assert_int_eq(ckpt_open_write(meta, 0, 99, &a), -ESTALE);
}
END_TEST

START_TEST(a_dead_writer_is_replaced)
{
	const uint32_t dead = 1; /* the tree is older than any living node */
	uint64_t f = make(ROOT, "f", F).ino;
	struct ckpt_attr a;

	node_down();
	server_text("FLUSHALL");
	server_text("SET kvfs:{n}:inc 1000");
	node_up();
	server_setrange("i2", 72, &dead, 4);
	ck_assert_int_eq(ckpt_open_write(meta, 0, f, &a), 0);
	ck_assert_int_eq(ckpt_publish(meta, 0, f, 0, &a, true, &a), 0);
}
END_TEST

START_TEST(a_living_writer_is_waited_for_and_then_busy)
{
	uint64_t f = make(ROOT, "f", F).ino;
	struct meta *other;
	struct ckpt_attr a;
	int64_t start;
	int err;

	ck_assert_int_eq(node_try("other", NULL, &other), 0);
	ck_assert_int_eq(ckpt_open_write(meta, 0, f, &a), 0);
	do { /* -EIO: not even the first answer came within it */
		start = clock_now_ns();
		err = ckpt_open_write(other, start + 300 * NS_PER_MS, f, &a);
	} while (err == -EIO);
	ck_assert_int_eq(err, -EBUSY);
	ck_assert_int_ge(clock_now_ns() - start, 100 * NS_PER_MS);
	ck_assert_int_eq(ckpt_publish(other, 0, f, 0, &a, true, &a), -ESTALE);
	ck_assert_int_eq(ckpt_publish(meta, 0, f, 0, &a, true, &a), 0);
	ck_assert_int_eq(ckpt_open_write(other, 0, f, &a), 0);
	ck_assert_uint_eq(a.version, 0); /* nothing was written */
	meta_close(other);
}
END_TEST

START_TEST(a_store_silent_at_the_deadline_does_not_unsay_that_it_is_busy)
{
	uint64_t f = make(ROOT, "f", F).ino;
	struct meta *other;
	struct ckpt_attr a;

	ck_assert_int_eq(node_try("other", NULL, &other), 0);
	ck_assert_int_eq(ckpt_open_write(meta, 0, f, &a), 0);
	proxy_set_later(PROXY_MUTE, "ckpt_open_write", 1);
	ck_assert_int_eq(
		ckpt_open_write(other, clock_now_ns() + NS_PER_S, f, &a),
		-EBUSY);
	ck_assert(proxy_done());
	meta_close(other);
}
END_TEST

START_TEST(two_nodes_see_one_tree_and_both_log_all_of_it)
{
	struct meta_stats s;
	struct ckpt_attr a;
	struct meta *other;

	make(ROOT, "before", F);
	ck_assert_int_eq(node_try("other", NULL, &other), 0);
	for (int i = 0; i < 20; i++) {
		char name[32];
		struct ckpt_attr set = {.mode = F};

		snprintf(name, sizeof(name), "f%d", i);
		ck_assert_int_eq(ckpt_create(i % 2 ? meta : other, 0, ROOT,
					     name, &set, NULL, &a),
				 0);
	}
	ck_assert_int_eq(ckpt_lookup(other, 0, ROOT, "before", &a), 0);
	/* What the other keeper did comes a moment later. */
	for (int i = 0; i < 2000; i++) {
		meta_stats(other, &s);
		if (s.ckpt_logged_seq >= logged_seq() - 1)
			break;
		usleep(5000);
	}
	ck_assert_uint_ge(s.ckpt_logged_seq, logged_seq() - 1);
	meta_close(other);
}
END_TEST

static Suite *suite(void)
{
	const int n = sizeof(renames) / sizeof(renames[0]);
	Suite *s = suite_create("ckpt");
	TCase *t = tcase_create("tree");

	tcase_set_timeout(t, 120);
	tcase_add_checked_fixture(t, up, fixture_down);
	tcase_add_test(t, a_new_file_is_found_with_all_that_it_was_made_with);
	tcase_add_test(t, a_new_directory_counts_in_its_parent);
	tcase_add_test(t, creation_says_why_it_cannot_be);
	tcase_add_test(t, a_set_gid_directory_gives_its_group);
	tcase_add_test(t, symlinks_and_devices_keep_what_they_are);
	tcase_add_test(t, times_and_sizes_are_exact_to_the_last_bit);
	tcase_add_test(t, setattr_changes_what_its_mask_names_and_nothing_else);
	tcase_add_test(
		t, what_is_made_takes_its_shards_from_its_directory_for_good);
	tcase_add_test(t, no_file_has_more_shards_than_a_map_has_bits);
	tcase_add_test(t, hard_links_count_and_share);
	tcase_add_test(t,
		       an_unlinked_file_that_is_open_stays_until_its_release);
	tcase_add_test(t, an_unlinked_file_that_is_closed_is_gone_at_once);
	tcase_add_test(t, only_an_empty_directory_is_removed);
	tcase_add_loop_test(t, rename_does_as_linux_does_within_a_directory, 0,
			    n);
	tcase_add_loop_test(t, rename_does_as_linux_does_across_directories, 0,
			    n);
	tcase_add_test(t, a_directory_does_not_move_below_itself);
	tcase_add_test(t, rename_tells_what_the_new_name_was);
	tcase_add_test(t, a_full_directory_takes_no_further_one_by_rename);
	tcase_add_test(t,
		       a_listing_has_every_entry_that_was_there_all_the_time);
	tcase_add_test(t, readdir_refuses_what_is_no_directory);
	tcase_add_test(t, xattrs_hold_any_bytes_and_know_their_flags);
	tcase_add_test(t, xattrs_of_one_inode_are_bounded);
	tcase_add_test(t, a_publish_is_a_new_version_and_ends_old_checksums);
	tcase_add_test(t, a_dead_writer_is_replaced);
	tcase_add_test(t, a_living_writer_is_waited_for_and_then_busy);
	tcase_add_test(
		t,
		a_store_silent_at_the_deadline_does_not_unsay_that_it_is_busy);
	tcase_add_test(t, two_nodes_see_one_tree_and_both_log_all_of_it);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	SRunner *r = srunner_create(suite());
	int failed;

	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

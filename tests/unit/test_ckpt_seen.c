// SPDX-License-Identifier: MIT
/* What of a walk through ckpt/ may be reused, and for how long. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "fs/ckpt.h"

static const struct ckpt_attr dir = {
	.ino = 5, .mode = S_IFDIR | 0755, .nlink = 2};

static struct fs fs;
static struct ckpt ckpt;

static void up(void)
{
	memset(&ckpt, 0, sizeof(ckpt));
	ckpt.fs = &fs;
	ck_assert_int_eq(cinode_init(&ckpt), 0);
}

static void down(void)
{
	cinode_fini(&ckpt);
}

/* The answer to a LOOKUP of "d" in the root, asked for then. */
static struct ckpt_inode *looked_up(uint64_t begun)
{
	struct ckpt_inode *inode = cinode_get(&ckpt, &dir, 1);

	cseen_add_step(&ckpt, CKPT_ROOT_INO, "d", dir.ino, begun);
	cseen_note(&ckpt, inode, &dir, begun);
	return inode;
}

static void seen_at(struct ckpt_inode *inode, int64_t ns)
{
	inode->seen_ns = ns;
	for (size_t i = 0; i < CKPT_STEPS; i++)
		if (ckpt.steps[i].at_ns)
			ckpt.steps[i].at_ns = ns;
}

/* However slow this machine is. */
static struct ckpt_inode *just_seen(void)
{
	struct ckpt_inode *inode = looked_up(cseen_begin(&ckpt));

	seen_at(inode, clock_now_ns() + 3600 * NS_PER_S);
	return inode;
}

static bool is_fresh(struct ckpt_inode *inode)
{
	struct ckpt_attr a;

	return cseen_fresh(&ckpt, inode, &a);
}

static struct ckpt_inode *step(const char *name)
{
	return cseen_step(&ckpt, CKPT_ROOT_INO, name);
}

START_TEST(a_walk_reuses_a_directory_for_ten_milliseconds)
{
	struct ckpt_inode *inode = just_seen();
	struct ckpt_attr a;

	ck_assert(cseen_fresh(&ckpt, inode, &a));
	ck_assert_mem_eq(&a, &dir, sizeof(a));
	ck_assert_ptr_eq(step("d"), inode);
	ck_assert_ptr_null(step("e"));
	ck_assert_ptr_null(cseen_step(&ckpt, dir.ino, "d"));

	seen_at(inode, clock_now_ns() - 10 * NS_PER_MS);
	ck_assert(!is_fresh(inode));
	ck_assert_ptr_null(step("d"));
}
END_TEST

START_TEST(what_this_node_changed_is_not_reused)
{
	struct ckpt_inode *inode = just_seen();

	cseen_changed(&ckpt, inode);
	ck_assert(!is_fresh(inode));
	ck_assert_ptr_eq(step("d"), inode);

	inode = just_seen();
	cseen_changed(&ckpt, NULL); /* a name moved: nobody knows which way */
	ck_assert(!is_fresh(inode));
	ck_assert_ptr_null(step("d"));
}
END_TEST

START_TEST(a_directory_whose_entries_changed_is_changed_alike)
{
	struct ckpt_inode *inode = just_seen();
	struct ckpt_attr a;

	cseen_entered(&ckpt, inode, 77, 1);
	ck_assert(cseen_fresh(&ckpt, inode, &a));
	ck_assert_int_eq(a.mtime_ns, 77);
	ck_assert_uint_eq(a.nlink, 3);
	ck_assert_ptr_eq(step("d"), inode);

	cseen_entered(&ckpt, ckpt.root, 78, -1); /* rmdir: of d, perhaps */
	ck_assert_ptr_null(step("d"));
}
END_TEST

START_TEST(an_answer_that_a_change_overtook_is_not_reused)
{
	uint64_t begun = cseen_begin(&ckpt);
	struct ckpt_inode *inode;

	cseen_changed(&ckpt, ckpt.root);
	inode = looked_up(begun);
	ck_assert(!is_fresh(inode));
	ck_assert_ptr_null(step("d"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("ckpt seen");
	TCase *t = tcase_create("seen");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, up, down);
	tcase_add_test(t, a_walk_reuses_a_directory_for_ten_milliseconds);
	tcase_add_test(t, what_this_node_changed_is_not_reused);
	tcase_add_test(t, a_directory_whose_entries_changed_is_changed_alike);
	tcase_add_test(t, an_answer_that_a_change_overtook_is_not_reused);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

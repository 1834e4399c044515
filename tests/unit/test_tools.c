// SPDX-License-Identifier: MIT
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/clock.h"
#include "tools/json.h"
#include "tools/mount.h"
#include "tools/mountinfo.h"
#include "tools/options.h"
#include "tools/progress.h"
#include "tools/state.h"
#include "tools/status.h"
#include "tools/term.h"

/* -- option tables ------------------------------------------------------ */

struct args {
	bool flag;
	const char *text;
	uint64_t size, number;
	double real;
	unsigned ms;
	int choice;
	char *list;
};

#define AT(member) offsetof(struct args, member)

static const struct option_spec table[] = {
	{"flag", 'f', OPTION_FLAG, AT(flag), NULL, "a flag"},
	{"text", 0, OPTION_TEXT, AT(text), "TEXT", "a text"},
	{"size", 's', OPTION_SIZE, AT(size), "SIZE", "a size"},
	{"number", 'n', OPTION_NUMBER, AT(number), "N", "a number"},
	{"real", 0, OPTION_REAL, AT(real), "X", "a real"},
	{"time", 't', OPTION_MS, AT(ms), "SECONDS", "a time"},
	{"choice", 0, OPTION_CHOICE, AT(choice), "red|green|blue", "one"},
	{NULL, 'o', OPTION_JOIN, AT(list), "LIST", "a list"},
	{"noise", 0, OPTION_IGNORED, 0, NULL, NULL},
	{}};

static char error[OPTION_ERROR_BYTES];

/* Parses a command line of blank-separated words. */
static int parse(struct args *a, const char *line)
{
	static char copy[512];
	static char *argv[32];
	int argc = 0;

	strcpy(copy, line);
	for (char *w = strtok(copy, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	argv[argc] = NULL;
	*a = (struct args){.choice = -1};
	error[0] = 0;
	return options_parse(table, argc, argv, a, error);
}

START_TEST(every_kind_of_option_sets_its_member)
{
	struct args a;

	ck_assert_int_eq(parse(&a, "x -f --text=hello -s 1.5M --number 7 "
				   "--real 0.25 -t 250ms --choice=blue -o a=1 "
				   "-ob,c operand"),
			 15);

	ck_assert(a.flag);
	ck_assert_str_eq(a.text, "hello");
	ck_assert_uint_eq(a.size, 3 << 19);
	ck_assert_uint_eq(a.number, 7);
	ck_assert(a.real == 0.25);
	ck_assert_uint_eq(a.ms, 250);
	ck_assert_int_eq(a.choice, 2);
	ck_assert_str_eq(a.list, "a=1,b,c");
	free(a.list);
}
END_TEST

START_TEST(operands_may_stand_before_options)
{
	struct args a;

	ck_assert_int_eq(parse(&a, "x operand -f"), 2);

	ck_assert(a.flag);
}
END_TEST

START_TEST(a_time_is_seconds_unless_it_says_ms)
{
	struct args a;

	ck_assert_int_gt(parse(&a, "x -t 5"), 0);
	ck_assert_uint_eq(a.ms, 5000);
	ck_assert_int_gt(parse(&a, "x -t 1.5s"), 0);
	ck_assert_uint_eq(a.ms, 1500);
	ck_assert_int_eq(parse(&a, "x -t 5min"), -EINVAL);
	ck_assert_int_eq(parse(&a, "x -t -5"), -EINVAL);
	ck_assert_int_eq(parse(&a, "x -t 0"), -EINVAL);
}
END_TEST

START_TEST(help_is_asked_for_by_help_and_by_an_h_that_nobody_took)
{
	struct args a;

	ck_assert_int_eq(parse(&a, "x --help"), OPTIONS_HELP);
	ck_assert_int_eq(parse(&a, "x -h"), OPTIONS_HELP);
}
END_TEST

static const struct {
	const char *line, *says;
} wrong[] = {
	{"x --flagg", "--flagg: unknown option; did you mean --flag?"},
	{"x --zzzzzzzzz", "--zzzzzzzzz: unknown option"},
	{"x --txet=1", "--txet: unknown option; did you mean --text?"},
	{"x -q", "-q: unknown option"},
	{"x --size", "--size: SIZE is missing"},
	{"x -s", "-s: SIZE is missing"},
	{"x --flag=1", "--flag: takes no value"},
	{"x --size=huge",
	 "--size: 'huge': a size such as 512M or 8G is wanted"},
	{"x --number=-1", "--number: '-1': a whole number is wanted"},
	{"x --number=99999999999999999999",
	 "--number: '99999999999999999999': a whole number is wanted"},
	{"x --real=-1", "--real: '-1': a number is wanted"},
	{"x --choice=re", "--choice: 're': use one of red|green|blue"},
};

START_TEST(a_wrong_command_line_is_refused_with_its_reason)
{
	struct args a;

	ck_assert_int_eq(parse(&a, wrong[_i].line), -EINVAL);
	ck_assert_str_eq(error, wrong[_i].says);
	free(a.list);
}
END_TEST

static int parse_list(struct args *a, const char *list)
{
	static char copy[512];

	strcpy(copy, list);
	*a = (struct args){.choice = -1};
	error[0] = 0;
	return options_parse_list(table, copy, a, error);
}

START_TEST(a_list_sets_members_and_passes_noise_over)
{
	struct args a;

	ck_assert_int_eq(parse_list(&a, "size=64K,,noise,noise=3,flag,x-foo.y="
					"z,text=a\\,b=c,choice=green"),
			 0);

	ck_assert_uint_eq(a.size, 65536);
	ck_assert(a.flag);
	ck_assert_str_eq(a.text, "a,b=c");
	ck_assert_int_eq(a.choice, 1);
}
END_TEST

static const struct {
	const char *list, *says;
} wrong_lists[] = {
	{"siz=1", "siz: unknown option; did you mean size?"},
	{"sizes=1", "sizes: unknown option; did you mean size?"},
	{"Size=1", "Size: unknown option; did you mean size?"},
	{"size", "size: needs a value: size=SIZE"},
	{"flag=yes", "flag: takes no value"},
	{"flag,size=", "size: '': a size such as 512M or 8G is wanted"},
	{"text=", "text: '': a value is wanted"},
	{"time=x", "time: 'x': a time such as 5 (seconds) or 250ms is wanted"},
	{"f", "f: unknown option"},
};

START_TEST(a_wrong_list_is_refused_with_its_reason)
{
	struct args a;

	ck_assert_int_eq(parse_list(&a, wrong_lists[_i].list), -EINVAL);
	ck_assert_str_eq(error, wrong_lists[_i].says);
}
END_TEST

START_TEST(help_has_every_option_but_those_ignored)
{
	char *text;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	options_print(table, false, f);
	fclose(f);

	ck_assert_ptr_nonnull(strstr(text, "  -f, --flag              a flag"));
	ck_assert_ptr_nonnull(strstr(text, "      --text=TEXT         a text"));
	ck_assert_ptr_nonnull(strstr(text, "  -o LIST                 a list"));
	ck_assert_ptr_nonnull(strstr(text, "--choice=red|green|blue\n"));
	ck_assert_ptr_null(strstr(text, "noise"));
	free(text);
}
END_TEST

/* -- mount options ------------------------------------------------------ */

START_TEST(mount_options_have_their_defaults)
{
	char text[] =
		"rw,defaults,_netdev,nofail,x-systemd.automount,noatime,nosuid";
	struct mount_options o;

	ck_assert_int_eq(mount_options_parse(text, &o, error), 0);

	ck_assert(o.pool_bytes == MOUNT_POOL_DEFAULT);
	ck_assert_uint_eq(o.frame_bytes, 4 << 20);
	ck_assert_uint_eq(o.deadline_ms, 5000);
	ck_assert_int_eq(o.rung, RUNG_AUTO);
	ck_assert(!o.read_only && !o.discard && !o.foreground);
	ck_assert_ptr_null(o.meta_url);
}
END_TEST

START_TEST(mount_options_are_all_read)
{
	char text[] = "pool=8G,frame=2M,meta=unix:///run/r.sock?db=2,state=/s,"
		      "password-file=/p,prefix=k,deadline=250ms,discard,ro,"
		      "allow_other,foreground,suid,dev,noexec,rung=direct";
	struct mount_options o;

	ck_assert_int_eq(mount_options_parse(text, &o, error), 0);

	ck_assert(o.pool_bytes == 8ull << 30);
	ck_assert_uint_eq(o.frame_bytes, 2 << 20);
	ck_assert_str_eq(o.meta_url, "unix:///run/r.sock?db=2");
	ck_assert_str_eq(o.state_dir, "/s");
	ck_assert_str_eq(o.password_file, "/p");
	ck_assert_str_eq(o.prefix, "k");
	ck_assert_uint_eq(o.deadline_ms, 250);
	ck_assert(o.discard && o.read_only && o.allow_other && o.foreground);
	ck_assert(o.suid && o.dev && o.noexec);
	ck_assert_int_eq(o.rung, RUNG_DIRECT);
}
END_TEST

START_TEST(the_rungs_are_in_the_order_of_the_ladder)
{
	char uring[] = "rung=uring", clone[] = "rung=clone";
	struct mount_options o;

	ck_assert_int_eq(mount_options_parse(uring, &o, error), 0);
	ck_assert_int_eq(o.rung, RUNG_URING);
	ck_assert_int_eq(mount_options_parse(clone, &o, error), 0);
	ck_assert_int_eq(o.rung, RUNG_CLONE);
}
END_TEST

START_TEST(a_mistyped_mount_option_gets_the_near_one)
{
	char text[] = "pool=1G,passwordfile=/x";
	struct mount_options o;

	ck_assert_int_eq(mount_options_parse(text, &o, error), -EINVAL);
	ck_assert_str_eq(error, "passwordfile: unknown option; did you mean "
				"password-file?");
}
END_TEST

/* -- mountinfo ---------------------------------------------------------- */

START_TEST(a_line_of_mountinfo_is_understood)
{
	struct mount_entry m;

	ck_assert_int_eq(
		mountinfo_parse("36 35 98:5 /mnt1 /mnt2 rw,noatime master:1 "
				"propagate_from:2 - fuse.kvfs kvfs rw,x=1\n",
				&m),
		0);

	ck_assert_uint_eq(m.id, 36);
	ck_assert_uint_eq(m.parent, 35);
	ck_assert_uint_eq(major(m.dev), 98);
	ck_assert_uint_eq(minor(m.dev), 5);
	ck_assert_str_eq(m.mountpoint, "/mnt2");
	ck_assert_str_eq(m.fstype, "fuse.kvfs");
	ck_assert_str_eq(m.source, "kvfs");
}
END_TEST

START_TEST(octal_escapes_of_mountinfo_are_undone)
{
	struct mount_entry m;

	ck_assert_int_eq(
		mountinfo_parse("1 0 0:9 / /a\\040b\\011c\\012d\\134040e\\9 rw "
				"- tmpfs a\\040b rw",
				&m),
		0);

	ck_assert_str_eq(m.mountpoint, "/a b\tc\nd\\040e\\9");
	ck_assert_str_eq(m.source, "a b");
}
END_TEST

static const char *const not_mountinfo[] = {
	"",
	"\n",
	"36 35 98:5",
	"36 35 98:5 /",
	"36 35 98:5 / /mnt rw",
	"36 35 98:5 / /mnt rw -",
	"36 35 98-5 / /mnt rw - ext4 x rw",
	"a b c:d / /mnt rw - ext4 x rw",
};

START_TEST(what_is_no_line_of_mountinfo_is_refused)
{
	struct mount_entry m;

	ck_assert_int_eq(mountinfo_parse(not_mountinfo[_i], &m), -EINVAL);
}
END_TEST

START_TEST(the_root_of_the_machine_is_mounted_and_no_kvfs)
{
	struct mount_entry m;

	ck_assert_int_eq(mountinfo_at("/proc", &m), 0);
	ck_assert_str_eq(m.fstype, "proc");
	ck_assert_int_eq(mountinfo_of("/proc/self", &m), -ENODEV);
	ck_assert_int_eq(mountinfo_at("/no/such/mount", &m), -ENOENT);
}
END_TEST

START_TEST(a_path_is_resolved_although_its_last_part_is_missing)
{
	char resolved[PATH_MAX];

	ck_assert_int_eq(mountinfo_resolve("/proc/../none-of-it//", resolved),
			 0);
	ck_assert_str_eq(resolved, "/none-of-it");
	ck_assert_int_eq(mountinfo_resolve("/none-of-it/x", resolved), -ENOENT);
}
END_TEST

/* -- progress ----------------------------------------------------------- */

static const char *bar(uint64_t total, uint64_t done, int64_t seconds,
		       unsigned columns, enum progress_unit unit)
{
	static char text[256];
	struct progress p = {.label = "reading", .total = total, .unit = unit};

	progress_format(&p, done, seconds * NS_PER_S, columns, text,
			sizeof(text));
	return text;
}

START_TEST(a_bar_shows_share_amount_pace_and_what_is_left)
{
	ck_assert_str_eq(bar(4096 << 10, 1024 << 10, 2, 79, PROGRESS_BYTES),
			 "reading  25% [####               ] 1.00 MiB of "
			 "4.00 MiB  512.0 KiB/s  0:06 left");
	ck_assert_str_eq(
		bar(200, 200, 10, 64, PROGRESS_COUNT),
		"reading 100% [#####################] 200 of 200  20/s  "
		"0:00 left");
}
END_TEST

START_TEST(a_bar_never_leaves_its_columns)
{
	for (unsigned columns = 1; columns < 120; columns++)
		ck_assert_uint_le(strlen(bar(1ull << 40, 1ull << 39, 77,
					     columns, PROGRESS_BYTES)),
				  columns);
}
END_TEST

START_TEST(an_unknown_total_and_more_than_all_are_bearable)
{
	ck_assert_str_eq(bar(0, 1000, 1, 79, PROGRESS_COUNT),
			 "reading 1000  1000/s");
	ck_assert_str_eq(bar(10, 20, 1, 30, PROGRESS_COUNT),
			 "reading 100% 20 of 10  20/s");
	ck_assert_str_eq(bar(10, 0, 0, 30, PROGRESS_COUNT),
			 "reading   0% 0 of 10");
}
END_TEST

START_TEST(nothing_is_drawn_where_stderr_is_no_terminal)
{
	struct progress p;

	ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr));
	progress_start(&p, "x", 10, PROGRESS_COUNT);
	p.start_ns -= 5 * NS_PER_S;
	progress_update(&p, 5);

	ck_assert(!p.drawn);
	progress_finish(&p);
}
END_TEST

/* -- state, names, JSON ------------------------------------------------- */

static const struct {
	const char *path, *name;
} escapes[] = {
	{"/mnt/kvfs", "mnt-kvfs"},
	{"/mnt//kvfs/", "mnt-kvfs"},
	{"/", "-"},
	{"/a-b/c d", "a\\x2db-c\\x20d"},
	{"/.hidden/.x", "\\x2ehidden-.x"},
	{"/\xc3\xa9", "\\xc3\\xa9"},
};

START_TEST(a_mount_point_becomes_a_name_as_systemd_escapes_it)
{
	char name[256];

	ck_assert_int_eq(state_escape(escapes[_i].path, name, sizeof(name)), 0);
	ck_assert_str_eq(name, escapes[_i].name);
}
END_TEST

START_TEST(a_name_that_does_not_fit_is_refused)
{
	char name[8];

	ck_assert_int_eq(state_escape("/a/b/c/d", name, sizeof(name)), 0);
	ck_assert_int_eq(state_escape("/a/b/c/d/e", name, sizeof(name)),
			 -ENAMETOOLONG);
}
END_TEST

START_TEST(control_bytes_of_a_name_never_reach_the_terminal)
{
	char buf[16];

	ck_assert_str_eq(term_printable("a\nb\033[1m\x7f", buf, sizeof(buf)),
			 "a?b?[1m?");
	ck_assert_str_eq(term_printable("0123456789", buf, 5), "0123");
}
END_TEST

START_TEST(a_name_that_is_not_utf8_is_still_json)
{
	json_t *good = json_name("gr\xc3\xbc\xc3\x9f");
	json_t *bad = json_name("a\xff\xc3z");

	ck_assert_str_eq(json_string_value(good), "gr\xc3\xbc\xc3\x9f");
	ck_assert_str_eq(json_string_value(bad), "a\xef\xbf\xbd\xef\xbf\xbdz");
	json_decref(good);
	json_decref(bad);
}
END_TEST

START_TEST(members_are_found_by_their_path_or_fall_back)
{
	json_t *json = json_loads("{\"a\":{\"b\":7,\"t\":\"x\",\"f\":1.5,"
				  "\"y\":true},\"n\":9007199254740993}",
				  0, NULL);

	ck_assert_uint_eq(json_u64(json, "a.b", 1), 7);
	ck_assert_uint_eq(json_u64(json, "n", 1), 9007199254740993);
	ck_assert_uint_eq(json_u64(json, "a.c", 1), 1);
	ck_assert_uint_eq(json_u64(json, "a.b.c", 1), 1);
	ck_assert_uint_eq(json_u64(NULL, "a", 1), 1);
	ck_assert_str_eq(json_text(json, "a.t", "?"), "x");
	ck_assert_str_eq(json_text(json, "a.b", "?"), "?");
	ck_assert(json_f64(json, "a.f", 0) == 1.5);
	ck_assert(json_bool(json, "a.y", false));
	ck_assert(json_bool(json, "a.z", true));
	json_decref(json);
}
END_TEST

START_TEST(the_picture_of_the_pool_has_each_use_in_its_share)
{
	json_t *pool = json_loads("{\"committed_bytes\":50,\"writing_bytes\":"
				  "10,\"ready_bytes\":20,\"aside_bytes\":10,"
				  "\"free_bytes\":10}",
				  0, NULL);
	char text[11];

	status_bar(pool, 10, text);
	ck_assert_str_eq(text, "#####=++!.");
	status_bar(NULL, 10, text);
	ck_assert_str_eq(text, "..........");
	json_decref(pool);
}
END_TEST

START_TEST(a_table_lines_its_columns_up)
{
	static const struct table_column columns[] = {{"name", false},
						      {"n", true}};
	struct table *t = table_new(columns, 2);
	FILE *f = tmpfile();
	char buf[128] = "";

	table_add(t, "%s", "gr\xc3\xbc\xc3\x9f");
	table_add(t, "%d", 5);
	table_add(t, "x");
	table_add(t, "%d", 1234);
	table_print(t, f);
	table_free(t);
	rewind(f);
	ck_assert_uint_gt(fread(buf, 1, sizeof(buf) - 1, f), 0);
	fclose(f);

	ck_assert_str_eq(buf, "name     n\ngr\xc3\xbc\xc3\x9f     5\n"
			      "x     1234\n");
}
END_TEST

#define COUNT(a) ((int)(sizeof(a) / sizeof(*(a))))

static TCase *options_tests(void)
{
	TCase *t = tcase_create("options");

	tcase_add_test(t, every_kind_of_option_sets_its_member);
	tcase_add_test(t, operands_may_stand_before_options);
	tcase_add_test(t, a_time_is_seconds_unless_it_says_ms);
	tcase_add_test(t,
		       help_is_asked_for_by_help_and_by_an_h_that_nobody_took);
	tcase_add_loop_test(t, a_wrong_command_line_is_refused_with_its_reason,
			    0, COUNT(wrong));
	tcase_add_test(t, a_list_sets_members_and_passes_noise_over);
	tcase_add_loop_test(t, a_wrong_list_is_refused_with_its_reason, 0,
			    COUNT(wrong_lists));
	tcase_add_test(t, help_has_every_option_but_those_ignored);
	tcase_add_test(t, mount_options_have_their_defaults);
	tcase_add_test(t, mount_options_are_all_read);
	tcase_add_test(t, the_rungs_are_in_the_order_of_the_ladder);
	tcase_add_test(t, a_mistyped_mount_option_gets_the_near_one);
	return t;
}

static TCase *mountinfo_tests(void)
{
	TCase *t = tcase_create("mountinfo");

	tcase_add_test(t, a_line_of_mountinfo_is_understood);
	tcase_add_test(t, octal_escapes_of_mountinfo_are_undone);
	tcase_add_loop_test(t, what_is_no_line_of_mountinfo_is_refused, 0,
			    COUNT(not_mountinfo));
	tcase_add_test(t, the_root_of_the_machine_is_mounted_and_no_kvfs);
	tcase_add_test(t, a_path_is_resolved_although_its_last_part_is_missing);
	return t;
}

static TCase *view_tests(void)
{
	TCase *t = tcase_create("what a person sees");

	tcase_add_test(t, a_bar_shows_share_amount_pace_and_what_is_left);
	tcase_add_test(t, a_bar_never_leaves_its_columns);
	tcase_add_test(t, an_unknown_total_and_more_than_all_are_bearable);
	tcase_add_test(t, nothing_is_drawn_where_stderr_is_no_terminal);
	tcase_add_test(t, control_bytes_of_a_name_never_reach_the_terminal);
	tcase_add_test(t, the_picture_of_the_pool_has_each_use_in_its_share);
	tcase_add_test(t, a_table_lines_its_columns_up);
	return t;
}

static TCase *name_tests(void)
{
	TCase *t = tcase_create("names");

	tcase_add_loop_test(t,
			    a_mount_point_becomes_a_name_as_systemd_escapes_it,
			    0, COUNT(escapes));
	tcase_add_test(t, a_name_that_does_not_fit_is_refused);
	tcase_add_test(t, a_name_that_is_not_utf8_is_still_json);
	tcase_add_test(t, members_are_found_by_their_path_or_fall_back);
	return t;
}

int main(void)
{
	Suite *s = suite_create("tools");
	SRunner *r;
	int failed;

	suite_add_tcase(s, options_tests());
	suite_add_tcase(s, mountinfo_tests());
	suite_add_tcase(s, view_tests());
	suite_add_tcase(s, name_tests());
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

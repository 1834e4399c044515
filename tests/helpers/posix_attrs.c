// SPDX-License-Identifier: MIT
/* Attributes: stamps, modes and owners, extended attributes. */
#include "tests/helpers/posix.h"

#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define USER 65534u
#define GROUP 65533u

/* --- which stamps move --- */

enum { ATIME = 1, MTIME = 2, CTIME = 4 };

static unsigned moved(const struct stat *a, const struct stat *b)
{
	return (posix_ns(a->st_atim) != posix_ns(b->st_atim) ? ATIME : 0) |
	       (posix_ns(b->st_mtim) > posix_ns(a->st_mtim) ? MTIME : 0) |
	       (posix_ns(b->st_ctim) > posix_ns(a->st_ctim) ? CTIME : 0);
}

static void op_chmod(void)
{
	ok(chmod("d/f", 0600));
}
static void op_chown(void)
{
	ok(chown("d/f", 1, 1));
}
static void op_link(void)
{
	ok(link("d/f", "d/g"));
}
static void op_unlink_other(void)
{
	ok(unlink("d/g"));
}
static void op_truncate(void)
{
	ok(truncate("d/f", 1));
}
static void op_rename(void)
{
	ok(rename("d/f", "d/x"));
	ok(rename("d/x", "d/f"));
}
static void op_mkdir(void)
{
	ok(mkdir("d/sub", 0755));
}
static void op_rmdir(void)
{
	ok(rmdir("d/sub"));
}
static void op_symlink(void)
{
	ok(symlink("x", "d/sym"));
}
static void op_setxattr(void)
{
	ok(setxattr("d/f", "user.a", "b", 1, 0));
}
static void op_removexattr(void)
{
	ok(removexattr("d/f", "user.a"));
}
static void op_write(void)
{
	int fd = (int)ok(open("d/f", O_WRONLY));

	equal(write(fd, "yy", 2), 2);
	ok(close(fd));
}
static void op_open_trunc(void)
{
	ok(close((int)ok(open("d/f", O_WRONLY | O_TRUNC))));
}
static void op_ftruncate(void)
{
	int fd = (int)ok(open("d/f", O_WRONLY));

	ok(ftruncate(fd, 100));
	ok(close(fd));
}
static void op_fallocate(void)
{
	int fd = (int)ok(open("d/f", O_WRONLY));

	ok(fallocate(fd, 0, 0, 10000));
	ok(close(fd));
}
static void op_mknod(void)
{
	ok(mknod("d/p", S_IFIFO | 0600, 0));
}
static void op_create(void)
{
	ok(close((int)ok(open("d/new", O_WRONLY | O_CREAT, 0600))));
}
static void op_open_write_only(void)
{
	ok(close((int)ok(open("d/f", O_RDWR))));
}
static void op_stat(void)
{
	posix_stat("d/f");
}
static void op_failed_chmod(void)
{
	fails(ENOENT, chmod("d/none", 0600));
}
static void op_failed_mkdir(void)
{
	fails(EEXIST, mkdir("d/f", 0755));
}

static const struct {
	const char *name;
	void (*run)(void);
	unsigned file, dir; /* stamps of d/f and of d */
} stamping[] = {
	{"chmod", op_chmod, CTIME, 0},
	{"chown", op_chown, CTIME, 0},
	{"link", op_link, CTIME, MTIME | CTIME},
	{"unlink", op_unlink_other, CTIME, MTIME | CTIME},
	{"truncate", op_truncate, MTIME | CTIME, 0},
	{"rename", op_rename, CTIME, MTIME | CTIME},
	{"mkdir", op_mkdir, 0, MTIME | CTIME},
	{"rmdir", op_rmdir, 0, MTIME | CTIME},
	{"symlink", op_symlink, 0, MTIME | CTIME},
	{"setxattr", op_setxattr, CTIME, 0},
	{"removexattr", op_removexattr, CTIME, 0},
	{"write", op_write, MTIME | CTIME, 0},
	{"open with O_TRUNC", op_open_trunc, MTIME | CTIME, 0},
	{"open with O_TRUNC again", op_open_trunc, MTIME | CTIME, 0},
	{"ftruncate", op_ftruncate, MTIME | CTIME, 0},
	{"fallocate", op_fallocate, MTIME | CTIME, 0},
	{"mknod", op_mknod, 0, MTIME | CTIME},
	{"create", op_create, 0, MTIME | CTIME},
	{"open for writing and close", op_open_write_only, 0, 0},
	{"stat", op_stat, 0, 0},
	{"a failed chmod", op_failed_chmod, 0, 0},
	{"a failed mkdir", op_failed_mkdir, 0, 0},
};

static void every_operation_moves_its_stamps(void)
{
	ok(mkdir("d", 0755));
	posix_put("d/f", "xxx");
	for (size_t i = 0; i < sizeof(stamping) / sizeof(stamping[0]); i++) {
		struct stat f = posix_stat("d/f"), d = posix_stat("d"), now;

		posix_tick();
		stamping[i].run();
		now = posix_stat("d/f");
		if ((moved(&f, &now) & ~ATIME) != stamping[i].file)
			posix_fail(stamping[i].name, 0, "stamps of the file",
				   moved(&f, &now), stamping[i].file);
		now = posix_stat("d");
		if ((moved(&d, &now) & ~ATIME) != stamping[i].dir)
			posix_fail(stamping[i].name, 0,
				   "stamps of the directory", moved(&d, &now),
				   stamping[i].dir);
	}
}

static void new_files_have_the_time_of_now(void)
{
	static const char *const names[] = {"f", "d", "s", "p"};
	struct timespec before, after;

	clock_gettime(CLOCK_REALTIME_COARSE, &before);
	posix_put("f", "");
	ok(mkdir("d", 0755));
	ok(symlink("x", "s"));
	ok(mkfifo("p", 0600));
	posix_tick();
	clock_gettime(CLOCK_REALTIME, &after);
	for (int i = 0; i < 4; i++) {
		struct stat st = posix_stat(names[i]);
		struct timespec t[3] = {st.st_atim, st.st_mtim, st.st_ctim};

		for (int j = 0; j < 3; j++) {
			truth(posix_ns(t[j]) >= posix_ns(before));
			truth(posix_ns(t[j]) <= posix_ns(after));
		}
	}
}

static void utimens(const char *path, int64_t atime, int64_t mtime)
{
	struct timespec t[2] = {
		{atime / 1000000000, atime % 1000000000},
		{mtime / 1000000000, mtime % 1000000000},
	};

	ok(utimensat(AT_FDCWD, path, t, AT_SYMLINK_NOFOLLOW));
}

static void times_are_kept_to_the_nanosecond(void)
{
	static const char *const names[] = {"f", "d", "s", "p"};
	struct stat before, st;

	posix_put("f", "x");
	ok(mkdir("d", 0755));
	ok(symlink("x", "s"));
	ok(mkfifo("p", 0600));
	for (int i = 0; i < 4; i++) {
		before = posix_stat(names[i]);
		posix_tick();
		utimens(names[i], 1234567890123456789, 987654321987654321);
		st = posix_stat(names[i]);
		equal(posix_ns(st.st_atim), 1234567890123456789);
		equal(posix_ns(st.st_mtim), 987654321987654321);
		truth(posix_ns(st.st_ctim) > posix_ns(before.st_ctim));
	}
	utimens("f", 1, 4102444800999999999);
	equal(posix_ns(posix_stat("f").st_mtim), 4102444800999999999);
	equal(posix_ns(posix_stat("f").st_atim), 1);
}

static void utime_now_and_omit(void)
{
	struct timespec t[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}}, now;
	struct stat st;

	posix_put("f", "x");
	utimens("f", 1000000001, 2000000002);
	posix_tick();
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	ok(utimensat(AT_FDCWD, "f", t, 0));
	st = posix_stat("f");
	equal(posix_ns(st.st_atim), 1000000001);
	truth(posix_ns(st.st_mtim) >= posix_ns(now));
	t[0].tv_nsec = UTIME_NOW;
	t[1].tv_nsec = UTIME_OMIT;
	utimens("f", 1000000001, 2000000002);
	ok(utimensat(AT_FDCWD, "f", t, 0));
	st = posix_stat("f");
	equal(posix_ns(st.st_mtim), 2000000002);
	truth(posix_ns(st.st_atim) >= posix_ns(now));
}

static void times_set_on_an_open_file_stay(void)
{
	struct timespec t[2] = {{11, 12}, {13, 14}};
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));

	equal(write(fd, "abc", 3), 3);
	ok(futimens(fd, t));
	equal(posix_ns(posix_fstat(fd).st_mtim), 13000000014);
	ok(close(fd));
	equal(posix_ns(posix_stat("f").st_mtim), 13000000014);
	equal(posix_ns(posix_stat("f").st_atim), 11000000012);
	fd = (int)ok(open("f", O_RDWR));
	equal(posix_ns(posix_stat("f").st_mtim), 13000000014);
	equal(write(fd, "abcd", 4), 4);
	truth(posix_fstat(fd).st_mtime > 1000);
	ok(close(fd));
	truth(posix_stat("f").st_mtime > 1000);
}

static void reading_moves_atime(void)
{
	struct stat st;

	posix_put("f", "x");
	utimens("f", 5000000000, 6000000000); /* relatime: atime < mtime */
	truth(posix_holds("f", "x"));
	st = posix_stat("f");
	truth(posix_ns(st.st_atim) > 5000000000);
	equal(posix_ns(st.st_mtim), 6000000000);
}

/* --- modes and owners --- */

static void modes_are_kept(void)
{
	posix_put("f", "");
	ok(mkdir("d", 0755));
	for (unsigned mode = 0; mode <= 07777; mode += 0111) {
		ok(chmod("f", mode));
		equal(posix_stat("f").st_mode, S_IFREG | mode);
		ok(chmod("d", mode));
		equal(posix_stat("d").st_mode, S_IFDIR | mode);
	}
}

static void the_umask_is_applied(void)
{
	umask(027);
	ok(close((int)ok(open("f", O_WRONLY | O_CREAT, 0777))));
	ok(mkdir("d", 0777));
	ok(mkfifo("p", 0777));
	equal(posix_stat("f").st_mode & 07777, 0750);
	equal(posix_stat("d").st_mode & 07777, 0750);
	equal(posix_stat("p").st_mode & 07777, 0750);
}

static void create_all(void)
{
	posix_put("d/f", "");
	ok(mkdir("d/d", 0755));
	ok(symlink("x", "d/s"));
	ok(mkfifo("d/p", 0644));
}

static void what_is_created_is_the_callers(void)
{
	static const char *const names[] = {"d/f", "d/d", "d/s", "d/p"};

	ok(mkdir("d", 0777));
	ok(chmod("d", 0777));
	posix_as(USER, GROUP, 0, create_all);
	for (int i = 0; i < 4; i++) {
		equal(posix_stat(names[i]).st_uid, USER);
		equal(posix_stat(names[i]).st_gid, GROUP);
	}
}

static void a_set_gid_directory_gives_its_group(void)
{
	static const char *const names[] = {"d/f", "d/d", "d/s", "d/p"};

	ok(mkdir("d", 0777));
	ok(chown("d", 0, 4321));
	ok(chmod("d", 02777));
	posix_as(USER, GROUP, 0, create_all);
	for (int i = 0; i < 4; i++)
		equal(posix_stat(names[i]).st_gid, 4321);
	truth(posix_stat("d/d").st_mode & S_ISGID);
	truth(!(posix_stat("d/f").st_mode & S_ISGID));
	ok(mkdir("d/d/e", 0755));
	equal(posix_stat("d/d/e").st_gid, 4321);
	truth(posix_stat("d/d/e").st_mode & S_ISGID);
}

static void write_one(void)
{
	int fd = (int)ok(open("f", O_WRONLY));

	equal(write(fd, "z", 1), 1);
	ok(close(fd));
}
static void truncate_one(void)
{
	ok(truncate("f", 0));
}
static void open_trunc_one(void)
{
	ok(close((int)ok(open("f", O_WRONLY | O_TRUNC))));
}
static void chown_group(void)
{
	ok(chown("f", (uid_t)-1, GROUP));
}

static void changing_a_file_clears_set_uid(void)
{
	static void (*const changes[])(void) = {write_one, truncate_one,
						open_trunc_one};

	for (int i = 0; i < 3; i++) {
		posix_put("f", "abc");
		ok(chown("f", 0, 0));
		ok(chmod("f", 06777));
		equal(posix_stat("f").st_mode & 07777, 06777);
		posix_as(USER, GROUP, 0, changes[i]);
		equal(posix_stat("f").st_mode & 07777, 0777);
		/* set-gid without group execute is not set-gid */
		ok(chmod("f", 04666));
		posix_as(USER, GROUP, 0, changes[i]);
		equal(posix_stat("f").st_mode & 07777, 0666);
		ok(unlink("f"));
	}
	posix_put("f", "abc");
	ok(chmod("f", 06777));
	write_one(); /* root keeps them */
	equal(posix_stat("f").st_mode & 07777, 06777);
}

static void a_new_owner_clears_set_uid(void)
{
	posix_put("f", "abc");
	ok(mkdir("d", 0755));
	ok(chown("f", USER, 0));
	ok(chmod("f", 06755));
	posix_as(USER, GROUP, 0, chown_group);
	equal(posix_stat("f").st_mode & 07777, 0755);
	equal(posix_stat("f").st_gid, GROUP);
	ok(chmod("f", 06755));
	ok(chown("f", 1, 1));
	equal(posix_stat("f").st_mode & 07777, 0755);
	ok(chmod("d", 06755));
	ok(chown("d", 1, 1));
	equal(posix_stat("d").st_mode & 07777, 06755);
}

static void chmod_set_gid(void)
{
	ok(chmod("f", 02755));
}

static void set_gid_needs_the_group(void)
{
	posix_put("f", "");
	ok(chown("f", USER, 4321));
	posix_as(USER, GROUP, 0, chmod_set_gid);
	equal(posix_stat("f").st_mode & 07777, 0755);
	posix_as(USER, GROUP, 4321, chmod_set_gid);
	equal(posix_stat("f").st_mode & 07777, 02755);
}

static void in_a_sticky_directory(void)
{
	fails(EPERM, unlink("d/other"));
	fails(EPERM, rmdir("d/otherdir"));
	fails(EPERM, rename("d/other", "d/mine2"));
	fails(EPERM, rename("d/mine", "d/other"));
	ok(rename("d/mine", "d/mine2"));
	ok(unlink("d/mine2"));
}

static void a_sticky_directory_protects_others_files(void)
{
	ok(mkdir("d", 0777));
	ok(chmod("d", 01777));
	posix_put("d/other", "");
	ok(mkdir("d/otherdir", 0777));
	posix_put("d/mine", "");
	ok(chown("d/mine", USER, GROUP));
	posix_as(USER, GROUP, 0, in_a_sticky_directory);
	ok(access("d/other", F_OK));
}

static void without_permission(void)
{
	fails(EACCES, open("secret", O_RDONLY));
	fails(EACCES, open("secret", O_WRONLY));
	fails(EACCES, access("closed/f", F_OK));
	fails(EACCES, open("readonly/new", O_WRONLY | O_CREAT, 0644));
	fails(EACCES, mkdir("readonly/d", 0755));
	fails(EACCES, unlink("readonly/f"));
	fails(EACCES, rename("readonly/f", "readonly/g"));
	fails(EACCES, symlink("x", "readonly/s"));
	fails(EACCES, truncate("readonly/f", 0));
	fails(EPERM, chmod("readonly/f", 0777));
	fails(EPERM, chown("readonly/f", USER, GROUP));
	fails(EPERM, utimensat(AT_FDCWD, "readonly/f",
			       (struct timespec[2]){{1, 1}, {1, 1}}, 0));
	fails(EACCES, utimensat(AT_FDCWD, "readonly/f", NULL, 0));
	truth(posix_holds("readonly/f", "r"));
	ok(close((int)ok(open("bygroup", O_RDWR))));
}

static void permissions_are_the_kernels(void)
{
	posix_put("secret", "s");
	ok(chmod("secret", 0600));
	ok(mkdir("closed", 0700));
	posix_put("closed/f", "c");
	ok(mkdir("readonly", 0755));
	posix_put("readonly/f", "r");
	posix_put("bygroup", "g");
	ok(chmod("bygroup", 0660));
	ok(chown("bygroup", 0, 4321));
	posix_as(USER, GROUP, 4321, without_permission);
}

static void change_own(void)
{
	ok(chmod("f", 0640));
	ok(chown("f", USER, 4321));
	fails(EPERM, chown("f", 0, (gid_t)-1));
	fails(EPERM, chown("f", (uid_t)-1, 9));
	ok(utimensat(AT_FDCWD, "f", (struct timespec[2]){{1, 1}, {2, 2}}, 0));
}

static void an_owner_may_change_his_file(void)
{
	posix_put("f", "");
	ok(chown("f", USER, GROUP));
	posix_as(USER, GROUP, 4321, change_own);
	equal(posix_stat("f").st_gid, 4321);
	equal(posix_stat("f").st_mode & 07777, 0640);
}

/* --- extended attributes --- */

/* Where a filesystem keeps them in one block, less. */
static void big_value(const char *p)
{
	static char big[60000];
	size_t n = sizeof(big);

	memset(big, 'b', n);
	if (setxattr(p, "user.big", big, n, 0)) {
		equal(errno, ENOSPC);
		n = 3000;
		ok(setxattr(p, "user.big", big, n, 0));
	}
	equal(getxattr(p, "user.big", big, sizeof(big)), n);
	equal(big[n - 1], 'b');
	ok(removexattr(p, "user.big"));
}

static void xattrs_are_kept(void)
{
	char value[64];

	posix_put("f", "x");
	ok(mkdir("d", 0755));
	for (int i = 0; i < 2; i++) {
		const char *p = i ? "d" : "f";

		ok(setxattr(p, "user.one", "1\0 2", 4, 0));
		equal(getxattr(p, "user.one", value, sizeof(value)), 4);
		truth(!memcmp(value, "1\0 2", 4));
		equal(getxattr(p, "user.one", NULL, 0), 4);
		fails(ERANGE, getxattr(p, "user.one", value, 2));
		fails(EEXIST, setxattr(p, "user.one", "3", 1, XATTR_CREATE));
		fails(ENODATA, setxattr(p, "user.no", "3", 1, XATTR_REPLACE));
		ok(setxattr(p, "user.one", "", 0, XATTR_REPLACE));
		equal(getxattr(p, "user.one", value, sizeof(value)), 0);
		ok(setxattr(p, "trusted.t", "t", 1, 0));
		big_value(p);
		fails(ENODATA, removexattr(p, "user.big"));
		fails(ENODATA, getxattr(p, "user.big", value, 1));
	}
}

static bool listed(const char *list, ssize_t len, const char *name)
{
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(list + at) + 1) {
		if (!strcmp(list + at, name))
			return true;
	}
	return false;
}

static void xattrs_are_listed(void)
{
	char list[4096], name[64];
	ssize_t len;

	posix_put("f", "x");
	equal(listxattr("f", list, sizeof(list)), 0);
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "user.name-%d", i);
		ok(setxattr("f", name, "v", 1, 0));
	}
	len = (ssize_t)ok(listxattr("f", list, sizeof(list)));
	equal(listxattr("f", NULL, 0), len);
	fails(ERANGE, listxattr("f", list, 10));
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "user.name-%d", i);
		truth(listed(list, len, name));
	}
	ok(link("f", "g"));
	ok(unlink("f"));
	ok(rename("g", "h"));
	equal(listxattr("h", NULL, 0), len);
}

static void xattr_names_have_their_owners(void)
{
	posix_put("f", "x");
	ok(symlink("f", "s"));
	fails(EPERM, lsetxattr("s", "user.a", "b", 1, 0));
	fails(EOPNOTSUPP, setxattr("f", "nonsense.a", "b", 1, 0));
}

const struct posix_case posix_times[] = {
	{"every operation moves its stamps and no other",
	 every_operation_moves_its_stamps},
	{"new files have the time of now", new_files_have_the_time_of_now},
	{"times are kept to the nanosecond", times_are_kept_to_the_nanosecond},
	{"UTIME_NOW and UTIME_OMIT", utime_now_and_omit},
	{"times set on an open file stay", times_set_on_an_open_file_stay},
	{"reading moves atime", reading_moves_atime},
	{NULL, NULL},
};

const struct posix_case posix_modes[] = {
	{"modes are kept", modes_are_kept},
	{"the umask is applied", the_umask_is_applied},
	{"what is created is the caller's", what_is_created_is_the_callers},
	{"a set-gid directory gives its group",
	 a_set_gid_directory_gives_its_group},
	{"changing a file clears set-uid", changing_a_file_clears_set_uid},
	{"a new owner clears set-uid", a_new_owner_clears_set_uid},
	{"set-gid needs the group", set_gid_needs_the_group},
	{"a sticky directory protects others' files",
	 a_sticky_directory_protects_others_files},
	{"permissions are checked", permissions_are_the_kernels},
	{"an owner may change his file", an_owner_may_change_his_file},
	{NULL, NULL},
};

const struct posix_case posix_xattrs[] = {
	{"extended attributes are kept", xattrs_are_kept},
	{"extended attributes are listed", xattrs_are_listed},
	{"names of extended attributes have owners",
	 xattr_names_have_their_owners},
	{NULL, NULL},
};

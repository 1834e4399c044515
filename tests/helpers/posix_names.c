// SPDX-License-Identifier: MIT
/* Names: the right errno in the right order, renames, links. */
#include "tests/helpers/posix.h"

#include <dirent.h>
#include <linux/fs.h>
#include <sys/un.h>

/* --- errors: every call that takes a path, against every bad path --- */

static int do_open(const char *p)
{
	int fd = open(p, O_RDONLY);

	return fd < 0 ? fd : close(fd);
}
static int do_create(const char *p)
{
	int fd = open(p, O_WRONLY | O_CREAT, 0644);

	return fd < 0 ? fd : close(fd);
}
static int do_mkdir(const char *p)
{
	return mkdir(p, 0755);
}
static int do_mkfifo(const char *p)
{
	return mkfifo(p, 0644);
}
static int do_mknod(const char *p)
{
	return mknod(p, S_IFREG | 0644, 0);
}
static int do_symlink(const char *p)
{
	return symlink("target", p);
}
static int do_link_to(const char *p)
{
	return link("file", p);
}
static int do_link_from(const char *p)
{
	return link(p, "new");
}
static int do_rename_to(const char *p)
{
	return rename("victim", p);
}
static int do_rename_from(const char *p)
{
	return rename(p, "new");
}
static int do_unlink(const char *p)
{
	return unlink(p);
}
static int do_rmdir(const char *p)
{
	return rmdir(p);
}
static int do_truncate(const char *p)
{
	return truncate(p, 0);
}
static int do_chmod(const char *p)
{
	return chmod(p, 0644);
}
static int do_chown(const char *p)
{
	return chown(p, 0, 0);
}
static int do_utimens(const char *p)
{
	return utimensat(AT_FDCWD, p, NULL, 0);
}
static int do_stat(const char *p)
{
	struct stat st;

	return stat(p, &st);
}
static int do_readlink(const char *p)
{
	char buf[16];

	return (int)readlink(p, buf, sizeof(buf));
}
static int do_opendir(const char *p)
{
	DIR *d = opendir(p);

	return d ? closedir(d) : -1;
}

static const struct {
	const char *name;
	int (*call)(const char *path);
	bool creates; /* its last component need not exist */
} calls[] = {
	{"open", do_open, false},
	{"open(O_CREAT)", do_create, true},
	{"mkdir", do_mkdir, true},
	{"mkfifo", do_mkfifo, true},
	{"mknod", do_mknod, true},
	{"symlink", do_symlink, true},
	{"link to", do_link_to, true},
	{"link from", do_link_from, false},
	{"rename to", do_rename_to, true},
	{"rename from", do_rename_from, false},
	{"unlink", do_unlink, false},
	{"rmdir", do_rmdir, false},
	{"truncate", do_truncate, false},
	{"chmod", do_chmod, false},
	{"chown", do_chown, false},
	{"utimensat", do_utimens, false},
	{"stat", do_stat, false},
	{"readlink", do_readlink, false},
	{"opendir", do_opendir, false},
};
#define N_CALLS (sizeof(calls) / sizeof(calls[0]))

static void all_calls(const char *path, int want)
{
	posix_put("file", "x");
	posix_put("victim", "x");
	for (size_t i = 0; i < N_CALLS; i++) {
		errno = 0;
		if (calls[i].call(path) >= 0 || errno != want)
			posix_fail(path, 0, calls[i].name, errno, want);
	}
}

static void a_file_as_a_directory(void)
{
	all_calls("file/x", ENOTDIR);
}

static void a_missing_directory(void)
{
	all_calls("missing/x", ENOENT);
}

static void a_loop_of_symlinks(void)
{
	ok(symlink("loop2", "loop1"));
	ok(symlink("loop1", "loop2"));
	all_calls("loop1/x", ELOOP);
}

static void an_empty_path(void)
{
	all_calls("", ENOENT);
}

static void a_name_of_256_bytes(void)
{
	char name[257];

	memset(name, 'n', 256);
	name[256] = 0;
	all_calls(name, ENAMETOOLONG);
}

static void a_path_of_4096_bytes(void)
{
	char path[4097];

	for (int i = 0; i < 4096; i++)
		path[i] = i % 2 ? '/' : '.';
	path[4096] = 0;
	all_calls(path, ENAMETOOLONG);
}

static void a_name_of_255_bytes_is_fine(void)
{
	char name[256];

	memset(name, 'n', 255);
	name[255] = 0;
	posix_put("file", "x");
	for (size_t i = 0; i < N_CALLS; i++) {
		if (!calls[i].creates)
			continue;
		posix_put("victim", "x");
		if (calls[i].call(name) < 0)
			posix_fail(calls[i].name, 0, "255 bytes", errno, 0);
		if (unlink(name))
			ok(rmdir(name));
	}
}

static void a_missing_name(void)
{
	posix_put("file", "x");
	for (size_t i = 0; i < N_CALLS; i++) {
		errno = 0;
		if (!calls[i].creates &&
		    (calls[i].call("missing") >= 0 || errno != ENOENT))
			posix_fail("missing", 0, calls[i].name, errno, ENOENT);
	}
}

static void an_existing_name(void)
{
	posix_put("file", "x");
	ok(mkdir("dir", 0755));
	ok(symlink("nowhere", "sym"));
	ok(mkfifo("fifo", 0644));
	for (int i = 0; i < 4; i++) {
		const char *p =
			(const char *[]){"file", "dir", "sym", "fifo"}[i];

		fails(EEXIST, mkdir(p, 0755));
		fails(EEXIST, mkfifo(p, 0644));
		fails(EEXIST, mknod(p, S_IFREG | 0644, 0));
		fails(EEXIST, symlink("target", p));
		fails(EEXIST, link("file", p));
		fails(EEXIST, open(p, O_CREAT | O_EXCL | O_WRONLY, 0644));
	}
}

static void the_wrong_type(void)
{
	posix_put("file", "x");
	ok(mkdir("dir", 0755));
	ok(symlink("file", "sym"));
	fails(EISDIR, unlink("dir"));
	fails(ENOTDIR, rmdir("file"));
	fails(ENOTDIR, rmdir("sym"));
	fails(EISDIR, open("dir", O_WRONLY));
	fails(EISDIR, open("dir", O_RDWR | O_CREAT, 0644));
	fails(EISDIR, truncate("dir", 0));
	fails(ENOTDIR, open("file", O_RDONLY | O_DIRECTORY));
	fails(ELOOP, open("sym", O_RDONLY | O_NOFOLLOW));
	fails(EINVAL, readlink("file", (char[8]){0}, 8));
	fails(EPERM, link("dir", "dir2"));
	fails(EINVAL, truncate("file", -1));
	fails(EINVAL, rmdir("dir/."));
	fails(ENOTDIR, chdir("file"));
}

static void a_directory_that_is_not_empty(void)
{
	ok(mkdir("dir", 0755));
	for (int i = 0; i < 4; i++) {
		switch (i) {
		case 0:
			posix_put("dir/x", "");
			break;
		case 1:
			ok(mkdir("dir/x", 0755));
			break;
		case 2:
			ok(symlink("a", "dir/x"));
			break;
		case 3:
			ok(mkfifo("dir/x", 0644));
			break;
		}
		fails(ENOTEMPTY, rmdir("dir"));
		ok(i == 1 ? rmdir("dir/x") : unlink("dir/x"));
	}
	ok(rmdir("dir"));
}

static void names_are_bytes(void)
{
	static const char *const names[] = {
		" ",   "\n",  "\\",	  "*",	  "\xff\xfe", "a:b",	  "{c}",
		"-rf", "...", "\x01\x7f", "%s%n", "..a",      "\xc3\xa9",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		posix_put(names[i], names[i]);
		truth(posix_holds(names[i], names[i]));
		ok(rename(names[i], "tmp"));
		ok(rename("tmp", names[i]));
		ok(unlink(names[i]));
		fails(ENOENT, unlink(names[i]));
	}
}

/* --- renames: every type onto every type --- */

enum { NONE, FILE_, FIFO, SYM, EMPTY, FULL, TYPES };

static void make(const char *path, int type)
{
	char below[64];

	snprintf(below, sizeof(below), "%s/below", path);
	switch (type) {
	case FILE_:
		posix_put(path, path);
		break;
	case FIFO:
		ok(mkfifo(path, 0600));
		break;
	case SYM:
		ok(symlink("nowhere", path));
		break;
	case FULL:
	case EMPTY:
		ok(mkdir(path, 0700));
		break;
	}
	if (type == FULL)
		posix_put(below, "");
}

static void clear(const char *path)
{
	char below[64];

	snprintf(below, sizeof(below), "%s/below", path);
	unlink(below);
	if (unlink(path))
		rmdir(path);
}

static bool is_dir(int type)
{
	return type == EMPTY || type == FULL;
}

static int rename_errno(int from, int to, unsigned flags)
{
	if (from == NONE)
		return ENOENT;
	if (flags == RENAME_EXCHANGE)
		return to == NONE ? ENOENT : 0;
	if (to == NONE)
		return 0;
	if (flags == RENAME_NOREPLACE)
		return EEXIST;
	if (is_dir(from) && !is_dir(to))
		return ENOTDIR;
	if (!is_dir(from) && is_dir(to))
		return EISDIR;
	return to == FULL ? ENOTEMPTY : 0;
}

static void rename_one(int from, int to, unsigned flags)
{
	int want = rename_errno(from, to, flags), r;
	struct stat a = {0}, b = {0}, now;
	char what[64];

	snprintf(what, sizeof(what), "rename of type %d onto %d, flags %u",
		 from, to, flags);
	make("d1/a", from);
	make("d2/b", to);
	lstat("d1/a", &a);
	lstat("d2/b", &b);
	errno = 0;
	r = renameat2(AT_FDCWD, "d1/a", AT_FDCWD, "d2/b", flags);
	if ((r ? errno : 0) != want)
		posix_fail(__FILE__, __LINE__, what, errno, want);
	if (!want) {
		now = posix_stat("d2/b");
		equal(now.st_ino, a.st_ino);
		equal(now.st_mode, a.st_mode);
		if (flags == RENAME_EXCHANGE)
			equal(posix_stat("d1/a").st_ino, b.st_ino);
		else
			fails(ENOENT, access("d1/a", F_OK));
	}
	clear("d1/a");
	clear("d2/b");
}

static void rename_of_every_type_onto_every_type(void)
{
	static const unsigned flags[] = {0, RENAME_NOREPLACE, RENAME_EXCHANGE};

	ok(mkdir("d1", 0755));
	ok(mkdir("d2", 0755));
	for (int f = 0; f < 3; f++) {
		for (int from = NONE; from < TYPES; from++) {
			for (int to = NONE; to < TYPES; to++)
				rename_one(from, to, flags[f]);
		}
	}
	equal(posix_stat("d1").st_nlink, 2);
	equal(posix_stat("d2").st_nlink, 2);
}

static void a_directory_cannot_go_below_itself(void)
{
	ok(mkdir("a", 0755));
	ok(mkdir("a/b", 0755));
	ok(mkdir("a/b/c", 0755));
	fails(EINVAL, rename("a", "a/x"));
	fails(EINVAL, rename("a", "a/b/c/x"));
	fails(ENOTEMPTY, rename("a/b/c", "a"));
	fails(EINVAL,
	      renameat2(AT_FDCWD, "a", AT_FDCWD, "a/b/c", RENAME_EXCHANGE));
	ok(rename("a/b/c", "c"));
	ok(rename("a", "c/a"));
	ok(access("c/a/b", F_OK));
}

static void a_moved_directory_counts_with_its_new_parent(void)
{
	ok(mkdir("a", 0755));
	ok(mkdir("b", 0755));
	ok(mkdir("a/d", 0755));
	equal(posix_stat("a").st_nlink, 3);
	equal(posix_stat("b").st_nlink, 2);
	ok(rename("a/d", "b/d"));
	equal(posix_stat("a").st_nlink, 2);
	equal(posix_stat("b").st_nlink, 3);
	equal(posix_stat("b/d/..").st_ino, posix_stat("b").st_ino);
	posix_put("a/f", "f");
	ok(renameat2(AT_FDCWD, "a/f", AT_FDCWD, "b/d", RENAME_EXCHANGE));
	equal(posix_stat("a").st_nlink, 3);
	equal(posix_stat("b").st_nlink, 2);
	equal(posix_stat("a/f/..").st_ino, posix_stat("a").st_ino);
}

static void two_names_of_one_file_stay_two(void)
{
	posix_put("a", "x");
	ok(link("a", "b"));
	ok(rename("a", "b"));
	equal(posix_stat("a").st_nlink, 2);
	equal(posix_stat("b").st_nlink, 2);
	ok(rename("a", "a"));
	equal(posix_stat("a").st_nlink, 2);
}

static void the_replaced_file_lives_on_while_open(void)
{
	char buf[8] = {0};
	int fd;

	posix_put("old", "old");
	posix_put("new", "new");
	fd = (int)ok(open("old", O_RDWR));
	ok(rename("new", "old"));
	equal(posix_fstat(fd).st_nlink, 0);
	equal(read(fd, buf, 8), 3);
	truth(!memcmp(buf, "old", 3));
	equal(write(fd, "more", 4), 4);
	equal(posix_fstat(fd).st_size, 7);
	truth(posix_holds("old", "new"));
	ok(close(fd));
}

static void dot_cannot_be_renamed(void)
{
	ok(mkdir("d", 0755));
	fails(EBUSY, rename(".", "e"));
	fails(EBUSY, rename("d/.", "e"));
	fails(EBUSY, rename("d/..", "e"));
	fails(EINVAL, renameat2(AT_FDCWD, "d", AT_FDCWD, "e",
				RENAME_EXCHANGE | RENAME_NOREPLACE));
}

/* --- links --- */

static void hard_links_share_everything(void)
{
	struct stat a, b;

	posix_put("a", "one");
	ok(link("a", "b"));
	ok(mkdir("d", 0755));
	ok(link("b", "d/c"));
	a = posix_stat("a");
	b = posix_stat("d/c");
	equal(a.st_ino, b.st_ino);
	equal(a.st_nlink, 3);
	ok(chmod("b", 0600));
	equal(posix_stat("d/c").st_mode & 07777, 0600);
	posix_put("d/c", "two");
	truth(posix_holds("a", "two"));
	ok(unlink("a"));
	equal(posix_stat("b").st_nlink, 2);
	ok(unlink("d/c"));
	equal(posix_stat("b").st_nlink, 1);
	truth(posix_holds("b", "two"));
}

static void links_to_what_is_no_file(void)
{
	ok(symlink("nowhere", "sym"));
	ok(link("sym", "sym2"));
	truth(S_ISLNK(posix_stat("sym2").st_mode));
	equal(posix_stat("sym2").st_nlink, 2);
	ok(mkfifo("fifo", 0600));
	ok(link("fifo", "fifo2"));
	equal(posix_stat("fifo").st_nlink, 2);
	ok(unlink("fifo"));
	equal(posix_stat("fifo2").st_nlink, 1);
}

static void an_unlinked_file_lives_on_while_open(void)
{
	char buf[16] = {0};
	int fd;

	posix_put("f", "before");
	fd = (int)ok(open("f", O_RDWR));
	ok(unlink("f"));
	fails(ENOENT, access("f", F_OK));
	equal(posix_fstat(fd).st_nlink, 0);
	equal(read(fd, buf, 16), 6);
	equal(write(fd, "after", 5), 5);
	equal(posix_fstat(fd).st_size, 11);
	ok(ftruncate(fd, 3));
	equal(posix_fstat(fd).st_size, 3);
	ok(fchmod(fd, 0600));
	equal(posix_fstat(fd).st_mode & 07777, 0600);
	posix_put("f", "another");
	equal(posix_fstat(fd).st_size, 3);
	ok(fsync(fd));
	ok(close(fd));
	truth(posix_holds("f", "another"));
}

static void a_removed_directory_is_empty(void)
{
	int fd;

	ok(mkdir("d", 0755));
	fd = (int)ok(open("d", O_RDONLY | O_DIRECTORY));
	ok(rmdir("d"));
	equal(posix_fstat(fd).st_nlink, 0);
	fails(ENOENT, openat(fd, "x", O_CREAT | O_WRONLY, 0644));
	fails(ENOENT, mkdirat(fd, "x", 0755));
	ok(close(fd));
}

static void symlinks_keep_their_target(void)
{
	char target[4096], back[4096];

	for (size_t len = 1; len < sizeof(target); len = len * 2 + 1) {
		memset(target, 't', len);
		target[len] = 0;
		ok(symlink(target, "s"));
		equal(posix_stat("s").st_size, len);
		equal(readlink("s", back, sizeof(back)), len);
		truth(!memcmp(target, back, len));
		ok(unlink("s"));
	}
	ok(mkdir("d", 0755));
	posix_put("d/f", "through");
	ok(symlink("d", "s"));
	truth(posix_holds("s/f", "through"));
	ok(symlink("s/f", "s2"));
	truth(posix_holds("s2", "through"));
}

const struct posix_case posix_errors[] = {
	{"a file as a directory is ENOTDIR", a_file_as_a_directory},
	{"a missing directory is ENOENT", a_missing_directory},
	{"a loop of symlinks is ELOOP", a_loop_of_symlinks},
	{"an empty path is ENOENT", an_empty_path},
	{"a name of 256 bytes is ENAMETOOLONG", a_name_of_256_bytes},
	{"a path of 4096 bytes is ENAMETOOLONG", a_path_of_4096_bytes},
	{"a name of 255 bytes is fine", a_name_of_255_bytes_is_fine},
	{"a missing name is ENOENT", a_missing_name},
	{"an existing name is EEXIST", an_existing_name},
	{"the wrong type has its own errno", the_wrong_type},
	{"a directory that is not empty stays", a_directory_that_is_not_empty},
	{"names are bytes", names_are_bytes},
	{NULL, NULL},
};

const struct posix_case posix_renames[] = {
	{"every type onto every type", rename_of_every_type_onto_every_type},
	{"a directory cannot go below itself",
	 a_directory_cannot_go_below_itself},
	{"a moved directory counts with its new parent",
	 a_moved_directory_counts_with_its_new_parent},
	{"two names of one file stay two", two_names_of_one_file_stay_two},
	{"the replaced file lives on while open",
	 the_replaced_file_lives_on_while_open},
	{"dot cannot be renamed", dot_cannot_be_renamed},
	{NULL, NULL},
};

const struct posix_case posix_links[] = {
	{"hard links share everything", hard_links_share_everything},
	{"links to what is no file", links_to_what_is_no_file},
	{"an unlinked file lives on while open",
	 an_unlinked_file_lives_on_while_open},
	{"a removed directory is empty", a_removed_directory_is_empty},
	{"symlinks keep their target", symlinks_keep_their_target},
	{NULL, NULL},
};

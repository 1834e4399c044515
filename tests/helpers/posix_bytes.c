// SPDX-License-Identifier: MIT
/* Bytes: writes, holes, mappings; directories as streams; special files. */
#include "tests/helpers/posix.h"

#include <dirent.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

#define PAGE 4096
#define MIB (1 << 20)

static bool all(const char *p, size_t n, char c)
{
	while (n && p[n - 1] == c)
		n--;
	return n == 0;
}

static bool range_is(int fd, off_t at, size_t n, char c)
{
	char *buf = malloc(n);
	bool is = pread(fd, buf, n, at) == (ssize_t)n && all(buf, n, c);

	free(buf);
	return is;
}

static void fill(int fd, off_t at, size_t n, char c)
{
	char *buf = malloc(n);

	memset(buf, c, n);
	equal(pwrite(fd, buf, n, at), n);
	free(buf);
}

static void appends_of_two_descriptors_do_not_overlap(void)
{
	int a = (int)ok(open("f", O_WRONLY | O_CREAT | O_APPEND, 0644));
	int b = (int)ok(open("f", O_WRONLY | O_APPEND));
	int r = (int)ok(open("f", O_RDONLY));
	char buf[400];

	for (int i = 0; i < 100; i++) {
		equal(write(a, "aa", 2), 2);
		equal(write(b, "bb", 2), 2);
	}
	equal(posix_fstat(a).st_size, 400);
	equal(read(r, buf, sizeof(buf)), 400);
	for (int i = 0; i < 400; i += 4)
		truth(!memcmp(buf + i, "aabb", 4));
	ok(close(a));
	ok(close(b));
	ok(close(r));
	equal(posix_stat("f").st_size, 400);
}

static void a_hole_reads_as_zeros(void)
{
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));
	struct stat st;

	fill(fd, 64 * MIB, PAGE, 'x');
	st = posix_fstat(fd);
	equal(st.st_size, 64 * MIB + PAGE);
	truth(st.st_blocks < 2048);
	truth(range_is(fd, 10 * MIB, PAGE, 0));
	equal(lseek(fd, 0, SEEK_DATA), 64 * MIB);
	equal(lseek(fd, 0, SEEK_HOLE), 0);
	equal(lseek(fd, 64 * MIB, SEEK_HOLE), 64 * MIB + PAGE);
	fails(ENXIO, lseek(fd, 65 * MIB, SEEK_DATA));
	equal(lseek(fd, 0, SEEK_END), 64 * MIB + PAGE);
	ok(close(fd));
	truth(posix_stat("f").st_blocks < 2048);
}

static void truncate_cuts_and_extends(void)
{
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));

	fill(fd, 0, 3 * PAGE, 'x');
	ok(ftruncate(fd, PAGE + 5));
	equal(posix_fstat(fd).st_size, PAGE + 5);
	ok(ftruncate(fd, 3 * PAGE));
	truth(range_is(fd, PAGE + 5, 2 * PAGE - 5, 0));
	truth(range_is(fd, 0, PAGE + 5, 'x'));
	ok(close(fd));
	ok(truncate("f", 7));
	equal(posix_stat("f").st_size, 7);
	ok(truncate("f", 100));
	fd = (int)ok(open("f", O_RDONLY));
	truth(range_is(fd, 0, 7, 'x'));
	truth(range_is(fd, 7, 93, 0));
	equal(pread(fd, &(char[4]){0}, 4, 100), 0);
	fails(EBADF, write(fd, "x", 1));
	fails(EINVAL, ftruncate(fd, 0));
	ok(close(fd));
	fd = (int)ok(open("f", O_RDWR | O_TRUNC));
	equal(posix_fstat(fd).st_size, 0);
	ok(close(fd));
	equal(posix_stat("f").st_size, 0);
}

static void fallocate_in_every_mode(void)
{
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));
	int keep = FALLOC_FL_KEEP_SIZE;

	ok(fallocate(fd, 0, 0, 8 * PAGE));
	equal(posix_fstat(fd).st_size, 8 * PAGE);
	ok(fallocate(fd, keep, 8 * PAGE, 8 * PAGE));
	equal(posix_fstat(fd).st_size, 8 * PAGE);
	truth(posix_fstat(fd).st_blocks >= 16 * PAGE / 512);
	fill(fd, 0, 8 * PAGE, 'x');
	ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | keep, PAGE, 2 * PAGE));
	truth(range_is(fd, 0, PAGE, 'x'));
	truth(range_is(fd, PAGE, 2 * PAGE, 0));
	truth(range_is(fd, 3 * PAGE, 5 * PAGE, 'x'));
	if (fallocate(fd, FALLOC_FL_ZERO_RANGE, 7 * PAGE, 2 * PAGE) == 0) {
		equal(posix_fstat(fd).st_size, 9 * PAGE);
		truth(range_is(fd, 7 * PAGE, 2 * PAGE, 0));
	} else {
		equal(errno, EOPNOTSUPP);
	}
	fails(EINVAL, fallocate(fd, 0, 0, 0));
	ok(close(fd));
}

static void direct_io_works_beside_the_cache(void)
{
	int fd = open("f", O_RDWR | O_CREAT | O_DIRECT, 0644);
	int cached;
	char *buf = NULL;

	if (fd < 0 && errno == EINVAL)
		posix_skip("no O_DIRECT");
	ok(fd);
	truth(posix_memalign((void **)&buf, PAGE, 2 * MIB) == 0);
	memset(buf, 'd', 2 * MIB);
	equal(write(fd, buf, 2 * MIB), 2 * MIB);
	cached = (int)ok(open("f", O_RDWR));
	truth(range_is(cached, 0, 2 * MIB, 'd'));
	fill(cached, PAGE, PAGE, 'c');
	equal(pread(fd, buf, 3 * PAGE, 0), 3 * PAGE);
	truth(all(buf, PAGE, 'd') && all(buf + PAGE, PAGE, 'c') &&
	      all(buf + 2 * PAGE, PAGE, 'd'));
	ok(close(cached));
	ok(close(fd));
	free(buf);
}

static void a_copy_inside_the_filesystem(void)
{
	int a = (int)ok(open("a", O_RDWR | O_CREAT, 0644));
	int b = (int)ok(open("b", O_RDWR | O_CREAT, 0644));
	off_t from = PAGE, to = 0;
	ssize_t n, left = 2 * MIB;

	fill(a, 0, PAGE, 'x');
	fill(a, PAGE, 2 * MIB, 'y');
	while (left &&
	       (n = copy_file_range(a, &from, b, &to, (size_t)left, 0)) > 0)
		left -= n;
	equal(left, 0);
	truth(range_is(b, 0, 2 * MIB, 'y'));
	equal(posix_fstat(b).st_size, 2 * MIB);
	ok(close(a));
	ok(close(b));
}

static void close_by_another_descriptor_loses_nothing(void)
{
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));
	int dup_fd = (int)ok(dup(fd));

	equal(write(fd, "one", 3), 3);
	ok(close(fd));
	equal(posix_stat("f").st_size, 3);
	equal(write(dup_fd, "two", 3), 3);
	equal(posix_stat("f").st_size, 6);
	ok(close(dup_fd));
	equal(posix_stat("f").st_size, 6);
	truth(posix_holds("f", "onetwo"));
}

static void a_size_is_right_at_once(void)
{
	for (int i = 1; i <= 200; i++) {
		int fd = (int)ok(open("f", O_WRONLY | O_CREAT | O_TRUNC, 0644));

		fill(fd, 0, (size_t)i * 100, 'x');
		equal(posix_fstat(fd).st_size, i * 100);
		ok(close(fd));
		equal(posix_stat("f").st_size, i * 100);
	}
}

/* Returns once the program runs: exec closes the pipe. */
static pid_t start_program(int *stdin_of_it)
{
	int in[2], running[2];
	pid_t pid;

	ok(pipe2(in, O_CLOEXEC));
	ok(pipe2(running, O_CLOEXEC));
	pid = (pid_t)ok(fork());
	if (pid == 0) {
		dup2(in[0], 0);
		execl("./prog", "prog", (char *)NULL);
		_exit(1);
	}
	close(running[1]);
	close(in[0]);
	equal(read(running[0], &(char){0}, 1), 0);
	*stdin_of_it = in[1];
	return pid;
}

static void a_running_program_is_busy(void)
{
	int in, status;
	pid_t pid;

	if (system("cp /bin/cat prog && chmod 755 prog"))
		posix_skip("no cp");
	pid = start_program(&in);
	fails(ETXTBSY, open("prog", O_WRONLY));
	ok(unlink("prog"));
	close(in);
	equal(waitpid(pid, &status, 0), pid);
	equal(status, 0);
}

/* --- mappings --- */

static void a_shared_mapping_is_the_file(void)
{
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));
	char *map;

	ok(ftruncate(fd, 4 * PAGE));
	map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED && errno == ENODEV)
		posix_skip("this rung maps nothing for writing");
	truth(map != MAP_FAILED);
	memset(map + PAGE, 'm', PAGE);
	ok(msync(map, 4 * PAGE, MS_SYNC));
	truth(range_is(fd, PAGE, PAGE, 'm'));
	fill(fd, 0, PAGE, 'w');
	truth(all(map, PAGE, 'w'));
	ok(close(fd));
	memset(map + 2 * PAGE, 'n', PAGE); /* after close */
	ok(msync(map, 4 * PAGE, MS_SYNC));
	ok(munmap(map, 4 * PAGE));
	fd = (int)ok(open("f", O_RDONLY));
	truth(range_is(fd, 0, PAGE, 'w'));
	truth(range_is(fd, PAGE, PAGE, 'm'));
	truth(range_is(fd, 2 * PAGE, PAGE, 'n'));
	ok(close(fd));
}

static void a_private_mapping_is_not(void)
{
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));
	char *map;

	fill(fd, 0, PAGE, 'a');
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_POPULATE, fd, 0);
	truth(map != MAP_FAILED);
	truth(all(map, PAGE, 'a'));
	memset(map, 'p', PAGE);
	truth(range_is(fd, 0, PAGE, 'a'));
	ok(munmap(map, PAGE));
	ok(close(fd));
}

static void a_mapping_outlives_the_name(void)
{
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));
	char *map;

	fill(fd, 0, PAGE, 'a');
	map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED && errno == ENODEV)
		posix_skip("this rung maps nothing shared");
	ok(close(fd));
	ok(unlink("f"));
	posix_put("f", "other");
	truth(all(map, PAGE, 'a'));
	ok(munmap(map, PAGE));
}

/* --- directories --- */

#define MANY 1600 /* several pages of Redis and of the kernel */

static int number(const char *name)
{
	int n = -1;

	return sscanf(name, "name-%d", &n) == 1 ? n : -1;
}

static void make_many(void)
{
	char name[32];

	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "d/name-%06d", i);
		ok(mknod(name, S_IFREG | 0644, 0));
	}
}

static void a_large_directory_is_listed_once_each(void)
{
	char *times = calloc(MANY, 1);
	struct dirent *e;
	int dots = 0, n;
	DIR *d;

	ok(mkdir("d", 0755));
	make_many();
	d = opendir("d");
	for (int round = 1; round <= 2; round++) {
		while ((e = readdir(d))) {
			n = number(e->d_name);
			dots += n < 0;
			if (n >= 0 && n < MANY)
				times[n]++;
			truth(n < 0 || e->d_type == DT_REG);
		}
		truth(all(times, MANY, (char)round));
		equal(dots, 2 * round);
		rewinddir(d);
	}
	closedir(d);
	free(times);
}

static void a_directory_is_emptied_while_it_is_read(void)
{
	struct dirent *e;
	char name[300];
	DIR *d;

	ok(mkdir("d", 0755));
	make_many();
	d = opendir("d");
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "d/%s", e->d_name);
		ok(unlink(name));
	}
	closedir(d);
	ok(rmdir("d"));
}

static void a_place_in_a_directory_is_found_again(void)
{
	long place[300];
	char name[300][256];
	struct dirent *e;
	int n = 0;
	DIR *d;

	for (int i = 0; i < 300; i++) {
		snprintf(name[0], 256, "name-%06d", i);
		posix_put(name[0], "");
	}
	d = opendir(".");
	place[0] = telldir(d);
	while (n < 300 && (e = readdir(d))) {
		snprintf(name[n], 256, "%s", e->d_name);
		if (++n < 300)
			place[n] = telldir(d);
	}
	for (int i = 299; i >= 0; i -= 7) {
		seekdir(d, place[i]);
		e = readdir(d);
		truth(e && !strcmp(e->d_name, name[i]));
	}
	closedir(d);
}

static void entries_have_number_and_type(void)
{
	struct dirent *e;
	DIR *d;

	ok(mkdir("d", 0755));
	posix_put("d/f", "");
	ok(mkdir("d/d", 0755));
	ok(symlink("x", "d/s"));
	ok(mkfifo("d/p", 0600));
	d = opendir("d");
	while ((e = readdir(d))) {
		struct stat st;

		ok(fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW));
		equal(e->d_type, IFTODT(st.st_mode));
		equal(e->d_ino, st.st_ino);
	}
	closedir(d);
}

static void a_new_name_shows_after_rewinddir(void)
{
	struct dirent *e;
	int found = 0;
	DIR *d;

	ok(mkdir("d", 0755));
	d = opendir("d");
	while (readdir(d))
		;
	posix_put("d/new", "");
	rewinddir(d);
	while ((e = readdir(d)))
		found += !strcmp(e->d_name, "new");
	equal(found, 1);
	closedir(d);
}

/* --- special files and locks --- */

static void a_fifo_carries_bytes(void)
{
	char buf[8] = {0};
	int r, w;

	ok(mkfifo("p", 0600));
	truth(S_ISFIFO(posix_stat("p").st_mode));
	r = (int)ok(open("p", O_RDONLY | O_NONBLOCK));
	w = (int)ok(open("p", O_WRONLY | O_NONBLOCK));
	equal(write(w, "fifo", 4), 4);
	equal(read(r, buf, 8), 4);
	truth(!memcmp(buf, "fifo", 4));
	ok(close(r));
	ok(close(w));
}

static void a_device_keeps_its_number(void)
{
	struct stat st;

	ok(mknod("null", S_IFCHR | 0666, makedev(1, 3)));
	st = posix_stat("null");
	truth(S_ISCHR(st.st_mode));
	equal(st.st_rdev, makedev(1, 3));
	ok(mknod("blk", S_IFBLK | 0600, makedev(259, 1048575)));
	equal(posix_stat("blk").st_rdev, makedev(259, 1048575));
	ok(rename("blk", "blk2"));
	truth(S_ISBLK(posix_stat("blk2").st_mode));
}

static void a_socket_can_be_reached(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "sock"};
	int s = (int)ok(socket(AF_UNIX, SOCK_STREAM, 0));
	int c = (int)ok(socket(AF_UNIX, SOCK_STREAM, 0));

	ok(bind(s, (struct sockaddr *)&a, sizeof(a)));
	ok(listen(s, 1));
	truth(S_ISSOCK(posix_stat("sock").st_mode));
	ok(connect(c, (struct sockaddr *)&a, sizeof(a)));
	ok(close(c));
	ok(close(s));
	ok(unlink("sock"));
}

static void lock_taken(void)
{
	struct flock l = {.l_type = F_WRLCK,
			  .l_whence = SEEK_SET,
			  .l_start = 10,
			  .l_len = 10};
	int fd = (int)ok(open("f", O_RDWR));

	fails(EAGAIN, fcntl(fd, F_SETLK, &l));
	ok(fcntl(fd, F_GETLK, &l));
	equal(l.l_type, F_WRLCK);
	l.l_type = F_WRLCK;
	l.l_start = 30;
	ok(fcntl(fd, F_SETLK, &l));
	fails(EWOULDBLOCK, flock(fd, LOCK_EX | LOCK_NB));
	ok(close(fd));
}

static void locks_keep_others_out(void)
{
	struct flock l = {.l_type = F_WRLCK,
			  .l_whence = SEEK_SET,
			  .l_start = 0,
			  .l_len = 20};
	int fd = (int)ok(open("f", O_RDWR | O_CREAT, 0644));

	ok(fcntl(fd, F_SETLK, &l));
	ok(flock(fd, LOCK_EX));
	posix_as(0, 0, 0, lock_taken);
	ok(close(fd));
}

static void statvfs_is_sane(void)
{
	struct statvfs st;

	ok(statvfs(".", &st));
	equal(st.f_namemax, 255);
	truth(st.f_bsize > 0 && st.f_blocks > 0);
	truth(st.f_bavail <= st.f_blocks);
}

const struct posix_case posix_data[] = {
	{"appends of two descriptors do not overlap",
	 appends_of_two_descriptors_do_not_overlap},
	{"a hole reads as zeros", a_hole_reads_as_zeros},
	{"truncate cuts and extends", truncate_cuts_and_extends},
	{"fallocate in every mode", fallocate_in_every_mode},
	{"direct I/O works beside the cache", direct_io_works_beside_the_cache},
	{"a copy inside the filesystem", a_copy_inside_the_filesystem},
	{"a close by another descriptor loses nothing",
	 close_by_another_descriptor_loses_nothing},
	{"a size is right at once", a_size_is_right_at_once},
	{"a running program is busy", a_running_program_is_busy},
	{NULL, NULL},
};

const struct posix_case posix_mappings[] = {
	{"a shared mapping is the file", a_shared_mapping_is_the_file},
	{"a private mapping is not", a_private_mapping_is_not},
	{"a mapping outlives the name", a_mapping_outlives_the_name},
	{NULL, NULL},
};

const struct posix_case posix_dirs[] = {
	{"a large directory is listed once each",
	 a_large_directory_is_listed_once_each},
	{"a directory is emptied while it is read",
	 a_directory_is_emptied_while_it_is_read},
	{"a place in a directory is found again",
	 a_place_in_a_directory_is_found_again},
	{"entries have number and type", entries_have_number_and_type},
	{"a new name shows after rewinddir", a_new_name_shows_after_rewinddir},
	{NULL, NULL},
};

const struct posix_case posix_special[] = {
	{"a fifo carries bytes", a_fifo_carries_bytes},
	{"a device keeps its number", a_device_keeps_its_number},
	{"a socket can be reached", a_socket_can_be_reached},
	{"locks keep others out", locks_keep_others_out},
	{"statvfs is sane", statvfs_is_sane},
	{NULL, NULL},
};

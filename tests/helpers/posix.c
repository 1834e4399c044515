// SPDX-License-Identifier: MIT
/*
 * posix GROUP… - run groups of cases in the current directory; see posix.h.
 * Without arguments: list the groups. Exit code 1 if anything failed.
 */
#include "tests/helpers/posix.h"

#include <grp.h>
#include <sys/wait.h>

static const struct {
	const char *name;
	const struct posix_case *cases;
} groups[] = {
	{"errors", posix_errors},     {"renames", posix_renames},
	{"links", posix_links},	      {"times", posix_times},
	{"modes", posix_modes},	      {"data", posix_data},
	{"mappings", posix_mappings}, {"dirs", posix_dirs},
	{"xattrs", posix_xattrs},     {"special", posix_special},
};

static int n_failures;
static int notes; /* a file: children of a case count in it too */

void posix_fail(const char *file, int line, const char *what, long long got,
		long long want)
{
	const char *base = strrchr(file, '/');
	char note = 'x';

	printf("    %s:%d: %s: got %lld (%s), wanted %lld (%s)\n",
	       base ? base + 1 : file, line, what, got,
	       got > 0 && got < 134 ? strerror((int)got) : "-", want,
	       want > 0 && want < 134 ? strerror((int)want) : "-");
	fflush(stdout);
	if (write(notes, &note, 1) != 1)
		abort();
}

void posix_skip(const char *why)
{
	printf("    skipped: %s\n", why);
	fflush(stdout);
	_exit(0);
}

struct stat posix_stat(const char *path)
{
	struct stat st = {0};

	if (lstat(path, &st))
		posix_fail(__FILE__, __LINE__, path, errno, 0);
	return st;
}

struct stat posix_fstat(int fd)
{
	struct stat st = {0};

	ok(fstat(fd, &st));
	return st;
}

void posix_put(const char *path, const char *text)
{
	int fd = (int)ok(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));

	equal(write(fd, text, strlen(text)), strlen(text));
	ok(close(fd));
}

bool posix_holds(const char *path, const char *text)
{
	char buf[4096];
	int fd = (int)ok(open(path, O_RDONLY));
	ssize_t n = read(fd, buf, sizeof(buf));

	close(fd);
	return n == (ssize_t)strlen(text) && !memcmp(buf, text, (size_t)n);
}

int64_t posix_ns(struct timespec t)
{
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Stamps are of the coarse clock, whose tick is at most 10 ms. */
void posix_tick(void)
{
	struct timespec now, past, pause = {.tv_nsec = 1000000};

	clock_gettime(CLOCK_REALTIME, &past);
	do {
		nanosleep(&pause, NULL);
		clock_gettime(CLOCK_REALTIME_COARSE, &now);
	} while (posix_ns(now) <= posix_ns(past));
}

static bool run_child(void (*fn)(void))
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		fn();
		fflush(stdout);
		_exit(0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static struct {
	uid_t uid;
	gid_t gid, more;
	void (*fn)(void);
} as;

static void become(void)
{
	ok(setgroups(as.more ? 1 : 0, &as.more));
	ok(setresgid(as.gid, as.gid, as.gid));
	ok(setresuid(as.uid, as.uid, as.uid));
	as.fn();
}

void posix_as(uid_t uid, gid_t gid, gid_t more, void (*fn)(void))
{
	as.uid = uid;
	as.gid = gid;
	as.more = more;
	as.fn = fn;
	truth(run_child(become));
}

static const struct posix_case *running;

static void enter_and_run(void)
{
	umask(022);
	running->run();
}

static void remove_tree(const char *path)
{
	char command[512];

	snprintf(command, sizeof(command), "rm -rf '%s'", path);
	if (system(command))
		posix_fail(__FILE__, __LINE__, command, 1, 0);
}

static void run_case(const struct posix_case *c, const char *group, int n)
{
	char dir[64];
	off_t before = lseek(notes, 0, SEEK_END);
	bool failed;

	snprintf(dir, sizeof(dir), "posix-%s-%d", group, n);
	remove_tree(dir);
	ok(mkdir(dir, 0755));
	ok(chmod(dir, 0755));
	ok(chdir(dir));
	running = c;
	if (!run_child(enter_and_run))
		posix_fail(__FILE__, __LINE__, "the case's process ended", 1,
			   0);
	ok(chdir(".."));
	remove_tree(dir);
	failed = lseek(notes, 0, SEEK_END) != before;
	n_failures += failed;
	printf("  %s %s: %s\n", failed ? "FAIL" : "ok  ", group, c->name);
}

static int run_group(const char *name)
{
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
		if (strcmp(groups[i].name, name))
			continue;
		for (int n = 0; groups[i].cases[n].name; n++)
			run_case(&groups[i].cases[n], name, n);
		return 0;
	}
	fprintf(stderr, "posix: no group %s\n", name);
	return 2;
}

int main(int argc, char **argv)
{
	FILE *f = tmpfile();

	if (argc < 2 || !f) {
		for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
			puts(groups[i].name);
		return f ? 0 : 2;
	}
	notes = fileno(f);
	fcntl(notes, F_SETFL, O_APPEND);
	for (int i = 1; i < argc; i++) {
		if (run_group(argv[i]))
			return 2;
	}
	printf("  %d cases failed\n", n_failures);
	return n_failures != 0;
}

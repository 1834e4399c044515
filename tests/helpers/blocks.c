// SPDX-License-Identifier: MIT
/*
 * Many blocks at once, as an inference engine stores and loads them.
 *
 * blocks [-n COUNT] [-f FIRST] [-s BYTES] [-t SECONDS] [-p] [-d]
 *        store|check|exist|open DIR
 *
 * store: create DIR/b<n>.tmp, one write, close, rename to DIR/b<n> (-d: create
 *        under the final name); -p prints each number once its rename returned
 * check: every b<n> that is there must hold its whole pattern (seed: n);
 *        prints "present P absent A"; -p prints the numbers that are there
 * exist: the same by access(2) only
 * open:  open and close each (recency), which must be there
 *
 * -t: a block that takes longer than so many seconds ends it
 *
 * Exit 0; 1 with a line on stderr for a wrong byte or an errno.
 */
#include "tests/helpers/pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct {
	uint64_t first, count;
	size_t bytes;
	unsigned limit_s;
	bool print, direct;
	const char *dir;
	char *buf;
} o = {.count = 1, .bytes = 1 << 20};

static int fail(const char *what, const char *path)
{
	fprintf(stderr, "blocks: %s %s: %s\n", what, path, strerror(errno));
	return -1;
}

static int write_file(const char *path, uint64_t seed)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_TRUNC, 0644);
	ssize_t n;

	if (fd < 0)
		return fail("create", path);
	pattern_fill(o.buf, seed, 0, o.bytes);
	n = write(fd, o.buf, o.bytes);
	if (n < 0) {
		int saved = errno;

		close(fd);
		errno = saved;
		return fail("write", path);
	}
	if ((size_t)n != o.bytes) {
		fprintf(stderr, "blocks: write %s: %zd of %zu\n", path, n,
			o.bytes);
		close(fd);
		return -1;
	}
	return close(fd) ? fail("close", path) : 0;
}

static int store(uint64_t n, const char *path)
{
	char tmp[PATH_MAX];

	if (o.direct)
		return write_file(path, n) ? -1 : 1;
	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	if (write_file(tmp, n))
		return -1;
	return rename(tmp, path) ? fail("rename", tmp) : 1;
}

/* 1 it is there and right, 0 it is not there, -1 otherwise */
static int check(uint64_t n, const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t got;
	long at;

	if (fd < 0)
		return errno == ENOENT ? 0 : fail("open", path);
	got = read(fd, o.buf, o.bytes + 1);
	if (got < 0) {
		fail("read", path);
		close(fd);
		return -1;
	}
	close(fd);
	if ((size_t)got != o.bytes) {
		fprintf(stderr, "blocks: %s: %zd bytes, not %zu\n", path, got,
			o.bytes);
		return -1;
	}
	at = pattern_differs(o.buf, n, 0, o.bytes);
	if (at < 0)
		return 1;
	fprintf(stderr, "blocks: %s: wrong byte at %ld\n", path, at);
	return -1;
}

static int exist(uint64_t n, const char *path)
{
	(void)n;
	if (!access(path, R_OK))
		return 1;
	return errno == ENOENT ? 0 : fail("access", path);
}

static int touch(uint64_t n, const char *path)
{
	int fd = open(path, O_RDONLY);

	(void)n;
	if (fd < 0)
		return fail("open", path);
	close(fd);
	return 1;
}

static int each(int (*fn)(uint64_t n, const char *path))
{
	uint64_t present = 0;

	for (uint64_t n = o.first; n < o.first + o.count; n++) {
		char path[PATH_MAX - 8];
		int r;

		snprintf(path, sizeof(path), "%s/b%06llu", o.dir,
			 (unsigned long long)n);
		alarm(o.limit_s);
		r = fn(n, path);
		alarm(0);
		if (r < 0)
			return 1;
		if (r > 0 && o.print) {
			printf("%llu\n", (unsigned long long)n);
			fflush(stdout);
		}
		present += (uint64_t)r;
	}
	if (fn != store && !o.print)
		printf("present %llu absent %llu\n",
		       (unsigned long long)present,
		       (unsigned long long)(o.count - present));
	return 0;
}

int main(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "n:f:s:t:pd")) != -1) {
		if (c == 'n')
			o.count = strtoull(optarg, NULL, 0);
		else if (c == 'f')
			o.first = strtoull(optarg, NULL, 0);
		else if (c == 's')
			o.bytes = strtoull(optarg, NULL, 0);
		else if (c == 't')
			o.limit_s = (unsigned)atoi(optarg);
		else if (c == 'p')
			o.print = true;
		else if (c == 'd')
			o.direct = true;
		else
			return 2;
	}
	if (argc - optind != 2)
		return 2;
	o.dir = argv[optind + 1];
	o.buf = malloc(o.bytes + 1);
	if (!o.buf)
		return 2;
	switch (argv[optind][0]) {
	case 's':
		return each(store);
	case 'c':
		return each(check);
	case 'e':
		return each(exist);
	case 'o':
		return each(touch);
	}
	return 2;
}

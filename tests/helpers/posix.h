/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_POSIX_H
#define KVFS_TESTS_POSIX_H

/*
 * What POSIX and Linux promise of a filesystem, checked in the current
 * directory by system calls alone. `posix GROUP…` runs groups of cases; each
 * case begins in a fresh, empty directory and a failure says file, line and
 * what came instead.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct posix_case {
	const char *name; /* a sentence */
	void (*run)(void);
};

extern const struct posix_case posix_errors[], posix_renames[], posix_links[],
	posix_times[], posix_modes[], posix_data[], posix_mappings[],
	posix_dirs[], posix_xattrs[], posix_special[];

void posix_fail(const char *file, int line, const char *what, long long got,
		long long want);
/** posix_skip - this case cannot be run here. */
void posix_skip(const char *why) __attribute__((noreturn));

/* The call succeeds; its value. */
#define ok(call)                                                         \
	({                                                               \
		long long ok_r = (call);                                 \
		if (ok_r < 0)                                            \
			posix_fail(__FILE__, __LINE__, #call, errno, 0); \
		ok_r;                                                    \
	})
/* The call fails with this errno. */
#define fails(want, call)                                                   \
	do {                                                                \
		errno = 0;                                                  \
		if ((call) >= 0)                                            \
			posix_fail(__FILE__, __LINE__, #call, 0, want);     \
		else if (errno != (want))                                   \
			posix_fail(__FILE__, __LINE__, #call, errno, want); \
	} while (0)
#define equal(got, want)                                                     \
	do {                                                                 \
		long long eq_g = (long long)(got), eq_w = (long long)(want); \
		if (eq_g != eq_w)                                            \
			posix_fail(__FILE__, __LINE__, #got, eq_g, eq_w);    \
	} while (0)
#define truth(what) equal(!!(what), 1)

struct stat posix_stat(const char *path); /* lstat */
struct stat posix_fstat(int fd);
void posix_put(const char *path, const char *text); /* create or replace */
bool posix_holds(const char *path, const char *text);
/** posix_tick - return once a new stamp differs from all given before. */
void posix_tick(void);
/** posix_as - run fn as this user (with one more group, or 0) in a child;
 *  its failures count. */
void posix_as(uid_t uid, gid_t gid, gid_t more, void (*fn)(void));
int64_t posix_ns(struct timespec t);

#endif

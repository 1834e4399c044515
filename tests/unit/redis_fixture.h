/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_REDIS_FIXTURE_H
#define KVFS_TESTS_REDIS_FIXTURE_H

/* A folder of the test's own, and in it a redis-server on a unix socket. */

#include <stdint.h>

struct redis_cmd;
struct redis_reply;

void folder_up(void);
void folder_down(void); /* and the server's end */
/** path_of - a path in the folder; good for a few calls of this thread. */
char *path_of(const char *name);

/* --- the server: arguments after the fixture's own, ended by NULL ------- */
void server_start(const char *arg, ...);
void server_stop(void); /* SIGKILL */
void server_signal(int sig);
const char *server_url(void);
/** server_connect - a socket to it, or -1. */
int server_connect(void);
/** server_call - one command; the caller frees the reply, which may be an
 * error. */
struct redis_reply *server_call(const struct redis_cmd *cmd);
/** server_text - one command, words parted by blanks; the reply as text:
 *  arrays are joined by blanks, an error is its message. Good until the next
 *  call. */
const char *server_text(const char *words);
int64_t server_int(const char *words);

/* Until it holds, at most a minute. */
#define WAIT_FOR(condition)                                        \
	do {                                                       \
		int64_t wait_end = clock_now_ns() + 60 * NS_PER_S; \
		while (!(condition)) {                             \
			ck_assert_msg(clock_now_ns() < wait_end,   \
				      "never: " #condition);       \
			wait_ms(2);                                \
		}                                                  \
	} while (0)

void wait_ms(int ms);

#endif

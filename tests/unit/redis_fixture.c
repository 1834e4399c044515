// SPDX-License-Identifier: MIT
#include "redis_fixture.h"

#include <check.h>
#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "meta/redis.h"
#include "meta/url.h"

extern char **environ;

static char top[64];
static pid_t server_pid;

void wait_ms(int ms)
{
	poll(NULL, 0, ms);
}

/* --- the folder -------------------------------------------------------- */

char *path_of(const char *name)
{
	static _Thread_local char path[8][128];
	static _Thread_local unsigned i;
	char *p = path[i++ % 8];

	snprintf(p, sizeof(path[0]), "%s/%s", top, name);
	return p;
}

void folder_up(void)
{
	const char *tmp = getenv("TMPDIR");

	/* a socket's path has 107 bytes */
	snprintf(top, sizeof(top), "%s/redis.XXXXXX",
		 tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(top));
}

static int entry_remove(const char *path, const struct stat *st, int type,
			struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	remove(path);
	return 0;
}

void folder_down(void)
{
	server_stop();
	nftw(top, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- the server -------------------------------------------------------- */

int server_connect(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path_of("redis.sock"));
	if (!connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fd;
	close(fd);
	return -1;
}

static bool server_answers(void)
{
	cleanup_close int fd = server_connect();
	int status;

	if (fd < 0 && waitpid(server_pid, &status, WNOHANG) == server_pid)
		ck_abort_msg("redis-server ended with status %#x: see %s",
			     status, path_of("redis.log"));
	return fd >= 0;
}

/* Spawned and not forked: nodes have threads by then, and what they hold at
 * that moment would be held in the child. */
void server_start(const char *arg, ...)
{
	char *sock = path_of("redis.sock");
	char *argv[32] = {
		"setpriv",   "--pdeathsig", "KILL",	    "redis-server",
		"--port",    "0",	    "--unixsocket", sock,
		"--dir",     top,	    "--appendonly", "no",
		"--logfile", "redis.log",   "--save",	    ""};
	int n = 16;
	va_list ap;

	va_start(ap, arg);
	for (; arg; arg = va_arg(ap, const char *))
		argv[n++] = (char *)arg;
	va_end(ap);
	unlink(sock);
	ck_assert_int_eq(
		posix_spawnp(&server_pid, argv[0], NULL, NULL, argv, environ),
		0);
	WAIT_FOR(server_answers());
}

void server_signal(int sig)
{
	ck_assert_int_eq(kill(server_pid, sig), 0);
	if (sig == SIGSTOP) /* until it has stopped */
		ck_assert_int_eq(waitpid(server_pid, NULL, WUNTRACED),
				 server_pid);
}

void server_stop(void)
{
	if (!server_pid)
		return;
	kill(server_pid, SIGKILL);
	waitpid(server_pid, NULL, 0);
	server_pid = 0;
}

const char *server_url(void)
{
	static char url[128];

	snprintf(url, sizeof(url), "unix://%s", path_of("redis.sock"));
	return url;
}

struct redis_reply *server_call(const struct redis_cmd *cmd)
{
	struct redis_config config = {.name = "test"};
	cleanup_free struct url *url = calloc(1, sizeof(*url));
	struct redis_reply *reply = NULL;
	struct redis *r;
	const char *why;

	ck_assert_int_eq(url_parse(url, server_url(), &why), 0);
	config.url = url;
	ck_assert_int_eq(redis_open(&r, &config, clock_now_ns() + 5 * NS_PER_S),
			 0);
	ck_assert_int_eq(redis_call(r, REDIS_WAIT,
				    clock_now_ns() + 10 * NS_PER_S, cmd,
				    &reply),
			 0);
	redis_close(r);
	return reply;
}

static void reply_write(FILE *f, const struct redis_reply *r)
{
	int64_t v;

	if (redis_reply_type(r) == REPLY_ARRAY) {
		for (size_t i = 0; i < redis_reply_count(r); i++) {
			if (i)
				fputc(' ', f);
			reply_write(f, redis_reply_at(r, i));
		}
	} else if (redis_reply_type(r) == REPLY_INTEGER) {
		redis_reply_int(r, &v);
		fprintf(f, "%lld", (long long)v);
	} else {
		fputs(redis_reply_text(r), f);
	}
}

const char *server_text(const char *words)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	static char *text;
	size_t n;
	FILE *f;

	redis_cmd_words(&c, words);
	reply = server_call(&c);
	free(text);
	f = open_memstream(&text, &n);
	reply_write(f, reply);
	fclose(f);
	return text;
}

int64_t server_int(const char *words)
{
	return atoll(server_text(words));
}

// SPDX-License-Identifier: MIT
#include "meta/embedded.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#define PAUSE_MIN_MS 20
#define PAUSE_MAX_MS 5000
/* A server that lived this long was healthy: the pauses start anew. */
#define HEALTHY_NS (10 * NS_PER_S)

struct embedded {
	char *dir;
	char socket[4096];
	char server[4096]; /* the program */
	int dir_fd, lock_fd, wake_fd;
	void (*restarted)(void *ctx);
	void *ctx;
	pthread_t thread;
	bool has_thread;
	_Atomic bool stop;
	_Atomic pid_t pid;
	_Atomic uint64_t restarts;
	int first_err; /* of the first start; read after `started` */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started;
};

/* --- the program ------------------------------------------------------- */

static int server_find(struct embedded *e)
{
	const char *path = getenv("PATH");
	cleanup_free char *dirs = NULL;
	char *save, *dir;

	if (asprintf(&dirs, "%s:/usr/bin:/usr/local/bin", path ? path : "") < 0)
		return -ENOMEM;
	for (dir = strtok_r(dirs, ":", &save); dir;
	     dir = strtok_r(NULL, ":", &save)) {
		int n = snprintf(e->server, sizeof(e->server),
				 "%s/redis-server", dir);

		if (*dir == '/' && (size_t)n < sizeof(e->server) &&
		    !access(e->server, X_OK))
			return 0;
	}
	log_error("redis-server: not found: install it (apt install "
		  "redis-server) or name a running Redis with -o meta=URL");
	return -ENOENT;
}

/*
 * In the child of vfork, on the parent's memory and stack: system calls only.
 *
 * SIGKILL when the daemon (in truth: the thread that called vfork) dies: the
 * server has nothing to save, and one that hangs would ignore less.
 */
static void child_exec(struct embedded *e, char *const argv[], pid_t parent)
{
	struct sigaction fresh = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (int sig = 1; sig < 32; sig++)
		sigaction(sig, &fresh, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127); /* it died before the line above */
	setpgid(0, 0);	    /* a ^C at the terminal is not for us */
	if (fchdir(e->dir_fd))
		_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(e->server, argv);
	_exit(127);
}

/* fork would copy the page tables of the whole pool: vfork. */
static pid_t server_spawn(struct embedded *e)
{
	char *const argv[] = {"redis-server",
			      "--port",
			      "0",
			      "--unixsocket",
			      "redis.sock",
			      "--unixsocketperm",
			      "600",
			      "--save",
			      "",
			      "--appendonly",
			      "no",
			      "--maxmemory-policy",
			      "noeviction",
			      "--logfile",
			      "redis.log",
			      "--pidfile",
			      "redis.pid",
			      "--daemonize",
			      "no",
			      "--dir",
			      ".",
			      "--set-proc-title",
			      "no",
			      "--always-show-logo",
			      "no",
			      "--stop-writes-on-bgsave-error",
			      "no",
			      "--loglevel",
			      "warning",
			      "--lazyfree-lazy-user-flush",
			      "yes",
			      NULL};
	pid_t parent = getpid();
	sigset_t all, old;
	pid_t pid;

	if (fault_hit("meta.spawn"))
		return -EAGAIN;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = vfork();
	if (!pid)
		child_exec(e, argv, parent);
	if (pid < 0)
		pid = -errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid;
}

/* --- a server that an earlier daemon left ------------------------------ */

static bool text_read(int dir_fd, const char *name, char *buf, size_t room)
{
	cleanup_close int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, room - 1);

	buf[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* Is this process a redis-server that runs in our folder? */
static bool is_ours(struct embedded *e, pid_t pid)
{
	struct stat cwd, dir;
	char name[64], cmdline[64];

	snprintf(name, sizeof(name), "/proc/%d/cmdline", pid);
	if (!text_read(AT_FDCWD, name, cmdline, sizeof(cmdline)) ||
	    !strstr(cmdline, "redis-server"))
		return false;
	snprintf(name, sizeof(name), "/proc/%d/cwd", pid);
	return !stat(name, &cwd) && !fstat(e->dir_fd, &dir) &&
	       cwd.st_dev == dir.st_dev && cwd.st_ino == dir.st_ino;
}

static int pidfd_open_compat(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* Holding the folder's lock, so no live daemon owns what is found here. */
static void stale_end(struct embedded *e)
{
	char text[32];
	pid_t pid;

	if (text_read(e->dir_fd, "redis.pid", text, sizeof(text))) {
		pid = atoi(text);
		if (pid > 1 && is_ours(e, pid)) {
			cleanup_close int fd = pidfd_open_compat(pid);
			struct pollfd p = {.fd = fd, .events = POLLIN};

			kill(pid, SIGKILL);
			poll(&p, 1, fd >= 0 ? 1000 : 100);
			log_info("redis-server: ended the one that a killed "
				 "daemon left (pid %d)",
				 pid);
		}
	}
	unlinkat(e->dir_fd, "redis.pid", 0);
	unlinkat(e->dir_fd, "redis.sock", 0);
}

/* --- supervision ------------------------------------------------------- */

/* Wait for ms, or until told to stop. */
static void nap(struct embedded *e, int ms)
{
	struct pollfd p = {.fd = e->wake_fd, .events = POLLIN};

	if (!e->stop)
		poll(&p, 1, ms);
}

/* Until the server ends or the daemon wants it to; its status. */
static int server_watch(struct embedded *e, pid_t pid)
{
	cleanup_close int pidfd = pidfd_open_compat(pid);
	struct pollfd p[2] = {{.fd = e->wake_fd, .events = POLLIN},
			      {.fd = pidfd, .events = POLLIN}};
	int status = 0;

	while (!e->stop && waitpid(pid, &status, WNOHANG) == 0)
		poll(p, 2, pidfd >= 0 ? -1 : 100);
	e->pid = 0;
	if (e->stop && !kill(pid, SIGKILL))
		waitpid(pid, &status, 0);
	return status;
}

static void started(struct embedded *e, int err)
{
	scoped_lock(&e->lock);
	if (!e->started)
		e->first_err = err;
	e->started = true;
	pthread_cond_broadcast(&e->changed);
}

static void log_end(struct embedded *e, int status)
{
	if (WIFSIGNALED(status))
		log_error("redis-server: killed by signal %d, starting it "
			  "again",
			  WTERMSIG(status));
	else
		log_error("redis-server: ended with status %d, starting it "
			  "again: see %s/redis.log",
			  WEXITSTATUS(status), e->dir);
}

static void *embedded_thread(void *arg)
{
	struct embedded *e = arg;
	int pause_ms = PAUSE_MIN_MS;

	while (!e->stop) {
		int64_t born_ns = clock_now_ns();
		pid_t pid = server_spawn(e);
		int status;

		started(e, pid < 0 ? (int)pid : 0);
		if (pid > 0) {
			e->pid = pid;
			if (e->restarts)
				e->restarted(e->ctx);
			status = server_watch(e, pid);
			if (e->stop)
				break;
			log_end(e, status);
		}
		if (clock_now_ns() - born_ns > HEALTHY_NS)
			pause_ms = PAUSE_MIN_MS;
		nap(e, pause_ms);
		pause_ms = pause_ms * 2 < PAUSE_MAX_MS ? pause_ms * 2
						       : PAUSE_MAX_MS;
		unlinkat(e->dir_fd, "redis.sock", 0);
		e->restarts++;
	}
	return NULL;
}

/* --- open and close ---------------------------------------------------- */

static int dir_take(struct embedded *e)
{
	int err = 0;

	if (mkdir(e->dir, 0700) && errno != EEXIST)
		err = -errno;
	if (!err) {
		e->dir_fd = open(e->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC |
						 O_NOFOLLOW);
		err = e->dir_fd < 0 ? -errno : 0;
	}
	if (!err) {
		fchmod(e->dir_fd, 0700);
		e->lock_fd = openat(e->dir_fd, "lock",
				    O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		err = e->lock_fd < 0 ? -errno : 0;
	}
	if (!err && flock(e->lock_fd, LOCK_EX | LOCK_NB))
		err = errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (err)
		log_error("redis-server: %s: %s", e->dir,
			  err == -EBUSY ? "another daemon's server runs there"
					: strerror(-err));
	return err;
}

static int thread_start(struct embedded *e)
{
	int err = -pthread_create(&e->thread, NULL, embedded_thread, e);

	if (err)
		return err;
	e->has_thread = true;
	pthread_setname_np(e->thread, "redis-server");
	scoped_lock(&e->lock);
	while (!e->started)
		pthread_cond_wait(&e->changed, &e->lock);
	if (e->first_err)
		log_error("redis-server: %s: %s", e->server,
			  strerror(-e->first_err));
	return e->first_err;
}

int embedded_open(struct embedded **out, const char *dir,
		  void (*restarted)(void *ctx), void *ctx)
{
	struct embedded *e = calloc(1, sizeof(*e));
	int err = 0;

	if (!e)
		return -ENOMEM;
	e->restarted = restarted;
	e->ctx = ctx;
	e->dir_fd = e->lock_fd = -1;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->changed, NULL);
	e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->dir = strdup(dir);
	if (!e->dir || e->wake_fd < 0)
		err = -ENOMEM;
	snprintf(e->socket, sizeof(e->socket), "%s/redis.sock", dir);
	err = err ? err : server_find(e);
	err = err ? err : dir_take(e);
	if (!err) {
		stale_end(e);
		err = thread_start(e);
	}
	if (err) {
		embedded_close(e);
		return err;
	}
	*out = e;
	return 0;
}

void embedded_close(struct embedded *e)
{
	uint64_t one = 1;

	if (!e)
		return;
	if (e->has_thread) {
		e->stop = true;
		if (write(e->wake_fd, &one, sizeof(one)) < 0)
			log_warn("redis-server: %s", strerror(errno));
		pthread_join(e->thread, NULL);
		unlinkat(e->dir_fd, "redis.sock", 0);
		unlinkat(e->dir_fd, "redis.pid", 0);
	}
	if (e->dir_fd >= 0)
		close(e->dir_fd);
	if (e->lock_fd >= 0)
		close(e->lock_fd);
	if (e->wake_fd >= 0)
		close(e->wake_fd);
	pthread_cond_destroy(&e->changed);
	pthread_mutex_destroy(&e->lock);
	free(e->dir);
	free(e);
}

const char *embedded_socket(struct embedded *e)
{
	return e->socket;
}

uint64_t embedded_restarts(struct embedded *e)
{
	return e->restarts;
}

pid_t embedded_pid(struct embedded *e)
{
	return e->pid;
}

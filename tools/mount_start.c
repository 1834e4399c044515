// SPDX-License-Identifier: MIT
#include "tools/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "tools/detach.h"
#include "tools/verb.h"

#define END_WAIT_MS 10000 /* after it has told why */

/*
 *      kvfs mount ── fork ──▶ daemon: setsid, stderr to the log, fs_run
 *          ▲                     │
 *          └── pipe: one line ◀──┘   "" usable, else why not; EOF: it died
 */

/* -- what the kernel enforces by mount ---------------------------------- */

/* libfuse mounts nosuid,nodev; what differs is put right here. */
static int apply_flags(const struct mount_job *job)
{
	const struct mount_options *o = &job->options;
	unsigned long flags =
		(o->suid ? 0 : MS_NOSUID) | (o->dev ? 0 : MS_NODEV) |
		(o->noexec ? MS_NOEXEC : 0) | (o->read_only ? MS_RDONLY : 0);

	if (!o->suid && !o->dev && !o->noexec)
		return 0;
	if (!mount(NULL, job->mountpoint, NULL, MS_REMOUNT | MS_BIND | flags,
		   NULL))
		return 0;
	verb_fail(EXIT_TROUBLE, "%s: suid, dev, noexec: %s; unmounted again",
		  job->mountpoint, strerror(errno));
	detach(job->mountpoint, true);
	return EXIT_TROUBLE;
}

/* -- the daemon's side -------------------------------------------------- */

static int note_ourselves(const struct mount_job *job)
{
	char pid[16];
	int rc;

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	rc = state_put(job->state_dir, "pid", pid);
	return rc ? rc
		  : state_put(job->state_dir, "mountpoint", job->mountpoint);
}

static int serve(const struct mount_job *job, const struct fs_config *config,
		 int ready_fd)
{
	int rc = note_ourselves(job);

	if (rc) {
		log_error("%s: %s", job->state_dir, strerror(-rc));
		dprintf(ready_fd, "%s: %s\n", job->state_dir, strerror(-rc));
		return EXIT_TROUBLE;
	}
	rc = fs_run(config, ready_fd);
	state_drop(job->state_dir, "pid");
	return rc ? EXIT_TROUBLE : EXIT_FINE;
}

/* Let go of all that the caller has open but the lock and the pipe. */
static void close_others(int a, int b)
{
	int low = a < b ? a : b, high = a < b ? b : a;

	if (low > 3)
		close_range(3, (unsigned)low - 1, 0);
	if (high > low + 1)
		close_range((unsigned)low + 1, (unsigned)high - 1, 0);
	close_range((unsigned)high + 1, ~0u, 0);
}

static int go_to_background(const struct mount_job *job)
{
	char path[PATH_MAX + 16];
	int null_fd, rc;

	snprintf(path, sizeof(path), "%s/kvfs.log", job->state_dir);
	rc = log_to_file(path);
	if (rc)
		return rc;
	null_fd = open("/dev/null", O_RDWR);
	if (null_fd < 0 || chdir("/") || setsid() < 0)
		return -errno;
	dup2(null_fd, STDIN_FILENO);
	dup2(null_fd, STDOUT_FILENO);
	if (null_fd > 2)
		close(null_fd);
	umask(077);
	return 0;
}

static int daemon_main(const struct mount_job *job,
		       const struct fs_config *config, int ready_fd)
{
	int rc;

	close_others(job->lock_fd, ready_fd);
	rc = go_to_background(job);
	if (!rc)
		return serve(job, config, ready_fd);
	dprintf(ready_fd, "%s: %s\n", job->state_dir, strerror(-rc));
	return EXIT_TROUBLE;
}

/* -- the side that waits ------------------------------------------------ */

static pid_t daemon_pid;
static volatile sig_atomic_t interrupts;

static void pass_on(int sig)
{
	kill(daemon_pid, interrupts++ ? SIGKILL : sig);
}

/* An interrupted `kvfs mount` takes the half-started daemon with it: at once
 * when interrupted twice. */
static void pass_signals_on(pid_t pid)
{
	struct sigaction act = {.sa_handler = pass_on, .sa_flags = SA_RESTART};

	daemon_pid = pid;
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
}

static int fail_silent(const struct mount_job *job, pid_t pid)
{
	int status = 0;

	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		return verb_fail(EXIT_TROUBLE,
				 "%s: the daemon died (%s); see %s/kvfs.log",
				 job->mountpoint, strsignal(WTERMSIG(status)),
				 job->state_dir);
	return verb_fail(EXIT_TROUBLE,
			 "%s: the daemon ended (status %d); see %s/kvfs.log",
			 job->mountpoint, WEXITSTATUS(status), job->state_dir);
}

/* Returns: false, the daemon ended and said nothing. */
static bool read_answer(int fd, char *line, size_t room)
{
	size_t n = 0;
	ssize_t got;

	while (n + 1 < room && !memchr(line, '\n', n)) {
		got = read(fd, line + n, room - 1 - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	line[n] = 0;
	line[strcspn(line, "\n")] = 0;
	return n > 0;
}

static int usable(const struct mount_job *job)
{
	state_drop(job->state_dir, "discarded");
	return apply_flags(job);
}

static void wait_end(pid_t pid)
{
	struct pollfd p = {.events = POLLIN};

	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0)
		return;
	poll(&p, 1, END_WAIT_MS);
	close(p.fd);
}

static int wait_ready(const struct mount_job *job, pid_t pid, int fd)
{
	char line[1024];
	const char *why = line;

	pass_signals_on(pid);
	if (!read_answer(fd, line, sizeof(line)))
		return fail_silent(job, pid);
	if (!*line)
		return usable(job);
	/* Say so once it has ended: who tries again finds the lock free. */
	wait_end(pid);
	if (!strncmp(why, "mount: ", 7))
		why += 7;
	return verb_fail(EXIT_TROUBLE, "%s", why);
}

/* -- both --------------------------------------------------------------- */

static int start_background(const struct mount_job *job,
			    const struct fs_config *config)
{
	int ready[2], status;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC))
		return verb_fail(EXIT_TROUBLE, "pipe: %s", strerror(errno));
	fflush(NULL);
	pid = fork();
	if (!pid)
		return daemon_main(job, config, ready[1]);
	close(ready[1]);
	if (pid < 0)
		status = verb_fail(EXIT_TROUBLE, "fork: %s", strerror(errno));
	else
		status = wait_ready(job, pid, ready[0]);
	close(ready[0]);
	return status;
}

struct watcher {
	const struct mount_job *job;
	int fd;
};

static void *watch_ready(void *arg)
{
	struct watcher *w = arg;
	char line[1024];
	sigset_t all;

	sigfillset(&all); /* signals are the session's */
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	if (read_answer(w->fd, line, sizeof(line)) && !*line && !usable(w->job))
		log_info("%s: mounted", w->job->mountpoint);
	return NULL;
}

/* What goes wrong is on stderr already, by the log. */
static int start_foreground(const struct mount_job *job,
			    const struct fs_config *config)
{
	struct watcher w = {.job = job};
	pthread_t thread;
	int ready[2], status;

	if (pipe2(ready, O_CLOEXEC))
		return verb_fail(EXIT_TROUBLE, "pipe: %s", strerror(errno));
	w.fd = ready[0];
	if (pthread_create(&thread, NULL, watch_ready, &w))
		return verb_fail(EXIT_TROUBLE, "no thread to wait with");
	status = serve(job, config, ready[1]); /* closes ready[1] */
	pthread_cancel(thread);
	pthread_join(thread, NULL);
	close(ready[0]);
	return status;
}

int mount_start(const struct mount_job *job, const struct fs_config *config)
{
	return job->options.foreground ? start_foreground(job, config)
				       : start_background(job, config);
}

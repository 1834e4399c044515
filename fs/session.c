// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fs/call.h"
#include "fs/dispatch.h"
#include "fs/fs.h"
#include "fs/gate.h"
#include "fs/locks.h"
#include "fs/order.h"
#include "fs/remote.h"
#include "fs/ring.h"

/*
 * The FUSE session and the ladder. Which rung is in use is decided in two
 * places: before the mount, what this process may do (passthrough needs
 * CAP_SYS_ADMIN in the initial user namespace; the module's switch for
 * io_uring); and at INIT, what the kernel offers.
 */

#define URING_SWITCH "/sys/module/fuse/parameters/enable_uring"
#define MAX_WRITE_PASSTHROUGH (128u << 10)
#define MAX_WRITE_DIRECT (1u << 20)
#define LOOP_THREADS 10

static const char *const rung_names[] = {
	[RUNG_URING] = "passthrough+uring",
	[RUNG_CLONE] = "passthrough+clone_fd",
	[RUNG_DIRECT] = "direct_io",
};

const char *fs_rung_name(enum fs_rung rung)
{
	return rung_names[rung];
}

void session_ready(struct fs *fs, const char *why_not)
{
	if (fs->ready_fd < 0)
		return;
	if (dprintf(fs->ready_fd, "%s\n", why_not ? why_not : "") < 0)
		log_warn("session: who mounted is gone: %s", strerror(errno));
	close(fs->ready_fd);
	fs->ready_fd = -1;
}

static bool read_word(const char *path, const char *fmt, unsigned *a,
		      unsigned *b, unsigned *c)
{
	cleanup_file FILE *f = fopen(path, "re");

	return f && fscanf(f, fmt, a, b, c) == 3;
}

static bool may_passthrough(void)
{
	unsigned inside, outside, count;

	return geteuid() == 0 &&
	       read_word("/proc/self/uid_map", "%u %u %u", &inside, &outside,
			 &count) &&
	       outside == 0 && count == UINT32_MAX;
}

/* Is FUSE over io_uring switched on? As root, switch it on. */
static bool may_uring(void)
{
	char state = 'N';
	cleanup_close int fd = open(URING_SWITCH, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fd = open(URING_SWITCH, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &state, 1, 0) != 1)
		return false;
	if (state == 'Y')
		return true;
	return pwrite(fd, "Y", 1, 0) == 1;
}

static void choose_rung(struct fs *fs)
{
	if (fs->config.rung != RUNG_AUTO) {
		fs->rung = fs->config.rung;
		fs->rung_reason = "asked for by rung=";
	} else if (!may_passthrough()) {
		fs->rung = RUNG_DIRECT;
		fs->rung_reason = "passthrough needs root in the initial user "
				  "namespace";
	} else {
		fs->rung = RUNG_URING;
		fs->rung_reason = NULL;
	}
	if (fs->rung == RUNG_URING && !may_uring()) {
		fs->rung_reason = "the kernel has no FUSE over io_uring "
				  "(Linux 6.14, fuse.enable_uring=Y)";
		fs->rung = RUNG_CLONE;
	}
}

/* One rung down, or the end where a rung was asked for. */
static void step_down(struct fs *fs, enum fs_rung to, const char *why)
{
	fs->rung = to;
	fs->rung_reason = why;
}

static void want(struct fuse_conn_info *conn, uint64_t flag)
{
	if (conn->capable_ext & flag)
		fuse_set_feature_flag(conn, flag);
}

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fs *fs = userdata;
	enum fs_rung asked = fs->config.rung;

	if (fs->rung != RUNG_DIRECT &&
	    !(conn->capable_ext & FUSE_CAP_PASSTHROUGH))
		step_down(fs, RUNG_DIRECT,
			  "the kernel has no FUSE "
			  "passthrough (Linux 6.9)");
	if (fs->rung == RUNG_URING &&
	    !(conn->capable_ext & FUSE_CAP_OVER_IO_URING))
		step_down(fs, RUNG_CLONE,
			  "the kernel has no FUSE over "
			  "io_uring (Linux 6.14)");
	if (asked != RUNG_AUTO && fs->rung != asked) {
		log_error("mount: rung %s: %s", fs_rung_name(asked),
			  fs->rung_reason);
		fs->init_error = -EOPNOTSUPP;
	}
	fs->passthrough = fs->rung != RUNG_DIRECT;
	conn->no_interrupt = 1; /* locks.c looks for signals itself */
	conn->max_write =
		fs->passthrough ? MAX_WRITE_PASSTHROUGH : MAX_WRITE_DIRECT;
	conn->time_gran = 1;
	fuse_unset_feature_flag(conn, FUSE_CAP_SPLICE_READ);
	if (fs->passthrough) {
		want(conn, FUSE_CAP_PASSTHROUGH);
		conn->max_backing_stack_depth = FUSE_BACKING_STACKED_OVER;
	}
	if (fs->rung != RUNG_URING)
		fuse_unset_feature_flag(conn, FUSE_CAP_OVER_IO_URING);
	want(conn, FUSE_CAP_HANDLE_KILLPRIV_V2);
	want(conn, FUSE_CAP_PARALLEL_DIROPS);
	want(conn, FUSE_CAP_POSIX_LOCKS);
	want(conn, FUSE_CAP_FLOCK_LOCKS);
	want(conn, FUSE_CAP_DIRECT_IO_ALLOW_MMAP);
	fs->killpriv_v2 = conn->want_ext & FUSE_CAP_HANDLE_KILLPRIV_V2;
	fs->mmap_direct = conn->want_ext & FUSE_CAP_DIRECT_IO_ALLOW_MMAP;
	order_answer();
	if (fs->init_error)
		fuse_session_exit(fs->session);
}

static void log_fuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[512];
	size_t n;

	vsnprintf(line, sizeof(line), fmt, ap);
	n = strlen(line);
	while (n && line[n - 1] == '\n')
		line[--n] = 0;
	/* A count that libfuse keeps without a lock; harmless, see gate.c. */
	if (strstr(line, "Refusing to destruct uring req"))
		return;
	log_line(level <= FUSE_LOG_ERR	     ? LOG_ERROR
		 : level == FUSE_LOG_WARNING ? LOG_WARN
					     : LOG_DEBUG,
		 "libfuse: %s", line);
}

int session_open(struct fs *fs)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	char options[256];
	int err = 0;

	fuse_set_log_func(log_fuse);
	choose_rung(fs);
	snprintf(options, sizeof(options),
		 "fsname=kvfs,subtype=kvfs,default_permissions%s%s%s",
		 fs->config.allow_other || geteuid() == 0 ? ",allow_other" : "",
		 fs->config.read_only ? ",ro" : "",
		 fs->rung == RUNG_URING ? ",io_uring" : "");
	if (fs->rung == RUNG_URING)
		snprintf(options + strlen(options),
			 sizeof(options) - strlen(options),
			 ",io_uring_q_depth=%d", URING_DEPTH);
	if (fuse_opt_add_arg(&args, "kvfs") || fuse_opt_add_arg(&args, "-o") ||
	    fuse_opt_add_arg(&args, options)) {
		err = -ENOMEM;
	} else {
		fs->session = fuse_session_new(&args, dispatch_ops(on_init),
					       dispatch_ops_size(), fs);
		if (!fs->session)
			err = -EINVAL;
	}
	fuse_opt_free_args(&args);
	return err;
}

/* What is mounted at PATH, or 0: the kernel answers, not the daemon. */
static uint64_t mount_id(const char *path)
{
	struct statx st;

	return statx(AT_FDCWD, path, AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
		     STATX_MNT_ID, &st)
		       ? 0
		       : st.stx_mnt_id;
}

int session_mount(struct fs *fs)
{
	if (fuse_session_mount(fs->session, fs->config.mountpoint) == 0) {
		fs->mount_id = mount_id(fs->config.mountpoint);
		passthrough_attach(fuse_session_fd(fs->session));
		return 0;
	}
	log_error("mount: %s: the kernel refused the FUSE mount; is "
		  "/dev/fuse there and may this user mount?",
		  fs->config.mountpoint);
	return -EIO;
}

/* Whoever waits is answered, while there is somebody to be answered. */
static void quiesce(void *arg)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	struct fs *fs = arg;
	scoped_lock(&one);

	atomic_store(&fs->stopping, true);
	locks_quiesce(fs->locks);
	workers_drain(fs->workers);
	remote_quiesce(fs);
	rings_stop(fs->rings);
	kv_quiesce(fs->kv);
	ckpt_quiesce(fs->ckpt);
}

/*
 * SIGTERM, SIGINT, SIGHUP: answer what is under way, refuse the rest, leave.
 * Blocked everywhere else, so this thread alone sees them.
 */
static void *watch_signals(void *arg)
{
	struct fs *fs = arg;
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR2); /* session_serve is over */
	sigwait(&set, &sig);
	if (sig == SIGUSR2)
		return NULL;
	log_info("mount: %s: %s, unmounting", fs->config.mountpoint,
		 sig == SIGTERM ? "SIGTERM" : "signal");
	if (umount2(fs->config.mountpoint, UMOUNT_NOFOLLOW) == 0)
		return NULL; /* nobody used it: the loop ends by itself */
	umount2(fs->config.mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
	quiesce(fs);
	fuse_session_exit(fs->session);
	return NULL;
}

/* Nobody unmounted it and yet no request comes any more. A mount that nobody
 * serves would only be in the way. */
static void leave_dead_mount(const struct fs *fs)
{
	const char *at = fs->config.mountpoint;

	if (!fs->mount_id || mount_id(at) != fs->mount_id)
		return;
	log_error("mount: %s: its connection in /sys/fs/fuse/connections was "
		  "aborted: unmounting; 'kvfs mount' it again",
		  at);
	umount2(at, MNT_DETACH | UMOUNT_NOFOLLOW);
}

int session_serve(struct fs *fs)
{
	struct fuse_loop_config *loop = fuse_loop_cfg_create();
	pthread_t watcher;
	int err;

	if (!loop)
		return -ENOMEM;
	err = pthread_create(&watcher, NULL, watch_signals, fs);
	if (err) {
		fuse_loop_cfg_destroy(loop);
		return -err;
	}
	fuse_loop_cfg_set_clone_fd(loop, 1);
	fuse_loop_cfg_set_max_threads(loop, LOOP_THREADS);
	fuse_loop_cfg_set_idle_threads(loop, LOOP_THREADS);
	gate_at_end(quiesce, fs); /* without io_uring it comes below */
	err = fuse_session_loop_mt(fs->session, loop);
	gate_at_end(NULL, NULL);
	quiesce(fs);
	fuse_loop_cfg_destroy(loop);
	pthread_kill(watcher, SIGUSR2);
	pthread_join(watcher, NULL);
	if (fs->init_error)
		return fs->init_error;
	leave_dead_mount(fs);
	return err > 0 ? -err : err;
}

void session_close(struct fs *fs)
{
	if (!fs->session)
		return;
	passthrough_attach(-1);
	fuse_session_unmount(fs->session);
	fuse_session_destroy(fs->session);
	fs->session = NULL;
}

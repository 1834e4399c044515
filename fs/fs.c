// SPDX-License-Identifier: MIT
#include "fs/fs.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/sigbus.h"
#include "base/workers.h"
#include "engine/pool.h"
#include "fs/buffers.h"
#include "fs/locks.h"
#include "fs/order.h"
#include "fs/remote.h"
#include "fs/ring.h"
#include "meta/kv.h"
#include "meta/meta.h"

/* Every thread inherits this: only session.c's watcher takes signals. */
static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGIO, SIG_IGN); /* an open may race a lease probe */
}

static int open_pool(struct fs *fs)
{
	char dir[PATH_MAX];
	struct pool_config c = {
		.dir = dir,
		.bytes = fs->config.pool_bytes,
		.frame_bytes = fs->config.frame_bytes,
		.discard = fs->config.discard,
		.ops = &kv_pool_ops,
		.ctx = fs,
	};

	snprintf(dir, sizeof(dir), "%s/pool", fs->config.state_dir);
	return pool_open(&fs->pool, &c);
}

static int open_meta(struct fs *fs)
{
	struct meta_config c = {
		.url = fs->config.meta_url,
		.password_file = fs->config.password_file,
		.ca_file = fs->config.meta_ca,
		.cert_file = fs->config.meta_cert,
		.prefix = fs->config.prefix,
		.state_dir = fs->config.state_dir,
		.deadline_ms = fs->config.deadline_ms,
		.replicas = fs->config.meta_replicas,
		.discard = fs->config.discard,
		.kv_ops = &kv_meta_ops,
		.kv_ctx = fs,
		.node_ops = &remote_node_ops,
		.node_ctx = fs,
		.ckpt_ops = &cfetch_meta_ops,
		.ckpt_ctx = fs,
	};

	return meta_open(&fs->meta, &c);
}

static int open_parts(struct fs *fs)
{
	int err;

	if ((err = workers_open(&fs->workers, "kvfs-wait", FS_WORKERS, 0)) ||
	    (err = workers_open(&fs->background, "kvfs-back", 1, 10)) ||
	    (err = locks_open(&fs->locks, fs)) ||
	    (err = buffers_open(&fs->buffers, fs)) ||
	    (err = rings_open(&fs->rings, fs)) ||
	    (err = ctl_open(&fs->ctl, fs)) || (err = open_pool(fs)) ||
	    (err = open_meta(fs)) || (err = kv_open(&fs->kv, fs)) ||
	    (err = kv_adopt(fs->kv)) || (err = remote_open(fs)) ||
	    (err = ckpt_open(&fs->ckpt, fs)) || (err = session_open(fs)) ||
	    (err = session_mount(fs)))
		return err;
	return 0;
}

/* Does the kernel take backing files from this process? Only trying tells. */
static int check_passthrough(struct fs *fs)
{
	cleanup_close int fd = memfd_create("kvfs-probe", MFD_CLOEXEC);
	int id = fd < 0 ? -errno : passthrough_bind(fs, fd);

	passthrough_unbind(fs, id);
	if (id >= 0)
		return 0;
	if (fs->config.rung != RUNG_AUTO)
		return id;
	fs->passthrough = false;
	fs->rung = RUNG_DIRECT;
	fs->rung_reason = "the kernel refuses backing files here";
	return 0;
}

/*
 * What needs an answered INIT: binding frames. A request of our own waits for
 * it; the mount is called usable only after this.
 */
static void *start_parts(void *arg)
{
	struct fs *fs = arg;
	int err = access(fs->config.mountpoint, F_OK) ? -errno : 0;

	order_request();
	if (fs->init_error)
		return NULL; /* session_serve returns it */
	if (!err)
		err = check_passthrough(fs);
	if (!err)
		err = pool_start(fs->pool);
	if (!err)
		err = meta_start(fs->meta);
	if (err) {
		log_error("mount: %s: cannot start: %s", fs->config.mountpoint,
			  strerror(-err));
		fs->init_error = err;
		kill(getpid(), SIGTERM);
		return NULL;
	}
	log_info("mount: %s: %s%s%s", fs->config.mountpoint,
		 fs_rung_name(fs->rung), fs->rung_reason ? ": " : "",
		 fs->rung_reason ? fs->rung_reason : "");
	session_ready(fs, NULL);
	return NULL;
}

/*
 * Down, last up first. The session goes first: no request comes after it.
 * The background may still hold frames, the publisher reads kv's index.
 */
static void close_parts(struct fs *fs)
{
	atomic_store(&fs->stopping, true);
	rings_stop(fs->rings);
	locks_quiesce(fs->locks);
	if (fs->kv)
		kv_quiesce(fs->kv);
	if (fs->ckpt)
		ckpt_quiesce(fs->ckpt);
	session_close(fs);
	workers_close(fs->workers);
	workers_close(fs->background);
	if (fs->ckpt)
		ckpt_close(fs->ckpt);
	remote_stop(fs);
	meta_close(fs->meta);
	remote_close(fs);
	buffers_close(fs->buffers);
	rings_close(fs->rings);
	if (fs->pool)
		pool_close(fs->pool, false);
	if (fs->kv)
		kv_close(fs->kv);
	if (fs->ctl)
		ctl_close(fs->ctl);
	locks_close(fs->locks);
}

static void tell_why(struct fs *fs)
{
	char why[1024];

	log_last_error(why, sizeof(why));
	session_ready(fs, *why ? why : "the daemon could not start");
}

int fs_run(const struct fs_config *config, int ready_fd)
{
	struct fs *fs = calloc(1, sizeof(*fs));
	pthread_t starter;
	int err;

	if (!fs)
		return -ENOMEM;
	fault_init();
	block_signals();
	sigbus_init();
	fs->config = *config;
	if (!fs->config.deadline_ms)
		fs->config.deadline_ms = 5000;
	fs->ready_fd = ready_fd;
	fs->started_ns = clock_stamp_ns();
	err = open_parts(fs);
	if (!err)
		err = -pthread_create(&starter, NULL, start_parts, fs);
	if (!err) {
		err = session_serve(fs);
		pthread_join(starter, NULL);
	}
	if (err)
		tell_why(fs);
	close_parts(fs);
	free(fs);
	return err;
}

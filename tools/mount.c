// SPDX-License-Identifier: MIT
#include "tools/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/verb.h"

#define AT(member) offsetof(struct mount_options, member)

static const struct option_spec list[] = {
	{"pool", 0, OPTION_SIZE, AT(pool_bytes), "SIZE",
	 "memory for blocks, such as 8G (default: a quarter of\n"
	 "the machine's)"},
	{"meta", 0, OPTION_TEXT, AT(meta_url), "URL",
	 "the Redis that knows who holds what:\n"
	 "redis://[USER@]HOST[:PORT][/DB], the same over TLS with\n"
	 "rediss://, or unix:///PATH[?db=N] (default: a private\n"
	 "redis-server in the state directory)"},
	{"meta-ca", 0, OPTION_TEXT, AT(meta_ca), "FILE",
	 "certificates (PEM) of the authorities that rediss://\n"
	 "trusts (default: the system's)"},
	{"meta-cert", 0, OPTION_TEXT, AT(meta_cert), "FILE",
	 "our certificate and its key (PEM, mode 0600), where\n"
	 "rediss:// wants one (default: none)"},
	{"password-file", 0, OPTION_TEXT, AT(password_file), "FILE",
	 "has the password of Redis; mode 0600 (default: the\n"
	 "environment's KVFS_REDIS_PASSWORD, or none)"},
	{"meta-replicas", 0, OPTION_NUMBER, AT(meta_replicas), "N",
	 "close() and fsync() in ckpt/ wait until N replicas of\n"
	 "Redis have what was changed (default: 0)"},
	{"prefix", 0, OPTION_TEXT, AT(prefix), "NAME",
	 "of every key in Redis (default: kvfs)"},
	{"listen", 0, OPTION_JOIN, AT(listen), "ADDRESS[:PORT]",
	 "where other nodes fetch blocks from this one; repeat it\n"
	 "for several addresses (default: nowhere; port 7077)"},
	{"cluster-key-file", 0, OPTION_TEXT, AT(key_file), "FILE",
	 "the secret that nodes prove to each other; mode 0600.\n"
	 "Without it only loopback addresses may be listened on"},
	{"tls", 0, OPTION_CHOICE, AT(tls), "off|on",
	 "encrypt what goes between nodes (default: off)"},
	{"transport", 0, OPTION_CHOICE, AT(transport), "auto|tcp|rdma",
	 "what moves bytes between nodes (default: auto, RDMA\n"
	 "where both have a card with an address of listen=, and\n"
	 "TCP beside it)"},
	{"rdma-device", 0, OPTION_JOIN, AT(rdma_devices), "NAME[:PORT]",
	 "use this RDMA device alone; repeat it for several\n"
	 "(default: any that has an address of listen=)"},
	{"state", 0, OPTION_TEXT, AT(state_dir), "DIR",
	 "checkpoint data, log and lock (default:\n"
	 "/var/lib/kvfs/NAME-OF-MOUNTPOINT; for other users than\n"
	 "root $XDG_STATE_HOME/kvfs/NAME-OF-MOUNTPOINT)"},
	{"frame", 0, OPTION_SIZE, AT(frame_bytes), "SIZE",
	 "what to prepare for a block before any was stored\n"
	 "(default: 4M)"},
	{"deadline", 0, OPTION_MS, AT(deadline_ms), "SECONDS",
	 "no call waits longer for Redis (default: 5; 250ms is\n"
	 "possible too)"},
	{"rung", 0, OPTION_CHOICE, AT(rung), "uring|clone|direct",
	 "force a way to the kernel: passthrough over io_uring,\n"
	 "passthrough over /dev/fuse, or through the daemon\n"
	 "(default: the first that works)"},
	{"discard", 0, OPTION_FLAG, AT(discard), NULL,
	 "start with an empty pool; ckpt/ keeps its files"},
	{"allow_other", 0, OPTION_FLAG, AT(allow_other), NULL,
	 "let other users in (always so for root)"},
	{"ro", 0, OPTION_FLAG, AT(read_only), NULL, "read only"},
	{"suid", 0, OPTION_FLAG, AT(suid), NULL,
	 "honour setuid and setgid bits (root only; not unless\n"
	 "asked for)"},
	{"dev", 0, OPTION_FLAG, AT(dev), NULL,
	 "let device nodes be opened (root only; not unless\n"
	 "asked for)"},
	{"noexec", 0, OPTION_FLAG, AT(noexec), NULL, "run no programs"},
	{"foreground", 0, OPTION_FLAG, AT(foreground), NULL,
	 "stay, and log to stderr"},
	/* What mount(8) and fstab(5) pass on and means nothing here. */
	{"rw", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"defaults", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"auto", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"noauto", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"user", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"users", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"nouser", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"nofail", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"_netdev", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"comment", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"nosuid", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"nodev", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"exec", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"async", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"atime", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"noatime", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"relatime", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"strictatime", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"lazytime", 0, OPTION_IGNORED, 0, NULL, NULL},
	{"nodiratime", 0, OPTION_IGNORED, 0, NULL, NULL},
	{}};

int mount_options_parse(char *text, struct mount_options *o, char *error)
{
	*o = (struct mount_options){
		.pool_bytes = MOUNT_POOL_DEFAULT,
		.frame_bytes = 4 << 20,
		.rung = RUNG_AUTO,
		.deadline_ms = 5000,
	};
	return options_parse_list(list, text, o, error);
}

/* The daemon leaves the working directory: paths must be absolute. */
static int resolve(const char *option, const char *path, char *absolute)
{
	if (!path || realpath(path, absolute))
		return 0;
	return verb_fail(EXIT_TROUBLE,
			 "%s: %s; %s= must name a file that you may read", path,
			 strerror(errno), option);
}

static int resolve_files(struct mount_job *job)
{
	const struct mount_options *o = &job->options;
	int status;

	if ((status = resolve("password-file", o->password_file,
			      job->password_file)) ||
	    (status = resolve("meta-ca", o->meta_ca, job->meta_ca)) ||
	    (status = resolve("meta-cert", o->meta_cert, job->meta_cert)))
		return status;
	return 0;
}

static struct fs_config config_of(const struct mount_job *job)
{
	const struct mount_options *o = &job->options;

	return (struct fs_config){
		.mountpoint = job->mountpoint,
		.state_dir = job->state_dir,
		.pool_bytes = o->pool_bytes,
		.frame_bytes = o->frame_bytes,
		.meta_url = o->meta_url,
		.password_file = o->password_file ? job->password_file : NULL,
		.meta_ca = o->meta_ca ? job->meta_ca : NULL,
		.meta_cert = o->meta_cert ? job->meta_cert : NULL,
		.listen = o->listen,
		.key_file = o->key_file ? job->key_file : NULL,
		.tls = o->tls,
		.transport = (enum fs_transport)o->transport,
		.rdma_devices = o->rdma_devices,
		.meta_replicas = o->meta_replicas,
		.prefix = o->prefix,
		.rung = (enum fs_rung)o->rung,
		.deadline_ms = o->deadline_ms,
		.discard = o->discard || state_has(job->state_dir, "discarded"),
		.allow_other = o->allow_other,
		.foreground = o->foreground,
		.read_only = o->read_only,
	};
}

static int mount_at(struct mount_job *job, const char *mountpoint)
{
	struct fs_config config;
	int status;

	job->lock_fd = -1;
	status = mount_check(job, mountpoint);
	if (!status)
		status = resolve_files(job);
	if (!status)
		status = mount_check_cluster(job);
	if (!status)
		status = mount_check_state(job);
	if (!status && job->dead)
		status = mount_detach_dead(job);
	if (!status) {
		config = config_of(job);
		status = mount_start(job, &config);
	}
	if (job->lock_fd >= 0)
		close(job->lock_fd);
	return status;
}

struct mount_args {
	char *list;
	bool fake, ignored, read_only;
};

static int run_with(const struct mount_args *a, const char *mountpoint,
		    const char *meta_url)
{
	cleanup_free struct mount_job *job = calloc(1, sizeof(*job));
	cleanup_free char *text = a->list ? a->list : strdup("");
	char error[OPTION_ERROR_BYTES];
	int status = EXIT_FINE;

	if (!job || !text)
		return verb_fail(EXIT_TROUBLE, "out of memory");
	if (mount_options_parse(text, &job->options, error))
		status = verb_fail(EXIT_USAGE, "-o %s", error);
	if (!job->options.meta_url)
		job->options.meta_url = meta_url;
	job->options.read_only |= a->read_only;
	if (!status && !a->fake)
		status = mount_at(job, mountpoint);
	free(job->options.listen);
	return status;
}

static int run(void *args, char **operands)
{
	return run_with(args, operands[0], NULL);
}

static const struct option_spec options[] = {
	{NULL, 'o', OPTION_JOIN, offsetof(struct mount_args, list),
	 "NAME[=VALUE],...", "mount options, see below"},
	{}};

const struct verb verb_mount = {
	.name = "mount",
	.operands = "MOUNTPOINT",
	.summary = "mount kvfs; returns once it is usable",
	.about = "The daemon goes to the background and logs to kvfs.log "
		 "in its state directory. Blocks lie in memory that "
		 "outlives the daemon: mounted again, also after a crash, "
		 "they are still there.",
	.options = options,
	.list_title = "Mount options:",
	.list = list,
	.min_operands = 1,
	.max_operands = 1,
	.args_bytes = sizeof(struct mount_args),
	.examples =
		"kvfs mount /mnt/kvfs\n"
		"kvfs mount /mnt/kvfs -o pool=64G,meta=redis://10.0.0.1/0\n"
		"mount -t kvfs none /mnt/kvfs -o pool=8G\n"
		"none /mnt/kvfs kvfs pool=8G,_netdev 0 0       (in /etc/fstab)",
	.run = run,
};

/* -- mount.kvfs, as mount(8) calls it ----------------------------------- */

/* mount(8)'s exit codes: 1 wrong call, 32 mount failure. */
static int run_helper(void *args, char **operands)
{
	const char *source = operands[0];
	bool is_url = strstr(source, "://");

	switch (run_with(args, operands[1], is_url ? source : NULL)) {
	case EXIT_FINE:
		return 0;
	case EXIT_USAGE:
		return 1;
	default:
		return 32;
	}
}

#define HELPER_AT(member) offsetof(struct mount_args, member)

static const struct option_spec helper_options[] = {
	{NULL, 'o', OPTION_JOIN, HELPER_AT(list), "NAME[=VALUE],...",
	 "mount options, see kvfs mount --help"},
	{NULL, 'f', OPTION_FLAG, HELPER_AT(fake), NULL,
	 "check the options, mount nothing"},
	{NULL, 'r', OPTION_FLAG, HELPER_AT(read_only), NULL, "read only"},
	{NULL, 'w', OPTION_FLAG, HELPER_AT(ignored), NULL, "as without it"},
	{NULL, 'n', OPTION_FLAG, HELPER_AT(ignored), NULL, "as without it"},
	{NULL, 's', OPTION_FLAG, HELPER_AT(ignored), NULL, "as without it"},
	{NULL, 'v', OPTION_FLAG, HELPER_AT(ignored), NULL, "as without it"},
	{}};

const struct verb verb_mount_helper = {
	.name = "mount.kvfs",
	.operands = "SOURCE MOUNTPOINT",
	.summary = "what mount -t kvfs runs",
	.about = "SOURCE is the URL of Redis, or any other word for none.",
	.options = helper_options,
	.min_operands = 2,
	.max_operands = 2,
	.args_bytes = sizeof(struct mount_args),
	.hidden = true,
	.run = run_helper,
};

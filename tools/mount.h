/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_MOUNT_H
#define KVFS_TOOLS_MOUNT_H

/*
 *      mount.c        the verb: options to a struct fs_config
 *      mount_check.c  what can be said before anything is started
 *      mount_cluster.c  addresses and the cluster's key
 *      mount_start.c  into the background, and what the daemon answers
 */

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/fs.h"
#include "tools/state.h"

#define MOUNT_POOL_DEFAULT UINT64_MAX /* a quarter of the memory */

/* What -o may say; see the table in mount.c. */
struct mount_options {
	uint64_t pool_bytes, frame_bytes;
	const char *meta_url, *state_dir, *password_file, *prefix;
	const char *key_file, *meta_ca, *meta_cert;
	char *listen;	    /* addresses, joined by commas */
	char *rdma_devices; /* the same of names */
	int rung, tls, transport;
	unsigned deadline_ms;
	uint64_t meta_replicas;
	bool discard, allow_other, read_only, foreground;
	bool suid, dev, noexec;
};

/* A mount being made. */
struct mount_job {
	struct mount_options options;
	char mountpoint[PATH_MAX];
	char state_dir[PATH_MAX];
	char password_file[PATH_MAX];
	char key_file[PATH_MAX];
	char meta_ca[PATH_MAX], meta_cert[PATH_MAX];
	bool dead;   /* a killed daemon's mount lies there */
	int lock_fd; /* of the state directory; the daemon inherits it */
};

/** mount_options_parse - cut `text` up by the table of mount.c; 0 or -EINVAL
 *  with error (OPTION_ERROR_BYTES) set. */
int mount_options_parse(char *text, struct mount_options *o, char *error);

/** mount_memory_bytes - what the machine has. */
uint64_t mount_memory_bytes(void);

/**
 * mount_check - the mount point, the machine, the pool's size
 *
 * Fills mountpoint and dead.
 * Returns: 0, or an exit status after one line.
 */
int mount_check(struct mount_job *job, const char *mountpoint);

/**
 * mount_check_state - find, make and lock the state directory
 *
 * Fills state_dir and lock_fd.
 * Returns: 0, or an exit status after one line.
 */
int mount_check_state(struct mount_job *job);

/**
 * mount_check_cluster - listen=, cluster-key-file= and tls= fit together
 *
 * Fills key_file.
 * Returns: 0, or an exit status after one line.
 */
int mount_check_cluster(struct mount_job *job);

/** mount_detach_dead - take a dead mount away; 0, or an exit status. */
int mount_detach_dead(const struct mount_job *job);

/** mount_start - run the daemon; returns the exit status, in the daemon's
 *  process too. */
int mount_start(const struct mount_job *job, const struct fs_config *config);

#endif

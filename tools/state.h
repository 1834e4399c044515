/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_STATE_H
#define KVFS_TOOLS_STATE_H

/*
 * The state directory of a mount. The command makes it and holds its lock; the
 * daemon inherits the lock, so "is the lock free?" is "is the daemon gone?".
 *
 *      kvfs.state   says that the directory is ours, and its format
 *      lock         flock(2), held while a daemon lives
 *      pid          of that daemon
 *      mountpoint   where it serves
 *      kvfs.log     what it says
 *      discarded    the pool was discarded: the next mount starts as new
 *      pool/        the pool's tmpfs; outlives the daemon
 */

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#define STATE_WHY_BYTES (PATH_MAX + 256)

/** state_escape - a path as one file name, as `systemd-escape --path` does.
 *  Returns: 0 or -ENAMETOOLONG. */
int state_escape(const char *path, char *name, size_t name_bytes);

/**
 * state_default - the state directory of a mount without -o state=
 * @dir: PATH_MAX
 *
 * root: /var/lib/kvfs/NAME; others: $XDG_STATE_HOME/kvfs/NAME, or
 * ~/.local/state/kvfs/NAME.
 * Returns: 0 or -errno.
 */
int state_default(const char *mountpoint, char *dir);

/**
 * state_prepare - make the directory, or see that it is one of ours
 * @dir: resolved in place (PATH_MAX)
 * @why: STATE_WHY_BYTES; "object: what; what to do", set on failure
 *
 * Returns: 0 or -errno.
 */
int state_prepare(char *dir, char *why);

/**
 * state_lock - become the one who uses it
 * @wait_ms: how long to wait for a daemon that is about to end
 *
 * Returns: a descriptor (close-on-exec) that holds the lock, -EBUSY another
 *          daemon has it, or another -errno.
 */
int state_lock(const char *dir, unsigned wait_ms);

/**
 * state_patience_ms - how long it is worth to wait for the lock
 *
 * A daemon whose mount is gone, by umount(8) or because it was killed, is
 * about to let go; one that serves is not.
 */
unsigned state_patience_ms(const char *dir);

/** state_pid - who holds the lock, as its pid file says; 0: nobody knows. */
pid_t state_pid(const char *dir);

/** state_put - write one line to a file of the directory; 0 or -errno. */
int state_put(const char *dir, const char *name, const char *line);

/** state_get - read one line; 0 or -errno. */
int state_get(const char *dir, const char *name, char *line, size_t bytes);

/** state_has, state_drop - is a file there; remove it. */
bool state_has(const char *dir, const char *name);
void state_drop(const char *dir, const char *name);

#endif

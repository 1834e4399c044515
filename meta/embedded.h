/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_EMBEDDED_H
#define KVFS_META_EMBEDDED_H

/*
 * The private redis-server of a mount without -o meta=: a child process in
 * STATE/redis/, on a unix socket only the daemon's user can reach, with no
 * persistence (what it must remember is in ckpt.log and in the pool). A
 * thread of its own starts it, starts it again when it died, and takes it
 * along when the daemon dies.
 */

#include <stdint.h>
#include <sys/types.h>

struct embedded;

/**
 * embedded_open - start the server
 * @dir: STATE/redis, made if missing
 * @restarted: a new server was started in place of one that died; on the
 *             thread, must not wait
 *
 * Ends a server that a killed daemon left there. The server may not listen
 * yet at return: connecting is tried until it does.
 *
 * Returns: 0, or one logged line and -ENOENT (no redis-server installed),
 *          -EBUSY (another daemon uses the folder), or another -errno.
 */
int embedded_open(struct embedded **e, const char *dir,
		  void (*restarted)(void *ctx), void *ctx);

/** embedded_close - end the server and the thread. NULL is fine. */
void embedded_close(struct embedded *e);

/** embedded_socket - the path to connect to; valid until embedded_close. */
const char *embedded_socket(struct embedded *e);

uint64_t embedded_restarts(struct embedded *e);

/** embedded_pid - the server's; 0 while there is none. */
pid_t embedded_pid(struct embedded *e);

#endif

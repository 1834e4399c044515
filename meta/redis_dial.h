/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_REDIS_DIAL_H
#define KVFS_META_REDIS_DIAL_H

#include <stdint.h>

#include "meta/url.h"

struct resp_reader;
struct stream;

#define REDIS_WHY_MAX 256

/* How to get a connection that is ready for commands; redis.c's only. */
struct redis_dial {
	struct url url;
	char *password, *name;
	char *ca_file, *cert_file; /* of rediss://; NULL: stream.h */
	const char *library, *library_build, *library_fn;
	/* What the last success left, and the next one kills. */
	int64_t client_id; /* 0: none yet */
	char run_id[41];
};

/**
 * redis_dial - connect, authenticate, kill the previous connection, load
 *              the library; over TLS where the address says so
 * @wake_fd: readable: give up (-ESHUTDOWN, or the pause is over)
 * @stream, @reader: set only on success; the caller's from then on
 * @why: a sentence, on failure
 *
 * Returns: 0, -EACCES and -EPROTONOSUPPORT (trying again will not mend it),
 *          or what connect(2) and getaddrinfo(3) found, -ETIMEDOUT, -EPROTO,
 *          -EAGAIN (it is loading its data).
 */
int redis_dial(struct redis_dial *d, int wake_fd, int64_t deadline,
	       struct stream **stream, struct resp_reader **reader,
	       char why[static REDIS_WHY_MAX]);

/** redis_dial_library - the command that loads the library. */
struct redis_cmd;
void redis_dial_library(const struct redis_dial *d, struct redis_cmd *c);

#endif

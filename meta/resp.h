/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_RESP_H
#define KVFS_META_RESP_H

/* The wire format of Redis. resp.c is the one file that knows hiredis. */

#include <stddef.h>

struct redis_cmd;
struct redis_reply;
struct resp_reader;

/* What one reply may take; a server that sends more is not one of ours. */
#define RESP_REPLY_BYTES_MAX (64u << 20)
#define RESP_ELEMENTS_MAX (1 << 20)

struct resp_reader *resp_reader_new(void);
void resp_reader_free(struct resp_reader *r); /* NULL is fine */

/** resp_feed - bytes from the socket; 0, -EPROTO or -ENOMEM. */
int resp_feed(struct resp_reader *r, const char *bytes, size_t n);

/**
 * resp_next - the next whole reply, in order
 * @reply: set to NULL when more bytes are needed
 *
 * Returns: 0, or -EPROTO (no later reply can be trusted), -ENOMEM.
 */
int resp_next(struct resp_reader *r, struct redis_reply **reply);

/**
 * resp_format - a command as it goes over the wire
 * @out: from malloc; set only on success
 *
 * Returns: 0, -EINVAL (no arguments), -E2BIG, -ENOMEM.
 */
int resp_format(const struct redis_cmd *cmd, char **out, size_t *n);

#endif

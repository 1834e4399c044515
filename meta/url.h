/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_URL_H
#define KVFS_META_URL_H

#include <stdbool.h>
#include <stdint.h>

/* Where Redis is: redis://[user@]host[:port][/db], the same over TLS with
 * rediss://, unix:///path[?db=n]. */
struct url {
	bool is_unix, is_tls;
	char host[1024]; /* or the socket's path */
	char user[65];	 /* "": the default user */
	uint16_t port;
	uint32_t db;
};

/**
 * url_parse - take an address apart
 * @why: set on failure to a sentence for people, static
 *
 * A password in the address is refused: it would be on a command line.
 * Returns: 0, -EINVAL, -ENAMETOOLONG.
 */
int url_parse(struct url *u, const char *text, const char **why);

/** url_format - as shown to people; buf holds URL_TEXT_MAX bytes. */
void url_format(const struct url *u, char *buf);
#define URL_TEXT_MAX 1200

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_MEMBER_H
#define KVFS_META_MEMBER_H

/*
 * A node's record and its load figures as they stand in Redis: text, so that
 * redis-cli shows it. Pure functions.
 *
 *      1 UUID up|draining WIRE TRANSPORTS HOST NAME [ADDRESS…]
 *      POOL USED BLOCKS VICTIM SERVING FETCHING
 *
 * VICTIM is 0 for none, else its age in ms plus 1. Single blanks between; in
 * HOST and NAME what is not visible ASCII, and '%', is %XX. A later version may
 * append words to both lines.
 */

#include <stdbool.h>
#include <stddef.h>

#include "meta/nodes.h"

#define MEMBER_TEXT_MAX \
	(128 + 6 * META_NODE_NAME_MAX + META_ADDRS_MAX * (META_ADDR_MAX + 1))
#define MEMBER_LOAD_MAX 160

bool member_uuid_valid(const char *uuid, size_t n);

/** member_addr_valid - visible ASCII, 1 to META_ADDR_MAX of it */
bool member_addr_valid(const char *addr);

void member_encode(const struct meta_node *node,
		   char out[static MEMBER_TEXT_MAX]);

/** member_decode - fill all but incarnation, is_self and the load; 0 or
 *  -EPROTO, and then node is as it was. */
int member_decode(const char *text, size_t n, struct meta_node *node);

void member_load_encode(const struct meta_load *load,
			char out[static MEMBER_LOAD_MAX]);
int member_load_decode(const char *text, size_t n, struct meta_load *load);

#endif

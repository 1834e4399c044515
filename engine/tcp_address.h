/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_TCP_ADDRESS_H
#define KVFS_ENGINE_TCP_ADDRESS_H

/* Where a node listens, in words and as sockets have it. */

#include "engine/engine.h"

#include <stdbool.h>
#include <sys/socket.h>

struct tcp_address {
	struct sockaddr_storage sa;
	socklen_t len;
};

bool tcp_address_is_unix(const char *address);
/** tcp_address_parse - "tcp:10.0.0.1:7077", "unix:/path". 0 or -EINVAL. */
int tcp_address_parse(const char *address, struct tcp_address *a);
/** tcp_address_is_local - loopback or unix: reachable from here alone. */
bool tcp_address_is_local(const struct tcp_address *a);
void tcp_address_format(const struct tcp_address *a,
			char text[ENGINE_ADDRESS_BYTES]);

#endif

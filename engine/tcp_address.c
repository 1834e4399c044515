// SPDX-License-Identifier: MIT
#include "engine/tcp_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

bool tcp_address_is_unix(const char *address)
{
	return !strncmp(address, "unix:", 5);
}

static int parse_unix(const char *path, struct tcp_address *a)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&a->sa;

	if (*path != '/' || strlen(path) >= sizeof(un->sun_path))
		return -EINVAL;
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, path);
	a->len = sizeof(*un);
	return 0;
}

static int parse_port(const char *text, uint16_t *port)
{
	char *end;
	unsigned long v;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	v = strtoul(text, &end, 10);
	if (*end || v > UINT16_MAX)
		return -EINVAL;
	*port = htons((uint16_t)v);
	return 0;
}

static int parse_host(const char *host, uint16_t port, struct tcp_address *a)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&a->sa;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->sa;

	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = port;
		a->len = sizeof(*v4);
		return 0;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = port;
		a->len = sizeof(*v6);
		return 0;
	}
	return -EINVAL;
}

int tcp_address_parse(const char *address, struct tcp_address *a)
{
	char host[INET6_ADDRSTRLEN + 3], *h = host;
	const char *colon;
	uint16_t port;
	size_t n;

	memset(a, 0, sizeof(*a));
	if (tcp_address_is_unix(address))
		return parse_unix(address + 5, a);
	if (strncmp(address, "tcp:", 4))
		return -EINVAL;
	address += 4;
	colon = strrchr(address, ':');
	n = colon ? (size_t)(colon - address) : 0;
	if (!n || n >= sizeof(host) || parse_port(colon + 1, &port))
		return -EINVAL;
	memcpy(host, address, n);
	host[n] = '\0';
	if (*h == '[' && host[n - 1] == ']') {
		host[n - 1] = '\0';
		h++;
	}
	return parse_host(h, port, a);
}

bool tcp_address_is_local(const struct tcp_address *a)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a->sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a->sa;

	switch (a->sa.ss_family) {
	case AF_INET:
		return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
	case AF_INET6:
		return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
	default:
		return true;
	}
}

void tcp_address_format(const struct tcp_address *a,
			char text[ENGINE_ADDRESS_BYTES])
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a->sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a->sa;
	const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
	char host[INET6_ADDRSTRLEN];

	if (a->sa.ss_family == AF_UNIX) {
		snprintf(text, ENGINE_ADDRESS_BYTES, "unix:%.*s",
			 ENGINE_ADDRESS_BYTES - 6, un->sun_path);
	} else if (a->sa.ss_family == AF_INET) {
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
		snprintf(text, ENGINE_ADDRESS_BYTES, "tcp:%s:%u", host,
			 ntohs(v4->sin_port));
	} else {
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
		snprintf(text, ENGINE_ADDRESS_BYTES, "tcp:[%s]:%u", host,
			 ntohs(v6->sin6_port));
	}
}

// SPDX-License-Identifier: MIT
#include "engine/numa.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/sysfs.h"

#define POLICY_NODE 1 /* MPOL_F_NODE: of linux/mempolicy.h */
#define POLICY_ADDR 2 /* MPOL_F_ADDR */

/* One node's row: its distance to each. Returns: how many there are. */
static unsigned read_row(const char *line, unsigned char *row)
{
	unsigned n = 0;
	char *end;

	for (; n < NUMA_NODES_MAX; n++, line = end) {
		unsigned long d = strtoul(line, &end, 10);

		if (end == line)
			break;
		if (d < NUMA_NEAR || d > UINT8_MAX)
			return 0;
		row[n] = (unsigned char)d;
	}
	return n;
}

void numa_load(const char *sys, struct numa *numa)
{
	char line[NUMA_NODES_MAX * 8];
	unsigned n = 0, width = 1;

	memset(numa, 0, sizeof(*numa));
	for (; n < NUMA_NODES_MAX; n++) {
		if (!sysfs_read(line, sizeof(line),
				"%s/devices/system/node/node%u/distance", sys,
				n))
			break;
		width = read_row(line, numa->distance[n]);
	}
	/* Nodes with gaps between their numbers are left alone. */
	numa->n = n == width ? n : 0;
}

unsigned numa_distance(const struct numa *numa, int a, int b)
{
	if (a < 0 || b < 0 || (unsigned)a >= numa->n || (unsigned)b >= numa->n)
		return NUMA_NEAR;
	return numa->distance[a][b];
}

int numa_of_interface(const char *sys, const char *name)
{
	char line[16];
	bool known = sysfs_read(line, sizeof(line),
				"%s/class/net/%s/device/numa_node", sys, name);

	return known ? atoi(line) : NUMA_UNKNOWN;
}

static bool same_ip(const struct sockaddr *a, const struct sockaddr_storage *b)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)b;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)b;

	if (!a || a->sa_family != b->ss_family)
		return false;
	if (a->sa_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       v4->sin_addr.s_addr;
	return a->sa_family == AF_INET6 &&
	       !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
		       &v6->sin6_addr, sizeof(v6->sin6_addr));
}

int numa_of_socket(const char *sys, int fd)
{
	struct sockaddr_storage own = {};
	socklen_t len = sizeof(own);
	struct ifaddrs *all, *i;
	int node = NUMA_UNKNOWN;

	if (getsockname(fd, (struct sockaddr *)&own, &len) || getifaddrs(&all))
		return NUMA_UNKNOWN;
	for (i = all; i && !same_ip(i->ifa_addr, &own); i = i->ifa_next)
		;
	if (i)
		node = numa_of_interface(sys, i->ifa_name);
	freeifaddrs(all);
	return node;
}

int numa_of_memory(const void *page)
{
	int node;

	if (syscall(SYS_get_mempolicy, &node, NULL, 0, page,
		    POLICY_NODE | POLICY_ADDR))
		return NUMA_UNKNOWN;
	return node;
}

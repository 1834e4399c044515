/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_NUMA_H
#define KVFS_ENGINE_NUMA_H

/*
 * Which memory is near which network card. On a machine with one node, or
 * where the kernel does not say, everything is equally near and nothing of
 * this costs a system call.
 */

#define NUMA_NODES_MAX 16
#define NUMA_NEAR 10 /* as the kernel has it: the distance to itself */
#define NUMA_UNKNOWN (-1)

struct numa {
	unsigned n; /* nodes; 0 or 1: there is nothing to choose */
	unsigned char distance[NUMA_NODES_MAX][NUMA_NODES_MAX];
};

/**
 * numa_load - the machine's nodes and their distances
 * @sys: where sysfs is ("/sys")
 * @numa: n is 0 where anything about it is odd
 */
void numa_load(const char *sys, struct numa *numa);

/** numa_distance - NUMA_NEAR where either is unknown. */
unsigned numa_distance(const struct numa *numa, int a, int b);

/** numa_of_interface - whose card it is ("eth0"); NUMA_UNKNOWN for one without
 *  a card: loopback, a bridge, a bond. */
int numa_of_interface(const char *sys, const char *name);

/** numa_of_socket - the node of the card that a connected socket's own address
 *  belongs to, or NUMA_UNKNOWN. */
int numa_of_socket(const char *sys, int fd);

/** numa_of_memory - where a page is (it is brought in), or NUMA_UNKNOWN. */
int numa_of_memory(const void *page);

#endif

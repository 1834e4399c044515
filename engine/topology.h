/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_TOPOLOGY_H
#define KVFS_ENGINE_TOPOLOGY_H

/*
 * Which RDMA port for which memory: what sysfs says about cards, GPUs, the
 * PCIe tree and the NUMA nodes, and from it, for each place where memory is,
 * the ports in the order in which to use them.
 *
 *      node0 ─── pci0000:17 ─── root port ─── switch ─┬─ gpu0
 *        │                                            └─ mlx5_0   PIX of gpu0
 *        │       pci0000:3a ─── root port ─────────────── mlx5_1  NODE
 *      node1 ─── pci0000:97 ─── …                     ─── mlx5_4  SYS
 *
 * Needs no verbs library and no driver: without a card there are no ports.
 */

#include <stdbool.h>
#include <stdint.h>

#include "engine/numa.h"
#include "engine/sysfs.h"

#define TOPOLOGY_PORTS_MAX 64
#define TOPOLOGY_MEMORIES_MAX 64
#define TOPOLOGY_NETDEV_BYTES 16
#define TOPOLOGY_STATE_BYTES 16
#define TOPOLOGY_UVERBS_BYTES 16 /* "uverbs0" */

/* How far a port is from a memory, nearest first: the names of nvidia-smi. */
enum topology_relation {
	TOPOLOGY_PIX,  /* one PCIe switch between them */
	TOPOLOGY_PXB,  /* several, and no host bridge */
	TOPOLOGY_PHB,  /* one host bridge */
	TOPOLOGY_NODE, /* one NUMA node; all there is where it has no others */
	TOPOLOGY_SYS,  /* over the interconnect of the sockets; or unknown */
};

/* What addresses a port, worst first. */
enum gid_type {
	GID_NONE, /* nothing that can be used, as with iWARP */
	GID_ROCE_V1,
	GID_ROCE_V2,
	GID_IB,
};

struct topology_port {
	char device[SYSFS_NAME_BYTES];	    /* "mlx5_0" */
	unsigned number;		    /* from 1 */
	char netdev[TOPOLOGY_NETDEV_BYTES]; /* its interface, or "" */
	char state[TOPOLOGY_STATE_BYTES];   /* "ACTIVE", "DOWN", ... */
	uint32_t rate_mbit;		    /* 0: unknown */
	char uverbs[TOPOLOGY_UVERBS_BYTES]; /* of /dev/infiniband, or "" */
	struct pci_path pci; /* of a software device: its interface's card */
	int numa_node;	     /* or NUMA_UNKNOWN */
	enum gid_type gid_type;
	unsigned gid_index; /* the best of its table; with gid_type */
	uint8_t gid[GID_BYTES];
};

/* Memory of the host by NUMA node, or of a GPU. */
struct topology_memory {
	char name[16]; /* "node0", "host" (no NUMA), "gpu0" by PCI address */
	bool gpu;
	struct pci_path pci;
	int numa_node;
};

struct topology {
	struct numa numa;
	unsigned n_ports, n_memories;
	bool cut; /* there is more than fits in here */
	struct topology_port ports[TOPOLOGY_PORTS_MAX];
	struct topology_memory memories[TOPOLOGY_MEMORIES_MAX];
};

/**
 * topology_load - read the machine
 * @sys: where sysfs is ("/sys"), or a copy of another machine's
 *
 * Returns: 0, also where there is no card; or -errno, not logged: sysfs cannot
 *          be read.
 */
int topology_load(const char *sys, struct topology *t);

/** topology_usable - a transfer may use it: up, with a GID, and with a device
 *  that programs open (whether they may is not asked). */
bool topology_usable(const struct topology_port *p);

enum topology_relation topology_relation(const struct topology *t,
					 const struct topology_memory *m,
					 const struct topology_port *p);

/** topology_relation_name - "PIX", ... */
const char *topology_relation_name(enum topology_relation r);

/** topology_gid_name - "RoCE v2", ...; "" of GID_NONE. */
const char *topology_gid_name(enum gid_type type);

/**
 * topology_rank - how well a port suits a memory: the less, the better
 *
 * Nearer goes before farther (the relation, then the distance of the NUMA
 * nodes), then faster before slower. The engine takes the links of ports with
 * the least rank first, those of equal rank alike, and others while these have
 * no room, or are gone (engine_pump.c).
 */
uint64_t topology_rank(const struct numa *numa, const struct topology_memory *m,
		       const struct topology_port *p);

/**
 * topology_place - where a port is, and how fast
 * @p: device, number and netdev are set; pci, numa_node and rate_mbit will be
 */
void topology_place(const char *sys, struct topology_port *p);

/**
 * topology_prefer - the usable ports by their rank, the best first
 * @order: indices into t->ports; of equals, as sysfs has them
 *
 * Returns: how many.
 */
unsigned topology_prefer(const struct topology *t,
			 const struct topology_memory *m,
			 unsigned order[TOPOLOGY_PORTS_MAX]);

#endif

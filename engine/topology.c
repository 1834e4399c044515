// SPDX-License-Identifier: MIT
#include "engine/topology.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define NODE_TYPE_CA '1'

#define PCI_VENDOR_AMD 0x1002
#define PCI_VENDOR_NVIDIA 0x10de
#define PCI_CLASS_VGA 0x0300
#define PCI_CLASS_3D 0x0302
#define PCI_CLASS_ACCELERATOR 0x1200

static const uint8_t gid_zero[GID_BYTES];

/* ---- where a device is --------------------------------------------------- */

static void pci_of(const char *link, struct pci_path *pci)
{
	cleanup_free char *real = realpath(link, NULL);

	pci_path_parse(real ? real : "", pci);
}

static int numa_of_pci(const char *sys, const struct pci_path *pci)
{
	char line[16];

	if (!sysfs_read(line, sizeof(line), "%s/bus/pci/devices/%s/numa_node",
			sys, pci_path_name(pci)))
		return NUMA_UNKNOWN;
	return atoi(line) < 0 ? NUMA_UNKNOWN : atoi(line);
}

/* ---- ports --------------------------------------------------------------- */

/* Of RoCE v2 an IPv4 address is routed everywhere, a link-local one nowhere. */
static unsigned gid_worth(enum gid_type type, const uint8_t gid[GID_BYTES])
{
	static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};
	bool local = gid[0] == 0xfe && (gid[1] & 0xc0) == 0x80;
	unsigned reach = !memcmp(gid, v4, sizeof(v4)) ? 2 : !local;

	return type == GID_NONE ? 0 : type * 4 + reach;
}

/* Of an entry that is not in use, the type cannot be read. */
static enum gid_type gid_type_of(const char *port, unsigned index, bool ib)
{
	char type[16];

	if (ib)
		return GID_IB;
	if (!sysfs_read(type, sizeof(type), "%s/gid_attrs/types/%u", port,
			index))
		return GID_NONE;
	return strcmp(type, "RoCE v2") ? GID_ROCE_V1 : GID_ROCE_V2;
}

/* Takes an entry of the port's table if it is better than what p has. */
static void gid_consider(const char *port, unsigned index, bool ib,
			 struct topology_port *p)
{
	uint8_t gid[GID_BYTES];
	enum gid_type type;
	char line[64];

	if (!sysfs_read(line, sizeof(line), "%s/gids/%u", port, index) ||
	    !gid_parse(line, gid) || !memcmp(gid, gid_zero, GID_BYTES))
		return;
	type = gid_type_of(port, index, ib);
	if (gid_worth(type, gid) <= gid_worth(p->gid_type, p->gid))
		return;
	p->gid_type = type;
	p->gid_index = index;
	memcpy(p->gid, gid, GID_BYTES);
}

static void gid_choose(const char *port, bool ib, struct topology_port *p)
{
	char folder[PATH_MAX + NAME_MAX + 16];
	struct dirent **names;
	int n;

	snprintf(folder, sizeof(folder), "%s/gids", port);
	n = sysfs_list(folder, &names);
	for (int i = 0; i < n; i++)
		gid_consider(port,
			     (unsigned)strtoul(names[i]->d_name, NULL, 10), ib,
			     p);
	sysfs_list_free(names, n);
}

/* "4: ACTIVE" */
static void read_state(const char *port, struct topology_port *p)
{
	char line[32];
	const char *word;

	sysfs_read(line, sizeof(line), "%s/state", port);
	word = strstr(line, ": ");
	snprintf(p->state, sizeof(p->state), "%.*s", (int)sizeof(p->state) - 1,
		 word ? word + 2 : "?");
}

static void read_port(const char *port, bool ca, struct topology_port *p)
{
	char line[64];
	bool ib;

	read_state(port, p);
	ib = sysfs_read(line, sizeof(line), "%s/link_layer", port) &&
	     !strcmp(line, "InfiniBand");
	if (ca)
		gid_choose(port, ib, p);
	sysfs_read(p->netdev, sizeof(p->netdev), "%s/gid_attrs/ndevs/%u", port,
		   p->gid_index);
	if (strchr(p->netdev, '/'))
		*p->netdev = '\0';
}

void topology_place(const char *sys, struct topology_port *p)
{
	char link[PATH_MAX], line[64];

	sysfs_read(line, sizeof(line), "%s/class/infiniband/%s/ports/%u/rate",
		   sys, p->device, p->number);
	p->rate_mbit = rate_parse(line);
	snprintf(link, sizeof(link), "%s/class/infiniband/%s/device", sys,
		 p->device);
	pci_of(link, &p->pci);
	if (!p->pci.n && *p->netdev) {
		snprintf(link, sizeof(link), "%s/class/net/%s/device", sys,
			 p->netdev);
		pci_of(link, &p->pci);
	}
	p->numa_node = numa_of_pci(sys, &p->pci);
}

/* Each uverbs device names its card in "ibdev". */
static void find_uverbs(const char *sys, const char *device,
			char uverbs[TOPOLOGY_UVERBS_BYTES])
{
	char folder[PATH_MAX], line[SYSFS_NAME_BYTES];
	struct dirent **names;
	int n;

	*uverbs = '\0';
	snprintf(folder, sizeof(folder), "%s/class/infiniband_verbs", sys);
	n = sysfs_list(folder, &names);
	for (int i = 0; i < n; i++)
		if (strlen(names[i]->d_name) < TOPOLOGY_UVERBS_BYTES &&
		    sysfs_read(line, sizeof(line), "%s/%s/ibdev", folder,
			       names[i]->d_name) &&
		    !strcmp(line, device))
			strcpy(uverbs, names[i]->d_name);
	sysfs_list_free(names, n);
}

static int add_ports(struct topology *t, const char *sys, const char *device)
{
	char ports[PATH_MAX], port[PATH_MAX + NAME_MAX + 2], type[16];
	char uverbs[TOPOLOGY_UVERBS_BYTES];
	struct dirent **names;
	int n;

	find_uverbs(sys, device, uverbs);
	sysfs_read(type, sizeof(type), "%s/class/infiniband/%s/node_type", sys,
		   device);
	snprintf(ports, sizeof(ports), "%s/class/infiniband/%s/ports", sys,
		 device);
	n = sysfs_list(ports, &names);
	for (int i = 0; i < n; i++) {
		struct topology_port *p = &t->ports[t->n_ports];

		if (t->n_ports == TOPOLOGY_PORTS_MAX) {
			t->cut = true;
			break;
		}
		memset(p, 0, sizeof(*p));
		strcpy(p->device, device);
		strcpy(p->uverbs, uverbs);
		p->number = (unsigned)strtoul(names[i]->d_name, NULL, 10);
		snprintf(port, sizeof(port), "%s/%s", ports, names[i]->d_name);
		read_port(port, *type == NODE_TYPE_CA, p);
		topology_place(sys, p);
		t->n_ports++;
	}
	sysfs_list_free(names, n);
	return n < 0 ? n : 0;
}

static int load_ports(struct topology *t, const char *sys)
{
	char folder[PATH_MAX];
	struct dirent **names;
	int n, rc;

	snprintf(folder, sizeof(folder), "%s/class/infiniband", sys);
	n = sysfs_list(folder, &names);
	rc = n < 0 ? n : 0;
	for (int i = 0; i < n && !rc; i++)
		if (strlen(names[i]->d_name) < SYSFS_NAME_BYTES)
			rc = add_ports(t, sys, names[i]->d_name);
	sysfs_list_free(names, n);
	return rc;
}

/* ---- memory -------------------------------------------------------------- */

static struct topology_memory *add_memory(struct topology *t)
{
	if (t->n_memories < TOPOLOGY_MEMORIES_MAX)
		return &t->memories[t->n_memories++];
	t->cut = true;
	return NULL;
}

static void load_host(struct topology *t)
{
	for (unsigned i = 0; i < (t->numa.n ? t->numa.n : 1); i++) {
		struct topology_memory *m = add_memory(t);

		if (t->numa.n)
			snprintf(m->name, sizeof(m->name), "node%u", i);
		else
			strcpy(m->name, "host");
		m->numa_node = t->numa.n ? (int)i : NUMA_UNKNOWN;
	}
}

static unsigned long read_hex(const char *sys, const char *bdf,
			      const char *what)
{
	char line[32];

	sysfs_read(line, sizeof(line), "%s/bus/pci/devices/%s/%s", sys, bdf,
		   what);
	return strtoul(line, NULL, 16);
}

/* A VGA controller may as well be the board's own: then it is another's. */
static bool is_gpu(const char *sys, const char *bdf)
{
	unsigned long class = read_hex(sys, bdf, "class") >> 8;
	unsigned long vendor;

	if (class == PCI_CLASS_3D || class == PCI_CLASS_ACCELERATOR)
		return true;
	if (class != PCI_CLASS_VGA)
		return false;
	vendor = read_hex(sys, bdf, "vendor");
	return vendor == PCI_VENDOR_NVIDIA || vendor == PCI_VENDOR_AMD;
}

static int load_gpus(struct topology *t, const char *sys)
{
	char folder[PATH_MAX / 2], link[PATH_MAX];
	struct topology_memory *m;
	struct dirent **names;
	unsigned n_gpus = 0;
	int n;

	snprintf(folder, sizeof(folder), "%s/bus/pci/devices", sys);
	n = sysfs_list(folder, &names);
	for (int i = 0; i < n; i++) {
		if (!is_gpu(sys, names[i]->d_name))
			continue;
		m = add_memory(t);
		if (!m)
			break;
		snprintf(m->name, sizeof(m->name), "gpu%u", n_gpus++);
		snprintf(link, sizeof(link), "%s/%s", folder, names[i]->d_name);
		pci_of(link, &m->pci);
		m->numa_node = numa_of_pci(sys, &m->pci);
		m->gpu = true;
	}
	sysfs_list_free(names, n);
	return n < 0 ? n : 0;
}

int topology_load(const char *sys, struct topology *t)
{
	int rc;

	memset(t, 0, sizeof(*t));
	numa_load(sys, &t->numa);
	load_host(t);
	rc = load_gpus(t, sys);
	return rc ? rc : load_ports(t, sys);
}

/* ---- which for which ----------------------------------------------------- */

bool topology_usable(const struct topology_port *p)
{
	return *p->uverbs && p->gid_type != GID_NONE &&
	       !strcmp(p->state, "ACTIVE");
}

static enum topology_relation by_numa(const struct numa *numa, int a, int b)
{
	if (numa->n <= 1)
		return TOPOLOGY_NODE;
	return a == b && a != NUMA_UNKNOWN ? TOPOLOGY_NODE : TOPOLOGY_SYS;
}

static enum topology_relation relation(const struct numa *numa,
				       const struct topology_memory *m,
				       const struct topology_port *p)
{
	unsigned common = pci_path_common(&m->pci, &p->pci);
	unsigned longer = m->pci.n > p->pci.n ? m->pci.n : p->pci.n;

	if (!common)
		return by_numa(numa, m->numa_node, p->numa_node);
	if (common == 1)
		return TOPOLOGY_PHB;
	/* Below the switch both have a port of it, and themselves. */
	return longer - common <= 2 ? TOPOLOGY_PIX : TOPOLOGY_PXB;
}

enum topology_relation topology_relation(const struct topology *t,
					 const struct topology_memory *m,
					 const struct topology_port *p)
{
	return relation(&t->numa, m, p);
}

const char *topology_relation_name(enum topology_relation r)
{
	static const char *const names[] = {"PIX", "PXB", "PHB", "NODE", "SYS"};

	return names[r];
}

const char *topology_gid_name(enum gid_type type)
{
	static const char *const names[] = {"", "RoCE v1", "RoCE v2",
					    "InfiniBand"};

	return names[type];
}

uint64_t topology_rank(const struct numa *numa, const struct topology_memory *m,
		       const struct topology_port *p)
{
	uint64_t far = numa_distance(numa, m->numa_node, p->numa_node);

	return (uint64_t)relation(numa, m, p) << 48 | far << 32 |
	       (UINT32_MAX - p->rate_mbit);
}

unsigned topology_prefer(const struct topology *t,
			 const struct topology_memory *m,
			 unsigned order[TOPOLOGY_PORTS_MAX])
{
	uint64_t ranks[TOPOLOGY_PORTS_MAX], rank;
	unsigned n = 0, at;

	for (unsigned i = 0; i < t->n_ports; i++) {
		if (!topology_usable(&t->ports[i]))
			continue;
		rank = topology_rank(&t->numa, m, &t->ports[i]);
		for (at = n++; at && rank < ranks[at - 1]; at--) {
			order[at] = order[at - 1];
			ranks[at] = ranks[at - 1];
		}
		order[at] = i;
		ranks[at] = rank;
	}
	return n;
}

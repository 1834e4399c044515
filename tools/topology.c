// SPDX-License-Identifier: MIT
#include "tools/topology.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/json.h"
#include "tools/term.h"
#include "tools/verb.h"

#define VERBS_LIBRARY "libibverbs.so.1"

struct topology_args {
	const char *sys;
	bool json, dot;
};

const char *topology_label(const struct topology_port *p,
			   char buf[PORT_LABEL_BYTES])
{
	snprintf(buf, PORT_LABEL_BYTES, "%s:%u", p->device, p->number);
	return buf;
}

/* As inet_ntop has it: "::ffff:10.9.0.1" for an address of IPv4. */
static const char *gid_text(const struct topology_port *p,
			    char buf[INET6_ADDRSTRLEN])
{
	return inet_ntop(AF_INET6, p->gid, buf, INET6_ADDRSTRLEN);
}

/* ---- tables -------------------------------------------------------------- */

static void add_text(struct table *t, const char *text)
{
	char shown[SYSFS_NAME_BYTES * 2];

	table_add(t, "%s",
		  *text ? term_printable(text, shown, sizeof(shown)) : "-");
}

static void add_node(struct table *t, int numa_node)
{
	if (numa_node == NUMA_UNKNOWN)
		table_add(t, "-");
	else
		table_add(t, "%d", numa_node);
}

static void add_gid(struct table *t, const struct topology_port *p)
{
	char gid[INET6_ADDRSTRLEN];

	if (p->gid_type == GID_NONE) {
		table_add(t, "-");
		table_add(t, "-");
		return;
	}
	table_add(t, "%s", topology_gid_name(p->gid_type));
	table_add(t, "%u %s", p->gid_index, gid_text(p, gid));
}

static void print_ports(const struct topology *t)
{
	static const struct table_column columns[] = {
		{"port", false}, {"state", false}, {"Gb/s", true},
		{"numa", true},	 {"pci", false},   {"interface", false},
		{"kind", false}, {"gid", false}};
	struct table *table = table_new(columns, 8);
	char label[PORT_LABEL_BYTES];

	for (unsigned i = 0; i < t->n_ports; i++) {
		const struct topology_port *p = &t->ports[i];

		add_text(table, topology_label(p, label));
		add_text(table, p->state);
		if (p->rate_mbit)
			table_add(table, "%g", p->rate_mbit / 1000.0);
		else
			table_add(table, "-");
		add_node(table, p->numa_node);
		add_text(table, pci_path_name(&p->pci));
		add_text(table, p->netdev);
		add_gid(table, p);
	}
	table_print(table, stdout);
	table_free(table);
}

/* "mlx5_0:1 mlx5_1:1 (PIX), mlx5_2:1 (NODE)" */
static void add_order(struct table *table, const struct topology *t,
		      const struct topology_memory *m)
{
	unsigned order[TOPOLOGY_PORTS_MAX], n = topology_prefer(t, m, order);
	char label[PORT_LABEL_BYTES], shown[PORT_LABEL_BYTES];
	cleanup_free char *text = NULL;
	size_t text_bytes;
	FILE *f = open_memstream(&text, &text_bytes);

	for (unsigned i = 0; f && i < n; i++) {
		enum topology_relation r =
			topology_relation(t, m, &t->ports[order[i]]);
		bool last =
			i + 1 == n ||
			topology_relation(t, m, &t->ports[order[i + 1]]) != r;

		topology_label(&t->ports[order[i]], label);
		fputs(term_printable(label, shown, sizeof(shown)), f);
		if (last)
			fprintf(f, " (%s)", topology_relation_name(r));
		fputs(i + 1 == n ? "" : last ? ", " : " ", f);
	}
	if (f)
		fclose(f);
	table_add(table, "%s", text && *text ? text : "-");
}

static void print_memories(const struct topology *t)
{
	static const struct table_column columns[] = {
		{"memory", false},
		{"numa", true},
		{"pci", false},
		{"ports, the best first", false}};
	struct table *table = table_new(columns, 4);

	for (unsigned i = 0; i < t->n_memories; i++) {
		const struct topology_memory *m = &t->memories[i];

		add_text(table, m->name);
		add_node(table, m->numa_node);
		add_text(table, pci_path_name(&m->pci));
		add_order(table, t, m);
	}
	table_print(table, stdout);
	table_free(table);
}

/* ---- JSON ---------------------------------------------------------------- */

static json_t *node_json(int numa_node)
{
	return numa_node == NUMA_UNKNOWN ? json_null()
					 : json_integer(numa_node);
}

static json_t *gid_json(const struct topology_port *p)
{
	char gid[INET6_ADDRSTRLEN];

	if (p->gid_type == GID_NONE)
		return json_null();
	return json_pack("{s:i, s:s, s:s}", "index", (int)p->gid_index, "type",
			 topology_gid_name(p->gid_type), "gid",
			 gid_text(p, gid));
}

static json_t *port_json(const struct topology_port *p)
{
	char label[PORT_LABEL_BYTES];

	return json_pack("{s:o, s:o, s:i, s:o, s:i, s:o, s:s, s:o, s:b, s:o}",
			 "port", json_name(topology_label(p, label)), "device",
			 json_name(p->device), "number", (int)p->number,
			 "state", json_name(p->state), "rate_mbit_s",
			 (int)p->rate_mbit, "numa_node",
			 node_json(p->numa_node), "pci", pci_path_name(&p->pci),
			 "interface", json_name(p->netdev), "usable",
			 topology_usable(p), "gid", gid_json(p));
}

static json_t *memory_json(const struct topology *t,
			   const struct topology_memory *m)
{
	unsigned order[TOPOLOGY_PORTS_MAX], n = topology_prefer(t, m, order);
	json_t *ports = json_array();
	char label[PORT_LABEL_BYTES];

	for (unsigned i = 0; i < n; i++) {
		const struct topology_port *p = &t->ports[order[i]];
		enum topology_relation r = topology_relation(t, m, p);

		json_array_append_new(
			ports,
			json_pack("{s:o, s:s}", "port",
				  json_name(topology_label(p, label)),
				  "relation", topology_relation_name(r)));
	}
	return json_pack("{s:s, s:b, s:o, s:s, s:o}", "name", m->name, "gpu",
			 m->gpu, "numa_node", node_json(m->numa_node), "pci",
			 pci_path_name(&m->pci), "ports", ports);
}

static void put_json(const struct topology *t)
{
	json_t *ports = json_array(), *memories = json_array();

	for (unsigned i = 0; i < t->n_ports; i++)
		json_array_append_new(ports, port_json(&t->ports[i]));
	for (unsigned i = 0; i < t->n_memories; i++)
		json_array_append_new(memories,
				      memory_json(t, &t->memories[i]));
	json_put(json_pack("{s:o, s:o}", "ports", ports, "memories", memories));
}

/* ---- what is missing ----------------------------------------------------- */

/* May we open it? A container often has no /dev/infiniband. */
static int try_open(const struct topology_port *p)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/infiniband/%s", p->uverbs);
	return access(path, R_OK | W_OK) ? -errno : 0;
}

/* Says what is wrong with a port. Returns: whether nothing is. */
static bool check_port(const struct topology_port *p, bool this_machine)
{
	char label[PORT_LABEL_BYTES], shown[PORT_LABEL_BYTES];
	int rc = this_machine && *p->uverbs ? try_open(p) : 0;

	topology_label(p, label);
	term_printable(label, shown, sizeof(shown));
	if (strcmp(p->state, "ACTIVE"))
		verb_fail(0, "%s: its link is not up; see 'rdma link'", shown);
	else if (p->gid_type == GID_NONE)
		verb_fail(0,
			  "%s: it has no GID of RoCE or InfiniBand; give its "
			  "interface an address (iWARP is not supported)",
			  shown);
	else if (!*p->uverbs)
		verb_fail(0,
			  "%s: programs cannot open it; 'modprobe ib_uverbs'",
			  shown);
	else if (rc)
		verb_fail(0,
			  "%s: /dev/infiniband/%s: %s; run as root, or give "
			  "the container this device",
			  shown, p->uverbs, strerror(-rc));
	return topology_usable(p) && !rc;
}

static bool check_library(void)
{
	void *verbs = dlopen(VERBS_LIBRARY, RTLD_LAZY);

	if (verbs)
		dlclose(verbs);
	else
		verb_fail(0,
			  "%s: not installed; packages libibverbs1 and "
			  "ibverbs-providers, or rdma-core",
			  VERBS_LIBRARY);
	return verbs;
}

/* Returns: the exit status. */
static int check(const struct topology *t, bool this_machine)
{
	bool library = !this_machine || check_library();
	unsigned n_usable = 0;

	if (t->cut)
		verb_fail(0,
			  "not all is shown: this machine has more than %d "
			  "ports or %d memories",
			  TOPOLOGY_PORTS_MAX, TOPOLOGY_MEMORIES_MAX);
	for (unsigned i = 0; i < t->n_ports; i++)
		n_usable += check_port(&t->ports[i], this_machine);
	if (!t->n_ports)
		verb_fail(0, "no RDMA device; load the card's driver "
			     "('modprobe mlx5_ib', irdma, bnxt_re, ...), or "
			     "try without a card: 'modprobe rdma_rxe && "
			     "rdma link add rxe0 type rxe netdev eth0'");
	return library && n_usable ? EXIT_FINE : EXIT_NEGATIVE;
}

static int run(void *args, char **operands)
{
	const struct topology_args *a = args;
	cleanup_free struct topology *t = malloc(sizeof(*t));
	const char *sys = a->sys ? a->sys : "/sys";
	int rc;

	(void)operands;
	if (a->json && a->dot)
		return verb_fail(EXIT_USAGE, "--json or --dot, not both");
	if (!t)
		return verb_fail(EXIT_TROUBLE, "out of memory");
	rc = topology_load(sys, t);
	if (rc)
		return verb_fail(EXIT_TROUBLE, "%s: %s", sys, strerror(-rc));
	if (a->json) {
		put_json(t);
	} else if (a->dot) {
		topology_draw(t, stdout);
	} else {
		if (t->n_ports) {
			print_ports(t);
			putchar('\n');
		}
		print_memories(t);
	}
	fflush(stdout);
	return check(t, !a->sys);
}

static const struct option_spec options[] = {
	{"json", 0, OPTION_FLAG, offsetof(struct topology_args, json), NULL,
	 "the same as JSON"},
	{"dot", 0, OPTION_FLAG, offsetof(struct topology_args, dot), NULL,
	 "the PCIe tree as a graph for dot(1)"},
	{"sys", 0, OPTION_TEXT, offsetof(struct topology_args, sys), "DIR",
	 "read this copy of a machine's /sys"},
	{}};

const struct verb verb_topology = {
	.name = "topology",
	.operands = "",
	.summary = "which RDMA port is near which memory",
	.about = "The RDMA ports of this machine with their link, NUMA node, "
		 "place on the PCIe bus and the GID by which they are "
		 "addressed (RoCE v2 before v1, IPv4 before IPv6); and for "
		 "the memory of each NUMA node and GPU the ports that can be "
		 "used, the best first: nearer before farther, then faster "
		 "before slower. PIX: one PCIe switch between them, PXB: "
		 "several, PHB: one host bridge, NODE: one NUMA node, SYS: "
		 "over the interconnect of the sockets. What is missing for "
		 "RDMA is said.\n\n"
		 "Exit status: 0 there is a port that RDMA could use; 1 there "
		 "is none; 2, 3 as always.",
	.options = options,
	.args_bytes = sizeof(struct topology_args),
	.examples = "kvfs topology\n"
		    "kvfs topology --dot | dot -Tsvg >topology.svg\n"
		    "kvfs topology --json | jq '.memories[] | {name, ports}'",
	.run = run,
};

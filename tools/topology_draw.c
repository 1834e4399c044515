// SPDX-License-Identifier: MIT
/*
 * The graph is strict: the edges to a bridge are printed for each device
 * behind it, and drawn once.
 */
#include "tools/topology.h"

#include <string.h>

/* A name in quotes; those of sysfs may have any byte. */
static void put_id(FILE *out, const char *name)
{
	putc('"', out);
	for (; *name; name++)
		putc(*name == '"' || *name == '\\' || *name < ' ' ? '?' : *name,
		     out);
	putc('"', out);
}

static void put_edge(FILE *out, const char *a, const char *b, const char *how)
{
	putc('\t', out);
	put_id(out, a);
	fputs(" -- ", out);
	put_id(out, b);
	fprintf(out, "%s\n", how);
}

/* From the memory of its node over the bridges to a device. */
static void draw_way(const struct topology *t, const struct pci_path *pci,
		     int numa_node, const char *device, FILE *out)
{
	const char *last = t->memories[0].name;
	char node[16];

	if (t->numa.n && numa_node != NUMA_UNKNOWN) {
		snprintf(node, sizeof(node), "node%d", numa_node);
		last = node;
	}
	for (unsigned i = 0; i + 1 < pci->n; i++) {
		put_edge(out, last, pci->part[i], "");
		last = pci->part[i];
	}
	put_edge(out, last, device, "");
}

static void draw_memory(const struct topology *t,
			const struct topology_memory *m, FILE *out)
{
	fprintf(out, "\t\"%s\" [shape=%s, style=filled, fillcolor=%s]\n",
		m->name, m->gpu ? "box" : "folder",
		m->gpu ? "palegreen" : "lightgrey");
	if (m->gpu)
		draw_way(t, &m->pci, m->numa_node, m->name, out);
}

static void draw_port(const struct topology *t, const struct topology_port *p,
		      FILE *out)
{
	char label[PORT_LABEL_BYTES];

	putc('\t', out);
	put_id(out, topology_label(p, label));
	fprintf(out, " [shape=ellipse, style=%s, fillcolor=lightblue]\n",
		topology_usable(p) ? "filled" : "dotted");
	draw_way(t, &p->pci, p->numa_node, label, out);
}

static void draw_best(const struct topology *t, const struct topology_memory *m,
		      FILE *out)
{
	unsigned order[TOPOLOGY_PORTS_MAX];
	char label[PORT_LABEL_BYTES];

	if (m->gpu && topology_prefer(t, m, order))
		put_edge(out, m->name,
			 topology_label(&t->ports[order[0]], label),
			 " [style=dashed, color=blue, constraint=false]");
}

static void draw_interconnect(const struct numa *numa, FILE *out)
{
	for (unsigned a = 0; a < numa->n; a++)
		for (unsigned b = a + 1; b < numa->n; b++)
			fprintf(out,
				"\t\"node%u\" -- \"node%u\" [label=\"%u\", "
				"style=bold, constraint=false]\n",
				a, b, numa->distance[a][b]);
}

void topology_draw(const struct topology *t, FILE *out)
{
	fputs("strict graph topology {\n"
	      "\trankdir=LR; node [shape=plaintext, fontsize=10]\n",
	      out);
	for (unsigned i = 0; i < t->n_memories; i++)
		draw_memory(t, &t->memories[i], out);
	for (unsigned i = 0; i < t->n_ports; i++)
		draw_port(t, &t->ports[i], out);
	for (unsigned i = 0; i < t->n_memories; i++)
		draw_best(t, &t->memories[i], out);
	draw_interconnect(&t->numa, out);
	fputs("}\n", out);
}

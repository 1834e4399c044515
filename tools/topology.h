/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_TOPOLOGY_H
#define KVFS_TOOLS_TOPOLOGY_H

/* `kvfs topology`: topology.c reads and prints, topology_draw.c draws. */

#include <stdio.h>

#include "engine/topology.h"

#define PORT_LABEL_BYTES (SYSFS_NAME_BYTES + 12)

/** topology_label - "mlx5_0:1". Returns: buf. */
const char *topology_label(const struct topology_port *p,
			   char buf[PORT_LABEL_BYTES]);

/** topology_draw - the PCIe tree as a graph for dot(1). */
void topology_draw(const struct topology *t, FILE *out);

#endif

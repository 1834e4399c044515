/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_STATUS_H
#define KVFS_TOOLS_STATUS_H

#include <stdio.h>

#include "tools/json.h"

/*
 *      status.c       the verb: which mounts, JSON or drawn, once or again
 *      status_draw.c  one mount's .kvfs/status for people
 */

/** status_draw - what a mount says of itself; missing members are left out. */
void status_draw(json_t *status, FILE *out);

/** status_bar - the pool as a row of signs, `width` of them: '#' committed,
 *  '=' being written, '+' ready, '!' aside, '.' free. */
void status_bar(json_t *pool, unsigned width, char *bar);

#endif

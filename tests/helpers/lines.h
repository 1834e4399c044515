/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_LINES_H
#define KVFS_TESTS_LINES_H

/* Names from stdin, one a line; they stay until the process ends. */

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define LINES_MAX 20000

static const char *lines[LINES_MAX];

/** lines_read - Returns: how many there are. */
static inline uint32_t lines_read(void)
{
	char line[1024];
	uint32_t n = 0;

	while (n < LINES_MAX && fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		lines[n++] = strdup(line);
	}
	return n;
}

#endif

// SPDX-License-Identifier: MIT
#include "fs/caller.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

/*
 * FUSE has INTERRUPT for this. libfuse (3.18) keeps a list of all requests for
 * it, under one lock that every request takes, and does not put those that
 * come over io_uring on it. Waiting for a lock is the one thing that a signal
 * must end, so those who wait are looked at instead, and all others pay
 * nothing.
 *
 * The kernel turns our EINTR into "restart after the signal". A thread without
 * a signal would see a strange errno, so only what is certain counts: signals
 * to the thread; and those to its process if it is the only thread or the main
 * one, which gets them before others. A signal that kills the process is one
 * to each of its threads.
 */

static uint64_t field(const char *status, const char *name, int base)
{
	const char *p = strstr(status, name);

	return p ? strtoull(p + strlen(name), NULL, base) : 0;
}

bool caller_parse(const char *status)
{
	uint64_t open_to = ~field(status, "\nSigBlk:", 16);
	bool first =
		field(status, "\nThreads:", 10) == 1 ||
		field(status, "\nTgid:", 10) == field(status, "\nPid:", 10);

	return field(status, "\nSigPnd:", 16) & open_to ||
	       (first && field(status, "\nShdPnd:", 16) & open_to);
}

bool caller_signalled(pid_t tid)
{
	cleanup_close int fd = -1;
	char path[40], text[4096];
	ssize_t n;

	if (tid <= 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return false;
	text[n] = '\0';
	return caller_parse(text);
}

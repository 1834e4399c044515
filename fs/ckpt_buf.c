// SPDX-License-Identifier: MIT
#include "fs/ckpt_buf.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "fs/ckpt_fetch_wire.h"

#define KEPT_MAX 8

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *kept[KEPT_MAX];
static unsigned n_kept;

static void *take_kept(void)
{
	scoped_lock(&lock);

	return n_kept ? kept[--n_kept] : NULL;
}

static bool keep(void *buf)
{
	scoped_lock(&lock);

	if (n_kept == KEPT_MAX)
		return false;
	kept[n_kept++] = buf;
	return true;
}

void *cbuf_get(void)
{
	void *buf = take_kept();

	if (buf)
		return buf;
	buf = mmap(NULL, CWIRE_PART_MAX, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return buf == MAP_FAILED ? NULL : buf;
}

void cbuf_put(void *buf)
{
	if (buf && !keep(buf))
		munmap(buf, CWIRE_PART_MAX);
}

// SPDX-License-Identifier: MIT
/*
 * What a file costs on this tmpfs, and whether its pages are huge: tried out
 * at start, because it depends on the kernel and not on what was asked for.
 */
#include "engine/pool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define HUGE_BYTES (2u << 20)

/* Does a file of 2 MiB get a huge page? Asks by mapping it, 2 MiB aligned. */
static bool file_maps_huge(int fd)
{
	char *room = mmap(NULL, 2 * HUGE_BYTES, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char line[256], *at;
	unsigned long long start = 0, kib = 0;
	bool here = false;
	FILE *f;

	if (room == MAP_FAILED)
		return false;
	at = room + (-(uintptr_t)room & (HUGE_BYTES - 1));
	f = fopen("/proc/self/smaps", "re");
	if (mmap(at, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 fd, 0) == at)
		*(volatile char *)at = 1;
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx-", &start) == 1 && strchr(line, '-') &&
		    strchr(line, '-') < strchr(line, ' '))
			here = start == (uintptr_t)at;
		else if (here)
			sscanf(line, "ShmemPmdMapped: %llu", &kib);
	}
	if (f)
		fclose(f);
	munmap(room, 2 * HUGE_BYTES);
	return kib > 0;
}

static int probe_file(struct pool *p, bool *huge, uint32_t *step_pages)
{
	cleanup_close int fd =
		openat(p->dir_fd, "probe",
		       O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat st;
	int err = 0;

	if (fd >= 0 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 65536) &&
	    errno == ENOSPC) {
		/* Full of what was half written: take the best for granted. */
		*huge = true;
		*step_pages = 1;
	} else if (fd < 0 || fstat(fd, &st)) {
		err = -errno;
		log_error("pool: %s: cannot allocate in it: %s", p->dir,
			  strerror(-err));
	} else {
		*step_pages =
			st.st_blocks * 512 > 65536 ? HUGE_BYTES / POOL_PAGE : 1;
		*huge = !ftruncate(fd, 0) && !ftruncate(fd, HUGE_BYTES) &&
			!fallocate(fd, 0, 0, HUGE_BYTES) && file_maps_huge(fd);
	}
	unlinkat(p->dir_fd, "probe", 0);
	return err;
}

int mount_probe(struct pool *p)
{
	int err = probe_file(p, &p->huge, &p->step_pages);

	if (err || p->huge || !p->own_mount)
		return err;
	/* Exact sizes without huge pages: see whether "always" gives any. */
	if (!mount_with(p, "always", MS_REMOUNT)) {
		err = probe_file(p, &p->huge, &p->step_pages);
		if (err || p->huge)
			return err;
		mount_with(p, "within_size", MS_REMOUNT);
		p->step_pages = 1;
	}
	log_warn("pool: no huge pages here: blocks are copied at half speed");
	return 0;
}

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_SYSFS_H
#define KVFS_ENGINE_SYSFS_H

/*
 * What sysfs says about devices: one file, one value. The kernel writes it,
 * but a tree may also have been recorded on another machine, so nothing of it
 * is believed before it is checked.
 */

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SYSFS_NAME_BYTES 64 /* of a device; longer ones are left alone */
#define PCI_NAME_BYTES 16   /* "0000:1a:00.0", "pci0000:17" */
#define PCI_DEPTH_MAX 16
#define GID_BYTES 16

/**
 * sysfs_read - the first line of a file, without its newline
 * @line: "" where there is none
 *
 * Returns: whether there was one.
 */
bool sysfs_read(char *line, size_t line_bytes, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * sysfs_list - the names in a folder, the shorter first: 2 before 10
 * @names: release with sysfs_list_free
 *
 * Returns: how many; 0 also where the folder is missing; or -errno.
 */
int sysfs_list(const char *folder, struct dirent ***names);
void sysfs_list_free(struct dirent **names, int n);

/* From the root complex to a device, by way of the bridges between them. */
struct pci_path {
	unsigned n; /* 0: it is on no PCI bus */
	char part[PCI_DEPTH_MAX][PCI_NAME_BYTES];
};

/** pci_path_parse - of a device's real path; what hangs below it (virtio3) is
 *  left off. */
void pci_path_parse(const char *text, struct pci_path *path);

/** pci_path_name - the device's own address, or "". */
const char *pci_path_name(const struct pci_path *path);

/** pci_path_common - how many parts two of them share. */
unsigned pci_path_common(const struct pci_path *a, const struct pci_path *b);

/** gid_parse - "fe80:0000:…", eight groups. Returns: false it is none. */
bool gid_parse(const char *text, uint8_t gid[GID_BYTES]);

/** rate_parse - "100 Gb/sec (4X EDR)" in Mbit/s; 0: unknown. */
uint32_t rate_parse(const char *text);

#endif

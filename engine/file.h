/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_FILE_H
#define KVFS_ENGINE_FILE_H

/*
 * Copies from and to the disk tier (DISK): io_uring, without the page cache
 * where file and alignment allow, through registered buffers where they do
 * not. One thread, 8 MiB of buffers, at most 32 slices at a time. Without
 * io_uring the same thread reads and writes by itself.
 */
#include "engine/transport.h"

extern const struct transport_ops transport_file;

#endif

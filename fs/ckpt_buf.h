/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CKPT_BUF_H
#define KVFS_FS_CKPT_BUF_H

/*
 * Buffers for parts of shards on their way, all of CWIRE_PART_MAX bytes. A few
 * free ones are kept with their pages; the others go back to the kernel at
 * once, which malloc does not promise: left to it, a node that had moved
 * 10 GiB kept ten times the memory it needed.
 */

/** cbuf_get - its bytes are whatever they are; NULL: no memory. */
void *cbuf_get(void);

/** cbuf_put - NULL is fine. */
void cbuf_put(void *buf);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_DMABUF_H
#define KVFS_ENGINE_DMABUF_H

/*
 * Memory that only a card reaches: a dma-buf, as GPUs export theirs.
 *
 *      file of a frame ◀── a card of this machine ──▶ dma-buf
 *                 (its queue pair, connected to itself)
 *
 * It is no region of the engine: no grant lies on it, and no peer writes there
 * or reads from it. What comes from other nodes is received into a frame,
 * verified there, and copied by one of this machine's own cards, which is the
 * only way in or out. The dma-buf is registered for the card's own use alone,
 * with no remote access; the frame is open to that queue pair, which has no
 * other end, for as long as the copy takes.
 *
 * Which card is near a dma-buf cannot be read anywhere. Each one that takes it
 * copies a piece out of it, and the fastest is used. So a card that takes it
 * and cannot read it is found out when it is opened.
 *
 * Memory. A card in use: a queue pair, a completion queue, three descriptors;
 * a dma-buf: a registration. A copy under way has DMABUF_PIECE_BYTES of its
 * file registered; the copies of one card move their pieces one by one.
 */

#include <stdint.h>

#define DMABUF_PIECE_BYTES (4u << 20)

struct dmabufs; /* the cards in use */
struct dmabuf;

enum dmabuf_way { DMABUF_FROM_FILE, DMABUF_TO_FILE };

/** dmabufs_open - @devices: as engine_config's rdma_devices; copied. 0 or
 *  -ENOMEM. No card is opened before it is needed. */
int dmabufs_open(struct dmabufs **all, const char *devices);
/** dmabufs_close - every dmabuf is closed. */
void dmabufs_close(struct dmabufs *all);

/**
 * dmabuf_open - a part of a dma-buf, registered with a card
 * @fd: may be closed afterwards
 * @d: set only on success
 *
 * Returns: 0, -EOPNOTSUPP no card here takes it, or -ENOMEM. Why not is logged,
 *          once a minute.
 * Threads: any; takes milliseconds a card.
 */
int dmabuf_open(struct dmabufs *all, int fd, uint64_t offset,
		uint64_t length_bytes, struct dmabuf **d);
/** dmabuf_close - no copy of it is under way. Any thread. */
void dmabuf_close(struct dmabuf *d);

/**
 * dmabuf_copy - between it and a file that lives in memory
 * @at: in the dma-buf; all of the range is inside of it
 * @fd: open for reading and writing, and as long as the range reaches
 *
 * Nothing reads or writes either of them any more when this returns.
 * Returns: 0, -EIO the card failed, -ENODEV it is lost: so will all that
 *          follow, -ENOMEM memory cannot be registered, with what to do about
 *          it logged, -EFAULT the file's is not all there.
 * Threads: any; waits for the card.
 */
int dmabuf_copy(struct dmabuf *d, uint64_t at, enum dmabuf_way way, int fd,
		uint64_t offset, uint64_t length_bytes);

#endif

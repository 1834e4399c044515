/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_ORDER_H
#define KVFS_FS_ORDER_H

/*
 * The kernel orders what we do: a request that names an inode comes after the
 * answer that made it known. ThreadSanitizer does not see through the kernel,
 * so its builds are told; in others this is nothing.
 */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
extern char order_point;

static inline void order_answer(void)
{
	__tsan_release(&order_point);
}

static inline void order_request(void)
{
	__tsan_acquire(&order_point);
}
#else
static inline void order_answer(void)
{
}

static inline void order_request(void)
{
}
#endif

#endif

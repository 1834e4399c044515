// SPDX-License-Identifier: MIT
/*
 * Zero copy. A slice of ZERO_COPY_LEAST and more is sent from its own pages
 * (IORING_OP_SEND_ZC), registered for this one send. Both halves are needed:
 * on loopback, 4 MiB in huge pages, one connection, both ends (iperf3 1.5
 * GB/s, 0.6 to 0.8 CPU-s/GB in the same minute)
 *
 *      send, copied                  1.5-2.1 GB/s   0.55-0.63 CPU-s/GB
 *      SEND_ZC, not registered       0.8-1.3        0.56-0.79
 *      SEND_ZC, registered           2.3-2.7        0.35-0.42
 *
 * The kernel says afterwards whether it copied all the same, as it does where
 * no card sends from pages: then what it saves is less than it costs, but for
 * large slices (ZERO_COPY_LEAST_COPIED). CPU-s/GB of both ends, one connection,
 * 1 GB, two runs:
 *
 *                          64 KiB       256 KiB      1 MiB
 *      loopback, copied    0.68 0.75    0.49 0.65    0.47 0.45
 *      loopback, SEND_ZC   1.01 1.11    0.63 0.40    0.42 0.35
 *      veth, copied        0.83 0.84    0.72 0.75    0.65 0.60
 *      veth, SEND_ZC       0.89 1.03    0.98 0.85    0.75 0.39
 *
 * Registering pins pages: 5 us a MiB in huge pages, 50 to 90 in small ones,
 * where it eats what it gains. So it is timed, and small-paged memory copied.
 * Registered for one send and not for good, because a region's file may be
 * given other pages: what stays registered would send the old ones.
 */
#include "engine/tcp.h"

#include "base/clock.h"

#include <errno.h>

#define PIN_NS_PER_MIB_MAX 40000
#define PIN_TRY_AGAIN 32 /* one in so many, while it is too dear */

void tcp_slot_put(struct transport *t, int slot)
{
	struct iovec none = {};
	__u64 tag = 0;

	io_uring_register_buffers_update_tag(&t->ring, (unsigned)slot, &none,
					     &tag, 1);
	t->slots_used &= ~(1ull << slot);
}

int tcp_slot_get(struct transport *t, void *addr, size_t n)
{
	struct iovec iov = {addr, n};
	int64_t start, took;
	__u64 tag = 0;
	int slot, rc;

	if (!~t->slots_used)
		return -ENOBUFS;
	if (t->pin_ns_per_mib > PIN_NS_PER_MIB_MAX &&
	    ++t->pin_skipped < PIN_TRY_AGAIN)
		return -ENOBUFS;
	t->pin_skipped = 0;
	slot = __builtin_ctzll(~t->slots_used);
	start = clock_now_ns();
	rc = io_uring_register_buffers_update_tag(&t->ring, (unsigned)slot,
						  &iov, &tag, 1);
	if (rc != 1)
		return rc < 0 ? rc : -EIO;
	took = (clock_now_ns() - start) * (1 << 20) / (int64_t)n;
	t->pin_ns_per_mib += (took - t->pin_ns_per_mib) / 8;
	t->slots_used |= 1ull << slot;
	return slot;
}

// SPDX-License-Identifier: MIT
#include "engine/transport.h"

#include "config.h"

#include "engine/file.h"
#include "engine/local.h"
#include "engine/loop.h"
#include "engine/tcp.h"

/* Of engine/rdma.h, whose struct transport is another. */
extern const struct transport_ops transport_rdma;

const struct transport_ops *const engine_transports[] = {
	&transport_local,
	&transport_file,
	&transport_loop,
	&transport_tcp,
#ifdef HAVE_VERBS
	&transport_rdma,
#endif
	NULL,
};

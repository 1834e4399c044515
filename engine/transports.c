// SPDX-License-Identifier: MIT
#include "engine/transport.h"

#include <string.h>

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

static bool has_scheme(const struct transport_ops *ops, const char *address)
{
	size_t len = strcspn(address, ":");
	const char *s = ops->schemes;

	while (s && *s) {
		size_t n = strcspn(s, ",");

		if (n == len && !strncmp(s, address, n))
			return true;
		s += n + (s[n] == ',');
	}
	return false;
}

const struct transport_ops *engine_transport_of(const char *address)
{
	for (unsigned i = 0; engine_transports[i]; i++)
		if (has_scheme(engine_transports[i], address))
			return engine_transports[i];
	return NULL;
}

bool engine_can_listen(const char *address, const char *rdma_devices)
{
	const struct transport_ops *ops = engine_transport_of(address);

	return ops &&
	       (!ops->can_listen || ops->can_listen(address, rdma_devices));
}

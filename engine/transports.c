// SPDX-License-Identifier: MIT
#include "engine/transport.h"

#include "engine/file.h"
#include "engine/local.h"
#include "engine/loop.h"
#include "engine/tcp.h"

const struct transport_ops *const engine_transports[] = {
	&transport_local,
	&transport_file,
	&transport_loop,
	&transport_tcp,
	NULL,
};

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_LOCAL_H
#define KVFS_ENGINE_LOCAL_H

/* Copies between the memories of this machine (HOST, FILE): two threads. */
#include "engine/transport.h"

extern const struct transport_ops transport_local;

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KV_LIST_IMPL_H
#define KVFS_META_KV_LIST_IMPL_H

/* The snapshots that kv_list.c lists from; its tests make them older. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "meta/record.h"

struct meta;

struct snapshot {
	unsigned refs;	  /* kv_list's lock */
	int64_t taken_ns; /* it was complete */
	uint8_t *bytes;
	size_t n_bytes;
	uint64_t *entries; /* offsets, in the order of the paths */
	size_t n;
};

struct listed {
	struct list link;
	struct snapshot *snapshot; /* NULL: none yet */
	int64_t used_ns;
	bool wanted; /* a new one is to be taken */
	uint64_t tries;
	int err; /* of the last try */
	char ns[RECORD_NAME_MAX + 1];
};

/* A path below the namespace that is being taken, and removed meanwhile. */
struct removed {
	struct removed *next;
	uint16_t len;
	char path[];
};

struct kv_list {
	struct meta *m;
	pthread_mutex_t lock; /* a leaf; guards the rest */
	pthread_cond_t changed;
	struct list all; /* of listed */
	const struct listed *taking;
	struct removed *removed;
	bool stop;
	pthread_t thread;
	bool has_thread;
	_Atomic uint64_t n_taken;
};

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_LE64_H
#define KVFS_BASE_LE64_H

/*
 * Numbers of files and messages: eight bytes, little-endian, one after the
 * other, at any address.
 */

#include <endian.h>
#include <stdint.h>
#include <string.h>

/** le64_put - returns where the next one goes. */
static inline uint8_t *le64_put(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

/** le64_get - and moves p on. */
static inline uint64_t le64_get(const uint8_t **p)
{
	uint64_t v;

	memcpy(&v, *p, sizeof(v));
	*p += sizeof(v);
	return le64toh(v);
}

#endif

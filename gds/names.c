// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "gds/internal.h"

static int pack_digests(const struct kvfs_names *names, uint32_t first,
			uint32_t n, struct kvfs_ioc_names *head, char *packed,
			size_t room, size_t *bytes)
{
	size_t each = names->digest_bytes;
	size_t suffix = names->suffix ? strlen(names->suffix) : 0;

	if ((each != 16 && each != 20 && each != 32) || suffix > UINT8_MAX)
		return -EINVAL;
	if (suffix > room)
		return 0;
	if (n > (room - suffix) / each)
		n = (uint32_t)((room - suffix) / each);
	if (suffix)
		memcpy(packed, names->suffix, suffix);
	memcpy(packed + suffix, (const char *)names->digests + first * each,
	       n * each);
	*head = (struct kvfs_ioc_names){.n = n,
					.digest_bytes = (uint8_t)each,
					.suffix_bytes = (uint8_t)suffix};
	*bytes = suffix + n * each;
	return (int)n;
}

static int pack_paths(const struct kvfs_names *names, uint32_t first,
		      uint32_t most, struct kvfs_ioc_names *head, char *packed,
		      size_t room, size_t *bytes)
{
	uint32_t n = 0;
	size_t used = 0;

	for (; n < most; n++) {
		size_t size = strlen(names->paths[first + n]) + 1;

		if (size > room - used)
			break;
		memcpy(packed + used, names->paths[first + n], size);
		used += size;
	}
	*head = (struct kvfs_ioc_names){.n = n};
	*bytes = used;
	return (int)n;
}

/* Returns: how many, 0 where not even one fits; or -EINVAL. */
static int pack(const struct kvfs_names *names, uint32_t first, uint32_t most,
		struct kvfs_ioc_names *head, void *packed, size_t room,
		size_t *bytes)
{
	return names->paths ? pack_paths(names, first, most, head, packed, room,
					 bytes)
			    : pack_digests(names, first, most, head, packed,
					   room, bytes);
}

int gds_names_pack(const struct kvfs_names *names, uint32_t first,
		   uint32_t most, struct kvfs_ioc_names *head, void *packed,
		   size_t room, size_t *bytes)
{
	int n;

	if (most > names->n - first)
		most = names->n - first;
	n = pack(names, first, most, head, packed, room, bytes);
	return n ? n : -EINVAL;
}

int gds_names_pack_all(const struct kvfs_names *names,
		       struct kvfs_ioc_names *head, void *packed, size_t room,
		       size_t *bytes)
{
	int n = 0;

	*head = (struct kvfs_ioc_names){0};
	*bytes = 0;
	if (names->n > KVFS_IOC_NAMES_MAX)
		return -E2BIG;
	if (names->n)
		n = pack(names, 0, names->n, head, packed, room, bytes);
	return n < 0 ? n : (uint32_t)n < names->n ? -E2BIG : 0;
}

static size_t size_of(const struct gds_packed *p, size_t each)
{
	return p->n * each + p->bytes;
}

int gds_names_fit(const struct kvfs_names *names, uint32_t first,
		  uint32_t extra, uint32_t most, size_t each,
		  struct gds_packed *p)
{
	const size_t room = sizeof(p->names);

	do {
		int n = gds_names_pack(names, first, most + extra, &p->head,
				       p->names, room, &p->bytes);

		if (n <= (int)extra)
			return -EINVAL;
		p->n = (uint32_t)n - extra;
		most = (uint32_t)((size_t)p->n * room / size_of(p, each));
		if (most >= p->n)
			most = p->n - 1; /* at least one less */
	} while (size_of(p, each) > room && most);
	return size_of(p, each) > room ? -EINVAL : 0;
}

// SPDX-License-Identifier: MIT
#include "fs/remote_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/fs.h"
#include "fs/remote.h"
#include "meta/kv.h"

/* An inode number for a name that has no inode here yet. */
#define FAR_INO(hash) ((1ULL << 60) | (hash) >> 5)

struct remote_list {
	char *names; /* each ended by NUL, after a byte: is it a directory? */
	size_t used, room;
	size_t *at; /* of the i-th */
	size_t n, n_room;
};

static int grow(void **p, size_t *room, size_t need, size_t each)
{
	size_t wanted = *room ? *room : 64;
	void *more;

	while (wanted < need)
		wanted *= 2;
	if (wanted == *room)
		return 0;
	more = realloc(*p, wanted * each);
	if (!more)
		return -ENOMEM;
	*p = more;
	*room = wanted;
	return 0;
}

static void add(void *arg, const char *name, uint16_t len,
		const struct meta_kv_found *found)
{
	struct remote_list *l = arg;

	if (!len || len > 255 || memchr(name, 0, len) ||
	    grow((void **)&l->names, &l->room, l->used + len + 2, 1) ||
	    grow((void **)&l->at, &l->n_room, l->n + 1, sizeof(*l->at)))
		return;
	l->at[l->n++] = l->used;
	l->names[l->used++] = (char)found->is_dir;
	memcpy(l->names + l->used, name, len);
	l->used += len;
	l->names[l->used++] = 0;
}

struct remote_list *remote_list_take(struct fs *fs, const char *path,
				     uint16_t path_len, int64_t deadline)
{
	struct remote_list *l = calloc(1, sizeof(*l));

	if (l && !meta_kv_list(fs->meta, deadline, path, path_len, add, l) &&
	    l->n)
		return l;
	remote_list_free(l);
	return NULL;
}

const char *remote_list_at(const struct remote_list *l, size_t i, mode_t *type,
			   uint64_t *ino)
{
	const char *name;

	if (!l || i >= l->n)
		return NULL;
	name = l->names + l->at[i];
	*type = *name++ ? S_IFDIR : S_IFREG;
	*ino = FAR_INO(XXH3_64bits(name, strlen(name)));
	return name;
}

void remote_list_hide(struct remote_list *l, size_t i)
{
	l->names[l->at[i] + 1] = 0;
}

void remote_list_free(struct remote_list *l)
{
	if (!l)
		return;
	free(l->names);
	free(l->at);
	free(l);
}

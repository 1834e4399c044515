// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fs/kv.h"
#include "fs/kv_dirs_line.h"

/*
 * Directories of kv/ across restarts. Blocks describe themselves in the
 * pool's index and bring their directories back, but not those directories'
 * modes and owners, and a 0700 directory must not come back open. So each
 * mkdir, chmod, chown and rmdir appends a line to `kv.dirs` in the state
 * directory; at start the last line of a path counts, and the file is written
 * anew. It is of no use without the blocks: a pool that kept none starts with
 * no directories either.
 */

static int file_name(struct kv *kv, const char *suffix, char name[PATH_MAX])
{
	int n = snprintf(name, PATH_MAX, "%s/kv.dirs%s",
			 kv->fs->config.state_dir, suffix);

	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static void note(struct kv *kv, struct kv_dir *dir, uint32_t mode)
{
	char path[POOL_PATH_MAX + 1] = "", text[KV_DIRS_LINE_MAX];
	struct kv_dirs_line line = {mode, dir->uid, dir->gid, 0, path};
	size_t n;
	int len;

	if (kv->dirs_fd < 0 || dir->node.type == KV_NAMESPACE)
		return;
	len = dir == &kv->root
		      ? 0
		      : kv_path(kv_dir(dir->node.parent), dir->node.name, path);
	if (len < 0)
		return;
	line.len = (uint32_t)len;
	n = kv_dirs_format(text, &line);
	if (write(kv->dirs_fd, text, n) != (ssize_t)n)
		log_warn("kv: %s: its mode will not outlive a restart: %s",
			 path, strerror(errno));
}

void kv_dirs_note(struct kv *kv, struct kv_dir *dir, bool removed)
{
	note(kv, dir, removed ? 0 : dir->mode | S_IFDIR);
}

static void set_owner(struct kv_dir *dir, const struct kv_dirs_line *line)
{
	dir->mode = line->mode & 07777;
	dir->uid = line->uid;
	dir->gid = line->gid;
}

static void remove_empty(struct kv *kv, struct kv_node *node)
{
	if (!node || !kv_is_dir(node) || !kv_dir_is_empty(kv_dir(node)))
		return;
	kv_unlink_node(kv, node);
	kv_node_settle(node);
}

static void apply(struct kv *kv, const struct kv_dirs_line *line)
{
	char path[POOL_PATH_MAX + 1], *slash;
	struct kv_node *up, *node;
	struct kv_dir *dir;

	if (line->len == 0) {
		set_owner(&kv->root, line);
		return;
	}
	memcpy(path, line->path, line->len);
	path[line->len] = 0;
	slash = strrchr(path, '/');
	up = kv_find_path(kv, path, (size_t)(slash - path));
	if (!up || !kv_is_dir(up))
		return;
	node = kv_find(kv, kv_dir(up), slash + 1);
	if (!line->mode) {
		remove_empty(kv, node);
		return;
	}
	dir = node && kv_is_dir(node)
		      ? kv_dir(node)
		      : kv_dir_new(kv, kv_dir(up), slash + 1, line->mode,
				   line->uid, line->gid);
	if (dir)
		set_owner(dir, line);
}

static void load(struct kv *kv, const char *name)
{
	cleanup_close int fd = open(name, O_RDONLY | O_CLOEXEC);
	cleanup_free char *text = NULL;
	struct kv_dirs_line line;
	const char *at, *end;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return;
	text = malloc((size_t)st.st_size + 1); /* not 0 */
	if (!text || pread(fd, text, (size_t)st.st_size, 0) != st.st_size)
		return;
	end = text + st.st_size;
	for (at = text; at && at < end;) {
		at = kv_dirs_parse(at, end, &line);
		if (at)
			apply(kv, &line);
	}
	if (!at)
		log_warn("kv: %s: torn line, the rest is ignored", name);
}

static void write_all(struct kv *kv, struct kv_dir *dir)
{
	kv_dirs_note(kv, dir, false);
	list_for_each (l, &dir->children) {
		struct kv_node *node =
			container_of(container_of(l, struct kv_link, list),
				     struct kv_node, sibling);

		if (kv_is_dir(node))
			write_all(kv, kv_dir(node));
	}
}

int kv_dirs_load(struct kv *kv)
{
	char name[PATH_MAX], fresh[PATH_MAX];
	int err = file_name(kv, "", name);
	struct pool_stats s;
	scoped_lock(&kv->lock);

	if (!err)
		err = file_name(kv, ".new", fresh);
	if (err)
		return err;
	pool_stats(kv->fs->pool, &s);
	if (s.adopted)
		load(kv, name);
	kv->dirs_fd =
		open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
		     0600);
	if (kv->dirs_fd < 0)
		return -errno;
	write_all(kv, &kv->root);
	return rename(fresh, name) ? -errno : 0;
}

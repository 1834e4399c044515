// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fs/kv.h"

/*
 * Directories of kv/ across restarts. Blocks describe themselves in the
 * pool's index and bring their directories back, but not those directories'
 * modes and owners, and a 0700 directory must not come back open. So each
 * mkdir, chmod, chown and rmdir appends a line to `kv.dirs` in the state
 * directory; at start the last line of a path counts, and the file is written
 * anew. It is of no use without the blocks: a pool that kept none starts with
 * no directories either.
 *
 *      CHECKSUM MODE UID GID LENGTH PATH\n     (mode 0: removed)
 */

#define LINE_MAX_BYTES (POOL_PATH_MAX + 80)
#define SUM_BYTES 17 /* 16 hex digits and a space */

static int file_name(struct kv *kv, const char *suffix, char name[PATH_MAX])
{
	int n = snprintf(name, PATH_MAX, "%s/kv.dirs%s",
			 kv->fs->config.state_dir, suffix);

	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int format(char line[LINE_MAX_BYTES], const char *path, int len,
		  uint32_t mode, uint32_t uid, uint32_t gid)
{
	char *body = line + SUM_BYTES;
	int n = snprintf(body, LINE_MAX_BYTES - SUM_BYTES, "%o %u %u %d ", mode,
			 uid, gid, len);
	char sum[SUM_BYTES + 1];

	memcpy(body + n, path, (size_t)len);
	n += len;
	snprintf(sum, sizeof(sum), "%016llx ",
		 (unsigned long long)XXH3_64bits(body, (size_t)n));
	memcpy(line, sum, SUM_BYTES);
	body[n] = '\n';
	return SUM_BYTES + n + 1;
}

static void note(struct kv *kv, struct kv_dir *dir, uint32_t mode)
{
	char path[POOL_PATH_MAX + 1] = "", line[LINE_MAX_BYTES];
	int n;

	if (kv->dirs_fd < 0 || dir->node.type == KV_NAMESPACE)
		return;
	n = dir == &kv->root
		    ? 0
		    : kv_path(kv_dir(dir->node.parent), dir->node.name, path);
	if (n < 0)
		return;
	n = format(line, path, n, mode, dir->uid, dir->gid);
	if (write(kv->dirs_fd, line, (size_t)n) != n)
		log_warn("kv: %s: its mode will not outlive a restart: %s",
			 path, strerror(errno));
}

void kv_dirs_note(struct kv *kv, struct kv_dir *dir, bool removed)
{
	note(kv, dir, removed ? 0 : dir->mode | S_IFDIR);
}

static bool sane_path(const char *path, size_t len)
{
	size_t part = 0;

	for (size_t i = 0; i <= len; i++) {
		if (i < len && path[i] != '/') {
			part++;
			continue;
		}
		if (part == 0 || part > 255 ||
		    (part == 1 && path[i - 1] == '.') ||
		    (part == 2 && path[i - 1] == '.' && path[i - 2] == '.'))
			return false;
		part = 0;
	}
	return true;
}

static void set_owner(struct kv_dir *dir, uint32_t mode, uint32_t uid,
		      uint32_t gid)
{
	dir->mode = mode & 07777;
	dir->uid = uid;
	dir->gid = gid;
}

static void apply(struct kv *kv, char *path, size_t len, uint32_t mode,
		  uint32_t uid, uint32_t gid)
{
	char *slash = memrchr(path, '/', len);
	struct kv_node *up, *node;
	struct kv_dir *dir;

	if (len == 0) {
		set_owner(&kv->root, mode, uid, gid);
		return;
	}
	if (!slash || !sane_path(path, len))
		return;
	up = kv_find_path(kv, path, (size_t)(slash - path));
	if (!up || !kv_is_dir(up))
		return;
	path[len] = 0;
	node = kv_find(kv, kv_dir(up), slash + 1);
	if (!mode) {
		if (node && kv_is_dir(node) && kv_dir_is_empty(kv_dir(node))) {
			kv_unlink_node(kv, node);
			kv_node_settle(node);
		}
		return;
	}
	dir = node && kv_is_dir(node)
		      ? kv_dir(node)
		      : kv_dir_new(kv, kv_dir(up), slash + 1, mode, uid, gid);
	if (!dir)
		return;
	set_owner(dir, mode, uid, gid);
}

/* One line at `at`; returns where the next begins, or NULL at a torn one. */
static char *load_line(struct kv *kv, char *at, char *end)
{
	unsigned long long sum;
	unsigned mode, uid, gid, len;
	int head = 0;
	char *path;

	if (end - at < 24 || sscanf(at, "%16llx %o %u %u %u%n", &sum, &mode,
				    &uid, &gid, &len, &head) < 5)
		return NULL;
	path = at + head + 1;
	if (len > POOL_PATH_MAX || path + len >= end || path[len] != '\n')
		return NULL;
	if (XXH3_64bits(at + SUM_BYTES,
			(size_t)(path + len - at) - SUM_BYTES) != sum)
		return NULL;
	apply(kv, path, len, mode, uid, gid);
	return path + len + 1;
}

static void load(struct kv *kv, const char *name)
{
	cleanup_close int fd = open(name, O_RDONLY | O_CLOEXEC);
	cleanup_free char *text = NULL;
	struct stat st;
	char *at, *end;

	if (fd < 0 || fstat(fd, &st))
		return;
	text = malloc((size_t)st.st_size + 1);
	if (!text || pread(fd, text, (size_t)st.st_size, 0) != st.st_size)
		return;
	end = text + st.st_size;
	*end = 0;
	for (at = text; at && at < end;)
		at = load_line(kv, at, end);
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

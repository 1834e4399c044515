// SPDX-License-Identifier: MIT
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/cond.h"
#include "base/log.h"
#include "fs/kv.h"
#include "fs/kv_lend.h"
#include "fs/kv_match.h"
#include "fs/locks.h"
#include "fs/remote.h"
#include "meta/kv.h"

/*
 * The tree of kv/. One hash table over (parent, name) finds any entry in one
 * probe; each directory also chains its entries in the order of their cookies
 * for readdir. A node leaves the tree when its name goes, and is freed when
 * the kernel, the open handles and the children have let go of it as well.
 */

#define TABLE_START 1024
#define KV_INO(n) ((1ULL << 61) + (n))

static bool ends_with(const char *s, size_t n, const char *end)
{
	size_t m = strlen(end);

	return n > m && !memcmp(s + n - m, end, m);
}

/* `.NAME.XXXXXX`, as rsync and mkstemp users make. */
static bool is_rsync_temp(const char *name, size_t n)
{
	if (n < 9 || name[0] != '.' || name[n - 7] != '.')
		return false;
	for (size_t i = n - 6; i < n; i++)
		if (!isalnum((unsigned char)name[i]))
			return false;
	return true;
}

bool kv_name_is_temp(const char *name)
{
	size_t n = strlen(name);

	return ends_with(name, n, ".tmp") || strstr(name, ".tmp.") ||
	       is_rsync_temp(name, n);
}

/* That of most names: with it the compiler knows how to hash and compare. */
#define DIGEST_LEN 32

static uint64_t hash(const struct kv_dir *dir, const char *name, size_t n)
{
	uint64_t seed = (uint64_t)(uintptr_t)dir >> 4;

	return n == DIGEST_LEN ? XXH3_64bits_withSeed(name, DIGEST_LEN, seed)
			       : XXH3_64bits_withSeed(name, n, seed);
}

static bool is_same(const char *a, const char *b, size_t n)
{
	return n == DIGEST_LEN ? !memcmp(a, b, DIGEST_LEN) : !memcmp(a, b, n);
}

static struct kv_node *find_in(struct kv_node *node, const struct kv_dir *dir,
			       const char *name, size_t n)
{
	while (node && (node->parent != &dir->node || node->name_len != n ||
			!is_same(node->name, name, n)))
		node = node->hash_next;
	return node;
}

struct kv_node *kv_find_part(struct kv *kv, struct kv_dir *dir,
			     const char *name, size_t n)
{
	if (n > 255)
		return NULL;
	return find_in(kv->table[hash(dir, name, n) & kv->table_mask], dir,
		       name, n);
}

void kv_find_some(struct kv *kv, struct kv_dir *dir,
		  const struct kv_name *names, unsigned n,
		  struct kv_node **nodes)
{
	struct kv_node **slots[KV_FIND_MAX];

	for (unsigned i = 0; i < n; i++) {
		slots[i] = &kv->table[hash(dir, names[i].text, names[i].len) &
				      kv->table_mask];
		__builtin_prefetch(slots[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		nodes[i] = *slots[i];
		if (!nodes[i])
			continue;
		__builtin_prefetch(&nodes[i]->parent);
		__builtin_prefetch(&nodes[i]->name);
	}
	for (unsigned i = 0; i < n; i++)
		if (nodes[i])
			__builtin_prefetch(nodes[i]->name);
	for (unsigned i = 0; i < n; i++)
		nodes[i] = find_in(nodes[i], dir, names[i].text, names[i].len);
}

struct kv_node *kv_find(struct kv *kv, struct kv_dir *dir, const char *name)
{
	return kv_find_part(kv, dir, name, strlen(name));
}

struct kv_node *kv_find_path(struct kv *kv, const char *path, size_t len)
{
	struct kv_node *node = &kv->root.node;
	const char *end = path + len;

	while (path < end) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		const char *stop = slash ? slash : end;

		if (!kv_is_dir(node))
			return NULL;
		node = kv_find_part(kv, kv_dir(node), path,
				    (size_t)(stop - path));
		if (!node)
			return NULL;
		path = slash ? slash + 1 : end;
	}
	return node;
}

int kv_path(struct kv_dir *dir, const char *name, char path[POOL_PATH_MAX + 1])
{
	size_t n = strlen(name), at = POOL_PATH_MAX;
	struct kv_node *node = &dir->node;

	if (n > at)
		return -ENAMETOOLONG;
	path[at] = 0;
	at -= n;
	memcpy(path + at, name, n);
	for (; node->type != KV_ROOT; node = node->parent) {
		if (node->name_len + 1u > at)
			return -ENAMETOOLONG;
		path[--at] = '/';
		at -= node->name_len;
		memcpy(path + at, node->name, node->name_len);
	}
	n = POOL_PATH_MAX - at;
	memmove(path, path + at, n + 1);
	return (int)n;
}

static void grow(struct kv *kv)
{
	size_t size = (kv->table_mask + 1) * 2;
	struct kv_node **table = calloc(size, sizeof(*table));

	if (!table)
		return; /* longer chains until there is memory again */
	for (size_t i = 0; i <= kv->table_mask; i++) {
		struct kv_node *node = kv->table[i];

		while (node) {
			struct kv_node *next = node->hash_next;
			struct kv_node **slot =
				&table[hash(kv_dir(node->parent), node->name,
					    node->name_len) &
				       (size - 1)];

			node->hash_next = *slot;
			*slot = node;
			node = next;
		}
	}
	free(kv->table);
	kv->table = table;
	kv->table_mask = size - 1;
}

static struct kv_node **slot_of(struct kv *kv, struct kv_node *node)
{
	return &kv->table[hash(kv_dir(node->parent), node->name,
			       node->name_len) &
			  kv->table_mask];
}

void kv_link_node(struct kv *kv, struct kv_node *node)
{
	struct kv_dir *dir = kv_dir(node->parent);
	struct kv_node **slot;

	if (kv->n_nodes++ > kv->table_mask / 2)
		grow(kv);
	slot = slot_of(kv, node);
	node->hash_next = *slot;
	*slot = node;
	node->sibling.cookie = ++dir->last_cookie;
	list_push_back(&dir->children, &node->sibling.list);
	node->unlinked = false;
	if (kv_is_dir(node))
		dir->n_dirs++;
	dir->mtime_ns = dir->ctime_ns = clock_stamp_ns();
}

void kv_unlink_node(struct kv *kv, struct kv_node *node)
{
	struct kv_dir *dir = kv_dir(node->parent);
	struct kv_node **slot = slot_of(kv, node);

	while (*slot != node)
		slot = &(*slot)->hash_next;
	*slot = node->hash_next;
	list_remove(&node->sibling.list);
	node->unlinked = true;
	kv->n_nodes--;
	if (kv_is_dir(node))
		dir->n_dirs--;
	dir->mtime_ns = dir->ctime_ns = clock_stamp_ns();
}

static int set_name(struct kv_node *node, const char *name)
{
	size_t n = strlen(name);
	char *copy = malloc(n + 1);

	if (!copy)
		return -ENOMEM;
	free(node->name);
	node->name = memcpy(copy, name, n + 1);
	node->name_len = (uint8_t)n;
	return 0;
}

static void set_parent(struct kv_node *node, struct kv_dir *dir)
{
	node->parent = &dir->node;
	dir->child_refs++;
}

int kv_move(struct kv *kv, struct kv_node *node, struct kv_dir *to,
	    const char *name)
{
	struct kv_dir *from = kv_dir(node->parent);
	char *copy = strdup(name);

	if (!copy)
		return -ENOMEM;
	kv_unlink_node(kv, node);
	free(node->name);
	node->name = copy;
	node->name_len = (uint8_t)strlen(name);
	set_parent(node, to);
	kv_link_node(kv, node);
	from->child_refs--;
	kv_node_settle(&from->node);
	return 0;
}

static void init_node(struct kv_node *node, enum kv_type type)
{
	node->head.magic = INODE_MAGIC;
	node->head.view = &kv_view;
	node->type = (uint8_t)type;
	node->unlinked = true;
	list_init(&node->sibling.list);
}

static void init_dir(struct kv *kv, struct kv_dir *dir, uint32_t mode,
		     uint32_t uid, uint32_t gid)
{
	list_init(&dir->children);
	list_init(&dir->ask);
	dir->ino = KV_INO(++kv->last_ino);
	dir->mode = mode & 07777;
	dir->uid = uid;
	dir->gid = gid;
	dir->atime_ns = dir->mtime_ns = dir->ctime_ns = clock_stamp_ns();
}

struct kv_dir *kv_dir_new(struct kv *kv, struct kv_dir *parent,
			  const char *name, uint32_t mode, uint32_t uid,
			  uint32_t gid)
{
	bool is_ns = parent->node.type == KV_ROOT;
	size_t size = is_ns ? sizeof(struct kv_ns) : sizeof(struct kv_dir);
	struct kv_node *node = calloc(1, size);
	struct kv_dir *dir;

	if (!node)
		return NULL;
	init_node(node, is_ns ? KV_NAMESPACE : KV_DIR);
	if (set_name(node, name)) {
		free(node);
		return NULL;
	}
	dir = kv_dir(node);
	init_dir(kv, dir, mode, uid, gid);
	if (is_ns) {
		struct kv_ns *ns = kv_ns(dir);

		dir->ns = ns;
		ns->kv = kv;
		ns->checksum = true;
		for (int i = 0; i < KV_KINDS; i++)
			list_init(&ns->uses[i]);
		list_push_back(&kv->namespaces, &ns->all);
	} else {
		dir->ns = parent->ns;
	}
	set_parent(node, parent);
	kv_link_node(kv, node);
	return dir;
}

struct kv_file *kv_file_new(struct kv *kv, struct kv_dir *parent,
			    const char *name, uint32_t frame)
{
	struct kv_file *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	init_node(&f->node, KV_FILE);
	if (set_name(&f->node, name)) {
		free(f);
		return NULL;
	}
	list_init(&f->by_use);
	list_init(&f->excess);
	list_init(&f->stale);
	list_init(&f->unlisted);
	f->ns = parent->ns;
	f->frame = frame;
	f->ino = KV_INO(++kv->last_ino);
	f->node.state = KV_WRITING;
	set_parent(&f->node, parent);
	kv_link_node(kv, &f->node);
	return f;
}

static bool held(const struct kv_node *node)
{
	if (!node->unlinked || node->nlookup || node->pins)
		return true;
	if (node->type == KV_FILE)
		return container_of(node, struct kv_file, node)->opens > 0;
	return container_of(node, struct kv_dir, node)->child_refs > 0;
}

static void node_free(struct kv_node *node)
{
	if (node->type == KV_FILE) {
		remote_node_free(kv_file(node));
		free(kv_file(node)->part_sums);
	}
	node->head.magic = 0;
	free(node->name);
	free(node);
}

void kv_node_settle(struct kv_node *node)
{
	while (node->type != KV_ROOT && !held(node)) {
		struct kv_dir *dir = kv_dir(node->parent);

		if (node->type == KV_NAMESPACE)
			list_remove(&kv_ns(kv_dir(node))->all);
		if (node->type == KV_FILE)
			list_remove(&kv_file(node)->stale);
		node_free(node);
		dir->child_refs--;
		node = &dir->node;
	}
}

void kv_entry(struct kv *kv, struct kv_node *node, struct fuse_entry_param *e)
{
	memset(e, 0, sizeof(*e));
	e->ino = inode_fuse(kv->fs, &node->head);
	e->generation = 1;
	e->entry_timeout = kv_entry_timeout(kv, node);
	e->attr_timeout = kv_attr_timeout(kv, node);
	kv_fill_attr(kv, node, &e->attr);
	node->nlookup++;
}

void kv_do_forget(struct fs *fs, struct inode *inode, uint64_t nlookup)
{
	struct kv_node *node = kv_node(inode);
	scoped_lock(&fs->kv->lock);

	node->nlookup -= nlookup < node->nlookup ? nlookup : node->nlookup;
	if (node->type == KV_FILE && node->state == KV_REMOTE &&
	    !node->nlookup && !node->unlinked && !node->pins)
		remote_node_forget(fs->kv, node); /* settles it, too */
	else if (node->type != KV_ROOT)
		kv_node_settle(node);
}

struct inode *kv_root(struct kv *kv)
{
	return &kv->root.node.head;
}

static bool set_attributes(struct kv_dir *dir, const struct meta_namespace *m)
{
	if (dir->mode == (m->mode & 07777) && dir->uid == m->uid &&
	    dir->gid == m->gid)
		return false;
	dir->mode = m->mode & 07777;
	dir->uid = m->uid;
	dir->gid = m->gid;
	dir->ctime_ns = clock_stamp_ns();
	return true;
}

/* Lock held. Returns: what the kernel shall ask for again, or NULL. */
static struct inode *learn_namespace(struct kv *kv, const char *name,
				     const struct meta_namespace *m)
{
	struct kv_node *node = kv_find(kv, &kv->root, name);
	struct kv_dir *dir =
		node ? kv_dir(node)
		     : kv_dir_new(kv, &kv->root, name, m->mode, m->uid, m->gid);
	bool changed;

	if (!dir)
		return NULL;
	changed = set_attributes(dir, m);
	kv_set_policy(kv, dir->ns, m);
	return changed ? &dir->node.head : NULL;
}

void kv_learn_namespace(void *arg, const char *name,
			const struct meta_namespace *m)
{
	struct kv *kv = arg;
	struct inode *changed;

	pthread_mutex_lock(&kv->lock);
	changed = learn_namespace(kv, name, m);
	pthread_mutex_unlock(&kv->lock);
	if (changed)
		fuse_lowlevel_notify_inval_inode(
			kv->fs->session, inode_fuse(kv->fs, changed), -1, 0);
}

int kv_open(struct kv **out, struct fs *fs)
{
	struct kv *kv = calloc(1, sizeof(*kv));
	int err;

	if (!kv)
		return -ENOMEM;
	kv->fs = fs;
	kv->dirs_fd = -1;
	kv->tell_stop = true;
	pthread_mutex_init(&kv->lock, NULL);
	cond_init(&kv->stale_some);
	cond_init(&kv->unlisted_some);
	list_init(&kv->namespaces);
	list_init(&kv->orphans);
	list_init(&kv->late);
	list_init(&kv->writing);
	list_init(&kv->excess);
	list_init(&kv->reserved);
	list_init(&kv->unlisted);
	cond_init(&kv->writer_left);
	list_init(&kv->stale);
	list_init(&kv->told);
	list_init(&kv->lend_users);
	kv->table = calloc(TABLE_START, sizeof(*kv->table));
	kv->table_mask = TABLE_START - 1;
	init_node(&kv->root.node, KV_ROOT);
	kv->root.node.unlinked = false;
	kv->root.node.name = strdup("");
	init_dir(kv, &kv->root, 0755, geteuid(), getegid());
	if (!kv->table || !kv->root.node.name) {
		kv_close(kv);
		return -ENOMEM;
	}
	err = meta_namespace_each(fs->meta, 0, kv_learn_namespace, kv);
	if (err) {
		log_error("kv: namespaces: cannot be read from Redis: %s",
			  strerror(-err));
		kv_close(kv);
		return err;
	}
	*out = kv;
	return kv_tell_start(kv);
}

/* Makes the directories of "NAMESPACE/a/b" down to the last slash. */
struct kv_dir *kv_make_dirs(struct kv *kv, const char *path, size_t len,
			    const char **name)
{
	struct kv_dir *dir = &kv->root;
	const char *slash;
	char part[256];

	while ((slash = memchr(path, '/', len))) {
		size_t n = (size_t)(slash - path);
		struct kv_node *node;

		if (n == 0 || n > 255)
			return NULL;
		memcpy(part, path, n);
		part[n] = 0;
		node = kv_find(kv, dir, part);
		if (node && !kv_is_dir(node))
			return NULL;
		dir = node ? kv_dir(node)
			   : kv_dir_new(kv, dir, part,
					dir == &kv->root ? 0755 : dir->mode,
					dir->uid, dir->gid);
		if (!dir)
			return NULL;
		path = slash + 1;
		len -= n + 1;
	}
	*name = path;
	return dir->node.type == KV_ROOT ? NULL : dir;
}

/* One block that the pool kept from before. */
static bool adopt(void *ctx, uint32_t frame, struct pool_record *r)
{
	struct kv *kv = ctx;
	const char *name;
	struct kv_dir *dir = kv_make_dirs(kv, r->path, r->path_len, &name);
	struct kv_file *f;

	if (!dir || strlen(name) > 255 || kv_find(kv, dir, name))
		return false;
	f = kv_file_new(kv, dir, name, frame);
	if (!f)
		return false;
	if (kv_count_in(kv, f)) {
		f->frame = POOL_NO_FRAME; /* the pool takes it back */
		kv_drop(kv, f, false);
		return false;
	}
	if (r->last_use > kv->use_clock)
		kv->use_clock = r->last_use;
	kv_sum_later(kv, f);
	return true;
}

static int by_last_use(const void *a, const void *b, void *arg)
{
	struct kv *kv = arg;
	uint64_t ua = kv_record(kv, *(struct kv_file *const *)a)->last_use;
	uint64_t ub = kv_record(kv, *(struct kv_file *const *)b)->last_use;

	return ua < ub ? -1 : ua > ub;
}

/* The pool gives blocks by frame; the recency lists want them by last use. */
static int sort_by_use(struct kv *kv)
{
	size_t n = 0;
	struct kv_file **files = malloc((kv->n_nodes + 1) * sizeof(*files));

	if (!files)
		return -ENOMEM;
	for (size_t i = 0; i < kv->n_by_frame; i++)
		if (kv->by_frame[i])
			files[n++] = kv->by_frame[i];
	qsort_r(files, n, sizeof(*files), by_last_use, kv);
	for (size_t i = 0; i < n; i++) {
		struct kv_file *parent = kv_parent(kv, files[i]);

		list_remove(&files[i]->by_use);
		list_push_back(kv_use_list(kv, files[i]), &files[i]->by_use);
		if (parent)
			parent->kids++;
	}
	free(files);
	return 0;
}

int kv_adopt(struct kv *kv)
{
	int err = kv_dirs_load(kv);
	scoped_lock(&kv->lock);

	if (err)
		return err;
	pool_each_committed(kv->fs->pool, adopt, kv);
	return sort_by_use(kv);
}

static void free_all(struct kv *kv)
{
	for (size_t i = 0; kv->table && i <= kv->table_mask; i++) {
		struct kv_node *node = kv->table[i];

		while (node) {
			struct kv_node *next = node->hash_next;

			node_free(node);
			node = next;
		}
	}
	free(kv->table);
}

void kv_close(struct kv *kv)
{
	kv_meta_free(kv);
	free_all(kv);
	kv_lend_fini(kv);
	if (kv->dirs_fd >= 0)
		close(kv->dirs_fd);
	free(kv->by_frame);
	free(kv->root.node.name);
	pthread_mutex_destroy(&kv->lock);
	pthread_cond_destroy(&kv->stale_some);
	pthread_cond_destroy(&kv->unlisted_some);
	pthread_cond_destroy(&kv->writer_left);
	free(kv);
}

void kv_each_namespace(struct kv *kv,
		       void (*fn)(void *arg, const struct kv_usage *u),
		       void *arg)
{
	scoped_lock(&kv->lock);

	list_for_each (l, &kv->namespaces) {
		struct kv_ns *ns = container_of(l, struct kv_ns, all);
		struct kv_usage u = {
			.name = ns->dir.node.name,
			.blocks = ns->n_blocks,
			.bytes = ns->n_bytes,
			.quota_bytes = ns->quota_bytes,
			.usage_bytes = kv_ns_usage(ns),
			.hits = atomic_load(&ns->hits),
			.misses = atomic_load(&ns->misses),
			.stores = atomic_load(&ns->stores),
			.evictions = atomic_load(&ns->evictions),
		};

		fn(arg, &u);
	}
}

const struct view kv_view = {
	.name = "kv",
	.lookup = kv_do_lookup,
	.getattr = kv_do_getattr,
	.setattr = kv_do_setattr,
	.mkdir = kv_do_mkdir,
	.mknod = kv_refuse,
	.symlink = kv_refuse,
	.link = kv_refuse,
	.unlink = kv_do_unlink,
	.rmdir = kv_do_rmdir,
	.rename = kv_do_rename,
	.open = kv_do_open,
	.create = kv_do_create,
	.read = kv_do_read,
	.write = kv_do_write,
	.flush = kv_do_flush,
	.release = kv_do_release,
	.fsync = kv_do_fsync,
	.fallocate = kv_do_fallocate,
	.lseek = kv_do_lseek,
	.getlk = locks_do_getlk,
	.setlk = locks_do_setlk,
	.opendir = kv_do_opendir,
	.readdir = kv_do_readdir,
	.releasedir = kv_do_releasedir,
	.statfs = kv_do_statfs,
	.setxattr = kv_do_setxattr,
	.getxattr = kv_do_getxattr,
	.listxattr = kv_do_listxattr,
	.removexattr = kv_do_removexattr,
	.forget = kv_do_forget,
};

// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "meta/kv.h"

/*
 * Extended attributes. `user.kvfs.*` are views of what the daemon knows: of a
 * block, and of a namespace, whose policy is set through them. Any other
 * `user.*` is kept on the frame's file, in a namespace of its own there
 * (`trusted.kvfs.`, since tmpfs has user.* only from Linux 6.6 on), and so
 * outlives the daemon together with the block.
 */

#define OWN "user.kvfs."
#define STORED (geteuid() == 0 ? "trusted.kvfs." : "user.kvfs-")
#define VALUE_MAX 1024
#define HOT_SECONDS 60 /* the window of `hot` where none is named */

/* Each fills value and returns its length, or -errno. Lock held. */
typedef int (*own_get)(struct kv *kv, struct kv_node *node, char *value);

static int get_class(struct kv *kv, struct kv_node *node, char *value)
{
	return snprintf(value, VALUE_MAX, "%" PRIu64,
			kv_record(kv, kv_file(node))->alloc_bytes);
}

static int get_hits(struct kv *kv, struct kv_node *node, char *value)
{
	return snprintf(value, VALUE_MAX, "%u",
			kv_record(kv, kv_file(node))->hits);
}

static int get_generation(struct kv *kv, struct kv_node *node, char *value)
{
	return snprintf(value, VALUE_MAX, "%" PRIu64,
			kv_record(kv, kv_file(node))->generation);
}

static int get_state(struct kv *kv, struct kv_node *node, char *value)
{
	const char *state = node->state == KV_WRITING ? "writing"
			    : node->published	      ? "published"
						      : "provisional";

	(void)kv;
	return snprintf(value, VALUE_MAX, "%s", state);
}

static int get_pin(struct kv *kv, struct kv_node *node, char *value)
{
	return snprintf(value, VALUE_MAX, "%s",
			kv_record(kv, kv_file(node))->flags & POOL_IS_PINNED
				? "on"
				: "off");
}

static int get_checksum(struct kv *kv, struct kv_node *node, char *value)
{
	struct pool_record *r;

	if (node->type == KV_NAMESPACE)
		return snprintf(value, VALUE_MAX, "%s",
				kv_ns(kv_dir(node))->checksum ? "on" : "off");
	r = kv_record(kv, kv_file(node));
	if (!(r->flags & POOL_HAS_CHECKSUM))
		return -ENODATA;
	return snprintf(value, VALUE_MAX, "%016" PRIx64 "%016" PRIx64,
			r->checksum[1], r->checksum[0]);
}

static int get_parent(struct kv *kv, struct kv_node *node, char *value)
{
	struct kv_file *parent = kv_parent(kv, kv_file(node));
	char path[POOL_PATH_MAX + 1];
	const char *below;

	if (!parent ||
	    kv_path(kv_dir(parent->node.parent), parent->node.name, path) < 0)
		return -ENODATA;
	below = strchr(path, '/');
	return snprintf(value, VALUE_MAX, "%s", below ? below + 1 : path);
}

static int get_quota(struct kv *kv, struct kv_node *node, char *value)
{
	(void)kv;
	return snprintf(value, VALUE_MAX, "%" PRIu64,
			kv_ns(kv_dir(node))->quota_bytes);
}

static int get_replicas(struct kv *kv, struct kv_node *node, char *value)
{
	uint32_t n = kv_ns(kv_dir(node))->replicas;

	(void)kv;
	return snprintf(value, VALUE_MAX, "%u", n ? n : 1);
}

static int get_hot(struct kv *kv, struct kv_node *node, char *value)
{
	const struct kv_ns *ns = kv_ns(kv_dir(node));

	(void)kv;
	if (!ns->hot_seconds)
		return snprintf(value, VALUE_MAX, "off");
	return snprintf(value, VALUE_MAX, "%u/%u", ns->hot_reads,
			ns->hot_seconds);
}

static int get_blocks(struct kv *kv, struct kv_node *node, char *value)
{
	(void)kv;
	return snprintf(value, VALUE_MAX, "%" PRIu64,
			kv_ns(kv_dir(node))->n_blocks);
}

static int get_bytes(struct kv *kv, struct kv_node *node, char *value)
{
	(void)kv;
	return snprintf(value, VALUE_MAX, "%" PRIu64,
			kv_ns(kv_dir(node))->n_bytes);
}

static int get_usage(struct kv *kv, struct kv_node *node, char *value)
{
	(void)kv;
	return snprintf(value, VALUE_MAX, "%" PRIu64,
			kv_ns_usage(kv_ns(kv_dir(node))));
}

static const struct {
	const char *name; /* after OWN */
	enum kv_type type;
	own_get get;
} own_attrs[] = {
	{"class", KV_FILE, get_class},
	{"hits", KV_FILE, get_hits},
	{"generation", KV_FILE, get_generation},
	{"state", KV_FILE, get_state},
	{"pin", KV_FILE, get_pin},
	{"checksum", KV_FILE, get_checksum},
	{"parent", KV_FILE, get_parent},
	{"checksum", KV_NAMESPACE, get_checksum},
	{"quota", KV_NAMESPACE, get_quota},
	{"replicas", KV_NAMESPACE, get_replicas},
	{"hot", KV_NAMESPACE, get_hot},
	{"blocks", KV_NAMESPACE, get_blocks},
	{"bytes", KV_NAMESPACE, get_bytes},
	{"usage", KV_NAMESPACE, get_usage},
};

static bool is_own(const char *name)
{
	return !strncmp(name, OWN, strlen(OWN));
}

static int get_own(struct kv *kv, struct kv_node *node, const char *name,
		   char *value)
{
	for (size_t i = 0; i < sizeof(own_attrs) / sizeof(own_attrs[0]); i++) {
		if (own_attrs[i].type != (enum kv_type)node->type ||
		    strcmp(own_attrs[i].name, name + strlen(OWN)))
			continue;
		if (node->type == KV_FILE && node->state == KV_REMOTE)
			return remote_node_attr(kv_file(node),
						name + strlen(OWN), value,
						VALUE_MAX);
		if (node->type == KV_FILE &&
		    kv_file(node)->frame == POOL_NO_FRAME)
			return -ESTALE;
		return own_attrs[i].get(kv, node, value);
	}
	return -ENODATA;
}

void kv_ns_record(const struct kv_ns *ns, struct meta_namespace *m)
{
	*m = (struct meta_namespace){
		.mode = ns->dir.mode,
		.uid = ns->dir.uid,
		.gid = ns->dir.gid,
		.quota_bytes = ns->quota_bytes,
		.replicas = ns->replicas,
		.checksum = ns->checksum,
		.hot_reads = ns->hot_reads,
		.hot_seconds = ns->hot_seconds,
	};
}

/* "off", "N", "N/SECONDS"; 0 or an errno. */
static int parse_hot(const char *value, struct meta_namespace *m)
{
	unsigned reads, seconds = HOT_SECONDS;
	int end = 0;

	if (strspn(value, "0123456789/") != strlen(value) &&
	    strcmp(value, "off"))
		return EINVAL;
	if (!strcmp(value, "off")) {
		m->hot_reads = m->hot_seconds = 0;
		return 0;
	}
	if (sscanf(value, "%7u%n", &reads, &end) != 1)
		return EINVAL;
	value += end;
	if (*value && (sscanf(value, "/%7u%n", &seconds, &end) != 1 ||
		       value[end] || !seconds))
		return EINVAL;
	m->hot_reads = reads;
	m->hot_seconds = seconds;
	return 0;
}

/* 0 or an errno: what this value means for the namespace's policy. */
static int parse_policy(const char *key, const char *value,
			struct meta_namespace *m)
{
	uint64_t n;

	if (!strcmp(key, "checksum")) {
		if (strcmp(value, "on") && strcmp(value, "off"))
			return EINVAL;
		m->checksum = !strcmp(value, "on");
		return 0;
	}
	if (!strcmp(key, "hot"))
		return parse_hot(value, m);
	if (strcmp(key, "quota") && strcmp(key, "replicas"))
		return EPERM;
	if (size_parse(value, &n))
		return EINVAL;
	if (!strcmp(key, "quota"))
		m->quota_bytes = n;
	else if (n < 1 || n > 16)
		return EINVAL;
	else
		m->replicas = (uint32_t)n;
	return 0;
}

/* Redis first: a policy that no other node could see is none. */
static void set_policy(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_ns *ns = kv_ns(kv_dir(kv_node(c->inode)));
	char value[64] = "";
	struct meta_namespace m;
	int err;

	if (c->size >= sizeof(value)) {
		call_reply_err(c, EINVAL);
		return;
	}
	if (c->value)
		memcpy(value, c->value, c->size);
	/* What another node changed lately must not be written back. */
	err = -kv_learn_policies(kv, c->deadline);
	pthread_mutex_lock(&kv->lock);
	kv_ns_record(ns, &m);
	pthread_mutex_unlock(&kv->lock);
	if (!err)
		err = parse_policy(c->name + strlen(OWN), value, &m);
	if (!err)
		err = -meta_namespace_put(c->fs->meta, c->deadline,
					  ns->dir.node.name, &m, false);
	if (!err) {
		pthread_mutex_lock(&kv->lock);
		kv_set_policy(kv, ns, &m);
		kv_enforce_quota(kv, ns);
		pthread_mutex_unlock(&kv->lock);
	}
	call_reply_err(c, err);
}

/* The chain: this block continues that one of the same namespace. */
static int set_parent(struct kv *kv, struct kv_file *f, const char *value,
		      size_t size)
{
	char path[POOL_PATH_MAX + 1];
	struct kv_node *node;
	int n;

	if (f->node.state != KV_COMMITTED)
		return EINVAL;
	if (!value || !size) {
		kv_set_parent(kv, f, NULL);
		return 0;
	}
	n = snprintf(path, sizeof(path), "%s/%.*s", f->ns->dir.node.name,
		     (int)size, value);
	if (n >= (int)sizeof(path))
		return ENAMETOOLONG;
	node = kv_find_path(kv, path, (size_t)n);
	if (!node || kv_is_dir(node) || node->state != KV_COMMITTED)
		return ENOENT;
	if (kv_file(node) == f)
		return EINVAL;
	kv_set_parent(kv, f, kv_file(node));
	return 0;
}

/* The name under which a client's attribute is kept, or an errno. */
static int stored_name(const char *name, char stored[300])
{
	if (strncmp(name, "user.", 5))
		return EOPNOTSUPP;
	if (snprintf(stored, 300, "%s%s", STORED, name + 5) > 255)
		return ERANGE;
	return 0;
}

static int set_stored(struct call *c, struct kv_file *f)
{
	struct kv *kv = c->fs->kv;
	char stored[300];
	int err = stored_name(c->name, stored);
	cleanup_close int fd = -1;

	if (err)
		return err;
	fd = pool_fd(kv->fs->pool, f->frame, O_RDONLY);
	if (fd < 0)
		return -fd;
	kv_record(kv, f)->flags |= POOL_HAS_XATTR;
	return fsetxattr(fd, stored, c->value ? c->value : "", c->size,
			 (int)c->flags)
		       ? errno
		       : 0;
}

void kv_do_setxattr(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_node(c->inode);
	int err;

	if (node->type == KV_NAMESPACE && is_own(c->name)) {
		call_defer(c, set_policy);
		return;
	}
	if (is_own(c->name) && remote_order_set(c, c->name + strlen(OWN)))
		return;
	pthread_mutex_lock(&kv->lock);
	if (kv_is_dir(node))
		err = EOPNOTSUPP;
	else if (kv_file(node)->frame == POOL_NO_FRAME)
		err = ESTALE;
	else if (!strcmp(c->name, OWN "parent"))
		err = set_parent(kv, kv_file(node), c->value, c->size);
	else if (is_own(c->name))
		err = EPERM;
	else
		err = set_stored(c, kv_file(node));
	pthread_mutex_unlock(&kv->lock);
	call_reply_err(c, err);
}

/* Reads the whole block: takes its checksum, or compares with it. */
static void verify(struct call *c)
{
	int err = kv_sum_now(c->fs->kv, kv_file(kv_node(c->inode)));

	if (err)
		call_reply_err(c, err);
	else
		call_reply_xattr(c, "ok", 2);
}

static void get_stored(struct call *c, struct kv_file *f)
{
	struct kv *kv = c->fs->kv;
	char stored[300];
	cleanup_free char *value = malloc(65536);
	cleanup_close int fd = -1;
	ssize_t n = -1;
	int err = stored_name(c->name, stored);

	pthread_mutex_lock(&kv->lock);
	if (!err && f->frame == POOL_NO_FRAME)
		err = ESTALE;
	if (!err && !(kv_record(kv, f)->flags & POOL_HAS_XATTR))
		err = ENODATA;
	if (!err)
		fd = pool_fd(kv->fs->pool, f->frame, O_RDONLY);
	pthread_mutex_unlock(&kv->lock);
	if (!err && fd >= 0 && value)
		n = fgetxattr(fd, stored, value, 65536);
	if (err || n < 0)
		call_reply_err(c, err ? err : fd < 0 ? EIO : errno);
	else
		call_reply_xattr(c, value, (size_t)n);
}

void kv_do_getxattr(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_node(c->inode);
	char value[VALUE_MAX];
	int n;

	if (!is_own(c->name)) {
		if (kv_is_dir(node))
			call_reply_err(c, ENODATA);
		else
			get_stored(c, kv_file(node));
		return;
	}
	if (remote_order_get(c, c->name + strlen(OWN)))
		return;
	if (node->type == KV_FILE && !strcmp(c->name, OWN "verify")) {
		call_defer(c, verify);
		return;
	}
	pthread_mutex_lock(&kv->lock);
	n = get_own(kv, node, c->name, value);
	pthread_mutex_unlock(&kv->lock);
	if (n < 0)
		call_reply_err(c, n);
	else
		call_reply_xattr(c, value, (size_t)n);
}

/* Turns the names on the frame's file back into the client's, in place. */
static size_t client_names(char *names, size_t size)
{
	size_t prefix = strlen(STORED), out = 0;

	for (size_t at = 0, n; at < size; at += n) {
		n = strlen(names + at) + 1;
		if (strncmp(names + at, STORED, prefix))
			continue;
		memmove(names + out + 5, names + at + prefix, n - prefix);
		memcpy(names + out, "user.", 5);
		out += 5 + n - prefix;
	}
	return out;
}

void kv_do_listxattr(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_node(c->inode);
	cleanup_free char *names = malloc(65536);
	cleanup_close int fd = -1;
	ssize_t n = 0;

	pthread_mutex_lock(&kv->lock);
	if (!kv_is_dir(node) && kv_file(node)->frame != POOL_NO_FRAME &&
	    kv_record(kv, kv_file(node))->flags & POOL_HAS_XATTR)
		fd = pool_fd(kv->fs->pool, kv_file(node)->frame, O_RDONLY);
	pthread_mutex_unlock(&kv->lock);
	if (fd >= 0 && names)
		n = flistxattr(fd, names, 65536);
	call_reply_xattr(c, names, n > 0 ? client_names(names, (size_t)n) : 0);
}

void kv_do_removexattr(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_node(c->inode);
	char stored[300];
	cleanup_close int fd = -1;
	int err = is_own(c->name) ? EPERM : stored_name(c->name, stored);

	pthread_mutex_lock(&kv->lock);
	if (!err && (kv_is_dir(node) || kv_file(node)->frame == POOL_NO_FRAME))
		err = ENODATA;
	if (!err)
		fd = pool_fd(kv->fs->pool, kv_file(node)->frame, O_RDONLY);
	pthread_mutex_unlock(&kv->lock);
	if (!err)
		err = fd < 0 ? -fd : fremovexattr(fd, stored) ? errno : 0;
	call_reply_err(c, err);
}

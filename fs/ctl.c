// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "config.h"
#include "engine/pool.h"
#include "fs/call.h"
#include "fs/ctl.h"
#include "fs/frames.h"
#include "fs/fs.h"
#include "fs/locks.h"
#include "meta/nodes.h"

/*
 * The view of what is nobody else's: the mount's root directory (kv, ckpt,
 * .kvfs) and the control files in .kvfs/, all but one of them read-only.
 */

/* Inode numbers of this view, apart from those of kv and ckpt. */
#define CTL_INO(n) ((1ULL << 62) + (n))
#define ENTRY_TIMEOUT 3600.0

/* How long who asks for the nodes waits for Redis. */
#define REFRESH_NS (300 * NS_PER_MS)

struct ctl_inode {
	struct inode head;
	unsigned index; /* into entries */
};

static char *ctl_version(struct fs *fs, bool all)
{
	(void)fs;
	(void)all;
	return strdup("kvfs " PACKAGE_VERSION "\n");
}

static void add_event(void *arg, const char *line)
{
	fprintf(arg, "%s\n", line);
}

static char *ctl_events(struct fs *fs, bool all)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	(void)fs;
	(void)all;
	if (!f)
		return NULL;
	log_recent(add_event, f);
	fclose(f);
	return text;
}

/* All that this view shows. Entry 0 is the root, 1 is .kvfs. */
static const struct {
	const char *name;
	char *(*text)(struct fs *fs, bool all);
} entries[] = {
	{"", NULL},
	{".kvfs", NULL},
	{"stats", ctl_stats},
	{"status", ctl_status},
	{"nodes", ctl_nodes},
	{"config", ctl_config},
	{"events", ctl_events},
	{"version", ctl_version},
	{"match", NULL},  /* ctl_match.c */
	{"frames", NULL}, /* a directory: frames.c */
};
enum {
	CTL_ROOT,
	CTL_DIR,
	CTL_FIRST_FILE,
	CTL_NODES = 4,
	CTL_EVENTS = 6,
	CTL_MATCH = 8,
	CTL_FRAMES = 9,
	CTL_ENTRIES = 10,
};

struct ctl {
	struct fs *fs;
	struct ctl_inode inodes[CTL_ENTRIES];
};

static unsigned index_of(const struct inode *inode)
{
	return container_of(inode, struct ctl_inode, head)->index;
}

static bool is_match(const struct call *c)
{
	return index_of(c->inode) == CTL_MATCH;
}

static mode_t mode_of(unsigned index)
{
	if (index < CTL_FIRST_FILE || index == CTL_FRAMES)
		return S_IFDIR | 0755;
	if (index == CTL_EVENTS) /* names of tenants are in it */
		return S_IFREG | 0400;
	return S_IFREG | (index == CTL_MATCH ? 0666 : 0444);
}

static void fill_attr(const struct fs *fs, unsigned index, struct stat *st)
{
	struct timespec start = clock_timespec(fs->started_ns);

	memset(st, 0, sizeof(*st));
	st->st_ino = CTL_INO(index);
	st->st_mode = mode_of(index);
	st->st_nlink = index == CTL_ROOT     ? 5
		       : index == CTL_DIR    ? 3
		       : index == CTL_FRAMES ? 2
					     : 1;
	st->st_uid = geteuid();
	st->st_gid = getegid();
	st->st_blksize = 4096;
	st->st_atim = st->st_mtim = st->st_ctim = start;
}

/* A view's root: what it really looks like, it says when it is asked. */
static void reply_view_root(struct call *c, struct inode *root)
{
	struct fuse_entry_param e = {
		.ino = inode_fuse(c->fs, root),
		.generation = 1,
		.entry_timeout = ENTRY_TIMEOUT,
	};

	fill_attr(c->fs, CTL_ROOT, &e.attr);
	call_reply_entry(c, &e);
}

static void reply_own(struct call *c, unsigned index)
{
	struct fuse_entry_param e = {
		.ino = inode_fuse(c->fs, &c->fs->ctl->inodes[index].head),
		.generation = 1,
		.entry_timeout = ENTRY_TIMEOUT,
		.attr_timeout = ENTRY_TIMEOUT,
	};

	fill_attr(c->fs, index, &e.attr);
	call_reply_entry(c, &e);
}

static void do_lookup(struct call *c)
{
	unsigned dir = index_of(c->inode);

	if (dir == CTL_FRAMES) {
		frames_lookup(c);
		return;
	}
	if (dir == CTL_ROOT && !strcmp(c->name, "kv")) {
		reply_view_root(c, kv_root(c->fs->kv));
		return;
	}
	if (dir == CTL_ROOT && !strcmp(c->name, "ckpt")) {
		reply_view_root(c, ckpt_root(c->fs->ckpt));
		return;
	}
	for (unsigned i = CTL_DIR; i < CTL_ENTRIES; i++) {
		if ((dir == CTL_ROOT) == (i == CTL_DIR) &&
		    !strcmp(c->name, entries[i].name)) {
			reply_own(c, i);
			return;
		}
	}
	call_reply_err(c, ENOENT);
}

static void do_getattr(struct call *c)
{
	struct stat st;

	fill_attr(c->fs, index_of(c->inode), &st);
	call_reply_attr(c, &st, ENTRY_TIMEOUT);
}

static void refuse(struct call *c)
{
	call_reply_err(c, EPERM);
}

/* Root, and who runs the daemon. */
static bool may_see_all(const struct call *c)
{
	return !c->uid || c->uid == geteuid();
}

static void open_text(struct call *c)
{
	char *text = entries[index_of(c->inode)].text(c->fs, may_see_all(c));
	if (!text) {
		call_reply_err(c, ENOMEM);
		return;
	}
	c->fi.fh = (uint64_t)(uintptr_t)text;
	c->fi.direct_io = 1;
	c->fi.noflush = 1;
	call_reply_open(c, &c->fi);
}

static void open_nodes(struct call *c)
{
	meta_nodes_refresh(c->fs->meta, clock_now_ns() + REFRESH_NS);
	open_text(c);
}

static void do_open(struct call *c)
{
	if (is_match(c))
		ctl_match_open(c);
	else if ((c->fi.flags & O_ACCMODE) != O_RDONLY)
		call_reply_err(c, EPERM);
	else if (index_of(c->inode) == CTL_NODES)
		call_defer(c, open_nodes);
	else
		open_text(c);
}

/*
 * The answer is a copy: the reader has it, and may close, before the call that
 * gives it returns here, and the close frees the text.
 */
void ctl_reply_text(struct call *c, const char *text, off_t off)
{
	size_t size = strlen(text), at = off < 0 ? size : (size_t)off;
	cleanup_free char *copy = NULL;

	at = at < size ? at : size;
	size = size - at < c->size ? size - at : c->size;
	copy = malloc(size + 1);
	if (!copy) {
		call_reply_err(c, ENOMEM);
		return;
	}
	memcpy(copy, text + at, size);
	call_reply_buf(c, copy, size);
}

static void do_read(struct call *c)
{
	if (is_match(c))
		ctl_match_read(c);
	else
		ctl_reply_text(c, (const char *)(uintptr_t)c->fi.fh, c->off);
}

static void do_write(struct call *c)
{
	if (is_match(c))
		ctl_match_write(c);
	else
		refuse(c);
}

static void do_release(struct call *c)
{
	locks_release(c);
	if (is_match(c)) {
		ctl_match_release(c);
		return;
	}
	free((void *)(uintptr_t)c->fi.fh);
	call_reply_err(c, 0);
}

static void do_opendir(struct call *c)
{
	call_reply_open(c, &c->fi);
}

static void do_releasedir(struct call *c)
{
	call_reply_err(c, 0);
}

/* Appends one entry; with READDIRPLUS one that leaves the lookup for later. */
static bool add_name(struct call *c, char *buf, size_t *used, const char *name,
		     unsigned index, off_t next)
{
	struct fuse_entry_param e = {.ino = 0};
	size_t room = c->size - *used, n;

	fill_attr(c->fs, index, &e.attr);
	n = c->plus ? fuse_add_direntry_plus(c->req, buf + *used, room, name,
					     &e, next)
		    : fuse_add_direntry(c->req, buf + *used, room, name,
					&e.attr, next);
	if (n > room)
		return false;
	*used += n;
	return true;
}

/* Both directories are short: the offset is the place in this order. */
static void do_readdir(struct call *c)
{
	static const char *const root[] = {".", "..", ".kvfs", "kv", "ckpt"};
	static const unsigned root_index[] = {CTL_ROOT, CTL_ROOT, CTL_DIR,
					      CTL_ROOT, CTL_ROOT};
	bool is_root = index_of(c->inode) == CTL_ROOT;
	bool is_frames = index_of(c->inode) == CTL_FRAMES; /* none is shown */
	off_t n = is_root ? 5 : is_frames ? CTL_FIRST_FILE : CTL_ENTRIES;
	size_t used = 0;
	char *buf = malloc(c->size);

	if (!buf) {
		call_reply_err(c, ENOMEM);
		return;
	}
	for (off_t i = c->off; i < n; i++) {
		bool dir = is_root || i < CTL_FIRST_FILE;

		if (!add_name(c, buf, &used, dir ? root[i] : entries[i].name,
			      is_root ? root_index[i] : (unsigned)i, i + 1))
			break;
	}
	call_reply_buf(c, buf, used);
	free(buf);
}

static void do_statfs(struct call *c)
{
	struct call to_kv = *c;

	to_kv.inode = kv_root(c->fs->kv);
	to_kv.inode->view->statfs(&to_kv);
}

static void do_fsync(struct call *c)
{
	call_reply_err(c, 0);
}

static void no_xattr(struct call *c)
{
	call_reply_err(c, ENODATA);
}

static void do_listxattr(struct call *c)
{
	call_reply_xattr(c, "", 0);
}

static const struct view ctl_view = {
	.name = "ctl",
	.lookup = do_lookup,
	.getattr = do_getattr,
	.setattr = refuse,
	.mknod = refuse,
	.mkdir = refuse,
	.symlink = refuse,
	.unlink = refuse,
	.rmdir = refuse,
	.rename = refuse,
	.link = refuse,
	.create = refuse,
	.setxattr = refuse,
	.removexattr = refuse,
	.fallocate = refuse,
	.open = do_open,
	.read = do_read,
	.write = do_write,
	.release = do_release,
	.fsync = do_fsync,
	.getlk = locks_do_getlk,
	.setlk = locks_do_setlk,
	.opendir = do_opendir,
	.readdir = do_readdir,
	.releasedir = do_releasedir,
	.statfs = do_statfs,
	.getxattr = no_xattr,
	.listxattr = do_listxattr,
};

int ctl_open(struct ctl **out, struct fs *fs)
{
	struct ctl *ctl = calloc(1, sizeof(*ctl));

	if (!ctl)
		return -ENOMEM;
	ctl->fs = fs;
	for (unsigned i = 0; i < CTL_ENTRIES; i++)
		ctl->inodes[i] = (struct ctl_inode){
			.head = {INODE_MAGIC, &ctl_view},
			.index = i,
		};
	*out = ctl;
	return 0;
}

void ctl_close(struct ctl *ctl)
{
	free(ctl);
}

struct inode *ctl_root(struct ctl *ctl)
{
	return &ctl->inodes[CTL_ROOT].head;
}

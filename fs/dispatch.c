// SPDX-License-Identifier: MIT
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "base/clock.h"
#include "fs/call.h"
#include "fs/dispatch.h"
#include "fs/fs.h"
#include "fs/ioctl.h"
#include "fs/order.h"

/*
 * From libfuse's callbacks to the views. The way of a request: on_NAME fills
 * a struct call on the stack; route() checks what holds for every view (length
 * of names, crossing views, stopping) and runs the view's handler, or, where
 * the view waits, a copy of the call on a worker.
 */

struct inode *inode_of(const struct fs *fs, fuse_ino_t id)
{
	if (id == FUSE_ROOT_ID)
		return ctl_root(fs->ctl);
	return (struct inode *)(uintptr_t)id;
}

fuse_ino_t inode_fuse(const struct fs *fs, const struct inode *inode)
{
	if (inode == ctl_root(fs->ctl))
		return FUSE_ROOT_ID;
	return (fuse_ino_t)(uintptr_t)inode;
}

static void call_init(struct call *c, fuse_req_t req, fuse_ino_t id)
{
	struct fs *fs = fuse_req_userdata(req);
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	order_request();
	memset(c, 0, sizeof(*c));
	c->fs = fs;
	c->req = req;
	c->inode = inode_of(fs, id);
	c->uid = ctx->uid;
	c->gid = ctx->gid;
	c->pid = ctx->pid;
	c->start_ns = clock_now_ns();
	c->deadline = c->start_ns + fs->config.deadline_ms * NS_PER_MS;
}

static void set_fi(struct call *c, const struct fuse_file_info *fi)
{
	if (!fi)
		return;
	c->fi = *fi;
	c->has_fi = true;
}

static void set_lock(struct call *c, const struct flock *lock)
{
	c->lock.type = lock->l_type;
	c->lock.start = (uint64_t)lock->l_start;
	c->lock.end = lock->l_len ? c->lock.start + (uint64_t)lock->l_len - 1
				  : INT64_MAX;
	c->lock.pid = lock->l_pid;
}

/* Copies the call with all that it points to: c->req's buffers are reused. */
static struct call *copy_call(const struct call *c)
{
	size_t name = c->name ? strlen(c->name) + 1 : 0;
	size_t new_name = c->new_name ? strlen(c->new_name) + 1 : 0;
	size_t value = c->value ? c->size : 0;
	struct call *copy = malloc(sizeof(*copy) + name + new_name + value);
	char *p;

	if (!copy)
		return NULL;
	*copy = *c;
	copy->heap = true;
	p = (char *)(copy + 1);
	if (name)
		copy->name = memcpy(p, c->name, name);
	if (new_name)
		copy->new_name = memcpy(p + name, c->new_name, new_name);
	if (value)
		copy->value = memcpy(p + name + new_name, c->value, value);
	return copy;
}

struct call *call_keep(struct call *c)
{
	return c->heap ? c : copy_call(c);
}

static void run_call(struct job *job)
{
	struct call *c = container_of(job, struct call, job);

	c->fn(c);
}

void call_defer(struct call *c, call_fn fn)
{
	struct call *copy = call_keep(c);

	if (!copy) {
		call_reply_err(c, ENOMEM);
		return;
	}
	copy->fn = fn;
	copy->job.run = run_call;
	workers_post(c->fs->workers, &copy->job);
}

static bool name_too_long(const char *name)
{
	return name && strlen(name) > 255;
}

static void run_here(struct call *c, call_fn fn)
{
	/* The ring's threads end by an event, never inside a handler. */
	static __thread bool cancel_off;

	if (!cancel_off) {
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		cancel_off = true;
	}
	/* Not ENOSYS: the kernel would ask no other view for it, either. */
	if (!fn)
		call_reply_err(c, EOPNOTSUPP);
	else if (atomic_load_explicit(&c->fs->stopping, memory_order_relaxed))
		call_reply_err(c, ENOTCONN);
	else
		fn(c);
}

static void run(struct call *c, call_fn fn)
{
	if (fn && c->inode->view->waits &&
	    !atomic_load_explicit(&c->fs->stopping, memory_order_relaxed))
		call_defer(c, fn);
	else
		run_here(c, fn);
}

/* name and new_name are directory entries. */
static void run_named(struct call *c, call_fn fn)
{
	if (name_too_long(c->name) || name_too_long(c->new_name))
		call_reply_err(c, ENAMETOOLONG);
	else if (c->new_inode && c->new_inode->view != c->inode->view)
		call_reply_err(c, EXDEV);
	else
		run(c, fn);
}

#define VIEW(c, op) ((c)->inode->view->op)

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct call c;

	call_init(&c, req, parent);
	c.name = name;
	run_named(&c, VIEW(&c, lookup));
}

static void forget(struct fs *fs, fuse_ino_t id, uint64_t nlookup)
{
	struct inode *inode = inode_of(fs, id);

	order_request();
	if (inode->view->forget)
		inode->view->forget(fs, inode, nlookup);
}

static void on_forget(fuse_req_t req, fuse_ino_t id, uint64_t nlookup)
{
	forget(fuse_req_userdata(req), id, nlookup);
	fuse_reply_none(req);
}

static void on_forget_multi(fuse_req_t req, size_t count,
			    struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget(fuse_req_userdata(req), forgets[i].ino,
		       forgets[i].nlookup);
	fuse_reply_none(req);
}

static void on_getattr(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	run(&c, VIEW(&c, getattr));
}

static void on_setattr(fuse_req_t req, fuse_ino_t id, struct stat *attr,
		       int to_set, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	c.attr = *attr;
	c.to_set = to_set;
	set_fi(&c, fi);
	run(&c, VIEW(&c, setattr));
}

static void on_readlink(fuse_req_t req, fuse_ino_t id)
{
	struct call c;

	call_init(&c, req, id);
	run(&c, VIEW(&c, readlink));
}

static void on_mknod(fuse_req_t req, fuse_ino_t parent, const char *name,
		     mode_t mode, dev_t rdev)
{
	struct call c;

	call_init(&c, req, parent);
	c.name = name;
	c.mode = mode;
	c.rdev = rdev;
	run_named(&c, VIEW(&c, mknod));
}

static void on_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name,
		     mode_t mode)
{
	struct call c;

	call_init(&c, req, parent);
	c.name = name;
	c.mode = mode;
	run_named(&c, VIEW(&c, mkdir));
}

static void on_symlink(fuse_req_t req, const char *target, fuse_ino_t parent,
		       const char *name)
{
	struct call c;

	call_init(&c, req, parent);
	c.name = name;
	if (name_too_long(name)) {
		call_reply_err(&c, ENAMETOOLONG);
		return;
	}
	c.new_name = target;
	run(&c, VIEW(&c, symlink));
}

static void on_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct call c;

	call_init(&c, req, parent);
	c.name = name;
	run_named(&c, VIEW(&c, unlink));
}

static void on_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct call c;

	call_init(&c, req, parent);
	c.name = name;
	run_named(&c, VIEW(&c, rmdir));
}

static void on_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
		      fuse_ino_t new_parent, const char *new_name,
		      unsigned flags)
{
	struct call c;

	call_init(&c, req, parent);
	c.name = name;
	c.new_inode = inode_of(c.fs, new_parent);
	c.new_name = new_name;
	c.flags = flags;
	run_named(&c, VIEW(&c, rename));
}

static void on_link(fuse_req_t req, fuse_ino_t id, fuse_ino_t new_parent,
		    const char *new_name)
{
	struct call c;

	call_init(&c, req, id);
	c.new_inode = inode_of(c.fs, new_parent);
	c.new_name = new_name;
	run_named(&c, VIEW(&c, link));
}

static void on_open(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	run(&c, VIEW(&c, open));
}

static void on_create(fuse_req_t req, fuse_ino_t parent, const char *name,
		      mode_t mode, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, parent);
	c.name = name;
	c.mode = mode;
	set_fi(&c, fi);
	run_named(&c, VIEW(&c, create));
}

static void on_read(fuse_req_t req, fuse_ino_t id, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	c.size = size;
	c.off = off;
	set_fi(&c, fi);
	run_here(&c, VIEW(&c, read));
}

static void on_write(fuse_req_t req, fuse_ino_t id, const char *buf,
		     size_t size, off_t off, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	c.value = buf;
	c.size = size;
	c.off = off;
	set_fi(&c, fi);
	run_here(&c, VIEW(&c, write));
}

static void on_flush(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	run(&c, VIEW(&c, flush));
}

static void on_release(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	VIEW(&c, release)(&c); /* also while stopping: it gives back */
}

static void on_fsync(fuse_req_t req, fuse_ino_t id, int datasync,
		     struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	c.flags = (unsigned)datasync;
	set_fi(&c, fi);
	run(&c, VIEW(&c, fsync));
}

static void on_opendir(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	run(&c, VIEW(&c, opendir));
}

static void readdir(fuse_req_t req, fuse_ino_t id, size_t size, off_t off,
		    struct fuse_file_info *fi, bool plus)
{
	struct call c;

	call_init(&c, req, id);
	c.size = size;
	c.off = off;
	c.plus = plus;
	set_fi(&c, fi);
	run_here(&c, VIEW(&c, readdir));
}

static void on_readdir(fuse_req_t req, fuse_ino_t id, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	readdir(req, id, size, off, fi, false);
}

static void on_readdirplus(fuse_req_t req, fuse_ino_t id, size_t size,
			   off_t off, struct fuse_file_info *fi)
{
	readdir(req, id, size, off, fi, true);
}

static void on_releasedir(fuse_req_t req, fuse_ino_t id,
			  struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	VIEW(&c, releasedir)(&c);
}

static void on_statfs(fuse_req_t req, fuse_ino_t id)
{
	struct call c;

	call_init(&c, req, id);
	run_here(&c, VIEW(&c, statfs));
}

static void on_setxattr(fuse_req_t req, fuse_ino_t id, const char *name,
			const char *value, size_t size, int flags)
{
	struct call c;

	call_init(&c, req, id);
	c.name = name;
	c.value = value;
	c.size = size;
	c.flags = (unsigned)flags;
	run(&c, VIEW(&c, setxattr));
}

static void on_getxattr(fuse_req_t req, fuse_ino_t id, const char *name,
			size_t size)
{
	struct call c;

	call_init(&c, req, id);
	c.name = name;
	c.size = size;
	/* One of these comes with every open for writing: never wait. */
	if (c.fs->killpriv_v2 && !strcmp(name, "security.capability"))
		call_reply_err(&c, ENODATA);
	else
		run(&c, VIEW(&c, getxattr));
}

static void on_listxattr(fuse_req_t req, fuse_ino_t id, size_t size)
{
	struct call c;

	call_init(&c, req, id);
	c.size = size;
	run(&c, VIEW(&c, listxattr));
}

static void on_removexattr(fuse_req_t req, fuse_ino_t id, const char *name)
{
	struct call c;

	call_init(&c, req, id);
	c.name = name;
	run(&c, VIEW(&c, removexattr));
}

static void on_fallocate(fuse_req_t req, fuse_ino_t id, int mode, off_t off,
			 off_t length, struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	c.mode = (mode_t)mode;
	c.off = off;
	c.length = length;
	set_fi(&c, fi);
	run(&c, VIEW(&c, fallocate));
}

static void on_lseek(fuse_req_t req, fuse_ino_t id, off_t off, int whence,
		     struct fuse_file_info *fi)
{
	struct call c;

	call_init(&c, req, id);
	c.off = off;
	c.flags = (unsigned)whence;
	set_fi(&c, fi);
	run(&c, VIEW(&c, lseek));
}

static void on_getlk(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi,
		     struct flock *lock)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	set_lock(&c, lock);
	run(&c, VIEW(&c, getlk));
}

static void on_setlk(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi,
		     struct flock *lock, int wait)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	set_lock(&c, lock);
	c.lock.wait = wait;
	c.lock.cpu = sched_getcpu();
	run(&c, VIEW(&c, setlk));
}

static void on_flock(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi,
		     int op)
{
	struct call c;

	call_init(&c, req, id);
	set_fi(&c, fi);
	c.lock.flock = true;
	c.lock.wait = !(op & LOCK_NB);
	c.lock.type = op & LOCK_EX ? F_WRLCK : op & LOCK_SH ? F_RDLCK : F_UNLCK;
	c.lock.end = INT64_MAX;
	c.lock.pid = c.pid;
	c.lock.cpu = sched_getcpu();
	run(&c, VIEW(&c, setlk));
}

/* The kernel has copied as many bytes as the command's number says. */
static void on_ioctl(fuse_req_t req, fuse_ino_t id, unsigned cmd, void *arg,
		     struct fuse_file_info *fi, unsigned flags, const void *in,
		     size_t in_bytes, size_t out_bytes)
{
	struct call c;

	(void)arg;
	call_init(&c, req, id);
	c.flags = cmd;
	c.value = in;
	c.size = in_bytes;
	c.room = out_bytes;
	set_fi(&c, fi);
	run_here(&c, flags & FUSE_IOCTL_DIR ? ioctl_run : ioctl_run_file);
}

static struct fuse_lowlevel_ops ops = {
	.lookup = on_lookup,
	.forget = on_forget,
	.forget_multi = on_forget_multi,
	.getattr = on_getattr,
	.setattr = on_setattr,
	.readlink = on_readlink,
	.mknod = on_mknod,
	.mkdir = on_mkdir,
	.symlink = on_symlink,
	.unlink = on_unlink,
	.rmdir = on_rmdir,
	.rename = on_rename,
	.link = on_link,
	.open = on_open,
	.create = on_create,
	.read = on_read,
	.write = on_write,
	.flush = on_flush,
	.release = on_release,
	.fsync = on_fsync,
	.opendir = on_opendir,
	.readdir = on_readdir,
	.readdirplus = on_readdirplus,
	.releasedir = on_releasedir,
	.fsyncdir = on_fsync,
	.statfs = on_statfs,
	.setxattr = on_setxattr,
	.getxattr = on_getxattr,
	.listxattr = on_listxattr,
	.removexattr = on_removexattr,
	.fallocate = on_fallocate,
	.lseek = on_lseek,
	.getlk = on_getlk,
	.setlk = on_setlk,
	.flock = on_flock,
	.ioctl = on_ioctl,
};

const struct fuse_lowlevel_ops *
dispatch_ops(void (*init)(void *userdata, struct fuse_conn_info *conn))
{
	ops.init = init;
	return &ops;
}

size_t dispatch_ops_size(void)
{
	return sizeof(ops);
}

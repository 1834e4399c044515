// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/call.h"
#include "fs/gate.h"
#include "fs/order.h"

#ifdef __SANITIZE_THREAD__
char order_point;
#endif

/* The answers of call.h. One that is not given by the thread that read the
 * request goes through the gate (gate.c). */

static bool begin(const struct call *c)
{
	bool gated = c->heap && fuse_req_is_uring(c->req);

	order_answer();
	if (gated)
		gate_enter();
	return gated;
}

/* A failed answer means that the caller was killed meanwhile. */
static void end(struct call *c, bool gated)
{
	if (gated)
		gate_leave();
	if (c->heap)
		free(c);
}

#define ANSWER(c, reply)               \
	do {                           \
		bool gated = begin(c); \
		(void)(reply);         \
		end(c, gated);         \
	} while (0)

/* To who asked, if that was not the kernel. */
static bool elsewhere(struct call *c, int err, const void *answer, size_t size)
{
	if (!c->answer)
		return false;
	c->answer(c, err, answer, size);
	if (c->heap)
		free(c);
	return true;
}

void call_reply_err(struct call *c, int err)
{
	if (elsewhere(c, err < 0 ? err : -err, NULL, 0))
		return;
	ANSWER(c, fuse_reply_err(c->req, err < 0 ? -err : err));
}

void call_reply_entry(struct call *c, const struct fuse_entry_param *e)
{
	ANSWER(c, fuse_reply_entry(c->req, e));
}

void call_reply_create(struct call *c, const struct fuse_entry_param *e,
		       const struct fuse_file_info *fi)
{
	ANSWER(c, fuse_reply_create(c->req, e, fi));
}

void call_reply_attr(struct call *c, const struct stat *st, double timeout)
{
	ANSWER(c, fuse_reply_attr(c->req, st, timeout));
}

void call_reply_open(struct call *c, const struct fuse_file_info *fi)
{
	ANSWER(c, fuse_reply_open(c->req, fi));
}

void call_reply_buf(struct call *c, const void *buf, size_t size)
{
	ANSWER(c, fuse_reply_buf(c->req, buf, size));
}

void call_reply_ioctl(struct call *c, const void *buf, size_t size)
{
	if (elsewhere(c, 0, buf, size))
		return;
	ANSWER(c, fuse_reply_ioctl(c->req, 0, buf, size));
}

void call_reply_written(struct call *c, size_t size)
{
	ANSWER(c, fuse_reply_write(c->req, size));
}

void call_reply_readlink(struct call *c, const char *target)
{
	ANSWER(c, fuse_reply_readlink(c->req, target));
}

void call_reply_statfs(struct call *c, const struct statvfs *st)
{
	ANSWER(c, fuse_reply_statfs(c->req, st));
}

void call_reply_lock(struct call *c, const struct flock *lock)
{
	ANSWER(c, fuse_reply_lock(c->req, lock));
}

void call_reply_lseek(struct call *c, off_t off)
{
	ANSWER(c, fuse_reply_lseek(c->req, off));
}

void call_reply_xattr(struct call *c, const void *value, size_t size)
{
	if (c->size == 0)
		ANSWER(c, fuse_reply_xattr(c->req, size));
	else if (size > c->size)
		call_reply_err(c, ERANGE);
	else
		ANSWER(c, fuse_reply_buf(c->req, value, size));
}

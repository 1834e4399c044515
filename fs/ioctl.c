// SPDX-License-Identifier: MIT
#include "fs/ioctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/ckpt.h"
#include "fs/fs.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "fs/ring.h"

static bool is_zero(const void *bytes, size_t n)
{
	const char *p = bytes;

	return !n || (!*p && !memcmp(p, p + 1, n - 1));
}

static void do_version(struct call *c)
{
	struct kvfs_ioc_version v = {
		.head = ioctl_head(sizeof(v)),
		.room_max = KVFS_IOC_ROOM_MAX,
		.names_max = KVFS_IOC_NAMES_MAX,
	};

	if (!is_zero((const char *)c->value + sizeof(v.head),
		     sizeof(v) - sizeof(v.head))) {
		call_reply_err(c, EINVAL);
		return;
	}
	if (c->fs->passthrough)
		v.features |= KVFS_IOC_HAS_PASSTHROUGH;
	if (c->fs->remote)
		v.features |= KVFS_IOC_HAS_CLUSTER;
	if (c->fs->remote && c->fs->remote->has_card)
		v.features |= KVFS_IOC_HAS_RDMA;
	if (rings_offered(c->fs->rings))
		v.features |= KVFS_IOC_HAS_RING;
	snprintf(v.version, sizeof(v.version), "%s", KVFS_VERSION);
	call_reply_ioctl(c, &v, sizeof(v));
}

#define FIND_ROOM sizeof(struct kvfs_ioc_found)
static const struct ioctl_command commands[] = {
	{KVFS_IOC_VERSION, sizeof(struct kvfs_ioc_version), .any_dir = true,
	 .run = do_version},
	{KVFS_IOC_EXISTS(FIND_ROOM), sizeof(struct kvfs_ioc_find),
	 .any_room = true, .ring = true, .run = ioctl_do_exists},
	{KVFS_IOC_MATCH(FIND_ROOM), sizeof(struct kvfs_ioc_find),
	 .any_room = true, .ring = true, .run = ioctl_do_match},
	{KVFS_IOC_LOCATE(sizeof(struct kvfs_ioc_located)),
	 sizeof(struct kvfs_ioc_locate), .any_room = true, .ring = true,
	 .run = ioctl_do_locate},
	{KVFS_IOC_UNPIN(sizeof(struct kvfs_ioc_pins)),
	 sizeof(struct kvfs_ioc_pins), .any_room = true, .ring = true,
	 .run = ioctl_do_unpin},
	{KVFS_IOC_RESERVE(sizeof(struct kvfs_ioc_reserve)),
	 sizeof(struct kvfs_ioc_reserve), .any_room = true, .ring = true,
	 .run = ioctl_do_reserve},
	{KVFS_IOC_COMMIT(sizeof(struct kvfs_ioc_committed)),
	 sizeof(struct kvfs_ioc_commit), .any_room = true, .ring = true,
	 .run = ioctl_do_commit},
	{KVFS_IOC_ABORT(sizeof(struct kvfs_ioc_pins)),
	 sizeof(struct kvfs_ioc_pins), .any_room = true, .ring = true,
	 .run = ioctl_do_abort},
	{KVFS_IOC_TOUCH(FIND_ROOM), sizeof(struct kvfs_ioc_find),
	 .any_room = true, .ring = true, .run = ioctl_do_use},
	{KVFS_IOC_EVICT(FIND_ROOM), sizeof(struct kvfs_ioc_find),
	 .any_room = true, .ring = true, .run = ioctl_do_use},
	{KVFS_IOC_PREFETCH(FIND_ROOM), sizeof(struct kvfs_ioc_find),
	 .any_room = true, .ring = true, .run = ioctl_do_prefetch},
	{KVFS_IOC_REGISTER, sizeof(struct kvfs_ioc_register),
	 .run = ioctl_do_register},
	{KVFS_IOC_UNREGISTER, sizeof(struct kvfs_ioc_unregister),
	 .run = ioctl_do_unregister},
	{KVFS_IOC_GET(sizeof(struct kvfs_ioc_got)), sizeof(struct kvfs_ioc_get),
	 .any_room = true, .ring = true, .run = ioctl_do_get},
	{KVFS_IOC_PUT(sizeof(struct kvfs_ioc_committed)),
	 sizeof(struct kvfs_ioc_commit), .any_room = true, .ring = true,
	 .run = ioctl_do_commit},
	{KVFS_IOC_RING, sizeof(struct kvfs_ioc_ring), .run = ioctl_do_ring},
	{KVFS_IOC_BACKING, sizeof(struct kvfs_ioc_backing), .file = true,
	 .run = ioctl_do_backing},
};

#define ROOM_BITS ((unsigned)_IOC_SIZEMASK << _IOC_SIZESHIFT)

static bool is_command(const struct ioctl_command *ic, unsigned cmd)
{
	if (!ic->any_room)
		return cmd == ic->cmd;
	return (cmd & ~ROOM_BITS) == (ic->cmd & ~ROOM_BITS) &&
	       _IOC_SIZE(cmd) >= _IOC_SIZE(ic->cmd);
}

const struct ioctl_command *ioctl_find(unsigned cmd)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (is_command(&commands[i], cmd))
			return &commands[i];
	return NULL;
}

const struct ioctl_command *ioctl_find_ring(uint32_t number)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (commands[i].ring && _IOC_NR(commands[i].cmd) == number)
			return &commands[i];
	return NULL;
}

int ioctl_check(const struct ioctl_command *ic, const void *in, size_t n,
		size_t *size)
{
	struct kvfs_ioc_head head;

	if (n < ic->in)
		return -EINVAL;
	memcpy(&head, in, sizeof(head));
	if (head.abi != KVFS_IOC_ABI && ic->cmd != KVFS_IOC_VERSION)
		return -EPROTONOSUPPORT;
	if (head.size < ic->in || head.size > n)
		return -EINVAL;
	*size = head.size;
	return 0;
}

void ioctl_done(struct call *c, int err, const void *answer, size_t bytes)
{
	if (err)
		call_reply_err(c, err);
	else
		call_reply_ioctl(c, answer, bytes);
}

static void run(struct call *c, bool file)
{
	const struct ioctl_command *ic = ioctl_find(c->flags);
	int err;

	if (!ic || ic->file != file)
		err = -ENOTTY;
	else if (!ic->any_dir &&
		 c->inode->view != (file ? &ckpt_view : &kv_view))
		err = -EOPNOTSUPP;
	else
		err = ioctl_check(ic, c->value, c->size, &c->size);
	if (err)
		call_reply_err(c, err);
	else
		ic->run(c);
}

void ioctl_run(struct call *c)
{
	run(c, false);
}

void ioctl_run_file(struct call *c)
{
	run(c, true);
}

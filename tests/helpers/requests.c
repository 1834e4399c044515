// SPDX-License-Identifier: MIT
/*
 * For each ioctl of <kvfs/ioctl.h> that is given on a directory: a request that
 * is taken, then the same with every bit set that must be 0, with every size
 * that it has not, and as of another version.
 *
 *      requests DIR        prints what was not refused as it should be
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/kvfs_ioctl.h"

#define ROOM KVFS_IOC_ROOM_MAX
#define NAME "none"

static int dir, memory;
static union {
	char bytes[ROOM];
	struct kvfs_ioc_head head;
	struct kvfs_ioc_version version;
	struct kvfs_ioc_find find;
	struct kvfs_ioc_locate locate;
	struct kvfs_ioc_pins pins;
	struct kvfs_ioc_reserve reserve;
	struct kvfs_ioc_commit commit;
	struct kvfs_ioc_register reg;
	struct kvfs_ioc_registered registered;
	struct kvfs_ioc_unregister unregister;
	struct kvfs_ioc_get get;
} buf;

/* -- requests that are taken: their size --------------------------------- */

static size_t make_version(void)
{
	return sizeof(buf.version);
}

static size_t make_find(void)
{
	buf.find.names.n = 1;
	return (size_t)(stpcpy((char *)(&buf.find + 1), NAME) + 1 - buf.bytes);
}

static size_t make_locate(void)
{
	buf.locate.names.n = 1;
	return (size_t)(stpcpy((char *)(&buf.locate + 1), NAME) + 1 -
			buf.bytes);
}

static size_t make_pins(void)
{
	buf.pins.n = 1;
	return sizeof(buf.pins) + sizeof(struct kvfs_ioc_pin);
}

static size_t make_reserve(void)
{
	buf.reserve.length = 1;
	return sizeof(buf.reserve);
}

static size_t make_commit(void)
{
	struct kvfs_ioc_store *store = (void *)(&buf.commit + 1);

	buf.commit.n = buf.commit.names.n = 1;
	*store = (struct kvfs_ioc_store){.length = 1};
	return (size_t)(stpcpy((char *)(store + 1), NAME) + 1 - buf.bytes);
}

static size_t make_put(void)
{
	struct kvfs_ioc_move *move = (void *)(&buf.commit + 1);

	buf.commit.n = buf.commit.names.n = 1;
	*move = (struct kvfs_ioc_move){.length = 1};
	return (size_t)(stpcpy((char *)(move + 1), NAME) + 1 - buf.bytes);
}

static size_t make_get(void)
{
	struct kvfs_ioc_move *move = (void *)(&buf.get + 1);

	buf.get.names.n = 1;
	*move = (struct kvfs_ioc_move){.length = 1};
	return (size_t)(stpcpy((char *)(move + 1), NAME) + 1 - buf.bytes);
}

static size_t make_register(void)
{
	buf.reg.fd = memory;
	buf.reg.length = 1;
	return sizeof(buf.reg);
}

static size_t make_unregister(void)
{
	struct kvfs_ioc_buffer buffer;

	buf.head =
		(struct kvfs_ioc_head){(uint32_t)make_register(), KVFS_IOC_ABI};
	if (ioctl(dir, KVFS_IOC_REGISTER, &buf))
		perror("register");
	buffer = buf.registered.buffer;
	memset(&buf, 0, sizeof(buf));
	buf.unregister.buffer = buffer;
	return sizeof(buf.unregister);
}

/* -- what must be 0 in them ------------------------------------------------ */

struct zeros {
	size_t at, bytes;
	uint32_t may; /* bits of the first 32 that may be set */
};
#define ZEROS(type, field, may)                                           \
	{                                                                 \
		offsetof(struct kvfs_ioc_##type, field),                  \
			sizeof(((struct kvfs_ioc_##type *)0)->field), may \
	}
#define NAMES(type) ZEROS(type, names.reserved, 0)
#define FIND(may)                                                              \
	{                                                                      \
		ZEROS(find, flags, may), ZEROS(find, reserved, 0), NAMES(find) \
	}
#define COMMIT(may)                                                   \
	{                                                             \
		ZEROS(commit, flags, may), ZEROS(commit, mode, 0777), \
			ZEROS(commit, reserved, 0), NAMES(commit)     \
	}

static const struct command {
	const char *name;
	unsigned cmd;
	size_t (*make)(void);
	struct zeros zeros[4];
} commands[] = {
	{"version",
	 KVFS_IOC_VERSION,
	 make_version,
	 {ZEROS(version, features, 0), ZEROS(version, room_max, 0),
	  ZEROS(version, names_max, 0), ZEROS(version, version, 0)}},
	{"exists", KVFS_IOC_EXISTS(ROOM), make_find, FIND(KVFS_IOC_LOCAL)},
	{"match", KVFS_IOC_MATCH(ROOM), make_find, FIND(KVFS_IOC_LOCAL)},
	{"touch", KVFS_IOC_TOUCH(ROOM), make_find, FIND(0)},
	{"evict", KVFS_IOC_EVICT(ROOM), make_find, FIND(0)},
	{"prefetch", KVFS_IOC_PREFETCH(ROOM), make_find, FIND(0)},
	{"locate",
	 KVFS_IOC_LOCATE(ROOM),
	 make_locate,
	 {ZEROS(locate, flags, KVFS_IOC_FETCH), ZEROS(locate, deadline_ms, 0),
	  ZEROS(locate, reserved, 0), NAMES(locate)}},
	{"unpin", KVFS_IOC_UNPIN(ROOM), make_pins, {ZEROS(pins, flags, 0)}},
	{"reserve",
	 KVFS_IOC_RESERVE(ROOM),
	 make_reserve,
	 {ZEROS(reserve, flags, 0)}},
	{"commit", KVFS_IOC_COMMIT(ROOM), make_commit,
	 COMMIT(KVFS_IOC_SYNC | KVFS_IOC_PARENT | KVFS_IOC_LET_GO)},
	{"abort", KVFS_IOC_ABORT(ROOM), make_pins, {ZEROS(pins, flags, 0)}},
	{"register",
	 KVFS_IOC_REGISTER,
	 make_register,
	 {ZEROS(register, flags, 0)}},
	{"unregister",
	 KVFS_IOC_UNREGISTER,
	 make_unregister,
	 {ZEROS(unregister, flags, 0), ZEROS(unregister, reserved, 0)}},
	{"get",
	 KVFS_IOC_GET(ROOM),
	 make_get,
	 {ZEROS(get, flags, KVFS_IOC_FETCH), ZEROS(get, deadline_ms, 0),
	  NAMES(get)}},
	{"put", KVFS_IOC_PUT(ROOM), make_put,
	 COMMIT(KVFS_IOC_SYNC | KVFS_IOC_PARENT)},
};

static size_t make(const struct command *c)
{
	size_t bytes;

	memset(&buf, 0, sizeof(buf));
	bytes = c->make();
	buf.head = (struct kvfs_ioc_head){(uint32_t)bytes, KVFS_IOC_ABI};
	return bytes;
}

static void call(const struct command *c, const char *what, size_t which,
		 int wanted)
{
	int err = ioctl(dir, c->cmd, &buf) ? errno : 0;

	if (err != wanted)
		printf("%s: %s %zu: %s\n", c->name, what, which, strerror(err));
}

static void set_bits(const struct command *c, const struct zeros *z)
{
	for (size_t bit = 0; bit < 8 * z->bytes; bit++) {
		if (bit < 32 && z->may >> bit & 1)
			continue;
		make(c);
		buf.bytes[z->at + bit / 8] |= (char)(1 << bit % 8);
		call(c, "bit", 8 * z->at + bit, EINVAL);
	}
}

static void set_sizes(const struct command *c)
{
	size_t bytes = make(c);

	for (size_t size = 0; size <= bytes + 1; size++) {
		make(c);
		buf.head.size = (uint32_t)size;
		call(c, "size", size, size == bytes ? 0 : EINVAL);
	}
	make(c);
	buf.head.size = UINT32_MAX;
	call(c, "size", UINT32_MAX, EINVAL);
}

/* As many as the answer has room for, and one more. */
static void set_counts(void)
{
	static const struct command reserve = {
		"reserve", KVFS_IOC_RESERVE(ROOM), make_reserve, {}};
	const size_t most =
		(ROOM - sizeof(buf.pins)) / sizeof(struct kvfs_ioc_pin);
	const size_t counts[] = {0, 1, most, most + 1, UINT32_MAX};

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		make(&reserve);
		buf.reserve.n = (uint32_t)counts[i];
		call(&reserve, "count", counts[i],
		     counts[i] > most ? EMSGSIZE : 0);
	}
}

int main(int argc, char **argv)
{
	dir = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;
	memory = memfd_create("requests", MFD_ALLOW_SEALING);
	if (dir < 0 || ftruncate(memory, 1) ||
	    fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK)) {
		perror("requests");
		return 2;
	}
	for (const struct command *c = commands;
	     c < commands + sizeof(commands) / sizeof(*commands); c++) {
		for (size_t i = 0; i < 4; i++)
			set_bits(c, &c->zeros[i]);
		set_sizes(c);
		make(c);
		buf.head.abi++;
		call(c, "abi", buf.head.abi,
		     c->make == make_version ? 0 : EPROTONOSUPPORT);
	}
	set_counts();
	return 0;
}

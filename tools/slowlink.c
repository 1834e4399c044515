// SPDX-License-Identifier: MIT
/*
 * slowlink MS SPACE DEVICE SPACE DEVICE
 *
 * A link between two network namespaces on which each packet is under way for
 * MS milliseconds, each way: two TAP devices, and this process between them.
 * Prints its number once both are there, and goes on in the background until
 * it is killed; the devices go with it. tools/cluster --delay uses it.
 *
 * What leaves a device passes its queueing discipline before it is read here:
 * a rate (tc tbf) limits the link as it does a veth. Packets pass as the
 * kernel has them, up to 64 KiB with their checksums still to be made
 * (IFF_VNET_HDR): one of these costs two system calls, not one per frame.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"

#define PACKET_MAX (66u << 10)
#define QUEUE_BYTES (64u << 20) /* on the way; more waits in the device */
#define OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)

struct packet {
	struct list link;
	int64_t due_ns;
	size_t bytes;
	uint8_t data[];
};

/* One way. All packets wait equally long: first in, first out. */
struct way {
	int from, to;
	struct list queue;
	size_t bytes;
};

static int64_t delay_ns;

static int fail(const char *what, const char *which)
{
	fprintf(stderr, "slowlink: %s: %s: %s\n", which, what, strerror(errno));
	return -1;
}

static int enter(const char *space)
{
	char path[256];
	int fd, err;

	snprintf(path, sizeof(path), "/run/netns/%s", space);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail("not opened", path);
	err = setns(fd, CLONE_NEWNET);
	close(fd);
	return err ? fail("not entered", path) : 0;
}

static int open_device(const char *space, const char *name)
{
	struct ifreq req = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd;

	if (enter(space))
		return -1;
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return fail("not opened", "/dev/net/tun");
	snprintf(req.ifr_name, sizeof(req.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &req))
		return fail("not made", name);
	if (ioctl(fd, TUNSETOFFLOAD, OFFLOADS))
		return fail("no segmentation offload", name);
	return fd;
}

/* What the device has, until it is empty or the queue full; false: it went. */
static bool take(struct way *w)
{
	static uint8_t buf[PACKET_MAX];
	int64_t due = clock_now_ns() + delay_ns;
	struct packet *p;
	ssize_t n = 0;

	while (w->bytes < QUEUE_BYTES &&
	       (n = read(w->from, buf, sizeof(buf))) > 0) {
		p = malloc(sizeof(*p) + (size_t)n);
		if (!p)
			break; /* lost, as on any link */
		p->due_ns = due;
		p->bytes = (size_t)n;
		memcpy(p->data, buf, p->bytes);
		list_push_back(&w->queue, &p->link);
		w->bytes += p->bytes;
	}
	return w->bytes >= QUEUE_BYTES || n > 0 || errno == EAGAIN;
}

/* Passes on what is due; returns when the next one is. */
static int64_t pass_on(struct way *w)
{
	while (!list_empty(&w->queue)) {
		struct packet *p =
			container_of(w->queue.next, struct packet, link);

		if (p->due_ns > clock_now_ns())
			return p->due_ns;
		/* A device that is down takes nothing: lost. */
		(void)!write(w->to, p->data, p->bytes);
		w->bytes -= p->bytes;
		list_remove(&p->link);
		free(p);
	}
	return INT64_MAX;
}

static short wanted(const struct way *w)
{
	return w->bytes < QUEUE_BYTES ? POLLIN : 0;
}

static int relay(struct way w[2])
{
	for (;;) {
		int64_t due[2] = {pass_on(&w[0]), pass_on(&w[1])};
		int64_t next = due[0] < due[1] ? due[0] : due[1];
		int64_t ns = next - clock_now_ns();
		struct timespec wait = clock_timespec(ns > 0 ? ns : 0);
		struct pollfd fds[2] = {
			{.fd = w[0].from, .events = wanted(&w[0])},
			{.fd = w[1].from, .events = wanted(&w[1])},
		};

		if (ppoll(fds, 2, next == INT64_MAX ? NULL : &wait, NULL) < 0)
			return fail("poll", "devices");
		for (int i = 0; i < 2; i++)
			if (fds[i].revents && !take(&w[i]))
				return fail("gone", "device");
	}
}

/* The parent leaves once the devices are there. */
static void into_background(void)
{
	pid_t pid = fork();

	if (pid < 0)
		exit(fail("fork", "slowlink") ? 1 : 0);
	if (pid > 0) {
		printf("%d\n", (int)pid);
		exit(0);
	}
	setsid();
	for (int fd = 0; fd <= 2; fd++)
		close(fd);
	if (open("/dev/null", O_RDWR) || dup(0) != 1 || dup(0) != 2)
		exit(1);
}

int main(int argc, char **argv)
{
	struct way w[2];
	char *end = NULL;
	double ms = argc == 6 ? strtod(argv[1], &end) : -1;

	if (!end || *end || !(ms > 0 && ms <= 10000)) {
		fprintf(stderr, "usage: slowlink MS SPACE DEVICE SPACE DEVICE "
				"(MS up to 10000)\n");
		return 2;
	}
	delay_ns = (int64_t)(ms * NS_PER_MS);
	prctl(PR_SET_TIMERSLACK, 1);
	for (int i = 0; i < 2; i++) {
		list_init(&w[i].queue);
		w[i].bytes = 0;
		w[i].from = open_device(argv[2 + 2 * i], argv[3 + 2 * i]);
		if (w[i].from < 0)
			return 1;
	}
	w[0].to = w[1].from;
	w[1].to = w[0].from;
	into_background();
	return relay(w) ? 1 : 0;
}

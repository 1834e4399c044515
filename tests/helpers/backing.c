// SPDX-License-Identifier: MIT
/*
 * The ioctl BACKING by hand:
 *
 *      backing [OPTION...] FILE
 *
 *      -w, -b        FILE is opened for writing, for both
 *      -f FLAGS      -r RESERVED     -s SIZE of the request
 *      -S WHAT       instead of a socket of AF_UNIX: "file", "udp", "none";
 *                    "full", one that nobody reads
 *      -c            go on when a line comes on stdin, before reading
 *
 * Prints how the descriptor is open, then whether it can be opened for writing,
 * and then the bytes that it reads. Or the errno's name, and fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/kvfs_ioctl.h"

static int pair[2];

static void die(int err)
{
	printf("%s\n", strerrorname_np(err));
	exit(1);
}

static int other_socket(const char *what)
{
	if (!strcmp(what, "none"))
		return 999;
	if (!strcmp(what, "file"))
		return open("/dev/null", O_RDWR);
	if (!strcmp(what, "udp"))
		return socket(AF_INET, SOCK_DGRAM, 0);
	while (send(pair[1], "", 1, MSG_DONTWAIT) == 1)
		;
	return pair[1];
}

static int receive(void)
{
	char byte, room[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = room,
			   .msg_controllen = sizeof(room)};
	int fd;

	if (recvmsg(pair[0], &m, MSG_DONTWAIT) != 1 || !CMSG_FIRSTHDR(&m))
		die(errno);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static void look(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	char path[40];

	printf("%s%s, ",
	       (flags & O_ACCMODE) == O_RDONLY ? "read-only" : "writable",
	       flags & O_DIRECT ? ", direct" : "");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (write(fd, "", 1) == 1 || !ftruncate(fd, 0) ||
	    mmap(NULL, 1, PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
		printf("and yet written, ");
	printf("again: %s\n",
	       open(path, O_RDWR) < 0 ? strerrorname_np(errno) : "writable");
	fflush(stdout);
	fcntl(fd, F_SETFL, flags & ~O_DIRECT);
}

static void copy_out(int fd)
{
	char buf[65536];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (write(1, buf, (size_t)n) != n)
			exit(1);
	if (n < 0)
		die(errno);
}

int main(int argc, char **argv)
{
	struct kvfs_ioc_backing r = {.head = {sizeof(r), KVFS_IOC_ABI}};
	int option, flags = O_RDONLY, wait = 0, fd;
	const char *other = NULL;

	while ((option = getopt(argc, argv, "wbf:r:s:S:c")) > 0)
		switch (option) {
		case 'w':
			flags = O_WRONLY;
			break;
		case 'b':
			flags = O_RDWR;
			break;
		case 'f':
			r.flags = (uint32_t)atoi(optarg);
			break;
		case 'r':
			r.reserved = (uint64_t)atoi(optarg);
			break;
		case 's':
			r.head.size = (uint32_t)atoi(optarg);
			break;
		case 'S':
			other = optarg;
			break;
		case 'c':
			wait = 1;
			break;
		default:
			return 2;
		}
	if (optind != argc - 1 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return 2;
	fd = open(argv[optind], flags);
	if (fd < 0)
		die(errno);
	r.socket_fd = other ? other_socket(other) : pair[1];
	if (ioctl(fd, KVFS_IOC_BACKING, &r))
		die(errno);
	close(fd);
	fd = receive();
	look(fd);
	if (wait)
		getchar();
	copy_out(fd);
	return 0;
}

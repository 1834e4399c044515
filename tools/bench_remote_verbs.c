// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "tools/bench_remote.h"

/*
 * ib_write_bw (package perftest) as it is installed, which measures what the
 * card does for a program that does nothing else. As with iperf3 its server is
 * on B's side; each serves one client. It finds the card by the address. The
 * first round's few WRITEs tell how many a second takes.
 */
#define TRIES 4
#define PAUSE_MS 100 /* the first time; then four times as long */
#define SECONDS 1
#define FIRST 16 /* WRITEs */
#define LEAST 5	 /* that it does */

/* MiB/s stands alone on its line; < 0: none. */
static double rate_read(FILE *f)
{
	char line[256];
	double rate = -1;

	while (fgets(line, sizeof(line), f)) {
		char *end;
		double v = strtod(line, &end);

		end += strspn(end, " \t\r\n");
		if (end != line && !*end && v > 0)
			rate = v;
	}
	return rate;
}

static double client_run(const struct remote_ends *e, char *const argv[])
{
	int pipes[2], status = -1;
	double rate = -1;
	pid_t pid;
	FILE *f;

	if (pipe2(pipes, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid)
		remote_exec(&e->a, pipes[1], argv);
	close(pipes[1]);
	f = fdopen(pipes[0], "r");
	if (pid > 0 && f)
		rate = rate_read(f);
	if (f)
		fclose(f);
	else
		close(pipes[0]);
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status ? rate
								     : -1;
}

/* Of each queue pair. */
static uint64_t writes_of(const struct remote_case *k)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < BENCH_ROUNDS_MAX; i++)
		if (k->rate[i] > 0)
			n = (uint64_t)(k->rate[i] * SECONDS) / k->bytes / k->n;
	return !n ? FIRST : n < LEAST ? LEAST : n;
}

/* With a server for it alone, given this long to be there. */
static double try_once(const struct remote_ends *e, char *const argv[],
		       char *const server_argv[], unsigned pause_ms)
{
	struct timespec pause = clock_timespec(pause_ms * NS_PER_MS);
	pid_t server = fork();
	double rate;

	if (!server)
		remote_exec(NULL, -1, server_argv);
	if (server < 0)
		return -1;
	nanosleep(&pause, NULL);
	rate = client_run(e, argv);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	return rate;
}

static double measure(const struct remote_ends *e, const struct remote_case *k)
{
	char size[16], queues[16], port[16], writes[32];
	char to[REMOTE_ADDRESS_BYTES];
	char *client[] = {"ib_write_bw",
			  "-R",
			  "-F",
			  "-N",
			  "-n",
			  writes,
			  "-s",
			  size,
			  "-q",
			  queues,
			  "-p",
			  port,
			  "--output=bandwidth",
			  to,
			  NULL};
	char *server[sizeof(client) / sizeof(*client) - 1];
	double rate = -1;

	snprintf(size, sizeof(size), "%zu", k->bytes);
	snprintf(queues, sizeof(queues), "%u", k->n);
	snprintf(writes, sizeof(writes), "%llu",
		 (unsigned long long)writes_of(k));
	strcpy(to, e->b.address);
	/* The same, but for the address. */
	memcpy(server, client, sizeof(server));
	server[sizeof(server) / sizeof(*server) - 1] = NULL;
	for (unsigned n = 0; n < TRIES && rate < 0 && !bench_stopped; n++) {
		snprintf(port, sizeof(port), "%d", remote_port_find());
		rate = try_once(e, client, server, PAUSE_MS << 2 * n);
	}
	return rate;
}

int remote_verbs_slice(const struct remote_ends *e, struct remote_case *k,
		       struct remote_slice *s)
{
	double rate = measure(e, k);

	if (rate <= 0)
		return -EIO;
	*s = (struct remote_slice){.bytes = (uint64_t)(rate * (1 << 20)),
				   .ns = NS_PER_S,
				   .cpu_s = -1};
	return 0;
}

static bool has_card(const struct sockaddr *a, char host[REMOTE_ADDRESS_BYTES])
{
	char text[REMOTE_ADDRESS_BYTES + 16];

	if (!a || (a->sa_family != AF_INET && a->sa_family != AF_INET6) ||
	    getnameinfo(a,
			a->sa_family == AF_INET ? sizeof(struct sockaddr_in)
						: sizeof(struct sockaddr_in6),
			host, REMOTE_ADDRESS_BYTES, NULL, 0, NI_NUMERICHOST) ||
	    strchr(host, '%'))
		return false;
	snprintf(text, sizeof(text),
		 strchr(host, ':') ? "rdma:[%s]:0" : "rdma:%s:0", host);
	return engine_can_listen(text, NULL);
}

int remote_verbs_find(struct remote_ends *e)
{
	struct ifaddrs *all, *i;
	char host[REMOTE_ADDRESS_BYTES];

	if (e->mounts)
		return 0; /* what they listen on */
	if (getifaddrs(&all))
		return -errno;
	for (i = all; i && !has_card(i->ifa_addr, host); i = i->ifa_next)
		;
	freeifaddrs(all);
	if (!i)
		return -ENODEV;
	strcpy(e->a.address, host);
	strcpy(e->b.address, host);
	return 0;
}

// SPDX-License-Identifier: MIT
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "tools/bench_remote.h"
#include "tools/json.h"

/*
 * iperf3 as it is installed. Its server is on B's side and its client, which
 * sends, on A's: bytes go the way of a fetch. It says itself what both ends'
 * CPUs spent.
 */
#define START_TRIES 100
#define START_PAUSE_MS 50
#define SECONDS "1" /* it counts in whole ones */

int remote_port_find(void)
{
	struct sockaddr_in6 at = {.sin6_family = AF_INET6};
	socklen_t n = sizeof(at);
	cleanup_close int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&at, n) ||
	    getsockname(fd, (struct sockaddr *)&at, &n))
		return -errno;
	return ntohs(at.sin6_port);
}

void remote_exec(const struct remote_end *where, int out, char *const argv[])
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (where && remote_end_enter(where))
		_exit(126);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0); /* Ctrl-C is for the bench */
	dup2(null, 0);
	dup2(out < 0 ? null : out, 1);
	dup2(null, 2);
	execvp(argv[0], argv);
	_exit(127);
}

/* What `iperf3 -c` printed, or NULL: a server that is busy may let it end well
 * with nothing received. */
static json_t *client_run(struct remote_iperf *i, const char *streams)
{
	char port[16], address[REMOTE_ADDRESS_BYTES];
	char *const argv[] = {
		"iperf3",	 "-c", address, "-p",	  port, "-P",
		(char *)streams, "-t", SECONDS, "--json", NULL};
	int pipes[2], status = -1;
	json_t *json = NULL;
	pid_t pid;
	FILE *f;

	snprintf(port, sizeof(port), "%d", i->port);
	strcpy(address, i->ends->b.address);
	if (pipe2(pipes, O_CLOEXEC))
		return NULL;
	pid = fork();
	if (!pid)
		remote_exec(&i->ends->a, pipes[1], argv);
	close(pipes[1]);
	f = fdopen(pipes[0], "r");
	if (pid > 0 && f)
		json = json_loadf(f, 0, NULL);
	if (f)
		fclose(f);
	else
		close(pipes[0]);
	if (pid > 0 && waitpid(pid, &status, 0) == pid && !status &&
	    json_u64(json, "end.sum_received.bytes", 0))
		return json;
	json_decref(json);
	return NULL;
}

static void server_start(struct remote_iperf *i)
{
	char port[16];
	char *const argv[] = {"iperf3", "-s", "-p", port, NULL};

	i->port = remote_port_find();
	if (i->port < 0)
		return;
	snprintf(port, sizeof(port), "%d", i->port);
	i->server = fork();
	if (!i->server)
		remote_exec(NULL, -1, argv);
}

/* It may end by itself when a client was turned away. */
static bool server_is_up(struct remote_iperf *i)
{
	if (i->server > 0 && waitpid(i->server, NULL, WNOHANG) == i->server)
		i->server = 0;
	if (i->server <= 0 && i->served)
		server_start(i);
	return i->server > 0;
}

/* Its server serves one client at a time, and after one has gone it takes a
 * moment: until then the next is turned away. */
static json_t *client_run_soon(struct remote_iperf *i, const char *streams)
{
	struct timespec pause = clock_timespec(START_PAUSE_MS * NS_PER_MS);
	json_t *json = NULL;

	for (int n = 0; n < START_TRIES && !json && !bench_stopped; n++) {
		if (n)
			nanosleep(&pause, NULL);
		if (!server_is_up(i))
			return NULL;
		json = client_run(i, streams);
	}
	i->served |= json != NULL;
	return json;
}

int remote_iperf_slice(struct remote_iperf *i, struct remote_case *k,
		       struct remote_slice *s)
{
	char streams[16];
	double seconds, percent;

	snprintf(streams, sizeof(streams), "%u", k->n);
	{
		cleanup_json json_t *json = client_run_soon(i, streams);

		if (!json)
			return -EIO;
		seconds = json_f64(json, "end.sum_received.seconds", 0);
		percent =
			json_f64(json, "end.cpu_utilization_percent.host_total",
				 0) +
			json_f64(json,
				 "end.cpu_utilization_percent.remote_total", 0);
		*s = (struct remote_slice){
			.bytes = json_u64(json, "end.sum_received.bytes", 0),
			.ns = (int64_t)(seconds * NS_PER_S),
			.cpu_s = percent > 0 ? percent / 100 * seconds : -1,
		};
	}
	return s->bytes && s->ns > 0 ? 0 : -EIO;
}

void remote_iperf_open(struct remote_iperf *i, const struct remote_ends *e)
{
	json_t *json = NULL;

	*i = (struct remote_iperf){.ends = e};
	server_start(i);
	if (i->server > 0) /* it listens a moment after it was started */
		json = client_run_soon(i, "1");
	json_decref(json);
	if (json)
		return;
	remote_iperf_close(i);
	if (!bench_stopped)
		log_warn("bench: iperf3 is not here or cannot reach %s: "
			 "nothing is held to it (apt install iperf3)",
			 e->b.address);
}

void remote_iperf_close(struct remote_iperf *i)
{
	if (i->server > 0) {
		kill(i->server, SIGKILL);
		waitpid(i->server, NULL, 0);
	}
	i->server = 0;
}

// SPDX-License-Identifier: MIT
#include "meta/redis_dial.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "meta/redis.h"
#include "meta/resp.h"
#include "meta/stream.h"

/* A plain server waits in silence for the end of what it takes for a command.
 */
#define TLS_NS (3 * NS_PER_S)

/* A TCP peer that vanished without a word is noticed after this long. */
#define TCP_SILENCE_MS 10000

struct dialing {
	int fd, wake_fd; /* fd is stream's, once there is one */
	struct stream *stream;
	int64_t deadline;
	struct resp_reader *reader;
	char *why;
};

static void say(struct dialing *g, const char *what, const char *detail)
{
	snprintf(g->why, REDIS_WHY_MAX, "%.120s%s%.130s", what,
		 *detail ? ": " : "", detail);
}

/* --- sockets ----------------------------------------------------------- */

static int wait_for(struct dialing *g, short events)
{
	struct pollfd p[2] = {{.fd = g->fd, .events = events},
			      {.fd = g->wake_fd, .events = POLLIN}};

	for (;;) {
		int64_t left = g->deadline - clock_now_ns();
		int n;

		if (left <= 0) {
			say(g, "no answer in time", "");
			return -ETIMEDOUT;
		}
		n = poll(p, 2, (int)(left / NS_PER_MS) + 1);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && p[1].revents)
			return -ESHUTDOWN;
		if (n > 0 && p[0].revents)
			return 0;
	}
}

static int connect_to(struct dialing *g, const struct sockaddr *addr,
		      socklen_t len)
{
	int err = 0, r;
	socklen_t err_len = sizeof(err);

	g->fd = socket(addr->sa_family,
		       SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (g->fd < 0)
		return -errno;
	if (!connect(g->fd, addr, len))
		return 0;
	if (errno != EINPROGRESS) {
		r = -errno;
	} else {
		r = wait_for(g, POLLOUT);
		if (!r)
			getsockopt(g->fd, SOL_SOCKET, SO_ERROR, &err, &err_len);
		r = r ? r : -err;
	}
	if (r) {
		if (r != -ETIMEDOUT)
			say(g, strerror(-r), "");
		close(g->fd);
		g->fd = -1;
	}
	return r;
}

/*
 * A socket's path may have 107 bytes only, the state directory's more: then
 * the directory is opened and the socket is reached through /proc.
 */
static int unix_connect(struct dialing *g, const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_close int dir_fd = -1;
	const char *slash = strrchr(path, '/');
	char dir[sizeof(((struct url *)0)->host)];
	int n;

	n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if ((size_t)n >= sizeof(addr.sun_path)) {
		snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
		dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir_fd < 0) {
			n = -errno;
			say(g, dir, strerror(-n));
			return n;
		}
		n = snprintf(addr.sun_path, sizeof(addr.sun_path),
			     "/proc/self/fd/%d%s", dir_fd, slash);
		if ((size_t)n >= sizeof(addr.sun_path)) {
			say(g, "the socket's name is too long", "");
			return -ENAMETOOLONG;
		}
	}
	return connect_to(g, (struct sockaddr *)&addr, sizeof(addr));
}

static void tcp_tune(int fd)
{
	int on = 1, silence = TCP_SILENCE_MS, idle = 5;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence,
		   sizeof(silence));
}

static int tcp_connect(struct dialing *g, const struct url *u)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *list;
	char port[8];
	int r;

	snprintf(port, sizeof(port), "%u", u->port);
	r = getaddrinfo(u->host, port, &hints, &list);
	if (r) {
		say(g, u->host, gai_strerror(r));
		return r == EAI_AGAIN ? -EAGAIN : -ENOENT;
	}
	r = -ENOENT;
	for (struct addrinfo *a = list; a; a = a->ai_next) {
		r = connect_to(g, a->ai_addr, a->ai_addrlen);
		if (!r || r == -ESHUTDOWN || r == -ETIMEDOUT)
			break;
	}
	freeaddrinfo(list);
	if (!r)
		tcp_tune(g->fd);
	return r;
}

/* --- one command after another ----------------------------------------- */

static int send_all(struct dialing *g, const char *p, size_t n)
{
	while (n) {
		long sent = stream_send(g->stream, p, n);
		int r = 0;

		if (sent > 0) {
			p += sent;
			n -= (size_t)sent;
		} else if (sent == -EAGAIN) {
			r = wait_for(g, POLLOUT);
		} else {
			r = (int)sent;
			say(g, "connection lost", strerror(-r));
		}
		if (r)
			return r;
	}
	return 0;
}

/* What came, or why nothing more will. */
static int received(struct dialing *g, const char *bytes, long n)
{
	if (n > 0)
		return resp_feed(g->reader, bytes, (size_t)n);
	if (n == -EAGAIN)
		return wait_for(g, POLLIN);
	if (n == -EACCES)
		say(g, "it wants a certificate of us",
		    "name one with meta-cert=FILE");
	else if (n == 0)
		say(g, "the server closed the connection", "");
	else
		say(g, "connection lost", strerror((int)-n));
	return n ? (int)n : -ECONNRESET;
}

static int receive(struct dialing *g, struct redis_reply **reply)
{
	char buf[8192];

	for (;;) {
		int r = resp_next(g->reader, reply);

		if (r || *reply) {
			if (r)
				say(g, "this is not a Redis server", "");
			return r;
		}
		r = received(g, buf, stream_recv(g->stream, buf, sizeof(buf)));
		if (r)
			return r;
	}
}

/* What an error at this stage means; the text goes to people. */
static int refusal(struct dialing *g, const struct redis_reply *reply)
{
	const char *text = redis_reply_text(reply);

	if (!strncmp(text, "NOAUTH", 6)) {
		say(g,
		    "it wants a password: give it in a 0600 file or in "
		    "KVFS_REDIS_PASSWORD",
		    "");
		return -EACCES;
	}
	if (!strncmp(text, "WRONGPASS", 9) || !strncmp(text, "ERR AUTH", 8)) {
		say(g, "the password is not accepted", text);
		return -EACCES;
	}
	if (!strncmp(text, "NOPERM", 6)) {
		say(g, "its ACL forbids what kvfs needs", text);
		return -EACCES;
	}
	if (!strncmp(text, "READONLY", 8)) {
		say(g, "this is a read-only replica", "name the primary");
		return -EPROTONOSUPPORT;
	}
	say(g, "it answered", text);
	return !strncmp(text, "LOADING", 7) || !strncmp(text, "BUSY", 4)
		       ? -EAGAIN
		       : -EPROTO;
}

static int ask(struct dialing *g, const struct redis_cmd *cmd,
	       struct redis_reply **reply)
{
	cleanup_free char *bytes = NULL;
	size_t n;
	int r = resp_format(cmd, &bytes, &n);

	r = r ? r : send_all(g, bytes, n);
	return r ? r : receive(g, reply);
}

/* A command whose answer matters only if it is an error. */
static int tell(struct dialing *g, const struct redis_cmd *cmd)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	int r = ask(g, cmd, &reply);

	if (!r && redis_reply_type(reply) == REPLY_ERROR)
		r = refusal(g, reply);
	return r;
}

/* --- the steps --------------------------------------------------------- */

static int tls_steps(struct dialing *g)
{
	short events;
	int r;

	while ((r = stream_handshake(g->stream, &events, g->why)) == -EAGAIN) {
		r = wait_for(g, events);
		if (r)
			return r;
	}
	return r;
}

static int tls_start(struct dialing *g, const struct redis_dial *d)
{
	struct stream_tls how = {.host = d->url.host,
				 .ca_file = d->ca_file,
				 .cert_file = d->cert_file};
	int64_t deadline = g->deadline, limit = clock_now_ns() + TLS_NS;
	int r = stream_tls(g->stream, &how, g->why);

	if (r)
		return r;
	g->deadline = limit < deadline ? limit : deadline;
	r = tls_steps(g);
	g->deadline = deadline;
	if (r == -ETIMEDOUT)
		say(g, "no answer to TLS' handshake in time",
		    "is it a plain server (redis://)?");
	return r;
}

static int stream_start(struct dialing *g, const struct redis_dial *d)
{
	g->stream = stream_new(g->fd);
	if (!g->stream)
		return -ENOMEM;
	return d->url.is_tls ? tls_start(g, d) : 0;
}

static int authenticate(struct dialing *g, const struct redis_dial *d)
{
	redis_cmd_auto struct redis_cmd c = {0};

	if (!d->password)
		return 0;
	redis_cmd_str(&c, "AUTH");
	if (d->url.user[0])
		redis_cmd_str(&c, d->url.user);
	redis_cmd_str(&c, d->password);
	return tell(g, &c);
}

static const char *info_field(const char *info, const char *name)
{
	const char *p = strstr(info, name);

	return p ? p + strlen(name) : "";
}

static int identify(struct dialing *g, char run_id[static 41])
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	const char *info;
	int major, r;

	redis_cmd_words(&c, "INFO server");
	r = ask(g, &c, &reply);
	if (r)
		return r;
	if (redis_reply_type(reply) == REPLY_ERROR)
		return refusal(g, reply);
	info = redis_reply_text(reply);
	major = atoi(info_field(info, "redis_version:"));
	if (major < 7) {
		snprintf(g->why, REDIS_WHY_MAX,
			 "Redis 7.0 or later is needed, this is %.*s",
			 (int)strcspn(info_field(info, "redis_version:"),
				      "\r\n"),
			 info_field(info, "redis_version:"));
		return -EPROTONOSUPPORT;
	}
	info = info_field(info, "run_id:");
	snprintf(run_id, 41, "%.*s", (int)strcspn(info, "\r\n"), info);
	return 0;
}

/*
 * What the previous connection has in the server's hands must not run after
 * what this one sends. Another run_id is another server, where that number is
 * somebody else's.
 */
static int kill_previous(struct dialing *g, const struct redis_dial *d,
			 const char *run_id)
{
	redis_cmd_auto struct redis_cmd c = {0};

	if (!d->client_id || strcmp(d->run_id, run_id) != 0)
		return 0;
	redis_cmd_words(&c, "CLIENT KILL ID");
	redis_cmd_int(&c, d->client_id);
	return tell(g, &c);
}

static int introduce(struct dialing *g, const struct redis_dial *d,
		     int64_t *client_id)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd name = {0}, db = {0}, id = {0};
	int r;

	redis_cmd_words(&name, "CLIENT SETNAME");
	redis_cmd_str(&name, d->name);
	r = tell(g, &name);
	redis_cmd_str(&db, "SELECT");
	redis_cmd_uint(&db, d->url.db);
	if (!r && d->url.db)
		r = tell(g, &db);
	redis_cmd_words(&id, "CLIENT ID");
	r = r ? r : ask(g, &id, &reply);
	if (r)
		return r;
	if (redis_reply_type(reply) == REPLY_ERROR)
		return refusal(g, reply);
	return redis_reply_int(reply, client_id);
}

void redis_dial_library(const struct redis_dial *d, struct redis_cmd *c)
{
	redis_cmd_words(c, "FUNCTION LOAD REPLACE");
	redis_cmd_str(c, d->library);
}

/* Loaded only where it is missing or another build: a load is a write. */
static int load_library(struct dialing *g, const struct redis_dial *d)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd have = {0}, load = {0};
	int r;

	if (!d->library)
		return 0;
	redis_cmd_str(&have, "FCALL");
	redis_cmd_str(&have, d->library_fn);
	redis_cmd_str(&have, "0");
	r = ask(g, &have, &reply);
	if (r)
		return r;
	if (redis_reply_type(reply) != REPLY_ERROR &&
	    !strcmp(redis_reply_text(reply), d->library_build))
		return 0;
	redis_dial_library(d, &load);
	return tell(g, &load);
}

static int handshake(struct dialing *g, struct redis_dial *d)
{
	char run_id[41] = "";
	int64_t client_id = 0;
	int r = authenticate(g, d);

	r = r ? r : identify(g, run_id);
	r = r ? r : kill_previous(g, d, run_id);
	r = r ? r : introduce(g, d, &client_id);
	r = r ? r : load_library(g, d);
	if (r)
		return r;
	d->client_id = client_id;
	memcpy(d->run_id, run_id, sizeof(run_id));
	return 0;
}

int redis_dial(struct redis_dial *d, int wake_fd, int64_t deadline,
	       struct stream **stream, struct resp_reader **reader,
	       char why[static REDIS_WHY_MAX])
{
	struct dialing g = {
		.fd = -1, .wake_fd = wake_fd, .deadline = deadline, .why = why};
	int r;

	why[0] = '\0';
	if (fault_hit("meta.dial"))
		return -ECONNREFUSED;
	g.reader = resp_reader_new();
	if (!g.reader)
		return -ENOMEM;
	r = d->url.is_unix ? unix_connect(&g, d->url.host)
			   : tcp_connect(&g, &d->url);
	r = r ? r : stream_start(&g, d);
	r = r ? r : handshake(&g, d);
	if (!r) {
		*stream = g.stream;
		*reader = g.reader;
		return 0;
	}
	if (g.stream)
		stream_close(g.stream);
	else if (g.fd >= 0)
		close(g.fd);
	resp_reader_free(g.reader);
	if (!why[0])
		say(&g, strerror(-r), "");
	return r;
}

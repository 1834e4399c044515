// SPDX-License-Identifier: MIT
#include "tools/mount.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/verb.h"

/*
 * What can be said of the cluster's options before anything is started. The
 * addresses are numeric: a name may mean another one tomorrow, and the others
 * are told what stands here.
 */

#define HOST_BYTES 64

/* "1.2.3.4[:PORT]" or "[::1][:PORT]", also a bare "::1"; 0 or -EINVAL. */
static int split(const char *text, char host[HOST_BYTES], const char **port)
{
	const char *end, *colon = strchr(text, ':');
	size_t n;

	*port = NULL;
	if (*text == '[') {
		end = strchr(++text, ']');
		if (!end || (end[1] && end[1] != ':'))
			return -EINVAL;
		*port = end[1] ? end + 2 : NULL;
	} else {
		bool one = colon && !strchr(colon + 1, ':');

		end = one ? colon : text + strlen(text);
		*port = one ? colon + 1 : NULL;
	}
	n = (size_t)(end - text);
	if (!n || n >= HOST_BYTES)
		return -EINVAL;
	memcpy(host, text, n);
	host[n] = 0;
	return 0;
}

static bool good_port(const char *port)
{
	char *end;
	long n = strtol(port, &end, 10);

	return *port && !*end && n > 0 && n < 65536;
}

static bool is_wildcard(const struct in6_addr *v6, const struct in_addr *v4)
{
	return v4 ? v4->s_addr == htonl(INADDR_ANY)
		  : IN6_IS_ADDR_UNSPECIFIED(v6);
}

/* Returns: 1 a loopback address, 0 another one, -EINVAL none, -EDOM it stands
 * for all of them. */
static int kind_of(const char *host)
{
	struct in6_addr v6;
	struct in_addr v4;

	if (inet_pton(AF_INET, host, &v4) == 1)
		return is_wildcard(NULL, &v4) ? -EDOM
					      : ntohl(v4.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return is_wildcard(&v6, NULL) ? -EDOM
					      : !!IN6_IS_ADDR_LOOPBACK(&v6);
	return -EINVAL;
}

static int check_address(const char *text, bool has_key)
{
	char host[HOST_BYTES];
	const char *port;
	int kind = split(text, host, &port);

	if (!kind)
		kind = kind_of(host);
	if (kind == -EDOM)
		return verb_fail(EXIT_USAGE,
				 "listen=%s: the others are told this address; "
				 "name one of this machine",
				 text);
	if (kind < 0 || (port && !good_port(port)))
		return verb_fail(EXIT_USAGE,
				 "listen=%s: an address such as 10.0.0.1, "
				 "10.0.0.1:7700 or [fd00::1]:7700 is wanted",
				 text);
	if (!kind && !has_key)
		return verb_fail(EXIT_USAGE,
				 "listen=%s: only with cluster-key-file=; "
				 "without a key only loopback addresses may "
				 "be listened on",
				 text);
	return 0;
}

static int check_listen(const struct mount_options *o)
{
	cleanup_free char *copy = strdup(o->listen);
	char *rest = copy, *one;
	int status = 0;

	if (!copy)
		return verb_fail(EXIT_TROUBLE, "out of memory");
	while (!status && (one = strsep(&rest, ",")))
		status = check_address(one, o->key_file != NULL);
	return status;
}

/* Absolute, because the daemon leaves the working directory; and ours alone,
 * because who has it can be any node. */
static int resolve_key_file(struct mount_job *job)
{
	const char *path = job->options.key_file;
	struct stat st;

	if (!realpath(path, job->key_file) || stat(path, &st))
		return verb_fail(EXIT_TROUBLE,
				 "%s: %s; cluster-key-file= must name a file "
				 "that you may read",
				 path, strerror(errno));
	if (!S_ISREG(st.st_mode) || (st.st_mode & 077))
		return verb_fail(EXIT_TROUBLE,
				 "%s: others may read it; 'chmod 600 %s'", path,
				 path);
	return 0;
}

/* "mlx5_0" or "mlx5_0:1", one that this machine has. */
static int check_device(const char *text)
{
	size_t n = strcspn(text, ":");
	const char *port = text[n] ? text + n + 1 : "";
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/class/infiniband/%.*s/ports/%s",
		 (int)n, text, port);
	if (n && !strchr(text, '/') && *text != '.' &&
	    (!text[n] || good_port(port)) && !access(path, F_OK))
		return 0;
	return verb_fail(EXIT_USAGE,
			 "rdma-device=%s: this machine has no such RDMA "
			 "device; 'kvfs topology' shows those that it has",
			 text);
}

static int check_devices(const struct mount_options *o)
{
	cleanup_free char *copy = strdup(o->rdma_devices);
	char *rest = copy, *one;
	int status = 0;

	if (!copy)
		return verb_fail(EXIT_TROUBLE, "out of memory");
	if (o->transport == TRANSPORT_TCP)
		return verb_fail(EXIT_USAGE,
				 "rdma-device=: not with transport=tcp, by "
				 "which no card is used");
	while (!status && (one = strsep(&rest, ",")))
		status = check_device(one);
	return status;
}

int mount_check_cluster(struct mount_job *job)
{
	const struct mount_options *o = &job->options;
	int status = o->listen ? check_listen(o) : 0;

	if (status)
		return status;
	if (o->transport == TRANSPORT_RDMA && (!o->listen || o->tls))
		return verb_fail(EXIT_USAGE, "transport=rdma: %s",
				 o->tls ? "not with tls=on; RDMA does not "
					  "encrypt"
					: "only with listen=, the address of a "
					  "card's interface");
	status = o->rdma_devices ? check_devices(o) : 0;
	if (status)
		return status;
	if (o->tls && !o->key_file)
		return verb_fail(EXIT_USAGE,
				 "tls=on: only with cluster-key-file=");
	status = o->key_file ? resolve_key_file(job) : 0;
	if (!status && !o->meta_url && (o->listen || o->key_file))
		return verb_fail(EXIT_USAGE,
				 "%s only with meta=, the Redis that all nodes "
				 "of the cluster use",
				 o->listen ? "listen=" : "cluster-key-file=");
	return status;
}

// SPDX-License-Identifier: MIT
#include "meta/url.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WHY(text) (*why = (text), -EINVAL)

/* All of [p, end) as a number up to max. */
static bool number_parse(const char *p, const char *end, uint32_t max,
			 uint32_t *v)
{
	uint64_t sum = 0;

	if (p == end || end - p > 10)
		return false;
	for (; p < end; p++) {
		if (*p < '0' || *p > '9')
			return false;
		sum = sum * 10 + (unsigned)(*p - '0');
	}
	if (sum > max)
		return false;
	*v = (uint32_t)sum;
	return true;
}

static bool text_copy(char *to, size_t room, const char *p, const char *end)
{
	size_t n = (size_t)(end - p);

	if (n >= room)
		return false;
	memcpy(to, p, n);
	to[n] = '\0';
	return true;
}

static int unix_parse(struct url *u, const char *p, const char **why)
{
	const char *query = strchr(p, '?');
	const char *end = query ? query : p + strlen(p);

	u->is_unix = true;
	if (*p != '/')
		return WHY("a socket's path is absolute: unix:///path");
	if (!text_copy(u->host, sizeof(u->host), p, end)) {
		*why = "the socket's path is too long";
		return -ENAMETOOLONG;
	}
	if (query &&
	    (strncmp(query, "?db=", 4) != 0 ||
	     !number_parse(query + 4, query + strlen(query), 65535, &u->db)))
		return WHY("after '?' stands db=NUMBER");
	return 0;
}

/* host, [v6 address], each with an optional port; at ends it. */
static int host_parse(struct url *u, const char *p, const char *end,
		      const char **why)
{
	const char *host_end, *colon;
	uint32_t port = 6379;

	if (p < end && *p == '[') {
		p++;
		host_end = memchr(p, ']', (size_t)(end - p));
		if (!host_end)
			return WHY("'[' without ']'");
		colon = host_end + 1;
	} else {
		colon = p < end ? memchr(p, ':', (size_t)(end - p)) : NULL;
		host_end = colon ? colon : end;
		colon = host_end;
	}
	if (host_end == p)
		return WHY("the host is missing");
	if (colon < end &&
	    (*colon != ':' || !number_parse(colon + 1, end, 65535, &port) ||
	     !port))
		return WHY("the port is not a number of 1 to 65535");
	if (!text_copy(u->host, sizeof(u->host), p, host_end)) {
		*why = "the host's name is too long";
		return -ENAMETOOLONG;
	}
	if (strpbrk(u->host, "@[]"))
		return WHY("'@', '[' and ']' stand in no host's name");
	u->port = (uint16_t)port;
	return 0;
}

static int tcp_parse(struct url *u, const char *p, const char **why)
{
	const char *slash = strchr(p, '/');
	const char *end = slash ? slash : p + strlen(p);
	const char *at = memchr(p, '@', (size_t)(end - p));

	if (at) {
		if (memchr(p, ':', (size_t)(at - p)))
			return WHY("no password in the address, everyone on "
				   "the machine could read it: use a 0600 "
				   "file or KVFS_REDIS_PASSWORD");
		if (!text_copy(u->user, sizeof(u->user), p, at))
			return WHY("the user's name is too long");
		p = at + 1;
	}
	if (slash && slash[1] &&
	    !number_parse(slash + 1, slash + strlen(slash), 65535, &u->db))
		return WHY("after '/' stands the number of a database");
	return host_parse(u, p, end, why);
}

int url_parse(struct url *u, const char *text, const char **why)
{
	memset(u, 0, sizeof(*u));
	if (!strncmp(text, "redis://", 8))
		return tcp_parse(u, text + 8, why);
	if (!strncmp(text, "unix://", 7))
		return unix_parse(u, text + 7, why);
	if (!strncmp(text, "rediss://", 9)) {
		u->is_tls = true;
		return tcp_parse(u, text + 9, why);
	}
	return WHY("not redis://[user@]host[:port][/db], rediss://… (TLS) or "
		   "unix:///path[?db=n]");
}

void url_format(const struct url *u, char *buf)
{
	const char *at = u->user[0] ? "@" : "";
	bool v6 = !u->is_unix && strchr(u->host, ':');

	if (u->is_unix)
		snprintf(buf, URL_TEXT_MAX, "unix://%s%s%.0u", u->host,
			 u->db ? "?db=" : "", u->db);
	else
		snprintf(buf, URL_TEXT_MAX, "redis%s://%s%s%s%s%s:%u/%u",
			 u->is_tls ? "s" : "", u->user, at, v6 ? "[" : "",
			 u->host, v6 ? "]" : "", u->port, u->db);
}

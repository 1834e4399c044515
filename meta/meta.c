// SPDX-License-Identifier: MIT
#include "meta/meta.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "meta/check.h"
#include "meta/embedded.h"
#include "meta/internal.h"
#include "meta/kv_find.h"
#include "meta/kv_list.h"
#include "meta/members.h"
#include "meta/namespace.h"
#include "meta/node.h"

#define DEADLINE_MS 5000
#define PASSWORD_MAX 512

/* --- configuration ----------------------------------------------------- */

static int password_file_read(struct meta *m, const char *path)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[PASSWORD_MAX + 1];
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st)) {
		int err = -errno;

		log_error("redis: password file %s: %s", path, strerror(-err));
		return err;
	}
	if (st.st_mode & 077) {
		log_error("redis: password file %s: others may read it: "
			  "chmod 600 %s",
			  path, path);
		return -EACCES;
	}
	n = read(fd, text, PASSWORD_MAX);
	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\r\n")] = '\0';
	if (!text[0]) {
		log_error("redis: password file %s: it is empty", path);
		return -EINVAL;
	}
	m->password = strdup(text);
	explicit_bzero(text, sizeof(text));
	return m->password ? 0 : -ENOMEM;
}

static int password_get(struct meta *m, const char *path)
{
	const char *text = getenv("KVFS_REDIS_PASSWORD");

	if (path)
		return password_file_read(m, path);
	if (!text || !*text)
		return 0;
	m->password = strdup(text);
	return m->password ? 0 : -ENOMEM;
}

static int strings_set(struct meta *m, const struct meta_config *c)
{
	const char *prefix = c->prefix ? c->prefix : "kvfs";
	char host[65] = "node";

	if (key_prefix_check(prefix)) {
		log_error("meta: prefix '%.40s': 1 to %d of letters, digits "
			  "and - _ . :",
			  prefix, KEY_PREFIX_MAX);
		return -EINVAL;
	}
	snprintf(m->prefix, sizeof(m->prefix), "%s", prefix);
	gethostname(host, sizeof(host) - 1);
	m->ca_file = c->ca_file ? strdup(c->ca_file) : NULL;
	m->cert_file = c->cert_file ? strdup(c->cert_file) : NULL;
	m->state_dir = strdup(c->state_dir);
	m->node_name = strdup(c->node_name ? c->node_name : host);
	m->host = strdup(c->host ? c->host : host);
	if (!m->state_dir || !m->node_name || !m->host ||
	    (c->ca_file && !m->ca_file) || (c->cert_file && !m->cert_file))
		return -ENOMEM;
	if (mkdir(m->state_dir, 0700) && errno != EEXIST) {
		int err = -errno;

		log_error("meta: %s: %s", m->state_dir, strerror(-err));
		return err;
	}
	return 0;
}

static int meta_new(struct meta **out, const struct meta_config *c)
{
	struct meta *m = calloc(1, sizeof(*m));
	int err;

	if (!m)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	m->deadline_ns =
		(c->deadline_ms ? c->deadline_ms : DEADLINE_MS) * NS_PER_MS;
	m->replicas = c->replicas;
	m->discard = c->discard;
	m->kv_ops = c->kv_ops;
	m->kv_ctx = c->kv_ctx;
	m->node_ops = c->node_ops;
	m->node_ctx = c->node_ctx;
	m->ckpt_ops = c->ckpt_ops;
	m->ckpt_ctx = c->ckpt_ctx;
	m->library = library_text(&m->library_build);
	err = m->library ? 0 : -ENOBUFS;
	err = err ? err : strings_set(m, c);
	if (err) {
		meta_close(m);
		return err;
	}
	*out = m;
	return 0;
}

/* --- the server and the connections ------------------------------------ */

static void server_restarted(void *ctx)
{
	struct meta *m = ctx;

	scoped_lock(&m->lock);
	for (int i = 0; i < META_LINKS; i++)
		if (m->links[i])
			redis_kick(m->links[i]);
}

static int server_embedded(struct meta *m)
{
	char dir[sizeof(m->url.host) - 16];
	int n = snprintf(dir, sizeof(dir), "%s/redis", m->state_dir);

	if (m->replicas) {
		log_error("meta: meta-replicas= goes with meta= only: the "
			  "private redis-server has no replicas");
		return -EINVAL;
	}
	if ((size_t)n >= sizeof(dir)) {
		log_error("meta: the state directory's path is too long");
		return -ENAMETOOLONG;
	}
	m->url.is_unix = true;
	snprintf(m->url.host, sizeof(m->url.host), "%s/redis.sock", dir);
	return embedded_open(&m->embedded, dir, server_restarted, m);
}

static int server_named(struct meta *m, const struct meta_config *c)
{
	const char *why;
	int err = url_parse(&m->url, c->url, &why);

	if (err) {
		log_error("meta: the address of Redis: %s", why);
		return err == -ENAMETOOLONG ? -EINVAL : err;
	}
	if ((m->ca_file || m->cert_file) && !m->url.is_tls) {
		log_error("meta: meta-ca= and meta-cert= go with rediss:// "
			  "only");
		return -EINVAL;
	}
	return password_get(m, c->password_file);
}

/* One line when the first connection fails, one when the last is back. */
static void link_change(void *arg, bool up, bool fresh, const char *why)
{
	struct link_ctx *ctx = arg;
	struct meta *m = ctx->m;
	bool said_down = false, said_up = false, in_use;
	int64_t since;

	pthread_mutex_lock(&m->lock);
	since = m->down_since;
	in_use = m->opened;
	if (m->link_down[ctx->link] == up) {
		m->link_down[ctx->link] = !up;
		if (up) {
			said_up = --m->links_down == 0 && m->opened;
		} else if (m->links_down++ == 0) {
			said_down = m->opened;
			m->down_since = clock_now_ns();
		}
	}
	pthread_mutex_unlock(&m->lock);
	if (said_down && !m->closing)
		log_warn("redis: %s: %s: local blocks are served, names stay "
			 "dirty, changes below ckpt/ fail until it is back",
			 m->address, why);
	if (said_up && !m->closing)
		log_info("redis: %s: answers again after %.1f s", m->address,
			 (double)(clock_now_ns() - since) / NS_PER_S);
	if (fresh && in_use)
		meta_node_check(m);
	if (up && in_use)
		meta_kv_wake(m);
}

static struct redis *link_set(struct meta *m, int link, struct redis *r)
{
	struct redis *old = m->links[link];

	scoped_lock(&m->lock);
	m->links[link] = r;
	return old;
}

static int link_open(struct meta *m, enum meta_link link, int64_t deadline)
{
	static const char *const names[META_LINKS] = {"lookup", "publish",
						      "ckpt"};
	char name[32];
	struct redis_config c = {.url = &m->url,
				 .password = m->password,
				 .ca_file = m->ca_file,
				 .cert_file = m->cert_file,
				 .name = name,
				 .library = m->library,
				 .library_build = m->library_build,
				 .library_fn = LIBRARY_BUILD_FN,
				 .change = link_change,
				 .ctx = &m->link_ctx[link]};
	struct redis *r;
	int err;

	snprintf(name, sizeof(name), "kvfs-%s", names[link]);
	m->link_ctx[link].m = m;
	m->link_ctx[link].link = link;
	err = redis_open(&r, &c, deadline);
	if (!err)
		link_set(m, link, r);
	return err;
}

static int links_open(struct meta *m)
{
	int64_t deadline = meta_deadline(m, 0);
	int err = link_open(m, META_LOOKUP, deadline);

	if (!err && !m->embedded)
		err = meta_check_server(m);
	for (int i = META_LOOKUP + 1; i < META_LINKS && !err; i++)
		err = link_open(m, (enum meta_link)i, deadline);
	return err;
}

/* --- open, start, close ------------------------------------------------ */

static void opened(struct meta *m)
{
	scoped_lock(&m->lock);
	m->opened = true;
}

static int parts_open(struct meta *m)
{
	int err = meta_node_open(m);

	err = err ? err : meta_namespace_open(m);
	err = err ? err : meta_kv_open(m);
	err = err ? err : meta_kv_find_open(m);
	err = err ? err : meta_kv_list_open(m);
	err = err ? err : meta_ckpt_open(m);
	if (err)
		return err;
	opened(m);
	return meta_node_start(m);
}

int meta_open(struct meta **out, const struct meta_config *c)
{
	struct meta *m = NULL;
	int err = meta_new(&m, c);

	if (err)
		return err;
	err = c->url ? server_named(m, c) : server_embedded(m);
	if (!err) {
		url_format(&m->url, m->address);
		err = links_open(m);
	}
	err = err ? err : parts_open(m);
	if (err) {
		meta_close(m);
		return err;
	}
	*out = m;
	return 0;
}

int meta_start(struct meta *m)
{
	meta_node_ready(m);
	meta_ckpt_ready(m);
	return meta_kv_start(m);
}

void meta_close(struct meta *m)
{
	if (!m)
		return;
	m->closing = true;
	meta_kv_find_stop(m);
	meta_kv_list_stop(m);
	if (m->ckpt)
		meta_ckpt_stop(m);
	if (m->kv)
		meta_kv_stop(m);
	meta_node_stop(m);
	meta_ckpt_close(m); /* a heartbeat may have told it of a new store */
	for (int i = 0; i < META_LINKS; i++)
		redis_close(link_set(m, i, NULL));
	meta_kv_find_close(m);
	meta_kv_list_close(m);
	if (m->kv)
		meta_kv_close(m);
	meta_namespace_close(m);
	meta_node_close(m);
	embedded_close(m->embedded);
	if (m->password)
		explicit_bzero(m->password, strlen(m->password));
	free(m->password);
	free(m->ca_file);
	free(m->cert_file);
	free(m->state_dir);
	free(m->node_name);
	free(m->host);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* --- statistics -------------------------------------------------------- */

bool meta_up(struct meta *m)
{
	for (int i = 0; i < META_LINKS; i++)
		if (!redis_up(m->links[i]))
			return false;
	return true;
}

bool meta_up_lookup(struct meta *m)
{
	return redis_up(m->links[META_LOOKUP]);
}

static void links_stats(struct meta *m, struct meta_stats *s)
{
	for (int i = 0; i < META_LINKS; i++) {
		struct redis_counts c;

		redis_counts(m->links[i], &c);
		s->n_commands += c.n_commands;
		s->n_timeouts += c.n_timeouts;
		s->n_outages += c.n_outages;
		s->n_reconnects += c.n_reconnects;
		if (i == META_LOOKUP)
			s->last_rtt_ns = c.last_rtt_ns;
	}
}

void meta_stats(struct meta *m, struct meta_stats *s)
{
	memset(s, 0, sizeof(*s));
	s->up = meta_up(m);
	s->embedded = m->embedded;
	s->address = m->address;
	s->incarnation = meta_node_self(m);
	s->n_nodes = meta_members_count(m, false);
	s->store_id = meta_node_store_id(m);
	if (m->embedded)
		s->n_redis_restarts = embedded_restarts(m->embedded);
	links_stats(m, s);
	meta_kv_stats(m, s);
	meta_kv_find_stats(m, s);
	meta_kv_list_stats(m, s);
	meta_ckpt_stats(m, s);
}

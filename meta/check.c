// SPDX-License-Identifier: MIT
#include "meta/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "meta/internal.h"

struct settings {
	char policy[32], save[128], stop_writes[8], cluster[8];
};

static void setting_take(struct settings *s, const char *name,
			 const char *value)
{
	if (!strcmp(name, "maxmemory-policy"))
		snprintf(s->policy, sizeof(s->policy), "%s", value);
	else if (!strcmp(name, "save"))
		snprintf(s->save, sizeof(s->save), "%s", value);
	else if (!strcmp(name, "stop-writes-on-bgsave-error"))
		snprintf(s->stop_writes, sizeof(s->stop_writes), "%s", value);
	else if (!strcmp(name, "cluster-enabled"))
		snprintf(s->cluster, sizeof(s->cluster), "%s", value);
}

static int ask(struct meta *m, const char *words, struct redis_reply **reply)
{
	redis_cmd_auto struct redis_cmd c = {0};

	redis_cmd_words(&c, words);
	return redis_call(m->links[META_LOOKUP], REDIS_TRY, meta_deadline(m, 0),
			  &c, reply);
}

/* An ACL may forbid CONFIG: then the policy, at least, is in INFO. */
static int settings_from_info(struct meta *m, struct settings *s)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	const char *p;
	int err = ask(m, "INFO memory", &reply);

	if (err)
		return err;
	p = strstr(redis_reply_text(reply), "maxmemory_policy:");
	if (!p)
		return -EIO;
	p += strlen("maxmemory_policy:");
	snprintf(s->policy, sizeof(s->policy), "%.*s", (int)strcspn(p, "\r\n"),
		 p);
	return 0;
}

static int settings_get(struct meta *m, struct settings *s)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	int err = ask(m,
		      "CONFIG GET maxmemory-policy save "
		      "stop-writes-on-bgsave-error cluster-enabled",
		      &reply);

	if (err)
		return err;
	if (redis_reply_type(reply) == REPLY_ERROR)
		return settings_from_info(m, s);
	for (size_t i = 0; i + 1 < redis_reply_count(reply); i += 2)
		setting_take(s, redis_reply_text(redis_reply_at(reply, i)),
			     redis_reply_text(redis_reply_at(reply, i + 1)));
	return 0;
}

int meta_check_server(struct meta *m)
{
	struct settings s = {.policy = ""};
	int err = settings_get(m, &s);

	if (err) {
		log_error("redis: %s: cannot read its settings: %s", m->address,
			  strerror(-err));
		return -EIO;
	}
	if (strcmp(s.policy, "noeviction") != 0) {
		log_error("redis: %s: it may evict keys (maxmemory-policy %s): "
			  "redis-cli CONFIG SET maxmemory-policy noeviction",
			  m->address, s.policy);
		return -EINVAL;
	}
	if (!strcmp(s.stop_writes, "yes") && s.save[0]) {
		log_error("redis: %s: it refuses writes when a save fails: "
			  "redis-cli CONFIG SET stop-writes-on-bgsave-error no",
			  m->address);
		return -EINVAL;
	}
	if (!strcmp(s.cluster, "yes")) {
		log_error("redis: %s: it is one of a Redis Cluster, which is "
			  "not supported: name a single Redis",
			  m->address);
		return -EINVAL;
	}
	return 0;
}

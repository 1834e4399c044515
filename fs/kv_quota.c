// SPDX-License-Identifier: MIT
#include "base/cleanup.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "meta/kv.h"

/*
 * A namespace's policy, and its quota over all nodes.
 *
 * Each heartbeat tells what this node holds of each namespace and hears the
 * sum over the live ones. From both follows what this node may hold until the
 * next one:
 *
 *      alone with it        the quota, exactly
 *      below the quota      what is here, and all that is left of it
 *      past the quota       this node's share: it evicts as much of the excess
 *                           as it has of the whole
 *
 * Without more, a node that comes to a full namespace could never store there.
 * So each may grow by its part of an eighth of the quota between two
 * heartbeats; with the next one all shrink, in proportion.
 */

#define SLACK_SHARE 8

void kv_set_policy(struct kv *kv, struct kv_ns *ns,
		   const struct meta_namespace *m)
{
	bool other = ns->quota_bytes != m->quota_bytes;

	ns->quota_bytes = m->quota_bytes;
	if (other)
		ns->limit_bytes = m->quota_bytes;
	ns->replicas = m->replicas;
	ns->checksum = m->checksum;
	ns->hot_reads = m->hot_reads;
	ns->hot_seconds = m->hot_seconds;
	if (other)
		kv_enforce_quota(kv, ns);
}

void kv_enforce_quota(struct kv *kv, struct kv_ns *ns)
{
	if (ns->quota_bytes)
		kv_shrink(kv, ns, ns->limit_bytes);
}

uint64_t kv_ns_usage(const struct kv_ns *ns)
{
	return ns->other_bytes + ns->n_bytes;
}

static uint64_t share_of(uint64_t quota, uint64_t own, uint64_t total)
{
	return (uint64_t)((__uint128_t)own * quota / total);
}

/* Lock held. */
static void divide(struct kv *kv, struct kv_ns *ns, uint64_t total,
		   unsigned n_nodes)
{
	uint64_t quota = ns->quota_bytes, told = ns->told_bytes;

	ns->other_bytes = total > told ? total - told : 0;
	if (!quota)
		return;
	if (!ns->other_bytes) {
		ns->limit_bytes = quota;
		kv_shrink(kv, ns, quota);
		return;
	}
	ns->limit_bytes = total > quota ? share_of(quota, told, total)
					: told + (quota - total);
	if (total > quota)
		kv_shrink(kv, ns, ns->limit_bytes);
	ns->limit_bytes += quota / SLACK_SHARE / n_nodes;
}

static bool count(void *arg, const struct meta_node *node)
{
	(void)node;
	++*(unsigned *)arg;
	return true;
}

int kv_learn_policies(struct kv *kv, int64_t deadline)
{
	return meta_namespace_each(kv->fs->meta, deadline, kv_learn_namespace,
				   kv);
}

void kv_beat(struct kv *kv)
{
	struct meta *meta = kv->fs->meta;
	unsigned n_nodes = 0;

	meta_nodes(meta, count, &n_nodes);
	scoped_lock(&kv->lock);

	list_for_each (l, &kv->namespaces) {
		struct kv_ns *ns = container_of(l, struct kv_ns, all);
		uint64_t total = 0;

		meta_ns_usage(meta, ns->dir.node.name, &total);
		divide(kv, ns, total, n_nodes ? n_nodes : 1);
	}
}

void kv_tell_usage(struct kv *kv,
		   void (*add)(void *arg, const char *ns, uint64_t bytes),
		   void *arg)
{
	scoped_lock(&kv->lock);

	list_for_each (l, &kv->namespaces) {
		struct kv_ns *ns = container_of(l, struct kv_ns, all);

		ns->told_bytes = ns->n_bytes;
		if (ns->n_bytes)
			add(arg, ns->dir.node.name, ns->n_bytes);
	}
}

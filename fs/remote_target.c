// SPDX-License-Identifier: MIT
#include "fs/remote_target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "engine/checksum.h"
#include "fs/kv.h"
#include "fs/remote_scratch.h"

static void target_gone(void *ctx)
{
	struct remote_target *t = ctx;

	if (t->scratch)
		remote_scratch_put(t->r, t->size_bytes, t->fd);
	else if (t->fd >= 0)
		close(t->fd);
	if (t->frame != POOL_NO_FRAME)
		pool_put(t->r->fs->pool, t->frame);
	free(t);
}

static int take_frame(struct remote_target *t)
{
	struct pool *pool = t->r->fs->pool;
	int backing, err;

	err = pool_take(pool, t->size_bytes, &t->frame, &backing);
	if (err)
		return err;
	t->fd = pool_fd(pool, t->frame, O_RDWR);
	if (t->fd < 0)
		return t->fd;
	return ftruncate(t->fd, (off_t)t->size_bytes) ? -errno : 0;
}

static int take_scratch(struct remote_target *t)
{
	int err = remote_scratch_take(t->r, t->size_bytes, &t->fd);

	t->scratch = !err;
	return err;
}

static int target_fill(struct remote_target *t,
		       int (*take)(struct remote_target *t))
{
	struct engine_mem mem = {.kind = ENGINE_MEM_FILE,
				 .length_bytes = t->size_bytes};
	int err = take(t);

	if (err || !t->size_bytes)
		return err;
	mem.fd = t->fd;
	return engine_region_add(t->r->engine, &mem, &t->region);
}

static int target_new(struct remote *r, uint64_t size_bytes,
		      int (*take)(struct remote_target *t),
		      struct remote_target **target)
{
	struct remote_target *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->r = r;
	t->fd = -1;
	t->frame = POOL_NO_FRAME;
	t->size_bytes = size_bytes;
	err = target_fill(t, take);
	if (err)
		target_gone(t);
	else
		*target = t;
	return err;
}

int remote_target_new(struct remote *r, uint64_t size_bytes,
		      struct remote_target **target)
{
	return target_new(r, size_bytes, take_frame, target);
}

int remote_target_scratch(struct remote *r, uint64_t size_bytes,
			  struct remote_target **target)
{
	return target_new(r, size_bytes, take_scratch, target);
}

int remote_target_over(struct remote *r, uint64_t region, uint64_t offset,
		       uint64_t size_bytes, struct remote_target **target)
{
	struct remote_target *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	*t = (struct remote_target){.r = r,
				    .size_bytes = size_bytes,
				    .region = region,
				    .offset = offset,
				    .lent = true,
				    .frame = POOL_NO_FRAME,
				    .fd = -1};
	*target = t;
	return 0;
}

uint32_t remote_target_take(struct remote_target *t)
{
	uint32_t frame = t->frame;

	t->frame = POOL_NO_FRAME;
	return frame;
}

void remote_target_free(struct remote_target *t)
{
	if (t &&
	    (!t->size_bytes || t->lent ||
	     engine_region_remove(t->r->engine, t->region, target_gone, t)))
		target_gone(t);
}

static int sum_of(const struct remote_target *t, const struct remote_msg *m,
		  uint64_t sum[2])
{
	uint64_t bytes = m->length_bytes ? m->length_bytes : m->size_bytes;

	if (bytes)
		return engine_region_sum(t->r->engine, t->region,
					 t->offset + m->offset, bytes, sum);
	checksum_mem("", 0, sum);
	return 0;
}

int remote_verify(struct remote *r, struct remote_target *t,
		  const struct remote_msg *m, uint32_t holder)
{
	char name[META_NODE_NAME_MAX + 1];
	uint64_t sum[2];
	int err;

	if (!m->checksum[0] && !m->checksum[1])
		return 0; /* the namespace takes none */
	err = sum_of(t, m, sum);
	if (!err && !fault_hit("remote.verify") &&
	    !memcmp(sum, m->checksum, sizeof(sum)))
		return 0;
	if (err)
		return err;
	atomic_fetch_add(&r->counters.mismatches, 1);
	log_warn("kv: %.*s: from %s: the bytes do not match the checksum; "
		 "asking another holder",
		 (int)m->path_len, m->path,
		 remote_node_name(r->fs, holder, name));
	return -EBADMSG;
}

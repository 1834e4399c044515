// SPDX-License-Identifier: MIT
#include <string.h>

#include "fs/kv.h"
#include "fs/remote.h"

/*
 * What was stored after what.
 *
 * The owner of a block knows what was stored after it: by the same thread, or,
 * where every block has a process of its own (cp), by anybody in the
 * namespace; a parent that was set counts before that. It says so in its
 * answer to a reader's FETCH, and of more blocks when it is asked (AHEAD).
 * remote_ahead.c is what a reader does with it.
 */

static struct kv_file *at_frame(struct kv *kv, uint32_t frame, uint32_t epoch)
{
	struct kv_file *f = frame < kv->n_by_frame ? kv->by_frame[frame] : NULL;

	return f && kv_record(kv, f)->epoch == epoch ? f : NULL;
}

static void follow(struct kv *kv, struct kv_file *f, struct kv_file *next)
{
	f->next_frame = next->frame;
	f->next_epoch = kv_record(kv, next)->epoch;
}

void remote_chain_parent(struct kv *kv, struct kv_file *f,
			 struct kv_file *parent)
{
	if (kv->fs->remote && parent)
		follow(kv, parent, f);
}

void remote_chain_stored(struct kv *kv, struct kv_file *f)
{
	struct kv_stored *s = f->ns->stored, *mine = NULL;
	struct kv_file *before;

	if (!kv->fs->remote)
		return;
	for (unsigned i = 0; i < KV_STORED_MAX; i++)
		if (s[i].writer == f->writer)
			mine = &s[i];
	before = mine ? at_frame(kv, mine->frame, mine->epoch)
		      : at_frame(kv, s[f->ns->stored_at].frame,
				 s[f->ns->stored_at].epoch);
	if (before && before != f)
		follow(kv, before, f);
	if (!mine)
		mine = &s[++f->ns->stored_at % KV_STORED_MAX];
	f->ns->stored_at = (unsigned)(mine - s);
	*mine = (struct kv_stored){.writer = f->writer,
				   .frame = f->frame,
				   .epoch = kv_record(kv, f)->epoch};
}

#define ENTRY_BYTES 2u /* before each message in an answer: its length */

static size_t put_entry(struct remote *r, struct kv_file *f, uint8_t *out)
{
	const struct pool_record *rec = kv_record(r->fs->kv, f);
	struct remote_msg m = {
		.generation = rec->generation,
		.size_bytes = rec->size_bytes,
		.mode = rec->mode,
		.uid = rec->uid,
		.gid = rec->gid,
		.holder = meta_node_self(r->fs->meta),
		.priority = ENGINE_PREFETCH,
		.flags = REMOTE_COPY,
		.path = rec->path,
		.path_len = rec->path_len,
	};
	size_t n;

	if (rec->flags & POOL_HAS_CHECKSUM)
		memcpy(m.checksum, rec->checksum, sizeof(m.checksum));
	n = remote_encode(&m, out + ENTRY_BYTES);
	out[0] = (uint8_t)n;
	out[1] = (uint8_t)(n >> 8);
	return n + ENTRY_BYTES;
}

size_t remote_chain_answer(struct remote *r, struct kv_file *f, unsigned n_max,
			   uint8_t *out)
{
	struct kv *kv = r->fs->kv;
	size_t used = 0;

	for (unsigned i = 0; i < n_max; i++) {
		f = f->next_epoch ? at_frame(kv, f->next_frame, f->next_epoch)
				  : NULL;
		if (!f || !f->node.published)
			break;
		used += put_entry(r, f, out + used);
	}
	return used;
}

size_t remote_chain_next(const uint8_t *answer, size_t bytes,
			 struct remote_msg *m)
{
	size_t len;

	if (bytes <= ENTRY_BYTES)
		return 0;
	len = (size_t)answer[0] | (size_t)answer[1] << 8;
	if (len > bytes - ENTRY_BYTES ||
	    remote_decode(answer + ENTRY_BYTES, len, m))
		return 0;
	return ENTRY_BYTES + len;
}

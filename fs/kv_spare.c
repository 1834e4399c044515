// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fs/kv.h"
#include "fs/kv_lend.h"

/*
 * What can be had without evicting. A file is given what the last ones took,
 * and is charged that until somebody trims it: after a large block each small
 * one that is closed but not committed yet weighs as much as the large one.
 * So before a block goes, files whose writer is gone give back what they did
 * not use, and those with a final name become blocks.
 *
 * Whether a writer is gone, the write lease says (pool_probe). It says so as
 * well before the kernel has opened the frame of a file just created; that
 * file is empty. Without passthrough it says so between two writes, too: there
 * a close must have been seen, whose RELEASE may come much later. Who writes on
 * through a duplicate takes what he needs anew.
 *
 * With passthrough the kernel lets a client write past the end of a frame that
 * he reserved, where nothing is of use to anybody: that is cut off.
 */

#define SPARE_MOST 32 /* files of one list in one go */

static uint64_t spare_bytes(struct kv *kv, const struct kv_file *f, bool *empty)
{
	cleanup_close int fd = pool_fd(kv->fs->pool, f->frame, O_PATH);
	uint64_t alloc, size;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return 0;
	alloc = st.st_blocks * 512ull;
	size = ((uint64_t)st.st_size + 4095) / 4096 * 4096;
	*empty = st.st_size == 0;
	return alloc > size ? alloc - size : 0;
}

static bool may_be_trimmed(struct kv *kv, struct kv_file *f, bool empty)
{
	if (!f->writers)
		return kv_writers_gone(kv, f);
	if (!kv->fs->passthrough)
		return f->closed && !pool_probe(kv->fs->pool, f->frame);
	return !empty && kv_writers_gone(kv, f);
}

static uint64_t spare_of_file(struct kv *kv, struct kv_file *f)
{
	uint64_t freed;
	bool empty = true;

	if (f->trimmed || !spare_bytes(kv, f, &empty))
		return 0;
	if (!may_be_trimmed(kv, f, empty))
		return 0;
	freed = pool_trim(kv->fs->pool, f->frame);
	f->trimmed = true;
	return freed;
}

/* In turns, as some may stay open for long. */
static uint64_t spare_of_writing(struct kv *kv)
{
	unsigned left = SPARE_MOST;
	uint64_t freed = 0;

	list_for_each_safe (l, &kv->writing) {
		struct kv_file *f = container_of(l, struct kv_file, by_use);

		if (!left--)
			break;
		list_remove(l);
		list_push_back(&kv->writing, l);
		freed += spare_of_file(kv, f);
		if (f->trimmed)
			kv_try_commit(kv, f);
	}
	return freed;
}

static uint64_t spare_of_late(struct kv *kv)
{
	uint64_t freed = 0;

	list_for_each_safe (l, &kv->late)
		freed += spare_of_file(kv,
				       container_of(l, struct kv_file, by_use));
	kv_commit_late(kv);
	return freed;
}

/* The last that were closed; those before them had their turn. */
static uint64_t spare_of_orphans(struct kv *kv)
{
	unsigned left = SPARE_MOST;
	uint64_t freed = 0;

	for (struct list *l = kv->orphans.prev; l != &kv->orphans && left--;
	     l = l->prev) {
		struct kv_file *f = container_of(l, struct kv_file, by_use);

		if (f->trimmed)
			break;
		freed += spare_of_file(kv, f);
	}
	return freed;
}

static uint64_t spare_of_blocks(struct kv *kv)
{
	unsigned left = SPARE_MOST;
	uint64_t freed = 0;

	list_for_each_safe (l, &kv->excess) {
		struct kv_file *f = container_of(l, struct kv_file, excess);

		if (!left--)
			break;
		list_remove(l);
		freed += pool_trim(kv->fs->pool, f->frame);
	}
	return freed;
}

/* In turns, as there may be many. */
static uint64_t spare_of_reserved(struct kv *kv)
{
	unsigned left = SPARE_MOST;
	uint64_t freed = 0;

	list_for_each_safe (l, &kv->reserved) {
		struct kv_lent *lent =
			container_of(l, struct kv_lent, reserved);

		if (!left--)
			break;
		list_remove(l);
		list_push_back(&kv->reserved, l);
		freed += pool_cut(kv->fs->pool, lent->frame, lent->bytes);
	}
	return freed;
}

uint64_t kv_spare_take(struct kv *kv)
{
	uint64_t freed = spare_of_late(kv);

	freed += spare_of_writing(kv);
	freed += spare_of_orphans(kv);
	freed += spare_of_reserved(kv);
	return freed + spare_of_blocks(kv);
}

uint64_t kv_spare_soon(struct kv *kv)
{
	uint64_t spare = 0;
	bool empty;

	if (!kv->late_queued)
		return 0;
	list_for_each_safe (l, &kv->late) {
		struct kv_file *f = container_of(l, struct kv_file, by_use);

		if (!f->trimmed)
			spare += spare_bytes(kv, f, &empty);
	}
	return spare;
}

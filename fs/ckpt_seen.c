// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/ckpt.h"

/*
 * With timeouts of 0 the kernel asks for each component of a path twice: a
 * lookup, and the attributes to check permissions by. Both may be answered
 * from what was seen up to 10 ms ago (CLUSTER 20), a lookup only of a
 * directory on the way: whether a file is there and what it is, is always
 * asked. Nothing that this node changed is reused: a mutation that ended
 * counts in ckpt.changes, so that an older question's answer is not taken for
 * fresh; what it changed is forgotten, or, a directory whose entries changed,
 * changed alike.
 */

uint64_t cseen_begin(struct ckpt *ckpt)
{
	scoped_lock(&ckpt->lock);

	return ckpt->changes;
}

void cseen_note(struct ckpt *ckpt, struct ckpt_inode *inode,
		const struct ckpt_attr *a, uint64_t begun)
{
	scoped_lock(&ckpt->lock);
	bool fresh = begun == ckpt->changes;

	/* Was this answer overtaken by that of a later question? */
	if (!fresh && (a->version < inode->attr.version ||
		       a->ctime_ns < inode->attr.ctime_ns))
		return;
	cinode_merge(ckpt, inode, a);
	inode->seen_ns = fresh ? clock_now_ns() : 0;
	inode->seen_moves = ckpt->moves;
}

void cseen_changed(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	scoped_lock(&ckpt->lock);

	ckpt->changes++;
	if (inode)
		inode->seen_ns = 0;
	else
		ckpt->moves++;
}

void cseen_entered(struct ckpt *ckpt, struct ckpt_inode *dir, int64_t now_ns,
		   int links)
{
	scoped_lock(&ckpt->lock);

	ckpt->changes++;
	if (links < 0)
		ckpt->moves++; /* a step may have gone */
	dir->attr.mtime_ns = now_ns;
	dir->attr.ctime_ns = now_ns;
	dir->attr.nlink += (uint32_t)links;
}

/* Locked. */
static bool still_good(const struct ckpt *ckpt, int64_t at_ns, uint64_t moves)
{
	return at_ns && moves == ckpt->moves &&
	       clock_now_ns() - at_ns < CKPT_REUSE_NS;
}

bool cseen_fresh(struct ckpt *ckpt, struct ckpt_inode *inode,
		 struct ckpt_attr *a)
{
	scoped_lock(&ckpt->lock);

	*a = inode->attr;
	/* A record that is gone cannot change. */
	return (inode->gone && !inode->kept) ||
	       still_good(ckpt, inode->seen_ns, inode->seen_moves);
}

static struct ckpt_step *step_of(struct ckpt *ckpt, uint64_t parent,
				 const char *name)
{
	uint64_t h = parent * 0x9e3779b97f4a7c15ull;

	if (strlen(name) >= sizeof(ckpt->steps[0].name))
		return NULL;
	while (*name)
		h = (h ^ (uint8_t)*name++) * 0x100000001b3ull;
	return &ckpt->steps[(h >> 24) % CKPT_STEPS];
}

struct ckpt_inode *cseen_step(struct ckpt *ckpt, uint64_t parent,
			      const char *name)
{
	scoped_lock(&ckpt->lock);
	struct ckpt_step *s = step_of(ckpt, parent, name);
	struct ckpt_inode *inode;

	if (!s || s->parent != parent || strcmp(s->name, name) ||
	    !still_good(ckpt, s->at_ns, s->moves))
		return NULL;
	inode = cinode_find(ckpt, s->ino);
	if (!inode || inode->gone)
		return NULL;
	inode->nlookup++;
	return inode;
}

void cseen_add_step(struct ckpt *ckpt, uint64_t parent, const char *name,
		    uint64_t ino, uint64_t begun)
{
	scoped_lock(&ckpt->lock);
	struct ckpt_step *s = step_of(ckpt, parent, name);

	if (!s || begun != ckpt->changes)
		return;
	s->parent = parent;
	s->ino = ino;
	s->at_ns = clock_now_ns();
	s->moves = ckpt->moves;
	strcpy(s->name, name);
}

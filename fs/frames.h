/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_FRAMES_H
#define KVFS_FS_FRAMES_H

struct call;

/** frames_lookup - a name in .kvfs/frames: the number of a lent frame. */
void frames_lookup(struct call *c);

#endif

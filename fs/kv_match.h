/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_KV_MATCH_H
#define KVFS_FS_KV_MATCH_H

/*
 * Who holds these blocks? Many names at once, for a router that looks for the
 * node with the longest prefix of a request.
 *
 * A name goes the way of a path walk, without the kernel: the directories
 * that this node knows must let the caller search them; those that it does
 * not know Redis is asked for, all in one round trip, and they are known from
 * then on; then it is asked for the names, all in one round trip. Below a
 * directory that the caller may not search everything is absent, and nothing
 * is asked.
 *
 *      kv_match_text.c  the question as text    kv_match.c  the answer
 *      ctl_match.c      .kvfs/match: a transaction by open, write and read
 *      ioctl_find.c     EXISTS and MATCH of <kvfs/ioctl.h>
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fs/kv_access.h"
#include "meta/kv.h"

struct fs;

#define KV_EXISTS_MAX 2000u /* names of one round trip */
#define KV_MATCH_NAMES_MAX 65536u
#define KV_MATCH_BYTES_MAX (4u << 20) /* of a question */

struct kv_name {
	const char *text; /* not 0-terminated */
	uint16_t len;
};

/* What is known of one name. No holders: it is not there. */
struct kv_exist {
	bool unsure; /* Redis did not say: the holders are what we know */
	uint8_t n_holders;
	uint32_t holders[1 + META_KV_HOLDERS_MAX]; /* incarnations, live */
};

struct kv_exists {
	struct fs *fs;
	const struct kv_caller *who;
	int64_t deadline;   /* monotonic ns */
	struct kv_name dir; /* "NAMESPACE", "NAMESPACE/dir", "": of kv/ itself;
			       checked */
	const struct kv_name *names; /* below it, checked */
	unsigned n;
	bool local; /* do not ask Redis */
	bool any;   /* one holder is enough: do not ask for what is here */
	bool learn; /* what others hold is in the tree afterwards */
	struct kv_exist *out; /* n of them */
	unsigned n_done;      /* answered: 1 to n, fewer where the names lie in
				 many directories; ask again for the others */
};

/**
 * kv_exists - which nodes hold each of these blocks?
 *
 * At most three round trips: a namespace that is not known here, directories,
 * names. Where Redis does not answer by the deadline, what is here and what
 * was heard of others.
 * Returns: 0, -E2BIG more than KV_EXISTS_MAX names, or -ENOMEM.
 * Threads: a worker's; waits.
 */
int kv_exists(struct kv_exists *e);

struct kv_match_question {
	struct kv_name dir;
	struct kv_name *names;
	unsigned n;
	bool local, any, learn; /* as in struct kv_exists */
	uint8_t *bits; /* one for each name, set if it is there; NULL: the
			  prefix is enough */
};

/** kv_match_is_path - may this be a name below a directory of kv/? */
bool kv_match_is_path(const char *path, size_t n);

/**
 * kv_match_parse - a question as text
 * @text: a line with the directory below kv/, then a line for each name below
 *        it; the last line may lack its end. Kept: the question points into it
 * @bad_line: set with -EINVAL: 1 is the directory's
 *
 * Names are paths: parts of 1 to 255 bytes, none "." or "..", no NUL, and at
 * most POOL_PATH_MAX bytes together with the directory.
 * Returns: 0 (kv_match_fini then), -EINVAL, -E2BIG too many names, -ENOMEM.
 */
int kv_match_parse(const char *text, size_t n, struct kv_match_question *q,
		   unsigned *bad_line);
void kv_match_fini(struct kv_match_question *q);

struct kv_match_node {
	uint32_t incarnation;
	unsigned n_prefix; /* the first so many names are all there */
};

struct kv_match_answer {
	unsigned n_prefix; /* each of them on any node */
	bool complete;	   /* false: Redis did not answer, there may be more */
	unsigned n_nodes;  /* those that hold the first name */
	struct kv_match_node nodes[1 + META_KV_HOLDERS_MAX];
};

/**
 * kv_match - the longest prefix of these names that is there
 *
 * A record lists at most META_KV_HOLDERS_MAX nodes, so of a block that more
 * nodes hold some are not shown. Without q->bits it asks no further than the
 * first name that nobody has.
 * Returns: 0 or -ENOMEM. Threads: a worker's; waits, at most to the deadline.
 */
int kv_match(struct fs *fs, const struct kv_caller *who, int64_t deadline,
	     const struct kv_match_question *q, struct kv_match_answer *a);

#endif

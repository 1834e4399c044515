/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_RECORD_H
#define KVFS_META_RECORD_H

/* What stands in a kv bucket; the layout is in kvfs.lua. Pure functions. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meta/kv.h"

#define RECORD_HEAD_BYTES 45
#define RECORD_DIR_BYTES 13
#define RECORD_HOLDERS_MAX 16

struct record {
	uint64_t generation, size_bytes;
	uint64_t checksum[2];
	uint32_t mode, uid, gid;
	uint32_t n_holders;
	uint32_t holders[RECORD_HOLDERS_MAX];
};

/** record_encode - a record up to its holders, from the local state. */
void record_encode(const struct meta_kv_state *s,
		   uint8_t out[static RECORD_HEAD_BYTES]);

/** record_decode - 0 or -EPROTO; r is set only on success. */
int record_decode(const void *bytes, size_t n, struct record *r);

/** record_dir_encode, record_dir_decode - the attributes of a directory. */
void record_dir_encode(uint32_t mode, uint32_t uid, uint32_t gid,
		       uint8_t out[static RECORD_DIR_BYTES]);
int record_dir_decode(const void *bytes, size_t n, uint32_t *mode,
		      uint32_t *uid, uint32_t *gid);

/* A namespace's record is text, "mode uid gid quota replicas checksum subs
 * hot-reads hot-seconds", so that redis-cli shows it; subs: buckets of a group,
 * for ever. */
#define RECORD_NS_MAX 128
void record_ns_encode(const struct meta_namespace *ns, uint32_t n_sub,
		      char out[static RECORD_NS_MAX]);
int record_ns_decode(const char *text, size_t n, struct meta_namespace *ns,
		     uint32_t *n_sub);

/** record_ns_name_good - can this be a namespace's directory? */
bool record_ns_name_good(const char *name, size_t n);
#define RECORD_NAME_MAX 255

/** record_text_encode - text with what is no visible ASCII, and '%', as %XX;
 *  out takes three bytes a byte and a 0. Returns: out's end. */
char *record_text_encode(char *out, const char *text);
/** record_text_decode - 1 to max bytes and a 0 into out; 0 or -EPROTO. */
int record_text_decode(const char *text, size_t n, char *out, size_t max);

/* In STATE/namespaces a namespace is a line: its name, bytes that are not
 * visible ASCII and '%' as %XX; a blank; the record. */
#define RECORD_NS_LINE_MAX (3 * RECORD_NAME_MAX + 1 + RECORD_NS_MAX)
void record_ns_line_encode(const char *name, const struct meta_namespace *ns,
			   uint32_t n_sub, char out[static RECORD_NS_LINE_MAX]);
/** record_ns_line_decode - 0 or -EPROTO; name, ns, n_sub: see there. */
int record_ns_line_decode(const char *line, size_t n,
			  char name[static RECORD_NAME_MAX + 1],
			  struct meta_namespace *ns, uint32_t *n_sub);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_JSON_H
#define KVFS_TOOLS_JSON_H

/*
 * Thin helpers on jansson. Paths name members by dots: "pool.free_bytes"; what
 * is missing or of another type gives the fallback.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/**
 * json_read - parse a file that the kernel may show with size 0
 * @json: set only on success; release with json_decref
 *
 * Returns: 0, -EBADMSG it is not JSON, or -errno.
 */
int json_read(const char *path, json_t **json);

/** json_read_control - MOUNTPOINT/.kvfs/NAME, as json_read. */
int json_read_control(const char *mountpoint, const char *name, json_t **json);

/** json_at - the member at a path, or NULL (borrowed). */
json_t *json_at(json_t *json, const char *path);

uint64_t json_u64(json_t *json, const char *path, uint64_t fallback);
double json_f64(json_t *json, const char *path, double fallback);
const char *json_text(json_t *json, const char *path, const char *fallback);
bool json_bool(json_t *json, const char *path, bool fallback);

/** json_put_line - one object, compact, and a newline; steals the reference. */
void json_put_line(json_t *json);

/** json_put - indented, and a newline; steals the reference. */
void json_put(json_t *json);

/** json_name - a file name as a JSON string; bytes that are not UTF-8 become
 *  U+FFFD, because JSON has no others. */
json_t *json_name(const char *name);

static inline void json_cleanup_fn(json_t **json)
{
	json_decref(*json);
}
#define cleanup_json __attribute__((cleanup(json_cleanup_fn)))

#endif

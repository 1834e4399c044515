/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CTL_H
#define KVFS_FS_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

struct call;
struct fs;

#define CTL_NAME_BYTES (4 * 255 + 1)

/**
 * ctl_name - a name as UTF-8 text
 *
 * Names are bytes. One that is not UTF-8 is shown with its bytes past 127 as
 * \xNN. Returns name or text.
 */
const char *ctl_name(const char *name, char text[CTL_NAME_BYTES]);

/*
 * The texts behind .kvfs/: made when a file is opened, served from memory.
 * Each returns a 0-terminated text that the caller frees, or NULL. `all`: for
 * root or who runs the daemon; others see no namespaces.
 */
char *ctl_status(struct fs *fs, bool all); /* JSON, ctl_status.c */
char *ctl_nodes(struct fs *fs, bool all);  /* JSON, ctl_nodes.c */
char *ctl_config(struct fs *fs, bool all); /* JSON */
char *ctl_stats(struct fs *fs, bool all);  /* Prometheus text, ctl_stats.c */
/** ctl_path_stats - of that what is of each peer and device: ctl_paths.c */
void ctl_path_stats(struct fs *fs, FILE *f);
/** ctl_print_label - a name as a label's value, escaped */
void ctl_print_label(FILE *f, const char *name);

/** ctl_reply_text - answer a read with what the text has at this offset. */
void ctl_reply_text(struct call *c, const char *text, off_t off);

/* .kvfs/match, ctl_match.c */
void ctl_match_open(struct call *c);
void ctl_match_read(struct call *c);
void ctl_match_write(struct call *c);
void ctl_match_release(struct call *c);

/** ctl_text - the text of an object, which is freed. */
char *ctl_text(json_t *o);

#endif

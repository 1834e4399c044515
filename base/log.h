/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_LOG_H
#define KVFS_BASE_LOG_H

#include <stddef.h>

/*
 * One line per message, "who: what: why", lower case, written by the function
 * that chose the errno. A command writes to stderr; a daemon that went to the
 * background writes to a file in its state directory, with time and level.
 */

enum log_level { LOG_NONE = -1, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/**
 * log_to_file - make a file of stderr: every later line, and what else comes
 * @path: created 0600, appended to; started anew once it passes 4 MiB (the
 *        older half is kept as PATH.old)
 *
 * Returns: 0 or -errno.
 * Threads: call before other threads log.
 */
int log_to_file(const char *path);

/** log_set_level - drop lines above this level (LOG_INFO at start). */
void log_set_level(enum log_level level);

/** log_line - write one line. Threads: any. */
void log_line(enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/** log_last_error - copy the newest LOG_ERROR line, "" if there was none. */
void log_last_error(char *line, size_t line_bytes);

/**
 * log_recent - visit the newest warnings and errors, oldest first
 *
 * At most LOG_RECENT_LINES of them, each with its time. fn must not log.
 */
void log_recent(void (*fn)(void *arg, const char *line), void *arg);
#define LOG_RECENT_LINES 64

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif

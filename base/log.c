// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

#define LOG_FILE_MAX_BYTES (4 << 20)
#define LINE_BYTES 1024

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static enum log_level max_level = LOG_INFO;
static char file[PATH_MAX]; /* that stderr goes to, or "" */
static char last_error[LINE_BYTES];
static char recent[LOG_RECENT_LINES][LINE_BYTES / 4];
static unsigned n_recent; /* ever; the newest is at (n_recent - 1) % LINES */

/* Not a descriptor of its own: what the C library or a sanitizer has to say of
 * a daemon's end stands there, too. */
static int stderr_to(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (fd != STDERR_FILENO) {
		dup2(fd, STDERR_FILENO);
		close(fd);
	}
	return 0;
}

int log_to_file(const char *path)
{
	int err = stderr_to(path);

	if (!err)
		snprintf(file, sizeof(file), "%s", path);
	return err;
}

void log_set_level(enum log_level level)
{
	max_level = level;
}

static void rotate(void)
{
	char old[PATH_MAX + 8];
	struct stat st;

	if (fstat(STDERR_FILENO, &st) || st.st_size < LOG_FILE_MAX_BYTES)
		return;
	snprintf(old, sizeof(old), "%s.old", file);
	if (!rename(file, old))
		stderr_to(file);
}

static int stamp(char *line, size_t size, enum log_level level)
{
	static const char *const names[] = {"error", "warn", "info", "debug"};
	struct timespec now;
	struct tm tm;
	int n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = (int)strftime(line, size, "%Y-%m-%dT%H:%M:%S", &tm);
	n += snprintf(line + n, size - (size_t)n,
		      ".%03ldZ %s: ", now.tv_nsec / 1000000, names[level]);
	return n;
}

/* Remembers a warning or an error: text is the line without its prefix. */
static void remember(enum log_level level, const char *text)
{
	char *slot;
	int n;

	if (level > LOG_WARN)
		return;
	if (level == LOG_ERROR)
		snprintf(last_error, sizeof(last_error), "%s", text);
	slot = recent[n_recent++ % LOG_RECENT_LINES];
	n = stamp(slot, sizeof(recent[0]), level);
	snprintf(slot + n, sizeof(recent[0]) - (size_t)n, "%s", text);
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char text[LINE_BYTES], line[LINE_BYTES + 64];
	va_list ap;
	int n;

	if (level > max_level)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	scoped_lock(&lock);
	remember(level, text);
	n = *file ? stamp(line, sizeof(line), level)
		  : snprintf(line, sizeof(line), "kvfs: ");
	n += snprintf(line + n, sizeof(line) - (size_t)n, "%s\n", text);
	if (*file)
		rotate();
	if (write(STDERR_FILENO, line, (size_t)n) < 0) {
		/* nowhere left to say so */
	}
}

void log_last_error(char *line, size_t line_bytes)
{
	scoped_lock(&lock);

	snprintf(line, line_bytes, "%s", last_error);
}

void log_recent(void (*fn)(void *arg, const char *line), void *arg)
{
	scoped_lock(&lock);
	unsigned i =
		n_recent > LOG_RECENT_LINES ? n_recent - LOG_RECENT_LINES : 0;

	for (; i < n_recent; i++)
		fn(arg, recent[i % LOG_RECENT_LINES]);
}

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

#define LOG_FILE_MAX_BYTES (4 << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static enum log_level max_level = LOG_INFO;
static int fd = -1; /* guarded by lock; -1: stderr */
static char file[PATH_MAX];

int log_to_file(const char *path)
{
	int new_fd =
		open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (new_fd < 0)
		return -errno;
	pthread_mutex_lock(&lock);
	if (fd >= 0)
		close(fd);
	fd = new_fd;
	snprintf(file, sizeof(file), "%s", path);
	pthread_mutex_unlock(&lock);
	return 0;
}

void log_set_level(enum log_level level)
{
	max_level = level;
}

static void rotate(void)
{
	char old[PATH_MAX + 8];
	struct stat st;
	int new_fd;

	if (fstat(fd, &st) || st.st_size < LOG_FILE_MAX_BYTES)
		return;
	snprintf(old, sizeof(old), "%s.old", file);
	if (rename(file, old))
		return;
	new_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (new_fd < 0)
		return;
	close(fd);
	fd = new_fd;
}

static int stamp(char *line, size_t size, enum log_level level)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };
	struct timespec now;
	struct tm tm;
	int n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = (int)strftime(line, size, "%Y-%m-%dT%H:%M:%S", &tm);
	n += snprintf(line + n, size - (size_t)n, ".%03ldZ %s: ",
		      now.tv_nsec / 1000000, names[level]);
	return n;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char line[2048];
	va_list ap;
	int n, out;

	if (level > max_level)
		return;
	pthread_mutex_lock(&lock);
	n = fd >= 0 ? stamp(line, sizeof(line), level)
		    : snprintf(line, sizeof(line), "kvfs: ");
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (fd >= 0)
		rotate();
	out = fd >= 0 ? fd : STDERR_FILENO;
	if (write(out, line, (size_t)n) < 0) {
		/* nowhere left to say so */
	}
	pthread_mutex_unlock(&lock);
}

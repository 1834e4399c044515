// SPDX-License-Identifier: MIT
#include "base/move.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

int move_bytes(void *to, const void *from, size_t n)
{
	struct iovec source = {(void *)from, n}, target = {to, n};
	ssize_t done = process_vm_writev(getpid(), &source, 1, &target, 1, 0);

	if (done < 0 && (errno == EPERM || errno == ENOSYS)) {
		memcpy(to, from, n); /* a sandbox without this call */
		return 0;
	}
	return done == (ssize_t)n ? 0 : -EFAULT;
}

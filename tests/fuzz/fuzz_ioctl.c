// SPDX-License-Identifier: MIT
/* What anybody may give to ioctl(2): the number, the head, the names:
 * fs/ioctl.c, fs/ioctl_names.c. */
#include "tests/fuzz/fuzz.h"

#include <errno.h>

#include "engine/pool.h"
#include "fs/ioctl.h"

const unsigned fuzz_runs = 200000;

static void check_names(const char *request, size_t size)
{
	struct kvfs_ioc_find in;
	const char *packed = request + sizeof(in);
	struct ioctl_names names;
	struct kv_name name;
	uint32_t n = 0;

	if (size < sizeof(in))
		return;
	memcpy(&in, request, sizeof(in));
	if (ioctl_names_init(&names, &in.names, packed, size - sizeof(in)))
		return;
	for (; ioctl_names_next(&names, &name); n++) {
		fuzz_must(name.len && name.len <= POOL_PATH_MAX);
		fuzz_must(kv_match_is_path(name.text, name.len));
		if (in.names.digest_bytes)
			fuzz_must(name.text == names.name);
		else
			fuzz_must(name.text >= packed &&
				  name.text + name.len < request + size);
	}
	fuzz_must(n == in.names.n && n <= KVFS_IOC_NAMES_MAX);
	fuzz_must(names.at == request + size);
}

/* The number, then what the kernel copied. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct fuzz_input in = {data, data + n};
	unsigned cmd = fuzz_take_u32(&in);
	const struct ioctl_command *ic = ioctl_find(cmd);
	size_t room = _IOC_SIZE(cmd), size;
	char *request;

	if (!ic)
		return 0;
	fuzz_must(_IOC_TYPE(cmd) == KVFS_IOC_TYPE);
	fuzz_must(room >= _IOC_SIZE(ic->cmd));
	request = malloc(room); /* exact: ASan sees a byte too many */
	if (!request)
		return 0;
	fuzz_take(&in, request, room);
	if (!ioctl_check(ic, request, room, &size)) {
		fuzz_must(size >= ic->in && size <= room);
		check_names(request, size);
	}
	free(request);
	return 0;
}

static void seed(unsigned cmd, struct kvfs_ioc_names names, const char *packed,
		 size_t n)
{
	struct kvfs_ioc_find find = {.head = ioctl_head(sizeof(find) + n),
				     .names = names};
	char bytes[1024], *at;

	at = mempcpy(bytes, &cmd, sizeof(cmd));
	at = mempcpy(at, &find, sizeof(find));
	at = mempcpy(at, packed, n);
	fuzz_seed(bytes, (size_t)(at - bytes));
}

void fuzz_seeds(void)
{
	static const char texts[] = "a\0"
				    "0a/1b.bin";
	static const char digests[] = ".bin0123456789abcdef0123456789abcdef";
	struct kvfs_ioc_version v = {.head = ioctl_head(sizeof(v))};
	char bytes[4 + sizeof(v)];

	memcpy(bytes, &(uint32_t){KVFS_IOC_VERSION}, 4);
	memcpy(bytes + 4, &v, sizeof(v));
	fuzz_seed(bytes, sizeof(bytes));
	seed(KVFS_IOC_EXISTS(256), (struct kvfs_ioc_names){.n = 2}, texts,
	     sizeof(texts));
	seed(KVFS_IOC_MATCH(16383),
	     (struct kvfs_ioc_names){
		     .n = 2, .digest_bytes = 16, .suffix_bytes = 4},
	     digests, sizeof(digests) - 1);
	seed(KVFS_IOC_EXISTS(64), (struct kvfs_ioc_names){.n = 0}, "", 0);
	seed(KVFS_IOC_EXISTS(64), (struct kvfs_ioc_names){.n = 1}, "..", 3);
}

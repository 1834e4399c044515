// SPDX-License-Identifier: MIT
/* What anybody may give to ioctl(2): the number, the head, the names:
 * fs/ioctl.c, fs/ioctl_names.c. */
#include "tests/fuzz/fuzz.h"

#include <errno.h>

#include "engine/pool.h"
#include "fs/ioctl.h"

const unsigned fuzz_runs = 200000;

static void check_hex(const char *text, const char *digest, size_t bytes)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < bytes; i++) {
		uint8_t byte = (uint8_t)digest[i];

		fuzz_must(text[2 * i] == digits[byte >> 4]);
		fuzz_must(text[2 * i + 1] == digits[byte & 15]);
	}
}

/* Many at a time they are the same names. */
static void check_some(struct ioctl_names one, struct ioctl_names many)
{
	static struct ioctl_some some;
	struct kv_name name;
	unsigned n;

	while ((n = ioctl_names_some(&many, &some)))
		for (unsigned i = 0; i < n; i++) {
			fuzz_must(ioctl_names_next(&one, &name));
			fuzz_must(name.len == some.names[i].len);
			fuzz_must(!memcmp(name.text, some.names[i].text,
					  name.len));
		}
	fuzz_must(!ioctl_names_next(&one, &name));
}

static void check_names(const struct kvfs_ioc_names *in, const char *packed,
			size_t left)
{
	const char *end = packed + left;
	struct ioctl_names names;
	struct kv_name name;
	uint32_t n = 0;

	if (ioctl_names_init(&names, in, packed, left))
		return;
	check_some(names, names);
	for (; ioctl_names_next(&names, &name); n++) {
		fuzz_must(name.len && name.len <= POOL_PATH_MAX);
		fuzz_must(kv_match_is_path(name.text, name.len));
		if (in->digest_bytes) {
			fuzz_must(name.text == names.name);
			check_hex(name.text, names.at - names.digest_bytes,
				  names.digest_bytes);
		} else {
			fuzz_must(name.text >= packed &&
				  name.text + name.len < end);
		}
	}
	fuzz_must(n == in->n && n <= KVFS_IOC_NAMES_MAX);
	fuzz_must(names.at == end);
}

static void check_find(const char *request, size_t size)
{
	struct kvfs_ioc_find in;

	if (size < sizeof(in))
		return;
	memcpy(&in, request, sizeof(in));
	check_names(&in.names, request + sizeof(in), size - sizeof(in));
}

/* The pins that it gives back lie in the request, the names behind them. */
static void check_locate(const char *request, size_t size)
{
	struct kvfs_ioc_locate in;
	const char *at = request + sizeof(in);
	size_t left = size - sizeof(in);
	const struct kvfs_ioc_pin *pins;

	memcpy(&in, request, sizeof(in));
	pins = ioctl_pins_take(&at, &left, in.n_unpin);
	if (!pins) {
		fuzz_must(left < in.n_unpin * sizeof(*pins));
		return;
	}
	fuzz_must((const char *)pins == request + sizeof(in));
	fuzz_must(at == (const char *)(pins + in.n_unpin));
	fuzz_must(at + left == request + size);
	check_names(&in.names, at, left);
}

/* What may be moved lies in the request, and then in the buffer. */
static void check_moves(const struct kvfs_ioc_names *in, uint32_t n,
			const char *at, size_t left)
{
	const struct kvfs_ioc_move *moves;
	struct ioctl_names names;
	struct kvfs_ioc_move move;

	if (ioctl_moves_init(&names, in, n, at, left, &moves))
		return;
	fuzz_must((const char *)moves == at && n * sizeof(move) <= left);
	for (uint32_t i = 0; i < n; i++) {
		memcpy(&move, &moves[i], sizeof(move));
		if (ioctl_move_fits(&move, 4096))
			fuzz_must(move.at + move.length <= 4096 &&
				  move.length <= 4096);
	}
}

static void check_get(const char *request, size_t size)
{
	struct kvfs_ioc_get in;

	memcpy(&in, request, sizeof(in));
	check_moves(&in.names, in.names.n, request + sizeof(in),
		    size - sizeof(in));
}

static void check_put(const char *request, size_t size)
{
	struct kvfs_ioc_commit in;

	memcpy(&in, request, sizeof(in));
	check_moves(&in.names, in.n, request + sizeof(in), size - sizeof(in));
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
		if (_IOC_NR(cmd) == _IOC_NR(KVFS_IOC_GET(0)))
			check_get(request, size);
		else if (_IOC_NR(cmd) == _IOC_NR(KVFS_IOC_PUT(0)))
			check_put(request, size);
		else if (_IOC_NR(cmd) == _IOC_NR(KVFS_IOC_LOCATE(0)))
			check_locate(request, size);
		else
			check_find(request, size);
	}
	free(request);
	return 0;
}

static void seed(unsigned cmd, struct kvfs_ioc_names names, const char *packed,
		 size_t n)
{
	struct kvfs_ioc_find find = {.head = ioctl_head(sizeof(find) + n),
				     .names = names};
	char bytes[2048], *at;

	at = mempcpy(bytes, &cmd, sizeof(cmd));
	at = mempcpy(at, &find, sizeof(find));
	at = mempcpy(at, packed, n);
	fuzz_seed(bytes, (size_t)(at - bytes));
}

static void seed_locate(uint32_t n_unpin)
{
	struct kvfs_ioc_pin pins[] = {{1, 2}, {3, 4}};
	struct kvfs_ioc_locate locate = {
		.head = ioctl_head(sizeof(locate) + sizeof(pins) + 4),
		.flags = KVFS_IOC_FETCH,
		.n_unpin = n_unpin,
		.names = {.n = 2},
	};
	unsigned cmd = KVFS_IOC_LOCATE(256);
	char bytes[256], *at;

	at = mempcpy(bytes, &cmd, sizeof(cmd));
	at = mempcpy(at, &locate, sizeof(locate));
	at = mempcpy(at, pins, sizeof(pins));
	at = mempcpy(at, "a\0b", 4);
	fuzz_seed(bytes, (size_t)(at - bytes));
}

static void seed_get(void)
{
	struct kvfs_ioc_move moves[] = {{.length = 4096},
					{.offset = 9, .length = 1, .at = 4095}};
	struct kvfs_ioc_get get = {
		.head = ioctl_head(sizeof(get) + sizeof(moves) + 4),
		.names = {.n = 2},
	};
	unsigned cmd = KVFS_IOC_GET(256);
	char bytes[256], *at;

	at = mempcpy(bytes, &cmd, sizeof(cmd));
	at = mempcpy(at, &get, sizeof(get));
	at = mempcpy(at, moves, sizeof(moves));
	at = mempcpy(at, "a\0b", 4);
	fuzz_seed(bytes, (size_t)(at - bytes));
}

static void seed_put(void)
{
	struct kvfs_ioc_move moves[] = {{.length = 4096}, {.length = 4097}};
	struct kvfs_ioc_commit put = {
		.head = ioctl_head(sizeof(put) + sizeof(moves) + 6),
		.flags = KVFS_IOC_PARENT,
		.n = 2,
		.names = {.n = 3},
	};
	unsigned cmd = KVFS_IOC_PUT(256);
	char bytes[256], *at;

	at = mempcpy(bytes, &cmd, sizeof(cmd));
	at = mempcpy(at, &put, sizeof(put));
	at = mempcpy(at, moves, sizeof(moves));
	at = mempcpy(at, "a\0b\0c", 6);
	fuzz_seed(bytes, (size_t)(at - bytes));
}

void fuzz_seeds(void)
{
	static const char texts[] = "a\0"
				    "0a/1b.bin";
	static const char digests[] = ".bin0123456789abcdef0123456789abcdef";
	static char many[70 * 20]; /* more than are looked up at once */
	struct kvfs_ioc_version v = {.head = ioctl_head(sizeof(v))};
	char bytes[4 + sizeof(v)];

	memcpy(bytes, &(uint32_t){KVFS_IOC_VERSION}, 4);
	memcpy(bytes + 4, &v, sizeof(v));
	fuzz_seed(bytes, sizeof(bytes));
	seed(KVFS_IOC_PREFETCH(256), (struct kvfs_ioc_names){.n = 2}, texts,
	     sizeof(texts));
	seed(KVFS_IOC_EXISTS(256), (struct kvfs_ioc_names){.n = 2}, texts,
	     sizeof(texts));
	seed(KVFS_IOC_MATCH(16383),
	     (struct kvfs_ioc_names){
		     .n = 2, .digest_bytes = 16, .suffix_bytes = 4},
	     digests, sizeof(digests) - 1);
	for (size_t i = 0; i < sizeof(many); i++)
		many[i] = (char)(i * 37);
	seed(KVFS_IOC_EXISTS(2000),
	     (struct kvfs_ioc_names){.n = 70, .digest_bytes = 20}, many,
	     sizeof(many));
	seed_locate(2);
	seed_locate(UINT32_MAX);
	seed_get();
	seed_put();
	seed(KVFS_IOC_EXISTS(64), (struct kvfs_ioc_names){.n = 0}, "", 0);
	seed(KVFS_IOC_EXISTS(64), (struct kvfs_ioc_names){.n = 1}, "..", 3);
}

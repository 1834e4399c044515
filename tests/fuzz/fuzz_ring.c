// SPDX-License-Identifier: MIT
/* What a client may write into the memory of its ring: fs/ring_queue.c. */
#include "tests/fuzz/fuzz.h"

#include <errno.h>

#include "fs/ioctl.h"
#include "fs/ring_queue.h"

#define ENTRIES 4u
#define DATA 256u

const unsigned fuzz_runs = 200000;

/* Both of exactly the right size: ASan sees a byte too many. */
static void take_all(struct ring_queue *q)
{
	struct kvfs_ring_submission s;
	const struct ioctl_command *ic;
	char *to, *answer;
	size_t size;

	for (uint32_t n = 0; ring_queue_peek(q, &s) == 1; n++) {
		fuzz_must(n < q->entries);
		to = malloc(s.bytes < DATA ? s.bytes + 1 : DATA);
		answer = calloc(1, s.room < DATA ? s.room + 1 : DATA);
		if (!ring_queue_take(q, &s, to)) {
			fuzz_must(s.bytes <= DATA && s.room <= DATA);
			fuzz_must(s.at <= DATA - s.bytes &&
				  s.at <= DATA - s.room);
			ic = ioctl_find_ring(s.command);
			if (ic && !ioctl_check(ic, to, s.bytes, &size))
				fuzz_must(size >= ic->in && size <= s.bytes);
			ring_queue_answer(q, s.at, answer, s.room);
		}
		ring_queue_complete(q, s.user_data, 0);
		free(answer);
		free(to);
	}
}

/* All of the memory, anew before each of a few looks. */
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t n)
{
	struct fuzz_input in = {input, input + n};
	size_t bytes = (size_t)ring_queue_bytes(ENTRIES, DATA);
	char *map = malloc(bytes);
	struct ring_queue q;

	if (!map)
		return 0;
	memset(map, 0, bytes);
	ring_queue_init(&q, map, ENTRIES, DATA);
	for (int i = 0; i < 3; i++) {
		uint32_t head = q.sq_head;

		fuzz_take(&in, &q.shared->sq_tail.value, 4);
		fuzz_take(&in, &q.shared->cq_head.value, 4);
		fuzz_take(&in, &q.shared->client.value, 4);
		fuzz_take(&in, q.sq, ENTRIES * sizeof(*q.sq));
		fuzz_take(&in, q.data, DATA);
		take_all(&q);
		fuzz_must(q.sq_head - head <= ENTRIES);
	}
	free(map);
	return 0;
}

void fuzz_seeds(void)
{
	struct kvfs_ioc_find find = {.head = ioctl_head(sizeof(find) + 2),
				     .names = {.n = 1}};
	struct kvfs_ring_submission sq[ENTRIES] = {{
		.command = _IOC_NR(KVFS_IOC_EXISTS(0)),
		.at = 8,
		.bytes = sizeof(find) + 2,
		.room = 100,
	}};
	char bytes[12 + sizeof(sq) + DATA] = {1};

	memcpy(bytes + 12, sq, sizeof(sq));
	memcpy(bytes + 12 + sizeof(sq) + 8, &find, sizeof(find));
	bytes[12 + sizeof(sq) + 8 + sizeof(find)] = 'a';
	fuzz_seed(bytes, sizeof(bytes));
	bytes[0] = ENTRIES + 1;
	fuzz_seed(bytes, sizeof(bytes));
}

// SPDX-License-Identifier: MIT
/* xxh128: XXH3-128 of stdin, as xxhsum -H2 prints it. */
#include <stdio.h>
#include <unistd.h>
#include <xxhash.h>

static char buf[1 << 20];

int main(void)
{
	XXH3_state_t *state = XXH3_createState();
	XXH128_canonical_t sum;
	ssize_t n;

	if (!state || XXH3_128bits_reset(state) == XXH_ERROR)
		return 1;
	while ((n = read(0, buf, sizeof(buf))) > 0)
		XXH3_128bits_update(state, buf, (size_t)n);
	if (n < 0) {
		perror("xxh128");
		return 1;
	}
	XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(state));
	for (size_t i = 0; i < sizeof(sum.digest); i++)
		printf("%02x", sum.digest[i]);
	putchar('\n');
	XXH3_freeState(state);
	return 0;
}

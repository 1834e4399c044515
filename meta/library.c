// SPDX-License-Identifier: MIT
#include "meta/library.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* The files themselves, as they lie in the source tree. */
#define EMBED(symbol, path)                         \
	__asm__(".pushsection .rodata\n"            \
		".global " symbol "\n" symbol ":\n" \
		".incbin \"" path "\"\n"            \
		".byte 0\n"                         \
		".popsection\n")

EMBED("library_kvfs_lua", "meta/kvfs.lua");
EMBED("library_ckpt_lua", "meta/ckpt.lua");
EMBED("library_ckpt_keep_lua", "meta/ckpt_keep.lua");
extern const char library_kvfs_lua[], library_ckpt_lua[],
	library_ckpt_keep_lua[];

static char library[2 * 65536];
static char library_hash[17];

static void library_make(void)
{
	uint64_t h = XXH3_64bits(library_kvfs_lua, strlen(library_kvfs_lua));
	int n;

	h = XXH3_64bits_withSeed(library_ckpt_lua, strlen(library_ckpt_lua), h);
	h = XXH3_64bits_withSeed(library_ckpt_keep_lua,
				 strlen(library_ckpt_keep_lua), h);
	snprintf(library_hash, sizeof(library_hash), "%016" PRIx64, h);
	n = snprintf(library, sizeof(library),
		     "#!lua name=" META_LIBRARY
		     "\ndo\n%s\nend\ndo\n%s\n%s\nend\n"
		     "redis.register_function('" LIBRARY_BUILD_FN "',"
		     "function() return '%s' end)\n",
		     library_kvfs_lua, library_ckpt_lua, library_ckpt_keep_lua,
		     library_hash);
	if (n < 0 || (size_t)n >= sizeof(library))
		library[0] = '\0';
}

const char *library_text(const char **build)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, library_make);
	*build = library_hash;
	return library[0] ? library : NULL;
}

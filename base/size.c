// SPDX-License-Identifier: MIT
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char units[] = "KMGTP";

int size_parse(const char *text, uint64_t *bytes)
{
	const char *unit;
	char *end;
	double n;
	int shift = 0;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		return -EINVAL;
	n = strtod(text, &end);
	unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	if (unit) {
		shift = 10 * (int)(unit - units + 1);
		end++;
		if (*end == 'i')
			end++;
	}
	if (*end == 'B')
		end++;
	if (*end)
		return -EINVAL;
	n = ldexp(n, shift);
	if (!(n < 9.2e18))
		return -ERANGE;
	*bytes = (uint64_t)n;
	return 0;
}

const char *size_format(uint64_t bytes, char *buf, size_t buf_bytes)
{
	double n = (double)bytes;
	int unit = -1;

	while (n >= 1024 && units[unit + 1]) {
		n /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(buf, buf_bytes, "%u B", (unsigned)bytes);
	else
		snprintf(buf, buf_bytes, "%.*f %ciB", n < 10 ? 2 : 1, n,
			 units[unit]);
	return buf;
}

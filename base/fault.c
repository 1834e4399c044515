// SPDX-License-Identifier: MIT
#include "base/fault.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define FAULTS_MAX 8

struct fault {
	char point[32];
	long nth;
	bool onward;
	_Atomic long calls;
};

bool fault_armed;
fault_hook_fn *_Atomic fault_hook;
static struct fault faults[FAULTS_MAX];
static int n_faults;

void fault_init(void)
{
	const char *text = getenv("KVFS_FAULT");
	int used = 0;

	while (text && *text && n_faults < FAULTS_MAX) {
		struct fault *f = &faults[n_faults];
		char plus = 0;

		if (sscanf(text, "%31[^:]:%ld%n%c", f->point, &f->nth, &used,
			   &plus) < 2)
			break;
		f->onward = plus == '+';
		n_faults++;
		text = strchr(text, ',');
		if (text)
			text++;
	}
	fault_armed = n_faults > 0;
	if (fault_armed)
		log_warn(
			"fault: KVFS_FAULT is set: calls will fail on purpose");
}

bool fault_count(const char *point)
{
	for (int i = 0; i < n_faults; i++) {
		struct fault *f = &faults[i];
		long call;

		if (strcmp(f->point, point))
			continue;
		call = atomic_fetch_add(&f->calls, 1) + 1;
		if (call == f->nth || (f->onward && call > f->nth))
			return true;
	}
	return false;
}

// SPDX-License-Identifier: MIT
/* Values of sysfs: where a device is on the PCI bus, GIDs, rates. */
#include "tests/fuzz/fuzz.h"

#include "engine/sysfs.h"

const unsigned fuzz_runs = 100000;

/* What was understood is understood the same when it is written again. */
static void path_check(const char *text)
{
	struct pci_path path, again;
	char joined[PCI_DEPTH_MAX * (PCI_NAME_BYTES + 1)] = "";

	pci_path_parse(text, &path);
	fuzz_must(path.n <= PCI_DEPTH_MAX);
	for (unsigned i = 0; i < path.n; i++) {
		fuzz_must(strlen(path.part[i]) < PCI_NAME_BYTES);
		fuzz_must(!strchr(path.part[i], '/') && *path.part[i] != '.');
		strcat(strcat(joined, "/"), path.part[i]);
	}
	pci_path_parse(joined, &again);
	fuzz_must(again.n == path.n);
	fuzz_must(pci_path_common(&path, &again) == path.n);
	fuzz_must(!strchr(pci_path_name(&path), '/'));
}

static void gid_check(const char *text)
{
	uint8_t gid[GID_BYTES];
	char again[GID_BYTES / 2 * 5 + 1] = "";

	if (!gid_parse(text, gid))
		return;
	for (int i = 0; i < GID_BYTES; i += 2)
		sprintf(again + strlen(again), "%s%02x%02x", i ? ":" : "",
			gid[i], gid[i + 1]);
	fuzz_must(!strcmp(text, again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = strndup((const char *)data, n);

	if (!text)
		return 0;
	path_check(text);
	gid_check(text);
	fuzz_must(rate_parse(text) <= 100u * 1000 * 1000);
	free(text);
	return 0;
}

static void seed_text(const char *text)
{
	fuzz_seed(text, strlen(text));
}

void fuzz_seeds(void)
{
	seed_text("/sys/devices/pci0000:17/0000:17:01.0/0000:18:00.0/"
		  "0000:19:00.0/0000:1a:00.0");
	seed_text("/sys/devices/pci10000:00/10000:00:03.0/virtio0");
	seed_text("fe80:0000:0000:0000:0a00:00ff:fe00:0001");
	seed_text("0000:0000:0000:0000:0000:ffff:0a09:0001");
	seed_text("100 Gb/sec (4X EDR)");
	seed_text("2.5 Gb/sec (1X SDR)");
}

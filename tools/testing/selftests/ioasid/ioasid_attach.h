/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Use the IOASID test device to attach thousands of IOASIDs to an engine, far
 * more than it has channels. Functions return 0 or a descriptor, or -errno.
 */
#ifndef __SELFTEST_IOASID_ATTACH_H
#define __SELFTEST_IOASID_ATTACH_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/types.h>

#include "../../../../drivers/iommu/ioasid_selftest.h"

#define ATTACH_FILE "/sys/kernel/debug/ioasid_selftest/attach"

/* The last close detaches all IOASIDs and drops the references */
static inline int attach_open(void)
{
	int fd = open(ATTACH_FILE, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* @per_domain: number of IOASIDs that share a domain, 0 for all */
static inline int attach_ids(int attach, const char *device, int owner,
			     __u32 count, const __u32 *ids, __u32 per_domain)
{
	struct ioasid_test_attach cmd = {
		.fd = owner, .count = count, .per_domain = per_domain,
		.ids = (uintptr_t)ids,
	};

	if (strlen(device) >= sizeof(cmd.device))
		return -ENODEV;
	strcpy(cmd.device, device);
	return ioctl(attach, IOASID_TEST_ATTACH, &cmd) ? -errno : 0;
}

#endif

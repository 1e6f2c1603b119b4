/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the benchmark of IOASIDs and its programs in user space share
 *
 * Files in the folder ioasid_bench of debugfs:
 *
 *   calls     read: instructions or nanoseconds per call, see ioasid_bench.c
 *   parallel  read: the same on one and on two processors at once
 *   now       read: nanoseconds that the processor was not idle
 *   recycled  the same, after a wait for the worker that recycles
 *   settled   the same, after a wait for that and for RCU callbacks
 *   attach    ioctl: attaches IOASIDs to devices by the thousands, which takes
 *             more devices or channels than there are. The file holds the
 *             references; the last close detaches and drops them.
 *   plain     write: the name of a PCI function whose IOMMU is from now on that
 *             of a driver without hooks for park, or "none"
 */
#ifndef _IOASID_BENCH_H
#define _IOASID_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct ioasid_bench_attach - for IOASID_BENCH_ATTACH
 * @device: name of a PCI function, such as 0000:00:04.0; must stay until the
 *	    last close
 * @fd: of /dev/ioasid
 * @count: how many
 * @per_domain: how many of them share a domain, 0: all
 * @__reserved: 0
 * @ids: user array of __u32[@count]
 */
struct ioasid_bench_attach {
	char device[32];
	__s32 fd;
	__u32 count;
	__u32 per_domain;
	__u32 __reserved;
	__aligned_u64 ids;
};

#define IOASID_BENCH_ATTACH	_IO('B', 0)
/* Detaches all, keeps the references */
#define IOASID_BENCH_DETACH	_IO('B', 1)
/* Drops the references, too */
#define IOASID_BENCH_PUT	_IO('B', 2)
/*
 * Blocks all of them one by one, as the driver does it without park: behind the
 * back of the IOMMU core, with nothing around it
 */
#define IOASID_BENCH_TEARDOWN	_IO('B', 3)

#ifdef __KERNEL__
struct device;

void intel_pasid_bench_teardown(struct device *dev, u32 pasid);
#endif

#endif

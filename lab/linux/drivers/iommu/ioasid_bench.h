/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Interface of the benchmark of IOASIDs
 *
 * Files in the folder ioasid_bench of debugfs:
 *
 *   calls     read: instructions or nanoseconds per call, see ioasid_bench.c
 *   parallel  read: the same on one CPU, and on two CPUs at once
 *   now       read: nanoseconds that the CPU was not idle
 *   recycled  read: the same, after a wait for the recycle worker
 *   settled   read: the same, after a wait for RCU callbacks and that worker
 *   teardown  ioctl: block PASIDs one at a time, without park
 */
#ifndef _IOASID_BENCH_H
#define _IOASID_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct ioasid_bench_teardown - ioctl(IOASID_BENCH_TEARDOWN)
 * @device: name of a PCI function behind a VT-d IOMMU
 * @count: number of elements of @ids
 * @__reserved: must be 0
 * @ids: user array of __u32[@count], attached to @device by the test device
 *
 * Calls intel_pasid_tear_down_entry() for each: what VT-d does to block a PASID
 * that is detached. The IOMMU core, which would add its own cost, does not know.
 */
struct ioasid_bench_teardown {
	char device[32];
	__u32 count;
	__u32 __reserved;
	__aligned_u64 ids;
};

#define IOASID_BENCH_TEARDOWN	_IO('B', 0)

#endif

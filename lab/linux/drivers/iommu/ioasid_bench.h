/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Interface of the IOASID benchmark
 *
 * Files in the debugfs directory ioasid_bench:
 *
 *   calls     read: instructions or nanoseconds per call, see ioasid_bench.c
 *   parallel  read: the same on one CPU, and on two CPUs at once
 *   now       read: nanoseconds that the CPU was not idle
 *   recycled  read: the same, after waiting for the recycle worker
 *   settled   read: the same, after waiting for RCU callbacks and the worker
 *   teardown  ioctl: block PASIDs one at a time, as without park
 *   ahead     write 1: count what is ahead of the writer's submissions in an
 *	       invalidation queue, until 0 is written. Read: the counts.
 *   contention
 *	       write 1: count contended acquisitions of locks by caller, until 0
 *	       is written. Read: return addresses and counts; address 1 for
 *	       callers that are not known, 0 for those there was no room for.
 *	       A mutex can be counted more than once while it is waited for. The
 *	       first CPU that waits for a spinlock is not counted.
 *   global    read: hold a mutex of this file for 100 us, then a spinlock
 */
#ifndef _IOASID_BENCH_H
#define _IOASID_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct ioasid_bench_teardown - ioctl(IOASID_BENCH_TEARDOWN)
 * @device: name of a PCI function behind a VT-d IOMMU
 * @count: number of elements of @ids; 0 only finds @device
 * @per_wait: 0, or only invalidate the PASID cache, with this many descriptors
 *	      for each wait, at most 128
 * @ids: user array of __u32[@count], attached to @device by the test device
 *
 * Tears down each entry directly in the VT-d driver, like a detach does, but
 * bypasses the IOMMU core, which would add its own cost.
 */
struct ioasid_bench_teardown {
	char device[32];
	__u32 count;
	__u32 per_wait;
	__aligned_u64 ids;
};

#define IOASID_BENCH_TEARDOWN	_IO('B', 0)

#endif

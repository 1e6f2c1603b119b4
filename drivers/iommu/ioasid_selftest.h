/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Interface of the IOASID test device, for selftests only. Not a stable ABI.
 *
 * Files in the debugfs directory ioasid_selftest:
 *
 *   attach   ioctl: attach thousands of IOASIDs to a device, more than any
 *	      driver of the device would use. The file holds a reference to
 *	      each; the last close detaches and puts them.
 *   no_park  write: name of a PCI function. Hides the park operations of its
 *	      IOMMU's driver from the IOMMU core, until "none" is written.
 */
#ifndef _IOASID_SELFTEST_H
#define _IOASID_SELFTEST_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct ioasid_test_attach - ioctl(IOASID_TEST_ATTACH)
 * @device: name of a PCI function, such as 0000:00:04.0. It must not be removed
 *	    before the last close.
 * @fd: /dev/ioasid file that owns the IOASIDs
 * @count: number of elements of @ids
 * @per_domain: number of IOASIDs that share a domain, 0 for all
 * @__reserved: must be 0
 * @ids: user array of __u32[@count]
 *
 * On error, nothing is attached.
 */
struct ioasid_test_attach {
	char device[32];
	__s32 fd;
	__u32 count;
	__u32 per_domain;
	__u32 __reserved;
	__aligned_u64 ids;
};

#define IOASID_TEST_ATTACH	_IO('T', 0)
/* Detach all IOASIDs of the file, but keep the references */
#define IOASID_TEST_DETACH	_IO('T', 1)
/* Detach all IOASIDs of the file and put the references */
#define IOASID_TEST_PUT		_IO('T', 2)

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A whole PASID DMA engine that belongs to vfio-pci, and PASIDs of it
 *
 * Functions that can fail return 0 or a descriptor, or -errno.
 */
#ifndef __SELFTEST_VFIO_PCI_UTILS_H
#define __SELFTEST_VFIO_PCI_UTILS_H

#include "ioasid_watch.h"
#include "pdma_utils.h"

/* PCI configuration space */
#define COMMAND 4
#define COMMAND_MASTER 4

/* The ABI for PASIDs, which kernels do not have that skip all of this */
#define ATTACH_PASID 1
#define HWPT_ALLOC_PASID 8

struct attach_pasid {
	__u32 argsz;
	__u32 flags;
	__u32 pt_id;
	__u32 pasid;
};

struct detach_pasid {
	__u32 argsz;
	__u32 flags;
	__u32 pasid;
};

/* The engine */

static inline int open_cdev(const char *name)
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	struct dirent *entry;
	int fd = -ENODEV;
	DIR *dir;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/vfio-dev", name);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (fd == -ENODEV && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, "vfio", 4))
			continue;
		snprintf(path, sizeof(path), "/dev/vfio/devices/%s",
			 entry->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
	}
	closedir(dir);
	return fd;
}

static inline int map_engine(struct pdma_bar *bar, int device)
{
	struct vfio_region_info info;
	void *regs;
	__u16 cmd;
	int rc;

	rc = pdma_region(device, VFIO_PCI_CONFIG_REGION_INDEX, &info);
	if (rc)
		return rc;
	if (pread(device, &cmd, 2, info.offset + COMMAND) != 2)
		return -EIO;
	cmd |= COMMAND_MASTER;
	if (pwrite(device, &cmd, 2, info.offset + COMMAND) != 2)
		return -EIO;

	rc = pdma_region(device, VFIO_PCI_BAR0_REGION_INDEX, &info);
	if (rc)
		return rc;
	regs = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device,
		    info.offset);
	if (regs == MAP_FAILED)
		return -errno;
	bar->regs = regs;
	bar->len = info.size;
	return 0;
}

/* PASIDs */

static inline int attach(struct pdma_dev *dev, __u32 pasid, __u32 hwpt)
{
	struct attach_pasid cmd = {
		.argsz = sizeof(cmd), .flags = ATTACH_PASID,
		.pt_id = hwpt, .pasid = pasid,
	};

	return ioctl(dev->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd) ?
		       -errno : 0;
}

static inline int detach(struct pdma_dev *dev, __u32 pasid)
{
	struct detach_pasid cmd = {
		.argsz = sizeof(cmd), .flags = ATTACH_PASID, .pasid = pasid,
	};

	return ioctl(dev->device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd) ?
		       -errno : 0;
}

#endif

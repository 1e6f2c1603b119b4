/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Channels of the PASID DMA engine that its driver pdma-sva binds to processes
 *
 * Functions that can fail return 0 or a number, or -errno.
 */
#ifndef __SELFTEST_SVA_UTILS_H
#define __SELFTEST_SVA_UTILS_H

#include "ioasid_watch.h"
#include "pdma_utils.h"

#define PCI_DRIVERS "/sys/bus/pci/drivers/"

/* In ECAP: the IOMMU walks page tables of the format of the CPU */
#define ECAP_FSTS_SHIFT 47

static inline bool has_first_stage(const char *name)
{
	char ecap[32];

	return !pci_read(name, "iommu/intel-iommu/ecap", ecap, sizeof(ecap)) &&
	       (strtoull(ecap, NULL, 16) >> ECAP_FSTS_SHIFT & 1);
}

/* Linux 6.12 refuses SVA on x86, unless it is told otherwise at boot */
static inline bool sva_is_refused(void)
{
	char val[8];

	return !pdma_read_file("/sys/module/iommu_sva/parameters/allow_unsafe_x86",
			       val, sizeof(val)) && val[0] != 'Y';
}

/*
 * An open file, a channel. It has the offsets of a mediated device that has its
 * regions at 0: all that submits commands or reads registers works with it.
 */
static inline int sva_open(struct pdma_dev *dev, const char *engine)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	pdma_init(dev);
	snprintf(path, sizeof(path), "/dev/" PDMA_SVA_DRIVER "-%s", engine);
	dev->device = open(path, O_RDWR | O_CLOEXEC);
	return dev->device < 0 ? -errno : 0;
}

/* The PASID of this process, or -errno */
static inline int sva_bind(struct pdma_dev *dev)
{
	int ret = ioctl(dev->device, PDMA_SVA_BIND);

	return ret < 0 ? -errno : ret;
}

static inline int sva_unbind(struct pdma_dev *dev)
{
	return ioctl(dev->device, PDMA_SVA_UNBIND) ? -errno : 0;
}

struct attach_arg {
	__s32 fd;
	__u32 id;
};

/* @arg may be a bad pointer */
static inline int sva_attach_raw(struct pdma_dev *dev, void *arg)
{
	return ioctl(dev->device, PDMA_SVA_ATTACH, arg) ? -errno : 0;
}

static inline int sva_attach(struct pdma_dev *dev, int fd, __u32 id)
{
	struct attach_arg arg = { .fd = fd, .id = id };

	return sva_attach_raw(dev, &arg);
}

#endif

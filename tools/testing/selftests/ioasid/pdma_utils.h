/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Access to the PASID DMA engine through each of its drivers: mediated devices,
 * the registers of the engine itself and its PCI function, the whole engine
 * through vfio-pci, and channels that pdma-sva binds to processes
 *
 * Functions that can fail return 0 or a descriptor, or -errno, which tests
 * compare with the expected error. They work alike for devices opened through a
 * group and a container and for devices opened through their character device
 * and iommufd, so that fixture variants differ in one call only.
 */
#ifndef __SELFTEST_PDMA_UTILS_H
#define __SELFTEST_PDMA_UTILS_H

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/types.h>
#include <linux/vfio.h>

#include "../../../../samples/vfio-mdev/pdma.h"

#define PDMA_TYPE		"pdma-channels"
#define PDMA_UUID_LEN		36
#define PDMA_PATH_LEN		320

/*
 * Upper bound for anything that the device or another process does
 * asynchronously. Generous, as emulation on a busy machine is slow.
 */
#define PDMA_TIMEOUT_MS		60000

/* Written to PDMA_MDEV_CHANNEL() in a single write; @result is 0 */
struct pdma_submit {
	__u64 src;
	__u64 dst;
	__u32 len;
	__u32 cmd;
	__u32 period;
	__u32 burst;
	__u32 pasid;
	__u32 result;
};

#define PDMA_SUBMIT_FIELD(_field, _offset) \
	static_assert(offsetof(struct pdma_submit, _field) == (_offset), #_field)
PDMA_SUBMIT_FIELD(src, PDMA_SUBMIT_SRC);
PDMA_SUBMIT_FIELD(dst, PDMA_SUBMIT_DST);
PDMA_SUBMIT_FIELD(len, PDMA_SUBMIT_LEN);
PDMA_SUBMIT_FIELD(cmd, PDMA_SUBMIT_CMD);
PDMA_SUBMIT_FIELD(period, PDMA_SUBMIT_PERIOD);
PDMA_SUBMIT_FIELD(burst, PDMA_SUBMIT_BURST);
PDMA_SUBMIT_FIELD(pasid, PDMA_SUBMIT_PASID);
PDMA_SUBMIT_FIELD(result, PDMA_SUBMIT_RESULT);
static_assert(sizeof(struct pdma_submit) == PDMA_SUBMIT_SIZE, "size");

/*
 * An open mediated device and the container or iommufd that maps its memory.
 * Commands go to its first channel; see pdma_channel() for the others.
 */
struct pdma_dev {
	int device;
	int group;		/* -1: opened through the character device */
	int container;		/* may be an iommufd; -1: none */
	int iommufd;		/* /dev/iommu, or -1 */
	__u32 ioas_id;		/* valid with iommufd */
	bool borrowed;		/* do not close container or iommufd */
	__u64 config_offset;	/* 0: not a mediated device */
	__u64 submit_offset;
	__u64 status_offset;
};

/* Time */

static inline __u64 pdma_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

static inline void pdma_sleep_ms(unsigned int ms)
{
	struct timespec ts = {
		.tv_sec = ms / 1000,
		.tv_nsec = (ms % 1000) * 1000000L,
	};

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

/* sysfs files */

static inline int pdma_read_file(const char *path, char *buf, size_t len)
{
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, len - 1);
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return n;
	while (n && buf[n - 1] == '\n')
		n--;
	buf[n] = 0;
	return 0;
}

static inline int pdma_write_file(const char *path, const char *buf)
{
	ssize_t n;
	int fd;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, buf, strlen(buf));
	if (n < 0)
		n = -errno;
	close(fd);
	return n < 0 ? n : 0;
}

static inline bool pdma_exists(const char *path)
{
	return !access(path, F_OK);
}

/*
 * With CONFIG_IOMMUFD_TEST, fault injection also makes iommufd's object lookups
 * (-ENOENT) and page pinning (-EFAULT) fail.
 */
static inline bool iommufd_fails_more(void)
{
	return pdma_exists("/sys/kernel/debug/fail_iommufd");
}

/* Parents, creation and removal of mediated devices */

/*
 * Write the name (domain:bus:device.function) of the nth PCI function that
 * offers mediated devices of this type to @name, in bus order.
 */
static inline int pdma_find_parent(unsigned int nth, char name[NAME_MAX + 1])
{
	const char *devices = "/sys/bus/pci/devices";
	char path[PDMA_PATH_LEN + NAME_MAX];
	struct dirent **list;
	int i, n, rc = -ENODEV;

	n = scandir(devices, &list, NULL, alphasort);
	if (n < 0)
		return -errno;
	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s/mdev_supported_types/%s",
			 devices, list[i]->d_name, PDMA_TYPE);
		if (rc && list[i]->d_name[0] != '.' && pdma_exists(path) &&
		    !nth--) {
			snprintf(name, NAME_MAX + 1, "%s", list[i]->d_name);
			rc = 0;
		}
		free(list[i]);
	}
	free(list);
	return rc;
}

/* Number of mediated devices that can still be created on a parent */
static inline int pdma_available(const char *parent)
{
	char path[PDMA_PATH_LEN + NAME_MAX], buf[16];
	int rc;

	snprintf(path, sizeof(path),
		 "/sys/bus/pci/devices/%s/mdev_supported_types/%s/available_instances",
		 parent, PDMA_TYPE);
	rc = pdma_read_file(path, buf, sizeof(buf));
	return rc ? rc : atoi(buf);
}

static inline int pdma_new_uuid(char uuid[PDMA_UUID_LEN + 1])
{
	return pdma_read_file("/proc/sys/kernel/random/uuid", uuid,
			      PDMA_UUID_LEN + 1);
}

/* Create a mediated device on @parent and write its name to @uuid */
static inline int pdma_create(const char *parent, char uuid[PDMA_UUID_LEN + 1])
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	int rc;

	rc = pdma_new_uuid(uuid);
	if (rc)
		return rc;
	snprintf(path, sizeof(path),
		 "/sys/bus/pci/devices/%s/mdev_supported_types/%s/create",
		 parent, PDMA_TYPE);
	return pdma_write_file(path, uuid);
}

static inline void pdma_mdev_path(const char *uuid, const char *file,
				  char path[PDMA_PATH_LEN])
{
	snprintf(path, PDMA_PATH_LEN, "/sys/bus/mdev/devices/%.36s/%.64s", uuid,
		 file);
}

/* Blocks while the device is open */
static inline int pdma_remove(const char *uuid)
{
	char path[PDMA_PATH_LEN];

	pdma_mdev_path(uuid, "remove", path);
	return pdma_write_file(path, "1");
}

static inline bool pdma_mdev_exists(const char *uuid)
{
	char path[PDMA_PATH_LEN];

	pdma_mdev_path(uuid, "", path);
	return pdma_exists(path);
}

/* Open and close */

static inline int pdma_region(int device, __u32 index,
			      struct vfio_region_info *info)
{
	*info = (struct vfio_region_info){
		.argsz = sizeof(*info),
		.index = index,
	};
	return ioctl(device, VFIO_DEVICE_GET_REGION_INFO, info) ? -errno : 0;
}

/* Access @len bytes of configuration space. Returns 0 or -errno. */
static inline int pdma_config_read(struct pdma_dev *dev, unsigned int offset,
				   void *val, size_t len)
{
	ssize_t n = pread(dev->device, val, len, dev->config_offset + offset);

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

static inline int pdma_config_write(struct pdma_dev *dev, unsigned int offset,
				    const void *val, size_t len)
{
	ssize_t n = pwrite(dev->device, val, len, dev->config_offset + offset);

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

/* Set or clear bus mastering */
static inline int pdma_set_master(struct pdma_dev *dev, bool enable)
{
	__u16 command = PCI_COMMAND_MEMORY;

	if (enable)
		command |= PCI_COMMAND_MASTER;
	return pdma_config_write(dev, PCI_COMMAND, &command, sizeof(command));
}

static inline int pdma_regions(struct pdma_dev *dev)
{
	struct vfio_region_info info;
	int rc;

	rc = pdma_region(dev->device, VFIO_PCI_BAR0_REGION_INDEX, &info);
	if (rc)
		return rc;
	dev->submit_offset = info.offset + PDMA_MDEV_CHANNEL(0);
	dev->status_offset = info.offset + PDMA_MDEV_STATUS(0);
	rc = pdma_region(dev->device, VFIO_PCI_CONFIG_REGION_INDEX, &info);
	if (rc)
		return rc;
	dev->config_offset = info.offset;
	return pdma_set_master(dev, true);
}

static inline void pdma_init(struct pdma_dev *dev)
{
	*dev = (struct pdma_dev){
		.device = -1,
		.group = -1,
		.container = -1,
		.iommufd = -1,
	};
}

/* Cleans up after a failed open, too */
static inline void pdma_close(struct pdma_dev *dev)
{
	if (dev->device >= 0)
		close(dev->device);
	if (dev->group >= 0)
		close(dev->group);
	if (!dev->borrowed) {
		if (dev->container >= 0)
			close(dev->container);
		if (dev->iommufd >= 0)
			close(dev->iommufd);
	}
	pdma_init(dev);
}

/* A mediated device is the only member of its group */
static inline int pdma_open_group_fd(const char *uuid)
{
	char path[PDMA_PATH_LEN], link[PDMA_PATH_LEN];
	ssize_t n;
	int fd;

	pdma_mdev_path(uuid, "iommu_group", path);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return -errno;
	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%.16s",
		 strrchr(link, '/') + 1);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static inline int pdma_open_cdev_fd(const char *uuid)
{
	char path[PDMA_PATH_LEN], node[PDMA_PATH_LEN];
	struct dirent *entry;
	int fd = -ENODEV;
	DIR *dir;

	pdma_mdev_path(uuid, "vfio-dev", path);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, "vfio", 4))
			continue;
		snprintf(node, sizeof(node), "/dev/vfio/devices/%s",
			 entry->d_name);
		fd = open(node, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
		break;
	}
	closedir(dir);
	return fd;
}

/*
 * Open the device through the group with descriptor @fd, which @dev then owns.
 * If @share is not NULL, put the group into its container, else into a new
 * container made by opening @node.
 */
static inline int pdma_open_group_of(struct pdma_dev *dev, int fd,
				     const char *uuid,
				     const struct pdma_dev *share,
				     const char *node)
{
	int rc;

	pdma_init(dev);
	dev->group = fd;
	if (share) {
		dev->container = share->container;
		dev->borrowed = true;
	} else {
		dev->container = open(node, O_RDWR | O_CLOEXEC);
		if (dev->container < 0)
			goto err;
	}
	if (ioctl(dev->group, VFIO_GROUP_SET_CONTAINER, &dev->container))
		goto err;
	if (!share && ioctl(dev->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		goto err;
	dev->device = ioctl(dev->group, VFIO_GROUP_GET_DEVICE_FD, uuid);
	if (dev->device < 0)
		goto err;
	rc = pdma_regions(dev);
	if (rc)
		pdma_close(dev);
	return rc;
err:
	rc = -errno;
	pdma_close(dev);
	return rc;
}

static inline int pdma_open_container(struct pdma_dev *dev, const char *uuid,
				      const struct pdma_dev *share,
				      const char *node)
{
	int fd = pdma_open_group_fd(uuid);

	pdma_init(dev);
	return fd < 0 ? fd : pdma_open_group_of(dev, fd, uuid, share, node);
}

static inline int pdma_open_group(struct pdma_dev *dev, const char *uuid,
				  const struct pdma_dev *share)
{
	return pdma_open_container(dev, uuid, share, "/dev/vfio/vfio");
}

/* Same, with an iommufd in container compatibility mode */
static inline int pdma_open_compat(struct pdma_dev *dev, const char *uuid,
				   const struct pdma_dev *share)
{
	return pdma_open_container(dev, uuid, share, "/dev/iommu");
}

static inline int pdma_attach_ioas(struct pdma_dev *dev, __u32 ioas_id)
{
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
		.pt_id = ioas_id,
	};

	return ioctl(dev->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ?
		       -errno : 0;
}

static inline int pdma_detach_ioas(struct pdma_dev *dev)
{
	struct vfio_device_detach_iommufd_pt detach = {
		.argsz = sizeof(detach),
	};

	return ioctl(dev->device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach) ?
		       -errno : 0;
}

/*
 * Open the device through the character device with descriptor @fd, which @dev
 * then owns. If @share is not NULL, use its iommufd and IOAS, else new ones.
 */
static inline int pdma_open_cdev_of(struct pdma_dev *dev, int fd,
				    const struct pdma_dev *share)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	int rc;

	pdma_init(dev);
	dev->device = fd;
	if (share) {
		dev->iommufd = share->iommufd;
		dev->ioas_id = share->ioas_id;
		dev->borrowed = true;
	} else {
		dev->iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
		if (dev->iommufd < 0)
			goto err;
		if (ioctl(dev->iommufd, IOMMU_IOAS_ALLOC, &alloc))
			goto err;
		dev->ioas_id = alloc.out_ioas_id;
	}
	bind.iommufd = dev->iommufd;
	if (ioctl(dev->device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		goto err;
	rc = pdma_attach_ioas(dev, dev->ioas_id);
	if (!rc)
		rc = pdma_regions(dev);
	if (rc)
		pdma_close(dev);
	return rc;
err:
	rc = -errno;
	pdma_close(dev);
	return rc;
}

static inline int pdma_open_cdev(struct pdma_dev *dev, const char *uuid,
				 const struct pdma_dev *share)
{
	int fd = pdma_open_cdev_fd(uuid);

	pdma_init(dev);
	return fd < 0 ? fd : pdma_open_cdev_of(dev, fd, share);
}

/* Memory */

#define PDMA_MAP_READ	1	/* the device may read */
#define PDMA_MAP_WRITE	2	/* the device may write */
#define PDMA_MAP_RW	(PDMA_MAP_READ | PDMA_MAP_WRITE)

static inline int pdma_map_ioas(struct pdma_dev *dev, void *buf, __u64 iova,
				__u64 len, unsigned int prot)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = dev->ioas_id,
		.user_va = (uintptr_t)buf,
		.length = len,
		.iova = iova,
	};

	if (prot & PDMA_MAP_READ)
		map.flags |= IOMMU_IOAS_MAP_READABLE;
	if (prot & PDMA_MAP_WRITE)
		map.flags |= IOMMU_IOAS_MAP_WRITEABLE;
	return ioctl(dev->iommufd, IOMMU_IOAS_MAP, &map) ? -errno : 0;
}

static inline int pdma_map_container(struct pdma_dev *dev, void *buf,
				     __u64 iova, __u64 len, unsigned int prot)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.vaddr = (uintptr_t)buf,
		.iova = iova,
		.size = len,
	};

	if (prot & PDMA_MAP_READ)
		map.flags |= VFIO_DMA_MAP_FLAG_READ;
	if (prot & PDMA_MAP_WRITE)
		map.flags |= VFIO_DMA_MAP_FLAG_WRITE;
	return ioctl(dev->container, VFIO_IOMMU_MAP_DMA, &map) ? -errno : 0;
}

static inline int pdma_map_prot(struct pdma_dev *dev, void *buf, __u64 iova,
				__u64 len, unsigned int prot)
{
	return dev->iommufd >= 0 ?
		       pdma_map_ioas(dev, buf, iova, len, prot) :
		       pdma_map_container(dev, buf, iova, len, prot);
}

static inline int pdma_map(struct pdma_dev *dev, void *buf, __u64 iova,
			   __u64 len)
{
	return pdma_map_prot(dev, buf, iova, len, PDMA_MAP_RW);
}

/* Unmap a range mapped by one pdma_map(). @iova and @len both 0: unmap all. */
static inline int pdma_unmap(struct pdma_dev *dev, __u64 iova, __u64 len)
{
	struct iommu_ioas_unmap ioas = {
		.size = sizeof(ioas),
		.ioas_id = dev->ioas_id,
		.iova = iova,
		.length = iova || len ? len : UINT64_MAX,
	};
	struct vfio_iommu_type1_dma_unmap container = {
		.argsz = sizeof(container),
		.flags = iova || len ? 0 : VFIO_DMA_UNMAP_FLAG_ALL,
		.iova = iova,
		.size = len,
	};
	int rc;

	rc = dev->iommufd >= 0 ?
		     ioctl(dev->iommufd, IOMMU_IOAS_UNMAP, &ioas) :
		     ioctl(dev->container, VFIO_IOMMU_UNMAP_DMA, &container);
	return rc ? -errno : 0;
}

/* Page aligned and zeroed; released by munmap() or process exit */
static inline void *pdma_alloc_buffer(size_t len)
{
	void *buf = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return buf == MAP_FAILED ? NULL : buf;
}

/* VFIO_DEVICE_FEATURE_IOASID */

struct pdma_feature {
	struct vfio_device_feature header;
	union {
		struct vfio_device_feature_ioasid ioasid;
		struct vfio_device_feature_ioasid_list list;
	};
};

static inline int pdma_feature_ioasid(struct pdma_dev *dev, __u32 flags,
				      struct pdma_feature *feature)
{
	feature->header.argsz = sizeof(*feature);
	feature->header.flags = VFIO_DEVICE_FEATURE_IOASID | flags;
	return ioctl(dev->device, VFIO_DEVICE_FEATURE, feature) ? -errno : 0;
}

static inline int pdma_ioasid_op(struct pdma_dev *dev, __u32 op, int fd,
				 __u32 id, __u32 old_id)
{
	struct pdma_feature feature = {
		.ioasid = {
			.flags = op, .fd = fd, .id = id, .old_id = old_id,
		},
	};

	return pdma_feature_ioasid(dev, VFIO_DEVICE_FEATURE_SET, &feature);
}

/* @fd: a /dev/ioasid file */
static inline int pdma_add_ioasid(struct pdma_dev *dev, int fd, __u32 id)
{
	return pdma_ioasid_op(dev, VFIO_DEVICE_IOASID_ADD, fd, id, 0);
}

static inline int pdma_replace_ioasid(struct pdma_dev *dev, int fd, __u32 id,
				      __u32 old_id)
{
	return pdma_ioasid_op(dev, VFIO_DEVICE_IOASID_REPLACE, fd, id, old_id);
}

static inline int pdma_drop_ioasid(struct pdma_dev *dev, __u32 id)
{
	return pdma_ioasid_op(dev, VFIO_DEVICE_IOASID_DROP, -1, id, 0);
}

static inline int pdma_drop_all_ioasids(struct pdma_dev *dev)
{
	return pdma_ioasid_op(dev, VFIO_DEVICE_IOASID_DROP_ALL, -1, 0, 0);
}

/* @count: size of @entries. Returns the number of entries filled, or -errno. */
static inline int pdma_list_ioasids(struct pdma_dev *dev, __u32 start,
				    __u32 count,
				    struct vfio_device_ioasid *entries)
{
	struct pdma_feature feature = {
		.list = {
			.start = start, .count = count,
			.entries = (uintptr_t)entries,
		},
	};
	int rc;

	rc = pdma_feature_ioasid(dev, VFIO_DEVICE_FEATURE_GET, &feature);
	return rc ? rc : (int)feature.list.count;
}

/* Width of the PASIDs supported by the device, or -errno */
static inline int pdma_pasid_bits(struct pdma_dev *dev)
{
	struct pdma_feature feature = {};
	int rc;

	rc = pdma_feature_ioasid(dev, VFIO_DEVICE_FEATURE_GET, &feature);
	return rc ? rc : (int)feature.list.pasid_bits;
}

/* For tests that use one IOASID per device: its ID, 0 if none, or -errno */
static inline int pdma_get_ioasid(struct pdma_dev *dev)
{
	struct vfio_device_ioasid entry;
	int rc;

	rc = pdma_list_ioasids(dev, 0, 1, &entry);
	return rc > 0 ? (int)entry.id : rc;
}

/* Same; replaces the device's IOASID */
static inline int pdma_set_ioasid(struct pdma_dev *dev, int fd, __u32 id)
{
	int old = pdma_get_ioasid(dev);

	if (old < 0)
		return old;
	return old ? pdma_replace_ioasid(dev, fd, id, old) :
		     pdma_add_ioasid(dev, fd, id);
}

/* Commands */

/* @len: length passed to pwrite(); the driver only accepts sizeof(*cmd) */
static inline int pdma_submit_raw(struct pdma_dev *dev, const void *cmd,
				  size_t len, __u64 offset)
{
	ssize_t n = pwrite(dev->device, cmd, len, dev->submit_offset + offset);

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

static inline int pdma_submit(struct pdma_dev *dev,
			      const struct pdma_submit *cmd)
{
	return pdma_submit_raw(dev, cmd, sizeof(*cmd), 0);
}

/* Another channel of the device. Close only @dev, not the returned copy. */
static inline struct pdma_dev pdma_channel(const struct pdma_dev *dev,
					   unsigned int nr)
{
	struct pdma_dev channel = *dev;

	channel.submit_offset += nr * PDMA_PAGE_SIZE;
	channel.status_offset += nr * PDMA_PAGE_SIZE;
	return channel;
}

static inline int pdma_copy_with(struct pdma_dev *dev, __u32 pasid, __u64 dst,
				 __u64 src, __u32 len)
{
	struct pdma_submit cmd = {
		.cmd = PDMA_CMD_COPY, .src = src, .dst = dst, .len = len,
		.pasid = pasid,
	};

	return pdma_submit(dev, &cmd);
}

/* @period: us, @burst: requests per period, 0: the device's default */
static inline int pdma_stream_with(struct pdma_dev *dev, __u32 pasid, __u64 dst,
				   __u32 len, __u32 period, __u32 burst)
{
	struct pdma_submit cmd = {
		.cmd = PDMA_CMD_STREAM, .dst = dst, .len = len,
		.period = period, .burst = burst, .pasid = pasid,
	};

	return pdma_submit(dev, &cmd);
}

/* The PASID for commands on a device that has at most one IOASID */
static inline __u32 pdma_pasid(struct pdma_dev *dev)
{
	int id = pdma_get_ioasid(dev);

	return id < 0 ? 0 : id;
}

static inline int pdma_copy(struct pdma_dev *dev, __u64 dst, __u64 src,
			    __u32 len)
{
	return pdma_copy_with(dev, pdma_pasid(dev), dst, src, len);
}

static inline int pdma_stream(struct pdma_dev *dev, __u64 dst, __u32 len,
			      __u32 period, __u32 burst)
{
	return pdma_stream_with(dev, pdma_pasid(dev), dst, len, period, burst);
}

static inline int pdma_stop(struct pdma_dev *dev)
{
	struct pdma_submit cmd = { .cmd = PDMA_CMD_STOP };

	return pdma_submit(dev, &cmd);
}

/* The device is usable afterwards, as after probe */
static inline int pdma_reset(struct pdma_dev *dev)
{
	if (ioctl(dev->device, VFIO_DEVICE_RESET))
		return -errno;
	return dev->config_offset ? pdma_set_master(dev, true) : 0;
}

/* Access the trapped registers like a guest. Return 0 or -errno. */

static inline int pdma_set(struct pdma_dev *dev, unsigned int reg,
			   const void *val, size_t len)
{
	ssize_t n = pwrite(dev->device, val, len, dev->submit_offset + reg);

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

static inline int pdma_set32(struct pdma_dev *dev, unsigned int reg, __u32 val)
{
	return pdma_set(dev, reg, &val, sizeof(val));
}

static inline int pdma_set64(struct pdma_dev *dev, unsigned int reg, __u64 val)
{
	return pdma_set(dev, reg, &val, sizeof(val));
}

/* Returns all ones on error */
static inline __u64 pdma_get(struct pdma_dev *dev, unsigned int reg, size_t len)
{
	__u64 val = 0;

	if (pread(dev->device, &val, len, dev->submit_offset + reg) !=
	    (ssize_t)len)
		return UINT64_MAX;
	return val;
}

/* Write PDMA_SUBMIT_PASID or PDMA_SUBMIT_CMD and return the result */
static inline __u32 pdma_set_result(struct pdma_dev *dev, unsigned int reg,
				    __u32 val)
{
	if (pdma_set32(dev, reg, val))
		return UINT32_MAX;
	return pdma_get(dev, PDMA_SUBMIT_RESULT, 4);
}

static inline __u32 pdma_bind(struct pdma_dev *dev, __u32 pasid)
{
	return pdma_set_result(dev, PDMA_SUBMIT_PASID, pasid);
}

static inline __u32 pdma_execute(struct pdma_dev *dev, __u32 cmd)
{
	return pdma_set_result(dev, PDMA_SUBMIT_CMD, cmd);
}

/* Stream with the channel's current PASID */
static inline __u32 pdma_execute_stream(struct pdma_dev *dev, __u64 dst,
					__u32 len)
{
	if (pdma_set64(dev, PDMA_SUBMIT_DST, dst) ||
	    pdma_set32(dev, PDMA_SUBMIT_LEN, len))
		return UINT32_MAX;
	return pdma_execute(dev, PDMA_CMD_STREAM);
}

/* Registers of the engine */

/* Returns all ones on error; no channel register has this value */
static inline __u32 pdma_read32(struct pdma_dev *dev, unsigned int reg)
{
	__u32 val;

	if (pread(dev->device, &val, sizeof(val), dev->status_offset + reg) !=
	    sizeof(val))
		return UINT32_MAX;
	return val;
}

static inline __u64 pdma_read64(struct pdma_dev *dev, unsigned int reg)
{
	__u64 val;

	if (pread(dev->device, &val, sizeof(val), dev->status_offset + reg) !=
	    sizeof(val))
		return UINT64_MAX;
	return val;
}

static inline __u32 pdma_status(struct pdma_dev *dev)
{
	return pdma_read32(dev, PDMA_STATUS);
}

/* The last value of the stream that reached memory */
static inline __u64 pdma_counter(struct pdma_dev *dev)
{
	return pdma_read64(dev, PDMA_COUNTER);
}

static inline __u64 pdma_done(struct pdma_dev *dev)
{
	return pdma_read64(dev, PDMA_DONE_COUNT);
}

static inline __u64 pdma_refused(struct pdma_dev *dev)
{
	return pdma_read64(dev, PDMA_REFUSED_COUNT);
}

/* Map the status page read-only. Returns NULL with errno set on failure. */
static inline const void *pdma_map_status(struct pdma_dev *dev)
{
	void *regs = mmap(NULL, PDMA_PAGE_SIZE, PROT_READ, MAP_SHARED,
			  dev->device, dev->status_offset);

	return regs == MAP_FAILED ? NULL : regs;
}

static inline void pdma_unmap_status(const void *regs)
{
	munmap((void *)regs, PDMA_PAGE_SIZE);
}

static inline __u64 pdma_mmio64(const void *regs, unsigned int reg)
{
	return __atomic_load_n((const __u64 *)((const char *)regs + reg),
			       __ATOMIC_RELAXED);
}

static inline __u32 pdma_mmio32(const void *regs, unsigned int reg)
{
	return __atomic_load_n((const __u32 *)((const char *)regs + reg),
			       __ATOMIC_RELAXED);
}

/* Waiting. Return 0 or -ETIMEDOUT. */

/* Wait until a 64-bit register of the channel page reaches @min */
static inline int pdma_wait_reg(struct pdma_dev *dev, unsigned int reg,
				__u64 min)
{
	__u64 end = pdma_now_ms() + PDMA_TIMEOUT_MS;
	__u64 val;

	for (;;) {
		val = pdma_read64(dev, reg);
		if (val == UINT64_MAX)
			return -EIO;
		if (val >= min)
			return 0;
		if (pdma_now_ms() > end)
			return -ETIMEDOUT;
		pdma_sleep_ms(1);
	}
}

/* Wait for @n more values of the stream */
static inline int pdma_wait_counter(struct pdma_dev *dev, __u64 n)
{
	return pdma_wait_reg(dev, PDMA_COUNTER, pdma_counter(dev) + n);
}

/* Wait for @n more refused requests */
static inline int pdma_wait_refused(struct pdma_dev *dev, __u64 n)
{
	return pdma_wait_reg(dev, PDMA_REFUSED_COUNT, pdma_refused(dev) + n);
}

/* Wait until the channel is idle. Returns its status or -ETIMEDOUT. */
static inline int pdma_wait_idle(struct pdma_dev *dev)
{
	__u64 end = pdma_now_ms() + PDMA_TIMEOUT_MS;
	__u32 status;

	for (;;) {
		status = pdma_status(dev);
		if (status == UINT32_MAX)
			return -EIO;
		if (!(status & PDMA_STATUS_BUSY))
			return status;
		if (pdma_now_ms() > end)
			return -ETIMEDOUT;
		pdma_sleep_ms(1);
	}
}

/* Copy synchronously. Returns 0, or -EIO if the DMA was refused. */
static inline int pdma_copy_wait_with(struct pdma_dev *dev, __u32 pasid,
				      __u64 dst, __u64 src, __u32 len)
{
	int rc;

	rc = pdma_copy_with(dev, pasid, dst, src, len);
	if (rc)
		return rc;
	rc = pdma_wait_idle(dev);
	if (rc < 0)
		return rc;
	return rc & PDMA_STATUS_DONE ? 0 : -EIO;
}

static inline int pdma_copy_wait(struct pdma_dev *dev, __u64 dst, __u64 src,
				 __u32 len)
{
	return pdma_copy_wait_with(dev, pdma_pasid(dev), dst, src, len);
}

/* Direct access to the engine, bypassing its driver */

#define PCI_DEVICES "/sys/bus/pci/devices"
#define PCI_DRIVERS "/sys/bus/pci/drivers/"

/*
 * All of the engine's registers: control page and channel pages. Writing here
 * does what a guest that was assigned a channel, or a broken host driver, could
 * do.
 */
struct pdma_bar {
	volatile char *regs;
	size_t len;
};

static inline int bar_map(struct pdma_bar *bar, const char *parent)
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	struct stat st;
	void *regs;
	int fd;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/resource0", parent);
	fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st)) {
		close(fd);
		return -errno;
	}
	regs = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    0);
	close(fd);
	if (regs == MAP_FAILED)
		return -errno;
	bar->regs = regs;
	bar->len = st.st_size;
	return 0;
}

static inline void bar_unmap(struct pdma_bar *bar)
{
	munmap((void *)bar->regs, bar->len);
}

static inline __u32 bar_read32(struct pdma_bar *bar, size_t reg)
{
	return *(volatile __u32 *)(bar->regs + reg);
}

static inline __u64 bar_read64(struct pdma_bar *bar, size_t reg)
{
	return *(volatile __u64 *)(bar->regs + reg);
}

static inline void bar_write32(struct pdma_bar *bar, size_t reg, __u32 val)
{
	*(volatile __u32 *)(bar->regs + reg) = val;
}

static inline void bar_write64(struct pdma_bar *bar, size_t reg, __u64 val)
{
	*(volatile __u64 *)(bar->regs + reg) = val;
}

/* Faults of this function that the IOMMU reported, with any PASID */
static inline __u64 bar_recorded(struct pdma_bar *bar)
{
	return bar_read64(bar, PDMA_FAULTS_RECORDED);
}

/* Faults of this function that the IOMMU was told not to report */
static inline __u64 bar_suppressed(struct pdma_bar *bar)
{
	return bar_read64(bar, PDMA_FAULTS_SUPPRESSED);
}

/* The channel that uses @id for DMA, or -ENOENT */
static inline int bar_find_channel(struct pdma_bar *bar, __u32 id)
{
	__u32 nr = bar_read32(bar, PDMA_CHANNELS);
	unsigned int ch;

	for (ch = 0; ch < nr; ch++)
		if (bar_read32(bar, PDMA_CTL(ch) + PDMA_CTL_PASID) ==
		    (PDMA_PASID_VALID | id))
			return ch;
	return -ENOENT;
}

static inline void bar_set_pasid(struct pdma_bar *bar, unsigned int ch,
				 __u32 val)
{
	bar_write32(bar, PDMA_CTL(ch) + PDMA_CTL_PASID, val);
}

static inline void bar_reset(struct pdma_bar *bar, unsigned int ch)
{
	bar_write32(bar, PDMA_CTL(ch) + PDMA_CTL_RESET, 1);
}

static inline __u64 bar_refused(struct pdma_bar *bar, unsigned int ch)
{
	return bar_read64(bar, PDMA_CHANNEL_PAGE(ch) + PDMA_REFUSED_COUNT);
}

static inline __u64 bar_done(struct pdma_bar *bar, unsigned int ch)
{
	return bar_read64(bar, PDMA_CHANNEL_PAGE(ch) + PDMA_DONE_COUNT);
}

static inline void bar_stop(struct pdma_bar *bar, unsigned int ch)
{
	bar_write32(bar, PDMA_CHANNEL_PAGE(ch) + PDMA_CMD, PDMA_CMD_STOP);
	bar_read32(bar, PDMA_CHANNEL_PAGE(ch) + PDMA_STATUS);
}

/* Start a stream, bypassing the driver. False if the engine rejects it. */
static inline bool bar_stream(struct pdma_bar *bar, unsigned int ch, __u64 dst,
			      __u32 len, __u32 period)
{
	size_t page = PDMA_CHANNEL_PAGE(ch);

	bar_write64(bar, page + PDMA_DST, dst);
	bar_write32(bar, page + PDMA_LEN, len);
	bar_write32(bar, page + PDMA_PERIOD, period);
	bar_write32(bar, page + PDMA_BURST, 1);
	bar_write32(bar, page + PDMA_CMD, PDMA_CMD_STREAM);
	return bar_read32(bar, page + PDMA_STATUS) & PDMA_STATUS_BUSY;
}

/* Whether the function has ATS and ATS is enabled */
static inline bool pci_ats_enabled(const char *parent)
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	__u8 config[4096];
	unsigned int pos = 0x100;
	__u32 header;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/config", parent);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, config, sizeof(config));
	close(fd);
	if (n != sizeof(config))
		return false;
	/* Extended capabilities: ID, version, next. ATS has ID 15 */
	while (pos && pos <= sizeof(config) - 8) {
		memcpy(&header, config + pos, sizeof(header));
		if ((header & 0xffff) == 15)
			return config[pos + 7] & 0x80;
		pos = header >> 20;
	}
	return false;
}

/* Read a sysfs file of the function @name */
static inline int pci_read(const char *name, const char *file, char *buf,
			   size_t len)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", name, file);
	return pdma_read_file(path, buf, len);
}

static inline int pci_write(const char *name, const char *file, const char *buf)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", name, file);
	return pdma_write_file(path, buf);
}

/*
 * Find an engine with ATS, whatever its driver. SVA requires ATS, and the IOMMU
 * driver is notified of a reset only for devices with ATS.
 */
static inline int pci_find_engine(char name[NAME_MAX + 1])
{
	char vendor[16], device[16];
	struct dirent *entry;
	int ret = -ENODEV;
	DIR *dir;

	dir = opendir(PCI_DEVICES);
	if (!dir)
		return -errno;
	while (ret && (entry = readdir(dir))) {
		if (pci_read(entry->d_name, "vendor", vendor, sizeof(vendor)) ||
		    pci_read(entry->d_name, "device", device, sizeof(device)) ||
		    strtoul(vendor, NULL, 16) != PDMA_VENDOR_ID ||
		    strtoul(device, NULL, 16) != PDMA_DEVICE_ID ||
		    !pci_ats_enabled(entry->d_name))
			continue;
		snprintf(name, NAME_MAX + 1, "%s", entry->d_name);
		ret = 0;
	}
	closedir(dir);
	return ret;
}

/* Bind the function to @driver; "" lets the default driver bind */
static inline int pci_set_driver(const char *name, const char *driver)
{
	int ret;

	ret = pci_write(name, "driver_override", driver[0] ? driver : "\n");
	if (ret)
		return ret;
	ret = pci_write(name, "driver/unbind", name);
	if (ret && ret != -ENOENT)
		return ret;
	return pdma_write_file("/sys/bus/pci/drivers_probe", name);
}

/* Function level reset, works with a driver bound */
static inline int pci_reset(const char *parent)
{
	return pci_write(parent, "reset", "1");
}

/* The whole engine, through vfio-pci */

/* Definitions of the PASID uAPI; tests are skipped on kernels that lack it */
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

static inline int pci_open_cdev(const char *name)
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

/* Like bar_map(), for an engine whose driver gives no access to its BAR */
static inline int vfio_map_bar(struct pdma_bar *bar, int device)
{
	struct vfio_region_info info;
	void *regs;
	__u16 cmd;
	int rc;

	rc = pdma_region(device, VFIO_PCI_CONFIG_REGION_INDEX, &info);
	if (rc)
		return rc;
	if (pread(device, &cmd, 2, info.offset + PCI_COMMAND) != 2)
		return -EIO;
	cmd |= PCI_COMMAND_MASTER;
	if (pwrite(device, &cmd, 2, info.offset + PCI_COMMAND) != 2)
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

/* Write the device's ID in its iommufd to @dev_id */
static inline int vfio_open_pci(struct pdma_dev *dev, const char *name,
				__u32 *dev_id)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };

	pdma_init(dev);
	dev->device = pci_open_cdev(name);
	if (dev->device < 0)
		return dev->device;
	dev->iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (dev->iommufd < 0)
		return -errno;
	bind.iommufd = dev->iommufd;
	if (ioctl(dev->device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return -errno;
	*dev_id = bind.out_devid;
	return 0;
}

/* Map @buf into a new IOAS, which pdma_map() uses from then on */
static inline int vfio_map_space(struct pdma_dev *dev, volatile void *buf,
				 __u64 iova, __u64 len)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };

	if (ioctl(dev->iommufd, IOMMU_IOAS_ALLOC, &ioas))
		return -errno;
	dev->ioas_id = ioas.out_ioas_id;
	return pdma_map(dev, (void *)buf, iova, len);
}

/* Allocate the IOAS's page table as one that PASIDs can be attached to */
static inline int vfio_alloc_hwpt(struct pdma_dev *dev, __u32 dev_id,
				  __u32 *hwpt)
{
	struct iommu_hwpt_alloc alloc = {
		.size = sizeof(alloc), .flags = HWPT_ALLOC_PASID,
		.dev_id = dev_id, .pt_id = dev->ioas_id,
	};

	if (ioctl(dev->iommufd, IOMMU_HWPT_ALLOC, &alloc))
		return -errno;
	*hwpt = alloc.out_hwpt_id;
	return 0;
}

static inline int pt_attach(struct pdma_dev *dev, __u32 pasid, __u32 hwpt)
{
	struct attach_pasid cmd = {
		.argsz = sizeof(cmd), .flags = ATTACH_PASID,
		.pt_id = hwpt, .pasid = pasid,
	};

	return ioctl(dev->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd) ?
		       -errno : 0;
}

static inline int pt_detach(struct pdma_dev *dev, __u32 pasid)
{
	struct detach_pasid cmd = {
		.argsz = sizeof(cmd), .flags = ATTACH_PASID, .pasid = pasid,
	};

	return ioctl(dev->device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd) ?
		       -errno : 0;
}

/* Channels bound to processes by pdma-sva (SVA) */

/* In ECAP: first-stage translation, with the CPU's page table format */
#define ECAP_FSTS_SHIFT 47

static inline bool has_first_stage(const char *name)
{
	char ecap[32];

	return !pci_read(name, "iommu/intel-iommu/ecap", ecap, sizeof(ecap)) &&
	       (strtoull(ecap, NULL, 16) >> ECAP_FSTS_SHIFT & 1);
}

static inline bool kernel_is_before(unsigned int major, unsigned int minor)
{
	unsigned int version, patchlevel;
	struct utsname name;

	return !uname(&name) &&
	       sscanf(name.release, "%u.%u", &version, &patchlevel) == 2 &&
	       (version < major || (version == major && patchlevel < minor));
}

/*
 * Kernels before 6.19 refuse SVA on x86. IOASID_SVA in the environment says
 * that the running kernel was changed to allow it.
 */
static inline bool sva_is_refused(void)
{
	return !getenv("IOASID_SVA") && kernel_is_before(6, 19);
}

/*
 * Open a channel. The regions of the file are at offset 0, so that all
 * functions that submit commands or read registers of a mediated device work
 * with it.
 */
static inline int sva_open(struct pdma_dev *dev, const char *engine)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	pdma_init(dev);
	snprintf(path, sizeof(path), "/dev/" PDMA_SVA_DRIVER "-%s", engine);
	dev->device = open(path, O_RDWR | O_CLOEXEC);
	return dev->device < 0 ? -errno : 0;
}

/* The PASID of the calling process, or -errno */
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

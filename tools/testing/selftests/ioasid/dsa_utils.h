/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Intel's Data Streaming Accelerator (DSA) under its driver, idxd: sysfs, registers,
 * and the portals of work queues (WQ)
 *
 * Functions that can fail return 0 or -errno.
 */
#ifndef __SELFTEST_IOASID_DSA_UTILS_H
#define __SELFTEST_IOASID_DSA_UTILS_H

#include <linux/idxd.h>

#include "ioasid_utils.h"
#include "pdma_utils.h"

#define DSA_BUS "/sys/bus/dsa"
#define DSA_PORTAL_SIZE 4096

struct dsa {
	int nr;			/* as in dsa0 */
	char pci[NAME_MAX + 1];
	volatile void *regs;
	size_t regs_len;
};

/* @file: relative to the device's directory, e.g. "wq0.0/size" */
static inline int dsa_read(struct dsa *dsa, const char *file, char *buf,
			   size_t len)
{
	char path[PDMA_PATH_LEN];

	snprintf(path, sizeof(path), DSA_BUS "/devices/dsa%d/%s", dsa->nr, file);
	return pdma_read_file(path, buf, len);
}

static inline int dsa_write(struct dsa *dsa, const char *file, const char *buf)
{
	char path[PDMA_PATH_LEN];

	snprintf(path, sizeof(path), DSA_BUS "/devices/dsa%d/%s", dsa->nr, file);
	return pdma_write_file(path, buf);
}

/* @state: "disabled", "enabled" or "halted" */
static inline bool dsa_is(struct dsa *dsa, const char *state)
{
	char now[32];

	return !dsa_read(dsa, "state", now, sizeof(now)) && !strcmp(now, state);
}

static inline int dsa_pci_name(struct dsa *dsa)
{
	char path[PDMA_PATH_LEN], real[PATH_MAX], *slash;

	snprintf(path, sizeof(path), DSA_BUS "/devices/dsa%d", dsa->nr);
	if (!realpath(path, real))
		return -errno;
	/* .../0000:01:00.0/dsa0 */
	slash = strrchr(real, '/');
	*slash = 0;
	snprintf(dsa->pci, sizeof(dsa->pci), "%s", strrchr(real, '/') + 1);
	return 0;
}

/* The first DSA that is not enabled */
static inline int dsa_find(struct dsa *dsa)
{
	bool found = false;

	for (dsa->nr = 0; dsa->nr < 64; dsa->nr++) {
		if (dsa_pci_name(dsa))
			continue;
		if (dsa_is(dsa, "disabled"))
			return 0;
		found = true;
	}
	return found ? -EBUSY : -ENODEV;
}

/* Registers, see drivers/dma/idxd/registers.h */

#define DSA_WQCAP	0x20
#define DSA_GRPCAP	0x30
#define DSA_OFFSETS	0x60
#define DSA_CMD		0xa0
#define DSA_CMDSTS	0xa8
#define DSA_SWERR	0xc0

static inline int dsa_map_regs(struct dsa *dsa)
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	struct stat resource;
	int fd, ret = 0;
	void *regs;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/resource0", dsa->pci);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &resource)) {
		ret = -errno;
		goto out_close;
	}
	regs = mmap(NULL, resource.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (regs == MAP_FAILED) {
		ret = -errno;
		goto out_close;
	}
	dsa->regs = regs;
	dsa->regs_len = resource.st_size;
out_close:
	close(fd);
	return ret;
}

static inline void dsa_unmap_regs(struct dsa *dsa)
{
	munmap((void *)dsa->regs, dsa->regs_len);
}

static inline __u32 dsa_read32(struct dsa *dsa, unsigned int reg)
{
	return *(volatile __u32 *)(dsa->regs + reg);
}

/* Returns the PASID of WQ 0, or 0 if it has none */
static inline __u32 dsa_wq_pasid(struct dsa *dsa)
{
	unsigned int table = (dsa_read32(dsa, DSA_OFFSETS) >> 16) * 0x100;
	__u32 mode;

	/* A device that does not respond reads as all ones */
	if (table + 12 > dsa->regs_len)
		return 0;
	mode = dsa_read32(dsa, table + 8);
	return mode >> 28 & 1 ? mode >> 8 & 0xfffff : 0;
}

/* The device and its WQ 0, the only WQ of the first engine */

#define DSA_WQ_SIZE 16

static inline int dsa_bind(const char *driver, const char *what,
			   const char *format, struct dsa *dsa)
{
	char path[PDMA_PATH_LEN], name[32];

	snprintf(path, sizeof(path), DSA_BUS "/drivers/%s/%s", driver, what);
	snprintf(name, sizeof(name), format, dsa->nr);
	return pdma_write_file(path, name);
}

/*
 * @type: "kernel" or "user", whose driver is @driver. All settings are lost when the
 * device is disabled.
 */
static inline int dsa_enable(struct dsa *dsa, const char *type,
			     const char *driver)
{
	const struct setting {
		const char *file, *value;
	} settings[] = {
		{ "engine%d.0/group_id", "0" },
		{ "wq%d.0/group_id", "0" },
		{ "wq%d.0/mode", "dedicated" },
		{ "wq%d.0/size", "16" },
		{ "wq%d.0/priority", "10" },
		{ "wq%d.0/block_on_fault", "1" },
		{ "wq%d.0/type", type },
		{ "wq%d.0/name", "ioasid-selftest" },
		{ "wq%d.0/driver_name", driver },
		{}
	};
	const struct setting *s;
	char file[64];
	int ret;

	for (s = settings; s->file; s++) {
		snprintf(file, sizeof(file), s->file, dsa->nr);
		ret = dsa_write(dsa, file, s->value);
		if (ret)
			return ret;
	}
	ret = dsa_bind("idxd", "bind", "dsa%d", dsa);
	return ret ? ret : dsa_bind(driver, "bind", "wq%d.0", dsa);
}

static inline bool dsa_wq_is_enabled(struct dsa *dsa)
{
	char file[64], state[32];

	snprintf(file, sizeof(file), "wq%d.0/state", dsa->nr);
	return !dsa_read(dsa, file, state, sizeof(state)) &&
	       !strcmp(state, "enabled");
}

/* Returns the number of open files of the WQ, or -errno */
static inline int dsa_wq_clients(struct dsa *dsa)
{
	char file[64], clients[32];
	int ret;

	snprintf(file, sizeof(file), "wq%d.0/clients", dsa->nr);
	ret = dsa_read(dsa, file, clients, sizeof(clients));
	return ret ? ret : atoi(clients);
}

static inline int dsa_disable_wq(struct dsa *dsa, const char *driver)
{
	return dsa_bind(driver, "unbind", "wq%d.0", dsa);
}

static inline int dsa_disable(struct dsa *dsa)
{
	return dsa_bind("idxd", "unbind", "dsa%d", dsa);
}

/* An open WQ, its portal and descriptors */

struct dsa_queue {
	int fd;
	void *portal;
};

static inline int dsa_open(struct dsa *dsa, struct dsa_queue *queue)
{
	char path[64];
	int ret;

	snprintf(path, sizeof(path), "/dev/dsa/wq%d.0", dsa->nr);
	queue->fd = open(path, O_RDWR | O_CLOEXEC);
	if (queue->fd < 0)
		return -errno;
	queue->portal = mmap(NULL, DSA_PORTAL_SIZE, PROT_WRITE, MAP_SHARED,
			     queue->fd, 0);
	if (queue->portal == MAP_FAILED) {
		ret = -errno;
		close(queue->fd);
		return ret;
	}
	return 0;
}

static inline void dsa_close(struct dsa_queue *queue)
{
	munmap(queue->portal, DSA_PORTAL_SIZE);
	close(queue->fd);
}

static inline struct dsa_hw_desc
dsa_memmove(struct dsa_completion_record *record, volatile void *dst,
	    const volatile void *src, __u32 len, __u32 flags)
{
	return (struct dsa_hw_desc){
		.opcode = DSA_OPCODE_MEMMOVE,
		.flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR | flags,
		.completion_addr = (uintptr_t)record,
		.src_addr = (uintptr_t)src,
		.dst_addr = (uintptr_t)dst,
		.xfer_size = len,
	};
}

/* A full WQ drops descriptors silently: the caller must limit those in flight */
static inline void dsa_write_portal(struct dsa_queue *queue,
				    struct dsa_hw_desc *desc)
{
	/* movdir64b (%rdx), %rax, for assemblers that do not know it */
	asm volatile("sfence\n\t"
		     ".byte 0x66, 0x0f, 0x38, 0xf8, 0x02"
		     : : "a"(queue->portal), "d"(desc) : "memory");
}

/* Also clears the completion record */
static inline void dsa_submit(struct dsa_queue *queue, struct dsa_hw_desc *desc)
{
	struct dsa_completion_record *record =
		(void *)(uintptr_t)desc->completion_addr;

	memset((void *)record, 0, sizeof(*record));
	dsa_write_portal(queue, desc);
}

static inline bool dsa_is_complete(const struct dsa_completion_record *record)
{
	return record->status;
}

/* Returns the status of the operation, DSA_COMP_NONE if it did not complete */
static inline int dsa_execute(struct dsa_queue *queue, struct dsa_hw_desc *desc)
{
	struct dsa_completion_record *record =
		(void *)(uintptr_t)desc->completion_addr;

	dsa_submit(queue, desc);
	wait_until(dsa_is_complete(record));
	return record->status;
}

/* The DSA under vfio-pci: this program is its driver */

struct dsa_vfio {
	struct pdma_dev dev;
	struct pdma_bar bar;
	void *portals;
	size_t portals_len;
};

/* Commands */
enum {
	DSA_ENABLE_DEVICE = 1,
	DSA_ENABLE_WQ = 6,
	DSA_DISABLE_WQ,
	DSA_DRAIN_WQ,
};

/* After an error, the caller must call dsa_vfio_close(), too */
static inline int dsa_vfio_open(struct dsa *dsa, struct dsa_vfio *vfio,
				__u32 *dev_id)
{
	struct vfio_region_info info;
	int ret;

	ret = vfio_open_pci(&vfio->dev, dsa->pci, dev_id);
	if (!ret)
		ret = vfio_map_bar(&vfio->bar, vfio->dev.device);
	if (!ret)
		ret = pdma_region(vfio->dev.device, VFIO_PCI_BAR2_REGION_INDEX,
				  &info);
	if (ret)
		return ret;
	vfio->portals_len = info.size;
	vfio->portals = mmap(NULL, info.size, PROT_WRITE, MAP_SHARED,
			     vfio->dev.device, info.offset);
	return vfio->portals == MAP_FAILED ? -errno : 0;
}

static inline void dsa_vfio_close(struct dsa_vfio *vfio)
{
	munmap(vfio->portals, vfio->portals_len);
	bar_unmap(&vfio->bar);
	pdma_close(&vfio->dev);
}

/* Returns the error code of the command, 0 if it succeeded */
static inline __u32 dsa_vfio_command(struct dsa_vfio *vfio, __u32 command,
				     __u32 operand)
{
	bar_write32(&vfio->bar, DSA_CMD, command << 20 | operand);
	wait_until(!(bar_read32(&vfio->bar, DSA_CMDSTS) >> 31));
	return bar_read32(&vfio->bar, DSA_CMDSTS);
}

/* Returns the offset of the configuration of WQ @nr */
static inline size_t dsa_vfio_wq_config(struct dsa_vfio *vfio, int nr)
{
	size_t table = (bar_read32(&vfio->bar, DSA_OFFSETS) >> 16) * 0x100;
	size_t stride = 32 << (bar_read32(&vfio->bar, DSA_WQCAP) >> 24 & 0xf);

	return table + nr * stride;
}

/* Enable the device, with WQs 0 and 1 and an engine in its first group */
static inline __u32 dsa_vfio_enable(struct dsa_vfio *vfio)
{
	size_t group = (bar_read32(&vfio->bar, DSA_OFFSETS) & 0xffff) * 0x100;
	__u32 buffers = bar_read32(&vfio->bar, DSA_GRPCAP) >> 8 & 0xff;
	int i;

	bar_write64(&vfio->bar, group, 3);
	bar_write64(&vfio->bar, group + 32, 1);
	bar_write64(&vfio->bar, group + 40, buffers << 20 | 1 << 3 | 1);
	for (i = 0; i < 2; i++)
		bar_write32(&vfio->bar, dsa_vfio_wq_config(vfio, i), DSA_WQ_SIZE);
	return dsa_vfio_command(vfio, DSA_ENABLE_DEVICE, 0);
}

/* Forget the errors of descriptors so far */
static inline void dsa_vfio_clear_error(struct dsa_vfio *vfio)
{
	bar_write64(&vfio->bar, DSA_SWERR, 3);
}

/*
 * Whether the first error since then is that the device could not translate the
 * address of the completion record of a transfer, which WQ @nr had with @pasid. The
 * error of a descriptor that was not accepted does not have all of these fields.
 */
static inline bool dsa_vfio_lost_record(struct dsa_vfio *vfio, int nr,
					__u32 pasid)
{
	__u64 error = bar_read64(&vfio->bar, DSA_SWERR);
	__u8 code = error >> 8;

	/* Bits 0, 2 and 3: the error, its descriptor and its WQ are valid */
	return (error & 0xd) == 0xd && (error >> 16 & 0xff) == nr &&
	       (error >> 32 & 0xff) == DSA_OPCODE_MEMMOVE &&
	       (error >> 40 & 0xfffff) == pasid &&
	       (code == DSA_COMP_CRA_XLAT || code == DSA_COMP_TRANSLATION_FAIL);
}

/* Let WQ @nr, which is disabled, use @pasid */
static inline __u32 dsa_vfio_enable_wq(struct dsa_vfio *vfio, int nr,
				       __u32 pasid)
{
	size_t wq = dsa_vfio_wq_config(vfio, nr);

	/* Dedicated, priority 10, transfers of 2^20 bytes at most */
	bar_write32(&vfio->bar, wq + 8, 1 << 28 | pasid << 8 | 10 << 4 | 1);
	bar_write32(&vfio->bar, wq + 12, 20);
	return dsa_vfio_command(vfio, DSA_ENABLE_WQ, nr);
}

/* @command: DSA_DISABLE_WQ or DSA_DRAIN_WQ, which end when the WQ is empty */
static inline __u32 dsa_vfio_wq(struct dsa_vfio *vfio, __u32 command, int nr)
{
	return dsa_vfio_command(vfio, command, 1 << nr);
}

static inline struct dsa_queue dsa_vfio_queue(struct dsa_vfio *vfio, int nr)
{
	/* The second of four portals is the limited one */
	return (struct dsa_queue){
		.portal = vfio->portals + (4 * nr + 1) * DSA_PORTAL_SIZE,
	};
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Code shared by the drivers of the PASID DMA engine
 */
#ifndef _PDMA_ENGINE_H
#define _PDMA_ENGINE_H

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/build_bug.h>
#include <linux/cleanup.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/iommu.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/stddef.h>
#include <linux/types.h>

#include "pdma.h"

/* What user space writes to submit a command; @result must be 0 */
struct pdma_submit {
	__le64 src;
	__le64 dst;
	__le32 len;
	__le32 cmd;
	__le32 period;
	__le32 burst;
	__le32 pasid;
	__le32 result;
};

static_assert(offsetof(struct pdma_submit, src) == PDMA_SUBMIT_SRC);
static_assert(offsetof(struct pdma_submit, dst) == PDMA_SUBMIT_DST);
static_assert(offsetof(struct pdma_submit, len) == PDMA_SUBMIT_LEN);
static_assert(offsetof(struct pdma_submit, cmd) == PDMA_SUBMIT_CMD);
static_assert(offsetof(struct pdma_submit, period) == PDMA_SUBMIT_PERIOD);
static_assert(offsetof(struct pdma_submit, burst) == PDMA_SUBMIT_BURST);
static_assert(offsetof(struct pdma_submit, pasid) == PDMA_SUBMIT_PASID);
static_assert(offsetof(struct pdma_submit, result) == PDMA_SUBMIT_RESULT);
static_assert(sizeof(struct pdma_submit) == PDMA_SUBMIT_SIZE);

/* Same in CPU byte order */
struct pdma_cmd {
	u64 src;
	u64 dst;
	u32 len;
	u32 cmd;
	u32 period;
	u32 burst;
	u32 pasid;
};

/* Value of a channel page register as read by user space */
union pdma_reg {
	__le32 val32;
	__le64 val64;
};

/**
 * struct pdma_engine - the PCI function and its registers
 * @pdev: the PCI function, with this struct as driver data
 * @bar: mapping of BAR 0
 * @nr_channels: number of channels
 * @lock: protects the registers and the fields below
 * @in_use: channels allocated by pdma_engine_get_channels()
 * @down: the function is in reset or suspended: all channels are stopped, and
 *	  registers must not be accessed
 * @pasid: PDMA_CTL_PASID of each channel, to be restored after a reset
 *
 * A reset or suspend of the function must not wait for the user of a channel.
 * So the lock is held for register accesses only and is the innermost one:
 * nothing is pinned, mapped, allocated, or copied from or to user space under
 * it. If these must be serialized, use a lock of the channel.
 */
struct pdma_engine {
	struct pci_dev *pdev;
	void __iomem *bar;
	unsigned int nr_channels;

	/* Protects the registers and the fields below */
	spinlock_t lock;
	DECLARE_BITMAP(in_use, PDMA_MAX_CHANNELS);
	bool down;
	u32 pasid[PDMA_MAX_CHANNELS];
};

static inline struct pdma_cmd pdma_to_cmd(const struct pdma_submit *submit)
{
	return (struct pdma_cmd){
		.src = le64_to_cpu(submit->src),
		.dst = le64_to_cpu(submit->dst),
		.len = le32_to_cpu(submit->len),
		.cmd = le32_to_cpu(submit->cmd),
		.period = le32_to_cpu(submit->period),
		.burst = le32_to_cpu(submit->burst),
		.pasid = le32_to_cpu(submit->pasid),
	};
}

/* Channels */

/*
 * Allocate @count consecutive channels, where @count is a power of two. Returns
 * the first channel, or -EUSERS.
 */
static inline int pdma_engine_get_channels(struct pdma_engine *engine,
					   unsigned int count)
{
	unsigned long nr;

	guard(spinlock)(&engine->lock);
	nr = bitmap_find_next_zero_area(engine->in_use, engine->nr_channels, 0,
					count, count - 1);
	if (nr + count > engine->nr_channels)
		return -EUSERS;
	bitmap_set(engine->in_use, nr, count);
	return nr;
}

static inline void pdma_engine_put_channels(struct pdma_engine *engine,
					    unsigned int nr, unsigned int count)
{
	guard(spinlock)(&engine->lock);
	bitmap_clear(engine->in_use, nr, count);
}

/* How many groups of @count channels are available */
static inline unsigned int pdma_engine_available(struct pdma_engine *engine,
						 unsigned int count)
{
	guard(spinlock)(&engine->lock);
	return (engine->nr_channels -
		bitmap_weight(engine->in_use, PDMA_MAX_CHANNELS)) / count;
}

/* Registers */

static inline void __iomem *pdma_engine_regs(struct pdma_engine *engine,
					     unsigned int nr)
{
	return engine->bar + PDMA_CHANNEL_PAGE(nr);
}

/* The read flushes previous writes: see pdma.h on stop and reset */
static inline u32 pdma_engine_status(struct pdma_engine *engine,
				     unsigned int nr)
{
	lockdep_assert_held(&engine->lock);
	return readl(pdma_engine_regs(engine, nr) + PDMA_STATUS);
}

static inline void pdma_engine_write_pasid(struct pdma_engine *engine,
					   unsigned int nr)
{
	writel(engine->pasid[nr], engine->bar + PDMA_CTL(nr) + PDMA_CTL_PASID);
	pdma_engine_status(engine, nr);
}

static inline void pdma_engine_write_stop(struct pdma_engine *engine,
					  unsigned int nr)
{
	writel(PDMA_CMD_STOP, pdma_engine_regs(engine, nr) + PDMA_CMD);
	pdma_engine_status(engine, nr);
}

static inline void pdma_engine_write_reset(struct pdma_engine *engine,
					   unsigned int nr)
{
	writel(1, engine->bar + PDMA_CTL(nr) + PDMA_CTL_RESET);
	pdma_engine_write_pasid(engine, nr);
}

/* When this returns, the channel does no DMA until the next command */
static inline void pdma_engine_stop(struct pdma_engine *engine, unsigned int nr)
{
	guard(spinlock)(&engine->lock);
	if (!engine->down)
		pdma_engine_write_stop(engine, nr);
}

/*
 * Stop the channel and clear its state except for the PASID. If the engine is
 * down, this is left to pdma_engine_restore().
 */
static inline void pdma_engine_reset(struct pdma_engine *engine,
				     unsigned int nr)
{
	guard(spinlock)(&engine->lock);
	if (!engine->down)
		pdma_engine_write_reset(engine, nr);
}

/* @pasid: PDMA_PASID_VALID and an attached PASID, or 0 to disable DMA */
static inline void pdma_engine_set_pasid(struct pdma_engine *engine,
					 unsigned int nr, u32 pasid)
{
	guard(spinlock)(&engine->lock);
	engine->pasid[nr] = pasid;
	if (!engine->down)
		pdma_engine_write_pasid(engine, nr);
}

static inline int __pdma_engine_check_idle(struct pdma_engine *engine,
					   unsigned int nr)
{
	if (engine->down)
		return -EAGAIN;
	return pdma_engine_status(engine, nr) & PDMA_STATUS_BUSY ? -EBUSY : 0;
}

static inline int pdma_engine_check_idle(struct pdma_engine *engine,
					 unsigned int nr)
{
	guard(spinlock)(&engine->lock);
	return __pdma_engine_check_idle(engine, nr);
}

/* Returns -EINVAL if the channel does not accept the command */
static inline int pdma_engine_start(struct pdma_engine *engine, unsigned int nr,
				    const struct pdma_cmd *cmd)
{
	void __iomem *regs = pdma_engine_regs(engine, nr);
	int ret;

	guard(spinlock)(&engine->lock);
	ret = __pdma_engine_check_idle(engine, nr);
	if (ret)
		return ret;

	writeq(cmd->src, regs + PDMA_SRC);
	writeq(cmd->dst, regs + PDMA_DST);
	writel(cmd->len, regs + PDMA_LEN);
	writel(cmd->period ?: 100, regs + PDMA_PERIOD);
	writel(cmd->burst ?: 1, regs + PDMA_BURST);
	writel(cmd->cmd, regs + PDMA_CMD);
	return pdma_engine_status(engine, nr) & PDMA_STATUS_INVALID ? -EINVAL :
								      0;
}

/* Read a 32-bit or 64-bit register of the channel page */
static inline int pdma_engine_read(struct pdma_engine *engine, unsigned int nr,
				   u64 offset, size_t count, union pdma_reg *reg)
{
	void __iomem *regs = pdma_engine_regs(engine, nr);

	if ((count != sizeof(reg->val32) && count != sizeof(reg->val64)) ||
	    !IS_ALIGNED(offset, count) || offset >= PDMA_PAGE_SIZE)
		return -EINVAL;

	guard(spinlock)(&engine->lock);
	if (engine->down)
		return -EAGAIN;
	if (count == sizeof(reg->val32))
		reg->val32 = cpu_to_le32(readl(regs + offset));
	else
		reg->val64 = cpu_to_le64(readq(regs + offset));
	return 0;
}

/* Write a register of the channel page that does not start anything */
static inline int pdma_engine_write(struct pdma_engine *engine, unsigned int nr,
				    u64 offset, u32 val)
{
	if (offset != PDMA_PAGE_DELAY && offset != PDMA_PAGE_TIMEOUT)
		return -EINVAL;

	guard(spinlock)(&engine->lock);
	if (engine->down)
		return -EAGAIN;
	writel(val, pdma_engine_regs(engine, nr) + offset);
	return 0;
}

/* Page requests */

#ifdef PDMA_ENABLE_IOPF
/* Page requests are optional: the function or IOMMU may not support PRI */
static inline int pdma_engine_enable_iopf(struct pdma_engine *engine)
{
	int ret = iommu_dev_enable_feature(&engine->pdev->dev,
					   IOMMU_DEV_FEAT_IOPF);

	return ret == -ENODEV ? 0 : ret;
}

static inline void pdma_engine_disable_iopf(struct pdma_engine *engine)
{
	iommu_dev_disable_feature(&engine->pdev->dev, IOMMU_DEV_FEAT_IOPF);
}
#else
/* Done by the IOMMU driver when it attaches a domain with a fault handler */
static inline int pdma_engine_enable_iopf(struct pdma_engine *engine)
{
	return 0;
}

static inline void pdma_engine_disable_iopf(struct pdma_engine *engine)
{
}
#endif

/* Reset and suspend of the function */

static inline void pdma_engine_quiesce(struct pdma_engine *engine)
{
	unsigned int nr;

	guard(spinlock)(&engine->lock);
	for (nr = 0; nr < engine->nr_channels; nr++)
		pdma_engine_write_stop(engine, nr);
	engine->down = true;
}

/*
 * The function was or may have been reset. Also restore parked PASIDs, as the
 * IOMMU still blocks their DMA.
 */
static inline void pdma_engine_restore(struct pdma_engine *engine)
{
	unsigned int nr;

	guard(spinlock)(&engine->lock);
	for (nr = 0; nr < engine->nr_channels; nr++)
		pdma_engine_write_reset(engine, nr);
	engine->down = false;
}

static inline void pdma_engine_reset_prepare(struct pci_dev *pdev)
{
	pdma_engine_quiesce(pci_get_drvdata(pdev));
}

static inline void pdma_engine_reset_done(struct pci_dev *pdev)
{
	pdma_engine_restore(pci_get_drvdata(pdev));
}

static inline int pdma_engine_suspend(struct device *dev)
{
	pdma_engine_quiesce(dev_get_drvdata(dev));
	pci_clear_master(to_pci_dev(dev));
	return 0;
}

static inline int pdma_engine_resume(struct device *dev)
{
	pdma_engine_restore(dev_get_drvdata(dev));
	pci_set_master(to_pci_dev(dev));
	return 0;
}

/*
 * Enable the function, map BAR 0, and stop all channels, which a previous
 * driver may have left running. Undone by devres.
 */
static inline int pdma_init_engine(struct pdma_engine *engine,
				   struct pci_dev *pdev)
{
	struct device *dev = &pdev->dev;
	unsigned int nr;
	int ret;

	engine->pdev = pdev;
	spin_lock_init(&engine->lock);

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;

	engine->bar = pcim_iomap_region(pdev, 0, KBUILD_MODNAME);
	if (IS_ERR(engine->bar))
		return PTR_ERR(engine->bar);
	if (pci_resource_len(pdev, 0) < PDMA_PAGE_SIZE ||
	    readl(engine->bar + PDMA_ID) != PDMA_ID_VALUE)
		return dev_err_probe(dev, -ENODEV, "not a PASID DMA engine\n");

	nr = readl(engine->bar + PDMA_CHANNELS);
	if (!nr || nr > PDMA_MAX_CHANNELS ||
	    pci_resource_len(pdev, 0) < PDMA_STATUS_PAGE(nr))
		return dev_err_probe(dev, -ENODEV, "bad number of channels\n");

	engine->nr_channels = nr;
	pdma_engine_restore(engine);
	return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the drivers of the PASID DMA engine have in common
 */
#ifndef _PDMA_ENGINE_H
#define _PDMA_ENGINE_H

#include <linux/build_bug.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/pci.h>
#include <linux/stddef.h>
#include <linux/types.h>

#include "pdma.h"

/* What user space writes to submit a command */
struct pdma_submit {
	__le64 src;
	__le64 dst;
	__le32 len;
	__le32 cmd;
	__le32 period;
	__le32 burst;
};

static_assert(offsetof(struct pdma_submit, src) == PDMA_SUBMIT_SRC);
static_assert(offsetof(struct pdma_submit, dst) == PDMA_SUBMIT_DST);
static_assert(offsetof(struct pdma_submit, len) == PDMA_SUBMIT_LEN);
static_assert(offsetof(struct pdma_submit, cmd) == PDMA_SUBMIT_CMD);
static_assert(offsetof(struct pdma_submit, period) == PDMA_SUBMIT_PERIOD);
static_assert(offsetof(struct pdma_submit, burst) == PDMA_SUBMIT_BURST);
static_assert(sizeof(struct pdma_submit) == PDMA_SUBMIT_SIZE);

/*
 * Neither what the channel did nor what it counted is left, nor its PASID. The
 * read completes the writes before it, see pdma.h on reset.
 */
static inline void pdma_clear_channel(void __iomem *bar, unsigned int nr)
{
	writel(1, bar + PDMA_CTL(nr) + PDMA_CTL_RESET);
	writel(0, bar + PDMA_CTL(nr) + PDMA_CTL_PASID);
	readl(bar + PDMA_CHANNEL_PAGE(nr) + PDMA_STATUS);
}

/*
 * Enable the function, map all of BAR 0, and stop all channels: whoever had the
 * engine before may have left it running. Undone when the driver lets go of it.
 * Returns the mapping or ERR_PTR.
 */
static inline void __iomem *pdma_init_engine(struct pci_dev *pdev,
					     unsigned int *nr_channels)
{
	struct device *dev = &pdev->dev;
	void __iomem *bar;
	unsigned int nr;
	int ret;

	ret = pcim_enable_device(pdev);
	if (ret)
		return IOMEM_ERR_PTR(ret);

	bar = pcim_iomap_region(pdev, 0, KBUILD_MODNAME);
	if (IS_ERR(bar))
		return bar;
	if (pci_resource_len(pdev, 0) < PDMA_PAGE_SIZE ||
	    readl(bar + PDMA_ID) != PDMA_ID_VALUE)
		return IOMEM_ERR_PTR(dev_err_probe(dev, -ENODEV,
						   "not a PASID DMA engine\n"));

	nr = readl(bar + PDMA_CHANNELS);
	if (!nr || nr > PDMA_MAX_CHANNELS ||
	    pci_resource_len(pdev, 0) < PDMA_CHANNEL_PAGE(nr))
		return IOMEM_ERR_PTR(dev_err_probe(dev, -ENODEV,
						   "bad number of channels\n"));

	*nr_channels = nr;
	while (nr--)
		pdma_clear_channel(bar, nr);
	return bar;
}

#endif

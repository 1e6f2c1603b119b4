// SPDX-License-Identifier: GPL-2.0-only
/*
 * Driver for the PASID DMA engine that binds channels to processes (SVA)
 *
 * It takes an engine only when it is asked to, by driver_override: pdma.c is
 * what takes them by themselves. Each open file is a channel. The user
 *
 *  - binds it to the own address space. The channel DMAs with the PASID of the
 *    process, through the page tables that the CPU uses, too.
 *  - submits commands with virtual addresses. Nothing is pinned or mapped.
 *
 * A process exits before its files are closed, and others may keep a file open
 * for much longer. The channel is not stopped then: from the exit to the unbind,
 * the IOMMU refuses what it sends, and keeps quiet about it.
 *
 * A channel can have a PASID of the other kind instead: an IOASID that the user
 * has allocated. Both kinds live side by side in the PASID table of the engine.
 */
#include <linux/cleanup.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/ioasid.h>
#include <linux/iommu.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "pdma-engine.h"

/**
 * struct pdma_sva_dev - an engine, and the character device for it
 * @kref: held by the driver core and by every open file
 * @pdev: the PCI function, valid as long as @bar
 * @nr_channels: how many channels it has
 * @misc: the character device
 * @name: of @misc
 * @lock: protects all below, and all of the channels
 * @bar: all of BAR 0, NULL: the engine has been taken from us
 * @channels: open files by channel, NULL: free
 */
struct pdma_sva_dev {
	struct kref kref;
	struct pci_dev *pdev;
	unsigned int nr_channels;
	struct miscdevice misc;
	char name[40];

	/* Protects all below, and all of the channels */
	struct mutex lock;
	void __iomem *bar;
	struct pdma_sva_channel *channels[PDMA_MAX_CHANNELS];
};

/**
 * struct pdma_sva_channel - an open file
 * @sva: the engine
 * @nr: number of the channel
 * @handle: of the process that the channel is bound to, or NULL
 * @mm: its address space; @handle keeps the pointer from getting a new meaning
 * @ioasid: attached to @domain, or NULL
 * @tracker: of the reference to @ioasid
 * @domain: maps @page, and nothing else
 * @page: what the channel can reach with @ioasid
 */
struct pdma_sva_channel {
	struct pdma_sva_dev *sva;
	unsigned int nr;

	/* SVA */
	struct iommu_sva *handle;
	struct mm_struct *mm;

	/* Not SVA */
	struct ioasid *ioasid;
	struct ioasid_tracker tracker;
	struct iommu_domain *domain;
	struct page *page;
};

static void pdma_sva_free(struct kref *kref)
{
	struct pdma_sva_dev *sva = container_of(kref, struct pdma_sva_dev,
						kref);

	mutex_destroy(&sva->lock);
	kfree(sva);
}

static void pdma_sva_put(struct pdma_sva_dev *sva)
{
	kref_put(&sva->kref, pdma_sva_free);
}

/* Registers */

static void __iomem *pdma_sva_regs(struct pdma_sva_channel *ch)
{
	return ch->sva->bar + PDMA_CHANNEL_PAGE(ch->nr);
}

/* The read completes the writes before it: see pdma.h on stop */
static u32 pdma_sva_status(struct pdma_sva_channel *ch)
{
	return readl(pdma_sva_regs(ch) + PDMA_STATUS);
}

static void pdma_sva_stop(struct pdma_sva_channel *ch)
{
	writel(PDMA_CMD_STOP, pdma_sva_regs(ch) + PDMA_CMD);
	pdma_sva_status(ch);
}

/* @val: PDMA_PASID_VALID and a number, or 0: no DMA at all */
static void pdma_sva_write_pasid(struct pdma_sva_channel *ch, u32 val)
{
	writel(val, ch->sva->bar + PDMA_CTL(ch->nr) + PDMA_CTL_PASID);
	pdma_sva_status(ch);
}

/* PASID */

/*
 * Takes PASIDs and ATS of device and bus, and first-stage translation of the
 * IOMMU. No page requests: the engine has no PRI.
 */
static int pdma_sva_bind(struct pdma_sva_channel *ch)
{
	struct iommu_sva *handle;
	u32 pasid;

	if (ch->handle || ch->ioasid)
		return -EBUSY;

	handle = iommu_sva_bind_device(&ch->sva->pdev->dev, current->mm);
	if (IS_ERR(handle))
		return PTR_ERR(handle);

	pasid = iommu_sva_get_pasid(handle);
	ch->handle = handle;
	ch->mm = current->mm;
	pdma_sva_write_pasid(ch, PDMA_PASID_VALID | pasid);
	return pasid;
}

static int pdma_sva_map_page(struct pdma_sva_channel *ch)
{
	int ret;

	ch->domain = iommu_paging_domain_alloc(&ch->sva->pdev->dev);
	if (IS_ERR(ch->domain))
		return PTR_ERR(ch->domain);

	ret = -ENOMEM;
	ch->page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!ch->page)
		goto err_free_domain;

	ret = iommu_map(ch->domain, PDMA_SVA_IOVA, page_to_phys(ch->page),
			PAGE_SIZE, IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE,
			GFP_KERNEL_ACCOUNT);
	if (ret)
		goto err_free_page;
	return 0;

err_free_page:
	__free_page(ch->page);
err_free_domain:
	iommu_domain_free(ch->domain);
	return ret;
}

/* Nothing of the domain is cached any more */
static void pdma_sva_unmap_page(struct pdma_sva_channel *ch)
{
	iommu_unmap(ch->domain, PDMA_SVA_IOVA, PAGE_SIZE);
	iommu_domain_free(ch->domain);
	__free_page(ch->page);
}

static int pdma_sva_attach(struct pdma_sva_channel *ch, void __user *uptr)
{
	struct {
		__s32 fd;
		__u32 id;
	} arg;
	struct ioasid *ioasid;
	int ret;

	if (copy_from_user(&arg, uptr, sizeof(arg)))
		return -EFAULT;
	if (ch->handle || ch->ioasid)
		return -EBUSY;

	ioasid = ioasid_fd_get(arg.fd, arg.id, IOASID_USER_DRIVER,
			       &ch->tracker);
	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);

	ret = pdma_sva_map_page(ch);
	if (ret)
		goto err_put_ioasid;

	ret = ioasid_attach_device(ioasid, ch->domain, &ch->sva->pdev->dev,
				   NULL);
	if (ret)
		goto err_unmap_page;

	ch->ioasid = ioasid;
	pdma_sva_write_pasid(ch, PDMA_PASID_VALID | ioasid_id(ioasid));
	return 0;

err_unmap_page:
	pdma_sva_unmap_page(ch);
err_put_ioasid:
	ioasid_user_put(ioasid, IOASID_USER_DRIVER, &ch->tracker);
	return ret;
}

static int pdma_sva_unbind(struct pdma_sva_channel *ch)
{
	if (!ch->handle && !ch->ioasid)
		return -ENXIO;

	/* First of all: DMA of an unbound PASID is a fault that is reported */
	pdma_sva_stop(ch);
	pdma_sva_write_pasid(ch, 0);

	if (ch->handle) {
		iommu_sva_unbind_device(ch->handle);
		ch->handle = NULL;
		ch->mm = NULL;
	} else {
		ioasid_detach_device(ch->ioasid, ch->domain,
				     &ch->sva->pdev->dev);
		ioasid_user_put(ch->ioasid, IOASID_USER_DRIVER, &ch->tracker);
		ch->ioasid = NULL;
		pdma_sva_unmap_page(ch);
	}
	return 0;
}

/* Commands */

static int pdma_sva_may_start(struct pdma_sva_channel *ch)
{
	/* Also those who got the file by fork(): it is not their memory */
	if (ch->handle)
		return ch->mm == current->mm ? 0 : -EPERM;
	if (ch->ioasid)
		return ioasid_is_active(ch->ioasid) ? 0 : -ESHUTDOWN;
	return -ENXIO;
}

static int pdma_sva_start(struct pdma_sva_channel *ch,
			  const struct pdma_submit *submit)
{
	void __iomem *regs = pdma_sva_regs(ch);
	u32 cmd = le32_to_cpu(submit->cmd);
	int ret;

	if (cmd != PDMA_CMD_COPY && cmd != PDMA_CMD_STREAM)
		return -EINVAL;

	ret = pdma_sva_may_start(ch);
	if (ret)
		return ret;
	if (pdma_sva_status(ch) & PDMA_STATUS_BUSY)
		return -EBUSY;

	writeq(le64_to_cpu(submit->src), regs + PDMA_SRC);
	writeq(le64_to_cpu(submit->dst), regs + PDMA_DST);
	writel(le32_to_cpu(submit->len), regs + PDMA_LEN);
	writel(le32_to_cpu(submit->period) ?: 100, regs + PDMA_PERIOD);
	writel(le32_to_cpu(submit->burst) ?: 1, regs + PDMA_BURST);
	writel(cmd, regs + PDMA_CMD);
	return pdma_sva_status(ch) & PDMA_STATUS_INVALID ? -EINVAL : 0;
}

static ssize_t pdma_sva_write(struct file *file, const char __user *buf,
			      size_t count, loff_t *ppos)
{
	struct pdma_sva_channel *ch = file->private_data;
	struct pdma_submit submit;
	int ret = 0;

	if (*ppos || count != sizeof(submit))
		return -EINVAL;
	if (copy_from_user(&submit, buf, sizeof(submit)))
		return -EFAULT;

	guard(mutex)(&ch->sva->lock);
	if (!ch->sva->bar)
		return -ENODEV;
	if (le32_to_cpu(submit.cmd) == PDMA_CMD_STOP)
		pdma_sva_stop(ch);
	else
		ret = pdma_sva_start(ch, &submit);
	return ret ?: count;
}

/* One register at a time */
static ssize_t pdma_sva_read(struct file *file, char __user *buf, size_t count,
			     loff_t *ppos)
{
	struct pdma_sva_channel *ch = file->private_data;
	__le64 val64;
	__le32 val32;
	void *val;

	if ((count != sizeof(val32) && count != sizeof(val64)) ||
	    !IS_ALIGNED(*ppos, count) || *ppos >= PDMA_PAGE_SIZE)
		return -EINVAL;

	scoped_guard(mutex, &ch->sva->lock) {
		if (!ch->sva->bar)
			return -ENODEV;
		if (count == sizeof(val32)) {
			val32 = cpu_to_le32(readl(pdma_sva_regs(ch) + *ppos));
			val = &val32;
		} else {
			val64 = cpu_to_le64(readq(pdma_sva_regs(ch) + *ppos));
			val = &val64;
		}
	}
	return copy_to_user(buf, val, count) ? -EFAULT : count;
}

static long pdma_sva_ioctl(struct file *file, unsigned int cmd,
			   unsigned long arg)
{
	struct pdma_sva_channel *ch = file->private_data;

	guard(mutex)(&ch->sva->lock);
	if (!ch->sva->bar)
		return -ENODEV;

	switch (cmd) {
	case PDMA_SVA_BIND:
		return pdma_sva_bind(ch);
	case PDMA_SVA_ATTACH:
		return pdma_sva_attach(ch, (void __user *)arg);
	case PDMA_SVA_UNBIND:
		return pdma_sva_unbind(ch);
	default:
		return -ENOTTY;
	}
}

static int pdma_sva_open(struct inode *inode, struct file *file)
{
	/* misc_deregister() waits for this function: the engine is there */
	struct pdma_sva_dev *sva = container_of(file->private_data,
						struct pdma_sva_dev, misc);
	struct pdma_sva_channel *ch;

	ch = kzalloc(sizeof(*ch), GFP_KERNEL_ACCOUNT);
	if (!ch)
		return -ENOMEM;
	ch->sva = sva;

	guard(mutex)(&sva->lock);
	while (sva->channels[ch->nr]) {
		if (++ch->nr == sva->nr_channels) {
			kfree(ch);
			return -EUSERS;
		}
	}
	/* This user is not to see the counters of the last one */
	pdma_clear_channel(sva->bar, ch->nr);
	sva->channels[ch->nr] = ch;
	kref_get(&sva->kref);
	file->private_data = ch;
	return 0;
}

static int pdma_sva_release(struct inode *inode, struct file *file)
{
	struct pdma_sva_channel *ch = file->private_data;
	struct pdma_sva_dev *sva = ch->sva;

	scoped_guard(mutex, &sva->lock) {
		if (sva->bar) {
			pdma_sva_unbind(ch);
			pdma_clear_channel(sva->bar, ch->nr);
		}
		sva->channels[ch->nr] = NULL;
	}
	kfree(ch);
	pdma_sva_put(sva);
	return 0;
}

static const struct file_operations pdma_sva_fops = {
	.owner = THIS_MODULE,
	.open = pdma_sva_open,
	.release = pdma_sva_release,
	.read = pdma_sva_read,
	.write = pdma_sva_write,
	.unlocked_ioctl = pdma_sva_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/* The engine */

static int pdma_sva_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct pdma_sva_dev *sva;
	int ret;

	sva = kzalloc(sizeof(*sva), GFP_KERNEL);
	if (!sva)
		return -ENOMEM;
	kref_init(&sva->kref);
	mutex_init(&sva->lock);
	sva->pdev = pdev;
	snprintf(sva->name, sizeof(sva->name), PDMA_SVA_DRIVER "-%s",
		 pci_name(pdev));
	sva->misc.minor = MISC_DYNAMIC_MINOR;
	sva->misc.name = sva->name;
	sva->misc.fops = &pdma_sva_fops;
	sva->misc.parent = dev;
	sva->misc.mode = 0660;

	sva->bar = pdma_init_engine(pdev, &sva->nr_channels);
	if (IS_ERR(sva->bar)) {
		ret = PTR_ERR(sva->bar);
		goto err_put;
	}

	pci_set_master(pdev);
	pci_set_drvdata(pdev, sva);
	/* From here on it can be opened */
	ret = misc_register(&sva->misc);
	if (ret)
		goto err_master;
	return 0;

err_master:
	pci_clear_master(pdev);
err_put:
	pdma_sva_put(sva);
	return ret;
}

/* Files may stay open, but nothing is left behind them */
static void pdma_sva_remove(struct pci_dev *pdev)
{
	struct pdma_sva_dev *sva = pci_get_drvdata(pdev);
	unsigned int nr;

	misc_deregister(&sva->misc);
	scoped_guard(mutex, &sva->lock) {
		for (nr = 0; nr < sva->nr_channels; nr++)
			if (sva->channels[nr])
				pdma_sva_unbind(sva->channels[nr]);
		sva->bar = NULL;
	}
	pci_clear_master(pdev);
	pdma_sva_put(sva);
}

/* No MODULE_DEVICE_TABLE: nobody gets this driver without having asked for it */
static const struct pci_device_id pdma_sva_ids[] = {
	{ PCI_DEVICE_DRIVER_OVERRIDE(PDMA_VENDOR_ID, PDMA_DEVICE_ID, 1) },
	{ }
};

static struct pci_driver pdma_sva_driver = {
	.name = PDMA_SVA_DRIVER,
	.id_table = pdma_sva_ids,
	.probe = pdma_sva_probe,
	.remove = pdma_sva_remove,
};
module_pci_driver(pdma_sva_driver);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("PASID DMA engine, bound to processes");

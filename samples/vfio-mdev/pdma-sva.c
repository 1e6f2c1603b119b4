// SPDX-License-Identifier: GPL-2.0-only
/*
 * PASID DMA engine driver that binds channels to processes (SVA)
 *
 * Only binds to an engine through driver_override; by default, engines are
 * driven by pdma.c. Each open file is a channel. The user
 *
 *  - binds the channel to its own address space. The channel DMAs with the
 *    PASID of the process, through the page tables of the CPU.
 *  - submits commands with virtual addresses. Nothing is pinned or mapped. With
 *    one of PDMA_CMD_FLAGS, the channel requests pages that are not present.
 *
 * A process exits before its files are closed, and other processes may keep a
 * file open for much longer. The channel is not stopped on exit: from exit to
 * unbind, the IOMMU blocks its DMA without reporting faults.
 *
 * A channel may use an IOASID allocated by the user instead. Both kinds of
 * PASIDs coexist in the PASID table of the engine.
 *
 * Locks, outermost first:
 *
 *   pdma_sva_channel.lock  serializes operations on the channel
 *   SVA, IOASID and IOMMU locks
 *   pdma_engine.lock       registers, and the PASID of each channel
 *
 * None of them is held across copy_from_user() or copy_to_user(). Bind may take
 * long, as iommu_sva_bind_device() takes the mmap_lock of the process under a
 * global lock of the SVA core: a process with a contended mmap_lock delays all
 * binds and unbinds of the machine, which a driver cannot change. open() is
 * called with a lock of all misc devices held, and takes the innermost lock
 * only.
 */
#include <linux/cleanup.h>
#include <linux/fs.h>
#include <linux/gfp.h>
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
 * struct pdma_sva_channel - a channel and its open file
 * @sva: the engine
 * @nr: number of the channel
 * @lock: protects the fields below
 * @gone: the driver was unbound from the engine
 * @handle: SVA bond of the channel, or NULL
 * @mm: the mm of @handle, which pins it, so that the pointer cannot be reused
 * @ref: the IOASID attached to @domain; @ref.ioasid is NULL if there is none
 * @domain: maps only @page
 * @page: the memory that the channel can access with @ref
 */
struct pdma_sva_channel {
	struct pdma_sva_dev *sva;
	unsigned int nr;

	/* Protects the fields below */
	struct mutex lock;
	bool gone;

	/* SVA */
	struct iommu_sva *handle;
	struct mm_struct *mm;

	/* IOASID */
	struct ioasid_ref ref;
	struct iommu_domain *domain;
	struct page *page;
};

/**
 * struct pdma_sva_dev - an engine and its character device
 * @kref: held by the driver core and by every open file
 * @engine: the PCI function; a channel may use it until it is @gone
 * @misc: the character device
 * @name: name of @misc
 * @channels: all channels, by number
 */
struct pdma_sva_dev {
	struct kref kref;
	struct pdma_engine engine;
	struct miscdevice misc;
	char name[40];
	struct pdma_sva_channel channels[PDMA_MAX_CHANNELS];
};

static void pdma_sva_free(struct kref *kref)
{
	struct pdma_sva_dev *sva = container_of(kref, struct pdma_sva_dev,
						kref);
	unsigned int nr;

	for (nr = 0; nr < PDMA_MAX_CHANNELS; nr++)
		mutex_destroy(&sva->channels[nr].lock);
	kfree(sva);
}

static void pdma_sva_put(struct pdma_sva_dev *sva)
{
	kref_put(&sva->kref, pdma_sva_free);
}

static struct pdma_engine *pdma_sva_engine(struct pdma_sva_channel *ch)
{
	return &ch->sva->engine;
}

static struct device *pdma_sva_dma_dev(struct pdma_sva_channel *ch)
{
	return &pdma_sva_engine(ch)->pdev->dev;
}

/* PASID */

static int pdma_sva_may_bind(struct pdma_sva_channel *ch)
{
	lockdep_assert_held(&ch->lock);

	if (ch->gone)
		return -ENODEV;
	return ch->handle || ch->ref.ioasid ? -EBUSY : 0;
}

/*
 * Requires PASIDs and ATS in the device and on the bus, and first-stage
 * translation in the IOMMU. Page requests are optional.
 */
static int pdma_sva_bind(struct pdma_sva_channel *ch)
{
	struct iommu_sva *handle;
	u32 pasid;
	int ret;

	guard(mutex)(&ch->lock);
	ret = pdma_sva_may_bind(ch);
	if (ret)
		return ret;

	handle = iommu_sva_bind_device(pdma_sva_dma_dev(ch), current->mm);
	if (IS_ERR(handle))
		return PTR_ERR(handle);

	pasid = iommu_sva_get_pasid(handle);
	ch->handle = handle;
	ch->mm = current->mm;
	pdma_engine_set_pasid(pdma_sva_engine(ch), ch->nr,
			      PDMA_PASID_VALID | pasid);
	return pasid;
}

static int pdma_sva_map_page(struct pdma_sva_channel *ch)
{
	int ret;

	ch->domain = iommu_paging_domain_alloc(pdma_sva_dma_dev(ch));
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

/* Call after detach and flush: no cache may reference the domain */
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
	struct ioasid_ref ref;
	int ret;

	if (copy_from_user(&arg, uptr, sizeof(arg)))
		return -EFAULT;

	ret = ioasid_fd_get(arg.fd, arg.id, IOASID_USER_DRIVER, &ref);
	if (ret)
		return ret;

	guard(mutex)(&ch->lock);
	ret = pdma_sva_may_bind(ch);
	if (ret)
		goto err_put_ioasid;

	ret = pdma_sva_map_page(ch);
	if (ret)
		goto err_put_ioasid;

	ret = ioasid_attach_device(ref.ioasid, ch->domain, pdma_sva_dma_dev(ch),
				   NULL);
	if (ret)
		goto err_unmap_page;

	ch->ref = ref;
	pdma_engine_set_pasid(pdma_sva_engine(ch), ch->nr,
			      PDMA_PASID_VALID | ioasid_id(ref.ioasid));
	return 0;

err_unmap_page:
	pdma_sva_unmap_page(ch);
err_put_ioasid:
	ioasid_user_put(&ref);
	return ret;
}

static int __pdma_sva_unbind(struct pdma_sva_channel *ch)
{
	lockdep_assert_held(&ch->lock);

	if (ch->gone)
		return -ENODEV;
	if (!ch->handle && !ch->ref.ioasid)
		return -ENXIO;

	/* Stop first, as DMA with an unbound PASID is a reported fault */
	pdma_engine_stop(pdma_sva_engine(ch), ch->nr);
	pdma_engine_set_pasid(pdma_sva_engine(ch), ch->nr, 0);

	if (ch->handle) {
		iommu_sva_unbind_device(ch->handle);
		ch->handle = NULL;
		ch->mm = NULL;
	} else {
		ioasid_detach_device(ch->ref.ioasid, ch->domain,
				     pdma_sva_dma_dev(ch));
		ioasid_user_put(&ch->ref);
		ch->ref.ioasid = NULL;
		pdma_sva_unmap_page(ch);
	}
	return 0;
}

static int pdma_sva_unbind(struct pdma_sva_channel *ch)
{
	guard(mutex)(&ch->lock);
	return __pdma_sva_unbind(ch);
}

/* Commands */

static int pdma_sva_may_start(struct pdma_sva_channel *ch)
{
	/* The file may be shared by fork(), but not the address space */
	if (ch->handle)
		return ch->mm == current->mm ? 0 : -EPERM;
	if (ch->ref.ioasid)
		return ioasid_is_active(ch->ref.ioasid) ? 0 : -ESHUTDOWN;
	return -ENXIO;
}

static int pdma_sva_start(struct pdma_sva_channel *ch,
			  const struct pdma_cmd *cmd)
{
	u32 op = cmd->cmd & ~PDMA_CMD_FLAGS;
	int ret;

	if (op != PDMA_CMD_COPY && op != PDMA_CMD_STREAM)
		return -EINVAL;

	ret = pdma_sva_may_start(ch);
	if (ret)
		return ret;
	return pdma_engine_start(pdma_sva_engine(ch), ch->nr, cmd);
}

static ssize_t pdma_sva_write_reg(struct pdma_sva_channel *ch,
				  const char __user *buf, size_t count,
				  loff_t offset)
{
	__le32 val;
	int ret;

	if (count != sizeof(val))
		return -EINVAL;
	if (copy_from_user(&val, buf, sizeof(val)))
		return -EFAULT;

	guard(mutex)(&ch->lock);
	if (ch->gone)
		return -ENODEV;
	ret = pdma_engine_write(pdma_sva_engine(ch), ch->nr, offset,
				le32_to_cpu(val));
	return ret ?: count;
}

static ssize_t pdma_sva_write(struct file *file, const char __user *buf,
			      size_t count, loff_t *ppos)
{
	struct pdma_sva_channel *ch = file->private_data;
	struct pdma_submit submit;
	struct pdma_cmd cmd;
	int ret = 0;

	if (*ppos)
		return pdma_sva_write_reg(ch, buf, count, *ppos);
	if (count != sizeof(submit))
		return -EINVAL;
	if (copy_from_user(&submit, buf, sizeof(submit)))
		return -EFAULT;
	/* The PASID is that of the channel */
	if (submit.pasid || submit.result)
		return -EINVAL;
	cmd = pdma_to_cmd(&submit);

	guard(mutex)(&ch->lock);
	if (ch->gone)
		return -ENODEV;
	if (cmd.cmd == PDMA_CMD_STOP)
		pdma_engine_stop(pdma_sva_engine(ch), ch->nr);
	else
		ret = pdma_sva_start(ch, &cmd);
	return ret ?: count;
}

/* Read one register */
static ssize_t pdma_sva_read(struct file *file, char __user *buf, size_t count,
			     loff_t *ppos)
{
	struct pdma_sva_channel *ch = file->private_data;
	union pdma_reg reg;
	int ret;

	scoped_guard(mutex, &ch->lock) {
		if (ch->gone)
			return -ENODEV;
		ret = pdma_engine_read(pdma_sva_engine(ch), ch->nr, *ppos,
				       count, &reg);
		if (ret)
			return ret;
	}
	return copy_to_user(buf, &reg, count) ? -EFAULT : count;
}

static long pdma_sva_ioctl(struct file *file, unsigned int cmd,
			   unsigned long arg)
{
	struct pdma_sva_channel *ch = file->private_data;

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
	/* misc_deregister() waits for us, so the engine is present */
	struct pdma_sva_dev *sva = container_of(file->private_data,
						struct pdma_sva_dev, misc);
	int nr = pdma_engine_get_channels(&sva->engine, 1);

	if (nr < 0)
		return nr;
	/* Do not leak the counters of the previous user */
	pdma_engine_reset(&sva->engine, nr);
	kref_get(&sva->kref);
	file->private_data = &sva->channels[nr];
	return 0;
}

static int pdma_sva_release(struct inode *inode, struct file *file)
{
	struct pdma_sva_channel *ch = file->private_data;
	struct pdma_sva_dev *sva = ch->sva;

	scoped_guard(mutex, &ch->lock) {
		__pdma_sva_unbind(ch);
		if (!ch->gone)
			pdma_engine_reset(&sva->engine, ch->nr);
	}
	pdma_engine_put_channels(&sva->engine, ch->nr, 1);
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
	unsigned int nr;
	int ret;

	sva = kzalloc(sizeof(*sva), GFP_KERNEL);
	if (!sva)
		return -ENOMEM;
	kref_init(&sva->kref);
	for (nr = 0; nr < PDMA_MAX_CHANNELS; nr++) {
		sva->channels[nr].sva = sva;
		sva->channels[nr].nr = nr;
		mutex_init(&sva->channels[nr].lock);
	}
	snprintf(sva->name, sizeof(sva->name), PDMA_SVA_DRIVER "-%s",
		 pci_name(pdev));
	sva->misc.minor = MISC_DYNAMIC_MINOR;
	sva->misc.name = sva->name;
	sva->misc.fops = &pdma_sva_fops;
	sva->misc.parent = dev;
	sva->misc.mode = 0660;

	ret = pdma_init_engine(&sva->engine, pdev);
	if (ret)
		goto err_put;
	ret = pdma_engine_enable_iopf(&sva->engine);
	if (ret)
		goto err_put;

	pci_set_master(pdev);
	pci_set_drvdata(pdev, &sva->engine);
	/* May be opened from here on */
	ret = misc_register(&sva->misc);
	if (ret)
		goto err_master;
	return 0;

err_master:
	pci_clear_master(pdev);
	pdma_engine_disable_iopf(&sva->engine);
err_put:
	pdma_sva_put(sva);
	return ret;
}

/* Files may stay open, but do not hold any resources */
static void pdma_sva_remove(struct pci_dev *pdev)
{
	struct pdma_sva_dev *sva = container_of(pci_get_drvdata(pdev),
						struct pdma_sva_dev, engine);
	unsigned int nr;

	misc_deregister(&sva->misc);
	for (nr = 0; nr < PDMA_MAX_CHANNELS; nr++) {
		guard(mutex)(&sva->channels[nr].lock);
		__pdma_sva_unbind(&sva->channels[nr]);
		sva->channels[nr].gone = true;
	}
	pci_clear_master(pdev);
	pdma_engine_disable_iopf(&sva->engine);
	pdma_sva_put(sva);
}

static const struct pci_error_handlers pdma_sva_err_handler = {
	.reset_prepare = pdma_engine_reset_prepare,
	.reset_done = pdma_engine_reset_done,
};

static DEFINE_SIMPLE_DEV_PM_OPS(pdma_sva_pm_ops, pdma_engine_suspend,
				pdma_engine_resume);

/* No MODULE_DEVICE_TABLE: only used if requested by driver_override */
static const struct pci_device_id pdma_sva_ids[] = {
	{ PCI_DEVICE_DRIVER_OVERRIDE(PDMA_VENDOR_ID, PDMA_DEVICE_ID, 1) },
	{ }
};

static struct pci_driver pdma_sva_driver = {
	.name = PDMA_SVA_DRIVER,
	.id_table = pdma_sva_ids,
	.probe = pdma_sva_probe,
	.remove = pdma_sva_remove,
	.err_handler = &pdma_sva_err_handler,
	.driver.pm = pm_sleep_ptr(&pdma_sva_pm_ops),
};
module_pci_driver(pdma_sva_driver);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("SVA driver for the PASID DMA engine");

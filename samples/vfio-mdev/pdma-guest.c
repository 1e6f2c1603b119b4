// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest driver for the mediated PASID DMA device
 *
 * For a virtual machine with an assigned mediated device of pdma.c. Allocates
 * PASIDs with the API of the guest kernel, and lets a test program bind them to
 * channels and submit commands, see pdma.h. Also builds out of tree for stock
 * kernels, against the headers of Linux 6.1 to 6.3 and 6.11 or later.
 *
 * Closing a file, or unbinding the driver, first stops the file's channels,
 * then frees its PASIDs and then unmaps its memory.
 */
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/iommu.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/xarray.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
#include <linux/ioasid.h>
#endif

#include "pdma.h"

struct pdma_guest_submit {
	__le64 src;
	__le64 dst;
	__le32 len;
	__le32 cmd;
	__le32 period;
	__le32 burst;
	__le32 pasid;
	__le32 result;
};

static_assert(sizeof(struct pdma_guest_submit) == PDMA_SUBMIT_SIZE);

/**
 * struct pdma_guest - the mediated device, as seen by the guest
 * @kref: held by the driver core and by every open file
 * @misc: the character device
 * @name: of @misc
 * @lock: protects the registers and the fields below
 * @pdev: the PCI function, NULL after the driver was unbound
 * @bar: mapping of BAR 0
 * @files: all open files
 * @users: the file that uses each channel, or NULL
 */
struct pdma_guest {
	struct kref kref;
	struct miscdevice misc;
	char name[40];

	/* Protects the registers and the fields below */
	struct mutex lock;
	struct pci_dev *pdev;
	void __iomem *bar;
	struct list_head files;
	struct pdma_guest_file *users[PDMA_MDEV_CHANNELS];
};

/**
 * struct pdma_guest_file - an open file
 * @guest: the device
 * @node: in &pdma_guest.files
 * @pasids: PASIDs allocated by the file
 * @buf: DMA buffer, freed with the file
 * @dma: IOVA of @buf, valid until the driver is unbound
 */
struct pdma_guest_file {
	struct pdma_guest *guest;
	struct list_head node;
	struct xarray pasids;
	void *buf;
	dma_addr_t dma;
};

/* PASIDs */

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)

/*
 * If the emulated IOMMU has the virtual command interface, its driver asks the
 * VMM for the PASID. The private data must be NULL: intel_vcmd_ioasid_free()
 * refuses to free IOASIDs with private data, and would not tell the VMM.
 *
 * These kernels cannot attach a domain to a PASID. That is not needed here, as
 * the host translates all PASIDs of the device with the same domain.
 */
static int pdma_guest_alloc_pasid(struct device *dev, u32 *pasid)
{
	*pasid = ioasid_alloc(NULL, 1, PDMA_PASID_MASK, NULL);
	return *pasid == INVALID_IOASID ? -ENOSPC : 0;
}

static void pdma_guest_free_pasid(struct device *dev, u32 pasid)
{
	ioasid_free(pasid);
}

#else

/*
 * The guest kernel chooses the PASID. Attach the device's DMA domain, as idxd
 * does, so that an IOVA is valid with and without the PASID. The VMM learns the
 * PASID from the PASID cache invalidation.
 */
static int pdma_guest_alloc_pasid(struct device *dev, u32 *pasid)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);
	int ret;

	if (!domain)
		return -EOPNOTSUPP;

	*pasid = iommu_alloc_global_pasid(dev);
	if (*pasid == IOMMU_PASID_INVALID)
		return -ENOSPC;

	ret = iommu_attach_device_pasid(domain, dev, *pasid, NULL);
	if (ret)
		iommu_free_global_pasid(*pasid);
	return ret;
}

static void pdma_guest_free_pasid(struct device *dev, u32 pasid)
{
	iommu_detach_device_pasid(iommu_get_domain_for_dev(dev), dev, pasid);
	iommu_free_global_pasid(pasid);
}

#endif

static int pdma_guest_alloc(struct pdma_guest_file *pf)
{
	struct device *dev = &pf->guest->pdev->dev;
	u32 pasid;
	int ret;

	ret = pdma_guest_alloc_pasid(dev, &pasid);
	if (ret)
		return ret;

	ret = xa_insert(&pf->pasids, pasid, xa_mk_value(0), GFP_KERNEL);
	if (ret) {
		pdma_guest_free_pasid(dev, pasid);
		return ret;
	}
	return pasid;
}

/* The PASID may still be bound to a channel: tests rely on it */
static int pdma_guest_free(struct pdma_guest_file *pf, unsigned long pasid)
{
	if (!xa_erase(&pf->pasids, pasid))
		return -EINVAL;
	pdma_guest_free_pasid(&pf->guest->pdev->dev, pasid);
	return 0;
}

/* Channels */

static void __iomem *pdma_guest_channel(struct pdma_guest *guest,
					unsigned int ch)
{
	return guest->bar + PDMA_MDEV_CHANNEL(ch);
}

static int pdma_guest_result(struct pdma_guest *guest, unsigned int ch)
{
	switch (readl(pdma_guest_channel(guest, ch) + PDMA_SUBMIT_RESULT)) {
	case PDMA_RESULT_OK:
		return 0;
	case PDMA_RESULT_NO_PASID:
		return -ENXIO;
	case PDMA_RESULT_PARKED:
		return -ESHUTDOWN;
	case PDMA_RESULT_BUSY:
		return -EBUSY;
	case PDMA_RESULT_INVALID:
		return -EINVAL;
	case PDMA_RESULT_FAULT:
		return -EFAULT;
	case PDMA_RESULT_AGAIN:
		return -EAGAIN;
	case PDMA_RESULT_NO_MEMORY:
		return -ENOMEM;
	case PDMA_RESULT_NOT_MASTER:
		return -EPERM;
	default:
		return -EIO;
	}
}

static int pdma_guest_set_pasid(struct pdma_guest *guest, unsigned int ch,
				u32 pasid)
{
	writel(pasid, pdma_guest_channel(guest, ch) + PDMA_SUBMIT_PASID);
	return pdma_guest_result(guest, ch);
}

/* Accept any PASID, even if not allocated by the file: the host must cope */
static int pdma_guest_bind(struct pdma_guest_file *pf, unsigned long arg)
{
	struct pdma_guest *guest = pf->guest;
	u32 pasid = arg & PDMA_PASID_MASK;
	unsigned long ch = arg >> PDMA_GUEST_BIND_SHIFT;
	int ret;

	if (ch >= PDMA_MDEV_CHANNELS)
		return -EINVAL;
	if (guest->users[ch] && guest->users[ch] != pf)
		return -EBUSY;

	ret = pdma_guest_set_pasid(guest, ch, pasid);
	guest->users[ch] = pasid ? pf : NULL;
	return ret;
}

static bool pdma_guest_in_buf(u64 offset, u32 len)
{
	return offset <= PDMA_GUEST_BUF_LEN &&
	       len <= PDMA_GUEST_BUF_LEN - offset;
}

static int pdma_guest_submit(struct pdma_guest_file *pf, unsigned int ch,
			     const struct pdma_guest_submit *submit)
{
	struct pdma_guest *guest = pf->guest;
	void __iomem *regs = pdma_guest_channel(guest, ch);
	u64 src = le64_to_cpu(submit->src), dst = le64_to_cpu(submit->dst);
	u32 len = le32_to_cpu(submit->len);

	if (submit->pasid || submit->result || !pdma_guest_in_buf(src, len) ||
	    !pdma_guest_in_buf(dst, len))
		return -EINVAL;
	if (guest->users[ch] != pf)
		return -ENXIO;

	writeq(pf->dma + src, regs + PDMA_SUBMIT_SRC);
	writeq(pf->dma + dst, regs + PDMA_SUBMIT_DST);
	writel(len, regs + PDMA_SUBMIT_LEN);
	writel(le32_to_cpu(submit->period), regs + PDMA_SUBMIT_PERIOD);
	writel(le32_to_cpu(submit->burst), regs + PDMA_SUBMIT_BURST);
	writel(le32_to_cpu(submit->cmd), regs + PDMA_SUBMIT_CMD);
	return pdma_guest_result(guest, ch);
}

/* Files */

static void pdma_guest_free_device(struct kref *kref)
{
	struct pdma_guest *guest = container_of(kref, struct pdma_guest, kref);

	mutex_destroy(&guest->lock);
	kfree(guest);
}

static void pdma_guest_put(struct pdma_guest *guest)
{
	kref_put(&guest->kref, pdma_guest_free_device);
}

static struct pdma_guest_file *pdma_guest_file_alloc(void)
{
	struct pdma_guest_file *pf = kzalloc(sizeof(*pf), GFP_KERNEL);

	if (!pf)
		return NULL;
	xa_init(&pf->pasids);
	pf->buf = alloc_pages_exact(PDMA_GUEST_BUF_LEN,
				    GFP_KERNEL | __GFP_ZERO);
	if (!pf->buf) {
		kfree(pf);
		return NULL;
	}
	return pf;
}

static void pdma_guest_file_free(struct pdma_guest_file *pf)
{
	free_pages_exact(pf->buf, PDMA_GUEST_BUF_LEN);
	kfree(pf);
}

/*
 * Map the memory for DMA while the file is open. dma_sync_single_*() is not
 * needed, as the device exists on x86 only, where DMA is coherent.
 */
static int pdma_guest_attach_file(struct pdma_guest *guest,
				  struct pdma_guest_file *pf)
{
	lockdep_assert_held(&guest->lock);

	pf->dma = dma_map_single(&guest->pdev->dev, pf->buf,
				 PDMA_GUEST_BUF_LEN, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(&guest->pdev->dev, pf->dma))
		return -ENOMEM;
	pf->guest = guest;
	list_add(&pf->node, &guest->files);
	return 0;
}

/* Stop the channels first, so that the host does not have to block their DMA */
static void pdma_guest_detach_file(struct pdma_guest_file *pf)
{
	struct pdma_guest *guest = pf->guest;
	unsigned long pasid;
	unsigned int ch;
	void *entry;

	lockdep_assert_held(&guest->lock);

	for (ch = 0; ch < PDMA_MDEV_CHANNELS; ch++) {
		if (guest->users[ch] == pf) {
			pdma_guest_set_pasid(guest, ch, 0);
			guest->users[ch] = NULL;
		}
	}
	xa_for_each(&pf->pasids, pasid, entry)
		pdma_guest_free_pasid(&guest->pdev->dev, pasid);
	xa_destroy(&pf->pasids);
	dma_unmap_single(&guest->pdev->dev, pf->dma, PDMA_GUEST_BUF_LEN,
			 DMA_BIDIRECTIONAL);
	list_del_init(&pf->node);
}

static int pdma_guest_open(struct inode *inode, struct file *file)
{
	/* misc_deregister() waits for us, so the device is present */
	struct pdma_guest *guest = container_of(file->private_data,
						struct pdma_guest, misc);
	struct pdma_guest_file *pf = pdma_guest_file_alloc();
	int ret;

	if (!pf)
		return -ENOMEM;

	mutex_lock(&guest->lock);
	ret = pdma_guest_attach_file(guest, pf);
	mutex_unlock(&guest->lock);
	if (ret) {
		pdma_guest_file_free(pf);
		return ret;
	}
	kref_get(&guest->kref);
	file->private_data = pf;
	return 0;
}

static int pdma_guest_release(struct inode *inode, struct file *file)
{
	struct pdma_guest_file *pf = file->private_data;
	struct pdma_guest *guest = pf->guest;

	mutex_lock(&guest->lock);
	if (guest->pdev)
		pdma_guest_detach_file(pf);
	mutex_unlock(&guest->lock);
	pdma_guest_file_free(pf);
	pdma_guest_put(guest);
	return 0;
}

static long pdma_guest_ioctl(struct file *file, unsigned int cmd,
			     unsigned long arg)
{
	struct pdma_guest_file *pf = file->private_data;
	struct pdma_guest *guest = pf->guest;
	long ret;

	mutex_lock(&guest->lock);
	if (!guest->pdev)
		ret = -ENODEV;
	else if (cmd == PDMA_GUEST_ALLOC)
		ret = pdma_guest_alloc(pf);
	else if (cmd == PDMA_GUEST_FREE)
		ret = pdma_guest_free(pf, arg);
	else if (cmd == PDMA_GUEST_BIND)
		ret = pdma_guest_bind(pf, arg);
	else
		ret = -ENOTTY;
	mutex_unlock(&guest->lock);
	return ret;
}

static ssize_t pdma_guest_write(struct file *file, const char __user *buf,
				size_t count, loff_t *ppos)
{
	struct pdma_guest_file *pf = file->private_data;
	struct pdma_guest_submit submit;
	unsigned int ch;
	int ret;

	if (*ppos < 0 || *ppos >= PDMA_MDEV_CHANNEL(PDMA_MDEV_CHANNELS) ||
	    *ppos & (PDMA_PAGE_SIZE - 1) || count != sizeof(submit))
		return -EINVAL;
	ch = *ppos / PDMA_PAGE_SIZE;
	if (copy_from_user(&submit, buf, sizeof(submit)))
		return -EFAULT;

	mutex_lock(&pf->guest->lock);
	ret = pf->guest->pdev ? pdma_guest_submit(pf, ch, &submit) : -ENODEV;
	mutex_unlock(&pf->guest->lock);
	return ret ? ret : count;
}

/* Read one register of BAR 0 */
static ssize_t pdma_guest_read(struct file *file, char __user *buf,
			       size_t count, loff_t *ppos)
{
	struct pdma_guest_file *pf = file->private_data;
	struct pdma_guest *guest = pf->guest;
	__le64 val = 0;
	int ret = 0;

	if ((count != 4 && count != 8) || *ppos < 0 || *ppos & (count - 1) ||
	    *ppos >= PDMA_MDEV_BAR_SIZE)
		return -EINVAL;

	mutex_lock(&guest->lock);
	if (!guest->pdev)
		ret = -ENODEV;
	else if (count == 4)
		val = cpu_to_le64(readl(guest->bar + *ppos));
	else
		val = cpu_to_le64(readq(guest->bar + *ppos));
	mutex_unlock(&guest->lock);
	if (ret)
		return ret;
	return copy_to_user(buf, &val, count) ? -EFAULT : count;
}

static int pdma_guest_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct pdma_guest_file *pf = file->private_data;
	unsigned long len = vma->vm_end - vma->vm_start, offset;
	int ret = 0;

	if (vma->vm_pgoff || len > PDMA_GUEST_BUF_LEN ||
	    !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	for (offset = 0; offset < len && !ret; offset += PAGE_SIZE)
		ret = vm_insert_page(vma, vma->vm_start + offset,
				     virt_to_page(pf->buf + offset));
	return ret;
}

static const struct file_operations pdma_guest_fops = {
	.owner = THIS_MODULE,
	.open = pdma_guest_open,
	.release = pdma_guest_release,
	.read = pdma_guest_read,
	.write = pdma_guest_write,
	.unlocked_ioctl = pdma_guest_ioctl,
	.mmap = pdma_guest_mmap,
};

/* The device */

static int pdma_guest_probe(struct pci_dev *pdev,
			    const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct pdma_guest *guest;
	int ret;

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;

	guest = kzalloc(sizeof(*guest), GFP_KERNEL);
	if (!guest)
		return -ENOMEM;
	kref_init(&guest->kref);
	mutex_init(&guest->lock);
	INIT_LIST_HEAD(&guest->files);
	guest->pdev = pdev;
	snprintf(guest->name, sizeof(guest->name), PDMA_GUEST_DRIVER "-%s",
		 pci_name(pdev));
	guest->misc.minor = MISC_DYNAMIC_MINOR;
	guest->misc.name = guest->name;
	guest->misc.fops = &pdma_guest_fops;
	guest->misc.parent = dev;
	guest->misc.mode = 0660;

	ret = -ENODEV;
	if (pci_resource_len(pdev, 0) < PDMA_MDEV_BAR_SIZE)
		goto err_put;
	ret = -ENOMEM;
	guest->bar = pcim_iomap(pdev, 0, PDMA_MDEV_BAR_SIZE);
	if (!guest->bar)
		goto err_put;

	pci_set_master(pdev);
	pci_set_drvdata(pdev, guest);
	/* May be opened from here on */
	ret = misc_register(&guest->misc);
	if (ret)
		goto err_master;
	return 0;

err_master:
	pci_clear_master(pdev);
err_put:
	pdma_guest_put(guest);
	return ret;
}

/* Files may stay open, but do not hold any resources */
static void pdma_guest_remove(struct pci_dev *pdev)
{
	struct pdma_guest *guest = pci_get_drvdata(pdev);
	struct pdma_guest_file *pf, *next;

	misc_deregister(&guest->misc);
	mutex_lock(&guest->lock);
	list_for_each_entry_safe(pf, next, &guest->files, node)
		pdma_guest_detach_file(pf);
	guest->pdev = NULL;
	mutex_unlock(&guest->lock);
	pci_clear_master(pdev);
	pdma_guest_put(guest);
}

static const struct pci_device_id pdma_guest_ids[] = {
	{ PCI_DEVICE(PDMA_VENDOR_ID, PDMA_MDEV_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, pdma_guest_ids);

static struct pci_driver pdma_guest_driver = {
	.name = PDMA_GUEST_DRIVER,
	.id_table = pdma_guest_ids,
	.probe = pdma_guest_probe,
	.remove = pdma_guest_remove,
};
module_pci_driver(pdma_guest_driver);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Guest driver for the mediated PASID DMA device");

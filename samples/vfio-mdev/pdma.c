// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated driver for the PASID DMA engine
 *
 * One mediated device is one channel of the engine, with an IOMMU domain of
 * its own. The user
 *
 *  - gives it a PASID through VFIO_DEVICE_FEATURE_IOASID. The domain is
 *    attached to that PASID, and the PASID is written to the control page,
 *    which no user ever sees.
 *  - maps memory through VFIO or iommufd, as for any other device.
 *  - writes a struct pdma_submit to PDMA_REGION_SUBMIT. The pages that the
 *    command needs, and no others, are pinned and mapped into the domain at the
 *    IOVA that the user gave them, and the channel starts.
 *
 * The engine has no interrupts. Pages stay pinned and mapped until something
 * tells that the command is over: the next command, PDMA_CMD_STOP, a reset of
 * the channel, another PASID, the user's unmap of one of them, or the last close.
 *
 * When the owner of the PASID frees it, the IOMMU refuses what the channel
 * sends. The driver is not told and has nothing to do. It finds out when it is
 * asked for something new (-ESHUTDOWN); the reference to the IOASID and the
 * attachment stay until the user gives another one or closes the device.
 *
 * Locks, outermost first:
 *
 *   pdma_channel.lock  what the user of the channel does, one after the other
 *   those of the container or of iommufd that pinning takes, mmap_lock, and
 *   those of IOASID and the IOMMU
 *   pdma_engine.lock   the registers, and which PASID a channel has
 *
 * pdma_channel.lock is held from before pages are pinned until the channel
 * runs. Pinning may wait for user space, so only the user of the channel may be
 * made to wait for this lock. dma_unmap() takes it, too, so an unmap finds a
 * command with all of its pages or none of them; it never runs in between, where
 * VFIO would find the memory still pinned and give up on us. This is sound
 * because VFIO and iommufd call dma_unmap() with none of the locks that pinning
 * or unpinning takes. mmap(), which is called with mmap_lock held, must not take
 * it.
 *
 * A reset or a suspend of the engine takes pdma_engine.lock only. It ends all
 * commands, but neither pins nor unpins, because that can wait for the user,
 * too: the pages of a command that it has ended stay pinned and mapped, like
 * those of a copy that is done.
 */
#include <linux/cleanup.h>
#include <linux/io.h>
#include <linux/ioasid.h>
#include <linux/iommu.h>
#include <linux/mdev.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/pci.h>
#include <linux/pci-ats.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include "pdma-engine.h"

/* The region is in the upper bits of a file offset, as in vfio-pci */
#define PDMA_REGION_SHIFT	40
#define PDMA_REGION_MASK	(BIT_ULL(PDMA_REGION_SHIFT) - 1)

/* Pages that PDMA_MAX_LEN bytes can touch */
#define PDMA_MAX_PAGES		((PDMA_MAX_LEN >> PAGE_SHIFT) + 1)

/**
 * struct pdma_dev - the engine, parent of the mediated devices
 * @engine: the PCI function and its channels
 * @resv_regions: IOVAs that are not memory for a DMA of the engine
 * @type: the only type of mediated devices
 * @types: array of that type, as the mdev core wants it
 * @parent: what the mdev core knows of us
 */
struct pdma_dev {
	struct pdma_engine engine;
	struct list_head resv_regions;
	struct mdev_type type;
	struct mdev_type *types[1];
	struct mdev_parent parent;
};

/**
 * struct pdma_buf - one side of a command, as it was pinned
 * @iova: page aligned
 * @npages: 0 if nothing is pinned
 */
struct pdma_buf {
	dma_addr_t iova;
	int npages;
};

/**
 * struct pdma_page - a page that the command in progress needs
 * @iova: where the user and the channel see it
 * @phys: where it is
 * @prot: IOMMU_READ, IOMMU_WRITE
 */
struct pdma_page {
	dma_addr_t iova;
	phys_addr_t phys;
	int prot;
};

/**
 * struct pdma_channel - a mediated device
 * @vdev: what VFIO knows of it
 * @pdma: the engine
 * @nr: number of the channel
 * @domain: what its DMA is translated by, from open to close
 * @lock: protects all below, and that the channel is started and stopped
 *	  together with it
 * @ioasid: attached to @domain, its number is the PASID of the channel; NULL:
 *	    no DMA
 * @tracker: of the reference to @ioasid
 * @src: pinned for reading
 * @dst: pinned for writing
 * @pages: @src and @dst, each page once
 * @nr_pages: entries of @pages
 * @nr_mapped: how many of them are mapped into @domain
 */
struct pdma_channel {
	struct vfio_device vdev;
	struct pdma_dev *pdma;
	unsigned int nr;
	struct iommu_domain *domain;

	/* Protects all below, see above for what it is taken with */
	struct mutex lock;
	struct ioasid *ioasid;
	struct ioasid_tracker tracker;
	struct pdma_buf src;
	struct pdma_buf dst;
	struct pdma_page pages[2 * PDMA_MAX_PAGES];
	unsigned int nr_pages;
	unsigned int nr_mapped;
};

static struct pdma_dev *to_pdma_dev(struct device *dev)
{
	return container_of(dev_get_drvdata(dev), struct pdma_dev, engine);
}

static struct pdma_channel *to_pdma_channel(struct vfio_device *vdev)
{
	return container_of(vdev, struct pdma_channel, vdev);
}

static struct pdma_engine *pdma_engine(struct pdma_channel *ch)
{
	return &ch->pdma->engine;
}

static struct device *pdma_dma_dev(struct pdma_channel *ch)
{
	return &pdma_engine(ch)->pdev->dev;
}

/* Memory of a command */

static void pdma_add_page(struct pdma_channel *ch, dma_addr_t iova,
			  phys_addr_t phys, int prot)
{
	unsigned int i;

	/* Both sides may share pages, with different rights */
	for (i = 0; i < ch->nr_pages; i++) {
		if (ch->pages[i].iova == iova) {
			ch->pages[i].prot |= prot;
			return;
		}
	}

	ch->pages[ch->nr_pages++] = (struct pdma_page){
		.iova = iova,
		.phys = phys,
		.prot = prot,
	};
}

static int pdma_pin(struct pdma_channel *ch, struct pdma_buf *buf, u64 iova,
		    u32 len, int prot)
{
	dma_addr_t first = ALIGN_DOWN(iova, PAGE_SIZE);
	int npages = PFN_UP(offset_in_page(iova) + len);
	struct page *pages[PDMA_MAX_PAGES];
	int i, ret;

	ret = vfio_pin_pages(&ch->vdev, first, npages, prot, pages);
	switch (ret) {
	case -EINVAL:
	case -ENOENT:
	case -EPERM:
		/* Not mapped, or not for that: said differently by backends */
		return -EFAULT;
	}
	if (ret < 0)
		return ret;

	buf->iova = first;
	buf->npages = ret;
	if (ret != npages)
		return -EFAULT;

	for (i = 0; i < npages; i++)
		pdma_add_page(ch, first + i * PAGE_SIZE, page_to_phys(pages[i]),
			      prot);
	return 0;
}

static void pdma_unpin(struct pdma_channel *ch, struct pdma_buf *buf)
{
	if (buf->npages)
		vfio_unpin_pages(&ch->vdev, buf->iova, buf->npages);
	buf->npages = 0;
}

static int pdma_map(struct pdma_channel *ch)
{
	int ret;

	while (ch->nr_mapped < ch->nr_pages) {
		struct pdma_page *page = &ch->pages[ch->nr_mapped];

		/* As for all DMA of user space: it cannot flush caches */
		ret = iommu_map(ch->domain, page->iova, page->phys, PAGE_SIZE,
				page->prot | IOMMU_CACHE, GFP_KERNEL_ACCOUNT);
		if (ret)
			return ret;
		ch->nr_mapped++;
	}
	return 0;
}

static void pdma_unmap(struct pdma_channel *ch)
{
	struct iommu_iotlb_gather gather;

	if (ch->nr_mapped) {
		iommu_iotlb_gather_init(&gather);
		while (ch->nr_mapped)
			iommu_unmap_fast(ch->domain,
					 ch->pages[--ch->nr_mapped].iova,
					 PAGE_SIZE, &gather);
		iommu_iotlb_sync(ch->domain, &gather);
	}
	ch->nr_pages = 0;
}

/* The channel is idle. In this order, or a device TLB keeps a freed page. */
static void pdma_release(struct pdma_channel *ch)
{
	lockdep_assert_held(&ch->lock);

	pdma_unmap(ch);
	pdma_unpin(ch, &ch->src);
	pdma_unpin(ch, &ch->dst);
}

static void pdma_stop(struct pdma_channel *ch)
{
	pdma_engine_stop(pdma_engine(ch), ch->nr);
	pdma_release(ch);
}

/* Does not touch the PASID */
static void pdma_reset(struct pdma_channel *ch)
{
	pdma_engine_reset(pdma_engine(ch), ch->nr);
	pdma_release(ch);
}

static bool pdma_buf_overlaps(const struct pdma_buf *buf, u64 iova, u64 length)
{
	u64 size = (u64)buf->npages << PAGE_SHIFT;

	return size && iova <= buf->iova + (size - 1) &&
	       buf->iova <= iova + (length - 1);
}

static void pdma_vfio_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
	struct pdma_channel *ch = to_pdma_channel(vdev);

	guard(mutex)(&ch->lock);
	if (pdma_buf_overlaps(&ch->src, iova, length) ||
	    pdma_buf_overlaps(&ch->dst, iova, length))
		pdma_stop(ch);
}

/* Commands */

/* Whether the engine can reach all pages of a buffer */
static bool pdma_iova_valid(struct pdma_channel *ch, u64 iova, u32 len)
{
	struct iommu_domain_geometry *geometry = &ch->domain->geometry;
	struct iommu_resv_region *resv;
	u64 last;

	if (!len || len > PDMA_MAX_LEN ||
	    check_add_overflow(iova, len - 1, &last))
		return false;

	iova = ALIGN_DOWN(iova, PAGE_SIZE);
	last |= PAGE_SIZE - 1;
	if (iova < geometry->aperture_start || last > geometry->aperture_end)
		return false;

	/* Not memory: a write to the MSI window would be an interrupt */
	list_for_each_entry(resv, &ch->pdma->resv_regions, list) {
		if (iova <= resv->start + (resv->length - 1) &&
		    resv->start <= last)
			return false;
	}
	return true;
}

static bool pdma_cmd_valid(struct pdma_channel *ch, const struct pdma_cmd *cmd)
{
	/* What a command does not use must be 0, so that it can get a use */
	switch (cmd->cmd) {
	case PDMA_CMD_STOP:
		return !cmd->src && !cmd->dst && !cmd->len && !cmd->period &&
		       !cmd->burst;
	case PDMA_CMD_COPY:
		return !cmd->period && !cmd->burst &&
		       pdma_iova_valid(ch, cmd->src, cmd->len) &&
		       pdma_iova_valid(ch, cmd->dst, cmd->len);
	case PDMA_CMD_STREAM:
		return !cmd->src && IS_ALIGNED(cmd->dst, 8) &&
		       IS_ALIGNED(cmd->len, 8) &&
		       (!cmd->period ||
			(cmd->period >= 10 && cmd->period <= 1000000)) &&
		       cmd->burst <= 4096 &&
		       pdma_iova_valid(ch, cmd->dst, cmd->len);
	default:
		return false;
	}
}

static int pdma_start(struct pdma_channel *ch, const struct pdma_cmd *cmd)
{
	int ret;

	if (!ch->ioasid)
		return -ENXIO;
	/* It may be parked right after this: then the IOMMU refuses the DMA */
	if (!ioasid_is_active(ch->ioasid))
		return -ESHUTDOWN;
	ret = pdma_engine_check_idle(pdma_engine(ch), ch->nr);
	if (ret)
		return ret;

	/* Left by a copy that is done, or by a command that a reset ended */
	pdma_release(ch);

	if (cmd->cmd == PDMA_CMD_COPY)
		ret = pdma_pin(ch, &ch->src, cmd->src, cmd->len, IOMMU_READ);
	if (!ret)
		ret = pdma_pin(ch, &ch->dst, cmd->dst, cmd->len, IOMMU_WRITE);
	if (!ret)
		ret = pdma_map(ch);
	if (ret)
		goto err_release;

	/* If the engine was reset meanwhile, the channel has its PASID again */
	ret = pdma_engine_start(pdma_engine(ch), ch->nr, cmd);
	if (!ret)
		return 0;
	/* The command was checked before: report a device error */
	if (ret == -EINVAL)
		ret = -EIO;

err_release:
	pdma_release(ch);
	return ret;
}

static int pdma_submit(struct pdma_channel *ch, const struct pdma_cmd *cmd)
{
	if (!pdma_cmd_valid(ch, cmd))
		return -EINVAL;

	guard(mutex)(&ch->lock);
	if (cmd->cmd != PDMA_CMD_STOP)
		return pdma_start(ch, cmd);

	pdma_stop(ch);
	return 0;
}

/* PASID */

/*
 * Make @new the IOASID of the channel, and take over the reference to it. NULL:
 * the channel has none. The new one is attached before anything is given up:
 * when that fails, nothing has changed. Not so if the two are the same, because
 * that IOASID is attached already; there is nothing to do then.
 */
static int pdma_replace_ioasid(struct pdma_channel *ch, struct ioasid *new,
			       struct ioasid_tracker tracker)
{
	struct ioasid *old = ch->ioasid;
	struct ioasid_tracker old_tracker = ch->tracker;
	int ret = 0;

	lockdep_assert_held(&ch->lock);

	if (new == old)
		goto out_put_new;

	if (new) {
		ret = ioasid_attach_device(new, ch->domain, pdma_dma_dev(ch),
					   NULL);
		if (ret)
			goto out_put_new;
	}

	/* A command ends with the PASID that it was submitted for */
	pdma_stop(ch);
	pdma_engine_set_pasid(pdma_engine(ch), ch->nr,
			      new ? PDMA_PASID_VALID | ioasid_id(new) : 0);
	ch->ioasid = new;
	ch->tracker = tracker;

	if (old) {
		ioasid_detach_device(old, ch->domain, pdma_dma_dev(ch));
		ioasid_user_put(old, IOASID_USER_MDEV, &old_tracker);
	}
	return 0;

out_put_new:
	if (new)
		ioasid_user_put(new, IOASID_USER_MDEV, &tracker);
	return ret;
}

static int pdma_set_ioasid(struct pdma_channel *ch,
			   struct vfio_device_feature_ioasid __user *arg)
{
	struct vfio_device_feature_ioasid feature;
	struct ioasid *ioasid = NULL;
	struct ioasid_tracker tracker = {};

	if (copy_from_user(&feature, arg, sizeof(feature)))
		return -EFAULT;

	if (feature.fd != -1) {
		ioasid = ioasid_fd_get(feature.fd, feature.id, IOASID_USER_MDEV,
				       &tracker);
		if (IS_ERR(ioasid))
			return PTR_ERR(ioasid);
	} else if (feature.id) {
		return -EINVAL;
	}

	guard(mutex)(&ch->lock);
	return pdma_replace_ioasid(ch, ioasid, tracker);
}

static int pdma_get_ioasid(struct pdma_channel *ch,
			   struct vfio_device_feature_ioasid __user *arg)
{
	struct vfio_device_feature_ioasid feature = {
		.fd = -1,
		.id = pdma_engine_get_pasid(pdma_engine(ch), ch->nr) &
		      PDMA_PASID_MASK,
	};

	return copy_to_user(arg, &feature, sizeof(feature)) ? -EFAULT : 0;
}

static int pdma_vfio_feature(struct vfio_device *vdev, u32 flags,
			     void __user *arg, size_t argsz)
{
	struct pdma_channel *ch = to_pdma_channel(vdev);
	int ret;

	if ((flags & VFIO_DEVICE_FEATURE_MASK) != VFIO_DEVICE_FEATURE_IOASID)
		return -ENOTTY;

	ret = vfio_check_feature(flags, argsz,
				 VFIO_DEVICE_FEATURE_GET |
				 VFIO_DEVICE_FEATURE_SET,
				 sizeof(struct vfio_device_feature_ioasid));
	if (ret != 1)
		return ret;

	if (flags & VFIO_DEVICE_FEATURE_SET)
		return pdma_set_ioasid(ch, arg);
	return pdma_get_ioasid(ch, arg);
}

/* VFIO */

static int pdma_vfio_init(struct vfio_device *vdev)
{
	mutex_init(&to_pdma_channel(vdev)->lock);
	return 0;
}

static void pdma_vfio_release(struct vfio_device *vdev)
{
	mutex_destroy(&to_pdma_channel(vdev)->lock);
}

static int pdma_vfio_open(struct vfio_device *vdev)
{
	struct pdma_channel *ch = to_pdma_channel(vdev);
	struct iommu_domain *domain;

	domain = iommu_paging_domain_alloc(pdma_dma_dev(ch));
	if (IS_ERR(domain))
		return PTR_ERR(domain);

	guard(mutex)(&ch->lock);
	ch->domain = domain;
	return 0;
}

/* VFIO may still call dma_unmap(), which finds nothing any more */
static void pdma_vfio_close(struct vfio_device *vdev)
{
	struct pdma_channel *ch = to_pdma_channel(vdev);

	guard(mutex)(&ch->lock);
	/* The next user is not to see the counters of this one */
	pdma_reset(ch);
	pdma_replace_ioasid(ch, NULL, (struct ioasid_tracker){});
	iommu_domain_free(ch->domain);
	ch->domain = NULL;
}

/* One register at a time */
static ssize_t pdma_vfio_read(struct vfio_device *vdev, char __user *buf,
			      size_t count, loff_t *ppos)
{
	struct pdma_channel *ch = to_pdma_channel(vdev);
	union pdma_reg reg;
	int ret;

	if (*ppos >> PDMA_REGION_SHIFT != PDMA_REGION_STATUS)
		return -EINVAL;

	ret = pdma_engine_read(pdma_engine(ch), ch->nr,
			       *ppos & PDMA_REGION_MASK, count, &reg);
	if (ret)
		return ret;
	if (copy_to_user(buf, &reg, count))
		return -EFAULT;
	*ppos += count;
	return count;
}

static ssize_t pdma_vfio_write(struct vfio_device *vdev, const char __user *buf,
			       size_t count, loff_t *ppos)
{
	struct pdma_channel *ch = to_pdma_channel(vdev);
	struct pdma_submit submit;
	struct pdma_cmd cmd;
	int ret;

	if (*ppos >> PDMA_REGION_SHIFT != PDMA_REGION_SUBMIT ||
	    (*ppos & PDMA_REGION_MASK) || count != sizeof(submit))
		return -EINVAL;

	if (copy_from_user(&submit, buf, sizeof(submit)))
		return -EFAULT;

	cmd = pdma_to_cmd(&submit);
	ret = pdma_submit(ch, &cmd);
	if (ret)
		return ret;
	*ppos += count;
	return count;
}

/*
 * Reads of the channel page. A write could start DMA to pages never pinned. The
 * mapping stays while the function is reset: a driver of a real device has to zap
 * it, as vfio-pci does, because reads of a function in reset can end in an error.
 */
static int pdma_vfio_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	struct pdma_channel *ch = to_pdma_channel(vdev);
	phys_addr_t phys = pci_resource_start(pdma_engine(ch)->pdev, 0) +
			   PDMA_CHANNEL_PAGE(ch->nr);

	if (vma->vm_pgoff !=
	    (u64)PDMA_REGION_STATUS << (PDMA_REGION_SHIFT - PAGE_SHIFT) ||
	    vma_pages(vma) != 1 || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_flags & VM_WRITE)
		return -EPERM;
	/* Nor by mprotect() later */
	vm_flags_clear(vma, VM_MAYWRITE);

	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return io_remap_pfn_range(vma, vma->vm_start, PHYS_PFN(phys), PAGE_SIZE,
				  vma->vm_page_prot);
}

static int pdma_get_device_info(struct vfio_device_info __user *arg)
{
	unsigned long minsz = offsetofend(struct vfio_device_info, num_irqs);
	struct vfio_device_info info;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;

	info.flags = VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = PDMA_NUM_REGIONS;
	info.num_irqs = 0;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static int pdma_get_region_info(struct vfio_device *vdev,
				struct vfio_region_info *info,
				struct vfio_info_cap *caps)
{
	switch (info->index) {
	case PDMA_REGION_SUBMIT:
		info->flags = VFIO_REGION_INFO_FLAG_WRITE;
		info->size = PDMA_SUBMIT_SIZE;
		break;
	case PDMA_REGION_STATUS:
		info->flags = VFIO_REGION_INFO_FLAG_READ |
			      VFIO_REGION_INFO_FLAG_MMAP;
		info->size = PDMA_PAGE_SIZE;
		break;
	default:
		return -EINVAL;
	}
	info->cap_offset = 0;
	info->offset = (u64)info->index << PDMA_REGION_SHIFT;
	return 0;
}

static long pdma_vfio_ioctl(struct vfio_device *vdev, unsigned int cmd,
			    unsigned long arg)
{
	struct pdma_channel *ch = to_pdma_channel(vdev);
	void __user *uptr = (void __user *)arg;

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return pdma_get_device_info(uptr);
	case VFIO_DEVICE_GET_IRQ_INFO:
	case VFIO_DEVICE_SET_IRQS:
		/* There are none */
		return -EINVAL;
	case VFIO_DEVICE_RESET:
		scoped_guard(mutex, &ch->lock)
			pdma_reset(ch);
		return 0;
	default:
		return -ENOTTY;
	}
}

/*
 * Somebody removes a device that is open. There is no event to ask the user
 * for it by, and taking the device away would gain nothing: the user can tie
 * up no more than the channel. Tell who waits, once a minute.
 */
static void pdma_vfio_request(struct vfio_device *vdev, unsigned int count)
{
	if (count % 6 == 0)
		dev_notice(vdev->dev, "removed while open, waiting for close\n");
}

static const struct vfio_device_ops pdma_vfio_ops = {
	.name = "pdma",
	.init = pdma_vfio_init,
	.release = pdma_vfio_release,
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
	.open_device = pdma_vfio_open,
	.close_device = pdma_vfio_close,
	.read = pdma_vfio_read,
	.write = pdma_vfio_write,
	.ioctl = pdma_vfio_ioctl,
	.get_region_info_caps = pdma_get_region_info,
	.mmap = pdma_vfio_mmap,
	.request = pdma_vfio_request,
	.dma_unmap = pdma_vfio_dma_unmap,
	.device_feature = pdma_vfio_feature,
};

/* Mediated devices */

static int pdma_mdev_probe(struct mdev_device *mdev)
{
	struct pdma_dev *pdma = to_pdma_dev(mdev->type->parent->dev);
	struct pdma_channel *ch;
	int ret;

	ch = vfio_alloc_device(pdma_channel, vdev, &mdev->dev, &pdma_vfio_ops);
	if (IS_ERR(ch))
		return PTR_ERR(ch);

	ret = pdma_engine_get_channel(&pdma->engine);
	if (ret < 0)
		goto err_put_device;
	ch->pdma = pdma;
	ch->nr = ret;
	dev_set_drvdata(&mdev->dev, ch);

	/* From here on it can be opened */
	ret = vfio_register_emulated_iommu_dev(&ch->vdev);
	if (ret)
		goto err_put_channel;
	return 0;

err_put_channel:
	pdma_engine_put_channel(&pdma->engine, ch->nr);
err_put_device:
	vfio_put_device(&ch->vdev);
	return ret;
}

static void pdma_mdev_remove(struct mdev_device *mdev)
{
	struct pdma_channel *ch = dev_get_drvdata(&mdev->dev);

	/* Returns when the last user has closed it */
	vfio_unregister_group_dev(&ch->vdev);
	pdma_engine_put_channel(pdma_engine(ch), ch->nr);
	vfio_put_device(&ch->vdev);
}

static unsigned int pdma_mdev_get_available(struct mdev_type *mtype)
{
	return pdma_engine_available(&to_pdma_dev(mtype->parent->dev)->engine);
}

static ssize_t pdma_mdev_show_description(struct mdev_type *mtype, char *buf)
{
	return sysfs_emit(buf, "one channel, DMA with one PASID\n");
}

static struct mdev_driver pdma_mdev_driver = {
	/* Regions as in pdma.h, not those of a bus */
	.device_api = "vfio-pdma",
	.probe = pdma_mdev_probe,
	.remove = pdma_mdev_remove,
	.get_available = pdma_mdev_get_available,
	.show_description = pdma_mdev_show_description,
	.driver = {
		.name = "pdma_mdev",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
	},
};

/* The engine */

static int pdma_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct pdma_dev *pdma;
	int pasid, ret;

	/*
	 * The IOMMU driver has enabled PASIDs if all on the way supports them:
	 * device, bus and IOMMU. There is nothing to do without.
	 */
	pasid = pci_pasid_status(pdev);
	if (pasid < 0 || !(pasid & PCI_PASID_CTRL_ENABLE))
		return dev_err_probe(dev, -ENODEV, "PASIDs are not enabled\n");

	pdma = devm_kzalloc(dev, sizeof(*pdma), GFP_KERNEL);
	if (!pdma)
		return -ENOMEM;
	INIT_LIST_HEAD(&pdma->resv_regions);

	ret = pdma_init_engine(&pdma->engine, pdev);
	if (ret)
		return ret;

	pci_set_master(pdev);
	iommu_get_resv_regions(dev, &pdma->resv_regions);

	pdma->type.sysfs_name = "channel";
	pdma->type.pretty_name = "PASID DMA channel";
	pdma->types[0] = &pdma->type;
	pci_set_drvdata(pdev, &pdma->engine);
	/* From here on mediated devices can be created */
	ret = mdev_register_parent(&pdma->parent, dev, &pdma_mdev_driver,
				   pdma->types, ARRAY_SIZE(pdma->types));
	if (ret)
		goto err_master;
	return 0;

err_master:
	iommu_put_resv_regions(dev, &pdma->resv_regions);
	pci_clear_master(pdev);
	return ret;
}

static void pdma_pci_remove(struct pci_dev *pdev)
{
	struct pdma_dev *pdma = to_pdma_dev(&pdev->dev);

	/* Waits for the users: all channels are idle and without a PASID then */
	mdev_unregister_parent(&pdma->parent);
	iommu_put_resv_regions(&pdev->dev, &pdma->resv_regions);
	pci_clear_master(pdev);
}

static const struct pci_error_handlers pdma_pci_err_handler = {
	.reset_prepare = pdma_engine_reset_prepare,
	.reset_done = pdma_engine_reset_done,
};

static DEFINE_SIMPLE_DEV_PM_OPS(pdma_pm_ops, pdma_engine_suspend,
				pdma_engine_resume);

static const struct pci_device_id pdma_pci_ids[] = {
	{ PCI_DEVICE(PDMA_VENDOR_ID, PDMA_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, pdma_pci_ids);

static struct pci_driver pdma_pci_driver = {
	.name = "pdma",
	.id_table = pdma_pci_ids,
	.probe = pdma_pci_probe,
	.remove = pdma_pci_remove,
	.err_handler = &pdma_pci_err_handler,
	.driver.pm = pm_sleep_ptr(&pdma_pm_ops),
};

static int __init pdma_init(void)
{
	int ret;

	ret = mdev_register_driver(&pdma_mdev_driver);
	if (ret)
		return ret;

	ret = pci_register_driver(&pdma_pci_driver);
	if (ret)
		mdev_unregister_driver(&pdma_mdev_driver);
	return ret;
}
module_init(pdma_init);

static void __exit pdma_exit(void)
{
	pci_unregister_driver(&pdma_pci_driver);
	mdev_unregister_driver(&pdma_mdev_driver);
}
module_exit(pdma_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Mediated driver for the PASID DMA engine");

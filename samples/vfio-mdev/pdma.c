// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated driver for the PASID DMA engine
 *
 * A mediated device has some channels of the engine and one IOMMU domain,
 * shared by these channels. It appears as a PCI function: see pdma-config.h for
 * its configuration space and pdma.h for its registers. The domain is attached
 * to the PASID of each IOASID that the device holds. IOASIDs come from one of
 * two sources:
 *
 *  - If the device belongs to a VM, the guest programs it with its own PASIDs.
 *    When a PASID is written to a channel, it is looked up in the map of the VM.
 *    The device holds the IOASID until the last channel has released it. The
 *    VMM need not be involved, and cannot add IOASIDs to the device.
 *  - Otherwise, the user adds IOASIDs with VFIO_DEVICE_FEATURE_IOASID, and
 *    channels use IOASIDs held by the device.
 *
 * Memory is mapped through VFIO or iommufd, as for any other device. Commands
 * are written to the channel page, which is trapped. The PASID is written to
 * the control page, which is never exposed to users. Only the pages that the
 * command needs are pinned and mapped into the domain, at the user's IOVA. Then
 * the channel is started.
 *
 * The guest is not trusted: each access has a result that the guest can read,
 * and no access makes the driver log anything.
 *
 * The engine has no interrupts. Pages stay pinned and mapped until an event
 * shows that the command has ended: the next command of the channel,
 * PDMA_CMD_STOP, bus mastering is disabled, a reset of the device, the IOASID
 * of the command is dropped, the user unmaps one of the pages, or the last
 * close. Channels may use the same pages: a page is unmapped and unpinned after
 * the last user.
 *
 * When the owner of an IOASID frees it, the IOMMU blocks DMA with its PASID.
 * The driver is not notified and need not do anything. The next command with
 * that PASID fails (-ESHUTDOWN). The reference to the IOASID and the attachment
 * stay until the guest or the user drops it, the guest's device is reset, or
 * the device is closed.
 *
 * Locks, outermost first:
 *
 *   pdma_mdev.lock     serializes operations on the device, and protects its
 *			configuration space and registers
 *   the locks of the container or of iommufd taken by pinning, mmap_lock, and
 *   IOASID and IOMMU locks
 *   pdma_engine.lock   registers, and the PASID of each channel
 *
 * pdma_mdev.lock is held from before pages are pinned until the channel runs.
 * Pinning may wait for user space, so only the user of the device may be made
 * to wait for this lock. dma_unmap() also takes it, so an unmap finds either
 * all pages of a command or none. It never runs in between, where VFIO would
 * find the memory still pinned and give up. This does not deadlock because VFIO
 * and iommufd call dma_unmap() with none of the locks that are taken to pin or
 * unpin. mmap(), which is called with mmap_lock held, must not take
 * pdma_mdev.lock. VFIO takes it to add and drop IOASIDs, and guest PASIDs are
 * looked up under it: so the IOASID of a command is attached, and the command
 * has ended before the IOASID is detached. KVM's map is read under RCU, without
 * locks of the VM. The VM does not change between open and close, as VFIO holds
 * a reference.
 *
 * A reset or suspend of the engine takes pdma_engine.lock only. It ends all
 * commands, but neither pins nor unpins, because that may wait for the user.
 * The pages of the ended commands stay pinned and mapped, like those of a
 * completed copy.
 */
#include <linux/cleanup.h>
#include <linux/io.h>
#include <linux/ioasid.h>
#include <linux/iommu.h>
#include <linux/log2.h>
#include <linux/mdev.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/pci.h>
#include <linux/pci-ats.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include "pdma-config.h"
#include "pdma-engine.h"

/* The upper bits of a file offset select the region, as in vfio-pci */
#define PDMA_REGION_SHIFT	40
#define PDMA_REGION_MASK	(BIT_ULL(PDMA_REGION_SHIFT) - 1)

/* Maximum number of pages touched by PDMA_MAX_LEN bytes */
#define PDMA_MAX_PAGES		((PDMA_MAX_LEN >> PAGE_SHIFT) + 1)

/**
 * struct pdma_dev - the engine, parent of the mediated devices
 * @engine: the PCI function and its channels
 * @resv_regions: IOVAs reserved by the IOMMU for the engine
 * @type: the only type of mediated devices
 * @types: array of types, for the mdev core
 * @parent: for the mdev core
 */
struct pdma_dev {
	struct pdma_engine engine;
	struct list_head resv_regions;
	struct mdev_type type;
	struct mdev_type *types[1];
	struct mdev_parent parent;
};

/**
 * struct pdma_page - a page that is pinned and mapped into the domain
 * @iova: address for the user and the channels
 * @rights: the part of IOMMU_READ, IOMMU_WRITE that the user is known to have
 *	    granted
 * @users: how many buffers contain the page
 * @pinned: the entry is in use
 */
struct pdma_page {
	dma_addr_t iova;
	int rights;
	unsigned int users;
	bool pinned;
};

/**
 * struct pdma_buf - source or destination of a command
 * @iova: page aligned start
 * @npages: number of pages that are in pdma_mdev.pages
 */
struct pdma_buf {
	dma_addr_t iova;
	unsigned int npages;
};

struct pdma_mdev;

/**
 * struct pdma_channel - a channel of a mediated device
 * @mdev: the device
 * @nr: number of the channel in the engine
 * @ioasid: IOASID whose PASID the engine uses for this channel; held by the
 *	    device. NULL: no PASID, no DMA
 * @src: source of the last command
 * @dst: destination of the last command
 * @submit: registers of the channel page; the PASID is 0 if @ioasid is NULL
 * @regs: same as @submit, as an array
 */
struct pdma_channel {
	struct pdma_mdev *mdev;
	unsigned int nr;
	struct ioasid *ioasid;
	struct pdma_buf src;
	struct pdma_buf dst;
	union {
		struct pdma_submit submit;
		__le32 regs[PDMA_SUBMIT_SIZE / sizeof(__le32)];
	};
};

/**
 * struct pdma_mdev - a mediated device
 * @vdev: the VFIO device
 * @pdma: the engine
 * @domain: domain of its DMA, from open to close
 * @lock: protects the fields below, and serializes starting and stopping
 *	    channels
 * @ioasids: IOASIDs held by the device, all of which are attached to @domain
 * @config: configuration space
 * @channels: consecutive channels of the engine
 * @pages: pages of the buffers of all channels
 */
struct pdma_mdev {
	struct vfio_device vdev;
	struct pdma_dev *pdma;
	struct iommu_domain *domain;

	/* Protects the fields below. For the lock order, see the top. */
	struct mutex lock;
	struct vfio_ioasids ioasids;
	struct pdma_config config;
	struct pdma_channel channels[PDMA_MDEV_CHANNELS];
	struct pdma_page pages[PDMA_MDEV_CHANNELS * 2 * PDMA_MAX_PAGES];
};

#define pdma_for_each_channel(ch, mdev)					\
	for ((ch) = (mdev)->channels;					\
	     (ch) < (mdev)->channels + PDMA_MDEV_CHANNELS; (ch)++)

#define pdma_for_each_page(page, mdev)					\
	for ((page) = (mdev)->pages;					\
	     (page) < (mdev)->pages + ARRAY_SIZE((mdev)->pages); (page)++)

static struct pdma_dev *to_pdma_dev(struct device *dev)
{
	return container_of(dev_get_drvdata(dev), struct pdma_dev, engine);
}

static struct pdma_mdev *to_pdma_mdev(struct vfio_device *vdev)
{
	return container_of(vdev, struct pdma_mdev, vdev);
}

static struct pdma_engine *pdma_engine(struct pdma_mdev *mdev)
{
	return &mdev->pdma->engine;
}

static struct device *pdma_dma_dev(struct pdma_mdev *mdev)
{
	return &pdma_engine(mdev)->pdev->dev;
}

/* Memory of a command */

/* Returns -EFAULT if the user has not mapped the page, or not for @prot */
static int pdma_pin(struct pdma_mdev *mdev, dma_addr_t iova, int prot,
		    struct page **page)
{
	int ret = vfio_pin_pages(&mdev->vdev, iova, 1, prot, page);

	switch (ret) {
	case 1:
		return 0;
	case 0:
	case -EINVAL:
	case -ENOENT:
	case -EPERM:
		/* The error depends on the backend */
		return -EFAULT;
	default:
		return ret;
	}
}

/* Check that the user has granted the device this access to a page */
static int pdma_check_rights(struct pdma_mdev *mdev, struct pdma_page *page,
			     int prot)
{
	struct page *unused;
	int ret;

	if (page->rights & prot)
		return 0;
	ret = pdma_pin(mdev, page->iova, prot, &unused);
	if (ret)
		return ret;
	vfio_unpin_pages(&mdev->vdev, page->iova, 1);
	page->rights |= prot;
	return 0;
}

/*
 * Another channel may need to write to the page later, and rights cannot be
 * added to a mapping that is in use. So map for writing whenever the user
 * permits it.
 */
static int pdma_map(struct pdma_mdev *mdev, struct pdma_page *page,
		    phys_addr_t phys)
{
	int ret = pdma_check_rights(mdev, page, IOMMU_WRITE);
	int prot = IOMMU_READ | (ret ? 0 : IOMMU_WRITE);

	if (ret && ret != -EFAULT)
		return ret;
	/* DMA of user space must be coherent, as it cannot flush caches */
	return iommu_map(mdev->domain, page->iova, phys, PAGE_SIZE,
			 prot | IOMMU_CACHE, GFP_KERNEL_ACCOUNT);
}

/* Find the entry of the page at @iova, or a free one */
static struct pdma_page *pdma_find_page(struct pdma_mdev *mdev, dma_addr_t iova)
{
	struct pdma_page *page, *unused = NULL;

	pdma_for_each_page(page, mdev) {
		if (!page->pinned)
			unused = page;
		else if (page->iova == iova)
			return page;
	}
	return unused;
}

static int pdma_get_page(struct pdma_mdev *mdev, dma_addr_t iova, int prot)
{
	struct pdma_page *page = pdma_find_page(mdev, iova);
	struct page *pinned;
	int ret;

	/* There are enough entries for all pages of all buffers */
	if (WARN_ON(!page))
		return -EIO;
	if (page->pinned) {
		ret = pdma_check_rights(mdev, page, prot);
		if (!ret)
			page->users++;
		return ret;
	}

	ret = pdma_pin(mdev, iova, prot, &pinned);
	if (ret)
		return ret;
	*page = (struct pdma_page){ .iova = iova, .rights = prot, .users = 1 };
	ret = pdma_map(mdev, page, page_to_phys(pinned));
	if (ret) {
		vfio_unpin_pages(&mdev->vdev, iova, 1);
		return ret;
	}
	page->pinned = true;
	return 0;
}

static int pdma_get_buf(struct pdma_channel *ch, struct pdma_buf *buf, u64 iova,
			u32 len, int prot)
{
	unsigned int npages = PFN_UP(offset_in_page(iova) + len);
	int ret;

	buf->iova = ALIGN_DOWN(iova, PAGE_SIZE);
	for (buf->npages = 0; buf->npages < npages; buf->npages++) {
		ret = pdma_get_page(ch->mdev,
				    buf->iova + buf->npages * PAGE_SIZE, prot);
		if (ret)
			return ret;
	}
	return 0;
}

static void pdma_put_buf(struct pdma_channel *ch, struct pdma_buf *buf,
			 struct iommu_iotlb_gather *gather)
{
	struct pdma_mdev *mdev = ch->mdev;
	struct pdma_page *page;

	while (buf->npages) {
		page = pdma_find_page(mdev, buf->iova +
					    --buf->npages * PAGE_SIZE);
		if (!--page->users)
			iommu_unmap_fast(mdev->domain, page->iova, PAGE_SIZE,
					 gather);
	}
}

/* The channel must be idle. Flushes before unpinning, for the device TLB. */
static void pdma_release(struct pdma_channel *ch)
{
	struct pdma_mdev *mdev = ch->mdev;
	struct iommu_iotlb_gather gather;
	struct pdma_page *page;

	lockdep_assert_held(&mdev->lock);

	if (!ch->src.npages && !ch->dst.npages)
		return;

	iommu_iotlb_gather_init(&gather);
	pdma_put_buf(ch, &ch->src, &gather);
	pdma_put_buf(ch, &ch->dst, &gather);
	iommu_iotlb_sync(mdev->domain, &gather);
	pdma_for_each_page(page, mdev) {
		if (page->pinned && !page->users) {
			vfio_unpin_pages(&mdev->vdev, page->iova, 1);
			page->pinned = false;
		}
	}
}

static void pdma_stop(struct pdma_channel *ch)
{
	pdma_engine_stop(pdma_engine(ch->mdev), ch->nr);
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
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);
	struct pdma_channel *ch;

	guard(mutex)(&mdev->lock);
	pdma_for_each_channel(ch, mdev) {
		if (pdma_buf_overlaps(&ch->src, iova, length) ||
		    pdma_buf_overlaps(&ch->dst, iova, length))
			pdma_stop(ch);
	}
}

/* IOASIDs */

static int pdma_attach_ioasid(struct vfio_device *vdev, struct ioasid *ioasid,
			      struct ioasid *old)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);

	return ioasid_attach_device(ioasid, mdev->domain, pdma_dma_dev(mdev),
				    NULL);
}

/*
 * Set the IOASID of an idle channel. @pasid is the user's PASID for it. NULL:
 * the channel has no PASID and cannot DMA.
 */
static void pdma_use_ioasid(struct pdma_channel *ch, struct ioasid *ioasid,
			    u32 pasid)
{
	ch->ioasid = ioasid;
	ch->submit.pasid = cpu_to_le32(pasid);
	pdma_engine_set_pasid(pdma_engine(ch->mdev), ch->nr,
			      ioasid ? PDMA_PASID_VALID | ioasid_id(ioasid) :
				       0);
}

/* Ends the command that uses the IOASID */
static void pdma_lose_ioasid(struct pdma_channel *ch)
{
	pdma_stop(ch);
	pdma_use_ioasid(ch, NULL, 0);
}

static void pdma_detach_ioasid(struct vfio_device *vdev, struct ioasid *ioasid)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);
	struct pdma_channel *ch;

	pdma_for_each_channel(ch, mdev) {
		if (ch->ioasid == ioasid)
			pdma_lose_ioasid(ch);
	}
	ioasid_detach_device(ioasid, mdev->domain, pdma_dma_dev(mdev));
}

static struct iommu_domain *pdma_domain(struct vfio_device *vdev)
{
	return to_pdma_mdev(vdev)->domain;
}

static const struct vfio_ioasids_ops pdma_ioasids_ops = {
	.user = IOASID_USER_MDEV,
	.guest_programs = true,
	.attach = pdma_attach_ioasid,
	.detach = pdma_detach_ioasid,
	.domain = pdma_domain,
};

static bool pdma_ioasid_in_use(struct pdma_mdev *mdev, struct ioasid *ioasid)
{
	struct pdma_channel *ch;

	pdma_for_each_channel(ch, mdev) {
		if (ch->ioasid == ioasid)
			return true;
	}
	return false;
}

/* Take the PASID of a channel away. If set by a guest, drop unused IOASIDs. */
static void pdma_unbind(struct pdma_channel *ch)
{
	struct pdma_mdev *mdev = ch->mdev;
	struct ioasid *ioasid = ch->ioasid;

	if (!ioasid)
		return;
	pdma_lose_ioasid(ch);
	if (mdev->vdev.kvm && !pdma_ioasid_in_use(mdev, ioasid))
		vfio_ioasids_drop(&mdev->ioasids, ioasid);
}

/* Find the IOASID for the user's PASID. The device holds it. Or ERR_PTR. */
static struct ioasid *pdma_find_ioasid(struct pdma_mdev *mdev, u32 pasid)
{
	struct ioasid *ioasid;

	if (mdev->vdev.kvm) {
		ioasid = vfio_ioasids_hold_guest(&mdev->ioasids, pasid);
		return ioasid == ERR_PTR(-ENOENT) ? ERR_PTR(-ENXIO) : ioasid;
	}

	ioasid = vfio_ioasids_find(&mdev->ioasids, pasid);
	if (!ioasid)
		return ERR_PTR(-ENXIO);
	return ioasid_is_active(ioasid) ? ioasid : ERR_PTR(-ESHUTDOWN);
}

static int pdma_bind(struct pdma_channel *ch, u32 pasid)
{
	struct pdma_mdev *mdev = ch->mdev;
	struct ioasid *ioasid;
	int ret;

	ret = pdma_engine_check_idle(pdma_engine(mdev), ch->nr);
	/* Do not leave an IOASID attached that the channel cannot use */
	if (ret && mdev->vdev.kvm)
		return ret;
	ioasid = pdma_find_ioasid(mdev, pasid);
	if (ret)
		return PTR_ERR_OR_ZERO(ioasid) ?: ret;
	/* Transient conflict: leave the channel unchanged */
	if (ioasid == ERR_PTR(-EBUSY))
		return -EBUSY;

	if (ioasid != ch->ioasid)
		pdma_unbind(ch);
	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);
	pdma_use_ioasid(ch, ioasid, pasid);
	return 0;
}

/* Commands */

/* Whether the engine can access all pages of a buffer */
static bool pdma_iova_valid(struct pdma_mdev *mdev, u64 iova, u32 len)
{
	struct iommu_domain_geometry *geometry = &mdev->domain->geometry;
	struct iommu_resv_region *resv;
	u64 last;

	if (!len || len > PDMA_MAX_LEN ||
	    check_add_overflow(iova, len - 1, &last))
		return false;

	iova = ALIGN_DOWN(iova, PAGE_SIZE);
	last |= PAGE_SIZE - 1;
	if (iova < geometry->aperture_start || last > geometry->aperture_end)
		return false;

	/* Not memory: a write to the MSI window would trigger an interrupt */
	list_for_each_entry(resv, &mdev->pdma->resv_regions, list) {
		if (iova <= resv->start + (resv->length - 1) &&
		    resv->start <= last)
			return false;
	}
	return true;
}

static bool pdma_cmd_valid(struct pdma_mdev *mdev, const struct pdma_cmd *cmd)
{
	/* Unused fields must be 0 so they can be given a meaning later */
	switch (cmd->cmd) {
	case PDMA_CMD_STOP:
		return !cmd->src && !cmd->dst && !cmd->len && !cmd->period &&
		       !cmd->burst && !cmd->pasid;
	case PDMA_CMD_COPY:
		return !cmd->period && !cmd->burst &&
		       pdma_iova_valid(mdev, cmd->src, cmd->len) &&
		       pdma_iova_valid(mdev, cmd->dst, cmd->len);
	case PDMA_CMD_STREAM:
		return !cmd->src && IS_ALIGNED(cmd->dst, 8) &&
		       IS_ALIGNED(cmd->len, 8) &&
		       (!cmd->period ||
			(cmd->period >= 10 && cmd->period <= 1000000)) &&
		       cmd->burst <= 4096 &&
		       pdma_iova_valid(mdev, cmd->dst, cmd->len);
	default:
		return false;
	}
}

static int pdma_start(struct pdma_channel *ch, const struct pdma_cmd *cmd)
{
	struct pdma_engine *engine = pdma_engine(ch->mdev);
	int ret;

	if (!pdma_config_master(&ch->mdev->config))
		return -EPERM;
	if (!ch->ioasid)
		return -ENXIO;
	/* May be parked right after this; the IOMMU blocks the DMA then */
	if (!ioasid_is_active(ch->ioasid))
		return -ESHUTDOWN;
	ret = pdma_engine_check_idle(engine, ch->nr);
	if (ret)
		return ret;

	/* Pages of a completed copy, or of a command ended by a reset */
	pdma_release(ch);

	if (cmd->cmd == PDMA_CMD_COPY)
		ret = pdma_get_buf(ch, &ch->src, cmd->src, cmd->len,
				   IOMMU_READ);
	if (!ret)
		ret = pdma_get_buf(ch, &ch->dst, cmd->dst, cmd->len,
				   IOMMU_WRITE);
	if (ret)
		goto err_release;

	/* If the engine is reset meanwhile, the PASID is restored afterwards */
	ret = pdma_engine_start(engine, ch->nr, cmd);
	if (!ret)
		return 0;
	/* The command was validated, so this is a device error */
	if (ret == -EINVAL)
		ret = -EIO;

err_release:
	pdma_release(ch);
	return ret;
}

static int pdma_execute(struct pdma_channel *ch, const struct pdma_cmd *cmd)
{
	if (cmd->cmd != PDMA_CMD_STOP)
		return pdma_start(ch, cmd);

	pdma_stop(ch);
	return 0;
}

/* Skip registers not used by the command, which may have any value */
static struct pdma_cmd pdma_cmd_of_regs(struct pdma_channel *ch)
{
	struct pdma_cmd cmd = pdma_to_cmd(&ch->submit);

	switch (cmd.cmd) {
	case PDMA_CMD_STOP:
		return (struct pdma_cmd){ .cmd = PDMA_CMD_STOP };
	case PDMA_CMD_COPY:
		cmd.period = 0;
		cmd.burst = 0;
		break;
	case PDMA_CMD_STREAM:
		cmd.src = 0;
		break;
	}
	return cmd;
}

static u32 pdma_to_result(int ret)
{
	switch (ret) {
	case 0:
		return PDMA_RESULT_OK;
	case -ENXIO:
		return PDMA_RESULT_NO_PASID;
	case -ESHUTDOWN:
		return PDMA_RESULT_PARKED;
	case -EBUSY:
		return PDMA_RESULT_BUSY;
	case -EINVAL:
		return PDMA_RESULT_INVALID;
	case -EFAULT:
		return PDMA_RESULT_FAULT;
	case -EAGAIN:
		return PDMA_RESULT_AGAIN;
	case -EPERM:
		return PDMA_RESULT_NOT_MASTER;
	default:
		return PDMA_RESULT_NO_MEMORY;
	}
}

/* Registers */

static void pdma_write_reg(struct pdma_channel *ch, unsigned int reg, u32 val)
{
	struct pdma_cmd cmd;
	int ret = 0;

	switch (reg) {
	case PDMA_SUBMIT_PASID:
		if (val)
			ret = pdma_bind(ch, val);
		else
			pdma_unbind(ch);
		break;
	case PDMA_SUBMIT_CMD:
		ch->submit.cmd = cpu_to_le32(val);
		cmd = pdma_cmd_of_regs(ch);
		ret = pdma_cmd_valid(ch->mdev, &cmd) ? pdma_execute(ch, &cmd) :
						       -EINVAL;
		break;
	case PDMA_SUBMIT_RESULT:
		return;
	default:
		if (reg < PDMA_SUBMIT_SIZE)
			ch->regs[reg / sizeof(__le32)] = cpu_to_le32(val);
		return;
	}
	ch->submit.result = cpu_to_le32(pdma_to_result(ret));
}

static int pdma_submit(struct pdma_channel *ch, const struct pdma_submit *submit)
{
	struct pdma_cmd cmd = pdma_to_cmd(submit);
	__le32 pasid = ch->submit.pasid;
	int ret;

	ch->submit = *submit;
	ch->submit.pasid = pasid;

	if (submit->result || !pdma_cmd_valid(ch->mdev, &cmd))
		return -EINVAL;
	if (cmd.cmd != PDMA_CMD_STOP) {
		ret = cmd.pasid ? pdma_bind(ch, cmd.pasid) : -ENXIO;
		if (ret)
			return ret;
	}
	return pdma_execute(ch, &cmd);
}

static ssize_t pdma_write_submit(struct pdma_channel *ch,
				 const char __user *buf)
{
	struct pdma_submit submit;
	int ret;

	if (copy_from_user(&submit, buf, sizeof(submit)))
		return -EFAULT;

	guard(mutex)(&ch->mdev->lock);
	ret = pdma_submit(ch, &submit);
	ch->submit.result = cpu_to_le32(pdma_to_result(ret));
	return ret ?: sizeof(submit);
}

/* Sizes that a guest's load and store instructions may have */
static bool pdma_is_access(size_t count)
{
	return count <= sizeof(u64) && is_power_of_2(count);
}

/* The subset of accesses that registers support */
static bool pdma_is_reg_access(u64 offset, size_t count)
{
	return count >= sizeof(u32) && IS_ALIGNED(offset, count);
}

static void pdma_read_regs(struct pdma_channel *ch, unsigned int reg,
			   size_t count, union pdma_reg *val)
{
	val->val64 = 0;
	if (reg >= PDMA_SUBMIT_SIZE)
		return;

	guard(mutex)(&ch->mdev->lock);
	memcpy(val, &ch->regs[reg / sizeof(__le32)], count);
}

static ssize_t pdma_read_bar(struct pdma_mdev *mdev, char __user *buf,
			     size_t count, u64 offset)
{
	unsigned int page = offset / PDMA_PAGE_SIZE;
	unsigned int reg = offset % PDMA_PAGE_SIZE;
	struct pdma_channel *ch = &mdev->channels[page % PDMA_MDEV_CHANNELS];
	union pdma_reg val = { .val64 = cpu_to_le64(U64_MAX) };

	if (offset >= PDMA_MDEV_BAR_SIZE || !pdma_is_access(count))
		return -EINVAL;

	/* Reads as ones if there is no such register or the engine is down */
	if (pdma_is_reg_access(offset, count)) {
		if (page < PDMA_MDEV_CHANNELS)
			pdma_read_regs(ch, reg, count, &val);
		else
			pdma_engine_read(pdma_engine(mdev), ch->nr, reg, count,
					 &val);
	}
	return copy_to_user(buf, &val, count) ? -EFAULT : count;
}

static ssize_t pdma_write_bar(struct pdma_mdev *mdev, const char __user *buf,
			      size_t count, u64 offset)
{
	unsigned int page = offset / PDMA_PAGE_SIZE;
	unsigned int reg = offset % PDMA_PAGE_SIZE;
	struct pdma_channel *ch;
	__le32 val[2];

	if (offset >= PDMA_MDEV_BAR_SIZE)
		return -EINVAL;
	ch = &mdev->channels[page % PDMA_MDEV_CHANNELS];
	if (page < PDMA_MDEV_CHANNELS && !reg &&
	    count == sizeof(struct pdma_submit))
		return pdma_write_submit(ch, buf);
	if (!pdma_is_access(count))
		return -EINVAL;

	if (copy_from_user(val, buf, count))
		return -EFAULT;
	if (page >= PDMA_MDEV_CHANNELS || !pdma_is_reg_access(offset, count))
		return count;

	guard(mutex)(&mdev->lock);
	pdma_write_reg(ch, reg, le32_to_cpu(val[0]));
	if (count == sizeof(val))
		pdma_write_reg(ch, reg + sizeof(val[0]), le32_to_cpu(val[1]));
	return count;
}

/* IOASIDs held through VFIO_DEVICE_FEATURE_IOASID are kept */
static void pdma_reset(struct pdma_mdev *mdev)
{
	struct pdma_channel *ch;

	mdev->config = pdma_config_reset;
	pdma_for_each_channel(ch, mdev) {
		pdma_engine_reset(pdma_engine(mdev), ch->nr);
		pdma_release(ch);
		pdma_unbind(ch);
		memset(&ch->submit, 0, sizeof(ch->submit));
	}
}

static ssize_t pdma_read_config(struct pdma_mdev *mdev, char __user *buf,
				size_t count, u64 offset)
{
	size_t done, len;
	__le32 val;

	if (offset >= PCI_CFG_SPACE_EXP_SIZE)
		return -EINVAL;

	count = min_t(size_t, count, PCI_CFG_SPACE_EXP_SIZE - offset);
	for (done = 0; done < count; done += len, offset += len) {
		len = pdma_config_len(offset, count - done);
		scoped_guard(mutex, &mdev->lock)
			val = cpu_to_le32(pdma_config_read(&mdev->config,
							   offset));
		if (copy_to_user(buf + done, &val, len))
			return -EFAULT;
	}
	return count;
}

static void pdma_write_config_dword(struct pdma_mdev *mdev, unsigned int offset,
				    size_t len, u32 val)
{
	struct pdma_channel *ch;
	bool was_master;

	guard(mutex)(&mdev->lock);
	was_master = pdma_config_master(&mdev->config);
	if (pdma_config_write(&mdev->config, offset, len, val)) {
		pdma_reset(mdev);
	} else if (was_master && !pdma_config_master(&mdev->config)) {
		pdma_for_each_channel(ch, mdev)
			pdma_stop(ch);
	}
}

static ssize_t pdma_write_config(struct pdma_mdev *mdev,
				 const char __user *buf, size_t count,
				 u64 offset)
{
	size_t done, len;
	__le32 val;

	if (offset >= PCI_CFG_SPACE_EXP_SIZE)
		return -EINVAL;

	count = min_t(size_t, count, PCI_CFG_SPACE_EXP_SIZE - offset);
	for (done = 0; done < count; done += len, offset += len) {
		len = pdma_config_len(offset, count - done);
		val = 0;
		if (copy_from_user(&val, buf + done, len))
			return -EFAULT;
		pdma_write_config_dword(mdev, offset, len, le32_to_cpu(val));
	}
	return count;
}

/* VFIO */

static int pdma_vfio_feature(struct vfio_device *vdev, u32 flags,
			     void __user *arg, size_t argsz)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);

	switch (flags & VFIO_DEVICE_FEATURE_MASK) {
	case VFIO_DEVICE_FEATURE_IOASID:
		return vfio_ioasids_feature(&mdev->ioasids, flags, arg, argsz);
	default:
		return -ENOTTY;
	}
}

static int pdma_vfio_init(struct vfio_device *vdev)
{
	mutex_init(&to_pdma_mdev(vdev)->lock);
	return 0;
}

static void pdma_vfio_release(struct vfio_device *vdev)
{
	mutex_destroy(&to_pdma_mdev(vdev)->lock);
}

static int pdma_vfio_open(struct vfio_device *vdev)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);
	struct iommu_domain *domain;

	domain = iommu_paging_domain_alloc(pdma_dma_dev(mdev));
	if (IS_ERR(domain))
		return PTR_ERR(domain);

	guard(mutex)(&mdev->lock);
	mdev->domain = domain;
	mdev->config = pdma_config_reset;
	return 0;
}

/* VFIO may still call dma_unmap(), which does not find any pages */
static void pdma_vfio_close(struct vfio_device *vdev)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);

	guard(mutex)(&mdev->lock);
	/* Do not leak the counters to the next user */
	pdma_reset(mdev);
	vfio_ioasids_drop_all(&mdev->ioasids);
	iommu_domain_free(mdev->domain);
	mdev->domain = NULL;
}

static ssize_t pdma_vfio_read(struct vfio_device *vdev, char __user *buf,
			      size_t count, loff_t *ppos)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);
	u64 offset = *ppos & PDMA_REGION_MASK;
	ssize_t ret;

	switch (*ppos >> PDMA_REGION_SHIFT) {
	case VFIO_PCI_BAR0_REGION_INDEX:
		ret = pdma_read_bar(mdev, buf, count, offset);
		break;
	case VFIO_PCI_CONFIG_REGION_INDEX:
		ret = pdma_read_config(mdev, buf, count, offset);
		break;
	default:
		return -EINVAL;
	}
	if (ret > 0)
		*ppos += ret;
	return ret;
}

static ssize_t pdma_vfio_write(struct vfio_device *vdev, const char __user *buf,
			       size_t count, loff_t *ppos)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);
	u64 offset = *ppos & PDMA_REGION_MASK;
	ssize_t ret;

	switch (*ppos >> PDMA_REGION_SHIFT) {
	case VFIO_PCI_BAR0_REGION_INDEX:
		ret = pdma_write_bar(mdev, buf, count, offset);
		break;
	case VFIO_PCI_CONFIG_REGION_INDEX:
		ret = pdma_write_config(mdev, buf, count, offset);
		break;
	default:
		return -EINVAL;
	}
	if (ret > 0)
		*ppos += ret;
	return ret;
}

/*
 * Map status pages of BAR 0, which is the first region. VMMs may map them for
 * writing; the engine ignores writes. Channel pages must never be mapped, as a
 * write could start DMA to pages that are not pinned. The mapping stays while
 * the function is in reset. The driver of a real device must zap it, as
 * vfio-pci does, because reads from a function in reset may cause errors.
 */
static int pdma_vfio_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);
	unsigned long first = PHYS_PFN(PDMA_MDEV_STATUS(0));
	phys_addr_t phys = pci_resource_start(pdma_engine(mdev)->pdev, 0) +
			   PDMA_STATUS_PAGE(mdev->channels[0].nr);
	unsigned long pgoff = vma->vm_pgoff - first;

	if (vma->vm_pgoff < first || pgoff >= PDMA_MDEV_CHANNELS ||
	    vma_pages(vma) > PDMA_MDEV_CHANNELS - pgoff ||
	    !(vma->vm_flags & VM_SHARED))
		return -EINVAL;

	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return io_remap_pfn_range(vma, vma->vm_start, PHYS_PFN(phys) + pgoff,
				  vma->vm_end - vma->vm_start,
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

	info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = VFIO_PCI_NUM_REGIONS;
	info.num_irqs = VFIO_PCI_NUM_IRQS;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static int pdma_add_mappable(struct vfio_info_cap *caps)
{
	DEFINE_RAW_FLEX(struct vfio_region_info_cap_sparse_mmap, sparse, areas,
			1);

	sparse->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
	sparse->header.version = 1;
	sparse->nr_areas = 1;
	sparse->areas[0].offset = PDMA_MDEV_STATUS(0);
	sparse->areas[0].size = PDMA_MDEV_CHANNELS * PDMA_PAGE_SIZE;
	return vfio_info_add_capability(caps, &sparse->header,
					struct_size(sparse, areas, 1));
}

static int pdma_get_region_info(struct vfio_device *vdev,
				struct vfio_region_info *info,
				struct vfio_info_cap *caps)
{
	if (info->index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;

	info->flags = 0;
	info->size = 0;
	info->cap_offset = 0;
	info->offset = (u64)info->index << PDMA_REGION_SHIFT;
	switch (info->index) {
	case VFIO_PCI_BAR0_REGION_INDEX:
		info->flags = VFIO_REGION_INFO_FLAG_READ |
			      VFIO_REGION_INFO_FLAG_WRITE |
			      VFIO_REGION_INFO_FLAG_MMAP;
		info->size = PDMA_MDEV_BAR_SIZE;
		return pdma_add_mappable(caps);
	case VFIO_PCI_CONFIG_REGION_INDEX:
		info->flags = VFIO_REGION_INFO_FLAG_READ |
			      VFIO_REGION_INFO_FLAG_WRITE;
		info->size = PCI_CFG_SPACE_EXP_SIZE;
		break;
	}
	return 0;
}

static int pdma_get_irq_info(struct vfio_irq_info __user *arg)
{
	unsigned long minsz = offsetofend(struct vfio_irq_info, count);
	struct vfio_irq_info info;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz || info.index >= VFIO_PCI_NUM_IRQS)
		return -EINVAL;

	info.flags = 0;
	info.count = 0;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

/* There are no interrupts, but a VMM may still disable all of them */
static int pdma_set_irqs(struct vfio_irq_set __user *arg)
{
	unsigned long minsz = offsetofend(struct vfio_irq_set, count);
	struct vfio_irq_set set;

	if (copy_from_user(&set, arg, minsz))
		return -EFAULT;
	if (set.argsz < minsz || set.index >= VFIO_PCI_NUM_IRQS ||
	    set.flags != (VFIO_IRQ_SET_DATA_NONE |
			  VFIO_IRQ_SET_ACTION_TRIGGER) ||
	    set.start || set.count)
		return -EINVAL;
	return 0;
}

static long pdma_vfio_ioctl(struct vfio_device *vdev, unsigned int cmd,
			    unsigned long arg)
{
	struct pdma_mdev *mdev = to_pdma_mdev(vdev);
	void __user *uptr = (void __user *)arg;

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return pdma_get_device_info(uptr);
	case VFIO_DEVICE_GET_IRQ_INFO:
		return pdma_get_irq_info(uptr);
	case VFIO_DEVICE_SET_IRQS:
		return pdma_set_irqs(uptr);
	case VFIO_DEVICE_RESET:
		scoped_guard(mutex, &mdev->lock)
			pdma_reset(mdev);
		return 0;
	default:
		return -ENOTTY;
	}
}

/*
 * The device is being removed while it is open. There is no event to ask the
 * user to release it, and revoking the device would gain little: the user only
 * ties up its channels. Log it once a minute for whoever is waiting.
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

static int pdma_mdev_probe(struct mdev_device *mdev_dev)
{
	struct pdma_dev *pdma = to_pdma_dev(mdev_dev->type->parent->dev);
	struct pdma_channel *ch;
	struct pdma_mdev *mdev;
	int first, ret;

	mdev = vfio_alloc_device(pdma_mdev, vdev, &mdev_dev->dev,
				 &pdma_vfio_ops);
	if (IS_ERR(mdev))
		return PTR_ERR(mdev);

	first = pdma_engine_get_channels(&pdma->engine, PDMA_MDEV_CHANNELS);
	if (first < 0) {
		ret = first;
		goto err_put_device;
	}
	mdev->pdma = pdma;
	pdma_for_each_channel(ch, mdev) {
		ch->mdev = mdev;
		ch->nr = first + (ch - mdev->channels);
	}
	vfio_ioasids_init(&mdev->ioasids, &mdev->vdev, pdma_dma_dev(mdev),
			  &pdma_ioasids_ops, &mdev->lock);
	dev_set_drvdata(&mdev_dev->dev, mdev);

	/* May be opened from here on */
	ret = vfio_register_emulated_iommu_dev(&mdev->vdev);
	if (ret)
		goto err_put_channels;
	return 0;

err_put_channels:
	vfio_ioasids_destroy(&mdev->ioasids);
	pdma_engine_put_channels(&pdma->engine, first, PDMA_MDEV_CHANNELS);
err_put_device:
	vfio_put_device(&mdev->vdev);
	return ret;
}

static void pdma_mdev_remove(struct mdev_device *mdev_dev)
{
	struct pdma_mdev *mdev = dev_get_drvdata(&mdev_dev->dev);

	/* Waits until the last user has closed the device */
	vfio_unregister_group_dev(&mdev->vdev);
	vfio_ioasids_destroy(&mdev->ioasids);
	pdma_engine_put_channels(pdma_engine(mdev), mdev->channels[0].nr,
				 PDMA_MDEV_CHANNELS);
	vfio_put_device(&mdev->vdev);
}

static unsigned int pdma_mdev_get_available(struct mdev_type *mtype)
{
	return pdma_engine_available(&to_pdma_dev(mtype->parent->dev)->engine,
				     PDMA_MDEV_CHANNELS);
}

static ssize_t pdma_mdev_show_description(struct mdev_type *mtype, char *buf)
{
	return sysfs_emit(buf, "%u channels, DMA with PASIDs\n",
			  PDMA_MDEV_CHANNELS);
}

static struct mdev_driver pdma_mdev_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
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
	 * The IOMMU driver has enabled PASIDs if supported by the device, the
	 * bus and the IOMMU. The driver is useless without PASIDs.
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

	pdma->type.sysfs_name = "channels";
	pdma->type.pretty_name = "PASID DMA channels";
	pdma->types[0] = &pdma->type;
	pci_set_drvdata(pdev, &pdma->engine);
	/* Mediated devices may be created from here on */
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

	/* Waits for all users, so all channels are idle and without a PASID */
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

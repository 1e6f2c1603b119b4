// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fence of functions that do not answer invalidations
 *
 * A function that does not answer a device-TLB invalidation makes hardware stop
 * and drop waits, whoever they belong to. To submit it again for as long as it
 * takes would keep everybody behind that IOMMU waiting, and to give up would
 * leave translations in the device that are no longer valid: translated requests
 * do not look at page tables or PASID tables.
 *
 * They do look at the context entry, though: P=0 blocks translated requests, too
 * (VT-d 7.1.3, table 30). So a function that is present and lets two
 * invalidations time out is fenced: its context entries are made not present,
 * with faults not reported, and flushed. From then on there is nothing to
 * invalidate in the device, and nothing is sent to it that it would have to
 * answer. A reset empties its device TLB, and turns ATS off. When ATS is turned on
 * again, whoever does that, the fence is lifted: the PCI core tells it by the state
 * of the ATS control register, not by the reset, of which there are many kinds.
 *
 * What the fence does not reach: requests that have passed the IOMMU already,
 * and peer-to-peer requests that a switch forwards because they are translated
 * (PCIe ACS, Direct Translated P2P).
 *
 * Whoever submits comes across a function that is to be fenced, with interrupts
 * off and any locks held. So none of this sleeps or takes iommu->lock, and
 * nobody waits for anybody else to fence: each does it, which does no harm.
 */
#define pr_fmt(fmt)	"DMAR: " fmt

#include <kunit/static_stub.h>
#include <linux/bitfield.h>
#include <linux/bitops.h>
#include <linux/cleanup.h>
#include <linux/device.h>
#include <linux/dmar.h>
#include <linux/ktime.h>
#include <linux/pci.h>
#include <linux/pci-ats.h>

#include "fence.h"
#include "iommu.h"
#include "trace.h"

/* A function that lets so many invalidations time out is mute. */
#define FENCE_TIMEOUTS		2

/* Time-outs that are closer to each other are of one and the same stall. */
#define FENCE_STALL_NS		(100 * NSEC_PER_MSEC)

/* Bits of the first word of a context entry (VT-d 9.3, 9.4) */
#define FENCE_CONTEXT_P		0
#define FENCE_CONTEXT_FPD	1

/**
 * enum intel_fence_state - what becomes of a descriptor
 * @FENCE_SEND: hardware is to execute it
 * @FENCE_DROP: it is for a function that has no valid translation in it, and
 *		would not answer
 * @FENCE_FIRST: it is for a function that is to be fenced first
 */
enum intel_fence_state {
	FENCE_SEND,
	FENCE_DROP,
	FENCE_FIRST,
};

static bool intel_fence_is_devtlb(const struct qi_desc *desc)
{
	u8 type = desc->qw0 & GENMASK_ULL(3, 0);

	return type == QI_DIOTLB_TYPE || type == QI_DEIOTLB_TYPE;
}

/* Whether a descriptor makes hardware send something to a function, @sid */
static bool intel_fence_is_sent(const struct qi_desc *desc, u16 *sid)
{
	switch (desc->qw0 & GENMASK_ULL(3, 0)) {
	case QI_DIOTLB_TYPE:
		*sid = FIELD_GET(QI_DEV_IOTLB_SID(0xffff), desc->qw0);
		return true;
	case QI_DEIOTLB_TYPE:
		*sid = FIELD_GET(QI_DEV_EIOTLB_SID(0xffff), desc->qw0);
		return true;
	case QI_PGRP_RESP_TYPE:
		*sid = FIELD_GET(QI_PGRP_DID((u64)0xffff), desc->qw0);
		return true;
	default:
		return false;
	}
}

/**
 * intel_fence_has_devtlb() - whether descriptors need answers of functions
 * @desc: descriptors
 * @count: how many
 *
 * Context: Any context.
 * Return: true if one of them is a device-TLB invalidation.
 */
bool intel_fence_has_devtlb(const struct qi_desc *desc, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (intel_fence_is_devtlb(&desc[i]))
			return true;
	}
	return false;
}

/**
 * intel_fence_has_ats() - whether a function can use its device TLB
 * @info: the function
 *
 * It cannot if it is gone. In a reset, it cannot until its configuration space is
 * restored: ATS is off, and to turn it on empties the device TLB (PCIe r6.2,
 * section 10.3.7). Neither answers invalidations.
 *
 * Context: Any context. Reads the configuration space of the function, once.
 * Return: false if nothing has to be invalidated in it, however long it takes.
 */
bool intel_fence_has_ats(struct device_domain_info *info)
{
	struct pci_dev *pdev;
	u16 ctrl;

	if (!dev_is_pci(info->dev))
		return false;

	pdev = to_pci_dev(info->dev);
	pci_read_config_word(pdev, pdev->ats_cap + PCI_ATS_CTRL, &ctrl);
	return !PCI_POSSIBLE_ERROR(ctrl) && (ctrl & PCI_ATS_CTRL_ENABLE);
}

static bool intel_fence_is_mute(struct device_domain_info *info)
{
	return info->inv_timeouts >= FENCE_TIMEOUTS;
}

static void intel_fence_set_timeouts(struct device_domain_info *info, u8 count)
{
	struct intel_iommu *iommu = info->iommu;
	unsigned int nr_mute = iommu->nr_mute - intel_fence_is_mute(info);

	lockdep_assert_held(&iommu->device_rbtree_lock);
	info->inv_timeouts = min(count, FENCE_TIMEOUTS);
	WRITE_ONCE(iommu->nr_mute, nr_mute + intel_fence_is_mute(info));
}

/**
 * intel_fence_timeout() - count a time-out of a function
 * @iommu: the IOMMU that reports it
 * @sid: source-id of the function, or 0 if hardware does not tell
 *
 * Where hardware does not tell, those with device-TLB invalidations submit them
 * one by one from now on whenever one is lost.
 *
 * Context: The lock of the invalidation queue is held.
 */
void intel_fence_timeout(struct intel_iommu *iommu, u16 sid)
{
	struct device_domain_info *info;
	ktime_t now = ktime_get();

	if (!sid) {
		WRITE_ONCE(iommu->qi->is_unnamed, true);
		return;
	}

	guard(raw_spinlock_irqsave)(&iommu->device_rbtree_lock);
	info = device_rbtree_find_info(iommu, sid);
	if (!info || !intel_fence_has_ats(info))
		return;
	if (info->inv_timeouts &&
	    ktime_sub(now, info->inv_timeout) < FENCE_STALL_NS)
		return;
	info->inv_timeout = now;
	intel_fence_set_timeouts(info, info->inv_timeouts + 1);
}

/*
 * The word of a context entry that has P and FPD, NULL if there is no table. Others
 * change other bits of it, under iommu->lock.
 */
static unsigned long *intel_fence_word(struct intel_iommu *iommu, u16 alias)
{
	struct context_entry *context;

	context = iommu_context_addr(iommu, PCI_BUS_NUM(alias), alias & 0xff,
				     false);
	return context ? (unsigned long *)&context->lo : NULL;
}

/* Make a context entry not present; the other bits stay for the reset. */
static int intel_fence_block_alias(struct pci_dev *pdev, u16 alias, void *data)
{
	struct intel_iommu *iommu = data;
	unsigned long *word = intel_fence_word(iommu, alias);

	if (!word)
		return 0;

	if (test_bit(FENCE_CONTEXT_P, word)) {
		set_bit(FENCE_CONTEXT_FPD, word);
		clear_bit(FENCE_CONTEXT_P, word);
		__iommu_flush_cache(iommu, word, sizeof(*word));
	}
	return 0;
}

static int intel_fence_lift_alias(struct pci_dev *pdev, u16 alias, void *data)
{
	struct intel_iommu *iommu = data;
	unsigned long *word = intel_fence_word(iommu, alias);

	if (!word)
		return 0;

	/* FPD is never set but by the fence, so this is an entry of ours */
	if (test_bit(FENCE_CONTEXT_FPD, word)) {
		set_bit(FENCE_CONTEXT_P, word);
		clear_bit(FENCE_CONTEXT_FPD, word);
		__iommu_flush_cache(iommu, word, sizeof(*word));
	}
	return 0;
}

/*
 * Block the first function that is mute and not fenced yet, if there is one. @lifts:
 * for intel_fence_complete().
 */
static bool intel_fence_block_next(struct intel_iommu *iommu, u16 *sid,
				   unsigned int *lifts)
{
	struct device_domain_info *info;
	struct rb_node *node;

	guard(raw_spinlock_irqsave)(&iommu->device_rbtree_lock);
	for (node = rb_first(&iommu->device_rbtree); node; node = rb_next(node)) {
		info = rb_entry(node, struct device_domain_info, node);
		if (!intel_fence_is_mute(info) || info->fenced)
			continue;
		pci_for_each_dma_alias(to_pci_dev(info->dev),
				       intel_fence_block_alias, iommu);
		*sid = PCI_DEVID(info->bus, info->devfn);
		*lifts = iommu->fence_lifts;
		return true;
	}
	return false;
}

/*
 * The caches are flushed, so it is effective: unless it was lifted meanwhile. That
 * the function is mute does not tell: it can have become so once more, for another
 * submitter. Then it is to be blocked once more, too.
 */
static void intel_fence_complete(struct intel_iommu *iommu, u16 sid,
				 unsigned int lifts)
{
	struct device_domain_info *info;

	guard(raw_spinlock_irqsave)(&iommu->device_rbtree_lock);
	info = device_rbtree_find_info(iommu, sid);
	if (!info || info->fenced || iommu->fence_lifts != lifts)
		return;
	info->fenced = true;
	trace_intel_fence(info->dev, true);
	dev_warn_ratelimited(info->dev,
			     "does not answer invalidations: DMA is blocked until it is reset\n");
}

static int intel_fence_submit(struct intel_iommu *iommu, struct qi_desc *desc)
{
	KUNIT_STATIC_STUB_REDIRECT(intel_fence_submit, iommu, desc);

	return qi_submit_once(iommu, desc, 1, 0);
}

/*
 * What a context entry that was present leaves behind (VT-d 6.5.3.3, table 28),
 * but the device TLB: nothing in there can be used any more. Whatever there is of
 * other functions is read again: fences are rare, and which domains the function
 * had is not known here. The requests that are under way are drained with the
 * IOTLB, as far as hardware does that (VT-d 6.5.4).
 */
static void intel_fence_flush(struct intel_iommu *iommu)
{
	struct qi_desc desc[] = {
		{
			.qw0 = QI_CC_GRAN(DMA_CCMD_GLOBAL_INVL) | QI_CC_TYPE,
		}, {
			.qw0 = QI_PC_GRAN(QI_PC_GLOBAL) | QI_PC_TYPE,
		}, {},
	};
	unsigned int i;

	qi_desc_iotlb(iommu, 0, 0, 0, DMA_TLB_GLOBAL_FLUSH, &desc[2]);
	for (i = 0; i < ARRAY_SIZE(desc); i++) {
		/* There is no PASID cache in legacy mode */
		if (i == 1 && !sm_supported(iommu))
			continue;
		while (intel_fence_submit(iommu, &desc[i]) == -EAGAIN)
			cpu_relax();
	}
}

static void intel_fence_mute(struct intel_iommu *iommu)
{
	unsigned int lifts;
	u16 sid;

	while (intel_fence_block_next(iommu, &sid, &lifts)) {
		intel_fence_flush(iommu);
		intel_fence_complete(iommu, sid, lifts);
	}
}

static enum intel_fence_state
intel_fence_state(struct intel_iommu *iommu, const struct qi_desc *desc,
		  bool again)
{
	struct device_domain_info *info;
	u16 sid;

	if (!intel_fence_is_sent(desc, &sid))
		return FENCE_SEND;

	guard(raw_spinlock_irqsave)(&iommu->device_rbtree_lock);
	info = device_rbtree_find_info(iommu, sid);
	if (info && info->fenced)
		return FENCE_DROP;
	if (info && intel_fence_is_mute(info))
		return FENCE_FIRST;
	/* Reads its configuration space, so only if there was a time-out */
	if (again && (!info || !intel_fence_has_ats(info)))
		return FENCE_DROP;
	return FENCE_SEND;
}

/**
 * intel_fence_filter() - replace what would not be answered
 * @iommu: the IOMMU
 * @desc: descriptors; those for functions that are gone, in reset or fenced are
 *	  replaced by such that do nothing
 * @count: how many
 * @again: they were submitted before: find out which functions are gone or in
 *	   reset
 *
 * Fences functions that are mute.
 *
 * Context: Any context but NMI. Submits to the invalidation queue.
 */
void intel_fence_filter(struct intel_iommu *iommu, struct qi_desc *desc,
			unsigned int count, bool again)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		enum intel_fence_state state;

		state = intel_fence_state(iommu, &desc[i], again);
		if (state == FENCE_FIRST) {
			intel_fence_mute(iommu);
			state = intel_fence_state(iommu, &desc[i], again);
		}
		/* Lifted a moment ago, and mute again: sent once more */
		if (state == FENCE_DROP)
			desc[i] = (struct qi_desc){ .qw0 = QI_IWD_NOTHING };
	}
}

/* One by one, while nobody else invalidates a device TLB: whose time-out is it? */
static int intel_fence_submit_alone(struct intel_iommu *iommu,
				    struct qi_desc *desc, unsigned int count,
				    unsigned long options)
{
	struct q_inval *qi = iommu->qi;
	unsigned long flags;
	unsigned int i;
	int ret = 0;
	u16 sid;

	/* Off until others can go on: an interrupt may have to invalidate, too */
	raw_spin_lock_irqsave(&qi->q_lock, flags);
	while (qi->alone) {
		raw_spin_unlock_irqrestore(&qi->q_lock, flags);
		cpu_relax();
		raw_spin_lock_irqsave(&qi->q_lock, flags);
	}
	qi->alone = true;
	while (qi->nr_devtlb) {
		raw_spin_unlock(&qi->q_lock);
		cpu_relax();
		raw_spin_lock(&qi->q_lock);
	}
	raw_spin_unlock(&qi->q_lock);

	for (i = 0; i < count; i++) {
		bool last = i == count - 1;
		int rc;

		for (;;) {
			/* One ahead of it may have had its function fenced */
			intel_fence_filter(iommu, &desc[i], 1, true);
			rc = qi_submit_once(iommu, &desc[i], 1,
					    last ? options | QI_OPT_ALONE :
						   QI_OPT_ALONE);
			if (rc != -EAGAIN)
				break;
			if (intel_fence_is_devtlb(&desc[i]) &&
			    intel_fence_is_sent(&desc[i], &sid))
				intel_fence_timeout(iommu, sid);
		}
		ret = rc ?: ret;
	}

	raw_spin_lock(&qi->q_lock);
	qi->alone = false;
	raw_spin_unlock_irqrestore(&qi->q_lock, flags);
	return ret;
}

/**
 * intel_fence_submit_again() - submit what was lost with a time-out
 * @iommu: the IOMMU
 * @desc: descriptors, see intel_fence_filter()
 * @count: how many
 * @options: of qi_submit_sync()
 *
 * Ends after two time-outs for each function that is mute; where hardware does
 * not name functions, after one more.
 *
 * Context: Any context but NMI.
 * Return: 0 if all were executed, -EINVAL if hardware has refused one of them.
 */
int intel_fence_submit_again(struct intel_iommu *iommu, struct qi_desc *desc,
			     unsigned int count, unsigned long options)
{
	int rc;

	do {
		intel_fence_filter(iommu, desc, count, true);
		if (READ_ONCE(iommu->qi->is_unnamed) &&
		    intel_fence_has_devtlb(desc, count))
			return intel_fence_submit_alone(iommu, desc, count,
							options);
		rc = qi_submit_once(iommu, desc, count, options);
	} while (rc == -EAGAIN);

	return rc;
}

/**
 * intel_fence_function() - fence a function
 * @iommu: the IOMMU that it is behind
 * @sid: its source-id
 *
 * For whoever cannot invalidate its device TLB for another reason.
 *
 * Context: Any context but NMI. Submits to the invalidation queue.
 */
void intel_fence_function(struct intel_iommu *iommu, u16 sid)
{
	struct device_domain_info *info;

	KUNIT_STATIC_STUB_REDIRECT(intel_fence_function, iommu, sid);

	scoped_guard(raw_spinlock_irqsave, &iommu->device_rbtree_lock) {
		info = device_rbtree_find_info(iommu, sid);
		if (info)
			intel_fence_set_timeouts(info, FENCE_TIMEOUTS);
	}
	intel_fence_mute(iommu);
}

/**
 * intel_fence_lift() - let a function do DMA again
 * @dev: the function, which has lost ATS in a reset, and has it back: there is
 *	 nothing in its device TLB
 *
 * Forgets its time-outs, too.
 *
 * Context: Any context but NMI. Submits to the invalidation queue.
 */
void intel_fence_lift(struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	bool fenced;

	if (!READ_ONCE(info->inv_timeouts))
		return;

	scoped_guard(raw_spinlock_irqsave, &iommu->device_rbtree_lock) {
		fenced = intel_fence_is_mute(info);
		if (fenced) {
			pci_for_each_dma_alias(to_pci_dev(dev),
					       intel_fence_lift_alias, iommu);
			trace_intel_fence(dev, false);
		}
		intel_fence_forget(info);
	}
	/* Caching mode: what is not present is cached, too (VT-d 6.1) */
	if (fenced && cap_caching_mode(iommu->cap))
		intel_fence_flush(iommu);
}

/**
 * intel_fence_forget() - a function leaves
 * @info: the function
 *
 * Context: device_rbtree_lock is held.
 */
void intel_fence_forget(struct device_domain_info *info)
{
	info->fenced = false;
	info->iommu->fence_lifts++;
	intel_fence_set_timeouts(info, 0);
}

#if IS_ENABLED(CONFIG_INTEL_IOMMU_PASID_PARK_KUNIT_TEST)
#include "fence_test.c"
#endif

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fence functions that do not answer invalidations
 *
 * If a function does not answer a device-TLB invalidation, the invalidation
 * queue stalls until the time-out, and hardware aborts all pending waits,
 * including those of other submitters. Retrying forever would block everybody
 * behind that IOMMU. Giving up would leave stale translations in the device
 * TLB, and translated requests do not consult the page tables or PASID tables.
 *
 * They do consult the context entry: P=0 also blocks translated requests (VT-d
 * 7.1.3, table 30). So a function that is present and lets two invalidations
 * time out is fenced: its context entries are made not present with fault
 * reporting disabled, and flushed. From then on its device TLB needs no
 * invalidation, and nothing that requires an answer is sent to it. A reset
 * clears the device TLB and disables ATS. The fence is lifted when ATS is
 * enabled again. The PCI core detects this from the ATS control register, as
 * there are many kinds of resets.
 *
 * The fence does not affect requests that have already passed the IOMMU, nor
 * translated peer-to-peer requests that a switch forwards directly (PCIe ACS,
 * Direct Translated P2P).
 *
 * Any submitter may have to fence a function, with interrupts off and arbitrary
 * locks held. So nothing here sleeps or takes iommu->lock. Several submitters
 * may fence the same function at once without waiting for each other.
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

/* A function is considered mute after this many invalidation time-outs. */
#define FENCE_TIMEOUTS		2

/* Time-outs closer together than this are counted as one stall. */
#define FENCE_STALL_NS		(100 * NSEC_PER_MSEC)

/* Bits of the first word of a context entry (VT-d 9.3, 9.4) */
#define FENCE_CONTEXT_P		0
#define FENCE_CONTEXT_FPD	1

/**
 * enum intel_fence_state - how to handle a descriptor
 * @FENCE_SEND: submit it to the hardware
 * @FENCE_DROP: skip it: the function would not answer, and has no valid
 *		translations
 * @FENCE_FIRST: the function must be fenced first
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

/* True if a descriptor is sent to a function, whose ID is returned in @sid */
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
 * intel_fence_has_devtlb() - check for device-TLB invalidations
 * @desc: descriptors
 * @count: number of descriptors
 *
 * Context: Any context.
 * Return: true if any descriptor is a device-TLB invalidation.
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
 * intel_fence_has_ats() - check whether a function can use its device TLB
 * @info: the function
 *
 * A function cannot if it is gone, or in reset until its configuration space is
 * restored: ATS is disabled, and enabling it clears the device TLB (PCIe r6.2,
 * section 10.3.7). In both cases it does not answer invalidations.
 *
 * Context: Any context. Reads the configuration space of the function.
 * Return: false if its device TLB does not need to be invalidated.
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
 * intel_fence_timeout() - count an invalidation time-out of a function
 * @iommu: the IOMMU that reports it
 * @sid: source-id of the function, or 0 if not reported by the hardware
 *
 * If hardware does not report the source-id, lost batches with device-TLB
 * invalidations are resubmitted one descriptor at a time from now on.
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
 * The word of a context entry that has P and FPD, or NULL if there is no table.
 * Modify it atomically, as other bits are changed concurrently under
 * iommu->lock.
 */
static unsigned long *intel_fence_word(struct intel_iommu *iommu, u16 alias)
{
	struct context_entry *context;

	context = iommu_context_addr(iommu, PCI_BUS_NUM(alias), alias & 0xff,
				     false);
	return context ? (unsigned long *)&context->lo : NULL;
}

/* Make a context entry not present; the other bits stay for the lift. */
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

	/* FPD is only set by the fence, so this entry was blocked above */
	if (test_bit(FENCE_CONTEXT_FPD, word)) {
		set_bit(FENCE_CONTEXT_P, word);
		clear_bit(FENCE_CONTEXT_FPD, word);
		__iommu_flush_cache(iommu, word, sizeof(*word));
	}
	return 0;
}

/*
 * Block the first mute function that is not fenced yet, if any. @lifts is to be
 * passed to intel_fence_complete().
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
 * The caches are flushed, so mark the function as fenced, unless a fence was
 * lifted meanwhile. Testing for mute would not detect that: the function may
 * have become mute again for another submitter, and then must be blocked again.
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
 * Flush what a present context entry leaves behind (VT-d 6.5.3.3, table 28),
 * except for the device TLB, which is unusable. Flush globally: fences are
 * rare, and the domains of the function are not known here. The IOTLB flush
 * also drains requests in flight, as far as the hardware supports that (VT-d
 * 6.5.4).
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
	/* Reads the configuration space, so only after a time-out */
	if (again && (!info || !intel_fence_has_ats(info)))
		return FENCE_DROP;
	return FENCE_SEND;
}

/**
 * intel_fence_filter() - drop descriptors that would not be answered
 * @iommu: the IOMMU
 * @desc: descriptors. Those for functions that are gone, in reset or fenced are
 *	  replaced by no-ops.
 * @count: number of descriptors
 * @again: this is a retry: check which functions are gone or in reset
 *
 * Fences mute functions.
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
		/* FENCE_FIRST: lifted and mute again meanwhile, so try again */
		if (state == FENCE_DROP)
			desc[i] = (struct qi_desc){ .qw0 = QI_IWD_NOTHING };
	}
}

/*
 * Submit one descriptor at a time, with no other device-TLB invalidations in
 * flight, to find out which function timed out.
 */
static int intel_fence_submit_alone(struct intel_iommu *iommu,
				    struct qi_desc *desc, unsigned int count,
				    unsigned long options)
{
	struct q_inval *qi = iommu->qi;
	unsigned long flags;
	unsigned int i;
	int ret = 0;
	u16 sid;

	/*
	 * Keep interrupts off while others are held up: a handler may need to
	 * invalidate, too.
	 */
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
			/* May have been fenced by the previous descriptor */
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
 * intel_fence_submit_again() - resubmit descriptors lost in a time-out
 * @iommu: the IOMMU
 * @desc: descriptors, see intel_fence_filter()
 * @count: number of descriptors
 * @options: see qi_submit_sync()
 *
 * Ends after two time-outs per mute function, or three if the hardware does not
 * report the function.
 *
 * Context: Any context but NMI.
 * Return: 0 if all were executed, -EINVAL if hardware has rejected any of them.
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
 * @iommu: the IOMMU in front of it
 * @sid: source-id of the function
 *
 * For callers that cannot invalidate its device TLB for other reasons.
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
 * @dev: the function. ATS was disabled by a reset and is enabled again, so its
 *	 device TLB is empty.
 *
 * Also clears its time-outs.
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
	/* In caching mode, not-present entries are cached (VT-d 6.1) */
	if (fenced && cap_caching_mode(iommu->cap))
		intel_fence_flush(iommu);
}

/**
 * intel_fence_forget() - reset the state of a function that is being released
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

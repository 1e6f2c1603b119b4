// SPDX-License-Identifier: GPL-2.0-only
/*
 * Park PASIDs in the VT-d PASID table
 *
 * A parked entry has P clear, FPD set and a software mark. P=0 alone is
 * ambiguous: the setup paths treat it as a free entry, and process exit with
 * SVA also leaves P=0 with FPD=1. The mark reserves the entry until the PASID
 * is recycled. Hardware reserves this bit while P=1 and ignores it while P=0
 * (VT-d 9.6), so it is only set in the same store that clears P.
 *
 * With that single 64-bit store, the device sees either the old translation or
 * a blocked request without a fault. The other words must be kept until no
 * cache references the entry any more (VT-d 6.5.3.3).
 */
#define pr_fmt(fmt)	"DMAR: " fmt

#include <kunit/static_stub.h>
#include <linux/bitfield.h>
#include <linux/bitops.h>
#include <linux/build_bug.h>
#include <linux/dmar.h>
#include <linux/iommu.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pci-ats.h>
#include <linux/pci.h>
#include <linux/sched.h>

#include "fence.h"
#include "iommu.h"
#include "pasid.h"
#include "pasid_park.h"
#include "../iommu-priv.h"

/*
 * Pseudo translation type of an entry that is all zero. It can only be in the
 * PASID cache. The device TLB is skipped, as the device may be in reset.
 */
#define PARK_PGTT_ABSENT	0xff

/**
 * struct intel_park_entry - a PASID with a pending flush
 * @pte: the blocked entry
 * @did: the domain ID in cache tags
 * @pgtt: the translation type, or PARK_PGTT_ABSENT
 * @first: first entry in the gather with this cache tag
 *
 * Stored in the driver's part of struct iommu_pasid_gather_entry.
 */
struct intel_park_entry {
	struct pasid_entry *pte;
	u16 did;
	u8 pgtt;
	bool first;
};

static_assert(sizeof(struct intel_park_entry) <=
	      sizeof_field(struct iommu_pasid_gather_entry, priv));

static struct intel_park_entry *
intel_park_priv(struct iommu_pasid_gather_entry *entry)
{
	return (struct intel_park_entry *)entry->priv;
}

/* Find the entry of @pasid, without allocating its table. Or return NULL. */
static struct pasid_entry *intel_pasid_find_entry(struct device *dev, u32 pasid)
{
	struct pasid_table *table = intel_pasid_get_table(dev);
	struct pasid_dir_entry *dir;
	struct pasid_entry *entries;

	if (!table || pasid >= table->max_pasid)
		return NULL;

	dir = table->table;
	entries = get_pasid_table_from_pde(&dir[pasid >> PASID_PDE_SHIFT]);
	return entries ? &entries[pasid & PASID_PTE_MASK] : NULL;
}

/**
 * intel_pasid_is_parked() - check whether a PASID of a device is parked
 * @dev: the device
 * @pasid: the PASID
 *
 * Context: Any context. @dev must not be released meanwhile.
 * Return: true from intel_pasid_park() until intel_pasid_unpark().
 */
bool intel_pasid_is_parked(struct device *dev, ioasid_t pasid)
{
	struct pasid_entry *pte = intel_pasid_find_entry(dev, pasid);

	return pte && pasid_pte_is_parked(pte);
}

/**
 * intel_pasid_park() - block a PASID of a device
 * @dev: the device
 * @pasid: the PASID
 * @gather: collects the entries to flush
 * @entry: added to @gather if there is anything to flush
 *
 * From here on, the entry cannot become present until intel_pasid_unpark().
 * Cached translations remain usable until intel_pasid_park_sync() returns.
 *
 * Context: The group mutex of @dev is held. Takes iommu->lock.
 */
void intel_pasid_park(struct device *dev, ioasid_t pasid,
		      struct iommu_pasid_gather *gather,
		      struct iommu_pasid_gather_entry *entry)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_park_entry *priv = intel_park_priv(entry);
	struct intel_iommu *iommu = info->iommu;
	struct pasid_entry *pte;
	u64 val;

	pte = intel_pasid_find_entry(dev, pasid);
	if (!pte)
		return;

	spin_lock(&iommu->lock);
	val = READ_ONCE(pte->val[0]);
	if (!(val & PASID_PTE_PARKED))
		WRITE_ONCE(pte->val[0], (val & ~(u64)PASID_PTE_PRESENT) |
			   PASID_PTE_FPD | PASID_PTE_PARKED);
	/*
	 * Flush even if P is already clear: process exit with SVA may not have
	 * flushed yet, and does not drain page requests. In caching mode, the
	 * hardware may also have cached an entry that was never set, or that
	 * was torn down for a device reset, with fault reporting enabled and
	 * tagged with domain ID 0 (VT-d 6.1).
	 */
	if ((val || cap_caching_mode(iommu->cap)) &&
	    !(val & PASID_PTE_PARKED)) {
		priv->did = pasid_get_domain_id(pte);
		priv->pgtt = val ? pasid_pte_get_pgtt(pte) : PARK_PGTT_ABSENT;
		priv->pte = pte;
		iommu_pasid_gather_add(gather, entry, dev, pasid);
	}
	spin_unlock(&iommu->lock);

	__iommu_flush_cache(iommu, pte, sizeof(*pte));
}

/*
 * With at least this many PASIDs per domain, use domain-selective instead of
 * PASID-selective PASID cache invalidation. Unrelated entries of these domains
 * are refetched once.
 */
#define PARK_DOMAIN_MIN		8

/*
 * Above this many descriptors in a step, use one global invalidation instead.
 * For the cost to others and the choice of the value, see "How a flush is
 * chosen" in Documentation/driver-api/ioasid-internals.rst.
 */
#define PARK_SELECTIVE_MAX	1024

/* What one IOTLB descriptor covers, see intel_park_by_pasid() */
#define PARK_TAG(did, by_pasid)	((did) * 2 + (by_pasid))

/**
 * struct intel_park - per-IOMMU park state
 * @count_lock: protects @seen
 * @unpark_lock: serializes the flush of unparked entries
 * @unparked: hardware may have cached unparked entries as parked; under
 *	      iommu->lock
 * @seen: bitmap of PARK_TAG() values already counted
 */
struct intel_park {
	struct mutex count_lock;	/* protects seen */
	struct mutex unpark_lock;	/* serializes the flush of unparked entries */
	bool unparked;
	unsigned long seen[];
};

/*
 * Same as the largest batch in cache.c: interrupts are off until all
 * descriptors are executed, and other submitters wait behind them.
 */
#define PARK_BATCH		QI_MAX_BATCHED_DESC_COUNT

/* cond_resched() every PARK_BATCH iterations */
static void intel_park_cond_resched(unsigned int count)
{
	if (count % PARK_BATCH == 0)
		cond_resched();
}

/**
 * struct intel_park_batch - descriptors that share a wait
 * @iommu: the IOMMU
 * @limit: maximum number of descriptors per wait
 * @qi: the descriptors
 *
 * One per flush, so that concurrent flushes of several owners interleave.
 */
struct intel_park_batch {
	struct intel_iommu *iommu;
	unsigned int limit;
	struct qi_batch qi;
};

/**
 * intel_park_init() - allocate the per-IOMMU park state
 * @iommu: the IOMMU
 *
 * Must be called before the first PASID can be attached behind @iommu, so that
 * park itself never allocates. Does nothing if already initialized.
 *
 * Context: Process context, may sleep. Calls must be serialized.
 * Return: 0 or -ENOMEM.
 */
int intel_park_init(struct intel_iommu *iommu)
{
	struct intel_park *park;

	if (iommu->park)
		return 0;

	park = kvzalloc(struct_size(park, seen,
				    BITS_TO_LONGS(PARK_TAG(cap_ndoms(iommu->cap),
							   0))), GFP_KERNEL);
	if (!park)
		return -ENOMEM;

	mutex_init(&park->count_lock);
	mutex_init(&park->unpark_lock);
	iommu->park = park;
	return 0;
}

/**
 * intel_park_exit() - undo intel_park_init()
 * @iommu: the IOMMU, without devices
 *
 * Context: Process context, may sleep.
 */
void intel_park_exit(struct intel_iommu *iommu)
{
	if (iommu->park) {
		mutex_destroy(&iommu->park->count_lock);
		mutex_destroy(&iommu->park->unpark_lock);
	}
	kvfree(iommu->park);
	iommu->park = NULL;
}

static struct device_domain_info *
intel_park_info(const struct iommu_pasid_gather_entry *entry)
{
	return dev_iommu_priv_get(entry->dev);
}

static bool intel_park_is_absent(struct iommu_pasid_gather_entry *entry)
{
	return intel_park_priv(entry)->pgtt == PARK_PGTT_ABSENT;
}

static struct intel_iommu *
intel_park_iommu(const struct iommu_pasid_gather_entry *entry)
{
	return intel_park_info(entry)->iommu;
}

/*
 * Whether the IOTLB is invalidated by PASID, or by domain. IOTLB entries of
 * second-stage translations do have a PASID tag (VT-d 6.2.1, table 17), and a
 * PASID-selective descriptor drops them (6.5.2.4, table 24). But it leaves the
 * second-stage paging-structure cache alone, which is tagged with domain ID and
 * address. So a second-stage or nested entry that is made not present needs a
 * domain-selective descriptor (6.5.3.3, table 28), which serves all PASIDs of
 * the domain (6.5.2.3, table 23).
 */
static bool intel_park_by_pasid(struct iommu_pasid_gather_entry *entry)
{
	u8 pgtt = intel_park_priv(entry)->pgtt;

	return pgtt == PASID_ENTRY_PGTT_PT || pgtt == PASID_ENTRY_PGTT_FL_ONLY;
}

/* True for the first entry of each tag, which is flushed on behalf of all */
static bool intel_park_is_first(struct iommu_pasid_gather_entry *entry)
{
	return intel_park_priv(entry)->first;
}

/*
 * Whether there is a device TLB to invalidate, which is not allowed while
 * translation is disabled (VT-d 4.3). Skip a device in reset: its device TLB
 * cannot get translations of a parked PASID once the PASID cache and IOTLB are
 * flushed.
 */
static bool intel_has_devtlb(struct device_domain_info *info)
{
	return info->ats_enabled && (info->iommu->gcmd & DMA_GCMD_TE) &&
	       intel_fence_has_ats(info);
}

/* Submit descriptors and wait until they are executed. */
static int intel_park_submit(struct intel_iommu *iommu, struct qi_desc *desc,
			     unsigned int count)
{
	KUNIT_STATIC_STUB_REDIRECT(intel_park_submit, iommu, desc, count);

	return qi_submit_sync(iommu, desc, count, 0);
}

/*
 * The hardware rejected a descriptor as invalid (VT-d 6.5.2.11), which should
 * not happen. Flush globally instead. If a device TLB cannot be invalidated,
 * fence the function.
 */
static void intel_park_submit_instead(struct intel_iommu *iommu,
				      const struct qi_desc *refused)
{
	struct qi_desc desc = {};

	switch (refused->qw0 & GENMASK_ULL(3, 0)) {
	case QI_PC_TYPE:
		desc.qw0 = QI_PC_GRAN(QI_PC_GLOBAL) | QI_PC_TYPE;
		break;
	case QI_DEIOTLB_TYPE:
		intel_fence_function(iommu,
				     FIELD_GET(QI_DEV_EIOTLB_SID(0xffff),
					       refused->qw0));
		return;
	default:
		qi_desc_iotlb(iommu, 0, 0, 0, DMA_TLB_GLOBAL_FLUSH, &desc);
		break;
	}
	WARN_ONCE(intel_park_submit(iommu, &desc, 1),
		  "%s: flush was refused\n", iommu->name);
}

/* Submit the batch and wait until it is executed. */
static void intel_park_wait(struct intel_park_batch *batch)
{
	struct qi_desc *desc = batch->qi.descs;
	unsigned int i;

	if (!batch->qi.index)
		return;

	/* If rejected, retry each descriptor to find which one is invalid */
	if (intel_park_submit(batch->iommu, desc, batch->qi.index)) {
		for (i = 0; i < batch->qi.index; i++) {
			if (intel_park_submit(batch->iommu, &desc[i], 1))
				intel_park_submit_instead(batch->iommu,
							  &desc[i]);
		}
	}
	batch->qi.index = 0;
	cond_resched();
}

/* Set the maximum number of descriptors that share a wait. */
static void intel_park_set_limit(struct intel_park_batch *batch,
				 unsigned int limit)
{
	if (batch->limit == limit)
		return;
	intel_park_wait(batch);
	batch->limit = limit;
}

/* Returns the next free descriptor, zeroed. */
static struct qi_desc *intel_park_next_desc(struct intel_park_batch *batch)
{
	struct qi_desc *desc;

	if (batch->qi.index == batch->limit)
		intel_park_wait(batch);

	desc = &batch->qi.descs[batch->qi.index++];
	*desc = (struct qi_desc){};
	return desc;
}

/**
 * struct intel_park_count - amount of work in a flush
 * @pasids: number of entries
 * @domains: number of different domains
 * @iotlb: number of different IOTLB tags: PASIDs, or domains
 */
struct intel_park_count {
	unsigned int pasids;
	unsigned int domains;
	unsigned int iotlb;
};

static unsigned int intel_park_tag(struct iommu_pasid_gather_entry *entry)
{
	return PARK_TAG(intel_park_priv(entry)->did,
			intel_park_by_pasid(entry));
}

/* Count the entries, and mark the first entry of each tag. */
static struct intel_park_count intel_park_count(struct intel_park *park,
						struct list_head *entries)
{
	struct iommu_pasid_gather_entry *entry;
	struct intel_park_count count = {};
	unsigned int walked = 0;
	bool first;

	guard(mutex)(&park->count_lock);
	list_for_each_entry(entry, entries, node) {
		first = !__test_and_set_bit(intel_park_tag(entry), park->seen);
		intel_park_priv(entry)->first = first;
		count.domains += first;
		count.iotlb += first || intel_park_by_pasid(entry);
		intel_park_cond_resched(++count.pasids);
	}
	list_for_each_entry(entry, entries, node) {
		if (intel_park_is_first(entry))
			__clear_bit(intel_park_tag(entry), park->seen);
		intel_park_cond_resched(++walked);
	}
	return count;
}

static void intel_park_flush_pasid_cache(struct intel_park_batch *batch,
					 struct list_head *entries,
					 const struct intel_park_count *count)
{
	bool by_domain = count->pasids >= PARK_DOMAIN_MIN * count->domains;
	struct iommu_pasid_gather_entry *entry;
	unsigned int walked = 0;

	if ((by_domain ? count->domains : count->pasids) > PARK_SELECTIVE_MAX) {
		intel_park_next_desc(batch)->qw0 = QI_PC_GRAN(QI_PC_GLOBAL) |
						   QI_PC_TYPE;
	} else if (by_domain) {
		list_for_each_entry(entry, entries, node) {
			if (intel_park_is_first(entry))
				intel_park_next_desc(batch)->qw0 =
					QI_PC_DID(intel_park_priv(entry)->did) |
					QI_PC_GRAN(QI_PC_ALL_PASIDS) |
					QI_PC_TYPE;
			intel_park_cond_resched(++walked);
		}
	} else {
		list_for_each_entry(entry, entries, node)
			intel_park_next_desc(batch)->qw0 =
				QI_PC_DID(intel_park_priv(entry)->did) |
				QI_PC_GRAN(QI_PC_PASID_SEL) |
				QI_PC_PASID(entry->pasid) | QI_PC_TYPE;
	}
	intel_park_wait(batch);
}

static void intel_park_flush_iotlb(struct intel_park_batch *batch,
				   struct list_head *entries,
				   const struct intel_park_count *count)
{
	struct iommu_pasid_gather_entry *entry;
	unsigned int walked = 0;

	if (count->iotlb > PARK_SELECTIVE_MAX) {
		qi_desc_iotlb(batch->iommu, 0, 0, 0, DMA_TLB_GLOBAL_FLUSH,
			      intel_park_next_desc(batch));
		intel_park_wait(batch);
		return;
	}

	list_for_each_entry(entry, entries, node) {
		u16 did = intel_park_priv(entry)->did;

		if (intel_park_by_pasid(entry))
			qi_desc_piotlb_all(did, entry->pasid,
					   intel_park_next_desc(batch));
		else if (intel_park_is_first(entry) &&
			 !intel_park_is_absent(entry))
			qi_desc_iotlb(batch->iommu, did, 0, 0,
				      DMA_TLB_DSI_FLUSH,
				      intel_park_next_desc(batch));
		intel_park_cond_resched(++walked);
	}
	intel_park_wait(batch);
}

/*
 * Maximum number of pending device-TLB invalidations. Virtual functions share
 * the limit of their physical function (PCIe 10.5.1.2; 0 means 32).
 */
static unsigned int intel_park_depth(struct device_domain_info *info)
{
	struct pci_dev *pdev = to_pci_dev(info->dev);
	int depth = info->ats_qdep;

	if (pdev->is_virtfn)
		depth = pci_ats_queue_depth(pci_physfn(pdev));
	return depth > 0 ? min(depth, PARK_BATCH) : PARK_BATCH;
}

/*
 * Always one descriptor per PASID: VT-d 3.0 removed the all-PASIDs device-TLB
 * invalidation, and invalidations without PASID do not affect entries with a
 * PASID (PCIe 10.3.8).
 */
static void intel_park_flush_devtlb(struct intel_park_batch *batch,
				    struct list_head *entries, bool extra)
{
	struct iommu_pasid_gather_entry *entry;
	struct device_domain_info *info = NULL;
	struct qi_desc *desc, of_device;
	unsigned int walked = 0;
	bool flush = false;

	list_for_each_entry(entry, entries, node) {
		/*
		 * Entries are grouped by device. Recheck presence every
		 * batch, as the device may be unplugged meanwhile.
		 */
		if (info != intel_park_info(entry) ||
		    walked % PARK_BATCH == 0) {
			info = intel_park_info(entry);
			flush = (!extra || info->dtlb_extra_inval) &&
				intel_has_devtlb(info);
			if (flush)
				intel_park_set_limit(batch,
						     intel_park_depth(info));
			of_device = (struct qi_desc){};
			qi_desc_dev_iotlb_pasid(PCI_DEVID(info->bus,
							  info->devfn),
						info->pfsid, 0, info->ats_qdep,
						0, 64 - VTD_PAGE_SHIFT,
						&of_device);
		}
		if (flush && !intel_park_is_absent(entry)) {
			desc = intel_park_next_desc(batch);
			*desc = of_device;
			desc->qw0 |= QI_DEV_EIOTLB_PASID(entry->pasid);
		}
		intel_park_cond_resched(++walked);
	}
	intel_park_wait(batch);
}

/* Flush all of @entries, which must be behind @iommu. */
static void intel_park_flush(struct intel_iommu *iommu,
			     struct list_head *entries)
{
	struct intel_park_batch batch = {
		.iommu = iommu,
		.limit = PARK_BATCH,
	};
	struct intel_park_count count;

	count = intel_park_count(iommu->park, entries);
	intel_park_flush_pasid_cache(&batch, entries, &count);
	intel_park_flush_iotlb(&batch, entries, &count);
	intel_park_flush_devtlb(&batch, entries, false);
	/* Quirk: some devices need a second invalidation */
	intel_park_flush_devtlb(&batch, entries, true);
}

/* Last step: drain page requests, once for all parked PASIDs of a device */
static void intel_park_drain(const struct iommu_pasid_gather_entry *entry)
{
	KUNIT_STATIC_STUB_REDIRECT(intel_park_drain, entry);

	intel_iommu_drain_pasid_prq(entry->dev, entry->pasid);
}

/*
 * No cache references the entry any more: clear everything except FPD and the
 * parked mark. Hardware ignores the rest while P=0, so no write-back is needed.
 */
static void intel_pasid_finish_park(struct iommu_pasid_gather_entry *entry)
{
	struct intel_iommu *iommu = intel_park_iommu(entry);
	struct pasid_entry *pte = intel_park_priv(entry)->pte;
	unsigned int i;

	spin_lock(&iommu->lock);
	WRITE_ONCE(pte->val[0], PASID_PTE_FPD | PASID_PTE_PARKED);
	for (i = 1; i < ARRAY_SIZE(pte->val); i++)
		WRITE_ONCE(pte->val[i], 0);
	spin_unlock(&iommu->lock);
}

/* Find the first of @entries that is behind @iommu, or return NULL. */
static struct iommu_pasid_gather_entry *
intel_park_find(struct list_head *entries, struct intel_iommu *iommu)
{
	struct iommu_pasid_gather_entry *entry;

	list_for_each_entry(entry, entries, node) {
		if (intel_park_iommu(entry) == iommu)
			return entry;
	}
	return NULL;
}

/* Move all entries of @entry's device, from @entry on, from @from to @to. */
static void intel_park_move_device(struct iommu_pasid_gather_entry *entry,
				   struct list_head *from, struct list_head *to)
{
	struct device *dev = entry->dev;
	struct iommu_pasid_gather_entry *next;
	unsigned int walked = 0;

	list_for_each_entry_safe_from(entry, next, from, node) {
		if (entry->dev == dev)
			list_move_tail(&entry->node, to);
		intel_park_cond_resched(++walked);
	}
}

/**
 * intel_pasid_park_sync() - flush gathered PASIDs
 * @gather: entries from intel_pasid_park(), empty afterwards
 *
 * Flushes each IOMMU in the order of VT-d 6.5.3.3, with a wait after each step:
 * first the PASID cache, which can refill the IOTLB; then the IOTLB, which can
 * refill a device TLB; then the device TLBs. After that, no translated or
 * untranslated request of the PASIDs can reach memory, and pending page
 * requests can be drained (VT-d 7.10).
 *
 * Context: Process context, may sleep, does not allocate. The devices must not
 * be released before this returns.
 */
void intel_pasid_park_sync(struct iommu_pasid_gather *gather)
{
	struct iommu_pasid_gather_entry *entry, *next;
	struct device *drained = NULL;
	struct intel_iommu *iommu;
	unsigned int count = 0;
	LIST_HEAD(entries);

	while (!list_empty(&gather->entries)) {
		entry = list_first_entry(&gather->entries,
					 struct iommu_pasid_gather_entry, node);
		iommu = intel_park_iommu(entry);
		do {
			intel_park_move_device(entry, &gather->entries,
					       &entries);
			cond_resched();
			entry = intel_park_find(&gather->entries, iommu);
		} while (entry);

		intel_park_flush(iommu, &entries);
		list_for_each_entry_safe(entry, next, &entries, node) {
			if (entry->dev != drained &&
			    !intel_park_is_absent(entry)) {
				intel_park_drain(entry);
				drained = entry->dev;
			}
			intel_pasid_finish_park(entry);
			iommu_pasid_gather_del(entry);
			intel_park_cond_resched(++count);
		}
	}
}

/**
 * intel_pasid_unpark() - release a parked entry
 * @dev: the device
 * @pasid: the PASID, which is about to be recycled
 *
 * The entry becomes not present: DMA is blocked, and faults are reported after
 * intel_pasid_unpark_sync(). Does nothing if the entry is not parked.
 *
 * Context: The group mutex of @dev is held. Takes iommu->lock.
 */
void intel_pasid_unpark(struct device *dev, ioasid_t pasid)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	struct pasid_entry *pte;

	pte = intel_pasid_find_entry(dev, pasid);
	if (!pte)
		return;

	spin_lock(&iommu->lock);
	if (!pasid_pte_is_parked(pte)) {
		spin_unlock(&iommu->lock);
		return;
	}
	pasid_clear_entry(pte);
	/* Write back first, as ->unparked makes others flush */
	__iommu_flush_cache(iommu, pte, sizeof(*pte));
	/* In caching mode, not-present entries are cached */
	if (cap_caching_mode(iommu->cap))
		iommu->park->unparked = true;
	spin_unlock(&iommu->lock);
}

/* Not-present entries are cached under domain ID 0 (VT-d 6.1). */
static void intel_park_flush_unparked(struct intel_iommu *iommu)
{
	struct intel_park_batch batch = {
		.iommu = iommu,
		.limit = PARK_BATCH,
	};
	bool unparked;

	/* If another thread is already flushing, wait for it */
	guard(mutex)(&iommu->park->unpark_lock);
	spin_lock(&iommu->lock);
	unparked = iommu->park->unparked;
	iommu->park->unparked = false;
	spin_unlock(&iommu->lock);
	if (!unparked)
		return;

	intel_park_next_desc(&batch)->qw0 = QI_PC_GRAN(QI_PC_ALL_PASIDS) |
					    QI_PC_TYPE;
	intel_park_wait(&batch);
}

/**
 * intel_pasid_unpark_sync() - flush unparked PASIDs
 *
 * Covers all entries unparked so far, including those of other threads. Only
 * IOMMUs in caching mode with such entries need an invalidation.
 *
 * Context: Process context, may sleep.
 */
void intel_pasid_unpark_sync(void)
{
	struct dmar_drhd_unit *drhd;
	struct intel_iommu *iommu;

	guard(rwsem_read)(&dmar_global_lock);
	for_each_active_iommu(iommu, drhd) {
		if (iommu->park && cap_caching_mode(iommu->cap))
			intel_park_flush_unparked(iommu);
	}
}

#if IS_ENABLED(CONFIG_INTEL_IOMMU_PASID_PARK_KUNIT_TEST)
#include "pasid_park_test.c"
#endif

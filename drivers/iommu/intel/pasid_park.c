// SPDX-License-Identifier: GPL-2.0-only
/*
 * Park of PASIDs in the VT-d PASID table
 *
 * A parked entry has P clear, FPD set, and a mark of our own. P=0 alone would
 * not do: everybody who sets up an entry takes that for a free one, and process
 * exit with SVA leaves P=0 with FPD=1 behind, too. The mark says that the entry
 * is taken until the PASID is recycled. It is a bit that hardware reserves while
 * P=1 and ignores while P=0 (VT-d 9.6), so it is only ever set in the store that
 * clears P.
 *
 * What the device sees of that one 64-bit store is the old translation or a
 * blocked request without a fault, nothing in between. The other words stay as
 * they are until hardware cannot use them any more (VT-d 6.5.3.3).
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
 * The type of translation of an entry that is all zero. Only the PASID cache can
 * know it. The device may be in the middle of a reset, and is left alone.
 */
#define PARK_PGTT_ABSENT	0xff

/**
 * struct intel_park_entry - what park knows of a PASID that awaits a flush
 * @pte: the entry that was blocked
 * @did: the domain ID that caches are tagged with
 * @pgtt: the type of translation, or PARK_PGTT_ABSENT
 * @first: the first entry of a gather with this tag in the caches
 *
 * Kept in the area of struct iommu_pasid_gather_entry that belongs to the driver.
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

/*
 * The entry of @pasid if there is a table for it. Unlike the lookup of those
 * who set an entry up, this allocates nothing.
 */
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
 * intel_pasid_is_parked() - whether a PASID of a device is parked
 * @dev: the device
 * @pasid: the PASID
 *
 * Context: Any context in which @dev stays.
 * Return: true from intel_pasid_park() to intel_pasid_unpark().
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
 * @gather: collects what is to be flushed
 * @entry: goes into @gather if there is something to flush
 *
 * From here on no function makes the entry present until intel_pasid_unpark().
 * DMA can go on through what is cached until intel_pasid_park_sync() is done.
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
	 * Also when P is clear already: process exit with SVA may be about to
	 * flush, and leaves page requests undrained. In caching mode, hardware
	 * may have an entry that was never set, or that was torn down for a
	 * device reset, too: with faults reported, and tagged with domain ID 0,
	 * which is what such an entry says (VT-d 6.1).
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
 * From so many PASIDs for each domain on, drop all that the PASID cache has of
 * these domains. What others have in the same domain is read again once.
 */
#define PARK_DOMAIN_MIN		8

/*
 * More descriptors than this in one step, and one that drops everything replaces
 * them. See "How a flush is chosen" in
 * Documentation/driver-api/ioasid-internals.rst for the reason and the cost.
 */
#define PARK_SELECTIVE_MAX	1024

/* Caches have one kind of tag or the other: first stage has the PASID, too */
#define PARK_TAG(did, by_pasid)	((did) * 2 + (by_pasid))

/**
 * struct intel_park - what park needs of an IOMMU
 * @count_lock: protects @seen
 * @unpark_lock: whoever comes second waits for the flush of the first
 * @unparked: entries were unparked that hardware may have cached as parked;
 *	      under iommu->lock
 * @seen: PARK_TAG() of the entries that were counted
 */
struct intel_park {
	struct mutex count_lock;	/* seen */
	struct mutex unpark_lock;	/* the flush of what was unparked */
	bool unparked;
	unsigned long seen[];
};

/*
 * No more than cache.c submits together: interrupts are off until all are
 * executed, and everybody else waits behind them.
 */
#define PARK_BATCH		QI_MAX_BATCHED_DESC_COUNT

/* In a loop over many entries: @count is the number of rounds so far */
static void intel_park_cond_resched(unsigned int count)
{
	if (count % PARK_BATCH == 0)
		cond_resched();
}

/**
 * struct intel_park_batch - descriptors that share a wait
 * @iommu: the IOMMU that they are for
 * @limit: how many of them share a wait
 * @qi: the descriptors
 *
 * Each flush has its own, so that those of several owners alternate.
 */
struct intel_park_batch {
	struct intel_iommu *iommu;
	unsigned int limit;
	struct qi_batch qi;
};

/**
 * intel_park_init() - get what park needs of an IOMMU
 * @iommu: the IOMMU
 *
 * To be called before the first PASID can be attached behind @iommu: park is not
 * to need memory. Does nothing the next time.
 *
 * Context: Process context, may sleep, one call at a time.
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
 * @iommu: the IOMMU, which no device is behind any more
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

/* What second-stage translation caches has no PASID tag (VT-d 6.2.1) */
static bool intel_park_by_pasid(struct iommu_pasid_gather_entry *entry)
{
	u8 pgtt = intel_park_priv(entry)->pgtt;

	return pgtt == PASID_ENTRY_PGTT_PT || pgtt == PASID_ENTRY_PGTT_FL_ONLY;
}

/* The first entry of each tag stands for all that have the same */
static bool intel_park_is_first(struct iommu_pasid_gather_entry *entry)
{
	return intel_park_priv(entry)->first;
}

/*
 * Whether there is a device TLB to invalidate. While translation is off, that is
 * not to be done (VT-d 4.3). A device in reset, which a park can come across, has
 * none until the PASID cache and the IOTLB are flushed: nothing of a parked PASID
 * comes back.
 */
static bool intel_has_devtlb(struct device_domain_info *info)
{
	return info->ats_enabled && (info->iommu->gcmd & DMA_GCMD_TE) &&
	       intel_fence_has_ats(info);
}

/* Submit descriptors and wait until hardware is through with them. */
static int intel_park_submit(struct intel_iommu *iommu, struct qi_desc *desc,
			     unsigned int count)
{
	KUNIT_STATIC_STUB_REDIRECT(intel_park_submit, iommu, desc, count);

	return qi_submit_sync(iommu, desc, count, 0);
}

/*
 * Hardware refuses a descriptor (VT-d 6.5.2.11) that it should not: a flush of
 * everything does instead, and of a function whose device TLB cannot be
 * invalidated nothing may be let through.
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

/* Hardware is through with all descriptors so far when this returns. */
static void intel_park_wait(struct intel_park_batch *batch)
{
	struct qi_desc *desc = batch->qi.descs;
	unsigned int i;

	if (!batch->qi.index)
		return;

	/* Once more each, which shows which one is refused: if it is again */
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

/* So many share a wait from here on. */
static void intel_park_set_limit(struct intel_park_batch *batch,
				 unsigned int limit)
{
	if (batch->limit == limit)
		return;
	intel_park_wait(batch);
	batch->limit = limit;
}

/* Where the next descriptor goes; all zero. */
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
 * struct intel_park_count - what there is to flush
 * @pasids: entries
 * @domains: domains of these
 * @iotlb: what the IOTLB has of them: PASIDs, or domains
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

/* Also marks the first entry of each tag. */
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
 * How many invalidations can be pending at a device: as many as at the physical
 * function, with all of its virtual ones together (PCIe 10.5.1.2; 0 is 32).
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
 * One for each PASID, whatever their number: a descriptor that drops what a
 * device has of all PASIDs is gone since VT-d 3.0, and one without PASID leaves
 * what has one alone (PCIe 10.3.8).
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
		 * Those of a device stand together, and differ in the PASID. It
		 * can go away in the middle.
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

/* Flush all of @entries, which are behind @iommu. */
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
	/* Some devices need one more than the specification asks for */
	intel_park_flush_devtlb(&batch, entries, true);
}

/* The last step: page requests, once for all PASIDs of a device that are parked */
static void intel_park_drain(const struct iommu_pasid_gather_entry *entry)
{
	KUNIT_STATIC_STUB_REDIRECT(intel_park_drain, entry);

	intel_iommu_drain_pasid_prq(entry->dev, entry->pasid);
}

/*
 * Hardware is through with the entry: clear all but what keeps it blocked. It
 * looks at none of the rest while P=0, so there is no need to write it back.
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

/* The first of @entries that is behind @iommu, or NULL. */
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

/* Move all that is of the device of @entry, which is in @from, to @to. */
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
 * intel_pasid_park_sync() - make what was gathered effective
 * @gather: entries from intel_pasid_park(), empty afterwards
 *
 * Flushes for each IOMMU, in the order of VT-d 6.5.3.3 and with a wait behind
 * each step: the PASID cache, since what is in there can fill an IOTLB again; the
 * IOTLB, since that can fill a device TLB again; the device TLBs. Then no
 * translated or untranslated request of the PASIDs can reach memory, and the
 * page requests that are under way can be drained (VT-d 7.10).
 *
 * Context: Process context, may sleep; allocates nothing. The devices must not be
 * released before this returns.
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
 * intel_pasid_unpark() - give an entry back
 * @dev: the device
 * @pasid: the PASID, which is about to be recycled
 *
 * The entry becomes plain not present: DMA is blocked and, from
 * intel_pasid_unpark_sync() on, reported. Does nothing for an entry that is not
 * parked.
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
	/* Whoever sees the flag flushes, and hardware must not read it as it was */
	__iommu_flush_cache(iommu, pte, sizeof(*pte));
	/* In caching mode also entries that are not present are cached */
	if (cap_caching_mode(iommu->cap))
		iommu->park->unparked = true;
	spin_unlock(&iommu->lock);
}

/* Entries that are not present are cached under domain ID 0 (VT-d 6.1). */
static void intel_park_flush_unparked(struct intel_iommu *iommu)
{
	struct intel_park_batch batch = {
		.iommu = iommu,
		.limit = PARK_BATCH,
	};
	bool unparked;

	/* Whoever comes second waits for the flush of the first */
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
 * intel_pasid_unpark_sync() - make hardware forget what was parked
 *
 * For all entries that were unparked before, whoever did it: one invalidation
 * for each IOMMU in caching mode that needs it, none for others.
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

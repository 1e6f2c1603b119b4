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
#include <linux/bitmap.h>
#include <linux/dmar.h>
#include <linux/iommu.h>
#include <linux/pci.h>

#include "iommu.h"
#include "pasid.h"
#include "pasid-park.h"
#include "../iommu-priv.h"

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
 * intel_pasid_park() - block a PASID of a device
 * @dev: the device
 * @pasid: the PASID
 * @gather: collects what is to be flushed
 *
 * From here on no function makes the entry present until intel_pasid_unpark().
 * DMA can go on through what is cached until intel_pasid_park_sync() is done.
 *
 * Context: The group mutex of @dev is held. Takes iommu->lock.
 */
void intel_pasid_park(struct device *dev, ioasid_t pasid,
		      struct iommu_pasid_gather *gather)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
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
	 * flush, and leaves page requests undrained.
	 */
	if (val && !(val & PASID_PTE_PARKED))
		iommu_pasid_gather_add(gather, dev, pasid,
				       pasid_get_domain_id(pte),
				       pasid_pte_get_pgtt(pte));
	spin_unlock(&iommu->lock);

	__iommu_flush_cache(iommu, pte, sizeof(*pte));
}

/* The steps of VT-d table "Guidance to Software for Invalidations" */
enum intel_park_step {
	PARK_FLUSH_PASID_CACHE,
	PARK_FLUSH_IOTLB,
	PARK_FLUSH_DEVTLB,
	PARK_FLUSH_STEPS,
};

/*
 * A device that is gone never answers. While translation is off, device TLBs
 * are not to be invalidated (VT-d 4.3).
 */
static bool intel_has_devtlb(struct device_domain_info *info)
{
	return info->ats_enabled && (info->iommu->gcmd & DMA_GCMD_TE) &&
	       pci_device_is_present(to_pci_dev(info->dev));
}

/* The descriptor of a step for one entry; false if there is nothing to do. */
static bool intel_park_desc(const struct iommu_pasid_gather_entry *entry,
			    enum intel_park_step step, struct qi_desc *desc)
{
	struct device_domain_info *info = dev_iommu_priv_get(entry->dev);

	memset(desc, 0, sizeof(*desc));

	switch (step) {
	case PARK_FLUSH_PASID_CACHE:
		desc->qw0 = QI_PC_DID(entry->did) | QI_PC_GRAN(QI_PC_PASID_SEL) |
			    QI_PC_PASID(entry->pasid) | QI_PC_TYPE;
		return true;
	case PARK_FLUSH_IOTLB:
		/* What second-stage translation caches has no PASID tag */
		if (entry->pgtt == PASID_ENTRY_PGTT_PT ||
		    entry->pgtt == PASID_ENTRY_PGTT_FL_ONLY)
			qi_desc_piotlb(entry->did, entry->pasid, 0, -1, 0, desc);
		else
			qi_desc_iotlb(info->iommu, entry->did, 0, 0,
				      DMA_TLB_DSI_FLUSH, desc);
		return true;
	case PARK_FLUSH_DEVTLB:
		if (!intel_has_devtlb(info))
			return false;
		qi_desc_dev_iotlb_pasid(PCI_DEVID(info->bus, info->devfn),
					info->pfsid, entry->pasid,
					info->ats_qdep, 0,
					64 - VTD_PAGE_SHIFT, desc);
		return true;
	default:
		return false;
	}
}

/* Submit descriptors and wait until hardware is through with them. */
static int intel_park_submit(struct intel_iommu *iommu, struct qi_desc *desc,
			     unsigned int count)
{
	KUNIT_STATIC_STUB_REDIRECT(intel_park_submit, iommu, desc, count);

	return qi_submit_sync(iommu, desc, count, 0);
}

static struct intel_iommu *
intel_gather_iommu(const struct iommu_pasid_gather_entry *entry)
{
	struct device_domain_info *info = dev_iommu_priv_get(entry->dev);

	return info->iommu;
}

/* One step for all entries of one IOMMU, with one wait. */
static void intel_park_flush(struct iommu_pasid_gather *gather,
			     struct intel_iommu *iommu,
			     enum intel_park_step step)
{
	struct qi_desc desc[IOMMU_PASID_GATHER_MAX];
	unsigned int i, count = 0;

	for (i = 0; i < gather->count; i++) {
		if (intel_gather_iommu(&gather->entry[i]) == iommu &&
		    intel_park_desc(&gather->entry[i], step, &desc[count]))
			count++;
	}
	if (!count)
		return;

	/*
	 * A device that does not answer makes hardware drop the descriptors
	 * behind it, which belong to others: those are sent again by
	 * themselves.
	 */
	if (intel_park_submit(iommu, desc, count) && count > 1) {
		for (i = 0; i < count; i++)
			intel_park_submit(iommu, &desc[i], 1);
	}
}

/*
 * The last step: requests that the device made before. Some devices need one
 * more device TLB invalidation than the specification asks for. One that is
 * gone has no requests, and the drain would wait for its answer.
 */
static void intel_park_drain(const struct iommu_pasid_gather_entry *entry)
{
	struct device_domain_info *info = dev_iommu_priv_get(entry->dev);

	KUNIT_STATIC_STUB_REDIRECT(intel_park_drain, entry);

	if (intel_has_devtlb(info))
		quirk_extra_dev_tlb_flush(info, 0, 64 - VTD_PAGE_SHIFT,
					  entry->pasid, info->ats_qdep);
	if (pci_device_is_present(to_pci_dev(entry->dev)))
		intel_iommu_drain_pasid_prq(entry->dev, entry->pasid);
}

/* Hardware is through with the entry: clear all but what keeps it blocked. */
static void intel_pasid_finish_park(struct device *dev, u32 pasid)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct pasid_entry *pte;
	unsigned int i;

	pte = intel_pasid_find_entry(dev, pasid);
	if (!pte)
		return;

	spin_lock(&info->iommu->lock);
	WRITE_ONCE(pte->val[0], PASID_PTE_FPD | PASID_PTE_PARKED);
	for (i = 1; i < ARRAY_SIZE(pte->val); i++)
		WRITE_ONCE(pte->val[i], 0);
	spin_unlock(&info->iommu->lock);
	__iommu_flush_cache(info->iommu, pte, sizeof(*pte));
}

/**
 * intel_pasid_park_sync() - make what was gathered effective
 * @gather: entries from intel_pasid_park(), empty afterwards
 *
 * Flushes, in the order of VT-d 6.5.3.3 and with a wait behind each step: the
 * PASID cache, since what is in there can fill an IOTLB again; the IOTLB, since
 * that can fill a device TLB again; the device TLBs. Then no translated or
 * untranslated request of the PASIDs can reach memory, and the page requests
 * that are under way can be drained (VT-d 7.10).
 *
 * Context: Process context, may sleep (drain of page requests). The devices
 * must not be released before this returns.
 */
void intel_pasid_park_sync(struct iommu_pasid_gather *gather)
{
	DECLARE_BITMAP(done, IOMMU_PASID_GATHER_MAX) = {};
	struct iommu_pasid_gather_entry *entry;
	enum intel_park_step step;
	struct intel_iommu *iommu;
	unsigned int i, j;

	for (i = 0; i < gather->count; i++) {
		if (test_bit(i, done))
			continue;

		iommu = intel_gather_iommu(&gather->entry[i]);
		for (step = 0; step < PARK_FLUSH_STEPS; step++)
			intel_park_flush(gather, iommu, step);
		for (j = i; j < gather->count; j++) {
			if (intel_gather_iommu(&gather->entry[j]) == iommu)
				__set_bit(j, done);
		}
	}

	for (i = 0; i < gather->count; i++) {
		entry = &gather->entry[i];
		intel_park_drain(entry);
		intel_pasid_finish_park(entry->dev, entry->pasid);
	}
	gather->count = 0;
}

/**
 * intel_pasid_unpark() - give an entry back
 * @dev: the device
 * @pasid: the PASID, which is about to be recycled
 *
 * The entry becomes plain not present: DMA is blocked and reported. Does
 * nothing for an entry that is not parked.
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
	spin_unlock(&iommu->lock);
	__iommu_flush_cache(iommu, pte, sizeof(*pte));

	/* In caching mode also entries that are not present are cached */
	if (cap_caching_mode(iommu->cap)) {
		struct qi_desc desc = {
			.qw0 = QI_PC_GRAN(QI_PC_PASID_SEL) |
			       QI_PC_PASID(pasid) | QI_PC_TYPE,
		};

		intel_park_submit(iommu, &desc, 1);
	}
}

#if IS_ENABLED(CONFIG_INTEL_IOMMU_PASID_PARK_KUNIT_TEST)
#include "pasid-park_test.c"
#endif

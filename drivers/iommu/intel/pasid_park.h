/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Park PASIDs in the VT-d PASID table
 */
#ifndef __INTEL_PASID_PARK_H
#define __INTEL_PASID_PARK_H

#include <linux/bits.h>
#include <linux/iommu.h>

#include "pasid.h"

/* Software mark in a PASID table entry: reserved if P=1, ignored if P=0 */
#define PASID_PTE_PARKED	BIT_ULL(11)

static inline bool pasid_pte_is_parked(struct pasid_entry *pte)
{
	return READ_ONCE(pte->val[0]) & PASID_PTE_PARKED;
}

/* True if the flush is complete: only FPD and the parked mark are left */
static inline bool pasid_pte_park_is_done(struct pasid_entry *pte)
{
	return READ_ONCE(pte->val[0]) == (PASID_PTE_FPD | PASID_PTE_PARKED);
}

/*
 * Must be checked under iommu->lock before making an entry present: returns 0
 * if the entry is free, -EBUSY if it is in use, -ESHUTDOWN if its PASID is
 * parked.
 */
static inline int pasid_pte_check_free(struct pasid_entry *pte)
{
	if (pasid_pte_is_present(pte))
		return -EBUSY;
	return pasid_pte_is_parked(pte) ? -ESHUTDOWN : 0;
}

#if defined(CONFIG_IOASID) && defined(CONFIG_INTEL_IOMMU)
int intel_park_init(struct intel_iommu *iommu);
void intel_park_exit(struct intel_iommu *iommu);
void intel_pasid_park(struct device *dev, ioasid_t pasid,
		      struct iommu_pasid_gather *gather,
		      struct iommu_pasid_gather_entry *entry);
void intel_pasid_park_sync(struct iommu_pasid_gather *gather);
void intel_pasid_unpark(struct device *dev, ioasid_t pasid);
void intel_pasid_unpark_sync(void);
bool intel_pasid_is_parked(struct device *dev, ioasid_t pasid);
#else
static inline int intel_park_init(struct intel_iommu *iommu)
{
	return 0;
}

static inline void intel_park_exit(struct intel_iommu *iommu)
{
}

static inline bool intel_pasid_is_parked(struct device *dev, ioasid_t pasid)
{
	return false;
}

#define intel_pasid_park	NULL
#define intel_pasid_park_sync	NULL
#define intel_pasid_unpark	NULL
#define intel_pasid_unpark_sync	NULL
#endif

#endif

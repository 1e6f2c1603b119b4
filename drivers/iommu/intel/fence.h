/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fence functions that do not answer invalidations
 */
#ifndef __INTEL_FENCE_H
#define __INTEL_FENCE_H

#include <linux/types.h>

struct device;
struct device_domain_info;
struct intel_iommu;
struct qi_desc;

#ifdef CONFIG_INTEL_IOMMU
bool intel_fence_has_devtlb(const struct qi_desc *desc, unsigned int count);
bool intel_fence_has_ats(struct device_domain_info *info);
void intel_fence_timeout(struct intel_iommu *iommu, u16 sid);
void intel_fence_filter(struct intel_iommu *iommu, struct qi_desc *desc,
			unsigned int count, bool again);
int intel_fence_submit_again(struct intel_iommu *iommu, struct qi_desc *desc,
			     unsigned int count, unsigned long options);
void intel_fence_function(struct intel_iommu *iommu, u16 sid);
void intel_fence_lift(struct device *dev);
void intel_fence_forget(struct device_domain_info *info);
#else
static inline bool intel_fence_has_devtlb(const struct qi_desc *desc,
					  unsigned int count)
{
	return false;
}

static inline void intel_fence_timeout(struct intel_iommu *iommu, u16 sid)
{
}

static inline void intel_fence_filter(struct intel_iommu *iommu,
				      struct qi_desc *desc, unsigned int count,
				      bool again)
{
}

static inline int intel_fence_submit_again(struct intel_iommu *iommu,
					   struct qi_desc *desc,
					   unsigned int count,
					   unsigned long options)
{
	return -EAGAIN;
}
#endif

#endif

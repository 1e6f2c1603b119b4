/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IOASID: reference counted PASIDs
 *
 * See Documentation/driver-api/ioasid.rst. The functions are documented where
 * they are defined, in drivers/iommu/ioasid.c, ioasid_account.c and
 * ioasid_cdev.c.
 *
 * struct ioasid is the object. ioasid_t of <linux/iommu.h> is a bare PASID, as
 * passed between the IOMMU core and IOMMU drivers; it says nothing about who
 * holds the number. The IOASID core and its users pass objects. They use u32
 * for numbers: "id" for the number of an IOASID, "guest_pasid" for a PASID that
 * a guest chose.
 */
#ifndef _LINUX_IOASID_H
#define _LINUX_IOASID_H

#include <linux/err.h>
#include <linux/mm_types.h>
#include <linux/types.h>

struct device;
struct ioasid;
struct ioasid_set;
struct iommu_attach_handle;
struct iommu_domain;
struct ref_tracker;

/**
 * enum ioasid_user - user kinds, reported in debugfs and fdinfo
 * @IOASID_USER_DRIVER: the driver of a device
 * @IOASID_USER_MDEV: the driver of a mediated device
 * @IOASID_USER_KVM: a virtual machine
 * @IOASID_USER_KINDS: number of kinds
 */
enum ioasid_user {
	IOASID_USER_DRIVER,
	IOASID_USER_MDEV,
	IOASID_USER_KVM,
	IOASID_USER_KINDS
};

/**
 * struct ioasid_ref - the reference of a user
 * @ioasid: the IOASID
 * @user: kind of user
 * @tracker: debug token that tells where the reference was taken, cf.
 *	     netdevice_tracker
 *
 * For long-term references. Filled by ioasid_user_get() or ioasid_fd_get(), put
 * by ioasid_user_put(). It may be copied, but must be put only once.
 */
struct ioasid_ref {
	struct ioasid *ioasid;
	enum ioasid_user user;
#ifdef CONFIG_IOASID_REF_TRACKER
	struct ref_tracker *tracker;
#endif
};

#ifdef CONFIG_IOASID

struct ioasid_set *ioasid_set_get_mm(struct mm_struct *mm);
void ioasid_set_put(struct ioasid_set *set);

/* Called when an mm is created and freed */
static inline void mm_ioasid_init(struct mm_struct *mm)
{
	mm->ioasid_set = NULL;
}

void mm_ioasid_drop(struct mm_struct *mm);

struct ioasid *ioasid_alloc(struct ioasid_set *set, u32 min, u32 max);
void ioasid_free(struct ioasid *ioasid);

struct ioasid *ioasid_get(struct ioasid *ioasid);
void ioasid_put(struct ioasid *ioasid);
struct ioasid *ioasid_tryget(struct ioasid *ioasid);
void ioasid_user_get(struct ioasid *ioasid, enum ioasid_user user,
		     struct ioasid_ref *ref);
void ioasid_user_put(struct ioasid_ref *ref);

u32 ioasid_id(const struct ioasid *ioasid);
bool ioasid_is_active(const struct ioasid *ioasid);

int ioasid_attach_device(struct ioasid *ioasid, struct iommu_domain *domain,
			 struct device *dev,
			 struct iommu_attach_handle *handle);
int ioasid_replace_device(struct ioasid *ioasid, struct iommu_domain *old,
			  struct iommu_domain *domain, struct device *dev,
			  struct iommu_attach_handle *handle);
void ioasid_detach_device(struct ioasid *ioasid, struct iommu_domain *domain,
			  struct device *dev);

#else /* CONFIG_IOASID */

static inline void mm_ioasid_init(struct mm_struct *mm)
{
}

static inline void mm_ioasid_drop(struct mm_struct *mm)
{
}

static inline struct ioasid *ioasid_get(struct ioasid *ioasid)
{
	return ioasid;
}

static inline void ioasid_put(struct ioasid *ioasid)
{
}

static inline struct ioasid *ioasid_tryget(struct ioasid *ioasid)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static inline void ioasid_user_get(struct ioasid *ioasid,
				   enum ioasid_user user,
				   struct ioasid_ref *ref)
{
}

static inline void ioasid_user_put(struct ioasid_ref *ref)
{
}

static inline u32 ioasid_id(const struct ioasid *ioasid)
{
	return 0;
}

static inline bool ioasid_is_active(const struct ioasid *ioasid)
{
	return false;
}

static inline int ioasid_attach_device(struct ioasid *ioasid,
				       struct iommu_domain *domain,
				       struct device *dev,
				       struct iommu_attach_handle *handle)
{
	return -EOPNOTSUPP;
}

static inline int ioasid_replace_device(struct ioasid *ioasid,
					struct iommu_domain *old,
					struct iommu_domain *domain,
					struct device *dev,
					struct iommu_attach_handle *handle)
{
	return -EOPNOTSUPP;
}

static inline void ioasid_detach_device(struct ioasid *ioasid,
					struct iommu_domain *domain,
					struct device *dev)
{
}

#endif /* CONFIG_IOASID */

#ifdef CONFIG_IOASID_CDEV

int ioasid_fd_get(int fd, u32 id, enum ioasid_user user,
		  struct ioasid_ref *ref);

#else /* CONFIG_IOASID_CDEV */

static inline int ioasid_fd_get(int fd, u32 id, enum ioasid_user user,
				struct ioasid_ref *ref)
{
	return -EOPNOTSUPP;
}

#endif /* CONFIG_IOASID_CDEV */
#endif

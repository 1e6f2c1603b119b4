// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO_DEVICE_FEATURE_IOASID: the IOASIDs that a device holds
 *
 * Implements the feature for all kinds of devices. The device's driver attaches
 * and detaches PASIDs, see struct vfio_ioasids_ops.
 */
#include <linux/bitops.h>
#include <linux/cleanup.h>
#include <linux/ioasid.h>
#include <linux/iommu.h>
#include <linux/kernel.h>
#ifdef CONFIG_KVM_IOASID
#include <linux/kvm_host.h>
#endif
#include <linux/lockdep.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/xarray.h>
#include <uapi/linux/ioasid.h>

#define VFIO_IOASID_OPS							\
	(VFIO_DEVICE_IOASID_ADD | VFIO_DEVICE_IOASID_REPLACE |		\
	 VFIO_DEVICE_IOASID_DROP | VFIO_DEVICE_IOASID_DROP_ALL)

/* Number of list entries copied to user space at a time */
#define VFIO_IOASID_BATCH	16

/**
 * vfio_ioasids_init() - initialize the IOASIDs of a device
 * @ioasids: embedded in the driver's representation of the device
 * @vdev: the device
 * @dma_dev: the physical device that performs its DMA
 * @ops: callbacks of the driver
 * @lock: mutex that protects @ioasids. It is held around the callbacks, but not
 *	  across accesses to user memory.
 */
void vfio_ioasids_init(struct vfio_ioasids *ioasids, struct vfio_device *vdev,
		       struct device *dma_dev,
		       const struct vfio_ioasids_ops *ops, struct mutex *lock)
{
	ioasids->vdev = vdev;
	ioasids->dma_dev = dma_dev;
	ioasids->ops = ops;
	ioasids->lock = lock;
	xa_init_flags(&ioasids->held, XA_FLAGS_ACCOUNT);
}
EXPORT_SYMBOL_GPL(vfio_ioasids_init);

/**
 * vfio_ioasids_destroy() - undo vfio_ioasids_init()
 * @ioasids: must be empty, see vfio_ioasids_drop_all()
 */
void vfio_ioasids_destroy(struct vfio_ioasids *ioasids)
{
	WARN_ON(!xa_empty(&ioasids->held));
	xa_destroy(&ioasids->held);
}
EXPORT_SYMBOL_GPL(vfio_ioasids_destroy);

/* Number of PASIDs supported by the device, including PASID 0; may be 0 */
static u32 vfio_ioasids_max_pasids(struct vfio_ioasids *ioasids)
{
	struct dev_iommu *iommu = ioasids->dma_dev->iommu;

	return iommu ? iommu->max_pasids : 0;
}

/* Whether the device supports IOASIDs. The device must be open. */
static bool vfio_ioasids_supported(struct vfio_ioasids *ioasids)
{
	if (!vfio_ioasids_max_pasids(ioasids))
		return false;
	if (!ioasids->ops->domain)
		return true;

	/* An IOMMU driver may support PASIDs for SVA domains only */
	guard(mutex)(ioasids->lock);
	return ioasids->ops->domain(ioasids->vdev)->ops->set_dev_pasid;
}

/**
 * vfio_ioasids_find() - look up an IOASID held by a device
 * @ioasids: the IOASIDs of the device
 * @id: the PASID
 *
 * Context: The lock of @ioasids is held.
 * Return: the IOASID, which may be PARKED, or NULL if the device does not hold
 * it. Valid until the lock is released.
 */
struct ioasid *vfio_ioasids_find(struct vfio_ioasids *ioasids, u32 id)
{
	struct ioasid_ref *held;

	lockdep_assert_held(ioasids->lock);

	held = xa_load(&ioasids->held, id);
	return held ? held->ioasid : NULL;
}
EXPORT_SYMBOL_GPL(vfio_ioasids_find);

/* Attach the IOASID of @ref. Consumes the reference on success only. */
static int vfio_ioasids_hold(struct vfio_ioasids *ioasids,
			     const struct ioasid_ref *ref, struct ioasid *old)
{
	u32 id = ioasid_id(ref->ioasid);
	struct ioasid_ref *held;
	int ret;

	/* While the IOASID is held, its PASID cannot be reused */
	if (xa_load(&ioasids->held, id))
		return -EEXIST;
	if (id >= vfio_ioasids_max_pasids(ioasids))
		return -EINVAL;

	held = kmemdup(ref, sizeof(*ref), GFP_KERNEL_ACCOUNT);
	if (!held)
		return -ENOMEM;

	/* Insert first, so that nothing can fail after the attach */
	ret = xa_insert(&ioasids->held, id, held, GFP_KERNEL_ACCOUNT);
	if (ret)
		goto err_free;
	ret = ioasids->ops->attach(ioasids->vdev, ref->ioasid, old);
	if (ret)
		goto err_erase;
	return 0;

err_erase:
	xa_erase(&ioasids->held, id);
err_free:
	kfree(held);
	return ret;
}

static void vfio_ioasids_release(struct vfio_ioasids *ioasids,
				 struct ioasid_ref *held)
{
	ioasids->ops->detach(ioasids->vdev, held->ioasid);
	xa_erase(&ioasids->held, ioasid_id(held->ioasid));
	ioasid_user_put(held);
	kfree(held);
}

/**
 * vfio_ioasids_drop_all() - drop all IOASIDs that a device holds
 * @ioasids: the IOASIDs of the device
 *
 * For the last close of the device.
 *
 * Context: Process context, may sleep. The lock of @ioasids is held.
 */
void vfio_ioasids_drop_all(struct vfio_ioasids *ioasids)
{
	struct ioasid_ref *held;
	unsigned long id;

	lockdep_assert_held(ioasids->lock);

	xa_for_each(&ioasids->held, id, held)
		vfio_ioasids_release(ioasids, held);
}
EXPORT_SYMBOL_GPL(vfio_ioasids_drop_all);

#ifdef CONFIG_KVM_IOASID
static int vfio_ioasids_get_guest(struct vfio_ioasids *ioasids, u32 guest_pasid,
				  struct ioasid_ref *ref)
{
	struct kvm *kvm = ioasids->vdev->kvm;
	typeof(kvm_ioasid_get) *get;
	int ret;

	if (!kvm)
		return -ENOENT;
	/* Avoid a module dependency on KVM */
	get = symbol_get(kvm_ioasid_get);
	if (!get)
		return -ENOENT;

	ret = get(kvm, guest_pasid, ioasids->ops->user, ref);
	symbol_put(kvm_ioasid_get);
	return ret;
}
#else
static int vfio_ioasids_get_guest(struct vfio_ioasids *ioasids, u32 guest_pasid,
				  struct ioasid_ref *ref)
{
	return -ENOENT;
}
#endif

/**
 * vfio_ioasids_hold_guest() - hold the IOASID of a guest PASID
 * @ioasids: the IOASIDs of the device
 * @guest_pasid: PASID used by the guest, not necessarily valid
 *
 * For drivers of devices that a guest programs with its PASIDs. The PASID is
 * looked up in the map of the device's VM, see kvm_ioasid_get(). If the device
 * does not hold the IOASID yet, it is attached and held until
 * vfio_ioasids_drop() or vfio_ioasids_drop_all(). Only one reference is held,
 * even if this is called repeatedly, so the driver must count its own users.
 *
 * Later changes of the map do not affect the device.
 *
 * Context: Process context, may sleep. The device is open and the lock of
 * @ioasids is held.
 * Return: the IOASID, valid until it is dropped or the lock is released. It may
 * have been PARKED since the lookup; its DMA is blocked then. ERR_PTR on
 * failure: -ENOENT if the PASID is not in the map, or there is no map or no VM,
 * -ESHUTDOWN if the IOASID is PARKED, -EINVAL if the device does not support a
 * PASID of that width, -ENOMEM, or the error of the attach callback.
 */
struct ioasid *vfio_ioasids_hold_guest(struct vfio_ioasids *ioasids,
				       u32 guest_pasid)
{
	struct ioasid_ref ref;
	struct ioasid *held;
	int ret;

	ret = vfio_ioasids_get_guest(ioasids, guest_pasid, &ref);
	if (ret)
		return ERR_PTR(ret);

	held = vfio_ioasids_find(ioasids, ioasid_id(ref.ioasid));
	if (!held) {
		ret = vfio_ioasids_hold(ioasids, &ref, NULL);
		if (!ret)
			return ref.ioasid;
		held = ERR_PTR(ret);
	}
	ioasid_user_put(&ref);
	return held;
}
EXPORT_SYMBOL_GPL(vfio_ioasids_hold_guest);

/**
 * vfio_ioasids_drop() - drop one IOASID held by a device
 * @ioasids: the IOASIDs of the device
 * @ioasid: must be held by the device. May be freed when this returns.
 *
 * Context: Process context, may sleep. The lock of @ioasids is held.
 */
void vfio_ioasids_drop(struct vfio_ioasids *ioasids, struct ioasid *ioasid)
{
	struct ioasid_ref *held;

	lockdep_assert_held(ioasids->lock);

	held = xa_load(&ioasids->held, ioasid_id(ioasid));
	if (WARN_ON_ONCE(!held || held->ioasid != ioasid))
		return;
	vfio_ioasids_release(ioasids, held);
}
EXPORT_SYMBOL_GPL(vfio_ioasids_drop);

static int vfio_ioasids_replace(struct vfio_ioasids *ioasids,
				const struct ioasid_ref *ref, u32 old_id)
{
	struct ioasid_ref *old = xa_load(&ioasids->held, old_id);
	int ret;

	if (!old)
		return -ENOENT;
	if (old->ioasid == ref->ioasid)
		return -EALREADY;

	ret = vfio_ioasids_hold(ioasids, ref, old->ioasid);
	if (ret)
		return ret;
	vfio_ioasids_release(ioasids, old);
	return 0;
}

/* Implements ADD and REPLACE */
static int vfio_ioasids_give(struct vfio_ioasids *ioasids,
			     const struct vfio_device_feature_ioasid *set)
{
	struct ioasid_ref ref;
	int ret;

	ret = ioasid_fd_get(set->fd, set->id, ioasids->ops->user, &ref);
	if (ret)
		return ret;

	scoped_guard(mutex, ioasids->lock) {
		if (set->flags & VFIO_DEVICE_IOASID_REPLACE)
			ret = vfio_ioasids_replace(ioasids, &ref, set->old_id);
		else
			ret = vfio_ioasids_hold(ioasids, &ref, NULL);
	}
	if (ret)
		ioasid_user_put(&ref);
	/* Replaced by itself: keep the existing reference */
	return ret == -EALREADY ? 0 : ret;
}

static int vfio_ioasids_check(const struct vfio_device_feature_ioasid *set)
{
	if ((set->flags & ~VFIO_IOASID_OPS) || set->__reserved)
		return -EOPNOTSUPP;

	switch (set->flags) {
	case VFIO_DEVICE_IOASID_ADD:
		return set->old_id ? -EINVAL : 0;
	case VFIO_DEVICE_IOASID_REPLACE:
		return 0;
	case VFIO_DEVICE_IOASID_DROP:
		return set->fd != -1 || set->old_id ? -EINVAL : 0;
	case VFIO_DEVICE_IOASID_DROP_ALL:
		return set->fd != -1 || set->id || set->old_id ? -EINVAL : 0;
	default:
		return -EINVAL;
	}
}

static int vfio_ioasids_set(struct vfio_ioasids *ioasids, void __user *arg)
{
	struct vfio_device_feature_ioasid set;
	struct ioasid_ref *held;
	int ret;

	if (copy_from_user(&set, arg, sizeof(set)))
		return -EFAULT;
	ret = vfio_ioasids_check(&set);
	if (ret)
		return ret;
	if (set.flags & (VFIO_DEVICE_IOASID_ADD | VFIO_DEVICE_IOASID_REPLACE))
		return vfio_ioasids_give(ioasids, &set);

	guard(mutex)(ioasids->lock);
	if (set.flags & VFIO_DEVICE_IOASID_DROP_ALL) {
		vfio_ioasids_drop_all(ioasids);
		return 0;
	}
	held = xa_load(&ioasids->held, set.id);
	if (!held)
		return -ENOENT;
	vfio_ioasids_release(ioasids, held);
	return 0;
}

/* Fill up to @count entries from PASID @start. Returns the number filled. */
static u32 vfio_ioasids_fill(struct vfio_ioasids *ioasids, unsigned long start,
			     struct vfio_device_ioasid *entries, u32 count)
{
	const struct vfio_ioasids_ops *ops = ioasids->ops;
	struct ioasid_ref *held;
	unsigned long id;
	u32 n = 0;

	guard(mutex)(ioasids->lock);
	xa_for_each_start(&ioasids->held, id, held, start) {
		if (n == count)
			break;
		entries[n] = (struct vfio_device_ioasid){
			.id = id,
			.state = ioasid_is_active(held->ioasid) ?
				 IOASID_STATE_ACTIVE : IOASID_STATE_PARKED,
		};
		if (!ops->attached || ops->attached(ioasids->vdev,
						    held->ioasid))
			entries[n].flags |= VFIO_DEVICE_IOASID_ATTACHED;
		n++;
	}
	return n;
}

static int vfio_ioasids_get(struct vfio_ioasids *ioasids, void __user *arg)
{
	struct vfio_device_ioasid entries[VFIO_IOASID_BATCH];
	struct vfio_device_ioasid __user *out;
	struct vfio_device_feature_ioasid_list list;
	unsigned long start;
	u32 count, n;

	if (copy_from_user(&list, arg, sizeof(list)))
		return -EFAULT;
	if (list.flags)
		return -EOPNOTSUPP;

	out = u64_to_user_ptr(list.entries);
	start = list.start;
	for (count = 0; count < list.count; count += n) {
		u32 wanted = min_t(u32, list.count - count, ARRAY_SIZE(entries));

		n = vfio_ioasids_fill(ioasids, start, entries, wanted);
		if (!n)
			break;
		if (copy_to_user(out + count, entries, n * sizeof(*entries)))
			return -EFAULT;
		start = entries[n - 1].id + 1;
	}

	list.pasid_bits = ilog2(vfio_ioasids_max_pasids(ioasids));
	list.count = count;
	return copy_to_user(arg, &list, sizeof(list)) ? -EFAULT : 0;
}

/**
 * vfio_ioasids_feature() - implement VFIO_DEVICE_FEATURE_IOASID
 * @ioasids: the IOASIDs of the device
 * @flags: as passed to the device_feature callback
 * @arg: as passed to the device_feature callback
 * @argsz: as passed to the device_feature callback
 *
 * Context: Process context, may sleep. The lock of @ioasids is not held.
 * Return: the result of the ioctl.
 */
int vfio_ioasids_feature(struct vfio_ioasids *ioasids, u32 flags,
			 void __user *arg, size_t argsz)
{
	bool set = flags & VFIO_DEVICE_FEATURE_SET;
	int ret;

	if (!vfio_ioasids_supported(ioasids))
		return -ENOTTY;
	/* The guest programs its PASIDs: the VMM must not add or drop any */
	if (ioasids->ops->guest_programs && ioasids->vdev->kvm &&
	    (set || !(flags & VFIO_DEVICE_FEATURE_GET)))
		return -EOPNOTSUPP;

	ret = vfio_check_feature(flags, argsz,
				 VFIO_DEVICE_FEATURE_GET |
				 VFIO_DEVICE_FEATURE_SET,
				 set ? sizeof(struct vfio_device_feature_ioasid) :
				 sizeof(struct vfio_device_feature_ioasid_list));
	if (ret != 1)
		return ret;
	return set ? vfio_ioasids_set(ioasids, arg) :
		     vfio_ioasids_get(ioasids, arg);
}
EXPORT_SYMBOL_GPL(vfio_ioasids_feature);

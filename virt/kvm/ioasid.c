// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM-IOASID device: what the PASIDs of a guest stand for on the host
 *
 * A mapping holds a reference to an IOASID, see <linux/ioasid.h>: as long as a
 * vCPU can come upon its number, that belongs to nobody else. When its owner
 * frees it, DMA is blocked and KVM is not told; the mapping stays until user
 * space deletes it, or the VM is destroyed.
 *
 * There is no lock but that of the xarray, which adding and deleting takes.
 * Lookups run under RCU, and deleting waits for them.
 */
#include <linux/errno.h>
#include <linux/ioasid.h>
#include <linux/kvm_host.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "ioasid.h"

/* A guest may use all of the 20 bits, and numbers its own PASIDs from 0 */
#define KVM_IOASID_GUEST_MAX	0xfffffU

/**
 * struct kvm_ioasid - the KVM-IOASID device of a VM
 * @mappings: struct kvm_ioasid_mapping by guest PASID
 * @rcu: a vCPU may look at it when its creation fails
 */
struct kvm_ioasid {
	struct xarray mappings;
	struct rcu_head rcu;
};

/**
 * struct kvm_ioasid_mapping - what one guest PASID stands for
 * @ioasid: the reference
 * @tracker: of the reference
 */
struct kvm_ioasid_mapping {
	struct ioasid *ioasid;
	struct ioasid_tracker tracker;
};

/**
 * kvm_ioasid_lookup() - find what a PASID of the guest stands for
 * @kvm: the VM
 * @guest_pasid: any number, as the guest gave it
 *
 * The VM holds a reference to what this returns until rcu_read_unlock(), also
 * when user space deletes the mapping meanwhile. Architecture code that uses the
 * number for longer takes a reference of its own. It may be PARKED: then its DMA
 * is blocked, and its number still is nobody else's.
 *
 * Context: Any, under rcu_read_lock().
 * Return: the IOASID, or NULL if the VM has none for that number.
 */
struct ioasid *kvm_ioasid_lookup(struct kvm *kvm, u32 guest_pasid)
{
	struct kvm_ioasid *ki = rcu_dereference(kvm->ioasid);
	struct kvm_ioasid_mapping *mapping;

	if (!ki)
		return NULL;

	mapping = xa_load(&ki->mappings, guest_pasid);
	return mapping ? mapping->ioasid : NULL;
}

/* No lookup can find it any more, or could ever do so. */
static void kvm_ioasid_free_mapping(struct kvm_ioasid_mapping *mapping)
{
	ioasid_user_put(mapping->ioasid, IOASID_USER_KVM, &mapping->tracker);
	kfree(mapping);
}

/* Takes over @mapping and its reference, also when it fails. */
static int kvm_ioasid_insert(struct kvm_ioasid *ki, u32 guest_pasid,
			     struct kvm_ioasid_mapping *mapping)
{
	int ret;

	ret = xa_insert(&ki->mappings, guest_pasid, mapping,
			GFP_KERNEL_ACCOUNT);
	if (ret)
		kvm_ioasid_free_mapping(mapping);
	return ret == -EBUSY ? -EEXIST : ret;
}

static int kvm_ioasid_erase(struct kvm_ioasid *ki, u32 guest_pasid)
{
	struct kvm_ioasid_mapping *mapping;

	mapping = xa_erase(&ki->mappings, guest_pasid);
	if (!mapping)
		return -ENOENT;

	/* A vCPU may have found it: until it is done, the number is taken */
	synchronize_rcu();
	kvm_ioasid_free_mapping(mapping);
	return 0;
}

static int kvm_ioasid_add(struct kvm_ioasid *ki, void __user *arg)
{
	struct kvm_ioasid_mapping *mapping;
	struct kvm_ioasid_map map;
	int ret;

	if (copy_from_user(&map, arg, sizeof(map)))
		return -EFAULT;
	if (map.__reserved)
		return -EOPNOTSUPP;
	if (map.guest_pasid > KVM_IOASID_GUEST_MAX)
		return -EINVAL;

	mapping = kzalloc(sizeof(*mapping), GFP_KERNEL_ACCOUNT);
	if (!mapping)
		return -ENOMEM;

	mapping->ioasid = ioasid_fd_get(map.fd, map.id, IOASID_USER_KVM,
					&mapping->tracker);
	if (IS_ERR(mapping->ioasid)) {
		ret = PTR_ERR(mapping->ioasid);
		kfree(mapping);
		return ret;
	}

	return kvm_ioasid_insert(ki, map.guest_pasid, mapping);
}

static int kvm_ioasid_del(struct kvm_ioasid *ki, u32 __user *arg)
{
	u32 guest_pasid;

	if (get_user(guest_pasid, arg))
		return -EFAULT;
	return kvm_ioasid_erase(ki, guest_pasid);
}

static int kvm_ioasid_has_attr(struct kvm_device *dev,
			       struct kvm_device_attr *attr)
{
	if (attr->group != KVM_DEV_IOASID_MAP)
		return -ENXIO;

	switch (attr->attr) {
	case KVM_DEV_IOASID_MAP_ADD:
	case KVM_DEV_IOASID_MAP_DEL:
		return 0;
	default:
		return -ENXIO;
	}
}

static int kvm_ioasid_set_attr(struct kvm_device *dev,
			       struct kvm_device_attr *attr)
{
	void __user *arg = u64_to_user_ptr(attr->addr);
	struct kvm_ioasid *ki = dev->private;

	if (attr->group != KVM_DEV_IOASID_MAP)
		return -ENXIO;

	switch (attr->attr) {
	case KVM_DEV_IOASID_MAP_ADD:
		return kvm_ioasid_add(ki, arg);
	case KVM_DEV_IOASID_MAP_DEL:
		return kvm_ioasid_del(ki, arg);
	default:
		return -ENXIO;
	}
}

/*
 * No vCPU is left, or the device could not be given a descriptor. It is not
 * enough that its descriptor is closed: the vCPUs go on.
 */
static void kvm_ioasid_destroy(struct kvm_device *dev)
{
	struct kvm_ioasid *ki = dev->private;
	struct kvm_ioasid_mapping *mapping;
	unsigned long guest_pasid;

	RCU_INIT_POINTER(dev->kvm->ioasid, NULL);
	xa_for_each(&ki->mappings, guest_pasid, mapping) {
		xa_erase(&ki->mappings, guest_pasid);
		kvm_ioasid_free_mapping(mapping);
		cond_resched();
	}
	kfree_rcu(ki, rcu);
	kfree(dev);
}

static int kvm_ioasid_create(struct kvm_device *dev, u32 type)
{
	struct kvm_ioasid *ki;

	lockdep_assert_held(&dev->kvm->lock);

	/* One for each VM: it is the VM that has guest PASIDs */
	if (rcu_access_pointer(dev->kvm->ioasid))
		return -EBUSY;

	ki = kzalloc(sizeof(*ki), GFP_KERNEL_ACCOUNT);
	if (!ki)
		return -ENOMEM;

	xa_init_flags(&ki->mappings, XA_FLAGS_ACCOUNT);
	dev->private = ki;
	rcu_assign_pointer(dev->kvm->ioasid, ki);
	return 0;
}

static const struct kvm_device_ops kvm_ioasid_ops = {
	.name = "kvm-ioasid",
	.create = kvm_ioasid_create,
	.destroy = kvm_ioasid_destroy,
	.set_attr = kvm_ioasid_set_attr,
	.has_attr = kvm_ioasid_has_attr,
};

int kvm_ioasid_ops_init(void)
{
	return kvm_register_device_ops(&kvm_ioasid_ops, KVM_DEV_TYPE_IOASID);
}

void kvm_ioasid_ops_exit(void)
{
	kvm_unregister_device_ops(KVM_DEV_TYPE_IOASID);
}

#if IS_ENABLED(CONFIG_KVM_IOASID_KUNIT_TEST)
#include "ioasid_test.c"
#endif

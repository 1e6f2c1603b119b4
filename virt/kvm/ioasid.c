// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM-IOASID device: maps the PASIDs of a guest to IOASIDs of the host
 *
 * A mapping holds a reference to an IOASID, see <linux/ioasid.h>, so the PASID
 * is not reused while a vCPU can still look it up. When the owner frees the
 * IOASID, its DMA is blocked and KVM is not notified. The mapping stays until
 * user space deletes it or the VM is destroyed.
 *
 * Updates are serialized by the xarray lock only; lookups run under RCU. A
 * removed mapping and its reference are released after a grace period.
 */
#include <linux/cleanup.h>
#include <linux/err.h>
#include <linux/ioasid.h>
#include <linux/kvm_host.h>
#include <linux/minmax.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>
#include <uapi/linux/ioasid.h>

#include "ioasid.h"

/* A guest may use all 20 bits, including PASID 0 */
#define KVM_IOASID_GUEST_MAX	0xfffffU

/* Number of entries copied to user space at a time */
#define KVM_IOASID_BATCH	16

/**
 * struct kvm_ioasid - the KVM-IOASID device of a VM
 * @mappings: struct kvm_ioasid_mapping by guest PASID
 * @rcu: defers freeing: vCPUs may find the device even if its creation fails
 */
struct kvm_ioasid {
	struct xarray mappings;
	struct rcu_head rcu;
};

/**
 * struct kvm_ioasid_mapping - the IOASID of one guest PASID
 * @ref: reference held by the mapping
 * @rcu: defers the release until no lookup can use the mapping
 */
struct kvm_ioasid_mapping {
	struct ioasid_ref ref;
	struct rcu_head rcu;
};

/**
 * kvm_ioasid_lookup() - find the IOASID of a guest PASID
 * @kvm: the VM
 * @guest_pasid: PASID used by the guest, not necessarily valid
 *
 * For use within KVM, takes no reference. The VM holds a reference at least
 * until rcu_read_unlock(), even if user space deletes the mapping in the
 * meantime. The IOASID may be PARKED; its DMA is blocked then, but the PASID is
 * not reused.
 *
 * Context: Any, under rcu_read_lock().
 * Return: the IOASID, or NULL if @guest_pasid is not mapped.
 */
struct ioasid *kvm_ioasid_lookup(struct kvm *kvm, u32 guest_pasid)
{
	struct kvm_ioasid *ki = rcu_dereference(kvm->ioasid);
	struct kvm_ioasid_mapping *mapping;

	if (!ki)
		return NULL;

	mapping = xa_load(&ki->mappings, guest_pasid);
	return mapping ? mapping->ref.ioasid : NULL;
}

/**
 * kvm_ioasid_get() - take a reference to the IOASID of a guest PASID
 * @kvm: the VM, which the caller holds a reference to
 * @guest_pasid: PASID used by the guest, not necessarily valid
 * @user: kind of user of the caller
 * @ref: the new reference, to be released with ioasid_user_put()
 *
 * For drivers of devices that a guest programs with its PASIDs. The reference
 * is independent of the mapping: user space may delete or replace the mapping,
 * or destroy the VM.
 *
 * A VM belongs to the mm that created it. A process that keeps its file
 * descriptors across exec can neither run the VM nor change its mappings, and
 * must not be able to use them through a device either.
 *
 * Modules that must also load without KVM call this through symbol_get().
 *
 * Context: Process context, may sleep. current->mm must be the VM's mm.
 * Return: 0, or -ENOENT if @guest_pasid is not mapped or the VM belongs to
 * another mm, -ESHUTDOWN if the IOASID is PARKED.
 */
int kvm_ioasid_get(struct kvm *kvm, u32 guest_pasid, enum ioasid_user user,
		   struct ioasid_ref *ref)
{
	struct ioasid *ioasid;

	if (kvm->mm != current->mm)
		return -ENOENT;

	scoped_guard(rcu) {
		ioasid = kvm_ioasid_lookup(kvm, guest_pasid);
		if (!ioasid)
			return -ENOENT;
		ioasid = ioasid_tryget(ioasid);
	}
	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);

	/* May sleep, so it cannot be called under RCU */
	ioasid_user_get(ioasid, user, ref);
	ioasid_put(ioasid);
	return 0;
}
EXPORT_SYMBOL_GPL(kvm_ioasid_get);

/* The mapping must not be reachable by lookups. */
static void kvm_ioasid_free_mapping(struct kvm_ioasid_mapping *mapping)
{
	ioasid_user_put(&mapping->ref);
	kfree(mapping);
}

static void kvm_ioasid_free_mapping_rcu(struct rcu_head *rcu)
{
	kvm_ioasid_free_mapping(container_of(rcu, struct kvm_ioasid_mapping,
					     rcu));
}

/*
 * @mapping was removed, but a vCPU may still use it: keep the reference for a
 * grace period. Do not wait for it here, as a guest reset removes many mappings.
 */
static void kvm_ioasid_retire(struct kvm_ioasid_mapping *mapping)
{
	/* Avoid lazy callbacks: the PASID stays charged until the last put */
	call_rcu_hurry(&mapping->rcu, kvm_ioasid_free_mapping_rcu);
}

/* Consumes @mapping and its reference, even on failure. */
static int kvm_ioasid_insert(struct kvm_ioasid *ki, u32 guest_pasid,
			     struct kvm_ioasid_mapping *mapping, bool replace)
{
	struct kvm_ioasid_mapping *old = NULL;
	int ret;

	if (replace) {
		old = xa_store(&ki->mappings, guest_pasid, mapping,
			       GFP_KERNEL_ACCOUNT);
		ret = xa_err(old);
	} else {
		ret = xa_insert(&ki->mappings, guest_pasid, mapping,
				GFP_KERNEL_ACCOUNT);
	}
	if (ret) {
		kvm_ioasid_free_mapping(mapping);
		return ret == -EBUSY ? -EEXIST : ret;
	}

	if (old)
		kvm_ioasid_retire(old);
	return 0;
}

static int kvm_ioasid_erase(struct kvm_ioasid *ki, u32 guest_pasid)
{
	struct kvm_ioasid_mapping *mapping;

	mapping = xa_erase(&ki->mappings, guest_pasid);
	if (!mapping)
		return -ENOENT;

	kvm_ioasid_retire(mapping);
	return 0;
}

static int kvm_ioasid_add(struct kvm_ioasid *ki,
			  struct kvm_ioasid_map __user *arg)
{
	struct kvm_ioasid_mapping *mapping;
	struct kvm_ioasid_map map;
	int ret;

	if (copy_from_user(&map, arg, sizeof(map)))
		return -EFAULT;
	if (map.flags & ~KVM_IOASID_MAP_REPLACE || map.__reserved)
		return -EOPNOTSUPP;
	if (map.guest_pasid > KVM_IOASID_GUEST_MAX)
		return -EINVAL;

	mapping = kzalloc(sizeof(*mapping), GFP_KERNEL_ACCOUNT);
	if (!mapping)
		return -ENOMEM;

	ret = ioasid_fd_get(map.fd, map.id, IOASID_USER_KVM, &mapping->ref);
	if (ret) {
		kfree(mapping);
		return ret;
	}

	return kvm_ioasid_insert(ki, map.guest_pasid, mapping,
				 map.flags & KVM_IOASID_MAP_REPLACE);
}

static int kvm_ioasid_del(struct kvm_ioasid *ki, u32 __user *arg)
{
	u32 guest_pasid;

	if (get_user(guest_pasid, arg))
		return -EFAULT;
	return kvm_ioasid_erase(ki, guest_pasid);
}

/* Does not catch mappings added concurrently. */
static void kvm_ioasid_clear(struct kvm_ioasid *ki)
{
	struct kvm_ioasid_mapping *mapping;
	unsigned long guest_pasid;

	xa_for_each(&ki->mappings, guest_pasid, mapping) {
		kvm_ioasid_erase(ki, guest_pasid);
		cond_resched();
	}
}

/* Fill up to @max @entries in ascending order, from guest PASID @start. */
static u32 kvm_ioasid_fill(struct kvm_ioasid *ki, u32 start,
			   struct kvm_ioasid_entry *entries, u32 max)
{
	struct kvm_ioasid_mapping *mapping;
	unsigned long guest_pasid;
	u32 n = 0;

	guard(rcu)();
	xa_for_each_start(&ki->mappings, guest_pasid, mapping, start) {
		entries[n++] = (struct kvm_ioasid_entry){
			.guest_pasid = guest_pasid,
			.id = ioasid_id(mapping->ref.ioasid),
			.state = ioasid_is_active(mapping->ref.ioasid) ?
				 IOASID_STATE_ACTIVE : IOASID_STATE_PARKED,
		};
		if (n == max)
			break;
	}
	return n;
}

/*
 * Copy in batches from the stack: @arg->count is controlled by user space, and
 * no lock may be held across a page fault. Mappings may change between two
 * batches.
 */
static int kvm_ioasid_list(struct kvm_ioasid *ki,
			   struct kvm_ioasid_list __user *arg)
{
	struct kvm_ioasid_entry batch[KVM_IOASID_BATCH];
	struct kvm_ioasid_entry __user *entries;
	struct kvm_ioasid_list list;
	u32 n, max, start, done = 0;

	if (copy_from_user(&list, arg, sizeof(list)))
		return -EFAULT;
	if (list.flags || list.__reserved)
		return -EOPNOTSUPP;
	if (!list.count)
		return -EINVAL;

	entries = u64_to_user_ptr(list.entries);
	start = list.start;
	do {
		max = min_t(u32, list.count - done, KVM_IOASID_BATCH);
		n = kvm_ioasid_fill(ki, start, batch, max);
		if (!n)
			break;
		if (copy_to_user(entries + done, batch, n * sizeof(*batch)))
			return -EFAULT;
		done += n;
		start = batch[n - 1].guest_pasid + 1;
		cond_resched();
	} while (n == max && done < list.count);

	return put_user(done, &arg->count);
}

static int kvm_ioasid_has_attr(struct kvm_device *dev,
			       struct kvm_device_attr *attr)
{
	if (attr->group != KVM_DEV_IOASID_MAP)
		return -ENXIO;

	switch (attr->attr) {
	case KVM_DEV_IOASID_MAP_ADD:
	case KVM_DEV_IOASID_MAP_DEL:
	case KVM_DEV_IOASID_MAP_CLEAR:
	case KVM_DEV_IOASID_MAP_GET:
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
	case KVM_DEV_IOASID_MAP_CLEAR:
		if (attr->addr)
			return -EINVAL;
		kvm_ioasid_clear(ki);
		return 0;
	default:
		return -ENXIO;
	}
}

static int kvm_ioasid_get_attr(struct kvm_device *dev,
			       struct kvm_device_attr *attr)
{
	if (attr->group != KVM_DEV_IOASID_MAP ||
	    attr->attr != KVM_DEV_IOASID_MAP_GET)
		return -ENXIO;

	return kvm_ioasid_list(dev->private, u64_to_user_ptr(attr->addr));
}

/*
 * Called when the last reference to the VM is gone. Not called when only the
 * device fd is closed, as vCPUs may still run. No lookups are possible any
 * more, so there is no need to wait for a grace period before putting the
 * references.
 *
 * Also called when KVM could not install a file descriptor for the device.
 * There are no mappings then, but vCPUs may have found the device through
 * kvm->ioasid.
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

	/* A VM has one space of guest PASIDs */
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
	.get_attr = kvm_ioasid_get_attr,
	.has_attr = kvm_ioasid_has_attr,
};

int kvm_ioasid_ops_init(void)
{
	return kvm_register_device_ops(&kvm_ioasid_ops, KVM_DEV_TYPE_IOASID);
}

void kvm_ioasid_ops_exit(void)
{
	kvm_unregister_device_ops(KVM_DEV_TYPE_IOASID);
	/* Wait for kvm_ioasid_free_mapping_rcu(), which is module code */
	rcu_barrier();
}

#if IS_ENABLED(CONFIG_KVM_IOASID_KUNIT_TEST)
#include "ioasid_test.c"
#endif

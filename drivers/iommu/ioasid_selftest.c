// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernel side of the IOASID selftests, see ioasid_selftest.h
 */
#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/iommu.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "ioasid.h"
#include "ioasid_selftest.h"

/**
 * struct test_attachment - an IOASID attached to a device
 * @ref: reference to the IOASID
 * @domain: attached domain; NULL once detached
 * @owns_domain: free @domain with this attachment. Attachments that share the
 *		 domain follow in the array.
 */
struct test_attachment {
	struct ioasid_ref ref;
	struct iommu_domain *domain;
	bool owns_domain;
};

/**
 * struct test_chunk - the attachments of one ioctl(IOASID_TEST_ATTACH)
 * @node: in test_file.chunks
 * @pdev: the device
 * @count: number of valid elements in @attachments
 * @attachments: in the order of the user's array
 */
struct test_chunk {
	struct list_head node;
	struct pci_dev *pdev;
	u32 count;
	struct test_attachment attachments[];
};

struct test_file {
	struct mutex lock;		/* protects chunks */
	struct list_head chunks;
};

static void test_detach_chunk(struct test_chunk *chunk)
{
	struct iommu_domain *domain = NULL;
	u32 i;

	for (i = 0; i < chunk->count; i++) {
		struct test_attachment *at = &chunk->attachments[i];

		if (at->owns_domain && domain)
			iommu_domain_free(domain);
		if (at->owns_domain)
			domain = at->domain;
		if (at->domain)
			ioasid_detach_device(at->ref.ioasid, at->domain,
					     &chunk->pdev->dev);
		at->domain = NULL;
		at->owns_domain = false;
		cond_resched();
	}
	if (domain)
		iommu_domain_free(domain);
}

static void test_put_chunk(struct test_chunk *chunk)
{
	u32 i;

	test_detach_chunk(chunk);
	for (i = 0; i < chunk->count; i++) {
		ioasid_user_put(&chunk->attachments[i].ref);
		cond_resched();
	}
	chunk->count = 0;
}

static void test_free_chunk(struct test_chunk *chunk)
{
	test_put_chunk(chunk);
	pci_dev_put(chunk->pdev);
	kvfree(chunk);
}

static int test_attach_id(struct test_chunk *chunk, int fd, u32 id,
			  bool new_domain)
{
	struct test_attachment *at = &chunk->attachments[chunk->count];
	struct device *dev = &chunk->pdev->dev;
	int ret;

	ret = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &at->ref);
	if (ret)
		return ret;

	at->owns_domain = new_domain;
	at->domain = new_domain ? iommu_paging_domain_alloc(dev) :
				  at[-1].domain;
	if (IS_ERR(at->domain)) {
		ret = PTR_ERR(at->domain);
		goto err_put;
	}

	ret = ioasid_attach_device(at->ref.ioasid, at->domain, dev, NULL);
	if (ret)
		goto err_free_domain;
	chunk->count++;
	return 0;

err_free_domain:
	if (new_domain)
		iommu_domain_free(at->domain);
err_put:
	ioasid_user_put(&at->ref);
	return ret;
}

/* Find a PCI function behind an IOMMU. Returns a reference, or NULL. */
static struct pci_dev *test_find_device(const char *name)
{
	struct device *dev = bus_find_device_by_name(&pci_bus_type, NULL, name);

	if (dev && (!dev->iommu_group || !dev->iommu)) {
		put_device(dev);
		return NULL;
	}
	return dev ? to_pci_dev(dev) : NULL;
}

static int test_attach(struct test_file *file,
		       const struct ioasid_test_attach __user *ucmd)
{
	u32 *ids __free(kvfree) = NULL;
	struct ioasid_test_attach cmd;
	struct test_chunk *chunk;
	int ret = 0;
	u32 i;

	if (copy_from_user(&cmd, ucmd, sizeof(cmd)))
		return -EFAULT;
	cmd.device[sizeof(cmd.device) - 1] = 0;
	if (!cmd.count || cmd.count > IOASID_MAX || cmd.__reserved)
		return -EINVAL;

	ids = vmemdup_user(u64_to_user_ptr(cmd.ids), cmd.count * sizeof(*ids));
	if (IS_ERR(ids))
		return PTR_ERR(ids);

	chunk = kvzalloc(struct_size(chunk, attachments, cmd.count),
			 GFP_KERNEL);
	if (!chunk)
		return -ENOMEM;
	chunk->pdev = test_find_device(cmd.device);
	if (!chunk->pdev) {
		kvfree(chunk);
		return -ENODEV;
	}

	for (i = 0; i < cmd.count && !ret; i++) {
		ret = test_attach_id(chunk, cmd.fd, ids[i],
				     cmd.per_domain ? i % cmd.per_domain == 0 :
						      i == 0);
		cond_resched();
	}
	if (ret)
		test_free_chunk(chunk);
	else
		list_add_tail(&chunk->node, &file->chunks);
	return ret;
}

static long test_attach_ioctl(struct file *filp, unsigned int cmd,
			      unsigned long arg)
{
	struct test_file *file = filp->private_data;
	struct test_chunk *chunk;

	guard(mutex)(&file->lock);
	switch (cmd) {
	case IOASID_TEST_ATTACH:
		return test_attach(file, (void __user *)arg);
	case IOASID_TEST_DETACH:
		list_for_each_entry(chunk, &file->chunks, node)
			test_detach_chunk(chunk);
		return 0;
	case IOASID_TEST_PUT:
		list_for_each_entry(chunk, &file->chunks, node)
			test_put_chunk(chunk);
		return 0;
	default:
		return -ENOTTY;
	}
}

static int test_attach_open(struct inode *inode, struct file *filp)
{
	struct test_file *file = kzalloc(sizeof(*file), GFP_KERNEL);

	if (!file)
		return -ENOMEM;
	mutex_init(&file->lock);
	INIT_LIST_HEAD(&file->chunks);
	filp->private_data = file;
	return 0;
}

static int test_attach_release(struct inode *inode, struct file *filp)
{
	struct test_file *file = filp->private_data;
	struct test_chunk *chunk, *next;

	list_for_each_entry_safe(chunk, next, &file->chunks, node)
		test_free_chunk(chunk);
	mutex_destroy(&file->lock);
	kfree(file);
	return 0;
}

static const struct file_operations test_attach_fops = {
	.open = test_attach_open,
	.release = test_attach_release,
	.unlocked_ioctl = test_attach_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/*
 * Emulate an IOMMU driver without park support: use a copy of the real driver's
 * ops with the park operations cleared.
 *
 * They may be hidden only while no PASID is attached or parked, as nothing else
 * can unpark what they have parked. They may be restored at any time, as they
 * ignore PASIDs that were parked without them.
 */
static DEFINE_MUTEX(no_park_lock);		/* protects no_park_* */
static struct iommu_ops no_park_ops;
static const struct iommu_ops *no_park_real_ops;
static struct iommu_device *no_park_iommu;	/* NULL: nothing is hidden */

/* True if any IOASID is attached or parked */
static bool test_any_in_use(void)
{
	struct ioasid *ioasid;
	bool found = false;
	u32 id;

	ioasid_recycle_flush();
	rcu_read_lock();
	ioasid_for_each(ioasid, id) {
		found = !ioasid_is_active(ioasid) ||
			READ_ONCE(ioasid->nr_attached);
		if (found)
			break;
	}
	rcu_read_unlock();
	return found;
}

static void no_park_restore(void)
{
	lockdep_assert_held(&no_park_lock);

	if (no_park_iommu)
		WRITE_ONCE(no_park_iommu->ops, no_park_real_ops);
	no_park_iommu = NULL;
}

static int no_park_hide(const char *name)
{
	struct pci_dev *pdev;

	lockdep_assert_held(&no_park_lock);

	if (no_park_iommu || test_any_in_use())
		return -EBUSY;

	pdev = test_find_device(name);
	if (!pdev)
		return -ENODEV;

	no_park_iommu = pdev->dev.iommu->iommu_dev;
	pci_dev_put(pdev);
	no_park_real_ops = no_park_iommu->ops;
	no_park_ops = *no_park_real_ops;
	no_park_ops.park_dev_pasid = NULL;
	no_park_ops.park_sync = NULL;
	no_park_ops.unpark_dev_pasid = NULL;
	no_park_ops.unpark_sync = NULL;
	WRITE_ONCE(no_park_iommu->ops, &no_park_ops);
	return 0;
}

static ssize_t no_park_write(struct file *filp, const char __user *ubuf,
			     size_t count, loff_t *ppos)
{
	char name[32];
	int ret = 0;

	if (!count || count >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, ubuf, count))
		return -EFAULT;
	name[count] = 0;

	guard(mutex)(&no_park_lock);
	if (strcmp(strim(name), "none"))
		ret = no_park_hide(strim(name));
	else
		no_park_restore();
	return ret ?: count;
}

static const struct file_operations no_park_fops = {
	.open = simple_open,
	.write = no_park_write,
};

static int __init ioasid_selftest_init(void)
{
	struct dentry *dir = debugfs_create_dir("ioasid_selftest", NULL);

	debugfs_create_file("attach", 0600, dir, NULL, &test_attach_fops);
	debugfs_create_file("no_park", 0200, dir, NULL, &no_park_fops);
	return 0;
}
late_initcall(ioasid_selftest_init);

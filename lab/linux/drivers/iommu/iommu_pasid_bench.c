// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cost of PASIDs without IOASIDs: functions of the IOMMU core only. This file
 * also compiles in a pristine kernel, see rig/bench-pristine.
 *
 * Writing "DEVICE N" to iommu_pasid_bench in debugfs allocates N PASIDs and
 * attaches them to one domain of the device. Then it maps and unmaps a page of
 * that domain several times, as a bystander would who does nothing else, and
 * detaches and frees the PASIDs. Reading returns nanoseconds for each PASID and
 * step, and for each unmap, as comma-separated values. On an emulator with one
 * processor whose clock counts instructions, these are instructions.
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/iommu.h>
#include <linux/kernel_stat.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/tick.h>
#include <linux/uaccess.h>

#define PASID_BENCH_MAX		16384
#define PASID_BENCH_PAGES	200
#define PASID_BENCH_IOVA	SZ_1G

static DEFINE_MUTEX(pasid_bench_lock);
static ioasid_t pasid_bench_ids[PASID_BENCH_MAX];

static struct {
	unsigned int count;
	u64 alloc, attach, unmap, detach, free;
} pasid_bench_result;

/* Excludes idle time */
static u64 pasid_bench_now(void)
{
	return ktime_get_ns() -
	       get_cpu_idle_time_us(raw_smp_processor_id(), NULL) * NSEC_PER_USEC;
}

static int pasid_bench_pages(struct iommu_domain *domain, struct page *page,
			     u64 *took)
{
	unsigned int i;
	u64 start;
	int ret;

	*took = 0;
	for (i = 0; i < PASID_BENCH_PAGES; i++) {
		ret = iommu_map(domain, PASID_BENCH_IOVA, page_to_phys(page),
				PAGE_SIZE, IOMMU_READ | IOMMU_WRITE, GFP_KERNEL);
		if (ret)
			return ret;
		start = pasid_bench_now();
		iommu_unmap(domain, PASID_BENCH_IOVA, PAGE_SIZE);
		*took += pasid_bench_now() - start;
		cond_resched();
	}
	*took = div_u64(*took, PASID_BENCH_PAGES);
	return 0;
}

static int pasid_bench_run(struct device *dev, struct iommu_domain *domain,
			   struct page *page, unsigned int count)
{
	unsigned int allocated, attached = 0, i;
	u64 took[5], start;
	int ret = 0;

	start = pasid_bench_now();
	for (allocated = 0; allocated < count; allocated++) {
		pasid_bench_ids[allocated] = iommu_alloc_global_pasid(dev);
		if (pasid_bench_ids[allocated] == IOMMU_PASID_INVALID) {
			ret = -ENOSPC;
			goto out_free;
		}
	}
	took[0] = pasid_bench_now() - start;

	start = pasid_bench_now();
	for (; attached < count; attached++) {
		ret = iommu_attach_device_pasid(domain, dev,
						pasid_bench_ids[attached], NULL);
		if (ret)
			goto out_detach;
		cond_resched();
	}
	took[1] = pasid_bench_now() - start;

	ret = pasid_bench_pages(domain, page, &took[2]);
out_detach:
	start = pasid_bench_now();
	for (i = 0; i < attached; i++) {
		iommu_detach_device_pasid(domain, dev, pasid_bench_ids[i]);
		cond_resched();
	}
	took[3] = pasid_bench_now() - start;
out_free:
	start = pasid_bench_now();
	for (i = 0; i < allocated; i++)
		iommu_free_global_pasid(pasid_bench_ids[i]);
	took[4] = pasid_bench_now() - start;
	if (ret)
		return ret;

	pasid_bench_result.count = count;
	pasid_bench_result.alloc = div_u64(took[0], count);
	pasid_bench_result.attach = div_u64(took[1], count);
	pasid_bench_result.unmap = took[2];
	pasid_bench_result.detach = div_u64(took[3], count);
	pasid_bench_result.free = div_u64(took[4], count);
	return 0;
}

static int pasid_bench(struct device *dev, unsigned int count)
{
	struct iommu_domain *domain;
	struct page *page;
	int ret;

	page = alloc_page(GFP_KERNEL);
	if (!page)
		return -ENOMEM;
	domain = iommu_paging_domain_alloc(dev);
	if (IS_ERR(domain)) {
		ret = PTR_ERR(domain);
		goto out_page;
	}
	/* The first time warms up caches */
	ret = pasid_bench_run(dev, domain, page, min(count, 64U));
	if (!ret)
		ret = pasid_bench_run(dev, domain, page, count);
	iommu_domain_free(domain);
out_page:
	__free_page(page);
	return ret;
}

static int pasid_bench_show(struct seq_file *s, void *unused)
{
	typeof(pasid_bench_result) *r = &pasid_bench_result;

	guard(mutex)(&pasid_bench_lock);
	seq_puts(s, "PASIDs,alloc,attach,detach,free,life,unmap of a page\n");
	seq_printf(s, "%u,%llu,%llu,%llu,%llu,%llu,%llu\n", r->count, r->alloc,
		   r->attach, r->detach, r->free,
		   r->alloc + r->attach + r->detach + r->free, r->unmap);
	return 0;
}

static ssize_t pasid_bench_write(struct file *file, const char __user *ubuf,
				 size_t size, loff_t *ppos)
{
	char text[64] = {}, name[32];
	struct device *dev;
	unsigned int count;
	int ret;

	if (size >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, ubuf, size))
		return -EFAULT;
	if (sscanf(text, "%31s %u", name, &count) != 2 || !count ||
	    count > PASID_BENCH_MAX)
		return -EINVAL;

	guard(mutex)(&pasid_bench_lock);
	dev = bus_find_device_by_name(&pci_bus_type, NULL, name);
	if (!dev)
		return -ENODEV;
	ret = dev->iommu_group ? pasid_bench(dev, count) : -ENODEV;
	put_device(dev);
	return ret ?: size;
}
DEFINE_SHOW_STORE_ATTRIBUTE(pasid_bench);

static int __init pasid_bench_init(void)
{
	debugfs_create_file("iommu_pasid_bench", 0600, NULL, NULL,
			    &pasid_bench_fops);
	return 0;
}
late_initcall(pasid_bench_init);

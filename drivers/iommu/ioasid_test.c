// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the IOASID core
 *
 * They use the real IOMMU core with a mock IOMMU driver, which stores one word
 * for each (device, PASID) and logs the order of its calls.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/iommu.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/property.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "ioasid.h"
#include "ioasid_test.h"
#include "iommu-priv.h"

/* Mock IOMMU */

#define MOCK_DEVICES	2

enum mock_entry {
	MOCK_PRESENT = 1,
	MOCK_PARKED = 2,	/* blocked, faults suppressed */
	MOCK_STALE = 4,		/* blocked, but caches still translate */
	MOCK_UNPARKED = 8,	/* not present, but cached as parked */
};

static struct mock_iommu {
	struct iommu_device iommu;
	struct platform_device *pdev;
	struct device *devs[MOCK_DEVICES + 1];
	/* Group of the next device */
	struct iommu_group *group;
	/* Log of calls: Set Remove Park sYnc Unpark, Flush of unparked */
	char log[64];
	atomic_t logged;
	unsigned int syncs;
	/* PASIDs that were free before the flush of unparked entries */
	unsigned int too_early;
	/* Number of locks held in each call, if lockdep is enabled */
	unsigned int set_depth;
	unsigned int park_depth;
	unsigned int sync_depth;
	/* Number of device resets */
	unsigned int resets;
	/* The worker that calls holds the lockdep map of its waiters */
	bool worker_is_known;
	/* If set, the driver completes the first and waits for the last */
	struct completion *in_set;
	struct completion *in_sync;
	struct completion *in_unpark;
	struct completion *go_on;
	/* Its flush comes last and waits for go_on */
	struct device *stuck;
	int set_ret;
	/* Page requests passed to a handler, and responses */
	unsigned int faults;
	unsigned int answers;
	enum iommu_page_response_code answer;
	/* The handle could still be found when a PASID was removed */
	bool handle_at_remove;
	/* The PASID was marked as parked when the driver was called */
	bool marked_at_park;
	/* The handler keeps the group passed to it */
	bool keep;
	struct iopf_group *kept;
	/* The fault queue had groups at a response to a parked PASID */
	bool queued_at_answer;
} mock;

static void mock_log(char what)
{
	unsigned int i = atomic_fetch_inc(&mock.logged);

	if (i < sizeof(mock.log) - 1)
		mock.log[i] = what;
}

/* Stores enum mock_entry by PASID */
static struct xarray *mock_entries(struct device *dev)
{
	return dev_get_drvdata(dev);
}

static unsigned long mock_entry(struct device *dev, u32 pasid)
{
	return xa_to_value(xa_load(mock_entries(dev), pasid));
}

static void mock_set_entry(struct device *dev, u32 pasid, unsigned long entry)
{
	if (entry)
		xa_store(mock_entries(dev), pasid,
			 xa_mk_value(entry), GFP_KERNEL);
	else
		xa_erase(mock_entries(dev), pasid);
}

static int mock_set_dev_pasid(struct iommu_domain *domain, struct device *dev,
			      ioasid_t pasid, struct iommu_domain *old)
{
	struct completion *go_on = mock.go_on;

	mock_log('S');
	mock.set_depth = lockdep_depth(current);
	if (mock.in_set) {
		complete(mock.in_set);
		wait_for_completion(go_on);
	}
	if (mock.set_ret)
		return mock.set_ret;
	if (mock_entry(dev, pasid) & MOCK_PARKED)
		return -ESHUTDOWN;
	mock_set_entry(dev, pasid, MOCK_PRESENT);
	return 0;
}

static const struct iommu_domain_ops mock_domain_ops = {
	.attach_dev = iommu_mock_attach_dev,
	.set_dev_pasid = mock_set_dev_pasid,
};

static struct iommu_domain mock_identity_domain = {
	.type = IOMMU_DOMAIN_IDENTITY,
	.ops = &(const struct iommu_domain_ops) {
		.attach_dev = iommu_mock_attach_dev,
	},
};

static int mock_def_domain_type(struct device *dev)
{
	return IOMMU_DOMAIN_IDENTITY;
}

static struct iommu_device *mock_probe_device(struct device *dev)
{
	return &mock.iommu;
}

static struct iommu_group *mock_device_group(struct device *dev)
{
	return mock.group ? iommu_group_ref_get(mock.group) :
			    generic_device_group(dev);
}

static int mock_block_dev_pasid(struct iommu_domain *blocked,
				struct device *dev, ioasid_t pasid,
				struct iommu_domain *old)
{
	mock_log('R');
	mock.handle_at_remove =
		!IS_ERR(iommu_attach_handle_get(dev->iommu_group, pasid, 0));
	if (!(mock_entry(dev, pasid) & MOCK_PARKED))
		mock_set_entry(dev, pasid, 0);
	return 0;
}

static struct iommu_domain mock_blocked_domain = {
	.type = IOMMU_DOMAIN_BLOCKED,
	.ops = &(const struct iommu_domain_ops) {
		.attach_dev = iommu_mock_attach_dev,
		.set_dev_pasid = mock_block_dev_pasid,
	},
};

/* Number of locks held, without lockdep maps for waiters */
static unsigned int mock_locks(unsigned int maps)
{
	return lockdep_depth(current) - IS_ENABLED(CONFIG_LOCKDEP) * maps;
}

static void mock_park_dev_pasid(struct device *dev, ioasid_t pasid,
				struct iommu_pasid_gather *gather,
				struct iommu_pasid_gather_entry *entry)
{
	mock_log('P');
	mock.marked_at_park =
		iommu_group_pasid_is_parked(dev->iommu_group, pasid);
	mock.park_depth = mock_locks(1);
	mock_set_entry(dev, pasid, MOCK_PARKED | MOCK_STALE);
	iommu_pasid_gather_add(gather, entry, dev, pasid);
}

static void mock_flush(struct iommu_pasid_gather *gather, struct device *but)
{
	struct iommu_pasid_gather_entry *entry, *next;

	list_for_each_entry_safe(entry, next, &gather->entries, node) {
		if (entry->dev == but)
			continue;
		mock_set_entry(entry->dev, entry->pasid, MOCK_PARKED);
		iopf_queue_abort(entry->dev, entry->pasid);
		iommu_pasid_gather_del(entry);
	}
}

static void mock_park_sync(struct iommu_pasid_gather *gather)
{
	mock_log('Y');
	mock.syncs++;
	mock.sync_depth = mock_locks(2);
	if (mock.stuck)
		mock_flush(gather, mock.stuck);
	if (mock.in_sync) {
		complete(mock.in_sync);
		wait_for_completion(mock.go_on);
	}
	mock_flush(gather, NULL);
}

static void mock_unpark_dev_pasid(struct device *dev, ioasid_t pasid)
{
	mock_log('U');
	if (mock.in_unpark) {
		complete(mock.in_unpark);
		wait_for_completion(mock.go_on);
	}
	mock_set_entry(dev, pasid, MOCK_UNPARKED);
}

static void mock_unpark_sync(void)
{
	unsigned long pasid;
	unsigned int i;
	void *entry;

	mock_log('F');
	mock.worker_is_known = lockdep_test_holds("ioasid_runs");
	for (i = 0; i < ARRAY_SIZE(mock.devs); i++) {
		if (!mock.devs[i])
			continue;
		xa_for_each(mock_entries(mock.devs[i]), pasid, entry) {
			if (xa_to_value(entry) != MOCK_UNPARKED)
				continue;
			mock_set_entry(mock.devs[i], pasid, 0);
			if (!ioasid_lookup(pasid))
				mock.too_early++;
		}
	}
}

static void __maybe_unused mock_reset_done(struct device *dev)
{
	mock.resets++;
}

static void mock_page_response(struct device *dev, struct iopf_fault *evt,
			       struct iommu_page_response *msg)
{
	struct iommu_fault_param *param =
		rcu_dereference_protected(dev->iommu->fault_param, true);

	mock.answers++;
	mock.answer = msg->code;
	mock.queued_at_answer = param && !list_empty(&param->faults);
}

static int mock_iopf_handler(struct iopf_group *group)
{
	mock.faults += group->fault_count;
	if (mock.keep) {
		mock.kept = group;
		return 0;
	}
	iopf_group_response(group, IOMMU_PAGE_RESP_SUCCESS);
	iopf_free_group(group);
	return 0;
}

static int mock_page_request(struct device *dev, u32 pasid, u32 flags)
{
	struct iopf_fault evt = {
		.fault.type = IOMMU_FAULT_PAGE_REQ,
		.fault.prm.flags = IOMMU_FAULT_PAGE_REQUEST_PASID_VALID | flags,
		.fault.prm.pasid = pasid,
		.fault.prm.grpid = 1,
	};

	return iommu_report_device_fault(dev, &evt);
}

/* Not const, as one test removes the hooks */
static struct iommu_ops mock_ops = {
	.identity_domain = &mock_identity_domain,
	.def_domain_type = mock_def_domain_type,
	IOMMU_MOCK_PASID_OPS(&mock_blocked_domain),
	.probe_device = mock_probe_device,
	.device_group = mock_device_group,
	.park_dev_pasid = mock_park_dev_pasid,
	.park_sync = mock_park_sync,
	.unpark_dev_pasid = mock_unpark_dev_pasid,
	.unpark_sync = mock_unpark_sync,
	IOMMU_MOCK_RESET_OPS(mock_reset_done)
	.page_response = mock_page_response,
	.default_domain_ops = &mock_domain_ops,
};

static struct iommu_domain mock_domain = {
	.type = IOMMU_DOMAIN_UNMANAGED,
	.ops = &mock_domain_ops,
	.owner = &mock_ops,
};

static struct iommu_domain mock_other_domain = {
	.type = IOMMU_DOMAIN_UNMANAGED,
	.ops = &mock_domain_ops,
	.owner = &mock_ops,
};

static const struct property_entry mock_properties[] = {
	PROPERTY_ENTRY_U32("pasid-num-bits", 20),
	{}
};

/* @group: group of another device, or NULL for a new one */
static struct device *mock_device_add(struct kunit *test, unsigned int nr,
				      struct iommu_group *group)
{
	struct platform_device *pdev;
	struct xarray *entries;
	int ret;

	entries = kzalloc(sizeof(*entries), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, entries);
	xa_init(entries);
	pdev = platform_device_alloc("ioasid-mock", nr);
	KUNIT_ASSERT_NOT_NULL(test, pdev);
	platform_set_drvdata(pdev, entries);
	KUNIT_ASSERT_EQ(test,
			device_create_managed_software_node(&pdev->dev,
							    mock_properties,
							    NULL), 0);
	mock.group = group;
	mutex_lock(&iommu_probe_device_lock);
	ret = iommu_fwspec_init(&pdev->dev, mock.iommu.fwnode);
	mutex_unlock(&iommu_probe_device_lock);
	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_EQ(test, platform_device_add(pdev), 0);
	KUNIT_ASSERT_NOT_NULL(test, pdev->dev.iommu_group);
	mock.devs[nr] = &pdev->dev;
	return &pdev->dev;
}

static void mock_device_remove(struct device *dev)
{
	struct platform_device *pdev = to_platform_device(dev);
	struct xarray *entries = mock_entries(dev);

	mock.devs[pdev->id] = NULL;
	platform_device_unregister(pdev);
	xa_destroy(entries);
	kfree(entries);
}

/* Test fixture */

struct ioasid_fixture {
	struct mm_struct *mm;
	struct ioasid_set *set;
	struct device *dev[MOCK_DEVICES];
};

static int ioasid_suite_init(struct kunit_suite *suite)
{
	const struct platform_device_info info = {
		.name = "ioasid-mock-iommu",
		.id = PLATFORM_DEVID_NONE,
		/* For the firmware node, which links devices to the IOMMU */
		.properties = mock_properties,
	};
	int ret;

	mock.pdev = platform_device_register_full(&info);
	if (IS_ERR(mock.pdev))
		return PTR_ERR(mock.pdev);

	mock.iommu.max_pasids = IOASID_MAX + 1;
	ret = iommu_device_sysfs_add(&mock.iommu, &mock.pdev->dev, NULL,
				     "ioasid-mock");
	if (ret)
		goto err_pdev;
	ret = iommu_device_register(&mock.iommu, &mock_ops, &mock.pdev->dev);
	if (ret)
		goto err_sysfs;
	return 0;

err_sysfs:
	iommu_device_sysfs_remove(&mock.iommu);
err_pdev:
	platform_device_unregister(mock.pdev);
	return ret;
}

static void ioasid_suite_exit(struct kunit_suite *suite)
{
	iommu_device_unregister(&mock.iommu);
	iommu_device_sysfs_remove(&mock.iommu);
	platform_device_unregister(mock.pdev);
}

static int ioasid_test_init(struct kunit *test)
{
	struct ioasid_fixture *fix;
	unsigned int i;

	fix = kunit_kzalloc(test, sizeof(*fix), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix);
	fix->mm = mm_alloc();
	KUNIT_ASSERT_NOT_NULL(test, fix->mm);
	fix->set = ioasid_set_get_mm(fix->mm);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, fix->set);
	for (i = 0; i < MOCK_DEVICES; i++)
		fix->dev[i] = mock_device_add(test, i, NULL);
	mock.in_set = NULL;
	mock.in_sync = NULL;
	mock.in_unpark = NULL;
	mock.stuck = NULL;
	mock.set_ret = 0;
	memset(mock.log, 0, sizeof(mock.log));
	atomic_set(&mock.logged, 0);
	mock.syncs = 0;
	mock.too_early = 0;
	mock.faults = 0;
	mock.answers = 0;
	test->priv = fix;
	return 0;
}

static void ioasid_test_exit(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	unsigned int i;

	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, fix->set->kernel.used, 0);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.parked, 0);
	KUNIT_EXPECT_EQ(test, refcount_read(&fix->set->kernel.refs), 2);
	KUNIT_EXPECT_EQ(test, mock.too_early, 0);
	ioasid_set_put(fix->set);
	mmput(fix->mm);
	for (i = 0; i < MOCK_DEVICES; i++) {
		if (fix->dev[i])
			mock_device_remove(fix->dev[i]);
	}
}

static struct ioasid *ioasid_test_alloc(struct kunit *test, u32 min, u32 max)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *ioasid = ioasid_alloc(fix->set, min, max);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, ioasid);
	return ioasid;
}

/* Open a file without the character device */
static struct ioasid_account *ioasid_test_open(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid_account *account;

	account = ioasid_account_create(fix->mm,
					get_ucounts(current_ucounts()));
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, account);
	return account;
}

static int ioasid_test_reserve(struct ioasid_account *account, u32 min, u32 max,
			       u32 count, struct ioasid_chain *chain)
{
	const struct ioasid_request req = {
		.account = account,
		.min = min,
		.max = max,
		.count = count,
	};

	ioasid_chain_init(chain);
	return ioasid_reserve(&req, chain);
}

static struct ioasid *ioasid_chain_first(const struct ioasid_chain *chain)
{
	return llist_entry(chain->first, struct ioasid, recycle_node);
}

static void ioasid_test_attach(struct kunit *test, struct ioasid *ioasid,
			       struct device *dev)
{
	KUNIT_ASSERT_EQ(test, ioasid_attach_device(ioasid, &mock_domain, dev,
						   NULL), 0);
}

/* Numbers */

static void alloc_takes_a_number_of_the_range(struct kunit *test)
{
	struct ioasid *a = ioasid_test_alloc(test, 100, 101);
	struct ioasid *b = ioasid_test_alloc(test, 100, 101);

	KUNIT_EXPECT_EQ(test, ioasid_id(a) + ioasid_id(b), 201);
	KUNIT_EXPECT_NE(test, ioasid_id(a), ioasid_id(b));
	ioasid_free(a);
	ioasid_free(b);
}

static void bad_range_is_einval(struct kunit *test)
{
	static const u32 bad[][2] = {
		{ 0, 0 }, { 0, 5 }, { 6, 5 }, { 1, IOASID_MAX + 1 },
		{ IOASID_MAX + 1, IOASID_MAX + 1 }, { 1, U32_MAX },
	};
	struct ioasid_fixture *fix = test->priv;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		KUNIT_EXPECT_EQ_MSG(test, PTR_ERR(ioasid_alloc(fix->set,
							       bad[i][0],
							       bad[i][1])),
				    -EINVAL, "row %u", i);
}

static void first_and_last_number_can_be_had(struct kunit *test)
{
	struct ioasid *first = ioasid_test_alloc(test, IOASID_MIN, IOASID_MIN);
	struct ioasid *last = ioasid_test_alloc(test, IOASID_MAX, IOASID_MAX);

	KUNIT_EXPECT_EQ(test, ioasid_id(first), 1);
	KUNIT_EXPECT_EQ(test, ioasid_id(last), 0xfffff);
	ioasid_free(first);
	ioasid_free(last);
}

static void full_range_is_enospc(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 7, 7);

	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 7, 7)), -ENOSPC);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.used, 1);
	ioasid_free(a);
}

/* Invariant no-reuse */
static void number_is_not_reused_while_referenced(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 7, 7);

	ioasid_get(a);
	ioasid_free(a);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 7, 7)), -ENOSPC);
	KUNIT_EXPECT_EQ(test, ioasid_id(a), 7);
	ioasid_put(a);
	ioasid_free(ioasid_test_alloc(test, 7, 7));
}

/* The PASID is allocated again before the worker has run */
static void full_range_waits_for_recycle(struct kunit *test)
{
	unsigned int i;

	for (i = 0; i < 100; i++)
		ioasid_free(ioasid_test_alloc(test, 7, 7));
}

static void full_quota_waits_for_recycle(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	unsigned int i;

	fix->set->kernel.quota = 1;
	for (i = 0; i < 100; i++)
		ioasid_free(ioasid_test_alloc(test, IOASID_MIN, IOASID_MAX));
}

/* Waiters must not hold any lock that the worker takes */
static void wait_for_the_worker_is_known_to_lockdep(struct kunit *test)
{
	static DEFINE_MUTEX(lock);
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a;

	if (!lockdep_test_works())
		kunit_skip(test, "needs CONFIG_PROVE_LOCKING");
	a = ioasid_test_alloc(test, 9, 9);
	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	mock.worker_is_known = false;
	ioasid_put(a);
	mutex_lock(&lock);
	ioasid_recycle_flush();
	mutex_unlock(&lock);
	KUNIT_EXPECT_TRUE(test, lockdep_test_waited(&lock, "ioasid_runs"));
	KUNIT_EXPECT_TRUE(test, mock.worker_is_known);
}

/* Sets and quota */

static void one_set_for_one_mm(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct mm_struct *mm = mm_alloc();
	struct ioasid_set *other;

	KUNIT_ASSERT_NOT_NULL(test, mm);
	KUNIT_EXPECT_PTR_EQ(test, ioasid_set_get_mm(fix->mm), fix->set);
	ioasid_set_put(fix->set);
	other = ioasid_set_get_mm(mm);
	KUNIT_EXPECT_PTR_NE(test, other, fix->set);
	ioasid_set_put(other);
	mmput(mm);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_set_get_mm(NULL)), -EINVAL);
}

/* Invariant nothing-dead */
static void set_does_not_pin_the_mm(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 1, 100);

	KUNIT_EXPECT_EQ(test, atomic_read(&fix->mm->mm_count), 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&fix->mm->mm_users), 1);
	ioasid_free(a);
}

static void set_stays_until_its_last_ioasid_is_recycled(struct kunit *test)
{
	struct mm_struct *mm = mm_alloc();
	struct ioasid_set *set;
	struct ioasid *a;

	KUNIT_ASSERT_NOT_NULL(test, mm);
	set = ioasid_set_get_mm(mm);
	a = ioasid_alloc(set, 1, 100);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, a);
	ioasid_get(a);
	ioasid_set_put(set);
	mmput(mm);
	ioasid_free(a);
	KUNIT_EXPECT_PTR_EQ(test, a->account->set, set);
	KUNIT_EXPECT_EQ(test, set->kernel.parked, 1);
	ioasid_put(a);
	ioasid_recycle_flush();
}

/* Sets are not keyed by address: a new mm at the same address starts afresh */
static void new_mm_has_no_set(struct kunit *test)
{
	struct mm_struct *mm;
	unsigned int i;

	for (i = 0; i < 100; i++) {
		mm = mm_alloc();
		KUNIT_ASSERT_NOT_NULL(test, mm);
		KUNIT_EXPECT_NULL(test, mm->ioasid_set);
		ioasid_set_put(ioasid_set_get_mm(mm));
		KUNIT_EXPECT_NOT_NULL(test, mm->ioasid_set);
		mmput(mm);
	}
}

static void quota_is_a_limit(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a[3];
	unsigned int i;

	fix->set->kernel.quota = 3;
	for (i = 0; i < 3; i++)
		a[i] = ioasid_test_alloc(test, 1, 100);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 1, 100)), -EDQUOT);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.used, 3);

	/* Quota below the usage: nothing new until the usage drops */
	fix->set->kernel.quota = 1;
	ioasid_free(a[0]);
	ioasid_free(a[1]);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 1, 100)), -EDQUOT);
	ioasid_free(a[2]);
	ioasid_free(ioasid_test_alloc(test, 1, 100));
}

static void charge_does_not_wrap(struct kunit *test)
{
	static const struct {
		u32 count;
		int ret;
	} charges[] = {
		{ 5, 0 },
		{ U32_MAX, -EDQUOT },
		{ U32_MAX - 4, -EDQUOT },
		{ 6, -EDQUOT },
		{ 5, 0 },
	};
	struct ioasid_account *account = ioasid_test_open(test);
	struct ioasid_request req = { .account = account };
	unsigned int i;

	account->quota = 10;
	for (i = 0; i < ARRAY_SIZE(charges); i++) {
		req.count = charges[i].count;
		KUNIT_EXPECT_EQ(test, ioasid_charge(&req), charges[i].ret);
	}
	ioasid_uncharge(account, NULL, 10);

	/* Nor do the counters of the user and of the PASID space overflow */
	account->quota = U32_MAX;
	req.count = U32_MAX;
	KUNIT_EXPECT_EQ(test, ioasid_charge(&req), -EDQUOT);
	KUNIT_EXPECT_EQ(test, account->used, 0);
	req.account = &((struct ioasid_fixture *)test->priv)->set->kernel;
	KUNIT_EXPECT_EQ(test, ioasid_charge(&req), -ENOSPC);
	KUNIT_EXPECT_EQ(test, req.account->used, 0);
	ioasid_account_put(account);
}

/* Invariant fair */
static void user_has_a_limit_over_all_files(struct kunit *test)
{
	long max = init_user_ns.ucount_max[UCOUNT_IOASIDS];
	struct ioasid_account *a = ioasid_test_open(test);
	struct ioasid_account *b = ioasid_test_open(test);
	struct ioasid_chain chain_a, chain_b;
	long had;

	had = atomic_long_read(&a->ucounts->ucount[UCOUNT_IOASIDS]);
	WRITE_ONCE(init_user_ns.ucount_max[UCOUNT_IOASIDS], had + 10);
	KUNIT_EXPECT_EQ(test, ioasid_test_reserve(a, 0, 0, 6, &chain_a), 0);
	KUNIT_EXPECT_EQ(test, ioasid_test_reserve(b, 0, 0, 5, &chain_b),
			-EDQUOT);
	KUNIT_EXPECT_EQ(test, b->used, 0);
	KUNIT_EXPECT_EQ(test, ioasid_test_reserve(b, 0, 0, 4, &chain_b), 0);
	ioasid_unreserve(&chain_a);
	ioasid_unreserve(&chain_b);
	KUNIT_EXPECT_EQ(test,
			atomic_long_read(&a->ucounts->ucount[UCOUNT_IOASIDS]),
			had);
	WRITE_ONCE(init_user_ns.ucount_max[UCOUNT_IOASIDS], max);
	ioasid_account_put(a);
	ioasid_account_put(b);
}

/* Charge as many as leave @free PASIDs to unprivileged users */
static void leave_free(struct kunit *test, struct ioasid_request *req, u32 free)
{
	struct ioasid_fixture *fix = test->priv;
	u32 low = 1, high = IOASID_COUNT;

	req->account = &fix->set->kernel;
	while (low < high) {
		req->count = low + (high - low + 1) / 2;
		if (ioasid_charge(req)) {
			high = req->count - 1;
		} else {
			ioasid_uncharge(req->account, NULL, req->count);
			low = req->count;
		}
	}
	req->count = low - free;
	KUNIT_ASSERT_EQ(test, ioasid_charge(req), 0);
}

/*
 * Invariant fair: a sixteenth of all PASIDs is reserved for the kernel,
 * wherever the PASIDs are
 */
static void last_numbers_are_for_the_kernel(struct kunit *test)
{
	struct ioasid_account *account = ioasid_test_open(test);
	struct ioasid_request others = {};
	struct ioasid_chain chain;
	u32 id;

	leave_free(test, &others, 2);
	KUNIT_EXPECT_EQ(test, ioasid_test_reserve(account, 0, 0, 3, &chain),
			-ENOSPC);
	KUNIT_EXPECT_EQ(test, ioasid_test_reserve(account, 0, 0, 2, &chain), 0);
	id = ioasid_alloc_global(IOASID_MAX);
	KUNIT_EXPECT_NE(test, id, 0);
	ioasid_free(ioasid_test_alloc(test, IOASID_MIN, IOASID_MAX));
	if (id)
		ioasid_free_global(id);
	ioasid_unreserve(&chain);
	ioasid_uncharge(others.account, NULL, others.count);
	ioasid_account_put(account);
}

static void low_numbers_are_for_the_kernel(struct kunit *test)
{
	struct ioasid_account *account = ioasid_test_open(test);
	struct ioasid_request req = {
		.account = account,
		.min = IOASID_MIN,
		.max = IOASID_RESERVE_END - 1,
		.count = 1,
	};
	struct ioasid_chain chain;

	ioasid_chain_init(&chain);
	KUNIT_EXPECT_EQ(test, ioasid_reserve(&req, &chain), -ENOSPC);
	KUNIT_EXPECT_EQ(test, account->used, 0);
	/* A range across the end of the reserve: use the part above */
	req.max = IOASID_RESERVE_END;
	KUNIT_EXPECT_EQ(test, ioasid_reserve(&req, &chain), 0);
	KUNIT_EXPECT_EQ(test, ioasid_id(ioasid_chain_first(&chain)),
			IOASID_RESERVE_END);
	ioasid_unreserve(&chain);
	req.count = 2;
	KUNIT_EXPECT_EQ(test, ioasid_reserve(&req, &chain), -ENOSPC);

	req.reserve = true;
	req.max = IOASID_RESERVE_END - 1;
	KUNIT_EXPECT_EQ(test, ioasid_reserve(&req, &chain), 0);
	KUNIT_EXPECT_LT(test, ioasid_id(ioasid_chain_first(&chain)),
			IOASID_RESERVE_END);
	ioasid_unreserve(&chain);
	ioasid_account_put(account);
}

static void any_number_is_one_that_few_devices_need(struct kunit *test)
{
	struct ioasid_account *account = ioasid_test_open(test);
	struct ioasid_chain chain;
	struct ioasid *ioasid;

	KUNIT_ASSERT_EQ(test, ioasid_test_reserve(account, 0, 0, 100, &chain),
			0);
	ioasid_chain_for_each(ioasid, &chain)
		KUNIT_EXPECT_GE(test, ioasid_id(ioasid), IOASID_LOW_END);
	ioasid_unreserve(&chain);
	ioasid_account_put(account);
}

/* A batch may span the low PASIDs if the others are exhausted */
static void any_number_may_be_a_low_one(struct kunit *test)
{
	struct ioasid_request req = {
		.account = ioasid_test_open(test),
		.count = 5,
		.reserve = true,
	};
	const struct ioasid_range most = ioasid_any[0];
	struct ioasid_chain chain;
	struct ioasid *ioasid;
	u32 high = 0;

	ioasid_any[0] = (struct ioasid_range){ 65490, 65491 };
	ioasid_chain_init(&chain);
	KUNIT_EXPECT_EQ(test, ioasid_reserve(&req, &chain), 0);
	ioasid_any[0] = most;
	ioasid_chain_for_each(ioasid, &chain) {
		KUNIT_EXPECT_GE(test, ioasid_id(ioasid), IOASID_RESERVE_END);
		high += ioasid_id(ioasid) >= IOASID_LOW_END;
	}
	KUNIT_EXPECT_EQ(test, high, 2);
	ioasid_unreserve(&chain);
	ioasid_account_put(req.account);
}

/* Invariant charged */
static void parked_counts_against_quota(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a;

	fix->set->kernel.quota = 1;
	a = ioasid_test_alloc(test, 1, 100);
	ioasid_get(a);
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.used, 1);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.parked, 1);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 1, 100)), -EDQUOT);
	ioasid_put(a);
	ioasid_free(ioasid_test_alloc(test, 1, 100));
}

/* References and lookups */

static void lookup_finds_only_its_own_set(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid_account *account = &fix->set->kernel;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct mm_struct *mm = mm_alloc();
	struct ioasid_set *other;

	KUNIT_ASSERT_NOT_NULL(test, mm);
	other = ioasid_set_get_mm(mm);
	KUNIT_EXPECT_PTR_EQ(test, ioasid_account_find_get(account, 9), a);
	KUNIT_EXPECT_EQ(test, ioasid_users(a), 1);
	ioasid_put(a);
	KUNIT_EXPECT_EQ(test,
			PTR_ERR(ioasid_account_find_get(&other->kernel, 9)),
			-ENOENT);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_account_find_get(account, 10)),
			-ENOENT);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_account_find_get(account, 0)),
			-ENOENT);
	ioasid_free(a);
	ioasid_set_put(other);
	mmput(mm);
}

/* Invariant own-file */
static void lookup_finds_only_its_own_file(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid_account *account = ioasid_test_open(test);
	struct ioasid_account *other = ioasid_test_open(test);
	struct ioasid_chain chain;
	struct ioasid *a;

	KUNIT_ASSERT_EQ(test, ioasid_test_reserve(account, 65490, 65490, 1,
						  &chain), 0);
	a = ioasid_chain_first(&chain);
	ioasid_publish(account, &chain);
	KUNIT_EXPECT_PTR_EQ(test, ioasid_account_find_get(account, 65490), a);
	ioasid_put(a);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_account_find_get(other, 65490)),
			-ENOENT);
	KUNIT_EXPECT_EQ(test,
			PTR_ERR(ioasid_account_find_get(&fix->set->kernel,
							65490)), -ENOENT);
	ioasid_free_chain(&chain);
	ioasid_account_put(account);
	ioasid_account_put(other);
}

/* In order of PASIDs, and only from publishing to recycling */
static void account_knows_its_ioasids_in_order(struct kunit *test)
{
	static const u32 ids[] = { 65500, 65490, 65510, 65495 };
	static const u32 sorted[] = { 65490, 65495, 65500, 65510 };
	struct ioasid_account *account = ioasid_test_open(test);
	struct ioasid *parked = NULL, *ioasid;
	struct ioasid_chain chain;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ids); i++) {
		KUNIT_ASSERT_EQ(test, ioasid_test_reserve(account, ids[i],
							  ids[i], 1, &chain),
				0);
		scoped_guard(spinlock, &account->lock)
			KUNIT_EXPECT_NULL(test,
					  ioasid_account_find(account, ids[i]) ==
					  ioasid_chain_first(&chain) ?
					  account : NULL);
		ioasid_publish(account, &chain);
		if (ids[i] == 65495) {
			parked = ioasid_get(ioasid_chain_first(&chain));
			ioasid_free_chain(&chain);
		}
	}

	i = 0;
	spin_lock(&account->lock);
	for (ioasid = ioasid_account_find(account, 0); ioasid;
	     ioasid = ioasid_account_next(account, ioasid)) {
		if (i < ARRAY_SIZE(sorted))
			KUNIT_EXPECT_EQ(test, ioasid_id(ioasid), sorted[i]);
		i++;
	}
	KUNIT_EXPECT_EQ(test, i, ARRAY_SIZE(sorted));
	KUNIT_EXPECT_EQ(test, ioasid_id(ioasid_account_find(account, 65491)),
			65495);
	KUNIT_EXPECT_EQ(test, ioasid_id(ioasid_account_find(account, 65495)),
			65495);
	KUNIT_EXPECT_NULL(test, ioasid_account_find(account, 65511));
	spin_unlock(&account->lock);

	ioasid_put(parked);
	ioasid_recycle_flush();
	spin_lock(&account->lock);
	KUNIT_EXPECT_EQ(test, ioasid_id(ioasid_account_find(account, 65491)),
			65500);
	spin_unlock(&account->lock);

	ioasid_chain_init(&chain);
	for (i = 0; i < ARRAY_SIZE(ids) - 1; i++)
		ioasid_chain_add(&chain, ioasid_lookup(ids[i]));
	ioasid_free_chain(&chain);
	KUNIT_EXPECT_TRUE(test, RB_EMPTY_ROOT(&account->ioasids));
	ioasid_account_put(account);
}

static void reserved_number_is_taken_but_not_found(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid_account *account = ioasid_test_open(test);
	struct ioasid_chain chain;
	u32 id = 65490;

	KUNIT_ASSERT_EQ(test, ioasid_test_reserve(account, id, id, 1, &chain),
			0);
	KUNIT_EXPECT_NULL(test, ioasid_lookup(65490));
	KUNIT_EXPECT_PTR_NE(test, ioasid_next(&id),
			    ioasid_chain_first(&chain));
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_account_find_get(account, 65490)),
			-ENOENT);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 65490, 65490)),
			-ENOSPC);
	ioasid_unreserve(&chain);
	KUNIT_EXPECT_NULL(test, chain.first);
	KUNIT_EXPECT_EQ(test, account->used, 0);
	ioasid_free(ioasid_test_alloc(test, 65490, 65490));
	ioasid_account_put(account);
}

/* Allocate from a range with a PASID already taken */
static void batch_gets_all_numbers_or_none(struct kunit *test)
{
	struct ioasid_account *account = ioasid_test_open(test);
	struct ioasid *other = ioasid_test_alloc(test, 65500, 65500);
	struct ioasid_chain chain;
	struct ioasid *ioasid;
	u32 i = 0;

	KUNIT_EXPECT_EQ(test,
			ioasid_test_reserve(account, 65490,
					    65490 + IOASID_BATCH - 1,
					    IOASID_BATCH, &chain), -ENOSPC);
	KUNIT_EXPECT_NULL(test, chain.first);
	KUNIT_EXPECT_EQ(test, account->used, 0);
	/* Nothing is left over: a range larger by one works */
	KUNIT_ASSERT_EQ(test,
			ioasid_test_reserve(account, 65490,
					    65490 + IOASID_BATCH,
					    IOASID_BATCH, &chain), 0);
	ioasid_chain_for_each(ioasid, &chain) {
		KUNIT_EXPECT_EQ(test, ioasid_id(ioasid), 65490 + i + (i >= 10));
		i++;
	}
	KUNIT_EXPECT_EQ(test, i, IOASID_BATCH);
	ioasid_unreserve(&chain);
	KUNIT_EXPECT_EQ(test, account->used, 0);
	ioasid_free(other);
	ioasid_account_put(account);
}

#define RIVALS		4
#define RIVAL_COUNT	256	/* size of the range */

struct rival {
	struct work_struct work;
	struct ioasid_account *account;
	struct ioasid_chain chain;
	int ret;
};

static void rival_fn(struct work_struct *work)
{
	struct rival *rival = container_of(work, struct rival, work);

	rival->ret = ioasid_test_reserve(rival->account, 65536,
					 65536 + RIVAL_COUNT - 1, RIVAL_COUNT,
					 &rival->chain);
}

/* Rivals may each hold a part of the range meanwhile */
static void one_of_those_who_compete_gets_all(struct kunit *test)
{
	struct rival *rivals;
	unsigned int i, round, got;

	rivals = kunit_kcalloc(test, RIVALS, sizeof(*rivals), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, rivals);
	for (i = 0; i < RIVALS; i++) {
		rivals[i].account = ioasid_test_open(test);
		INIT_WORK(&rivals[i].work, rival_fn);
	}
	for (round = 0; round < 20; round++) {
		got = 0;
		for (i = 0; i < RIVALS; i++)
			queue_work(system_unbound_wq, &rivals[i].work);
		for (i = 0; i < RIVALS; i++)
			flush_work(&rivals[i].work);
		for (i = 0; i < RIVALS; i++) {
			got += !rivals[i].ret;
			if (rivals[i].ret)
				KUNIT_EXPECT_EQ(test, rivals[i].ret, -ENOSPC);
			ioasid_unreserve(&rivals[i].chain);
		}
		KUNIT_EXPECT_EQ(test, got, 1);
	}
	for (i = 0; i < RIVALS; i++)
		ioasid_account_put(rivals[i].account);
}

/* A batch may belong to several sets */
static void recycle_of_many_uncharges_each_set(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct mm_struct *mm = mm_alloc();
	struct ioasid *a[3 * IOASID_BATCH];
	struct ioasid_set *set;
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, mm);
	set = ioasid_set_get_mm(mm);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, set);
	for (i = 0; i < ARRAY_SIZE(a); i++) {
		/* First alternate, then use one set only */
		a[i] = ioasid_alloc(i < IOASID_BATCH && i % 2 ? set : fix->set,
				    1, 1000);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, a[i]);
		ioasid_get(a[i]);
		ioasid_free(a[i]);
	}
	KUNIT_EXPECT_EQ(test, set->kernel.parked, IOASID_BATCH / 2);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.parked, 5 * IOASID_BATCH / 2);
	for (i = 0; i < ARRAY_SIZE(a); i++)
		ioasid_put(a[i]);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, set->kernel.used, 0);
	KUNIT_EXPECT_EQ(test, set->kernel.parked, 0);
	KUNIT_EXPECT_EQ(test, refcount_read(&set->kernel.refs), 2);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.used, 0);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.parked, 0);
	KUNIT_EXPECT_EQ(test, refcount_read(&fix->set->kernel.refs), 2);
	ioasid_set_put(set);
	mmput(mm);
}

/* Clean up after a broken driver: pretend that it has detached, and put */
static void end_lost(struct ioasid *ioasid)
{
	ioasid->nr_attached = 0;
	ioasid_put(ioasid);
	ioasid_recycle_flush();
}

/*
 * The domain may be freed right after the put, long before the owner frees the
 * IOASID and while others hold references.
 */
static void put_while_attached_blocks(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct ioasid_ref ref[3];

	ioasid_user_get(a, IOASID_USER_KVM, &ref[0]);
	ioasid_user_get(a, IOASID_USER_MDEV, &ref[1]);
	ioasid_user_get(a, IOASID_USER_DRIVER, &ref[2]);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_test_attach(test, a, fix->dev[1]);
	ioasid_user_put(&ref[2]);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PARKED);
	KUNIT_EXPECT_TRUE(test, ioasid_is_active(a));
	KUNIT_EXPECT_TRUE(test, a->lost);

	/*
	 * The device is removed, and its stale attachment is not touched. A
	 * group does not free what a driver leaves in it.
	 */
	iommu_detach_parked_device_pasid(&mock_domain, fix->dev[0], 9);
	mock_device_remove(fix->dev[0]);
	fix->dev[0] = NULL;
	ioasid_detach_device(a, &mock_domain, fix->dev[1]);
	ioasid_user_put(&ref[1]);
	ioasid_free(a);
	ioasid_user_put(&ref[0]);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 9, 9)), -ENOSPC);
	end_lost(a);
}

/* Two well-behaved users that race */
static void put_after_detach_is_no_reason_to_block(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct ioasid_ref ref[2];
	unsigned int i;

	ioasid_user_get(a, IOASID_USER_DRIVER, &ref[0]);
	ioasid_test_attach(test, a, fix->dev[0]);
	for (i = 0; i < 100; i++) {
		ioasid_user_get(a, IOASID_USER_MDEV, &ref[1]);
		ioasid_test_attach(test, a, fix->dev[1]);
		ioasid_detach_device(a, &mock_domain, fix->dev[1]);
		ioasid_user_put(&ref[1]);
	}
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PRESENT);
	KUNIT_EXPECT_FALSE(test, a->stray);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_user_put(&ref[0]);
	ioasid_free(a);
}

static void put_while_attached_and_parked_keeps_the_number(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	ioasid_put(a);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PARKED);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 9, 9)), -ENOSPC);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	refcount_set(&a->refs, 1);
	end_lost(a);
}

/* The PASID is free when free returns, without waiting for the worker */
static void owner_recycles_what_nobody_else_holds(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct ioasid *b = ioasid_test_alloc(test, 10, 10);

	ioasid_get(b);
	ioasid_free(a);
	ioasid_free(b);
	KUNIT_EXPECT_NULL(test, ioasid_lookup(9));
	KUNIT_EXPECT_PTR_EQ(test, ioasid_lookup(10), b);
	KUNIT_EXPECT_EQ(test, fix->set->kernel.used, 1);
	ioasid_put(b);
}

/* Invariant users-keep */
static void parked_gives_out_no_reference(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test,
			PTR_ERR(ioasid_account_find_get(&fix->set->kernel, 9)),
			-ESHUTDOWN);
	KUNIT_EXPECT_EQ(test, ioasid_users(a), 1);
	KUNIT_EXPECT_FALSE(test, ioasid_is_active(a));
	ioasid_put(a);
}

static void holder_may_use_a_parked_object(struct kunit *test)
{
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_free(a);
	KUNIT_EXPECT_PTR_EQ(test, ioasid_get(a), a);
	KUNIT_EXPECT_EQ(test, ioasid_id(a), 9);
	KUNIT_EXPECT_EQ(test, ioasid_users(a), 2);
	ioasid_put(a);
	KUNIT_EXPECT_EQ(test, ioasid_users(a), 1);
	ioasid_put(a);
}

static void free_without_users_recycles(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;

	ioasid_free(ioasid_test_alloc(test, 9, 9));
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, fix->set->kernel.used, 0);
	KUNIT_EXPECT_NULL(test, ioasid_lookup(9));
}

/* Check the users shown in debugfs and fdinfo */
static void expect_users(struct kunit *test, struct ioasid *ioasid,
			 const char *expected)
{
	char buf[128];
	struct seq_file s = { .buf = buf, .size = sizeof(buf) };

	ioasid_show_users(&s, ioasid);
	KUNIT_ASSERT_LT(test, s.count, sizeof(buf));
	buf[s.count] = '\0';
	KUNIT_EXPECT_STREQ(test, buf, expected);
}

static void users_are_counted_by_kind(struct kunit *test)
{
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct ioasid_ref mdev, kvm[2];

	expect_users(test, a, "-");
	ioasid_user_get(a, IOASID_USER_KVM, &kvm[0]);
	KUNIT_EXPECT_PTR_EQ(test, kvm[0].ioasid, a);
	expect_users(test, a, "kvm=1");
	ioasid_user_get(a, IOASID_USER_MDEV, &mdev);
	ioasid_user_get(a, IOASID_USER_KVM, &kvm[1]);
	ioasid_get(a);
	expect_users(test, a, "mdev=1,kvm=2,other=1");
	KUNIT_EXPECT_EQ(test, ioasid_users(a), 4);

	/* The owner is not a user, so this does not change anything */
	ioasid_free(a);
	expect_users(test, a, "mdev=1,kvm=2,other=1");
	ioasid_user_put(&mdev);
	ioasid_user_put(&kvm[0]);
	expect_users(test, a, "kvm=1,other=1");
	ioasid_user_put(&kvm[1]);
	expect_users(test, a, "other=1");
	KUNIT_EXPECT_EQ(test, ioasid_users(a), 1);
	ioasid_put(a);
}

static noinline_for_stack void ioasid_test_leak(struct ioasid *ioasid,
						struct ioasid_ref *ref)
{
	ioasid_user_get(ioasid, IOASID_USER_KVM, ref);
	/* Prevent a tail call: the stack must show this function */
	barrier();
}

static void stack_of_each_user_is_remembered(struct kunit *test)
{
	const size_t size = SZ_4K;
	char *buf = kunit_kzalloc(test, size, GFP_KERNEL);
	struct ioasid_ref leaked, other;
	struct ioasid *a;

	if (!IS_ENABLED(CONFIG_IOASID_REF_TRACKER))
		kunit_skip(test, "needs CONFIG_IOASID_REF_TRACKER");
	KUNIT_ASSERT_NOT_NULL(test, buf);
	a = ioasid_test_alloc(test, 9, 9);
	ioasid_user_get(a, IOASID_USER_MDEV, &other);
	ioasid_test_leak(a, &leaked);
	ioasid_free(a);
	ioasid_user_put(&other);

	ioasid_tracker_snprint(a, buf, size);
	KUNIT_EXPECT_NOT_NULL(test, strstr(buf, "has 1/1 users"));
	/* User mode Linux cannot unwind its stack */
	if (IS_ENABLED(CONFIG_KALLSYMS) && !IS_ENABLED(CONFIG_UML))
		KUNIT_EXPECT_NOT_NULL_MSG(test, strstr(buf, "ioasid_test_leak"),
					  "%s", buf);
	ioasid_user_put(&leaked);
}

/* Usage of the test's cgroup, which is charged */
static u64 ioasid_test_usage(void)
{
#ifdef CONFIG_CGROUP_MISC
	struct misc_cg *cg = get_current_misc_cg();
	u64 usage = atomic64_read(&cg->res[MISC_CG_RES_IOASID].usage);

	put_misc_cg(cg);
	return usage;
#else
	return 0;
#endif
}

static void cgroup_is_charged_until_recycle(struct kunit *test)
{
	u64 before = ioasid_test_usage();
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a;
	u32 id;

	if (!IS_ENABLED(CONFIG_CGROUP_MISC))
		kunit_skip(test, "needs CONFIG_CGROUP_MISC");
	a = ioasid_test_alloc(test, 9, 9);
	KUNIT_EXPECT_EQ(test, ioasid_test_usage(),
			before + 1);
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, 9, 9)), -ENOSPC);
	KUNIT_EXPECT_EQ(test, ioasid_test_usage(),
			before + 1);
	ioasid_get(a);
	ioasid_free(a);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, ioasid_test_usage(),
			before + 1);
	ioasid_put(a);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, ioasid_test_usage(),
			before);

	/* Global PASIDs are not charged to the cgroup */
	id = ioasid_alloc_global(IOASID_MAX);
	KUNIT_EXPECT_NE(test, id, 0);
	KUNIT_EXPECT_EQ(test, ioasid_test_usage(),
			before);
	ioasid_free_global(id);
}

/* All PASIDs of a device with few PASID bits are taken */
static void kernel_gets_no_number_that_is_taken(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a;
	u32 id;

	a = ioasid_alloc(fix->set, IOASID_MIN, IOASID_MIN);
	if (IS_ERR(a))
		kunit_skip(test, "the first number is in use");
	KUNIT_EXPECT_EQ(test, ioasid_alloc_global(IOASID_MIN), 0);
	ioasid_free(a);
	ioasid_recycle_flush();
	id = ioasid_alloc_global(IOASID_MIN);
	KUNIT_EXPECT_EQ(test, id, IOASID_MIN);
	ioasid_free_global(id);
}

struct put_irq_work {
	struct irq_work work;
	struct ioasid *ioasid;
};

static void put_from_hardirq(struct irq_work *work)
{
	struct put_irq_work *w = container_of(work, struct put_irq_work, work);

	ioasid_put(w->ioasid);
}

/* Return a PARKED IOASID with one reference, owned by the caller */
static struct ioasid *ioasid_test_parked(struct kunit *test)
{
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_free(a);
	return a;
}

/* Invariant put-anywhere, checked by atomic-sleep checks and lockdep */
static void last_put_works_in_any_context(struct kunit *test)
{
	struct ioasid *a = ioasid_test_parked(test);
	struct put_irq_work w;
	raw_spinlock_t lock;
	unsigned long flags;

	raw_spin_lock_init(&lock);
	raw_spin_lock_irqsave(&lock, flags);
	ioasid_put(a);
	raw_spin_unlock_irqrestore(&lock, flags);

	/* Each allocation gets the PASID that was put before */
	a = ioasid_test_parked(test);
	rcu_read_lock();
	ioasid_put(a);
	rcu_read_unlock();

	a = ioasid_test_parked(test);
	local_bh_disable();
	ioasid_put(a);
	local_bh_enable();

	/* From hard interrupt context if there is any */
	w.ioasid = ioasid_test_parked(test);
	init_irq_work(&w.work, put_from_hardirq);
	irq_work_queue(&w.work);
	irq_work_sync(&w.work);
	ioasid_free(ioasid_test_alloc(test, 9, 9));
}

/* Attachments */

static void attach_sets_and_detach_removes(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	KUNIT_EXPECT_EQ(test, a->nr_attached, 1);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PRESENT);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	KUNIT_EXPECT_EQ(test, a->nr_attached, 0);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), 0);
	ioasid_put(a);
	ioasid_free(a);
	ioasid_recycle_flush();
	/* There is nothing to park or unpark */
	KUNIT_EXPECT_STREQ(test, mock.log, "SR");
}

static void second_attach_to_a_device_is_ebusy(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_test_attach(test, a, fix->dev[0]);
	KUNIT_EXPECT_EQ(test, ioasid_attach_device(a, &mock_domain,
						   fix->dev[0], NULL), -EBUSY);
	KUNIT_EXPECT_EQ(test, a->nr_attached, 1);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_free(a);
}

/* Invariant synchronous: when free returns, all are blocked and flushed */
static void free_blocks_every_attachment(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_test_attach(test, a, fix->dev[1]);
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PARKED);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9), MOCK_PARKED);
	KUNIT_EXPECT_EQ(test, a->nr_attached, 2);
	KUNIT_EXPECT_STREQ(test, mock.log, "SSPPY");

	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_detach_device(a, &mock_domain, fix->dev[1]);
	ioasid_put(a);
}

/* Invariant final: detach leaves the entry blocked until recycle */
static void parked_entry_stays_until_recycle(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, a->nr_attached, 0);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PARKED);
	ioasid_put(a);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), 0);
	KUNIT_EXPECT_STREQ(test, mock.log, "SPYRUF");
}

/* Invariants final and users-keep */
static void parked_takes_no_attachment(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	/* A device without an attachment of the PASID has no mark */
	KUNIT_EXPECT_EQ(test, ioasid_attach_device(a, &mock_domain,
						   fix->dev[1], NULL),
			-ESHUTDOWN);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	KUNIT_EXPECT_EQ(test, ioasid_attach_device(a, &mock_domain,
						   fix->dev[0], NULL),
			-ESHUTDOWN);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PARKED);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9), 0);
	ioasid_put(a);
}

static void failed_attach_leaves_nothing(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	mock.set_ret = -ENOSPC;
	KUNIT_EXPECT_EQ(test, ioasid_attach_device(a, &mock_domain,
						   fix->dev[0], NULL), -ENOSPC);
	KUNIT_EXPECT_EQ(test, a->nr_attached, 0);
	KUNIT_EXPECT_TRUE(test, list_empty(&a->attachments));
	mock.set_ret = 0;
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_free(a);
}

/* A call made concurrently by a work item */
struct side_work {
	struct work_struct work;
	struct completion done;
	struct ioasid *ioasid;
	struct device *dev;
	struct ioasid_chain chain;
	struct iommu_attach_handle handle;	/* for replace */
	int ret;
};

static void attach_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	w->ret = ioasid_attach_device(w->ioasid, &mock_domain, w->dev, NULL);
	complete(&w->done);
}

static void detach_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	ioasid_detach_device(w->ioasid, &mock_domain, w->dev);
	complete(&w->done);
}

static void detach_number_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	iommu_detach_device_pasid(&mock_domain, w->dev, 11);
	complete(&w->done);
}

static void replace_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	w->ret = ioasid_replace_device(w->ioasid, &mock_domain,
				       &mock_other_domain, w->dev, &w->handle);
	complete(&w->done);
}

/* Lock held by the caller */
static DEFINE_MUTEX(detach_fn_lock);

static void detach_locked_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	mutex_lock(&detach_fn_lock);
	ioasid_detach_device(w->ioasid, &mock_domain, w->dev);
	mutex_unlock(&detach_fn_lock);
	complete(&w->done);
}

static void free_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	ioasid_free(w->ioasid);
	complete(&w->done);
}

static void alloc_first_number_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	w->ret = ioasid_alloc_global(IOASID_MIN);
	complete(&w->done);
}

static void side_start(struct side_work *w, work_func_t fn,
		       struct ioasid *ioasid, struct device *dev)
{
	w->ioasid = ioasid;
	w->dev = dev;
	w->handle = (struct iommu_attach_handle){};
	init_completion(&w->done);
	INIT_WORK_ONSTACK(&w->work, fn);
	schedule_work(&w->work);
}

static void side_finish(struct side_work *w)
{
	flush_work(&w->work);
	destroy_work_on_stack(&w->work);
}

/* How long to wait for something that must not happen */
#define A_WHILE		(HZ / 5)

/* The flush uses the device and the domain ID */
static void detach_waits_for_a_park_under_way(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	DECLARE_COMPLETION_ONSTACK(in_sync);
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work detach, owner;

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	mock.go_on = &go_on;
	mock.in_sync = &in_sync;

	side_start(&owner, free_fn, a, NULL);
	wait_for_completion(&in_sync);
	side_start(&detach, detach_locked_fn, a, fix->dev[0]);
	KUNIT_EXPECT_EQ(test, wait_for_completion_timeout(&detach.done,
							  A_WHILE), 0);
	KUNIT_EXPECT_STREQ(test, mock.log, "SPY");
	complete(&go_on);
	side_finish(&owner);
	side_finish(&detach);
	KUNIT_EXPECT_STREQ(test, mock.log, "SPYR");
	if (lockdep_test_works())
		KUNIT_EXPECT_TRUE(test, lockdep_test_waited(&detach_fn_lock,
							    "ioasid_park"));
	ioasid_put(a);
}

static DEFINE_MUTEX(reset_fn_lock);

static void reset_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	mutex_lock(&reset_fn_lock);
	w->ret = iommu_mock_reset(to_pci_dev(w->dev));
	mutex_unlock(&reset_fn_lock);
	complete(&w->done);
}

/* What a reset of @dev uses */
static struct device *mock_pci_dev(struct kunit *test, struct device *dev)
{
	struct pci_dev *pdev = kunit_kzalloc(test, sizeof(*pdev), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, pdev);
	pdev->dev.iommu = dev->iommu;
	pdev->dev.iommu_group = dev->iommu_group;
	return &pdev->dev;
}

/* Device TLBs must not be flushed during a reset */
static void reset_waits_for_the_flush_of_a_park(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	DECLARE_COMPLETION_ONSTACK(in_sync);
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work reset, owner;
	bool done;

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	mock.go_on = &go_on;
	mock.in_sync = &in_sync;
	mock.resets = 0;

	side_start(&owner, free_fn, a, NULL);
	wait_for_completion(&in_sync);
	side_start(&reset, reset_fn, NULL, mock_pci_dev(test, fix->dev[0]));
	done = wait_for_completion_timeout(&reset.done, A_WHILE);
	complete(&go_on);
	side_finish(&owner);
	side_finish(&reset);
	mock.in_sync = NULL;
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_put(a);
	if (reset.ret == -EOPNOTSUPP)
		kunit_skip(test, "needs a PCI device with ATS");
	KUNIT_EXPECT_EQ(test, reset.ret, 0);
	KUNIT_EXPECT_EQ(test, mock.resets, 1);
	KUNIT_EXPECT_FALSE(test, done);
	if (lockdep_test_works())
		KUNIT_EXPECT_TRUE(test, lockdep_test_waited(&reset_fn_lock,
							    "iommu_gather"));
}

/* The flush of one of two devices of a close is stuck */
static void reset_waits_for_no_other_device(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	DECLARE_COMPLETION_ONSTACK(in_sync);
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work reset[2], owner;
	bool done[2];
	int i;

	ioasid_get(a);
	for (i = 0; i < 2; i++)
		ioasid_test_attach(test, a, fix->dev[i]);
	mock.go_on = &go_on;
	mock.in_sync = &in_sync;
	mock.stuck = fix->dev[0];
	mock.resets = 0;

	side_start(&owner, free_fn, a, NULL);
	wait_for_completion(&in_sync);
	/* Device 1 first: reset_fn() holds a lock while it waits */
	for (i = 1; i >= 0; i--) {
		side_start(&reset[i], reset_fn, NULL,
			   mock_pci_dev(test, fix->dev[i]));
		done[i] = wait_for_completion_timeout(&reset[i].done,
						      i ? 5 * HZ : A_WHILE);
	}
	complete(&go_on);
	side_finish(&owner);
	for (i = 0; i < 2; i++) {
		side_finish(&reset[i]);
		ioasid_detach_device(a, &mock_domain, fix->dev[i]);
	}
	ioasid_put(a);
	if (reset[0].ret == -EOPNOTSUPP)
		kunit_skip(test, "needs a PCI device with ATS");
	KUNIT_EXPECT_EQ(test, mock.resets, 2);
	KUNIT_EXPECT_TRUE(test, done[1]);
	KUNIT_EXPECT_FALSE(test, done[0]);
}

/* An entry that is just being set is blocked before free returns */
static void free_waits_for_an_attach_under_way(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	DECLARE_COMPLETION_ONSTACK(in_set);
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work attach, owner;

	ioasid_get(a);
	mock.go_on = &go_on;
	mock.in_set = &in_set;

	side_start(&attach, attach_fn, a, fix->dev[0]);
	wait_for_completion(&in_set);
	side_start(&owner, free_fn, a, NULL);
	KUNIT_EXPECT_EQ(test, wait_for_completion_timeout(&owner.done,
							  A_WHILE), 0);
	complete(&go_on);
	side_finish(&attach);
	side_finish(&owner);
	KUNIT_EXPECT_EQ(test, attach.ret, 0);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PARKED);
	KUNIT_EXPECT_STREQ(test, mock.log, "SPY");
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_put(a);
}

static void free_chain_fn(struct work_struct *work)
{
	struct side_work *w = container_of(work, struct side_work, work);

	ioasid_free_chain(&w->chain);
	complete(&w->done);
}

/* Free several IOASIDs of one owner at once */
static void side_free(struct side_work *w, struct ioasid **ioasids,
		      unsigned int count)
{
	unsigned int i;

	ioasid_chain_init(&w->chain);
	for (i = 0; i < count; i++)
		ioasid_chain_add(&w->chain, ioasids[i]);
	side_start(w, free_chain_fn, NULL, NULL);
}

/* Start an attach that completes after @go_on */
static void side_attach_slowly(struct side_work *w, struct ioasid *ioasid,
			       struct device *dev, struct completion *go_on)
{
	DECLARE_COMPLETION_ONSTACK(in_set);

	mock.go_on = go_on;
	mock.in_set = &in_set;
	side_start(w, attach_fn, ioasid, dev);
	wait_for_completion(&in_set);
	mock.in_set = NULL;
}

static bool is_flushed_soon(struct device *dev, u32 pasid)
{
	int tries;

	for (tries = 0; tries < 250; tries++) {
		if (mock_entry(dev, pasid) == MOCK_PARKED)
			return true;
		msleep(20);
	}
	return false;
}

/*
 * Invariant no-neighbour: a slow attach delays only the park of its own IOASID,
 * whether this is the first, second or last one freed.
 */
static void slow_attach_delays_no_other_park(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work attach, detach, owner;
	struct ioasid *ids[3];
	unsigned int i, slow;
	bool good = true;

	for (slow = 0; slow < ARRAY_SIZE(ids) && good; slow++) {
		for (i = 0; i < ARRAY_SIZE(ids); i++) {
			ids[i] = ioasid_test_alloc(test, 9 + i, 9 + i);
			ioasid_get(ids[i]);
			if (i != slow)
				ioasid_test_attach(test, ids[i], fix->dev[0]);
		}
		side_attach_slowly(&attach, ids[slow], fix->dev[1], &go_on);

		side_free(&owner, ids, ARRAY_SIZE(ids));
		for (i = 0; i < ARRAY_SIZE(ids); i++) {
			good = good && (i == slow ||
					is_flushed_soon(fix->dev[0], 9 + i));
		}
		KUNIT_EXPECT_TRUE(test, good);
		KUNIT_EXPECT_FALSE(test, ioasid_is_active(ids[slow]));
		/* IOASIDs whose park has completed can be detached */
		i = (slow + 1) % ARRAY_SIZE(ids);
		side_start(&detach, detach_fn, ids[i], fix->dev[0]);
		good = good && wait_for_completion_timeout(&detach.done,
							   5 * HZ);
		KUNIT_EXPECT_TRUE(test, good);
		KUNIT_EXPECT_FALSE(test, completion_done(&owner.done));

		complete(&go_on);
		side_finish(&attach);
		side_finish(&owner);
		side_finish(&detach);
		KUNIT_EXPECT_EQ(test, attach.ret, 0);
		KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9 + slow),
				MOCK_PARKED);
		i = (slow + 2) % ARRAY_SIZE(ids);
		ioasid_detach_device(ids[i], &mock_domain, fix->dev[0]);
		ioasid_detach_device(ids[slow], &mock_domain, fix->dev[1]);
		for (i = 0; i < ARRAY_SIZE(ids); i++)
			ioasid_put(ids[i]);
		ioasid_recycle_flush();
	}
}

/* Contended IOASIDs do not wait for each other */
static void busy_one_waits_for_no_other(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *ids[] = {
		ioasid_test_alloc(test, 9, 9),
		ioasid_test_alloc(test, 10, 10),
	};
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work attach, owner;

	ioasid_get(ids[0]);
	ioasid_get(ids[1]);
	ioasid_test_attach(test, ids[1], fix->dev[0]);
	side_attach_slowly(&attach, ids[0], fix->dev[1], &go_on);

	mutex_lock(&ids[1]->lock);
	side_free(&owner, ids, ARRAY_SIZE(ids));
	/* Longer than the retries for short lock holds */
	msleep(200);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 10), MOCK_PRESENT);
	mutex_unlock(&ids[1]->lock);
	KUNIT_EXPECT_TRUE(test, is_flushed_soon(fix->dev[0], 10));
	KUNIT_EXPECT_FALSE(test, completion_done(&owner.done));

	complete(&go_on);
	side_finish(&attach);
	side_finish(&owner);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9), MOCK_PARKED);
	ioasid_detach_device(ids[0], &mock_domain, fix->dev[1]);
	ioasid_detach_device(ids[1], &mock_domain, fix->dev[0]);
	ioasid_put(ids[0]);
	ioasid_put(ids[1]);
}

/* Whether @pasid of @dev is unparked within a second */
static bool is_unparked_soon(struct device *dev, u32 pasid)
{
	unsigned long end = jiffies + HZ;

	while (mock_entry(dev, pasid)) {
		if (time_after(jiffies, end))
			return false;
		schedule_timeout_uninterruptible(1);
	}
	return true;
}

/* Same if a group is busy, here attaching an unrelated PASID */
static void busy_group_delays_no_other_park(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *stranger = ioasid_test_alloc(test, 20, 20);
	struct ioasid *ids[] = {
		ioasid_test_alloc(test, 9, 9),
		ioasid_test_alloc(test, 10, 10),
		ioasid_test_alloc(test, 11, 11),
	};
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work attach, owner;
	unsigned int i;

	ioasid_get(stranger);
	for (i = 0; i < ARRAY_SIZE(ids); i++)
		ioasid_get(ids[i]);
	ioasid_test_attach(test, ids[0], fix->dev[1]);
	/* Attached to both devices, only one of which is busy */
	ioasid_test_attach(test, ids[1], fix->dev[0]);
	ioasid_test_attach(test, ids[1], fix->dev[1]);
	ioasid_test_attach(test, ids[2], fix->dev[0]);
	side_attach_slowly(&attach, stranger, fix->dev[1], &go_on);

	side_free(&owner, ids, ARRAY_SIZE(ids));
	KUNIT_EXPECT_TRUE(test, is_flushed_soon(fix->dev[0], 10));
	KUNIT_EXPECT_TRUE(test, is_flushed_soon(fix->dev[0], 11));
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9), MOCK_PRESENT);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 10), MOCK_PRESENT);
	KUNIT_EXPECT_FALSE(test, completion_done(&owner.done));

	complete(&go_on);
	side_finish(&attach);
	side_finish(&owner);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9), MOCK_PARKED);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 10), MOCK_PARKED);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 20), MOCK_PRESENT);
	ioasid_detach_device(ids[0], &mock_domain, fix->dev[1]);
	ioasid_detach_device(ids[1], &mock_domain, fix->dev[0]);
	ioasid_detach_device(ids[1], &mock_domain, fix->dev[1]);
	ioasid_detach_device(ids[2], &mock_domain, fix->dev[0]);
	for (i = 0; i < ARRAY_SIZE(ids); i++)
		ioasid_put(ids[i]);
	ioasid_detach_device(stranger, &mock_domain, fix->dev[1]);
	ioasid_free(stranger);
	ioasid_put(stranger);
}

/*
 * A device reset waits for the gather, so park does not wait for a busy group
 * with unflushed entries in its gather.
 */
static void busy_group_delays_no_flush(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct ioasid *strangers[MOCK_DEVICES];
	struct completion go_on[MOCK_DEVICES];
	struct side_work attach[MOCK_DEVICES], owner;
	unsigned int i;

	ioasid_get(a);
	/* The last attachment is blocked first */
	ioasid_test_attach(test, a, fix->dev[1]);
	ioasid_test_attach(test, a, fix->dev[0]);
	for (i = 0; i < MOCK_DEVICES; i++) {
		strangers[i] = ioasid_test_alloc(test, 20 + i, 20 + i);
		init_completion(&go_on[i]);
		side_attach_slowly(&attach[i], strangers[i], fix->dev[i],
				   &go_on[i]);
	}

	side_start(&owner, free_fn, a, NULL);
	/* Longer than the retries for short lock holds */
	msleep(200);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PRESENT);
	complete(&go_on[0]);
	KUNIT_EXPECT_TRUE(test, is_flushed_soon(fix->dev[0], 9));
	KUNIT_EXPECT_EQ(test, atomic_read(&fix->dev[0]->iommu->gathered), 0);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9), MOCK_PRESENT);
	KUNIT_EXPECT_FALSE(test, completion_done(&owner.done));

	complete(&go_on[1]);
	side_finish(&owner);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9), MOCK_PARKED);
	for (i = 0; i < MOCK_DEVICES; i++) {
		side_finish(&attach[i]);
		ioasid_detach_device(a, &mock_domain, fix->dev[i]);
		ioasid_detach_device(strangers[i], &mock_domain, fix->dev[i]);
		ioasid_free(strangers[i]);
	}
	ioasid_put(a);
}

/* A busy group only delays the recycling of its own PASIDs */
static void busy_group_delays_no_other_recycle(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *stranger = ioasid_test_alloc(test, 20, 20);
	struct ioasid *ids[] = {
		ioasid_test_alloc(test, 9, 9),
		ioasid_test_alloc(test, 10, 10),
		ioasid_test_alloc(test, 11, 11),
	};
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work attach;
	unsigned int i;

	ioasid_get(stranger);
	for (i = 0; i < ARRAY_SIZE(ids); i++)
		ioasid_get(ids[i]);
	ioasid_test_attach(test, ids[0], fix->dev[1]);
	ioasid_test_attach(test, ids[1], fix->dev[0]);
	ioasid_test_attach(test, ids[1], fix->dev[1]);
	ioasid_test_attach(test, ids[2], fix->dev[0]);
	for (i = 0; i < ARRAY_SIZE(ids); i++)
		ioasid_free(ids[i]);
	ioasid_detach_device(ids[0], &mock_domain, fix->dev[1]);
	ioasid_detach_device(ids[1], &mock_domain, fix->dev[0]);
	ioasid_detach_device(ids[1], &mock_domain, fix->dev[1]);
	ioasid_detach_device(ids[2], &mock_domain, fix->dev[0]);
	side_attach_slowly(&attach, stranger, fix->dev[1], &go_on);

	/* Put the busy ones first */
	for (i = 0; i < ARRAY_SIZE(ids); i++)
		ioasid_put(ids[i]);
	KUNIT_EXPECT_TRUE(test, is_unparked_soon(fix->dev[0], 11));
	KUNIT_EXPECT_FALSE(test, is_unparked_soon(fix->dev[1], 9));
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 10), MOCK_PARKED);

	complete(&go_on);
	side_finish(&attach);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 9), 0);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 10), 0);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[1], 10), 0);
	for (i = 0; i < ARRAY_SIZE(ids); i++)
		ioasid_free(ioasid_test_alloc(test, 9 + i, 9 + i));
	ioasid_detach_device(stranger, &mock_domain, fix->dev[1]);
	ioasid_free(stranger);
	ioasid_put(stranger);
}

/* An SVA bind holds iommu_sva_lock, so it does not wait for the worker. */
static void kernel_does_not_wait_for_a_busy_group(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *first, *stranger;
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct side_work attach, alloc;

	first = ioasid_alloc(fix->set, IOASID_MIN, IOASID_MIN);
	if (IS_ERR(first))
		kunit_skip(test, "the first number is in use");
	stranger = ioasid_test_alloc(test, 20, 20);
	ioasid_get(stranger);
	ioasid_get(first);
	ioasid_test_attach(test, first, fix->dev[1]);
	ioasid_free(first);
	ioasid_detach_device(first, &mock_domain, fix->dev[1]);
	side_attach_slowly(&attach, stranger, fix->dev[1], &go_on);
	ioasid_put(first);

	side_start(&alloc, alloc_first_number_fn, NULL, NULL);
	KUNIT_EXPECT_NE(test, wait_for_completion_timeout(&alloc.done, HZ), 0);

	complete(&go_on);
	side_finish(&alloc);
	side_finish(&attach);
	KUNIT_EXPECT_EQ(test, alloc.ret, 0);
	if (alloc.ret)
		ioasid_free_global(alloc.ret);
	ioasid_recycle_flush();
	ioasid_detach_device(stranger, &mock_domain, fix->dev[1]);
	ioasid_free(stranger);
	ioasid_put(stranger);
}

/* Allocates an IOASID in a thread of its own */
struct killed {
	struct ioasid_set *set;
	struct completion begun, done;
	struct ioasid *ret;
};

static int killed_fn(void *data)
{
	struct killed *k = data;

	allow_kernel_signal(SIGKILL);
	complete(&k->begun);
	k->ret = ioasid_alloc(k->set, 9, 9);
	complete(&k->done);
	return 0;
}

/* Whoever waits for the recycling of others can be killed meanwhile */
static void wait_for_the_worker_is_killable(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct killed k = { .set = fix->set };
	DECLARE_COMPLETION_ONSTACK(in_unpark);
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct task_struct *task;

	init_completion(&k.begun);
	init_completion(&k.done);
	task = kthread_create(killed_fn, &k, "ioasid-killed");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	get_task_struct(task);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	mock.in_unpark = &in_unpark;
	mock.go_on = &go_on;
	ioasid_put(a);
	wait_for_completion(&in_unpark);

	wake_up_process(task);
	wait_for_completion(&k.begun);
	KUNIT_EXPECT_EQ(test, wait_for_completion_timeout(&k.done, A_WHILE), 0);
	send_sig(SIGKILL, task, 1);
	KUNIT_EXPECT_NE(test, wait_for_completion_timeout(&k.done, 30 * HZ), 0);

	complete(&go_on);
	kthread_stop_put(task);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(k.ret), -EINTR);
	if (!IS_ERR(k.ret))
		ioasid_free(k.ret);
	ioasid_recycle_flush();
}

/*
 * Invariant no-notice: any lock held here that does not belong to the IOMMU
 * core or driver could cause a deadlock. Users are never called, as there is
 * nothing to register.
 */
static void park_holds_no_lock_of_others(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	unsigned int outside = lockdep_depth(current);
	struct ioasid *a;

	if (!IS_ENABLED(CONFIG_LOCKDEP))
		kunit_skip(test, "needs lockdep to count locks");

	a = ioasid_test_alloc(test, 9, 9);
	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	/* ioasid.lock and iommu_group.mutex */
	KUNIT_EXPECT_EQ(test, mock.set_depth, outside + 2);
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test, mock.park_depth, outside + 2);
	KUNIT_EXPECT_EQ(test, mock.sync_depth, outside);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_put(a);
}

#define MANY	300

/* A single flush for many, and another one at recycle */
static void many_share_a_flush(struct kunit *test)
{
	static const unsigned int counts[] = {
		1, IOASID_BATCH - 1, IOASID_BATCH, IOASID_BATCH + 1, MANY,
	};
	struct ioasid_fixture *fix = test->priv;
	struct ioasid **a;
	unsigned int i, j;

	a = kunit_kcalloc(test, MANY, sizeof(*a), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, a);
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		struct ioasid_chain chain;

		ioasid_chain_init(&chain);
		for (j = 0; j < counts[i]; j++) {
			a[j] = ioasid_test_alloc(test, 1, 1000);
			ioasid_get(a[j]);
			ioasid_test_attach(test, a[j], fix->dev[j % 2]);
			ioasid_chain_add(&chain, a[j]);
		}
		mock.syncs = 0;
		ioasid_free_chain(&chain);
		KUNIT_EXPECT_EQ(test, mock.syncs, 1);
		KUNIT_EXPECT_EQ(test, fix->set->kernel.parked, counts[i]);
		for (j = 0; j < counts[i]; j++) {
			KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[j % 2],
							 ioasid_id(a[j])),
					MOCK_PARKED);
			ioasid_detach_device(a[j], &mock_domain,
					     fix->dev[j % 2]);
			ioasid_put(a[j]);
		}
		ioasid_recycle_flush();
		KUNIT_EXPECT_TRUE(test,
				  xa_empty(mock_entries(fix->dev[0])));
		KUNIT_EXPECT_TRUE(test,
				  xa_empty(mock_entries(fix->dev[1])));
	}
}

/*
 * A user only keeps its attached device: other devices of the group are flushed
 * before they can leave the group.
 */
static void group_of_two_is_flushed_under_its_mutex(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	unsigned int outside = lockdep_depth(current);
	struct iommu_group *group = iommu_group_get(fix->dev[0]);
	struct device *dev = mock_device_add(test, MOCK_DEVICES, group);
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PARKED);
	KUNIT_EXPECT_EQ(test, mock_entry(dev, 9), MOCK_PARKED);
	KUNIT_EXPECT_STREQ(test, mock.log, "SSPYPY");
	if (IS_ENABLED(CONFIG_LOCKDEP))
		KUNIT_EXPECT_EQ(test, mock.sync_depth, outside + 2);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_put(a);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), 0);
	KUNIT_EXPECT_EQ(test, mock_entry(dev, 9), 0);
	mock_device_remove(dev);
	iommu_group_put(group);
}

static void replaced_domain_is_parked_like_the_first(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct iommu_attach_handle handle[3] = {};
	int ret;

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ret = ioasid_replace_device(a, &mock_domain, &mock_other_domain,
				    fix->dev[0], &handle[0]);
	if (!ret) {
		/* The same domain with another handle */
		KUNIT_EXPECT_EQ(test,
				ioasid_replace_device(a, &mock_other_domain,
						      &mock_other_domain,
						      fix->dev[0], &handle[1]),
				0);
		KUNIT_EXPECT_STREQ(test, mock.log, "SS");
		KUNIT_EXPECT_EQ(test, a->nr_attached, 1);
	}
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test,
			ioasid_replace_device(a, ret ? &mock_domain :
						       &mock_other_domain,
					      &mock_domain, fix->dev[0],
					      &handle[2]), -ESHUTDOWN);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), MOCK_PARKED);
	ioasid_detach_device(a, ret ? &mock_domain : &mock_other_domain,
			     fix->dev[0]);
	ioasid_put(a);
	ioasid_recycle_flush();
	if (ret == -EOPNOTSUPP)
		kunit_skip(test, "the IOMMU core cannot replace domains");
	KUNIT_EXPECT_EQ(test, ret, 0);
}

/* Invariant silent: page requests get a response as long as the device runs */
static void page_request_of_a_parked_pasid_reaches_nobody(struct kunit *test)
{
	const u32 last = IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
	struct ioasid_fixture *fix = test->priv;
	struct iommu_fault_param *param;
	struct iommu_attach_handle handle[2] = {};
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	struct ioasid *b = ioasid_test_alloc(test, 10, 10);
	struct iopf_queue *queue = iopf_queue_alloc("ioasid-mock");
	struct device *dev = fix->dev[0];

	KUNIT_ASSERT_NOT_NULL(test, queue);
	KUNIT_ASSERT_EQ(test, iopf_queue_add_device(queue, dev), 0);
	param = rcu_dereference_protected(dev->iommu->fault_param, true);
	mock_domain.iopf_handler = mock_iopf_handler;
	ioasid_get(a);
	KUNIT_EXPECT_EQ(test, ioasid_attach_device(a, &mock_domain, dev,
						   &handle[0]), 0);
	KUNIT_EXPECT_EQ(test, ioasid_attach_device(b, &mock_domain, dev,
						   &handle[1]), 0);
	KUNIT_EXPECT_EQ(test, mock_page_request(dev, 9, 0), 0);
	KUNIT_EXPECT_EQ(test, mock_page_request(dev, 9, last), 0);
	KUNIT_EXPECT_EQ(test, mock.faults, 2);
	KUNIT_EXPECT_EQ(test, mock.answer, IOMMU_PAGE_RESP_SUCCESS);

	/* Parked in the middle of a page request group */
	KUNIT_EXPECT_EQ(test, mock_page_request(dev, 9, 0), 0);
	mock.marked_at_park = false;
	ioasid_free(a);
	KUNIT_EXPECT_TRUE(test, mock.marked_at_park);
	KUNIT_EXPECT_EQ(test, mock_page_request(dev, 9, 0), 0);
	KUNIT_EXPECT_EQ(test, mock.answers, 1);
	KUNIT_EXPECT_EQ(test, mock_page_request(dev, 9, last), 0);
	KUNIT_EXPECT_EQ(test, mock.faults, 2);
	KUNIT_EXPECT_EQ(test, mock.answers, 2);
	KUNIT_EXPECT_EQ(test, mock.answer, IOMMU_PAGE_RESP_INVALID);
	/* The queue is not used, as it may be removed at any time */
	KUNIT_EXPECT_FALSE(test, mock.queued_at_answer);
	KUNIT_EXPECT_TRUE(test, list_empty(&param->partial));

	/* Requests of other PASIDs are handled */
	KUNIT_EXPECT_EQ(test, mock_page_request(dev, 10, last), 0);
	KUNIT_EXPECT_EQ(test, mock.faults, 3);
	KUNIT_EXPECT_EQ(test, mock.answer, IOMMU_PAGE_RESP_SUCCESS);

	/* The last PASID that needs a fault handler goes away */
	ioasid_detach_device(b, &mock_domain, dev);
	ioasid_free(b);
	iopf_queue_remove_device(queue, dev);
	KUNIT_EXPECT_EQ(test, mock_page_request(dev, 9, last), 0);
	KUNIT_EXPECT_EQ(test, mock.faults, 3);
	KUNIT_EXPECT_EQ(test, mock.answers, 4);
	KUNIT_EXPECT_EQ(test, mock.answer, IOMMU_PAGE_RESP_INVALID);

	/* A request between the drain and the end of detach finds no handle */
	mock.handle_at_remove = true;
	ioasid_detach_device(a, &mock_domain, dev);
	KUNIT_EXPECT_FALSE(test, mock.handle_at_remove);
	ioasid_put(a);
	mock_domain.iopf_handler = NULL;
	iopf_queue_free(queue);
}

/* PASIDs 9 and 10 of the first device have a page fault handler */
struct iopf_fixture {
	struct ioasid *a, *b;
	struct iopf_queue *queue;
	struct iommu_attach_handle handle[2];
	struct device *dev;
};

static void iopf_test_init(struct kunit *test, struct iopf_fixture *iopf)
{
	struct ioasid_fixture *fix = test->priv;

	memset(iopf, 0, sizeof(*iopf));
	iopf->dev = fix->dev[0];
	iopf->a = ioasid_test_alloc(test, 9, 9);
	iopf->b = ioasid_test_alloc(test, 10, 10);
	iopf->queue = iopf_queue_alloc("ioasid-mock");
	KUNIT_ASSERT_NOT_NULL(test, iopf->queue);
	KUNIT_ASSERT_EQ(test, iopf_queue_add_device(iopf->queue, iopf->dev), 0);
	mock_domain.iopf_handler = mock_iopf_handler;
	ioasid_get(iopf->a);
	ioasid_get(iopf->b);
	KUNIT_ASSERT_EQ(test, ioasid_attach_device(iopf->a, &mock_domain,
						   iopf->dev,
						   &iopf->handle[0]), 0);
	KUNIT_ASSERT_EQ(test, ioasid_attach_device(iopf->b, &mock_domain,
						   iopf->dev,
						   &iopf->handle[1]), 0);
}

static void iopf_test_exit(struct iopf_fixture *iopf)
{
	mock_domain.iopf_handler = NULL;
	ioasid_put(iopf->a);
	ioasid_put(iopf->b);
	iopf_queue_free(iopf->queue);
}

/* A slow handler finishes: it responds and frees its group */
static void iopf_test_respond(struct iopf_group *group)
{
	iopf_group_response(group, IOMMU_PAGE_RESP_SUCCESS);
	iopf_free_group(group);
}

/* A handler may be stuck in a page fault */
static void park_answers_for_a_handler_that_is_stuck(struct kunit *test)
{
	const u32 last = IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
	struct iopf_group *kept;
	struct iopf_fixture iopf;

	iopf_test_init(test, &iopf);
	mock.keep = true;
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 10, last), 0);
	kept = mock.kept;
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 9, last), 0);
	KUNIT_EXPECT_EQ(test, mock.answers, 0);
	ioasid_free(iopf.a);
	KUNIT_EXPECT_EQ(test, mock.answers, 1);
	KUNIT_EXPECT_EQ(test, mock.answer, IOMMU_PAGE_RESP_INVALID);
	/* The PASID and the group index may have been reused by now */
	iopf_test_respond(mock.kept);
	KUNIT_EXPECT_EQ(test, mock.answers, 1);
	/* Requests of other PASIDs are answered by their handlers */
	iopf_test_respond(kept);
	KUNIT_EXPECT_EQ(test, mock.answers, 2);
	KUNIT_EXPECT_EQ(test, mock.answer, IOMMU_PAGE_RESP_SUCCESS);

	ioasid_detach_device(iopf.a, &mock_domain, iopf.dev);
	ioasid_detach_device(iopf.b, &mock_domain, iopf.dev);
	ioasid_free(iopf.b);
	iopf_test_exit(&iopf);
}

static void drained_requests_are_answered_once(struct kunit *test)
{
	const u32 last = IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
	struct iommu_fault_param *param;
	struct iopf_fixture iopf;
	struct iopf_group *kept;

	iopf_test_init(test, &iopf);
	param = rcu_dereference_protected(iopf.dev->iommu->fault_param, true);
	mock.keep = true;
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 9, last), 0);
	kept = mock.kept;
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 10, last), 0);
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 9, 0), 0);
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 10, 0), 0);
	iopf_queue_abort(iopf.dev, 9);
	KUNIT_EXPECT_EQ(test, mock.answers, 1);
	/* The device retries if it still needs the translation */
	KUNIT_EXPECT_EQ(test, mock.answer, IOMMU_PAGE_RESP_SUCCESS);
	KUNIT_EXPECT_EQ(test, list_count_nodes(&param->partial), 1);
	iopf_queue_abort(iopf.dev, 9);
	KUNIT_EXPECT_EQ(test, mock.answers, 1);
	/* For all PASIDs of the device, as after a reset */
	iopf_queue_abort(iopf.dev, IOMMU_PASID_INVALID);
	KUNIT_EXPECT_EQ(test, mock.answers, 2);
	KUNIT_EXPECT_TRUE(test, list_empty(&param->partial));
	iopf_test_respond(kept);
	iopf_test_respond(mock.kept);
	KUNIT_EXPECT_EQ(test, mock.answers, 2);
	KUNIT_EXPECT_TRUE(test, list_empty(&param->faults));

	ioasid_detach_device(iopf.a, &mock_domain, iopf.dev);
	ioasid_detach_device(iopf.b, &mock_domain, iopf.dev);
	ioasid_free(iopf.a);
	ioasid_free(iopf.b);
	iopf_test_exit(&iopf);
}

/* The group belongs to its handler, everything else is freed */
static void fault_queue_may_go_before_its_handlers(struct kunit *test)
{
	const u32 last = IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
	struct iommu_fault_param *param;
	struct iopf_fixture iopf;

	iopf_test_init(test, &iopf);
	param = rcu_dereference_protected(iopf.dev->iommu->fault_param, true);
	mock.keep = true;
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 9, last), 0);
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 9, 0), 0);
	iopf_queue_remove_device(iopf.queue, iopf.dev);
	KUNIT_EXPECT_EQ(test, mock.answers, 1);
	KUNIT_EXPECT_EQ(test, mock.answer, IOMMU_PAGE_RESP_INVALID);
	/* The group keeps the fault parameters alive */
	KUNIT_EXPECT_TRUE(test, list_empty(&param->partial));
	KUNIT_EXPECT_EQ(test, list_count_nodes(&param->faults), 1);
	iopf_queue_abort(iopf.dev, 9);
	iopf_test_respond(mock.kept);
	KUNIT_EXPECT_EQ(test, mock.answers, 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&iopf.handle[0].groups), 0);

	ioasid_detach_device(iopf.a, &mock_domain, iopf.dev);
	ioasid_detach_device(iopf.b, &mock_domain, iopf.dev);
	ioasid_free(iopf.a);
	ioasid_free(iopf.b);
	iopf_test_exit(&iopf);
}

/* Waiters must not hold locks that page faults take, as handlers need them */
static void wait_for_handlers_is_known_to_lockdep(struct kunit *test)
{
	static DEFINE_MUTEX(lock);
	struct ioasid_fixture *fix = test->priv;
	struct iommu_attach_handle handle = {};

	if (!lockdep_test_works())
		kunit_skip(test, "needs CONFIG_PROVE_LOCKING");
	KUNIT_ASSERT_EQ(test, iommu_attach_device_pasid(&mock_domain,
							fix->dev[0], 9,
							&handle), 0);
	mutex_lock(&lock);
	iommu_detach_device_pasid(&mock_domain, fix->dev[0], 9);
	mutex_unlock(&lock);
	KUNIT_EXPECT_TRUE(test, lockdep_test_waited(&lock, "iopf_handler"));
}

/* Parked or not: the domain is about to be freed */
static void detach_waits_for_its_handlers_only(struct kunit *test)
{
	const u32 last = IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
	struct side_work detach, owner, own;
	struct iopf_fixture iopf;
	unsigned int parked;

	for (parked = 0; parked < 2; parked++) {
		iopf_test_init(test, &iopf);
		mock.keep = true;
		KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 9, last), 0);
		if (parked)
			ioasid_free(iopf.a);
		side_start(&detach, detach_fn, iopf.a, iopf.dev);
		KUNIT_EXPECT_FALSE(test, wait_for_completion_timeout(&detach.done,
								     HZ / 5));
		/* No lock is held that others need for this device */
		side_start(&owner, free_fn, iopf.b, NULL);
		KUNIT_EXPECT_TRUE(test, wait_for_completion_timeout(&owner.done,
								    5 * HZ));
		KUNIT_EXPECT_EQ(test, mock_entry(iopf.dev, 10), MOCK_PARKED);
		/* Nor one that its own owner needs */
		if (!parked) {
			side_start(&own, free_fn, iopf.a, NULL);
			KUNIT_EXPECT_TRUE(test,
					  wait_for_completion_timeout(&own.done,
								      5 * HZ));
		}
		KUNIT_EXPECT_FALSE(test, completion_done(&detach.done));
		iopf_test_respond(mock.kept);
		side_finish(&owner);
		side_finish(&detach);
		if (!parked)
			side_finish(&own);
		ioasid_detach_device(iopf.b, &mock_domain, iopf.dev);
		iopf_test_exit(&iopf);
		ioasid_recycle_flush();
	}
}

/* Handlers of the old domain. The new one is parked meanwhile. */
static void replace_waits_for_its_handlers_only(struct kunit *test)
{
	const u32 last = IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
	struct side_work replace, own;
	struct iopf_fixture iopf;
	bool done;

	iopf_test_init(test, &iopf);
	mock.keep = true;
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 9, last), 0);
	side_start(&replace, replace_fn, iopf.a, iopf.dev);
	done = wait_for_completion_timeout(&replace.done, A_WHILE);
	side_start(&own, free_fn, iopf.a, NULL);
	KUNIT_EXPECT_TRUE(test, wait_for_completion_timeout(&own.done, 5 * HZ));
	KUNIT_EXPECT_EQ(test, mock_entry(iopf.dev, 9), MOCK_PARKED);
	iopf_test_respond(mock.kept);
	side_finish(&own);
	side_finish(&replace);

	ioasid_detach_device(iopf.a, replace.ret ? &mock_domain :
						   &mock_other_domain,
			     iopf.dev);
	ioasid_detach_device(iopf.b, &mock_domain, iopf.dev);
	ioasid_free(iopf.b);
	iopf_test_exit(&iopf);
	if (replace.ret == -EOPNOTSUPP)
		kunit_skip(test, "the IOMMU core cannot replace domains");
	KUNIT_EXPECT_EQ(test, replace.ret, 0);
	KUNIT_EXPECT_FALSE(test, done);
}

/* Same for a PASID without an IOASID */
static void detach_of_a_number_waits_for_its_handlers(struct kunit *test)
{
	const u32 last = IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
	struct iommu_attach_handle handle = {};
	struct iopf_fixture iopf;
	struct side_work detach;

	iopf_test_init(test, &iopf);
	KUNIT_ASSERT_EQ(test, iommu_attach_device_pasid(&mock_domain, iopf.dev,
							11, &handle), 0);
	mock.keep = true;
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 11, last), 0);
	side_start(&detach, detach_number_fn, NULL, iopf.dev);
	KUNIT_EXPECT_FALSE(test, wait_for_completion_timeout(&detach.done,
							     A_WHILE));
	iopf_test_respond(mock.kept);
	side_finish(&detach);

	ioasid_detach_device(iopf.a, &mock_domain, iopf.dev);
	ioasid_detach_device(iopf.b, &mock_domain, iopf.dev);
	ioasid_free(iopf.a);
	ioasid_free(iopf.b);
	iopf_test_exit(&iopf);
}

/* User space has dequeued the requests, and may never respond */
static void detach_does_not_wait_for_what_was_dequeued(struct kunit *test)
{
	const u32 last = IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
	struct iopf_fixture iopf;
	struct side_work detach;

	iopf_test_init(test, &iopf);
	mock.keep = true;
	KUNIT_EXPECT_EQ(test, mock_page_request(iopf.dev, 9, last), 0);
	iopf_group_dequeue(mock.kept);
	side_start(&detach, detach_fn, iopf.a, iopf.dev);
	KUNIT_EXPECT_TRUE(test, wait_for_completion_timeout(&detach.done,
							    5 * HZ));
	KUNIT_EXPECT_EQ(test, mock.answers, 0);
	iopf_test_respond(mock.kept);
	KUNIT_EXPECT_EQ(test, mock.answers, 1);
	side_finish(&detach);

	ioasid_detach_device(iopf.b, &mock_domain, iopf.dev);
	ioasid_free(iopf.a);
	ioasid_free(iopf.b);
	iopf_test_exit(&iopf);
}

static int attach_number(struct device *dev, u32 pasid)
{
	return iommu_attach_device_pasid(&mock_domain, dev, pasid, NULL);
}

static void mock_remove_hooks(void)
{
	mock_ops.park_dev_pasid = NULL;
	mock_ops.park_sync = NULL;
	mock_ops.unpark_dev_pasid = NULL;
	mock_ops.unpark_sync = NULL;
}

/* Without the park hooks, the PASID is blocked by removing it, just once */
static void driver_without_hooks_blocks_by_removal(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct iommu_attach_handle handle = {}, *old;
	struct iommu_ops saved = mock_ops;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	mock_remove_hooks();
	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), 0);
	/* The PASID still cannot be attached to the device */
	KUNIT_EXPECT_EQ(test, iommu_attach_device_pasid(&mock_domain,
							fix->dev[0], 9, NULL),
			-ESHUTDOWN);
	KUNIT_EXPECT_NE(test, iommu_switch_device_pasid(&mock_other_domain,
							fix->dev[0], 9, &handle,
							&old), 0);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	KUNIT_EXPECT_STREQ(test, mock.log, "SR");

	/* The driver has no state left: the core rejects it until recycle */
	KUNIT_EXPECT_EQ(test, iommu_attach_device_pasid(&mock_domain,
							fix->dev[0], 9, NULL),
			-ESHUTDOWN);
	KUNIT_EXPECT_STREQ(test, mock.log, "SR");
	ioasid_put(a);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, iommu_attach_device_pasid(&mock_domain,
							fix->dev[0], 9, NULL),
			0);
	iommu_detach_device_pasid(&mock_domain, fix->dev[0], 9);
	mock_ops = saved;
}

/* Invariant final, in each group: attaching by number is rejected */
static void refuse_until_recycle(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct iommu_attach_handle handle = {}, *old;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);
	unsigned int i;

	ioasid_get(a);
	for (i = 0; i < MOCK_DEVICES; i++)
		ioasid_test_attach(test, a, fix->dev[i]);
	KUNIT_EXPECT_EQ(test, attach_number(fix->dev[0], 9), -EBUSY);
	ioasid_free(a);
	for (i = 0; i < MOCK_DEVICES; i++)
		KUNIT_EXPECT_EQ(test, attach_number(fix->dev[i], 9),
				-ESHUTDOWN);
	for (i = 0; i < MOCK_DEVICES; i++) {
		ioasid_detach_device(a, &mock_domain, fix->dev[i]);
		KUNIT_EXPECT_EQ(test, attach_number(fix->dev[i], 9),
				-ESHUTDOWN);
		/* A failing replace does not change that */
		KUNIT_EXPECT_NE(test,
				iommu_switch_device_pasid(&mock_other_domain,
							  fix->dev[i], 9,
							  &handle, &old), 0);
		KUNIT_EXPECT_EQ(test, attach_number(fix->dev[i], 9),
				-ESHUTDOWN);
	}
	ioasid_put(a);
	ioasid_recycle_flush();
	for (i = 0; i < MOCK_DEVICES; i++) {
		KUNIT_EXPECT_EQ(test, attach_number(fix->dev[i], 9), 0);
		iommu_detach_device_pasid(&mock_domain, fix->dev[i], 9);
	}
}

static void parked_number_is_refused_until_recycle(struct kunit *test)
{
	refuse_until_recycle(test);
}

static void parked_number_is_refused_without_hooks(struct kunit *test)
{
	struct iommu_ops saved = mock_ops;

	mock_remove_hooks();
	refuse_until_recycle(test);
	mock_ops = saved;
}

/* A PASID that is private to another device is not affected */
static void parked_number_is_refused_only_where_it_was_attached(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test, attach_number(fix->dev[0], 9), -ESHUTDOWN);
	KUNIT_EXPECT_EQ(test, attach_number(fix->dev[0], 8), 0);
	iommu_detach_device_pasid(&mock_domain, fix->dev[0], 8);
	KUNIT_EXPECT_EQ(test, attach_number(fix->dev[1], 9), 0);
	iommu_detach_device_pasid(&mock_domain, fix->dev[1], 9);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	ioasid_put(a);
}

/* Check what the driver core and VFIO need of a group that is not claimed */
static void expect_group_is_free(struct kunit *test, struct device *dev)
{
	struct iommu_group *group = dev->iommu_group;

	/* Drivers of two devices of the group bind and unbind */
	KUNIT_EXPECT_EQ(test, iommu_device_use_default_domain(dev), 0);
	KUNIT_EXPECT_EQ(test, iommu_device_use_default_domain(dev), 0);
	iommu_device_unuse_default_domain(dev);
	iommu_device_unuse_default_domain(dev);
	KUNIT_EXPECT_FALSE(test, iommu_group_dma_owner_claimed(group));

	KUNIT_EXPECT_EQ(test, iommu_device_claim_dma_owner(dev, test), 0);
	iommu_device_release_dma_owner(dev);
	KUNIT_EXPECT_FALSE(test, iommu_group_dma_owner_claimed(group));

	KUNIT_EXPECT_EQ(test, iommu_group_claim_dma_owner(group, test), 0);
	iommu_group_release_dma_owner(group);
	KUNIT_EXPECT_FALSE(test, iommu_group_dma_owner_claimed(group));
}

/* A detached parked PASID only leaves its mark behind */
static void bind_beside_parked_numbers(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct device *dev = fix->dev[0];
	struct ioasid *ioasids[2];
	unsigned int i;

	KUNIT_ASSERT_EQ(test, iommu_device_use_default_domain(dev), 0);
	for (i = 0; i < 2; i++) {
		ioasids[i] = ioasid_test_alloc(test, 8 + i, 8 + i);
		ioasid_get(ioasids[i]);
		ioasid_test_attach(test, ioasids[i], dev);
	}
	for (i = 0; i < 2; i++)
		ioasid_free(ioasids[i]);
	KUNIT_EXPECT_EQ(test, iommu_device_use_default_domain(dev), -EBUSY);
	ioasid_detach_device(ioasids[0], &mock_domain, dev);
	KUNIT_EXPECT_EQ(test, iommu_device_use_default_domain(dev), -EBUSY);
	ioasid_detach_device(ioasids[1], &mock_domain, dev);
	iommu_device_unuse_default_domain(dev);
	expect_group_is_free(test, dev);

	for (i = 0; i < 2; i++)
		ioasid_put(ioasids[i]);
	ioasid_recycle_flush();
	expect_group_is_free(test, dev);
}

static void parked_number_hinders_no_driver(struct kunit *test)
{
	bind_beside_parked_numbers(test);
}

static void parked_number_hinders_no_driver_without_hooks(struct kunit *test)
{
	struct iommu_ops saved = mock_ops;

	mock_remove_hooks();
	bind_beside_parked_numbers(test);
	mock_ops = saved;
}

/* The new DMA owner can use all PASIDs except for parked ones */
static void parked_number_is_not_the_new_owners(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct device *dev = fix->dev[0];
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, dev);
	KUNIT_EXPECT_EQ(test, iommu_device_claim_dma_owner(dev, test), -EBUSY);
	ioasid_free(a);
	KUNIT_EXPECT_EQ(test, iommu_device_claim_dma_owner(dev, test), -EBUSY);
	ioasid_detach_device(a, &mock_domain, dev);
	KUNIT_ASSERT_EQ(test, iommu_device_claim_dma_owner(dev, test), 0);
	KUNIT_EXPECT_EQ(test, attach_number(dev, 9), -ESHUTDOWN);
	KUNIT_EXPECT_EQ(test, attach_number(dev, 8), 0);
	iommu_detach_device_pasid(&mock_domain, dev, 8);
	ioasid_put(a);
	ioasid_recycle_flush();
	KUNIT_EXPECT_EQ(test, attach_number(dev, 9), 0);
	iommu_detach_device_pasid(&mock_domain, dev, 9);
	iommu_device_release_dma_owner(dev);
	KUNIT_EXPECT_FALSE(test, iommu_group_dma_owner_claimed(dev->iommu_group));
}

static void device_may_go_before_recycle(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a = ioasid_test_alloc(test, 9, 9);

	ioasid_get(a);
	ioasid_test_attach(test, a, fix->dev[0]);
	ioasid_free(a);
	ioasid_detach_device(a, &mock_domain, fix->dev[0]);
	mock_device_remove(fix->dev[0]);
	fix->dev[0] = NULL;
	ioasid_put(a);
	ioasid_recycle_flush();
	/* The table is gone with the device, so there is nothing to unpark */
	KUNIT_EXPECT_STREQ(test, mock.log, "SPYR");
	ioasid_free(ioasid_test_alloc(test, 9, 9));
}

/* Races */

struct churn {
	struct task_struct *task;
	struct completion done;
	struct ioasid_set *set;
	struct device *dev;
	atomic_t *taken;	/* one for each PASID of the range */
	unsigned int rounds;
	unsigned int failed;
};

#define CHURN_RANGE	16
#define CHURN_ROUNDS	500

static int churn_fn(void *data)
{
	struct churn *c = data;
	struct ioasid *a, *b;
	unsigned int i;

	for (i = 0; i < CHURN_ROUNDS; i++) {
		a = ioasid_alloc(c->set, 1, CHURN_RANGE);
		if (IS_ERR(a)) {
			/* All are held by the other threads */
			if (PTR_ERR(a) != -ENOSPC)
				c->failed++;
			continue;
		}
		if (atomic_inc_return(&c->taken[ioasid_id(a)]) != 1)
			c->failed++;
		ioasid_get(a);
		if (ioasid_attach_device(a, &mock_domain, c->dev, NULL))
			c->failed++;
		/* Held by another thread, or by this one */
		b = ioasid_account_find_get(&c->set->kernel,
					    1 + i % CHURN_RANGE);
		if (!IS_ERR(b)) {
			if (ioasid_id(b) != 1 + i % CHURN_RANGE)
				c->failed++;
			ioasid_put(b);
		}
		ioasid_free(a);
		if (mock_entry(c->dev, ioasid_id(a)) != MOCK_PARKED)
			c->failed++;
		ioasid_detach_device(a, &mock_domain, c->dev);
		atomic_dec(&c->taken[ioasid_id(a)]);
		ioasid_put(a);
		c->rounds++;
	}
	complete(&c->done);
	return 0;
}

static void threads_never_share_a_number(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct churn churn[4] = {};
	unsigned int i;
	atomic_t *taken;

	taken = kunit_kcalloc(test, CHURN_RANGE + 1, sizeof(*taken),
			      GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, taken);
	for (i = 0; i < ARRAY_SIZE(churn); i++) {
		churn[i].set = fix->set;
		churn[i].dev = fix->dev[i % 2];
		churn[i].taken = taken;
		init_completion(&churn[i].done);
		churn[i].task = kthread_create(churn_fn, &churn[i],
					       "ioasid-churn%u", i);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, churn[i].task);
		get_task_struct(churn[i].task);
	}
	for (i = 0; i < ARRAY_SIZE(churn); i++)
		wake_up_process(churn[i].task);
	for (i = 0; i < ARRAY_SIZE(churn); i++) {
		wait_for_completion(&churn[i].done);
		KUNIT_EXPECT_EQ(test, kthread_stop_put(churn[i].task), 0);
		KUNIT_EXPECT_GT(test, churn[i].rounds, 0);
		KUNIT_EXPECT_EQ(test, churn[i].failed, 0);
	}
}

/* Attach races with park: it may be refused or blocked, but never stay open */
static void attach_race_never_leaves_an_open_entry(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *a;
	struct side_work attach;
	unsigned int i;

	for (i = 0; i < 300; i++) {
		a = ioasid_test_alloc(test, 9, 9);
		ioasid_get(a);
		side_start(&attach, attach_fn, a, fix->dev[0]);
		/* From before the worker wakes up until after it is done */
		udelay(i);
		ioasid_free(a);
		side_finish(&attach);
		if (attach.ret) {
			KUNIT_EXPECT_EQ(test, attach.ret, -ESHUTDOWN);
			KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9), 0);
		} else {
			KUNIT_EXPECT_EQ(test, mock_entry(fix->dev[0], 9),
					MOCK_PARKED);
			ioasid_detach_device(a, &mock_domain, fix->dev[0]);
		}
		ioasid_put(a);
	}
}

/* Users, SVA and kernel drivers share one PASID space */
static void kernel_numbers_are_of_the_same_space(struct kunit *test)
{
	struct ioasid_fixture *fix = test->priv;
	struct ioasid *user[4];
	u32 kernel[4];
	unsigned int i, j;

	for (i = 0; i < 4; i++) {
		kernel[i] = iommu_alloc_global_pasid(fix->dev[0]);
		KUNIT_ASSERT_NE(test, kernel[i], IOMMU_PASID_INVALID);
		user[i] = ioasid_test_alloc(test, IOASID_MIN, IOASID_MAX);
		for (j = 0; j <= i; j++)
			KUNIT_EXPECT_NE(test, kernel[j], ioasid_id(user[i]));
	}
	/* A user cannot get it, even if requested */
	KUNIT_EXPECT_EQ(test, PTR_ERR(ioasid_alloc(fix->set, kernel[0],
						   kernel[0])), -ENOSPC);
	KUNIT_EXPECT_NULL(test, ioasid_lookup(kernel[0]));
	/* Only the IOASIDs of the user count in the set */
	KUNIT_EXPECT_EQ(test, fix->set->kernel.used, 4);
	for (i = 0; i < 4; i++) {
		iommu_free_global_pasid(kernel[i]);
		ioasid_free(user[i]);
	}
	ioasid_free(ioasid_test_alloc(test, kernel[0], kernel[0]));
}

static struct kunit_case ioasid_cases[] = {
	KUNIT_CASE(alloc_takes_a_number_of_the_range),
	KUNIT_CASE(bad_range_is_einval),
	KUNIT_CASE(first_and_last_number_can_be_had),
	KUNIT_CASE(full_range_is_enospc),
	KUNIT_CASE(number_is_not_reused_while_referenced),
	KUNIT_CASE(full_range_waits_for_recycle),
	KUNIT_CASE(full_quota_waits_for_recycle),
	KUNIT_CASE(wait_for_the_worker_is_known_to_lockdep),
	KUNIT_CASE(one_set_for_one_mm),
	KUNIT_CASE(set_does_not_pin_the_mm),
	KUNIT_CASE(set_stays_until_its_last_ioasid_is_recycled),
	KUNIT_CASE(new_mm_has_no_set),
	KUNIT_CASE(quota_is_a_limit),
	KUNIT_CASE(charge_does_not_wrap),
	KUNIT_CASE(user_has_a_limit_over_all_files),
	KUNIT_CASE(last_numbers_are_for_the_kernel),
	KUNIT_CASE(low_numbers_are_for_the_kernel),
	KUNIT_CASE(any_number_is_one_that_few_devices_need),
	KUNIT_CASE(any_number_may_be_a_low_one),
	KUNIT_CASE(parked_counts_against_quota),
	KUNIT_CASE(lookup_finds_only_its_own_set),
	KUNIT_CASE(lookup_finds_only_its_own_file),
	KUNIT_CASE(account_knows_its_ioasids_in_order),
	KUNIT_CASE(reserved_number_is_taken_but_not_found),
	KUNIT_CASE(batch_gets_all_numbers_or_none),
	KUNIT_CASE(one_of_those_who_compete_gets_all),
	KUNIT_CASE(recycle_of_many_uncharges_each_set),
	KUNIT_CASE(put_while_attached_blocks),
	KUNIT_CASE(put_after_detach_is_no_reason_to_block),
	KUNIT_CASE(put_while_attached_and_parked_keeps_the_number),
	KUNIT_CASE(owner_recycles_what_nobody_else_holds),
	KUNIT_CASE(parked_gives_out_no_reference),
	KUNIT_CASE(holder_may_use_a_parked_object),
	KUNIT_CASE(free_without_users_recycles),
	KUNIT_CASE(users_are_counted_by_kind),
	KUNIT_CASE(stack_of_each_user_is_remembered),
	KUNIT_CASE(cgroup_is_charged_until_recycle),
	KUNIT_CASE(kernel_gets_no_number_that_is_taken),
	KUNIT_CASE(last_put_works_in_any_context),
	KUNIT_CASE(attach_sets_and_detach_removes),
	KUNIT_CASE(second_attach_to_a_device_is_ebusy),
	KUNIT_CASE(free_blocks_every_attachment),
	KUNIT_CASE(parked_entry_stays_until_recycle),
	KUNIT_CASE(parked_takes_no_attachment),
	KUNIT_CASE(failed_attach_leaves_nothing),
	KUNIT_CASE(detach_waits_for_a_park_under_way),
	KUNIT_CASE(reset_waits_for_the_flush_of_a_park),
	KUNIT_CASE(reset_waits_for_no_other_device),
	KUNIT_CASE(free_waits_for_an_attach_under_way),
	KUNIT_CASE(slow_attach_delays_no_other_park),
	KUNIT_CASE(busy_one_waits_for_no_other),
	KUNIT_CASE(busy_group_delays_no_other_park),
	KUNIT_CASE(busy_group_delays_no_flush),
	KUNIT_CASE(busy_group_delays_no_other_recycle),
	KUNIT_CASE(kernel_does_not_wait_for_a_busy_group),
	KUNIT_CASE(wait_for_the_worker_is_killable),
	KUNIT_CASE(park_holds_no_lock_of_others),
	KUNIT_CASE(many_share_a_flush),
	KUNIT_CASE(group_of_two_is_flushed_under_its_mutex),
	KUNIT_CASE(replaced_domain_is_parked_like_the_first),
	KUNIT_CASE(page_request_of_a_parked_pasid_reaches_nobody),
	KUNIT_CASE(park_answers_for_a_handler_that_is_stuck),
	KUNIT_CASE(drained_requests_are_answered_once),
	KUNIT_CASE(fault_queue_may_go_before_its_handlers),
	KUNIT_CASE(wait_for_handlers_is_known_to_lockdep),
	KUNIT_CASE(detach_waits_for_its_handlers_only),
	KUNIT_CASE(replace_waits_for_its_handlers_only),
	KUNIT_CASE(detach_of_a_number_waits_for_its_handlers),
	KUNIT_CASE(detach_does_not_wait_for_what_was_dequeued),
	KUNIT_CASE(driver_without_hooks_blocks_by_removal),
	KUNIT_CASE(parked_number_is_refused_until_recycle),
	KUNIT_CASE(parked_number_is_refused_without_hooks),
	KUNIT_CASE(parked_number_is_refused_only_where_it_was_attached),
	KUNIT_CASE(parked_number_hinders_no_driver),
	KUNIT_CASE(parked_number_hinders_no_driver_without_hooks),
	KUNIT_CASE(parked_number_is_not_the_new_owners),
	KUNIT_CASE(device_may_go_before_recycle),
	KUNIT_CASE(kernel_numbers_are_of_the_same_space),
	KUNIT_CASE_SLOW(threads_never_share_a_number),
	KUNIT_CASE_SLOW(attach_race_never_leaves_an_open_entry),
	{}
};

static struct kunit_suite ioasid_suite = {
	.name = "ioasid",
	.suite_init = ioasid_suite_init,
	.suite_exit = ioasid_suite_exit,
	.init = ioasid_test_init,
	.exit = ioasid_test_exit,
	.test_cases = ioasid_cases,
};

kunit_test_suite(ioasid_suite);

MODULE_DESCRIPTION("KUnit tests of the IOASID core");
MODULE_LICENSE("GPL");

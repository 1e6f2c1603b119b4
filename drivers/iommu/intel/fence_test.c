// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the fence of functions, part of fence.c
 *
 * Root and context tables are real memory. The functions and the IOMMU are mocks:
 * what makes a fence effective is written down instead of carried out.
 */
#include <kunit/test.h>
#include <linux/slab.h>

#define FENCE_BUS	3
#define FENCE_ATS_CAP	0x100
#define FENCE_SID(nr)	PCI_DEVID(FENCE_BUS, PCI_DEVFN(2, nr))
/* A context entry that is present, and what the fence makes of it */
#define FENCE_ENTRY	(0x123456789000ULL | BIT_ULL(4) | BIT_ULL(2) | 1)
#define FENCE_BLOCKED	(0x123456789000ULL | BIT_ULL(4) | BIT_ULL(2) | 2)

struct fence_fixture {
	struct intel_iommu iommu;
	struct q_inval qi;
	struct root_entry root[256];
	struct pci_bus bus;
	struct pci_ops bus_ops;
	u16 gone;		/* the function that is, or 0 */
	u16 in_reset;		/* the function whose ATS is off, or 0 */
	struct {
		struct pci_dev pdev;
		struct dev_iommu dev_iommu;
		struct device_domain_info info;
	} function[2];
	struct context_entry *contexts;

	/* What happened */
	struct qi_desc flush[16];
	u64 entry[16];		/* of the first function, at that time */
	unsigned int flushes;
	bool lift;		/* the first function is reset meanwhile */
	unsigned int lost;	/* so many of the flushes have to be repeated */
};

static struct context_entry *fence_entry(struct fence_fixture *fix,
					 unsigned int nr)
{
	/* Scalable mode: an entry takes the place of two, half a bus a table */
	return &fix->contexts[2 * PCI_DEVFN(2, nr)];
}

static int fence_submit_stub(struct intel_iommu *iommu, struct qi_desc *desc)
{
	struct fence_fixture *fix = kunit_get_current_test()->priv;

	if (fix->flushes < ARRAY_SIZE(fix->flush)) {
		fix->flush[fix->flushes] = *desc;
		fix->entry[fix->flushes] = fence_entry(fix, 0)->lo;
	}
	fix->flushes++;
	if (fix->lift) {
		fix->lift = false;
		intel_fence_lift(&fix->function[0].pdev.dev);
	}
	if (fix->lost) {
		fix->lost--;
		return -EAGAIN;
	}
	return 0;
}

static int fence_bus_read(struct pci_bus *bus, unsigned int devfn, int where,
			  int size, u32 *val)
{
	struct fence_fixture *fix = container_of(bus, struct fence_fixture, bus);

	u16 sid = PCI_DEVID(bus->number, devfn);

	*val = 0x12348086;
	if (where == FENCE_ATS_CAP + PCI_ATS_CTRL)
		*val = sid == fix->in_reset ? 0 : PCI_ATS_CTRL_ENABLE;
	if (sid == fix->gone)
		*val = ~0;
	return PCIBIOS_SUCCESSFUL;
}

static bool fence_rid_less(struct rb_node *a, const struct rb_node *b)
{
	return rb_entry(a, struct device_domain_info, node)->devfn <
	       rb_entry(b, struct device_domain_info, node)->devfn;
}

static int fence_test_init(struct kunit *test)
{
	struct fence_fixture *fix;
	unsigned int nr;

	fix = kunit_kzalloc(test, sizeof(*fix), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix);
	test->priv = fix;
	fix->contexts = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix->contexts);

	spin_lock_init(&fix->iommu.lock);
	raw_spin_lock_init(&fix->iommu.device_rbtree_lock);
	fix->iommu.qi = &fix->qi;
	fix->iommu.root_entry = fix->root;
	fix->root[FENCE_BUS].lo = virt_to_phys(fix->contexts) | 1;
	/* Coherent, scalable mode if the kernel uses it */
	fix->iommu.ecap = BIT_ULL(0) | BIT_ULL(43) | BIT_ULL(46);
	/* Drains reads and writes */
	fix->iommu.cap = BIT_ULL(54) | BIT_ULL(55);
	if (!sm_supported(&fix->iommu))
		kunit_skip(test, "needs intel_iommu=sm_on");

	fix->bus.ops = &fix->bus_ops;
	fix->bus.number = FENCE_BUS;
	fix->bus_ops.read = fence_bus_read;
	for (nr = 0; nr < 2; nr++) {
		struct device_domain_info *info = &fix->function[nr].info;
		struct pci_dev *pdev = &fix->function[nr].pdev;

		pdev->bus = &fix->bus;
		pdev->devfn = PCI_DEVFN(2, nr);
		pdev->ats_cap = FENCE_ATS_CAP;
		pdev->dev.bus = &pci_bus_type;
		pdev->dev.iommu = &fix->function[nr].dev_iommu;
		fix->function[nr].dev_iommu.priv = info;
		info->dev = &pdev->dev;
		info->iommu = &fix->iommu;
		info->bus = FENCE_BUS;
		info->devfn = pdev->devfn;
		rb_add(&info->node, &fix->iommu.device_rbtree, fence_rid_less);
		fence_entry(fix, nr)->lo = FENCE_ENTRY;
		fence_entry(fix, nr)->hi = 0x1234;
	}

	kunit_activate_static_stub(test, intel_fence_submit, fence_submit_stub);
	return 0;
}

/* A function lets an invalidation time out, long after the last time. */
static void fence_timeout(struct fence_fixture *fix, unsigned int nr)
{
	struct device_domain_info *info = &fix->function[nr].info;

	info->inv_timeout = ktime_sub_ns(info->inv_timeout,
					 2 * FENCE_STALL_NS);
	intel_fence_timeout(&fix->iommu, FENCE_SID(nr));
}

static struct qi_desc fence_devtlb(unsigned int nr)
{
	return (struct qi_desc){
		.qw0 = QI_DEV_EIOTLB_SID(FENCE_SID(nr)) | QI_DEIOTLB_TYPE,
		.qw1 = 0x1000,
	};
}

static bool fence_is_dropped(const struct qi_desc *desc)
{
	return desc->qw0 == QI_IWD_NOTHING && !desc->qw1;
}

/* Whether an invalidation of the device TLB would be sent. */
static bool fence_sends(struct fence_fixture *fix, unsigned int nr)
{
	struct qi_desc desc = fence_devtlb(nr);

	intel_fence_filter(&fix->iommu, &desc, 1, false);
	return !fence_is_dropped(&desc);
}

static void second_timeout_fences(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	unsigned int i;

	fence_timeout(fix, 0);
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->lo, FENCE_ENTRY);
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 0);

	fence_timeout(fix, 0);
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 1);
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 0));
	KUNIT_EXPECT_TRUE(test, fix->function[0].info.fenced);
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->lo, FENCE_BLOCKED);
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->hi, 0x1234);

	/* VT-d 6.5.3.3: all of it while the entry is blocked, in this order */
	KUNIT_ASSERT_EQ(test, fix->flushes, 3);
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_EQ(test, fix->entry[i], FENCE_BLOCKED);
	KUNIT_EXPECT_EQ(test, fix->flush[0].qw0, 1 << 4 | QI_CC_TYPE);
	KUNIT_EXPECT_EQ(test, fix->flush[1].qw0, 3 << 4 | QI_PC_TYPE);
	/* With reads and writes drained */
	KUNIT_EXPECT_EQ(test, fix->flush[2].qw0,
			1 << 7 | 1 << 6 | 1 << 4 | QI_IOTLB_TYPE);

	/* Nobody else is touched, and once is enough */
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 1));
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 1)->lo, FENCE_ENTRY);
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 0));
	KUNIT_EXPECT_EQ(test, fix->flushes, 3);
}

/* Those of a batch time out together */
static void timeouts_of_one_stall_count_once(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	unsigned int i;

	fence_timeout(fix, 0);
	for (i = 0; i < 20; i++)
		intel_fence_timeout(&fix->iommu, FENCE_SID(0));
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	fence_timeout(fix, 0);
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 0));
}

static void timeouts_of_others_do_not_count(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;

	fence_timeout(fix, 0);
	fence_timeout(fix, 1);
	/* Hardware does not know it, or it is nobody's */
	intel_fence_timeout(&fix->iommu, FENCE_SID(5));
	KUNIT_EXPECT_FALSE(test, fix->qi.is_unnamed);
	intel_fence_timeout(&fix->iommu, 0);
	KUNIT_EXPECT_TRUE(test, fix->qi.is_unnamed);
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 0);
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 1));
}

static void only_what_is_sent_to_the_function_is_dropped(struct kunit *test)
{
	struct qi_desc desc[] = {
		{ .qw0 = QI_PC_GRAN(QI_PC_GLOBAL) | QI_PC_TYPE },
		fence_devtlb(0),
		{ .qw0 = QI_DEV_IOTLB_SID(FENCE_SID(0)) | QI_DIOTLB_TYPE },
		{ .qw0 = QI_PGRP_DID((u64)FENCE_SID(0)) | QI_PGRP_RESP_TYPE },
		fence_devtlb(1),
		{ .qw0 = QI_DEV_IOTLB_SID(FENCE_SID(1)) | QI_DIOTLB_TYPE },
		{ .qw0 = QI_PGRP_DID((u64)FENCE_SID(1)) | QI_PGRP_RESP_TYPE },
		/* Source-id or not, this one has a domain ID in these bits */
		{ .qw0 = QI_EIOTLB_DID(FENCE_SID(0)) | QI_EIOTLB_TYPE },
	};
	struct fence_fixture *fix = test->priv;
	unsigned int i;

	intel_fence_function(&fix->iommu, FENCE_SID(0));
	intel_fence_filter(&fix->iommu, desc, ARRAY_SIZE(desc), false);
	for (i = 0; i < ARRAY_SIZE(desc); i++)
		KUNIT_EXPECT_EQ_MSG(test, fence_is_dropped(&desc[i]),
				    i >= 1 && i <= 3, "descriptor %u", i);
}

static void function_that_is_gone_is_not_fenced(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	struct qi_desc desc;

	fix->gone = FENCE_SID(0);
	fence_timeout(fix, 0);
	fence_timeout(fix, 0);
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 0);
	/* To find out takes time: only if there was a time-out */
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	desc = fence_devtlb(0);
	intel_fence_filter(&fix->iommu, &desc, 1, true);
	KUNIT_EXPECT_TRUE(test, fence_is_dropped(&desc));
	desc = fence_devtlb(1);
	intel_fence_filter(&fix->iommu, &desc, 1, true);
	KUNIT_EXPECT_FALSE(test, fence_is_dropped(&desc));
	KUNIT_EXPECT_EQ(test, fix->flushes, 0);
}

/* What is in its device TLB goes with the reset, and it answers after that */
static void function_in_reset_is_not_fenced(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	struct qi_desc desc[2] = { fence_devtlb(0), fence_devtlb(1) };

	fix->in_reset = FENCE_SID(0);
	fence_timeout(fix, 0);
	fence_timeout(fix, 0);
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 0);
	/* Not sent again, or that would go on as long as the reset */
	intel_fence_filter(&fix->iommu, desc, 2, true);
	KUNIT_EXPECT_TRUE(test, fence_is_dropped(&desc[0]));
	KUNIT_EXPECT_FALSE(test, fence_is_dropped(&desc[1]));

	fix->in_reset = 0;
	fence_timeout(fix, 0);
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	fence_timeout(fix, 0);
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 0));
}

static void reset_lifts_the_fence(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	struct device *dev = &fix->function[0].pdev.dev;

	intel_fence_function(&fix->iommu, FENCE_SID(0));
	intel_fence_function(&fix->iommu, FENCE_SID(1));
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 2);
	fix->flushes = 0;
	intel_fence_lift(dev);
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->lo, FENCE_ENTRY);
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 1);
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 1));
	/* What is not present is not cached */
	KUNIT_EXPECT_EQ(test, fix->flushes, 0);

	/* And it starts afresh: also with the count */
	fence_timeout(fix, 0);
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	intel_fence_lift(dev);
	fence_timeout(fix, 0);
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	fence_timeout(fix, 0);
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 0));
}

static void lift_flushes_in_caching_mode(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;

	fix->iommu.cap |= BIT_ULL(7);
	intel_fence_lift(&fix->function[0].pdev.dev);
	KUNIT_EXPECT_EQ(test, fix->flushes, 0);
	intel_fence_function(&fix->iommu, FENCE_SID(0));
	fix->flushes = 0;
	intel_fence_lift(&fix->function[0].pdev.dev);
	KUNIT_EXPECT_EQ(test, fix->flushes, 3);
	KUNIT_EXPECT_EQ(test, fix->entry[0], FENCE_ENTRY);
}

/* A context entry that is not in use stays as it is, fence or not */
static void absent_entry_is_left_alone(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;

	fence_entry(fix, 0)->lo = 0;
	intel_fence_function(&fix->iommu, FENCE_SID(0));
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->lo, 0);
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 0));
	intel_fence_lift(&fix->function[0].pdev.dev);
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->lo, 0);
}

static void flush_of_a_fence_is_not_lost(struct kunit *test)
{
	static const u8 types[] = {
		QI_CC_TYPE, QI_CC_TYPE, QI_CC_TYPE, QI_PC_TYPE, QI_IOTLB_TYPE,
	};
	struct fence_fixture *fix = test->priv;
	unsigned int i;

	fix->lost = 2;
	intel_fence_function(&fix->iommu, FENCE_SID(0));
	KUNIT_ASSERT_EQ(test, fix->flushes, ARRAY_SIZE(types));
	for (i = 0; i < fix->flushes; i++)
		KUNIT_EXPECT_EQ(test, fix->flush[i].qw0 & 0xf, types[i]);
}

static void function_may_be_reset_while_it_is_fenced(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;

	fix->lift = true;
	intel_fence_function(&fix->iommu, FENCE_SID(0));
	KUNIT_EXPECT_FALSE(test, fix->function[0].info.fenced);
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 0);
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->lo, FENCE_ENTRY);
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
}

static void function_that_leaves_is_forgotten(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	struct device_domain_info *info = &fix->function[0].info;

	intel_fence_function(&fix->iommu, FENCE_SID(0));
	scoped_guard(raw_spinlock_irqsave, &fix->iommu.device_rbtree_lock) {
		rb_erase(&info->node, &fix->iommu.device_rbtree);
		intel_fence_forget(info);
	}
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 0);
	/* Whoever still has something for it does not look for it for ever */
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
}

static struct kunit_case fence_cases[] = {
	KUNIT_CASE(second_timeout_fences),
	KUNIT_CASE(timeouts_of_one_stall_count_once),
	KUNIT_CASE(timeouts_of_others_do_not_count),
	KUNIT_CASE(only_what_is_sent_to_the_function_is_dropped),
	KUNIT_CASE(function_that_is_gone_is_not_fenced),
	KUNIT_CASE(function_in_reset_is_not_fenced),
	KUNIT_CASE(reset_lifts_the_fence),
	KUNIT_CASE(lift_flushes_in_caching_mode),
	KUNIT_CASE(absent_entry_is_left_alone),
	KUNIT_CASE(flush_of_a_fence_is_not_lost),
	KUNIT_CASE(function_may_be_reset_while_it_is_fenced),
	KUNIT_CASE(function_that_leaves_is_forgotten),
	{}
};

static struct kunit_suite fence_suite = {
	.name = "intel-fence",
	.init = fence_test_init,
	.test_cases = fence_cases,
};

kunit_test_suite(fence_suite);

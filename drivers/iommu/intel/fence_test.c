// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of fences, included by fence.c
 *
 * Root and context tables are real memory. The functions and the IOMMU are
 * mocks: the flushes of a fence are recorded, but not executed.
 *
 * The second suite tests the invalidation queue. Descriptors are submitted by
 * the real code. Mock hardware fetches from the queue whenever the submitter
 * polls. It runs in the thread of the test, so the timing is deterministic.
 */
#include <kunit/test.h>
#include <linux/slab.h>

#define FENCE_BUS	3
#define FENCE_ATS_CAP	0x100
#define FENCE_SID(nr)	PCI_DEVID(FENCE_BUS, PCI_DEVFN(2, nr))
/* A present context entry, and the same entry fenced */
#define FENCE_ENTRY	(0x123456789000ULL | BIT_ULL(4) | BIT_ULL(2) | 1)
#define FENCE_BLOCKED	(0x123456789000ULL | BIT_ULL(4) | BIT_ULL(2) | 2)

/* Descriptors of a test, numbered from 1 */
#define QUEUE_DESCS	20
/* Number of errors after which hardware gives up, so that tests terminate */
#define QUEUE_PATIENCE	10
/* Marks the fault status register as not written since */
#define QUEUE_NOT_WRITTEN	BIT(31)

struct queue_hw {
	unsigned int fault;	/* fault status register */
	unsigned int head;	/* next descriptor to fetch */
	unsigned int depth;	/* limit of pending invalidations */
	struct qi_desc pending[QUEUE_DESCS];
	unsigned int nr_pending;
	bool prefetch;		/* fetches the whole queue before a time-out */
	bool is_unnamed;	/* time-outs have no source-id */
	u16 mute;		/* function that does not answer, or 0 */
	unsigned int mute_for;	/* number of time-outs until it answers */
	unsigned int refused;	/* number of the rejected descriptor, or 0 */
	struct {		/* submitted first by somebody else */
		struct qi_desc desc[4];
		unsigned int count;
		int ret;
	} other;

	/* Results */
	unsigned int timeouts;
	unsigned int refusals;
	unsigned int done[QUEUE_DESCS + 1];	/* by number */
	unsigned int types[16];	/* by type, for those without a number */
};

struct fence_fixture {
	struct intel_iommu iommu;
	struct q_inval qi;
	struct root_entry root[256];
	struct pci_bus bus;
	struct pci_ops bus_ops;
	u16 gone;		/* function that is gone, or 0 */
	u16 in_reset;		/* function with ATS disabled, or 0 */
	struct {
		struct pci_dev pdev;
		struct dev_iommu dev_iommu;
		struct device_domain_info info;
	} function[2];
	struct context_entry *contexts;

	/* Results */
	struct qi_desc flush[16];
	u64 entry[16];		/* of the first function at each flush */
	unsigned int flushes;
	bool lift;		/* reset the first function meanwhile */
	bool mute_again;	/* it does not answer after the reset, either */
	unsigned int lost;	/* number of flushes that must be repeated */

	struct queue_hw hw;
};

static struct context_entry *fence_entry(struct fence_fixture *fix,
					 unsigned int nr)
{
	/* In scalable mode, an entry takes two slots and a table half a bus */
	return &fix->contexts[2 * PCI_DEVFN(2, nr)];
}

/* A function lets an invalidation time out, long after the previous one. */
static void fence_timeout(struct fence_fixture *fix, unsigned int nr)
{
	struct device_domain_info *info = &fix->function[nr].info;

	info->inv_timeout = ktime_sub_ns(info->inv_timeout,
					 2 * FENCE_STALL_NS);
	intel_fence_timeout(&fix->iommu, FENCE_SID(nr));
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
		if (fix->mute_again) {
			fence_timeout(fix, 0);
			fence_timeout(fix, 0);
		}
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
	/* Coherent; scalable mode if enabled in the kernel */
	fix->iommu.ecap = BIT_ULL(0) | BIT_ULL(43) | BIT_ULL(46);
	/* Supports draining of reads and writes */
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

/* Whether a device-TLB invalidation would be sent. */
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

	/* VT-d 6.5.3.3: all flushes with the entry blocked, in this order */
	KUNIT_ASSERT_EQ(test, fix->flushes, 3);
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_EQ(test, fix->entry[i], FENCE_BLOCKED);
	KUNIT_EXPECT_EQ(test, fix->flush[0].qw0, 1 << 4 | QI_CC_TYPE);
	KUNIT_EXPECT_EQ(test, fix->flush[1].qw0, 3 << 4 | QI_PC_TYPE);
	/* Reads and writes are drained */
	KUNIT_EXPECT_EQ(test, fix->flush[2].qw0,
			1 << 7 | 1 << 6 | 1 << 4 | QI_IOTLB_TYPE);

	/* Other functions are not affected, and there is no second fence */
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 1));
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 1)->lo, FENCE_ENTRY);
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 0));
	KUNIT_EXPECT_EQ(test, fix->flushes, 3);
}

/* Time-outs of a batch come together */
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
	/* The source-id is unknown, or that of no function */
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
		/* Not a source-id: these bits are the domain ID */
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
	/* Checking is slow, so only done after a time-out */
	KUNIT_EXPECT_TRUE(test, fence_sends(fix, 0));
	desc = fence_devtlb(0);
	intel_fence_filter(&fix->iommu, &desc, 1, true);
	KUNIT_EXPECT_TRUE(test, fence_is_dropped(&desc));
	desc = fence_devtlb(1);
	intel_fence_filter(&fix->iommu, &desc, 1, true);
	KUNIT_EXPECT_FALSE(test, fence_is_dropped(&desc));
	KUNIT_EXPECT_EQ(test, fix->flushes, 0);
}

/* The reset clears the device TLB, and the function answers afterwards */
static void function_in_reset_is_not_fenced(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	struct qi_desc desc[2] = { fence_devtlb(0), fence_devtlb(1) };

	fix->in_reset = FENCE_SID(0);
	fence_timeout(fix, 0);
	fence_timeout(fix, 0);
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 0);
	/* Not sent again, or this would repeat until the reset is over */
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
	/* Not-present entries are not cached */
	KUNIT_EXPECT_EQ(test, fix->flushes, 0);

	/* The time-out count starts afresh, too */
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

/* An unused context entry is not changed by fence or lift */
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

/* The function becomes mute again for another submitter during the fence */
static void function_that_is_mute_again_is_fenced_again(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	unsigned int i;

	fix->lift = true;
	fix->mute_again = true;
	intel_fence_function(&fix->iommu, FENCE_SID(0));
	KUNIT_EXPECT_TRUE(test, fix->function[0].info.fenced);
	KUNIT_EXPECT_FALSE(test, fence_sends(fix, 0));
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->lo, FENCE_BLOCKED);
	/* The function was let in again before the first flush was done */
	KUNIT_ASSERT_EQ(test, fix->flushes, 6);
	for (i = 3; i < 6; i++)
		KUNIT_EXPECT_EQ(test, fix->entry[i], FENCE_BLOCKED);
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
	/* Submitters do not look for the function forever */
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
	KUNIT_CASE(function_that_is_mute_again_is_fenced_again),
	KUNIT_CASE(function_that_leaves_is_forgotten),
	{}
};

static struct kunit_suite fence_suite = {
	.name = "intel_fence",
	.init = fence_test_init,
	.test_cases = fence_cases,
};

kunit_test_suite(fence_suite);

/* Invalidation queue */

static u32 *queue_reg(struct fence_fixture *fix, unsigned int offset)
{
	return (u32 __force *)(fix->iommu.reg + offset);
}

/* Device-TLB invalidation with number @nr */
static struct qi_desc queue_devtlb(unsigned int function, unsigned int nr)
{
	struct qi_desc desc = fence_devtlb(function);

	desc.qw1 = (u64)nr << 12;
	return desc;
}

/* An invalidation that no function has to answer */
static struct qi_desc queue_iotlb(unsigned int nr)
{
	return (struct qi_desc){
		.qw0 = QI_IOTLB_GRAN(2) | QI_IOTLB_TYPE,
		.qw1 = (u64)nr << 12,
	};
}

/* A function does not answer: everything fetched and not executed is lost. */
static void queue_hw_time_out(struct fence_fixture *fix)
{
	struct device_domain_info *info = &fix->function[0].info;
	struct queue_hw *hw = &fix->hw;

	hw->timeouts++;
	hw->fault |= DMA_FSTS_ITE;
	hw->nr_pending = 0;
	if (hw->prefetch)
		hw->head = *queue_reg(fix, DMAR_IQT_REG) >>
			   qi_shift(&fix->iommu);
	*queue_reg(fix, DMAR_IQER_REG + 4) = hw->is_unnamed ? 0 : hw->mute;
	/* Time-outs are a second apart, so each is a stall of its own */
	info->inv_timeout = ktime_sub_ns(info->inv_timeout,
					 2 * FENCE_STALL_NS);
}

/* Execute everything pending, unless a function does not answer. */
static bool queue_hw_complete(struct fence_fixture *fix)
{
	struct queue_hw *hw = &fix->hw;
	unsigned int i, nr;
	u16 sid;

	for (i = 0; i < hw->nr_pending && hw->timeouts < hw->mute_for; i++) {
		if (intel_fence_is_sent(&hw->pending[i], &sid) &&
		    sid == hw->mute) {
			queue_hw_time_out(fix);
			return false;
		}
	}
	for (i = 0; i < hw->nr_pending; i++) {
		nr = hw->pending[i].qw1 >> 12;
		if (nr)
			hw->done[nr]++;
		else
			hw->types[hw->pending[i].qw0 & 0xf]++;
	}
	hw->nr_pending = 0;
	return true;
}

/* Fetch a descriptor. Returns whether hardware can continue. */
static bool queue_hw_fetch(struct fence_fixture *fix)
{
	unsigned int shift = qi_shift(&fix->iommu);
	struct queue_hw *hw = &fix->hw;
	const struct qi_desc *desc;

	if (hw->nr_pending == hw->depth && !queue_hw_complete(fix))
		return false;
	if (hw->head == *queue_reg(fix, DMAR_IQT_REG) >> shift)
		return false;
	desc = fix->qi.desc + (hw->head << shift);
	if ((desc->qw0 & 0xf) != QI_IWD_TYPE) {
		if (hw->refused && desc->qw1 >> 12 == hw->refused &&
		    hw->refusals < QUEUE_PATIENCE) {
			hw->refusals++;
			hw->fault |= DMA_FSTS_IQE;
			return false;
		}
		hw->pending[hw->nr_pending++] = *desc;
		hw->head = (hw->head + 1) % QI_LENGTH;
		return true;
	}
	hw->head = (hw->head + 1) % QI_LENGTH;
	if (!queue_hw_complete(fix))
		return false;
	if (desc->qw0 & QI_IWD_STATUS_WRITE)
		*(u32 *)phys_to_virt(desc->qw1) = desc->qw0 >> 32;
	return true;
}

/* Replaces qi_relax(): what hardware does between two polls of the queue. */
static void queue_hw_step(struct intel_iommu *iommu)
{
	struct fence_fixture *fix = kunit_get_current_test()->priv;
	u32 *status = queue_reg(fix, DMAR_FSTS_REG);
	unsigned int count = fix->hw.other.count;
	struct queue_hw *hw = &fix->hw;

	if (count) {
		/* Fill the queue before hardware fetches anything */
		hw->other.count = 0;
		hw->other.ret = qi_submit_sync(iommu, hw->other.desc, count, 0);
		return;
	}
	/* Bits are cleared by writing 1 */
	if (!(*status & QUEUE_NOT_WRITTEN))
		hw->fault &= ~*status;
	while (!hw->fault && queue_hw_fetch(fix))
		;
	*status = hw->fault | QUEUE_NOT_WRITTEN;
	*queue_reg(fix, DMAR_IQH_REG) = hw->head << qi_shift(iommu);
}

static int queue_test_init(struct kunit *test)
{
	struct fence_fixture *fix;
	struct q_inval *qi;
	int ret;

	ret = fence_test_init(test);
	if (ret)
		return ret;
	kunit_deactivate_static_stub(test, intel_fence_submit);
	kunit_activate_static_stub(test, qi_relax, queue_hw_step);
	/* The faults are logged */
	kunit_info(test, "ioasid-selftest: expect-dmar-faults begin\n");

	fix = test->priv;
	fix->iommu.reg = (void __iomem *)kunit_kzalloc(test, PAGE_SIZE,
						       GFP_KERNEL);
	KUNIT_ASSERT_TRUE(test, fix->iommu.reg);
	qi = &fix->qi;
	qi->desc = kunit_kzalloc(test, QI_LENGTH << qi_shift(&fix->iommu),
				 GFP_KERNEL);
	qi->desc_status = kunit_kcalloc(test, QI_LENGTH,
					sizeof(*qi->desc_status), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, qi->desc);
	KUNIT_ASSERT_NOT_NULL(test, qi->desc_status);
	raw_spin_lock_init(&qi->q_lock);
	qi->free_cnt = QI_LENGTH;
	/* Let a batch wrap around the end of the ring */
	qi->free_head = QI_LENGTH - 3;
	qi->free_tail = QI_LENGTH - 3;
	fix->hw.head = QI_LENGTH - 3;
	fix->hw.depth = QUEUE_DESCS;
	*queue_reg(fix, DMAR_FSTS_REG) = QUEUE_NOT_WRITTEN;
	return 0;
}

static void queue_test_exit(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;

	/* The test may have been skipped */
	if (!fix || !fix->qi.desc_status)
		return;
	kunit_info(test, "ioasid-selftest: expect-dmar-faults end\n");
	/* All slots must have been released */
	KUNIT_EXPECT_EQ(test, fix->qi.free_cnt, QI_LENGTH);
	KUNIT_EXPECT_EQ(test, fix->qi.nr_devtlb, 0);
	KUNIT_EXPECT_FALSE(test, fix->qi.alone);
}

#define QUEUE_BATCH	16

/*
 * VT-d 6.5.2.11: hardware has fetched a part of a batch when it reports that a
 * function does not answer. It continues with the rest and the wait descriptor,
 * whose completion does not cover the lost descriptors.
 */
static void descriptors_lost_ahead_of_a_wait_are_sent_again(struct kunit *test)
{
	struct qi_desc desc[QUEUE_BATCH];
	struct fence_fixture *fix = test->priv;
	struct queue_hw *hw = &fix->hw;
	unsigned int i, depth;

	hw->mute = FENCE_SID(0);
	for (depth = 1; depth <= QUEUE_BATCH + 1; depth++) {
		hw->depth = depth;
		hw->timeouts = 0;
		hw->mute_for = 1;
		intel_fence_lift(&fix->function[0].pdev.dev);
		memset(hw->done, 0, sizeof(hw->done));
		for (i = 0; i < QUEUE_BATCH; i++)
			desc[i] = queue_devtlb(0, i + 1);
		KUNIT_EXPECT_EQ_MSG(test,
				    qi_submit_sync(&fix->iommu, desc,
						   QUEUE_BATCH, 0), 0,
				    "depth %u", depth);
		KUNIT_EXPECT_EQ(test, hw->timeouts, 1);
		for (i = 1; i <= QUEUE_BATCH; i++)
			KUNIT_EXPECT_NE_MSG(test, hw->done[i], 0,
					    "depth %u, descriptor %u", depth,
					    i);
	}
	KUNIT_EXPECT_EQ(test, fix->iommu.nr_mute, 0);
}

/* All fetched descriptors are lost, regardless of who caused the time-out */
static void time_out_is_told_to_each_submitter(struct kunit *test)
{
	struct qi_desc desc[] = { queue_devtlb(0, 1), queue_iotlb(2) };
	struct fence_fixture *fix = test->priv;
	struct queue_hw *hw = &fix->hw;
	unsigned int i;

	hw->mute = FENCE_SID(0);
	hw->mute_for = 1;
	hw->prefetch = true;
	hw->other.desc[0] = queue_iotlb(3);
	hw->other.desc[1] = queue_devtlb(1, 4);
	hw->other.count = 2;
	hw->other.ret = -EBUSY;
	KUNIT_EXPECT_EQ(test, qi_submit_sync(&fix->iommu, desc,
					     ARRAY_SIZE(desc), 0), 0);
	KUNIT_EXPECT_EQ(test, hw->other.ret, 0);
	KUNIT_EXPECT_EQ(test, hw->timeouts, 1);
	for (i = 1; i <= 4; i++)
		KUNIT_EXPECT_EQ_MSG(test, hw->done[i], 1, "descriptor %u", i);
}

/* Descriptors not fetched yet are not lost. */
static void what_is_not_fetched_is_not_lost(struct kunit *test)
{
	struct qi_desc desc[] = { queue_devtlb(0, 1), queue_iotlb(2) };
	struct fence_fixture *fix = test->priv;
	struct queue_hw *hw = &fix->hw;

	hw->mute = FENCE_SID(0);
	hw->mute_for = 1;
	hw->other.desc[0] = queue_iotlb(3);
	hw->other.count = 1;
	KUNIT_EXPECT_EQ(test, qi_submit_sync(&fix->iommu, desc,
					     ARRAY_SIZE(desc), 0), 0);
	KUNIT_EXPECT_EQ(test, hw->other.ret, 0);
	KUNIT_EXPECT_EQ(test, hw->done[3], 1);
}

/* Anywhere in a batch, whoever notices. Hardware executes the others. */
static void refused_descriptor_is_told_to_its_submitter(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;
	struct queue_hw *hw = &fix->hw;
	struct qi_desc desc[4];
	unsigned int i, refused;

	for (refused = 1; refused <= 8; refused++) {
		hw->refused = refused;
		hw->refusals = 0;
		memset(hw->done, 0, sizeof(hw->done));
		for (i = 0; i < 4; i++) {
			desc[i] = queue_iotlb(i + 1);
			hw->other.desc[i] = queue_iotlb(i + 5);
		}
		hw->other.count = 4;
		KUNIT_EXPECT_EQ_MSG(test, qi_submit_sync(&fix->iommu, desc, 4,
							 0),
				    refused <= 4 ? -EINVAL : 0,
				    "descriptor %u", refused);
		KUNIT_EXPECT_EQ_MSG(test, hw->other.ret,
				    refused <= 4 ? 0 : -EINVAL,
				    "descriptor %u", refused);
		/* Hardware rejects it only once */
		KUNIT_EXPECT_EQ(test, hw->refusals, 1);
		for (i = 1; i <= 8; i++)
			KUNIT_EXPECT_EQ_MSG(test, hw->done[i], i != refused,
					    "descriptor %u of %u", i, refused);
	}
}

static void expect_queue_fences(struct kunit *test, unsigned int timeouts)
{
	struct qi_desc desc[] = {
		queue_devtlb(1, 1), queue_iotlb(2), queue_devtlb(0, 3),
		queue_devtlb(1, 4), queue_devtlb(0, 5), queue_iotlb(6),
	};
	struct fence_fixture *fix = test->priv;
	struct queue_hw *hw = &fix->hw;
	unsigned int i;

	hw->mute = FENCE_SID(0);
	hw->mute_for = QUEUE_PATIENCE;
	KUNIT_EXPECT_EQ(test, qi_submit_sync(&fix->iommu, desc,
					     ARRAY_SIZE(desc), 0), 0);
	KUNIT_EXPECT_EQ(test, hw->timeouts, timeouts);
	KUNIT_EXPECT_TRUE(test, fix->function[0].info.fenced);
	KUNIT_EXPECT_FALSE(test, fix->function[1].info.fenced);
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 0)->lo, FENCE_BLOCKED);
	KUNIT_EXPECT_EQ(test, fence_entry(fix, 1)->lo, FENCE_ENTRY);
	for (i = 1; i <= ARRAY_SIZE(desc); i++)
		KUNIT_EXPECT_EQ_MSG(test, !!hw->done[i], i != 3 && i != 5,
				    "descriptor %u", i);
	/* For the fence, which must not complete before it is executed */
	KUNIT_EXPECT_EQ(test, hw->types[QI_CC_TYPE], 1);
	KUNIT_EXPECT_EQ(test, hw->types[QI_PC_TYPE], 1);
	KUNIT_EXPECT_EQ(test, hw->types[QI_IOTLB_TYPE], 1);

	/* Nothing is sent to the function from here on */
	desc[0] = queue_devtlb(0, 7);
	desc[1] = queue_devtlb(1, 8);
	KUNIT_EXPECT_EQ(test, qi_submit_sync(&fix->iommu, desc, 2, 0), 0);
	KUNIT_EXPECT_EQ(test, hw->timeouts, timeouts);
	KUNIT_EXPECT_EQ(test, hw->done[7], 0);
	KUNIT_EXPECT_EQ(test, hw->done[8], 1);
}

static void mute_function_is_fenced_on_its_second_time_out(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;

	expect_queue_fences(test, FENCE_TIMEOUTS);
	KUNIT_EXPECT_FALSE(test, fix->qi.is_unnamed);
}

/* Found by sending to one function at a time, with one more time-out */
static void mute_function_without_a_name_is_found(struct kunit *test)
{
	struct fence_fixture *fix = test->priv;

	fix->hw.is_unnamed = true;
	expect_queue_fences(test, FENCE_TIMEOUTS + 1);
	KUNIT_EXPECT_TRUE(test, fix->qi.is_unnamed);
}

/* Count the invalidations caused by changing the first page of @domain. */
static void expect_cache_flush(struct kunit *test, struct dmar_domain *domain,
			       unsigned int iotlb, unsigned int devtlb)
{
	struct fence_fixture *fix = test->priv;
	unsigned int *types = fix->hw.types;

	memset(types, 0, sizeof(fix->hw.types));
	cache_tag_flush_range(domain, 0, VTD_PAGE_SIZE - 1, 0);
	KUNIT_EXPECT_EQ(test, types[QI_IOTLB_TYPE], iotlb);
	KUNIT_EXPECT_EQ(test, types[QI_DEIOTLB_TYPE], devtlb);
}

/*
 * VT-d 6.5.2.3, table 23: second-stage translations are invalidated by domain
 * ID and address, so the PASIDs of a domain share an IOTLB invalidation until
 * the last one is detached.
 */
static void pasids_of_a_domain_share_an_iotlb_flush(struct kunit *test)
{
	struct iommu_domain_info domain_info = { .did = 5 };
	struct fence_fixture *fix = test->priv;
	struct device *dev[] = {
		&fix->function[0].pdev.dev, &fix->function[1].pdev.dev,
	};
	struct dmar_domain *domain;
	ioasid_t pasid;

	domain = kunit_kzalloc(test, sizeof(*domain), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, domain);
	spin_lock_init(&domain->cache_lock);
	domain->domain.type = IOMMU_DOMAIN_UNMANAGED;
	xa_init(&domain->iommu_array);
	KUNIT_ASSERT_EQ(test, xa_err(xa_store(&domain->iommu_array,
					      fix->iommu.seq_id, &domain_info,
					      GFP_KERNEL)), 0);
	fix->iommu.ecap |= BIT_ULL(1);		/* queued invalidation */
	fix->iommu.gcmd |= DMA_GCMD_TE;
	fix->function[0].info.ats_enabled = 1;

	for (pasid = 1; pasid <= 4; pasid++) {
		KUNIT_EXPECT_EQ(test, cache_tag_assign_domain(domain, dev[0],
							      pasid), 0);
		KUNIT_EXPECT_EQ(test, cache_tag_assign_domain(domain, dev[1],
							      pasid), 0);
	}
	expect_cache_flush(test, domain, 1, 4);

	for (pasid = 1; pasid <= 4; pasid++) {
		cache_tag_unassign_domain(domain, dev[1], pasid);
		if (pasid != 3)
			cache_tag_unassign_domain(domain, dev[0], pasid);
	}
	expect_cache_flush(test, domain, 1, 1);

	cache_tag_unassign_domain(domain, dev[0], 3);
	expect_cache_flush(test, domain, 0, 0);

	kfree(domain->qi_batch);
	xa_destroy(&domain->iommu_array);
}

static struct kunit_case queue_cases[] = {
	KUNIT_CASE(descriptors_lost_ahead_of_a_wait_are_sent_again),
	KUNIT_CASE(time_out_is_told_to_each_submitter),
	KUNIT_CASE(what_is_not_fetched_is_not_lost),
	KUNIT_CASE(refused_descriptor_is_told_to_its_submitter),
	KUNIT_CASE(mute_function_is_fenced_on_its_second_time_out),
	KUNIT_CASE(mute_function_without_a_name_is_found),
	KUNIT_CASE(pasids_of_a_domain_share_an_iotlb_flush),
	{}
};

static struct kunit_suite queue_suite = {
	.name = "intel_queue",
	.init = queue_test_init,
	.exit = queue_test_exit,
	.test_cases = queue_cases,
};

kunit_test_suite(queue_suite);

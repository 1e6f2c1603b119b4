// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of parked PASIDs, included by pasid_park.c
 *
 * The PASID table is real memory, and the code that modifies it is real. The
 * device and its IOMMU are mocks: invalidations and drains are recorded, but
 * not executed.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "../ioasid_test.h"

/*
 * Within a directory of one page: 512 tables of 64 entries. Tests with many
 * PASIDs use the range from 0.
 */
#define PASID		0x6345
#define NO_TABLE_PASID	0x5000
#define MANY_PASIDS	(9 * PARK_SELECTIVE_MAX)
#define TEST_MAX_PASID	(512 << PASID_PDE_SHIFT)
#define TEST_DID	0x77
#define TEST_SID	PCI_DEVID(3, PCI_DEVFN(2, 1))
#define PARK_ATS_CAP	0x100

struct park_device {
	struct device *dev;	/* points to pdev */
	struct pci_dev pdev;
	struct dev_iommu dev_iommu;
	struct device_domain_info info;
	struct pasid_table table;
	struct pasid_dir_entry *dir;
	struct pasid_entry *entries;	/* table that contains PASID */
	struct pasid_entry *many;	/* tables from PASID 0 */
};

struct park_submit {
	struct intel_iommu *iommu;
	int gathered[2];	/* by device, when submitted */
	unsigned int count;
	struct qi_desc desc[PARK_BATCH];
	/* Entry of PASID of the first device, when submitted */
	struct pasid_entry entry;
};

/* Another owner, which parks one PASID of device 1 */
struct park_neighbour {
	struct work_struct work;
	struct kunit *test;
	struct completion done;
	unsigned int at;	/* number of the submission to start at, or 0 */
	bool in_time;
};

struct park_fixture {
	struct intel_iommu iommu[2];
	struct pci_bus bus;
	struct pci_ops bus_ops;
	bool gone;		/* no device responds */
	bool in_reset;		/* all devices have ATS disabled */
	unsigned int config_reads;
	struct park_device device[2];
	struct dmar_domain domain;
	struct iommu_domain_info domain_info;
	struct iommu_pasid_gather gather;
	struct iommu_pasid_gather_entry entry[MANY_PASIDS];
	unsigned int entries;

	/* Results and error injection */
	struct park_submit submit[704];
	unsigned int submits;
	unsigned int drains;
	int gathered_at_drain[2][2];
	unsigned int submits_at_drain;
	unsigned int teardown_flushes;
	struct pasid_entry flushed;	/* at the last teardown flush */
	bool meet;		/* another teardown happens during a flush */
	bool meet_ignore;	/* fault_ignore of the other teardown */
	int submit_ret;		/* result if more than one is submitted */
	u8 refused;		/* type of descriptors rejected by hardware */
	u16 fenced;		/* last fenced function, or 0 */
	unsigned int prq_submits;	/* submissions of drains */
	unsigned int prq_errors;	/* number of drains to fail */
	u32 late_pasid;		/* PASID of a page request in flight, or 0 */
	struct park_neighbour neighbour;
};

static struct pasid_entry *park_entry(struct park_fixture *fix, unsigned int nr,
				      u32 pasid)
{
	if (pasid < MANY_PASIDS)
		return &fix->device[nr].many[pasid];
	return &fix->device[nr].entries[pasid & PASID_PTE_MASK];
}

/* Entries that a reset of each device would wait for */
static void park_note_gathered(struct park_fixture *fix, int gathered[2])
{
	int i;

	for (i = 0; i < 2; i++)
		gathered[i] = atomic_read(&fix->device[i].dev_iommu.gathered);
}

static void park_neighbour_fn(struct work_struct *work)
{
	struct park_neighbour *n = container_of(work, struct park_neighbour,
						work);
	struct park_fixture *fix = n->test->priv;
	struct iommu_pasid_gather_entry entry;
	struct iommu_pasid_gather gather;

	/* Static stubs are only active in threads of a test */
	current->kunit_test = n->test;
	iommu_pasid_gather_init(&gather);
	intel_pasid_park(fix->device[1].dev, PASID, &gather, &entry);
	intel_pasid_park_sync(&gather);
	current->kunit_test = NULL;
	complete(&n->done);
}

static void park_meet_neighbour(struct park_neighbour *n, struct kunit *test)
{
	n->test = test;
	init_completion(&n->done);
	INIT_WORK(&n->work, park_neighbour_fn);
	queue_work(system_unbound_wq, &n->work);
	n->in_time = wait_for_completion_timeout(&n->done, 10 * HZ);
}

static int park_submit_stub(struct intel_iommu *iommu, struct qi_desc *desc,
			    unsigned int count)
{
	struct park_fixture *fix = kunit_get_current_test()->priv;
	struct park_submit *submit = &fix->submit[fix->submits];
	unsigned int i;

	if (fix->submits++ >= ARRAY_SIZE(fix->submit) || count > PARK_BATCH)
		return 0;
	submit->iommu = iommu;
	park_note_gathered(fix, submit->gathered);
	submit->count = count;
	memcpy(submit->desc, desc, count * sizeof(*desc));
	submit->entry = *park_entry(fix, 0, PASID);
	if (fix->submits == fix->neighbour.at)
		park_meet_neighbour(&fix->neighbour, kunit_get_current_test());
	for (i = 0; i < count; i++) {
		/* A global flush is never rejected */
		if ((desc[i].qw0 & 0xf) == fix->refused &&
		    desc[i].qw0 >> 16)
			return -EINVAL;
	}
	return count > 1 ? fix->submit_ret : 0;
}

static void park_fence_stub(struct intel_iommu *iommu, u16 sid)
{
	struct park_fixture *fix = kunit_get_current_test()->priv;

	fix->fenced = sid;
}

/* Called by teardown to flush the IOTLB of second-stage translations */
static void park_flush_iotlb_stub(struct intel_iommu *iommu, u16 did, u64 addr,
				  unsigned int size_order, u64 type)
{
	struct park_fixture *fix = kunit_get_current_test()->priv;

	if (did == TEST_DID && type == DMA_TLB_DSI_FLUSH)
		fix->teardown_flushes++;
	fix->flushed = *park_entry(fix, 0, PASID);
	if (fix->meet) {
		fix->meet = false;
		intel_pasid_tear_down_entry(iommu, fix->device[0].dev, PASID,
					    fix->meet_ignore);
	}
}

static void park_drain_stub(const struct iommu_pasid_gather_entry *entry)
{
	struct park_fixture *fix = kunit_get_current_test()->priv;

	if (fix->drains < ARRAY_SIZE(fix->gathered_at_drain))
		park_note_gathered(fix, fix->gathered_at_drain[fix->drains]);
	fix->drains++;
	fix->submits_at_drain = fix->submits;
}

static int park_bus_read(struct pci_bus *bus, unsigned int devfn, int where,
			 int size, u32 *val)
{
	struct park_fixture *fix = container_of(bus, struct park_fixture, bus);

	fix->config_reads++;
	*val = 0x12348086;
	if (where == PARK_ATS_CAP + PCI_ATS_CTRL)
		*val = fix->in_reset ? 0 : PCI_ATS_CTRL_ENABLE;
	if (fix->gone)
		*val = ~0;
	return PCIBIOS_SUCCESSFUL;
}

static void park_free_fixture(void *fix)
{
	kvfree(fix);
}

static void park_free_device(void *data)
{
	struct park_device *d = data;

	kvfree(d->many);
	free_page((unsigned long)d->entries);
	free_page((unsigned long)d->dir);
}

static bool park_rid_less(struct rb_node *a, const struct rb_node *b)
{
	return rb_entry(a, struct device_domain_info, node)->devfn <
	       rb_entry(b, struct device_domain_info, node)->devfn;
}

/* Each device gets an IOMMU of its own, @nr */
static void park_init_device(struct kunit *test, struct park_fixture *fix,
			     unsigned int nr)
{
	struct park_device *d = &fix->device[nr];
	unsigned int i;

	d->dev = &d->pdev.dev;
	d->pdev.bus = &fix->bus;
	d->pdev.ats_cap = PARK_ATS_CAP;
	d->dev->bus = &pci_bus_type;
	d->dev->iommu = &d->dev_iommu;
	d->dev_iommu.priv = &d->info;
	d->info.dev = d->dev;
	d->info.iommu = &fix->iommu[nr];
	d->info.bus = 3;
	d->info.devfn = PCI_DEVFN(2, 1);
	d->pdev.devfn = d->info.devfn;
	rb_add(&d->info.node, &d->info.iommu->device_rbtree, park_rid_less);
	d->info.ats_enabled = 1;
	d->info.pasid_table = &d->table;

	d->dir = (void *)get_zeroed_page(GFP_KERNEL);
	d->entries = (void *)get_zeroed_page(GFP_KERNEL);
	d->many = kcalloc(MANY_PASIDS, sizeof(*d->many), GFP_KERNEL);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, park_free_device,
							d), 0);
	KUNIT_ASSERT_NOT_NULL(test, d->dir);
	KUNIT_ASSERT_NOT_NULL(test, d->entries);
	KUNIT_ASSERT_NOT_NULL(test, d->many);
	d->table.max_pasid = TEST_MAX_PASID;
	d->table.table = d->dir;
	d->dir[PASID >> PASID_PDE_SHIFT].val =
		virt_to_phys(d->entries) | PASID_PTE_PRESENT;
	for (i = 0; i < MANY_PASIDS >> PASID_PDE_SHIFT; i++)
		d->dir[i].val = virt_to_phys(&d->many[i << PASID_PDE_SHIFT]) |
				PASID_PTE_PRESENT;
}

static int park_test_init(struct kunit *test)
{
	struct park_fixture *fix;
	unsigned int i;

	fix = kvzalloc(sizeof(*fix), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, park_free_fixture,
							fix), 0);
	test->priv = fix;
	iommu_pasid_gather_init(&fix->gather);

	fix->bus.ops = &fix->bus_ops;
	fix->bus_ops.read = park_bus_read;
	fix->bus.number = 3;
	for (i = 0; i < 2; i++) {
		spin_lock_init(&fix->iommu[i].lock);
		raw_spin_lock_init(&fix->iommu[i].device_rbtree_lock);
		init_waitqueue_head(&fix->iommu[i].prq_wait);
		/* Coherent, first and second stage */
		fix->iommu[i].ecap = BIT_ULL(0) | BIT_ULL(46) | BIT_ULL(47);
		fix->iommu[i].gcmd = DMA_GCMD_TE;
		/* 16 bits of domain ID */
		fix->iommu[i].cap = 6;
		KUNIT_ASSERT_EQ(test, intel_park_init(&fix->iommu[i]), 0);
		park_init_device(test, fix, i);
	}

	xa_init(&fix->domain.iommu_array);
	fix->domain_info.did = TEST_DID;
	KUNIT_ASSERT_FALSE(test,
			   xa_is_err(xa_store(&fix->domain.iommu_array,
					      fix->iommu[0].seq_id,
					      &fix->domain_info, GFP_KERNEL)));

	kunit_activate_static_stub(test, intel_park_submit, park_submit_stub);
	kunit_activate_static_stub(test, intel_park_drain, park_drain_stub);
	return 0;
}

static void park_test_exit(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	unsigned int i;

	if (!fix)
		return;
	xa_destroy(&fix->domain.iommu_array);
	for (i = 0; i < 2; i++)
		intel_park_exit(&fix->iommu[i]);
}

/* Set up an entry like an attached one, with all words in use */
static void park_make_present_in(struct park_fixture *fix, unsigned int nr,
				 u32 pasid, u16 pgtt, u16 did)
{
	struct pasid_entry *pte = park_entry(fix, nr, pasid);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pte->val); i++)
		pte->val[i] = 0x1111000000000000ULL * (i + 1);
	pasid_set_domain_id(pte, did);
	pasid_set_address_width(pte, 2);
	pasid_set_translation_type(pte, pgtt);
	pasid_set_fault_enable(pte);
	pasid_set_present(pte);
}

static void park_make_present(struct park_fixture *fix, unsigned int nr,
			      u32 pasid, u16 pgtt)
{
	park_make_present_in(fix, nr, pasid, pgtt, TEST_DID);
}

static void park(struct park_fixture *fix, unsigned int nr, u32 pasid)
{
	intel_pasid_park(fix->device[nr].dev, pasid, &fix->gather,
			 &fix->entry[fix->entries++]);
}

static size_t gathered(struct park_fixture *fix)
{
	return list_count_nodes(&fix->gather.entries);
}

#define PARKED_WORD	(PASID_PTE_FPD | PASID_PTE_PARKED)

static void expect_words_cleared(struct kunit *test, struct pasid_entry *pte)
{
	unsigned int i;

	KUNIT_EXPECT_EQ(test, pte->val[0], PARKED_WORD);
	for (i = 1; i < ARRAY_SIZE(pte->val); i++)
		KUNIT_EXPECT_EQ(test, pte->val[i], 0);
}

/* The entry */

static void mark_is_reserved_while_present(struct kunit *test)
{
	/* VT-d 9.6: bits 11:10 of a scalable-mode PASID table entry */
	KUNIT_EXPECT_EQ(test, PASID_PTE_PARKED & ~GENMASK_ULL(11, 10), 0);
	KUNIT_EXPECT_NE(test, PASID_PTE_PARKED, 0);
}

static void park_touches_only_p_fpd_and_the_mark(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);
	struct pasid_entry before;

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	before = *pte;
	park(fix, 0, PASID);
	KUNIT_EXPECT_EQ(test, pte->val[0],
			(before.val[0] & ~1ULL) | PARKED_WORD);
	KUNIT_EXPECT_MEMEQ(test, &pte->val[1], &before.val[1],
			   sizeof(*pte) - sizeof(pte->val[0]));
	KUNIT_EXPECT_EQ(test, gathered(fix), 1);
	KUNIT_EXPECT_EQ(test, intel_park_priv(&fix->entry[0])->did, TEST_DID);
	KUNIT_EXPECT_EQ(test, intel_park_priv(&fix->entry[0])->pgtt,
			PASID_ENTRY_PGTT_SL_ONLY);
	KUNIT_EXPECT_EQ(test, fix->submits, 0);
}

static void words_stay_until_the_flush_is_done(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);
	struct pasid_entry blocked;
	unsigned int i;

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	blocked = *pte;
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, fix->submits, 3);
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_MEMEQ(test, &fix->submit[i].entry, &blocked,
				   sizeof(blocked));
	expect_words_cleared(test, pte);
	KUNIT_EXPECT_EQ(test, gathered(fix), 0);
}

static void absent_entry_is_marked_without_a_flush(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	park(fix, 0, PASID);
	KUNIT_EXPECT_EQ(test, gathered(fix), 0);
	KUNIT_EXPECT_EQ(test, park_entry(fix, 0, PASID)->val[0], PARKED_WORD);
}

/* Hardware may have cached it as not present, with faults reported */
static void absent_entry_is_flushed_in_caching_mode(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	fix->iommu[0].cap |= BIT_ULL(7);
	park(fix, 0, PASID);
	KUNIT_ASSERT_EQ(test, gathered(fix), 1);
	intel_pasid_park_sync(&fix->gather);
	/* The device may be in reset, so nothing is sent to it */
	KUNIT_ASSERT_EQ(test, fix->submits, 1);
	KUNIT_EXPECT_EQ(test, fix->drains, 0);
	KUNIT_EXPECT_EQ(test, fix->submit[0].count, 1);
	/* Under domain ID 0, VT-d 6.1 */
	KUNIT_EXPECT_EQ(test, fix->submit[0].desc[0].qw0,
			(u64)PASID << 32 | 1 << 4 | QI_PC_TYPE);
	KUNIT_EXPECT_EQ(test, park_entry(fix, 0, PASID)->val[0], PARKED_WORD);

	/* Only once, as hardware has cached it as parked now */
	park(fix, 0, PASID);
	KUNIT_EXPECT_EQ(test, gathered(fix), 0);

	/* Other PASIDs of the device are flushed and drained */
	park(fix, 0, PASID + 1);
	park_make_present(fix, 0, PASID + 2, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID + 2);
	fix->submits = 0;
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_EQ(test, fix->submits, 3);
	KUNIT_EXPECT_EQ(test, fix->submit[0].count, 2);
	KUNIT_EXPECT_EQ(test, fix->submit[1].count, 1);
	KUNIT_EXPECT_EQ(test, fix->submit[2].count, 1);
	KUNIT_EXPECT_EQ(test, fix->submit[2].desc[0].qw0 >> 32, PASID + 2);
	KUNIT_EXPECT_EQ(test, fix->drains, 1);
}

/* P was cleared by a path that has not flushed yet, or does not drain */
static void blocked_entry_is_flushed_and_drained(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_FL_ONLY);
	pasid_clear_present(pte);
	park(fix, 0, PASID);
	KUNIT_ASSERT_EQ(test, gathered(fix), 1);
	KUNIT_EXPECT_EQ(test, intel_park_priv(&fix->entry[0])->did, TEST_DID);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, fix->submits, 3);
	KUNIT_EXPECT_EQ(test, fix->drains, 1);
	expect_words_cleared(test, pte);

	/* State after process exit with SVA */
	pte = park_entry(fix, 0, PASID + 1);
	pte->val[0] = PASID_PTE_FPD;
	park(fix, 0, PASID + 1);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, fix->drains, 2);
	expect_words_cleared(test, pte);
}

static void parked_is_what_has_the_mark(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct device *dev = fix->device[0].dev;

	KUNIT_EXPECT_FALSE(test, intel_pasid_is_parked(dev, NO_TABLE_PASID));
	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	KUNIT_EXPECT_FALSE(test, intel_pasid_is_parked(dev, PASID));
	park(fix, 0, PASID);
	KUNIT_EXPECT_TRUE(test, intel_pasid_is_parked(dev, PASID));
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_TRUE(test, intel_pasid_is_parked(dev, PASID));
	KUNIT_EXPECT_FALSE(test, intel_pasid_is_parked(dev, PASID + 1));
	intel_pasid_unpark(dev, PASID);
	KUNIT_EXPECT_FALSE(test, intel_pasid_is_parked(dev, PASID));
}

static void second_park_does_nothing(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	park(fix, 0, PASID);
	KUNIT_EXPECT_EQ(test, gathered(fix), 0);
	expect_words_cleared(test, park_entry(fix, 0, PASID));
}

static void pasid_without_a_table_is_left_alone(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	/* No table, outside of the directory, no directory */
	park(fix, 0, NO_TABLE_PASID);
	park(fix, 0, TEST_MAX_PASID);
	intel_pasid_unpark(fix->device[0].dev, NO_TABLE_PASID);
	fix->device[0].info.pasid_table = NULL;
	park(fix, 0, PASID);
	intel_pasid_unpark(fix->device[0].dev, PASID);
	KUNIT_EXPECT_EQ(test, gathered(fix), 0);
	KUNIT_EXPECT_EQ(test, fix->device[0].dir[NO_TABLE_PASID >>
						 PASID_PDE_SHIFT].val, 0);
	KUNIT_EXPECT_EQ(test, park_entry(fix, 0, PASID)->val[0], 0);
}

/* The flush */

/* VT-d 6.5.3.3, for a PASID table entry that was present */
static const struct park_order {
	u16 pgtt;
	const char *name;
	u64 iotlb_type;
} park_orders[] = {
	{ PASID_ENTRY_PGTT_FL_ONLY, "first-stage", QI_EIOTLB_TYPE },
	{ PASID_ENTRY_PGTT_SL_ONLY, "second-stage", QI_IOTLB_TYPE },
	{ PASID_ENTRY_PGTT_NESTED, "nested", QI_IOTLB_TYPE },
	{ PASID_ENTRY_PGTT_PT, "pass-through", QI_EIOTLB_TYPE },
};

KUNIT_ARRAY_PARAM_DESC(park_orders, park_orders, name);

static void flush_follows_the_order_of_the_specification(struct kunit *test)
{
	const struct park_order *order = test->param_value;
	struct park_fixture *fix = test->priv;
	struct qi_desc *desc;

	/* Hardware can drain writes and reads */
	fix->iommu[0].cap |= BIT_ULL(54) | BIT_ULL(55);
	park_make_present(fix, 0, PASID, order->pgtt);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);

	/* Three submissions, as each ends with a wait */
	KUNIT_ASSERT_EQ(test, fix->submits, 3);
	KUNIT_EXPECT_EQ(test, fix->submit[0].count, 1);
	KUNIT_EXPECT_EQ(test, fix->submit[1].count, 1);
	KUNIT_EXPECT_EQ(test, fix->submit[2].count, 1);

	desc = &fix->submit[0].desc[0];
	KUNIT_EXPECT_EQ(test, desc->qw0, (u64)PASID << 32 | TEST_DID << 16 |
			1 << 4 | QI_PC_TYPE);

	desc = &fix->submit[1].desc[0];
	KUNIT_EXPECT_EQ(test, desc->qw0 & 0xf, order->iotlb_type);
	KUNIT_EXPECT_EQ(test, desc->qw0 >> 16 & 0xffff, TEST_DID);
	if (order->iotlb_type == QI_IOTLB_TYPE) {
		/* Domain-selective, and DMA that is under way is drained */
		KUNIT_EXPECT_EQ(test, desc->qw0 >> 4 & 3, 2);
		KUNIT_EXPECT_EQ(test, desc->qw0 >> 6 & 3, 3);
	} else {
		/* PASID-selective within the domain */
		KUNIT_EXPECT_EQ(test, desc->qw0 >> 4 & 3, 2);
		KUNIT_EXPECT_EQ(test, desc->qw0 >> 32, PASID);
	}

	desc = &fix->submit[2].desc[0];
	KUNIT_EXPECT_EQ(test, desc->qw0 & 0xf, QI_DEIOTLB_TYPE);
	KUNIT_EXPECT_EQ(test, desc->qw0 >> 16 & 0xffff, TEST_SID);
	KUNIT_EXPECT_EQ(test, desc->qw0 >> 32 & 0xfffff, PASID);
	/* All addresses: S=1, and all bits up to 62 set */
	KUNIT_EXPECT_EQ(test, desc->qw1, 0x7ffffffffffff800ULL);

	KUNIT_EXPECT_EQ(test, fix->drains, 1);
	KUNIT_EXPECT_EQ(test, fix->submits_at_drain, 3);
}

static void no_device_tlb_flush_without_ats(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	fix->device[0].info.ats_enabled = 0;
	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, fix->submits, 2);
	KUNIT_EXPECT_EQ(test, fix->drains, 1);
}

static void no_device_tlb_flush_while_translation_is_off(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	fix->iommu[0].gcmd = 0;
	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, fix->submits, 2);
}

static void no_device_tlb_flush_of_a_device_that_is_gone(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	fix->gone = true;
	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, fix->submits, 2);
	expect_words_cleared(test, park_entry(fix, 0, PASID));
}

/* The device TLB stays empty until ATS is enabled, after the first two steps */
static void no_device_tlb_flush_of_a_device_in_reset(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	fix->in_reset = true;
	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_EQ(test, fix->submits, 2);
	KUNIT_EXPECT_EQ(test, fix->submit[0].desc[0].qw0 & 0xf, QI_PC_TYPE);
	KUNIT_EXPECT_EQ(test, fix->submit[1].desc[0].qw0 & 0xf, QI_IOTLB_TYPE);
	KUNIT_EXPECT_EQ(test, fix->drains, 1);
	expect_words_cleared(test, park_entry(fix, 0, PASID));
}

/* The device is not embedded in a struct pci_dev */
static void device_that_is_not_pci_is_not_taken_for_one(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	unsigned int i;

	kunit_deactivate_static_stub(test, intel_park_drain);
	for (i = 0; i < 2; i++) {
		fix->config_reads = 0;
		park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
		park(fix, 0, PASID);
		intel_pasid_park_sync(&fix->gather);
		KUNIT_EXPECT_EQ(test, fix->config_reads > 0, i == 0);
		expect_words_cleared(test, park_entry(fix, 0, PASID));
		intel_pasid_unpark(fix->device[0].dev, PASID);
		fix->device[0].dev->bus = NULL;
	}
}

/*
 * Many PASIDs of one device: @count of them, @per_domain in each domain. @pc
 * and
 * @iotlb are the number of descriptors in the first two steps, 0 for a global
 *	    flush.
 * The third step takes one per PASID.
 */
static const struct park_many {
	unsigned int count;
	unsigned int per_domain;
	u16 pgtt;
	unsigned int pc;
	unsigned int iotlb;
} park_many[] = {
#define EACH_COUNT(per_domain, pgtt, row)				\
	row(1, per_domain, pgtt),					\
	row(PARK_BATCH - 1, per_domain, pgtt),				\
	row(PARK_BATCH, per_domain, pgtt),				\
	row(PARK_BATCH + 1, per_domain, pgtt),				\
	/* Everything that fits in the queue */			\
	row(QI_LENGTH - 3, per_domain, pgtt),				\
	row(QI_LENGTH - 2, per_domain, pgtt),				\
	row(QI_LENGTH - 1, per_domain, pgtt),				\
	row(PARK_SELECTIVE_MAX - 1, per_domain, pgtt),			\
	row(PARK_SELECTIVE_MAX, per_domain, pgtt)
	/* Each PASID in its own domain */
#define ALONE(n, per_domain, pgtt) { n, 1, pgtt, n, n }
	EACH_COUNT(1, PASID_ENTRY_PGTT_SL_ONLY, ALONE),
	{ PARK_SELECTIVE_MAX + 1, 1, PASID_ENTRY_PGTT_SL_ONLY, 0, 0 },
	EACH_COUNT(1, PASID_ENTRY_PGTT_FL_ONLY, ALONE),
	{ PARK_SELECTIVE_MAX + 1, 1, PASID_ENTRY_PGTT_FL_ONLY, 0, 0 },
	/* All in one domain: never flush other domains */
	{ 2 * PARK_SELECTIVE_MAX, MANY_PASIDS, PASID_ENTRY_PGTT_SL_ONLY, 1, 1 },
	{ 2 * PARK_SELECTIVE_MAX, MANY_PASIDS, PASID_ENTRY_PGTT_NESTED, 1, 1 },
	/* First stage: tags include the PASID, so one descriptor per PASID */
#define FIRST_STAGE(n, per_domain, pgtt) { n, per_domain, pgtt, n < 8 ? n : 1, n }
	EACH_COUNT(MANY_PASIDS, PASID_ENTRY_PGTT_FL_ONLY, FIRST_STAGE),
	{ PARK_SELECTIVE_MAX + 1, MANY_PASIDS, PASID_ENTRY_PGTT_FL_ONLY, 1, 0 },
	{ PARK_SELECTIVE_MAX + 1, MANY_PASIDS, PASID_ENTRY_PGTT_PT, 1, 0 },
	/* Enough PASIDs per domain */
	{ 7 * 7, 7, PASID_ENTRY_PGTT_SL_ONLY, 7 * 7, 7 },
	{ 8 * 8, 8, PASID_ENTRY_PGTT_SL_ONLY, 8, 8 },
	/* Too many domains */
	{ 8 * PARK_SELECTIVE_MAX, 8, PASID_ENTRY_PGTT_SL_ONLY,
	  PARK_SELECTIVE_MAX, PARK_SELECTIVE_MAX },
	{ 8 * (PARK_SELECTIVE_MAX + 1), 8, PASID_ENTRY_PGTT_SL_ONLY, 0, 0 },
};

static void park_many_desc(const struct park_many *many, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%u PASIDs, %u in a domain, %s",
		 many->count, min(many->count, many->per_domain),
		 many->pgtt == PASID_ENTRY_PGTT_FL_ONLY ? "first-stage" :
		 many->pgtt == PASID_ENTRY_PGTT_SL_ONLY ? "second-stage" :
		 many->pgtt == PASID_ENTRY_PGTT_NESTED ? "nested" :
		 "pass-through");
}

KUNIT_ARRAY_PARAM(park_many, park_many, park_many_desc);

/* Whether a descriptor invalidates the entry in the caches of its step. */
static bool park_desc_covers(const struct qi_desc *desc, u32 pasid, u16 did,
			     bool by_pasid)
{
	u16 desc_did = desc->qw0 >> 16;
	u32 desc_pasid = desc->qw0 >> 32 & 0xfffff;
	unsigned int gran = desc->qw0 >> 4 & 3;

	switch (desc->qw0 & 0xf) {
	case QI_PC_TYPE:
		if (gran == QI_PC_GLOBAL)
			return true;
		return desc_did == did &&
		       (gran == QI_PC_ALL_PASIDS || desc_pasid == pasid);
	case QI_IOTLB_TYPE:
		/* 1 is global, 2 is domain-selective */
		return gran == 1 || (gran == 2 && desc_did == did);
	case QI_EIOTLB_TYPE:
		return by_pasid && desc_did == did && desc_pasid == pasid;
	case QI_DEIOTLB_TYPE:
		return desc_did == TEST_SID && desc_pasid == pasid &&
		       desc->qw1 == 0x7ffffffffffff800ULL;
	}
	return false;
}

static unsigned int park_step_of(const struct qi_desc *desc)
{
	switch (desc->qw0 & 0xf) {
	case QI_PC_TYPE:
		return 0;
	case QI_IOTLB_TYPE:
	case QI_EIOTLB_TYPE:
		return 1;
	default:
		return 2;
	}
}

static void many_pasids_take_few_descriptors(struct kunit *test)
{
	const struct park_many *many = test->param_value;
	bool by_pasid = many->pgtt == PASID_ENTRY_PGTT_FL_ONLY ||
			many->pgtt == PASID_ENTRY_PGTT_PT;
	struct park_fixture *fix = test->priv;
	unsigned int want[3] = { many->pc ?: 1, many->iotlb ?: 1, many->count };
	unsigned int got[3] = {}, covered[3] = {}, next[3] = {};
	unsigned int i, j, step, last = 0, left;
	u32 pasid;

	for (pasid = 0; pasid < many->count; pasid++) {
		park_make_present_in(fix, 0, pasid, many->pgtt,
				     100 + pasid / many->per_domain);
		park(fix, 0, pasid);
	}
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, gathered(fix), 0);
	KUNIT_ASSERT_LE(test, fix->submits, ARRAY_SIZE(fix->submit));

	for (i = 0; i < fix->submits; i++) {
		struct park_submit *submit = &fix->submit[i];

		step = park_step_of(&submit->desc[0]);
		/* In order, no extra waits: all but the last are full */
		KUNIT_EXPECT_GE(test, step, last);
		last = step;
		left = want[step] - got[step];
		KUNIT_EXPECT_EQ(test, submit->count, min(left, PARK_BATCH));
		got[step] += submit->count;
		for (j = 0; j < submit->count; j++) {
			KUNIT_EXPECT_EQ(test, park_step_of(&submit->desc[j]),
					step);
			/* Descriptors are in the order of PASIDs */
			for (pasid = next[step]; pasid < many->count &&
			     park_desc_covers(&submit->desc[j], pasid,
					      100 + pasid / many->per_domain,
					      by_pasid); pasid++)
				covered[step]++;
			next[step] = pasid;
		}
	}
	for (step = 0; step < 3; step++) {
		KUNIT_EXPECT_EQ_MSG(test, got[step], want[step], "step %u",
				    step);
		KUNIT_EXPECT_EQ_MSG(test, covered[step], many->count,
				    "step %u", step);
	}
	KUNIT_EXPECT_EQ(test, fix->drains, 1);
	KUNIT_EXPECT_EQ(test, fix->submits_at_drain, fix->submits);
	for (pasid = 0; pasid < many->count; pasid++)
		expect_words_cleared(test, park_entry(fix, 0, pasid));

	/* The next flush starts afresh */
	fix->submits = 0;
	park_make_present_in(fix, 0, PASID, many->pgtt, 100);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, fix->submits, 3);
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_TRUE(test,
				  park_desc_covers(&fix->submit[i].desc[0],
						   PASID, 100, by_pasid));
}

/* Nested and pass-through, for example, need both descriptors */
static void both_kinds_of_tags_are_flushed(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct qi_desc *desc = fix->submit[1].desc;

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_FL_ONLY);
	park(fix, 0, PASID);
	park_make_present(fix, 0, PASID + 1, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID + 1);
	park_make_present(fix, 0, PASID + 2, PASID_ENTRY_PGTT_FL_ONLY);
	park(fix, 0, PASID + 2);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_EQ(test, fix->submit[1].count, 3);
	KUNIT_EXPECT_EQ(test, desc[0].qw0 & 0xf, QI_EIOTLB_TYPE);
	KUNIT_EXPECT_EQ(test, desc[0].qw0 >> 32, PASID);
	KUNIT_EXPECT_EQ(test, desc[1].qw0 & 0xf, QI_IOTLB_TYPE);
	KUNIT_EXPECT_EQ(test, desc[2].qw0 & 0xf, QI_EIOTLB_TYPE);
	KUNIT_EXPECT_EQ(test, desc[2].qw0 >> 32, PASID + 2);
}

static void each_iommu_gets_its_own_descriptors(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	const unsigned int count = PARK_BATCH + 1;
	unsigned int i, j;

	for (i = 0; i < 2 * count; i++) {
		park_make_present(fix, i % 2, i, PASID_ENTRY_PGTT_FL_ONLY);
		park(fix, i % 2, i);
	}
	intel_pasid_park_sync(&fix->gather);
	/* PASID cache by domain; the IOTLB and device TLBs in two batches */
	KUNIT_ASSERT_EQ(test, fix->submits, 10);
	for (i = 0; i < 10; i++) {
		struct park_submit *submit = &fix->submit[i];

		KUNIT_EXPECT_PTR_EQ(test, submit->iommu, &fix->iommu[i / 5]);
		KUNIT_EXPECT_EQ(test, submit->count, i % 5 == 0 ? 1 :
				i % 5 % 2 ? PARK_BATCH : 1);
		for (j = 0; i % 5 && j < submit->count; j++)
			KUNIT_EXPECT_EQ(test, submit->desc[j].qw0 >> 32 & 1,
					i / 5);
	}
	KUNIT_EXPECT_EQ(test, fix->drains, 2);
	for (i = 0; i < 2 * count; i++)
		expect_words_cleared(test, park_entry(fix, i % 2, i));
}

static void global_flush_leaves_other_iommus_alone(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	unsigned int i;

	fix->device[0].info.ats_enabled = 0;
	for (i = 0; i <= PARK_SELECTIVE_MAX; i++) {
		park_make_present_in(fix, 0, i, PASID_ENTRY_PGTT_SL_ONLY,
				     100 + i);
		park(fix, 0, i);
	}
	park_make_present(fix, 1, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 1, PASID);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_EQ(test, fix->submits, 5);
	/* Global flushes cover everything, selective ones only their target */
	for (i = 0; i < 5; i++)
		KUNIT_EXPECT_EQ(test, park_desc_covers(&fix->submit[i].desc[0],
						       1, 1, false), i < 2);
}

/* Several devices behind one IOMMU, one of them with ATS disabled */
static void each_device_is_drained_once(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	unsigned int i;

	fix->device[1].info.iommu = &fix->iommu[0];
	fix->device[1].info.ats_enabled = 0;
	for (i = 0; i < 10; i++) {
		park_make_present(fix, i % 2, PASID + i,
				  PASID_ENTRY_PGTT_SL_ONLY);
		park(fix, i % 2, PASID + i);
	}
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_EQ(test, fix->submits, 3);
	KUNIT_EXPECT_EQ(test, fix->submit[0].count, 1);
	KUNIT_EXPECT_EQ(test, fix->submit[1].count, 1);
	KUNIT_ASSERT_EQ(test, fix->submit[2].count, 5);
	for (i = 0; i < 5; i++)
		KUNIT_EXPECT_EQ(test, fix->submit[2].desc[i].qw0 >> 32 &
				0xfffff, PASID + 2 * i);
	KUNIT_EXPECT_EQ(test, fix->drains, 2);
	for (i = 0; i < 10; i++)
		expect_words_cleared(test, park_entry(fix, i % 2, PASID + i));
}

static void device_with_a_quirk_is_flushed_twice(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	unsigned int i;

	fix->device[0].info.dtlb_extra_inval = 1;
	for (i = 0; i < 3; i++) {
		park_make_present(fix, 0, PASID + i, PASID_ENTRY_PGTT_FL_ONLY);
		park(fix, 0, PASID + i);
	}
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_EQ(test, fix->submits, 4);
	KUNIT_EXPECT_EQ(test, fix->submit[3].count, 3);
	KUNIT_EXPECT_MEMEQ(test, fix->submit[3].desc, fix->submit[2].desc,
			   3 * sizeof(struct qi_desc));
	KUNIT_EXPECT_EQ(test, fix->submits_at_drain, 4);
}

/* Hardware does not report which descriptor of a batch is invalid */
static void refused_batch_is_sent_one_by_one(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	unsigned int i;

	fix->submit_ret = -EINVAL;
	for (i = 0; i < 3; i++) {
		park_make_present(fix, 0, PASID + i, PASID_ENTRY_PGTT_FL_ONLY);
		park(fix, 0, PASID + i);
	}
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_EQ(test, fix->submits, 12);
	for (i = 0; i < 12; i++) {
		KUNIT_EXPECT_EQ(test, fix->submit[i].count, i % 4 ? 1 : 3);
		if (i % 4)
			KUNIT_EXPECT_EQ(test, fix->submit[i].desc[0].qw0,
					fix->submit[i & ~3].desc[i % 4 - 1].qw0);
	}
}

/* Move the second device behind the IOMMU of the first */
static void park_join_iommus(struct park_fixture *fix)
{
	struct device_domain_info *info = &fix->device[1].info;

	rb_erase(&info->node, &info->iommu->device_rbtree);
	info->iommu = &fix->iommu[0];
	info->devfn++;
	fix->device[1].pdev.devfn++;
	rb_add(&info->node, &info->iommu->device_rbtree, park_rid_less);
}

static const struct park_refusal {
	const char *name;
	u8 type;
	u16 pgtt;
	unsigned int step;
	u64 instead;		/* expected replacement, or 0 */
} park_refusals[] = {
	{ "PASID cache", QI_PC_TYPE, PASID_ENTRY_PGTT_FL_ONLY, 0,
	  QI_PC_GRAN(QI_PC_GLOBAL) | QI_PC_TYPE },
	{ "IOTLB by PASID", QI_EIOTLB_TYPE, PASID_ENTRY_PGTT_FL_ONLY, 1,
	  QI_IOTLB_GRAN(DMA_TLB_GLOBAL_FLUSH) | QI_IOTLB_TYPE },
	{ "IOTLB by domain", QI_IOTLB_TYPE, PASID_ENTRY_PGTT_SL_ONLY, 1,
	  QI_IOTLB_GRAN(DMA_TLB_GLOBAL_FLUSH) | QI_IOTLB_TYPE },
	{ "device TLB", QI_DEIOTLB_TYPE, PASID_ENTRY_PGTT_SL_ONLY, 2 },
};

KUNIT_ARRAY_PARAM_DESC(park_refusals, park_refusals, name);

/* A flush that is rejected twice is replaced by a stronger one */
static void refused_flush_is_replaced(struct kunit *test)
{
	const struct park_refusal *param = test->param_value;
	struct park_fixture *fix = test->priv;
	unsigned int step = param->step;
	bool fenced = !param->instead;

	kunit_activate_static_stub(test, intel_fence_function, park_fence_stub);
	fix->refused = param->type;
	park_make_present(fix, 0, PASID, param->pgtt);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_EQ(test, fix->submits, fenced ? 4 : 5);
	KUNIT_EXPECT_EQ(test, fix->submit[step].desc[0].qw0,
			fix->submit[step + 1].desc[0].qw0);
	if (!fenced)
		KUNIT_EXPECT_EQ(test, fix->submit[step + 2].desc[0].qw0 &
				~(BIT_ULL(6) | BIT_ULL(7)), param->instead);
	KUNIT_EXPECT_EQ(test, fix->fenced, fenced ? TEST_SID : 0);
	KUNIT_EXPECT_EQ(test, fix->submits_at_drain, fix->submits);
}

static const struct park_depth {
	const char *name;
	u8 qdep[2];
	unsigned int counts[8];
} park_depths[] = {
	{ "32 pending", { 0, 0 }, { 16, 4 } },
	{ "31 pending", { 31, 31 }, { 16, 4 } },
	{ "one pending", { 1, 0 }, { 1, 1, 1, 10 } },
	{ "the second one fewer", { 0, 4 }, { 10, 4, 4, 2 } },
	{ "the first one fewer", { 8, 0 }, { 8, 2, 10 } },
};

KUNIT_ARRAY_PARAM_DESC(park_depths, park_depths, name);

/* PCIe 10.5.1.2, VT-d 6.5.2.6: hardware stops at the limit */
static void no_more_is_pending_than_a_function_can_take(struct kunit *test)
{
	const struct park_depth *param = test->param_value;
	struct park_fixture *fix = test->priv;
	unsigned int i, j, nr;

	park_join_iommus(fix);
	for (nr = 0; nr < 2; nr++) {
		fix->device[nr].info.ats_qdep = param->qdep[nr];
		for (i = 0; i < (param->qdep[nr] == 1 ? 3 : 10); i++) {
			park_make_present(fix, nr, PASID + i,
					  PASID_ENTRY_PGTT_SL_ONLY);
			park(fix, nr, PASID + i);
		}
	}
	intel_pasid_park_sync(&fix->gather);
	for (i = 2, j = 0; i < fix->submits; i++, j++)
		KUNIT_EXPECT_EQ_MSG(test, fix->submit[i].count,
				    param->counts[j], "batch %u", j);
	KUNIT_EXPECT_EQ(test, param->counts[j], 0);
}

static const struct park_meeting {
	const char *name;
	unsigned int at;
} park_meetings[] = {
	{ "PASID cache", 1 },
	{ "IOTLB", 10 },
	{ "device TLB", 100 },
};

KUNIT_ARRAY_PARAM_DESC(park_meetings, park_meetings, name);

/* Parking one PASID waits for one batch of a long close at most */
static void long_close_delays_no_other_park(struct kunit *test)
{
	const struct park_meeting *param = test->param_value;
	struct park_fixture *fix = test->priv;
	u32 pasid;

	park_join_iommus(fix);
	for (pasid = 0; pasid < PARK_SELECTIVE_MAX; pasid++) {
		park_make_present(fix, 0, pasid, PASID_ENTRY_PGTT_FL_ONLY);
		park(fix, 0, pasid);
	}
	park_make_present(fix, 1, PASID, PASID_ENTRY_PGTT_FL_ONLY);
	fix->neighbour.at = param->at;
	intel_pasid_park_sync(&fix->gather);
	KUNIT_ASSERT_GT(test, fix->submits, param->at);
	flush_work(&fix->neighbour.work);
	KUNIT_EXPECT_TRUE(test, fix->neighbour.in_time);
	expect_words_cleared(test, park_entry(fix, 1, PASID));
	/* Each has flushed its own PASIDs */
	KUNIT_EXPECT_EQ(test, fix->submits,
			1 + 2 * PARK_SELECTIVE_MAX / PARK_BATCH + 3);
	KUNIT_EXPECT_EQ(test, fix->drains, 2);
	for (pasid = 0; pasid < PARK_SELECTIVE_MAX; pasid++)
		expect_words_cleared(test, park_entry(fix, 0, pasid));
}

static void expect_gathered(struct kunit *test, const int gathered[2],
			    int first, int second)
{
	KUNIT_EXPECT_EQ(test, gathered[0], first);
	KUNIT_EXPECT_EQ(test, gathered[1], second);
}

/*
 * A reset of a device waits while the device is in the gather: for the flush of
 * all that is closed together behind its IOMMU, and for the drains of devices
 * ahead of it, but neither for the drains of those after it nor for the next
 * IOMMU.
 */
static void devices_leave_the_gather_one_by_one(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	unsigned int i, together;

	for (together = 0; together < 2; together++) {
		if (together)
			park_join_iommus(fix);
		fix->submits = 0;
		fix->drains = 0;
		for (i = 0; i < 4; i++) {
			park_make_present(fix, i % 2, PASID + i,
					  PASID_ENTRY_PGTT_SL_ONLY);
			park(fix, i % 2, PASID + i);
		}
		intel_pasid_park_sync(&fix->gather);
		KUNIT_ASSERT_EQ(test, fix->submits, together ? 3 : 6);
		for (i = 0; i < fix->submits; i++)
			expect_gathered(test, fix->submit[i].gathered,
					i < 3 ? 2 : 0, 2);
		KUNIT_ASSERT_EQ(test, fix->drains, 2);
		expect_gathered(test, fix->gathered_at_drain[0], 2, 2);
		expect_gathered(test, fix->gathered_at_drain[1], 0, 2);
		for (i = 0; i < 4; i++)
			intel_pasid_unpark(fix->device[i % 2].dev, PASID + i);
	}
	park_note_gathered(fix, fix->gathered_at_drain[0]);
	expect_gathered(test, fix->gathered_at_drain[0], 0, 0);
}

/* Mock registers */

static u32 *park_reg(struct intel_iommu *iommu, unsigned int offset)
{
	return (u32 *)((u8 __force *)iommu->reg + offset);
}

static u64 *park_reg64(struct intel_iommu *iommu, unsigned int offset)
{
	return (u64 *)park_reg(iommu, offset);
}

/* Page request drain, with a mock queue and registers */

struct park_drain {
	struct work_struct work;
	struct completion done;
	struct device *dev;
	u32 pasid;
	bool detach;
};

static void park_drain(struct park_drain *drain)
{
	struct device_domain_info *info = dev_iommu_priv_get(drain->dev);

	if (drain->detach)
		intel_pasid_tear_down_entry(info->iommu, drain->dev,
					    drain->pasid, false);
	else
		intel_iommu_drain_pasid_prq(drain->dev, drain->pasid);
}

static void park_drain_fn(struct work_struct *work)
{
	struct park_drain *drain = container_of(work, struct park_drain, work);

	park_drain(drain);
	complete(&drain->done);
}

static void park_start_drain(struct park_drain *drain, struct device *dev,
			     u32 pasid)
{
	drain->dev = dev;
	drain->pasid = pasid;
	init_completion(&drain->done);
	INIT_WORK_ONSTACK(&drain->work, park_drain_fn);
	queue_work(system_unbound_wq, &drain->work);
}

static bool park_drain_is_done(struct park_drain *drain)
{
	return wait_for_completion_timeout(&drain->done, HZ / 5);
}

static void park_finish_drain(struct kunit *test, struct park_drain *drain)
{
	KUNIT_EXPECT_NE(test, wait_for_completion_timeout(&drain->done, 10 * HZ),
			0);
	flush_work(&drain->work);
	destroy_work_on_stack(&drain->work);
}

/* End a pass of the prq handling thread, which has set the head */
static void park_end_prq_pass(struct intel_iommu *iommu, u64 head)
{
	*park_reg64(iommu, DMAR_PQH_REG) = head;
	/* Pairs with the acquire in intel_iommu_wait_prq() */
	smp_store_release(&iommu->prq_passes, iommu->prq_passes + 1);
	wake_up_all(&iommu->prq_wait);
}

static void park_request_page(struct park_fixture *fix, u16 sid, u32 pasid)
{
	struct intel_iommu *iommu = &fix->iommu[0];
	u64 *tail = park_reg64(iommu, DMAR_PQT_REG);
	u64 *queue = (u64 *)iommu->prq;

	queue[*tail / sizeof(*queue)] = (u64)pasid << 32 | sid << 16 | BIT(8) | 1;
	*tail = (*tail + 32) & PRQ_RING_MASK;
}

static int park_prq_submit_stub(struct intel_iommu *iommu, struct qi_desc *desc,
				unsigned int count)
{
	struct park_fixture *fix = kunit_get_current_test()->priv;

	fix->prq_submits++;
	/* A page request in flight reaches the queue */
	if (fix->late_pasid) {
		park_request_page(fix, TEST_SID, fix->late_pasid);
		fix->late_pasid = 0;
	}
	if (fix->prq_errors) {
		fix->prq_errors--;
		return -ETIMEDOUT;
	}
	return 0;
}

/* Stubs only apply to the thread of the test */
static void park_stub_drain(struct kunit *test)
{
	kunit_activate_static_stub(test, intel_prq_submit,
				   park_prq_submit_stub);
}

/* The first device has page requests enabled, and an empty mock queue */
static struct intel_iommu *park_init_drain(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct intel_iommu *iommu = &fix->iommu[0];
	unsigned int i;

	iommu->prq = kunit_kzalloc(test, PRQ_RING_MASK + 32, GFP_KERNEL);
	iommu->reg = (void __iomem *)kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, iommu->prq);
	KUNIT_ASSERT_TRUE(test, iommu->reg);
	for (i = 0; i < 2; i++)
		intel_mock_enable_prq(&fix->device[i].info);
	return iommu;
}

static const struct park_drain_by {
	const char *name;
	bool detach;
} park_drain_by[] = {
	{ "drain" },
	{ "detach of what is parked", true },
};

KUNIT_ARRAY_PARAM_DESC(park_drain_by, park_drain_by, name);

static void drain_waits_for_what_is_queued(struct kunit *test)
{
	const struct park_drain_by *param = test->param_value;
	struct park_fixture *fix = test->priv;
	struct device *dev = fix->device[0].dev;
	struct intel_iommu *iommu = park_init_drain(test);
	struct park_drain drain = { .detach = param->detach };

	if (param->detach) {
		park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
		park(fix, 0, PASID);
		intel_pasid_park_sync(&fix->gather);
	}

	/* Nothing is queued, so there is nothing to wait for */
	drain.dev = dev;
	drain.pasid = PASID;
	park_drain(&drain);

	/* The request is handled while the device keeps running */
	park_request_page(fix, TEST_SID, PASID);
	park_start_drain(&drain, dev, PASID);
	KUNIT_EXPECT_FALSE(test, park_drain_is_done(&drain));
	park_end_prq_pass(iommu, 32);
	park_finish_drain(test, &drain);

	/* The first pass may have started before the request arrived */
	park_request_page(fix, TEST_SID, PASID);
	park_start_drain(&drain, dev, PASID);
	KUNIT_EXPECT_FALSE(test, park_drain_is_done(&drain));
	park_end_prq_pass(iommu, 32);
	KUNIT_EXPECT_FALSE(test, park_drain_is_done(&drain));
	/* Done after the second pass, although the device has not stopped */
	park_request_page(fix, TEST_SID, PASID);
	park_end_prq_pass(iommu, 64);
	park_finish_drain(test, &drain);
}

static void drain_waits_for_no_other_device_or_pasid(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct device *dev = fix->device[0].dev;
	struct intel_iommu *iommu = park_init_drain(test);
	struct park_drain drain = {};

	park_request_page(fix, TEST_SID + 1, PASID);
	park_request_page(fix, TEST_SID, PASID + 1);
	park_start_drain(&drain, dev, PASID);
	park_finish_drain(test, &drain);

	/* A drain covers all PASIDs that are parked together */
	park(fix, 0, PASID + 1);
	park_start_drain(&drain, dev, PASID);
	KUNIT_EXPECT_FALSE(test, park_drain_is_done(&drain));
	park_end_prq_pass(iommu, 64);
	park_finish_drain(test, &drain);

	/* After a reset, it covers all PASIDs of the device */
	park_request_page(fix, TEST_SID + 1, PASID);
	park_start_drain(&drain, dev, IOMMU_PASID_INVALID);
	park_finish_drain(test, &drain);
	park_request_page(fix, TEST_SID, PASID + 2);
	park_start_drain(&drain, dev, IOMMU_PASID_INVALID);
	KUNIT_EXPECT_FALSE(test, park_drain_is_done(&drain));
	park_end_prq_pass(iommu, 128);
	park_finish_drain(test, &drain);
}

/* Concurrent drains, none of which misses the end of a pass */
static void drains_go_on_side_by_side(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct intel_iommu *iommu = park_init_drain(test);
	struct park_drain drain[3] = {};
	unsigned int i;

	park_request_page(fix, TEST_SID, PASID);
	park_request_page(fix, TEST_SID, PASID + 1);
	for (i = 0; i < 2; i++) {
		park_start_drain(&drain[i], fix->device[0].dev, PASID + i);
		KUNIT_EXPECT_FALSE(test, park_drain_is_done(&drain[i]));
	}
	park_start_drain(&drain[2], fix->device[0].dev, PASID + 2);
	park_finish_drain(test, &drain[2]);
	park_end_prq_pass(iommu, 64);
	for (i = 0; i < 2; i++)
		park_finish_drain(test, &drain[i]);
}

struct park_prq {
	struct work_struct work;
	struct park_fixture *fix;
	u64 head;
	bool stop;
};

static void park_prq_fn(struct work_struct *work)
{
	struct park_prq *prq = container_of(work, struct park_prq, work);
	struct intel_iommu *iommu = &prq->fix->iommu[0];

	while (!READ_ONCE(prq->stop)) {
		msleep(20);
		prq->head = *park_reg64(iommu, DMAR_PQT_REG);
		park_end_prq_pass(iommu, prq->head);
	}
}

/* Start a thread that handles the queue until it is stopped */
static void park_start_prq(struct park_prq *prq, struct park_fixture *fix)
{
	prq->fix = fix;
	INIT_WORK_ONSTACK(&prq->work, park_prq_fn);
	queue_work(system_unbound_wq, &prq->work);
}

static void park_stop_prq(struct park_prq *prq)
{
	WRITE_ONCE(prq->stop, true);
	flush_work(&prq->work);
	destroy_work_on_stack(&prq->work);
}

/* VT-d 7.10: the request reaches the queue only once hardware has drained it */
static void drain_waits_for_what_is_on_its_way(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct intel_iommu *iommu = park_init_drain(test);
	struct park_prq prq = {};

	park_stub_drain(test);
	fix->late_pasid = PASID;
	park_start_prq(&prq, fix);
	intel_iommu_drain_pasid_prq(fix->device[0].dev, PASID);
	KUNIT_EXPECT_EQ(test, *park_reg64(iommu, DMAR_PQH_REG), 32);
	park_stop_prq(&prq);
	/* The response is also drained */
	KUNIT_EXPECT_EQ(test, fix->prq_submits, 2);
}

static void failed_drain_is_submitted_again(struct kunit *test)
{
	struct park_fixture *fix = test->priv;

	park_init_drain(test);
	park_stub_drain(test);
	fix->prq_errors = 1;
	intel_iommu_drain_pasid_prq(fix->device[0].dev, PASID);
	KUNIT_EXPECT_EQ(test, fix->prq_errors, 0);
	KUNIT_EXPECT_EQ(test, fix->prq_submits, 3);

	/* Retries are limited; this warns */
	fix->prq_submits = 0;
	fix->prq_errors = 100;
	intel_iommu_drain_pasid_prq(fix->device[0].dev, PASID);
	KUNIT_EXPECT_LE(test, fix->prq_submits, 10);
}

static void drain_is_repeated_after_an_overflow(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct intel_iommu *iommu = park_init_drain(test);
	struct park_prq prq = {};

	park_stub_drain(test);
	park_start_prq(&prq, fix);
	/* The overflow never ends: the drain must not wait for that */
	*park_reg(iommu, DMAR_PRS_REG) = DMA_PRS_PRO;
	intel_iommu_drain_pasid_prq(fix->device[0].dev, PASID);
	KUNIT_EXPECT_GT(test, fix->prq_submits, 2);
	KUNIT_EXPECT_LE(test, fix->prq_submits, 10);
	park_stop_prq(&prq);
}

/* The device may have sent requests before, and will not answer */
static void device_that_is_gone_leaves_an_empty_queue(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct intel_iommu *iommu = park_init_drain(test);
	struct park_prq prq = {};

	park_stub_drain(test);
	fix->gone = true;
	park_request_page(fix, TEST_SID, PASID);
	park_start_prq(&prq, fix);
	intel_iommu_drain_pasid_prq(fix->device[0].dev, PASID);
	KUNIT_EXPECT_EQ(test, *park_reg64(iommu, DMAR_PQH_REG), 32);
	park_stop_prq(&prq);
	KUNIT_EXPECT_EQ(test, fix->prq_submits, 0);
}

/* The prq handling thread may wait for locks of waiters */
static void wait_for_page_requests_is_known_to_lockdep(struct kunit *test)
{
	static DEFINE_MUTEX(lock);
	struct park_fixture *fix = test->priv;

	if (!lockdep_test_works())
		kunit_skip(test, "needs CONFIG_PROVE_LOCKING");
	park_init_drain(test);
	park_stub_drain(test);
	/* Drain only the queue */
	fix->gone = true;
	mutex_lock(&lock);
	intel_iommu_drain_pasid_prq(fix->device[0].dev, PASID);
	mutex_unlock(&lock);
	KUNIT_EXPECT_TRUE(test, lockdep_test_waited(&lock, "prq_pass"));
}

static void device_without_page_requests_is_not_drained(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct intel_iommu *iommu = park_init_drain(test);

	park_stub_drain(test);
	fix->device[0].info.pri_supported = 0;
	intel_iommu_drain_pasid_prq(fix->device[0].dev, PASID);
	fix->device[0].info.pri_supported = 1;
	iommu->prq = NULL;
	intel_iommu_drain_pasid_prq(fix->device[0].dev, PASID);
	KUNIT_EXPECT_EQ(test, fix->prq_submits, 0);
}

/* Suspend and resume of the page request queue, with mock registers */

#define PARK_PRQ_ADDRESS(iommu)	(virt_to_phys((iommu)->prq) | PRQ_ORDER)

/* A queue with two requests, with or without the interrupt masked */
static struct intel_iommu *park_init_prq(struct kunit *test, u32 pectl)
{
	struct park_fixture *fix = test->priv;
	struct intel_iommu *iommu = &fix->iommu[0];

	iommu->prq = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	iommu->reg = (void __iomem *)kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, iommu->prq);
	KUNIT_ASSERT_TRUE(test, iommu->reg);
	*park_reg64(iommu, DMAR_PQA_REG) = PARK_PRQ_ADDRESS(iommu);
	*park_reg64(iommu, DMAR_PQH_REG) = 0x20;
	*park_reg64(iommu, DMAR_PQT_REG) = 0x60;
	*park_reg(iommu, DMAR_PECTL_REG) = pectl;
	*park_reg(iommu, DMAR_PEDATA_REG) = 0x4021;
	*park_reg(iommu, DMAR_PEADDR_REG) = 0xfee01004;
	*park_reg(iommu, DMAR_PEUADDR_REG) = 0x100;
	return iommu;
}

static void expect_prq_interrupt(struct kunit *test, struct intel_iommu *iommu,
				 u32 pectl)
{
	KUNIT_EXPECT_EQ(test, *park_reg(iommu, DMAR_PECTL_REG), pectl);
	KUNIT_EXPECT_EQ(test, *park_reg(iommu, DMAR_PEDATA_REG), 0x4021);
	KUNIT_EXPECT_EQ(test, *park_reg(iommu, DMAR_PEADDR_REG), 0xfee01004);
	KUNIT_EXPECT_EQ(test, *park_reg(iommu, DMAR_PEUADDR_REG), 0x100);
}

static const struct park_resume {
	const char *name;
	bool hibernated;	/* the registers were used by another kernel */
	u64 address;		/* queue address of that kernel, 0 for ours */
	u32 pectl;
} park_resumes[] = {
	{ "without power", false, 0, 0 },
	{ "without power, interrupt masked", false, 0, DMA_FECTL_IM },
	{ "from hibernation", true, 0x5550000 | PRQ_ORDER, 0 },
	{ "from hibernation, queue at the same address", true, 0, 0 },
};

KUNIT_ARRAY_PARAM_DESC(park_resumes, park_resumes, name);

static void page_request_queue_is_set_up_on_resume(struct kunit *test)
{
	const struct park_resume *param = test->param_value;
	struct intel_iommu *iommu = park_init_prq(test, param->pectl);

	intel_iommu_suspend_prq(iommu);
	memset((void __force *)iommu->reg, 0, PAGE_SIZE);
	*park_reg(iommu, DMAR_PECTL_REG) = DMA_FECTL_IM;
	if (param->hibernated) {
		*park_reg64(iommu, DMAR_PQA_REG) =
			param->address ?: PARK_PRQ_ADDRESS(iommu);
		*park_reg64(iommu, DMAR_PQH_REG) = 0x40;
		*park_reg64(iommu, DMAR_PQT_REG) = 0x80;
	}

	intel_iommu_resume_prq(iommu);
	KUNIT_EXPECT_EQ(test, *park_reg64(iommu, DMAR_PQA_REG),
			PARK_PRQ_ADDRESS(iommu));
	KUNIT_EXPECT_EQ(test, *park_reg64(iommu, DMAR_PQH_REG), 0);
	KUNIT_EXPECT_EQ(test, *park_reg64(iommu, DMAR_PQT_REG), 0);
	/* Both are cleared by writing 1 */
	KUNIT_EXPECT_EQ(test, *park_reg(iommu, DMAR_PRS_REG),
			DMA_PRS_PPR | DMA_PRS_PRO);
	expect_prq_interrupt(test, iommu, param->pectl);
}

/* Requests lost in suspend are not waited for */
static void drain_ends_with_the_queue_on_resume(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct intel_iommu *iommu = park_init_drain(test);
	struct park_drain drain = {};

	/* Skip the wait for PRS, whose bits are cleared by writing 1 */
	fix->device[0].info.ats_enabled = 0;
	*park_reg64(iommu, DMAR_PQA_REG) = PARK_PRQ_ADDRESS(iommu);
	park_request_page(fix, TEST_SID, PASID);
	park_start_drain(&drain, fix->device[0].dev, PASID);
	KUNIT_EXPECT_FALSE(test, park_drain_is_done(&drain));
	intel_iommu_suspend_prq(iommu);
	*park_reg64(iommu, DMAR_PQA_REG) = 0;
	intel_iommu_resume_prq(iommu);
	park_finish_drain(test, &drain);
}

static void page_requests_survive_an_aborted_suspend(struct kunit *test)
{
	struct intel_iommu *iommu = park_init_prq(test, 0);

	intel_iommu_suspend_prq(iommu);
	intel_iommu_resume_prq(iommu);
	KUNIT_EXPECT_EQ(test, *park_reg64(iommu, DMAR_PQA_REG),
			PARK_PRQ_ADDRESS(iommu));
	KUNIT_EXPECT_EQ(test, *park_reg64(iommu, DMAR_PQH_REG), 0x20);
	KUNIT_EXPECT_EQ(test, *park_reg64(iommu, DMAR_PQT_REG), 0x60);
	KUNIT_EXPECT_EQ(test, *park_reg(iommu, DMAR_PRS_REG), 0);
	expect_prq_interrupt(test, iommu, 0);
}

/* The registers are reserved without page request support */
static void iommu_without_page_requests_is_left_alone(struct kunit *test)
{
	struct intel_iommu *iommu = park_init_prq(test, 0);

	iommu->prq = NULL;
	intel_iommu_suspend_prq(iommu);
	memset((void __force *)iommu->reg, 0, PAGE_SIZE);
	intel_iommu_resume_prq(iommu);
	KUNIT_EXPECT_NULL(test, memchr_inv((void __force *)iommu->reg, 0,
					   PAGE_SIZE));
}

/* The mark blocks all setup paths (invariant final) */

static int setup_first_level(struct park_fixture *fix)
{
	return intel_pasid_setup_first_level(&fix->iommu[0], fix->device[0].dev,
					     intel_mock_first_level(fix->device[0].entries),
					     PASID, TEST_DID, 0);
}

static int setup_second_level(struct park_fixture *fix)
{
	intel_mock_set_table(&fix->domain, fix->device[0].entries);
	return intel_pasid_setup_second_level(&fix->iommu[0], &fix->domain,
					      fix->device[0].dev, PASID);
}

static int setup_pass_through(struct park_fixture *fix)
{
	return intel_pasid_setup_pass_through(&fix->iommu[0],
					      fix->device[0].dev, PASID);
}

static int setup_nested(struct park_fixture *fix)
{
	struct dmar_domain *s1;
	int ret;

	s1 = kzalloc(sizeof(*s1), GFP_KERNEL);
	if (!s1)
		return -ENOMEM;
	xa_init(&s1->iommu_array);
	xa_store(&s1->iommu_array, fix->iommu[0].seq_id, &fix->domain_info,
		 GFP_KERNEL);
	intel_mock_set_table(&fix->domain, fix->device[0].entries);
	s1->s2_domain = &fix->domain;
	s1->s1_cfg.addr_width = ADDR_WIDTH_4LEVEL;
	ret = intel_pasid_setup_nested(&fix->iommu[0], fix->device[0].dev,
				       PASID, s1);
	xa_destroy(&s1->iommu_array);
	kfree(s1);
	return ret;
}

static const struct park_setup {
	const char *name;
	int (*setup)(struct park_fixture *fix);
} park_setups[] = {
	{ "first-stage", setup_first_level },
	{ "second-stage", setup_second_level },
	{ "pass-through", setup_pass_through },
	{ "nested", setup_nested },
};

KUNIT_ARRAY_PARAM_DESC(park_setups, park_setups, name);

static void parked_entry_is_not_set_up(struct kunit *test)
{
	const struct park_setup *param = test->param_value;
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);

	/* The same call succeeds before park and after unpark */
	KUNIT_EXPECT_EQ(test, param->setup(fix), 0);
	KUNIT_EXPECT_TRUE(test, pasid_pte_is_present(pte));
	KUNIT_EXPECT_EQ(test, param->setup(fix), -EBUSY);
	park(fix, 0, PASID);
	KUNIT_EXPECT_EQ(test, param->setup(fix), -ESHUTDOWN);
	KUNIT_EXPECT_FALSE(test, pasid_pte_is_present(pte));
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test, param->setup(fix), -ESHUTDOWN);
	expect_words_cleared(test, pte);
	intel_pasid_unpark(fix->device[0].dev, PASID);
	KUNIT_EXPECT_EQ(test, param->setup(fix), 0);
	KUNIT_EXPECT_TRUE(test, pasid_pte_is_present(pte));
}

static void teardown_leaves_the_mark(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev, PASID,
				    false);
	expect_words_cleared(test, pte);
	/* Same as process exit with SVA */
	intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev, PASID,
				    true);
	expect_words_cleared(test, pte);
}

/* No error, as other PASIDs of the domain must still be tracked */
static void dirty_tracking_passes_a_parked_entry_by(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);
	struct pasid_entry blocked;

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	blocked = *pte;
	KUNIT_EXPECT_EQ(test,
			intel_pasid_setup_dirty_tracking(&fix->iommu[0],
							 fix->device[0].dev,
							 PASID, true), 0);
	KUNIT_EXPECT_MEMEQ(test, pte, &blocked, sizeof(blocked));
	intel_pasid_park_sync(&fix->gather);
	KUNIT_EXPECT_EQ(test,
			intel_pasid_setup_dirty_tracking(&fix->iommu[0],
							 fix->device[0].dev,
							 PASID, true), 0);
	expect_words_cleared(test, pte);
}

/*
 * Process exit frees the page tables of the entry after teardown, so it cannot
 * rely on the flush of a concurrent park.
 */
static void teardown_flushes_for_a_park_under_way(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);
	struct pasid_entry blocked;

	fix->iommu[0].flush.flush_iotlb = park_flush_iotlb_stub;
	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	blocked = *pte;
	intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev, PASID,
				    true);
	KUNIT_EXPECT_EQ(test, fix->teardown_flushes, 1);
	KUNIT_EXPECT_MEMEQ(test, pte, &blocked, sizeof(blocked));

	intel_pasid_park_sync(&fix->gather);
	expect_words_cleared(test, pte);
	intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev, PASID,
				    true);
	KUNIT_EXPECT_EQ(test, fix->teardown_flushes, 1);
}

static void fault_ignore_alone_is_no_mark(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);

	pte->val[0] = PASID_PTE_FPD;
	KUNIT_EXPECT_EQ(test, setup_pass_through(fix), 0);
	pte->val[0] = PASID_PTE_FPD;
	intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev, PASID,
				    false);
	KUNIT_EXPECT_EQ(test, pte->val[0], 0);
}

/*
 * The device is not stopped when a process exits. Its faults are suppressed
 * from the store that blocks the entry until the driver unbinds the process.
 * Then, FPD shows that page requests must be drained.
 */
static void process_exit_ignores_faults_until_unbind(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);
	u64 mask = PASID_PTE_PRESENT | PASID_PTE_FPD;

	fix->iommu[0].flush.flush_iotlb = park_flush_iotlb_stub;
	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev, PASID,
				    true);
	KUNIT_EXPECT_EQ(test, fix->teardown_flushes, 1);
	KUNIT_EXPECT_EQ(test, fix->flushed.val[0] & mask, PASID_PTE_FPD);
	KUNIT_EXPECT_EQ(test, pte->val[0], PASID_PTE_FPD);
	KUNIT_EXPECT_TRUE(test, mem_is_zero(&pte->val[1], sizeof(*pte) -
					    sizeof(pte->val[0])));
	intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev, PASID,
				    false);
	KUNIT_EXPECT_TRUE(test, mem_is_zero(pte, sizeof(*pte)));

	/* Faults of other PASIDs are reported */
	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev, PASID,
				    false);
	KUNIT_EXPECT_EQ(test, fix->flushed.val[0] & mask, 0);
	KUNIT_EXPECT_TRUE(test, mem_is_zero(pte, sizeof(*pte)));
}

/* A process may exit while its driver unbinds, in either order */
static void exit_and_unbind_may_meet(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);
	int i;

	fix->iommu[0].flush.flush_iotlb = park_flush_iotlb_stub;
	for (i = 0; i < 2; i++) {
		fix->teardown_flushes = 0;
		fix->meet = true;
		fix->meet_ignore = i;
		park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
		intel_pasid_tear_down_entry(&fix->iommu[0], fix->device[0].dev,
					    PASID, !i);
		/* Both need a flush, as memory is freed afterwards */
		KUNIT_EXPECT_EQ(test, fix->teardown_flushes, 2);
		/* The entry is empty, and faults are reported again */
		KUNIT_EXPECT_TRUE(test, mem_is_zero(pte, sizeof(*pte)));
	}
}

/* Recycle */

static void unpark_clears_the_entry(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	park(fix, 0, PASID);
	intel_pasid_park_sync(&fix->gather);
	fix->submits = 0;
	intel_pasid_unpark(fix->device[0].dev, PASID);
	KUNIT_EXPECT_TRUE(test, mem_is_zero(pte, sizeof(*pte)));
	/* Not-present entries are not cached */
	KUNIT_EXPECT_EQ(test, fix->submits, 0);
}

/* One flush for all, before any of them is reused */
static void unpark_of_many_flushes_once_in_caching_mode(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	unsigned int i;

	fix->iommu[0].cap |= BIT_ULL(7);
	for (i = 0; i < 3; i++) {
		park(fix, 0, PASID + i);
		intel_pasid_park_sync(&fix->gather);
	}
	fix->submits = 0;
	for (i = 0; i < 3; i++)
		intel_pasid_unpark(fix->device[0].dev, PASID + i);
	KUNIT_EXPECT_EQ(test, fix->submits, 0);
	intel_park_flush_unparked(&fix->iommu[0]);
	KUNIT_ASSERT_EQ(test, fix->submits, 1);
	KUNIT_EXPECT_EQ(test, fix->submit[0].count, 1);
	/* Everything in domain ID 0, VT-d 6.1 */
	KUNIT_EXPECT_EQ(test, fix->submit[0].desc[0].qw0, QI_PC_TYPE);

	/* No second flush, and none for an entry that was not parked */
	intel_pasid_unpark(fix->device[0].dev, PASID);
	intel_park_flush_unparked(&fix->iommu[0]);
	KUNIT_EXPECT_EQ(test, fix->submits, 1);
}

static void unpark_leaves_others_alone(struct kunit *test)
{
	struct park_fixture *fix = test->priv;
	struct pasid_entry *pte = park_entry(fix, 0, PASID);
	struct pasid_entry before;

	park_make_present(fix, 0, PASID, PASID_ENTRY_PGTT_SL_ONLY);
	before = *pte;
	intel_pasid_unpark(fix->device[0].dev, PASID);
	KUNIT_EXPECT_MEMEQ(test, pte, &before, sizeof(before));
}

static struct kunit_case park_cases[] = {
	KUNIT_CASE(mark_is_reserved_while_present),
	KUNIT_CASE(park_touches_only_p_fpd_and_the_mark),
	KUNIT_CASE(words_stay_until_the_flush_is_done),
	KUNIT_CASE(absent_entry_is_marked_without_a_flush),
	KUNIT_CASE(absent_entry_is_flushed_in_caching_mode),
	KUNIT_CASE(blocked_entry_is_flushed_and_drained),
	KUNIT_CASE(parked_is_what_has_the_mark),
	KUNIT_CASE(second_park_does_nothing),
	KUNIT_CASE(pasid_without_a_table_is_left_alone),
	KUNIT_CASE_PARAM(flush_follows_the_order_of_the_specification,
			 park_orders_gen_params),
	KUNIT_CASE(no_device_tlb_flush_without_ats),
	KUNIT_CASE(no_device_tlb_flush_while_translation_is_off),
	KUNIT_CASE(no_device_tlb_flush_of_a_device_that_is_gone),
	KUNIT_CASE(no_device_tlb_flush_of_a_device_in_reset),
	KUNIT_CASE(device_that_is_not_pci_is_not_taken_for_one),
	KUNIT_CASE_PARAM(many_pasids_take_few_descriptors,
			 park_many_gen_params),
	KUNIT_CASE(both_kinds_of_tags_are_flushed),
	KUNIT_CASE(each_iommu_gets_its_own_descriptors),
	KUNIT_CASE(global_flush_leaves_other_iommus_alone),
	KUNIT_CASE(each_device_is_drained_once),
	KUNIT_CASE(device_with_a_quirk_is_flushed_twice),
	KUNIT_CASE(refused_batch_is_sent_one_by_one),
	KUNIT_CASE_PARAM(refused_flush_is_replaced, park_refusals_gen_params),
	KUNIT_CASE_PARAM(no_more_is_pending_than_a_function_can_take,
			 park_depths_gen_params),
	KUNIT_CASE_PARAM(long_close_delays_no_other_park,
			 park_meetings_gen_params),
	KUNIT_CASE(devices_leave_the_gather_one_by_one),
	KUNIT_CASE_PARAM(drain_waits_for_what_is_queued,
			 park_drain_by_gen_params),
	KUNIT_CASE(drain_waits_for_no_other_device_or_pasid),
	KUNIT_CASE(drains_go_on_side_by_side),
	KUNIT_CASE(drain_waits_for_what_is_on_its_way),
	KUNIT_CASE(failed_drain_is_submitted_again),
	KUNIT_CASE(drain_is_repeated_after_an_overflow),
	KUNIT_CASE(device_that_is_gone_leaves_an_empty_queue),
	KUNIT_CASE(wait_for_page_requests_is_known_to_lockdep),
	KUNIT_CASE(device_without_page_requests_is_not_drained),
	KUNIT_CASE_PARAM(page_request_queue_is_set_up_on_resume,
			 park_resumes_gen_params),
	KUNIT_CASE(drain_ends_with_the_queue_on_resume),
	KUNIT_CASE(page_requests_survive_an_aborted_suspend),
	KUNIT_CASE(iommu_without_page_requests_is_left_alone),
	KUNIT_CASE_PARAM(parked_entry_is_not_set_up, park_setups_gen_params),
	KUNIT_CASE(teardown_leaves_the_mark),
	KUNIT_CASE(dirty_tracking_passes_a_parked_entry_by),
	KUNIT_CASE(teardown_flushes_for_a_park_under_way),
	KUNIT_CASE(fault_ignore_alone_is_no_mark),
	KUNIT_CASE(process_exit_ignores_faults_until_unbind),
	KUNIT_CASE(exit_and_unbind_may_meet),
	KUNIT_CASE(unpark_clears_the_entry),
	KUNIT_CASE(unpark_of_many_flushes_once_in_caching_mode),
	KUNIT_CASE(unpark_leaves_others_alone),
	{}
};

static struct kunit_suite park_suite = {
	.name = "intel_pasid_park",
	.init = park_test_init,
	.exit = park_test_exit,
	.test_cases = park_cases,
};

kunit_test_suite(park_suite);

// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a PASID costs: as an object with references, and as a mere number
 *
 * Each read of /sys/kernel/debug/ioasid_bench measures, and gives nanoseconds
 * per call as comma-separated values. On an emulator whose clock counts
 * instructions, and with one processor, these are instructions per call.
 *
 *   alloc, lookup, free   the calls alone, BENCH_CALLS of each in a row
 *   deferred              what free leaves to others: the worker that recycles,
 *			   RCU callbacks; per call
 *   alone                 alloc, free, and to wait for the worker before the
 *			   next one: the most that it can cost to have one;
 *			   without RCU
 *
 * The interrupts of the machine go on, time that it sleeps is not counted, and
 * each figure is the median of several rounds.
 */
#include <linux/debugfs.h>
#include <linux/idr.h>
#include <linux/iommu.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/tick.h>
#include <linux/xarray.h>

#include "ioasid.h"

#define BENCH_CALLS	2000
#define BENCH_ROUNDS	9

enum bench_phase {
	BENCH_ALLOC,
	BENCH_LOOKUP,
	BENCH_FREE,
	BENCH_DEFERRED,
	BENCH_ALONE,
	BENCH_PHASES,
};

/* What the alloc functions gave */
static union {
	u32 id;
	struct ioasid *ioasid;
} bench_slots[BENCH_CALLS];

static struct ioasid_set *bench_set;
static DEFINE_MUTEX(bench_lock);

/* Nothing: what the loop itself costs, to be subtracted from the others */

static noinline int bench_empty_alloc(unsigned int i)
{
	return 0;
}

static noinline void bench_empty(unsigned int i)
{
}

/* A device that supports all PASIDs, for what only looks at that */
static struct dev_iommu bench_dev_iommu = {
	.max_pasids = IOASID_MAX + 1,
};

static struct device bench_dev = {
	.iommu = &bench_dev_iommu,
};

/* The number alone, as the IOMMU core had it without IOASIDs */
static DEFINE_IDA(bench_ida);

static noinline ioasid_t bench_ida_alloc_pasid(struct device *dev)
{
	int ret;

	if (!dev->iommu->max_pasids)
		return IOMMU_PASID_INVALID;

	ret = ida_alloc_range(&bench_ida, IOMMU_FIRST_GLOBAL_PASID,
			      dev->iommu->max_pasids - 1, GFP_KERNEL);
	return ret < 0 ? IOMMU_PASID_INVALID : ret;
}

static noinline void bench_ida_free_pasid(ioasid_t pasid)
{
	if (WARN_ON(pasid == IOMMU_PASID_INVALID))
		return;

	ida_free(&bench_ida, pasid);
}

static int bench_ida_alloc(unsigned int i)
{
	bench_slots[i].id = bench_ida_alloc_pasid(&bench_dev);
	return bench_slots[i].id == IOMMU_PASID_INVALID ? -ENOSPC : 0;
}

static void bench_ida_free(unsigned int i)
{
	bench_ida_free_pasid(bench_slots[i].id);
}

/* The same of now */

static int bench_global_alloc(unsigned int i)
{
	bench_slots[i].id = iommu_alloc_global_pasid(&bench_dev);
	return bench_slots[i].id == IOMMU_PASID_INVALID ? -ENOSPC : 0;
}

static void bench_global_free(unsigned int i)
{
	iommu_free_global_pasid(bench_slots[i].id);
}

/* The least that an object with references can cost: it has nothing else */

static struct kmem_cache *bench_cache;
static DEFINE_XARRAY_FLAGS(bench_xa, XA_FLAGS_ALLOC1 | XA_FLAGS_ACCOUNT);

static int bench_object_alloc(unsigned int i)
{
	struct ioasid *obj = kmem_cache_alloc(bench_cache, GFP_KERNEL);
	int ret;

	if (!obj)
		return -ENOMEM;

	refcount_set(&obj->refs, 1);
	ret = xa_alloc(&bench_xa, &bench_slots[i].id, obj,
		       XA_LIMIT(IOASID_MIN, IOASID_MAX), GFP_KERNEL);
	if (ret)
		kmem_cache_free(bench_cache, obj);
	return ret;
}

static void bench_object_lookup(unsigned int i)
{
	struct ioasid *obj;

	scoped_guard(rcu) {
		obj = xa_load(&bench_xa, bench_slots[i].id);
		if (!obj || !refcount_inc_not_zero(&obj->refs))
			return;
	}
	WARN_ON(refcount_dec_and_test(&obj->refs));
}

static void bench_object_free(unsigned int i)
{
	struct ioasid *obj = xa_erase(&bench_xa, bench_slots[i].id);

	if (refcount_dec_and_test(&obj->refs))
		kfree_rcu(obj, rcu);
}

/* An IOASID of a process */

static int bench_ioasid_alloc(unsigned int i)
{
	bench_slots[i].ioasid = ioasid_alloc(bench_set, IOASID_MIN, IOASID_MAX);
	return PTR_ERR_OR_ZERO(bench_slots[i].ioasid);
}

static void bench_ioasid_lookup(unsigned int i)
{
	struct ioasid *ioasid;

	ioasid = ioasid_find_get(bench_set, bench_slots[i].ioasid->id);
	if (!WARN_ON(IS_ERR(ioasid)))
		ioasid_put(ioasid);
}

static void bench_ioasid_free(unsigned int i)
{
	ioasid_free(bench_slots[i].ioasid);
}

/* An allocation beyond the quota waits for the worker before it fails. */
static void bench_ioasid_flush(void)
{
	u32 quota = bench_set->quota;

	bench_set->quota = 0;
	WARN_ON(!IS_ERR(ioasid_alloc(bench_set, IOASID_MIN, IOASID_MAX)));
	bench_set->quota = quota;
}

/* NULL: there is no such thing. The flush waits for the worker. */
static const struct bench_case {
	const char *name;
	int (*alloc)(unsigned int i);
	void (*lookup)(unsigned int i);
	void (*free)(unsigned int i);
	void (*flush)(void);
} bench_cases[] = {
	{ "empty loop", bench_empty_alloc, bench_empty, bench_empty, NULL },
	{ "number alone (IDA)", bench_ida_alloc, NULL, bench_ida_free, NULL },
	{ "object alone (slab + xarray)", bench_object_alloc,
	  bench_object_lookup, bench_object_free, NULL },
	{ "iommu_alloc_global_pasid", bench_global_alloc, NULL,
	  bench_global_free, bench_ioasid_flush },
	{ "ioasid_alloc", bench_ioasid_alloc, bench_ioasid_lookup,
	  bench_ioasid_free, bench_ioasid_flush },
};

static u64 bench_idle_us(void)
{
	return get_cpu_idle_time_us(raw_smp_processor_id(), NULL);
}

/* Without the time that the processor has slept */
static u64 bench_now(void)
{
	return ktime_get_ns() - bench_idle_us() * NSEC_PER_USEC;
}

static int bench_round(const struct bench_case *c, u64 took[BENCH_PHASES])
{
	u64 times[BENCH_PHASES + 1];
	unsigned int i;
	int ret = 0;

	/* What the one before has left */
	cond_resched();
	rcu_barrier();

	times[BENCH_ALLOC] = bench_now();
	for (i = 0; i < BENCH_CALLS && !ret; i++)
		ret = c->alloc(i);
	if (ret) {
		for (i--; i--; )
			c->free(i);
		return ret;
	}

	times[BENCH_LOOKUP] = bench_now();
	for (i = 0; c->lookup && i < BENCH_CALLS; i++)
		c->lookup(i);

	times[BENCH_FREE] = bench_now();
	for (i = 0; i < BENCH_CALLS; i++)
		c->free(i);

	times[BENCH_DEFERRED] = bench_now();
	if (c->flush)
		c->flush();
	kvfree_rcu_barrier();
	rcu_barrier();

	times[BENCH_ALONE] = bench_now();
	for (i = 0; i < BENCH_CALLS; i++) {
		ret = c->alloc(i);
		if (ret)
			return ret;
		c->free(i);
		if (c->flush)
			c->flush();
	}
	times[BENCH_PHASES] = bench_now();

	for (i = 0; i < BENCH_PHASES; i++)
		took[i] = times[i + 1] - times[i];
	return 0;
}

static int bench_compare(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* The medians, in units of BENCH_CALLS calls */
static int bench_run(const struct bench_case *c, u64 median[BENCH_PHASES])
{
	u64 took[BENCH_PHASES], all[BENCH_PHASES][BENCH_ROUNDS];
	int round, phase, ret;

	/* The first one fills caches */
	for (round = -1; round < BENCH_ROUNDS; round++) {
		ret = bench_round(c, took);
		if (ret)
			return ret;
		for (phase = 0; round >= 0 && phase < BENCH_PHASES; phase++)
			all[phase][round] = took[phase];
	}

	for (phase = 0; phase < BENCH_PHASES; phase++) {
		sort(all[phase], BENCH_ROUNDS, sizeof(all[phase][0]),
		     bench_compare, NULL);
		median[phase] = all[phase][BENCH_ROUNDS / 2];
	}
	return 0;
}

static int bench_show(struct seq_file *s, void *unused)
{
	u64 loop[BENCH_PHASES], took[BENCH_PHASES];
	int i, phase, ret = 0;

	/* In the first seconds, nobody knows how long the processor sleeps */
	if (bench_idle_us() == U64_MAX)
		return -EAGAIN;

	guard(mutex)(&bench_lock);
	bench_set = ioasid_set_get_mm(current->mm);
	if (IS_ERR(bench_set))
		return PTR_ERR(bench_set);
	bench_set->quota = max(bench_set->quota, bench_set->used + BENCH_CALLS);

	seq_puts(s, "what,alloc,lookup,free,deferred,alone\n");
	for (i = 0; i < ARRAY_SIZE(bench_cases) && !ret; i++) {
		ret = bench_run(&bench_cases[i], i ? took : loop);
		if (ret || !i)
			continue;
		seq_puts(s, bench_cases[i].name);
		for (phase = 0; phase < BENCH_PHASES; phase++) {
			s64 ns = took[phase] - loop[phase];

			seq_putc(s, ',');
			if (phase != BENCH_LOOKUP || bench_cases[i].lookup)
				seq_printf(s, "%lld",
					   div_s64(ns, BENCH_CALLS));
		}
		seq_putc(s, '\n');
	}
	ioasid_set_put(bench_set);
	return ret;
}
DEFINE_SHOW_ATTRIBUTE(bench);

static struct dentry *bench_file;

static int __init bench_init(void)
{
	bench_cache = kmem_cache_create("ioasid_bench", sizeof(struct ioasid),
					0, SLAB_ACCOUNT, NULL);
	if (!bench_cache)
		return -ENOMEM;

	bench_file = debugfs_create_file("ioasid_bench", 0400, NULL, NULL,
					 &bench_fops);
	return 0;
}
module_init(bench_init);

static void __exit bench_exit(void)
{
	debugfs_remove(bench_file);
	kmem_cache_destroy(bench_cache);
}
module_exit(bench_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Benchmark of reference counted PASIDs");

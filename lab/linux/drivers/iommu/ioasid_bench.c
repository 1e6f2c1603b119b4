// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cost of a PASID: as an IOASID, as a bare ID (IDA), and as a bare refcounted
 * object
 *
 * Reading ioasid_bench/calls in debugfs runs the benchmark and returns
 * nanoseconds per call as comma-separated values. On an emulator with one
 * processor whose clock counts instructions, these are instructions per call.
 *
 *   alloc, lookup, free the calls alone, BENCH_CALLS of each in a row deferred
 *   work that free leaves to others, per call: the recycle
 *			   worker and RCU callbacks
 *   alone                 alloc, free, and ioasid_recycle_flush() before the
 *			   next alloc: worst case, no batching of the recycle;
 *			   without RCU
 *
 * Interrupts stay enabled, idle time is not counted, and each value is the
 * median of several rounds.
 */
#include <linux/cleanup.h>
#include <linux/completion.h>
#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/idr.h>
#include <linux/init.h>
#include <linux/iommu.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/debug.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/spinlock.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/tick.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>
#include <trace/events/lock.h>

#include "intel/iommu.h"
#include "intel/pasid.h"
#include "intel/trace.h"
#include "ioasid.h"
#include "ioasid_bench.h"

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

/* Results of the alloc functions */
static union {
	u32 id;
	struct ioasid *ioasid;
} bench_slots[BENCH_CALLS];

static struct ioasid_set *bench_set;
static DEFINE_MUTEX(bench_lock);

/* Empty loop, whose cost is subtracted from the others */

static noinline int bench_empty_alloc(unsigned int i)
{
	return 0;
}

static noinline void bench_empty(unsigned int i)
{
}

/* A device that supports all PASIDs; nothing else of it is used */
static struct dev_iommu bench_dev_iommu = {
	.max_pasids = IOASID_MAX + 1,
};

static struct device bench_dev = {
	.iommu = &bench_dev_iommu,
};

/* Bare ID: the implementation of the IOMMU core without IOASIDs */
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

/* The current implementation */

static int bench_global_alloc(unsigned int i)
{
	bench_slots[i].id = iommu_alloc_global_pasid(&bench_dev);
	return bench_slots[i].id == IOMMU_PASID_INVALID ? -ENOSPC : 0;
}

static void bench_global_free(unsigned int i)
{
	iommu_free_global_pasid(bench_slots[i].id);
}

/* Bare object: the minimal cost of reference counting */

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

static __always_inline struct ioasid *bench_object_find_get(u32 id)
{
	struct ioasid *obj;

	guard(rcu)();
	obj = xa_load(&bench_xa, id);
	return obj && refcount_inc_not_zero(&obj->refs) ? obj : NULL;
}

static __always_inline void bench_object_put(struct ioasid *obj)
{
	WARN_ON(refcount_dec_and_test(&obj->refs));
}

static void bench_object_lookup(unsigned int i)
{
	struct ioasid *obj = bench_object_find_get(bench_slots[i].id);

	if (!WARN_ON(!obj))
		bench_object_put(obj);
}

/* Same with external functions, as those of an IOASID are */

static noinline struct ioasid *bench_function_find_get(u32 id)
{
	return bench_object_find_get(id);
}

static noinline void bench_function_put(struct ioasid *obj)
{
	bench_object_put(obj);
}

static void bench_function_lookup(unsigned int i)
{
	struct ioasid *obj = bench_function_find_get(bench_slots[i].id);

	if (!WARN_ON(!obj))
		bench_function_put(obj);
}

static void bench_object_free(unsigned int i)
{
	struct ioasid *obj = xa_erase(&bench_xa, bench_slots[i].id);

	if (refcount_dec_and_test(&obj->refs))
		kfree_rcu(obj, rcu);
}

/* An IOASID owned by a process */

static int bench_ioasid_alloc(unsigned int i)
{
	bench_slots[i].ioasid = ioasid_alloc(bench_set, IOASID_MIN, IOASID_MAX);
	return PTR_ERR_OR_ZERO(bench_slots[i].ioasid);
}

static void bench_ioasid_lookup(unsigned int i)
{
	struct ioasid *ioasid;

	ioasid = ioasid_account_find_get(&bench_set->kernel,
					 bench_slots[i].ioasid->id);
	if (!WARN_ON(IS_ERR(ioasid)))
		ioasid_put(ioasid);
}

static void bench_ioasid_free(unsigned int i)
{
	ioasid_free(bench_slots[i].ioasid);
}

/* NULL if not applicable. The flush waits for the worker. */
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
	{ "the same through functions", bench_object_alloc,
	  bench_function_lookup, bench_object_free, NULL },
	{ "iommu_alloc_global_pasid", bench_global_alloc, NULL,
	  bench_global_free, ioasid_recycle_flush },
	{ "ioasid_alloc", bench_ioasid_alloc, bench_ioasid_lookup,
	  bench_ioasid_free, ioasid_recycle_flush },
};

static u64 bench_idle_us(void)
{
	return get_cpu_idle_time_us(raw_smp_processor_id(), NULL);
}

/* Excludes idle time */
static u64 bench_now(void)
{
	return ktime_get_ns() - bench_idle_us() * NSEC_PER_USEC;
}

static int bench_round(const struct bench_case *c, u64 took[BENCH_PHASES])
{
	u64 times[BENCH_PHASES + 1];
	unsigned int i;
	int ret = 0;

	/* Finish the work left by the previous round */
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

/* Return medians, in units of BENCH_CALLS calls */
static int bench_run(const struct bench_case *c, u64 median[BENCH_PHASES])
{
	u64 took[BENCH_PHASES], all[BENCH_PHASES][BENCH_ROUNDS];
	int round, phase, ret;

	/* The first round warms up caches */
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

	/* The idle time is not available in the first seconds */
	if (bench_idle_us() == U64_MAX)
		return -EAGAIN;

	guard(mutex)(&bench_lock);
	bench_set = ioasid_set_get_mm(current->mm);
	if (IS_ERR(bench_set))
		return PTR_ERR(bench_set);

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

/* Timestamps for measurements by user space */

static int now_show(struct seq_file *s, void *unused)
{
	seq_printf(s, "%llu\n", bench_now());
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(now);

static int recycled_show(struct seq_file *s, void *unused)
{
	ioasid_recycle_flush();
	return now_show(s, unused);
}
DEFINE_SHOW_ATTRIBUTE(recycled);

static int settled_show(struct seq_file *s, void *unused)
{
	kvfree_rcu_barrier();
	rcu_barrier();
	return recycled_show(s, unused);
}
DEFINE_SHOW_ATTRIBUTE(settled);

/* Two CPUs at once */

#define PARALLEL_OBJECTS	64

/*
 * A pair of objects that were allocated one after the other, one for each CPU.
 * Alternatively, the same object for both.
 */
static struct parallel {
	struct ioasid_set *set;
	struct ioasid *neighbour[2];
	atomic_t ready;
} parallel;

static void parallel_meet(unsigned int nr_cpus)
{
	atomic_inc(&parallel.ready);
	while (atomic_read(&parallel.ready) < nr_cpus)
		cpu_relax();
}

static void parallel_ida(unsigned int cpu)
{
	ioasid_t id[PARALLEL_OBJECTS];
	unsigned int i;

	for (i = 0; i < PARALLEL_OBJECTS; i++)
		id[i] = bench_ida_alloc_pasid(&bench_dev);
	for (i = 0; i < PARALLEL_OBJECTS; i++)
		bench_ida_free_pasid(id[i]);
}

static void parallel_bare(unsigned int cpu)
{
	struct ioasid *obj[PARALLEL_OBJECTS];
	unsigned int i;

	for (i = 0; i < PARALLEL_OBJECTS; i++) {
		obj[i] = kmem_cache_alloc(bench_cache, GFP_KERNEL);
		if (!obj[i])
			break;
		refcount_set(&obj[i]->refs, 1);
		if (xa_alloc(&bench_xa, &obj[i]->id, obj[i],
			     XA_LIMIT(IOASID_MIN, IOASID_MAX), GFP_KERNEL)) {
			kmem_cache_free(bench_cache, obj[i]);
			break;
		}
	}
	while (i--) {
		xa_erase(&bench_xa, obj[i]->id);
		if (refcount_dec_and_test(&obj[i]->refs))
			kfree_rcu(obj[i], rcu);
	}
}

static void parallel_ioasid(unsigned int cpu)
{
	struct ioasid *ioasid[PARALLEL_OBJECTS];
	unsigned int i;

	for (i = 0; i < PARALLEL_OBJECTS; i++) {
		ioasid[i] = ioasid_alloc(parallel.set, IOASID_MIN, IOASID_MAX);
		if (IS_ERR(ioasid[i]))
			break;
	}
	while (i--)
		ioasid_free(ioasid[i]);
}

static void parallel_get_put(struct ioasid *ioasid)
{
	unsigned int i;

	for (i = 0; i < PARALLEL_OBJECTS; i++)
		ioasid_get(ioasid);
	for (i = 0; i < PARALLEL_OBJECTS; i++)
		ioasid_put(ioasid);
}

static void parallel_neighbours(unsigned int cpu)
{
	parallel_get_put(parallel.neighbour[cpu]);
}

static void parallel_same(unsigned int cpu)
{
	parallel_get_put(parallel.neighbour[0]);
}

static void parallel_lookup(unsigned int cpu)
{
	u32 id = parallel.neighbour[cpu]->id;
	struct ioasid *ioasid;
	unsigned int i;

	for (i = 0; i < PARALLEL_OBJECTS; i++) {
		ioasid = ioasid_account_find_get(&parallel.set->kernel, id);
		if (!WARN_ON(IS_ERR(ioasid)))
			ioasid_put(ioasid);
	}
}

static const struct parallel_case {
	const char *name;
	unsigned int rounds;
	void (*fn)(unsigned int cpu);	/* PARALLEL_OBJECTS times */
} parallel_cases[] = {
	{ "IDA alloc+free", 2000, parallel_ida },
	{ "bare object alloc+free", 2000, parallel_bare },
	{ "ioasid_alloc+ioasid_free", 2000, parallel_ioasid },
	{ "get+put of neighbours", 20000, parallel_neighbours },
	{ "get+put of the same one", 20000, parallel_same },
	{ "lookup+get+put of neighbours", 10000, parallel_lookup },
};

struct parallel_thread {
	const struct parallel_case *c;
	struct completion done;
	unsigned int cpu, nr_cpus;
	u64 ns;
};

static int parallel_fn(void *data)
{
	struct parallel_thread *t = data;
	unsigned int i;
	u64 start;

	parallel_meet(t->nr_cpus);
	start = ktime_get_ns();
	for (i = 0; i < t->c->rounds; i++) {
		t->c->fn(t->cpu);
		cond_resched();
	}
	t->ns = ktime_get_ns() - start;
	complete(&t->done);
	return 0;
}

/* Nanoseconds per call, of the slower CPU if there are two */
static int parallel_run(const struct parallel_case *c, unsigned int nr_cpus,
			u64 *ns)
{
	struct parallel_thread t[2];
	struct task_struct *task[2];
	unsigned int i;

	atomic_set(&parallel.ready, 0);
	for (i = 0; i < nr_cpus; i++) {
		t[i] = (struct parallel_thread) {
			.c = c, .cpu = i, .nr_cpus = nr_cpus,
		};
		init_completion(&t[i].done);
		task[i] = kthread_create_on_cpu(parallel_fn, &t[i], i,
						"ioasid-bench/%u");
		if (IS_ERR(task[i])) {
			while (i--)
				kthread_stop(task[i]);
			return -ENOMEM;
		}
	}
	for (i = 0; i < nr_cpus; i++)
		wake_up_process(task[i]);
	*ns = 0;
	for (i = 0; i < nr_cpus; i++) {
		wait_for_completion(&t[i].done);
		*ns = max(*ns, t[i].ns);
	}
	*ns = div_u64(*ns * 100, c->rounds * PARALLEL_OBJECTS);
	kvfree_rcu_barrier();
	rcu_barrier();
	return 0;
}

static int parallel_show(struct seq_file *s, void *unused)
{
	u64 one, two;
	unsigned int i;
	int ret = 0;

	if (num_online_cpus() < 2)
		return -ENODEV;

	guard(mutex)(&bench_lock);
	parallel.set = ioasid_set_get_mm(current->mm);
	if (IS_ERR(parallel.set))
		return PTR_ERR(parallel.set);
	for (i = 0; i < 2; i++)
		parallel.neighbour[i] = ioasid_alloc(parallel.set, IOASID_MIN,
						     IOASID_MAX);

	seq_puts(s, "what,one processor (ns),two processors (ns)\n");
	for (i = 0; i < ARRAY_SIZE(parallel_cases) && !ret; i++) {
		if (IS_ERR(parallel.neighbour[0]) ||
		    IS_ERR(parallel.neighbour[1]))
			ret = -ENOSPC;
		/* The first run warms up caches */
		ret = ret ?: parallel_run(&parallel_cases[i], 1, &one);
		ret = ret ?: parallel_run(&parallel_cases[i], 1, &one);
		ret = ret ?: parallel_run(&parallel_cases[i], 2, &two);
		if (!ret)
			seq_printf(s, "%s,%llu.%02llu,%llu.%02llu\n",
				   parallel_cases[i].name, one / 100, one % 100,
				   two / 100, two % 100);
	}
	for (i = 0; i < 2; i++) {
		if (!IS_ERR(parallel.neighbour[i]))
			ioasid_free(parallel.neighbour[i]);
	}
	ioasid_set_put(parallel.set);
	return ret;
}
DEFINE_SHOW_ATTRIBUTE(parallel);

/* What user space starts by writing 1, and ends by writing 0 */
struct probe {
	int (*start)(void);
	void (*stop)(void);
	void (*show)(struct seq_file *s);
	bool on;
};

static int probe_show(struct seq_file *s, void *unused)
{
	struct probe *probe = s->private;

	guard(mutex)(&bench_lock);
	probe->show(s);
	return 0;
}

static ssize_t probe_write(struct file *file, const char __user *ubuf,
			   size_t count, loff_t *ppos)
{
	struct probe *probe = file_inode(file)->i_private;
	bool on;
	int ret;

	ret = kstrtobool_from_user(ubuf, count, &on);
	if (ret)
		return ret;

	guard(mutex)(&bench_lock);
	if (on == probe->on)
		return -EBUSY;
	if (on) {
		ret = probe->start();
		if (ret)
			return ret;
	} else {
		probe->stop();
		tracepoint_synchronize_unregister();
	}
	probe->on = on;
	return count;
}
DEFINE_SHOW_STORE_ATTRIBUTE(probe);

/* What is ahead of a task's submissions in an invalidation queue */

static struct ahead {
	struct task_struct *task;
	unsigned int steps;	/* submissions of @task */
	unsigned int behind;	/* those with anything ahead */
	unsigned int batches;	/* maximum of waits ahead */
	unsigned int descs;	/* maximum of descriptors ahead, without waits */
} ahead;

static bool ahead_is_wait(struct intel_iommu *iommu, unsigned int slot)
{
	struct qi_desc *desc = iommu->qi->desc + (slot << qi_shift(iommu));

	return (desc->qw0 & (GENMASK_ULL(3, 0) | QI_IWD_STATUS_WRITE)) ==
	       (QI_IWD_TYPE | QI_IWD_STATUS_WRITE);
}

/* Called for each descriptor, under the lock of the queue */
static void ahead_qi_submit(void *data, struct intel_iommu *iommu, u64 qw0,
			    u64 qw1, u64 qw2, u64 qw3)
{
	struct q_inval *qi = iommu->qi;
	unsigned int slot = qi->free_head, batches = 0, descs = 0;
	bool pending = false;

	/* Only for the first descriptor: the next slot is not in use yet */
	if (current != ahead.task ||
	    qi->desc_status[(slot + 1) % QI_LENGTH] != QI_FREE)
		return;

	/* Backwards, to find the wait of a submission before its descriptors */
	while (slot != qi->free_tail) {
		slot = (slot + QI_LENGTH - 1) % QI_LENGTH;
		if (ahead_is_wait(iommu, slot)) {
			/* Hardware has not written the status yet */
			pending = READ_ONCE(qi->desc_status[slot]) == QI_IN_USE;
			batches += pending;
		} else {
			descs += pending;
		}
	}
	ahead.steps++;
	ahead.behind += !!batches;
	ahead.batches = max(ahead.batches, batches);
	ahead.descs = max(ahead.descs, descs);
}

static void ahead_show(struct seq_file *s)
{
	seq_printf(s, "steps %u\nbehind %u\nbatches %u\ndescriptors %u\n",
		   ahead.steps, ahead.behind, ahead.batches, ahead.descs);
}

static int ahead_start(void)
{
	ahead = (struct ahead){ .task = current };
	return register_trace_qi_submit(ahead_qi_submit, NULL);
}

static void ahead_stop(void)
{
	unregister_trace_qi_submit(ahead_qi_submit, NULL);
}

static struct probe ahead_probe = {
	.start = ahead_start, .stop = ahead_stop, .show = ahead_show,
};

/* Contended acquisitions of locks, by caller */

#define WAITERS		512
#define WAITER_DEPTH	16

/* A hash table of return addresses, which are never removed */
static struct waiter {
	unsigned long caller;
	atomic_t count;
} waiters[WAITERS];
static atomic_t waiters_lost;

/* Return address in the caller of the lock's function, or 1 if unknown */
static unsigned long waiter_caller(void)
{
	unsigned long entries[WAITER_DEPTH];
	unsigned int i, nr = stack_trace_save(entries, ARRAY_SIZE(entries), 0);
	bool in_lock = false;

	for (i = 0; i < nr; i++) {
		if (in_lock_functions(entries[i]) ||
		    in_sched_functions(entries[i]))
			in_lock = true;
		else if (in_lock)
			return entries[i];
	}
	return 1;
}

static void waiter_contention_begin(void *data, void *lock, unsigned int flags)
{
	unsigned long caller, old;
	unsigned int i, n;

	/* Already counted when this acquisition began to spin */
	if (flags == LCB_F_MUTEX)
		return;

	caller = waiter_caller();
	i = hash_long(caller, ilog2(WAITERS));
	for (n = 0; n < WAITERS; n++, i = (i + 1) % WAITERS) {
		old = READ_ONCE(waiters[i].caller);
		if (!old)
			old = cmpxchg(&waiters[i].caller, 0, caller) ?: caller;
		if (old == caller) {
			atomic_inc(&waiters[i].count);
			return;
		}
	}
	/* No WARN: any lock can be held here */
	atomic_inc(&waiters_lost);
}

static int waiter_start(void)
{
	memset(waiters, 0, sizeof(waiters));
	atomic_set(&waiters_lost, 0);
	return register_trace_contention_begin(waiter_contention_begin, NULL);
}

static void waiter_stop(void)
{
	unregister_trace_contention_begin(waiter_contention_begin, NULL);
}

static void waiter_show(struct seq_file *s)
{
	unsigned int i;

	for (i = 0; i < WAITERS; i++) {
		if (waiters[i].caller)
			seq_printf(s, "%lx %d\n", waiters[i].caller,
				   atomic_read(&waiters[i].count));
	}
	if (atomic_read(&waiters_lost))
		seq_printf(s, "0 %d\n", atomic_read(&waiters_lost));
}

static struct probe waiter_probe = {
	.start = waiter_start, .stop = waiter_stop, .show = waiter_show,
};

/* Controls: locks shared by all owners, which must show up */

#define GLOBAL_US	100

static DEFINE_MUTEX(global_mutex);
static DEFINE_SPINLOCK(global_spinlock);

static noinline void global_sleep(void)
{
	guard(mutex)(&global_mutex);
	udelay(GLOBAL_US);
}

static noinline void global_spin(void)
{
	guard(spinlock)(&global_spinlock);
	udelay(GLOBAL_US);
}

static int global_show(struct seq_file *s, void *unused)
{
	global_sleep();
	global_spin();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(global);

/* Block PASIDs one at a time, as without park */

#define TEARDOWN_MAX_PER_WAIT	128

/* Larger batches than those of park, to see that they are noticed */
static int teardown_flush(struct intel_iommu *iommu, const u32 *ids, u32 count,
			  u32 per_wait)
{
	struct qi_desc *desc __free(kvfree) = NULL;
	u32 i, n = 0;

	desc = kvcalloc(per_wait, sizeof(*desc), GFP_KERNEL);
	if (!desc)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		desc[n++].qw0 = QI_PC_GRAN(QI_PC_PASID_SEL) |
				QI_PC_PASID(ids[i]) | QI_PC_TYPE;
		if (n < per_wait && i + 1 < count)
			continue;
		qi_submit_sync(iommu, desc, n, 0);
		cond_resched();
		n = 0;
	}
	return 0;
}

static struct device *teardown_find_device(const char *name)
{
	struct device *dev = bus_find_device_by_name(&pci_bus_type, NULL, name);

	if (dev && (!dev->iommu_group || !dev->iommu ||
		    dev->iommu->iommu_dev->ops != &intel_iommu_ops)) {
		put_device(dev);
		return NULL;
	}
	return dev;
}

static long teardown_ioctl(struct file *filp, unsigned int cmd,
			   unsigned long uarg)
{
	u32 *ids __free(kvfree) = NULL;
	struct device_domain_info *info;
	struct ioasid_bench_teardown arg;
	struct device *dev;
	int ret = 0;
	u32 i;

	if (cmd != IOASID_BENCH_TEARDOWN)
		return -ENOTTY;
	if (copy_from_user(&arg, (void __user *)uarg, sizeof(arg)))
		return -EFAULT;
	arg.device[sizeof(arg.device) - 1] = 0;
	if (arg.count > IOASID_MAX || arg.per_wait > TEARDOWN_MAX_PER_WAIT)
		return -EINVAL;

	ids = vmemdup_user(u64_to_user_ptr(arg.ids), arg.count * sizeof(*ids));
	if (IS_ERR(ids))
		return PTR_ERR(ids);

	dev = teardown_find_device(arg.device);
	if (!dev)
		return -ENODEV;
	info = dev_iommu_priv_get(dev);
	if (arg.per_wait)
		ret = teardown_flush(info->iommu, ids, arg.count, arg.per_wait);
	for (i = 0; i < arg.count && !arg.per_wait; i++) {
		intel_pasid_tear_down_entry(info->iommu, dev, ids[i], false);
		cond_resched();
	}
	put_device(dev);
	return ret;
}

static const struct file_operations teardown_fops = {
	.open = simple_open,
	.unlocked_ioctl = teardown_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static int __init bench_init(void)
{
	struct dentry *dir;

	bench_cache = kmem_cache_create("ioasid_bench", sizeof(struct ioasid),
					0, SLAB_HWCACHE_ALIGN | SLAB_ACCOUNT,
					NULL);
	if (!bench_cache)
		return -ENOMEM;

	dir = debugfs_create_dir("ioasid_bench", NULL);
	debugfs_create_file("calls", 0400, dir, NULL, &bench_fops);
	debugfs_create_file("now", 0400, dir, NULL, &now_fops);
	debugfs_create_file("recycled", 0400, dir, NULL, &recycled_fops);
	debugfs_create_file("settled", 0400, dir, NULL, &settled_fops);
	debugfs_create_file("parallel", 0400, dir, NULL, &parallel_fops);
	debugfs_create_file("teardown", 0600, dir, NULL, &teardown_fops);
	debugfs_create_file("ahead", 0600, dir, &ahead_probe, &probe_fops);
	debugfs_create_file("contention", 0600, dir, &waiter_probe,
			    &probe_fops);
	debugfs_create_file("global", 0400, dir, NULL, &global_fops);
	return 0;
}
late_initcall(bench_init);

// SPDX-License-Identifier: GPL-2.0-only
/*
 * IOASID: reference counted PASIDs
 *
 * A PASID numbers an address space that devices can DMA into. Its owner, and
 * users such as VFIO or KVM, hold it at the same time and put it in any order.
 * An IOASID is the object that they share. See
 * Documentation/driver-api/ioasid.rst, which includes what follows.
 */

/**
 * DOC: States
 *
 * ACTIVE
 *	Allocated: can be looked up, attached, and used for DMA.
 * PARKED
 *	Its owner freed it or closed the file: DMA is blocked on every
 *	attachment, faults are suppressed, users may still hold it.
 * recycled
 *	The last reference is gone: the hardware is back to "not present,
 *	faults reported", the number is free.
 *
 * States only advance in this order. Users are not notified; they see -ESHUTDOWN
 * on the next request.
 *
 * The end of an IOASID has these steps, and no other names for them:
 *
 * free
 *	The owner parks the IOASID and puts its reference.
 * park
 *	ACTIVE becomes PARKED, the entries are blocked and flushed.
 * put
 *	A reference ends. The IOASID must be detached before.
 * recycle
 *	After the last put: the entries are unparked, and the number is released.
 * release
 *	The charges are returned and the number is free, the object ends. Also
 *	for a number that was reserved and never published.
 */

/**
 * DOC: Locks
 *
 * Outermost first:
 *
 * =======================  =================================================
 * Lock                     What it is for
 * =======================  =================================================
 * ``ioasid_ctx.lock``      what a file has, as a whole (``ioasid_cdev.c``)
 * ``ioasid.lock``          attach, detach and park of one IOASID
 * ``iommu_group.mutex``    the IOMMU core, and below it what the IOMMU driver
 *                          takes
 * ``ioasid_full_lock``     last try of an allocation; never taken together
 *                          with one of the above
 * ``ioasid_account.lock``  the IOASIDs of an owner, and how many there are, a
 *                          spinlock, innermost
 * =======================  =================================================
 *
 * No two ``ioasid.lock`` are held at once. Lookups run under RCU. ioasid_put()
 * takes none of these: it may be called with any of them held, and in any
 * context; the rest of the work is that of a worker. Only an owner that frees
 * what nobody else holds recycles it by itself.
 */

#define pr_fmt(fmt) "ioasid: " fmt

#include <linux/init.h>
#include <linux/iommu.h>
#include <linux/irq_work.h>
#include <linux/misc_cgroup.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <kunit/visibility.h>

#include "ioasid.h"
#include "iommu-priv.h"

#define CREATE_TRACE_POINTS
#include <trace/events/ioasid.h>

/*
 * The number space. An entry stands here from the moment its number is taken
 * until the number is recycled: this is what keeps a number from being handed
 * out twice.
 */
static DEFINE_XARRAY_FLAGS(ioasid_xa, XA_FLAGS_ALLOC1 | XA_FLAGS_ACCOUNT);

static struct kmem_cache *ioasid_cache;
static struct kmem_cache *ioasid_attachment_cache;

/* Detach waits here for a park that is under way */
static DECLARE_WAIT_QUEUE_HEAD(ioasid_blocked_wq);

static struct llist_node *ioasid_recycle(struct llist_node *list);
static void ioasid_queue_all(struct llist_node *list);

/**
 * struct ioasid_attachment - one group whose PASID table knows the IOASID
 * @node: in ioasid.attachments
 * @domain: what is attached, NULL when detached from a PARKED IOASID
 * @group: the group of the device; the reference makes it safe to come back at
 *	   recycle, when the device may be gone
 * @entry: for park; its device is the one whose attachment it is, NULL without
 *	   @domain
 * @parked: by iommu_park_device_pasid(), because the owner has freed it
 * @blocked: because a user put its reference without detaching
 */
struct ioasid_attachment {
	struct list_head node;
	struct iommu_domain *domain;
	struct iommu_group *group;
	struct iommu_pasid_gather_entry entry;
	bool parked;
	bool blocked;
};

/* Allocation */

/* Any number: first those that few devices need, then the scarce ones */
VISIBLE_IF_KUNIT struct ioasid_range ioasid_any[] = {
	{ IOASID_LOW_END, IOASID_MAX },
	{ IOASID_RESERVE_END, IOASID_LOW_END - 1 },
	{ IOASID_MIN, IOASID_RESERVE_END - 1 },
};

/*
 * Give free numbers of @range to some of @count objects, as many as there are.
 * Returns how many, or an error if there is another reason for having no more.
 */
static int ioasid_take_numbers(struct ioasid **ioasids, u32 count,
			       const struct ioasid_range *range, gfp_t gfp)
{
	XA_STATE(xas, &ioasid_xa, range->min);
	u32 done = 0;

	/* As xa_alloc() for each, but each search goes on where one has ended */
	do {
		xas_lock(&xas);
		while (done < count) {
			xas_find_marked(&xas, range->max, XA_FREE_MARK);
			if (xas.xa_node == XAS_RESTART)
				break;
			ioasids[done]->id = xas.xa_index;
			xas_store(&xas, ioasids[done]);
			xas_clear_mark(&xas, XA_FREE_MARK);
			if (xas_error(&xas))
				break;
			done++;
		}
		xas_unlock(&xas);
	} while (xas_nomem(&xas, gfp));

	return xas_error(&xas) && !done ? xas_error(&xas) : done;
}

/*
 * Of those that compete for what is left, each may have a part and give it up
 * again because there is no more. They get another try, one after the other: by
 * then, all that have failed before have nothing.
 *
 * What they need from their memory cgroup they get before they take the lock, or
 * without waiting: a cgroup that is at its limit must not delay others.
 */
static DEFINE_MUTEX(ioasid_full_lock);

/* @count objects without numbers, at most IOASID_BATCH */
static int ioasid_alloc_objects(struct ioasid **ioasids, u32 count)
{
	u32 i;

	lockdep_assert_not_held(&ioasid_full_lock);

	if (!kmem_cache_alloc_bulk(ioasid_cache, GFP_KERNEL | __GFP_ZERO, count,
				   (void **)ioasids))
		return -ENOMEM;

	for (i = 0; i < count; i++) {
		/* No reference yet: a lookup leaves it alone */
		ioasids[i]->state = IOASID_STATE_RESERVED;
		mutex_init(&ioasids[i]->lock);
		INIT_LIST_HEAD(&ioasids[i]->attachments);
		RB_CLEAR_NODE(&ioasids[i]->node);
	}
	return 0;
}

static void ioasid_free_objects(struct ioasid **ioasids, u32 count)
{
	u32 i;

	for (i = 0; i < count; i++)
		mutex_destroy(&ioasids[i]->lock);
	kmem_cache_free_bulk(ioasid_cache, count, (void **)ioasids);
}

static void ioasid_free_spare(struct ioasid_chain *spare)
{
	struct ioasid *ioasid;

	while (spare->first) {
		ioasid = ioasid_chain_pop(spare);
		ioasid_free_objects(&ioasid, 1);
	}
}

/* As many objects without numbers as @req asks for. On failure, @spare has none. */
static int ioasid_alloc_spare(const struct ioasid_request *req,
			      struct ioasid_chain *spare)
{
	struct ioasid *ioasids[IOASID_BATCH];
	u32 i, count, left;
	int ret = 0;

	for (left = req->count; left && !ret; left -= count) {
		count = min(left, IOASID_BATCH);
		ret = fatal_signal_pending(current) ? -EINTR :
			      ioasid_alloc_objects(ioasids, count);
		for (i = 0; i < count && !ret; i++)
			ioasid_chain_add(spare, ioasids[i]);
		cond_resched();
	}
	if (ret)
		ioasid_free_spare(spare);
	return ret;
}

/*
 * Add up to @count objects with numbers, at most IOASID_BATCH, to @chain. No
 * lookup finds them until ioasid_publish(). They have the charge of @req.
 * Returns how many there are, or an error.
 */
static int ioasid_reserve_batch(const struct ioasid_request *req, u32 count,
				const struct ioasid_range *range,
				struct ioasid_chain *chain)
{
	struct ioasid *ioasids[IOASID_BATCH];
	int i, ret, done;

	if (req->spare) {
		for (i = 0; i < count; i++)
			ioasids[i] = ioasid_chain_pop(req->spare);
	} else {
		ret = ioasid_alloc_objects(ioasids, count);
		if (ret)
			return ret;
	}
	for (i = 0; i < count; i++) {
		ioasids[i]->account = req->account;
		ioasids[i]->cg = req->cg;
	}

	ret = ioasid_take_numbers(ioasids, count, range,
				  req->spare ? GFP_NOWAIT : GFP_KERNEL);
	done = max(ret, 0);
	if (req->spare) {
		for (i = done; i < count; i++)
			ioasid_chain_add(req->spare, ioasids[i]);
	} else if (done < count) {
		ioasid_free_objects(&ioasids[done], count - done);
	}
	if (!done)
		return ret;

	refcount_add(done, &req->account->refs);
	get_misc_cg_many(req->cg, done);
	for (i = 0; i < done; i++) {
		ioasid_tracker_init(ioasids[i]);
		ioasid_chain_add(chain, ioasids[i]);
	}
	return done;
}

/* Numbers of @range for what @left says, which is how many are missing then. */
static int ioasid_reserve_range(const struct ioasid_request *req, u32 *left,
				const struct ioasid_range *range,
				struct ioasid_chain *chain)
{
	int done;

	while (*left) {
		if (fatal_signal_pending(current))
			return -EINTR;
		done = ioasid_reserve_batch(req, min(*left, IOASID_BATCH), range,
					    chain);
		if (done <= 0)
			return done;
		*left -= done;
		if (*left)
			cond_resched();
	}
	return 0;
}

static int ioasid_reserve_any(const struct ioasid_request *req, u32 *left,
			      struct ioasid_chain *chain)
{
	u32 i, count = ARRAY_SIZE(ioasid_any) - !req->reserve;
	int ret = 0;

	for (i = 0; i < count && !ret && *left; i++)
		ret = ioasid_reserve_range(req, left, &ioasid_any[i], chain);
	return ret;
}

/* The part of the range that @req asks for that it may have numbers of */
static struct ioasid_range ioasid_allowed_range(const struct ioasid_request *req)
{
	u32 first = req->reserve ? IOASID_MIN : IOASID_RESERVE_END;

	return (struct ioasid_range){ max(req->min, first), req->max };
}

static int ioasid_try_reserve(const struct ioasid_request *req,
			      struct ioasid_chain *chain)
{
	struct ioasid_range range = ioasid_allowed_range(req);
	u32 left = req->count;
	int ret;

	ret = ioasid_charge(req);
	if (ret)
		return ret;

	if (req->max)
		ret = ioasid_reserve_range(req, &left, &range, chain);
	else
		ret = ioasid_reserve_any(req, &left, chain);
	if (!ret && !left)
		return 0;

	ioasid_unreserve(chain);
	ioasid_uncharge(req->account, req->cg, left);
	return ret ?: -ENOSPC;
}

static int ioasid_recycle_wait(void);

static int ioasid_reserve_serialized(const struct ioasid_request *req,
				     struct ioasid_chain *chain)
{
	struct ioasid_request last = *req;
	struct ioasid_chain spare;
	int ret;

	ioasid_chain_init(&spare);
	ret = ioasid_alloc_spare(req, &spare);
	if (ret)
		return ret;

	last.spare = &spare;
	ret = mutex_lock_killable(&ioasid_full_lock);
	if (!ret) {
		ret = ioasid_try_reserve(&last, chain);
		mutex_unlock(&ioasid_full_lock);
	}
	ioasid_free_spare(&spare);
	return ret;
}

/*
 * Reserve what @req asks for: @chain, which is empty, gets objects with numbers
 * that no lookup finds until ioasid_publish(). All or none.
 *
 * PARKED ones count until they are recycled, so those that only wait for the
 * worker are given the time to go. -EINTR: a fatal signal.
 */
int ioasid_reserve(const struct ioasid_request *req, struct ioasid_chain *chain)
{
	struct ioasid_range range = ioasid_allowed_range(req);
	int ret, wait;

	if (req->max &&
	    (range.min > range.max || req->count > range.max - range.min + 1))
		return -ENOSPC;

	ret = ioasid_try_reserve(req, chain);
	if (ret != -ENOSPC && ret != -EDQUOT)
		return ret;

	wait = ioasid_recycle_wait();
	if (wait)
		return wait;
	/* Only what others may have as well is worth a lock */
	if (ret == -EDQUOT)
		ret = ioasid_try_reserve(req, chain);
	return ret == -ENOSPC ? ioasid_reserve_serialized(req, chain) : ret;
}

static void ioasid_publish_one(struct ioasid *ioasid)
{
	refcount_set(&ioasid->refs, 1);
	/* Pairs with the acquire of the lookups: they see a whole object */
	smp_store_release(&ioasid->state, IOASID_STATE_ACTIVE);
	trace_ioasid_alloc(ioasid->id);
}

/*
 * From here on lookups find those of @chain, and only the owner may end their
 * life, which the caller prevents as yet.
 */
void ioasid_publish(struct ioasid_account *account, struct ioasid_chain *chain)
{
	struct ioasid *ioasid;

	spin_lock(&account->lock);
	ioasid_chain_for_each(ioasid, chain) {
		ioasid_publish_one(ioasid);
		ioasid_account_insert(account, ioasid);
		cond_resched_lock(&account->lock);
	}
	spin_unlock(&account->lock);
}

static void ioasid_free_rcu(struct rcu_head *rcu)
{
	struct ioasid *ioasid = container_of(rcu, struct ioasid, rcu);
	struct llist_node *list = &ioasid->recycle_node;
	struct ioasid *next;

	llist_for_each_entry_safe(ioasid, next, list, recycle_node)
		kmem_cache_free(ioasid_cache, ioasid);
}

/*
 * The end of @count objects, which recycle_node links: uncharged, and then the
 * numbers are free again. In this order: who sees that the number is gone finds
 * it uncharged. All are of the same account and cgroup and of the same state.
 */
static void ioasid_release_run(struct llist_node *list, u32 count)
{
	struct ioasid *first = llist_entry(list, struct ioasid, recycle_node);
	struct ioasid_account *account = first->account;
	struct misc_cg *cg = first->cg;
	struct ioasid *ioasid;

	ioasid_uncharge_list(account, cg, list, count);

	xa_lock(&ioasid_xa);
	llist_for_each_entry(ioasid, list, recycle_node)
		__xa_erase(&ioasid_xa, ioasid->id);
	xa_unlock(&ioasid_xa);

	llist_for_each_entry(ioasid, list, recycle_node) {
		ioasid_tracker_exit(ioasid);
		mutex_destroy(&ioasid->lock);
	}
	/* A lookup may still look at them */
	call_rcu(&first->rcu, ioasid_free_rcu);

	put_misc_cg_many(cg, count);
	ioasid_account_put_many(account, count);
}

static bool ioasid_is_released_with(const struct ioasid *a,
				    const struct ioasid *b)
{
	return a->account == b->account && a->cg == b->cg &&
	       a->state == b->state;
}

/* The end of all objects of @list: nobody holds them, no device knows them. */
static void ioasid_release(struct llist_node *list)
{
	struct ioasid *first, *last;
	struct llist_node *next;
	u32 count;

	while (list) {
		first = llist_entry(list, struct ioasid, recycle_node);
		last = first;
		for (count = 1; count < IOASID_BATCH; count++) {
			next = last->recycle_node.next;
			if (!next ||
			    !ioasid_is_released_with(first,
						     llist_entry(next,
								 struct ioasid,
								 recycle_node)))
				break;
			last = llist_entry(next, struct ioasid, recycle_node);
		}
		next = last->recycle_node.next;
		last->recycle_node.next = NULL;
		ioasid_release_run(list, count);
		list = next;
		if (list)
			cond_resched();
	}
}

/*
 * Undo ioasid_reserve(). Nobody has seen those of @chain, so there is no park.
 * Leaves it empty.
 */
void ioasid_unreserve(struct ioasid_chain *chain)
{
	ioasid_release(chain->first);
	ioasid_chain_init(chain);
}

/**
 * ioasid_alloc() - allocate an IOASID for a kernel owner
 * @set: what counts it; charged is the cgroup of the current task
 * @min: smallest PASID wanted, at least 1
 * @max: largest PASID wanted, inclusive, at most 0xfffff
 *
 * The kernel has no quota, and may have what is in reserve.
 *
 * Context: Process context, may sleep. When the range or the cgroup is full, it
 * waits for the worker that recycles, which takes ioasid.lock and group mutexes.
 * Return: the IOASID in state ACTIVE with the owner's reference, to be given
 * back by ioasid_free(), or ERR_PTR: -EINVAL the range is empty or not within
 * the number space, -ENOSPC all numbers of the range are taken, -EDQUOT the
 * limit of the cgroup is reached, -ENOMEM, -EINTR a fatal signal.
 */
struct ioasid *ioasid_alloc(struct ioasid_set *set, u32 min, u32 max)
{
	struct ioasid_request req = {
		.account = &set->kernel,
		.min = min,
		.max = max,
		.count = 1,
		.reserve = true,
	};
	struct ioasid_chain chain;
	struct ioasid *ioasid;
	int ret;

	if (min < IOASID_MIN || max > IOASID_MAX || min > max)
		return ERR_PTR(-EINVAL);

	ioasid_chain_init(&chain);
	req.cg = get_current_misc_cg();
	ret = ioasid_reserve(&req, &chain);
	put_misc_cg(req.cg);
	if (ret)
		return ERR_PTR(ret);

	ioasid = llist_entry(chain.first, struct ioasid, recycle_node);
	ioasid_publish_one(ioasid);
	return ioasid;
}
EXPORT_SYMBOL_GPL(ioasid_alloc);

/*
 * Numbers of the kernel itself: those of SVA, and of drivers that have a use for
 * a PASID of their own. They come from the same space, so that a user's IOASID
 * never has the number of a process. They are not published: nobody looks them
 * up, attaches them by ioasid_attach_device(), or parks them.
 */
static struct ioasid_set ioasid_system_set = {
	.kernel = {
		.refs = REFCOUNT_INIT(1),
		.lock = __SPIN_LOCK_UNLOCKED(ioasid_system_set.kernel.lock),
		.ioasids = RB_ROOT,
		.quota = U32_MAX,
		.set = &ioasid_system_set,
	},
};

/*
 * For iommu_alloc_global_pasid(): a number of [1, @max], or 0. May sleep, but does
 * not wait for the worker, because the caller holds iommu_sva_lock.
 */
u32 ioasid_alloc_global(u32 max)
{
	struct ioasid_request req = {
		.account = &ioasid_system_set.kernel,
		.min = IOASID_MIN,
		.max = min(max, IOASID_MAX),
		.count = 1,
		.reserve = true,
	};
	struct ioasid_chain chain;
	struct ioasid *ioasid;

	ioasid_chain_init(&chain);
	if (ioasid_try_reserve(&req, &chain))
		return 0;

	ioasid = llist_entry(chain.first, struct ioasid, recycle_node);
	refcount_set(&ioasid->refs, 1);
	return ioasid->id;
}

/* For iommu_free_global_pasid(). Any context: the last mmdrop() gets here. */
void ioasid_free_global(u32 id)
{
	struct ioasid *ioasid = xa_load(&ioasid_xa, id);

	if (WARN_ON(!ioasid || ioasid->account != &ioasid_system_set.kernel))
		return;
	ioasid_put(ioasid);
}

/*
 * Put a reference. True: it was the last one, the caller must recycle. Inline
 * because it is hot and small.
 */
static inline bool ioasid_put_and_test(struct ioasid *ioasid)
{
	u32 id = ioasid->id;
	int refs;

	if (unlikely(__refcount_sub_and_test(1, &ioasid->refs, &refs))) {
		trace_ioasid_put(id, 0);
		return true;
	}
	trace_ioasid_put(id, refs - 1);
	return false;
}

/* Park */

/*
 * Whoever attached it may be gone, together with the device: all that is still
 * good is the group.
 */
static void ioasid_block_groups(struct ioasid *ioasid)
{
	struct ioasid_attachment *att;

	lockdep_assert_held(&ioasid->lock);
	list_for_each_entry(att, &ioasid->attachments, node) {
		if (!att->domain || att->parked || att->blocked)
			continue;
		iommu_park_group_pasid(att->domain, att->group, ioasid->id);
		att->blocked = true;
	}
}

/* The first pass of park: nothing new from here on. Takes no lock. */
static void ioasid_park(struct ioasid *ioasid)
{
	/* The one atomic step that attach and the lookups check again */
	WARN_ON(cmpxchg(&ioasid->state, IOASID_STATE_ACTIVE,
			IOASID_STATE_PARKED) != IOASID_STATE_ACTIVE);
	trace_ioasid_park(ioasid->id);
}

/*
 * The second pass: the hardware entries. DMA can still reach memory through what
 * is cached, until @gather is synced.
 *
 * Unless it is to wait, it fails when somebody holds a lock, for an attach or a
 * detach, which can take long. What is missing is to be done later.
 */
static bool ioasid_block(struct ioasid *ioasid,
			 struct iommu_pasid_gather *gather, bool wait)
{
	struct ioasid_attachment *att;
	bool done = true;

	if (wait)
		mutex_lock(&ioasid->lock);
	else if (!mutex_trylock(&ioasid->lock))
		return false;

	/*
	 * Their list does not change behind us: attach looks at the state, and
	 * detach waits until all that is gathered is flushed.
	 */
	if (READ_ONCE(ioasid->stray)) {
		/* Takes the groups, and flushes them */
		done = wait;
		if (wait)
			ioasid_block_groups(ioasid);
		goto out_unlock;
	}
	list_for_each_entry(att, &ioasid->attachments, node) {
		if (!att->parked)
			att->parked =
				iommu_park_device_pasid(att->domain,
							att->entry.dev,
							ioasid->id, gather,
							&att->entry, wait);
		done &= att->parked;
	}
out_unlock:
	mutex_unlock(&ioasid->lock);
	return done;
}

/* The last pass, when the gather is synced. */
static void ioasid_finish_park(struct ioasid *ioasid)
{
	trace_ioasid_block(ioasid->id);
	/* Pairs with the acquire in ioasid_is_blocked() */
	smp_store_release(&ioasid->blocked, true);
}

/* Move those of @chain that can be blocked to @blocked. @wait: at least the first */
static void ioasid_block_some(struct ioasid_chain *chain,
			      struct ioasid_chain *blocked,
			      struct iommu_pasid_gather *gather, bool wait)
{
	struct ioasid *ioasid, *next;
	struct ioasid_chain busy;
	u32 count = 0;

	ioasid_chain_init(&busy);
	llist_for_each_entry_safe(ioasid, next, chain->first, recycle_node) {
		ioasid_chain_add(ioasid_block(ioasid, gather, wait) ? blocked :
								      &busy,
				 ioasid);
		wait = false;
		ioasid_cond_resched(++count);
	}
	ioasid_chain_init(chain);
	ioasid_chain_move(chain, &busy);
}

/* Ticks for those who hold a lock for a moment, before the others are flushed */
#define IOASID_PARK_TICKS	3

/*
 * Block those of @chain whose locks can be had now, flush them, and move them to
 * the end of @done. The others stay. @wait: at least the first one is done.
 *
 * As a rule that is all of them: all entries are blocked before the first one is
 * flushed, and the IOMMU driver needs few waits for many.
 */
static void ioasid_park_some(struct ioasid_chain *chain,
			     struct ioasid_chain *done, bool wait)
{
	struct iommu_pasid_gather gather;
	struct ioasid_chain blocked;
	struct ioasid *ioasid;
	u32 count = 0, ticks;

	iommu_pasid_gather_init(&gather);
	ioasid_chain_init(&blocked);
	ioasid_block_some(chain, &blocked, &gather, wait);
	for (ticks = 0; chain->first && !wait && ticks < IOASID_PARK_TICKS;
	     ticks++) {
		schedule_timeout_uninterruptible(1);
		ioasid_block_some(chain, &blocked, &gather, false);
	}

	iommu_pasid_gather_sync(&gather);
	ioasid_chain_for_each(ioasid, &blocked) {
		ioasid_finish_park(ioasid);
		ioasid_cond_resched(++count);
	}
	/* Has a barrier: a detach that sleeps has not seen the above */
	if (wq_has_sleeper(&ioasid_blocked_wq))
		wake_up_all(&ioasid_blocked_wq);
	ioasid_chain_move(done, &blocked);
}

/*
 * How often several that are busy are tried, so that none of them waits for
 * another. After that, a lock may be handed from one holder to the next without
 * ever being free: queue up for one lock after the other.
 */
#define IOASID_PARK_ROUNDS	100

#ifdef CONFIG_LOCKDEP
/* Held by those who park, for those who wait until an IOASID is blocked */
static struct lockdep_map ioasid_park_map =
	STATIC_LOCKDEP_MAP_INIT("ioasid_park", &ioasid_park_map);
#endif

/*
 * Park every IOASID of @chain, which are of one account, and put the owner's
 * references. When this returns, no DMA with any of them reaches memory. Cannot
 * fail, allocates nothing.
 *
 * No reference and no attachment is given out any more when the first entry is
 * touched. Those whose locks are taken come last, after the others have been
 * flushed: a slow attach or detach delays nobody else.
 */
void ioasid_free_chain(struct ioasid_chain *chain)
{
	struct ioasid_account *account;
	struct ioasid *ioasid, *next;
	struct ioasid_chain done;
	unsigned int rounds;
	LLIST_HEAD(unused);
	u32 count = 0;
	bool wait;

	if (!chain->first)
		return;

	lock_map_acquire_read(&ioasid_park_map);
	ioasid_chain_for_each(ioasid, chain) {
		ioasid_park(ioasid);
		ioasid_cond_resched(++count);
	}

	/* Counted before the owner's references go: recycle takes it off again */
	account = llist_entry(chain->first, struct ioasid, recycle_node)->account;
	ioasid_account_park(account, count);

	/* lockdep learns nothing from a trylock */
	might_lock(&llist_entry(chain->first, struct ioasid, recycle_node)->lock);
	ioasid_chain_init(&done);
	ioasid_park_some(chain, &done, false);
	for (rounds = 1; chain->first; rounds++) {
		wait = !chain->first->next || rounds > IOASID_PARK_ROUNDS;
		ioasid_park_some(chain, &done, wait);
	}
	lock_map_release(&ioasid_park_map);

	llist_for_each_entry_safe(ioasid, next, done.first, recycle_node) {
		/* This is process context: no need for the worker */
		if (ioasid_put_and_test(ioasid))
			__llist_add(&ioasid->recycle_node, &unused);
		ioasid_cond_resched(++count);
	}
	ioasid_queue_all(ioasid_recycle(unused.first));
}

/**
 * ioasid_free() - park an IOASID and put the owner's reference
 * @ioasid: from ioasid_alloc(), not freed yet
 *
 * When this returns, no DMA with the PASID can reach memory: entries are
 * blocked, caches and device TLBs invalidated, page requests drained. Users
 * that hold a reference keep it; the number is recycled after the last
 * ioasid_put(). To be called by the owner only, once.
 *
 * Context: Process context, may sleep. Takes ioasid.lock, the group mutex and
 * the IOMMU driver's locks. Waits for no page fault handler.
 */
void ioasid_free(struct ioasid *ioasid)
{
	struct ioasid_chain chain;

	if (WARN_ON(!ioasid_is_active(ioasid)))
		return;

	ioasid_chain_init(&chain);
	ioasid_chain_add(&chain, ioasid);
	ioasid_free_chain(&chain);
}
EXPORT_SYMBOL_GPL(ioasid_free);

/* References */

/**
 * ioasid_get() - take one more reference
 * @ioasid: an IOASID of which the caller holds a reference
 *
 * Works for a PARKED IOASID, too: it does not give new rights.
 *
 * Context: Any context.
 * Return: @ioasid.
 */
struct ioasid *ioasid_get(struct ioasid *ioasid)
{
	refcount_inc(&ioasid->refs);
	trace_ioasid_get(ioasid);
	return ioasid;
}
EXPORT_SYMBOL_GPL(ioasid_get);

/* Account the caller's reference to @user, as @ref. */
void ioasid_add_user(struct ioasid *ioasid, enum ioasid_user user,
		     struct ioasid_ref *ref)
{
	ref->ioasid = ioasid;
	ref->user = user;
	atomic_inc(&ioasid->users[user]);
	ioasid_tracker_add(ref);
}

/**
 * ioasid_user_get() - take one more reference, and say who holds it
 * @ioasid: an IOASID of which the caller holds a reference
 * @user: what kind of user the new one is
 * @ref: the new reference, to be put by ioasid_user_put()
 *
 * For references that are held for long. debugfs and fdinfo count them by kind,
 * and with CONFIG_IOASID_REF_TRACKER the stack of this call is remembered.
 *
 * Context: Process context, may sleep.
 */
void ioasid_user_get(struct ioasid *ioasid, enum ioasid_user user,
		     struct ioasid_ref *ref)
{
	ioasid_get(ioasid);
	ioasid_add_user(ioasid, user, ref);
}
EXPORT_SYMBOL_GPL(ioasid_user_get);

static struct workqueue_struct *ioasid_wq;
static LLIST_HEAD(ioasid_recycle_list);
/* Some IOASID is stray */
static atomic_t ioasid_strays;
static void ioasid_recycle_fn(struct work_struct *work);
static DECLARE_DELAYED_WORK(ioasid_recycle_work, ioasid_recycle_fn);

/*
 * Not at once: who puts one for the last time often puts more, and the worker
 * takes them all. Who needs them earlier calls ioasid_recycle_flush().
 */
static void ioasid_queue_worker(void)
{
	queue_delayed_work(ioasid_wq, &ioasid_recycle_work, 1);
}

static void ioasid_recycle_irq(struct irq_work *work)
{
	ioasid_queue_worker();
}

static DEFINE_IRQ_WORK(ioasid_recycle_irq_work, ioasid_recycle_irq);

/* For the worker: the last reference went in a context that cannot sleep. */
static noinline void ioasid_queue(struct ioasid *ioasid)
{
	/* Whoever was first has queued the worker, which takes all */
	if (!llist_add(&ioasid->recycle_node, &ioasid_recycle_list))
		return;
	if (in_nmi())
		irq_work_queue(&ioasid_recycle_irq_work);
	else
		ioasid_queue_worker();
}

/**
 * ioasid_put() - put a reference
 * @ioasid: an IOASID; not to be used after this
 *
 * A user must have detached it from all devices before. The last reference
 * gone, a worker recycles the number.
 *
 * Context: Any context, NMI included, never sleeps. Not under a lock of the
 * scheduler, of timers or of workqueues: the last one queues work.
 */
void ioasid_put(struct ioasid *ioasid)
{
	if (ioasid_put_and_test(ioasid))
		ioasid_queue(ioasid);
}
EXPORT_SYMBOL_GPL(ioasid_put);

/* Those who may attach it, and say who they are */
static unsigned int ioasid_attachers(const struct ioasid *ioasid)
{
	return atomic_read(&ioasid->users[IOASID_USER_DRIVER]) +
	       atomic_read(&ioasid->users[IOASID_USER_MDEV]);
}

/*
 * There are more attachments than users who may have one: either a user has let
 * go without detaching, or another one does right now what it should. The worker
 * finds out which. True: it has the caller's reference from now on.
 */
static noinline bool ioasid_hand_over_stray(struct ioasid *ioasid)
{
	/* One reference is enough for the worker */
	if (xchg(&ioasid->stray, true))
		return false;

	/* Pairs with the exchange in ioasid_end_strays() */
	atomic_set_release(&ioasid_strays, 1);
	ioasid_queue_worker();
	return true;
}

/**
 * ioasid_user_put() - put the reference of a user
 * @ref: from ioasid_user_get() or ioasid_fd_get(). Neither it nor the IOASID may
 *	 be used after this.
 *
 * A user must have detached it from all devices before. If one has not, the
 * worker blocks the DMA, and the number is lost. The last reference gone, the
 * worker recycles the number.
 *
 * Context: Any context but NMI, never sleeps, see ioasid_put(). With
 * CONFIG_IOASID_REF_TRACKER it takes a spinlock and frees memory.
 */
void ioasid_user_put(struct ioasid_ref *ref)
{
	struct ioasid *ioasid = ref->ioasid;

	ioasid_tracker_del(ref);
	atomic_dec(&ioasid->users[ref->user]);
	if (unlikely(READ_ONCE(ioasid->nr_attached) >
		     ioasid_attachers(ioasid)) && ioasid_hand_over_stray(ioasid))
		return;
	ioasid_put(ioasid);
}
EXPORT_SYMBOL_GPL(ioasid_user_put);

static bool ioasid_is_published(const struct ioasid *ioasid)
{
	/* Pairs with the release in ioasid_publish() */
	return smp_load_acquire(&ioasid->state) != IOASID_STATE_RESERVED;
}

/* Under RCU, or while something else keeps the object. NULL if there is none. */
struct ioasid *ioasid_lookup(u32 id)
{
	struct ioasid *ioasid = xa_load(&ioasid_xa, id);

	return ioasid && ioasid_is_published(ioasid) ? ioasid : NULL;
}

/* The first published IOASID with a number of at least *@id, as above. */
struct ioasid *ioasid_next(u32 *id)
{
	unsigned long index = *id;
	struct ioasid *ioasid;

	xa_for_each_start(&ioasid_xa, index, ioasid, index) {
		if (ioasid_is_published(ioasid)) {
			*id = index;
			return ioasid;
		}
	}
	return NULL;
}

/*
 * A reference to an object that was looked up under RCU, if it is ACTIVE. Hot,
 * and small: inline.
 */
static inline struct ioasid *ioasid_get_active(struct ioasid *ioasid)
{
	u32 state;

	lockdep_assert(rcu_read_lock_held());

	/* Neither one that is not published yet nor one that is about to go */
	if (!refcount_inc_not_zero(&ioasid->refs))
		return ERR_PTR(-ENOENT);
	/*
	 * Checked with the reference in hand: one that is given out was taken
	 * before park. refcount_inc_not_zero() orders nothing by itself.
	 */
	smp_mb__after_atomic();
	/* Pairs with the release in ioasid_publish(): a whole object */
	state = smp_load_acquire(&ioasid->state);
	if (unlikely(state != IOASID_STATE_ACTIVE)) {
		ioasid_put(ioasid);
		return ERR_PTR(state == IOASID_STATE_PARKED ? -ESHUTDOWN :
							      -ENOENT);
	}
	trace_ioasid_get(ioasid);
	return ioasid;
}

/**
 * ioasid_tryget() - take a reference to an IOASID that was found under RCU
 * @ioasid: an IOASID that somebody else had a reference of when it was found
 *
 * For those who keep a table of IOASIDs in which others look them up.
 *
 * Context: Any context but NMI, under rcu_read_lock().
 * Return: @ioasid, to be put by ioasid_put(), or ERR_PTR: -ESHUTDOWN it is
 * PARKED, -ENOENT its last reference has gone.
 */
struct ioasid *ioasid_tryget(struct ioasid *ioasid)
{
	return ioasid_get_active(ioasid);
}
EXPORT_SYMBOL_GPL(ioasid_tryget);

/**
 * ioasid_find_get() - look up an IOASID of a set and take a reference
 * @set: the set it must belong to
 * @id: the PASID
 *
 * Context: Any context but NMI, does not sleep.
 * Return: the IOASID, to be put by ioasid_put(), or ERR_PTR: -ENOENT @set
 * has no such number, -ESHUTDOWN it is PARKED.
 */
struct ioasid *ioasid_find_get(struct ioasid_set *set, u32 id)
{
	struct ioasid *ioasid;

	guard(rcu)();
	ioasid = xa_load(&ioasid_xa, id);
	if (!ioasid || ioasid->account->set != set)
		return ERR_PTR(-ENOENT);
	return ioasid_get_active(ioasid);
}
EXPORT_SYMBOL_GPL(ioasid_find_get);

/* The same for an owner: the numbers of others do not exist for it. */
struct ioasid *ioasid_account_find_get(struct ioasid_account *account, u32 id)
{
	struct ioasid *ioasid;

	guard(rcu)();
	ioasid = xa_load(&ioasid_xa, id);
	if (!ioasid || ioasid->account != account)
		return ERR_PTR(-ENOENT);
	return ioasid_get_active(ioasid);
}

/**
 * ioasid_id() - the PASID of an IOASID
 * @ioasid: an IOASID of which the caller holds a reference
 *
 * Context: Any context.
 * Return: the number, 1 to 0xfffff.
 */
u32 ioasid_id(const struct ioasid *ioasid)
{
	return ioasid->id;
}
EXPORT_SYMBOL_GPL(ioasid_id);

/**
 * ioasid_is_active() - whether new work may be started with an IOASID
 * @ioasid: an IOASID of which the caller holds a reference
 *
 * A hint for users that want to fail early: it can be parked a moment later,
 * and then the hardware blocks what was started.
 *
 * Context: Any context.
 * Return: true while ACTIVE, false for good once PARKED.
 */
bool ioasid_is_active(const struct ioasid *ioasid)
{
	return READ_ONCE(ioasid->state) == IOASID_STATE_ACTIVE;
}
EXPORT_SYMBOL_GPL(ioasid_is_active);

/* References other than that of the owner, who has none once it is PARKED. */
u32 ioasid_users(const struct ioasid *ioasid)
{
	unsigned int refs = refcount_read(&ioasid->refs);

	return refs && ioasid_is_active(ioasid) ? refs - 1 : refs;
}

/* Attachments */

/**
 * ioasid_attach_device() - let a device DMA into a domain with a PASID
 * @ioasid: the IOASID; for each attachment the caller holds a reference, from
 *	    ioasid_user_get() or ioasid_fd_get() as IOASID_USER_DRIVER or
 *	    IOASID_USER_MDEV, and keeps it until it has called
 *	    ioasid_detach_device()
 * @domain: the domain, which must stay until ioasid_detach_device()
 * @dev: the device, to which the caller is bound as a driver
 * @handle: passed to iommu_attach_device_pasid(), may be NULL
 *
 * When the owner frees @ioasid, the DMA of this attachment is blocked without
 * a notice; the attachment stays until it is detached.
 *
 * Context: Process context, may sleep. Takes ioasid.lock and the group mutex.
 * Return: 0, or -ESHUTDOWN @ioasid is PARKED, -EBUSY the PASID is attached to
 * the group of @dev already or @dev is being reset, -EINVAL @dev does not
 * support that PASID or @domain does not fit to @dev, -EOPNOTSUPP the IOMMU
 * driver cannot attach a PASID, -ENODEV @dev has no IOMMU, -ENOMEM, or what the
 * IOMMU driver returns.
 */
int ioasid_attach_device(struct ioasid *ioasid, struct iommu_domain *domain,
			 struct device *dev,
			 struct iommu_attach_handle *handle)
{
	struct ioasid_attachment *att;
	int ret;

	att = kmem_cache_zalloc(ioasid_attachment_cache, GFP_KERNEL);
	if (!att)
		return -ENOMEM;

	mutex_lock(&ioasid->lock);
	/* Park sets the state before it takes the lock to find us */
	ret = -ESHUTDOWN;
	if (!ioasid_is_active(ioasid))
		goto err_free;

	ret = iommu_attach_device_pasid(domain, dev, ioasid->id, handle);
	if (ret)
		goto err_free;

	att->domain = domain;
	att->entry.dev = dev;
	att->group = iommu_group_get(dev);
	list_add(&att->node, &ioasid->attachments);
	WRITE_ONCE(ioasid->nr_attached, ioasid->nr_attached + 1);
	trace_ioasid_attach(ioasid->id, dev);
	mutex_unlock(&ioasid->lock);
	return 0;

err_free:
	mutex_unlock(&ioasid->lock);
	kmem_cache_free(ioasid_attachment_cache, att);
	return ret;
}
EXPORT_SYMBOL_GPL(ioasid_attach_device);

static struct ioasid_attachment *
ioasid_find_attachment(struct ioasid *ioasid, struct iommu_domain *domain,
		       struct device *dev)
{
	struct ioasid_attachment *att;

	list_for_each_entry(att, &ioasid->attachments, node) {
		if (att->domain == domain && att->entry.dev == dev)
			return att;
	}
	return NULL;
}

/**
 * ioasid_replace_device() - let an attached PASID DMA into another domain
 * @ioasid: as given to ioasid_attach_device()
 * @old: as given there, or to the last ioasid_replace_device()
 * @domain: takes the place of @old, also in ioasid_detach_device(); may be the
 *	    same, with another @handle
 * @dev: as given to ioasid_attach_device()
 * @handle: passed to iommu_replace_device_pasid()
 *
 * On failure nothing has changed.
 *
 * Context: Process context, may sleep. Takes ioasid.lock and the group mutex, and
 * waits for page fault handlers of the old attachment, with none of them.
 * Return: 0, or -ESHUTDOWN @ioasid is PARKED, -EINVAL @domain does not fit to
 * @dev, -EBUSY @dev is being reset, -EOPNOTSUPP the IOMMU core cannot replace
 * domains, -ENOMEM, or what the IOMMU driver returns.
 */
int ioasid_replace_device(struct ioasid *ioasid, struct iommu_domain *old,
			  struct iommu_domain *domain, struct device *dev,
			  struct iommu_attach_handle *handle)
{
	struct iommu_attach_handle *old_handle;
	struct ioasid_attachment *att;
	int ret;

	scoped_guard(mutex, &ioasid->lock) {
		/* Park sets the state before it takes the lock */
		if (!ioasid_is_active(ioasid))
			return -ESHUTDOWN;

		att = ioasid_find_attachment(ioasid, old, dev);
		if (WARN_ON(!att))
			return -EINVAL;

		ret = iommu_switch_device_pasid(domain, dev, ioasid->id, handle,
						&old_handle);
		if (ret)
			return ret;
		att->domain = domain;
	}

	/* As in ioasid_detach_device() */
	iopf_wait_for_handlers(old_handle);
	return 0;
}
EXPORT_SYMBOL_GPL(ioasid_replace_device);

static void ioasid_free_attachment(struct ioasid_attachment *att)
{
	list_del(&att->node);
	iommu_group_put(att->group);
	kmem_cache_free(ioasid_attachment_cache, att);
}

static bool ioasid_is_blocked(const struct ioasid *ioasid)
{
	/* Pairs with the release in ioasid_finish_park() */
	return smp_load_acquire(&ioasid->blocked);
}

/**
 * ioasid_detach_device() - end an attachment
 * @ioasid: the IOASID
 * @domain: as given to ioasid_attach_device()
 * @dev: as given to ioasid_attach_device()
 *
 * Works in any state. The entry of a PARKED IOASID stays blocked until the
 * number is recycled.
 *
 * Context: Process context, may sleep. Takes ioasid.lock and the group mutex,
 * and waits for a park that is under way, like ioasid_free(). Then waits for page
 * fault handlers of the attachment, with none of these locks.
 */
void ioasid_detach_device(struct ioasid *ioasid, struct iommu_domain *domain,
			  struct device *dev)
{
	struct iommu_attach_handle *handle = NULL;
	struct ioasid_attachment *att;

	mutex_lock(&ioasid->lock);
	/*
	 * Until the last pass of park, @dev is about to be flushed: it must not
	 * go away, and the domain ID must not be used again.
	 */
	while (!ioasid_is_active(ioasid) && !ioasid_is_blocked(ioasid)) {
		mutex_unlock(&ioasid->lock);
		lock_map_acquire(&ioasid_park_map);
		lock_map_release(&ioasid_park_map);
		wait_event(ioasid_blocked_wq, ioasid_is_blocked(ioasid));
		mutex_lock(&ioasid->lock);
	}

	att = ioasid_find_attachment(ioasid, domain, dev);
	if (WARN_ON(!att))
		goto out_unlock;

	WRITE_ONCE(ioasid->nr_attached, ioasid->nr_attached - 1);
	trace_ioasid_detach(ioasid->id, dev);
	if (!ioasid->blocked && !att->blocked) {
		handle = iommu_remove_device_pasid(domain, dev, ioasid->id);
		ioasid_free_attachment(att);
		goto out_unlock;
	}

	handle = iommu_detach_parked_device_pasid(domain, dev, ioasid->id);
	att->domain = NULL;
	att->entry.dev = NULL;
out_unlock:
	mutex_unlock(&ioasid->lock);
	/*
	 * The entry is blocked and drained, so nobody else has to wait for these,
	 * an owner that frees @ioasid in particular: only the caller, who is about
	 * to free what they use. They can be stuck in a page fault.
	 */
	iopf_wait_for_handlers(handle);
}
EXPORT_SYMBOL_GPL(ioasid_detach_device);

/* Recycle */

/* A bug of a driver. Where that is, the stack of the worker does not tell. */
static void ioasid_complain(struct ioasid *ioasid)
{
	struct ioasid_attachment *att;

	list_for_each_entry(att, &ioasid->attachments, node) {
		if (att->domain)
			pr_err("PASID %u put while attached to IOMMU group %d\n",
			       ioasid->id, iommu_group_id(att->group));
	}
}

/*
 * A user that has an attachment has a reference, too, until it has taken
 * ioasid.lock to detach. If there are fewer, some domain may go at any moment: all
 * DMA is blocked now, and the number is lost. Not so if it is parked and flushed:
 * then it is lost with the last reference.
 */
static void ioasid_end_stray(struct ioasid *ioasid)
{
	mutex_lock(&ioasid->lock);
	if (!ioasid->blocked &&
	    ioasid->nr_attached > ioasid_attachers(ioasid)) {
		ioasid_complain(ioasid);
		ioasid_block_groups(ioasid);
		ioasid->lost = true;
		mutex_unlock(&ioasid->lock);
		return;
	}
	WRITE_ONCE(ioasid->stray, false);
	mutex_unlock(&ioasid->lock);
	ioasid_put(ioasid);
}

static void ioasid_end_strays(void)
{
	struct ioasid *ioasid;
	u32 id;

	if (!atomic_xchg(&ioasid_strays, 0))
		return;

	rcu_read_lock();
	ioasid_for_each(ioasid, id) {
		if (!READ_ONCE(ioasid->stray) || ioasid->lost)
			continue;
		/* The worker has a reference of those */
		rcu_read_unlock();
		ioasid_end_stray(ioasid);
		rcu_read_lock();
	}
	rcu_read_unlock();
}

/*
 * True: no device knows the number any more, when @gather is synced. False: some
 * group is busy. No reference is left, so there is nobody to lock against.
 */
static bool ioasid_unpark(struct ioasid *ioasid,
			  struct iommu_unpark_gather *gather)
{
	struct ioasid_attachment *att, *next;
	bool done = true;

	list_for_each_entry_safe(att, next, &ioasid->attachments, node) {
		if (iommu_unpark_group_pasid(att->group, ioasid->id, gather))
			ioasid_free_attachment(att);
		else
			done = false;
	}
	if (done)
		trace_ioasid_recycle(ioasid->id);
	return done;
}

/*
 * Recycle those of @list, which recycle_node links, whose groups nobody has at the
 * moment. Returns the others.
 */
static struct llist_node *ioasid_recycle(struct llist_node *list)
{
	struct iommu_unpark_gather gather = {};
	struct ioasid *ioasid, *next;
	LLIST_HEAD(unparked);
	LLIST_HEAD(busy);
	u32 count = 0;

	llist_for_each_entry_safe(ioasid, next, list, recycle_node) {
		ioasid_cond_resched(++count);
		/*
		 * A user put it without detaching: its domain may be gone,
		 * so the entry must stay blocked. The number is lost, memory is
		 * safe.
		 */
		if (ioasid->nr_attached) {
			ioasid_complain(ioasid);
			continue;
		}
		__llist_add(&ioasid->recycle_node,
			    ioasid_unpark(ioasid, &gather) ? &unparked : &busy);
	}
	/* Before the first of the numbers can be had again */
	iommu_unpark_gather_sync(&gather);
	ioasid_release(unparked.first);
	return busy.first;
}

/* For the next run of the worker. */
static void ioasid_queue_all(struct llist_node *list)
{
	struct ioasid *ioasid, *next;

	llist_for_each_entry_safe(ioasid, next, list, recycle_node)
		ioasid_queue(ioasid);
}

/* Runs of the worker that have begun, and that are done */
static unsigned long ioasid_runs_begun;
static unsigned long ioasid_runs_done;
static DECLARE_WAIT_QUEUE_HEAD(ioasid_runs_wq);

#ifdef CONFIG_LOCKDEP
/* For those who wait below: what the worker takes is what they wait for */
static struct lockdep_map ioasid_runs_map =
	STATIC_LOCKDEP_MAP_INIT("ioasid_runs", &ioasid_runs_map);
#endif

static void ioasid_recycle_fn(struct work_struct *work)
{
	unsigned long run = ioasid_runs_begun + 1;
	struct llist_node *busy;
	u32 ticks;

	/* Pairs with ioasid_kick_worker(): counted before the list is empty */
	smp_store_mb(ioasid_runs_begun, run);
	lock_map_acquire(&ioasid_runs_map);
	ioasid_end_strays();
	busy = ioasid_recycle(llist_del_all(&ioasid_recycle_list));
	/* For those who have a group for a moment */
	for (ticks = 0; busy && ticks < IOASID_PARK_TICKS; ticks++) {
		schedule_timeout_uninterruptible(1);
		busy = ioasid_recycle(busy);
	}
	ioasid_queue_all(busy);
	lock_map_release(&ioasid_runs_map);
	/* Pairs with the acquire in ioasid_run_is_done() */
	smp_store_release(&ioasid_runs_done, run);
	wake_up_all(&ioasid_runs_wq);
}

/*
 * Returns the run of the worker that takes what was put for the last time before.
 * The caller waits for it.
 */
static unsigned long ioasid_kick_worker(void)
{
	bool empty = llist_empty(&ioasid_recycle_list) &&
		     !atomic_read(&ioasid_strays);
	unsigned long run;

	lock_map_acquire(&ioasid_runs_map);
	lock_map_release(&ioasid_runs_map);

	/* Whoever has found the list empty sees the run that has emptied it */
	smp_rmb();
	run = READ_ONCE(ioasid_runs_begun);
	if (empty)
		return run;
	/*
	 * Perhaps whoever put them has not come to queue the worker yet. The run
	 * is counted before: once it is queued, it may begin at any moment.
	 */
	mod_delayed_work(ioasid_wq, &ioasid_recycle_work, 0);
	return run + 1;
}

static bool ioasid_run_is_done(unsigned long run)
{
	/* Pairs with the release in ioasid_recycle_fn() */
	return (long)(smp_load_acquire(&ioasid_runs_done) - run) >= 0;
}

/*
 * When this returns 0, all that was put for the last time before is recycled, but
 * for what is attached to a group that somebody keeps busy. -EINTR: a fatal signal.
 */
static int ioasid_recycle_wait(void)
{
	unsigned long run = ioasid_kick_worker();

	return wait_event_killable(ioasid_runs_wq, ioasid_run_is_done(run)) ?
		       -EINTR : 0;
}

/* Everything, whatever happens */
void ioasid_recycle_flush(void)
{
	unsigned long run;

	do {
		run = ioasid_kick_worker();
		wait_event(ioasid_runs_wq, ioasid_run_is_done(run));
	} while (!llist_empty(&ioasid_recycle_list));
}

static int __init ioasid_init(void)
{
	/* See struct ioasid on what shares a cache line */
	ioasid_cache = KMEM_CACHE(ioasid, SLAB_HWCACHE_ALIGN | SLAB_ACCOUNT |
				  SLAB_PANIC);
	ioasid_attachment_cache = KMEM_CACHE(ioasid_attachment,
					     SLAB_ACCOUNT | SLAB_PANIC);
	ioasid_wq = alloc_workqueue("ioasid", WQ_UNBOUND, 0);
	if (!ioasid_wq)
		panic("ioasid: no workqueue\n");
	return 0;
}
subsys_initcall(ioasid_init);

// SPDX-License-Identifier: GPL-2.0-only
/*
 * IOASID: reference counted PASIDs
 *
 * A PASID identifies an address space that devices can DMA into. Its owner and
 * its users, such as VFIO or KVM, hold it at the same time and release it in
 * any order. An IOASID is the object that they share. See
 * Documentation/driver-api/ioasid.rst and ioasid-internals.rst, which include
 * the sections below.
 */

/**
 * DOC: States
 *
 * ACTIVE
 *	Allocated: can be looked up, attached, and used for DMA.
 * PARKED
 *	Freed by its owner, or the file was closed: DMA is blocked on every
 *	attachment and faults are suppressed. Users may still hold references.
 * recycled
 *	The last reference is gone: the hardware is back to "not present,
 *	faults reported" and the PASID is free.
 *
 * States only advance in this order. Users are not notified; they see
 * -ESHUTDOWN on the next request.
 *
 * These terms are used for the steps of the teardown:
 *
 * free
 *	The owner parks the IOASID and puts its reference.
 * park
 *	ACTIVE becomes PARKED, the entries are blocked and flushed.
 * put
 *	A reference is dropped. The user must have detached the IOASID before.
 * recycle
 *	After the last put: the entries are unparked and the PASID is released.
 * release
 *	The charges are returned, the PASID becomes free and the object is
 *	freed. Also undoes a reservation that was never published.
 */

/**
 * DOC: Locks
 *
 * Outermost first:
 *
 * =======================  =================================================
 * Lock                     Purpose
 * =======================  =================================================
 * ``ioasid_ctx.lock``      serializes the ioctls of one file
 *                          (``ioasid_cdev.c``)
 * ``ioasid.lock``          serializes attach, detach and park of one IOASID
 * ``iommu_group.mutex``    IOMMU core; the IOMMU driver's locks nest inside
 * ``ioasid_full_lock``     last attempt of an allocation; never held together
 *                          with any of the above
 * ``ioasid_account.lock``  spinlock, innermost: the IOASIDs of an owner and
 *                          their counts
 * =======================  =================================================
 *
 * No two ``ioasid.lock`` are held at once. Lookups run under RCU. ioasid_put()
 * takes none of these locks and may be called in any context, with any of them
 * held: recycling is deferred to a worker. The exception is an owner that holds
 * the last reference: ioasid_free() recycles inline.
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
 * The PASID space. An entry stays from reservation until recycle, which is what
 * prevents a PASID from being allocated twice.
 */
static DEFINE_XARRAY_FLAGS(ioasid_xa, XA_FLAGS_ALLOC1 | XA_FLAGS_ACCOUNT);

static struct kmem_cache *ioasid_cache;
static struct kmem_cache *ioasid_attachment_cache;

/* Detach waits here for a park in progress */
static DECLARE_WAIT_QUEUE_HEAD(ioasid_blocked_wq);

static struct llist_node *ioasid_recycle(struct llist_node *list);
static void ioasid_queue_all(struct llist_node *list);

/**
 * struct ioasid_attachment - one group with an entry for the PASID
 * @node: in ioasid.attachments
 * @domain: the attached domain, NULL once detached from a PARKED IOASID
 * @group: the device's group. The reference keeps it valid until recycle, when
 *	   the device may already be gone.
 * @entry: for park; its @dev is the attached device, NULL if @domain is NULL
 * @parked: blocked by iommu_park_device_pasid() when the owner freed the IOASID
 * @blocked: blocked because a user put its reference without detaching
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

/* Without a range: start with the PASIDs that are too wide for many devices */
VISIBLE_IF_KUNIT struct ioasid_range ioasid_any[] = {
	{ IOASID_LOW_END, IOASID_MAX },
	{ IOASID_RESERVE_END, IOASID_LOW_END - 1 },
	{ IOASID_MIN, IOASID_RESERVE_END - 1 },
};

/*
 * Assign free PASIDs from @range to up to @count objects. Returns the number of
 * objects served, which is less than @count if the range is exhausted, or an
 * error if there is none because of another failure.
 */
static int ioasid_take_numbers(struct ioasid **ioasids, u32 count,
			       const struct ioasid_range *range, gfp_t gfp)
{
	XA_STATE(xas, &ioasid_xa, range->min);
	u32 done = 0;

	/* xa_alloc() in a loop, but each search resumes after the last one */
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
 * Requests that compete for the last free PASIDs may each take some of them and
 * all back off because there are not enough. They are retried one at a time: by
 * then, every request that failed has released its share.
 *
 * Objects are allocated before the lock is taken, and XArray nodes without
 * sleeping under it, so that a memory cgroup at its limit does not delay
 * others.
 */
static DEFINE_MUTEX(ioasid_full_lock);

/* Allocate @count objects without PASIDs, at most IOASID_BATCH */
static int ioasid_alloc_objects(struct ioasid **ioasids, u32 count)
{
	u32 i;

	lockdep_assert_not_held(&ioasid_full_lock);

	if (!kmem_cache_alloc_bulk(ioasid_cache, GFP_KERNEL | __GFP_ZERO, count,
				   (void **)ioasids))
		return -ENOMEM;

	for (i = 0; i < count; i++) {
		/* The reference count is zero, so lookups skip the object */
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

/* Preallocate all objects for @req. @spare is empty on failure. */
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
 * Add up to @count objects with PASIDs, at most IOASID_BATCH, to @chain. They
 * use the charge of @req and are invisible to lookups until ioasid_publish().
 * Returns the number of objects, or an error.
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

/* Reserve *@left PASIDs from @range. On return, *@left is the shortfall. */
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

/* The part of the requested range that @req may allocate from */
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
 * Reserve all IOASIDs of @req, or none. They are added to @chain, which must be
 * empty, and are invisible to lookups until ioasid_publish().
 *
 * PARKED IOASIDs stay charged until recycled, so if a limit is hit, wait for
 * the recycle worker and retry. Returns -EINTR on a fatal signal.
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
	/* The quota is not shared with other owners, so no need to serialize */
	if (ret == -EDQUOT)
		ret = ioasid_try_reserve(req, chain);
	return ret == -ENOSPC ? ioasid_reserve_serialized(req, chain) : ret;
}

static void ioasid_publish_one(struct ioasid *ioasid)
{
	refcount_set(&ioasid->refs, 1);
	/* Pairs with the acquire in lookups: the object is initialized */
	smp_store_release(&ioasid->state, IOASID_STATE_ACTIVE);
	trace_ioasid_alloc(ioasid->id);
}

/*
 * Make the IOASIDs in @chain visible to lookups. The caller must prevent the
 * owner from freeing them until this returns.
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
 * Release @count objects linked by recycle_node, all with the same account,
 * cgroup and state. Uncharge first, so that anyone who sees the PASID free also
 * sees the charge returned.
 */
static void ioasid_release_run(struct llist_node *list, u32 count)
{
	struct ioasid *first = llist_entry(list, struct ioasid, recycle_node);
	struct ioasid_account *account = first->account;
	struct misc_cg *cg = first->cg;
	XA_STATE(xas, &ioasid_xa, first->id);
	struct ioasid *ioasid;

	ioasid_uncharge_list(account, cg, list, count);

	/* __xa_erase() in a loop, but without a walk if PASIDs are consecutive */
	xas_lock(&xas);
	llist_for_each_entry(ioasid, list, recycle_node) {
		if (ioasid->id == xas.xa_index + 1)
			xas_next(&xas);
		else
			xas_set(&xas, ioasid->id);
		xas_store(&xas, NULL);
	}
	xas_unlock(&xas);

	llist_for_each_entry(ioasid, list, recycle_node) {
		ioasid_tracker_exit(ioasid);
		mutex_destroy(&ioasid->lock);
	}
	/* RCU readers may still see the erased entries */
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

/* Release all objects of @list, which must have no references or entries. */
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
 * Undo ioasid_reserve(). The objects were never published, so there is nothing
 * to park. Leaves @chain empty.
 */
void ioasid_unreserve(struct ioasid_chain *chain)
{
	ioasid_release(chain->first);
	ioasid_chain_init(chain);
}

/**
 * ioasid_alloc() - allocate an IOASID for a kernel owner
 * @set: the set to account the IOASID to
 * @min: smallest PASID wanted, at least 1
 * @max: largest PASID wanted, inclusive, at most 0xfffff
 *
 * Charges the misc cgroup of the current task. There is no quota, and PASIDs
 * reserved for the kernel may be used.
 *
 * Context: Process context, may sleep. If the range or the cgroup is full,
 * waits for the recycle worker, which takes ioasid.lock and group mutexes.
 * Return: the IOASID in state ACTIVE with the owner's reference, to be released
 * with ioasid_free(), or ERR_PTR: -EINVAL if the range is empty or outside of
 * the PASID space, -ENOSPC if the range is exhausted, -EDQUOT if the cgroup
 * limit is reached, -ENOMEM, -EINTR on a fatal signal.
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

/*
 * PASIDs used by SVA and by drivers through the global PASID API. They come
 * from the same space, so that a user's IOASID never clashes with the PASID of
 * a process. They are never published: nothing looks them up, attaches them
 * with ioasid_attach_device(), or parks them.
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
 * Backend of iommu_alloc_global_pasid(): a PASID in [1, @max], or 0. May sleep,
 * but does not wait for the recycle worker, as the caller holds iommu_sva_lock.
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

/* Backend of iommu_free_global_pasid(). Any context: called from __mmdrop(). */
void ioasid_free_global(u32 id)
{
	struct ioasid *ioasid = xa_load(&ioasid_xa, id);

	if (WARN_ON(!ioasid || ioasid->account != &ioasid_system_set.kernel))
		return;
	ioasid_put(ioasid);
}

/* @ioasid may be gone after the put, so read its PASID before. */
static noinline bool ioasid_put_and_trace(struct ioasid *ioasid)
{
	u32 id = ioasid->id;
	bool last;
	int refs;

	last = __refcount_sub_and_test(1, &ioasid->refs, &refs);
	trace_ioasid_put(id, refs - 1);
	return last;
}

/*
 * Put a reference. Returns true if it was the last one and the caller must
 * recycle the IOASID.
 */
static inline bool ioasid_put_and_test(struct ioasid *ioasid)
{
	if (trace_ioasid_put_enabled())
		return ioasid_put_and_trace(ioasid);
	return refcount_dec_and_test(&ioasid->refs);
}

/* Park */

/*
 * Block by group: the device and the driver that attached it may be gone
 * already, only the group reference is known to be valid.
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

/* First pass of park, lockless: no new references or attachments after this */
static void ioasid_park(struct ioasid *ioasid)
{
	/* Attach and lookups recheck the state */
	WARN_ON(cmpxchg(&ioasid->state, IOASID_STATE_ACTIVE,
			IOASID_STATE_PARKED) != IOASID_STATE_ACTIVE);
	trace_ioasid_park(ioasid->id);
}

/*
 * Second pass of park: block the table entries. DMA can continue through cached
 * translations until @gather is synced.
 *
 * Without @wait, returns false if a lock is contended, as attach and detach may
 * hold it for long. The caller must retry the entries that are missing.
 *
 * With @wait, @gather must be empty. Waits for the locks of one entry only, so
 * that no entry is in a gather meanwhile: a device reset waits for these.
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
	 * The list is stable: attach checks the state, and detach waits until
	 * everything gathered is flushed.
	 */
	if (READ_ONCE(ioasid->stray)) {
		/* Takes group mutexes and flushes each group */
		done = wait;
		if (wait)
			ioasid_block_groups(ioasid);
		goto out_unlock;
	}
	list_for_each_entry(att, &ioasid->attachments, node) {
		if (att->parked)
			continue;
		att->parked = iommu_park_device_pasid(att->domain,
						      att->entry.dev,
						      ioasid->id, gather,
						      &att->entry, wait);
		done &= att->parked;
		/* @gather is no longer empty */
		wait = false;
	}
out_unlock:
	mutex_unlock(&ioasid->lock);
	return done;
}

/* Last pass of park, after the gather was synced */
static void ioasid_finish_park(struct ioasid *ioasid)
{
	trace_ioasid_block(ioasid->id);
	/* Pairs with the acquire in ioasid_is_blocked() */
	smp_store_release(&ioasid->blocked, true);
}

/*
 * Move the objects of @chain that can be blocked to @blocked. With @wait, wait
 * for the locks of one entry of the first one.
 */
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

/* How many ticks to retry contended locks before flushing the rest */
#define IOASID_PARK_TICKS	3

/*
 * Block and flush the objects of @chain whose locks are available, and move
 * them to the end of @done. Others stay in @chain. With @wait, wait as
 * ioasid_block_some() does.
 *
 * Usually no lock is contended: all entries are blocked before the first flush,
 * so that the IOMMU driver can batch invalidations.
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
	/* Implies a barrier: a sleeping detach has not seen ->blocked yet */
	if (wq_has_sleeper(&ioasid_blocked_wq))
		wake_up_all(&ioasid_blocked_wq);
	ioasid_chain_move(done, &blocked);
}

/*
 * How often to retry contended IOASIDs before waiting for them one by one. The
 * retries keep them from waiting for each other; the limit is needed because a
 * contended lock may be handed over from holder to holder without ever being
 * free for a trylock.
 */
#define IOASID_PARK_ROUNDS	100

#ifdef CONFIG_LOCKDEP
/* Held during park; acquired by those waiting until an IOASID is blocked */
static struct lockdep_map ioasid_park_map =
	STATIC_LOCKDEP_MAP_INIT("ioasid_park", &ioasid_park_map);
#endif

/*
 * Park all IOASIDs in @chain, which belong to one account, and put the owner's
 * references. When this returns, no DMA with any of them can reach memory.
 * Cannot fail and does not allocate memory.
 *
 * All states change before the first entry is touched, so no new references and
 * attachments appear meanwhile. IOASIDs whose locks are contended are handled
 * last, after the others were flushed, so that a slow attach or detach does not
 * delay them.
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

	/* Before the owner's references are put, as recycle uncharges */
	account = llist_entry(chain->first, struct ioasid, recycle_node)->account;
	ioasid_account_park(account, count);

	/* Trylocks are not checked by lockdep */
	might_lock(&llist_entry(chain->first, struct ioasid, recycle_node)->lock);
	ioasid_chain_init(&done);
	ioasid_park_some(chain, &done, false);
	for (rounds = 1; chain->first; rounds++) {
		wait = !chain->first->next || rounds > IOASID_PARK_ROUNDS;
		ioasid_park_some(chain, &done, wait);
	}
	lock_map_release(&ioasid_park_map);

	llist_for_each_entry_safe(ioasid, next, done.first, recycle_node) {
		/* In process context, no need to defer to the worker */
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
 * keep their references; the PASID is recycled after the last ioasid_put().
 * Must be called by the owner only, and only once.
 *
 * Context: Process context, may sleep. Takes ioasid.lock, the group mutex and
 * the IOMMU driver's locks. Does not wait for page fault handlers.
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

/* References */

/**
 * ioasid_get() - take an additional reference
 * @ioasid: an IOASID that the caller holds a reference to
 *
 * Also works on a PARKED IOASID, as it does not grant new rights.
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

/* Account the caller's reference to @user and record it in @ref. */
void ioasid_add_user(struct ioasid *ioasid, enum ioasid_user user,
		     struct ioasid_ref *ref)
{
	ref->ioasid = ioasid;
	ref->user = user;
	atomic_inc(&ioasid->users[user]);
	ioasid_tracker_add(ref);
}

/**
 * ioasid_user_get() - take an additional reference and record its user
 * @ioasid: an IOASID that the caller holds a reference to
 * @user: kind of the new user
 * @ref: the new reference, to be released with ioasid_user_put()
 *
 * For long-term references. They are counted by kind in debugfs and fdinfo.
 * With CONFIG_IOASID_REF_TRACKER, the stack of this call is saved.
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
/* Set if any IOASID has ->stray set */
static atomic_t ioasid_strays;
static void ioasid_recycle_fn(struct work_struct *work);
static DECLARE_DELAYED_WORK(ioasid_recycle_work, ioasid_recycle_fn);

/*
 * Delay by a jiffy to batch last puts. Callers that cannot wait use
 * ioasid_recycle_flush().
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

/* Defer recycling to the worker; the last put may be in atomic context. */
static noinline void ioasid_queue(struct ioasid *ioasid)
{
	/* If the list was not empty, the worker is already queued */
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
 * A user must have detached @ioasid from all devices before. After the last
 * reference is gone, a worker recycles the PASID.
 *
 * Context: Any context including NMI, never sleeps. Not under scheduler, timer
 * or workqueue locks, as the last put queues work.
 */
void ioasid_put(struct ioasid *ioasid)
{
	if (ioasid_put_and_test(ioasid))
		ioasid_queue(ioasid);
}
EXPORT_SYMBOL_GPL(ioasid_put);

/* Users that may have attachments */
static unsigned int ioasid_attachers(const struct ioasid *ioasid)
{
	return atomic_read(&ioasid->users[IOASID_USER_DRIVER]) +
	       atomic_read(&ioasid->users[IOASID_USER_MDEV]);
}

/*
 * There are more attachments than users that may have any. Either a user put
 * its reference without detaching, or another one is just detaching. Let the
 * worker find out. Returns true if the caller's reference was passed to the
 * worker.
 */
static noinline bool ioasid_hand_over_stray(struct ioasid *ioasid)
{
	/* The worker needs only one reference */
	if (xchg(&ioasid->stray, true))
		return false;

	/* Pairs with the exchange in ioasid_end_strays() */
	atomic_set_release(&ioasid_strays, 1);
	ioasid_queue_worker();
	return true;
}

/**
 * ioasid_user_put() - put the reference of a user
 * @ref: from ioasid_user_get() or ioasid_fd_get(). Neither @ref nor the IOASID
 *	 may be used after this.
 *
 * The user must have detached the IOASID from all devices before. If not, a
 * worker blocks the DMA and the PASID is leaked. After the last reference is
 * gone, a worker recycles the PASID.
 *
 * Context: Any context but NMI, never sleeps, see ioasid_put(). With
 * CONFIG_IOASID_REF_TRACKER, takes a spinlock and frees memory.
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

/* Call under RCU, or while holding a reference. Returns NULL if not found. */
struct ioasid *ioasid_lookup(u32 id)
{
	struct ioasid *ioasid = xa_load(&ioasid_xa, id);

	return ioasid && ioasid_is_published(ioasid) ? ioasid : NULL;
}

/* Find the first published IOASID with PASID >= *@id. Same context as above. */
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

/* Take a reference to an ACTIVE IOASID that was looked up under RCU. */
static inline struct ioasid *ioasid_get_active(struct ioasid *ioasid)
{
	u32 state;

	lockdep_assert(rcu_read_lock_held());

	/* Fails for objects not yet published or already being released */
	if (!refcount_inc_not_zero(&ioasid->refs))
		return ERR_PTR(-ENOENT);
	/*
	 * Check the state after taking the reference, so that no reference is
	 * returned after park. refcount_inc_not_zero() does not imply ordering.
	 */
	smp_mb__after_atomic();
	/* Pairs with the release in ioasid_publish_one() */
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
 * ioasid_tryget() - take a reference to an IOASID found under RCU
 * @ioasid: an IOASID that had a reference when it was found
 *
 * For users that maintain an RCU-protected table of IOASIDs.
 *
 * Context: Any context but NMI, under rcu_read_lock().
 * Return: @ioasid, to be released with ioasid_put(), or ERR_PTR: -ESHUTDOWN if
 * it is PARKED, -ENOENT if its last reference is gone.
 */
struct ioasid *ioasid_tryget(struct ioasid *ioasid)
{
	return ioasid_get_active(ioasid);
}
EXPORT_SYMBOL_GPL(ioasid_tryget);

/* Looks up an IOASID of @account only. */
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
 * @ioasid: an IOASID that the caller holds a reference to
 *
 * Context: Any context.
 * Return: the PASID, 1 to 0xfffff.
 */
u32 ioasid_id(const struct ioasid *ioasid)
{
	return ioasid->id;
}
EXPORT_SYMBOL_GPL(ioasid_id);

/**
 * ioasid_is_active() - check whether new work may be started with an IOASID
 * @ioasid: an IOASID that the caller holds a reference to
 *
 * Only a hint for users that want to fail early: the IOASID may be parked right
 * after the check, and the hardware then blocks the DMA.
 *
 * Context: Any context.
 * Return: true while ACTIVE. Once PARKED, always false.
 */
bool ioasid_is_active(const struct ioasid *ioasid)
{
	return READ_ONCE(ioasid->state) == IOASID_STATE_ACTIVE;
}
EXPORT_SYMBOL_GPL(ioasid_is_active);

/* Number of user references; the owner's reference is dropped at park. */
u32 ioasid_users(const struct ioasid *ioasid)
{
	unsigned int refs = refcount_read(&ioasid->refs);

	return refs && ioasid_is_active(ioasid) ? refs - 1 : refs;
}

/* Attachments */

/**
 * ioasid_attach_device() - attach a PASID of a device to a domain
 * @ioasid: the IOASID. For each attachment, the caller must hold a reference
 *	    from ioasid_user_get() or ioasid_fd_get(), as IOASID_USER_DRIVER or
 *	    IOASID_USER_MDEV, until it has called ioasid_detach_device().
 * @domain: the domain, which must not be freed before ioasid_detach_device()
 * @dev: the device. The caller must be its driver.
 * @handle: passed to iommu_attach_device_pasid(), may be NULL
 *
 * When the owner frees @ioasid, the DMA of this attachment is blocked without
 * notification. The attachment persists until it is detached.
 *
 * Context: Process context, may sleep. Takes ioasid.lock and the group mutex.
 * Return: 0, or -ESHUTDOWN if @ioasid is PARKED, -EBUSY if the group of @dev
 * already has an attachment for the PASID or @dev is being reset, -EINVAL if
 * @dev does not support the PASID or @domain is incompatible with @dev,
 * -EOPNOTSUPP if the IOMMU driver does not support PASIDs, -ENODEV if @dev has
 * no IOMMU, -ENOMEM, or an error of the IOMMU driver.
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
	/* Park sets the state before it takes the lock to walk the list */
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
 * ioasid_replace_device() - attach an attached PASID to another domain
 * @ioasid: as passed to ioasid_attach_device()
 * @old: the current domain, as passed to the last attach or replace
 * @domain: the new domain, to be passed to ioasid_detach_device(). May be the
 *	    same as @old, with another @handle.
 * @dev: as passed to ioasid_attach_device()
 * @handle: passed to iommu_replace_device_pasid()
 *
 * On failure, nothing is changed.
 *
 * Context: Process context, may sleep. Takes ioasid.lock and the group mutex.
 * After dropping both, waits for page fault handlers of the old attachment.
 * Return: 0, or -ESHUTDOWN if @ioasid is PARKED, -EINVAL if @domain is
 * incompatible with @dev, -EBUSY if @dev is being reset, -EOPNOTSUPP if the
 * IOMMU core cannot replace domains, -ENOMEM, or an error of the IOMMU driver.
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

	/* See ioasid_detach_device() */
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
 * @domain: as passed to ioasid_attach_device()
 * @dev: as passed to ioasid_attach_device()
 *
 * Works in any state. The entry of a PARKED IOASID stays blocked until the
 * PASID is recycled.
 *
 * Context: Process context, may sleep. Takes ioasid.lock and the group mutex,
 * and waits for a park in progress. Then, with no lock held, waits for page
 * fault handlers of the attachment.
 */
void ioasid_detach_device(struct ioasid *ioasid, struct iommu_domain *domain,
			  struct device *dev)
{
	struct iommu_attach_handle *handle = NULL;
	struct ioasid_attachment *att;

	mutex_lock(&ioasid->lock);
	/*
	 * Until park completes, @dev has a pending flush: it must not go away,
	 * and the domain ID must not be reused.
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
	 * Fault handlers may be stuck for long. The entry is blocked and
	 * drained, so an owner freeing @ioasid need not wait for them; only the
	 * caller must, as it is about to free what they use.
	 */
	iopf_wait_for_handlers(handle);
}
EXPORT_SYMBOL_GPL(ioasid_detach_device);

/* Recycle */

/* Report a driver bug. The worker's stack would not help to find the driver. */
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
 * A user with an attachment holds a reference until it has taken ioasid.lock to
 * detach. If there are fewer users than attachments, a domain may be freed at
 * any time: block all DMA now and leak the PASID. If the IOASID is already
 * parked and flushed, there is nothing to block; it is leaked after the last
 * put.
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
		/* The worker holds a reference */
		rcu_read_unlock();
		ioasid_end_stray(ioasid);
		rcu_read_lock();
	}
	rcu_read_unlock();
}

/*
 * Unpark all entries. Returns false if a group is busy. On true, once @gather
 * is synced, no device has an entry for the PASID. Needs no lock, as there are
 * no references left.
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
 * Recycle the objects of @list, linked by recycle_node, except for those with a
 * busy group, which are returned.
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
		 * A user put its reference without detaching, and the domain
		 * may be gone. Leak the PASID rather than risk DMA to freed
		 * memory.
		 */
		if (ioasid->nr_attached) {
			ioasid_complain(ioasid);
			continue;
		}
		__llist_add(&ioasid->recycle_node,
			    ioasid_unpark(ioasid, &gather) ? &unparked : &busy);
	}
	/* Must complete before any of the PASIDs can be allocated again */
	iommu_unpark_gather_sync(&gather);
	ioasid_release(unparked.first);
	return busy.first;
}

/* Leave these to the next run of the worker. */
static void ioasid_queue_all(struct llist_node *list)
{
	struct ioasid *ioasid, *next;

	llist_for_each_entry_safe(ioasid, next, list, recycle_node)
		ioasid_queue(ioasid);
}

/* Number of worker runs that have started and completed */
static unsigned long ioasid_runs_begun;
static unsigned long ioasid_runs_done;
static DECLARE_WAIT_QUEUE_HEAD(ioasid_runs_wq);

#ifdef CONFIG_LOCKDEP
/* Held by the worker; acquired by those waiting for it below */
static struct lockdep_map ioasid_runs_map =
	STATIC_LOCKDEP_MAP_INIT("ioasid_runs", &ioasid_runs_map);
#endif

static void ioasid_recycle_fn(struct work_struct *work)
{
	unsigned long run = ioasid_runs_begun + 1;
	struct llist_node *busy;
	u32 ticks;

	/* Pairs with ioasid_kick_worker(): count before emptying the list */
	smp_store_mb(ioasid_runs_begun, run);
	lock_map_acquire(&ioasid_runs_map);
	ioasid_end_strays();
	busy = ioasid_recycle(llist_del_all(&ioasid_recycle_list));
	/* Retry groups that are busy only briefly */
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
 * Returns the number of the worker run that will handle all last puts so far.
 * The caller must wait for this run.
 */
static unsigned long ioasid_kick_worker(void)
{
	bool empty = llist_empty(&ioasid_recycle_list) &&
		     !atomic_read(&ioasid_strays);
	unsigned long run;

	lock_map_acquire(&ioasid_runs_map);
	lock_map_release(&ioasid_runs_map);

	/* If the list is empty, observe the run that has emptied it */
	smp_rmb();
	run = READ_ONCE(ioasid_runs_begun);
	if (empty)
		return run;
	/*
	 * The last put may not have queued the worker yet. Read the count
	 * first, as the run may start as soon as it is queued.
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
 * Wait until all IOASIDs put before are recycled, except for those attached to
 * a busy group. Returns -EINTR on a fatal signal.
 */
static int ioasid_recycle_wait(void)
{
	unsigned long run = ioasid_kick_worker();

	return wait_event_killable(ioasid_runs_wq, ioasid_run_is_done(run)) ?
		       -EINTR : 0;
}

/* Wait until everything is recycled, including IOASIDs with a busy group */
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
	/* The cache line layout of struct ioasid depends on the alignment */
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

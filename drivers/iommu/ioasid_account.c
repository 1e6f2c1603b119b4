// SPDX-License-Identifier: GPL-2.0-only
/*
 * IOASID: sets, accounts and charging
 *
 * An IOASID is charged to the account of its owner, to the user who opened the
 * file, to the PASID space and to the misc cgroup of the allocating task, from
 * before its PASID is taken until the PASID is free again. The purpose of each
 * limit is explained in Documentation/admin-guide/ioasid.rst.
 */

#include <linux/cred.h>
#include <linux/init.h>
#include <linux/misc_cgroup.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>

#include "ioasid.h"

/* Name the parameter after the subsystem: ioasid.quota= */
#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "ioasid."

static unsigned int ioasid_default_quota = 4096;
module_param_named(quota, ioasid_default_quota, uint, 0444);
MODULE_PARM_DESC(quota, "Default number of IOASIDs a file may hold");

/* PASIDs charged, over all accounts */
static atomic_t ioasid_nr_taken;

static void ioasid_account_init(struct ioasid_account *account,
				struct ioasid_set *set, u32 quota)
{
	refcount_set(&account->refs, 1);
	spin_lock_init(&account->lock);
	account->ioasids = RB_ROOT;
	account->quota = quota;
	account->set = set;
}

/**
 * ioasid_set_get_mm() - get the set of an mm, creating it if necessary
 * @mm: the address space. The caller must hold a reference; the set does not.
 *
 * Context: Process context, may sleep.
 * Return: the set, to be released with ioasid_set_put(), or ERR_PTR: -EINVAL if
 * @mm is NULL, -ENOMEM.
 */
struct ioasid_set *ioasid_set_get_mm(struct mm_struct *mm)
{
	struct ioasid_set *set, *old;

	if (!mm)
		return ERR_PTR(-EINVAL);

	/* Never changes again once set. Pairs with the cmpxchg() below */
	set = smp_load_acquire(&mm->ioasid_set);
	if (!set) {
		set = kzalloc(sizeof(*set), GFP_KERNEL_ACCOUNT);
		if (!set)
			return ERR_PTR(-ENOMEM);

		/* The initial reference belongs to the mm */
		ioasid_account_init(&set->kernel, set, U32_MAX);
		old = cmpxchg(&mm->ioasid_set, NULL, set);
		if (old) {
			kfree(set);
			set = old;
		}
	}
	refcount_inc(&set->kernel.refs);
	return set;
}

/**
 * ioasid_set_put() - put a set
 * @set: from ioasid_set_get_mm()
 *
 * The set is freed when its mm, its files and its last IOASID are gone.
 *
 * Context: Any context but NMI, never sleeps.
 */
void ioasid_set_put(struct ioasid_set *set)
{
	ioasid_account_put(&set->kernel);
}

/**
 * mm_ioasid_drop() - put the set of an mm that is about to be freed
 * @mm: the address space
 *
 * Context: Any context but NMI, never sleeps: the scheduler may do the last
 * mmdrop().
 */
void mm_ioasid_drop(struct mm_struct *mm)
{
	if (mm->ioasid_set)
		ioasid_set_put(mm->ioasid_set);
}

/*
 * Create the account of a new file, opened by a process with @mm. Consumes the
 * reference to @ucounts even on failure.
 */
struct ioasid_account *ioasid_account_create(struct mm_struct *mm,
					     struct ucounts *ucounts)
{
	static atomic64_t last_owner;
	struct ioasid_account *account;
	struct ioasid_set *set;

	if (!ucounts)
		return ERR_PTR(-ENOMEM);

	set = ioasid_set_get_mm(mm);
	if (IS_ERR(set)) {
		put_ucounts(ucounts);
		return ERR_CAST(set);
	}

	account = kzalloc(sizeof(*account), GFP_KERNEL_ACCOUNT);
	if (!account) {
		ioasid_set_put(set);
		put_ucounts(ucounts);
		return ERR_PTR(-ENOMEM);
	}

	ioasid_account_init(account, set, ioasid_default_quota);
	account->owner = atomic64_inc_return(&last_owner);
	account->ucounts = ucounts;
	return account;
}

void ioasid_account_put_many(struct ioasid_account *account, u32 count)
{
	struct ioasid_set *set = account->set;

	if (!refcount_sub_and_test(count, &account->refs))
		return;

	WARN_ON(account->used || account->parked);
	if (account == &set->kernel) {
		WARN_ON(atomic_read(&set->used) || atomic_read(&set->parked));
		kfree_rcu(set, kernel.rcu);
		return;
	}
	put_ucounts(account->ucounts);
	kfree_rcu(account, rcu);
	ioasid_set_put(set);
}

void ioasid_account_put(struct ioasid_account *account)
{
	ioasid_account_put_many(account, 1);
}

/*
 * Find the IOASID of @account with the smallest PASID >= @id, or return NULL.
 * The account's lock must be held.
 */
struct ioasid *ioasid_account_find(struct ioasid_account *account, u32 id)
{
	struct rb_node *node = account->ioasids.rb_node;
	struct ioasid *ioasid, *found = NULL;

	lockdep_assert_held(&account->lock);
	while (node) {
		ioasid = rb_entry(node, struct ioasid, node);
		if (ioasid->id < id) {
			node = node->rb_right;
		} else {
			found = ioasid;
			node = node->rb_left;
		}
	}
	return found;
}

/*
 * Find the next IOASID. May drop the lock briefly, so the caller must not use
 * @ioasid any more.
 */
struct ioasid *ioasid_account_next(struct ioasid_account *account,
				   struct ioasid *ioasid)
{
	u32 id = ioasid->id;

	if (cond_resched_lock(&account->lock))
		return ioasid_account_find(account, id + 1);
	return rb_entry_safe(rb_next(&ioasid->node), struct ioasid, node);
}

static bool ioasid_id_less(struct rb_node *a, const struct rb_node *b)
{
	return rb_entry(a, struct ioasid, node)->id <
	       rb_entry(b, struct ioasid, node)->id;
}

/* Add @ioasid to @account, whose lock must be held. */
void ioasid_account_insert(struct ioasid_account *account,
			   struct ioasid *ioasid)
{
	lockdep_assert_held(&account->lock);
	rb_add(&ioasid->node, &account->ioasids, ioasid_id_less);
}

/* Charges */

static bool ioasid_account_try_charge(struct ioasid_account *account, u32 count)
{
	bool fits;

	spin_lock(&account->lock);
	/* The quota may have been lowered below the usage */
	fits = account->used <= account->quota &&
	       count <= account->quota - account->used;
	if (fits)
		account->used += count;
	spin_unlock(&account->lock);
	if (fits)
		atomic_add(count, &account->set->used);
	return fits;
}

/* Uncharge @count IOASIDs, @parked of which are PARKED. */
static void ioasid_account_uncharge(struct ioasid_account *account, u32 count,
				    u32 parked)
{
	lockdep_assert_held(&account->lock);
	account->used -= count;
	account->parked -= parked;
	atomic_sub(count, &account->set->used);
	atomic_sub(parked, &account->set->parked);
}

static bool ioasid_try_take(u32 count, bool reserve)
{
	int max = IOASID_COUNT - (reserve ? 0 : IOASID_RESERVE_COUNT);
	int taken = atomic_read(&ioasid_nr_taken);

	do {
		if (taken > max || count > max - taken)
			return false;
	} while (!atomic_try_cmpxchg(&ioasid_nr_taken, &taken, taken + count));
	return true;
}

/*
 * Charge @req. Check the quota first and the cgroup last, so that a request
 * over quota does not transiently inflate shared counters and make others fail.
 */
int ioasid_charge(const struct ioasid_request *req)
{
	struct ioasid_account *account = req->account;
	u32 count = req->count;
	int ret = -EDQUOT;

	if (!ioasid_account_try_charge(account, count))
		return -EDQUOT;
	if (account->ucounts &&
	    !ucounts_try_charge(account->ucounts, UCOUNT_IOASIDS, count))
		goto err_account;
	if (!ioasid_try_take(count, req->reserve)) {
		ret = -ENOSPC;
		goto err_user;
	}
	if (!req->cg ||
	    !misc_cg_try_charge(MISC_CG_RES_IOASID, req->cg, count))
		return 0;

	atomic_sub(count, &ioasid_nr_taken);
err_user:
	if (account->ucounts)
		ucounts_uncharge(account->ucounts, UCOUNT_IOASIDS, count);
err_account:
	spin_lock(&account->lock);
	ioasid_account_uncharge(account, count, 0);
	spin_unlock(&account->lock);
	return ret;
}

/* Uncharge everything shared between accounts; see ioasid_account_uncharge() */
static void ioasid_uncharge_outside(struct ioasid_account *account,
				    struct misc_cg *cg, u32 count)
{
	misc_cg_uncharge(MISC_CG_RES_IOASID, cg, count);
	atomic_sub(count, &ioasid_nr_taken);
	if (account->ucounts)
		ucounts_uncharge(account->ucounts, UCOUNT_IOASIDS, count);
}

/* Undo ioasid_charge() for @count IOASIDs that got no PASID. */
void ioasid_uncharge(struct ioasid_account *account, struct misc_cg *cg,
		     u32 count)
{
	ioasid_uncharge_outside(account, cg, count);
	spin_lock(&account->lock);
	ioasid_account_uncharge(account, count, 0);
	spin_unlock(&account->lock);
}

/*
 * Uncharge @count objects linked by recycle_node, all with the same account,
 * cgroup and state, and remove them from the account.
 */
void ioasid_uncharge_list(struct ioasid_account *account, struct misc_cg *cg,
			  struct llist_node *list, u32 count)
{
	struct ioasid *ioasid = llist_entry(list, struct ioasid, recycle_node);
	u32 parked = ioasid->state == IOASID_STATE_PARKED ? count : 0;

	ioasid_uncharge_outside(account, cg, count);
	spin_lock(&account->lock);
	llist_for_each_entry(ioasid, list, recycle_node) {
		if (!RB_EMPTY_NODE(&ioasid->node))
			rb_erase(&ioasid->node, &account->ioasids);
	}
	ioasid_account_uncharge(account, count, parked);
	spin_unlock(&account->lock);
}

/* Count @count IOASIDs of @account as PARKED. They stay charged. */
void ioasid_account_park(struct ioasid_account *account, u32 count)
{
	spin_lock(&account->lock);
	account->parked += count;
	spin_unlock(&account->lock);
	atomic_add(count, &account->set->parked);
}

static int __init ioasid_account_setup(void)
{
	misc_cg_set_capacity(MISC_CG_RES_IOASID, IOASID_COUNT);
	init_user_ns.ucount_max[UCOUNT_IOASIDS] = IOASID_USER_LIMIT;
	return 0;
}
subsys_initcall(ioasid_account_setup);

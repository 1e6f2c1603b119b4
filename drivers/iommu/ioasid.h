/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IOASID: definitions shared by the parts of the subsystem and their tests
 */
#ifndef __IOASID_H
#define __IOASID_H

#include <linux/build_bug.h>
#include <linux/ioasid.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/misc_cgroup.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/ref_tracker.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/stddef.h>
#include <linux/types.h>
#include <uapi/linux/ioasid.h>

struct seq_file;
struct ucounts;

/* Allocatable PASIDs: 20 bits, 0 means "no PASID" */
#define IOASID_MIN	1U
#define IOASID_MAX	0xfffffU
#define IOASID_COUNT	(IOASID_MAX - IOASID_MIN + 1)

/*
 * Reserved for the kernel: the PASIDs usable by devices with few PASID bits,
 * and the last sixteenth of the space, so that SVA and drivers find a free
 * PASID regardless of user allocations.
 */
#define IOASID_RESERVE_END	1024U
#define IOASID_RESERVE_COUNT	(IOASID_COUNT / 16)

/* Without a range, prefer PASIDs that devices with few PASID bits cannot use */
#define IOASID_LOW_END		32768U

/* Default limit per user, over all files; see user.max_ioasids */
#define IOASID_USER_LIMIT	(IOASID_COUNT / 4)

/*
 * Batch size between cond_resched() calls and per lock hold. Also the size of
 * on-stack arrays.
 */
#define IOASID_BATCH	16U

/* cond_resched() every IOASID_BATCH iterations */
static inline void ioasid_cond_resched(u32 count)
{
	if (count % IOASID_BATCH == 0)
		cond_resched();
}

/* Owner ID of the kernel; files count from 1 */
#define IOASID_OWNER_KERNEL	0ULL

/**
 * struct ioasid_account - the IOASIDs of one owner and their limits
 * @refs: held by the owner and by every IOASID
 * @owner: unique ID of the file, never reused, or IOASID_OWNER_KERNEL
 * @set: the set that also counts the IOASIDs; holds a reference
 * @ucounts: of the user who opened the file; NULL for the kernel
 * @lock: protects the fields below; taken in process context only
 * @ioasids: published IOASIDs by PASID, until recycled. Not used for kernel
 *	     owners, whose IOASIDs are never listed.
 * @quota: maximum of @used
 * @used: IOASIDs charged: reserved, ACTIVE and PARKED
 * @parked: the PARKED part of @used
 * @rcu: lookups dereference the account of an IOASID under RCU
 *
 * An IOASID belongs to a file if it points to the account of the file.
 */
struct ioasid_account {
	refcount_t refs;
	u64 owner;
	struct ioasid_set *set;
	struct ucounts *ucounts;
	spinlock_t lock;	/* protects the fields below */
	struct rb_root ioasids;
	u32 quota;
	u32 used;
	u32 parked;
	struct rcu_head rcu;
};

/**
 * struct ioasid_set - all IOASIDs of one mm
 * @kernel: account of IOASIDs that kernel owners allocate for the mm. Its
 *	    reference count is also that of the set: the mm and each file
 *	    account of the set hold a reference.
 * @used: sum of @used of all accounts
 * @parked: sum of @parked of all accounts
 *
 * A set only counts. The limits are those of the file and of the user, which
 * also apply when a file is passed to another process.
 */
struct ioasid_set {
	struct ioasid_account kernel;
	atomic_t used;
	atomic_t parked;
};

/**
 * struct ioasid_chain - singly linked list of IOASIDs, linked by recycle_node
 * @first: first element
 * @end: where to link the next element
 */
struct ioasid_chain {
	struct llist_node *first;
	struct llist_node **end;
};

/*
 * State before publishing: the PASID is taken, but the object has no references
 * and is invisible to lookups. For other states, see enum ioasid_state.
 */
#define IOASID_STATE_RESERVED	0

/**
 * struct ioasid - a reference counted PASID
 * @refs: one for the owner while ACTIVE, and one for every user
 * @id: the PASID
 * @state: IOASID_STATE_x, only advances: RESERVED -> ACTIVE -> PARKED
 * @nr_attached: number of @attachments with a domain; written under @lock
 * @users: per-kind user references, a subset of @refs
 * @blocked: park is complete: no DMA can reach memory, and park does not touch
 *	     devices any more
 * @stray: a user may have put its reference without detaching; the worker holds
 *	   a reference and checks
 * @lost: confirmed by the worker, the PASID is leaked; written under @lock
 * @freeing: picked by a bulk free that may still fail; under the owner's lock
 * @account: account that it belongs and is charged to; holds a reference
 * @cg: misc cgroup charged at allocation, unaffected by later migration; holds
 *	a reference; NULL for global PASIDs of the kernel
 * @recycle_node: in a struct ioasid_chain while the owner allocates or frees
 *		  it; in the recycle list when @refs is 0
 * @lock: serializes attach, detach and park
 * @attachments: list of struct ioasid_attachment, under @lock
 * @node: in ioasid_account.ioasids, under the account's lock
 * @rcu: defers freeing for lookups; used in the first of a batch of objects
 * @tracker_dir: stack traces of @users
 *
 * Hot fields: everything up to and including @recycle_node, as used by lookup,
 * get and put, fits in one cache line of 64 bytes, which is not shared with
 * other objects. The whole struct takes two of these.
 */
struct ioasid {
	refcount_t refs;
	u32 id;
	u32 state;
	u32 nr_attached;
	atomic_t users[IOASID_USER_KINDS];
	bool blocked;
	bool stray;
	bool lost;
	bool freeing;
	struct ioasid_account *account;
	struct misc_cg *cg;
	struct llist_node recycle_node;

	struct mutex lock;	/* attach, detach and park */
	struct list_head attachments;
	union {
		struct rb_node node;
		struct rcu_head rcu;
	};
#ifdef CONFIG_IOASID_REF_TRACKER
	struct ref_tracker_dir tracker_dir;
#endif
};

static_assert(offsetofend(struct ioasid, recycle_node) <= 64);

/**
 * struct ioasid_range - inclusive range of PASIDs
 * @min: smallest PASID
 * @max: largest PASID
 */
struct ioasid_range {
	u32 min;
	u32 max;
};

/**
 * struct ioasid_request - parameters of an allocation
 * @account: the owner's account
 * @cg: misc cgroup to charge, or NULL
 * @min: smallest PASID wanted
 * @max: largest PASID wanted; 0 for any PASID
 * @count: number of IOASIDs
 * @reserve: may use PASIDs reserved for the kernel
 * @spare: @count preallocated objects, or NULL to allocate on demand
 */
struct ioasid_request {
	struct ioasid_account *account;
	struct misc_cg *cg;
	u32 min;
	u32 max;
	u32 count;
	bool reserve;
	struct ioasid_chain *spare;
};

#if IS_ENABLED(CONFIG_KUNIT)
extern struct ioasid_range ioasid_any[];
#endif

struct ioasid_account *ioasid_account_create(struct mm_struct *mm,
					     struct ucounts *ucounts);
void ioasid_account_put_many(struct ioasid_account *account, u32 count);
void ioasid_account_put(struct ioasid_account *account);
void ioasid_account_insert(struct ioasid_account *account,
			   struct ioasid *ioasid);
void ioasid_account_park(struct ioasid_account *account, u32 count);
struct ioasid *ioasid_account_find(struct ioasid_account *account, u32 id);
struct ioasid *ioasid_account_next(struct ioasid_account *account,
				   struct ioasid *ioasid);

/*
 * Walk the IOASIDs of @_account in ascending order, starting at PASID @_start.
 * The account's lock must be held; it may be dropped briefly after an
 * iteration.
 */
#define ioasid_account_for_each_from(_ioasid, _account, _start)		\
	for (_ioasid = ioasid_account_find(_account, _start); _ioasid;	\
	     _ioasid = ioasid_account_next(_account, _ioasid))

#define ioasid_account_for_each(_ioasid, _account)			\
	ioasid_account_for_each_from(_ioasid, _account, IOASID_MIN)

static inline void ioasid_chain_init(struct ioasid_chain *chain)
{
	chain->first = NULL;
	chain->end = &chain->first;
}

static inline void ioasid_chain_add(struct ioasid_chain *chain,
				    struct ioasid *ioasid)
{
	ioasid->recycle_node.next = NULL;
	*chain->end = &ioasid->recycle_node;
	chain->end = &ioasid->recycle_node.next;
}

/* @chain must not be empty */
static inline struct ioasid *ioasid_chain_pop(struct ioasid_chain *chain)
{
	struct llist_node *first = chain->first;

	chain->first = first->next;
	if (!chain->first)
		chain->end = &chain->first;
	return llist_entry(first, struct ioasid, recycle_node);
}

/* Append all of @from to @to. @from must be reinitialized before reuse. */
static inline void ioasid_chain_move(struct ioasid_chain *to,
				     struct ioasid_chain *from)
{
	if (!from->first)
		return;
	*to->end = from->first;
	to->end = from->end;
}

#define ioasid_chain_for_each(_ioasid, _chain) \
	llist_for_each_entry(_ioasid, (_chain)->first, recycle_node)

int ioasid_charge(const struct ioasid_request *req);
void ioasid_uncharge(struct ioasid_account *account, struct misc_cg *cg,
		     u32 count);
void ioasid_uncharge_list(struct ioasid_account *account, struct misc_cg *cg,
			  struct llist_node *list, u32 count);
int ioasid_reserve(const struct ioasid_request *req,
		   struct ioasid_chain *chain);
void ioasid_publish(struct ioasid_account *account, struct ioasid_chain *chain);
void ioasid_unreserve(struct ioasid_chain *chain);

struct ioasid *ioasid_lookup(u32 id);
struct ioasid *ioasid_account_find_get(struct ioasid_account *account, u32 id);
void ioasid_add_user(struct ioasid *ioasid, enum ioasid_user user,
		     struct ioasid_ref *ref);
u32 ioasid_users(const struct ioasid *ioasid);
void ioasid_show_users(struct seq_file *s, const struct ioasid *ioasid);
void ioasid_show_account(struct seq_file *s, struct ioasid_account *account);
struct ioasid *ioasid_next(u32 *id);

/*
 * Walk all published IOASIDs under rcu_read_lock(), which is dropped after each
 * iteration. @_id is the PASID of @_ioasid.
 */
#define ioasid_for_each(_ioasid, _id)					\
	for (_id = IOASID_MIN; (_ioasid = ioasid_next(&_id));		\
	     _id++, ioasid_resched_rcu())

static inline void ioasid_resched_rcu(void)
{
	rcu_read_unlock();
	cond_resched();
	rcu_read_lock();
}

void ioasid_free_chain(struct ioasid_chain *chain);
void ioasid_recycle_flush(void);

/* Record where users took their references, for debugging */
#ifdef CONFIG_IOASID_REF_TRACKER
static inline void ioasid_tracker_init(struct ioasid *ioasid)
{
	ref_tracker_dir_init(&ioasid->tracker_dir, 16, "ioasid");
}

static inline void ioasid_tracker_exit(struct ioasid *ioasid)
{
	ref_tracker_dir_exit(&ioasid->tracker_dir);
}

static inline void ioasid_tracker_add(struct ioasid_ref *ref)
{
	ref_tracker_alloc(&ref->ioasid->tracker_dir, &ref->tracker, GFP_KERNEL);
}

static inline void ioasid_tracker_del(struct ioasid_ref *ref)
{
	ref_tracker_free(&ref->ioasid->tracker_dir, &ref->tracker);
}

static inline int ioasid_tracker_snprint(struct ioasid *ioasid, char *buf,
					 size_t size)
{
	return ref_tracker_dir_snprint(&ioasid->tracker_dir, buf, size);
}
#else
static inline void ioasid_tracker_init(struct ioasid *ioasid)
{
}

static inline void ioasid_tracker_exit(struct ioasid *ioasid)
{
}

static inline void ioasid_tracker_add(struct ioasid_ref *ref)
{
}

static inline void ioasid_tracker_del(struct ioasid_ref *ref)
{
}

static inline int ioasid_tracker_snprint(struct ioasid *ioasid, char *buf,
					 size_t size)
{
	return 0;
}
#endif

#endif

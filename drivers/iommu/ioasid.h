/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IOASID: what the parts of the subsystem and their tests share
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

/* Numbers that can be allocated: 20 bits, and 0 means "without PASID" */
#define IOASID_MIN	1U
#define IOASID_MAX	0xfffffU
#define IOASID_COUNT	(IOASID_MAX - IOASID_MIN + 1)

/*
 * The reserve of the kernel: the numbers that a device with few PASID bits has,
 * and as many as are left when all others are taken. SVA and drivers find one
 * there, whatever processes have.
 */
#define IOASID_RESERVE_END	1024U
#define IOASID_RESERVE_COUNT	(IOASID_COUNT / 16)

/* Who does not care gets a number that few devices need, as long as there are */
#define IOASID_LOW_END		32768U

/* IOASIDs that all files of a user may hold, unless changed by sysctl */
#define IOASID_USER_LIMIT	(IOASID_COUNT / 4)

/*
 * Objects handled between two looks at the scheduler, or under one spinlock. More
 * would hardly be cheaper, and there are arrays of that size on the stack.
 */
#define IOASID_BATCH	16U

/* In a loop over many objects: @count is that of the rounds so far */
static inline void ioasid_cond_resched(u32 count)
{
	if (count % IOASID_BATCH == 0)
		cond_resched();
}

/* Owner of an IOASID that belongs to the kernel; files count from 1 */
#define IOASID_OWNER_KERNEL	0ULL

/**
 * struct ioasid_account - the IOASIDs of one owner, and what they are charged to
 * @refs: held by the owner and by every IOASID
 * @owner: name of the file for those who ask, or IOASID_OWNER_KERNEL; a counter,
 *	   so that a file that is gone is never mistaken for a new one
 * @set: what counts them as well; holds a reference
 * @ucounts: of the user who opened the file; NULL for the kernel
 * @lock: protects all below; taken in process context only
 * @ioasids: by number, from when they are published until they are recycled. Those
 *	     of the kernel are not in it: nobody asks.
 * @quota: how many IOASIDs there may be
 * @used: IOASIDs charged: reserved, ACTIVE and PARKED
 * @parked: those of @used that are PARKED
 * @rcu: whoever has looked up an IOASID may look at its account
 *
 * That the account of an IOASID is that of a file is what tells that the IOASID
 * is one of the file.
 */
struct ioasid_account {
	refcount_t refs;
	u64 owner;
	struct ioasid_set *set;
	struct ucounts *ucounts;
	spinlock_t lock;	/* all below */
	struct rb_root ioasids;
	u32 quota;
	u32 used;
	u32 parked;
	struct rcu_head rcu;
};

/**
 * struct ioasid_set - all IOASIDs of one mm
 * @kernel: of those of the set that the kernel owns. Its references are those of
 *	    the set: the mm has one, and each account of a file.
 * @used: as in the accounts of the set, summed up
 * @parked: as well
 *
 * A set counts and does not limit: whoever opens a file and passes it on is
 * limited by that file, and by the user.
 */
struct ioasid_set {
	struct ioasid_account kernel;
	atomic_t used;
	atomic_t parked;
};

/**
 * struct ioasid_chain - IOASIDs that recycle_node links, one after the other
 * @first: the first one
 * @end: where the next one is to be linked
 */
struct ioasid_chain {
	struct llist_node *first;
	struct llist_node **end;
};

/*
 * Before it is published, an IOASID has its number, but no reference, and no
 * lookup finds it. The other states are those of enum ioasid_state.
 */
#define IOASID_STATE_RESERVED	0

/**
 * struct ioasid - a PASID and all that hold it
 * @refs: the owner while ACTIVE, and every user
 * @id: the PASID
 * @state: IOASID_STATE_x; RESERVED -> ACTIVE -> PARKED, and no other way
 * @nr_attached: how many of @attachments have a domain; written under @lock
 * @users: of @refs, those that say who they are
 * @blocked: park is complete: no DMA can reach memory, no device is touched
 *	     by park any more
 * @stray: perhaps a user put it without detaching: the worker has its
 *	   reference, and finds out
 * @lost: that was so; written by the worker, under @lock
 * @freeing: picked by a bulk free that may still fail; under the owner's lock
 * @account: whose it is, and what it is charged to; holds a reference
 * @cg: what it is charged to as well: the cgroup of the task that allocated it,
 *	wherever that goes; holds a reference, NULL for numbers of the kernel
 * @recycle_node: in a struct ioasid_chain while the owner allocates or frees it;
 *		  in the list of objects to recycle, when @refs is 0
 * @lock: serialises attach, detach and park
 * @attachments: struct ioasid_attachment, under @lock
 * @node: in the account, under its lock
 * @rcu: lookups run under RCU; of the first of those that are released together
 * @tracker_dir: where each of @users took its reference
 *
 * Lookup, get and put touch what stands up to @recycle_node, which is one cache
 * line of 64 bytes, and no object shares it with its neighbours. All of it is two
 * of these lines.
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
 * struct ioasid_range - numbers
 * @min: the smallest
 * @max: the largest
 */
struct ioasid_range {
	u32 min;
	u32 max;
};

/**
 * struct ioasid_request - what to allocate
 * @account: for whom
 * @cg: what is charged as well, or NULL
 * @min: smallest number wanted
 * @max: largest number wanted; 0: any number
 * @count: how many
 * @reserve: also from the reserve of the kernel
 * @spare: @count objects without numbers to use, or NULL: allocate them
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
 * Walk the IOASIDs of @_account, whose lock is held, in ascending order from
 * number @_start on. The lock is released from time to time after an iteration.
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

/* The first one of a chain that is not empty */
static inline struct ioasid *ioasid_chain_pop(struct ioasid_chain *chain)
{
	struct llist_node *first = chain->first;

	chain->first = first->next;
	if (!chain->first)
		chain->end = &chain->first;
	return llist_entry(first, struct ioasid, recycle_node);
}

/* Append all of @from, which is not to be used any more, to @to */
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
 * Walk all published IOASIDs under rcu_read_lock(), which is released after each
 * iteration. @_id is the number of @_ioasid.
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

/* Where the users of an IOASID took their references, for a debug kernel */
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

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IOASID: what the core, the character device and their tests share
 */
#ifndef __IOASID_H
#define __IOASID_H

#include <linux/build_bug.h>
#include <linux/ioasid.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/misc_cgroup.h>
#include <linux/mutex.h>
#include <linux/ref_tracker.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/stddef.h>
#include <linux/types.h>
#include <uapi/linux/ioasid.h>

struct iommu_group;
struct seq_file;

/* Numbers that can be allocated: 20 bits, and 0 means "without PASID" */
#define IOASID_MIN	1U
#define IOASID_MAX	0xfffffU
#define IOASID_COUNT	(IOASID_MAX - IOASID_MIN + 1)

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
 * struct ioasid_set - all IOASIDs of one mm, the unit of accounting
 * @refs: held by every file opened by the mm and by every IOASID of the set
 * @mm: the key, pinned by mmgrab() so that it cannot become another process'
 * @node: in the table of all sets, under ioasid_sets_lock
 * @lock: protects the counters below
 * @quota: how many IOASIDs the set may hold
 * @used: IOASIDs charged: reserved, ACTIVE and PARKED
 * @parked: those of @used that are PARKED
 */
struct ioasid_set {
	refcount_t refs;
	struct mm_struct *mm;
	struct hlist_node node;
	spinlock_t lock;	/* the counters below */
	u32 quota;
	u32 used;
	u32 parked;
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
 * @freeing: picked by a bulk free that may still fail; under the owner's lock
 * @set: what it is charged to; holds a reference
 * @cg: what it is charged to as well: the cgroup of the task that allocated it,
 *	wherever that goes; holds a reference, NULL for numbers of the kernel
 * @owner: the file that allocated it, or IOASID_OWNER_KERNEL; never reused
 * @lock: serialises attach, detach and park
 * @attachments: struct ioasid_attachment, under @lock
 * @owner_node: in the owner's list, under the owner's lock, before @refs is 0
 * @rcu: lookups run under RCU; of the first of those that are released together
 * @recycle_node: in the list of objects to recycle, when @refs is 0
 * @tracker_dir: where each of @users took its reference
 *
 * Lookup, get and put touch what stands up to @owner, which is one cache line
 * of 64 bytes, and no object shares it with its neighbours. All of it is two of
 * these lines.
 */
struct ioasid {
	refcount_t refs;
	u32 id;
	u32 state;
	u32 nr_attached;
	atomic_t users[IOASID_USER_KINDS];
	bool blocked;
	bool freeing;
	struct ioasid_set *set;
	struct misc_cg *cg;
	u64 owner;

	struct mutex lock;	/* attach, detach and park */
	struct list_head attachments;
	union {
		struct list_head owner_node;
		struct rcu_head rcu;
	};
	struct llist_node recycle_node;
#ifdef CONFIG_IOASID_REF_TRACKER
	struct ref_tracker_dir tracker_dir;
#endif
};

static_assert(offsetofend(struct ioasid, owner) <= 64);

#ifdef CONFIG_IOASID
u32 ioasid_alloc_global(u32 max);
void ioasid_free_global(u32 id);
bool ioasid_group_is_parked(struct iommu_group *group, u32 id);
#else
static inline u32 ioasid_alloc_global(u32 max)
{
	return 0;
}

static inline void ioasid_free_global(u32 id)
{
}

static inline bool ioasid_group_is_parked(struct iommu_group *group, u32 id)
{
	return false;
}
#endif

int ioasid_charge(struct ioasid_set *set, struct misc_cg *cg, u32 count);
void ioasid_uncharge(struct ioasid_set *set, struct misc_cg *cg, u32 count);

int ioasid_reserve(struct ioasid_set *set, struct misc_cg *cg, u32 min, u32 max,
		   u64 owner, u32 count, struct ioasid **ioasids);
void ioasid_publish(struct ioasid *ioasid);
void ioasid_unreserve_list(struct list_head *list);

struct ioasid *ioasid_lookup(u32 id);
struct ioasid *ioasid_owner_find_get(u64 owner, u32 id);
void ioasid_add_user(struct ioasid *ioasid, enum ioasid_user user,
		     struct ioasid_tracker *tracker);
u32 ioasid_users(const struct ioasid *ioasid);
void ioasid_show_users(struct seq_file *s, const struct ioasid *ioasid);
struct ioasid *ioasid_next(u32 *id);

void ioasid_free_list(struct list_head *list);
void ioasid_recycle_flush(void);
void ioasid_bench_kvfree_barrier(void);
bool ioasid_bench_in_use(void);

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

static inline void ioasid_tracker_add(struct ioasid *ioasid,
				      struct ioasid_tracker *tracker)
{
	ref_tracker_alloc(&ioasid->tracker_dir, &tracker->ref, GFP_KERNEL);
}

static inline void ioasid_tracker_del(struct ioasid *ioasid,
				      struct ioasid_tracker *tracker)
{
	ref_tracker_free(&ioasid->tracker_dir, &tracker->ref);
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

static inline void ioasid_tracker_add(struct ioasid *ioasid,
				      struct ioasid_tracker *tracker)
{
}

static inline void ioasid_tracker_del(struct ioasid *ioasid,
				      struct ioasid_tracker *tracker)
{
}

static inline int ioasid_tracker_snprint(struct ioasid *ioasid, char *buf,
					 size_t size)
{
	return 0;
}
#endif

#endif

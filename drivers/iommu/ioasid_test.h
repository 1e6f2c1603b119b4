/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For KUnit tests of waits without a lock, which are represented by a struct
 * lockdep_map. A real deadlock would disable lockdep for all later tests, so
 * these tests check what lockdep has recorded instead.
 */
#ifndef __DRIVERS_IOMMU_IOASID_TEST_H
#define __DRIVERS_IOMMU_IOASID_TEST_H

#include <linux/debug_locks.h>
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/rculist.h>
#include <linux/sched.h>
#include <linux/string.h>

#ifdef CONFIG_PROVE_LOCKING
/* Whether lockdep is enabled */
static inline bool lockdep_test_works(void)
{
	return READ_ONCE(debug_locks);
}

/* Whether the caller holds the map @name */
static inline bool lockdep_test_holds(const char *name)
{
	int i;

	for (i = 0; i < current->lockdep_depth; i++) {
		if (!strcmp(current->held_locks[i].instance->name, name))
			return true;
	}
	return false;
}

/* Whether lockdep has recorded a wait for the map @name with @lock held */
static inline bool lockdep_test_waited(struct mutex *lock, const char *name)
{
	struct lock_class *class = lock->dep_map.class_cache[0];
	struct lock_list *next;
	bool found = false;

	if (!class)
		return false;

	rcu_read_lock();
	list_for_each_entry_rcu(next, &class->locks_after, entry)
		found = found || !strcmp(next->class->name, name);
	rcu_read_unlock();
	return found;
}
#else
static inline bool lockdep_test_works(void)
{
	return false;
}

static inline bool lockdep_test_holds(const char *name)
{
	return false;
}

static inline bool lockdep_test_waited(struct mutex *lock, const char *name)
{
	return false;
}
#endif /* CONFIG_PROVE_LOCKING */

#endif /* __DRIVERS_IOMMU_IOASID_TEST_H */

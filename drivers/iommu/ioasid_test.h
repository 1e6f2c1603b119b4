/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For KUnit tests of waits that take no lock: struct lockdep_map stands for what
 * is waited for. A test that caused a deadlock would end lockdep for all that
 * follow, so these look at what lockdep has learned instead.
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
/* Whether lockdep learns anything */
static inline bool lockdep_test_works(void)
{
	return READ_ONCE(debug_locks);
}

/* Whether the caller holds the map @name: others wait for it */
static inline bool lockdep_test_holds(const char *name)
{
	int i;

	for (i = 0; i < current->lockdep_depth; i++) {
		if (!strcmp(current->held_locks[i].instance->name, name))
			return true;
	}
	return false;
}

/* Whether somebody who held @lock has waited for the holder of the map @name */
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

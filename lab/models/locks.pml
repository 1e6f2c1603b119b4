/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The locks of IOASIDs, for spin: every path through drivers/iommu/ioasid.c and
 * ioasid_cdev.c that takes or waits for something, all at once. Two files share
 * an IOASID's device; what each path does with the object does not matter here,
 * see lifecycle.pml. Nobody may get stuck. Who holds nothing while it waits for
 * one thing, as a query, is in nobody's way, and is left out.
 *
 * The order, outermost first: ctx.lock, ioasid.lock, group->mutex, the lock of
 * the IOMMU driver. The lock of an account is taken with none of these.
 * ioasid_full_lock is outside of it. Who waits for the worker holds no lock, and
 * who holds iommu_sva_lock does not wait for it.
 *
 * Each rule has a name, and is dropped by -DNO_name: then somebody is stuck.
 *
 * -DRESET=0|1		whether the above, or those who wait for a device: each
 *			IOASID is attached to two devices, one the other way round.
 *			VFIO resets both devices, with a lock held that a page fault
 *			handler needs. A reset waits for the flush of a park, and a
 *			detach for handlers.
 */
#ifndef RESET
#define RESET	0
#endif

#define FILES	2
#define DEVICES	(1 + RESET)

bit ctx_lock[FILES];
bit ioasid_lock[FILES];		/* one IOASID of each file */
bit parked[FILES], blocked[FILES];
bit account_lock, full_lock, driver_lock, sva_lock;
bit group_mutex[DEVICES];
byte gathered[DEVICES];		/* dev->iommu->gathered */
bit memory_lock[DEVICES];	/* vfio_pci_core_device.memory_lock */
bit handling;			/* a page fault */
byte queued;			/* for the worker */
bit recycling;

#define lock(l)		atomic { !l -> l = 1 }
#define unlock(l)	l = 0

/* Nothing is waited for with it in hand: to take it is to find it free */
#define lock_unlock(l)	!l

inline driver()
{
	lock_unlock(driver_lock)
}

inline group(d)
{
	lock(group_mutex[d]);
	driver();
	unlock(group_mutex[d])
}

/* What is charged, or uncharged */
inline account()
{
	lock_unlock(account_lock)
}

/* ioasid_recycle_wait() */
inline wait_for_worker()
{
	queued == 0 && !recycling
}

/* iommu_park_device_pasid() */
inline block(d)
{
	lock(group_mutex[d]);
	driver();
	d_step { gathered[d]++; unlock(group_mutex[d]) }
}

/* With page requests, see intel_iommu_drain_pasid_prq() */
inline flush()
{
	driver()
#ifdef NO_drain_waits_for_no_handler
	;
	!handling
#endif
}

/* ioasid_free_chain(), and ioasid_recycle() of what nobody else holds */
inline park(f)
{
	parked[f] = 1;
	lock(ioasid_lock[f]);
	block(f * RESET);
#if RESET
	block(1 - f);
#endif
	unlock(ioasid_lock[f]);
	flush();
#if RESET
	d_step { gathered[0]--; gathered[1]-- };
#endif
	blocked[f] = 1;
	group(0);
	account()
}

/* ioasid_reserve(), with a first try in vain */
proctype alloc()
{
	lock(account_lock);
#ifdef NO_lock_held_while_waiting
	wait_for_worker();
#endif
	unlock(account_lock);
	wait_for_worker();
	lock(full_lock);
	account();
	unlock(full_lock)
}

proctype free(byte f)
{
	lock(ctx_lock[f]);
	park(f);
	unlock(ctx_lock[f])
}

proctype close_file(byte f)
{
	park(f)
}

proctype attach(byte f)
{
#ifdef NO_group_inside_ioasid
	lock(group_mutex[0]);
	lock(ioasid_lock[f]);
	driver();
	unlock(ioasid_lock[f]);
	unlock(group_mutex[0])
#else
	lock(ioasid_lock[f]);
	if
	:: !parked[f] -> group(0)
	:: else
	fi;
	unlock(ioasid_lock[f])
#endif
}

proctype detach(byte f)
{
again:	lock(ioasid_lock[f]);
	if
	:: parked[f] && !blocked[f] ->
#ifndef NO_unlock_to_wait
		unlock(ioasid_lock[f]);
		blocked[f];
		goto again
#else
		blocked[f]
#endif
	:: else
	fi;
#ifdef NO_ctx_outermost
	lock_unlock(ctx_lock[f]);
#endif
	lock(group_mutex[0]);
	flush();
	unlock(group_mutex[0]);
#if RESET
	!handling;		/* iopf_wait_for_handlers() */
#endif
	unlock(ioasid_lock[f])
}

/* pci_dev_reset_iommu_prepare(), of a device that VFIO has */
proctype reset(byte d)
{
	lock(memory_lock[d]);
	lock(group_mutex[d]);
	flush();
#ifdef NO_reset_unlocks_to_wait
	gathered[d] == 0;
#endif
	unlock(group_mutex[d]);
	gathered[d] == 0;
	unlock(memory_lock[d])
}

/* handle_mm_fault() of a VFIO device's memory */
proctype handler()
{
	lock_unlock(memory_lock[0]);
	handling = 0
}

/* ioasid_put() of the last one takes nothing, wherever it is */
proctype put_under_locks(byte f)
{
	lock(ioasid_lock[f]);
	lock(group_mutex[0]);
	lock(driver_lock);
#ifdef NO_put_never_sleeps
	unlock(driver_lock);
	group(0);
#else
	queued++;
	unlock(driver_lock);
#endif
	unlock(group_mutex[0]);
	unlock(ioasid_lock[f])
}

/* iommu_sva_bind_device(): a number of the same space */
proctype bind()
{
	lock(sva_lock);
	account();
	group(0);
	unlock(sva_lock)
}

proctype worker()
{
end:	do
	:: atomic { queued > 0 -> queued = 0; recycling = 1 };
		group(0);
		account();
		recycling = 0
	od
}

init {
	atomic {
#if RESET
		handling = 1;
		run handler();
		run reset(0);
		run reset(1);
		run close_file(0);
		run close_file(1);
		run detach(0)
#else
		run worker();
		run alloc();
		run free(0);
		run close_file(1);
		run attach(0);
		run detach(0);
		run detach(1);
		run put_under_locks(1);
		run bind()
#endif
	}
}

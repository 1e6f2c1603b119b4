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
 */
#define FILES	2

bit ctx_lock[FILES];
bit ioasid_lock[FILES];		/* one IOASID of each file */
bit parked[FILES], blocked[FILES];
bit account_lock, full_lock, group_mutex, driver_lock, sva_lock;
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

inline group()
{
	lock(group_mutex);
	driver();
	unlock(group_mutex)
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

/* ioasid_free_chain(), and ioasid_recycle() of what nobody else holds */
inline park(f)
{
	parked[f] = 1;
	lock(ioasid_lock[f]);
	group();
	unlock(ioasid_lock[f]);
	driver();		/* the flush */
	blocked[f] = 1;
	group();
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
	lock(group_mutex);
	lock(ioasid_lock[f]);
	driver();
	unlock(ioasid_lock[f]);
	unlock(group_mutex)
#else
	lock(ioasid_lock[f]);
	if
	:: !parked[f] -> group()
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
	group();
	unlock(ioasid_lock[f])
}

/* ioasid_put() of the last one takes nothing, wherever it is */
proctype put_under_locks(byte f)
{
	lock(ioasid_lock[f]);
	lock(group_mutex);
	lock(driver_lock);
#ifdef NO_put_never_sleeps
	unlock(driver_lock);
	group();
#else
	queued++;
	unlock(driver_lock);
#endif
	unlock(group_mutex);
	unlock(ioasid_lock[f])
}

/* iommu_sva_bind_device(): a number of the same space */
proctype bind()
{
	lock(sva_lock);
	account();
	group();
	unlock(sva_lock)
}

proctype worker()
{
end:	do
	:: atomic { queued > 0 -> queued = 0; recycling = 1 };
		group();
		account();
		recycling = 0
	od
}

init {
	atomic {
		run worker();
		run alloc();
		run free(0);
		run close_file(1);
		run attach(0);
		run detach(0);
		run detach(1);
		run put_under_locks(1);
		run bind()
	}
}

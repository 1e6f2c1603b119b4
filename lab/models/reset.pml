/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Resets of a device, for spin: they come at any time, while a PASID of the
 * device is attached, parked, flushed, detached, recycled and used once more, and
 * while somebody unmaps memory. Follows pci_dev_reset_iommu_prepare() and _done()
 * of the IOMMU core, and pasid_park.c, pasid.c and cache.c of VT-d, step by step;
 * each step that is not atomic there is not atomic here. A device-TLB invalidation
 * that meets a reset is never answered: mute.pml has what ends such a wait. Page
 * requests are in requests.pml.
 *
 * Each rule has a name, and is dropped by -DNO_name: then an assertion, named
 * after the invariant, must fail, or somebody is stuck. rig/models runs all of
 * these.
 *
 * -DRESETS=n		how many
 * -DDETACHES=0|1	whether the IOMMU core detaches the device for the time of
 *			the reset. Without that, a park that begins in the middle
 *			sends an invalidation, which is dropped when it has timed
 *			out and the device is not there.
 */
#ifndef RESETS
#define RESETS	2
#endif
#ifndef DETACHES
#define DETACHES	1
#endif

#define LIVES	2

/* The entry of the PASID table */
#define NOT_PRESENT	0
#define MARKED		1	/* P=0, FPD=1, the mark of park */
#define MAPS		2	/* + the life in which it was set */

/* Caches, and group->pasid_array: MAPS + life, or NONE */
#define NONE		0

/* The IOASID */
byte begun;		/* lives */
byte life;
bit published, is_parked, blocked, attached;
bit flushed[LIVES];	/* no DMA from here on */
bit ioasid_lock, group_mutex;

byte entry;
byte array;
bit mark;		/* IOMMU_PASID_PARKED of the array, while attached */
bit mark_blocked;	/* IOMMU_PASID_BLOCKED, while attached */
bit recovery;		/* gdev->blocked, group->recovery_cnt */
byte gathered;		/* dev->iommu->gathered */
bit tag;		/* of the device, in the domain: an unmap is to flush it */
bit cache_lock;		/* domain->cache_lock */

byte pasid_cache, iotlb, devtlb;
bit in_reset;
byte sent;		/* device-TLB invalidations that are not answered yet */
byte lost;		/* and will not be */

#define lock(l)		atomic { !l -> l = 1 }
#define unlock(l)	l = 0

#define check_dma(t)							\
	assert(t < MAPS || !flushed[t - MAPS]);		/* synchronous */ \
	assert(t < MAPS || array == t || group_mutex)

proctype hardware()
{
end:	do
	:: d_step { entry >= MAPS && pasid_cache == NONE -> pasid_cache = entry }
	:: d_step { pasid_cache != NONE && iotlb == NONE -> iotlb = pasid_cache }
	:: d_step { !in_reset && iotlb != NONE && devtlb == NONE -> devtlb = iotlb }
	:: d_step { !in_reset && devtlb != NONE -> check_dma(devtlb) }
	:: d_step { !in_reset && iotlb != NONE -> check_dma(iotlb) }
	:: d_step { !in_reset && pasid_cache != NONE -> check_dma(pasid_cache) }
	:: d_step { !in_reset && entry >= MAPS -> check_dma(entry) }
	:: d_step { !in_reset && sent > 0 -> sent--; devtlb = NONE }
	od
}

/* One device-TLB invalidation, and the wait for it; they come one after the other */
inline flush_devtlb()
{
	d_step {
		if
		:: in_reset -> lost++
		:: else -> sent++
		fi
	};
	if
	:: sent == 0 && lost == 0
#if !DETACHES
	/* Timed out: sent once more if the device is there again */
	:: d_step { in_reset && lost > 0 -> lost-- }
	:: d_step { !in_reset && lost > 0 -> lost--; devtlb = NONE }
#endif
	fi
}

inline flush()
{
	pasid_cache = NONE;
	iotlb = NONE;
	flush_devtlb()
}

/* intel_pasid_setup_first_level() and the like */
inline set_present()
{
	d_step {
		assert(entry == NOT_PRESENT);	/* final */
		assert(!flushed[life]);
		entry = array
	};
	lock(cache_lock);
	tag = 1;
	unlock(cache_lock)
}

/* blocking_domain_set_dev_pasid(): intel_pasid_tear_down_entry(), and the tag */
inline remove()
{
	if
	:: entry >= MAPS ->
		entry = NOT_PRESENT;
#ifdef NO_flush_at_reset
		if
		:: recovery
		:: else -> flush()
		fi
#else
		flush()
#endif
	:: entry == MARKED && !blocked ->
		/* The flush of park is still to come, but the caller relies on ours */
		flush()
	:: else
	fi;
	lock(cache_lock);
	tag = 0;
	unlock(cache_lock)
}

/* Somebody unmaps memory of the domain: cache_tag_flush_range() */
proctype unmap()
{
	lock(cache_lock);
	if
	:: tag -> flush_devtlb()
	:: else
	fi;
	unlock(cache_lock)
}

/* ioasid_free() */
proctype owner()
{
	byte lives;
	bit there;

	do
	:: lives < LIVES ->
		published && begun > lives;
		lives++;
		is_parked = 1;
		lock(ioasid_lock);
		if
		:: attached ->
			/* iommu_park_device_pasid(), intel_pasid_park() */
			lock(group_mutex);
			mark = 1;
			d_step {
				there = (entry >= MAPS);
				entry = MARKED;
#ifdef NO_leave_absent_alone
				there = 1;
#endif
				gathered = gathered + there
			};
			unlock(group_mutex)
		:: else
		fi;
		unlock(ioasid_lock);
		/* intel_pasid_park_sync() */
		if
		:: there -> flush()
		:: else
		fi;
		gathered = gathered - there;
		d_step { there = 0; blocked = 1; flushed[lives - 1] = 1 }
	:: else -> break
	od
}

proctype user()
{
again:	if
	:: begun == LIVES -> goto done
	:: else
	fi;
	d_step { life = begun; begun++; published = 1 };

	/* ioasid_attach_device() */
attach: skip;
	lock(ioasid_lock);
	if
	:: is_parked -> unlock(ioasid_lock); goto recycle
	:: else
	fi;
	lock(group_mutex);
#if DETACHES && !defined(NO_busy_in_reset)
	if
	:: recovery ->
		/* -EBUSY */
		unlock(group_mutex);
		unlock(ioasid_lock);
		if
		:: !recovery -> goto attach
		:: goto recycle
		fi
	:: else
	fi;
#endif
	array = MAPS + life;
	set_present();
	unlock(group_mutex);
	attached = 1;
	unlock(ioasid_lock);

	/* ioasid_detach_device() */
detach: skip;
	lock(ioasid_lock);
	if
	:: is_parked && !blocked ->
		unlock(ioasid_lock);
		blocked;
		goto detach
	:: else
	fi;
	lock(group_mutex);
	if
	:: blocked ->
		/* iommu_detach_parked_device_pasid() */
		if
		:: !recovery && !mark_blocked ->
			d_step { array = NONE; mark = 0 };
			remove()
		:: else ->
			d_step { array = NONE; mark = 0; mark_blocked = 0 }
		fi
	:: else ->
		/* iommu_detach_device_pasid() */
		if
		:: !recovery -> remove()
		:: else
		fi;
		array = NONE
	fi;
	unlock(group_mutex);
	attached = 0;
	unlock(ioasid_lock);

	/* The last reference: iommu_unpark_group_pasid() */
recycle:
	blocked;
	lock(group_mutex);
	if
	:: entry == MARKED -> entry = NOT_PRESENT
	:: else
	fi;
	unlock(group_mutex);
	d_step {
		assert(entry == NOT_PRESENT);
		published = 0;
		is_parked = 0;
		blocked = 0
	};
	goto again;
done:	skip
}

proctype reset()
{
	byte resets;

	do
	:: resets < RESETS ->
		resets++;
		/* pci_dev_reset_iommu_prepare() */
#ifdef NO_wait_last
		gathered == 0;
#endif
#if DETACHES
		lock(group_mutex);
		recovery = 1;
		if
		:: array != NONE && !mark_blocked -> remove()
		:: else
		fi;
		unlock(group_mutex);
#endif
#ifndef NO_wait_last
#ifndef NO_wait_for_park
		/* iommu_wait_for_park() */
		gathered == 0;
#endif
#endif
		/* What the device has cached goes, and what it was to answer */
		d_step {
			in_reset = 1;
			devtlb = NONE;
			lost = lost + sent;
			sent = 0
		};
		in_reset = 0;
		/* pci_dev_reset_iommu_done() */
#if DETACHES
#ifndef NO_lock_to_restore
		lock(group_mutex);
#endif
		if
		:: array == NONE || mark_blocked
#ifndef NO_mark_at_reset
		:: array != NONE && !mark_blocked && mark -> mark_blocked = 1
		:: array != NONE && !mark_blocked && !mark ->
#else
		:: else ->
#endif
			set_present()
		fi;
		/* What is not parked works again, and nothing else */
		assert(array == NONE || entry == (mark -> MARKED : array));
		recovery = 0;
#ifndef NO_lock_to_restore
		unlock(group_mutex)
#endif
#endif
	:: else -> break
	od
}

init {
	atomic {
		run hardware();
		run owner();
		run user();
		run unmap();
		run reset()
	}
}

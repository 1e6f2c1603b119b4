/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page requests of a PASID, for spin: a device that asks for pages at any time,
 * the thread that empties the page request queue, handlers that may hang for
 * ever, and park, detach and recycle, after which the number has a second life
 * on the same device. Follows prq.c of VT-d, io-pgfault.c and the IOMMU core step
 * by step; each step that is not atomic there is not atomic here. What is done
 * under iommu_fault_param::lock is atomic. Flushes are in lifecycle.pml: here there
 * is only the PASID cache. Left out are partial faults, an overflow of the queue,
 * and the end of a fault queue.
 *
 * Nobody but a detach waits for a handler. A park also waits for a detach of the
 * same IOASID that began before it, see ioasid_free(): this is the only excuse for
 * a park that does not end.
 *
 * Each rule has a name, and is dropped by -DNO_name: then an assertion must fail,
 * or somebody is stuck. rig/models runs all of these.
 *
 * -DINDEXES=1|2	requests that the device can have outstanding
 * -DASKS=n		how often it asks with each of them
 * -DLAX=0|1		whether hardware queues requests of an entry that is not
 *			present, which it should refuse (VT-d 7.4.1). Park does not
 *			rely on that. A detach of what is not parked does, or on
 *			a driver that has stopped the device.
 */
#ifndef INDEXES
#define INDEXES	1
#endif
#ifndef ASKS
#define ASKS	2
#endif
#ifndef LAX
#define LAX	1
#endif

#define LIVES	2
#define GROUPS	(INDEXES * ASKS)
#define NONE	255

/* Where a page request is */
#define IDLE	0
#define LINK	1	/* sent, and not yet in the queue */
#define QUEUED	2
#define TAKEN	3	/* the thread works on it */
#define HANDLED	4	/* with a handler */
#define REPLY	5	/* the response is on its way */

typedef request {
	byte place;
	byte life;	/* in which it was sent; NONE if the entry was not present */
};

/* struct iopf_group: one that is given to a handler */
typedef group {
	bit used;	/* allocated */
	bit pending;	/* on iommu_fault_param::faults */
	bit answered;
	bit work;	/* a handler is to run */
	byte index;
	byte handle;
};

request req[INDEXES];
group grp[GROUPS];
byte groups[LIVES];	/* iommu_attach_handle::groups */
bit handle_freed[LIVES];

byte life = NONE;
byte begun;		/* lives */
bit published, is_parked, blocked, attached;	/* the IOASID */
bit ioasid_lock, group_mutex;
byte array = NONE;	/* group->pasid_array: the handle */
bit mark;		/* IOMMU_PASID_PARKED, while attached */
bit present;		/* the entry of the PASID table */
bit cached;		/* in the PASID cache */
bit stopped;		/* the device, by its driver */
bit in_pass;		/* the head of the queue is still to be moved */
byte passes;		/* iommu->prq_passes */
byte hung;		/* handlers that will never be through */
bit detach_hangs;	/* and who has attached it waits for one */

#define lock(l)		atomic { !l -> l = 1 }
#define unlock(l)	l = 0

/* The device gets the response */
inline receive(r)
{
	/* Synchronous: not when park is through, if it has asked before */
	assert(req[r].life == NONE || req[r].life != life || !blocked);
	req[r].place = IDLE;
	req[r].life = NONE
}

/* Hardware looks a page request up as far as the PASID entry */
inline arrive(r)
{
	if
	:: LAX || present || cached ->
		cached = present || cached;
		req[r].place = QUEUED
	:: else -> req[r].place = REPLY		/* invalid */
	fi
}

/* The device, and what is between it and the queue. Park does not stop it. */
proctype device(byte r)
{
	byte asked;

end:	do
	:: d_step { asked < ASKS && !stopped && req[r].place == IDLE ->
		asked++;
		req[r].place = LINK;
		req[r].life = (present -> array : NONE) }
	:: d_step { req[r].place == LINK -> arrive(r) }
	:: d_step { req[r].place == REPLY -> receive(r) }
	od
}

/* iopf_group_answer(), which holds the lock of the fault parameter */
inline answer(g)
{
	if
#ifndef NO_answer_once
	:: grp[g].answered
#endif
	:: else ->
		/* The index may be that of another request by now */
		assert(req[grp[g].index].place == HANDLED);
		grp[g].answered = 1;
		req[grp[g].index].place = REPLY
	fi
}

/* prq_event_thread(), with iommu_report_device_fault() */
proctype thread()
{
	byte r, g, h;
	bit parked;

end:	do
	:: d_step {
		req[0].place == QUEUED || req[INDEXES - 1].place == QUEUED ->
		/* The tail is read */
		in_pass = 1;
		r = 0;
		do
		:: r < INDEXES && req[r].place == QUEUED ->
			req[r].place = TAKEN;
			r++
		:: r < INDEXES && req[r].place != QUEUED -> r++
		:: else -> break
		od;
		r = 0
	   };
		do
		:: r < INDEXES && req[r].place == TAKEN ->
#ifdef NO_mark_before_handle
			h = array;
			parked = mark;
#else
			parked = mark;
			h = array;
#endif
			if
			:: parked || h == NONE ->
				req[r].place = REPLY
			:: else ->
				/* iopf_group_alloc() */
				d_step {
					assert(!handle_freed[h]);
					/* Silent: not reported any more */
					assert(!blocked);
					/* No-reuse */
					assert(req[r].life == NONE || req[r].life == h);
					g = 0;
					do
					:: grp[g].used -> g++
					:: else -> break
					od;
					grp[g].used = 1;
					grp[g].pending = 1;
					grp[g].answered = 0;
					grp[g].index = r;
					grp[g].handle = h;
					groups[h]++;
					req[r].place = HANDLED
				};
				/* domain->iopf_handler() */
				d_step {
					assert(!handle_freed[h]);
					grp[g].work = 1;
					g = 0
				}
			fi;
			d_step { h = 0; parked = 0; r++ }
		:: r < INDEXES && req[r].place != TAKEN -> r++
		:: r >= INDEXES -> break
		od;
		r = 0;
		in_pass = 0;
		passes++
	od
}

/* iommu_sva_handle_iopf() */
proctype handler(byte g)
{
end:	do
	:: d_step { grp[g].work -> grp[g].work = 0 };
		if
		:: hung++; goto end_hung
		:: true
		fi;
		/* What it does needs the domain */
		assert(!handle_freed[grp[g].handle]);
		/* iopf_group_response(), under the lock of the fault parameter */
		d_step {
			assert(grp[g].used);
			answer(g);
			grp[g].pending = 0;
			groups[grp[g].handle]--
		};
		/* iopf_free_group() */
		d_step {
			assert(grp[g].used);
			grp[g].used = 0;
			grp[g].index = 0;
			grp[g].handle = 0
		}
	od;
end_hung:
	false
}

/* intel_iommu_drain_hw(): what is on its way arrives, in both directions */
inline drain_hw()
{
	d_step {
		i = 0;
		do
		:: i < INDEXES ->
			if
			:: req[i].place == LINK -> arrive(i)
			:: else
			fi;
			/* Also what hardware itself has answered a moment ago */
			if
			:: req[i].place == REPLY -> receive(i)
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	}
}

#define pending()	(in_pass || req[0].place == QUEUED ||			\
			 req[INDEXES - 1].place == QUEUED)
#ifdef NO_second_pass
#define PASSES	1
#else
#define PASSES	2
#endif

/* The flush, and intel_iommu_drain_pasid_prq() */
inline flush_and_drain()
{
#ifndef NO_flush_before_drain
	cached = 0;
#endif
#ifndef NO_drain_link
	drain_hw();
#endif
#ifndef NO_drain_queue
	/* intel_iommu_wait_prq() */
	pass = passes;
	if
	:: !pending()
	:: passes - pass >= PASSES
	fi;
#endif
#ifndef NO_drain_handlers
	/* iopf_queue_abort(), under the lock of the fault parameter */
	d_step {
		i = 0;
		do
		:: i < GROUPS && grp[i].pending ->
			assert(grp[i].used);
			answer(i);
#ifdef NO_handler_frees
			grp[i].pending = 0;
			grp[i].used = 0;
#endif
			i++
		:: i < GROUPS && !grp[i].pending -> i++
		:: else -> break
		od;
		i = 0
	};
#endif
#ifndef NO_drain_responses
	drain_hw();
#endif
#ifdef NO_flush_before_drain
	cached = 0;
#endif
	pass = 0
}

/* ioasid_free() */
proctype owner()
{
	byte i, pass, lives;
	bit gathered;

	do
	:: lives < LIVES ->
end:		published && begun > lives;
		lives++;
		is_parked = 1;
		if
		:: atomic { !ioasid_lock -> ioasid_lock = 1 }
		:: detach_hangs -> goto end_excused
		fi;
		if
		:: attached ->
			/* iommu_park_device_pasid() */
			lock(group_mutex);
#ifndef NO_mark_before_drain
			mark = 1;
#endif
			d_step { present = 0; gathered = 1 };
			unlock(group_mutex)
		:: else
		fi;
		unlock(ioasid_lock);
		/* iommu_pasid_gather_sync() */
		if
		:: gathered ->
			flush_and_drain();
			gathered = 0
#ifdef NO_mark_before_drain
			; mark = 1
#endif
		:: else
		fi;
		blocked = 1
	:: else -> break
	od;
end_excused:
	skip
}

/* iopf_wait_for_handlers() */
inline wait_for_handlers()
{
#ifndef NO_detach_waits
	if
	:: groups[life] == 0
	:: hung > 0 -> detach_hangs = 1; goto end_hangs
	fi
#else
	skip
#endif
}

proctype user()
{
	byte i, pass;

again:	if
	:: begun == LIVES -> goto done
	:: else
	fi;
	d_step {
		life = begun;
		begun++;
		published = 1;
		stopped = 0
	};

	/* ioasid_attach_device() */
	lock(ioasid_lock);
	if
	:: is_parked
	:: else ->
		lock(group_mutex);
		d_step { assert(array == NONE); array = life };
		present = 1;
		unlock(group_mutex);
		attached = 1
	fi;
	unlock(ioasid_lock);
	if
	:: !attached -> goto recycle
	:: else
	fi;

	/* ioasid_detach_device() */
	if
#if LAX && !defined(NO_stop_before_detach)
	:: stopped = 1		/* by its driver */
#else
	:: true
#endif
	:: is_parked		/* or not, if it is parked */
	fi;
detach:
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
		d_step { array = NONE; mark = 0 };
		flush_and_drain()
	:: else ->
		/* iommu_detach_device_pasid() */
		present = 0;
		flush_and_drain();
		d_step { array = NONE; mark = 0 }
	fi;
#ifdef NO_unlock_to_wait
	wait_for_handlers();
#endif
	unlock(group_mutex);
#ifndef NO_unlock_to_wait
	wait_for_handlers();
#endif
	/* Handle and domain are the caller's again */
	d_step { handle_freed[life] = 1; attached = 0 };
	unlock(ioasid_lock);

	/* The last reference */
recycle:
	atomic {
		blocked ->
		/* No-reuse: nothing of the previous holder is left */
		i = 0;
		do
		:: i < INDEXES ->
			assert(req[i].place == IDLE || req[i].life != life);
			i++
		:: else -> break
		od;
		i = 0;
		published = 0;
		is_parked = 0;
		blocked = 0
	};
	goto again;
end_hangs:
	false;
done:	skip
}

/* Somebody who attaches another PASID to the same group: is never stuck. */
proctype neighbour()
{
	lock(group_mutex);
	unlock(group_mutex)
}

init {
	byte i;

	atomic {
		run thread();
		i = 0;
		do
		:: i < INDEXES -> req[i].life = NONE; run device(i); i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < GROUPS -> run handler(i); i++
		:: else -> break
		od;
		i = 0;
		run owner();
		run user();
		run neighbour()
	}
}

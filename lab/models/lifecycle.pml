/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The life of IOASIDs, for spin: two owners that compete for numbers, two users
 * with a device each, the worker that recycles, and devices that fill caches
 * and DMA at any time. Follows drivers/iommu/ioasid.c, pasid_park.c of VT-d and
 * the IOMMU core step by step; each step that is not atomic there is not atomic
 * here. Memory is sequentially consistent: for what depends on the order of
 * accesses see Documentation/litmus-tests/ioasid/. Resets of a device are in
 * reset.pml, its page requests in requests.pml, and what becomes of one that does
 * not answer in mute.pml.
 *
 * Each rule has a name, and is dropped by -DNO_name: then an assertion, named
 * after an invariant of Documentation/driver-api/ioasid.rst, must fail, or the
 * model must get stuck. rig/models runs all of these.
 *
 * -DNUMBERS=n		size of the number space
 * -DQUOTA=n		of each set
 * -DROUNDS=n		what each owner and each user does at most
 * -DCACHES=0|1		whether devices cache translations
 * -DREMOVE=0|1		whether device 1 is removed and comes back once
 * -DSTRANGER=0|1	whether somebody tries to attach a bare number to device 0
 */
#ifndef NUMBERS
#define NUMBERS	1
#endif
#ifndef QUOTA
#define QUOTA	1
#endif
#ifndef ROUNDS
#define ROUNDS	1
#endif
#ifndef CACHES
#define CACHES	1
#endif
#ifndef REMOVE
#define REMOVE	0
#endif
#ifndef STRANGER
#define STRANGER	0
#endif

#define OWNERS	2
#define USERS	2	/* user u drives device u, each in a group of its own */
#define OBJECTS	3
#define NOBODY	255

/* ioasid.state; UNUSED is memory that belongs to the allocator */
#define UNUSED		0
#define RESERVED	1
#define ACTIVE		2
#define PARKED		3

/* An entry of a PASID table, and what is cached of it: MAPS + x translates */
#define NOT_PRESENT	0
#define MARKED		1	/* P=0, FPD=1, the mark of park */
#define MAPS		2

/* The state of an attachment */
#define NONE		0
#define ATTACHED	1
#define LEFT		2	/* detached when parked: for recycle */

typedef object {
	byte number;
	byte file;		/* of its owner, who has a set of its own */
	byte refs;
	byte state;
	bit blocked;
	bit lock;
	byte att[USERS];
	bit queued;		/* on the list of the worker */
	byte grace;		/* RCU readers that reclaim waits for */
	bit dying;		/* given to call_rcu() */
	/* What the real thing does not have: truths to check against */
	byte holders;		/* references that somebody believes to have */
	bit freed;		/* the flush of park is through */
};

typedef device {
	byte entry[NUMBERS];	/* PASID table */
	byte array[NUMBERS];	/* group->pasid_array: MAPS + x, or NONE */
	byte pasid_cache[NUMBERS];
	byte iotlb[NUMBERS];
	byte devtlb[NUMBERS];
	bit mutex;		/* group->mutex */
	bit bound;		/* to its user: it is not removed before that */
};

object obj[OBJECTS];
device dev[USERS];
byte xa[NUMBERS];		/* MAPS + x, or NONE */
byte used[OWNERS];		/* set->used */
byte reader[USERS];		/* in an RCU read side critical section */
bit recycling;			/* the worker is at it */

#define x_lock(l)	atomic { l == 0 -> l = 1 }
#define x_unlock(l)	l = 0

/* Users-keep: who has a reference may use the object */
#define touch(x)	assert(obj[x].state != UNUSED)

/* Final, and synchronous: an entry translates for an ACTIVE IOASID only */
inline set_present(d, n, x)
{
	d_step {
		assert(dev[d].entry[n] != MARKED);	/* final */
		assert(!obj[x].freed);			/* final */
		dev[d].entry[n] = MAPS + x
	}
}

/* VT-d, "Guidance to Software for Invalidations": in this order */
inline flush(d, n)
{
#ifndef NO_flush
#ifdef NO_flush_order
	dev[d].devtlb[n] = 0;
	dev[d].iotlb[n] = 0;
	dev[d].pasid_cache[n] = 0;
#else
	dev[d].pasid_cache[n] = 0;
	dev[d].iotlb[n] = 0;
#ifndef NO_flush_devtlb
	dev[d].devtlb[n] = 0;
#endif
#endif
#else
	skip;
#endif
}

/*
 * A device: each step on its own, at any time. What it uses must be of an
 * attachment that is there, and of an IOASID that is not parked and flushed.
 */
#define check_dma(d, t)							\
	assert(t < MAPS || !obj[t - MAPS].freed);	/* synchronous */	\
	assert(t < MAPS || dev[d].array[0] == t || dev[d].mutex)

proctype hardware(byte d)
{
	byte n;

end:	do
#if CACHES
	:: d_step { dev[d].entry[0] >= MAPS && dev[d].pasid_cache[0] == 0 ->
		    dev[d].pasid_cache[0] = dev[d].entry[0] }
	:: d_step { dev[d].pasid_cache[0] >= MAPS && dev[d].iotlb[0] == 0 ->
		    dev[d].iotlb[0] = dev[d].pasid_cache[0] }
	:: d_step { dev[d].iotlb[0] >= MAPS && dev[d].devtlb[0] == 0 ->
		    dev[d].devtlb[0] = dev[d].iotlb[0] }
	:: d_step { dev[d].devtlb[0] >= MAPS -> check_dma(d, dev[d].devtlb[0]) }
	:: d_step { dev[d].iotlb[0] >= MAPS -> check_dma(d, dev[d].iotlb[0]) }
	:: d_step { dev[d].pasid_cache[0] >= MAPS -> check_dma(d, dev[d].pasid_cache[0]) }
#endif
	:: d_step { dev[d].entry[0] >= MAPS -> check_dma(d, dev[d].entry[0]) }
	od
}

/*
 * All steps that end a life. By the worker, or by the owner itself if nobody
 * else holds it.
 */
inline recycle(x, d)
{
	d_step {
		touch(x);
		assert(obj[x].holders == 0);	/* no-reuse */
		d = 0
	};
	do
	:: d < USERS ->
		if
		:: obj[x].att[d] == LEFT ->
			x_lock(dev[d].mutex);
			d_step {
				if
				:: dev[d].entry[obj[x].number] == MARKED ->
					dev[d].entry[obj[x].number] = NOT_PRESENT
				:: else
				fi;
				obj[x].att[d] = NONE;
				x_unlock(dev[d].mutex)
			}
		:: else ->
			assert(obj[x].att[d] == NONE)
		fi;
		d++
	:: else -> break
	od;
#ifndef NO_charge_until_recycle
	atomic { assert(used[obj[x].file] > 0);	/* charged */
		 used[obj[x].file]-- }
#endif
#ifndef NO_number_until_recycle
	xa[obj[x].number] = NONE;
#endif
	/* call_rcu() */
	atomic {
#ifndef NO_grace_period
		obj[x].grace = reader[0] | (reader[1] << 1);
#endif
		obj[x].dying = 1
	}
}

/* Memory goes back when the readers of that time are through. */
proctype rcu()
{
	byte x;

end:	do
	:: atomic { obj[0].dying && obj[0].grace == 0 -> x = 0; goto reclaim }
	:: atomic { obj[1].dying && obj[1].grace == 0 -> x = 1; goto reclaim }
	:: atomic { obj[2].dying && obj[2].grace == 0 -> x = 2; goto reclaim }
	od;
reclaim:
	atomic {
		obj[x].state = UNUSED;
		obj[x].dying = 0;
		obj[x].blocked = 0;
		obj[x].freed = 0;
		obj[x].number = 0;
		obj[x].file = 0;
		obj[x].queued = 0;
		assert(obj[x].lock == 0);
		x = 0
	}
	goto end
}

inline rcu_read_unlock(u)
{
	d_step {
		reader[u] = 0;
		obj[0].grace = obj[0].grace & ~(1 << u);
		obj[1].grace = obj[1].grace & ~(1 << u);
		obj[2].grace = obj[2].grace & ~(1 << u)
	}
}

#define pending(x)	(obj[x].queued)
#define idle()		(!recycling && !pending(0) && !pending(1) && !pending(2))

proctype worker()
{
	byte x, d;

end:	do
	:: atomic { pending(0) -> x = 0; obj[0].queued = 0; recycling = 1 };
		goto one
	:: atomic { pending(1) -> x = 1; obj[1].queued = 0; recycling = 1 };
		goto one
	:: atomic { pending(2) -> x = 2; obj[2].queued = 0; recycling = 1 };
		goto one
	od;
one:
	recycle(x, d);
	d_step { recycling = 0; x = 0; d = 0 };
	goto end
}

/* ioasid_put(): true if it was the last one */
inline drop(x, last)
{
	d_step {
		touch(x);
		assert(obj[x].refs > 0);
		assert(used[obj[x].file] > 0);	/* charged */
		obj[x].holders--;
		obj[x].refs--;
		last = (obj[x].refs == 0)
	}
}

inline take_number(x, n)
{
	obj[x].number = n;
	xa[n] = MAPS + x;
	/* No-reuse: nobody holds another object of that number */
	assert(x == 0 || obj[0].number != n || obj[0].holders == 0);
	assert(x == 1 || obj[1].number != n || obj[1].holders == 0);
	assert(x == 2 || obj[2].number != n || obj[2].holders == 0);
	/* and no device knows it */
	assert(dev[0].entry[n] == NOT_PRESENT && dev[1].entry[n] == NOT_PRESENT)
}

proctype owner(byte o)
{
	byte round, x, n, d, gathered;
	bit last, tried;

again:
	atomic { x = 0; n = 0; d = 0; gathered = 0; last = 0; tried = 0 };
	if
	:: round < ROUNDS
	:: goto done	/* or not at all */
	fi;
	round++;

	/* ioasid_charge() */
charge: skip;
	if
	:: d_step { used[o] < QUOTA -> used[o]++ }
	:: used[o] >= QUOTA && !tried -> idle(); tried = 1; goto charge
	:: used[o] >= QUOTA && tried -> goto again
	fi;

	/* ioasid_reserve() */
	atomic {
		tried = 0;
		if
		:: obj[0].state == UNUSED -> x = 0
		:: obj[0].state != UNUSED && obj[1].state == UNUSED -> x = 1
		:: obj[0].state != UNUSED && obj[1].state != UNUSED &&
		   obj[2].state == UNUSED -> x = 2
		fi;
		obj[x].state = RESERVED;
		obj[x].file = o
	}
number: skip;
	if
	:: d_step { xa[0] == NONE -> take_number(x, 0); n = 0 }
#if NUMBERS > 1
	:: d_step { xa[1] == NONE -> take_number(x, 1); n = 1 }
	:: xa[0] != NONE && xa[1] != NONE && !tried
#else
	:: xa[0] != NONE && !tried
#endif
		-> idle(); tried = 1; goto number
	:: tried ->
		d_step { obj[x].state = UNUSED; obj[x].file = 0; used[o]--; x = 0 };
		goto again
	fi;

	/* ioasid_publish() */
	d_step { obj[x].refs = 1; obj[x].holders = 1 };
	obj[x].state = ACTIVE;

	/* ioasid_free(): park, up to the flush */
	d_step { assert(obj[x].state == ACTIVE); obj[x].state = PARKED };
	x_lock(obj[x].lock);
	d = 0;
	do
	:: d < USERS ->
		if
		:: obj[x].att[d] == ATTACHED ->
			x_lock(dev[d].mutex);
			d_step {
#ifndef NO_block
				dev[d].entry[n] = MARKED;
#endif
				gathered = gathered | (1 << d);
				x_unlock(dev[d].mutex)
			}
		:: else
		fi;
		d++
	:: else -> break
	od;
	x_unlock(obj[x].lock);
#ifdef NO_charge_until_recycle
	d_step { used[o]--; };
#endif
#ifdef NO_number_until_recycle
	xa[n] = NONE;
#endif
#ifdef NO_flush_before_free_returns
	obj[x].freed = 1;
#endif
	/* iommu_pasid_gather_sync() */
	d = 0;
	do
	:: d < USERS ->
		if
		:: gathered & (1 << d) ->
			/* It is about to be flushed: it must be there */
			assert(obj[x].att[d] == ATTACHED);	/* synchronous */
			flush(d, n)
		:: else
		fi;
		d++
	:: else -> break
	od;
	/* The last pass: from here on DMA reaches nothing, synchronous */
	atomic { obj[x].blocked = 1; obj[x].freed = 1 };

	/* The reference of the owner */
	drop(x, last);
	if
	:: last -> recycle(x, d)
	:: else
	fi;
	goto again;
done:	skip
}

/* A user: shown a file and a number, attaches, detaches, lets go */
proctype user(byte u)
{
	byte round, x, n, o, found;
	bit last, attached, parked;

again:
	atomic { x = 0; n = 0; o = 0; found = 0; last = 0; attached = 0; parked = 0;
		 dev[u].bound = 0 };
	if
	:: round < ROUNDS
	:: goto done
	fi;
	round++;
	atomic { true -> dev[u].bound = 1 };
	if
	:: o = 0
	:: o = 1
	fi;
#if NUMBERS > 1
	if
	:: n = 0
	:: n = 1
	fi;
#endif

	/* ioasid_account_find_get() */
	reader[u] = 1;
	d_step {
		found = xa[n];
		parked = (found != NONE && obj[found - MAPS].state == PARKED)
	};
	if
	:: found == NONE -> rcu_read_unlock(u); goto again
	:: else
	fi;
	x = found - MAPS;
	if
	:: obj[x].file != o -> rcu_read_unlock(u); goto again
	:: else -> touch(x)
	fi;
#ifdef NO_reference
	d_step { touch(x); obj[x].holders++ };
#else
	touch(x);
	if
	:: d_step { obj[x].refs > 0 -> obj[x].refs++; obj[x].holders++ }
	:: obj[x].refs == 0 -> rcu_read_unlock(u); goto again
	fi;
	if
#ifndef NO_state_after_reference
	:: obj[x].state != ACTIVE ->
		drop(x, last);
		if
		:: last -> obj[x].queued = 1
		:: else
		fi;
		rcu_read_unlock(u);
		goto again
#endif
	:: else -> assert(!parked)	/* users-keep */
	fi;
#endif
	rcu_read_unlock(u);

	/* ioasid_attach_device() */
#ifndef NO_lock_around_attach
	x_lock(obj[x].lock);
#endif
#ifndef NO_state_under_lock
	if
	:: obj[x].state == ACTIVE
	:: else -> goto attach_out
	fi;
#endif
	x_lock(dev[u].mutex);
	set_present(u, n, x);
	d_step { dev[u].array[n] = MAPS + x; attached = 1 };
	x_unlock(dev[u].mutex);
	d_step { touch(x); obj[x].att[u] = ATTACHED };
attach_out:
#ifndef NO_lock_around_attach
	x_unlock(obj[x].lock);
#endif

	/* The device has it: the hardware goes on by itself */
	if
	:: !attached -> goto put
	:: else
	fi;

	/* ioasid_detach_device() */
#ifdef NO_put_after_detach
	drop(x, last);
	if
	:: last -> obj[x].queued = 1
	:: else
	fi;
#endif
detach: skip;
	x_lock(obj[x].lock);
#ifndef NO_detach_waits
	if
	:: obj[x].state != ACTIVE && !obj[x].blocked ->
#ifdef NO_unlock_to_wait
		obj[x].blocked;
#else
		x_unlock(obj[x].lock);
		obj[x].blocked;
		goto detach
#endif
	:: else
	fi;
#endif
	x_lock(dev[u].mutex);
	if
	:: d_step { obj[x].blocked ->
#ifdef NO_mark_until_recycle
		dev[u].entry[n] = NOT_PRESENT;
#endif
		obj[x].att[u] = LEFT }
	:: d_step { !obj[x].blocked ->
		dev[u].entry[n] = NOT_PRESENT };
		flush(u, n);
		obj[x].att[u] = NONE
	fi;
	d_step { dev[u].array[n] = NONE; x_unlock(dev[u].mutex); attached = 0 };
	x_unlock(obj[x].lock);
#ifdef NO_put_after_detach
	goto again;
#endif

put:	skip;
#ifdef NO_reference
	d_step { touch(x); obj[x].holders-- };
#else
	drop(x, last);
	if
	:: last -> obj[x].queued = 1
	:: else
	fi;
#endif
	goto again;
done:	skip
}

/*
 * A driver that attaches a number that is not its own, or a process that is
 * bound to it: refused as long as the hardware knows the number as parked.
 */
#define is_parked_on(x, d)	(obj[x].state == PARKED && obj[x].number == 0 && obj[x].att[d] != NONE)

#ifndef NO_mark_at_attach
#define accepts(d, n)	(dev[d].entry[n] != MARKED)
#else
#define accepts(d, n)	true
#endif

proctype stranger(byte d)
{
	if
	:: d_step { !dev[d].mutex && dev[d].array[0] == NONE && accepts(d, 0) ->
		/* Final */
		assert(!is_parked_on(0, d) && !is_parked_on(1, d) && !is_parked_on(2, d)) }
	:: true	/* or never */
	fi
}

/* The device goes with its PASID table, and another one comes */
proctype removal(byte d)
{
	atomic {
		!dev[d].bound && !dev[d].mutex ->
		assert(dev[d].array[0] == NONE);
		dev[d].entry[0] = NOT_PRESENT;
		dev[d].pasid_cache[0] = 0;
		dev[d].iotlb[0] = 0;
		dev[d].devtlb[0] = 0
	}
}

init {
	atomic {
		run worker();
		run rcu();
#if CACHES
		run hardware(0);
		run hardware(1);
#endif
#if REMOVE
		run removal(1);
#endif
#if STRANGER
		run stranger(0);
#endif
		run owner(0);
		run owner(1);
		run user(0);
		run user(1);
	}
	/* At the end nothing is left: no number, no charge, no object */
	(_nr_pr <= 3 + 2 * CACHES) && idle() &&
		!obj[0].dying && !obj[1].dying && !obj[2].dying;
	assert(xa[0] == NONE && used[0] == 0 && used[1] == 0);
	assert(dev[0].entry[0] == NOT_PRESENT && dev[1].entry[0] == NOT_PRESENT)
}

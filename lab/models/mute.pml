/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A function that does not answer device-TLB invalidations, for spin: two owners
 * park a PASID of it each, a third owner parks one of another function behind the
 * same IOMMU, and the mute function is reset. It answers or not, as it likes, but
 * never in the middle of the reset. Follows qi_submit_sync() and fence.c of VT-d
 * step by step; each step that is not atomic there is not atomic here. What is done
 * under q_lock or device_rbtree_lock is atomic.
 *
 * All DMA is by translated requests, since these look at nothing but the context
 * entry. Requests that have passed the IOMMU before the flush arrive, see "What a
 * fence does not reach" in Documentation/driver-api/ioasid-internals.rst. So the
 * other two flushes of a fence, of PASID cache and IOTLB, make no difference here.
 * Hardware names the function in each time-out, and refuses no descriptor.
 *
 * Each rule has a name, and is dropped by -DNO_name: then an assertion must fail,
 * or somebody is stuck. rig/models runs all of these.
 *
 * -DRESET=0|1		whether the function is reset once
 */
#ifndef RESET
#define RESET	0
#endif

#define PARKS	3
#define OTHER	2	/* the park that is of the other function */
/*
 * Two for the fence, and one more if somebody has looked for mute functions before
 * the second. Time-outs in the middle of a reset do not count, but each park sends
 * only once without asking whether the function is there.
 */
#define TIMEOUTS	(3 + 2 * RESET)

/* What becomes of a submission */
#define UNUSED	0
#define IN_USE	1
#define DONE	2
#define ABORT	3

/* Descriptors */
#define NOTHING	0
#define DEVTLB	1
#define CONTEXT	2

typedef submission {
	byte status;
	byte desc;
	bit executed;
	bit lost;	/* hardware has dropped it */
	byte ahead;	/* those that its wait waits for */
};

submission sub[PARKS];
bit ite;			/* a time-out is reported: hardware goes no further */
byte ites;			/* how many were, since the last reset */

bit present = 1;		/* P of the context entry */
bit cached;			/* it is in the context cache */
bit devtlb[PARKS];		/* the translation of a PASID */
bit blocked[PARKS];		/* nothing but the above has it any more */
bit parked[PARKS];		/* the park is through */
bit in_reset;			/* no configuration space: not present, for Linux */
bit quiet;			/* not in service again */
byte timeouts;			/* info->inv_timeouts */
bit fenced;			/* info->fenced */
bit lifts;			/* how often the fence was lifted */
bit iommu_lock;			/* held by a caller of qi_submit_sync() */

#define FENCE_TIMEOUTS	2
#define is_mute()	(timeouts >= FENCE_TIMEOUTS)

#define pending(s)	(sub[s].status == IN_USE && !sub[s].executed && !sub[s].lost)
#define unanswered(s)	(pending(s) && s != OTHER && sub[s].desc == DEVTLB)
#define is_ahead(s, t)	((sub[s].ahead & (1 << t)) && (pending(t)))

#define can_dma(s)	(s == OTHER || (!quiet && (present || cached)))

/* What a function does with one of its PASIDs */
proctype device(byte s)
{
end:	do
	:: d_step { can_dma(s) && !blocked[s] && !devtlb[s] ->
		devtlb[s] = 1 }
	:: d_step { can_dma(s) && devtlb[s] ->
		assert(!parked[s]) }	/* synchronous */
	od
}

/* What is between two waits is executed in any order, waits are not */
#define execute(s)								\
	:: d_step { pending(s) && !ite && sub[s].desc == NOTHING ->		\
		sub[s].executed = 1 }						\
	:: d_step { pending(s) && !ite && sub[s].desc == CONTEXT ->		\
		sub[s].executed = 1; cached = 0 }				\
	:: d_step { pending(s) && !ite && sub[s].desc == DEVTLB &&		\
		    (s == OTHER || !in_reset) ->				\
		sub[s].executed = 1; devtlb[s] = 0 }				\
	:: d_step { sub[s].status == IN_USE && sub[s].executed &&		\
		    !sub[s].lost && !ite && !is_ahead(s, 0) &&			\
		    !is_ahead(s, 1) && !is_ahead(s, 2) ->			\
		sub[s].status = DONE }

proctype hardware()
{
end:	do
	:: d_step { present && !cached -> cached = 1 }
	execute(0)
	execute(1)
	execute(2)
	:: d_step { !ite && (unanswered(0) || unanswered(1)) ->
		ite = 1;
		ites++;
		/* No-neighbour: it takes no longer */
		assert(ites <= TIMEOUTS);
		/* All that was fetched */
		sub[0].lost = (sub[0].status == IN_USE);
		sub[1].lost = (sub[1].status == IN_USE);
		sub[2].lost = (sub[2].status == IN_USE) }
	od
}

#define abort(t)	sub[t].status = (sub[t].status == IN_USE -> ABORT : sub[t].status)

/* qi_submit_once() */
inline submit_once(what)
{
	d_step {
		sub[s].desc = what;
		sub[s].executed = 0;
		sub[s].lost = 0;
		sub[s].ahead = 7 & ~(1 << s);
		sub[0].ahead = sub[0].ahead & ~(1 << s);
		sub[1].ahead = sub[1].ahead & ~(1 << s);
		sub[2].ahead = sub[2].ahead & ~(1 << s);
		sub[s].status = IN_USE
	};
	do
	/* qi_check_fault(), by anybody who waits */
	:: d_step { sub[s].status == IN_USE && ite ->
		/* intel_fence_timeout() */
		timeouts = (!in_reset && !is_mute() -> timeouts + 1 : timeouts);
		ite = 0;
		/* qi_recover_ite() */
#ifdef NO_abort_all
		abort(s)
#else
		abort(0);
		abort(1);
		abort(2)
#endif
	   }
	:: d_step { sub[s].status != IN_USE ->
		again = (sub[s].status == ABORT);
		sub[s].status = UNUSED;
		sub[s].desc = NOTHING;
		sub[s].executed = 0;
		sub[s].lost = 0;
		sub[s].ahead = 0 } -> break
	od
}

/* intel_fence_mute(): whoever comes across it, and nobody waits for anybody */
inline fence()
{
	do
	:: d_step { is_mute() && !fenced ->
		/* intel_fence_block_next() */
		seen = lifts;
#ifndef NO_block_before_flush
		present = 0;
#endif
#ifdef NO_flush_before_fenced
		fenced = 1
#endif
	   };
		/* Whoever submits may hold this */
#ifdef NO_fence_without_lock
		atomic { !iommu_lock -> iommu_lock = 1 };
		iommu_lock = 0;
#endif
		/* intel_fence_flush() */
#ifndef NO_flush_context
		again = 1;
		do
		:: again -> submit_once(CONTEXT)
		:: else -> break
		od;
#endif
		/* intel_fence_complete() */
		atomic {
			if
#ifndef NO_complete_unless_lifted
			:: seen != lifts
#endif
			:: else ->
#ifdef NO_block_before_flush
				present = 0;
#endif
				fenced = 1
			fi
		}
	:: else -> break
	od
}

/* intel_fence_filter() */
inline filter(resubmit)
{
	if
#ifndef NO_fence
	:: desc == DEVTLB && s != OTHER && !fenced && is_mute() ->
		fence()
#endif
	:: else
	fi;
	atomic {
		if
#ifndef NO_fence
		:: desc == DEVTLB && s != OTHER && fenced -> desc = NOTHING
#endif
#ifndef NO_drop_for_absent
		:: desc == DEVTLB && s != OTHER && resubmit && in_reset &&
		   !fenced && !is_mute() ->
			desc = NOTHING
#endif
		:: else
		fi
	}
}

/* ioasid_free(), from when the IOTLB is flushed */
proctype park(byte s)
{
	byte desc;
	bit again, seen;

	blocked[s] = 1;
	desc = DEVTLB;
	if
	/* Somebody may flush with a lock held, or with interrupts off */
	:: s == 1 -> atomic { !iommu_lock -> iommu_lock = 1 }
	:: else
	fi;
	/* qi_submit_sync() */
	if
	:: is_mute() -> filter(0)
	:: else
	fi;
	submit_once(desc);
	/* intel_fence_submit_again() */
#ifndef NO_submit_again
	do
	:: again ->
		filter(1);
		submit_once(desc)
	:: else -> break
	od;
#endif
	if
	:: s == 1 -> iommu_lock = 0
	:: else
	fi;
	parked[s] = 1
}

/* A reset, and intel_fence_lift() at its end */
inline lift()
{
	d_step {
		present = (is_mute() -> 1 : present);
		fenced = 0;
		lifts = 1;
		timeouts = 0;
		ites = 0
	}
}

proctype reset()
{
#ifdef NO_lift_after_reset
	lift();
#endif
	d_step { in_reset = 1; quiet = 1 };
	d_step { devtlb[0] = 0; devtlb[1] = 0 };
	in_reset = 0;
#ifdef NO_quiet_until_lifted
	quiet = 0;
#endif
#ifndef NO_lift_after_reset
	lift();
#endif
	quiet = 0
}

init {
	atomic {
		run hardware();
		run device(0);
		run device(1);
		run device(OTHER);
#if RESET
		run reset();
#endif
		run park(0);
		run park(1);
		run park(OTHER)
	}
}

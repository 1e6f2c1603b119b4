// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random operations of several processes and threads at once
 *
 * Settings from the environment: RACE_OPS, RACE_SEED, and RACE_SECONDS, a limit
 * on the run time. With RACE_CPUS=1, some rounds take a CPU offline and online.
 *
 * Unlike ioasid_soak, which knows each answer but does one thing at a time,
 * this program cannot know which thread is first. Each thread therefore records
 * in shared memory what it was given, and what it was told is gone. An answer
 * is wrong if it contradicts what was recorded before the call or what holds
 * after it.
 *
 * The work is done in rounds, each with a different event in the background: a
 * process is killed, an engine is reset, unbound or removed, a CPU goes
 * offline. At the end of a round, all threads stop and all counts are checked,
 * exactly except for what a killed process was doing.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "cgroup_utils.h"
#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "kvm_utils.h"
#include "pdma_utils.h"
#include "soak_utils.h"

#define NR_PROCS	3
#define NR_THREADS	2
#define NR_RACERS	(NR_PROCS * NR_THREADS)
/* Per process: one stays open until the end of the round, one may be closed */
#define NR_FILES	(2 * NR_PROCS)
#define KEPT(file)	(!((file) % 2))
#define NR_GUEST	2
/* IOASIDs that a device holds for a longer time */
#define NR_HELD		3

/*
 * IDs of a round, known to all threads. Each is used only once, so that an
 * answer about a freed ID cannot refer to its next object.
 */
#define NR_NUMS		400
#define FIRST_ID	0x10000
#define LAST_ID		0xf0000
#define MAX_BATCH	3
#define NONE		(-1)

#define ROUND_OPS	2400
#define ROUND_MS	120000
#define MAX_RESETS	5
#define ENOUGH		100000

#define DRIVER		"/sys/bus/pci/drivers/pdma"
#define CPU1		"/sys/devices/system/cpu/cpu1/online"

/* Background event of a round */
enum event {
	EV_NOTHING, EV_KILL, EV_RESET, EV_LIMIT, EV_MEMORY, EV_CPU, EV_UNBIND,
	EV_REMOVE, NR_EVENTS
};

static const char *const event_name[NR_EVENTS] = {
	"nothing", "kill", "reset", "limit", "memory", "cpu", "unbind",
	"remove",
};

enum num_state { NUM_NEW, NUM_LIVE, NUM_FREED };

struct num {
	int state;
	int file;
	__u32 id;
};

/* IDs that a thread holds or is about to change, or NONE */
struct racer {
	int held[NR_HELD];	/* by its device, which only this thread uses */
	int guest_num[NR_GUEST];
	int stream[NR_CHANS];	/* ID that each channel streams with */
	/* Set before a call until its result is recorded */
	int doing;
	bool done;
};

struct shared {
	char uuid[NR_DEVS][PDMA_UUID_LEN + 1];
	int stop;
	int next_num;
	__u32 first_id;
	struct num num[NR_NUMS];
	struct racer racer[NR_RACERS];
	/* By process: the descriptor of this file is closed, or about to be */
	bool closed[NR_PROCS][NR_FILES];
	/* Holder of each ID of the window */
	int window[WINDOW_LEN];
	/* The process that is dead or about to be killed, or NONE */
	int killed;
	bool engine_gone;
	/* Engines are being reset: they may reject commands and attachments */
	bool resets;
	unsigned long ops;
	unsigned long freed;
	unsigned long cut_off;
	unsigned long went_on;
	unsigned long good;
	int failed;
	char why[256];
};

static struct shared *shared;
static char *dev_mem;

static bool fail(const char *fmt, ...)
{
	va_list ap;

	if (!__atomic_exchange_n(&shared->failed, 1, __ATOMIC_SEQ_CST)) {
		va_start(ap, fmt);
		vsnprintf(shared->why, sizeof(shared->why), fmt, ap);
		va_end(ap);
	}
	__atomic_store_n(&shared->stop, 1, __ATOMIC_SEQ_CST);
	return false;
}

#define load(p)		__atomic_load_n(p, __ATOMIC_SEQ_CST)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define add(p, v)	__atomic_add_fetch(p, v, __ATOMIC_SEQ_CST)

/* The racers */

struct thread {
	int nr;
	__u64 rng;
	struct racer *me;
	struct pdma_dev dev;
	char *buf;
	bool has_dev;
};

/* In this process */
static int proc;
static int file[NR_FILES];
static int vm = -1, vm_dev = -1;

static __u32 rnd(struct thread *t, __u32 n)
{
	return next_random(&t->rng) % n;
}

/* Answers for a file that is being closed cannot be predicted */
static bool file_is_open(int f)
{
	return !load(&shared->closed[proc][f]);
}

static int pick_num(struct thread *t)
{
	int count = load(&shared->next_num);

	if (count > NR_NUMS)
		count = NR_NUMS;
	/* Prefer recent IDs */
	if (count > 32 && rnd(t, 4))
		return count - 1 - rnd(t, 32);
	return count ? (int)rnd(t, count) : NONE;
}

/* Record a new IOASID */
static void note_num(int n, int f, __u32 id)
{
	struct num *num = &shared->num[n];

	num->file = f;
	num->id = id;
	store(&num->state, NUM_LIVE);
}

static bool do_free_num(struct thread *t, int n)
{
	struct num *num = &shared->num[n];
	int state = load(&num->state), f = num->file, ret;

	if (state == NUM_NEW)
		return true;
	store(&t->me->doing, n);
	ret = ioasid_free(file[f], 1, &num->id);
	if (!ret) {
		if (state == NUM_FREED ||
		    __atomic_exchange_n(&num->state, NUM_FREED,
					__ATOMIC_SEQ_CST) == NUM_FREED)
			return fail("number %u was freed twice", num->id);
		add(&shared->freed, 1);
	} else if (file_is_open(f) && ret != -ENOENT) {
		return fail("free: %d", ret);
	}
	store(&t->me->doing, NONE);
	return true;
}

static bool alloc_error_is_known(int ret)
{
	return ret == -EDQUOT || ret == -ENOSPC;
}

static bool do_alloc(struct thread *t)
{
	int count = 1 + rnd(t, MAX_BATCH), f = rnd(t, NR_FILES), ret, i, first;
	__u32 ids[MAX_BATCH], min;

	first = __atomic_fetch_add(&shared->next_num, count, __ATOMIC_SEQ_CST);
	if (first + count > NR_NUMS)
		return true;
	min = shared->first_id + first;
	ret = ioasid_alloc(file[f], min, min + count - 1, count, ids);
	if (ret) {
		if (file_is_open(f) && ret != -EDQUOT)
			return fail("alloc: %d", ret);
		return true;
	}
	for (i = 0; i < count; i++) {
		if (ids[i] < min || ids[i] >= min + count)
			return fail("alloc: number %u", ids[i]);
		note_num(ids[i] - shared->first_id, f, ids[i]);
	}
	add(&shared->good, 1);
	return true;
}

static bool claim_window(int i, int mine)
{
	int holder = 0;

	while (!__atomic_compare_exchange_n(&shared->window[i], &holder, mine,
					    false, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST)) {
		/* A killed process releases it without recording that */
		if (holder &&
		    load(&shared->killed) != (holder - 1) / NR_THREADS)
			return fail("number %u is held twice, by %d and %d",
				    WINDOW + i, mine, holder);
	}
	return true;
}

/*
 * Allocate an ID that is freed again at once and not shown to others. This
 * thread owns it until its device has dropped it, too.
 */
static bool do_window(struct thread *t)
{
	int f = 2 * rnd(t, NR_PROCS), i, ret;
	__u32 id;

	ret = ioasid_alloc(file[f], WINDOW, WINDOW + WINDOW_LEN - 1, 1, &id);
	if (ret) {
		if (alloc_error_is_known(ret))
			return true;
		return fail("alloc from a range: %d", ret);
	}
	i = id - WINDOW;
	if (i < 0 || i >= WINDOW_LEN)
		return fail("alloc from a range: number %u", id);
	if (!claim_window(i, t->nr + 1))
		return false;
	if (t->has_dev && rnd(t, 2) &&
	    !pdma_add_ioasid(&t->dev, file[f], id)) {
		ret = ioasid_free(file[f], 1, &id);
		if (ret)
			return fail("free of what only I have: %d", ret);
		ret = ioasid_state(file[f], id);
		if (ret != IOASID_STATE_PARKED)
			return fail("state of what I hold: %d", ret);
		store(&shared->window[i], 0);
		ret = pdma_drop_ioasid(&t->dev, id);
		return ret && !load(&shared->engine_gone) ?
			       fail("drop: %d", ret) : true;
	}
	store(&shared->window[i], 0);
	ret = ioasid_free(file[f], 1, &id);
	return ret ? fail("free of what only I have: %d", ret) : true;
}

static bool do_query(struct thread *t)
{
	struct ioasid_query query;
	int n = pick_num(t), before, f, ret;
	struct num *num;

	if (n < 0)
		return true;
	num = &shared->num[n];
	before = load(&num->state);
	if (before == NUM_NEW)
		return true;
	f = num->file;
	ret = ioasid_query(file[f], num->id, &query);
	if (!file_is_open(f))
		return true;
	if (ret && ret != -ENOENT)
		return fail("query: %d", ret);
	if (!ret && query.state != IOASID_STATE_ACTIVE &&
	    query.state != IOASID_STATE_PARKED)
		return fail("query: state %u", query.state);
	if (!ret && before == NUM_FREED && query.state == IOASID_STATE_ACTIVE)
		return fail("number %u is ACTIVE after it was freed", num->id);
	add(&shared->good, !ret);
	return true;
}

static bool do_info(struct thread *t)
{
	int f = rnd(t, NR_FILES), ret;
	struct ioasid_info info;

	ret = ioasid_get_info(file[f], &info);
	if (ret && file_is_open(f))
		return fail("info: %d", ret);
	return true;
}

static bool do_quota(struct thread *t)
{
	int f = 2 * rnd(t, NR_PROCS), ret;

	ret = ioasid_set_quota(file[f], rnd(t, 3) ? ENOUGH : rnd(t, 40));
	return ret ? fail("quota: %d", ret) : true;
}

/* Check the answer of a user that was given ID @n, whose state was @before */
static bool user_answer(const char *what, int n, int before, int ret)
{
	struct num *num = &shared->num[n];

	if (!ret && before == NUM_FREED)
		return fail("%s: takes number %u, which was freed", what,
			    num->id);
	if (ret && ret != -ENOENT && ret != -ESHUTDOWN)
		return fail("%s: %d", what, ret);
	return true;
}

/*
 * Whether DMA with ID @n must work: it is not freed, its file stays open, no
 * killed process can have freed it, and no engine is reset or gone.
 */
static bool is_usable(int n)
{
	return load(&shared->num[n].state) == NUM_LIVE &&
	       KEPT(shared->num[n].file) && load(&shared->killed) == NONE &&
	       !shared->resets && !load(&shared->engine_gone);
}

/* An IOASID is PARKED slightly before the freeing thread has recorded that */
static bool has_become_unusable(int n)
{
	return wait_until(!is_usable(n));
}

static char *chan_buf(struct thread *t, int c)
{
	return t->buf + c * BUF_LEN;
}

/* The device has dropped ID @n, which ends its streams */
static bool end_streams(struct thread *t, int n)
{
	int c;

	for (c = 0; c < NR_CHANS; c++) {
		if (t->me->stream[c] != n)
			continue;
		t->me->stream[c] = NONE;
		poison_stream(chan_buf(t, c));
		usleep(SETTLE_US);
		if (!stream_is_poison(chan_buf(t, c)))
			return fail("DMA of number %u arrives, which was dropped",
				    shared->num[n].id);
	}
	return true;
}

/* The slot in which the device holds ID @n, or NULL */
static int *find_held(struct thread *t, int n)
{
	int i;

	for (i = 0; i < NR_HELD; i++)
		if (n >= 0 && t->me->held[i] == n)
			return &t->me->held[i];
	return NULL;
}

/* ADD, or REPLACE if the slot is taken */
static bool do_hold(struct thread *t)
{
	int *slot = &t->me->held[rnd(t, NR_HELD)], old = *slot;
	int n = pick_num(t), before, f, ret;
	__u32 id;
	bool has;

	if (n < 0 || !t->has_dev)
		return true;
	before = load(&shared->num[n].state);
	if (before == NUM_NEW)
		return true;
	f = shared->num[n].file;
	id = shared->num[n].id;
	has = find_held(t, n);
	store(&t->me->doing, n);
	if (old < 0)
		ret = pdma_add_ioasid(&t->dev, file[f], id);
	else
		ret = pdma_replace_ioasid(&t->dev, file[f], id,
					  shared->num[old].id);
	if (!ret) {
		store(slot, n);
		add(&shared->good, 1);
	}
	store(&t->me->doing, NONE);
	if (!ret && has && old != n)
		return fail("number %u is held twice by a device", id);
	if (!ret && old >= 0 && old != n && !end_streams(t, old))
		return false;
	/* Another device of this engine holds it */
	if (ret == -EBUSY || load(&shared->engine_gone) || !file_is_open(f) ||
	    (ret == -EEXIST && has))
		return true;
	return user_answer("hold", n, before, ret);
}

static bool do_drop(struct thread *t)
{
	int *slot = &t->me->held[rnd(t, NR_HELD)], n = *slot, ret;

	if (!t->has_dev)
		return true;
	if (n < 0)
		n = pick_num(t);
	if (n < 0 || load(&shared->num[n].state) == NUM_NEW)
		return true;
	slot = find_held(t, n);
	ret = pdma_drop_ioasid(&t->dev, shared->num[n].id);
	if (ret != (slot ? 0 : -ENOENT))
		return load(&shared->engine_gone) ? true :
						    fail("drop: %d", ret);
	if (!slot)
		return true;
	store(slot, NONE);
	return end_streams(t, n);
}

static bool do_drop_all(struct thread *t)
{
	int i, n, ret;

	if (!t->has_dev || rnd(t, 4))
		return true;
	ret = pdma_drop_all_ioasids(&t->dev);
	if (ret)
		return load(&shared->engine_gone) ? true :
						    fail("drop all: %d", ret);
	for (i = 0; i < NR_HELD; i++) {
		n = t->me->held[i];
		store(&t->me->held[i], NONE);
		if (n >= 0 && !end_streams(t, n))
			return false;
	}
	return true;
}

/* The list must have exactly the held IDs in ascending order */
static bool do_list(struct thread *t)
{
	struct vfio_device_ioasid entries[NR_HELD + 1];
	int before[NR_HELD], i, n, ret, count = 0;

	if (!t->has_dev)
		return true;
	for (i = 0; i < NR_HELD; i++) {
		n = t->me->held[i];
		count += n >= 0;
		before[i] = n < 0 ? NUM_NEW : load(&shared->num[n].state);
	}
	ret = pdma_list_ioasids(&t->dev, 0, NR_HELD + 1, entries);
	if (load(&shared->engine_gone))
		return true;
	if (ret != count)
		return fail("list: %d, the device holds %d", ret, count);
	for (i = 0; i < count; i++) {
		int *slot = find_held(t, entries[i].id - shared->first_id);
		bool active = entries[i].state == IOASID_STATE_ACTIVE;

		if (!slot || (i && entries[i].id <= entries[i - 1].id))
			return fail("list: number %u", entries[i].id);
		if (active && before[slot - t->me->held] == NUM_FREED)
			return fail("list: number %u is ACTIVE, which was freed",
				    entries[i].id);
		if (!active && !has_become_unusable(*slot))
			return fail("list: number %u, state %u", entries[i].id,
				    entries[i].state);
	}
	return true;
}

/* Copy with an ID that the device holds, or with another one */
static bool do_copy(struct thread *t)
{
	int c = rnd(t, NR_CHANS), n = t->me->held[rnd(t, NR_HELD)];
	__u64 iova = IOVA + c * BUF_LEN;
	char *buf = chan_buf(t, c);
	struct pdma_dev chan;
	int before, ret;

	if (!t->has_dev || t->me->stream[c] >= 0)
		return true;
	if (n < 0)
		n = pick_num(t);
	before = n < 0 ? NUM_NEW : load(&shared->num[n].state);
	if (before == NUM_NEW)
		return true;
	chan = pdma_channel(&t->dev, c);
	memset(buf + COPY_SRC, 0xa5, COPY_LEN);
	memset(buf + COPY_DST, 0, COPY_LEN);
	ret = pdma_copy_wait_with(&chan, shared->num[n].id, iova + COPY_DST,
				  iova + COPY_SRC, COPY_LEN);
	if (load(&shared->engine_gone))
		return true;
	if (!find_held(t, n))
		return ret == -ENXIO ? true :
			       fail("copy with a number that is not held: %d", ret);
	if (before == NUM_FREED)
		return ret == -ESHUTDOWN ? true :
			       fail("copy with what was freed: %d", ret);
	if (ret && !has_become_unusable(n))
		return fail("copy: %d", ret);
	if (!ret && memcmp(buf + COPY_SRC, buf + COPY_DST, COPY_LEN))
		return fail("copy: nothing has arrived");
	add(&shared->good, !ret);
	return true;
}

/* Nothing may arrive from a stream whose IOASID was freed */
static bool check_silence(struct thread *t, int c)
{
	struct pdma_dev chan = pdma_channel(&t->dev, c);
	int n = t->me->stream[c];

	poison_stream(chan_buf(t, c));
	usleep(SETTLE_US);
	if (!stream_is_poison(chan_buf(t, c)))
		return fail("DMA of number %u arrives, which was freed",
			    shared->num[n].id);
	add(&shared->cut_off, 1);
	pdma_stop(&chan);
	t->me->stream[c] = NONE;
	return true;
}

/* All other streams keep running, whatever happens to other IDs */
static bool check_progress(struct thread *t, int c)
{
	int n = t->me->stream[c];
	bool arrives;

	poison_stream(chan_buf(t, c));
	wait_until((arrives = !stream_is_poison(chan_buf(t, c))) ||
		   !is_usable(n));
	if (!arrives && is_usable(n))
		return fail("the stream of number %u has ended",
			    shared->num[n].id);
	add(&shared->went_on, arrives);
	return true;
}

static bool check_streams(struct thread *t)
{
	int c, n;
	bool ok;

	for (c = 0; c < NR_CHANS; c++) {
		n = t->me->stream[c];
		if (n < 0)
			continue;
		if (load(&shared->num[n].state) == NUM_FREED)
			ok = check_silence(t, c);
		else
			ok = rnd(t, 8) ? true : check_progress(t, c);
		if (!ok)
			return false;
	}
	return true;
}

static bool do_stream(struct thread *t)
{
	int c = rnd(t, NR_CHANS), n = t->me->held[rnd(t, NR_HELD)], before, ret;
	struct pdma_dev chan;

	if (!t->has_dev || n < 0 || t->me->stream[c] >= 0)
		return true;
	before = load(&shared->num[n].state);
	chan = pdma_channel(&t->dev, c);
	ret = pdma_stream_with(&chan, shared->num[n].id, IOVA + c * BUF_LEN,
			       STREAM_LEN, 0, 0);
	if (ret == -ESHUTDOWN || (ret && load(&shared->engine_gone)) ||
	    (ret == -EAGAIN && shared->resets))
		return true;
	if (ret)
		return fail("stream: %d", ret);
	if (before == NUM_FREED)
		return fail("stream with what was freed");
	t->me->stream[c] = n;
	/* Mostly, other threads end the stream; sometimes end it here */
	return rnd(t, 2) ? true : do_free_num(t, n);
}

static bool do_guest(struct thread *t)
{
	int g = rnd(t, NR_GUEST), n = pick_num(t), before, ret;
	__u32 pasid = t->nr % NR_THREADS * NR_GUEST + g;
	int *held = &t->me->guest_num[g];

	if (vm_dev < 0)
		return true;
	if (rnd(t, 3) == 0) {
		ret = kvm_ioasid_del(vm_dev, pasid);
		if (ret != (*held < 0 ? -ENOENT : 0))
			return fail("KVM DEL: %d", ret);
		store(held, NONE);
		return true;
	}
	if (n < 0)
		return true;
	before = load(&shared->num[n].state);
	if (before == NUM_NEW)
		return true;
	store(&t->me->doing, n);
	ret = kvm_ioasid_add(vm_dev, file[shared->num[n].file],
			     shared->num[n].id, pasid);
	if (!ret && *held >= 0)
		return fail("KVM ADD: a mapping was there");
	if (!ret) {
		store(held, n);
		add(&shared->good, 1);
	}
	store(&t->me->doing, NONE);
	if (!file_is_open(shared->num[n].file) ||
	    (*held >= 0 && ret == -EEXIST))
		return true;
	return user_answer("KVM ADD", n, before, ret);
}

/* Open and close a file with IOASIDs in it */
static bool do_file(struct thread *t)
{
	int fd = ioasid_open(), ret;
	__u32 ids[MAX_BATCH];

	if (fd < 0)
		return fail("open: %d", fd);
	ret = ioasid_alloc(fd, 0, 0, MAX_BATCH, ids);
	if (!ret && t->has_dev)
		ret = pdma_add_ioasid(&t->dev, fd, ids[0]);
	close(fd);
	if (!ret && t->has_dev)
		ret = pdma_drop_ioasid(&t->dev, ids[0]);
	if (ret && !alloc_error_is_known(ret) &&
	    !(shared->resets && ret == -EBUSY) && !load(&shared->engine_gone))
		return fail("a file of my own: %d", ret);
	return true;
}

/* Replace the descriptor: calls of the other thread need a valid one */
static bool do_close(struct thread *t)
{
	int f = 2 * rnd(t, NR_PROCS) + 1, null;

	if (rnd(t, 40))
		return true;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	store(&shared->closed[proc][f], true);
	if (null < 0 || dup2(null, file[f]) < 0)
		return fail("close");
	close(null);
	return true;
}

static bool do_free(struct thread *t)
{
	int n = pick_num(t);

	return n < 0 ? true : do_free_num(t, n);
}

/* List an operation twice to run it more often */
#define NR_KINDS 25

static bool (*const op[NR_KINDS])(struct thread *t) = {
	do_alloc, do_alloc, do_window, do_window, do_query, do_query, do_query,
	do_info, do_quota, do_hold, do_hold, do_hold, do_drop, do_drop_all,
	do_list, do_copy, do_stream, do_stream, do_stream, do_guest, do_guest,
	do_file, do_close, do_free, do_free,
};

static bool one_op(struct thread *t)
{
	add(&shared->ops, 1);
	return op[rnd(t, NR_KINDS)](t);
}

static void *thread_main(void *arg)
{
	struct thread *t = arg;
	int i;

	for (i = 0; i < ROUND_OPS / NR_RACERS && !load(&shared->stop); i++)
		if (!one_op(t) || !check_streams(t))
			break;
	/* Removal of the engine waits for the close */
	if (t->has_dev && load(&shared->engine_gone)) {
		for (i = 0; i < NR_HELD; i++)
			store(&t->me->held[i], NONE);
		pdma_close(&t->dev);
	}
	store(&t->me->done, true);
	return NULL;
}

static int open_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return -errno;
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	close(kvm);
	if (vm < 0)
		return -errno;
	vm_dev = kvm_ioasid_create(vm);
	return vm_dev < 0 ? vm_dev : 0;
}

/* A process with racer threads. Ends when the peer of @sock is closed. */
static void process_main(int sock, __u64 seed)
{
	struct thread threads[NR_THREADS] = {};
	pthread_t id[NR_THREADS];
	int i, d, ret;
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (env.cgroup && enter(env.group[proc % NR_GROUPS]))
		_exit(1);
	for (i = 0; i < 2; i++) {
		ret = ioasid_open();
		if (ret < 0 || send_fd(sock, ret))
			_exit(1);
		close(ret);
	}
	for (i = 0; i < NR_FILES; i++) {
		file[i] = receive_fd(sock);
		if (file[i] < 0)
			_exit(1);
	}
	if (env.kvm && open_vm())
		fail("no virtual machine");
	for (i = 0; i < NR_THREADS; i++) {
		struct thread *t = &threads[i];

		t->nr = proc * NR_THREADS + i;
		t->rng = seed + t->nr;
		t->me = &shared->racer[t->nr];
		pdma_init(&t->dev);
		d = i * NR_PROCS + proc;
		if (d >= NR_DEVS || (unsigned int)d % 2 >= env.engines)
			continue;
		t->buf = dev_mem + d * DEV_BUF_LEN;
		ret = pdma_open_cdev(&t->dev, shared->uuid[d], NULL);
		if (!ret)
			ret = pdma_map(&t->dev, t->buf, IOVA, DEV_BUF_LEN);
		if (ret)
			fail("no device: %d", ret);
		t->has_dev = !ret;
	}
	if (write(sock, "r", 1) != 1 || read(sock, &byte, 1) != 1)
		_exit(1);
	for (i = 0; i < NR_THREADS; i++)
		if (pthread_create(&id[i], NULL, thread_main, &threads[i]))
			_exit(1);
	for (i = 0; i < NR_THREADS; i++)
		pthread_join(id[i], NULL);
	if (read(sock, &byte, 1))
		_exit(1);
	_exit(0);
}

/* A round */

static struct {
	__u64 rng;
	pid_t pid[NR_PROCS];	/* 0: killed */
	int sock[NR_PROCS];
	int file[NR_FILES];	/* files that stay open */
	int engine;		/* removed, or NONE */
	int resets;
	pid_t helper;
} this_round;

static __u32 draw(__u32 n)
{
	return next_random(&this_round.rng) % n;
}

static void reset_shared(enum event event)
{
	int i, j;

	shared->stop = 0;
	shared->next_num = 0;
	shared->first_id += NR_NUMS;
	if (shared->first_id < FIRST_ID || shared->first_id > LAST_ID)
		shared->first_id = FIRST_ID;
	shared->killed = NONE;
	shared->engine_gone = false;
	shared->resets = event == EV_RESET;
	memset(shared->num, 0, sizeof(shared->num));
	memset(shared->closed, 0, sizeof(shared->closed));
	memset(shared->window, 0, sizeof(shared->window));
	memset(shared->racer, 0, sizeof(shared->racer));
	for (i = 0; i < NR_RACERS; i++) {
		struct racer *racer = &shared->racer[i];

		racer->doing = NONE;
		for (j = 0; j < NR_HELD; j++)
			racer->held[j] = NONE;
		for (j = 0; j < NR_GUEST; j++)
			racer->guest_num[j] = NONE;
		for (j = 0; j < NR_CHANS; j++)
			racer->stream[j] = NONE;
	}
}

static bool set_limit(int g, const char *limit)
{
	char val[32];

	if (!env.cgroup)
		return true;
	snprintf(val, sizeof(val), "ioasid %s", limit);
	return group_write(env.group[g], "misc.max", val) ?
		       fail("cannot set the limit of a group") : true;
}

static bool begin_round(enum event event)
{
	int i, f, all[NR_FILES], sock[2];
	__u64 seed = this_round.rng;
	char byte;

	reset_shared(event);
	this_round.engine = NONE;
	this_round.resets = 0;
	for (i = 0; i < NR_PROCS; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock))
			return fail("no socket");
		this_round.sock[i] = sock[0];
		this_round.pid[i] = fork();
		if (this_round.pid[i] < 0)
			return fail("no process");
		if (!this_round.pid[i]) {
			for (f = 0; f <= i; f++)
				close(this_round.sock[f]);
			for (f = 0; f < 2 * i; f++)
				close(all[f]);
			proc = i;
			process_main(sock[1], seed);
		}
		close(sock[1]);
		for (f = 2 * i; f < 2 * i + 2; f++) {
			all[f] = receive_fd(sock[0]);
			if (all[f] < 0)
				return fail("process %d has no file", i);
		}
	}
	for (i = 0; i < NR_PROCS; i++)
		for (f = 0; f < NR_FILES; f++)
			if (send_fd(this_round.sock[i], all[f]))
				return fail("process %d takes no file", i);
	for (f = 0; f < NR_FILES; f++) {
		if (KEPT(f))
			this_round.file[f] = all[f];
		else
			close(all[f]);
	}
	for (i = 0; i < NR_PROCS; i++)
		if (read(this_round.sock[i], &byte, 1) != 1)
			return fail("process %d is not ready", i);
	for (i = 0; i < NR_PROCS; i++)
		if (write(this_round.sock[i], "g", 1) != 1)
			return fail("process %d does not start", i);
	return true;
}

static bool racers_done(void)
{
	int i;

	for (i = 0; i < NR_RACERS; i++)
		if (this_round.pid[i / NR_THREADS] &&
		    !load(&shared->racer[i].done))
			return false;
	return true;
}

static void use_memory(void)
{
	size_t len = 32 << 20;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p != MAP_FAILED)
		munmap(p, len);
	pdma_write_file("/proc/sys/vm/drop_caches", "3");
	pdma_write_file("/proc/sys/vm/compact_memory", "1");
}

/* @go: remove the engine, else bring it back */
static bool move_engine(enum event event, bool go)
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	int e = this_round.engine;

	if (event == EV_UNBIND)
		return !pdma_write_file(go ? DRIVER "/unbind" : DRIVER "/bind",
					env.engine[e]);
	if (!go)
		return !pdma_write_file("/sys/bus/pci/rescan", "1");
	snprintf(path, sizeof(path), PCI_DEVICES "/%s/remove", env.engine[e]);
	return !pdma_write_file(path, "1");
}

/* Use another process, as this blocks while the engine is in use */
static bool take_engine(enum event event)
{
	int e = draw(env.engines), i;

	store(&shared->engine_gone, true);
	this_round.engine = e;
	bar_unmap(&env.bar[e]);
	this_round.helper = fork();
	if (this_round.helper < 0)
		return fail("no process");
	if (!this_round.helper) {
		for (i = 0; i < NR_PROCS; i++)
			close(this_round.sock[i]);
		for (i = 0; i < NR_FILES; i += 2)
			close(this_round.file[i]);
		_exit(!move_engine(event, true));
	}
	return true;
}

static bool engine_back(enum event event)
{
	int e = this_round.engine, status, d;
	pid_t pid = this_round.helper;

	if (!wait_until(waitpid(pid, &status, WNOHANG) == pid))
		return fail("%s does not go away", env.engine[e]);
	if (status)
		return fail("%s cannot be taken away", env.engine[e]);
	if (!move_engine(event, false) ||
	    !wait_until(pdma_available(env.engine[e]) > 0) ||
	    bar_map(&env.bar[e], env.engine[e]))
		return fail("%s does not come back", env.engine[e]);
	for (d = e; d < NR_DEVS; d += 2)
		if (pdma_create(env.engine[e], shared->uuid[d]))
			return fail("cannot create a mediated device");
	return true;
}

static bool move_process(void)
{
	char val[16];
	int p = draw(NR_PROCS);

	if (!env.cgroup)
		return true;
	snprintf(val, sizeof(val), "%d", this_round.pid[p]);
	return group_write(env.group[draw(NR_GROUPS)], "cgroup.procs", val) ?
		       fail("cannot move a process") : true;
}

/* Called repeatedly until it returns false */
static bool do_event(enum event event)
{
	unsigned int p = draw(NR_PROCS);

	usleep(draw(20000));
	switch (event) {
	case EV_KILL:
		store(&shared->killed, p);
		kill(this_round.pid[p], SIGKILL);
		waitpid(this_round.pid[p], NULL, 0);
		this_round.pid[p] = 0;
		return false;
	case EV_RESET:
		if (!env.engines)
			return false;
		if (pci_reset(env.engine[p % env.engines]))
			return fail("cannot reset an engine");
		/* Limit the number, as all work stops for 100 ms each time */
		return ++this_round.resets < MAX_RESETS;
	case EV_LIMIT:
		return set_limit(p % NR_GROUPS, draw(2) ? "10" : "max") &&
		       move_process();
	case EV_MEMORY:
		use_memory();
		return true;
	case EV_CPU:
		/* Fails on a machine with one CPU, which lacks this file */
		return !pdma_write_file(CPU1, "0") &&
		       !pdma_write_file(CPU1, "1");
	case EV_UNBIND:
	case EV_REMOVE:
		if (env.engines)
			take_engine(event);
		return false;
	default:
		return false;
	}
}

/* The state is unknown if a killed process was changing it */
static bool is_known(int n)
{
	int i;

	for (i = 0; i < NR_RACERS; i++)
		if (!this_round.pid[i / NR_THREADS] &&
		    shared->racer[i].doing == n)
			return false;
	return true;
}

static unsigned int users_of(int n, unsigned int *attachments)
{
	unsigned int users = 0;
	int i, g, h;

	*attachments = 0;
	for (i = 0; i < NR_RACERS; i++) {
		if (!this_round.pid[i / NR_THREADS])
			continue;
		for (h = 0; h < NR_HELD; h++)
			*attachments += shared->racer[i].held[h] == n;
		for (g = 0; g < NR_GUEST; g++)
			users += shared->racer[i].guest_num[g] == n;
	}
	return users + *attachments;
}

static bool is_open(int f)
{
	int p;

	for (p = 0; p < NR_PROCS; p++)
		if (KEPT(f) || (this_round.pid[p] && !shared->closed[p][f]))
			return true;
	return false;
}

static bool check_num(int n, int state, unsigned int users,
		      unsigned int attachments)
{
	struct num *num = &shared->num[n];
	int fd = this_round.file[num->file];
	struct ioasid_query query;
	int ret;

	if (state == NUM_FREED && !users)
		return ioasid_wait_recycled(fd, num->id) ?
			       true : fail("number %u is not recycled", num->id);
	/* KVM drops a reference a grace period after the mapping */
	wait_until((ret = ioasid_query(fd, num->id, &query)) ||
		   query.users <= users);
	if (ret)
		return fail("number %u is gone", num->id);
	if (query.state != (state == NUM_LIVE ? IOASID_STATE_ACTIVE :
						IOASID_STATE_PARKED) ||
	    query.users != users || query.attachments != attachments)
		return fail("number %u: state, users, attachments %u %u %u; %s, %u %u were counted",
			    num->id, query.state, query.users,
			    query.attachments,
			    state == NUM_LIVE ? "live" : "freed", users,
			    attachments);
	return true;
}

/* All threads have stopped, and their records are final */
static bool check_set(int p)
{
	unsigned int active = 0, parked = 0, slack = 0, users, attachments;
	__u32 set_active = 0, set_parked = 0;
	int n, f, count, state;

	count = shared->next_num < NR_NUMS ? shared->next_num : NR_NUMS;
	for (n = 0; n < count; n++) {
		f = shared->num[n].file;
		state = shared->num[n].state;
		if (state == NUM_NEW || f / 2 != p)
			continue;
		users = users_of(n, &attachments);
		/* Freed by closing its file */
		if (!is_open(f))
			state = NUM_FREED;
		active += state == NUM_LIVE;
		parked += state == NUM_FREED && users;
		if (KEPT(f) && is_known(n) &&
		    !check_num(n, state, users, attachments))
			return false;
	}
	/* Tolerate what a killed process may just have allocated */
	if (shared->killed != NONE)
		slack = NR_THREADS * (MAX_BATCH + 1);
	wait_until(!ioasid_set_counts(this_round.file[2 * p], &set_active,
				      &set_parked) &&
		   set_parked <= parked + slack);
	if (set_active + slack < active || set_active > active + slack ||
	    set_parked + slack < parked || set_parked > parked + slack)
		return fail("set %d: active, parked %u %u; %u %u were counted (%u more or less)",
			    p, set_active, set_parked, active, parked, slack);
	return true;
}

static unsigned int rows(void)
{
	FILE *f = fopen("/sys/kernel/debug/ioasid/ioasids", "r");
	unsigned int count = 0;
	char line[256];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		count++;
	fclose(f);
	/* Do not count the heading */
	return count - 1;
}

static bool check_nothing_left(const __u64 *recorded)
{
	__u32 ids[WINDOW_LEN];
	unsigned int e;
	int g, fd;

	for (g = 0; env.cgroup && g < NR_GROUPS; g++)
		if (wait_current(env.group[g], 0))
			return fail("group %d is charged for ever", g);
	if (!wait_until(!rows()))
		return fail("%u numbers are left", rows());
	fd = ioasid_open();
	if (fd < 0 || ioasid_alloc(fd, WINDOW, WINDOW + WINDOW_LEN - 1,
				   WINDOW_LEN, ids))
		return fail("the window is not free");
	close(fd);
	for (e = 0; e < env.engines; e++)
		if (bar_recorded(&env.bar[e]) != recorded[e])
			return fail("engine %u: a fault was reported", e);
	return true;
}

static bool end_round(enum event event)
{
	int i, status;
	bool ok = true;

	for (i = 0; i < NR_PROCS; i++)
		close(this_round.sock[i]);
	for (i = 0; i < NR_PROCS; i++)
		if (this_round.pid[i] &&
		    (waitpid(this_round.pid[i], &status, 0) < 0 || status))
			ok = fail("process %d ended with %d", i, status);
	for (i = 0; i < NR_FILES; i += 2)
		close(this_round.file[i]);
	for (i = 0; i < NR_GROUPS; i++)
		ok = set_limit(i, "max") && ok;
	if (this_round.engine >= 0)
		ok = engine_back(event) && ok;
	return ok;
}

static bool run_round(__u64 seed, enum event event)
{
	__u64 recorded[2] = {}, end = now_us() + ROUND_MS * 1000ull;
	bool ok, more = event != EV_NOTHING;
	unsigned int e;
	int p;

	this_round.rng = seed;
	for (e = 0; e < env.engines; e++)
		recorded[e] = bar_recorded(&env.bar[e]);
	if (!begin_round(event))
		return false;
	while (!racers_done()) {
		if (now_us() > end)
			return fail("somebody hangs");
		if (more)
			more = do_event(event);
		else
			usleep(2000);
	}
	ok = !load(&shared->failed);
	for (p = 0; ok && p < NR_PROCS; p++)
		ok = check_set(p);
	ok = end_round(event) && ok;
	return ok && check_nothing_left(recorded);
}

static bool run_rounds(__u64 seed, unsigned long total, unsigned long seconds)
{
	__u64 start = now_us(), told = start;
	unsigned long nr = 0;
	unsigned long cpus = setting("RACE_CPUS", 0);
	enum event event;

	for (; shared->ops < total; nr++) {
		if (seconds && now_us() - start > seconds * 1000000ull)
			break;
		event = nr % NR_EVENTS;
		if (event == EV_CPU && !cpus)
			event = EV_NOTHING;
		if (!run_round(seed + nr * NR_RACERS, event)) {
			ksft_print_msg("round %lu (%s): %s\n", nr,
				       event_name[event], shared->why);
			return false;
		}
		if (now_us() - told > 30000000) {
			told = now_us();
			ksft_print_msg("%lu operations, %llu s\n", shared->ops,
				       (told - start) / 1000000ull);
		}
	}
	ksft_print_msg("%lu rounds, %lu good answers, %lu freed, %lu streams cut off, %lu not\n",
		       nr, shared->good, shared->freed, shared->cut_off,
		       shared->went_on);
	ksft_print_msg("race: %lu operations, seed %llu, %llu s\n", shared->ops,
		       seed, (now_us() - start) / 1000000ull);
	return true;
}

int main(void)
{
	unsigned long total = setting("RACE_OPS", times(40000));
	unsigned long seconds = setting("RACE_SECONDS", 0);
	__u64 seed = setting("RACE_SEED", 1);

	ksft_print_header();
	if (access(IOASID_DEV, R_OK | W_OK))
		ksft_exit_skip("no " IOASID_DEV "\n");
	ksft_set_plan(2);
	shared = map_shared(sizeof(*shared));
	dev_mem = map_shared(NR_DEVS * DEV_BUF_LEN);
	if (!shared || !dev_mem)
		ksft_exit_fail_msg("no memory\n");
	set_up_env("ioasid-race", shared->uuid);
	ksft_print_msg("seed %llu, %lu operations; %u engines, %s KVM, %s cgroup\n",
		       seed, total, env.engines, env.kvm ? "with" : "no",
		       env.cgroup ? "with" : "no");
	ksft_test_result(run_rounds(seed, total, seconds),
			 "no_answer_denies_what_was_so\n");
	ksft_test_result(tear_down_env(shared->uuid), "nothing_is_left\n");
	ksft_finished();
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Park many PASIDs at once, with running DMA. Each of them must be blocked, for
 * counts around every threshold at which the kernel starts another batch or
 * uses another kind of invalidation.
 *
 * The first, the middle and the last PASID stream; the others are attached
 * without any memory mapped. The engine also tries each of the others: a
 * request is refused and reported while the PASID is ACTIVE, and refused
 * silently once it is parked.
 */
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "ioasid_attach.h"
#include "ioasid_fixture.h"
#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "pdma_utils.h"

#define ARRAY_LEN(x) (sizeof(x) / sizeof((x)[0]))

/*
 * See pasid_park.c: descriptors per wait, capacity of the queue, and the limit
 * above which one global invalidation is used instead
 */
#define BATCH 16
#define QUEUE 254
#define SELECTIVE_MAX 1024

#define MAX_IDS 2048

/*
 * Period of a stream: short enough to catch a late flush, but long enough not
 * to saturate the emulator
 */
#define PERIOD_US 250

/* An address that is never mapped */
#define BAD_IOVA 0x40000000ULL

FIXTURE(batch)
{
	pid_t pid;
	int fd;			/* outlives @owner, in the same set */
	int owner;
	int attach;
	int kmsg;
	struct engine engine;
	struct channel ch[3];
	int nr_ch;
	__u32 *ids;
};

FIXTURE_VARIANT(batch)
{
	bool ats;
	bool kill;	/* kill the last holder instead of closing */
	__u32 count;
	bool takes_long;
};

#define BATCH_VARIANT(_name, _ats, _count, _takes_long)			\
	FIXTURE_VARIANT_ADD(batch, _name) {				\
		.ats = _ats, .kill = _ats, .count = _count,		\
		.takes_long = _takes_long,				\
	}

BATCH_VARIANT(plain_one, false, 1, false);
BATCH_VARIANT(plain_batch_less_one, false, BATCH - 1, true);
BATCH_VARIANT(plain_batch, false, BATCH, true);
BATCH_VARIANT(plain_batch_and_one, false, BATCH + 1, false);
BATCH_VARIANT(plain_selective, false, SELECTIVE_MAX, true);
BATCH_VARIANT(plain_global, false, SELECTIVE_MAX + 1, false);
BATCH_VARIANT(ats_batch, true, BATCH, true);
BATCH_VARIANT(ats_batch_and_one, true, BATCH + 1, true);
BATCH_VARIANT(ats_queue_less_one, true, QUEUE - 1, true);
BATCH_VARIANT(ats_queue, true, QUEUE, true);
BATCH_VARIANT(ats_queue_and_one, true, QUEUE + 1, false);
BATCH_VARIANT(ats_global, true, SELECTIVE_MAX + 1, true);

/* Index of the channel's IOASID in the batch */
static __u32 place(int nr_ch, __u32 count, int ch)
{
	return nr_ch > 1 ? ch * (count - 1) / (nr_ch - 1) : 0;
}

FIXTURE_SETUP(batch)
{
	int i;

	if (variant->takes_long && short_run())
		SKIP(return, LONG_ONLY);
	self->pid = getpid();
	self->fd = ioasid_open();
	if (self->fd == -ENOENT)
		SKIP(return, "no " IOASID_DEV);
	ASSERT_LE(0, self->fd);
	if (find_engine(&self->engine, variant->ats))
		SKIP(return, "no engine %s ATS",
		     variant->ats ? "with" : "without");
	self->attach = attach_open();
	if (self->attach == -ENOENT)
		SKIP(return, "no IOASID test device");
	ASSERT_LE(0, self->attach);
	self->kmsg = kmsg_open();
	ASSERT_LE(0, self->kmsg);
	self->ids = calloc(MAX_IDS, sizeof(*self->ids));
	ASSERT_NE(NULL, self->ids);
	self->nr_ch = variant->count > 1 ? 3 : 1;
	for (i = 0; i < self->nr_ch; i++)
		channel_open(_metadata, &self->ch[i], self->engine.name);
	self->owner = ioasid_open();
	ASSERT_LE(0, self->owner);
}

FIXTURE_TEARDOWN_PARENT(batch)
{
	int i;

	for (i = 0; i < self->nr_ch; i++)
		channel_remove(_metadata, &self->ch[i], self->pid);
}

/* Allocate and attach @count IOASIDs, some of which the channels stream with */
static void start_batch(struct __test_metadata *_metadata, int owner,
			__u32 count, __u32 *ids, struct channel *ch, int nr_ch,
			int attach, const char *engine, __u32 per_domain)
{
	__u32 i, first = 0;
	int k;

	test_cmd_alloc(owner, 0, 0, count, ids);
	for (k = 0; k < nr_ch; k++) {
		i = place(nr_ch, count, k);
		ASSERT_EQ(0, pdma_set_ioasid(&ch[k].dev, owner, ids[i]));
		if (i > first)
			ASSERT_EQ(0, attach_ids(attach, engine, owner,
						i - first, ids + first,
						per_domain));
		first = i + 1;
	}
	if (first < count)
		ASSERT_EQ(0, attach_ids(attach, engine, owner, count - first,
					ids + first, per_domain));
	for (k = 0; k < nr_ch; k++)
		start_stream(_metadata, &ch[k], k % 2 ? BUF_LEN : 4096,
			     PERIOD_US, 1);
}

/*
 * Make the last channel of the engine, which has no user, issue a request with
 * @id. Returns whether it was refused.
 */
static bool try_pasid(struct pdma_bar *bar, __u32 id)
{
	unsigned int nr = bar_read32(bar, PDMA_CHANNELS) - 1;
	__u64 before = bar_refused(bar, nr);
	bool refused;

	bar_set_pasid(bar, nr, PDMA_PASID_VALID | id);
	if (!bar_stream(bar, nr, BAD_IOVA, 4096, 10))
		return false;
	refused = wait_until(bar_refused(bar, nr) > before);
	bar_stop(bar, nr);
	bar_set_pasid(bar, nr, 0);
	return refused;
}

/* All requests are refused, and no fault is reported */
static void expect_all_silent(struct __test_metadata *_metadata,
			      struct pdma_bar *bar, const __u32 *ids,
			      __u32 count)
{
	__u64 faults = bar_recorded(bar);
	__u32 i;

	for (i = 0; i < count; i++) {
		ASSERT_TRUE(try_pasid(bar, ids[i]));
		ASSERT_EQ(faults, bar_recorded(bar))
			TH_LOG("number %u of %u, PASID %u", i, count, ids[i]);
	}
}

static void expect_reported(struct __test_metadata *_metadata, int kmsg,
			    struct pdma_bar *bar, __u32 id)
{
	__u64 faults = bar_recorded(bar);

	kmsg_expect_faults(kmsg, true);
	EXPECT_TRUE(try_pasid(bar, id));
	EXPECT_LT(faults, bar_recorded(bar));
	while (usleep(100000), kmsg_faults(kmsg, 0) > 0)
		;
	kmsg_expect_faults(kmsg, false);
}

/* Check invariants no-reuse to users-keep for IOASIDs parked by one call */
static void expect_parked(struct __test_metadata *_metadata, int fd,
			  struct engine *engine, int kmsg, const __u32 *ids,
			  __u32 count, struct channel *ch, int nr_ch)
{
	int other = ioasid_open();
	__u32 i, got;
	int k;

	ASSERT_LE(0, other);
	for (k = 0; k < nr_ch; k++)
		expect_blocked(&ch[k]);
	expect_all_silent(_metadata, &engine->bar, ids, count);
	EXPECT_EQ(0, kmsg_faults(kmsg, 0));
	test_set_in_use(fd, 0, count);
	for (i = 0; i < count; i++)
		test_err_alloc(ENOSPC, other, ids[i], ids[i], 1, &got);
	for (k = 0; k < nr_ch; k++)
		EXPECT_EQ(ids[place(nr_ch, count, k)],
			  pdma_get_ioasid(&ch[k].dev));
	close(other);
}

/* Drop all users: all IDs become free, and their faults are reported again */
static void expect_recycled(struct __test_metadata *_metadata, int fd,
			    int attach, struct engine *engine, int kmsg,
			    __u32 *ids, __u32 count, struct channel *ch,
			    int nr_ch)
{
	__u32 i, got;
	int k;

	for (k = 0; k < nr_ch; k++)
		EXPECT_EQ(0, pdma_drop_all_ioasids(&ch[k].dev));
	close(attach);
	EXPECT_TRUE(ioasid_wait_set_unparked(fd));
	test_set_in_use(fd, 0, 0);
	for (i = 0; i < count; i++)
		test_cmd_alloc(fd, ids[i], ids[i], 1, &got);
	expect_reported(_metadata, kmsg, &engine->bar, ids[0]);
	expect_reported(_metadata, kmsg, &engine->bar, ids[count - 1]);
	for (k = 0; k < nr_ch; k++) {
		ASSERT_EQ(0, pdma_set_ioasid(&ch[k].dev, fd,
					     ids[place(nr_ch, count, k)]));
		start_stream(_metadata, &ch[k], 4096, 50, 1);
	}
	test_cmd_free(fd, count, ids);
	for (k = 0; k < nr_ch; k++)
		expect_blocked(&ch[k]);
}

/* The last holder of the file closes it or is killed */
TEST_F(batch, end_of_the_file_parks_all)
{
	pid_t pid = -1;

	if (variant->kill) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			pause();
			_exit(0);
		}
	}
	start_batch(_metadata, self->owner, variant->count, self->ids, self->ch,
		    self->nr_ch, self->attach, self->engine.name, 1);
	close(self->owner);
	if (variant->kill) {
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	}
	expect_parked(_metadata, self->fd, &self->engine, self->kmsg, self->ids,
		      variant->count, self->ch, self->nr_ch);
	expect_recycled(_metadata, self->fd, self->attach, &self->engine,
			self->kmsg, self->ids, variant->count, self->ch,
			self->nr_ch);
}

/* IOASIDs that share domains, each of which is flushed as a whole */
TEST_F(batch, free_parks_all)
{
	start_batch(_metadata, self->owner, variant->count, self->ids, self->ch,
		    self->nr_ch, self->attach, self->engine.name, 16);
	test_cmd_free(self->owner, variant->count, self->ids);
	expect_parked(_metadata, self->fd, &self->engine, self->kmsg, self->ids,
		      variant->count, self->ch, self->nr_ch);
	expect_recycled(_metadata, self->fd, self->attach, &self->engine,
			self->kmsg, self->ids, variant->count, self->ch,
			self->nr_ch);
}

/* Free alternate IOASIDs, which share domains with the ones kept */
TEST_F(batch, free_of_some_leaves_the_others)
{
	__u64 faults = bar_recorded(&self->engine.bar);
	struct channel *freed = &self->ch[0], *kept = &self->ch[1];
	struct ioasid_query query;
	__u32 i, count = variant->count, some[MAX_IDS];

	if (count == 1)
		SKIP(return, "needs several PASIDs");
	start_batch(_metadata, self->owner, count, self->ids, self->ch, 2,
		    self->attach, self->engine.name, 0);
	/* Both the first, which is freed, and the last one stream */
	for (i = 0; i < count - 1; i += 2)
		some[i / 2] = self->ids[i];
	test_cmd_free(self->owner, i / 2, some);
	expect_blocked(freed);
	for (i = 0; i < 3; i++)
		expect_running(_metadata, kept);
	EXPECT_EQ(0, refused(kept));
	EXPECT_EQ(faults, bar_recorded(&self->engine.bar));
	for (i = 0; i < count; i++) {
		test_cmd_query(self->owner, self->ids[i], &query);
		EXPECT_EQ(i < count - 1 && i % 2 == 0 ? IOASID_STATE_PARKED :
			  IOASID_STATE_ACTIVE, query.state);
		EXPECT_EQ(1, query.attachments);
	}
	expect_reported(_metadata, self->kmsg, &self->engine.bar, self->ids[1]);
	/* The array contains IDs already freed: nothing else is freed either */
	test_err_free(ENOENT, self->owner, count, self->ids);
	expect_running(_metadata, kept);
	close(self->owner);
	expect_blocked(kept);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/*
 * One stream per mediated device of the engine. Half of them belong to another
 * owner and must be unaffected by what happens to the other half.
 */
#define NR_STREAMS (PDMA_MAX_CHANNELS / PDMA_MDEV_CHANNELS)
#define NR_ROUNDS 2	/* one with close, one with IOASID_FREE */

FIXTURE(bystander)
{
	pid_t pid;
	int fd;
	struct engine engine;
	struct channel ch[NR_STREAMS];	/* the bystander's, then ours */
	int nr_ch;
	__u32 *ids;
};

FIXTURE_VARIANT(bystander)
{
	bool ats;
	__u32 count;
	__u32 per_domain;
	bool takes_long;
};

FIXTURE_VARIANT_ADD(bystander, plain)
{
	.count = 32,
	.takes_long = true,
};

FIXTURE_VARIANT_ADD(bystander, plain_batches)
{
	.count = 20 * BATCH + 2,
	.per_domain = 1,
	.takes_long = true,
};

FIXTURE_VARIANT_ADD(bystander, plain_global)
{
	.count = SELECTIVE_MAX + 50,
	.per_domain = 1,
	.takes_long = true,
};

FIXTURE_VARIANT_ADD(bystander, ats)
{
	.ats = true,
	.count = 32,
	.takes_long = true,
};

FIXTURE_VARIANT_ADD(bystander, ats_batches)
{
	.ats = true,
	.count = 20 * BATCH + 2,
	.per_domain = 1,
};

FIXTURE_VARIANT_ADD(bystander, ats_global)
{
	.ats = true,
	.count = SELECTIVE_MAX + 50,
	.per_domain = 1,
	.takes_long = true,
};

FIXTURE_SETUP(bystander)
{
	struct rlimit files = { .rlim_cur = 4096, .rlim_max = 4096 };
	int i;

	if (variant->takes_long && short_run())
		SKIP(return, LONG_ONLY);
	self->pid = getpid();
	self->fd = ioasid_open();
	if (self->fd == -ENOENT)
		SKIP(return, "no " IOASID_DEV);
	ASSERT_LE(0, self->fd);
	if (find_engine(&self->engine, variant->ats))
		SKIP(return, "no engine %s ATS",
		     variant->ats ? "with" : "without");
	if (access(ATTACH_FILE, F_OK))
		SKIP(return, "no IOASID test device");
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &files));
	self->ids = calloc(MAX_IDS, sizeof(*self->ids));
	ASSERT_NE(NULL, self->ids);
	for (i = 0; i < NR_STREAMS; i++) {
		channel_open(_metadata, &self->ch[i], self->engine.name);
		self->nr_ch++;
	}
}

FIXTURE_TEARDOWN_PARENT(bystander)
{
	int i;

	for (i = 0; i < self->nr_ch; i++)
		channel_remove(_metadata, &self->ch[i], self->pid);
}

TEST_F(bystander, goes_on_while_many_are_parked)
{
	__u64 faults = bar_recorded(&self->engine.bar);
	int ours = NR_STREAMS / 2, theirs = NR_STREAMS - ours;
	int round, i, owner, attach, kmsg = kmsg_open();
	struct channel *ch = self->ch;

	ASSERT_LE(0, kmsg);
	for (i = 0; i < theirs; i++) {
		give_ioasid(_metadata, &ch[i], self->fd);
		start_stream(_metadata, &ch[i], 8192, 1000, 1);
	}
	for (round = 0; round < NR_ROUNDS; round++) {
		owner = ioasid_open();
		attach = attach_open();
		ASSERT_LE(0, owner);
		ASSERT_LE(0, attach);
		start_batch(_metadata, owner, variant->count, self->ids,
			    ch + theirs, ours, attach, self->engine.name,
			    variant->per_domain);
		if (round % 2) {
			test_cmd_free(owner, variant->count, self->ids);
		} else {
			close(owner);
		}
		for (i = theirs; i < NR_STREAMS; i++)
			expect_blocked(&ch[i]);
		for (i = 0; i < theirs; i++)
			expect_running(_metadata, &ch[i]);
		if (round % 2)
			close(owner);
		close(attach);
		for (i = theirs; i < NR_STREAMS; i++)
			EXPECT_EQ(0, pdma_drop_all_ioasids(&ch[i].dev));
	}
	/* None of their requests was ever refused */
	for (i = 0; i < theirs; i++)
		EXPECT_EQ(0, refused(&ch[i]));
	EXPECT_EQ(faults, bar_recorded(&self->engine.bar));
	EXPECT_EQ(0, kmsg_faults(kmsg, 0));
}

TEST_HARNESS_MAIN

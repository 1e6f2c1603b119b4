// SPDX-License-Identifier: GPL-2.0-only
/*
 * Misbehaving hardware: slow invalidations, functions that respond late or
 * never, descriptors that are rejected, a device that vanishes.
 *
 * Needs an IOMMU that waits for responses, and two engines with ATS behind it:
 * a sick one and a healthy neighbour.
 */
#include <pthread.h>

#include "ioasid_fixture.h"

/* Invalidation timeout of the emulated IOMMU, x-inv-timeout-us */
#define TIMEOUT_MS 1000
/*
 * Upper bound for the wait caused by one function that never responds: two
 * timeouts, a third one if the hardware does not identify the function, and one
 * second for everything else. The slack is for busy hosts; it is small enough
 * to notice one timeout per batch, or an endless wait.
 */
#define BOUND_MS (3 * TIMEOUT_MS + 1000)
#define SLACK_MS 20000

#define FENCED_MSG "does not answer invalidations"
#define TIMEOUT_MSG "Invalidation Time-out Error: SID"

/* These registers of the control page keep their value after the test */
static void set_atc_mode(struct engine *engine, __u32 mode)
{
	bar_write32(&engine->bar, PDMA_ATC_MODE, mode);
}

static bool is_fenced(struct engine *engine)
{
	char path[PDMA_PATH_LEN + NAME_MAX], buf[8] = "";

	snprintf(path, sizeof(path),
		 "/sys/kernel/debug/iommu/intel/%s/fenced", engine->name);
	return !pdma_read_file(path, buf, sizeof(buf)) && buf[0] == 'Y';
}

static int find_ats_engine(unsigned int nr, struct engine *engine)
{
	unsigned int nth;

	for (nth = 0; !pdma_find_parent(nth, engine->name); nth++)
		if (pci_ats_enabled(engine->name) && !nr--)
			return bar_map(&engine->bar, engine->name);
	return -ENODEV;
}

/* Number of new messages that contain @text */
static int count_messages(int kmsg, const char *text)
{
	char msg[8192];
	int count = 0;

	while (kmsg_next(kmsg, msg, sizeof(msg)) > 0)
		count += !!strstr(msg, text);
	return count;
}

struct rig {
	pid_t pid;
	int fd;
	int kmsg;
	struct engine sick, well;
	struct channel ch[3];		/* two sick, one well */
	unsigned int channels;
};

static const char *setup(struct __test_metadata *_metadata, struct rig *rig)
{
	const char *why = setup_ioasid(_metadata, &rig->fd);
	unsigned int i;

	rig->pid = getpid();
	if (why)
		return why;
	if (find_ats_engine(0, &rig->sick) || find_ats_engine(1, &rig->well))
		return "no two engines with ATS";
	if (!bar_read32(&rig->sick.bar, PDMA_FLIGHT_US))
		return "the IOMMU does not delay invalidations";
	setup_kmsg(_metadata, &rig->kmsg);
	ASSERT_FALSE(is_fenced(&rig->sick));
	for (i = 0; i < ARRAY_LEN(rig->ch); i++) {
		channel_open(_metadata, &rig->ch[i],
			     i < 2 ? rig->sick.name : rig->well.name);
		rig->channels++;
	}
	kmsg_expect_faults(rig->kmsg, true);
	return NULL;
}

/* In the parent of the test, where the device is not open */
static void teardown(struct __test_metadata *_metadata, struct rig *rig)
{
	struct pdma_bar bar;
	unsigned int i;
	int kmsg;

	if (!rig->channels)
		return;
	ASSERT_EQ(0, bar_map(&bar, rig->sick.name));
	bar_write32(&bar, PDMA_ATC_MODE, PDMA_ATC_ANSWER);
	bar_write32(&bar, PDMA_INV_ERROR, 0);
	bar_unmap(&bar);
	for (i = 0; i < rig->channels; i++)
		channel_remove(_metadata, &rig->ch[i], rig->pid);
	EXPECT_EQ(0, pci_reset(rig->sick.name));
	EXPECT_FALSE(is_fenced(&rig->sick));
	kmsg = kmsg_open();
	kmsg_expect_faults(kmsg, false);
	close(kmsg);
}

FIXTURE(unwell)
{
	struct rig rig;
};

FIXTURE_SETUP(unwell)
{
	skip_for(setup(_metadata, &self->rig));
}

FIXTURE_TEARDOWN_PARENT(unwell)
{
	teardown(_metadata, &self->rig);
}

/* A free or close in its own thread, with its duration */
struct free_call {
	pthread_t thread;
	int fd;			/* closed if @id is 0 */
	__u32 id;
	int ret;
	__u64 ms;
};

static void *free_thread(void *data)
{
	struct free_call *call = data;
	__u64 start = pdma_now_ms();

	if (call->id)
		call->ret = ioasid_free(call->fd, 1, &call->id);
	else
		call->ret = close(call->fd);
	call->ms = pdma_now_ms() - start;
	return NULL;
}

static void free_begin(struct __test_metadata *_metadata,
		       struct free_call *call, int fd, __u32 id)
{
	*call = (struct free_call){ .fd = fd, .id = id };
	ASSERT_EQ(0, pthread_create(&call->thread, NULL, free_thread, call));
}

static void free_end(struct __test_metadata *_metadata, struct free_call *call)
{
	ASSERT_EQ(0, pthread_join(call->thread, NULL));
	EXPECT_EQ(0, call->ret);
}

static __u64 free_timed(struct __test_metadata *_metadata, int fd, __u32 id)
{
	struct free_call call = { .fd = fd, .id = id };

	free_thread(&call);
	EXPECT_EQ(0, call.ret);
	return call.ms;
}

static __u32 stream(struct __test_metadata *_metadata, struct channel *ch,
		    int fd)
{
	__u32 id = give_ioasid(_metadata, ch, fd);

	start_stream(_metadata, ch, 4 * 4096, 50, 4);
	return id;
}

/* Overlapping invalidations during DMA, with requests in flight */
static void no_late_writes(struct __test_metadata *_metadata, struct rig *rig,
			   int rounds, bool by_close)
{
	static const struct {
		__u32 len, period, burst;
	} streams[] = {
		{ 4096, 20, 1 }, { 3 * 4096, 20, 4 }, { BUF_LEN, 50, 64 },
	};
	__u64 faults = bar_recorded(&rig->sick.bar);
	int round, owner, late = 0;
	__u32 id;

	for (round = 0; round < rounds; round++) {
		struct channel *ch = &rig->ch[round % 2];
		int k = round / 2 % ARRAY_LEN(streams);

		owner = by_close ? ioasid_open() : rig->fd;
		ASSERT_LE(0, owner);
		id = give_ioasid(_metadata, ch, owner);
		start_stream(_metadata, ch, streams[k].len, streams[k].period,
			     streams[k].burst);
		if (by_close)
			close(owner);
		else
			test_cmd_free(owner, 1, &id);
		late += late_write(_metadata, ch);
	}
	EXPECT_EQ(0, late);
	EXPECT_EQ(faults, bar_recorded(&rig->sick.bar));
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

TEST_F(unwell, no_write_after_free_returns)
{
	no_late_writes(_metadata, &self->rig, 500, false);
}

TEST_F(unwell, no_write_after_close_returns)
{
	no_late_writes(_metadata, &self->rig, 1000, true);
}

/* More invalidations in one flush than a function can have pending */
TEST_F(unwell, no_write_after_free_of_many_returns)
{
	struct rig *rig = &self->rig;
	__u32 ids[200];
	int i, k;

	for (i = 0; i < times(40); i++) {
		test_cmd_alloc(rig->fd, 0, 0, ARRAY_LEN(ids), ids);
		for (k = 0; k < 2; k++) {
			ASSERT_EQ(0, pdma_set_ioasid(&rig->ch[k].dev, rig->fd,
						     ids[k ? 199 - i : i]));
			start_stream(_metadata, &rig->ch[k], 4096, 20, 1);
		}
		test_cmd_free(rig->fd, ARRAY_LEN(ids), ids);
		for (k = 0; k < 2; k++)
			expect_blocked(&rig->ch[k]);
	}
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

/* Slow, but within the timeout */
TEST_F(unwell, late_answers_are_waited_for)
{
	struct rig *rig = &self->rig;
	__u32 id = stream(_metadata, &rig->ch[0], rig->fd);
	const unsigned int late_ms = TIMEOUT_MS / 2;

	bar_write32(&rig->sick.bar, PDMA_ATC_LATE_US, late_ms * 1000);
	set_atc_mode(&rig->sick, PDMA_ATC_LATE);
	EXPECT_LE(late_ms, free_timed(_metadata, rig->fd, id));
	expect_blocked(&rig->ch[0]);
	EXPECT_FALSE(is_fenced(&rig->sick));
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

static const struct sickness {
	__u32 mode, late_us;
} mute = { PDMA_ATC_MUTE, 0 }, too_late = { PDMA_ATC_LATE, 3000000 };

/*
 * Requests that the function had translated before the fence still arrive, see
 * "What a fence does not reach" in
 * Documentation/driver-api/ioasid-internals.rst.
 */
#define FLIGHT_MS 50

#define expect_fenced_off(_ch)						\
do {									\
	pdma_sleep_ms(FLIGHT_MS);					\
	expect_blocked(_ch);						\
} while (0)

static void fall_sick(struct rig *rig, const struct sickness *sickness)
{
	bar_write32(&rig->sick.bar, PDMA_ATC_LATE_US, sickness->late_us);
	set_atc_mode(&rig->sick, sickness->mode);
}

FIXTURE(fence)
{
	struct rig rig;
};

FIXTURE_VARIANT(fence)
{
	const struct sickness *sickness;
};

FIXTURE_VARIANT_ADD(fence, mute)
{
	.sickness = &mute,
};

FIXTURE_VARIANT_ADD(fence, too_late)
{
	.sickness = &too_late,
};

FIXTURE_SETUP(fence)
{
	skip_for(setup(_metadata, &self->rig));
}

FIXTURE_TEARDOWN_PARENT(fence)
{
	teardown(_metadata, &self->rig);
}

TEST_F(fence, function_is_fenced_until_it_is_reset)
{
	struct rig *rig = &self->rig;
	__u64 faults = bar_recorded(&rig->sick.bar);
	__u32 id[2];
	int i;

	for (i = 0; i < 2; i++)
		id[i] = stream(_metadata, &rig->ch[i], rig->fd);
	fall_sick(rig, variant->sickness);
	EXPECT_GE(BOUND_MS + SLACK_MS, free_timed(_metadata, rig->fd, id[0]));
	EXPECT_TRUE(is_fenced(&rig->sick));
	EXPECT_EQ(1, count_messages(rig->kmsg, FENCED_MSG));
	/* All its DMA is silently blocked, although one PASID stays ACTIVE */
	for (i = 0; i < 2; i++)
		expect_fenced_off(&rig->ch[i]);
	EXPECT_EQ(IOASID_STATE_ACTIVE, ioasid_state(rig->fd, id[1]));
	EXPECT_EQ(faults, bar_recorded(&rig->sick.bar));

	/* No further wait for the fenced function */
	EXPECT_GE(TIMEOUT_MS + SLACK_MS, free_timed(_metadata, rig->fd, id[1]));
	expect_blocked(&rig->ch[1]);
	id[1] = give_ioasid(_metadata, &rig->ch[1], rig->fd);
	EXPECT_EQ(0, count_messages(rig->kmsg, TIMEOUT_MSG));

	set_atc_mode(&rig->sick, PDMA_ATC_ANSWER);
	EXPECT_TRUE(is_fenced(&rig->sick));
	ASSERT_EQ(0, pci_reset(rig->sick.name));
	EXPECT_FALSE(is_fenced(&rig->sick));
	start_stream(_metadata, &rig->ch[1], 4096, 50, 1);
	expect_running(_metadata, &rig->ch[1]);
	EXPECT_NE(0, pdma_copy(&rig->ch[0].dev, IOVA, IOVA, 8));
	EXPECT_EQ(IOASID_STATE_PARKED, ioasid_state(rig->fd, id[0]));
	/* Timeouts from before the reset do not count any more */
	test_cmd_free(rig->fd, 1, &id[1]);
	expect_blocked(&rig->ch[1]);
	EXPECT_FALSE(is_fenced(&rig->sick));
}

/* A neighbour closes many IOASIDs while the first timeout is pending */
TEST_F(fence, neighbour_closes_in_time)
{
	struct rig *rig = &self->rig;
	struct free_call mine, its;
	int owner = ioasid_open();
	__u32 id, ids[100];

	ASSERT_LE(0, owner);
	id = stream(_metadata, &rig->ch[0], rig->fd);
	stream(_metadata, &rig->ch[2], owner);
	test_cmd_alloc(owner, 0, 0, ARRAY_LEN(ids), ids);
	fall_sick(rig, variant->sickness);
	free_begin(_metadata, &mine, rig->fd, id);
	pdma_sleep_ms(TIMEOUT_MS / 10);
	free_begin(_metadata, &its, owner, 0);
	free_end(_metadata, &its);
	expect_blocked(&rig->ch[2]);
	free_end(_metadata, &mine);
	expect_fenced_off(&rig->ch[0]);
	EXPECT_GE(BOUND_MS + SLACK_MS, its.ms);
	EXPECT_GE(BOUND_MS + SLACK_MS, mine.ms);
	EXPECT_TRUE(is_fenced(&rig->sick));
	EXPECT_FALSE(is_fenced(&rig->well));
}

/* A bystander behind the same IOMMU that does not use IOASIDs */
TEST_F(fence, bystander_unmaps_in_time)
{
	struct rig *rig = &self->rig;
	struct pdma_bar *bar = &rig->well.bar;
	struct free_call call;
	__u64 start, before;
	__u32 id[2];
	int nr;

	id[0] = stream(_metadata, &rig->ch[0], rig->fd);
	id[1] = stream(_metadata, &rig->ch[2], rig->fd);
	nr = bar_find_channel(bar, id[1]);
	ASSERT_LE(0, nr);
	fall_sick(rig, variant->sickness);
	free_begin(_metadata, &call, rig->fd, id[0]);
	pdma_sleep_ms(TIMEOUT_MS / 10);
	start = pdma_now_ms();
	EXPECT_EQ(0, pdma_unmap(&rig->ch[2].dev, IOVA, BUF_LEN));
	EXPECT_GE(BOUND_MS + SLACK_MS, pdma_now_ms() - start);
	/* Its invalidations must survive the sick function's timeout */
	poison(&rig->ch[2]);
	before = bar_refused(bar, nr);
	EXPECT_TRUE(bar_stream(bar, nr, IOVA, 4 * 4096, 20));
	EXPECT_TRUE(wait_until(bar_refused(bar, nr) >= before + 3));
	bar_stop(bar, nr);
	EXPECT_TRUE(is_poison(&rig->ch[2]));
	free_end(_metadata, &call);
	expect_fenced_off(&rig->ch[0]);
}

/* All invalidations are lost: the later ones must not be taken for completed */
TEST_F(fence, close_of_many_is_not_done_before_the_fence)
{
	struct rig *rig = &self->rig;
	int owner = ioasid_open();
	__u32 ids[200];
	int i;

	ASSERT_LE(0, owner);
	test_cmd_alloc(owner, 0, 0, ARRAY_LEN(ids), ids);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pdma_set_ioasid(&rig->ch[i].dev, owner,
					     ids[i * 150]));
		start_stream(_metadata, &rig->ch[i], 4 * 4096, 50, 4);
	}
	fall_sick(rig, variant->sickness);
	EXPECT_GE(BOUND_MS + SLACK_MS, free_timed(_metadata, owner, 0));
	for (i = 0; i < 2; i++)
		expect_fenced_off(&rig->ch[i]);
	EXPECT_TRUE(is_fenced(&rig->sick));
}

/* The device TLB may keep its entries if the engine does not lose power */
TEST_F(unwell, resume_without_a_reset_does_not_lift_the_fence)
{
	const char *reason = cannot_suspend("core");
	struct rig *rig = &self->rig;
	__u32 id;

	if (reason)
		SKIP(return, "%s", reason);
	id = stream(_metadata, &rig->ch[0], rig->fd);
	give_ioasid(_metadata, &rig->ch[1], rig->fd);
	fall_sick(rig, &mute);
	test_cmd_free(rig->fd, 1, &id);
	EXPECT_TRUE(is_fenced(&rig->sick));
	set_atc_mode(&rig->sick, PDMA_ATC_ANSWER);
	ASSERT_EQ(0, suspend_machine("core"));
	EXPECT_TRUE(is_fenced(&rig->sick));
	rig->ch[1].len = 4096;
	ASSERT_EQ(0, pdma_stream(&rig->ch[1].dev, IOVA, 4096, 50, 1));
	expect_blocked(&rig->ch[1]);
}

/*
 * vfio-pci does not reset with a PCI core function that saves and restores the
 * state: it restores a state saved long before.
 */
FIXTURE(owned)
{
	pid_t pid;
	int kmsg;
	struct engine sick;
	bool ours;		/* its own driver must be bound again */
	struct channel ch;
	bool created;
};

FIXTURE_SETUP(owned)
{
	self->pid = getpid();
	if (find_ats_engine(0, &self->sick))
		SKIP(return, "no engine with ATS");
	if (!bar_read32(&self->sick.bar, PDMA_FLIGHT_US))
		SKIP(return, "the IOMMU does not delay invalidations");
	if (!pdma_exists(PCI_DRIVERS "vfio-pci"))
		SKIP(return, "no driver vfio-pci");
	bar_unmap(&self->sick.bar);
	setup_kmsg(_metadata, &self->kmsg);
	ASSERT_FALSE(is_fenced(&self->sick));
	kmsg_expect_faults(self->kmsg, true);
	ASSERT_EQ(0, pci_set_driver(self->sick.name, "vfio-pci"));
	self->ours = true;
}

FIXTURE_TEARDOWN_PARENT(owned)
{
	int kmsg;

	if (self->created)
		channel_remove(_metadata, &self->ch, self->pid);
	if (!self->ours)
		return;
	EXPECT_EQ(0, pci_set_driver(self->sick.name, ""));
	ASSERT_EQ(0, bar_map(&self->sick.bar, self->sick.name));
	set_atc_mode(&self->sick, PDMA_ATC_ANSWER);
	bar_unmap(&self->sick.bar);
	EXPECT_EQ(0, pci_reset(self->sick.name));
	EXPECT_FALSE(is_fenced(&self->sick));
	kmsg = kmsg_open();
	kmsg_expect_faults(kmsg, false);
	close(kmsg);
}

TEST_F(owned, reset_by_its_driver_lifts_the_fence)
{
	void *buf = pdma_alloc_buffer(4096);
	struct pdma_bar bar = {};
	int fd = ioasid_open();
	struct pdma_dev dev;

	ASSERT_LE(0, fd);
	ASSERT_NE(NULL, buf);
	ASSERT_EQ(0, pdma_open_cdev_of(&dev, pci_open_cdev(self->sick.name), NULL));
	ASSERT_EQ(0, pdma_map(&dev, buf, IOVA, 4096));
	ASSERT_EQ(0, vfio_map_bar(&bar, dev.device));
	bar_write32(&bar, PDMA_ATC_MODE, PDMA_ATC_MUTE);
	EXPECT_EQ(0, pdma_unmap(&dev, IOVA, 4096));
	EXPECT_TRUE(is_fenced(&self->sick));
	bar_write32(&bar, PDMA_ATC_MODE, PDMA_ATC_ANSWER);
	EXPECT_TRUE(is_fenced(&self->sick));
	bar_unmap(&bar);
	pdma_close(&dev);
	EXPECT_FALSE(is_fenced(&self->sick));

	/* The fence stays lifted for the next driver */
	ASSERT_EQ(0, pci_set_driver(self->sick.name, ""));
	channel_create(_metadata, &self->ch, self->sick.name);
	self->created = true;
	ASSERT_EQ(0, channel_connect(&self->ch));
	stream(_metadata, &self->ch, fd);
}

/* Reject each descriptor of a flush, and those resubmitted after an error */
TEST_F(unwell, refused_descriptors_lose_nothing)
{
	struct rig *rig = &self->rig;
	__u32 n;
	int i;

	for (i = 0; i < times(9); i++) {
		for (n = 1; n <= 10; n++) {
			__u32 id = stream(_metadata, &rig->ch[n % 2], rig->fd);

			bar_write32(&rig->sick.bar, PDMA_INV_ERROR, n);
			test_cmd_free(rig->fd, 1, &id);
			expect_blocked(&rig->ch[n % 2]);
			bar_write32(&rig->sick.bar, PDMA_INV_ERROR, 0);
		}
	}
	EXPECT_FALSE(is_fenced(&rig->sick));
}

/* Must be the last fixture, as the device does not come back */
FIXTURE(vanish)
{
	struct rig rig;
};

FIXTURE_SETUP(vanish)
{
	skip_for(setup(_metadata, &self->rig));
}

FIXTURE_TEARDOWN_PARENT(vanish)
{
	teardown(_metadata, &self->rig);
}

TEST_F(vanish, vanished_device_is_not_waited_for)
{
	struct rig *rig = &self->rig;
	struct free_call mine, its;
	__u32 id[2];

	id[0] = stream(_metadata, &rig->ch[0], rig->fd);
	id[1] = stream(_metadata, &rig->ch[2], rig->fd);
	set_atc_mode(&rig->well, PDMA_ATC_MUTE);
	free_begin(_metadata, &its, rig->fd, id[1]);
	/* During the first timeout */
	bar_write32(&rig->well.bar, PDMA_VANISH_US, TIMEOUT_MS * 300);
	pdma_sleep_ms(TIMEOUT_MS / 2);
	free_begin(_metadata, &mine, rig->fd, id[0]);
	free_end(_metadata, &mine);
	expect_blocked(&rig->ch[0]);
	free_end(_metadata, &its);
	EXPECT_GE(BOUND_MS + SLACK_MS, mine.ms);
	EXPECT_GE(BOUND_MS + SLACK_MS, its.ms);
	channel_close(&rig->ch[2]);
	rig->channels = 2;
	EXPECT_EQ(0, count_messages(rig->kmsg, FENCED_MSG));
	/* As hot unplug would do */
	EXPECT_EQ(0, pci_write(rig->well.name, "remove", "1"));
	EXPECT_TRUE(ioasid_wait_recycled(rig->fd, id[1]));
}

TEST_HARNESS_MAIN

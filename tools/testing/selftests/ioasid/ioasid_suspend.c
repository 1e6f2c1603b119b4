// SPDX-License-Identifier: GPL-2.0-only
/*
 * Suspend to RAM and resume, with ACTIVE and PARKED PASIDs
 *
 * A suspended IOMMU neither translates nor blocks, and a device that lost power
 * has lost its PASIDs. After resume, ACTIVE PASIDs must work again once the
 * user has restarted its device; PARKED PASIDs must stay blocked and silent.
 *
 * Each IOVA used here is also the physical address of a page of the test, the
 * victim, so that DMA that bypasses translation is noticed there.
 *
 * The machine is woken by its RTC alarm or, if IOASID_WAKE is in the
 * environment, from outside.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "ioasid_fixture.h"

#define PAGE 4096
#define PERIOD 1000		/* of a stream, in us */

/* PASIDs without an IOASID; the second is never attached */
#define PLAIN_PASID 0x3333
#define UNKNOWN_PASID 0x4444

/* Memory */

static __u64 physical(volatile void *addr)
{
	off_t pos = (uintptr_t)addr / PAGE * sizeof(__u64);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	__u64 entry;

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry), pos) != sizeof(entry))
		entry = 0;
	close(fd);
	/* Present bit and page frame number */
	return entry >> 63 ? (entry & ((1ull << 55) - 1)) * PAGE : 0;
}

static volatile __u64 *alloc_victim(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE,
			  -1, 0);

	if (page == MAP_FAILED)
		return NULL;
	memset(page, POISON, PAGE);
	return page;
}

/* The page was not written to and has not moved */
#define expect_untouched(_victim, _iova) do {				\
	EXPECT_TRUE(buf_is_poison(_victim, PAGE));			\
	EXPECT_EQ(_iova, physical(_victim));				\
} while (0)

#define ASSERT_SUSPEND(_pm_test) do {					\
	TH_LOG("suspend, %s", _pm_test);				\
	ASSERT_EQ(0, suspend_machine(_pm_test));			\
} while (0)

/* Fault counter of the emulated IOMMU after resume, if there were no faults */
static __u64 count_after(const char *pm_test, __u64 before)
{
	return strcmp(pm_test, "none") ? before : 0;
}

/* Make the channel stream with @pasid, bypassing its driver */
#define bar_start(_bar, _ch, _pasid, _iova) do {			\
	bar_stop(_bar, _ch);						\
	bar_set_pasid(_bar, _ch, PDMA_PASID_VALID | (_pasid));		\
	ASSERT_TRUE(bar_stream(_bar, _ch, _iova, PAGE, PERIOD));	\
} while (0)

/* The channel keeps trying, and its faults are suppressed */
#define expect_silently_blocked(_bar, _ch) do {				\
	__u64 __done = bar_done(_bar, _ch);				\
	__u64 __recorded = bar_recorded(_bar);				\
	__u64 __suppressed = bar_suppressed(_bar);			\
									\
	EXPECT_TRUE(wait_until(bar_suppressed(_bar) >=			\
			       __suppressed + 10));			\
	EXPECT_EQ(__done, bar_done(_bar, _ch));				\
	EXPECT_EQ(__recorded, bar_recorded(_bar));			\
} while (0)

/* Mediated devices: on each engine, one ACTIVE and one PARKED PASID */

#define NR_ENGINES 2

struct pair {
	struct engine engine;
	struct channel ch[2];
	__u32 id[2];
	int nr[2];		/* channel number */
	volatile __u64 *victim[2];
	__u64 iova[2];
};

enum { ACTIVE, PARKED };

FIXTURE(mdev)
{
	int fd;
	int kmsg;
	pid_t opener;
	struct pair pair[NR_ENGINES];
	unsigned int nr_pairs;
};

FIXTURE_VARIANT(mdev)
{
	const char *pm_test;
};

FIXTURE_VARIANT_ADD(mdev, mem) { .pm_test = "none" };
FIXTURE_VARIANT_ADD(mdev, core) { .pm_test = "core" };

static void pair_setup(struct __test_metadata *_metadata, int fd,
		       struct pair *pair)
{
	int i;

	for (i = 0; i < 2; i++) {
		struct channel *ch = &pair->ch[i];

		channel_open(_metadata, ch, pair->engine.name);
		pair->victim[i] = alloc_victim();
		ASSERT_NE(NULL, pair->victim[i]);
		pair->iova[i] = physical(pair->victim[i]);
		ASSERT_NE(0, pair->iova[i]);
		ASSERT_EQ(0, pdma_map(&ch->dev, (void *)ch->buf, pair->iova[i],
				      PAGE));
		pair->id[i] = give_ioasid(_metadata, ch, fd);
		pair->nr[i] = channel_nr(&pair->engine.bar, ch, pair->id[i]);
		ASSERT_LE(0, pair->nr[i]);
	}
}

static void pair_stream(struct __test_metadata *_metadata, struct pair *pair,
			int i)
{
	struct channel *ch = &pair->ch[i];

	ch->len = PAGE;
	ASSERT_EQ(0, pdma_stream(&ch->dev, pair->iova[i], PAGE, PERIOD, 1));
	expect_running(_metadata, ch);
}

FIXTURE_SETUP(mdev)
{
	int ats;

	skip_for(cannot_suspend(variant->pm_test));
	skip_for(setup_ioasid(_metadata, &self->fd));
	setup_kmsg(_metadata, &self->kmsg);
	self->opener = getpid();
	for (ats = 0; ats < 2; ats++)
		if (!find_engine(&self->pair[self->nr_pairs].engine, ats))
			pair_setup(_metadata, self->fd,
				   &self->pair[self->nr_pairs++]);
	if (!self->nr_pairs)
		SKIP(return, "no PASID DMA engine");
}

/* Called in the parent of the test, after all files of the test are closed */
FIXTURE_TEARDOWN_PARENT(mdev)
{
	unsigned int i;

	for (i = 0; i < 2 * self->nr_pairs; i++)
		channel_remove(_metadata, &self->pair[i / 2].ch[i % 2],
			       self->opener);
}

TEST_F(mdev, active_works_again_and_parked_stays_parked)
{
	__u64 recorded[NR_ENGINES];
	unsigned int i;

	for (i = 0; i < self->nr_pairs; i++) {
		struct pair *pair = &self->pair[i];

		recorded[i] = bar_recorded(&pair->engine.bar);
		pair_stream(_metadata, pair, ACTIVE);
		pair_stream(_metadata, pair, PARKED);
		test_cmd_free(self->fd, 1, &pair->id[PARKED]);
		expect_blocked(&pair->ch[PARKED]);
	}

	ASSERT_SUSPEND(variant->pm_test);

	for (i = 0; i < self->nr_pairs; i++) {
		struct pair *pair = &self->pair[i];
		struct pdma_bar *bar = &pair->engine.bar;
		int nr = pair->nr[PARKED];
		struct channel *ch = &pair->ch[PARKED];

		EXPECT_EQ(count_after(variant->pm_test, recorded[i]),
			  bar_recorded(bar));
		expect_untouched(pair->victim[ACTIVE], pair->iova[ACTIVE]);
		expect_untouched(pair->victim[PARKED], pair->iova[PARKED]);
		EXPECT_TRUE(is_poison(ch));
		EXPECT_EQ(IOASID_STATE_PARKED,
			  ioasid_state(self->fd, pair->id[PARKED]));
		EXPECT_EQ(pair->id[ACTIVE],
			  pdma_get_ioasid(&pair->ch[ACTIVE].dev));

		/* Neither the driver nor the engine can use the PASID */
		EXPECT_EQ(-ESHUTDOWN, pdma_stream(&ch->dev, pair->iova[PARKED],
						  PAGE, PERIOD, 1));
		bar_start(bar, nr, pair->id[PARKED], pair->iova[PARKED]);
		expect_silently_blocked(bar, nr);

		EXPECT_EQ(0, pdma_stop(&pair->ch[ACTIVE].dev));
		pair_stream(_metadata, pair, ACTIVE);
		expect_silently_blocked(bar, nr);
		EXPECT_TRUE(is_poison(ch));
		bar_stop(bar, nr);
		expect_taken(self->fd, pair->id[PARKED]);
		EXPECT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
		EXPECT_TRUE(ioasid_wait_recycled(self->fd, pair->id[PARKED]));
		expect_free(self->fd, pair->id[PARKED]);

		/* A PASID parked after resume is blocked as usual */
		test_cmd_free(self->fd, 1, &pair->id[ACTIVE]);
		expect_blocked(&pair->ch[ACTIVE]);
		EXPECT_EQ(0, pdma_stop(&pair->ch[ACTIVE].dev));
		expect_untouched(pair->victim[ACTIVE], pair->iova[ACTIVE]);
		expect_untouched(pair->victim[PARKED], pair->iova[PARKED]);
	}
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/* The engine with ATS, bound to vfio-pci */

FIXTURE(pci)
{
	struct lent engine;
	bool takes_ioasids;
	int fd;
	int kmsg;
	__u32 id;
	struct pdma_dev dev;
	struct pdma_bar bar;
	/* Two address spaces, each with a victim */
	__u32 hwpt[2];
	volatile __u64 *buf[2];
	volatile __u64 *victim[2];
	__u64 iova[2];
};

FIXTURE_VARIANT(pci)
{
	const char *pm_test;
};

FIXTURE_VARIANT_ADD(pci, mem) { .pm_test = "none" };
FIXTURE_VARIANT_ADD(pci, core) { .pm_test = "core" };

static const char *unfit_for_second_stage(const char *engine)
{
	return has_first_stage(engine) ?
		       "the IOMMU has first-stage translation only" : NULL;
}

FIXTURE_SETUP(pci)
{
	__u32 dev_id = 0;
	struct pdma_feature probe = {};
	int i;

	skip_for(cannot_suspend(variant->pm_test));
	skip_for(setup_ioasid(_metadata, &self->fd));
	setup_kmsg(_metadata, &self->kmsg);
	skip_for(setup_lent(_metadata, &self->engine, "vfio-pci",
			    unfit_for_second_stage));

	ASSERT_EQ(0, vfio_open_pci(&self->dev, self->engine.name, &dev_id));
	self->takes_ioasids =
		pdma_feature_ioasid(&self->dev, VFIO_DEVICE_FEATURE_PROBE |
				    VFIO_DEVICE_FEATURE_SET, &probe) != -ENOTTY;

	ASSERT_EQ(0, vfio_map_bar(&self->bar, self->dev.device));
	for (i = 0; i < 2; i++) {
		self->buf[i] = pdma_alloc_buffer(PAGE);
		ASSERT_NE(NULL, self->buf[i]);
		self->victim[i] = alloc_victim();
		ASSERT_NE(NULL, self->victim[i]);
		self->iova[i] = physical(self->victim[i]);
		ASSERT_NE(0, self->iova[i]);
		ASSERT_EQ(0, vfio_map_space(&self->dev, self->buf[i],
					    self->iova[i], PAGE));
		if (self->takes_ioasids)
			ASSERT_EQ(0, vfio_alloc_hwpt(&self->dev, dev_id,
						     &self->hwpt[i]));
	}
	/* Enables the PASID capability, even if no PASID is attached */
	ASSERT_EQ(0, pdma_attach_ioas(&self->dev, self->takes_ioasids ?
				      self->hwpt[1] : self->dev.ioas_id));
	test_cmd_alloc(self->fd, 0, 0, 1, &self->id);
}

/* Called in the parent of the test, after all files of the test are closed */
FIXTURE_TEARDOWN_PARENT(pci)
{
	give_back(_metadata, &self->engine);
}

/* The channel's writes arrive in this buffer */
#define expect_arrives(_ch, _buf) do {					\
	__u64 __done;							\
									\
	memset((void *)(_buf), POISON, PAGE);				\
	__done = bar_done(&self->bar, _ch);				\
	EXPECT_TRUE(wait_until(bar_done(&self->bar, _ch) >= __done + 3)); \
	EXPECT_FALSE(buf_is_poison(_buf, PAGE));			\
} while (0)

#define start(_ch, _pasid, _space) \
	bar_start(&self->bar, _ch, _pasid, self->iova[_space])

#define expect_untouched_victims() do {					\
	expect_untouched(self->victim[0], self->iova[0]);		\
	expect_untouched(self->victim[1], self->iova[1]);		\
} while (0)

/* If the device has lost its registers, its user must program them again */
#define restart_if_lost(_ch, _pasid, _space) do {			\
	if (!strcmp(variant->pm_test, "none")) {			\
		EXPECT_EQ(0, bar_read32(&self->bar,			\
					PDMA_CTL(_ch) + PDMA_CTL_PASID)); \
		start(_ch, _pasid, _space);				\
	}								\
} while (0)

TEST_F(pci, active_works_again)
{
	__u64 recorded;

	if (!self->takes_ioasids)
		SKIP(return, "vfio-pci does not support IOASIDs");
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	ASSERT_EQ(0, pt_attach(&self->dev, PLAIN_PASID, self->hwpt[1]));
	start(0, self->id, 0);
	start(1, PLAIN_PASID, 1);
	expect_arrives(0, self->buf[0]);
	expect_arrives(1, self->buf[1]);
	recorded = bar_recorded(&self->bar);

	ASSERT_SUSPEND(variant->pm_test);

	EXPECT_EQ(count_after(variant->pm_test, recorded),
		  bar_recorded(&self->bar));
	expect_untouched_victims();
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	restart_if_lost(0, self->id, 0);
	restart_if_lost(1, PLAIN_PASID, 1);
	expect_arrives(0, self->buf[0]);
	expect_arrives(1, self->buf[1]);

	/* A PASID parked after resume is blocked as usual */
	test_cmd_free(self->fd, 1, &self->id);
	memset((void *)self->buf[0], POISON, PAGE);
	expect_silently_blocked(&self->bar, 0);
	EXPECT_TRUE(buf_is_poison(self->buf[0], PAGE));
	expect_arrives(1, self->buf[1]);
	expect_untouched_victims();
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_F(pci, parked_stays_parked_until_it_is_recycled)
{
	__u64 recorded;

	if (!self->takes_ioasids)
		SKIP(return, "vfio-pci does not support IOASIDs");
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	start(0, self->id, 0);
	expect_arrives(0, self->buf[0]);
	test_cmd_free(self->fd, 1, &self->id);
	memset((void *)self->buf[0], POISON, PAGE);
	expect_silently_blocked(&self->bar, 0);
	recorded = bar_recorded(&self->bar);

	ASSERT_SUSPEND(variant->pm_test);

	EXPECT_EQ(count_after(variant->pm_test, recorded),
		  bar_recorded(&self->bar));
	expect_untouched_victims();
	EXPECT_EQ(-ESHUTDOWN, pt_attach(&self->dev, self->id, self->hwpt[0]));
	restart_if_lost(0, self->id, 0);
	expect_silently_blocked(&self->bar, 0);
	EXPECT_TRUE(buf_is_poison(self->buf[0], PAGE));
	expect_untouched_victims();

	expect_taken(self->fd, self->id);
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pt_detach(&self->dev, self->id));
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, self->id));
	expect_free(self->fd, self->id);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/* The fault is recorded by the IOMMU and reported by the kernel */
#define expect_reported(_ch, _pasid) do {				\
	__u64 __recorded = bar_recorded(&self->bar);			\
	__u64 __done = bar_done(&self->bar, _ch);			\
									\
	EXPECT_TRUE(wait_until(bar_recorded(&self->bar) >=		\
			       __recorded + 3));			\
	EXPECT_TRUE(wait_until(kmsg_faults(self->kmsg, _pasid) > 0));	\
	EXPECT_EQ(__done, bar_done(&self->bar, _ch));			\
} while (0)

TEST_F(pci, dma_with_an_unattached_pasid_is_blocked_and_reported)
{
	kmsg_expect_faults(self->kmsg, true);
	start(0, UNKNOWN_PASID, 0);
	expect_reported(0, UNKNOWN_PASID);

	ASSERT_SUSPEND(variant->pm_test);

	expect_untouched_victims();
	restart_if_lost(0, UNKNOWN_PASID, 0);
	/* The message may be delayed by rate limiting */
	kmsg_drop_faults(self->kmsg);
	expect_reported(0, UNKNOWN_PASID);
	expect_untouched_victims();
	bar_stop(&self->bar, 0);
	kmsg_drop_faults(self->kmsg);
	kmsg_expect_faults(self->kmsg, false);
}

static int low_power(struct pdma_dev *dev, __u32 feature)
{
	struct vfio_device_feature header = {
		.argsz = sizeof(header),
		.flags = VFIO_DEVICE_FEATURE_SET | feature,
	};

	return ioctl(dev->device, VFIO_DEVICE_FEATURE, &header) ? -errno : 0;
}

static bool runtime_suspended(const char *name)
{
	char status[16];

	return !pci_read(name, "power/runtime_status", status,
			 sizeof(status)) && !strcmp(status, "suspended");
}

/* The engine has no PM capability: low power leaves it operational */
TEST_F(pci, device_in_low_power_does_no_dma)
{
	if (short_run() && !strcmp(variant->pm_test, "none"))
		SKIP(return, LONG_ONLY);
	kmsg_expect_faults(self->kmsg, true);
	start(0, UNKNOWN_PASID, 0);
	expect_reported(0, UNKNOWN_PASID);
	ASSERT_EQ(0, low_power(&self->dev, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY));
	ASSERT_TRUE(wait_until(runtime_suspended(self->engine.name)));

	ASSERT_SUSPEND(variant->pm_test);

	expect_untouched_victims();
	EXPECT_EQ(0, low_power(&self->dev, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT));
	restart_if_lost(0, UNKNOWN_PASID, 0);
	kmsg_drop_faults(self->kmsg);
	expect_reported(0, UNKNOWN_PASID);
	expect_untouched_victims();
	bar_stop(&self->bar, 0);
	kmsg_drop_faults(self->kmsg);
	kmsg_expect_faults(self->kmsg, false);
}

/* SVA processes and an IOASID, on the engine with ATS */

FIXTURE(sva)
{
	struct lent engine;
	int fd;
	int kmsg;
	struct pdma_bar bar;
	/* Of this process, with an IOASID, and of a process that has exited */
	struct pdma_dev dev[3];
	int nr[3];
	__u32 pasid[3];
	volatile __u64 *buf;
	volatile __u64 *victim;
};

enum { OWN, IOASID, EXITED };

FIXTURE_VARIANT(sva)
{
	const char *pm_test;
};

FIXTURE_VARIANT_ADD(sva, mem) { .pm_test = "none" };
FIXTURE_VARIANT_ADD(sva, core) { .pm_test = "core" };

/* SVA uses virtual addresses: map a page at the victim's physical address */
static bool alloc_pages(volatile __u64 **victim, volatile __u64 **buf)
{
	unsigned int tries;

	for (tries = 0; tries < 100; tries++) {
		*victim = alloc_victim();
		if (!*victim || !physical(*victim))
			return false;
		*buf = mmap((void *)physical(*victim), PAGE,
			    PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE |
			    MAP_FIXED_NOREPLACE, -1, 0);
		if (*buf != MAP_FAILED)
			return true;
	}
	return false;
}

FIXTURE_SETUP(sva)
{
	int i;

	skip_for(cannot_suspend(variant->pm_test));
	skip_for(setup_ioasid(_metadata, &self->fd));
	setup_kmsg(_metadata, &self->kmsg);
	skip_for(setup_lent(_metadata, &self->engine, PDMA_SVA_DRIVER,
			    unfit_for_sva));
	ASSERT_TRUE(alloc_pages(&self->victim, &self->buf));

	ASSERT_EQ(0, bar_map(&self->bar, self->engine.name));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, sva_open(&self->dev[i], self->engine.name));
}

FIXTURE_TEARDOWN_PARENT(sva)
{
	give_back(_metadata, &self->engine);
}

static void find_channel(struct __test_metadata *_metadata,
			 FIXTURE_DATA(sva) *self, int i, int pasid)
{
	ASSERT_LT(0, pasid);
	self->pasid[i] = pasid;
	self->nr[i] = bar_find_channel(&self->bar, pasid);
	ASSERT_LE(0, self->nr[i]);
}

/* The binding outlives the process as long as the file is open */
static void bind_in_child(struct __test_metadata *_metadata,
			  FIXTURE_DATA(sva) *self)
{
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* Fault in shared memory, which fork does not do */
		memset((void *)self->buf, 0, PAGE);
		if (sva_bind(&self->dev[EXITED]) < 0 ||
		    pdma_stream(&self->dev[EXITED], (uintptr_t)self->buf, PAGE,
				PERIOD, 1) ||
		    pdma_wait_counter(&self->dev[EXITED], 3))
			_exit(1);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
}

static void expect_sva_running(struct __test_metadata *_metadata,
			       FIXTURE_DATA(sva) *self)
{
	memset((void *)self->buf, POISON, PAGE);
	ASSERT_EQ(0, pdma_stream(&self->dev[OWN], (uintptr_t)self->buf, PAGE,
				 PERIOD, 1));
	EXPECT_EQ(0, pdma_wait_counter(&self->dev[OWN], 3));
	EXPECT_FALSE(buf_is_poison(self->buf, PAGE));
}

TEST_F(sva, active_works_again_and_what_is_blocked_stays_blocked)
{
	__u64 recorded;
	__u32 id;
	int i;

	/* The only channel with a PASID so far, so find it by that */
	bind_in_child(_metadata, self);
	for (i = 0; i < (int)bar_read32(&self->bar, PDMA_CHANNELS); i++) {
		__u32 val = bar_read32(&self->bar,
				       PDMA_CTL(i) + PDMA_CTL_PASID);

		if (val & PDMA_PASID_VALID)
			find_channel(_metadata, self, EXITED,
				     val & PDMA_PASID_MASK);
	}
	expect_silently_blocked(&self->bar, self->nr[EXITED]);

	test_cmd_alloc(self->fd, 0, 0, 1, &id);
	ASSERT_EQ(0, sva_attach(&self->dev[IOASID], self->fd, id));
	find_channel(_metadata, self, IOASID, id);
	ASSERT_EQ(0, pdma_stream(&self->dev[IOASID], PDMA_SVA_IOVA, PAGE,
				 PERIOD, 1));
	ASSERT_EQ(0, pdma_wait_counter(&self->dev[IOASID], 3));
	test_cmd_free(self->fd, 1, &id);
	expect_silently_blocked(&self->bar, self->nr[IOASID]);

	find_channel(_metadata, self, OWN, sva_bind(&self->dev[OWN]));
	expect_sva_running(_metadata, self);
	recorded = bar_recorded(&self->bar);

	ASSERT_SUSPEND(variant->pm_test);

	EXPECT_EQ(count_after(variant->pm_test, recorded),
		  bar_recorded(&self->bar));
	expect_untouched(self->victim, (uintptr_t)self->buf);
	EXPECT_EQ(IOASID_STATE_PARKED, ioasid_state(self->fd, id));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&self->dev[IOASID], PDMA_SVA_IOVA,
					  PAGE, PERIOD, 1));
	memset((void *)self->buf, POISON, PAGE);
	for (i = IOASID; i <= EXITED; i++) {
		bar_start(&self->bar, self->nr[i], self->pasid[i],
			  (uintptr_t)self->buf);
		expect_silently_blocked(&self->bar, self->nr[i]);
	}
	EXPECT_TRUE(buf_is_poison(self->buf, PAGE));

	EXPECT_EQ(0, pdma_stop(&self->dev[OWN]));
	expect_sva_running(_metadata, self);
	for (i = IOASID; i <= EXITED; i++) {
		expect_silently_blocked(&self->bar, self->nr[i]);
		EXPECT_EQ(0, sva_unbind(&self->dev[i]));
	}
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, id));
	EXPECT_EQ(0, sva_unbind(&self->dev[OWN]));
	expect_untouched(self->victim, (uintptr_t)self->buf);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page requests: the engine requests pages of processes (SVA) that are not
 * present. Requests must be drained when a PASID is parked or detached, when
 * the engine is reset, and when its fault queue is removed.
 *
 * Needs an IOMMU with first-stage translation and page requests, and an engine
 * with PRI. The delay of page requests can be set, so that a request is still
 * in flight when something else happens: LATE is longer than that takes. A
 * drain does not wait for the delay to expire but makes the request arrive.
 */
#include <pthread.h>

#include "ioasid_fixture.h"

#define PAGE 4096
#define NR_PAGES (BUF_LEN / PAGE)

/* Delay on the way to the IOMMU, and again until the IOMMU handles it, in us */
#define LATE 3000000
#define ARRIVED_MS (2 * LATE / 1000 + 500)

/* Page request registers */

static int pages_write(struct pdma_dev *dev, unsigned int reg, __u32 val)
{
	return pdma_submit_raw(dev, &val, sizeof(val), reg);
}

static int pages_set_delay(struct pdma_dev *dev, __u32 us)
{
	return pages_write(dev, PDMA_PAGE_DELAY, us);
}

static __u64 pages_asked(struct pdma_dev *dev)
{
	return pdma_read64(dev, PDMA_PAGE_REQUESTS);
}

static __u64 pages_answered(struct pdma_dev *dev)
{
	return pdma_read64(dev, PDMA_PAGE_RESPONSES);
}

static int start_copy(struct pdma_dev *dev, volatile void *dst,
		      volatile void *src, __u32 len, __u32 flags)
{
	struct pdma_submit cmd = {
		.cmd = PDMA_CMD_COPY | flags, .src = (uintptr_t)src,
		.dst = (uintptr_t)dst, .len = len,
	};

	return pdma_submit(dev, &cmd);
}

static int start_asking(struct pdma_dev *dev, __u64 dst, __u32 len,
			__u32 flags)
{
	struct pdma_submit cmd = {
		.cmd = PDMA_CMD_STREAM | flags, .dst = dst, .len = len,
		.period = 100,
	};

	return pdma_submit(dev, &cmd);
}

/* Memory without any page present. Returns NULL on failure. */
static volatile char *fresh(size_t len)
{
	void *buf = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return buf == MAP_FAILED ? NULL : buf;
}

/* Number of pages of @buf that are present, without faulting them in */
static int present(volatile void *buf, size_t len)
{
	unsigned char vec[NR_PAGES];
	size_t i;
	int n = 0;

	if (mincore((void *)buf, len, vec))
		return -errno;
	for (i = 0; i < len / PAGE; i++)
		n += vec[i] & 1;
	return n;
}

struct rig {
	struct lent engine;
	int fd;
	int kmsg;
	struct pdma_bar bar;
	__u64 faults;		/* at the start of the test */
	struct pdma_dev dev;	/* bound to the process */
	volatile char *buf;
};

/* Whether the device has PRI and the IOMMU supports it */
static bool has_pages(const char *engine)
{
	char ecap[32];

	/* In ECAP: page requests, and drain support */
	return !pci_read(engine, "iommu/intel-iommu/ecap", ecap,
			 sizeof(ecap)) &&
	       (strtoull(ecap, NULL, 16) >> 29 & 1) &&
	       (strtoull(ecap, NULL, 16) >> 42 & 1);
}

static const char *unfit_for_pages(const char *engine)
{
	return has_pages(engine) ? unfit_for_sva(engine) :
				   "the IOMMU does not support page requests";
}

static const char *setup(struct __test_metadata *_metadata, struct rig *rig)
{
	const char *why = setup_ioasid(_metadata, &rig->fd);

	if (!why)
		why = setup_lent(_metadata, &rig->engine, PDMA_SVA_DRIVER,
				 unfit_for_pages);
	if (why)
		return why;

	ASSERT_EQ(0, bar_map(&rig->bar, rig->engine.name));
	rig->faults = bar_recorded(&rig->bar);
	setup_kmsg(_metadata, &rig->kmsg);
	rig->buf = fresh(BUF_LEN);
	ASSERT_NE(NULL, rig->buf);
	ASSERT_EQ(0, sva_open(&rig->dev, rig->engine.name));
	ASSERT_LT(0, sva_bind(&rig->dev));
	return NULL;
}

/* No fault was reported since the start of the test */
#define expect_silence() do {						\
	EXPECT_EQ(rig->faults, bar_recorded(&rig->bar));		\
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));			\
} while (0)

/* Bracket code that makes the IOMMU report faults */
static void faults_begin(struct rig *rig)
{
	kmsg_expect_faults(rig->kmsg, true);
}

static void faults_end(struct rig *rig)
{
	kmsg_drop_faults(rig->kmsg);
	kmsg_expect_faults(rig->kmsg, false);
	rig->faults = bar_recorded(&rig->bar);
}

/* All faults, reported or suppressed, including refused page requests */
static __u64 refused_requests(struct rig *rig)
{
	return bar_recorded(&rig->bar) + bar_suppressed(&rig->bar);
}

/* Make @dev wait for the response to a request that is still in flight */
static void ask_late(struct __test_metadata *_metadata, struct pdma_dev *dev,
		     __u64 addr, __u32 flag)
{
	ASSERT_EQ(0, pages_set_delay(dev, LATE));
	ASSERT_EQ(0, start_asking(dev, addr, PAGE, flag));
	ASSERT_TRUE(wait_until(pages_asked(dev) == 1));
	ASSERT_EQ(0, pages_answered(dev));
}

FIXTURE(pri)
{
	struct rig rig;
};

FIXTURE_SETUP(pri)
{
	skip_for(setup(_metadata, &self->rig));
}

FIXTURE_TEARDOWN_PARENT(pri)
{
	give_back(_metadata, &self->rig.engine);
}

/* Served requests */

TEST_F(pri, page_that_is_written_is_faulted_in)
{
	struct rig *rig = &self->rig;
	volatile char *src = fresh(BUF_LEN);
	int i;

	ASSERT_NE(NULL, src);
	for (i = 0; i < BUF_LEN; i++)
		src[i] = i * 7 + i / 251;
	ASSERT_EQ(0, present(rig->buf, BUF_LEN));
	ASSERT_EQ(0, start_copy(&rig->dev, rig->buf, src, BUF_LEN,
				PDMA_CMD_ASK));
	EXPECT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(&rig->dev));
	EXPECT_EQ(NR_PAGES, pages_asked(&rig->dev));
	EXPECT_EQ(NR_PAGES, pages_answered(&rig->dev));
	EXPECT_EQ(NR_PAGES, present(rig->buf, BUF_LEN));
	EXPECT_EQ(0, memcmp((void *)rig->buf, (void *)src, BUF_LEN));
	expect_silence();
}

TEST_F(pri, page_that_is_read_is_faulted_in)
{
	struct rig *rig = &self->rig;
	volatile char *dst = fresh(BUF_LEN);
	int i;

	ASSERT_NE(NULL, dst);
	memset((void *)dst, POISON, BUF_LEN);
	ASSERT_EQ(0, start_copy(&rig->dev, dst, rig->buf, BUF_LEN,
				PDMA_CMD_ASK));
	EXPECT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(&rig->dev));
	EXPECT_EQ(NR_PAGES, pages_asked(&rig->dev));
	for (i = 0; i < BUF_LEN; i++)
		ASSERT_EQ(0, dst[i]);
	expect_silence();
}

TEST_F(pri, page_that_is_dropped_is_faulted_in_again)
{
	struct rig *rig = &self->rig;
	int i;

	ASSERT_EQ(0, start_asking(&rig->dev, (uintptr_t)rig->buf, PAGE,
				  PDMA_CMD_ASK));
	for (i = 0; i < times(100); i++) {
		ASSERT_EQ(0, pdma_wait_counter(&rig->dev, 2));
		ASSERT_EQ(0, madvise((void *)rig->buf, PAGE, MADV_DONTNEED));
	}
	ASSERT_EQ(0, pdma_wait_counter(&rig->dev, 2));
	EXPECT_LE(times(100), pages_answered(&rig->dev));
	EXPECT_EQ(0, pdma_refused(&rig->dev));
	expect_silence();
}

/* A command without the flag accesses only pages that are present */
TEST_F(pri, command_without_page_requests_faults_nothing_in)
{
	struct rig *rig = &self->rig;

	faults_begin(rig);
	ASSERT_EQ(0, start_asking(&rig->dev, (uintptr_t)rig->buf, PAGE, 0));
	EXPECT_EQ(0, pdma_wait_refused(&rig->dev, 3));
	EXPECT_EQ(0, pdma_stop(&rig->dev));
	EXPECT_EQ(0, pages_asked(&rig->dev));
	EXPECT_EQ(0, present(rig->buf, BUF_LEN));
	faults_end(rig);
}

TEST_F(pri, page_that_the_process_cannot_reach_is_refused)
{
	struct rig *rig = &self->rig;
	volatile char *page = rig->buf;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		volatile char *src = page, *dst = page + PAGE;

		if (i == 0) {
			ASSERT_EQ(0, munmap((void *)src, PAGE));
		} else if (i == 1) {
			ASSERT_EQ(0, mprotect((void *)src, PAGE, PROT_NONE));
		} else {
			ASSERT_EQ(0, mprotect((void *)dst, PAGE, PROT_READ));
		}
		ASSERT_EQ(0, start_copy(&rig->dev, dst, src, 8, PDMA_CMD_ASK));
		EXPECT_EQ(PDMA_STATUS_REFUSED, pdma_wait_idle(&rig->dev));
		EXPECT_EQ(PDMA_PAGE_INVALID,
			  pdma_read32(&rig->dev, PDMA_PAGE_RESULT));
		page += 2 * PAGE;
	}
	expect_silence();
}

/* Both pages of a group are faulted in */
TEST_F(pri, pages_of_a_group_are_served_together)
{
	struct rig *rig = &self->rig;
	volatile char *src = fresh(PAGE);

	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, start_copy(&rig->dev, rig->buf, src, PAGE,
				PDMA_CMD_FAULT));
	EXPECT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(&rig->dev));
	EXPECT_EQ(2, pages_asked(&rig->dev));
	EXPECT_EQ(1, pages_answered(&rig->dev));
	EXPECT_EQ(1, present(src, PAGE));
	EXPECT_EQ(1, present(rig->buf, PAGE));
	expect_silence();
}

TEST_F(pri, channels_are_served_side_by_side)
{
	struct rig *rig = &self->rig;
	struct pdma_dev dev[8];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dev); i++) {
		ASSERT_EQ(0, sva_open(&dev[i], rig->engine.name));
		ASSERT_LT(0, sva_bind(&dev[i]));
	}
	/* All channels access the same pages */
	for (i = 0; i < ARRAY_SIZE(dev); i++)
		ASSERT_EQ(0, start_copy(&dev[i], rig->buf,
					rig->buf + BUF_LEN / 2, BUF_LEN / 2,
					PDMA_CMD_FAULT));
	for (i = 0; i < ARRAY_SIZE(dev); i++) {
		EXPECT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(&dev[i]));
		EXPECT_EQ(NR_PAGES, pages_asked(&dev[i]));
		EXPECT_EQ(NR_PAGES / 2, pages_answered(&dev[i]));
	}
	expect_silence();
}

/* Drained requests. An IOASID has no pages, so its requests are refused. */

static __u32 attach(struct __test_metadata *_metadata, struct rig *rig,
		    struct pdma_dev *dev)
{
	__u32 id;

	test_cmd_alloc(rig->fd, 0, 0, 1, &id);
	ASSERT_EQ(0, sva_open(dev, rig->engine.name));
	ASSERT_EQ(0, sva_attach(dev, rig->fd, id));
	return id;
}

TEST_F(pri, park_drains_what_is_on_its_way)
{
	struct rig *rig = &self->rig;
	struct pdma_dev dev;
	__u32 id;

	id = attach(_metadata, rig, &dev);
	ask_late(_metadata, &dev, PDMA_SVA_IOVA, PDMA_CMD_FAULT);
	test_cmd_free(rig->fd, 1, &id);
	/* Answered before LATE has passed. The channel continues to ask. */
	EXPECT_LE(1, pages_answered(&dev));
	EXPECT_EQ(PDMA_PAGE_INVALID, pdma_read32(&dev, PDMA_PAGE_RESULT));
	expect_silence();
}

TEST_F(pri, park_of_many_drains_all_of_them)
{
	struct rig *rig = &self->rig;
	struct pdma_dev dev[20];
	__u32 ids[20];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dev); i++) {
		ids[i] = attach(_metadata, rig, &dev[i]);
		ask_late(_metadata, &dev[i], PDMA_SVA_IOVA, PDMA_CMD_FAULT);
	}
	test_cmd_free(rig->fd, ARRAY_SIZE(ids), ids);
	for (i = 0; i < ARRAY_SIZE(dev); i++)
		EXPECT_LE(1, pages_answered(&dev[i]));
	expect_silence();
}

TEST_F(pri, detach_of_an_ioasid_drains_what_is_on_its_way)
{
	struct rig *rig = &self->rig;
	struct pdma_dev dev;
	__u64 refused;

	attach(_metadata, rig, &dev);
	ask_late(_metadata, &dev, PDMA_SVA_IOVA, PDMA_CMD_FAULT);
	faults_begin(rig);
	refused = refused_requests(rig);
	ASSERT_EQ(0, sva_unbind(&dev));
	EXPECT_EQ(refused + 1, refused_requests(rig));
	faults_end(rig);
}

TEST_F(pri, unbind_of_a_process_drains_what_is_on_its_way)
{
	struct rig *rig = &self->rig;
	__u64 refused;

	ask_late(_metadata, &rig->dev, (uintptr_t)rig->buf, PDMA_CMD_ASK);
	faults_begin(rig);
	refused = refused_requests(rig);
	ASSERT_EQ(0, sva_unbind(&rig->dev));
	EXPECT_EQ(refused + 1, refused_requests(rig));
	faults_end(rig);
	EXPECT_EQ(0, present(rig->buf, BUF_LEN));
}

/* The process is bound to the same PASID again when the request arrives */
TEST_F(pri, request_from_before_an_unbind_is_not_served_later)
{
	struct rig *rig = &self->rig;
	__u64 faults;

	ask_late(_metadata, &rig->dev, (uintptr_t)rig->buf, PDMA_CMD_ASK);
	faults_begin(rig);
	ASSERT_EQ(0, sva_unbind(&rig->dev));
	faults_end(rig);
	faults = rig->faults;
	ASSERT_LT(0, sva_bind(&rig->dev));
	EXPECT_EQ(0, present(rig->buf, BUF_LEN));
	pdma_sleep_ms(ARRIVED_MS);
	EXPECT_EQ(0, present(rig->buf, BUF_LEN));
	EXPECT_EQ(faults, bar_recorded(&rig->bar));
	/* Requests of the new binding are served */
	ASSERT_EQ(0, pages_set_delay(&rig->dev, 0));
	ASSERT_EQ(0, start_copy(&rig->dev, rig->buf, rig->buf + PAGE, 8,
				PDMA_CMD_ASK));
	EXPECT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(&rig->dev));
	expect_silence();
}

TEST_F(pri, request_from_before_a_reset_is_not_served_later)
{
	struct rig *rig = &self->rig;
	int before;

	ask_late(_metadata, &rig->dev, (uintptr_t)rig->buf, PDMA_CMD_ASK);
	faults_begin(rig);
	ASSERT_EQ(0, pci_reset(rig->engine.name));
	/*
	 * The request may already have been served, or its handler may still be
	 * running; a late response is dropped.
	 */
	pdma_sleep_ms(LATE / 1000 / 3);
	before = present(rig->buf, BUF_LEN);
	pdma_sleep_ms(ARRIVED_MS);
	EXPECT_EQ(before, present(rig->buf, BUF_LEN));
	faults_end(rig);
	ASSERT_EQ(0, start_copy(&rig->dev, rig->buf, rig->buf + PAGE, 8,
				PDMA_CMD_ASK));
	EXPECT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(&rig->dev));
	expect_silence();
}

TEST_F(pri, end_of_the_fault_queue_drains_what_is_on_its_way)
{
	struct rig *rig = &self->rig;
	__u64 refused;

	ask_late(_metadata, &rig->dev, (uintptr_t)rig->buf, PDMA_CMD_ASK);
	faults_begin(rig);
	refused = refused_requests(rig);
	ASSERT_EQ(0, pci_write(rig->engine.name, "driver/unbind",
			       rig->engine.name));
	EXPECT_EQ(refused + 1, refused_requests(rig));
	EXPECT_EQ(0, present(rig->buf, BUF_LEN));
	faults_end(rig);
	ASSERT_EQ(0, pci_set_driver(rig->engine.name, PDMA_SVA_DRIVER));
}

/* Parked PASIDs */

struct reports {
	char pasid[32];		/* as shown in the trace */
	bool parked;
	int before, after;
};

#define PARKED "parked, as far as the test is concerned"

static void count_report(const char *event, const char *args, void *data)
{
	struct reports *reports = data;

	if (!strcmp(event, "tracing_mark_write")) {
		if (strstr(args, PARKED))
			reports->parked = true;
	} else if (!strcmp(event, "prq_report") &&
		   strstr(args, reports->pasid)) {
		if (reports->parked)
			reports->after++;
		else
			reports->before++;
	}
}

static const char *const report_events[] = { "intel_iommu:prq_report", NULL };

TEST_F(pri, request_of_a_parked_pasid_is_not_reported)
{
	struct rig *rig = &self->rig;
	struct reports reports = {};
	struct pdma_dev dev[8];
	__u64 refused, suppressed;
	unsigned int i;
	int fd, ret;
	__u32 id;

	ret = trace_start(report_events);
	if (ret == -ENOENT)
		SKIP(return, "no trace events");
	ASSERT_EQ(0, ret);
	id = attach(_metadata, rig, &dev[0]);
	snprintf(reports.pasid, sizeof(reports.pasid), "pasid=0x%x ", id);
	for (i = 0; i < ARRAY_SIZE(dev); i++) {
		/* Several channels, so that the queue is not empty */
		if (i)
			attach(_metadata, rig, &dev[i]);
		ASSERT_EQ(0, start_asking(&dev[i], PDMA_SVA_IOVA, PAGE,
					  PDMA_CMD_FAULT));
	}
	ASSERT_TRUE(wait_until(pages_answered(&dev[0]) >= 10));

	test_cmd_free(rig->fd, 1, &id);
	fd = open(TRACE_INSTANCE "/trace_marker", O_WRONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(strlen(PARKED), write(fd, PARKED, strlen(PARKED)));
	close(fd);

	/* The channel continues, and each request is refused */
	suppressed = bar_suppressed(&rig->bar);
	refused = pages_answered(&dev[0]);
	ASSERT_TRUE(wait_until(pages_answered(&dev[0]) >= refused + 100));
	EXPECT_LE(suppressed + 100, bar_suppressed(&rig->bar));
	EXPECT_EQ(PDMA_PAGE_INVALID, pdma_read32(&dev[0], PDMA_PAGE_RESULT));
	for (i = 0; i < ARRAY_SIZE(dev); i++)
		EXPECT_EQ(0, pdma_stop(&dev[i]));

	EXPECT_EQ(0, trace_for_each(count_report, &reports));
	trace_stop();
	EXPECT_LT(0, reports.before);
	EXPECT_EQ(0, reports.after);
	expect_silence();
}

/* Unbind the last process and remove the queue while parked PASIDs ask */
TEST_F(pri, fault_queue_ends_while_parked_pasids_ask)
{
	struct rig *rig = &self->rig;
	struct pdma_dev dev[8];
	__u32 ids[8];
	unsigned int i;
	int round;

	for (i = 0; i < ARRAY_SIZE(dev); i++) {
		ids[i] = attach(_metadata, rig, &dev[i]);
		ASSERT_EQ(0, start_asking(&dev[i], PDMA_SVA_IOVA, PAGE,
					  PDMA_CMD_FAULT));
	}
	test_cmd_free(rig->fd, ARRAY_SIZE(ids), ids);
	for (round = 0; round < times(100); round++) {
		ASSERT_EQ(0, sva_unbind(&rig->dev));
		ASSERT_LT(0, sva_bind(&rig->dev));
		ASSERT_EQ(0, start_copy(&rig->dev, rig->buf, rig->buf + PAGE, 8,
					PDMA_CMD_FAULT));
		ASSERT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(&rig->dev));
	}
	for (i = 0; i < ARRAY_SIZE(dev); i++)
		EXPECT_LT(0, pages_answered(&dev[i]));
	ASSERT_EQ(0, pci_write(rig->engine.name, "driver/unbind",
			       rig->engine.name));
	ASSERT_EQ(0, pci_set_driver(rig->engine.name, PDMA_SVA_DRIVER));
	expect_silence();
}

TEST_F(pri, park_and_detach_while_all_channels_ask)
{
	struct rig *rig = &self->rig;
	struct pdma_dev dev[8];
	__u32 ids[8];
	unsigned int i;
	int round;

	ASSERT_EQ(0, start_asking(&rig->dev, (uintptr_t)rig->buf, BUF_LEN,
				  PDMA_CMD_FAULT));
	for (i = 0; i < ARRAY_SIZE(dev); i++)
		ASSERT_EQ(0, sva_open(&dev[i], rig->engine.name));
	for (round = 0; round < times(100); round++) {
		__u64 answered;

		test_cmd_alloc(rig->fd, 0, 0, ARRAY_SIZE(ids), ids);
		for (i = 0; i < ARRAY_SIZE(dev); i++) {
			ASSERT_EQ(0, sva_attach(&dev[i], rig->fd, ids[i]));
			ASSERT_EQ(0, pages_set_delay(&dev[i],
						     (round * 7 + i) % 50));
			ASSERT_EQ(0, start_asking(&dev[i], PDMA_SVA_IOVA, PAGE,
						  PDMA_CMD_FAULT));
		}
		answered = pages_answered(&rig->dev);
		test_cmd_free(rig->fd, ARRAY_SIZE(ids), ids);
		for (i = 0; i < ARRAY_SIZE(dev); i++)
			ASSERT_EQ(0, sva_unbind(&dev[i]));
		/* The process is still being served */
		ASSERT_TRUE(wait_until(pages_answered(&rig->dev) > answered));
		ASSERT_TRUE(ioasid_wait_none_parked(rig->fd));
	}
	EXPECT_EQ(0, pdma_refused(&rig->dev));
	expect_silence();
}

TEST_HARNESS_MAIN

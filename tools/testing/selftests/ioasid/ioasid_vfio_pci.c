// SPDX-License-Identifier: GPL-2.0-only
/*
 * A physical device that holds IOASIDs: the engine is bound to vfio-pci, and
 * this program is its driver. It attaches PASIDs with
 * VFIO_DEVICE_ATTACH_IOMMUFD_PT; the PASID of an IOASID is parked when it is
 * freed, and stays blocked across a reset of the device. Other PASIDs are
 * restored.
 */
#include <pthread.h>

#include "ioasid_attach.h"
#include "ioasid_failures.h"
#include "ioasid_fixture.h"

#define PAGE 4096

/* A PASID without an IOASID */
#define PLAIN_PASID 0x3333

FIXTURE(pci)
{
	struct lent engine;
	int fd;			/* /dev/ioasid */
	int kmsg;
	__u32 id;		/* an IOASID of @fd */
	__u32 other;		/* another one, or 0 */
	struct pdma_dev dev;
	struct pdma_bar bar;
	__u64 faults;		/* at the start of the test */
	/* Two address spaces, with different memory at the same IOVA */
	__u32 hwpt[2];
	volatile __u64 *buf[2];
};

static int destroy(struct pdma_dev *dev, __u32 id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	return ioctl(dev->iommufd, IOMMU_DESTROY, &cmd) ? -errno : 0;
}

FIXTURE_SETUP(pci)
{
	struct pdma_feature probe = {};
	__u32 dev_id = 0;
	int i;

	skip_for(setup_ioasid(_metadata, &self->fd));
	skip_for(setup_lent(_metadata, &self->engine, "vfio-pci", NULL));

	ASSERT_EQ(0, vfio_open_pci(&self->dev, self->engine.name, &dev_id));
	if (pdma_feature_ioasid(&self->dev, VFIO_DEVICE_FEATURE_PROBE |
				VFIO_DEVICE_FEATURE_SET, &probe) == -ENOTTY) {
		/* The teardown is not called */
		pdma_close(&self->dev);
		give_back(_metadata, &self->engine);
		SKIP(return, "vfio-pci does not support IOASIDs");
	}

	ASSERT_EQ(0, vfio_map_bar(&self->bar, self->dev.device));
	ASSERT_EQ(PDMA_ID_VALUE, bar_read32(&self->bar, PDMA_ID));
	self->faults = bar_recorded(&self->bar);
	setup_kmsg(_metadata, &self->kmsg);
	for (i = 0; i < 2; i++) {
		self->buf[i] = pdma_alloc_buffer(PAGE);
		ASSERT_NE(NULL, self->buf[i]);
		ASSERT_EQ(0, vfio_map_space(&self->dev, self->buf[i], IOVA,
					    PAGE));
		ASSERT_EQ(0, vfio_alloc_hwpt(&self->dev, dev_id,
					     &self->hwpt[i]));
	}
	test_cmd_alloc(self->fd, 0, 0, 1, &self->id);
	ASSERT_NE(PLAIN_PASID, self->id);
}

/* Called in the parent of the test, after all files of the test are closed */
FIXTURE_TEARDOWN_PARENT(pci)
{
	set_failures("Y");
	give_back(_metadata, &self->engine);
}

/* Make channel @_ch write to the buffer with @_pasid */
#define start(_ch, _pasid) do {						\
	bar_stop(&self->bar, _ch);					\
	bar_set_pasid(&self->bar, _ch, PDMA_PASID_VALID | (_pasid));	\
	ASSERT_TRUE(bar_stream(&self->bar, _ch, IOVA, PAGE, 100));	\
} while (0)

/* The channel's writes arrive in this buffer */
#define expect_arrives(_ch, _buf) do {					\
	__u64 __done;							\
									\
	poison_buf((_buf), PAGE);					\
	/* Count from here, since earlier writes may be overwritten */	\
	__done = bar_done(&self->bar, _ch);				\
	EXPECT_TRUE(wait_until(bar_done(&self->bar, _ch) >= __done + 3)); \
	EXPECT_FALSE(buf_is_poison(_buf, PAGE));			\
} while (0)

/* The channel keeps trying, its faults are suppressed, and nothing arrives */
#define expect_refused(_ch) do {					\
	__u64 __done = bar_done(&self->bar, _ch);			\
	__u64 __suppressed = bar_suppressed(&self->bar);		\
									\
	poison_buf(self->buf[0], PAGE);					\
	poison_buf(self->buf[1], PAGE);					\
	EXPECT_TRUE(wait_until(bar_suppressed(&self->bar) >=		\
			       __suppressed + 10));			\
	EXPECT_EQ(__done, bar_done(&self->bar, _ch));			\
	EXPECT_TRUE(buf_is_poison(self->buf[0], PAGE));			\
	EXPECT_TRUE(buf_is_poison(self->buf[1], PAGE));			\
	expect_silence();						\
} while (0)

/* No fault was reported since the start of the test */
#define expect_silence() do {						\
	EXPECT_EQ(self->faults, bar_recorded(&self->bar));		\
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));			\
} while (0)

#define expect_attachments_of(_id, _n) do {				\
	struct ioasid_query __query;					\
									\
	test_cmd_query(self->fd, _id, &__query);			\
	EXPECT_EQ(_n, __query.attachments);				\
} while (0)

#define expect_attachments(_n) expect_attachments_of(self->id, _n)

/* The channel keeps trying, and does not reach @_buf */
#define expect_untouched(_ch, _buf) do {				\
	__u64 __done = bar_done(&self->bar, _ch);			\
	__u64 __refused = bar_refused(&self->bar, _ch);			\
									\
	poison_buf((_buf), PAGE);					\
	EXPECT_TRUE(wait_until(bar_refused(&self->bar, _ch) >=		\
			       __refused + 10));			\
	EXPECT_EQ(__done, bar_done(&self->bar, _ch));			\
	EXPECT_TRUE(buf_is_poison(_buf, PAGE));				\
} while (0)

TEST_F(pci, dma_with_the_given_ioasid_arrives)
{
	struct ioasid_row row;

	EXPECT_EQ(0, pdma_get_ioasid(&self->dev));
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	expect_attachments(0);
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	expect_attachments(1);
	ASSERT_EQ(0, debugfs_ioasid(self->id, &row));
	EXPECT_STREQ("driver=1", row.holders);

	start(0, self->id);
	expect_arrives(0, self->buf[0]);
	/* Repeating this changes nothing */
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	EXPECT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	expect_arrives(0, self->buf[0]);
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pt_detach(&self->dev, self->id));
	expect_attachments(0);
	expect_silence();
}

TEST_F(pci, failed_set_returns_the_reason)
{
	__u32 other;

	EXPECT_EQ(-EBADF, pdma_set_ioasid(&self->dev, self->dev.iommufd,
					  self->id));
	EXPECT_EQ(-ENOENT, pdma_set_ioasid(&self->dev, self->fd,
					   self->id + 1));
	EXPECT_EQ(-EBADF, pdma_set_ioasid(&self->dev, -1, self->id));
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_EQ(0, pdma_get_ioasid(&self->dev));

	/* A PASID already attached by number cannot be added as an IOASID */
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	EXPECT_EQ(-EBUSY, pdma_set_ioasid(&self->dev, self->fd, self->id));
	EXPECT_EQ(0, pt_detach(&self->dev, self->id));

	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	test_cmd_alloc(self->fd, 0, 0, 1, &other);
	test_cmd_free(self->fd, 1, &other);
	EXPECT_NE(0, pdma_set_ioasid(&self->dev, self->fd, other));
	/* The device keeps the IOASID it had */
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	start(0, self->id);
	expect_arrives(0, self->buf[0]);
	bar_stop(&self->bar, 0);
	expect_silence();
}

TEST_F(pci, several_ioasids_are_blocked_independently)
{
	struct vfio_device_ioasid held[3];
	__u32 ids[3] = { self->id };
	int i;

	test_cmd_alloc(self->fd, 0, 0, 1, &ids[1]);
	test_cmd_alloc(self->fd, 0, 0, 1, &ids[2]);
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->fd, ids[i]));
	EXPECT_EQ(-EEXIST, pdma_add_ioasid(&self->dev, self->fd, ids[1]));
	ASSERT_EQ(0, pt_attach(&self->dev, ids[0], self->hwpt[0]));
	ASSERT_EQ(0, pt_attach(&self->dev, ids[1], self->hwpt[1]));
	start(0, ids[0]);
	start(1, ids[1]);
	expect_arrives(0, self->buf[0]);
	expect_arrives(1, self->buf[1]);

	/* One parked, one in use, one not attached */
	test_cmd_free(self->fd, 1, &ids[0]);
	expect_untouched(0, self->buf[0]);
	expect_arrives(1, self->buf[1]);
	ASSERT_EQ(3, pdma_list_ioasids(&self->dev, 0, 3, held));
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(ids[i], held[i].id);
		EXPECT_EQ(i ? IOASID_STATE_ACTIVE : IOASID_STATE_PARKED,
			  held[i].state);
		EXPECT_EQ(i < 2 ? VFIO_DEVICE_IOASID_ATTACHED : 0,
			  held[i].flags);
	}
	EXPECT_EQ(20, pdma_pasid_bits(&self->dev));

	/* A drop detaches this IOASID and no other */
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pdma_drop_ioasid(&self->dev, ids[0]));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, ids[0]));
	EXPECT_EQ(-ENOENT, pdma_drop_ioasid(&self->dev, ids[0]));
	expect_arrives(1, self->buf[1]);
	bar_stop(&self->bar, 1);
	EXPECT_EQ(0, pdma_drop_ioasid(&self->dev, ids[2]));
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	expect_attachments_of(ids[1], 0);
	EXPECT_EQ(0, pdma_list_ioasids(&self->dev, 0, 3, held));
	expect_silence();
}

TEST_F(pci, replacing_ioasid_is_attached_to_the_same_page_table)
{
	__u32 other, third;

	test_cmd_alloc(self->fd, 0, 0, 1, &other);
	test_cmd_alloc(self->fd, 0, 0, 1, &third);
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[1]));
	start(0, self->id);
	expect_arrives(0, self->buf[1]);
	bar_stop(&self->bar, 0);

	EXPECT_EQ(0, pdma_replace_ioasid(&self->dev, self->fd, other,
					 self->id));
	expect_attachments(0);
	expect_attachments_of(other, 1);
	EXPECT_EQ(other, pdma_get_ioasid(&self->dev));
	start(0, other);
	expect_arrives(0, self->buf[1]);

	/* The old one may be parked */
	test_cmd_free(self->fd, 1, &other);
	expect_refused(0);
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pdma_replace_ioasid(&self->dev, self->fd, third, other));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, other));
	start(0, third);
	expect_arrives(0, self->buf[1]);
	bar_stop(&self->bar, 0);
	expect_silence();
}

TEST_F(pci, failed_replace_of_an_ioasid_leaves_the_old_one_working)
{
	__u32 other;

	test_cmd_alloc(self->fd, 0, 0, 1, &other);
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	/* Attach it by number, not as an IOASID */
	ASSERT_EQ(0, pt_attach(&self->dev, other, self->hwpt[1]));
	start(0, self->id);
	start(1, other);
	EXPECT_EQ(-EBUSY, pdma_replace_ioasid(&self->dev, self->fd, other,
					      self->id));
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	expect_attachments(1);
	expect_attachments_of(other, 0);
	expect_arrives(0, self->buf[0]);
	expect_arrives(1, self->buf[1]);
	bar_stop(&self->bar, 1);

	EXPECT_EQ(0, pt_detach(&self->dev, other));
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->fd, other));
	EXPECT_EQ(-EEXIST, pdma_replace_ioasid(&self->dev, self->fd, other,
					       self->id));
	EXPECT_EQ(-ENOENT, pdma_replace_ioasid(&self->dev, self->fd, other,
					       PLAIN_PASID));
	expect_attachments(1);
	expect_arrives(0, self->buf[0]);
	bar_stop(&self->bar, 0);
	expect_silence();
}

TEST_F(pci, number_that_is_not_held_belongs_to_the_device)
{
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	expect_attachments(0);
	start(0, self->id);
	expect_arrives(0, self->buf[0]);
	test_cmd_free(self->fd, 1, &self->id);
	expect_free(self->fd, self->id);
	expect_arrives(0, self->buf[0]);
	EXPECT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pt_detach(&self->dev, self->id));
	expect_silence();
}

TEST_F(pci, attach_that_cannot_return_pt_id_changes_nothing)
{
	struct attach_pasid *cmd = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, cmd);
	ASSERT_EQ(0, pdma_attach_ioas(&self->dev, self->hwpt[1]));
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->fd, self->id));
	*cmd = (struct attach_pasid){
		.argsz = sizeof(*cmd), .flags = ATTACH_PASID,
		.pt_id = self->hwpt[0], .pasid = self->id,
	};
	ASSERT_EQ(0, mprotect(cmd, PAGE, PROT_READ));
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_ATTACH_IOMMUFD_PT,
			    cmd));
	EXPECT_EQ(EFAULT, errno);
	expect_attachments(0);
	/*
	 * This page table is still attached for requests without PASID, even
	 * though the engine makes none.
	 */
	EXPECT_EQ(-EBUSY, destroy(&self->dev, self->hwpt[1]));
	EXPECT_EQ(0, destroy(&self->dev, self->hwpt[0]));
	EXPECT_EQ(0, pdma_detach_ioas(&self->dev));
	EXPECT_EQ(0, destroy(&self->dev, self->hwpt[1]));
	munmap(cmd, PAGE);
	expect_silence();
}

TEST_F(pci, another_ioasid_ends_the_attachment_of_the_first)
{
	__u32 other;

	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	test_cmd_alloc(self->fd, 0, 0, 1, &other);
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, other));
	expect_attachments(0);
	EXPECT_EQ(other, pdma_get_ioasid(&self->dev));
	test_cmd_free(self->fd, 1, &self->id);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, self->id));

	ASSERT_EQ(0, pt_attach(&self->dev, other, self->hwpt[0]));
	start(0, other);
	expect_arrives(0, self->buf[0]);
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	test_cmd_free(self->fd, 1, &other);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, other));
	expect_silence();
}

TEST_F(pci, freed_ioasid_is_blocked_until_the_device_drops_it)
{
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	start(0, self->id);
	expect_arrives(0, self->buf[0]);

	test_cmd_free(self->fd, 1, &self->id);
	expect_refused(0);
	/* With the same domain and with another one */
	EXPECT_EQ(-ESHUTDOWN, pt_attach(&self->dev, self->id, self->hwpt[0]));
	EXPECT_EQ(-ESHUTDOWN, pt_attach(&self->dev, self->id, self->hwpt[1]));
	expect_refused(0);
	EXPECT_EQ(0, pt_detach(&self->dev, self->id));
	EXPECT_EQ(-ESHUTDOWN, pt_attach(&self->dev, self->id, self->hwpt[0]));
	expect_refused(0);
	EXPECT_EQ(-ESHUTDOWN, pdma_set_ioasid(&self->dev, self->fd, self->id));

	expect_taken(self->fd, self->id);
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, self->id));
	expect_free(self->fd, self->id);
	expect_silence();
}

TEST_F(pci, replaced_domain_is_parked_like_the_first)
{
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	start(0, self->id);
	expect_arrives(0, self->buf[0]);
	/* Replacing the domain may report requests in flight: stop first */
	bar_stop(&self->bar, 0);
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[1]));
	start(0, self->id);
	expect_arrives(0, self->buf[1]);
	poison_buf(self->buf[0], PAGE);
	expect_arrives(0, self->buf[1]);
	EXPECT_TRUE(buf_is_poison(self->buf[0], PAGE));
	expect_attachments(1);

	test_cmd_free(self->fd, 1, &self->id);
	expect_refused(0);
	EXPECT_EQ(-ESHUTDOWN, pt_attach(&self->dev, self->id, self->hwpt[0]));
	EXPECT_EQ(0, pt_detach(&self->dev, self->id));
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, self->id));
	expect_silence();
}

TEST_F(pci, reset_brings_back_what_is_active_and_nothing_else)
{
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	ASSERT_EQ(0, pt_attach(&self->dev, PLAIN_PASID, self->hwpt[1]));
	start(0, self->id);
	start(1, PLAIN_PASID);
	expect_arrives(0, self->buf[0]);
	expect_arrives(1, self->buf[1]);

	/* Reset while both are active */
	ASSERT_EQ(0, pdma_reset(&self->dev));
	EXPECT_EQ(0, bar_read32(&self->bar, PDMA_CTL(0) + PDMA_CTL_PASID));
	start(0, self->id);
	start(1, PLAIN_PASID);
	expect_arrives(0, self->buf[0]);
	expect_arrives(1, self->buf[1]);
	bar_stop(&self->bar, 1);

	test_cmd_free(self->fd, 1, &self->id);
	expect_refused(0);
	ASSERT_EQ(0, pdma_reset(&self->dev));
	start(0, self->id);
	expect_refused(0);
	start(1, PLAIN_PASID);
	expect_arrives(1, self->buf[1]);
	bar_stop(&self->bar, 1);
	/* Reset again, after a reset that has restored a parked PASID */
	ASSERT_EQ(0, pdma_reset(&self->dev));
	start(0, self->id);
	expect_refused(0);
	EXPECT_EQ(-ESHUTDOWN, pt_attach(&self->dev, self->id, self->hwpt[1]));

	EXPECT_EQ(0, pt_detach(&self->dev, self->id));
	expect_refused(0);
	bar_stop(&self->bar, 0);
	start(1, PLAIN_PASID);
	expect_arrives(1, self->buf[1]);
	bar_stop(&self->bar, 1);
	expect_taken(self->fd, self->id);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, self->id));
	expect_silence();
}

static void *reset_fn(void *dev)
{
	return (void *)(intptr_t)pdma_reset(dev);
}

/* The free may come before, during or after the reset */
TEST_F(pci, free_races_with_reset)
{
	pthread_t thread;
	void *ret;
	int i;

	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
		ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[i % 2]));
		ASSERT_EQ(0, pthread_create(&thread, NULL, reset_fn,
					    &self->dev));
		/* A reset takes at least 100 ms */
		pdma_sleep_ms(15 * i);
		test_cmd_free(self->fd, 1, &self->id);
		ASSERT_EQ(0, pthread_join(thread, &ret));
		ASSERT_EQ(NULL, ret);
		start(0, self->id);
		expect_refused(0);
		bar_stop(&self->bar, 0);
		EXPECT_EQ(0, pt_detach(&self->dev, self->id));
		EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
		EXPECT_TRUE(ioasid_wait_recycled(self->fd, self->id));
		test_cmd_alloc(self->fd, self->id, self->id, 1, &self->id);
	}
	expect_silence();
}

/* Blocking this many takes longer than a reset */
#define MANY 8000

struct free_many {
	int fd;
	__u32 *ids;
	int ret;
	bool blocked;		/* the first one is blocked and flushed */
};

static void *free_many_fn(void *data)
{
	struct free_many *many = data;

	many->ret = ioasid_free(many->fd, MANY, many->ids);
	return NULL;
}

static void look_for_block(const char *event, const char *args, void *data)
{
	struct free_many *many = data;
	unsigned int nr;

	if (!strcmp(event, "ioasid_block") && sscanf(args, "id=%u", &nr) == 1 &&
	    nr == many->ids[0])
		many->blocked = true;
}

/*
 * A device TLB must not be invalidated while its device is being reset. The
 * first of many IOASIDs is blocked early, and flushed after all are blocked.
 */
TEST_F(pci, reset_waits_for_the_flush_of_a_park)
{
	static const char *const events[] = { "ioasid:ioasid_block", NULL };
	char plain[NAME_MAX + 1];
	struct free_many many = { .fd = self->fd };
	unsigned int nth = 0;
	pthread_t thread;
	int attach_fd;

	attach_fd = attach_open();
	if (attach_fd == -ENOENT)
		SKIP(return, "no IOASID test device");
	ASSERT_LE(0, attach_fd);
	do {
		ASSERT_EQ(0, pdma_find_parent(nth++, plain));
	} while (pci_ats_enabled(plain));
	test_cmd_set_quota(self->fd, MANY);
	many.ids = calloc(MANY, sizeof(*many.ids));
	ASSERT_NE(NULL, many.ids);
	many.ids[0] = self->id;
	test_cmd_alloc(self->fd, 0, 0, MANY - 1, many.ids + 1);
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	ASSERT_EQ(0, attach_ids(attach_fd, plain, self->fd, MANY - 1,
				many.ids + 1, 0));

	ASSERT_EQ(0, trace_start(events));
	ASSERT_EQ(0, pthread_create(&thread, NULL, free_many_fn, &many));
	EXPECT_TRUE(wait_until(pt_attach(&self->dev, self->id, self->hwpt[0]) ==
			       -ESHUTDOWN));
	EXPECT_EQ(0, trace_for_each(look_for_block, &many));
	EXPECT_FALSE(many.blocked);
	EXPECT_EQ(0, pdma_reset(&self->dev));
	EXPECT_EQ(0, trace_for_each(look_for_block, &many));
	EXPECT_TRUE(many.blocked);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	trace_stop();
	EXPECT_EQ(0, many.ret);
	start(0, self->id);
	expect_refused(0);
	bar_stop(&self->bar, 0);
	close(attach_fd);
	expect_silence();
}

TEST_F(pci, last_close_lets_go_of_a_parked_ioasid)
{
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	start(0, self->id);
	expect_arrives(0, self->buf[0]);
	test_cmd_free(self->fd, 1, &self->id);
	expect_refused(0);
	expect_taken(self->fd, self->id);
	bar_unmap(&self->bar);
	pdma_close(&self->dev);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, self->id));
	expect_free(self->fd, self->id);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/* Also for the next user of the device, which never had the IOASID */
TEST_F(pci, parked_number_of_a_machine_is_refused_until_recycle)
{
	__u32 dev_id = 0, hwpt = 0;
	struct kvm_vm vm;

	skip_for(setup_vm(_metadata, &vm));
	test_cmd_map_add(vm.dev, self->fd, self->id, 1);
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->fd, self->id));
	ASSERT_EQ(0, pt_attach(&self->dev, self->id, self->hwpt[0]));
	test_cmd_free(self->fd, 1, &self->id);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_EQ(-ESHUTDOWN, pt_attach(&self->dev, self->id, self->hwpt[0]));
	bar_unmap(&self->bar);
	pdma_close(&self->dev);

	ASSERT_EQ(0, vfio_open_pci(&self->dev, self->engine.name, &dev_id));
	ASSERT_EQ(0, vfio_map_bar(&self->bar, self->dev.device));
	ASSERT_EQ(0, vfio_map_space(&self->dev, self->buf[0], IOVA, PAGE));
	ASSERT_EQ(0, vfio_alloc_hwpt(&self->dev, dev_id, &hwpt));
	EXPECT_EQ(-ESHUTDOWN, pt_attach(&self->dev, self->id, hwpt));
	ASSERT_EQ(0, pt_attach(&self->dev, PLAIN_PASID, hwpt));
	start(0, PLAIN_PASID);
	expect_arrives(0, self->buf[0]);
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pt_detach(&self->dev, PLAIN_PASID));

	expect_taken(self->fd, self->id);
	test_cmd_map_del(vm.dev, 1);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, self->id));
	EXPECT_EQ(0, pt_attach(&self->dev, self->id, hwpt));
	start(0, self->id);
	expect_arrives(0, self->buf[0]);
	bar_stop(&self->bar, 0);
	EXPECT_EQ(0, pt_detach(&self->dev, self->id));
	vm_close(&vm);
	expect_silence();
}

/* Without support for IOASIDs, a device fails PROBE, GET and SET */
FIXTURE(other_pci)
{
	char name[NAME_MAX + 1];
	bool ours;
	struct pdma_dev dev;
};

FIXTURE_VARIANT(other_pci)
{
	bool engine;		/* else any function without PASIDs */
	const char *container;	/* NULL: use the character device */
};

FIXTURE_VARIANT_ADD(other_pci, group)
{
	.engine = true,
	.container = "/dev/vfio/vfio",
};

FIXTURE_VARIANT_ADD(other_pci, compat)
{
	.engine = true,
	.container = "/dev/iommu",
};

FIXTURE_VARIANT_ADD(other_pci, no_pasids)
{
};

FIXTURE_VARIANT_ADD(other_pci, no_pasids_group)
{
	.container = "/dev/vfio/vfio",
};

/* Use a SATA controller: every machine has one, and the tests do not need it */
static int find_without_pasids(char name[NAME_MAX + 1])
{
	struct dirent *entry;
	int ret = -ENODEV;
	char class[16];
	DIR *dir;

	dir = opendir(PCI_DEVICES);
	if (!dir)
		return -errno;
	while (ret && (entry = readdir(dir))) {
		if (pci_read(entry->d_name, "class", class, sizeof(class)) ||
		    strtoul(class, NULL, 16) >> 8 != 0x0106)
			continue;
		snprintf(name, NAME_MAX + 1, "%s", entry->d_name);
		ret = 0;
	}
	closedir(dir);
	return ret;
}

static int open_in_container(struct pdma_dev *dev, const char *name,
			     const char *node)
{
	char path[PDMA_PATH_LEN + NAME_MAX], link[PDMA_PATH_LEN];
	ssize_t n;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/iommu_group", name);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return -errno;
	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%.16s",
		 strrchr(link, '/') + 1);
	dev->group = open(path, O_RDWR | O_CLOEXEC);
	dev->container = open(node, O_RDWR | O_CLOEXEC);
	if (dev->group < 0 || dev->container < 0 ||
	    ioctl(dev->group, VFIO_GROUP_SET_CONTAINER, &dev->container) ||
	    ioctl(dev->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return -errno;
	dev->device = ioctl(dev->group, VFIO_GROUP_GET_DEVICE_FD, name);
	return dev->device < 0 ? -errno : 0;
}

FIXTURE_SETUP(other_pci)
{
	__u32 dev_id = 0;

	if (variant->engine ? pci_find_engine(self->name) :
			      find_without_pasids(self->name))
		SKIP(return, "no such device");
	if (!pdma_exists(PCI_DRIVERS "vfio-pci"))
		SKIP(return, "no driver vfio-pci");

	ASSERT_EQ(0, pci_set_driver(self->name, "vfio-pci"));
	self->ours = true;
	pdma_init(&self->dev);
	ASSERT_EQ(0, variant->container ?
			     open_in_container(&self->dev, self->name,
					       variant->container) :
			     vfio_open_pci(&self->dev, self->name, &dev_id));
}

FIXTURE_TEARDOWN_PARENT(other_pci)
{
	if (self->ours)
		EXPECT_EQ(0, pci_set_driver(self->name, ""));
}

TEST_F(other_pci, ioasids_are_not_supported)
{
	const __u32 probe = VFIO_DEVICE_FEATURE_PROBE;
	const __u32 get = VFIO_DEVICE_FEATURE_GET;
	const __u32 set = VFIO_DEVICE_FEATURE_SET;
	const __u32 flags[] = {
		probe, probe | get, probe | set, probe | get | set, get, set,
	};
	struct pdma_feature feature;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		feature = (struct pdma_feature){};
		EXPECT_EQ(-ENOTTY, pdma_feature_ioasid(&self->dev, flags[i],
						       &feature));
	}
}

/* Fail each allocation of an operation once, see struct sweep */
struct op {
	int (*prepare)(FIXTURE_DATA(pci) *self);
	int (*call)(FIXTURE_DATA(pci) *self);
	unsigned int space;	/* address space attached in the end */
	/*
	 * Error besides -ENOMEM: the VT-d driver's error if it cannot allocate
	 * a page for the PASID table.
	 */
	int also;
	bool dma;		/* a stream is running when call() begins */
	bool cannot_fail;
	bool parks;
};

static int call_set(FIXTURE_DATA(pci) *self)
{
	return pdma_set_ioasid(&self->dev, self->fd, self->id);
}

static int call_attach(FIXTURE_DATA(pci) *self)
{
	return pt_attach(&self->dev, self->id, self->hwpt[0]);
}

static int prepare_attached(FIXTURE_DATA(pci) *self)
{
	int ret = call_set(self);

	return ret ? ret : call_attach(self);
}

static int call_replace(FIXTURE_DATA(pci) *self)
{
	return pt_attach(&self->dev, self->id, self->hwpt[1]);
}

static int call_detach(FIXTURE_DATA(pci) *self)
{
	return pt_detach(&self->dev, self->id);
}

static int call_drop(FIXTURE_DATA(pci) *self)
{
	return pdma_drop_all_ioasids(&self->dev);
}

static int prepare_other(FIXTURE_DATA(pci) *self)
{
	int ret = prepare_attached(self);

	return ret ? ret : ioasid_alloc(self->fd, 0, 0, 1, &self->other);
}

static int call_set_other(FIXTURE_DATA(pci) *self)
{
	return pdma_set_ioasid(&self->dev, self->fd, self->other);
}

static int call_free(FIXTURE_DATA(pci) *self)
{
	return ioasid_free(self->fd, 1, &self->id);
}

struct world {
	FIXTURE_DATA(pci) *self;
	const struct op *op;
	__u32 round;
};

static void snapshot(struct world *w, char text[SNAPSHOT_LEN])
{
	FIXTURE_DATA(pci) *self = w->self;
	struct ioasid_query query = {};
	struct ioasid_info info = {};
	int ret[2];

	ret[0] = ioasid_get_info(self->fd, &info);
	ret[1] = ioasid_query(self->fd, self->id, &query);
	snprintf(text, SNAPSHOT_LEN,
		 "%d quota %u active %u parked %u, %d state %u users %u attachments %u, device %d, rows %d",
		 ret[0], info.quota, info.active, info.parked, ret[1],
		 query.state, query.users, query.attachments,
		 pdma_get_ioasid(&self->dev), debugfs_rows());
}

/*
 * Use an ID that was never used before, so that nodes of the xarray and a page
 * of the PASID table must be allocated.
 *
 * Use multiples of 1024: VFIO tracks attached PASIDs in an IDA, and if
 * ida_alloc_range() cannot allocate a tree node, it loses the bitmap that it
 * was to store there.
 */
static void prepare(struct __test_metadata *_metadata, struct world *w)
{
	FIXTURE_DATA(pci) *self = w->self;
	const __u32 far = 0x40000 + (++w->round << 10);

	test_cmd_alloc(self->fd, far, far, 1, &self->id);
	if (w->op->prepare)
		ASSERT_EQ(0, w->op->prepare(self));
	poison_buf(self->buf[1], PAGE);
	if (w->op->dma) {
		start(0, self->id);
		expect_arrives(0, self->buf[0]);
	}
}

static int call(struct world *w)
{
	return w->op->call(w->self);
}

/* In-flight requests may be reported when a domain is replaced */
static void faults_end(FIXTURE_DATA(pci) *self)
{
	bar_stop(&self->bar, 0);
	kmsg_drop_faults(self->kmsg);
	self->faults = bar_recorded(&self->bar);
}

static void expect_unchanged(struct __test_metadata *_metadata,
			     struct world *w)
{
	FIXTURE_DATA(pci) *self = w->self;

	if (w->op->dma) {
		expect_arrives(0, self->buf[0]);
		EXPECT_TRUE(buf_is_poison(self->buf[1], PAGE));
	}
	expect_silence();
}

/* Check DMA, then tear everything down */
static void expect_success(struct __test_metadata *_metadata, struct world *w)
{
	FIXTURE_DATA(pci) *self = w->self;
	const struct op *op = w->op;

	if (op->dma && !op->parks)
		faults_end(self);
	if (op->parks) {
		expect_refused(0);
		bar_stop(&self->bar, 0);
	} else {
		if (self->other) {
			ASSERT_EQ(0, call_free(self));
			self->id = self->other;
			self->other = 0;
		}
		/* No-op if call() has done this already */
		ASSERT_EQ(0, call_set(self));
		ASSERT_EQ(0, pt_attach(&self->dev, self->id,
				       self->hwpt[op->space]));
		expect_attachments(1);
		start(0, self->id);
		expect_arrives(0, self->buf[op->space]);
		bar_stop(&self->bar, 0);
	}
	EXPECT_EQ(0, call_detach(self));
	EXPECT_EQ(0, call_drop(self));
	if (!op->parks)
		ASSERT_EQ(0, call_free(self));
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, 0, 0);
	expect_silence();
}

/* Fail each allocation, then all of them */
static void sweep(struct __test_metadata *_metadata, FIXTURE_DATA(pci) *self,
		  const struct op *op)
{
	struct world w = { .self = self, .op = op };
	struct sweep sweep = {
		.w = &w,
		.prepare = prepare,
		.call = call,
		.snapshot = snapshot,
		.expect_unchanged = expect_unchanged,
		.expect_success = expect_success,
		.also = { op->also, iommufd_fails_more() ? -ENOENT : 0 },
		.cannot_fail = op->cannot_fail,
	};
	const char *why = sweep_open(_metadata, &sweep, "Y");

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, call_free(self));

	/* Only once, as /dev/kmsg limits the rate of each writer */
	if (op->dma && !op->parks)
		kmsg_expect_faults(self->kmsg, true);
	sweep_each(_metadata, &sweep, sweep_round);
	sweep_all(_metadata, &sweep, sweep_round);
	if (op->dma && !op->parks)
		kmsg_expect_faults(self->kmsg, false);
}

TEST_F(pci, failed_add_leaves_nothing)
{
	const struct op op = {
		.call = call_set,
	};

	sweep(_metadata, self, &op);
}

TEST_F(pci, failed_replace_of_the_ioasid_leaves_the_old_one)
{
	const struct op op = {
		.prepare = prepare_other, .call = call_set_other,
		.also = -ENODEV,
	};

	sweep(_metadata, self, &op);
}

TEST_F(pci, failed_attach_leaves_nothing)
{
	const struct op op = {
		.prepare = call_set, .call = call_attach, .also = -ENODEV,
	};

	sweep(_metadata, self, &op);
}

TEST_F(pci, failed_replace_leaves_the_attachment)
{
	const struct op op = {
		.prepare = prepare_attached, .call = call_replace, .space = 1,
		.dma = true,
	};

	sweep(_metadata, self, &op);
}

TEST_F(pci, detach_needs_no_memory)
{
	const struct op op = {
		.prepare = prepare_attached, .call = call_detach,
		.cannot_fail = true,
	};

	sweep(_metadata, self, &op);
}

TEST_F(pci, drop_needs_no_memory)
{
	const struct op op = {
		.prepare = prepare_attached, .call = call_drop,
		.cannot_fail = true,
	};

	sweep(_metadata, self, &op);
}

TEST_F(pci, park_needs_no_memory)
{
	const struct op op = {
		.prepare = prepare_attached, .call = call_free, .dma = true,
		.cannot_fail = true, .parks = true,
	};

	sweep(_metadata, self, &op);
}

TEST_HARNESS_MAIN

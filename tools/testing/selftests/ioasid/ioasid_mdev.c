// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life cycle of a mediated device that uses IOASIDs for DMA
 *
 * Each test runs for the three ways to open a device: through its group and a
 * container, through its group and an iommufd in container mode, and through
 * its character device.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "ioasid_failures.h"
#include "ioasid_fixture.h"
#include "stall_utils.h"

#define DRIVER		"/sys/bus/pci/drivers/pdma"

#define MEM_LEN		0x40000
#define PAGE		0x1000

/* Minimum duration of a race, and minimum number of rounds of each side */
#define RACE_MS		1000
#define RACE_ROUNDS	10

FIXTURE(mdev)
{
	char parent[NAME_MAX + 1];
	char uuid[2][PDMA_UUID_LEN + 1];
	int available;
	int ioasid;
	__u32 id;		/* added to dev */
	__u32 other;		/* not added to a device */
	struct pdma_dev dev;
	char *buf;		/* mapped at IOVA */
};

FIXTURE_VARIANT(mdev)
{
	int (*open)(struct pdma_dev *dev, const char *uuid,
		    const struct pdma_dev *share);
	bool cdev;
	bool pinning_waits;	/* for pages that user space delivers late */
	bool takes_long;
};

FIXTURE_VARIANT_ADD(mdev, container)
{
	.open = pdma_open_group,
};

FIXTURE_VARIANT_ADD(mdev, compat)
{
	.open = pdma_open_compat,
	.pinning_waits = true,
	.takes_long = true,
};

FIXTURE_VARIANT_ADD(mdev, cdev)
{
	.open = pdma_open_cdev,
	.cdev = true,
	.pinning_waits = true,
};

FIXTURE_SETUP(mdev)
{
	__u32 ids[2];

	if (variant->takes_long && short_run())
		SKIP(return, LONG_ONLY);
	skip_for(setup_parent(self->parent));

	self->available = pdma_available(self->parent);
	ASSERT_LT(1, self->available);
	ASSERT_EQ(0, pdma_create(self->parent, self->uuid[0]));
	ASSERT_EQ(0, variant->open(&self->dev, self->uuid[0], NULL));

	self->ioasid = ioasid_open();
	ASSERT_LE(0, self->ioasid);
	test_cmd_alloc(self->ioasid, 0, 0, 2, ids);
	self->id = ids[0];
	self->other = ids[1];

	/* Shared, so that another process can watch the writes */
	self->buf = mmap(NULL, MEM_LEN, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->buf);
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
	ASSERT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->id));
}

/*
 * Run in the parent, after the process of the test has exited: removal blocks
 * while a device is open or its status page is mapped.
 */
FIXTURE_TEARDOWN_PARENT(mdev)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (self->uuid[i][0] && pdma_mdev_exists(self->uuid[i]))
			EXPECT_EQ(0, pdma_remove(self->uuid[i]));
	}
	/* No test may leak a channel */
	EXPECT_EQ(self->available, pdma_available(self->parent));
}

/* A second device on the same parent that shares the first one's memory */
#define open_second(_dev, _share) ({					\
	ASSERT_EQ(0, pdma_create(self->parent, self->uuid[1]));		\
	ASSERT_EQ(0, variant->open(_dev, self->uuid[1], _share));	\
})

/* Check the number of users of @_id and of its attachments */
#define test_users(_id, _users, _attachments) ({			\
	struct ioasid_query __query;					\
	test_cmd_query(self->ioasid, _id, &__query);			\
	EXPECT_EQ(_users, __query.users);				\
	EXPECT_EQ(_attachments, __query.attachments);			\
})

/* The stream of @_dev into the first page is running */
#define test_streams(_dev) ({						\
	EXPECT_EQ(0, pdma_wait_counter(_dev, 20));			\
	EXPECT_EQ(PDMA_STATUS_BUSY,					\
		  pdma_status(_dev) & PDMA_STATUS_BUSY);		\
})

/* The stream has stopped, and nothing is written */
#define test_stopped(_dev) ({						\
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));			\
	EXPECT_EQ(0, pdma_status(_dev) & PDMA_STATUS_BUSY);		\
})

#define start_page_stream(_dev) ({					\
	ASSERT_EQ(0, pdma_stream(_dev, IOVA, PAGE, 0, 0));		\
	ASSERT_EQ(0, pdma_wait_counter(_dev, 20));			\
})

#define test_copies(_dev) ({						\
	memset(self->buf, __LINE__, PAGE);				\
	memset(self->buf + PAGE, 0, PAGE);				\
	EXPECT_EQ(0, pdma_copy_wait(_dev, IOVA + PAGE, IOVA, PAGE));	\
	EXPECT_EQ(0, memcmp(self->buf, self->buf + PAGE, PAGE));	\
})

/* Run @fn in a process that has none of our files open */
static pid_t run_alone(int (*fn)(const char *arg), const char *arg)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	close_range(3, ~0U, 0);
	_exit(fn(arg) ? 1 : 0);
}

static bool has_exited(pid_t pid, int *status)
{
	return waitpid(pid, status, WNOHANG) == pid;
}

static bool has_reset(const char *parent)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/reset", parent);
	return pdma_exists(path);
}

/* Creation and description */

TEST_F(mdev, each_device_takes_its_channels)
{
	char uuid[PDMA_MAX_CHANNELS / PDMA_MDEV_CHANNELS][PDMA_UUID_LEN + 1];
	int i, n = pdma_available(self->parent);

	if (!variant->cdev && short_run())
		SKIP(return, LONG_ONLY);
	EXPECT_EQ(self->available - 1, n);
	ASSERT_GE(ARRAY_SIZE(uuid), n);
	for (i = 0; i < n; i++) {
		EXPECT_EQ(0, pdma_create(self->parent, uuid[i]));
		EXPECT_EQ(n - i - 1, pdma_available(self->parent));
	}
	EXPECT_EQ(-EUSERS, pdma_create(self->parent, self->uuid[1]));
	EXPECT_FALSE(pdma_mdev_exists(self->uuid[1]));

	for (i = 0; i < n; i++)
		EXPECT_EQ(0, pdma_remove(uuid[i]));
	EXPECT_EQ(n, pdma_available(self->parent));
}

TEST_F(mdev, device_info_lists_regions_and_interrupts)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_irq_info irq = { .argsz = sizeof(irq) };
	struct vfio_region_info region;
	char path[PDMA_PATH_LEN], api[32];
	__u32 i;

	ASSERT_EQ(0, ioctl(self->dev.device, VFIO_DEVICE_GET_INFO, &info));
	EXPECT_EQ(VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET, info.flags);
	EXPECT_EQ(VFIO_PCI_NUM_REGIONS, info.num_regions);
	EXPECT_EQ(VFIO_PCI_NUM_IRQS, info.num_irqs);
	info.argsz = offsetof(struct vfio_device_info, num_irqs);
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_GET_INFO, &info));
	EXPECT_EQ(EINVAL, errno);

	for (i = 0; i < VFIO_PCI_NUM_REGIONS; i++) {
		EXPECT_EQ(0, pdma_region(self->dev.device, i, &region));
		EXPECT_EQ(i == VFIO_PCI_BAR0_REGION_INDEX ?
				  PDMA_MDEV_BAR_SIZE :
			  i == VFIO_PCI_CONFIG_REGION_INDEX ? 4096 : 0,
			  region.size);
	}
	EXPECT_EQ(-EINVAL, pdma_region(self->dev.device, VFIO_PCI_NUM_REGIONS,
				       &region));
	for (irq.index = 0; irq.index < VFIO_PCI_NUM_IRQS; irq.index++) {
		irq.count = 1;
		EXPECT_EQ(0, ioctl(self->dev.device, VFIO_DEVICE_GET_IRQ_INFO,
				   &irq));
		EXPECT_EQ(0, irq.count);
	}
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_GET_IRQ_INFO, &irq));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
			    &irq));
	EXPECT_EQ(ENOTTY, errno);

	pdma_mdev_path(self->uuid[0], "mdev_type/device_api", path);
	EXPECT_EQ(0, pdma_read_file(path, api, sizeof(api)));
	EXPECT_STREQ(VFIO_DEVICE_API_PCI_STRING, api);
}

/* VFIO_DEVICE_FEATURE_IOASID */

TEST_F(mdev, feature_can_be_probed)
{
	const __u32 probe = VFIO_DEVICE_FEATURE_PROBE;
	const __u32 get = VFIO_DEVICE_FEATURE_GET;
	const __u32 set = VFIO_DEVICE_FEATURE_SET;
	struct pdma_feature feature = {};
	struct vfio_device_feature header = { .argsz = sizeof(header) };

	EXPECT_EQ(0, pdma_feature_ioasid(&self->dev, probe, &feature));
	EXPECT_EQ(0, pdma_feature_ioasid(&self->dev, probe | get, &feature));
	EXPECT_EQ(0, pdma_feature_ioasid(&self->dev, probe | set, &feature));
	EXPECT_EQ(0, pdma_feature_ioasid(&self->dev, probe | get | set,
					 &feature));
	EXPECT_EQ(-EINVAL, pdma_feature_ioasid(&self->dev, get | set,
					       &feature));
	EXPECT_EQ(-EINVAL, pdma_feature_ioasid(&self->dev, 0, &feature));

	/* Only PROBE works without data */
	header.flags = VFIO_DEVICE_FEATURE_IOASID | probe | get | set;
	EXPECT_EQ(0, ioctl(self->dev.device, VFIO_DEVICE_FEATURE, &header));
	header.flags = VFIO_DEVICE_FEATURE_IOASID | get;
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_FEATURE, &header));
	EXPECT_EQ(EINVAL, errno);
	header.flags = VFIO_DEVICE_FEATURE_IOASID | set;
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_FEATURE, &header));
	EXPECT_EQ(EINVAL, errno);
	header.flags = VFIO_DEVICE_FEATURE_BUS_MASTER | probe;
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_FEATURE, &header));
	EXPECT_EQ(ENOTTY, errno);

	/* None of these acted as a SET */
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	test_users(self->id, 1, 1);
}

TEST_F(mdev, set_takes_a_reference_and_an_attachment)
{
	test_users(self->id, 1, 1);
	test_users(self->other, 0, 0);
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
}

TEST_F(mdev, set_of_what_is_not_ours_is_refused_and_changes_nothing)
{
	int file = ioasid_open(), pipefd[2];
	struct pdma_dev second;
	__u32 foreign, gone;

	ASSERT_LE(0, file);
	test_cmd_alloc(file, 0, 0, 1, &foreign);
	test_cmd_alloc(self->ioasid, 0, 0, 1, &gone);
	test_cmd_free(self->ioasid, 1, &gone);
	ASSERT_TRUE(ioasid_wait_recycled(self->ioasid, gone));
	ASSERT_EQ(0, pipe(pipefd));
	start_page_stream(&self->dev);

	/* Bad file descriptors */
	EXPECT_EQ(-EBADF, pdma_set_ioasid(&self->dev, 1000, self->other));
	EXPECT_EQ(-EBADF, pdma_set_ioasid(&self->dev, -2, self->other));
	EXPECT_EQ(-EBADF, pdma_set_ioasid(&self->dev, pipefd[0], self->other));
	EXPECT_EQ(-EBADF, pdma_set_ioasid(&self->dev, self->dev.device,
					  self->other));
	/* Bad IOASIDs */
	EXPECT_EQ(-ENOENT, pdma_set_ioasid(&self->dev, self->ioasid, foreign));
	EXPECT_EQ(-ENOENT, pdma_set_ioasid(&self->dev, file, self->other));
	EXPECT_EQ(-ENOENT, pdma_set_ioasid(&self->dev, self->ioasid, gone));
	EXPECT_EQ(-ENOENT, pdma_set_ioasid(&self->dev, self->ioasid, 0));
	EXPECT_EQ(-ENOENT, pdma_set_ioasid(&self->dev, self->ioasid, 0x100000));
	EXPECT_EQ(-ENOENT, pdma_set_ioasid(&self->dev, self->ioasid,
					   self->other | 0x80000000));
	/* A parked IOASID, kept by the second device */
	open_second(&second, NULL);
	ASSERT_EQ(0, pdma_set_ioasid(&second, file, foreign));
	test_cmd_free(file, 1, &foreign);
	EXPECT_EQ(-ESHUTDOWN, pdma_set_ioasid(&self->dev, file, foreign));
	EXPECT_EQ(-ESHUTDOWN, pdma_set_ioasid(&second, file, foreign));
	EXPECT_EQ(foreign, pdma_get_ioasid(&second));

	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	test_users(self->id, 1, 1);
	test_users(self->other, 0, 0);
	test_streams(&self->dev);
	pdma_close(&second);
}

TEST_F(mdev, bad_pointer_is_refused_and_changes_nothing)
{
	/* The header is directly followed by an unmapped page */
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct vfio_device_feature *header;

	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, munmap(page + PAGE, PAGE));
	header = (void *)(page + PAGE - sizeof(*header));
	header->argsz = sizeof(struct pdma_feature);
	header->flags = VFIO_DEVICE_FEATURE_IOASID | VFIO_DEVICE_FEATURE_SET;
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_FEATURE, header));
	EXPECT_EQ(EFAULT, errno);
	header->flags = VFIO_DEVICE_FEATURE_IOASID | VFIO_DEVICE_FEATURE_GET;
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_FEATURE, header));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-EFAULT, pdma_submit_raw(&self->dev, page + PAGE - 8,
					   PDMA_SUBMIT_SIZE, 0));
	EXPECT_EQ(-1, pread(self->dev.device, page + PAGE - 4, 8,
			    self->dev.status_offset));
	EXPECT_EQ(EFAULT, errno);

	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	test_copies(&self->dev);
}

TEST_F(mdev, one_pasid_has_one_user_on_a_parent)
{
	struct pdma_dev second;

	open_second(&second, NULL);
	EXPECT_EQ(-EBUSY, pdma_set_ioasid(&second, self->ioasid, self->id));
	EXPECT_EQ(0, pdma_get_ioasid(&second));
	test_users(self->id, 1, 1);

	/* The second device keeps its own IOASID and its stream */
	ASSERT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->other));
	ASSERT_EQ(0, pdma_map(&second, self->buf, IOVA, MEM_LEN));
	start_page_stream(&second);
	EXPECT_EQ(-EBUSY, pdma_set_ioasid(&second, self->ioasid, self->id));
	EXPECT_EQ(self->other, pdma_get_ioasid(&second));
	test_users(self->id, 1, 1);
	test_users(self->other, 1, 1);
	test_streams(&second);
	EXPECT_EQ(0, pdma_stop(&second));

	/* The first device is unaffected, and can release the IOASID */
	test_copies(&self->dev);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->id));
	test_users(self->id, 1, 1);
	test_users(self->other, 0, 0);
	pdma_close(&second);
}

TEST_F(mdev, one_pasid_works_on_two_parents)
{
	char parent[NAME_MAX + 1];
	struct pdma_dev second;

	if (pdma_find_parent(1, parent))
		SKIP(return, "only one PASID DMA engine");

	ASSERT_EQ(0, pdma_create(parent, self->uuid[1]));
	ASSERT_EQ(0, variant->open(&second, self->uuid[1], &self->dev));
	ASSERT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->id));
	test_users(self->id, 2, 2);
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_copy_wait(&second, IOVA + PAGE, IOVA + 2 * PAGE,
				    PAGE));
	test_streams(&self->dev);

	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	test_users(self->id, 1, 1);
	test_copies(&second);
	pdma_close(&second);
}

TEST_F(mdev, replaced_pasid_is_free_and_the_new_one_works)
{
	struct pdma_dev second;

	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->other));
	EXPECT_EQ(self->other, pdma_get_ioasid(&self->dev));
	test_users(self->id, 0, 0);
	test_users(self->other, 1, 1);

	/* Replacing the IOASID stopped its stream */
	test_stopped(&self->dev);
	test_copies(&self->dev);

	open_second(&second, NULL);
	EXPECT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->id));
	EXPECT_EQ(0, pdma_refused(&self->dev));
	pdma_close(&second);
}

TEST_F(mdev, set_of_the_same_pasid_changes_nothing)
{
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->id));
	test_users(self->id, 1, 1);
	test_streams(&self->dev);
}

TEST_F(mdev, dropped_pasid_is_free_and_dma_has_ended)
{
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	test_stopped(&self->dev);
	EXPECT_EQ(0, pdma_get_ioasid(&self->dev));
	test_users(self->id, 0, 0);

	EXPECT_EQ(-ENXIO, pdma_copy(&self->dev, IOVA, IOVA, 8));
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->id));
	test_copies(&self->dev);
}

/* Several IOASIDs per device */

/* PASID width of the emulated engine */
#define PASID_BITS	20

#define NR_CH		PDMA_MDEV_CHANNELS

/* The device holds exactly these, in ascending order, and all are attached */
#define test_holds(_dev, ...) ({					\
	const __u32 __ids[] = { __VA_ARGS__ };				\
	struct vfio_device_ioasid __held[ARRAY_SIZE(__ids) + 1];	\
	int __n = pdma_list_ioasids(_dev, 0, ARRAY_SIZE(__held),	\
				    __held);				\
									\
	EXPECT_EQ(ARRAY_SIZE(__ids), __n);				\
	for (int __i = 0; __i < __n; __i++) {				\
		EXPECT_EQ(__ids[__i], __held[__i].id);			\
		EXPECT_EQ(VFIO_DEVICE_IOASID_ATTACHED,			\
			  __held[__i].flags);				\
		EXPECT_EQ(0, __held[__i].__reserved);			\
	}								\
})

/* Get all channels of the device; channel @_nr streams to page @_nr */
#define get_channels(_ch) ({						\
	for (int __i = 0; __i < NR_CH; __i++)				\
		(_ch)[__i] = pdma_channel(&self->dev, __i);		\
})

#define start_channel(_ch, _nr, _pasid) ({				\
	ASSERT_EQ(0, pdma_stream_with(&(_ch)[_nr], _pasid,		\
				      IOVA + (_nr) * PAGE, PAGE, 0, 0)); \
	ASSERT_EQ(0, pdma_wait_counter(&(_ch)[_nr], 20));		\
})

/* The channel keeps sending requests, and the IOMMU refuses them */
#define test_blocked(_ch, _nr) ({					\
	EXPECT_TRUE(is_still(self->buf + (_nr) * PAGE, PAGE));		\
	EXPECT_EQ(0, pdma_wait_refused(&(_ch)[_nr], 20));		\
	EXPECT_TRUE(is_still(self->buf + (_nr) * PAGE, PAGE));		\
})

/* The driver has stopped the channel, before any request was refused */
#define test_channel_stopped(_ch, _nr) ({				\
	EXPECT_TRUE(is_still(self->buf + (_nr) * PAGE, PAGE));		\
	EXPECT_EQ(0, pdma_status(&(_ch)[_nr]) & PDMA_STATUS_BUSY);	\
	EXPECT_EQ(0, pdma_refused(&(_ch)[_nr]));			\
})

TEST_F(mdev, several_ioasids_dma_and_are_blocked_independently)
{
	struct pdma_dev ch[NR_CH];
	__u32 ids[NR_CH];
	int i, k;

	ASSERT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	test_cmd_alloc(self->ioasid, 0, 0, NR_CH, ids);
	get_channels(ch);
	for (i = 0; i < NR_CH; i++) {
		ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid,
					     ids[i]));
		test_users(ids[i], 1, 1);
		start_channel(ch, i, ids[i]);
	}
	for (i = 0; i < NR_CH; i++) {
		test_cmd_free(self->ioasid, 1, &ids[i]);
		for (k = 0; k <= i; k++)
			test_blocked(ch, k);
		EXPECT_EQ(-ESHUTDOWN, pdma_copy_with(&ch[i], ids[i], IOVA,
						     IOVA, 8));
		for (; k < NR_CH; k++) {
			test_streams(&ch[k]);
			EXPECT_EQ(0, pdma_refused(&ch[k]));
		}
	}
	/* The device holds all of them until it drops them, in any order */
	test_set_in_use(self->ioasid, 2, NR_CH);
	EXPECT_EQ(0, pdma_drop_ioasid(&self->dev, ids[2]));
	EXPECT_TRUE(ioasid_wait_recycled(self->ioasid, ids[2]));
	test_holds(&self->dev, ids[0], ids[1], ids[3]);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_TRUE(ioasid_wait_set_unparked(self->ioasid));
}

TEST_F(mdev, one_ioasid_works_on_two_channels)
{
	struct pdma_dev ch[NR_CH];

	get_channels(ch);
	start_channel(ch, 0, self->id);
	start_channel(ch, 2, self->id);
	test_streams(&ch[0]);
	test_users(self->id, 1, 1);

	/* They can be stopped individually */
	EXPECT_EQ(0, pdma_stop(&ch[0]));
	test_streams(&ch[2]);
	start_channel(ch, 0, self->id);
	EXPECT_EQ(-EBUSY, pdma_stream_with(&ch[2], self->id, IOVA, PAGE, 0,
					   0));
	test_cmd_free(self->ioasid, 1, &self->id);
	test_blocked(ch, 0);
	test_blocked(ch, 2);
}

TEST_F(mdev, channel_changes_its_pasid_with_a_command)
{
	struct pdma_dev ch[NR_CH];

	get_channels(ch);
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->other));
	start_channel(ch, 1, self->id);
	EXPECT_EQ(0, pdma_stop(&ch[1]));
	start_channel(ch, 1, self->other);
	/* It no longer depends on the first IOASID */
	EXPECT_EQ(0, pdma_drop_ioasid(&self->dev, self->id));
	test_streams(&ch[1]);
	EXPECT_EQ(0, pdma_refused(&ch[1]));
	test_cmd_free(self->ioasid, 1, &self->other);
	test_blocked(ch, 1);
}

TEST_F(mdev, channels_share_pages_that_they_read_and_write)
{
	const __u64 ro = IOVA + MEM_LEN;
	char *mem = pdma_alloc_buffer(PAGE);
	struct pdma_dev ch[NR_CH];

	ASSERT_NE(NULL, mem);
	ASSERT_EQ(0, pdma_map_prot(&self->dev, mem, ro, PAGE, PDMA_MAP_READ));
	get_channels(ch);
	/* Pages read first and written later, and vice versa */
	EXPECT_EQ(0, pdma_copy_wait(&ch[0], IOVA + PAGE, IOVA, PAGE));
	ASSERT_EQ(0, pdma_stream(&ch[1], IOVA, PAGE, 0, 0));
	ASSERT_EQ(0, pdma_wait_counter(&ch[1], 20));
	EXPECT_EQ(0, pdma_copy_wait(&ch[2], IOVA + 2 * PAGE, IOVA, PAGE));
	EXPECT_EQ(0, pdma_copy_wait(&ch[2], IOVA + 2 * PAGE, ro, PAGE));
	/* Users of a page come and go */
	EXPECT_EQ(0, pdma_stop(&ch[0]));
	EXPECT_EQ(0, pdma_stop(&ch[2]));
	test_streams(&ch[1]);
	EXPECT_EQ(0, pdma_copy_wait(&ch[0], IOVA + PAGE, IOVA, PAGE));
	EXPECT_EQ(-EFAULT, pdma_copy(&ch[2], ro, IOVA, PAGE));
	test_streams(&ch[1]);
	EXPECT_EQ(0, pdma_refused(&ch[1]));
	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	test_channel_stopped(ch, 1);
}

TEST_F(mdev, unmap_stops_only_the_channels_that_use_the_memory)
{
	const __u64 iova = IOVA + MEM_LEN;
	char *mem = pdma_alloc_buffer(2 * PAGE);
	struct pdma_dev ch[NR_CH];

	ASSERT_NE(NULL, mem);
	ASSERT_EQ(0, pdma_map(&self->dev, mem, iova, PAGE));
	ASSERT_EQ(0, pdma_map(&self->dev, mem + PAGE, iova + PAGE, PAGE));
	get_channels(ch);
	start_channel(ch, 0, self->id);
	ASSERT_EQ(0, pdma_stream(&ch[1], iova, PAGE, 0, 0));
	/* Uses the second page, too */
	ASSERT_EQ(0, pdma_stream(&ch[2], iova, 2 * PAGE, 0, 0));
	/* Only reads the second page */
	EXPECT_EQ(0, pdma_copy_wait(&ch[3], IOVA + 3 * PAGE, iova + PAGE,
				    PAGE));

	EXPECT_EQ(0, pdma_unmap(&self->dev, iova + PAGE, PAGE));
	test_streams(&ch[0]);
	test_streams(&ch[1]);
	test_channel_stopped(ch, 2);
	EXPECT_TRUE(is_still(mem + PAGE, PAGE));
	EXPECT_EQ(-EFAULT, pdma_copy(&ch[3], IOVA + 3 * PAGE, iova + PAGE,
				     PAGE));

	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	test_channel_stopped(ch, 0);
	test_streams(&ch[1]);
	EXPECT_EQ(0, pdma_unmap(&self->dev, iova, PAGE));
	EXPECT_TRUE(is_still(mem, PAGE));
	EXPECT_EQ(0, pdma_status(&ch[1]) & PDMA_STATUS_BUSY);
	EXPECT_EQ(0, pdma_refused(&ch[1]));
}

TEST_F(mdev, dropped_ioasid_stops_only_its_channels)
{
	struct pdma_dev ch[NR_CH];
	__u32 third;

	test_cmd_alloc(self->ioasid, 0, 0, 1, &third);
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->other));
	get_channels(ch);
	start_channel(ch, 0, self->id);
	start_channel(ch, 1, self->other);
	start_channel(ch, 2, self->id);

	EXPECT_EQ(0, pdma_drop_ioasid(&self->dev, self->id));
	test_channel_stopped(ch, 0);
	test_channel_stopped(ch, 2);
	test_streams(&ch[1]);
	test_users(self->id, 0, 0);
	EXPECT_EQ(-ENXIO, pdma_copy_with(&ch[0], self->id, IOVA, IOVA, 8));
	EXPECT_EQ(-ENOENT, pdma_drop_ioasid(&self->dev, self->id));

	/* A replace does not stop other channels either */
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->id));
	start_channel(ch, 0, self->id);
	EXPECT_EQ(0, pdma_replace_ioasid(&self->dev, self->ioasid, third,
					 self->id));
	test_channel_stopped(ch, 0);
	test_streams(&ch[1]);
	test_users(self->id, 0, 0);
	test_users(third, 1, 1);
	start_channel(ch, 0, third);
	test_holds(&self->dev, self->other, third);
}

TEST_F(mdev, all_ioasids_are_dropped_at_once)
{
	struct pdma_dev ch[NR_CH];
	__u32 third;

	test_cmd_alloc(self->ioasid, 0, 0, 1, &third);
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->other));
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, third));
	get_channels(ch);
	start_channel(ch, 0, self->id);
	start_channel(ch, 3, self->other);
	test_cmd_free(self->ioasid, 1, &third);

	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	test_channel_stopped(ch, 0);
	test_channel_stopped(ch, 3);
	EXPECT_EQ(0, pdma_list_ioasids(&self->dev, 0, 1, (void *)self->buf));
	test_users(self->id, 0, 0);
	test_users(self->other, 0, 0);
	EXPECT_TRUE(ioasid_wait_recycled(self->ioasid, third));
	/* Dropping nothing is not an error */
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
}

TEST_F(mdev, failed_replace_leaves_the_old_ioasid_working)
{
	struct pdma_dev second;
	__u32 third, parked;

	test_cmd_alloc(self->ioasid, 0, 0, 1, &third);
	test_cmd_alloc(self->ioasid, 0, 0, 1, &parked);
	open_second(&second, NULL);
	ASSERT_EQ(0, pdma_add_ioasid(&second, self->ioasid, third));
	ASSERT_EQ(0, pdma_add_ioasid(&second, self->ioasid, parked));
	test_cmd_free(self->ioasid, 1, &parked);
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->other));
	start_page_stream(&self->dev);

#define BAD_REPLACE(_errno, _fd, _id, _old) ({				\
	EXPECT_EQ(-(_errno), pdma_replace_ioasid(&self->dev, _fd, _id,	\
						 _old));		\
	test_holds(&self->dev, self->id, self->other);			\
	test_streams(&self->dev);					\
})

	BAD_REPLACE(EBUSY, self->ioasid, third, self->id);
	BAD_REPLACE(ESHUTDOWN, self->ioasid, parked, self->id);
	BAD_REPLACE(EEXIST, self->ioasid, self->other, self->id);
	BAD_REPLACE(ENOENT, self->ioasid, 0x100000, self->id);
	BAD_REPLACE(EBADF, -1, self->other, self->id);
	/* The IOASID to be replaced is not held */
	BAD_REPLACE(ENOENT, self->ioasid, self->other, third);
	BAD_REPLACE(ENOENT, self->ioasid, self->other, 0);
	BAD_REPLACE(ENOENT, self->ioasid, third, third);
#undef BAD_REPLACE

	test_users(self->id, 1, 1);
	test_users(self->other, 1, 1);
	test_users(third, 1, 1);
	test_users(parked, 1, 1);
	pdma_close(&second);
}

TEST_F(mdev, parked_ioasid_can_be_replaced_and_dropped)
{
	__u32 third;

	test_cmd_alloc(self->ioasid, 0, 0, 1, &third);
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->other));
	test_cmd_free(self->ioasid, 1, &self->id);
	test_cmd_free(self->ioasid, 1, &self->other);
	/* A parked IOASID cannot be added again, or replace itself */
	EXPECT_EQ(-ESHUTDOWN, pdma_add_ioasid(&self->dev, self->ioasid,
					      self->id));
	EXPECT_EQ(-ESHUTDOWN, pdma_replace_ioasid(&self->dev, self->ioasid,
						  self->id, self->id));
	EXPECT_EQ(0, pdma_replace_ioasid(&self->dev, self->ioasid, third,
					 self->id));
	EXPECT_TRUE(ioasid_wait_recycled(self->ioasid, self->id));
	EXPECT_EQ(0, pdma_drop_ioasid(&self->dev, self->other));
	EXPECT_TRUE(ioasid_wait_recycled(self->ioasid, self->other));
	test_holds(&self->dev, third);
	EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA + PAGE, IOVA, PAGE));
}

TEST_F(mdev, held_ioasid_is_not_added_twice)
{
	start_page_stream(&self->dev);
	EXPECT_EQ(-EEXIST, pdma_add_ioasid(&self->dev, self->ioasid,
					   self->id));
	test_users(self->id, 1, 1);
	test_streams(&self->dev);
}

TEST_F(mdev, bad_request_is_refused_and_changes_nothing)
{
	const __u32 id = self->id, other = self->other;
	const int fd = self->ioasid;
	const struct vfio_device_feature_ioasid add = {
		.flags = VFIO_DEVICE_IOASID_ADD, .fd = fd, .id = other,
	};
	const struct vfio_device_feature_ioasid replace = {
		.flags = VFIO_DEVICE_IOASID_REPLACE, .fd = fd, .id = other,
		.old_id = id,
	};
	const struct vfio_device_feature_ioasid drop = {
		.flags = VFIO_DEVICE_IOASID_DROP, .fd = -1, .id = id,
	};
	const struct vfio_device_feature_ioasid drop_all = {
		.flags = VFIO_DEVICE_IOASID_DROP_ALL, .fd = -1,
	};
	struct pdma_feature feature = {};
	__u32 bit;

#define BAD(_base, _field, _value, _errno) ({				\
	feature.ioasid = _base;						\
	feature.ioasid._field = _value;					\
	EXPECT_EQ(-(_errno),						\
		  pdma_feature_ioasid(&self->dev,			\
				      VFIO_DEVICE_FEATURE_SET,		\
				      &feature)) {			\
		TH_LOG(#_base " with " #_field " " #_value);		\
	}								\
	test_holds(&self->dev, id);					\
})

	start_page_stream(&self->dev);
	for (bit = 1 << 4; bit; bit <<= 1) {
		BAD(add, flags, add.flags | bit, EOPNOTSUPP);
		BAD(drop, flags, bit, EOPNOTSUPP);
	}
	BAD(add, __reserved, 1, EOPNOTSUPP);
	BAD(replace, __reserved, 1ULL << 63, EOPNOTSUPP);
	BAD(drop, __reserved, 1ULL << 32, EOPNOTSUPP);
	BAD(drop_all, __reserved, 1, EOPNOTSUPP);

	/* No operation, and combinations of operations */
	BAD(add, flags, 0, EINVAL);
	BAD(drop_all, flags, 0, EINVAL);
	BAD(add, flags, add.flags | replace.flags, EINVAL);
	BAD(add, flags, add.flags | drop.flags, EINVAL);
	BAD(add, flags, add.flags | drop_all.flags, EINVAL);
	BAD(replace, flags, replace.flags | drop.flags, EINVAL);
	BAD(replace, flags, replace.flags | drop_all.flags, EINVAL);
	BAD(drop, flags, drop.flags | drop_all.flags, EINVAL);
	BAD(drop_all, flags, 15, EINVAL);

	/* Fields that the operation does not use */
	BAD(add, old_id, id, EINVAL);
	BAD(drop, fd, fd, EINVAL);
	BAD(drop, fd, 0, EINVAL);
	BAD(drop, fd, -2, EINVAL);
	BAD(drop, old_id, 1, EINVAL);
	BAD(drop_all, fd, fd, EINVAL);
	BAD(drop_all, fd, 0, EINVAL);
	BAD(drop_all, id, id, EINVAL);
	BAD(drop_all, old_id, id, EINVAL);

	/* Fields that the operation uses */
	BAD(add, fd, -1, EBADF);
	BAD(add, fd, self->dev.device, EBADF);
	BAD(add, id, 0, ENOENT);
	BAD(add, id, 0x100000, ENOENT);
	BAD(drop, id, 0, ENOENT);
	BAD(drop, id, other, ENOENT);
	BAD(drop, id, id | 0x80000000, ENOENT);
#undef BAD

	test_streams(&self->dev);
	test_users(id, 1, 1);
	test_users(other, 0, 0);
	/* The unmodified arguments work */
	feature.ioasid = add;
	EXPECT_EQ(0, pdma_feature_ioasid(&self->dev, VFIO_DEVICE_FEATURE_SET,
					 &feature));
	test_holds(&self->dev, id, other);
	feature.ioasid = drop;
	EXPECT_EQ(0, pdma_feature_ioasid(&self->dev, VFIO_DEVICE_FEATURE_SET,
					 &feature));
	test_holds(&self->dev, other);
}

/* More than the kernel copies in one batch, and not a multiple of it */
#define MANY_IDS 40

static int add_many(struct pdma_dev *dev, int fd, __u32 ids[MANY_IDS])
{
	int i, rc = ioasid_alloc(fd, 0, 0, MANY_IDS, ids);

	for (i = 0; !rc && i < MANY_IDS; i++)
		rc = pdma_add_ioasid(dev, fd, ids[i]);
	return rc;
}

TEST_F(mdev, ioasids_are_listed_in_pages_with_their_state)
{
	struct vfio_device_ioasid entries[MANY_IDS + 8];
	__u32 ids[MANY_IDS], page, start;
	int i, n, rc;

	ASSERT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	ASSERT_EQ(0, add_many(&self->dev, self->ioasid, ids));
	for (i = 0; i < MANY_IDS; i += 3)
		test_cmd_free(self->ioasid, 1, &ids[i]);

	for (page = 1; page <= MANY_IDS + 1; page++) {
		memset(entries, 0xff, sizeof(entries));
		n = 0;
		start = 0;
		do {
			rc = pdma_list_ioasids(&self->dev, start, page,
					       &entries[n]);
			ASSERT_LE(0, rc);
			ASSERT_GE(page, rc);
			n += rc;
			ASSERT_GE(MANY_IDS, n);
			start = rc ? entries[n - 1].id + 1 : 0;
		} while (rc == (int)page);
		ASSERT_EQ(MANY_IDS, n);
		for (i = 0; i < MANY_IDS; i++) {
			EXPECT_EQ(ids[i], entries[i].id);
			EXPECT_EQ(i % 3 ? IOASID_STATE_ACTIVE :
				  IOASID_STATE_PARKED, entries[i].state);
			EXPECT_EQ(VFIO_DEVICE_IOASID_ATTACHED,
				  entries[i].flags);
			EXPECT_EQ(0, entries[i].__reserved);
		}
	}

	/* Start anywhere in the list */
	EXPECT_EQ(MANY_IDS - 7, pdma_list_ioasids(&self->dev, ids[7], MANY_IDS,
						  entries));
	EXPECT_EQ(ids[7], entries[0].id);
	EXPECT_EQ(1, pdma_list_ioasids(&self->dev, ids[MANY_IDS - 1], 2,
				       entries));
	EXPECT_EQ(0, pdma_list_ioasids(&self->dev, ids[MANY_IDS - 1] + 1, 2,
				       entries));
	EXPECT_EQ(0, pdma_list_ioasids(&self->dev, UINT32_MAX, 2, entries));
}

TEST_F(mdev, list_takes_any_count_and_tells_the_width)
{
	struct vfio_device_ioasid *bad = (void *)-(intptr_t)PAGE;
	struct vfio_device_ioasid *entries = (void *)self->buf;
	struct pdma_feature feature = {};
	__u32 ids[MANY_IDS], bit;

	/* An empty result does not touch the array */
	EXPECT_EQ(PASID_BITS, pdma_pasid_bits(&self->dev));
	EXPECT_EQ(0, pdma_list_ioasids(&self->dev, 0, 0, NULL));
	EXPECT_EQ(0, pdma_list_ioasids(&self->dev, 0, 0, bad));
	EXPECT_EQ(0, pdma_list_ioasids(&self->dev, self->id + 1, 1, bad));

	ASSERT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_EQ(0, pdma_list_ioasids(&self->dev, 0, UINT32_MAX, entries));
	ASSERT_EQ(0, add_many(&self->dev, self->ioasid, ids));
	memset(self->buf, 0x5a, MEM_LEN);
	EXPECT_EQ(MANY_IDS, pdma_list_ioasids(&self->dev, 0, UINT32_MAX,
					      entries));
	EXPECT_EQ(ids[0], entries[0].id);
	EXPECT_EQ(ids[MANY_IDS - 1], entries[MANY_IDS - 1].id);
	EXPECT_EQ(0x5a5a5a5a, entries[MANY_IDS].id);

	for (bit = 1; bit; bit <<= 1) {
		feature.list.flags = bit;
		EXPECT_EQ(-EOPNOTSUPP,
			  pdma_feature_ioasid(&self->dev,
					      VFIO_DEVICE_FEATURE_GET,
					      &feature));
	}
}

TEST_F(mdev, list_to_bad_memory_is_efault_and_changes_nothing)
{
	struct vfio_device_ioasid *end, *entries = (void *)self->buf;
	struct pdma_feature feature = {}, *rdonly;
	__u32 ids[MANY_IDS];
	char *page;
	int n;

	ASSERT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	ASSERT_EQ(0, add_many(&self->dev, self->ioasid, ids));
	page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, mprotect(page + PAGE, PAGE, PROT_NONE));
	end = (void *)(page + PAGE);

	/* The last n elements do not fit, which covers each batch */
	for (n = 1; n < MANY_IDS; n++) {
		feature.list = (struct vfio_device_feature_ioasid_list){
			.count = MANY_IDS,
			.entries = (uintptr_t)(end - MANY_IDS + n),
		};
		EXPECT_EQ(-EFAULT,
			  pdma_feature_ioasid(&self->dev,
					      VFIO_DEVICE_FEATURE_GET,
					      &feature));
		EXPECT_EQ(MANY_IDS, feature.list.count);
		EXPECT_EQ(0, feature.list.pasid_bits);
	}
	EXPECT_EQ(MANY_IDS, pdma_list_ioasids(&self->dev, 0, MANY_IDS,
					      end - MANY_IDS));

	/* The struct itself is read-only */
	rdonly = (void *)page;
	*rdonly = (struct pdma_feature){
		.header.argsz = sizeof(*rdonly),
		.header.flags = VFIO_DEVICE_FEATURE_GET |
				VFIO_DEVICE_FEATURE_IOASID,
	};
	ASSERT_EQ(0, mprotect(page, PAGE, PROT_READ));
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_FEATURE, rdonly));
	EXPECT_EQ(EFAULT, errno);

	EXPECT_EQ(MANY_IDS, pdma_list_ioasids(&self->dev, 0, UINT32_MAX,
					      entries));
	for (n = 0; n < MANY_IDS; n++)
		EXPECT_EQ(ids[n], entries[n].id);
	munmap(page, 2 * PAGE);
}

TEST_F(mdev, close_drops_all_ioasids)
{
	struct pdma_dev ch[NR_CH];

	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->other));
	get_channels(ch);
	start_channel(ch, 0, self->id);
	start_channel(ch, 3, self->other);
	pdma_close(&self->dev);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	test_users(self->id, 0, 0);
	test_users(self->other, 0, 0);

	/* The next user inherits nothing, on any channel */
	ASSERT_EQ(0, variant->open(&self->dev, self->uuid[0], NULL));
	get_channels(ch);
	EXPECT_EQ(0, pdma_get_ioasid(&self->dev));
	EXPECT_EQ(0, pdma_done(&ch[0]));
	EXPECT_EQ(0, pdma_done(&ch[3]));
	EXPECT_EQ(-ENXIO, pdma_copy_with(&ch[3], self->other, IOVA, IOVA, 8));
}

TEST_F(mdev, resets_stop_all_channels_and_keep_all_ioasids)
{
	struct pdma_dev ch[NR_CH];
	int i;

	if (!has_reset(self->parent))
		SKIP(return, "the engine has no function level reset");

	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->other));
	get_channels(ch);
	for (i = 0; i < 2; i++) {
		start_channel(ch, 0, self->id);
		start_channel(ch, 2, self->other);
		EXPECT_EQ(0, i ? pci_reset(self->parent) :
				 pdma_reset(&self->dev));
		test_channel_stopped(ch, 0);
		test_channel_stopped(ch, 2);
		test_holds(&self->dev, self->id, self->other);
	}
	/* Park an IOASID between two resets */
	start_channel(ch, 0, self->id);
	start_channel(ch, 2, self->other);
	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_EQ(0, pci_reset(self->parent));
	EXPECT_EQ(-ESHUTDOWN, pdma_copy_with(&ch[0], self->id, IOVA, IOVA, 8));
	start_channel(ch, 0, self->other);
	start_channel(ch, 2, self->other);
}

/* Fail each allocation of a submission once */
struct world {
	FIXTURE_DATA(mdev) *self;
};

static int call_stream(struct world *w)
{
	return pdma_stream(&w->self->dev, IOVA, PDMA_MAX_LEN, 0, 0);
}

static void expect_nothing_pinned(struct __test_metadata *_metadata,
				  struct world *w)
{
	FIXTURE_DATA(mdev) *self = w->self;

	EXPECT_EQ(0, pdma_stop(&self->dev));
	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
}

static void expect_not_submitted(struct __test_metadata *_metadata,
				 struct world *w)
{
	EXPECT_EQ(0, pdma_status(&w->self->dev));
	expect_nothing_pinned(_metadata, w);
}

TEST_F(mdev, submission_without_memory_is_enomem_and_pins_nothing)
{
	bool fails_more = variant->open != pdma_open_group &&
			  iommufd_fails_more();
	struct world w = { .self = self };
	struct sweep sweep = {
		.w = &w,
		.call = call_stream,
		.expect_unchanged = expect_not_submitted,
		.expect_success = expect_nothing_pinned,
		.also = { fails_more ? -EFAULT : 0 },
	};
	const char *why = sweep_open(_metadata, &sweep, "Y");

	if (why)
		SKIP(return, "%s", why);
	sweep_each(_metadata, &sweep, sweep_round);
	test_copies(&self->dev);
}

/* DMA */

TEST_F(mdev, copy_arrives)
{
	static const struct {
		__u32 src;
		__u32 dst;
		__u32 len;
	} copies[] = {
		{ 0, PAGE, 1 },
		{ 0, PAGE, PAGE },
		{ 3, PAGE + 5, 7 },
		{ PAGE - 1, 3 * PAGE - 2, 4 },
		{ 0, 0x20000, PDMA_MAX_LEN },
		/* Touches the maximum number of pages */
		{ 0xfff, 0x20ffe, PDMA_MAX_LEN },
	};
	char *before = malloc(MEM_LEN);
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(copies); i++) {
		for (j = 0; j < MEM_LEN; j++)
			self->buf[j] = j * 7 + (j >> 8) + i;
		memcpy(before, self->buf, MEM_LEN);
		memmove(before + copies[i].dst, before + copies[i].src,
			copies[i].len);

		EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA + copies[i].dst,
					    IOVA + copies[i].src,
					    copies[i].len));
		/* Nothing else has changed */
		EXPECT_EQ(0, memcmp(before, self->buf, MEM_LEN)) {
			TH_LOG("copy %u", i);
		}
	}
	EXPECT_EQ(0, pdma_refused(&self->dev));
	free(before);
}

TEST_F(mdev, copy_within_shared_pages_arrives)
{
	/* Source and destination in one page */
	memset(self->buf, 0x11, PAGE);
	memset(self->buf, 0x22, PAGE / 2);
	EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA + PAGE / 2, IOVA,
				    PAGE / 2));
	EXPECT_EQ(0, memcmp(self->buf, self->buf + PAGE / 2, PAGE / 2));

	/* Identical source and destination */
	EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA, IOVA, PDMA_MAX_LEN));

	/* Source and destination overlap by one page, in either direction */
	memset(self->buf, 0x33, 5 * PAGE);
	memset(self->buf, 0x44, 2 * PAGE);
	EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA, IOVA + 2 * PAGE,
				    2 * PAGE + 8));
	EXPECT_EQ(0x33, self->buf[0]);
	EXPECT_EQ(0, memcmp(self->buf, self->buf + 1, 5 * PAGE - 1));
	memset(self->buf, 0x44, 2 * PAGE);
	EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA + 2 * PAGE, IOVA,
				    2 * PAGE + 8));
	EXPECT_EQ(0, memcmp(self->buf, self->buf + 1, 4 * PAGE + 7));
	EXPECT_EQ(0, pdma_refused(&self->dev));
}

TEST_F(mdev, stream_arrives_until_stopped)
{
	const __u64 slots = PAGE / 8;
	__u64 *mem = (__u64 *)self->buf;
	__u64 n, last;

	ASSERT_EQ(0, pdma_stream(&self->dev, IOVA, PAGE, 10, 100));
	EXPECT_EQ(0, pdma_wait_counter(&self->dev, 3 * slots));
	EXPECT_EQ(PDMA_STATUS_BUSY, pdma_status(&self->dev) & PDMA_STATUS_BUSY);
	EXPECT_EQ(0, pdma_stop(&self->dev));
	test_stopped(&self->dev);

	last = pdma_counter(&self->dev);
	for (n = last - slots + 1; n <= last; n++)
		ASSERT_EQ(n, mem[n % slots]);
	EXPECT_EQ(0, pdma_refused(&self->dev));

	/* Stopping an idle channel is not an error */
	EXPECT_EQ(0, pdma_stop(&self->dev));
}

TEST_F(mdev, second_command_is_refused_while_one_goes_on)
{
	start_page_stream(&self->dev);
	EXPECT_EQ(-EBUSY, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));
	EXPECT_EQ(-EBUSY, pdma_copy(&self->dev, IOVA, IOVA + PAGE, 8));
	test_streams(&self->dev);
	EXPECT_EQ(0, pdma_stop(&self->dev));
	test_copies(&self->dev);
}

TEST_F(mdev, submission_without_pasid_is_refused)
{
	struct pdma_dev second;

	open_second(&second, NULL);
	ASSERT_EQ(0, pdma_map(&second, self->buf, IOVA, MEM_LEN));
	EXPECT_EQ(0, pdma_get_ioasid(&second));
	EXPECT_EQ(-ENXIO, pdma_copy(&second, IOVA, IOVA + PAGE, 8));
	EXPECT_EQ(-ENXIO, pdma_stream(&second, IOVA, PAGE, 0, 0));
	EXPECT_EQ(0, pdma_stop(&second));
	EXPECT_EQ(0, pdma_status(&second));
	EXPECT_EQ(0, pdma_done(&second));
	pdma_close(&second);
}

TEST_F(mdev, submission_with_parked_pasid_is_refused)
{
	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_EQ(-ESHUTDOWN, pdma_copy(&self->dev, IOVA, IOVA + PAGE, 8));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));
	EXPECT_EQ(0, pdma_stop(&self->dev));
	EXPECT_EQ(0, pdma_done(&self->dev));
	EXPECT_EQ(0, pdma_refused(&self->dev));

	/* The device still holds the IOASID, and can replace it */
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	EXPECT_EQ(IOASID_STATE_PARKED, ioasid_state(self->ioasid, self->id));
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->other));
	EXPECT_TRUE(ioasid_wait_recycled(self->ioasid, self->id));
	test_copies(&self->dev);
}

TEST_F(mdev, stream_is_refused_when_its_pasid_is_parked)
{
	start_page_stream(&self->dev);
	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	EXPECT_EQ(0, pdma_wait_refused(&self->dev, 20));
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));

	/* The PASID stays blocked whatever user space does with the device */
	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	test_stopped(&self->dev);
	EXPECT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));
	EXPECT_EQ(0, pdma_reset(&self->dev));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_TRUE(ioasid_wait_recycled(self->ioasid, self->id));
}

/* Submissions */

TEST_F(mdev, bad_submission_is_refused_and_starts_nothing)
{
	const struct pdma_submit copy = {
		.cmd = PDMA_CMD_COPY,
		.src = IOVA,
		.dst = IOVA + PAGE,
		.len = PAGE,
		.pasid = self->id,
	};
	const struct pdma_submit stream = {
		.cmd = PDMA_CMD_STREAM,
		.dst = IOVA,
		.len = PAGE,
		.pasid = self->id,
	};
	const struct pdma_submit stop = { .cmd = PDMA_CMD_STOP };
	/* Above all mapped and reserved addresses */
	const struct pdma_submit high = {
		.cmd = PDMA_CMD_COPY,
		.src = 1ULL << 33,
		.dst = 1ULL << 33,
		.len = PAGE,
		.pasid = self->id,
	};
	const __u64 top = ~0ULL << 12;
	const __u64 msi = 0xfee00000;

#define BAD(_base, _field, _value, _errno) ({				\
	struct pdma_submit __submit = _base;				\
	__submit._field = _value;					\
	EXPECT_EQ(-(_errno), pdma_submit(&self->dev, &__submit)) {	\
		TH_LOG(#_base " with " #_field " " #_value);		\
	}								\
})

	memset(self->buf, 0x5a, MEM_LEN);

	BAD(copy, cmd, 3, EINVAL);
	BAD(copy, cmd, 0x80000001, EINVAL);
	BAD(copy, len, 0, EINVAL);
	BAD(copy, len, PDMA_MAX_LEN + 1, EINVAL);
	BAD(copy, len, 0xffffffff, EINVAL);
	BAD(copy, period, 100, EINVAL);
	BAD(copy, burst, 1, EINVAL);
	BAD(copy, src, top + 1, EINVAL);
	BAD(copy, src, top, EINVAL);
	BAD(copy, dst, ~0ULL, EINVAL);
	BAD(copy, src, IOVA + MEM_LEN, EFAULT);
	BAD(copy, dst, IOVA + MEM_LEN, EFAULT);
	BAD(copy, src, IOVA - PAGE, EFAULT);
	/* The last byte is not mapped */
	BAD(copy, src, IOVA + MEM_LEN - PAGE + 1, EFAULT);
	BAD(copy, dst, IOVA + MEM_LEN - PAGE + 1, EFAULT);
	BAD(copy, dst, 0, EFAULT);
	/* IDs that the device does not hold, and invalid PASIDs */
	BAD(copy, pasid, 0, ENXIO);
	BAD(copy, pasid, self->other, ENXIO);
	BAD(copy, pasid, 0x100000, ENXIO);
	BAD(copy, pasid, self->id | PDMA_PASID_VALID, ENXIO);
	BAD(copy, result, 1, EINVAL);

	BAD(high, len, PAGE, EFAULT);
	BAD(high, len, 0, EINVAL);

	BAD(stream, len, 0, EINVAL);
	BAD(stream, len, PDMA_MAX_LEN + 8, EINVAL);
	BAD(stream, len, 12, EINVAL);
	BAD(stream, dst, IOVA + 4, EINVAL);
	BAD(stream, src, 8, EINVAL);
	BAD(stream, period, 9, EINVAL);
	BAD(stream, period, 1000001, EINVAL);
	BAD(stream, burst, 4097, EINVAL);
	BAD(stream, dst, top + 8, EINVAL);
	BAD(stream, dst, IOVA + MEM_LEN, EFAULT);
	BAD(stream, dst, IOVA + MEM_LEN - 8, EFAULT);
	BAD(stream, pasid, self->other, ENXIO);
	BAD(stream, result, 0x80000000, EINVAL);

	BAD(stop, src, 1, EINVAL);
	BAD(stop, dst, 1, EINVAL);
	BAD(stop, len, 1, EINVAL);
	BAD(stop, period, 1, EINVAL);
	BAD(stop, burst, 1, EINVAL);
	BAD(stop, pasid, self->id, EINVAL);
	BAD(stop, result, 1, EINVAL);

	/* DMA to the MSI window does not reach memory mapped there */
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, msi, PAGE));
	BAD(copy, src, msi, EINVAL);
	BAD(copy, dst, msi, EINVAL);
	BAD(stream, dst, msi, EINVAL);

#undef BAD

	EXPECT_EQ(0, pdma_status(&self->dev));
	EXPECT_EQ(0, pdma_done(&self->dev));
	EXPECT_EQ(0, pdma_refused(&self->dev));
	EXPECT_EQ(0x5a, self->buf[0]);
	EXPECT_EQ(0, memcmp(self->buf, self->buf + 1, MEM_LEN - 1));
	EXPECT_EQ(0, pdma_submit(&self->dev, &copy));
}

TEST_F(mdev, limits_of_a_stream_are_accepted)
{
	static const __u32 limits[][2] = {
		{ 10, 1 }, { 1000000, 1 }, { 0, 4096 }, { 1000000, 4096 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		EXPECT_EQ(0, pdma_stream(&self->dev, IOVA, PDMA_MAX_LEN,
					 limits[i][0], limits[i][1]));
		EXPECT_EQ(limits[i][0] ?: 100,
			  pdma_read32(&self->dev, PDMA_PERIOD));
		EXPECT_EQ(limits[i][1], pdma_read32(&self->dev, PDMA_BURST));
		EXPECT_EQ(0, pdma_stop(&self->dev));
	}
}

TEST_F(mdev, submission_is_one_whole_write)
{
	struct pdma_submit cmd[2] = {
		{
			.cmd = PDMA_CMD_COPY, .src = IOVA, .dst = IOVA,
			.len = 8, .pasid = self->id,
		},
	};
	const __u64 next = 1ULL << 63;

	EXPECT_EQ(-EINVAL, pdma_submit_raw(&self->dev, cmd,
					   PDMA_SUBMIT_SIZE - 1, 0));
	EXPECT_EQ(-EINVAL, pdma_submit_raw(&self->dev, cmd, sizeof(cmd), 0));
	EXPECT_EQ(-EINVAL, pdma_submit_raw(&self->dev, cmd, PDMA_SUBMIT_SIZE,
					   8));
	EXPECT_EQ(-EINVAL, pdma_submit_raw(&self->dev, cmd, PDMA_SUBMIT_SIZE,
					   PDMA_SUBMIT_SIZE));
	/* To a status page, beyond the BAR, to another or no region */
	EXPECT_EQ(-EINVAL, pdma_submit_raw(&self->dev, cmd, PDMA_SUBMIT_SIZE,
					   PDMA_MDEV_STATUS(0)));
	EXPECT_EQ(-EINVAL, pdma_submit_raw(&self->dev, cmd, PDMA_SUBMIT_SIZE,
					   PDMA_MDEV_BAR_SIZE));
	EXPECT_EQ(-EINVAL, pdma_submit_raw(&self->dev, cmd, PDMA_SUBMIT_SIZE,
					   self->dev.config_offset /
					   VFIO_PCI_CONFIG_REGION_INDEX));
	EXPECT_EQ(-EINVAL, pdma_submit_raw(&self->dev, cmd, PDMA_SUBMIT_SIZE,
					   next));
	EXPECT_EQ(0, pdma_done(&self->dev));
	EXPECT_EQ(0, pdma_submit(&self->dev, cmd));
}

TEST_F(mdev, access_that_the_mapping_does_not_allow_is_efault)
{
	const __u64 ro = IOVA + MEM_LEN, wo = ro + PAGE;
	char *mem = pdma_alloc_buffer(2 * PAGE);

	ASSERT_NE(NULL, mem);
	ASSERT_EQ(0, pdma_map_prot(&self->dev, mem, ro, PAGE, PDMA_MAP_READ));
	ASSERT_EQ(0, pdma_map_prot(&self->dev, mem + PAGE, wo, PAGE,
				   PDMA_MAP_WRITE));

	EXPECT_EQ(-EFAULT, pdma_copy(&self->dev, ro, IOVA, 8));
	EXPECT_EQ(-EFAULT, pdma_stream(&self->dev, ro, PAGE, 0, 0));
	EXPECT_EQ(-EFAULT, pdma_copy(&self->dev, ro + 8, ro, 8));
	EXPECT_EQ(-EFAULT, pdma_copy(&self->dev, IOVA, wo, 8));
	EXPECT_EQ(0, pdma_done(&self->dev));

	EXPECT_EQ(0, pdma_copy_wait(&self->dev, wo, ro, PAGE));
	EXPECT_EQ(0, pdma_refused(&self->dev));
}

/* Unmap */

TEST_F(mdev, unmap_of_streaming_memory_stops_dma)
{
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	test_stopped(&self->dev);
	/* It was stopped by the driver, not refused by the IOMMU */
	EXPECT_EQ(0, pdma_refused(&self->dev));
	EXPECT_EQ(-EFAULT, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));

	/* The device is still usable */
	EXPECT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
	test_copies(&self->dev);
}

TEST_F(mdev, unmap_of_everything_stops_dma)
{
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_unmap(&self->dev, 0, 0));
	test_stopped(&self->dev);
	EXPECT_EQ(-EFAULT, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));
}

TEST_F(mdev, unmap_of_other_memory_does_not_stop_dma)
{
	const __u64 below = IOVA - PAGE, above = IOVA + MEM_LEN;
	struct pdma_dev second;
	char *mem = pdma_alloc_buffer(2 * PAGE);

	ASSERT_NE(NULL, mem);
	ASSERT_EQ(0, pdma_map(&self->dev, mem, below, PAGE));
	ASSERT_EQ(0, pdma_map(&self->dev, mem + PAGE, above, PAGE));

	/* Pinned by another device, so that the unmap notifies all devices */
	open_second(&second, &self->dev);
	ASSERT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->other));
	EXPECT_EQ(0, pdma_copy_wait(&second, above, below, PAGE));

	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_unmap(&self->dev, below, PAGE));
	test_streams(&self->dev);
	EXPECT_EQ(0, pdma_stop(&self->dev));

	ASSERT_EQ(0, pdma_map(&self->dev, mem, below, PAGE));
	EXPECT_EQ(0, pdma_copy_wait(&second, above, below, PAGE));
	ASSERT_EQ(0, pdma_stream(&self->dev, above - PAGE, PAGE, 0, 0));
	EXPECT_EQ(0, pdma_unmap(&self->dev, above, PAGE));
	test_streams(&self->dev);
	EXPECT_EQ(0, pdma_refused(&self->dev));
	pdma_close(&second);
}

TEST_F(mdev, unmap_of_one_page_of_a_stream_stops_dma)
{
	/* The stream crosses into a mapping of its own, below or above */
	const __u64 first = IOVA - PAGE, last = IOVA + MEM_LEN;
	const __u64 iova[][2] = { { first, first }, { last - PAGE, last } };
	char *mem = pdma_alloc_buffer(PAGE);
	int i;

	ASSERT_NE(NULL, mem);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pdma_map(&self->dev, mem, iova[i][1], PAGE));
		ASSERT_EQ(0, pdma_stream(&self->dev, iova[i][0], 2 * PAGE,
					 10, 100));
		/* Wait until it has written to both pages */
		ASSERT_EQ(0, pdma_wait_counter(&self->dev, 2 * PAGE / 8));
		EXPECT_EQ(0, pdma_unmap(&self->dev, iova[i][1], PAGE));
		EXPECT_TRUE(is_still(mem, PAGE));
		test_stopped(&self->dev);
		EXPECT_EQ(-EFAULT, pdma_stream(&self->dev, iova[i][0],
					       2 * PAGE, 0, 0));
		test_copies(&self->dev);
	}
	EXPECT_EQ(0, pdma_refused(&self->dev));
}

TEST_F(mdev, unmap_stops_all_devices_that_use_the_memory)
{
	struct pdma_dev second;

	open_second(&second, &self->dev);
	ASSERT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->other));
	start_page_stream(&self->dev);
	start_page_stream(&second);
	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	test_stopped(&self->dev);
	test_stopped(&second);
	pdma_close(&second);
}

TEST_F(mdev, unmap_of_either_side_of_a_copy_succeeds)
{
	const __u64 src = IOVA + MEM_LEN;
	char *mem = pdma_alloc_buffer(PAGE);

	ASSERT_NE(NULL, mem);
	ASSERT_EQ(0, pdma_map(&self->dev, mem, src, PAGE));
	EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA, src, PAGE));
	/* The copy has completed, but the driver has not been notified */
	EXPECT_EQ(0, pdma_unmap(&self->dev, src, PAGE));
	EXPECT_EQ(-EFAULT, pdma_copy(&self->dev, IOVA, src, PAGE));

	ASSERT_EQ(0, pdma_map(&self->dev, mem, src, PAGE));
	EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA, src, PAGE));
	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	EXPECT_EQ(-EFAULT, pdma_copy(&self->dev, IOVA, src, PAGE));
}

/* A command must not leave pages mapped in the PASID's domain */
TEST_F(mdev, remapped_iova_reaches_the_new_memory)
{
	char *mem = pdma_alloc_buffer(PAGE);

	ASSERT_NE(NULL, mem);
	test_copies(&self->dev);
	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	ASSERT_EQ(0, pdma_map(&self->dev, mem, IOVA, PAGE));

	memset(mem, 0x77, PAGE / 2);
	memset(self->buf, 0, MEM_LEN);
	EXPECT_EQ(0, pdma_copy_wait(&self->dev, IOVA + PAGE / 2, IOVA,
				    PAGE / 2));
	EXPECT_EQ(0, memcmp(mem, mem + PAGE / 2, PAGE / 2));
	EXPECT_EQ(0, self->buf[PAGE / 2]);
}

TEST_F(mdev, detached_ioas_stops_dma)
{
	if (!variant->cdev)
		SKIP(return, "a group cannot leave its container when open");

	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_detach_ioas(&self->dev));
	test_stopped(&self->dev);
	EXPECT_EQ(-EFAULT, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));

	/* The PASID does not depend on the IOAS */
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	EXPECT_EQ(0, pdma_attach_ioas(&self->dev, self->dev.ioas_id));
	test_copies(&self->dev);
}

TEST_F(mdev, replaced_ioas_stops_dma)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	if (!variant->cdev)
		SKIP(return, "a group has one container");

	ASSERT_EQ(0, ioctl(self->dev.iommufd, IOMMU_IOAS_ALLOC, &alloc));
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_attach_ioas(&self->dev, alloc.out_ioas_id));
	test_stopped(&self->dev);
	EXPECT_EQ(-EFAULT, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));
}

struct race {
	struct pdma_dev *dev;
	bool end;
	int bad;
	unsigned int rounds;
	unsigned int refused;	/* during a reset of the engine */
};

static void end_race(struct race *race)
{
	__atomic_store_n(&race->end, true, __ATOMIC_RELAXED);
}

static bool race_is_over(struct race *race)
{
	return __atomic_load_n(&race->end, __ATOMIC_RELAXED);
}

/* Count a round of @race's thread */
static void count_round(struct race *race)
{
	__atomic_fetch_add(&race->rounds, 1, __ATOMIC_RELAXED);
}

/* Continue until both sides have reached the minimum time and rounds */
static bool race_goes_on(struct race *race, __u64 start, unsigned int rounds)
{
	__u64 ms = pdma_now_ms() - start;

	return ms < RACE_MS ||
	       (ms < PDMA_TIMEOUT_MS &&
		(rounds < RACE_ROUNDS ||
		 __atomic_load_n(&race->rounds, __ATOMIC_RELAXED) < RACE_ROUNDS));
}

#define test_race(_race, _rounds) ({					\
	EXPECT_LE(RACE_ROUNDS, _rounds);				\
	EXPECT_LE(RACE_ROUNDS, (_race)->rounds);			\
	EXPECT_EQ(0, (_race)->bad);					\
})

static void *submit_until_end(void *arg)
{
	struct race *race = arg;
	int rc;

	while (!race_is_over(race)) {
		rc = pdma_stream(race->dev, IOVA, PDMA_MAX_LEN, 10, 1);
		if (!rc)
			count_round(race);
		else if (rc == -EBUSY)
			pdma_stop(race->dev);
		else if (rc == -EAGAIN)
			race->refused++;
		else if (rc != -EFAULT)
			race->bad = rc;
	}
	return NULL;
}

TEST_F(mdev, unmap_races_with_submission)
{
	struct race race = { .dev = &self->dev };
	__u64 start = pdma_now_ms();
	unsigned int rounds = 0, moved = 0;
	char *before = malloc(MEM_LEN);
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, submit_until_end, &race));
	while (race_goes_on(&race, start, rounds)) {
		usleep(rounds % 7 * 100);
		EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
		memcpy(before, self->buf, MEM_LEN);
		usleep(rounds % 5 * 100);
		moved += !!memcmp(before, self->buf, MEM_LEN);
		ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
		rounds++;
	}
	end_race(&race);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	free(before);

	EXPECT_EQ(0, moved);
	test_race(&race, rounds);
	EXPECT_EQ(0, pdma_refused(&self->dev));
	EXPECT_EQ(0, pdma_stop(&self->dev));
	test_copies(&self->dev);
}

static bool any_goes_on(struct race *race, int n, __u64 start,
			unsigned int rounds)
{
	while (n--) {
		if (race_goes_on(&race[n], start, rounds))
			return true;
	}
	return false;
}

/*
 * The others submit while the first device is notified of the unmap. When the
 * last one has been notified, the first may already be streaming again.
 */
TEST_F(mdev, unmap_ends_while_many_devices_submit)
{
	enum { MANY = 4 };
	char uuid[MANY][PDMA_UUID_LEN + 1];
	struct pdma_dev devs[MANY];
	struct race race[MANY] = {};
	pthread_t threads[MANY];
	unsigned int rounds = 0;
	__u32 ids[MANY];
	__u64 start;
	int i;

	test_cmd_alloc(self->ioasid, 0, 0, MANY, ids);
	for (i = 0; i < MANY; i++) {
		ASSERT_EQ(0, pdma_create(self->parent, uuid[i]));
		ASSERT_EQ(0, variant->open(&devs[i], uuid[i], &self->dev));
		ASSERT_EQ(0, pdma_set_ioasid(&devs[i], self->ioasid, ids[i]));
		race[i].dev = &devs[i];
	}
	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL,
					    submit_until_end, &race[i]));

	start = pdma_now_ms();
	while (any_goes_on(race, MANY, start, rounds)) {
		usleep(rounds % 7 * 100);
		EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
		ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
		rounds++;
	}
	for (i = 0; i < MANY; i++)
		end_race(&race[i]);
	for (i = 0; i < MANY; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		test_race(&race[i], rounds);
		EXPECT_EQ(0, pdma_refused(&devs[i]));
	}
	for (i = 0; i < MANY; i++) {
		pdma_close(&devs[i]);
		EXPECT_EQ(0, pdma_remove(uuid[i]));
	}
}

static void *unmap_until_end(void *arg)
{
	struct race *race = arg;
	const __u64 iova = IOVA + MEM_LEN + PAGE;
	char *mem = pdma_alloc_buffer(PAGE);
	int rc;

	while (!race_is_over(race)) {
		rc = pdma_map(race->dev, mem, iova, PAGE);
		if (!rc)
			rc = pdma_copy(race->dev, iova, iova, PAGE);
		if (!rc)
			rc = pdma_unmap(race->dev, iova, PAGE);
		if (rc)
			race->bad = rc;
		count_round(race);
	}
	return NULL;
}

TEST_F(mdev, two_unmaps_of_pinned_memory_do_not_block_each_other)
{
	struct pdma_dev second;
	struct race race = { .dev = &second };
	__u64 start = pdma_now_ms();
	unsigned int rounds = 0;
	pthread_t thread;

	open_second(&second, &self->dev);
	ASSERT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->other));
	ASSERT_EQ(0, pthread_create(&thread, NULL, unmap_until_end, &race));
	while (race_goes_on(&race, start, rounds)) {
		EXPECT_EQ(0, pdma_copy(&self->dev, IOVA, IOVA, PAGE));
		EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
		ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
		rounds++;
	}
	end_race(&race);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	test_race(&race, rounds);
	pdma_close(&second);
}

static void *set_until_end(void *arg)
{
	struct race *race = arg;
	int fd = ioasid_open(), rc;
	__u32 id;

	while (!race_is_over(race)) {
		rc = ioasid_alloc(fd, 0, 0, 1, &id);
		if (!rc)
			rc = pdma_set_ioasid(race->dev, fd, id);
		if (!rc)
			rc = ioasid_free(fd, 1, &id);
		if (rc)
			race->bad = rc;
		count_round(race);
	}
	close(fd);
	return NULL;
}

TEST_F(mdev, set_and_park_race_with_submission)
{
	struct race race = { .dev = &self->dev };
	__u64 start = pdma_now_ms();
	unsigned int rounds = 0;
	pthread_t thread;
	int rc;

	ASSERT_EQ(0, pthread_create(&thread, NULL, set_until_end, &race));
	while (race_goes_on(&race, start, rounds)) {
		rc = pdma_stream(&self->dev, IOVA, PDMA_MAX_LEN, 10, 1);
		if (rc == -EBUSY)
			rc = pdma_stop(&self->dev);
		/* The IOASID was replaced or parked meanwhile */
		EXPECT_TRUE(!rc || rc == -ENXIO || rc == -ESHUTDOWN) {
			TH_LOG("%d", rc);
		}
		rounds++;
	}
	end_race(&race);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	test_race(&race, rounds);

	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->id));
	test_copies(&self->dev);
}

/* Uses IOASIDs of its own */
static void *change_until_end(void *arg)
{
	struct race *race = arg;
	int fd = ioasid_open(), rc;
	__u32 ids[3];

	while (!race_is_over(race)) {
		rc = ioasid_alloc(fd, 0, 0, 3, ids);
		if (!rc)
			rc = pdma_add_ioasid(race->dev, fd, ids[0]);
		if (!rc)
			rc = pdma_add_ioasid(race->dev, fd, ids[1]);
		if (!rc)
			rc = pdma_replace_ioasid(race->dev, fd, ids[2], ids[0]);
		if (!rc)
			rc = ioasid_free(fd, 3, ids);
		if (!rc)
			rc = pdma_drop_ioasid(race->dev, ids[1]);
		if (!rc)
			rc = pdma_drop_ioasid(race->dev, ids[2]);
		if (rc)
			race->bad = rc;
		count_round(race);
	}
	close(fd);
	return NULL;
}

/* Streams on all channels with whatever the device holds */
static void *use_until_end(void *arg)
{
	struct vfio_device_ioasid held[8];
	struct race *race = arg;
	struct pdma_dev ch;
	int i, n, rc;

	while (!race_is_over(race)) {
		n = pdma_list_ioasids(race->dev, 0, ARRAY_SIZE(held), held);
		for (i = 0; n > 0 && i < PDMA_MDEV_CHANNELS; i++) {
			ch = pdma_channel(race->dev, i);
			rc = pdma_stream_with(&ch, held[i % n].id,
					      IOVA + i * PAGE, 2 * PAGE, 10, 1);
			if (rc == -EBUSY)
				rc = pdma_stop(&ch);
			if (rc && rc != -ENXIO && rc != -ESHUTDOWN &&
			    rc != -EFAULT)
				race->bad = rc;
		}
		if (n < 0)
			race->bad = n;
		count_round(race);
	}
	return NULL;
}

TEST_F(mdev, ioasids_change_while_all_channels_work)
{
	struct race race[3] = {};
	unsigned int rounds = 0;
	pthread_t threads[3];
	__u64 start = pdma_now_ms();
	int i;

	for (i = 0; i < 3; i++) {
		race[i].dev = &self->dev;
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, i ?
					    change_until_end : use_until_end,
					    &race[i]));
	}
	while (any_goes_on(race, 3, start, rounds)) {
		usleep(rounds % 7 * 1000);
		EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
		ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
		rounds++;
	}
	for (i = 0; i < 3; i++)
		end_race(&race[i]);
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		test_race(&race[i], rounds);
	}
	for (i = 0; i < PDMA_MDEV_CHANNELS; i++) {
		struct pdma_dev ch = pdma_channel(&self->dev, i);

		EXPECT_EQ(0, pdma_stop(&ch));
	}
	test_holds(&self->dev, self->id);
	test_copies(&self->dev);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->ioasid));
}

/* Reset and close */

TEST_F(mdev, reset_stops_dma_and_keeps_the_pasid)
{
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pdma_reset(&self->dev));
	test_stopped(&self->dev);
	EXPECT_EQ(0, pdma_counter(&self->dev));
	EXPECT_EQ(0, pdma_done(&self->dev));
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	test_users(self->id, 1, 1);
	test_copies(&self->dev);

	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->dev));
	EXPECT_EQ(0, pdma_reset(&self->dev));
	EXPECT_EQ(0, pdma_get_ioasid(&self->dev));
}

TEST_F(mdev, reset_of_the_engine_stops_dma_and_keeps_the_pasids)
{
	struct pdma_dev second;

	if (!has_reset(self->parent))
		SKIP(return, "the engine has no function level reset");

	/* One device with a PASID, one without */
	open_second(&second, NULL);
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pci_reset(self->parent));
	test_stopped(&self->dev);
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	test_users(self->id, 1, 1);
	test_copies(&self->dev);
	EXPECT_EQ(-ENXIO, pdma_copy(&second, IOVA, IOVA, 8));

	/* A parked PASID stays parked */
	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_EQ(0, pci_reset(self->parent));
	EXPECT_EQ(-ESHUTDOWN, pdma_copy(&self->dev, IOVA, IOVA, 8));
	pdma_close(&second);
}

/* The reset ended the command without telling the driver to unpin */
TEST_F(mdev, memory_of_a_command_that_a_reset_ended_can_be_unmapped)
{
	if (!has_reset(self->parent))
		SKIP(return, "the engine has no function level reset");

	start_page_stream(&self->dev);
	EXPECT_EQ(0, pci_reset(self->parent));
	EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
	test_stopped(&self->dev);
	EXPECT_EQ(-EFAULT, pdma_stream(&self->dev, IOVA, PAGE, 0, 0));
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
	test_copies(&self->dev);

	/* The same with a close */
	start_page_stream(&self->dev);
	EXPECT_EQ(0, pci_reset(self->parent));
	pdma_close(&self->dev);
	test_users(self->id, 0, 0);
}

TEST_F(mdev, reset_of_the_engine_races_with_submission)
{
	struct race race = { .dev = &self->dev };
	unsigned int rounds = 0;
	__u64 start;
	pthread_t thread;

	if (!has_reset(self->parent))
		SKIP(return, "the engine has no function level reset");

	start = pdma_now_ms();
	ASSERT_EQ(0, pthread_create(&thread, NULL, submit_until_end, &race));
	while (race_goes_on(&race, start, rounds)) {
		EXPECT_EQ(0, pci_reset(self->parent));
		usleep(rounds % 5 * 1000);
		EXPECT_EQ(0, pdma_unmap(&self->dev, IOVA, MEM_LEN));
		ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
		rounds++;
	}
	end_race(&race);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	test_race(&race, rounds);
	/* Every command was either rejected or ran on a working engine */
	EXPECT_LT(0, race.refused);
	EXPECT_EQ(0, pdma_stop(&self->dev));
	test_copies(&self->dev);
}

struct stalled_copy {
	struct pdma_dev *dev;
	bool done;
	int ret;
};

static void *copy_from_stalled_page(void *arg)
{
	struct stalled_copy *copy = arg;

	copy->ret = pdma_copy(copy->dev, IOVA + PAGE, IOVA, PAGE);
	__atomic_store_n(&copy->done, true, __ATOMIC_SEQ_CST);
	return NULL;
}

static bool copy_is_done(struct stalled_copy *copy)
{
	return __atomic_load_n(&copy->done, __ATOMIC_SEQ_CST);
}

/*
 * The second device pins memory that user space does not deliver. With iommufd
 * this blocks; type1 fails instead of waiting for the page.
 */
TEST_F(mdev, user_that_waits_for_its_memory_delays_nobody)
{
	char uuid[PDMA_UUID_LEN + 1];
	struct pdma_dev second;
	struct stalled_copy copy = { .dev = &second };
	static struct stall stall;
	pthread_t thread;
	pid_t pid;
	int status, ret;
	char *mem;

	if (!has_reset(self->parent))
		SKIP(return, "the engine has no function level reset");

	ret = stall_prepare(&stall);
	if (stall.uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	ASSERT_EQ(0, ret);
	memset(stall.answer, 0x5a, PAGE);
	mem = pdma_alloc_buffer(PAGE);
	ASSERT_NE(NULL, mem);

	open_second(&second, NULL);
	ASSERT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->other));
	ASSERT_EQ(0, pdma_map(&second, stall.page, IOVA, PAGE));
	ASSERT_EQ(0, pdma_map(&second, mem, IOVA + PAGE, PAGE));
	start_page_stream(&self->dev);
	ASSERT_EQ(0, pthread_create(&thread, NULL, copy_from_stalled_page,
				    &copy));
	ASSERT_TRUE(wait_until(copy_is_done(&copy) || stall_wait(&stall, 0)));
	EXPECT_EQ(variant->pinning_waits, !copy_is_done(&copy));

	/* In another process, as it must not block this one if it hangs */
	pid = run_alone(pci_reset, self->parent);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(wait_until_ms(has_exited(pid, &status), 30000));
	EXPECT_EQ(0, status);
	test_stopped(&self->dev);
	start_page_stream(&self->dev);
	test_streams(&self->dev);
	EXPECT_EQ(0, pdma_stop(&self->dev));
	test_copies(&self->dev);
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));

	EXPECT_EQ(self->available - 2, pdma_available(self->parent));
	EXPECT_EQ(0, pdma_create(self->parent, uuid));
	EXPECT_EQ(self->available - 3, pdma_available(self->parent));
	EXPECT_EQ(0, pdma_remove(uuid));

	/* The blocked command starts only now */
	EXPECT_EQ(variant->pinning_waits, !copy_is_done(&copy));
	ASSERT_EQ(0, stall_answer(&stall));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	if (!variant->pinning_waits) {
		EXPECT_EQ(-EFAULT, copy.ret);
		copy_from_stalled_page(&copy);
	}
	EXPECT_EQ(0, copy.ret);
	EXPECT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(&second));
	EXPECT_EQ(0, memcmp(mem, stall.answer, PAGE));
	EXPECT_EQ(self->other, pdma_get_ioasid(&second));
	EXPECT_EQ(0, pdma_unmap(&second, IOVA, PAGE));
	pdma_close(&second);
}

TEST_F(mdev, close_stops_dma_and_drops_the_pasid)
{
	start_page_stream(&self->dev);
	pdma_close(&self->dev);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	test_users(self->id, 0, 0);
	EXPECT_EQ(IOASID_STATE_ACTIVE, ioasid_state(self->ioasid, self->id));

	/* The next user inherits nothing */
	ASSERT_EQ(0, variant->open(&self->dev, self->uuid[0], NULL));
	EXPECT_EQ(0, pdma_get_ioasid(&self->dev));
	EXPECT_EQ(0, pdma_status(&self->dev));
	EXPECT_EQ(0, pdma_counter(&self->dev));
	EXPECT_EQ(0, pdma_done(&self->dev));
	EXPECT_EQ(0, pdma_read64(&self->dev, PDMA_DST));
	EXPECT_EQ(-ENXIO, pdma_copy(&self->dev, IOVA, IOVA, 8));
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->id));
	test_copies(&self->dev);
}

TEST_F(mdev, mapped_status_page_keeps_the_device_open)
{
	const void *regs = pdma_map_status(&self->dev);

	ASSERT_NE(NULL, regs);
	start_page_stream(&self->dev);
	close(self->dev.device);
	EXPECT_EQ(PDMA_STATUS_BUSY,
		  pdma_mmio32(regs, PDMA_STATUS) & PDMA_STATUS_BUSY);
	test_users(self->id, 1, 1);

	pdma_unmap_status(regs);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	test_users(self->id, 0, 0);
	self->dev.device = -1;
}

TEST_F(mdev, owner_first_close_order_keeps_the_number_for_the_user)
{
	int file = ioasid_open();
	__u32 id;

	ASSERT_LE(0, file);
	start_page_stream(&self->dev);
	close(self->ioasid);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	EXPECT_EQ(self->id, pdma_get_ioasid(&self->dev));
	EXPECT_EQ(-ESHUTDOWN, pdma_copy(&self->dev, IOVA, IOVA, 8));
	test_err_alloc(ENOSPC, file, self->id, self->id, 1, &id);
	test_set_in_use(file, 0, 1);

	pdma_close(&self->dev);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	test_cmd_alloc(file, self->id, self->id, 1, &id);
	test_set_in_use(file, 1, 0);
	close(file);
}

TEST_F(mdev, user_first_close_order_leaves_the_owner_alone)
{
	start_page_stream(&self->dev);
	pdma_close(&self->dev);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	test_set_in_use(self->ioasid, 2, 0);
	test_users(self->id, 0, 0);
	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_TRUE(ioasid_wait_recycled(self->ioasid, self->id));
}

TEST_F(mdev, killed_process_leaves_nothing_behind)
{
	int ready[2], status;
	__u32 id, *shared = (__u32 *)(self->buf + MEM_LEN - PAGE);
	pid_t pid;
	char c;

	pdma_close(&self->dev);
	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = ioasid_open();

		if (!variant->open(&self->dev, self->uuid[0], NULL) &&
		    !ioasid_alloc(fd, 0, 0, 1, shared) &&
		    !pdma_map(&self->dev, self->buf, IOVA, MEM_LEN) &&
		    !pdma_set_ioasid(&self->dev, fd, *shared) &&
		    !pdma_stream(&self->dev, IOVA, PAGE, 10, 10) &&
		    !pdma_wait_counter(&self->dev, 100))
			write(ready[1], "", 1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	EXPECT_EQ(1, read(ready[0], &c, 1));
	EXPECT_FALSE(is_still(self->buf, MEM_LEN));
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(pid, waitpid(pid, &status, 0));

	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	test_cmd_alloc(self->ioasid, *shared, *shared, 1, &id);
	ASSERT_EQ(0, variant->open(&self->dev, self->uuid[0], NULL));
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, id));
	test_copies(&self->dev);
}

TEST_F(mdev, device_passed_by_fork_stays_open)
{
	int status;
	pid_t pid;

	start_page_stream(&self->dev);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		pause();
		_exit(0);
	}
	pdma_close(&self->dev);
	test_users(self->id, 1, 1);
	EXPECT_FALSE(is_still(self->buf, MEM_LEN));

	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	test_users(self->id, 0, 0);
}

/* Removal */

TEST_F(mdev, removal_waits_for_close)
{
	int status;
	pid_t pid;

	start_page_stream(&self->dev);
	pid = run_alone(pdma_remove, self->uuid[0]);
	ASSERT_LE(0, pid);
	pdma_sleep_ms(500);
	EXPECT_FALSE(has_exited(pid, &status));

	/* The device stays fully usable while it is open */
	test_streams(&self->dev);
	EXPECT_EQ(0, pdma_stop(&self->dev));
	test_copies(&self->dev);
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->other));
	start_page_stream(&self->dev);

	pdma_close(&self->dev);
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_FALSE(pdma_mdev_exists(self->uuid[0]));
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	EXPECT_EQ(self->available, pdma_available(self->parent));
	test_users(self->id, 0, 0);
	test_users(self->other, 0, 0);
}

TEST_F(mdev, removed_device_cannot_be_opened_again)
{
	struct pdma_dev second;
	int status;
	pid_t pid;

	pid = run_alone(pdma_remove, self->uuid[0]);
	ASSERT_LE(0, pid);
	pdma_sleep_ms(200);
	EXPECT_NE(0, variant->open(&second, self->uuid[0], NULL));
	EXPECT_FALSE(has_exited(pid, &status));
	pdma_close(&self->dev);
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_NE(0, variant->open(&second, self->uuid[0], NULL));
}

static int unbind_parent(const char *parent)
{
	return pdma_write_file(DRIVER "/unbind", parent);
}

TEST_F(mdev, parent_removal_waits_for_all_devices)
{
	struct pdma_dev second;
	int status;
	pid_t pid;

	open_second(&second, NULL);
	ASSERT_EQ(0, pdma_set_ioasid(&second, self->ioasid, self->other));
	start_page_stream(&self->dev);

	pid = run_alone(unbind_parent, self->parent);
	ASSERT_LE(0, pid);
	pdma_sleep_ms(500);
	EXPECT_FALSE(has_exited(pid, &status));
	test_streams(&self->dev);

	pdma_close(&self->dev);
	pdma_close(&second);
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	EXPECT_FALSE(pdma_mdev_exists(self->uuid[0]));
	EXPECT_FALSE(pdma_mdev_exists(self->uuid[1]));
	EXPECT_NE(self->available, pdma_available(self->parent));
	test_users(self->id, 0, 0);

	/* The parent comes back with all its channels */
	ASSERT_EQ(0, pdma_write_file(DRIVER "/bind", self->parent));
	EXPECT_EQ(self->available, pdma_available(self->parent));
	ASSERT_EQ(0, pdma_create(self->parent, self->uuid[0]));
	ASSERT_EQ(0, variant->open(&self->dev, self->uuid[0], NULL));
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
	EXPECT_EQ(0, pdma_set_ioasid(&self->dev, self->ioasid, self->id));
	test_copies(&self->dev);
}

/* Status */

TEST_F(mdev, status_page_shows_the_same_as_pread)
{
	const void *regs = pdma_map_status(&self->dev);

	ASSERT_NE(NULL, regs);
	test_copies(&self->dev);
	EXPECT_EQ(pdma_done(&self->dev), pdma_mmio64(regs, PDMA_DONE_COUNT));
	EXPECT_EQ(pdma_status(&self->dev), pdma_mmio32(regs, PDMA_STATUS));
	EXPECT_EQ(IOVA + PAGE, pdma_mmio64(regs, PDMA_DST));
	EXPECT_EQ(PAGE, pdma_mmio32(regs, PDMA_LEN));
	pdma_unmap_status(regs);
}

#define ALL_STATUS_PAGES (PDMA_MDEV_CHANNELS * PDMA_PAGE_SIZE)

TEST_F(mdev, each_channel_has_a_status_page)
{
	struct pdma_dev ch[PDMA_MDEV_CHANNELS];
	const char *all;
	const void *regs;
	int i;

	all = mmap(NULL, ALL_STATUS_PAGES, PROT_READ, MAP_SHARED,
		   self->dev.device, self->dev.status_offset);
	ASSERT_NE(MAP_FAILED, all);
	for (i = 0; i < PDMA_MDEV_CHANNELS; i++) {
		ch[i] = pdma_channel(&self->dev, i);
		EXPECT_EQ(0, pdma_copy_wait(&ch[i], IOVA, IOVA + PAGE,
					    8 * (i + 1)));
	}
	for (i = 0; i < PDMA_MDEV_CHANNELS; i++) {
		regs = pdma_map_status(&ch[i]);
		ASSERT_NE(NULL, regs);
		EXPECT_EQ(8 * (i + 1), pdma_read32(&ch[i], PDMA_LEN));
		EXPECT_EQ(8 * (i + 1), pdma_mmio32(regs, PDMA_LEN));
		EXPECT_EQ(8 * (i + 1), pdma_mmio32(all + i * PDMA_PAGE_SIZE,
						   PDMA_LEN));
		pdma_unmap_status(regs);
	}
	munmap((void *)all, ALL_STATUS_PAGES);
}

TEST_F(mdev, only_status_pages_can_be_mapped)
{
	struct pdma_dev *dev = &self->dev;
	const __u64 bar = dev->submit_offset;

#define BAD_MMAP(_errno, _len, _prot, _flags, _offset) ({		\
	EXPECT_EQ(MAP_FAILED, mmap(NULL, _len, _prot, _flags,		\
				   dev->device, _offset));		\
	EXPECT_EQ(_errno, errno);					\
})

	BAD_MMAP(EINVAL, PAGE, PROT_READ, MAP_PRIVATE, dev->status_offset);
	/* Status pages of other devices */
	BAD_MMAP(EINVAL, ALL_STATUS_PAGES + PAGE, PROT_READ, MAP_SHARED,
		 dev->status_offset);
	BAD_MMAP(EINVAL, 2 * PAGE, PROT_READ, MAP_SHARED,
		 dev->status_offset + ALL_STATUS_PAGES - PAGE);
	BAD_MMAP(EINVAL, PAGE, PROT_READ, MAP_SHARED, bar + PDMA_MDEV_BAR_SIZE);
	/* Trapped pages, the whole BAR, ranges outside any page */
	BAD_MMAP(EINVAL, PAGE, PROT_READ, MAP_SHARED, bar);
	BAD_MMAP(EINVAL, PAGE, PROT_READ, MAP_SHARED,
		 dev->status_offset - PAGE);
	BAD_MMAP(EINVAL, 2 * PAGE, PROT_READ, MAP_SHARED,
		 dev->status_offset - PAGE);
	BAD_MMAP(EINVAL, PDMA_MDEV_BAR_SIZE, PROT_READ, MAP_SHARED, bar);
	BAD_MMAP(EINVAL, PAGE, PROT_READ, MAP_SHARED, dev->config_offset);
	BAD_MMAP(EINVAL, PAGE, PROT_READ, MAP_SHARED,
		 dev->config_offset / VFIO_PCI_CONFIG_REGION_INDEX +
		 PDMA_MDEV_STATUS(0));

#undef BAD_MMAP
}

/* A VMM also maps them writable */
TEST_F(mdev, write_to_a_mapped_status_page_does_nothing)
{
	struct pdma_dev *dev = &self->dev;
	volatile __u32 *regs;
	unsigned int i;

	test_copies(dev);
	regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		    dev->device, dev->status_offset);
	ASSERT_NE(MAP_FAILED, regs);
	for (i = 0; i < PAGE / sizeof(*regs); i++)
		if (i != PDMA_CMD / sizeof(*regs))
			regs[i] = 8;
	regs[PDMA_CMD / sizeof(*regs)] = PDMA_CMD_STREAM;
	test_stopped(dev);
	EXPECT_EQ(IOVA + PAGE, pdma_read64(dev, PDMA_DST));
	EXPECT_EQ(PAGE, pdma_read32(dev, PDMA_LEN));
	EXPECT_EQ(100, pdma_read32(dev, PDMA_PERIOD));
	munmap((void *)regs, PAGE);
}

TEST_F(mdev, registers_are_read_one_at_a_time)
{
	struct pdma_dev *dev = &self->dev;
	char data[2 * PAGE];

#define READ(_expect, _len, _offset) ({					\
	ssize_t __n = pread(dev->device, data, _len, _offset);		\
	EXPECT_EQ(_expect, __n < 0 ? -errno : __n) {			\
		TH_LOG("%u at " #_offset, (unsigned int)(_len));	\
	}								\
})

	READ(1, 1, dev->submit_offset);
	READ(2, 2, dev->submit_offset);
	READ(4, 4, dev->submit_offset);
	READ(8, 8, dev->submit_offset);
	READ(8, 8, dev->status_offset + PAGE - 8);
	READ(4, 4, dev->status_offset + ALL_STATUS_PAGES - 4);

	READ(-EINVAL, 0, dev->status_offset);
	READ(-EINVAL, 3, dev->status_offset);
	READ(-EINVAL, 12, dev->status_offset);
	READ(-EINVAL, 16, dev->status_offset);
	READ(-EINVAL, PAGE, dev->status_offset);
	READ(-EINVAL, PDMA_SUBMIT_SIZE, dev->submit_offset);
	READ(-EINVAL, 4, dev->status_offset + ALL_STATUS_PAGES);
	READ(-EINVAL, 4, dev->config_offset - 4);
	READ(-EINVAL, 4, dev->config_offset + 4096);

#undef READ
}

TEST_HARNESS_MAIN

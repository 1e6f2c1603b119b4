// SPDX-License-Identifier: GPL-2.0-only
/*
 * A mediated device of a VM, whose guest programs PASIDs of its own
 *
 * The tests play VMM and guest: the map of the VM is that of KVM, and what a
 * guest writes to the registers of the device is written here. The VM executes
 * nothing. Each test runs for a device that was opened through its group and for
 * one that was opened through its character device.
 */
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "kvm_utils.h"
#include "pdma_utils.h"

#define IOVA		0x40000000ULL
#define PAGE		0x1000
#define BUF_LEN		(PDMA_MDEV_CHANNELS * PAGE)

/* What the guests call their PASIDs */
#define GUEST_PASID	5
#define GUEST_OTHER	6

/* Long compared with the period of a stream */
#define A_WHILE_MS	50

struct machine {
	struct kvm_vm vm;
	int vfio;		/* the KVM device for files of VFIO */
};

/* A device of a machine, and memory that only this device can reach */
struct guest_dev {
	char uuid[PDMA_UUID_LEN + 1];
	struct machine *machine;
	struct pdma_dev ch[PDMA_MDEV_CHANNELS];
	char *buf;
};

#define NR_DEVS 2

FIXTURE(guest)
{
	pid_t pid;
	char parent[NAME_MAX + 1];
	struct machine machine[2];
	struct guest_dev dev[NR_DEVS];
	int ioasid;
	__u32 id;		/* the first machine's GUEST_PASID */
	__u32 other;		/* nobody's */
};

FIXTURE_VARIANT(guest)
{
	bool cdev;
	bool takes_long;
};

FIXTURE_VARIANT_ADD(guest, group)
{
	.cdev = false,
	.takes_long = true,
};

FIXTURE_VARIANT_ADD(guest, cdev)
{
	.cdev = true,
};

static int machine_open(struct machine *machine)
{
	int ret = vm_open(&machine->vm);

	machine->vfio = -1;
	if (ret)
		return ret;
	machine->vm.dev = kvm_ioasid_create(machine->vm.vm);
	if (machine->vm.dev < 0)
		return machine->vm.dev;
	machine->vfio = kvm_vfio_create(machine->vm.vm);
	return machine->vfio < 0 ? machine->vfio : 0;
}

/* Only devices can keep it alive now */
static void machine_close(struct machine *machine)
{
	if (machine->vfio >= 0)
		close(machine->vfio);
	machine->vfio = -1;
	vm_close(&machine->vm);
}

/* A new device on @parent, which belongs to @machine */
static int dev_open(struct guest_dev *dev, const char *parent,
		    struct machine *machine, bool cdev)
{
	int fd, i, ret = 0;

	if (!dev->uuid[0])
		ret = pdma_create(parent, dev->uuid);
	if (ret)
		return ret;
	fd = cdev ? pdma_open_cdev_fd(dev->uuid) :
		    pdma_open_group_fd(dev->uuid);
	if (fd < 0)
		return fd;
	ret = kvm_vfio_add(machine->vfio, fd);
	if (ret)
		return ret;
	dev->machine = machine;
	ret = cdev ? pdma_open_cdev_of(&dev->ch[0], fd, NULL) :
		     pdma_open_group_of(&dev->ch[0], fd, dev->uuid, NULL,
					"/dev/vfio/vfio");
	if (ret)
		return ret;
	for (i = 1; i < PDMA_MDEV_CHANNELS; i++)
		dev->ch[i] = pdma_channel(&dev->ch[0], i);
	dev->buf = pdma_alloc_buffer(BUF_LEN);
	if (!dev->buf)
		return -errno;
	return pdma_map(&dev->ch[0], dev->buf, IOVA, BUF_LEN);
}

/* As a VMM does it: KVM has what was opened, too */
static void dev_close(struct guest_dev *dev)
{
	struct pdma_dev *ch = &dev->ch[0];

	if (dev->machine && dev->machine->vfio >= 0)
		kvm_vfio_del(dev->machine->vfio,
			     ch->group >= 0 ? ch->group : ch->device);
	dev->machine = NULL;
	pdma_close(ch);
}

#define open_dev(_nr, _parent, _machine) \
	ASSERT_EQ(0, dev_open(&self->dev[_nr], _parent, _machine, variant->cdev))

FIXTURE_SETUP(guest)
{
	__u32 ids[2];
	int i, ret;

	self->pid = getpid();
	for (i = 0; i < NR_DEVS; i++)
		pdma_init(&self->dev[i].ch[0]);
	if (variant->takes_long && short_run())
		SKIP(return, LONG_ONLY);
	if (pdma_find_parent(0, self->parent))
		SKIP(return, "no PASID DMA engine");
	for (i = 0; i < 2; i++) {
		ret = machine_open(&self->machine[i]);
		if (ret == -ENOENT)
			SKIP(return, "no KVM");
		ASSERT_EQ(0, ret);
	}
	self->ioasid = ioasid_open();
	ASSERT_LE(0, self->ioasid);
	test_cmd_alloc(self->ioasid, 0, 0, 2, ids);
	self->id = ids[0];
	self->other = ids[1];
	open_dev(0, self->parent, &self->machine[0]);
	test_cmd_map_add(self->machine[0].vm.dev, self->ioasid, self->id,
			 GUEST_PASID);
}

/* In the parent of the test, or in the test itself if an assertion failed */
FIXTURE_TEARDOWN_PARENT(guest)
{
	int i;

	for (i = 0; i < NR_DEVS; i++) {
		if (getpid() == self->pid)
			dev_close(&self->dev[i]);
		if (self->dev[i].uuid[0] &&
		    pdma_mdev_exists(self->dev[i].uuid))
			EXPECT_EQ(0, pdma_remove(self->dev[i].uuid));
	}
}

/* Who holds a number, as debugfs tells it: "mdev=1,kvm=1", "-" */
static bool holders_are(__u32 id, const char *state, const char *holders)
{
	struct ioasid_row row = {};

	return !debugfs_ioasid(id, &row) && !strcmp(state, row.state) &&
	       !strcmp(holders, row.holders);
}

/* KVM lets go a grace period after it was told to */
#define expect_holders(_id, _state, _holders) do {			\
	struct ioasid_row __row = {};					\
									\
	wait_until_ms(holders_are(_id, _state, _holders), 2000);	\
	EXPECT_EQ(0, debugfs_ioasid(_id, &__row));			\
	EXPECT_STREQ(_state, __row.state);				\
	EXPECT_STREQ(_holders, __row.holders);				\
} while (0)

#define expect_attachments(_id, _attachments) do {			\
	struct ioasid_row __row = {};					\
									\
	EXPECT_EQ(0, debugfs_ioasid(_id, &__row));			\
	EXPECT_EQ(_attachments, __row.attachments);			\
} while (0)

#define expect_recycled(_id) \
	EXPECT_TRUE(wait_until(debugfs_ioasid(_id, &(struct ioasid_row){}) == \
			       -ENOENT))

static bool is_still(const void *buf)
{
	char before[BUF_LEN];

	memcpy(before, buf, BUF_LEN);
	pdma_sleep_ms(A_WHILE_MS);
	return !memcmp(before, buf, BUF_LEN);
}

/* Each channel streams into a page of its own */
static __u32 start(struct guest_dev *dev, int nr)
{
	return pdma_execute_stream(&dev->ch[nr], IOVA + nr * PAGE, PAGE);
}

#define expect_streams(_dev, _nr) \
	EXPECT_EQ(0, pdma_wait_counter(&(_dev)->ch[_nr], 20))

#define start_stream(_dev, _nr, _pasid) do {				\
	ASSERT_EQ(PDMA_RESULT_OK, pdma_bind(&(_dev)->ch[_nr], _pasid));	\
	ASSERT_EQ(PDMA_RESULT_OK, start(_dev, _nr));			\
	ASSERT_EQ(0, pdma_wait_counter(&(_dev)->ch[_nr], 20));		\
} while (0)

/* The channel goes on and nothing arrives */
#define expect_blocked(_dev, _nr) do {					\
	EXPECT_TRUE(is_still((_dev)->buf));				\
	EXPECT_EQ(0, pdma_wait_refused(&(_dev)->ch[_nr], 20));		\
	EXPECT_TRUE(is_still((_dev)->buf));				\
} while (0)

#define expect_stopped(_dev, _nr) do {					\
	EXPECT_TRUE(is_still((_dev)->buf));				\
	EXPECT_EQ(0, pdma_status(&(_dev)->ch[_nr]) & PDMA_STATUS_BUSY);	\
} while (0)

/* Lookup */

TEST_F(guest, number_of_the_guest_stands_for_an_ioasid)
{
	struct guest_dev *dev = &self->dev[0];
	struct vfio_device_ioasid held[2];

	expect_holders(self->id, "active", "kvm=1");
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], GUEST_PASID));
	EXPECT_EQ(GUEST_PASID, pdma_get(&dev->ch[0], PDMA_SUBMIT_PASID, 4));
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	expect_attachments(self->id, 1);
	ASSERT_EQ(1, pdma_list_ioasids(&dev->ch[0], 0, 2, held));
	EXPECT_EQ(self->id, held[0].id);

	EXPECT_EQ(PDMA_RESULT_OK, start(dev, 0));
	expect_streams(dev, 0);
	EXPECT_EQ(0, pdma_refused(&dev->ch[0]));
}

TEST_F(guest, program_submits_with_numbers_of_the_guest)
{
	struct guest_dev *dev = &self->dev[0];

	EXPECT_EQ(0, pdma_copy_wait_with(&dev->ch[1], GUEST_PASID, IOVA + PAGE,
					 IOVA, 8));
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	EXPECT_EQ(-ENXIO, pdma_copy_with(&dev->ch[1], GUEST_OTHER, IOVA, IOVA,
					 8));
	expect_holders(self->id, "active", "kvm=1");
}

TEST_F(guest, unknown_number_has_a_result)
{
	const __u32 unknown[] = { GUEST_OTHER, self->id, self->other, 0xfffff,
				  0x100000 | GUEST_PASID, ~0U };
	struct guest_dev *dev = &self->dev[0];
	unsigned int i;

	for (i = 0; i < sizeof(unknown) / sizeof(*unknown); i++) {
		EXPECT_EQ(PDMA_RESULT_NO_PASID,
			  pdma_bind(&dev->ch[0], unknown[i])) {
			TH_LOG("%u", unknown[i]);
		}
		EXPECT_EQ(0, pdma_get(&dev->ch[0], PDMA_SUBMIT_PASID, 4));
		EXPECT_EQ(PDMA_RESULT_NO_PASID, start(dev, 0));
	}
	EXPECT_EQ(0, pdma_get_ioasid(&dev->ch[0]));
	EXPECT_EQ(0, pdma_done(&dev->ch[0]));
	EXPECT_EQ(0, pdma_refused(&dev->ch[0]));
	expect_holders(self->id, "active", "kvm=1");

	/* Nor does the host's number become known when the device holds it */
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[1], GUEST_PASID));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_bind(&dev->ch[0], self->id));
}

TEST_F(guest, machine_without_a_map_knows_no_number)
{
	/* The second machine's device for IOASIDs is there, but has nothing */
	open_dev(1, self->parent, &self->machine[1]);
	EXPECT_EQ(PDMA_RESULT_NO_PASID,
		  pdma_bind(&self->dev[1].ch[0], GUEST_PASID));
	dev_close(&self->dev[1]);

	/* And this one is not there */
	machine_close(&self->machine[1]);
	ASSERT_EQ(0, vm_open(&self->machine[1].vm));
	self->machine[1].vfio = kvm_vfio_create(self->machine[1].vm.vm);
	ASSERT_LE(0, self->machine[1].vfio);
	open_dev(1, self->parent, &self->machine[1]);
	EXPECT_EQ(PDMA_RESULT_NO_PASID,
		  pdma_bind(&self->dev[1].ch[0], GUEST_PASID));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, start(&self->dev[1], 0));
}

TEST_F(guest, parked_number_has_a_result)
{
	struct guest_dev *dev = &self->dev[0];

	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_EQ(PDMA_RESULT_PARKED, pdma_bind(&dev->ch[0], GUEST_PASID));
	EXPECT_EQ(0, pdma_get(&dev->ch[0], PDMA_SUBMIT_PASID, 4));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, start(dev, 0));
	expect_holders(self->id, "parked", "kvm=1");
}

TEST_F(guest, failed_lookup_lets_go_of_the_old_number)
{
	struct guest_dev *dev = &self->dev[0];

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], GUEST_PASID));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_bind(&dev->ch[0], GUEST_OTHER));
	expect_holders(self->id, "active", "kvm=1");
	expect_attachments(self->id, 0);
}

TEST_F(guest, vmm_cannot_give_or_take_ioasids)
{
	struct pdma_dev *dev = &self->dev[0].ch[0];
	const __u32 probe = VFIO_DEVICE_FEATURE_PROBE;
	const __u32 get = VFIO_DEVICE_FEATURE_GET;
	const __u32 set = VFIO_DEVICE_FEATURE_SET;
	struct pdma_feature feature = {};

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(dev, GUEST_PASID));
	EXPECT_EQ(-EOPNOTSUPP, pdma_add_ioasid(dev, self->ioasid, self->other));
	EXPECT_EQ(-EOPNOTSUPP, pdma_replace_ioasid(dev, self->ioasid,
						   self->other, self->id));
	EXPECT_EQ(-EOPNOTSUPP, pdma_drop_ioasid(dev, self->id));
	EXPECT_EQ(-EOPNOTSUPP, pdma_drop_all_ioasids(dev));
	EXPECT_EQ(-EOPNOTSUPP, pdma_feature_ioasid(dev, probe | set, &feature));
	EXPECT_EQ(-EOPNOTSUPP, pdma_feature_ioasid(dev, probe | get | set,
						   &feature));
	EXPECT_EQ(-EOPNOTSUPP, pdma_feature_ioasid(dev, probe, &feature));
	EXPECT_EQ(0, pdma_feature_ioasid(dev, probe | get, &feature));
	EXPECT_EQ(self->id, pdma_get_ioasid(dev));
	expect_holders(self->id, "active", "mdev=1,kvm=1");
}

/* The VM belongs to the mm that created it */
TEST_F(guest, other_process_does_not_reach_the_map)
{
	struct guest_dev *dev = &self->dev[0];
	pid_t pid = fork();
	int status;

	ASSERT_LE(0, pid);
	if (!pid) {
		_exit(pdma_bind(&dev->ch[0], GUEST_PASID) !=
		      PDMA_RESULT_NO_PASID);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	expect_holders(self->id, "active", "kvm=1");
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], GUEST_PASID));
}

TEST_F(guest, device_without_a_machine_is_given_ioasids_again)
{
	struct guest_dev *dev = &self->dev[0];

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], GUEST_PASID));
	dev_close(dev);
	ASSERT_EQ(0, pdma_open_group(&dev->ch[0], dev->uuid, NULL));
	EXPECT_EQ(0, pdma_get_ioasid(&dev->ch[0]));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_bind(&dev->ch[0], GUEST_PASID));
	EXPECT_EQ(0, pdma_add_ioasid(&dev->ch[0], self->ioasid, self->other));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], self->other));
}

/* Several channels, devices and machines */

TEST_F(guest, channels_share_what_the_device_holds)
{
	struct guest_dev *dev = &self->dev[0];
	int i;

	for (i = 0; i < PDMA_MDEV_CHANNELS; i++)
		start_stream(dev, i, GUEST_PASID);
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	expect_attachments(self->id, 1);

	for (i = 0; i < PDMA_MDEV_CHANNELS - 1; i++) {
		EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[i], 0));
		EXPECT_EQ(0, pdma_status(&dev->ch[i]) & PDMA_STATUS_BUSY);
		expect_holders(self->id, "active", "mdev=1,kvm=1");
		expect_streams(dev, PDMA_MDEV_CHANNELS - 1);
	}
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[i], 0));
	expect_holders(self->id, "active", "kvm=1");
	expect_attachments(self->id, 0);
	expect_stopped(dev, i);
}

TEST_F(guest, two_numbers_of_the_guest_may_stand_for_one_ioasid)
{
	struct guest_dev *dev = &self->dev[0];

	test_cmd_map_add(self->machine[0].vm.dev, self->ioasid, self->id,
			 GUEST_OTHER);
	start_stream(dev, 0, GUEST_PASID);
	start_stream(dev, 1, GUEST_OTHER);
	expect_holders(self->id, "active", "mdev=1,kvm=2");
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], 0));
	expect_streams(dev, 1);
	expect_holders(self->id, "active", "mdev=1,kvm=2");
}

TEST_F(guest, channels_have_different_numbers)
{
	struct guest_dev *dev = &self->dev[0];

	test_cmd_map_add(self->machine[0].vm.dev, self->ioasid, self->other,
			 GUEST_OTHER);
	start_stream(dev, 0, GUEST_PASID);
	start_stream(dev, 1, GUEST_OTHER);
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_streams(dev, 1);
	EXPECT_EQ(0, pdma_wait_refused(&dev->ch[0], 20));

	/* One takes the number of the other */
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], 0));
	expect_holders(self->id, "parked", "kvm=1");
	start_stream(dev, 0, GUEST_OTHER);
	expect_holders(self->other, "active", "mdev=1,kvm=1");
}

TEST_F(guest, device_of_another_engine_takes_the_same_number)
{
	struct guest_dev *dev = self->dev;
	char parent[NAME_MAX + 1];

	if (pdma_find_parent(1, parent))
		SKIP(return, "there is one engine only");
	open_dev(1, parent, &self->machine[0]);
	start_stream(&dev[0], 0, GUEST_PASID);
	start_stream(&dev[1], 0, GUEST_PASID);
	expect_holders(self->id, "active", "mdev=2,kvm=1");
	expect_attachments(self->id, 2);

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev[0].ch[0], 0));
	expect_streams(&dev[1], 0);
	EXPECT_TRUE(is_still(dev[0].buf));
	start_stream(&dev[0], 0, GUEST_PASID);
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_blocked(&dev[0], 0);
	expect_blocked(&dev[1], 0);
	expect_holders(self->id, "parked", "mdev=2,kvm=1");
}

/* The engine has one PASID table, and a device one domain */
TEST_F(guest, device_of_the_same_engine_does_not)
{
	struct guest_dev *dev = self->dev;

	open_dev(1, self->parent, &self->machine[0]);
	start_stream(&dev[0], 0, GUEST_PASID);
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_bind(&dev[1].ch[0], GUEST_PASID));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, start(&dev[1], 0));
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	expect_streams(&dev[0], 0);

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev[0].ch[0], 0));
	start_stream(&dev[1], 0, GUEST_PASID);
}

TEST_F(guest, number_that_cannot_be_had_now_does_not_cost_the_old_one)
{
	struct guest_dev *dev = self->dev;

	test_cmd_map_add(self->machine[0].vm.dev, self->ioasid, self->other,
			 GUEST_OTHER);
	open_dev(1, self->parent, &self->machine[0]);
	ASSERT_EQ(PDMA_RESULT_OK, pdma_bind(&dev[0].ch[0], GUEST_PASID));
	ASSERT_EQ(PDMA_RESULT_OK, pdma_bind(&dev[1].ch[0], GUEST_OTHER));
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_bind(&dev[1].ch[0], GUEST_PASID));
	EXPECT_EQ(GUEST_OTHER, pdma_get(&dev[1].ch[0], PDMA_SUBMIT_PASID, 4));
	expect_holders(self->other, "active", "mdev=1,kvm=1");
	EXPECT_EQ(PDMA_RESULT_OK, start(&dev[1], 0));
	expect_streams(&dev[1], 0);
}

TEST_F(guest, machines_with_the_same_number_do_not_meet)
{
	struct guest_dev *dev = self->dev;

	open_dev(1, self->parent, &self->machine[1]);
	test_cmd_map_add(self->machine[1].vm.dev, self->ioasid, self->other,
			 GUEST_PASID);
	start_stream(&dev[0], 0, GUEST_PASID);
	EXPECT_TRUE(is_still(dev[1].buf));
	start_stream(&dev[1], 0, GUEST_PASID);
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	expect_holders(self->other, "active", "mdev=1,kvm=1");

	test_cmd_free(self->ioasid, 1, &self->id);
	expect_blocked(&dev[0], 0);
	expect_streams(&dev[1], 0);
	EXPECT_EQ(0, pdma_refused(&dev[1].ch[0]));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev[0].ch[0], 0));
	expect_streams(&dev[1], 0);
	dev_close(&dev[1]);
	EXPECT_TRUE(is_still(dev[1].buf));
}

/* Letting go */

TEST_F(guest, pasid_0_lets_go_and_the_number_is_recycled)
{
	struct guest_dev *dev = &self->dev[0];

	start_stream(dev, 0, GUEST_PASID);
	test_cmd_free(self->ioasid, 1, &self->id);
	test_cmd_map_del(self->machine[0].vm.dev, GUEST_PASID);
	expect_holders(self->id, "parked", "mdev=1");
	expect_taken(self->ioasid, self->id);
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], 0));
	expect_recycled(self->id);
	expect_free(self->ioasid, self->id);
	expect_stopped(dev, 0);
}

TEST_F(guest, free_blocks_a_stream_and_parks)
{
	struct guest_dev *dev = &self->dev[0];

	start_stream(dev, 0, GUEST_PASID);
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_blocked(dev, 0);
	expect_holders(self->id, "parked", "mdev=1,kvm=1");
	expect_taken(self->ioasid, self->id);

	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_bind(&dev->ch[0], GUEST_PASID));
	EXPECT_EQ(PDMA_RESULT_PARKED, start(dev, 0));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_execute(&dev->ch[0], PDMA_CMD_STOP));
	EXPECT_EQ(PDMA_RESULT_PARKED, start(dev, 0));
	EXPECT_EQ(GUEST_PASID, pdma_get(&dev->ch[0], PDMA_SUBMIT_PASID, 4));
	EXPECT_EQ(PDMA_RESULT_PARKED, pdma_bind(&dev->ch[0], GUEST_PASID));
	EXPECT_EQ(0, pdma_get(&dev->ch[0], PDMA_SUBMIT_PASID, 4));
	expect_holders(self->id, "parked", "kvm=1");
	test_cmd_map_del(self->machine[0].vm.dev, GUEST_PASID);
	expect_recycled(self->id);
}

TEST_F(guest, busy_channel_keeps_its_number)
{
	struct guest_dev *dev = &self->dev[0];

	test_cmd_map_add(self->machine[0].vm.dev, self->ioasid, self->other,
			 GUEST_OTHER);
	start_stream(dev, 0, GUEST_PASID);
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_bind(&dev->ch[0], GUEST_OTHER));
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_bind(&dev->ch[0], 0xfffff));
	EXPECT_EQ(GUEST_PASID, pdma_get(&dev->ch[0], PDMA_SUBMIT_PASID, 4));
	expect_holders(self->other, "active", "kvm=1");
	expect_streams(dev, 0);
}

TEST_F(guest, reset_lets_go_of_all_numbers)
{
	struct guest_dev *dev = &self->dev[0];
	__u16 flr = PCI_EXP_DEVCTL_BCR_FLR;
	__u8 exp = 0;
	int i;

	test_cmd_map_add(self->machine[0].vm.dev, self->ioasid, self->other,
			 GUEST_OTHER);
	EXPECT_EQ(0, pdma_config_read(&dev->ch[0], PCI_CAPABILITY_LIST, &exp,
				      1));
	for (i = 0; i < 2; i++) {
		start_stream(dev, 0, GUEST_PASID);
		start_stream(dev, 1, GUEST_OTHER);
		EXPECT_EQ(0, i ? ioctl(dev->ch[0].device, VFIO_DEVICE_RESET) :
				 pdma_config_write(&dev->ch[0], exp +
						   PCI_EXP_DEVCTL, &flr,
						   sizeof(flr)));
		expect_stopped(dev, 0);
		expect_stopped(dev, 1);
		expect_holders(self->id, "active", "kvm=1");
		expect_holders(self->other, "active", "kvm=1");
		ASSERT_EQ(0, pdma_set_master(&dev->ch[0], true));
		EXPECT_EQ(PDMA_RESULT_NO_PASID, start(dev, 0));
	}
}

TEST_F(guest, bus_master_off_stops_and_keeps_the_number)
{
	struct guest_dev *dev = &self->dev[0];

	start_stream(dev, 0, GUEST_PASID);
	ASSERT_EQ(0, pdma_set_master(&dev->ch[0], false));
	expect_stopped(dev, 0);
	EXPECT_EQ(PDMA_RESULT_NOT_MASTER, start(dev, 0));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], GUEST_PASID));
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	ASSERT_EQ(0, pdma_set_master(&dev->ch[0], true));
	EXPECT_EQ(PDMA_RESULT_OK, start(dev, 0));
	expect_streams(dev, 0);
}

TEST_F(guest, unmap_stops_and_keeps_the_number)
{
	struct guest_dev *dev = &self->dev[0];

	start_stream(dev, 0, GUEST_PASID);
	ASSERT_EQ(0, pdma_unmap(&dev->ch[0], IOVA, BUF_LEN));
	expect_stopped(dev, 0);
	EXPECT_EQ(PDMA_RESULT_FAULT, start(dev, 0));
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	ASSERT_EQ(0, pdma_map(&dev->ch[0], dev->buf, IOVA, BUF_LEN));
	EXPECT_EQ(PDMA_RESULT_OK, start(dev, 0));
	expect_streams(dev, 0);
}

/* How many messages there were with @text since kmsg_open() */
static int kmsg_count(int fd, const char *text)
{
	char msg[8192];
	int count = 0;

	while (kmsg_next(fd, msg, sizeof(msg)) > 0)
		count += !!strstr(msg, text);
	return count;
}

/*
 * The guest can cause as many failures as it likes, but not as many messages. Up to
 * ten of them are printed in five seconds, by type1 only.
 */
TEST_F(guest, failures_to_pin_do_not_flood_the_log)
{
	struct guest_dev *dev = &self->dev[0];
	struct rlimit none = {};
	__u64 start_ms;
	int i, kmsg, count, most;

	/* Whether the limit applies is decided when the memory is mapped */
	ASSERT_EQ(0, pdma_unmap(&dev->ch[0], IOVA, BUF_LEN));
	kmsg = kmsg_open();
	ASSERT_LE(0, kmsg);
	ASSERT_EQ(0, drop_capability(CAP_IPC_LOCK));
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &none));
	ASSERT_EQ(0, pdma_map(&dev->ch[0], dev->buf, IOVA, BUF_LEN));
	ASSERT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], GUEST_PASID));
	start_ms = pdma_now_ms();
	for (i = 0; i < 200; i++)
		EXPECT_EQ(PDMA_RESULT_NO_MEMORY, start(dev, 0));
	most = 10 * ((pdma_now_ms() - start_ms) / 5000 + 2);
	count = kmsg_count(kmsg, "RLIMIT_MEMLOCK");
	EXPECT_GE(most, count);
	EXPECT_EQ(!variant->cdev, !!count);
	close(kmsg);
}

/* Who is first: the other two hold it, and the last one recycles it */

TEST_F(guest, map_is_deleted_first)
{
	struct guest_dev *dev = &self->dev[0];

	start_stream(dev, 0, GUEST_PASID);
	test_cmd_map_del(self->machine[0].vm.dev, GUEST_PASID);
	expect_holders(self->id, "active", "mdev=1");
	expect_streams(dev, 0);
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_bind(&dev->ch[1], GUEST_PASID));

	/* What the number stands for now is nothing to the first channel */
	test_cmd_map_add(self->machine[0].vm.dev, self->ioasid, self->other,
			 GUEST_PASID);
	start_stream(dev, 1, GUEST_PASID);
	expect_holders(self->other, "active", "mdev=1,kvm=1");
	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_EQ(0, pdma_wait_refused(&dev->ch[0], 20));
	expect_streams(dev, 1);
	expect_holders(self->id, "parked", "mdev=1");

	/* Written again, it is looked up again */
	EXPECT_EQ(PDMA_RESULT_OK, pdma_execute(&dev->ch[0], PDMA_CMD_STOP));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], GUEST_PASID));
	expect_recycled(self->id);
	EXPECT_EQ(PDMA_RESULT_OK, start(dev, 0));
	expect_streams(dev, 0);
}

TEST_F(guest, device_is_closed_first)
{
	struct guest_dev *dev = &self->dev[0];

	start_stream(dev, 0, GUEST_PASID);
	dev_close(dev);
	EXPECT_TRUE(is_still(dev->buf));
	expect_holders(self->id, "active", "kvm=1");
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_holders(self->id, "parked", "kvm=1");
	machine_close(&self->machine[0]);
	expect_recycled(self->id);
}

TEST_F(guest, file_is_closed_first)
{
	struct guest_dev *dev = &self->dev[0];
	int file = ioasid_open();

	ASSERT_LE(0, file);
	start_stream(dev, 0, GUEST_PASID);
	close(self->ioasid);
	expect_blocked(dev, 0);
	expect_holders(self->id, "parked", "mdev=1,kvm=1");
	expect_taken(file, self->id);
	EXPECT_EQ(PDMA_RESULT_PARKED, pdma_bind(&dev->ch[1], GUEST_PASID));
	test_cmd_map_del(self->machine[0].vm.dev, GUEST_PASID);
	expect_holders(self->id, "parked", "mdev=1");
	expect_taken(file, self->id);
	dev_close(dev);
	expect_recycled(self->id);
	EXPECT_TRUE(is_still(dev->buf));
}

/* As long as the device is open, the VM and its map are there */
TEST_F(guest, machine_is_destroyed_first)
{
	struct guest_dev *dev = &self->dev[0];

	start_stream(dev, 0, GUEST_PASID);
	machine_close(&self->machine[0]);
	expect_streams(dev, 0);
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	start_stream(dev, 1, GUEST_PASID);
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_blocked(dev, 0);
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], 0));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[1], 0));
	expect_holders(self->id, "parked", "kvm=1");
	EXPECT_EQ(PDMA_RESULT_PARKED, pdma_bind(&dev->ch[0], GUEST_PASID));
	dev_close(dev);
	expect_recycled(self->id);
}

TEST_HARNESS_MAIN

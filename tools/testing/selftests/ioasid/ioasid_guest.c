// SPDX-License-Identifier: GPL-2.0-only
/*
 * A mediated device as a VMM and its guest access it
 *
 * The tests play both roles. In "guest" tests, the device belongs to a VM whose
 * guest uses PASIDs of its own. KVM holds the mapping, and the test writes to
 * the device registers what the guest would write; the VM executes no code.
 * Each test runs for a device opened through its group and for a device opened
 * through its character device.
 *
 * "pci" tests cover configuration space and BAR 0 of a device without a VM. The
 * behaviour of all accesses is defined: none may fail, whatever a guest does.
 */
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ioasid_fixture.h"

#define PAGE		0x1000
#define MEM_LEN		(PDMA_MDEV_CHANNELS * PAGE)
#define CONFIG_LEN	0x1000

/* PASIDs used by the guests */
#define GUEST_PASID	5
#define GUEST_OTHER	6

struct machine {
	struct kvm_vm vm;
	int vfio;		/* KVM device for VFIO files */
};

/* A device assigned to a machine, and memory mapped for this device only */
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
	__u32 id;		/* GUEST_PASID of machine[0] */
	__u32 other;		/* not mapped */
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

/* After this, only a device can keep the VM alive */
static void machine_close(struct machine *machine)
{
	if (machine->vfio >= 0)
		close(machine->vfio);
	machine->vfio = -1;
	vm_close(&machine->vm);
}

/* Create a device on @parent and assign it to @machine */
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
	dev->buf = pdma_alloc_buffer(MEM_LEN);
	if (!dev->buf)
		return -errno;
	return pdma_map(&dev->ch[0], dev->buf, IOVA, MEM_LEN);
}

/* Like a VMM: KVM must drop its reference to the file, too */
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
	skip_for(setup_parent(self->parent));
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

/* In the parent of the test, or in the test itself after a failed assertion */
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

/* Compare with the holders in debugfs: "mdev=1,kvm=1", or "-" if none */
static bool holders_are(__u32 id, const char *state, const char *holders)
{
	struct ioasid_row row = {};

	return !debugfs_ioasid(id, &row) && !strcmp(state, row.state) &&
	       !strcmp(holders, row.holders);
}

/* KVM drops its references after a grace period */
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

/* Each channel streams to a page of its own */
static __u32 start(struct guest_dev *dev, int nr)
{
	return pdma_execute_stream(&dev->ch[nr], IOVA + nr * PAGE, PAGE);
}

#define expect_streams(_dev, _nr) \
	EXPECT_EQ(0, pdma_wait_counter(&(_dev)->ch[_nr], 20))

#define start_guest(_dev, _nr, _pasid) do {				\
	ASSERT_EQ(PDMA_RESULT_OK, pdma_bind(&(_dev)->ch[_nr], _pasid));	\
	ASSERT_EQ(PDMA_RESULT_OK, start(_dev, _nr));			\
	ASSERT_EQ(0, pdma_wait_counter(&(_dev)->ch[_nr], 20));		\
} while (0)

/* The channel is running and its requests are refused */
#define expect_refused(_dev, _nr) do {					\
	EXPECT_TRUE(is_still((_dev)->buf, MEM_LEN));				\
	EXPECT_EQ(0, pdma_wait_refused(&(_dev)->ch[_nr], 20));		\
	EXPECT_TRUE(is_still((_dev)->buf, MEM_LEN));				\
} while (0)

#define expect_stopped(_dev, _nr) do {					\
	EXPECT_TRUE(is_still((_dev)->buf, MEM_LEN));				\
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

TEST_F(guest, unknown_number_is_refused_with_a_result)
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

	/* The host's number stays unknown even when the device holds it */
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[1], GUEST_PASID));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_bind(&dev->ch[0], self->id));
}

TEST_F(guest, machine_without_a_map_knows_no_number)
{
	/* The second VM has a KVM device for IOASIDs, but no mappings */
	open_dev(1, self->parent, &self->machine[1]);
	EXPECT_EQ(PDMA_RESULT_NO_PASID,
		  pdma_bind(&self->dev[1].ch[0], GUEST_PASID));
	dev_close(&self->dev[1]);

	/* Now the VM does not have this device */
	machine_close(&self->machine[1]);
	ASSERT_EQ(0, vm_open(&self->machine[1].vm));
	self->machine[1].vfio = kvm_vfio_create(self->machine[1].vm.vm);
	ASSERT_LE(0, self->machine[1].vfio);
	open_dev(1, self->parent, &self->machine[1]);
	EXPECT_EQ(PDMA_RESULT_NO_PASID,
		  pdma_bind(&self->dev[1].ch[0], GUEST_PASID));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, start(&self->dev[1], 0));
}

TEST_F(guest, parked_number_is_refused_with_a_result)
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

/* A VM belongs to the mm that created it */
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

/* Multiple channels, devices and machines */

TEST_F(guest, channels_share_what_the_device_holds)
{
	struct guest_dev *dev = &self->dev[0];
	int i;

	for (i = 0; i < PDMA_MDEV_CHANNELS; i++)
		start_guest(dev, i, GUEST_PASID);
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
	start_guest(dev, 0, GUEST_PASID);
	start_guest(dev, 1, GUEST_OTHER);
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
	start_guest(dev, 0, GUEST_PASID);
	start_guest(dev, 1, GUEST_OTHER);
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_streams(dev, 1);
	EXPECT_EQ(0, pdma_wait_refused(&dev->ch[0], 20));

	/* Channel 0 switches to the PASID of channel 1 */
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], 0));
	expect_holders(self->id, "parked", "kvm=1");
	start_guest(dev, 0, GUEST_OTHER);
	expect_holders(self->other, "active", "mdev=1,kvm=1");
}

TEST_F(guest, device_of_another_engine_takes_the_same_number)
{
	struct guest_dev *dev = self->dev;
	char parent[NAME_MAX + 1];

	if (pdma_find_parent(1, parent))
		SKIP(return, "only one engine");
	open_dev(1, parent, &self->machine[0]);
	start_guest(&dev[0], 0, GUEST_PASID);
	start_guest(&dev[1], 0, GUEST_PASID);
	expect_holders(self->id, "active", "mdev=2,kvm=1");
	expect_attachments(self->id, 2);

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev[0].ch[0], 0));
	expect_streams(&dev[1], 0);
	EXPECT_TRUE(is_still(dev[0].buf, MEM_LEN));
	start_guest(&dev[0], 0, GUEST_PASID);
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_refused(&dev[0], 0);
	expect_refused(&dev[1], 0);
	expect_holders(self->id, "parked", "mdev=2,kvm=1");
}

/* All devices of an engine share a PASID table, but each has its own domain */
TEST_F(guest, device_of_the_same_engine_cannot_take_the_same_number)
{
	struct guest_dev *dev = self->dev;

	open_dev(1, self->parent, &self->machine[0]);
	start_guest(&dev[0], 0, GUEST_PASID);
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_bind(&dev[1].ch[0], GUEST_PASID));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, start(&dev[1], 0));
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	expect_streams(&dev[0], 0);

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev[0].ch[0], 0));
	start_guest(&dev[1], 0, GUEST_PASID);
}

TEST_F(guest, busy_number_does_not_replace_the_old_one)
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

TEST_F(guest, same_number_in_two_machines_is_two_ioasids)
{
	struct guest_dev *dev = self->dev;

	open_dev(1, self->parent, &self->machine[1]);
	test_cmd_map_add(self->machine[1].vm.dev, self->ioasid, self->other,
			 GUEST_PASID);
	start_guest(&dev[0], 0, GUEST_PASID);
	EXPECT_TRUE(is_still(dev[1].buf, MEM_LEN));
	start_guest(&dev[1], 0, GUEST_PASID);
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	expect_holders(self->other, "active", "mdev=1,kvm=1");

	test_cmd_free(self->ioasid, 1, &self->id);
	expect_refused(&dev[0], 0);
	expect_streams(&dev[1], 0);
	EXPECT_EQ(0, pdma_refused(&dev[1].ch[0]));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev[0].ch[0], 0));
	expect_streams(&dev[1], 0);
	dev_close(&dev[1]);
	EXPECT_TRUE(is_still(dev[1].buf, MEM_LEN));
}

/* Releasing a PASID */

TEST_F(guest, pasid_0_lets_go_and_the_number_is_recycled)
{
	struct guest_dev *dev = &self->dev[0];

	start_guest(dev, 0, GUEST_PASID);
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

	start_guest(dev, 0, GUEST_PASID);
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_refused(dev, 0);
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
	start_guest(dev, 0, GUEST_PASID);
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
		start_guest(dev, 0, GUEST_PASID);
		start_guest(dev, 1, GUEST_OTHER);
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

	start_guest(dev, 0, GUEST_PASID);
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

	start_guest(dev, 0, GUEST_PASID);
	ASSERT_EQ(0, pdma_unmap(&dev->ch[0], IOVA, MEM_LEN));
	expect_stopped(dev, 0);
	EXPECT_EQ(PDMA_RESULT_FAULT, start(dev, 0));
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	ASSERT_EQ(0, pdma_map(&dev->ch[0], dev->buf, IOVA, MEM_LEN));
	EXPECT_EQ(PDMA_RESULT_OK, start(dev, 0));
	expect_streams(dev, 0);
}

/* Number of messages since kmsg_open() that contain @text */
static int kmsg_count(int fd, const char *text)
{
	char msg[8192];
	int count = 0;

	while (kmsg_next(fd, msg, sizeof(msg)) > 0)
		count += !!strstr(msg, text);
	return count;
}

/*
 * The guest can cause any number of failures, but not as many messages: type1
 * prints up to ten per five seconds, iommufd none.
 */
TEST_F(guest, failures_to_pin_do_not_flood_the_log)
{
	struct guest_dev *dev = &self->dev[0];
	struct rlimit none = {};
	__u64 start_ms;
	int i, kmsg, count, most;

	/* The limit is enforced depending on the capability at map time */
	ASSERT_EQ(0, pdma_unmap(&dev->ch[0], IOVA, MEM_LEN));
	kmsg = kmsg_open();
	ASSERT_LE(0, kmsg);
	ASSERT_EQ(0, drop_capability(CAP_IPC_LOCK));
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &none));
	ASSERT_EQ(0, pdma_map(&dev->ch[0], dev->buf, IOVA, MEM_LEN));
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

/* Release order: whoever is last recycles the IOASID */

TEST_F(guest, map_is_deleted_first)
{
	struct guest_dev *dev = &self->dev[0];

	start_guest(dev, 0, GUEST_PASID);
	test_cmd_map_del(self->machine[0].vm.dev, GUEST_PASID);
	expect_holders(self->id, "active", "mdev=1");
	expect_streams(dev, 0);
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_bind(&dev->ch[1], GUEST_PASID));

	/* Remapping the guest PASID does not affect a bound channel */
	test_cmd_map_add(self->machine[0].vm.dev, self->ioasid, self->other,
			 GUEST_PASID);
	start_guest(dev, 1, GUEST_PASID);
	expect_holders(self->other, "active", "mdev=1,kvm=1");
	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_EQ(0, pdma_wait_refused(&dev->ch[0], 20));
	expect_streams(dev, 1);
	expect_holders(self->id, "parked", "mdev=1");

	/* Writing the PASID again repeats the lookup */
	EXPECT_EQ(PDMA_RESULT_OK, pdma_execute(&dev->ch[0], PDMA_CMD_STOP));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], GUEST_PASID));
	expect_recycled(self->id);
	EXPECT_EQ(PDMA_RESULT_OK, start(dev, 0));
	expect_streams(dev, 0);
}

TEST_F(guest, device_is_closed_first)
{
	struct guest_dev *dev = &self->dev[0];

	start_guest(dev, 0, GUEST_PASID);
	dev_close(dev);
	EXPECT_TRUE(is_still(dev->buf, MEM_LEN));
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
	start_guest(dev, 0, GUEST_PASID);
	close(self->ioasid);
	expect_refused(dev, 0);
	expect_holders(self->id, "parked", "mdev=1,kvm=1");
	expect_taken(file, self->id);
	EXPECT_EQ(PDMA_RESULT_PARKED, pdma_bind(&dev->ch[1], GUEST_PASID));
	test_cmd_map_del(self->machine[0].vm.dev, GUEST_PASID);
	expect_holders(self->id, "parked", "mdev=1");
	expect_taken(file, self->id);
	dev_close(dev);
	expect_recycled(self->id);
	EXPECT_TRUE(is_still(dev->buf, MEM_LEN));
}

/* An open device keeps the VM and its mappings alive */
TEST_F(guest, machine_is_destroyed_first)
{
	struct guest_dev *dev = &self->dev[0];

	start_guest(dev, 0, GUEST_PASID);
	machine_close(&self->machine[0]);
	expect_streams(dev, 0);
	expect_holders(self->id, "active", "mdev=1,kvm=1");
	start_guest(dev, 1, GUEST_PASID);
	test_cmd_free(self->ioasid, 1, &self->id);
	expect_refused(dev, 0);
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[0], 0));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&dev->ch[1], 0));
	expect_holders(self->id, "parked", "kvm=1");
	EXPECT_EQ(PDMA_RESULT_PARKED, pdma_bind(&dev->ch[0], GUEST_PASID));
	dev_close(dev);
	expect_recycled(self->id);
}

/* PCI configuration space and BAR 0 */

FIXTURE(pci)
{
	pid_t pid;
	char uuid[PDMA_UUID_LEN + 1];
	int ioasid;
	__u32 id;		/* added to the device */
	struct pdma_dev dev;
	struct pdma_dev second;	/* another channel of it */
	char *buf;		/* mapped at IOVA */
};

FIXTURE_SETUP(pci)
{
	char parent[NAME_MAX + 1];

	self->pid = getpid();
	pdma_init(&self->dev);
	skip_for(setup_parent(parent));
	ASSERT_EQ(0, pdma_create(parent, self->uuid));
	ASSERT_EQ(0, pdma_open_cdev(&self->dev, self->uuid, NULL));
	self->second = pdma_channel(&self->dev, 1);
	self->ioasid = ioasid_open();
	ASSERT_LE(0, self->ioasid);
	test_cmd_alloc(self->ioasid, 0, 0, 1, &self->id);
	self->buf = pdma_alloc_buffer(MEM_LEN);
	ASSERT_NE(NULL, self->buf);
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, MEM_LEN));
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->id));
}

/* In the parent of the test, or in the test itself after a failed assertion */
FIXTURE_TEARDOWN_PARENT(pci)
{
	if (getpid() == self->pid)
		pdma_close(&self->dev);
	if (self->uuid[0] && pdma_mdev_exists(self->uuid))
		EXPECT_EQ(0, pdma_remove(self->uuid));
}

static __u32 config(struct pdma_dev *dev, unsigned int offset, size_t len)
{
	__u32 val = 0;

	return pdma_config_read(dev, offset, &val, len) ? UINT32_MAX : val;
}

#define set_config(_offset, _len, _val) do {				\
	__u32 __val = _val;						\
									\
	ASSERT_EQ(0, pdma_config_write(&self->dev, _offset, &__val,	\
				       _len));				\
} while (0)

#define expect_config(_val, _offset, _len) \
	EXPECT_EQ(_val, config(&self->dev, _offset, _len))

/* Offset of a capability, or 0. Fails if the list does not end. */
static unsigned int find_cap(struct pdma_dev *dev, __u8 id)
{
	unsigned int at = config(dev, PCI_CAPABILITY_LIST, 1), n;

	for (n = 0; at && n < 48; n++) {
		if (config(dev, at, 1) == id)
			return at;
		at = config(dev, at + PCI_CAP_LIST_NEXT, 1);
	}
	return 0;
}

static unsigned int find_ext_cap(struct pdma_dev *dev, __u16 id)
{
	unsigned int at = PCI_CFG_SPACE_SIZE, n;

	for (n = 0; at && n < 480; n++) {
		__u32 header = config(dev, at, 4);

		if (PCI_EXT_CAP_ID(header) == id)
			return at;
		at = PCI_EXT_CAP_NEXT(header);
	}
	return 0;
}

/* Stream on both channels with the device's PASID */
#define start_streams() do {						\
	ASSERT_EQ(PDMA_RESULT_OK, pdma_bind(&self->dev, self->id));	\
	ASSERT_EQ(PDMA_RESULT_OK, pdma_bind(&self->second, self->id));	\
	ASSERT_EQ(PDMA_RESULT_OK,					\
		  pdma_execute_stream(&self->dev, IOVA, PAGE));		\
	ASSERT_EQ(PDMA_RESULT_OK,					\
		  pdma_execute_stream(&self->second, IOVA + PAGE, PAGE)); \
	ASSERT_EQ(0, pdma_wait_counter(&self->dev, 20));		\
	ASSERT_EQ(0, pdma_wait_counter(&self->second, 20));		\
} while (0)

#define expect_both_stopped() do {						\
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));				\
	EXPECT_EQ(0, pdma_status(&self->dev) & PDMA_STATUS_BUSY);	\
	EXPECT_EQ(0, pdma_status(&self->second) & PDMA_STATUS_BUSY);	\
} while (0)

/* Configuration space */

TEST_F(pci, header_is_that_of_the_function)
{
	expect_config(PDMA_VENDOR_ID, PCI_VENDOR_ID, 2);
	expect_config(PDMA_MDEV_DEVICE_ID, PCI_DEVICE_ID, 2);
	expect_config(PDMA_VENDOR_ID, PCI_SUBSYSTEM_VENDOR_ID, 2);
	expect_config(PDMA_MDEV_DEVICE_ID, PCI_SUBSYSTEM_ID, 2);
	expect_config(0x0880, PCI_CLASS_DEVICE, 2);
	expect_config(0, PCI_CLASS_PROG, 1);
	expect_config(PCI_HEADER_TYPE_NORMAL, PCI_HEADER_TYPE, 1);
	expect_config(PCI_STATUS_CAP_LIST, PCI_STATUS, 2);
	expect_config(0, PCI_INTERRUPT_PIN, 1);
	expect_config(0, PCI_ROM_ADDRESS, 4);
}

TEST_F(pci, express_capability_offers_a_reset_and_a_prefix)
{
	unsigned int exp = find_cap(&self->dev, PCI_CAP_ID_EXP);
	__u32 cap2;

	ASSERT_NE(0, exp);
	expect_config(2 | PCI_EXP_TYPE_ENDPOINT << 4, exp + PCI_EXP_FLAGS, 2);
	EXPECT_NE(0, config(&self->dev, exp + PCI_EXP_DEVCAP, 4) &
		     PCI_EXP_DEVCAP_FLR);
	cap2 = config(&self->dev, exp + PCI_EXP_DEVCAP2, 4);
	EXPECT_NE(0, cap2 & PCI_EXP_DEVCAP2_EE_PREFIX);
	/* A PASID needs one prefix */
	EXPECT_EQ(1, cap2 >> 22 & 3);
	EXPECT_EQ(0, find_cap(&self->dev, PCI_CAP_ID_MSI));
	EXPECT_EQ(0, find_cap(&self->dev, PCI_CAP_ID_MSIX));
}

TEST_F(pci, pasid_capability_has_20_bits)
{
	unsigned int pasid = find_ext_cap(&self->dev, PCI_EXT_CAP_ID_PASID);

	ASSERT_EQ(PCI_CFG_SPACE_SIZE, pasid);
	EXPECT_EQ(1, PCI_EXT_CAP_VER(config(&self->dev, pasid, 4)));
	expect_config(20 << 8, pasid + PCI_PASID_CAP, 2);
	expect_config(0, pasid + PCI_PASID_CTRL, 2);
	set_config(pasid + PCI_PASID_CTRL, 2, 0xffff);
	expect_config(PCI_PASID_CTRL_ENABLE, pasid + PCI_PASID_CTRL, 2);
	expect_config(20 << 8, pasid + PCI_PASID_CAP, 2);
	EXPECT_EQ(0, find_ext_cap(&self->dev, PCI_EXT_CAP_ID_ATS));
	EXPECT_EQ(0, find_ext_cap(&self->dev, PCI_EXT_CAP_ID_PRI));
}

TEST_F(pci, bar_tells_its_size)
{
	expect_config(PCI_BASE_ADDRESS_SPACE_MEMORY |
		      PCI_BASE_ADDRESS_MEM_TYPE_32, PCI_BASE_ADDRESS_0, 4);
	set_config(PCI_BASE_ADDRESS_0, 4, 0xffffffff);
	expect_config(0U - PDMA_MDEV_BAR_SIZE, PCI_BASE_ADDRESS_0, 4);
	set_config(PCI_BASE_ADDRESS_0, 4, 0xfe0f8123);
	expect_config(0xfe0f8000, PCI_BASE_ADDRESS_0, 4);
	set_config(PCI_BASE_ADDRESS_1, 4, 0xffffffff);
	expect_config(0, PCI_BASE_ADDRESS_1, 4);
	set_config(PCI_ROM_ADDRESS, 4, 0xffffffff);
	expect_config(0, PCI_ROM_ADDRESS, 4);
}

/* Writable bits of the 32-bit word at @offset without side effects */
static __u32 writable(unsigned int offset, unsigned int exp)
{
	if (offset == PCI_COMMAND)
		return PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	if (offset == PCI_CACHE_LINE_SIZE)
		return 0xff;
	if (offset == PCI_BASE_ADDRESS_0)
		return 0U - PDMA_MDEV_BAR_SIZE;
	if (offset == exp + PCI_EXP_DEVCTL)
		return PCI_EXP_DEVCTL_CERE | PCI_EXP_DEVCTL_NFERE |
		       PCI_EXP_DEVCTL_FERE | PCI_EXP_DEVCTL_URRE |
		       PCI_EXP_DEVCTL_READRQ;
	if (offset == exp + PCI_EXP_LNKCTL)
		return PCI_EXP_LNKCTL_CCC | PCI_EXP_LNKCTL_ES;
	if (offset == PCI_CFG_SPACE_SIZE + PCI_PASID_CAP)
		return PCI_PASID_CTRL_ENABLE << 16;
	return 0;
}

TEST_F(pci, reserved_bits_and_read_only_ones_do_not_change)
{
	unsigned int exp = find_cap(&self->dev, PCI_CAP_ID_EXP), i;
	__u32 before, mask, ones;

	for (i = 0; i < CONFIG_LEN; i += 4) {
		before = config(&self->dev, i, 4);
		mask = writable(i, exp);
		ones = UINT32_MAX;
		if (i == exp + PCI_EXP_DEVCTL)
			ones &= ~PCI_EXP_DEVCTL_BCR_FLR;
		set_config(i, 4, ones);
		EXPECT_EQ(before | mask, config(&self->dev, i, 4)) {
			TH_LOG("at %#x", i);
		}
		set_config(i, 4, 0);
		EXPECT_EQ(before & ~mask, config(&self->dev, i, 4)) {
			TH_LOG("at %#x", i);
		}
		set_config(i, 4, before);
		expect_config(before, i, 4);
	}
}

TEST_F(pci, config_is_accessed_in_any_size)
{
	__u8 all[CONFIG_LEN], bytes[8] = { 0x34, 0x12 }, one;
	void *bad = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	unsigned int i;

	/* An unaligned write to two words, the second of which is read-only */
	ASSERT_EQ(0, pdma_config_write(&self->dev, PCI_BASE_ADDRESS_0 + 2,
				       bytes, 8));
	expect_config(0x12340000, PCI_BASE_ADDRESS_0, 4);
	set_config(PCI_BASE_ADDRESS_0 + 3, 1, 0x56);
	set_config(PCI_BASE_ADDRESS_0 + 1, 1, 0xff);
	expect_config(0x56348000, PCI_BASE_ADDRESS_0, 4);

	ASSERT_EQ(0, pdma_config_read(&self->dev, 0, all, sizeof(all)));
	for (i = 0; i < CONFIG_LEN; i++) {
		ASSERT_EQ(0, pdma_config_read(&self->dev, i, &one, 1));
		EXPECT_EQ(all[i], one);
		if (i % 2 == 0)
			expect_config(all[i] | all[i + 1] << 8, i, 2);
	}
	/* Accesses across the end are truncated, accesses beyond it fail */
	EXPECT_EQ(2, pread(self->dev.device, bytes, 4,
			   self->dev.config_offset + CONFIG_LEN - 2));
	EXPECT_EQ(2, pwrite(self->dev.device, bytes, 4,
			    self->dev.config_offset + CONFIG_LEN - 2));
	EXPECT_EQ(-EINVAL, pdma_config_read(&self->dev, CONFIG_LEN, bytes, 1));
	EXPECT_EQ(-EINVAL, pdma_config_write(&self->dev, CONFIG_LEN, bytes, 1));
	EXPECT_EQ(-EFAULT, pdma_config_read(&self->dev, 0, bad, 4));
	EXPECT_EQ(-EFAULT, pdma_config_write(&self->dev, 0, bad, 4));
}

TEST_F(pci, bus_master_off_stops_dma)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		start_streams();
		/* First as a single byte, then as a whole word */
		if (i)
			set_config(PCI_COMMAND, 4, 0);
		else
			set_config(PCI_COMMAND, 1, PCI_COMMAND_MEMORY);
		expect_both_stopped();
		EXPECT_EQ(PDMA_RESULT_NOT_MASTER,
			  pdma_execute_stream(&self->dev, IOVA, PAGE));
		EXPECT_EQ(-EPERM, pdma_copy_with(&self->dev, self->id, IOVA,
						 IOVA, 8));
		EXPECT_EQ(PDMA_RESULT_OK,
			  pdma_execute(&self->dev, PDMA_CMD_STOP));
		expect_both_stopped();

		/* Nothing restarts on its own, and the PASID is kept */
		ASSERT_EQ(0, pdma_set_master(&self->dev, true));
		expect_both_stopped();
		EXPECT_EQ(PDMA_RESULT_OK,
			  pdma_execute_stream(&self->dev, IOVA, PAGE));
		EXPECT_EQ(0, pdma_wait_counter(&self->dev, 20));
		EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(&self->dev, 0));
	}
}

TEST_F(pci, stream_goes_on_while_others_bits_are_written)
{
	start_streams();
	set_config(PCI_COMMAND, 2, PCI_COMMAND_MASTER | 0xf8f9);
	set_config(PCI_BASE_ADDRESS_0, 4, 0xfe000000);
	set_config(PCI_CFG_SPACE_SIZE + PCI_PASID_CTRL, 2, 1);
	EXPECT_EQ(0, pdma_wait_counter(&self->dev, 20));
	EXPECT_EQ(0, pdma_wait_counter(&self->second, 20));
}

/* Reset a device with streaming channels, by FLR or through VFIO */
static void test_reset(struct __test_metadata *_metadata,
		       FIXTURE_DATA(pci) *self, unsigned int flr)
{
	struct ioasid_query query;
	unsigned int reg;

	start_streams();
	set_config(PCI_BASE_ADDRESS_0, 4, 0xfe000000);
	set_config(PCI_CFG_SPACE_SIZE + PCI_PASID_CTRL, 2, 1);
	if (flr)
		set_config(flr, 2, PCI_EXP_DEVCTL_BCR_FLR);
	else
		ASSERT_EQ(0, ioctl(self->dev.device, VFIO_DEVICE_RESET));
	expect_both_stopped();
	EXPECT_EQ(0, pdma_counter(&self->dev));
	EXPECT_EQ(0, pdma_done(&self->second));

	expect_config(0, PCI_COMMAND, 2);
	expect_config(0, PCI_BASE_ADDRESS_0, 4);
	expect_config(0, PCI_CFG_SPACE_SIZE + PCI_PASID_CTRL, 2);
	for (reg = 0; reg < PDMA_SUBMIT_SIZE; reg += 4) {
		EXPECT_EQ(0, pdma_get(&self->dev, reg, 4));
		EXPECT_EQ(0, pdma_get(&self->second, reg, 4));
	}
	EXPECT_EQ(PDMA_RESULT_NOT_MASTER,
		  pdma_execute_stream(&self->dev, IOVA, PAGE));
	ASSERT_EQ(0, pdma_set_master(&self->dev, true));
	EXPECT_EQ(PDMA_RESULT_NO_PASID,
		  pdma_execute_stream(&self->dev, IOVA, PAGE));
	expect_both_stopped();

	/* IOASIDs added through VFIO are kept */
	test_cmd_query(self->ioasid, self->id, &query);
	EXPECT_EQ(1, query.users);
	EXPECT_EQ(1, query.attachments);
	start_streams();
}

TEST_F(pci, function_level_reset_stops_dma)
{
	unsigned int flr = find_cap(&self->dev, PCI_CAP_ID_EXP) +
			   PCI_EXP_DEVCTL;

	test_reset(_metadata, self, flr);
	/* The bit reads as 0 */
	expect_config(PCI_EXP_DEVCTL_READRQ_512B, flr, 2);
	/* Same if only the upper byte is written */
	set_config(flr + 1, 1, PCI_EXP_DEVCTL_BCR_FLR >> 8);
	expect_both_stopped();
	expect_config(0, PCI_COMMAND, 2);
}

TEST_F(pci, reset_by_the_vmm_stops_dma)
{
	test_reset(_metadata, self, 0);
}

TEST_F(pci, device_is_opened_as_after_a_reset)
{
	start_streams();
	set_config(PCI_BASE_ADDRESS_0, 4, 0xfe000000);
	pdma_close(&self->dev);
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
	ASSERT_EQ(0, pdma_open_cdev(&self->dev, self->uuid, NULL));
	expect_config(0, PCI_BASE_ADDRESS_0, 4);
	EXPECT_EQ(0, pdma_get(&self->dev, PDMA_SUBMIT_LEN, 4));
	EXPECT_EQ(0, pdma_get(&self->dev, PDMA_SUBMIT_PASID, 4));
}

/* Region information for the VMM */

TEST_F(pci, region_info_tells_what_of_the_bar_can_be_mapped)
{
	struct {
		struct vfio_region_info info;
		struct vfio_region_info_cap_sparse_mmap sparse;
		struct vfio_region_sparse_mmap_area area;
		__u64 beyond;
	} bar = {
		.info.argsz = sizeof(bar.info),
		.info.index = VFIO_PCI_BAR0_REGION_INDEX,
		.beyond = 0x5a,
	};
	const size_t len = offsetof(typeof(bar), beyond);

	ASSERT_EQ(0, ioctl(self->dev.device, VFIO_DEVICE_GET_REGION_INFO,
			   &bar.info));
	EXPECT_EQ(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
		  VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS,
		  bar.info.flags);
	EXPECT_EQ(len, bar.info.argsz);
	EXPECT_EQ(0, bar.info.cap_offset);
	EXPECT_EQ(0, bar.sparse.header.id);

	bar.info.argsz = len;
	ASSERT_EQ(0, ioctl(self->dev.device, VFIO_DEVICE_GET_REGION_INFO,
			   &bar.info));
	EXPECT_EQ(sizeof(bar.info), bar.info.cap_offset);
	EXPECT_EQ(VFIO_REGION_INFO_CAP_SPARSE_MMAP, bar.sparse.header.id);
	EXPECT_EQ(1, bar.sparse.header.version);
	EXPECT_EQ(0, bar.sparse.header.next);
	EXPECT_EQ(1, bar.sparse.nr_areas);
	EXPECT_EQ(PDMA_MDEV_STATUS(0), bar.area.offset);
	EXPECT_EQ(PDMA_MDEV_CHANNELS * PAGE, bar.area.size);
	EXPECT_EQ(0x5a, bar.beyond);
	EXPECT_NE(MAP_FAILED, mmap(NULL, bar.area.size, PROT_READ | PROT_WRITE,
				   MAP_SHARED, self->dev.device,
				   bar.info.offset + bar.area.offset));
}

/* A command started here could DMA to pages that are not pinned */
TEST_F(pci, write_to_a_mapped_register_has_no_effect)
{
	volatile __u32 *regs;
	__u64 before;
	int i;

	start_streams();
	EXPECT_EQ(PDMA_RESULT_OK, pdma_execute(&self->second, PDMA_CMD_STOP));
	for (i = 0; i < 2; i++) {
		regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    self->dev.device, i ? self->second.status_offset :
						  self->dev.status_offset);
		ASSERT_NE(MAP_FAILED, regs);
		regs[PDMA_LEN / sizeof(*regs)] = PAGE;
		regs[PDMA_CMD / sizeof(*regs)] = i ? PDMA_CMD_STREAM :
						     PDMA_CMD_STOP;
		EXPECT_EQ(i ? 0 : PDMA_STATUS_BUSY,
			  regs[PDMA_STATUS / sizeof(*regs)]);
		before = pdma_mmio64((const void *)regs, PDMA_COUNTER);
		pdma_sleep_ms(A_WHILE_MS);
		EXPECT_EQ(i, before == pdma_mmio64((const void *)regs,
						   PDMA_COUNTER));
	}
}

TEST_F(pci, interrupts_can_be_disabled_only)
{
	struct vfio_irq_set set = { .argsz = sizeof(set) };
	__u32 i;

	for (i = 0; i < VFIO_PCI_NUM_IRQS; i++) {
		set.index = i;
		set.flags = VFIO_IRQ_SET_DATA_NONE |
			    VFIO_IRQ_SET_ACTION_TRIGGER;
		set.count = 0;
		EXPECT_EQ(0, ioctl(self->dev.device, VFIO_DEVICE_SET_IRQS,
				   &set));
		set.count = 1;
		EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_SET_IRQS,
				    &set));
		EXPECT_EQ(EINVAL, errno);
		set.count = 0;
		set.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK;
		EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_SET_IRQS,
				    &set));
		EXPECT_EQ(EINVAL, errno);
	}
	set.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
	set.index = VFIO_PCI_NUM_IRQS;
	EXPECT_EQ(-1, ioctl(self->dev.device, VFIO_DEVICE_SET_IRQS, &set));
	EXPECT_EQ(EINVAL, errno);
}

/* Registers of a channel */

TEST_F(pci, copy_is_programmed_register_by_register)
{
	struct pdma_dev *dev = &self->dev;

	memset(self->buf, 0x77, PAGE);
	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(dev, self->id));
	EXPECT_EQ(self->id, pdma_get(dev, PDMA_SUBMIT_PASID, 4));
	/* As two halves, and as a whole */
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_SRC, (__u32)IOVA));
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_SRC + 4, IOVA >> 32));
	EXPECT_EQ(0, pdma_set64(dev, PDMA_SUBMIT_DST, IOVA + PAGE));
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_LEN, PAGE));
	/* Not used by a copy, hence ignored */
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_PERIOD, 1));
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_BURST, ~0U));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_execute(dev, PDMA_CMD_COPY));
	EXPECT_EQ(PDMA_STATUS_DONE, pdma_wait_idle(dev));
	EXPECT_EQ(0, memcmp(self->buf, self->buf + PAGE, PAGE));

	EXPECT_EQ(IOVA, pdma_get(dev, PDMA_SUBMIT_SRC, 8));
	EXPECT_EQ(IOVA + PAGE, pdma_get(dev, PDMA_SUBMIT_DST, 8));
	EXPECT_EQ(PAGE | (__u64)PDMA_CMD_COPY << 32,
		  pdma_get(dev, PDMA_SUBMIT_LEN, 8));
	EXPECT_EQ(1, pdma_get(dev, PDMA_SUBMIT_PERIOD, 4));
	EXPECT_EQ(~0U, pdma_get(dev, PDMA_SUBMIT_BURST, 4));
}

/* The lower half is the length, the upper half starts the command */
TEST_F(pci, two_registers_are_written_in_their_order)
{
	struct pdma_dev *dev = &self->dev;

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(dev, self->id));
	EXPECT_EQ(0, pdma_set64(dev, PDMA_SUBMIT_DST, IOVA));
	EXPECT_EQ(0, pdma_set64(dev, PDMA_SUBMIT_LEN,
				64 | (__u64)PDMA_CMD_STREAM << 32));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_get(dev, PDMA_SUBMIT_RESULT, 4));
	EXPECT_EQ(0, pdma_wait_counter(dev, 20));
	EXPECT_EQ(64, pdma_read32(dev, PDMA_LEN));
	/* The upper half is the result, which is read-only */
	EXPECT_EQ(0, pdma_set64(dev, PDMA_SUBMIT_PASID, 99ULL << 32));
	EXPECT_EQ(0, pdma_get(dev, PDMA_SUBMIT_PASID, 8));
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
}

TEST_F(pci, one_write_sets_all_registers)
{
	const struct pdma_submit cmd = {
		.cmd = PDMA_CMD_STREAM, .dst = IOVA, .len = PAGE,
		.period = 50, .burst = 2, .pasid = self->id,
	};
	struct pdma_submit found;
	unsigned int i;

	EXPECT_EQ(0, pdma_submit(&self->dev, &cmd));
	for (i = 0; i < sizeof(cmd); i += 8)
		*(__u64 *)((char *)&found + i) = pdma_get(&self->dev, i, 8);
	EXPECT_EQ(0, memcmp(&cmd, &found, sizeof(cmd)));
	/* A failed command sets the result, too. STOP keeps the PASID. */
	EXPECT_EQ(-EBUSY, pdma_submit(&self->dev, &cmd));
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_get(&self->dev, PDMA_SUBMIT_RESULT, 4));
	EXPECT_EQ(0, pdma_stop(&self->dev));
	EXPECT_EQ(PDMA_RESULT_OK, pdma_get(&self->dev, PDMA_SUBMIT_RESULT, 4));
	EXPECT_EQ(self->id, pdma_get(&self->dev, PDMA_SUBMIT_PASID, 4));
}

TEST_F(pci, refused_command_has_a_result_and_starts_nothing)
{
	struct pdma_dev *dev = &self->dev;
	const __u32 ok = PDMA_RESULT_OK;

	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_execute_stream(dev, IOVA, PAGE));
	EXPECT_EQ(ok, pdma_bind(dev, self->id));
	EXPECT_EQ(PDMA_RESULT_INVALID, pdma_execute(dev, 3));
	EXPECT_EQ(PDMA_RESULT_INVALID, pdma_execute(dev, ~0U));
	EXPECT_EQ(PDMA_RESULT_INVALID, pdma_execute_stream(dev, IOVA, 0));
	EXPECT_EQ(PDMA_RESULT_INVALID, pdma_execute_stream(dev, IOVA, 12));
	EXPECT_EQ(PDMA_RESULT_INVALID, pdma_execute_stream(dev, ~0ULL, 8));
	EXPECT_EQ(PDMA_RESULT_INVALID,
		  pdma_execute_stream(dev, IOVA, PDMA_MAX_LEN + 8));
	EXPECT_EQ(PDMA_RESULT_FAULT,
		  pdma_execute_stream(dev, IOVA + MEM_LEN, 8));
	EXPECT_EQ(PDMA_RESULT_FAULT,
		  pdma_execute_stream(dev, IOVA + MEM_LEN - PAGE, 2 * PAGE));
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_PERIOD, 9));
	EXPECT_EQ(PDMA_RESULT_INVALID, pdma_execute_stream(dev, IOVA, PAGE));
	EXPECT_EQ(0, pdma_done(dev));
	EXPECT_EQ(0, pdma_refused(dev));
	EXPECT_EQ(ok, pdma_execute(dev, PDMA_CMD_STOP));

	test_cmd_free(self->ioasid, 1, &self->id);
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_PERIOD, 0));
	EXPECT_EQ(PDMA_RESULT_PARKED, pdma_execute_stream(dev, IOVA, PAGE));
	EXPECT_EQ(PDMA_RESULT_PARKED, pdma_bind(dev, self->id));
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_execute_stream(dev, IOVA, PAGE));
	EXPECT_EQ(0, pdma_done(dev));
	EXPECT_EQ(0, pdma_refused(dev));
}

TEST_F(pci, pasid_of_a_busy_channel_can_only_be_taken_away)
{
	struct pdma_dev *dev = &self->dev;

	start_streams();
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_bind(dev, self->id));
	EXPECT_EQ(self->id, pdma_get(dev, PDMA_SUBMIT_PASID, 4));
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_execute_stream(dev, IOVA, PAGE));
	EXPECT_EQ(PDMA_RESULT_BUSY, pdma_execute(dev, PDMA_CMD_COPY));
	EXPECT_EQ(0, pdma_wait_counter(dev, 20));

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(dev, 0));
	EXPECT_EQ(0, pdma_get(dev, PDMA_SUBMIT_PASID, 4));
	EXPECT_EQ(0, pdma_status(dev) & PDMA_STATUS_BUSY);
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_execute_stream(dev, IOVA, PAGE));
	/* The other channel keeps running, and the device keeps the IOASID */
	EXPECT_EQ(0, pdma_wait_counter(&self->second, 20));
	EXPECT_EQ(self->id, pdma_get_ioasid(dev));
}

TEST_F(pci, channel_has_no_pasid_after_a_failed_lookup)
{
	static const __u32 unknown[] = { 1, 0xfffff, 0x100000, 0x80000000, ~0U };
	struct pdma_dev *dev = &self->dev;
	unsigned int i;

	for (i = 0; i < sizeof(unknown) / sizeof(*unknown); i++) {
		EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(dev, self->id));
		EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_bind(dev, unknown[i]));
		EXPECT_EQ(0, pdma_get(dev, PDMA_SUBMIT_PASID, 4));
		EXPECT_EQ(PDMA_RESULT_NO_PASID,
			  pdma_execute_stream(dev, IOVA, PAGE));
	}
	/* The upper bits are not truncated */
	EXPECT_EQ(PDMA_RESULT_NO_PASID, pdma_bind(dev, self->id | 1U << 31));
	EXPECT_EQ(0, pdma_done(dev));
}

TEST_F(pci, odd_accesses_have_no_effect_and_no_error)
{
	struct pdma_dev *dev = &self->dev;
	const __u64 ones = UINT64_MAX;
	__u64 reg, val;
	size_t len;

	EXPECT_EQ(PDMA_RESULT_OK, pdma_bind(dev, self->id));
	EXPECT_EQ(0, pdma_set64(dev, PDMA_SUBMIT_DST, IOVA));
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_LEN, PAGE));

	/* Byte, halfword and unaligned accesses anywhere in the page */
	for (reg = 0; reg < 0x40; reg++) {
		for (len = 1; len <= 8; len *= 2) {
			if (len >= 4 && reg % len == 0)
				continue;
			EXPECT_EQ(len == 8 ? ones : (1ULL << 8 * len) - 1,
				  pdma_get(dev, reg, len)) {
				TH_LOG("%zu at %#llx", len, reg);
			}
			val = 0x0202020202020202;
			EXPECT_EQ(0, pdma_set(dev, reg, &val, len));
		}
	}
	EXPECT_EQ(IOVA, pdma_get(dev, PDMA_SUBMIT_DST, 8));
	EXPECT_EQ(PAGE, pdma_get(dev, PDMA_SUBMIT_LEN, 8));
	EXPECT_EQ(self->id, pdma_get(dev, PDMA_SUBMIT_PASID, 8));

	/* The result, and the rest of the page */
	for (reg = PDMA_SUBMIT_SIZE; reg < PAGE; reg += 8) {
		EXPECT_EQ(0, pdma_set64(dev, reg, ones));
		EXPECT_EQ(0, pdma_get(dev, reg, 8));
	}
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_RESULT, 5));
	EXPECT_EQ(0, pdma_get(dev, PDMA_SUBMIT_RESULT, 4));

	/* The status page, through the trapping path */
	for (reg = 0; reg < PAGE; reg += 8)
		EXPECT_EQ(0, pdma_set64(dev, PDMA_MDEV_STATUS(0) + reg, ones));
	EXPECT_EQ(0, pdma_set32(dev, PDMA_MDEV_STATUS(0) + PDMA_CMD,
				PDMA_CMD_STREAM));
	EXPECT_EQ(0xff, pdma_get(dev, PDMA_MDEV_STATUS(0) + PDMA_STATUS, 1));
	EXPECT_EQ(0xffff, pdma_get(dev, PDMA_MDEV_STATUS(0) + PDMA_STATUS, 2));
	EXPECT_EQ(~0U, pdma_get(dev, PDMA_MDEV_STATUS(0) + 2, 4));
	EXPECT_EQ(0, pdma_read32(dev, PDMA_LEN));
	EXPECT_EQ(0, pdma_status(dev));
	EXPECT_EQ(0, pdma_done(dev));
	EXPECT_TRUE(is_still(self->buf, MEM_LEN));
}

TEST_HARNESS_MAIN

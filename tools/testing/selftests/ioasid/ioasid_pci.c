// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PCI face of a mediated device: configuration space and BAR 0, as a VMM and
 * its guest access them
 *
 * The device belongs to no VM here, see ioasid_guest.c for that. All of a test's
 * accesses are defined ones: none of them may fail, whatever a guest does.
 */
#include "../kselftest_harness.h"
#include "ioasid_utils.h"
#include "pdma_utils.h"

#define IOVA		0x40000000ULL
#define BUF_LEN		0x4000
#define PAGE		0x1000
#define CONFIG_LEN	0x1000

/* Long compared with the period of a stream */
#define A_WHILE_MS	50

FIXTURE(pci)
{
	pid_t pid;
	char uuid[PDMA_UUID_LEN + 1];
	int ioasid;
	__u32 id;		/* given to the device */
	struct pdma_dev dev;
	struct pdma_dev second;	/* another channel of it */
	char *buf;		/* mapped at IOVA */
};

FIXTURE_SETUP(pci)
{
	char parent[NAME_MAX + 1];

	self->pid = getpid();
	pdma_init(&self->dev);
	if (pdma_find_parent(0, parent))
		SKIP(return, "no PASID DMA engine");
	ASSERT_EQ(0, pdma_create(parent, self->uuid));
	ASSERT_EQ(0, pdma_open_cdev(&self->dev, self->uuid, NULL));
	self->second = pdma_channel(&self->dev, 1);
	self->ioasid = ioasid_open();
	ASSERT_LE(0, self->ioasid);
	test_cmd_alloc(self->ioasid, 0, 0, 1, &self->id);
	self->buf = pdma_alloc_buffer(BUF_LEN);
	ASSERT_NE(NULL, self->buf);
	ASSERT_EQ(0, pdma_map(&self->dev, self->buf, IOVA, BUF_LEN));
	ASSERT_EQ(0, pdma_add_ioasid(&self->dev, self->ioasid, self->id));
}

/* In the parent of the test, or in the test itself if an assertion failed */
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

/* Offset of a capability, 0: none. The list must end. */
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

static bool is_still(const void *buf)
{
	char before[BUF_LEN];

	memcpy(before, buf, BUF_LEN);
	pdma_sleep_ms(A_WHILE_MS);
	return !memcmp(before, buf, BUF_LEN);
}

/* Both channels stream with the PASID that they are given */
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

#define expect_stopped() do {						\
	EXPECT_TRUE(is_still(self->buf));				\
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
	/* One prefix is what a PASID needs */
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

/* Bits of the 32-bit word at @offset that can be written, without side effects */
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

	/* Bytes of two words that can be written, one of which is read-only */
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
	/* It ends, and nothing is behind it */
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
		/* By one byte, and together with what stands next to it */
		if (i)
			set_config(PCI_COMMAND, 4, 0);
		else
			set_config(PCI_COMMAND, 1, PCI_COMMAND_MEMORY);
		expect_stopped();
		EXPECT_EQ(PDMA_RESULT_NOT_MASTER,
			  pdma_execute_stream(&self->dev, IOVA, PAGE));
		EXPECT_EQ(-EPERM, pdma_copy_with(&self->dev, self->id, IOVA,
						 IOVA, 8));
		EXPECT_EQ(PDMA_RESULT_OK,
			  pdma_execute(&self->dev, PDMA_CMD_STOP));
		expect_stopped();

		/* Nothing starts by itself, and the channel has its PASID */
		ASSERT_EQ(0, pdma_set_master(&self->dev, true));
		expect_stopped();
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

/* Both kinds of reset of a device whose channels stream */
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
	expect_stopped();
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
	expect_stopped();

	/* What VFIO gave to it, it has */
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
	/* As the upper byte alone */
	set_config(flr + 1, 1, PCI_EXP_DEVCTL_BCR_FLR >> 8);
	expect_stopped();
	expect_config(0, PCI_COMMAND, 2);
}

TEST_F(pci, reset_by_the_vmm_does_the_same)
{
	test_reset(_metadata, self, 0);
}

TEST_F(pci, device_is_opened_as_after_a_reset)
{
	start_streams();
	set_config(PCI_BASE_ADDRESS_0, 4, 0xfe000000);
	pdma_close(&self->dev);
	EXPECT_TRUE(is_still(self->buf));
	ASSERT_EQ(0, pdma_open_cdev(&self->dev, self->uuid, NULL));
	expect_config(0, PCI_BASE_ADDRESS_0, 4);
	EXPECT_EQ(0, pdma_get(&self->dev, PDMA_SUBMIT_LEN, 4));
	EXPECT_EQ(0, pdma_get(&self->dev, PDMA_SUBMIT_PASID, 4));
}

/* What a VMM asks for */

TEST_F(pci, bar_says_what_of_it_can_be_mapped)
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

/* Whoever could start a command here could DMA to pages that are not pinned */
TEST_F(pci, mapped_registers_control_nothing)
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
	/* In halves, and whole */
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_SRC, (__u32)IOVA));
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_SRC + 4, IOVA >> 32));
	EXPECT_EQ(0, pdma_set64(dev, PDMA_SUBMIT_DST, IOVA + PAGE));
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_LEN, PAGE));
	/* Of no use for a copy, and so ignored */
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

/* The lower half is the length, the upper half executes */
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
	/* The PASID, and the result, which nobody can write */
	EXPECT_EQ(0, pdma_set64(dev, PDMA_SUBMIT_PASID, 99ULL << 32));
	EXPECT_EQ(0, pdma_get(dev, PDMA_SUBMIT_PASID, 8));
	EXPECT_TRUE(is_still(self->buf));
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
	/* Its error is a result, too. STOP leaves the PASID alone. */
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
		  pdma_execute_stream(dev, IOVA + BUF_LEN, 8));
	EXPECT_EQ(PDMA_RESULT_FAULT,
		  pdma_execute_stream(dev, IOVA + BUF_LEN - PAGE, 2 * PAGE));
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
	/* The other channel goes on, and the device holds the IOASID */
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
	/* The upper bits are not cut off */
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

	/* Bytes, halves, and what is not aligned, all over the page */
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

	/* The rest of the page, and the result */
	for (reg = PDMA_SUBMIT_SIZE; reg < PAGE; reg += 8) {
		EXPECT_EQ(0, pdma_set64(dev, reg, ones));
		EXPECT_EQ(0, pdma_get(dev, reg, 8));
	}
	EXPECT_EQ(0, pdma_set32(dev, PDMA_SUBMIT_RESULT, 5));
	EXPECT_EQ(0, pdma_get(dev, PDMA_SUBMIT_RESULT, 4));

	/* The status page, by the trap */
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
	EXPECT_TRUE(is_still(self->buf));
}

TEST_HARNESS_MAIN

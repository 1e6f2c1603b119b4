// SPDX-License-Identifier: GPL-2.0-only
/*
 * An IOMMU driver without park operations: the IOMMU core blocks a PASID with
 * the operations that every driver with PASID support has. DMA is blocked, and
 * stays blocked, but faults are reported.
 *
 * The driver is the real one, with real translation and real DMA: the IOASID
 * test device hides its park operations from the IOMMU core.
 */
#include "../kselftest_harness.h"
#include "ioasid_attach.h"
#include "ioasid_fixture.h"
#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "pdma_utils.h"

#define NO_PARK_FILE "/sys/kernel/debug/ioasid_selftest/no_park"

FIXTURE(fallback)
{
	pid_t pid;
	int fd;
	int kmsg;
	bool hidden;
	struct engine engine;
	struct channel ch[2];
};

FIXTURE_VARIANT(fallback)
{
	bool ats;
};

FIXTURE_VARIANT_ADD(fallback, plain)
{
	.ats = false,
};

FIXTURE_VARIANT_ADD(fallback, ats)
{
	.ats = true,
};

FIXTURE_SETUP(fallback)
{
	int i;

	self->pid = getpid();
	self->fd = ioasid_open();
	if (self->fd == -ENOENT)
		SKIP(return, "no " IOASID_DEV);
	ASSERT_LE(0, self->fd);
	if (access(NO_PARK_FILE, W_OK))
		SKIP(return, "no IOASID test device");
	if (find_engine(&self->engine, variant->ats))
		SKIP(return, "no engine %s ATS",
		     variant->ats ? "with" : "without");
	self->kmsg = kmsg_open();
	ASSERT_LE(0, self->kmsg);
	kmsg_expect_faults(self->kmsg, true);
	ASSERT_EQ(0, pdma_write_file(NO_PARK_FILE, self->engine.name));
	self->hidden = true;
	for (i = 0; i < 2; i++)
		channel_open(_metadata, &self->ch[i], self->engine.name);
}

/* Restore the park operations now that nothing is attached */
FIXTURE_TEARDOWN_PARENT(fallback)
{
	int i;

	for (i = 0; i < 2; i++)
		if (self->ch[i].uuid[0])
			channel_remove(_metadata, &self->ch[i], self->pid);
	if (self->hidden)
		EXPECT_EQ(0, pdma_write_file(NO_PARK_FILE, "none"));
	if (self->kmsg > 0)
		kmsg_expect_faults(self->kmsg, false);
}

/* The engine keeps trying and is refused by a non-present entry */
static void expect_reported(struct __test_metadata *_metadata,
			    struct channel *ch, struct engine *engine)
{
	__u64 faults = bar_recorded(&engine->bar);

	expect_blocked(ch);
	EXPECT_TRUE(wait_until(bar_recorded(&engine->bar) > faults));
}

/* Invariant synchronous; faults are reported, unlike with park operations */
TEST_F(fallback, no_write_after_park_returns)
{
	struct channel *ch = self->ch;
	int round, i, owner;
	__u32 id[2];

	for (round = 0; round < 40; round++) {
		owner = ioasid_open();
		ASSERT_LE(0, owner);
		for (i = 0; i < 2; i++)
			id[i] = give_ioasid(_metadata, &ch[i], owner);
		start_stream(_metadata, &ch[0], BUF_LEN, 100, 16);
		start_stream(_metadata, &ch[1], 4096, 50, 1);
		if (round % 2)
			test_cmd_free(owner, 2, id);
		close(owner);
		for (i = 0; i < 2; i++)
			expect_reported(_metadata, &ch[i], &self->engine);
	}
}

/* Invariants final and users-keep */
TEST_F(fallback, parked_is_final)
{
	struct channel *ch = self->ch;
	int attach = attach_open();
	__u32 id;

	ASSERT_LE(0, attach);
	id = give_ioasid(_metadata, &ch[0], self->fd);
	start_stream(_metadata, &ch[0], BUF_LEN, 100, 1);
	test_cmd_free(self->fd, 1, &id);
	expect_blocked(&ch[0]);

	EXPECT_EQ(-ESHUTDOWN, pdma_set_ioasid(&ch[1].dev, self->fd, id));
	EXPECT_EQ(-ESHUTDOWN, attach_ids(attach, self->engine.name, self->fd, 1,
					 &id, 0));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&ch[0].dev, IOVA, BUF_LEN, 100, 1));
	expect_blocked(&ch[0]);

	/* The reset stops the stream; restart it with the same PASID */
	EXPECT_EQ(0, pci_reset(self->engine.name));
	EXPECT_EQ(0, refused(&ch[0]));
	poison(&ch[0]);
	ASSERT_TRUE(bar_stream(&self->engine.bar,
			       bar_find_channel(&self->engine.bar, id), IOVA,
			       4096, 100));
	EXPECT_TRUE(wait_refused(&ch[0], 10));
	EXPECT_TRUE(is_poison(&ch[0]));
	EXPECT_EQ(IOASID_STATE_PARKED, ioasid_state(self->fd, id));
	close(attach);
}

/* Invariants no-reuse and charged, and the recycled PASID is fully usable */
TEST_F(fallback, number_is_recycled_with_its_last_user)
{
	struct channel *ch = self->ch;
	__u32 id, got;

	id = give_ioasid(_metadata, &ch[0], self->fd);
	start_stream(_metadata, &ch[0], BUF_LEN, 100, 1);
	test_cmd_free(self->fd, 1, &id);
	test_set_in_use(self->fd, 0, 1);
	test_err_alloc(ENOSPC, self->fd, id, id, 1, &got);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&ch[0].dev));

	/* Also through the other channel: the device keeps no stale entry */
	test_cmd_alloc(self->fd, id, id, 1, &got);
	ASSERT_EQ(id, got);
	test_set_in_use(self->fd, 1, 0);
	ASSERT_EQ(0, pdma_set_ioasid(&ch[1].dev, self->fd, id));
	start_stream(_metadata, &ch[1], BUF_LEN, 100, 1);
}

/* Detach a parked IOASID while another is in use */
TEST_F(fallback, others_of_the_device_go_on)
{
	struct channel *ch = self->ch;
	__u32 id[2];
	int i;

	for (i = 0; i < 2; i++) {
		id[i] = give_ioasid(_metadata, &ch[i], self->fd);
		start_stream(_metadata, &ch[i], BUF_LEN, 100, 1);
	}
	test_cmd_free(self->fd, 1, &id[0]);
	expect_blocked(&ch[0]);
	expect_running(_metadata, &ch[1]);
	channel_close(&ch[0]);
	expect_running(_metadata, &ch[1]);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, id[0]));
	EXPECT_EQ(0, refused(&ch[1]));
}

/* An entry parked by the park operations must be unparked by them */
TEST_F(fallback, hooks_are_hidden_only_while_nothing_is_attached)
{
	struct channel *ch = self->ch;
	__u32 id;

	EXPECT_EQ(-EBUSY, pdma_write_file(NO_PARK_FILE, self->engine.name));

	/* A channel's domain uses the operations present when it was opened */
	channel_remove(_metadata, &ch[0], self->pid);
	ASSERT_EQ(0, pdma_write_file(NO_PARK_FILE, "none"));
	channel_open(_metadata, &ch[0], self->engine.name);
	id = give_ioasid(_metadata, &ch[0], self->fd);
	EXPECT_EQ(-EBUSY, pdma_write_file(NO_PARK_FILE, self->engine.name));
	test_cmd_free(self->fd, 1, &id);
	EXPECT_EQ(-EBUSY, pdma_write_file(NO_PARK_FILE, self->engine.name));
	ASSERT_EQ(0, pdma_drop_all_ioasids(&ch[0].dev));
	EXPECT_EQ(0, pdma_write_file(NO_PARK_FILE, self->engine.name));
}

TEST_HARNESS_MAIN

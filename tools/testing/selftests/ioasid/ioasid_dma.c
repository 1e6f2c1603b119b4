// SPDX-License-Identifier: GPL-2.0-only
/*
 * Effects of an IOASID on DMA. The device is an emulated engine, driven through
 * mediated devices. Results are checked in memory, in the engine's counters,
 * and in what the kernel and the IOMMU report.
 *
 * A channel counts as blocked only after the engine has retried and failed.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "ioasid_fixture.h"

/* An address that is never mapped */
#define BAD_IOVA 0x40000000ULL

#define expect_state(state, fd, id) EXPECT_EQ((int)(state), ioasid_state(fd, id))

#define wait_child(pid) do {						\
	int __status;							\
									\
	ASSERT_EQ(pid, waitpid(pid, &__status, 0));			\
	ASSERT_EQ(0, __status);						\
} while (0)

/* One engine and two of its channels, one variant per kind of engine */
DMA_TEST_SUITE(dma)

TEST_F(dma, active_number_lets_dma_through)
{
	struct channel *ch = &self->ch[0];
	__u64 faults = bar_recorded(&self->engine.bar);
	char *buf = (char *)ch->buf;
	struct ioasid_query query;
	__u32 id;
	int i;

	/* Fails without an IOASID */
	EXPECT_EQ(-ENXIO, pdma_copy(&ch->dev, IOVA, IOVA + BUF_LEN / 2, 8));

	id = give_ioasid(_metadata, ch, self->fd);
	for (i = 0; i < BUF_LEN / 2; i++)
		buf[BUF_LEN / 2 + i] = i * 7 + i / 256;
	EXPECT_EQ(0, pdma_copy_wait(&ch->dev, IOVA, IOVA + BUF_LEN / 2,
				    BUF_LEN / 2));
	EXPECT_EQ(0, memcmp(buf, buf + BUF_LEN / 2, BUF_LEN / 2));

	start_stream(_metadata, ch, BUF_LEN, 50, 8);
	test_cmd_query(self->fd, id, &query);
	EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
	EXPECT_EQ(1, query.users);
	EXPECT_EQ(1, query.attachments);
	EXPECT_EQ(0, refused(ch));
	EXPECT_EQ(faults, bar_recorded(&self->engine.bar));
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/* Invariant no-reuse */
TEST_F(dma, number_is_not_reused_while_referenced)
{
	struct channel *ch = &self->ch[0];
	int other = ioasid_open();
	__u32 id, got, ids[512];
	int i;

	ASSERT_LE(0, other);
	id = give_ioasid(_metadata, ch, self->fd);
	test_cmd_free(self->fd, 1, &id);

	/* It cannot be allocated, neither explicitly nor by chance */
	expect_state(IOASID_STATE_PARKED, self->fd, id);
	test_err_alloc(ENOSPC, self->fd, id, id, 1, &got);
	test_err_alloc(ENOSPC, other, id, id, 1, &got);
	test_cmd_alloc(self->fd, 0, 0, ARRAY_LEN(ids), ids);
	for (i = 0; i < ARRAY_LEN(ids); i++)
		EXPECT_NE(id, ids[i]);
	test_cmd_free(self->fd, ARRAY_LEN(ids), ids);
	usleep(20000);
	test_err_alloc(ENOSPC, self->fd, id, id, 1, &got);
	expect_state(IOASID_STATE_PARKED, self->fd, id);
	EXPECT_EQ(id, pdma_get_ioasid(&ch->dev));

	/* Free after the last put: alloc flushes the recycle worker */
	EXPECT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
	test_cmd_alloc(other, id, id, 1, &got);
	EXPECT_EQ(id, got);
	test_err_query(ENOENT, self->fd, id);
	expect_state(IOASID_STATE_ACTIVE, other, id);
}

TEST_F(dma, number_of_closed_file_is_not_reused_while_referenced)
{
	struct channel *ch = &self->ch[0];
	int owner = ioasid_open();
	__u32 id, got;

	ASSERT_LE(0, owner);
	id = give_ioasid(_metadata, ch, owner);
	close(owner);

	test_set_in_use(self->fd, 0, 1);
	test_err_query(ENOENT, self->fd, id);
	test_err_alloc(ENOSPC, self->fd, id, id, 1, &got);
	usleep(20000);
	test_err_alloc(ENOSPC, self->fd, id, id, 1, &got);
	EXPECT_EQ(id, pdma_get_ioasid(&ch->dev));

	/* This time, closing the device drops the last reference */
	channel_close(ch);
	test_cmd_alloc(self->fd, id, id, 1, &got);
	EXPECT_EQ(id, got);
	test_set_in_use(self->fd, 1, 0);
}

/*
 * Invariant synchronous, for all of @ch, which share an IOASID in each round.
 * Returns the number of writes seen after the free.
 */
static int late_writes(struct __test_metadata *_metadata, int fd,
		       struct channel *ch, int nr_ch, int rounds, bool by_close)
{
	static const struct {
		__u32 len, period, burst;
	} streams[] = {
		/* One page; a few; the whole buffer, i.e. always new pages */
		{ 4096, 50, 1 }, { 3 * 4096, 20, 4 }, { BUF_LEN, 100, 64 },
	};
	int round, i, owner = fd, late = 0;
	__u32 id;

	for (round = 0; round < rounds; round++) {
		if (by_close) {
			owner = ioasid_open();
			ASSERT_LE(0, owner);
		}
		test_cmd_alloc(owner, 0, 0, 1, &id);
		for (i = 0; i < nr_ch; i++) {
			int k = (round + i) % ARRAY_LEN(streams);

			ASSERT_EQ(0, pdma_set_ioasid(&ch[i].dev, owner, id));
			start_stream(_metadata, &ch[i], streams[k].len,
				     streams[k].period, streams[k].burst);
		}
		if (by_close)
			close(owner);
		else
			test_cmd_free(owner, 1, &id);
		for (i = 0; i < nr_ch; i++)
			late += late_write(_metadata, &ch[i]);
	}
	return late;
}

TEST_F(dma, no_write_after_free_returns)
{
	__u64 faults = bar_recorded(&self->engine.bar);

	EXPECT_EQ(0, late_writes(_metadata, self->fd, self->ch, 1, times(225),
				 false));
	EXPECT_EQ(faults, bar_recorded(&self->engine.bar));
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_F(dma, no_write_after_close_returns)
{
	__u64 faults = bar_recorded(&self->engine.bar);

	EXPECT_EQ(0, late_writes(_metadata, -1, self->ch, 1, times(225), true));
	EXPECT_EQ(faults, bar_recorded(&self->engine.bar));
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/* Free a batch of IOASIDs, two of which are in use, by one call */
TEST_F(dma, no_write_after_free_of_many_returns)
{
	__u32 ids[256];
	int i, k;

	for (i = 0; i < 4; i++) {
		test_cmd_alloc(self->fd, 0, 0, ARRAY_LEN(ids), ids);
		ASSERT_EQ(0, pdma_set_ioasid(&self->ch[0].dev, self->fd,
					     ids[i]));
		ASSERT_EQ(0, pdma_set_ioasid(&self->ch[1].dev, self->fd,
					     ids[255 - i]));
		for (k = 0; k < 2; k++)
			start_stream(_metadata, &self->ch[k], 4096, 50, 1);
		test_cmd_free(self->fd, ARRAY_LEN(ids), ids);
		for (k = 0; k < 2; k++)
			expect_blocked(&self->ch[k]);
	}
}

/* A stream started directly on the engine must stay blocked */
static void expect_still_blocked(struct __test_metadata *_metadata,
				 struct engine *engine, struct channel *ch,
				 unsigned int nr, __u32 id)
{
	__u64 faults = bar_recorded(&engine->bar);

	bar_stop(&engine->bar, nr);
	bar_set_pasid(&engine->bar, nr, PDMA_PASID_VALID | id);
	ASSERT_TRUE(bar_stream(&engine->bar, nr, IOVA, ch->len, 50));
	expect_blocked(ch);
	/* No fault is reported, so the entry is neither plain nor unmapped */
	EXPECT_EQ(faults, bar_recorded(&engine->bar));
	bar_stop(&engine->bar, nr);
}

/* Invariant final */
TEST_F(dma, parked_is_final)
{
	struct pdma_bar *bar = &self->engine.bar;
	struct channel *ch = &self->ch[0];
	void *buf = (void *)ch->buf;
	__u32 id;
	int nr;

	id = give_ioasid(_metadata, ch, self->fd);
	start_stream(_metadata, ch, 4096, 50, 1);
	nr = bar_find_channel(bar, id);
	ASSERT_LE(0, nr);
	test_cmd_free(self->fd, 1, &id);
	expect_blocked(ch);

	/* Requests through the driver */
	EXPECT_EQ(-ESHUTDOWN, pdma_set_ioasid(&ch->dev, self->fd, id));
	EXPECT_EQ(-ESHUTDOWN, pdma_set_ioasid(&self->ch[1].dev, self->fd, id));
	EXPECT_EQ(0, pdma_get_ioasid(&self->ch[1].dev));
	expect_blocked(ch);
	EXPECT_EQ(0, pdma_stop(&ch->dev));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&ch->dev, IOVA, 4096, 50, 1));
	EXPECT_EQ(-ESHUTDOWN, pdma_copy(&ch->dev, IOVA, IOVA + 4096, 4096));
	expect_still_blocked(_metadata, &self->engine, ch, nr, id);

	/* After a reset of the channel, and with new mappings */
	EXPECT_EQ(0, pdma_reset(&ch->dev));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&ch->dev, IOVA, 4096, 50, 1));
	expect_still_blocked(_metadata, &self->engine, ch, nr, id);
	EXPECT_EQ(0, pdma_unmap(&ch->dev, IOVA, BUF_LEN));
	EXPECT_EQ(0, pdma_map(&ch->dev, buf, IOVA, BUF_LEN));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&ch->dev, IOVA, 4096, 50, 1));
	expect_still_blocked(_metadata, &self->engine, ch, nr, id);

	/* After a function level reset, which also clears device caches */
	ASSERT_EQ(0, pci_reset(self->engine.name));
	EXPECT_EQ(variant->ats, pci_ats_enabled(self->engine.name));
	expect_still_blocked(_metadata, &self->engine, ch, nr, id);

	expect_state(IOASID_STATE_PARKED, self->fd, id);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/*
 * Invariants final and users-keep: attach to the device races with free by the
 * owner. A third thread keeps the channel busy, so that the attaching thread
 * has already looked up the IOASID and waits for the channel when it is parked.
 */
struct racer {
	struct channel *ch;
	int fd;
	__u32 id;
	int phase;
	int ret;
};

#define RACER_READY	1
#define RACER_DONE	2

static void *keep_busy(void *arg)
{
	struct racer *r = arg;

	while (__atomic_load_n(&r->phase, __ATOMIC_SEQ_CST) != RACER_DONE) {
		pdma_stream(&r->ch->dev, IOVA, BUF_LEN, 1000, 1);
		pdma_stop(&r->ch->dev);
	}
	return NULL;
}

static void *give_number(void *arg)
{
	struct racer *r = arg;

	__atomic_store_n(&r->phase, RACER_READY, __ATOMIC_SEQ_CST);
	r->ret = pdma_set_ioasid(&r->ch->dev, r->fd, r->id);
	return NULL;
}

TEST_F(dma, attach_races_with_free)
{
	struct channel *ch = &self->ch[0];
	pthread_t busy, thread;
	int round, nr, given = 0;
	volatile int spin;
	__u32 id, got;

	ch->len = 4096;
	for (round = 0; round < 40; round++) {
		struct racer racer = { .ch = ch, .fd = self->fd };

		/* The busy thread uses this one, and keeps it attached */
		id = give_ioasid(_metadata, ch, self->fd);
		nr = channel_nr(&self->engine.bar, ch, id);
		ASSERT_LE(0, nr);
		ASSERT_EQ(0, pthread_create(&busy, NULL, keep_busy, &racer));
		test_cmd_alloc(self->fd, 0, 0, 1, &racer.id);
		ASSERT_EQ(0, pthread_create(&thread, NULL, give_number,
					    &racer));
		ASSERT_TRUE(wait_until(__atomic_load_n(&racer.phase,
						       __ATOMIC_SEQ_CST)));
		for (spin = 0; spin < round % 20 * 1000; spin++)
			;
		test_cmd_free(self->fd, 1, &racer.id);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		__atomic_store_n(&racer.phase, RACER_DONE, __ATOMIC_SEQ_CST);
		ASSERT_EQ(0, pthread_join(busy, NULL));

		if (racer.ret) {
			/* Already parked, or already gone at lookup */
			EXPECT_TRUE(racer.ret == -ESHUTDOWN ||
				    racer.ret == -ENOENT);
			EXPECT_EQ(id, pdma_get_ioasid(&ch->dev));
			EXPECT_TRUE(ioasid_wait_recycled(self->fd, racer.id));
		} else {
			given++;
			test_err_alloc(ENOSPC, self->fd, racer.id, racer.id, 1,
				       &got);
			/* Even if the driver has never used it */
			expect_still_blocked(_metadata, &self->engine, ch, nr,
					     racer.id);
			bar_set_pasid(&self->engine.bar, nr, 0);
		}
		ASSERT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
		test_cmd_free(self->fd, 1, &id);
	}
	TH_LOG("%d of %d numbers were attached before they were parked", given,
	       round);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
}

/* Invariant silent */
TEST_F(dma, refused_requests_are_silent_and_others_are_reported)
{
	struct pdma_bar *bar = &self->engine.bar;
	struct channel *parked = &self->ch[0], *bad = &self->ch[1];
	__u64 faults, suppressed, before;
	__u32 parked_id, bad_id;
	int nr, seen = 0;
	char msg[8192];
	char pasid[32];

	bad_id = give_ioasid(_metadata, bad, self->fd);
	nr = channel_nr(bar, bad, bad_id);
	ASSERT_LE(0, nr);
	parked_id = give_ioasid(_metadata, parked, self->fd);
	start_stream(_metadata, parked, 4096, 100, 64);

	faults = bar_recorded(bar);
	suppressed = bar_suppressed(bar);
	before = refused(parked);
	test_cmd_free(self->fd, 1, &parked_id);
	ASSERT_TRUE(wait_refused(parked, 10000));
	EXPECT_LE(10000, bar_suppressed(bar) - suppressed);
	EXPECT_LE(10000, refused(parked) - before);
	EXPECT_EQ(faults, bar_recorded(bar));
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));

	/* Meanwhile, the other channel accesses an unmapped address */
	kmsg_expect_faults(self->kmsg, true);
	snprintf(pasid, sizeof(pasid), "PASID 0x%x]", bad_id);
	suppressed = bar_suppressed(bar);
	ASSERT_TRUE(bar_stream(bar, nr, BAD_IOVA, 4096, 1000));
	EXPECT_TRUE(wait_until(bar_recorded(bar) >= faults + 5));
	/* The log is rate-limited to a few messages in five seconds */
	EXPECT_TRUE(wait_until_ms(({
		while (kmsg_next(self->kmsg, msg, sizeof(msg)) > 0) {
			if (!strstr(msg, " PASID 0x"))
				continue;
			/* Only faults of this PASID, never of the parked one */
			EXPECT_TRUE(!!strstr(msg, pasid)) TH_LOG("%s", msg);
			seen++;
		}
		seen;
	}), IOASID_WAIT_MS));
	EXPECT_LT(suppressed, bar_suppressed(bar));
	bar_stop(bar, nr);
	before = bar_refused(bar, nr);
	EXPECT_LE(5, before);
	/* Faults are reported by a threaded interrupt handler: let it finish */
	while (usleep(100000), kmsg_faults(self->kmsg, 0) > 0)
		;
	kmsg_expect_faults(self->kmsg, false);

	faults = bar_recorded(bar);
	ASSERT_TRUE(wait_refused(parked, 1000));
	EXPECT_EQ(faults, bar_recorded(bar));
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_F(dma, recycled_number_is_plain_again)
{
	struct pdma_bar *bar = &self->engine.bar;
	struct channel *ch = &self->ch[0];
	__u64 faults;
	__u32 id, got;
	int nr;

	id = give_ioasid(_metadata, ch, self->fd);
	nr = channel_nr(bar, ch, id);
	ASSERT_LE(0, nr);
	start_stream(_metadata, ch, 4096, 50, 1);
	test_cmd_free(self->fd, 1, &id);
	expect_blocked(ch);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
	ASSERT_TRUE(ioasid_wait_recycled(self->fd, id));

	/* Faults of a device that uses the recycled PASID are reported again */
	kmsg_expect_faults(self->kmsg, true);
	faults = bar_recorded(bar);
	bar_set_pasid(bar, nr, PDMA_PASID_VALID | id);
	ASSERT_TRUE(bar_stream(bar, nr, IOVA, 4096, 1000));
	EXPECT_TRUE(wait_until(bar_recorded(bar) >= faults + 3));
	bar_stop(bar, nr);
	bar_set_pasid(bar, nr, 0);
	while (usleep(100000), kmsg_faults(self->kmsg, 0) > 0)
		;
	kmsg_expect_faults(self->kmsg, false);

	/* The next owner can use it normally, repeatedly */
	for (int i = 0; i < 5; i++) {
		test_cmd_alloc(self->fd, id, id, 1, &got);
		ASSERT_EQ(0, pdma_set_ioasid(&ch->dev, self->fd, id));
		start_stream(_metadata, ch, 4096, 50, 1);
		test_cmd_free(self->fd, 1, &id);
		expect_blocked(ch);
		EXPECT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
	}
}

/* Invariant charged */
TEST_F(dma, parked_counts_against_quota)
{
	struct channel *ch = self->ch;
	__u32 id[2], ids[4];
	int i;

	test_cmd_set_quota(self->fd, 4);
	for (i = 0; i < 2; i++) {
		id[i] = give_ioasid(_metadata, &ch[i], self->fd);
		test_cmd_free(self->fd, 1, &id[i]);
	}
	test_set_in_use(self->fd, 0, 2);

	/* Parked IOASIDs use up the quota while their users hold them */
	test_err_alloc(EDQUOT, self->fd, 0, 0, 3, ids);
	test_set_in_use(self->fd, 0, 2);
	test_cmd_alloc(self->fd, 0, 0, 2, ids);
	test_set_in_use(self->fd, 2, 2);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, ids + 2);

	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, pdma_drop_all_ioasids(&ch[i].dev));
		test_cmd_alloc(self->fd, 0, 0, 1, &ids[2 + i]);
		test_set_in_use(self->fd, 3 + i, 1 - i);
		test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &id[0]);
	}
}

/* Invariant users-keep */
TEST_F(dma, holder_may_use_parked_object)
{
	struct channel *ch = &self->ch[0];
	struct ioasid_query query;
	struct ioasid_row row;
	__u32 id;

	id = give_ioasid(_metadata, ch, self->fd);
	start_stream(_metadata, ch, 4096, 50, 1);
	test_cmd_free(self->fd, 1, &id);

	test_cmd_query(self->fd, id, &query);
	EXPECT_EQ(IOASID_STATE_PARKED, query.state);
	EXPECT_EQ(1, query.users);
	EXPECT_EQ(1, query.attachments);
	EXPECT_EQ(id, pdma_get_ioasid(&ch->dev));
	ASSERT_EQ(0, debugfs_ioasid(id, &row));
	EXPECT_STREQ("parked", row.state);
	EXPECT_EQ(1, row.users);
	EXPECT_EQ(1, row.attachments);
	test_err_free(ENOENT, self->fd, 1, &id);

	EXPECT_EQ(0, pdma_stop(&ch->dev));
	EXPECT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
	EXPECT_EQ(0, pdma_get_ioasid(&ch->dev));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, id));
	EXPECT_EQ(-ENOENT, debugfs_ioasid(id, &row));
	test_set_in_use(self->fd, 0, 0);
}

TEST_F(dma, replacing_a_parked_number_lets_go_of_it)
{
	struct channel *ch = &self->ch[0];
	__u32 id, next;

	id = give_ioasid(_metadata, ch, self->fd);
	start_stream(_metadata, ch, 4096, 50, 1);
	test_cmd_free(self->fd, 1, &id);
	expect_blocked(ch);
	next = give_ioasid(_metadata, ch, self->fd);
	EXPECT_NE(id, next);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, id));
	start_stream(_metadata, ch, 4096, 50, 1);
	test_set_in_use(self->fd, 1, 0);
}

TEST_F(dma, fdinfo_lists_parked_numbers)
{
	char path[64], text[4096], expected[64];
	__u32 id;

	id = give_ioasid(_metadata, &self->ch[0], self->fd);
	test_cmd_free(self->fd, 1, &id);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", self->fd);
	ASSERT_EQ(0, pdma_read_file(path, text, sizeof(text)));
	EXPECT_TRUE(!!strstr(text, "\nioasid-parked:\t1\n"));
	snprintf(expected, sizeof(expected), "\nioasid-parked-ids:\t%u", id);
	EXPECT_TRUE(!!strstr(text, expected)) TH_LOG("%s", text);
	EXPECT_TRUE(!!strstr(text, "\nioasid-active-ids:\t\n"));
}

/* Stack traces of the users of @id, truncated to @len; empty if unsupported */
static void read_refs(__u32 id, char *text, size_t len)
{
	FILE *f = fopen("/sys/kernel/debug/ioasid/refs", "r");
	char line[512], begin[32];
	bool ours = false;
	size_t n = 0;

	text[0] = 0;
	if (!f)
		return;
	snprintf(begin, sizeof(begin), "PASID %u\n", id);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "PASID ", 6))
			ours = !strcmp(line, begin);
		else if (ours && n < len)
			n += snprintf(text + n, len - n, "%s", line);
	}
	fclose(f);
}

static void expect_holders(struct __test_metadata *_metadata, int fd, __u32 id,
			   const char *holders)
{
	char path[64], text[4096], expected[128];
	struct ioasid_row row;

	ASSERT_EQ(0, debugfs_ioasid(id, &row));
	EXPECT_STREQ("parked", row.state);
	EXPECT_STREQ(holders, row.holders);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	ASSERT_EQ(0, pdma_read_file(path, text, sizeof(text)));
	snprintf(expected, sizeof(expected),
		 "\nioasid-parked-users:\t%u %s", id, holders);
	EXPECT_TRUE(!!strstr(text, expected)) TH_LOG("%s", text);
}

/* How an administrator finds out why a PASID stays parked */
TEST_F(dma, holders_of_a_parked_number_can_be_found)
{
	struct ioasid_query query;
	char refs[8192];
	struct kvm_vm vm;
	int i, ret;
	__u32 id;

	ret = vm_open(&vm);
	if (ret == -ENOENT)
		SKIP(return, "no KVM");
	ASSERT_EQ(0, ret);
	vm.dev = kvm_ioasid_create(vm.vm);
	ASSERT_LE(0, vm.dev);
	id = give_ioasid(_metadata, &self->ch[0], self->fd);
	for (i = 0; i < 3; i++)
		test_cmd_map_add(vm.dev, self->fd, id, i);
	test_cmd_free(self->fd, 1, &id);
	expect_holders(_metadata, self->fd, id, "mdev=1,kvm=3");

	if (!access("/sys/kernel/debug/ioasid/refs", F_OK)) {
		read_refs(id, refs, sizeof(refs));
		EXPECT_TRUE(!!strstr(refs, "kvm_ioasid_")) TH_LOG("%s", refs);
		EXPECT_TRUE(!!strstr(refs, "vfio_ioasids_")) TH_LOG("%s", refs);
		EXPECT_TRUE(!!strstr(refs, "has 3/4 users"));
		EXPECT_TRUE(!!strstr(refs, "has 1/4 users"));
	}

	test_cmd_map_del(vm.dev, 1);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->ch[0].dev));
	/* KVM drops its reference after a grace period */
	wait_until(ioasid_query(self->fd, id, &query) || query.users == 2);
	expect_holders(_metadata, self->fd, id, "kvm=2");
	if (!access("/sys/kernel/debug/ioasid/refs", F_OK)) {
		read_refs(id, refs, sizeof(refs));
		EXPECT_TRUE(!strstr(refs, "vfio_ioasids_")) TH_LOG("%s", refs);
		EXPECT_TRUE(!!strstr(refs, "has 2/2 users"));
	}
	vm_close(&vm);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, id));
	read_refs(id, refs, sizeof(refs));
	EXPECT_STREQ("", refs);
}

TEST_F(dma, parking_one_does_not_disturb_another)
{
	__u64 faults = bar_recorded(&self->engine.bar);
	struct channel *parked = &self->ch[0], *other = &self->ch[1];
	int round;
	__u32 id;

	give_ioasid(_metadata, other, self->fd);
	start_stream(_metadata, other, 4096, 50, 1);
	for (round = 0; round < 10; round++) {
		id = give_ioasid(_metadata, parked, self->fd);
		start_stream(_metadata, parked, 4096, 50, 1);
		test_cmd_free(self->fd, 1, &id);
		expect_blocked(parked);
		expect_running(_metadata, other);
	}
	EXPECT_EQ(0, refused(other));
	EXPECT_EQ(faults, bar_recorded(&self->engine.bar));
}

TEST_F(dma, kill_of_the_owner_blocks_dma)
{
	struct channel *ch = &self->ch[0];
	int owner, round;
	pid_t pid;
	__u32 id;

	for (round = 0; round < 3; round++) {
		owner = ioasid_open();
		ASSERT_LE(0, owner);
		id = give_ioasid(_metadata, ch, owner);
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			pause();
			_exit(0);
		}
		/* Now only the child holds the file */
		close(owner);
		start_stream(_metadata, ch, 4096, 50, 1);
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
		expect_blocked(ch);
		test_set_in_use(self->fd, 0, 1);
		EXPECT_EQ(id, pdma_get_ioasid(&ch->dev));
		EXPECT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
		EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	}
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_F(dma, kill_of_owner_and_user_leaves_nothing)
{
	volatile int *ready = map_shared(sizeof(int));
	__u64 faults = bar_recorded(&self->engine.bar);
	struct channel *ch = &self->ch[0];
	int owner = ioasid_open();
	__u32 id, got;
	pid_t pid;

	ASSERT_NE(NULL, ready);
	ASSERT_LE(0, owner);
	id = give_ioasid(_metadata, ch, owner);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		start_stream(_metadata, ch, 4096, 50, 1);
		*ready = 1;
		pause();
		_exit(0);
	}
	ASSERT_TRUE(wait_until(*ready));
	ASSERT_NE(0, ch->buf[1]);
	/* Now everything is held by the child; the memory is shared with it */
	close(owner);
	channel_close(ch);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	poison(ch);

	test_cmd_alloc(self->fd, id, id, 1, &got);
	EXPECT_EQ(id, got);
	test_set_in_use(self->fd, 1, 0);
	usleep(20000);
	EXPECT_TRUE(is_poison(ch));
	EXPECT_EQ(faults, bar_recorded(&self->engine.bar));
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/* Events of one IOASID, in order */
struct life {
	__u32 id;
	char events[1024];
};

static bool is_event_of(const char *args, __u32 id)
{
	unsigned int nr;

	return sscanf(args, "id=%u", &nr) == 1 && nr == id;
}

static void add_event(const char *event, const char *args, void *data)
{
	struct life *life = data;
	size_t len = strlen(life->events);

	if (is_event_of(args, life->id))
		snprintf(life->events + len, sizeof(life->events) - len,
			 "%s%s", len ? " " : "", event);
}

TEST_F(dma, trace_events_tell_one_life)
{
	static const char *const events[] = { "ioasid:*", NULL };
	struct channel *ch = &self->ch[0];
	struct life life = {};

	ASSERT_EQ(0, trace_start(events));
	life.id = give_ioasid(_metadata, ch, self->fd);
	start_stream(_metadata, ch, 4096, 50, 1);
	test_cmd_free(self->fd, 1, &life.id);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&ch->dev));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, life.id));

	EXPECT_EQ(0, trace_for_each(add_event, &life));
	trace_stop();
	EXPECT_STREQ("ioasid_alloc ioasid_get ioasid_attach "
		     "ioasid_park ioasid_block ioasid_put "
		     "ioasid_detach ioasid_put ioasid_recycle", life.events);
}

/* Descriptors submitted to the invalidation queue while an IOASID is parked */
struct flush {
	__u32 id;
	bool parking, draining;
	char steps[256];
	__u64 pasid_cache, iotlb, dev_tlb;
};

static void add_flush(const char *event, const char *args, void *data)
{
	struct flush *flush = data;
	size_t len = strlen(flush->steps);
	char type[32];
	__u64 qw0;

	if (!strcmp(event, "ioasid_park") && is_event_of(args, flush->id))
		flush->parking = true;
	if (!strcmp(event, "ioasid_block") && is_event_of(args, flush->id))
		flush->parking = false;
	if (!flush->parking || strcmp(event, "qi_submit") ||
	    sscanf(args, "%31s %*s 0x%llx", type, &qw0) != 2)
		return;

	/* The page request drain comes last and starts with a wait */
	if (!strcmp(type, "inv_wait"))
		flush->draining = true;
	if (flush->draining)
		return;

	if (!strcmp(type, "pc_inv"))
		flush->pasid_cache = qw0;
	else if (!strcmp(type, "iotlb_inv") || !strcmp(type, "p_iotlb_inv"))
		flush->iotlb = qw0;
	else if (!strcmp(type, "p_dev_tlb_inv"))
		flush->dev_tlb = qw0;
	/* The IOTLB flush is by PASID only for first-stage translation */
	snprintf(flush->steps + len, sizeof(flush->steps) - len, "%s%s",
		 len ? " " : "", strcmp(type, "p_iotlb_inv") ? type :
		 "iotlb_inv");
}

#define QI_TYPE(qw0)	((qw0) & 0xf)
#define QI_WAIT		5
#define QI_PASID_CACHE	7
#define QI_DID(qw0)	(((qw0) >> 16) & 0xffff)
#define QI_PASID(qw0)	(((qw0) >> 32) & 0xfffff)

/*
 * Read the types of the descriptors in the invalidation queue, starting at the
 * last PASID cache invalidation for @id, as hexadecimal digits
 */
static int read_queue(__u32 id, char *types, size_t len)
{
	FILE *f = fopen("/sys/kernel/debug/iommu/intel/invalidation_queue",
			"r");
	unsigned long long qw0[256] = {}, val;
	unsigned int index, head = 0, first;
	char line[256];

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		char *p = strstr(line, "Head: ");

		if (p)
			head = atoi(p + 6);
		else if (sscanf(line, "%u %llx", &index, &val) == 2 &&
			 index < ARRAY_LEN(qw0))
			qw0[index] = val;
	}
	fclose(f);

	for (first = (head + 255) % 256; first != head;
	     first = (first + 255) % 256) {
		if (QI_TYPE(qw0[first]) != QI_PASID_CACHE ||
		    QI_PASID(qw0[first]) != id)
			continue;
		for (; first != head && len > 1; first = (first + 1) % 256) {
			snprintf(types, len, "%llx", QI_TYPE(qw0[first]));
			types++;
			len--;
		}
		return 0;
	}
	return -ENOENT;
}

/* Invariant synchronous: flush in VT-d's order, waiting for each step */
TEST_F(dma, park_flushes_in_the_order_of_the_specification)
{
	static const char *const events[] = {
		"ioasid:ioasid_park", "ioasid:ioasid_block",
		"intel_iommu:qi_submit", NULL,
	};
	struct channel *ch = &self->ch[0];
	struct flush flush = {};
	char queue[64] = "", *p;

	flush.id = give_ioasid(_metadata, ch, self->fd);
	start_stream(_metadata, ch, 4096, 50, 1);
	ASSERT_EQ(0, trace_start(events));
	test_cmd_free(self->fd, 1, &flush.id);
	ASSERT_EQ(0, read_queue(flush.id, queue, sizeof(queue)));
	EXPECT_EQ(0, trace_for_each(add_flush, &flush));
	trace_stop();

	EXPECT_STREQ(variant->ats ? "pc_inv iotlb_inv p_dev_tlb_inv" :
				    "pc_inv iotlb_inv", flush.steps);
	EXPECT_EQ(flush.id, QI_PASID(flush.pasid_cache));
	EXPECT_EQ(QI_DID(flush.pasid_cache), QI_DID(flush.iotlb));
	EXPECT_NE(0, QI_DID(flush.iotlb));
	if (variant->ats)
		EXPECT_EQ(flush.id, QI_PASID(flush.dev_tlb));

	/* The waits are not traced: PASID cache, wait, IOTLB, wait, ... */
	for (p = queue; *p; p++)
		if (*p == '6')
			*p = '2';
	if (flush.draining)
		queue[strlen("752585")] = 0;
	EXPECT_STREQ(variant->ats ? "752585" : "7525", queue);
}

/* Two engines, with one channel each and a shared IOASID */
FIXTURE(both)
{
	pid_t pid;
	int fd;
	int kmsg;
	struct engine engine[2];
	struct channel ch[2];
};

FIXTURE_SETUP(both)
{
	int i;

	self->pid = getpid();
	skip_for(setup_ioasid(_metadata, &self->fd));
	for (i = 0; i < 2; i++)
		skip_for(setup_engine(&self->engine[i], i));
	setup_kmsg(_metadata, &self->kmsg);
	for (i = 0; i < 2; i++)
		channel_open(_metadata, &self->ch[i], self->engine[i].name);
}

FIXTURE_TEARDOWN_PARENT(both)
{
	int i;

	for (i = 0; i < 2; i++)
		channel_remove(_metadata, &self->ch[i], self->pid);
}

TEST_F(both, no_write_after_close_of_a_shared_number_returns)
{
	EXPECT_EQ(0, late_writes(_metadata, -1, self->ch, 2, 50, true));
	EXPECT_EQ(0, late_writes(_metadata, self->fd, self->ch, 2, 50, false));
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_F(both, each_user_of_a_shared_number_is_counted)
{
	struct ioasid_query query;
	__u32 id, got;
	int i;

	id = give_ioasid(_metadata, &self->ch[0], self->fd);
	ASSERT_EQ(0, pdma_set_ioasid(&self->ch[1].dev, self->fd, id));
	for (i = 0; i < 2; i++)
		start_stream(_metadata, &self->ch[i], 4096, 50, 1);
	test_cmd_query(self->fd, id, &query);
	EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
	EXPECT_EQ(2, query.users);
	EXPECT_EQ(2, query.attachments);

	/* One device detaches from an ACTIVE IOASID: the other continues */
	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->ch[1].dev));
	test_cmd_query(self->fd, id, &query);
	EXPECT_EQ(1, query.users);
	EXPECT_EQ(1, query.attachments);
	expect_running(_metadata, &self->ch[0]);
	ASSERT_EQ(0, pdma_set_ioasid(&self->ch[1].dev, self->fd, id));

	test_cmd_free(self->fd, 1, &id);
	for (i = 0; i < 2; i++) {
		test_cmd_query(self->fd, id, &query);
		EXPECT_EQ(IOASID_STATE_PARKED, query.state);
		EXPECT_EQ(2 - i, query.users);
		EXPECT_EQ(2 - i, query.attachments);
		test_err_alloc(ENOSPC, self->fd, id, id, 1, &got);
		EXPECT_EQ(0, pdma_drop_all_ioasids(&self->ch[i].dev));
	}
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, id));
}

/*
 * Invariant final: a user that detaches removes its entry, but the PASID is
 * still allocated. The entry must stay blocked and silent until the PASID is
 * recycled.
 */
TEST_F(both, detach_leaves_a_parked_entry_blocked)
{
	int i, nr[2];
	__u32 id;

	id = give_ioasid(_metadata, &self->ch[0], self->fd);
	ASSERT_EQ(0, pdma_set_ioasid(&self->ch[1].dev, self->fd, id));
	for (i = 0; i < 2; i++) {
		nr[i] = channel_nr(&self->engine[i].bar, &self->ch[i], id);
		ASSERT_LE(0, nr[i]);
		start_stream(_metadata, &self->ch[i], 4096, 50, 1);
	}
	test_cmd_free(self->fd, 1, &id);
	for (i = 0; i < 2; i++)
		expect_blocked(&self->ch[i]);

	EXPECT_EQ(0, pdma_drop_all_ioasids(&self->ch[0].dev));
	expect_still_blocked(_metadata, &self->engine[0], &self->ch[0], nr[0],
			     id);
	bar_set_pasid(&self->engine[0].bar, nr[0], 0);
	/* The other channel is unaffected */
	expect_blocked(&self->ch[1]);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/*
 * Runs after exec, where only descriptors are left. @argv: descriptors of the
 * file, the device, and the VM and its device, which belong to the old address
 * space. Returns the number of the step that failed.
 */
static int rebuild(char **argv)
{
	int fd = atoi(argv[2]), old_vm = atoi(argv[4]), old_dev = atoi(argv[5]);
	struct vfio_device_ioasid held[8];
	struct ioasid_list_entry own[8];
	bool has[8] = {};
	struct pdma_dev dev;
	__u32 i, k, n = ARRAY_LEN(own);
	struct kvm_vm vm;
	int count;

	pdma_init(&dev);
	dev.device = atoi(argv[3]);
	if (ioasid_list(fd, 0, &n, own) || n != 3)
		return 1;
	count = pdma_list_ioasids(&dev, 0, ARRAY_LEN(held), held);
	if (count != 2)
		return 2;
	for (i = 0; i < 2; i++) {
		for (k = 0; k < n && own[k].id != held[i].id; k++)
			;
		if (k == n || own[k].state != held[i].state ||
		    own[k].attachments != 1 ||
		    held[i].flags != VFIO_DEVICE_IOASID_ATTACHED)
			return 3;
		has[k] = true;
	}

	/* The old VM keeps its mappings and rejects new ones */
	if (kvm_ioasid_add(old_dev, fd, own[0].id, 9) != -EIO)
		return 4;
	if (vm_open(&vm))
		return 5;
	vm.dev = kvm_ioasid_create(vm.vm);
	if (vm.dev < 0)
		return 6;
	for (k = 0; k < n; k++) {
		if (kvm_ioasid_add(vm.dev, fd, own[k].id, k + 1) !=
		    (own[k].state == IOASID_STATE_ACTIVE ? 0 : -ESHUTDOWN))
			return 7;
	}
	close(old_dev);
	close(old_vm);

	/* Held by the device if attached, and by the new VM if ACTIVE */
	n = ARRAY_LEN(own);
	if (ioasid_list(fd, 0, &n, own) || n != 3)
		return 8;
	for (k = 0; k < n; k++) {
		bool active = own[k].state == IOASID_STATE_ACTIVE;

		if (own[k].users != has[k] + active)
			return 9;
	}
	vm_close(&vm);
	return 0;
}

TEST_F(dma, executed_program_rebuilds_its_tables)
{
	struct channel *ch = &self->ch[0];
	char arg[4][16];
	struct kvm_vm vm;
	int fds[4], i;
	__u32 ids[3];
	pid_t pid;

	test_cmd_alloc(self->fd, 0, 0, 3, ids);
	ASSERT_EQ(0, pdma_add_ioasid(&ch->dev, self->fd, ids[0]));
	ASSERT_EQ(0, pdma_add_ioasid(&ch->dev, self->fd, ids[2]));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (vm_open(&vm) == -ENOENT)
			_exit(KSFT_SKIP);
		vm.dev = kvm_ioasid_create(vm.vm);
		ASSERT_LE(0, vm.dev);
		test_cmd_map_add(vm.dev, self->fd, ids[0], 1);
		test_cmd_map_add(vm.dev, self->fd, ids[1], 2);
		test_cmd_free(self->fd, 1, &ids[2]);

		fds[0] = self->fd;
		fds[1] = ch->dev.device;
		fds[2] = vm.vm;
		fds[3] = vm.dev;
		for (i = 0; i < 4; i++) {
			ASSERT_EQ(0, fcntl(fds[i], F_SETFD, 0));
			snprintf(arg[i], sizeof(arg[i]), "%d", fds[i]);
		}
		execl("/proc/self/exe", "ioasid_dma", "--rebuild", arg[0],
		      arg[1], arg[2], arg[3], NULL);
		_exit(99);
	}
	ASSERT_EQ(pid, waitpid(pid, &i, 0));
	if (WIFEXITED(i) && WEXITSTATUS(i) == KSFT_SKIP)
		SKIP(return, "no KVM");
	ASSERT_EQ(0, i) TH_LOG("step %d", WEXITSTATUS(i));
	/* Only the device's references are left */
	EXPECT_EQ(ids[0], pdma_get_ioasid(&ch->dev));
	EXPECT_TRUE(wait_until(ioasid_state(self->fd, ids[1]) ==
			       IOASID_STATE_ACTIVE));
	expect_state(IOASID_STATE_PARKED, self->fd, ids[2]);
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "--rebuild"))
		return rebuild(argv);
	return test_harness_run(argc, argv);
}

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A mediated device of the DMA engine whose first channel streams to memory which
 * a test watches
 *
 * For programs that include kselftest_harness.h.
 */
#ifndef __SELFTEST_IOASID_CHANNEL_H
#define __SELFTEST_IOASID_CHANNEL_H

#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "pdma_utils.h"

#define IOVA 0x100000ULL
#define BUF_LEN PDMA_MAX_LEN

#define POISON 0x5a

struct engine {
	char name[NAME_MAX + 1];
	struct pdma_bar bar;
};

/* A mediated device, opened, with memory at IOVA */
struct channel {
	char uuid[PDMA_UUID_LEN + 1];
	struct pdma_dev dev;
	const void *regs;
	volatile __u64 *buf;
	__u32 len;		/* of the stream */
};

static inline int find_engine(struct engine *engine, bool ats)
{
	unsigned int nth;

	for (nth = 0; !pdma_find_parent(nth, engine->name); nth++)
		if (pci_ats_enabled(engine->name) == ats)
			return bar_map(&engine->bar, engine->name);
	return -ENODEV;
}

/* A device that nobody has open, and the memory for it */
static inline void channel_create(struct __test_metadata *_metadata,
				  struct channel *ch, const char *parent)
{
	void *buf = mmap(NULL, BUF_LEN, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	ASSERT_NE(MAP_FAILED, buf);
	ch->buf = buf;
	ch->len = BUF_LEN;
	ASSERT_EQ(0, pdma_create(parent, ch->uuid));
}

static inline int channel_connect(struct channel *ch)
{
	int ret = pdma_open_cdev(&ch->dev, ch->uuid, NULL);

	if (ret)
		return ret;
	ch->regs = pdma_map_status(&ch->dev);
	if (!ch->regs)
		return -errno;
	return pdma_map(&ch->dev, (void *)ch->buf, IOVA, BUF_LEN);
}

static inline void channel_open(struct __test_metadata *_metadata,
				struct channel *ch, const char *parent)
{
	channel_create(_metadata, ch, parent);
	ASSERT_EQ(0, channel_connect(ch));
}

/* Nothing of the device is left in this process */
static inline void channel_close(struct channel *ch)
{
	if (ch->regs)
		pdma_unmap_status(ch->regs);
	ch->regs = NULL;
	pdma_close(&ch->dev);
}

/*
 * In the parent of the test, where nothing is open any more; or in the test
 * itself, when an assertion has failed.
 */
static inline void channel_remove(struct __test_metadata *_metadata,
				  struct channel *ch, pid_t opener)
{
	if (getpid() == opener)
		channel_close(ch);
	EXPECT_EQ(0, pdma_remove(ch->uuid));
}

static inline __u64 counter(struct channel *ch)
{
	return pdma_mmio64(ch->regs, PDMA_COUNTER);
}

static inline __u64 done(struct channel *ch)
{
	return pdma_mmio64(ch->regs, PDMA_DONE_COUNT);
}

static inline __u64 refused(struct channel *ch)
{
	return pdma_mmio64(ch->regs, PDMA_REFUSED_COUNT);
}

static inline bool wait_refused(struct channel *ch, __u64 more)
{
	__u64 min = refused(ch) + more;

	return wait_until(refused(ch) >= min);
}

static inline void poison(struct channel *ch)
{
	memset((void *)ch->buf, POISON, ch->len);
}

static inline bool is_poison(struct channel *ch)
{
	__u64 all;
	__u32 i;

	memset(&all, POISON, sizeof(all));
	for (i = 0; i < ch->len / sizeof(all); i++)
		if (ch->buf[i] != all)
			return false;
	return true;
}

/* A new number for the channel */
static inline __u32 give_ioasid(struct __test_metadata *_metadata,
				struct channel *ch, int fd)
{
	__u32 id = 0;

	test_cmd_alloc(fd, 0, 0, 1, &id);
	ASSERT_EQ(0, pdma_set_ioasid(&ch->dev, fd, id));
	return id;
}

/*
 * Number of the channel in the engine, or -errno. The driver writes a PASID to the
 * engine with the first command, so that there must be one with @id.
 */
static inline int channel_nr(struct pdma_bar *bar, struct channel *ch, __u32 id)
{
	int ret = pdma_copy_wait(&ch->dev, IOVA, IOVA, 8);

	return ret ? ret : bar_find_channel(bar, id);
}

/* Values arrive, and memory holds what the engine says that it wrote */
static inline void expect_running(struct __test_metadata *_metadata,
				  struct channel *ch)
{
	__u64 min = counter(ch) + 3;
	__u64 slots = ch->len / sizeof(__u64);
	__u64 last, value;

	ASSERT_TRUE(wait_until(counter(ch) >= min));
	last = counter(ch);
	value = ch->buf[last % slots];
	EXPECT_LE(last, value);
	EXPECT_EQ(last % slots, value % slots);
}

static inline void start_stream(struct __test_metadata *_metadata,
				struct channel *ch, __u32 len, __u32 period,
				__u32 burst)
{
	ch->len = len;
	ASSERT_EQ(0, pdma_stream(&ch->dev, IOVA, len, period, burst));
	expect_running(_metadata, ch);
}

/*
 * The call that has just returned must have been the end of all DMA: whether
 * anything was written after it, while the engine went on trying.
 */
static inline bool late_write(struct __test_metadata *_metadata,
			      struct channel *ch)
{
	__u64 arrived, tried;

	/* First: reading a register of the engine flushes its writes */
	poison(ch);
	arrived = done(ch);
	tried = refused(ch);
	ASSERT_TRUE(wait_until(refused(ch) >= tried + 3 ||
			       done(ch) != arrived));
	return done(ch) != arrived || !is_poison(ch);
}

#define expect_blocked(ch) EXPECT_FALSE(late_write(_metadata, ch))

#endif

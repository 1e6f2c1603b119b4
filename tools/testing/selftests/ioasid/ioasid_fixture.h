/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a test of DMA begins with and looks at: set-up, with the reason to skip
 * the test; an engine, and channels of it that stream to memory; whether a
 * channel is running or blocked; suspend of the machine
 *
 * A test needs no other header. For most, DMA_TEST_SUITE() is all the set-up, see
 * ioasid_template.c. What is missing on a machine is told by functions named
 * setup_x(), which return the reason or NULL, for skip_for().
 */
#ifndef __SELFTEST_IOASID_FIXTURE_H
#define __SELFTEST_IOASID_FIXTURE_H

#include "../kselftest_harness.h"
#include "cgroup_utils.h"
#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "kvm_utils.h"
#include "pdma_utils.h"

#define ARRAY_LEN(x) (sizeof(x) / sizeof((x)[0]))

#define IOVA 0x100000ULL
#define BUF_LEN PDMA_MAX_LEN

#define POISON 0x5a

/* Set-up */

/* In FIXTURE_SETUP(): skip the test for @_why, NULL: do not */
#define skip_for(_why) do {						\
	const char *__why = (_why);					\
									\
	if (__why)							\
		SKIP(return, "%s", __why);				\
} while (0)

static inline const char *setup_ioasid(struct __test_metadata *_metadata,
				       int *fd)
{
	*fd = ioasid_open();
	if (*fd == -ENOENT)
		return "no " IOASID_DEV;
	ASSERT_LE(0, *fd);
	return NULL;
}

static inline void setup_kmsg(struct __test_metadata *_metadata, int *fd)
{
	*fd = kmsg_open();
	ASSERT_LE(0, *fd);
}

/* A machine that can hold IOASIDs */
static inline const char *setup_vm(struct __test_metadata *_metadata,
				   struct kvm_vm *vm)
{
	int ret = vm_open(vm);

	if (ret == -ENOENT)
		return "no KVM";
	ASSERT_EQ(0, ret);
	vm->dev = kvm_ioasid_create(vm->vm);
	if (vm->dev == -ENODEV)
		return "KVM does not hold IOASIDs";
	ASSERT_LE(0, vm->dev);
	return NULL;
}

/* For tests of which any engine will do */
static inline const char *setup_parent(char parent[NAME_MAX + 1])
{
	return pdma_find_parent(0, parent) ? "no PASID DMA engine" : NULL;
}

/* An engine with ATS, which a test gives to another driver for a while */
struct lent {
	char name[NAME_MAX + 1];
	bool ours;		/* it has that driver now */
};

/* @unfit: why the engine will not do for the test, or NULL */
static inline const char *setup_lent(struct __test_metadata *_metadata,
				     struct lent *engine, const char *driver,
				     const char *(*unfit)(const char *name))
{
	static char missing[64];
	char path[PDMA_PATH_LEN];
	const char *why;

	if (pci_find_engine(engine->name))
		return "no engine with ATS";
	snprintf(path, sizeof(path), PCI_DRIVERS "%.64s", driver);
	snprintf(missing, sizeof(missing), "no driver %.32s", driver);
	if (!pdma_exists(path))
		return missing;
	why = unfit ? unfit(engine->name) : NULL;
	if (why)
		return why;
	ASSERT_EQ(0, pci_set_driver(engine->name, driver));
	engine->ours = true;
	return NULL;
}

/* In the parent of the test, where nothing of it is open any more */
static inline void give_back(struct __test_metadata *_metadata,
			     struct lent *engine)
{
	if (engine->ours)
		EXPECT_EQ(0, pci_set_driver(engine->name, ""));
}

/* For setup_lent() */
static inline const char *unfit_for_sva(const char *name)
{
	if (!has_first_stage(name))
		return "the IOMMU has no first-stage translation";
	if (sva_is_refused())
		return "this kernel refuses SVA, and IOASID_SVA is not set";
	return NULL;
}

/* Memory that a device may write to */

static inline void poison_buf(volatile void *buf, size_t len)
{
	memset((void *)buf, POISON, len);
}

static inline bool buf_is_poison(const volatile void *buf, size_t len)
{
	const volatile char *byte = buf;

	return byte[0] == POISON &&
	       !memcmp((const void *)byte, (const void *)(byte + 1), len - 1);
}

/* Long compared with the period of a stream, short compared with a timeout */
#define A_WHILE_MS 50

/* Nothing is written to the buffer any more */
static inline bool is_still(const volatile void *buf, size_t len)
{
	char *before = malloc(len);
	bool ret;

	memcpy(before, (const void *)buf, len);
	pdma_sleep_ms(A_WHILE_MS);
	ret = !memcmp(before, (const void *)buf, len);
	free(before);
	return ret;
}

/* Engine and channels */

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

static inline const char *setup_engine(struct engine *engine, bool ats)
{
	if (!find_engine(engine, ats))
		return NULL;
	return ats ? "no engine with ATS" : "no engine without ATS";
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
	poison_buf(ch->buf, ch->len);
}

static inline bool is_poison(struct channel *ch)
{
	return buf_is_poison(ch->buf, ch->len);
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

/*
 * A fixture with a /dev/ioasid file, the kernel log and two channels, which are
 * open and have no IOASID yet. Its tests run for an engine without ATS and for
 * one with it.
 */
#define DMA_TEST_SUITE(_name)						\
FIXTURE(_name)								\
{									\
	pid_t pid;							\
	int fd;								\
	int kmsg;							\
	struct engine engine;						\
	struct channel ch[2];						\
};									\
									\
FIXTURE_VARIANT(_name)							\
{									\
	bool ats;							\
};									\
									\
FIXTURE_VARIANT_ADD(_name, plain) { .ats = false };			\
FIXTURE_VARIANT_ADD(_name, ats) { .ats = true };			\
									\
FIXTURE_SETUP(_name)							\
{									\
	int i;								\
									\
	self->pid = getpid();						\
	skip_for(setup_ioasid(_metadata, &self->fd));			\
	skip_for(setup_engine(&self->engine, variant->ats));		\
	setup_kmsg(_metadata, &self->kmsg);				\
	for (i = 0; i < ARRAY_LEN(self->ch); i++)			\
		channel_open(_metadata, &self->ch[i], self->engine.name); \
}									\
									\
FIXTURE_TEARDOWN_PARENT(_name)						\
{									\
	int i;								\
									\
	for (i = 0; i < ARRAY_LEN(self->ch); i++)			\
		channel_remove(_metadata, &self->ch[i], self->pid);	\
}

/* Suspend of the machine */

#define STATE "/sys/power/state"
#define MEM_SLEEP "/sys/power/mem_sleep"
#define PM_TEST "/sys/power/pm_test"
#define ALARM "/sys/class/rtc/rtc0/wakealarm"

/* In seconds: longer than it takes to suspend */
#define ALARM_DELAY "+20"

static inline bool file_has(const char *path, const char *word)
{
	char text[256];

	return !pdma_read_file(path, text, sizeof(text)) && strstr(text, word);
}

/* Why the machine cannot be suspended, or NULL */
static inline const char *cannot_suspend(const char *pm_test)
{
	if (!file_has(STATE, "mem") || !file_has(MEM_SLEEP, "deep"))
		return "no suspend to RAM";
	if (strcmp(pm_test, "none")) {
		if (!file_has(PM_TEST, pm_test))
			return "no " PM_TEST;
	} else if (!getenv("IOASID_WAKE") && !pdma_exists(ALARM)) {
		return "nothing wakes this machine, it has no " ALARM;
	}
	return NULL;
}

/*
 * @pm_test: "none" is the real thing, in which devices lose their registers;
 * "core" turns the IOMMU off and on again, and lets devices have their power.
 */
static inline int suspend_machine(const char *pm_test)
{
	bool alarm = !strcmp(pm_test, "none") && !getenv("IOASID_WAKE");
	int ret;

	ret = pdma_write_file(MEM_SLEEP, "deep");
	if (!ret && pdma_exists(PM_TEST))
		ret = pdma_write_file(PM_TEST, pm_test);
	/* The time that the test of the core takes */
	if (!ret && strcmp(pm_test, "none"))
		ret = pdma_write_file("/sys/module/suspend/parameters/pm_test_delay",
				      "1");
	if (!ret && alarm) {
		pdma_write_file(ALARM, "0");
		ret = pdma_write_file(ALARM, ALARM_DELAY);
	}
	if (!ret)
		ret = pdma_write_file(STATE, "mem");
	if (pdma_exists(PM_TEST))
		pdma_write_file(PM_TEST, "none");
	return ret;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Common setup and checks of the DMA tests: skipping tests that the machine
 * cannot run, an engine with channels that stream to memory, checking whether a
 * channel is running or blocked, and suspend
 *
 * Tests include only this header. Most need no setup other than
 * DMA_TEST_SUITE(), see ioasid_template.c. Functions named setup_x() return
 * NULL, or the reason why the machine cannot run the test, for use with
 * skip_for().
 */
#ifndef __SELFTEST_IOASID_FIXTURE_H
#define __SELFTEST_IOASID_FIXTURE_H

#include <sched.h>

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

/* In FIXTURE_SETUP(): skip the test if @_why is not NULL */
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

/* Set up a machine that can hold IOASIDs */
static inline const char *setup_vm(struct __test_metadata *_metadata,
				   struct kvm_vm *vm)
{
	int ret = vm_open(vm);

	if (ret == -ENOENT)
		return "no KVM";
	ASSERT_EQ(0, ret);
	vm->dev = kvm_ioasid_create(vm->vm);
	if (vm->dev == -ENODEV)
		return "KVM does not support IOASIDs";
	ASSERT_LE(0, vm->dev);
	return NULL;
}

/* For tests that work with any engine */
static inline const char *setup_parent(char parent[NAME_MAX + 1])
{
	return pdma_find_parent(0, parent) ? "no PASID DMA engine" : NULL;
}

/* An engine with ATS that is temporarily bound to another driver */
struct lent {
	char name[NAME_MAX + 1];
	bool ours;		/* bound to that driver now */
};

/* @unfit: returns NULL, or why the test cannot use the engine */
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

/* Called in the parent of the test, after all files of the test are closed */
static inline void give_back(struct __test_metadata *_metadata,
			     struct lent *engine)
{
	if (engine->ours)
		EXPECT_EQ(0, pci_set_driver(engine->name, ""));
}

/* An @unfit callback of setup_lent() */
static inline const char *unfit_for_sva(const char *name)
{
	if (!has_first_stage(name))
		return "the IOMMU has no first-stage translation";
	if (sva_is_refused())
		return "this kernel refuses SVA, and IOASID_SVA is not set";
	return NULL;
}

/* PASIDs of processes (SVA) */

/*
 * Run on each CPU once: an idle CPU keeps the mm of the last process that ran
 * there, and thereby its PASID.
 */
static inline void visit_all_cpus(void)
{
	cpu_set_t all, one;
	int cpu;

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

/* Returns whether the PASID of a process that is gone becomes free */
static inline bool wait_process_free(int fd, __u32 id)
{
	__u32 got;

	return wait_until(({
		visit_all_cpus();
		!ioasid_alloc(fd, id, id, 1, &got);
	})) && !ioasid_free(fd, 1, &id);
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

/* Long compared with the period of a stream, short compared with any timeout */
#define A_WHILE_MS 50

/* Nothing writes to the buffer */
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

/* Engines and channels */

struct engine {
	char name[NAME_MAX + 1];
	struct pdma_bar bar;
};

/* An open mediated device, with memory mapped at IOVA */
struct channel {
	char uuid[PDMA_UUID_LEN + 1];
	struct pdma_dev dev;
	const void *regs;
	volatile __u64 *buf;
	__u32 len;		/* length of the stream */
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

/* Create a device and its memory, without opening it */
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

/* Release all of the device's resources in this process */
static inline void channel_close(struct channel *ch)
{
	if (ch->regs)
		pdma_unmap_status(ch->regs);
	ch->regs = NULL;
	pdma_close(&ch->dev);
}

/*
 * Called in the parent of the test, where the device is not open, or in the
 * test itself after a failed assertion
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

/* Replace the channel's IOASID by a new one */
static inline __u32 give_ioasid(struct __test_metadata *_metadata,
				struct channel *ch, int fd)
{
	__u32 id = 0;

	test_cmd_alloc(fd, 0, 0, 1, &id);
	ASSERT_EQ(0, pdma_set_ioasid(&ch->dev, fd, id));
	return id;
}

/*
 * Number of the channel in the engine, or -errno. The driver writes a PASID to
 * the engine only with the first command, so a command with @id must have been
 * submitted.
 */
static inline int channel_nr(struct pdma_bar *bar, struct channel *ch, __u32 id)
{
	int ret = pdma_copy_wait(&ch->dev, IOVA, IOVA, 8);

	return ret ? ret : bar_find_channel(bar, id);
}

/* Values arrive in memory, and match what the engine reports */
static inline void expect_running(struct __test_metadata *_metadata,
				  struct channel *ch)
{
	__u64 min = counter(ch) + 3;
	__u64 slots = ch->len / sizeof(__u64);
	__u64 last, value;

	ASSERT_TRUE(wait_until(counter(ch) >= min))
		TH_LOG("the stream stopped at %llu, %llu requests were refused",
		       counter(ch), refused(ch));
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
 * To be called right after a call that must have ended all DMA. Returns whether
 * anything was written since, while the engine kept trying.
 */
static inline bool late_write(struct __test_metadata *_metadata,
			      struct channel *ch)
{
	__u64 arrived, tried;

	/* Poison first: reading a register of the engine flushes its writes */
	poison(ch);
	arrived = done(ch);
	tried = refused(ch);
	ASSERT_TRUE(wait_until(refused(ch) >= tried + 3 ||
			       done(ch) != arrived));
	return done(ch) != arrived || !is_poison(ch);
}

#define expect_blocked(ch) EXPECT_FALSE(late_write(_metadata, ch))

/*
 * Define a fixture with a /dev/ioasid file, the kernel log and two open
 * channels that have no IOASID yet. The tests run once on an engine without ATS
 * and once on an engine with ATS.
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

/* Suspend */

#define STATE "/sys/power/state"
#define MEM_SLEEP "/sys/power/mem_sleep"
#define PM_TEST "/sys/power/pm_test"
#define ALARM "/sys/class/rtc/rtc0/wakealarm"

/* In seconds; must be longer than it takes to suspend */
#define ALARM_DELAY "+20"

static inline bool file_has(const char *path, const char *word)
{
	char text[256];

	return !pdma_read_file(path, text, sizeof(text)) && strstr(text, word);
}

/* Returns NULL, or why the machine cannot be suspended */
static inline const char *cannot_suspend(const char *pm_test)
{
	if (!file_has(STATE, "mem") || !file_has(MEM_SLEEP, "deep"))
		return "no suspend to RAM";
	if (strcmp(pm_test, "none")) {
		if (!file_has(PM_TEST, pm_test))
			return "no " PM_TEST;
	} else if (!getenv("IOASID_WAKE") && !pdma_exists(ALARM)) {
		return "nothing can wake this machine: no " ALARM;
	}
	return NULL;
}

/*
 * @pm_test: with "none", the machine really suspends and devices lose their
 * register contents; with "core", the IOMMU is disabled and enabled again but
 * devices keep power.
 */
static inline int suspend_machine(const char *pm_test)
{
	bool alarm = !strcmp(pm_test, "none") && !getenv("IOASID_WAKE");
	int ret;

	ret = pdma_write_file(MEM_SLEEP, "deep");
	if (!ret && pdma_exists(PM_TEST))
		ret = pdma_write_file(PM_TEST, pm_test);
	/* How long the suspend test waits before it resumes */
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

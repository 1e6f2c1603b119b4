// SPDX-License-Identifier: GPL-2.0-only
/*
 * PASIDs of Intel's Data Streaming Accelerator (DSA): the PASID that its driver, idxd,
 * allocates for the kernel, PASIDs of processes (SVA), and IOASIDs under vfio-pci. The
 * tests also run on real hardware, see Documentation/driver-api/ioasid.rst.
 *
 * They use a DSA that is disabled, and leave it disabled.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "ioasid_fixture.h"
#include "dsa_utils.h"

#define PAGE 4096
/* Memory of a transfer, several pages */
#define MOVE_LEN (8 * PAGE)
/* Transfers that a process has in flight, fewer than fit into the queue */
#define NR_MOVES 8

/* Written by a child process that keeps the device busy */
struct shared {
	int error;		/* that it ended with */
	__u32 moved;		/* transfers that have arrived */
};

#define load(ptr) __atomic_load_n(ptr, __ATOMIC_SEQ_CST)
#define store(ptr, val) __atomic_store_n(ptr, val, __ATOMIC_SEQ_CST)

/* Returns NULL, or why there is none */
static const char *find_dsa(struct dsa *dsa)
{
	int ret;

	if (!pdma_exists(DSA_BUS "/drivers/idxd"))
		return "no driver idxd";
	ret = dsa_find(dsa);
	if (ret == -ENODEV)
		return "no DSA that idxd drives";
	return ret ? "every DSA is in use" : NULL;
}

struct rig {
	struct dsa dsa;
	const char *driver;	/* of WQ 0, NULL if the device is disabled */
	int fd;
	int kmsg;
	struct shared *shared;
	volatile char *buf;	/* NR_MOVES * MOVE_LEN, shared with processes of the test */
};

/* Returns NULL, or why the test cannot run */
static const char *setup(struct __test_metadata *_metadata, struct rig *rig)
{
	const char *why = setup_ioasid(_metadata, &rig->fd);
	char on[8];

	if (!why)
		why = find_dsa(&rig->dsa);
	if (why)
		return why;
	if (dsa_read(&rig->dsa, "pasid_enabled", on, sizeof(on)) ||
	    strcmp(on, "1"))
		return "idxd has no PASIDs: scalable mode, page requests or SVA are missing";
	/* idxd of 6.12 dereferences NULL when it disables a device without one */
	if (dsa_read(&rig->dsa, "event_log_size", on, sizeof(on)) == -ENOENT &&
	    kernel_is_before(7, 0))
		return "idxd of this kernel cannot disable a DSA without event log";
	if (dsa_map_regs(&rig->dsa))
		return "the registers of the DSA cannot be read";
	setup_kmsg(_metadata, &rig->kmsg);
	rig->buf = map_shared(NR_MOVES * MOVE_LEN);
	rig->shared = map_shared(sizeof(*rig->shared));
	ASSERT_NE(NULL, rig->buf);
	ASSERT_NE(NULL, rig->shared);
	return NULL;
}

static const char *setup_user(struct __test_metadata *_metadata, struct rig *rig)
{
	const char *why = setup(_metadata, rig);

	return why ? why : unfit_for_sva(rig->dsa.pci);
}

static void disable(struct __test_metadata *_metadata, struct rig *rig)
{
	if (dsa_wq_is_enabled(&rig->dsa))
		EXPECT_EQ(0, dsa_disable_wq(&rig->dsa, rig->driver));
	if (!dsa_is(&rig->dsa, "disabled"))
		EXPECT_EQ(0, dsa_disable(&rig->dsa));
	EXPECT_TRUE(dsa_is(&rig->dsa, "disabled"));
	rig->driver = NULL;
}

static void enable(struct __test_metadata *_metadata, struct rig *rig,
		   const char *type, const char *driver)
{
	int ret;

	rig->driver = driver;
	ret = dsa_enable(&rig->dsa, type, driver);
	if (!ret && !dsa_wq_is_enabled(&rig->dsa))
		ret = -EIO;
	/* There is no teardown if the setup fails */
	if (ret)
		disable(_metadata, rig);
	ASSERT_EQ(0, ret);
}

/* A queue of the kernel */

FIXTURE(kernel)
{
	struct rig rig;
};

FIXTURE_SETUP(kernel)
{
	struct rig *rig = &self->rig;

	skip_for(setup(_metadata, rig));
	enable(_metadata, rig, "kernel", "dmaengine");
	/* The file pasid_enabled is about PASIDs of processes only */
	if (!dsa_wq_pasid(&rig->dsa)) {
		disable(_metadata, rig);
		SKIP(return, "idxd has no PASID for the DMA API");
	}
}

FIXTURE_TEARDOWN_PARENT(kernel)
{
	if (self->rig.driver)
		disable(_metadata, &self->rig);
}

/* idxd attaches the domain of the DMA API to its PASID */
TEST_F(kernel, pasid_of_the_driver_is_in_the_shared_number_space)
{
	struct rig *rig = &self->rig;
	__u32 pasid = dsa_wq_pasid(&rig->dsa);

	expect_taken(rig->fd, pasid);
	disable(_metadata, rig);
	/* The PASID belongs to the driver, not to the queue */
	expect_taken(rig->fd, pasid);

	ASSERT_EQ(0, pci_write(rig->dsa.pci, "driver/unbind", rig->dsa.pci));
	expect_free(rig->fd, pasid);
	ASSERT_EQ(0, pdma_write_file("/sys/bus/pci/drivers_probe", rig->dsa.pci));
	enable(_metadata, rig, "kernel", "dmaengine");
	pasid = dsa_wq_pasid(&rig->dsa);
	EXPECT_NE(0, pasid);
	expect_taken(rig->fd, pasid);
}

#define DMATEST "/sys/module/dmatest/parameters/"

/* The DMA channel of the DSA */
static int find_channel(struct rig *rig, char name[NAME_MAX + 1])
{
	char path[PDMA_PATH_LEN + NAME_MAX], real[PATH_MAX];
	struct dirent *entry;
	int ret = -ENODEV;
	DIR *dir;

	dir = opendir("/sys/class/dma");
	if (!dir)
		return -errno;
	while (ret && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/class/dma/%s/device",
			 entry->d_name);
		if (!realpath(path, real) ||
		    strcmp(strrchr(real, '/') + 1, rig->dsa.pci))
			continue;
		snprintf(name, NAME_MAX + 1, "%s", entry->d_name);
		ret = 0;
	}
	closedir(dir);
	return ret;
}

/* Read the summary that dmatest's only thread logs at its end */
static int dmatest_summary(int kmsg, unsigned int *tests, unsigned int *failures)
{
	char msg[8192], *at;
	int ret;

	while ((ret = kmsg_next(kmsg, msg, sizeof(msg))) > 0) {
		at = strstr(msg, ": summary ");
		if (at && strstr(msg, "dmatest: ") &&
		    sscanf(at, ": summary %u tests, %u failures", tests,
			   failures) == 2)
			return 0;
	}
	return ret ? ret : -ENODATA;
}

/* Run dmatest on @channel. Returns 0 or -errno. */
static int dmatest_run(const char *channel, unsigned int rounds)
{
	char number[16];
	int ret;

	snprintf(number, sizeof(number), "%u", rounds);
	ret = pdma_write_file(DMATEST "iterations", number);
	snprintf(number, sizeof(number), "%u", IOASID_WAIT_MS);
	if (!ret)
		ret = pdma_write_file(DMATEST "timeout", number);
	if (!ret)
		ret = pdma_write_file(DMATEST "channel", channel);
	return ret ? ret : pdma_write_file(DMATEST "run", "1");
}

TEST_F(kernel, queue_passes_dmatest)
{
	struct rig *rig = &self->rig;
	unsigned int tests = 0, failures = 0, rounds = short_run() ? 50 : 500;
	char channel[NAME_MAX + 1], iterations[16], timeout[16], in_use[32];
	int ret, kmsg;

	if (!pdma_exists(DMATEST))
		SKIP(return, "the module dmatest is not loaded");
	ASSERT_EQ(0, pdma_read_file(DMATEST "channel", in_use, sizeof(in_use)));
	if (in_use[0])
		SKIP(return, "dmatest is in use");
	ASSERT_EQ(0, pdma_read_file(DMATEST "iterations", iterations,
				    sizeof(iterations)));
	ASSERT_EQ(0, pdma_read_file(DMATEST "timeout", timeout,
				    sizeof(timeout)));
	ASSERT_EQ(0, find_channel(rig, channel));
	/* The messages of @rig->kmsg are read below */
	setup_kmsg(_metadata, &kmsg);

	ret = dmatest_run(channel, rounds);
	EXPECT_EQ(0, ret);
	if (!ret)
		EXPECT_TRUE(wait_until(!dmatest_summary(kmsg, &tests, &failures)));
	/* Release the channel; reading its name then also forgets that */
	EXPECT_EQ(0, pdma_write_file(DMATEST "run", "0"));
	EXPECT_EQ(0, pdma_read_file(DMATEST "channel", in_use, sizeof(in_use)));
	EXPECT_STREQ("", in_use);
	EXPECT_EQ(0, pdma_write_file(DMATEST "iterations", iterations));
	EXPECT_EQ(0, pdma_write_file(DMATEST "timeout", timeout));
	EXPECT_EQ(rounds, tests);
	EXPECT_EQ(0, failures);
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

/* Queues of processes */

FIXTURE(user)
{
	struct rig rig;
};

FIXTURE_SETUP(user)
{
	skip_for(setup_user(_metadata, &self->rig));
	enable(_metadata, &self->rig, "user", "user");
}

FIXTURE_TEARDOWN_PARENT(user)
{
	if (self->rig.driver)
		disable(_metadata, &self->rig);
}

static struct dsa_completion_record record
	__attribute__((aligned(sizeof(struct dsa_completion_record))));

/* Memory without any present page */
static volatile char *fresh(struct __test_metadata *_metadata, int prot)
{
	void *buf = mmap(NULL, MOVE_LEN, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);

	ASSERT_NE(MAP_FAILED, buf);
	return buf;
}

static void fill(volatile char *buf, size_t len, char seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		buf[i] = i * 7 + i / 256 + seed;
}

/* A process can open the queue and move memory */
static void expect_usable(struct __test_metadata *_metadata, struct rig *rig)
{
	volatile char *src = fresh(_metadata, PROT_READ | PROT_WRITE);
	volatile char *dst = fresh(_metadata, PROT_READ | PROT_WRITE);
	struct dsa_hw_desc desc = dsa_memmove(&record, dst, src, MOVE_LEN,
					      IDXD_OP_FLAG_BOF);
	struct dsa_queue queue;

	fill(src, MOVE_LEN, 1);
	ASSERT_EQ(0, dsa_open(&rig->dsa, &queue));
	EXPECT_EQ(DSA_COMP_SUCCESS, dsa_execute(&queue, &desc));
	EXPECT_EQ(0, memcmp((void *)src, (void *)dst, MOVE_LEN));
	dsa_close(&queue);
	munmap((void *)src, MOVE_LEN);
	munmap((void *)dst, MOVE_LEN);
}

TEST_F(user, memory_of_a_process_is_moved)
{
	struct rig *rig = &self->rig;
	volatile char *src = fresh(_metadata, PROT_READ | PROT_WRITE);
	volatile char *dst = fresh(_metadata, PROT_READ | PROT_WRITE);
	struct dsa_hw_desc desc = dsa_memmove(&record, dst, src, MOVE_LEN, 0);
	struct dsa_queue queue;
	__u32 pasid;

	fill(src, MOVE_LEN, 0);
	fill(dst, MOVE_LEN, 1);
	ASSERT_EQ(0, dsa_open(&rig->dsa, &queue));
	pasid = dsa_wq_pasid(&rig->dsa);
	EXPECT_NE(0, pasid);
	expect_taken(rig->fd, pasid);
	EXPECT_EQ(1, dsa_wq_clients(&rig->dsa));
	EXPECT_EQ(DSA_COMP_SUCCESS, dsa_execute(&queue, &desc));
	EXPECT_EQ(0, memcmp((void *)src, (void *)dst, MOVE_LEN));
	dsa_close(&queue);
	EXPECT_EQ(0, dsa_wq_clients(&rig->dsa));
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

TEST_F(user, page_requests_are_served)
{
	struct rig *rig = &self->rig;
	volatile char *src = fresh(_metadata, PROT_READ | PROT_WRITE);
	volatile char *dst = fresh(_metadata, PROT_READ | PROT_WRITE);
	struct dsa_hw_desc desc = dsa_memmove(&record, dst, src, MOVE_LEN, 0);
	unsigned char vec[MOVE_LEN / PAGE];
	struct dsa_queue queue;
	int i;

	fill(src, MOVE_LEN, 0);
	ASSERT_EQ(0, dsa_open(&rig->dsa, &queue));
	/* Without BOF, the device does not request pages: it stops at the first one */
	EXPECT_EQ(DSA_COMP_PAGE_FAULT_NOBOF,
		  DSA_COMP_STATUS(dsa_execute(&queue, &desc)));
	EXPECT_EQ((uintptr_t)dst, record.fault_addr);
	EXPECT_EQ(0, record.bytes_completed);
	ASSERT_EQ(0, mincore((void *)dst, MOVE_LEN, vec));
	for (i = 0; i < MOVE_LEN / PAGE; i++)
		EXPECT_EQ(0, vec[i] & 1);

	desc.flags |= IDXD_OP_FLAG_BOF;
	EXPECT_EQ(DSA_COMP_SUCCESS, dsa_execute(&queue, &desc));
	EXPECT_EQ(0, memcmp((void *)src, (void *)dst, MOVE_LEN));
	dsa_close(&queue);
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

TEST_F(user, page_requests_without_permission_are_refused)
{
	struct rig *rig = &self->rig;
	volatile char *src = fresh(_metadata, PROT_READ | PROT_WRITE);
	volatile char *dst = fresh(_metadata, PROT_READ);
	struct dsa_hw_desc desc = dsa_memmove(&record, dst, src, MOVE_LEN,
					      IDXD_OP_FLAG_BOF);
	struct dsa_queue queue;

	fill(src, MOVE_LEN, 0);
	ASSERT_EQ(0, dsa_open(&rig->dsa, &queue));
	EXPECT_EQ(DSA_COMP_PAGE_FAULT_IR,
		  DSA_COMP_STATUS(dsa_execute(&queue, &desc)));
	EXPECT_EQ((uintptr_t)dst, record.fault_addr);
	EXPECT_EQ(0, dst[0]);
	dsa_close(&queue);
	expect_usable(_metadata, rig);
}

static void give_up(struct rig *rig, int error)
{
	store(&rig->shared->error, error);
	_exit(1);
}

/*
 * Child process: move memory forever. Half of the transfers write to @rig->buf, the
 * others to pages that the device must request. A transfer has arrived when its last
 * byte has.
 *
 * The descriptors have no completion records. If the device cannot write a record, it
 * goes to the event log, and idxd copies it from there to the process, even if that is
 * exiting: the copy can fault in a page after the mm was unmapped ("BUG: Bad
 * rss-counter state").
 */
static void keep_busy(struct rig *rig)
{
	struct dsa_hw_desc moves[NR_MOVES];
	volatile char *src, *dst[NR_MOVES];
	struct dsa_queue queue;
	char stamp = 0;
	int i, ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	src = map_shared(NR_MOVES * MOVE_LEN);
	if (!src)
		give_up(rig, -errno);
	memset((void *)src, ~POISON, NR_MOVES * MOVE_LEN);
	memset((void *)rig->buf, 0, NR_MOVES * MOVE_LEN);
	ret = dsa_open(&rig->dsa, &queue);
	if (ret)
		give_up(rig, ret);
	for (i = 0; i < NR_MOVES; i++) {
		dst[i] = rig->buf + i * MOVE_LEN;
		if (i % 2)
			dst[i] = mmap(NULL, MOVE_LEN, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (dst[i] == MAP_FAILED)
			give_up(rig, -errno);
		moves[i] = dsa_memmove(NULL, dst[i], src + i * MOVE_LEN,
				       MOVE_LEN, IDXD_OP_FLAG_BOF);
		moves[i].flags &= ~(IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR);
	}
	for (;;) {
		/* Never 0, which pages are full of before the device writes to them */
		stamp = stamp % 127 + 1;
		for (i = 0; i < NR_MOVES; i++) {
			src[i * MOVE_LEN + MOVE_LEN - 1] = stamp;
			dsa_write_portal(&queue, &moves[i]);
		}
		for (i = 0; i < NR_MOVES; i++) {
			while (dst[i][MOVE_LEN - 1] != stamp)
				;
			store(&rig->shared->moved, rig->shared->moved + 1);
			if (i % 2)
				madvise((void *)dst[i], MOVE_LEN, MADV_DONTNEED);
		}
	}
}

static void expect_moving(struct __test_metadata *_metadata, struct rig *rig)
{
	__u32 before = load(&rig->shared->moved);

	EXPECT_TRUE(wait_until(load(&rig->shared->moved) > before + NR_MOVES));
}

/* Returns when transfers of the process arrive */
static pid_t start_busy(struct __test_metadata *_metadata, struct rig *rig)
{
	pid_t pid;

	rig->shared->error = 0;
	rig->shared->moved = 0;
	pid = fork();
	if (!pid)
		keep_busy(rig);
	ASSERT_LT(0, pid);
	EXPECT_TRUE(wait_until(load(&rig->shared->moved) ||
			       load(&rig->shared->error)));
	EXPECT_EQ(0, rig->shared->error);
	return pid;
}

/* Nothing is written from now on */
static void expect_stopped(struct __test_metadata *_metadata, struct rig *rig,
			   unsigned int ms)
{
	poison_buf(rig->buf, NR_MOVES * MOVE_LEN);
	pdma_sleep_ms(ms);
	EXPECT_TRUE(buf_is_poison(rig->buf, NR_MOVES * MOVE_LEN));
}

static void end(struct __test_metadata *_metadata, pid_t pid)
{
	kill(pid, SIGKILL);
	EXPECT_EQ(pid, waitpid(pid, NULL, 0));
}

TEST_F(user, killed_process_leaves_nothing)
{
	struct rig *rig = &self->rig;
	int round, rounds = times(100);
	__u32 pasid;
	pid_t pid;

	srand(1);
	for (round = 0; round < rounds && !_metadata->exit_code; round++) {
		pid = start_busy(_metadata, rig);
		pasid = dsa_wq_pasid(&rig->dsa);
		EXPECT_NE(0, pasid);
		usleep(rand() % 20000);
		end(_metadata, pid);
		/* Serving a page request delays the end of the mm and its file */
		EXPECT_TRUE(wait_until(!dsa_wq_clients(&rig->dsa)));
		expect_stopped(_metadata, rig, 5);
		EXPECT_TRUE(wait_process_free(rig->fd, pasid));
	}
	TH_LOG("%d processes were killed", round);
	expect_usable(_metadata, rig);
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

/*
 * The device has stopped, while the process still has the file open. It must close it
 * before the queue is enabled again, or idxd loses count of its clients.
 */
static void expect_restart(struct __test_metadata *_metadata, struct rig *rig, pid_t pid,
			   __u32 pasid)
{
	expect_stopped(_metadata, rig, A_WHILE_MS);
	expect_taken(rig->fd, pasid);
	end(_metadata, pid);
	EXPECT_TRUE(wait_process_free(rig->fd, pasid));
	/* idxd of 6.12 does not notice a reset; that of 7.3 enables both again */
	disable(_metadata, rig);
	enable(_metadata, rig, "user", "user");
	expect_usable(_metadata, rig);
}

TEST_F(user, disable_ends_work_in_flight)
{
	struct rig *rig = &self->rig;
	__u32 pasid;
	pid_t pid;
	int i;

	for (i = 0; i < 2; i++) {
		pid = start_busy(_metadata, rig);
		expect_moving(_metadata, rig);
		pasid = dsa_wq_pasid(&rig->dsa);
		/* The queue only, then the device with its queue */
		EXPECT_EQ(0, i ? dsa_disable(&rig->dsa) :
				 dsa_disable_wq(&rig->dsa, rig->driver));
		expect_restart(_metadata, rig, pid, pasid);
	}
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

TEST_F(user, reset_ends_work_in_flight)
{
	struct rig *rig = &self->rig;
	__u32 pasid;
	pid_t pid;

	pid = start_busy(_metadata, rig);
	expect_moving(_metadata, rig);
	pasid = dsa_wq_pasid(&rig->dsa);
	EXPECT_EQ(0, pci_reset(rig->dsa.pci));
	expect_restart(_metadata, rig, pid, pasid);
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

/* Both PASIDs are free after the removal */
TEST_F(user, remove_and_rescan_after_work)
{
	struct rig *rig = &self->rig;
	char pci[sizeof(rig->dsa.pci)];
	__u32 pasid, system;
	pid_t pid;

	disable(_metadata, rig);
	enable(_metadata, rig, "kernel", "dmaengine");
	system = dsa_wq_pasid(&rig->dsa);
	disable(_metadata, rig);
	enable(_metadata, rig, "user", "user");
	pid = start_busy(_metadata, rig);
	expect_moving(_metadata, rig);
	pasid = dsa_wq_pasid(&rig->dsa);
	EXPECT_NE(system, pasid);
	kill(pid, SIGKILL);
	/* idxd of 6.12 uses freed memory if it is enabled when the device goes */
	disable(_metadata, rig);
	EXPECT_EQ(pid, waitpid(pid, NULL, 0));
	dsa_unmap_regs(&rig->dsa);
	strcpy(pci, rig->dsa.pci);
	EXPECT_EQ(0, pci_write(rig->dsa.pci, "remove", "1"));
	expect_stopped(_metadata, rig, A_WHILE_MS);
	EXPECT_TRUE(wait_process_free(rig->fd, pasid));
	if (system)
		expect_free(rig->fd, system);

	ASSERT_EQ(0, pdma_write_file("/sys/bus/pci/rescan", "1"));
	ASSERT_TRUE(wait_until(!dsa_find(&rig->dsa) &&
			       !strcmp(rig->dsa.pci, pci)));
	ASSERT_EQ(0, dsa_map_regs(&rig->dsa));
	enable(_metadata, rig, "user", "user");
	expect_usable(_metadata, rig);
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

/* Run accel-config, whose output goes to the output of the test */
static int accel_config(struct rig *rig, const char *format)
{
	char command[256];
	int n = snprintf(command, sizeof(command), "accel-config ");

	snprintf(command + n, sizeof(command) - n, format, rig->dsa.nr,
		 rig->dsa.nr);
	fflush(stdout);
	return system(command);
}

TEST_F(user, accel_config_configures_the_queue)
{
	struct rig *rig = &self->rig;

	if (system("accel-config --version >/dev/null 2>&1"))
		SKIP(return, "no accel-config");
	disable(_metadata, rig);
	rig->driver = "user";
	EXPECT_EQ(0, accel_config(rig, "config-engine dsa%d/engine%d.0 -g 0"));
	EXPECT_EQ(0, accel_config(rig, "config-wq dsa%d/wq%d.0 -g 0 -s 16 -p 10"));
	EXPECT_EQ(0, accel_config(rig, "config-wq dsa%d/wq%d.0 -m dedicated -b 1"));
	EXPECT_EQ(0, accel_config(rig, "config-wq dsa%d/wq%d.0 -y user -n me -d user"));
	EXPECT_EQ(0, accel_config(rig, "enable-device dsa%d"));
	EXPECT_EQ(0, accel_config(rig, "enable-wq dsa%d/wq%d.0"));
	ASSERT_TRUE(dsa_wq_is_enabled(&rig->dsa));
	expect_usable(_metadata, rig);
	EXPECT_EQ(0, accel_config(rig, "disable-wq dsa%d/wq%d.0"));
	EXPECT_FALSE(dsa_wq_is_enabled(&rig->dsa));
	EXPECT_EQ(0, accel_config(rig, "disable-device dsa%d"));
	EXPECT_TRUE(dsa_is(&rig->dsa, "disabled"));
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));
}

/* Queues under vfio-pci, each with an IOASID */

#define NR_QUEUES 2
/* A transfer that takes about as long as IOASID_FREE */
#define VFIO_LEN (64 * PAGE)
/* An address space has a source, a destination and completion records */
#define DST_LEN (VFIO_LEN + PAGE)
#define SPACE_LEN (VFIO_LEN + DST_LEN)

FIXTURE(vfio)
{
	struct dsa dsa;
	bool ours;		/* vfio-pci has the DSA */
	struct dsa_vfio vfio;
	int kmsg;
	struct space {
		int fd;		/* /dev/ioasid */
		__u32 id;
		__u32 hwpt;
		volatile char *buf;
	} space[NR_QUEUES];
};

static const char *setup_vfio(struct dsa *dsa)
{
	const char *why = find_dsa(dsa);

	if (why)
		return why;
	if (!pdma_exists(PCI_DRIVERS "vfio-pci"))
		return "no driver vfio-pci";
	if (!file_has("/sys/module/vfio_pci/parameters/disable_denylist", "Y"))
		return "vfio-pci refuses DSA without vfio_pci.disable_denylist=1";
	return NULL;
}

static bool takes_ioasids(struct dsa_vfio *vfio)
{
	struct pdma_feature probe = {};

	return pdma_feature_ioasid(&vfio->dev, VFIO_DEVICE_FEATURE_PROBE |
				   VFIO_DEVICE_FEATURE_SET, &probe) != -ENOTTY;
}

/* Let WQ @nr use an IOASID with an address space of its own */
static int setup_space(struct dsa_vfio *vfio, __u32 dev_id,
		       struct space *space, int nr)
{
	struct pdma_dev *dev = &vfio->dev;
	int ret;

	space->buf = pdma_alloc_buffer(SPACE_LEN);
	if (!space->buf)
		return -errno;
	ret = vfio_map_space(dev, space->buf, IOVA, SPACE_LEN);
	if (!ret)
		ret = vfio_alloc_hwpt(dev, dev_id, &space->hwpt);
	if (!ret)
		ret = ioasid_alloc(space->fd, 0, 0, 1, &space->id);
	if (!ret)
		ret = pdma_add_ioasid(dev, space->fd, space->id);
	if (!ret)
		ret = pt_attach(dev, space->id, space->hwpt);
	return ret ? ret : dsa_vfio_enable_wq(vfio, nr, space->id);
}

FIXTURE_SETUP(vfio)
{
	const char *why = NULL;
	__u32 dev_id = 0;
	int i, ret;

	skip_for(setup_vfio(&self->dsa));
	for (i = 0; i < NR_QUEUES; i++)
		skip_for(setup_ioasid(_metadata, &self->space[i].fd));
	setup_kmsg(_metadata, &self->kmsg);
	pdma_init(&self->vfio.dev);
	ret = pci_set_driver(self->dsa.pci, "vfio-pci");
	if (!ret)
		ret = dsa_vfio_open(&self->dsa, &self->vfio, &dev_id);
	if (!ret && !takes_ioasids(&self->vfio))
		why = "vfio-pci does not support IOASIDs";
	if (!ret && !why)
		ret = dsa_vfio_enable(&self->vfio);
	for (i = 0; !ret && !why && i < NR_QUEUES; i++)
		ret = setup_space(&self->vfio, dev_id, &self->space[i], i);
	self->ours = !ret && !why;
	/* There is no teardown if the setup fails */
	if (!self->ours) {
		dsa_vfio_close(&self->vfio);
		EXPECT_EQ(0, pci_set_driver(self->dsa.pci, ""));
	}
	skip_for(why);
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN_PARENT(vfio)
{
	if (self->ours)
		EXPECT_EQ(0, pci_set_driver(self->dsa.pci, ""));
}

/*
 * Copy the first half of the queue's address space to the second half, with the
 * completion record @i
 */
static void vfio_move(FIXTURE_DATA(vfio) *self, int nr, int i)
{
	struct dsa_hw_desc desc = dsa_memmove(NULL, NULL, NULL, VFIO_LEN, 0);
	struct dsa_queue queue = dsa_vfio_queue(&self->vfio, nr);

	desc.src_addr = IOVA;
	desc.dst_addr = IOVA + VFIO_LEN;
	desc.completion_addr = IOVA + 2 * VFIO_LEN +
			       i * sizeof(struct dsa_completion_record);
	dsa_write_portal(&queue, &desc);
}

/* The completion records of a queue */
static struct dsa_completion_record *vfio_record(FIXTURE_DATA(vfio) *self,
						 int nr)
{
	return (void *)self->space[nr].buf + 2 * VFIO_LEN;
}

#define expect_queue_moves(_nr) do {					\
	volatile char *__buf = self->space[_nr].buf;			\
									\
	fill(__buf, VFIO_LEN, rand());					\
	memset(vfio_record(self, _nr), 0, PAGE);			\
	vfio_move(self, _nr, 0);					\
	EXPECT_TRUE(wait_until(dsa_is_complete(vfio_record(self, _nr)))); \
	EXPECT_EQ(DSA_COMP_SUCCESS, vfio_record(self, _nr)->status);	\
	EXPECT_EQ(0, memcmp((void *)__buf, (void *)__buf + VFIO_LEN,	\
			    VFIO_LEN));					\
} while (0)

/*
 * The device executes a transfer, and nothing arrives. That it could not write the
 * completion record either is the proof that it has the descriptor.
 */
#define expect_queue_blocked(_nr) do {					\
	volatile char *__dst = self->space[_nr].buf + VFIO_LEN;		\
									\
	fill(self->space[_nr].buf, VFIO_LEN, rand());			\
	poison_buf(__dst, DST_LEN);					\
	dsa_vfio_clear_error(&self->vfio);				\
	vfio_move(self, _nr, 0);					\
	EXPECT_EQ(0, dsa_vfio_wq(&self->vfio, DSA_DRAIN_WQ, _nr));	\
	EXPECT_TRUE(dsa_vfio_lost_record(&self->vfio, _nr,		\
					 self->space[_nr].id));		\
	EXPECT_TRUE(buf_is_poison(__dst, DST_LEN));			\
} while (0)

TEST_F(vfio, close_of_the_owner_blocks_its_queue_only)
{
	expect_queue_moves(0);
	expect_queue_moves(1);
	close(self->space[0].fd);
	expect_queue_blocked(0);
	expect_queue_moves(1);
	expect_taken(self->space[1].fd, self->space[0].id);

	/* The reference of the device is the last one */
	EXPECT_EQ(0, pdma_drop_ioasid(&self->vfio.dev, self->space[0].id));
	EXPECT_TRUE(ioasid_wait_recycled(self->space[1].fd,
					 self->space[0].id));
	expect_free(self->space[1].fd, self->space[0].id);
	expect_queue_moves(1);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_F(vfio, reset_brings_back_what_is_active_and_nothing_else)
{
	int i;

	expect_queue_moves(0);
	expect_queue_moves(1);
	test_cmd_free(self->space[0].fd, 1, &self->space[0].id);
	ASSERT_EQ(0, ioctl(self->vfio.dev.device, VFIO_DEVICE_RESET));
	ASSERT_EQ(0, dsa_vfio_enable(&self->vfio));
	for (i = 0; i < NR_QUEUES; i++)
		ASSERT_EQ(0, dsa_vfio_enable_wq(&self->vfio, i,
						self->space[i].id));
	expect_queue_blocked(0);
	expect_queue_moves(1);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/*
 * The queue is full of transfers when the owner frees the IOASID. This does not
 * notice a missing device-TLB invalidation in the flush if the device has page
 * requests: draining them invalidates the device TLB, too (VT-d 7.10).
 */
TEST_F(vfio, nothing_arrives_after_free)
{
	struct dsa_completion_record *records = vfio_record(self, 0);
	volatile char *dst = self->space[0].buf + VFIO_LEN;
	int round, i, rounds = times(200), in_flight = 0;
	__u32 *id = &self->space[0].id;

	for (round = 0; round < rounds && !_metadata->exit_code; round++) {
		fill(self->space[0].buf, VFIO_LEN, rand());
		memset(records, 0, PAGE);
		for (i = 0; i < DSA_WQ_SIZE; i++)
			vfio_move(self, 0, i);
		/* The device has cached translations */
		EXPECT_TRUE(wait_until(dsa_is_complete(&records[0])));
		test_cmd_free(self->space[0].fd, 1, id);
		if (!dsa_is_complete(&records[DSA_WQ_SIZE - 1]))
			in_flight++;
		poison_buf(dst, DST_LEN);
		EXPECT_EQ(0, dsa_vfio_wq(&self->vfio, DSA_DISABLE_WQ, 0));
		EXPECT_TRUE(buf_is_poison(dst, DST_LEN));

		EXPECT_EQ(0, pdma_drop_ioasid(&self->vfio.dev, *id));
		test_cmd_alloc(self->space[0].fd, 0, 0, 1, id);
		ASSERT_EQ(0, pdma_add_ioasid(&self->vfio.dev,
					     self->space[0].fd, *id));
		ASSERT_EQ(0, pt_attach(&self->vfio.dev, *id,
				       self->space[0].hwpt));
		ASSERT_EQ(0, dsa_vfio_enable_wq(&self->vfio, 0, *id));
	}
	TH_LOG("%d of %d rounds had transfers in flight", in_flight, rounds);
	EXPECT_LT(0, in_flight);
	expect_queue_moves(0);
	expect_queue_moves(1);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

TEST_HARNESS_MAIN

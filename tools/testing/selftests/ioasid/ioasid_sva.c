// SPDX-License-Identifier: GPL-2.0-only
/*
 * PASIDs of processes (SVA) next to IOASIDs: the driver pdma-sva binds the
 * engine to processes, and the engine accesses their memory by virtual address.
 *
 * Needs an IOMMU with first-stage translation, as it uses the CPU's page
 * tables. The engine does not request pages here, so the tests fault in all
 * memory in advance.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "ioasid_failures.h"
#include "ioasid_fixture.h"
#include "stall_utils.h"

/* The whole ID space */
#define NR_IDS 0x100000

/* Shared between a test and the processes that it starts */
struct shared {
	int pasid;		/* result of binding, 0: not bound yet */
	int go;			/* time to exit */
	int errors;
	int collisions;
	int allocated;
	__u8 owned[NR_IDS];
};

#define load(ptr) __atomic_load_n(ptr, __ATOMIC_SEQ_CST)
#define store(ptr, val) __atomic_store_n(ptr, val, __ATOMIC_SEQ_CST)

/* Memory */

/* Fault in the pages for writing */
static void touch(volatile __u64 *buf)
{
	size_t i;

	for (i = 0; i < BUF_LEN / sizeof(*buf); i += 512)
		buf[i] = 0;
}

/* The stream into the first page of @buf arrives at the right place */
static void expect_arrives(struct __test_metadata *_metadata,
			   struct pdma_dev *dev, volatile __u64 *buf)
{
	__u64 last, value;

	ASSERT_EQ(0, pdma_wait_counter(dev, 3));
	last = pdma_counter(dev);
	value = buf[last % 512];
	EXPECT_LE(last, value);
	EXPECT_EQ(last % 512, value % 512);
}

/* The engine keeps trying, and nothing arrives */
static void expect_refused(struct __test_metadata *_metadata,
			   struct pdma_dev *dev, volatile __u64 *buf)
{
	__u64 arrived = pdma_done(dev);

	poison_buf(buf, BUF_LEN);
	ASSERT_EQ(0, pdma_wait_refused(dev, 10));
	EXPECT_EQ(arrived, pdma_done(dev));
	EXPECT_TRUE(buf_is_poison(buf, BUF_LEN));
}

/* Common to all fixtures */
struct rig {
	struct lent engine;
	int fd;
	int kmsg;
	struct pdma_bar bar;
	__u64 faults;		/* at the start of the test */
	struct pdma_dev dev;
	volatile __u64 *buf;	/* shared with child processes */
	struct shared *shared;
};

/* Returns NULL, or why the test cannot run */
static const char *setup(struct __test_metadata *_metadata, struct rig *rig)
{
	const char *why = setup_ioasid(_metadata, &rig->fd);

	if (!why)
		why = setup_lent(_metadata, &rig->engine, PDMA_SVA_DRIVER,
				 unfit_for_sva);
	if (why)
		return why;

	ASSERT_EQ(0, bar_map(&rig->bar, rig->engine.name));
	rig->faults = bar_recorded(&rig->bar);
	setup_kmsg(_metadata, &rig->kmsg);
	rig->buf = map_shared(BUF_LEN);
	ASSERT_NE(NULL, rig->buf);
	touch(rig->buf);
	rig->shared = map_shared(sizeof(*rig->shared));
	ASSERT_NE(NULL, rig->shared);
	ASSERT_EQ(0, sva_open(&rig->dev, rig->engine.name));
	return NULL;
}

/* No fault was reported since the start of the test */
#define expect_silence() do {						\
	EXPECT_EQ(rig->faults, bar_recorded(&rig->bar));		\
	EXPECT_EQ(0, kmsg_faults(rig->kmsg, 0));			\
} while (0)

/* Bracket code that makes the IOMMU report faults */
static __u64 faults_begin(struct rig *rig)
{
	kmsg_expect_faults(rig->kmsg, true);
	return bar_recorded(&rig->bar);
}

static void faults_end(struct rig *rig)
{
	kmsg_drop_faults(rig->kmsg);
	kmsg_expect_faults(rig->kmsg, false);
	rig->faults = bar_recorded(&rig->bar);
}

/*
 * Faults with this PASID are reported, i.e. the entry is non-present and not
 * parked. Uses the last channel, which no test opens.
 */
static void expect_plain(struct __test_metadata *_metadata,
			 struct rig *rig, __u32 pasid)
{
	unsigned int ch = bar_read32(&rig->bar, PDMA_CHANNELS) - 1;
	__u64 suppressed = bar_suppressed(&rig->bar);
	__u64 faults = faults_begin(rig);
	__u64 arrived = bar_done(&rig->bar, ch);

	bar_set_pasid(&rig->bar, ch, PDMA_PASID_VALID | pasid);
	EXPECT_TRUE(bar_stream(&rig->bar, ch, (uintptr_t)rig->buf, 4096,
			       1000));
	EXPECT_TRUE(wait_until(bar_recorded(&rig->bar) >= faults + 3));
	bar_stop(&rig->bar, ch);
	bar_set_pasid(&rig->bar, ch, 0);
	EXPECT_EQ(arrived, bar_done(&rig->bar, ch));
	EXPECT_EQ(suppressed, bar_suppressed(&rig->bar));
	faults_end(rig);
}

FIXTURE(sva)
{
	struct rig rig;
};

FIXTURE_SETUP(sva)
{
	skip_for(setup(_metadata, &self->rig));
}

FIXTURE_TEARDOWN_PARENT(sva)
{
	give_back(_metadata, &self->rig.engine);
}

TEST_F(sva, copy_between_buffers_of_the_process_arrives)
{
	struct rig *rig = &self->rig;
	char *src, *dst;
	int i;

	src = malloc(2 * BUF_LEN);
	ASSERT_NE(NULL, src);
	dst = src + BUF_LEN;
	/* Any memory of the process works, regardless of its alignment */
	EXPECT_EQ(-ENXIO, pdma_copy(&rig->dev, (uintptr_t)dst, (uintptr_t)src,
				    8));
	ASSERT_LT(0, sva_bind(&rig->dev));
	for (i = 0; i < BUF_LEN; i++) {
		src[i] = i * 7 + i / 256;
		dst[i] = 0;
	}
	EXPECT_EQ(0, pdma_copy_wait(&rig->dev, (uintptr_t)dst, (uintptr_t)src,
				    BUF_LEN));
	EXPECT_EQ(0, memcmp(src, dst, BUF_LEN));

	/* Stack memory and an odd length */
	memset(dst, 0, BUF_LEN);
	memcpy(src, "from the heap", 14);
	{
		char stack[14] = "";

		EXPECT_EQ(0, pdma_copy_wait(&rig->dev, (uintptr_t)stack,
					    (uintptr_t)src, 14));
		EXPECT_STREQ("from the heap", stack);
	}
	EXPECT_EQ(0, pdma_refused(&rig->dev));
	expect_silence();
	free(src);
}

TEST_F(sva, stream_arrives_in_memory_of_the_process)
{
	struct rig *rig = &self->rig;
	int pasid = sva_bind(&rig->dev);

	ASSERT_LT(0, pasid);
	EXPECT_EQ(PDMA_PASID_VALID | pasid,
		  bar_read32(&rig->bar, PDMA_CTL(0) + PDMA_CTL_PASID));
	ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096, 50,
				 8));
	expect_arrives(_metadata, &rig->dev, rig->buf);
	EXPECT_EQ(0, pdma_refused(&rig->dev));
	expect_silence();
}

TEST_F(sva, unbind_ends_dma)
{
	struct rig *rig = &self->rig;
	__u64 arrived;
	int pasid;

	EXPECT_EQ(-ENXIO, sva_unbind(&rig->dev));
	pasid = sva_bind(&rig->dev);
	ASSERT_LT(0, pasid);
	EXPECT_EQ(-EBUSY, sva_bind(&rig->dev));
	ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096, 50,
				 1));
	expect_arrives(_metadata, &rig->dev, rig->buf);
	EXPECT_EQ(0, sva_unbind(&rig->dev));
	poison_buf(rig->buf, BUF_LEN);
	arrived = pdma_done(&rig->dev);
	EXPECT_EQ(0, pdma_status(&rig->dev) & PDMA_STATUS_BUSY);
	EXPECT_EQ(-ENXIO, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096,
				      50, 1));
	expect_silence();

	/* The PASID entry is gone, so the engine could not continue either */
	expect_plain(_metadata, rig, pasid);
	EXPECT_EQ(arrived, pdma_done(&rig->dev));
	EXPECT_TRUE(buf_is_poison(rig->buf, BUF_LEN));

	/* Bind again */
	EXPECT_LT(0, sva_bind(&rig->dev));
	ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096, 50,
				 1));
	expect_arrives(_metadata, &rig->dev, rig->buf);
	expect_silence();
}

/* One PASID per process, one binding per file */
TEST_F(sva, files_of_a_process_share_its_number)
{
	struct rig *rig = &self->rig;
	struct pdma_dev other;
	int pasid;

	pasid = sva_bind(&rig->dev);
	ASSERT_LT(0, pasid);
	ASSERT_EQ(0, sva_open(&other, rig->engine.name));
	EXPECT_EQ(pasid, sva_bind(&other));
	ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096, 50,
				 1));
	ASSERT_EQ(0, pdma_stream(&other, (uintptr_t)(rig->buf + 512), 4096,
				 50, 1));
	expect_arrives(_metadata, &rig->dev, rig->buf);
	expect_arrives(_metadata, &other, rig->buf + 512);
	EXPECT_EQ(0, sva_unbind(&rig->dev));
	expect_arrives(_metadata, &other, rig->buf + 512);
	pdma_close(&other);
	expect_silence();
	expect_plain(_metadata, rig, pasid);
}

TEST_F(sva, what_the_process_cannot_reach_the_engine_cannot_reach)
{
	struct rig *rig = &self->rig;
	volatile __u64 *again;
	__u64 arrived, faults;
	void *page;

	ASSERT_LT(0, sva_bind(&rig->dev));
	faults = faults_begin(rig);
	/* A kernel address, which is in the same page tables */
	ASSERT_EQ(0, pdma_stream(&rig->dev, 0xffff888000000000ULL, 4096, 1000,
				 1));
	EXPECT_TRUE(wait_until(bar_recorded(&rig->bar) >= faults + 3));
	EXPECT_EQ(0, pdma_done(&rig->dev));
	ASSERT_EQ(0, pdma_stop(&rig->dev));

	/* Read-only memory */
	page = mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS |
		    MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, page);
	faults = bar_recorded(&rig->bar);
	ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)page, 4096, 1000, 1));
	EXPECT_TRUE(wait_until(bar_recorded(&rig->bar) >= faults + 3));
	EXPECT_EQ(0, pdma_done(&rig->dev));
	ASSERT_EQ(0, pdma_stop(&rig->dev));

	/* Memory that is unmapped during the stream */
	again = mremap((void *)rig->buf, 0, BUF_LEN, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, again);
	touch(again);
	ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)again, 4096, 100, 1));
	expect_arrives(_metadata, &rig->dev, again);
	ASSERT_EQ(0, munmap((void *)again, BUF_LEN));
	expect_refused(_metadata, &rig->dev, rig->buf);
	arrived = pdma_done(&rig->dev);
	ASSERT_EQ(0, pdma_stop(&rig->dev));
	EXPECT_EQ(arrived, pdma_done(&rig->dev));
	faults_end(rig);
}

/* A PASID of a process looks like an unused ID to users of IOASIDs */
TEST_F(sva, number_of_a_process_is_not_for_users)
{
	struct rig *rig = &self->rig;
	struct ioasid_row row;
	struct pdma_dev other;
	int fd = ioasid_open();
	__u32 ids[64], got;
	int pasid, i;

	ASSERT_LE(0, fd);
	/* Take the lowest IDs, so that the process gets another one */
	test_cmd_alloc(rig->fd, 0, 0, ARRAY_LEN(ids), ids);
	pasid = sva_bind(&rig->dev);
	ASSERT_LT(0, pasid);
	for (i = 0; i < ARRAY_LEN(ids); i++)
		EXPECT_NE(ids[i], pasid);

	test_err_alloc(ENOSPC, rig->fd, pasid, pasid, 1, &got);
	test_err_alloc(ENOSPC, fd, pasid, pasid, 1, &got);
	got = pasid;
	test_err_free(ENOENT, rig->fd, 1, &got);
	test_err_query(ENOENT, rig->fd, pasid);
	EXPECT_EQ(-ENOENT, debugfs_ioasid(pasid, &row));
	ASSERT_EQ(0, sva_open(&other, rig->engine.name));
	EXPECT_EQ(-ENOENT, sva_attach(&other, rig->fd, pasid));

	/* The PASID of the process does not count towards the quota */
	test_set_in_use(rig->fd, ARRAY_LEN(ids), 0);
	test_cmd_free(rig->fd, ARRAY_LEN(ids), ids);
	for (i = 0; i < 8; i++) {
		test_cmd_alloc(rig->fd, 0, 0, ARRAY_LEN(ids), ids);
		for (int k = 0; k < ARRAY_LEN(ids); k++)
			EXPECT_NE(ids[k], pasid);
	}
	expect_silence();
}

/* Mark the ID as owned; an ID with two owners is a collision */
static void own(struct shared *shared, __u32 id)
{
	if (__atomic_exchange_n(&shared->owned[id], 1, __ATOMIC_SEQ_CST))
		__atomic_fetch_add(&shared->collisions, 1, __ATOMIC_SEQ_CST);
}

static void disown(struct shared *shared, __u32 id)
{
	store(&shared->owned[id], 0);
}

static void failed(struct shared *shared)
{
	__atomic_fetch_add(&shared->errors, 1, __ATOMIC_SEQ_CST);
}

/* Runs in a process that binds once and exits */
static void be_bound(struct rig *rig)
{
	struct pdma_dev dev;
	int fd, pasid;
	__u32 got;

	fd = ioasid_open();
	if (fd < 0 || sva_open(&dev, rig->engine.name)) {
		failed(rig->shared);
		return;
	}
	pasid = sva_bind(&dev);
	if (pasid <= 0) {
		failed(rig->shared);
		return;
	}
	own(rig->shared, pasid);
	/* A user gets another ID, and cannot allocate this one explicitly */
	if (ioasid_alloc(fd, 0, 0, 1, &got)) {
		failed(rig->shared);
	} else {
		own(rig->shared, got);
		disown(rig->shared, got);
	}
	if (ioasid_alloc(fd, pasid, pasid, 1, &got) != -ENOSPC)
		failed(rig->shared);
	/* The PASID is freed later, with the address space */
	disown(rig->shared, pasid);
}

#define BOUND_ROUNDS 20

static void bind_processes(struct rig *rig)
{
	int round;
	pid_t pid;

	for (round = 0; round < BOUND_ROUNDS; round++) {
		pid = fork();
		if (pid < 0) {
			failed(rig->shared);
			return;
		}
		if (!pid) {
			be_bound(rig);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
}

/* A user that repeatedly allocates and frees the lowest IDs */
static void allocate_numbers(struct rig *rig)
{
	__u32 ids[8], i, count;

	for (count = 0; !load(&rig->shared->go); count++) {
		__u32 n = 1 + count % ARRAY_LEN(ids);

		if (ioasid_alloc(rig->fd, 0, 0, n, ids)) {
			failed(rig->shared);
			return;
		}
		for (i = 0; i < n; i++)
			own(rig->shared, ids[i]);
		for (i = 0; i < n; i++)
			disown(rig->shared, ids[i]);
		if (ioasid_free(rig->fd, n, ids)) {
			failed(rig->shared);
			return;
		}
		store(&rig->shared->allocated, count + 1);
	}
}

static pid_t start(struct rig *rig, void (*fn)(struct rig *rig))
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn(rig);
		_exit(0);
	}
	return pid;
}

TEST_F(sva, numbers_of_processes_and_users_do_not_collide)
{
	struct rig *rig = &self->rig;
	pid_t user, binder[2];
	int i;

	user = start(rig, allocate_numbers);
	ASSERT_LT(0, user);
	ASSERT_TRUE(wait_until(load(&rig->shared->allocated) ||
			       load(&rig->shared->errors)));
	for (i = 0; i < 2; i++) {
		binder[i] = start(rig, bind_processes);
		ASSERT_LT(0, binder[i]);
	}
	for (i = 0; i < 2; i++)
		ASSERT_EQ(binder[i], waitpid(binder[i], NULL, 0));
	store(&rig->shared->go, 1);
	ASSERT_EQ(user, waitpid(user, NULL, 0));
	TH_LOG("%d allocations beside %d processes", rig->shared->allocated,
	       2 * BOUND_ROUNDS);
	EXPECT_EQ(0, rig->shared->errors);
	EXPECT_EQ(0, rig->shared->collisions);
	expect_silence();
}

/* A process is bound while another channel has an IOASID */
TEST_F(sva, parked_number_is_silent_beside_a_process)
{
	struct rig *rig = &self->rig;
	struct pdma_dev other;
	__u64 suppressed;
	int pasid;
	__u32 id;

	pasid = sva_bind(&rig->dev);
	ASSERT_LT(0, pasid);
	ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096, 50,
				 1));
	test_cmd_alloc(rig->fd, 0, 0, 1, &id);
	EXPECT_NE(pasid, id);
	ASSERT_EQ(0, sva_open(&other, rig->engine.name));
	ASSERT_EQ(0, sva_attach(&other, rig->fd, id));
	ASSERT_EQ(0, pdma_stream(&other, PDMA_SVA_IOVA, 4096, 50, 8));
	ASSERT_EQ(0, pdma_wait_counter(&other, 3));

	suppressed = bar_suppressed(&rig->bar);
	test_cmd_free(rig->fd, 1, &id);
	EXPECT_EQ(IOASID_STATE_PARKED, ioasid_state(rig->fd, id));
	ASSERT_EQ(0, pdma_wait_refused(&other, 1000));
	EXPECT_LE(1000, bar_suppressed(&rig->bar) - suppressed);
	expect_arrives(_metadata, &rig->dev, rig->buf);
	EXPECT_EQ(0, pdma_refused(&rig->dev));
	expect_silence();

	/* The process unbinds and binds; its own faults are reported */
	EXPECT_EQ(0, sva_unbind(&rig->dev));
	ASSERT_EQ(0, pdma_wait_refused(&other, 1000));
	expect_silence();
	ASSERT_EQ(pasid, sva_bind(&rig->dev));
	ASSERT_EQ(0, pdma_wait_refused(&other, 1000));
	expect_silence();
	faults_begin(rig);
	ASSERT_EQ(0, pdma_stream(&rig->dev, 0, 4096, 1000, 1));
	EXPECT_TRUE(wait_until(bar_recorded(&rig->bar) >= rig->faults + 3));
	ASSERT_EQ(0, pdma_stop(&rig->dev));
	faults_end(rig);
	ASSERT_EQ(0, pdma_wait_refused(&other, 1000));
	expect_silence();

	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&other, PDMA_SVA_IOVA, 4096, 50, 1));
	EXPECT_EQ(0, sva_unbind(&other));
	EXPECT_TRUE(ioasid_wait_recycled(rig->fd, id));
	expect_silence();
	expect_plain(_metadata, rig, id);
}

/* Invariant nothing-dead: a file keeps nothing else of its opener alive */
TEST_F(sva, number_of_a_dead_process_is_free_though_its_file_lives_on)
{
	struct rig *rig = &self->rig;
	struct pdma_dev dev;
	int sock[2], fd, pasid, round;
	__u32 id = 0;
	pid_t pid;

	for (round = 0; round < 4; round++) {
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			fd = ioasid_open();
			ASSERT_LE(0, fd);
			test_cmd_alloc(fd, 0, 0, 1, &id);
			ASSERT_EQ(0, send_fd(sock[1], fd));
			ASSERT_EQ(0, sva_open(&dev, rig->engine.name));
			pasid = sva_bind(&dev);
			ASSERT_LT(0, pasid);
			ASSERT_EQ(sizeof(id), write(sock[1], &id, sizeof(id)));
			ASSERT_EQ(sizeof(pasid),
				  write(sock[1], &pasid, sizeof(pasid)));
			ASSERT_EQ(0, sva_unbind(&dev));
			_exit(0);
		}
		fd = receive_fd(sock[0]);
		ASSERT_LE(0, fd);
		ASSERT_EQ(sizeof(id), read(sock[0], &id, sizeof(id)));
		ASSERT_EQ(sizeof(pasid), read(sock[0], &pasid, sizeof(pasid)));

		/* By round: unused IOASID, ACTIVE, PARKED, file closed */
		if (round)
			ASSERT_EQ(0, sva_attach(&rig->dev, fd, id));
		if (round > 1)
			test_cmd_free(fd, 1, &id);
		if (round > 2)
			close(fd);
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
		EXPECT_TRUE(wait_process_free(rig->fd, pasid));
		if (round)
			expect_taken(rig->fd, id);
		if (round)
			EXPECT_EQ(0, sva_unbind(&rig->dev));
		if (round < 3)
			close(fd);
		close(sock[0]);
		close(sock[1]);
		EXPECT_TRUE(wait_process_free(rig->fd, id));
	}
	expect_silence();
}

/* The engine is unbound from its driver while the file is open */
TEST_F(sva, engine_can_be_taken_away_while_bound)
{
	struct rig *rig = &self->rig;
	int pasid;

	pasid = sva_bind(&rig->dev);
	ASSERT_LT(0, pasid);
	ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096, 50,
				 1));
	expect_arrives(_metadata, &rig->dev, rig->buf);
	ASSERT_EQ(0, pci_write(rig->engine.name, "driver/unbind",
			       rig->engine.name));
	poison_buf(rig->buf, BUF_LEN);
	EXPECT_EQ(-ENODEV, sva_bind(&rig->dev));
	EXPECT_EQ(-ENODEV, sva_unbind(&rig->dev));
	EXPECT_EQ(-ENODEV, pdma_stop(&rig->dev));
	EXPECT_EQ(UINT32_MAX, pdma_status(&rig->dev));

	/* The next user of the engine inherits nothing */
	ASSERT_EQ(0, pci_set_driver(rig->engine.name, PDMA_SVA_DRIVER));
	pdma_close(&rig->dev);
	ASSERT_EQ(0, sva_open(&rig->dev, rig->engine.name));
	EXPECT_EQ(pasid, sva_bind(&rig->dev));
	EXPECT_EQ(0, pdma_done(&rig->dev));
	EXPECT_TRUE(buf_is_poison(rig->buf, BUF_LEN));
	expect_silence();
}

/* The PASID register of the first channel, which belongs to rig->dev */
static __u32 pasid_register(struct rig *rig)
{
	return bar_read32(&rig->bar, PDMA_CTL(0) + PDMA_CTL_PASID);
}

static bool has_reset(struct rig *rig)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/reset", rig->engine.name);
	return pdma_exists(path);
}

/* Reset the engine while a channel streams to @dst, then restart the stream */
static void reset_and_go_on(struct __test_metadata *_metadata, struct rig *rig,
			    __u32 pasid, __u64 dst)
{
	ASSERT_EQ(0, pdma_stream(&rig->dev, dst, 4096, 50, 1));
	ASSERT_EQ(0, pdma_wait_counter(&rig->dev, 3));
	ASSERT_EQ(0, pci_reset(rig->engine.name));
	EXPECT_EQ(0, pdma_status(&rig->dev));
	EXPECT_EQ(0, pdma_done(&rig->dev));
	EXPECT_EQ(PDMA_PASID_VALID | pasid, pasid_register(rig));

	ASSERT_EQ(0, pdma_stream(&rig->dev, dst, 4096, 50, 1));
	ASSERT_EQ(0, pdma_wait_counter(&rig->dev, 3));
	EXPECT_EQ(0, pdma_refused(&rig->dev));
}

TEST_F(sva, bound_channel_works_after_a_reset_of_the_engine)
{
	struct rig *rig = &self->rig;
	int round, pasid;

	if (!has_reset(rig))
		SKIP(return, "the engine has no function level reset");

	for (round = 0; round < 2; round++) {
		pasid = sva_bind(&rig->dev);
		ASSERT_LT(0, pasid);
		reset_and_go_on(_metadata, rig, pasid, (uintptr_t)rig->buf);
		expect_arrives(_metadata, &rig->dev, rig->buf);
		EXPECT_EQ(0, sva_unbind(&rig->dev));
	}
	/* A binding that is gone is not restored */
	ASSERT_EQ(0, pci_reset(rig->engine.name));
	EXPECT_EQ(0, pasid_register(rig));
	EXPECT_EQ(-ENXIO, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096, 50,
				      1));
	expect_silence();
	expect_plain(_metadata, rig, pasid);
}

TEST_F(sva, attached_channel_works_after_a_reset_of_the_engine)
{
	struct rig *rig = &self->rig;
	struct ioasid_query query;
	int round;
	__u32 id;

	if (!has_reset(rig))
		SKIP(return, "the engine has no function level reset");

	test_cmd_alloc(rig->fd, 0, 0, 1, &id);
	for (round = 0; round < 2; round++) {
		ASSERT_EQ(0, sva_attach(&rig->dev, rig->fd, id));
		reset_and_go_on(_metadata, rig, id, PDMA_SVA_IOVA);
		test_cmd_query(rig->fd, id, &query);
		EXPECT_EQ(1, query.users);
		EXPECT_EQ(1, query.attachments);
		EXPECT_EQ(0, sva_unbind(&rig->dev));
	}
	ASSERT_EQ(0, pci_reset(rig->engine.name));
	EXPECT_EQ(0, pasid_register(rig));
	expect_silence();
	expect_plain(_metadata, rig, id);
}

TEST_F(sva, parked_channel_stays_blocked_and_silent_after_a_reset)
{
	struct rig *rig = &self->rig;
	__u64 suppressed;
	__u32 id;

	if (!has_reset(rig))
		SKIP(return, "the engine has no function level reset");

	test_cmd_alloc(rig->fd, 0, 0, 1, &id);
	ASSERT_EQ(0, sva_attach(&rig->dev, rig->fd, id));
	ASSERT_EQ(0, pdma_stream(&rig->dev, PDMA_SVA_IOVA, 4096, 50, 1));
	ASSERT_EQ(0, pdma_wait_counter(&rig->dev, 3));
	test_cmd_free(rig->fd, 1, &id);
	ASSERT_EQ(0, pci_reset(rig->engine.name));
	EXPECT_EQ(-ESHUTDOWN, pdma_stream(&rig->dev, PDMA_SVA_IOVA, 4096, 50,
					  1));

	/* The hardware blocks it, too: the channel tries and fails */
	suppressed = bar_suppressed(&rig->bar);
	EXPECT_TRUE(bar_stream(&rig->bar, 0, PDMA_SVA_IOVA, 4096, 50));
	ASSERT_EQ(0, pdma_wait_refused(&rig->dev, 100));
	EXPECT_LE(100, bar_suppressed(&rig->bar) - suppressed);
	EXPECT_EQ(0, pdma_done(&rig->dev));
	expect_silence();

	EXPECT_EQ(0, sva_unbind(&rig->dev));
	EXPECT_TRUE(ioasid_wait_recycled(rig->fd, id));
	expect_plain(_metadata, rig, id);
}

/* Neither the exiting process nor the release of its mm may allocate */
TEST_F(sva, exit_of_a_process_needs_no_memory)
{
	struct rig *rig = &self->rig;
	struct failures failures = {};
	int status, ret;
	pid_t pid;

	ret = failures_open(&failures, "Y");
	if (ret == -ENOENT)
		SKIP(return, "no fault injection");
	ASSERT_EQ(0, ret);

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, failures_open(&failures, "Y"));
		touch(rig->buf);
		rig->shared->pasid = sva_bind(&rig->dev);
		ASSERT_EQ(0, pdma_stream(&rig->dev, (uintptr_t)rig->buf, 4096,
					 50, 1));
		expect_arrives(_metadata, &rig->dev, rig->buf);
		ASSERT_EQ(0, failures_begin(&failures, 0));
		_exit(_metadata->exit_code);
	}
	ret = waitpid(pid, &status, 0);
	ASSERT_EQ(0, set_failures("Y"));
	ASSERT_EQ(pid, ret);
	ASSERT_EQ(0, status);
	ASSERT_LT(0, rig->shared->pasid);

	expect_refused(_metadata, &rig->dev, rig->buf);
	expect_silence();
	EXPECT_EQ(0, sva_unbind(&rig->dev));
	EXPECT_TRUE(wait_process_free(rig->fd, rig->shared->pasid));
	expect_plain(_metadata, rig, rig->shared->pasid);
}

/*
 * A call of one user blocks on a page that is not delivered. One variant per
 * call that accesses user memory.
 */
FIXTURE(stalled)
{
	struct rig rig;
	struct pdma_dev dev;	/* opened by that user */
	struct stall stall;
	__u32 id;
};

FIXTURE_VARIANT(stalled)
{
	int (*call)(struct pdma_dev *dev, void *page);
	int ret;		/* once the page is delivered */
};

static int stalled_submit(struct pdma_dev *dev, void *page)
{
	return pdma_submit_raw(dev, page, PDMA_SUBMIT_SIZE, 0);
}

static int stalled_read(struct pdma_dev *dev, void *page)
{
	return pread(dev->device, page, 4, PDMA_STATUS) == 4 ? 0 : -errno;
}

/* By the time the argument can be read, the engine is gone */
FIXTURE_VARIANT_ADD(stalled, attach)
{
	.call = sva_attach_raw,
	.ret = -ENODEV,
};

FIXTURE_VARIANT_ADD(stalled, submit)
{
	.call = stalled_submit,
	.ret = -ENODEV,
};

/* The register was read before the copy to user space */
FIXTURE_VARIANT_ADD(stalled, read)
{
	.call = stalled_read,
};

FIXTURE_SETUP(stalled)
{
	const char *reason;
	int ret;

	ret = stall_prepare(&self->stall);
	if (self->stall.uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	ASSERT_EQ(0, ret);
	reason = setup(_metadata, &self->rig);
	if (reason)
		SKIP(return, "%s", reason);
	ASSERT_EQ(0, sva_open(&self->dev, self->rig.engine.name));
	test_cmd_alloc(self->rig.fd, 0, 0, 1, &self->id);
}

FIXTURE_TEARDOWN_PARENT(stalled)
{
	give_back(_metadata, &self->rig.engine);
}

struct stalled_call {
	int (*fn)(struct pdma_dev *dev, void *page);
	struct pdma_dev *dev;
	void *page;
	int ret;
};

static void *do_stalled_call(void *arg)
{
	struct stalled_call *call = arg;

	call->ret = call->fn(call->dev, call->page);
	return NULL;
}

/*
 * Everything that another user, or root, can do. Returns the number of the step
 * that failed, or 0.
 */
static int use_engine(struct rig *rig)
{
	struct pdma_dev dev;
	int fd;

	touch(rig->buf);
	if (sva_open(&dev, rig->engine.name))
		return 1;
	if (sva_bind(&dev) <= 0)
		return 2;
	if (pdma_stream(&dev, (uintptr_t)rig->buf, 4096, 50, 1) ||
	    pdma_wait_counter(&dev, 3))
		return 3;
	if (pdma_stop(&dev) || pdma_status(&dev))
		return 4;
	if (has_reset(rig) &&
	    (pci_reset(rig->engine.name) ||
	     pdma_stream(&dev, (uintptr_t)rig->buf, 4096, 50, 1) ||
	     pdma_wait_counter(&dev, 3)))
		return 5;
	if (sva_unbind(&dev))
		return 6;
	pdma_close(&dev);
	if (sva_open(&dev, rig->engine.name))
		return 7;
	fd = ioasid_open();
	if (fd < 0)
		return 8;
	close(fd);
	return pci_write(rig->engine.name, "driver/unbind",
			 rig->engine.name) ? 9 : 0;
}

TEST_F(stalled, user_delays_no_other_user)
{
	struct rig *rig = &self->rig;
	struct attach_arg arg = { .fd = rig->fd, .id = self->id };
	struct stalled_call call = {
		.fn = variant->call, .dev = &self->dev,
		.page = self->stall.page,
	};
	struct pdma_submit cmd = { .cmd = PDMA_CMD_STOP };
	struct ioasid_query query;
	int status = -1;
	pthread_t thread;
	pid_t pid;

	if (variant->call == sva_attach_raw)
		memcpy(self->stall.answer, &arg, sizeof(arg));
	else
		memcpy(self->stall.answer, &cmd, sizeof(cmd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, do_stalled_call, &call));
	ASSERT_TRUE(stall_wait(&self->stall, IOASID_WAIT_MS));

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(use_engine(rig));
	EXPECT_TRUE(wait_until_ms(waitpid(pid, &status, WNOHANG) == pid,
				  30000));
	EXPECT_EQ(0, status);

	ASSERT_EQ(0, stall_answer(&self->stall));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(variant->ret, call.ret);
	test_cmd_query(rig->fd, self->id, &query);
	EXPECT_EQ(0, query.users);
	expect_silence();
}

/*
 * Fail each allocation of an operation once, see struct sweep. Each round runs
 * in a new process, which starts without a PASID and exits after it.
 */
struct op;

struct world {
	struct rig *rig;
	const struct op *op;
	struct pdma_dev other;	/* streams all the time */
	__u32 id;		/* IOASID of the device or of @other */
	int pasid;		/* of the process */
	__u32 next;		/* lowest free ID */
	__u32 far;		/* next ID for @id, far from all others */
};

struct op {
	void (*prepare)(struct __test_metadata *_metadata, struct world *w);
	int (*call)(struct world *w);
	int (*undo)(struct world *w);
	/*
	 * Errors besides -ENOMEM, as errors are converted on the way: the SVA
	 * core returns -ENOSPC if it gets no PASID, and the VT-d driver returns
	 * -ENODEV without memory for the PASID table.
	 */
	int also[2];
	bool cannot_fail;
	bool blocks_dma;	/* no DMA after it returns */
};

static int call_bind(struct world *w)
{
	w->pasid = sva_bind(&w->rig->dev);
	return w->pasid < 0 ? w->pasid : 0;
}

static int call_attach(struct world *w)
{
	return sva_attach(&w->rig->dev, w->rig->fd, w->id);
}

static int call_unbind(struct world *w)
{
	return sva_unbind(&w->rig->dev);
}

static int call_free(struct world *w)
{
	return ioasid_free(w->rig->fd, 1, &w->id);
}

/* @other uses an IOASID */
static void prepare_first_bind(struct __test_metadata *_metadata,
			       struct world *w)
{
	test_cmd_alloc(w->rig->fd, w->id, w->id, 1, &w->id);
	ASSERT_EQ(0, sva_attach(&w->other, w->rig->fd, w->id));
	ASSERT_EQ(0, pdma_stream(&w->other, PDMA_SVA_IOVA, 4096, 50, 1));
}

static void prepare_later_bind(struct __test_metadata *_metadata,
			       struct world *w)
{
	prepare_first_bind(_metadata, w);
	ASSERT_EQ(0, call_bind(w));
	ASSERT_EQ(0, sva_unbind(&w->rig->dev));
}

static void prepare_unbind(struct __test_metadata *_metadata, struct world *w)
{
	prepare_first_bind(_metadata, w);
	ASSERT_EQ(0, call_bind(w));
	ASSERT_EQ(0, pdma_stream(&w->rig->dev, (uintptr_t)w->rig->buf, 4096, 50,
				 1));
	expect_arrives(_metadata, &w->rig->dev, w->rig->buf);
}

static int undo(struct world *w)
{
	int ret = call_unbind(w);

	return ret ? ret : call_free(w);
}

/* @other is bound to the process */
static void prepare_attach(struct __test_metadata *_metadata, struct world *w)
{
	w->pasid = sva_bind(&w->other);
	ASSERT_LT(0, w->pasid);
	ASSERT_EQ(0, pdma_stream(&w->other, (uintptr_t)w->rig->buf, 4096, 50,
				 1));
	test_cmd_alloc(w->rig->fd, w->id, w->id, 1, &w->id);
}

static void prepare_detach(struct __test_metadata *_metadata, struct world *w)
{
	prepare_attach(_metadata, w);
	ASSERT_EQ(0, call_attach(w));
	ASSERT_EQ(0, pdma_stream(&w->rig->dev, PDMA_SVA_IOVA, 4096, 50, 1));
	ASSERT_EQ(0, pdma_wait_counter(&w->rig->dev, 3));
}

static const struct op first_bind = {
	.prepare = prepare_first_bind, .call = call_bind, .undo = undo,
	.also = { -ENOSPC, -ENODEV },
};

static const struct op later_bind = {
	.prepare = prepare_later_bind, .call = call_bind, .undo = undo,
};

static const struct op unbind = {
	.prepare = prepare_unbind, .call = call_unbind, .undo = call_free,
	.cannot_fail = true,
};

static const struct op attach = {
	.prepare = prepare_attach, .call = call_attach, .undo = undo,
	.also = { -ENODEV },
};

static const struct op detach = {
	.prepare = prepare_detach, .call = call_unbind, .undo = call_free,
	.cannot_fail = true,
};

static const struct op park = {
	.prepare = prepare_detach, .call = call_free, .undo = call_unbind,
	.cannot_fail = true, .blocks_dma = true,
};

/* State visible to user space, and the PASIDs of the channels */
static void snapshot(struct world *w, char text[SNAPSHOT_LEN])
{
	struct ioasid_query query = {};
	struct ioasid_info info = {};
	struct pdma_bar *bar = &w->rig->bar;
	int ret[2];

	ret[0] = ioasid_get_info(w->rig->fd, &info);
	ret[1] = ioasid_query(w->rig->fd, w->id, &query);
	snprintf(text, SNAPSHOT_LEN,
		 "%d quota %u active %u parked %u, %d state %u users %u attachments %u, rows %d, channels %x %x",
		 ret[0], info.quota, info.active, info.parked, ret[1],
		 query.state, query.users, query.attachments, debugfs_rows(),
		 bar_read32(bar, PDMA_CTL(0) + PDMA_CTL_PASID),
		 bar_read32(bar, PDMA_CTL(1) + PDMA_CTL_PASID));
}

/* Check DMA of the channel in its new state, and that @other still streams */
static void expect_dma(struct __test_metadata *_metadata, struct world *w)
{
	const struct op *op = w->op;
	__u64 arrived;

	ASSERT_EQ(0, pdma_wait_counter(&w->other, 3));
	if (op->blocks_dma) {
		arrived = pdma_done(&w->rig->dev);
		ASSERT_EQ(0, pdma_wait_refused(&w->rig->dev, 10));
		EXPECT_EQ(arrived, pdma_done(&w->rig->dev));
	} else if (op->call == call_bind) {
		ASSERT_EQ(0, pdma_stream(&w->rig->dev,
					 (uintptr_t)(w->rig->buf + 512), 4096,
					 50, 1));
		expect_arrives(_metadata, &w->rig->dev, w->rig->buf + 512);
	} else if (op->call == call_attach) {
		ASSERT_EQ(0, pdma_stream(&w->rig->dev, PDMA_SVA_IOVA, 4096, 50,
					 1));
		ASSERT_EQ(0, pdma_wait_counter(&w->rig->dev, 3));
	}
}

static void prepare(struct __test_metadata *_metadata, struct world *w)
{
	w->op->prepare(_metadata, w);
}

static void expect_unchanged(struct __test_metadata *_metadata,
			     struct world *w)
{
	EXPECT_EQ(-ENXIO, sva_unbind(&w->rig->dev));
	ASSERT_EQ(0, pdma_wait_counter(&w->other, 3));
}

static void expect_success(struct __test_metadata *_metadata, struct world *w)
{
	expect_dma(_metadata, w);
	w->rig->shared->pasid = w->pasid;

	/* First close @other, so that its DMA causes no faults */
	pdma_close(&w->other);
	ASSERT_EQ(0, w->op->undo(w));
}

FIXTURE(failure)
{
	struct rig rig;
	struct sweep *sweep;	/* shared with the current child */
	struct world w;
};

FIXTURE_VARIANT(failure)
{
	const struct op *op;
};

#define OP(_name)							\
	FIXTURE_VARIANT_ADD(failure, _name) {				\
		.op = &_name,						\
	}

OP(first_bind);
OP(later_bind);
OP(unbind);
OP(attach);
OP(detach);
OP(park);

FIXTURE_SETUP(failure)
{
	const struct op *op = variant->op;
	const char *reason;
	__u32 ids[63];

	self->sweep = map_shared(sizeof(*self->sweep));
	ASSERT_NE(NULL, self->sweep);
	*self->sweep = (struct sweep){
		.w = &self->w,
		.prepare = prepare,
		.call = op->call,
		.snapshot = snapshot,
		.expect_unchanged = expect_unchanged,
		.expect_success = expect_success,
		.also = { op->also[0], op->also[1] },
		.cannot_fail = op->cannot_fail,
	};
	reason = sweep_open(_metadata, self->sweep, "Y");
	if (!reason)
		reason = setup(_metadata, &self->rig);
	if (reason)
		SKIP(return, "%s", reason);
	test_cmd_set_quota(self->rig.fd, NR_IDS);
	/* Processes of earlier tests may not be completely gone yet */
	ASSERT_TRUE(wait_until(({
		visit_all_cpus();
		!ioasid_alloc(self->rig.fd, 1, ARRAY_LEN(ids), ARRAY_LEN(ids),
			      ids);
	})));
	self->w = (struct world){
		.rig = &self->rig,
		.op = op,
		.next = 1 + ARRAY_LEN(ids),
		.far = 0x80000,
	};
}

FIXTURE_TEARDOWN_PARENT(failure)
{
	set_failures("Y");
	give_back(_metadata, &self->rig.engine);
}

/*
 * Use IDs that were never used before, so that nodes of the xarray and a page
 * of the PASID table (64 entries) must be allocated. No lower ID is free.
 */
static void do_round(struct __test_metadata *_metadata, struct sweep *sweep,
		     unsigned int nth)
{
	struct world *w = sweep->w;
	struct rig *rig = w->rig;
	int status;
	pid_t pid;
	__u32 id;

	do {
		/* A process gets the lowest free ID */
		test_cmd_alloc(rig->fd, w->next, w->next, 1, &id);
		w->next++;
	} while (w->next % 64);
	w->id = w->far;
	w->far += 64;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(NULL, sweep_open(_metadata, sweep, "Y"));
		ASSERT_EQ(0, sva_open(&w->other, rig->engine.name));
		touch(rig->buf);
		sweep_round(_metadata, sweep, nth);
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	EXPECT_EQ(w->next, rig->shared->pasid);
	EXPECT_TRUE(wait_process_free(rig->fd, rig->shared->pasid));
	test_set_in_use(rig->fd, w->next - 1, 0);
	/* The IOMMU driver may log that it is out of memory, but no faults */
	EXPECT_EQ(rig->faults, bar_recorded(&rig->bar));
}

TEST_F(failure, of_one_allocation_changes_nothing)
{
	if (short_run())
		SKIP(return, LONG_ONLY);
	sweep_each(_metadata, self->sweep, do_round);
}

TEST_F(failure, of_all_allocations_changes_nothing)
{
	sweep_all(_metadata, self->sweep, do_round);
}

/* The ways in which the address space of a process ends */
FIXTURE(end)
{
	struct rig rig;
};

enum end {
	END_EXIT,
	END_KILL,
	END_EXEC,
};

FIXTURE_VARIANT(end)
{
	enum end how;
};

FIXTURE_VARIANT_ADD(end, exit)
{
	.how = END_EXIT,
};

FIXTURE_VARIANT_ADD(end, kill)
{
	.how = END_KILL,
};

FIXTURE_VARIANT_ADD(end, exec)
{
	.how = END_EXEC,
};

FIXTURE_SETUP(end)
{
	skip_for(setup(_metadata, &self->rig));
}

FIXTURE_TEARDOWN_PARENT(end)
{
	give_back(_metadata, &self->rig.engine);
}

/* Bind, stream into the shared buffer, and wait to be told to end */
static void live(struct rig *rig, struct pdma_dev *dev, enum end how)
{
	int pasid, ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	touch(rig->buf);
	pasid = sva_bind(dev);
	ret = pdma_stream(dev, (uintptr_t)rig->buf, 4096, 20, 4);
	store(&rig->shared->pasid, ret ? ret : pasid);
	while (!load(&rig->shared->go))
		usleep(200);
	if (how == END_EXEC)
		execl("/bin/sleep", "sleep", "1000", NULL);
	_exit(0);
}

/*
 * Start a process that is bound and streams. @dev: an open file, or NULL to
 * open a file in the process.
 */
static pid_t start_bound(struct __test_metadata *_metadata, struct rig *rig,
			 struct pdma_dev *dev, enum end how)
{
	struct pdma_dev own;
	pid_t pid;

	rig->shared->pasid = 0;
	rig->shared->go = 0;
	pid = fork();
	if (!pid) {
		if (!dev && sva_open(&own, rig->engine.name))
			_exit(1);
		live(rig, dev ? dev : &own, how);
	}
	ASSERT_LT(0, pid);
	EXPECT_TRUE(wait_until(load(&rig->shared->pasid)));
	EXPECT_LT(0, rig->shared->pasid);
	return pid;
}

/* exec changes comm before it replaces the mm, but cmdline afterwards */
static bool is_exec(pid_t pid)
{
	char path[64], args[32];

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	return !pdma_read_file(path, args, sizeof(args)) &&
	       !strcmp(args, "sleep");
}

/* Returns when the mm is gone. After exec, @pid still exists. */
static void end_address_space(struct __test_metadata *_metadata,
			      struct rig *rig, pid_t pid, enum end how)
{
	bool ended;

	if (how == END_KILL)
		kill(pid, SIGKILL);
	else
		store(&rig->shared->go, 1);
	ended = how == END_EXEC ? wait_until(is_exec(pid)) :
				  waitpid(pid, NULL, 0) == pid;
	EXPECT_TRUE(ended);
}

static void reap(pid_t pid, enum end how)
{
	if (how != END_EXEC)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* The device keeps running while the file is open */
TEST_F(end, blocks_dma_of_a_file_that_stays_open)
{
	struct rig *rig = &self->rig;
	__u64 suppressed;
	__u32 pasid, got;
	pid_t pid;

	pid = start_bound(_metadata, rig, &rig->dev, variant->how);
	pasid = rig->shared->pasid;
	expect_arrives(_metadata, &rig->dev, rig->buf);
	/* Another holder of the file cannot use the process's memory */
	EXPECT_EQ(-EPERM, pdma_copy(&rig->dev, (uintptr_t)rig->buf,
				    (uintptr_t)rig->buf + 4096, 8));
	test_err_alloc(ENOSPC, rig->fd, pasid, pasid, 1, &got);
	suppressed = bar_suppressed(&rig->bar);
	end_address_space(_metadata, rig, pid, variant->how);

	expect_refused(_metadata, &rig->dev, rig->buf);
	ASSERT_EQ(0, pdma_wait_refused(&rig->dev, 1000));
	EXPECT_LE(1000, bar_suppressed(&rig->bar) - suppressed);
	expect_silence();
	/* The device still uses the PASID, so it is not free */
	visit_all_cpus();
	test_err_alloc(ENOSPC, rig->fd, pasid, pasid, 1, &got);

	EXPECT_EQ(0, sva_unbind(&rig->dev));
	reap(pid, variant->how);
	EXPECT_TRUE(wait_process_free(rig->fd, pasid));
	EXPECT_TRUE(buf_is_poison(rig->buf, BUF_LEN));
	expect_silence();
	expect_plain(_metadata, rig, pasid);
}

/* The mm and the file of the process are released in either order */
TEST_F(end, leaves_nothing_of_a_file_of_the_process)
{
	struct rig *rig = &self->rig;
	__u32 pasid = 0, got;
	int round, ch;
	pid_t pid;

	for (round = 0; round < 8; round++) {
		pid = start_bound(_metadata, rig, NULL, variant->how);
		pasid = rig->shared->pasid;
		ch = bar_find_channel(&rig->bar, pasid);
		ASSERT_LE(0, ch);
		ASSERT_TRUE(wait_until(bar_done(&rig->bar, ch) >= 3));
		test_err_alloc(ENOSPC, rig->fd, pasid, pasid, 1, &got);
		end_address_space(_metadata, rig, pid, variant->how);

		poison_buf(rig->buf, BUF_LEN);
		/* exec closes the file after the mm is gone */
		EXPECT_TRUE(wait_until(bar_find_channel(&rig->bar, pasid) ==
				       -ENOENT));
		EXPECT_TRUE(wait_process_free(rig->fd, pasid));
		EXPECT_TRUE(buf_is_poison(rig->buf, BUF_LEN));
		expect_silence();
		reap(pid, variant->how);
	}
	expect_plain(_metadata, rig, pasid);
}

/* The PASID can be reused as an IOASID */
TEST_F(end, number_serves_a_user_afterwards)
{
	struct rig *rig = &self->rig;
	__u32 pasid, got;
	pid_t pid;

	pid = start_bound(_metadata, rig, &rig->dev, variant->how);
	pasid = rig->shared->pasid;
	expect_arrives(_metadata, &rig->dev, rig->buf);
	end_address_space(_metadata, rig, pid, variant->how);
	expect_refused(_metadata, &rig->dev, rig->buf);
	EXPECT_EQ(0, sva_unbind(&rig->dev));
	reap(pid, variant->how);
	ASSERT_TRUE(wait_process_free(rig->fd, pasid));

	test_cmd_alloc(rig->fd, pasid, pasid, 1, &got);
	ASSERT_EQ(0, sva_attach(&rig->dev, rig->fd, pasid));
	ASSERT_EQ(0, pdma_stream(&rig->dev, PDMA_SVA_IOVA, 4096, 50, 1));
	ASSERT_EQ(0, pdma_wait_counter(&rig->dev, 3));
	/* The next process gets a different one */
	pid = start_bound(_metadata, rig, NULL, END_KILL);
	EXPECT_NE(pasid, rig->shared->pasid);
	end_address_space(_metadata, rig, pid, END_KILL);
	ASSERT_EQ(0, pdma_wait_counter(&rig->dev, 3));
	test_cmd_free(rig->fd, 1, &got);
	ASSERT_EQ(0, pdma_wait_refused(&rig->dev, 10));
	expect_silence();
}

/*
 * Pages that a process unmaps. For more than 33 pages, x86 flushes everything,
 * with other device-TLB invalidations than for a few.
 */
#define PAGE 4096
#define SLOTS (PAGE / sizeof(__u64))

static const unsigned int page_counts[] = { 16, 33, 34, 64 };

static bool page_is_poison(volatile __u64 *page)
{
	unsigned int i;
	__u64 all;

	memset(&all, POISON, sizeof(all));
	for (i = 0; i < SLOTS; i++)
		if (page[i] != all)
			return false;
	return true;
}

/* Two mappings of the same memory: DMA goes to @give, which is unmapped */
struct twin {
	size_t len;
	volatile __u64 *keep, *give;
};

static void map_twin(struct __test_metadata *_metadata, struct twin *twin,
		     unsigned int pages)
{
	unsigned int i;

	twin->len = (size_t)pages * PAGE;
	twin->keep = map_shared(twin->len);
	ASSERT_NE(NULL, twin->keep);
	twin->give = mremap((void *)twin->keep, 0, twin->len, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, twin->give);
	for (i = 0; i < pages; i++) {
		twin->keep[i * SLOTS] = 0;
		twin->give[i * SLOTS] = 0;
	}
}

/*
 * A channel that is bound and streams into a page. It is sufficient to stream
 * into the first and the last page, which the device then caches.
 */
struct stream {
	struct pdma_dev dev;
	size_t page;
};

static void start_streams(struct __test_metadata *_metadata,
			  struct stream stream[2], volatile __u64 *buf,
			  unsigned int pages)
{
	int i;

	for (i = 0; i < 2; i++) {
		stream[i].page = i ? pages - 1 : 0;
		ASSERT_EQ(0, pdma_stream(&stream[i].dev,
					 (uintptr_t)&buf[stream[i].page * SLOTS],
					 PAGE, 50, 1));
	}
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pdma_wait_counter(&stream[i].dev, 3));
}

/* Nothing arrives although the engine has tried several times */
static void expect_streams_blocked(struct __test_metadata *_metadata,
				   struct stream stream[2],
				   volatile __u64 *buf)
{
	__u64 done[2], refused[2];
	int i;

	for (i = 0; i < 2; i++) {
		done[i] = pdma_done(&stream[i].dev);
		refused[i] = pdma_refused(&stream[i].dev);
		memset((void *)&buf[stream[i].page * SLOTS], POISON, PAGE);
	}
	for (i = 0; i < 2; i++) {
		EXPECT_TRUE(wait_until(pdma_done(&stream[i].dev) != done[i] ||
				       pdma_refused(&stream[i].dev) >=
				       refused[i] + 10));
		EXPECT_EQ(done[i], pdma_done(&stream[i].dev));
		EXPECT_TRUE(page_is_poison(&buf[stream[i].page * SLOTS]));
	}
}

static void stop_streams(struct __test_metadata *_metadata,
			 struct stream stream[2])
{
	int i;

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pdma_stop(&stream[i].dev));
}

FIXTURE(unmap)
{
	struct rig rig;
	struct stream stream[2];
};

FIXTURE_SETUP(unmap)
{
	const char *reason = setup(_metadata, &self->rig);
	int i;

	if (reason)
		SKIP(return, "%s", reason);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, sva_open(&self->stream[i].dev, self->rig.engine.name));
		ASSERT_LT(0, sva_bind(&self->stream[i].dev));
	}
}

FIXTURE_TEARDOWN_PARENT(unmap)
{
	give_back(_metadata, &self->rig.engine);
}

TEST_F(unmap, dma_ends_with_munmap)
{
	struct twin twin;
	unsigned int i;

	faults_begin(&self->rig);
	for (i = 0; i < ARRAY_LEN(page_counts); i++) {
		TH_LOG("%u pages", page_counts[i]);
		map_twin(_metadata, &twin, page_counts[i]);
		start_streams(_metadata, self->stream, twin.give,
			      page_counts[i]);
		ASSERT_EQ(0, munmap((void *)twin.give, twin.len));
		expect_streams_blocked(_metadata, self->stream, twin.keep);
		stop_streams(_metadata, self->stream);
		munmap((void *)twin.keep, twin.len);
	}
	faults_end(&self->rig);
}

TEST_F(unmap, writes_end_with_mprotect)
{
	struct twin twin;
	unsigned int i;

	faults_begin(&self->rig);
	for (i = 0; i < ARRAY_LEN(page_counts); i++) {
		TH_LOG("%u pages", page_counts[i]);
		map_twin(_metadata, &twin, page_counts[i]);
		start_streams(_metadata, self->stream, twin.give,
			      page_counts[i]);
		ASSERT_EQ(0, mprotect((void *)twin.give, twin.len, PROT_READ));
		expect_streams_blocked(_metadata, self->stream, twin.keep);
		stop_streams(_metadata, self->stream);
		munmap((void *)twin.give, twin.len);
		munmap((void *)twin.keep, twin.len);
	}
	faults_end(&self->rig);
}

/* A stream started after a new mapping must not reach the old page either */
TEST_F(unmap, stream_after_a_new_mapping_goes_to_the_new_page)
{
	volatile __u64 *fresh;
	struct twin twin;
	unsigned int i;
	int k;

	for (i = 0; i < ARRAY_LEN(page_counts); i++) {
		TH_LOG("%u pages", page_counts[i]);
		map_twin(_metadata, &twin, page_counts[i]);
		start_streams(_metadata, self->stream, twin.give,
			      page_counts[i]);
		stop_streams(_metadata, self->stream);
		ASSERT_EQ(0, munmap((void *)twin.give, twin.len));
		fresh = mmap((void *)twin.give, twin.len,
			     PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED |
			     MAP_POPULATE, -1, 0);
		ASSERT_EQ(twin.give, fresh);
		memset((void *)fresh, POISON, twin.len);
		memset((void *)twin.keep, POISON, twin.len);

		start_streams(_metadata, self->stream, fresh, page_counts[i]);
		stop_streams(_metadata, self->stream);
		for (k = 0; k < 2; k++) {
			size_t at = self->stream[k].page * SLOTS;

			EXPECT_FALSE(page_is_poison(&fresh[at]));
			EXPECT_TRUE(page_is_poison(&twin.keep[at]));
		}
		munmap((void *)fresh, twin.len);
		munmap((void *)twin.keep, twin.len);
	}
}

/*
 * After fork(), a write by either process causes a copy. The device cannot
 * trigger that: its writes are refused until the parent has written.
 */
TEST_F(unmap, writes_after_fork_do_not_reach_the_child)
{
	struct rig *rig = &self->rig;
	volatile __u64 *buf;
	__u64 done[2], refused[2];
	int i, status;
	pid_t pid;

	faults_begin(rig);
	buf = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, buf);
	buf[0] = 0;
	buf[SLOTS] = 0;
	start_streams(_metadata, self->stream, buf, 2);

	pid = fork();
	if (!pid) {
		static __u64 copy[2 * SLOTS];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memcpy(copy, (void *)buf, sizeof(copy));
		store(&rig->shared->pasid, 1);
		while (!load(&rig->shared->go))
			usleep(200);
		_exit(!!memcmp(copy, (void *)buf, sizeof(copy)));
	}
	ASSERT_LT(0, pid);
	for (i = 0; i < 2; i++) {
		done[i] = pdma_done(&self->stream[i].dev);
		refused[i] = pdma_refused(&self->stream[i].dev);
	}
	ASSERT_TRUE(wait_until(load(&rig->shared->pasid)));
	for (i = 0; i < 2; i++) {
		EXPECT_TRUE(wait_until(pdma_done(&self->stream[i].dev) !=
				       done[i] ||
				       pdma_refused(&self->stream[i].dev) >=
				       refused[i] + 10));
		EXPECT_EQ(done[i], pdma_done(&self->stream[i].dev));
	}

	/* Break the sharing for the parent */
	buf[0] = 0;
	buf[SLOTS] = 0;
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, pdma_wait_counter(&self->stream[i].dev, 3));
	store(&rig->shared->go, 1);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	stop_streams(_metadata, self->stream);
	faults_end(rig);
}

/*
 * Use a channel that no test opens with the PASID of a process that has exited:
 * nothing arrives and nothing is reported.
 */
static void expect_silently_blocked(struct __test_metadata *_metadata,
				    struct rig *rig, __u32 pasid)
{
	unsigned int ch = bar_read32(&rig->bar, PDMA_CHANNELS) - 1;
	__u64 suppressed = bar_suppressed(&rig->bar);
	__u64 arrived = bar_done(&rig->bar, ch);

	poison_buf(rig->buf, BUF_LEN);
	bar_set_pasid(&rig->bar, ch, PDMA_PASID_VALID | pasid);
	EXPECT_TRUE(bar_stream(&rig->bar, ch, (uintptr_t)rig->buf, PAGE, 50));
	EXPECT_TRUE(wait_until(bar_suppressed(&rig->bar) >= suppressed + 100 ||
			       bar_recorded(&rig->bar) != rig->faults));
	bar_stop(&rig->bar, ch);
	bar_set_pasid(&rig->bar, ch, 0);
	EXPECT_EQ(arrived, bar_done(&rig->bar, ch));
	EXPECT_TRUE(buf_is_poison(rig->buf, BUF_LEN));
	expect_silence();
}

/* A reset restores attached PASIDs, but not a PASID whose process is gone */
TEST_F(end, stays_blocked_and_silent_across_a_reset)
{
	struct rig *rig = &self->rig;
	__u32 pasid, got;
	pid_t pid;

	pid = start_bound(_metadata, rig, &rig->dev, variant->how);
	pasid = rig->shared->pasid;
	expect_arrives(_metadata, &rig->dev, rig->buf);
	end_address_space(_metadata, rig, pid, variant->how);
	expect_refused(_metadata, &rig->dev, rig->buf);
	expect_silence();

	ASSERT_EQ(0, pci_reset(rig->engine.name));
	expect_silently_blocked(_metadata, rig, pasid);
	test_err_alloc(ENOSPC, rig->fd, pasid, pasid, 1, &got);

	EXPECT_EQ(0, sva_unbind(&rig->dev));
	reap(pid, variant->how);
	EXPECT_TRUE(wait_process_free(rig->fd, pasid));
	expect_silence();
	expect_plain(_metadata, rig, pasid);
}

#define RESET_ROUNDS 20

/*
 * End the address space at an increasing delay after the start of the reset, up
 * to after its end, when PASIDs are attached again.
 */
TEST_F(end, in_the_middle_of_a_reset_blocks)
{
	struct rig *rig = &self->rig;
	int round, rounds = times(RESET_ROUNDS), status;
	__u64 start, took = 0;
	pid_t pid, resetter;
	__u32 pasid;

	start = now_us();
	ASSERT_EQ(0, pci_reset(rig->engine.name));
	took = now_us() - start;

	for (round = 0; round < rounds; round++) {
		pid = start_bound(_metadata, rig, &rig->dev, variant->how);
		pasid = rig->shared->pasid;
		expect_arrives(_metadata, &rig->dev, rig->buf);
		resetter = fork();
		if (!resetter)
			_exit(!!pci_reset(rig->engine.name));
		ASSERT_LT(0, resetter);
		usleep(took * 3 / 2 * round / rounds);
		end_address_space(_metadata, rig, pid, variant->how);
		ASSERT_EQ(resetter, waitpid(resetter, &status, 0));
		ASSERT_EQ(0, status);

		expect_silently_blocked(_metadata, rig, pasid);
		EXPECT_EQ(0, sva_unbind(&rig->dev));
		reap(pid, variant->how);
		ASSERT_TRUE(wait_process_free(rig->fd, pasid));
	}
	expect_silence();
	expect_plain(_metadata, rig, pasid);
	TH_LOG("%d rounds, a reset takes %llu us", rounds,
	       (unsigned long long)took);
}

TEST_HARNESS_MAIN

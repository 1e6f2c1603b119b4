// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attacks by an unprivileged process that was passed a /dev/ioasid file, and
 * the tests that cover them ("here": this file)
 *
 * It cannot hang the kernel
 *	a huge ALLOC or FREE ends with a fatal signal: ioasid
 *	endless calls from many threads that are then killed: here
 *	adding and deleting mappings of a VM, submissions to a device:
 *	ioasid_kvm, ioasid_mdev
 *	system calls that block on their user memory: here
 * It cannot exhaust memory
 *	what is used for IOASIDs, mappings of a VM, attachments and calls is
 *	charged to its memory cgroup while it is in use, and so are PASID
 *	tables of a device that grow on its behalf: here
 * It cannot starve other sets
 *	the quota and raising it, fork, exec, new files: ioasid
 *	parked IOASIDs count: ioasid_dma, ioasid_cgroup
 *	many processes share the limit of their cgroup: here
 * It does not learn the IDs of others
 *	IDs of others look like unused IDs, with FREE, QUERY and KVM: here,
 *	with VFIO: ioasid_mdev
 *	fdinfo and debugfs are not readable: here
 *	ALLOC with a range fails with ENOSPC if the IDs are taken, as
 *	documented, but does not tell who holds them.
 * It cannot keep an ID beyond its references
 *	dup, fork, exec, exit: ioasid; kill at any point: ioasid_teardown
 *	descriptors in flight, also in a cycle; zombies; a traced process;
 *	vfork; a call in progress when the file is closed: here
 */
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <linux/userfaultfd.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "ioasid_fixture.h"

#define NOBODY 65534

/* Duration of the attack, in milliseconds */
#define WATCH_MS 1500

#define load(ptr) __atomic_load_n(ptr, __ATOMIC_SEQ_CST)
#define store(ptr, val) __atomic_store_n(ptr, val, __ATOMIC_SEQ_CST)

struct shared {
	__u32 id;
	int step;
	int calls;
	int error;
};

FIXTURE(hostile)
{
	int fd;			/* file of the victim */
	struct shared *shared;
	__u32 mine;		/* IOASID of the victim */
};

FIXTURE_SETUP(hostile)
{
	skip_for(setup_ioasid(_metadata, &self->fd));
	self->shared = map_shared(sizeof(*self->shared));
	ASSERT_NE(NULL, self->shared);
	test_cmd_alloc(self->fd, 0, 0, 1, &self->mine);
}

FIXTURE_TEARDOWN(hostile)
{
	close(self->fd);
}

static int become_nobody(void)
{
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		return -errno;
	return 0;
}

/* Open a file in a new set, then drop all privileges */
static int hostile_open(void)
{
	int fd = ioasid_open();

	if (fd < 0 || become_nobody())
		_exit(1);
	return fd;
}

/* Same; also allocate an IOASID and publish its ID */
static int hostile_hold(struct shared *shared)
{
	int fd = hostile_open();
	__u32 id;

	if (ioasid_alloc(fd, 0, 0, 1, &id))
		_exit(2);
	store(&shared->id, id);
	return fd;
}

#define reach(_step) store(&shared->step, _step)
#define expect_step(_step) \
	ASSERT_TRUE(wait_until(load(&self->shared->step) >= (_step)))

#define expect_reaped(_pid) do {					\
	pid_t __pid = (_pid);						\
									\
	EXPECT_TRUE(wait_until(waitpid(__pid, NULL, WNOHANG) == __pid)); \
} while (0)

/* The process can be killed, whatever it is doing */
#define expect_dies(_pid) do {						\
	ASSERT_EQ(0, kill(_pid, SIGKILL));				\
	expect_reaped(_pid);						\
} while (0)

/* The ID becomes free, whatever else is going on */
#define expect_gone(_id) do {						\
	__u32 __id = (_id), __new = 0;					\
									\
	EXPECT_TRUE(wait_until(!ioasid_alloc(self->fd, __id, __id, 1,	\
					     &__new)));			\
	EXPECT_EQ(__id, __new);						\
	EXPECT_EQ(0, ioasid_free(self->fd, 1, &__id));			\
} while (0)

/* The victim is served despite all attacks */
static void expect_service(struct __test_metadata *_metadata, int fd, int ms)
{
	uint64_t end = now_us() + ms * 1000ull;
	__u32 ids[16];
	int other;

	do {
		test_cmd_alloc(fd, 0, 0, 16, ids);
		test_cmd_free(fd, 16, ids);
		other = ioasid_open();
		ASSERT_LE(0, other);
		close(other);
	} while (now_us() < end);
}

/* It cannot hang the kernel */

struct flood {
	struct shared *shared;
	int fd;
	int kind;
};

static void *flood_fn(void *arg)
{
	struct flood *flood = arg;
	struct ioasid_query query;
	__u32 ids[2000];

	for (;;) {
		__atomic_fetch_add(&flood->shared->calls, 1, __ATOMIC_SEQ_CST);
		switch (flood->kind) {
		case 0:
			if (!ioasid_alloc(flood->fd, 0, 0, 1000, ids))
				ioasid_free(flood->fd, 1000, ids);
			break;
		case 1:
			/* Always fails, after scanning the whole array */
			memset(ids, 0, sizeof(ids));
			ioasid_free(flood->fd, 2000, ids);
			ioasid_alloc(flood->fd, 0, 0, 0xfffff, ids);
			break;
		case 2:
			/* The result cannot be copied out */
			ioasid_alloc(flood->fd, 0, 0, 4000, (void *)-4096ul);
			break;
		default:
			ioasid_query(flood->fd, 1, &query);
			ioasid_set_quota(flood->fd, 4096);
		}
	}
	return NULL;
}

/* @kind: of all threads, or -1 for a different one in each thread */
static void flood(struct shared *shared, int kind)
{
	struct flood floods[4];
	int i, fd = hostile_open();
	pthread_t thread;

	for (i = 0; i < 4; i++) {
		floods[i] = (struct flood){ shared, fd, kind < 0 ? i : kind };
		if (pthread_create(&thread, NULL, flood_fn, &floods[i]))
			_exit(3);
	}
	reach(1);
	pause();
	_exit(99);
}

static void expect_service_in_flood(struct __test_metadata *_metadata,
				    FIXTURE_DATA(hostile) *self, int kind)
{
	struct shared *shared = self->shared;
	pid_t pids[2];
	int i, calls;

	for (i = 0; i < 2; i++) {
		store(&shared->step, 0);
		pids[i] = fork();
		ASSERT_LE(0, pids[i]);
		if (!pids[i])
			flood(shared, kind);
		expect_step(1);
	}
	calls = load(&shared->calls);
	expect_service(_metadata, self->fd, WATCH_MS);
	EXPECT_LT(calls, load(&shared->calls));
	for (i = 0; i < 2; i++)
		expect_dies(pids[i]);
	test_set_in_use(self->fd, 1, 0);
}

TEST_F(hostile, endless_calls_hang_nobody_and_can_be_killed)
{
	expect_service_in_flood(_metadata, self, -1);
}

/* It cannot starve other sets */

/* Requests over quota do not transiently reduce what is available to others */
TEST_F(hostile, refused_requests_take_nothing_from_others)
{
	expect_service_in_flood(_metadata, self, 1);
}

TEST_F(hostile, processes_of_a_cgroup_share_its_limit)
{
	struct shared *shared = self->shared;
	const char *why;
	char group[64];
	pid_t pids[6];
	int i;

	if (find_controller(&why))
		SKIP(return, "%s", why);
	snprintf(group, sizeof(group), CGROUP_ROOT "/ioasid-hostile-%d",
		 getpid());
	ASSERT_EQ(0, mkdir(group, 0755));
	ASSERT_EQ(0, group_write(group, "misc.max", "ioasid 10"));
	for (i = 0; i < 6; i++) {
		pids[i] = fork();
		ASSERT_LE(0, pids[i]);
		if (!pids[i]) {
			__u32 id;
			int fd, ret;

			if (enter(group))
				_exit(1);
			fd = hostile_open();
			/* Allocate until the limit is reached */
			while (!(ret = ioasid_alloc(fd, 0, 0, 1, &id)))
				__atomic_fetch_add(&shared->calls, 1,
						   __ATOMIC_SEQ_CST);
			if (ret != -EDQUOT)
				store(&shared->error, ret);
			__atomic_fetch_add(&shared->step, 1, __ATOMIC_SEQ_CST);
			pause();
			_exit(99);
		}
	}
	expect_step(6);
	EXPECT_EQ(0, load(&shared->error));
	EXPECT_EQ(10, load(&shared->calls));
	EXPECT_EQ(10, current_of(group));
	expect_service(_metadata, self->fd, 100);
	for (i = 0; i < 6; i++)
		expect_dies(pids[i]);
	EXPECT_EQ(0, wait_current(group, 0));
	EXPECT_TRUE(wait_until(!rmdir(group)));
}

/* It cannot exhaust memory */

/* Widely spaced IDs that do not share an xarray node */
#define FIRST	0x10000
#define STRIDE	64
#define NUMBERS	2000

/*
 * Tolerance for the statistics: the kernel accumulates slab bytes per page and
 * per CPU, so the latest charges and uncharges may not be visible yet
 */
#define CHARGE_SLACK 0x4000

/* Size of a mapping of a VM, which has no slab cache of its own */
#define MAPPING_SIZE 32

struct taker {
	int fd;
	struct kvm_vm vm;
	struct pdma_dev dev;
	__u32 ids[NUMBERS];
};

struct charge {
	int count;
	bool vm;
	bool device;
	int (*take)(struct taker *taker, int i);
	int (*give_back)(struct taker *taker);
	/* Objects allocated per iteration */
	int ioasids, nodes, mappings, attachments;
};

static int take_number(struct taker *taker, int i)
{
	const __u32 id = FIRST + i * STRIDE;

	return ioasid_alloc(taker->fd, id, id, 1, &taker->ids[i]);
}

static int give_numbers_back(struct taker *taker)
{
	return ioasid_free(taker->fd, NUMBERS, taker->ids);
}

static const struct charge charge_numbers = {
	.count = NUMBERS, .take = take_number, .give_back = give_numbers_back,
	.ioasids = 1, .nodes = 1,
};

/* Map one IOASID to many guest PASIDs, which no quota limits */
static int take_mapping(struct taker *taker, int i)
{
	return kvm_ioasid_add(taker->vm.dev, taker->fd, taker->ids[0],
			      i * STRIDE);
}

/* Closes the VM, which was charged before */
static int give_mappings_back(struct taker *taker)
{
	vm_close(&taker->vm);
	return 0;
}

static const struct charge charge_mappings = {
	.count = NUMBERS, .vm = true,
	.take = take_mapping, .give_back = give_mappings_back,
	.nodes = 1, .mappings = 1,
};

/* The VM keeps each IOASID parked after the device has moved on to the next */
static int take_parked_attachment(struct taker *taker, int i)
{
	int ret = take_number(taker, i);

	if (!ret)
		ret = kvm_ioasid_add(taker->vm.dev, taker->fd, taker->ids[i],
				     i);
	if (!ret)
		ret = pdma_set_ioasid(&taker->dev, taker->fd, taker->ids[i]);
	return ret ? ret : ioasid_free(taker->fd, 1, &taker->ids[i]);
}

static int give_parked_attachments_back(struct taker *taker)
{
	int ret = pdma_drop_all_ioasids(&taker->dev);

	return ret ? ret : give_mappings_back(taker);
}

static const struct charge charge_attachments = {
	.count = 1000, .vm = true, .device = true,
	.take = take_parked_attachment,
	.give_back = give_parked_attachments_back,
	.ioasids = 1, .nodes = 1, .mappings = 1, .attachments = 1,
};

FIXTURE(charge)
{
	struct shared *shared;
	char group[64];
	char uuid[PDMA_UUID_LEN + 1];
	struct taker *taker;
};

FIXTURE_VARIANT(charge)
{
	const struct charge *what;
};

FIXTURE_VARIANT_ADD(charge, numbers)
{
	.what = &charge_numbers,
};

FIXTURE_VARIANT_ADD(charge, mappings)
{
	.what = &charge_mappings,
};

FIXTURE_VARIANT_ADD(charge, attachments)
{
	.what = &charge_attachments,
};

/* Size of a slab object and its memcg pointer, or -errno */
static long long object_size(const char *cache)
{
	char path[PDMA_PATH_LEN], val[32];
	int ret;

	snprintf(path, sizeof(path), "/sys/kernel/slab/%.64s/slab_size", cache);
	ret = pdma_read_file(path, val, sizeof(val));
	return ret ? ret : atoll(val) + (long long)sizeof(void *);
}

static long long slab_of(const char *group)
{
	return group_read(group, "memory.stat", "slab");
}

/* Kernel memory allocated as pages */
static long long pages_of(const char *group)
{
	return group_read(group, "memory.stat", "kernel") - slab_of(group);
}

/* Replug the device, so that it starts with an empty PASID table */
static int renew_device(const char *name)
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	int ret;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/remove", name);
	ret = pdma_write_file(path, "1");
	return ret ? ret : pdma_write_file("/sys/bus/pci/rescan", "1");
}

FIXTURE_SETUP(charge)
{
	const struct charge *what = variant->what;
	char parent[NAME_MAX + 1];
	const char *why;
	int ret;

	if (enable_controller("memory", &why))
		SKIP(return, "%s", why);
	if (object_size("ioasid") < 0)
		SKIP(return, "no /sys/kernel/slab/ioasid");
	if (what->vm && access("/dev/kvm", F_OK))
		SKIP(return, "no KVM");
	if (what->device && pdma_find_parent(0, parent))
		SKIP(return, "no PASID DMA engine");

	self->shared = map_shared(sizeof(*self->shared));
	ASSERT_NE(NULL, self->shared);
	self->taker = map_shared(sizeof(*self->taker));
	ASSERT_NE(NULL, self->taker);
	if (what->device) {
		ASSERT_EQ(0, renew_device(parent));
		ASSERT_EQ(0, pdma_create(parent, self->uuid));
	}
	snprintf(self->group, sizeof(self->group),
		 CGROUP_ROOT "/ioasid-hostile-%d", getpid());
	ret = mkdir(self->group, 0755);
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN_PARENT(charge)
{
	if (!self->group[0])
		return;
	group_write(self->group, "cgroup.kill", "1");
	if (self->uuid[0])
		EXPECT_EQ(0, pdma_remove(self->uuid));
	EXPECT_TRUE(wait_until(!rmdir(self->group)));
}

/* Run in the cgroup only what must be charged */
static void take_in_group(FIXTURE_DATA(charge) *self,
			  const struct charge *what)
{
	struct taker *taker = self->taker;
	struct shared *shared = self->shared;
	int i;

	if (what->vm) {
		if (vm_open(&taker->vm))
			_exit(1);
		taker->vm.dev = kvm_ioasid_create(taker->vm.vm);
	}
	if (what->device && pdma_open_cdev(&taker->dev, self->uuid, NULL))
		_exit(2);
	taker->fd = ioasid_open();
	/* Not under test, so allocate it before entering the cgroup */
	if (!what->ioasids && ioasid_alloc(taker->fd, 0, 0, 1, taker->ids))
		_exit(3);
	if (enter(self->group) || become_nobody())
		_exit(4);
	reach(1);
	while (load(&shared->calls) < 1)
		usleep(1000);
	for (i = 0; i < what->count; i++)
		if (what->take(taker, i))
			_exit(5);
	reach(2);
	while (load(&shared->calls) < 2)
		usleep(1000);
	if (what->give_back(taker))
		_exit(6);
	reach(3);
	pause();
	_exit(99);
}

TEST_F(charge, memory_is_charged_to_the_cgroup_of_the_caller)
{
	const struct charge *what = variant->what;
	long long floor, slab = 0, pages;
	pid_t pid;

	/* Plus the upper level of each xarray, one node per 64 nodes */
	floor = what->ioasids * object_size("ioasid") +
		what->nodes * object_size("radix_tree_node") +
		what->mappings * MAPPING_SIZE +
		what->attachments * object_size("ioasid_attachment");
	floor = floor * what->count +
		what->nodes * (what->count / 64) * object_size("radix_tree_node");

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		take_in_group(self, what);
	expect_step(1);
	EXPECT_GE(CHARGE_SLACK, slab_of(self->group));
	pages = pages_of(self->group);
	store(&self->shared->calls, 1);
	expect_step(2);
	/* Let statistics catch up and pending frees complete */
	sleep(3);
	slab = slab_of(self->group);
	EXPECT_LE(floor, slab + CHARGE_SLACK);
	TH_LOG("%lld bytes charged, at least %lld expected", slab, floor);
	if (what->device) {
		/* The device keeps a page per table of 64 PASIDs */
		pages = pages_of(self->group) - pages;
		EXPECT_LE(what->count * 4096, pages);
		TH_LOG("%lld bytes in PASID tables", pages);
	}
	store(&self->shared->calls, 2);
	expect_step(3);
	/* All is uncharged except for what the process needs to run */
	EXPECT_TRUE(wait_until((slab = slab_of(self->group)) <= floor / 16));
	TH_LOG("%lld bytes after all is given back", slab);
	expect_dies(pid);
}

/* System calls that block on user memory */

#define STALL_COUNT 3000
/* Number of IDs in the part of the array that is not faulted in */
#define STALL_LAST 500
#define STALL_FIRST 0x20000
#define PAGE 4096

FIXTURE(stall)
{
	int fd;
	struct shared *shared;
	char group[64];
};

FIXTURE_VARIANT(stall)
{
	unsigned long cmd;
	bool in_array;		/* stall in the array, not in the struct */
};

FIXTURE_VARIANT_ADD(stall, alloc_struct)
{
	.cmd = IOASID_ALLOC,
};

FIXTURE_VARIANT_ADD(stall, free_struct)
{
	.cmd = IOASID_FREE,
};

FIXTURE_VARIANT_ADD(stall, query_struct)
{
	.cmd = IOASID_QUERY,
};

FIXTURE_VARIANT_ADD(stall, list_struct)
{
	.cmd = IOASID_LIST,
};

FIXTURE_VARIANT_ADD(stall, alloc_array)
{
	.cmd = IOASID_ALLOC,
	.in_array = true,
};

FIXTURE_VARIANT_ADD(stall, free_array)
{
	.cmd = IOASID_FREE,
	.in_array = true,
};

FIXTURE_VARIANT_ADD(stall, list_array)
{
	.cmd = IOASID_LIST,
	.in_array = true,
};

struct stalled {
	struct shared *shared;
	int fd;
	unsigned long cmd;
	bool in_array;
	int uffd;
	char *page;		/* the stalling page */
	char answer[PAGE];	/* its content, once delivered */
	__u32 *array;		/* ends in that page */
	__u32 ids[STALL_COUNT];	/* IDs to free */
	union {
		struct ioasid_alloc alloc;
		struct ioasid_free free;
		struct ioasid_query query;
		struct ioasid_list list;
	};
	struct ioasid_list_entry entries[STALL_COUNT];	/* if not stalled */
	int ret;
};

FIXTURE_SETUP(stall)
{
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	const char *why;

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	close(uffd);
	skip_for(setup_ioasid(_metadata, &self->fd));
	if (find_controller(&why))
		SKIP(return, "%s", why);
	self->shared = map_shared(sizeof(*self->shared));
	ASSERT_NE(NULL, self->shared);
	snprintf(self->group, sizeof(self->group),
		 CGROUP_ROOT "/ioasid-hostile-%d", getpid());
	ASSERT_EQ(0, mkdir(self->group, 0755));
}

FIXTURE_TEARDOWN_PARENT(stall)
{
	if (!self->group[0])
		return;
	group_write(self->group, "cgroup.kill", "1");
	/* Everything is released, whatever the call was in the middle of */
	EXPECT_EQ(0, wait_current(self->group, 0));
	EXPECT_TRUE(wait_until(!rmdir(self->group)));
}

/* Map pages, the last of which stalls until stall_answer() */
static int stall_prepare(struct stalled *st)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *mem = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	/* As root, to catch faults in the kernel, too */
	st->uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (mem == MAP_FAILED || st->uffd < 0 ||
	    ioctl(st->uffd, UFFDIO_API, &api))
		return -EIO;
	st->page = mem + 3 * PAGE;
	st->array = (__u32 *)st->page - (STALL_COUNT - STALL_LAST);
	if (madvise(st->page, PAGE, MADV_DONTNEED))
		return -errno;
	reg.range.start = (uintptr_t)st->page;
	reg.range.len = PAGE;
	return ioctl(st->uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

static int stall_answer(struct stalled *st)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)st->page,
		.src = (uintptr_t)st->answer,
		.len = PAGE,
	};

	return ioctl(st->uffd, UFFDIO_COPY, &copy) ? -errno : 0;
}

/* The argument of the call, in the stalling page if the struct must stall */
static void *stall_arg(struct stalled *st)
{
	__u32 *ids = st->in_array ? st->array : st->ids;
	const int first = STALL_COUNT - STALL_LAST;
	size_t len;

	switch (st->cmd) {
	case IOASID_ALLOC:
		len = sizeof(st->alloc);
		st->alloc = (struct ioasid_alloc){
			.size = len, .min = STALL_FIRST,
			.max = STALL_FIRST + STALL_COUNT - 1,
			.count = STALL_COUNT, .ids = (uintptr_t)ids,
		};
		break;
	case IOASID_FREE:
		len = sizeof(st->free);
		st->free = (struct ioasid_free){
			.size = len, .count = STALL_COUNT,
			.ids = (uintptr_t)ids,
		};
		if (st->in_array) {
			memcpy(st->array, st->ids, first * sizeof(*st->ids));
			memcpy(st->answer, st->ids + first,
			       STALL_LAST * sizeof(*st->ids));
		}
		break;
	case IOASID_LIST:
		len = sizeof(st->list);
		st->list = (struct ioasid_list){
			.size = len,
			.count = st->in_array ?
				 STALL_COUNT / (sizeof(*st->entries) / sizeof(*ids)) :
				 STALL_COUNT,
			.entries = st->in_array ? (uintptr_t)ids :
						  (uintptr_t)st->entries,
		};
		break;
	default:
		len = sizeof(st->query);
		st->query = (struct ioasid_query){
			.size = len, .id = st->ids[0],
		};
	}
	if (st->in_array)
		return &st->alloc;
	memcpy(st->answer, &st->alloc, len);
	return st->page;
}

static void *stall_fn(void *arg)
{
	struct stalled *st = arg;
	void *cmd = stall_arg(st);

	store(&st->shared->calls, 1);
	st->ret = ioasid_ioctl(st->fd, st->cmd, cmd);
	store(&st->shared->calls, 2);
	return NULL;
}

/* Use the file from another thread of the process */
static int use_file(int fd)
{
	struct ioasid_query query;
	struct ioasid_info info;
	__u32 ids[20];
	int ret;

	ret = ioasid_alloc(fd, 0, 0, 20, ids);
	if (!ret)
		ret = ioasid_query(fd, ids[0], &query);
	if (!ret)
		ret = ioasid_free(fd, 20, ids);
	return ret ? ret : ioasid_get_info(fd, &info);
}

/* The call takes effect only after the page was delivered */
static int stall_check(struct stalled *st, bool answered)
{
	bool alloc = st->cmd == IOASID_ALLOC, free = st->cmd == IOASID_FREE;
	bool active = answered ? !free : !alloc;
	/* A number that the call has already written to user space */
	__u32 id = alloc && st->in_array ? st->array[0] : STALL_FIRST;
	int i;

	if (id < STALL_FIRST || id >= STALL_FIRST + STALL_COUNT)
		return -ERANGE;
	for (i = 0; i < 2; i++) {
		int state = ioasid_state(st->fd, i ? id : STALL_FIRST + 9);

		if (state != (active ? IOASID_STATE_ACTIVE : -ENOENT))
			return -EBADMSG;
	}
	/* An ID that has not been returned yet cannot be freed */
	if (!active && ioasid_free(st->fd, 1, &id) != -ENOENT)
		return -EPROTO;
	return 0;
}

static void stall(FIXTURE_DATA(stall) *self,
		  const FIXTURE_VARIANT(stall) *variant, bool answer)
{
	static struct stalled st;
	struct shared *shared = self->shared;
	pthread_t thread;
	int other, ret;
	__u32 id;

	st.shared = shared;
	st.cmd = variant->cmd;
	st.in_array = variant->in_array;
	if (enter(self->group) || stall_prepare(&st))
		_exit(1);
	/* Another file of the same process */
	other = ioasid_open();
	st.fd = hostile_open();
	if (st.cmd != IOASID_ALLOC &&
	    ioasid_alloc(st.fd, STALL_FIRST, STALL_FIRST + STALL_COUNT - 1,
			 STALL_COUNT, st.ids))
		_exit(2);
	if (pthread_create(&thread, NULL, stall_fn, &st))
		_exit(3);
	while (load(&shared->calls) < 1)
		;
	usleep(300000);
	/* IDs are allocated before the first one is copied out */
	if (st.cmd == IOASID_ALLOC && st.in_array)
		wait_until(*(volatile __u32 *)st.array);
	ret = use_file(st.fd);
	if (!ret)
		ret = use_file(other);
	if (!ret)
		ret = stall_check(&st, false);
	/* Leave an IOASID in the file, which close must park */
	if (!ret)
		ret = ioasid_alloc(other, 0, 0, 1, &id);
	close(other);
	store(&shared->error, ret);
	reach(1);
	if (!answer)
		pause();
	while (load(&shared->id) < 1)
		usleep(1000);
	if (stall_answer(&st))
		_exit(4);
	pthread_join(thread, NULL);
	store(&shared->error, st.ret ? st.ret : stall_check(&st, true));
	reach(2);
	pause();
	_exit(99);
}

/* Start a process whose call is stalled in the kernel; others are served */
static pid_t expect_stalled(struct __test_metadata *_metadata,
			    FIXTURE_DATA(stall) *self,
			    const FIXTURE_VARIANT(stall) *variant, bool answer)
{
	struct shared *shared = self->shared;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		stall(self, variant, answer);
	expect_step(1);
	EXPECT_EQ(0, load(&shared->error));
	expect_service(_metadata, self->fd, 100);
	EXPECT_EQ(1, load(&shared->calls));
	/* The IDs are taken and charged */
	if (variant->in_array || variant->cmd != IOASID_ALLOC) {
		expect_taken(self->fd, STALL_FIRST);
		EXPECT_EQ(STALL_COUNT, wait_current(self->group, STALL_COUNT));
	}
	return pid;
}

TEST_F(stall, memory_that_never_answers_holds_up_nobody_else)
{
	pid_t pid = expect_stalled(_metadata, self, variant, false);

	expect_dies(pid);
	/* The interrupted call is undone completely */
	EXPECT_EQ(0, wait_current(self->group, 0));
	expect_gone(STALL_FIRST);
	expect_gone(STALL_FIRST + STALL_COUNT - 1);
}

TEST_F(stall, memory_that_answers_late_completes_the_call)
{
	pid_t pid = expect_stalled(_metadata, self, variant, true);

	store(&self->shared->id, 1);
	expect_step(2);
	EXPECT_EQ(0, load(&self->shared->error));
	EXPECT_EQ(2, load(&self->shared->calls));
	expect_dies(pid);
	EXPECT_EQ(0, wait_current(self->group, 0));
	expect_gone(STALL_FIRST);
}

/* A call with the largest possible count, whose array is in a stalled page */
FIXTURE(hold)
{
	char group[64];
};

FIXTURE_SETUP(hold)
{
	const char *why;
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	close(uffd);
	if (enable_controller("memory", &why))
		SKIP(return, "%s", why);
	snprintf(self->group, sizeof(self->group),
		 CGROUP_ROOT "/ioasid-hostile-%d", getpid());
	ASSERT_EQ(0, mkdir(self->group, 0755));
}

FIXTURE_TEARDOWN_PARENT(hold)
{
	if (!self->group[0])
		return;
	group_write(self->group, "cgroup.kill", "1");
	EXPECT_TRUE(wait_until(!rmdir(self->group)));
}

TEST_F(hold, memory_during_a_call_is_charged_to_the_cgroup_of_the_caller)
{
	const long long size = 0xfffff * sizeof(__u32);
	long long kernel = 0;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		static struct stalled st;

		if (enter(self->group) || stall_prepare(&st))
			_exit(1);
		st.fd = hostile_open();
		ioasid_free(st.fd, 0xfffff, (__u32 *)st.page);
		_exit(99);
	}
	/* Kernel memory of all kinds */
	EXPECT_TRUE(wait_until((kernel = group_read(self->group, "memory.stat",
						    "kernel")) >= size));
	TH_LOG("%lld bytes charged, at least %lld expected", kernel, size);
	expect_dies(pid);
	EXPECT_TRUE(wait_until(group_read(self->group, "memory.stat",
					  "kernel") < size / 4));
}

/* It does not learn the IDs of others */

static int kvm_answer(struct kvm_vm *vm, int fd, __u32 id)
{
	return vm->dev < 0 ? -ENOENT : kvm_ioasid_add(vm->dev, fd, id, 1);
}

static void probe(struct __test_metadata *_metadata, __u32 taken, __u32 parked,
		  pid_t victim)
{
	const __u32 ids[] = { taken, parked, 0xfff00, 0, 0x100000, ~0u };
	struct ioasid_query query, blank;
	struct kvm_vm vm;
	char path[64];
	unsigned int i;
	__u32 pair[2];
	int fd, kvm = vm_open(&vm);

	if (!kvm)
		vm.dev = kvm_ioasid_create(vm.vm);
	fd = hostile_open();
	test_cmd_alloc(fd, 0, 0, 1, &pair[0]);
	/* The output buffers are identical, too */
	for (i = 0; i < ARRAY_LEN(ids); i++) {
		pair[1] = ids[i];
		memset(&query, 0x5a, sizeof(query));
		query.size = sizeof(query);
		query.flags = 0;
		query.id = ids[i];
		blank = query;
		EXPECT_EQ(-ENOENT, ioasid_ioctl(fd, IOASID_QUERY, &query));
		EXPECT_EQ(0, memcmp(&query, &blank, sizeof(query)));
		test_err_free(ENOENT, fd, 1, &ids[i]);
		test_err_free(ENOENT, fd, 2, pair);
		EXPECT_EQ(-ENOENT, kvm_answer(&vm, fd, ids[i]));
	}
	test_set_in_use(fd, 1, 0);
	snprintf(path, sizeof(path), "/proc/%d/fdinfo", victim);
	EXPECT_EQ(-1, open(path, O_RDONLY));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(-1, open("/sys/kernel/debug/ioasid/ioasids", O_RDONLY));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(-1, open("/sys/kernel/debug/ioasid/refs", O_RDONLY));
	EXPECT_EQ(EACCES, errno);
	vm_close(&vm);
}

TEST_F(hostile, numbers_of_others_look_as_those_that_do_not_exist)
{
	struct kvm_vm vm;
	int status;
	__u32 id;
	pid_t pid;

	/* Kept parked by a VM */
	test_cmd_alloc(self->fd, 0, 0, 1, &id);
	if (!vm_open(&vm)) {
		vm.dev = kvm_ioasid_create(vm.vm);
		ASSERT_LE(0, vm.dev);
		test_cmd_map_add(vm.dev, self->fd, id, 1);
	}
	test_cmd_free(self->fd, 1, &id);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(self->fd);
		probe(_metadata, self->mine, id, getppid());
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	vm_close(&vm);
}

/* It cannot keep an ID beyond its references */

/* A descriptor that is never received goes away with its socket */
TEST_F(hostile, number_of_a_file_in_flight_is_freed_with_the_socket)
{
	struct shared *shared = self->shared;
	int sock[2];
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (send_fd(sock[0], hostile_hold(shared)))
			_exit(3);
		_exit(0);
	}
	expect_reaped(pid);
	/* In flight: the file is open in no process but keeps its IOASID */
	ASSERT_NE(0, shared->id);
	expect_taken(self->fd, shared->id);
	close(sock[0]);
	expect_taken(self->fd, shared->id);
	close(sock[1]);
	expect_gone(shared->id);
}

/* Sockets in flight in each other, which can never be received */
TEST_F(hostile, number_in_a_cycle_of_sockets_is_collected)
{
	struct shared *shared = self->shared;
	int sock[2];
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = hostile_hold(shared);

		if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock) ||
		    send_fd(sock[0], fd) || send_fd(sock[0], sock[0]) ||
		    send_fd(sock[1], sock[1]))
			_exit(3);
		_exit(0);
	}
	expect_reaped(pid);
	ASSERT_NE(0, shared->id);
	/* Closing a socket triggers garbage collection */
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	close(sock[0]);
	close(sock[1]);
	expect_gone(shared->id);
}

TEST_F(hostile, zombie_has_no_number)
{
	struct shared *shared = self->shared;
	siginfo_t info;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		hostile_hold(shared);
		_exit(0);
	}
	ASSERT_EQ(0, waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
	expect_gone(shared->id);
	expect_reaped(pid);
}

TEST_F(hostile, traced_process_is_killed_with_its_number)
{
	struct shared *shared = self->shared;
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		hostile_hold(shared);
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(3);
		raise(SIGSTOP);
		_exit(99);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));
	expect_taken(self->fd, shared->id);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	expect_gone(shared->id);
	expect_reaped(pid);
}

#define ROUNDS 20

struct closer {
	struct shared *shared;
	int fd;
};

/* Allocate 100 IOASIDs per call until the descriptor is closed */
static void *call_while_closed(void *arg)
{
	struct closer *closer = arg;
	__u32 ids[100];

	do
		store(&closer->shared->step, 1);
	while (!ioasid_alloc(closer->fd, 0, 0, 100, ids));
	return NULL;
}

TEST_F(hostile, close_during_a_call_leaves_nothing)
{
	struct shared *shared = self->shared;
	int fds[ROUNDS], i, status;
	pthread_t thread;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		__u32 active, parked;
		int watch;

		for (i = 0; i < ROUNDS; i++) {
			fds[i] = ioasid_open();
			if (fds[i] < 0)
				_exit(3);
		}
		watch = hostile_open();
		for (i = 0; i < ROUNDS; i++) {
			struct closer closer = { shared, fds[i] };

			store(&shared->step, 0);
			if (pthread_create(&thread, NULL, call_while_closed,
					   &closer))
				_exit(4);
			while (!load(&shared->step))
				;
			usleep(500 + i * 200);
			close(fds[i]);
			pthread_join(thread, NULL);
			if (!ioasid_wait_set_unparked(watch) ||
			    ioasid_set_counts(watch, &active, &parked) ||
			    active)
				_exit(5);
		}
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	test_set_in_use(self->fd, 1, 0);
}

TEST_HARNESS_MAIN

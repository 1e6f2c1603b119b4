// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a process without privileges does with /dev/ioasid when it was given the
 * file, and means harm. Where each is shown:
 *
 * It cannot hang the kernel
 *	a huge ALLOC or FREE ends with a fatal signal: ioasid
 *	endless calls of many threads, which then are killed: here
 *	adds and deletes of a VM, submissions to a device: ioasid_kvm, ioasid_mdev
 * It cannot starve other sets
 *	the quota, who may raise it, fork, exec, new files: ioasid
 *	parked numbers count: ioasid_dma, ioasid_cgroup
 *	many processes have what their cgroup has: here
 * It does not learn the numbers of others
 *	their numbers are as those that do not exist, here with FREE, QUERY and
 *	KVM; with VFIO: ioasid_mdev
 *	fdinfo and debugfs cannot be read: here
 *	ALLOC of a range tells that numbers of it are taken (ENOSPC), as its
 *	description says. It does not tell by whom.
 * It cannot keep a number beyond its references
 *	dup, fork, exec, exit: ioasid; kill at any point: ioasid_teardown
 *	descriptors in flight, also in a cycle; zombies; a process that is
 *	traced; vfork; a call that goes on when the file is closed: here
 */
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "cgroup_utils.h"
#include "ioasid_utils.h"
#include "kvm_utils.h"

#define ARRAY_LEN(x) (sizeof(x) / sizeof((x)[0]))

#define NOBODY 65534

/* Of a call that anybody makes, and of the death of whoever is killed */
#define PROMPT_MS 5000

/* How long a test looks on */
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
	int fd;			/* of the victim, which looks on */
	struct shared *shared;
	__u32 mine;		/* of the victim */
};

FIXTURE_SETUP(hostile)
{
	self->fd = ioasid_open();
	if (self->fd == -ENOENT)
		SKIP(return, "no " IOASID_DEV);
	ASSERT_LE(0, self->fd);
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

/* A file in a set of its own, whose holder has no privileges any more */
static int hostile_open(void)
{
	int fd = ioasid_open();

	if (fd < 0 || become_nobody())
		_exit(1);
	return fd;
}

/* The same, and a number that others look at */
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

#define expect_reaped(_pid, _ms) do {					\
	pid_t __pid = (_pid);						\
									\
	EXPECT_TRUE(wait_until_ms(waitpid(__pid, NULL, WNOHANG) ==	\
				  __pid, _ms));				\
} while (0)

#define expect_dies_promptly(_pid) do {					\
	ASSERT_EQ(0, kill(_pid, SIGKILL));				\
	expect_reaped(_pid, PROMPT_MS);					\
} while (0)

/* Nobody has it any more, whatever else goes on */
#define expect_gone(_id) do {						\
	__u32 __id = (_id), __new = 0;					\
									\
	EXPECT_TRUE(wait_until(!ioasid_alloc(self->fd, __id, __id, 1,	\
					     &__new)));			\
	EXPECT_EQ(__id, __new);						\
	EXPECT_EQ(0, ioasid_free(self->fd, 1, &__id));			\
} while (0)

/* What the victim does is done in time, as long as others try to prevent it */
static void expect_service(struct __test_metadata *_metadata, int fd, int ms)
{
	uint64_t end = now_us() + ms * 1000ull, start, worst = 0;
	__u32 ids[16];
	int other;

	do {
		start = now_us();
		test_cmd_alloc(fd, 0, 0, 16, ids);
		test_cmd_free(fd, 16, ids);
		other = ioasid_open();
		ASSERT_LE(0, other);
		close(other);
		if (now_us() - start > worst)
			worst = now_us() - start;
	} while (now_us() < end);
	EXPECT_GT(PROMPT_MS * 1000ull, worst);
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
			/* Never all of them */
			memset(ids, 0, sizeof(ids));
			ioasid_free(flood->fd, 2000, ids);
			ioasid_alloc(flood->fd, 0, 0, 0xfffff, ids);
			break;
		case 2:
			/* The answer cannot be delivered */
			ioasid_alloc(flood->fd, 0, 0, 4000, (void *)-4096ul);
			break;
		default:
			ioasid_query(flood->fd, 1, &query);
			ioasid_set_quota(flood->fd, 4096);
		}
	}
	return NULL;
}

/* @kind: of all threads, -1: each another */
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
		expect_dies_promptly(pids[i]);
	test_in_use(self->fd, 1, 0);
}

TEST_F_TIMEOUT(hostile, endless_calls_hang_nobody_and_die_promptly, 120)
{
	expect_service_in_flood(_metadata, self, -1);
}

/* It cannot starve other sets */

/* More than the quota allows: not even for a moment does it count elsewhere */
TEST_F_TIMEOUT(hostile, refused_requests_take_nothing_from_others, 120)
{
	expect_service_in_flood(_metadata, self, 1);
}

TEST_F(hostile, many_processes_have_what_their_cgroup_has)
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
			/* As long as it gets one, each time by a new file */
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
		expect_dies_promptly(pids[i]);
	EXPECT_EQ(0, wait_current(group, 0));
	EXPECT_TRUE(wait_until(!rmdir(group)));
}

/* It does not learn the numbers of others */

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
	/* Even the bytes of the answer are the same */
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
	test_in_use(fd, 1, 0);
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

	/* Parked, as long as a machine holds it */
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

/* It cannot keep a number beyond its references */

/* Who receives nothing: it goes with the sockets */
TEST_F(hostile, number_in_flight_goes_with_the_socket)
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
	expect_reaped(pid, PROMPT_MS);
	/* In flight: nobody has it open, and it counts */
	ASSERT_NE(0, shared->id);
	expect_taken(self->fd, shared->id);
	close(sock[0]);
	expect_taken(self->fd, shared->id);
	close(sock[1]);
	expect_gone(shared->id);
}

/* Sockets in flight in each other: nobody can receive them any more */
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
	expect_reaped(pid, PROMPT_MS);
	ASSERT_NE(0, shared->id);
	/* The collector runs when a socket is closed */
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
	expect_reaped(pid, PROMPT_MS);
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
	expect_reaped(pid, PROMPT_MS);
}

/* The child of vfork() has the memory of its parent, hence its set */
TEST_F(hostile, vfork_is_no_way_to_another_quota)
{
	struct shared *shared = self->shared;
	pid_t pid, child;
	int status;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		__u32 ids[2];
		int fd = ioasid_open(), other;

		if (ioasid_set_quota(fd, 1) || ioasid_alloc(fd, 0, 0, 1, ids))
			_exit(1);
		child = vfork();
		if (!child) {
			other = ioasid_open();
			shared->error = ioasid_alloc(other, 0, 0, 1, ids + 1);
			ioasid_free(fd, 1, ids);
			if (!ioasid_alloc(other, 0, 0, 1, ids + 1))
				shared->id = ids[1];
			_exit(0);
		}
		waitpid(child, NULL, 0);
		/* Its own file is closed: with its number */
		_exit(ioasid_alloc(fd, 0, 0, 1, ids) ? 7 : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(-EDQUOT, shared->error);
	ASSERT_NE(0, shared->id);
	expect_gone(shared->id);
}

#define ROUNDS 20

struct closer {
	struct shared *shared;
	int fd;
};

/* Until the descriptor is gone, with 100 numbers more each time */
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
	struct ioasid_info info;
	pthread_t thread;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
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
			if (!ioasid_wait_none_parked(watch) ||
			    ioasid_get_info(watch, &info) || info.active)
				_exit(5);
		}
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	test_in_use(self->fd, 1, 0);
}

TEST_HARNESS_MAIN

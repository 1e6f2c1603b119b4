// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accounting of IOASIDs in the misc cgroup controller
 *
 * An IOASID is charged to the cgroup of the task that allocates it, and the
 * same cgroup is uncharged when it is recycled, no matter who drops the last
 * reference, which cgroup that task or the allocator is in by then, and whether
 * the cgroup still has a directory. An earlier IOASID proposal got two of these
 * wrong: charges leaked whenever a process exited, as they were looked up by an
 * mm that an exiting task no longer has, and the uncharge went to the cgroup of
 * the current task, so that both counters were off for good.
 *
 * All tests use a cgroup TOP with the children A and B. misc.peak shows that a
 * cgroup was never charged, not even transiently.
 */
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "ioasid_failures.h"
#include "ioasid_fixture.h"

#define PAGE 4096

/* Number of valid PASIDs; 0 is reserved */
#define CAPACITY 0xfffff

enum { TOP, A, B, NR_GROUPS };

/* Maximum number of mediated devices per test */
#define NR_DEVS 3

/* Control files of a cgroup */

static long long peak_of(const char *group)
{
	return group_read(group, "misc.peak", "ioasid");
}

/* How often the limit of @group or one of its descendants was hit */
static long long events_of(const char *group)
{
	return group_read(group, "misc.events", "ioasid.max");
}

static long long local_events_of(const char *group)
{
	return group_read(group, "misc.events.local", "ioasid.max");
}

static int set_limit(const char *group, unsigned int limit)
{
	char val[32];

	snprintf(val, sizeof(val), "ioasid %u", limit);
	return group_write(group, "misc.max", val);
}

static int put_into(const char *group, pid_t pid)
{
	char val[32];

	snprintf(val, sizeof(val), "%d", pid);
	return group_write(group, "cgroup.procs", val);
}

/* Fails if there are processes in it; remaining charges do not matter. */
static int remove_group(const char *group)
{
	return rmdir(group) ? -errno : 0;
}

/* The initial cgroup of this process */
static void find_home(char home[PDMA_PATH_LEN])
{
	char line[200] = "";

	snprintf(home, PDMA_PATH_LEN, CGROUP_ROOT);
	if (!pdma_read_file("/proc/self/cgroup", line, sizeof(line)) &&
	    !strncmp(line, "0::/", 4) && !strchr(line, '\n'))
		snprintf(home, PDMA_PATH_LEN, CGROUP_ROOT "%s", line + 3);
}

FIXTURE(cgroup)
{
	char home[PDMA_PATH_LEN];
	char group[NR_GROUPS][64];
	char uuid[NR_DEVS][PDMA_UUID_LEN + 1];
	int fd;
};

FIXTURE_SETUP(cgroup)
{
	const char *why;
	int i;

	skip_for(setup_ioasid(_metadata, &self->fd));
	if (find_controller(&why))
		SKIP(return, "%s", why);

	find_home(self->home);
	snprintf(self->group[TOP], sizeof(self->group[TOP]),
		 CGROUP_ROOT "/ioasid-selftest-%d", getpid());
	ASSERT_EQ(0, mkdir(self->group[TOP], 0755));
	ASSERT_EQ(0, group_write(self->group[TOP], "cgroup.subtree_control",
				 "+misc"));
	for (i = A; i < NR_GROUPS; i++) {
		snprintf(self->group[i], sizeof(self->group[i]), "%.48s/%c",
			 self->group[TOP], 'a' + i - A);
		ASSERT_EQ(0, mkdir(self->group[i], 0755));
	}
}

/* In the parent of the test, as a failed test may leave child processes */
FIXTURE_TEARDOWN_PARENT(cgroup)
{
	int i;

	EXPECT_EQ(0, group_write(self->group[TOP], "cgroup.kill", "1"));
	for (i = 0; i < NR_DEVS; i++)
		if (self->uuid[i][0])
			EXPECT_EQ(0, pdma_remove(self->uuid[i]));
	/* Everything must be uncharged in the end */
	EXPECT_TRUE(wait_until(!current_of(self->group[TOP])));
	for (i = NR_GROUPS; i--; )
		EXPECT_TRUE(wait_until(!remove_group(self->group[i]) ||
				       errno == ENOENT));
}

#define test_current(_group, _count) \
	EXPECT_EQ(_count, current_of(self->group[_group]))

#define test_falls_to(_group, _count) ({				\
	long long __count = (_count);					\
									\
	EXPECT_EQ(__count, wait_current(self->group[_group], __count));	\
})

#define test_enter(_group) ASSERT_EQ(0, enter(self->group[_group]))
#define test_leave() ASSERT_EQ(0, enter(self->home))
#define test_limit(_group, _limit) \
	ASSERT_EQ(0, set_limit(self->group[_group], _limit))

#define test_never_charged(_group) ({					\
	const char *__group = self->group[_group];			\
									\
	EXPECT_EQ(0, peak_of(__group));					\
	EXPECT_EQ(0, current_of(__group));				\
})

static void wait_child(struct __test_metadata *_metadata, pid_t pid)
{
	int status = -1;

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
}

static void kill_child(struct __test_metadata *_metadata, pid_t pid)
{
	int status = 0;

	EXPECT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	/* It must not have exited on its own */
	EXPECT_TRUE(WIFSIGNALED(status));
}

/* fork() and move the child to @group */
static pid_t fork_into(struct __test_metadata *_metadata, const char *group)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		ASSERT_EQ(0, enter(group));
	return pid;
}

/* Create and open a mediated device. Returns false if there is no engine. */
static bool open_device(struct __test_metadata *_metadata,
			char uuid[PDMA_UUID_LEN + 1], struct pdma_dev *dev)
{
	char parent[NAME_MAX + 1];

	if (pdma_find_parent(0, parent))
		return false;
	ASSERT_EQ(0, pdma_create(parent, uuid));
	ASSERT_EQ(0, pdma_open_cdev(dev, uuid, NULL));
	return true;
}

/* Synchronize two processes with a single byte. Return whether it worked. */
static bool tell(int fd)
{
	return write(fd, "", 1) == 1;
}

static bool hear(int fd)
{
	char byte;

	return read(fd, &byte, 1) == 1;
}

TEST_F(cgroup, capacity_is_the_number_space)
{
	struct ioasid_info info;

	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(CAPACITY, info.max - info.min + 1);
	EXPECT_EQ(CAPACITY, group_read(CGROUP_ROOT, "misc.capacity", "ioasid"));
}

TEST_F(cgroup, number_is_charged_to_the_cgroup_of_its_allocator)
{
	__u32 ids[3];
	int sock[2];
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = ioasid_open();

		ASSERT_LE(0, fd);
		close(sock[0]);
		/* The parent moves this process to the cgroup */
		ASSERT_TRUE(hear(sock[1]));
		test_cmd_alloc(fd, 0, 0, 3, ids);
		ASSERT_TRUE(tell(sock[1]));
		ASSERT_TRUE(hear(sock[1]));
		test_cmd_free(fd, 2, ids);
		ASSERT_TRUE(tell(sock[1]));
		hear(sock[1]);
		_exit(0);
	}
	close(sock[1]);

	ASSERT_EQ(0, put_into(self->group[A], pid));
	test_never_charged(A);
	ASSERT_TRUE(tell(sock[0]));
	ASSERT_TRUE(hear(sock[0]));
	test_current(A, 3);
	ASSERT_TRUE(tell(sock[0]));
	ASSERT_TRUE(hear(sock[0]));
	test_falls_to(A, 1);
	close(sock[0]);
	wait_child(_metadata, pid);
	test_falls_to(A, 0);
	test_never_charged(B);
}

TEST_F(cgroup, parent_counts_what_its_children_hold)
{
	__u32 a[2], b[3];

	test_enter(A);
	test_cmd_alloc(self->fd, 0, 0, 2, a);
	test_current(TOP, 2);
	test_enter(B);
	test_cmd_alloc(self->fd, 0, 0, 3, b);
	test_current(TOP, 5);
	test_current(A, 2);
	test_current(B, 3);

	test_cmd_free(self->fd, 2, a);
	test_falls_to(A, 0);
	test_current(B, 3);
	test_falls_to(TOP, 3);
	test_cmd_free(self->fd, 3, b);
	test_falls_to(B, 0);
	test_falls_to(TOP, 0);
	EXPECT_EQ(2, peak_of(self->group[A]));
	EXPECT_EQ(3, peak_of(self->group[B]));
	EXPECT_EQ(5, peak_of(self->group[TOP]));
	test_leave();
}

TEST_F(cgroup, alloc_over_the_limit_is_edquot_and_an_event)
{
	struct ioasid_query query;
	__u32 ids[3], more[2] = {};

	test_limit(A, 3);
	test_enter(A);
	test_cmd_alloc(self->fd, 0, 0, 2, ids);
	EXPECT_EQ(0, events_of(self->group[A]));

	test_err_alloc(EDQUOT, self->fd, 0, 0, 2, more);
	EXPECT_EQ(0, more[0]);
	test_current(A, 2);
	test_current(TOP, 2);
	test_in_use(self->fd, 2, 0);
	EXPECT_LE(1, events_of(self->group[A]));
	EXPECT_LE(1, local_events_of(self->group[A]));
	EXPECT_LE(1, events_of(self->group[TOP]));
	EXPECT_EQ(0, local_events_of(self->group[TOP]));
	EXPECT_EQ(0, events_of(self->group[B]));

	/* A request that fits still succeeds */
	test_cmd_alloc(self->fd, 0, 0, 1, &ids[2]);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, more);
	test_current(A, 3);
	/* At the limit, everything except allocation still works */
	test_cmd_query(self->fd, ids[2], &query);
	EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
	test_cmd_free(self->fd, 1, ids);
	test_cmd_alloc(self->fd, 0, 0, 1, ids);

	/* The limit applies to the cgroup, not to the process */
	test_leave();
	test_cmd_alloc(self->fd, 0, 0, 1, more);
	test_current(A, 3);
}

TEST_F(cgroup, limit_of_zero_refuses_every_alloc)
{
	__u32 id = 0;

	test_limit(A, 0);
	test_enter(A);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &id);
	test_in_use(self->fd, 0, 0);
	ASSERT_EQ(0, group_write(self->group[A], "misc.max", "ioasid max"));
	test_cmd_alloc(self->fd, 0, 0, 1, &id);
	test_current(A, 1);
	test_leave();
}

TEST_F(cgroup, limit_of_the_parent_counts)
{
	__u32 a[2], b[3] = {};

	test_limit(TOP, 4);
	test_enter(A);
	test_cmd_alloc(self->fd, 0, 0, 2, a);
	test_enter(B);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 3, b);
	test_current(B, 0);
	test_current(A, 2);
	test_current(TOP, 2);
	test_in_use(self->fd, 2, 0);
	EXPECT_LE(1, local_events_of(self->group[TOP]));
	EXPECT_EQ(0, events_of(self->group[B]));

	test_cmd_alloc(self->fd, 0, 0, 2, b);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &b[2]);
	test_enter(A);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &b[2]);
	/* What one cgroup gives back is available to the other */
	test_cmd_free(self->fd, 1, &b[0]);
	test_cmd_alloc(self->fd, 0, 0, 1, &b[2]);
	test_current(A, 3);
	test_current(B, 1);
	test_current(TOP, 4);
	test_leave();
}

/* More than is copied to user space in one batch */
#define BULK 150

TEST_F(cgroup, bulk_is_all_or_nothing)
{
	static __u32 ids[BULK + 1];

	test_limit(A, BULK);
	test_enter(A);
	test_err_alloc(EDQUOT, self->fd, 0, 0, BULK + 1, ids);
	EXPECT_EQ(0, ids[0]);
	test_current(A, 0);
	test_in_use(self->fd, 0, 0);
	test_cmd_alloc(self->fd, 0, 0, BULK, ids);
	test_current(A, BULK);
	test_cmd_free(self->fd, BULK, ids);
	test_falls_to(A, 0);
	test_falls_to(TOP, 0);
	EXPECT_EQ(BULK, peak_of(self->group[TOP]));
	test_leave();
}

TEST_F(cgroup, alloc_fails_until_usage_is_below_a_lowered_limit)
{
	__u32 ids[4], id;

	test_enter(A);
	test_cmd_alloc(self->fd, 0, 0, 4, ids);
	test_limit(A, 2);
	test_current(A, 4);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &id);
	test_cmd_free(self->fd, 1, &ids[0]);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &id);
	test_cmd_free(self->fd, 1, &ids[1]);
	/* Two left, with a limit of two */
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &id);
	test_cmd_free(self->fd, 1, &ids[2]);
	test_cmd_alloc(self->fd, 0, 0, 1, &id);
	test_current(A, 2);
	test_leave();
}

/* Invariant charged */
TEST_F(cgroup, parked_number_counts_against_the_limit_of_the_cgroup)
{
	struct pdma_dev dev[2];
	__u32 ids[2], id = 0;
	pid_t pid;
	int i, fd;

	for (i = 0; i < 2; i++)
		if (!open_device(_metadata, self->uuid[i], &dev[i]))
			SKIP(return, "no PASID DMA engine");
	test_limit(A, 2);
	test_enter(A);
	for (i = 0; i < 2; i++) {
		test_cmd_alloc(self->fd, 0, 0, 1, &ids[i]);
		ASSERT_EQ(0, pdma_set_ioasid(&dev[i], self->fd, ids[i]));
		test_cmd_free(self->fd, 1, &ids[i]);
		EXPECT_EQ(IOASID_STATE_PARKED, ioasid_state(self->fd, ids[i]));
		test_current(A, i + 1);
	}

	/* The limit holds for this file, a new file and a new process */
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &id);
	close(self->fd);
	test_current(A, 2);
	fd = ioasid_open();
	ASSERT_LE(0, fd);
	test_err_alloc(EDQUOT, fd, 0, 0, 1, &id);
	pid = fork_into(_metadata, self->group[A]);
	if (!pid) {
		int new = ioasid_open();

		ASSERT_LE(0, new);
		ASSERT_EQ(-EDQUOT, ioasid_alloc(new, 0, 0, 1, &id));
		_exit(0);
	}
	wait_child(_metadata, pid);
	test_current(A, 2);
	EXPECT_EQ(2, peak_of(self->group[TOP]));

	/* When a user releases a PASID, one more can be allocated */
	EXPECT_EQ(0, pdma_drop_all_ioasids(&dev[0]));
	test_falls_to(A, 1);
	test_cmd_alloc(fd, 0, 0, 1, &id);
	test_err_alloc(EDQUOT, fd, 0, 0, 1, &ids[0]);
	test_current(A, 2);

	pdma_close(&dev[1]);
	test_falls_to(A, 1);
	test_cmd_free(fd, 1, &id);
	test_falls_to(A, 0);
	test_falls_to(TOP, 0);
	pdma_close(&dev[0]);
	test_leave();
}

TEST_F(cgroup, recycle_uncharges)
{
	struct pdma_dev dev;
	__u32 ids[2];

	if (!open_device(_metadata, self->uuid[0], &dev))
		SKIP(return, "no PASID DMA engine");
	test_enter(A);
	test_cmd_alloc(self->fd, 0, 0, 2, ids);
	ASSERT_EQ(0, pdma_set_ioasid(&dev, self->fd, ids[0]));

	/* ids[0] is held by the device, ids[1] has no users */
	test_cmd_free(self->fd, 2, ids);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, ids[1]));
	test_current(A, 1);
	EXPECT_EQ(0, pdma_drop_all_ioasids(&dev));
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, ids[0]));
	test_current(A, 0);
	test_current(TOP, 0);
	pdma_close(&dev);
	test_leave();
}

TEST_F(cgroup, migration_moves_no_charge)
{
	__u32 ids[2], id;

	test_enter(A);
	test_cmd_alloc(self->fd, 0, 0, 2, ids);
	test_enter(B);
	test_current(A, 2);
	test_never_charged(B);
	test_cmd_free(self->fd, 1, &ids[0]);
	test_falls_to(A, 1);
	test_never_charged(B);

	/* New allocations are charged to the current cgroup */
	test_cmd_alloc(self->fd, 0, 0, 1, &id);
	test_current(A, 1);
	test_current(B, 1);
	test_enter(A);
	test_cmd_free(self->fd, 1, &id);
	test_falls_to(B, 0);
	test_current(A, 1);
	close(self->fd);
	test_falls_to(A, 0);
	test_falls_to(TOP, 0);
	test_leave();
}

/*
 * The device is closed by a process in B, after the allocator has freed the
 * IOASID and left its cgroup.
 */
TEST_F(cgroup, last_put_in_another_cgroup_uncharges_that_of_the_allocator)
{
	struct pdma_dev dev;
	int sock[2];
	pid_t pid;
	__u32 id;

	if (!open_device(_metadata, self->uuid[0], &dev))
		SKIP(return, "no PASID DMA engine");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	test_enter(A);
	test_cmd_alloc(self->fd, 0, 0, 1, &id);
	ASSERT_EQ(0, pdma_set_ioasid(&dev, self->fd, id));
	test_leave();

	pid = fork_into(_metadata, self->group[B]);
	if (!pid) {
		close(sock[0]);
		ASSERT_TRUE(hear(sock[1]));
		pdma_close(&dev);
		_exit(0);
	}
	close(sock[1]);
	pdma_close(&dev);
	test_cmd_free(self->fd, 1, &id);
	EXPECT_EQ(IOASID_STATE_PARKED, ioasid_state(self->fd, id));
	test_current(A, 1);
	ASSERT_TRUE(tell(sock[0]));
	wait_child(_metadata, pid);
	test_falls_to(A, 0);
	test_never_charged(B);
	test_falls_to(TOP, 0);
}

/* Same, after the allocator has exited */
TEST_F(cgroup, last_put_after_exit_uncharges_the_cgroup_of_the_allocator)
{
	struct pdma_dev dev;
	pid_t pid;

	if (!open_device(_metadata, self->uuid[0], &dev))
		SKIP(return, "no PASID DMA engine");
	pid = fork_into(_metadata, self->group[A]);
	if (!pid) {
		int fd = ioasid_open();
		__u32 id;

		ASSERT_LE(0, fd);
		ASSERT_EQ(0, ioasid_alloc(fd, 0, 0, 1, &id));
		ASSERT_EQ(0, pdma_set_ioasid(&dev, fd, id));
		_exit(0);
	}
	wait_child(_metadata, pid);
	test_current(A, 1);
	test_enter(B);
	EXPECT_NE(0, pdma_get_ioasid(&dev));
	pdma_close(&dev);
	test_falls_to(A, 0);
	test_never_charged(B);
	test_falls_to(TOP, 0);
	test_leave();
}

/* The quota belongs to the file, the cgroup to the calling task. */
TEST_F(cgroup, alloc_through_a_received_file_charges_the_cgroup_of_the_caller)
{
	int sock[2], fd;
	__u32 ids[3];
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork_into(_metadata, self->group[A]);
	if (!pid) {
		fd = ioasid_open();
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, ioasid_set_quota(fd, 3));
		ASSERT_EQ(0, ioasid_alloc(fd, 0, 0, 1, ids));
		ASSERT_EQ(0, send_fd(sock[0], fd));
		_exit(0);
	}
	wait_child(_metadata, pid);
	test_enter(B);
	test_current(A, 1);
	fd = receive_fd(sock[1]);
	ASSERT_LE(0, fd);

	/* The file outlives the process that opened it */
	test_err_alloc(EDQUOT, fd, 0, 0, 3, ids);
	test_current(B, 0);
	test_cmd_alloc(fd, 0, 0, 2, ids);
	test_current(A, 1);
	test_current(B, 2);
	test_in_use(fd, 3, 0);
	test_in_use(self->fd, 0, 0);
	test_err_alloc(EDQUOT, fd, 0, 0, 1, &ids[2]);

	/* Each cgroup is uncharged by what it was charged */
	test_cmd_free(fd, 1, ids);
	test_falls_to(B, 1);
	test_current(A, 1);
	close(fd);
	test_falls_to(A, 0);
	test_falls_to(B, 0);
	test_falls_to(TOP, 0);
	test_leave();
}

/* An exiting process closes its files without an mm. */
TEST_F(cgroup, exit_of_the_allocator_uncharges)
{
	int i, sock[2];
	pid_t pid;

	for (i = 0; i < 6; i++) {
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
		pid = fork_into(_metadata, self->group[A]);
		if (!pid) {
			__u32 ids[20];
			int fd = ioasid_open();

			ASSERT_LE(0, fd);
			ASSERT_EQ(0, ioasid_alloc(fd, 0, 0, 20, ids));
			ASSERT_EQ(0, ioasid_free(fd, 5, ids));
			if (i % 2) {
				ASSERT_TRUE(tell(sock[1]));
				hear(sock[1]);
			}
			_exit(0);
		}
		if (i % 2) {
			ASSERT_TRUE(hear(sock[0]));
			test_falls_to(A, 15);
			kill_child(_metadata, pid);
		} else {
			wait_child(_metadata, pid);
		}
		close(sock[0]);
		close(sock[1]);
		test_falls_to(A, 0);
	}
	test_falls_to(TOP, 0);
	EXPECT_EQ(20, peak_of(self->group[A]));
}

/* Removed cgroups below TOP that are still referenced */
static long long dying_in(const char *group)
{
	return group_read(group, "cgroup.stat", "nr_dying_descendants");
}

TEST_F(cgroup, removed_cgroup_is_uncharged_and_then_goes)
{
	struct ioasid_query query;
	struct pdma_dev dev;
	__u32 ids[3];

	if (!open_device(_metadata, self->uuid[0], &dev))
		SKIP(return, "no PASID DMA engine");
	test_limit(TOP, 3);
	test_enter(A);
	test_cmd_alloc(self->fd, 0, 0, 3, ids);
	ASSERT_EQ(0, pdma_set_ioasid(&dev, self->fd, ids[0]));
	test_cmd_free(self->fd, 1, &ids[0]);
	test_enter(B);

	/* With one PARKED and two ACTIVE IOASIDs */
	ASSERT_EQ(0, remove_group(self->group[A]));
	test_current(TOP, 3);
	EXPECT_EQ(1, dying_in(self->group[TOP]));
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &ids[0]);

	test_cmd_query(self->fd, ids[1], &query);
	EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
	ASSERT_EQ(0, pdma_set_ioasid(&dev, self->fd, ids[1]));
	test_falls_to(TOP, 2);
	test_cmd_free(self->fd, 2, &ids[1]);
	test_falls_to(TOP, 1);
	EXPECT_EQ(1, dying_in(self->group[TOP]));
	EXPECT_EQ(0, pdma_drop_all_ioasids(&dev));
	test_falls_to(TOP, 0);
	test_current(B, 0);

	/* Nothing references the removed cgroup any more */
	EXPECT_TRUE(wait_until(!dying_in(self->group[TOP])));
	pdma_close(&dev);
	test_leave();
}

/* Fail each allocation of IOASID_ALLOC once */
struct world {
	FIXTURE_DATA(cgroup) *self;
	__u32 ids[3];
};

static int call_alloc(struct world *w)
{
	return ioasid_alloc(w->self->fd, 0, 0, 3, w->ids);
}

static void expect_nothing_charged(struct __test_metadata *_metadata,
				   struct world *w)
{
	FIXTURE_DATA(cgroup) *self = w->self;

	test_current(A, 0);
	test_current(TOP, 0);
}

static void expect_charged(struct __test_metadata *_metadata, struct world *w)
{
	FIXTURE_DATA(cgroup) *self = w->self;

	test_current(A, 3);
	test_cmd_free(self->fd, 3, w->ids);
	test_falls_to(A, 0);
}

/* A failed ALLOC leaves no charge and no reference to the cgroup */
TEST_F(cgroup, failed_alloc_leaves_no_charge)
{
	/* Copying to user space faults in the first or second batch */
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct world w = { .self = self };
	struct sweep sweep = {
		.w = &w,
		.call = call_alloc,
		.expect_unchanged = expect_nothing_charged,
		.expect_success = expect_charged,
	};
	__u32 ids[20], some = 500001;

	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, munmap(page + PAGE, PAGE));
	test_enter(A);
	test_err_alloc(EFAULT, self->fd, 0, 0, 1, (__u32 *)(page + PAGE));
	test_err_alloc(EFAULT, self->fd, 0, 0, 100,
		       (__u32 *)(page + PAGE - 70 * sizeof(__u32)));
	test_current(A, 0);

	/* The range has some free IDs, but not enough */
	test_cmd_alloc(self->fd, some, some + 9, 6, ids);
	test_err_alloc(ENOSPC, self->fd, some, some + 9, 5, &ids[10]);
	test_current(A, 6);
	test_cmd_free(self->fd, 6, ids);
	test_falls_to(A, 0);

	test_err_alloc(EINVAL, self->fd, 9, 8, 1, ids);
	test_cmd_set_quota(self->fd, 5);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 6, ids);
	test_current(A, 0);
	test_cmd_set_quota(self->fd, 100);
	/* None of these was refused by the limit of a cgroup */
	EXPECT_EQ(0, events_of(self->group[A]));

	/* Refused by the limit of an ancestor: undo the charge below it */
	test_limit(TOP, 5);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 6, ids);
	test_current(A, 0);
	test_current(TOP, 0);
	test_in_use(self->fd, 0, 0);
	test_limit(TOP, 100);

	if (!sweep_open(_metadata, &sweep, "Y"))
		sweep_each(_metadata, &sweep, sweep_round);

	test_enter(B);
	ASSERT_EQ(0, remove_group(self->group[A]));
	EXPECT_TRUE(wait_until(!dying_in(self->group[TOP])));
	test_never_charged(B);
	test_leave();
}

/* IOASIDs that are only waiting to be recycled must not cause a failure. */
TEST_F(cgroup, numbers_that_wait_for_the_worker_do_not_fill_a_cgroup)
{
	static const unsigned int counts[] = { 1, 1, 1, 70 };
	__u32 ids[70];
	int i, c;

	/* Limits of the cgroup and its parent, a full quota, many IOASIDs */
	for (c = 0; c < ARRAY_LEN(counts); c++) {
		int group = c == 1 ? TOP : A;
		int rounds = counts[c] == 1 ? 300 : 20;

		test_limit(group, counts[c]);
		test_enter(A);
		for (i = 0; i < rounds; i++) {
			ASSERT_EQ(0, ioasid_alloc(self->fd, 0, 0, counts[c],
						  ids)) {
				TH_LOG("round %d with a limit of %u", i,
				       counts[c]);
			}
			test_cmd_free(self->fd, counts[c], ids);
			/* The same with the quota exhausted, too */
			if (c == 2 && !i)
				test_cmd_set_quota(self->fd, 1);
		}
		test_cmd_set_quota(self->fd, 4096);
		ASSERT_EQ(0, group_write(self->group[group], "misc.max",
					 "ioasid max"));
	}
	test_falls_to(A, 0);
	EXPECT_EQ(70, peak_of(self->group[A]));
	test_leave();
}

/* Migration during a charge must not make the uncharge use another cgroup */
TEST_F(cgroup, race_of_alloc_and_migration_leaves_no_charge)
{
	const int moves = 40, limit = 8;
	pid_t pid[2];
	int i;

	test_limit(TOP, limit);
	for (i = 0; i < 2; i++) {
		pid[i] = fork_into(_metadata, self->group[A]);
		if (!pid[i]) {
			int fd = ioasid_open(), n, ret;
			__u32 ids[3];

			ASSERT_LE(0, fd);
			/* Runs until killed */
			for (n = 1; ; n++) {
				ret = ioasid_alloc(fd, 0, 0, 1 + n % 3, ids);
				if (ret == -EDQUOT)
					continue;
				ASSERT_EQ(0, ret);
				ret = ioasid_free(fd, 1 + n % 3, ids);
				ASSERT_EQ(0, ret);
			}
			_exit(0);
		}
	}
	for (i = 0; i < moves; i++) {
		EXPECT_EQ(0, put_into(self->group[i / 2 % 2 ? A : B],
				      pid[i % 2]));
		EXPECT_LE(0, current_of(self->group[A]));
		EXPECT_LE(0, current_of(self->group[B]));
		usleep(2000);
	}
	for (i = 0; i < 2; i++)
		kill_child(_metadata, pid[i]);
	test_falls_to(TOP, 0);
	test_current(A, 0);
	test_current(B, 0);
	EXPECT_LT(0, peak_of(self->group[B]));
	EXPECT_GE(limit, peak_of(self->group[TOP]));
}

TEST_HARNESS_MAIN

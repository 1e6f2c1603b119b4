/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Wrappers for the ioctls of /dev/ioasid, and macros that turn their results
 * into test results.
 *
 * The functions return 0 or -errno and depend on nothing else. The macros need
 * kselftest_harness.h and a _metadata variable in scope: test_cmd_x() aborts
 * the test if the command fails, test_err_x() expects a specific errno and
 * continues.
 */
#ifndef __SELFTEST_IOASID_UTILS_H
#define __SELFTEST_IOASID_UTILS_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <linux/capability.h>
#include <linux/ioasid.h>

#define IOASID_DEV "/dev/ioasid"

/*
 * Upper bound for any wait, in milliseconds. No test measures the speed of the
 * machine: a debug kernel under emulation can need half a minute for what takes
 * an instant elsewhere.
 */
#define IOASID_WAIT_MS 60000

/* Timeout of a whole test, in seconds. Include the harness first. */
#ifdef TEST_TIMEOUT_DEFAULT
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 280
#endif

/* Drop @cap permanently */
static inline int drop_capability(int cap)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &hdr, data))
		return -errno;
	data[cap / 32].effective &= ~(1u << (cap % 32));
	data[cap / 32].permitted &= ~(1u << (cap % 32));
	return syscall(SYS_capset, &hdr, data) ? -errno : 0;
}

static inline int ioasid_open(void)
{
	int fd = open(IOASID_DEV, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* @arg may be a bad pointer */
static inline int ioasid_ioctl(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) ? -errno : 0;
}

static inline int ioasid_get_info(int fd, struct ioasid_info *info)
{
	*info = (struct ioasid_info){ .size = sizeof(*info) };
	return ioasid_ioctl(fd, IOASID_GET_INFO, info);
}

/* If @min and @max are both 0, allocate from the full range */
static inline int ioasid_alloc(int fd, __u32 min, __u32 max, __u32 count,
			       __u32 *ids)
{
	struct ioasid_alloc cmd = {
		.size = sizeof(cmd),
		.min = min,
		.max = max,
		.count = count,
		.ids = (uintptr_t)ids,
	};

	return ioasid_ioctl(fd, IOASID_ALLOC, &cmd);
}

static inline int ioasid_free(int fd, __u32 count, const __u32 *ids)
{
	struct ioasid_free cmd = {
		.size = sizeof(cmd),
		.count = count,
		.ids = (uintptr_t)ids,
	};

	return ioasid_ioctl(fd, IOASID_FREE, &cmd);
}

static inline int ioasid_query(int fd, __u32 id, struct ioasid_query *query)
{
	*query = (struct ioasid_query){ .size = sizeof(*query), .id = id };
	return ioasid_ioctl(fd, IOASID_QUERY, query);
}

static inline int ioasid_set_quota(int fd, __u32 quota)
{
	struct ioasid_quota cmd = { .size = sizeof(cmd), .quota = quota };

	return ioasid_ioctl(fd, IOASID_SET_QUOTA, &cmd);
}

/* @count: size of @entries on input, number of entries filled on output */
static inline int ioasid_list(int fd, __u32 start, __u32 *count,
			      struct ioasid_list_entry *entries)
{
	struct ioasid_list cmd = {
		.size = sizeof(cmd),
		.start = start,
		.count = *count,
		.entries = (uintptr_t)entries,
	};
	int ret = ioasid_ioctl(fd, IOASID_LIST, &cmd);

	*count = cmd.count;
	return ret;
}

/* Value of a line of fdinfo, without the newline */
static inline int ioasid_fdinfo(int fd, const char *key, char *value,
				size_t len)
{
	char path[64], line[4096];
	int ret = -ENOENT;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		size_t n = strlen(key);

		if (strncmp(line, key, n) || strncmp(line + n, ":\t", 2))
			continue;
		line[strcspn(line, "\n")] = 0;
		ret = ret ? 0 : -EEXIST;
		/* Skip the colon and the tab */
		n += 2;
		if (strlen(line + n) >= len) {
			ret = -EOVERFLOW;
			break;
		}
		memcpy(value, line + n, strlen(line + n) + 1);
	}
	fclose(f);
	return ret;
}

/* Counts over all files opened by the process that opened @fd */
static inline int ioasid_set_counts(int fd, __u32 *active, __u32 *parked)
{
	char value[16];
	int ret;

	ret = ioasid_fdinfo(fd, "ioasid-set-active", value, sizeof(value));
	if (ret)
		return ret;
	*active = strtoul(value, NULL, 10);
	ret = ioasid_fdinfo(fd, "ioasid-set-parked", value, sizeof(value));
	if (ret)
		return ret;
	*parked = strtoul(value, NULL, 10);
	return 0;
}

/* Returns an enum ioasid_state, or -errno */
static inline int ioasid_state(int fd, __u32 id)
{
	struct ioasid_query query;
	int ret = ioasid_query(fd, id, &query);

	return ret ? ret : (int)query.state;
}

static inline uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ull + ts.tv_nsec / 1000;
}

/*
 * Poll until @cond is true, for at most @ms milliseconds, and return whether it
 * became true. @cond is evaluated a last time after the timeout. The first
 * iterations do not sleep, as most conditions are already true or become true
 * very soon.
 */
#define wait_until_ms(cond, ms) ({					\
	uint64_t __end = now_us() + (ms) * 1000ull;			\
	unsigned int __tries = 0;					\
	bool __ok;							\
									\
	for (;;) {							\
		bool __late = now_us() > __end;				\
									\
		__ok = (cond);						\
		if (__ok || __late)					\
			break;						\
		if (++__tries > 30)					\
			usleep(200);					\
	}								\
	__ok;								\
})
#define wait_until(cond) wait_until_ms(cond, IOASID_WAIT_MS)

/* Recycling is deferred. Returns false if @id exists after the timeout. */
static inline bool ioasid_wait_recycled(int fd, __u32 id)
{
	return wait_until(ioasid_state(fd, id) == -ENOENT);
}

/* Wait until @fd has no parked IOASIDs */
static inline bool ioasid_wait_none_parked(int fd)
{
	struct ioasid_info info;

	return wait_until(!ioasid_get_info(fd, &info) && !info.parked);
}

/* Wait until no file of the process that opened @fd has parked IOASIDs */
static inline bool ioasid_wait_set_unparked(int fd)
{
	__u32 active, parked;

	return wait_until(!ioasid_set_counts(fd, &active, &parked) && !parked);
}

/*
 * Run a reduced set of tests if IOASID_SHORT is set in the environment. Tests
 * skipped then duplicate coverage of others.
 */
static inline bool short_run(void)
{
	return getenv("IOASID_SHORT");
}

/* Reason of these skips, always the same so that they can be counted */
#define LONG_ONLY "this takes long, and IOASID_SHORT is set"

/* Number of iterations: @n, or fewer in a short run */
static inline int times(int n)
{
	return short_run() ? n / 10 : n;
}

/* Memory shared with child processes. NULL with errno set on failure. */
static inline void *map_shared(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* Passing descriptors between processes */

static inline int send_fd(int sock, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {};
	struct iovec iov = { .iov_base = "x", .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	return sendmsg(sock, &msg, 0) == 1 ? 0 : -errno;
}

static inline int receive_fd(int sock)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(sock, &msg, 0) != 1)
		return -EIO;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -EBADMSG;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

#define test_cmd_get_info(fd, info) ASSERT_EQ(0, ioasid_get_info(fd, info))
#define test_err_get_info(_errno, fd, info) \
	EXPECT_EQ(-(_errno), ioasid_get_info(fd, info))

#define test_cmd_alloc(fd, min, max, count, ids) \
	ASSERT_EQ(0, ioasid_alloc(fd, min, max, count, ids))
#define test_err_alloc(_errno, fd, min, max, count, ids) \
	EXPECT_EQ(-(_errno), ioasid_alloc(fd, min, max, count, ids))

#define test_cmd_free(fd, count, ids) ASSERT_EQ(0, ioasid_free(fd, count, ids))
#define test_err_free(_errno, fd, count, ids) \
	EXPECT_EQ(-(_errno), ioasid_free(fd, count, ids))

#define test_cmd_query(fd, id, query) ASSERT_EQ(0, ioasid_query(fd, id, query))
#define test_err_query(_errno, fd, id) ({ \
	struct ioasid_query __query; \
	EXPECT_EQ(-(_errno), ioasid_query(fd, id, &__query)); \
})

#define test_cmd_set_quota(fd, quota) ASSERT_EQ(0, ioasid_set_quota(fd, quota))
#define test_err_set_quota(_errno, fd, quota) \
	EXPECT_EQ(-(_errno), ioasid_set_quota(fd, quota))

#define test_cmd_list(fd, start, count, entries) \
	ASSERT_EQ(0, ioasid_list(fd, start, count, entries))
#define test_err_list(_errno, fd, start, _count, entries) ({ \
	__u32 __count = _count; \
	EXPECT_EQ(-(_errno), ioasid_list(fd, start, &__count, entries)); \
	EXPECT_EQ(_count, __count); \
})

/* Number of IOASIDs held by @fd */
#define test_in_use(fd, _active, _parked) ({ \
	struct ioasid_info __info; \
	test_cmd_get_info(fd, &__info); \
	EXPECT_EQ(_active, __info.active); \
	EXPECT_EQ(_parked, __info.parked); \
})

/* Number held by all files opened by the process that opened @fd */
#define test_set_in_use(fd, _active, _parked) ({ \
	__u32 __active = ~0U, __parked = ~0U; \
	EXPECT_EQ(0, ioasid_set_counts(fd, &__active, &__parked)); \
	EXPECT_EQ(_active, __active); \
	EXPECT_EQ(_parked, __parked); \
})

/* The ID is allocated */
#define expect_taken(_fd, _id) do {					\
	__u32 __got;							\
									\
	test_err_alloc(ENOSPC, _fd, _id, _id, 1, &__got);		\
} while (0)

/* The ID is free: it can be allocated. It is freed again afterwards. */
#define expect_free(_fd, _id) do {					\
	__u32 __got = 0;						\
									\
	EXPECT_EQ(0, ioasid_alloc(_fd, _id, _id, 1, &__got));		\
	EXPECT_EQ(_id, __got);						\
	EXPECT_EQ(0, ioasid_free(_fd, 1, &__got));			\
} while (0)

#endif

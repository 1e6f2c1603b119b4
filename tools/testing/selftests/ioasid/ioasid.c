// SPDX-License-Identifier: GPL-2.0-only
/*
 * The user ABI of /dev/ioasid: every error documented in
 * include/uapi/linux/ioasid.h, that errors change nothing, and who is charged.
 *
 * The harness runs each test in its own process. Behaviour that needs a user of
 * an IOASID is covered by ioasid_mdev and ioasid_dma.
 */
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "ioasid_utils.h"

#define ARRAY_LEN(x) (sizeof(x) / sizeof((x)[0]))

#define DEFAULT_QUOTA 4096
#define MAX_PASID 0xfffff
#define NOBODY 65534

static size_t page_size;

static void __attribute__((constructor)) get_page_size(void)
{
	page_size = sysconf(_SC_PAGESIZE);
}

/* @len zero bytes, directly followed by an unmapped page */
static void *map_before_hole(size_t len)
{
	size_t mapped = (len + page_size - 1) & ~(page_size - 1);
	char *p = mmap(NULL, mapped + page_size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || munmap(p + mapped, page_size))
		return NULL;
	return p + mapped - len;
}

/* An address in the kernel half, never valid for user space */
static void *kernel_pointer(void)
{
	return (void *)-page_size;
}

#define wait_child(pid) do {						\
	int __status;							\
									\
	ASSERT_EQ(pid, waitpid(pid, &__status, 0));			\
	ASSERT_EQ(0, __status);						\
} while (0)

static void setup_open(struct __test_metadata *_metadata, int *fd)
{
	*fd = ioasid_open();
	if (*fd == -ENOENT)
		SKIP(return, "no " IOASID_DEV);
	ASSERT_LE(0, *fd);
}

static int become_nobody(void)
{
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		return -errno;
	return 0;
}

/*
 * Common to all commands: the extensible struct, its flags and reserved fields,
 * and bad pointers to it. One variant per command. The file holds one IOASID,
 * which no error may change.
 */
FIXTURE(cmd)
{
	int fd;
	struct ioasid_info before;
	__u32 held;
	__u32 out;
	struct ioasid_list_entry entry;
};

FIXTURE_VARIANT(cmd)
{
	unsigned int nr;
	size_t size;
	size_t reserved;	/* offset, 0 if there is none */
	bool answers;		/* returns results in the struct itself */
};

FIXTURE_VARIANT_ADD(cmd, get_info)
{
	.nr = IOASID_GET_INFO,
	.size = 32,
	.reserved = offsetof(struct ioasid_info, __reserved),
	.answers = true,
};

FIXTURE_VARIANT_ADD(cmd, alloc)
{
	.nr = IOASID_ALLOC,
	.size = 32,
	.reserved = offsetof(struct ioasid_alloc, __reserved),
};

FIXTURE_VARIANT_ADD(cmd, free)
{
	.nr = IOASID_FREE,
	.size = 24,
	.reserved = offsetof(struct ioasid_free, __reserved),
};

FIXTURE_VARIANT_ADD(cmd, query)
{
	.nr = IOASID_QUERY,
	.size = 24,
	.answers = true,
};

FIXTURE_VARIANT_ADD(cmd, set_quota)
{
	.nr = IOASID_SET_QUOTA,
	.size = 16,
	.reserved = offsetof(struct ioasid_quota, __reserved),
};

FIXTURE_VARIANT_ADD(cmd, list)
{
	.nr = IOASID_LIST,
	.size = 24,
	.answers = true,
};

FIXTURE_SETUP(cmd)
{
	setup_open(_metadata, &self->fd);
	if (_metadata->exit_code)
		return;
	test_cmd_alloc(self->fd, 0, 0, 1, &self->held);
	test_cmd_get_info(self->fd, &self->before);
	ASSERT_EQ(1, self->before.active);
}

FIXTURE_TEARDOWN(cmd)
{
	close(self->fd);
}

/* Write the arguments of a valid call to @p, @size bytes long */
static void cmd_fill(FIXTURE_DATA(cmd) *self, const FIXTURE_VARIANT(cmd) *v,
		     void *p, size_t size)
{
	switch (v->nr) {
	case IOASID_GET_INFO: {
		/* Output fields are ignored on input */
		struct ioasid_info info = { .size = size, .min = 99,
					    .parked = -1 };

		memcpy(p, &info, sizeof(info));
		break;
	}
	case IOASID_ALLOC: {
		struct ioasid_alloc alloc = { .size = size, .count = 1,
					      .ids = (uintptr_t)&self->out };

		memcpy(p, &alloc, sizeof(alloc));
		break;
	}
	case IOASID_FREE: {
		struct ioasid_free free = { .size = size, .count = 1,
					    .ids = (uintptr_t)&self->held };

		memcpy(p, &free, sizeof(free));
		break;
	}
	case IOASID_QUERY: {
		struct ioasid_query query = { .size = size, .id = self->held,
					      .users = -1, .attachments = -1 };

		memcpy(p, &query, sizeof(query));
		break;
	}
	case IOASID_SET_QUOTA: {
		struct ioasid_quota quota = { .size = size,
					      .quota = self->before.quota - 1 };

		memcpy(p, &quota, sizeof(quota));
		break;
	}
	case IOASID_LIST: {
		struct ioasid_list list = { .size = size, .count = 1,
					    .entries = (uintptr_t)&self->entry };

		memcpy(p, &list, sizeof(list));
		break;
	}
	}
}

static void _expect_nothing_changed(struct __test_metadata *_metadata,
				    FIXTURE_DATA(cmd) *self)
{
	struct ioasid_info info;
	struct ioasid_query query;

	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(0, memcmp(&info, &self->before, sizeof(info)));
	test_cmd_query(self->fd, self->held, &query);
	EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
	EXPECT_EQ(0, query.users);
	EXPECT_EQ(0, query.attachments);
}

/* The call in @p must fail with @_errno and change nothing */
#define expect_cmd_err(_errno, p) do {					\
	EXPECT_EQ(-(_errno), ioasid_ioctl(self->fd, variant->nr, p));	\
	_expect_nothing_changed(_metadata, self);			\
} while (0)

/* The call in @p succeeded: check its effect and undo it */
static void expect_cmd_done(struct __test_metadata *_metadata,
			    FIXTURE_DATA(cmd) *self,
			    const FIXTURE_VARIANT(cmd) *v, void *p)
{
	struct ioasid_info info;

	EXPECT_EQ(0, ioasid_ioctl(self->fd, v->nr, p));
	switch (v->nr) {
	case IOASID_GET_INFO:
		memcpy(&info, p, sizeof(info));
		EXPECT_EQ(self->before.min, info.min);
		EXPECT_EQ(self->before.max, info.max);
		EXPECT_EQ(self->before.quota, info.quota);
		EXPECT_EQ(1, info.active);
		EXPECT_EQ(0, info.parked);
		break;
	case IOASID_ALLOC:
		EXPECT_EQ(IOASID_STATE_ACTIVE,
			  ioasid_state(self->fd, self->out));
		test_in_use(self->fd, 2, 0);
		test_cmd_free(self->fd, 1, &self->out);
		EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
		break;
	case IOASID_FREE:
		test_cmd_get_info(self->fd, &info);
		EXPECT_EQ(0, info.active);
		EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
		test_cmd_alloc(self->fd, 0, 0, 1, &self->held);
		break;
	case IOASID_QUERY: {
		struct ioasid_query query;

		memcpy(&query, p, sizeof(query));
		EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
		EXPECT_EQ(0, query.users);
		EXPECT_EQ(0, query.attachments);
		break;
	}
	case IOASID_SET_QUOTA:
		test_cmd_get_info(self->fd, &info);
		EXPECT_EQ(self->before.quota - 1, info.quota);
		test_cmd_set_quota(self->fd, self->before.quota);
		break;
	case IOASID_LIST: {
		struct ioasid_list list;

		memcpy(&list, p, sizeof(list));
		EXPECT_EQ(1, list.count);
		EXPECT_EQ(self->held, self->entry.id);
		EXPECT_EQ(IOASID_STATE_ACTIVE, self->entry.state);
		break;
	}
	}
	_expect_nothing_changed(_metadata, self);
}

TEST_F(cmd, short_struct_is_einval)
{
	const size_t sizes[] = { 0, 1, 3, 4, 8, variant->size - 4,
				 variant->size - 1 };
	char buf[64] = {};
	__u32 *last;
	size_t i;

	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		cmd_fill(self, variant, buf, sizes[i]);
		expect_cmd_err(EINVAL, buf);
	}

	/* The kernel must not read past cmd->size */
	last = map_before_hole(sizeof(*last));
	ASSERT_TRUE(last != NULL);
	for (*last = 0; *last <= 4; (*last)++)
		expect_cmd_err(EINVAL, last);
}

TEST_F(cmd, exact_struct_is_enough)
{
	char *p = map_before_hole(variant->size);

	ASSERT_TRUE(p != NULL);
	cmd_fill(self, variant, p, variant->size);
	expect_cmd_done(_metadata, self, variant, p);
}

TEST_F(cmd, long_struct_with_zero_tail_is_accepted)
{
	const size_t sizes[] = { variant->size + 1, variant->size + 8,
				 page_size };
	size_t i, at;
	__u32 size;
	char *p;

	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		p = map_before_hole(sizes[i]);
		ASSERT_TRUE(p != NULL);
		cmd_fill(self, variant, p, sizes[i]);
		expect_cmd_done(_metadata, self, variant, p);

		memcpy(&size, p, sizeof(size));
		EXPECT_EQ(sizes[i], size);
		for (at = variant->size; at < sizes[i] && !p[at]; at++)
			;
		EXPECT_EQ(sizes[i], at);
	}
}

TEST_F(cmd, long_struct_with_nonzero_tail_is_e2big)
{
	const size_t sizes[] = { variant->size + 1, variant->size + 8,
				 page_size };
	size_t i;
	char *p;

	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		p = map_before_hole(sizes[i]);
		ASSERT_TRUE(p != NULL);

		cmd_fill(self, variant, p, sizes[i]);
		p[variant->size] = 1;
		expect_cmd_err(E2BIG, p);

		cmd_fill(self, variant, p, sizes[i]);
		p[variant->size] = 0;
		p[sizes[i] - 1] = 0x80;
		expect_cmd_err(E2BIG, p);
	}
}

TEST_F(cmd, struct_larger_than_a_page_is_e2big)
{
	char *p = map_before_hole(page_size + 1);

	/* The kernel must not scan gigabytes for zeroes */
	ASSERT_TRUE(p != NULL);
	cmd_fill(self, variant, p, page_size + 1);
	expect_cmd_err(E2BIG, p);
	cmd_fill(self, variant, p, 0x80000000);
	expect_cmd_err(E2BIG, p);
	cmd_fill(self, variant, p, 0xffffffff);
	expect_cmd_err(E2BIG, p);
}

TEST_F(cmd, unknown_flags_are_eopnotsupp)
{
	char buf[64] = {};
	__u32 flags;

	for (flags = 1; flags; flags <<= 1) {
		cmd_fill(self, variant, buf, variant->size);
		memcpy(buf + 4, &flags, sizeof(flags));
		expect_cmd_err(EOPNOTSUPP, buf);
	}
}

TEST_F(cmd, reserved_fields_are_eopnotsupp)
{
	char buf[64] = {};
	__u32 value;

	/* These structs have no reserved fields: check that none was added */
	if (variant->nr == IOASID_QUERY) {
		ASSERT_EQ(sizeof(struct ioasid_query), 6 * sizeof(__u32));
		return;
	}
	if (variant->nr == IOASID_LIST) {
		ASSERT_EQ(sizeof(struct ioasid_list),
			  4 * sizeof(__u32) + sizeof(__u64));
		return;
	}
	for (value = 1; value; value <<= 1) {
		cmd_fill(self, variant, buf, variant->size);
		memcpy(buf + variant->reserved, &value, sizeof(value));
		expect_cmd_err(EOPNOTSUPP, buf);
	}
}

TEST_F(cmd, bad_struct_pointer_is_efault)
{
	size_t left;
	char *p;

	expect_cmd_err(EFAULT, NULL);
	expect_cmd_err(EFAULT, kernel_pointer());

	/* Only the first @left bytes of the struct are mapped */
	for (left = 0; left < variant->size; left += 4) {
		char buf[64];

		p = map_before_hole(left);
		ASSERT_TRUE(p != NULL);
		cmd_fill(self, variant, buf, variant->size);
		memcpy(p, buf, left);
		expect_cmd_err(EFAULT, p);
	}

	/* Only the last byte of the tail is unmapped */
	p = map_before_hole(page_size - 1);
	ASSERT_TRUE(p != NULL);
	cmd_fill(self, variant, p, page_size);
	expect_cmd_err(EFAULT, p);
}

TEST_F(cmd, read_only_struct_is_efault_if_it_takes_the_answer)
{
	char *p = map_before_hole(variant->size);

	ASSERT_TRUE(p != NULL);
	cmd_fill(self, variant, p, variant->size);
	ASSERT_EQ(0, mprotect(p + variant->size - page_size, page_size,
			      PROT_READ));
	if (variant->answers)
		expect_cmd_err(EFAULT, p);
	else
		expect_cmd_done(_metadata, self, variant, p);
}

/* One file, in a process that holds no other IOASIDs */
FIXTURE(ioasid)
{
	int fd;
	struct ioasid_info info;
};

FIXTURE_SETUP(ioasid)
{
	setup_open(_metadata, &self->fd);
	if (_metadata->exit_code)
		return;
	test_cmd_get_info(self->fd, &self->info);
	ASSERT_EQ(0, self->info.active);
	ASSERT_EQ(0, self->info.parked);
}

FIXTURE_TEARDOWN(ioasid)
{
	close(self->fd);
}

#define expect_state(state, fd, id) EXPECT_EQ((int)(state), ioasid_state(fd, id))

/* Find @count consecutive free IDs; they are left free */
static __u32 find_range(struct __test_metadata *_metadata, int fd, __u32 count)
{
	struct ioasid_info info;
	__u32 ids[64];
	__u32 min;

	ASSERT_GE(ARRAY_LEN(ids), count);
	test_cmd_get_info(fd, &info);
	for (min = info.max - count + 1; min > info.max / 2; min -= count) {
		if (ioasid_alloc(fd, min, min + count - 1, count, ids))
			continue;
		test_cmd_free(fd, count, ids);
		ASSERT_TRUE(ioasid_wait_none_parked(fd));
		return min;
	}
	ASSERT_LT(info.max / 2, min) TH_LOG("no %u free neighbours", count);
	return 0;
}

TEST_F(ioasid, abi_is_as_documented)
{
	EXPECT_EQ(0xBD00, IOASID_GET_INFO);
	EXPECT_EQ(0xBD01, IOASID_ALLOC);
	EXPECT_EQ(0xBD02, IOASID_FREE);
	EXPECT_EQ(0xBD03, IOASID_QUERY);
	EXPECT_EQ(0xBD04, IOASID_SET_QUOTA);
	EXPECT_EQ(0xBD05, IOASID_LIST);
	EXPECT_EQ(32, sizeof(struct ioasid_info));
	EXPECT_EQ(32, sizeof(struct ioasid_alloc));
	EXPECT_EQ(24, sizeof(struct ioasid_free));
	EXPECT_EQ(24, sizeof(struct ioasid_query));
	EXPECT_EQ(16, sizeof(struct ioasid_quota));
	EXPECT_EQ(24, offsetof(struct ioasid_alloc, ids));
	EXPECT_EQ(24, sizeof(struct ioasid_list));
	EXPECT_EQ(16, sizeof(struct ioasid_list_entry));
	EXPECT_EQ(16, offsetof(struct ioasid_free, ids));
	EXPECT_EQ(16, offsetof(struct ioasid_list, entries));
	EXPECT_EQ(1, IOASID_STATE_ACTIVE);
	EXPECT_EQ(2, IOASID_STATE_PARKED);
}

TEST_F(ioasid, unknown_command_is_enotty)
{
	const unsigned long cmds[] = {
		/* Adjacent types, and nr 0 of other types */
		_IO(IOASID_TYPE - 1, 0), _IO(IOASID_TYPE + 1, 0),
		_IO(';', 0), _IO(0, 0),
		/* Only type and nr are encoded, no direction or size */
		_IOR(IOASID_TYPE, 0, struct ioasid_info),
		_IOWR(IOASID_TYPE, 0, struct ioasid_info),
		_IOW(IOASID_TYPE, 1, struct ioasid_alloc),
		IOASID_GET_INFO | 0x10000, 0, 0xffffffff,
	};
	struct ioasid_info info = { .size = sizeof(info) };
	unsigned int i;

	for (i = 0; i < ARRAY_LEN(cmds); i++)
		EXPECT_EQ(-ENOTTY, ioasid_ioctl(self->fd, cmds[i], &info));
	for (i = IOASID_CMD_LIST + 1; i <= 0xff; i++) {
		EXPECT_EQ(-ENOTTY,
			  ioasid_ioctl(self->fd, _IO(IOASID_TYPE, i), &info));
		EXPECT_EQ(-ENOTTY,
			  ioasid_ioctl(self->fd, _IO(IOASID_TYPE, i), NULL));
	}
	test_in_use(self->fd, 0, 0);
}

static unsigned int boot_quota(void)
{
	char line[4096] = {}, *p;
	unsigned int quota = DEFAULT_QUOTA;
	int fd = open("/proc/cmdline", O_RDONLY);

	if (fd >= 0) {
		if (read(fd, line, sizeof(line) - 1) > 0)
			for (p = line; (p = strstr(p, "ioasid.quota=")); p++)
				quota = strtoul(p + 13, NULL, 0);
		close(fd);
	}
	return quota;
}

TEST_F(ioasid, get_info_tells_limits_and_use)
{
	struct ioasid_info info;
	__u32 ids[3];

	EXPECT_EQ(32, self->info.size);
	EXPECT_EQ(0, self->info.flags);
	EXPECT_EQ(0, self->info.__reserved);
	EXPECT_LE(1, self->info.min);
	EXPECT_GE(MAX_PASID, self->info.max);
	EXPECT_LT(self->info.min, self->info.max);
	EXPECT_EQ(boot_quota(), self->info.quota);

	test_cmd_alloc(self->fd, 0, 0, 3, ids);
	test_in_use(self->fd, 3, 0);
	test_cmd_free(self->fd, 1, &ids[1]);
	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(2, info.active);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 2, 0);

	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(self->info.min, info.min);
	EXPECT_EQ(self->info.max, info.max);
	EXPECT_EQ(self->info.quota, info.quota);
}

TEST_F(ioasid, alloc_gives_distinct_active_numbers_in_range)
{
	__u32 ids[64];
	int i, k;

	test_cmd_alloc(self->fd, 0, 0, ARRAY_LEN(ids), ids);
	for (i = 0; i < ARRAY_LEN(ids); i++) {
		EXPECT_LE(self->info.min, ids[i]);
		EXPECT_GE(self->info.max, ids[i]);
		expect_state(IOASID_STATE_ACTIVE, self->fd, ids[i]);
		for (k = 0; k < i; k++)
			EXPECT_NE(ids[k], ids[i]);
	}
	test_in_use(self->fd, ARRAY_LEN(ids), 0);
}

TEST_F(ioasid, alloc_keeps_to_the_range_asked_for)
{
	__u32 base = find_range(_metadata, self->fd, 16);
	__u32 ids[16], more[2];
	unsigned int seen = 0;
	int i;

	/* A single ID */
	test_cmd_alloc(self->fd, base + 5, base + 5, 1, ids);
	EXPECT_EQ(base + 5, ids[0]);
	test_err_alloc(ENOSPC, self->fd, base + 5, base + 5, 1, more);
	test_cmd_free(self->fd, 1, ids);

	/* The whole range */
	test_cmd_alloc(self->fd, base, base + 15, 16, ids);
	for (i = 0; i < 16; i++) {
		ASSERT_LE(base, ids[i]);
		ASSERT_GE(base + 15, ids[i]);
		seen |= 1u << (ids[i] - base);
	}
	EXPECT_EQ(0xffff, seen);

	/* The highest and the lowest ID, unless they are in use */
	for (i = 0; i < 2; i++) {
		__u32 edge = i ? self->info.min : self->info.max;
		__u32 id = 0;
		int ret = ioasid_alloc(self->fd, edge, edge, 1, &id);

		if (ret == -ENOSPC)
			continue;
		EXPECT_EQ(0, ret);
		EXPECT_EQ(edge, id);
	}
}

TEST_F(ioasid, alloc_bad_range_or_count_is_einval)
{
	const __u32 min = self->info.min, max = self->info.max;
	const struct {
		__u32 min, max, count;
	} bad[] = {
		{ min + 1, min, 1 },
		{ max, min, 1 },
		{ 1, 0, 1 },
		{ max, 0, 1 },
		{ min, max + 1, 1 },
		{ max + 1, max + 1, 1 },
		{ max + 1, max + 100, 1 },
		{ min, 0xffffffff, 1 },
		{ 0xffffffff, 0xffffffff, 1 },
		/* Either both bounds are 0, or neither */
		{ 0, 1, 1 },
		{ 0, max, 1 },
		{ 0, max + 1, 1 },
		/* count */
		{ 0, 0, 0 },
		{ min, max, 0 },
		{ min + 9, min + 9, 0 },
		{ min + 9, min + 9, 2 },
		{ min + 9, min + 16, 9 },
		{ 0, 0, max - min + 2 },
		{ min, max, max - min + 2 },
		{ min, max, 0x7fffffff },
		{ min, max, 0x80000000 },
		{ 0, 0, 0xffffffff },
		{ min + 9, min + 9, 0xffffffff },
		/* 4 * count wraps around to 4 */
		{ 0, 0, 0x40000001 },
	};
	__u32 ids[16];
	int i;

	for (i = 0; i < ARRAY_LEN(bad); i++) {
		test_err_alloc(EINVAL, self->fd, bad[i].min, bad[i].max,
			       bad[i].count, ids) {
			TH_LOG("min %u max %u count %u", bad[i].min,
			       bad[i].max, bad[i].count);
		}
		test_in_use(self->fd, 0, 0);
	}
}

TEST_F(ioasid, alloc_from_full_range_is_enospc)
{
	__u32 base = find_range(_metadata, self->fd, 8);
	__u32 ids[8], got[8];
	int i;

	/* All IDs are taken */
	memset(got, 0xa5, sizeof(got));
	test_cmd_alloc(self->fd, base, base + 7, 8, ids);
	test_err_alloc(ENOSPC, self->fd, base, base + 7, 1, got);
	test_err_alloc(ENOSPC, self->fd, ids[3], ids[3], 1, got);
	test_in_use(self->fd, 8, 0);

	/* Fewer free IDs than requested: none is allocated */
	test_cmd_free(self->fd, 3, ids);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_err_alloc(ENOSPC, self->fd, base, base + 7, 4, got);
	test_in_use(self->fd, 5, 0);
	/* The array is only written on success or -EFAULT */
	for (i = 0; i < 8; i++)
		EXPECT_EQ(0xa5a5a5a5, got[i]);
	for (i = 0; i < 8; i++)
		expect_state(i < 3 ? -ENOENT : IOASID_STATE_ACTIVE, self->fd,
			     ids[i]);
	test_cmd_alloc(self->fd, base, base + 7, 3, got);
	test_in_use(self->fd, 8, 0);
}

TEST_F(ioasid, alloc_cannot_take_what_another_process_holds)
{
	__u32 base = find_range(_metadata, self->fd, 4);
	__u32 ids[4], got;
	pid_t pid;

	test_cmd_alloc(self->fd, base, base + 3, 4, ids);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = ioasid_open();
		int i;

		ASSERT_LE(0, fd);
		for (i = 0; i < 4; i++)
			test_err_alloc(ENOSPC, fd, base + i, base + i, 1,
				       &got);
		test_in_use(fd, 0, 0);
		_exit(0);
	}
	wait_child(pid);
}

TEST_F(ioasid, alloc_bad_ids_pointer_is_efault_and_takes_nothing)
{
	const __u32 base = find_range(_metadata, self->fd, 8);
	__u32 *ids = map_before_hole(8 * sizeof(*ids));
	__u32 *ro = map_before_hole(8 * sizeof(*ro));
	__u32 got[8];
	struct {
		__u32 *ids;
		__u32 count;
	} bad[] = {
		{ NULL, 1 },
		{ NULL, 8 },
		{ kernel_pointer(), 1 },
		{ ids + 8, 1 },
		{ ids + 7, 2 },
		/* Only the last element is unmapped */
		{ ids + 1, 8 },
		{ (__u32 *)((char *)ids + 1), 8 },
		{ ro, 1 },
		{ ro, 8 },
	};
	struct ioasid_alloc cmd = { .size = sizeof(cmd), .count = 1 };
	int i;

	ASSERT_TRUE(ids != NULL);
	ASSERT_TRUE(ro != NULL);
	ASSERT_EQ(0, mprotect(ro + 8 - page_size / sizeof(*ro), page_size,
			      PROT_READ));
	for (i = 0; i < ARRAY_LEN(bad); i++) {
		test_err_alloc(EFAULT, self->fd, base, base + 7, bad[i].count,
			       bad[i].ids);
		EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
		test_in_use(self->fd, 0, 0);
	}

	/* Not a valid address, and too large for 32 bits */
	cmd.ids = 0x8000000000000000ull | (uintptr_t)got;
	EXPECT_EQ(-EFAULT, ioasid_ioctl(self->fd, IOASID_ALLOC, &cmd));
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 0, 0);

	/* No ID was leaked. The array may end at an unmapped page. */
	test_cmd_alloc(self->fd, base, base + 7, 8, ids);
	test_in_use(self->fd, 8, 0);
}

TEST_F(ioasid, alloc_unaligned_ids_pointer)
{
	char *p = map_before_hole(4 * sizeof(__u32) + 1);
	__u32 ids[4];
	int i;

	ASSERT_TRUE(p != NULL);
	test_cmd_alloc(self->fd, 0, 0, 4, (__u32 *)(p + 1));
	memcpy(ids, p + 1, sizeof(ids));
	for (i = 0; i < 4; i++)
		expect_state(IOASID_STATE_ACTIVE, self->fd, ids[i]);
	test_cmd_free(self->fd, 4, (__u32 *)(p + 1));
}

TEST_F(ioasid, alloc_writes_no_more_than_count)
{
	__u32 ids[8];
	int i;

	memset(ids, 0xa5, sizeof(ids));
	test_cmd_alloc(self->fd, 0, 0, 5, ids);
	for (i = 5; i < 8; i++)
		EXPECT_EQ(0xa5a5a5a5, ids[i]);
}

/* IOASID_FREE of @count numbers in @ids fails and frees none of @held */
#define expect_free_err(_errno, fd, ids, count, held, nr_held) do {	\
	int __i;							\
									\
	test_err_free(_errno, fd, count, ids);				\
	test_in_use(fd, nr_held, 0);					\
	for (__i = 0; __i < (nr_held); __i++)				\
		expect_state(IOASID_STATE_ACTIVE, fd, (held)[__i]);	\
} while (0)

TEST_F(ioasid, free_is_all_or_nothing)
{
	__u32 held[4], freed, ids[5];
	int at, i;

	test_cmd_alloc(self->fd, 0, 0, 4, held);
	test_cmd_alloc(self->fd, 0, 0, 1, &freed);
	test_cmd_free(self->fd, 1, &freed);
	ASSERT_TRUE(ioasid_wait_recycled(self->fd, freed));

	/* One invalid number, at each position among four valid ones */
	const __u32 bad[] = { freed, 0, self->info.max + 1, 0x100000,
			      0xffffffff, held[2] };

	for (i = 0; i < ARRAY_LEN(bad); i++) {
		for (at = 0; at < 5; at++) {
			memcpy(ids, held, sizeof(held));
			memmove(ids + at + 1, ids + at,
				(4 - at) * sizeof(*ids));
			ids[at] = bad[i];
			expect_free_err(ENOENT, self->fd, ids, 5, held, 4);
		}
		if (bad[i] != held[2])
			expect_free_err(ENOENT, self->fd, &bad[i], 1, held, 4);
	}
}

TEST_F(ioasid, free_count_out_of_range_is_einval)
{
	const __u32 space = self->info.max - self->info.min + 1;
	const __u32 bad[] = { 0, MAX_PASID + 2, 0x7fffffff, 0x80000000,
			      0x40000001, 0xffffffff };
	__u32 held[2];
	int i;

	ASSERT_GE(MAX_PASID + 1, space);
	test_cmd_alloc(self->fd, 0, 0, 2, held);
	for (i = 0; i < ARRAY_LEN(bad); i++)
		expect_free_err(EINVAL, self->fd, held, bad[i], held, 2);
	expect_free_err(EINVAL, self->fd, held, space + 1, held, 2);
}

TEST_F(ioasid, free_same_number_twice_is_enoent)
{
	__u32 held[3], ids[4];

	test_cmd_alloc(self->fd, 0, 0, 3, held);
	memcpy(ids, held, sizeof(held));
	ids[3] = held[0];
	expect_free_err(ENOENT, self->fd, ids, 4, held, 3);
	ids[1] = held[0];
	expect_free_err(ENOENT, self->fd, ids, 2, held, 3);

	/* Freed by two calls */
	test_cmd_free(self->fd, 1, &held[1]);
	test_err_free(ENOENT, self->fd, 1, &held[1]);
	test_err_free(ENOENT, self->fd, 3, held);
	expect_state(IOASID_STATE_ACTIVE, self->fd, held[0]);
	expect_state(IOASID_STATE_ACTIVE, self->fd, held[2]);
	ids[0] = held[0];
	ids[1] = held[2];
	test_cmd_free(self->fd, 2, ids);
}

TEST_F(ioasid, free_bad_ids_pointer_is_efault_and_frees_nothing)
{
	__u32 *ids = map_before_hole(8 * sizeof(*ids));
	__u32 *ro = map_before_hole(8 * sizeof(*ro));
	struct ioasid_free cmd = { .size = sizeof(cmd), .count = 1 };
	__u32 held[8];

	ASSERT_TRUE(ids != NULL);
	ASSERT_TRUE(ro != NULL);
	test_cmd_alloc(self->fd, 0, 0, 8, held);

	expect_free_err(EFAULT, self->fd, NULL, 1, held, 8);
	expect_free_err(EFAULT, self->fd, kernel_pointer(), 1, held, 8);
	/* Only the last element is unmapped */
	memcpy(ids + 1, held, 7 * sizeof(*held));
	expect_free_err(EFAULT, self->fd, ids + 1, 8, held, 8);
	expect_free_err(EFAULT, self->fd, ids + 8, 1, held, 8);
	memcpy((char *)ids + 1, held, sizeof(held) - 1);
	expect_free_err(EFAULT, self->fd, (__u32 *)((char *)ids + 1), 8,
			held, 8);

	cmd.ids = 0x8000000000000000ull | (uintptr_t)held;
	EXPECT_EQ(-EFAULT, ioasid_ioctl(self->fd, IOASID_FREE, &cmd));
	test_in_use(self->fd, 8, 0);

	/* The array may be read-only and is not read beyond its last byte */
	memcpy(ro, held, sizeof(held));
	ASSERT_EQ(0, mprotect(ro + 8 - page_size / sizeof(*ro), page_size,
			      PROT_READ));
	test_cmd_free(self->fd, 8, ro);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 0, 0);
}

TEST_F(ioasid, query_tells_state_and_holders)
{
	struct ioasid_query query;
	__u32 id;

	test_cmd_alloc(self->fd, 0, 0, 1, &id);
	test_cmd_query(self->fd, id, &query);
	EXPECT_EQ(24, query.size);
	EXPECT_EQ(0, query.flags);
	EXPECT_EQ(id, query.id);
	EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
	EXPECT_EQ(0, query.users);
	EXPECT_EQ(0, query.attachments);
}

TEST_F(ioasid, query_of_unknown_or_recycled_number_is_enoent)
{
	__u32 ids[2];

	test_err_query(ENOENT, self->fd, 0);
	test_err_query(ENOENT, self->fd, self->info.max + 1);
	test_err_query(ENOENT, self->fd, 0x100000);
	test_err_query(ENOENT, self->fd, 0xffffffff);

	test_cmd_alloc(self->fd, 0, 0, 2, ids);
	test_cmd_free(self->fd, 1, ids);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, ids[0]));
	test_err_query(ENOENT, self->fd, ids[0]);
	expect_state(IOASID_STATE_ACTIVE, self->fd, ids[1]);
	/* Bits above the width of a PASID are not truncated */
	test_err_query(ENOENT, self->fd, ids[1] | 0x100000);
	test_err_query(ENOENT, self->fd, ids[1] | 0x80000000);
	test_err_free(ENOENT, self->fd, 1, &(__u32){ ids[1] | 0x100000 });
	expect_state(IOASID_STATE_ACTIVE, self->fd, ids[1]);
}

TEST_F(ioasid, list_has_all_numbers_of_the_file_in_order)
{
	__u32 base = find_range(_metadata, self->fd, 40);
	struct ioasid_list_entry entries[41];
	int other = ioasid_open();
	__u32 ids[40], count, i;

	count = ARRAY_LEN(entries);
	test_cmd_list(self->fd, 0, &count, entries);
	EXPECT_EQ(0, count);

	/* Allocate in descending order, every fourth through another file */
	ASSERT_LE(0, other);
	for (i = 40; i--;)
		test_cmd_alloc(i % 4 ? self->fd : other, base + i, base + i, 1,
			       &ids[i]);
	for (count = 1; count < 42; count += 4) {
		__u32 got = count, all = 30;

		memset(entries, 0xa5, sizeof(entries));
		test_cmd_list(self->fd, 0, &got, entries);
		ASSERT_EQ(count < all ? count : all, got);
		for (i = 0; i < got; i++) {
			EXPECT_EQ(base + i + i / 3 + 1, entries[i].id);
			EXPECT_EQ(IOASID_STATE_ACTIVE, entries[i].state);
			EXPECT_EQ(0, entries[i].users);
			EXPECT_EQ(0, entries[i].attachments);
		}
		EXPECT_EQ(0xa5a5a5a5, entries[got].id);
	}

	/* A freed IOASID without users is gone */
	test_cmd_free(self->fd, 1, &ids[1]);
	count = 1;
	test_cmd_list(self->fd, 0, &count, entries);
	EXPECT_EQ(1, count);
	EXPECT_EQ(base + 2, entries[0].id);
	close(other);
}

TEST_F(ioasid, list_in_pages_is_the_whole_list)
{
	const __u32 all = 100;
	struct ioasid_list_entry entries[17];
	__u32 ids[100], count, size, n, start, last;

	test_cmd_alloc(self->fd, 0, 0, all, ids);
	for (size = 1; size <= ARRAY_LEN(entries); size++) {
		n = 0;
		start = 0;
		last = 0;
		do {
			count = size;
			test_cmd_list(self->fd, start, &count, entries);
			ASSERT_GE(size, count);
			for (__u32 i = 0; i < count; i++) {
				ASSERT_LT(last, entries[i].id);
				last = entries[i].id;
			}
			n += count;
			start = last + 1;
		} while (count == size);
		EXPECT_EQ(all, n);
	}

	/* Beyond the last IOASID, and beyond the largest number */
	count = 5;
	test_cmd_list(self->fd, last + 1, &count, entries);
	EXPECT_EQ(0, count);
	count = 5;
	test_cmd_list(self->fd, 0xffffffff, &count, entries);
	EXPECT_EQ(0, count);
}

TEST_F(ioasid, list_with_a_bad_count_or_array)
{
	struct ioasid_list_entry *entries =
		map_before_hole(20 * sizeof(*entries)), *ro;
	__u32 ids[20], count;

	ASSERT_TRUE(entries != NULL);
	ro = map_before_hole(20 * sizeof(*ro));
	ASSERT_TRUE(ro != NULL);
	ASSERT_EQ(0, mprotect((char *)(ro + 20) - page_size, page_size,
			      PROT_READ));
	test_err_list(EINVAL, self->fd, 0, 0, entries);
	/* An empty result does not touch the array */
	count = 1;
	test_cmd_list(self->fd, 0, &count, NULL);
	EXPECT_EQ(0, count);

	test_cmd_alloc(self->fd, 0, 0, 20, ids);
	test_err_list(EINVAL, self->fd, 0, 0, entries);
	test_err_list(EFAULT, self->fd, 0, 1, NULL);
	test_err_list(EFAULT, self->fd, 0, 1, kernel_pointer());
	test_err_list(EFAULT, self->fd, 0, 1, ro);
	/* Only the last element is unmapped, for small and large counts */
	test_err_list(EFAULT, self->fd, 0, 16, entries + 5);
	test_err_list(EFAULT, self->fd, 0, 20, entries + 1);
	test_err_list(EFAULT, self->fd, 0, 0xffffffff, entries + 1);
	test_in_use(self->fd, 20, 0);

	/* The array may be larger than needed by any amount */
	count = 0xffffffff;
	test_cmd_list(self->fd, 0, &count, entries);
	EXPECT_EQ(20, count);
	EXPECT_EQ(IOASID_STATE_ACTIVE, entries[19].state);
}

TEST_F(ioasid, other_files_number_does_not_exist)
{
	__u32 mine, ids[2];
	pid_t pid;
	int other = ioasid_open();

	/* Another file of this process */
	ASSERT_LE(0, other);
	test_cmd_alloc(self->fd, 0, 0, 1, &mine);
	test_cmd_alloc(other, 0, 0, 1, &ids[0]);
	ids[1] = mine;
	test_err_query(ENOENT, other, mine);
	test_err_free(ENOENT, other, 1, &mine);
	test_err_free(ENOENT, other, 2, ids);
	expect_state(IOASID_STATE_ACTIVE, other, ids[0]);
	expect_state(IOASID_STATE_ACTIVE, self->fd, mine);

	/* A file of another process */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = ioasid_open();

		ASSERT_LE(0, fd);
		test_cmd_alloc(fd, 0, 0, 1, &ids[0]);
		test_err_query(ENOENT, fd, mine);
		test_err_free(ENOENT, fd, 1, &mine);
		test_err_free(ENOENT, fd, 2, ids);
		expect_state(IOASID_STATE_ACTIVE, fd, ids[0]);
		_exit(0);
	}
	wait_child(pid);
	expect_state(IOASID_STATE_ACTIVE, self->fd, mine);
	close(other);
}

TEST_F(ioasid, freed_number_without_users_can_be_had_again_at_once)
{
	const __u32 id = find_range(_metadata, self->fd, 1);
	__u32 got;
	int i;

	/*
	 * Recycling is deferred, but an allocation that is blocked only by
	 * pending recycling waits for it.
	 */
	for (i = 0; i < 100; i++) {
		got = 0;
		test_cmd_alloc(self->fd, id, id, 1, &got);
		ASSERT_EQ(id, got);
		test_cmd_free(self->fd, 1, &got);
	}
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, id));
	test_in_use(self->fd, 0, 0);
}

TEST_F(ioasid, freed_number_of_exited_process_can_be_had_at_once)
{
	const __u32 id = find_range(_metadata, self->fd, 1);
	__u32 got = 0;
	pid_t pid;
	int i;

	for (i = 0; i < 8; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			int fd = ioasid_open();

			ASSERT_LE(0, fd);
			test_cmd_alloc(fd, id, id, 1, &got);
			_exit(0);
		}
		wait_child(pid);
	}
	test_cmd_alloc(self->fd, id, id, 1, &got);
	EXPECT_EQ(id, got);
}

TEST_F(ioasid, quota_is_reached_exactly)
{
	__u32 ids[9];

	test_cmd_set_quota(self->fd, 8);
	test_cmd_get_info(self->fd, &self->info);
	EXPECT_EQ(8, self->info.quota);

	test_err_alloc(EDQUOT, self->fd, 0, 0, 9, ids);
	test_in_use(self->fd, 0, 0);
	test_cmd_alloc(self->fd, 0, 0, 5, ids);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 4, ids + 5);
	test_in_use(self->fd, 5, 0);
	test_cmd_alloc(self->fd, 0, 0, 3, ids + 5);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, ids + 8);
	test_in_use(self->fd, 8, 0);

	/* Free and allocate at the limit, without waiting in between */
	test_cmd_free(self->fd, 1, ids);
	test_cmd_alloc(self->fd, 0, 0, 1, ids);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, ids + 8);
	test_in_use(self->fd, 8, 0);
}

TEST_F(ioasid, quota_comes_back_with_every_number)
{
	__u32 base = find_range(_metadata, self->fd, 8);
	__u32 ids[8], extra;
	int i;

	test_cmd_set_quota(self->fd, 8);
	for (i = 0; i < 20; i++) {
		test_cmd_alloc(self->fd, base, base + 7, 8, ids);
		/* Failed calls at the limit must not be charged */
		test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &extra);
		test_cmd_free(self->fd, 8, ids);
		test_err_alloc(EFAULT, self->fd, 0, 0, 8, NULL);
		test_err_alloc(EINVAL, self->fd, 1, 0, 8, ids);
	}
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 0, 0);
}

TEST_F(ioasid, alloc_fails_until_usage_is_below_a_lowered_quota)
{
	__u32 ids[8], got;

	test_cmd_alloc(self->fd, 0, 0, 8, ids);
	test_cmd_set_quota(self->fd, 4);
	test_in_use(self->fd, 8, 0);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &got);

	test_cmd_free(self->fd, 3, ids);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &got);
	test_cmd_free(self->fd, 1, ids + 3);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &got);
	test_cmd_free(self->fd, 1, ids + 4);
	test_cmd_alloc(self->fd, 0, 0, 1, &got);
	test_in_use(self->fd, 4, 0);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &ids[0]);

	test_cmd_set_quota(self->fd, 0);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &ids[0]);
	test_in_use(self->fd, 4, 0);
}

TEST_F(ioasid, quota_is_raised_only_with_cap_sys_resource)
{
	const __u32 quota = self->info.quota;
	struct ioasid_info info;
	pid_t pid;

	/* With CAP_SYS_RESOURCE */
	test_cmd_set_quota(self->fd, quota + 1);
	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(quota + 1, info.quota);
	test_cmd_set_quota(self->fd, quota);

	/* Without the capability, through the same file */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, drop_capability(CAP_SYS_RESOURCE));
		test_err_set_quota(EPERM, self->fd, quota + 1);
		test_err_set_quota(EPERM, self->fd, 0xffffffff);
		test_cmd_get_info(self->fd, &info);
		EXPECT_EQ(quota, info.quota);
		/* Not raising the quota needs no privilege */
		test_cmd_set_quota(self->fd, quota);
		test_cmd_set_quota(self->fd, quota - 1);
		test_err_set_quota(EPERM, self->fd, quota);
		_exit(0);
	}
	wait_child(pid);
	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(quota - 1, info.quota);

	/* Without any capability, as another user */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, become_nobody());
		test_err_set_quota(EPERM, self->fd, quota);
		test_cmd_set_quota(self->fd, quota - 2);
		_exit(0);
	}
	wait_child(pid);
	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(quota - 2, info.quota);
}

TEST_F(ioasid, quota_is_not_raised_by_root_of_a_user_namespace)
{
	const __u32 quota = self->info.quota;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (unshare(CLONE_NEWUSER))
			_exit(errno == EINVAL ? KSFT_SKIP : KSFT_FAIL);
		test_err_set_quota(EPERM, self->fd, quota + 1);
		test_cmd_set_quota(self->fd, quota);
		_exit(0);
	}
	int status;

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP)
		SKIP(return, "no user namespaces");
	EXPECT_EQ(0, status);
}

/* Invariant own-file: a process can limit only the files that it holds */
TEST_F(ioasid, quota_is_that_of_the_file)
{
	int other = ioasid_open();
	struct ioasid_info info;
	__u32 ids[8], got;
	pid_t pid;

	ASSERT_LE(0, other);
	test_cmd_set_quota(other, 3);
	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(self->info.quota, info.quota);
	test_cmd_alloc(other, 0, 0, 3, ids);
	test_err_alloc(EDQUOT, other, 0, 0, 1, &got);
	test_in_use(other, 3, 0);
	test_in_use(self->fd, 0, 0);
	test_cmd_alloc(self->fd, 0, 0, 4, ids + 3);
	test_in_use(self->fd, 4, 0);

	/* An unprivileged helper that was passed one of the files */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(self->fd);
		ASSERT_EQ(0, become_nobody());
		test_cmd_set_quota(other, 0);
		test_err_alloc(EDQUOT, other, 0, 0, 1, &got);
		_exit(0);
	}
	wait_child(pid);
	test_cmd_alloc(self->fd, 0, 0, 1, ids + 7);
	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(self->info.quota, info.quota);
	close(other);
	test_in_use(self->fd, 5, 0);
}

TEST_F(ioasid, new_file_has_the_default_quota)
{
	__u32 ids[4];
	pid_t pid;

	test_cmd_set_quota(self->fd, 4);
	test_cmd_alloc(self->fd, 0, 0, 4, ids);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct ioasid_info info;
		int fd = ioasid_open();

		ASSERT_LE(0, fd);
		test_cmd_get_info(fd, &info);
		EXPECT_EQ(boot_quota(), info.quota);
		EXPECT_EQ(0, info.active);
		EXPECT_EQ(0, info.parked);
		_exit(0);
	}
	wait_child(pid);
	test_in_use(self->fd, 4, 0);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, ids);
}

#define USER_LIMIT "/proc/sys/user/max_ioasids"

/* An unprivileged user who may open the device, and this user's limit */
FIXTURE(user)
{
	int fd;
	mode_t mode;
	char limit[32];
};

FIXTURE_SETUP(user)
{
	struct stat node;
	FILE *f;

	setup_open(_metadata, &self->fd);
	if (_metadata->exit_code)
		return;
	f = fopen(USER_LIMIT, "r");
	ASSERT_TRUE(f != NULL);
	EXPECT_TRUE(fgets(self->limit, sizeof(self->limit), f) != NULL);
	fclose(f);
	ASSERT_EQ(0, stat(IOASID_DEV, &node));
	self->mode = node.st_mode & 07777;
	ASSERT_EQ(0, chmod(IOASID_DEV, 0666));
}

static int set_user_limit(const char *limit)
{
	int fd = open(USER_LIMIT, O_WRONLY | O_CLOEXEC);
	ssize_t len = strlen(limit);

	if (fd < 0)
		return -errno;
	len -= write(fd, limit, len);
	close(fd);
	return len ? -EIO : 0;
}

/* In the parent, so that it runs even if the test was killed */
FIXTURE_TEARDOWN_PARENT(user)
{
	if (!self->mode)
		return;
	EXPECT_EQ(0, set_user_limit(self->limit));
	EXPECT_EQ(0, chmod(IOASID_DEV, self->mode));
}

/* Allocate 10 IOASIDs through a new file */
static int take_ten(void)
{
	__u32 ids[10];
	int fd = ioasid_open();

	return fd < 0 ? fd : ioasid_alloc(fd, 0, 0, 10, ids);
}

/*
 * A user can get more files in several ways, but not more IOASIDs. A process
 * allocates 10, creates another process in the way given by @how, and returns
 * the result of that process allocating 10 more.
 */
static int take_more(int how)
{
	int ret, status;
	pid_t pid;

	ret = become_nobody() ?: take_ten();
	if (ret)
		return ret;
	if (how == 2 && unshare(CLONE_NEWUSER))
		return errno == EINVAL ? -EDQUOT : -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		if (how == 1) {
			execl("/proc/self/exe", "ioasid", "--take-ten", NULL);
			_exit(99);
		}
		_exit(-take_ten());
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -ECHILD;
	return -WEXITSTATUS(status);
}

/* Invariant fair */
TEST_F(user, limit_holds_across_fork_exec_and_user_namespaces)
{
	int how, status, fd;
	__u32 ids[30];
	pid_t pid;

	ASSERT_EQ(0, set_user_limit("19"));
	for (how = 0; how < 3; how++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(-take_more(how));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFEXITED(status));
		EXPECT_EQ(EDQUOT, WEXITSTATUS(status)) TH_LOG("how %d", how);
	}
	/* Their IOASIDs were freed on exit, so 20 are available again */
	ASSERT_EQ(0, set_user_limit("20"));
	for (how = 0; how < 2; how++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(-take_more(how));
		wait_child(pid);
	}

	/* The user who opened the file is charged, not its current holder */
	fd = ioasid_open();
	ASSERT_LE(0, fd);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, become_nobody());
		test_cmd_alloc(fd, 0, 0, 20, ids);
		_exit(-take_ten());
	}
	wait_child(pid);
	test_err_alloc(EDQUOT, self->fd, 0, 0, 1, ids);
	test_in_use(self->fd, 0, 0);
	close(fd);
	test_cmd_alloc(self->fd, 0, 0, 20, ids);
}

TEST_F(ioasid, low_numbers_need_cap_sys_resource)
{
	const struct {
		__u32 min, max, count;
		int ret;
	} calls[] = {
		{ 1, 1, 1, -ENOSPC },
		{ 1, 1023, 1, -ENOSPC },
		{ 1000, 1023, 24, -ENOSPC },
		{ 1023, 1024, 2, -ENOSPC },
		{ 1, 100000, 4001, -EDQUOT },
		{ 1000, 2000, 3, 0 },
	};
	__u32 ids[3], id;
	pid_t pid;
	int i, k;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, drop_capability(CAP_SYS_RESOURCE));
		test_cmd_set_quota(self->fd, 4000);
		for (i = 0; i < ARRAY_LEN(calls); i++) {
			EXPECT_EQ(calls[i].ret,
				  ioasid_alloc(self->fd, calls[i].min,
					       calls[i].max, calls[i].count,
					       ids)) {
				TH_LOG("%u to %u", calls[i].min, calls[i].max);
			}
		}
		for (k = 0; k < 3; k++)
			EXPECT_LE(1024, ids[k]);
		test_in_use(self->fd, 3, 0);
		test_cmd_free(self->fd, 3, ids);
		_exit(0);
	}
	wait_child(pid);

	/* With the capability, unless all of these are in use */
	for (i = 0, k = 0; i < 1023 && !k; i++)
		k = !ioasid_alloc(self->fd, 1 + i, 1 + i, 1, &id);
	EXPECT_EQ(1, k);
}

/* Devices with few PASID bits can use only low numbers */
TEST_F(ioasid, any_number_leaves_the_low_ones_to_others)
{
	__u32 ids[100];
	int i;

	test_cmd_alloc(self->fd, 0, 0, 100, ids);
	for (i = 0; i < 100; i++)
		EXPECT_LE(1 << 15, ids[i]);
}

#define RIVALS 4
#define RIVAL_COUNT 512

struct rival {
	int fd;
	int ret;
	__u32 ids[RIVAL_COUNT];
};

static void *compete(void *arg)
{
	const __u32 base = 0x80000;
	struct rival *rival = arg;

	rival->ret = ioasid_alloc(rival->fd, base, base + RIVAL_COUNT - 1,
				  RIVAL_COUNT, rival->ids);
	return NULL;
}

TEST_F(ioasid, of_those_who_compete_for_a_range_one_gets_it)
{
	struct rival *rivals = calloc(RIVALS, sizeof(*rivals));
	pthread_t threads[RIVALS];
	int i, round, got;

	ASSERT_TRUE(rivals != NULL);
	for (i = 0; i < RIVALS; i++) {
		rivals[i].fd = ioasid_open();
		ASSERT_LE(0, rivals[i].fd);
	}
	for (round = 0; round < 30; round++) {
		got = 0;
		for (i = 0; i < RIVALS; i++)
			ASSERT_EQ(0, pthread_create(&threads[i], NULL, compete,
						    &rivals[i]));
		for (i = 0; i < RIVALS; i++)
			ASSERT_EQ(0, pthread_join(threads[i], NULL));
		for (i = 0; i < RIVALS; i++) {
			if (rivals[i].ret) {
				EXPECT_EQ(-ENOSPC, rivals[i].ret);
				continue;
			}
			got++;
			test_cmd_free(rivals[i].fd, RIVAL_COUNT,
				      rivals[i].ids);
		}
		EXPECT_EQ(1, got);
	}
	for (i = 0; i < RIVALS; i++)
		close(rivals[i].fd);
	free(rivals);
}

TEST_F(ioasid, fork_child_charges_the_file)
{
	__u32 *ids = map_shared(page_size);
	__u32 mine, got;
	pid_t pid;

	ASSERT_TRUE(ids != NULL);
	test_cmd_set_quota(self->fd, 4);
	test_cmd_alloc(self->fd, 0, 0, 1, &mine);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int own = ioasid_open();

		ASSERT_LE(0, own);
		test_cmd_alloc(self->fd, 0, 0, 3, ids);
		test_err_alloc(EDQUOT, self->fd, 0, 0, 1, &got);
		test_in_use(self->fd, 4, 0);
		test_in_use(own, 0, 0);
		/* A holder of the file can do everything the opener can */
		expect_state(IOASID_STATE_ACTIVE, self->fd, mine);
		test_cmd_free(self->fd, 1, &mine);
		_exit(0);
	}
	wait_child(pid);
	/* The IOASIDs belong to the file and outlive the process */
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 3, 0);
	test_err_query(ENOENT, self->fd, mine);
	test_cmd_free(self->fd, 3, ids);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 0, 0);
}

/*
 * Another process opens the file, allocates @count IOASIDs, sends the file here
 * and exits before this returns.
 */
static int fd_of_exited_process(struct __test_metadata *_metadata, int count,
				__u32 *ids)
{
	__u32 *shared = map_shared(page_size);
	int sock[2], fd;
	pid_t pid;

	ASSERT_TRUE(shared != NULL);
	ASSERT_GE(page_size / sizeof(*ids), count);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		fd = ioasid_open();
		ASSERT_LE(0, fd);
		test_cmd_set_quota(fd, count + 1);
		test_cmd_alloc(fd, 0, 0, count, shared);
		ASSERT_EQ(0, send_fd(sock[0], fd));
		_exit(0);
	}
	wait_child(pid);
	fd = receive_fd(sock[1]);
	ASSERT_LE(0, fd);
	memcpy(ids, shared, count * sizeof(*ids));
	munmap(shared, page_size);
	close(sock[0]);
	close(sock[1]);
	return fd;
}

TEST_F(ioasid, received_file_is_charged_as_before)
{
	__u32 *ids = map_shared(page_size);
	int sock[2];
	pid_t pid;

	ASSERT_TRUE(ids != NULL);
	test_cmd_set_quota(self->fd, 3);
	test_cmd_alloc(self->fd, 0, 0, 1, &ids[0]);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int own, fd;

		close(self->fd);
		own = ioasid_open();
		ASSERT_LE(0, own);
		fd = receive_fd(sock[1]);
		ASSERT_LE(0, fd);

		expect_state(IOASID_STATE_ACTIVE, fd, ids[0]);
		test_cmd_alloc(fd, 0, 0, 2, ids + 1);
		test_err_alloc(EDQUOT, fd, 0, 0, 1, ids + 3);
		test_in_use(fd, 3, 0);
		test_in_use(own, 0, 0);
		test_cmd_free(fd, 1, &ids[0]);
		_exit(0);
	}
	ASSERT_EQ(0, send_fd(sock[0], self->fd));
	wait_child(pid);

	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 2, 0);
	expect_state(IOASID_STATE_ACTIVE, self->fd, ids[1]);
	expect_state(IOASID_STATE_ACTIVE, self->fd, ids[2]);
}

TEST_F(ioasid, file_outlives_its_opener)
{
	__u32 ids[4], got;
	int fd = fd_of_exited_process(_metadata, 3, ids);
	int i;

	for (i = 0; i < 3; i++)
		expect_state(IOASID_STATE_ACTIVE, fd, ids[i]);
	test_in_use(fd, 3, 0);
	test_in_use(self->fd, 0, 0);
	test_cmd_alloc(fd, 0, 0, 1, &ids[3]);
	test_err_alloc(EDQUOT, fd, 0, 0, 1, &got);
	test_cmd_free(fd, 4, ids);
	EXPECT_TRUE(ioasid_wait_none_parked(fd));
	test_in_use(fd, 0, 0);
	close(fd);
}

TEST_F(ioasid, no_process_inherits_the_set_of_a_dead_one)
{
	__u32 ids[3];
	int fd = fd_of_exited_process(_metadata, 3, ids);
	pid_t pid;
	int i;

	/* One of these probably reuses the memory of the dead process's mm */
	for (i = 0; i < 8; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			struct ioasid_info info;
			int own = ioasid_open();

			ASSERT_LE(0, own);
			test_cmd_get_info(own, &info);
			ASSERT_EQ(0, info.active);
			ASSERT_EQ(boot_quota(), info.quota);
			_exit(0);
		}
		wait_child(pid);
	}
	test_in_use(fd, 3, 0);
	close(fd);
}

/* Runs in the program executed by the following test */
static int exec_child(int argc, char **argv)
{
	struct ioasid_info info;
	int fd = atoi(argv[2]), own, i;

	/* The file has kept its IOASIDs and its quota ... */
	for (i = 3; i < argc; i++)
		if (ioasid_state(fd, strtoul(argv[i], NULL, 0)) !=
		    IOASID_STATE_ACTIVE)
			return 1;
	if (ioasid_get_info(fd, &info) || info.active != argc - 3 ||
	    info.quota != argc - 2)
		return 2;
	/* ... and a new file gets its own */
	own = ioasid_open();
	if (own < 0 || ioasid_get_info(own, &info) || info.active ||
	    info.quota != boot_quota())
		return 3;
	if (ioasid_alloc(fd, 0, 0, 1, &(__u32){ 0 }))
		return 4;
	if (ioasid_alloc(fd, 0, 0, 1, &(__u32){ 0 }) != -EDQUOT)
		return 5;
	if (ioasid_get_info(own, &info) || info.active)
		return 6;
	return 0;
}

TEST_F(ioasid, exec_keeps_file_and_quota)
{
	char fd[16], id[2][16];
	__u32 ids[2];
	pid_t pid;

	test_cmd_set_quota(self->fd, 3);
	test_cmd_alloc(self->fd, 0, 0, 2, ids);
	ASSERT_EQ(0, fcntl(self->fd, F_SETFD, 0));
	snprintf(fd, sizeof(fd), "%d", self->fd);
	snprintf(id[0], sizeof(id[0]), "%u", ids[0]);
	snprintf(id[1], sizeof(id[1]), "%u", ids[1]);

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		execl("/proc/self/exe", "ioasid", "--exec-child", fd, id[0],
		      id[1], NULL);
		_exit(99);
	}
	wait_child(pid);
	test_in_use(self->fd, 3, 0);
}

TEST_F(ioasid, exec_closes_a_cloexec_file)
{
	int other = ioasid_open();
	char none[] = "-1";
	__u32 ids[2];
	int sock[2];
	char byte;
	pid_t pid;

	/* When the child calls exec, it holds the only reference to the file */
	ASSERT_LE(0, other);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(1, read(sock[1], &byte, 1));
		test_cmd_alloc(other, 0, 0, 2, ids);
		test_set_in_use(self->fd, 2, 0);
		/* exec_child() fails, as there is no descriptor -1 */
		execl("/proc/self/exe", "ioasid", "--exec-child", none, NULL);
		_exit(99);
	}
	close(other);
	ASSERT_EQ(1, write(sock[0], "x", 1));
	int status;

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(2, WEXITSTATUS(status));
	test_set_in_use(self->fd, 0, 0);
}

TEST_F(ioasid, last_close_frees_all)
{
	__u32 base = find_range(_metadata, self->fd, 8);
	int other, copy;
	__u32 ids[8];
	pid_t pid;

	other = ioasid_open();
	ASSERT_LE(0, other);
	test_cmd_alloc(other, base, base + 7, 8, ids);
	copy = dup(other);
	ASSERT_LE(0, copy);

	/* All duplicates refer to one file, which is still open */
	close(other);
	test_set_in_use(self->fd, 8, 0);
	expect_state(IOASID_STATE_ACTIVE, copy, ids[0]);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(0);
	wait_child(pid);
	test_set_in_use(self->fd, 8, 0);
	expect_state(IOASID_STATE_ACTIVE, copy, ids[7]);

	close(copy);
	test_set_in_use(self->fd, 0, 0);
	test_cmd_alloc(self->fd, base, base + 7, 8, ids);
}

TEST_F(ioasid, exit_of_the_last_holder_frees_all)
{
	int other = ioasid_open();
	__u32 ids[5];
	int sock[2];
	char byte;
	pid_t pid;

	/* The child is charged here, and is killed with the only file */
	ASSERT_LE(0, other);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		test_cmd_alloc(other, 0, 0, 5, ids);
		ASSERT_EQ(1, write(sock[1], "x", 1));
		pause();
		_exit(99);
	}
	close(other);
	ASSERT_EQ(1, read(sock[0], &byte, 1));
	test_set_in_use(self->fd, 5, 0);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	test_set_in_use(self->fd, 0, 0);
}

TEST_F(ioasid, dup_is_the_same_file)
{
	int copy = dup(self->fd);
	__u32 ids[2];

	ASSERT_LE(0, copy);
	test_cmd_alloc(self->fd, 0, 0, 1, &ids[0]);
	test_cmd_alloc(copy, 0, 0, 1, &ids[1]);
	expect_state(IOASID_STATE_ACTIVE, copy, ids[0]);
	expect_state(IOASID_STATE_ACTIVE, self->fd, ids[1]);
	test_cmd_free(copy, 1, &ids[0]);
	test_cmd_free(self->fd, 1, &ids[1]);
	close(copy);
}

/* All @ids are in range and distinct */
static void expect_distinct(struct __test_metadata *_metadata,
			    const struct ioasid_info *info, const __u32 *ids,
			    __u32 count)
{
	unsigned char *seen = calloc(1, MAX_PASID + 1);
	__u32 i;

	ASSERT_TRUE(seen != NULL);
	for (i = 0; i < count; i++) {
		ASSERT_LE(info->min, ids[i]);
		ASSERT_GE(info->max, ids[i]);
		ASSERT_EQ(0, seen[ids[i]]);
		seen[ids[i]] = 1;
	}
	free(seen);
}

/* Returns the duration of IOASID_ALLOC in us */
static uint64_t large_call(struct __test_metadata *_metadata,
			   FIXTURE_DATA(ioasid) *self, __u32 count)
{
	__u32 *ids = calloc(count + 1, sizeof(*ids));
	struct ioasid_info info;
	uint64_t start, us;

	ASSERT_TRUE(ids != NULL);
	test_cmd_set_quota(self->fd, count);
	test_err_alloc(EDQUOT, self->fd, 0, 0, count + 1, ids);
	test_in_use(self->fd, 0, 0);

	start = now_us();
	test_cmd_alloc(self->fd, 0, 0, count, ids);
	us = now_us() - start;
	test_in_use(self->fd, count, 0);
	expect_distinct(_metadata, &self->info, ids, count);

	/* Only the last number is invalid: nothing is freed */
	ids[count] = ids[0];
	test_err_free(ENOENT, self->fd, count + 1, ids);
	test_in_use(self->fd, count, 0);
	expect_state(IOASID_STATE_ACTIVE, self->fd, ids[0]);
	expect_state(IOASID_STATE_ACTIVE, self->fd, ids[count / 2]);
	expect_state(IOASID_STATE_ACTIVE, self->fd, ids[count - 1]);

	test_cmd_free(self->fd, count, ids);
	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(0, info.active);

	/* While IOASIDs being recycled still use up the quota */
	test_cmd_alloc(self->fd, 0, 0, 1, ids);
	test_cmd_free(self->fd, 1, ids);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 0, 0);
	free(ids);
	return us;
}

TEST_F(ioasid, large_calls_are_all_or_nothing)
{
	uint64_t us = large_call(_metadata, self, DEFAULT_QUOTA);
	uint64_t count;

	/* As many as this kernel can allocate in half a second */
	count = DEFAULT_QUOTA * 500000ull / (us + 1);
	if (count > 100000)
		count = 100000;
	if (count > DEFAULT_QUOTA)
		large_call(_metadata, self, count);
}

/*
 * A child is killed during a call with @count numbers: in IOASID_ALLOC once
 * they are charged, in IOASID_FREE after @after_us. Returns whether the call
 * was still in progress.
 */
static bool kill_in_call(struct __test_metadata *_metadata, int fd,
			 unsigned int nr, __u32 count, __u32 *ids,
			 unsigned int after_us)
{
	volatile int *phase = map_shared(page_size);
	struct ioasid_info info;
	bool in_call;
	int status;
	pid_t pid;

	ASSERT_TRUE(phase != NULL);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		*phase = 1;
		if (nr == IOASID_ALLOC)
			ioasid_alloc(fd, 0, 0, count, ids);
		else
			ioasid_free(fd, count, ids);
		*phase = 2;
		pause();
		_exit(99);
	}
	ASSERT_TRUE(wait_until(*phase));
	if (nr == IOASID_ALLOC) {
		ASSERT_TRUE(wait_until(!ioasid_get_info(fd, &info) &&
				       info.active == count));
	} else {
		usleep(after_us);
	}
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	in_call = *phase == 1;
	munmap((void *)phase, page_size);
	return in_call;
}

/* Not the full range: a debug kernel lacks the memory for a million */
#define HUGE_COUNT 200000

TEST_F(ioasid, fatal_signal_ends_a_huge_alloc_and_leaves_nothing)
{
	const __u32 count = HUGE_COUNT;
	__u32 *ids = map_shared(count * sizeof(*ids));
	struct ioasid_info info;

	ASSERT_TRUE(ids != NULL);
	/* Fault in the pages: a killed process does not get new ones */
	memset(ids, 0xff, count * sizeof(*ids));
	test_cmd_set_quota(self->fd, count);
	EXPECT_TRUE(kill_in_call(_metadata, self->fd, IOASID_ALLOC, count, ids,
				 0));
	/* Killed while allocating, before any number was returned */
	EXPECT_EQ(~0u, ids[0]);
	EXPECT_EQ(~0u, ids[count - 1]);
	test_cmd_get_info(self->fd, &info);
	EXPECT_EQ(0, info.active);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_cmd_set_quota(self->fd, 8);
	test_cmd_alloc(self->fd, 0, 0, 8, ids);
	test_in_use(self->fd, 8, 0);
}

TEST_F(ioasid, fatal_signal_in_a_huge_free_frees_all_or_nothing)
{
	const __u32 count = DEFAULT_QUOTA;
	__u32 *ids = map_shared(count * sizeof(*ids));
	unsigned int after_us;
	struct ioasid_info info;

	ASSERT_TRUE(ids != NULL);
	test_cmd_set_quota(self->fd, count);
	test_cmd_alloc(self->fd, 0, 0, count, ids);
	for (after_us = 100; after_us < 10000; after_us *= 2) {
		kill_in_call(_metadata, self->fd, IOASID_FREE, count, ids,
			     after_us);
		test_cmd_get_info(self->fd, &info);
		if (info.active != count)
			break;
		EXPECT_EQ(IOASID_STATE_ACTIVE, ioasid_state(self->fd, ids[0]));
	}
	EXPECT_TRUE(info.active == count || info.active == 0);
	if (info.active)
		test_cmd_free(self->fd, count, ids);
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 0, 0);
}

#define expect_fdinfo(expected, fd, key) do {				\
	char __value[4096] = "";					\
									\
	EXPECT_EQ(0, ioasid_fdinfo(fd, key, __value, sizeof(__value)));	\
	EXPECT_STREQ(expected, __value);				\
} while (0)

TEST_F(ioasid, fdinfo_shows_quota_and_numbers)
{
	__u32 base = find_range(_metadata, self->fd, 8);
	__u32 ids[8], other_id;
	int other = ioasid_open();
	char list[64];
	int i;

	ASSERT_LE(0, other);
	ASSERT_TRUE(ioasid_wait_none_parked(self->fd));
	test_cmd_set_quota(self->fd, 77);
	expect_fdinfo("77", self->fd, "ioasid-quota");
	expect_fdinfo("0", self->fd, "ioasid-active");
	expect_fdinfo("0", self->fd, "ioasid-parked");
	expect_fdinfo("", self->fd, "ioasid-active-ids");
	expect_fdinfo("", self->fd, "ioasid-parked-ids");

	for (i = 0; i < 8; i++) {
		if (i == 3)
			continue;
		test_cmd_alloc(self->fd, base + i, base + i, 1, &ids[i]);
	}
	test_cmd_alloc(other, base + 3, base + 3, 1, &other_id);

	/* Counts are per file, except for the ones named "set" */
	expect_fdinfo("7", self->fd, "ioasid-active");
	expect_fdinfo("1", other, "ioasid-active");
	expect_fdinfo("8", self->fd, "ioasid-set-active");
	expect_fdinfo("8", other, "ioasid-set-active");
	expect_fdinfo("0", other, "ioasid-set-parked");
	snprintf(list, sizeof(list), "%u", boot_quota());
	expect_fdinfo(list, other, "ioasid-quota");
	snprintf(list, sizeof(list), "%u-%u,%u-%u", base, base + 2, base + 4,
		 base + 7);
	expect_fdinfo(list, self->fd, "ioasid-active-ids");
	snprintf(list, sizeof(list), "%u", base + 3);
	expect_fdinfo(list, other, "ioasid-active-ids");

	test_cmd_free(self->fd, 1, &ids[6]);
	ASSERT_TRUE(ioasid_wait_recycled(self->fd, ids[6]));
	snprintf(list, sizeof(list), "%u-%u,%u-%u,%u", base, base + 2,
		 base + 4, base + 5, base + 7);
	expect_fdinfo(list, self->fd, "ioasid-active-ids");
	expect_fdinfo("", self->fd, "ioasid-parked-ids");
	close(other);
}

TEST_F(ioasid, fdinfo_of_many_numbers_is_bounded)
{
	__u32 *ids = calloc(DEFAULT_QUOTA, sizeof(*ids));
	char path[64], chunk[4096];
	size_t total = 0;
	ssize_t n;
	int i, fd;

	/* Alternate numbers make the longest possible list */
	ASSERT_TRUE(ids != NULL);
	test_cmd_set_quota(self->fd, DEFAULT_QUOTA);
	test_cmd_alloc(self->fd, 0, 0, DEFAULT_QUOTA, ids);
	for (i = 0; i < DEFAULT_QUOTA / 2; i++)
		ids[i] = ids[2 * i];
	test_cmd_free(self->fd, DEFAULT_QUOTA / 2, ids);

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", self->fd);
	fd = open(path, O_RDONLY);
	ASSERT_LE(0, fd);
	while ((n = read(fd, chunk, sizeof(chunk))) > 0)
		total += n;
	EXPECT_EQ(0, n);
	EXPECT_LT(0, total);
	EXPECT_GT(64 * 1024, total);
	close(fd);
	expect_fdinfo("2048", self->fd, "ioasid-active");
	free(ids);
}

TEST_F(ioasid, node_is_for_owner_and_group_only)
{
	struct stat st;
	pid_t pid;

	ASSERT_EQ(0, stat(IOASID_DEV, &st));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(0660, st.st_mode & 07777);

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, become_nobody());
		EXPECT_EQ(-EACCES, ioasid_open());
		EXPECT_EQ(-1, open(IOASID_DEV, O_RDONLY));
		EXPECT_EQ(EACCES, errno);
		/* With a file that it was passed, it can do everything */
		test_cmd_alloc(self->fd, 0, 0, 1, &(__u32){ 0 });
		_exit(0);
	}
	wait_child(pid);
	test_in_use(self->fd, 1, 0);
}

TEST_F(ioasid, file_cannot_be_read_written_or_mapped)
{
	struct pollfd pfd = { .fd = self->fd, .events = POLLIN };
	char byte = 0;

	EXPECT_EQ(-1, read(self->fd, &byte, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, write(self->fd, &byte, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(mmap(NULL, page_size, PROT_READ, MAP_SHARED, self->fd,
			 0) == MAP_FAILED);
	EXPECT_EQ(ENODEV, errno);
	/* Like any file without ->poll, it is always ready */
	EXPECT_EQ(1, poll(&pfd, 1, 0));
	EXPECT_EQ(POLLIN, pfd.revents);
}

/*
 * @held is shared by all takers and marks the numbers held. A taker that is
 * given a number already marked has found it allocated twice.
 */
struct taker {
	int fd;
	unsigned char *held;
	int rounds;
	__u32 min, max;
	int failed;
};

static void *take_and_free(void *arg)
{
	struct taker *t = arg;
	__u32 ids[4];
	int i, k, count, ret;

	for (i = 0; i < t->rounds; i++) {
		count = 1 + i % 4;
		ret = ioasid_alloc(t->fd, t->min, t->max, count, ids);
		/* The range is too small for all threads at once */
		if (ret == -ENOSPC) {
			sched_yield();
			continue;
		}
		if (ret) {
			t->failed = ret;
			break;
		}
		for (k = 0; k < count; k++) {
			if (ids[k] < t->min || ids[k] > t->max ||
			    __atomic_exchange_n(&t->held[ids[k] - t->min], 1,
						__ATOMIC_SEQ_CST))
				t->failed = -EEXIST;
		}
		sched_yield();
		for (k = 0; k < count; k++)
			__atomic_store_n(&t->held[ids[k] - t->min], 0,
					 __ATOMIC_SEQ_CST);
		ret = ioasid_free(t->fd, count, ids);
		if (ret) {
			t->failed = ret;
			break;
		}
	}
	return NULL;
}

#define NR_TAKERS 4
#define NR_ROUNDS 60

TEST_F(ioasid, threads_never_share_a_number)
{
	__u32 base = find_range(_metadata, self->fd, 8);
	unsigned char *held = map_shared(page_size);
	struct taker takers[NR_TAKERS];
	pthread_t threads[NR_TAKERS];
	int i;

	ASSERT_TRUE(held != NULL);
	for (i = 0; i < NR_TAKERS; i++) {
		takers[i] = (struct taker){ .fd = self->fd, .held = held,
					    .rounds = NR_ROUNDS, .min = base,
					    .max = base + 7 };
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, take_and_free,
					    &takers[i]));
	}
	for (i = 0; i < NR_TAKERS; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, takers[i].failed);
	}
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 0, 0);
}

TEST_F(ioasid, processes_never_share_a_number)
{
	__u32 base = find_range(_metadata, self->fd, 8);
	unsigned char *held = map_shared(page_size);
	pid_t pids[2];
	int i;

	ASSERT_TRUE(held != NULL);
	for (i = 0; i < 2; i++) {
		pids[i] = fork();
		ASSERT_LE(0, pids[i]);
		if (!pids[i]) {
			struct taker taker = {
				.fd = ioasid_open(), .held = held,
				.rounds = NR_ROUNDS, .min = base,
				.max = base + 7,
			};

			ASSERT_LE(0, taker.fd);
			take_and_free(&taker);
			EXPECT_EQ(0, taker.failed);
			_exit(0);
		}
	}
	for (i = 0; i < 2; i++)
		wait_child(pids[i]);
}

/* Two threads free the same numbers: exactly one must succeed for each */
static void *free_all(void *arg)
{
	struct taker *t = arg;
	__u32 id;

	for (id = t->min; id <= t->max; id++)
		if (!ioasid_free(t->fd, 1, &id))
			t->rounds++;
	return NULL;
}

TEST_F(ioasid, threads_never_both_free_a_number)
{
	const int count = 64;
	__u32 base = find_range(_metadata, self->fd, count);
	struct taker takers[2];
	pthread_t threads[2];
	__u32 ids[64];
	int i, round;

	for (round = 0; round < 5; round++) {
		test_cmd_alloc(self->fd, base, base + count - 1, count, ids);
		for (i = 0; i < 2; i++) {
			takers[i] = (struct taker){ .fd = self->fd,
						    .min = base,
						    .max = base + count - 1 };
			ASSERT_EQ(0, pthread_create(&threads[i], NULL,
						    free_all, &takers[i]));
		}
		for (i = 0; i < 2; i++)
			ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(count, takers[0].rounds + takers[1].rounds);
	}
	EXPECT_TRUE(ioasid_wait_none_parked(self->fd));
	test_in_use(self->fd, 0, 0);
}

/*
 * The 32-bit program tests the compat entry points. Leave out slow tests of
 * behaviour that does not depend on them; the 64-bit program runs these.
 */
static int run_32(char *name)
{
	static char *const without[] = {
		"large_calls_are_all_or_nothing",
		"fatal_signal_ends_a_huge_alloc_and_leaves_nothing",
		"fatal_signal_in_a_huge_free_frees_all_or_nothing",
		"fdinfo_of_many_numbers_is_bounded",
		"no_process_inherits_the_set_of_a_dead_one",
		"quota_comes_back_with_every_number",
		"freed_number_without_users_can_be_had_again_at_once",
		"freed_number_of_exited_process_can_be_had_at_once",
		"processes_never_share_a_number",
		"threads_never_share_a_number",
		"threads_never_both_free_a_number",
	};
	char *argv[1 + 2 * ARRAY_LEN(without) + 1] = { name };
	int argc = 1, i;

	for (i = 0; i < ARRAY_LEN(without); i++) {
		argv[argc++] = "-T";
		argv[argc++] = without[i];
	}
	return test_harness_run(argc, argv);
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "--exec-child"))
		return exec_child(argc, argv);
	if (argc == 2 && !strcmp(argv[1], "--take-ten"))
		return -take_ten();
	if (argc == 1 && sizeof(long) == 4)
		return run_32(argv[0]);
	return test_harness_run(argc, argv);
}

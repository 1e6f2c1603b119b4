// SPDX-License-Identifier: GPL-2.0-only
/*
 * A virtual machine holds IOASIDs: every documented error of the KVM device,
 * that errors change nothing, and how long references are held.
 *
 * No device is needed: effects on DMA and the order of teardown are tested by
 * ioasid_teardown.
 */
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "ioasid_fixture.h"

#define MAX_PASID 0xfffffU
#define NR_IDS 4

/* One VM with the device, and some IOASIDs without users */
FIXTURE(kvm)
{
	int fd;
	__u32 ids[NR_IDS];
	struct kvm_vm vm;
	int dev;
};

FIXTURE_SETUP(kvm)
{
	skip_for(setup_vm(_metadata, &self->vm));
	self->dev = self->vm.dev;
	self->fd = ioasid_open();
	ASSERT_LE(0, self->fd);
	test_cmd_alloc(self->fd, 0, 0, NR_IDS, self->ids);
}

FIXTURE_TEARDOWN(kvm)
{
	vm_close(&self->vm);
	close(self->fd);
}

static int map_users(int fd, __u32 id)
{
	struct ioasid_query query;
	int ret = ioasid_query(fd, id, &query);

	return ret ? ret : (int)query.users;
}

#define expect_users(users, fd, id) EXPECT_EQ(users, map_users(fd, id))

/* A reference is dropped a grace period after the mapping is removed */
#define wait_users(_users, _fd, _id) do {				\
	int __users = _users;						\
									\
	wait_until(map_users(_fd, _id) == __users);			\
	expect_users(__users, _fd, _id);				\
} while (0)

/* Same, for the last reference to an IOASID that was freed */
#define wait_free(_fd, _id) do {					\
	EXPECT_TRUE(ioasid_wait_recycled(_fd, _id));			\
	expect_free(_fd, _id);						\
} while (0)

#define expect_state(state, fd, id) EXPECT_EQ((int)(state), ioasid_state(fd, id))

/* Check the debugfs row of an IOASID that is held only by VMs */
#define expect_row(_id, _state, _users) do {				\
	struct ioasid_row __row = {};					\
	char __holders[32];						\
									\
	snprintf(__holders, sizeof(__holders), "kvm=%u", _users);	\
	ASSERT_EQ(0, debugfs_ioasid(_id, &__row));			\
	EXPECT_STREQ(_state, __row.state);				\
	EXPECT_EQ(_users, __row.users);					\
	EXPECT_EQ(0, __row.attachments);				\
	EXPECT_STREQ((_users) ? __holders : "-", __row.holders);	\
} while (0)

/* A mapping as returned by GET */
#define ENTRY(_guest_pasid, _id, _state)				\
	((struct kvm_ioasid_entry){					\
		.guest_pasid = _guest_pasid,				\
		.id = _id,						\
		.state = IOASID_STATE_##_state,				\
	})

#define MAX_ENTRIES 256

/* The device has exactly these mappings */
static void expect_entries(struct __test_metadata *_metadata, int dev,
			   const struct kvm_ioasid_entry *entries, __u32 wanted)
{
	struct kvm_ioasid_entry found[MAX_ENTRIES];
	__u32 i, count = MAX_ENTRIES;

	memset(found, 0xff, sizeof(found));
	test_cmd_map_get(dev, 0, &count, found);
	ASSERT_EQ(wanted, count);
	for (i = 0; i < count; i++) {
		EXPECT_EQ(entries[i].guest_pasid, found[i].guest_pasid);
		EXPECT_EQ(entries[i].id, found[i].id);
		EXPECT_EQ(entries[i].state, found[i].state);
		EXPECT_EQ(0, found[i].__reserved);
	}
}

#define expect_map(dev, ...) do {					\
	const struct kvm_ioasid_entry __map[] = { __VA_ARGS__ };	\
									\
	expect_entries(_metadata, dev, __map, ARRAY_LEN(__map));	\
} while (0)

#define expect_empty_map(dev) expect_entries(_metadata, dev, NULL, 0)

/* Creating the device */

TEST_F(kvm, abi_is_as_documented)
{
	EXPECT_EQ(17, KVM_DEV_TYPE_IOASID);
	EXPECT_EQ(1, KVM_DEV_IOASID_MAP);
	EXPECT_EQ(1, KVM_DEV_IOASID_MAP_ADD);
	EXPECT_EQ(2, KVM_DEV_IOASID_MAP_DEL);
	EXPECT_EQ(3, KVM_DEV_IOASID_MAP_CLEAR);
	EXPECT_EQ(4, KVM_DEV_IOASID_MAP_GET);
	EXPECT_EQ(1, KVM_IOASID_MAP_REPLACE);

	EXPECT_EQ(24, sizeof(struct kvm_ioasid_map));
	EXPECT_EQ(0, offsetof(struct kvm_ioasid_map, flags));
	EXPECT_EQ(4, offsetof(struct kvm_ioasid_map, fd));
	EXPECT_EQ(8, offsetof(struct kvm_ioasid_map, id));
	EXPECT_EQ(12, offsetof(struct kvm_ioasid_map, guest_pasid));
	EXPECT_EQ(16, offsetof(struct kvm_ioasid_map, __reserved));

	EXPECT_EQ(24, sizeof(struct kvm_ioasid_list));
	EXPECT_EQ(0, offsetof(struct kvm_ioasid_list, flags));
	EXPECT_EQ(4, offsetof(struct kvm_ioasid_list, start));
	EXPECT_EQ(8, offsetof(struct kvm_ioasid_list, count));
	EXPECT_EQ(12, offsetof(struct kvm_ioasid_list, __reserved));
	EXPECT_EQ(16, offsetof(struct kvm_ioasid_list, entries));

	EXPECT_EQ(16, sizeof(struct kvm_ioasid_entry));
	EXPECT_EQ(0, offsetof(struct kvm_ioasid_entry, guest_pasid));
	EXPECT_EQ(4, offsetof(struct kvm_ioasid_entry, id));
	EXPECT_EQ(8, offsetof(struct kvm_ioasid_entry, state));
	EXPECT_EQ(12, offsetof(struct kvm_ioasid_entry, __reserved));
}

TEST_F(kvm, device_type_can_be_tested)
{
	struct kvm_vm vm;
	int i, dev;

	ASSERT_EQ(0, vm_open(&vm));
	/* May be repeated: no device is created */
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, kvm_ioasid_create_flags(vm.vm,
						     KVM_CREATE_DEVICE_TEST));
	dev = kvm_ioasid_create(vm.vm);
	EXPECT_LE(0, dev);
	close(dev);
	vm_close(&vm);
}

TEST_F(kvm, machine_has_one_device)
{
	struct kvm_vm other;

	EXPECT_EQ(-EBUSY, kvm_ioasid_create(self->vm.vm));
	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	EXPECT_EQ(-EBUSY, kvm_ioasid_create(self->vm.vm));
	expect_users(1, self->fd, self->ids[0]);

	ASSERT_EQ(0, vm_open(&other));
	other.dev = kvm_ioasid_create(other.vm);
	EXPECT_LE(0, other.dev);
	vm_close(&other);

	/* The device stays with the VM even after its descriptor is closed */
	vm_close_dev(&self->vm);
	EXPECT_EQ(-EBUSY, kvm_ioasid_create(self->vm.vm));
}

/*
 * KVM creates the device before it allocates a descriptor for it. Set the limit
 * to the lowest free descriptor so that the latter fails.
 */
TEST_F(kvm, device_without_a_descriptor_leaves_nothing)
{
	struct rlimit limit, low;
	struct kvm_vm vm;
	int fd, ret;

	ASSERT_EQ(0, vm_open(&vm));
	fd = dup(vm.vm);
	ASSERT_LE(0, fd);
	close(fd);
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	low = limit;
	low.rlim_cur = fd;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &low));
	ret = kvm_ioasid_create(vm.vm);
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	EXPECT_EQ(-EMFILE, ret);

	/* The VM is unchanged */
	vm.dev = kvm_ioasid_create(vm.vm);
	ASSERT_LE(0, vm.dev);
	EXPECT_EQ(-EBUSY, kvm_ioasid_create(vm.vm));
	test_cmd_map_add(vm.dev, self->fd, self->ids[0], 1);
	expect_map(vm.dev, ENTRY(1, self->ids[0], ACTIVE));
	vm_close(&vm);
	expect_users(0, self->fd, self->ids[0]);
}

TEST_F(kvm, unknown_attributes_are_enxio)
{
	const struct {
		__u32 group;
		__u64 nr;
	} unknown[] = {
		{ KVM_DEV_IOASID_MAP, 0 },
		{ KVM_DEV_IOASID_MAP, KVM_DEV_IOASID_MAP_GET + 1 },
		{ KVM_DEV_IOASID_MAP, -1ULL },
		/* ADD and GET with a bit set above the lower 32 bits */
		{ KVM_DEV_IOASID_MAP, KVM_DEV_IOASID_MAP_ADD | 1ULL << 32 },
		{ KVM_DEV_IOASID_MAP, KVM_DEV_IOASID_MAP_GET | 1ULL << 32 },
		{ KVM_DEV_IOASID_MAP - 1, KVM_DEV_IOASID_MAP_ADD },
		{ KVM_DEV_IOASID_MAP + 1, KVM_DEV_IOASID_MAP_ADD },
		{ KVM_DEV_IOASID_MAP + 1, KVM_DEV_IOASID_MAP_GET },
		{ -1U, KVM_DEV_IOASID_MAP_DEL },
	};
	struct kvm_ioasid_map map = { .fd = self->fd, .id = self->ids[0] };
	__u64 nr;
	int i;

	for (nr = KVM_DEV_IOASID_MAP_ADD; nr <= KVM_DEV_IOASID_MAP_GET; nr++)
		EXPECT_EQ(0, kvm_ioasid_has_attr(self->dev, KVM_DEV_IOASID_MAP,
						 nr));
	for (i = 0; i < ARRAY_LEN(unknown); i++) {
		EXPECT_EQ(-ENXIO, kvm_ioasid_has_attr(self->dev,
						      unknown[i].group,
						      unknown[i].nr));
		EXPECT_EQ(-ENXIO, kvm_ioasid_attr(self->dev,
						  KVM_SET_DEVICE_ATTR,
						  unknown[i].group,
						  unknown[i].nr, &map));
		EXPECT_EQ(-ENXIO, kvm_ioasid_attr(self->dev,
						  KVM_GET_DEVICE_ATTR,
						  unknown[i].group,
						  unknown[i].nr, &map));
	}
	expect_users(0, self->fd, self->ids[0]);
	expect_empty_map(self->dev);
}

TEST_F(kvm, attributes_are_either_set_or_got)
{
	struct kvm_ioasid_entry entry = {};
	struct kvm_ioasid_list list = {
		.count = 1,
		.entries = (uintptr_t)&entry,
	};
	__u64 nr;

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 0);
	for (nr = KVM_DEV_IOASID_MAP_ADD; nr < KVM_DEV_IOASID_MAP_GET; nr++)
		EXPECT_EQ(-ENXIO, kvm_ioasid_attr(self->dev,
						  KVM_GET_DEVICE_ATTR,
						  KVM_DEV_IOASID_MAP, nr,
						  NULL));
	EXPECT_EQ(-ENXIO, kvm_ioasid_attr(self->dev, KVM_SET_DEVICE_ATTR,
					  KVM_DEV_IOASID_MAP,
					  KVM_DEV_IOASID_MAP_GET, &list));
	EXPECT_EQ(0, entry.id);
	expect_map(self->dev, ENTRY(0, self->ids[0], ACTIVE));
}

TEST_F(kvm, other_calls_of_the_device_are_refused)
{
	test_cmd_map_add(self->dev, self->fd, self->ids[0], 0);
	EXPECT_EQ(-1, ioctl(self->dev, KVM_CREATE_VCPU, 0));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_TRUE(mmap(NULL, 4096, PROT_READ, MAP_SHARED, self->dev, 0) ==
		    MAP_FAILED);
	expect_users(1, self->fd, self->ids[0]);
}

/* Mappings */

TEST_F(kvm, mapping_holds_one_reference)
{
	const __u32 id = self->ids[0];
	struct ioasid_query query;

	expect_users(0, self->fd, id);
	expect_row(id, "active", 0);
	test_cmd_map_add(self->dev, self->fd, id, 7);
	test_cmd_query(self->fd, id, &query);
	EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
	EXPECT_EQ(1, query.users);
	EXPECT_EQ(0, query.attachments);
	expect_row(id, "active", 1);

	test_cmd_map_del(self->dev, 7);
	wait_users(0, self->fd, id);
	expect_state(IOASID_STATE_ACTIVE, self->fd, id);
	expect_row(id, "active", 0);

	/* It can be mapped again */
	test_cmd_map_add(self->dev, self->fd, id, 7);
	test_cmd_map_del(self->dev, 7);
	test_err_map_del(ENOENT, self->dev, 7);
	wait_users(0, self->fd, id);
}

TEST_F(kvm, number_may_be_mapped_at_several_guest_pasids)
{
	/* A guest PASID of 0 is valid */
	const __u32 pasids[] = { 0, 1, 2, 4096, MAX_PASID - 1, MAX_PASID };
	const __u32 id = self->ids[0];
	int i;

	for (i = 0; i < ARRAY_LEN(pasids); i++) {
		test_cmd_map_add(self->dev, self->fd, id, pasids[i]);
		expect_users(i + 1, self->fd, id);
	}
	expect_row(id, "active", (unsigned int)ARRAY_LEN(pasids));
	for (i = ARRAY_LEN(pasids); i--;) {
		test_cmd_map_del(self->dev, pasids[i]);
		test_err_map_del(ENOENT, self->dev, pasids[i]);
		wait_users(i, self->fd, id);
	}
}

TEST_F(kvm, machines_do_not_share_guest_pasids)
{
	struct kvm_vm other;

	ASSERT_EQ(0, vm_open(&other));
	other.dev = kvm_ioasid_create(other.vm);
	ASSERT_LE(0, other.dev);
	test_cmd_map_add(self->dev, self->fd, self->ids[0], 5);
	test_err_map_del(ENOENT, other.dev, 5);
	test_cmd_map_add(other.dev, self->fd, self->ids[0], 5);
	expect_users(2, self->fd, self->ids[0]);
	test_cmd_map_add(other.dev, self->fd, self->ids[1], 6);
	test_err_map_del(ENOENT, self->dev, 6);

	/* The mappings of one VM do not depend on the other VM */
	vm_close(&other);
	expect_users(1, self->fd, self->ids[0]);
	expect_users(0, self->fd, self->ids[1]);
	test_cmd_map_del(self->dev, 5);
	wait_users(0, self->fd, self->ids[0]);
}

/* Errors: none changes the mappings */
static void expect_one_mapping(struct __test_metadata *_metadata,
			       FIXTURE_DATA(kvm) *self)
{
	int i;

	/* Only ids[0] is mapped, at 1 */
	for (i = 0; i < NR_IDS; i++) {
		expect_state(IOASID_STATE_ACTIVE, self->fd, self->ids[i]);
		expect_users(!i, self->fd, self->ids[i]);
	}
	test_set_in_use(self->fd, NR_IDS, 0);
	expect_map(self->dev, ENTRY(1, self->ids[0], ACTIVE));
}

#define expect_add_err(_errno, _fd, _id, _pasid) do {			\
	test_err_map_add(_errno, self->dev, _fd, _id, _pasid);		\
	expect_one_mapping(_metadata, self);				\
	test_err_map_replace(_errno, self->dev, _fd, _id, _pasid);	\
	expect_one_mapping(_metadata, self);				\
} while (0)

TEST_F(kvm, add_of_what_is_not_ours_is_refused_and_changes_nothing)
{
	int other = ioasid_open(), pipefd[2], closed;
	__u32 foreign, gone;

	ASSERT_LE(0, other);
	ASSERT_EQ(0, pipe(pipefd));
	closed = ioasid_open();
	ASSERT_LE(0, closed);
	close(closed);
	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	test_cmd_alloc(self->fd, 0, 0, 1, &gone);
	test_cmd_free(self->fd, 1, &gone);
	ASSERT_TRUE(ioasid_wait_recycled(self->fd, gone));

	/* Bad file descriptors */
	expect_add_err(EBADF, -1, self->ids[1], 2);
	expect_add_err(EBADF, -2, self->ids[1], 2);
	expect_add_err(EBADF, 1000, self->ids[1], 2);
	expect_add_err(EBADF, closed, self->ids[1], 2);
	expect_add_err(EBADF, pipefd[0], self->ids[1], 2);
	expect_add_err(EBADF, self->dev, self->ids[1], 2);
	expect_add_err(EBADF, self->vm.vm, self->ids[1], 2);

	/* Bad IOASIDs */
	expect_add_err(ENOENT, other, self->ids[1], 2);
	expect_add_err(ENOENT, self->fd, gone, 2);
	expect_add_err(ENOENT, self->fd, 0, 2);
	expect_add_err(ENOENT, self->fd, MAX_PASID + 1, 2);
	expect_add_err(ENOENT, self->fd, self->ids[1] | 0x80000000, 2);
	test_cmd_alloc(other, 0, 0, 1, &foreign);
	test_err_map_add(ENOENT, self->dev, self->fd, foreign, 2);
	expect_users(0, other, foreign);
	close(other);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	expect_one_mapping(_metadata, self);
}

TEST_F(kvm, guest_pasid_is_mapped_once)
{
	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	test_err_map_add(EEXIST, self->dev, self->fd, self->ids[0], 1);
	expect_one_mapping(_metadata, self);
	test_err_map_add(EEXIST, self->dev, self->fd, self->ids[1], 1);
	expect_one_mapping(_metadata, self);

	test_cmd_map_del(self->dev, 1);
	wait_users(0, self->fd, self->ids[0]);
	test_cmd_map_add(self->dev, self->fd, self->ids[1], 1);
	expect_users(1, self->fd, self->ids[1]);
}

TEST_F(kvm, guest_pasid_out_of_range_is_einval)
{
	const __u32 pasids[] = { MAX_PASID + 1, MAX_PASID + 2, 1U << 31,
				 /* Their lower 20 bits are not mapped */
				 2 | 1 << 20, -1U };
	int i;

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	for (i = 0; i < ARRAY_LEN(pasids); i++) {
		expect_add_err(EINVAL, self->fd, self->ids[1], pasids[i]);
		test_err_map_del(ENOENT, self->dev, pasids[i]);
	}
	/* DEL does not truncate it either */
	test_err_map_del(ENOENT, self->dev, 1 | 1 << 20);
	expect_one_mapping(_metadata, self);
}

TEST_F(kvm, reserved_field_is_eopnotsupp)
{
	struct kvm_ioasid_map map = {
		.fd = self->fd,
		.id = self->ids[1],
		.guest_pasid = 2,
	};

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	for (map.__reserved = 1; map.__reserved; map.__reserved <<= 1) {
		EXPECT_EQ(-EOPNOTSUPP, kvm_ioasid_add_raw(self->dev, &map));
		expect_one_mapping(_metadata, self);
	}
	EXPECT_EQ(0, kvm_ioasid_add_raw(self->dev, &map));
}

TEST_F(kvm, unknown_flags_are_eopnotsupp)
{
	__u32 flag;

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	for (flag = KVM_IOASID_MAP_REPLACE << 1; flag; flag <<= 1) {
		EXPECT_EQ(-EOPNOTSUPP, kvm_ioasid_map(self->dev, flag, self->fd,
						      self->ids[1], 2));
		EXPECT_EQ(-EOPNOTSUPP,
			  kvm_ioasid_map(self->dev,
					 flag | KVM_IOASID_MAP_REPLACE,
					 self->fd, self->ids[1], 1));
		expect_one_mapping(_metadata, self);
	}
}

/* @len zero bytes, directly followed by an unmapped page */
static char *map_before_hole(size_t len)
{
	const size_t page = sysconf(_SC_PAGESIZE);
	char *p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || munmap(p + page, page))
		return NULL;
	return p + page - len;
}

TEST_F(kvm, bad_pointer_is_efault_and_changes_nothing)
{
	struct kvm_ioasid_map map = {
		.fd = self->fd,
		.id = self->ids[1],
		.guest_pasid = 2,
	};
	const __u32 mapped = 1;
	size_t left;
	char *p;

	test_cmd_map_add(self->dev, self->fd, self->ids[0], mapped);
	EXPECT_EQ(-EFAULT, kvm_ioasid_add_raw(self->dev, NULL));
	EXPECT_EQ(-EFAULT, kvm_ioasid_add_raw(self->dev, (void *)-4096));
	EXPECT_EQ(-EFAULT, kvm_ioasid_del_raw(self->dev, NULL));
	EXPECT_EQ(-EFAULT, kvm_ioasid_del_raw(self->dev, (void *)-4096));
	expect_one_mapping(_metadata, self);

	/* Only the first @left bytes are mapped */
	for (left = 0; left < sizeof(map); left++) {
		p = map_before_hole(left);
		ASSERT_TRUE(p != NULL);
		memcpy(p, &map, left);
		EXPECT_EQ(-EFAULT, kvm_ioasid_add_raw(self->dev, p));
		expect_one_mapping(_metadata, self);
	}
	for (left = 0; left < sizeof(mapped); left++) {
		p = map_before_hole(left);
		ASSERT_TRUE(p != NULL);
		memcpy(p, &mapped, left);
		EXPECT_EQ(-EFAULT, kvm_ioasid_del_raw(self->dev, p));
		expect_one_mapping(_metadata, self);
	}

	/* No byte beyond the struct is read */
	p = map_before_hole(sizeof(map));
	ASSERT_TRUE(p != NULL);
	memcpy(p, &map, sizeof(map));
	EXPECT_EQ(0, kvm_ioasid_add_raw(self->dev, p));
	p = map_before_hole(sizeof(mapped));
	ASSERT_TRUE(p != NULL);
	memcpy(p, &mapped, sizeof(mapped));
	EXPECT_EQ(0, kvm_ioasid_del_raw(self->dev, p));
	wait_users(0, self->fd, self->ids[0]);
	expect_users(1, self->fd, self->ids[1]);
}

/* Invariant users-keep */
TEST_F(kvm, parked_number_gives_out_no_new_mapping)
{
	const __u32 id = self->ids[0];

	test_cmd_map_add(self->dev, self->fd, id, 1);
	test_cmd_free(self->fd, 1, &id);
	expect_users(1, self->fd, id);
	test_err_map_add(ESHUTDOWN, self->dev, self->fd, id, 2);
	test_err_map_replace(ESHUTDOWN, self->dev, self->fd, id, 2);
	/* Not even for the guest PASID that it is already mapped at */
	test_err_map_replace(ESHUTDOWN, self->dev, self->fd, id, 1);
	expect_users(1, self->fd, id);
	expect_map(self->dev, ENTRY(1, id, PARKED));
	expect_row(id, "parked", 1);

	test_cmd_map_del(self->dev, 1);
	EXPECT_TRUE(ioasid_wait_recycled(self->fd, id));
	test_err_map_add(ENOENT, self->dev, self->fd, id, 1);
}

TEST_F(kvm, another_process_cannot_use_the_device)
{
	struct kvm_ioasid_entry entry;
	__u32 id = self->ids[1];
	__u32 count = 1;
	int status;
	pid_t pid;

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		test_err_map_add(EIO, self->dev, self->fd, id, 2);
		test_err_map_replace(EIO, self->dev, self->fd, id, 1);
		test_err_map_del(EIO, self->dev, 1);
		test_err_map_clear(EIO, self->dev, NULL);
		EXPECT_EQ(-EIO, kvm_ioasid_get(self->dev, 0, &count, &entry));
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	expect_one_mapping(_metadata, self);
}

/* Replace */

TEST_F(kvm, replace_swaps_the_reference)
{
	const __u32 *ids = self->ids;

	test_cmd_map_add(self->dev, self->fd, ids[0], 1);
	test_cmd_map_add(self->dev, self->fd, ids[2], 2);
	test_cmd_map_replace(self->dev, self->fd, ids[1], 1);
	expect_map(self->dev, ENTRY(1, ids[1], ACTIVE),
		   ENTRY(2, ids[2], ACTIVE));
	wait_users(0, self->fd, ids[0]);
	expect_users(1, self->fd, ids[1]);
	expect_users(1, self->fd, ids[2]);

	/* Replace it with itself */
	test_cmd_map_replace(self->dev, self->fd, ids[1], 1);
	wait_users(1, self->fd, ids[1]);
	expect_map(self->dev, ENTRY(1, ids[1], ACTIVE),
		   ENTRY(2, ids[2], ACTIVE));

	test_cmd_map_del(self->dev, 1);
	wait_users(0, self->fd, ids[1]);
	expect_map(self->dev, ENTRY(2, ids[2], ACTIVE));
}

TEST_F(kvm, replace_adds_what_is_not_mapped)
{
	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	test_cmd_map_replace(self->dev, self->fd, self->ids[1], 0);
	test_cmd_map_replace(self->dev, self->fd, self->ids[1], MAX_PASID);
	expect_map(self->dev, ENTRY(0, self->ids[1], ACTIVE),
		   ENTRY(1, self->ids[0], ACTIVE),
		   ENTRY(MAX_PASID, self->ids[1], ACTIVE));
	expect_users(2, self->fd, self->ids[1]);
}

TEST_F(kvm, replace_releases_a_parked_number)
{
	const __u32 id = self->ids[0];

	test_cmd_map_add(self->dev, self->fd, id, 1);
	test_cmd_free(self->fd, 1, &id);
	expect_taken(self->fd, id);
	test_cmd_map_replace(self->dev, self->fd, self->ids[1], 1);
	expect_map(self->dev, ENTRY(1, self->ids[1], ACTIVE));
	wait_free(self->fd, id);
	test_set_in_use(self->fd, NR_IDS - 1, 0);
}

TEST_F(kvm, failed_replace_leaves_the_old_mapping)
{
	struct kvm_ioasid_map map = {
		.flags = KVM_IOASID_MAP_REPLACE,
		.fd = self->fd,
		.id = self->ids[1],
		.guest_pasid = 1,
		.__reserved = 1,
	};
	int other = ioasid_open();
	__u32 foreign;

	ASSERT_LE(0, other);
	test_cmd_alloc(other, 0, 0, 1, &foreign);
	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);

	test_err_map_replace(EBADF, self->dev, -1, self->ids[1], 1);
	test_err_map_replace(EBADF, self->dev, self->dev, self->ids[1], 1);
	test_err_map_replace(ENOENT, self->dev, self->fd, foreign, 1);
	test_err_map_replace(ENOENT, self->dev, other, self->ids[1], 1);
	test_err_map_replace(ENOENT, self->dev, self->fd, 0, 1);
	test_err_map_replace(EINVAL, self->dev, self->fd, self->ids[1],
			     1 | 1 << 20);
	EXPECT_EQ(-EOPNOTSUPP, kvm_ioasid_add_raw(self->dev, &map));
	expect_users(0, other, foreign);
	close(other);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	expect_one_mapping(_metadata, self);
}

/* Clear */

TEST_F(kvm, clear_deletes_all_mappings_of_the_machine)
{
	struct kvm_vm other;
	__u32 i;

	ASSERT_EQ(0, vm_open(&other));
	other.dev = kvm_ioasid_create(other.vm);
	ASSERT_LE(0, other.dev);
	test_cmd_map_add(other.dev, self->fd, self->ids[0], 5);

	/* Without any mapping */
	test_cmd_map_clear(self->dev);
	for (i = 0; i < 100; i++)
		test_cmd_map_add(self->dev, self->fd, self->ids[i % 3],
				 i * 10007);
	test_cmd_map_add(self->dev, self->fd, self->ids[0], MAX_PASID);
	test_cmd_free(self->fd, 1, &self->ids[2]);
	test_cmd_map_clear(self->dev);
	expect_empty_map(self->dev);
	wait_users(1, self->fd, self->ids[0]);
	wait_users(0, self->fd, self->ids[1]);
	wait_free(self->fd, self->ids[2]);
	expect_map(other.dev, ENTRY(5, self->ids[0], ACTIVE));

	/* The device still works */
	test_err_map_del(ENOENT, self->dev, MAX_PASID);
	test_cmd_map_add(self->dev, self->fd, self->ids[0], 5);
	test_cmd_map_add(self->dev, self->fd, self->ids[1], MAX_PASID);
	expect_map(self->dev, ENTRY(5, self->ids[0], ACTIVE),
		   ENTRY(MAX_PASID, self->ids[1], ACTIVE));
	vm_close(&other);
}

TEST_F(kvm, clear_with_an_address_is_einval_and_changes_nothing)
{
	const void *const addrs[] = { (void *)1, &self->ids, (void *)-1L };
	int i;

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	for (i = 0; i < ARRAY_LEN(addrs); i++) {
		test_err_map_clear(EINVAL, self->dev, addrs[i]);
		expect_one_mapping(_metadata, self);
	}
}

/* Get */

/* More than the kernel copies in one batch, spread over the whole range */
#define NR_MAPPED 70

static __u32 mapped_pasid(__u32 i)
{
	return i == NR_MAPPED - 1 ? MAX_PASID : i * i * 211;
}

static void map_many(struct __test_metadata *_metadata, FIXTURE_DATA(kvm) *self,
		     struct kvm_ioasid_entry *entries)
{
	__u32 i;

	/* Add them in an order other than the listed one */
	for (i = NR_MAPPED; i--;) {
		entries[i] = ENTRY(mapped_pasid(i), self->ids[i % 2], ACTIVE);
		test_cmd_map_add(self->dev, self->fd, entries[i].id,
				 entries[i].guest_pasid);
	}
}

TEST_F(kvm, get_lists_all_mappings_in_order)
{
	struct kvm_ioasid_entry entries[NR_MAPPED];
	__u32 i;

	expect_empty_map(self->dev);
	map_many(_metadata, self, entries);
	expect_entries(_metadata, self->dev, entries, NR_MAPPED);

	test_cmd_free(self->fd, 1, &self->ids[1]);
	for (i = 1; i < NR_MAPPED; i += 2)
		entries[i].state = IOASID_STATE_PARKED;
	expect_entries(_metadata, self->dev, entries, NR_MAPPED);

	/* Listing took no references */
	expect_users(NR_MAPPED / 2, self->fd, self->ids[0]);
	expect_users(NR_MAPPED / 2, self->fd, self->ids[1]);
}

TEST_F(kvm, get_lists_in_pages)
{
	static const __u32 sizes[] = {
		1, 2, 15, 16, 17, 31, 32, 33, NR_MAPPED - 1, NR_MAPPED,
		NR_MAPPED + 1,
	};
	struct kvm_ioasid_entry entries[NR_MAPPED], page[NR_MAPPED + 2];
	__u32 i, k, count, start, seen;

	map_many(_metadata, self, entries);
	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		start = 0;
		seen = 0;
		do {
			memset(page, 0xff, sizeof(page));
			count = sizes[i];
			test_cmd_map_get(self->dev, start, &count, page);
			ASSERT_LE(count, sizes[i]);
			ASSERT_LE(seen + count, NR_MAPPED);
			EXPECT_EQ(0, memcmp(page, entries + seen,
					    count * sizeof(*page)));
			/* Nothing was written beyond them */
			for (k = count; k < ARRAY_LEN(page); k++)
				EXPECT_EQ(-1U, page[k].guest_pasid);
			seen += count;
			if (count)
				start = page[count - 1].guest_pasid + 1;
		} while (count == sizes[i]);
		EXPECT_EQ(NR_MAPPED, seen);
	}
}

TEST_F(kvm, get_starts_where_it_is_told)
{
	struct kvm_ioasid_entry entries[NR_MAPPED], page[NR_MAPPED];
	__u32 i, count;

	map_many(_metadata, self, entries);
	for (i = 0; i < NR_MAPPED; i++) {
		count = 1;
		test_cmd_map_get(self->dev, entries[i].guest_pasid, &count,
				 page);
		EXPECT_EQ(1, count);
		EXPECT_EQ(entries[i].guest_pasid, page[0].guest_pasid);

		count = NR_MAPPED;
		test_cmd_map_get(self->dev, entries[i].guest_pasid + 1, &count,
				 page);
		EXPECT_EQ(NR_MAPPED - 1 - i, count);
		EXPECT_EQ(0, memcmp(page, entries + i + 1,
				    count * sizeof(*page)));
	}
	/* Above the largest guest PASID */
	count = 1;
	test_cmd_map_get(self->dev, -1U, &count, page);
	EXPECT_EQ(0, count);
}

TEST_F(kvm, get_writes_only_the_count_of_its_struct)
{
	struct kvm_ioasid_entry entry;
	struct kvm_ioasid_list list = {
		.start = 1,
		.count = 2,
		.entries = (uintptr_t)&entry,
	};

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	ASSERT_EQ(0, kvm_ioasid_get_raw(self->dev, &list));
	EXPECT_EQ(0, list.flags);
	EXPECT_EQ(1, list.start);
	EXPECT_EQ(1, list.count);
	EXPECT_EQ(0, list.__reserved);
	EXPECT_EQ((uintptr_t)&entry, list.entries);
}

TEST_F(kvm, get_takes_any_count_but_zero)
{
	struct kvm_ioasid_entry entries[NR_MAPPED];
	struct kvm_ioasid_list list = {};
	__u32 count;
	char *p;

	/* Room for all mappings, but not for @count elements */
	p = map_before_hole(sizeof(entries));
	ASSERT_TRUE(p != NULL);
	map_many(_metadata, self, entries);
	count = -1U;
	test_cmd_map_get(self->dev, 0, &count, (void *)p);
	EXPECT_EQ(NR_MAPPED, count);
	EXPECT_EQ(0, memcmp(p, entries, sizeof(entries)));

	list.entries = (uintptr_t)entries;
	test_err_map_get(EINVAL, self->dev, &list);
	/* Even if there is nothing left to list */
	list.start = -1U;
	test_err_map_get(EINVAL, self->dev, &list);
	expect_entries(_metadata, self->dev, entries, NR_MAPPED);
}

TEST_F(kvm, get_with_flags_or_reserved_is_eopnotsupp)
{
	struct kvm_ioasid_entry entry = {};
	struct kvm_ioasid_list list = {
		.count = 1,
		.entries = (uintptr_t)&entry,
	};

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	for (list.flags = 1; list.flags; list.flags <<= 1)
		test_err_map_get(EOPNOTSUPP, self->dev, &list);
	for (list.__reserved = 1; list.__reserved; list.__reserved <<= 1)
		test_err_map_get(EOPNOTSUPP, self->dev, &list);
	EXPECT_EQ(0, entry.id);
	EXPECT_EQ(1, list.count);
	expect_one_mapping(_metadata, self);
}

TEST_F(kvm, get_to_a_bad_pointer_is_efault_and_changes_nothing)
{
	struct kvm_ioasid_entry entries[NR_MAPPED];
	struct kvm_ioasid_list list = {
		.count = NR_MAPPED,
		.entries = (uintptr_t)entries,
	};
	const size_t page = sysconf(_SC_PAGESIZE);
	size_t left;
	char *p;

	map_many(_metadata, self, entries);
	test_err_map_get(EFAULT, self->dev, NULL);
	test_err_map_get(EFAULT, self->dev, (void *)-4096);

	/* Only the first @left bytes of the struct are mapped */
	for (left = 0; left < sizeof(list); left++) {
		p = map_before_hole(left);
		ASSERT_TRUE(p != NULL);
		memcpy(p, &list, left);
		test_err_map_get(EFAULT, self->dev, p);
	}
	p = map_before_hole(sizeof(list));
	ASSERT_TRUE(p != NULL);
	memcpy(p, &list, sizeof(list));
	EXPECT_EQ(0, kvm_ioasid_get_raw(self->dev, p));

	/* Readable, but not writable */
	p = map_before_hole(page);
	ASSERT_TRUE(p != NULL);
	memcpy(p, &list, sizeof(list));
	ASSERT_EQ(0, mprotect(p, page, PROT_READ));
	test_err_map_get(EFAULT, self->dev, p);

	/* Bad arrays: invalid pointers; last byte or last element unmapped */
	list.entries = 0;
	test_err_map_get(EFAULT, self->dev, &list);
	list.entries = -4096ULL;
	test_err_map_get(EFAULT, self->dev, &list);
	p = map_before_hole(sizeof(entries));
	ASSERT_TRUE(p != NULL);
	list.entries = (uintptr_t)p;
	EXPECT_EQ(0, kvm_ioasid_get_raw(self->dev, &list));
	list.entries++;
	test_err_map_get(EFAULT, self->dev, &list);
	list.entries = (uintptr_t)p + sizeof(entries[0]);
	test_err_map_get(EFAULT, self->dev, &list);
	/* The caller's count is unchanged */
	EXPECT_EQ(NR_MAPPED, list.count);
	/* The array holds one element less */
	list.count = NR_MAPPED - 1;
	EXPECT_EQ(0, kvm_ioasid_get_raw(self->dev, &list));

	expect_entries(_metadata, self->dev, entries, NR_MAPPED);
	expect_users(NR_MAPPED / 2, self->fd, self->ids[0]);
}

/* Lifetime of references */

TEST_F(kvm, mapping_outlives_the_free_of_its_number)
{
	const __u32 id = self->ids[0];
	char path[64], text[4096], line[64];

	test_cmd_map_add(self->dev, self->fd, id, 1);
	test_cmd_map_add(self->dev, self->fd, id, 2);
	test_cmd_free(self->fd, 1, &id);
	expect_state(IOASID_STATE_PARKED, self->fd, id);
	expect_users(2, self->fd, id);
	expect_taken(self->fd, id);
	test_set_in_use(self->fd, NR_IDS - 1, 1);
	expect_row(id, "parked", 2);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", self->fd);
	ASSERT_EQ(0, pdma_read_file(path, text, sizeof(text)));
	snprintf(line, sizeof(line), "\nioasid-parked-users:\t%u kvm=2", id);
	EXPECT_TRUE(!!strstr(text, line)) TH_LOG("%s", text);

	test_cmd_map_del(self->dev, 1);
	wait_users(1, self->fd, id);
	expect_taken(self->fd, id);
	test_cmd_map_del(self->dev, 2);
	wait_free(self->fd, id);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, NR_IDS - 1, 0);
}

TEST_F(kvm, mapping_outlives_the_owner)
{
	int owner = ioasid_open();
	__u32 id;

	ASSERT_LE(0, owner);
	test_cmd_alloc(owner, 0, 0, 1, &id);
	test_cmd_map_add(self->dev, owner, id, 1);
	close(owner);
	expect_taken(self->fd, id);
	expect_row(id, "parked", 1);
	test_set_in_use(self->fd, NR_IDS, 1);

	vm_close(&self->vm);
	expect_free(self->fd, id);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, NR_IDS, 0);
}

TEST_F(kvm, end_of_the_machine_leaves_the_owner_alone)
{
	int i;

	for (i = 0; i < NR_IDS; i++)
		test_cmd_map_add(self->dev, self->fd, self->ids[i], i);
	vm_close(&self->vm);
	for (i = 0; i < NR_IDS; i++) {
		expect_state(IOASID_STATE_ACTIVE, self->fd, self->ids[i]);
		expect_users(0, self->fd, self->ids[i]);
	}
	test_set_in_use(self->fd, NR_IDS, 0);
}

TEST_F(kvm, close_of_the_device_changes_nothing)
{
	const __u32 id = self->ids[0];

	test_cmd_map_add(self->dev, self->fd, id, 1);
	vm_close_dev(&self->vm);
	expect_users(1, self->fd, id);
	expect_row(id, "active", 1);
	test_cmd_free(self->fd, 1, &id);
	expect_users(1, self->fd, id);
	expect_taken(self->fd, id);

	vm_close(&self->vm);
	expect_free(self->fd, id);
}

/* The descriptors that keep a VM alive, closed in every order */
enum vm_fd { VM_FD, VCPU_FD, DEV_FD, NR_VM_FDS };

static void close_vm_fd(struct kvm_vm *vm, enum vm_fd which)
{
	switch (which) {
	case VM_FD:
		vm_close_vm(vm);
		break;
	case VCPU_FD:
		vm_close_vcpu(vm);
		break;
	default:
		vm_close_dev(vm);
	}
}

TEST_F(kvm, machine_lives_until_its_last_descriptor)
{
	static const enum vm_fd orders[][NR_VM_FDS] = {
		{ VM_FD, VCPU_FD, DEV_FD }, { VM_FD, DEV_FD, VCPU_FD },
		{ VCPU_FD, VM_FD, DEV_FD }, { VCPU_FD, DEV_FD, VM_FD },
		{ DEV_FD, VM_FD, VCPU_FD }, { DEV_FD, VCPU_FD, VM_FD },
	};
	struct kvm_vm *vm = &self->vm;
	__u32 id[2];
	int i, k;

	for (i = 0; i < ARRAY_LEN(orders); i++) {
		vm_close(vm);
		ASSERT_EQ(0, vm_open(vm));
		vm->dev = kvm_ioasid_create(vm->vm);
		ASSERT_LE(0, vm->dev);
		/* One parked, one active */
		test_cmd_alloc(self->fd, 0, 0, 2, id);
		for (k = 0; k < 2; k++)
			test_cmd_map_add(vm->dev, self->fd, id[k], k);
		ASSERT_EQ(0, vm_start(vm));
		ASSERT_TRUE(vm_counts(vm));
		test_cmd_free(self->fd, 1, id);

		for (k = 0; k < NR_VM_FDS; k++) {
			expect_users(1, self->fd, id[0]);
			expect_users(1, self->fd, id[1]);
			expect_taken(self->fd, id[0]);
			if (vm->vcpu >= 0)
				EXPECT_TRUE(vm_counts(vm));
			close_vm_fd(vm, orders[i][k]);
			EXPECT_EQ(0, vm->error);
		}
		expect_free(self->fd, id[0]);
		expect_users(0, self->fd, id[1]);
		expect_state(IOASID_STATE_ACTIVE, self->fd, id[1]);
		test_cmd_free(self->fd, 1, &id[1]);
	}
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, NR_IDS, 0);
}

/* All descriptors are closed, but the mapping of the vCPU still counts */
TEST_F(kvm, mapped_cpu_keeps_the_machine)
{
	struct kvm_vm *vm = &self->vm;

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 1);
	vm_close_dev(vm);
	vm_close_vm(vm);
	close(vm->vcpu);
	vm->vcpu = -1;
	expect_users(1, self->fd, self->ids[0]);
	vm_close_vcpu(vm);
	expect_users(0, self->fd, self->ids[0]);
}

TEST_F(kvm, guest_runs_before_while_and_after_its_number_is_parked)
{
	const __u32 id = self->ids[0];
	int i, owner = ioasid_open();
	__u32 others[16];

	ASSERT_LE(0, owner);
	ASSERT_EQ(0, vm_start(&self->vm));
	EXPECT_TRUE(vm_counts(&self->vm));
	test_cmd_map_add(self->dev, self->fd, id, 1);
	EXPECT_TRUE(vm_counts(&self->vm));

	test_cmd_free(self->fd, 1, &id);
	EXPECT_TRUE(vm_counts(&self->vm));
	expect_users(1, self->fd, id);

	/* Park many at once by closing the file */
	test_cmd_alloc(owner, 0, 0, ARRAY_LEN(others), others);
	for (i = 0; i < ARRAY_LEN(others); i++)
		test_cmd_map_add(self->dev, owner, others[i], 100 + i);
	close(owner);
	EXPECT_TRUE(vm_counts(&self->vm));
	test_set_in_use(self->fd, NR_IDS - 1, 1 + ARRAY_LEN(others));

	for (i = 0; i < ARRAY_LEN(others); i++)
		test_cmd_map_del(self->dev, 100 + i);
	test_cmd_map_del(self->dev, 1);
	wait_free(self->fd, id);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	EXPECT_TRUE(vm_counts(&self->vm));

	/* The guest kept running: it still reacts */
	__atomic_store_n(&vm_data(&self->vm)->stop, 1, __ATOMIC_RELAXED);
	EXPECT_EQ(0, vm_join(&self->vm));
	EXPECT_EQ(KVM_EXIT_HLT, self->vm.run->exit_reason);
}

/* Park must not depend on a vCPU that never exits on its own */
TEST_F(kvm, park_does_not_wait_for_the_guest)
{
	const __u32 id = self->ids[0];

	vm_data(&self->vm)->burst = 0;
	ASSERT_EQ(0, vm_start(&self->vm));
	EXPECT_TRUE(vm_counts(&self->vm));
	test_cmd_map_add(self->dev, self->fd, id, 1);
	test_cmd_free(self->fd, 1, &id);
	test_cmd_map_add(self->dev, self->fd, self->ids[1], 2);
	expect_users(1, self->fd, id);
	test_cmd_map_del(self->dev, 1);
	wait_free(self->fd, id);
	EXPECT_TRUE(vm_counts(&self->vm));
	EXPECT_EQ(0, vm_stop(&self->vm));
	EXPECT_NE(KVM_EXIT_IO, self->vm.run->exit_reason);
}

/* Runs in a child until killed. @shared[0] is 1 when ready, else -errno. */
static void own_all(volatile __u32 *shared)
{
	int fd = ioasid_open(), ret, i;
	__u32 ids[NR_IDS];
	struct kvm_vm vm;

	ret = ioasid_alloc(fd, 0, 0, NR_IDS, ids);
	if (!ret)
		ret = vm_open(&vm);
	if (!ret) {
		vm.dev = kvm_ioasid_create(vm.vm);
		ret = vm.dev < 0 ? vm.dev : 0;
	}
	for (i = 0; !ret && i < NR_IDS; i++) {
		shared[1 + i] = ids[i];
		ret = kvm_ioasid_add(vm.dev, fd, ids[i], i);
	}
	/* One is already PARKED */
	if (!ret)
		ret = ioasid_free(fd, 1, ids);
	if (!ret)
		ret = vm_start(&vm);
	if (!ret && !vm_counts(&vm))
		ret = -ETIMEDOUT;
	*shared = ret ? ret : 1;
	pause();
	_exit(1);
}

TEST_F(kvm, killed_process_leaves_nothing)
{
	volatile __u32 *shared = map_shared(sizeof(*shared));
	int i, round;
	pid_t pid;

	ASSERT_TRUE(shared != NULL);
	for (round = 0; round < 3; round++) {
		*shared = 0;
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			own_all(shared);
		ASSERT_TRUE(wait_until(*shared));
		ASSERT_EQ(1, (int)*shared);
		for (i = 0; i < NR_IDS; i++)
			expect_row(shared[1 + i], i ? "active" : "parked", 1);
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
		for (i = 0; i < NR_IDS; i++)
			expect_free(self->fd, shared[1 + i]);
	}
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, NR_IDS, 0);
}

TEST_F(kvm, fork_keeps_the_machine)
{
	const __u32 id = self->ids[0];
	pid_t pid;

	test_cmd_map_add(self->dev, self->fd, id, 1);
	test_cmd_map_add(self->dev, self->fd, self->ids[1], 2);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		pause();
		_exit(0);
	}
	vm_close(&self->vm);
	expect_users(1, self->fd, id);
	test_cmd_free(self->fd, 1, &id);
	expect_row(id, "parked", 1);
	expect_taken(self->fd, id);

	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	expect_free(self->fd, id);
	expect_users(0, self->fd, self->ids[1]);
}

TEST_F(kvm, many_mappings_end_with_the_machine)
{
	const __u32 count = 4096 - NR_IDS;
	__u32 *ids = calloc(count, sizeof(*ids));
	int owner = ioasid_open();
	__u32 i, got = 0;

	ASSERT_TRUE(ids != NULL);
	ASSERT_LE(0, owner);
	test_cmd_alloc(owner, 0, 0, count, ids);
	/* Adjacent and widely spaced guest PASIDs */
	for (i = 0; i < count; i++)
		test_cmd_map_add(self->dev, owner, ids[i],
				 i % 2 ? i : MAX_PASID - i * 200);
	expect_users(1, owner, ids[count - 1]);
	close(owner);
	test_set_in_use(self->fd, NR_IDS, count);

	/* Unmap one before the VM is destroyed */
	test_cmd_map_del(self->dev, 1);
	EXPECT_TRUE(wait_until(!ioasid_alloc(self->fd, ids[1], ids[1], 1,
					     &got)));
	test_set_in_use(self->fd, NR_IDS + 1, count - 1);
	test_cmd_free(self->fd, 1, &got);

	vm_close(&self->vm);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, NR_IDS, 0);
	expect_free(self->fd, ids[0]);
	expect_free(self->fd, ids[count - 1]);
	free(ids);
}

/* Races */

struct racer {
	int dev;
	int fd;
	__u32 id;
	__u32 guest_pasid;
	int rounds;
	int *go;
	int ret;
	int added, deleted;
	int bad;
};

static void *add_once(void *arg)
{
	struct racer *r = arg;

	while (!__atomic_load_n(r->go, __ATOMIC_ACQUIRE))
		;
	r->ret = kvm_ioasid_add(r->dev, r->fd, r->id, r->guest_pasid);
	return NULL;
}

TEST_F(kvm, add_races_with_free)
{
	int round, added = 0, go;
	volatile int spin;
	pthread_t thread;

	for (round = 0; round < 100; round++) {
		struct racer r = {
			.dev = self->dev, .fd = self->fd, .guest_pasid = 1,
			.go = &go,
		};

		test_cmd_alloc(self->fd, 0, 0, 1, &r.id);
		go = 0;
		ASSERT_EQ(0, pthread_create(&thread, NULL, add_once, &r));
		/* Vary which side gets a head start */
		__atomic_store_n(&go, 1, __ATOMIC_RELEASE);
		for (spin = 0; spin < round % 20 * 300; spin++)
			;
		test_cmd_free(self->fd, 1, &r.id);
		ASSERT_EQ(0, pthread_join(thread, NULL));

		if (r.ret) {
			EXPECT_TRUE(r.ret == -ESHUTDOWN || r.ret == -ENOENT);
			test_err_map_del(ENOENT, self->dev, 1);
		} else {
			added++;
			expect_state(IOASID_STATE_PARKED, self->fd, r.id);
			expect_users(1, self->fd, r.id);
			expect_taken(self->fd, r.id);
			test_cmd_map_del(self->dev, 1);
		}
		wait_free(self->fd, r.id);
	}
	TH_LOG("%d of %d numbers were mapped before they were parked", added,
	       round);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, NR_IDS, 0);
}

#define NR_RACERS 3

TEST_F(kvm, of_two_adds_of_a_guest_pasid_one_wins)
{
	struct racer racers[NR_RACERS];
	pthread_t threads[NR_RACERS];
	int i, go, round, won;

	for (round = 0; round < 50; round++) {
		go = 0;
		for (i = 0; i < NR_RACERS; i++) {
			racers[i] = (struct racer){
				.dev = self->dev, .fd = self->fd,
				.id = self->ids[i], .guest_pasid = 9,
				.go = &go,
			};
			ASSERT_EQ(0, pthread_create(&threads[i], NULL, add_once,
						    &racers[i]));
		}
		__atomic_store_n(&go, 1, __ATOMIC_RELEASE);
		won = 0;
		for (i = 0; i < NR_RACERS; i++) {
			ASSERT_EQ(0, pthread_join(threads[i], NULL));
			EXPECT_TRUE(!racers[i].ret ||
				    racers[i].ret == -EEXIST);
			expect_users(!racers[i].ret, self->fd, self->ids[i]);
			won += !racers[i].ret;
		}
		EXPECT_EQ(1, won);
		test_cmd_map_del(self->dev, 9);
		for (i = 0; i < NR_RACERS; i++)
			wait_users(0, self->fd, self->ids[i]);
	}
}

static void *add_and_del(void *arg)
{
	struct racer *r = arg;
	int i, ret;

	while (!__atomic_load_n(r->go, __ATOMIC_ACQUIRE))
		;
	for (i = 0; i < r->rounds; i++) {
		ret = kvm_ioasid_add(r->dev, r->fd, r->id, r->guest_pasid);
		if (ret && ret != -EEXIST)
			r->bad = ret;
		r->added += !ret;
		ret = kvm_ioasid_del(r->dev, r->guest_pasid);
		if (ret && ret != -ENOENT)
			r->bad = ret;
		r->deleted += !ret;
	}
	return NULL;
}

TEST_F(kvm, add_races_with_del)
{
	struct racer racers[2];
	pthread_t threads[2];
	int i, go = 0;

	for (i = 0; i < 2; i++) {
		racers[i] = (struct racer){
			.dev = self->dev, .fd = self->fd, .id = self->ids[0],
			.guest_pasid = 3, .rounds = times(400), .go = &go,
		};
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, add_and_del,
					    &racers[i]));
	}
	__atomic_store_n(&go, 1, __ATOMIC_RELEASE);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, racers[i].bad);
	}
	/* Each successful ADD was matched by exactly one successful DEL */
	EXPECT_EQ(racers[0].added + racers[1].added,
		  racers[0].deleted + racers[1].deleted);
	EXPECT_LT(0, racers[0].added);
	EXPECT_LT(0, racers[1].added);
	wait_users(0, self->fd, self->ids[0]);
	test_err_map_del(ENOENT, self->dev, 3);
}

static void *replace_often(void *arg)
{
	struct racer *r = arg;
	int ret;

	do {
		ret = kvm_ioasid_replace(r->dev, r->fd, r->id, r->guest_pasid);
		if (ret)
			r->bad = ret;
		__atomic_fetch_add(&r->added, 1, __ATOMIC_RELAXED);
	} while (__atomic_load_n(r->go, __ATOMIC_ACQUIRE));
	return NULL;
}

/* At no time is there no mapping, or more than one */
TEST_F(kvm, replace_is_atomic)
{
	struct kvm_ioasid_entry entries[2];
	struct racer racers[2];
	pthread_t threads[2];
	int i, go = 1, seen[2] = {};
	__u32 count, rounds = 0;

	test_cmd_map_add(self->dev, self->fd, self->ids[0], 3);
	for (i = 0; i < 2; i++) {
		racers[i] = (struct racer){
			.dev = self->dev, .fd = self->fd, .id = self->ids[i],
			.guest_pasid = 3, .go = &go,
		};
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, replace_often,
					    &racers[i]));
	}
	do {
		count = 2;
		EXPECT_EQ(0, kvm_ioasid_get(self->dev, 0, &count, entries));
		EXPECT_EQ(1, count);
		for (i = 0; i < 2; i++)
			seen[i] += entries[0].id == self->ids[i];
		EXPECT_EQ(++rounds, seen[0] + seen[1]);
		test_err_map_add(EEXIST, self->dev, self->fd, self->ids[2], 3);
	} while (rounds < times(2000) || !seen[0] || !seen[1]);
	__atomic_store_n(&go, 0, __ATOMIC_RELEASE);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, racers[i].bad);
	}

	/* The last replacement is mapped, all other references were dropped */
	count = 2;
	test_cmd_map_get(self->dev, 0, &count, entries);
	for (i = 0; i < 2; i++)
		wait_users(entries[0].id == self->ids[i], self->fd,
			   self->ids[i]);
	expect_users(0, self->fd, self->ids[2]);
	test_cmd_map_del(self->dev, 3);
	expect_empty_map(self->dev);
}

static void *change_others(void *arg)
{
	struct racer *r = arg;
	__u32 i;

	while (!__atomic_load_n(r->go, __ATOMIC_ACQUIRE)) {
		for (i = 0; i < NR_MAPPED; i++)
			if (kvm_ioasid_add(r->dev, r->fd, r->id,
					   mapped_pasid(i) ^ 1))
				r->bad++;
		for (i = 0; i < NR_MAPPED; i++)
			if (kvm_ioasid_del(r->dev, mapped_pasid(i) ^ 1))
				r->bad++;
		__atomic_fetch_add(&r->added, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST_F(kvm, get_lists_each_mapping_once_while_others_change)
{
	struct kvm_ioasid_entry entries[NR_MAPPED], page[5];
	__u32 i, count, start, seen, rounds = 0;
	int go = 0;
	struct racer racer = {
		.dev = self->dev, .fd = self->fd, .id = self->ids[3],
		.go = &go,
	};
	pthread_t thread;

	map_many(_metadata, self, entries);
	ASSERT_EQ(0, pthread_create(&thread, NULL, change_others, &racer));
	do {
		start = 0;
		seen = 0;
		do {
			count = ARRAY_LEN(page);
			if (kvm_ioasid_get(self->dev, start, &count, page))
				break;
			for (i = 0; i < count; i++) {
				EXPECT_LE(start, page[i].guest_pasid);
				start = page[i].guest_pasid + 1;
				if (page[i].id == racer.id)
					continue;
				if (seen < NR_MAPPED)
					EXPECT_EQ(entries[seen].guest_pasid,
						  page[i].guest_pasid);
				seen++;
			}
		} while (count == ARRAY_LEN(page));
		EXPECT_EQ(NR_MAPPED, seen);
	} while (++rounds < times(100) ||
		 !__atomic_load_n(&racer.added, __ATOMIC_RELAXED));
	__atomic_store_n(&go, 1, __ATOMIC_RELEASE);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, racer.bad);
	expect_entries(_metadata, self->dev, entries, NR_MAPPED);
	wait_users(0, self->fd, self->ids[3]);
}

static void *create_once(void *arg)
{
	struct racer *r = arg;

	while (!__atomic_load_n(r->go, __ATOMIC_ACQUIRE))
		;
	r->ret = kvm_ioasid_create(r->fd);
	return NULL;
}

TEST_F(kvm, of_two_creations_of_the_device_one_wins)
{
	struct racer racers[2];
	pthread_t threads[2];
	struct kvm_vm vm;
	int i, go, round;

	for (round = 0; round < 5; round++) {
		ASSERT_EQ(0, vm_open(&vm));
		go = 0;
		for (i = 0; i < 2; i++) {
			racers[i] = (struct racer){ .fd = vm.vm, .go = &go };
			ASSERT_EQ(0, pthread_create(&threads[i], NULL,
						    create_once, &racers[i]));
		}
		__atomic_store_n(&go, 1, __ATOMIC_RELEASE);
		for (i = 0; i < 2; i++)
			ASSERT_EQ(0, pthread_join(threads[i], NULL));
		i = racers[0].ret < 0;
		EXPECT_LE(0, racers[i].ret);
		EXPECT_EQ(-EBUSY, racers[!i].ret);
		close(racers[i].ret);
		vm_close(&vm);
	}
}

TEST_HARNESS_MAIN

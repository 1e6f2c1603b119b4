/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A minimal virtual machine, and the KVM device that holds references to
 * IOASIDs for it
 *
 * The machine has a few pages of memory and one vCPU, which increments a
 * counter in that memory: as long as the counter changes, the guest executes
 * code.
 *
 * Functions that can fail return 0, a descriptor, or -errno. The macros need
 * kselftest_harness.h, see ioasid_utils.h.
 */
#ifndef __SELFTEST_IOASID_KVM_UTILS_H
#define __SELFTEST_IOASID_KVM_UTILS_H

#ifndef __x86_64__
#error The code of the guest is that of x86
#endif

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <linux/kvm.h>

#include "ioasid_utils.h"

/* Guest physical addresses, below 64 KiB as the guest stays in real mode */
#define VM_MEM_LEN	0x4000
#define VM_CODE		0x1000
#define VM_DATA		0x2000
#define VM_PORT		0x10

/* Increments per burst, and the pause between bursts */
#define VM_BURST	200
#define VM_PAUSE_US	2000

/* At VM_DATA, shared with the guest */
struct vm_data {
	__u32 counter;
	__u32 stop;		/* if not 0, the guest halts */
	__u32 burst;		/* 0: 2^32, i.e. practically forever */
};

struct kvm_vm {
	int vm;
	int vcpu;
	int dev;		/* the KVM device for IOASIDs, or -1 */
	char *mem;
	struct kvm_run *run;
	size_t run_len;
	pthread_t thread;
	bool running;		/* @thread must be joined */
	int error;		/* valid after the join */
};

static const unsigned char vm_code[] = {
	/* burst: */
	0x66, 0x8b, 0x0e, 0x08, 0x20,	/* mov ecx, [VM_DATA + 8] */
	/* next: */
	0x66, 0xff, 0x06, 0x00, 0x20,	/* inc dword [VM_DATA] */
	0x80, 0x3e, 0x04, 0x20, 0x00,	/* cmp byte [VM_DATA + 4], 0 */
	0x75, 0x08,			/* jne halt */
	0x66, 0x49,			/* dec ecx */
	0x75, 0xf0,			/* jnz next */
	0xe6, VM_PORT,			/* out VM_PORT, al */
	0xeb, 0xe7,			/* jmp burst */
	/* halt: */
	0xf4,				/* hlt */
};

static inline struct vm_data *vm_data(struct kvm_vm *vm)
{
	return (struct vm_data *)(vm->mem + VM_DATA);
}

static inline __u32 vm_counter(struct kvm_vm *vm)
{
	return __atomic_load_n(&vm_data(vm)->counter, __ATOMIC_RELAXED);
}

/* Whether the guest is executing code */
static inline bool vm_counts(struct kvm_vm *vm)
{
	__u32 before = vm_counter(vm);

	return wait_until(vm_counter(vm) - before > VM_BURST);
}

static inline void vm_init(struct kvm_vm *vm)
{
	*vm = (struct kvm_vm){ .vm = -1, .vcpu = -1, .dev = -1 };
}

static inline int vm_set_registers(int vcpu)
{
	struct kvm_regs regs = { .rip = VM_CODE, .rflags = 2 };
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		return -errno;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) ||
	    ioctl(vcpu, KVM_SET_REGS, &regs))
		return -errno;
	return 0;
}

/* The signal only serves to interrupt KVM_RUN */
static inline void vm_ignore_signal(int sig)
{
}

static inline void *vm_run(void *arg)
{
	struct kvm_vm *vm = arg;
	struct kvm_run *run = vm->run;

	while (!__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST)) {
		if (ioctl(vm->vcpu, KVM_RUN, NULL)) {
			if (errno == EINTR)
				continue;
			vm->error = -errno;
			break;
		}
		if (run->exit_reason == KVM_EXIT_HLT)
			break;
		if (run->exit_reason != KVM_EXIT_IO ||
		    run->io.port != VM_PORT) {
			vm->error = -EIO;
			break;
		}
		usleep(VM_PAUSE_US);
	}
	return NULL;
}

static inline int vm_start(struct kvm_vm *vm)
{
	struct sigaction action = { .sa_handler = vm_ignore_signal };
	int ret;

	if (sigaction(SIGUSR1, &action, NULL))
		return -errno;
	vm->run->immediate_exit = 0;
	vm->error = 0;
	ret = pthread_create(&vm->thread, NULL, vm_run, vm);
	vm->running = !ret;
	return -ret;
}

static inline int vm_join(struct kvm_vm *vm)
{
	if (!vm->running)
		return 0;
	vm->running = false;
	pthread_join(vm->thread, NULL);
	return vm->error;
}

/* Force the vCPU out of the guest */
static inline int vm_stop(struct kvm_vm *vm)
{
	if (vm->running) {
		__atomic_store_n(&vm->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(vm->thread, SIGUSR1);
	}
	return vm_join(vm);
}

/* A mapping of the vCPU keeps it open */
static inline void vm_close_vcpu(struct kvm_vm *vm)
{
	vm_stop(vm);
	if (vm->run)
		munmap(vm->run, vm->run_len);
	vm->run = NULL;
	if (vm->vcpu >= 0)
		close(vm->vcpu);
	vm->vcpu = -1;
}

static inline void vm_close_vm(struct kvm_vm *vm)
{
	if (vm->vm >= 0)
		close(vm->vm);
	vm->vm = -1;
}

static inline void vm_close_dev(struct kvm_vm *vm)
{
	if (vm->dev >= 0)
		close(vm->dev);
	vm->dev = -1;
}

/* The VM is gone when this returns. Cleans up after a failed vm_open(), too. */
static inline void vm_close(struct kvm_vm *vm)
{
	vm_close_vcpu(vm);
	vm_close_dev(vm);
	vm_close_vm(vm);
	if (vm->mem)
		munmap(vm->mem, VM_MEM_LEN);
	vm->mem = NULL;
}

static inline int vm_open_vcpu(struct kvm_vm *vm, int kvm)
{
	void *run;

	vm->vcpu = ioctl(vm->vm, KVM_CREATE_VCPU, 0);
	if (vm->vcpu < 0)
		return -errno;
	vm->run_len = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, vm->run_len, PROT_READ | PROT_WRITE, MAP_SHARED,
		   vm->vcpu, 0);
	if (run == MAP_FAILED)
		return -errno;
	vm->run = run;
	return vm_set_registers(vm->vcpu);
}

static inline int vm_open_memory(struct kvm_vm *vm)
{
	struct kvm_userspace_memory_region region = {
		.memory_size = VM_MEM_LEN,
	};
	/* Shared, so that the parent of a killed process can check it */
	void *mem = mmap(NULL, VM_MEM_LEN, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return -errno;
	vm->mem = mem;
	memcpy(vm->mem + VM_CODE, vm_code, sizeof(vm_code));
	vm_data(vm)->burst = VM_BURST;
	region.userspace_addr = (uintptr_t)mem;
	return ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

/* Returns -ENOENT without KVM */
static inline int vm_open(struct kvm_vm *vm)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int ret;

	vm_init(vm);
	if (kvm < 0)
		return -errno;
	vm->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	ret = vm->vm < 0 ? -errno : vm_open_memory(vm);
	if (!ret)
		ret = vm_open_vcpu(vm, kvm);
	close(kvm);
	if (ret)
		vm_close(vm);
	return ret;
}

/* The device */

static inline int kvm_ioasid_create_flags(int vm, __u32 flags)
{
	struct kvm_create_device cmd = {
		.type = KVM_DEV_TYPE_IOASID,
		.flags = flags,
		.fd = -1,
	};

	if (ioctl(vm, KVM_CREATE_DEVICE, &cmd))
		return -errno;
	return flags & KVM_CREATE_DEVICE_TEST ? 0 : (int)cmd.fd;
}

static inline int kvm_ioasid_create(int vm)
{
	return kvm_ioasid_create_flags(vm, 0);
}

/* @addr may be a bad pointer */
static inline int kvm_ioasid_attr(int dev, unsigned long ioctl_nr, __u32 group,
				  __u64 nr, const void *addr)
{
	struct kvm_device_attr attr = {
		.group = group,
		.attr = nr,
		.addr = (uintptr_t)addr,
	};

	return ioctl(dev, ioctl_nr, &attr) ? -errno : 0;
}

static inline int kvm_ioasid_has_attr(int dev, __u32 group, __u64 nr)
{
	return kvm_ioasid_attr(dev, KVM_HAS_DEVICE_ATTR, group, nr, NULL);
}

static inline int kvm_ioasid_add_raw(int dev, const void *map)
{
	return kvm_ioasid_attr(dev, KVM_SET_DEVICE_ATTR, KVM_DEV_IOASID_MAP,
			       KVM_DEV_IOASID_MAP_ADD, map);
}

static inline int kvm_ioasid_map(int dev, __u32 flags, int fd, __u32 id,
				 __u32 guest_pasid)
{
	struct kvm_ioasid_map map = {
		.flags = flags,
		.fd = fd,
		.id = id,
		.guest_pasid = guest_pasid,
	};

	return kvm_ioasid_add_raw(dev, &map);
}

static inline int kvm_ioasid_add(int dev, int fd, __u32 id, __u32 guest_pasid)
{
	return kvm_ioasid_map(dev, 0, fd, id, guest_pasid);
}

/* Add the mapping if @guest_pasid is not mapped */
static inline int kvm_ioasid_replace(int dev, int fd, __u32 id,
				     __u32 guest_pasid)
{
	return kvm_ioasid_map(dev, KVM_IOASID_MAP_REPLACE, fd, id, guest_pasid);
}

static inline int kvm_ioasid_del_raw(int dev, const void *guest_pasid)
{
	return kvm_ioasid_attr(dev, KVM_SET_DEVICE_ATTR, KVM_DEV_IOASID_MAP,
			       KVM_DEV_IOASID_MAP_DEL, guest_pasid);
}

static inline int kvm_ioasid_del(int dev, __u32 guest_pasid)
{
	return kvm_ioasid_del_raw(dev, &guest_pasid);
}

static inline int kvm_ioasid_clear_raw(int dev, const void *addr)
{
	return kvm_ioasid_attr(dev, KVM_SET_DEVICE_ATTR, KVM_DEV_IOASID_MAP,
			       KVM_DEV_IOASID_MAP_CLEAR, addr);
}

static inline int kvm_ioasid_clear(int dev)
{
	return kvm_ioasid_clear_raw(dev, NULL);
}

static inline int kvm_ioasid_get_raw(int dev, const void *list)
{
	return kvm_ioasid_attr(dev, KVM_GET_DEVICE_ATTR, KVM_DEV_IOASID_MAP,
			       KVM_DEV_IOASID_MAP_GET, list);
}

/* @count: size of @entries on input, number of entries filled on output */
static inline int kvm_ioasid_get(int dev, __u32 start, __u32 *count,
				 struct kvm_ioasid_entry *entries)
{
	struct kvm_ioasid_list list = {
		.start = start,
		.count = *count,
		.entries = (uintptr_t)entries,
	};
	int ret = kvm_ioasid_get_raw(dev, &list);

	*count = list.count;
	return ret;
}

/* The KVM device for VFIO files, each of which can belong to only one VM */

static inline int kvm_vfio_create(int vm)
{
	struct kvm_create_device cmd = { .type = KVM_DEV_TYPE_VFIO, .fd = -1 };

	return ioctl(vm, KVM_CREATE_DEVICE, &cmd) ? -errno : (int)cmd.fd;
}

/*
 * @fd: a group, or a device that is not bound yet. KVM holds the file until it
 * is deleted from @dev or @dev is closed.
 */
static inline int kvm_vfio_add(int dev, int fd)
{
	__s32 file = fd;

	return kvm_ioasid_attr(dev, KVM_SET_DEVICE_ATTR, KVM_DEV_VFIO_FILE,
			       KVM_DEV_VFIO_FILE_ADD, &file);
}

static inline int kvm_vfio_del(int dev, int fd)
{
	__s32 file = fd;

	return kvm_ioasid_attr(dev, KVM_SET_DEVICE_ATTR, KVM_DEV_VFIO_FILE,
			       KVM_DEV_VFIO_FILE_DEL, &file);
}

#define test_cmd_map_add(dev, fd, id, guest_pasid) \
	ASSERT_EQ(0, kvm_ioasid_add(dev, fd, id, guest_pasid))
#define test_err_map_add(_errno, dev, fd, id, guest_pasid) \
	EXPECT_EQ(-(_errno), kvm_ioasid_add(dev, fd, id, guest_pasid))

#define test_cmd_map_replace(dev, fd, id, guest_pasid) \
	ASSERT_EQ(0, kvm_ioasid_replace(dev, fd, id, guest_pasid))
#define test_err_map_replace(_errno, dev, fd, id, guest_pasid) \
	EXPECT_EQ(-(_errno), kvm_ioasid_replace(dev, fd, id, guest_pasid))

#define test_cmd_map_del(dev, guest_pasid) \
	ASSERT_EQ(0, kvm_ioasid_del(dev, guest_pasid))
#define test_err_map_del(_errno, dev, guest_pasid) \
	EXPECT_EQ(-(_errno), kvm_ioasid_del(dev, guest_pasid))

#define test_cmd_map_clear(dev) ASSERT_EQ(0, kvm_ioasid_clear(dev))
#define test_err_map_clear(_errno, dev, addr) \
	EXPECT_EQ(-(_errno), kvm_ioasid_clear_raw(dev, addr))

#define test_cmd_map_get(dev, start, count, entries) \
	ASSERT_EQ(0, kvm_ioasid_get(dev, start, count, entries))
#define test_err_map_get(_errno, dev, list) \
	EXPECT_EQ(-(_errno), kvm_ioasid_get_raw(dev, list))

#endif

// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a virtual machine monitor (VMM) uses /dev/ioasid
 *
 * It allocates a PASID, lets a device use it for DMA, maps it to a guest PASID
 * in KVM, and frees it while both still hold it. The PASID is parked then: its
 * DMA is blocked and the number is not reused. The device and KVM then release
 * it, and the last release recycles the number.
 *
 *	ioasid_example [DEVICE]
 *
 * DEVICE is a VFIO device with PASID support, such as /dev/vfio/devices/vfio0.
 * By default, the program creates a mediated device on a PASID DMA engine
 * (samples/vfio-mdev/pdma.c) if the machine has one. Without a device or KVM,
 * it skips these steps and says so. It prints one line per step in TAP format,
 * and exits with status 1 if anything is not as documented.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>

#include <linux/ioasid.h>
#include <linux/iommufd.h>
#include <linux/kvm.h>
#include <linux/vfio.h>

/* The guest's name for the PASID; any 20-bit number */
#define GUEST_PASID 7

static unsigned int steps;

#define step(fmt, ...) printf("ok %u - " fmt "\n", ++steps, ##__VA_ARGS__)

static void fail(const char *what, const char *why)
{
	printf("not ok %u - %s: %s\n", ++steps, what, why);
	exit(1);
}

/* Check a call that must succeed. @ret is -1 on failure. */
static int must(int ret, const char *what)
{
	if (ret < 0)
		fail(what, strerror(errno));
	return ret;
}

/* Check a call that the kernel must reject with @error */
static void must_fail(int ret, int error, const char *what)
{
	if (ret >= 0)
		fail(what, "it was not rejected");
	if (errno != error)
		fail(what, strerror(errno));
}

static void must_be(bool ok, const char *what)
{
	if (!ok)
		fail(what, "that is not the case");
}

/* /dev/ioasid */

/* Allocate PASID @wanted, or any if it is 0. Returns -1 on failure. */
static int ioasid_alloc(int owner, __u32 wanted, __u32 *id)
{
	struct ioasid_alloc alloc = {
		.size = sizeof(alloc),
		.min = wanted,
		.max = wanted,
		.count = 1,
		.ids = (uintptr_t)id,
	};

	return ioctl(owner, IOASID_ALLOC, &alloc);
}

static int ioasid_free(int owner, __u32 id)
{
	struct ioasid_free free = {
		.size = sizeof(free),
		.count = 1,
		.ids = (uintptr_t)&id,
	};

	return ioctl(owner, IOASID_FREE, &free);
}

static int ioasid_query(int owner, __u32 id, struct ioasid_query *query)
{
	*query = (struct ioasid_query){ .size = sizeof(*query), .id = id };
	return ioctl(owner, IOASID_QUERY, query);
}

static void must_be_held(int owner, __u32 id, __u32 state, __u32 users)
{
	struct ioasid_query query;

	must(ioasid_query(owner, id, &query), "IOASID_QUERY");
	must_be(query.state == state, state == IOASID_STATE_ACTIVE ?
		"the state is ACTIVE" : "the state is PARKED");
	must_be(query.users == users, "all users are counted");
	step("PASID %u is %s, users: %u, attachments: %u", id,
	     state == IOASID_STATE_ACTIVE ? "ACTIVE" : "PARKED", query.users,
	     query.attachments);
}

/*
 * The last put may have been in atomic context, so recycling is deferred to a
 * worker. Wait for it.
 */
static void must_be_recycled(int owner, __u32 id)
{
	struct ioasid_query query;
	int tries = 1000;

	while (!ioasid_query(owner, id, &query) && tries--)
		usleep(10000);
	must_fail(ioasid_query(owner, id, &query), ENOENT, "recycled");
	step("PASID %u is recycled", id);
}

/* VFIO */

/* Bind a VFIO device to a new iommufd, and attach it to a new address space */
static int device_open(const char *path)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
	};
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	int device, iommufd;

	device = must(open(path, O_RDWR | O_CLOEXEC), path);
	iommufd = must(open("/dev/iommu", O_RDWR | O_CLOEXEC), "/dev/iommu");
	bind.iommufd = iommufd;
	must(ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind), "bind to iommufd");
	must(ioctl(iommufd, IOMMU_IOAS_ALLOC, &ioas), "IOMMU_IOAS_ALLOC");
	/* A VMM maps guest memory here: IOMMU_IOAS_MAP */
	attach.pt_id = ioas.out_ioas_id;
	must(ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach), "attach");

	/* The device keeps the iommufd alive */
	close(iommufd);
	return device;
}

/* Allow the device to DMA with PASID @id, to which it holds a reference */
static int device_add_ioasid(int device, int owner, __u32 id)
{
	struct {
		struct vfio_device_feature header;
		struct vfio_device_feature_ioasid ioasid;
	} feature = {
		.header = {
			.argsz = sizeof(feature),
			.flags = VFIO_DEVICE_FEATURE_SET |
				 VFIO_DEVICE_FEATURE_IOASID,
		},
		.ioasid = {
			.flags = VFIO_DEVICE_IOASID_ADD,
			.fd = owner,
			.id = id,
		},
	};

	return ioctl(device, VFIO_DEVICE_FEATURE, &feature);
}

/* KVM */

static int vm_create_ioasid_device(int vm)
{
	struct kvm_create_device create = { .type = KVM_DEV_TYPE_IOASID };

	must(ioctl(vm, KVM_CREATE_DEVICE, &create), "KVM_CREATE_DEVICE");
	return create.fd;
}

/* Map @guest_pasid to @id, to which the virtual machine holds a reference */
static int vm_map(int vm_ioasids, int owner, __u32 id, __u32 guest_pasid)
{
	struct kvm_ioasid_map map = {
		.fd = owner,
		.id = id,
		.guest_pasid = guest_pasid,
	};
	struct kvm_device_attr attr = {
		.group = KVM_DEV_IOASID_MAP,
		.attr = KVM_DEV_IOASID_MAP_ADD,
		.addr = (uintptr_t)&map,
	};

	return ioctl(vm_ioasids, KVM_SET_DEVICE_ATTR, &attr);
}

static int vm_unmap(int vm_ioasids, __u32 guest_pasid)
{
	struct kvm_device_attr attr = {
		.group = KVM_DEV_IOASID_MAP,
		.attr = KVM_DEV_IOASID_MAP_DEL,
		.addr = (uintptr_t)&guest_pasid,
	};

	return ioctl(vm_ioasids, KVM_SET_DEVICE_ATTR, &attr);
}

/* Create a mediated device, as an administrator would; removed at exit */

static const char uuid[] = "a7f4c3de-9d5c-4b0f-8a53-6f1f6a0b9e11";
static int device = -1;

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

static void mdev_remove(void)
{
	char path[128];

	/* Removal blocks until the device is closed */
	if (device >= 0)
		close(device);
	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/remove", uuid);
	write_file(path, "1");
}

static bool mdev_create(void)
{
	DIR *dir = opendir("/sys/class/mdev_bus");
	struct dirent *entry;
	char path[512];
	bool ok = false;

	if (!dir)
		return false;
	while (!ok && (entry = readdir(dir))) {
		snprintf(path, sizeof(path),
			 "/sys/class/mdev_bus/%s/mdev_supported_types/pdma-channels/create",
			 entry->d_name);
		ok = write_file(path, uuid);
	}
	closedir(dir);
	if (ok)
		atexit(mdev_remove);
	return ok;
}

static void mdev_path(char *path, size_t len)
{
	struct dirent *entry;
	DIR *dir;

	snprintf(path, len, "/sys/bus/mdev/devices/%s/vfio-dev", uuid);
	dir = opendir(path);
	must(dir ? 0 : -1, path);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			snprintf(path, len, "/dev/vfio/devices/%s",
				 entry->d_name);
	closedir(dir);
}

int main(int argc, char **argv)
{
	int owner, kvm, vm = -1, vm_ioasids = -1;
	char mdev[320];
	const char *path = argv[1];
	struct ioasid_info info = { .size = sizeof(info) };
	__u32 id, again, users = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("TAP version 13\n");

	/*
	 * From here on this process owns a file with a quota of its own.
	 * Without O_CLOEXEC, a program that it executes would own the file,
	 * too.
	 */
	owner = must(open("/dev/ioasid", O_RDWR | O_CLOEXEC), "/dev/ioasid");
	must(ioctl(owner, IOASID_GET_INFO, &info), "IOASID_GET_INFO");
	step("numbers %u to %u, at most %u of them for this file", info.min,
	     info.max, info.quota);

	must(ioasid_alloc(owner, 0, &id), "IOASID_ALLOC");
	step("PASID %u is allocated", id);

	/* To give the PASID to a user, pass the file along with the number. */
	if (argc < 2 && mdev_create()) {
		mdev_path(mdev, sizeof(mdev));
		path = mdev;
	}
	if (path) {
		device = device_open(path);
		must(device_add_ioasid(device, owner, id),
		     "VFIO_DEVICE_FEATURE_IOASID");
		users++;
		step("a device holds PASID %u", id);
	} else {
		step("no VFIO device # SKIP no PASID DMA engine");
	}

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm >= 0) {
		vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
		vm_ioasids = vm_create_ioasid_device(vm);
		must(vm_map(vm_ioasids, owner, id, GUEST_PASID),
		     "KVM_DEV_IOASID_MAP_ADD");
		users++;
		step("a guest knows PASID %u as %u", id, GUEST_PASID);
	} else {
		step("no virtual machine # SKIP no /dev/kvm");
	}
	must_be_held(owner, id, IOASID_STATE_ACTIVE, users);

	/*
	 * The VMM frees the PASID first, with the device still running. When
	 * this returns, no DMA with the PASID reaches memory any more, so the
	 * memory mapped for it can be reused at once. Closing the file does the
	 * same for all its PASIDs.
	 */
	must(ioasid_free(owner, id), "IOASID_FREE");
	step("PASID %u is freed", id);

	if (users) {
		must_be_held(owner, id, IOASID_STATE_PARKED, users);
		must_fail(ioasid_alloc(owner, id, &again), ENOSPC,
			  "a parked PASID is not handed out");
		step("PASID %u is not handed out", id);
	}

	/* Users are not notified; they see -ESHUTDOWN on the next request. */
	if (vm_ioasids >= 0) {
		must_fail(vm_map(vm_ioasids, owner, id, GUEST_PASID + 1),
			  ESHUTDOWN, "a parked PASID takes no new users");
		step("PASID %u takes no new users", id);
	}

	/* Users release the PASID in their own time, e.g. by closing */
	if (device >= 0) {
		must(close(device), "close the device");
		device = -1;
		users--;
		step("the device is closed");
	}
	if (vm_ioasids >= 0) {
		must_be_held(owner, id, IOASID_STATE_PARKED, users);
		must(vm_unmap(vm_ioasids, GUEST_PASID),
		     "KVM_DEV_IOASID_MAP_DEL");
		step("the guest mapping is deleted");
	}
	must_be_recycled(owner, id);

	/* The number can be allocated again. */
	must(ioasid_alloc(owner, id, &again), "IOASID_ALLOC");
	must_be(again == id, "the requested number was allocated");
	step("PASID %u is allocated again", again);

	printf("1..%u\n", steps);
	return 0;
}

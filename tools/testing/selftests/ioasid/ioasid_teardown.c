// SPDX-License-Identifier: GPL-2.0-only
/*
 * A device and a virtual machine hold an IOASID whose owner has the file: tear
 * all of them down in any order, kill processes, and take the device away.
 *
 * An earlier proposal for shared PASIDs had a number of bugs. These tests keep
 * them from coming back:
 *
 *   quota never returned to the pool
 *	ioasid: quota_comes_back_with_every_number
 *   set freed with its last IOASID while its file still points to it
 *	set_lives_as_long_as_its_file
 *   error path frees twice, and returns the stale number as success
 *	ioasid: alloc_bad_ids_pointer_is_efault_and_takes_nothing
 *	ioasid_fail_nth: failure_is_enomem_and_changes_nothing
 *   lookup ignores that a free is pending
 *	ioasid_dma: parked_is_final
 *	ioasid_kvm: parked_number_gives_out_no_new_mapping
 *   mm pointer as a key, without a reference
 *	ioasid: no_process_inherits_the_set_of_a_dead_one
 *   two locks taken in both orders
 *	locks_are_taken_in_one_order
 *   charges leak at process exit, when the task has no mm any more
 *	process_killed_at_any_point_leaves_nothing
 *	ioasid: freed_number_of_exited_process_can_be_had_at_once
 *   current cgroup uncharged, not the one that was charged
 *	ioasid_cgroup
 *   sleeping under a spinlock when a PASID is torn down
 *	number_is_recycled_with_its_last_holder, under DEBUG_ATOMIC_SLEEP
 *   free of the numbers of other files reports success
 *	ioasid: other_files_number_does_not_exist
 */
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "ioasid_fixture.h"

#define DRIVER		"/sys/bus/pci/drivers/pdma"

/* Period of a stream: short, so that tests need not wait, but low load */
#define PERIOD_US	200

/* Long enough for a helper process to block */
#define A_WHILE_US	20000

/*
 * A process that writes to a sysfs file on demand. It is forked before the test
 * opens any files, so that it does not keep them open.
 */
struct helper {
	pid_t pid;
	int go;
	int status;
};

static void helper_start(struct __test_metadata *_metadata, struct helper *h,
			 const char *path, const char *text)
{
	int pipefd[2];
	pid_t pid;
	char byte;

	ASSERT_EQ(0, pipe(pipefd));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(pipefd[1]);
		/* The helper exits with the test */
		if (read(pipefd[0], &byte, 1) != 1)
			_exit(0);
		_exit(pdma_write_file(path, text) ? 1 : 0);
	}
	close(pipefd[0]);
	h->pid = pid;
	h->go = pipefd[1];
}

static bool helper_go(struct helper *h)
{
	return write(h->go, "x", 1) == 1;
}

/* The status is saved: waitpid() works only once */
static bool helper_exited(struct helper *h)
{
	if (h->pid > 0 && waitpid(h->pid, &h->status, WNOHANG) == h->pid)
		h->pid = 0;
	return !h->pid;
}

/* Enter a new cgroup. @path is empty if the kernel does not count IOASIDs. */
static bool cgroup_enter(char path[PDMA_PATH_LEN])
{
	path[0] = 0;
	if (group_write(CGROUP_ROOT, "cgroup.subtree_control", "+misc") ||
	    group_read(CGROUP_ROOT, "misc.capacity", "ioasid") < 0)
		return true;
	snprintf(path, PDMA_PATH_LEN, CGROUP_ROOT "/ioasid-teardown-%d",
		 getpid());
	return !mkdir(path, 0755) && !enter(path);
}

#define expect_charged(_path, _count) do {				\
	if ((_path)[0])							\
		EXPECT_EQ(_count, wait_current(_path, _count));		\
} while (0)

/*
 * One IOASID and all its holders: the file that owns it, a channel of the
 * engine that streams with it, and a running VM that maps it
 */
struct scene {
	pid_t pid;
	struct engine engine;
	int available;
	__u64 faults;
	int kmsg;
	struct helper helper;
	bool unbound;
	char cgroup[PDMA_PATH_LEN];
	int fd;			/* another file of the same process */
	int owner;		/* or -1 */
	bool freed;
	__u32 id;
	struct channel ch;
	struct kvm_vm vm;
};

static void scene_set(struct __test_metadata *_metadata, struct scene *s,
		      bool ats, bool remove)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	s->pid = getpid();
	if (access("/dev/kvm", F_OK))
		SKIP(return, "no KVM");
	if (access(IOASID_DEV, F_OK))
		SKIP(return, "no " IOASID_DEV);
	skip_for(setup_engine(&s->engine, ats));
	s->available = pdma_available(s->engine.name);
	if (remove)
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/remove",
			 s->engine.name);
	else
		snprintf(path, sizeof(path), DRIVER "/unbind");
	helper_start(_metadata, &s->helper, path,
		     remove ? "1" : s->engine.name);

	ASSERT_TRUE(cgroup_enter(s->cgroup));
	setup_kmsg(_metadata, &s->kmsg);
	s->fd = ioasid_open();
	ASSERT_LE(0, s->fd);
	s->owner = ioasid_open();
	ASSERT_LE(0, s->owner);
	test_cmd_alloc(s->owner, 0, 0, 1, &s->id);

	skip_for(setup_vm(_metadata, &s->vm));
	test_cmd_map_add(s->vm.dev, s->owner, s->id, 1);
	ASSERT_EQ(0, vm_start(&s->vm));

	channel_open(_metadata, &s->ch, s->engine.name);
	ASSERT_EQ(0, pdma_set_ioasid(&s->ch.dev, s->owner, s->id));
	s->faults = bar_recorded(&s->engine.bar);
}

static bool engine_bound(const struct scene *s)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/driver", s->engine.name);
	return pdma_exists(path);
}

static bool engine_present(const struct scene *s)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s", s->engine.name);
	return pdma_exists(path);
}

static int engine_back(const struct scene *s)
{
	if (!engine_present(s))
		return pdma_write_file("/sys/bus/pci/rescan", "1");
	return pdma_write_file(DRIVER "/bind", s->engine.name);
}

/* In the parent of the test, which usually has nothing left to do */
static void scene_clear(struct __test_metadata *_metadata, struct scene *s)
{
	if (s->ch.uuid[0] && pdma_mdev_exists(s->ch.uuid))
		EXPECT_EQ(0, pdma_remove(s->ch.uuid));
	if (!engine_bound(s))
		EXPECT_EQ(0, engine_back(s));
	EXPECT_TRUE(wait_until(pdma_available(s->engine.name) ==
			       s->available));
	if (s->cgroup[0])
		EXPECT_EQ(0, rmdir(s->cgroup));
}

static void close_owner(struct scene *s)
{
	close(s->owner);
	s->owner = -1;
}

static void close_channel(struct scene *s)
{
	channel_close(&s->ch);
	poison(&s->ch);
}

/* The device stays usable while it is open, but cannot be opened any more */
static void take_engine_away(struct __test_metadata *_metadata, struct scene *s)
{
	ASSERT_TRUE(helper_go(&s->helper));
	s->unbound = true;
	ASSERT_TRUE(wait_until(!pdma_mdev_exists(s->ch.uuid)));
	if (s->ch.regs)
		usleep(A_WHILE_US);
}

static void expect_channel(struct __test_metadata *_metadata, struct scene *s)
{
	bool parked = s->owner < 0 || s->freed;

	if (s->ch.regs && !parked)
		expect_running(_metadata, &s->ch);
	if (s->ch.regs && parked)
		expect_blocked(&s->ch);
	if (!s->ch.regs)
		EXPECT_TRUE(is_poison(&s->ch));
}

static void expect_engine(struct __test_metadata *_metadata, struct scene *s)
{
	if (s->unbound && s->ch.regs) {
		EXPECT_FALSE(helper_exited(&s->helper));
	} else if (s->unbound) {
		ASSERT_TRUE(wait_until(helper_exited(&s->helper)));
		EXPECT_EQ(0, s->helper.status);
		EXPECT_FALSE(engine_bound(s));
	}
	if (s->engine.bar.regs)
		EXPECT_EQ(s->faults, bar_recorded(&s->engine.bar));
	EXPECT_EQ(0, kmsg_faults(s->kmsg, 0));
}

static void expect_holders(struct __test_metadata *_metadata, struct scene *s)
{
	const bool mdev = s->ch.regs, kvm = s->vm.vm >= 0;
	const bool parked = s->owner < 0 || s->freed;
	struct ioasid_query query;
	struct ioasid_row row;

	ASSERT_EQ(0, debugfs_ioasid(s->id, &row));
	EXPECT_STREQ(parked ? "parked" : "active", row.state);
	EXPECT_EQ(mdev + kvm, row.users);
	EXPECT_EQ(mdev, row.attachments);
	EXPECT_STREQ(mdev && kvm ? "mdev=1,kvm=1" : mdev ? "mdev=1" :
		     kvm ? "kvm=1" : "-", row.holders);
	if (s->owner >= 0) {
		test_cmd_query(s->owner, s->id, &query);
		EXPECT_EQ(parked ? IOASID_STATE_PARKED : IOASID_STATE_ACTIVE,
			  query.state);
		EXPECT_EQ(mdev + kvm, query.users);
		EXPECT_EQ(mdev, query.attachments);
	}
	expect_taken(s->fd, s->id);
	test_set_in_use(s->fd, !parked, parked);
	expect_charged(s->cgroup, 1);
}

/* Check everything that must hold, depending on who has released the IOASID */
static void expect_scene(struct __test_metadata *_metadata, struct scene *s)
{
	/* First, while a late write would still be seen */
	expect_channel(_metadata, s);
	expect_engine(_metadata, s);
	if (s->vm.vm >= 0)
		EXPECT_TRUE(vm_counts(&s->vm));

	if ((s->owner >= 0 && !s->freed) || s->ch.regs || s->vm.vm >= 0) {
		expect_holders(_metadata, s);
		return;
	}
	/* Free at once, before waiting for anything */
	expect_free(s->fd, s->id);
	EXPECT_TRUE(ioasid_wait_set_unparked(s->fd));
	test_set_in_use(s->fd, 0, 0);
	expect_charged(s->cgroup, 0);
}

/* All orders of teardown */
enum step {
	STEP_file,
	STEP_device,
	STEP_vm,
	STEP_driver,
	NR_STEPS
};

FIXTURE(order)
{
	struct scene scene;
};

FIXTURE_VARIANT(order)
{
	enum step steps[NR_STEPS];
};

#define ORDER(a, b, c, d) { { STEP_##a, STEP_##b, STEP_##c, STEP_##d } }

FIXTURE_VARIANT_ADD(order, file_device_vm_driver)
	ORDER(file, device, vm, driver);

FIXTURE_VARIANT_ADD(order, file_device_driver_vm)
	ORDER(file, device, driver, vm);

FIXTURE_VARIANT_ADD(order, file_vm_device_driver)
	ORDER(file, vm, device, driver);

FIXTURE_VARIANT_ADD(order, file_vm_driver_device)
	ORDER(file, vm, driver, device);

FIXTURE_VARIANT_ADD(order, file_driver_device_vm)
	ORDER(file, driver, device, vm);

FIXTURE_VARIANT_ADD(order, file_driver_vm_device)
	ORDER(file, driver, vm, device);

FIXTURE_VARIANT_ADD(order, device_file_vm_driver)
	ORDER(device, file, vm, driver);

FIXTURE_VARIANT_ADD(order, device_file_driver_vm)
	ORDER(device, file, driver, vm);

FIXTURE_VARIANT_ADD(order, device_vm_file_driver)
	ORDER(device, vm, file, driver);

FIXTURE_VARIANT_ADD(order, device_vm_driver_file)
	ORDER(device, vm, driver, file);

FIXTURE_VARIANT_ADD(order, device_driver_file_vm)
	ORDER(device, driver, file, vm);

FIXTURE_VARIANT_ADD(order, device_driver_vm_file)
	ORDER(device, driver, vm, file);

FIXTURE_VARIANT_ADD(order, vm_file_device_driver)
	ORDER(vm, file, device, driver);

FIXTURE_VARIANT_ADD(order, vm_file_driver_device)
	ORDER(vm, file, driver, device);

FIXTURE_VARIANT_ADD(order, vm_device_file_driver)
	ORDER(vm, device, file, driver);

FIXTURE_VARIANT_ADD(order, vm_device_driver_file)
	ORDER(vm, device, driver, file);

FIXTURE_VARIANT_ADD(order, vm_driver_file_device)
	ORDER(vm, driver, file, device);

FIXTURE_VARIANT_ADD(order, vm_driver_device_file)
	ORDER(vm, driver, device, file);

FIXTURE_VARIANT_ADD(order, driver_file_device_vm)
	ORDER(driver, file, device, vm);

FIXTURE_VARIANT_ADD(order, driver_file_vm_device)
	ORDER(driver, file, vm, device);

FIXTURE_VARIANT_ADD(order, driver_device_file_vm)
	ORDER(driver, device, file, vm);

FIXTURE_VARIANT_ADD(order, driver_device_vm_file)
	ORDER(driver, device, vm, file);

FIXTURE_VARIANT_ADD(order, driver_vm_file_device)
	ORDER(driver, vm, file, device);

FIXTURE_VARIANT_ADD(order, driver_vm_device_file)
	ORDER(driver, vm, device, file);

FIXTURE_SETUP(order)
{
	int i, k, odd = 0;

	/* Each engine gets half of the orders, with all steps at all places */
	for (i = 0; i < NR_STEPS; i++)
		for (k = 0; k < i; k++)
			odd ^= variant->steps[k] > variant->steps[i];
	scene_set(_metadata, &self->scene, odd, false);
}

FIXTURE_TEARDOWN_PARENT(order)
{
	scene_clear(_metadata, &self->scene);
}

TEST_F(order, number_is_recycled_with_its_last_holder)
{
	struct scene *s = &self->scene;
	int i;

	start_stream(_metadata, &s->ch, 4096, PERIOD_US, 1);
	expect_scene(_metadata, s);
	for (i = 0; i < NR_STEPS; i++) {
		switch (variant->steps[i]) {
		case STEP_file:
			close_owner(s);
			break;
		case STEP_device:
			close_channel(s);
			break;
		case STEP_vm:
			vm_close(&s->vm);
			EXPECT_EQ(0, s->vm.error);
			break;
		default:
			take_engine_away(_metadata, s);
		}
		expect_scene(_metadata, s);
	}
}

/* The engine is removed or unbound from its driver */
enum how {
	HOW_unbind,
	HOW_remove
};

enum use {
	USE_idle,
	USE_streaming,
	USE_parked
};

FIXTURE(unplug)
{
	struct scene scene;
};

FIXTURE_VARIANT(unplug)
{
	enum how remove;
	enum use use;
	bool ats;
	bool held_when_back;
};

/* With ATS, the engine is back before the last holder releases the IOASID */
#define UNPLUG(_how, _use, _ats)					\
	{								\
		.remove = HOW_##_how,					\
		.use = USE_##_use,					\
		.ats = _ats,						\
		.held_when_back = _ats,					\
	}

FIXTURE_VARIANT_ADD(unplug, remove_idle)
	UNPLUG(remove, idle, false);

FIXTURE_VARIANT_ADD(unplug, remove_idle_ats)
	UNPLUG(remove, idle, true);

FIXTURE_VARIANT_ADD(unplug, remove_streaming)
	UNPLUG(remove, streaming, false);

FIXTURE_VARIANT_ADD(unplug, remove_streaming_ats)
	UNPLUG(remove, streaming, true);

FIXTURE_VARIANT_ADD(unplug, remove_parked)
	UNPLUG(remove, parked, false);

FIXTURE_VARIANT_ADD(unplug, remove_parked_ats)
	UNPLUG(remove, parked, true);

FIXTURE_VARIANT_ADD(unplug, unbind_idle)
	UNPLUG(unbind, idle, false);

FIXTURE_VARIANT_ADD(unplug, unbind_idle_ats)
	UNPLUG(unbind, idle, true);

FIXTURE_VARIANT_ADD(unplug, unbind_streaming)
	UNPLUG(unbind, streaming, false);

FIXTURE_VARIANT_ADD(unplug, unbind_streaming_ats)
	UNPLUG(unbind, streaming, true);

FIXTURE_VARIANT_ADD(unplug, unbind_parked)
	UNPLUG(unbind, parked, false);

FIXTURE_VARIANT_ADD(unplug, unbind_parked_ats)
	UNPLUG(unbind, parked, true);

FIXTURE_SETUP(unplug)
{
	scene_set(_metadata, &self->scene, variant->ats, variant->remove);
}

FIXTURE_TEARDOWN_PARENT(unplug)
{
	scene_clear(_metadata, &self->scene);
}

/* The engine is fully usable with a new device and @id, or any ID if it is 0 */
static void expect_engine_works(struct __test_metadata *_metadata,
				struct scene *s, __u32 id)
{
	struct channel ch = {};
	__u32 got;

	ASSERT_TRUE(wait_until(pdma_available(s->engine.name) ==
			       s->available));
	ASSERT_EQ(0, bar_map(&s->engine.bar, s->engine.name));
	EXPECT_EQ(s->faults, bar_recorded(&s->engine.bar));
	channel_open(_metadata, &ch, s->engine.name);
	test_cmd_alloc(s->fd, id, id, 1, &got);
	ASSERT_EQ(0, pdma_set_ioasid(&ch.dev, s->fd, got));
	start_stream(_metadata, &ch, 4096, PERIOD_US, 1);
	test_cmd_free(s->fd, 1, &got);
	expect_blocked(&ch);
	channel_close(&ch);
	EXPECT_TRUE(ioasid_wait_recycled(s->fd, got));
	EXPECT_EQ(0, pdma_remove(ch.uuid));
	EXPECT_EQ(s->faults, bar_recorded(&s->engine.bar));
	EXPECT_EQ(0, kmsg_faults(s->kmsg, 0));
	bar_unmap(&s->engine.bar);
	s->engine.bar.regs = NULL;
}

TEST_F(unplug, number_outlives_the_device_and_the_engine_comes_back)
{
	struct scene *s = &self->scene;

	if (variant->use != USE_idle)
		start_stream(_metadata, &s->ch, 4096, PERIOD_US, 1);
	if (variant->use == USE_parked) {
		test_cmd_free(s->owner, 1, &s->id);
		s->freed = true;
		expect_blocked(&s->ch);
	}

	/* An open device stays usable */
	take_engine_away(_metadata, s);
	if (variant->use == USE_idle)
		start_stream(_metadata, &s->ch, 4096, PERIOD_US, 1);
	expect_scene(_metadata, s);

	/* Unmap the registers, which go away with the engine */
	bar_unmap(&s->engine.bar);
	s->engine.bar.regs = NULL;
	close_channel(s);
	expect_scene(_metadata, s);
	EXPECT_EQ(variant->remove, !engine_present(s));
	if (variant->held_when_back) {
		EXPECT_EQ(0, engine_back(s));
		s->unbound = false;
		expect_engine_works(_metadata, s, 0);
	}

	/* The owner and the VM are independent of the engine */
	expect_scene(_metadata, s);
	if (!s->freed) {
		test_cmd_free(s->owner, 1, &s->id);
		s->freed = true;
		expect_scene(_metadata, s);
	}
	test_cmd_map_del(s->vm.dev, 1);
	/* KVM drops its reference after a grace period */
	EXPECT_TRUE(ioasid_wait_recycled(s->owner, s->id));
	expect_free(s->fd, s->id);
	EXPECT_TRUE(ioasid_wait_set_unparked(s->fd));
	vm_close(&s->vm);
	expect_scene(_metadata, s);

	if (!variant->held_when_back)
		EXPECT_EQ(0, engine_back(s));
	/* Reuse the same ID, which must have no stale state */
	expect_engine_works(_metadata, s, s->id);
	EXPECT_TRUE(ioasid_wait_set_unparked(s->fd));
	expect_charged(s->cgroup, 0);
}

/* Other drivers bind to the engine while a VM keeps a parked IOASID */
FIXTURE(handover)
{
	struct scene scene;
	bool vfio;		/* another driver may be bound */
};

FIXTURE_VARIANT(handover)
{
	bool ats;
};

FIXTURE_VARIANT_ADD(handover, plain)
{
	.ats = false,
};

FIXTURE_VARIANT_ADD(handover, ats)
{
	.ats = true,
};

FIXTURE_SETUP(handover)
{
	if (!pdma_exists(PCI_DRIVERS "vfio-pci"))
		SKIP(return, "no driver vfio-pci");
	scene_set(_metadata, &self->scene, variant->ats, false);
}

FIXTURE_TEARDOWN_PARENT(handover)
{
	if (self->vfio)
		EXPECT_EQ(0, pci_set_driver(self->scene.engine.name, ""));
	scene_clear(_metadata, &self->scene);
}

/* Open the engine, as a user space driver would, which claims its DMA */
static void own_engine(struct __test_metadata *_metadata, struct scene *s)
{
	struct pdma_dev dev;
	__u32 dev_id = 0;

	EXPECT_EQ(0, vfio_open_pci(&dev, s->engine.name, &dev_id));
	pdma_close(&dev);
}

TEST_F(handover, parked_number_hinders_no_other_driver)
{
	struct scene *s = &self->scene;

	start_stream(_metadata, &s->ch, 4096, PERIOD_US, 1);
	test_cmd_free(s->owner, 1, &s->id);
	s->freed = true;
	expect_blocked(&s->ch);
	bar_unmap(&s->engine.bar);
	s->engine.bar.regs = NULL;
	close_channel(s);
	expect_scene(_metadata, s);

	/* Rebind the same driver */
	self->vfio = true;
	ASSERT_EQ(0, pci_set_driver(s->engine.name, ""));
	ASSERT_TRUE(engine_bound(s));
	expect_engine_works(_metadata, s, 0);
	expect_scene(_metadata, s);

	/* Bind another driver and open the device twice */
	ASSERT_EQ(0, pci_set_driver(s->engine.name, "vfio-pci"));
	own_engine(_metadata, s);
	own_engine(_metadata, s);
	ASSERT_EQ(0, pci_set_driver(s->engine.name, ""));
	self->vfio = false;
	expect_engine_works(_metadata, s, 0);
	expect_scene(_metadata, s);

	test_cmd_map_del(s->vm.dev, 1);
	EXPECT_TRUE(ioasid_wait_recycled(s->owner, s->id));
	vm_close(&s->vm);
	expect_scene(_metadata, s);
	expect_engine_works(_metadata, s, s->id);
	EXPECT_TRUE(ioasid_wait_set_unparked(s->fd));
	expect_charged(s->cgroup, 0);
}

/*
 * A process that uses an IOASID in every way and is killed at any point. Setup
 * steps run in the listed order, teardown steps in random order.
 */
struct life {
	int step;		/* step in progress, or the last one */
	int error;		/* result of that step */
	__u32 id;		/* written by the kernel */
	bool freed;		/* freed, or being freed */
	int last;		/* step announced by a byte in @told */
	int told;
	bool has_vm;
	int owner;
	unsigned int seed;
	struct channel ch;
	struct kvm_vm vm;
};

static int life_open_file(struct life *life)
{
	/* The parent may have passed a file */
	if (life->owner < 0)
		life->owner = ioasid_open();
	return life->owner < 0 ? life->owner : 0;
}

static int life_alloc(struct life *life)
{
	return ioasid_alloc(life->owner, 0, 0, 1, &life->id);
}

/* Creating and destroying a VM takes longer than all other steps */
static int life_open_vm(struct life *life)
{
	return life->has_vm ? vm_open(&life->vm) : 0;
}

static int life_create_dev(struct life *life)
{
	if (!life->has_vm)
		return 0;
	life->vm.dev = kvm_ioasid_create(life->vm.vm);
	return life->vm.dev < 0 ? life->vm.dev : 0;
}

static int life_map(struct life *life)
{
	return life->has_vm ? kvm_ioasid_add(life->vm.dev, life->owner,
					     life->id, 1) : 0;
}

static int life_start_vm(struct life *life)
{
	return life->has_vm ? vm_start(&life->vm) : 0;
}

static int life_open_device(struct life *life)
{
	return channel_connect(&life->ch);
}

static int life_set(struct life *life)
{
	return pdma_set_ioasid(&life->ch.dev, life->owner, life->id);
}

static int life_start_stream(struct life *life)
{
	return pdma_stream(&life->ch.dev, IOVA, BUF_LEN, PERIOD_US, 1);
}

static int life_stream(struct life *life)
{
	int ret = pdma_wait_counter(&life->ch.dev, 5);

	if (!ret && life->has_vm && !vm_counts(&life->vm))
		ret = -ETIMEDOUT;
	return ret;
}

static int life_close_file(struct life *life)
{
	life->freed = true;
	if (rand_r(&life->seed) & 0x100)
		return ioasid_free(life->owner, 1, &life->id);
	return close(life->owner);
}

static int life_close_device(struct life *life)
{
	channel_close(&life->ch);
	return 0;
}

static int life_close_vm(struct life *life)
{
	vm_close(&life->vm);
	return life->vm.error;
}

static int (*const life_setup[])(struct life *life) = {
	life_open_file, life_alloc, life_open_vm, life_create_dev, life_map,
	life_start_vm, life_open_device, life_set, life_start_stream,
	life_stream,
};

static int (*const life_teardown[])(struct life *life) = {
	life_close_file, life_close_device, life_close_vm,
};

#define NR_SETUP	ARRAY_LEN(life_setup)
#define NR_LIFE		(NR_SETUP + ARRAY_LEN(life_teardown))

static int life_step(struct life *life, int step, unsigned int order)
{
	if (step < NR_SETUP)
		return life_setup[step](life);
	step -= NR_SETUP;
	if (order & 1)
		step = ARRAY_LEN(life_teardown) - 1 - step;
	return life_teardown[(step + order / 2) % ARRAY_LEN(life_teardown)](life);
}

static void live(struct life *life)
{
	unsigned int order = rand_r(&life->seed) >> 8;
	int step;

	for (step = 0; step < NR_LIFE && !life->error; step++) {
		life->step = step;
		if (step == life->last && write(life->told, "x", 1) != 1)
			break;
		life->error = life_step(life, step, order);
	}
	/* If no byte was written, the parent sees the end of the pipe */
	close(life->told);
	pause();
	_exit(1);
}

FIXTURE(death)
{
	pid_t pid;
	struct engine engine;
	struct channel ch;
	int kmsg;
	int fd;
	char cgroup[PDMA_PATH_LEN];
};

FIXTURE_SETUP(death)
{
	struct kvm_vm vm;

	self->pid = getpid();
	skip_for(setup_ioasid(_metadata, &self->fd));
	skip_for(setup_engine(&self->engine, false));
	skip_for(setup_vm(_metadata, &vm));
	vm_close(&vm);

	ASSERT_TRUE(cgroup_enter(self->cgroup));
	setup_kmsg(_metadata, &self->kmsg);
	channel_create(_metadata, &self->ch, self->engine.name);
	pdma_init(&self->ch.dev);
}

FIXTURE_TEARDOWN_PARENT(death)
{
	channel_remove(_metadata, &self->ch, self->pid);
	if (self->cgroup[0])
		EXPECT_EQ(0, rmdir(self->cgroup));
}

/*
 * Check what @life has left behind after its process was killed. @owner: a copy
 * of its file, or -1. Returns NULL, or what is wrong.
 */
static const char *look_at_remains(FIXTURE_DATA(death) *self,
				   struct life *life, int owner)
{
	struct ioasid_query query;
	__u32 got;

	poison(&self->ch);
	if (life->error)
		return "a step failed before it was killed";
	/* A killed IOASID_ALLOC may have written an ID that it then undoes */
	if (owner >= 0 && life->id && !life->freed &&
	    (life->step >= (int)NR_SETUP ||
	     life_setup[life->step] != life_alloc) &&
	    (ioasid_query(owner, life->id, &query) || query.users ||
	     query.attachments || query.state != IOASID_STATE_ACTIVE))
		return "the file has lost its number, or its users are not gone";
	if (owner >= 0)
		close(owner);
	if (life->id &&
	    (ioasid_alloc(self->fd, life->id, life->id, 1, &got) ||
	     ioasid_free(self->fd, 1, &got)))
		return "the number is not free";
	if (!is_poison(&self->ch))
		return "memory was written after it was killed";
	return NULL;
}

static const char *live_and_die(FIXTURE_DATA(death) *self, struct life *life,
				unsigned int seed)
{
	int last = rand_r(&seed) % NR_LIFE, told[2], status;
	/* Cover short and long delays evenly */
	unsigned int delay_us = rand_r(&seed) % (2 << rand_r(&seed) % 12);
	/* In half of the rounds, this process holds the file, too */
	int owner = rand_r(&seed) & 0x100 ? ioasid_open() : -1;
	bool far_enough;
	pid_t pid;
	char byte;

	if (pipe(told))
		return "no pipe";
	*life = (struct life){
		.step = -1,
		.last = last,
		.told = told[1],
		.has_vm = !(rand_r(&seed) & 0x700),
		.owner = owner,
		.seed = seed,
		.ch = self->ch,
	};
	vm_init(&life->vm);
	pid = fork();
	if (!pid)
		live(life);
	close(told[1]);
	far_enough = read(told[0], &byte, 1) == 1;
	close(told[0]);
	usleep(delay_us);
	if (pid < 0 || kill(pid, SIGKILL) || waitpid(pid, &status, 0) != pid ||
	    !WIFSIGNALED(status))
		return "it was not killed";
	if (!far_enough)
		return "it was killed before it got far enough";
	return look_at_remains(self, life, owner);
}

static unsigned int first_seed(void)
{
	const char *seed = getenv("IOASID_SEED");

	return seed ? strtoul(seed, NULL, 0) : (unsigned int)(now_us() ^ getpid());
}

#define NR_DEATHS 500

TEST_F(death, process_killed_at_any_point_leaves_nothing)
{
	__u64 faults = bar_recorded(&self->engine.bar);
	struct life *life = map_shared(sizeof(*life));
	unsigned int setup = 0, stream = 0, teardown = 0;
	unsigned int seed = first_seed();
	uint64_t start = now_us();
	const char *wrong;
	int i;

	ASSERT_TRUE(life != NULL);
	TH_LOG("IOASID_SEED=%u", seed);
	for (i = 0; i < times(NR_DEATHS) ||
	     (i < NR_DEATHS && !(setup && stream && teardown)); i++, seed++) {
		wrong = live_and_die(self, life, seed);
		ASSERT_TRUE(!wrong) {
			TH_LOG("%s: step %d, error %d, IOASID_SEED=%u", wrong,
			       life->step, life->error, seed);
		}
		ASSERT_EQ(faults, bar_recorded(&self->engine.bar)) {
			TH_LOG("step %d, IOASID_SEED=%u", life->step, seed);
		}
		setup += life->step < NR_SETUP - 1;
		stream += life->step == NR_SETUP - 1;
		teardown += life->step >= NR_SETUP;
	}
	TH_LOG("killed in set-up %u, streaming %u, tear-down %u; %u us each",
	       setup, stream, teardown,
	       (unsigned int)((now_us() - start) / i));
	EXPECT_LT(0, setup);
	EXPECT_LT(0, stream);
	EXPECT_LT(0, teardown);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, 0, 0);
	expect_charged(self->cgroup, 0);
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/* The process sends its file here, then waits to be killed */
static int receive_file(struct __test_metadata *_metadata,
			FIXTURE_DATA(death) *self, struct life *life,
			int last, pid_t *pid)
{
	int sock[2], step, fd;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	*life = (struct life){ .has_vm = true, .owner = -1, .ch = self->ch };
	vm_init(&life->vm);
	*pid = fork();
	ASSERT_LE(0, *pid);
	if (!*pid) {
		for (step = 0; step <= last && !life->error; step++)
			life->error = life_setup[step](life);
		if (!life->error)
			life->error = send_fd(sock[0], life->owner);
		else
			close(sock[0]);
		pause();
		_exit(1);
	}
	close(sock[0]);
	fd = receive_fd(sock[1]);
	EXPECT_EQ(0, life->error);
	ASSERT_LE(0, fd);
	close(sock[1]);
	return fd;
}

TEST_F(death, file_outlives_its_opener_and_all_users)
{
	struct life *life = map_shared(sizeof(*life));
	struct ioasid_query query;
	pid_t pid;
	int file;

	ASSERT_TRUE(life != NULL);
	file = receive_file(_metadata, self, life, NR_SETUP - 1, &pid);
	test_cmd_query(file, life->id, &query);
	EXPECT_EQ(2, query.users);
	EXPECT_EQ(1, query.attachments);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	poison(&self->ch);

	/* The users are gone, but the file still owns the IOASID */
	test_cmd_query(file, life->id, &query);
	EXPECT_EQ(IOASID_STATE_ACTIVE, query.state);
	EXPECT_EQ(0, query.users);
	EXPECT_EQ(0, query.attachments);
	expect_taken(self->fd, life->id);
	test_set_in_use(file, 1, 0);
	test_set_in_use(self->fd, 0, 0);
	expect_charged(self->cgroup, 1);

	close(file);
	expect_free(self->fd, life->id);
	EXPECT_TRUE(is_poison(&self->ch));
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	expect_charged(self->cgroup, 0);
}

TEST_F(death, users_outlive_the_opener_and_the_file)
{
	struct life *life = map_shared(sizeof(*life));
	struct ioasid_row row;
	struct kvm_vm vm;
	pid_t pid;
	int file;

	ASSERT_TRUE(life != NULL);
	file = receive_file(_metadata, self, life, 1, &pid);
	ASSERT_EQ(0, vm_open(&vm));
	vm.dev = kvm_ioasid_create(vm.vm);
	test_cmd_map_add(vm.dev, file, life->id, 1);
	ASSERT_EQ(0, vm_start(&vm));
	ASSERT_EQ(0, channel_connect(&self->ch));
	ASSERT_EQ(0, pdma_set_ioasid(&self->ch.dev, file, life->id));
	start_stream(_metadata, &self->ch, BUF_LEN, PERIOD_US, 1);

	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	expect_running(_metadata, &self->ch);
	EXPECT_TRUE(vm_counts(&vm));
	test_set_in_use(file, 1, 0);

	close(file);
	expect_blocked(&self->ch);
	EXPECT_TRUE(vm_counts(&vm));
	expect_taken(self->fd, life->id);
	ASSERT_EQ(0, debugfs_ioasid(life->id, &row));
	EXPECT_STREQ("parked", row.state);
	EXPECT_STREQ("mdev=1,kvm=1", row.holders);

	vm_close(&vm);
	expect_blocked(&self->ch);
	expect_taken(self->fd, life->id);
	channel_close(&self->ch);
	expect_free(self->fd, life->id);
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	EXPECT_EQ(0, kmsg_faults(self->kmsg, 0));
}

/* KASAN would catch a use after free of the counters of a file or set */
TEST_F(death, counters_live_as_long_as_their_file)
{
	struct ioasid_info info;
	__u32 ids[8];
	int round;

	test_cmd_set_quota(self->fd, 77);
	for (round = 0; round < 200; round++) {
		test_cmd_alloc(self->fd, 0, 0, ARRAY_LEN(ids), ids);
		test_cmd_free(self->fd, ARRAY_LEN(ids), ids);
		ASSERT_TRUE(ioasid_wait_set_unparked(self->fd));
		test_cmd_get_info(self->fd, &info);
		ASSERT_EQ(77, info.quota);
		ASSERT_EQ(0, info.active);
		/* Close a second file of the set while the first is open */
		if (round % 4 == 0) {
			int fd = ioasid_open();

			ASSERT_LE(0, fd);
			test_cmd_alloc(fd, 0, 0, ARRAY_LEN(ids), ids);
			close(fd);
		}
	}
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, 0, 0);
}

/*
 * Run everything that takes locks concurrently: lockdep sees all lock pairs,
 * and a deadlock shows in the number of rounds.
 */
struct worker {
	struct channel *ch;
	struct kvm_vm *vm;
	int *owner;		/* file of the first worker's IOASID */
	__u32 *id;
	int *end;
	int (*round)(struct worker *w);
	int bad;
	unsigned int rounds;
};

/* Errors of a lost race are fine */
static bool is_unexpected(int ret)
{
	return ret && ret != -ENOENT && ret != -ESHUTDOWN && ret != -EEXIST;
}

/* Attach and park; the next attach detaches the parked IOASID */
static int free_while_attached(struct worker *w)
{
	int ret = ioasid_alloc(*w->owner, 0, 0, 1, w->id);

	if (!ret)
		ret = pdma_set_ioasid(&w->ch->dev, *w->owner, *w->id);
	if (!ret)
		ret = pdma_stream(&w->ch->dev, IOVA, BUF_LEN, PERIOD_US, 1);
	if (!ret)
		ret = ioasid_free(*w->owner, 1, w->id);
	return ret;
}

static int close_while_attached(struct worker *w)
{
	int fd = ioasid_open(), ret;
	__u32 ids[3];

	if (fd < 0)
		return fd;
	ret = ioasid_alloc(fd, 0, 0, ARRAY_LEN(ids), ids);
	if (!ret)
		ret = pdma_set_ioasid(&w->ch->dev, fd, ids[1]);
	if (!ret && w->rounds % 2)
		ret = pdma_drop_all_ioasids(&w->ch->dev);
	close(fd);
	return ret;
}

static int map_and_unmap(struct worker *w)
{
	__u32 id = __atomic_load_n(w->id, __ATOMIC_RELAXED);
	int ret = kvm_ioasid_add(w->vm->dev, *w->owner, id, w->rounds % 3);

	if (is_unexpected(ret))
		return ret;
	return kvm_ioasid_del(w->vm->dev, (w->rounds + 1) % 3);
}

static int reset_and_unmap(struct worker *w)
{
	int ret = pdma_reset(&w->ch->dev);

	if (!ret)
		ret = pdma_unmap(&w->ch->dev, IOVA, BUF_LEN);
	if (!ret)
		ret = pdma_map(&w->ch->dev, (void *)w->ch->buf, IOVA, BUF_LEN);
	return ret;
}

static int read_all(struct worker *w)
{
	struct ioasid_query query;
	struct ioasid_row row;
	char path[64], text[4096];
	int ret;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", *w->owner);
	ret = pdma_read_file(path, text, sizeof(text));
	if (!ret)
		ret = debugfs_ioasid(-1U, &row);
	if (is_unexpected(ret))
		return ret;
	return ioasid_query(*w->owner, *w->id, &query);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	int ret;

	while (!__atomic_load_n(w->end, __ATOMIC_RELAXED)) {
		ret = w->round(w);
		/*
		 * The unmap may already have ended the stream, and during a
		 * reset bus mastering is off.
		 */
		if ((ret == -EFAULT || ret == -EPERM) &&
		    w->round == free_while_attached)
			ret = ioasid_free(*w->owner, 1, w->id);
		if (is_unexpected(ret))
			w->bad = ret;
		__atomic_fetch_add(&w->rounds, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

#define NR_WORKERS 5
#define WORK_MS 1500
#define WORK_ROUNDS 10

static bool all_have_worked(struct worker *workers)
{
	int i;

	for (i = 0; i < NR_WORKERS; i++)
		if (__atomic_load_n(&workers[i].rounds, __ATOMIC_RELAXED) <
		    WORK_ROUNDS)
			return false;
	return true;
}

TEST_F(death, locks_are_taken_in_one_order)
{
	int (*const rounds[NR_WORKERS])(struct worker *w) = {
		free_while_attached, close_while_attached, map_and_unmap,
		reset_and_unmap, read_all,
	};
	struct worker workers[NR_WORKERS];
	pthread_t threads[NR_WORKERS];
	struct channel second = {};
	int i, owner, end = 0;
	struct kvm_vm vm;
	__u32 id = 0;

	owner = ioasid_open();
	ASSERT_LE(0, owner);
	ASSERT_EQ(0, vm_open(&vm));
	vm.dev = kvm_ioasid_create(vm.vm);
	ASSERT_LE(0, vm.dev);
	ASSERT_EQ(0, channel_connect(&self->ch));
	channel_open(_metadata, &second, self->engine.name);
	for (i = 0; i < NR_WORKERS; i++) {
		workers[i] = (struct worker){
			.ch = i == 1 ? &second : &self->ch,
			.vm = &vm, .owner = &owner, .id = &id, .end = &end,
			.round = rounds[i],
		};
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, work,
					    &workers[i]));
	}
	usleep(WORK_MS * 1000);
	EXPECT_TRUE(wait_until(all_have_worked(workers)));
	__atomic_store_n(&end, 1, __ATOMIC_RELAXED);
	for (i = 0; i < NR_WORKERS; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, workers[i].bad) TH_LOG("worker %d", i);
		TH_LOG("worker %d: %u rounds", i, workers[i].rounds);
	}

	/* Release everything: nothing must be left */
	close(owner);
	channel_close(&second);
	channel_close(&self->ch);
	vm_close(&vm);
	EXPECT_EQ(0, pdma_remove(second.uuid));
	EXPECT_TRUE(ioasid_wait_set_unparked(self->fd));
	test_set_in_use(self->fd, 0, 0);
}

TEST_HARNESS_MAIN

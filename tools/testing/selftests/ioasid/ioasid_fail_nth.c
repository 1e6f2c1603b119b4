// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fail each allocation of each operation once: the error is a documented one,
 * nothing has changed, and the next try succeeds. Operations that must not fail
 * are also run with all allocations failing.
 *
 * Operations are listed in a table. prepare() sets up the state before call(),
 * which runs with failing allocations, and undo() takes the state after a
 * successful call() back to before prepare(). The state compared is everything
 * that user space can see of IOASIDs, see snapshot().
 *
 * Operations that need the engine bound to another driver are tested by
 * ioasid_sva.c and ioasid_vfio_pci.c.
 */
#include <sys/stat.h>

#include "ioasid_attach.h"
#include "ioasid_failures.h"
#include "ioasid_fixture.h"

/* A few allocation batches, whose objects are made to fail one by one */
#define SOME 40
/* More than one flush handles */
#define MANY 600
/* Documented limit: IOASID_FREE of more needs to allocate memory */
#define FREE_WITHOUT_MEMORY 16

#define PERIOD_US 250

struct op;

struct world {
	const struct op *op;
	int fd;			/* file whose set is checked, or -1 */
	int owner;		/* another file of the same set */
	__u32 ids[MANY];	/* of @owner if it is open, else of @fd */
	__u32 other;
	__u32 round;
	struct engine engine;
	struct channel ch;
	char node[PDMA_PATH_LEN];
	int attach;
	struct kvm_vm vm;
	const char *group;	/* cgroup that is charged, or NULL */
	bool dma;		/* a stream is running when call() begins */
	bool mediated;		/* @ch has a device */
};

struct op {
	const char *missing;	/* skip reason if setup() returns > 0 */
	int (*setup)(struct world *w);
	int (*prepare)(struct world *w);
	int (*call)(struct world *w);
	int (*undo)(struct world *w);
	bool cannot_fail;
	bool blocks_dma;	/* no DMA after it returns */
	bool by_worker;		/* includes allocations by the worker */
	bool takes_long;
};

static int keep(int *where, int fd)
{
	*where = fd;
	return fd < 0 ? fd : 0;
}

static int drop(int *fd)
{
	int ret = close(*fd) ? -errno : 0;

	*fd = -1;
	return ret;
}

/* /dev/ioasid ioctls */

static int setup_file(struct world *w)
{
	return keep(&w->fd, ioasid_open());
}

static int call_get_info(struct world *w)
{
	struct ioasid_info info;

	return ioasid_get_info(w->fd, &info);
}

static int call_alloc_one(struct world *w)
{
	return ioasid_alloc(w->fd, 0, 0, 1, w->ids);
}

static int call_free_one(struct world *w)
{
	return ioasid_free(w->fd, 1, w->ids);
}

static int call_alloc_some(struct world *w)
{
	return ioasid_alloc(w->fd, 0, 0, SOME, w->ids);
}

static int call_free_some(struct world *w)
{
	return ioasid_free(w->fd, SOME, w->ids);
}

static int call_alloc_many(struct world *w)
{
	return ioasid_alloc(w->fd, 0, 0, MANY, w->ids);
}

static int call_free_many(struct world *w)
{
	return ioasid_free(w->fd, MANY, w->ids);
}

/* Far from all other IDs, so that new xarray nodes are needed */
static int call_alloc_far(struct world *w)
{
	const __u32 min = 0x80000 + ((w->round & 0x3f) << 13);

	return ioasid_alloc(w->fd, min, min + 0xfff, SOME, w->ids);
}

static int prepare_free_few(struct world *w)
{
	return ioasid_alloc(w->fd, 0, 0, FREE_WITHOUT_MEMORY, w->ids);
}

static int call_free_few(struct world *w)
{
	return ioasid_free(w->fd, FREE_WITHOUT_MEMORY, w->ids);
}

static int call_query(struct world *w)
{
	struct ioasid_query query;

	return ioasid_query(w->fd, w->ids[0], &query);
}

static int call_set_quota(struct world *w)
{
	return ioasid_set_quota(w->fd, 5000);
}

static int undo_set_quota(struct world *w)
{
	return ioasid_set_quota(w->fd, 4096);
}

static const struct op get_info = {
	.setup = setup_file, .call = call_get_info, .cannot_fail = true,
};
static const struct op alloc_one = {
	.setup = setup_file, .call = call_alloc_one, .undo = call_free_one,
};
static const struct op alloc_some = {
	.setup = setup_file, .call = call_alloc_some, .undo = call_free_some,
};
static const struct op alloc_far = {
	.setup = setup_file, .call = call_alloc_far, .undo = call_free_some,
};
static const struct op free_few = {
	.setup = setup_file, .prepare = prepare_free_few,
	.call = call_free_few, .cannot_fail = true,
};
static const struct op free_many = {
	.setup = setup_file, .prepare = call_alloc_many,
	.call = call_free_many,
};
static const struct op query = {
	.setup = setup_file, .prepare = call_alloc_one, .call = call_query,
	.undo = call_free_one, .cannot_fail = true,
};
static const struct op set_quota = {
	.setup = setup_file, .call = call_set_quota, .undo = undo_set_quota,
	.cannot_fail = true,
};

/* /dev/ioasid files */

static int setup_nothing(struct world *w)
{
	return access(IOASID_DEV, F_OK) ? -errno : 0;
}

static int call_open(struct world *w)
{
	return keep(&w->owner, ioasid_open());
}

static int undo_open(struct world *w)
{
	return drop(&w->owner);
}

/* IOASIDs without users, more than fit into one batch */
static int prepare_owner(struct world *w)
{
	int ret = call_open(w);

	return ret ? ret : ioasid_alloc(w->owner, 0, 0, MANY, w->ids);
}

/* Open the proc file before, as failures of procfs are of no interest */
static int prepare_fdinfo(struct world *w)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", w->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return keep(&w->owner, fd < 0 ? -errno : fd);
}

static int call_fdinfo(struct world *w)
{
	char buf[4096];

	if (read(w->owner, buf, sizeof(buf) - 1) < 0)
		return -errno;
	return 0;
}

static const struct op first_open = {
	.setup = setup_nothing, .call = call_open, .undo = undo_open,
};
static const struct op later_open = {
	.setup = setup_file, .call = call_open, .undo = undo_open,
};
static const struct op close_of_many = {
	.setup = setup_file, .prepare = prepare_owner, .call = undo_open,
	.cannot_fail = true,
};
static const struct op fdinfo = {
	.setup = setup_file, .prepare = prepare_fdinfo, .call = call_fdinfo,
	.undo = undo_open,
};

/* Mediated devices */

static int setup_device(struct world *w, bool ats)
{
	int ret;

	ret = setup_file(w);
	if (ret)
		return ret;
	if (find_engine(&w->engine, ats))
		return 1;
	ret = pdma_create(w->engine.name, w->ch.uuid);
	if (ret)
		return ret;
	w->mediated = true;
	w->ch.len = BUF_LEN;
	w->ch.buf = map_shared(BUF_LEN);
	if (!w->ch.buf)
		return -ENOMEM;
	memset((void *)w->ch.buf, 0, BUF_LEN);
	return 0;
}

static int setup_channel(struct world *w)
{
	int ret = setup_device(w, true);

	return ret ? ret : channel_connect(&w->ch);
}

static int setup_two_numbers(struct world *w)
{
	int ret = setup_channel(w);

	if (!ret)
		ret = ioasid_alloc(w->fd, 0, 0, 2, w->ids);
	w->other = w->ids[1];
	return ret;
}

static int stream(struct world *w)
{
	__u64 min = counter(&w->ch) + 3;
	int ret = pdma_stream(&w->ch.dev, IOVA, BUF_LEN, PERIOD_US, 1);

	if (ret)
		return ret;
	w->dma = true;
	return wait_until(counter(&w->ch) >= min) ? 0 : -ETIMEDOUT;
}

static int call_set(struct world *w)
{
	return pdma_set_ioasid(&w->ch.dev, w->fd, w->ids[0]);
}

static int undo_set(struct world *w)
{
	w->dma = false;
	return pdma_drop_all_ioasids(&w->ch.dev);
}

static int prepare_stream(struct world *w)
{
	int ret = call_set(w);

	return ret ? ret : stream(w);
}

static int call_replace(struct world *w)
{
	return pdma_set_ioasid(&w->ch.dev, w->fd, w->other);
}

static int call_drop(struct world *w)
{
	return pdma_drop_all_ioasids(&w->ch.dev);
}

/* Drop the last reference to an IOASID that is parked already */
static int prepare_last_put(struct world *w)
{
	int ret = ioasid_alloc(w->fd, 0, 0, 1, w->ids);

	if (!ret)
		ret = prepare_stream(w);
	return ret ? ret : ioasid_free(w->fd, 1, w->ids);
}

static int call_last_put(struct world *w)
{
	return pdma_drop_all_ioasids(&w->ch.dev);
}

/* Returns after the worker has recycled it */
static int call_recycle(struct world *w)
{
	int ret = call_last_put(w);

	if (ret)
		return ret;
	return ioasid_wait_recycled(w->fd, w->ids[0]) ? 0 : -ETIMEDOUT;
}

/* Attach only one of the owner's IOASIDs */
static int prepare_park(struct world *w)
{
	int ret = prepare_owner(w);

	if (!ret)
		ret = pdma_set_ioasid(&w->ch.dev, w->owner, w->ids[0]);
	return ret ? ret : stream(w);
}

static int prepare_park_one(struct world *w)
{
	int ret = ioasid_alloc(w->fd, 0, 0, 1, w->ids);

	return ret ? ret : prepare_stream(w);
}

/* Look up the device node here, so that this is not part of call() */
static int setup_node(struct world *w)
{
	char path[PDMA_PATH_LEN];
	struct dirent *entry;
	DIR *dir;
	int ret = setup_device(w, false);

	if (ret)
		return ret;
	w->ch.dev.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (w->ch.dev.iommufd < 0)
		return -errno;
	pdma_mdev_path(w->ch.uuid, "vfio-dev", path);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir)))
		if (!strncmp(entry->d_name, "vfio", 4))
			snprintf(w->node, sizeof(w->node),
				 "/dev/vfio/devices/%.64s", entry->d_name);
	closedir(dir);
	return 0;
}

static int call_open_device(struct world *w)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind), .iommufd = w->ch.dev.iommufd,
	};
	int ret;

	w->ch.dev.device = open(w->node, O_RDWR | O_CLOEXEC);
	if (w->ch.dev.device < 0)
		return -errno;
	if (!ioctl(w->ch.dev.device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return 0;
	ret = -errno;
	drop(&w->ch.dev.device);
	return ret;
}

static int undo_open_device(struct world *w)
{
	return drop(&w->ch.dev.device);
}

static const struct op device_open = {
	.setup = setup_node, .call = call_open_device,
	.undo = undo_open_device,
};
static const struct op device_set = {
	.setup = setup_two_numbers, .call = call_set, .undo = undo_set,
};
static const struct op device_replace = {
	.setup = setup_two_numbers, .prepare = prepare_stream,
	.call = call_replace, .undo = undo_set,
};
static const struct op device_drop = {
	.setup = setup_two_numbers, .prepare = prepare_stream,
	.call = call_drop, .cannot_fail = true,
};
static const struct op park_by_free = {
	.setup = setup_channel, .prepare = prepare_park_one,
	.call = call_free_one, .undo = undo_set,
	.cannot_fail = true, .blocks_dma = true,
};
static const struct op park_by_close = {
	.setup = setup_channel, .prepare = prepare_park,
	.call = undo_open, .undo = undo_set,
	.cannot_fail = true, .blocks_dma = true,
};
static const struct op last_put = {
	.setup = setup_channel, .prepare = prepare_last_put,
	.call = call_last_put, .cannot_fail = true,
};

static const struct op recycle = {
	.setup = setup_channel, .prepare = prepare_last_put,
	.call = call_recycle, .cannot_fail = true, .by_worker = true,
};

/* More attachments than are flushed individually */

static int prepare_attachments(struct world *w)
{
	int ret = prepare_park(w);

	if (!ret)
		ret = keep(&w->attach, attach_open());
	return ret ? ret : attach_ids(w->attach, w->engine.name, w->owner,
				      MANY - 1, w->ids + 1, 8);
}

static int undo_attachments(struct world *w)
{
	int ret = drop(&w->attach);

	return ret ? ret : undo_set(w);
}

static int setup_attachments(struct world *w)
{
	return access(ATTACH_FILE, F_OK) ? 1 : setup_channel(w);
}

static const struct op park_of_many = {
	.missing = "no IOASID test device",
	.setup = setup_attachments, .prepare = prepare_attachments,
	.call = undo_open, .undo = undo_attachments,
	.cannot_fail = true, .blocks_dma = true, .takes_long = true,
};

/* KVM */

static int setup_machine(struct world *w)
{
	int ret = setup_file(w);

	if (ret)
		return ret;
	if (access("/dev/kvm", F_OK))
		return 1;
	return ioasid_alloc(w->fd, 0, 0, 1, w->ids);
}

static int prepare_vm(struct world *w)
{
	return vm_open(&w->vm);
}

static int call_create(struct world *w)
{
	return keep(&w->vm.dev, kvm_ioasid_create(w->vm.vm));
}

static int undo_vm(struct world *w)
{
	vm_close(&w->vm);
	return 0;
}

static int setup_map(struct world *w)
{
	int ret = setup_machine(w);

	if (!ret)
		ret = prepare_vm(w);
	return ret ? ret : call_create(w);
}

/* Far apart, so that each needs new xarray nodes */
static __u32 guest_pasid(struct world *w)
{
	return (w->round & 0x7f) << 13;
}

static int call_add(struct world *w)
{
	return kvm_ioasid_add(w->vm.dev, w->fd, w->ids[0], guest_pasid(w));
}

static int call_del(struct world *w)
{
	return kvm_ioasid_del(w->vm.dev, guest_pasid(w));
}

static int call_map_replace(struct world *w)
{
	return kvm_ioasid_replace(w->vm.dev, w->fd, w->ids[0], guest_pasid(w));
}

static int call_map_clear(struct world *w)
{
	return kvm_ioasid_clear(w->vm.dev);
}

static int call_map_list(struct world *w)
{
	struct kvm_ioasid_entry entry;
	__u32 count = 1;

	return kvm_ioasid_get(w->vm.dev, 0, &count, &entry);
}

static const struct op vm_create = {
	.missing = "no KVM", .setup = setup_machine, .prepare = prepare_vm,
	.call = call_create, .undo = undo_vm,
};
static const struct op vm_add = {
	.missing = "no KVM", .setup = setup_map, .call = call_add,
	.undo = call_del,
};
static const struct op vm_replace = {
	.missing = "no KVM", .setup = setup_map, .prepare = call_add,
	.call = call_map_replace, .undo = call_del,
};
static const struct op vm_del = {
	.missing = "no KVM", .setup = setup_map, .prepare = call_add,
	.call = call_del, .cannot_fail = true,
};
static const struct op vm_clear = {
	.missing = "no KVM", .setup = setup_map, .prepare = call_add,
	.call = call_map_clear, .cannot_fail = true,
};
static const struct op vm_list = {
	.missing = "no KVM", .setup = setup_map, .prepare = call_add,
	.call = call_map_list, .undo = call_del, .cannot_fail = true,
};

static void snapshot(struct world *w, char text[SNAPSHOT_LEN])
{
	struct ioasid_query query[2] = {};
	struct ioasid_info info = {};
	int ret[2] = {}, device = -1;
	int i;

	if (w->fd >= 0) {
		ioasid_get_info(w->fd, &info);
		for (i = 0; i < 2; i++)
			ret[i] = ioasid_query(w->fd, w->ids[i], &query[i]);
	}
	if (w->mediated && w->ch.dev.device >= 0 && w->ch.regs)
		device = pdma_get_ioasid(&w->ch.dev);
	for (i = 0; i < 2; i++)
		if (ret[i])
			query[i] = (struct ioasid_query){};
	snprintf(text, SNAPSHOT_LEN,
		 "quota %u active %u parked %u, first %u %u %u, second %u %u %u, device %d, rows %d, cgroup %lld",
		 info.quota, info.active, info.parked, query[0].state,
		 query[0].users, query[0].attachments, query[1].state,
		 query[1].users, query[1].attachments, device, debugfs_rows(),
		 w->group ? current_of(w->group) : -1);
}

static void prepare(struct __test_metadata *_metadata, struct world *w)
{
	w->round++;
	if (w->op->prepare)
		ASSERT_EQ(0, w->op->prepare(w));
}

static void expect_unchanged(struct __test_metadata *_metadata,
			     struct world *w)
{
	if (w->dma)
		expect_running(_metadata, &w->ch);
}

static void expect_success(struct __test_metadata *_metadata, struct world *w)
{
	if (w->op->blocks_dma)
		expect_blocked(&w->ch);
	w->dma = false;
	if (w->op->undo)
		ASSERT_EQ(0, w->op->undo(w));
}

FIXTURE(fail_nth)
{
	struct world *w;
	struct sweep sweep;
	char uuid[PDMA_UUID_LEN + 1];
	char group[64];
};

FIXTURE_VARIANT(fail_nth)
{
	const struct op *op;
};

#define OP(_name)							\
	FIXTURE_VARIANT_ADD(fail_nth, _name) {				\
		.op = &_name,						\
	}

OP(get_info);
OP(alloc_one);
OP(alloc_some);
OP(alloc_far);
OP(free_few);
OP(free_many);
OP(query);
OP(set_quota);
OP(first_open);
OP(later_open);
OP(close_of_many);
OP(fdinfo);
OP(device_open);
OP(device_set);
OP(device_replace);
OP(device_drop);
OP(park_by_free);
OP(park_by_close);
OP(park_of_many);
OP(last_put);
OP(recycle);
OP(vm_create);
OP(vm_add);
OP(vm_replace);
OP(vm_del);
OP(vm_clear);
OP(vm_list);

FIXTURE_SETUP(fail_nth)
{
	const struct op *op = variant->op;
	const char *why;
	struct world *w;
	int ret;

	w = calloc(1, sizeof(*w));
	ASSERT_NE(NULL, w);
	self->w = w;
	w->op = op;
	w->fd = -1;
	w->owner = -1;
	w->attach = -1;
	pdma_init(&w->ch.dev);
	vm_init(&w->vm);
	self->sweep = (struct sweep){
		.w = w,
		.prepare = prepare,
		.call = op->call,
		.snapshot = snapshot,
		.expect_unchanged = expect_unchanged,
		.expect_success = expect_success,
		.cannot_fail = op->cannot_fail,
		.settles = true,
	};
	why = sweep_open(_metadata, &self->sweep, op->by_worker ? "N" : "Y");
	if (why)
		SKIP(return, "%s", why);
	if (!find_controller(&why)) {
		snprintf(self->group, sizeof(self->group),
			 CGROUP_ROOT "/ioasid-fail-nth-%d", getpid());
		ASSERT_EQ(0, mkdir(self->group, 0755));
		ASSERT_EQ(0, enter(self->group));
		w->group = self->group;
	}

	ret = op->setup(w);
	memcpy(self->uuid, w->ch.uuid, sizeof(self->uuid));
	if (ret == -ENOENT && w->fd < 0)
		SKIP(return, "no " IOASID_DEV);
	if (ret > 0)
		SKIP(return, "%s", op->missing ?: "no PASID DMA engine");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN_PARENT(fail_nth)
{
	set_failures("Y");
	if (self->uuid[0])
		EXPECT_EQ(0, pdma_remove(self->uuid));
	/* Everything is uncharged, and the test has left the cgroup */
	if (self->group[0]) {
		EXPECT_EQ(0, wait_current(self->group, 0));
		EXPECT_TRUE(wait_until(!rmdir(self->group)));
	}
}

TEST_F(fail_nth, failure_is_enomem_and_changes_nothing)
{
	if (variant->op->takes_long && short_run())
		SKIP(return, LONG_ONLY);
	sweep_each(_metadata, &self->sweep, sweep_round);
}

TEST_F(fail_nth, lack_of_all_memory_changes_nothing)
{
	sweep_all(_metadata, &self->sweep, sweep_round);
}

TEST_HARNESS_MAIN

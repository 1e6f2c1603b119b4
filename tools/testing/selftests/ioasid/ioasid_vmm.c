// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test IOASIDs with QEMU as the VMM and stock kernels as guests
 *
 * One guest gets PASIDs from the VMM through VT-d virtual commands, the other
 * chooses them on its own (see Documentation/userspace-api/ioasid.rst). Booting
 * is slow, so the tests of a guest share two machines. They run in the order of
 * the table below. Each leaves both machines running and without PASIDs, except
 * for the tests that start or end them.
 */
#include "../kselftest.h"
#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "pdma_utils.h"
#include "vmm_utils.h"

#define HALF	PDMA_MAX_LEN
#define PERIOD	100

/* Quota of the second machine */
#define QUOTA	"16"

/* A PASID that no guest allocates */
#define UNKNOWN	0xabcde

/* Virtual command registers of VT-d */
#define VCMD		0xe00
#define VCRSP		0xe10
#define VCCAP		0xe30
#define VCMD_ALLOC	1ULL
#define VCMD_FREE(n)	(2ULL | (unsigned long long)(n) << 16)
#define VCRSP_IP	1
#define VCRSP_STATUS(r)	((r) >> 1 & 0x7f)
#define VCRSP_RESULT(r)	((r) >> 16)
#define VC_UNDEFINED	1
#define VC_NO_PASID	16	/* FREE: not allocated */

struct machines {
	const char *guest;
	bool first;
	char parent[NAME_MAX + 1];
	struct pdma_bar bar;
	int kmsg;
	struct vmm vm[2];
	bool up[2];
};

#define CHECK(cond) do {						\
	if (!(cond)) {							\
		ksft_print_msg("%s:%d: %s\n", __func__, __LINE__, #cond); \
		return false;						\
	}								\
} while (0)

#define CHECK_EQ(want, have) do {					\
	long long __want = (want), __have = (have);			\
									\
	if (__want != __have) {						\
		ksft_print_msg("%s:%d: %s is %lld, not %lld\n", __func__, \
			       __LINE__, #have, __have, __want);	\
		return false;						\
	}								\
} while (0)

/* Machines */

static bool stop(struct machines *m, unsigned int nr)
{
	m->up[nr] = false;
	CHECK_EQ(0, vmm_close(&m->vm[nr]));
	return true;
}

static bool start(struct machines *m, unsigned int nr, const char *qemu,
		  const char *ioasid)
{
	struct vmm_config config = {
		.qemu = qemu, .guest = m->guest, .ioasid = ioasid, .port = nr,
		.fd = -1,
	};

	if (m->up[nr])
		CHECK(stop(m, nr));
	m->up[nr] = true;
	CHECK_EQ(0, vmm_start(&m->vm[nr], m->parent, &config));
	return true;
}

static bool ready(struct machines *m, unsigned int nr)
{
	int ret = vmm_wait_ready(&m->vm[nr]);

	if (ret)
		vmm_show(&m->vm[nr]);
	CHECK_EQ(0, ret);
	return true;
}

/* A PASID of the guest and its IOASID */
struct pair {
	int pasid;
	__u32 id;
};

static bool alloc(struct machines *m, unsigned int nr, struct pair *pair)
{
	__u32 ids[VMM_MAX_IDS];
	int n = debugfs_ids(ids);

	CHECK(n >= 0);
	pair->pasid = vmm_alloc(&m->vm[nr]);
	if (pair->pasid <= 0) {
		ksft_print_msg("%s: %d\n", __func__, pair->pasid);
		vmm_show(&m->vm[nr]);
	}
	CHECK(pair->pasid > 0);
	CHECK_EQ(1, debugfs_others(ids, n, &pair->id));
	return true;
}

/* Stock QEMU */

static bool stock_qemu_assigns_the_function(struct machines *m)
{
	struct vmm *vm = &m->vm[0];

	CHECK(start(m, 0, getenv("VMM_STOCK_QEMU"), NULL));
	CHECK(ready(m, 0));
	ksft_print_msg("Linux %s\n", vm->release);
	CHECK_EQ(-ENXIO, vmm_bind(vm, 0, 1));
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	CHECK_EQ(0, kmsg_faults(m->kmsg, 0));
	CHECK(stop(m, 0));
	return true;
}

/* QEMU with the ioasid object */

static bool guest_sees_the_function(struct machines *m)
{
	CHECK(start(m, 0, getenv("VMM_QEMU"), ""));
	CHECK(start(m, 1, getenv("VMM_QEMU"), "quota=" QUOTA));
	CHECK(ready(m, 0));
	ksft_print_msg("Linux %s\n", m->vm[0].release);
	return true;
}

static bool dma_arrives_in_the_guest(struct machines *m)
{
	struct vmm *vm = &m->vm[0];
	struct pair pair;

	CHECK(alloc(m, 0, &pair));
	CHECK(vmm_row_is(pair.id, "active", "kvm=1"));
	CHECK_EQ(0, vmm_bind(vm, 0, pair.pasid));
	CHECK(vmm_row_is(pair.id, "active", "mdev=1,kvm=1"));
	CHECK(bar_find_channel(&m->bar, pair.id) >= 0);
	CHECK_EQ(0, vmm_ask(vm, "pattern 0 %u", HALF));
	CHECK_EQ(0, vmm_copy(vm, 0, HALF, 0, HALF));
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	CHECK(vmm_row_is(pair.id, "active", "kvm=1"));
	CHECK_EQ(0, vmm_free(vm, pair.pasid));
	CHECK(vmm_wait_recycled(pair.id));
	CHECK_EQ(0, kmsg_faults(m->kmsg, 0));
	return true;
}

static bool unknown_number_is_refused_silently(struct machines *m)
{
	struct vmm *vm = &m->vm[0];
	char msg[8192];

	CHECK_EQ(-ENXIO, vmm_bind(vm, 0, UNKNOWN));
	CHECK_EQ(-ENXIO, vmm_stream(vm, 0, 0, PDMA_PAGE_SIZE, PERIOD));
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	CHECK_EQ(0, kmsg_next(m->kmsg, msg, sizeof(msg)));
	return true;
}

/* Each stream reaches the memory of its own guest only */
static bool same_number_in_two_guests_does_not_meet(struct machines *m)
{
	struct vmm *one = &m->vm[0], *two = &m->vm[1];
	struct pair a, b;

	/* It booted during the previous tests */
	CHECK(ready(m, 1));
	CHECK(alloc(m, 0, &a));
	CHECK(alloc(m, 1, &b));
	CHECK_EQ(a.pasid, b.pasid);
	CHECK(a.id != b.id);
	CHECK_EQ(0, vmm_bind(one, 0, a.pasid));
	CHECK_EQ(0, vmm_bind(two, 0, b.pasid));

	vmm_poison(one, 0);
	vmm_poison(two, 0);
	CHECK_EQ(0, vmm_stream(one, 0, 0, PDMA_PAGE_SIZE, PERIOD));
	CHECK(wait_until(vmm_written(one, 0) > 100));
	CHECK_EQ(0, vmm_written(two, 0));
	CHECK_EQ(0, vmm_stop(one, 0));
	vmm_poison(one, 0);
	CHECK_EQ(0, vmm_stream(two, 0, 0, PDMA_PAGE_SIZE, PERIOD));
	CHECK(wait_until(vmm_written(two, 0) > 100));
	CHECK_EQ(0, vmm_written(one, 0));

	/* Freeing one does not affect the other */
	CHECK_EQ(0, vmm_bind(one, 0, 0));
	CHECK_EQ(0, vmm_free(one, a.pasid));
	CHECK(vmm_wait_recycled(a.id));
	vmm_poison(two, 0);
	CHECK(wait_until(vmm_written(two, 0) > 100));
	CHECK_EQ(0, vmm_bind(two, 0, 0));
	CHECK_EQ(0, vmm_free(two, b.pasid));
	CHECK(vmm_wait_recycled(b.id));
	CHECK_EQ(0, kmsg_faults(m->kmsg, 0));
	return true;
}

/* Start a stream of guest 0 with a new PASID */
static bool start_stream(struct machines *m, struct pair *pair)
{
	struct vmm *vm = &m->vm[0];

	CHECK(alloc(m, 0, pair));
	CHECK_EQ(0, vmm_bind(vm, 0, pair->pasid));
	vmm_poison(vm, 0);
	CHECK_EQ(0, vmm_stream(vm, 0, 0, PDMA_PAGE_SIZE, PERIOD));
	CHECK(wait_until(vmm_written(vm, 0) > 100));
	return true;
}

/* The engine keeps trying, and nothing reaches memory */
static bool is_blocked(struct machines *m, int channel)
{
	struct vmm *vm = &m->vm[0];
	__u64 done = bar_done(&m->bar, channel);
	__u64 tried = bar_refused(&m->bar, channel);

	vmm_poison(vm, 0);
	CHECK(wait_until(bar_refused(&m->bar, channel) >= tried + 100));
	CHECK_EQ(done, bar_done(&m->bar, channel));
	CHECK_EQ(0, vmm_written(vm, 0));
	return true;
}

static bool free_blocks_a_stream(struct machines *m)
{
	__u64 faults = bar_recorded(&m->bar);
	struct vmm *vm = &m->vm[0];
	struct pair pair, other[8];
	int channel, i;

	CHECK(start_stream(m, &pair));
	channel = bar_find_channel(&m->bar, pair.id);
	CHECK(channel >= 0);
	CHECK_EQ(0, vmm_free(vm, pair.pasid));
	CHECK(is_blocked(m, channel));
	/* KVM drops its reference a grace period after the map entry */
	CHECK(wait_until(vmm_row_is(pair.id, "parked", "mdev=1")));
	CHECK_EQ(faults, bar_recorded(&m->bar));
	CHECK_EQ(0, kmsg_faults(m->kmsg, 0));

	/* The channel keeps the parked IOASID, so the number is not reused */
	CHECK_EQ(0, vmm_stop(vm, 0));
	CHECK_EQ(-ESHUTDOWN, vmm_stream(vm, 0, 0, PDMA_PAGE_SIZE, PERIOD));
	for (i = 0; i < 8; i++) {
		CHECK(alloc(m, 1, &other[i]));
		CHECK(other[i].id != pair.id);
	}
	for (i = 0; i < 8; i++)
		CHECK_EQ(0, vmm_free(&m->vm[1], other[i].pasid));
	for (i = 0; i < 8; i++)
		CHECK(vmm_wait_recycled(other[i].id));

	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	CHECK(vmm_wait_recycled(pair.id));
	return true;
}

static bool freed_number_is_unknown(struct machines *m)
{
	struct vmm *vm = &m->vm[0];
	struct pair pair;

	CHECK(alloc(m, 0, &pair));
	CHECK_EQ(0, vmm_free(vm, pair.pasid));
	CHECK(vmm_wait_recycled(pair.id));
	CHECK_EQ(-ENXIO, vmm_bind(vm, 0, pair.pasid));
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	return true;
}

static bool end_of_the_guests_program_gives_all_back(struct machines *m)
{
	__u64 faults = bar_recorded(&m->bar);
	struct pair pair[3];
	int i;

	for (i = 0; i < 2; i++)
		CHECK(alloc(m, 0, &pair[i]));
	CHECK(start_stream(m, &pair[2]));
	CHECK_EQ(0, vmm_ask(&m->vm[0], "close"));
	for (i = 0; i < 3; i++)
		CHECK(vmm_wait_recycled(pair[i].id));
	CHECK_EQ(faults, bar_recorded(&m->bar));
	CHECK_EQ(0, vmm_ask(&m->vm[0], "open"));
	CHECK_EQ(0, vmm_find_buffer(&m->vm[0]));
	return true;
}

/* The guest resets the function (FLR) */
static bool reset_of_the_function_stops_it(struct machines *m)
{
	struct vmm *vm = &m->vm[0];
	struct pair pair;

	CHECK(start_stream(m, &pair));
	CHECK_EQ(0, vmm_ask(vm, "write /sys/bus/pci/devices/%s/reset 1",
			    VMM_FUNCTION));
	vmm_poison(vm, 0);
	CHECK(wait_until(vmm_row_is(pair.id, "active", "kvm=1")));
	CHECK_EQ(0, vmm_written(vm, 0));
	CHECK_EQ(0, vmm_bind(vm, 0, pair.pasid));
	CHECK_EQ(0, vmm_copy(vm, 0, HALF, 0, 4096));
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	CHECK_EQ(0, vmm_free(vm, pair.pasid));
	CHECK(vmm_wait_recycled(pair.id));
	return true;
}

/* Execute a virtual command by writes of @len bytes; returns the response */
static long long vcmd(struct vmm *vm, unsigned long long cmd, int len)
{
	long long ret;

	if (len == 8) {
		ret = vmm_ask(vm, "vtd-write %u 8 %llu", VCMD, cmd);
	} else {
		ret = vmm_ask(vm, "vtd-write %u 4 %llu", VCMD + 4, cmd >> 32);
		if (!ret)
			ret = vmm_ask(vm, "vtd-write %u 4 %llu", VCMD,
				      cmd & 0xffffffff);
	}
	if (ret)
		return ret;
	if (!wait_until(!(vmm_ask(vm, "vtd-read %u 8", VCRSP) & VCRSP_IP)))
		return -ETIMEDOUT;
	return vmm_ask(vm, "vtd-read %u 8", VCRSP);
}

/* Commands that violate the specification */
static bool bad_virtual_commands_change_nothing(struct machines *m)
{
	static const struct {
		unsigned long long cmd;
		int status;
	} bad[] = {
		{ 0, VC_UNDEFINED },
		{ 3, VC_UNDEFINED },
		{ 0xff, VC_UNDEFINED },
		{ VCMD_FREE(0), VC_NO_PASID },
		{ VCMD_FREE(UNKNOWN), VC_NO_PASID },
		{ VCMD_FREE(0xfffff), VC_NO_PASID },
		/* Bits above the PASID must not be ignored */
		{ VCMD_FREE(1ULL << 20 | 1), VC_NO_PASID },
		{ VCMD_FREE(1ULL << 47 | 1), VC_NO_PASID },
	};
	struct vmm *vm = &m->vm[0];
	__u32 ids[VMM_MAX_IDS], id;
	struct pair pair;
	unsigned int i;
	int n;

	CHECK(alloc(m, 0, &pair));
	CHECK_EQ(1, pair.pasid);
	n = debugfs_ids(ids);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		CHECK_EQ(bad[i].status << 1, vcmd(vm, bad[i].cmd, 8));
		CHECK_EQ(bad[i].status << 1, vcmd(vm, bad[i].cmd, 4));
	}
	/* Read-only registers */
	CHECK_EQ(0, vmm_ask(vm, "vtd-write %u 8 %llu", VCRSP, ~0ULL));
	CHECK_EQ(VC_NO_PASID << 1, vmm_ask(vm, "vtd-read %u 8", VCRSP));
	CHECK_EQ(0, vmm_ask(vm, "vtd-write %u 8 %llu", VCCAP, ~0ULL));
	CHECK_EQ(1, vmm_ask(vm, "vtd-read %u 8", VCCAP));
	CHECK_EQ(0, debugfs_others(ids, n, &id));
	CHECK_EQ(n, debugfs_ids(ids));
	CHECK(vmm_row_is(pair.id, "active", "kvm=1"));
	CHECK_EQ(0, vmm_free(vm, pair.pasid));
	CHECK(vmm_wait_recycled(pair.id));
	return true;
}

/* 32-bit writes work, too, and a PASID can be freed only once */
static bool virtual_commands_by_halves(struct machines *m)
{
	__u32 ids[VMM_MAX_IDS], id;
	int n = debugfs_ids(ids), len;
	struct vmm *vm = &m->vm[0];
	long long ret;

	for (len = 4; len <= 8; len += 4) {
		ret = vcmd(vm, VCMD_ALLOC, len);
		CHECK_EQ(0, VCRSP_STATUS(ret));
		CHECK(VCRSP_RESULT(ret) > 0);
		CHECK_EQ(1, debugfs_others(ids, n, &id));
		CHECK(vmm_row_is(id, "active", "kvm=1"));
		CHECK_EQ(0, vcmd(vm, VCMD_FREE(VCRSP_RESULT(ret)), len));
		CHECK(vmm_wait_recycled(id));
		CHECK_EQ(VC_NO_PASID << 1,
			 vcmd(vm, VCMD_FREE(VCRSP_RESULT(ret)), len));
	}
	return true;
}

/* Suspend, migration, snapshots */

/*
 * Translation is off meanwhile: if the guest chooses its PASIDs, they are
 * mapped to other IOASIDs afterwards
 */
static bool suspended_guest_keeps_its_numbers(struct machines *m)
{
	__u64 faults = bar_recorded(&m->bar), done;
	__u32 ids[VMM_MAX_IDS], id;
	int n = debugfs_ids(ids);
	struct vmm *vm = &m->vm[0];
	char line[VMM_LINE];
	struct pair pair;

	CHECK(start_stream(m, &pair));
	CHECK_EQ(0, vmm_write_line(vm->port, "write /sys/power/state mem\n"));
	CHECK(wait_until(!vmm_qmp(vm, "query-status", "") &&
			 strstr(vm->answer, "\"suspended\"")));
	done = bar_done(&m->bar, 0);
	pdma_sleep_ms(100);
	CHECK_EQ(done, bar_done(&m->bar, 0));
	CHECK_EQ(0, vmm_qmp(vm, "system_wakeup", ""));
	CHECK_EQ(0, vmm_read_line(&vm->in[0], vm->port, line, sizeof(line),
				  IOASID_WAIT_MS));
	CHECK(!strncmp(line, "ok", 2));

	/* Suspend has reset the device */
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	CHECK_EQ(0, vmm_bind(vm, 0, pair.pasid));
	CHECK(wait_until(debugfs_others(ids, n, &id) == 1));
	CHECK(vmm_row_is(id, "active", "mdev=1,kvm=1"));
	CHECK_EQ(0, vmm_ask(vm, "pattern 0 %u", HALF));
	CHECK_EQ(0, vmm_copy(vm, 0, HALF, 0, HALF));
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	CHECK_EQ(0, vmm_free(vm, pair.pasid));
	CHECK(vmm_wait_recycled(id));
	CHECK_EQ(faults, bar_recorded(&m->bar));
	return true;
}

static bool device_is_not_migrated(struct machines *m)
{
	struct vmm *vm = &m->vm[0];
	struct pair pair;

	CHECK(alloc(m, 0, &pair));
	CHECK_EQ(-EINVAL, vmm_qmp(vm, "migrate", "'uri': 'file:/dev/null'"));
	CHECK(strstr(vm->answer, "VFIO migration is not supported"));
	CHECK(vmm_row_is(pair.id, "active", "kvm=1"));
	CHECK_EQ(0, vmm_free(vm, pair.pasid));
	CHECK(vmm_wait_recycled(pair.id));
	return true;
}

/* The result of a virtual command, or -1 if it fails */
static long long vcmd_result(struct vmm *vm, unsigned long long cmd)
{
	long long ret = vcmd(vm, cmd, 8);

	return ret < 0 || VCRSP_STATUS(ret) ? -1 : VCRSP_RESULT(ret);
}

/* How many IOASIDs the file has, PARKED ones included, or -errno */
static int count_ioasids(int fd)
{
	struct ioasid_info info;
	int ret = ioasid_get_info(fd, &info);

	return ret ?: (int)(info.active + info.parked);
}

/* Start a machine without a device, whose ioasid object uses @fd */
static int start_without_device(struct machines *m, struct vmm *vm, int fd,
				const char *const *more)
{
	char ioasid[16];
	struct vmm_config config = {
		.qemu = getenv("VMM_QEMU"), .guest = m->guest,
		.ioasid = ioasid, .fd = fd, .more = more,
	};

	snprintf(ioasid, sizeof(ioasid), "fd=%d", fd);
	return vmm_start(vm, NULL, &config);
}

/* Migrate the guest of @from to @to, which was started for that */
static bool move_guest(struct vmm *from, struct vmm *to)
{
	char uri[PDMA_PATH_LEN + 16], path[PDMA_PATH_LEN];

	vmm_path(path, from->dir, "stream", NULL);
	snprintf(uri, sizeof(uri), "'uri': 'unix:%s'", path);
	CHECK_EQ(0, vmm_qmp_hello(to));
	CHECK_EQ(0, vmm_qmp(to, "migrate-incoming", uri));
	CHECK_EQ(0, vmm_qmp(from, "migrate", uri));
	/* All of the guest's memory is copied */
	CHECK(wait_until_ms(!vmm_qmp(from, "query-migrate", "") &&
			    strstr(from->answer, "\"completed\""),
			    VMM_BOOT_MS));
	CHECK(wait_until(!vmm_qmp(to, "query-status", "") &&
			 strstr(to->answer, "\"running\": true")));
	unlink(path);
	return true;
}

/* The guest can free and allocate after migration. @pasid: its two PASIDs */
static bool goes_on(struct vmm *vm, int fd, const long long pasid[2])
{
	CHECK_EQ(2, count_ioasids(fd));
	CHECK_EQ(0, vmm_qmp(vm, "query-ioasid", ""));
	CHECK_EQ(0, vcmd_result(vm, VCMD_FREE(pasid[0])));
	CHECK_EQ(-1, vcmd_result(vm, VCMD_FREE(pasid[0])));
	CHECK(wait_until(count_ioasids(fd) == 1));
	CHECK(vcmd_result(vm, VCMD_ALLOC) > 0);
	CHECK_EQ(2, count_ioasids(fd));
	CHECK_EQ(0, vcmd_result(vm, VCMD_FREE(pasid[1])));
	CHECK(wait_until(count_ioasids(fd) == 1));
	return true;
}

static bool migrate_between(struct machines *m, struct vmm *from,
			    struct vmm *to, const int fd[2])
{
	static const char *const incoming[] = { "-incoming", "defer", NULL };
	long long pasid[2];
	int ret;

	CHECK_EQ(0, start_without_device(m, from, fd[0], NULL));
	CHECK_EQ(0, start_without_device(m, to, fd[1], incoming));
	ret = vmm_wait_booted(from);
	if (ret)
		vmm_show(from);
	CHECK_EQ(0, ret);
	pasid[0] = vcmd_result(from, VCMD_ALLOC);
	pasid[1] = vcmd_result(from, VCMD_ALLOC);
	CHECK(pasid[0] > 0 && pasid[1] > 0 && pasid[0] != pasid[1]);
	CHECK_EQ(2, count_ioasids(fd[0]));
	CHECK_EQ(0, count_ioasids(fd[1]));

	if (!move_guest(from, to)) {
		vmm_show(from);
		vmm_show(to);
		return false;
	}
	vmm_kill(from);
	CHECK(goes_on(to, fd[1], pasid));
	return true;
}

static bool migrated_guest_keeps_its_numbers(struct machines *m)
{
	struct vmm from = { .port = -1, .qmp = -1 }, to = from;
	int fd[2] = { ioasid_open(), ioasid_open() };
	bool ok;

	CHECK(fd[0] >= 0 && fd[1] >= 0);
	ok = migrate_between(m, &from, &to, fd);
	CHECK_EQ(0, vmm_close(&from));
	CHECK_EQ(0, vmm_close(&to));
	close(fd[0]);
	close(fd[1]);
	return ok;
}

/* Wait for a job of the monitor. Returns whether it succeeded. */
static bool job_done(struct vmm *vm, const char *id)
{
	char args[64];

	snprintf(args, sizeof(args), "'id': '%s'", id);
	CHECK(wait_until_ms(!vmm_qmp(vm, "query-jobs", "") &&
			    strstr(vm->answer, "\"concluded\""),
			    VMM_BOOT_MS));
	if (strstr(vm->answer, "\"error\"")) {
		ksft_print_msg("%s\n", vm->answer);
		return false;
	}
	CHECK_EQ(0, vmm_qmp(vm, "job-dismiss", args));
	return true;
}

/* Add a disk for the state of the machine, which the guest does not see */
static bool add_disk(struct vmm *vm, const char *path)
{
	char args[PDMA_PATH_LEN + 128];

	snprintf(args, sizeof(args),
		 "'job-id': 'file', 'options': {'driver': 'file', 'filename': '%s', 'size': 0}",
		 path);
	CHECK_EQ(0, vmm_qmp(vm, "blockdev-create", args));
	CHECK(job_done(vm, "file"));
	snprintf(args, sizeof(args),
		 "'driver': 'file', 'filename': '%s', 'node-name': 'file'",
		 path);
	CHECK_EQ(0, vmm_qmp(vm, "blockdev-add", args));
	snprintf(args, sizeof(args),
		 "'job-id': 'disk', 'options': {'driver': 'qcow2', 'file': 'file', 'size': %d}",
		 1 << 20);
	CHECK_EQ(0, vmm_qmp(vm, "blockdev-create", args));
	CHECK(job_done(vm, "disk"));
	CHECK_EQ(0, vmm_qmp(vm, "blockdev-add",
			    "'driver': 'qcow2', 'file': 'file', 'node-name': 'disk'"));
	return true;
}

static bool snapshot(struct machines *m, struct vmm *vm, int fd,
		     const char *path)
{
	static const char job[] =
		"'job-id': 'state', 'tag': 's', 'vmstate': 'disk', 'devices': ['disk']";
	long long pasid[2];
	int ret;

	CHECK_EQ(0, start_without_device(m, vm, fd, NULL));
	ret = vmm_wait_booted(vm);
	if (ret)
		vmm_show(vm);
	CHECK_EQ(0, ret);
	CHECK(add_disk(vm, path));
	pasid[0] = vcmd_result(vm, VCMD_ALLOC);
	pasid[1] = vcmd_result(vm, VCMD_ALLOC);
	CHECK(pasid[0] > 0 && pasid[1] > 0);
	CHECK_EQ(0, vmm_qmp(vm, "snapshot-save", job));
	CHECK(job_done(vm, "state"));

	/* The snapshot is from before this free and this allocation */
	CHECK_EQ(0, vcmd_result(vm, VCMD_FREE(pasid[0])));
	CHECK(vcmd_result(vm, VCMD_ALLOC) > 0);
	CHECK(vcmd_result(vm, VCMD_ALLOC) > 0);
	CHECK_EQ(3, count_ioasids(fd));
	CHECK_EQ(0, vmm_qmp(vm, "snapshot-load", job));
	CHECK(job_done(vm, "state"));
	CHECK(wait_until(count_ioasids(fd) == 2));
	CHECK(goes_on(vm, fd, pasid));
	return true;
}

static bool snapshot_has_the_numbers(struct machines *m)
{
	char path[] = "/dev/shm/vmm-disk-XXXXXX";
	struct vmm vm = { .port = -1, .qmp = -1 };
	int disk = mkstemp(path), fd = ioasid_open();
	bool ok;

	CHECK(disk >= 0 && fd >= 0);
	close(disk);
	ok = snapshot(m, &vm, fd, path);
	unlink(path);
	CHECK_EQ(0, vmm_close(&vm));
	close(fd);
	return ok;
}

/* The guest reboots without freeing anything */
static bool reset_rounds(struct machines *m, bool crash)
{
	__u64 faults = bar_recorded(&m->bar);
	int round, rounds = short_run() ? 1 : 25;
	struct vmm *vm = &m->vm[0];
	struct pair pair;

	for (round = 0; round < rounds; round++) {
		CHECK(start_stream(m, &pair));
		if (crash)
			CHECK_EQ(0, vmm_ask(vm, "crash"));
		else
			CHECK_EQ(0, vmm_qmp(vm, "system_reset", ""));
		CHECK(vmm_wait_recycled(pair.id));
		CHECK(ready(m, 0));
		CHECK_EQ(faults, bar_recorded(&m->bar));
	}
	return true;
}

static bool reset_of_the_machine_recycles(struct machines *m)
{
	return reset_rounds(m, false);
}

static bool crash_of_the_guest_recycles(struct machines *m)
{
	return reset_rounds(m, true);
}

/* Ends both machines: kill one and make the other quit */
static bool end_of_qemu_recycles(struct machines *m)
{
	__u64 faults = bar_recorded(&m->bar);
	struct vmm *vm = &m->vm[0];
	struct pair pair, other;

	CHECK(start_stream(m, &pair));
	vmm_kill(vm);
	vmm_poison(vm, 0);
	usleep(100000);
	CHECK_EQ(0, vmm_written(vm, 0));
	CHECK(vmm_wait_recycled(pair.id));
	CHECK_EQ(-ENOENT, bar_find_channel(&m->bar, pair.id));

	CHECK(alloc(m, 1, &other));
	CHECK_EQ(0, vmm_bind(&m->vm[1], 0, other.pasid));
	vmm_qmp(&m->vm[1], "quit", "");
	CHECK(vmm_wait_end(&m->vm[1]));
	CHECK(vmm_wait_recycled(other.id));

	CHECK_EQ(faults, bar_recorded(&m->bar));
	CHECK_EQ(0, kmsg_faults(m->kmsg, 0));
	CHECK(stop(m, 0));
	CHECK(stop(m, 1));
	return true;
}

/* Whether the guest allocates with virtual commands */
static bool asks_for_numbers(struct machines *m)
{
	return vmm_log(&m->vm[0], "Register_custom_PASID_allocator") == 1;
}

/*
 * A virtual command fails with a status. A guest that chooses its PASIDs gets
 * no error then, but the device rejects the PASID.
 */
static bool quota_is_an_error_for_the_guest(struct machines *m)
{
	struct pair pair[16];
	struct vmm *vm = &m->vm[1];
	uint64_t began;
	int i, pasid;

	for (i = 0; i < atoi(QUOTA); i++)
		CHECK(alloc(m, 1, &pair[i]));
	began = now_us();
	pasid = vmm_alloc(vm);
	CHECK(now_us() - began < 5000000);
	if (asks_for_numbers(m)) {
		CHECK_EQ(-ENOSPC, pasid);
	} else {
		CHECK(pasid > 0);
		CHECK_EQ(-ENXIO, vmm_bind(vm, 0, pasid));
		CHECK_EQ(0, vmm_free(vm, pasid));
	}
	CHECK_EQ(0, vmm_free(vm, pair[0].pasid));
	CHECK(vmm_wait_recycled(pair[0].id));
	CHECK(alloc(m, 1, &pair[0]));
	CHECK_EQ(0, vmm_bind(vm, 0, pair[0].pasid));
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	for (i = 0; i < atoi(QUOTA); i++)
		CHECK_EQ(0, vmm_free(vm, pair[i].pasid));
	for (i = 0; i < atoi(QUOTA); i++)
		CHECK(vmm_wait_recycled(pair[i].id));
	return true;
}

static bool cycles_leave_nothing_behind(struct machines *m)
{
	__u32 ids[VMM_MAX_IDS], id;
	int n = debugfs_ids(ids), i;

	for (i = 0; i < times(100); i++)
		CHECK_EQ(0, vmm_ask(&m->vm[0], "cycle 0 10"));
	CHECK(wait_until(!debugfs_others(ids, n, &id)));
	CHECK_EQ(n, debugfs_ids(ids));
	return true;
}

/* Watch guest 0's stream and latency while guest 1 floods its VMM */
static bool storm_of_commands_hurts_only_its_guest(struct machines *m)
{
	unsigned int ms = short_run() ? 3000 : 60000;
	uint64_t began, us, most = 0, end;
	struct vmm *storm = &m->vm[1];
	char line[VMM_LINE];
	struct pair pair;
	__u64 before;
	int n = 0, ret;

	CHECK(start_stream(m, &pair));
	ret = snprintf(line, sizeof(line), "storm %u\n", ms);
	CHECK_EQ(0, vmm_write_line(storm->port, line));
	for (end = now_us() + ms * 1000ULL; now_us() < end; n++) {
		before = bar_done(&m->bar,
				  bar_find_channel(&m->bar, pair.id));
		began = now_us();
		ret = vmm_alloc(&m->vm[0]);
		CHECK(ret > 0);
		CHECK_EQ(0, vmm_free(&m->vm[0], ret));
		us = now_us() - began;
		most = us > most ? us : most;
		CHECK(wait_until(bar_done(&m->bar,
					  bar_find_channel(&m->bar, pair.id)) >
				 before));
	}
	CHECK_EQ(0, vmm_read_line(&storm->in[0], storm->port, line,
				  sizeof(line), IOASID_WAIT_MS));
	if (strncmp(line, "ok ", 3)) {
		/* The line is "ready" if the guest has rebooted */
		ksft_print_msg("the answer to storm is: %s\n", line);
		return false;
	}
	ksft_print_msg("%s commands; the other guest: %d allocations, %llu us at most\n",
		       line + 3, n, (unsigned long long)most);
	CHECK(most < 5000000);
	CHECK_EQ(0, vmm_bind(&m->vm[0], 0, 0));
	CHECK_EQ(0, vmm_free(&m->vm[0], pair.pasid));
	CHECK(vmm_wait_recycled(pair.id));
	return true;
}

/* Unplug the device during a stream, and plug it in again */
static bool unplug_recycles(struct machines *m)
{
	__u64 faults = bar_recorded(&m->bar);
	struct vmm *vm = &m->vm[1];
	char args[256];
	struct pair pair;

	CHECK(alloc(m, 1, &pair));
	CHECK_EQ(0, vmm_bind(vm, 0, pair.pasid));
	CHECK_EQ(0, vmm_stream(vm, 0, 0, PDMA_PAGE_SIZE, PERIOD));
	CHECK_EQ(0, vmm_qmp(vm, "device_del", "'id': 'pdma'"));
	CHECK(vmm_wait_recycled(pair.id));
	vmm_ask(vm, "close");
	/* Fails until the guest has released the device */
	snprintf(args, sizeof(args),
		 "'driver': 'vfio-pci', 'id': 'pdma', 'bus': 'rp', 'sysfsdev': '/sys/bus/mdev/devices/%s'",
		 vm->uuid);
	CHECK(wait_until(!vmm_qmp(vm, "device_add", args)));
	CHECK(wait_until(!vmm_ask(vm, "open")));
	CHECK_EQ(0, vmm_find_buffer(vm));
	CHECK(alloc(m, 1, &pair));
	CHECK_EQ(0, vmm_bind(vm, 0, pair.pasid));
	CHECK_EQ(0, vmm_copy(vm, 0, HALF, 0, 4096));
	CHECK_EQ(0, vmm_bind(vm, 0, 0));
	CHECK_EQ(0, vmm_free(vm, pair.pasid));
	CHECK(vmm_wait_recycled(pair.id));
	CHECK_EQ(faults, bar_recorded(&m->bar));
	CHECK_EQ(0, kmsg_faults(m->kmsg, 0));
	return true;
}

/* Check that QEMU exits with an error message that contains @text */
static bool refused(struct machines *m, int fd, const char *ioasid,
		    const char *text)
{
	struct vmm_config config = {
		.qemu = getenv("VMM_QEMU"), .guest = m->guest,
		.ioasid = ioasid, .fd = fd,
	};
	struct vmm vm;
	bool ok;

	CHECK_EQ(0, vmm_start(&vm, NULL, &config));
	ok = vmm_wait_end(&vm) && WIFEXITED(vm.status) &&
	     WEXITSTATUS(vm.status) == 1 && vmm_said(&vm, text);
	if (!ok)
		vmm_show(&vm);
	vmm_close(&vm);
	CHECK(ok);
	return true;
}

static bool bad_objects_are_clear_errors(struct machines *m)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int used = ioasid_open();
	char arg[32];
	__u32 id;

	CHECK(null >= 0 && used >= 0);
	snprintf(arg, sizeof(arg), "fd=%d", null);
	CHECK(refused(m, null, arg, "is not a file of /dev/ioasid"));
	CHECK_EQ(0, ioasid_alloc(used, 0, 0, 1, &id));
	snprintf(arg, sizeof(arg), "fd=%d", used);
	CHECK(refused(m, used, arg, "the file has 1 IOASIDs already"));
	CHECK(refused(m, -1, "quota=0", "quota must not be 0"));
	close(null);
	close(used);
	return true;
}

/* Run mdevctl and store its output. Returns its exit status. */
static int mdevctl(char *out, size_t len, const char *fmt, ...)
{
	char cmd[512], *next = out;
	va_list args;
	size_t n;
	FILE *f;

	n = snprintf(cmd, sizeof(cmd), "%s ", getenv("VMM_MDEVCTL"));
	va_start(args, fmt);
	vsnprintf(cmd + n, sizeof(cmd) - n, fmt, args);
	va_end(args);
	f = popen(cmd, "r");
	if (!f)
		return -errno;
	while ((n = fread(next, 1, out + len - 1 - next, f)) > 0)
		next += n;
	*next = 0;
	return pclose(f);
}

static bool mdevctl_manages_the_devices(struct machines *m)
{
	static const char *const folders[] = {
		"/etc", "/etc/mdevctl.d", "/etc/mdevctl.d/scripts.d",
		"/etc/mdevctl.d/scripts.d/callouts",
		"/etc/mdevctl.d/scripts.d/notifiers",
	};
	char out[8192], uuid[PDMA_UUID_LEN + 1], want[512];
	int available = pdma_available(m->parent);
	unsigned int i;

	/* Like the mdevctl package */
	for (i = 0; i < ARRAY_SIZE(folders); i++)
		mkdir(folders[i], 0755);
	CHECK_EQ(0, mdevctl(out, sizeof(out), "types --parent %s", m->parent));
	snprintf(want, sizeof(want), "Available instances: %d", available);
	CHECK(strstr(out, PDMA_TYPE) && strstr(out, want) &&
	      strstr(out, "Device API: vfio-pci"));

	CHECK_EQ(0, pdma_new_uuid(uuid));
	CHECK_EQ(0, mdevctl(out, sizeof(out),
			    "start --uuid %s --parent %s --type " PDMA_TYPE,
			    uuid, m->parent));
	CHECK(pdma_mdev_exists(uuid));
	CHECK_EQ(available - 1, pdma_available(m->parent));
	CHECK_EQ(0, mdevctl(out, sizeof(out), "list"));
	snprintf(want, sizeof(want), "%s %s " PDMA_TYPE, uuid, m->parent);
	CHECK(strstr(out, want));
	CHECK_EQ(0, mdevctl(out, sizeof(out), "stop --uuid %s", uuid));
	CHECK(!pdma_mdev_exists(uuid));
	CHECK_EQ(available, pdma_available(m->parent));
	return true;
}

/*
 * @program: variable that names the program under test, if not VMM_QEMU
 * @once: run it for the first guest only
 * @guests: bit mask of the guests to run it for in a short run
 */
struct test {
	const char *name;
	bool (*run)(struct machines *m);
	const char *program;
	bool once;
	unsigned int guests;
};

#define FIRST	1
#define SECOND	2
#define ALL	3

static const struct test tests[] = {
	{ .name = "mdevctl_manages_the_devices",
	  .run = mdevctl_manages_the_devices, .guests = ALL, .once = true,
	  .program = "VMM_MDEVCTL" },
	{ .name = "bad_objects_are_clear_errors",
	  .run = bad_objects_are_clear_errors, .guests = ALL, .once = true },
	{ .name = "stock_qemu_assigns_the_function",
	  .run = stock_qemu_assigns_the_function, .guests = FIRST,
	  .program = "VMM_STOCK_QEMU" },
	{ .name = "guest_sees_the_function",
	  .run = guest_sees_the_function, .guests = ALL },
	{ .name = "dma_arrives_in_the_guest",
	  .run = dma_arrives_in_the_guest, .guests = ALL },
	{ .name = "unknown_number_is_refused_silently",
	  .run = unknown_number_is_refused_silently, .guests = ALL },
	{ .name = "same_number_in_two_guests_does_not_meet",
	  .run = same_number_in_two_guests_does_not_meet, .guests = ALL },
	{ .name = "free_blocks_a_stream",
	  .run = free_blocks_a_stream, .guests = ALL },
	{ .name = "freed_number_is_unknown",
	  .run = freed_number_is_unknown, .guests = ALL },
	{ .name = "end_of_the_guests_program_gives_all_back",
	  .run = end_of_the_guests_program_gives_all_back, .guests = ALL },
	{ .name = "reset_of_the_function_stops_it",
	  .run = reset_of_the_function_stops_it, .guests = ALL },
	{ .name = "bad_virtual_commands_change_nothing",
	  .run = bad_virtual_commands_change_nothing, .guests = ALL },
	{ .name = "virtual_commands_by_halves",
	  .run = virtual_commands_by_halves, .guests = ALL },
	{ .name = "quota_is_an_error_for_the_guest",
	  .run = quota_is_an_error_for_the_guest, .guests = ALL },
	{ .name = "cycles_leave_nothing_behind",
	  .run = cycles_leave_nothing_behind, .guests = ALL },
	{ .name = "suspended_guest_keeps_its_numbers",
	  .run = suspended_guest_keeps_its_numbers, .guests = ALL },
	{ .name = "device_is_not_migrated",
	  .run = device_is_not_migrated, .guests = FIRST },
	{ .name = "migrated_guest_keeps_its_numbers",
	  .run = migrated_guest_keeps_its_numbers, .guests = FIRST },
	{ .name = "snapshot_has_the_numbers",
	  .run = snapshot_has_the_numbers, .guests = FIRST },
	{ .name = "storm_of_commands_hurts_only_its_guest",
	  .run = storm_of_commands_hurts_only_its_guest, .guests = FIRST },
	{ .name = "unplug_recycles", .run = unplug_recycles, .guests = ALL },
	{ .name = "reset_of_the_machine_recycles",
	  .run = reset_of_the_machine_recycles, .guests = FIRST },
	{ .name = "crash_of_the_guest_recycles",
	  .run = crash_of_the_guest_recycles, .guests = SECOND },
	{ .name = "end_of_qemu_recycles",
	  .run = end_of_qemu_recycles, .guests = ALL },
};

static bool has(const struct machines *m, const struct test *test)
{
	return !test->once || m->first;
}

/* The reason to skip @test, or NULL */
static const char *skipped(const struct machines *m, const struct test *test)
{
	const char *program = getenv(test->program ?: "VMM_QEMU");

	if (short_run() && !(test->guests & (m->first ? FIRST : SECOND)))
		return LONG_ONLY;
	if (!vmm_has_guest(m->guest))
		return "no such guest";
	if (!program || access(program, X_OK))
		return "no such program";
	return NULL;
}

/* Release what a failed test has left behind */
static void clean_up(struct machines *m)
{
	unsigned int nr;

	for (nr = 0; nr < 2; nr++) {
		if (!m->up[nr] || !vmm_runs(&m->vm[nr]))
			continue;
		if (vmm_ask(&m->vm[nr], "close") == -ETIMEDOUT) {
			vmm_show(&m->vm[nr]);
			continue;
		}
		vmm_ask(&m->vm[nr], "open");
		vmm_find_buffer(&m->vm[nr]);
	}
	kmsg_faults(m->kmsg, 0);
}

static void run(struct machines *m, const struct test *test)
{
	const char *why = skipped(m, test);
	uint64_t began = now_us();
	bool ok;

	if (why) {
		ksft_test_result_skip("%s\n", why);
		return;
	}
	ok = test->run(m);
	ksft_print_msg("%s: %llu ms\n", test->name,
		       (unsigned long long)(now_us() - began) / 1000);
	ksft_test_result(ok, "%s %s\n", m->guest, test->name);
	if (!ok)
		clean_up(m);
}

static void run_guest(const char *guest, bool first)
{
	struct machines m = { .guest = guest, .first = first };
	unsigned int i;

	if (pdma_find_parent(0, m.parent) || bar_map(&m.bar, m.parent))
		ksft_exit_fail_msg("no DMA engine\n");
	m.kmsg = kmsg_open();
	for (i = 0; i < ARRAY_SIZE(tests); i++)
		if (has(&m, &tests[i]))
			run(&m, &tests[i]);
	for (i = 0; i < 2; i++)
		if (m.up[i])
			stop(&m, i);
	close(m.kmsg);
	bar_unmap(&m.bar);
}

/* Arguments: names of guests */
int main(int argc, char **argv)
{
	static const char *const all[] = { "bookworm", "trixie" };
	const char *const *guests = argc > 1 ?
		(const char *const *)argv + 1 : all;
	unsigned int count = argc > 1 ? argc - 1 : ARRAY_SIZE(all), plan = 0, i;
	const char *why = vmm_missing();
	char parent[NAME_MAX + 1];

	ksft_print_header();
	if (!why && pdma_find_parent(0, parent))
		why = "no DMA engine";
	if (why)
		ksft_exit_skip("%s\n", why);
	for (i = 0; i < ARRAY_SIZE(tests); i++)
		plan += tests[i].once ? 1 : count;
	ksft_set_plan(plan);
	for (i = 0; i < count; i++)
		run_guest(guests[i], !i);
	ksft_finished();
}

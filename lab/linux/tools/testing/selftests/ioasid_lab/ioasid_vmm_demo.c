// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life cycle of the PASIDs of two virtual machines, step by step
 *
 * Runs on the host and starts two guests with QEMU. The guests run stock
 * kernels: Debian 12 allocates PASIDs through virtual commands, Debian 13
 * chooses them on its own. All figures are read from the device, the host's
 * kernel, a guest or a guest's memory at the time of printing, and checked.
 */
#include <pthread.h>

#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "pdma_utils.h"
#include "story_utils.h"
#include "vmm_utils.h"

#define QUOTA	"4"
#define HALF	PDMA_MAX_LEN
#define PERIOD	100
#define MANY	2000
#define MORE	16

/* Virtual command response register of VT-d */
#define VCRSP			0xe10
#define VCRSP_STATUS(val)	((val) >> 1 & 0x7f)
#define VCRSP_NO_PASID		16

struct guest {
	const char *name;
	const char *folder;
	struct vmm vm;
	int pasid;
	__u32 id;
	int channel;		/* channel number in the engine */
	__u64 last;
	__u64 done;
	__u64 refused;
};

static struct guest guests[2] = {
	{ .name = "guest 1", .folder = "bookworm" },
	{ .name = "guest 2", .folder = "trixie" },
};

static struct pdma_bar bar;

static __u64 engine_counter(struct guest *g)
{
	return bar_read64(&bar, PDMA_CHANNEL_PAGE(g->channel) + PDMA_COUNTER);
}

static void start_qemu(struct guest *g, const char *parent, const char *quota)
{
	struct vmm_config config = {
		.qemu = getenv("VMM_QEMU"), .guest = g->folder,
		.ioasid = quota, .fd = -1,
	};

	must(vmm_start(&g->vm, parent, &config), "start QEMU");
}

static void wait_ready(struct guest *g)
{
	int ret = vmm_wait_ready(&g->vm);

	if (ret)
		vmm_show(&g->vm);
	must(ret, g->name);
	tell(true, g->name, "Linux %s, has the device", g->vm.release);
}

/* Allocate a PASID in the guest; @id is its IOASID */
static int alloc(struct guest *g, __u32 *id)
{
	__u32 ids[VMM_MAX_IDS];
	int n = must(debugfs_ids(ids), "debugfs"), pasid;

	pasid = must(vmm_alloc(&g->vm), "allocate a PASID in the guest");
	if (debugfs_others(ids, n, id) != 1)
		*id = 0;
	return pasid;
}

static void tell_row(__u32 id, const char *state, const char *holders)
{
	struct ioasid_row row = {};
	char what[64];

	snprintf(what, sizeof(what), "the host lists IOASID %u as", id);
	debugfs_ioasid(id, &row);
	tell(!strcmp(row.state, state) && !strcmp(row.holders, holders), what,
	     "%s, held by %s", row.state, row.holders);
}

/* Holders of an IOASID right after it was freed */
struct watch {
	pthread_t thread;
	__u32 id;
	struct ioasid_row row;
	bool seen;
};

static void *watch_park(void *arg)
{
	struct watch *w = arg;

	w->seen = wait_until(!debugfs_ioasid(w->id, &w->row) &&
			     !strcmp(w->row.state, "parked") &&
			     !strstr(w->row.holders, "other"));
	return NULL;
}

static void watch_start(struct watch *w, __u32 id)
{
	*w = (struct watch){ .id = id };
	must(-pthread_create(&w->thread, NULL, watch_park, w),
	     "start a thread");
}

/*
 * QEMU deletes the mapping right after the free, and KVM drops its reference a
 * grace period later: the thread may miss that state.
 */
static void tell_parked(struct watch *w)
{
	pthread_join(w->thread, NULL);
	tell(w->seen && (!strcmp(w->row.holders, "mdev=1,kvm=1") ||
			 !strcmp(w->row.holders, "mdev=1")),
	     "right after the free, it was", "%s, held by %s", w->row.state,
	     w->row.holders);
	tell(wait_until(vmm_row_is(w->id, "parked", "mdev=1")),
	     "after a grace period, it is", "parked, held by mdev=1");
}

static void tell_log(int kmsg)
{
	int lines = kmsg_faults(kmsg, 0);

	tell(!lines, "fault lines in the host's log", "%d", lines);
}

static void tell_bind(struct guest *g)
{
	int ret = vmm_bind(&g->vm, 0, g->pasid);
	char what[64];

	g->channel = bar_find_channel(&bar, g->id);
	snprintf(what, sizeof(what), "%s programs number %d", g->name,
		 g->pasid);
	tell(!ret && g->channel >= 0, what, "%s; channel %d of the engine has %u",
	     ret ? strerror(-ret) : "accepted", g->channel, g->id);
}

static void tell_copy(struct guest *g)
{
	int ret;
	char what[64];

	vmm_ask(&g->vm, "pattern 0 %u", HALF);
	ret = vmm_copy(&g->vm, 0, HALF, 0, HALF);
	snprintf(what, sizeof(what), "%s copies %u bytes", g->name, HALF);
	tell(!ret, what, "%s", ret ? strerror(-ret) : "all of them arrived");
}

static void start_stream(struct guest *g)
{
	must(vmm_stream(&g->vm, 0, 0, PDMA_PAGE_SIZE, PERIOD),
	     "start a stream");
}

/* Compare the engine's counter with the guest's memory */
static void tell_stream(struct guest *g)
{
	__u64 first = engine_counter(g), now, value;
	char what[64];
	bool ok;

	ok = wait_until(engine_counter(g) >= first + MANY / 10);
	now = engine_counter(g);
	value = vmm_page(&g->vm, 0)[now % (PDMA_PAGE_SIZE / 8)];
	snprintf(what, sizeof(what), "%s streams with number %d", g->name,
		 g->pasid);
	tell(ok && value >= now, what, "value %llu is in its memory",
	     (unsigned long long)value);
}

/* Call this right after the DMA was blocked: values that arrive later are late */
static void note_last(struct guest *g)
{
	g->done = bar_done(&bar, g->channel);
	g->last = engine_counter(g);
	g->refused = bar_refused(&bar, g->channel);
	vmm_poison(&g->vm, 0);
}

static void tell_blocked(struct guest *g, __u64 faults)
{
	__u64 tried, late;
	unsigned int written;

	wait_until(bar_refused(&bar, g->channel) >= g->refused + MANY);
	tried = bar_refused(&bar, g->channel) - g->refused;
	late = bar_done(&bar, g->channel) - g->done;
	written = vmm_written(&g->vm, 0);
	tell(g->last > 0 && engine_counter(g) == g->last,
	     "the counter is at", "%llu", (unsigned long long)g->last);
	tell(!late && !written, "late writes",
	     "%llu by the device's count, %u in guest memory",
	     (unsigned long long)late, written);
	tell(tried >= MANY, "requests blocked so far", "%llu",
	     (unsigned long long)tried);
	tell(bar_recorded(&bar) == faults, "faults that the IOMMU reported",
	     "%llu", (unsigned long long)(bar_recorded(&bar) - faults));
}

static void tell_recycled(__u32 id)
{
	bool gone = vmm_wait_recycled(id);
	char what[64];

	snprintf(what, sizeof(what), "IOASID %u is", id);
	tell(gone, what, "%s", gone ? "recycled" : "still there");
}

static void tell_none_left(const __u32 *ids, int count)
{
	__u32 left = 0, id;
	bool none;

	none = wait_until(!(left = debugfs_others(ids, count, &id)));
	tell(none, "IOASIDs of it that the host still has", "%u", left);
}

static void tell_not_reused(struct guest *g, __u32 parked)
{
	__u32 ids[MORE], pasids[MORE];
	unsigned int i, same = 0;

	for (i = 0; i < MORE; i++) {
		pasids[i] = alloc(g, &ids[i]);
		same += ids[i] == parked;
	}
	tell(!same, "guest 2 allocates more numbers", "%u, none of them is %u",
	     MORE, parked);
	for (i = 0; i < MORE; i++)
		must(vmm_free(&g->vm, pasids[i]), "free a PASID in the guest");
}

static void tell_quota(struct guest *g)
{
	int n = 0, pasid, status;
	uint64_t start, us;

	do {
		start = now_us();
		pasid = vmm_alloc(&g->vm);
		us = now_us() - start;
		n += pasid > 0;
	} while (pasid > 0 && n < 100);
	status = VCRSP_STATUS(vmm_ask(&g->vm, "vtd-read %u 8", VCRSP));
	tell(n == atoi(QUOTA), "numbers that guest 1 gets", "%d", n);
	tell(pasid == -ENOSPC && us < 1000000, "the next one, in the guest",
	     "%s, after %llu us", pasid < 0 ? strerror(-pasid) : "a number",
	     (unsigned long long)us);
	tell(status == VCRSP_NO_PASID, "status of the virtual command",
	     "%d (no PASID available)", status);
}

static void tell_killed(struct guest *g, int kmsg, __u64 faults)
{
	unsigned int written;

	vmm_kill(&g->vm);
	vmm_poison(&g->vm, 0);
	usleep(200000);
	written = vmm_written(&g->vm, 0);
	tell(WIFSIGNALED(g->vm.status) && WTERMSIG(g->vm.status) == SIGKILL,
	     "QEMU", "%s", strsignal(WTERMSIG(g->vm.status)));
	tell(!written, "late writes in the memory of the guest", "%u", written);
	tell(bar_recorded(&bar) == faults, "faults that the IOMMU reported",
	     "%llu", (unsigned long long)(bar_recorded(&bar) - faults));
	tell_log(kmsg);
}

int main(void)
{
	struct guest *one = &guests[0], *two = &guests[1];
	__u32 ids[VMM_MAX_IDS], before;
	char parent[NAME_MAX + 1];
	const char *why = vmm_missing();
	struct watch watch;
	uint64_t began, us;
	int kmsg, n;
	__u64 faults;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (why) {
		printf("FAILED: %s\n", why);
		return 1;
	}
	must(pdma_find_parent(0, parent), "find a DMA engine");
	must(bar_map(&bar, parent), "map the registers of the engine");
	kmsg = must(kmsg_open(), "open the kernel log");
	faults = bar_recorded(&bar);
	before = must(debugfs_ids(ids), "debugfs");

	step("QEMU starts two virtual machines, each with a mediated device");
	start_qemu(one, parent, "quota=" QUOTA);
	start_qemu(two, parent, "");
	wait_ready(one);
	wait_ready(two);
	n = vmm_log(&one->vm, "Register_custom_PASID_allocator");
	tell(n == 1, "guest 1 allocates by the virtual command", "%s",
	     n == 1 ? "yes" : "no");

	step("Each guest allocates a PASID, both the same number");
	one->pasid = alloc(one, &one->id);
	/* Both guests start with the lowest PASID */
	do
		two->pasid = alloc(two, &two->id);
	while (two->pasid < one->pasid);
	tell(one->pasid == two->pasid, "numbers in the guests", "%d and %d",
	     one->pasid, two->pasid);
	tell(one->id && two->id && one->id != two->id, "IOASIDs in the host",
	     "%u and %u", one->id, two->id);
	tell_row(one->id, "active", "kvm=1");
	tell_row(two->id, "active", "kvm=1");

	step("Each guest gives its number to the device, and DMA arrives");
	tell_bind(one);
	tell_bind(two);
	tell_row(one->id, "active", "mdev=1,kvm=1");
	tell_row(two->id, "active", "mdev=1,kvm=1");
	tell_copy(one);
	tell_copy(two);

	step("Both stream with that number, each to its own memory");
	vmm_poison(&two->vm, 0);
	start_stream(one);
	tell_stream(one);
	n = vmm_written(&two->vm, 0);
	tell(!n, "values in the memory of guest 2 meanwhile", "%d", n);
	start_stream(two);
	tell_stream(two);
	tell_stream(one);

	step("Guest 1 frees its number, while the device streams");
	watch_start(&watch, one->id);
	began = now_us();
	must(vmm_free(&one->vm, one->pasid), "free the PASID in the guest");
	us = now_us() - began;
	note_last(one);
	tell(us < 2000000, "the guest's free returned after", "%llu us",
	     (unsigned long long)us);
	tell_blocked(one, faults);
	tell_log(kmsg);
	tell_parked(&watch);
	tell_not_reused(two, one->id);
	tell_stream(two);

	step("The device releases it");
	must(vmm_bind(&one->vm, 0, 0), "take the PASID from the channel");
	tell_recycled(one->id);

	step("Guest 1 allocates up to its quota of " QUOTA);
	tell_quota(one);

	step("QEMU of guest 2 is killed, while the device streams");
	tell_stream(two);
	tell_killed(two, kmsg, faults);
	tell_recycled(two->id);

	step("Guest 1 closes its device, starts again, and powers off");
	must(vmm_ask(&one->vm, "close"), "close the device in the guest");
	tell_none_left(ids, before);
	must(vmm_ask(&one->vm, "open"), "open the device in the guest");
	one->pasid = alloc(one, &one->id);
	tell_bind(one);
	tell_copy(one);
	vmm_ask(&one->vm, "poweroff");
	tell(vmm_wait_end(&one->vm) && WIFEXITED(one->vm.status) &&
	     !WEXITSTATUS(one->vm.status), "QEMU", "has exited on its own");
	tell_none_left(ids, before);
	tell_log(kmsg);

	must(vmm_close(&one->vm), "remove a mediated device");
	must(vmm_close(&two->vm), "remove a mediated device");
	return end_of_story();
}

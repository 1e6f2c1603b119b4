// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life cycle of two IOASIDs, step by step
 *
 * All figures are read from the kernel or the device at the time of printing,
 * and checked. A wrong figure is marked and makes the exit status 1. Everything
 * shown here is tested more thoroughly by the tests; this program is meant to
 * be read.
 */
#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "kvm_utils.h"
#include "pdma_utils.h"
#include "story_utils.h"

#define IOVA 0x100000ULL
#define BUF_LEN PDMA_MAX_LEN
#define POISON 0x5a5a5a5a5a5a5a5aULL
#define MANY 2000

/* The guest's PASID for the owner's IOASID */
#define GUEST_PASID 7

struct device {
	char label[NAME_MAX + 32];
	struct pdma_bar bar;
	char uuid[PDMA_UUID_LEN + 1];
	struct pdma_dev dev;
	volatile __u64 *buf;
	/* Counters at the time of park */
	__u64 last, done, refused, faults;
};

static void device_open(struct device *d, const char *parent, const char *name)
{
	bool ats = pci_ats_enabled(parent);
	void *buf = pdma_alloc_buffer(BUF_LEN);

	snprintf(d->label, sizeof(d->label), "%s (%s%s)", name, parent,
		 ats ? ", ATS" : "");
	must(buf ? 0 : -ENOMEM, "allocate memory");
	d->buf = buf;
	must(bar_map(&d->bar, parent), "map the registers of a device");
	must(pdma_create(parent, d->uuid), "create a mediated device");
	must(pdma_open_cdev(&d->dev, d->uuid, NULL), "open a mediated device");
	must(pdma_map(&d->dev, buf, IOVA, BUF_LEN), "map memory for DMA");
}

static void device_close(struct device *d)
{
	pdma_close(&d->dev);
	must(pdma_remove(d->uuid), "remove a mediated device");
}

static void tell_copy(struct device *d, __u32 id)
{
	unsigned char *buf = (unsigned char *)d->buf;
	unsigned int half = BUF_LEN / 2, i, same = 0;
	char what[64];
	int ret;

	for (i = 0; i < half; i++) {
		buf[i] = 0;
		buf[half + i] = i * 13 + i / 256 + 1;
	}
	ret = pdma_copy_wait(&d->dev, IOVA, IOVA + half, half);
	for (i = 0; i < half; i++)
		same += buf[i] == buf[half + i];
	snprintf(what, sizeof(what), "copied with PASID %u", id);
	tell(!ret && same == half, what, "%u of %u bytes arrived, by %s", same,
	     half, d->label);
}

static void start_stream(struct device *d)
{
	must(pdma_stream(&d->dev, IOVA, BUF_LEN, 50, 4), "start a stream");
}

static void tell_stream(struct device *d, __u32 id)
{
	__u64 first = pdma_counter(&d->dev), now, value;
	char what[64];
	int ret;

	ret = pdma_wait_reg(&d->dev, PDMA_COUNTER, first + 1000);
	now = pdma_counter(&d->dev);
	value = d->buf[now % (BUF_LEN / 8)];
	snprintf(what, sizeof(what), "streams with PASID %u", id);
	tell(!ret && value >= now, what, "value %llu is in memory, by %s",
	     (unsigned long long)value, d->label);
}

/* Call this right after DMA was blocked: values that arrive later are late */
static void note_last(struct device *d)
{
	size_t i;

	d->done = pdma_done(&d->dev);
	d->last = pdma_counter(&d->dev);
	d->refused = pdma_refused(&d->dev);
	for (i = 0; i < BUF_LEN / sizeof(*d->buf); i++)
		d->buf[i] = POISON;
}

/* The device keeps trying: nothing arrives, and no fault is reported */
static void tell_blocked(struct device *d, const char *since)
{
	__u64 tried, late;
	size_t i, written = 0;
	char what[64];

	pdma_wait_refused(&d->dev, MANY);
	tried = pdma_refused(&d->dev) - d->refused;
	late = pdma_done(&d->dev) - d->done;
	for (i = 0; i < BUF_LEN / sizeof(*d->buf); i++)
		written += d->buf[i] != POISON;

	printf("    %s\n", d->label);
	tell(d->last > 0, "last counter value seen", "%llu",
	     (unsigned long long)d->last);
	snprintf(what, sizeof(what), "writes after %s returned", since);
	tell(!late && !written, what, "%llu by the device's count, %zu in memory",
	     (unsigned long long)late, written);
	tell(tried >= MANY, "requests blocked so far", "%llu",
	     (unsigned long long)tried);
	tell(bar_recorded(&d->bar) == d->faults, "faults that the IOMMU reported",
	     "%llu", (unsigned long long)(bar_recorded(&d->bar) - d->faults));
}

static void tell_log(int kmsg)
{
	int lines = kmsg_faults(kmsg, 0);

	tell(!lines, "fault lines in the kernel log", "%d", lines);
}

/* @holders: kinds and counts in the format of debugfs */
static void tell_row(__u32 id, const char *state, const char *holders,
		     unsigned int attachments)
{
	struct ioasid_row row;
	char what[64];
	int ret;

	snprintf(what, sizeof(what), "the kernel lists PASID %u as", id);
	ret = debugfs_ioasid(id, &row);
	if (ret) {
		tell(false, what, "%s", strerror(-ret));
		return;
	}
	tell(!strcmp(row.state, state) && !strcmp(row.holders, holders) &&
	     row.attachments == attachments, what,
	     "%s, held by %s, attached to %u devices", row.state, row.holders,
	     row.attachments);
}

/* @before: previous counter value */
static void tell_guest(struct kvm_vm *vm, __u32 before)
{
	bool counts = vm_counts(vm);

	tell(counts, "the guest's CPU executes code, it counted",
	     "%u more, to %u", vm_counter(vm) - before, vm_counter(vm));
}

/* Counts over all files opened by the process that opened @fd */
static void tell_set(int fd, __u32 active, __u32 parked)
{
	__u32 has_active = 0, has_parked = 0;

	must(ioasid_set_counts(fd, &has_active, &has_parked), "fdinfo");
	tell(has_active == active && has_parked == parked,
	     "the process is charged for", "%u active and %u parked",
	     has_active, has_parked);
}

/* @id cannot be allocated */
static void tell_taken(int fd, __u32 id)
{
	char what[64];
	__u32 got;
	int ret;

	ret = ioasid_alloc(fd, id, id, 1, &got);
	snprintf(what, sizeof(what), "allocating number %u again", id);
	tell(ret == -ENOSPC, what, "%s", ret ? strerror(-ret) : "got it");
}

static void tell_recycled(__u32 id)
{
	struct ioasid_row row;
	bool gone = wait_until(debugfs_ioasid(id, &row) == -ENOENT);
	char what[64];

	snprintf(what, sizeof(what), "PASID %u is", id);
	tell(gone, what, "%s", gone ? "recycled" : row.state);
}

int main(void)
{
	struct device dev[3] = {};
	struct ioasid_query query;
	struct ioasid_info info;
	struct kvm_vm vm;
	char parent[2][NAME_MAX + 1];
	int owner, other, kmsg, i;
	uint64_t start, us;
	__u32 ids[2], got, counted;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 0; i < 2; i++)
		must(pdma_find_parent(i, parent[i]), "find two DMA engines");
	device_open(&dev[0], parent[0], "engine 1, device 1");
	device_open(&dev[1], parent[1], "engine 2, device 1");
	device_open(&dev[2], parent[0], "engine 1, device 2");
	kmsg = must(kmsg_open(), "open the kernel log");

	step("A process opens /dev/ioasid and allocates two numbers");
	owner = must(ioasid_open(), "open " IOASID_DEV);
	other = must(ioasid_open(), "open " IOASID_DEV " once more");
	must(ioasid_get_info(owner, &info), "IOASID_GET_INFO");
	tell(info.min >= 1 && info.max <= 0xfffff, "range of numbers",
	     "%u to %u", info.min, info.max);
	must(ioasid_alloc(owner, 0, 0, 2, ids), "IOASID_ALLOC");
	tell(ids[0] != ids[1] && ids[0] && ids[1], "numbers allocated",
	     "%u and %u", ids[0], ids[1]);
	tell_set(owner, 2, 0);

	step("It passes file and numbers to the drivers and to KVM, and DMA arrives");
	for (i = 0; i < 3; i++)
		must(pdma_set_ioasid(&dev[i].dev, owner, ids[i / 2]),
		     "VFIO_DEVICE_FEATURE_IOASID");
	for (i = 0; i < 3; i++)
		tell_copy(&dev[i], ids[i / 2]);
	must(vm_open(&vm), "create a virtual machine");
	vm.dev = must(kvm_ioasid_create(vm.vm), "create KVM_DEV_TYPE_IOASID");
	must(kvm_ioasid_add(vm.dev, owner, ids[0], GUEST_PASID),
	     "KVM_DEV_IOASID_MAP_ADD");
	tell_row(ids[0], "active", "mdev=2,kvm=1", 2);
	tell_row(ids[1], "active", "mdev=1", 1);

	step("Both devices stream, two streams share a number, and a guest runs");
	for (i = 0; i < 3; i++) {
		dev[i].faults = bar_recorded(&dev[i].bar);
		start_stream(&dev[i]);
	}
	for (i = 0; i < 3; i++)
		tell_stream(&dev[i], ids[i / 2]);
	must(vm_start(&vm), "run the guest");
	tell_guest(&vm, 0);

	step("The owner frees number %u, while the device streams", ids[1]);
	start = now_us();
	must(ioasid_free(owner, 1, &ids[1]), "IOASID_FREE");
	us = now_us() - start;
	note_last(&dev[2]);
	tell(us < 1000000, "IOASID_FREE returned after", "%llu us",
	     (unsigned long long)us);
	tell_blocked(&dev[2], "IOASID_FREE");
	tell_log(kmsg);
	must(ioasid_query(owner, ids[1], &query), "IOASID_QUERY");
	tell(query.state == IOASID_STATE_PARKED && query.users == 1, "state",
	     "%s, held by %u user", query.state == IOASID_STATE_PARKED ?
	     "PARKED" : "not PARKED", query.users);
	tell_taken(other, ids[1]);
	tell_set(owner, 1, 1);
	printf("    the other streams continue\n");
	for (i = 0; i < 2; i++)
		tell_stream(&dev[i], ids[0]);

	step("The owner closes the file: number %u is blocked on both devices",
	     ids[0]);
	counted = vm_counter(&vm);
	start = now_us();
	close(owner);
	us = now_us() - start;
	for (i = 0; i < 2; i++)
		note_last(&dev[i]);
	tell(us < 1000000, "close() returned after", "%llu us",
	     (unsigned long long)us);
	for (i = 0; i < 2; i++)
		tell_blocked(&dev[i], "close()");
	tell_log(kmsg);
	printf("    the virtual machine\n");
	tell_guest(&vm, counted);
	tell(!vm.error, "what KVM_RUN has returned", "%s",
	     vm.error ? strerror(-vm.error) : "only the guest's exits");
	tell_row(ids[0], "parked", "mdev=2,kvm=1", 2);
	tell_taken(other, ids[0]);
	tell_set(other, 0, 2);

	step("The drivers and KVM release them, each in its own time");
	must(pdma_drop_all_ioasids(&dev[2].dev), "VFIO_DEVICE_FEATURE_IOASID");
	tell_recycled(ids[1]);
	must(pdma_drop_all_ioasids(&dev[0].dev), "VFIO_DEVICE_FEATURE_IOASID");
	tell_row(ids[0], "parked", "mdev=1,kvm=1", 1);
	device_close(&dev[1]);
	tell_row(ids[0], "parked", "kvm=1", 0);
	counted = vm_counter(&vm);
	tell_guest(&vm, counted);
	tell_taken(other, ids[0]);
	printf("    last, the virtual machine is destroyed\n");
	vm_close(&vm);
	tell(!vm.error, "the guest has run to its end", "%s",
	     vm.error ? strerror(-vm.error) : "without an error");
	tell_recycled(ids[0]);
	tell_set(other, 0, 0);

	step("Number %u is handed out again, and DMA arrives for its new owner",
	     ids[0]);
	got = 0;
	must(ioasid_alloc(other, ids[0], ids[0], 1, &got), "IOASID_ALLOC");
	tell(got == ids[0], "number allocated", "%u", got);
	must(pdma_set_ioasid(&dev[0].dev, other, got),
	     "VFIO_DEVICE_FEATURE_IOASID");
	tell_copy(&dev[0], got);
	tell_log(kmsg);

	device_close(&dev[0]);
	device_close(&dev[2]);
	return end_of_story();
}

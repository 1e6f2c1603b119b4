/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What kernel and hardware tell about IOASIDs besides the user ABI: kernel
 * log, trace events, debugfs, and the pages of the DMA engine that no user of
 * a mediated device sees.
 *
 * Functions that can fail return 0, a descriptor or a count, or -errno.
 */
#ifndef __SELFTEST_IOASID_WATCH_H
#define __SELFTEST_IOASID_WATCH_H

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>

#include "ioasid_utils.h"
#include "pdma_utils.h"

#define PCI_DEVICES "/sys/bus/pci/devices"

/*
 * All of the engine: control page and channel pages, beside its driver. What a
 * test writes here is what a guest could do that was given the channel, or a
 * broken host driver.
 */
struct pdma_bar {
	volatile char *regs;
	size_t len;
};

static inline int bar_map(struct pdma_bar *bar, const char *parent)
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	struct stat st;
	void *regs;
	int fd;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/resource0", parent);
	fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st)) {
		close(fd);
		return -errno;
	}
	regs = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    0);
	close(fd);
	if (regs == MAP_FAILED)
		return -errno;
	bar->regs = regs;
	bar->len = st.st_size;
	return 0;
}

static inline void bar_unmap(struct pdma_bar *bar)
{
	munmap((void *)bar->regs, bar->len);
}

static inline __u32 bar_read32(struct pdma_bar *bar, size_t reg)
{
	return *(volatile __u32 *)(bar->regs + reg);
}

static inline __u64 bar_read64(struct pdma_bar *bar, size_t reg)
{
	return *(volatile __u64 *)(bar->regs + reg);
}

static inline void bar_write32(struct pdma_bar *bar, size_t reg, __u32 val)
{
	*(volatile __u32 *)(bar->regs + reg) = val;
}

static inline void bar_write64(struct pdma_bar *bar, size_t reg, __u64 val)
{
	*(volatile __u64 *)(bar->regs + reg) = val;
}

/* Faults of this function that the IOMMU has reported, with any PASID */
static inline __u64 bar_recorded(struct pdma_bar *bar)
{
	return bar_read64(bar, PDMA_FAULTS_RECORDED);
}

/* The same for those that it was told to keep to itself */
static inline __u64 bar_suppressed(struct pdma_bar *bar)
{
	return bar_read64(bar, PDMA_FAULTS_SUPPRESSED);
}

/* The channel that DMAs with @id, or -ENOENT */
static inline int bar_find_channel(struct pdma_bar *bar, __u32 id)
{
	__u32 nr = bar_read32(bar, PDMA_CHANNELS);
	unsigned int ch;

	for (ch = 0; ch < nr; ch++)
		if (bar_read32(bar, PDMA_CTL(ch) + PDMA_CTL_PASID) ==
		    (PDMA_PASID_VALID | id))
			return ch;
	return -ENOENT;
}

static inline void bar_set_pasid(struct pdma_bar *bar, unsigned int ch,
				 __u32 val)
{
	bar_write32(bar, PDMA_CTL(ch) + PDMA_CTL_PASID, val);
}

static inline void bar_reset(struct pdma_bar *bar, unsigned int ch)
{
	bar_write32(bar, PDMA_CTL(ch) + PDMA_CTL_RESET, 1);
}

static inline __u64 bar_refused(struct pdma_bar *bar, unsigned int ch)
{
	return bar_read64(bar, PDMA_CHANNEL_PAGE(ch) + PDMA_REFUSED_COUNT);
}

static inline __u64 bar_done(struct pdma_bar *bar, unsigned int ch)
{
	return bar_read64(bar, PDMA_CHANNEL_PAGE(ch) + PDMA_DONE_COUNT);
}

static inline void bar_stop(struct pdma_bar *bar, unsigned int ch)
{
	bar_write32(bar, PDMA_CHANNEL_PAGE(ch) + PDMA_CMD, PDMA_CMD_STOP);
	bar_read32(bar, PDMA_CHANNEL_PAGE(ch) + PDMA_STATUS);
}

/* Start a stream behind the driver's back. False: the engine did not take it */
static inline bool bar_stream(struct pdma_bar *bar, unsigned int ch, __u64 dst,
			      __u32 len, __u32 period)
{
	size_t page = PDMA_CHANNEL_PAGE(ch);

	bar_write64(bar, page + PDMA_DST, dst);
	bar_write32(bar, page + PDMA_LEN, len);
	bar_write32(bar, page + PDMA_PERIOD, period);
	bar_write32(bar, page + PDMA_BURST, 1);
	bar_write32(bar, page + PDMA_CMD, PDMA_CMD_STREAM);
	return bar_read32(bar, page + PDMA_STATUS) & PDMA_STATUS_BUSY;
}

/* Whether the function has ATS, and it is on */
static inline bool pci_ats_enabled(const char *parent)
{
	char path[PDMA_PATH_LEN + NAME_MAX];
	__u8 config[4096];
	unsigned int pos = 0x100;
	__u32 header;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/config", parent);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, config, sizeof(config));
	close(fd);
	if (n != sizeof(config))
		return false;
	/* Extended capabilities: ID, version, next. ATS has ID 15 */
	while (pos && pos <= sizeof(config) - 8) {
		memcpy(&header, config + pos, sizeof(header));
		if ((header & 0xffff) == 15)
			return config[pos + 7] & 0x80;
		pos = header >> 20;
	}
	return false;
}

/* A file of the function @name in sysfs */
static inline int pci_read(const char *name, const char *file, char *buf,
			   size_t len)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", name, file);
	return pdma_read_file(path, buf, len);
}

static inline int pci_write(const char *name, const char *file, const char *buf)
{
	char path[PDMA_PATH_LEN + NAME_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", name, file);
	return pdma_write_file(path, buf);
}

/*
 * An engine with ATS, whatever driver it has: SVA takes no other, and the IOMMU
 * is told of a reset of no other.
 */
static inline int pci_find_engine(char name[NAME_MAX + 1])
{
	char vendor[16], device[16];
	struct dirent *entry;
	int ret = -ENODEV;
	DIR *dir;

	dir = opendir(PCI_DEVICES);
	if (!dir)
		return -errno;
	while (ret && (entry = readdir(dir))) {
		if (pci_read(entry->d_name, "vendor", vendor, sizeof(vendor)) ||
		    pci_read(entry->d_name, "device", device, sizeof(device)) ||
		    strtoul(vendor, NULL, 16) != PDMA_VENDOR_ID ||
		    strtoul(device, NULL, 16) != PDMA_DEVICE_ID ||
		    !pci_ats_enabled(entry->d_name))
			continue;
		snprintf(name, NAME_MAX + 1, "%s", entry->d_name);
		ret = 0;
	}
	closedir(dir);
	return ret;
}

/* Give the function to @driver, "" is whoever takes it by itself */
static inline int pci_set_driver(const char *name, const char *driver)
{
	int ret;

	ret = pci_write(name, "driver_override", driver[0] ? driver : "\n");
	if (ret)
		return ret;
	ret = pci_write(name, "driver/unbind", name);
	if (ret && ret != -ENOENT)
		return ret;
	return pdma_write_file("/sys/bus/pci/drivers_probe", name);
}

/* Function level reset, also with a driver bound to it */
static inline int pci_reset(const char *parent)
{
	return pci_write(parent, "reset", "1");
}

/* Kernel log */

/* For messages from now on */
static inline int kmsg_open(void)
{
	int fd = open("/dev/kmsg", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return lseek(fd, 0, SEEK_END) < 0 ? -errno : fd;
}

static inline void kmsg_write(int fd, const char *msg)
{
	/* Best effort: a lost marker only fails a check of the log */
	if (write(fd, msg, strlen(msg)) < 0)
		return;
}

/* The next message: 1, 0 there is none yet, or -errno */
static inline int kmsg_next(int fd, char *buf, size_t len)
{
	ssize_t n;

	do
		n = read(fd, buf, len - 1);
	while (n < 0 && errno == EPIPE);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	buf[n] = 0;
	return 1;
}

/*
 * How many of the messages that nobody has read from @fd yet are from the
 * IOMMU's fault handler. @id: of those, only faults of that PASID, 0: all.
 */
static inline int kmsg_faults(int fd, __u32 id)
{
	char msg[8192], pasid[32];
	int count = 0, ret;

	snprintf(pasid, sizeof(pasid), "PASID 0x%x]", id);
	while ((ret = kmsg_next(fd, msg, sizeof(msg))) > 0)
		if (strstr(msg, "DMAR:") && (!id || strstr(msg, pasid)))
			count++;
	return ret ? ret : count;
}

/* Whoever checks the log may ignore faults between these two, and no others */
static inline void kmsg_expect_faults(int fd, bool begin)
{
	kmsg_write(fd, begin ? "ioasid-selftest: expect-dmar-faults begin\n" :
			       "ioasid-selftest: expect-dmar-faults end\n");
}

/* debugfs: every IOASID of the machine */

struct ioasid_row {
	char state[16];
	unsigned int users;
	unsigned int attachments;
	char owner[32];
	char holders[64];	/* "mdev=1,kvm=2", "-" if nobody */
};

static inline int debugfs_ioasid(__u32 id, struct ioasid_row *row)
{
	FILE *f = fopen("/sys/kernel/debug/ioasid/ioasids", "r");
	char line[256];
	int ret = -ENOENT;
	unsigned int nr;

	if (!f)
		return -errno;
	while (ret && fgets(line, sizeof(line), f))
		if (sscanf(line, "%u %15s %u %u %31s %63s", &nr, row->state,
			   &row->users, &row->attachments, row->owner,
			   row->holders) == 6 && nr == id)
			ret = 0;
	fclose(f);
	return ret;
}

/* How many there are, with the line that says what they are */
static inline int debugfs_rows(void)
{
	char buf[4096];
	int i, rows = 0, n;
	int fd = open("/sys/kernel/debug/ioasid/ioasids", O_RDONLY);

	if (fd < 0)
		return -errno;
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (i = 0; i < n; i++)
			rows += buf[i] == '\n';
	close(fd);
	return rows;
}

/*
 * Trace events, in an instance of their own. @events: as in set_event, up to
 * the NULL behind the last one.
 */
#define TRACEFS "/sys/kernel/tracing"
#define TRACE_INSTANCE TRACEFS "/instances/ioasid-selftest"

static inline int trace_start(const char *const *events)
{
	int ret;

	/* That of a test that was killed */
	rmdir(TRACE_INSTANCE);
	if (mkdir(TRACE_INSTANCE, 0700))
		return -errno;
	for (; *events; events++) {
		int fd = open(TRACE_INSTANCE "/set_event",
			      O_WRONLY | O_APPEND | O_CLOEXEC);

		if (fd < 0)
			return -errno;
		ret = write(fd, *events, strlen(*events)) < 0 ? -errno : 0;
		close(fd);
		if (ret)
			return ret;
	}
	return 0;
}

static inline void trace_stop(void)
{
	rmdir(TRACE_INSTANCE);
}

/*
 * Call @fn with name and arguments of every event so far, oldest first. -EIO:
 * the buffer was too small for all of them.
 */
static inline int trace_for_each(void (*fn)(const char *event,
					    const char *args, void *data),
				 void *data)
{
	FILE *f = fopen(TRACE_INSTANCE "/trace", "r");
	char line[1024], *event, *args;
	int ret = 0;

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		if (strstr(line, "[LOST"))
			ret = -EIO;
		/* TASK-PID [CPU] FLAGS TIME: EVENT: ARGS */
		if (line[0] == '#')
			continue;
		event = strstr(line, ": ");
		if (!event)
			continue;
		event += 2;
		args = strstr(event, ": ");
		if (!args)
			continue;
		*args = 0;
		fn(event, args + 2, data);
	}
	fclose(f);
	return ret;
}

#endif

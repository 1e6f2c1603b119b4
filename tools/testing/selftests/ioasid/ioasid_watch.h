/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sources of information on IOASIDs besides the user ABI: kernel log, trace
 * events and debugfs
 *
 * Functions that can fail return 0, a descriptor or a count, or -errno.
 */
#ifndef __SELFTEST_IOASID_WATCH_H
#define __SELFTEST_IOASID_WATCH_H

#include <sys/stat.h>

#include "ioasid_utils.h"

/* Kernel log */

/* Start reading at the end of the log */
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

/* Read the next message. Returns 1, 0 if there is none yet, or -errno. */
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
 * Count the unread messages of @fd that come from the IOMMU fault handler. If
 * @id is not 0, count only faults with this PASID.
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

/* Faults are reported by a threaded interrupt handler: let it finish */
static inline void kmsg_drop_faults(int fd)
{
	while (usleep(100000), kmsg_faults(fd, 0) > 0)
		;
}

/* Tell scripts that check the log where faults are expected */
static inline void kmsg_expect_faults(int fd, bool begin)
{
	kmsg_write(fd, begin ? "ioasid-selftest: expect-dmar-faults begin\n" :
			       "ioasid-selftest: expect-dmar-faults end\n");
}

/* debugfs: all IOASIDs of the machine */

struct ioasid_row {
	char state[16];
	unsigned int users;
	unsigned int attachments;
	char owner[32];
	char holders[64];	/* "mdev=1,kvm=2", "-" if none */
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

/* Number of lines, including the heading */
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
 * Trace events, in a separate instance. @events is a NULL-terminated list in
 * the format of set_event.
 */
#define TRACEFS "/sys/kernel/tracing"
#define TRACE_INSTANCE TRACEFS "/instances/ioasid-selftest"

static inline int trace_start(const char *const *events)
{
	int ret;

	/* Left behind by a test that was killed */
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
 * Call @fn with the name and arguments of each event so far, oldest first.
 * Returns -EIO if events were lost because the buffer is too small.
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

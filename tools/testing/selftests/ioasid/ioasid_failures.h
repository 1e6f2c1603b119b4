/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Allocations that fail, of objects and of pages: one of those that a call
 * makes, or all of them. See Documentation/fault-injection/fault-injection.rst.
 *
 * Functions that can fail return 0 or -errno.
 */
#ifndef __SELFTEST_IOASID_FAILURES_H
#define __SELFTEST_IOASID_FAILURES_H

#include "ioasid_utils.h"
#include "pdma_utils.h"

/* Far more than any call has allocations */
#define MAX_NTH 5000

static const char *const fail_attrs[] = {
	"/sys/kernel/debug/failslab", "/sys/kernel/debug/fail_page_alloc",
};

/*
 * What may fail, in all tasks ("N") or in those that ask for it ("Y"); nothing
 * does yet. Memory of user space is left alone: that it is short is not our
 * matter.
 */
static inline int set_failures(const char *task_filter)
{
	const char *const settings[][2] = {
		{ "probability", "0" }, { "verbose", "0" },
		{ "ignore-gfp-wait", "N" }, { "interval", "1" },
		{ "space", "0" }, { "times", "-1" },
		{ "task-filter", task_filter }, {},
	};
	unsigned int i, k;
	char path[96];
	int ret;

	snprintf(path, sizeof(path), "%s/min-order", fail_attrs[1]);
	ret = pdma_write_file(path, "0");
	for (i = 0; i < 2; i++) {
		for (k = 0; !ret && settings[k][0]; k++) {
			snprintf(path, sizeof(path), "%s/%s", fail_attrs[i],
				 settings[k][0]);
			ret = pdma_write_file(path, settings[k][1]);
		}
	}
	return ret;
}

/* Of the thread that has opened it */
struct failures {
	int nth;		/* fail-nth */
	int filter;		/* make-it-fail */
	int probability[2];	/* of fail_attrs */
	bool all;		/* those that fail now */
};

/* -ENOENT: the kernel has no fault injection */
static inline int failures_open(struct failures *f, const char *task_filter)
{
	char path[96];
	int i, ret;

	f->nth = fail_nth_open();
	if (f->nth < 0)
		return f->nth;
	ret = set_failures(task_filter);
	if (ret)
		return ret;
	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/probability", fail_attrs[i]);
		f->probability[i] = open(path, O_WRONLY | O_CLOEXEC);
		if (f->probability[i] < 0)
			return -errno;
	}
	f->filter = open("/proc/thread-self/make-it-fail", O_RDWR | O_CLOEXEC);
	return f->filter < 0 ? -errno : 0;
}

/* The @nth one fails, 0: all of them */
static inline int failures_begin(struct failures *f, unsigned int nth)
{
	int i;

	f->all = !nth;
	if (!f->all)
		return fail_nth_begin(f->nth, nth);
	if (pwrite(f->filter, "1", 1, 0) != 1)
		return -EIO;
	for (i = 0; i < 2; i++)
		if (write(f->probability[i], "100", 3) != 3)
			return -EIO;
	return 0;
}

/* Whether one failed. Of all nobody knows, they would have. */
static inline bool failures_end(struct failures *f)
{
	int i;

	if (!f->all)
		return fail_nth_end(f->nth);
	for (i = 0; i < 2; i++)
		while (write(f->probability[i], "0", 1) != 1)
			;
	while (pwrite(f->filter, "0", 1, 0) != 1)
		;
	return true;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fault injection for slab and page allocations: fail one allocation of a call,
 * or all of them. See Documentation/fault-injection/fault-injection.rst.
 *
 * struct failures controls fault injection. struct sweep repeats an operation
 * until each of its allocations has failed once.
 *
 * Functions that can fail return 0 or -errno.
 */
#ifndef __SELFTEST_IOASID_FAILURES_H
#define __SELFTEST_IOASID_FAILURES_H

#include <sys/mman.h>

#include "../kselftest_harness.h"
#include "ioasid_utils.h"
#include "pdma_utils.h"

/* Far more allocations than any call makes */
#define MAX_NTH 5000

static const char *const fail_attrs[] = {
	"/sys/kernel/debug/failslab", "/sys/kernel/debug/fail_page_alloc",
};

/*
 * Configure fault injection for all tasks ("N") or only for tasks that opt in
 * ("Y"). Nothing fails until failures_begin(). Allocations for user pages never
 * fail, as they are not under test.
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

/* Fault injection for the thread that opened it */
struct failures {
	int nth;		/* fail-nth */
	int filter;		/* make-it-fail */
	int probability[2];	/* of fail_attrs */
	bool all;		/* all allocations fail now */
};

/* Returns -ENOENT if the kernel has no fault injection */
static inline int failures_open(struct failures *f, const char *task_filter)
{
	char path[96];
	int i, ret;

	ret = set_failures(task_filter);
	if (ret)
		return ret;
	f->nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (f->nth < 0)
		return -errno;
	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/probability", fail_attrs[i]);
		f->probability[i] = open(path, O_WRONLY | O_CLOEXEC);
		if (f->probability[i] < 0)
			return -errno;
	}
	f->filter = open("/proc/thread-self/make-it-fail", O_RDWR | O_CLOEXEC);
	return f->filter < 0 ? -errno : 0;
}

/* Fail the @nth allocation, or all of them if @nth is 0 */
static inline int failures_begin(struct failures *f, unsigned int nth)
{
	char buf[16];
	int i, len;

	f->all = !nth;
	if (!f->all) {
		len = snprintf(buf, sizeof(buf), "%u", nth);
		return pwrite(f->nth, buf, len, 0) == len ? 0 : -EIO;
	}
	if (pwrite(f->filter, "1", 1, 0) != 1)
		return -EIO;
	for (i = 0; i < 2; i++)
		if (write(f->probability[i], "100", 3) != 3)
			return -EIO;
	return 0;
}

/* Whether an allocation failed; assumed if all were made to fail */
static inline bool failures_end(struct failures *f)
{
	char buf[16] = {};
	ssize_t n;
	int i;

	if (!f->all) {
		n = pread(f->nth, buf, sizeof(buf) - 1, 0);
		/* This write may itself hit the injected failure */
		while (pwrite(f->nth, "0", 1, 0) != 1)
			;
		return n > 0 && !atoi(buf);
	}
	for (i = 0; i < 2; i++)
		while (write(f->probability[i], "0", 1) != 1)
			;
	while (pwrite(f->filter, "0", 1, 0) != 1)
		;
	return true;
}

/* State of the operation; defined by each program */
struct world;

#define SNAPSHOT_LEN 512

/*
 * An operation that is run repeatedly. A failing call() must leave everything
 * unchanged, and the next try must succeed.
 */
struct sweep {
	struct failures failures;
	struct world *w;

	/* Set up the state before call(). May be NULL. */
	void (*prepare)(struct __test_metadata *_metadata, struct world *w);
	/* Called with failing allocations */
	int (*call)(struct world *w);
	/* Collect all state visible to user space. May be NULL. */
	void (*snapshot)(struct world *w, char text[SNAPSHOT_LEN]);
	/* call() failed: check what snapshot() does not cover. May be NULL. */
	void (*expect_unchanged)(struct __test_metadata *_metadata,
				 struct world *w);
	/* call() succeeded: check, and restore the state before prepare() */
	void (*expect_success)(struct __test_metadata *_metadata,
			       struct world *w);

	int also[2];		/* allowed errors besides -ENOMEM */
	bool cannot_fail;
	bool settles;		/* needs time to settle after a failure */

	unsigned int errors;	/* rounds in which call() failed */
	bool failed;		/* an allocation failed in the last round */
};

/* Returns NULL, or why fault injection is not possible */
static inline const char *sweep_open(struct __test_metadata *_metadata,
				     struct sweep *s, const char *task_filter)
{
	int ret = failures_open(&s->failures, task_filter);

	if (ret == -ENOENT)
		return "no fault injection";
	ASSERT_EQ(0, ret);
	return NULL;
}

static inline void sweep_snapshot(struct sweep *s, char text[SNAPSHOT_LEN])
{
	text[0] = 0;
	if (s->snapshot)
		s->snapshot(s->w, text);
}

static inline void sweep_expect(struct __test_metadata *_metadata,
				struct sweep *s, const char *before, bool wait)
{
	char now[SNAPSHOT_LEN];

	sweep_snapshot(s, now);
	if (wait)
		wait_until((sweep_snapshot(s, now), !strcmp(before, now)));
	ASSERT_STREQ(before, now);
}

/* @nth: number of the failing allocation, 0: all fail */
static inline void sweep_round(struct __test_metadata *_metadata,
			       struct sweep *s, unsigned int nth)
{
	char start[SNAPSHOT_LEN], before[SNAPSHOT_LEN];
	int ret;

	/* Avoid page faults while allocations fail */
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	sweep_snapshot(s, start);
	if (s->prepare)
		s->prepare(_metadata, s->w);
	sweep_snapshot(s, before);

	ASSERT_EQ(0, failures_begin(&s->failures, nth));
	ret = s->call(s->w);
	s->failed = failures_end(&s->failures);
	if (ret) {
		s->errors++;
		EXPECT_FALSE(s->cannot_fail);
		EXPECT_TRUE(s->failed);
		if (ret != s->also[0] && ret != s->also[1])
			ASSERT_EQ(-ENOMEM, ret);
		sweep_expect(_metadata, s, before, s->settles);
		if (s->expect_unchanged)
			s->expect_unchanged(_metadata, s->w);
		/* The next try must succeed */
		ASSERT_EQ(0, s->call(s->w));
	}
	/* Some allocations can fail without making the call fail */
	s->expect_success(_metadata, s->w);
	/* Recycling is deferred */
	sweep_expect(_metadata, s, start, true);
}

typedef void sweep_round_fn(struct __test_metadata *_metadata, struct sweep *s,
			    unsigned int nth);

/* Fail each allocation once. @round is sweep_round() or a wrapper of it. */
static inline void sweep_each(struct __test_metadata *_metadata,
			      struct sweep *s, sweep_round_fn *round)
{
	unsigned int nth = 0;

	s->errors = 0;
	do {
		round(_metadata, s, ++nth);
	} while (s->failed && nth < MAX_NTH);
	EXPECT_FALSE(s->failed);
	if (!s->cannot_fail)
		EXPECT_LT(0, s->errors);
	TH_LOG("%u rounds, %u errors", nth, s->errors);
}

/* Fail all allocations for the whole duration of the call */
static inline void sweep_all(struct __test_metadata *_metadata,
			     struct sweep *s, sweep_round_fn *round)
{
	s->errors = 0;
	round(_metadata, s, 0);
	EXPECT_EQ(!s->cannot_fail, s->errors);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Create cgroups (v2) and read the misc controller's values for IOASIDs
 *
 * Functions that can fail return 0 or a count, or -errno.
 */
#ifndef __SELFTEST_IOASID_CGROUP_UTILS_H
#define __SELFTEST_IOASID_CGROUP_UTILS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mount.h>

#include "ioasid_utils.h"
#include "pdma_utils.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

static inline int group_write(const char *group, const char *file,
			      const char *val)
{
	char path[PDMA_PATH_LEN];

	snprintf(path, sizeof(path), "%.200s/%.64s", group, file);
	return pdma_write_file(path, val);
}

/* Value of the line of @file that starts with @key, or -errno */
static inline long long group_read(const char *group, const char *file,
				   const char *key)
{
	char path[PDMA_PATH_LEN], name[64], val[64];
	long long ret = -ENOENT;
	FILE *f;

	snprintf(path, sizeof(path), "%.200s/%.64s", group, file);
	f = fopen(path, "r");
	if (!f)
		return -errno;
	while (ret == -ENOENT && fscanf(f, "%63s %63s", name, val) == 2)
		if (!strcmp(name, key))
			ret = strtoll(val, NULL, 10);
	fclose(f);
	return ret;
}

/* On error, @why says what is missing */
static inline int enable_controller(const char *name, const char **why)
{
	static char missing[96];
	char line[256];
	int ret;

	*why = "no cgroup v2";
	if (access(CGROUP_ROOT "/cgroup.controllers", F_OK) &&
	    mount("cgroup2", CGROUP_ROOT, "cgroup2", 0, NULL))
		return -errno;

	snprintf(missing, sizeof(missing), "no %.32s controller", name);
	*why = missing;
	ret = pdma_read_file(CGROUP_ROOT "/cgroup.controllers", line,
			     sizeof(line));
	if (ret)
		return ret;
	if (!strstr(line, name))
		return -ENODEV;

	/* Stays enabled after the test, which is harmless */
	snprintf(missing, sizeof(missing),
		 "the %.32s controller cannot be enabled", name);
	snprintf(line, sizeof(line), "+%.32s", name);
	return group_write(CGROUP_ROOT, "cgroup.subtree_control", line);
}

/* Enable the misc controller and check that it has the IOASID resource */
static inline int find_controller(const char **why)
{
	long long ret = enable_controller("misc", why);

	if (ret)
		return ret;

	*why = "no resource \"ioasid\"";
	ret = group_read(CGROUP_ROOT, "misc.capacity", "ioasid");
	return ret < 0 ? ret : 0;
}

static inline long long current_of(const char *group)
{
	return group_read(group, "misc.current", "ioasid");
}

/* Uncharging is deferred: wait for @count, and return the last value read */
static inline long long wait_current(const char *group, long long count)
{
	long long ret;

	wait_until((ret = current_of(group)) == count);
	return ret;
}

/* Move this process to @group */
static inline int enter(const char *group)
{
	return group_write(group, "cgroup.procs", "0");
}

#endif

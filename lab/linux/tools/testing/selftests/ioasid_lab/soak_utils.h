/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by ioasid_soak and ioasid_race: set up and remove the engines, devices
 * and cgroups that are used for the whole run.
 */
#ifndef __SELFTEST_IOASID_SOAK_UTILS_H
#define __SELFTEST_IOASID_SOAK_UTILS_H

#include <sys/stat.h>

#include "../kselftest.h"
#include "cgroup_utils.h"
#include "ioasid_watch.h"
#include "pdma_utils.h"
#include "random_utils.h"

#define NR_DEVS		4
/* Channels per mediated device */
#define NR_CHANS	3
#define NR_GROUPS	2

/* A small range of IDs for allocations by range, so that it runs out */
#define WINDOW		5000
#define WINDOW_LEN	8

/* The memory of a device has one part per channel */
#define IOVA		0x100000ULL
#define BUF_LEN		0x4000
#define DEV_BUF_LEN	(NR_CHANS * BUF_LEN)
#define STREAM_LEN	0x1000
#define COPY_SRC	0x1000
#define COPY_DST	0x2000
#define COPY_LEN	64
#define POISON		0x5a
/* Ten periods of a stream */
#define SETTLE_US	1000

static struct {
	char engine[2][NAME_MAX + 1];
	struct pdma_bar bar[2];
	unsigned int engines;
	bool kvm;
	bool cgroup;
	char group[NR_GROUPS][64];
} env;

static inline void set_up_cgroup(const char *name)
{
	const char *why;
	int i;

	if (find_controller(&why))
		return;
	for (i = 0; i < NR_GROUPS; i++) {
		snprintf(env.group[i], sizeof(env.group[i]),
			 CGROUP_ROOT "/%.32s-%d-%d", name, getpid(), i);
		if (mkdir(env.group[i], 0755))
			return;
	}
	env.cgroup = true;
}

/* Create device d on engine d % 2, if there is such an engine */
static inline void set_up_engines(char uuid[NR_DEVS][PDMA_UUID_LEN + 1])
{
	unsigned int d;

	for (; env.engines < 2; env.engines++)
		if (pdma_find_parent(env.engines, env.engine[env.engines]) ||
		    bar_map(&env.bar[env.engines], env.engine[env.engines]))
			break;
	for (d = 0; d < NR_DEVS; d++)
		if (d % 2 < env.engines &&
		    pdma_create(env.engine[d % 2], uuid[d]))
			ksft_exit_fail_msg("cannot create a mediated device\n");
}

/* @name: name of the program, used for the cgroups */
static inline void set_up_env(const char *name,
			      char uuid[NR_DEVS][PDMA_UUID_LEN + 1])
{
	env.kvm = !access("/dev/kvm", R_OK | W_OK);
	set_up_cgroup(name);
	set_up_engines(uuid);
}

/* A stream that has ended must not overwrite this */
static inline void poison_stream(char *buf)
{
	memset(buf, POISON, STREAM_LEN);
}

static inline bool stream_is_poison(const char *buf)
{
	return buf[0] == POISON && !memcmp(buf, buf + 1, STREAM_LEN - 1);
}

/* Returns whether everything could be removed */
static inline bool tear_down_env(char uuid[NR_DEVS][PDMA_UUID_LEN + 1])
{
	bool ok = true;
	int i;

	for (i = 0; i < NR_DEVS; i++)
		if (uuid[i][0] && pdma_remove(uuid[i]))
			ok = false;
	for (i = 0; env.cgroup && i < NR_GROUPS; i++)
		if (rmdir(env.group[i]))
			ok = false;
	return ok;
}

#endif

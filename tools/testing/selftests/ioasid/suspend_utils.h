/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Suspend of the machine
 */
#ifndef __SELFTEST_SUSPEND_UTILS_H
#define __SELFTEST_SUSPEND_UTILS_H

#include <stdlib.h>
#include <string.h>

#include "pdma_utils.h"

#define STATE "/sys/power/state"
#define MEM_SLEEP "/sys/power/mem_sleep"
#define PM_TEST "/sys/power/pm_test"
#define ALARM "/sys/class/rtc/rtc0/wakealarm"

/* In seconds: longer than it takes to suspend */
#define ALARM_DELAY "+20"

static inline bool file_has(const char *path, const char *word)
{
	char text[256];

	return !pdma_read_file(path, text, sizeof(text)) && strstr(text, word);
}

/* Why the machine cannot be suspended, or NULL */
static inline const char *cannot_suspend(const char *pm_test)
{
	if (!file_has(STATE, "mem") || !file_has(MEM_SLEEP, "deep"))
		return "no suspend to RAM";
	if (strcmp(pm_test, "none")) {
		if (!file_has(PM_TEST, pm_test))
			return "no " PM_TEST;
	} else if (!getenv("IOASID_WAKE") && !pdma_exists(ALARM)) {
		return "nothing wakes this machine, it has no " ALARM;
	}
	return NULL;
}

/*
 * @pm_test: "none" is the real thing, in which devices lose their registers;
 * "core" turns the IOMMU off and on again, and lets devices have their power.
 */
static inline int suspend_machine(const char *pm_test)
{
	bool alarm = !strcmp(pm_test, "none") && !getenv("IOASID_WAKE");
	int ret;

	ret = pdma_write_file(MEM_SLEEP, "deep");
	if (!ret && pdma_exists(PM_TEST))
		ret = pdma_write_file(PM_TEST, pm_test);
	/* The time that the test of the core takes */
	if (!ret && strcmp(pm_test, "none"))
		ret = pdma_write_file("/sys/module/suspend/parameters/pm_test_delay",
				      "1");
	if (!ret && alarm) {
		pdma_write_file(ALARM, "0");
		ret = pdma_write_file(ALARM, ALARM_DELAY);
	}
	if (!ret)
		ret = pdma_write_file(STATE, "mem");
	if (pdma_exists(PM_TEST))
		pdma_write_file(PM_TEST, "none");
	return ret;
}

#endif

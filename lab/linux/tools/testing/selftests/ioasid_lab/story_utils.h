/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Print a story step by step, and check each of its figures
 */
#ifndef __SELFTEST_IOASID_STORY_UTILS_H
#define __SELFTEST_IOASID_STORY_UTILS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int step_nr, failures;

static inline void __attribute__((format(printf, 1, 2)))
step(const char *fmt, ...)
{
	va_list args;

	printf("\n%2d. ", ++step_nr);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
}

/* Print a figure. @ok: whether it is as expected */
static inline void __attribute__((format(printf, 3, 4)))
tell(bool ok, const char *what, const char *fmt, ...)
{
	va_list args;

	printf("      %-44s ", what);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("%s\n", ok ? "" : "      <-- NOT AS EXPECTED");
	if (!ok)
		failures++;
}

/* Exit if @ret is negative, as all further steps depend on it */
static inline int must(int ret, const char *what)
{
	if (ret < 0) {
		printf("\nFAILED: %s: %s\n", what, strerror(-ret));
		exit(1);
	}
	return ret;
}

/* Print the last line. Returns the exit status. */
static inline int end_of_story(void)
{
	printf("\n%s\n", failures ? "FAILED: a step is not as expected" :
	       "Every step is as expected.");
	return !!failures;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/* Settings and reproducible random numbers of the randomised programs */
#ifndef __SELFTEST_IOASID_RANDOM_UTILS_H
#define __SELFTEST_IOASID_RANDOM_UTILS_H

#include <stdlib.h>
#include <linux/types.h>

/* Value from the environment, or @value if it is not set */
static inline unsigned long long setting(const char *name,
					 unsigned long long value)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : value;
}

static inline __u64 next_random64(__u64 *rng)
{
	__u64 z = *rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static inline __u32 next_random(__u64 *rng)
{
	return next_random64(rng) >> 32;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A page whose content user space delivers late or never, through userfaultfd,
 * so that a system call that touches it blocks in the kernel. Needs root.
 */
#ifndef __SELFTEST_STALL_UTILS_H
#define __SELFTEST_STALL_UTILS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <linux/userfaultfd.h>

#define STALL_PAGE 4096

struct stall {
	int uffd;
	char *page;
	char answer[STALL_PAGE];	/* content to deliver */
};

/* 0 or -errno. @uffd is negative if userfaultfd is missing or not permitted. */
static inline int stall_prepare(struct stall *stall)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	memset(stall->answer, 0, sizeof(stall->answer));
	stall->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (stall->uffd < 0)
		return -errno;
	stall->page = mmap(NULL, STALL_PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stall->page == MAP_FAILED || ioctl(stall->uffd, UFFDIO_API, &api))
		return -errno;
	reg.range.start = (uintptr_t)stall->page;
	reg.range.len = STALL_PAGE;
	return ioctl(stall->uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

/* Whether someone faulted on the page within @ms */
static inline bool stall_wait(struct stall *stall, int ms)
{
	struct pollfd pollfd = { .fd = stall->uffd, .events = POLLIN };

	return poll(&pollfd, 1, ms) == 1 && pollfd.revents == POLLIN;
}

static inline int stall_answer(struct stall *stall)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)stall->page,
		.src = (uintptr_t)stall->answer,
		.len = STALL_PAGE,
	};

	return ioctl(stall->uffd, UFFDIO_COPY, &copy) ? -errno : 0;
}

#endif

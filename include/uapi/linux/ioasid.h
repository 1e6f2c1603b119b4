/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_IOASID_H
#define _UAPI_LINUX_IOASID_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define IOASID_TYPE 0xBD

/**
 * DOC: General ioctl format
 *
 * Every ioctl of /dev/ioasid takes a pointer to a struct whose first field is
 * its size, so that structs can grow at their end. The kernel answers:
 *
 *  - ENOTTY: the command number is not known
 *  - EINVAL: the size is smaller than the first version of the struct
 *  - E2BIG: the struct is longer than the kernel knows, and a byte of the part
 *    that the kernel does not know is not zero; or it is longer than a page
 *  - EOPNOTSUPP: a flag is not known, or a reserved field is not zero
 *  - EFAULT: the struct, or an array that it points to, cannot be accessed
 *
 * No ioctl does half of its work: on any error, no IOASID has changed. EFAULT is
 * also found when the answer is written, so the struct, or the array, may have
 * been written in part then.
 */
enum {
	IOASID_CMD_GET_INFO = 0,
	IOASID_CMD_ALLOC = 1,
	IOASID_CMD_FREE = 2,
	IOASID_CMD_QUERY = 3,
	IOASID_CMD_SET_QUOTA = 4,
	IOASID_CMD_LIST = 5,
};

/**
 * struct ioasid_info - ioctl(IOASID_GET_INFO)
 * @size: sizeof(struct ioasid_info)
 * @flags: must be 0
 * @min: out: smallest number that there is
 * @max: out: largest number that there is, inclusive
 * @quota: out: how many IOASIDs this file may hold
 * @active: out: IOASIDs of this file in state ACTIVE, and those that an
 *	    IOASID_ALLOC under way has charged
 * @parked: out: IOASIDs of this file in state PARKED, they count against @quota
 * @__reserved: must be 0
 *
 * Others who hold the same file, by fork() or because it was sent to them, see
 * the same. Another file, also of the same process, has its own quota.
 */
struct ioasid_info {
	__u32 size;
	__u32 flags;
	__u32 min;
	__u32 max;
	__u32 quota;
	__u32 active;
	__u32 parked;
	__u32 __reserved;
};

#define IOASID_GET_INFO _IO(IOASID_TYPE, IOASID_CMD_GET_INFO)

/**
 * struct ioasid_alloc - ioctl(IOASID_ALLOC)
 * @size: sizeof(struct ioasid_alloc)
 * @flags: must be 0
 * @min: smallest number wanted
 * @max: largest number wanted, inclusive; @min and @max both 0: any number
 * @count: how many IOASIDs to allocate
 * @__reserved: must be 0
 * @ids: pointer to an array of __u32[@count], filled with the numbers
 *
 * All or nothing. Any number is one of 32768 and above, or if there are not
 * enough of these, also one of 1024 and above: devices with few PASID bits need
 * the low ones. Numbers up to 1023, and as many as a sixteenth of all wherever
 * they are, are a reserve for the kernel. Without CAP_SYS_RESOURCE in the initial
 * user namespace they are as good as taken (ENOSPC). With it, any number may be
 * one of the reserve, too.
 *
 * When it fails, @ids holds what it held before, except after EFAULT and EINTR:
 * then what it holds is undefined, and none of it is allocated. Errors:
 *
 *  - EINVAL: @min > @max, a bound is outside of what IOASID_GET_INFO tells,
 *    @count is 0 or larger than the range
 *  - ENOSPC: the range has fewer than @count free numbers. Of several calls at
 *    the same time that compete for a range in which one of them fits, one
 *    succeeds.
 *  - EDQUOT: the quota of the file, the limit of the user who opened it
 *    (/proc/sys/user/max_ioasids), or a limit of the cgroup of the caller does
 *    not allow @count
 *  - ENOMEM: no memory
 *  - EINTR: a fatal signal
 */
struct ioasid_alloc {
	__u32 size;
	__u32 flags;
	__u32 min;
	__u32 max;
	__u32 count;
	__u32 __reserved;
	__aligned_u64 ids;
};

#define IOASID_ALLOC _IO(IOASID_TYPE, IOASID_CMD_ALLOC)

/**
 * struct ioasid_free - ioctl(IOASID_FREE)
 * @size: sizeof(struct ioasid_free)
 * @flags: must be 0
 * @count: how many IOASIDs to free
 * @__reserved: must be 0
 * @ids: pointer to an array of __u32[@count] with the numbers
 *
 * All or nothing. When this returns, no DMA of any attachment of these IOASIDs
 * can reach memory: of mediated devices, and of physical ones that were given the
 * IOASID by VFIO_DEVICE_FEATURE_IOASID. A device that was given none, and to
 * which user space has attached an equal PASID as a mere number, is not touched:
 * that number is one of its own. A number that others still hold stays taken
 * until they let go. Errors:
 *
 *  - EINVAL: @count is 0 or larger than the number space
 *  - ENOENT: a number is not an ACTIVE IOASID of this file, or stands in the
 *    array twice
 *  - ENOMEM: no memory; never for up to 16 numbers
 *  - EINTR: a fatal signal
 */
struct ioasid_free {
	__u32 size;
	__u32 flags;
	__u32 count;
	__u32 __reserved;
	__aligned_u64 ids;
};

#define IOASID_FREE _IO(IOASID_TYPE, IOASID_CMD_FREE)

/**
 * enum ioasid_state - states of an IOASID
 * @IOASID_STATE_ACTIVE: owned, may be attached and DMA
 * @IOASID_STATE_PARKED: freed by its owner, DMA is blocked, others hold it
 */
enum ioasid_state {
	IOASID_STATE_ACTIVE = 1,
	IOASID_STATE_PARKED = 2,
};

/**
 * struct ioasid_query - ioctl(IOASID_QUERY)
 * @size: sizeof(struct ioasid_query)
 * @flags: must be 0
 * @id: the number
 * @state: out: one of enum ioasid_state
 * @users: out: references other than that of the owner
 * @attachments: out: (device, domain) pairs that the number is attached to
 *
 * Answers for numbers allocated through this file, also for those that were
 * freed, until they are recycled, soon after the last reference is gone. @users
 * and @attachments are counted one after the other: they may not fit together
 * while users come and go. Errors:
 *
 *  - ENOENT: @id is not, or no longer, an IOASID of this file
 *  - EINTR: a fatal signal
 */
struct ioasid_query {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 state;
	__u32 users;
	__u32 attachments;
};

#define IOASID_QUERY _IO(IOASID_TYPE, IOASID_CMD_QUERY)

/**
 * struct ioasid_quota - ioctl(IOASID_SET_QUOTA)
 * @size: sizeof(struct ioasid_quota)
 * @flags: must be 0
 * @quota: how many IOASIDs this file may hold from now on
 * @__reserved: must be 0
 *
 * Limits this file and no other one, whoever holds it. A quota below what is in
 * use is accepted: nothing new is allocated until the use has fallen below it.
 * Errors:
 *
 *  - EPERM: @quota is larger than the present one, and the caller does not
 *    have CAP_SYS_RESOURCE in the initial user namespace
 */
struct ioasid_quota {
	__u32 size;
	__u32 flags;
	__u32 quota;
	__u32 __reserved;
};

#define IOASID_SET_QUOTA _IO(IOASID_TYPE, IOASID_CMD_SET_QUOTA)

/**
 * struct ioasid_list_entry - what IOASID_LIST tells of an IOASID
 * @id: the number
 * @state: one of enum ioasid_state
 * @users: as of IOASID_QUERY
 * @attachments: as of IOASID_QUERY
 */
struct ioasid_list_entry {
	__u32 id;
	__u32 state;
	__u32 users;
	__u32 attachments;
};

/**
 * struct ioasid_list - ioctl(IOASID_LIST)
 * @size: sizeof(struct ioasid_list)
 * @flags: must be 0
 * @start: the smallest number that is of interest; 0 for all
 * @count: in: how many entries the array has; out: how many were filled
 * @entries: pointer to an array of struct ioasid_list_entry[@count]
 *
 * The IOASIDs of this file, ACTIVE or PARKED, in the order of their numbers. Less
 * than the array can hold: there are no more. Otherwise they go on behind the
 * last one, so who reads them in pages passes its number plus 1 as @start of
 * the next. An IOASID_FREE or IOASID_ALLOC beside this is seen in full or not at
 * all in one page. Whoever takes over a file, for instance a program that has
 * executed itself again, learns from this what it has. Errors:
 *
 *  - EINVAL: @count is 0
 *  - ENOMEM: no memory; never for up to 16 entries
 *  - EINTR: a fatal signal
 */
struct ioasid_list {
	__u32 size;
	__u32 flags;
	__u32 start;
	__u32 count;
	__aligned_u64 entries;
};

#define IOASID_LIST _IO(IOASID_TYPE, IOASID_CMD_LIST)

#endif

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
 *  - ENOTTY: unknown command number
 *  - EINVAL: the size is smaller than the first version of the struct
 *  - E2BIG: the structure is longer than the kernel knows, and a byte of the
 *    unknown part is not zero; or it is longer than a page
 *  - EOPNOTSUPP: a flag is unknown, or a reserved field is not zero
 *  - EFAULT: the struct, or an array that it points to, cannot be accessed
 *
 * All ioctls are atomic: on any error, no IOASID has changed. EFAULT may also
 * occur when the result is written; the structure or the array may then be
 * partly written.
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
 * @min: out: smallest number of the number space
 * @max: out: largest number of the number space, inclusive
 * @quota: out: how many IOASIDs this file may hold
 * @active: out: IOASIDs of this file in state ACTIVE, including those that a
 *	    concurrent IOASID_ALLOC has charged already
 * @parked: out: IOASIDs of this file in state PARKED, they count against @quota
 * @__reserved: must be 0
 *
 * All processes that share the file, by fork() or by descriptor passing, see
 * the same values. Each open file has its own quota, even within one process.
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
 * @min: smallest acceptable number
 * @max: largest acceptable number, inclusive; @min and @max both 0: any number
 * @count: how many IOASIDs to allocate
 * @__reserved: must be 0
 * @ids: pointer to an array of __u32[@count], filled with the numbers
 *
 * Allocates all @count IOASIDs or none. "Any number" means 32768 and above and,
 * if these do not suffice, 1024 and above: devices with few PASID bits need the
 * low numbers. Numbers up to 1023 are reserved for the kernel, and so are the
 * last free numbers, a sixteenth of the number space. A caller without
 * CAP_SYS_RESOURCE in the initial user namespace cannot allocate them (ENOSPC).
 * With it, "any number" may include reserved ones.
 *
 * On failure, @ids is unchanged, except after EFAULT and EINTR: then its
 * contents are undefined, and none of the numbers is allocated. Errors:
 *
 *  - EINVAL: @min > @max, a bound is outside of the range that IOASID_GET_INFO
 *    returns, @count is 0 or larger than the range
 *  - ENOSPC: the range has fewer than @count free numbers. If concurrent calls
 *    compete for a range that is large enough for one of them, one succeeds.
 *  - EDQUOT: @count exceeds the quota of the file, the limit of the user who
 *    opened it (/proc/sys/user/max_ioasids), or a limit of the cgroup of the
 *    caller
 *  - ENOMEM: out of memory
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
 * Frees all @count IOASIDs or none. When this returns, no DMA of any attachment
 * of these IOASIDs can reach memory. That holds for mediated devices, and for
 * physical devices that were given the IOASID by VFIO_DEVICE_FEATURE_IOASID. A
 * device that does not hold the IOASID, but to which user space attached the
 * same PASID by number, is not affected: such PASIDs are local to the device. A
 * number that users still hold is not reused until they drop it. Errors:
 *
 *  - EINVAL: @count is 0 or larger than the number space
 *  - ENOENT: a number is not an ACTIVE IOASID of this file, or occurs in the
 *    array twice
 *  - ENOMEM: out of memory; never for up to 16 numbers
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
 * @IOASID_STATE_ACTIVE: owned, can be attached and used for DMA
 * @IOASID_STATE_PARKED: freed by its owner, DMA is blocked, users still hold it
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
 * @users: out: number of references, without the owner's
 * @attachments: out: (device, domain) pairs that the number is attached to
 *
 * Works for all numbers allocated through this file, even if they were freed,
 * until they are recycled, which is soon after the last reference is dropped.
 * @users and @attachments are sampled separately and may be inconsistent while
 * users come and go. Errors:
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
 * Limits this file only, for all processes that share it. A quota below the
 * current use is accepted: allocations fail until the use has fallen below it.
 * Errors:
 *
 *  - EPERM: @quota is larger than the current quota, and the caller does not
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
 * struct ioasid_list_entry - an IOASID, as listed by IOASID_LIST
 * @id: the number
 * @state: one of enum ioasid_state
 * @users: as in struct ioasid_query
 * @attachments: as in struct ioasid_query
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
 * @start: list IOASIDs from this number on; 0 for all
 * @count: in: size of the array in entries; out: how many were filled
 * @entries: pointer to an array of struct ioasid_list_entry[@count]
 *
 * Lists the IOASIDs of this file, ACTIVE or PARKED, in ascending order. If
 * fewer than @count entries are filled, there are no more. Otherwise pass the
 * last number plus 1 as @start to get the next ones. Each call sees a concurrent
 * IOASID_FREE or IOASID_ALLOC completely or not at all. A process that takes
 * over a file, for example after re-executing itself, can find out what the file
 * owns. Errors:
 *
 *  - EINVAL: @count is 0
 *  - ENOMEM: out of memory; never for up to 16 entries
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

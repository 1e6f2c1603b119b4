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
 * No ioctl does half of its work: on any error, nothing has changed.
 */
enum {
	IOASID_CMD_GET_INFO = 0,
	IOASID_CMD_ALLOC = 1,
	IOASID_CMD_FREE = 2,
	IOASID_CMD_QUERY = 3,
	IOASID_CMD_SET_QUOTA = 4,
};

/**
 * struct ioasid_info - ioctl(IOASID_GET_INFO)
 * @size: sizeof(struct ioasid_info)
 * @flags: must be 0
 * @min: out: smallest number that can be allocated
 * @max: out: largest number that can be allocated, inclusive
 * @quota: out: how many IOASIDs the set of this file may hold
 * @active: out: IOASIDs of the set in state ACTIVE, and those that an
 *	    IOASID_ALLOC under way has charged
 * @parked: out: IOASIDs of the set in state PARKED, they count against @quota
 * @__reserved: must be 0
 *
 * The set is that of the process that opened the file, and is shared by all
 * files which that process opened.
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
 * All or nothing. Errors:
 *
 *  - EINVAL: @min > @max, a bound is outside of what IOASID_GET_INFO tells,
 *    @count is 0 or larger than the range
 *  - ENOSPC: the range has fewer than @count free numbers
 *  - EDQUOT: the quota of the set, or a cgroup limit, does not allow @count
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
 * All or nothing. When this returns, no DMA with any of the numbers can reach
 * memory. A number that others still hold stays taken until they let go.
 * Errors:
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
 * enum ioasid_state - states that IOASID_QUERY reports
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
 * @quota: new quota of the set of this file
 * @__reserved: must be 0
 *
 * A quota below what is in use is accepted: nothing new is allocated until the
 * use has fallen below it. Errors:
 *
 *  - EPERM: @quota is larger than the present one, and the caller does not
 *    have CAP_SYS_RESOURCE
 */
struct ioasid_quota {
	__u32 size;
	__u32 flags;
	__u32 quota;
	__u32 __reserved;
};

#define IOASID_SET_QUOTA _IO(IOASID_TYPE, IOASID_CMD_SET_QUOTA)

#endif

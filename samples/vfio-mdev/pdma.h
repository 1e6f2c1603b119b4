/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * PASID DMA engine: registers, and interface of its mediated devices
 *
 * The engine is a PCI function designed to test PASIDs. It has a control page
 * for the host driver and up to 64 channels. Each channel has a page of its own
 * that can be assigned to somebody else (scalable I/O virtualization style). A
 * channel always DMAs with the PASID that the host driver wrote to the control
 * page.
 *
 * This header is shared by the emulated device (qemu/), its drivers (pdma.c,
 * pdma-sva.c) and the selftests (tools/testing/selftests/ioasid/), so it only
 * contains preprocessor constants. Registers are little endian and 32 bits
 * wide, with naturally aligned accesses. A 64-bit register may also be accessed
 * with one 64-bit access, or as two halves, low half first.
 */
#ifndef _PDMA_H
#define _PDMA_H

#define PDMA_VENDOR_ID			0x1234
#define PDMA_DEVICE_ID			0x10a5

/*
 * BAR 0: the control page, one channel page for each channel, and, after
 * PDMA_MAX_CHANNELS channel pages, one status page for each channel. The size
 * of the BAR is rounded up to a power of two, and the rest reads as zero. A
 * status page reads like the channel page and ignores writes: it may be mapped
 * for users who must not program the channel.
 */
#define PDMA_PAGE_SIZE			0x1000
#define PDMA_MAX_CHANNELS		64
#define PDMA_CHANNEL_PAGE(ch)		(PDMA_PAGE_SIZE * (1 + (ch)))
#define PDMA_STATUS_PAGE(ch)		PDMA_CHANNEL_PAGE(PDMA_MAX_CHANNELS + (ch))

/* Control page */
#define PDMA_ID				0x000	/* RO: PDMA_ID_VALUE */
#define  PDMA_ID_VALUE			0x50444d41
#define PDMA_CHANNELS			0x004	/* RO: number of channels */
/*
 * Test-only registers: fault counters of the emulated IOMMU, for requests with
 * this device's source-id, with any PASID or none, since the machine was reset.
 * RECORDED includes faults that found the fault recording register occupied.
 * SUPPRESSED counts faults that were not reported because of FPD. A reset of
 * the device does not change the counters.
 */
#define PDMA_FAULTS_RECORDED		0x010	/* RO, 64 bits */
#define PDMA_FAULTS_SUPPRESSED		0x018	/* RO, 64 bits */
/*
 * Test-only registers for error injection. A reset of the device does not
 * change them, except that it ends PDMA_ATC_MUTE_UNTIL_RESET.
 *
 * UR_COUNT, CA_COUNT: translation requests and reads completed with
 * "unsupported request" or "completer abort". Writes are posted, so the device
 * does not learn when a write was blocked. ATC_COUNT: device-TLB invalidations
 * received.
 *
 * ATC_MODE: how device-TLB invalidations are answered. The device keeps using
 * its translations until it answers. Without x-inv-timeout-us, the IOMMU does
 * not wait for an answer.
 *
 * FLIGHT_US: how long a request stays in flight after the IOMMU, and a
 * translation on its way to the device. A request counts as arrived when it has
 * passed the IOMMU. Reading any register in BAR 0 flushes the posted writes of
 * the device.
 *
 * INV_ERROR: the IOMMU rejects the n-th descriptor fetched from now on, from
 * any submitter, as invalid. Counts down to 0.
 *
 * VANISH_US: remove the device from its slot after this time, without involving
 * the guest. Ignored by a device on the root bus.
 */
#define PDMA_UR_COUNT			0x020	/* RO, 64 bits */
#define PDMA_CA_COUNT			0x028	/* RO, 64 bits */
#define PDMA_ATC_COUNT			0x030	/* RO, 64 bits */
#define PDMA_ATC_MODE			0x038	/* RW */
#define  PDMA_ATC_ANSWER		0	/* at once */
#define  PDMA_ATC_LATE			1	/* after ATC_LATE_US */
#define  PDMA_ATC_MUTE			2	/* never */
#define  PDMA_ATC_MUTE_UNTIL_RESET	3
#define PDMA_ATC_LATE_US		0x03c	/* RW */
#define PDMA_FLIGHT_US			0x040	/* RW */
#define PDMA_INV_ERROR			0x044	/* RW */
#define PDMA_VANISH_US			0x048	/* WO */
#define PDMA_CTL(ch)			(0x100 + 0x10 * (ch))
/* Offsets from PDMA_CTL(ch) */
#define PDMA_CTL_PASID			0x0	/* RW */
#define  PDMA_PASID_MASK		0x000fffff
#define  PDMA_PASID_VALID		0x80000000 /* clear: no DMA at all */
#define PDMA_CTL_RESET			0x4	/* WO: any value resets */

/*
 * Channel page. A reset stops the channel and clears all of these registers,
 * except for PDMA_PERIOD and PDMA_BURST, which become 100 and 1. It does not
 * change the PASID. A function level reset resets all channels, clears their
 * PASIDs, and disables the PASID, ATS and PRI capabilities.
 *
 * After a write of PDMA_CMD_STOP or a reset has completed (reading any register
 * of the channel waits for that), the channel issues no DMA and no page
 * requests until the next command. Page requests issued before may still
 * arrive.
 */
#define PDMA_SRC			0x00	/* RW, 64 bits: IOVA, PDMA_CMD_COPY */
#define PDMA_DST			0x08	/* RW, 64 bits: IOVA */
#define PDMA_LEN			0x10	/* RW: bytes */
#define  PDMA_MAX_LEN			0x10000
#define PDMA_CMD			0x14	/* WO */
#define  PDMA_CMD_STOP			0	/* stop the channel */
#define  PDMA_CMD_COPY			1	/* copy LEN bytes from SRC to DST, once */
#define  PDMA_CMD_STREAM		2	/* write a counter until stopped */
#define  PDMA_CMD_ASK			0x100	/* flag: send page requests */
#define  PDMA_CMD_FAULT			0x200	/* flag: also in advance */
#define  PDMA_CMD_FLAGS			0x300
#define PDMA_STATUS			0x18	/* RO */
#define  PDMA_STATUS_BUSY		0x1	/* copy or stream running */
#define  PDMA_STATUS_DONE		0x2	/* the last copy arrived */
#define  PDMA_STATUS_REFUSED		0x4	/* the IOMMU refused the last request */
#define  PDMA_STATUS_INVALID		0x8	/* the last command was not accepted */
#define  PDMA_STATUS_WAITING		0x10	/* for a page response */
#define PDMA_PERIOD			0x1c	/* RW: stream period in us, 10 to 1000000 */
#define PDMA_BURST			0x20	/* RW: requests a period, 1 to 4096 */
#define PDMA_COUNTER			0x28	/* RO, 64 bits: last value that arrived */
#define PDMA_DONE_COUNT			0x30	/* RO, 64 bits: requests that arrived */
#define PDMA_REFUSED_COUNT		0x38	/* RO, 64 bits: requests that were refused */
#define PDMA_PAGE_DELAY			0x40	/* RW: us, 0 to 10000000 */
#define PDMA_PAGE_TIMEOUT		0x44	/* RW: us, 10 to 60000000 */
#define PDMA_PAGE_RESULT		0x48	/* RO: of the last requests */
#define  PDMA_PAGE_SUCCESS		0x0	/* up to 0xf: the response code */
#define  PDMA_PAGE_INVALID		0x1
#define  PDMA_PAGE_FAILURE		0xf
#define  PDMA_PAGE_NONE			0x100	/* no page requests were sent */
#define  PDMA_PAGE_TIMED_OUT		0x101
#define  PDMA_PAGE_DISABLED		0x102	/* sending is not enabled */
#define PDMA_PAGE_REQUESTS		0x50	/* RO, 64 bits: page requests issued */
#define PDMA_PAGE_RESPONSES		0x58	/* RO, 64 bits: in time */

/*
 * A command is not accepted (PDMA_STATUS_INVALID is set and nothing else
 * changes) if the PASID is not valid, the command is unknown, LEN is 0 or
 * larger than PDMA_MAX_LEN, LEN or DST is not a multiple of 8
 * (PDMA_CMD_STREAM), the channel is busy (except for PDMA_CMD_STOP), or
 * PDMA_CMD_FLAGS are used while the function may not issue page requests.
 * PDMA_CMD_STOP is always accepted. A command uses the register values at the
 * time it was written; only the PASID is looked up for each request. PERIOD and
 * BURST are clamped to their range.
 *
 * A request is refused without asking the IOMMU if the PASID is no longer
 * valid, the PASID capability is not enabled, or bus mastering is disabled.
 * PDMA_STATUS_REFUSED shows that the last request was refused. The next request
 * that arrives clears it.
 *
 * A stream writes the 64-bit values 1, 2, 3, ... : value n goes to
 * DST + (n * 8) % LEN. A refused request does not consume a value: the next
 * request retries it. Refused requests do not end the stream. A copy is split
 * into requests that do not cross a 4 KiB boundary on either side; a read and
 * its write count as one request each. The first refused request ends the copy.
 *
 * With PDMA_CMD_ASK or PDMA_CMD_FAULT, a channel that is not granted access to
 * a page sends a page request, waits for the response, and retries. The IOMMU
 * does not record a fault then. With PDMA_CMD_FAULT, the channel also sends
 * page requests before the first attempt: for both pages of each part of a
 * copy, in one group, and for the page of each request of a stream. It retries
 * on PDMA_PAGE_SUCCESS only. On any other result, the request counts as
 * refused: a copy ends, and a stream continues a period later.
 * PDMA_PAGE_FAILURE disables page requests of all channels until PRI is
 * disabled and enabled again.
 *
 * A channel waits for a response up to PDMA_PAGE_TIMEOUT, initially 1 s. While
 * the function has reached the number of outstanding page requests allocated by
 * software, the channel delays its page request. A page request is outstanding
 * until its response arrives, even if the channel has stopped waiting, or until
 * the function or PRI is reset. PDMA_PAGE_DELAY is the time a page request
 * takes to reach the IOMMU, and again the time until the IOMMU handles it.
 */

/*
 * A mediated device is a PCI function that a VMM can assign to a guest with its
 * vfio-pci device. It has PDMA_MDEV_CHANNELS consecutive channels that share an
 * address space, a PCI Express capability with function level reset, and a
 * PASID capability of 20 bits. It has no interrupts. BAR 0 has two pages for
 * each channel:
 *
 * PDMA_MDEV_CHANNEL: registers that set the PASID of the channel and submit
 * commands. They differ from those of the engine, and are trapped by the
 * driver.
 *
 * PDMA_MDEV_STATUS: the status page of the engine, which may be mapped.
 */
#define PDMA_MDEV_DEVICE_ID		0x10a6
#define PDMA_MDEV_CHANNELS		4
#define PDMA_MDEV_BAR_SIZE		0x8000
#define PDMA_MDEV_CHANNEL(ch)		(PDMA_PAGE_SIZE * (ch))
#define PDMA_MDEV_STATUS(ch) \
	(PDMA_PAGE_SIZE * (PDMA_MDEV_CHANNELS + (ch)))

/* Offsets from PDMA_MDEV_CHANNEL(ch), also in struct pdma_submit */
#define PDMA_SUBMIT_SRC			0x00	/* RW, 64 bits: IOVA */
#define PDMA_SUBMIT_DST			0x08	/* RW, 64 bits: IOVA */
#define PDMA_SUBMIT_LEN			0x10	/* RW */
#define PDMA_SUBMIT_CMD			0x14	/* RW: a write executes */
#define PDMA_SUBMIT_PERIOD		0x18	/* RW: 0 means 100 */
#define PDMA_SUBMIT_BURST		0x1c	/* RW: 0 means 1 */
#define PDMA_SUBMIT_PASID		0x20	/* RW: 20 bits, 0: none */
#define PDMA_SUBMIT_RESULT		0x24	/* RO: of the last write to CMD or PASID */
#define  PDMA_RESULT_OK			0
#define  PDMA_RESULT_NO_PASID		1	/* the PASID is unknown */
#define  PDMA_RESULT_PARKED		2	/* the IOASID has been freed */
#define  PDMA_RESULT_BUSY		3	/* see below */
#define  PDMA_RESULT_INVALID		4	/* a register is not valid */
#define  PDMA_RESULT_FAULT		5	/* the memory is not mapped */
#define  PDMA_RESULT_AGAIN		6	/* the engine is reset or suspended */
#define  PDMA_RESULT_NO_MEMORY		7	/* any other failure of the host */
#define  PDMA_RESULT_NOT_MASTER		8	/* bus mastering is disabled */
#define PDMA_SUBMIT_SIZE		0x28

/*
 * PASID: Sets the PASID of the channel. While a command is running (BUSY) or
 * the engine cannot be accessed (AGAIN), a value other than 0 is rejected and
 * nothing changes. Writing 0 always works: it stops the channel and clears its
 * PASID. If a write fails for another reason, the channel has no PASID and the
 * register reads as 0.
 *
 *  - If the device belongs to a VM, this is a guest PASID. It is looked up in
 *    the VM's map (KVM_DEV_TYPE_IOASID) when it is written, and never later.
 *    The device holds the IOASID until none of its channels uses it any more.
 *    BUSY may also mean that another device of the same engine holds the
 *    IOASID, or that the engine is being reset.
 *  - Otherwise, this is the PASID of an IOASID that was added to the device
 *    with VFIO_DEVICE_FEATURE_IOASID.
 *
 * CMD: PDMA_CMD_STOP returns when the channel issues no more DMA. PDMA_CMD_COPY
 * and PDMA_CMD_STREAM pin and map the memory and start the channel, with the
 * current register values; registers not used by the command are ignored.
 * Further results: NO_PASID if the channel has none, PARKED if the IOASID was
 * freed since, BUSY if a command is running.
 *
 * Registers are accessed with 32 bits and natural alignment. Two adjacent ones
 * may be accessed with 64 bits, with the effect of two accesses, lower register
 * first. All other reads of 1, 2, 4 or 8 bytes anywhere in the BAR return ones,
 * and all other writes are ignored, like writes to a status page. The rest of a
 * page reads as 0. Status pages read as ones while the engine is in reset or
 * suspended; the contents of a mapping are undefined then.
 *
 * A program can also write one struct pdma_submit to the start of the channel
 * page with one pwrite(). This sets the registers, sets the PASID of the
 * channel and executes the command. RESULT and fields not used by the command
 * must be 0. For PDMA_CMD_STOP these are all other fields, and the channel
 * keeps its PASID. The error tells the result: ENXIO NO_PASID, ESHUTDOWN
 * PARKED, EBUSY BUSY, EINVAL INVALID, EFAULT FAULT, EAGAIN AGAIN, EPERM
 * NOT_MASTER.
 *
 * When bus mastering is disabled, all channels stop, and no commands are
 * started. A reset of the mediated device, by VFIO_DEVICE_RESET or by a
 * function level reset, disables bus mastering, clears the registers of all
 * channels, and clears their PASIDs. The device keeps the IOASIDs that were
 * added with VFIO_DEVICE_FEATURE_IOASID.
 *
 * When the device drops or replaces an IOASID, commands with its PASID end.
 * When the user unmaps memory, commands that use the memory end. The commands
 * of other channels continue.
 *
 * A function level reset of the engine or a system suspend does not wait for
 * any user. As soon as it begins, the channels issue no more DMA, and running
 * commands do not continue. When the function is back, the channel pages are as
 * after a reset of the channels, and the device still holds its IOASIDs. The
 * next command works, unless its IOASID was parked meanwhile (PARKED); DMA with
 * a parked PASID stays blocked. A command whose memory is being pinned
 * meanwhile starts if the function is back by then, and fails with AGAIN
 * otherwise. Adding or replacing an IOASID may fail during the reset (EBUSY).
 */

/*
 * Without mediated devices: the driver pdma-sva provides a character device for
 * each engine that it is bound to, named after the driver, "-", and the PCI
 * function. Each open file is a channel (EUSERS: no channel is free). ioctl():
 *
 * PDMA_SVA_BIND: bind the channel to the calling process and return its PASID.
 * Errors: EBUSY the channel already has a PASID, and those of
 * iommu_sva_bind_device().
 * PDMA_SVA_ATTACH: use an IOASID. The argument points to its file (32 bits) and
 * PASID (32 bits). The channel can only access one page of the driver, at
 * PDMA_SVA_IOVA. Errors: EBUSY as above, and those of ioasid_fd_get() and
 * ioasid_attach_device().
 * PDMA_SVA_UNBIND: undo either one. When it returns, the channel issues no more
 * DMA and has no PASID. Errors: ENXIO the channel has no PASID.
 *
 * pwrite() of one struct pdma_submit at offset 0 submits a command, with
 * addresses of the process and PASID 0. Without one of PDMA_CMD_FLAGS, the
 * channel can only access memory that is present in the page tables. Errors:
 * EPERM the channel is bound to another process, EINVAL also if the channel
 * cannot send page requests, and those above. pread() reads a register of the
 * channel page, pwrite() writes PDMA_PAGE_DELAY or PDMA_PAGE_TIMEOUT. All of
 * these fail with ENODEV after the driver was unbound. A function level reset
 * and a suspend have the same effect as for a mediated device: the channel gets
 * its PASID back afterwards, whether bound or attached.
 */
#define PDMA_SVA_DRIVER			"pdma-sva"
#define PDMA_SVA_BIND			_IO('P', 0)
#define PDMA_SVA_ATTACH			_IO('P', 1)
#define PDMA_SVA_UNBIND			_IO('P', 2)
#define PDMA_SVA_IOVA			0x100000

/*
 * In a guest, the driver pdma-guest provides a character device for each
 * mediated device, named after the driver, "-", and the PCI function. Each open
 * file has a DMA buffer of PDMA_GUEST_BUF_LEN bytes, which can be mapped at
 * offset 0. Closing the file releases everything allocated and bound through
 * it. The ioctls take an integer argument:
 *
 * PDMA_GUEST_ALLOC: allocate a PASID and return it. Errors: ENOSPC the kernel
 * or the VMM has none left, and those of iommu_attach_device_pasid().
 * PDMA_GUEST_FREE: free a PASID, which may still be bound to a channel. Errors:
 * EINVAL the PASID was not allocated through this file.
 * PDMA_GUEST_BIND: write bits 0 to 19 to PDMA_SUBMIT_PASID of the channel given
 * by the higher bits. The file owns the channel until it writes 0. Errors:
 * EINVAL no such channel, EBUSY another file owns the channel, and those of the
 * result, see above.
 *
 * pwrite() of one struct pdma_submit at PDMA_MDEV_CHANNEL(ch) submits a
 * command. SRC and DST are offsets in the buffer; PASID and RESULT must be 0.
 * Errors: EINVAL a field is not valid, ENXIO the file does not own the channel,
 * and those of the result. pread() reads a register of BAR 0. All of these fail
 * with ENODEV after the driver was unbound.
 */
#define PDMA_GUEST_DRIVER		"pdma-guest"
#define PDMA_GUEST_BUF_LEN		(2 * PDMA_MAX_LEN)
#define PDMA_GUEST_ALLOC		_IO('P', 3)
#define PDMA_GUEST_FREE			_IO('P', 4)
#define PDMA_GUEST_BIND			_IO('P', 5)
#define  PDMA_GUEST_BIND_SHIFT		20

#endif

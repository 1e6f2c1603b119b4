/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * PASID DMA engine: registers, and the layout of its mediated devices
 *
 * The engine is a PCI function that was made to test PASIDs. It has a control
 * page for the host driver and up to 64 channels, each with a page of its own
 * that may be given to somebody else (scalable I/O virtualization style). A
 * channel DMAs with the PASID that the host driver wrote to the control page,
 * and with nothing else.
 *
 * This header is shared by the emulated device (qemu/), by its drivers (pdma.c,
 * pdma-sva.c) and by the selftests (tools/testing/selftests/ioasid/): it uses
 * nothing but preprocessor constants. All registers are little endian, 32-bit
 * accesses, naturally aligned; a 64-bit register may also be read and written
 * by one 64-bit access, or as two halves, low half first.
 */
#ifndef _PDMA_H
#define _PDMA_H

#define PDMA_VENDOR_ID			0x1234
#define PDMA_DEVICE_ID			0x10a5

/*
 * BAR 0: the control page, one page for each channel, and, behind the pages of
 * PDMA_MAX_CHANNELS, one status page for each channel. The size of the BAR is
 * rounded up to a power of two, the rest reads as zero. A status page reads as
 * the channel page does, and ignores writes: it can be mapped to somebody who
 * may not program the channel.
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
 * For tests only, a window into the emulated IOMMU, which no real device has: the
 * faults of requests with this device's source id, with any PASID or none, since
 * the reset of the machine. RECORDED counts also those that found
 * the fault recording register occupied, SUPPRESSED those that were to be
 * silent because fault processing was disabled (FPD). A reset of the device
 * does not touch them.
 */
#define PDMA_FAULTS_RECORDED		0x010	/* RO, 64 bits */
#define PDMA_FAULTS_SUPPRESSED		0x018	/* RO, 64 bits */
/*
 * For tests only, registers that make hardware misbehave. A reset of the device
 * leaves them alone, except that it ends PDMA_ATC_MUTE_UNTIL_RESET.
 *
 * UR_COUNT, CA_COUNT: translation requests and reads that were completed with
 * "unsupported request" or "completer abort". A write is posted: no completion
 * tells the device that it was refused. ATC_COUNT: device-TLB invalidations
 * received.
 *
 * ATC_MODE: how device-TLB invalidations are answered. The device keeps using its
 * translations until it answers. Without x-inv-timeout-us, the IOMMU does not wait
 * for an answer.
 *
 * FLIGHT_US: how long a request stays in flight behind the IOMMU, and a translation
 * on its way to the device. A request counts as arrived when it has passed the
 * IOMMU. Reading any register in BAR 0 flushes the posted writes of the device.
 *
 * INV_ERROR: n makes the IOMMU refuse the n-th descriptor that it fetches from now
 * on, by any submitter, as an invalid one. Counts down to 0.
 *
 * VANISH_US: remove the device from its slot after this time, without involving
 * the guest. A device on the root bus ignores it.
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
 * Channel page. A reset stops the channel and sets all of these registers to
 * zero but PDMA_PERIOD and PDMA_BURST, which become 100 and 1; it does not
 * touch the PASID. A function level reset resets all channels, takes away
 * their PASIDs, and disables the PASID, ATS and PRI capabilities.
 *
 * When a write of PDMA_CMD_STOP or a reset has been completed (a read of any
 * register of the channel has returned), the channel issues no more DMA and no
 * more page requests until the next command. Page requests that it has issued
 * before still arrive.
 */
#define PDMA_SRC			0x00	/* RW, 64 bits: IOVA, PDMA_CMD_COPY */
#define PDMA_DST			0x08	/* RW, 64 bits: IOVA */
#define PDMA_LEN			0x10	/* RW: bytes */
#define  PDMA_MAX_LEN			0x10000
#define PDMA_CMD			0x14	/* WO */
#define  PDMA_CMD_STOP			0	/* stop what is going on */
#define  PDMA_CMD_COPY			1	/* copy LEN bytes from SRC to DST, once */
#define  PDMA_CMD_STREAM		2	/* write a counter until stopped */
#define  PDMA_CMD_ASK			0x100	/* flag: ask for pages */
#define  PDMA_CMD_FAULT			0x200	/* flag: and also on purpose */
#define  PDMA_CMD_FLAGS			0x300
#define PDMA_STATUS			0x18	/* RO */
#define  PDMA_STATUS_BUSY		0x1	/* a copy or a stream is going on */
#define  PDMA_STATUS_DONE		0x2	/* the last copy arrived */
#define  PDMA_STATUS_REFUSED		0x4	/* the IOMMU refused the last request */
#define  PDMA_STATUS_INVALID		0x8	/* the last command was not accepted */
#define  PDMA_STATUS_WAITING		0x10	/* for an answer to page requests */
#define PDMA_PERIOD			0x1c	/* RW: stream period in us, 10 to 1000000 */
#define PDMA_BURST			0x20	/* RW: requests a period, 1 to 4096 */
#define PDMA_COUNTER			0x28	/* RO, 64 bits: last value that arrived */
#define PDMA_DONE_COUNT			0x30	/* RO, 64 bits: requests that arrived */
#define PDMA_REFUSED_COUNT		0x38	/* RO, 64 bits: requests that were refused */
#define PDMA_PAGE_DELAY			0x40	/* RW: us, 0 to 10000000 */
#define PDMA_PAGE_TIMEOUT		0x44	/* RW: us, 10 to 60000000 */
#define PDMA_PAGE_RESULT		0x48	/* RO: of the last page requests */
#define  PDMA_PAGE_SUCCESS		0x0	/* up to 0xf: the response code */
#define  PDMA_PAGE_INVALID		0x1
#define  PDMA_PAGE_FAILURE		0xf
#define  PDMA_PAGE_NONE			0x100	/* there were none */
#define  PDMA_PAGE_TIMED_OUT		0x101
#define  PDMA_PAGE_DISABLED		0x102	/* the channel could not ask */
#define PDMA_PAGE_REQUESTS		0x50	/* RO, 64 bits: page requests issued */
#define PDMA_PAGE_RESPONSES		0x58	/* RO, 64 bits: responses waited for */

/*
 * A command is not accepted (PDMA_STATUS_INVALID, nothing else changes) when
 * the PASID is not valid, when it is unknown, when LEN is 0 or larger than
 * PDMA_MAX_LEN, for PDMA_CMD_STREAM also when LEN or DST is not a multiple of
 * 8, when the channel is busy (for any command but PDMA_CMD_STOP), and with one
 * of PDMA_CMD_FLAGS when the function may not issue page requests.
 * PDMA_CMD_STOP is always accepted. A command works with the values that the
 * registers had when it was written; only the PASID is looked up for each
 * request. PERIOD and BURST take the nearest value that is in range.
 *
 * A request is refused without asking the IOMMU when the PASID has become
 * invalid, when the PASID capability is not enabled, or when the function may
 * not master the bus. PDMA_STATUS_REFUSED tells about the last request, and
 * goes away with the next one that arrives.
 *
 * A stream writes the 64-bit values 1, 2, 3, ... : value n goes to
 * DST + (n * 8) % LEN. A request that is refused takes no value: the next
 * request tries the same one. A stream goes on through refused requests.
 * A copy is cut into requests that do not cross a 4 KiB boundary of either
 * side; a read and its write count as one request each. The first refused
 * request ends it.
 *
 * With PDMA_CMD_ASK or PDMA_CMD_FAULT, a channel that gets no access rights to a
 * page from the IOMMU asks for it by a page request, waits for the response, and
 * tries again. The IOMMU records no fault then. With PDMA_CMD_FAULT it also asks
 * before it tries: for both pages of each part of a copy, in one group, and for the
 * page of each request of a stream. Only PDMA_PAGE_SUCCESS makes it try again.
 * After any other result the request counts as refused: a copy ends, and a stream
 * goes on a period later. The response PDMA_PAGE_FAILURE ends the page requests of
 * all channels, until PRI is disabled and enabled again.
 *
 * A channel waits for PDMA_PAGE_TIMEOUT, initially 1 s. As long as the function has
 * as many page requests outstanding as software has allocated, it waits before it
 * asks. A page request counts as outstanding until its response arrives, even if
 * the channel does not wait any more, or until a reset of the function or of
 * PRI. PDMA_PAGE_DELAY is the time that a page request is on its way to the
 * IOMMU, and the time after that until the IOMMU handles it.
 */

/*
 * A mediated device is a PCI function that any vfio-pci of a VMM can assign to a
 * guest. It has PDMA_MDEV_CHANNELS channels with consecutive numbers, which share
 * an address space; a PCI Express capability with function level reset; and a
 * PASID capability of 20 bits. It has no interrupts. BAR 0 has two pages for each
 * channel:
 *
 * PDMA_MDEV_CHANNEL: the registers that give the channel a PASID and submit a
 * command, which are not those of the engine. The driver traps them.
 *
 * PDMA_MDEV_STATUS: the status page of the engine. It can be mapped.
 */
#define PDMA_MDEV_DEVICE_ID		0x10a6
#define PDMA_MDEV_CHANNELS		4
#define PDMA_MDEV_BAR_SIZE		0x8000
#define PDMA_MDEV_CHANNEL(ch)		(PDMA_PAGE_SIZE * (ch))
#define PDMA_MDEV_STATUS(ch) \
	(PDMA_PAGE_SIZE * (PDMA_MDEV_CHANNELS + (ch)))

/* Offsets from PDMA_MDEV_CHANNEL(ch), also those of struct pdma_submit */
#define PDMA_SUBMIT_SRC			0x00	/* RW, 64 bits: IOVA */
#define PDMA_SUBMIT_DST			0x08	/* RW, 64 bits: IOVA */
#define PDMA_SUBMIT_LEN			0x10	/* RW */
#define PDMA_SUBMIT_CMD			0x14	/* RW: a write executes */
#define PDMA_SUBMIT_PERIOD		0x18	/* RW: 0 means 100 */
#define PDMA_SUBMIT_BURST		0x1c	/* RW: 0 means 1 */
#define PDMA_SUBMIT_PASID		0x20	/* RW: 20 bits, 0: none */
#define PDMA_SUBMIT_RESULT		0x24	/* RO: of the last write to CMD or PASID */
#define  PDMA_RESULT_OK			0
#define  PDMA_RESULT_NO_PASID		1	/* the number is not known */
#define  PDMA_RESULT_PARKED		2	/* its IOASID has been freed */
#define  PDMA_RESULT_BUSY		3	/* see below */
#define  PDMA_RESULT_INVALID		4	/* a register is not valid */
#define  PDMA_RESULT_FAULT		5	/* the memory is not mapped */
#define  PDMA_RESULT_AGAIN		6	/* the engine is reset or suspended */
#define  PDMA_RESULT_NO_MEMORY		7	/* any other failure of the host */
#define  PDMA_RESULT_NOT_MASTER		8	/* bus mastering is disabled */
#define PDMA_SUBMIT_SIZE		0x28

/*
 * PASID: The channel DMAs with this PASID from now on. While a command is
 * running (BUSY) or the engine cannot be accessed (AGAIN), a number other than 0
 * is refused and nothing changes. 0 stops the channel and takes its PASID away,
 * always. When a write fails for another reason, the channel has no PASID, and the
 * register reads as 0.
 *
 *  - The device belongs to a VM: the number is the guest's own, and is looked up
 *    in the VM's map (KVM_DEV_TYPE_IOASID) at once, never later. The device holds
 *    the IOASID until none of its channels has it any more. BUSY can also mean
 *    that another device of the same engine holds the IOASID, or that the engine
 *    is being reset.
 *  - otherwise it is the number of an IOASID that the device was given through
 *    VFIO_DEVICE_FEATURE_IOASID.
 *
 * CMD: PDMA_CMD_STOP returns when the channel issues no more DMA. PDMA_CMD_COPY
 * and PDMA_CMD_STREAM pin and map the memory, and start the channel, with the
 * values that the registers have now; those that the command does not use are
 * ignored. Further results: NO_PASID the channel has none, PARKED the IOASID was
 * freed since, BUSY a command is running.
 *
 * A register is accessed with its natural alignment, in 32 bits. Two that stand
 * next to each other can be accessed in 64 bits, with the effect of two
 * accesses, the lower register first. All other reads of 1, 2, 4 or 8 bytes
 * anywhere in the BAR return ones, all other writes are ignored; so are writes to
 * a status page. The rest of a page reads as 0. Status pages read as ones while
 * the engine is being reset or is suspended; what a mapping shows is undefined.
 *
 * A program can also write one struct pdma_submit to the start of the channel's
 * page, with one pwrite(), which sets the registers, gives the channel its PASID
 * and executes the command. Fields that the command does not use must be 0
 * (PDMA_CMD_STOP: all, and the channel keeps its PASID), and so must RESULT.
 * The error is the result: ENXIO NO_PASID, ESHUTDOWN PARKED, EBUSY BUSY, EINVAL
 * INVALID, EFAULT FAULT, EAGAIN AGAIN, EPERM NOT_MASTER.
 *
 * When bus mastering is disabled, all channels stop, and no command starts. A
 * reset of the mediated device, by VFIO_DEVICE_RESET or by a function level
 * reset, disables it, sets the registers of all channels to 0, and takes their
 * PASIDs away; the device goes on holding IOASIDs that it was given through
 * VFIO_DEVICE_FEATURE_IOASID.
 *
 * When the device drops or replaces an IOASID, the commands that run with its
 * PASID end. When the user unmaps memory, the commands that use it end. The
 * commands of other channels go on.
 *
 * A function level reset of the engine waits for no user, and neither does a
 * suspend of the machine. From its beginning on the channels issue no more DMA,
 * and the commands that were running do not continue. When the function is
 * back, the channel pages are as after a reset of the channels, and the device
 * holds the IOASIDs that it held: the next command works, unless its IOASID was
 * parked meanwhile (PARKED); DMA with a parked PASID stays blocked. A command
 * whose memory is being pinned meanwhile starts if the function is back by then,
 * and fails with AGAIN otherwise. Adding or replacing an IOASID may fail during
 * the reset (EBUSY).
 */

/*
 * Without mediated devices: an engine that is bound to the driver pdma-sva has a
 * character device of that name, "-", and the name of the PCI function. An open
 * file is one channel (EUSERS: there is none left). ioctl():
 *
 * PDMA_SVA_BIND: the channel DMAs with the PASID of the calling process from now
 * on, and that is what is returned. Errors: EBUSY the channel has a PASID, and
 * those of iommu_sva_bind_device().
 * PDMA_SVA_ATTACH: with an IOASID, whose file (32 bits) and number (32 bits) the
 * argument points to. All that the channel can reach is a page of the driver, at
 * PDMA_SVA_IOVA. Errors: EBUSY as above, and those of ioasid_fd_get() and of
 * ioasid_attach_device().
 * PDMA_SVA_UNBIND: undoes either one: when it returns, the channel issues no more
 * DMA and has no PASID. Errors: ENXIO it has none.
 *
 * pwrite() of one struct pdma_submit at offset 0 submits a command, with the
 * addresses of the process and without a PASID (0). Without one of PDMA_CMD_FLAGS,
 * the channel can only reach what is present in its page tables. Errors: EPERM the
 * channel is bound to another process, EINVAL also when the channel cannot ask for
 * pages, else as above. pread() reads a register of the channel page, pwrite()
 * writes PDMA_PAGE_DELAY or PDMA_PAGE_TIMEOUT. All of these: ENODEV the engine has
 * been taken from the driver. A function level reset and a suspend do to the
 * channel what they do to a mediated device: afterwards it has its PASID again,
 * whichever kind it is.
 */
#define PDMA_SVA_DRIVER			"pdma-sva"
#define PDMA_SVA_BIND			_IO('P', 0)
#define PDMA_SVA_ATTACH			_IO('P', 1)
#define PDMA_SVA_UNBIND			_IO('P', 2)
#define PDMA_SVA_IOVA			0x100000

/*
 * In a guest, the driver pdma-guest provides a character device for each mediated
 * device. Its name is that of the driver, "-", and the name of the PCI function.
 * Each open file has a DMA buffer of PDMA_GUEST_BUF_LEN bytes, which mmap() maps at
 * offset 0. Closing the file releases what was allocated and bound through it. The
 * ioctls take a number as their argument:
 *
 * PDMA_GUEST_ALLOC: allocate a PASID and return it. Errors: ENOSPC the kernel or
 * the VMM has none left, and those of iommu_attach_device_pasid().
 * PDMA_GUEST_FREE: free a PASID, which may still be bound to a channel. Errors:
 * EINVAL the PASID was not allocated through this file.
 * PDMA_GUEST_BIND: write bits 0 to 19 to PDMA_SUBMIT_PASID of the channel that the
 * higher bits name. The file owns the channel until it writes 0. Errors: EINVAL no
 * such channel, EBUSY another file owns the channel, and those of the result, see
 * above.
 *
 * pwrite() of one struct pdma_submit at PDMA_MDEV_CHANNEL(ch) submits a command.
 * SRC and DST are offsets in the buffer; PASID and RESULT must be 0. Errors: EINVAL
 * a field is not valid, ENXIO the file does not own the channel, and those of the
 * result. pread() reads a register of BAR 0. All of these fail with ENODEV after
 * the driver was unbound.
 */
#define PDMA_GUEST_DRIVER		"pdma-guest"
#define PDMA_GUEST_BUF_LEN		(2 * PDMA_MAX_LEN)
#define PDMA_GUEST_ALLOC		_IO('P', 3)
#define PDMA_GUEST_FREE			_IO('P', 4)
#define PDMA_GUEST_BIND			_IO('P', 5)
#define  PDMA_GUEST_BIND_SHIFT		20

#endif

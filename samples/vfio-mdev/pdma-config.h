/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * PCI configuration space of a mediated device of the PASID DMA engine
 *
 * A function without interrupts, with one BAR, a PCI Express capability and a
 * PASID capability. Everything not in the tables is read-only zero. Only two
 * bits have an effect: bus master enable, and initiate function level reset.
 * Memory and PASID enable are handled by the VMM, which knows where the guest
 * maps the BAR.
 */
#ifndef _PDMA_CONFIG_H
#define _PDMA_CONFIG_H

#include <linux/minmax.h>
#include <linux/pci.h>
#include <linux/pci_regs.h>
#include <linux/types.h>

#include "pdma.h"

#define PDMA_CONFIG_EXP		0x40
#define PDMA_CONFIG_PASID	PCI_CFG_SPACE_SIZE
#define PDMA_CONFIG_END		(PDMA_CONFIG_PASID + PCI_EXT_CAP_PASID_SIZEOF)

#define PDMA_PASID_WIDTH	20

/* Index of the dword at @offset, and value of its upper half */
#define PDMA_DWORD(offset)	((offset) / 4)
#define PDMA_HIGH(val)		((u32)(val) << 16)

/**
 * struct pdma_config - the configuration space of one device
 * @dword: the values in CPU byte order
 */
struct pdma_config {
	u32 dword[PDMA_DWORD(PDMA_CONFIG_END)];
};

/* Reset values */
static const struct pdma_config pdma_config_reset = { .dword = {
	[PDMA_DWORD(PCI_VENDOR_ID)] =
		PDMA_VENDOR_ID | PDMA_HIGH(PDMA_MDEV_DEVICE_ID),
	[PDMA_DWORD(PCI_COMMAND)] = PDMA_HIGH(PCI_STATUS_CAP_LIST),
	[PDMA_DWORD(PCI_CLASS_REVISION)] = PCI_CLASS_SYSTEM_OTHER << 16,
	[PDMA_DWORD(PCI_BASE_ADDRESS_0)] = PCI_BASE_ADDRESS_MEM_TYPE_32,
	[PDMA_DWORD(PCI_SUBSYSTEM_VENDOR_ID)] =
		PDMA_VENDOR_ID | PDMA_HIGH(PDMA_MDEV_DEVICE_ID),
	[PDMA_DWORD(PCI_CAPABILITY_LIST)] = PDMA_CONFIG_EXP,

	[PDMA_DWORD(PDMA_CONFIG_EXP)] =
		PCI_CAP_ID_EXP | PDMA_HIGH(2 | PCI_EXP_TYPE_ENDPOINT << 4),
	[PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_DEVCAP)] =
		PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR,
	[PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_DEVCTL)] =
		PCI_EXP_DEVCTL_READRQ_512B,
	[PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_LNKCAP)] =
		PCI_EXP_LNKCAP_SLS_2_5GB | PCI_EXP_LNKSTA_NLW_X1,
	[PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_LNKCTL)] =
		PDMA_HIGH(PCI_EXP_LNKSTA_CLS_2_5GB | PCI_EXP_LNKSTA_NLW_X1),
	[PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_DEVCAP2)] =
		PCI_EXP_DEVCAP2_EE_PREFIX | 1 << 22,
	[PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_LNKCAP2)] =
		PCI_EXP_LNKCAP2_SLS_2_5GB,

	[PDMA_DWORD(PDMA_CONFIG_PASID)] = PCI_EXT_CAP_ID_PASID | 1 << 16,
	[PDMA_DWORD(PDMA_CONFIG_PASID + PCI_PASID_CAP)] =
		PDMA_PASID_WIDTH << 8,
} };

/* Writable bits */
static const struct pdma_config pdma_config_writable = { .dword = {
	[PDMA_DWORD(PCI_COMMAND)] = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
	[PDMA_DWORD(PCI_CACHE_LINE_SIZE)] = 0xff,
	[PDMA_DWORD(PCI_BASE_ADDRESS_0)] = ~(PDMA_MDEV_BAR_SIZE - 1),
	[PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_DEVCTL)] =
		PCI_EXP_DEVCTL_CERE | PCI_EXP_DEVCTL_NFERE |
		PCI_EXP_DEVCTL_FERE | PCI_EXP_DEVCTL_URRE |
		PCI_EXP_DEVCTL_READRQ,
	[PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_LNKCTL)] =
		PCI_EXP_LNKCTL_CCC | PCI_EXP_LNKCTL_ES,
	[PDMA_DWORD(PDMA_CONFIG_PASID + PCI_PASID_CAP)] =
		PDMA_HIGH(PCI_PASID_CTRL_ENABLE),
} };

/* How many of @count bytes are within the dword at @offset */
static inline size_t pdma_config_len(u64 offset, size_t count)
{
	return min_t(size_t, count, 4 - offset % 4);
}

/* Read up to four bytes, which must not cross a dword */
static inline u32 pdma_config_read(const struct pdma_config *config,
				   unsigned int offset)
{
	if (offset >= PDMA_CONFIG_END)
		return 0;
	return config->dword[PDMA_DWORD(offset)] >> offset % 4 * 8;
}

/* Same for a write. Returns whether a function level reset was initiated. */
static inline bool pdma_config_write(struct pdma_config *config,
				     unsigned int offset, size_t len, u32 val)
{
	unsigned int shift = offset % 4 * 8;
	u32 mask = GENMASK(shift + len * 8 - 1, shift);
	u32 writable, *dword;

	if (offset >= PDMA_CONFIG_END)
		return false;

	val <<= shift;
	writable = pdma_config_writable.dword[PDMA_DWORD(offset)] & mask;
	dword = &config->dword[PDMA_DWORD(offset)];
	*dword = (*dword & ~writable) | (val & writable);

	return PDMA_DWORD(offset) ==
		       PDMA_DWORD(PDMA_CONFIG_EXP + PCI_EXP_DEVCTL) &&
	       (val & mask & PCI_EXP_DEVCTL_BCR_FLR);
}

static inline bool pdma_config_master(const struct pdma_config *config)
{
	return config->dword[PDMA_DWORD(PCI_COMMAND)] & PCI_COMMAND_MASTER;
}

#endif

/*
 * PASID DMA engine, a PCI function to test PASIDs with
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * pdma.h describes the registers. Each channel DMAs with a PASID of its own,
 * through the emulated Intel IOMMU. With ats=on, and once software has enabled
 * both sides, the function keeps translations in an address translation cache
 * (ATC) and uses them without asking the IOMMU again, until a device-TLB
 * invalidation drops them.
 *
 * Registers, timers and invalidations are all served under the big QEMU lock:
 * there is no other locking, and stopping a channel is stopping its timer.
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "hw/i386/intel_iommu.h"
#include "hw/pci/pci_device.h"
#include "hw/pci/pcie.h"
#include "hw/qdev-properties.h"
#include "qom/object.h"
#include "pdma.h"
#include "trace.h"

#define TYPE_PDMA "pdma"
OBJECT_DECLARE_SIMPLE_TYPE(PDMAState, PDMA)

#define PDMA_PASID_WIDTH        20
#define PDMA_PASID_CAP_OFFSET   0x100
#define PDMA_ATS_CAP_OFFSET     0x110

#define PDMA_MIN_PERIOD         10
#define PDMA_MAX_PERIOD         1000000
#define PDMA_DEFAULT_PERIOD     100
#define PDMA_MAX_BURST          4096
#define PDMA_DEFAULT_BURST      1
/* The time from one part of a copy to the next one */
#define PDMA_COPY_PERIOD        1

/* More cached pages than this are not worth the memory */
#define PDMA_MAX_ATC_PAGES      4096

typedef struct PDMAPage {
    uint64_t iova;              /* The key in PDMAAtc.pages */
    uint64_t addr;
    AddressSpace *as;
    IOMMUAccessFlags perm;
} PDMAPage;

/* The part of the ATC that belongs to one PASID */
typedef struct PDMAAtc {
    PDMAState *s;
    uint32_t pasid;
    IOMMUMemoryRegion *iommu;
    IOMMUNotifier notifier;
    GHashTable *pages;
} PDMAAtc;

/* What a command works with: the registers at the time it was written */
typedef struct PDMACommand {
    uint32_t cmd;
    uint64_t src;
    uint64_t dst;
    uint32_t len;
    uint32_t period;
    uint32_t burst;
} PDMACommand;

typedef struct PDMAChannel {
    PDMAState *s;
    uint32_t nr;
    QEMUTimer timer;

    uint32_t pasid;             /* PDMA_CTL_PASID */

    PDMACommand regs;
    uint32_t status;
    uint64_t counter;
    uint64_t done_count;
    uint64_t refused_count;

    PDMACommand run;
    /* Counts starts and stops: a request may be a write to these registers */
    uint32_t generation;
} PDMAChannel;

struct PDMAState {
    PCIDevice parent_obj;

    uint32_t num_channels;
    bool ats;

    MemoryRegion bar;
    IntelIOMMUState *iommu;
    PDMAChannel channels[PDMA_MAX_CHANNELS];
    GHashTable *atcs;           /* PDMAAtc by PASID */

    /* The high half of the 64-bit register that was read last */
    hwaddr latched_addr;
    uint32_t latched;
};

static uint16_t pdma_sid(PDMAState *s)
{
    return pci_requester_id(PCI_DEVICE(s));
}

static bool pdma_pasid_enabled(PDMAState *s)
{
    uint8_t *config = PCI_DEVICE(s)->config;

    return pci_get_word(config + PDMA_PASID_CAP_OFFSET + PCI_PASID_CTRL) &
           PCI_PASID_CTRL_ENABLE;
}

static bool pdma_bus_master(PDMAState *s)
{
    return pci_get_word(PCI_DEVICE(s)->config + PCI_COMMAND) &
           PCI_COMMAND_MASTER;
}

static bool pdma_ats_enabled(PDMAState *s)
{
    uint8_t *config = PCI_DEVICE(s)->config;

    return s->ats && X86_IOMMU_DEVICE(s->iommu)->dt_supported &&
           (pci_get_word(config + PDMA_ATS_CAP_OFFSET + PCI_ATS_CTRL) &
            PCI_ATS_CTRL_ENABLE);
}

static IOMMUMemoryRegion *pdma_iommu_region(PDMAState *s, uint32_t pasid)
{
    PCIDevice *pdev = PCI_DEVICE(s);

    return &vtd_find_add_as(s->iommu, pci_get_bus(pdev), pdev->devfn,
                            pasid)->iommu;
}

/*
 * Address translation cache
 */

static gboolean pdma_atc_page_in_range(gpointer key, gpointer value,
                                       gpointer user_data)
{
    const IOMMUTLBEntry *range = user_data;
    PDMAPage *page = value;

    return page->iova - range->iova <= range->addr_mask;
}

/* A device-TLB invalidation for this function and PASID has arrived */
static void pdma_atc_invalidate(IOMMUNotifier *n, IOMMUTLBEntry *range)
{
    PDMAAtc *atc = container_of(n, PDMAAtc, notifier);
    unsigned int dropped;

    dropped = g_hash_table_foreach_remove(atc->pages, pdma_atc_page_in_range,
                                          range);
    trace_pdma_atc_invalidate(pdma_sid(atc->s), atc->pasid, range->iova,
                              range->addr_mask, dropped);
}

static void pdma_atc_free(gpointer data)
{
    PDMAAtc *atc = data;

    memory_region_unregister_iommu_notifier(MEMORY_REGION(atc->iommu),
                                            &atc->notifier);
    g_hash_table_destroy(atc->pages);
    g_free(atc);
}

static PDMAAtc *pdma_find_add_atc(PDMAState *s, uint32_t pasid)
{
    PDMAAtc *atc = g_hash_table_lookup(s->atcs, GUINT_TO_POINTER(pasid));

    if (!atc) {
        atc = g_new0(PDMAAtc, 1);
        atc->s = s;
        atc->pasid = pasid;
        atc->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                           NULL, g_free);
        atc->iommu = pdma_iommu_region(s, pasid);
        iommu_notifier_init(&atc->notifier, pdma_atc_invalidate,
                            IOMMU_NOTIFIER_DEVIOTLB_UNMAP, 0, HWADDR_MAX, 0);
        memory_region_register_iommu_notifier(MEMORY_REGION(atc->iommu),
                                              &atc->notifier, &error_fatal);
        g_hash_table_insert(s->atcs, GUINT_TO_POINTER(pasid), atc);
    }

    return atc;
}

/*
 * Fill in where a request that stays within one page goes to. The IOMMU is
 * asked once for each request, so that it reports each refused one once.
 */
static bool pdma_translate(PDMAState *s, uint32_t pasid, uint64_t iova,
                           bool is_write, AddressSpace **as, uint64_t *addr)
{
    IOMMUAccessFlags access = is_write ? IOMMU_WO : IOMMU_RO;
    uint64_t iova_page = iova & ~(uint64_t)(PDMA_PAGE_SIZE - 1);
    IOMMUMemoryRegion *iommu = pdma_iommu_region(s, pasid);
    PDMAAtc *atc = NULL;
    PDMAPage *page;
    IOMMUTLBEntry entry;

    if (pdma_ats_enabled(s)) {
        atc = pdma_find_add_atc(s, pasid);
        page = g_hash_table_lookup(atc->pages, &iova_page);
        if (page && (page->perm & access)) {
            trace_pdma_atc_hit(pdma_sid(s), pasid, iova_page, page->addr);
            *as = page->as;
            *addr = page->addr + (iova - iova_page);
            return true;
        }
    }

    WITH_RCU_READ_LOCK_GUARD() {
        entry = memory_region_get_iommu_class_nocheck(iommu)->translate(
            iommu, iova, access, 0);
    }
    if (!(entry.perm & access)) {
        return false;
    }
    *as = entry.target_as;
    *addr = entry.translated_addr + (iova & entry.addr_mask);

    if (atc) {
        if (g_hash_table_size(atc->pages) >= PDMA_MAX_ATC_PAGES) {
            g_hash_table_remove_all(atc->pages);
        }
        /* The answer is good for this kind of access: ask for the other one */
        page = g_new(PDMAPage, 1);
        page->iova = iova_page;
        page->addr = *addr - (iova - iova_page);
        page->as = *as;
        page->perm = access;
        g_hash_table_replace(atc->pages, &page->iova, page);
    }

    return true;
}

/*
 * Channels
 */

/* Issue one request, which does not cross a page. Returns true if it arrived */
static bool pdma_request(PDMAChannel *ch, bool is_write, uint64_t iova,
                         void *buf, uint32_t len)
{
    PDMAState *s = ch->s;
    uint32_t pasid = ch->pasid & PDMA_PASID_MASK;
    uint32_t generation = ch->generation;
    AddressSpace *as;
    uint64_t addr;
    bool ok;

    ok = (ch->pasid & PDMA_PASID_VALID) &&
         pdma_pasid_enabled(s) && pdma_bus_master(s) &&
         pdma_translate(s, pasid, iova, is_write, &as, &addr) &&
         address_space_rw(as, addr, MEMTXATTRS_UNSPECIFIED, buf, len,
                          is_write) == MEMTX_OK;

    if (ok) {
        trace_pdma_done(pdma_sid(s), ch->nr, pasid, is_write, iova, len);
    } else {
        trace_pdma_refused(pdma_sid(s), ch->nr, pasid, is_write, iova, len);
    }

    /* The request may have reset its own channel */
    if (generation == ch->generation) {
        if (ok) {
            ch->done_count++;
            ch->status &= ~PDMA_STATUS_REFUSED;
        } else {
            ch->refused_count++;
            ch->status |= PDMA_STATUS_REFUSED;
        }
    }

    return ok;
}

static void pdma_schedule(PDMAChannel *ch, uint32_t us)
{
    timer_mod(&ch->timer, qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) +
                          (int64_t)us * SCALE_US);
}

static void pdma_stop(PDMAChannel *ch)
{
    ch->generation++;
    timer_del(&ch->timer);
    ch->status &= ~PDMA_STATUS_BUSY;
}

/* Copy what does not cross a page on either side */
static void pdma_copy(PDMAChannel *ch)
{
    PDMACommand *run = &ch->run;
    uint32_t generation = ch->generation;
    uint8_t buf[PDMA_PAGE_SIZE];
    uint32_t len = run->len;
    bool ok;

    len = MIN(len, PDMA_PAGE_SIZE - run->src % PDMA_PAGE_SIZE);
    len = MIN(len, PDMA_PAGE_SIZE - run->dst % PDMA_PAGE_SIZE);

    ok = pdma_request(ch, false, run->src, buf, len);
    if (ok && generation == ch->generation) {
        ok = pdma_request(ch, true, run->dst, buf, len);
    }
    if (generation != ch->generation) {
        return;
    }

    run->src += len;
    run->dst += len;
    run->len -= len;
    if (!ok) {
        pdma_stop(ch);
    } else if (!run->len) {
        pdma_stop(ch);
        ch->status |= PDMA_STATUS_DONE;
    } else {
        pdma_schedule(ch, PDMA_COPY_PERIOD);
    }
}

static void pdma_stream(PDMAChannel *ch)
{
    PDMACommand *run = &ch->run;
    uint32_t generation = ch->generation;
    uint32_t i;

    for (i = 0; i < run->burst; i++) {
        uint64_t value = ch->counter + 1;
        uint64_t le_value = cpu_to_le64(value);
        bool ok = pdma_request(ch, true, run->dst + value * 8 % run->len,
                               &le_value, sizeof(le_value));

        if (generation != ch->generation) {
            return;
        }
        if (ok) {
            ch->counter = value;
        }
    }

    pdma_schedule(ch, run->period);
}

static void pdma_timer(void *opaque)
{
    PDMAChannel *ch = opaque;

    if (ch->run.cmd == PDMA_CMD_COPY) {
        pdma_copy(ch);
    } else {
        pdma_stream(ch);
    }
}

static bool pdma_command_valid(PDMAChannel *ch, uint32_t cmd)
{
    PDMACommand *regs = &ch->regs;

    if (cmd == PDMA_CMD_STOP) {
        return true;
    }

    if (!(ch->pasid & PDMA_PASID_VALID) || (ch->status & PDMA_STATUS_BUSY) ||
        !regs->len || regs->len > PDMA_MAX_LEN) {
        return false;
    }

    switch (cmd) {
    case PDMA_CMD_COPY:
        return true;
    case PDMA_CMD_STREAM:
        return regs->len % 8 == 0 && regs->dst % 8 == 0;
    default:
        return false;
    }
}

static void pdma_command(PDMAChannel *ch, uint32_t cmd)
{
    bool valid = pdma_command_valid(ch, cmd);

    trace_pdma_command(pdma_sid(ch->s), ch->nr, ch->pasid, cmd, valid);

    if (!valid) {
        ch->status |= PDMA_STATUS_INVALID;
        return;
    }

    ch->status &= ~PDMA_STATUS_INVALID;
    if (cmd == PDMA_CMD_STOP) {
        pdma_stop(ch);
        return;
    }

    ch->generation++;
    ch->run = ch->regs;
    ch->run.cmd = cmd;
    ch->status = PDMA_STATUS_BUSY;
    if (cmd == PDMA_CMD_COPY) {
        pdma_schedule(ch, PDMA_COPY_PERIOD);
    } else {
        ch->counter = 0;
        pdma_schedule(ch, ch->run.period);
    }
}

static void pdma_channel_reset(PDMAChannel *ch)
{
    pdma_stop(ch);
    ch->regs = (PDMACommand) {
        .period = PDMA_DEFAULT_PERIOD,
        .burst = PDMA_DEFAULT_BURST,
    };
    ch->status = 0;
    ch->counter = 0;
    ch->done_count = 0;
    ch->refused_count = 0;
}

/*
 * Registers. An 8-byte access arrives here as two, low half first.
 */

static uint64_t pdma_read_channel(PDMAChannel *ch, hwaddr reg)
{
    switch (reg & ~(hwaddr)7) {
    case PDMA_SRC:
        return ch->regs.src;
    case PDMA_DST:
        return ch->regs.dst;
    case PDMA_LEN & ~7:
        return ch->regs.len;    /* And PDMA_CMD, which is write only */
    case PDMA_STATUS & ~7:
        return ch->status | (uint64_t)ch->regs.period << 32;
    case PDMA_BURST & ~7:
        return ch->regs.burst;
    case PDMA_COUNTER:
        return ch->counter;
    case PDMA_DONE_COUNT:
        return ch->done_count;
    case PDMA_REFUSED_COUNT:
        return ch->refused_count;
    default:
        return 0;
    }
}

static uint64_t pdma_read_control(PDMAState *s, hwaddr addr)
{
    hwaddr ctl = addr - PDMA_CTL(0);

    switch (addr & ~(hwaddr)7) {
    case PDMA_ID:
        return PDMA_ID_VALUE | (uint64_t)s->num_channels << 32;
    case PDMA_FAULTS_RECORDED:
        return vtd_fault_count(s->iommu, pdma_sid(s)).recorded;
    case PDMA_FAULTS_SUPPRESSED:
        return vtd_fault_count(s->iommu, pdma_sid(s)).suppressed;
    }

    if (addr >= PDMA_CTL(0) && addr < PDMA_CTL(s->num_channels) &&
        ctl % 0x10 < 8) {
        return s->channels[ctl / 0x10].pasid;
    }

    return 0;
}

static uint64_t pdma_mmio_read(void *opaque, hwaddr addr, unsigned size)
{
    PDMAState *s = opaque;
    hwaddr page = addr / PDMA_PAGE_SIZE;
    hwaddr reg = addr % PDMA_PAGE_SIZE;
    uint64_t val = 0;
    unsigned nr;

    if ((addr & 4) && s->latched_addr == (addr & ~(hwaddr)4)) {
        s->latched_addr = HWADDR_MAX;
        return s->latched;
    }

    if (page == 0) {
        val = pdma_read_control(s, reg);
    } else if (page <= 2 * PDMA_MAX_CHANNELS) {
        /* The channel pages, then the status pages */
        nr = (page - 1) % PDMA_MAX_CHANNELS;
        if (nr < s->num_channels) {
            val = pdma_read_channel(&s->channels[nr], reg);
        }
    }

    if (addr & 4) {
        return val >> 32;
    }

    /* A 64-bit register is read in two halves that belong together */
    s->latched_addr = addr;
    s->latched = val >> 32;
    return (uint32_t)val;
}

static void pdma_write_control(PDMAState *s, hwaddr addr, uint32_t val)
{
    hwaddr ctl = addr - PDMA_CTL(0);
    PDMAChannel *ch;

    if (addr < PDMA_CTL(0) || addr >= PDMA_CTL(s->num_channels)) {
        return;
    }

    ch = &s->channels[ctl / 0x10];
    switch (ctl % 0x10) {
    case PDMA_CTL_PASID:
        ch->pasid = val & (PDMA_PASID_VALID | PDMA_PASID_MASK);
        break;
    case PDMA_CTL_RESET:
        pdma_channel_reset(ch);
        break;
    }
}

static void pdma_write_channel(PDMAChannel *ch, hwaddr reg, uint32_t val)
{
    PDMACommand *regs = &ch->regs;

    switch (reg) {
    case PDMA_SRC:
        regs->src = deposit64(regs->src, 0, 32, val);
        break;
    case PDMA_SRC + 4:
        regs->src = deposit64(regs->src, 32, 32, val);
        break;
    case PDMA_DST:
        regs->dst = deposit64(regs->dst, 0, 32, val);
        break;
    case PDMA_DST + 4:
        regs->dst = deposit64(regs->dst, 32, 32, val);
        break;
    case PDMA_LEN:
        regs->len = val;
        break;
    case PDMA_CMD:
        pdma_command(ch, val);
        break;
    case PDMA_PERIOD:
        regs->period = MIN(MAX(val, PDMA_MIN_PERIOD), PDMA_MAX_PERIOD);
        break;
    case PDMA_BURST:
        regs->burst = MIN(MAX(val, 1), PDMA_MAX_BURST);
        break;
    }
}

static void pdma_mmio_write(void *opaque, hwaddr addr, uint64_t val,
                            unsigned size)
{
    PDMAState *s = opaque;
    hwaddr page = addr / PDMA_PAGE_SIZE;
    hwaddr reg = addr % PDMA_PAGE_SIZE;

    s->latched_addr = HWADDR_MAX;
    if (page == 0) {
        pdma_write_control(s, reg, val);
    } else if (page <= s->num_channels) {
        pdma_write_channel(&s->channels[page - 1], reg, val);
    }
}

static const MemoryRegionOps pdma_mmio_ops = {
    .read = pdma_mmio_read,
    .write = pdma_mmio_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {
        .min_access_size = 4,
        .max_access_size = 8,
    },
    .impl = {
        .min_access_size = 4,
        .max_access_size = 4,
    },
};

/*
 * PCI function
 */

static void pdma_config_write(PCIDevice *pdev, uint32_t addr, uint32_t val,
                              int len)
{
    PDMAState *s = PDMA(pdev);

    pci_default_write_config(pdev, addr, val, len);
    pcie_cap_flr_write_config(pdev, addr, val, len);

    /* A function that leaves ATS loses its cached translations */
    if (!pdma_ats_enabled(s)) {
        g_hash_table_remove_all(s->atcs);
    }
}

static void pdma_reset_hold(Object *obj, ResetType type)
{
    PDMAState *s = PDMA(obj);
    uint8_t *config = PCI_DEVICE(s)->config;
    uint32_t i;

    for (i = 0; i < s->num_channels; i++) {
        pdma_channel_reset(&s->channels[i]);
        s->channels[i].pasid = 0;
    }
    s->latched_addr = HWADDR_MAX;

    pci_set_word(config + PDMA_PASID_CAP_OFFSET + PCI_PASID_CTRL, 0);
    if (s->ats) {
        pci_set_word(config + PDMA_ATS_CAP_OFFSET + PCI_ATS_CTRL, 0);
    }
    g_hash_table_remove_all(s->atcs);
}

static void pdma_realize(PCIDevice *pdev, Error **errp)
{
    PDMAState *s = PDMA(pdev);
    X86IOMMUState *x86_iommu = x86_iommu_get_default();
    uint32_t i;

    s->iommu = (IntelIOMMUState *)object_dynamic_cast(OBJECT(x86_iommu),
                                                      TYPE_INTEL_IOMMU_DEVICE);
    if (!s->iommu) {
        error_setg(errp, "%s needs an intel-iommu, given before it",
                   TYPE_PDMA);
        return;
    }
    if (s->num_channels < 1 || s->num_channels > PDMA_MAX_CHANNELS) {
        error_setg(errp, "channels must be from 1 to %d", PDMA_MAX_CHANNELS);
        return;
    }
    if (pcie_endpoint_cap_init(pdev, 0) < 0) {
        error_setg(errp, "no room for the PCI Express capability");
        return;
    }
    pcie_cap_flr_init(pdev);

    pcie_add_capability(pdev, PCI_EXT_CAP_ID_PASID, 1, PDMA_PASID_CAP_OFFSET,
                        PCI_EXT_CAP_PASID_SIZEOF);
    pci_set_word(pdev->config + PDMA_PASID_CAP_OFFSET + PCI_PASID_CAP,
                 PDMA_PASID_WIDTH << 8);
    pci_set_word(pdev->wmask + PDMA_PASID_CAP_OFFSET + PCI_PASID_CTRL,
                 PCI_PASID_CTRL_ENABLE);
    if (s->ats) {
        pcie_ats_init(pdev, PDMA_ATS_CAP_OFFSET, true);
    }

    s->atcs = g_hash_table_new_full(NULL, NULL, NULL, pdma_atc_free);
    for (i = 0; i < s->num_channels; i++) {
        s->channels[i].s = s;
        s->channels[i].nr = i;
        timer_init_ns(&s->channels[i].timer, QEMU_CLOCK_VIRTUAL, pdma_timer,
                      &s->channels[i]);
    }

    memory_region_init_io(&s->bar, OBJECT(s), &pdma_mmio_ops, s, TYPE_PDMA,
                          pow2ceil(PDMA_STATUS_PAGE(s->num_channels)));
    pci_register_bar(pdev, 0, PCI_BASE_ADDRESS_SPACE_MEMORY, &s->bar);
}

static void pdma_exit(PCIDevice *pdev)
{
    PDMAState *s = PDMA(pdev);
    uint32_t i;

    for (i = 0; i < s->num_channels; i++) {
        pdma_stop(&s->channels[i]);
    }
    g_hash_table_destroy(s->atcs);
    pcie_cap_exit(pdev);
}

static const Property pdma_properties[] = {
    DEFINE_PROP_UINT32("channels", PDMAState, num_channels, 16),
    DEFINE_PROP_BOOL("ats", PDMAState, ats, false),
};

static void pdma_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);

    pc->realize = pdma_realize;
    pc->exit = pdma_exit;
    pc->config_write = pdma_config_write;
    pc->vendor_id = PDMA_VENDOR_ID;
    pc->device_id = PDMA_DEVICE_ID;
    pc->revision = 1;
    pc->class_id = PCI_CLASS_SYSTEM_OTHER;
    rc->phases.hold = pdma_reset_hold;
    dc->desc = "PASID DMA engine";
    device_class_set_props(dc, pdma_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo pdma_info = {
    .name = TYPE_PDMA,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(PDMAState),
    .class_init = pdma_class_init,
    .interfaces = (InterfaceInfo[]) {
        { INTERFACE_PCIE_DEVICE },
        { }
    },
};

static void pdma_register_types(void)
{
    type_register_static(&pdma_info);
}

type_init(pdma_register_types)

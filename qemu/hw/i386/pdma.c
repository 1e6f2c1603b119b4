/*
 * PASID DMA engine, a PCI function to test PASIDs with
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * pdma.h describes the registers. Each channel DMAs with a PASID of its own,
 * through the emulated Intel IOMMU. If a translation request is answered without
 * access, the function sends the untranslated request, which the IOMMU reports as
 * a fault. With pri=on, a channel can ask software for the page instead.
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
#include "qapi/visitor.h"
#include "exec/memory.h"
#include "hw/i386/intel_iommu.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pci_device.h"
#include "hw/pci/pcie.h"
#include "hw/pci/pcie_port.h"
#include "hw/qdev-properties.h"
#include "qom/object.h"
#include "pasid-function.h"
#include "pdma.h"
#include "trace.h"

#define TYPE_PDMA "pdma"
OBJECT_DECLARE_SIMPLE_TYPE(PDMAState, PDMA)

#define PDMA_MIN_PERIOD         10
#define PDMA_MAX_PERIOD         1000000
#define PDMA_DEFAULT_PERIOD     100
#define PDMA_MAX_BURST          4096
#define PDMA_DEFAULT_BURST      1
/* The time between two parts of a copy */
#define PDMA_COPY_PERIOD        1

#define PDMA_MAX_GROUP_PAGES    2
#define PDMA_MAX_PAGE_DELAY     10000000
#define PDMA_MIN_PAGE_TIMEOUT   10
#define PDMA_MAX_PAGE_TIMEOUT   60000000
#define PDMA_DEFAULT_PAGE_TIMEOUT 1000000

typedef struct PDMAChannel PDMAChannel;

/* Parameters of a command: the registers at the time it was written */
typedef struct PDMACommand {
    uint32_t cmd;
    uint64_t src;
    uint64_t dst;
    uint32_t len;
    uint32_t period;
    uint32_t burst;
} PDMACommand;

struct PDMAChannel {
    PDMAState *s;
    uint32_t nr;
    QEMUTimer timer;
    PASIDRequester requester;

    uint32_t pasid;             /* PDMA_CTL_PASID */

    PDMACommand regs;
    uint32_t status;
    uint64_t counter;
    uint64_t done_count;
    uint64_t refused_count;

    PDMACommand run;
    uint32_t left;              /* Requests of this period */
    bool have_data;             /* The read of a copy has arrived */
    uint8_t data[PDMA_PAGE_SIZE];
    /* Counts starts and stops: a request may be a write to these registers */
    uint32_t generation;

    uint32_t page_delay;
    uint32_t page_timeout;
    uint32_t page_result;
    uint64_t page_requests;
    uint64_t page_responses;

    PASIDWanted wanted[PDMA_MAX_GROUP_PAGES];
    uint32_t num_wanted;
    int64_t page_deadline;
    bool asked;                 /* page_result is about the next request */
};

struct PDMAState {
    PCIDevice parent_obj;

    uint32_t num_channels;
    MemoryRegion bar;
    PASIDFunction fn;
    PDMAChannel channels[PDMA_MAX_CHANNELS];
    QEMUTimer vanish_timer;

    /* The high half of the 64-bit register that was read last */
    hwaddr latched_addr;
    uint32_t latched;
};

QEMU_BUILD_BUG_ON(PDMA_ATC_ANSWER != PASID_ATC_ANSWER ||
                  PDMA_ATC_LATE != PASID_ATC_LATE ||
                  PDMA_ATC_MUTE != PASID_ATC_MUTE ||
                  PDMA_ATC_MUTE_UNTIL_RESET != PASID_ATC_MUTE_UNTIL_RESET);

/*
 * Page requests
 */

static void pdma_schedule(PDMAChannel *ch, uint32_t us)
{
    timer_mod(&ch->timer, pasid_fn_after(us));
}

static void pdma_page_result(PDMAChannel *ch, uint32_t result)
{
    ch->status &= ~PDMA_STATUS_WAITING;
    ch->page_result = result;
    pasid_fn_cancel(&ch->requester);
    ch->asked = true;
}

/*
 * Wait for a response, or for permission to send page requests. Returns false
 * if the channel can continue; page_result has the outcome.
 */
static bool pdma_wait(PDMAChannel *ch)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    PASIDFunction *fn = &ch->s->fn;

    if (now >= ch->page_deadline) {
        pdma_page_result(ch, PDMA_PAGE_TIMED_OUT);
        return false;
    }
    if (!ch->requester.group) {
        if (!pasid_fn_pri_enabled(fn) || !pasid_fn_pasid_enabled(fn) ||
            !(ch->pasid & PDMA_PASID_VALID)) {
            pdma_page_result(ch, PDMA_PAGE_DISABLED);
            return false;
        }
        if (!pasid_fn_ask(&ch->requester, ch->pasid & PDMA_PASID_MASK,
                          ch->wanted, ch->num_wanted,
                          (int64_t)ch->page_delay * SCALE_US)) {
            timer_mod(&ch->timer, MIN(ch->page_deadline,
                                      now + PDMA_MIN_PERIOD * SCALE_US));
            return true;
        }
        ch->page_requests += ch->num_wanted;
    }
    timer_mod(&ch->timer, ch->page_deadline);
    return true;
}

static void pdma_want(PDMAChannel *ch, uint32_t i, uint64_t iova,
                      bool is_write)
{
    ch->wanted[i].iova = iova;
    ch->wanted[i].is_write = is_write;
    ch->num_wanted = i + 1;
}

/* Send the page requests. The timer continues when there is a response. */
static void pdma_ask_for_pages(PDMAChannel *ch)
{
    ch->status |= PDMA_STATUS_WAITING;
    ch->page_deadline = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) +
                        (int64_t)ch->page_timeout * SCALE_US;
    if (!pdma_wait(ch)) {
        pdma_schedule(ch, PDMA_COPY_PERIOD);
    }
}

static void pdma_failed(PASIDFunction *fn)
{
    PDMAState *s = container_of(fn, PDMAState, fn);
    uint32_t i;

    for (i = 0; i < s->num_channels; i++) {
        PDMAChannel *ch = &s->channels[i];

        if (ch->status & PDMA_STATUS_WAITING) {
            pdma_page_result(ch, PDMA_PAGE_FAILURE);
            pdma_schedule(ch, PDMA_COPY_PERIOD);
        }
    }
}

static void pdma_respond(PASIDRequester *r, uint8_t code)
{
    PDMAChannel *ch = container_of(r, PDMAChannel, requester);

    ch->page_responses++;
    pdma_page_result(ch, code);
    pdma_schedule(ch, PDMA_COPY_PERIOD);
}

/*
 * Channels
 */

static void pdma_landed(PASIDRequester *r)
{
    PDMAChannel *ch = container_of(r, PDMAChannel, requester);

    ch->have_data = true;
    pdma_schedule(ch, 0);
}

static void pdma_refuse(PDMAChannel *ch)
{
    ch->refused_count++;
    ch->status |= PDMA_STATUS_REFUSED;
}

/*
 * Issue one request that does not cross a page. It counts as arrived when it has
 * passed the IOMMU, even if it is still in flight.
 */
static PASIDOutcome pdma_request(PDMAChannel *ch, bool is_write, uint64_t iova,
                                 void *buf, uint32_t len)
{
    uint16_t sid = pasid_fn_sid(&ch->s->fn);
    uint32_t generation = ch->generation;
    PASIDAccess access = {
        .pasid = ch->pasid & PDMA_PASID_MASK,
        .iova = iova,
        .is_write = is_write,
        .no_fault = ch->run.cmd & PDMA_CMD_FLAGS,
        .buf = buf,
        .len = len,
    };
    PASIDOutcome outcome = PASID_REFUSED;
    int64_t ready;

    if (ch->pasid & PDMA_PASID_VALID) {
        outcome = pasid_fn_request(&ch->requester, &access, &ready);
    }
    if (outcome == PASID_UNTRANSLATED) {
        outcome = PASID_REFUSED;
    }

    if (outcome == PASID_LATER) {
        timer_mod(&ch->timer, ready);
        return outcome;
    }
    if (outcome == PASID_NO_PAGE) {
        pdma_want(ch, 0, iova, is_write);
        pdma_ask_for_pages(ch);
        return outcome;
    }

    if (outcome == PASID_PASSED) {
        trace_pdma_done(sid, ch->nr, access.pasid, is_write, iova, len);
    } else {
        trace_pdma_refused(sid, ch->nr, access.pasid, is_write, iova, len);
    }

    /* The request may have reset its own channel */
    if (generation == ch->generation) {
        if (outcome == PASID_PASSED) {
            ch->done_count++;
            ch->status &= ~PDMA_STATUS_REFUSED;
        } else {
            pdma_refuse(ch);
        }
    }

    return outcome;
}

static void pdma_stop(PDMAChannel *ch)
{
    ch->generation++;
    ch->left = 0;
    ch->have_data = false;
    timer_del(&ch->timer);
    ch->status &= ~(PDMA_STATUS_BUSY | PDMA_STATUS_WAITING);
    pasid_fn_cancel(&ch->requester);
    ch->asked = false;
}

/* Copy what does not cross a page on either side */
static void pdma_copy(PDMAChannel *ch)
{
    PDMACommand *run = &ch->run;
    uint32_t generation = ch->generation;
    uint32_t len = run->len;
    PASIDOutcome outcome;

    len = MIN(len, PDMA_PAGE_SIZE - run->src % PDMA_PAGE_SIZE);
    len = MIN(len, PDMA_PAGE_SIZE - run->dst % PDMA_PAGE_SIZE);

    if ((run->cmd & PDMA_CMD_FAULT) && !ch->asked) {
        pdma_want(ch, 0, run->src, false);
        pdma_want(ch, 1, run->dst, true);
        pdma_ask_for_pages(ch);
        return;
    }

    if (!ch->have_data) {
        outcome = pdma_request(ch, false, run->src, ch->data, len);
        if (generation != ch->generation || outcome == PASID_LATER ||
            outcome == PASID_NO_PAGE) {
            return;
        }
        if (outcome == PASID_REFUSED) {
            pdma_stop(ch);
            return;
        }
        if (ch->s->fn.flight_us) {
            return;             /* pdma_landed() continues */
        }
        ch->have_data = true;
    }

    outcome = pdma_request(ch, true, run->dst, ch->data, len);
    if (generation != ch->generation || outcome == PASID_LATER ||
        outcome == PASID_NO_PAGE) {
        return;
    }

    ch->asked = false;
    ch->have_data = false;
    run->src += len;
    run->dst += len;
    run->len -= len;
    if (outcome == PASID_REFUSED) {
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

    if (!ch->left) {
        ch->left = run->burst;
    }
    for (; ch->left; ch->left--) {
        uint64_t value = ch->counter + 1;
        uint64_t le_value = cpu_to_le64(value);
        uint64_t iova = run->dst + value * 8 % run->len;
        PASIDOutcome outcome;

        if ((run->cmd & PDMA_CMD_FAULT) && !ch->asked) {
            pdma_want(ch, 0, iova, true);
            pdma_ask_for_pages(ch);
            return;
        }
        outcome = pdma_request(ch, true, iova, &le_value, sizeof(le_value));
        if (generation != ch->generation || outcome == PASID_LATER ||
            outcome == PASID_NO_PAGE) {
            return;
        }
        ch->asked = false;
        if (outcome == PASID_PASSED) {
            ch->counter = value;
        }
    }

    pdma_schedule(ch, run->period);
}

static void pdma_timer(void *opaque)
{
    PDMAChannel *ch = opaque;
    bool is_copy = (ch->run.cmd & ~PDMA_CMD_FLAGS) == PDMA_CMD_COPY;

    if ((ch->status & PDMA_STATUS_WAITING) && pdma_wait(ch)) {
        return;
    }

    if (ch->asked && ch->page_result != PDMA_PAGE_SUCCESS) {
        ch->asked = false;
        pdma_refuse(ch);
        if (is_copy) {
            pdma_stop(ch);
        } else {
            ch->left = 0;
            pdma_schedule(ch, ch->run.period);
        }
    } else if (is_copy) {
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

    if ((cmd & PDMA_CMD_FLAGS) && !pasid_fn_pri_enabled(&ch->s->fn)) {
        return false;
    }

    switch (cmd & ~PDMA_CMD_FLAGS) {
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

    trace_pdma_command(pasid_fn_sid(&ch->s->fn), ch->nr, ch->pasid, cmd, valid);

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
    if ((cmd & ~PDMA_CMD_FLAGS) == PDMA_CMD_COPY) {
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
    ch->page_delay = 0;
    ch->page_timeout = PDMA_DEFAULT_PAGE_TIMEOUT;
    ch->page_result = PDMA_PAGE_NONE;
    ch->page_requests = 0;
    ch->page_responses = 0;
}

/*
 * Surprise removal
 */

static PCIDevice *pdma_slot(PDMAState *s)
{
    PCIDevice *port = pci_bridge_get_device(pci_get_bus(PCI_DEVICE(s)));

    return port && object_dynamic_cast(OBJECT(port), TYPE_PCIE_SLOT) ?
           port : NULL;
}

static void pdma_vanish_timer(void *opaque)
{
    PDMAState *s = opaque;

    pcie_cap_slot_surprise_removal(pdma_slot(s));
}

static void pdma_vanish(PDMAState *s, uint32_t us)
{
    if (pdma_slot(s)) {
        timer_mod(&s->vanish_timer, pasid_fn_after(us));
    }
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
    case PDMA_PAGE_DELAY:
        return ch->page_delay | (uint64_t)ch->page_timeout << 32;
    case PDMA_PAGE_RESULT:
        return ch->page_result;
    case PDMA_PAGE_REQUESTS:
        return ch->page_requests;
    case PDMA_PAGE_RESPONSES:
        return ch->page_responses;
    default:
        return 0;
    }
}

static uint64_t pdma_read_control(PDMAState *s, hwaddr addr)
{
    hwaddr ctl = addr - PDMA_CTL(0);

    switch (addr & ~(hwaddr)7) {
    case PDMA_UR_COUNT:
        return s->fn.ur_count;
    case PDMA_CA_COUNT:
        return s->fn.ca_count;
    case PDMA_ATC_COUNT:
        return s->fn.atc_count;
    case PDMA_ATC_MODE:
        return s->fn.atc_mode | (uint64_t)s->fn.atc_late_us << 32;
    case PDMA_FLIGHT_US:
        return s->fn.flight_us | (uint64_t)vtd_get_inv_error(s->fn.vtd.iommu) << 32;
    case PDMA_ID:
        return PDMA_ID_VALUE | (uint64_t)s->num_channels << 32;
    case PDMA_FAULTS_RECORDED:
        return vtd_fault_count(s->fn.vtd.iommu, pasid_fn_sid(&s->fn)).recorded;
    case PDMA_FAULTS_SUPPRESSED:
        return vtd_fault_count(s->fn.vtd.iommu, pasid_fn_sid(&s->fn)).suppressed;
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

    pasid_fn_push_writes(&s->fn);

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

    switch (addr) {
    case PDMA_ATC_MODE:
        s->fn.atc_mode = val;
        return;
    case PDMA_ATC_LATE_US:
        s->fn.atc_late_us = val;
        return;
    case PDMA_FLIGHT_US:
        s->fn.flight_us = val;
        return;
    case PDMA_INV_ERROR:
        vtd_set_inv_error(s->fn.vtd.iommu, val);
        return;
    case PDMA_VANISH_US:
        pdma_vanish(s, val);
        return;
    }

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
    case PDMA_PAGE_DELAY:
        ch->page_delay = MIN(val, PDMA_MAX_PAGE_DELAY);
        break;
    case PDMA_PAGE_TIMEOUT:
        ch->page_timeout = MIN(MAX(val, PDMA_MIN_PAGE_TIMEOUT),
                               PDMA_MAX_PAGE_TIMEOUT);
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
    pasid_fn_write_config(&PDMA(pdev)->fn, addr, val, len);
}

static void pdma_stop_all(PDMAState *s)
{
    uint32_t i;

    for (i = 0; i < s->num_channels; i++) {
        pdma_stop(&s->channels[i]);
    }
}

static void pdma_reset_hold(Object *obj, ResetType type)
{
    PDMAState *s = PDMA(obj);
    uint32_t i;

    pdma_stop_all(s);
    pasid_fn_quiesce(&s->fn);
    for (i = 0; i < s->num_channels; i++) {
        pdma_channel_reset(&s->channels[i]);
        s->channels[i].pasid = 0;
    }
    s->latched_addr = HWADDR_MAX;
    pasid_fn_reset(&s->fn);
}

static void pdma_realize(PCIDevice *pdev, Error **errp)
{
    PDMAState *s = PDMA(pdev);
    uint32_t i;

    if (s->num_channels < 1 || s->num_channels > PDMA_MAX_CHANNELS) {
        error_setg(errp, "channels must be from 1 to %d", PDMA_MAX_CHANNELS);
        return;
    }
    s->fn.failed = pdma_failed;
    if (!pasid_fn_realize(&s->fn, pdev, errp)) {
        return;
    }

    timer_init_ns(&s->vanish_timer, QEMU_CLOCK_VIRTUAL, pdma_vanish_timer, s);
    for (i = 0; i < s->num_channels; i++) {
        s->channels[i].s = s;
        s->channels[i].nr = i;
        s->channels[i].requester = (PASIDRequester) {
            .fn = &s->fn,
            .landed = pdma_landed,
            .respond = pdma_respond,
        };
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

    pdma_stop_all(s);
    timer_del(&s->vanish_timer);
    pasid_fn_exit(&s->fn);
}

static const Property pdma_properties[] = {
    DEFINE_PROP_UINT32("channels", PDMAState, num_channels, 16),
    DEFINE_PROP_BOOL("ats", PDMAState, fn.ats, false),
    DEFINE_PROP_BOOL("pri", PDMAState, fn.pri, false),
    DEFINE_PROP_UINT8("ats-depth", PDMAState, fn.ats_depth, 0),
};

static void pdma_set_vanish_us(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    uint32_t us;

    if (visit_type_uint32(v, name, &us, errp)) {
        pdma_vanish(PDMA(obj), us);
    }
}

/* Properties that tests can change at run time; see also the registers */
static void pdma_instance_init(Object *obj)
{
    PDMAState *s = PDMA(obj);

    pasid_fn_instance_init(&s->fn, obj);
    object_property_add(obj, "vanish-us", "uint32", NULL, pdma_set_vanish_us,
                        NULL, NULL);
}

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
    .instance_init = pdma_instance_init,
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

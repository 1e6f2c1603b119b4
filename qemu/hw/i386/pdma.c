/*
 * PASID DMA engine, a PCI function to test PASIDs with
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * pdma.h describes the registers. Each channel DMAs with a PASID of its own,
 * through the emulated Intel IOMMU. With ats=on, and once software has enabled
 * both sides, the function caches translations in an address translation cache
 * (ATC) and sends translated requests, until a device-TLB invalidation drops the
 * translation. If a translation request is answered without access, the
 * function sends the untranslated request, which the IOMMU reports as a fault.
 * With pri=on, a channel can ask software for the page instead. It sends no stop
 * markers, as VT-d has another way to drain page requests (VT-d spec 7.10).
 *
 * With flight-us, requests stay in flight for that time between the IOMMU and
 * memory, and translations between the IOMMU and the ATC. The IOMMU asks the
 * function to drain them. Register reads push posted writes. Configuration reads
 * would, too, but do not here: they must not make up for a missing drain.
 *
 * Not modelled: delays on the way to the IOMMU, relaxed ordering, zero-length
 * reads, and requests that are still in flight when the function is gone.
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
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "hw/pci/pcie.h"
#include "hw/pci/pcie_port.h"
#include "hw/qdev-properties.h"
#include "qom/object.h"
#include "pdma.h"
#include "trace.h"

#define TYPE_PDMA "pdma"
OBJECT_DECLARE_SIMPLE_TYPE(PDMAState, PDMA)

#define PDMA_PASID_WIDTH        20
#define PDMA_PASID_CAP_OFFSET   0x100
#define PDMA_ATS_CAP_OFFSET     0x110
#define PDMA_PRI_CAP_OFFSET     0x120

#define PDMA_MIN_PERIOD         10
#define PDMA_MAX_PERIOD         1000000
#define PDMA_DEFAULT_PERIOD     100
#define PDMA_MAX_BURST          4096
#define PDMA_DEFAULT_BURST      1
/* The time from one part of a copy to the next one */
#define PDMA_COPY_PERIOD        1

/* Outstanding Page Request Capacity */
#define PDMA_PAGE_CAPACITY      64
#define PDMA_MAX_GROUP_PAGES    2
#define PDMA_MAX_PAGE_DELAY     10000000
#define PDMA_MIN_PAGE_TIMEOUT   10
#define PDMA_MAX_PAGE_TIMEOUT   60000000
#define PDMA_DEFAULT_PAGE_TIMEOUT 1000000

/* More cached pages than this are not worth the memory */
#define PDMA_MAX_ATC_PAGES      4096
/* Invalidate queue depth of the ATS capability, 0 stands for 32 */
#define PDMA_MAX_ATS_DEPTH      31

typedef struct PDMAPage {
    uint64_t iova;              /* The key in PDMAAtc.pages */
    uint64_t addr;
    bool is_write;
    int64_t ready;              /* The translation has arrived by then */
} PDMAPage;

/* The part of the ATC that belongs to one PASID */
typedef struct PDMAAtc {
    uint32_t pasid;
    GHashTable *pages;
} PDMAAtc;

/* A device-TLB invalidation that is answered later */
typedef struct PDMALateInv {
    VTDDeviceTLBInv inv;
    int64_t due;
    QTAILQ_ENTRY(PDMALateInv) next;
} PDMALateInv;

typedef struct PDMAChannel PDMAChannel;

/* A request that has passed the IOMMU, on its way to memory */
typedef struct PDMAFlight {
    VTDRequest req;
    uint64_t iova;              /* Of a translated request, too */
    uint32_t pasid;
    PDMAChannel *reader;        /* Of a read */
    uint32_t generation;
    int64_t due;
    QTAILQ_ENTRY(PDMAFlight) next;
    uint32_t len;
    uint8_t data[];
} PDMAFlight;

typedef enum PDMAOutcome {
    PDMA_PASSED,
    PDMA_REFUSED,
    PDMA_LATER,                 /* The translation is not there yet */
    PDMA_NO_PAGE,               /* Nothing was sent: ask for the page first */
} PDMAOutcome;

/* What a command works with: the registers at the time it was written */
typedef struct PDMACommand {
    uint32_t cmd;
    uint64_t src;
    uint64_t dst;
    uint32_t len;
    uint32_t period;
    uint32_t burst;
} PDMACommand;

/* A page that cannot be reached, or that a channel asks for nevertheless */
typedef struct PDMAWanted {
    uint64_t iova;
    bool is_write;
} PDMAWanted;

/*
 * A page request group that waits for its response, even if the channel
 * does not any more. Its place in PDMAState.groups is its index.
 */
typedef struct PDMAGroup {
    uint32_t num_pages;         /* 0: the index is free */
    uint32_t pasid;
    uint32_t channel;
} PDMAGroup;

struct PDMAChannel {
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

    PDMAWanted wanted[PDMA_MAX_GROUP_PAGES];
    uint32_t num_wanted;
    PDMAGroup *group;           /* Whose response the channel waits for */
    int64_t page_deadline;
    bool asked;                 /* page_result is about the next request */
};

struct PDMAState {
    PCIDevice parent_obj;

    uint32_t num_channels;
    bool ats;
    uint8_t ats_depth;
    bool pri;

    MemoryRegion bar;
    IntelIOMMUState *iommu;
    VTDFunction function;
    PDMAChannel channels[PDMA_MAX_CHANNELS];
    GHashTable *atcs;           /* PDMAAtc by PASID */
    bool ats_unsupported;       /* The IOMMU has said so */

    uint32_t flight_us;
    QTAILQ_HEAD(, PDMAFlight) flights;      /* In the order of their due */
    QEMUTimer flight_timer;

    uint32_t atc_mode;
    uint32_t atc_late_us;
    QTAILQ_HEAD(, PDMALateInv) late;        /* In the order of their due */
    QEMUTimer late_timer;
    QEMUTimer vanish_timer;

    uint64_t ur_count;
    uint64_t ca_count;
    uint64_t atc_count;

    PDMAGroup groups[PDMA_PAGE_CAPACITY];
    uint32_t num_requests;      /* In all groups */

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

    return s->ats && !s->ats_unsupported &&
           X86_IOMMU_DEVICE(s->iommu)->dt_supported &&
           (pci_get_word(config + PDMA_ATS_CAP_OFFSET + PCI_ATS_CTRL) &
            PCI_ATS_CTRL_ENABLE);
}

static uint8_t *pdma_pri_cap(PDMAState *s)
{
    return PCI_DEVICE(s)->config + PDMA_PRI_CAP_OFFSET;
}

/* A failed function asks for nothing until software enables it again */
static bool pdma_pri_enabled(PDMAState *s)
{
    return s->pri && pdma_ats_enabled(s) &&
           (pci_get_word(pdma_pri_cap(s) + PCI_PRI_CTRL) &
            PCI_PRI_CTRL_ENABLE) &&
           !(pci_get_word(pdma_pri_cap(s) + PCI_PRI_STATUS) &
             PCI_PRI_STATUS_RF);
}

static int64_t pdma_after(uint32_t us)
{
    return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + (int64_t)us * SCALE_US;
}

/*
 * Requests in flight
 */

static void pdma_land(PDMAState *s, PDMAFlight *flight)
{
    PDMAChannel *ch = flight->reader;

    /* Removed first, because it may be a write to our registers */
    QTAILQ_REMOVE(&s->flights, flight, next);
    if (!ch) {
        address_space_write(&address_space_memory, flight->req.addr,
                            MEMTXATTRS_UNSPECIFIED, flight->data, flight->len);
    } else if (flight->generation == ch->generation) {
        address_space_read(&address_space_memory, flight->req.addr,
                           MEMTXATTRS_UNSPECIFIED, ch->data, flight->len);
        ch->have_data = true;
        timer_mod(&ch->timer, pdma_after(0));
    }
    trace_pdma_landed(pdma_sid(s), flight->pasid, flight->req.is_write,
                      flight->iova, flight->req.addr);
    g_free(flight);
}

static void pdma_flight_timer(void *opaque)
{
    PDMAState *s = opaque;
    PDMAFlight *flight;

    while ((flight = QTAILQ_FIRST(&s->flights))) {
        if (flight->due > qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL)) {
            timer_mod(&s->flight_timer, flight->due);
            break;
        }
        pdma_land(s, flight);
    }
}

static void pdma_take_off(PDMAChannel *ch, VTDRequest *req, uint64_t iova,
                          const void *data, uint32_t len)
{
    PDMAState *s = ch->s;
    PDMAFlight *last = QTAILQ_LAST(&s->flights);
    PDMAFlight *flight;

    flight = g_malloc(sizeof(*flight) + (req->is_write ? len : 0));
    flight->req = *req;
    flight->iova = iova;
    flight->pasid = ch->pasid & PDMA_PASID_MASK;
    flight->reader = req->is_write ? NULL : ch;
    flight->generation = ch->generation;
    flight->due = pdma_after(s->flight_us);
    flight->len = len;
    if (req->is_write) {
        memcpy(flight->data, data, len);
    }

    if (last && last->due > flight->due) {
        flight->due = last->due;
    }
    QTAILQ_INSERT_TAIL(&s->flights, flight, next);
    if (!last) {
        timer_mod(&s->flight_timer, flight->due);
    }
}

/* PCI Express 2.4.1: a completion does not pass posted writes */
static void pdma_push_writes(PDMAState *s)
{
    PDMAFlight *flight;

again:
    QTAILQ_FOREACH(flight, &s->flights, next) {
        if (flight->req.is_write) {
            pdma_land(s, flight);
            goto again;
        }
    }
}

static bool pdma_is_drained(PDMAFlight *flight, const VTDDrain *drain)
{
    VTDRequest *req = &flight->req;

    if (req->type == VTD_TRANSLATED_REQUEST ||
        !(req->is_write ? drain->writes : drain->reads)) {
        return false;
    }

    return drain->all || (req->domain_id == drain->domain_id &&
                          (drain->pasid == PCI_NO_PASID ||
                           drain->pasid == flight->pasid) &&
                          !((flight->iova ^ drain->addr) & ~drain->mask));
}

static void pdma_drain(VTDFunction *fn, const VTDDrain *drain)
{
    PDMAState *s = container_of(fn, PDMAState, function);
    PDMAFlight *flight;

again:
    QTAILQ_FOREACH(flight, &s->flights, next) {
        if (pdma_is_drained(flight, drain)) {
            pdma_land(s, flight);
            goto again;
        }
    }
}

/*
 * Address translation cache
 */

static bool pdma_in_range(uint64_t iova, const VTDDeviceTLBInv *inv)
{
    return iova - inv->addr <= inv->mask;
}

static gboolean pdma_atc_page_in_range(gpointer key, gpointer value,
                                       gpointer user_data)
{
    PDMAPage *page = value;

    return pdma_in_range(page->iova, user_data);
}

static void pdma_atc_drop(PDMAState *s, PDMAAtc *atc,
                          const VTDDeviceTLBInv *inv)
{
    unsigned int dropped;

    dropped = g_hash_table_foreach_remove(atc->pages, pdma_atc_page_in_range,
                                          (gpointer)inv);
    trace_pdma_atc_invalidate(pdma_sid(s), atc->pasid, inv->addr, inv->mask,
                              dropped);
}

/*
 * Drop translations, including those in flight, and answer. The answer pushes
 * all posted writes, and waits for reads that use the dropped translations
 * (VT-d spec 6.5.4).
 */
static void pdma_answer(PDMAState *s, const VTDDeviceTLBInv *inv)
{
    PDMAAtc *atc;
    PDMAFlight *flight;
    GHashTableIter iter;

    if (inv->global) {
        g_hash_table_iter_init(&iter, s->atcs);
        while (g_hash_table_iter_next(&iter, NULL, (void **)&atc)) {
            pdma_atc_drop(s, atc, inv);
        }
    } else if (inv->pasid != PCI_NO_PASID) {
        /* All translations have a PASID (PCI Express 10.3.8) */
        atc = g_hash_table_lookup(s->atcs, GUINT_TO_POINTER(inv->pasid));
        if (atc) {
            pdma_atc_drop(s, atc, inv);
        }
    }

    pdma_push_writes(s);
again:
    QTAILQ_FOREACH(flight, &s->flights, next) {
        if (flight->req.type == VTD_TRANSLATED_REQUEST &&
            (inv->global || inv->pasid == flight->pasid) &&
            pdma_in_range(flight->iova, inv)) {
            pdma_land(s, flight);
            goto again;
        }
    }

    vtd_device_tlb_answer(&s->function, inv->itag);
}

static void pdma_late_timer(void *opaque)
{
    PDMAState *s = opaque;
    PDMALateInv *late;

    while ((late = QTAILQ_FIRST(&s->late))) {
        if (late->due > qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL)) {
            timer_mod(&s->late_timer, late->due);
            break;
        }
        QTAILQ_REMOVE(&s->late, late, next);
        pdma_answer(s, &late->inv);
        g_free(late);
    }
}

/* A device-TLB invalidation for this function has arrived */
static void pdma_invalidate(VTDFunction *fn, const VTDDeviceTLBInv *inv)
{
    PDMAState *s = container_of(fn, PDMAState, function);
    PDMALateInv *last = QTAILQ_LAST(&s->late);
    PDMALateInv *late;

    /* Without the capability, it is an unsupported request */
    if (!s->ats) {
        return;
    }

    s->atc_count++;
    switch (s->atc_mode) {
    case PDMA_ATC_MUTE:
    case PDMA_ATC_MUTE_UNTIL_RESET:
        break;
    case PDMA_ATC_LATE:
        late = g_new(PDMALateInv, 1);
        late->inv = *inv;
        late->due = MAX(pdma_after(s->atc_late_us), last ? last->due : 0);
        QTAILQ_INSERT_TAIL(&s->late, late, next);
        if (!last) {
            timer_mod(&s->late_timer, late->due);
        }
        break;
    default:
        pdma_answer(s, inv);
    }
}

static void pdma_atc_free(gpointer data)
{
    PDMAAtc *atc = data;

    g_hash_table_destroy(atc->pages);
    g_free(atc);
}

static PDMAAtc *pdma_find_add_atc(PDMAState *s, uint32_t pasid)
{
    PDMAAtc *atc = g_hash_table_lookup(s->atcs, GUINT_TO_POINTER(pasid));

    if (!atc) {
        atc = g_new0(PDMAAtc, 1);
        atc->pasid = pasid;
        atc->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                           NULL, g_free);
        g_hash_table_insert(s->atcs, GUINT_TO_POINTER(pasid), atc);
    }

    return atc;
}

/* The IOMMU has refused a request that needs a completion */
static void pdma_count_completion(PDMAState *s, VTDRequest *req)
{
    if (req->completion == VTD_COMPLETION_UR) {
        s->ur_count++;
    } else if (req->completion == VTD_COMPLETION_CA) {
        s->ca_count++;
    }
}

/* Ask the IOMMU for a translation. Returns NULL if it grants no access. */
static PDMAPage *pdma_ask(PDMAState *s, PDMAAtc *atc, VTDRequest *ask)
{
    PDMAPage *page;

    ask->type = VTD_TRANSLATION_REQUEST;
    if (!vtd_request(&s->function, ask)) {
        pdma_count_completion(s, ask);
        /* PCI Express 10.2.3.3: no more of these until ATS is enabled again */
        if (ask->completion == VTD_COMPLETION_UR) {
            s->ats_unsupported = true;
            g_hash_table_remove_all(s->atcs);
        }
        return NULL;
    }

    if (g_hash_table_size(atc->pages) >= PDMA_MAX_ATC_PAGES) {
        g_hash_table_remove_all(atc->pages);
    }
    /* The answer is good for this kind of access: ask for the other one */
    page = g_new(PDMAPage, 1);
    page->iova = ask->iova & ~(uint64_t)(PDMA_PAGE_SIZE - 1);
    page->addr = ask->addr - (ask->iova - page->iova);
    page->is_write = ask->is_write;
    page->ready = pdma_after(s->flight_us);
    g_hash_table_replace(atc->pages, &page->iova, page);
    return page;
}

/*
 * Send a request that does not cross a page to the IOMMU, which reports each
 * refused request once. For PDMA_LATER, *@ready is when to try again. If the IOMMU
 * grants no access, a channel may @ask_for_pages.
 */
static PDMAOutcome pdma_translate(PDMAState *s, VTDRequest *req,
                                  bool ask_for_pages, int64_t *ready)
{
    uint64_t iova_page = req->iova & ~(uint64_t)(PDMA_PAGE_SIZE - 1);
    VTDRequest ask = *req;
    PDMAAtc *atc;
    PDMAPage *page;

    if (pdma_ats_enabled(s)) {
        atc = pdma_find_add_atc(s, req->pasid);
        page = g_hash_table_lookup(atc->pages, &iova_page);
        if (page && page->is_write == req->is_write) {
            trace_pdma_atc_hit(pdma_sid(s), req->pasid, iova_page, page->addr);
        } else {
            page = pdma_ask(s, atc, &ask);
            if (!page && ask.completion != VTD_COMPLETION_SUCCESS) {
                return PDMA_REFUSED;
            }
            if (!page && ask_for_pages) {
                return PDMA_NO_PAGE;
            }
        }
        if (page) {
            if (page->ready > qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL)) {
                *ready = page->ready;
                return PDMA_LATER;
            }
            req->type = VTD_TRANSLATED_REQUEST;
            req->iova = page->addr + (req->iova - iova_page);
        }
    }

    if (vtd_request(&s->function, req)) {
        return PDMA_PASSED;
    }
    if (!req->is_write) {
        pdma_count_completion(s, req);
    }
    return PDMA_REFUSED;
}

/*
 * Page requests. They are messages: bus mastering does not matter.
 */

/* Stopped has no meaning while page requests are enabled */
static void pdma_update_stopped(PDMAState *s)
{
    uint16_t ctrl = pci_get_word(pdma_pri_cap(s) + PCI_PRI_CTRL);
    uint8_t *status = pdma_pri_cap(s) + PCI_PRI_STATUS;

    if ((ctrl & PCI_PRI_CTRL_ENABLE) || s->num_requests) {
        pci_word_test_and_clear_mask(status, PCI_PRI_STATUS_STOPPED);
    } else {
        pci_word_test_and_set_mask(status, PCI_PRI_STATUS_STOPPED);
    }
}

static void pdma_forget_groups(PDMAState *s)
{
    uint32_t i;

    for (i = 0; i < s->num_channels; i++) {
        s->channels[i].group = NULL;
    }
    memset(s->groups, 0, sizeof(s->groups));
    s->num_requests = 0;
}

/* The index of a group that may be sent now, or PDMA_PAGE_CAPACITY */
static uint32_t pdma_find_group(PDMAState *s, uint32_t num_pages)
{
    uint32_t allocated = pci_get_long(pdma_pri_cap(s) + PCI_PRI_ALLOC_REQ);
    uint32_t i;

    if (s->num_requests + num_pages > MIN(allocated, PDMA_PAGE_CAPACITY)) {
        return PDMA_PAGE_CAPACITY;
    }
    for (i = 0; i < PDMA_PAGE_CAPACITY && s->groups[i].num_pages; i++) {
    }
    return i;
}

static void pdma_send_group(PDMAChannel *ch, uint32_t index)
{
    PDMAState *s = ch->s;
    uint32_t i;

    ch->group = &s->groups[index];
    *ch->group = (PDMAGroup) {
        .num_pages = ch->num_wanted,
        .pasid = ch->pasid & PDMA_PASID_MASK,
        .channel = ch->nr,
    };
    s->num_requests += ch->num_wanted;
    for (i = 0; i < ch->num_wanted; i++) {
        VTDPageRequest request = {
            .pasid = ch->group->pasid,
            .addr = ch->wanted[i].iova,
            .index = index,
            .last = i == ch->num_wanted - 1,
            .read = !ch->wanted[i].is_write,
            .write = ch->wanted[i].is_write,
        };

        ch->page_requests++;
        vtd_send_page_request(&s->function, &request,
                              (int64_t)ch->page_delay * SCALE_US);
    }
}

static void pdma_schedule(PDMAChannel *ch, uint32_t us)
{
    timer_mod(&ch->timer, pdma_after(us));
}

static void pdma_page_result(PDMAChannel *ch, uint32_t result)
{
    ch->status &= ~PDMA_STATUS_WAITING;
    ch->page_result = result;
    ch->group = NULL;
    ch->asked = true;
}

/*
 * A channel waits for a response, or to be allowed to send its requests. Returns
 * false if it can go on, with what came of it in page_result.
 */
static bool pdma_wait(PDMAChannel *ch)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    uint32_t index;

    if (now >= ch->page_deadline) {
        pdma_page_result(ch, PDMA_PAGE_TIMED_OUT);
        return false;
    }
    if (!ch->group) {
        if (!pdma_pri_enabled(ch->s) || !pdma_pasid_enabled(ch->s) ||
            !(ch->pasid & PDMA_PASID_VALID)) {
            pdma_page_result(ch, PDMA_PAGE_DISABLED);
            return false;
        }
        index = pdma_find_group(ch->s, ch->num_wanted);
        if (index == PDMA_PAGE_CAPACITY) {
            timer_mod(&ch->timer, MIN(ch->page_deadline,
                                      now + PDMA_MIN_PERIOD * SCALE_US));
            return true;
        }
        pdma_send_group(ch, index);
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

/* Ask for what is wanted. The timer goes on when there is an answer. */
static void pdma_ask_for_pages(PDMAChannel *ch)
{
    ch->status |= PDMA_STATUS_WAITING;
    ch->page_deadline = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) +
                        (int64_t)ch->page_timeout * SCALE_US;
    if (!pdma_wait(ch)) {
        pdma_schedule(ch, PDMA_COPY_PERIOD);
    }
}

static void pdma_fail(PDMAState *s)
{
    uint32_t i;

    pci_word_test_and_set_mask(pdma_pri_cap(s) + PCI_PRI_STATUS,
                               PCI_PRI_STATUS_RF);
    for (i = 0; i < s->num_channels; i++) {
        PDMAChannel *ch = &s->channels[i];

        if (ch->status & PDMA_STATUS_WAITING) {
            pdma_page_result(ch, PDMA_PAGE_FAILURE);
            pdma_schedule(ch, PDMA_COPY_PERIOD);
        }
    }
    pdma_forget_groups(s);
}

/* PCIe 10.4.2 */
static void pdma_page_response(VTDFunction *fn, const VTDPageResponse *response)
{
    PDMAState *s = container_of(fn, PDMAState, function);
    uint8_t *status = pdma_pri_cap(s) + PCI_PRI_STATUS;
    PDMAGroup *group;
    PDMAChannel *ch;

    if (pci_get_word(status) & PCI_PRI_STATUS_RF) {
        return;
    }
    if (response->index >= PDMA_PAGE_CAPACITY ||
        !s->groups[response->index].num_pages ||
        s->groups[response->index].pasid != response->pasid) {
        pci_word_test_and_set_mask(status, PCI_PRI_STATUS_UPRGI);
        return;
    }

    group = &s->groups[response->index];
    ch = &s->channels[group->channel];
    s->num_requests -= group->num_pages;
    group->num_pages = 0;
    if (ch->group == group) {
        ch->page_responses++;
        pdma_page_result(ch, response->code);
        pdma_schedule(ch, PDMA_COPY_PERIOD);
    }
    /* Codes that are reserved count as a failure, too */
    if (response->code != VTD_PAGE_SUCCESS &&
        response->code != VTD_PAGE_INVALID) {
        pdma_fail(s);
    }
    pdma_update_stopped(s);
}

/*
 * Channels
 */

static void pdma_refuse(PDMAChannel *ch)
{
    ch->refused_count++;
    ch->status |= PDMA_STATUS_REFUSED;
}

/*
 * Issue one request that does not cross a page. It counts as arrived when it has
 * passed the IOMMU, even if it is still in flight.
 */
static PDMAOutcome pdma_request(PDMAChannel *ch, bool is_write, uint64_t iova,
                                void *buf, uint32_t len)
{
    PDMAState *s = ch->s;
    uint32_t pasid = ch->pasid & PDMA_PASID_MASK;
    uint32_t generation = ch->generation;
    VTDRequest req = { .pasid = pasid, .iova = iova, .is_write = is_write };
    PDMAOutcome outcome = PDMA_REFUSED;
    int64_t ready;

    if ((ch->pasid & PDMA_PASID_VALID) &&
        pdma_pasid_enabled(s) && pdma_bus_master(s)) {
        outcome = pdma_translate(s, &req, ch->run.cmd & PDMA_CMD_FLAGS,
                                 &ready);
    }

    if (outcome == PDMA_LATER) {
        timer_mod(&ch->timer, ready);
        return outcome;
    }
    if (outcome == PDMA_NO_PAGE) {
        pdma_want(ch, 0, iova, is_write);
        pdma_ask_for_pages(ch);
        return outcome;
    }

    if (outcome == PDMA_PASSED && s->flight_us) {
        pdma_take_off(ch, &req, iova, buf, len);
    } else if (outcome == PDMA_PASSED &&
               address_space_rw(&address_space_memory, req.addr,
                                MEMTXATTRS_UNSPECIFIED, buf, len,
                                is_write) != MEMTX_OK) {
        outcome = PDMA_REFUSED;
    }

    if (outcome == PDMA_PASSED) {
        trace_pdma_done(pdma_sid(s), ch->nr, pasid, is_write, iova, len);
    } else {
        trace_pdma_refused(pdma_sid(s), ch->nr, pasid, is_write, iova, len);
    }

    /* The request may have reset its own channel */
    if (generation == ch->generation) {
        if (outcome == PDMA_PASSED) {
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
    ch->group = NULL;
    ch->asked = false;
}

/* Copy what does not cross a page on either side */
static void pdma_copy(PDMAChannel *ch)
{
    PDMACommand *run = &ch->run;
    uint32_t generation = ch->generation;
    uint32_t len = run->len;
    PDMAOutcome outcome;

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
        if (generation != ch->generation || outcome == PDMA_LATER ||
            outcome == PDMA_NO_PAGE) {
            return;
        }
        if (outcome == PDMA_REFUSED) {
            pdma_stop(ch);
            return;
        }
        if (ch->s->flight_us) {
            return;             /* pdma_land() goes on */
        }
        ch->have_data = true;
    }

    outcome = pdma_request(ch, true, run->dst, ch->data, len);
    if (generation != ch->generation || outcome == PDMA_LATER ||
        outcome == PDMA_NO_PAGE) {
        return;
    }

    ch->asked = false;
    ch->have_data = false;
    run->src += len;
    run->dst += len;
    run->len -= len;
    if (outcome == PDMA_REFUSED) {
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
        PDMAOutcome outcome;

        if ((run->cmd & PDMA_CMD_FAULT) && !ch->asked) {
            pdma_want(ch, 0, iova, true);
            pdma_ask_for_pages(ch);
            return;
        }
        outcome = pdma_request(ch, true, iova, &le_value, sizeof(le_value));
        if (generation != ch->generation || outcome == PDMA_LATER ||
            outcome == PDMA_NO_PAGE) {
            return;
        }
        ch->asked = false;
        if (outcome == PDMA_PASSED) {
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

    if ((cmd & PDMA_CMD_FLAGS) && !pdma_pri_enabled(ch->s)) {
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
        timer_mod(&s->vanish_timer, pdma_after(us));
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
        return s->ur_count;
    case PDMA_CA_COUNT:
        return s->ca_count;
    case PDMA_ATC_COUNT:
        return s->atc_count;
    case PDMA_ATC_MODE:
        return s->atc_mode | (uint64_t)s->atc_late_us << 32;
    case PDMA_FLIGHT_US:
        return s->flight_us | (uint64_t)vtd_get_inv_error(s->iommu) << 32;
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

    pdma_push_writes(s);

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
        s->atc_mode = val;
        return;
    case PDMA_ATC_LATE_US:
        s->atc_late_us = val;
        return;
    case PDMA_FLIGHT_US:
        s->flight_us = val;
        return;
    case PDMA_INV_ERROR:
        vtd_set_inv_error(s->iommu, val);
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

static void pdma_pri_write_config(PDMAState *s, uint16_t before)
{
    uint8_t *cap = pdma_pri_cap(s);
    uint16_t ctrl = pci_get_word(cap + PCI_PRI_CTRL);

    if (ctrl & ~before & PCI_PRI_CTRL_ENABLE) {
        pci_word_test_and_clear_mask(cap + PCI_PRI_STATUS,
                                     PCI_PRI_STATUS_RF |
                                     PCI_PRI_STATUS_UPRGI);
    }
    if (ctrl & PCI_PRI_CTRL_RESET) {
        if (!(ctrl & PCI_PRI_CTRL_ENABLE)) {
            pdma_forget_groups(s);
        }
        pci_set_word(cap + PCI_PRI_CTRL, ctrl & ~PCI_PRI_CTRL_RESET);
    }
    pdma_update_stopped(s);
}

static void pdma_config_write(PCIDevice *pdev, uint32_t addr, uint32_t val,
                              int len)
{
    PDMAState *s = PDMA(pdev);
    uint16_t pri_ctrl = pci_get_word(pdma_pri_cap(s) + PCI_PRI_CTRL);

    pci_default_write_config(pdev, addr, val, len);
    pcie_cap_flr_write_config(pdev, addr, val, len);

    if (s->ats && ranges_overlap(addr, len, PDMA_ATS_CAP_OFFSET + PCI_ATS_CTRL,
                                 2)) {
        s->ats_unsupported = false;
    }
    /* A function that leaves ATS loses its cached translations */
    if (!pdma_ats_enabled(s)) {
        g_hash_table_remove_all(s->atcs);
    }
    if (s->pri) {
        pdma_pri_write_config(s, pri_ctrl);
    }
}

/* Complete the requests in flight, and forget about late invalidations */
static void pdma_quiesce(PDMAState *s)
{
    PDMAFlight *flight;
    PDMALateInv *late;
    uint32_t i;

    for (i = 0; i < s->num_channels; i++) {
        pdma_stop(&s->channels[i]);
    }
    while ((flight = QTAILQ_FIRST(&s->flights))) {
        pdma_land(s, flight);
    }
    timer_del(&s->flight_timer);
    while ((late = QTAILQ_FIRST(&s->late))) {
        QTAILQ_REMOVE(&s->late, late, next);
        g_free(late);
    }
    timer_del(&s->late_timer);
}

static void pdma_reset_hold(Object *obj, ResetType type)
{
    PDMAState *s = PDMA(obj);
    uint8_t *config = PCI_DEVICE(s)->config;
    uint32_t i;

    pdma_quiesce(s);
    for (i = 0; i < s->num_channels; i++) {
        pdma_channel_reset(&s->channels[i]);
        s->channels[i].pasid = 0;
    }
    s->latched_addr = HWADDR_MAX;
    s->ats_unsupported = false;
    if (s->atc_mode == PDMA_ATC_MUTE_UNTIL_RESET) {
        s->atc_mode = PDMA_ATC_ANSWER;
    }

    pci_set_word(config + PDMA_PASID_CAP_OFFSET + PCI_PASID_CTRL, 0);
    if (s->ats) {
        pci_set_word(config + PDMA_ATS_CAP_OFFSET + PCI_ATS_CTRL, 0);
    }
    if (s->pri) {
        /* VT-d spec 7.9: what was sent arrives nevertheless */
        pdma_forget_groups(s);
        pci_set_word(pdma_pri_cap(s) + PCI_PRI_CTRL, 0);
        pci_set_word(pdma_pri_cap(s) + PCI_PRI_STATUS,
                     PCI_PRI_STATUS_PASID | PCI_PRI_STATUS_STOPPED);
        pci_set_long(pdma_pri_cap(s) + PCI_PRI_ALLOC_REQ, 0);
    }
    g_hash_table_remove_all(s->atcs);
}

static void pdma_pri_init(PDMAState *s)
{
    PCIDevice *pdev = PCI_DEVICE(s);

    pcie_add_capability(pdev, PCI_EXT_CAP_ID_PRI, 1, PDMA_PRI_CAP_OFFSET,
                        PCI_EXT_CAP_PRI_SIZEOF);
    pci_set_long(pdma_pri_cap(s) + PCI_PRI_MAX_REQ, PDMA_PAGE_CAPACITY);
    pci_set_word(pdev->wmask + PDMA_PRI_CAP_OFFSET + PCI_PRI_CTRL,
                 PCI_PRI_CTRL_ENABLE | PCI_PRI_CTRL_RESET);
    pci_set_word(pdev->w1cmask + PDMA_PRI_CAP_OFFSET + PCI_PRI_STATUS,
                 PCI_PRI_STATUS_RF | PCI_PRI_STATUS_UPRGI);
    pci_set_long(pdev->wmask + PDMA_PRI_CAP_OFFSET + PCI_PRI_ALLOC_REQ,
                 UINT32_MAX);
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
    if (s->ats_depth > PDMA_MAX_ATS_DEPTH) {
        error_setg(errp, "ats-depth must be from 0 to %d", PDMA_MAX_ATS_DEPTH);
        return;
    }
    if (s->pri && !s->ats) {
        error_setg(errp, "pri=on needs ats=on");
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
        pci_set_word(pdev->config + PDMA_ATS_CAP_OFFSET + PCI_ATS_CAP,
                     PCI_ATS_CAP_PAGE_ALIGNED | s->ats_depth);
    }
    if (s->pri) {
        pdma_pri_init(s);
    }

    s->atcs = g_hash_table_new_full(NULL, NULL, NULL, pdma_atc_free);
    QTAILQ_INIT(&s->flights);
    QTAILQ_INIT(&s->late);
    timer_init_ns(&s->flight_timer, QEMU_CLOCK_VIRTUAL, pdma_flight_timer, s);
    timer_init_ns(&s->late_timer, QEMU_CLOCK_VIRTUAL, pdma_late_timer, s);
    timer_init_ns(&s->vanish_timer, QEMU_CLOCK_VIRTUAL, pdma_vanish_timer, s);
    s->function = (VTDFunction) {
        .pdev = pdev,
        .iommu = s->iommu,
        .drain = pdma_drain,
        .invalidate = pdma_invalidate,
        .respond = s->pri ? pdma_page_response : NULL,
    };
    vtd_add_function(&s->function);
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

    pdma_quiesce(s);
    timer_del(&s->vanish_timer);
    vtd_remove_function(&s->function);
    g_hash_table_destroy(s->atcs);
    pcie_cap_exit(pdev);
}

static const Property pdma_properties[] = {
    DEFINE_PROP_UINT32("channels", PDMAState, num_channels, 16),
    DEFINE_PROP_BOOL("ats", PDMAState, ats, false),
    DEFINE_PROP_BOOL("pri", PDMAState, pri, false),
    DEFINE_PROP_UINT8("ats-depth", PDMAState, ats_depth, 0),
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

    object_property_add_uint32_ptr(obj, "flight-us", &s->flight_us,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "atc-mode", &s->atc_mode,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "atc-late-us", &s->atc_late_us,
                                   OBJ_PROP_FLAG_READWRITE);
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

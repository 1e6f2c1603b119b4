/*
 * A PCI function that DMAs with PASIDs, through the emulated Intel IOMMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "hw/i386/intel_iommu.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "hw/pci/pcie.h"
#include "qom/object.h"
#include "pasid-function.h"
#include "trace.h"

#define PASID_WIDTH             20
#define PASID_CAP_OFFSET        0x100
#define ATS_CAP_OFFSET          0x110
#define PRI_CAP_OFFSET          0x120

/* More cached pages than this are not worth the memory */
#define MAX_ATC_PAGES           4096
/* Invalidate queue depth of the ATS capability, 0 stands for 32 */
#define MAX_ATS_DEPTH           31

typedef struct PASIDPage {
    uint64_t iova;              /* The key in PASIDAtc.pages */
    uint64_t addr;
    bool is_write;
    int64_t ready;              /* The translation has arrived by then */
} PASIDPage;

/* The part of the ATC that belongs to one PASID, or to requests without PASID */
typedef struct PASIDAtc {
    uint32_t pasid;
    GHashTable *pages;
} PASIDAtc;

/* A device-TLB invalidation that is answered later */
struct PASIDLateInv {
    VTDDeviceTLBInv inv;
    int64_t due;
    QTAILQ_ENTRY(PASIDLateInv) next;
};

/* A request that has passed the IOMMU, on its way to memory */
struct PASIDFlight {
    VTDRequest req;
    uint64_t iova;              /* Of a translated request, too */
    uint32_t pasid;
    PASIDRequester *reader;     /* Of a read. NULL: no one waits for it */
    void *buf;
    int64_t due;
    QTAILQ_ENTRY(PASIDFlight) next;
    uint32_t len;
    uint8_t data[];
};

static PASIDFunction *pasid_fn_of(VTDFunction *vtd)
{
    return container_of(vtd, PASIDFunction, vtd);
}

uint16_t pasid_fn_sid(PASIDFunction *fn)
{
    return pci_requester_id(fn->vtd.pdev);
}

static uint16_t pasid_ctrl(PASIDFunction *fn)
{
    return pci_get_word(fn->vtd.pdev->config + PASID_CAP_OFFSET +
                        PCI_PASID_CTRL);
}

bool pasid_fn_pasid_enabled(PASIDFunction *fn)
{
    return pasid_ctrl(fn) & PCI_PASID_CTRL_ENABLE;
}

bool pasid_fn_privileged_enabled(PASIDFunction *fn)
{
    return pasid_ctrl(fn) & PCI_PASID_CTRL_PRIV;
}

bool pasid_fn_bus_master(PASIDFunction *fn)
{
    return pci_get_word(fn->vtd.pdev->config + PCI_COMMAND) &
           PCI_COMMAND_MASTER;
}

static bool ats_ctrl_enable(PASIDFunction *fn)
{
    return fn->ats && (pci_get_word(fn->vtd.pdev->config + ATS_CAP_OFFSET +
                                    PCI_ATS_CTRL) & PCI_ATS_CTRL_ENABLE);
}

bool pasid_fn_ats_enabled(PASIDFunction *fn)
{
    return ats_ctrl_enable(fn) && !fn->ats_unsupported &&
           X86_IOMMU_DEVICE(fn->vtd.iommu)->dt_supported;
}

static uint8_t *pri_cap(PASIDFunction *fn)
{
    return fn->vtd.pdev->config + PRI_CAP_OFFSET;
}

/* A failed function sends no requests until software enables it again */
bool pasid_fn_pri_enabled(PASIDFunction *fn)
{
    return fn->pri && pasid_fn_ats_enabled(fn) &&
           (pci_get_word(pri_cap(fn) + PCI_PRI_CTRL) & PCI_PRI_CTRL_ENABLE) &&
           !(pci_get_word(pri_cap(fn) + PCI_PRI_STATUS) & PCI_PRI_STATUS_RF);
}

bool pasid_fn_pri_without_ats(PASIDFunction *fn)
{
    return fn->pri && !ats_ctrl_enable(fn) &&
           (pci_get_word(pri_cap(fn) + PCI_PRI_CTRL) & PCI_PRI_CTRL_ENABLE);
}

int64_t pasid_fn_after(uint32_t us)
{
    return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + (int64_t)us * SCALE_US;
}

/*
 * Requests in flight
 */

static void land(PASIDFunction *fn, PASIDFlight *flight)
{
    PASIDRequester *reader = flight->reader;

    /* Removed first, because it may be a write to our registers */
    QTAILQ_REMOVE(&fn->flights, flight, next);
    if (flight->req.is_write) {
        address_space_write(&address_space_memory, flight->req.addr,
                            MEMTXATTRS_UNSPECIFIED, flight->data, flight->len);
    } else if (reader) {
        address_space_read(&address_space_memory, flight->req.addr,
                           MEMTXATTRS_UNSPECIFIED, flight->buf, flight->len);
        reader->landed(reader);
    }
    trace_pasid_fn_landed(pasid_fn_sid(fn), flight->pasid,
                          flight->req.is_write, flight->iova,
                          flight->req.addr);
    g_free(flight);
}

static void flight_timer(void *opaque)
{
    PASIDFunction *fn = opaque;
    PASIDFlight *flight;

    while ((flight = QTAILQ_FIRST(&fn->flights))) {
        if (flight->due > qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL)) {
            timer_mod(&fn->flight_timer, flight->due);
            break;
        }
        land(fn, flight);
    }
}

static void take_off(PASIDRequester *r, VTDRequest *req,
                     const PASIDAccess *access)
{
    PASIDFunction *fn = r->fn;
    PASIDFlight *last = QTAILQ_LAST(&fn->flights);
    PASIDFlight *flight;

    flight = g_malloc(sizeof(*flight) + (req->is_write ? access->len : 0));
    flight->req = *req;
    flight->iova = access->iova;
    flight->pasid = access->pasid;
    flight->reader = req->is_write ? NULL : r;
    flight->buf = access->buf;
    flight->due = pasid_fn_after(fn->flight_us);
    flight->len = access->len;
    if (req->is_write) {
        memcpy(flight->data, access->buf, access->len);
    }

    if (last && last->due > flight->due) {
        flight->due = last->due;
    }
    QTAILQ_INSERT_TAIL(&fn->flights, flight, next);
    if (!last) {
        timer_mod(&fn->flight_timer, flight->due);
    }
}

void pasid_fn_push_writes(PASIDFunction *fn)
{
    PASIDFlight *flight;

again:
    QTAILQ_FOREACH(flight, &fn->flights, next) {
        if (flight->req.is_write) {
            land(fn, flight);
            goto again;
        }
    }
}

static bool is_drained(PASIDFlight *flight, const VTDDrain *drain)
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

static void drain_flights(VTDFunction *vtd, const VTDDrain *drain)
{
    PASIDFunction *fn = pasid_fn_of(vtd);
    PASIDFlight *flight;

again:
    QTAILQ_FOREACH(flight, &fn->flights, next) {
        if (is_drained(flight, drain)) {
            land(fn, flight);
            goto again;
        }
    }
}

/*
 * Address translation cache
 */

static bool in_range(uint64_t iova, const VTDDeviceTLBInv *inv)
{
    return iova - inv->addr <= inv->mask;
}

static gboolean page_in_range(gpointer key, gpointer value, gpointer user_data)
{
    PASIDPage *page = value;

    return in_range(page->iova, user_data);
}

static void atc_drop(PASIDFunction *fn, PASIDAtc *atc,
                     const VTDDeviceTLBInv *inv)
{
    unsigned int dropped;

    dropped = g_hash_table_foreach_remove(atc->pages, page_in_range,
                                          (gpointer)inv);
    trace_pasid_fn_atc_invalidate(pasid_fn_sid(fn), atc->pasid, inv->addr,
                                  inv->mask, dropped);
}

/*
 * Drop translations, including those in flight, and answer. The answer pushes
 * all posted writes, and waits for reads that use the dropped translations
 * (VT-d spec 6.5.4). An invalidation without PASID is for translations without
 * PASID, unless it is global (PCI Express 10.3.8).
 */
static void answer(PASIDFunction *fn, const VTDDeviceTLBInv *inv)
{
    PASIDAtc *atc;
    PASIDFlight *flight;
    GHashTableIter iter;

    if (inv->global) {
        g_hash_table_iter_init(&iter, fn->atcs);
        while (g_hash_table_iter_next(&iter, NULL, (void **)&atc)) {
            atc_drop(fn, atc, inv);
        }
    } else {
        atc = g_hash_table_lookup(fn->atcs, GUINT_TO_POINTER(inv->pasid));
        if (atc) {
            atc_drop(fn, atc, inv);
        }
    }

    pasid_fn_push_writes(fn);
again:
    QTAILQ_FOREACH(flight, &fn->flights, next) {
        if (flight->req.type == VTD_TRANSLATED_REQUEST &&
            (inv->global || inv->pasid == flight->pasid) &&
            in_range(flight->iova, inv)) {
            land(fn, flight);
            goto again;
        }
    }

    vtd_device_tlb_answer(&fn->vtd, inv->itag);
}

static void late_timer(void *opaque)
{
    PASIDFunction *fn = opaque;
    PASIDLateInv *late;

    while ((late = QTAILQ_FIRST(&fn->late))) {
        if (late->due > qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL)) {
            timer_mod(&fn->late_timer, late->due);
            break;
        }
        QTAILQ_REMOVE(&fn->late, late, next);
        answer(fn, &late->inv);
        g_free(late);
    }
}

/* A device-TLB invalidation for this function has arrived */
static void invalidate(VTDFunction *vtd, const VTDDeviceTLBInv *inv)
{
    PASIDFunction *fn = pasid_fn_of(vtd);
    PASIDLateInv *last = QTAILQ_LAST(&fn->late);
    PASIDLateInv *late;

    /* Without the capability, it is an unsupported request */
    if (!fn->ats) {
        return;
    }

    fn->atc_count++;
    switch (fn->atc_mode) {
    case PASID_ATC_MUTE:
    case PASID_ATC_MUTE_UNTIL_RESET:
        break;
    case PASID_ATC_LATE:
        late = g_new(PASIDLateInv, 1);
        late->inv = *inv;
        late->due = MAX(pasid_fn_after(fn->atc_late_us), last ? last->due : 0);
        QTAILQ_INSERT_TAIL(&fn->late, late, next);
        if (!last) {
            timer_mod(&fn->late_timer, late->due);
        }
        break;
    default:
        answer(fn, inv);
    }
}

static void atc_free(gpointer data)
{
    PASIDAtc *atc = data;

    g_hash_table_destroy(atc->pages);
    g_free(atc);
}

static PASIDAtc *find_add_atc(PASIDFunction *fn, uint32_t pasid)
{
    PASIDAtc *atc = g_hash_table_lookup(fn->atcs, GUINT_TO_POINTER(pasid));

    if (!atc) {
        atc = g_new0(PASIDAtc, 1);
        atc->pasid = pasid;
        atc->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                           NULL, g_free);
        g_hash_table_insert(fn->atcs, GUINT_TO_POINTER(pasid), atc);
    }

    return atc;
}

/* The IOMMU has refused a request that needs a completion */
static void count_completion(PASIDFunction *fn, VTDRequest *req)
{
    if (req->completion == VTD_COMPLETION_UR) {
        fn->ur_count++;
    } else if (req->completion == VTD_COMPLETION_CA) {
        fn->ca_count++;
    }
}

/* Ask the IOMMU for a translation. Returns NULL if it grants no access. */
static PASIDPage *ask_for_translation(PASIDFunction *fn, PASIDAtc *atc,
                                      VTDRequest *ask)
{
    PASIDPage *page;

    ask->type = VTD_TRANSLATION_REQUEST;
    if (!vtd_request(&fn->vtd, ask)) {
        count_completion(fn, ask);
        /* PCI Express 10.2.3.3: no more of these until ATS is enabled again */
        if (ask->completion == VTD_COMPLETION_UR) {
            fn->ats_unsupported = true;
            g_hash_table_remove_all(fn->atcs);
        }
        return NULL;
    }

    if (g_hash_table_size(atc->pages) >= MAX_ATC_PAGES) {
        g_hash_table_remove_all(atc->pages);
    }
    /* The answer is only valid for this kind of access: request the other */
    page = g_new(PASIDPage, 1);
    page->iova = ask->iova & ~(uint64_t)(PASID_FN_PAGE_SIZE - 1);
    page->addr = ask->addr - (ask->iova - page->iova);
    page->is_write = ask->is_write;
    page->ready = pasid_fn_after(fn->flight_us);
    g_hash_table_replace(atc->pages, &page->iova, page);
    return page;
}

static PASIDOutcome translate(PASIDFunction *fn, VTDRequest *req,
                              const PASIDAccess *access, int64_t *ready)
{
    uint64_t iova_page = req->iova & ~(uint64_t)(PASID_FN_PAGE_SIZE - 1);
    VTDRequest ask = *req;
    PASIDAtc *atc;
    PASIDPage *page;

    if (!access->no_ats && pasid_fn_ats_enabled(fn)) {
        atc = find_add_atc(fn, req->pasid);
        page = g_hash_table_lookup(atc->pages, &iova_page);
        if (page && page->is_write == req->is_write) {
            trace_pasid_fn_atc_hit(pasid_fn_sid(fn), req->pasid, iova_page,
                                   page->addr);
        } else {
            page = ask_for_translation(fn, atc, &ask);
            if (!page && ask.completion != VTD_COMPLETION_SUCCESS) {
                return PASID_UNTRANSLATED;
            }
            if (!page && access->no_fault) {
                return PASID_NO_PAGE;
            }
        }
        if (page) {
            if (page->ready > qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL)) {
                *ready = page->ready;
                return PASID_LATER;
            }
            req->type = VTD_TRANSLATED_REQUEST;
            req->iova = page->addr + (req->iova - iova_page);
        }
    }

    if (vtd_request(&fn->vtd, req)) {
        return PASID_PASSED;
    }
    if (!req->is_write) {
        count_completion(fn, req);
    }
    return PASID_REFUSED;
}

PASIDOutcome pasid_fn_request(PASIDRequester *r, const PASIDAccess *access,
                              int64_t *ready)
{
    PASIDFunction *fn = r->fn;
    VTDRequest req = {
        .pasid = access->pasid,
        .iova = access->iova,
        .is_write = access->is_write,
    };
    PASIDOutcome outcome;

    if (!pasid_fn_bus_master(fn) ||
        (access->pasid != PCI_NO_PASID && !pasid_fn_pasid_enabled(fn))) {
        return PASID_REFUSED;
    }

    outcome = translate(fn, &req, access, ready);
    if (outcome == PASID_PASSED && fn->flight_us) {
        take_off(r, &req, access);
    } else if (outcome == PASID_PASSED &&
               address_space_rw(&address_space_memory, req.addr,
                                MEMTXATTRS_UNSPECIFIED, access->buf,
                                access->len, access->is_write) != MEMTX_OK) {
        outcome = PASID_REFUSED;
    }

    return outcome;
}

/*
 * Page requests. They are messages: bus mastering does not matter.
 */

/* Stopped has no meaning while page requests are enabled */
static void update_stopped(PASIDFunction *fn)
{
    uint16_t ctrl = pci_get_word(pri_cap(fn) + PCI_PRI_CTRL);
    uint8_t *status = pri_cap(fn) + PCI_PRI_STATUS;

    if ((ctrl & PCI_PRI_CTRL_ENABLE) || fn->num_requests) {
        pci_word_test_and_clear_mask(status, PCI_PRI_STATUS_STOPPED);
    } else {
        pci_word_test_and_set_mask(status, PCI_PRI_STATUS_STOPPED);
    }
}

static void forget_groups(PASIDFunction *fn)
{
    uint32_t i;

    for (i = 0; i < PASID_FN_PAGE_CAPACITY; i++) {
        if (fn->groups[i].requester) {
            fn->groups[i].requester->group = NULL;
        }
    }
    memset(fn->groups, 0, sizeof(fn->groups));
    fn->num_requests = 0;
}

bool pasid_fn_ask(PASIDRequester *r, uint32_t pasid, const PASIDWanted *wanted,
                  uint32_t num_wanted, int64_t delay_ns)
{
    PASIDFunction *fn = r->fn;
    uint32_t allocated = pci_get_long(pri_cap(fn) + PCI_PRI_ALLOC_REQ);
    uint32_t index, i;

    if (fn->num_requests + num_wanted >
        MIN(allocated, PASID_FN_PAGE_CAPACITY)) {
        return false;
    }
    for (index = 0; fn->groups[index].num_pages; index++) {
        /* One is free, as each has at least one of the requests */
    }

    r->group = &fn->groups[index];
    *r->group = (PASIDGroup) {
        .num_pages = num_wanted,
        .pasid = pasid,
        .requester = r,
    };
    fn->num_requests += num_wanted;
    for (i = 0; i < num_wanted; i++) {
        VTDPageRequest request = {
            .pasid = pasid,
            .addr = wanted[i].iova,
            .index = index,
            .last = i == num_wanted - 1,
            .read = !wanted[i].is_write,
            .write = wanted[i].is_write,
        };

        vtd_send_page_request(&fn->vtd, &request, delay_ns);
    }
    return true;
}

void pasid_fn_cancel(PASIDRequester *r)
{
    PASIDFlight *flight;

    QTAILQ_FOREACH(flight, &r->fn->flights, next) {
        if (flight->reader == r) {
            flight->reader = NULL;
        }
    }
    if (r->group) {
        r->group->requester = NULL;
        r->group = NULL;
    }
}

/* PCIe 10.4.2 */
static void page_response(VTDFunction *vtd, const VTDPageResponse *response)
{
    PASIDFunction *fn = pasid_fn_of(vtd);
    uint8_t *status = pri_cap(fn) + PCI_PRI_STATUS;
    PASIDGroup *group;
    PASIDRequester *r;

    if (pci_get_word(status) & PCI_PRI_STATUS_RF) {
        return;
    }
    if (response->index >= PASID_FN_PAGE_CAPACITY ||
        !fn->groups[response->index].num_pages ||
        fn->groups[response->index].pasid != response->pasid) {
        pci_word_test_and_set_mask(status, PCI_PRI_STATUS_UPRGI);
        return;
    }

    group = &fn->groups[response->index];
    r = group->requester;
    fn->num_requests -= group->num_pages;
    *group = (PASIDGroup) {};
    if (r) {
        r->group = NULL;
        r->respond(r, response->code);
    }
    /* Codes that are reserved count as a failure, too */
    if (response->code != VTD_PAGE_SUCCESS &&
        response->code != VTD_PAGE_INVALID) {
        pci_word_test_and_set_mask(status, PCI_PRI_STATUS_RF);
        fn->failed(fn);
        forget_groups(fn);
    }
    update_stopped(fn);
}

/*
 * PCI function
 */

static void pri_write_config(PASIDFunction *fn, uint16_t before)
{
    uint8_t *cap = pri_cap(fn);
    uint16_t ctrl = pci_get_word(cap + PCI_PRI_CTRL);

    if (ctrl & ~before & PCI_PRI_CTRL_ENABLE) {
        pci_word_test_and_clear_mask(cap + PCI_PRI_STATUS,
                                     PCI_PRI_STATUS_RF |
                                     PCI_PRI_STATUS_UPRGI);
    }
    if (ctrl & PCI_PRI_CTRL_RESET) {
        if (!(ctrl & PCI_PRI_CTRL_ENABLE)) {
            forget_groups(fn);
        }
        pci_set_word(cap + PCI_PRI_CTRL, ctrl & ~PCI_PRI_CTRL_RESET);
    }
    update_stopped(fn);
}

void pasid_fn_write_config(PASIDFunction *fn, uint32_t addr, uint32_t val,
                           int len)
{
    PCIDevice *pdev = fn->vtd.pdev;
    uint16_t pri_ctrl = pci_get_word(pri_cap(fn) + PCI_PRI_CTRL);

    pci_default_write_config(pdev, addr, val, len);
    pcie_cap_flr_write_config(pdev, addr, val, len);

    if (fn->ats && ranges_overlap(addr, len, ATS_CAP_OFFSET + PCI_ATS_CTRL,
                                  2)) {
        fn->ats_unsupported = false;
    }
    /* A function that leaves ATS loses its cached translations */
    if (!pasid_fn_ats_enabled(fn)) {
        g_hash_table_remove_all(fn->atcs);
    }
    if (fn->pri) {
        pri_write_config(fn, pri_ctrl);
    }
}

void pasid_fn_quiesce(PASIDFunction *fn)
{
    PASIDFlight *flight;
    PASIDLateInv *late;

    while ((flight = QTAILQ_FIRST(&fn->flights))) {
        land(fn, flight);
    }
    timer_del(&fn->flight_timer);
    while ((late = QTAILQ_FIRST(&fn->late))) {
        QTAILQ_REMOVE(&fn->late, late, next);
        g_free(late);
    }
    timer_del(&fn->late_timer);
}

void pasid_fn_reset(PASIDFunction *fn)
{
    uint8_t *config = fn->vtd.pdev->config;

    fn->ats_unsupported = false;
    if (fn->atc_mode == PASID_ATC_MUTE_UNTIL_RESET) {
        fn->atc_mode = PASID_ATC_ANSWER;
    }

    pci_set_word(config + PASID_CAP_OFFSET + PCI_PASID_CTRL, 0);
    if (fn->ats) {
        pci_set_word(config + ATS_CAP_OFFSET + PCI_ATS_CTRL, 0);
    }
    if (fn->pri) {
        /* VT-d spec 7.9: what was sent arrives nevertheless */
        forget_groups(fn);
        pci_set_word(pri_cap(fn) + PCI_PRI_CTRL, 0);
        pci_set_word(pri_cap(fn) + PCI_PRI_STATUS,
                     PCI_PRI_STATUS_PASID | PCI_PRI_STATUS_STOPPED);
        pci_set_long(pri_cap(fn) + PCI_PRI_ALLOC_REQ, 0);
    }
    g_hash_table_remove_all(fn->atcs);
}

static void pri_init(PASIDFunction *fn, PCIDevice *pdev)
{
    pcie_add_capability(pdev, PCI_EXT_CAP_ID_PRI, 1, PRI_CAP_OFFSET,
                        PCI_EXT_CAP_PRI_SIZEOF);
    pci_set_long(pri_cap(fn) + PCI_PRI_MAX_REQ, PASID_FN_PAGE_CAPACITY);
    pci_set_word(pdev->wmask + PRI_CAP_OFFSET + PCI_PRI_CTRL,
                 PCI_PRI_CTRL_ENABLE | PCI_PRI_CTRL_RESET);
    pci_set_word(pdev->w1cmask + PRI_CAP_OFFSET + PCI_PRI_STATUS,
                 PCI_PRI_STATUS_RF | PCI_PRI_STATUS_UPRGI);
    pci_set_long(pdev->wmask + PRI_CAP_OFFSET + PCI_PRI_ALLOC_REQ,
                 UINT32_MAX);
}

bool pasid_fn_realize(PASIDFunction *fn, PCIDevice *pdev, Error **errp)
{
    X86IOMMUState *x86_iommu = x86_iommu_get_default();
    IntelIOMMUState *iommu;

    iommu = (IntelIOMMUState *)object_dynamic_cast(OBJECT(x86_iommu),
                                                   TYPE_INTEL_IOMMU_DEVICE);
    if (!iommu) {
        error_setg(errp, "%s needs an intel-iommu, given before it",
                   object_get_typename(OBJECT(pdev)));
        return false;
    }
    if (fn->ats_depth > MAX_ATS_DEPTH) {
        error_setg(errp, "ats-depth must be from 0 to %d", MAX_ATS_DEPTH);
        return false;
    }
    if (fn->pri && !fn->ats) {
        error_setg(errp, "pri=on needs ats=on");
        return false;
    }
    if (pcie_endpoint_cap_init(pdev, 0) < 0) {
        error_setg(errp, "no room for the PCI Express capability");
        return false;
    }
    pcie_cap_flr_init(pdev);

    fn->vtd = (VTDFunction) {
        .pdev = pdev,
        .iommu = iommu,
        .drain = drain_flights,
        .invalidate = invalidate,
        .respond = fn->pri ? page_response : NULL,
    };

    pcie_add_capability(pdev, PCI_EXT_CAP_ID_PASID, 1, PASID_CAP_OFFSET,
                        PCI_EXT_CAP_PASID_SIZEOF);
    pci_set_word(pdev->config + PASID_CAP_OFFSET + PCI_PASID_CAP,
                 PASID_WIDTH << 8 |
                 (fn->privileged ? PCI_PASID_CAP_PRIV : 0));
    pci_set_word(pdev->wmask + PASID_CAP_OFFSET + PCI_PASID_CTRL,
                 PCI_PASID_CTRL_ENABLE |
                 (fn->privileged ? PCI_PASID_CTRL_PRIV : 0));
    if (fn->ats) {
        pcie_ats_init(pdev, ATS_CAP_OFFSET, true);
        pci_set_word(pdev->config + ATS_CAP_OFFSET + PCI_ATS_CAP,
                     PCI_ATS_CAP_PAGE_ALIGNED | fn->ats_depth);
    }
    if (fn->pri) {
        pri_init(fn, pdev);
    }

    fn->atcs = g_hash_table_new_full(NULL, NULL, NULL, atc_free);
    QTAILQ_INIT(&fn->flights);
    QTAILQ_INIT(&fn->late);
    timer_init_ns(&fn->flight_timer, QEMU_CLOCK_VIRTUAL, flight_timer, fn);
    timer_init_ns(&fn->late_timer, QEMU_CLOCK_VIRTUAL, late_timer, fn);
    vtd_add_function(&fn->vtd);
    return true;
}

void pasid_fn_exit(PASIDFunction *fn)
{
    pasid_fn_quiesce(fn);
    vtd_remove_function(&fn->vtd);
    g_hash_table_destroy(fn->atcs);
    pcie_cap_exit(fn->vtd.pdev);
}

void pasid_fn_instance_init(PASIDFunction *fn, Object *obj)
{
    object_property_add_uint32_ptr(obj, "flight-us", &fn->flight_us,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "atc-mode", &fn->atc_mode,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "atc-late-us", &fn->atc_late_us,
                                   OBJ_PROP_FLAG_READWRITE);
}

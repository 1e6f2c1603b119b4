/*
 * A PCI function that DMAs with PASIDs, through the emulated Intel IOMMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the PASID DMA engine and the DSA have in common: the capabilities PASID,
 * ATS and PRI, the way of a request to memory, and page requests.
 *
 * With ats=on, and once software has enabled both sides, the function caches
 * translations in an address translation cache (ATC) and sends translated
 * requests, until a device-TLB invalidation drops the translation. It sends no
 * stop markers, as VT-d has another way to drain page requests (VT-d spec 7.10).
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
 * there is no other locking.
 */

#ifndef HW_I386_PASID_FUNCTION_H
#define HW_I386_PASID_FUNCTION_H

#include "qemu/queue.h"
#include "qemu/timer.h"
#include "hw/i386/intel_iommu.h"
#include "hw/pci/pci_device.h"

#define PASID_FN_PAGE_SIZE      4096

/* Outstanding Page Request Capacity */
#define PASID_FN_PAGE_CAPACITY  64

typedef struct PASIDFunction PASIDFunction;
typedef struct PASIDRequester PASIDRequester;

/*
 * A page request group that waits for its response, even if the requester does
 * not any more. Its place in PASIDFunction.groups is its index.
 */
typedef struct PASIDGroup {
    uint32_t num_pages;         /* 0: the index is free */
    uint32_t pasid;
    PASIDRequester *requester;
} PASIDGroup;

/* A part of the function that issues requests, one after the other */
struct PASIDRequester {
    PASIDFunction *fn;
    /* The data of a read in flight has arrived */
    void (*landed)(PASIDRequester *r);
    /* The response to its page requests has arrived: a VTD_PAGE_ code */
    void (*respond)(PASIDRequester *r, uint8_t code);
    PASIDGroup *group;          /* Whose response it waits for */
};

/* A request that does not cross a page */
typedef struct PASIDAccess {
    uint32_t pasid;             /* PCI_NO_PASID: without PASID */
    uint64_t iova;
    bool is_write;
    bool no_ats;                /* Untranslated, even if ATS is enabled */
    bool no_fault;              /* Without access, send nothing: PASID_NO_PAGE */
    void *buf;                  /* Of a read: stays until it has landed */
    uint32_t len;
} PASIDAccess;

typedef enum PASIDOutcome {
    PASID_PASSED,               /* And in flight, with flight-us */
    PASID_REFUSED,
    PASID_UNTRANSLATED,         /* The translation request was refused */
    PASID_LATER,                /* The translation is not there yet */
    PASID_NO_PAGE,              /* Nothing was sent */
} PASIDOutcome;

/* A page to request */
typedef struct PASIDWanted {
    uint64_t iova;
    bool is_write;
} PASIDWanted;

/* Values of atc_mode */
typedef enum PASIDATCMode {
    PASID_ATC_ANSWER,
    PASID_ATC_LATE,
    PASID_ATC_MUTE,
    PASID_ATC_MUTE_UNTIL_RESET,
} PASIDATCMode;

typedef struct PASIDFlight PASIDFlight;
typedef struct PASIDLateInv PASIDLateInv;

struct PASIDFunction {
    VTDFunction vtd;

    /* Properties; what is below these is private, except the counts */
    bool ats;
    uint8_t ats_depth;
    bool pri;
    bool privileged;            /* The PASID capability offers that mode */

    /* Responses are lost until software enables PRI again */
    void (*failed)(PASIDFunction *fn);

    GHashTable *atcs;           /* Translations by PASID */
    bool ats_unsupported;       /* The IOMMU has said so */

    uint32_t flight_us;
    QTAILQ_HEAD(, PASIDFlight) flights;     /* In the order of their due */
    QEMUTimer flight_timer;

    uint32_t atc_mode;
    uint32_t atc_late_us;
    QTAILQ_HEAD(, PASIDLateInv) late;       /* In the order of their due */
    QEMUTimer late_timer;

    uint64_t ur_count;
    uint64_t ca_count;
    uint64_t atc_count;

    PASIDGroup groups[PASID_FN_PAGE_CAPACITY];
    uint32_t num_requests;      /* In all groups */
};

/* Properties that tests can change at run time */
void pasid_fn_instance_init(PASIDFunction *fn, Object *obj);
bool pasid_fn_realize(PASIDFunction *fn, PCIDevice *pdev, Error **errp);
void pasid_fn_exit(PASIDFunction *fn);
void pasid_fn_write_config(PASIDFunction *fn, uint32_t addr, uint32_t val,
                           int len);
/* Complete the requests in flight, and forget about late invalidations */
void pasid_fn_quiesce(PASIDFunction *fn);
/* Of a quiet function */
void pasid_fn_reset(PASIDFunction *fn);

uint16_t pasid_fn_sid(PASIDFunction *fn);
bool pasid_fn_bus_master(PASIDFunction *fn);
bool pasid_fn_pasid_enabled(PASIDFunction *fn);
bool pasid_fn_privileged_enabled(PASIDFunction *fn);
bool pasid_fn_ats_enabled(PASIDFunction *fn);
bool pasid_fn_pri_enabled(PASIDFunction *fn);
/* Useless, but software can do it */
bool pasid_fn_pri_without_ats(PASIDFunction *fn);

/* The virtual time in @us */
int64_t pasid_fn_after(uint32_t us);

/*
 * Send a request to the IOMMU, which reports each refused request once, and on to
 * memory. For PASID_LATER, *@ready is when to try again.
 */
PASIDOutcome pasid_fn_request(PASIDRequester *r, const PASIDAccess *access,
                              int64_t *ready);
/* PCI Express 2.4.1: a completion does not pass posted writes, nor does an MSI */
void pasid_fn_push_writes(PASIDFunction *fn);

/* Send page requests as one group. False: too many are outstanding. */
bool pasid_fn_ask(PASIDRequester *r, uint32_t pasid, const PASIDWanted *wanted,
                  uint32_t num_wanted, int64_t delay_ns);
/* Deliver neither data nor a response to the requester any more */
void pasid_fn_cancel(PASIDRequester *r);

#endif

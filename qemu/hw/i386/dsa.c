/*
 * Intel Data Streaming Accelerator (DSA), version 1.0
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * From the public architecture specification, and the layout of registers and
 * descriptors in Linux. Descriptors arrive in the portals of work queues (WQ),
 * and an engine of the WQ's group executes them: in memory that it reaches
 * through the emulated Intel IOMMU, with the PASID of the WQ or without.
 *
 * Each engine executes one descriptor at a time, those of a batch in their order.
 * It does so in a coroutine, which waits for translations, data, and responses to
 * page requests, and after each page, so that nothing stays busy for long.
 *
 * A work queue can only be dedicated, because shared ones need ENQCMD, which TCG
 * does not have. Also left out:
 * - operations on delta records, CRC, DIF and DIX, and flushing of caches;
 * - the interrupt message storage (IMS), revoking of interrupt handles, interrupts
 *   for the occupancy of a WQ, performance monitoring, and what version 2.0 added,
 *   except the event log, which evl=on offers;
 * - readback of destinations and in drain descriptors;
 * - any effect of read buffers, traffic classes, steering tags, cache control, and
 *   of privileged mode on translation, which the IOMMU does not look at;
 * - errors of hardware, except those that the IOMMU or software causes;
 * - a limit for the time that a page request takes, and migration.
 *
 * Writes are posted: if the IOMMU refuses one, the device does not notice.
 *
 * Properties: evl=on adds the event log; int-handles=off leaves out the commands for
 * interrupt handles, which are optional; max-transfer-shift is the base 2 logarithm
 * of the largest transfer; ats, ats-depth and pri are as for the engine (pdma.c).
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/coroutine.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "hw/core/cpu.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "qom/object.h"
#include "pasid-function.h"
#include "trace.h"

#define TYPE_DSA "dsa"
OBJECT_DECLARE_SIMPLE_TYPE(DSAState, DSA)

#define DSA_DEVICE_ID           0x0b25
#define DSA_VERSION             0x100

#define DSA_NUM_WQS             8
#define DSA_NUM_GROUPS          4
#define DSA_NUM_ENGINES         4
#define DSA_TOTAL_WQ_SIZE       128
#define DSA_READ_BUFFERS        96
#define DSA_MIN_XFER_SHIFT      12      /* One page */
#define DSA_MAX_XFER_SHIFT      31
#define DSA_MAX_BATCH_SHIFT     10
/* One for the device, and one for each WQ */
#define DSA_NUM_VECTORS         (1 + DSA_NUM_WQS)

#define DSA_PAGE_SIZE           PASID_FN_PAGE_SIZE
#define DSA_DESC_SIZE           64
#define DSA_CR_SIZE             32

/* From the arrival of work until it starts, and from one page to the next */
#define DSA_PERIOD_US           1
/* How often to look for room for a page request, or whether PRI was reset */
#define DSA_ASK_PERIOD_US       10
#define DSA_RESPONSE_PERIOD_US  1000

/* BAR 0: registers. Their contents are described where they are read. */
#define DSA_BAR0_SIZE           (64 * KiB)
#define DSA_REG_VERSION         0x00
#define DSA_REG_GENCAP          0x10
#define DSA_REG_WQCAP           0x20
#define DSA_REG_GRPCAP          0x30
#define DSA_REG_ENGCAP          0x38
#define DSA_REG_OPCAP           0x40
#define DSA_REG_OFFSETS         0x60
#define DSA_REG_GENCFG          0x80
#define DSA_REG_GENCTRL         0x88
#define DSA_REG_GENSTS          0x90
#define DSA_REG_INTCAUSE        0x98
#define DSA_REG_CMD             0xa0
#define DSA_REG_CMDSTS          0xa8
#define DSA_REG_CMDCAP          0xb0
#define DSA_REG_SWERR           0xc0
#define DSA_SWERR_QWORDS        4
#define DSA_REG_EVLCFG          0xe0
#define DSA_REG_EVLSTATUS       0xf0
#define DSA_TABLE_UNIT          0x100
#define DSA_GRPCFG              0x400
#define DSA_GRPCFG_SIZE         64
#define DSA_WQCFG               0x500
#define DSA_WQCFG_SIZE          32
#define DSA_MSIXPERM            0x600
#define DSA_MSIXPERM_SIZE       8
#define DSA_MSIX_TABLE          0x2000
#define DSA_MSIX_PBA            0x3000

#define DSA_GENCFG_USER_INT     (1u << 12)
#define DSA_GENCFG_EVL          (1u << 13)
#define DSA_GENCFG_MASK         (DSA_GENCFG_USER_INT | 0xff)

#define DSA_GENCTRL_SWERR       (1u << 0)
#define DSA_GENCTRL_HALT        (1u << 1)
#define DSA_GENCTRL_EVL         (1u << 2)
#define DSA_GENCTRL_MASK        (DSA_GENCTRL_SWERR | DSA_GENCTRL_HALT)

#define DSA_INT_SWERR           (1u << 0)
#define DSA_INT_CMD             (1u << 1)
#define DSA_INT_HALT            (1u << 4)
#define DSA_INT_EVL             (1u << 5)

#define DSA_EVL_ENTRY_SIZE      64
#define DSA_EVL_MIN_ENTRIES     64
#define DSA_EVL_BASE(s)         ((s)->evlcfg[0] & ~0xfffull)
#define DSA_EVL_PASID_EN(s)     ((s)->evlcfg[0] & 1)
#define DSA_EVL_ENTRIES(s)      ((s)->evlcfg[1] & 0xffff)
#define DSA_EVL_PASID(s)        ((s)->evlcfg[1] >> 16 & 0xfffff)
#define DSA_EVL_PENDING         (1u << 30)  /* Of the upper half of EVLSTATUS */

/* BAR 2: four portals for each WQ, each a page of slots for descriptors */
#define DSA_PORTALS             4
#define DSA_BAR2_SIZE           (DSA_NUM_WQS * DSA_PORTALS * DSA_PAGE_SIZE)
/* The second half is for interrupt handles of the IMS */
#define DSA_PORTAL_IMS          2

typedef enum DSADeviceState {
    DSA_DISABLED,
    DSA_ENABLED,
    DSA_DRAINING,
    DSA_HALTED,
} DSADeviceState;

/* GENSTS.reset_type: what a halted device waits for */
#define DSA_RESET_FLR           1

typedef enum DSACommand {
    DSA_CMD_ENABLE_DEVICE = 1,
    DSA_CMD_DISABLE_DEVICE,
    DSA_CMD_DRAIN_ALL,
    DSA_CMD_ABORT_ALL,
    DSA_CMD_RESET_DEVICE,
    DSA_CMD_ENABLE_WQ,
    DSA_CMD_DISABLE_WQ,
    DSA_CMD_DRAIN_WQ,
    DSA_CMD_ABORT_WQ,
    DSA_CMD_RESET_WQ,
    DSA_CMD_DRAIN_PASID,
    DSA_CMD_ABORT_PASID,
    DSA_CMD_REQUEST_INT,
    DSA_CMD_RELEASE_INT,
    DSA_CMD_END,
} DSACommand;

#define DSA_CMD_OPERAND(cmd)    ((cmd) & 0xfffff)
#define DSA_CMD_CODE(cmd)       ((cmd) >> 20 & 0x1f)
#define DSA_CMD_INT             (1u << 31)
#define DSA_CMD_IMS             (1u << 16)

#define DSA_CMDSTS_ACTIVE       (1u << 31)

/*
 * Error codes of commands. The meanings of the four codes for groups are our
 * choice.
 */
typedef enum DSACommandError {
    DSA_CMD_OK = 0x00,
    DSA_CMD_BAD_CODE = 0x01,
    DSA_CMD_BAD_WQ = 0x02,
    DSA_CMD_HW_ERROR = 0x03,
    DSA_CMD_DEVICE_ENABLED = 0x10,
    DSA_CMD_BAD_CONFIG = 0x11,      /* Here: of the event log */
    DSA_CMD_NO_BUS_MASTER = 0x12,
    DSA_CMD_BAD_PASID_ATS_PRI = 0x13,
    DSA_CMD_WQ_SIZES = 0x14,
    DSA_CMD_GROUP_RANGE = 0x15,     /* There is no such WQ or engine */
    DSA_CMD_GROUP_TWICE = 0x16,     /* A WQ or engine is in two groups */
    DSA_CMD_GROUP_MEMBERS = 0x17,   /* WQs without an engine, WQ without group */
    DSA_CMD_GROUP_BUFFERS = 0x18,   /* Read buffers */
    DSA_CMD_DEVICE_DISABLED = 0x20,
    DSA_CMD_WQ_ENABLED = 0x21,
    DSA_CMD_WQ_SIZE = 0x22,
    DSA_CMD_WQ_PRIORITY = 0x23,
    DSA_CMD_WQ_MODE = 0x24,
    DSA_CMD_WQ_BOF = 0x25,
    DSA_CMD_WQ_PASID = 0x26,
    DSA_CMD_WQ_BATCH = 0x27,
    DSA_CMD_WQ_XFER = 0x28,
    DSA_CMD_DEVICE_NOT_ENABLED = 0x31,
    DSA_CMD_WQ_NOT_ENABLED = 0x32,
    DSA_CMD_BAD_INT = 0x41,
} DSACommandError;

typedef enum DSAOpcode {
    DSA_NOOP = 0,
    DSA_BATCH,
    DSA_DRAIN,
    DSA_MEMMOVE,
    DSA_FILL,
    DSA_COMPARE,
    DSA_COMPARE_PATTERN,
    DSA_DUALCAST = 9,
} DSAOpcode;

#define DSA_FENCE               (1u << 0)
#define DSA_BOF                 (1u << 1)   /* Block on fault */
#define DSA_CRAV                (1u << 2)   /* Completion record address valid */
#define DSA_RCR                 (1u << 3)   /* Request completion record */
#define DSA_RCI                 (1u << 4)   /* Request completion interrupt */
#define DSA_CR_ST               (1u << 5)
#define DSA_CHECK_RESULT        (1u << 7)
#define DSA_CACHE_CONTROL       (1u << 8)
#define DSA_TC1                 (1u << 9)
#define DSA_TC2                 (1u << 10)
#define DSA_TC3                 (1u << 11)
#define DSA_CR_TC               (1u << 12)
#define DSA_STRICT_ORDER        (1u << 13)
#define DSA_DEST_ST             (1u << 15)

#define DSA_COMMON_FLAGS        (DSA_FENCE | DSA_CRAV | DSA_RCR | DSA_RCI | \
                                 DSA_CR_ST | DSA_CR_TC)
#define DSA_WRITE_FLAGS         (DSA_CACHE_CONTROL | DSA_STRICT_ORDER | \
                                 DSA_DEST_ST)

/* Status of a completion record, and error of SWERR */
typedef enum DSAStatus {
    DSA_ABORTED = 0x00,             /* Not reported to software */
    DSA_SUCCESS = 0x01,
    DSA_FALSE_PREDICATE = 0x02,
    DSA_PAGE_FAULT = 0x03,
    DSA_PAGE_INVALID = 0x04,        /* The response to the page request */
    DSA_BATCH_FAILED = 0x05,
    DSA_BATCH_PAGE_FAULT = 0x06,
    DSA_BAD_OPCODE = 0x10,
    DSA_BAD_FLAGS = 0x11,
    DSA_BAD_RESERVED = 0x12,
    DSA_BAD_SIZE = 0x13,
    DSA_BAD_COUNT = 0x14,
    DSA_OVERLAP = 0x16,
    DSA_BAD_DUALCAST = 0x17,
    DSA_BAD_LIST = 0x18,
    DSA_BAD_INT = 0x19,
    DSA_CR_PAGE_FAULT = 0x1a,
    DSA_BAD_CR = 0x1b,
    DSA_HW_ERROR = 0x20,            /* Here: a read was not completed */
    DSA_NO_TRANSLATION = 0x22,
    /* Of SWERR only. The numbers of the last two are our choice. */
    DSA_PCI_CONFIG = 0x51,
    DSA_CMD_BUSY = 0x52,
    DSA_SUBMIT_DISABLED = 0x53,
    DSA_SUBMIT_FULL = 0x54,
} DSAStatus;

#define DSA_STATUS_WRITE        (1u << 7)   /* Fault on a write */

#define DSA_SWERR_VALID         (1u << 0)
#define DSA_SWERR_OVERFLOW      (1u << 1)

typedef union DSAGroupConfig {
    struct {
        uint64_t wqs[4];
        uint64_t engines;
        uint64_t flags;
        uint64_t reserved[2];
    };
    uint64_t qwords[8];
} DSAGroupConfig;

/* Dwords of WQCFG */
#define DSA_WQCFG_DWORDS        (DSA_WQCFG_SIZE / 4)
enum {
    DSA_WQ_SIZE,
    DSA_WQ_THRESHOLD,
    DSA_WQ_MODE,
    DSA_WQ_LIMITS,
    DSA_WQ_STATE = 6,
};

static const uint32_t dsa_wqcfg_mask[DSA_WQCFG_DWORDS] = {
    [DSA_WQ_SIZE] = 0xffff,
    [DSA_WQ_THRESHOLD] = 0xffff,
    [DSA_WQ_MODE] = 0x3fffffff,
    [DSA_WQ_LIMITS] = 0x1ff,
};

#define DSA_WQ_DEDICATED(m)     ((m) & 1)
#define DSA_WQ_BOF(m)           ((m) >> 1 & 1)
#define DSA_WQ_NO_ATS(m)        ((m) >> 2 & 1)
#define DSA_WQ_NO_PRS(m)        ((m) >> 3 & 1)
#define DSA_WQ_PRIORITY(m)      ((m) >> 4 & 0xf)
#define DSA_WQ_PASID(m)         ((m) >> 8 & 0xfffff)
#define DSA_WQ_PASID_EN(m)      ((m) >> 28 & 1)
#define DSA_WQ_PRIV(m)          ((m) >> 29 & 1)
#define DSA_WQ_MAX_XFER(l)      ((l) & 0x1f)
#define DSA_WQ_MAX_BATCH(l)     ((l) >> 5 & 0xf)

/* A descriptor in a WQ */
typedef struct DSAWork {
    uint8_t desc[DSA_DESC_SIZE];
    uint64_t seq;               /* Counts descriptors of all WQs */
    bool ims;                   /* From the portal for handles of the IMS */
    QTAILQ_ENTRY(DSAWork) next;
} DSAWork;

typedef struct DSAWQ {
    uint32_t cfg[DSA_WQCFG_DWORDS];
    bool enabled;
    bool stopping;              /* Takes no more descriptors */
    QTAILQ_HEAD(, DSAWork) queue;
    uint32_t num_queued;
    uint32_t credit;            /* Descriptors until the next WQ's turn */
} DSAWQ;

/*
 * Work of an engine. Once it is aborted, the engine and the rest of the device
 * forget it, and it ends at the next opportunity without touching anything.
 */
typedef struct DSAJob {
    PASIDRequester requester;
    DSAState *s;                /* With a reference */
    uint32_t engine;
    uint32_t wq;
    uint32_t mode;              /* DSA_WQ_MODE and DSA_WQ_LIMITS of the WQ */
    uint32_t limits;
    uint32_t pasid;
    DSAWork work;
    Coroutine *co;
    QEMUTimer timer;            /* Enters the coroutine */
    bool aborted;
    bool ended;
    bool landed;
    bool answered;
    uint8_t page_code;
    uint8_t data[2][DSA_PAGE_SIZE];
} DSAJob;

/* A descriptor that is being executed, and its result */
typedef struct DSAOp {
    DSAJob *job;
    uint32_t pasid;             /* Of its requests */
    const uint8_t *desc;
    bool in_batch;
    uint16_t batch_index;
    uint8_t opcode;
    uint32_t flags;
    uint32_t size;

    DSAStatus status;
    uint8_t result;
    uint32_t completed;
    uint32_t bad_flags;
    bool fault;                 /* Of the access below */
    uint64_t fault_addr;
    bool fault_write;
} DSAOp;

/* The 64 bytes that a CPU is about to write to a slot of a portal */
typedef struct DSASlot {
    hwaddr addr;
    uint32_t len;
    uint8_t data[DSA_DESC_SIZE];
} DSASlot;

struct DSAState {
    PCIDevice parent_obj;

    MemoryRegion bar0;
    MemoryRegion bar2;
    PASIDFunction fn;
    bool evl;
    bool int_handles;
    uint8_t max_xfer_shift;

    DSADeviceState state;
    uint32_t gencfg;
    uint32_t genctrl;
    uint32_t intcause;
    uint64_t swerr[DSA_SWERR_QWORDS];
    uint64_t msixperm[DSA_NUM_VECTORS];

    uint64_t evlcfg[2];
    uint32_t evl_head;
    uint32_t evl_tail;
    bool evl_pending;
    DSAJob *evl_writer;         /* The job that writes an entry, or NULL */

    DSAGroupConfig groups[DSA_NUM_GROUPS];
    DSAWQ wqs[DSA_NUM_WQS];
    uint32_t handles;           /* Vectors that software has a handle for */

    uint32_t cmd;
    uint32_t cmdsts;
    uint64_t cmd_seq;           /* A drain waits for earlier descriptors */
    QEMUTimer cmd_timer;

    GHashTable *slots;          /* DSASlot by CPU */
    uint64_t seq;
    DSAJob *jobs[DSA_NUM_ENGINES];
    uint32_t turn[DSA_NUM_GROUPS];  /* The WQ whose turn it is */
    QEMUTimer dispatch_timer;
};

static const uint64_t dsa_opcap =
    1ull << DSA_NOOP | 1ull << DSA_BATCH | 1ull << DSA_DRAIN |
    1ull << DSA_MEMMOVE | 1ull << DSA_FILL | 1ull << DSA_COMPARE |
    1ull << DSA_COMPARE_PATTERN | 1ull << DSA_DUALCAST;

static uint16_t dsa_sid(DSAState *s)
{
    return pasid_fn_sid(&s->fn);
}

static uint32_t dsa_wq_size(DSAWQ *wq)
{
    return wq->cfg[DSA_WQ_SIZE];
}

static uint32_t dsa_wq_pasid(uint32_t mode)
{
    return DSA_WQ_PASID_EN(mode) ? DSA_WQ_PASID(mode) : PCI_NO_PASID;
}

/*
 * Interrupts and SWERR
 */

static void dsa_interrupt(DSAState *s, uint32_t vector)
{
    pasid_fn_push_writes(&s->fn);
    msix_notify(PCI_DEVICE(s), vector);
}

static void dsa_cause(DSAState *s, uint32_t cause)
{
    s->intcause |= cause;
    dsa_interrupt(s, 0);
}

static void dsa_swerr(DSAState *s, uint64_t q0, uint64_t q1, uint64_t q2)
{
    trace_dsa_swerr(dsa_sid(s), q0, q1, q2);
    if (s->swerr[0] & DSA_SWERR_VALID) {
        s->swerr[0] |= DSA_SWERR_OVERFLOW;
        return;
    }
    s->swerr[0] = q0 | DSA_SWERR_VALID;
    s->swerr[1] = q1;
    s->swerr[2] = q2;
    s->swerr[3] = 0;
    if (s->genctrl & DSA_GENCTRL_SWERR) {
        dsa_cause(s, DSA_INT_SWERR);
    }
}

static uint64_t dsa_swerr_wq(uint32_t wq, DSAStatus error)
{
    return 1u << 3 | error << 8 | wq << 16;
}

static uint8_t dsa_opcode(const uint8_t *desc)
{
    return desc[7];
}

/*
 * Jobs, from outside of the coroutine
 */

static void dsa_job_timer(void *opaque)
{
    DSAJob *job = opaque;

    qemu_coroutine_enter(job->co);
    if (job->ended) {
        timer_del(&job->timer);
        pasid_fn_cancel(&job->requester);
        object_unref(OBJECT(job->s));
        g_free(job);
    }
}

static void dsa_job_wake(DSAJob *job)
{
    timer_mod_anticipate(&job->timer, pasid_fn_after(0));
}

static void dsa_landed(PASIDRequester *r)
{
    DSAJob *job = container_of(r, DSAJob, requester);

    job->landed = true;
    dsa_job_wake(job);
}

static void dsa_respond(PASIDRequester *r, uint8_t code)
{
    DSAJob *job = container_of(r, DSAJob, requester);

    job->answered = true;
    job->page_code = code;
    dsa_job_wake(job);
}

static void dsa_failed(PASIDFunction *fn)
{
    DSAState *s = container_of(fn, DSAState, fn);
    uint32_t i;

    for (i = 0; i < DSA_NUM_ENGINES; i++) {
        DSAJob *job = s->jobs[i];

        if (job && job->requester.group) {
            dsa_respond(&job->requester, VTD_PAGE_FAILURE);
        }
    }
}

/* Start work, unless that is scheduled already */
static void dsa_kick(DSAState *s)
{
    timer_mod_anticipate(&s->dispatch_timer, pasid_fn_after(DSA_PERIOD_US));
}

/* Look again whether a command is complete */
static void dsa_kick_command(DSAState *s)
{
    if (s->cmdsts & DSA_CMDSTS_ACTIVE) {
        timer_mod_anticipate(&s->cmd_timer, pasid_fn_after(DSA_PERIOD_US));
    }
}

static void dsa_abort_job(DSAState *s, uint32_t engine)
{
    DSAJob *job = s->jobs[engine];

    if (job) {
        s->jobs[engine] = NULL;
        if (s->evl_writer == job) {
            s->evl_writer = NULL;
        }
        job->aborted = true;
        pasid_fn_cancel(&job->requester);
        dsa_job_wake(job);
        dsa_kick(s);
    }
}

static void dsa_abort_wq(DSAState *s, uint32_t wq_index)
{
    DSAWQ *wq = &s->wqs[wq_index];
    DSAWork *work;
    uint32_t i;

    while ((work = QTAILQ_FIRST(&wq->queue))) {
        QTAILQ_REMOVE(&wq->queue, work, next);
        g_free(work);
    }
    wq->num_queued = 0;
    for (i = 0; i < DSA_NUM_ENGINES; i++) {
        if (s->jobs[i] && s->jobs[i]->wq == wq_index) {
            dsa_abort_job(s, i);
        }
    }
}

static bool dsa_wq_busy(DSAState *s, uint32_t wq_index, uint64_t before)
{
    DSAWork *work = QTAILQ_FIRST(&s->wqs[wq_index].queue);
    uint32_t i;

    if (work && work->seq < before) {
        return true;
    }
    for (i = 0; i < DSA_NUM_ENGINES; i++) {
        DSAJob *job = s->jobs[i];

        if (job && job->wq == wq_index && job->work.seq < before) {
            return true;
        }
    }
    return false;
}

static void dsa_halt(DSAState *s)
{
    uint32_t i;

    s->state = DSA_HALTED;
    for (i = 0; i < DSA_NUM_WQS; i++) {
        dsa_abort_wq(s, i);
        s->wqs[i].enabled = false;
        s->wqs[i].stopping = false;
    }
    dsa_kick_command(s);
    dsa_swerr(s, DSA_PCI_CONFIG << 8, 0, 0);
    if (s->genctrl & DSA_GENCTRL_HALT) {
        dsa_cause(s, DSA_INT_HALT);
    }
}

/*
 * Jobs, in the coroutine. After each wait, and after each access to memory, which
 * may be one to the registers of the device, the job may be aborted.
 */

static void coroutine_fn dsa_wait(DSAJob *job)
{
    qemu_coroutine_yield();
}

static void coroutine_fn dsa_wait_until(DSAJob *job, int64_t ns)
{
    timer_mod_anticipate(&job->timer, ns);
    dsa_wait(job);
}

/* Request a page and wait for the response. False: there is none. */
static bool coroutine_fn dsa_ask(DSAOp *op, uint64_t iova, bool is_write)
{
    DSAJob *job = op->job;
    PASIDFunction *fn = &job->s->fn;
    PASIDWanted wanted = { .iova = iova, .is_write = is_write };

    job->answered = false;
    while (!pasid_fn_ask(&job->requester, op->pasid, &wanted, 1, 0)) {
        dsa_wait_until(job, pasid_fn_after(DSA_ASK_PERIOD_US));
        if (job->aborted || !pasid_fn_pri_enabled(fn)) {
            return false;
        }
    }
    while (!job->answered) {
        if (job->aborted || !job->requester.group) {
            return false;
        }
        dsa_wait_until(job, pasid_fn_after(DSA_RESPONSE_PERIOD_US));
    }
    return !job->aborted;
}

/*
 * An access that does not cross a page. Without access, @block until the page is
 * there, if the WQ and the function can request it. *@op records the fault.
 */
static DSAStatus coroutine_fn dsa_access(DSAOp *op, uint64_t iova, void *buf,
                                         uint32_t len, bool is_write,
                                         bool block)
{
    DSAJob *job = op->job;
    PASIDFunction *fn = &job->s->fn;
    PASIDAccess access = {
        .pasid = op->pasid,
        .iova = iova,
        .is_write = is_write,
        .no_ats = DSA_WQ_NO_ATS(job->mode),
        .no_fault = true,
        .buf = buf,
        .len = len,
    };
    DSAStatus status;
    int64_t ready;

    for (;;) {
        bool flies = fn->flight_us;
        PASIDOutcome outcome;

        job->landed = false;
        outcome = pasid_fn_request(&job->requester, &access, &ready);
        if (job->aborted) {
            return DSA_ABORTED;
        }

        switch (outcome) {
        case PASID_PASSED:
            while (flies && !is_write && !job->landed) {
                dsa_wait(job);
                if (job->aborted) {
                    return DSA_ABORTED;
                }
            }
            return DSA_SUCCESS;
        case PASID_LATER:
            dsa_wait_until(job, ready);
            break;
        case PASID_NO_PAGE:
            status = DSA_PAGE_FAULT;
            if (block && !DSA_WQ_NO_PRS(job->mode) &&
                pasid_fn_pri_enabled(fn) && dsa_ask(op, iova, is_write)) {
                if (job->page_code == VTD_PAGE_SUCCESS) {
                    break;
                }
                status = DSA_PAGE_INVALID;
            }
            goto fault;
        case PASID_UNTRANSLATED:
            status = DSA_NO_TRANSLATION;
            goto fault;
        case PASID_REFUSED:
            if (is_write) {
                return DSA_SUCCESS;
            }
            status = DSA_HW_ERROR;
            goto fault;
        }
        if (job->aborted) {
            return DSA_ABORTED;
        }
    }

fault:
    if (job->aborted) {
        return DSA_ABORTED;
    }
    op->fault = true;
    op->fault_addr = iova;
    op->fault_write = is_write;
    return status;
}

/* An access to the data of a descriptor */
static DSAStatus coroutine_fn dsa_data(DSAOp *op, uint64_t iova, void *buf,
                                       uint32_t len, bool is_write)
{
    return dsa_access(op, iova, buf, len, is_write, op->flags & DSA_BOF);
}

static DSAStatus coroutine_fn dsa_read(DSAOp *op, int buf, uint64_t iova,
                                       uint32_t len)
{
    return dsa_data(op, iova, op->job->data[buf], len, false);
}

static DSAStatus coroutine_fn dsa_write(DSAOp *op, int buf, uint64_t iova,
                                        uint32_t len)
{
    return dsa_data(op, iova, op->job->data[buf], len, true);
}

/* A part is done. Let others continue. */
static DSAStatus coroutine_fn dsa_progress(DSAOp *op, uint32_t len)
{
    op->completed += len;
    if (op->completed < op->size) {
        dsa_wait_until(op->job, pasid_fn_after(DSA_PERIOD_US));
    }
    return op->job->aborted ? DSA_ABORTED : DSA_SUCCESS;
}

/* How much of @len bytes from @addr on is in the same page */
static uint32_t dsa_in_page(uint64_t addr, uint32_t len)
{
    return MIN(len, DSA_PAGE_SIZE - addr % DSA_PAGE_SIZE);
}

/* How much of @len bytes that end before @end is in the same page */
static uint32_t dsa_in_page_before(uint64_t end, uint32_t len)
{
    return MIN(len, (end - 1) % DSA_PAGE_SIZE + 1);
}

static DSAStatus coroutine_fn dsa_memmove(DSAOp *op)
{
    uint64_t src = ldq_le_p(op->desc + 16);
    uint64_t dst = ldq_le_p(op->desc + 24);
    DSAStatus status = DSA_SUCCESS;

    /* From the end, if the other way would overwrite the source */
    op->result = dst != src && dst - src < op->size;
    while (status == DSA_SUCCESS && op->completed < op->size) {
        uint32_t left = op->size - op->completed;
        uint32_t offset = op->completed;
        uint32_t len;

        if (op->result) {
            len = MIN(dsa_in_page_before(src + left, left),
                      dsa_in_page_before(dst + left, left));
            offset = left - len;
        } else {
            len = MIN(dsa_in_page(src + offset, left),
                      dsa_in_page(dst + offset, left));
        }
        status = dsa_read(op, 0, src + offset, len);
        if (status == DSA_SUCCESS) {
            status = dsa_write(op, 0, dst + offset, len);
        }
        if (status == DSA_SUCCESS) {
            status = dsa_progress(op, len);
        }
    }
    /* Software needs the direction to continue with the rest */
    if (status == DSA_SUCCESS) {
        op->result = 0;
    }
    return status;
}

static DSAStatus coroutine_fn dsa_dualcast(DSAOp *op)
{
    uint64_t src = ldq_le_p(op->desc + 16);
    uint64_t dst[2] = { ldq_le_p(op->desc + 24), ldq_le_p(op->desc + 40) };
    DSAStatus status = DSA_SUCCESS;
    int i;

    if ((dst[0] ^ dst[1]) & (DSA_PAGE_SIZE - 1)) {
        return DSA_BAD_DUALCAST;
    }
    for (i = 0; i < 2; i++) {
        if (dst[i] - src < op->size || src - dst[i] < op->size ||
            dst[i] - dst[!i] < op->size) {
            return DSA_OVERLAP;
        }
    }
    while (status == DSA_SUCCESS && op->completed < op->size) {
        uint32_t left = op->size - op->completed;
        uint32_t len = MIN(dsa_in_page(src + op->completed, left),
                           dsa_in_page(dst[0] + op->completed, left));

        status = dsa_read(op, 0, src + op->completed, len);
        for (i = 0; i < 2 && status == DSA_SUCCESS; i++) {
            status = dsa_write(op, 0, dst[i] + op->completed, len);
        }
        if (status == DSA_SUCCESS) {
            status = dsa_progress(op, len);
        }
    }
    return status;
}

/* Rotate the bytes of a pattern for an offset of the data */
static void dsa_pattern(DSAOp *op, int buf, const uint8_t *pattern,
                        uint32_t offset, uint32_t len)
{
    uint32_t i;

    for (i = 0; i < len; i++) {
        op->job->data[buf][i] = pattern[(offset + i) % 8];
    }
}

static DSAStatus coroutine_fn dsa_fill(DSAOp *op)
{
    uint64_t dst = ldq_le_p(op->desc + 24);
    DSAStatus status = DSA_SUCCESS;

    while (status == DSA_SUCCESS && op->completed < op->size) {
        uint32_t len = dsa_in_page(dst + op->completed,
                                   op->size - op->completed);

        dsa_pattern(op, 0, op->desc + 16, op->completed, len);
        status = dsa_write(op, 0, dst + op->completed, len);
        if (status == DSA_SUCCESS) {
            status = dsa_progress(op, len);
        }
    }
    return status;
}

/* Compare two buffers, or one with a pattern */
static DSAStatus coroutine_fn dsa_compare(DSAOp *op)
{
    bool is_pattern = op->opcode == DSA_COMPARE_PATTERN;
    uint64_t src = ldq_le_p(op->desc + 16);
    uint64_t src2 = ldq_le_p(op->desc + 24);
    DSAStatus status = DSA_SUCCESS;
    uint32_t i;

    while (status == DSA_SUCCESS && op->completed < op->size && !op->result) {
        uint32_t left = op->size - op->completed;
        uint32_t len = dsa_in_page(src + op->completed, left);

        if (!is_pattern) {
            len = MIN(len, dsa_in_page(src2 + op->completed, left));
        }
        status = dsa_read(op, 0, src + op->completed, len);
        if (status != DSA_SUCCESS) {
            break;
        }
        if (is_pattern) {
            dsa_pattern(op, 1, op->desc + 24, op->completed, len);
        } else {
            status = dsa_read(op, 1, src2 + op->completed, len);
        }
        if (status == DSA_SUCCESS) {
            for (i = 0; i < len && op->job->data[0][i] == op->job->data[1][i];
                 i++) {
            }
            op->result = i < len;
            status = dsa_progress(op, i);
        }
    }

    if (status == DSA_SUCCESS && (op->flags & DSA_CHECK_RESULT) &&
        op->result != op->desc[40]) {
        status = DSA_FALSE_PREDICATE;
    }
    return status;
}

/* Wait until the descriptors before it in its WQ are complete */
static DSAStatus coroutine_fn dsa_drain(DSAOp *op)
{
    DSAJob *job = op->job;

    while (!job->aborted && dsa_wq_busy(job->s, job->wq, job->work.seq)) {
        dsa_wait_until(job, pasid_fn_after(DSA_PERIOD_US));
    }
    return job->aborted ? DSA_ABORTED : DSA_SUCCESS;
}

static DSAStatus coroutine_fn dsa_execute(DSAJob *job, const uint8_t *desc,
                                          bool in_batch, uint16_t index);

static DSAStatus coroutine_fn dsa_batch(DSAOp *op)
{
    DSAJob *job = op->job;
    uint64_t list = ldq_le_p(op->desc + 16);
    uint8_t desc[DSA_DESC_SIZE];
    bool failed = false;
    DSAStatus status;

    if (list % DSA_DESC_SIZE) {
        return DSA_BAD_LIST;
    }
    if (op->size < 2 || op->size > 1u << DSA_WQ_MAX_BATCH(job->limits)) {
        return DSA_BAD_COUNT;
    }

    while (op->completed < op->size) {
        status = dsa_access(op, list + (uint64_t)op->completed * DSA_DESC_SIZE,
                            job->data[0], DSA_DESC_SIZE, false, true);
        if (status == DSA_PAGE_FAULT || status == DSA_PAGE_INVALID) {
            return DSA_BATCH_PAGE_FAULT;
        } else if (status != DSA_SUCCESS) {
            return status;
        }
        memcpy(desc, job->data[0], DSA_DESC_SIZE);

        /* Descriptors behind a fence depend on those ahead of it */
        if (failed && (desc[4] & DSA_FENCE)) {
            break;
        }
        status = dsa_execute(job, desc, true, op->completed);
        if (status == DSA_ABORTED) {
            return status;
        }
        failed |= status != DSA_SUCCESS;
        status = dsa_progress(op, 1);
        if (status != DSA_SUCCESS) {
            return status;
        }
    }
    return failed ? DSA_BATCH_FAILED : DSA_SUCCESS;
}

typedef struct DSAOpType {
    uint32_t flags;
    /* Which bytes of the descriptor are not reserved, beside 0 to 15, 36, 37 */
    uint64_t used;
    DSAStatus coroutine_fn (*run)(DSAOp *op);
} DSAOpType;

#define DSA_BYTES(first, last)  MAKE_64BIT_MASK(first, (last) - (first) + 1)

static const DSAOpType dsa_op_types[] = {
    [DSA_NOOP] = { DSA_COMMON_FLAGS, 0, NULL },
    [DSA_BATCH] = {
        DSA_COMMON_FLAGS | DSA_TC1,
        DSA_BYTES(16, 23) | DSA_BYTES(32, 35), dsa_batch
    },
    [DSA_DRAIN] = { DSA_COMMON_FLAGS, 0, dsa_drain },
    [DSA_MEMMOVE] = {
        DSA_COMMON_FLAGS | DSA_WRITE_FLAGS | DSA_BOF | DSA_TC1 | DSA_TC2,
        DSA_BYTES(16, 35), dsa_memmove
    },
    [DSA_FILL] = {
        DSA_COMMON_FLAGS | DSA_WRITE_FLAGS | DSA_BOF | DSA_TC2,
        DSA_BYTES(16, 35), dsa_fill
    },
    [DSA_COMPARE] = {
        DSA_COMMON_FLAGS | DSA_BOF | DSA_CHECK_RESULT | DSA_TC1 | DSA_TC2,
        DSA_BYTES(16, 35) | DSA_BYTES(40, 40), dsa_compare
    },
    [DSA_COMPARE_PATTERN] = {
        DSA_COMMON_FLAGS | DSA_BOF | DSA_CHECK_RESULT | DSA_TC1,
        DSA_BYTES(16, 35) | DSA_BYTES(40, 40), dsa_compare
    },
    [DSA_DUALCAST] = {
        DSA_COMMON_FLAGS | DSA_WRITE_FLAGS | DSA_BOF | DSA_TC1 | DSA_TC2 |
        DSA_TC3,
        DSA_BYTES(16, 35) | DSA_BYTES(40, 47), dsa_dualcast
    },
};

/*
 * The vector of an interrupt handle, or 0. If there are no commands for handles, a
 * handle is the number of a vector.
 */
static uint32_t dsa_vector(DSAOp *op)
{
    DSAJob *job = op->job;
    DSAState *s = job->s;
    uint32_t handle = lduw_le_p(op->desc + 36);
    uint64_t perm;

    if (job->work.ims || handle >= DSA_NUM_VECTORS ||
        (s->int_handles && !(s->handles & 1u << handle))) {
        return 0;
    }
    perm = s->msixperm[handle];
    if (perm & 1u << 2) {
        return handle;              /* Ignore the PASID */
    }
    if ((perm >> 3 & 1) != DSA_WQ_PASID_EN(job->mode) ||
        ((perm >> 3 & 1) && (perm >> 12 & 0xfffff) != job->pasid)) {
        return 0;
    }
    return handle;
}

/* Requests without PASID are privileged */
static bool dsa_may_interrupt(DSAJob *job)
{
    return !DSA_WQ_PASID_EN(job->mode) || DSA_WQ_PRIV(job->mode) ||
           (job->s->gencfg & DSA_GENCFG_USER_INT);
}

static DSAStatus dsa_check(DSAOp *op)
{
    DSAJob *job = op->job;
    const DSAOpType *type = &dsa_op_types[op->opcode];
    uint32_t allowed = type->flags;
    uint32_t i;

    if (!DSA_WQ_BOF(job->mode)) {
        allowed &= ~DSA_BOF;
    }
    if (!dsa_may_interrupt(job)) {
        allowed &= ~DSA_RCI;
    }
    op->bad_flags = op->flags & ~allowed;
    /* A completion record needs an address */
    if ((op->flags & DSA_RCR) && !(op->flags & DSA_CRAV)) {
        op->bad_flags |= DSA_RCR;
    }
    if (op->bad_flags) {
        return DSA_BAD_FLAGS;
    }

    /* Use the PASID and Priv of the WQ, not those of the descriptor */
    if (ldl_le_p(op->desc) & 0x7ff00000) {
        return DSA_BAD_RESERVED;
    }
    for (i = 16; i < DSA_DESC_SIZE; i++) {
        if (i != 36 && i != 37 && op->desc[i] && !(type->used >> i & 1)) {
            return DSA_BAD_RESERVED;
        }
    }
    if ((type->flags & DSA_CHECK_RESULT) && op->desc[40] > 1) {
        return DSA_BAD_RESERVED;
    }

    if ((type->used & DSA_BYTES(32, 35)) && op->opcode != DSA_BATCH &&
        (!op->size || op->size > 1u << DSA_WQ_MAX_XFER(job->limits))) {
        return DSA_BAD_SIZE;
    }
    if ((op->flags & DSA_RCI) && !dsa_vector(op)) {
        return DSA_BAD_INT;
    }
    return DSA_SUCCESS;
}

static void dsa_make_record(DSAOp *op, uint8_t *record)
{
    memset(record, 0, DSA_CR_SIZE);
    record[0] = op->status | (op->fault && op->fault_write ?
                              DSA_STATUS_WRITE : 0);
    record[1] = op->result;
    stl_le_p(record + 4, op->completed);
    stq_le_p(record + 8, op->fault ? op->fault_addr : 0);
    stl_le_p(record + 16, op->bad_flags);
}

/* The first part has the status that software waits for, and comes last */
static DSAStatus coroutine_fn dsa_write_record(DSAOp *op, uint64_t addr)
{
    uint8_t *record = op->job->data[0];
    DSAStatus status;

    dsa_make_record(op, record);
    status = dsa_access(op, addr + 8, record + 8, DSA_CR_SIZE - 8, true, true);
    if (status == DSA_SUCCESS) {
        status = dsa_access(op, addr, record, 8, true, true);
    }
    return status;
}

/* Write an entry of the event log. False: there is no log, or no room. */
static bool coroutine_fn dsa_log(DSAOp *op, const uint64_t *error,
                                 const uint8_t *record)
{
    DSAJob *job = op->job;
    DSAState *s = job->s;
    DSAOp log = {
        .job = job,
        .pasid = DSA_EVL_PASID_EN(s) ? DSA_EVL_PASID(s) : PCI_NO_PASID,
    };
    uint8_t *entry = job->data[1];
    uint32_t next, i;

    if (!(s->gencfg & DSA_GENCFG_EVL)) {
        return false;
    }
    while (s->evl_writer) {
        dsa_wait_until(job, pasid_fn_after(DSA_PERIOD_US));
        if (job->aborted) {
            return true;
        }
    }
    next = (s->evl_tail + 1) % DSA_EVL_ENTRIES(s);
    if (next == s->evl_head) {
        return false;
    }

    memset(entry, 0, DSA_EVL_ENTRY_SIZE);
    for (i = 0; i < 3; i++) {
        stq_le_p(entry + i * 8, error[i]);
    }
    memcpy(entry + 32, record, DSA_CR_SIZE);
    s->evl_writer = job;
    dsa_access(&log, DSA_EVL_BASE(s) + s->evl_tail * DSA_EVL_ENTRY_SIZE, entry,
               DSA_EVL_ENTRY_SIZE, true, false);
    if (job->aborted) {
        return true;
    }
    s->evl_writer = NULL;
    s->evl_tail = next;
    if (!s->evl_pending) {
        s->evl_pending = true;
        if (s->genctrl & DSA_GENCTRL_EVL) {
            dsa_cause(s, DSA_INT_EVL);
        }
    }
    return true;
}

/* Errors that do not fit a completion record go to the event log or SWERR */
static void coroutine_fn dsa_error(DSAOp *op, DSAStatus error, uint64_t addr,
                                   bool is_write, const uint8_t *record)
{
    DSAJob *job = op->job;
    uint64_t q[3];

    q[0] = dsa_swerr_wq(job->wq, error) | 1u << 2;
    q[0] |= op->in_batch ? 1u << 4 : 0;
    q[0] |= is_write ? 1u << 5 : 0;
    q[0] |= DSA_WQ_PRIV(job->mode) << 6;
    q[0] |= (uint64_t)op->opcode << 32;
    if (DSA_WQ_PASID_EN(job->mode)) {
        q[0] |= (uint64_t)job->pasid << 40;
    }
    q[1] = op->batch_index | (uint64_t)op->bad_flags << 32;
    q[2] = addr;
    if (!dsa_log(op, q, record) && !job->aborted) {
        dsa_swerr(job->s, q[0], q[1], q[2]);
    }
}

/* There is no interrupt for errors outside of a completion record */
static DSAStatus coroutine_fn dsa_complete(DSAOp *op)
{
    uint64_t addr = ldq_le_p(op->desc + 8);
    uint8_t record[DSA_CR_SIZE];
    DSAStatus status;
    uint32_t vector;

    trace_dsa_complete(dsa_sid(op->job->s), op->job->wq, op->job->pasid,
                       op->opcode, op->in_batch, op->status, op->completed,
                       op->fault_addr);

    dsa_make_record(op, record);
    if (op->status == DSA_BAD_CR) {
        dsa_error(op, op->status, addr, true, record);
        return op->job->aborted ? DSA_ABORTED : op->status;
    }
    if (op->status != DSA_SUCCESS && !(op->flags & DSA_CRAV)) {
        dsa_error(op, op->status, op->fault_addr, op->fault_write, record);
        return op->job->aborted ? DSA_ABORTED : op->status;
    }
    if (op->status != DSA_SUCCESS || (op->flags & DSA_RCR)) {
        status = dsa_write_record(op, addr);
        if (status == DSA_ABORTED) {
            return status;
        }
        if (status != DSA_SUCCESS) {
            if (status == DSA_PAGE_FAULT || status == DSA_PAGE_INVALID) {
                status = DSA_CR_PAGE_FAULT;
            }
            dsa_error(op, status, addr, true, record);
            return op->job->aborted ? DSA_ABORTED : status;
        }
    }

    vector = op->flags & DSA_RCI ? dsa_vector(op) : 0;
    if (vector && dsa_may_interrupt(op->job)) {
        dsa_interrupt(op->job->s, vector);
    }
    return op->status;
}

static DSAStatus coroutine_fn dsa_execute(DSAJob *job, const uint8_t *desc,
                                          bool in_batch, uint16_t index)
{
    DSAOp op = {
        .job = job,
        .pasid = job->pasid,
        .desc = desc,
        .in_batch = in_batch,
        .batch_index = index,
        .opcode = dsa_opcode(desc),
        .flags = ldl_le_p(desc + 4) & 0xffffff,
        .size = ldl_le_p(desc + 32),
    };

    if ((op.flags & DSA_CRAV) && ldq_le_p(desc + 8) % DSA_CR_SIZE) {
        op.status = DSA_BAD_CR;
    } else if (op.opcode > 63 || !(dsa_opcap >> op.opcode & 1) ||
               (in_batch && (op.opcode == DSA_BATCH ||
                             op.opcode == DSA_DRAIN))) {
        op.status = DSA_BAD_OPCODE;
    } else {
        op.status = dsa_check(&op);
        if (op.status == DSA_SUCCESS && dsa_op_types[op.opcode].run) {
            op.status = dsa_op_types[op.opcode].run(&op);
        }
    }

    return op.status == DSA_ABORTED ? DSA_ABORTED : dsa_complete(&op);
}

static void coroutine_fn dsa_job_run(void *opaque)
{
    DSAJob *job = opaque;
    DSAState *s = job->s;

    if (!job->aborted) {
        dsa_execute(job, job->work.desc, false, 0);
    }
    if (!job->aborted) {
        s->jobs[job->engine] = NULL;
        dsa_kick(s);
        dsa_kick_command(s);
    }
    job->ended = true;
}

/*
 * Work queues
 */

/* The WQ of a group that has work, each in turn and as often as its priority */
static DSAWQ *dsa_next_wq(DSAState *s, uint32_t group)
{
    uint64_t members = s->groups[group].wqs[0];
    uint32_t i;

    for (i = 0; i <= DSA_NUM_WQS; i++) {
        DSAWQ *wq = &s->wqs[s->turn[group]];

        if ((members >> s->turn[group] & 1) && wq->num_queued && wq->credit) {
            wq->credit--;
            return wq;
        }
        s->turn[group] = (s->turn[group] + 1) % DSA_NUM_WQS;
        wq = &s->wqs[s->turn[group]];
        wq->credit = DSA_WQ_PRIORITY(wq->cfg[DSA_WQ_MODE]);
    }
    return NULL;
}

static void dsa_start_job(DSAState *s, uint32_t engine, DSAWQ *wq)
{
    DSAWork *work = QTAILQ_FIRST(&wq->queue);
    DSAJob *job = g_new0(DSAJob, 1);

    QTAILQ_REMOVE(&wq->queue, work, next);
    wq->num_queued--;

    job->requester = (PASIDRequester) {
        .fn = &s->fn,
        .landed = dsa_landed,
        .respond = dsa_respond,
    };
    job->s = s;
    object_ref(OBJECT(s));
    job->engine = engine;
    job->wq = wq - s->wqs;
    job->mode = wq->cfg[DSA_WQ_MODE];
    job->limits = wq->cfg[DSA_WQ_LIMITS];
    job->pasid = dsa_wq_pasid(job->mode);
    job->work = *work;
    g_free(work);
    job->co = qemu_coroutine_create(dsa_job_run, job);
    timer_init_ns(&job->timer, QEMU_CLOCK_VIRTUAL, dsa_job_timer, job);
    s->jobs[engine] = job;
    dsa_job_wake(job);
}

static void dsa_dispatch_timer(void *opaque)
{
    DSAState *s = opaque;
    uint32_t engine, group;

    for (group = 0; group < DSA_NUM_GROUPS; group++) {
        for (engine = 0; engine < DSA_NUM_ENGINES; engine++) {
            DSAWQ *wq;

            if (s->jobs[engine] ||
                !(s->groups[group].engines >> engine & 1)) {
                continue;
            }
            wq = dsa_next_wq(s, group);
            if (!wq) {
                break;
            }
            dsa_start_job(s, engine, wq);
        }
    }
}

static void dsa_submit(DSAState *s, uint32_t portal, const uint8_t *desc)
{
    uint32_t index = portal / DSA_PORTALS;
    DSAWQ *wq = &s->wqs[index];
    DSAWork *work;

    trace_dsa_submit(dsa_sid(s), index, portal % DSA_PORTALS,
                     dsa_opcode(desc), wq->num_queued);

    /* There is no other way to report that a posted write failed */
    if (!wq->enabled || wq->stopping) {
        dsa_swerr(s, dsa_swerr_wq(index, DSA_SUBMIT_DISABLED) |
                  (uint64_t)dsa_opcode(desc) << 32, 0, 0);
        return;
    }
    if (wq->num_queued == dsa_wq_size(wq)) {
        dsa_swerr(s, dsa_swerr_wq(index, DSA_SUBMIT_FULL) |
                  (uint64_t)dsa_opcode(desc) << 32, 0, 0);
        return;
    }

    work = g_new0(DSAWork, 1);
    memcpy(work->desc, desc, DSA_DESC_SIZE);
    work->seq = s->seq++;
    work->ims = portal % DSA_PORTALS >= DSA_PORTAL_IMS;
    QTAILQ_INSERT_TAIL(&wq->queue, work, next);
    wq->num_queued++;
    dsa_kick(s);
}

static uint64_t dsa_portal_read(void *opaque, hwaddr addr, unsigned size)
{
    return UINT64_MAX;
}

/*
 * A 64-byte write arrives in parts, in the order of their addresses. Those of
 * other CPUs may be between them. What does not become 64 bytes is no descriptor.
 */
static void dsa_portal_write(void *opaque, hwaddr addr, uint64_t val,
                             unsigned size)
{
    DSAState *s = opaque;
    int key = current_cpu ? current_cpu->cpu_index : -1;
    DSASlot *slot = g_hash_table_lookup(s->slots, GINT_TO_POINTER(key));
    uint32_t offset = addr % DSA_DESC_SIZE;

    if (!slot) {
        slot = g_new0(DSASlot, 1);
        g_hash_table_insert(s->slots, GINT_TO_POINTER(key), slot);
    }
    if (!offset) {
        slot->addr = addr;
        slot->len = 0;
    }
    if (addr - offset != slot->addr || offset != slot->len ||
        offset + size > DSA_DESC_SIZE) {
        slot->addr = HWADDR_MAX;
        return;
    }

    stn_le_p(slot->data + offset, size, val);
    slot->len += size;
    if (slot->len == DSA_DESC_SIZE) {
        slot->addr = HWADDR_MAX;
        dsa_submit(s, addr / DSA_PAGE_SIZE, slot->data);
    }
}

static const MemoryRegionOps dsa_portal_ops = {
    .read = dsa_portal_read,
    .write = dsa_portal_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {
        .min_access_size = 1,
        .max_access_size = 8,
    },
    .impl = {
        .min_access_size = 1,
        .max_access_size = 8,
    },
};

/*
 * Commands. They are complete a moment after they were written, or when what they
 * wait for has ended.
 */

static DSACommandError dsa_enable_device(DSAState *s)
{
    uint64_t all_wqs = 0, all_engines = 0;
    uint32_t size = 0, buffers = 0;
    uint32_t i;

    if (s->state != DSA_DISABLED) {
        return DSA_CMD_DEVICE_ENABLED;
    }
    if (!pasid_fn_bus_master(&s->fn)) {
        return DSA_CMD_NO_BUS_MASTER;
    }
    if (pasid_fn_pri_without_ats(&s->fn)) {
        return DSA_CMD_BAD_PASID_ATS_PRI;
    }
    if ((s->gencfg & DSA_GENCFG_EVL) &&
        DSA_EVL_ENTRIES(s) < DSA_EVL_MIN_ENTRIES) {
        return DSA_CMD_BAD_CONFIG;
    }
    for (i = 0; i < DSA_NUM_WQS; i++) {
        size += dsa_wq_size(&s->wqs[i]);
    }
    if (size > DSA_TOTAL_WQ_SIZE) {
        return DSA_CMD_WQ_SIZES;
    }

    for (i = 0; i < DSA_NUM_GROUPS; i++) {
        DSAGroupConfig *group = &s->groups[i];
        uint32_t reserved = group->flags >> 8 & 0xff;

        if (group->wqs[0] >> DSA_NUM_WQS || group->wqs[1] || group->wqs[2] ||
            group->wqs[3] || group->engines >> DSA_NUM_ENGINES) {
            return DSA_CMD_GROUP_RANGE;
        }
        if ((group->wqs[0] & all_wqs) || (group->engines & all_engines)) {
            return DSA_CMD_GROUP_TWICE;
        }
        if (group->wqs[0] && !group->engines) {
            return DSA_CMD_GROUP_MEMBERS;
        }
        all_wqs |= group->wqs[0];
        all_engines |= group->engines;
        buffers += reserved;
        if (buffers > DSA_READ_BUFFERS ||
            (group->wqs[0] && (group->flags >> 20 & 0xff) < reserved)) {
            return DSA_CMD_GROUP_BUFFERS;
        }
    }
    for (i = 0; i < DSA_NUM_WQS; i++) {
        if (dsa_wq_size(&s->wqs[i]) && !(all_wqs >> i & 1)) {
            return DSA_CMD_GROUP_MEMBERS;
        }
    }

    s->state = DSA_ENABLED;
    s->evl_head = 0;
    s->evl_tail = 0;
    s->evl_pending = false;
    return DSA_CMD_OK;
}

static DSACommandError dsa_enable_wq(DSAState *s, uint32_t index)
{
    uint32_t mode, limits;
    DSAWQ *wq;

    if (index >= DSA_NUM_WQS) {
        return DSA_CMD_BAD_WQ;
    }
    wq = &s->wqs[index];
    mode = wq->cfg[DSA_WQ_MODE];
    limits = wq->cfg[DSA_WQ_LIMITS];

    if (s->state != DSA_ENABLED) {
        return DSA_CMD_DEVICE_DISABLED;
    }
    if (wq->enabled) {
        return DSA_CMD_WQ_ENABLED;
    }
    if (!dsa_wq_size(wq)) {
        return DSA_CMD_WQ_SIZE;
    }
    if (!DSA_WQ_PRIORITY(mode)) {
        return DSA_CMD_WQ_PRIORITY;
    }
    if (!DSA_WQ_DEDICATED(mode)) {
        return DSA_CMD_WQ_MODE;
    }
    if (DSA_WQ_BOF(mode) && DSA_WQ_NO_PRS(mode)) {
        return DSA_CMD_WQ_BOF;
    }
    if (DSA_WQ_PASID_EN(mode) &&
        (!pasid_fn_pasid_enabled(&s->fn) ||
         (DSA_WQ_PRIV(mode) && !pasid_fn_privileged_enabled(&s->fn)))) {
        return DSA_CMD_WQ_PASID;
    }
    if (DSA_WQ_MAX_BATCH(limits) > DSA_MAX_BATCH_SHIFT) {
        return DSA_CMD_WQ_BATCH;
    }
    if (DSA_WQ_MAX_XFER(limits) > s->max_xfer_shift) {
        return DSA_CMD_WQ_XFER;
    }

    wq->enabled = true;
    wq->credit = DSA_WQ_PRIORITY(mode);
    return DSA_CMD_OK;
}

/* The size of a WQ can only change while the device is disabled */
static void dsa_reset_wq(DSAWQ *wq)
{
    memset(&wq->cfg[DSA_WQ_SIZE + 1], 0, sizeof(wq->cfg) - sizeof(wq->cfg[0]));
}

/* Software gets its interrupt handles from the next FLR on anew */
static void dsa_reset_config(DSAState *s)
{
    uint32_t i;

    s->state = DSA_DISABLED;
    s->gencfg = 0;
    s->genctrl = 0;
    s->intcause = 0;
    memset(s->swerr, 0, sizeof(s->swerr));
    memset(s->evlcfg, 0, sizeof(s->evlcfg));
    s->evl_head = 0;
    s->evl_tail = 0;
    s->evl_pending = false;
    memset(s->groups, 0, sizeof(s->groups));
    memset(s->msixperm, 0, sizeof(s->msixperm));
    for (i = 0; i < DSA_NUM_WQS; i++) {
        memset(s->wqs[i].cfg, 0, sizeof(s->wqs[i].cfg));
        s->wqs[i].enabled = false;
        s->wqs[i].stopping = false;
    }
}

static DSACommandError dsa_interrupt_handle(DSAState *s, bool request,
                                            uint32_t operand, uint32_t *result)
{
    uint32_t index = operand & 0xffff;

    if (!s->int_handles) {
        return DSA_CMD_BAD_CODE;
    }
    if (operand >> 16 || !index || index >= DSA_NUM_VECTORS ||
        (!request && !(s->handles & 1u << index))) {
        return DSA_CMD_BAD_INT;
    }
    if (request) {
        s->handles |= 1u << index;
        *result = index;
    } else {
        s->handles &= ~(1u << index);
    }
    return DSA_CMD_OK;
}

/* The WQs that a command is for, as a mask */
static uint32_t dsa_command_wqs(DSAState *s)
{
    uint32_t operand = DSA_CMD_OPERAND(s->cmd);
    uint32_t i, wqs = 0;

    switch (DSA_CMD_CODE(s->cmd)) {
    case DSA_CMD_DISABLE_DEVICE:
    case DSA_CMD_DRAIN_ALL:
    case DSA_CMD_ABORT_ALL:
    case DSA_CMD_RESET_DEVICE:
        return MAKE_64BIT_MASK(0, DSA_NUM_WQS);
    case DSA_CMD_DISABLE_WQ:
    case DSA_CMD_DRAIN_WQ:
    case DSA_CMD_ABORT_WQ:
    case DSA_CMD_RESET_WQ:
        return operand;
    case DSA_CMD_DRAIN_PASID:
    case DSA_CMD_ABORT_PASID:
        for (i = 0; i < DSA_NUM_WQS; i++) {
            if (s->wqs[i].enabled &&
                dsa_wq_pasid(s->wqs[i].cfg[DSA_WQ_MODE]) == operand) {
                wqs |= 1u << i;
            }
        }
        return wqs;
    default:
        return 0;
    }
}

/* The part of a command that takes effect at once, or is rejected */
static DSACommandError dsa_begin_command(DSAState *s, uint32_t *result)
{
    uint32_t code = DSA_CMD_CODE(s->cmd);
    uint32_t operand = DSA_CMD_OPERAND(s->cmd);
    uint32_t wqs, i;

    if (s->state == DSA_HALTED) {
        return DSA_CMD_HW_ERROR;
    }
    switch (code) {
    case DSA_CMD_ENABLE_DEVICE:
        return dsa_enable_device(s);
    case DSA_CMD_ENABLE_WQ:
        return dsa_enable_wq(s, operand);
    case DSA_CMD_REQUEST_INT:
    case DSA_CMD_RELEASE_INT:
        return dsa_interrupt_handle(s, code == DSA_CMD_REQUEST_INT, operand,
                                    result);
    case DSA_CMD_DISABLE_DEVICE:
    case DSA_CMD_DRAIN_ALL:
    case DSA_CMD_ABORT_ALL:
        if (s->state != DSA_ENABLED) {
            return DSA_CMD_DEVICE_NOT_ENABLED;
        }
        break;
    case DSA_CMD_DISABLE_WQ:
    case DSA_CMD_DRAIN_WQ:
    case DSA_CMD_ABORT_WQ:
    case DSA_CMD_RESET_WQ:
        /* Bits 19:16 select a block of 16 WQs, but there are fewer than 16 */
        if (!operand || operand >> DSA_NUM_WQS) {
            return DSA_CMD_BAD_WQ;
        }
        for (i = 0; i < DSA_NUM_WQS; i++) {
            if ((operand >> i & 1) && !s->wqs[i].enabled) {
                return DSA_CMD_WQ_NOT_ENABLED;
            }
        }
        break;
    case DSA_CMD_RESET_DEVICE:
    case DSA_CMD_DRAIN_PASID:
    case DSA_CMD_ABORT_PASID:
        break;
    default:
        return DSA_CMD_BAD_CODE;
    }

    wqs = dsa_command_wqs(s);
    for (i = 0; i < DSA_NUM_WQS; i++) {
        if (!(wqs >> i & 1)) {
            continue;
        }
        if (code == DSA_CMD_DISABLE_DEVICE || code == DSA_CMD_RESET_DEVICE ||
            code == DSA_CMD_DISABLE_WQ || code == DSA_CMD_RESET_WQ) {
            s->wqs[i].stopping = true;
        }
        if (code == DSA_CMD_ABORT_ALL || code == DSA_CMD_RESET_DEVICE ||
            code == DSA_CMD_ABORT_WQ || code == DSA_CMD_RESET_WQ ||
            code == DSA_CMD_ABORT_PASID) {
            dsa_abort_wq(s, i);
        }
    }
    if (code == DSA_CMD_DISABLE_DEVICE) {
        s->state = DSA_DRAINING;
    }
    return DSA_CMD_OK;
}

/* Everything that the command waits for has ended */
static void dsa_end_command(DSAState *s)
{
    uint32_t code = DSA_CMD_CODE(s->cmd);
    uint32_t wqs = dsa_command_wqs(s);
    uint32_t i;

    for (i = 0; i < DSA_NUM_WQS; i++) {
        if ((wqs >> i & 1) && s->wqs[i].stopping) {
            s->wqs[i].enabled = false;
            s->wqs[i].stopping = false;
            if (code == DSA_CMD_RESET_WQ) {
                dsa_reset_wq(&s->wqs[i]);
            }
        }
    }
    if (code == DSA_CMD_DISABLE_DEVICE) {
        s->state = DSA_DISABLED;
    } else if (code == DSA_CMD_RESET_DEVICE) {
        dsa_reset_config(s);
    }
}

static void dsa_finish_command(DSAState *s, DSACommandError error,
                               uint32_t result)
{
    trace_dsa_command(dsa_sid(s), s->cmd, error, result);
    timer_del(&s->cmd_timer);
    s->cmdsts = error | result << 8;
    if (s->cmd & DSA_CMD_INT) {
        dsa_cause(s, DSA_INT_CMD);
    }
}

static void dsa_cmd_timer(void *opaque)
{
    DSAState *s = opaque;
    uint32_t wqs = dsa_command_wqs(s);
    uint32_t i;

    if (s->state == DSA_HALTED) {
        dsa_finish_command(s, DSA_CMD_HW_ERROR, 0);
        return;
    }
    for (i = 0; i < DSA_NUM_WQS; i++) {
        if ((wqs >> i & 1) && dsa_wq_busy(s, i, s->cmd_seq)) {
            return;             /* Called again at the end of a job */
        }
    }
    dsa_end_command(s);
    dsa_finish_command(s, s->cmdsts & 0xff, s->cmdsts >> 8 & 0xffff);
}

static void dsa_command(DSAState *s, uint32_t cmd)
{
    DSACommandError error;
    uint32_t result = 0;

    if (s->cmdsts & DSA_CMDSTS_ACTIVE) {
        dsa_swerr(s, DSA_CMD_BUSY << 8, 0, 0);
        return;
    }

    s->cmd = cmd;
    s->cmd_seq = s->seq;
    error = dsa_begin_command(s, &result);
    if (error != DSA_CMD_OK) {
        /* Nothing to wait for, and nothing to do at the end */
        s->cmd &= DSA_CMD_INT;
    }
    s->cmdsts = DSA_CMDSTS_ACTIVE | error | result << 8;
    dsa_kick_command(s);
}

/*
 * Registers
 */

static uint32_t dsa_read_wqcfg(DSAState *s, uint32_t offset)
{
    DSAWQ *wq = &s->wqs[offset / DSA_WQCFG_SIZE];
    uint32_t dword = offset % DSA_WQCFG_SIZE / 4;

    if (dword == DSA_WQ_STATE) {
        return wq->num_queued | (uint32_t)wq->enabled << 30;
    }
    return wq->cfg[dword];
}

static void dsa_write_wqcfg(DSAState *s, uint32_t offset, uint32_t val)
{
    DSAWQ *wq = &s->wqs[offset / DSA_WQCFG_SIZE];
    uint32_t dword = offset % DSA_WQCFG_SIZE / 4;

    if (wq->enabled || (dword == DSA_WQ_SIZE && s->state != DSA_DISABLED)) {
        return;
    }
    wq->cfg[dword] = val & dsa_wqcfg_mask[dword];
}

static uint64_t dsa_read_qword(DSAState *s, hwaddr addr)
{
    switch (addr) {
    case DSA_REG_VERSION:
        return DSA_VERSION;
    case DSA_REG_GENCAP:
        return 1u << 0 |                        /* Block on fault */
               1u << 1 |                        /* Overlapping copy */
               1u << 2 |                        /* Cache control */
               1u << 4 |                        /* CMDCAP */
               s->max_xfer_shift << 16 | DSA_MAX_BATCH_SHIFT << 21 |
               (s->evl ? 1u << 13 : 0) |        /* Event log */
               1u << 31;                        /* Configurable */
    case DSA_REG_WQCAP:
        return DSA_TOTAL_WQ_SIZE | DSA_NUM_WQS << 16 |
               1ull << 49 |                     /* Dedicated mode */
               1ull << 50 |                     /* ATS for each WQ */
               1ull << 51 |                     /* Priority */
               1ull << 52 |                     /* Occupancy */
               1ull << 55;                      /* PRS for each WQ */
    case DSA_REG_GRPCAP:
        return DSA_NUM_GROUPS | DSA_READ_BUFFERS << 8 |
               1u << 16 | 1u << 17;             /* Can be limited */
    case DSA_REG_ENGCAP:
        return DSA_NUM_ENGINES;
    case DSA_REG_OPCAP:
        return dsa_opcap;
    case DSA_REG_OFFSETS:
        return DSA_GRPCFG / DSA_TABLE_UNIT |
               DSA_WQCFG / DSA_TABLE_UNIT << 16 |
               (uint64_t)DSA_MSIXPERM / DSA_TABLE_UNIT << 32;
    case DSA_REG_GENCFG:
        return s->gencfg;
    case DSA_REG_GENCTRL:
        return s->genctrl;
    case DSA_REG_GENSTS:
        return s->state | (s->state == DSA_HALTED ? DSA_RESET_FLR << 2 : 0);
    case DSA_REG_INTCAUSE:
        return s->intcause;
    case DSA_REG_CMDSTS:
        return s->cmdsts & DSA_CMDSTS_ACTIVE ? DSA_CMDSTS_ACTIVE : s->cmdsts;
    case DSA_REG_CMDCAP:
        return MAKE_64BIT_MASK(DSA_CMD_ENABLE_DEVICE,
                               (s->int_handles ? DSA_CMD_END :
                                DSA_CMD_REQUEST_INT) - DSA_CMD_ENABLE_DEVICE);
    case DSA_REG_SWERR ... DSA_REG_SWERR + 8 * DSA_SWERR_QWORDS - 1:
        return s->swerr[(addr - DSA_REG_SWERR) / 8];
    case DSA_REG_EVLCFG ... DSA_REG_EVLCFG + 15:
        return s->evlcfg[(addr - DSA_REG_EVLCFG) / 8];
    case DSA_REG_EVLSTATUS:
        return s->evl_head | (uint64_t)s->evl_tail << 32 |
               (s->evl_pending ? (uint64_t)DSA_EVL_PENDING << 32 : 0);
    case DSA_GRPCFG ... DSA_GRPCFG + DSA_NUM_GROUPS * DSA_GRPCFG_SIZE - 1:
        addr -= DSA_GRPCFG;
        return s->groups[addr / DSA_GRPCFG_SIZE].
               qwords[addr % DSA_GRPCFG_SIZE / 8];
    case DSA_WQCFG ... DSA_WQCFG + DSA_NUM_WQS * DSA_WQCFG_SIZE - 1:
        addr -= DSA_WQCFG;
        return dsa_read_wqcfg(s, addr) |
               (uint64_t)dsa_read_wqcfg(s, addr + 4) << 32;
    case DSA_MSIXPERM ...
         DSA_MSIXPERM + DSA_NUM_VECTORS * DSA_MSIXPERM_SIZE - 1:
        return s->msixperm[(addr - DSA_MSIXPERM) / DSA_MSIXPERM_SIZE];
    default:
        return 0;
    }
}

static uint64_t dsa_mmio_read(void *opaque, hwaddr addr, unsigned size)
{
    DSAState *s = opaque;

    pasid_fn_push_writes(&s->fn);
    return extract64(dsa_read_qword(s, addr & ~(hwaddr)7), (addr & 4) * 8, 32);
}

static void dsa_write_group(DSAState *s, uint32_t offset, uint32_t val)
{
    DSAGroupConfig *group = &s->groups[offset / DSA_GRPCFG_SIZE];
    uint64_t *qword = &group->qwords[offset % DSA_GRPCFG_SIZE / 8];

    if (s->state == DSA_DISABLED && qword < group->reserved) {
        *qword = deposit64(*qword, (offset & 4) * 8, 32, val);
    }
}

static void dsa_mmio_write(void *opaque, hwaddr addr, uint64_t val,
                           unsigned size)
{
    DSAState *s = opaque;

    switch (addr) {
    case DSA_REG_GENCFG:
        if (s->state == DSA_DISABLED) {
            s->gencfg = val & (DSA_GENCFG_MASK |
                               (s->evl ? DSA_GENCFG_EVL : 0));
        }
        break;
    case DSA_REG_GENCTRL:
        s->genctrl = val & (DSA_GENCTRL_MASK | (s->evl ? DSA_GENCTRL_EVL : 0));
        break;
    case DSA_REG_INTCAUSE:
        s->intcause &= ~val;
        break;
    case DSA_REG_CMD:
        dsa_command(s, val);
        break;
    case DSA_REG_SWERR:
        s->swerr[0] &= ~(val & (DSA_SWERR_VALID | DSA_SWERR_OVERFLOW));
        break;
    case DSA_REG_EVLCFG ... DSA_REG_EVLCFG + 15:
        if (s->evl && s->state == DSA_DISABLED) {
            uint64_t *qword = &s->evlcfg[(addr - DSA_REG_EVLCFG) / 8];

            *qword = deposit64(*qword, (addr & 4) * 8, 32, val);
        }
        break;
    case DSA_REG_EVLSTATUS:
        s->evl_head = val & 0xffff;
        break;
    case DSA_REG_EVLSTATUS + 4:
        if (val & DSA_EVL_PENDING) {
            s->evl_pending = false;
        }
        break;
    case DSA_GRPCFG ... DSA_GRPCFG + DSA_NUM_GROUPS * DSA_GRPCFG_SIZE - 1:
        dsa_write_group(s, addr - DSA_GRPCFG, val);
        break;
    case DSA_WQCFG ... DSA_WQCFG + DSA_NUM_WQS * DSA_WQCFG_SIZE - 1:
        dsa_write_wqcfg(s, addr - DSA_WQCFG, val);
        break;
    case DSA_MSIXPERM ...
         DSA_MSIXPERM + DSA_NUM_VECTORS * DSA_MSIXPERM_SIZE - 1:
        addr -= DSA_MSIXPERM;
        if (addr % DSA_MSIXPERM_SIZE == 0) {
            s->msixperm[addr / DSA_MSIXPERM_SIZE] = val & 0xfffff00c;
        }
        break;
    }
}

static const MemoryRegionOps dsa_mmio_ops = {
    .read = dsa_mmio_read,
    .write = dsa_mmio_write,
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

static void dsa_abort_all(DSAState *s)
{
    uint32_t i;

    for (i = 0; i < DSA_NUM_WQS; i++) {
        dsa_abort_wq(s, i);
    }
    timer_del(&s->dispatch_timer);
    timer_del(&s->cmd_timer);
}

static void dsa_reset_hold(Object *obj, ResetType type)
{
    DSAState *s = DSA(obj);

    dsa_abort_all(s);
    pasid_fn_quiesce(&s->fn);
    dsa_reset_config(s);
    s->handles = 0;
    s->cmd = 0;
    s->cmdsts = 0;
    g_hash_table_remove_all(s->slots);
    msix_reset(PCI_DEVICE(s));
    pasid_fn_reset(&s->fn);
}

static void dsa_config_write(PCIDevice *pdev, uint32_t addr, uint32_t val,
                             int len)
{
    DSAState *s = DSA(pdev);

    pasid_fn_write_config(&s->fn, addr, val, len);
    if ((s->state == DSA_ENABLED || s->state == DSA_DRAINING) &&
        !pasid_fn_bus_master(&s->fn)) {
        dsa_halt(s);
    }
}

static void dsa_realize(PCIDevice *pdev, Error **errp)
{
    DSAState *s = DSA(pdev);
    uint32_t i;

    if (s->max_xfer_shift < DSA_MIN_XFER_SHIFT ||
        s->max_xfer_shift > DSA_MAX_XFER_SHIFT) {
        error_setg(errp, "max-transfer-shift must be from %d to %d",
                   DSA_MIN_XFER_SHIFT, DSA_MAX_XFER_SHIFT);
        return;
    }
    s->fn.privileged = true;
    s->fn.failed = dsa_failed;
    if (!pasid_fn_realize(&s->fn, pdev, errp)) {
        return;
    }

    memory_region_init_io(&s->bar0, OBJECT(s), &dsa_mmio_ops, s, "dsa",
                          DSA_BAR0_SIZE);
    memory_region_init_io(&s->bar2, OBJECT(s), &dsa_portal_ops, s,
                          "dsa-portals", DSA_BAR2_SIZE);
    pci_register_bar(pdev, 0, PCI_BASE_ADDRESS_SPACE_MEMORY |
                     PCI_BASE_ADDRESS_MEM_TYPE_64, &s->bar0);
    pci_register_bar(pdev, 2, PCI_BASE_ADDRESS_SPACE_MEMORY |
                     PCI_BASE_ADDRESS_MEM_TYPE_64, &s->bar2);
    if (msix_init(pdev, DSA_NUM_VECTORS, &s->bar0, 0, DSA_MSIX_TABLE,
                  &s->bar0, 0, DSA_MSIX_PBA, 0, errp) < 0) {
        pasid_fn_exit(&s->fn);
        return;
    }
    for (i = 0; i < DSA_NUM_VECTORS; i++) {
        msix_vector_use(pdev, i);
    }

    s->slots = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    for (i = 0; i < DSA_NUM_WQS; i++) {
        QTAILQ_INIT(&s->wqs[i].queue);
    }
    timer_init_ns(&s->cmd_timer, QEMU_CLOCK_VIRTUAL, dsa_cmd_timer, s);
    timer_init_ns(&s->dispatch_timer, QEMU_CLOCK_VIRTUAL, dsa_dispatch_timer,
                  s);
}

static void dsa_exit(PCIDevice *pdev)
{
    DSAState *s = DSA(pdev);

    dsa_abort_all(s);
    timer_del(&s->dispatch_timer);
    msix_uninit(pdev, &s->bar0, &s->bar0);
    pasid_fn_exit(&s->fn);
    g_hash_table_destroy(s->slots);
}

static void dsa_instance_init(Object *obj)
{
    pasid_fn_instance_init(&DSA(obj)->fn, obj);
}

static const Property dsa_properties[] = {
    DEFINE_PROP_BOOL("ats", DSAState, fn.ats, true),
    DEFINE_PROP_BOOL("pri", DSAState, fn.pri, true),
    DEFINE_PROP_BOOL("evl", DSAState, evl, false),
    DEFINE_PROP_BOOL("int-handles", DSAState, int_handles, true),
    DEFINE_PROP_UINT8("max-transfer-shift", DSAState, max_xfer_shift,
                      DSA_MAX_XFER_SHIFT),
    DEFINE_PROP_UINT8("ats-depth", DSAState, fn.ats_depth, 0),
};

static const VMStateDescription dsa_vmstate = {
    .name = TYPE_DSA,
    .unmigratable = 1,
};

static void dsa_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);

    pc->realize = dsa_realize;
    pc->exit = dsa_exit;
    pc->config_write = dsa_config_write;
    pc->vendor_id = PCI_VENDOR_ID_INTEL;
    pc->device_id = DSA_DEVICE_ID;
    pc->class_id = PCI_CLASS_SYSTEM_OTHER;
    rc->phases.hold = dsa_reset_hold;
    dc->desc = "Intel Data Streaming Accelerator";
    dc->vmsd = &dsa_vmstate;
    device_class_set_props(dc, dsa_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo dsa_info = {
    .name = TYPE_DSA,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(DSAState),
    .instance_init = dsa_instance_init,
    .class_init = dsa_class_init,
    .interfaces = (InterfaceInfo[]) {
        { INTERFACE_PCIE_DEVICE },
        { }
    },
};

static void dsa_register_types(void)
{
    type_register_static(&dsa_info);
}

type_init(dsa_register_types)

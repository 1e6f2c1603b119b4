/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Trace events for the life cycle of an IOASID
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ioasid

#if !defined(_TRACE_IOASID_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_IOASID_H

#include <linux/device.h>
#include <linux/tracepoint.h>

/* @refs: snapshot of the count; may already include concurrent changes */
TRACE_EVENT(ioasid_get,
	TP_PROTO(struct ioasid *ioasid),
	TP_ARGS(ioasid),
	TP_STRUCT__entry(
		__field(u32, id)
		__field(unsigned int, refs)
	),
	TP_fast_assign(
		__entry->id = ioasid->id;
		__entry->refs = refcount_read(&ioasid->refs);
	),
	TP_printk("id=%u refs=%u", __entry->id, __entry->refs)
);

/* @refs: references after the put; 0 if this was the last one */
TRACE_EVENT(ioasid_put,
	TP_PROTO(u32 id, unsigned int refs),
	TP_ARGS(id, refs),
	TP_STRUCT__entry(
		__field(u32, id)
		__field(unsigned int, refs)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->refs = refs;
	),
	TP_printk("id=%u refs=%u", __entry->id, __entry->refs)
);

DECLARE_EVENT_CLASS(ioasid_step,
	TP_PROTO(u32 id),
	TP_ARGS(id),
	TP_STRUCT__entry(
		__field(u32, id)
	),
	TP_fast_assign(
		__entry->id = id;
	),
	TP_printk("id=%u", __entry->id)
);

/* The IOASID was published */
DEFINE_EVENT(ioasid_step, ioasid_alloc,
	TP_PROTO(u32 id),
	TP_ARGS(id)
);

/* The state became PARKED: no new references or attachments from here on */
DEFINE_EVENT(ioasid_step, ioasid_park,
	TP_PROTO(u32 id),
	TP_ARGS(id)
);

/* The caches were flushed: no DMA can reach memory from here on */
DEFINE_EVENT(ioasid_step, ioasid_block,
	TP_PROTO(u32 id),
	TP_ARGS(id)
);

/* The entries were unparked: the PASID is about to be released */
DEFINE_EVENT(ioasid_step, ioasid_recycle,
	TP_PROTO(u32 id),
	TP_ARGS(id)
);

DECLARE_EVENT_CLASS(ioasid_device,
	TP_PROTO(u32 id, struct device *dev),
	TP_ARGS(id, dev),
	TP_STRUCT__entry(
		__field(u32, id)
		__string(dev, dev_name(dev))
	),
	TP_fast_assign(
		__entry->id = id;
		__assign_str(dev);
	),
	TP_printk("id=%u dev=%s", __entry->id, __get_str(dev))
);

DEFINE_EVENT(ioasid_device, ioasid_attach,
	TP_PROTO(u32 id, struct device *dev),
	TP_ARGS(id, dev)
);

DEFINE_EVENT(ioasid_device, ioasid_detach,
	TP_PROTO(u32 id, struct device *dev),
	TP_ARGS(id, dev)
);

#endif /* _TRACE_IOASID_H */

#include <trace/define_trace.h>

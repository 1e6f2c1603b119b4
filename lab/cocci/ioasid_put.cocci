// SPDX-License-Identifier: GPL-2.0-only
/// Find uses of an IOASID after its reference was dropped, when the number may
/// be that of somebody else, and references that are dropped on an error path
/// before the IOASID is detached: its number is lost then.
///
// Confidence: Moderate
// Options: --no-includes --include-headers

virtual context
virtual org
virtual report

// A lookup takes the only reference that the caller has
@used exists@
identifier x;
expression e, y;
position put, use;
@@

 x = ioasid_tryget(...)
 ... when != x = e
     when != y = x
     when != \(ioasid_get\|ioasid_user_get\)(x, ...)
 ioasid_put@put(x);
 ... when != x = e
     when != y = &x
(
 x = e
|
* x@use
)

@used_ref exists@
identifier r;
expression list es;
position put, use;
@@

 ioasid_user_put@put(&r);
 ... when != \(ioasid_fd_get\|ioasid_user_get\)(es, &r)
(
 \(ioasid_fd_get\|ioasid_user_get\)(es, &r)
|
* r@use
)

@attached exists@
identifier x;
expression ret, e1, e2;
position put, attach;
@@

 ret = ioasid_attach_device@attach(x, ...);
 ... when != true ret
     when != ret = e1
     when != ioasid_detach_device(x, ...)
 ret = e2
 ... when any
     when != ioasid_detach_device(x, ...)
* ioasid_put@put(x);

@attached_ref exists@
expression r, ret, e1, e2;
position put, attach;
@@

 ret = ioasid_attach_device@attach(r.ioasid, ...);
 ... when != true ret
     when != ret = e1
     when != ioasid_detach_device(r.ioasid, ...)
 ret = e2
 ... when any
     when != ioasid_detach_device(r.ioasid, ...)
* ioasid_user_put@put(&r);

@script:python depends on report@
put << used.put;
use << used.use;
@@

coccilib.report.print_report(use[0], "ERROR: used after its reference was dropped in line %s" % put[0].line)

@script:python depends on report@
put << used_ref.put;
use << used_ref.use;
@@

coccilib.report.print_report(use[0], "ERROR: used after its reference was dropped in line %s" % put[0].line)

@script:python depends on report@
attach << attached.attach;
put << attached.put;
@@

coccilib.report.print_report(put[0], "ERROR: drops the reference of what is attached since line %s" % attach[0].line)

@script:python depends on report@
attach << attached_ref.attach;
put << attached_ref.put;
@@

coccilib.report.print_report(put[0], "ERROR: drops the reference of what is attached since line %s" % attach[0].line)

@script:python depends on org@
put << used.put;
use << used.use;
@@

cocci.print_main("used without a reference", use)
cocci.print_secs("dropped here", put)

@script:python depends on org@
put << used_ref.put;
use << used_ref.use;
@@

cocci.print_main("used without a reference", use)
cocci.print_secs("dropped here", put)

@script:python depends on org@
attach << attached.attach;
put << attached.put;
@@

cocci.print_main("dropped while attached", put)
cocci.print_secs("attached here", attach)

@script:python depends on org@
attach << attached_ref.attach;
put << attached_ref.put;
@@

cocci.print_main("dropped while attached", put)
cocci.print_secs("attached here", attach)

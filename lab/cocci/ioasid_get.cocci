// SPDX-License-Identifier: GPL-2.0-only
/// A function that takes a reference to an IOASID, fails later, and returns
/// without having dropped it: the PASID stays parked for good, its number and
/// its quota are lost.
///
// Confidence: High
// Options: --no-includes --include-headers

virtual context
virtual org
virtual report

// In a local variable, not stored elsewhere, not handed on
@leak exists@
identifier x;
expression e, y;
statement S;
// What takes an IOASID and leaves the reference to its caller
identifier f != {ioasid_id, ioasid_is_active, ioasid_attach_device, ioasid_detach_device, IS_ERR, PTR_ERR};
position get, end;
@@

(
 x = \(ioasid_tryget@get\|ioasid_get@get\)(...);
|
 struct ioasid *x = \(ioasid_tryget@get\|ioasid_get@get\)(...);
|
 ioasid_get@get(x, ...);
)
 ... when any
     when != true IS_ERR(x)
     when != f(..., x, ...)
     when != y = x
(
 if (IS_ERR(x)) S
|
 if (e) {
 ... when any
     when != f(..., x, ...)
     when != y = x
(
 return <+... x ...+>;
|
* return@end ...;
)
 }
)

// In a local struct ioasid_ref, neither copied nor handed on
@leak_ref exists@
identifier r, f;
expression ret, e1, y;
expression list es;
statement S;
position get, end;
@@

(
 ret = ioasid_fd_get@get(es, &r);
 if (ret) S
|
 ioasid_user_get@get(es, &r);
)
 ... when any
     when != f(..., &r, ...)
     when != y = r
 if (e1) {
 ... when any
     when != f(..., &r, ...)
     when != y = r
* return@end ...;
 }

// In an object that is freed
@lost exists@
identifier m, fld, f;
expression ret, y;
expression list es;
statement S;
position get, end;
@@

(
 ret = ioasid_fd_get@get(es, &m->fld);
 if (ret) S
|
 ioasid_user_get@get(es, &m->fld);
)
 ... when any
     when != f(..., &m->fld, ...)
     when != y = m->fld
* kfree@end(m);

@script:python depends on report@
get << leak.get;
end << leak.end;
@@

coccilib.report.print_report(end[0], "ERROR: returns with the reference that was taken in line %s" % get[0].line)

@script:python depends on report@
get << leak_ref.get;
end << leak_ref.end;
@@

coccilib.report.print_report(end[0], "ERROR: returns with the reference that was taken in line %s" % get[0].line)

@script:python depends on report@
get << lost.get;
end << lost.end;
@@

coccilib.report.print_report(end[0], "ERROR: frees the reference that was taken in line %s" % get[0].line)

@script:python depends on org@
get << leak.get;
end << leak.end;
@@

cocci.print_main("returns with a reference", end)
cocci.print_secs("taken here", get)

@script:python depends on org@
get << leak_ref.get;
end << leak_ref.end;
@@

cocci.print_main("returns with a reference", end)
cocci.print_secs("taken here", get)

@script:python depends on org@
get << lost.get;
end << lost.end;
@@

cocci.print_main("frees a reference", end)
cocci.print_secs("taken here", get)

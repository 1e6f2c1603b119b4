// SPDX-License-Identifier: GPL-2.0-only
/// Find calls that park, attach, detach or allocate IOASIDs, all of which
/// sleep, under a spinlock or in an RCU read-side critical section. What may be
/// called there is ioasid_get(), ioasid_tryget() and ioasid_put().
///
// Confidence: High
// Options: --no-includes --include-headers

virtual context
virtual org
virtual report

@locked exists@
expression l;
position lock, call;
@@

(
 \(spin_lock@lock\|spin_lock_bh@lock\|spin_lock_irq@lock\|raw_spin_lock@lock\|raw_spin_lock_irq@lock\)(l);
|
 \(spin_lock_irqsave@lock\|raw_spin_lock_irqsave@lock\)(l, ...);
)
 ... when != \(spin_unlock\|spin_unlock_bh\|spin_unlock_irq\|raw_spin_unlock\|raw_spin_unlock_irq\)(l)
     when != \(spin_unlock_irqrestore\|raw_spin_unlock_irqrestore\)(l, ...)
* \(ioasid_free@call\|ioasid_alloc@call\|ioasid_attach_device@call\|ioasid_detach_device@call\|ioasid_fd_get@call\|ioasid_user_get@call\|ioasid_set_get_mm@call\)(...)

@rcu exists@
position lock, call;
@@

 rcu_read_lock@lock();
 ... when != rcu_read_unlock()
* \(ioasid_free@call\|ioasid_alloc@call\|ioasid_attach_device@call\|ioasid_detach_device@call\|ioasid_fd_get@call\|ioasid_user_get@call\|ioasid_set_get_mm@call\)(...)

@guarded exists@
identifier k =~ "^(raw_)?(spinlock|rcu)";
position lock, call;
@@

 guard@lock(k)(...);
 ... when any
* \(ioasid_free@call\|ioasid_alloc@call\|ioasid_attach_device@call\|ioasid_detach_device@call\|ioasid_fd_get@call\|ioasid_user_get@call\|ioasid_set_get_mm@call\)(...)

@scoped exists@
iterator name scoped_guard;
identifier k =~ "^(raw_)?(spinlock|rcu)";
position lock, call;
@@

 scoped_guard(k@lock, ...) {
 <+...
* \(ioasid_free@call\|ioasid_alloc@call\|ioasid_attach_device@call\|ioasid_detach_device@call\|ioasid_fd_get@call\|ioasid_user_get@call\|ioasid_set_get_mm@call\)(...)
 ...+>
 }

@script:python depends on report@
lock << locked.lock;
call << locked.call;
@@

coccilib.report.print_report(call[0], "ERROR: sleeps under the lock of line %s" % lock[0].line)

@script:python depends on report@
lock << rcu.lock;
call << rcu.call;
@@

coccilib.report.print_report(call[0], "ERROR: sleeps under the lock of line %s" % lock[0].line)

@script:python depends on report@
lock << guarded.lock;
call << guarded.call;
@@

coccilib.report.print_report(call[0], "ERROR: sleeps under the lock of line %s" % lock[0].line)

@script:python depends on report@
lock << scoped.lock;
call << scoped.call;
@@

coccilib.report.print_report(call[0], "ERROR: sleeps under the lock of line %s" % lock[0].line)

@script:python depends on org@
lock << locked.lock;
call << locked.call;
@@

cocci.print_main("sleeps", call)
cocci.print_secs("under this lock", lock)

@script:python depends on org@
lock << rcu.lock;
call << rcu.call;
@@

cocci.print_main("sleeps", call)
cocci.print_secs("under this lock", lock)

@script:python depends on org@
lock << guarded.lock;
call << guarded.call;
@@

cocci.print_main("sleeps", call)
cocci.print_secs("under this lock", lock)

@script:python depends on org@
lock << scoped.lock;
call << scoped.call;
@@

cocci.print_main("sleeps", call)
cocci.print_secs("under this lock", lock)

// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_sleep.cocci must not flag */

void after_unlock(struct user *user)
{
	struct ioasid *ioasid;

	spin_lock(&user->lock);
	ioasid = user->ioasid;
	user->ioasid = NULL;
	spin_unlock(&user->lock);
	ioasid_detach_device(ioasid, user->domain, user->dev);
}

void put_never_sleeps(struct user *user)
{
	guard(spinlock)(&user->lock);
	ioasid_put(user->ioasid);
}

struct ioasid *get_under_rcu(struct user *user)
{
	guard(rcu)();
	return ioasid_tryget(rcu_dereference(user->ioasid));
}

void mutex_may_sleep(struct user *user)
{
	guard(mutex)(&user->mutex);
	ioasid_free(user->ioasid);
}

void after_scope(struct user *user)
{
	scoped_guard(rcu)
		user->ioasid = rcu_dereference(user->next);
	ioasid_free(user->ioasid);
}

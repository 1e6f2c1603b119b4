// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_sleep.cocci must flag: lines with FLAG */

void under_spinlock(struct user *user)
{
	unsigned long flags;

	spin_lock_irqsave(&user->lock, flags);
	ioasid_detach_device(user->ioasid, user->domain, user->dev); /* FLAG */
	spin_unlock_irqrestore(&user->lock, flags);
}

int under_raw_spinlock(struct user *user)
{
	int ret;

	raw_spin_lock(&user->lock);
	ret = ioasid_attach_device(user->ioasid, user->domain, user->dev, NULL); /* FLAG */
	raw_spin_unlock(&user->lock);
	return ret;
}

void under_rcu(struct user *user)
{
	rcu_read_lock();
	ioasid_free(rcu_dereference(user->ioasid)); /* FLAG */
	rcu_read_unlock();
}

void under_guard(struct user *user)
{
	guard(spinlock_irqsave)(&user->lock);
	ioasid_detach_device(user->ioasid, user->domain, user->dev); /* FLAG */
}

void under_scoped_guard(struct user *user)
{
	scoped_guard(rcu) {
		if (user->ioasid)
			ioasid_free(user->ioasid); /* FLAG */
	}
}

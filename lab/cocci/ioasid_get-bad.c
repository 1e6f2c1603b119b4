// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_get.cocci must flag: lines with FLAG */

int attach_fails(struct user *user, int fd, u32 id)
{
	struct ioasid_ref ref;
	int ret;

	ret = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &ref);
	if (ret)
		return ret;
	ret = ioasid_attach_device(ref.ioasid, user->domain, user->dev, NULL);
	if (ret)
		return ret; /* FLAG */
	user->ref = ref;
	return 0;
}

int label_is_too_low(struct user *user, int fd, u32 id)
{
	struct ioasid_ref ref;
	int ret;

	mutex_lock(&user->lock);
	ret = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &ref);
	if (ret)
		goto out_unlock;
	ret = ioasid_attach_device(ref.ioasid, user->domain, user->dev, NULL);
	if (ret)
		goto out_unlock;
	user->ref = ref;
out_unlock:
	mutex_unlock(&user->lock);
	return ret; /* FLAG */
}

int parked_after_lookup(struct xarray *table, u32 id)
{
	struct ioasid *ioasid = ioasid_tryget(xa_load(table, id));

	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);
	if (!ioasid_is_active(ioasid))
		return -ESHUTDOWN; /* FLAG */
	ioasid_put(ioasid);
	return 0;
}

int under_a_guard(struct user *user, struct xarray *table, u32 id)
{
	struct ioasid *ioasid;

	scoped_guard(mutex, &user->lock) {
		ioasid = ioasid_tryget(xa_load(table, id));
		if (IS_ERR(ioasid))
			return PTR_ERR(ioasid);
		if (user->ioasid)
			return -EBUSY; /* FLAG */
		user->ioasid = ioasid;
	}
	return 0;
}

int holder_is_freed(struct user *user, int fd, u32 id)
{
	struct mapping *mapping = kzalloc(sizeof(*mapping), GFP_KERNEL);
	int ret;

	ret = ioasid_fd_get(fd, id, IOASID_USER_KVM, &mapping->ref);
	if (ret) {
		kfree(mapping);
		return ret;
	}
	ret = prepare(user);
	if (ret) {
		kfree(mapping); /* FLAG */
		return ret;
	}
	return insert(user, mapping);
}

int one_more(struct user *user, struct ioasid *ioasid)
{
	ioasid_get(ioasid);
	if (user->closed)
		return -ENODEV; /* FLAG */
	user->ioasid = ioasid;
	return 0;
}

int one_more_user(struct user *user, struct ioasid *ioasid)
{
	struct ioasid_ref ref;

	ioasid_user_get(ioasid, IOASID_USER_MDEV, &ref);
	if (user->closed)
		return -ENODEV; /* FLAG */
	user->ref = ref;
	return 0;
}

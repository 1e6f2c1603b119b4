// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_get.cocci must flag: lines with FLAG */

int attach_fails(struct user *user, int fd, u32 id)
{
	struct ioasid *ioasid;
	int ret;

	ioasid = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &user->tracker);
	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);
	ret = ioasid_attach_device(ioasid, user->domain, user->dev, NULL);
	if (ret)
		return ret; /* FLAG */
	user->ioasid = ioasid;
	return 0;
}

int label_is_too_low(struct user *user, int fd, u32 id)
{
	struct ioasid *ioasid;
	int ret;

	mutex_lock(&user->lock);
	ioasid = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &user->tracker);
	if (IS_ERR(ioasid)) {
		ret = PTR_ERR(ioasid);
		goto out_unlock;
	}
	ret = ioasid_attach_device(ioasid, user->domain, user->dev, NULL);
	if (ret)
		goto out_unlock;
	user->ioasid = ioasid;
out_unlock:
	mutex_unlock(&user->lock);
	return ret; /* FLAG */
}

int parked_after_lookup(struct ioasid_set *set, u32 id)
{
	struct ioasid *ioasid = ioasid_find_get(set, id);

	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);
	if (!ioasid_is_active(ioasid))
		return -ESHUTDOWN; /* FLAG */
	ioasid_put(ioasid);
	return 0;
}

int under_a_guard(struct user *user, struct ioasid_set *set, u32 id)
{
	struct ioasid *ioasid;

	scoped_guard(mutex, &user->lock) {
		ioasid = ioasid_find_get(set, id);
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

	mapping->ioasid = ioasid_fd_get(fd, id, IOASID_USER_KVM,
					&mapping->tracker);
	if (IS_ERR(mapping->ioasid)) {
		ret = PTR_ERR(mapping->ioasid);
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
	ioasid_user_get(ioasid, IOASID_USER_MDEV, &user->tracker);
	if (user->closed)
		return -ENODEV; /* FLAG */
	user->ioasid = ioasid;
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_get.cocci must not flag */

int put_when_attach_fails(struct user *user, int fd, u32 id)
{
	struct ioasid *ioasid;
	int ret;

	ioasid = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &user->tracker);
	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);
	ret = ioasid_attach_device(ioasid, user->domain, user->dev, NULL);
	if (ret) {
		ioasid_user_put(ioasid, IOASID_USER_DRIVER, &user->tracker);
		return ret;
	}
	user->ioasid = ioasid;
	return 0;
}

int labels_in_order(struct user *user, int fd, u32 id)
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
		goto err_put;
	user->ioasid = ioasid;
	goto out_unlock;

err_put:
	ioasid_user_put(ioasid, IOASID_USER_DRIVER, &user->tracker);
out_unlock:
	mutex_unlock(&user->lock);
	return ret;
}

struct ioasid *caller_gets_it(struct ioasid_set *set, u32 id)
{
	struct ioasid *ioasid = ioasid_find_get(set, id);

	if (IS_ERR(ioasid))
		return ERR_CAST(ioasid);
	return ioasid;
}

int handed_on(struct user *user, struct ioasid_set *set, u32 id)
{
	struct ioasid *ioasid = ioasid_find_get(set, id);
	int ret;

	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);
	ret = user_take_over(user, ioasid);
	if (ret)
		return ret;
	return 0;
}

int holder_is_freed_after_put(struct user *user, int fd, u32 id)
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
		ioasid_user_put(mapping->ioasid, IOASID_USER_KVM,
				&mapping->tracker);
		kfree(mapping);
		return ret;
	}
	return insert(user, mapping);
}

// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_get.cocci must not flag */

int put_when_attach_fails(struct user *user, int fd, u32 id)
{
	struct ioasid_ref ref;
	int ret;

	ret = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &ref);
	if (ret)
		return ret;
	ret = ioasid_attach_device(ref.ioasid, user->domain, user->dev, NULL);
	if (ret) {
		ioasid_user_put(&ref);
		return ret;
	}
	user->ref = ref;
	return 0;
}

int labels_in_order(struct user *user, int fd, u32 id)
{
	struct ioasid_ref ref;
	int ret;

	mutex_lock(&user->lock);
	ret = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &ref);
	if (ret)
		goto out_unlock;
	ret = ioasid_attach_device(ref.ioasid, user->domain, user->dev, NULL);
	if (ret)
		goto err_put;
	user->ref = ref;
	goto out_unlock;

err_put:
	ioasid_user_put(&ref);
out_unlock:
	mutex_unlock(&user->lock);
	return ret;
}

struct ioasid *caller_gets_it(struct xarray *table, u32 id)
{
	struct ioasid *ioasid = ioasid_tryget(xa_load(table, id));

	if (IS_ERR(ioasid))
		return ERR_CAST(ioasid);
	return ioasid;
}

int handed_on(struct user *user, struct xarray *table, u32 id)
{
	struct ioasid *ioasid = ioasid_tryget(xa_load(table, id));
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

	ret = ioasid_fd_get(fd, id, IOASID_USER_KVM, &mapping->ref);
	if (ret) {
		kfree(mapping);
		return ret;
	}
	ret = prepare(user);
	if (ret) {
		ioasid_user_put(&mapping->ref);
		kfree(mapping);
		return ret;
	}
	return insert(user, mapping);
}

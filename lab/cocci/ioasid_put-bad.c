// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_put.cocci must flag: lines with FLAG */

u32 number_of_somebody(struct xarray *table, u32 id)
{
	struct ioasid *ioasid = ioasid_tryget(xa_load(table, id));

	if (IS_ERR(ioasid))
		return 0;
	ioasid_put(ioasid);
	return ioasid_id(ioasid); /* FLAG */
}

int stored_too_late(struct user *user, int fd, u32 id)
{
	struct ioasid_ref ref;
	int ret;

	ret = ioasid_fd_get(fd, id, IOASID_USER_DRIVER, &ref);
	if (ret)
		return ret;
	if (user->busy)
		ioasid_user_put(&ref);
	user->ref = ref; /* FLAG */
	return 0;
}

int put_while_attached(struct user *user)
{
	int ret;

	ret = ioasid_attach_device(user->ref.ioasid, user->domain, user->dev, NULL);
	if (ret)
		goto err_put;
	ret = user_start(user);
	if (ret)
		goto err_put;
	return 0;

err_put:
	ioasid_user_put(&user->ref); /* FLAG */
	return ret;
}

// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_put.cocci must not flag */

u32 number_before_put(struct xarray *table, u32 id)
{
	struct ioasid *ioasid = ioasid_tryget(xa_load(table, id));
	u32 number;

	if (IS_ERR(ioasid))
		return 0;
	number = ioasid_id(ioasid);
	ioasid_put(ioasid);
	return number;
}

void next_one(struct xarray *table, u32 count)
{
	struct ioasid *ioasid;
	u32 id;

	for (id = 1; id <= count; id++) {
		ioasid = ioasid_tryget(xa_load(table, id));
		if (IS_ERR(ioasid))
			continue;
		ioasid_put(ioasid);
	}
}

u32 two_references(struct xarray *table, u32 id)
{
	struct ioasid *ioasid = ioasid_tryget(xa_load(table, id));

	ioasid_get(ioasid);
	ioasid_put(ioasid);
	return ioasid_id(ioasid);
}

int detach_before_put(struct user *user)
{
	int ret;

	ret = ioasid_attach_device(user->ref.ioasid, user->domain, user->dev, NULL);
	if (ret)
		goto err_put;
	ret = user_start(user);
	if (ret)
		goto err_detach;
	return 0;

err_detach:
	ioasid_detach_device(user->ref.ioasid, user->domain, user->dev);
err_put:
	ioasid_user_put(&user->ref);
	return ret;
}

int nothing_to_detach(struct user *user)
{
	int ret;

	ret = ioasid_attach_device(user->ref.ioasid, user->domain, user->dev, NULL);
	if (ret) {
		ret = -ENODEV;
		ioasid_user_put(&user->ref);
	}
	return ret;
}

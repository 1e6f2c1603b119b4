// SPDX-License-Identifier: GPL-2.0-only
/* What ioasid_put.cocci must not flag */

u32 number_before_put(struct ioasid_set *set, u32 id)
{
	struct ioasid *ioasid = ioasid_find_get(set, id);
	u32 number;

	if (IS_ERR(ioasid))
		return 0;
	number = ioasid_id(ioasid);
	ioasid_put(ioasid);
	return number;
}

void next_one(struct ioasid_set *set, u32 count)
{
	struct ioasid *ioasid;
	u32 id;

	for (id = 1; id <= count; id++) {
		ioasid = ioasid_find_get(set, id);
		if (IS_ERR(ioasid))
			continue;
		ioasid_put(ioasid);
	}
}

u32 two_references(struct ioasid_set *set, u32 id)
{
	struct ioasid *ioasid = ioasid_find_get(set, id);

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

// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/ioasid: IOASIDs owned by a process
 *
 * The file is the capability: its holder may allocate, free and query its
 * IOASIDs, and pass them to VFIO or KVM together with the file. The file has a
 * quota of its own. Regardless of who uses it, the user who opened it is
 * charged. The misc cgroup charged is that of the allocating task. The last
 * close parks all IOASIDs that are left.
 */
#define pr_fmt(fmt) "ioasid: " fmt

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/misc_cgroup.h>
#include <linux/miscdevice.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>

#include "ioasid.h"

/**
 * struct ioasid_ctx - an open /dev/ioasid
 * @lock: serializes alloc, free, query and list
 * @account: its IOASIDs
 */
struct ioasid_ctx {
	struct mutex lock;	/* serializes alloc, free, query and list */
	struct ioasid_account *account;
};

static int ioasid_fops_open(struct inode *inode, struct file *file)
{
	struct ioasid_ctx *ctx;

	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL_ACCOUNT);
	if (!ctx)
		return -ENOMEM;

	ctx->account = ioasid_account_create(current->mm,
					     get_ucounts(current_ucounts()));
	if (IS_ERR(ctx->account)) {
		int ret = PTR_ERR(ctx->account);

		kfree(ctx);
		return ret;
	}

	mutex_init(&ctx->lock);
	file->private_data = ctx;
	return nonseekable_open(inode, file);
}

/* Pick all ACTIVE IOASIDs. Nothing else can free them during release. */
static void ioasid_pick_all(struct ioasid_account *account,
			    struct ioasid_chain *chain)
{
	struct ioasid *ioasid;

	spin_lock(&account->lock);
	ioasid_account_for_each(ioasid, account) {
		if (ioasid_is_active(ioasid))
			ioasid_chain_add(chain, ioasid);
	}
	spin_unlock(&account->lock);
}

static int ioasid_fops_release(struct inode *inode, struct file *file)
{
	struct ioasid_ctx *ctx = file->private_data;
	struct ioasid_chain chain;

	ioasid_chain_init(&chain);
	ioasid_pick_all(ctx->account, &chain);
	ioasid_free_chain(&chain);
	ioasid_account_put(ctx->account);
	mutex_destroy(&ctx->lock);
	kfree(ctx);
	return 0;
}

static int ioasid_cmd_get_info(struct ioasid_ctx *ctx, void *buf)
{
	struct ioasid_account *account = ctx->account;
	struct ioasid_info *cmd = buf;

	if (cmd->flags || cmd->__reserved)
		return -EOPNOTSUPP;

	cmd->min = IOASID_MIN;
	cmd->max = IOASID_MAX;

	spin_lock(&account->lock);
	cmd->quota = account->quota;
	cmd->active = account->used - account->parked;
	cmd->parked = account->parked;
	spin_unlock(&account->lock);
	return 0;
}

/*
 * Reserve IOASIDs for @req. Check the capability for reserved PASIDs last, as a
 * failure is audited.
 */
static int ioasid_reserve_for_user(struct ioasid_request *req,
				   struct ioasid_chain *chain)
{
	int ret;

	ret = ioasid_reserve(req, chain);
	if (ret != -ENOSPC || !capable(CAP_SYS_RESOURCE))
		return ret;

	req->reserve = true;
	return ioasid_reserve(req, chain);
}

/* Copy the PASIDs of @chain to user space. */
static int ioasid_copy_ids(const struct ioasid_chain *chain, u32 __user *ids)
{
	u32 batch[IOASID_BATCH];
	struct ioasid *ioasid;
	u32 n = 0;

	ioasid_chain_for_each(ioasid, chain) {
		batch[n++] = ioasid_id(ioasid);
		if (n < IOASID_BATCH && ioasid->recycle_node.next)
			continue;
		if (copy_to_user(ids, batch, n * sizeof(*batch)))
			return -EFAULT;
		if (fatal_signal_pending(current))
			return -EINTR;
		ids += n;
		n = 0;
		cond_resched();
	}
	return 0;
}

static int ioasid_cmd_alloc(struct ioasid_ctx *ctx, void *buf)
{
	struct ioasid_alloc *cmd = buf;
	struct ioasid_request req = {
		.account = ctx->account,
		.min = cmd->min,
		.max = cmd->max,
		.count = cmd->count,
	};
	struct ioasid_chain chain;
	int ret;

	if (cmd->flags || cmd->__reserved)
		return -EOPNOTSUPP;

	if (!cmd->count)
		return -EINVAL;
	if (!cmd->min && !cmd->max) {
		if (cmd->count > IOASID_COUNT)
			return -EINVAL;
	} else if (cmd->min < IOASID_MIN || cmd->max > IOASID_MAX ||
		   cmd->min > cmd->max ||
		   cmd->count > cmd->max - cmd->min + 1) {
		return -EINVAL;
	}

	ioasid_chain_init(&chain);
	req.cg = get_current_misc_cg();
	ret = ioasid_reserve_for_user(&req, &chain);
	put_misc_cg(req.cg);
	if (ret)
		return ret;

	ret = ioasid_copy_ids(&chain, u64_to_user_ptr(cmd->ids));
	if (ret)
		goto err_unreserve;

	/*
	 * Nothing can fail from here, and user space has the PASIDs: publish,
	 * so that lookups can find them.
	 */
	ret = mutex_lock_killable(&ctx->lock);
	if (ret)
		goto err_unreserve;
	ioasid_publish(ctx->account, &chain);
	mutex_unlock(&ctx->lock);
	return 0;

err_unreserve:
	/* Also uncharges */
	ioasid_unreserve(&chain);
	return ret;
}

/* Add an ACTIVE IOASID of this file to @chain. */
static int ioasid_pick(struct ioasid_ctx *ctx, u32 id,
		       struct ioasid_chain *chain)
{
	struct ioasid *ioasid;

	/* The lock keeps IOASIDs of this file from being freed */
	lockdep_assert_held(&ctx->lock);
	guard(rcu)();
	ioasid = ioasid_lookup(id);
	if (!ioasid || ioasid->account != ctx->account || ioasid->freeing ||
	    !ioasid_is_active(ioasid))
		return -ENOENT;

	ioasid->freeing = true;
	ioasid_chain_add(chain, ioasid);
	return 0;
}

static int ioasid_pick_ids(struct ioasid_ctx *ctx, const u32 *ids, u32 count,
			   struct ioasid_chain *chain)
{
	u32 i;
	int ret;

	for (i = 0; i < count; i++) {
		ret = ioasid_pick(ctx, ids[i], chain);
		if (ret)
			return ret;
		if (i % IOASID_BATCH)
			continue;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static int ioasid_cmd_free(struct ioasid_ctx *ctx, void *buf)
{
	struct ioasid_free *cmd = buf;
	u32 batch[IOASID_BATCH];
	struct ioasid_chain chain;
	struct ioasid *ioasid;
	u32 *ids = batch;
	int ret;

	if (cmd->flags || cmd->__reserved)
		return -EOPNOTSUPP;
	if (!cmd->count || cmd->count > IOASID_MAX)
		return -EINVAL;

	/*
	 * Copy the array before taking ctx->lock, which must not be held across
	 * a user page fault. Small arrays need no allocation, so that DMA can
	 * be stopped even if memory is short.
	 */
	if (cmd->count > ARRAY_SIZE(batch)) {
		ids = kvmalloc_array(cmd->count, sizeof(*ids),
				     GFP_KERNEL_ACCOUNT);
		if (!ids)
			return -ENOMEM;
	}
	ret = -EFAULT;
	if (copy_from_user(ids, u64_to_user_ptr(cmd->ids),
			   cmd->count * sizeof(*ids)))
		goto out_free;

	ret = mutex_lock_killable(&ctx->lock);
	if (ret)
		goto out_free;

	ioasid_chain_init(&chain);
	ret = ioasid_pick_ids(ctx, ids, cmd->count, &chain);
	if (!ret) {
		ioasid_free_chain(&chain);
	} else {
		ioasid_chain_for_each(ioasid, &chain) {
			ioasid->freeing = false;
			cond_resched();
		}
	}
	mutex_unlock(&ctx->lock);
out_free:
	if (ids != batch)
		kvfree(ids);
	return ret;
}

static int ioasid_cmd_query(struct ioasid_ctx *ctx, void *buf)
{
	struct ioasid_query *cmd = buf;
	struct ioasid *ioasid;
	int ret;

	if (cmd->flags)
		return -EOPNOTSUPP;

	/* Serialize against a concurrent free */
	ret = mutex_lock_killable(&ctx->lock);
	if (ret)
		return ret;

	scoped_guard(rcu) {
		ioasid = ioasid_lookup(cmd->id);
		if (!ioasid || ioasid->account != ctx->account) {
			ret = -ENOENT;
		} else {
			cmd->state = READ_ONCE(ioasid->state);
			cmd->users = ioasid_users(ioasid);
			cmd->attachments = READ_ONCE(ioasid->nr_attached);
		}
	}
	mutex_unlock(&ctx->lock);
	return ret;
}

static int ioasid_cmd_set_quota(struct ioasid_ctx *ctx, void *buf)
{
	struct ioasid_account *account = ctx->account;
	struct ioasid_quota *cmd = buf;
	bool raise;

	if (cmd->flags || cmd->__reserved)
		return -EOPNOTSUPP;

	spin_lock(&account->lock);
	raise = cmd->quota > account->quota;
	if (!raise)
		account->quota = cmd->quota;
	spin_unlock(&account->lock);
	if (!raise)
		return 0;

	/* Check the capability last, as a failure is audited */
	if (!capable(CAP_SYS_RESOURCE))
		return -EPERM;

	spin_lock(&account->lock);
	account->quota = cmd->quota;
	spin_unlock(&account->lock);
	return 0;
}

/* Fill up to @count entries, from PASID @start. Returns the number filled. */
static u32 ioasid_fill_list(struct ioasid_account *account, u32 start,
			    u32 count, struct ioasid_list_entry *entries)
{
	struct ioasid *ioasid;
	u32 n = 0;

	spin_lock(&account->lock);
	ioasid_account_for_each_from(ioasid, account, start) {
		if (n == count)
			break;
		entries[n++] = (struct ioasid_list_entry){
			.id = ioasid->id,
			.state = READ_ONCE(ioasid->state),
			.users = ioasid_users(ioasid),
			.attachments = READ_ONCE(ioasid->nr_attached),
		};
	}
	spin_unlock(&account->lock);
	return n;
}

static int ioasid_cmd_list(struct ioasid_ctx *ctx, void *buf)
{
	struct ioasid_list_entry batch[IOASID_BATCH], *entries = batch;
	struct ioasid_list *cmd = buf;
	u32 count;
	int ret;

	if (cmd->flags)
		return -EOPNOTSUPP;
	if (!cmd->count)
		return -EINVAL;

	/*
	 * Collect all entries under ctx->lock, but copy them after dropping it,
	 * as it must not be held across a user page fault.
	 */
	ret = mutex_lock_killable(&ctx->lock);
	if (ret)
		return ret;
	/* Cannot grow while the lock is held */
	count = min(cmd->count, READ_ONCE(ctx->account->used));
	if (count > ARRAY_SIZE(batch))
		entries = kvmalloc_array(count, sizeof(*entries),
					 GFP_KERNEL_ACCOUNT);
	if (entries)
		cmd->count = ioasid_fill_list(ctx->account, cmd->start, count,
					      entries);
	mutex_unlock(&ctx->lock);
	if (!entries)
		return -ENOMEM;

	if (copy_to_user(u64_to_user_ptr(cmd->entries), entries,
			 cmd->count * sizeof(*entries)))
		ret = -EFAULT;
	if (entries != batch)
		kvfree(entries);
	return ret;
}

union ioasid_cmd_buf {
	struct ioasid_info info;
	struct ioasid_alloc alloc;
	struct ioasid_free free;
	struct ioasid_query query;
	struct ioasid_quota quota;
	struct ioasid_list list;
};

struct ioasid_cmd {
	unsigned int ioctl;
	u32 size;
	u32 min_size;
	bool writes;
	int (*run)(struct ioasid_ctx *ctx, void *buf);
};

/* @_last: last field of the first version of the struct */
#define IOASID_CMD(_ioctl, _fn, _struct, _last, _writes)		\
	[_IOC_NR(_ioctl)] = {						\
		.ioctl = _ioctl,					\
		.size = sizeof(_struct),				\
		.min_size = offsetofend(_struct, _last),		\
		.writes = _writes,					\
		.run = _fn,						\
	}

static const struct ioasid_cmd ioasid_cmds[] = {
	IOASID_CMD(IOASID_GET_INFO, ioasid_cmd_get_info, struct ioasid_info,
		   __reserved, true),
	IOASID_CMD(IOASID_ALLOC, ioasid_cmd_alloc, struct ioasid_alloc,
		   ids, false),
	IOASID_CMD(IOASID_FREE, ioasid_cmd_free, struct ioasid_free,
		   ids, false),
	IOASID_CMD(IOASID_QUERY, ioasid_cmd_query, struct ioasid_query,
		   attachments, true),
	IOASID_CMD(IOASID_SET_QUOTA, ioasid_cmd_set_quota, struct ioasid_quota,
		   __reserved, false),
	IOASID_CMD(IOASID_LIST, ioasid_cmd_list, struct ioasid_list,
		   entries, true),
};

static long ioasid_fops_ioctl(struct file *file, unsigned int ioctl,
			      unsigned long arg)
{
	unsigned int nr = _IOC_NR(ioctl);
	void __user *uptr = (void __user *)arg;
	const struct ioasid_cmd *cmd;
	union ioasid_cmd_buf buf;
	u32 size;
	int ret;

	if (nr >= ARRAY_SIZE(ioasid_cmds) || ioasid_cmds[nr].ioctl != ioctl)
		return -ENOTTY;
	cmd = &ioasid_cmds[nr];

	/* All structs start with their size */
	if (get_user(size, (u32 __user *)uptr))
		return -EFAULT;
	if (size < cmd->min_size)
		return -EINVAL;
	/* Bound the size before copy_struct_from_user() scans the tail */
	if (size > PAGE_SIZE)
		return -E2BIG;

	ret = copy_struct_from_user(&buf, cmd->size, uptr, size);
	if (ret)
		return ret;

	ret = cmd->run(file->private_data, &buf);
	if (ret)
		return ret;

	if (cmd->writes && copy_to_user(uptr, &buf, min(size, cmd->size)))
		return -EFAULT;
	return 0;
}

static void ioasid_fops_show_fdinfo(struct seq_file *s, struct file *file)
{
	struct ioasid_ctx *ctx = file->private_data;

	ioasid_show_account(s, ctx->account);
}

static const struct file_operations ioasid_fops = {
	.owner = THIS_MODULE,
	.open = ioasid_fops_open,
	.release = ioasid_fops_release,
	.unlocked_ioctl = ioasid_fops_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.show_fdinfo = ioasid_fops_show_fdinfo,
};

/**
 * ioasid_fd_get() - take a reference to an IOASID specified by user space
 * @fd: descriptor of a /dev/ioasid file of the current process
 * @id: the PASID, which must be owned by that file
 * @user: kind of user that holds the reference
 * @ref: the reference, to be released with ioasid_user_put()
 *
 * For users that are passed a file and a PASID. Possession of the file is the
 * authorization; no reference to the file is kept.
 *
 * Context: Process context, may sleep.
 * Return: 0, or -EBADF if @fd is not open or not a /dev/ioasid, -ENOENT if the
 * file has no such PASID, -ESHUTDOWN if it is PARKED. @ref is unchanged on
 * failure.
 */
int ioasid_fd_get(int fd, u32 id, enum ioasid_user user,
		  struct ioasid_ref *ref)
{
	struct ioasid_ctx *ctx;
	struct ioasid *ioasid;

	CLASS(fd, f)(fd);
	if (!fd_file(f) || fd_file(f)->f_op != &ioasid_fops)
		return -EBADF;

	ctx = fd_file(f)->private_data;
	ioasid = ioasid_account_find_get(ctx->account, id);
	if (IS_ERR(ioasid))
		return PTR_ERR(ioasid);

	ioasid_add_user(ioasid, user, ref);
	return 0;
}
EXPORT_SYMBOL_GPL(ioasid_fd_get);

static struct miscdevice ioasid_miscdev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ioasid",
	.fops = &ioasid_fops,
	.nodename = "ioasid",
	.mode = 0660,
};

builtin_misc_device(ioasid_miscdev);

// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/ioasid: IOASIDs owned by a process
 *
 * The file is the capability: whoever holds it may allocate, free and query
 * its numbers, and hand them to VFIO or KVM together with the file. The quota
 * is that of the process that opened it, whoever uses it; the cgroup that is
 * charged is that of who allocates. The last close parks all that is left.
 */
#define pr_fmt(fmt) "ioasid: " fmt

#include <linux/capability.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/misc_cgroup.h>
#include <linux/miscdevice.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ioasid.h"

/**
 * struct ioasid_ctx - an open /dev/ioasid
 * @lock: protects @ioasids, and makes free and query see each other as a whole
 * @ioasids: those that are ACTIVE, by owner_node
 * @set: what is charged
 * @owner: name of this file in its IOASIDs; a counter, so that a file that is
 *	   gone is never mistaken for a new one
 */
struct ioasid_ctx {
	struct mutex lock;	/* @ioasids, and free against query */
	struct list_head ioasids;
	struct ioasid_set *set;
	u64 owner;
};

static atomic64_t ioasid_last_owner;

static int ioasid_fops_open(struct inode *inode, struct file *file)
{
	struct ioasid_ctx *ctx;

	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL_ACCOUNT);
	if (!ctx)
		return -ENOMEM;

	ctx->set = ioasid_set_get_mm(current->mm);
	if (IS_ERR(ctx->set)) {
		int ret = PTR_ERR(ctx->set);

		kfree(ctx);
		return ret;
	}

	mutex_init(&ctx->lock);
	INIT_LIST_HEAD(&ctx->ioasids);
	ctx->owner = atomic64_inc_return(&ioasid_last_owner);
	file->private_data = ctx;
	return nonseekable_open(inode, file);
}

static int ioasid_fops_release(struct inode *inode, struct file *file)
{
	struct ioasid_ctx *ctx = file->private_data;

	ioasid_free_list(&ctx->ioasids);
	ioasid_set_put(ctx->set);
	mutex_destroy(&ctx->lock);
	kfree(ctx);
	return 0;
}

static int ioasid_cmd_get_info(struct ioasid_ctx *ctx, void *buf)
{
	struct ioasid_info *cmd = buf;
	struct ioasid_set *set = ctx->set;

	if (cmd->flags || cmd->__reserved)
		return -EOPNOTSUPP;

	cmd->min = IOASID_MIN;
	cmd->max = IOASID_MAX;

	spin_lock(&set->lock);
	cmd->quota = set->quota;
	cmd->active = set->used - set->parked;
	cmd->parked = set->parked;
	spin_unlock(&set->lock);
	return 0;
}

/* @ioasids is to be added to @list, whose numbers go to user space */
static int ioasid_copy_ids(struct ioasid **ioasids, u32 count,
			   struct list_head *list, u32 __user *ids)
{
	u32 batch[IOASID_BATCH];
	u32 i;

	for (i = 0; i < count; i++) {
		list_add_tail(&ioasids[i]->owner_node, list);
		batch[i] = ioasid_id(ioasids[i]);
	}
	return copy_to_user(ids, batch, count * sizeof(*batch)) ? -EFAULT : 0;
}

/* @reserved: how many are in @list, also on error */
static int ioasid_alloc_ids(struct ioasid_ctx *ctx, struct misc_cg *cg,
			    struct ioasid_alloc *cmd, struct list_head *list,
			    u32 *reserved)
{
	u32 __user *ids = u64_to_user_ptr(cmd->ids);
	struct ioasid *ioasids[IOASID_BATCH];
	u32 left, todo;
	int ret;

	for (left = cmd->count; left; left -= todo) {
		todo = min(left, IOASID_BATCH);
		if (fatal_signal_pending(current))
			return -EINTR;

		ret = ioasid_reserve(ctx->set, cg, cmd->min, cmd->max,
				     ctx->owner, todo, ioasids);
		if (ret)
			return ret;
		*reserved += todo;
		ret = ioasid_copy_ids(ioasids, todo, list, ids);
		if (ret)
			return ret;
		ids += todo;
		if (left > todo)
			cond_resched();
	}
	return 0;
}

static int ioasid_cmd_alloc(struct ioasid_ctx *ctx, void *buf)
{
	struct ioasid_alloc *cmd = buf;
	struct ioasid *ioasid;
	struct misc_cg *cg;
	u32 published = 0;
	u32 reserved = 0;
	LIST_HEAD(list);
	int ret;

	if (cmd->flags || cmd->__reserved)
		return -EOPNOTSUPP;

	if (!cmd->min && !cmd->max) {
		cmd->min = IOASID_MIN;
		cmd->max = IOASID_MAX;
	}
	if (cmd->min < IOASID_MIN || cmd->max > IOASID_MAX ||
	    cmd->min > cmd->max || !cmd->count ||
	    cmd->count > cmd->max - cmd->min + 1)
		return -EINVAL;

	cg = get_current_misc_cg();
	ret = ioasid_charge(ctx->set, cg, cmd->count);
	if (ret)
		goto out_put_cg;

	ret = ioasid_alloc_ids(ctx, cg, cmd, &list, &reserved);
	if (ret)
		goto err_unreserve;

	/*
	 * User space has the numbers and nothing can fail any more: only now
	 * they start to exist.
	 */
	mutex_lock(&ctx->lock);
	list_for_each_entry(ioasid, &list, owner_node) {
		ioasid_publish(ioasid);
		ioasid_cond_resched(++published);
	}
	list_splice_tail(&list, &ctx->ioasids);
	mutex_unlock(&ctx->lock);
	goto out_put_cg;

err_unreserve:
	/* Their charge goes with them */
	ioasid_unreserve_list(&list);
	ioasid_uncharge(ctx->set, cg, cmd->count - reserved);
out_put_cg:
	put_misc_cg(cg);
	return ret;
}

/* Move an ACTIVE IOASID of this file to the list of those to be freed. */
static int ioasid_pick(struct ioasid_ctx *ctx, u32 id, struct list_head *list)
{
	struct ioasid *ioasid;

	/* An ACTIVE IOASID of this file cannot go while the lock is held */
	lockdep_assert_held(&ctx->lock);
	guard(rcu)();
	ioasid = ioasid_lookup(id);
	if (!ioasid || ioasid->owner != ctx->owner || ioasid->freeing ||
	    !ioasid_is_active(ioasid))
		return -ENOENT;

	ioasid->freeing = true;
	list_move_tail(&ioasid->owner_node, list);
	return 0;
}

static int ioasid_pick_ids(struct ioasid_ctx *ctx, const u32 *ids, u32 count,
			   struct list_head *list)
{
	u32 i;
	int ret;

	for (i = 0; i < count; i++) {
		ret = ioasid_pick(ctx, ids[i], list);
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
	struct ioasid *ioasid;
	u32 *ids = batch;
	LIST_HEAD(list);
	int ret;

	if (cmd->flags || cmd->__reserved)
		return -EOPNOTSUPP;
	if (!cmd->count || cmd->count > IOASID_MAX)
		return -EINVAL;

	/*
	 * All at once and before the lock is taken: a page fault takes locks of
	 * others. What stops the DMA of a few needs no memory.
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

	ret = ioasid_pick_ids(ctx, ids, cmd->count, &list);
	if (!ret) {
		ioasid_free_list(&list);
	} else {
		list_for_each_entry(ioasid, &list, owner_node) {
			ioasid->freeing = false;
			cond_resched();
		}
		list_splice_tail(&list, &ctx->ioasids);
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

	/* Half of a free is not to be seen */
	ret = mutex_lock_killable(&ctx->lock);
	if (ret)
		return ret;

	scoped_guard(rcu) {
		ioasid = ioasid_lookup(cmd->id);
		if (!ioasid || ioasid->owner != ctx->owner) {
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
	struct ioasid_quota *cmd = buf;
	struct ioasid_set *set = ctx->set;
	bool raise;

	if (cmd->flags || cmd->__reserved)
		return -EOPNOTSUPP;

	spin_lock(&set->lock);
	raise = cmd->quota > set->quota;
	if (!raise)
		set->quota = cmd->quota;
	spin_unlock(&set->lock);
	if (!raise)
		return 0;

	/* Asked only when needed: it leaves a mark in the audit log */
	if (!capable(CAP_SYS_RESOURCE))
		return -EPERM;

	spin_lock(&set->lock);
	set->quota = cmd->quota;
	spin_unlock(&set->lock);
	return 0;
}

union ioasid_cmd_buf {
	struct ioasid_info info;
	struct ioasid_alloc alloc;
	struct ioasid_free free;
	struct ioasid_query query;
	struct ioasid_quota quota;
};

struct ioasid_cmd {
	unsigned int ioctl;
	u32 size;
	u32 min_size;
	bool writes;
	int (*run)(struct ioasid_ctx *ctx, void *buf);
};

/* @_last: the last field of the first version of the struct */
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

	/* Every struct starts with its size */
	if (get_user(size, (u32 __user *)uptr))
		return -EFAULT;
	if (size < cmd->min_size)
		return -EINVAL;
	/* No struct grows that far: do not look through it for zeroes */
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

/* Ranges and lines printed at most, so that reading fdinfo stays cheap */
#define IOASID_FDINFO_RANGES	32
#define IOASID_FDINFO_LINES	32

static void ioasid_show_range(struct seq_file *s, u32 nr, u32 first, u32 last)
{
	if (nr > IOASID_FDINFO_RANGES)
		return;
	if (nr == IOASID_FDINFO_RANGES)
		seq_puts(s, ",...");
	else if (first == last)
		seq_printf(s, "%s%u", nr ? "," : "", first);
	else
		seq_printf(s, "%s%u-%u", nr ? "," : "", first, last);
}

/* The numbers of @owner that are in @state, as "1-3,7" */
static void ioasid_show_ids(struct seq_file *s, u64 owner, u32 state)
{
	u32 id, first = 0, last = 0, nr = 0;
	struct ioasid *ioasid;
	bool ours;

	for (id = IOASID_MIN; id <= IOASID_MAX; id++) {
		rcu_read_lock();
		ioasid = ioasid_next(&id);
		ours = ioasid && ioasid->owner == owner &&
		       READ_ONCE(ioasid->state) == state;
		rcu_read_unlock();
		if (!ioasid || fatal_signal_pending(current))
			break;
		cond_resched();
		if (!ours)
			continue;

		if (first && id != last + 1) {
			ioasid_show_range(s, nr++, first, last);
			first = 0;
		}
		if (!first)
			first = id;
		last = id;
	}
	if (first)
		ioasid_show_range(s, nr, first, last);
	seq_putc(s, '\n');
}

/* Who holds what this file has freed, a line for each number */
static void ioasid_show_parked_users(struct seq_file *s, u64 owner)
{
	struct ioasid *ioasid;
	unsigned int nr = 0;
	u32 id;

	for (id = IOASID_MIN; id <= IOASID_MAX; id++) {
		scoped_guard(rcu) {
			ioasid = ioasid_next(&id);
			if (!ioasid)
				return;
			if (ioasid->owner == owner &&
			    !ioasid_is_active(ioasid)) {
				seq_printf(s, "ioasid-parked-users:\t%u ", id);
				ioasid_show_users(s, ioasid);
				seq_putc(s, '\n');
				nr++;
			}
		}
		if (nr == IOASID_FDINFO_LINES || fatal_signal_pending(current))
			return;
		cond_resched();
	}
}

static void ioasid_fops_show_fdinfo(struct seq_file *s, struct file *file)
{
	struct ioasid_ctx *ctx = file->private_data;
	struct ioasid_info info = {};

	ioasid_cmd_get_info(ctx, &info);
	seq_printf(s, "ioasid-quota:\t%u\n", info.quota);
	seq_printf(s, "ioasid-active:\t%u\n", info.active);
	seq_printf(s, "ioasid-parked:\t%u\n", info.parked);
	/* The above is of the set, the rest of this file */
	seq_printf(s, "ioasid-owner:\tfile-%llu\n", ctx->owner);
	seq_puts(s, "ioasid-active-ids:\t");
	ioasid_show_ids(s, ctx->owner, IOASID_STATE_ACTIVE);
	seq_puts(s, "ioasid-parked-ids:\t");
	ioasid_show_ids(s, ctx->owner, IOASID_STATE_PARKED);
	ioasid_show_parked_users(s, ctx->owner);
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
 * ioasid_fd_get() - take a reference to an IOASID that user space names
 * @fd: descriptor of a /dev/ioasid file of the current process
 * @id: the PASID, which must be owned by that file
 * @user: what kind of user takes it, for those who ask who holds the IOASID
 * @tracker: of the reference
 *
 * For users that are handed a (file, number) pair. Possession of the file is
 * the authorization; the file itself is not held.
 *
 * Context: Process context, may sleep.
 * Return: the IOASID, to be released by ioasid_user_put(), or ERR_PTR: -EBADF
 * @fd is not open or not a /dev/ioasid, -ENOENT the file has no such number,
 * -ESHUTDOWN it is PARKED.
 */
struct ioasid *ioasid_fd_get(int fd, u32 id, enum ioasid_user user,
			     struct ioasid_tracker *tracker)
{
	struct ioasid_ctx *ctx;
	struct ioasid *ioasid;

	CLASS(fd, f)(fd);
	if (!fd_file(f) || fd_file(f)->f_op != &ioasid_fops)
		return ERR_PTR(-EBADF);

	ctx = fd_file(f)->private_data;
	ioasid = ioasid_owner_find_get(ctx->owner, id);
	if (!IS_ERR(ioasid))
		ioasid_add_user(ioasid, user, tracker);
	return ioasid;
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

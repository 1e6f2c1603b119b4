// SPDX-License-Identifier: GPL-2.0-only
/*
 * IOASID: debugfs and fdinfo
 */

#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/minmax.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "ioasid.h"

/*
 * Show user references by kind, as "mdev=1,kvm=2". References taken with plain
 * ioasid_get() are shown as "other", and no references as "-". The counts are
 * not a consistent snapshot.
 */
void ioasid_show_users(struct seq_file *s, const struct ioasid *ioasid)
{
	static const char * const names[IOASID_USER_KINDS] = {
		[IOASID_USER_DRIVER] = "driver",
		[IOASID_USER_MDEV] = "mdev",
		[IOASID_USER_KVM] = "kvm",
	};
	int other = ioasid_users(ioasid);
	enum ioasid_user user;
	const char *sep = "";
	int count;

	for (user = 0; user < IOASID_USER_KINDS; user++) {
		count = atomic_read(&ioasid->users[user]);
		if (!count)
			continue;
		seq_printf(s, "%s%s=%d", sep, names[user], count);
		sep = ",";
		other -= count;
	}
	if (other > 0)
		seq_printf(s, "%sother=%d", sep, other);
	else if (!*sep)
		seq_putc(s, '-');
}

/* Limit the number of ranges and lines, so that reading fdinfo stays cheap */
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

/* Show the PASIDs of @account that are in @state, as "1-3,7" */
static void ioasid_show_ids(struct seq_file *s, struct ioasid_account *account,
			    u32 state)
{
	u32 first = 0, last = 0, nr = 0;
	struct ioasid *ioasid;

	spin_lock(&account->lock);
	ioasid_account_for_each(ioasid, account) {
		if (nr > IOASID_FDINFO_RANGES)
			break;
		if (READ_ONCE(ioasid->state) != state)
			continue;
		if (first && ioasid->id != last + 1) {
			ioasid_show_range(s, nr++, first, last);
			first = 0;
		}
		if (!first)
			first = ioasid->id;
		last = ioasid->id;
	}
	spin_unlock(&account->lock);
	if (first)
		ioasid_show_range(s, nr, first, last);
	seq_putc(s, '\n');
}

/* Show the holders of each parked IOASID of this file, one per line */
static void ioasid_show_parked_users(struct seq_file *s,
				     struct ioasid_account *account)
{
	struct ioasid *ioasid;
	unsigned int nr = 0;

	spin_lock(&account->lock);
	ioasid_account_for_each(ioasid, account) {
		if (nr == IOASID_FDINFO_LINES)
			break;
		if (ioasid_is_active(ioasid))
			continue;
		seq_printf(s, "ioasid-parked-users:\t%u ", ioasid->id);
		ioasid_show_users(s, ioasid);
		seq_putc(s, '\n');
		nr++;
	}
	spin_unlock(&account->lock);
}

/* fdinfo of a /dev/ioasid file: its account and the counts of its set */
void ioasid_show_account(struct seq_file *s, struct ioasid_account *account)
{
	u32 quota, active, parked;
	int set_used, set_parked;

	spin_lock(&account->lock);
	quota = account->quota;
	active = account->used - account->parked;
	parked = account->parked;
	spin_unlock(&account->lock);
	seq_printf(s, "ioasid-quota:\t%u\n", quota);
	seq_printf(s, "ioasid-active:\t%u\n", active);
	seq_printf(s, "ioasid-parked:\t%u\n", parked);
	/* Sampled separately: the difference may be negative for a moment */
	set_parked = atomic_read(&account->set->parked);
	set_used = atomic_read(&account->set->used);
	seq_printf(s, "ioasid-set-active:\t%d\n",
		   max(set_used - set_parked, 0));
	seq_printf(s, "ioasid-set-parked:\t%d\n", max(set_parked, 0));
	seq_printf(s, "ioasid-owner:\tfile-%llu\n", account->owner);
	seq_puts(s, "ioasid-active-ids:\t");
	ioasid_show_ids(s, account, IOASID_STATE_ACTIVE);
	seq_puts(s, "ioasid-parked-ids:\t");
	ioasid_show_ids(s, account, IOASID_STATE_PARKED);
	ioasid_show_parked_users(s, account);
}

/* List all IOASIDs with their state and holders */
static int ioasid_debugfs_show(struct seq_file *s, void *unused)
{
	struct ioasid *ioasid;
	u64 owner;
	u32 id;

	seq_puts(s, "id state users attachments owner holders\n");
	rcu_read_lock();
	ioasid_for_each(ioasid, id) {
		seq_printf(s, "%u %s %u %u ", id,
			   ioasid_is_active(ioasid) ? "active" : "parked",
			   ioasid_users(ioasid),
			   READ_ONCE(ioasid->nr_attached));
		owner = ioasid->account->owner;
		if (owner == IOASID_OWNER_KERNEL)
			seq_puts(s, "kernel ");
		else
			seq_printf(s, "file-%llu ", owner);
		ioasid_show_users(s, ioasid);
		seq_putc(s, '\n');
	}
	rcu_read_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(ioasid_debugfs);

/* Show where the users of each parked IOASID took their references */
static int ioasid_refs_show(struct seq_file *s, void *unused)
{
	char *buf __free(kvfree) = kvmalloc(SZ_16K, GFP_KERNEL);
	struct ioasid *ioasid;
	int len;
	u32 id;

	if (!buf)
		return -ENOMEM;

	rcu_read_lock();
	ioasid_for_each(ioasid, id) {
		if (ioasid_is_active(ioasid))
			continue;
		len = ioasid_tracker_snprint(ioasid, buf, SZ_16K);
		if (len) {
			seq_printf(s, "PASID %u\n", id);
			seq_write(s, buf, len);
		}
	}
	rcu_read_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(ioasid_refs);

static int __init ioasid_debugfs_init(void)
{
	struct dentry *dir = debugfs_create_dir("ioasid", NULL);

	debugfs_create_file("ioasids", 0400, dir, NULL, &ioasid_debugfs_fops);
	if (IS_ENABLED(CONFIG_IOASID_REF_TRACKER))
		debugfs_create_file("refs", 0400, dir, NULL,
				    &ioasid_refs_fops);
	return 0;
}
subsys_initcall(ioasid_debugfs_init);

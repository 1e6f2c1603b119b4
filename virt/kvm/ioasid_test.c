// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for in-kernel users of the KVM-IOASID device
 *
 * The IOASIDs are real. The struct kvm is a mock with only those members that
 * the device uses. For tests of the user space interface with real virtual
 * machines, see tools/testing/selftests/ioasid/ioasid_kvm.c.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/sched/mm.h>

struct kvm_ioasid_fixture {
	struct kvm *kvm;
	struct kvm_device *dev;
	struct mm_struct *mm;
	struct ioasid_set *set;
	struct ioasid *ioasid;
	struct ioasid *other;
};

static int kvm_ioasid_test_init(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix;

	fix = kunit_kzalloc(test, sizeof(*fix), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix);
	test->priv = fix;

	fix->kvm = kvzalloc(sizeof(*fix->kvm), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix->kvm);
	mutex_init(&fix->kvm->lock);
	fix->kvm->mm = current->mm;
	/* Freed by the device */
	fix->dev = kzalloc(sizeof(*fix->dev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fix->dev);
	fix->dev->kvm = fix->kvm;
	fix->mm = mm_alloc();
	KUNIT_ASSERT_NOT_NULL(test, fix->mm);
	fix->set = ioasid_set_get_mm(fix->mm);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, fix->set);
	fix->ioasid = ioasid_alloc(fix->set, 1, 0xfffff);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, fix->ioasid);
	fix->other = ioasid_alloc(fix->set, 1, 0xfffff);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, fix->other);
	return 0;
}

static void kvm_ioasid_test_exit(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	if (fix->ioasid)
		ioasid_free(fix->ioasid);
	ioasid_free(fix->other);
	ioasid_set_put(fix->set);
	mmput(fix->mm);
	mutex_destroy(&fix->kvm->lock);
	kvfree(fix->kvm);
}

static int kvm_ioasid_test_create_dev(struct kvm_device *dev)
{
	guard(mutex)(&dev->kvm->lock);
	return kvm_ioasid_create(dev, KVM_DEV_TYPE_IOASID);
}

static void kvm_ioasid_test_create(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_create_dev(fix->dev), 0);
}

static int kvm_ioasid_test_insert(struct kvm_device *dev, struct ioasid *ioasid,
				  u32 guest_pasid, bool replace)
{
	struct kvm_ioasid_mapping *mapping;

	mapping = kzalloc(sizeof(*mapping), GFP_KERNEL);
	if (!mapping)
		return -ENOMEM;
	ioasid_user_get(ioasid, IOASID_USER_KVM, &mapping->ref);
	return kvm_ioasid_insert(dev->private, guest_pasid, mapping, replace);
}

/* Map @guest_pasid to the IOASID of the fixture */
static int kvm_ioasid_test_map(struct kunit *test, u32 guest_pasid)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	return kvm_ioasid_test_insert(fix->dev, fix->ioasid, guest_pasid,
				      false);
}

/* Park the IOASID of the fixture and return its PASID */
static u32 kvm_ioasid_test_park(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct ioasid *ioasid = fix->ioasid;
	u32 id = ioasid_id(ioasid);

	fix->ioasid = NULL;
	ioasid_free(ioasid);
	return id;
}

/* Whether the parked IOASID was recycled. If so, allocates its PASID again. */
static bool kvm_ioasid_test_is_recycled(struct kunit *test, u32 id)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct ioasid *ioasid = ioasid_alloc(fix->set, id, id);

	if (IS_ERR(ioasid))
		return false;
	fix->ioasid = ioasid;
	return true;
}

/* Same, but waits for users that will release it soon */
static bool kvm_ioasid_test_wait_recycled(struct kunit *test, u32 id)
{
	int tries;

	rcu_barrier();
	for (tries = 0; tries < 500; tries++) {
		if (kvm_ioasid_test_is_recycled(test, id))
			return true;
		msleep(20);
	}
	return false;
}

/* The PASID that @guest_pasid is mapped to, or 0 */
static u32 kvm_ioasid_test_id(struct kvm *kvm, u32 guest_pasid)
{
	struct ioasid *ioasid;

	guard(rcu)();
	ioasid = kvm_ioasid_lookup(kvm, guest_pasid);
	return ioasid ? ioasid_id(ioasid) : 0;
}

static void lookup_without_device_finds_nothing(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), 0);
	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), 0);
	kvm_ioasid_destroy(fix->dev);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), 0);
}

/* KVM_CREATE_DEVICE fails after kvm_ioasid_create(): no free descriptor */
static void failed_creation_leaves_no_device(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	kvm_ioasid_test_create(test);
	kvm_ioasid_destroy(fix->dev);
	KUNIT_EXPECT_NULL(test, rcu_access_pointer(fix->kvm->ioasid));
}

static void lookup_finds_what_is_mapped(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	u32 id = ioasid_id(fix->ioasid);

	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 0), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 0xfffff), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 0), -EEXIST);

	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), id);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0xfffff), id);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 1), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, U32_MAX), 0);

	KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 0), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 0), -ENOENT);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0xfffff), id);
	kvm_ioasid_destroy(fix->dev);
}

static void vm_has_one_device(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_device second = { .kvm = fix->kvm };

	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_create_dev(&second), -EBUSY);
	kvm_ioasid_destroy(fix->dev);
}

/* Otherwise, the guest would fault while still using the PASID */
static void lookup_finds_what_is_parked(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	u32 id;

	kvm_ioasid_test_create(test);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_map(test, 7), 0);
	id = kvm_ioasid_test_park(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 7), id);

	KUNIT_EXPECT_FALSE(test, kvm_ioasid_test_is_recycled(test, id));
	kvm_ioasid_destroy(fix->dev);
	KUNIT_EXPECT_TRUE(test, kvm_ioasid_test_is_recycled(test, id));
}

static void replace_releases_the_old_ioasid(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	u32 id, other = ioasid_id(fix->other);

	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 7), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_insert(fix->dev, fix->other, 7,
						     true), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 7), other);
	id = kvm_ioasid_test_park(test);
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, kvm_ioasid_test_is_recycled(test, id));

	/* Without a mapping, one is added */
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_insert(fix->dev, fix->other, 8,
						     true), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 8), other);
	kvm_ioasid_destroy(fix->dev);
}

static void clear_deletes_all_mappings(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	u32 i, id;

	kvm_ioasid_test_create(test);
	for (i = 0; i < 200; i++)
		KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, i * 97), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 0xfffff), 0);
	kvm_ioasid_clear(fix->dev->private);
	for (i = 0; i < 200; i++)
		KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, i * 97), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 0xfffff), 0);
	id = kvm_ioasid_test_park(test);
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, kvm_ioasid_test_is_recycled(test, id));
	kvm_ioasid_destroy(fix->dev);
}

/* References for modules */

static int kvm_ioasid_test_get(struct kvm *kvm, u32 guest_pasid,
			       struct ioasid_ref *ref)
{
	return kvm_ioasid_get(kvm, guest_pasid, IOASID_USER_MDEV, ref);
}

/* Returns the error of kvm_ioasid_get(), or 0 on success */
static int kvm_ioasid_test_try_get(struct kvm *kvm, u32 guest_pasid)
{
	struct ioasid_ref ref;
	int ret;

	ret = kvm_ioasid_test_get(kvm, guest_pasid, &ref);
	if (!ret)
		ioasid_user_put(&ref);
	return ret;
}

static void get_of_an_unmapped_guest_pasid_is_enoent(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 0), -ENOENT);
	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 0), -ENOENT);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 7), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 6), -ENOENT);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 0x100007),
			-ENOENT);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, U32_MAX),
			-ENOENT);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 7), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 7), -ENOENT);
	kvm_ioasid_destroy(fix->dev);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 7), -ENOENT);
}

/* For example, after exec */
static void get_for_another_mm_is_enoent(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 7), 0);
	fix->kvm->mm = fix->mm;
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 7), -ENOENT);
	/* vCPUs have the mm of the VM */
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 7),
			ioasid_id(fix->ioasid));
	fix->kvm->mm = current->mm;
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 7), 0);
	kvm_ioasid_destroy(fix->dev);
}

/* Invariant users-keep */
static void get_of_a_parked_ioasid_is_eshutdown(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	u32 id;

	kvm_ioasid_test_create(test);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_map(test, 7), 0);
	id = kvm_ioasid_test_park(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_try_get(fix->kvm, 7), -ESHUTDOWN);

	/* The attempt did not leak a reference */
	KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 7), 0);
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, kvm_ioasid_test_is_recycled(test, id));
	kvm_ioasid_destroy(fix->dev);
}

static void reference_outlives_the_mapping(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct ioasid_ref ref;
	u32 id;

	kvm_ioasid_test_create(test);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_map(test, 7), 0);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_get(fix->kvm, 7, &ref), 0);
	KUNIT_ASSERT_PTR_EQ(test, ref.ioasid, fix->ioasid);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 7), 0);
	kvm_ioasid_destroy(fix->dev);
	rcu_barrier();

	id = kvm_ioasid_test_park(test);
	KUNIT_EXPECT_FALSE(test, kvm_ioasid_test_is_recycled(test, id));
	KUNIT_EXPECT_EQ(test, ioasid_id(ref.ioasid), id);
	ioasid_user_put(&ref);
	KUNIT_EXPECT_TRUE(test, kvm_ioasid_test_is_recycled(test, id));
}

/* KVM moves an encrypted VM within the host: the source is dead afterwards */
static void moved_vm_keeps_its_references_until_it_is_destroyed(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_device *dev;
	struct kvm *target;
	u32 id;

	target = kvzalloc(sizeof(*target), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, target);
	/* Freed by the device */
	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, dev);
	mutex_init(&target->lock);
	dev->kvm = target;

	kvm_ioasid_test_create(test);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 7), 0);
	fix->kvm->vm_dead = true;

	/* The target has a device and mappings of its own */
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_create_dev(dev), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(target, 7), 0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_insert(dev, fix->other, 7, false),
			0);
	KUNIT_EXPECT_EQ(test, kvm_ioasid_test_id(fix->kvm, 7),
			ioasid_id(fix->ioasid));
	kvm_ioasid_destroy(dev);

	id = kvm_ioasid_test_park(test);
	rcu_barrier();
	KUNIT_EXPECT_FALSE(test, kvm_ioasid_test_is_recycled(test, id));
	kvm_ioasid_destroy(fix->dev);
	KUNIT_EXPECT_TRUE(test, kvm_ioasid_test_is_recycled(test, id));
	mutex_destroy(&target->lock);
	kvfree(target);
}

/* Races */

struct kvm_ioasid_reader {
	struct kvm *kvm;
	u32 ids[2];
	unsigned long found[2];
	unsigned long missed;
	unsigned long wrong;
};

static void kvm_ioasid_reader_count(struct kvm_ioasid_reader *reader, u32 id)
{
	if (!id)
		WRITE_ONCE(reader->missed, reader->missed + 1);
	else if (id == reader->ids[0])
		WRITE_ONCE(reader->found[0], reader->found[0] + 1);
	else if (id == reader->ids[1])
		WRITE_ONCE(reader->found[1], reader->found[1] + 1);
	else
		reader->wrong++;
}

static int kvm_ioasid_reader_fn(void *arg)
{
	struct kvm_ioasid_reader *reader = arg;
	struct ioasid_ref ref;
	int ret;

	while (!kthread_should_stop()) {
		kvm_ioasid_reader_count(reader,
					kvm_ioasid_test_id(reader->kvm, 5));

		ret = kvm_ioasid_test_get(reader->kvm, 5, &ref);
		if (!ret) {
			kvm_ioasid_reader_count(reader, ioasid_id(ref.ioasid));
			ioasid_user_put(&ref);
		} else if (ret == -ENOENT) {
			kvm_ioasid_reader_count(reader, 0);
		} else if (ret != -ESHUTDOWN) {
			reader->wrong++;
		}
		cond_resched();
	}
	return 0;
}

/* KASAN would report if a mapping or IOASID is used after free */
static void lookup_races_with_unmap_and_recycle(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_ioasid_reader reader = {
		.kvm = fix->kvm,
		.ids = { ioasid_id(fix->ioasid) },
	};
	struct task_struct *task;
	int round;
	u32 id;

	kvm_ioasid_test_create(test);
	task = kthread_run(kvm_ioasid_reader_fn, &reader, "kvm-ioasid-test");
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));

	for (round = 0; round < 10000; round++) {
		KUNIT_EXPECT_EQ(test, kvm_ioasid_test_map(test, 5), 0);
		id = round % 16 ? 0 : kvm_ioasid_test_park(test);
		KUNIT_EXPECT_EQ(test, kvm_ioasid_erase(fix->dev->private, 5),
				0);
		if (id && !kvm_ioasid_test_wait_recycled(test, id)) {
			KUNIT_FAIL(test, "the number was not recycled");
			break;
		}
		if (round > 100 && READ_ONCE(reader.found[0]) &&
		    READ_ONCE(reader.missed))
			break;
		cond_resched();
	}
	kthread_stop(task);
	KUNIT_EXPECT_GT(test, reader.found[0], 0);
	KUNIT_EXPECT_GT(test, reader.missed, 0);
	KUNIT_EXPECT_EQ(test, reader.found[1], 0);
	KUNIT_EXPECT_EQ(test, reader.wrong, 0);
	kvm_ioasid_destroy(fix->dev);
}

static void replace_is_atomic_for_lookups(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_ioasid_reader reader = {
		.kvm = fix->kvm,
		.ids = { ioasid_id(fix->ioasid), ioasid_id(fix->other) },
	};
	struct task_struct *task;
	struct ioasid *ioasid;
	int round;

	kvm_ioasid_test_create(test);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_map(test, 5), 0);
	task = kthread_run(kvm_ioasid_reader_fn, &reader, "kvm-ioasid-test");
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));

	for (round = 0; round < 20000; round++) {
		ioasid = round % 2 ? fix->ioasid : fix->other;
		KUNIT_EXPECT_EQ(test, kvm_ioasid_test_insert(fix->dev, ioasid,
							     5, true), 0);
		if (round > 2000 && READ_ONCE(reader.found[0]) > 100 &&
		    READ_ONCE(reader.found[1]) > 100)
			break;
		cond_resched();
	}
	kthread_stop(task);
	KUNIT_EXPECT_GT(test, reader.found[0], 0);
	KUNIT_EXPECT_GT(test, reader.found[1], 0);
	KUNIT_EXPECT_EQ(test, reader.missed, 0);
	KUNIT_EXPECT_EQ(test, reader.wrong, 0);
	kvm_ioasid_destroy(fix->dev);
}

/*
 * A vCPU between looking up a PASID and using it. It continues when @removed is
 * set. The removal must not wait for the vCPU, which gives up before RCU
 * complains.
 */
struct kvm_ioasid_holder {
	struct kvm *kvm;
	struct completion found;
	struct completion left;
	bool removed;
	bool gave_up;
	int error;
};

#define KVM_IOASID_TEST_GIVE_UP	(15 * HZ)

static int kvm_ioasid_holder_fn(void *arg)
{
	unsigned long end = jiffies + KVM_IOASID_TEST_GIVE_UP;
	struct kvm_ioasid_holder *holder = arg;
	struct ioasid *ioasid;

	scoped_guard(rcu) {
		ioasid = kvm_ioasid_lookup(holder->kvm, 5);
		complete(&holder->found);
		/* Pairs with the release after the removal */
		while (!smp_load_acquire(&holder->removed)) {
			if (time_after(jiffies, end)) {
				WRITE_ONCE(holder->gave_up, true);
				break;
			}
			cpu_relax();
		}
		/* -ESHUTDOWN: parked and referenced, -ENOENT: not referenced */
		if (ioasid)
			holder->error = PTR_ERR_OR_ZERO(ioasid_tryget(ioasid));
	}
	complete(&holder->left);
	while (!kthread_should_stop())
		msleep(20);
	return 0;
}

/* Call @remove for the mapping of guest PASID 5 while a vCPU uses it */
static void kvm_ioasid_test_remove(struct kunit *test,
				   int (*remove)(struct kunit *test))
{
	struct kvm_ioasid_fixture *fix = test->priv;
	struct kvm_ioasid_holder holder = { .kvm = fix->kvm };
	struct task_struct *task;
	u32 id;

	/* Without preemption, the holder would never be scheduled away */
	if (!IS_ENABLED(CONFIG_PREEMPT_RCU) && num_online_cpus() == 1) {
		kfree(fix->dev);
		kunit_skip(test, "needs preemptible RCU or a second CPU");
	}

	init_completion(&holder.found);
	init_completion(&holder.left);
	kvm_ioasid_test_create(test);
	KUNIT_ASSERT_EQ(test, kvm_ioasid_test_map(test, 5), 0);
	id = kvm_ioasid_test_park(test);
	task = kthread_run(kvm_ioasid_holder_fn, &holder, "kvm-ioasid-test");
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));

	wait_for_completion(&holder.found);
	KUNIT_EXPECT_EQ(test, remove(test), 0);
	KUNIT_EXPECT_NE(test, kvm_ioasid_test_id(fix->kvm, 5), id);
	KUNIT_EXPECT_FALSE(test, READ_ONCE(holder.gave_up));
	/* What the removal released is visible to the holder */
	smp_store_release(&holder.removed, true);

	wait_for_completion(&holder.left);
	KUNIT_EXPECT_EQ(test, holder.error, -ESHUTDOWN);
	rcu_barrier();
	KUNIT_EXPECT_TRUE(test, kvm_ioasid_test_is_recycled(test, id));
	kthread_stop(task);
	kvm_ioasid_destroy(fix->dev);
}

static int kvm_ioasid_test_del(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	return kvm_ioasid_erase(fix->dev->private, 5);
}

static void del_keeps_the_reference_of_lookups_without_waiting(struct kunit *test)
{
	kvm_ioasid_test_remove(test, kvm_ioasid_test_del);
}

static int kvm_ioasid_test_clear(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	kvm_ioasid_clear(fix->dev->private);
	return 0;
}

static void clear_keeps_the_reference_of_lookups_without_waiting(struct kunit *test)
{
	kvm_ioasid_test_remove(test, kvm_ioasid_test_clear);
}

static int kvm_ioasid_test_replace(struct kunit *test)
{
	struct kvm_ioasid_fixture *fix = test->priv;

	return kvm_ioasid_test_insert(fix->dev, fix->other, 5, true);
}

static void replace_keeps_the_reference_of_lookups_without_waiting(struct kunit *test)
{
	kvm_ioasid_test_remove(test, kvm_ioasid_test_replace);
}

static struct kunit_case kvm_ioasid_cases[] = {
	KUNIT_CASE(lookup_without_device_finds_nothing),
	KUNIT_CASE(failed_creation_leaves_no_device),
	KUNIT_CASE(lookup_finds_what_is_mapped),
	KUNIT_CASE(vm_has_one_device),
	KUNIT_CASE(lookup_finds_what_is_parked),
	KUNIT_CASE(replace_releases_the_old_ioasid),
	KUNIT_CASE(clear_deletes_all_mappings),
	KUNIT_CASE(get_of_an_unmapped_guest_pasid_is_enoent),
	KUNIT_CASE(get_for_another_mm_is_enoent),
	KUNIT_CASE(get_of_a_parked_ioasid_is_eshutdown),
	KUNIT_CASE(reference_outlives_the_mapping),
	KUNIT_CASE(moved_vm_keeps_its_references_until_it_is_destroyed),
	KUNIT_CASE(del_keeps_the_reference_of_lookups_without_waiting),
	KUNIT_CASE(clear_keeps_the_reference_of_lookups_without_waiting),
	KUNIT_CASE(replace_keeps_the_reference_of_lookups_without_waiting),
	KUNIT_CASE_SLOW(replace_is_atomic_for_lookups),
	KUNIT_CASE_SLOW(lookup_races_with_unmap_and_recycle),
	{}
};

static struct kunit_suite kvm_ioasid_suite = {
	.name = "kvm_ioasid",
	.init = kvm_ioasid_test_init,
	.exit = kvm_ioasid_test_exit,
	.test_cases = kvm_ioasid_cases,
};

kunit_test_suite(kvm_ioasid_suite);
